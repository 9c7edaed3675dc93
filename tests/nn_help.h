/* What the tests of nn/ share: backends, two tiny configurations, batches of token rows, one weighted loss. */
#ifndef DIKAST_TESTS_NN_HELP_H
#define DIKAST_TESTS_NN_HELP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "nn/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK(expr)                                                                                                       \
    do {                                                                                                               \
        if (!(expr)) fail_msg("%s: %s", #expr, err.msg);                                                               \
    } while (0)

typedef struct {
    Pool *pool;
    Backend *be;
} Machine;

static inline bool machine_open(Machine *mc, const char *name, const char *isa, int n_thread) {
    Error err = {0};
    *mc = (Machine){0};
    if (!pool_open(&mc->pool, n_thread, &err)) fail_msg("%s", err.msg);
    if (backend_open(&mc->be, name, mc->pool, isa, &err)) return true;
    print_message("skipped %s %s: %s\n", name, isa ? isa : "", err.msg);
    pool_close(mc->pool);
    return false;
}

static inline void machine_close(Machine *mc) {
    backend_close(mc->be);
    pool_close(mc->pool);
}

enum { N_REAL = 6 }; /* first entries: computing in be->real throughout */
static const struct {
    const char *name, *isa;
    bool half;
} every_backend[] = {{"ref", NULL, false},         {"cpu", "scalar", false},      {"cpu", "avx2", false},
                     {"cpu", "avx512", false},     {"cpu", "avx512_bf16", false}, {"cpu", "amx", false},
                     {"cpu", "scalar", true},      {"cpu", "avx2", true},         {"cpu", "avx512", true},
                     {"cpu", "avx512_bf16", true}, {"cpu", "amx", true}};

static inline bool machine_open_at(Machine *mc, int i, int n_thread) {
    Error err = {0};
    if (!machine_open(mc, every_backend[i].name, every_backend[i].isa, n_thread)) return false;
    if (every_backend[i].half && !backend_set_dtype(mc->be, DTYPE_BF16, &err)) fail_msg("%s", err.msg);
    return true;
}

/* Odd sizes on purpose: head width unrelated to d_model, grouped heads, nothing a multiple of a vector. */
static inline ModelConfig llama_config(bool tied, bool bias) {
    return (ModelConfig){.family = FAMILY_LLAMA,
                         .n_layer = 3,
                         .n_head = 4,
                         .n_kv_head = 2,
                         .d_model = 20,
                         .d_head = 6,
                         .d_ff = 27,
                         .n_vocab = 37,
                         .max_seq = 160,
                         .norm = NORM_RMS,
                         .pos = POS_ROPE,
                         .mlp = MLP_SWIGLU,
                         .qkv_bias = bias,
                         .out_bias = bias,
                         .tied = tied,
                         .rope_theta = 10000,
                         .norm_eps = 1e-5,
                         .eos_id = 2};
}

/* Every feature of the families of Llama's shape, one family after the other; count: how many there are. */
static inline int more_configs(ModelConfig *out) {
    int n = 0;
    ModelConfig c = llama_config(false, true); /* Llama 3 with biases everywhere */
    c.mlp_bias = true;
    c.rope = (RopeScaling){.kind = ROPE_LLAMA3, .factor = 8, .original = 40, .low = 1, .high = 4};
    out[n++] = c;
    c = llama_config(true, false);
    c.rope = (RopeScaling){.kind = ROPE_YARN, .factor = 4, .original = 40, .beta_fast = 32, .beta_slow = 1};
    out[n++] = c;
    c = llama_config(true, false);
    c.family = FAMILY_MISTRAL, c.window = 3;
    c.rope = (RopeScaling){.kind = ROPE_LINEAR, .factor = 2.5};
    out[n++] = c;
    c = llama_config(false, true);
    c.family = FAMILY_QWEN2, c.out_bias = false, c.window = 3, c.unwindowed[0] = 5;
    out[n++] = c;
    c = llama_config(true, false);
    c.family = FAMILY_QWEN3, c.qk_norm = true;
    out[n++] = c;
    c = llama_config(false, true);
    c.family = FAMILY_QWEN3, c.qk_norm = true, c.window = 4, c.unwindowed[0] = 1;
    c.rope = (RopeScaling){.kind = ROPE_YARN,
                           .no_truncate = true,
                           .factor = 3,
                           .original = 25,
                           .beta_fast = 16,
                           .beta_slow = 2,
                           .attention = 1.25};
    out[n++] = c;
    return n;
}
enum { MORE_CONFIGS = 6 };

static inline ModelConfig gpt2_config(bool tied, GeluKind gelu) {
    return (ModelConfig){.family = FAMILY_GPT2,
                         .n_layer = 2,
                         .n_head = 3,
                         .n_kv_head = 3,
                         .d_model = 21,
                         .d_head = 7,
                         .d_ff = 30,
                         .n_vocab = 31,
                         .max_seq = 160,
                         .norm = NORM_LAYER,
                         .pos = POS_LEARNED,
                         .mlp = MLP_GELU,
                         .gelu = gelu,
                         .qkv_bias = true,
                         .out_bias = true,
                         .mlp_bias = true,
                         .tied = tied,
                         .norm_eps = 1e-5,
                         .eos_id = -1};
}

/* Sequences back to back, positions from 0, keys and values in the batch's own rows. Random ids, targets and weights.
 */
typedef struct {
    int n_seq, n_tok, n_row, max_page;
    int32_t *tok, *pos, *target, *row, *q_off, *kv_len, *kv_page;
    double *weight; /* (n_tok) of -logprob(target) */
    int n_seen;     /* sequences share rows, see Batch */
    int32_t *seen, *home;
    uint64_t drop; /* the pass's number for dropout, see Batch */
} Rows;

static inline void rows_pages(Rows *r) {
    r->max_page = 0;
    for (int s = 0; s < r->n_seq; s++) {
        int n = (r->kv_len[s] + KV_PAGE - 1) / KV_PAGE;
        if (n > r->max_page) r->max_page = n;
    }
    r->kv_page = mem_alloc((size_t)r->n_seq * (size_t)r->max_page * sizeof(int32_t));
    for (int s = 0; s < r->n_seq; s++)
        for (int p = 0; p < r->max_page; p++) r->kv_page[s * r->max_page + p] = r->q_off[s] + p * KV_PAGE;
}

static inline void rows_keep_odd(Rows *r) {
    r->n_row = 0;
    for (int i = 1; i < r->n_tok; i += 2) r->row[r->n_row++] = i;
}

static inline Rows rows_random(const int *len, int n_seq, int n_vocab, uint64_t seed) {
    Rows r = {.n_seq = n_seq};
    Rng rng = {seed, RNG_TEST};
    for (int s = 0; s < n_seq; s++) r.n_tok += len[s];
    size_t n = (size_t)r.n_tok * sizeof(int32_t);
    r.tok = mem_alloc(n), r.pos = mem_alloc(n), r.target = mem_alloc(n), r.row = mem_alloc(n);
    r.q_off = mem_alloc((size_t)(n_seq + 1) * sizeof(int32_t)), r.kv_len = mem_alloc((size_t)n_seq * sizeof(int32_t));
    r.weight = mem_alloc((size_t)r.n_tok * sizeof(double));
    for (int s = 0, i = 0; s < n_seq; s++) {
        r.q_off[s] = i, r.kv_len[s] = len[s], r.q_off[s + 1] = i + len[s];
        for (int p = 0; p < len[s]; p++, i++) {
            r.tok[i] = (int32_t)rng_below(rng, (uint64_t)i, 0, (uint32_t)n_vocab);
            r.target[i] = (int32_t)rng_below(rng, (uint64_t)i, 1, (uint32_t)n_vocab);
            r.weight[i] = (float)(0.5 + rng_uniform(rng, (uint64_t)i, 2));
            r.pos[i] = p, r.row[i] = i;
        }
    }
    r.n_row = r.n_tok;
    rows_pages(&r);
    return r;
}

static inline void rows_free(Rows *r) {
    free(r->tok), free(r->pos), free(r->target), free(r->row), free(r->q_off), free(r->kv_len), free(r->kv_page);
    free(r->weight), free(r->seen), free(r->home);
    *r = (Rows){0};
}

static inline Batch rows_batch(const Rows *r) {
    return (Batch){.n_tok = r->n_tok,
                   .tok = r->tok,
                   .pos = r->pos,
                   .n_row = r->n_row,
                   .row = r->row,
                   .n_seen = r->n_seen,
                   .seen = r->seen,
                   .home = r->home,
                   .drop = r->drop,
                   .seqs = {.n_seq = r->n_seq,
                            .max_page = r->max_page,
                            .q_off = r->q_off,
                            .kv_len = r->kv_len,
                            .kv_page = r->kv_page,
                            .causal = true}};
}

/* A model, a head and room to run them. */
typedef struct {
    Model model;
    Head head;
    Net net;
} TestNet;

static void roughen_one(void *ud, int index, const ParamInfo *p) {
    Backend *be = ud;
    int64_t n = tensor_count(p->w);
    double *x = mem_alloc((size_t)n * sizeof *x);
    Rng rng = {77, RNG_TEST};
    double std = p->decay ? 0.3 : 0.2, mean = p->init == INIT_ONE ? 1 : 0;
    for (int64_t i = 0; i < n; i++) x[i] = (float)(mean + std * rng_normal(rng, (uint64_t)i, (uint32_t)index));
    tensor_set(be, p->w, x);
    free(x);
}

/* Weights of order one, so that every path carries gradient. */
static inline void test_net_open(TestNet *t, Backend *be, const ModelConfig *c, HeadKind kind, int n_out, bool grads) {
    Error err = {0};
    OK(model_init(&t->model, be, c, 11, grads, &err));
    OK(head_init(&t->head, &t->model, kind, n_out, 12, grads, &err));
    t->net = (Net){&t->model, &t->head, NULL};
    net_visit(t->net, roughen_one, be);
}

static inline void test_net_close(TestNet *t) {
    head_release(&t->head);
    model_release(&t->model);
}

/* Where the backend's tensors live. */
static inline Tensor own_matrix(Backend *be, int64_t rows, int64_t cols) {
    return tensor_over(be->mem.get(be->mem.ud, (size_t)(rows * cols) * dtype_bytes(be->real)), be->real, rows, cols);
}

static inline void own_matrix_free(Backend *be, Tensor t) {
    be->mem.put(be->mem.ud, t.data, (size_t)tensor_count(t) * dtype_bytes(t.dtype));
}

/* Forward, loss sum_i -weight_i logprob(target_i) over the chosen rows in slices of `slice` and, if asked, backward;
 * out may be NULL, else gets the (R, n_out) head outputs. For SCORE heads the loss is sum_ij weight_i out_ij. */
static inline double run_rows(Net net, Acts *a, const Rows *r, int slice, bool backward, double *out) {
    Backend *be = net.trunk->be;
    Batch b = rows_batch(r);
    net_forward(net, a, &b, NULL);
    double loss = 0;
    for (int at = 0; at < b.n_row; at += slice) {
        int n = b.n_row - at < slice ? b.n_row - at : slice, n_out = net.head->n_out;
        Tensor y = own_matrix(be, n, n_out), lp = own_matrix(be, n, 1);
        int32_t *target = mem_alloc((size_t)n * sizeof *target);
        double *host = mem_alloc((size_t)n * (size_t)n_out * sizeof *host);
        for (int i = 0; i < n; i++) target[i] = r->target[r->row[at + i]];
        head_forward(net, a, at, y);
        if (out) tensor_get(be, out + (size_t)at * (size_t)n_out, y);
        if (net.head->kind == HEAD_LM) {
            be->op->logprob_fwd(be, lp, (Tensor){0}, y, target, 1.0f);
            tensor_get(be, host, lp);
            for (int i = 0; i < n; i++) {
                double weight = r->weight[r->row[at + i]];
                loss -= weight * host[i];
                host[i] = -weight;
            }
            tensor_set(be, lp, host);
            if (backward) be->op->logprob_bwd(be, y, target, lp, 1.0f);
        } else {
            tensor_get(be, host, y);
            for (int i = 0; i < n * n_out; i++) {
                loss += r->weight[r->row[at + i / n_out]] * host[i];
                host[i] = r->weight[r->row[at + i / n_out]];
            }
            tensor_set(be, y, host);
        }
        if (backward) head_backward(net, a, at, y);
        free(host), free(target);
        own_matrix_free(be, y), own_matrix_free(be, lp);
    }
    if (backward) net_backward(net, a, &b);
    return loss;
}

/* All gradients, or all weights, of a net in one array. */
typedef struct {
    Backend *be;
    double *to;
    size_t n;
    bool weights;
} Gather;

static inline void gather_one(void *ud, int index, const ParamInfo *p) {
    Gather *g = ud;
    (void)index;
    if (g->to) tensor_get(g->be, g->to + g->n, g->weights ? p->w : p->dw);
    g->n += (size_t)tensor_count(p->w);
}

static inline double *gather_all(Net net, bool weights, size_t *n) {
    Gather g = {.be = net.trunk->be, .weights = weights};
    net_visit(net, gather_one, &g);
    g.to = mem_alloc(g.n * sizeof *g.to);
    g.n = 0;
    net_visit(net, gather_one, &g);
    *n = g.n;
    return g.to;
}

/* Fourth-order central difference of the loss of run_rows by element (at) of w. */
static inline double loss_difference(Net net, Acts *acts, const Rows *rows, Tensor w, int64_t at, double eps) {
    double *x = (double *)w.data + at, old = *x, f[4];
    static const double step[4] = {-2, -1, 1, 2};
    for (int i = 0; i < 4; i++) {
        *x = old + step[i] * eps;
        f[i] = run_rows(net, acts, rows, 5, false, NULL);
    }
    *x = old;
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * eps);
}

#endif
