/* Helpful-only SFT: instructions, and demonstrations of the critique and judge formats. No refusal is taught here. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cai/format.h"
#include "cai/stages.h"

void sequence_instruction(Sequence *s, const Chat *c, const Row *r) {
    for (int i = 0; i < r->n_tok; i++) sequence_put(s, r->tok[i], r->tok_weight[i]);
    if (r->tok) return;
    chat_respond(s, c, r->prompt);
    chat_reply(s, c, r->a, 1, true);
}

static bool add_instructions(const StageCtx *ctx, SampleSet *train, SampleSet *test, const StageText *text, int max,
                             Error *err) {
    Rows rows = {0};
    Sequence s = {0};
    bool ok = stage_rows(&rows, ctx, &ctx->cfg->data.sft, ROW_INSTRUCTION, err) &&
              rows_check_ids(&rows, tokenizer_n_vocab(text->tok), err);
    for (int i = 0; i < rows.n && ok; i++) {
        const Row *r = &rows.row[i];
        sequence_clear(&s);
        sequence_instruction(&s, &text->chat, r);
        bool held = rng_uniform((Rng){ctx->seed, RNG_SPLIT}, stage_id(r->id), 0) < 0.03;
        if (!held)
            stage_add(ctx, train, &s, max, stage_id(r->id), 0, 1);
        else if (s.tok.n <= max)
            samples_add(test, s.tok.id, s.weight, s.tok.n, stage_id(r->id), 0, 1);
    }
    ok = ok && sequence_ok(&s, err);
    sequence_release(&s);
    rows_release(&rows);
    return ok;
}

/* data.format rows all go in; rows made from labelled replies and preferences fill up to helpful.format_share of the
 * rows. */
static bool add_format(const StageCtx *ctx, SampleSet *train, const StageText *text, int max, Error *err) {
    const RunConfig *c = ctx->cfg;
    Rows rows = {0}, made = {0}, labelled = {0}, prefs = {0};
    Sequence s = {0};
    bool make = c->data.harm_qa.n + c->data.prefs_harmless.n > 0 && c->helpful.format_share > 0;
    bool ok = stage_rows(&rows, ctx, &c->data.format, ROW_FORMAT, err);
    if (make)
        ok = ok && stage_rows(&labelled, ctx, &c->data.harm_qa, ROW_LABELLED, err) &&
             stage_rows(&prefs, ctx, &c->data.prefs_harmless, ROW_PREFERENCE, err);
    if (make && ok) format_rows_make(&made, ctx, &labelled, &prefs);
    for (int i = 0; i < rows.n && ok; i++) {
        sequence_clear(&s);
        format_sequence(&s, &text->chat, &rows.row[i]);
        stage_add(ctx, train, &s, max, stage_id(rows.row[i].id), 0, 1);
    }
    double share = c->helpful.format_share, want = share < 1 ? (double)train->n * share / (1 - share) : 1e18;
    int64_t *order = mem_alloc((size_t)(made.n + 1) * sizeof *order), kept = 0;
    rng_shuffle((Rng){ctx->seed, RNG_SHUFFLE}, 0, order, made.n);
    for (int i = 0; i < made.n && ok && kept < want; i++) {
        const Row *r = &made.row[order[i]];
        sequence_clear(&s);
        format_sequence(&s, &text->chat, r);
        if (s.tok.n > max) continue; /* not counted in: there are more than are wanted */
        kept += stage_add(ctx, train, &s, max, stage_id(r->id), 0, 1);
    }
    free(order);
    ok = ok && sequence_ok(&s, err);
    sequence_release(&s);
    rows_release(&rows);
    rows_release(&made);
    rows_release(&labelled);
    rows_release(&prefs);
    return ok;
}

static bool train_on(const StageCtx *ctx, StageNet *n, const StageText *text, Error *err) {
    const TrainKeys *k = &ctx->cfg->helpful.t;
    int max = n->m.cfg.max_seq;
    SampleSet train, test;
    samples_init(&train, 1);
    samples_init(&test, 1);
    ObjLm *o = NULL;
    Objective obj;
    double loss = NAN;
    bool ok = add_instructions(ctx, &train, &test, text, max, err) && add_format(ctx, &train, text, max, err) &&
              obj_lm_open(&o, &obj, &train, stage_pass_tokens(&train, k->micro_tokens), ctx->seed, err) &&
              stage_train(ctx, n->net, k, &obj, obj_lm_packs(o, 0), err) &&
              stage_lm_loss(&loss, n->net, &test, stage_pass_tokens(&test, k->micro_tokens), err);
    if (o) obj_lm_close(o);
    if (ok) {
        Summary s;
        summary_begin(&s);
        summary_num(&s, "rows", (double)train.n);
        summary_num(&s, "tokens_in_data", (double)train.off[train.n]);
        summary_num(&s, "held_out_loss", loss);
        ok = summary_end(&s, ctx, err);
    }
    samples_release(&train);
    samples_release(&test);
    return ok;
}

static bool run(const StageCtx *ctx, Error *err) {
    const char *base = stage_input(ctx, "pretrain"), *tokenizer = stage_input(ctx, "tokenizer");
    StageText text = {0};
    StageNet net = {0};
    bool ok = stage_text_open(&text, tokenizer, err) && stage_net_open(&net, ctx, base, HEAD_LM, true, err) &&
              train_on(ctx, &net, &text, err) && stage_net_save(ctx, net.net, tokenizer, err);
    stage_net_close(&net);
    stage_text_close(&text);
    return ok;
}

static void files(const RunConfig *c, void (*add)(void *ud, const char *path), void *ud) {
    stage_list_files(&c->data.sft, add, ud);
    stage_list_files(&c->data.format, add, ud);
    stage_list_files(&c->data.harm_qa, add, ud);
    stage_list_files(&c->data.prefs_harmless, add, ud);
}

const Stage stage_helpful = {.name = "helpful",
                             .help = "SFT on helpful dialogue and on the critique and judge formats",
                             .version = 2,
                             .needs = {"world", "tokenizer", "pretrain"},
                             .section = {"helpful.", "lora.", "data.sft", "data.format", "data.harm_qa",
                                         "data.prefs_harmless", "data.columns", "data.max_rows"},
                             .files = files,
                             .run = run};
