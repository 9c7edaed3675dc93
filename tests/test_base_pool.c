// layer: base
/* The pool: equal bits for every number of threads, each tile exactly once, nesting, many short regions; workers that
 * are late rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/pool.h"
#include "base/rng.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N = 100000, TILE = 257, N_TILE = (N + TILE - 1) / TILE };

typedef struct {
    const float *x;
    float part[N_TILE];
    _Atomic int runs[N_TILE];
    int n_thread;
    _Atomic bool bad_thread;
} Sum;

static void sum_tile(void *ud, int64_t t, int thread) {
    Sum *s = ud;
    float acc = 0;
    for (int64_t i = t * TILE; i < (t + 1) * TILE && i < N; i++) acc += s->x[i];
    s->part[t] = acc;
    atomic_fetch_add(&s->runs[t], 1);
    if (thread < 0 || thread >= s->n_thread) atomic_store(&s->bad_thread, true);
}

static float pool_sum(Pool *p, Sum *s) {
    s->n_thread = pool_threads(p);
    memset(s->part, 0xff, sizeof s->part);
    for (int t = 0; t < N_TILE; t++) atomic_store(&s->runs[t], 0);
    pool_for(p, N_TILE, sum_tile, s);
    float total = 0;
    for (int t = 0; t < N_TILE; t++) {
        assert_int_equal(atomic_load(&s->runs[t]), 1);
        total += s->part[t];
    }
    assert_false(atomic_load(&s->bad_thread));
    return total;
}

static void test_equal_bits(void **state) {
    (void)state;
    Error err = {0};
    float *x = calloc(N, sizeof *x);
    for (uint64_t i = 0; i < N; i++) x[i] = (float)rng_normal((Rng){7, RNG_TEST}, i, 0);
    Sum *s = calloc(1, sizeof *s);
    s->x = x;
    static const int threads[] = {1, 2, 3, 8, 16}; /* also more than there are CPUs */
    float first = 0;
    for (int k = 0; k < COUNT_OF(threads); k++) {
        Pool *p;
        assert_true(pool_open(&p, threads[k], &err));
        assert_int_equal(pool_threads(p), threads[k]);
        for (int again = 0; again < 20; again++) {
            float total = pool_sum(p, s);
            if (k == 0 && again == 0) first = total;
            assert_memory_equal(&total, &first, sizeof total);
        }
        pool_close(p);
    }
    free(x);
    free(s);
}

typedef struct {
    Pool *pool;
    int64_t value[64];
    _Atomic int64_t inner;
    int outer_thread[64];
    _Atomic bool moved;
} Nest;

typedef struct {
    Nest *nest;
    int thread;
} Inner;

static void inner_tile(void *ud, int64_t t, int thread) {
    Inner *in = ud;
    atomic_fetch_add(&in->nest->inner, t);
    if (thread != in->thread) atomic_store(&in->nest->moved, true);
}

static void outer_tile(void *ud, int64_t t, int thread) {
    Nest *n = ud;
    n->value[t] = t * t;
    Inner in = {.nest = n, .thread = thread};
    pool_for(n->pool, 10, inner_tile, &in);
}

static void test_nested_regions_run_inline(void **state) {
    (void)state;
    Error err = {0};
    static const int threads[] = {1, 2, 5};
    for (int k = 0; k < COUNT_OF(threads); k++) {
        Nest n = {0};
        assert_true(pool_open(&n.pool, threads[k], &err));
        for (int again = 0; again < 50; again++) pool_for(n.pool, 64, outer_tile, &n);
        pool_for(n.pool, 1, outer_tile, &n);
        assert_int_equal(atomic_load(&n.inner), 45 * (64 * 50 + 1));
        assert_false(atomic_load(&n.moved));
        for (int t = 0; t < 64; t++) assert_int_equal(n.value[t], t * t);
        pool_close(n.pool);
    }
}

/* Whoever is not the caller is slow: its tiles must still be finished when pool_for returns. */
static void slow_tile(void *ud, int64_t t, int thread) {
    _Atomic int *done = ud;
    (void)t;
    nanosleep(&(struct timespec){.tv_nsec = thread ? 20000000 : 1000000}, NULL);
    atomic_fetch_add(done, 1);
}

static void test_waits_for_the_last_tile(void **state) {
    (void)state;
    Error err = {0};
    Pool *p;
    assert_true(pool_open(&p, 4, &err));
    for (int again = 0; again < 20; again++) {
        _Atomic int done = 0;
        pool_for(p, 6, slow_tile, &done);
        assert_int_equal(atomic_load(&done), 6);
    }
    pool_close(p);
}

/* A worker that others wait for, as if its CPU were taken: after a while it is not asked, and later it is again. */
typedef struct {
    _Atomic bool late;
    _Atomic int by_worker, runs;
} Late;

static void late_tile(void *ud, int64_t t, int thread) {
    (void)t;
    Late *l = ud;
    atomic_fetch_add(&l->runs, 1);
    if (thread) atomic_fetch_add(&l->by_worker, 1);
    if (thread && atomic_load(&l->late)) {
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        return;
    }
    struct timespec from, now;
    clock_gettime(CLOCK_MONOTONIC, &from);
    do clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - from.tv_sec) * 1000000000 + now.tv_nsec - from.tv_nsec < 50000);
}

/* Regions until a worker has taken part in one, or in none of the last n; returns how many. */
static int regions_until(Pool *p, Late *l, bool taken, int n) {
    for (int i = 1, without = 0; i <= 5000; i++) {
        atomic_store(&l->by_worker, 0);
        atomic_store(&l->runs, 0);
        pool_for(p, 64, late_tile, l);
        assert_int_equal(atomic_load(&l->runs), 64);
        without = atomic_load(&l->by_worker) ? 0 : without + 1;
        if (taken ? without == 0 : without == n) return i;
    }
    return 0;
}

static void test_a_worker_that_is_late_rests(void **state) {
    (void)state;
    Error err = {0};
    Pool *p;
    assert_true(pool_open(&p, 2, &err));
    Late l = {.late = true};
    assert_in_range(regions_until(p, &l, false, 8), 1, 5000);
    atomic_store(&l.late, false);
    assert_in_range(regions_until(p, &l, true, 0), 1, 5000);
    pool_close(p);
    assert_true(pool_open(&p, 3, &err)); /* closed while workers rest */
    atomic_store(&l.late, true);
    assert_in_range(regions_until(p, &l, false, 4), 1, 5000);
    pool_close(p);
}

/* Two arrays alternate, so that a tile run with a description left over from the region before is seen. */
typedef struct {
    int64_t *to;
    int64_t add;
} Job;

static void add_tile(void *ud, int64_t t, int thread) {
    (void)thread;
    Job *j = ud;
    j->to[t] += j->add;
}

static void test_many_short_regions(void **state) {
    (void)state;
    Error err = {0};
    static const int threads[] = {2, 4, 9};
    for (int k = 0; k < COUNT_OF(threads); k++) {
        Pool *p;
        assert_true(pool_open(&p, threads[k], &err));
        int64_t a[40] = {0}, b[40] = {0}, want_a[40] = {0}, want_b[40] = {0};
        for (int r = 0; r < 3000; r++) {
            Job j = {.to = r % 2 ? a : b, .add = r};
            int64_t n = r % 40;
            pool_for(p, n, add_tile, &j);
            for (int64_t t = 0; t < n; t++) (r % 2 ? want_a : want_b)[t] += r;
            if (r % 500 == 0) sched_yield();
        }
        assert_memory_equal(a, want_a, sizeof a);
        assert_memory_equal(b, want_b, sizeof b);
        pool_close(p);
    }
}

/* From where each thread begins, one tile after another: all of them, once. */
static void test_which_tile_follows(void **state) {
    (void)state;
    Error err = {0};
    static const int threads[] = {1, 2, 3, 7};
    for (int k = 0; k < COUNT_OF(threads); k++) {
        Pool *p;
        assert_true(pool_open(&p, threads[k], &err));
        for (int64_t n = threads[k]; n < 40; n++) {
            int64_t want = 0;
            for (int i = 0; i < threads[k]; i++)
                for (int64_t t = pool_first(p, n, i); t >= 0; t = pool_next(p, n, t)) assert_int_equal(t, want++);
            assert_int_equal(want, n);
        }
        pool_close(p);
    }
}

static void test_limits(void **state) {
    (void)state;
    Error err = {0};
    Pool *p;
    assert_false(pool_open(&p, -1, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_null(p);
    assert_true(pool_open(&p, 0, &err));
    assert_int_equal(pool_threads(p), pool_cpus());
    pool_for(p, 0, add_tile, NULL);
    pool_close(p);
    pool_close(NULL);

    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    CPU_ZERO(&one);
    for (int c = 0; c < CPU_SETSIZE; c++) {
        if (!CPU_ISSET(c, &before)) continue;
        CPU_SET(c, &one);
        break;
    }
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(pool_cpus(), 1);
    sched_setaffinity(0, sizeof before, &before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_bits),
        cmocka_unit_test(test_nested_regions_run_inline),
        cmocka_unit_test(test_waits_for_the_last_tile),
        cmocka_unit_test(test_a_worker_that_is_late_rests),
        cmocka_unit_test(test_many_short_regions),
        cmocka_unit_test(test_which_tile_follows),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
