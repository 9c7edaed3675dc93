/* nn/optim.c — learning rate schedules, joint gradient norm, clipping, AdamW. See optim.h for the order of one update.
 */
#include "nn/optim.h"

#include "dist/agree.h"
#include "nn/regroup.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- schedules ------------------------------------------------------------------------------------------------------
 */

static double pi(void) { return acos(-1.0); }

static int64_t at_least_1(int64_t n) { return n > 1 ? n : 1; }

static double decay_factor(DecayKind kind, double x) {
    switch (kind) {
    case DECAY_LINEAR:
        return 1 - x;
    case DECAY_COSINE:
        return (1 + cos(pi() * x)) / 2;
    case DECAY_SQRT:
        return 1 - sqrt(x);
    }
    CHECK(false, "decay kind %d", (int)kind);
}

static double with_floor(double floor, double m) { return floor + (1 - floor) * m; }

double schedule_factor(const Schedule *c, int64_t s) {
    int64_t w = c->warmup;
    if (s < w) {
        double m = c->warmup_from_one ? (double)(s + 1) / (double)w : (double)s / (double)at_least_1(w);
        return c->kind == SCHED_WSD ? with_floor(c->floor, m) : m;
    }
    double p = (double)(s - w) / (double)at_least_1(c->total - w);
    switch (c->kind) {
    case SCHED_CONSTANT:
        return 1;
    case SCHED_LINEAR:
        return with_floor(c->floor, fmax(0, (double)(c->total - s) / (double)at_least_1(c->total - w)));
    case SCHED_COSINE:
        return with_floor(c->floor, fmax(0, (1 + cos(pi() * p)) / 2));
    case SCHED_WSD: {
        int64_t stable = c->total - c->decay; /* first step of the decay */
        if (s < stable) return 1;
        if (s >= c->total) return c->floor;
        return with_floor(c->floor, decay_factor(c->decay_kind, (double)(s - stable) / (double)at_least_1(c->decay)));
    }
    }
    CHECK(false, "schedule kind %d", (int)c->kind);
}

/* -- parameters and moments -----------------------------------------------------------------------------------------
 */

typedef struct {
    char *name; /* in its net */
    int net;
    Tensor w, dw;
    ParamInfo whole;    /* sizes, where w begins, order; its name is not kept */
    int64_t row, n_row; /* of w and dw: what this rank updates; all, unless the state is sharded */
    Tensor m, v;        /* of those rows */
    Tensor master;      /* BF16 weights: what they are rounded from; else empty */
    double lr_scale;
    bool decay;
} OptimParam;

struct Optim {
    Backend *be;
    OptimConfig cfg;
    int64_t updates;
    Net *net;
    int n_net;
    OptimParam *param;
    int n_param;
    Tensor *grad, *weight; /* (n_param) dw, w */
    Blocks blocks;
    Heap names;
    Arena mem;
};

typedef struct {
    Optim *o;
    int net;
    double lr_scale;
} CollectJob;

static void collect(void *ud, int index, const ParamInfo *p) {
    CollectJob *job = ud;
    Optim *o = job->o;
    (void)index;
    if (tensor_empty(p->dw)) return;
    for (int i = 0; i < o->n_param; i++)
        if (o->param[i].w.data == p->w.data) return; /* nets may share a trunk; its parameters are updated once */
    OptimParam *q = &o->param[o->n_param++];
    *q = (OptimParam){.name = heap_printf(&o->names, "%s", p->name), .lr_scale = job->lr_scale};
    q->whole = *p, q->whole.name = NULL;
    q->w = p->w, q->dw = p->dw, q->decay = p->decay, q->net = job->net;
}

static Comm *dp_of(const Optim *o) { return o->cfg.mesh ? o->cfg.mesh->dp : NULL; }
static bool sharded(const Optim *o) { return o->cfg.shard > 0 && comm_size(dp_of(o)) > 1; }

static void cut_state(Optim *o) {
    o->grad = mem_alloc((size_t)o->n_param * sizeof *o->grad);
    o->weight = mem_alloc((size_t)o->n_param * sizeof *o->weight);
    for (int i = 0; i < o->n_param; i++) o->grad[i] = o->param[i].dw, o->weight[i] = o->param[i].w;
    blocks_make(&o->blocks, o->grad, o->n_param, comm_size(dp_of(o)));
    for (int i = 0; i < o->n_param; i++) {
        OptimParam *p = &o->param[i];
        p->n_row = p->w.rows;
        if (sharded(o)) blocks_rows(&o->blocks, i, comm_rank(dp_of(o)), &p->row, &p->n_row);
    }
}

static Tensor own(const OptimParam *p, Tensor t) { return tensor_rows(t, p->n_row > 0 ? p->row : 0, p->n_row); }

const Tensor *optim_grads(const Optim *o, int *n) {
    *n = o->n_param;
    return o->grad;
}

const Blocks *optim_blocks(const Optim *o) { return &o->blocks; }
Backend *optim_backend(const Optim *o) { return o->be; }
size_t optim_bytes(const Optim *o) { return o->mem.used; }
bool optim_shards(const Optim *o) { return sharded(o); }
int optim_zero(const Optim *o) { return sharded(o) ? o->cfg.shard : 0; }
int optim_net_of(const Optim *o, int grad) { return o->param[grad].net; }

const Net *optim_nets(const Optim *o, int *n) {
    *n = o->n_net;
    return o->net;
}

static void place_moments(Optim *o, Arena *mem) {
    for (int i = 0; i < o->n_param; i++) {
        OptimParam *p = &o->param[i];
        DType real = o->be->real;
        p->m = tensor_place_weight(mem, real, p->n_row, p->w.cols, p->w.panels);
        p->v = tensor_place_weight(mem, real, p->n_row, p->w.cols, p->w.panels);
        if (p->w.dtype != real) p->master = tensor_place_weight(mem, real, p->n_row, p->w.cols, p->w.panels);
    }
}

static void widen(Backend *be, Tensor to, Tensor from) {
    if (be->dry) return;
    float *host = mem_alloc((size_t)tensor_count(from) * sizeof *host);
    tensor_get_f32(be, host, from);
    tensor_set_f32(be, to, host);
    free(host);
}

bool optim_open(Optim **out, const Net *net, const double *lr_scale, int n_net, const OptimConfig *c, Error *err) {
    *out = NULL;
    CHECK(n_net > 0, "an optimizer over %d nets", n_net);
    CHECK(c->eps > 0, "AdamW with epsilon %g: a weight without gradient, or what fills a panel up, would be 0/0",
          c->eps);
    Optim *o = mem_alloc(sizeof *o);
    o->be = net[0].trunk->be, o->cfg = *c, o->n_net = n_net;
    o->net = mem_alloc((size_t)n_net * sizeof *o->net);
    int max_param = 0;
    for (int i = 0; i < n_net; i++) {
        CHECK(net[i].trunk->be == o->be, "one optimizer over two backends");
        o->net[i] = net[i];
        max_param += net_visit(net[i], NULL, NULL);
    }
    o->param = mem_alloc((size_t)max_param * sizeof *o->param);
    for (int i = 0; i < n_net; i++) net_visit(net[i], collect, &(CollectJob){o, i, lr_scale ? lr_scale[i] : 1});
    CHECK(o->n_param > 0, "an optimizer over nets without gradients");
    cut_state(o);
    Arena measure;
    arena_init_measure(&measure, "optimizer moments");
    place_moments(o, &measure);
    if (!arena_init(&o->mem, "optimizer moments", o->be->mem, measure.used, err)) {
        optim_close(o);
        return false;
    }
    place_moments(o, &o->mem);
    for (int i = 0; i < o->n_param; i++) {
        OptimParam *p = &o->param[i];
        if (p->n_row == 0) continue;
        o->be->op->zero(o->be, p->m);
        o->be->op->zero(o->be, p->v);
        if (!tensor_empty(p->master)) widen(o->be, p->master, own(p, p->w));
    }
    *out = o;
    return true;
}

void optim_close(Optim *o) {
    if (!o) return;
    arena_release(&o->mem);
    heap_release(&o->names);
    blocks_release(&o->blocks);
    free(o->grad);
    free(o->weight);
    free(o->param);
    free(o->net);
    free(o);
}

int64_t optim_updates(const Optim *o) { return o->updates; }

/* -- one update -----------------------------------------------------------------------------------------------------
 */

static void raise_versions(Optim *o) {
    for (int i = 0; i < o->n_net; i++) {
        bool seen = false;
        for (int k = 0; k < i; k++) seen = seen || o->net[k].trunk == o->net[i].trunk;
        if (!seen) o->net[i].trunk->version++;
    }
}

/* Each rank's own blocks, then the sums of all, added in the order of blocks. */
static double sharded_sumsq(const Optim *o) {
    const Blocks *b = &o->blocks;
    int size = comm_size(dp_of(o)), me = comm_rank(dp_of(o));
    double *own_sum = mem_alloc((size_t)(b->n + 1) * sizeof *own_sum), *all = mem_alloc((size_t)b->n * sizeof *all),
           sum = 0;
    int64_t *count = mem_alloc((size_t)size * sizeof *count);
    for (int i = b->cut[me]; i < b->cut[me + 1]; i++)
        own_sum[i - b->cut[me]] = o->be->op->sumsq(o->be, block_of(o->grad, b->at[i]));
    const Layout ranks =
        o->cfg.mesh->size; /* of the world: replicas in another order than blocks' owners, where rows are divided */
    for (int r = 0; r < size; r++) {
        int owner = layout_equal(ranks, layout_at(ranks, r));
        count[r] = b->cut[owner + 1] - b->cut[owner];
    }
    comm_all_gather(o->cfg.mesh->world, all, own_sum, count, DTYPE_F64, "optim.norm");
    const double *at = all;
    double *sums = mem_alloc((size_t)b->n * sizeof *sums);
    for (int r = 0; r < size; at += count[r++])
        memcpy(sums + b->cut[layout_equal(ranks, layout_at(ranks, r))], at, (size_t)count[r] * sizeof *at);
    for (int i = 0; i < b->n; i++) sum += sums[i];
    free(sums);
    free(own_sum);
    free(all);
    free(count);
    return sum;
}

typedef struct { /* a block's sum, and its place among those of all parts: net, parameter, where it begins there */
    int64_t net, param, row, col;
    double sum;
} BlockSum;

static int by_place(const void *a, const void *b) {
    const BlockSum *x = a, *y = b;
    const int64_t p[] = {x->net, x->param, x->row, x->col}, q[] = {y->net, y->param, y->row, y->col};
    for (int i = 0; i < COUNT_OF(p); i++)
        if (p[i] != q[i]) return p[i] < q[i] ? -1 : 1;
    return 0;
}

/* Of ranks that hold the same gradients only one tells their sums: of replicas the first, unless each has its own part
 * of them; of tensor-parallel ranks the first, where a parameter is not divided. */
static int64_t own_sums(const Optim *o, BlockSum *out) {
    const Blocks *b = &o->blocks;
    const Mesh *mesh = o->cfg.mesh;
    int me = comm_rank(mesh->dp), from = sharded(o) ? b->cut[me] : 0, to = sharded(o) ? b->cut[me + 1] : b->n;
    int64_t n = 0;
    for (int i = from; i < to && (sharded(o) || me == 0); i++) {
        const OptimParam *p = &o->param[b->at[i].tensor];
        const ParamInfo *w = &p->whole;
        if (mesh->at.tp > 0 && !param_divided(w)) continue;
        double sum = o->be->op->sumsq(o->be, block_of(o->grad, b->at[i]));
        out[n++] = (BlockSum){p->net, w->order, w->row + b->at[i].row, w->col, sum};
    }
    return n;
}

/* Blocks of all parts of the model, in the order that one rank would have added them in. */
static double sumsq_of_parts(const Optim *o) {
    Comm *world = o->cfg.mesh->world;
    BlockSum *own_sum = mem_alloc((size_t)(o->blocks.n + 1) * sizeof *own_sum);
    int64_t n_own = own_sums(o, own_sum);
    Error none = {0}, lost;
    Gathered all;
    double sum = NAN;
    if (agree(world, &none, own_sum, n_own * (int64_t)sizeof *own_sum, &all, &lost)) {
        BlockSum *s = (BlockSum *)(void *)all.data;
        size_t n = (size_t)all.off[comm_size(world)] / sizeof *s;
        qsort(s, n, sizeof *s, by_place);
        sum = 0;
        for (size_t i = 0; i < n; i++) sum += s[i].sum;
    }
    gathered_release(&all);
    free(own_sum);
    return sum;
}

static double gradient_sumsq(const Optim *o) {
    Backend *be = o->be;
    const Blocks *b = &o->blocks;
    double sum = 0;
    if (mesh_divides(o->cfg.mesh)) return sumsq_of_parts(o);
    if (sharded(o)) return sharded_sumsq(o);
    if (!be->op->sumsq_all) {
        for (int i = 0; i < b->n; i++) sum += be->op->sumsq(be, block_of(o->grad, b->at[i]));
        return sum;
    }
    Tensor *part = mem_alloc((size_t)b->n * sizeof *part);
    for (int i = 0; i < b->n; i++) part[i] = block_of(o->grad, b->at[i]);
    sum = be->op->sumsq_all(be, part, b->n);
    free(part);
    return sum;
}

/* Does the update of a parameter leave its gradient zero? Where a rank has a part of it the rest needs that, too. */
static bool clears(const Optim *o) { return o->be->op->update && !sharded(o); }

static void update(Optim *o, const OptimParam *p, double lr, double grad_scale) {
    Backend *be = o->be;
    AdamwParams a = {.beta1 = o->cfg.beta1, .beta2 = o->cfg.beta2, .eps = o->cfg.eps, .t = o->updates};
    a.lr = lr * p->lr_scale;
    a.weight_decay = p->decay ? o->cfg.weight_decay : 0;
    a.grad_scale = grad_scale;
    bool half = !tensor_empty(p->master);
    if (clears(o)) {
        be->op->update(be, half ? p->w : (Tensor){0}, half ? p->master : p->w, p->m, p->v, p->dw, a);
        return;
    }
    be->op->adamw(be, half ? p->master : own(p, p->w), p->m, p->v, own(p, p->dw), a);
    if (half) be->op->cast(be, own(p, p->w), p->master);
}

void optim_rehearse(Optim *o) {
    if (sharded(o)) blocks_gather(&o->blocks, dp_of(o), o->be, o->weight, "optim.weights");
}

OptimResult optim_step(Optim *o, double lr_factor, double grad_scale) {
    double sum = gradient_sumsq(o);
    Error lost;
    OptimResult r = {.grad_norm = sqrt(sum) * fabs(grad_scale), .clip_factor = 1};
    r.skipped = !isfinite(r.grad_norm) || !mesh_ok(o->cfg.mesh, &lost);
    if (!r.skipped) {
        if (o->cfg.clip > 0) r.clip_factor = fmin(1, o->cfg.clip / (r.grad_norm + 1e-6));
        o->updates++;
        for (int i = 0; i < o->n_param; i++)
            if (o->param[i].n_row > 0) update(o, &o->param[i], o->cfg.lr * lr_factor, grad_scale * r.clip_factor);
        if (sharded(o)) blocks_gather(&o->blocks, dp_of(o), o->be, o->weight, "optim.weights");
        for (int i = 0; i < o->n_net; i++) net_share_tied(o->net[i], o->cfg.mesh);
        raise_versions(o);
    }
    for (int i = 0; i < o->n_param && (r.skipped || !clears(o)); i++) o->be->op->zero(o->be, o->param[i].dw);
    return r;
}

/* -- state ----------------------------------------------------------------------------------------------------------
 */

enum { STATES = 3 };

/* A parameter's tensors of state: moments, and the master of BF16 weights; empty where there is none. */
static Tensor state_of(const OptimParam *p, int k) { return k == 0 ? p->m : k == 1 ? p->v : p->master; }

void optim_visit(const Optim *o, OptimVisitor *fn, void *ud) {
    static const OptimKind kind[STATES] = {OPTIM_M, OPTIM_V, OPTIM_MASTER};
    for (int i = 0; i < STATES * o->n_param; i++) {
        const OptimParam *p = &o->param[i / STATES];
        const ParamInfo *w = &p->whole;
        OptimPiece piece = {.net = p->net, .name = p->name, .kind = kind[i % STATES]};
        piece.rows = w->rows, piece.cols = w->cols, piece.row = w->row + p->row, piece.col = w->col;
        piece.share = param_divided(w), piece.t = state_of(p, i % STATES);
        if (!tensor_empty(piece.t)) fn(ud, &piece);
    }
}

void optim_resume(Optim *o, int64_t updates) { o->updates = updates; }
