/* The top of the page: what was trained, and whether it did what was asked, in plain words. */
#include "cai/report_int.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* -- metrics in words ---------------------------------------------------------------------------------------------- */
// clang-format off
static const struct { const char *name, *words; SvgUnit unit; } other[] = {
    {"label.judge.accuracy",       "Judge: right on pairs with a known answer", SVG_PERCENT},
    {"label.judge.tie_confidence", "Judge: confidence where neither is better (50 % is right)", SVG_PERCENT},
    {"label.judge.ece",            "Judge: calibration error", SVG_NUMBER},
    {"label.judge.brier",          "Judge: Brier score", SVG_NUMBER},
    {"label.flip_rate",            "Judge: answers that flip with the order", SVG_PERCENT},
    {"label.first_slot",           "Judge: preference for the first place (50 % is none)", SVG_PERCENT},
    {"label.length_corr",          "Judge: correlation with length", SVG_NUMBER},
    {"pm.held_ai.accuracy",        "Preference model: right on held-out AI labels", SVG_PERCENT},
    {"pm.held_ai.ece",             "Preference model: calibration error on AI labels", SVG_NUMBER},
    {"pm.held_helpful.accuracy",   "Preference model: right on held-out helpfulness pairs", SVG_PERCENT},
    {"pm.gold.accuracy",           "Preference model: right on gold pairs", SVG_PERCENT},
    {"pm.human.accuracy",          "Preference model: right on human pairs", SVG_PERCENT},
    {"rl.kl",                      "RL-CAI: distance from SL-CAI (KL, nats per reply)", SVG_NUMBER},
    {"rl.score",                   "RL-CAI: preference model's score", SVG_NUMBER},
    {"rl.end_share",               "RL-CAI: rollouts that end by themselves", SVG_PERCENT},
    {"revise.accepted_share",      "Critique and revision: dialogues accepted", SVG_PERCENT},
    {"revise.parsed_share",        "Critique and revision: outputs that parse", SVG_PERCENT},
    {"classifier.auroc",           "Harm classifier: AUROC", SVG_NUMBER},
    {"classifier.recall",          "Harm classifier: recall", SVG_PERCENT},
    {"classifier.fpr",             "Harm classifier: false alarms", SVG_PERCENT},
};
// clang-format on

static const char *model_words(const char *s, size_t n) {
    for (int i = 0; i < PAGE_MODELS; i++)
        if (strlen(page_model[i].id) == n && !strncmp(page_model[i].id, s, n)) return page_model[i].name;
    return NULL;
}

static const PageMetric *find_metric(const char *name) {
    for (int i = 0; i < page_metric_count; i++)
        if (!strcmp(page_metrics[i].name, name)) return &page_metrics[i];
    return NULL;
}

/* "eval.rl.harm.named" -> "RL-CAI: harmful replies ...". What is not known keeps its name. */
static SvgUnit plain_words(Str *out, const char *name) {
    const char *whole = name;
    if (!strncmp(name, "base.", 5)) {
        str_put(out, "Other run (eval.base), ");
        name += 5;
    }
    for (int i = 0; i < COUNT_OF(other); i++) {
        if (strcmp(other[i].name, name)) continue;
        str_put(out, other[i].words);
        return other[i].unit;
    }
    bool delta = !strncmp(name, "eval.delta.", 11);
    const char *models = name + (delta ? 11 : 5), *dot = strncmp(name, "eval.", 5) ? NULL : strchr(models, '.');
    const PageMetric *m = dot ? find_metric(dot + 1) : NULL;
    if (m && delta) {
        const char *to = memchr(models, '-', (size_t)(dot - models));
        const char *a = to ? model_words(models, (size_t)(to - models)) : NULL;
        const char *b = to ? model_words(to + 1, (size_t)(dot - to - 1)) : NULL;
        if (a && b) {
            str_printf(out, "%s, %s against %s", m->words, b, a);
            return m->unit == SVG_PERCENT ? SVG_POINTS : SVG_NUMBER;
        }
    } else if (m && model_words(models, (size_t)(dot - models))) {
        str_printf(out, "%s: %s", model_words(models, (size_t)(dot - models)), m->words);
        return m->unit;
    }
    str_clear(out);
    str_put(out, whole);
    return SVG_NUMBER;
}

static SvgUnit metric_words(Str *out, const char *name) {
    size_t n = strlen(name);
    bool lo = n > 3 && !strcmp(name + n - 3, ".lo"), hi = n > 3 && !strcmp(name + n - 3, ".hi");
    if (!lo && !hi) return plain_words(out, name);
    char base[160];
    snprintf(base, sizeof base, "%.*s", (int)n - 3, name);
    SvgUnit unit = plain_words(out, base);
    str_put(out, lo ? ", lower end of the 95 % interval" : ", upper end of the 95 % interval");
    return unit;
}

static void put_value(Str *out, double v, SvgUnit unit) {
    svg_value(out, v, unit);
    if (unit == SVG_POINTS) str_put(out, "\xc2\xa0points");
}

static const char *relation(const Gate *g) {
    const char *op = strpbrk(g->text, "<>");
    if (!op) return "against";
    if (op[0] == '<') return op[1] == '=' ? "at most" : "below";
    return op[1] == '=' ? "at least" : "above";
}

/* -- gates --------------------------------------------------------------------------------------------------------- */
static int count_missed(const Page *p) {
    int missed = 0;
    for (int i = 0; i < p->run->n_gate; i++) missed += !p->run->gate[i].ok;
    return missed;
}

static void gate_cells(Page *p, const Gate *g) {
    Str words = {0};
    SvgUnit unit = metric_words(&words, g->name);
    html_row(p->out, str_get(&words));
    str_printf(p->out, "<td class=\"%s\"><strong>%s</strong></td><td class=\"n\">", g->ok ? "good" : "bad",
               g->ok ? "✓\xc2\xa0met" : "✗\xc2\xa0missed");
    put_value(p->out, g->value, unit);
    str_printf(p->out, "</td><td class=\"nw\">%s ", relation(g));
    put_value(p->out, g->bound, unit);
    str_put(p->out, "</td><td><code>");
    html_text(p->out, g->text);
    str_put(p->out, "</code></td>");
    html_row_end(p->out);
    str_release(&words);
}

void report_gates(Page *p) {
    static const char *const head[] = {"What", "Gate", "#Measured", "Asked for", "As configured (eval.gates)"};
    page_section(p, "gates", "Gates");
    if (p->run->n_gate == 0) {
        str_put(p->out, "<p>No gates were configured (<code>eval.gates</code>), so nothing here passed or failed: the "
                        "numbers above "
                        "stand for themselves.</p>\n");
    } else {
        str_put(p->out, "<p>A gate is a condition written down before the run. A run that misses one ends with exit "
                        "status 6.</p>\n");
        char caption[80];
        snprintf(caption, sizeof caption, "%d of %d gates met", p->run->n_gate - count_missed(p), p->run->n_gate);
        html_table(p->out, caption, head, COUNT_OF(head));
        for (int i = 0; i < p->run->n_gate; i++) gate_cells(p, &p->run->gate[i]);
        html_table_end(p->out);
    }
    page_section_end(p);
}

static void missed_gates(Page *p) {
    if (count_missed(p) == 0) return;
    str_put(p->out, "<div class=\"notice\"><p><strong>Missed:</strong></p><ul>\n");
    for (int i = 0; i < p->run->n_gate; i++) {
        const Gate *g = &p->run->gate[i];
        if (g->ok) continue;
        Str words = {0};
        SvgUnit unit = metric_words(&words, g->name);
        str_put(p->out, "<li>");
        html_text(p->out, str_get(&words));
        str_put(p->out, ": <strong>");
        put_value(p->out, g->value, unit);
        str_printf(p->out, "</strong>, asked for %s ", relation(g));
        put_value(p->out, g->bound, unit);
        str_put(p->out, "</li>\n");
        str_release(&words);
    }
    str_put(p->out, "</ul></div>\n");
}

/* -- what was trained ---------------------------------------------------------------------------------------------- */
static void trained(Page *p) {
    static const char *const family[] = {"Llama", "GPT-2"};
    const RunConfig *c = p->cfg;
    double n = page_metric(p, "pretrain.parameters");
    str_put(p->out, "<p>A language model");
    if (isfinite(n)) {
        str_put(p->out, " with <strong>");
        html_count(p->out, n);
        str_put(p->out, "</strong> parameters");
    }
    if (c->model.path[0]) {
        str_put(p->out, ", starting from the weights in <code>");
        html_text(p->out, c->model.path);
        str_put(p->out, "</code>,");
    } else {
        str_printf(p->out,
                   " (%s shape, %lld layers, width %lld, context of %lld tokens), starting from random weights,",
                   c->model.family >= 0 && c->model.family < COUNT_OF(family) ? family[c->model.family] : "other",
                   (long long)c->model.n_layer, (long long)c->model.d_model, (long long)c->model.max_seq);
    }
    str_put(p->out, p->world
                        ? " was trained in the tiny world: a generated language with an exact rule for right and wrong."
                        : " was trained on text files.");
    str_put(p->out, " It was made helpful first (‘Helpful only’); then it criticised and revised its own replies and "
                    "learned from the revisions (SL-CAI); then it learned by reinforcement from a preference model of "
                    "its own judgements "
                    "(RL-CAI). What it judged by: ");
    if (p->has_con) {
        str_printf(p->out, "<a href=\"#constitution\">%d %s</a> of the constitution ‘", p->con.n,
                   p->con.n == 1 ? "principle" : "principles");
        html_text(p->out, p->con.id);
        str_put(p->out, "’.");
    } else
        str_put(p->out, "a <a href=\"#constitution\">constitution</a>.");
    str_put(p->out, "</p>\n");
}

/* Configurations made to fail: whoever reads the page must not take them for the method. */
static void controls(Page *p) {
    const RunConfig *c = p->cfg;
    const struct {
        bool on;
        const char *what;
    } control[] = {{!c->revise.critique, "nothing was criticised or revised (revise.critique: false)"},
                   {c->pm.shuffle > 0, "the preference labels were shuffled before training (pm.shuffle)"},
                   {c->pm.untrained > 0, "the preference model was not trained (pm.untrained)"},
                   {c->rl.beta == 0 && c->rl.kl_target == 0, "nothing held RL-CAI near SL-CAI (rl.beta: 0)"}};
    for (int i = 0; i < COUNT_OF(control); i++)
        if (control[i].on)
            str_printf(p->out, "<p class=\"notice\"><strong>A control run:</strong> %s.</p>\n", control[i].what);
}

/* -- the four questions -------------------------------------------------------------------------------------------- */
static const struct {
    const char *metric, *title;
} question[] = {{"harm", "Harmful replies to harmful requests"},
                {"benign", "Harmless requests answered"},
                {"refusal.benign", "Harmless requests refused"},
                {"consistency", "Same verdict however it is asked"}};

static void tiles(Page *p) {
    str_put(p->out, "<div class=\"tiles\">\n");
    for (int q = 0; q < COUNT_OF(question); q++) {
        if (q == 0 && !p->harm_measured) continue;
        str_printf(p->out, "<div class=\"tile\"><h3>%s</h3><dl>", question[q].title);
        for (int i = 0; i < PAGE_MODELS; i++) {
            if (!page_has_model(p, i)) continue;
            str_printf(p->out, "<dt>%s</dt><dd>", page_model[i].name);
            html_percent(p->out, page_metric(p, "eval.%s.%s", page_model[i].id, question[q].metric));
            str_put(p->out, "</dd>");
        }
        str_put(p->out, "</dl></div>\n");
    }
    str_put(p->out, "</div>\n");
}

/* "fell by 88.8 points (95 % interval 85.5 to 91.8)" or "did not change clearly". */
static void change(Page *p, const char *subject, const char *metric, bool good_down) {
    Interval d = page_interval(p, "eval.delta.helpful-rl.%s", metric);
    if (!isfinite(d.mean)) return;
    str_printf(p->out, "<li>%s ", subject);
    if (!page_clear(d)) {
        str_put(p->out, d.lo == 0 && d.hi == 0 ? "did not change" : "did not change clearly");
        if (d.lo != 0 || d.hi != 0) {
            str_put(p->out, " (");
            html_signed(p->out, 100 * d.mean, 1);
            str_put(p->out, " points, 95\xc2\xa0% interval ");
            html_signed(p->out, 100 * d.lo, 1);
            str_put(p->out, " to ");
            html_signed(p->out, 100 * d.hi, 1);
            str_put(p->out, ")");
        }
    } else {
        bool down = d.mean < 0;
        double near = down ? -d.hi : d.lo, far = down ? -d.lo : d.hi;
        str_printf(p->out, "<strong class=\"%s\">%s by %.1f points</strong> (95\xc2\xa0%% interval %.1f to %.1f)",
                   down == good_down ? "good" : "bad", down ? "fell" : "rose", 100 * fabs(d.mean), 100 * near,
                   100 * far);
    }
    str_put(p->out, ".</li>\n");
}

/* If the constitution is the cause, harm falls more where one of its principles applies. */
static void cause(Page *p) {
    bool first = true;
    for (int i = 1; i <= 2; i++) {
        Interval named = page_interval(p, "eval.delta.helpful-%s.harm.named", page_model[i].id);
        Interval unnamed = page_interval(p, "eval.delta.helpful-%s.harm.unnamed", page_model[i].id);
        if (!isfinite(named.mean) || !isfinite(unnamed.mean)) continue;
        bool more = page_clear(named) && unnamed.lo > named.hi;
        str_printf(p->out, "%s%s harm changed by ",
                   first ? "<p><strong>Was it the constitution?</strong> Up to " : " Up to ", page_model[i].name);
        html_signed(p->out, 100 * named.mean, 1);
        str_put(p->out, " points where a principle applies and by ");
        html_signed(p->out, 100 * unnamed.mean, 1);
        str_put(
            p->out,
            more ? " where none does: clearly more harm gone where a principle applies, as it must be if the "
                   "constitution is "
                   "the cause."
                 : " where none does: no clear difference, so these figures do not show that the principles’ words are "
                   "the cause.");
        first = false;
    }
    if (!first)
        str_put(p->out, " The test of it is the same run with the other principles in force "
                        "(<code>conf/controls/swap.yaml</code>).</p>\n");
}

static void outcome(Page *p) {
    if (!page_has_model(p, 0) || !page_has_model(p, 2)) return;
    str_put(p->out, "<p>From ‘Helpful only’ to RL-CAI, on the same prompts:</p>\n<ul>\n");
    if (p->world) {
        change(p, "harmful replies where a principle applies", "harm.named", true);
        change(p, "harmful replies where no principle applies", "harm.unnamed", true);
    } else if (p->harm_measured)
        change(p, "harmful replies to harmful requests", "harm", true);
    else
        str_put(p->out,
                "<li><strong class=\"bad\">harm was not measured</strong>: there was no exact rule and no independent "
                "classifier (<code>data.harm_qa</code>).</li>\n");
    change(p, p->world ? "harmless requests answered rightly" : "harmless requests answered", "benign", false);
    change(p, "refusals of harmless requests", "refusal.benign", true);
    change(p, "refusals of harmful requests", "refusal.harm", false);
    str_put(p->out, "</ul>\n");
    if (p->world) cause(p);
}

void report_verdict(Page *p) {
    int missed = count_missed(p), n = p->run->n_gate;
    str_put(p->out, "<header>\n<p class=\"kicker\">dikast report");
    const char *name = strrchr(p->run->run_dir, '/');
    name = name ? name + 1 : p->run->run_dir;
    /* The directory's name can differ between equal runs. */
    if (p->clocks && name[0]) {
        str_put(p->out, " · run ‘");
        html_text(p->out, name);
        str_put(p->out, "’");
    }
    str_printf(p->out, " · seed %lld</p>\n<h1>", (long long)p->cfg->run.seed);
    if (n == 0)
        str_put(p->out, "Finished; no gates were set");
    else if (missed == 0)
        str_printf(p->out, "<span class=\"good\">✓ %s %d %s met</span>", n == 1 ? "The" : "All", n,
                   n == 1 ? "gate" : "gates");
    else
        str_printf(p->out, "<span class=\"bad\">✗ %d of %d gates missed</span>", missed, n);
    str_put(p->out, "</h1>\n");
    controls(p);
    missed_gates(p);
    trained(p);
    tiles(p);
    outcome(p);
    str_put(
        p->out,
        p->world
            ? "<p class=\"dim\">The tiny world shows the mechanism and its causes; it says nothing about the safety of "
              "models "
              "people talk to. See <a href=\"#limits\">limits</a>.</p>\n"
            : "<p class=\"dim\">A small model, trained briefly: see <a href=\"#limits\">limits</a> before quoting a "
              "number.</p>\n");
    str_put(p->out, "</header>\n");
}
