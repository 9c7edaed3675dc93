// layer: train
// gpu: yes
/* Tensor-parallel ranks on backend cuda, each a thread with a backend of its own on one GPU, real or emulated, train
 * what one rank trains there, to rounding. Sums and gatherings go by way of the host here: ranks of threads reach no
 * device. */
#include "rank_train.h"

/* Exit status 77 where the build has the backend and the machine no GPU. */
static int need_gpu(void **state) {
    (void)state;
    Error err = {0};
    Pool *pool;
    Backend *be;
    if (!pool_open(&pool, 1, &err)) fail_msg("%s", err.msg);
    if (!backend_open(&be, "cuda", pool, NULL, &err)) {
        print_message("skipped: %s\n", err.msg);
        exit(77);
    }
    backend_close(be);
    pool_close(pool);
    return 0;
}

static void check_case(Case c) {
    Run run;
    Str want = {0}, got = {0};
    const char *worst;
    double bound = c.half ? 1e-2 : 1e-5;
    c.accum = 2, c.steps = 1, c.overlap = true;
    run_open(&run, &c);
    run_alone(&run, &want);
    run_divided(&run, &got);
    double far = whole_distance(&run.got, &run.want, &worst);
    print_message("  family %d objective %d tp %d pp %d %s: weights %.1e (%s)\n", c.family, c.kind, c.tp, c.pp,
                  c.half ? "BF16" : "F32", far, worst);
    assert_true(far < bound);
    run_close(&run);
    str_release(&want);
    str_release(&got);
}

static void test_equal(void **state) {
    (void)state;
    static const Case row[] = {
        {.backend = "cuda", .tp = 2, .dp = 1},
        {.backend = "cuda",
         .family = FAMILY_QWEN3,
         .tied = true,
         .kind = KIND_DPO,
         .tp = 2,
         .dp = 1,
         .keep = KEEP_INPUTS},
        {.backend = "cuda", .family = FAMILY_GPT2, .kind = KIND_PM, .tp = 2, .dp = 1, .pp = 2, .half = true},
    };
    for (int i = 0; i < COUNT_OF(row); i++) check_case(row[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_equal)};
    return cmocka_run_group_tests(tests, need_gpu, NULL);
}
