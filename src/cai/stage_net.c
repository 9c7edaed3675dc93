#include "cai/stage_net.h"

#include <string.h>

#include "base/io.h"
#include "cai/hf_folder.h"
#include "cai/stage_util.h"
#include "dist/agree.h"
#include "engine/lead.h"
#include "nn/regroup.h"

bool stage_text_open(StageText *t, const char *dir, Error *err) {
    *t = (StageText){0};
    if (!tokenizer_open(&t->tok, dir, err)) return false;
    if (!chat_open(&t->chat, t->tok, dir, CHAT_FIXED_DAY, err)) {
        stage_text_close(t);
        return false;
    }
    return true;
}

void stage_text_close(StageText *t) {
    chat_close(&t->chat);
    if (t->tok) tokenizer_close(t->tok);
    *t = (StageText){0};
}

/* dir's trunk with the head of that kind that lies there, or a fresh one of n_fresh outputs. */
static bool open_dir(StageNet *n, const StageCtx *ctx, const char *dir, HeadKind kind, int n_fresh, bool grads,
                     Error *err) {
    bool lora = grads && stage_lora(ctx), all = grads && !lora, of_head = all || (lora && kind == HEAD_SCORE);
    Mesh share = mesh_divides(ctx->mesh) ? mesh_share(ctx->mesh) : (Mesh){0};
    const Mesh *mesh = all ? ctx->mesh : mesh_divides(ctx->mesh) ? &share : NULL;
    bool ok = model_open_on(&n->m, ctx->be, dir, mesh, all, err);
    if (ok && !(n_fresh ? head_init(&n->h, &n->m, kind, n_fresh, ctx->seed, of_head, err)
                        : head_open(&n->h, &n->m, kind, dir, of_head, err))) {
        model_release(&n->m);
        ok = false;
    }
    n->net = (Net){&n->m, &n->h, NULL};
    n->open = ok;
    return ok && (!lora || stage_net_adapt(n, ctx, dir, err));
}

bool stage_net_open(StageNet *n, const StageCtx *ctx, const char *stage_dir, HeadKind kind, bool grads, Error *err) {
    *n = (StageNet){0};
    Str dir = {0};
    path_join(&dir, stage_dir, "model");
    bool ok;
    if (ctx->lead && !grads) {
        ok = n->open = lead_net_open(ctx->lead, &n->m, &n->h, ctx->be, str_get(&dir), kind, err);
        n->net = (Net){&n->m, &n->h, NULL};
    } else {
        ok = open_dir(n, ctx, str_get(&dir), kind, 0, grads, err);
    }
    str_release(&dir);
    return ok;
}

bool stage_net_open_fresh(StageNet *n, const StageCtx *ctx, const char *stage_dir, int n_out, Error *err) {
    *n = (StageNet){0};
    Str dir = {0};
    path_join(&dir, stage_dir, "model");
    bool ok = open_dir(n, ctx, str_get(&dir), HEAD_SCORE, n_out, true, err);
    str_release(&dir);
    return ok;
}

bool stage_net_join(StageNet *n, const StageCtx *ctx, Error *err) {
    Regroup *r = NULL;
    if (!model_is_stage(n->net.trunk)) return true;
    if (!regroup_open(&r, n->net, ctx->mesh, false, err)) return false;
    if (!regroup_refresh(r, err)) {
        regroup_close(r);
        return false;
    }
    head_release(&n->h);
    model_release(&n->m);
    regroup_take(r, &n->m, &n->h);
    return true;
}

bool stage_measures(const StageCtx *ctx) { return !ctx->mesh || comm_rank(ctx->mesh->world) < ctx->mesh->size.tp; }

bool stage_agree(const StageCtx *ctx, bool ok, Error *err) {
    Error mine = {0};
    if (!ctx->mesh) return ok;
    if (!ok) mine = *err;
    return agree(ctx->mesh->tp, &mine, NULL, 0, NULL, err);
}

bool stage_net_part(StageNet *n, const StageCtx *ctx, Error *err) {
    if (!mesh_divides(ctx->mesh)) return true;
    Model m = n->m;
    Head h = n->h;
    Net whole = {&m, &h, NULL};
    n->net = (Net){&n->m, &n->h, NULL};
    bool ok = model_init_on(&n->m, m.be, &m.whole, ctx->mesh, 0, true, err);
    if (ok) {
        n->m.tokens = m.tokens;
        ok = head_init(&n->h, &n->m, h.kind, h.kind == HEAD_LM ? m.whole.n_vocab : h.n_out, 0, true, err) &&
             net_copy_weights(n->net, whole, err);
        if (!ok) head_release(&n->h);
        if (!ok) model_release(&n->m);
    }
    head_release(&h);
    model_release(&m);
    n->open = ok;
    return ok;
}

void stage_net_close(StageNet *n) {
    if (!n->open) return;
    lead_net_close(n->net.trunk);
    adapter_close(n->adapter);
    n->adapter = NULL;
    head_release(&n->h);
    model_release(&n->m);
    n->open = false;
}

/* -- adapters */

bool stage_lora_of(const RunConfig *cfg, const char *stage) {
    for (int i = 0; i < cfg->lora.stages.n && cfg->lora.r > 0; i++)
        if (!strcmp(cfg->lora.stages.item[i], stage)) return true;
    return false;
}

bool stage_lora(const StageCtx *ctx) { return stage_lora_of(ctx->cfg, ctx->stage->name); }

bool stage_lora_check(const RunConfig *cfg, Error *err) {
    static const char *const known[] = {"helpful", "sl", "pm", "rl", "classifier"};
    for (int i = 0; i < cfg->lora.stages.n; i++) {
        const char *name = cfg->lora.stages.item[i];
        bool found = false;
        for (int k = 0; k < COUNT_OF(known); k++) found = found || !strcmp(name, known[k]);
        if (!strcmp(name, "pretrain"))
            return error_set(
                err, ERR_CONFIG,
                "lora.stages: pre-training is of all weights; pretrain.steps 0 with pretrain.epochs 0 takes "
                "model.path over as it is");
        if (!found)
            return error_set(err, ERR_CONFIG,
                             "lora.stages: '%.40s' trains no adapter, expected some of helpful, sl, pm, rl, classifier",
                             name);
    }
    return cfg->pm.n_layer == 0 || !stage_lora_of(cfg, "pm") ||
           error_set(err, ERR_CONFIG,
                     "pm.n_layer %lld with LoRA: the preference model's adapter stands beside the whole of SL-CAI; set "
                     "pm.n_layer=0, or leave pm out of lora.stages",
                     (long long)cfg->pm.n_layer);
}

bool stage_net_adapt(StageNet *n, const StageCtx *ctx, const char *base_dir, Error *err) {
    const RunConfig *c = ctx->cfg;
    LoraConfig lora = {.r = (int)c->lora.r,
                       .alpha = c->lora.alpha,
                       .rslora = c->lora.rslora,
                       .dropout = c->lora.dropout,
                       .target = (const char *const *)c->lora.targets.item,
                       .n_target = c->lora.targets.n,
                       .base = base_dir};
    if (!adapter_init(&n->adapter, n->net.trunk, &lora, ctx->seed, true, err)) {
        stage_net_close(n);
        return error_wrap(err, "lora.targets");
    }
    n->net.adapter = n->adapter;
    log_info(ctx->log, "%lld parameters of an adapter of rank %d are trained, the model stays as it is",
             (long long)adapter_params(n->adapter), lora.r);
    return true;
}

void stage_net_frozen(StageNet *n, const StageNet *base) {
    *n = (StageNet){.net = base->net};
    n->net.adapter = NULL;
}

bool stage_net_attach(StageNet *n, const StageNet *base, const char *stage_dir, bool grads, Error *err) {
    Str dir = {0};
    *n = (StageNet){.net = {base->net.trunk, &n->h, NULL}, .open = true};
    path_join(&dir, stage_dir, "adapter");
    bool ok = adapter_open(&n->adapter, n->net.trunk, str_get(&dir), grads, err) &&
              adapter_head_open(&n->h, n->net.trunk, str_get(&dir), grads, err);
    n->net.adapter = n->adapter;
    if (!ok) stage_net_close(n);
    str_release(&dir);
    return ok;
}

static bool is_eos(const ModelTokens *t, int id) {
    for (int i = 0; i < t->n_eos; i++)
        if (t->eos[i] == id) return true;
    return false;
}

static void name_tokens(ModelTokens *t, const Chat *chat) {
    int end = chat->id[SENT_END];
    if (t->bos < 0) t->bos = chat->id[SENT_ENDOFTEXT];
    if (t->n_eos == 0 || t->eos[0] != end) {
        ModelTokens old = *t;
        t->n_eos = 0;
        t->eos[t->n_eos++] = end;
        for (int i = 0; i < old.n_eos && t->n_eos < MODEL_MAX_EOS; i++)
            if (old.eos[i] != end) t->eos[t->n_eos++] = old.eos[i];
    }
    /* With a template of its own the tokenizer's files are there, and name one. */
    if (chat->tmpl || t->pad < 0 || t->pad == t->bos || is_eos(t, t->pad)) t->pad = chat->pad;
}

/* Later stages and other programs open a whole model; what was learnt stays readable beside it. */
static bool save_adapter(const StageCtx *ctx, Net *net, Error *err) {
    if (!net->adapter) return true;
    Str dir = {0};
    path_join(&dir, ctx->output, "adapter");
    bool ok = adapter_save(*net, str_get(&dir), err);
    str_release(&dir);
    if (ok) net_merge(*net);
    net->adapter = NULL;
    return ok;
}

bool stage_net_save(const StageCtx *ctx, Net net, const char *text_dir, Error *err) {
    bool parts = !model_is_whole(net.trunk), leads = stage_leads(ctx);
    if (!leads && (!parts || ctx->mesh->at.dp > 0)) return true;
    Str from = {0}, to = {0};
    StageText text = {0};
    Model *m = net.trunk;
    Error mine = {0};
    bool ok = !leads || (stage_text_open(&text, text_dir, &mine) && save_adapter(ctx, &net, &mine));
    if (ok) mine = (Error){0};
    ok = agree(parts ? ctx->mesh->model : NULL, &mine, NULL, 0, NULL, err);
    if (!leads) return ok && net_save_on(net, ctx->mesh, NULL, err); /* of what it has */
    path_join(&to, ctx->output, "model");
    if (ok) {
        name_tokens(&m->tokens, &text.chat);
        m->cfg.eos_id = m->whole.eos_id = m->tokens.eos[0];
        HfExtras x = {.tok = text.tok, .tokens = m->tokens, .max_seq = m->cfg.max_seq};
        if (!text.chat.tmpl) x.chat_template = chat_native_template();
        ok = net_save_on(net, ctx->mesh, str_get(&to), err) && hf_extras_write(str_get(&to), &x, err);
    }
    /* With a template of its own the tokenizer's stage has what stands beside it, and that goes over what was written.
     */
    static const char *const file[] = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"};
    for (int i = 0; i < COUNT_OF(file) && ok; i++) {
        path_join(&from, text_dir, file[i]);
        path_join(&to, ctx->output, "model");
        str_printf(&to, "/%s", file[i]);
        if (i == 0 || io_exists(str_get(&from))) ok = io_copy_file(str_get(&from), str_get(&to), err);
    }
    stage_text_close(&text);
    str_release(&from);
    str_release(&to);
    return ok;
}
