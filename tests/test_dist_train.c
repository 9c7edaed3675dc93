// layer: train
/* Ranks train to the bits of one rank: every objective and method, any number of ranks, whole and divided optimizer
 * state; what they send, to the byte; saving, resuming with another number of ranks, and stopping together. */
#include "rank_train.h"

/* -- the same bits */

static Case case_of(const char *backend, Kind kind, int accum, int steps) {
    return (Case){.backend = backend,
                  .kind = kind,
                  .tied = kind == KIND_LM || kind == KIND_DPO,
                  .exact = true,
                  .panels = true,
                  .measured = true,
                  .accum = accum,
                  .steps = steps};
}

static void test_equal(void **state) {
    (void)state;
    static const struct {
        const char *backend;
        Kind kind;
        int accum;
    } row[] = {{"cpu", KIND_LM, 8},  {"cpu", KIND_LM, 6},         {"cpu", KIND_LM, 1}, {"ref", KIND_LM, 3},
               {"bf16", KIND_LM, 5}, {"cpu", KIND_CLASSIFIER, 4}, {"cpu", KIND_PM, 4}, {"cpu", KIND_DPO, 4}};
    static const int ranks[] = {2, 3, 4, 8};
    Str want = {0}, got = {0};
    for (int i = 0; i < COUNT_OF(row); i++) {
        Run run;
        Case c = case_of(row[i].backend, row[i].kind, row[i].accum, 6);
        run_open(&run, &c);
        run_alone(&run, &want);
        for (int k = 0; k < COUNT_OF(ranks); k++) {
            if (ranks[k] == 8 && (i > 1 && row[i].kind == KIND_LM)) continue;
            run.c.dp = ranks[k], run.c.shard = (i + k) % 3, run.c.overlap = (i + k / 2) % 2;
            run_divided(&run, &got);
            assert_string_equal(got.s, want.s); /* losses, norms and means too */
        }
        run_close(&run);
    }
    str_release(&want);
    str_release(&got);
}

/* Every stage of ZeRO, with and without overlap, over every number of ranks. */
static void test_stages(void **state) {
    (void)state;
    static const Kind kind[] = {KIND_LM, KIND_PM};
    Str want = {0}, got = {0};
    for (int i = 0; i < COUNT_OF(kind); i++) {
        Run run;
        Case c = case_of("cpu", kind[i], 8, 20);
        run_open(&run, &c);
        run_alone(&run, &want);
        for (int d = 2; d <= 8; d *= 2)
            for (int how = 0; how < 6; how++) {
                run.c.dp = d, run.c.shard = how / 2, run.c.overlap = how % 2;
                run_divided(&run, &got);
                assert_string_equal(got.s, want.s);
            }
        run_close(&run);
    }
    str_release(&want);
    str_release(&got);
}

/* -- what they send */

/* Stored elements of all gradients, and those that each of d ranks owns. */
static int64_t elements_of(int64_t own[RUN_RANKS], const Case *c, int d) {
    Job j;
    Optim *o;
    Blocks b;
    Error err = {0};
    int n;
    const OptimConfig oc = config(1, 1).optim;
    must(job_open(&j, c, NULL, &err) && optim_open(&o, &j.f.net, NULL, 1, &oc, &err), &err);
    const Tensor *grad = optim_grads(o, &n);
    blocks_make(&b, grad, n, d);
    int64_t all = b.n_elem;
    for (int r = 0; r < d; r++) own[r] = blocks_elements(&b, grad, r);
    assert_int_equal(all, model_config_params(&j.f.m.whole));
    blocks_release(&b);
    optim_close(o);
    job_close(&j);
    return all;
}

static void test_bytes(void **state) {
    (void)state;
    Str want = {0}, got = {0};
    for (int how = 0; how < 6; how++)
        for (int d = 2; d <= 8; d *= 2) {
            Run run;
            Case c = case_of("cpu", KIND_LM, 8, 3);
            run_open(&run, &c);
            run_alone(&run, &want);
            run.c.dp = d, run.c.shard = how % 3, run.c.overlap = how / 3;
            run_divided(&run, &got);
            int64_t own[RUN_RANKS], psi = elements_of(own, &c, d), sent = 0;
            int64_t nodes = run.c.shard == 2 ? 8 / d : 1; /* ZeRO-2: every leaf */
            for (int r = 0; r < d; r++) {
                const CommCount *dp = run.sent[r].dp;
                assert_int_equal(dp[COMM_ALL_TO_ALL].bytes, 3 * nodes * (psi - own[r]) * 4); /* gradients to owners */
                assert_int_equal(dp[COMM_ALL_GATHER].bytes, 3 * (d - 1) * own[r] * 4); /* sums, or weights, back */
                sent += dp[COMM_ALL_TO_ALL].bytes + dp[COMM_ALL_GATHER].bytes;
            }
            /* d ranks x (d-1)/d Psi (4 nodes + 4) x 3 steps */
            assert_int_equal(sent, 3 * (d - 1) * psi * (4 * nodes + 4));
            run_close(&run);
        }
    str_release(&want);
    str_release(&got);
}

/* -- states */

/* Saved by d ranks, gone on with by another number of them: the weights are those of one rank that was never
 * interrupted. */
static void test_states(void **state) {
    (void)state;
    static const struct {
        const char *backend;
        int before, after;
        int shard_before, shard_after;
    } row[] = {{"cpu", 4, 2, 1, 0}, {"cpu", 2, 4, 0, 1}, {"bf16", 3, 2, 1, 2},
               {"cpu", 3, 5, 0, 2}, {"cpu", 4, 2, 2, 0}, {"cpu", 2, 4, 2, 1}};
    Str want = {0}, got = {0};
    for (int i = 0; i < COUNT_OF(row); i++) {
        Run run;
        Case c = case_of(row[i].backend, KIND_LM, 6, 7);
        run_open(&run, &c);
        run_alone(&run, &want);
        for (int failing = 0; failing < 2;
             failing++) { /* stopped, or data that break on one rank some steps after a state */
            fresh_dir(&run.dir, "states");
            run.c = c;
            run.c.dp = row[i].before, run.c.shard = row[i].shard_before, run.c.overlap = i % 2;
            run.c.stop_at = failing ? 0 : 6, run.c.fail_at = failing ? 7 : 0, run.c.state_steps = failing;
            run_ranks(&run);
            run.c.dp = row[i].after, run.c.shard = row[i].shard_after, run.c.overlap = !run.c.overlap;
            run.c.stop_at = run.c.fail_at = 0;
            run_ranks(&run);
            read_metrics(&got, run.dir.s);
            assert_string_equal(got.s, want.s);
        }
        run_close(&run);
    }
    str_release(&want);
    str_release(&got);
}

/* -- what goes wrong quietly */

/* A weight of rank 2 changes after step 4. Compared every third step, that is seen at step 6; a state after each second
 * step is compared too, at step 4, and the one before is good: who goes on from it ends as if nothing had happened. */
static void test_changed_weight(void **state) {
    (void)state;
    static const struct {
        int ranks;
        int64_t every, states;
        const char *says;
    } row[] = {{4, 3, 0, "step 6: the weights of rank 2 differ"},
               {3, 100, 2, "step 4: the weights of rank 2 differ"},
               {3, 1, 0, "step 4: the weights of rank 2 differ"}};
    Run run;
    Str want = {0};
    Case c = case_of("cpu", KIND_LM, 6, 7);
    run_open(&run, &c);
    run_alone(&run, &want);
    for (int i = 0; i < COUNT_OF(row); i++) {
        fresh_dir(&run.dir, "changed");
        run.c.dp = row[i].ranks, run.c.compare_every = row[i].every, run.c.state_steps = row[i].states;
        run.c.says = row[i].says;
        setenv("DIKAST_CRASH_AT", "train.flip:2:4", 1);
        run_ranks(&run);
        unsetenv("DIKAST_CRASH_AT");
        assert_int_equal(state_exists(run.dir.s), row[i].states > 0);
        run.c.says = NULL;
        run_ranks(&run);
    }
    fresh_dir(&run.dir, "changed"); /* two of two: nobody knows who is right */
    run.c.dp = 2, run.c.compare_every = 1, run.c.state_steps = 0, run.c.says = "no majority";
    setenv("DIKAST_CRASH_AT", "train.flip:1:4", 1);
    run_ranks(&run);
    unsetenv("DIKAST_CRASH_AT");
    run_close(&run);
    str_release(&want);
}

/* One loss of one rank is no number: the step is skipped by all, and nothing else is different. */
static void test_not_finite(void **state) {
    (void)state;
    Run run;
    Str want = {0}, got = {0};
    Case c = case_of("cpu", KIND_LM, 6, 5);
    run_open(&run, &c);
    setenv("DIKAST_CRASH_AT", "train.skip:*:3", 1);
    run_alone(&run, &want);
    for (int ranks = 2; ranks <= 4; ranks++) {
        run.c.dp = ranks, run.c.shard = ranks - 2, run.c.overlap = ranks > 2;
        setenv("DIKAST_CRASH_AT", "train.nan:1:3", 1);
        run_divided(&run, &got);
    }
    unsetenv("DIKAST_CRASH_AT");
    run_close(&run);
    str_release(&want);
    str_release(&got);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_equal),          cmocka_unit_test(test_stages),
                                       cmocka_unit_test(test_bytes),          cmocka_unit_test(test_states),
                                       cmocka_unit_test(test_changed_weight), cmocka_unit_test(test_not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
