/* Preference model: SL-CAI's trunk (or its first layers) with a scalar head, soft-label Bradley-Terry on AI-labelled
 * pairs and helpfulness preferences. Sides are drawn before anything else, so a control that shuffles labels leaves no
 * signal. Pairs are split by prompt. The score's mean and deviation over SL-CAI's own replies become the unit of the
 * reward. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/format.h"
#include "cai/pair_rows.h"
#include "eval/stats.h"
#include "train/losses.h"

typedef struct {
    const char *id, *prompt_id, *prompt, *a, *b;
    double q, weight;
    bool helpful, held;
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
        put_pair(j, (PmPair){r->id, r->prompt_id, r->prompt, r->a, r->b, r->q, r->weight, false, false});
        n_ai++;
    }
    int want = (int)(n_ai * share / (1 - share) + 0.5);
    int64_t *order = mem_alloc((size_t)(helpful->n + 1) * sizeof *order);
    rng_shuffle((Rng){ctx->seed, RNG_SHUFFLE}, 0, order, helpful->n);
    for (int k = 0; k < helpful->n && k < want; k++) {
        const Row *r = &helpful->row[order[k]];
        put_pair(j, (PmPair){r->id, r->id, dialogue_last_user(r->prompt), r->a, r->b, 1, r->weight, true, false});
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

static bool fill(PmJob *j, SampleSet *set, Error *err) {
    Sequence a = {0}, b = {0};
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
    }
    bool ok = sequence_ok(&a, err) && sequence_ok(&b, err);
    sequence_release(&a);
    sequence_release(&b);
    return ok;
}

/* Scores of both sides; NaN where a side does not fit. */
static bool score_pairs(double *out, PmJob *j, Engine *e, const PmPair *pair, int n, Error *err) {
    Sequence *seq = mem_alloc((size_t)(2 * n + 1) * sizeof *seq);
    Tokens *tok = mem_alloc((size_t)(2 * n + 1) * sizeof *tok);
    float *score = mem_alloc((size_t)(2 * n + 1) * sizeof *score);
    int *of = mem_alloc((size_t)(2 * n + 1) * sizeof *of), m = 0;
    for (int k = 0; k < 2 * n; k++) {
        const PmPair *p = &pair[k / 2];
        side(&seq[k], j->text, p->prompt, k & 1 ? p->b : p->a);
        out[k] = NAN;
        if (seq[k].tok.n > j->max) continue;
        tok[m] = (Tokens){seq[k].tok.id, seq[k].tok.n};
        of[m++] = k;
    }
    bool ok = sequences_ok(seq, 2 * n, err) && engine_score_last(e, tok, m, score, err);
    for (int k = 0; k < m && ok; k++) out[of[k]] = score[k];
    for (int k = 0; k < 2 * n; k++) sequence_release(&seq[k]);
    free(seq);
    free(tok);
    free(score);
    free(of);
    return ok;
}

/* Accuracy where the label is clear, ECE against soft labels over all. */
static bool check_pairs(const char *name, PmJob *j, Engine *e, const PmPair *pair, int n, Summary *s, Error *err) {
    double *score = mem_alloc((size_t)(2 * n + 1) * sizeof *score), *p = mem_alloc((size_t)(n + 1) * sizeof *p);
    double *q = mem_alloc((size_t)(n + 1) * sizeof *q);
    bool ok = score_pairs(score, j, e, pair, n, err);
    int m = 0, clear = 0, right = 0, longer = 0;
    for (int i = 0; i < n && ok; i++) {
        double d = score[2 * i] - score[2 * i + 1];
        if (isnan(d)) continue;
        p[m] = sigmoid(d);
        q[m++] = pair[i].q;
        if (fabs(pair[i].q - 0.5) < 0.3) continue;
        clear++;
        right += (d > 0) == (pair[i].q > 0.5);
        longer += (strlen(pair[i].a) > strlen(pair[i].b)) == (pair[i].q > 0.5);
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
               {"longer_wins", clear ? (double)longer / clear : NAN}};
    for (int i = 0; i < COUNT_OF(row) && ok && m > 0; i++) {
        snprintf(key, sizeof key, "%s.%s", name, row[i].what);
        summary_num(s, key, row[i].v);
    }
    free(score);
    free(p);
    free(q);
    return ok;
}

static int part(PmPair *out, const PmJob *j, bool helpful) {
    int n = 0;
    for (int i = 0; i < j->pairs.n; i++)
        if (j->pairs.item[i].held && j->pairs.item[i].helpful == helpful) out[n++] = j->pairs.item[i];
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
        out[n++] = (PmPair){
            r->id, r->id, dialogue_last_user(r->prompt), second ? r->b : r->a, second ? r->a : r->b, second ? 0 : 1, 1,
            false, true};
    }
    return n;
}

enum { MAX_HUMAN = 400, NORM_SAMPLES = 512 };

static bool evaluate(PmJob *j, const PairRows *ai, Summary *s, Error *err) {
    const StageCtx *ctx = j->ctx;
    Engine *e = NULL;
    EngineConfig ec = {0};
    Rows gold = {0}, human = {0};
    bool ok = engine_open(&e, j->pm->net, &ec, err) &&
              stage_rows(&gold, ctx, &ctx->cfg->data.pm_gold, ROW_PREFERENCE, err) &&
              stage_rows(&human, ctx, &ctx->cfg->data.prefs_harmless, ROW_PREFERENCE, err);
    PmPair *p = mem_alloc((size_t)(j->pairs.n + gold.n + human.n + ai->n + 1) * sizeof *p);
    if (ok) {
        ok = check_pairs("held_ai", j, e, p, part(p, j, false), s, err);
        ok = ok && check_pairs("held_helpful", j, e, p, part(p, j, true), s, err);
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

/* SL-CAI's trunk as it is, an adapter and a fresh scalar head. */
static bool open_lora(StageNet *pm, const StageCtx *ctx, Error *err) {
    Str dir = {0};
    *pm = (StageNet){0};
    path_join(&dir, stage_input(ctx, "sl"), "model");
    bool ok = model_open(&pm->m, ctx->be, str_get(&dir), false, err);
    if (ok && !head_init(&pm->h, &pm->m, HEAD_SCORE, 1, ctx->seed, true, err)) {
        model_release(&pm->m);
        ok = false;
    }
    pm->net = (Net){&pm->m, &pm->h, NULL};
    pm->open = ok;
    ok = ok && stage_net_adapt(pm, ctx, str_get(&dir), err);
    str_release(&dir);
    return ok;
}

/* SL-CAI's trunk, or its first pm.n_layer layers, with a fresh scalar head. */
static bool open_pm(StageNet *pm, const StageCtx *ctx, Error *err) {
    StageNet sl = {0};
    if (stage_lora(ctx)) return open_lora(pm, ctx, err);
    *pm = (StageNet){0};
    if (!stage_net_open(&sl, ctx, stage_input(ctx, "sl"), HEAD_LM, false, err)) return false;
    ModelConfig c = sl.m.cfg;
    bool ok = true;
    if (ctx->cfg->pm.n_layer > c.n_layer)
        ok = error_set(err, ERR_CONFIG, "pm.n_layer %d is more than the policy's %d layers", (int)ctx->cfg->pm.n_layer,
                       c.n_layer);
    if (ctx->cfg->pm.n_layer) c.n_layer = (int)ctx->cfg->pm.n_layer;
    ok = ok && model_init(&pm->m, ctx->be, &c, ctx->seed, true, err);
    if (ok && !head_init(&pm->h, &pm->m, HEAD_SCORE, 1, ctx->seed, true, err)) {
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
    if (j->ctx->cfg->pm.untrained) return true;
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
    int max_tok = stage_pass_tokens(&set, k->micro_tokens);
    bool ok =
        obj_pm_open(&o, &obj, &set, max_tok, j->ctx->seed, j->text->chat.id[SENT_END], j->ctx->cfg->pm.center, err) &&
        stage_train(j->ctx, j->pm->net, k, &obj, obj_pm_packs(o, 0), err);
    if (o) obj_pm_close(o);
    samples_release(&set);
    return ok;
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
              open_pm(&pm, ctx, err) &&
              pair_rows_read(&ai, stage_input(ctx, "pairs"), stage_input(ctx, "label"), err) &&
              stage_rows(&helpful, ctx, &ctx->cfg->data.prefs_helpful, ROW_PREFERENCE, err);
    if (ok) {
        j.max = pm.m.cfg.max_seq;
        collect(&j, &ai, &helpful);
        ok = train(&j, err);
        Summary s;
        summary_begin(&s);
        summary_num(&s, "pairs", j.pairs.n);
        ok = ok && (!stage_leads(ctx) || evaluate(&j, &ai, &s, err)) && stage_net_save(ctx, pm.net, tokenizer, err);
        if (ok)
            ok = summary_end(&s, ctx, err);
        else
            str_release(&s.text);
    }
    constitution_release(&con);
    free(j.pairs.item);
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
