// layer: base
/* What a piece of work costs its machine: means over time, the greatest of the looks, what nobody tells, and an end
 * that does not wait for the next look. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/load.h"
#include "base/log.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A device that is told what to say; odd looks and even ones may differ. */
typedef struct {
    LoadDevice say[2];
    _Atomic int looks;
    bool silent;
} Device;

static bool probe(void *ud, LoadDevice *out) {
    Device *d = ud;
    int look = atomic_fetch_add(&d->looks, 1);
    *out = d->say[look % 2];
    return !d->silent;
}

static void nap(double s) { nanosleep(&(struct timespec){(time_t)s, (long)((s - (double)(time_t)s) * 1e9)}, NULL); }

static void looked(Device *d, int times) {
    for (int from = atomic_load(&d->looks), i = 0; atomic_load(&d->looks) < from + times && i < 2000; i++) nap(0.005);
}

static Str row_of(LoadWatch *l) {
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    load_put_row(l, &j);
    json_out_obj_end(&j);
    return text;
}

static void test_device(void **state) {
    (void)state;
    Device d = {.say = {{0.25, 3e9, 100, 1000}, {0.75, 2e9, 300, 2000}}};
    LoadSample s;
    LoadWatch *l = load_open(0.01, probe, &d);
    looked(&d, 40);
    load_take(l, &s);
    assert_true(s.gpu > 0.25 && s.gpu < 0.75 && s.gpu_watts > 100 && s.gpu_watts < 300);
    assert_true(fabs(s.gpu_mhz - (1000 + 2000 * (s.gpu - 0.25))) < 1e-6); /* weighed alike */
    assert_true(s.gpu_bytes == 3e9 && s.rss > 1e5 && s.seconds > 0.05);
    d.say[0].bytes = 1e9; /* the greatest since the last question, not ever */
    looked(&d, 3);
    load_take(l, &s);
    looked(&d, 4);
    load_take(l, &s);
    assert_true(s.gpu_bytes == 2e9);
    load_all(l, &s);
    assert_true(s.gpu_bytes == 3e9);
    load_close(l);
    int looks = atomic_load(&d.looks);
    nap(0.05);
    assert_int_equal(atomic_load(&d.looks), looks); /* nobody looks any more */
}

/* Rows that come faster than looks have the last look's numbers. */
static void test_between_looks(void **state) {
    (void)state;
    Device d = {.say = {{0.5, 1e6, 50, 1500}, {0.5, 1e6, 50, 1500}}};
    LoadWatch *l = load_open(3600, probe, &d);
    looked(&d, 1);
    for (int i = 0; i < 3; i++) {
        LoadSample s;
        nap(0.002);
        load_take(l, &s);
        if (i > 0) assert_true(s.gpu == 0.5 && s.gpu_bytes == 1e6 && s.gpu_watts == 50 && s.rss > 1e5);
    }
    double start = now_s();
    load_close(l);
    assert_true(now_s() - start < 60);
}

static void test_processor(void **state) {
    (void)state;
    LoadWatch *l = load_open(3600, NULL, NULL);
    LoadSample s;
    load_take(l, &s);
    volatile double x = 0;
    double begun = (double)clock() / CLOCKS_PER_SEC;
    while ((double)clock() / CLOCKS_PER_SEC - begun < 0.2) x += 1;
    load_take(l, &s);
    assert_true(s.cpu * s.seconds > 0.19 && s.cpu * s.seconds < 0.5);
    assert_true(s.gpu < 0 && s.gpu_bytes < 0 && s.gpu_watts < 0 && s.gpu_mhz < 0);
    nap(0.3);
    load_take(l, &s);
    assert_true(s.cpu < 0.5);
    load_close(l);
}

/* Fields in their order; what is not told has none. */
static void test_fields(void **state) {
    (void)state;
    Device d = {.say = {{0.5, 12e9, -1, 1980}, {0.5, 12e9, -1, 1980}}};
    LoadWatch *l = load_open(0.01, probe, &d);
    looked(&d, 2);
    Str with = row_of(l);
    assert_non_null(strstr(str_get(&with), "{\"t_cpu\":"));
    assert_non_null(strstr(str_get(&with), ",\"t_rss_mb\":"));
    assert_non_null(strstr(str_get(&with), ",\"t_gpu\":0.5,\"t_gpu_mb\":12000.0,\"t_gpu_mhz\":1980.0}"));
    load_close(l);
    d.silent = true;
    l = load_open(0.01, probe, &d);
    looked(&d, 2);
    Str without = row_of(l);
    assert_null(strstr(str_get(&without), "gpu"));
    load_close(l);
    Str none = row_of(NULL);
    assert_string_equal(str_get(&none), "{}");
    str_release(&with);
    str_release(&without);
    str_release(&none);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_device), cmocka_unit_test(test_between_looks),
                                       cmocka_unit_test(test_processor), cmocka_unit_test(test_fields)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
