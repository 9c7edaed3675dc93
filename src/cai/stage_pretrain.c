/* Pre-training: language modelling on packed text, from random weights or an imported model; of no steps and no epochs
 * it takes the model over as it is, and no gradients are ever in memory. */
#include "base/io.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cai/stages.h"

static bool trains(const RunConfig *c) { return c->pretrain.t.steps > 0 || c->pretrain.t.epochs > 0; }

static int round_up(double v, int to) { return (int)ceil(v / to) * to; }

bool stage_model_config(ModelConfig *m, const RunConfig *c, const StageText *text, Error *err) {
    return stage_model_shape(m, c, tokenizer_n_vocab(text->tok), text->chat.id[SENT_END], err);
}

bool stage_model_shape(ModelConfig *m, const RunConfig *c, int n_vocab, int32_t end_id, Error *err) {
    bool llama = c->model.family == 0;
    int d = (int)c->model.d_model, heads = (int)c->model.n_head;
    if (d % heads)
        return error_set(err, ERR_CONFIG, "model.d_model %d is not a multiple of model.n_head %d: change one of them",
                         d, heads);
    *m = (ModelConfig){
        .family = llama ? FAMILY_LLAMA : FAMILY_GPT2,
        .n_layer = (int)c->model.n_layer,
        .n_head = heads,
        .n_kv_head = c->model.n_kv_head ? (int)c->model.n_kv_head : heads,
        .d_model = d,
        .d_head = d / heads,
        .d_ff = c->model.d_ff ? (int)c->model.d_ff
                : llama       ? round_up(d * 8.0 / 3, 32)
                              : 4 * d,
        .n_vocab = n_vocab,
        .max_seq = (int)c->model.max_seq,
        .norm = llama ? NORM_RMS : NORM_LAYER,
        .pos = llama ? POS_ROPE : POS_LEARNED,
        .mlp = llama ? MLP_SWIGLU : MLP_GELU,
        .gelu = GELU_TANH,
        .qkv_bias = !llama,
        .out_bias = !llama,
        .mlp_bias = !llama,
        .tied = c->model.tied,
        .rope_theta = c->model.rope_theta,
        .norm_eps = 1e-5,
        .eos_id = end_id,
    };
    return model_config_check(m, err);
}

/* Rows for the special tokens that stage tokenizer has added. */
static bool grow(StageNet *n, const StageCtx *ctx, const StageText *text, Error *err) {
    int has = n->m.whole.n_vocab, need = tokenizer_n_vocab(text->tok);
    log_warn_lines(ctx->log, ctx->cfg->model.path, str_get(&n->m.note));
    if (need <= has) return true;
    log_info(ctx->log, "embeddings grown from %d to %d rows", has, need);
    if (net_grow_vocab(&n->m, &n->h, need, ctx->seed, err)) return true;
    head_release(&n->h);
    model_release(&n->m);
    return false;
}

static bool open_net(StageNet *n, const StageCtx *ctx, const StageText *text, Error *err) {
    const RunConfig *c = ctx->cfg;
    bool ok, parts = trains(c) && mesh_divides(ctx->mesh);
    *n = (StageNet){0};
    if (c->model.path[0]) { /* parts are cut when new rows are in, read as such when there are none */
        ModelConfig has;
        if (!model_config_read(&has, c->model.path, err)) return false;
        bool fits = has.n_vocab >= tokenizer_n_vocab(text->tok), grads = trains(c) && (!parts || fits);
        ok = model_open_on(&n->m, ctx->be, c->model.path, parts && fits ? ctx->mesh : NULL, grads, err);
        if (ok && !head_open(&n->h, &n->m, HEAD_LM, c->model.path, grads, err)) {
            model_release(&n->m);
            return false;
        }
        ok = ok && grow(n, ctx, text, err);
    } else {
        ModelConfig m;
        ok = stage_model_config(&m, c, text, err) &&
             model_init_on(&n->m, ctx->be, &m, trains(c) ? ctx->mesh : NULL, ctx->seed, trains(c), err);
        if (ok && !head_init(&n->h, &n->m, HEAD_LM, m.n_vocab, ctx->seed, trains(c), err)) {
            model_release(&n->m);
            return false;
        }
    }
    n->net = (Net){&n->m, &n->h, NULL};
    n->open = ok;
    return ok && (!parts || n->m.part.tp_n > 1 || model_is_stage(&n->m) || stage_net_part(n, ctx, err));
}

static bool train_on(const StageCtx *ctx, StageNet *n, const StageText *text, Rows *rows, Error *err) {
    const RunConfig *c = ctx->cfg;
    int held = rows->n > 20 ? rows->n / 20 : 0, max = (int)c->model.max_seq;
    if (c->pretrain.objective == 1 && text->chat.id[SENT_MASK] < 0)
        return error_set(err, ERR_CONFIG,
                         "pretrain.objective=masked needs the special token <|mask|>: set model.prompts=sentinels");
    if (max > n->m.cfg.max_seq) max = n->m.cfg.max_seq;
    int max_tok = (int)c->pretrain.t.micro_tokens > max ? (int)c->pretrain.t.micro_tokens : max;
    SampleSet set, test;
    samples_init(&set, 1);
    samples_init(&test, 1);
    Rows first = *rows, last = *rows;
    first.n -= held;
    last.row += first.n;
    last.n = held;
    Ledger *unbooked = ledger_new();
    stage_add_texts(&set, ctx, text, first.row, first.n, max, trains(c) ? ctx->ledger : unbooked);
    stage_add_texts(&test, ctx, text, last.row, last.n, max, unbooked);
    ledger_free(unbooked);
    ObjLm *o = NULL;
    Objective obj;
    bool masked = c->pretrain.objective == 1;
    bool ok = masked ? obj_mlm_open(&o, &obj, &set, max_tok, ctx->seed, text->chat.id[SENT_MASK], SENT_COUNT,
                                    n->m.whole.n_vocab, c->pretrain.mask_rate, err)
                     : obj_lm_open(&o, &obj, &set, max_tok, ctx->seed, err);
    double held_loss = NAN;
    ok = ok && (!trains(c) || stage_train(ctx, n->net, &c->pretrain.t, &obj, obj_lm_packs(o, 0), err)) &&
         stage_net_join(n, ctx, err) &&
         (held == 0 || !stage_measures(ctx) || stage_lm_loss(&held_loss, n->net, &test, max_tok, err));
    if (o) obj_lm_close(o);
    if (ok) {
        Summary s;
        summary_begin(&s);
        summary_num(&s, "parameters", (double)model_config_params(&n->m.whole));
        summary_num(&s, "documents", first.n);
        summary_num(&s, "tokens_in_data", (double)set.off[set.n]);
        summary_num(&s, "held_out_loss", held_loss);
        ok = summary_end(&s, ctx, err);
    }
    samples_release(&set);
    samples_release(&test);
    return ok;
}

static bool run(const StageCtx *ctx, Error *err) {
    const char *tokenizer = stage_input(ctx, "tokenizer");
    StageText text = {0};
    StageNet net = {0};
    Rows rows = {0};
    bool ok = stage_text_open(&text, tokenizer, err) && open_net(&net, ctx, &text, err) &&
              stage_rows(&rows, ctx, &ctx->cfg->data.pretrain, ROW_TEXT, err) &&
              rows_check_ids(&rows, tokenizer_n_vocab(text.tok), err) && train_on(ctx, &net, &text, &rows, err) &&
              stage_net_save(ctx, net.net, tokenizer, err);
    rows_release(&rows);
    stage_net_close(&net);
    stage_text_close(&text);
    return ok;
}

/* What model_open reads: shards where there are some. */
static void import_files(const char *dir, void (*add)(void *ud, const char *path), void *ud) {
    char **name;
    int n, found = 0;
    Error none = {0};
    stage_import_file(dir, "config.json", add, ud);
    if (io_list_dir(&name, &n, dir, &none)) {
        for (int i = 0; i < n; i++) {
            size_t len = strlen(name[i]);
            bool weights = len > 12 && strcmp(name[i] + len - 12, ".safetensors") == 0;
            bool beside =
                !strcmp(name[i], "model.safetensors.index.json") || !strcmp(name[i], "generation_config.json");
            if (weights || beside) stage_import_file(dir, name[i], add, ud);
            found += weights;
        }
        io_free_list(name, n);
    }
    if (found == 0) stage_import_file(dir, "model.safetensors", add, ud);
}

static void files(const RunConfig *c, void (*add)(void *ud, const char *path), void *ud) {
    stage_list_files(&c->data.pretrain, add, ud);
    if (c->model.path[0]) import_files(c->model.path, add, ud);
}

const Stage stage_pretrain = {
    .name = "pretrain",
    .help = "language modelling on text, from random weights or model.path",
    .version = 3,
    .needs = {"world", "tokenizer"},
    .section = {"pretrain.", "model.", "dist.", "data.columns", "data.max_rows", "data.pretrain"},
    .files = files,
    .spread = true,
    .run = run};
