/* The books: where every sample and token went, which machine did it in what time, and what it takes to do it again. */
#include "cai/goodput_file.h"
#include "cai/report_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"

/* -- ledger -------------------------------------------------------------------------------------------------------- */
static const char *text_of(const Json *row, const char *key) {
    const char *s = json_str(json_get(row, key), NULL);
    return s ? s : "";
}

static double sum_of(const Json *bins, const char *bin, const char *unit) {
    double sum = 0;
    for (int i = 0; i < json_len(bins); i++) {
        const Json *b = json_at(bins, i);
        if (!strcmp(text_of(b, "bin"), bin)) sum += json_num(json_get(b, unit), 0);
    }
    return sum;
}

/* "872 TIE, 3 DUP" */
static void put_reasons(Str *out, const Json *bins) {
    bool any = false;
    for (int i = 0; i < json_len(bins); i++) {
        const Json *b = json_at(bins, i);
        double n = json_num(json_get(b, "samples"), 0), tokens = json_num(json_get(b, "tokens"), 0);
        bool lost = !strcmp(text_of(b, "bin"), "dropped") || !strcmp(text_of(b, "bin"), "truncated");
        if (!lost || (n == 0 && tokens == 0)) continue;
        if (any) str_put(out, ", ");
        html_count(out, n > 0 ? n : tokens);
        str_put(out, n > 0 ? " " : " tokens ");
        html_text(out, text_of(b, "reason"));
        any = true;
    }
    if (!any) str_put(out, "–");
}

static void ledger_row(Page *p, const char *stage, const Json *root) {
    const Json *in = json_get(root, "in"), *bins = json_get(root, "bins");
    double samples = json_num(json_get(in, "samples"), 0), tokens = json_num(json_get(in, "tokens"), 0);
    if (samples == 0 && tokens == 0) return;
    html_row(p->out, stage);
    html_cell_count(p->out, samples);
    html_cell_count(p->out, sum_of(bins, "trained", "samples"));
    str_put(p->out, "<td>");
    put_reasons(p->out, bins);
    str_put(p->out, "</td>");
    /* Stages that generate or judge count records, not tokens. */
    html_cell_count(p->out, tokens > 0 ? tokens : NAN);
    html_cell_count(p->out, tokens > 0 ? sum_of(bins, "trained", "tokens") : NAN);
    html_cell_count(p->out, tokens > 0 ? sum_of(bins, "masked", "tokens") : NAN);
    html_cell_count(p->out, tokens > 0 ? sum_of(bins, "truncated", "tokens") : NAN);
    html_cell_count(p->out, tokens > 0 ? sum_of(bins, "dropped", "tokens") : NAN);
    html_row_end(p->out);
}

bool report_ledger(Page *p, Error *err) {
    static const char *const head[] = {"Stage",           "#Samples in",       "#Used",
                                       "Lost, by reason", "#Tokens in",        "#Tokens trained",
                                       "#Tokens masked",  "#Tokens truncated", "#Tokens dropped"};
    page_section(p, "ledger", "Where every sample went");
    str_put(p->out, "<p>Every sample and token ends in exactly one place; a stage whose books do not balance fails. "
                    "Masked: read, not "
                    "learned from (prompts). Stages that generate or judge count records only.</p>\n");
    html_table(p->out, "Samples and tokens by stage", head, COUNT_OF(head));
    Str path = {0};
    bool ok = true;
    for (int i = 0; i < p->run->n_stage && ok; i++) {
        const StageResult *s = page_stage(p, p->run->stage[i].name);
        Json *root = NULL;
        if (!s || !page_file(&path, s, "ledger.json")) continue;
        ok = json_read_file(&root, str_get(&path), 0, err);
        if (ok) ledger_row(p, s->name, root);
        json_release(root);
    }
    html_table_end(p->out);
    page_section_end(p);
    str_release(&path);
    return ok;
}

/* -- machine, times, configuration --------------------------------------------------------------------------------- */
typedef struct {
    double seconds, reused;
    bool machine;
} Times;

static void put_machine(Page *p, const Json *m) {
    str_put(p->out, "<p>Machine: ");
    html_text(p->out, text_of(m, "cpu"));
    str_put(p->out, "; backend <code>");
    html_text(p->out, text_of(m, "backend"));
    str_put(p->out, "</code>, instruction set <code>");
    html_text(p->out, text_of(m, "isa"));
    str_put(p->out, "</code>; dikast ");
    html_text(p->out, text_of(m, "dikast"));
    /* Results do not depend on the number of threads; times do. */
    if (p->clocks) html_textf(p->out, "; %lld threads", (long long)json_int(json_get(m, "threads"), 0));
    str_put(p->out, ".</p>\n");
}

static void put_time(Str *out, double seconds) {
    char s[32];
    if (!isfinite(seconds)) {
        str_put(out, "–");
        return;
    }
    format_time(s, seconds);
    html_text(out, s);
}

/* What the stage kept busy, as manifest.json's load says; a dash where nobody told. */
static void load_cells(Str *out, const Json *load) {
    double cpu = json_num(json_get(load, "cpu"), NAN), rss = json_num(json_get(load, "rss_mb"), NAN);
    double gpu = json_num(json_get(load, "gpu"), NAN), watts = json_num(json_get(load, "gpu_w"), NAN);
    str_put(out, "<td class=\"n\">");
    if (isfinite(cpu) && isfinite(rss))
        html_textf(out, "%.1f CPUs, %.2f GB", cpu, rss / 1e3);
    else
        str_put(out, "–");
    str_put(out, "</td><td class=\"n\">");
    if (isfinite(gpu))
        html_textf(out, "%.0f %%, %.1f GB, %.0f W", 100 * gpu, json_num(json_get(load, "gpu_mb"), 0) / 1e3, watts);
    else
        str_put(out, "–");
    str_put(out, "</td>");
}

static void stage_row(Page *p, const StageResult *s, const Json *manifest, Times *t) {
    double seconds = json_num(json_get(manifest, "seconds"), NAN);
    html_row(p->out, s->name);
    str_put(p->out, "<td><code>");
    html_text(p->out, s->key);
    str_put(p->out, "</code></td>");
    if (p->clocks) {
        str_put(p->out, "<td class=\"n\">");
        put_time(p->out, seconds);
        str_put(p->out, "</td>");
        load_cells(p->out, json_get(manifest, "load"));
        html_cell(p->out, text_of(manifest, "finished"));
        html_cell(p->out, s->cached ? "reused" : "made");
        if (isfinite(seconds)) t->seconds += seconds;
        if (isfinite(seconds) && s->cached) t->reused += seconds;
    }
    html_row_end(p->out);
}

static bool stage_table(Page *p, Times *t, Error *err) {
    static const char *const head[] = {"Stage", "Key", "#Time", "#Kept busy", "#GPU", "Finished", "In this run"};
    html_table(p->out, "Stages. A key is the hash of all that can change the stage’s result", head,
               p->clocks ? COUNT_OF(head) : 2);
    Str path = {0};
    bool ok = true;
    for (int i = 0; i < p->run->n_stage && ok; i++) {
        const StageResult *s = page_stage(p, p->run->stage[i].name);
        Json *root = NULL;
        if (!s) continue;
        if (page_file(&path, s, "manifest.json")) ok = json_read_file(&root, str_get(&path), 0, err);
        if (ok) stage_row(p, s, root, t);
        json_release(root);
    }
    html_table_end(p->out);
    str_release(&path);
    return ok;
}

/* The machine of the last stage that tells; all stages of a run are usually made on one. */
static bool machine(Page *p, Error *err) {
    Str path = {0};
    bool ok = true;
    for (int i = p->run->n_stage - 1; i >= 0; i--) {
        const StageResult *s = page_stage(p, p->run->stage[i].name);
        Json *root = NULL;
        if (!s || !page_file(&path, s, "manifest.json")) continue;
        ok = json_read_file(&root, str_get(&path), 0, err);
        if (ok) put_machine(p, json_get(root, "machine"));
        json_release(root);
        break;
    }
    str_release(&path);
    return ok;
}

/* The resolved configuration; without clocks only the keys that can change results, since paths and threads may differ
 * between equal runs. */
static void configuration(Page *p) {
    CfgKey *key = mem_alloc((size_t)(run_key_count + 1) * sizeof *key);
    int n = 0;
    for (int i = 0; i < run_key_count; i++)
        if (p->clocks || run_keys[i].scope == CFG_RESULT) key[n++] = run_keys[i];
    Str yaml = {0};
    config_dump(&yaml, p->cfg, key, n);
    str_put(
        p->out,
        "<p>To run it again: save the configuration below as <code>resolved.yaml</code> (it also lies beside this "
        "page), "
        "then</p>\n<pre>dikast run resolved.yaml</pre>\n<details><summary>Configuration, every key</summary>\n<pre>");
    html_text(p->out, str_get(&yaml));
    str_put(p->out, "</pre></details>\n");
    str_release(&yaml);
    free(key);
}

/* Where the ranks' time went: by clocks, so not on pages that are to be equal. */
static void goodput_table(Page *p) {
    static const char *const words[GOOD_BINS] = {[GOOD_PRODUCTIVE] = "productive",
                                                 [GOOD_SAVE] = "waiting for states to be saved",
                                                 [GOOD_LOST] = "lost: computed again after a failure",
                                                 [GOOD_DETECTION] = "until a failure was found",
                                                 [GOOD_RESTART] = "starting, and starting again",
                                                 [GOOD_DATA] = "making up data and waiting for it",
                                                 [GOOD_IDLE] = "idle: other ranks worked alone"};
    static const char *const head[] = {"Time of all ranks", "#Time", "#Share"};
    RunGoodput g;
    if (!p->clocks || !goodput_file_read(&g, p->run->run_dir)) return;
    int64_t all = goodput_total(&g.bins);
    html_table(p->out, "Where the time went; every second of every rank is in one row", head, COUNT_OF(head));
    for (int i = 0; i < GOOD_BINS; i++) {
        html_row(p->out, words[i]);
        str_put(p->out, "<td class=\"n\">");
        put_time(p->out, 1e-9 * (double)g.bins.ns[i]);
        str_put(p->out, "</td>");
        str_put(p->out, "<td class=\"n\">");
        html_textf(p->out, "%.1f %%", all > 0 ? 100.0 * (double)g.bins.ns[i] / (double)all : 0);
        str_put(p->out, "</td>");
        html_row_end(p->out);
    }
    html_table_end(p->out);
    str_put(p->out, "<p>");
    html_textf(p->out, "%d rank%s, ", g.ranks, g.ranks == 1 ? "" : "s");
    put_time(p->out, 1e-9 * (double)g.wall_ns);
    html_textf(p->out, " on the clock, %d start%s, %d failure%s. ", g.attempts, g.attempts == 1 ? "" : "s", g.faults,
               g.faults == 1 ? "" : "s");
    str_put(p->out, "The report itself, written last, is not in it.</p>\n");
}

bool report_machine(Page *p, Error *err) {
    Times t = {0};
    page_section(p, "machine", "The run: machine, times, how to repeat it");
    bool ok = machine(p, err) && stage_table(p, &t, err);
    if (ok && p->clocks) {
        str_put(p->out, "<p>All stages together: <strong>");
        put_time(p->out, t.seconds);
        str_put(p->out, "</strong>");
        if (t.reused > 0) {
            str_put(p->out, ", of which ");
            put_time(p->out, t.reused);
            str_put(p->out, " were spent by earlier runs with the same keys");
        }
        str_put(p->out, ".</p>\n");
    }
    goodput_table(p);
    configuration(p);
    page_section_end(p);
    return ok;
}
