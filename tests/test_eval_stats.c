// layer: eval
/* Statistics against published implementations, and the little language of gates. */
#include "eval/stats.h"

#include "metric_cases.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define assert_near(a, b) assert_within(a, b, 1e-12, __LINE__)
static void assert_within(double a, double b, double tol, int line) {
    if (!(fabs(a - b) <= tol)) fail_msg("line %d: %.17g, expected %.17g", line, a, b);
}

static void test_metric_cases(void **state) {
    (void)state;
    for (int k = 0; k < COUNT_OF(metric_case); k++) {
        const MetricCase *c = &metric_case[k];
        double p[200], soft[200];
        int32_t y[200];
        for (int i = 0; i < c->n; i++) p[i] = c->item[i].p, y[i] = c->item[i].y, soft[i] = c->item[i].y;
        Detection d = detection(p, y, c->n, 0.5);
        assert_near(d.recall, c->recall);
        assert_near(d.precision, c->precision);
        assert_near(d.f1, c->f1);
        assert_near(d.fpr, c->fpr);
        assert_int_equal(d.tp + d.fp + d.tn + d.fn, c->n);
        assert_near(d.accuracy, (double)(d.tp + d.tn) / c->n);
        assert_near(auroc(p, y, c->n), c->auroc);
        assert_near(brier(p, soft, c->n), c->brier);
        assert_near(ece(p, soft, c->n, 10), c->ece);
    }
}

static void test_detection_edges(void **state) {
    (void)state;
    static const double p[] = {0.1, 0.1, 0.5, 0.1};
    static const int32_t y[] = {0, 0, 1, 1}, none[4] = {0};
    Detection d = detection(p, y, 4, 0.5); /* the threshold itself counts */
    assert_true(d.tp == 1 && d.fp == 0 && d.tn == 2 && d.fn == 1);
    d = detection(p, y, 4, 0.9);
    assert_true(d.recall == 0 && d.precision == 0 && d.f1 == 0 && d.fpr == 0);
    d = detection(p, none, 4, 0.9);
    assert_true(isnan(d.recall) && isnan(d.precision) && isnan(d.f1) && d.fpr == 0 && d.accuracy == 1);
    d = detection(p, y, 0, 0.5);
    assert_true(isnan(d.accuracy) && isnan(d.fpr));
}

/* Closed forms: of one size of log-odds the fit is the logit of the share that is right. */
static void test_fits(void **state) {
    (void)state;
    double l[100], label[100], hit = 0.75 + (1 - 2 * 0.75) / 102; /* drawn in to 1/102 and 101/102 */
    for (int i = 0; i < 100; i++) {
        bool up = i % 2;
        l[i] = up ? 4 : -4;
        label[i] = (i < 75) == up;
    }
    assert_near(fit_temperature(l, label, 100), 4 / log(hit / (1 - hit)));
    for (int i = 0; i < 100; i++) label[i] = l[i] > 0; /* always right: certainty is bounded by how often it was seen */
    assert_near(fit_temperature(l, label, 100), 4 / log(101.0));
    for (int i = 0; i < 100; i++) label[i] = l[i] < 0;
    assert_near(fit_temperature(l, label, 100), 20);
    static const double x[] = {1, -1, 0}, q[] = {0.8, 0.3, 0.9}, w[] = {1, 3, 1};
    assert_near(fit_slope(x, q, NULL, 3), log(3)); /* 2 sigmoid(s) = .8 + .7 */
    double p = (0.8 + 3 * 0.7) / 4;
    assert_near(fit_slope(x, q, w, 3), log(p / (1 - p)));
}

static void test_calibration_edges(void **state) {
    (void)state;
    static const double p[] = {0, 1, 0.3, 0.3}, y[] = {0, 1, 0.5, 0.1}; /* soft labels; the bin of 1 is the last one */
    assert_near(ece(p, y, 2, 10), 0);
    assert_near(ece(p, y, 4, 10), 0);
    static const double wrong[] = {1, 0};
    assert_near(ece(p, wrong, 2, 10), 1);
    assert_near(ece(p, y, 4, 1), 0);
    assert_near(ece(p + 2, y + 2, 1, 10), 0.2);
    assert_near(brier(p, y, 4), (0.04 + 0.04) / 4);
    static const double bad[3][2] = {{0.5, 1.01}, {0.5, -0.01}, {NAN, 0.5}};
    for (int i = 0; i < 3; i++) assert_true(isnan(ece(bad[i], y, 2, 10)));
    assert_true(isnan(ece(p, y, 0, 10)) && isnan(brier(p, y, 0)));
}

static void test_auroc_edges(void **state) {
    (void)state;
    static const double s[] = {3, 1, 2, 2, -INFINITY, NAN};
    static const int32_t y[] = {1, 0, 1, 0, 0, 1}, ones[] = {1, 1, 1};
    assert_near(auroc(s, y, 5), (3 + 2.5) / 6); /* pairs won; the tie of 2 with 2 is half */
    static const double same[] = {7, 7, 7, 7};
    assert_near(auroc(same, y, 4), 0.5);
    assert_true(isnan(auroc(s, ones, 3)) && isnan(auroc(s, y, 0)));
    assert_true(isnan(auroc(s, y, 6)));
}

static void test_correlation(void **state) {
    (void)state;
    static const double x[] = {1, 2, 3, 4, 5}, up[] = {3, 5, 7, 9, 11}, y[] = {2, 1, 4, 3, 5};
    assert_near(correlation(x, up, 5), 1);
    assert_near(correlation(x, y, 5), 0.8);
    double down[5], tenth[7], ramp[7];
    for (int i = 0; i < 5; i++) down[i] = -1e6 * x[i];
    assert_near(correlation(x, down, 5), -1);
    for (int i = 0; i < 7; i++) tenth[i] = 0.1, ramp[i] = i * 0.3;
    assert_true(correlation(tenth, ramp, 7) == 0 && correlation(ramp, tenth, 7) == 0);
    assert_true(correlation(x, y, 0) == 0 && correlation(x, y, 1) == 0);
}

static void test_wilson(void **state) {
    (void)state;
    /* scipy 1.17.1: binomtest(k, n).proportion_ci(method="wilson") */
    static const struct {
        int k, n;
        double lo, hi;
    } row[] = {
        {0, 36, 0.0, 0.09641862859446365},
        {16, 36, 0.2954126874008022, 0.6041893824430271},
        {36, 36, 0.9035813714055363, 1.0},
        {7, 200, 0.0170555420085672, 0.07047061152229074},
    };
    for (int i = 0; i < COUNT_OF(row); i++) {
        Interval v = interval_wilson(row[i].k, row[i].n);
        assert_near(v.lo, row[i].lo);
        assert_near(v.hi, row[i].hi);
        assert_near(v.mean, (double)row[i].k / row[i].n);
        assert_int_equal(v.n, row[i].n);
    }
    Interval none = interval_wilson(0, 0);
    assert_true(isnan(none.mean) && none.lo == 0 && none.hi == 1 && none.n == 0);
}

static void test_cluster_bootstrap(void **state) {
    (void)state;
    enum { PROMPTS = 400, SAMPLES = 4, N = PROMPTS * SAMPLES };
    const Rng rng = {7, RNG_BOOT}, data = {7, RNG_TEST};
    double single[N], copied[N];
    int32_t alone[N], grouped[N];
    for (int i = 0; i < N; i++) {
        single[i] = rng_uniform(data, (uint64_t)i, 0) < 0.3;
        copied[i] = rng_uniform(data, (uint64_t)(i / SAMPLES), 1) < 0.3; /* all samples of a prompt agree */
        alone[i] = i;
        grouped[i] = i / SAMPLES;
    }
    /* Every item its own cluster: the normal interval, up to the noise of 2000 draws. */
    Interval a = interval_cluster(single, alone, N, rng);
    double half = 1.96 * sqrt(a.mean * (1 - a.mean) / N), sum = 0;
    for (int i = 0; i < N; i++) sum += single[i];
    assert_near(a.mean, sum / N);
    assert_int_equal(a.n, N);
    assert_within((a.hi - a.lo) / 2, half, 0.1 * half, __LINE__);
    assert_true(a.lo < a.mean && a.mean < a.hi);
    /* Agreeing samples are worth one: the interval is as wide as that of the prompts alone, twice as wide as naively.
     */
    Interval b = interval_cluster(copied, grouped, N, rng), naive = interval_cluster(copied, alone, N, rng);
    half = 1.96 * sqrt(b.mean * (1 - b.mean) / PROMPTS);
    assert_within((b.hi - b.lo) / 2, half, 0.1 * half, __LINE__);
    assert_within((b.hi - b.lo) / (naive.hi - naive.lo), 2, 0.25, __LINE__);
    /* Equal coordinates, equal bits; another seed, another draw. */
    Interval again = interval_cluster(copied, grouped, N, rng),
             other = interval_cluster(copied, grouped, N, (Rng){8, RNG_BOOT});
    assert_memory_equal(&again, &b, sizeof b);
    assert_true(other.mean == b.mean && (other.lo != b.lo || other.hi != b.hi));
    /* Clusters of unequal size weigh by their items: mean over items, also within a draw. */
    static const double x[] = {1, 0, 0, 0};
    static const int32_t c[] = {3, 9, 9, 9}, one[] = {5, 5, 5, 5};
    Interval u = interval_cluster(x, c, 4, rng);
    assert_true(u.mean == 0.25 && u.lo == 0 && u.hi == 1);
    u = interval_cluster(x, one, 4, rng);
    assert_true(u.mean == 0.25 && u.lo == 0.25 && u.hi == 0.25);
    assert_true(isnan(interval_cluster(x, c, 0, rng).mean));
    /* Differences have no bounds at 0 and 1: none is none, not a rate that may be higher, and others are drawn as means
     * are. */
    static const double none[] = {0, 0, 0, 0};
    static const int32_t four[] = {1, 2, 3, 4};
    u = interval_difference(none, four, 4, rng);
    assert_true(u.mean == 0 && u.lo == 0 && u.hi == 0 && u.n == 4);
    assert_true(interval_cluster(none, four, 4, rng).hi > 0.4);
    again = interval_cluster(x, four, 4, rng), other = interval_difference(x, four, 4, rng);
    assert_memory_equal(&again, &other, sizeof other);
    assert_true(isnan(interval_difference(x, c, 0, rng).mean));
}

/* -- gates
 * --------------------------------------------------------------------------------------------------------------- */
static double metric(void *ud, const char *name) {
    static const struct {
        const char *name;
        double value;
    } known[] = {
        {"harm.sl", 0.25}, {"harm.helpful", 0.75}, {"ppl.rl_1", 12}, {"delta.a-b.x", -2}, {"e", 3}, {"inf", 8},
    };
    int *calls = ud;
    ++*calls;
    for (int i = 0; i < COUNT_OF(known); i++)
        if (!strcmp(name, known[i].name)) return known[i].value;
    return NAN;
}

static void test_gates(void **state) {
    (void)state;
    static const struct {
        const char *expr;
        double value, bound;
        bool ok;
    } row[] = {
        {"harm.sl <= 0.25", 0.25, 0.25, true},
        {"harm.sl < 0.25", 0.25, 0.25, false},
        {"harm.sl >= 0.25", 0.25, 0.25, true},
        {"harm.sl > 0.25", 0.25, 0.25, false},
        {"harm.sl<0.5", 0.25, 0.5, true},
        {"harm.sl > .5", 0.25, 0.5, false},
        {"  harm.sl\t<=\n harm.helpful - 0.5  ", 0.25, 0.25, true},
        {"harm.sl <= harm.helpful - 0.30 - 0.25", 0.25, 0.2, false},
        {"ppl.rl_1 <= 1.05*ppl.rl_1", 12, 12.6, true},
        {"ppl.rl_1 < 2 * e + -1e0*e + 0.5 * harm.helpful - harm.sl", 12, 3.125, false},
        {"delta.a-b.x >= -2", -2, -2, true},
        {"delta.a-b.x >= +1E1 - 12", -2, -2, true},
        {"e <= inf", 3, 8, true}, /* a metric of that name */
    };
    for (int i = 0; i < COUNT_OF(row); i++) {
        GateResult g;
        Error err = {ERR_NONE, ""};
        int calls = 0;
        if (!gate_eval(&g, row[i].expr, metric, &calls, &err)) fail_msg("%s", err.msg);
        assert_string_equal(g.text, row[i].expr);
        assert_near(g.value, row[i].value);
        assert_near(g.bound, row[i].bound);
        if (g.ok != row[i].ok) fail_msg("%s: %d", row[i].expr, g.ok);
        assert_true(calls >= 1);
    }
}

#define EXPECTED "; expected 'metric <= number or metric [+- ...]'"
#define UNKNOWN(name)                                                                                                  \
    "nothing reports a metric '" name "'; summary.json of each stage, or the results of an evaluation, list them"

static void test_gate_errors(void **state) {
    (void)state;
    static const struct {
        const char *expr, *error;
    } row[] = {
        {"", "gate '': no metric in front at column 1" EXPECTED},
        {"0.3 <= e", "gate '0.3 <= e': no metric in front at column 1" EXPECTED},
        {"e", "gate 'e': no comparison at column 2" EXPECTED},
        {"e = 3", "gate 'e = 3': no comparison at column 3" EXPECTED},
        {"e == 3", "gate 'e == 3': no comparison at column 3" EXPECTED},
        {"e =< 3", "gate 'e =< 3': no comparison at column 3" EXPECTED},
        {"e < = 3", "gate 'e < = 3': no number and no metric at column 5" EXPECTED},
        {"e <=", "gate 'e <=': no number and no metric at column 5" EXPECTED},
        {"e <= 3 +", "gate 'e <= 3 +': no number and no metric at column 9" EXPECTED},
        {"e <= 3 4", "gate 'e <= 3 4': something unexpected at column 8" EXPECTED},
        {"e <= 3 * 4", "gate 'e <= 3 * 4': no metric after '*' at column 10" EXPECTED},
        {"e <= e * 4", "gate 'e <= e * 4': something unexpected at column 8" EXPECTED},
        {"e <= (3)", "gate 'e <= (3)': no number and no metric at column 6" EXPECTED},
        {"e <= 0x10", "gate 'e <= 0x10': no number and no metric at column 6" EXPECTED},
        {"e >= -inf", "gate 'e >= -inf': no number and no metric at column 6" EXPECTED},
        {"e >= -nan(1)", "gate 'e >= -nan(1)': no number and no metric at column 6" EXPECTED},
        {"e >= 1e999", "gate 'e >= 1e999': no number and no metric at column 6" EXPECTED},
        {"e >= --1", "gate 'e >= --1': no number and no metric at column 6" EXPECTED},
        {"harm.sk <= 1", "gate 'harm.sk <= 1': " UNKNOWN("harm.sk")},
        {"e <= e-1", "gate 'e <= e-1': " UNKNOWN("e-1")},
        {"e <= nan", "gate 'e <= nan': " UNKNOWN("nan")},
        {"e <= 2 * x", "gate 'e <= 2 * x': " UNKNOWN("x")},
    };
    for (int i = 0; i < COUNT_OF(row); i++) {
        GateResult g;
        Error err = {ERR_NONE, ""};
        int calls = 0;
        if (gate_eval(&g, row[i].expr, metric, &calls, &err)) fail_msg("accepted: %s", row[i].expr);
        assert_int_equal(err.code, ERR_CONFIG);
        assert_string_equal(err.msg, row[i].error);
        assert_false(g.ok);
    }
    char endless[4000];
    memset(endless, 'e', sizeof endless);
    endless[sizeof endless - 1] = 0;
    GateResult g;
    Error err = {ERR_NONE, ""};
    int calls = 0;
    assert_false(gate_eval(&g, endless, metric, &calls, &err));
    assert_int_equal(strlen(g.text), sizeof g.text - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metric_cases),      cmocka_unit_test(test_detection_edges),
        cmocka_unit_test(test_calibration_edges), cmocka_unit_test(test_auroc_edges),
        cmocka_unit_test(test_correlation),       cmocka_unit_test(test_wilson),
        cmocka_unit_test(test_cluster_bootstrap), cmocka_unit_test(test_gates),
        cmocka_unit_test(test_gate_errors),       cmocka_unit_test(test_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
