// layer: eval
/* Paired comparisons, trends, style and length-controlled ranking against numbers worked out by hand and closed forms.
 */
#include "eval/agree.h"
#include "eval/paired.h"
#include "eval/rank.h"
#include "eval/style.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define assert_near(a, b, tol) assert_within(a, b, tol, __LINE__)
static void assert_within(double a, double b, double tol, int line) {
    if (!(fabs(a - b) <= tol)) fail_msg("line %d: %.17g, expected %.17g", line, a, b);
}

static const Rng rng = {7, RNG_TEST};

static void test_mcnemar(void **state) {
    double a[20], b[20];
    int32_t c[20];
    (void)state;
    for (int i = 0; i < 20; i++) a[i] = i < 10, b[i] = i < 2 || (i >= 10 && i < 11), c[i] = i;
    Paired r = paired_compare(a, b, c, 20, rng);
    assert_string_equal(r.test, "mcnemar");
    assert_int_equal(r.only_a, 8);
    assert_int_equal(r.only_b, 1);
    assert_near(r.p, 2 * (1.0 + 9) / 512, 1e-12); /* binomial(9, 1/2): P(<= 1), two-sided */
    assert_near(r.difference.mean, -0.35, 1e-12);
    assert_near(r.mean_a, 0.5, 1e-12);
    assert_near(r.mean_b, 0.15, 1e-12);
    assert_true(r.difference.lo < -0.35 && r.difference.hi > -0.35 && r.difference.hi < 0);
}

/* Ten clusters of two; b better by 1 in each: of 2^10 sign patterns two are as far from 0. */
static void test_sign_flip(void **state) {
    double a[20], b[20];
    int32_t c[20];
    (void)state;
    for (int i = 0; i < 20; i++) a[i] = 0, b[i] = 1, c[i] = i / 2;
    Paired r = paired_compare(a, b, c, 20, rng);
    assert_string_equal(r.test, "sign-flip");
    assert_int_equal(r.n_cluster, 10);
    assert_near(r.p, 2.0 / 1024, 0.0012); /* 9999 draws: sd 0.00044 */
    assert_near(r.difference.lo, 1, 0);
    assert_near(r.difference.hi, 1, 0);
    Paired again = paired_compare(a, b, c, 20, rng);
    assert_near(again.p, r.p, 0);
    for (int i = 0; i < 20; i++) b[i] = i % 4 < 2 ? 0.25 : -0.25; /* nothing in sum */
    r = paired_compare(a, b, c, 20, rng);
    assert_near(r.p, 1, 0);
    r = paired_compare(a, a, c, 20, rng);
    assert_near(r.p, 1, 0);
    assert_near(r.difference.hi, 0, 0);
    assert_true(isnan(paired_compare(a, b, c, 0, rng).p));
}

static void test_holm(void **state) {
    (void)state;
    const double p[] = {0.01, 0.04, NAN, 0.03, 0.005};
    double out[5];
    holm_adjust(out, p, 5);
    assert_near(out[4], 0.02, 1e-15);
    assert_near(out[0], 0.03, 1e-15);
    assert_near(out[3], 0.06, 1e-15);
    assert_near(out[1], 0.06, 1e-15); /* not 0.04: never below a smaller p's */
    assert_true(isnan(out[2]));
    const double large[] = {0.6, 0.9};
    holm_adjust(out, large, 2);
    assert_near(out[0], 1, 0);
    assert_near(out[1], 1, 0);
}

static void test_trend(void **state) {
    double x[12], y[12], within;
    int32_t c[12];
    (void)state;
    for (int i = 0; i < 12; i++) x[i] = i % 3 * 4, c[i] = i / 3, y[i] = 0.5 + 0.25 * x[i];
    Interval s = slope_interval(x, y, c, 12, rng);
    assert_near(s.mean, 0.25, 1e-12);
    assert_near(s.lo, 0.25, 1e-12);
    assert_near(s.hi, 0.25, 1e-12);
    assert_true(isnan(slope_interval(y, x, c, 1, rng).mean));
    /* Shrout & Fleiss 1979, table 2: six targets, four judges: ICC(1,1) = .17. */
    static const double rating[6][4] = {{9, 2, 5, 8}, {6, 1, 3, 2},  {8, 4, 6, 8},
                                        {7, 1, 2, 6}, {10, 5, 6, 9}, {6, 2, 4, 7}};
    double flat[24];
    int32_t target[24];
    for (int i = 0; i < 24; i++) flat[i] = rating[i / 4][i % 4], target[i] = i / 4;
    assert_near(icc_one_way(flat, target, 24, &within), 0.1657418, 1e-6);
    assert_near(within * within, 6.2638889, 1e-6);
    for (int i = 0; i < 24; i++) flat[i] = i / 4;
    assert_near(icc_one_way(flat, target, 24, NULL), 1, 1e-12);
    for (int i = 0; i < 24; i++) flat[i] = 3;
    assert_true(isnan(icc_one_way(flat, target, 24, NULL)));
}

static void test_js(void **state) {
    (void)state;
    const double a[] = {1, 0}, b[] = {0, 5}, half[] = {2, 2}, none[] = {0, 0};
    assert_near(js_divergence(a, b, 2), 1, 1e-15);
    assert_near(js_divergence(half, half, 2), 0, 1e-15);
    assert_near(js_divergence(a, half, 2), 0.31127812445913283, 1e-12); /* 1/2 log2 4/3 + 1/2 (1/2 log2 2/3 + 1/2) .. */
    assert_true(isnan(js_divergence(a, none, 2)));
}

/* Items with different numbers of ratings: the two of one item agree, of four three do. */
static void test_fleiss_varied(void **state) {
    (void)state;
    const int32_t count[] = {2, 0, 3, 1, 1, 0};
    /* P = (1 + 6/12) / 2; shares 5/6, 1/6; the item with one rating says nothing */
    assert_near(fleiss_kappa(count, 3, 2), (0.75 - 26.0 / 36) / (1 - 26.0 / 36), 1e-12);
}

/* -- length ----------------------------------------------------------------------------------------------------------
 */

/* Two models, replies of b 100 longer in half the games, equal in the rest: at equal length a wins 3 of 4, at +100 for
 * b 1 of
 * 4. So t_a - t_b = log 3 exactly and phi tanh(-100 / sd) = -2 log 3. */
static void test_length(void **state) {
    Game g[80];
    double longer[80], rating[2];
    int32_t prompt[80];
    LengthEffect e;
    Error err = {0};
    (void)state;
    for (int i = 0; i < 80; i++) {
        bool far = i >= 40;
        g[i] = (Game){0, 1, far ? i % 4 == 0 : i % 4 != 0, 1};
        longer[i] = far ? -100 : 0;
        prompt[i] = i;
        if (i % 3 == 0) g[i] = (Game){1, 0, 1 - g[i].outcome, 1}, longer[i] = -longer[i];
    }
    assert_true(rank_length(rating, &e, g, longer, 80, 2, 0, &err));
    assert_false(e.ridge);
    double sd = 100 / sqrt(2);
    assert_near(e.sd, sd, 1e-9);
    assert_near(rating[0], 1000, 0);
    assert_near(rating[1], 1000 - 400 * log(3) / log(10), 1e-6);
    assert_near(e.phi, 2 * log(3) / tanh(100 / sd), 1e-8);
    bool ridge;
    assert_true(rank_bradley_terry(rating, &ridge, g, 80, 2, 0, &err));
    assert_near(rating[1], 1000, 1e-6); /* 40 of 80: the raw ranking sees no difference */
    /* Intervals do not depend on threads. */
    Interval one[3], four[3];
    Pool *pool;
    assert_true(pool_open(&pool, 4, &err));
    assert_true(rank_length_intervals(one, g, longer, prompt, 80, 2, 0, 200, rng, NULL, &err));
    assert_true(rank_length_intervals(four, g, longer, prompt, 80, 2, 0, 200, rng, pool, &err));
    pool_close(pool);
    for (int m = 0; m < 3; m++) {
        assert_near(one[m].lo, four[m].lo, 0);
        assert_near(one[m].hi, four[m].hi, 0);
    }
    assert_true(one[1].lo < one[1].mean && one[1].mean < one[1].hi && one[1].hi < 1000);
    assert_near(one[2].mean, e.phi, 0);
}

/* Equal lengths: the ordinary ranking. A model that wins everything needs the virtual ties. */
static void test_length_edges(void **state) {
    const Game g[] = {{0, 1, 1, 1}, {0, 1, 1, 1}, {0, 1, 0, 1}, {1, 2, 0.5, 1}, {0, 2, 1, 1}, {0, 2, 0, 1}};
    const double none[6] = {0}, some[6] = {1, -2, 3, 1, 1, 1};
    double a[3], b[3];
    bool ridge;
    LengthEffect e;
    Error err = {0};
    (void)state;
    assert_true(rank_length(a, &e, g, none, 6, 3, 1, &err));
    assert_true(rank_bradley_terry(b, &ridge, g, 6, 3, 1, &err));
    assert_false(ridge || e.ridge);
    for (int m = 0; m < 3; m++) assert_near(a[m], b[m], 1e-7);
    assert_near(e.phi, 0, 0);
    assert_true(rank_length(a, &e, g, some, 2, 2, 0, &err));
    assert_true(e.ridge && a[1] < 1000);
    assert_false(rank_length(a, &e, &(Game){0, 5, 1, 1}, none, 1, 3, 0, &err));
}

/* -- style -----------------------------------------------------------------------------------------------------------
 */

static void test_style(void **state) {
    double s[STYLE_COUNT];
    (void)state;
    style_measure(s, "I may help. I think it's fine! Really?");
    assert_near(s[STYLE_WORDS], 8, 0);
    assert_near(s[STYLE_SENTENCE], 8.0 / 3, 1e-12);
    assert_near(s[STYLE_WORD], (1 + 3 + 4 + 1 + 5 + 4 + 4 + 6) / 8.0, 1e-12);
    assert_near(s[STYLE_VARIETY], 7.0 / 8, 1e-12);
    assert_near(s[STYLE_FIRST], 2.0 / 8, 1e-12);
    assert_near(s[STYLE_HEDGE], 1.0 / 8, 1e-12);
    assert_near(s[STYLE_MARKS], 2.0 / 3, 1e-12);
    style_measure(s, " ... \n");
    for (int i = 0; i < STYLE_COUNT; i++) assert_near(s[i], 0, 0);
    for (int i = 0; i < STYLE_COUNT; i++) assert_true(style_name((Style)i)[0]);
}

static void expect_claim(Claim c, const char *text, const char *want) {
    Str out = {0};
    bool found = claim_find(&out, c, text);
    if (!want != !found || (want && strcmp(str_get(&out), want)))
        fail_msg("'%s': %s '%s', expected %s", text, claim_name(c), str_get(&out), want ? want : "none");
    str_release(&out);
}

static void test_claims(void **state) {
    (void)state;
    expect_claim(CLAIM_NAME, "Hello. My name is Ada and I help.", "ada");
    expect_claim(CLAIM_NAME, "You can call me Bo.", "bo");
    expect_claim(CLAIM_KIND, "I'm an AI assistant, made by the Example Lab in Rome.", "ai assistant");
    expect_claim(CLAIM_MAKER, "I'm an AI assistant, made by the Example Lab in Rome.", "example lab");
    expect_claim(CLAIM_MAKER, "I was trained by a small team", "small team");
    expect_claim(CLAIM_KIND, "Hi am a word", NULL);
    expect_claim(CLAIM_NAME, "Roses are red.", NULL);
    expect_claim(CLAIM_NAME, "my name is .", NULL);
    expect_claim(CLAIM_KIND, "I am a very kind and very patient helper of people", "very kind");
    expect_claim(CLAIM_KIND, "As a result I cannot. As an AI language model I do not.", "ai language model");
    expect_claim(CLAIM_KIND, "I'm just an artificial intelligence model", "ai model");
    /* Who made something else is no word about the writer. */
    expect_claim(CLAIM_MAKER, "As an AI developed by the Lab, I decline.", "lab");
    expect_claim(CLAIM_MAKER, "I am Ada, a large model that was trained by Acme.", "acme");
    expect_claim(CLAIM_MAKER, "The pump made by Acme leaks. I am a model.", NULL);
    expect_claim(CLAIM_MAKER, "I am sorry, the pump made by Acme leaks.", NULL);
    expect_claim(CLAIM_MAKER, "As a model, I use data created by people.", NULL);
    expect_claim(CLAIM_MAKER, "As a rule pumps built by Acme leak.", NULL);
    expect_claim(CLAIM_MAKER, "The app made by Acme leaks. I was made by the Lab.", "lab");
    assert_true(claim_agree("ai", "ai language model") && claim_agree("meta ai", "meta"));
    assert_false(claim_agree("ai assistant", "ai model"));
    assert_false(claim_agree("ada", "adam"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mcnemar), cmocka_unit_test(test_sign_flip),
                                       cmocka_unit_test(test_holm),    cmocka_unit_test(test_trend),
                                       cmocka_unit_test(test_js),      cmocka_unit_test(test_fleiss_varied),
                                       cmocka_unit_test(test_length),  cmocka_unit_test(test_length_edges),
                                       cmocka_unit_test(test_style),   cmocka_unit_test(test_claims)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
