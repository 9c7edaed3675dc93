// layer: cai
/* What lint finds and what it leaves alone; foreign shapes as they should come in; what principles do to each other. */
#include "base/io.h"
#include "cai/constitution_import.h"
#include "cai/constitution_lint.h"
#include "cai/constitution_test.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SHAPES TEST_DIR "/golden/constitution/shapes/"
#define HEAD "{\"schema\":\"dikast-constitution/1\",\"id\":\"h\",\"principles\":["
#define ONE(fields) HEAD "{\"id\":\"ab\",\"text\":\"a\"," fields "}]}"
#define TWO(a, b) HEAD "{\"id\":\"ab\"," a "},{\"id\":\"cd\"," b "}]}"
#define TEST(p, b, w) "\"tests\":[{\"prompt\":\"" p "\",\"better\":\"" b "\",\"worse\":\"" w "\"}]"
#define YES(s) "{\"text\":\"" s "\",\"applies\":true}"
#define NO(s) "{\"text\":\"" s "\",\"applies\":false}"

typedef struct {
    const char *json, *code;
    int n, n_error; /* findings with this code, errors among them */
    const char *text;
} Case;

// clang-format off
static const Case cases[] = {
    {ONE("\"examples\":[]"), "few-examples", 1, 0, "0 examples apply and 0 look alike"},
    {ONE("\"examples\":[" YES("a b") "," YES("c d") "," YES("e f") "," YES("g h") "," YES("i j") "," NO("k l") "," NO("m n") "," NO("o p") "]"), "few-examples", 0, 0, ""},
    {ONE("\"examples\":[" YES("a b") "," YES("c d") "," YES("e f") "," YES("g h") "," NO("k l") "," NO("m n") "," NO("o p") "]"), "few-examples", 1, 0, "4 examples apply and 3 look"},
    {ONE("\"examples\":[" YES("a b") "," YES("c d") "," YES("e f") "," YES("g h") "," YES("i j") "," NO("k l") "," NO("m n") "]"), "few-examples", 1, 0, "5 examples apply and 2 look"},
    {ONE("\"examples\":[]"), "no-test", 1, 0, "no test"},
    {ONE(TEST("p", "b", "w")), "no-test", 0, 0, ""},
    {ONE("\"tags\":[]"), "no-category", 1, 0, "no tag"},
    {ONE("\"tags\":[\"t\"]"), "no-category", 0, 0, ""},
    {ONE("\"examples\":[" YES("How do I pick a lock?") "," NO("how do I pick a LOCK") "]"), "example-both-ways", 1, 1, "applies and does not apply"},
    {ONE("\"examples\":[" YES("I pick a lock how do") "," NO("how do I pick a lock") "]"), "example-both-ways", 0, 0, ""},
    {ONE("\"examples\":[" YES("How do I pick a lock?") "," YES("How do I pick a lock now?") "]"), "duplicate-example", 1, 0, "says what"},
    {ONE("\"examples\":[" YES("How do I pick a lock?") "," NO("How do I pick a lock now?") "]"), "duplicate-example", 0, 0, ""},
    {ONE("\"examples\":[" YES("How do I pick a lock?") "," YES("How do I pick a rose?") "]"), "duplicate-example", 0, 0, ""}, /* J 5/7 */
    {ONE(TEST("p", "The same.", "the SAME")), "test-same", 1, 1, "are the same reply"},
    {ONE(TEST("p", "the same", "same the")), "test-same", 0, 0, ""},
    /* J = 4/5: at the threshold */
    {TWO("\"text\":\"one two three four\"", "\"text\":\"One, two three four five.\""), "near-duplicate", 1, 0, "J 0.80"},
    {TWO("\"text\":\"one two three four\"", "\"text\":\"one two three five\""), "near-duplicate", 0, 0, ""},
    {TWO("\"text\":\"one two\",\"avoid\":\"three four\"", "\"text\":\"one two three four\""), "near-duplicate", 1, 0, "J 1.00"},
    {TWO("\"text\":\"It gives medical advice.\"", "\"text\":\"It gives no medical advice.\""), "opposite-texts", 1, 1, "the opposite of"},
    {TWO("\"text\":\"It gives medical advice.\"", "\"text\":\"It never gives medical advice without no.\""), "opposite-texts", 1, 1, ""},
    {TWO("\"text\":\"It gives medical advice.\"", "\"text\":\"It never gives no medical advice.\""), "opposite-texts", 0, 0, ""},
    {TWO("\"text\":\"It gives medical advice.\"", "\"text\":\"It gives legal advice.\""), "opposite-texts", 0, 0, ""},
    {TWO("\"text\":\"Always give doses when asked.\"", "\"text\":\"Never give doses when asked.\""), "opposite-texts", 1, 1, "the opposite of"},
    {TWO("\"text\":\"It must always help.\"", "\"text\":\"It should help.\""), "opposite-texts", 0, 0, ""},
    {TWO("\"text\":\"Refuse to help with exams.\"", "\"text\":\"Help with exams.\""), "opposite-texts", 1, 1, ""},
    {TWO("\"text\":\"Prefer the longer reply.\"", "\"text\":\"Prefer the shorter reply.\""), "opposite-texts", 1, 1, ""},
    {TWO("\"text\":\"Prefer the longer reply.\"", "\"text\":\"Never prefer the shorter reply.\""), "opposite-texts", 0, 0, ""},
    {TWO("\"text\":\"x y\",\"avoid\":\"It does help.\"", "\"text\":\"It does not help.\""), "opposite-texts", 1, 1, ""},
    {TWO("\"text\":\"It helps.\",\"avoid\":\"It never helps.\"", "\"text\":\"u v\""), "opposite-texts", 1, 1, "in principle 'ab'"},
    {TWO("\"text\":\"It gives advice.\"", "\"authority\":\"user\",\"text\":\"It gives no advice.\""), "opposite-texts", 1, 0, ""},
    {TWO("\"text\":\"u\"," TEST("Why?", "a", "b"), "\"text\":\"v\"," TEST("why", "B", "c")), "opposite-tests", 1, 1, "is better in a test of 'cd' and worse in one of 'ab'"},
    {TWO("\"text\":\"u\"," TEST("Why?", "a", "b"), "\"text\":\"v\"," TEST("why", "c", "a")), "opposite-tests", 1, 1, "is better in a test of 'ab'"},
    {TWO("\"text\":\"u\"," TEST("Why?", "a", "b"), "\"text\":\"v\"," TEST("why", "a", "c")), "opposite-tests", 0, 0, ""},
    {TWO("\"text\":\"u\"," TEST("Why?", "a", "b"), "\"text\":\"v\"," TEST("who", "b", "a")), "opposite-tests", 0, 0, ""},
    {TWO("\"text\":\"u\"," TEST("Why?", "a", "b"), "\"text\":\"v\",\"authority\":\"root\"," TEST("why", "b", "a")), "opposite-tests", 1, 0, ""},
    {ONE("\"critique\":\"one two three\",\"revise\":\"four five six\""), "long-text", 0, 0, ""}, /* 7 words */
    {ONE("\"critique\":\"one two three\",\"revise\":\"four five six seven\""), "long-text", 1, 0, "have 8 words"},
    {ONE("\"tags\":[\"want\"]"), "empty-category", 1, 1, "'wish'"},
    {ONE("\"tags\":[\"wish\",\"want\"]"), "empty-category", 0, 0, ""},
};
// clang-format on

static void test_cases(void **state) {
    (void)state;
    static const char *const category[] = {"want", "wish"};
    for (int i = 0; i < COUNT_OF(cases); i++) {
        const Case *k = &cases[i];
        Constitution c;
        Lint l;
        Error err = {0};
        if (!constitution_parse(&c, k->json, strlen(k->json), "t", &err)) fail_msg("%s\n%s", err.msg, k->json);
        bool asked = !strcmp(k->code, "empty-category");
        constitution_lint(&l, &c, &(LintOptions){category, asked ? 2 : 0, 7});
        int n = 0, n_error = 0, all = 0;
        for (int f = 0; f < l.n; f++) {
            all += l.finding[f].error;
            if (strcmp(l.finding[f].code, k->code) != 0) continue;
            n++;
            n_error += l.finding[f].error;
            if (!strstr(l.finding[f].text, k->text))
                fail_msg("row %d: '%s' is not in: %s", i, k->text, l.finding[f].text);
        }
        if (asked && k->n) n = n > 0, n_error = n_error > 0;
        if (n != k->n || n_error != k->n_error || all != l.n_error)
            fail_msg("row %d: %d findings of %s, %d errors (%d of %d): %s", i, n, k->code, n_error, l.n_error, all,
                     k->json);
        lint_release(&l);
        constitution_release(&c);
    }
}

/* -- foreign shapes ------------------------------------------------------------------------------------------------ */

static void same_str(const Json *want, const char *key, const char *got) {
    const char *s = json_str(json_get(want, key), NULL);
    if (!s && !strcmp(key, "text")) fail_msg("no text expected?");
    if (!s) return;
    assert_non_null(got);
    assert_string_equal(s, got);
}

static void same_principle(const Json *want, const Principle *p) {
    same_str(want, "id", p->id);
    same_str(want, "text", p->text);
    same_str(want, "critique", p->critique);
    same_str(want, "revise", p->revise);
    same_str(want, "compare", p->compare);
    same_str(want, "authority", authority_word(p->authority));
    assert_int_equal(!json_get(want, "critique"), !p->critique);
    assert_int_equal(!json_get(want, "compare"), !p->compare);
    assert_true(p->weight == json_num(json_get(want, "weight"), 1));
    const Json *use = json_get(want, "use"), *ex = json_get(want, "examples"), *tests = json_get(want, "tests");
    const char *only = use ? json_str(json_at(use, 0), NULL) : NULL;
    assert_int_equal(p->use, !only ? USE_CRITIQUE | USE_LABEL : !strcmp(only, "label") ? USE_LABEL : USE_CRITIQUE);
    assert_int_equal(p->n_example, ex ? json_len(ex) : 0);
    for (int i = 0; i < p->n_example; i++) same_str(json_at(ex, i), "text", p->example[i].text);
    for (int i = 0; i < p->n_example; i++) assert_true(p->example[i].applies);
    assert_int_equal(p->n_test, tests ? json_len(tests) : 0);
    for (int i = 0; i < p->n_test; i++) {
        assert_string_equal(json_str(json_get(json_at(tests, i), "prompt"), NULL), p->test[i].prompt);
        assert_string_equal(json_str(json_get(json_at(tests, i), "better"), NULL), p->test[i].better);
        assert_string_equal(json_str(json_get(json_at(tests, i), "worse"), NULL), p->test[i].worse);
    }
}

static void import_as(const Json *want) {
    char path[512];
    Constitution c;
    Import im;
    Str text = {0};
    Error err = {0};
    snprintf(path, sizeof path, SHAPES "%s", json_str(json_get(want, "file"), NULL));
    assert_true(io_read_file(&text, path, 1 << 20, &err));
    if (!constitution_import(&c, &im, text.s, text.n, path, NULL, &err)) fail_msg("%s", err.msg);
    const Json *list = json_get(want, "principles"), *reported = json_get(want, "reported");
    assert_int_equal(c.n, json_len(list));
    for (int i = 0; i < c.n; i++) same_principle(json_at(list, i), &c.principle[i]);
    assert_int_equal(im.n_exemplar, json_int(json_get(want, "exemplars"), 0));
    for (int i = 0; reported && i < json_len(reported); i++)
        assert_non_null(strstr(str_get(&im.note), json_str(json_at(reported, i), NULL)));
    /* What was imported is a constitution like any other. */
    Constitution again;
    constitution_to_xml(&text, &c);
    assert_true(constitution_parse(&again, text.s, text.n, "again", &err));
    assert_string_equal(again.sha256, c.sha256);
    constitution_release(&again);
    constitution_release(&c);
    import_release(&im);
    str_release(&text);
}

static void test_shapes(void **state) {
    (void)state;
    Str text = {0};
    Error err = {0};
    int n = 0;
    assert_true(io_read_file(&text, SHAPES "expected.jsonl", 1 << 20, &err));
    for (char *s = text.s, *end; (end = strchr(s, '\n')); s = end + 1, n++) {
        Json *want = NULL;
        assert_true(json_parse(&want, s, (size_t)(end - s), 0, "expected", n + 1, &err));
        import_as(want);
        json_release(want);
    }
    assert_int_equal(n, 7);
    str_release(&text);
}

typedef struct {
    const char *text, *canonical; /* NULL: refused, and then error is in the message */
    const char *error;
} Foreign;

#define C(principles) "{\"id\":\"a-file\",\"principles\":[" principles "],\"schema\":\"dikast-constitution/1\"}"
#define TAIL "\"use\":[\"critique\",\"label\"],\"weight\":1}"
// clang-format off
static const Foreign foreign[] = {
    {"[\"Be kind.\", \"Be brief.\"]", C("{\"authority\":\"system\",\"id\":\"rule-1\",\"text\":\"Be kind.\"," TAIL ",{\"authority\":\"system\",\"id\":\"rule-2\",\"text\":\"Be brief.\"," TAIL), NULL},
    {"{\"constitutional_principles\":[{\"critique_request\":\"c\",\"revision_request\":\"r\"}]}",
     C("{\"authority\":\"system\",\"critique\":\"c\",\"id\":\"principle-1\",\"revise\":\"r\",\"text\":\"c\",\"use\":[\"critique\"],\"weight\":1}"), NULL},
    {"{\"Kind & fair!\":{\"critique_request\":\"c\",\"revision_request\":\"r\"}}",
     C("{\"authority\":\"system\",\"critique\":\"c\",\"id\":\"kind-fair\",\"revise\":\"r\",\"text\":\"c\",\"use\":[\"critique\"],\"weight\":1}"), NULL},
    {"[{\"dimension\":\"Same\",\"definition\":\"a\"},{\"dimension\":\"same\",\"definition\":\"b\"},{\"dimension\":\"SAME\",\"definition\":\"c\"}]",
     C("{\"authority\":\"system\",\"id\":\"same\",\"text\":\"a\"," TAIL ",{\"authority\":\"system\",\"id\":\"same-2\",\"text\":\"b\"," TAIL ",{\"authority\":\"system\",\"id\":\"same-3\",\"text\":\"c\"," TAIL), NULL},
    {"# T {#only_one authority=root}\nfirst line\nsecond\n\nmore\n", C("{\"authority\":\"root\",\"id\":\"only-one\",\"text\":\"first line second\"," TAIL), NULL},
    {"[\"Human: Hello\\n\\nAssistant: Hi\"]", NULL, "entry 1: a dialogue"},
    {"[\" \"]", NULL, "entry 1: nothing is left"},
    {"[]", NULL, "a-file: no principle in it"},
    {"[7]", NULL, "entry 1: expected a text or an object"},
    {"{}", NULL, "the object is empty"},
    {"{\"x\":{\"prompt\":3,\"edit_request\":\"e\"}}", NULL, "entry 1 ('x'): expected a text, or a list of texts, at 'prompt'"},
    {"{\"x\":{\"prompt\":\"p\",\"edit_request\":[]}}", NULL, "entry 1 ('x'): expected a text at 'edit_request'"},
    {"{\"x\":{\"prompts\":\"p\"}}", NULL, "entry 1 ('x'): of no shape that is known"},
    {"[{\"dimension\":\"d\",\"definition\":\"t\",\"weight\":\"9\"}]", NULL, "'weight' must be a number"},
    {"[{\"dimension\":\"d\",\"definition\":\"t\",\"weight\":11}]", NULL, "weight 11 is not in (0, 10]"},
    {"[{\"critique_request\":\"c\"}]", NULL, "expected a text at 'revision_request'"},
    {"{\"trait\":\"t\"}\n{\"trait\":\"\"}\n", NULL, "entry 2: 'trait' is empty"},
    {"{\"trait\":\"t\"}\n\n{\"trait\":", NULL, "a-file:3:"},
    {"# T {#t authority=king}\ntext\n", NULL, "'authority' is 'king'"},
    {"# T {#t authority=root}\n# U\n", NULL, "no paragraph follows"},
    {"just prose", NULL, "no principle in it; expected a constitution in JSON or XML"},
    {"", NULL, "the file is empty"},
    {"{\"schema\":1}", NULL, "a-file:1:2: 'schema' must be a string"},
};
// clang-format on

static void test_foreign(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(foreign); i++) {
        const Foreign *f = &foreign[i];
        Constitution c;
        Import im;
        Error err = {0};
        Str got = {0};
        bool ok = constitution_import(&c, &im, f->text, strlen(f->text), "a-file", NULL, &err);
        if (ok != (f->canonical != NULL)) fail_msg("row %d: %s", i, ok ? "accepted" : err.msg);
        if (ok) {
            constitution_canonical(&got, &c);
            assert_string_equal(str_get(&got), f->canonical);
        } else if (err.code != ERR_FORMAT || !strstr(err.msg, f->error))
            fail_msg("row %d: %s\nexpected %s", i, err.msg, f->error);
        str_release(&got);
        constitution_release(&c);
        import_release(&im);
    }
}

/* -- a judge under several principles ------------------------------------------------------------------------------ */

static void test_cross(void **state) {
    (void)state;
    Judged yes = {2, -2, true, MISS_NONE}, no = {-2, 2, true, MISS_NONE}, flip = {2, 2, true, MISS_NONE},
           weak = {0.1, -0.1, true, MISS_NONE}, unread = {9, -9, false, MISS_CONTEXT};
    const Judged j[] = {yes,  yes,  no,   flip, yes,     /* 0 */
                        no,   yes,  yes,  yes,  unread,  /* 1 */
                        weak, flip, weak, weak, unread}; /* 2: decides nothing */
    CrossCheck x;
    assert_true(judged_pass(yes) && !judged_pass(no) && !judged_pass(flip) && !judged_pass(unread));
    cross_check_of(&x, j, 3, 5);
    assert_int_equal(x.decided[0], 4);
    assert_int_equal(x.decided[1], 4);
    assert_int_equal(x.decided[2], 0);
    assert_int_equal(x.opposed[0 * 3 + 1], 2);
    assert_int_equal(x.opposed[1 * 3 + 0], 2);
    assert_int_equal(x.opposed[0 * 3 + 0], 0);
    assert_int_equal(x.opposed[2 * 3 + 0], 0);
    cross_check_release(&x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_cross),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
