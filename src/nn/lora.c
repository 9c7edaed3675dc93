/* nn/lora.c — adapters: places, first values, the two products, merging. See lora.h.
 *
 * Rows are worked on in runs of at most n_rows, so the room for x A^T does not grow with a pass; a row's bits do not
 * depend on the run it is in. The backward makes x A^T again: r columns cost less to compute than to keep for every
 * layer. */
#include "nn/nn_int.h"

#include "base/regex.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LORA_ROWS = 4096, LORA_WIDE = 1 << 20 };

/* -- places ---------------------------------------------------------------------------------------------------------
 */

typedef struct {
    Adapter *a;
    Arena *params, *grads; /* where to place; NULL: only ask */
    LoraWants *wants;
    void *ud;
    LoraPair *fused; /* the first part of the module of the last row */
    int64_t widest;
    int n;
} PlaceJob;

static void place_pair(void *ud, const ParamSlot *s) {
    PlaceJob *job = ud;
    Adapter *a = job->a;
    Backend *be = a->be;
    FileName f;
    if (s->layer < 0 || s->use != PARAM_MATRIX) return;
    family_module_name(&f, a->model.family, s);
    LoraPair *p = lora_pair(a, s->layer, s->number);
    if (f.part == 0) job->fused = p;
    if (job->wants ? !job->wants(job->ud, f.name, s) : tensor_empty(p->b)) return;
    job->n++;
    if (s->rows > job->widest) job->widest = s->rows;
    if (s->cols > job->widest) job->widest = s->cols;
    int r = a->cfg.r;
    LoraPair *q = f.part == 0 ? p : job->fused;
    p->a = f.part ? q->a : tensor_place_weight(job->params, a->dtype, r, s->cols, be->panels);
    p->b = tensor_place_weight(job->params, a->dtype, s->rows, r, be->panels);
    if (!job->grads) return;
    p->da = f.part ? q->da : tensor_place_weight(job->grads, be->real, r, s->cols, be->panels);
    p->db = tensor_place_weight(job->grads, be->real, s->rows, r, be->panels);
}

static void place_work(Adapter *a, Arena *mem, int64_t widest) {
    Backend *be = a->be;
    bool half = a->dtype != be->real;
    a->u = tensor_place(mem, be->real, a->n_rows, a->cfg.r);
    a->du = tensor_place(mem, be->real, a->n_rows, a->cfg.r);
    if (a->drop) {
        a->x_in = tensor_place(mem, a->dtype, a->n_rows, widest);
        a->dx_out = tensor_place(mem, be->real, a->n_rows, widest);
    }
    if (!half) return;
    a->u_in = tensor_place(mem, a->dtype, a->n_rows, a->cfg.r);
    a->du_in = tensor_place(mem, a->dtype, a->n_rows, a->cfg.r);
    a->wide = tensor_place(mem, be->real, a->n_rows, widest);
}

/* Twice: on measuring arenas, which leave tensors without memory behind, then for good. */
static bool place_all(Adapter *a, LoraWants *wants, void *ud, Error *err) {
    Arena params, grads, work;
    arena_init_measure(&params, "adapter");
    arena_init_measure(&grads, "gradients of the adapter");
    arena_init_measure(&work, "work space of the adapter");
    PlaceJob job = {.a = a, .params = &params, .grads = a->grads ? &grads : NULL, .wants = wants, .ud = ud};
    params_walk(&a->model, NULL, NULL, place_pair, &job);
    if (job.n == 0) return error_set(err, ERR_CONFIG, "an adapter of no matrix");
    int64_t sums = a->be->slice_values > LORA_WIDE ? a->be->slice_values : LORA_WIDE, rows = sums / job.widest;
    bool few = a->dtype != a->be->real || a->drop;
    a->n_rows = !few || rows > LORA_ROWS ? LORA_ROWS : rows < PANEL_ROWS ? PANEL_ROWS : (int)rows;
    place_work(a, &work, job.widest);
    if (!arena_init(&a->params, "adapter", a->be->mem, params.used, err) ||
        !arena_init(&a->work, "work space of the adapter", a->be->mem, work.used, err) ||
        (a->grads && !arena_init(&a->grad_mem, "gradients of the adapter", a->be->mem, grads.used, err)))
        return false;
    job.params = &a->params, job.grads = a->grads ? &a->grad_mem : NULL, job.wants = NULL;
    params_walk(&a->model, NULL, NULL, place_pair, &job);
    place_work(a, &a->work, job.widest);
    return true;
}

static void zero_grads(void *ud, const LoraPart *p) {
    Backend *be = ud;
    if (!tensor_empty(p->dw)) be->op->zero(be, p->dw);
}

bool lora_place(Adapter **out, Model *m, const LoraConfig *c, bool grads, LoraWants *wants, void *ud, Error *err) {
    *out = NULL;
    if (c->r < 1 || c->r > 1 << 16 || !(c->alpha > 0) || !isfinite(c->alpha))
        return error_set(err, ERR_CONFIG,
                         "LoRA of rank %d with alpha %g: expected a rank of 1..65536 and alpha above 0", c->r,
                         c->alpha);
    if (!(c->dropout >= 0 && c->dropout < 1))
        return error_set(err, ERR_CONFIG, "LoRA with dropout %g: expected 0 or more and less than 1", c->dropout);
    if (m->part.tp_n > 1)
        return error_set(err, ERR_CONFIG,
                         "dist.tp %d: adapters of a divided model cannot be trained; leave lora.r at 0", m->part.tp_n);
    Adapter *a = mem_alloc(sizeof *a);
    *a = (Adapter){.be = m->be, .cfg = *c, .model = m->cfg, .dtype = m->dtype, .grads = grads};
    a->cfg.target = NULL, a->cfg.n_target = 0, a->cfg.base = NULL;
    a->drop = grads ? (uint32_t)fmin(65535, nearbyint(c->dropout * 65536)) : 0;
    a->scale = c->alpha / (c->rslora ? sqrt(c->r) : c->r);
    a->pair = mem_alloc((size_t)m->cfg.n_layer * PARAM_COUNT * sizeof *a->pair);
    if (c->base) str_put(&a->base, c->base);
    if (!place_all(a, wants, ud, err)) {
        adapter_close(a);
        return false;
    }
    lora_visit(a, zero_grads, a->be);
    *out = a;
    return true;
}

void adapter_close(Adapter *a) {
    if (!a) return;
    arena_release(&a->params);
    arena_release(&a->grad_mem);
    arena_release(&a->work);
    str_release(&a->base);
    free(a->pair);
    free(a);
}

const LoraConfig *adapter_config(const Adapter *a) { return &a->cfg; }

/* -- walking --------------------------------------------------------------------------------------------------------
 */

typedef struct {
    const Adapter *a;
    LoraVisitor *fn;
    void *ud;
} VisitJob;

static void visit_pair(void *ud, const ParamSlot *s) {
    VisitJob *job = ud;
    FileName f;
    if (s->layer < 0 || s->use != PARAM_MATRIX) return;
    const LoraPair *p = lora_pair(job->a, s->layer, s->number);
    if (tensor_empty(p->b)) return;
    LoraPart part = {.layer = s->layer, .n_part = 1, .w = p->a, .dw = p->da};
    family_module_name(&f, job->a->model.family, s);
    memcpy(part.module, f.name, sizeof part.module);
    if (f.part == 0) job->fn(job->ud, &part);
    part.up = true, part.part = f.part, part.n_part = f.n_part, part.w = p->b, part.dw = p->db;
    job->fn(job->ud, &part);
}

void lora_visit(const Adapter *a, LoraVisitor *fn, void *ud) {
    params_walk(&a->model, NULL, NULL, visit_pair, &(VisitJob){a, fn, ud});
}

typedef struct {
    Backend *be;
    double sum; /* of the sizes of every b */
} UpJob;

static void add_up(void *ud, const LoraPart *p) {
    UpJob *job = ud;
    double *row = mem_alloc((size_t)p->w.cols * sizeof *row);
    for (int64_t i = 0; i < p->w.rows && p->up; i++) {
        tensor_get_row(job->be, row, p->w, i);
        for (int64_t k = 0; k < p->w.cols; k++) job->sum += fabs(row[k]);
    }
    free(row);
}

bool adapter_is_new(const Adapter *a) {
    UpJob job = {a->be, 0};
    lora_visit(a, add_up, &job);
    return job.sum == 0;
}

size_t adapter_bytes(const Adapter *a) { return a->params.used + a->grad_mem.used + a->work.used; }

static void count_part(void *ud, const LoraPart *p) { *(int64_t *)ud += tensor_count(p->w); }

int64_t adapter_params(const Adapter *a) {
    int64_t n = 0;
    lora_visit(a, count_part, &n);
    return n;
}

/* -- targets --------------------------------------------------------------------------------------------------------
 */

static bool answers(const char *module, const char *target) {
    size_t n = strlen(module), k = strlen(target);
    if (n < k || strcmp(module + n - k, target) != 0) return false;
    return n == k || module[n - k - 1] == '.';
}

static bool is_pattern(const char *target) { return strpbrk(target, "*+?()[]{}|\\^$") != NULL; }

/* A target, and how many modules answer to it: of the first layer to a name, of all to a pattern. */
typedef struct {
    Family family;
    const char *name;
    Regex *pattern; /* NULL: by its end */
    int n;
} Target;

static bool meets(const Target *t, const char *module) {
    return t->pattern ? regex_matches(t->pattern, module) : answers(module, t->name);
}

static void count_answers(void *ud, const ParamSlot *s) {
    Target *t = ud;
    FileName f;
    if ((t->pattern ? s->layer < 0 : s->layer != 0) || s->use != PARAM_MATRIX) return;
    family_module_name(&f, t->family, s);
    t->n += f.part == 0 && meets(t, f.name);
}

const char *lora_short_name(const ModelConfig *c, const char *module) {
    const char *at = module + strlen(module);
    for (Target t = {.n = 2}; t.n > 1 && at > module;) {
        do at--;
        while (at > module && at[-1] != '.');
        t = (Target){.family = c->family, .name = at};
        params_walk(c, NULL, NULL, count_answers, &t);
    }
    return at;
}

typedef struct {
    const ModelConfig *cfg;
    Str *out;
} ListJob;

static void list_module(void *ud, const ParamSlot *s) {
    ListJob *job = ud;
    FileName f;
    if (s->layer != 0 || s->use != PARAM_MATRIX) return;
    family_module_name(&f, job->cfg->family, s);
    if (f.part == 0) str_printf(job->out, "%s%s", job->out->n ? ", " : "", lora_short_name(job->cfg, f.name));
}

typedef struct {
    Target *target; /* (n) */
    int n;
    bool all;
} Targets;

static void targets_close(Targets *t) {
    for (int i = 0; i < t->n; i++) regex_close(t->target[i].pattern);
    free(t->target);
}

static bool is_target(void *ud, const char *module, const ParamSlot *s) {
    Targets *t = ud;
    (void)s;
    for (int i = 0; i < t->n && !t->all; i++)
        if (meets(&t->target[i], module)) return true;
    return t->all;
}

/* Before the adapter is placed: a name that is nobody's is the likelier mistake than a list of none. */
static bool targets_open(Targets *t, const LoraConfig *c, const ModelConfig *m, Error *err) {
    const Target *bad = NULL;
    *t = (Targets){.all = c->n_target == 1 && strcmp(c->target[0], "all-linear") == 0};
    t->target = mem_alloc((size_t)c->n_target * sizeof *t->target + 1);
    for (int i = 0; i < c->n_target && !t->all && !bad; i++) {
        Target *one = &t->target[t->n++];
        *one = (Target){.family = m->family, .name = c->target[i]};
        if (is_pattern(one->name) && !regex_open(&one->pattern, one->name, err)) {
            targets_close(t);
            return false;
        }
        params_walk(m, NULL, NULL, count_answers, one);
        if (one->n == 0) bad = one;
    }
    if (!bad && c->n_target > 0) return true;
    Str known = {0};
    params_walk(m, NULL, NULL, list_module, &(ListJob){m, &known});
    if (bad)
        error_set(err, ERR_CONFIG, "no module that LoRA can have %s '%.60s': expected all-linear, or some of %s",
                  bad->pattern ? "matches" : "is called", bad->name, str_get(&known));
    else
        error_set(err, ERR_CONFIG, "LoRA of no module: expected all-linear, or some of %s", str_get(&known));
    str_release(&known);
    targets_close(t);
    return false;
}

/* -- first values ---------------------------------------------------------------------------------------------------
 */

typedef struct {
    Backend *be;
    Rng rng;
    uint32_t n;
} DrawJob;

static void draw_part(void *ud, const LoraPart *p) {
    DrawJob *job = ud;
    int64_t n = tensor_count(p->w);
    float *host = mem_alloc((size_t)n * sizeof *host);
    double most = 1 / sqrt((double)p->w.cols);
    for (int64_t i = 0; i < n && !p->up; i++)
        host[i] = (float)(most * (2 * rng_uniform(job->rng, (uint64_t)i, job->n) - 1));
    tensor_set_f32(job->be, p->w, host);
    job->n++;
    free(host);
}

bool adapter_init(Adapter **out, Model *m, const LoraConfig *c, uint64_t seed, bool grads, Error *err) {
    *out = NULL;
    Targets t;
    if (!targets_open(&t, c, &m->cfg, err)) return false;
    bool ok = lora_place(out, m, c, grads, is_target, &t, err);
    targets_close(&t);
    if (ok) (*out)->seed = seed;
    if (ok) lora_visit(*out, draw_part, &(DrawJob){m->be, rng_derive((Rng){seed, RNG_INIT}, "lora"), 0});
    return ok;
}

static bool has_pair(void *ud, const char *module, const ParamSlot *s) {
    (void)module;
    return !tensor_empty(lora_pair(ud, s->layer, s->number)->b);
}

bool adapter_clone(Adapter **out, Net n, bool grads, Error *err) {
    LoraConfig c = n.adapter->cfg;
    c.base = str_get(&n.adapter->base);
    uint64_t version = n.trunk->version;
    bool ok = lora_place(out, n.trunk, &c, grads, has_pair, n.adapter, err) &&
              net_copy_weights((Net){n.trunk, n.head, *out}, n, err);
    n.trunk->version = version; /* none of its nets has changed */
    if (ok) (*out)->seed = n.adapter->seed;
    return ok;
}

/* -- products -------------------------------------------------------------------------------------------------------
 */

static Tensor sized(Tensor room, int64_t rows) { return tensor_rows(room, 0, rows); }

/* As products read it. */
static Tensor as_read(const Adapter *a, Tensor narrow, Tensor t) {
    if (a->dtype == t.dtype) return t;
    narrow = sized(narrow, t.rows);
    a->be->op->cast(a->be, narrow, t);
    return narrow;
}

/* What a run of rows drops. */
typedef struct {
    bool drops;
    Dropout mask; /* of the run's rows */
} Run;

static Run run_of(Net net, int layer, ParamNumber number, int64_t at, const Batch *b) {
    const Adapter *a = net.adapter;
    Run run = {.drops = a->drop && b->drop};
    if (!run.drops) return run;
    uint32_t key[4];
    rng_block(key, (Rng){a->seed, RNG_DROPOUT}, b->drop, (uint32_t)(layer * PARAM_COUNT + (int)number));
    run.mask = (Dropout){{(uint64_t)key[1] << 32 | key[0], RNG_DROPOUT}, 0, a->drop};
    run.mask.row = (uint64_t)at | (uint64_t)net.trunk->part.cp << 32; /* ranks that divide rows drop different ones */
    return run;
}

static Tensor dropped(const Adapter *a, const Run *run, Tensor x) {
    if (!run->drops) return x;
    Tensor y = tensor_over(a->x_in.data, x.dtype, x.rows, x.cols);
    a->be->op->dropout(a->be, y, x, run->mask);
    return y;
}

/* scale * x a^T */
static Tensor go_down(const Adapter *a, const LoraPair *p, Tensor x) {
    Tensor u = sized(a->u, x.rows);
    a->be->op->linear_fwd(a->be, &(LinearOut){.y = u, .w = p->a}, 1, x, false);
    a->be->op->scale(a->be, u, a->scale);
    return as_read(a, a->u_in, u);
}

/* What sums are added to: t, or a wide copy of it. */
static Tensor widened(const Adapter *a, Tensor t) {
    if (t.dtype == a->be->real) return t;
    Tensor wide = tensor_over(a->wide.data, a->be->real, t.rows, t.cols);
    a->be->op->cast(a->be, wide, t);
    return wide;
}

static void narrowed(const Adapter *a, Tensor t, Tensor wide) {
    if (t.dtype != a->be->real) a->be->op->cast(a->be, t, wide);
}

/* How many from `which` on share one a (parts of a fused matrix), the first of them included; 0: no pair. */
static int sharing(const Adapter *a, int layer, const ParamNumber *which, int n) {
    const LoraPair *first = lora_pair(a, layer, which[0]);
    if (tensor_empty(first->b)) return 0;
    int k = 1;
    while (k < n && lora_pair(a, layer, which[k])->a.data == first->a.data) k++;
    return k;
}

static int64_t run_length(const Adapter *a, int64_t at, int64_t rows) {
    return rows - at < a->n_rows ? rows - at : a->n_rows;
}

void lora_forward(Net net, int layer, const ParamNumber *which, const LinearOut *out, int n_out, Tensor x,
                  const Batch *b) {
    const Adapter *a = net.adapter;
    for (int i = 0, n; a && i<n_out; i += n> 0 ? n : 1) {
        n = sharing(a, layer, which + i, n_out - i);
        for (int64_t at = 0; n > 0 && at < x.rows; at += a->n_rows) {
            int64_t rows = run_length(a, at, x.rows);
            Run run = run_of(net, layer, which[i], at, b);
            Tensor u = go_down(a, lora_pair(a, layer, which[i]), dropped(a, &run, tensor_rows(x, at, rows)));
            for (int k = i; k < i + n; k++) {
                Tensor y = tensor_rows(out[k].y, at, rows), sum = widened(a, y);
                LinearOut up = {.y = sum, .w = lora_pair(a, layer, which[k])->b};
                a->be->op->linear_fwd(a->be, &up, 1, u, true);
                narrowed(a, y, sum);
            }
        }
    }
}

/* db_k += dy_k^T u, du = scale * sum_k dy_k b_k, da += du^T x, dx += du a;  u = scale * x a^T; where x is dropped, dx
 * gets what the same elements of du a become. */
static void backward_run(const Adapter *a, int layer, const ParamNumber *which, Tensor dx, const LinearGrad *grad,
                         int n, Tensor x, const Run *run) {
    const BackendOps *op = a->be->op;
    const LoraPair *first = lora_pair(a, layer, which[0]);
    x = dropped(a, run, x);
    Tensor u = go_down(a, first, x), du = sized(a->du, x.rows);
    LinearGrad up[LINEAR_MAX] = {0};
    for (int k = 0; k < n; k++) {
        const LoraPair *p = lora_pair(a, layer, which[k]);
        up[k] = (LinearGrad){.dy = grad[k].dy, .w = p->b, .dw_acc = p->db};
    }
    op->linear_bwd(a->be, du, up, n, u, false);
    op->scale(a->be, du, a->scale);
    LinearGrad down = {.dy = as_read(a, a->du_in, du), .w = first->a, .dw_acc = first->da};
    Tensor sum = widened(a, dx);
    if (run->drops) {
        Tensor out = tensor_over(a->dx_out.data, a->be->real, dx.rows, dx.cols);
        op->linear_bwd(a->be, out, &down, 1, x, false);
        op->dropout(a->be, out, out, run->mask);
        op->add(a->be, sum, sum, out);
    } else {
        op->linear_bwd(a->be, sum, &down, 1, x, true);
    }
    narrowed(a, dx, sum);
}

void lora_backward(Net net, int layer, const ParamNumber *which, Tensor dx, const LinearGrad *grad, int n_grad,
                   Tensor x, const Batch *b) {
    const Adapter *a = net.adapter;
    for (int i = 0, n; a && i<n_grad; i += n> 0 ? n : 1) {
        n = sharing(a, layer, which + i, n_grad - i);
        for (int64_t at = 0; n > 0 && at < x.rows; at += a->n_rows) {
            int64_t rows = run_length(a, at, x.rows);
            LinearGrad part[LINEAR_MAX] = {0};
            for (int k = 0; k < n; k++) part[k].dy = tensor_rows(grad[i + k].dy, at, rows);
            Run run = run_of(net, layer, which[i], at, b);
            backward_run(a, layer, which + i, tensor_rows(dx, at, rows), part, n, tensor_rows(x, at, rows), &run);
        }
    }
}

/* -- merging --------------------------------------------------------------------------------------------------------
 */

typedef struct {
    Backend *be;
    Tensor w;
    const float *a, *b; /* (r, K), (M, r) */
    int r;
    double scale;
    float *row;  /* (threads, PANEL_ROWS * K) */
    double *sum; /* (threads, K) */
} MergeJob;

static void merge_panel(void *ud, int64_t tile, int thread) {
    MergeJob *job = ud;
    int64_t first = tile * PANEL_ROWS, cols = job->w.cols;
    int64_t n = job->w.rows - first < PANEL_ROWS ? job->w.rows - first : PANEL_ROWS;
    Tensor w = tensor_rows(job->w, first, n);
    float *row = job->row + thread * PANEL_ROWS * cols;
    double *sum = job->sum + thread * cols;
    tensor_get_f32(job->be, row, w);
    for (int64_t i = 0; i < n; i++) {
        memset(sum, 0, (size_t)cols * sizeof *sum);
        for (int k = 0; k < job->r; k++) {
            double b = job->scale * (double)job->b[(first + i) * job->r + k];
            const float *a = job->a + k * cols;
            for (int64_t c = 0; c < cols; c++) sum[c] += b * (double)a[c];
        }
        for (int64_t c = 0; c < cols; c++) row[i * cols + c] = (float)((double)row[i * cols + c] + sum[c]);
    }
    tensor_set_f32(job->be, w, row);
}

static float *host_copy(Backend *be, Tensor t) {
    float *host = mem_alloc((size_t)tensor_count(t) * sizeof *host);
    tensor_get_f32(be, host, t);
    return host;
}

static void merge_pair(void *ud, const ParamSlot *s) {
    const Adapter *ad = ud;
    if (s->layer < 0) return;
    const LoraPair *p = lora_pair(ad, s->layer, s->number);
    if (tensor_empty(p->b)) return;
    Backend *be = ad->be;
    /* Threads where rows lie in host memory. */
    Pool *pool = be->panels ? be->pool : NULL;
    size_t n_thread = pool ? (size_t)pool_threads(pool) : 1;
    float *a = host_copy(be, p->a), *b = host_copy(be, p->b);
    MergeJob job = {.be = be, .w = *s->w, .a = a, .b = b, .r = ad->cfg.r, .scale = ad->scale};
    job.row = mem_alloc(n_thread * (size_t)(PANEL_ROWS * s->cols) * sizeof *job.row);
    job.sum = mem_alloc(n_thread * (size_t)s->cols * sizeof *job.sum);
    int64_t n_tile = (s->rows + PANEL_ROWS - 1) / PANEL_ROWS;
    if (pool)
        pool_for(pool, n_tile, merge_panel, &job);
    else
        for (int64_t t = 0; t < n_tile; t++) merge_panel(&job, t, 0);
    be->op->zero(be, p->b);
    free(a);
    free(b);
    free(job.row);
    free(job.sum);
}

void net_merge(Net n) {
    CHECK(n.adapter, "a net without an adapter is merged");
    model_pack(n.trunk);
    params_walk(&n.trunk->cfg, &n.trunk->w, NULL, merge_pair, n.adapter);
    n.trunk->version++;
}
