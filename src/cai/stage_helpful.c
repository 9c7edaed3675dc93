/* Helpful-only SFT: instructions, and demonstrations of the critique and judge formats. No refusal is taught here. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cai/format.h"
#include "cai/stages.h"

static void put_talk(Sequence *s, const Chat *c, const Row *r, bool all_turns) {
    Json *talk = NULL, *tools = NULL;
    Error err = {0};
    bool ok = json_parse(&talk, r->talk, strlen(r->talk), 0, "messages", 1, &err) &&
              (!r->talk_tools || json_parse(&tools, r->talk_tools, strlen(r->talk_tools), 0, "tools", 1, &err));
    CHECK(ok, "a row's own JSON does not read back: %s", err.msg);
    int from = r->talk_from, n = json_len(talk);
    for (int i = from; i < n && !all_turns; i++) {
        const char *role = json_str(json_get(json_at(talk, i), "role"), NULL);
        if (role && !strcmp(role, "assistant")) from = i;
    }
    chat_tools(s, c, talk, tools, from, 1);
    json_release(talk);
    json_release(tools);
}

static bool earlier_replies(const Row *r) {
    for (int i = r->learn_from; i < r->prompt.n; i++)
        if (r->prompt.msg[i].role == ROLE_ASSISTANT) return true;
    return false;
}

bool sequence_instruction(Sequence *s, const Chat *c, const Row *r, bool all_turns) {
    for (int i = 0; i < r->n_tok; i++) sequence_put(s, r->tok[i], r->tok_weight[i]);
    if (r->tok) return true;
    if (r->talk && !c->tmpl) return false;
    if (r->talk)
        put_talk(s, c, r, all_turns);
    else if (all_turns && earlier_replies(r)) {
        Message *m = mem_alloc((size_t)(r->prompt.n + 1) * sizeof *m);
        for (int i = 0; i < r->prompt.n; i++) m[i] = r->prompt.msg[i];
        m[r->prompt.n] = (Message){ROLE_ASSISTANT, r->a};
        chat_learn(s, c, (Dialogue){m, r->prompt.n + 1}, r->learn_from, 1);
        free(m);
    } else {
        chat_respond(s, c, r->prompt);
        chat_reply(s, c, r->a, 1, true);
    }
    return true;
}

bool instruction_ok(const Sequence *s, const Row *r, Error *err) {
    return sequence_ok(s, err) || error_wrap(err, "row %s (line %d)", r->id, r->line);
}

static bool add_instructions(const StageCtx *ctx, SampleSet *train, SampleSet *test, const StageText *text, int max,
                             Error *err) {
    Rows rows = {0};
    Sequence s = {0};
    int n_tools = 0;
    bool ok = stage_rows(&rows, ctx, &ctx->cfg->data.sft, ROW_INSTRUCTION, err) &&
              rows_check_ids(&rows, tokenizer_n_vocab(text->tok), err);
    for (int i = 0; i < rows.n && ok; i++) {
        const Row *r = &rows.row[i];
        sequence_clear(&s);
        if (instruction_held_out(ctx->cfg, r->id)) {
            ledger_in(ctx->ledger, 1, 0);
            ledger_add(ctx->ledger, LEDGER_DROPPED, "kept for evaluation", 1, 0);
            continue;
        }
        if (!sequence_instruction(&s, &text->chat, r, ctx->cfg->data.sft_turns == 0)) {
            ledger_in(ctx->ledger, 1, 0);
            ledger_add(ctx->ledger, LEDGER_DROPPED, INSTRUCTION_TOOLS, 1, 0);
            n_tools++;
            continue;
        }
        if (!(ok = instruction_ok(&s, r, err))) break;
        bool held = rng_uniform((Rng){ctx->seed, RNG_SPLIT}, stage_id(r->id), 0) < 0.03;
        if (!held)
            stage_add(ctx, train, &s, max, stage_id(r->id), 0, 1);
        else if (s.tok.n <= max)
            samples_add(test, s.tok.id, s.weight, s.tok.n, stage_id(r->id), 0, 1);
    }
    if (n_tools) log_warn(ctx->log, "data.sft: %d rows are left out: " INSTRUCTION_TOOLS, n_tools);
    sequence_release(&s);
    rows_release(&rows);
    return ok;
}

/* A judgement is one token (of "applies" too), a reply or a critique twenty and more: at equal weights a batch has
 * little to say about judging. spare: one that is too long is not counted in, there are more. */
static bool add_demonstration(const StageCtx *ctx, SampleSet *train, const StageText *text, Sequence *s, const Row *r,
                              int max, bool spare) {
    bool any = false, judged = r->label >= 0 && !r->critique;
    float weight = judged ? (float)ctx->cfg->helpful.judge_weight : 1;
    for (int part = 0; sequence_clear(s), format_sequence(s, &text->chat, r, part); part++)
        if (s->tok.n <= max || !spare) any |= stage_add(ctx, train, s, max, stage_id(r->id), 0, weight);
    return any;
}

/* data.format rows all go in; rows made from labelled replies and preferences fill up to helpful.format_share of the
 * rows. */
static bool add_format(const StageCtx *ctx, SampleSet *train, const StageText *text, int max, Error *err) {
    const RunConfig *c = ctx->cfg;
    Rows rows = {0}, made = {0}, labelled = {0}, prefs = {0}, sft = {0};
    Sequence s = {0};
    bool make = c->data.harm_qa.n + c->data.prefs_harmless.n > 0 && c->helpful.format_share > 0;
    bool ok = stage_rows(&rows, ctx, &c->data.format, ROW_FORMAT, err);
    if (make)
        ok = ok && stage_rows(&labelled, ctx, &c->data.harm_qa, ROW_LABELLED, err) &&
             stage_rows(&prefs, ctx, &c->data.prefs_harmless, ROW_PREFERENCE, err) &&
             stage_rows(&sft, ctx, &c->data.sft, ROW_INSTRUCTION, err);
    if (make && ok) format_rows_make(&made, ctx, &labelled, &prefs, &sft);
    for (int i = 0; i < rows.n && ok; i++) add_demonstration(ctx, train, text, &s, &rows.row[i], max, false);
    double share = c->helpful.format_share, want = share < 1 ? (double)train->n * share / (1 - share) : 1e18;
    int64_t *order = mem_alloc((size_t)(made.n + 1) * sizeof *order), kept = 0;
    rng_shuffle((Rng){ctx->seed, RNG_SHUFFLE}, 0, order, made.n);
    for (int i = 0; i < made.n && ok && kept < want; i++)
        kept += add_demonstration(ctx, train, text, &s, &made.row[order[i]], max, true);
    free(order);
    ok = ok && sequence_ok(&s, err);
    sequence_release(&s);
    rows_release(&rows);
    rows_release(&made);
    rows_release(&labelled);
    rows_release(&prefs);
    rows_release(&sft);
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
    bool ok =
        add_instructions(ctx, &train, &test, text, max, err) && add_format(ctx, &train, text, max, err) &&
        obj_lm_open(&o, &obj, &train, stage_pass_tokens(&train, k->micro_tokens), ctx->seed, err) &&
        stage_train(ctx, n->net, k, &obj, obj_lm_packs(o, 0), err) && stage_net_join(n, ctx, err) &&
        (!stage_measures(ctx) || stage_lm_loss(&loss, n->net, &test, stage_pass_tokens(&test, k->micro_tokens), err));
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
                             .version = 4,
                             .needs = {"world", "tokenizer", "pretrain"},
                             .section = {"helpful.", "lora.", "dist.", "data.sft", "data.format", "data.harm_qa",
                                         "data.prefs_harmless", "data.redteam", "data.benign", "data.eval",
                                         "data.dev_share", "data.columns", "data.max_rows"},
                             .files = files,
                             .spread = true,
                             .run = run};
