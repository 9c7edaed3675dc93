// layer: cai
/* Figures of the selector: which rows count, and naive Bayes against numbers worked out by hand. */
#include "base/io.h"
#include "cai/select_eval.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ROWS "select_eval_test.jsonl"
static const char JSON[] =
    "{\"schema\":\"dikast-constitution/1\",\"id\":\"h\",\"principles\":["
    "{\"id\":\"animals\",\"text\":\"Be kind to dogs.\",\"tags\":[\"pets\",\"animal-abuse\",\"both\"]},"
    "{\"id\":\"theft\",\"text\":\"Respect bikes.\",\"tags\":[\"financial_crime_theft\",\"both\"]},"
    "{\"id\":\"fire\",\"text\":\"Keep barns safe.\"},"
    "{\"id\":\"lies\",\"text\":\"Tell the truth.\"}]}";

static void open_all(Constitution *c, SelectCases *s, const char *rows, const char *source) {
    Error err = {0};
    *s = (SelectCases){0};
    if (!constitution_parse(c, JSON, sizeof JSON - 1, "t", &err)) fail_msg("%s", err.msg);
    assert_true(io_write_file(ROWS, rows, strlen(rows), &err));
    if (!select_cases_read(s, c, ROWS, source, &err)) fail_msg("%s", err.msg);
}

static void close_all(Constitution *c, SelectCases *s) {
    select_cases_release(s);
    constitution_release(c);
    remove(ROWS);
}

static void test_rows(void **state) {
    (void)state;
    static const char rows[] = "{\"prompt\":\"a\",\"category\":\"['Animal abuse']\",\"source\":\"x\"}\n"
                               "{\"prompt\":\"b\",\"category\":\"Financial crime, theft\",\"source\":\"x\"}\n"
                               "{\"prompt\":\"c\",\"category\":\"theft\",\"source\":\"y\"}\n"
                               "{\"prompt\":\"d\",\"category\":\"both\",\"source\":\"x\"}\n"
                               "{\"prompt\":\"e\",\"category\":\"animal\",\"source\":\"x\"}\n"
                               "{\"prompt\":\"f\",\"source\":\"x\"}\n"
                               "{\"prompt\":\"g\",\"category\":\"FIRE\"}\n";
    Constitution c;
    SelectCases s;
    open_all(&c, &s, rows, NULL);
    static const int want[] = {0, 1, 1, 2};
    assert_int_equal(s.n, 4);
    assert_int_equal(s.n_left_out, 3); /* two principles; none; no category */
    for (int i = 0; i < 4; i++) assert_int_equal(s.at[i].principle, want[i]);
    assert_string_equal(s.at[3].prompt, "g");
    SelectScore random = select_random(&c, &s), common = select_majority(&c, &s);
    assert_true(random.top1 == 0.25 && random.top3 == 0.75 && fabs(random.entropy - log(4)) < 1e-12);
    assert_true(common.top1 == 0.5 && common.top3 == 1 && common.entropy == 0);
    close_all(&c, &s);
    open_all(&c, &s, rows, "z,y");
    assert_int_equal(s.n, 1);
    assert_int_equal(s.n_left_out, 0);
    close_all(&c, &s);
    Error err = {0};
    assert_true(constitution_parse(&c, JSON, sizeof JSON - 1, "t", &err));
    assert_true(io_write_file(ROWS, "{\"category\":\"fire\"}\n", 20, &err));
    assert_false(select_cases_read(&s, &c, ROWS, NULL, &err));
    assert_non_null(strstr(err.msg, ROWS ":1: "));
    close_all(&c, &s);
}

static void test_selector(void **state) {
    (void)state;
    Constitution c;
    SelectCases s;
    Selector *sel;
    Error err = {0};
    open_all(&c, &s,
             "{\"prompt\":\"kick dogs\",\"category\":\"pets\"}\n"          /* first */
             "{\"prompt\":\"the dog, the truth\",\"category\":\"lies\"}\n" /* second: ties go by order */
             "{\"prompt\":\"what?\",\"category\":\"fire\"}\n"              /* third of four that score nothing */
             "{\"prompt\":\"nothing\",\"category\":\"lies\"}\n",           /* fourth */
             NULL);
    assert_true(selector_open(&sel, &c, USE_LABEL, SELECT_TOP1, 0, (Rng){0, RNG_PRINCIPLE}, &err));
    SelectScore got = select_score(sel, &s);
    assert_true(got.top1 == 0.5 && got.top3 == 0.75);
    selector_close(sel);
    close_all(&c, &s);
}

/* Priors 2/3 and 1/3; words: dog dog cat | car. Vocabulary 3. */
static void test_bayes(void **state) {
    (void)state;
    Constitution c;
    SelectCases train, test;
    open_all(&c, &train,
             "{\"prompt\":\"dog dog\",\"category\":\"animals\"}\n{\"prompt\":\"cat\",\"category\":\"animals\"}\n"
             "{\"prompt\":\"car\",\"category\":\"theft\"}\n",
             NULL);
    constitution_release(&c);
    /* car: animals 2/3 * 1/6 = .111, theft 1/3 * 2/4 = .167. cat car: .667*(2/6)(1/6) = .037, .333*(1/4)(2/4) = .042.
     * dog car: .667*(3/6)(1/6) = .0556, .0417. dog dog car car: .00463, .00521. An unknown word says nothing: animals
     * by its prior. Principles never seen come last. */
    open_all(&c, &test,
             "{\"prompt\":\"Car!\",\"category\":\"theft\"}\n{\"prompt\":\"cat car\",\"category\":\"theft\"}\n"
             "{\"prompt\":\"dog car\",\"category\":\"animals\"}\n{\"prompt\":\"zebra\",\"category\":\"animals\"}\n"
             "{\"prompt\":\"dog dog car car\",\"category\":\"theft\"}\n"
             "{\"prompt\":\"car\",\"category\":\"lies\"}\n",
             NULL);
    SelectScore s = select_bayes(&c, &train, &test);
    assert_true(fabs(s.top1 - 5.0 / 6) < 1e-12 && fabs(s.top3 - 5.0 / 6) < 1e-12);
    assert_true(fabs(s.entropy + log(2.0 / 3) * 2 / 3 + log(1.0 / 3) / 3) < 1e-12); /* theft 4 times, animals 2 */
    select_cases_release(&train);
    close_all(&c, &test);
    /* A word that both know: animals 2/5, theft 4/5. */
    open_all(&c, &train,
             "{\"prompt\":\"x y y\",\"category\":\"animals\"}\n{\"prompt\":\"x x x\",\"category\":\"theft\"}\n", NULL);
    constitution_release(&c);
    open_all(&c, &test, "{\"prompt\":\"x\",\"category\":\"theft\"}\n", NULL);
    assert_true(select_bayes(&c, &train, &test).top1 == 1);
    select_cases_release(&train);
    close_all(&c, &test);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_selector),
        cmocka_unit_test(test_bayes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
