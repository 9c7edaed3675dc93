/* An independent harm classifier for evaluation: the base trunk with a scalar head, trained on labelled replies that no
 * other stage uses. Threshold: the one with the best F1 on the validation half of the hold-out; figures are of the test
 * half. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cai/format.h"
#include "cai/stages.h"
#include "eval/stats.h"
#include "train/losses.h"

enum { PART_TRAIN, PART_VALID, PART_TEST };

static int part_of(const StageCtx *ctx, const Row *r) {
    /* By prompt, so that replies to one prompt stay on one side. */
    double u = rng_uniform((Rng){ctx->seed, RNG_SPLIT}, stage_id(dialogue_last_user(r->prompt)), 0),
           hold = ctx->cfg->classifier.holdout;
    return u >= hold ? PART_TRAIN : u >= hold / 2 ? PART_VALID : PART_TEST;
}

static void sequence_of(Sequence *s, const StageText *t, const Row *r) {
    sequence_clear(s);
    chat_respond(s, &t->chat, r->prompt);
    chat_reply(s, &t->chat, r->a, 0, true);
}

static bool predict(double *p, int32_t *label, int *n, const StageCtx *ctx, Engine *e, const StageText *t,
                    const Rows *rows, int part, int max, Error *err) {
    Sequence *seq = mem_alloc((size_t)(rows->n + 1) * sizeof *seq);
    Tokens *tok = mem_alloc((size_t)(rows->n + 1) * sizeof *tok);
    float *z = mem_alloc((size_t)(rows->n + 1) * sizeof *z);
    int m = 0;
    for (int i = 0; i < rows->n; i++) {
        const Row *r = &rows->row[i];
        if (format_half(ctx, r->id) || part_of(ctx, r) != part) continue;
        sequence_of(&seq[i], t, r);
        if (seq[i].tok.n > max) continue;
        tok[m] = (Tokens){seq[i].tok.id, seq[i].tok.n};
        label[m++] = r->label;
    }
    bool ok = sequences_ok(seq, rows->n, err) && engine_score_last(e, tok, m, z, err);
    for (int k = 0; k < m && ok; k++) p[k] = sigmoid(z[k]);
    *n = m;
    for (int i = 0; i < rows->n; i++) sequence_release(&seq[i]);
    free(seq);
    free(tok);
    free(z);
    return ok;
}

static double best_threshold(const double *p, const int32_t *label, int n) {
    double best = 0.5, f1 = -1;
    for (int k = 1; k < 100; k++) {
        Detection d = detection(p, label, n, k / 100.0);
        if (d.f1 > f1) f1 = d.f1, best = k / 100.0;
    }
    return best;
}

static bool evaluate(const StageCtx *ctx, Net net, const StageText *t, const Rows *rows, int max, int64_t n_train,
                     Error *err) {
    Engine *e = NULL;
    EngineConfig ec = {0};
    double *p = mem_alloc((size_t)(rows->n + 1) * sizeof *p), *soft = mem_alloc((size_t)(rows->n + 1) * sizeof *soft);
    int32_t *label = mem_alloc((size_t)(rows->n + 1) * sizeof *label);
    int n_valid, n;
    bool ok = engine_open(&e, net, &ec, err) && predict(p, label, &n_valid, ctx, e, t, rows, PART_VALID, max, err);
    double threshold = ok ? best_threshold(p, label, n_valid) : 0.5;
    ok = ok && predict(p, label, &n, ctx, e, t, rows, PART_TEST, max, err);
    if (ok) {
        Detection d = detection(p, label, n, threshold);
        Interval recall = interval_wilson((double)d.tp, d.tp + d.fn), fpr = interval_wilson((double)d.fp, d.fp + d.tn);
        for (int i = 0; i < n; i++) soft[i] = label[i];
        Summary s;
        summary_begin(&s);
        summary_num(&s, "n_train", (double)n_train);
        summary_num(&s, "n_valid", n_valid);
        summary_num(&s, "n_test", n);
        summary_num(&s, "threshold", threshold);
        summary_num(&s, "recall", recall.mean);
        summary_num(&s, "recall.lo", recall.lo);
        summary_num(&s, "recall.hi", recall.hi);
        summary_num(&s, "fpr", fpr.mean);
        summary_num(&s, "fpr.lo", fpr.lo);
        summary_num(&s, "fpr.hi", fpr.hi);
        summary_num(&s, "precision", d.precision);
        summary_num(&s, "f1", d.f1);
        summary_num(&s, "auroc", auroc(p, label, n));
        summary_num(&s, "ece", ece(p, soft, n, 10));
        ok = summary_end(&s, ctx, err);
    }
    if (e) engine_close(e);
    free(p);
    free(soft);
    free(label);
    return ok;
}

static bool train(const StageCtx *ctx, Net net, const StageText *t, const Rows *rows, int max, int64_t *n_train,
                  Error *err) {
    const TrainKeys *k = &ctx->cfg->classifier.t;
    SampleSet set;
    samples_init(&set, 1);
    Sequence s = {0};
    for (int i = 0; i < rows->n; i++) {
        const Row *r = &rows->row[i];
        if (format_half(ctx, r->id) || part_of(ctx, r) != PART_TRAIN) continue;
        sequence_of(&s, t, r);
        bool fits = s.tok.n <= max;
        ledger_in(ctx->ledger, 1, s.tok.n);
        ledger_add(ctx->ledger, fits ? LEDGER_TRAINED : LEDGER_DROPPED, fits ? NULL : "longer than the context", 1,
                   s.tok.n);
        if (fits) samples_add(&set, s.tok.id, s.weight, s.tok.n, stage_id(r->id), (float)r->label, 1);
    }
    *n_train = set.n;
    ObjPm *o = NULL;
    Objective obj;
    int max_tok = stage_pass_tokens(&set, k->micro_tokens);
    bool ok = sequence_ok(&s, err) &&
              obj_classifier_open(&o, &obj, &set, max_tok, ctx->seed, t->chat.id[SENT_END], err) &&
              stage_train(ctx, net, k, &obj, obj_pm_packs(o, 0), err);
    if (o) obj_pm_close(o);
    sequence_release(&s);
    samples_release(&set);
    return ok;
}

static bool run(const StageCtx *ctx, Error *err) {
    const char *tokenizer = stage_input(ctx, "tokenizer");
    StageText text = {0};
    StageNet net = {0};
    Rows rows = {0};
    int64_t n_train = 0;
    bool ok = stage_text_open(&text, tokenizer, err) &&
              stage_net_open_fresh(&net, ctx, stage_input(ctx, "pretrain"), 1, err) &&
              stage_rows(&rows, ctx, &ctx->cfg->data.harm_qa, ROW_LABELLED, err) &&
              train(ctx, net.net, &text, &rows, net.m.cfg.max_seq, &n_train, err) && stage_net_join(&net, ctx, err) &&
              (!stage_measures(ctx) || evaluate(ctx, net.net, &text, &rows, net.m.cfg.max_seq, n_train, err)) &&
              stage_net_save(ctx, net.net, tokenizer, err);
    rows_release(&rows);
    stage_net_close(&net);
    stage_text_close(&text);
    return ok;
}

static bool applies(const RunConfig *c) { return c->data.harm_qa.n > 0; }

static void files(const RunConfig *c, void (*add)(void *ud, const char *path), void *ud) {
    stage_list_files(&c->data.harm_qa, add, ud);
}

const Stage stage_classifier = {
    .name = "classifier",
    .help = "an independent harm classifier, for evaluation only (with data.harm_qa)",
    .version = 2,
    .needs = {"tokenizer", "pretrain"},
    .section = {"classifier.", "lora.", "dist.", "data.harm_qa", "data.columns", "data.max_rows"},
    .applies = applies,
    .files = files,
    .spread = true,
    .run = run};
