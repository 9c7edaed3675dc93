// layer: train
/* The guard against over-optimisation: its judgement on plain arrays, and a run on a tiny net whose score can be had by
 * repeating one word. It must stop, put back the weights of the best check, and do so after any interruption; a healthy
 * run must keep every bit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/io.h"
#include "train/guard.h"

enum { VOCAB = 12, END = 0, GOOD = 3, N_PROMPT = 8, N_TRAIN = 5, MAX_NEW = 6, SEED = 5, UPDATES = 16 };

static void must(bool ok, const Error *err) {
    if (!ok) fail_msg("%s", err->msg);
}

/* -- the judgement */

static const GuardRule rule = {
    .every = 10, .patience = 3, .share = {0.02, 0.1, 0.01, 0.03, 0.1, 0.05}, .length = 0.3, .entropy = 0.5};

static GuardCheck healthy(int64_t update, double proxy, double score) {
    GuardCheck c = {.update = update, .n = 512, .proxy = proxy, .score = score, .se = 0.02, .length = 20, .entropy = 1};
    return c;
}

static void test_proxy(void **state) {
    (void)state;
    GuardCheck c[6] = {healthy(0, 0, 0.5),  healthy(10, 1, 0.7), healthy(20, 2, 0.67),
                       healthy(30, 3, 0.6), healthy(40, 4, 0.5), healthy(50, 5, 0.4)};
    for (int n = 1; n <= 6; n++) {
        GuardVerdict v = guard_judge(&rule, c, n);
        assert_int_equal(v.stop, n >= 5); /* 20, 30 and 40 */
        assert_int_equal(v.best, n == 1 ? 0 : 1);
    }
    assert_non_null(strstr(guard_judge(&rule, c, 5).cause, "the preference model's score rose from 1.000 to 4.000"));
    c[3].score = 0.69; /* within a standard error: the row is broken */
    assert_false(guard_judge(&rule, c, 5).stop);
    assert_false(guard_judge(&rule, c, 5).cause[0]);
    c[3].score = 0.6, c[3].proxy = 0.9; /* a score that fell, too, is no over-optimisation */
    assert_false(guard_judge(&rule, c, 5).stop);
    c[3].proxy = 3, c[1].se = 0.05; /* the best is not known better than that */
    assert_false(guard_judge(&rule, c, 5).stop);
    assert_true(guard_judge(&rule, c, 6).stop);
    for (int i = 0; i < 6; i++) c[i].score = NAN; /* nobody judges: gauges alone */
    assert_false(guard_judge(&rule, c, 6).stop);
}

static void test_gauges(void **state) {
    (void)state;
    for (int k = 0; k < GUARD_SHARES; k++) {
        GuardCheck c[3] = {healthy(0, 0, 0.5), healthy(10, 1, 0.6), healthy(20, 2, 0.9)};
        c[2].share[k] = 2 * rule.share[k], c[2].low[k] = 1.1 * rule.share[k];
        GuardVerdict v = guard_judge(&rule, c, 3);
        assert_true(v.stop && v.best == 1); /* the highest score, but a habit: no candidate */
        assert_non_null(strstr(v.cause, guard_share[k].words));
        assert_non_null(strstr(v.cause, guard_share[k].name));
        c[2].low[k] = 0.9 * rule.share[k]; /* as likely chance */
        assert_false(guard_judge(&rule, c, 3).stop);
        c[2].low[k] = 1.1 * rule.share[k], c[0].share[k] = rule.share[k]; /* the reference had half of it */
        assert_false(guard_judge(&rule, c, 3).stop);
        c[0].share[k] = 0.99 * rule.share[k];
        assert_true(guard_judge(&rule, c, 3).stop);
        GuardRule off = rule;
        off.share[k] = 0;
        assert_false(guard_judge(&off, c, 3).stop);
    }
    const struct {
        double length, entropy;
        const char *words;
    } shape[] = {
        {27, 1, "length itself"}, {13, 1, "saying little"}, {20, 0.49, "settled on few replies"}, {25.9, 0.51, NULL}};
    for (int i = 0; i < COUNT_OF(shape); i++) {
        GuardCheck c[2] = {healthy(0, 0, 0.5), healthy(10, 1, 0.6)};
        c[1].length = shape[i].length, c[1].entropy = shape[i].entropy;
        GuardVerdict v = guard_judge(&rule, c, 2);
        assert_int_equal(v.stop, shape[i].words != NULL);
        if (shape[i].words) assert_non_null(strstr(v.cause, shape[i].words));
        assert_int_equal(v.best, shape[i].words ? 0 : 1);
        GuardRule off = rule;
        off.length = off.entropy = 0;
        assert_false(guard_judge(&off, c, 2).stop);
    }
    /* A policy that was settled before, as at a very low temperature, is not said to have settled. */
    GuardCheck settled[2] = {healthy(0, 0, 0.5), healthy(10, 1, 0.6)};
    settled[0].entropy = 0.009, settled[1].entropy = 0;
    assert_false(guard_judge(&rule, settled, 2).stop);
    settled[0].entropy = 0.011;
    assert_true(guard_judge(&rule, settled, 2).stop);
}

/* -- a run */

typedef struct {
    Pool *pool;
    Backend *be;
    Model m[2]; /* policy, reference */
    Head h[2];
    Net net[2];
    int32_t tok[N_PROMPT][4];
    PpoPrompt prompt[N_PROMPT]; /* the last ones are the guard's */
    PpoConfig c;
    PpoSetup s;
    PpoGuard guard;
    Stop *stop;
    double fair; /* share of the word that is still good for something */
    int64_t stop_after, crash_at, n_measure;
    bool guarded;
} Fixture;

static double hits(const int32_t *text, int n) {
    double sum = 0;
    for (int t = 0; t < n; t++) sum += text[t] == GOOD;
    return sum / n;
}

static bool score_fn(void *ud, const PpoPrompt *p, const Tokens *reply, int n, double *score, Error *err) {
    (void)ud, (void)p, (void)err;
    for (int i = 0; i < n; i++) score[i] = 4 * hits(reply[i].tok, reply[i].n);
    return true;
}

static void report_fn(void *ud, const PpoReport *r) {
    Fixture *f = ud;
    for (int i = 0; i < r->n; i++) assert_true(r->prompt[i]->id < N_TRAIN); /* never the guard's */
    if (r->update == f->stop_after) stop_request(f->stop);
}

/* Who judges knows that more of the word than `fair` is worse than none. */
static bool measure_fn(void *ud, const Experience *x, const Experience *reference, GuardCheck *out, Error *err) {
    Fixture *f = ud;
    double share = 0;
    assert_int_equal(x->n, N_PROMPT - N_TRAIN);
    if (f->n_measure++ == f->crash_at) return error_set(err, ERR_IO, "pulled the plug");
    for (int i = 0; i < x->n; i++) {
        assert_true(x->prompt[i] == reference->prompt[i] && x->prompt[i]->id >= N_TRAIN);
        share += hits(x->reply[i].text, x->reply[i].n) / x->n;
        out->proxy += x->score[i] / x->n;
    }
    out->n = x->n;
    out->length = out->entropy = 1;
    out->score = share <= f->fair ? 0.5 + share : 0.5 - share;
    return true;
}

static void fixture_open(Fixture *f, double fair, bool guarded) {
    Error err = {0};
    *f = (Fixture){.fair = fair, .stop_after = -1, .crash_at = -1, .guarded = guarded};
    must(pool_open(&f->pool, 1, &err), &err);
    must(backend_open(&f->be, "cpu", f->pool, NULL, &err), &err);
    for (int k = 0; k < 2; k++) {
        ModelConfig c = {
            .family = FAMILY_LLAMA, .n_layer = 1, .n_head = 2, .n_kv_head = 2, .d_model = 32, .d_head = 16};
        c.d_ff = 48, c.n_vocab = VOCAB, c.max_seq = 32, c.norm = NORM_RMS, c.pos = POS_ROPE, c.mlp = MLP_SWIGLU;
        c.tied = true, c.rope_theta = 10000, c.norm_eps = 1e-5, c.eos_id = END;
        must(model_init(&f->m[k], f->be, &c, SEED, k == 0, &err), &err);
        must(head_init(&f->h[k], &f->m[k], HEAD_LM, VOCAB, SEED, k == 0, &err), &err);
        f->net[k] = (Net){&f->m[k], &f->h[k], NULL};
    }
    for (int p = 0; p < N_PROMPT; p++) {
        for (int t = 0; t < 4; t++) f->tok[p][t] = 4 + (p * 3 + t * 5) % (VOCAB - 4);
        f->prompt[p] = (PpoPrompt){(uint64_t)p, f->tok[p], 2 + p % 3};
    }
    PpoConfig *c = &f->c;
    *c = (PpoConfig){
        .method = RL_RLOO, .updates = UPDATES, .rollouts = 16, .epochs = 2, .minibatches = 1, .max_new = MAX_NEW};
    c->max_tok = 64, c->group = 4, c->temperature = 1, c->clip = (PpoClip){0.2, 0.2, 0, 0, 0}, c->level = RATIO_SEQ_SUM;
    c->aggregation = AGG_SEQ_MEAN_TOKEN_MEAN, c->no_end_score = NAN, c->seed = SEED, c->state_s = 1e9, c->kl_stop = 100;
    c->optim = (OptimConfig){.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-5, .clip = 1};
    c->schedule = (Schedule){.kind = SCHED_CONSTANT, .total = UPDATES};
    f->guard.rule = (GuardRule){.every = 2, .patience = 2};
    f->guard.n_prompt = N_PROMPT - N_TRAIN, f->guard.measure = measure_fn;
    f->s = (PpoSetup){
        .n_prompt = N_TRAIN, .end_id = END, .score_mean = 0, .score_sd = 1, .score = score_fn, .report = report_fn};
}

static bool run(Fixture *f, const char *dir, Error *err) {
    f->s.policy = f->net[0], f->s.reference = f->net[1];
    f->s.score_ud = f->s.report_ud = f->guard.ud = f;
    f->s.prompt = f->prompt, f->guard.prompt = f->prompt + N_TRAIN;
    f->s.guard = f->guarded ? &f->guard : NULL;
    *err = (Error){0};
    return ppo_run(&f->c, &f->s, dir, NULL, f->stop, err);
}

static void fixture_close(Fixture *f) {
    for (int k = 0; k < 2; k++) {
        head_release(&f->h[k]);
        model_release(&f->m[k]);
    }
    stop_close(f->stop);
    backend_close(f->be);
    pool_close(f->pool);
}

static void fresh_dir(Str *dir, const char *name) {
    Error err = {0};
    str_clear(dir);
    str_printf(dir, "%s/scratch/train_guard/%s", BUILD_DIR, name);
    must(io_remove_tree(dir->s, &err) && io_make_dirs(dir->s, &err), &err);
}

static void read_file(Str *out, const char *dir, const char *name) {
    Error err = {0};
    Str path = {0};
    str_printf(&path, "%s/%s", dir, name);
    must(io_read_file(out, path.s, 1 << 24, &err), &err);
    str_release(&path);
}

/* A score that means what it says: nothing stops the run, and the guard leaves no trace in the weights. */
static void test_healthy(void **state) {
    (void)state;
    Error err;
    Fixture f[2];
    Str dir = {0}, rows = {0};
    for (int k = 0; k < 2; k++) {
        fixture_open(&f[k], 1, k);
        fresh_dir(&dir, "healthy");
        must(run(&f[k], dir.s, &err), &err);
    }
    assert_true(doctor_same_weights(f[0].net[0], f[1].net[0]));
    assert_false(doctor_same_weights(f[1].net[0], f[1].net[1]));
    assert_int_equal(f[1].guard.n_check, 1 + UPDATES / 2);
    assert_false(f[1].guard.stopped);
    assert_int_equal(f[1].guard.kept.update, UPDATES);
    assert_true(f[1].guard.kept.score > 0.6); /* it learnt the word */
    read_file(&rows, dir.s, "metrics.jsonl");
    int n = 0;
    for (const char *at = rows.s; (at = strstr(at, "\"guard_proxy\"")); at++) n++;
    assert_int_equal(n, UPDATES / 2); /* the last check's policy made no rollouts */
    for (int k = 0; k < 2; k++) fixture_close(&f[k]);
    str_release(&dir);
    str_release(&rows);
}

/* Stops, and the policy is bit for bit the one that an unguarded run of so many updates has. */
static int64_t stopped_run(Fixture *f, const char *name, Str *rows) {
    Error err;
    Str dir = {0};
    fixture_open(f, 0.3, true);
    fresh_dir(&dir, name);
    assert_false(run(f, dir.s, &err));
    assert_int_equal(err.code, ERR_DIVERGED);
    assert_true(f->guard.stopped && f->guard.n_check < 1 + UPDATES / 2);
    assert_non_null(strstr(err.msg, "learnt what the preference model rewards"));
    read_file(rows, dir.s, "guard.jsonl");
    str_release(&dir);
    return f->guard.kept.update;
}

static void test_over_optimised(void **state) {
    (void)state;
    Error err;
    Fixture f, g;
    Str dir = {0}, rows = {0};
    int64_t best = stopped_run(&f, "hacked", &rows);
    assert_true(best >= 2); /* something was learnt before it went wrong */
    fixture_open(&g, 1, false);
    g.c.updates = best;
    fresh_dir(&dir, "hacked_before");
    must(run(&g, dir.s, &err), &err);
    assert_true(doctor_same_weights(f.net[0], g.net[0]));
    fixture_close(&f);
    fixture_close(&g);
    str_release(&dir);
    str_release(&rows);
}

/* Interrupted during an update, during a check, long after the state was saved, and after the check that ends the run.
 */
static void test_resume(void **state) {
    (void)state;
    Error err;
    Fixture whole, f;
    Str dir = {0}, rows = {0}, again = {0};
    int64_t best = stopped_run(&whole, "whole", &rows);
    int checks = whole.guard.n_check;
    for (int way = 0; way < 4; way++) {
        fixture_open(&f, 0.3, true);
        fresh_dir(&dir, "parts");
        f.c.state_updates = way == 2 ? 1000 : 1;
        f.stop_after = way == 0 ? 3 : way == 2 ? 1 : -1;
        if (f.stop_after > 0) {
            must(stop_open(&f.stop, &err), &err);
            assert_false(run(&f, dir.s, &err));
            assert_int_equal(err.code, ERR_STOPPED);
            stop_close(f.stop);
            f.stop = NULL;
        }
        if (way == 1 || way == 2) f.crash_at = checks - 1; /* the last; the state is of its update, or of long before */
        if (way > 0) {
            assert_false(run(&f, dir.s, &err));
            assert_int_equal(err.code, way < 3 ? ERR_IO : ERR_DIVERGED);
        }
        f.crash_at = -1;
        must(net_copy_weights(f.net[0], f.net[1], &err), &err); /* a new process brings the weights it starts from */
        assert_false(run(&f, dir.s, &err));
        assert_int_equal(err.code, ERR_DIVERGED);
        assert_true(f.guard.stopped && f.guard.kept.update == best && f.guard.n_check == checks);
        read_file(&again, dir.s, "guard.jsonl");
        assert_string_equal(rows.s, again.s);
        assert_true(doctor_same_weights(whole.net[0], f.net[0]));
        fixture_close(&f);
    }
    must(state_remove(dir.s, &err), &err);
    str_printf(&dir, "/guard");
    assert_false(io_exists(dir.s)); /* the weights beside the result go with the state */
    fixture_close(&whole);
    str_release(&dir);
    str_release(&rows);
    str_release(&again);
}

/* Past kl_stop the guard's best weights come back, not those of the rollout before. */
static void test_kl_stop(void **state) {
    (void)state;
    Error err;
    Fixture f;
    Str dir = {0};
    bool by_kl = false;
    fixture_open(&f, 1, true);
    f.c.kl_stop = 0.5, f.guard.rule.every = 1000;
    f.s.stopped_by_kl = &by_kl;
    fresh_dir(&dir, "kl");
    assert_false(run(&f, dir.s, &err));
    assert_true(err.code == ERR_DIVERGED && by_kl && f.guard.stopped && f.guard.n_check == 1);
    assert_true(doctor_same_weights(f.net[0], f.net[1])); /* only the start was checked */
    assert_non_null(strstr(err.msg, "the weights after 0 were put back"));
    fixture_close(&f);
    str_release(&dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_proxy),          cmocka_unit_test(test_gauges), cmocka_unit_test(test_healthy),
        cmocka_unit_test(test_over_optimised), cmocka_unit_test(test_resume), cmocka_unit_test(test_kl_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
