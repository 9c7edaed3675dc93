// layer: cai
/* Retrieval by words: words alike against a count of letters by hand, what requests teach against the algorithm written
 * down again over a table. */
#include "cai/retrieve.h"
#include "cai/terms.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"

enum { TERMS = TERMS_STEM | TERMS_NO_FILLER };

static void assert_near(double a, double b) {
    if (!(fabs(a - b) < 1e-9)) fail_msg("%.17g, expected %.17g", a, b);
}

static double term(double n, double df, double tf, double len, double mean) {
    return log(1 + (n - df + 0.5) / (df + 0.5)) * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len / mean));
}

static void words_alike(void **state) {
    (void)state;
    for (int alike = 0; alike < 2; alike++) {
        Retrieve *r = retrieve_new(TERMS, alike);
        double s[RETRIEVE_DOCS] = {0};
        retrieve_add(r, 0, "explosives");
        retrieve_add(r, 1, "dogs cats");
        retrieve_ready(r, 2);
        retrieve_score(r, s, "explosives", 2);
        assert_near(s[0], 2 * term(2, 1, 1, 1, 1.5)); /* found: its letters are not asked */
        memset(s, 0, sizeof s);
        /* ^explosiv$ has 8 + 7 runs of three and four letters, ^explosion$ 9 + 8; "^explosi" gives both 6 + 5. */
        retrieve_score(r, s, "explosion explosion", 1);
        assert_near(s[0], alike ? 0.5 * (22.0 / 32) * term(2, 1, 1, 1, 1.5) : 0);
        assert_true(s[1] == 0);
        memset(s, 0, sizeof s);
        retrieve_score(r, s, "zebra caf\xC3\xA9 exp", 1); /* nothing is near enough */
        assert_true(s[0] == 0 && s[1] == 0);
        retrieve_free(r);
    }
}

/* EM over a table of requests x words, 1 where the word stands there. */
enum { N_REQUEST = 6, N_WORD = 4, N_DOC = 3 };
static const char *const request[N_REQUEST] = {
    "cocaine heroin", "cocaine heroin once", "heroin needle heroin", "puppy needle", "puppy", "twice"};
static const char *const word[N_WORD] = {"cocaine", "heroin", "needle", "puppy"};
static const int has[N_REQUEST][N_WORD] = {{1, 1, 0, 0}, {1, 1, 0, 0}, {0, 1, 1, 0}, {0, 0, 1, 1}, {0, 0, 0, 1}, {0}};
static const int doc[N_DOC] = {5, 0, 9};

static void reference(double weight[N_WORD][N_DOC], double base[N_REQUEST][RETRIEVE_DOCS]) {
    double share[N_REQUEST][N_DOC];
    memset(weight, 0, N_WORD * sizeof *weight);
    for (int round = 0; round < 5; round++) {
        double prior[N_DOC] = {0};
        for (int i = 0; i < N_REQUEST; i++) {
            double z = 0;
            for (int d = 0; d < N_DOC; d++) {
                double s = base[i][doc[d]];
                for (int w = 0; w < N_WORD; w++) s += 0.7 * has[i][w] * weight[w][d];
                z += share[i][d] = exp(s);
            }
            for (int d = 0; d < N_DOC; d++) prior[d] += (share[i][d] /= z) / N_REQUEST;
        }
        for (int w = 0; w < N_WORD; w++) {
            double count[N_DOC] = {0}, sum = 0;
            for (int i = 0; i < N_REQUEST; i++)
                for (int d = 0; d < N_DOC; d++) count[d] += has[i][w] * share[i][d], sum += has[i][w] * share[i][d];
            for (int d = 0; d < N_DOC; d++) weight[w][d] = log((count[d] + 10 * prior[d]) / (sum + 10) / prior[d]);
        }
    }
}

static void requests_teach(void **state) {
    (void)state;
    double base[N_REQUEST][RETRIEVE_DOCS] = {{0}}, weight[N_WORD][N_DOC];
    base[0][5] = base[1][5] = 3; /* cocaine is in document 5, puppy in 0 */
    base[3][0] = base[4][0] = 2;
    reference(weight, base);
    Learned *l = learned_new(request, N_REQUEST, (const double(*)[RETRIEVE_DOCS])base, doc, N_DOC, TERMS);
    for (int w = 0; w < N_WORD; w++) {
        double s[RETRIEVE_DOCS] = {0};
        learned_score(l, s, word[w]);
        for (int d = 0; d < N_DOC; d++) assert_near(s[doc[d]], 0.7 * weight[w][d]);
        s[5] = s[0] = s[9] = 0;
        for (int d = 0; d < RETRIEVE_DOCS; d++) assert_true(s[d] == 0);
    }
    double s[RETRIEVE_DOCS] = {0};
    learned_score(l, s, "Heroin? heroin!"); /* once; and it means what stood beside it */
    assert_near(s[5], 0.7 * weight[1][0]);
    assert_true(s[5] > 0 && s[5] > s[0] + 0.1);
    memset(s, 0, sizeof s);
    learned_score(l, s, "once twice never"); /* words of one request teach nothing */
    for (int d = 0; d < RETRIEVE_DOCS; d++) assert_true(s[d] == 0);
    learned_free(l);
}

static void nothing_to_learn(void **state) {
    (void)state;
    double base[1][RETRIEVE_DOCS] = {{0}}, s[RETRIEVE_DOCS] = {0};
    Learned *l = learned_new(NULL, 0, (const double(*)[RETRIEVE_DOCS])base, doc, N_DOC, TERMS);
    learned_score(l, s, "cocaine");
    assert_true(s[5] == 0);
    learned_free(l);
    learned_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(words_alike), cmocka_unit_test(requests_teach),
                                       cmocka_unit_test(nothing_to_learn)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
