/* What the tests of train/ share: tiny nets, data with known answers, a folder per case. */
#ifndef DIKAST_TESTS_TRAIN_FIXTURE_H
#define DIKAST_TESTS_TRAIN_FIXTURE_H

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/io.h"
#include "train/obj.h"
#include "train/ppo.h"
#include "train/trainer.h"

enum { END = 1, MASK = 2, FIRST_WORD = 3, VOCAB = 23, SEED = 7 };

typedef struct {
    Pool *pool;
    Backend *be;
    Model m;
    Head h;
    Net net;
} Fixture;

static inline void must(bool ok, const Error *err) {
    if (!ok) fail_msg("%s", err->msg);
}

/* backend: "ref", "cpu", or "bf16": cpu with BF16 weights. */
static inline void open_backend(Fixture *f, const char *backend, int n_thread) {
    Error err = {0};
    bool half = strcmp(backend, "bf16") == 0;
    *f = (Fixture){0};
    must(pool_open(&f->pool, n_thread, &err), &err);
    must(backend_open(&f->be, half ? "cpu" : backend, f->pool, NULL, &err), &err);
    if (half) must(backend_set_dtype(f->be, DTYPE_BF16, &err), &err);
}

static inline void open_net(Fixture *f, HeadKind kind, uint64_t seed) {
    Error err = {0};
    ModelConfig c = {.family = FAMILY_LLAMA, .n_layer = 2, .n_head = 4, .n_kv_head = 2, .d_model = 32, .d_head = 8};
    c.d_ff = 64, c.n_vocab = VOCAB, c.max_seq = 128, c.norm = NORM_RMS, c.pos = POS_ROPE, c.mlp = MLP_SWIGLU;
    c.tied = kind == HEAD_LM, c.rope_theta = 10000, c.norm_eps = 1e-5, c.eos_id = END;
    must(model_init(&f->m, f->be, &c, seed, true, &err), &err);
    must(head_init(&f->h, &f->m, kind, kind == HEAD_LM ? VOCAB : 1, seed, true, &err), &err);
    f->net = (Net){&f->m, &f->h, NULL};
}

static inline void close_all(Fixture *f) {
    head_release(&f->h);
    model_release(&f->m);
    backend_close(f->be);
    pool_close(f->pool);
}

static inline void setup(Fixture *f, const char *backend, HeadKind kind) {
    open_backend(f, backend, 1);
    open_net(f, kind, SEED);
}

/* -- data -------------------------------------------------------------------------------------------------------------
 */

static inline uint32_t draw(uint64_t item, uint32_t step, uint32_t n) {
    return rng_below((Rng){SEED, RNG_TEST}, item, step, n);
}

/* Sequences of 5 to 40 tokens; every third token is a prompt's and carries no weight, some weigh half. */
static inline void lm_samples(SampleSet *s, int n) {
    samples_init(s, 1);
    for (int i = 0; i < n; i++) {
        int32_t tok[40];
        float weight[40];
        int len = 5 + (int)draw((uint64_t)i, 0, 36);
        for (int t = 0; t < len; t++) {
            tok[t] = FIRST_WORD + (int32_t)draw((uint64_t)i, (uint32_t)t + 1, VOCAB - FIRST_WORD);
            weight[t] = t == 0 || t % 3 == 0 ? 0.0f : i % 2 ? 1.0f : 0.5f;
        }
        samples_add(s, tok, weight, len, (uint64_t)i, 0, i % 5 == 4 ? 2.0f : 1.0f);
    }
}

/* Pairs whose better side holds the word GOOD somewhere; good_first decides the side; label 0.9 or 0.1, or flipped. */
static inline void pm_samples(SampleSet *s, int n, bool flip, float sample_weight) {
    enum { GOOD = FIRST_WORD, BAD = FIRST_WORD + 1, REST = FIRST_WORD + 2 };
    samples_init(s, 2);
    for (int i = 0; i < n; i++) {
        bool good_first = draw((uint64_t)i, 999, 2);
        for (int side = 0; side < 2; side++) {
            uint64_t item = 1000 + 2 * (uint64_t)i + (uint64_t)side;
            int32_t tok[20];
            float weight[20] = {0};
            int len = 4 + (int)draw(item, 0, 15);
            for (int t = 0; t < len; t++) tok[t] = REST + (int32_t)draw(item, (uint32_t)t + 1, VOCAB - REST);
            tok[1 + draw(item, 500, (uint32_t)len - 2)] = (side == 0) == good_first ? GOOD : BAD;
            tok[len - 1] = END;
            samples_add(s, tok, weight, len, item, (good_first != flip) ? 0.9f : 0.1f, sample_weight);
        }
    }
}

static inline TrainConfig config(int64_t steps, double lr) {
    TrainConfig c = {.steps = steps, .accum = 1, .keep = KEEP_ALL, .state_s = 1e9};
    c.optim = (OptimConfig){.lr = lr, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.01, .clip = 1};
    c.schedule = (Schedule){.kind = SCHED_CONSTANT, .total = steps};
    return c;
}

/* -- folders and what is in them */

static inline void fresh_dir(Str *dir, const char *name) {
    Error err = {0};
    str_clear(dir);
    str_printf(dir, "%s/scratch/%s/%s", BUILD_DIR, program_invocation_short_name, name);
    must(io_remove_tree(dir->s, &err) && io_make_dirs(dir->s, &err), &err);
}

static inline bool there(const char *dir, const char *name) {
    Str path = {0};
    str_printf(&path, "%s/%s", dir, name);
    bool found = io_exists(path.s);
    str_release(&path);
    return found;
}

/* metrics.jsonl without the times, which end each line. */
static inline void read_metrics(Str *out, const char *dir) {
    Error err = {0};
    Str path = {0}, all = {0};
    str_clear(out);
    str_printf(&path, "%s/metrics.jsonl", dir);
    must(io_read_file(&all, path.s, 1 << 24, &err), &err);
    for (char *line = all.s; line && *line; line = strchr(line, '\n') + 1) {
        char *cut = strstr(line, ",\"t_s\"");
        assert_non_null(cut);
        str_putn(out, line, (size_t)(cut - line));
        str_putc(out, '\n');
    }
    str_release(&path);
    str_release(&all);
}

/* The first value of that name. */
static inline double number(const Str *metrics, const char *name) {
    Str key = {0};
    str_printf(&key, "\"%s\":", name);
    const char *at = strstr(metrics->s, key.s);
    assert_non_null(at);
    double x = strtod(at + key.n, NULL);
    str_release(&key);
    return x;
}

static inline void file_in(Str *out, const char *dir, const char *name) {
    Error err = {0};
    Str path = {0};
    str_printf(&path, "%s/%s", dir, name);
    must(io_read_file(out, path.s, 1 << 26, &err), &err);
    str_release(&path);
}

static inline void assert_same_net(Net a, Net b) { assert_true(doctor_same_weights(a, b)); }

static inline void run_ok(Fixture *f, const TrainConfig *c, const Objective *obj, const char *dir, double *loss) {
    Error err = {0};
    Trainer *t;
    must(trainer_open(&t, f->net, c, obj, NULL, NULL, &err), &err);
    must(trainer_run(t, dir, &err), &err);
    if (loss) *loss = trainer_last_loss(t);
    trainer_close(t);
}

/* -- loss and gradient of a whole set */

typedef struct {
    double *g;
    int64_t n;
    Backend *be;
} Grads;

static inline void collect_grads(void *ud, int index, const ParamInfo *p) {
    Grads *g = ud;
    (void)index;
    int64_t n = tensor_count(p->dw);
    g->g = mem_grow(g->g, (size_t)(g->n + n) * sizeof(double));
    tensor_get(g->be, g->g + g->n, p->dw);
    g->n += n;
}

/* Mean loss and gradient of the whole set, packed into micro-batches of max_tok tokens. */
static inline Grads whole_set(Fixture *f, const SampleSet *s, bool pairs, int max_tok, int *n_micro, double *loss,
                              double *weight) {
    Error err = {0};
    Objective obj;
    ObjLm *lm = NULL;
    ObjPm *pm = NULL;
    Acts *acts;
    Arena mem;
    Tensor slice;
    if (pairs)
        must(obj_pm_open(&pm, &obj, s, max_tok, SEED, END, 0.01, &err), &err);
    else
        must(obj_lm_open(&lm, &obj, s, max_tok, SEED, &err), &err);
    must(acts_open(&acts, &f->m, obj.max_tok, obj.max_row, KEEP_ALL, &err), &err);
    must(head_slice_open(&mem, &slice, f->net, &err), &err);
    *n_micro = (int)(pairs ? obj_pm_packs(pm, 0) : obj_lm_packs(lm, 0));
    *loss = *weight = 0;
    net_zero_grads(f->net);
    for (int i = 0; i < *n_micro; i++) {
        Batch b;
        must(obj.micro(obj.self, i, &b, &err), &err);
        *loss += train_micro(f->net, acts, &b, &obj, slice, weight, NULL);
    }
    *loss /= *weight;
    Grads g = {.be = f->be};
    net_visit(f->net, collect_grads, &g);
    for (int64_t i = 0; i < g.n; i++) g.g[i] /= *weight;
    net_zero_grads(f->net);
    arena_release(&mem);
    acts_close(acts);
    obj_lm_close(lm);
    obj_pm_close(pm);
    return g;
}

static inline double distance(Grads a, Grads b) {
    double d = 0, n = 0;
    assert_int_equal(a.n, b.n);
    for (int64_t i = 0; i < a.n; i++) {
        d += (a.g[i] - b.g[i]) * (a.g[i] - b.g[i]);
        n += b.g[i] * b.g[i];
    }
    assert_true(n > 0);
    return sqrt(d / n);
}

/* Moves all parameters by step along direction, in the net's order: net_visit(net, shift_param, &(Shift){...}). */
typedef struct {
    Backend *be;
    const double *direction;
    double step;
    int64_t at;
} Shift;

static inline void shift_param(void *ud, int index, const ParamInfo *p) {
    Shift *sh = ud;
    (void)index;
    int64_t n = tensor_count(p->w);
    double *x = mem_alloc((size_t)n * sizeof(double));
    tensor_get(sh->be, x, p->w);
    for (int64_t i = 0; i < n; i++) x[i] += sh->step * sh->direction[sh->at + i];
    tensor_set(sh->be, p->w, x);
    sh->at += n;
    free(x);
}

#endif
