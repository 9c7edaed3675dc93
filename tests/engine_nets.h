/* Tiny random nets and requests for the engine's tests. Weights are scaled up from their usual initialization, so that
 * attention matters and distributions are far from uniform. */
#ifndef DIKAST_TESTS_ENGINE_NETS_H
#define DIKAST_TESTS_ENGINE_NETS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"

typedef struct {
    Pool *pool;
    Backend *be;
    Model model;
    Head lm, score;
} Nets;

static inline ModelConfig tiny_config(int kind) {
    ModelConfig c = {.family = FAMILY_LLAMA,
                     .n_layer = 2,
                     .n_head = 4,
                     .n_kv_head = 2,
                     .d_model = 32,
                     .d_head = 8,
                     .d_ff = 48,
                     .n_vocab = 61,
                     .max_seq = 256,
                     .norm = NORM_RMS,
                     .pos = POS_ROPE,
                     .mlp = MLP_SWIGLU,
                     .rope_theta = 10000.0,
                     .norm_eps = 1e-5,
                     .eos_id = 0};
    if (kind == 1) {
        c.family = FAMILY_GPT2, c.norm = NORM_LAYER, c.pos = POS_LEARNED, c.mlp = MLP_GELU, c.gelu = GELU_TANH;
        c.n_kv_head = 4, c.qkv_bias = c.out_bias = c.mlp_bias = c.tied = true;
    }
    return c;
}

static inline void louder(void *ud, int index, const ParamInfo *p) {
    (void)index;
    const Nets *n = ud;
    double more = p->layer >= 0 ? 6.0 : n->model.cfg.tied ? 6.0 : 20.0; /* a loud tied net repeats its last token */
    if (p->init != INIT_NORMAL && p->init != INIT_RESID) return;
    double *x = mem_alloc((size_t)tensor_count(p->w) * sizeof *x);
    tensor_get(n->be, x, p->w);
    for (int64_t i = 0; i < tensor_count(p->w); i++) x[i] *= more;
    tensor_set(n->be, p->w, x);
    free(x);
}

/* backend: "ref", "cpu", or "bf16": cpu with BF16 weights. */
static inline void nets_open(Nets *n, const char *backend, int threads, const ModelConfig *c, uint64_t seed) {
    Error err = {0};
    bool half = strcmp(backend, "bf16") == 0;
    memset(n, 0, sizeof *n);
    if (!pool_open(&n->pool, threads, &err)) fail_msg("%s", err.msg);
    if (!backend_open(&n->be, half ? "cpu" : backend, n->pool, NULL, &err)) fail_msg("%s", err.msg);
    if (half && !backend_set_dtype(n->be, DTYPE_BF16, &err)) fail_msg("%s", err.msg);
    if (!model_init(&n->model, n->be, c, seed, false, &err)) fail_msg("%s", err.msg);
    if (!head_init(&n->lm, &n->model, HEAD_LM, c->n_vocab, seed, false, &err)) fail_msg("%s", err.msg);
    if (!head_init(&n->score, &n->model, HEAD_SCORE, 1, seed, false, &err)) fail_msg("%s", err.msg);
    net_visit((Net){&n->model, &n->lm, NULL}, louder, n);
}

static inline void nets_close(Nets *n) {
    head_release(&n->score);
    head_release(&n->lm);
    model_release(&n->model);
    backend_close(n->be);
    pool_close(n->pool);
}

static inline Net lm_of(Nets *n) { return (Net){&n->model, &n->lm, NULL}; }
static inline Net score_of(Nets *n) { return (Net){&n->model, &n->score, NULL}; }

static inline Engine *engine_of(Net net, EngineConfig c) {
    Error err = {0};
    Engine *e = NULL;
    if (!engine_open(&e, net, &c, &err)) fail_msg("%s", err.msg);
    return e;
}

/* Random tokens in one array, cut into ragged pieces. */
typedef struct {
    int32_t tok[1 << 15];
    Tokens part[256];
    int n;
} Texts;

static inline void texts_fill(Texts *t, uint64_t seed, int n, int min_len, int max_len, int n_vocab) {
    Rng rng = {seed, RNG_TEST};
    int at = 0;
    t->n = n;
    for (int i = 0; i < n; i++) {
        int len = min_len + (int)rng_below(rng, (uint64_t)i, 0, (uint32_t)(max_len - min_len + 1));
        assert_true(n <= 256 && at + len <= (int)(sizeof t->tok / sizeof *t->tok));
        for (int k = 0; k < len; k++)
            t->tok[at + k] = (int32_t)rng_below(rng, (uint64_t)i, (uint32_t)k + 1, (uint32_t)n_vocab);
        t->part[i] = (Tokens){t->tok + at, len};
        at += len;
    }
}

static inline void generate(Engine *e, const GenRequest *req, int n, GenResult *out) {
    Error err = {0};
    if (!engine_generate(e, req, n, out, NULL, NULL, &err)) fail_msg("%s", err.msg);
}

static inline void assert_same_result(const GenResult *a, const GenResult *b) {
    assert_int_equal(a->id, b->id);
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->why, b->why);
    assert_int_equal(a->n_forced, b->n_forced);
    assert_memory_equal(&a->odds, &b->odds, sizeof a->odds);
    assert_memory_equal(a->text, b->text, (size_t)a->n * sizeof *a->text);
    assert_memory_equal(a->logprob, b->logprob, (size_t)a->n * sizeof *a->logprob);
}

#endif
