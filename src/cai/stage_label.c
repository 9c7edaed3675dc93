/* AI feedback: the frozen helpful model, or a service (judge.kind), judges every pair under the label principles, both
 * orders, in log-odds.
 *
 *   l_p = (l_ab - l_ba)/2, clamped;  L = sum of w_p l_p within the deciding authority level;  q = sigmoid(L / T_cal),
 * cut to [1 - max_q, max_q]
 *
 * A level is undecided when |sum| < 0.2; then the next one down speaks (judge.c). Labels stay soft. A pair whose orders
 * disagree and whose q lies within label.abstain of 0.5 gets weight 0 (TIE), and so does one that no principle could
 * judge (CONTEXT, REFUSED, UNREADABLE): never a random label. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "cai/format.h"
#include "cai/judge_remote.h"
#include "cai/label_gates.h"
#include "cai/pair_rows.h"
#include "eval/stats.h"
#include "train/losses.h"

static const double REASONED_MAX_Q = 0.6; /* Bai et al. 2022, 4.1 */
static const double DECIDED = 0.2;        /* distance from 0.5 of what counts as decided in the summary */

typedef struct { /* one principle's judgements, and the judge under it against known answers */
    int judged, decided, flips, agree, n_label, gold, right;
    double first;
} PrincipleBooks;

typedef struct {
    const StageCtx *ctx;
    const StageText *text;
    Judge judge;
    PrincipleBooks books[64]; /* by principle */
    Constitution con;
    int label_principle[64], n_label; /* as many as a constitution may hold */
    double t_cal, max_q;
    double tested[64]; /* share of a principle's tests that the judge passes; with label.min_tests */
    int n_untrusted;   /* principles that label nothing for it */
    double *cross;     /* (n_label, n_label) sums of products of log-odds over pairs that all principles judged */
} Labeler;

static double clamp(double x, double to) { return x > to ? to : x < -to ? -to : x; }

static PairLabel combine(const Labeler *l, const Judged *j, const int *principle, int n) {
    const RunConfig *c = l->ctx->cfg;
    const Principle *of[COUNT_OF(l->label_principle)];
    for (int k = 0; k < n; k++) of[k] = &l->con.principle[principle[k]];
    PairLabel out = label_combine(j, of, n, c->label.clamp, l->t_cal, c->label.abstain);
    out.q = fmax(1 - l->max_q, fmin(l->max_q, out.q));
    return out;
}

/* Why a pair has no label; NULL: it has one. */
static const char *label_code(const PairLabel *l) {
    return l->weight > 0 ? NULL : l->level < 0 ? judge_miss_name(l->miss) : "TIE";
}

/* A judge that reads a principle gives each its own verdicts; one that has not learnt to gives several the same. */
static void book_cross(Labeler *l, const Judged *j, int n) {
    if (n < 2 || n != l->n_label) return;
    for (int k = 0; k < n; k++)
        if (!j[k].scored) return;
    for (int a = 0; a < n; a++)
        for (int b = 0; b < n; b++) l->cross[a * n + b] += judged_l(j[a]) * judged_l(j[b]);
}

/* Whether this principle alone says what the label says: counted where both are clear. */
static void book_principles(Labeler *l, const PairLabel *label, const Judged *j, const int *principle, int n) {
    for (int k = 0; k < n; k++) {
        PrincipleBooks *b = &l->books[principle[k]];
        double q = sigmoid(judged_l(j[k]) / l->t_cal);
        if (!j[k].scored) continue;
        b->judged++;
        b->first += ((j[k].l_ab > 0) + (j[k].l_ba > 0)) / 2.0;
        if (fabs(q - 0.5) < DECIDED) continue;
        b->decided++;
        b->flips += judged_flip(j[k]);
        if (fabs(label->uncut - 0.5) < DECIDED) continue;
        b->n_label++;
        b->agree += (q > 0.5) == (label->uncut > 0.5);
    }
}

static void label_json(Str *out, const PairRow *p, const PairLabel *l, const Judged *j, const int *principle, int n,
                       const Constitution *con) {
    JsonOut o;
    str_clear(out);
    json_out_init(&o, out, 0);
    json_out_obj(&o, NULL);
    json_out_str(&o, "id", p->id);
    json_out_num(&o, "q", l->q);
    json_out_num(&o, "weight", l->weight);
    json_out_str(&o, "code", label_code(l));
    json_out_bool(&o, "flip", l->flip);
    json_out_str(&o, "constitution", con->sha256);
    json_out_arr(&o, "judged");
    for (int k = 0; k < n; k++) {
        json_out_obj(&o, NULL);
        json_out_str(&o, "principle", con->principle[principle[k]].id);
        json_out_num(&o, "l_ab", j[k].scored ? j[k].l_ab : NAN);
        json_out_num(&o, "l_ba", j[k].scored ? j[k].l_ba : NAN);
        if (!j[k].scored) json_out_str(&o, "miss", judge_miss_name(j[k].miss));
        json_out_obj_end(&o);
    }
    json_out_arr_end(&o);
    json_out_obj_end(&o);
    str_putc(out, '\n');
}

/* All principles, or one drawn per pair. */
static int principles_for(const Labeler *l, const char *id, int *out) {
    if (l->ctx->cfg->label.ensemble) {
        memcpy(out, l->label_principle, (size_t)l->n_label * sizeof *out);
        return l->n_label;
    }
    out[0] = l->label_principle[rng_below((Rng){l->ctx->seed, RNG_PRINCIPLE}, stage_id(id), 0, (uint32_t)l->n_label)];
    return 1;
}

static JudgeItem judge_item(const Message *m, const PairRow *p, const Principle *pr, Str *text, Heap *heap) {
    principle_text(text, pr);
    return (JudgeItem){{m, 1}, p->a, p->b, principle_compare(pr), heap_strn(heap, str_get(text), text->n)};
}

enum { CHUNK = 256 };

static bool label_chunk(Labeler *l, const PairRow *pair, int n, PairLabel *label, Writer *w, Error *err) {
    int per = l->ctx->cfg->label.ensemble ? l->n_label : 1;
    JudgeItem *item = mem_alloc((size_t)(n * per) * sizeof *item);
    Judged *judged = mem_alloc((size_t)(n * per) * sizeof *judged);
    Message *msg = mem_alloc((size_t)n * sizeof *msg);
    int *principle = mem_alloc((size_t)(n * per) * sizeof *principle);
    Str line = {0};
    Heap rules = {0};
    for (int i = 0; i < n; i++) {
        msg[i] = (Message){ROLE_USER, pair[i].prompt};
        principles_for(l, pair[i].id, principle + i * per);
        for (int k = 0; k < per; k++)
            item[i * per + k] = judge_item(&msg[i], &pair[i], &l->con.principle[principle[i * per + k]], &line, &rules);
    }
    bool ok = judge_ask(&l->judge, judged, item, n * per, err);
    for (int i = 0; i < n && ok; i++) {
        label[i] = combine(l, judged + i * per, principle + i * per, per);
        book_principles(l, &label[i], judged + i * per, principle + i * per, per);
        book_cross(l, judged + i * per, per);
        label_json(&line, &pair[i], &label[i], judged + i * per, principle + i * per, per, &l->con);
        ok = writer_put(w, line.s, line.n, err);
        ledger_in(l->ctx->ledger, 1, 0);
        ledger_add(l->ctx->ledger, label[i].weight > 0 ? LEDGER_TRAINED : LEDGER_DROPPED, label_code(&label[i]), 1, 0);
    }
    str_release(&line);
    heap_release(&rules);
    free(item);
    free(judged);
    free(msg);
    free(principle);
    return ok;
}

static void report_labels(Summary *s, const PairRows *pairs, const PairLabel *label) {
    int decided = 0, flips = 0, ties = 0, missed[MISS_COUNT] = {0};
    double slot = 0;
    int n_slot = 0, n_len = 0;
    double *q = mem_alloc((size_t)(pairs->n + 1) * sizeof *q), *len = mem_alloc((size_t)(pairs->n + 1) * sizeof *len);
    for (int i = 0; i < pairs->n; i++) {
        bool clear = fabs(label[i].uncut - 0.5) >= DECIDED;
        decided += clear;
        flips += clear && label[i].flip;
        ties += label[i].weight == 0 && label[i].level >= 0;
        missed[label[i].miss]++;
        if (!isnan(label[i].first_slot)) slot += label[i].first_slot, n_slot++;
        if (!clear) continue;
        q[n_len] = label[i].uncut;
        len[n_len++] = (double)strlen(pairs->item[i].a) - (double)strlen(pairs->item[i].b);
    }
    summary_num(s, "pairs", pairs->n);
    summary_num(s, "decided", decided);
    summary_num(s, "ties", ties);
    summary_num(s, "unjudged", missed[MISS_CONTEXT] + missed[MISS_REFUSED] + missed[MISS_UNREADABLE]);
    summary_num(s, "flip_rate", decided ? (double)flips / decided : 0);
    summary_num(s, "first_slot", n_slot ? slot / n_slot : 0.5);
    summary_num(s, "length_corr", correlation(q, len, n_len));
    free(q);
    free(len);
}

/* The cosine of two principles' log-odds over all pairs; for each the largest with another, and the largest of all. */
static void report_alike(const Labeler *l, Summary *s) {
    enum { WORTH_A_WORD = 90 };
    double most = -1;
    int n = l->n_label, pair[2] = {0, 0};
    for (int a = 0; a < n; a++) {
        double own = -1;
        char key[160];
        for (int b = 0; b < n; b++) {
            double size = sqrt(l->cross[a * n + a] * l->cross[b * n + b]);
            if (b == a || size == 0 || l->cross[a * n + b] / size <= own) continue;
            own = l->cross[a * n + b] / size;
            if (own > most) most = own, pair[0] = a, pair[1] = b;
        }
        snprintf(key, sizeof key, "principle.%.100s.alike", l->con.principle[l->label_principle[a]].id);
        if (own > -1) summary_num(s, key, own);
    }
    if (most > -1) summary_num(s, "judge.alike", most);
    if (100 * most > WORTH_A_WORD)
        log_warn(l->ctx->log,
                 "the judge gives principles '%s' and '%s' the same verdicts (cosine %.2f): it may not tell them apart",
                 l->con.principle[l->label_principle[pair[0]]].id, l->con.principle[l->label_principle[pair[1]]].id,
                 most);
}

/* Per principle that judged anything: how often it decides, flips and takes the first place, how often it agrees with
 * the label, and the judge's accuracy on known answers that ask for it. */
static void report_principles(const Labeler *l, Summary *s) {
    for (int i = 0; i < l->n_label; i++) {
        const PrincipleBooks *b = &l->books[l->label_principle[i]];
        const struct {
            const char *name;
            double hits;
            int n;
        } row[] = {{"decided", b->decided, b->judged},
                   {"first_slot", b->first, b->judged},
                   {"flip_rate", b->flips, b->decided},
                   {"agreement", b->agree, b->n_label},
                   {"accuracy", b->right, b->gold}};
        for (int k = 0; k < COUNT_OF(row); k++) {
            char key[160];
            snprintf(key, sizeof key, "principle.%.100s.%s", l->con.principle[l->label_principle[i]].id, row[k].name);
            if (row[k].n > 0) summary_num(s, key, row[k].hits / row[k].n);
        }
    }
}

/* -- the judge against known answers ------------------------------------------------------------------------------- */
typedef struct {
    JudgeItem *item;
    Message *msg;
    int *better;
    Judged *judged; /* once gold_read is done */
    int n, cap;
    Heap heap;
} Gold;

static void gold_add(Gold *g, const char *prompt, const char *a, const char *b, const char *compare, int better) {
    if (g->n == g->cap) {
        g->cap = g->cap ? 2 * g->cap : 256;
        g->item = mem_grow(g->item, (size_t)g->cap * sizeof *g->item);
        g->msg = mem_grow(g->msg, (size_t)g->cap * sizeof *g->msg);
        g->better = mem_grow(g->better, (size_t)g->cap * sizeof *g->better);
    }
    Heap *h = &g->heap;
    g->msg[g->n] = (Message){ROLE_USER, heap_strn(h, prompt, strlen(prompt))};
    g->item[g->n] = (JudgeItem){{NULL, 1},
                                heap_strn(h, a, strlen(a)),
                                heap_strn(h, b, strlen(b)),
                                heap_strn(h, compare, strlen(compare)),
                                NULL};
    g->better[g->n++] = better;
}

static bool gold_row(void *ud, const Json *row, int line, Error *err) {
    const char *prompt, *a, *b, *principle;
    double better;
    (void)line;
    if (!json_need_str(row, "prompt", &prompt, NULL, err) || !json_need_str(row, "a", &a, NULL, err) ||
        !json_need_str(row, "b", &b, NULL, err) || !json_need_str(row, "principle", &principle, NULL, err) ||
        !json_need_num(row, "better", &better, err))
        return false;
    if (better != 0 && better != 1 && better != -1)
        return error_set(err, ERR_FORMAT, "'better' is %g, expected 0 (a), 1 (b) or -1 (neither)", better);
    gold_add(ud, prompt, a, b, principle, (int)better);
    return true;
}

/* Known answers name their principle by the words of its request. */
static void book_gold(Labeler *l, const char *compare, bool hit) {
    for (int i = 0; i < l->n_label; i++) {
        int p = l->label_principle[i];
        if (strcmp(principle_compare(&l->con.principle[p]), compare)) continue;
        l->books[p].gold++;
        l->books[p].right += hit;
        return;
    }
}

static void gold_release(Gold *g) {
    free(g->item);
    free(g->msg);
    free(g->better);
    free(g->judged);
    heap_release(&g->heap);
}

enum { MAX_GOLD = 400, MIN_FIT = 25 };

/* data.judge_gold, else human preferences that did not teach the format, each under a principle drawn for it. */
static bool gold_read(Gold *g, const Labeler *l, Error *err) {
    const RunConfig *c = l->ctx->cfg;
    Rows prefs = {0};
    bool ok = true;
    for (int i = 0; i < c->data.judge_gold.n && ok; i++)
        ok = stage_each_row(l->ctx, c->data.judge_gold.item[i], gold_row, g, err);
    if (c->data.judge_gold.n == 0) ok = stage_rows(&prefs, l->ctx, &c->data.prefs_harmless, ROW_PREFERENCE, err);
    for (int i = 0; i < prefs.n && ok && g->n < MAX_GOLD; i++) {
        const Row *r = &prefs.row[i];
        if (format_half(l->ctx, r->id)) continue; /* taught the format */
        int p =
            l->label_principle[rng_below((Rng){l->ctx->seed, RNG_PRINCIPLE}, stage_id(r->id), 1, (uint32_t)l->n_label)];
        bool second = rng_u32((Rng){l->ctx->seed, RNG_SIDE}, stage_id(r->id), 0) & 1;
        gold_add(g, dialogue_last_user(r->prompt), second ? r->b : r->a, second ? r->a : r->b,
                 principle_compare(&l->con.principle[p]), second);
    }
    rows_release(&prefs);
    for (int i = 0; i < g->n; i++) g->item[i].prompt.msg = &g->msg[i];
    g->judged = mem_alloc((size_t)(g->n + 1) * sizeof *g->judged);
    return ok;
}

/* With a fitted temperature: the half it is fitted on, by prompt. The judge is measured on the other. */
static bool fits_t_cal(const Labeler *l, const Gold *g, int i) {
    return l->ctx->cfg->label.t_cal == 0 && rng_u32((Rng){l->ctx->seed, RNG_SPLIT}, stage_id(g->msg[i].text), 8) & 1;
}

static bool fit_t_cal(Labeler *l, const Gold *g, Error *err) {
    double *x = mem_alloc((size_t)(g->n + 1) * sizeof *x), *truth = mem_alloc((size_t)(g->n + 1) * sizeof *truth);
    int n = 0;
    for (int i = 0; i < g->n; i++) {
        if (!g->judged[i].scored || g->better[i] < 0 || !fits_t_cal(l, g, i)) continue;
        x[n] = clamp(judged_l(g->judged[i]), l->ctx->cfg->label.clamp);
        truth[n++] = g->better[i] == 0;
    }
    if (n >= MIN_FIT) l->t_cal = fit_temperature(x, truth, n);
    free(x);
    free(truth);
    return n >= MIN_FIT ||
           error_set(err, ERR_CONFIG,
                     "label.t_cal 0 fits the temperature on half of the judge's known answers (data.judge_gold, "
                     "data.prefs_harmless): %d are there, at least %d are needed; give more, or a temperature",
                     n, MIN_FIT);
}

/* How much more often than it does, and than every second time, the judge expects the longer reply to win; below 0: the
 * shorter. A judge that knows nothing has none. */
static double length_bias(double expected, double won) {
    return expected > 0.5 ? fmax(0, expected - fmax(won, 0.5)) : -fmax(0, fmin(won, 0.5) - expected);
}

/* better: 0 a, 1 b, -1 neither (a tie: the judge should be at 0.5). */
static void report_gold(Labeler *l, const Gold *g, Summary *s) {
    size_t size = (size_t)(g->n + 1);
    double *q = mem_alloc(size * sizeof *q), *truth = mem_alloc(size * sizeof *truth), tie = 0, expected = 0, won = 0;
    int n = 0, right = 0, n_tie = 0, n_longer = 0;
    for (int i = 0; i < g->n; i++) {
        Judged j = g->judged[i];
        double p = sigmoid(clamp(judged_l(j), l->ctx->cfg->label.clamp) / l->t_cal);
        if (!j.scored || fits_t_cal(l, g, i)) continue;
        if (g->better[i] < 0) {
            tie += p > 0.5 ? p : 1 - p, n_tie++;
            continue;
        }
        bool hit = (p > 0.5) == (g->better[i] == 0);
        size_t a = strlen(g->item[i].a), b = strlen(g->item[i].b);
        right += hit;
        book_gold(l, g->item[i].compare, hit);
        q[n] = p;
        truth[n] = g->better[i] == 0;
        if (a != b) {
            expected += a > b ? p : 1 - p;
            won += a > b ? truth[n] : 1 - truth[n];
            n_longer++;
        }
        n++;
    }
    if (n > 0) {
        Interval acc = interval_wilson(right, n);
        summary_num(s, "judge.n", n);
        summary_num(s, "judge.accuracy", acc.mean);
        summary_num(s, "judge.accuracy.lo", acc.lo);
        summary_num(s, "judge.accuracy.hi", acc.hi);
        summary_num(s, "judge.ece", ece(q, truth, n, 10));
        summary_num(s, "judge.brier", brier(q, truth, n));
        if (n_longer) summary_num(s, "judge.length_bias", length_bias(expected / n_longer, won / n_longer));
        if (n_tie) summary_num(s, "judge.tie_confidence", tie / n_tie);
    }
    free(q);
    free(truth);
}

/* Of the whole stage; early: before anything is labelled, as labels need the temperature. */
static bool judge_gold(Labeler *l, Gold *g, bool early, Error *err) {
    if (early != (l->ctx->cfg->label.t_cal == 0)) return true;
    return gold_read(g, l, err) && judge_ask(&l->judge, g->judged, g->item, g->n, err) &&
           (!early || fit_t_cal(l, g, err));
}

static void report_tests(const Labeler *l, Summary *s) {
    char key[160];
    summary_num(s, "untrusted", l->n_untrusted);
    for (int i = 0; i < l->con.n; i++) {
        if (isnan(l->tested[i])) continue;
        snprintf(key, sizeof key, "principle.%.100s.tests", l->con.principle[i].id);
        summary_num(s, key, l->tested[i]);
    }
}

static bool report_all(Labeler *l, const PairRows *pairs, const PairLabel *label, Gold *g, Error *err) {
    Summary s;
    summary_begin(&s);
    report_labels(&s, pairs, label);
    bool ok = judge_gold(l, g, false, err);
    if (ok) report_gold(l, g, &s);
    ok = ok && (!l->judge.remote || remote_judge_books(l->judge.remote, &s, err));
    if (ok) report_principles(l, &s);
    if (ok) report_alike(l, &s);
    if (ok && l->ctx->cfg->label.t_cal == 0) summary_num(&s, "t_cal", l->t_cal);
    if (ok && l->ctx->cfg->label.min_tests > 0) report_tests(l, &s);
    if (ok) return summary_end(&s, l->ctx, err) && label_release(l->ctx->cfg, l->ctx->output, err);
    str_release(&s.text);
    return false;
}

static bool label_all(Labeler *l, Error *err) {
    const StageCtx *ctx = l->ctx;
    PairRows pairs = {0};
    Gold gold = {0};
    Writer *w = NULL;
    Str path = {0};
    path_join(&path, ctx->output, "labels.jsonl");
    bool ok = pair_rows_read(&pairs, stage_input(ctx, "pairs"), NULL, err) && judge_gold(l, &gold, true, err) &&
              writer_open(&w, str_get(&path), err);
    PairLabel *label = mem_alloc((size_t)(pairs.n + 1) * sizeof *label);
    l->cross = mem_alloc(((size_t)l->n_label * (size_t)l->n_label + 1) * sizeof *l->cross);
    /* A remote judge is asked for everything at once: it answers when it likes, and says itself how far it is. */
    int chunk = l->judge.remote ? pairs.n : CHUNK;
    for (int i = 0; i < pairs.n && ok; i += chunk) {
        int n = pairs.n - i < chunk ? pairs.n - i : chunk;
        ok = label_chunk(l, &pairs.item[i], n, &label[i], w, err);
        if (!l->judge.remote) log_progress(ctx->log, i + n, pairs.n, i + n, "pairs", "%s", "");
        if (ok && stop_requested(ctx->stop)) ok = error_set(err, ERR_STOPPED, "stopped; run again to go on");
    }
    log_progress_end(ctx->log);
    ok = writer_end(w, ok, err);
    ok = ok && report_all(l, &pairs, label, &gold, err);
    gold_release(&gold);
    free(l->cross);
    free(label);
    pair_rows_release(&pairs);
    str_release(&path);
    return ok;
}

static bool open_judge(Labeler *l, StageNet *net, Error *err) {
    const StageCtx *ctx = l->ctx;
    EngineConfig ec = {.share_prefix = true};
    if (ctx->cfg->judge.kind == JUDGE_REMOTE) return remote_judge_open(&l->judge.remote, ctx, err);
    if (!stage_net_open(net, ctx, stage_input(ctx, "helpful"), HEAD_LM, false, err) ||
        !engine_open(&l->judge.engine, net->net, &ec, err))
        return false;
    l->judge.chat = &l->text->chat;
    judge_configure(&l->judge, l->ctx);
    l->judge.max_len = net->m.cfg.max_seq;
    return true;
}

/* A judge that fails a principle's own tests does not understand it: it labels nothing under it. */
static bool keep_tested(Labeler *l, Error *err) {
    double least = l->ctx->cfg->label.min_tests;
    int before = l->n_label;
    l->n_label = judge_keep_tested(&l->judge, &l->con, l->label_principle, before, least, l->tested, err);
    if (l->n_label < 0) return false;
    l->n_untrusted = before - l->n_label;
    log_info(l->ctx->log, "%d of %d principles label: of the others the judge fails more than %g of their tests",
             l->n_label, before, 1 - least);
    return l->n_label > 0 ||
           error_set(err, ERR_LIMIT,
                     "label.min_tests: under none of %d principles does the judge pass %g of its tests, so none may "
                     "label; dikast constitution test shows them one by one",
                     before, least);
}

static bool run(const StageCtx *ctx, Error *err) {
    StageText text = {0};
    StageNet net = {0};
    Labeler l = {.ctx = ctx, .text = &text};
    bool ok = stage_text_open(&text, stage_input(ctx, "tokenizer"), err) &&
              stage_constitution(&l.con, ctx->cfg, ctx->data_dir, err) && open_judge(&l, &net, err);
    if (ok && ctx->cfg->label.max_q > 0 && ctx->cfg->label.max_q < 0.5)
        ok = error_set(err, ERR_CONFIG,
                       "label.max_q is %g, expected 0 (see its help), or 0.5 to 1: no label would differ",
                       ctx->cfg->label.max_q);
    l.t_cal = ctx->cfg->label.t_cal > 0 ? ctx->cfg->label.t_cal : 1;
    l.max_q = ctx->cfg->label.max_q > 0 ? ctx->cfg->label.max_q : ctx->cfg->judge.reasons ? REASONED_MAX_Q : 1;
    if (ok) {
        pulse_section(log_pulse(ctx->log), SECTION_SCORE);
        for (int i = 0; i < l.con.n && l.n_label < COUNT_OF(l.label_principle); i++)
            if (l.con.principle[i].use & USE_LABEL) l.label_principle[l.n_label++] = i;
        ok = l.n_label > 0 || error_set(err, ERR_CONFIG, "no principle of the constitution has use 'label'");
        ok = ok && (ctx->cfg->label.min_tests == 0 || keep_tested(&l, err));
        ok = ok && label_all(&l, err);
    }
    if (l.judge.engine) engine_close(l.judge.engine);
    remote_judge_close(l.judge.remote);
    constitution_release(&l.con);
    stage_net_close(&net);
    stage_text_close(&text);
    return ok;
}

static void files(const RunConfig *c, void (*add)(void *ud, const char *path), void *ud) {
    stage_list_files(&c->data.judge_gold, add, ud);
    if (c->data.judge_gold.n == 0) stage_list_files(&c->data.prefs_harmless, add, ud);
}

static bool uses_judge(const RunConfig *c) {
    (void)c;
    return true;
}

const Stage stage_label = {
    .name = "label",
    .help = "AI feedback: the helpful model, or a service, judges the pairs under the principles, both orders, soft",
    .version = 1,
    .needs = {"world", "tokenizer", "helpful", "pairs"},
    .section = {"label.", "data.judge_gold", "data.prefs_harmless", "data.columns", "data.max_rows"},
    .files = files,
    .uses_constitution = true,
    .uses_judge = uses_judge,
    .run = run};
