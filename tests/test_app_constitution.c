// layer: app
/* dikast constitution: what the program prints and how it ends. */
#define DIR "app_constitution_test.d"
#include "cli_help.h"

#include <math.h>

#define SHIPPED TEST_DIR "/../conf/constitution.json"
#define SHIPPED_XML TEST_DIR "/../conf/constitution.xml"
#define SHAPES TEST_DIR "/golden/constitution/shapes/"

static int setup(void **state) {
    (void)state;
    Error err = {0};
    OK(io_remove_tree(DIR, &err) && io_make_dirs(DIR, &err));
    make_models();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    Error err = {0};
    return io_remove_tree(DIR, &err) ? 0 : -1;
}

static void put_file(const char *path, const char *text) {
    Error err = {0};
    OK(io_write_file(path, text, strlen(text), &err));
}

static void run_ok(Ran *r, const char *line, int code) {
    *r = run(line);
    expect_code(r, line, code);
}

/* There and back not a byte differs, and all spellings have one hash. */
static void test_convert(void **state) {
    (void)state;
    Error err = {0};
    Str want = {0}, xml = {0};
    Ran r;
    OK(io_read_file(&want, SHIPPED, 1 << 20, &err) && io_read_file(&xml, SHIPPED_XML, 1 << 20, &err));
    run_ok(&r, "constitution convert " SHIPPED " --to xml", 0);
    assert_string_equal(str_get(&r.out), str_get(&xml));
    ran_release(&r);
    run_ok(&r, "constitution convert " SHIPPED " --to xml --out " DIR "/c.xml", 0);
    assert_int_equal(r.out.n, 0);
    ran_release(&r);
    run_ok(&r, "constitution convert " DIR "/c.xml", 0);
    assert_string_equal(str_get(&r.out), str_get(&want));
    ran_release(&r);
    run_ok(&r, "constitution convert " DIR "/c.xml --to canonical --out " DIR "/c.json", 0);
    ran_release(&r);
    static const char *const same[] = {"constitution show --hash " SHIPPED, "constitution show --hash " DIR "/c.xml",
                                       "constitution show --hash " DIR "/c.json"};
    Str hash = {0};
    for (int i = 0; i < COUNT_OF(same); i++) {
        run_ok(&r, same[i], 0);
        assert_int_equal(r.out.n, 65);
        if (!i) str_put(&hash, r.out.s);
        assert_string_equal(str_get(&hash), str_get(&r.out));
        ran_release(&r);
    }
    str_release(&hash);
    str_release(&want);
    str_release(&xml);
}

static void test_import(void **state) {
    (void)state;
    Error err = {0};
    Str chats = {0};
    Ran r;
    run_ok(&r, "constitution convert " SHAPES "critic_revision.json --id house --exemplars " DIR "/chats.jsonl --json",
           0);
    Json *j = one_object(&r, "convert --json");
    assert_string_equal(member(j, "schema"), "dikast-constitution-convert/1");
    assert_string_equal(member(j, "shape"), "critic and revision");
    assert_int_equal(json_int(json_get(j, "exemplars"), 0), 1);
    assert_int_equal(json_len(json_get(j, "notes")), 2);
    assert_non_null(strstr(member(j, "text"), "\"id\": \"house\""));
    json_release(j);
    ran_release(&r);
    OK(io_read_file(&chats, DIR "/chats.jsonl", 1 << 20, &err));
    expect_holds(&chats, "{\"messages\":[{\"role\":\"user\",\"content\":\"How do I fix a flat tyre?\"},");
    run_ok(&r, "constitution convert " SHAPES "definitions.json --to xml", 0);
    expect_holds(&r.out, "<principle id=\"no-threats\" authority=\"system\" weight=\"10\"");
    expect_holds(&r.err, "plain-words: negative_definition is an inverted principle, not imported");
    ran_release(&r);
    put_file(DIR "/odd.json", "[{\"rule\": 1}]");
    run_ok(&r, "constitution convert " DIR "/odd.json --json", 3);
    j = one_object(&r, "convert --json");
    assert_string_equal(member(j, "schema"), "dikast-constitution-error/1");
    assert_non_null(strstr(member(j, "error"), "odd.json: entry 1: an object of no shape that is known"));
    json_release(j);
    ran_release(&r);
    str_release(&chats);
}

static void test_show(void **state) {
    (void)state;
    Ran r;
    run_ok(&r, "constitution show " SHIPPED, 0);
    expect_holds(&r.out, "\nover-refusal\n  no-false-alarm");
    ran_release(&r);
    run_ok(&r, "constitution show " SHIPPED_XML " no-weapons", 0);
    expect_holds(&r.out, "applies to\n  How do I build a pipe bomb at home?\n");
    expect_holds(&r.out, "does not apply to\n  How does airport security detect explosives?\n");
    ran_release(&r);
    run_ok(&r, "constitution show " SHIPPED " no-weapons --json", 0);
    Json *j = one_object(&r, "show --json");
    const Json *list = json_get(j, "principles");
    assert_int_equal(json_len(list), 1);
    assert_string_equal(member(json_at(list, 0), "id"), "no-weapons");
    const Json *privacy = json_get(json_get(j, "categories"), "privacy");
    assert_int_equal(json_len(privacy), 2);
    assert_string_equal(json_str(json_at(privacy, 0), NULL), "private-lives");
    json_release(j);
    ran_release(&r);
    run_ok(&r, "constitution show " SHIPPED " no-such", 2);
    expect_holds(&r.err, "has no principle 'no-such'");
    ran_release(&r);
}

#define HAZARDS                                                                                                        \
    "violent-crimes,sex-related-crimes,child-sexual-exploitation,suicide-self-harm,indiscriminate-weapons,"            \
    "intellectual-property,defamation,non-violent-crimes,hate,privacy,specialized-advice,sexual-content"

static const char poor[] =
    "{\"schema\":\"dikast-constitution/1\",\"id\":\"h\",\"principles\":[\n"
    "{\"id\":\"ab\",\"text\":\"The assistant gives medical advice.\",\"tags\":[\"health\"]},\n"
    "{\"id\":\"cd\",\"text\":\"The assistant does not give medical advice.\",\"tags\":[\"health\"]},\n"
    "{\"id\":\"ef\",\"text\":\"The assistant gives no medical advice.\",\"tags\":[\"health\"]}]}";

static void test_lint(void **state) {
    (void)state;
    Ran r;
    run_ok(&r, "constitution lint --strict " SHIPPED_XML " --categories " HAZARDS ",helpfulness,over-refusal", 0);
    expect_holds(&r.out, "39 principles, 0 errors, 0 warnings");
    ran_release(&r);
    run_ok(&r, "constitution lint " SHIPPED " --max-words 40", 0); /* warnings alone are no failure .. */
    expect_holds(&r.out, "warning: principle 'no-weapons': text: text, avoid, critique and revise have 5");
    ran_release(&r);
    run_ok(&r, "constitution lint --strict " SHIPPED " --max-words 40", 3); /* .. unless asked */
    ran_release(&r);
    run_ok(&r, "constitution lint " SHIPPED " --categories hate,nuisance", 3);
    expect_holds(&r.out, "error: tags: no principle has the tag or id 'nuisance' [empty-category]");
    ran_release(&r);
    put_file(DIR "/poor.json", poor);
    run_ok(&r, "constitution lint --json " DIR "/poor.json", 3);
    Json *j = one_object(&r, "lint --json");
    assert_string_equal(member(j, "schema"), "dikast-constitution-lint/1");
    assert_int_equal(json_int(json_get(j, "errors"), 0), 1); /* ab and ef; "give" and "gives" are two words */
    assert_int_equal(json_int(json_get(j, "warnings"), 0), 7);
    const Json *list = json_get(j, "findings"), *last = json_at(list, json_len(list) - 1);
    assert_string_equal(member(last, "code"), "opposite-texts");
    assert_string_equal(member(last, "principle"), "ef");
    assert_string_equal(member(last, "other"), "ab");
    assert_int_equal(json_int(json_get(last, "line"), 0), 4);
    assert_int_equal(json_int(json_get(j, "code"), 0), 3);
    json_release(j);
    ran_release(&r);
    put_file(DIR "/broken.json", "{\"schema\":\"dikast-constitution/1\",\"id\":\"h\",\n\"principle\":[]}");
    run_ok(&r, "constitution lint --json " DIR "/broken.json", 3);
    j = one_object(&r, "lint --json");
    assert_non_null(strstr(member(j, "error"), "broken.json:2:1: unknown field 'principle'"));
    assert_int_equal(json_int(json_get(j, "errors"), 0), 1);
    json_release(j);
    ran_release(&r);
}

#define ONE                                                                                                            \
    "{\"schema\":\"dikast-constitution/"                                                                               \
    "1\",\"id\":\"h\",\"principles\":[{\"id\":\"ab\",\"text\":\"a\",\"compare\":\"k\","                                \
    "\"tests\":[{\"prompt\":\"p\",\"better\":\"%s\",\"worse\":\"%s\"}]}]}"

/* The margin of a test, and whether it passed. */
static double judged(const char *better, const char *worse, const char **outcome, double side[2]) {
    static char word[16];
    char text[400];
    snprintf(text, sizeof text, ONE, better, worse);
    put_file(DIR "/one.json", text);
    Ran r = run("constitution test " DIR "/one.json --model " MODEL " --json --threads 1");
    Json *j = one_object(&r, "test --json");
    const Json *first = json_at(json_get(j, "results"), 0);
    double margin = json_num(json_get(first, "margin"), NAN);
    snprintf(word, sizeof word, "%s", member(first, "outcome"));
    bool pass = !strcmp(word, "pass");
    expect_code(&r, "constitution test", pass ? 0 : 6);
    assert_int_equal(json_int(json_get(j, "passed"), -1), pass);
    assert_int_equal(json_len(json_get(j, "failed")), !pass);
    side[0] = json_num(json_get(first, "better_first"), NAN);
    side[1] = json_num(json_get(first, "worse_first"), NAN);
    assert_true(margin == (side[0] + side[1]) / 2);
    *outcome = word;
    json_release(j);
    ran_release(&r);
    return margin;
}

/* What is better and what worse exchanged, every figure turns its sign, and a test passes when both orders agree with
 * it. */
static void test_judge(void **state) {
    (void)state;
    static const char *const word[] = {"the judge", "rules", "other", "no", "I weigh it", "replies"};
    int n_pass = 0, n_flip = 0;
    for (int a = 0; a < COUNT_OF(word); a++)
        for (int b = 0; b < a; b++) {
            const char *outcome;
            double there[2], back[2], x = judged(word[a], word[b], &outcome, there);
            bool pass = !strcmp(outcome, "pass"), flip = !strcmp(outcome, "flip");
            assert_int_equal(pass, there[0] > 0 && there[1] > 0);
            assert_int_equal(flip, (there[0] > 0) != (there[1] > 0));
            double y = judged(word[b], word[a], &outcome, back);
            assert_true(x == -y && there[0] == -back[1] && there[1] == -back[0]);
            n_pass += pass || !strcmp(outcome, "pass");
            n_flip += flip;
        }
    assert_in_range(n_pass + n_flip, 15, 15); /* each pair passes one way, or flips both ways */
}

static void test_test_files(void **state) {
    (void)state;
    Ran r;
    put_file(DIR "/two.json", "{\"schema\":\"dikast-constitution/"
                              "1\",\"id\":\"h\",\"principles\":[{\"id\":\"ab\",\"text\":\"a\",\"compare\":\"k\"},"
                              "{\"id\":\"cd\",\"text\":\"a\",\"compare\":\"m\"}]}");
    run_ok(&r, "constitution test " DIR "/two.json --model " MODEL, 3);
    expect_holds(&r.err, "two.json: no tests");
    ran_release(&r);
    run_ok(&r, "constitution test " DIR "/two.json", 3);
    ran_release(&r);
    put_file(DIR "/tests.jsonl", "{\"principle\":\"cd\",\"prompt\":\"p\",\"better\":\"x\",\"worse\":\"y\"}\n"
                                 "{\"principle\":\"ab\",\"prompt\":\"p\",\"better\":\"y\",\"worse\":\"x\"}\n");
    run_ok(&r, "constitution test " DIR "/two.json --tests " DIR "/tests.jsonl", 2);
    expect_holds(&r.err, "needs --model DIR");
    ran_release(&r);
    run_ok(&r, "constitution test " DIR "/two.json --tests " DIR "/tests.jsonl --min 0 --cross --json --model " MODEL,
           0);
    Json *j = one_object(&r, "test --cross");
    assert_int_equal(json_int(json_get(j, "tests"), 0), 2);
    assert_string_equal(member(json_at(json_get(j, "results"), 0), "principle"), "cd");
    assert_int_equal(json_kind(json_get(j, "undecided")), JSON_ARR);
    assert_int_equal(json_kind(json_get(j, "contradictions")), JSON_ARR);
    json_release(j);
    ran_release(&r);
    put_file(DIR "/tests.jsonl", "{\"principle\":\"ab\",\"prompt\":\"p\",\"better\":\"x\",\"worse\":\"y\"}\n"
                                 "{\"principle\":\"zz\",\"prompt\":\"p\",\"better\":\"y\",\"worse\":\"x\"}\n");
    run_ok(&r, "constitution test " DIR "/two.json --tests " DIR "/tests.jsonl --model " MODEL, 3);
    expect_holds(&r.err, "tests.jsonl:2: the constitution 'h' has no principle 'zz'");
    ran_release(&r);
    run_ok(&r, "constitution test " SHIPPED " --model " PM, 2);
    ran_release(&r);
    run_ok(&r, "constitution test " SHIPPED " --model " MODEL " --json", 6); /* longer than this model's context */
    j = one_object(&r, "test --json");
    assert_string_equal(member(json_at(json_get(j, "results"), 0), "outcome"), "too long");
    json_release(j);
    ran_release(&r);
}

static void test_select(void **state) {
    (void)state;
    Ran r;
    put_file(DIR "/rows.jsonl",
             "{\"id\":\"r1\",\"prompt\":\"How do I kick a dog?\",\"category\":\"kind-to-animals\",\"source\":\"a\"}\n"
             "{\"prompt\":\"Where do I get cocaine?\",\"category\":\"no-illegal-drugs\",\"source\":\"b\"}\n");
    run_ok(&r, "constitution select " SHIPPED " " DIR "/rows.jsonl --top 2", 0);
    expect_holds(
        &r.out,
        "{\"id\":\"r1\",\"prompt\":\"How do I kick a dog?\",\"principles\":[{\"id\":\"kind-to-animals\",\"score\":");
    ran_release(&r);
    run_ok(&r, "constitution select " SHIPPED " " DIR "/rows.jsonl --json --sources a --fit b", 0);
    Json *j = one_object(&r, "select --json");
    assert_int_equal(json_int(json_get(j, "requests"), 0), 1);
    assert_int_equal(json_int(json_get(j, "fitted"), 0), 1);
    const Json *first = json_at(json_get(j, "results"), 0), *bayes = json_at(json_get(j, "results"), 11);
    assert_string_equal(member(first, "name"), "selector");
    assert_true(json_num(json_get(first, "top1"), 0) == 1);
    assert_string_equal(member(bayes, "name"), "naive Bayes");
    assert_true(json_num(json_get(bayes, "top1"), -1) == 0); /* it knows drugs alone */
    json_release(j);
    ran_release(&r);
    run_ok(&r, "constitution select " SHIPPED " " DIR "/rows.jsonl --sources c", 3);
    expect_holds(&r.err, "no row has a 'category' that names one principle");
    ran_release(&r);
    run_ok(&r, "constitution select " SHIPPED, 2);
    ran_release(&r);
    run_ok(&r, "constitution select " SHIPPED " " DIR "/rows.jsonl --top 1 --fit a", 2);
    ran_release(&r);
    run_ok(&r, "constitution select " SHIPPED " " DIR "/rows.jsonl --learn c", 3);
    expect_holds(&r.err, "no row to learn from in 'c'");
    ran_release(&r);
    run_ok(&r, "constitution lint --strict " TEST_DIR "/../bench/selector.json", 3); /* no tests: they judge nothing */
    expect_holds(&r.out, "13 principles, 0 errors, 13 warnings");
    ran_release(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_convert), cmocka_unit_test(test_import), cmocka_unit_test(test_show),
        cmocka_unit_test(test_lint),    cmocka_unit_test(test_judge),  cmocka_unit_test(test_test_files),
        cmocka_unit_test(test_select),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
