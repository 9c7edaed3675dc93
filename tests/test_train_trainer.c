// layer: train
/* The loop: a step's sums do not depend on how it is split, a run that was stopped or killed ends in the same bits as
 * one that was not, steps with numbers that are none change nothing, and threads change nothing either. */
#include "train_fixture.h"

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
    Str dir = {0}, metrics = {0};
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
        int n_micro;
        double mean, weight, norm = 0;
        Grads g = whole_set(&f, &s, false, 1024, &n_micro, &mean, &weight);
        for (int64_t i = 0; i < g.n; i++) norm += g.g[i] * g.g[i];
        run_ok(&f, &c, &obj, dir.s, &loss[k]);
        read_metrics(&metrics, dir.s);
        assert_true(fabs(loss[k] - mean) <= 1e-7 * mean);
        assert_true(fabs(number(&metrics, "grad_norm") - sqrt(norm)) <= 1e-5 * sqrt(norm));
        assert_true(fabs(number(&metrics, "weight") - weight) <= 1e-9 * weight);
        free(g.g);
        obj_lm_close(lm);
        samples_release(&s);
        close_all(&f);
    }
    assert_true(fabs(loss[0] - loss[1]) <= 1e-7 * loss[0]);
    str_release(&metrics);
    str_release(&dir);
}

/* -- resuming */

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
    if (t->now % 2 == 0) return NAN; /* the number alone, or the gradient alone */
    double *x = mem_alloc((size_t)tensor_count(out) * sizeof(double));
    tensor_get(be, x, out);
    x[0] = NAN;
    tensor_set(be, out, x);
    free(x);
    return loss;
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

/* One bit of the newest state: the one before is taken. */
static void damage(const char *dir) {
    Error err = {0};
    Str file = {0}, path = {0};
    file_in(&file, dir, "state/step-00000006/shard-00000-of-00001.safetensors");
    file.s[file.n / 2] ^= 4;
    str_printf(&path, "%s/state/step-00000006/shard-00000-of-00001.safetensors", dir);
    must(io_write_file(path.s, file.s, file.n, &err), &err);
    str_release(&file);
    str_release(&path);
}

/* Step count 12, accum 2, state every 5 steps. One run goes through; others are stopped mid-step, or die two steps
 * after a state, and go on in a process that starts from other random weights. */
static void resume_case(const char *backend, HeadKind kind, const char *how) {
    Error err = {0};
    Fixture a, b;
    SampleSet s;
    Objective obj;
    ObjLm *lm = NULL;
    ObjPm *pm = NULL;
    Str dir_a = {0}, dir_b = {0}, metrics_a = {0}, metrics_b = {0};
    setup(&a, backend, kind);
    setup(&b, backend, kind);
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
        c.state_steps = !strcmp(how, "damaged") && k == 1 ? 3 : 5; /* then there are two to choose from */
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
            if (!strcmp(how, "damaged")) damage(dir_b.s);
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
    assert_int_equal(there(dir_b.s, "state/bad.step-00000006"), !strcmp(how, "damaged"));
    assert_non_null(strstr(metrics_a.s, "\"step\":12"));
    Str moments_a = {0}, moments_b = {0}; /* of step 10, in both runs */
    file_in(&moments_a, dir_a.s, "state/step-00000010/shard-00000-of-00001.safetensors");
    file_in(&moments_b, dir_b.s, "state/step-00000010/shard-00000-of-00001.safetensors");
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
    resume_case("cpu", HEAD_LM, "stop");
    resume_case("cpu", HEAD_SCORE, "stop");
    resume_case("bf16", HEAD_LM, "stop");
    resume_case("bf16", HEAD_SCORE, "stop");
}

static void test_resume_killed(void **state) {
    (void)state;
    resume_case("cpu", HEAD_LM, "kill");
    resume_case("cpu", HEAD_SCORE, "kill");
    resume_case("cpu", HEAD_LM, "damaged");
    resume_case("bf16", HEAD_LM, "kill");
}

/* -- numbers that are none */

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

/* -- threads */

static void threads(const char *backend) {
    Error err = {0};
    Fixture f[2];
    Str dir = {0}, metrics[2] = {{0}, {0}};
    SampleSet s;
    lm_samples(&s, 24);
    for (int k = 0; k < 2; k++) {
        Objective obj;
        ObjLm *lm;
        open_backend(&f[k], backend, k + 1);
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

static void test_threads(void **state) {
    (void)state;
    threads("cpu");
    threads("bf16");
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
        cmocka_unit_test(test_accumulation),  cmocka_unit_test(test_resume_stopped),
        cmocka_unit_test(test_resume_killed), cmocka_unit_test(test_non_finite),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
