#include "cai/stage_util.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/io.h"
#include "cai/hf_folder.h"
#include "data/source.h"
#include "dist/agree.h"
#include "engine/lead.h"
#include "nn/regroup.h"

bool stage_leads(const StageCtx *ctx) { return mesh_leads(ctx->mesh); }

const char *stage_input(const StageCtx *ctx, const char *name) {
    for (int i = 0; i < STAGE_MAX_NEEDS && ctx->stage->needs[i]; i++)
        if (!strcmp(ctx->stage->needs[i], name)) return ctx->input[i];
    CHECK(false, "stage '%s' asks for '%s', which it does not name in needs[]", ctx->stage->name, name);
    return NULL;
}

void path_join(Str *out, const char *a, const char *b) {
    str_clear(out);
    bool as_is = b[0] == '/' || !strncmp(b, "./", 2) || !strncmp(b, "../", 3);
    if (!as_is && a[0]) str_printf(out, "%s/", a);
    str_put(out, b);
}

void stage_data_path(Str *out, const char *data_dir, const char *name) { path_join(out, data_dir, name); }

void constitution_path(Str *out, const RunConfig *cfg, const char *data_dir) {
    str_clear(out);
    if (io_exists(cfg->constitution.path))
        str_put(out, cfg->constitution.path);
    else
        path_join(out, data_dir, cfg->constitution.path);
}

static bool keep_only(Constitution *c, const CfgList *only, const char *path, Error *err) {
    if (only->n == 0) return true;
    Principle *kept = heap_alloc(&c->heap, (size_t)only->n * sizeof *kept);
    for (int i = 0; i < only->n; i++) {
        int at = constitution_find(c, only->item[i]);
        if (at < 0)
            return error_set(err, ERR_CONFIG, "constitution.only: %s has no principle '%s'", path, only->item[i]);
        kept[i] = c->principle[at];
    }
    c->principle = kept;
    c->n = only->n;
    return true;
}

bool stage_constitution(Constitution *c, const RunConfig *cfg, const char *data_dir, Error *err) {
    Str path = {0};
    constitution_path(&path, cfg, data_dir);
    bool ok = io_exists(str_get(&path))
                  ? constitution_read(c, str_get(&path), err)
                  : error_set(err, ERR_FORMAT, "constitution.path=%s: no such file, neither from here nor at %s",
                              cfg->constitution.path, str_get(&path));
    if (ok && !keep_only(c, &cfg->constitution.only, str_get(&path), err)) {
        constitution_release(c);
        ok = false;
    }
    str_release(&path);
    return ok;
}

bool stage_rows(Rows *out, const StageCtx *ctx, const CfgList *files, RowKind kind, Error *err) {
    Str path = {0};
    Columns columns;
    const CfgList *names = &ctx->cfg->data.columns;
    if (!columns_parse(&columns, (const char *const *)names->item, names->n, "data.columns", err)) return false;
    bool ok = true;
    int64_t max = ctx->cfg->data.max_rows;
    int skipped = out->n_skip;
    for (int i = 0; i < files->n && ok; i++) {
        stage_data_path(&path, ctx->data_dir, files->item[i]);
        int first = out->n, reason = 0;
        int before[ROWS_SKIPS];
        for (int k = 0; k < ROWS_SKIPS; k++) before[k] = out->skip[k].n;
        ok = rows_read_pool(out, str_get(&path), kind, &columns, ctx->be ? ctx->be->pool : NULL, err);
        int n = ok ? out->n - first : 0;
        if (ok && out->n_skip > skipped)
            log_info(ctx->log, "%s: %d rows teach nothing (such as '%s') and are left out", files->item[i],
                     out->n_skip - skipped, out->skip[0].reason);
        skipped = out->n_skip;
        for (; ok && reason < ROWS_SKIPS && out->skip[reason].reason; reason++) {
            int gone = out->skip[reason].n - before[reason];
            ledger_in(ctx->ledger, gone, 0);
            ledger_add(ctx->ledger, LEDGER_DROPPED, out->skip[reason].reason, gone, 0);
        }
        if (max > 0 && n > max) {
            /* A seeded sample in file order: row k of n stays when its rank in a permutation is below max. */
            int64_t *order = mem_alloc((size_t)n * sizeof *order);
            rng_shuffle((Rng){(uint64_t)ctx->cfg->run.seed, RNG_SPLIT},
                        hash_bytes(files->item[i], strlen(files->item[i])).lo, order, n);
            int kept = first;
            for (int k = 0; k < n; k++)
                if (order[k] < max) out->row[kept++] = out->row[first + k];
            out->n = kept;
            free(order);
        }
    }
    columns_release(&columns);
    str_release(&path);
    return ok;
}

/* The row with our names and without nulls; NULL: it is no object. */
static Json *plain_row(const Json *row, const Columns *c, const char *path, int line, Error *err) {
    Str text = {0};
    JsonOut j;
    Json *out = NULL;
    if (json_kind(row) != JSON_OBJ) {
        error_set(err, ERR_FORMAT, "%s:%d: expected an object {...}", path, line);
        return NULL;
    }
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    for (int i = 0; i < json_len(row); i++) {
        const Json *value;
        const char *key = json_key_at(row, i, &value);
        if (json_kind(value) != JSON_NIL) json_out_node(&j, columns_ours(c, key), value);
    }
    json_out_obj_end(&j);
    if (!json_parse(&out, text.s, text.n, JSON_NUL_OK, path, line, err)) out = NULL;
    str_release(&text);
    return out;
}

bool stage_each_row(const StageCtx *ctx, const char *file, JsonlFn *fn, void *ud, Error *err) {
    const CfgList *names = &ctx->cfg->data.columns;
    Str path = {0};
    Columns columns;
    Source *in = NULL;
    SourceRow row;
    int n = 0;
    if (!columns_parse(&columns, (const char *const *)names->item, names->n, "data.columns", err)) return false;
    stage_data_path(&path, ctx->data_dir, file);
    err->code = ERR_NONE;
    bool ok = source_open(&in, str_get(&path), false, &columns, err), more = ok;
    for (; ok && more; n++) {
        Json *parsed = NULL, *plain = NULL;
        ok = source_next(in, &row, err);
        more = ok && (row.text || row.value);
        if (!more) break;
        ok = row.value || json_parse(&parsed, row.text, row.n, JSON_NUL_OK, str_get(&path), row.line, err);
        if (ok) plain = plain_row(row.value ? row.value : parsed, &columns, str_get(&path), row.line, err);
        ok = ok && plain && (fn(ud, plain, row.line, err) || error_wrap(err, "%s:%d", str_get(&path), row.line));
        json_release(plain);
        json_release(parsed);
        if (source_held(in) > (size_t)1 << 20) source_forget(in);
    }
    if (ok && n == 0) ok = error_set(err, ERR_FORMAT, "%s: no rows: the file is empty", str_get(&path));
    source_close(in);
    columns_release(&columns);
    str_release(&path);
    return ok;
}

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

bool stage_net_open(StageNet *n, const StageCtx *ctx, const char *stage_dir, HeadKind kind, bool grads, Error *err) {
    *n = (StageNet){0};
    Str dir = {0};
    path_join(&dir, stage_dir, "model");
    if (ctx->lead && !grads) {
        n->open = lead_net_open(ctx->lead, &n->m, &n->h, ctx->be, str_get(&dir), kind, err);
        n->net = (Net){&n->m, &n->h, NULL};
        str_release(&dir);
        return n->open;
    }
    bool lora = grads && stage_lora(ctx), all = grads && !lora;
    Mesh share = mesh_divides(ctx->mesh) ? mesh_share(ctx->mesh) : (Mesh){0};
    const Mesh *mesh = all ? ctx->mesh : mesh_divides(ctx->mesh) ? &share : NULL;
    bool ok = model_open_on(&n->m, ctx->be, str_get(&dir), mesh, all, err);
    if (ok && !head_open(&n->h, &n->m, kind, str_get(&dir), all || (lora && kind == HEAD_SCORE), err)) {
        model_release(&n->m);
        ok = false;
    }
    n->net = (Net){&n->m, &n->h, NULL};
    n->open = ok;
    ok = ok && (!lora || stage_net_adapt(n, ctx, str_get(&dir), err));
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

void stage_warn_notes(Log *log, const char *dir, const char *note) {
    for (size_t n; (n = strcspn(note, "\n")) > 0; note += n + (note[n] != 0))
        log_warn(log, "%s: %.*s", dir, (int)n, note);
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

void stage_optim(OptimConfig *o, const TrainKeys *k) {
    *o = (OptimConfig){.lr = k->lr,
                       .beta1 = k->beta1,
                       .beta2 = k->beta2,
                       .eps = k->eps,
                       .weight_decay = k->weight_decay,
                       .clip = k->clip};
}

/* The words of a schedule key stand in another order where another one is the default, so the word decides, not the
 * index. */
static ScheduleKind schedule_kind(const char *section, int index) {
    static const char *const word[] = {"constant", "linear", "cosine", "wsd"};
    static const ScheduleKind kind[] = {SCHED_CONSTANT, SCHED_LINEAR, SCHED_COSINE, SCHED_WSD};
    char name[64];
    snprintf(name, sizeof name, "%s.schedule", section);
    for (int i = 0; i < run_key_count; i++) {
        if (strcmp(run_keys[i].name, name)) continue;
        const char *at = run_keys[i].def;
        for (; index > 0; index--) at = strchr(at, '|') + 1;
        for (int w = 0; w < COUNT_OF(word); w++)
            if (strcspn(at, "|") == strlen(word[w]) && !strncmp(at, word[w], strlen(word[w]))) return kind[w];
    }
    CHECK(false, "no key %s", name);
    return SCHED_CONSTANT;
}

void stage_schedule(Schedule *s, const char *section, const TrainKeys *k, int64_t steps) {
    *s = (Schedule){.kind = schedule_kind(section, k->schedule),
                    .warmup = k->warmup < steps ? k->warmup : steps / 2,
                    .total = steps,
                    .decay = steps / 5,
                    .floor = k->min_lr,
                    .warmup_from_one = true};
}

int stage_pass_tokens(const SampleSet *s, int64_t micro_tokens) {
    int64_t longest = micro_tokens;
    for (int64_t i = 0; i + s->group <= s->n; i += s->group)
        if (s->off[i + s->group] - s->off[i] > longest) longest = s->off[i + s->group] - s->off[i];
    return (int)longest;
}

StateConfig stage_state(const StageCtx *ctx) {
    const RunConfig *c = ctx->cfg;
    return (StateConfig){.keep = (int)c->ckpt.keep,
                         .keep_every = c->ckpt.keep_every,
                         .keep_best = c->ckpt.keep_best,
                         .wait = !c->ckpt.async,
                         .seed = ctx->seed};
}

void stage_train_config(TrainConfig *c, const StageCtx *ctx, const TrainKeys *k, int64_t packs_in_epoch) {
    *c = (TrainConfig){.accum = (int)((k->batch_tokens + k->micro_tokens / 2) / k->micro_tokens),
                       .keep = k->recompute == RECOMPUTE_ON ? KEEP_INPUTS : KEEP_ALL,
                       .keep_auto = k->recompute == RECOMPUTE_AUTO,
                       .state_s = ctx->cfg->run.state_s,
                       .state_steps = ctx->cfg->ckpt.every,
                       .state = stage_state(ctx),
                       .mesh = ctx->mesh,
                       .shard = run_config_zero(ctx->cfg),
                       .overlap = ctx->cfg->dist.overlap,
                       .running_sum = !ctx->cfg->dist.tree,
                       .compare_every = ctx->cfg->dist.check_every,
                       .trace = ctx->trace};
    if (c->accum < 1) c->accum = 1;
    c->steps = k->steps;
    if (c->steps == 0) c->steps = (int64_t)ceil(k->epochs * (double)packs_in_epoch / c->accum);
    if (c->steps < 1) c->steps = 1;
    stage_optim(&c->optim, k);
}

bool stage_train(const StageCtx *ctx, Net net, const TrainKeys *k, const Objective *obj, int64_t packs_in_epoch,
                 Error *err) {
    TrainConfig c;
    stage_train_config(&c, ctx, k, packs_in_epoch);
    if (ctx->mesh && ctx->mesh->size.dp > c.accum)
        log_warn(ctx->log,
                 "a step has %d micro-batches for %d ranks, so some have nothing to do: lower %s.micro_tokens, "
                 "or raise %s.batch_tokens",
                 c.accum, ctx->mesh->size.dp, ctx->stage->name, ctx->stage->name);
    if (!ledger_check(ctx->ledger, ctx->cfg->data.max_lost, err)) return false;
    stage_schedule(&c.schedule, ctx->stage->name, k, c.steps);
    Trainer *t = NULL;
    if (!trainer_open(&t, net, &c, obj, ctx->log, ctx->stop, err)) return false;
    bool ok = trainer_run(t, ctx->output, err);
    trainer_close(t);
    return ok;
}

/* Of a net that other ranks share and follow: by what they follow. */
static bool lm_loss_led(double *out, Net net, const SampleSet *s, int max_tok, Error *err) {
    Engine *e = NULL;
    EngineConfig c = {.max_batch_tok = max_tok};
    size_t n = (size_t)s->n;
    Tokens *prefix = mem_alloc(2 * n * sizeof *prefix), *text = prefix + n;
    float *flat = mem_alloc((size_t)s->off[s->n] * sizeof *flat), **lp = mem_alloc(n * sizeof *lp);
    for (size_t i = 0; i < n; i++) {
        const int32_t *tok = s->tok + s->off[i];
        prefix[i] = (Tokens){tok, 1};
        text[i] = (Tokens){tok + 1, (int)(s->off[i + 1] - s->off[i]) - 1};
        lp[i] = flat + s->off[i] + 1;
    }
    bool ok = engine_open(&e, net, &c, err) && engine_score(e, prefix, text, (int)n, 1, lp, err);
    double loss = 0, weight = 0;
    for (size_t i = 0; i < n && ok; i++)
        for (int64_t k = s->off[i] + 1; k < s->off[i + 1]; k++) {
            if (s->weight[k] == 0) continue;
            loss -= s->weight[k] * (double)flat[k];
            weight += s->weight[k];
        }
    *out = loss / weight;
    engine_close(e);
    free(prefix);
    free(flat);
    free(lp);
    return ok;
}

bool stage_lm_loss(double *out, Net net, const SampleSet *s, int max_tok, Error *err) {
    ObjLm *o = NULL;
    Objective obj;
    *out = NAN;
    if (s->n == 0) return true;
    if (net.trunk->part.lead) return lm_loss_led(out, net, s, max_tok, err);
    if (!obj_lm_open(&o, &obj, s, max_tok, 0, err)) return false;
    Acts *acts = NULL;
    Arena memory = {0};
    Tensor slice;
    bool ok = acts_open(&acts, net.trunk, obj.max_tok, obj.max_row, KEEP_NONE, err) &&
              head_slice_open(&memory, &slice, net, err);
    if (ok) {
        Metrics *m = metrics_new();
        double loss = 0, weight = 0;
        int64_t packs = obj_lm_packs(o, 0);
        for (int64_t i = 0; i < packs && ok; i++) {
            Batch b;
            ok = obj.micro(obj.self, i, &b, err);
            if (ok) loss += eval_micro(net, acts, &b, &obj, slice, &weight, m);
        }
        *out = loss / weight;
        metrics_free(m);
    }
    arena_release(&memory);
    acts_close(acts);
    obj_lm_close(o);
    return ok;
}

void stage_sampling(SampleParams *p, const StageCtx *ctx, const SampleKeys *k, const int32_t *stop, int n_stop) {
    *p = (SampleParams){.temperature = k->temperature,
                        .top_p = k->top_p,
                        .top_k = (int)k->top_k,
                        .repetition = 1,
                        .max_new = (int)k->max_new,
                        .rng = {ctx->seed, RNG_SAMPLE},
                        .stop = stop,
                        .n_stop = n_stop};
}

bool stage_add(const StageCtx *ctx, SampleSet *set, const Sequence *s, int max_len, uint64_t id, float target,
               float weight) {
    int n = s->tok.n, trained = 0;
    ledger_in(ctx->ledger, 1, n);
    if (n > max_len) {
        ledger_add(ctx->ledger, LEDGER_DROPPED, "longer than the context", 1, n);
        return false;
    }
    for (int i = 1; i < n; i++) trained += s->weight[i] != 0;
    ledger_add(ctx->ledger, LEDGER_TRAINED, NULL, 1, trained);
    ledger_add(ctx->ledger, LEDGER_MASKED, NULL, 0, n - trained);
    samples_add(set, s->tok.id, s->weight, n, id, target, weight);
    return true;
}

static const char *row_text(void *ud, int64_t i, size_t *n) {
    const Row *r = &((const Row *)ud)[i];
    *n = strlen(r->a);
    return r->a;
}

void stage_add_texts(SampleSet *set, const StageCtx *ctx, const StageText *text, const Row *row, int n, int max,
                     Ledger *l) {
    Row *texts = mem_alloc((size_t)n * sizeof *texts + 1);
    int n_text = 0;
    for (int i = 0; i < n; i++)
        if (!row[i].tok) texts[n_text++] = row[i];
    samples_add_texts(set, &text->chat, row_text, texts, n_text, max, pool_threads(ctx->be->pool), l);
    for (int i = 0; i < n; i++)
        if (row[i].tok) samples_add_ids(set, row[i].tok, row[i].tok_weight, row[i].n_tok, (uint64_t)i, max, l);
    free(texts);
}

uint64_t stage_id(const char *id) { return hash_bytes(id, strlen(id)).lo; }

const char *prompt_split(const RunConfig *c, const char *id) {
    Rng rng = rng_derive((Rng){(uint64_t)c->run.seed, 0}, "prompts"); /* the seed of that stage */
    double u = rng_uniform((Rng){rng.seed, RNG_SPLIT}, stage_id(id), 0), eval = c->data.eval.n ? 0 : c->data.eval_share;
    return u < eval ? "eval" : u < eval + c->data.dev_share ? "dev" : "train";
}

const char *eval_split(const RunConfig *c) { return c->eval.split ? "dev" : "eval"; }

const char *guard_split(const RunConfig *c) { return c->data.dev_share > 0 ? "dev" : "eval"; }

static bool shares_file(const CfgList *a, const CfgList *b) {
    for (int i = 0; i < a->n; i++)
        for (int k = 0; k < b->n; k++)
            if (!strcmp(a->item[i], b->item[k])) return true;
    return false;
}

bool instruction_held_out(const RunConfig *c, const char *id) {
    return (shares_file(&c->data.sft, &c->data.benign) || shares_file(&c->data.sft, &c->data.redteam)) &&
           strcmp(prompt_split(c, id), "train") != 0;
}

void summary_begin(Summary *s) {
    *s = (Summary){0};
    json_out_init(&s->out, &s->text, 1);
    json_out_obj(&s->out, NULL);
}

void summary_num(Summary *s, const char *name, double v) { json_out_num(&s->out, name, v); }

bool summary_end(Summary *s, const StageCtx *ctx, Error *err) {
    json_out_obj_end(&s->out);
    str_putc(&s->text, '\n');
    Str path = {0};
    path_join(&path, ctx->output, "summary.json");
    bool ok = !stage_leads(ctx) || io_write_file(str_get(&path), s->text.s, s->text.n, err);
    str_release(&path);
    str_release(&s->text);
    return ok;
}

bool jsonl_each(const char *dir, const char *file, JsonlFn *fn, void *ud, Error *err) {
    Str path = {0};
    path_join(&path, dir, file);
    LineReader *r = NULL;
    if (!lines_open(&r, str_get(&path), (size_t)64 << 20, err)) {
        str_release(&path);
        return false;
    }
    const char *line;
    size_t n;
    bool ok = true;
    err->code = ERR_NONE;
    while (ok && lines_next(r, &line, &n, err)) {
        Json *row = NULL;
        int number = (int)lines_number(r);
        if (n == 0) continue;
        ok = json_parse(&row, line, n, 0, str_get(&path), number, err);
        if (ok && !fn(ud, row, number, err)) ok = error_wrap(err, "%s:%d", str_get(&path), number);
        json_release(row);
    }
    ok = ok && err->code == ERR_NONE;
    lines_close(r);
    str_release(&path);
    return ok;
}
