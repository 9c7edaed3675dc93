/* Preference model: SL-CAI's trunk (or its first layers) with a scalar head, soft-label Bradley-Terry on AI-labelled
 * pairs and helpfulness preferences. Sides are drawn before anything else, so a control that shuffles labels leaves no
 * signal. Pairs are split by prompt. The score's mean and deviation over SL-CAI's own replies become the unit of the
 * reward.
 *
 * With several heads (cai/pm_heads.h) their sum is what is saved. With pm.length_control the gap of a pair's scores
 * need not explain what length does: D = s(a) - s(b) + g (|a| - |b|) in training, g fitted to the labels alone, and s
 * is kept. With pm.calibrate the head is divided by the temperature that fits half of the held-out pairs; the other
 * half is reported. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/format.h"
#include "cai/pair_rows.h"
#include "cai/pm_heads.h"
#include "eval/stats.h"
#include "train/losses.h"

typedef struct {
    const char *id, *prompt_id, *prompt, *a, *b;
    double q, weight;
    bool helpful, held;
    bool swapped; /* sides were exchanged, so the principles' labels turn */
    int ai;       /* its row of the labels; -1: none */
} PmPair;
typedef struct {
    PmPair *item;
    int n;
} PmPairs;

typedef struct {
    const StageCtx *ctx;
    const StageText *text;
    StageNet *pm;
    const Constitution *con;
    PmPairs pairs;
    int max;
    PmHeads heads;
    double *l;                   /* (AI pairs, principles) pm_labels_read; NULL: one label for all heads */
    float *head_q, *head_weight; /* (training pairs, heads), in the order of the set */
    double *offset;              /* (training pairs) */
    double length_slope, length_sd;
} PmJob;

static bool swap_sides(const StageCtx *ctx, const char *id) {
    return rng_u32((Rng){ctx->seed, RNG_SIDE}, stage_id(id), 0) & 1;
}

static void put_pair(PmJob *j, PmPair p) {
    if (swap_sides(j->ctx, p.id)) {
        const char *a = p.a;
        p.a = p.b;
        p.b = a;
        p.q = 1 - p.q;
        p.swapped = true;
    }
    p.held = rng_uniform((Rng){j->ctx->seed, RNG_SPLIT}, stage_id(p.prompt_id), 0) < j->ctx->cfg->pm.holdout;
    j->pairs.item[j->pairs.n++] = p;
}

static void collect(PmJob *j, const PairRows *ai, const Rows *helpful) {
    const StageCtx *ctx = j->ctx;
    double share = ctx->cfg->pm.helpful_share;
    int n_ai = 0;
    j->pairs.item = mem_alloc((size_t)(ai->n + helpful->n + 1) * sizeof *j->pairs.item);
    for (int i = 0; i < ai->n; i++) {
        const PairRow *r = &ai->item[i];
        if (r->weight <= 0) continue;
        put_pair(j, (PmPair){r->id, r->prompt_id, r->prompt, r->a, r->b, r->q, r->weight, false, false, false, i});
        n_ai++;
    }
    int want = (int)(n_ai * share / (1 - share) + 0.5);
    int64_t *order = mem_alloc((size_t)(helpful->n + 1) * sizeof *order);
    rng_shuffle((Rng){ctx->seed, RNG_SHUFFLE}, 0, order, helpful->n);
    for (int k = 0; k < helpful->n && k < want; k++) {
        const Row *r = &helpful->row[order[k]];
        put_pair(
            j, (PmPair){r->id, r->id, dialogue_last_user(r->prompt), r->a, r->b, 1, r->weight, true, false, false, -1});
    }
    free(order);
    if (ctx->cfg->pm.shuffle == 0) return;
    int64_t *from = mem_alloc((size_t)(j->pairs.n + 1) * sizeof *from);
    double *q = mem_alloc((size_t)(j->pairs.n + 1) * sizeof *q);
    rng_shuffle((Rng){ctx->seed, RNG_SHUFFLE}, (uint64_t)ctx->cfg->pm.shuffle, from, j->pairs.n);
    for (int i = 0; i < j->pairs.n; i++) q[i] = j->pairs.item[from[i]].q;
    for (int i = 0; i < j->pairs.n; i++) j->pairs.item[i].q = q[i];
    free(from);
    free(q);
}

static void side(Sequence *s, const StageText *t, const char *prompt, const char *reply) {
    Message m = {ROLE_USER, prompt};
    sequence_clear(s);
    chat_respond(s, &t->chat, (Dialogue){&m, 1});
    chat_reply(s, &t->chat, reply, 0, true);
}

static void fill_heads(PmJob *j, const PmPair *p, int at) {
    const PmHeads *h = &j->heads;
    const double *l = p->ai >= 0 && j->l ? j->l + (size_t)p->ai * (size_t)j->con->n : NULL;
    for (int k = 0; k < h->n; k++) {
        float *q = &j->head_q[(size_t)at * (size_t)h->n + (size_t)k], *w = &j->head_weight[q - j->head_q];
        pm_head_label(q, w, h, k, p->q, l, p->swapped, j->ctx->cfg->label.clamp, (Rng){j->ctx->seed, RNG_BOOT},
                      stage_id(p->id));
        *w *= (float)p->weight;
    }
}

static double longer(const PmPair *p) { return (double)strlen(p->a) - (double)strlen(p->b); }

/* What length alone says of the training pairs' labels, in nats per deviation of the difference. */
static void fit_length(PmJob *j) {
    size_t size = (size_t)(j->pairs.n + 1);
    double *x = mem_alloc(size * sizeof *x), *q = mem_alloc(size * sizeof *q), *w = mem_alloc(size * sizeof *w), sq = 0;
    int n = 0;
    for (int i = 0; i < j->pairs.n; i++) {
        if (j->pairs.item[i].held) continue;
        x[n] = longer(&j->pairs.item[i]);
        q[n] = j->pairs.item[i].q;
        w[n] = j->pairs.item[i].weight;
        sq += x[n] * x[n];
        n++;
    }
    j->length_sd = n && sq > 0 ? sqrt(sq / n) : 1;
    for (int i = 0; i < n; i++) x[i] /= j->length_sd;
    j->length_slope = fit_slope(x, q, w, n);
    free(x);
    free(q);
    free(w);
}

static bool fill(PmJob *j, SampleSet *set, Error *err) {
    Sequence a = {0}, b = {0};
    int at = 0;
    for (int i = 0; i < j->pairs.n; i++) {
        const PmPair *p = &j->pairs.item[i];
        if (p->held) continue;
        side(&a, j->text, p->prompt, p->a);
        side(&b, j->text, p->prompt, p->b);
        int n = a.tok.n + b.tok.n;
        bool fits = a.tok.n <= j->max && b.tok.n <= j->max;
        ledger_in(j->ctx->ledger, 1, n);
        ledger_add(j->ctx->ledger, fits ? LEDGER_TRAINED : LEDGER_DROPPED, fits ? NULL : "longer than the context", 1,
                   n);
        if (!fits) continue;
        samples_add(set, a.tok.id, a.weight, a.tok.n, (uint64_t)i, (float)p->q, (float)p->weight);
        samples_add(set, b.tok.id, b.weight, b.tok.n, (uint64_t)i, (float)(1 - p->q), (float)p->weight);
        if (j->head_q) fill_heads(j, p, at);
        if (j->offset) j->offset[at] = j->length_slope * longer(p) / j->length_sd;
        at++;
    }
    bool ok = sequence_ok(&a, err) && sequence_ok(&b, err);
    sequence_release(&a);
    sequence_release(&b);
    return ok;
}

/* Scores of both sides under every head, (2 n, heads); NaN where a side does not fit. */
static bool score_pairs(double *out, PmJob *j, Engine *e, const PmPair *pair, int n, Error *err) {
    int n_head = j->pm->h.n_out;
    Sequence *seq = mem_alloc((size_t)(2 * n + 1) * sizeof *seq);
    Tokens *tok = mem_alloc((size_t)(2 * n + 1) * sizeof *tok);
    float *score = mem_alloc((size_t)(2 * n + 1) * (size_t)n_head * sizeof *score);
    int *of = mem_alloc((size_t)(2 * n + 1) * sizeof *of), m = 0;
    for (int k = 0; k < 2 * n; k++) {
        const PmPair *p = &pair[k / 2];
        side(&seq[k], j->text, p->prompt, k & 1 ? p->b : p->a);
        for (int h = 0; h < n_head; h++) out[k * n_head + h] = NAN;
        if (seq[k].tok.n > j->max) continue;
        tok[m] = (Tokens){seq[k].tok.id, seq[k].tok.n};
        of[m++] = k;
    }
    bool ok = sequences_ok(seq, 2 * n, err) && engine_score_last(e, tok, m, score, err);
    for (int k = 0; k < m && ok; k++)
        for (int h = 0; h < n_head; h++) out[of[k] * n_head + h] = (double)score[k * n_head + h];
    for (int k = 0; k < 2 * n; k++) sequence_release(&seq[k]);
    free(seq);
    free(tok);
    free(score);
    free(of);
    return ok;
}

/* Replies are of one length when they differ by at most this share of the longer. */
static const double MATCHED = 0.1;

/* Accuracy where the label is clear, ECE against soft labels over all. */
static bool check_pairs(const char *name, PmJob *j, Engine *e, const PmPair *pair, int n, Summary *s, Error *err) {
    double *score = mem_alloc((size_t)(2 * n + 1) * sizeof *score), *p = mem_alloc((size_t)(n + 1) * sizeof *p);
    double *q = mem_alloc((size_t)(n + 1) * sizeof *q), *gap = mem_alloc((size_t)(n + 1) * sizeof *gap);
    double *len = mem_alloc((size_t)(n + 1) * sizeof *len);
    bool ok = score_pairs(score, j, e, pair, n, err);
    int m = 0, clear = 0, right = 0, long_wins = 0, matched = 0, matched_right = 0;
    for (int i = 0; i < n && ok; i++) {
        double d = score[2 * i] - score[2 * i + 1];
        if (isnan(d)) continue;
        gap[m] = d;
        len[m] = longer(&pair[i]);
        p[m] = sigmoid(d);
        q[m++] = pair[i].q;
        if (fabs(pair[i].q - 0.5) < 0.3) continue;
        clear++;
        right += (d > 0) == (pair[i].q > 0.5);
        long_wins += (strlen(pair[i].a) > strlen(pair[i].b)) == (pair[i].q > 0.5);
        if (fabs(longer(&pair[i])) > MATCHED * fmax((double)strlen(pair[i].a), (double)strlen(pair[i].b))) continue;
        matched++;
        matched_right += (d > 0) == (pair[i].q > 0.5);
    }
    char key[64];
    Interval acc = interval_wilson(right, clear);
    const struct {
        const char *what;
        double v;
    } row[] = {{"n", m},
               {"clear", clear},
               {"accuracy", acc.mean},
               {"accuracy.lo", acc.lo},
               {"accuracy.hi", acc.hi},
               {"ece", ece(p, q, m, 10)},
               {"longer_wins", clear ? (double)long_wins / clear : NAN},
               {"length_corr", correlation(gap, len, m)},
               {"matched.n", matched},
               {"matched.accuracy", matched ? (double)matched_right / matched : NAN}};
    for (int i = 0; i < COUNT_OF(row) && ok && m > 0; i++) {
        snprintf(key, sizeof key, "%s.%s", name, row[i].what);
        summary_num(s, key, row[i].v);
    }
    free(score);
    free(p);
    free(q);
    free(gap);
    free(len);
    return ok;
}

/* With pm.calibrate: the held-out half that the temperature is fitted on, by prompt. */
static bool calibrates(const PmJob *j, const PmPair *p) {
    return j->ctx->cfg->pm.calibrate && rng_u32((Rng){j->ctx->seed, RNG_SPLIT}, stage_id(p->prompt_id), 1) & 1;
}

typedef enum { HELD_REPORTED, HELD_CALIBRATES } Half;
static int part(PmPair *out, const PmJob *j, bool helpful, Half half) {
    int n = 0;
    for (int i = 0; i < j->pairs.n; i++) {
        const PmPair *p = &j->pairs.item[i];
        if (p->held && p->helpful == helpful && calibrates(j, p) == (half == HELD_CALIBRATES)) out[n++] = *p;
    }
    return n;
}

/* Gold rows of categories whose principle is not in force say nothing about this preference model. */
static bool gold_counts(const PmJob *j, const Row *r) {
    return !r->category[0] || constitution_find(j->con, r->category) >= 0;
}

static int rows_as_pairs(PmPair *out, PmJob *j, const Rows *rows, bool human_half, int max) {
    int n = 0;
    for (int i = 0; i < rows->n && n < max; i++) {
        const Row *r = &rows->row[i];
        if (human_half ? format_half(j->ctx, r->id) : !gold_counts(j, r)) continue;
        bool second = swap_sides(j->ctx, r->id);
        out[n++] = (PmPair){r->id,
                            r->id,
                            dialogue_last_user(r->prompt),
                            second ? r->b : r->a,
                            second ? r->a : r->b,
                            second ? 0 : 1,
                            1,
                            false,
                            true,
                            false,
                            -1};
    }
    return n;
}

enum { MAX_HUMAN = 400, NORM_SAMPLES = 512, MIN_CALIBRATE = 20 };

/* -- several heads, before they are summed ------------------------------------------------------------------------- */

/* score: (2, heads). A principle's head against its own label where that is clear. */
static void report_principle_heads(const PmJob *j, const PmPair *pair, int n, const double *score, Summary *s) {
    const PmHeads *h = &j->heads;
    char key[160];
    for (int k = 0; k < h->n; k++) {
        int clear = 0, right = 0;
        for (int i = 0; i < n; i++) {
            float q, w;
            const double *l = pair[i].ai >= 0 ? j->l + (size_t)pair[i].ai * (size_t)j->con->n : NULL;
            double d = score[(2 * i) * h->n + k] - score[(2 * i + 1) * h->n + k];
            pm_head_label(&q, &w, h, k, pair[i].q, l, pair[i].swapped, j->ctx->cfg->label.clamp, (Rng){0, RNG_BOOT}, 0);
            if (w == 0 || isnan(d) || fabs((double)q - 0.5) < 0.3) continue;
            clear++;
            right += (d > 0) == ((double)q > 0.5);
        }
        const char *id = h->principle[k] == PM_HELPFUL ? "helpful" : j->con->principle[h->principle[k]].id;
        snprintf(key, sizeof key, "head.%.100s.clear", id);
        summary_num(s, key, clear);
        snprintf(key, sizeof key, "head.%.100s.accuracy", id);
        if (clear) summary_num(s, key, (double)right / clear);
    }
}

/* How far heads that saw other draws of the pairs differ, and whether they are right where they do not. */
static void report_ensemble(const PmJob *j, const PmPair *pair, int n, const double *score, Summary *s) {
    int n_head = j->heads.n, m = 0, agree = 0, clear[2] = {0}, right[2] = {0};
    double sd = 0;
    for (int i = 0; i < n; i++) {
        double mean = 0, sq = 0;
        int up = 0;
        for (int k = 0; k < n_head; k++) {
            double d = score[(2 * i) * n_head + k] - score[(2 * i + 1) * n_head + k];
            mean += d / n_head;
            up += d > 0;
        }
        if (isnan(mean)) continue;
        for (int k = 0; k < n_head; k++) {
            double d = score[(2 * i) * n_head + k] - score[(2 * i + 1) * n_head + k];
            sq += (d - mean) * (d - mean);
        }
        bool one = up == 0 || up == n_head;
        m++;
        sd += sqrt(sq / (n_head - 1));
        agree += one;
        if (fabs(pair[i].q - 0.5) < 0.3) continue;
        clear[one]++;
        right[one] += (mean > 0) == (pair[i].q > 0.5);
    }
    if (m == 0) return;
    summary_num(s, "ensemble.sd", sd / m);
    summary_num(s, "ensemble.agree", (double)agree / m);
    if (clear[1]) summary_num(s, "ensemble.accuracy.agreed", (double)right[1] / clear[1]);
    if (clear[0]) summary_num(s, "ensemble.accuracy.divided", (double)right[0] / clear[0]);
}

static bool report_heads(PmJob *j, Summary *s, Error *err) {
    if (j->heads.n == 1) return true;
    Engine *e = NULL;
    EngineConfig ec = {0};
    PmPair *p = mem_alloc((size_t)(j->pairs.n + 1) * sizeof *p);
    int n = part(p, j, false, HELD_REPORTED);
    n += part(p + n, j, true, HELD_REPORTED);
    double *score = mem_alloc((size_t)(2 * n + 1) * (size_t)j->heads.n * sizeof *score);
    bool ok = engine_open(&e, j->pm->net, &ec, err) && score_pairs(score, j, e, p, n, err);
    if (ok && j->heads.per_principle)
        report_principle_heads(j, p, n, score, s);
    else if (ok)
        report_ensemble(j, p, n, score, s);
    engine_close(e);
    free(score);
    free(p);
    return ok;
}

/* Divides the (summed) head by the temperature that fits the held-out pairs set aside for it. */
static bool calibrate(PmJob *j, Summary *s, Error *err) {
    if (!j->ctx->cfg->pm.calibrate) return true;
    Engine *e = NULL;
    EngineConfig ec = {0};
    size_t size = (size_t)(j->pairs.n + 1);
    PmPair *p = mem_alloc(size * sizeof *p);
    double *score = mem_alloc(2 * size * sizeof *score), *q = mem_alloc(size * sizeof *q);
    int n = part(p, j, false, HELD_CALIBRATES), m = 0;
    n += part(p + n, j, true, HELD_CALIBRATES);
    bool ok = engine_open(&e, j->pm->net, &ec, err) && score_pairs(score, j, e, p, n, err);
    for (int i = 0; i < n && ok; i++) {
        double d = score[2 * i] - score[2 * i + 1];
        if (isnan(d)) continue;
        score[m] = d; /* m <= i: what is overwritten has been read */
        q[m++] = p[i].q;
    }
    engine_close(e);
    if (ok && m < MIN_CALIBRATE)
        ok = error_set(err, ERR_CONFIG,
                       "pm.calibrate: %d held-out pairs to fit the temperature on, at least %d are needed "
                       "(pm.holdout)",
                       m, MIN_CALIBRATE);
    if (ok) {
        double t = fit_temperature(score, q, m);
        summary_num(s, "t_cal", t);
        ok = pm_heads_sum(j->pm, &(PmHeads){.n = 1, .share = {1}}, 1 / t, err);
    }
    free(score);
    free(q);
    free(p);
    return ok;
}

static bool evaluate(PmJob *j, const PairRows *ai, Summary *s, Error *err) {
    const StageCtx *ctx = j->ctx;
    Engine *e = NULL;
    EngineConfig ec = {0};
    Rows gold = {0}, human = {0};
    bool ok = engine_open(&e, j->pm->net, &ec, err) &&
              stage_rows(&gold, ctx, &ctx->cfg->data.pm_gold, ROW_PREFERENCE, err) &&
              stage_rows(&human, ctx, &ctx->cfg->data.prefs_harmless, ROW_PREFERENCE, err);
    ok = stage_agree(ctx, ok, err);
    PmPair *p = mem_alloc((size_t)(j->pairs.n + gold.n + human.n + ai->n + 1) * sizeof *p);
    if (ok) {
        ok = check_pairs("held_ai", j, e, p, part(p, j, false, HELD_REPORTED), s, err);
        ok = ok && check_pairs("held_helpful", j, e, p, part(p, j, true, HELD_REPORTED), s, err);
        if (gold.n) ok = ok && check_pairs("gold", j, e, p, rows_as_pairs(p, j, &gold, false, gold.n), s, err);
        if (human.n) ok = ok && check_pairs("human", j, e, p, rows_as_pairs(p, j, &human, true, MAX_HUMAN), s, err);
    }
    int n = 0;
    for (int i = 0; i < ai->n && n < NORM_SAMPLES; i++)
        p[n++] = (PmPair){.id = ai->item[i].id, .prompt = ai->item[i].prompt, .a = ai->item[i].a, .b = ai->item[i].b};
    double *score = mem_alloc((size_t)(2 * n + 1) * sizeof *score), sum = 0, sq = 0;
    ok = ok && score_pairs(score, j, e, p, n, err);
    int m = 0;
    for (int k = 0; k < 2 * n && ok; k++)
        if (!isnan(score[k])) sum += score[k], m++;
    double mean = m ? sum / m : 0;
    for (int k = 0; k < 2 * n && ok; k++)
        if (!isnan(score[k])) sq += (score[k] - mean) * (score[k] - mean);
    summary_num(s, "score_mean", mean);
    summary_num(s, "score_sd", m > 1 && sq > 0 ? sqrt(sq / (m - 1)) : 1);
    free(score);
    free(p);
    if (e) engine_close(e);
    rows_release(&gold);
    rows_release(&human);
    return ok;
}

/* SL-CAI's trunk, or its first pm.n_layer layers, with a fresh scalar head. Under LoRA all its layers, as they are. */
static bool open_pm(StageNet *pm, const StageCtx *ctx, int n_head, Error *err) {
    StageNet sl = {0};
    if (stage_lora(ctx)) return stage_net_open_fresh(pm, ctx, stage_input(ctx, "sl"), n_head, err);
    *pm = (StageNet){0};
    if (!stage_net_open(&sl, ctx, stage_input(ctx, "sl"), HEAD_LM, false, err)) return false;
    ModelConfig c = sl.m.whole;
    bool ok = true;
    if (ctx->cfg->pm.n_layer > c.n_layer)
        ok = error_set(err, ERR_CONFIG, "pm.n_layer %d is more than the policy's %d layers", (int)ctx->cfg->pm.n_layer,
                       c.n_layer);
    if (ctx->cfg->pm.n_layer) c.n_layer = (int)ctx->cfg->pm.n_layer;
    ok = ok && model_init_on(&pm->m, ctx->be, &c, ctx->mesh, ctx->seed, true, err);
    if (ok && !head_init(&pm->h, &pm->m, HEAD_SCORE, n_head, ctx->seed, true, err)) {
        model_release(&pm->m);
        ok = false;
    }
    if (ok) {
        pm->net = (Net){&pm->m, &pm->h, NULL};
        pm->open = true;
        pm->m.tokens = sl.m.tokens;
        ok = net_copy_weights(pm->net, (Net){&sl.m, NULL, NULL}, err);
    }
    stage_net_close(&sl);
    return ok;
}

static bool train(PmJob *j, Error *err) {
    const TrainKeys *k = &j->ctx->cfg->pm.t;
    if (j->ctx->cfg->pm.untrained) {
        pm_heads_random(j->pm, j->ctx->seed, (int)j->ctx->cfg->pm.untrained);
        return true;
    }
    SampleSet set;
    samples_init(&set, 2);
    if (!fill(j, &set, err)) {
        samples_release(&set);
        return false;
    }
    if (set.n == 0) {
        samples_release(&set);
        return error_set(
            err, ERR_STATE,
            "no pair to train on: %d pairs have a label or come from data.prefs_helpful, and those are held out "
            "(pm.holdout) or longer than the context; stage 'label' counts what it abstained from (label.abstain)",
            j->pairs.n);
    }
    ObjPm *o = NULL;
    Objective obj;
    PmRule rule = {j->heads.n, j->head_q, j->head_weight, j->offset, j->ctx->cfg->pm.margin};
    int max_tok = stage_pass_tokens(&set, k->micro_tokens);
    bool ok =
        obj_pm_open(&o, &obj, &set, max_tok, j->ctx->seed, j->text->chat.id[SENT_END], j->ctx->cfg->pm.center, err);
    if (ok) obj_pm_rule(o, &rule);
    ok = ok && stage_train(j->ctx, j->pm->net, k, &obj, obj_pm_packs(o, 0), err);
    if (o) obj_pm_close(o);
    samples_release(&set);
    return ok;
}

/* What several heads and length control need beside the pairs. */
static bool prepare(PmJob *j, int n_ai, Error *err) {
    size_t size = (size_t)(j->pairs.n + 1);
    if (j->ctx->cfg->pm.length_control) {
        fit_length(j);
        j->offset = mem_alloc(size * sizeof *j->offset);
    }
    if (j->heads.n == 1) return true;
    j->head_q = mem_alloc(size * (size_t)j->heads.n * sizeof *j->head_q);
    j->head_weight = mem_alloc(size * (size_t)j->heads.n * sizeof *j->head_weight);
    if (!j->heads.per_principle) return true;
    j->l = mem_alloc(((size_t)n_ai * (size_t)j->con->n + 1) * sizeof *j->l);
    return pm_labels_read(j->l, n_ai, j->con, stage_input(j->ctx, "label"), err);
}

static bool run(const StageCtx *ctx, Error *err) {
    const char *tokenizer = stage_input(ctx, "tokenizer");
    StageText text = {0};
    StageNet pm = {0};
    PairRows ai = {0};
    Rows helpful = {0};
    Constitution con = {0};
    PmJob j = {.ctx = ctx, .text = &text, .pm = &pm, .con = &con};
    bool ok = stage_text_open(&text, tokenizer, err) && stage_constitution(&con, ctx->cfg, ctx->data_dir, err) &&
              pm_heads_plan(&j.heads, ctx->cfg, &con, err) && open_pm(&pm, ctx, j.heads.n, err) &&
              pair_rows_read(&ai, stage_input(ctx, "pairs"), stage_input(ctx, "label"), err) &&
              stage_rows(&helpful, ctx, &ctx->cfg->data.prefs_helpful, ROW_PREFERENCE, err);
    if (ok) {
        j.max = pm.m.cfg.max_seq;
        collect(&j, &ai, &helpful);
        Summary s;
        summary_begin(&s);
        summary_num(&s, "pairs", j.pairs.n);
        ok = prepare(&j, ai.n, err) && train(&j, err) && stage_net_join(&pm, ctx, err);
        if (ok && j.offset) summary_num(&s, "length_slope", j.length_slope);
        ok = ok && report_heads(&j, &s, err) && pm_heads_sum(&pm, &j.heads, 1, err) && calibrate(&j, &s, err) &&
             (!stage_measures(ctx) || evaluate(&j, &ai, &s, err)) && stage_net_save(ctx, pm.net, tokenizer, err);
        if (ok)
            ok = summary_end(&s, ctx, err);
        else
            str_release(&s.text);
    }
    constitution_release(&con);
    free(j.pairs.item);
    free(j.l);
    free(j.head_q);
    free(j.head_weight);
    free(j.offset);
    pair_rows_release(&ai);
    rows_release(&helpful);
    stage_net_close(&pm);
    stage_text_close(&text);
    return ok;
}

static void files(const RunConfig *c, void (*add)(void *ud, const char *path), void *ud) {
    stage_list_files(&c->data.prefs_helpful, add, ud);
    stage_list_files(&c->data.prefs_harmless, add, ud);
    stage_list_files(&c->data.pm_gold, add, ud);
}

const Stage stage_pm = {.name = "pm",
                        .help = "preference model on AI labels and helpfulness preferences",
                        .version = 2,
                        .needs = {"world", "tokenizer", "sl", "pairs", "label"},
                        .section = {"pm.", "lora.", "dist.", "data.prefs_helpful", "data.prefs_harmless",
                                    "data.pm_gold", "data.columns", "data.max_rows"},
                        .files = files,
                        .uses_constitution = true,
                        .spread = true,
                        .run = run};
