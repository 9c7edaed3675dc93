// layer: eval
/* Every case of a file of results of scikit-learn and scipy, and what no case of it covers: edges, intervals, Python's
 * random numbers, standard errors of groups. */
#include "base/json.h"
#include "eval/agree.h"
#include "eval/pyrandom.h"
#include "eval/rank.h"
#include "eval/stats.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define assert_near(a, b, tol) assert_within(a, b, tol, __LINE__)
static void assert_within(double a, double b, double tol, int line) {
    if (!(fabs(a - b) <= tol * fmax(1, fabs(b)))) fail_msg("line %d: %.17g, expected %.17g", line, a, b);
}

/* -- the case file --------------------------------------------------------------------------------------------------
 */

enum { MOST = 400 };
typedef struct {
    double x[MOST];
    int32_t k[MOST];
    int n;
} Column;

static void column(Column *c, const Json *in, const char *name) {
    const Json *a = json_get(in, name);
    c->n = json_len(a);
    assert_in_range(c->n, 1, MOST);
    for (int i = 0; i < c->n; i++) {
        c->x[i] = json_num(json_at(a, i), NAN);
        c->k[i] = (int32_t)c->x[i];
    }
}

static double out_num(const Json *c, const char *name) {
    const Json *o = json_get(c, "out");
    return json_num(name ? json_get(o, name) : o, NAN);
}
static double out_at(const Json *c, int i) { return json_num(json_at(json_get(c, "out"), i), NAN); }

static void case_labels(const char *metric, const Json *c, const Json *in) {
    static Column y, s;
    column(&y, in, "y");
    column(&s, in, "s");
    if (!strcmp(metric, "detection")) {
        Detection d = detection(s.x, y.k, y.n, json_num(json_get(in, "threshold"), NAN));
        assert_near(d.recall, out_num(c, "recall"), 1e-12);
        assert_near(d.precision, out_num(c, "precision"), 1e-12);
        assert_near(d.f1, out_num(c, "f1"), 1e-12);
        assert_near(d.fpr, out_num(c, "fpr"), 1e-12);
        assert_near(balanced_accuracy(&d), out_num(c, "balanced_accuracy"), 1e-12);
    } else if (!strcmp(metric, "average_precision")) {
        assert_near(average_precision(s.x, y.k, y.n), out_num(c, NULL), 1e-12);
    } else if (!strcmp(metric, "auroc")) {
        assert_near(auroc(s.x, y.k, y.n), out_num(c, NULL), 1e-12);
    } else if (!strcmp(metric, "brier")) {
        assert_near(brier(s.x, y.x, y.n), out_num(c, NULL), 1e-12);
    } else if (!strcmp(metric, "ece")) {
        assert_near(ece(s.x, y.x, y.n, 10), out_num(c, NULL), 1e-12);
    } else {
        fail_msg("metric '%s' has no function", metric);
    }
}

static int read_games(Game *game, const Json *in) {
    const Json *a = json_get(in, "games");
    int n = json_len(a);
    assert_in_range(n, 1, MOST);
    for (int i = 0; i < n; i++) {
        const Json *g = json_at(a, i);
        game[i] = (Game){(int)json_int(json_at(g, 0), -1), (int)json_int(json_at(g, 1), -1),
                         json_num(json_at(g, 2), NAN), json_num(json_at(g, 3), NAN)};
    }
    return n;
}

/* The file's maximum is L-BFGS-B's, good to a thousandth; scipy 1.17.1's trust-exact goes on to a gradient of 1e-9. */
static const double exact_rating[] = {1000.0, 961.602342863496, 930.4463059420522, 885.1427117731147};

static void case_games(const char *metric, const Json *c, const Json *in) {
    static Game game[MOST];
    int n = read_games(game, in);
    double rating[4];
    bool ridge;
    Error err = {0};
    if (!strcmp(metric, "elo")) {
        rank_elo(rating, game, n, 4, 4, 1000);
    } else {
        assert_true(rank_bradley_terry(rating, &ridge, game, n, 4, 0, &err));
        assert_false(ridge);
        for (int i = 0; i < 4; i++) assert_near(rating[i], exact_rating[i], 1e-9);
    }
    for (int i = 0; i < 4; i++) assert_near(rating[i], out_at(c, i), strcmp(metric, "elo") ? 1e-6 : 1e-12);
}

static void case_agreement(const char *metric, const Json *c, const Json *in) {
    static Column a, b;
    if (!strcmp(metric, "fleiss")) {
        const Json *t = json_get(in, "table");
        int n = 0, width = json_len(json_at(t, 0));
        int32_t count[MOST];
        for (int i = 0; i < json_len(t); i++)
            for (int k = 0; k < width; k++) count[n++] = (int32_t)json_int(json_at(json_at(t, i), k), -1);
        assert_near(fleiss_kappa(count, json_len(t), width), out_num(c, NULL), 1e-12);
        return;
    }
    if (!strcmp(metric, "flip_rates")) {
        const Json *v = json_get(in, "verdicts");
        int32_t verdict[MOST], cluster[MOST];
        int n = 0;
        for (int i = 0; i < json_len(v); i++)
            for (int k = 0; k < json_len(json_at(v, i)); k++, n++)
                verdict[n] = json_str(json_at(json_at(v, i), k), NULL)[0], cluster[n] = i;
        FlipRates f = flip_rates(verdict, cluster, n);
        assert_near(f.flip, out_at(c, 0), 1e-12);
        assert_near(f.pair_flip, out_at(c, 1), 1e-12);
        assert_near(f.unanimous, 1.0 / 3, 1e-12);
        assert_int_equal(f.n_cluster, 3);
        return;
    }
    column(&a, in, "a");
    column(&b, in, "b");
    if (!strcmp(metric, "spearman")) {
        assert_near(spearman(a.x, b.x, a.n), out_num(c, NULL), 1e-12);
    } else {
        assert_string_equal(metric, "quadratic_kappa");
        assert_near(cohen_kappa(a.k, b.k, a.n, 6, KAPPA_QUADRATIC), out_num(c, NULL), 1e-12);
    }
}

static void test_case_file(void **state) {
    (void)state;
    Json *j = NULL;
    Error err = {0};
    if (!json_read_file(&j, TEST_DIR "/golden/metric_cases.json", 0, &err)) fail_msg("%s", err.msg);
    const Json *cases = json_get(j, "cases");
    assert_int_equal(json_len(cases), 29);
    for (int i = 0; i < json_len(cases); i++) {
        const Json *c = json_at(cases, i), *in = json_get(c, "in");
        const char *metric = json_str(json_get(c, "metric"), NULL);
        if (!strcmp(metric, "wilson")) {
            int64_t n = json_int(json_get(in, "n"), -1);
            Interval w = interval_wilson(json_num(json_get(in, "k"), NAN), n);
            assert_near(w.lo, out_at(c, 0), 1e-12);
            assert_near(w.hi, out_at(c, 1), 1e-12);
        } else if (!strcmp(metric, "mcnemar")) {
            assert_near(mcnemar_exact(json_int(json_get(in, "b"), -1), json_int(json_get(in, "c"), -1)),
                        out_num(c, NULL), 1e-12);
        } else if (json_get(in, "games")) {
            case_games(metric, c, in);
        } else if (json_get(in, "y")) {
            case_labels(metric, c, in);
        } else {
            case_agreement(metric, c, in);
        }
    }
    json_release(j);
}

/* -- edges ----------------------------------------------------------------------------------------------------------
 */

static void test_agreement_edges(void **state) {
    (void)state;
    static const int32_t a[] = {0, 1, 2, 2, 1, 0, 0, 1}, b[] = {0, 1, 2, 1, 1, 0, 2, 1}, one[8] = {0};
    assert_near(cohen_kappa(a, b, 8, 3, KAPPA_PLAIN), 13.0 / 21, 1e-12);   /* (6/8 - 22/64) / (1 - 22/64) */
    assert_near(cohen_kappa(a, b, 8, 3, KAPPA_QUADRATIC), 4.0 / 9, 1e-12); /* 1 - 5 / 9 */
    assert_near(cohen_kappa(a, a, 8, 3, KAPPA_QUADRATIC), 1, 0);
    assert_true(isnan(cohen_kappa(one, one, 8, 3, KAPPA_PLAIN)) && isnan(cohen_kappa(a, b, 0, 3, KAPPA_PLAIN)));
    static const int32_t all[] = {0, 4, 0, 4}, split[] = {4, 0, 0, 4};
    assert_true(isnan(fleiss_kappa(all, 2, 2)) && isnan(fleiss_kappa(all, 0, 2)));
    assert_near(fleiss_kappa(split, 2, 2), 1, 1e-15);
    static const double x[] = {1, 2, 3, NAN}, y[] = {9, 4, 1, 0};
    assert_near(spearman(x, y, 3), -1, 1e-15);
    assert_true(isnan(spearman(x, y, 4)) && isnan(spearman(x, y, 1)));
    assert_near(mcnemar_exact(0, 0), 1, 0);
    FlipRates f = flip_rates(a, one, 0);
    assert_true(f.n_cluster == 0 && isnan(f.flip) && isnan(f.unanimous));
    static const int32_t alone[] = {0, 1, 2, 3, 4, 5, 6, 7};
    f = flip_rates(a, alone, 8);
    assert_true(f.flip == 0 && f.unanimous == 1 && isnan(f.pair_flip));
}

static void test_thresholds(void **state) {
    (void)state;
    static const double s[] = {0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, NAN};
    static const int32_t y[] = {1, 1, 0, 1, 0, 0, 1, 0}, none[8] = {0};
    double at;
    assert_near(recall_at_fpr(s, y, 7, 0, &at), 0.25, 1e-15); /* the tie at .8 would let one in */
    assert_near(at, 0.9, 0);
    assert_near(recall_at_fpr(s, y, 7, 0.34, &at), 0.75, 1e-15);
    assert_near(at, 0.7, 0);
    assert_near(recall_at_fpr(s, y, 7, 1, &at), 1, 1e-15);
    assert_true(isnan(recall_at_fpr(s, none, 7, 0.1, NULL)) && isnan(recall_at_fpr(s, y, 8, 0.1, NULL)));
    assert_true(isnan(average_precision(s, none, 7)) && isnan(average_precision(s, y, 8)));
}

static void test_python(void **state) {
    (void)state;
    PyRandom r;
    int got[25];
    static const int few[] = {7, 1, 0}, set[] = {46, 298, 17, 343, 354, 42, 50},
                     most[] = {24, 11, 7, 0, 26, 25, 28, 20};
    pyrandom_seed(&r, 1234); /* CPython 3.11: Random(1234), then these calls */
    pyrandom_sample(&r, got, 9, 3);
    assert_memory_equal(got, few, sizeof few);
    pyrandom_sample(&r, got, 400, 7);
    assert_memory_equal(got, set, sizeof set);
    pyrandom_sample(&r, got, 30, 25);
    assert_memory_equal(got, most, sizeof most);
    assert_near(pyrandom_unit(&r), 0.6751269332239689, 0);
    static const int between[] = {55, 54, 3, 5, 56, 23, 53}; /* a list here, a set would draw others */
    pyrandom_seed(&r, 2);
    pyrandom_sample(&r, got, 60, 7);
    assert_memory_equal(got, between, sizeof between);
    pyrandom_seed(&r, 0);
    assert_near(pyrandom_unit(&r), 0.8444218515250481, 0);
    pyrandom_seed(&r, ((uint64_t)1 << 40) + 7);
    assert_near(pyrandom_unit(&r), 0.6137037779936511, 0);
}

static void test_stderr(void **state) {
    (void)state;
    static const double x[] = {-1.5, -0.25, -3.75, -2.0, -0.125}, se[] = {0.1, 0.2}, gap[] = {0.1, NAN};
    static const int64_t size[] = {10, 30};
    double mean = -1.525, squares = 0;
    for (int i = 0; i < 5; i++) squares += (x[i] - mean) * (x[i] - mean);
    assert_near(stderr_mean(x, 5), sqrt(squares / 4 / 5), 1e-15);
    assert_true(isnan(stderr_mean(x, 1)) && isnan(mean_of(x, 0)));
    assert_near(stderr_group(se, size, 2, true), sqrt((9 * 0.01 * 10 + 29 * 0.04 * 30) / 38 / 40), 1e-15);
    assert_near(stderr_group(se, size, 2, false), sqrt(0.05) / 2, 1e-15);
    assert_true(isnan(stderr_group(gap, size, 2, true)));
    assert_near(stderr_perplexity(x, 5, 100000, NULL), 3.788847931128244, 1e-9); /* CPython 3.11's random.choices */
    Pool *pool = NULL;
    Error err = {0};
    assert_true(pool_open(&pool, 3, &err));
    double one = stderr_perplexity(x, 5, 5000, NULL), three = stderr_perplexity(x, 5, 5000, pool);
    assert_memory_equal(&one, &three, sizeof one);
    pool_close(pool);
}

/* -- ranking --------------------------------------------------------------------------------------------------------
 */

static void test_ranking(void **state) {
    (void)state;
    Game game[300];
    int32_t prompt[300];
    Rng rng = {3, RNG_TEST};
    static const double strength[] = {0, 1, -1};
    for (int i = 0; i < 300; i++) {
        int a = (int)rng_below(rng, (uint64_t)i, 0, 3), b = (a + 1 + (int)rng_below(rng, (uint64_t)i, 1, 2)) % 3;
        double p = 1 / (1 + exp(strength[b] - strength[a]));
        game[i] = (Game){a, b, rng_uniform(rng, (uint64_t)i, 2) < p, 1};
        prompt[i] = i / 3;
    }
    Error err = {0};
    Interval one[3], three[3], other[3];
    Pool *pool = NULL;
    assert_true(pool_open(&pool, 3, &err));
    assert_true(rank_intervals(one, game, prompt, 300, 3, 0, 400, rng, NULL, &err));
    assert_true(rank_intervals(three, game, prompt, 300, 3, 0, 400, rng, pool, &err));
    assert_memory_equal(one, three, sizeof one);
    assert_true(rank_intervals(other, game, prompt, 300, 3, 0, 400, (Rng){4, RNG_TEST}, pool, &err));
    assert_memory_not_equal(one, other, sizeof one);
    pool_close(pool);
    assert_true(one[0].mean == 1000 && one[0].lo == 1000 && one[0].hi == 1000 && one[0].n == 100);
    for (int m = 1; m < 3; m++) {
        double true_rating = 1000 + 400 * strength[m] / log(10);
        assert_true(one[m].lo < true_rating && true_rating < one[m].hi && one[m].hi - one[m].lo < 200);
    }
    /* Who is the anchor changes nothing but the origin. */
    double from0[3], from2[3];
    bool ridge;
    assert_true(rank_bradley_terry(from0, &ridge, game, 300, 3, 0, &err));
    assert_true(rank_bradley_terry(from2, &ridge, game, 300, 3, 2, &err));
    for (int m = 0; m < 3; m++) assert_near(from0[m] - from0[2], from2[m] - 1000, 1e-9);
}

static void test_ranking_edges(void **state) {
    (void)state;
    static const Game all[] = {{0, 1, 1, 1}, {1, 0, 0, 1}, {0, 1, 1, 1}}, tie[] = {{0, 1, 0.5, 3}},
                      bad[] = {{0, 2, 1, 1}}, odd[] = {{0, 1, 1.5, 1}};
    double r[3];
    bool ridge;
    Error err = {0};
    assert_true(rank_bradley_terry(r, &ridge, all, 3, 2, 0, &err)); /* three lost, and half a virtual tie */
    assert_true(ridge);
    assert_near(r[1], 1000 + 400 * log(0.25 / 3.25) / log(10), 1e-9);
    assert_true(rank_bradley_terry(r, &ridge, tie, 1, 3, 0, &err)); /* nobody played against the third */
    assert_true(ridge && fabs(r[1] - 1000) < 1e-9 && fabs(r[2] - 1000) < 1e-9);
    assert_true(rank_bradley_terry(r, &ridge, tie, 1, 2, 0, &err) && !ridge);
    assert_true(rank_bradley_terry(r, &ridge, tie, 0, 1, 0, &err) && r[0] == 1000);
    assert_false(rank_bradley_terry(r, &ridge, bad, 1, 2, 0, &err));
    assert_non_null(strstr(err.msg, "between models 0 and 2, expected 0..1"));
    assert_false(rank_bradley_terry(r, &ridge, odd, 1, 2, 0, &err));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_case_file),     cmocka_unit_test(test_agreement_edges), cmocka_unit_test(test_thresholds),
        cmocka_unit_test(test_python),        cmocka_unit_test(test_stderr),          cmocka_unit_test(test_ranking),
        cmocka_unit_test(test_ranking_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
