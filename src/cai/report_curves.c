/* How training went: the series of every training stage's metrics.jsonl. Fields that begin with t_ are clocks and are
 * not drawn. */
#include "cai/report_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SERIES = 6 };
typedef struct {
    const char *key[MAX_SERIES];
    int n_key, n, cap;
    double *x, *y[MAX_SERIES];
} Series;

static bool add_row(void *ud, const Json *row, int number, Error *err) {
    Series *s = ud;
    (void)err;
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 256;
        s->x = mem_grow(s->x, (size_t)s->cap * sizeof *s->x);
        for (int k = 0; k < s->n_key; k++) s->y[k] = mem_grow(s->y[k], (size_t)s->cap * sizeof *s->y[k]);
    }
    s->x[s->n] = json_num(json_get(row, "step"), number);
    for (int k = 0; k < s->n_key; k++) s->y[k][s->n] = json_num(json_get(row, s->key[k]), NAN);
    s->n++;
    return true;
}

static void release(Series *s) {
    free(s->x);
    for (int k = 0; k < s->n_key; k++) free(s->y[k]);
}

static bool read(Series *s, const StageResult *stage, const char *file, Error *err) {
    Str path = {0};
    bool there = page_file(&path, stage, file);
    str_release(&path);
    return !there || jsonl_each(stage->dir, file, add_row, s, err);
}

static bool any_finite(const double *y, int n) {
    for (int i = 0; i < n; i++)
        if (isfinite(y[i])) return true;
    return false;
}

typedef struct {
    const char *stage, *key, *title, *x_name;
    int colour;
    bool guard; /* of guard.jsonl, the checks on prompts that are not trained on; else of metrics.jsonl */
} Curve;
// clang-format off
static const Curve curve[] = {
    {"pretrain",   "loss",      "Pre-training: loss, nats per token",                   "step",   0, false},
    {"helpful",    "loss",      "Helpful only: loss, nats per token",                   "step",   0, false},
    {"sl",         "loss",      "SL-CAI: loss, nats per token",                         "step",   1, false},
    {"pm",         "loss",      "Preference model: loss, nats per pair",                "step",   3, false},
    {"pm",         "accuracy",  "Preference model: training pairs ranked as labelled",  "step",   3, false},
    {"classifier", "loss",      "Harm classifier: loss, nats per reply",                "step",   4, false},
    {"rl",         "score",     "RL: preference model’s score, standard deviations", "update", 2, false},
    {"rl",         "kl",        "RL: KL to SL-CAI, nats per reply",                     "update", 2, false},
    {"rl",         "reward",    "RL: reward (score less the KL penalty)",               "update", 2, false},
    {"rl",         "entropy",   "RL: entropy of the policy, nats per token",            "update", 2, false},
    {"rl",         "end_share", "RL: share of replies that end by themselves",          "update", 2, false},
    {"rl",         "length",    "RL: length of replies, tokens",                        "update", 2, false},
    {"rl",         "proxy",     "RL, held-out prompts: preference model’s score",  "update", 3, true},
    {"rl",         "score",     "RL, held-out prompts: judge’s P(better than SL-CAI)", "update", 2, true},
    {"rl",         "kl",        "RL, held-out prompts: KL to SL-CAI, nats per reply",   "update", 2, true},
    {"rl",         "top4",      "RL, held-out prompts: share with the commonest four words", "update", 4, true},
    {"rl",         "refused",   "RL, held-out prompts: harmless requests refused",      "update", 4, true},
};
// clang-format on

static bool together(const Curve *a, const Curve *b) { return !strcmp(a->stage, b->stage) && a->guard == b->guard; }

/* All curves of one file are one reading of it; they stand together in curve[]. */
static bool draw_stage(Page *p, int from, int to, int *drawn, Error *err) {
    const StageResult *stage = page_stage(p, curve[from].stage);
    if (!stage) return true;
    Series s = {.n_key = to - from};
    for (int k = 0; k < s.n_key; k++) s.key[k] = curve[from + k].key;
    bool ok = read(&s, stage, curve[from].guard ? "guard.jsonl" : "metrics.jsonl", err);
    for (int k = 0; k < s.n_key && ok; k++) {
        const Curve *c = &curve[from + k];
        if (!any_finite(s.y[k], s.n)) continue;
        page_figure(p, c->title);
        svg_curve(p->out, c->title, c->x_name, s.x, s.y[k], s.n, c->colour);
        page_figure_end(p);
        ++*drawn;
    }
    release(&s);
    return ok;
}

/* -- rollouts ------------------------------------------------------------------------------------------------------ */
typedef struct {
    char *id, *prompt, *reply;
    int64_t update;
    double score, kl;
} Rollout;
typedef struct {
    Rollout *item;
    int n;
} Rollouts;

static void drop(Rollout *r) { free(r->id), free(r->prompt), free(r->reply); }

/* A resumed run repeats updates: the last row of an id counts. Only the first and the last update are kept. */
static bool add_rollout(void *ud, const Json *row, int number, Error *err) {
    Rollouts *all = ud;
    (void)number, (void)err;
    const char *id = json_str(json_get(row, "id"), NULL), *prompt = json_str(json_get(row, "prompt"), NULL),
               *reply = json_str(json_get(row, "reply"), NULL);
    if (!id || !prompt || !reply) return true;
    int at = 0;
    while (at < all->n && strcmp(all->item[at].id, id)) at++;
    if (at < all->n)
        drop(&all->item[at]);
    else
        all->item = mem_grow(all->item, (size_t)++all->n * sizeof *all->item);
    all->item[at] = (Rollout){mem_str(id),
                              mem_str(prompt),
                              mem_str(reply),
                              json_int(json_get(row, "update"), 0),
                              json_num(json_get(row, "score"), NAN),
                              json_num(json_get(row, "kl"), NAN)};
    return true;
}

static void put_update(Page *p, const Rollouts *r, int64_t update) {
    static const char *const head[] = {"Prompt", "Reply", "#Score", "#KL"};
    Str caption = {0};
    str_printf(&caption, "Rollouts of update %lld", (long long)update);
    html_table(p->out, str_get(&caption), head, COUNT_OF(head));
    for (int i = 0; i < r->n; i++) {
        if (r->item[i].update != update) continue;
        html_row(p->out, r->item[i].prompt);
        html_cell(p->out, r->item[i].reply);
        html_cell_number(p->out, r->item[i].score);
        html_cell_number(p->out, r->item[i].kl);
        html_row_end(p->out);
    }
    html_table_end(p->out);
    str_release(&caption);
}

static bool rollouts(Page *p, Error *err) {
    const StageResult *rl = page_stage(p, "rl");
    Str path = {0};
    Rollouts r = {0};
    bool ok =
        !rl || !page_file(&path, rl, "samples.jsonl") || jsonl_each(rl->dir, "samples.jsonl", add_rollout, &r, err);
    if (ok && r.n > 0) {
        int64_t first = r.item[0].update, last = first;
        for (int i = 0; i < r.n; i++) {
            if (r.item[i].update < first) first = r.item[i].update;
            if (r.item[i].update > last) last = r.item[i].update;
        }
        str_put(p->out,
                "<details><summary>Rollouts at the start and at the end of RL – may hold harmful text</summary>\n");
        put_update(p, &r, first);
        if (last != first) put_update(p, &r, last);
        str_put(p->out, "</details>\n");
    }
    for (int i = 0; i < r.n; i++) drop(&r.item[i]);
    free(r.item);
    str_release(&path);
    return ok;
}

/* What the guard did, beside its curves. */
static void guard_words(Page *p) {
    double stopped = page_metric(p, "rl.guard.stopped"), update = page_metric(p, "rl.guard.update");
    if (isnan(stopped)) return;
    str_printf(p->out,
               "<p>%d checks on held-out prompts against over-optimisation: ", (int)page_metric(p, "rl.guard.checks"));
    if (stopped > 0)
        str_printf(p->out,
                   "<strong>RL was stopped after update %d and the weights after update %d were put back</strong>; "
                   "the reason stands in events.jsonl.</p>\n",
                   (int)page_metric(p, "rl.updates"), (int)update);
    else
        str_put(p->out, "none stopped the run.</p>\n");
}

bool report_curves(Page *p, Error *err) {
    page_section(p, "curves", "Training curves");
    size_t start = p->out->n;
    str_printf(p->out,
               "<p>Longer series are drawn as means of %d equal parts, with their range as a band.</p>\n<div "
               "class=\"charts\">\n",
               SVG_POINTS_MAX);
    int drawn = 0;
    bool ok = true;
    for (int i = 0, k; i < COUNT_OF(curve) && ok; i = k) {
        for (k = i + 1; k < COUNT_OF(curve) && together(&curve[i], &curve[k]);) k++;
        ok = draw_stage(p, i, k, &drawn, err);
    }
    if (drawn > 0)
        str_put(p->out, "</div>\n");
    else {
        p->out->n = start;
        p->out->s[start] = 0;
        str_put(p->out, "<p>No stage of this run recorded a series.</p>\n");
    }
    guard_words(p);
    ok = ok && rollouts(p, err);
    page_section_end(p);
    return ok;
}
