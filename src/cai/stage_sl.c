/* SL-CAI: SFT on the accepted revisions, on replies the critique found fine, and on helpful and format rows, mixed by
 * tokens. The whole of the revisions goes in once; the other parts are seeded samples sized by their shares. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/format.h"
#include "cai/stages.h"
#include "data/augment.h"

typedef struct {
    const StageCtx *ctx;
    const StageText *text;
    SampleSet *revised, *kept;
    int max;
    Sequence s;
} Revisions;

static bool add_revision(void *ud, const Json *row, int line, Error *err) {
    Revisions *r = ud;
    const char *prompt, *final, *outcome, *id;
    (void)line;
    if (!json_need_str(row, "id", &id, NULL, err) || !json_need_str(row, "prompt", &prompt, NULL, err) ||
        !json_need_str(row, "final", &final, NULL, err) || !json_need_str(row, "outcome", &outcome, NULL, err))
        return false;
    bool revised = !strcmp(outcome, "revised");
    if (!revised && strcmp(outcome, "kept")) return true;
    Message m = {ROLE_USER, prompt};
    sequence_clear(&r->s);
    chat_respond(&r->s, &r->text->chat, (Dialogue){&m, 1});
    chat_reply(&r->s, &r->text->chat, final, 1, true);
    if (r->s.tok.n <= r->max) {
        samples_add(revised ? r->revised : r->kept, r->s.tok.id, r->s.weight, r->s.tok.n, stage_id(id), 0, 1);
        return true;
    }
    ledger_in(r->ctx->ledger, 1, r->s.tok.n);
    ledger_add(r->ctx->ledger, LEDGER_DROPPED, "longer than the context", 1, r->s.tok.n);
    return true;
}

bool sequence_variant(Sequence *s, const StageCtx *ctx, const Chat *c, const Row *r, int v) {
    Rng rng = rng_derive((Rng){(uint64_t)ctx->cfg->run.seed, RNG_AUGMENT}, "instructions");
    Str text = {0};
    int last = r->prompt.n - 1;
    bool ok = !r->tok && !r->talk && last >= 0 && r->prompt.msg[last].role == ROLE_USER &&
              augment_prompt(&text, r->prompt.msg[last].text, AUGMENT_SLOTS | AUGMENT_WRAPPERS, rng, stage_id(r->id),
                             (uint32_t)v);
    if (ok) {
        Message *m = mem_alloc((size_t)r->prompt.n * sizeof *m);
        memcpy(m, r->prompt.msg, (size_t)r->prompt.n * sizeof *m);
        m[last].text = str_get(&text);
        Row asked = *r;
        asked.prompt.msg = m;
        ok = sequence_instruction(s, c, &asked, ctx->cfg->data.sft_turns == 0);
        free(m);
    }
    str_release(&text);
    return ok;
}

/* Rows of data.sft, or of formats. */
typedef struct {
    const Rows *rows;
    bool format, all_turns;
} Rest;

/* Parts of a format row; of an instruction itself and its variants. */
static bool put_part(Sequence *s, const StageCtx *ctx, const Chat *c, const Row *r, const Rest *rest, int part) {
    sequence_clear(s);
    if (rest->format) return format_sequence(s, c, r, part);
    if (part == 0) return sequence_instruction(s, c, r, rest->all_turns);
    return part <= ctx->cfg->sl.variants && sequence_variant(s, ctx, c, r, part - 1);
}

static bool add_rows(SampleSet *set, const StageCtx *ctx, const StageText *text, const Rest *rest, int max,
                     Error *err) {
    const Rows *rows = rest->rows;
    Sequence s = {0};
    bool ok = true;
    for (int i = 0; i < rows->n && ok; i++) {
        const Row *r = &rows->row[i];
        if (!rest->format && instruction_held_out(ctx->cfg, r->id)) continue;
        for (int part = 0; put_part(&s, ctx, &text->chat, r, rest, part); part++)
            if (s.tok.n <= max) samples_add(set, s.tok.id, s.weight, s.tok.n, stage_id(r->id), 0, 1);
        ok = instruction_ok(&s, r, err);
    }
    sequence_release(&s);
    return ok;
}

/* Copies samples in a seeded order, again from the start when they run out, until about n_tok tokens are in. */
static void take(const StageCtx *ctx, SampleSet *to, const SampleSet *from, double n_tok, uint64_t part) {
    int64_t *order = mem_alloc((size_t)(from->n + 1) * sizeof *order);
    Sequence view = {0};
    double taken = 0;
    for (int64_t k = 0; from->n > 0 && taken < n_tok; k++) {
        if (k % from->n == 0)
            rng_shuffle((Rng){ctx->seed, RNG_SHUFFLE}, part + 16 * (uint64_t)(k / from->n), order, from->n);
        int64_t i = order[k % from->n], at = from->off[i];
        int n = (int)(from->off[i + 1] - at);
        view.tok.id = from->tok + at;
        view.tok.n = n;
        view.weight = from->weight + at;
        stage_add(ctx, to, &view, n, from->id[i], 0, 1);
        taken += n;
    }
    free(order);
}

enum { PART_REVISED, PART_KEPT, PART_HELPFUL, PART_FORMAT, N_PART };

static bool collect(const StageCtx *ctx, SampleSet part[N_PART], const StageText *text, int max, Error *err) {
    const RunConfig *c = ctx->cfg;
    Revisions r = {.ctx = ctx, .text = text, .revised = &part[PART_REVISED], .kept = &part[PART_KEPT], .max = max};
    Rows sft = {0}, format = {0}, labelled = {0}, prefs = {0};
    bool ok = jsonl_each(stage_input(ctx, "revise"), "revisions.jsonl", add_revision, &r, err) &&
              stage_rows(&sft, ctx, &c->data.sft, ROW_INSTRUCTION, err) &&
              rows_check_ids(&sft, tokenizer_n_vocab(text->tok), err) &&
              stage_rows(&format, ctx, &c->data.format, ROW_FORMAT, err);
    if (ok && format.n == 0)
        ok = stage_rows(&labelled, ctx, &c->data.harm_qa, ROW_LABELLED, err) &&
             stage_rows(&prefs, ctx, &c->data.prefs_harmless, ROW_PREFERENCE, err);
    if (ok) {
        if (format.n == 0) format_rows_make(&format, ctx, &labelled, &prefs, &sft);
        ok = sequence_ok(&r.s, err) &&
             add_rows(&part[PART_HELPFUL], ctx, text, &(Rest){&sft, false, c->data.sft_turns == 0}, max, err) &&
             add_rows(&part[PART_FORMAT], ctx, text, &(Rest){&format, true, false}, max, err);
    }
    sequence_release(&r.s);
    rows_release(&sft);
    rows_release(&format);
    rows_release(&labelled);
    rows_release(&prefs);
    return ok;
}

/* The total follows from the revisions (or, with none, from what was kept) and their share. */
static bool mix(const StageCtx *ctx, SampleSet *set, SampleSet part[N_PART], Summary *sum, Error *err) {
    const RunConfig *c = ctx->cfg;
    const double share[N_PART] = {c->sl.revise_share, c->sl.keep_share, c->sl.helpful_share, c->sl.format_share};
    static const char *const name[N_PART] = {"revised", "kept", "helpful", "format"};
    int lead = part[PART_REVISED].n > 0 && share[PART_REVISED] > 0 ? PART_REVISED : PART_KEPT;
    if (part[lead].n == 0 || share[lead] <= 0)
        return error_set(err, ERR_STATE,
                         "stage 'revise' accepted nothing to learn from; the reasons are counted in %s/summary.json",
                         stage_input(ctx, "revise"));
    double total = (double)part[lead].off[part[lead].n] / share[lead];
    for (int p = 0; p < N_PART; p++) {
        char key[64];
        int64_t before = set->n, tokens = set->off[set->n];
        if (share[p] > 0) take(ctx, set, &part[p], share[p] * total, (uint64_t)p);
        summary_num(sum, (snprintf(key, sizeof key, "%s.rows", name[p]), key), (double)(set->n - before));
        summary_num(sum, (snprintf(key, sizeof key, "%s.tokens", name[p]), key), (double)(set->off[set->n] - tokens));
        summary_num(sum, (snprintf(key, sizeof key, "%s.available", name[p]), key), (double)part[p].n);
    }
    return true;
}

static bool train_on(const StageCtx *ctx, StageNet *n, const StageText *text, Error *err) {
    const TrainKeys *k = &ctx->cfg->sl.t;
    int max = n->m.cfg.max_seq;
    SampleSet part[N_PART], set;
    for (int p = 0; p < N_PART; p++) samples_init(&part[p], 1);
    samples_init(&set, 1);
    Summary sum;
    summary_begin(&sum);
    ObjLm *o = NULL;
    Objective obj;
    bool ok = collect(ctx, part, text, max, err) && mix(ctx, &set, part, &sum, err) &&
              obj_lm_open(&o, &obj, &set, stage_pass_tokens(&set, k->micro_tokens), ctx->seed, err) &&
              stage_train(ctx, n->net, k, &obj, obj_lm_packs(o, 0), err) && stage_net_join(n, ctx, err);
    if (o) obj_lm_close(o);
    if (ok)
        ok = summary_end(&sum, ctx, err);
    else
        str_release(&sum.text);
    for (int p = 0; p < N_PART; p++) samples_release(&part[p]);
    samples_release(&set);
    return ok;
}

static bool run(const StageCtx *ctx, Error *err) {
    const char *tokenizer = stage_input(ctx, "tokenizer"),
               *start = stage_input(ctx, ctx->cfg->sl.start == 0 ? "helpful" : "pretrain");
    StageText text = {0};
    StageNet net = {0};
    bool ok = stage_text_open(&text, tokenizer, err) && stage_net_open(&net, ctx, start, HEAD_LM, true, err) &&
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

const Stage stage_sl = {.name = "sl",
                        .help = "SL-CAI: SFT on accepted revisions, kept replies, helpful and format rows",
                        .version = 3,
                        .needs = {"world", "tokenizer", "pretrain", "helpful", "revise"},
                        .section = {"sl.", "lora.", "dist.", "data.sft", "data.format", "data.harm_qa",
                                    "data.prefs_harmless", "data.redteam", "data.benign", "data.eval", "data.dev_share",
                                    "data.columns", "data.max_rows"},
                        .files = files,
                        .spread = true,
                        .run = run};
