/* nn/optim.c — learning rate schedules, joint gradient norm, clipping, AdamW. See optim.h for the order of one update.
 */
#include "nn/optim.h"
#include "nn/safetensors.h"

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
    char *name; /* "<net>.<name>" */
    int net;
    Tensor w, dw, m, v;
    Tensor master; /* BF16 weights: what they are rounded from; else empty */
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
    *q = (OptimParam){.name = heap_printf(&o->names, "%d.%s", job->net, p->name), .lr_scale = job->lr_scale};
    q->w = p->w, q->dw = p->dw, q->decay = p->decay, q->net = job->net;
}

static void place_moments(Optim *o, Arena *mem) {
    for (int i = 0; i < o->n_param; i++) {
        OptimParam *p = &o->param[i];
        DType real = o->be->real;
        p->m = tensor_place_weight(mem, real, p->w.rows, p->w.cols, p->w.panels);
        p->v = tensor_place_weight(mem, real, p->w.rows, p->w.cols, p->w.panels);
        if (p->w.dtype != real) p->master = tensor_place_weight(mem, real, p->w.rows, p->w.cols, p->w.panels);
    }
}

static void widen(Backend *be, Tensor to, Tensor from) {
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
    Arena measure;
    arena_init_measure(&measure, "optimizer moments");
    place_moments(o, &measure);
    if (!arena_init(&o->mem, "optimizer moments", o->be->mem, measure.used, err)) {
        optim_close(o);
        return false;
    }
    place_moments(o, &o->mem);
    for (int i = 0; i < o->n_param; i++) {
        o->be->op->zero(o->be, o->param[i].m);
        o->be->op->zero(o->be, o->param[i].v);
        if (!tensor_empty(o->param[i].master)) widen(o->be, o->param[i].master, o->param[i].w);
    }
    *out = o;
    return true;
}

void optim_close(Optim *o) {
    if (!o) return;
    arena_release(&o->mem);
    heap_release(&o->names);
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

static double gradient_sumsq(const Optim *o) {
    Backend *be = o->be;
    double sum = 0;
    if (!be->op->sumsq_all) {
        for (int i = 0; i < o->n_param; i++) sum += be->op->sumsq(be, o->param[i].dw);
        return sum;
    }
    Tensor *dw = mem_alloc((size_t)o->n_param * sizeof *dw);
    for (int i = 0; i < o->n_param; i++) dw[i] = o->param[i].dw;
    sum = be->op->sumsq_all(be, dw, o->n_param);
    free(dw);
    return sum;
}

OptimResult optim_step(Optim *o, double lr_factor, double grad_scale) {
    Backend *be = o->be;
    double sum = gradient_sumsq(o);
    OptimResult r = {.grad_norm = sqrt(sum) * fabs(grad_scale), .clip_factor = 1};
    r.skipped = !isfinite(r.grad_norm);
    if (!r.skipped) {
        if (o->cfg.clip > 0) r.clip_factor = fmin(1, o->cfg.clip / (r.grad_norm + 1e-6));
        o->updates++;
        for (int i = 0; i < o->n_param; i++) {
            OptimParam *p = &o->param[i];
            AdamwParams a = {.beta1 = o->cfg.beta1, .beta2 = o->cfg.beta2, .eps = o->cfg.eps, .t = o->updates};
            a.lr = o->cfg.lr * lr_factor * p->lr_scale;
            a.weight_decay = p->decay ? o->cfg.weight_decay : 0;
            a.grad_scale = grad_scale * r.clip_factor;
            bool half = !tensor_empty(p->master);
            be->op->adamw(be, half ? p->master : p->w, p->m, p->v, p->dw, a);
            if (half) be->op->cast(be, p->w, p->master);
        }
        raise_versions(o);
    }
    for (int i = 0; i < o->n_param; i++) be->op->zero(be, o->param[i].dw);
    return r;
}

/* -- state ----------------------------------------------------------------------------------------------------------
 */

static const char updates_name[] = "updates";

typedef struct {
    Backend *be;
    const StOut *out;
    Tensor *state; /* as out */
} SaveJob;

/* Bits as they are: F32 in cpu, F64 in ref. One tensor at a time, so that a state costs no memory. */
static bool put_state(void *ud, const StOut *t, Writer *w, Error *err) {
    const SaveJob *job = ud;
    Tensor state = job->state[t - job->out];
    void *host = mem_alloc(t->bytes);
    if (state.dtype == DTYPE_F64)
        tensor_get(job->be, host, state);
    else
        tensor_get_f32(job->be, host, state);
    bool ok = writer_put(w, host, t->bytes, err);
    free(host);
    return ok;
}

enum { STATES = 3 };
static const char state_kind[STATES] = {'m', 'v', 'w'};

/* A parameter's tensors of state: moments, and the master of BF16 weights; empty where there is none. */
static Tensor state_of(const OptimParam *p, int k) { return k == 0 ? p->m : k == 1 ? p->v : p->master; }

void optim_visit(const Optim *o, OptimVisitor *fn, void *ud) {
    static const OptimKind kind[STATES] = {OPTIM_M, OPTIM_V, OPTIM_MASTER};
    for (int i = 0; i < STATES * o->n_param; i++) {
        const OptimParam *p = &o->param[i / STATES];
        Tensor t = state_of(p, i % STATES);
        if (!tensor_empty(t)) fn(ud, p->net, strchr(p->name, '.') + 1, kind[i % STATES], t, 0, p->w.rows);
    }
}

void optim_resume(Optim *o, int64_t updates) { o->updates = updates; }

static int count_states(const Optim *o) {
    int n = 0;
    for (int i = 0; i < STATES * o->n_param; i++) n += !tensor_empty(state_of(&o->param[i / STATES], i % STATES));
    return n;
}

bool optim_save(const Optim *o, const char *path, Error *err) {
    Heap heap = {0};
    int n = count_states(o) + 1, at = 0;
    StOut *out = mem_alloc((size_t)n * sizeof *out);
    SaveJob job = {o->be, out, mem_alloc((size_t)n * sizeof *job.state)};
    for (int i = 0; i < STATES * o->n_param; i++) {
        const OptimParam *p = &o->param[i / STATES];
        Tensor t = state_of(p, i % STATES);
        if (tensor_empty(t)) continue;
        job.state[at] = t;
        out[at] = (StOut){.dtype = dtype_name(t.dtype), .n_dim = 2, .dim = {t.rows, t.cols}};
        out[at].name = heap_printf(&heap, "%s.%c", p->name, state_kind[i % STATES]);
        out[at].bytes = (size_t)tensor_count(t) * dtype_bytes(t.dtype);
        at++;
    }
    out[at] = (StOut){.name = updates_name, .dtype = "I64", .n_dim = 1, .dim = {1}, .data = &o->updates, .bytes = 8};
    bool ok = st_write_with(path, out, n, put_state, &job, err);
    heap_release(&heap);
    free(job.state);
    free(out);
    return ok;
}

static bool load_moment(Optim *o, const StFile *f, const char *name, char kind, Tensor t, bool store, Error *err) {
    char full[256];
    snprintf(full, sizeof full, "%s.%c", name, kind);
    const StEntry *e = st_find(f, full);
    if (!e) return error_set(err, ERR_FORMAT, "tensor '%s' is missing", full);
    if (strcmp(e->dtype, dtype_name(t.dtype)) != 0 || e->n_dim != 2 || e->dim[0] != t.rows || e->dim[1] != t.cols)
        return error_set(err, ERR_FORMAT, "tensor '%s': expected %s of shape [%lld, %lld]", full, dtype_name(t.dtype),
                         (long long)t.rows, (long long)t.cols);
    if (!store) return true;
    void *host = mem_alloc(e->bytes); /* aligned, which the mapping need not be */
    memcpy(host, e->data, e->bytes);
    if (t.dtype == DTYPE_F64)
        tensor_set(o->be, t, host);
    else
        tensor_set_f32(o->be, t, host);
    free(host);
    return true;
}

/* Checks everything before it stores anything: a refused file leaves the optimizer as it was. */
static bool load_state(Optim *o, const StFile *f, Error *err) {
    const StEntry *t = st_find(f, updates_name);
    if (!t || strcmp(t->dtype, "I64") != 0 || t->bytes != 8)
        return error_set(err, ERR_FORMAT, "tensor '%s' is missing or not one I64", updates_name);
    int n = count_states(o) + 1;
    if (f->n != n) return error_set(err, ERR_FORMAT, "%d tensors, expected %d: state of another net", f->n, n);
    for (int store = 0; store < 2; store++) {
        for (int i = 0; i < STATES * o->n_param; i++) {
            const OptimParam *p = &o->param[i / STATES];
            Tensor state = state_of(p, i % STATES);
            if (!tensor_empty(state) && !load_moment(o, f, p->name, state_kind[i % STATES], state, store, err))
                return false;
        }
    }
    memcpy(&o->updates, t->data, sizeof o->updates);
    return true;
}

bool optim_load(Optim *o, const char *path, Error *err) {
    StFile f;
    if (!st_open(&f, path, err)) return false;
    bool ok = load_state(o, &f, err);
    st_close(&f);
    return ok || error_wrap(err, "%s", path);
}
