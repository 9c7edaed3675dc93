/* tests/ops_harness.h — one op call on any backend: its inputs, its run, its outputs; see ops_cases.h. */
#ifndef DIKAST_TESTS_OPS_HARNESS_H
#define DIKAST_TESTS_OPS_HARNESS_H

#include "base/rng.h"
#include "tensor/backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// clang-format off
/*     op                forward it is the gradient of ("": none) */
#define OPS_LIST(OP)            \
    OP(zero,             "")    \
    OP(copy,             "")    \
    OP(cast,             "")    \
    OP(quantize,         "")    \
    OP(add,              "")    \
    OP(add_bias,         "")    \
    OP(sumsq,            "")    \
    OP(all_finite,       "")    \
    OP(embed_fwd,        "")    \
    OP(embed_bwd,        "embed_fwd")     \
    OP(gather_rows,      "")    \
    OP(scatter_rows,     "")    \
    OP(scatter_add_rows, "")    \
    OP(linear_fwd,       "")    \
    OP(linear_bwd,       "linear_fwd")    \
    OP(rmsnorm_fwd,      "")    \
    OP(rmsnorm_bwd,      "rmsnorm_fwd")   \
    OP(layernorm_fwd,    "")    \
    OP(layernorm_bwd,    "layernorm_fwd") \
    OP(rope,             "")    \
    OP(swiglu_fwd,       "")    \
    OP(swiglu_bwd,       "swiglu_fwd")    \
    OP(gelu_fwd,         "")    \
    OP(gelu_bwd,         "gelu_fwd")      \
    OP(attn_fwd,         "")    \
    OP(attn_bwd,         "attn_fwd")      \
    OP(logprob_fwd,      "")    \
    OP(logprob_bwd,      "logprob_fwd")   \
    OP(adamw,            "")    \
    OP(scale,            "")    \
    OP(dropout,          "")
// clang-format on

typedef enum {
#define OP(name, fwd) OP_##name,
    OPS_LIST(OP)
#undef OP
        OP_COUNT
} OpId;

enum { OPS_MAX = 1024, OPS_SEQS = 6, OPS_SLOTS = 10, OPS_GUARD = 8 };

/* What linear_* works on, in backends that have it: BF16 matrices; or BF16 or 8-bit weights under F32 rows. STORE_ROUND: F32
 * tensors of numbers that BF16 holds exactly. */
typedef enum { STORE_REAL, STORE_BF16, STORE_W_BF16, STORE_W_I8, STORE_ROUND } OpStore;

typedef struct {
    OpId op;
    OpStore store;
    int n, m, k; /* rows; columns (of y); inner size or size of the table looked into */
    int n_head, n_kv, d_head;
    int n_seq, len[OPS_SEQS], ctx[OPS_SEQS]; /* attention: queries and keys of each sequence */
    int window;
    bool causal, paged, shared; /* paged: keys in shuffled pages; shared: sequences 0, 1 name one first page */
    unsigned half; /* attention under STORE_BF16: bit 0: q, k, v; 1: o, do; 2: dq, dk, dv */
    bool add, inverse;
    unsigned without; /* bit i: optional tensor i of the op is empty */
    int alias;        /* which of the op's permitted aliases, 0: none */
    int pad;          /* ld - cols */
    int parts;        /* linear: products of one call that y's columns are cut into, at panels; 0: 1 */
    bool panels;      /* elementwise and lookup: the tensors that may be weights lie in panels, where the backend has them */
    GeluKind gelu;
    float eps, temp;
    double spread; /* standard deviation of the inputs */
    AdamwParams adamw;
    bool f32; /* round inputs to F32, so that F32 and F64 backends start from the same numbers */
    uint64_t seed;
} OpCase;

typedef enum { SLOT_IN, SLOT_OUT, SLOT_INOUT } SlotRole;
typedef struct {
    const char *name;
    SlotRole role;
    int64_t rows, cols;
    bool per_row;  /* row i belongs to row i of the batch */
    int alias;     /* slot whose memory it shares, -1: its own */
    double *value; /* (rows, cols) before the call; NULL for SLOT_OUT */
} Slot;

typedef struct {
    OpCase c;
    Slot slot[OPS_SLOTS]; /* in the order of the op's arguments */
    int n_slot;
    bool has_scalar; /* the op returns a number */
    bool sliceable;
    int32_t *idx; /* (n): indices, targets or positions */
    double *freq; /* (d_head/2) */
    int32_t *q_off, *kv_len, *kv_page;
    AttnSeqs seqs;
} OpData;

typedef struct {
    double *v;          /* OUT and INOUT slots in order, contiguous rows; then the scalar */
    int64_t n, touched; /* touched: elements outside every tensor that were written */
} OpOut;

static inline const char *op_name(OpId op) {
    static const char *const name[OP_COUNT] = {
#define OP(name, fwd) #name,
        OPS_LIST(OP)
#undef OP
    };
    return name[op];
}

/* OP_COUNT when op has no forward. */
static inline OpId op_forward(OpId op) {
    static const char *const fwd[OP_COUNT] = {
#define OP(name, fwd) fwd,
        OPS_LIST(OP)
#undef OP
    };
    for (int i = 0; i < OP_COUNT; i++)
        if (strcmp(op_name((OpId)i), fwd[op]) == 0) return (OpId)i;
    return OP_COUNT;
}

static inline const char *op_case_name(char buf[240], const OpCase *c) {
    int at =
        snprintf(buf, 240, "%s n=%d m=%d k=%d pad=%d add=%d inverse=%d without=%u alias=%d temp=%g spread=%g seed=%llu",
                 op_name(c->op), c->n, c->m, c->k, c->pad, c->add, c->inverse, c->without, c->alias, (double)c->temp,
                 c->spread, (unsigned long long)c->seed);
    if (c->n_head && at < 240)
        at += snprintf(buf + at, (size_t)(240 - at), " heads=%d/%d d_head=%d window=%d", c->n_head, c->n_kv, c->d_head,
                       c->window);
    for (int s = 0; s < c->n_seq && at < 240; s++)
        at += snprintf(buf + at, (size_t)(240 - at), "%s%d/%d",
                       s           ? ","
                       : c->causal ? " causal "
                                   : " full ",
                       c->len[s], c->ctx[s]);
    return buf;
}

/* -- inputs ------------------------------------------------------------------------------------------------------- */

static inline Rng op_rng(const OpData *d) { return (Rng){.seed = d->c.seed, .stream = RNG_TEST}; }

static inline double op_round(const OpData *d, double v) { return d->c.f32 ? (double)(float)v : v; }

/* dtype of the slot called name on a backend that works in real. */
static inline DType op_dtype(const OpCase *c, const char *name, DType real) {
    bool weight = strcmp(name, "w") == 0;
    if (real != DTYPE_F32) return real;
    if (c->op == OP_quantize) return strcmp(name, "y") == 0 ? DTYPE_I8 : real;
    if (c->store == STORE_W_BF16) return weight ? DTYPE_BF16 : real;
    if (c->store == STORE_W_I8) return weight ? DTYPE_I8 : real;
    if (c->store != STORE_BF16) return real;
    switch (c->op) {
    case OP_attn_fwd:
    case OP_attn_bwd: {
        if (strcmp(name, "lse") == 0) return real;
        int part = name[0] == 'o' || strcmp(name, "do") == 0 ? 1 : name[0] == 'd' ? 2 : 0;
        return c->half >> part & 1 ? DTYPE_BF16 : real;
    }
    case OP_swiglu_fwd:
    case OP_swiglu_bwd:
    case OP_gelu_fwd:
    case OP_gelu_bwd:
    case OP_dropout:
    case OP_rope: /* from here on: backends with attn_half */
    case OP_gather_rows:
    case OP_scatter_rows:
    case OP_scatter_add_rows: return DTYPE_BF16;
    case OP_rmsnorm_fwd:
    case OP_layernorm_fwd:
    case OP_cast: return strcmp(name, "y") == 0 ? DTYPE_BF16 : real;
    case OP_embed_fwd: return weight ? DTYPE_BF16 : real;
    default: break; /* linear */
    }
    bool out = strcmp(name, "y") == 0 || strcmp(name, "dx") == 0; /* F32 or BF16; F32 where the old value is added */
    bool half = weight || strcmp(name, "x") == 0 || strcmp(name, "dy") == 0 || (out && !c->add && c->n % 2);
    return half ? DTYPE_BF16 : real;
}

/* Of an input whose numbers must be the same on every backend. */
static inline double op_exact(const OpCase *c, const char *name, double v) {
    DType t = c->store == STORE_ROUND ? DTYPE_BF16 : op_dtype(c, name, DTYPE_F32);
    if (t == DTYPE_I8) return fmax(-127, fmin(127, rint(v * 40)));
    if (t != DTYPE_BF16) return v;
    uint16_t half;
    Tensor one = tensor_over(&half, DTYPE_BF16, 1, 1);
    tensor_set(NULL, one, &v);
    tensor_get(NULL, &v, one);
    return v;
}

static inline Slot *op_slot(OpData *d, const char *name, SlotRole role, int64_t rows, int64_t cols, bool per_row) {
    CHECK(d->n_slot < OPS_SLOTS, "more than %d slots", OPS_SLOTS);
    int id = d->n_slot++;
    Slot *s = &d->slot[id];
    *s = (Slot){.name = name, .role = role, .rows = rows, .cols = cols, .per_row = per_row, .alias = -1};
    if (role == SLOT_OUT || rows * cols == 0) return s;
    s->value = mem_alloc((size_t)(rows * cols) * sizeof(double));
    for (int64_t i = 0; i < rows * cols; i++)
        s->value[i] =
            op_exact(&d->c, name, op_round(d, d->c.spread * rng_normal(op_rng(d), (uint64_t)i, (uint32_t)id + 1)));
    return s;
}

/* Index of the slot called name, -1 if there is none. */
static inline int op_find(const OpData *d, const char *name) {
    for (int i = 0; i < d->n_slot; i++)
        if (strcmp(d->slot[i].name, name) == 0) return i;
    return -1;
}

/* Optional tensor number bit: its column count, 0 when the case goes without it. */
static inline int64_t op_unless(const OpData *d, int bit, int64_t cols) { return d->c.without >> bit & 1 ? 0 : cols; }

static inline void op_index(OpData *d, int n, uint32_t below, bool distinct) {
    d->idx = mem_alloc((size_t)(n + 1) * sizeof *d->idx);
    for (int i = 0; i < n; i++) d->idx[i] = (int32_t)rng_below(op_rng(d), (uint64_t)i, 1000, below);
    if (!distinct) return;
    int64_t *order = mem_alloc(below * sizeof *order);
    rng_shuffle(op_rng(d), 1001, order, below);
    for (int i = 0; i < n; i++) d->idx[i] = (int32_t)order[i];
    free(order);
}

/* Query rows one sequence after another; keys are those rows, or shuffled pages in a cache with gaps between them.
 * Returns the rows that k and v need. */
static inline int64_t op_seqs(OpData *d) {
    const OpCase *c = &d->c;
    int n_page = 0, max_page = 1;
    d->q_off = mem_alloc(sizeof(int32_t) * OPS_SEQS * 2);
    d->kv_len = mem_alloc(sizeof(int32_t) * OPS_SEQS);
    for (int s = 0; s < c->n_seq; s++) {
        int pages = (c->ctx[s] + KV_PAGE - 1) / KV_PAGE;
        d->q_off[s + 1] = d->q_off[s] + c->len[s];
        d->kv_len[s] = c->ctx[s];
        n_page += pages;
        if (pages > max_page) max_page = pages;
    }
    int stride = KV_PAGE + (c->pad ? 5 : 0);
    int64_t *order = mem_alloc((size_t)(n_page + 1) * sizeof *order);
    rng_shuffle(op_rng(d), 1002, order, n_page);
    d->kv_page = mem_alloc(sizeof(int32_t) * (size_t)(c->n_seq * max_page + 1));
    for (int s = 0, at = 0; s < c->n_seq; s++)
        for (int p = 0; p * KV_PAGE < c->ctx[s]; p++, at++)
            d->kv_page[s * max_page + p] = c->paged ? (int32_t)(order[at] * stride) : d->q_off[s] + p * KV_PAGE;
    if (c->shared) d->kv_page[max_page] = d->kv_page[0];
    free(order);
    d->seqs = (AttnSeqs){.n_seq = c->n_seq,
                         .max_page = max_page,
                         .q_off = d->q_off,
                         .kv_len = d->kv_len,
                         .kv_page = d->kv_page,
                         .causal = c->causal,
                         .window = c->window};
    return c->paged ? (int64_t)n_page * stride : d->q_off[c->n_seq];
}

/* NaN in the key or value rows that lie in no sequence. */
static inline void op_hide(const OpData *d, Slot *s) {
    unsigned char *seen = mem_alloc((size_t)s->rows + 1);
    for (int q = 0; q < d->c.n_seq; q++)
        for (int p = 0; p < d->c.ctx[q]; p++) seen[d->kv_page[q * d->seqs.max_page + p / KV_PAGE] + p % KV_PAGE] = 1;
    for (int64_t i = 0; i < s->rows; i++)
        for (int64_t j = 0; j < s->cols && !seen[i]; j++) s->value[i * s->cols + j] = NAN;
    free(seen);
}

/* Part i of n of y's m columns, which are w's rows: [first, first + count), cut at panels. */
static inline int64_t op_part(int64_t m, int n, int i, int64_t *count) {
    int64_t panels = (m + PANEL_ROWS - 1) / PANEL_ROWS, first = panels * i / n * PANEL_ROWS;
    int64_t end = panels * (i + 1) / n * PANEL_ROWS;
    *count = (end < m ? end : m) - first;
    return first;
}

static inline void op_linear(Backend *be, const OpData *d, const Tensor *t) {
    LinearOut out[LINEAR_MAX];
    LinearGrad grad[LINEAR_MAX];
    const Tensor none = {0};
    bool bwd = d->c.op == OP_linear_bwd;
    int n = d->c.parts > 0 ? d->c.parts : 1;
    for (int i = 0; i < n; i++) {
        int64_t count, first = op_part(d->c.m, n, i, &count);
        if (!bwd) {
            out[i] = (LinearOut){tensor_cols(t[0], first, count), tensor_rows(t[2], first, count), none, none};
            if (!tensor_empty(t[3])) out[i].bias = tensor_cols(t[3], first, count);
            if (d->c.store == STORE_W_I8) out[i].scale = tensor_cols(t[4], first, count);
            continue;
        }
        grad[i] = (LinearGrad){tensor_cols(t[3], first, count), tensor_rows(t[5], first, count), none, none};
        if (!tensor_empty(t[1])) grad[i].dw_acc = tensor_rows(t[1], first, count);
        if (!tensor_empty(t[2])) grad[i].dbias_acc = tensor_cols(t[2], first, count);
    }
    if (bwd)
        be->op->linear_bwd(be, t[0], grad, n, t[4], d->c.add);
    else
        be->op->linear_fwd(be, out, n, t[1], d->c.add);
}

/* A third and nothing; rows beyond 32 bits. */
static inline Dropout op_dropout(const OpCase *c) {
    return (Dropout){{c->seed, RNG_DROPOUT}, UINT64_C(0xfffffffe), c->n == 1 ? 0 : 21845};
}

/* One op call on tensors that lie in the order of the slots. Returns the op's number, 0 if it has none. */
static inline double op_call(Backend *be, const OpData *d, const Tensor *t) {
    const BackendOps *op = be->op;
    const OpCase *c = &d->c;
    // clang-format off
    switch (c->op) {
    case OP_zero: op->zero(be, t[0]); break;
    case OP_copy: op->copy(be, t[0], t[1]); break;
    case OP_cast: op->cast(be, t[0], t[1]); break;
    case OP_quantize: op->quantize(be, t[0], t[1], t[2]); break;
    case OP_add: op->add(be, t[0], t[1], t[2]); break;
    case OP_add_bias: op->add_bias(be, t[0], t[1], t[2]); break;
    case OP_sumsq: return op->sumsq(be, t[0]);
    case OP_all_finite: return op->all_finite(be, t[0]);
    case OP_embed_fwd: op->embed_fwd(be, t[0], t[1], d->idx, c->add); break;
    case OP_embed_bwd: op->embed_bwd(be, t[0], t[1], d->idx); break;
    case OP_gather_rows: op->gather_rows(be, t[0], t[1], d->idx); break;
    case OP_scatter_rows: op->scatter_rows(be, t[0], t[1], d->idx); break;
    case OP_scatter_add_rows: op->scatter_add_rows(be, t[0], t[1], d->idx); break;
    case OP_linear_fwd:
    case OP_linear_bwd: op_linear(be, d, t); break;
    case OP_rmsnorm_fwd: op->rmsnorm_fwd(be, t[0], t[1], t[2], t[3], c->eps); break;
    case OP_rmsnorm_bwd: op->rmsnorm_bwd(be, t[0], t[1], t[2], t[3], t[4], t[5], c->add); break;
    case OP_layernorm_fwd: op->layernorm_fwd(be, t[0], t[1], t[2], t[3], t[4], t[5], c->eps); break;
    case OP_layernorm_bwd: op->layernorm_bwd(be, t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], c->add); break;
    case OP_rope: op->rope(be, t[0], d->idx, d->freq, c->d_head, c->inverse); break;
    case OP_swiglu_fwd: op->swiglu_fwd(be, t[0], t[1], t[2]); break;
    case OP_swiglu_bwd: op->swiglu_bwd(be, t[0], t[1], t[2], t[3], t[4]); break;
    case OP_gelu_fwd: op->gelu_fwd(be, t[0], t[1], c->gelu); break;
    case OP_gelu_bwd: op->gelu_bwd(be, t[0], t[1], t[2], c->gelu); break;
    case OP_attn_fwd: op->attn_fwd(be, t[0], t[1], t[2], t[3], t[4], d->seqs, c->d_head); break;
    case OP_attn_bwd: op->attn_bwd(be, t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], d->seqs, c->d_head); break;
    case OP_logprob_fwd: op->logprob_fwd(be, t[0], t[1], t[2], d->idx, c->temp); break;
    case OP_logprob_bwd: op->logprob_bwd(be, t[0], d->idx, t[1], c->temp); break;
    case OP_adamw: op->adamw(be, t[0], t[1], t[2], t[3], c->adamw); break;
    case OP_scale: op->scale(be, t[0], c->spread); break;
    case OP_dropout: op->dropout(be, t[0], t[1], op_dropout(c)); break;
    case OP_COUNT: break;
    }
    // clang-format on
    return 0;
}

/* -- running ------------------------------------------------------------------------------------------------------ */

/* May slot i lie in panels, and does it in this case? */
static inline bool op_in_panels(const Backend *be, const OpData *d, int i) {
    const char *name = d->slot[i].name;
    bool weight = strcmp(name, "w") == 0 || strcmp(name, "dw") == 0;
    if (!be->panels) return false;
    switch (d->c.op) {
    case OP_linear_fwd:
    case OP_linear_bwd: return weight;
    case OP_quantize: return strcmp(name, "scale") != 0;
    case OP_embed_fwd:
    case OP_embed_bwd: return weight && d->c.panels;
    case OP_zero:
    case OP_copy:
    case OP_cast:
    case OP_sumsq:
    case OP_all_finite:
    case OP_adamw:
    case OP_scale: return d->c.panels;
    default: return false;
    }
}

/* Writes outside the elements of t, which lies OPS_GUARD elements into whole; in panels the rows that fill the last one up
 * must be 0 again. */
static inline int64_t op_touched(Backend *be, Tensor whole, Tensor t) {
    Tensor s = tensor_storage(t);
    int64_t touched = 0;
    double *all = mem_alloc((size_t)whole.cols * sizeof *all);
    tensor_get(be, all, whole);
    for (int64_t j = 0; j < whole.cols; j++) {
        int64_t in = j - OPS_GUARD;
        bool inside = in >= 0 && in < s.rows * s.ld && in % s.ld < s.cols;
        int64_t lane = t.dtype == DTYPE_BF16 ? in / 2 % PANEL_ROWS : in % PANEL_ROWS;
        int64_t row = t.panels && inside ? in / s.ld * PANEL_ROWS + lane : 0;
        bool pair_end = t.panels && inside && t.dtype == DTYPE_BF16 && in % s.ld / (2 * PANEL_ROWS) * 2 + in % 2 >= t.cols;
        touched += row >= t.rows || pair_end ? all[j] != 0 : !inside && !isnan(all[j]);
    }
    free(all);
    return touched;
}

static inline OpOut op_run(Backend *be, const OpData *d) {
    Tensor t[OPS_SLOTS] = {0}, whole[OPS_SLOTS] = {0};
    OpOut out = {0};
    for (int i = 0; i < d->n_slot; i++) {
        const Slot *s = &d->slot[i];
        if (s->rows * s->cols == 0) continue;
        bool panels = op_in_panels(be, d, i);
        DType dtype = op_dtype(&d->c, s->name, be->real);
        size_t size = dtype_bytes(dtype);
        t[i] = (Tensor){.rows = s->rows, .cols = s->cols, .ld = s->cols + d->c.pad, .dtype = dtype, .panels = panels};
        if (panels && dtype == DTYPE_BF16) t[i].ld += t[i].ld % 2;
        int64_t total = tensor_storage(t[i]).rows * tensor_storage(t[i]).ld + 2 * OPS_GUARD;
        if (s->role != SLOT_IN) out.n += s->rows * s->cols;
        if (s->alias >= 0) continue;
        whole[i] = tensor_over(be->mem.get(be->mem.ud, (size_t)total * size), dtype, 1, total);
        CHECK(whole[i].data, "no memory for a case of %s", op_name(d->c.op));
        double *nan = mem_alloc((size_t)total * sizeof *nan);
        for (int64_t j = 0; j < total; j++) nan[j] = NAN;
        tensor_set(be, whole[i], nan);
        free(nan);
        t[i].data = (unsigned char *)whole[i].data + OPS_GUARD * size;
        if (panels && !s->value) be->op->zero(be, t[i]); /* as tensor_set does */
        if (s->value) tensor_set(be, t[i], s->value);
    }
    for (int i = 0; i < d->n_slot; i++)
        if (d->slot[i].alias >= 0) t[i] = t[d->slot[i].alias];

    double scalar = op_call(be, d, t);

    out.n += d->has_scalar;
    out.v = mem_alloc((size_t)(out.n + 1) * sizeof *out.v);
    int64_t at = 0;
    for (int i = 0; i < d->n_slot; i++) {
        if (tensor_empty(t[i])) continue;
        if (d->slot[i].role != SLOT_IN) {
            tensor_get(be, out.v + at, t[i]);
            at += tensor_count(t[i]);
        }
        if (!whole[i].data) continue;
        if (t[i].dtype != DTYPE_I8) out.touched += op_touched(be, whole[i], t[i]); /* it has no NaN to look for */
        be->mem.put(be->mem.ud, whole[i].data, (size_t)whole[i].cols * dtype_bytes(whole[i].dtype));
    }
    if (d->has_scalar) out.v[at] = scalar;
    return out;
}

static inline void op_out_free(OpOut *o) { free(o->v); }

/* |a - b| / |b|; the plain difference where b is 0; infinite when a NaN is in either. */
static inline double op_rel(const double *a, const double *b, int64_t n) {
    double diff = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(a[i]) || isnan(b[i])) return INFINITY;
        diff += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return norm > 0 ? sqrt(diff / norm) : sqrt(diff);
}

/* Worst relative error of a's output tensors against b's, and that tensor's name. */
static inline double op_compare(const OpData *d, const OpOut *a, const OpOut *b, const char **name) {
    double worst = 0;
    int64_t at = 0;
    *name = "";
    for (int i = 0; i <= d->n_slot; i++) {
        bool last = i == d->n_slot;
        int64_t n = last ? d->has_scalar : d->slot[i].role == SLOT_IN ? 0 : d->slot[i].rows * d->slot[i].cols;
        double e = op_rel(a->v + at, b->v + at, n);
        if (e > worst) *name = last ? "number" : d->slot[i].name;
        if (e > worst) worst = e;
        at += n;
    }
    return worst;
}

/* Where slot number id begins in an output, -1 if it is no output. */
static inline int64_t op_offset(const OpData *d, int id) {
    int64_t at = 0;
    if (id < 0 || d->slot[id].role == SLOT_IN) return -1;
    for (int i = 0; i < id; i++)
        if (d->slot[i].role != SLOT_IN) at += d->slot[i].rows * d->slot[i].cols;
    return at;
}

static inline void op_free(OpData *d) {
    for (int i = 0; i < d->n_slot; i++) free(d->slot[i].value);
    free(d->idx);
    free(d->freq);
    free(d->q_off);
    free(d->kv_len);
    free(d->kv_page);
    *d = (OpData){0};
}

/* The same op on rows [first, first + count) only. */
static inline void op_slice(OpData *sub, const OpData *d, int64_t first, int64_t count) {
    CHECK(d->sliceable, "%s has no rows of its own", op_name(d->c.op));
    *sub = *d;
    sub->q_off = sub->kv_len = sub->kv_page = NULL;
    sub->freq = NULL;
    for (int i = 0; i < d->n_slot; i++) {
        Slot *s = &sub->slot[i];
        int64_t skip = s->per_row ? first * s->cols : 0;
        if (s->per_row && s->cols) s->rows = count;
        if (!s->value) continue;
        s->value = mem_alloc((size_t)(s->rows * s->cols) * sizeof(double));
        memcpy(s->value, d->slot[i].value + skip, (size_t)(s->rows * s->cols) * sizeof(double));
    }
    if (d->freq) {
        sub->freq = mem_alloc((size_t)d->c.d_head * sizeof(double));
        memcpy(sub->freq, d->freq, (size_t)(d->c.d_head / 2) * sizeof(double));
    }
    if (d->idx) {
        sub->idx = mem_alloc((size_t)(count + 1) * sizeof(int32_t));
        memcpy(sub->idx, d->idx + first, (size_t)count * sizeof(int32_t));
    }
}

/* Of the whole's output, what op_slice(first, count) should give. */
static inline OpOut op_rows(const OpData *d, const OpOut *whole, int64_t first, int64_t count) {
    OpOut out = {.v = mem_alloc((size_t)(whole->n + 1) * sizeof(double))};
    int64_t at = 0;
    for (int i = 0; i < d->n_slot; i++) {
        const Slot *s = &d->slot[i];
        if (s->role == SLOT_IN) continue;
        memcpy(out.v + out.n, whole->v + at + first * s->cols, (size_t)(count * s->cols) * sizeof(double));
        out.n += count * s->cols;
        at += s->rows * s->cols;
    }
    return out;
}

/* -- building ----------------------------------------------------------------------------------------------------- */

static inline void op_build(OpData *d, const OpCase *c, Backend *ref);

/* The forward call that d, a backward, belongs to: same inputs, everything optional present, nothing aliased. */
static inline void op_build_forward(OpData *f, const OpData *d, Backend *ref) {
    OpCase c = d->c;
    c.op = op_forward(c.op);
    c.add = false;
    c.without = 0;
    c.alias = 0;
    op_build(f, &c, ref);
    for (int i = 0; i < f->n_slot; i++) {
        int j = op_find(d, f->slot[i].name);
        if (j < 0 || !d->slot[j].value || !f->slot[i].value) continue;
        memcpy(f->slot[i].value, d->slot[j].value, (size_t)(f->slot[i].rows * f->slot[i].cols) * sizeof(double));
    }
}

/* Backward inputs that are forward outputs (mean, rstd, o, lse) get the values ref computes. */
static inline void op_fill_from_forward(OpData *d, Backend *ref) {
    OpData f;
    op_build_forward(&f, d, ref);
    OpOut out = op_run(ref, &f);
    for (int i = 0; i < d->n_slot; i++) {
        Slot *s = &d->slot[i];
        int64_t at = op_offset(&f, op_find(&f, s->name));
        if (s->role != SLOT_IN || at < 0) continue;
        for (int64_t j = 0; j < s->rows * s->cols; j++) s->value[j] = op_exact(&d->c, s->name, op_round(d, out.v[at + j]));
    }
    op_out_free(&out);
    op_free(&f);
}

static inline void op_build_attn(OpData *d, Backend *ref) {
    const OpCase *c = &d->c;
    int64_t rows = op_seqs(d), n = d->q_off[c->n_seq], hd = (int64_t)c->n_head * c->d_head,
            kd = (int64_t)c->n_kv * c->d_head;
    if (c->op == OP_attn_bwd) {
        op_slot(d, "dq", SLOT_OUT, n, hd, false);
        op_slot(d, "dk", SLOT_OUT, n, kd, false);
        op_slot(d, "dv", SLOT_OUT, n, kd, false);
        op_slot(d, "do", SLOT_IN, n, hd, false);
        op_slot(d, "o", SLOT_IN, n, hd, false);
        op_slot(d, "lse", SLOT_IN, n, c->n_head, false);
    } else {
        op_slot(d, "o", SLOT_OUT, n, hd, false);
        op_slot(d, "lse", SLOT_OUT, n, op_unless(d, 0, c->n_head), false);
    }
    op_slot(d, "q", SLOT_IN, n, hd, false);
    op_hide(d, op_slot(d, "k", SLOT_IN, rows, kd, false));
    op_hide(d, op_slot(d, "v", SLOT_IN, rows, kd, false));
    if (c->op == OP_attn_bwd) op_fill_from_forward(d, ref);
}

static inline void op_build_norm(OpData *d, Backend *ref) {
    const OpCase *c = &d->c;
    bool layer = c->op == OP_layernorm_fwd || c->op == OP_layernorm_bwd;
    bool bwd = c->op == OP_rmsnorm_bwd || c->op == OP_layernorm_bwd;
    if (bwd) {
        op_slot(d, "dx", c->add ? SLOT_INOUT : SLOT_OUT, c->n, c->m, true);
        op_slot(d, "dw", SLOT_INOUT, 1, op_unless(d, 0, c->m), false);
        if (layer) op_slot(d, "db", SLOT_INOUT, 1, op_unless(d, 1, c->m), false);
        op_slot(d, "dy", SLOT_IN, c->n, c->m, true);
    } else {
        op_slot(d, "y", SLOT_OUT, c->n, c->m, true);
        if (layer) op_slot(d, "mean", SLOT_OUT, c->n, op_unless(d, 0, 1), true);
        op_slot(d, "rstd", SLOT_OUT, c->n, op_unless(d, 1, 1), true);
    }
    Slot *x = op_slot(d, "x", SLOT_IN, c->n, c->m, true);
    for (int64_t i = 0; i < x->rows * x->cols; i++) x->value[i] = op_round(d, x->value[i] + 0.5);
    op_slot(d, "w", SLOT_IN, 1, c->m, false);
    if (layer && !bwd) op_slot(d, "b", SLOT_IN, 1, c->m, false);
    if (layer && bwd) op_slot(d, "mean", SLOT_IN, c->n, 1, true);
    if (bwd) op_slot(d, "rstd", SLOT_IN, c->n, 1, true);
    if (bwd) op_fill_from_forward(d, ref);
    d->sliceable = !bwd;
}

static inline void op_build_lookup(OpData *d) {
    const OpCase *c = &d->c;
    bool table_first = c->op == OP_embed_bwd || c->op == OP_scatter_rows || c->op == OP_scatter_add_rows;
    op_index(d, c->n, (uint32_t)c->k, c->op == OP_scatter_rows);
    if (table_first) {
        op_slot(d, c->op == OP_embed_bwd ? "dw" : "y", SLOT_INOUT, c->k, c->m, false);
        op_slot(d, c->op == OP_embed_bwd ? "dy" : "x", SLOT_IN, c->n, c->m, true);
        return;
    }
    op_slot(d, "y", c->add ? SLOT_INOUT : SLOT_OUT, c->n, c->m, true);
    op_slot(d, c->op == OP_embed_fwd ? "w" : "x", SLOT_IN, c->k, c->m, false);
    d->sliceable = true;
}

static inline void op_build_linear(OpData *d) {
    const OpCase *c = &d->c;
    SlotRole role = c->add ? SLOT_INOUT : SLOT_OUT;
    if (c->op == OP_linear_fwd) {
        op_slot(d, "y", role, c->n, c->m, true);
        op_slot(d, "x", SLOT_IN, c->n, c->k, true);
        op_slot(d, "w", SLOT_IN, c->m, c->k, false);
        op_slot(d, "bias", SLOT_IN, 1, op_unless(d, 0, c->m), false);
        if (c->store == STORE_W_I8) op_slot(d, "scale", SLOT_IN, 1, c->m, false);
        d->sliceable = true;
        return;
    }
    op_slot(d, "dx", role, c->n, op_unless(d, 0, c->k), true);
    op_slot(d, "dw", SLOT_INOUT, c->m, op_unless(d, 1, c->k), false);
    op_slot(d, "dbias", SLOT_INOUT, 1, op_unless(d, 2, c->m), false);
    op_slot(d, "dy", SLOT_IN, c->n, c->m, true);
    op_slot(d, "x", SLOT_IN, c->n, c->k, true);
    op_slot(d, "w", SLOT_IN, c->m, c->k, false);
}

/* out (n, m) from inputs of the same shape; alias a makes the output share input a's memory. */
static inline void op_build_elem(OpData *d, const char *out, const char *const *in, int n_in) {
    op_slot(d, out, SLOT_OUT, d->c.n, d->c.m, true)->alias = d->c.alias ? d->c.alias : -1;
    for (int i = 0; i < n_in; i++) op_slot(d, in[i], SLOT_IN, d->c.n, d->c.m, true);
    d->sliceable = true;
}

static inline void op_build_swiglu_bwd(OpData *d) {
    static const char *const in[] = {"dy", "gate", "up"};
    /* alias 1: dgate = gate and dup = up; 2: dgate = dy; 3: dup = dy */
    static const int dgate[] = {-1, 3, 2, -1}, dup[] = {-1, 4, -1, 2};
    op_slot(d, "dgate", SLOT_OUT, d->c.n, d->c.m, true)->alias = dgate[d->c.alias];
    op_slot(d, "dup", SLOT_OUT, d->c.n, d->c.m, true)->alias = dup[d->c.alias];
    for (int i = 0; i < 3; i++) op_slot(d, in[i], SLOT_IN, d->c.n, d->c.m, true);
    d->sliceable = true;
}

static inline void op_build_logprob(OpData *d) {
    const OpCase *c = &d->c;
    op_index(d, c->n, (uint32_t)c->m, false);
    if (c->op == OP_logprob_fwd) {
        op_slot(d, "logp", SLOT_OUT, c->n, 1, true);
        op_slot(d, "entropy", SLOT_OUT, c->n, op_unless(d, 0, 1), true);
        op_slot(d, "logits", SLOT_IN, c->n, c->m, true);
        d->sliceable = true;
        return;
    }
    op_slot(d, "logits", SLOT_INOUT, c->n, c->m, true);
    Slot *dlogp = op_slot(d, "dlogp", SLOT_IN, c->n, 1, true);
    for (int i = 2; i < c->n; i += 3) dlogp->value[i] = 0; /* rows without weight */
}

static inline void op_build(OpData *d, const OpCase *c, Backend *ref) {
    static const char *const x[] = {"x"}, *const ab[] = {"a", "b"}, *const gate_up[] = {"gate", "up"},
                             *const dy_x[] = {"dy", "x"};
    *d = (OpData){.c = *c};
    // clang-format off
    switch (c->op) {
    case OP_zero: op_build_elem(d, "y", x, 0); break;
    case OP_copy:
    case OP_cast: op_build_elem(d, "y", x, 1); break;
    case OP_dropout:
        op_build_elem(d, "y", x, 1);
        d->sliceable = false; /* a row's number is part of what it becomes */
        break;
    case OP_add: op_build_elem(d, "y", ab, 2); break;
    case OP_gelu_fwd: op_build_elem(d, "y", x, 1); break;
    case OP_gelu_bwd: op_build_elem(d, "dx", dy_x, 2); break;
    case OP_swiglu_fwd: op_build_elem(d, "y", gate_up, 2); break;
    case OP_swiglu_bwd: op_build_swiglu_bwd(d); break;
    case OP_add_bias:
        op_build_elem(d, "y", x, 1);
        op_slot(d, "b", SLOT_IN, 1, c->m, false);
        break;
    case OP_sumsq:
    case OP_all_finite:
        op_slot(d, "x", SLOT_IN, c->n, c->m, true);
        d->has_scalar = true;
        break;
    case OP_scale: op_slot(d, "x", SLOT_INOUT, c->n, c->m, true); break;
    case OP_rope:
        op_slot(d, "x", SLOT_INOUT, c->n, (int64_t)c->n_head * c->d_head, true);
        op_index(d, c->n, 2048, false);
        d->freq = mem_alloc((size_t)c->d_head * sizeof(double));
        for (int j = 0; j < c->d_head / 2; j++) d->freq[j] = pow(10000, -2.0 * j / c->d_head);
        d->sliceable = true;
        break;
    case OP_adamw:
        op_slot(d, "p", SLOT_INOUT, c->n, c->m, true);
        op_slot(d, "m", SLOT_INOUT, c->n, c->m, true);
        op_slot(d, "v", SLOT_INOUT, c->n, c->m, true);
        for (int64_t i = 0; i < (int64_t)c->n * c->m; i++)
            d->slot[2].value[i] = op_round(d, d->slot[2].value[i] * d->slot[2].value[i]);
        op_slot(d, "g", SLOT_IN, c->n, c->m, true);
        break;
    case OP_embed_fwd:
    case OP_embed_bwd:
    case OP_gather_rows:
    case OP_scatter_rows:
    case OP_scatter_add_rows: op_build_lookup(d); break;
    case OP_quantize:
        op_slot(d, "y", SLOT_OUT, c->n, c->m, false);
        op_slot(d, "scale", SLOT_OUT, 1, c->n, false);
        op_slot(d, "x", SLOT_IN, c->n, c->m, false);
        if (c->n > 2)
            for (int j = 0; j < c->m; j++) d->slot[2].value[2 * c->m + j] = 0;
        break;
    case OP_linear_fwd:
    case OP_linear_bwd: op_build_linear(d); break;
    case OP_rmsnorm_fwd:
    case OP_rmsnorm_bwd:
    case OP_layernorm_fwd:
    case OP_layernorm_bwd: op_build_norm(d, ref); break;
    case OP_attn_fwd:
    case OP_attn_bwd: op_build_attn(d, ref); break;
    case OP_logprob_fwd:
    case OP_logprob_bwd: op_build_logprob(d); break;
    case OP_COUNT: CHECK(0, "no op");
    }
    // clang-format on
}

#endif
