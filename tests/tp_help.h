/* tests/tp_help.h — models of each family that four tensor-parallel ranks can share, and whole tensors put together of shares. */
#ifndef DIKAST_TESTS_TP_HELP_H
#define DIKAST_TESTS_TP_HELP_H

#include "dist_help.h"

#include <math.h>

#include "base/io.h"
#include "nn/model.h"

enum { TP_VOCAB = 23, TP_SEED = 5 }; /* no multiple of anything */

static inline ModelConfig tp_config(Family family, bool tied) {
    bool gpt2 = family == FAMILY_GPT2;
    ModelConfig c = {.family = family, .n_layer = 2, .n_head = 8, .n_kv_head = gpt2 ? 8 : 4, .d_model = 32};
    c.d_head = gpt2 ? 4 : 6, c.d_ff = 72, c.n_vocab = TP_VOCAB, c.max_seq = 128, c.tied = tied;
    c.norm = gpt2 ? NORM_LAYER : NORM_RMS, c.pos = gpt2 ? POS_LEARNED : POS_ROPE, c.mlp = gpt2 ? MLP_GELU : MLP_SWIGLU;
    c.qkv_bias = gpt2 || family == FAMILY_QWEN2, c.out_bias = c.mlp_bias = gpt2, c.qk_norm = family == FAMILY_QWEN3;
    c.rope_theta = 10000, c.norm_eps = 1e-5, c.eos_id = 1;
    return c;
}

/* Biases that are not 0 and norms that are not 1, the same of every share: a sum without them, or with two, shows. */
static inline void shake_one(void *ud, int index, const ParamInfo *p) {
    (void)index;
    if (p->init != INIT_ZERO && p->init != INIT_ONE) return;
    double *x = mem_alloc((size_t)tensor_count(p->w) * sizeof *x);
    tensor_get(ud, x, p->w);
    for (int64_t i = 0; i < p->w.rows; i++)
        for (int64_t j = 0; j < p->w.cols; j++) {
            uint64_t at = (uint64_t)((p->row + i) * p->cols + p->col + j);
            double by = 0.05 * rng_normal((Rng){TP_SEED, RNG_TEST}, at, (uint32_t)p->order);
            x[i * p->w.cols + j] = (double)(float)(x[i * p->w.cols + j] + by);
        }
    tensor_set(ud, p->w, x);
    free(x);
}
static inline void tp_shake(Net net) { net_visit(net, shake_one, net.trunk->be); }

/* -- whole tensors, in the order of their numbers, as doubles */

typedef struct {
    char name[128];
    int64_t rows, cols;
    double *w;
    int *filled; /* (rows cols) how many shares told it */
} WholeTensor;
typedef struct {
    WholeTensor t[256];
    int n;
} Whole;

static inline WholeTensor *whole_of(Whole *all, const ParamInfo *p) {
    for (int i = 0; i < all->n; i++)
        if (!strcmp(all->t[i].name, p->name)) return &all->t[i];
    WholeTensor *t = &all->t[all->n++];
    *t = (WholeTensor){.rows = p->rows, .cols = p->cols};
    snprintf(t->name, sizeof t->name, "%s", p->name);
    t->w = mem_alloc((size_t)(p->rows * p->cols) * sizeof *t->w);
    t->filled = mem_alloc((size_t)(p->rows * p->cols) * sizeof *t->filled);
    return t;
}

typedef struct {
    Backend *be;
    Whole *all;
    bool grads;
    int n_wrong; /* places told before to hold something else: replicas that are not equal */
} Fill;

static inline void fill_one(void *ud, int index, const ParamInfo *p) {
    Fill *f = ud;
    (void)index;
    Tensor t = f->grads ? p->dw : p->w;
    if (tensor_empty(t)) return;
    WholeTensor *to = whole_of(f->all, p);
    double *x = mem_alloc((size_t)tensor_count(t) * sizeof *x);
    tensor_get(f->be, x, t);
    for (int64_t i = 0; i < t.rows; i++)
        for (int64_t j = 0; j < t.cols; j++) {
            int64_t at = (p->row + i) * p->cols + p->col + j;
            if (at < 0 || at >= p->rows * p->cols || p->cols != to->cols || p->rows != to->rows) {
                f->n_wrong++;
                continue;
            }
            f->n_wrong += to->filled[at] && memcmp(&to->w[at], &x[i * t.cols + j], sizeof *x) != 0;
            to->w[at] = x[i * t.cols + j];
            to->filled[at]++;
        }
    free(x);
}

/* One net's tensors into *all; returns how many elements differ from what stood there. */
static inline int whole_fill(Whole *all, Net net, bool grads) {
    Fill f = {net.trunk->be, all, grads, 0};
    net_visit(net, fill_one, &f);
    return f.n_wrong;
}

static inline void whole_free(Whole *all) {
    for (int i = 0; i < all->n; i++) free(all->t[i].w), free(all->t[i].filled);
    all->n = 0;
}

/* Largest distance of a tensor from b's, relative to the norm of b's; INFINITY where one is missing or has holes. */
static inline double whole_distance(const Whole *a, const Whole *b, const char **worst) {
    double most = a->n == b->n ? 0 : INFINITY;
    *worst = "the number of tensors";
    for (int i = 0; i < a->n && i < b->n; i++) {
        const WholeTensor *x = &a->t[i], *y = NULL;
        for (int k = 0; k < b->n; k++)
            if (!strcmp(b->t[k].name, x->name)) y = &b->t[k];
        double apart = 0, norm = 0;
        for (int64_t k = 0; y && k < y->rows * y->cols; k++) {
            double d = x->w[k] - y->w[k];
            apart += x->filled[k] && y->filled[k] ? d * d : INFINITY;
            norm += y->w[k] * y->w[k];
        }
        double far = !y || x->rows != y->rows || x->cols != y->cols ? INFINITY : norm > 0 ? sqrt(apart / norm) : apart;
        if (!(far <= most)) most = far, *worst = x->name;
    }
    return most;
}

#endif
