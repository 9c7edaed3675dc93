// layer: train
/* The loop and its objectives on tiny nets: sums do not depend on how a step is split, weight 0 leaves no trace, a run
 * that was stopped or killed ends in the same bits as one that was not, and each objective learns what it should. */
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

static void must(bool ok, const Error *err) {
    if (!ok) fail_msg("%s", err->msg);
}

static void open_backend(Fixture *f, const char *backend, int n_thread) {
    Error err = {0};
    *f = (Fixture){0};
    must(pool_open(&f->pool, n_thread, &err), &err);
    must(backend_open(&f->be, backend, f->pool, NULL, &err), &err);
}

static void open_net(Fixture *f, HeadKind kind, uint64_t seed) {
    Error err = {0};
    ModelConfig c = {.family = FAMILY_LLAMA, .n_layer = 2, .n_head = 4, .n_kv_head = 2, .d_model = 32, .d_head = 8};
    c.d_ff = 64, c.n_vocab = VOCAB, c.max_seq = 128, c.norm = NORM_RMS, c.pos = POS_ROPE, c.mlp = MLP_SWIGLU;
    c.tied = kind == HEAD_LM, c.rope_theta = 10000, c.norm_eps = 1e-5, c.eos_id = END;
    must(model_init(&f->m, f->be, &c, seed, true, &err), &err);
    must(head_init(&f->h, &f->m, kind, kind == HEAD_LM ? VOCAB : 1, seed, true, &err), &err);
    f->net = (Net){&f->m, &f->h};
}

static void close_all(Fixture *f) {
    head_release(&f->h);
    model_release(&f->m);
    backend_close(f->be);
    pool_close(f->pool);
}

static void setup(Fixture *f, const char *backend, HeadKind kind) {
    open_backend(f, backend, 1);
    open_net(f, kind, SEED);
}

/* -- data -------------------------------------------------------------------------------------------------------------
 */

static uint32_t draw(uint64_t item, uint32_t step, uint32_t n) {
    return rng_below((Rng){SEED, RNG_TEST}, item, step, n);
}

/* Sequences of 5 to 40 tokens; every third token is a prompt's and carries no weight, some weigh half. */
static void lm_samples(SampleSet *s, int n) {
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
static void pm_samples(SampleSet *s, int n, bool flip, float sample_weight) {
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

static TrainConfig config(int64_t steps, double lr) {
    TrainConfig c = {.steps = steps, .accum = 1, .keep = KEEP_ALL, .state_s = 1e9};
    c.optim = (OptimConfig){.lr = lr, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.01, .clip = 1};
    c.schedule = (Schedule){.kind = SCHED_CONSTANT, .total = steps};
    return c;
}

/* -- folders and what is in them
 * ---------------------------------------------------------------------------------------- */

static void fresh_dir(Str *dir, const char *name) {
    Error err = {0};
    str_clear(dir);
    str_printf(dir, "%s/scratch/train_trainer/%s", BUILD_DIR, name);
    must(io_remove_tree(dir->s, &err) && io_make_dirs(dir->s, &err), &err);
}

/* metrics.jsonl without the times, which end each line. */
static void read_metrics(Str *out, const char *dir) {
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

static void file_in(Str *out, const char *dir, const char *name) {
    Error err = {0};
    Str path = {0};
    str_printf(&path, "%s/%s", dir, name);
    must(io_read_file(out, path.s, 1 << 26, &err), &err);
    str_release(&path);
}

static void assert_same_net(Net a, Net b) { assert_true(doctor_same_weights(a, b)); }

static void run_ok(Fixture *f, const TrainConfig *c, const Objective *obj, const char *dir, double *loss) {
    Error err = {0};
    Trainer *t;
    must(trainer_open(&t, f->net, c, obj, NULL, NULL, &err), &err);
    must(trainer_run(t, dir, &err), &err);
    if (loss) *loss = trainer_last_loss(t);
    trainer_close(t);
}

/* -- sums do not depend on how they are split
 * --------------------------------------------------------------------------- */

typedef struct {
    double *g;
    int64_t n;
    Backend *be;
} Grads;

static void collect_grads(void *ud, int index, const ParamInfo *p) {
    Grads *g = ud;
    (void)index;
    int64_t n = tensor_count(p->dw);
    g->g = mem_grow(g->g, (size_t)(g->n + n) * sizeof(double));
    tensor_get(g->be, g->g + g->n, p->dw);
    g->n += n;
}

/* Mean loss and gradient of the whole set, packed into micro-batches of max_tok tokens. */
static Grads whole_set(Fixture *f, const SampleSet *s, bool pairs, int max_tok, int *n_micro, double *loss,
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

static double distance(Grads a, Grads b) {
    double d = 0, n = 0;
    assert_int_equal(a.n, b.n);
    for (int64_t i = 0; i < a.n; i++) {
        d += (a.g[i] - b.g[i]) * (a.g[i] - b.g[i]);
        n += b.g[i] * b.g[i];
    }
    assert_true(n > 0);
    return sqrt(d / n);
}

static void test_splits(void **state) {
    static const char *const names[] = {"ref", "cpu"};
    (void)state;
    for (int pairs = 0; pairs < 2; pairs++)
        for (int k = 0; k < 2; k++) {
            Fixture f;
            SampleSet s;
            int n_one, n_few, n_many;
            double one, few, many, w_one, w_few, w_many;
            setup(&f, names[k], pairs ? HEAD_SCORE : HEAD_LM);
            if (pairs)
                pm_samples(&s, 12, false, 0.75f);
            else
                lm_samples(&s, 12);
            Grads a = whole_set(&f, &s, pairs, 1024, &n_one, &one, &w_one);
            Grads b = whole_set(&f, &s, pairs, 90, &n_few, &few, &w_few);
            Grads c = whole_set(&f, &s, pairs, 40, &n_many, &many, &w_many);
            assert_int_equal(n_one, 1);
            assert_true(n_few > 2 && n_many > n_few);
            assert_true(w_one > 0 && fabs(w_one - w_few) < 1e-9 && fabs(w_one - w_many) < 1e-9);
            double bound = k == 0 ? 1e-12 : 1e-6; /* F32 sums of gradients round; a mean of means is off by far more */
            print_message("%s %s: gradient of few micro-batches off by %.1e, of many by %.1e\n", names[k],
                          pairs ? "pairs" : "tokens", distance(b, a), distance(c, a));
            assert_true(fabs(few - one) <= 1e-7 * one && fabs(many - one) <= 1e-7 * one);
            assert_true(distance(b, a) < bound && distance(c, a) < bound);
            free(a.g);
            free(b.g);
            free(c.g);
            samples_release(&s);
            close_all(&f);
        }
}

/* accum 4 of small packs = accum 1 of one pack holding the same samples, as the trainer counts it. */
static void test_accumulation(void **state) {
    (void)state;
    Error err = {0};
    Str dir = {0};
    double loss[2];
    for (int k = 0; k < 2; k++) {
        Fixture f;
        SampleSet s;
        Objective obj;
        ObjLm *lm;
        setup(&f, "cpu", HEAD_LM);
        lm_samples(&s, 12);
        must(obj_lm_open(&lm, &obj, &s, k ? 90 : 1024, SEED, &err), &err);
        TrainConfig c = config(1, 1e-3);
        c.accum = (int)obj_lm_packs(lm, 0);
        assert_true(k ? c.accum > 2 : c.accum == 1);
        fresh_dir(&dir, "accum");
        run_ok(&f, &c, &obj, dir.s, &loss[k]);
        obj_lm_close(lm);
        samples_release(&s);
        close_all(&f);
    }
    assert_true(fabs(loss[0] - loss[1]) <= 1e-7 * loss[0]);
    str_release(&dir);
}

/* -- weight 0
 * ----------------------------------------------------------------------------------------------------------- */

static void test_zero_weight(void **state) {
    static const char *const names[] = {"ref", "cpu"};
    (void)state;
    for (int k = 0; k < 2; k++) {
        Error err = {0};
        Fixture f;
        SampleSet s;
        Objective obj;
        ObjPm *pm;
        Batch b;
        Arena mem;
        setup(&f, names[k], HEAD_SCORE);
        must(doctor_zero_weight(f.be, &err), &err);
        pm_samples(&s, 3, false, 0);
        must(obj_pm_open(&pm, &obj, &s, 256, SEED, END, 0.01, &err), &err);
        must(obj.micro(obj.self, 0, &b, &err), &err);
        assert_int_equal(b.n_row, 6);
        must(arena_init(&mem, "test", f.be->mem, 1 << 16, &err), &err);
        Tensor out = tensor_place(&mem, f.be->real, 6, 1);
        double x[6], weight = 0;
        for (int i = 0; i < 6; i++) x[i] = NAN;
        tensor_set(f.be, out, x);
        assert_true(obj.loss(obj.self, f.be, &b, 0, out, &weight, NULL) == 0 && weight == 0);
        tensor_get(f.be, x, out);
        for (int i = 0; i < 6; i++) assert_true(x[i] == 0);
        arena_release(&mem);
        obj_pm_close(pm);
        samples_release(&s);
        close_all(&f);
    }
}

/* Head rows are exactly those whose next token carries weight, in this pack's own sequences. */
static void test_rows(void **state) {
    (void)state;
    Error err = {0};
    Fixture f;
    SampleSet s;
    Objective obj;
    ObjLm *lm;
    Batch b;
    open_backend(&f, "ref", 1);
    lm_samples(&s, 6);
    must(obj_lm_open(&lm, &obj, &s, 512, SEED, &err), &err);
    must(obj.micro(obj.self, 0, &b, &err), &err);
    int expected = 0;
    for (int64_t i = 0; i < s.n; i++)
        for (int64_t t = s.off[i] + 1; t < s.off[i + 1]; t++) expected += s.weight[t] != 0;
    assert_int_equal(b.n_row, expected);
    for (int i = 0; i < b.n_row; i++) {
        int t = b.pos[b.row[i]] + 1; /* the predicted token's place in its sequence */
        assert_true(t % 3 != 0);
        assert_true(i == 0 || b.row[i] > b.row[i - 1]);
    }
    for (int q = 0; q < b.seqs.n_seq; q++) {
        assert_int_equal(b.seqs.kv_len[q], b.seqs.q_off[q + 1] - b.seqs.q_off[q]);
        assert_int_equal(b.seqs.kv_page[q * b.seqs.max_page], b.seqs.q_off[q]);
        assert_int_equal(b.pos[b.seqs.q_off[q]], 0);
    }
    assert_true(b.seqs.causal && b.kv_row == NULL);
    obj_lm_close(lm);
    samples_release(&s);
    backend_close(f.be);
    pool_close(f.pool);
}

/* -- resuming
 * ------------------------------------------------------------------------------------------------------------ */

typedef struct { /* an objective that misbehaves at one micro-batch */
    const Objective *inner;
    Stop *stop;
    int64_t stop_at, crash_at, nan_from, nan_to, now;
} Trip;

static bool trip_micro(void *self, int64_t number, Batch *b, Error *err) {
    Trip *t = self;
    t->now = number;
    if (number == t->stop_at) stop_request(t->stop);
    if (number == t->crash_at) return error_set(err, ERR_IO, "pulled the plug");
    return t->inner->micro(t->inner->self, number, b, err);
}

static double trip_loss(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m) {
    Trip *t = self;
    double loss = t->inner->loss(t->inner->self, be, b, first, out, weight, m);
    if (t->now < t->nan_from || t->now > t->nan_to) return loss;
    double *x = mem_alloc((size_t)tensor_count(out) * sizeof(double));
    tensor_get(be, x, out);
    x[0] = NAN;
    tensor_set(be, out, x);
    free(x);
    return t->now % 2 ? loss : NAN; /* once with a finite loss over a broken gradient, once with neither */
}

static Objective trip_over(Trip *t) {
    Objective o = *t->inner;
    o.micro = trip_micro;
    o.loss = trip_loss;
    o.self = t;
    o.wait_s = NULL;
    return o;
}

static Trip trip(const Objective *inner) { return (Trip){inner, NULL, -1, -1, INT64_MAX, -1, -1}; }

/* Step count 12, accum 2, state every 5 steps. One run goes through; others are stopped mid-step, or die two steps
 * after a state, and go on in a process that starts from other random weights. */
static void resume_case(HeadKind kind, const char *how) {
    Error err = {0};
    Fixture a, b;
    SampleSet s;
    Objective obj;
    ObjLm *lm = NULL;
    ObjPm *pm = NULL;
    Str dir_a = {0}, dir_b = {0}, metrics_a = {0}, metrics_b = {0};
    setup(&a, "cpu", kind);
    setup(&b, "cpu", kind);
    if (kind == HEAD_LM)
        lm_samples(&s, 20);
    else
        pm_samples(&s, 30, false, 1);
    TrainConfig c = config(12, 3e-3);
    c.accum = 2;
    c.state_steps = 5;
    c.schedule = (Schedule){.kind = SCHED_COSINE, .warmup = 3, .total = 12, .floor = 0.1};
    for (int k = 0; k < 3; k++) { /* 0: uninterrupted; 1: interrupted; 2: goes on */
        Fixture *f = k ? &b : &a;
        if (kind == HEAD_LM)
            must(obj_lm_open(&lm, &obj, &s, 80, SEED, &err), &err);
        else
            must(obj_pm_open(&pm, &obj, &s, 80, SEED, END, 0, &err), &err);
        Trip t = trip(&obj);
        if (k == 1 && !strcmp(how, "stop")) {
            must(stop_open(&t.stop, &err), &err);
            t.stop_at = 2 * 7; /* seen before the step's second micro-batch */
        } else if (k == 1) {
            t.crash_at = 2 * 7 + 1;
        }
        Objective o = trip_over(&t);
        if (k < 2) fresh_dir(k ? &dir_b : &dir_a, k ? "resume_b" : "resume_a");
        if (k == 2) {
            head_release(&f->h);
            model_release(&f->m);
            open_net(f, kind, SEED + 1);
            if (!strcmp(how, "half replaced")) { /* died between the two renames of a state */
                Str from = {0}, to = {0};
                str_printf(&from, "%s/state", dir_b.s);
                str_printf(&to, "%s/state.old", dir_b.s);
                must(io_rename(from.s, to.s, &err), &err);
                str_release(&from);
                str_release(&to);
            }
        }
        Trainer *tr;
        must(trainer_open(&tr, f->net, &c, &o, NULL, t.stop, &err), &err);
        bool ok = trainer_run(tr, k ? dir_b.s : dir_a.s, &err);
        if (k == 1) {
            assert_false(ok);
            assert_int_equal(err.code, t.stop ? ERR_STOPPED : ERR_IO);
        } else {
            must(ok, &err);
        }
        trainer_close(tr);
        stop_close(t.stop);
        obj_lm_close(lm);
        obj_pm_close(pm);
        lm = NULL, pm = NULL;
    }
    assert_same_net(a.net, b.net);
    read_metrics(&metrics_a, dir_a.s);
    read_metrics(&metrics_b, dir_b.s);
    assert_string_equal(metrics_a.s, metrics_b.s);
    assert_non_null(strstr(metrics_a.s, "\"step\":12"));
    Str moments_a = {0}, moments_b = {0}; /* of step 10, in both runs */
    file_in(&moments_a, dir_a.s, "state/optim.safetensors");
    file_in(&moments_b, dir_b.s, "state/optim.safetensors");
    assert_true(moments_a.n == moments_b.n && !memcmp(moments_a.s, moments_b.s, moments_a.n));
    must(state_remove(dir_b.s, &err), &err);
    assert_false(state_exists(dir_b.s));
    Str *const all[] = {&dir_a, &dir_b, &metrics_a, &metrics_b, &moments_a, &moments_b};
    for (int i = 0; i < COUNT_OF(all); i++) str_release(all[i]);
    samples_release(&s);
    close_all(&a);
    close_all(&b);
}

static void test_resume_stopped(void **state) {
    (void)state;
    resume_case(HEAD_LM, "stop");
    resume_case(HEAD_SCORE, "stop");
}

static void test_resume_killed(void **state) {
    (void)state;
    resume_case(HEAD_LM, "kill");
    resume_case(HEAD_SCORE, "kill");
    resume_case(HEAD_LM, "half replaced");
}

/* -- numbers that are none
 * ------------------------------------------------------------------------------------------------ */

static void test_non_finite(void **state) {
    (void)state;
    Error err = {0};
    Str dir = {0}, metrics = {0};
    for (int k = 0; k < 2; k++) { /* two bad steps of ten: skipped; ten bad ones: the end */
        Fixture f;
        SampleSet s;
        Objective obj;
        ObjLm *lm;
        setup(&f, "cpu", HEAD_LM);
        lm_samples(&s, 8);
        must(obj_lm_open(&lm, &obj, &s, 80, SEED, &err), &err);
        Trip t = trip(&obj);
        t.nan_from = 3;
        t.nan_to = k ? 1000 : 4;
        Objective o = trip_over(&t);
        TrainConfig c = config(k ? 100 : 10, 1e-3);
        c.max_skipped = k ? 6 : 3;
        fresh_dir(&dir, "nan");
        Trainer *tr;
        must(trainer_open(&tr, f.net, &c, &o, NULL, NULL, &err), &err);
        bool ok = trainer_run(tr, dir.s, &err);
        read_metrics(&metrics, dir.s);
        if (k == 0) {
            must(ok, &err);
            int skipped = 0;
            for (const char *at = metrics.s; (at = strstr(at, "\"skipped\":true")); at++) skipped++;
            assert_int_equal(skipped, 2);
            assert_true(isfinite(trainer_last_loss(tr)));
        } else {
            assert_false(ok);
            assert_int_equal(err.code, ERR_DIVERGED);
            assert_non_null(strstr(err.msg, "step 9: 6 steps in a row"));
            assert_non_null(strstr(err.msg, "learning rate"));
        }
        Grads g = {.be = f.be}; /* a skipped step leaves no gradient behind, and finite weights */
        net_visit(f.net, collect_grads, &g);
        for (int64_t i = 0; i < g.n; i++) assert_true(g.g[i] == 0);
        assert_true(f.be->op->all_finite(f.be, f.m.w.wte));
        free(g.g);
        trainer_close(tr);
        obj_lm_close(lm);
        samples_release(&s);
        close_all(&f);
    }
    str_release(&dir);
    str_release(&metrics);
}

/* -- threads
 * ---------------------------------------------------------------------------------------------------------------- */

static void test_threads(void **state) {
    (void)state;
    Error err = {0};
    Fixture f[2];
    Str dir = {0}, metrics[2] = {{0}, {0}};
    SampleSet s;
    lm_samples(&s, 24);
    for (int k = 0; k < 2; k++) {
        Objective obj;
        ObjLm *lm;
        open_backend(&f[k], "cpu", k + 1);
        open_net(&f[k], HEAD_LM, SEED);
        must(obj_lm_open(&lm, &obj, &s, 256, SEED, &err), &err);
        TrainConfig c = config(20, 3e-3);
        c.keep = k ? KEEP_INPUTS : KEEP_ALL; /* recomputing blocks changes no bit either */
        fresh_dir(&dir, "threads");
        run_ok(&f[k], &c, &obj, dir.s, NULL);
        read_metrics(&metrics[k], dir.s);
        obj_lm_close(lm);
    }
    assert_same_net(f[0].net, f[1].net);
    assert_string_equal(metrics[0].s, metrics[1].s);
    for (int k = 0; k < 2; k++) {
        str_release(&metrics[k]);
        close_all(&f[k]);
    }
    samples_release(&s);
    str_release(&dir);
}

/* -- learning
 * ---------------------------------------------------------------------------------------------------------------- */

static void test_overfit(void **state) {
    (void)state;
    Error err = {0};
    Fixture f;
    SampleSet s;
    Objective obj;
    ObjLm *lm;
    Str dir = {0};
    double loss;
    setup(&f, "cpu", HEAD_LM);
    lm_samples(&s, 4);
    must(obj_lm_open(&lm, &obj, &s, 256, SEED, &err), &err);
    assert_int_equal(obj_lm_packs(lm, 0), 1);
    TrainConfig c = config(150, 1e-2);
    fresh_dir(&dir, "overfit");
    run_ok(&f, &c, &obj, dir.s, &loss);
    print_message("overfit: loss %.4f after %d steps\n", loss, (int)c.steps);
    assert_true(loss < 0.05);
    obj_lm_close(lm);
    samples_release(&s);
    close_all(&f);
    str_release(&dir);
}

static double pm_accuracy(Fixture *f, const SampleSet *s) {
    Error err = {0};
    Objective obj;
    ObjPm *pm;
    double loss;
    Metrics *m = metrics_new();
    must(obj_pm_open(&pm, &obj, s, 512, SEED, END, 0, &err), &err);
    must(eval_run(&loss, f->net, &obj, obj_pm_packs(pm, 0), m, &err), &err);
    double a = metrics_mean(m, "accuracy");
    metrics_free(m);
    obj_pm_close(pm);
    return a;
}

/* A set that one word separates reaches 100 %, on pairs it never saw too; with every label turned round, 0 % of the
 * true ones. */
static void test_preference(void **state) {
    (void)state;
    Error err = {0};
    SampleSet held_out;
    Str dir = {0};
    pm_samples(&held_out, 400, false, 1);
    for (int flip = 0; flip < 2; flip++) {
        Fixture f;
        SampleSet s;
        Objective obj;
        ObjPm *pm;
        setup(&f, "cpu", HEAD_SCORE);
        pm_samples(&s, 300, flip, 1);
        double before = pm_accuracy(&f, &held_out);
        must(obj_pm_open(&pm, &obj, &s, 512, SEED, END, 0.001, &err), &err);
        TrainConfig c = config(120, 3e-3);
        fresh_dir(&dir, "pm");
        run_ok(&f, &c, &obj, dir.s, NULL);
        double seen = pm_accuracy(&f, &s), after = pm_accuracy(&f, &held_out);
        print_message("preference%s: accuracy %.3f -> %.3f held out, %.3f on its own labels\n", flip ? ", flipped" : "",
                      before, after, seen);
        assert_true(seen == 1);
        assert_true(flip ? after < 0.02 : after > 0.98);
        assert_true(before > 0.2 && before < 0.8);
        obj_pm_close(pm);
        samples_release(&s);
        close_all(&f);
    }
    samples_release(&held_out);
    str_release(&dir);
}

static void test_classifier(void **state) {
    (void)state;
    Error err = {0};
    Fixture f;
    SampleSet pairs, s;
    Objective obj;
    ObjPm *pm;
    Str dir = {0};
    setup(&f, "cpu", HEAD_SCORE);
    pm_samples(&pairs, 150, false, 1);
    samples_init(&s, 1);
    for (int64_t i = 0; i < pairs.n; i++) {
        float q = pairs.target[i - i % 2], label = (i % 2 ? 1 - q : q) > 0.5f ? 1.0f : 0.0f;
        samples_add(&s, pairs.tok + pairs.off[i], pairs.weight + pairs.off[i], (int)(pairs.off[i + 1] - pairs.off[i]),
                    (uint64_t)i, label, 1);
    }
    must(obj_classifier_open(&pm, &obj, &s, 512, SEED, END, &err), &err);
    TrainConfig c = config(120, 3e-3);
    fresh_dir(&dir, "classifier");
    Trainer *t;
    must(trainer_open(&t, f.net, &c, &obj, NULL, NULL, &err), &err);
    must(trainer_run(t, dir.s, &err), &err);
    assert_true(metrics_mean(trainer_metrics(t), "accuracy") == 1);
    trainer_close(t);
    obj_pm_close(pm);
    samples_release(&pairs);
    samples_release(&s);
    close_all(&f);
    str_release(&dir);
}

static void test_sample_without_end(void **state) {
    (void)state;
    Error err = {0};
    SampleSet s;
    Objective obj;
    ObjPm *pm;
    pm_samples(&s, 3, false, 1);
    s.tok[s.off[4] - 1] = FIRST_WORD;
    assert_false(obj_pm_open(&pm, &obj, &s, 512, SEED, END, 0, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_non_null(strstr(err.msg, "1003")); /* the sample's id */
    samples_release(&s);
}

/* Sequences of one repeated word: only what comes later can tell the first masked one, so the attention must look both
 * ways. */
static void test_masked(void **state) {
    (void)state;
    enum { LEN = 24, N = 256 };
    Error err = {0};
    Fixture f;
    SampleSet s;
    Objective obj;
    ObjLm *lm;
    Str dir = {0};
    setup(&f, "cpu", HEAD_LM);
    samples_init(&s, 1);
    for (int i = 0; i < N; i++) {
        int32_t tok[LEN] = {0};
        float weight[LEN] = {0};
        for (int t = 1; t < LEN; t++) {
            tok[t] = FIRST_WORD + (int32_t)draw((uint64_t)i, 0, VOCAB - FIRST_WORD);
            weight[t] = 1;
        }
        samples_add(&s, tok, weight, LEN, (uint64_t)i, 0, 1);
    }
    must(obj_mlm_open(&lm, &obj, &s, 512, SEED, MASK, FIRST_WORD, VOCAB, 0.15, &err), &err);
    double n_tok = 0, n_target = 0, n_mask = 0, n_random = 0, n_same = 0;
    int64_t n_pack = 3 * obj_lm_packs(lm, 0);
    for (int64_t i = 0; i < n_pack; i++) {
        Batch b;
        must(obj.micro(obj.self, i, &b, &err), &err);
        assert_false(b.seqs.causal);
        n_tok += b.n_tok - b.seqs.n_seq;
        n_target += b.n_row;
        for (int r = 0; r < b.n_row; r++) {
            int32_t now = b.tok[b.row[r]];
            assert_true(b.pos[b.row[r]] > 0);
            int32_t word = -1; /* what the sequence repeats: its commonest token outside the mask */
            for (int q = 0; q < b.seqs.n_seq; q++)
                if (b.row[r] >= b.seqs.q_off[q] && b.row[r] < b.seqs.q_off[q + 1])
                    for (int t = b.seqs.q_off[q] + 1, votes = 0; t < b.seqs.q_off[q + 1]; t++) {
                        if (b.tok[t] == MASK) continue;
                        if (votes == 0) word = b.tok[t];
                        votes += b.tok[t] == word ? 1 : -1;
                    }
            n_mask += now == MASK;
            n_same += now == word;
            n_random += now != MASK && now != word;
        }
    }
    double share = n_target / n_tok, sd = sqrt(0.15 * 0.85 / n_tok), n_word = VOCAB - FIRST_WORD;
    print_message("masked: %.4f of %.0f tokens; %.3f mask, %.3f random, %.3f same\n", share, n_tok, n_mask / n_target,
                  n_random / n_target, n_same / n_target);
    assert_true(fabs(share - 0.15) < 4 * sd);
    assert_true(fabs(n_mask / n_target - 0.8) < 4 * sqrt(0.16 / n_target));
    assert_true(fabs(n_random / n_target - 0.1 * (n_word - 1) / n_word) < 4 * sqrt(0.09 / n_target));
    assert_true(fabs(n_same / n_target - 0.1 * (n_word + 1) / n_word) < 4 * sqrt(0.09 / n_target));
    obj_lm_close(lm);
    must(obj_mlm_open(&lm, &obj, &s, 512, SEED, MASK, FIRST_WORD, VOCAB, 0.15, &err), &err);
    TrainConfig c = config(150, 1e-2);
    double loss;
    fresh_dir(&dir, "masked");
    run_ok(&f, &c, &obj, dir.s, &loss);
    print_message("masked: loss %.4f (uniform %.4f)\n", loss, log(VOCAB - FIRST_WORD));
    assert_true(loss < 0.1);
    obj_lm_close(lm);
    samples_release(&s);
    close_all(&f);
    str_release(&dir);
}

static void test_metrics(void **state) {
    (void)state;
    double mean, weight;
    Metrics *m = metrics_new();
    metrics_add(m, "a", 1, 1);
    metrics_add(m, "b", NAN, 0);
    metrics_add(m, "a", 4, 2);
    assert_true(metrics_mean(m, "a") == 3 && isnan(metrics_mean(m, "b")) && isnan(metrics_mean(m, "c")));
    assert_int_equal(metrics_count(m), 2);
    assert_string_equal(metrics_at(m, 0, &mean, &weight), "a");
    assert_true(mean == 3 && weight == 3);
    metrics_clear(m);
    assert_int_equal(metrics_count(m), 0);
    metrics_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metrics),       cmocka_unit_test(test_splits),
        cmocka_unit_test(test_accumulation),  cmocka_unit_test(test_zero_weight),
        cmocka_unit_test(test_rows),          cmocka_unit_test(test_resume_stopped),
        cmocka_unit_test(test_resume_killed), cmocka_unit_test(test_non_finite),
        cmocka_unit_test(test_threads),       cmocka_unit_test(test_overfit),
        cmocka_unit_test(test_preference),    cmocka_unit_test(test_classifier),
        cmocka_unit_test(test_masked),        cmocka_unit_test(test_sample_without_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
