// layer: serve
/* What stands between a run's metrics and those who watch it: alert rules on made-up series, Prometheus' text,
 * TensorBoard's bytes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "base/io.h"
#include "serve/alerts.h"
#include "serve/gauges.h"
#include "serve/tb_events.h"

#define DIR "serve_test.d"
#define OK(expr)                                                                                                       \
    do {                                                                                                               \
        if (!(expr)) fail_msg("%s: %s", #expr, err.msg);                                                               \
    } while (0)

/* -- alerts */

typedef struct {
    Alert alert[64];
    int n;
} Heard;

static void hear(void *ud, const Alert *a) {
    Heard *h = ud;
    assert_true(h->n < 64);
    h->alert[h->n++] = *a;
}

static AlertLimits limits(void) {
    AlertLimits l = {0};
    Str report = {0};
    Error err = {0};
    OK(config_load(&l, alert_keys, alert_key_count, NULL, NULL, 0, &report, &err));
    str_release(&report);
    return l;
}

static void row(Alerts *a, const char *fmt, ...) {
    char text[512];
    va_list ap;
    Json *j = NULL;
    Error err = {0};
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    OK(json_parse(&j, text, strlen(text), 0, "row", 1, &err));
    alerts_row(a, j);
    json_release(j);
}

/* A series that wobbles by one percent. */
static double wobble(int i) { return 1 + 0.01 * ((i * 7) % 11 - 5) / 5; }

static void test_a_steady_run_says_nothing(void **state) {
    (void)state;
    Heard h = {0};
    AlertLimits l = limits();
    Alerts *a = alerts_new(&l, hear, &h);
    for (int i = 0; i < 400; i++) {
        double w = wobble(i);
        row(a,
            "{\"step\":%d,\"loss\":%g,\"grad_norm\":%g,\"kl\":%g,\"entropy\":%g,\"clipfrac\":0.1,\"t_tok_s\":%g,\"t_"
            "wait\":0.01,"
            "\"skipped\":false}",
            i, 3 * w, 1.2 * w, 4 * w, 2 * w, 1000 * w);
    }
    AlertClock fine = {3, 20, 1e12, 1e9};
    alerts_clock(a, &fine);
    assert_int_equal(h.n, 0);
    alerts_free(a);
}

typedef struct {
    const char *name, *bad; /* the row at which it must fire */
    int times;              /* rows that must be bad before it does */
} Trip;

static void test_each_rule_fires_once_at_its_step(void **state) {
    (void)state;
    static const Trip trip[] = {
        {"non_finite", "\"loss\":null,\"grad_norm\":1", 1},
        {"non_finite", "\"loss\":3,\"grad_norm\":null", 1},
        {"non_finite", "\"loss\":3,\"grad_norm\":1,\"skipped\":true", 1},
        {"loss", "\"loss\":3.5,\"grad_norm\":1", 1},
        {"grad_norm", "\"loss\":3,\"grad_norm\":13", 3},
        {"kl", "\"kl\":10.5", 1},
        {"entropy", "\"entropy\":0.15", 1},
        {"clip_fraction", "\"clipfrac\":0.45", 1},
        {"throughput", "\"t_tok_s\":400", 8}, /* from the eighth on half of the median of 16 is theirs */
        {"wait", "\"t_wait\":0.2", 1},        /* a sixteenth of 0.2 and the rest of 0.01 is 0.0219 */
    };
    for (int k = 0; k < COUNT_OF(trip); k++) {
        Heard h = {0};
        AlertLimits l = limits();
        Alerts *a = alerts_new(&l, hear, &h);
        for (int i = 0; i < 200; i++) {
            double w = wobble(i);
            row(a,
                "{\"step\":%d,\"loss\":%g,\"grad_norm\":%g,\"kl\":4,\"entropy\":2,\"clipfrac\":0.1,\"t_tok_s\":%g,\"t_"
                "wait\":0.01}",
                i, 3 * w, 1.2 * w, 1000 * w);
        }
        assert_int_equal(h.n, 0);
        for (int i = 0; i < 12; i++) {
            int before = h.n;
            row(a, "{\"step\":%d,%s}", 200 + i, trip[k].bad);
            if (i + 1 < trip[k].times && h.n != 0) fail_msg("%s fired at bad row %d", trip[k].name, i + 1);
            if (i + 1 == trip[k].times && (h.n != 1 || strcmp(h.alert[0].name, trip[k].name)))
                fail_msg("%s did not fire at bad row %d (%d alerts, %s)", trip[k].name, i + 1, h.n,
                         h.n ? h.alert[0].name : "-");
            if (i + 1 > trip[k].times && h.n != before) fail_msg("%s fired again while it held", trip[k].name);
        }
        assert_int_equal(h.alert[0].step, 200 + trip[k].times - 1);
        assert_true(strlen(h.alert[0].text) > 20);
        alerts_free(a);
    }
}

/* A loss that never moved and then jumps is told; one that moves by less than half a percent is not. */
static void test_a_constant_loss_that_jumps(void **state) {
    (void)state;
    Heard h = {0};
    AlertLimits l = limits();
    Alerts *a = alerts_new(&l, hear, &h);
    for (int i = 0; i < 64; i++) row(a, "{\"step\":%d,\"loss\":2}", i);
    row(a, "{\"step\":64,\"loss\":2.01}");
    assert_int_equal(h.n, 0);
    row(a, "{\"step\":65,\"loss\":50}");
    assert_true(h.n == 1 && !strcmp(h.alert[0].name, "loss"));
    alerts_free(a);
}

/* Gone and back: said again. Off: never said. */
static void test_rules_rearm_and_can_be_turned_off(void **state) {
    (void)state;
    Heard h = {0};
    AlertLimits l = limits();
    Alerts *a = alerts_new(&l, hear, &h);
    row(a, "{\"step\":1,\"kl\":11}");
    row(a, "{\"step\":2,\"kl\":3}");
    row(a, "{\"step\":3,\"kl\":12}");
    assert_int_equal(h.n, 2);
    assert_true(h.alert[1].value == 12 && h.alert[1].limit == 10 && h.alert[1].step == 3);
    alerts_free(a);
    l.kl = l.stall_s = 0;
    h.n = 0;
    a = alerts_new(&l, hear, &h);
    row(a, "{\"step\":1,\"kl\":1100}");
    AlertClock late = {1e6, -1, -1, 0};
    alerts_clock(a, &late);
    assert_int_equal(h.n, 0);
    alerts_free(a);
}

static void test_clock_and_disk(void **state) {
    (void)state;
    Heard h = {0};
    AlertLimits l = limits();
    Alerts *a = alerts_new(&l, hear, &h);
    AlertClock none = {-1, -1, -1, 0}, bad = {601, 601, 1.9e9, 1e9};
    alerts_clock(a, &none);
    assert_int_equal(h.n, 0);
    alerts_clock(a, &bad);
    alerts_clock(a, &bad);
    assert_int_equal(h.n, 3);
    assert_string_equal(h.alert[0].name, "stall");
    assert_string_equal(h.alert[1].name, "checkpoint");
    assert_string_equal(h.alert[2].name, "disk");
    assert_true(h.alert[2].limit == 2e9);
    alerts_free(a);
}

/* -- Prometheus */

static void test_gauges_text(void **state) {
    (void)state;
    Gauges *g = gauges_new();
    Str text = {0};
    gauges_set(g, "dikast_up", NULL, NULL, 1, false);
    gauges_set(g, "dikast_loss", "stage", "rl", 2.5, false);
    gauges_set(g, "dikast_loss", "stage", "pm", NAN, false);
    gauges_set(g, "dikast_loss", "stage", "rl", 1.25, false);
    gauges_set(g, "dikast_alerts_total", "alert", "a\"b\\c\nd", 3, true);
    gauges_set(g, "dikast_eval.sl-x", "stage", "eval", INFINITY, false);
    gauges_text(g, &text);
    assert_string_equal(text.s, "# TYPE dikast_alerts_total counter\n"
                                "dikast_alerts_total{alert=\"a\\\"b\\\\c\\nd\"} 3.0\n"
                                "# TYPE dikast_eval_sl_x gauge\n"
                                "dikast_eval_sl_x{stage=\"eval\"} +Inf\n"
                                "# TYPE dikast_loss gauge\n"
                                "dikast_loss{stage=\"pm\"} NaN\n"
                                "dikast_loss{stage=\"rl\"} 1.25\n"
                                "# TYPE dikast_up gauge\n"
                                "dikast_up 1.0\n");
    assert_true(gauges_get(g, "dikast_loss", "rl") == 1.25);
    assert_true(isnan(gauges_get(g, "dikast_loss", "sl")));
    str_release(&text);
    gauges_free(g);
}

/* -- TensorBoard */

static uint64_t le(const unsigned char *p, int n) {
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static uint32_t masked(const unsigned char *p, size_t n) {
    uint32_t c = crc32c(0, p, n);
    return ((c >> 15) | (c << 17)) + 0xa282ead8u;
}

/* The records of a file; each one's checks are those TensorBoard makes. */
static int records(const Str *file, const unsigned char *body[8], size_t len[8]) {
    int n = 0;
    size_t at = 0;
    const unsigned char *p = (const unsigned char *)file->s;
    while (at < file->n) {
        assert_true(file->n - at >= 16 && n < 8);
        len[n] = le(p + at, 8);
        assert_int_equal(le(p + at + 8, 4), masked(p + at, 8));
        assert_true(len[n] <= file->n - at - 16);
        body[n] = p + at + 12;
        assert_int_equal(le(body[n] + len[n], 4), masked(body[n], len[n]));
        at += 16 + len[n++];
    }
    return n;
}

static void test_tensorboard_file(void **state) {
    (void)state;
    Error err = {0};
    TbFile *f = NULL;
    Str file = {0};
    const unsigned char *body[8];
    size_t len[8];
    OK(io_remove_tree(DIR, &err));
    OK(tb_open(&f, DIR "/tb", "rl", 1700000000.5, &err));
    OK(tb_scalar(f, "rl/kl", 300, 1700000001.0, 0.75, &err));
    OK(tb_flush(f, &err));
    tb_close(f);
    OK(io_read_file(&file, DIR "/tb/events.out.tfevents.1700000000.rl", 1 << 20, &err));
    assert_int_equal(records(&file, body, len), 2);
    /* wall time; file_version "brain.Event:2" */
    static const unsigned char first[] = "\x09\x00\x00\x20\x40\xfc\x54\xd9\x41\x1a\x0d"
                                         "brain.Event:2";
    assert_int_equal(len[0], sizeof first - 1);
    assert_memory_equal(body[0], first, sizeof first - 1);
    /* wall time; step 300; summary { value { tag "rl/kl", simple_value 0.75 } } */
    static const unsigned char second[] =
        "\x09\x00\x00\x40\x40\xfc\x54\xd9\x41\x10\xac\x02\x2a\x0e\x0a\x0c\x0a\x05rl/kl\x15\x00\x00\x40\x3f";
    assert_int_equal(len[1], sizeof second - 1);
    assert_memory_equal(body[1], second, sizeof second - 1);
    str_release(&file);
}

static void test_tensorboard_errors(void **state) {
    (void)state;
    Error err = {0};
    TbFile *f = NULL;
    OK(io_make_dirs(DIR, &err));
    OK(io_write_file(DIR "/file", "x", 1, &err));
    assert_false(tb_open(&f, DIR "/file", "rl", 0, &err));
    assert_null(f);
    assert_non_null(strstr(err.msg, DIR "/file"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_steady_run_says_nothing),
        cmocka_unit_test(test_each_rule_fires_once_at_its_step),
        cmocka_unit_test(test_a_constant_loss_that_jumps),
        cmocka_unit_test(test_rules_rearm_and_can_be_turned_off),
        cmocka_unit_test(test_clock_and_disk),
        cmocka_unit_test(test_gauges_text),
        cmocka_unit_test(test_tensorboard_file),
        cmocka_unit_test(test_tensorboard_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
