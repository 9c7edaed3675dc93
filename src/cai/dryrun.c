#include "cai/dryrun.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "base/load.h"
#include "cai/ranks.h"
#include "cai/stage_rl.h"
#include "nn/ckpt.h"
#include "tensor/dry.h"
#include "train/batch.h"

enum { LEAST_SEQUENCE = 4 }; /* tokens of the shortest dialogue: its frame */
enum { MOST_RANKS = 64 };    /* whose parts are all looked at */
static const double rate_s = 0.3;

typedef struct {
    const RunConfig *cfg;
    const PipelineResult *keys;
    const Backend *be;
    Comm **world; /* (ranks), of which nobody calls anything once groups are split off, */
    Mesh *mesh;   /* (ranks) by those who hold parts of models; else NULL */
    int ranks;
    ModelConfig shape;
    const char *input[STAGE_MAX_NEEDS]; /* nothing is read */
    DryRun *out;
    Error *err;
} Dry;

/* -- the model */

static const StageResult *result_of(const PipelineResult *keys, const char *name) {
    for (int i = 0; i < keys->n_stage; i++)
        if (!strcmp(keys->stage[i].name, name)) return &keys->stage[i];
    return NULL;
}

static bool find_vocab(Dry *d) {
    const StageResult *t = result_of(d->keys, "tokenizer");
    StageText text = {0};
    d->out->vocab = (int)d->cfg->tokenizer.vocab;
    d->out->vocab_at_most = !t || !t->cached;
    if (d->out->vocab_at_most) return true;
    if (!stage_text_open(&text, t->dir, d->err)) return false;
    d->out->vocab = tokenizer_n_vocab(text.tok);
    stage_text_close(&text);
    return true;
}

static bool find_shape(Dry *d) {
    const StageResult *p = result_of(d->keys, "pretrain");
    Str dir = {0};
    if (!find_vocab(d)) return false;
    bool made = p && p->cached, given = d->cfg->model.path[0] != 0;
    if (made) path_join(&dir, p->dir, "model");
    bool ok = made    ? model_config_read(&d->shape, str_get(&dir), d->err)
              : given ? model_config_read(&d->shape, d->cfg->model.path, d->err)
                      : stage_model_shape(&d->shape, d->cfg, d->out->vocab, -1, d->err);
    if (ok && !made && given && d->shape.n_vocab < d->out->vocab) d->shape.n_vocab = d->out->vocab;
    str_release(&dir);
    return ok;
}

typedef struct {
    Model m;
    Head h;
    Net net;
} DryNet;

/* mesh: on this rank of it, its part; NULL: all. */
static bool net_open(DryNet *n, DryBackend *be, const Mesh *mesh, const ModelConfig *c, HeadKind kind, int n_out,
                     bool grads, Error *err) {
    *n = (DryNet){0};
    if (!model_init_on(&n->m, &be->be, c, mesh_divides(mesh) ? mesh : NULL, 0, grads, err)) return false;
    if (!head_init(&n->h, &n->m, kind, n_out, 0, grads, err)) {
        model_release(&n->m);
        return false;
    }
    n->net = (Net){&n->m, &n->h, NULL};
    return true;
}

static void net_close(DryNet *n) {
    head_release(&n->h);
    model_release(&n->m);
}

static size_t weight_bytes(const DryNet *n) { return n->m.params.cap + n->h.params.cap; }
static size_t grad_bytes(const DryNet *n) { return n->m.grads.cap + n->h.grads.cap; }

/* -- stages that train by the trainer */

typedef struct {
    const TrainKeys *keys;
    HeadKind kind;
    ModelConfig shape;
    int n_out, max_tok, max_row;
    bool logp; /* its objective reads log-probs */
} TrainShape;

/* Bytes of the logits made at once. */
static bool slice_bytes(size_t *out, DryBackend *be, Net net, Error *err) {
    Arena mem = {0};
    Tensor slice;
    size_t before = be->mem.live;
    if (!head_slice_open(&mem, &slice, net, err)) return false;
    *out = be->mem.live - before;
    arena_release(&mem);
    return true;
}

/* Bytes of the moments and masters. */
static bool moments(size_t *out, DryBackend *be, const Net *net, int n_net, OptimConfig o, const Mesh *mesh, int shard,
                    Error *err) {
    Optim *optim;
    size_t before = be->mem.live;
    o.mesh = mesh, o.shard = shard;
    if (!optim_open(&optim, net, NULL, n_net, &o, err)) return false;
    *out = be->mem.live - before;
    optim_close(optim);
    return true;
}

/* Stages are put together when they are trained, beside them; then all layers are measured, of a rank's share. */
static bool rehearse_whole(StageNeed *n, DryBackend *be, const TrainShape *s, const Mesh *mesh, DryNet *part,
                           Error *err) {
    Mesh share = mesh_share(mesh);
    DryNet whole;
    LogpBuf logp = {0};
    Acts *acts = NULL;
    Arena mem = {0};
    Tensor slice;
    bool ok = net_open(&whole, be, &share, &s->shape, s->kind, s->n_out, false, err);
    size_t both = be->mem.live;
    net_close(part);
    if (!ok) return false;
    logp_of(&logp, whole.net);
    if (s->logp) logp_reserve(&logp, &be->be, head_slice_rows(whole.net));
    ok = acts_open(&acts, &whole.m, s->max_tok, s->max_row, KEEP_NONE, err) &&
         head_slice_open(&mem, &slice, whole.net, err);
    size_t most = both > be->mem.live ? both : be->mem.live;
    n->at_most |= be->mem.live > both && be->mem.live > n->device;
    if (most > n->device) n->other += most - n->device, n->device = most;
    arena_release(&mem);
    acts_close(acts);
    logp_release(&logp);
    net_close(&whole);
    return ok;
}

/* What is open already (frozen nets) counts as other. */
static bool rehearse(StageNeed *n, DryBackend *be, const TrainShape *s, const StageCtx *ctx, Error *err) {
    DryNet net;
    TrainConfig c;
    Trainer *t = NULL;
    LogpBuf logp = {0};
    Objective obj = {.name = n->stage, .row_group = 1, .max_tok = s->max_tok, .max_row = s->max_row};
    size_t slice = 0, frozen = be->mem.live, nets, opened, logits;
    stage_train_config(&c, ctx, s->keys, 0);
    if (!net_open(&net, be, ctx->mesh, &s->shape, s->kind, s->n_out, true, err)) return false;
    logp_of(&logp, net.net);
    nets = be->mem.live;
    bool last = net.m.part.last; /* who has the head */
    bool ok = moments(&n->optimizer, be, &net.net, 1, c.optim, c.mesh, c.shard, err) &&
              (!last || slice_bytes(&slice, be, net.net, err)) && trainer_open(&t, net.net, &c, &obj, NULL, NULL, err);
    opened = be->mem.live;
    if (ok && s->logp && last) logp_reserve(&logp, &be->be, head_slice_rows(net.net));
    logits = be->mem.live - opened;
    ok = ok && trainer_rehearse(t, err);
    if (ok) {
        n->weights += weight_bytes(&net);
        n->gradients += grad_bytes(&net);
        n->activations = opened - nets - n->optimizer - slice;
        n->sums = be->mem.live - opened - logits;
        n->other = frozen + slice + logits;
        n->device = be->mem.live;
        n->host = be->host.peak;
        n->parameters = model_config_params(&s->shape);
        n->steps = s->keys->steps;
        n->tokens = (double)n->steps * c.accum * s->max_tok;
        n->flops = n->tokens * (6 * (double)model_config_matmul_params(&s->shape) +
                                6.0 * s->shape.n_layer * s->shape.d_model * s->shape.max_seq);
    }
    trainer_close(t);
    if (ok && ctx->mesh && ctx->mesh->size.pp > 1)
        ok = rehearse_whole(n, be, s, ctx->mesh, &net, err);
    else
        net_close(&net);
    logp_release(&logp);
    return ok;
}

/* A pass of a stage whose samples are not there yet: groups of `group` sequences are not cut. */
static int pass_tokens(StageNeed *n, const Dry *d, int64_t micro, int group) {
    int64_t most = (int64_t)group * d->shape.max_seq;
    n->at_most |= micro < most;
    return (int)(micro > most ? micro : most);
}

static StageCtx ctx_of(const Dry *d, const Stage *s, const Mesh *mesh) {
    return (StageCtx){.cfg = d->cfg, .mesh = mesh, .input = d->input, .stage = s, .output = ""};
}

static bool plan_lm(StageNeed *n, DryBackend *be, const Dry *d, const StageCtx *ctx, Error *err) {
    const RunConfig *c = d->cfg;
    bool first = !strcmp(n->stage, "pretrain");
    const TrainKeys *k = first ? &c->pretrain.t : !strcmp(n->stage, "helpful") ? &c->helpful.t : &c->sl.t;
    if (first && k->steps == 0 && k->epochs == 0) { /* the given model as it is */
        n->trains = false;
        return true;
    }
    TrainShape s = {k, HEAD_LM, d->shape, d->shape.n_vocab, 0, 0, true};
    int64_t max = c->model.max_seq < d->shape.max_seq ? c->model.max_seq : d->shape.max_seq;
    s.max_tok = first ? (int)(k->micro_tokens > max ? k->micro_tokens : max) : pass_tokens(n, d, k->micro_tokens, 1);
    s.max_row = s.max_tok;
    return rehearse(n, be, &s, ctx, err);
}

static ModelConfig pm_shape(const Dry *d) {
    ModelConfig m = d->shape;
    if (d->cfg->pm.n_layer) m.n_layer = (int)d->cfg->pm.n_layer;
    return m;
}

static bool plan_scorer(StageNeed *n, DryBackend *be, const Dry *d, const StageCtx *ctx, Error *err) {
    const RunConfig *c = d->cfg;
    bool pm = !strcmp(n->stage, "pm");
    if (pm && (c->pm.heads != 0 || c->pm.ensemble > 1)) {
        n->unknown = "several heads or members";
        return true;
    }
    if (!pm) {
        n->unknown = "its categories follow from the data";
        return true;
    }
    TrainShape s = {&c->pm.t, HEAD_SCORE, pm_shape(d), 1, 0, 0, false};
    s.max_tok = pass_tokens(n, d, c->pm.t.micro_tokens, 2);
    s.max_row = s.max_tok / LEAST_SEQUENCE;
    n->at_most = true;
    return rehearse(n, be, &s, ctx, err);
}

/* -- rl */

static bool open_engine(Engine **e, DryNet *net, const EngineConfig *c, bool generates, Error *err) {
    return engine_open(e, net->net, c, err) && engine_rehearse(*e, generates, err);
}

typedef struct {
    DryNet policy, reference, value, pm, judge;
    Engine *scorer, *guard;
} RlNets;

static bool rl_open(RlNets *r, DryBackend *be, const Dry *d, const Mesh *mesh, Error *err) {
    const RunConfig *c = d->cfg;
    ModelConfig pm = pm_shape(d);
    EngineConfig score = {.max_batch_tok = (int)c->rl.t.micro_tokens}, look = {.share_prefix = true};
    bool value = rl_methods[c->rl.method].value, guard = c->rl.guard.every > 0 && rl_methods[c->rl.method].rollouts;
    Mesh share = mesh_divides(mesh) ? mesh_share(mesh) : (Mesh){0}; /* of who only reads: all layers of it */
    return net_open(&r->policy, be, mesh, &d->shape, HEAD_LM, d->shape.n_vocab, true, err) &&
           net_open(&r->reference, be, &share, &d->shape, HEAD_LM, d->shape.n_vocab, false, err) &&
           (!value || net_open(&r->value, be, mesh, &pm, HEAD_SCORE, 1, true, err)) &&
           net_open(&r->pm, be, &share, &pm, HEAD_SCORE, 1, false, err) &&
           open_engine(&r->scorer, &r->pm, &score, false, err) &&
           (!guard || (net_open(&r->judge, be, &share, &d->shape, HEAD_LM, d->shape.n_vocab, false, err) &&
                       open_engine(&r->guard, &r->judge, &look, true, err)));
}

static void rl_close(RlNets *r) {
    engine_close(r->guard);
    engine_close(r->scorer);
    net_close(&r->judge);
    net_close(&r->pm);
    net_close(&r->value);
    net_close(&r->reference);
    net_close(&r->policy);
}

static bool plan_ppo(StageNeed *n, DryBackend *be, const Dry *d, const StageCtx *ctx, Error *err) {
    RlNets r = {0};
    PpoConfig c;
    SampleSet mix;
    int64_t max = d->shape.max_seq;
    stage_rl_config(&c, ctx);
    if (c.max_tok < max) c.max_tok = (int)max;
    int32_t *tok = mem_alloc((size_t)max * sizeof *tok);
    static const float weight[] = {0, 1};
    PpoPrompt prompt = {0, tok, (int)(max - c.max_new)};
    samples_init(&mix, 1);
    samples_add(&mix, tok, weight, 2, 0, 0, 1);
    bool ok = rl_open(&r, be, d, ctx->mesh, err);
    if (ok) {
        PpoSetup s = {.policy = r.policy.net, .reference = r.reference.net, .value = r.value.net, .prompt = &prompt};
        s.n_prompt = 1, s.end_id = 0, s.score_sd = 1, s.score = ppo_score_pm, s.mix = &mix;
        size_t frozen = be->mem.live;
        const Net nets[2] = {s.policy, s.value};
        ok = moments(&n->optimizer, be, nets, s.value.trunk ? 2 : 1, c.optim, c.mesh, c.shard, err) &&
             ppo_rehearse(&c, &s, err);
        n->weights = weight_bytes(&r.policy) + weight_bytes(&r.value);
        n->gradients = grad_bytes(&r.policy) + grad_bytes(&r.value);
        n->activations = acts_bytes(&r.policy.m, c.max_tok, c.max_tok, c.keep);
        n->device = be->mem.peak;
        n->host = be->host.peak;
        n->other = be->mem.peak - n->weights - n->gradients - n->activations - n->optimizer; /* sums among them */
        CHECK(be->mem.live == frozen, "a rehearsal left %zu bytes", be->mem.live - frozen);
        n->steps = c.updates;
        n->parameters = model_config_params(&d->shape) + (r.value.m.be ? model_config_params(&r.value.m.whole) : 0);
        n->tokens = (double)c.updates * c.rollouts * (double)max;
        n->flops =
            n->tokens * (double)model_config_matmul_params(&d->shape) * (6.0 * c.epochs * (r.value.m.be ? 2 : 1) + 8);
        n->at_most = true;
    }
    samples_release(&mix);
    free(tok);
    rl_close(&r);
    return ok;
}

static bool plan_rl(StageNeed *n, DryBackend *be, const Dry *d, const StageCtx *ctx, Error *err) {
    if (rl_methods[d->cfg->rl.method].rollouts) return plan_ppo(n, be, d, ctx, err);
    n->unknown = "pairs of dpo are not there yet";
    return true;
}

/* -- the table */

static const struct {
    const char *stage;
    bool (*plan)(StageNeed *n, DryBackend *be, const Dry *d, const StageCtx *ctx, Error *err);
} planned[] = {{"pretrain", plan_lm}, {"helpful", plan_lm},        {"sl", plan_lm},
               {"pm", plan_scorer},   {"classifier", plan_scorer}, {"rl", plan_rl}};

static bool plan_rank(StageNeed *n, const Dry *d, int which, int rank, Error *err) {
    DryBackend be;
    Mesh mesh = {.size = {1, 1, 1, d->ranks}, .at = {0, 0, 0, rank}};
    if (d->ranks > 1) mesh.world = mesh.dp = d->world[rank];
    if (d->mesh) mesh = d->mesh[rank];
    StageCtx ctx = ctx_of(d, stage_find(n->stage), d->ranks > 1 ? &mesh : NULL);
    dry_begin(&be, d->be);
    ctx.be = &be.be;
    return planned[which].plan(n, &be, d, &ctx, err);
}

/* Of the rank with the most. */
static bool plan_stage(StageNeed *n, const Dry *d, int which, Error *err) {
    StageNeed first = *n;
    size_t host = 0;
    for (int r = 0; r < d->ranks && r < MOST_RANKS; r++) {
        StageNeed one = first;
        if (!plan_rank(&one, d, which, r, err)) return error_wrap(err, "%s", n->stage);
        if (r == 0 || one.device > n->device) *n = one;
        if (one.host > host) host = one.host;
    }
    if (n->unknown || !n->trains) return true;
    size_t state = n->weights + n->optimizer, parts = (size_t)(d->cfg->dist.tp * d->cfg->dist.pp);
    n->host = host + (d->cfg->ckpt.async ? state / ((size_t)d->ranks / parts) : 0); /* ranks write a part each */
    n->disk = (double)parts * ((double)n->weights + (double)state * (double)(d->cfg->ckpt.keep + 1));
    if (n->flops > 0 && d->out->flops_s > 0) n->seconds = n->flops / d->out->flops_s / d->ranks;
    return true;
}

static bool plan_all(const Dry *d, Error *err) {
    for (int i = 0; i < d->keys->n_stage; i++) {
        const StageResult *r = &d->keys->stage[i];
        if (!r->applies) continue;
        StageNeed *n = &d->out->item[d->out->n++];
        *n = (StageNeed){.stage = r->name, .done = r->cached, .trains = stages[i]->spread};
        snprintf(n->dir, sizeof n->dir, "%s", r->dir);
        if (!n->trains || n->done) continue;
        if (stage_lora_of(d->cfg, r->name)) n->unknown = "adapters";
        for (int k = 0; k < COUNT_OF(planned) && !n->unknown; k++)
            if (!strcmp(planned[k].stage, r->name) && !plan_stage(n, d, k, err)) return false;
    }
    return true;
}

/* -- this machine */

/* Products of a layer's size, but no larger than pays, forward and backward, as fast as they are made here and now. */
static double measure_rate(Backend *be, const ModelConfig *c) {
    enum { ROWS = 256, MOST_COLS = 1024, MOST_OUT = 4096 };
    int cols = c->d_model < MOST_COLS ? c->d_model : MOST_COLS, n_out = c->d_ff < MOST_OUT ? c->d_ff : MOST_OUT;
    Arena mem = {0}, measure;
    Error ignore = {0};
    Tensor t[5];
    double flops = 0;
    for (int pass = 0; pass < 2; pass++) {
        Arena *a = pass ? &mem : &measure;
        if (!pass) arena_init_measure(&measure, "products");
        if (pass && !arena_init(&mem, "products", be->mem, measure.used, &ignore)) return 0;
        t[0] = tensor_place(a, be->dtype, ROWS, cols);
        t[1] = tensor_place_weight(a, be->dtype, n_out, cols, be->panels);
        t[2] = tensor_place(a, be->dtype, ROWS, n_out);
        t[3] = tensor_place(a, be->real, ROWS, cols);
        t[4] = tensor_place_weight(a, be->real, n_out, cols, be->panels);
    }
    for (int i = 0; i < 5; i++) be->op->zero(be, t[i]);
    double begun = now_s(), took = 0;
    for (int n = 0; took < rate_s; n++) {
        be->op->linear_fwd(be, &(LinearOut){.y = t[2], .w = t[1]}, 1, t[0], false);
        be->op->linear_bwd(be, t[3], &(LinearGrad){.dy = t[2], .w = t[1], .dw_acc = t[4]}, 1, t[0], false);
        backend_wait(be);
        if (n == 0) begun = now_s(); /* the first one warms up */
        if (n > 0) flops += 6.0 * ROWS * cols * n_out;
        took = now_s() - begun;
    }
    arena_release(&mem);
    return took > 0 ? flops / took : 0;
}

typedef struct {
    Dry *d;
    int rank;
    bool ok;
    Error err;
    pthread_t thread;
} MeshJob;

static void *open_mesh(void *arg) {
    MeshJob *j = arg;
    const RunConfig *c = j->d->cfg;
    j->ok = mesh_open(&j->d->mesh[j->rank], j->d->world[j->rank], NULL, (int)c->dist.tp, (int)c->dist.cp,
                      (int)c->dist.pp, &j->err);
    return NULL;
}

/* Ranks that train one model together. */
static int one_model(const RunConfig *c) { return (int)(c->dist.tp * c->dist.cp * c->dist.pp); }

/* Groups of a layout are split off by all ranks at once. */
static bool open_meshes(Dry *d, Error *err) {
    int n = d->ranks, one = one_model(d->cfg), begun = 0;
    if (one == 1) return true;
    if (!ranks_divide(d->cfg, n, err)) return false;
    MeshJob *job = mem_alloc((size_t)n * sizeof *job);
    bool ok = true;
    d->mesh = mem_alloc((size_t)n * sizeof *d->mesh);
    while (ok && begun < n) {
        job[begun] = (MeshJob){.d = d, .rank = begun};
        ok = pthread_create(&job[begun].thread, NULL, open_mesh, &job[begun]) == 0;
        if (ok) begun++;
    }
    if (!ok) {
        error_set(err, ERR_STATE, "no thread for rank %d of %d", begun, n);
        comm_abort(d->world[0], err); /* those that have begun wait for it */
    }
    for (int r = 0; r < begun; r++) pthread_join(job[r].thread, NULL);
    for (int r = 0; r < begun && ok; r++)
        if (!job[r].ok) ok = false, *err = job[r].err;
    free(job);
    return ok;
}

static void count_ranks(Dry *d) {
    RankPlace p = ranks_environment();
    d->ranks = p.size > 1 ? p.size : d->cfg->dist.ranks > 0 ? (int)d->cfg->dist.ranks : one_model(d->cfg);
    d->out->ranks = d->ranks;
    d->out->ranks_here = p.size > 1 ? p.local_size : d->ranks;
}

bool dry_run(DryRun *out, const RunConfig *cfg, const char *conf_path, Error *err) {
    PipelineResult *keys = mem_alloc(sizeof *keys);
    Pool *pool = NULL;
    Backend *be = NULL;
    Dry d = {.cfg = cfg, .keys = keys, .out = out, .err = err};
    *out = (DryRun){.room = -1, .disk_room = -1};
    count_ranks(&d);
    d.world = mem_alloc((size_t)d.ranks * sizeof *d.world);
    bool ok = pipeline_check(keys, cfg, conf_path, err) && pipeline_backend(&pool, &be, cfg, err);
    d.be = be;
    ok = ok && (d.ranks == 1 || comm_open_threads(d.world, d.ranks, err)) && open_meshes(&d, err) && find_shape(&d);
    if (ok) {
        snprintf(out->backend, sizeof out->backend, "%s", be->op->name);
        out->flops_s = measure_rate(be, &d.shape);
        if (strcmp(out->backend, "cuda") != 0) out->room = load_memory("MemAvailable");
        out->disk_room = io_free_bytes(io_is_dir(cfg->run.out) ? cfg->run.out : ".");
        ok = plan_all(&d, err);
    }
    for (int r = 0; r < d.ranks; r++) comm_close(d.world[r]);
    free(d.world);
    free(d.mesh);
    backend_close(be);
    pool_close(pool);
    free(keys);
    return ok;
}

/* -- does it fit? */

/* The key that makes the largest part smaller. */
static void name_knob(char out[240], const StageNeed *n) {
    const struct {
        size_t bytes;
        const char *what, *own, *other; /* a key of the stage; other ones */
    } part[] = {
        {n->activations, "activations", "micro_tokens", " lower, or recompute=true there"},
        {n->sums, "sums of gradients", "micro_tokens",
         " nearer to batch_tokens, dist.zero=2 on several ranks, or dist.tree=false on one"},
        {n->optimizer, "the optimizer", NULL, "dist.zero=true with more ranks, or an adapter (lora.stages)"},
        {n->other, "frozen nets, engines and logits", "micro_tokens", " lower, or a smaller model (model.*)"},
        {n->weights + n->gradients, "weights and gradients", NULL, "a smaller model (model.*), or run.dtype=bf16"}};
    int at = 0;
    for (int i = 1; i < COUNT_OF(part); i++)
        if (part[i].bytes > part[at].bytes) at = i;
    int k = snprintf(out, 240, "%.2f GiB a rank are %s: ", (double)part[at].bytes / 1073741824.0, part[at].what);
    if (part[at].own) k += snprintf(out + k, 240 - (size_t)k, "%s.%s", n->stage, part[at].own);
    snprintf(out + k, 240 - (size_t)k, "%s", part[at].other);
}

bool dry_run_fits(const DryRun *d, const RunConfig *cfg, Error *err) {
    const double gib = 1073741824.0;
    double disk = 0;
    for (int i = 0; i < d->n; i++) {
        const StageNeed *n = &d->item[i];
        double need = (double)(n->device + n->host) * d->ranks_here;
        disk += n->disk;
        if (d->room < 0 || need <= d->room) continue;
        char knob[240];
        name_knob(knob, n);
        return error_set(
            err, ERR_MEMORY, "%s needs %.2f GiB%s for %d rank%s on this machine, which has %.2f GiB left. %s", n->stage,
            need / gib, n->at_most ? " at most" : "", d->ranks_here, d->ranks_here > 1 ? "s" : "", d->room / gib, knob);
    }
    if (d->disk_room >= 0 && disk > d->disk_room)
        return error_set(err, ERR_IO,
                         "results and saved states need %.1f GB, %s has %.1f GB left: lower ckpt.keep, or set run.out "
                         "to another disk",
                         disk / 1e9, cfg->run.out, d->disk_room / 1e9);
    return true;
}
