/* The story of one record: rows of every stage that speak of the same prompt, told in the order of the method. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/io.h"
#include "cai/pipeline.h"
#include "cai/report.h"
#include "cai/stage_util.h"

typedef struct {
    Str *out;
    const char *id;
    char prompt[256]; /* id of the prompt it is about; "" until known */
    const char *run_dir;
    int found;
    Str absent; /* what the run had and is there no more: a line each */
} Story;

static const char *text_of(const Json *row, const char *key) {
    const char *s = json_str(json_get(row, key), NULL);
    return s ? s : "";
}

static bool about(const Story *s, const Json *row) {
    return (s->prompt[0] && !strcmp(text_of(row, "prompt_id"), s->prompt)) || !strcmp(text_of(row, "prompt_id"), s->id);
}

static void learn_prompt(Story *s, const Json *row) {
    if (!s->prompt[0] && !strcmp(text_of(row, "id"), s->id))
        snprintf(s->prompt, sizeof s->prompt, "%s", text_of(row, "prompt_id"));
}

static bool find_prompt(void *ud, const Json *row, int line, Error *err) {
    (void)line, (void)err;
    learn_prompt(ud, row);
    return true;
}

static bool tell_prompt(void *ud, const Json *row, int line, Error *err) {
    Story *s = ud;
    (void)line, (void)err;
    const char *id = text_of(row, "id");
    if (strcmp(id, s->id) && strcmp(id, s->prompt)) return true;
    snprintf(s->prompt, sizeof s->prompt, "%s", id);
    str_printf(s->out, "prompt %s  (%s, %s, %s)\n  %s\n", id, text_of(row, "kind"), text_of(row, "category"),
               text_of(row, "split"), text_of(row, "prompt"));
    s->found++;
    return true;
}

static bool tell_revision(void *ud, const Json *row, int line, Error *err) {
    Story *s = ud;
    (void)line, (void)err;
    if (!about(s, row)) return true;
    str_printf(s->out, "\ndialogue %s: %s%s%s\n  reply     %s\n", text_of(row, "id"), text_of(row, "outcome"),
               strcmp(text_of(row, "reject"), "NONE") ? " " : "",
               strcmp(text_of(row, "reject"), "NONE") ? text_of(row, "reject") : "", text_of(row, "reply"));
    const Json *rounds = json_get(row, "rounds");
    for (int i = 0; i < json_len(rounds); i++) {
        const Json *q = json_at(rounds, i);
        bool violates = json_bool(json_get(q, "violates"), false);
        str_printf(s->out, "  principle %s (drawn with p %.3g)\n  critique  %s\n  verdict   %s (log-odds of ok %.2f)\n",
                   text_of(q, "principle"), json_num(json_get(q, "propensity"), 0), text_of(q, "critique"),
                   violates ? "violates" : "ok", json_num(json_get(q, "ok_odds"), 0));
        if (violates)
            str_printf(s->out, "  revision  %s\n  accepted  %s, P(better) %.2f\n", text_of(q, "revision"),
                       strcmp(text_of(q, "reject"), "NONE") ? text_of(q, "reject") : "yes",
                       json_num(json_get(q, "gate_p"), 0.5));
    }
    s->found++;
    return true;
}

static bool tell_pair(void *ud, const Json *row, int line, Error *err) {
    Story *s = ud;
    (void)line, (void)err;
    if (!about(s, row)) return true;
    str_printf(s->out, "\npair %s\n  a  %s\n  b  %s\n", text_of(row, "id"), text_of(row, "a"), text_of(row, "b"));
    s->found++;
    return true;
}

/* Labels name the pair "pr-<prompt>-<n>". */
static bool tell_label(void *ud, const Json *row, int line, Error *err) {
    Story *s = ud;
    (void)line, (void)err;
    const char *id = text_of(row, "id");
    size_t n = strlen(s->prompt);
    if (strcmp(id, s->id) && (n == 0 || strncmp(id, "pr-", 3) || strncmp(id + 3, s->prompt, n) || id[3 + n] != '-'))
        return true;
    double q = json_num(json_get(row, "q"), 0.5);
    str_printf(s->out, "\nlabel of %s: P(a better) %.3f%s\n", id, q,
               json_num(json_get(row, "weight"), 1) > 0 ? "" : ", abstained (TIE)");
    const Json *judged = json_get(row, "judged");
    for (int i = 0; i < json_len(judged); i++) {
        const Json *j = json_at(judged, i);
        str_printf(s->out, "  %-24s a first %+.2f, b first %+.2f (log-odds of the first)\n", text_of(j, "principle"),
                   json_num(json_get(j, "l_ab"), 0), json_num(json_get(j, "l_ba"), 0));
    }
    s->found++;
    return true;
}

static bool tell_rollout(void *ud, const Json *row, int line, Error *err) {
    Story *s = ud;
    (void)line, (void)err;
    if (!about(s, row)) return true;
    str_printf(s->out, "\nrollout %s, update %lld: score %.2f, KL %.2f\n  %s\n", text_of(row, "id"),
               (long long)json_int(json_get(row, "update"), 0), json_num(json_get(row, "score"), 0),
               json_num(json_get(row, "kl"), 0), text_of(row, "reply"));
    s->found++;
    return true;
}

static bool tell_reply(void *ud, const Json *row, int line, Error *err) {
    Story *s = ud;
    (void)line, (void)err;
    if (!about(s, row)) return true;
    str_printf(s->out, "  %-13s PM score %5.2f  %s\n", text_of(row, "verdict"), json_num(json_get(row, "score"), 0),
               text_of(row, "reply"));
    s->found++;
    return true;
}

static void note_absent(Story *s, const char *stage, const char *path) {
    char name[64];
    snprintf(name, sizeof name, "stage %s: ", stage);
    if (s->absent.n && strstr(s->absent.s, name)) return;
    str_printf(&s->absent, "not told, %s%s is not there\n", name, path);
}

/* always: a finished stage leaves the file whatever its configuration. */
static bool each(const Json *stages_json, const char *stage, const char *file, bool always, JsonlFn *fn, Story *s,
                 Error *err) {
    const Json *said = json_get(stages_json, stage);
    const char *state = json_str(json_get(said, "state"), NULL);
    bool done = state && !strcmp(state, "done");
    Str dir = {0}, path = {0};
    if (!json_get(said, "key")) return true;
    run_result_dir(&dir, s->run_dir, stage, said);
    path_join(&path, str_get(&dir), file);
    bool there = io_exists(str_get(&path)), ok = !there || jsonl_each(str_get(&dir), file, fn, s, err);
    if (done && !io_is_dir(str_get(&dir)))
        note_absent(s, stage, str_get(&dir));
    else if (done && always && !there)
        note_absent(s, stage, str_get(&path));
    str_release(&dir);
    str_release(&path);
    return ok;
}

static bool tell(Story *s, const Json *stages_json, Error *err) {
    static const struct {
        const char *stage, *file;
    } named[] = {{"revise", "revisions.jsonl"}, {"pairs", "pairs.jsonl"}, {"rl", "samples.jsonl"}};
    for (int i = 0; i < COUNT_OF(named); i++)
        if (!each(stages_json, named[i].stage, named[i].file, false, find_prompt, s, err)) return false;
    bool ok = each(stages_json, "prompts", "prompts.jsonl", true, tell_prompt, s, err) &&
              each(stages_json, "revise", "revisions.jsonl", true, tell_revision, s, err) &&
              each(stages_json, "pairs", "pairs.jsonl", true, tell_pair, s, err) &&
              each(stages_json, "label", "labels.jsonl", true, tell_label, s, err) &&
              each(stages_json, "rl", "samples.jsonl", false, tell_rollout, s, err);
    static const char *const model[] = {"helpful", "sl", "rl"};
    for (int i = 0; ok && i < COUNT_OF(model); i++) {
        char file[40];
        int before = s->found;
        size_t at = s->out->n;
        str_printf(s->out, "\nevaluation, model %s\n", model[i]);
        snprintf(file, sizeof file, "replies-%s.jsonl", model[i]);
        ok = each(stages_json, "eval", file, false, tell_reply, s, err);
        if (s->found == before) s->out->n = at, s->out->s[at] = 0;
    }
    return ok;
}

static bool newest_run(Str *out, const char *out_dir, Error *err) {
    char **name;
    int n;
    Str runs = {0}, path = {0};
    struct timespec best = {0, 0};
    path_join(&runs, out_dir, "runs");
    str_clear(out);
    if (!io_exists(str_get(&runs))) {
        error_set(err, ERR_IO, "%s: no such folder, so no run; 'dikast run CONF' makes one, --run names one elsewhere",
                  str_get(&runs));
        str_release(&runs);
        return false;
    }
    bool ok = io_list_dir(&name, &n, str_get(&runs), err);
    for (int i = 0; ok && i < n; i++) {
        struct stat st;
        str_clear(&path);
        str_printf(&path, "%s/%s/stages.json", str_get(&runs), name[i]);
        if (stat(str_get(&path), &st)) continue;
        struct timespec t = st.st_mtim;
        if (t.tv_sec < best.tv_sec || (t.tv_sec == best.tv_sec && t.tv_nsec < best.tv_nsec)) continue;
        best = t;
        str_clear(out);
        str_printf(out, "%s/%s", str_get(&runs), name[i]);
    }
    if (ok) io_free_list(name, n);
    if (ok && !out->n)
        ok = error_set(err, ERR_STATE, "no run below %s; start one with 'dikast run CONF'", str_get(&runs));
    str_release(&runs);
    str_release(&path);
    return ok;
}

bool pipeline_why(Str *out, const char *out_dir, const char *run_dir, const char *id, Error *err) {
    Str dir = {0}, path = {0};
    Json *root = NULL;
    Story s = {.out = out, .id = id};
    if (run_dir) str_put(&dir, run_dir);
    bool ok = run_dir || newest_run(&dir, out_dir, err);
    if (ok) {
        s.run_dir = str_get(&dir);
        path_join(&path, str_get(&dir), "stages.json");
        ok = (io_exists(str_get(&path)) ||
              error_set(err, ERR_CONFIG, "%s is no run directory: it has no stages.json; runs lie below out/runs",
                        str_get(&dir))) &&
             json_read_file(&root, str_get(&path), 0, err) && tell(&s, root, err);
    }
    if (ok && s.found == 0)
        ok = error_set(
            err, ERR_CONFIG,
            "no record '%s' in %s; ids stand in its stages' JSONL files, as red-000014 or rv-red-000014-0%s%s", id,
            str_get(&dir), s.absent.n ? ". " : "", str_get(&s.absent));
    if (ok && s.absent.n) str_printf(out, "\n%s", str_get(&s.absent));
    str_release(&s.absent);
    json_release(root);
    str_release(&dir);
    str_release(&path);
    return ok;
}
