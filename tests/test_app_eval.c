// layer: app
/* dikast eval: every number lm-evaluation-harness 0.4.13 gave for two models and documents of ours (tests/golden/eval,
 * written by tests/peers/lmeval_items.py), whatever the number of threads; gates, outputs, errors. */
#define DIR "app_eval_test.d"
#include "cli_help.h"

#include "base/hash.h"

#include <math.h>

#define GOLDEN TEST_DIR "/golden/eval"
#define DATA " --data " GOLDEN "/data -q"

static const char *const tasks[] = {"l_mmlu",       "l_hellaswag", "l_truthfulqa_mc1", "l_truthfulqa_mc2",
                                    "l_arc",        "l_arc_3shot", "l_arc_2own",       "l_piqa",
                                    "l_winogrande", "l_boolq",     "l_openbookqa",     "l_lambada"};

static char *line_for(const char *kind, const char *flags) {
    Str line = {0};
    str_printf(&line, "eval " GOLDEN "/%s", kind);
    for (int i = 0; i < COUNT_OF(tasks); i++) str_printf(&line, " " GOLDEN "/tasks/%s.yaml", tasks[i]);
    str_printf(&line, DATA " %s", flags);
    return str_detach(&line);
}

static Json *read_json(const char *path) {
    Json *j = NULL;
    Error err = {0};
    OK(json_read_file(&j, path, 0, &err));
    return j;
}

/* -- items ----------------------------------------------------------------------------------------------------------
 */

/* An item's line by (task, doc_id, idx); NULL: there is none. */
static const char *key_of(Str *out, const Json *j) {
    str_clear(out);
    str_printf(out, "%s %d %d", member(j, "task"), (int)json_int(json_get(j, "doc_id"), -1),
               (int)json_int(json_get(j, "idx"), -1));
    return out->s;
}

typedef struct {
    Json **row;
    int n;
} Lines;

static Lines read_lines(const char *path) {
    Lines l = {0};
    LineReader *r = NULL;
    Error err = {0};
    const char *line;
    size_t n;
    OK(lines_open(&r, path, 1 << 24, &err));
    while (lines_next(r, &line, &n, &err)) {
        l.row = mem_grow(l.row, (size_t)(l.n + 1) * sizeof(Json *));
        OK(json_parse(&l.row[l.n], line, n, 0, path, l.n + 1, &err));
        l.n++;
    }
    lines_close(r);
    return l;
}

static void lines_release(Lines *l) {
    for (int i = 0; i < l->n; i++) json_release(l->row[i]);
    free(l->row);
}

static void compare_items(const char *kind) {
    char hex[65];
    int hits = 0;
    Str path = {0}, a = {0}, b = {0}, text = {0};
    str_printf(&path, GOLDEN "/%s/items.jsonl", kind);
    Lines want = read_lines(path.s), got = read_lines(DIR "/out/items.jsonl");
    assert_int_equal(got.n, want.n);
    for (int i = 0; i < want.n; i++) {
        const Json *w = want.row[i], *g = NULL;
        key_of(&a, w);
        for (int k = 0; k < got.n && !g; k++)
            if (!strcmp(key_of(&b, got.row[k]), a.s)) g = got.row[k];
        if (!g) fail_msg("%s: no item %s", kind, a.s);
        size_t n;
        const char *cont = json_str(json_get(g, "cont"), &n);
        str_clear(&text);
        str_put(&text, member(g, "ctx"));
        str_putc(&text, 0);
        str_putn(&text, cont, n);
        sha256_hex(hex, text.s, text.n);
        if (strncmp(hex, member(w, "prompt"), 16) != 0)
            fail_msg("%s: %s: another prompt: %s|%s", kind, a.s, member(g, "ctx"), cont);
        double ll = json_num(json_get(g, "ll"), NAN), ref = json_num(json_get(w, "ll"), NAN);
        if (!(fabs(ll - ref) <= 1e-4)) fail_msg("%s: %s: ll %.9g, expected %.9g", kind, a.s, ll, ref);
        assert_int_equal(json_bool(json_get(g, "greedy"), false), json_bool(json_get(w, "greedy"), true));
        hits += json_bool(json_get(g, "greedy"), false);
    }
    assert_in_range(hits, 1, want.n - 1);
    lines_release(&want);
    lines_release(&got);
    str_release(&path);
    str_release(&a);
    str_release(&b);
    str_release(&text);
}

static double metric_in(const Json *results, const char *task, const char *metric) {
    const Json *list = json_get(results, "results");
    for (int i = 0; i < json_len(list); i++)
        if (!strcmp(member(json_at(list, i), "task"), task))
            return json_num(json_get(json_get(json_at(list, i), "metrics"), metric), NAN);
    return NAN;
}

static void compare_metrics(const char *kind) {
    Str path = {0};
    str_printf(&path, GOLDEN "/%s/metrics.json", kind);
    Json *want = read_json(path.s), *got = read_json(DIR "/out/results.json");
    assert_string_equal(member(got, "schema"), "dikast-eval/1");
    assert_string_equal(member(got, "status"), "done");
    assert_true(json_len(want) > 30);
    for (int i = 0; i < json_len(want); i++) {
        const Json *w = json_at(want, i);
        const char *task = member(w, "task"), *metric = member(w, "metric");
        double ref = json_num(json_get(w, "value"), NAN), v = metric_in(got, task, metric);
        bool smooth =
            strstr(metric, "perplexity") || !strcmp(task, "l_truthfulqa_mc2"); /* a function of the likelihoods */
        if (!(fabs(v - ref) <= (smooth ? 1e-4 : 1e-12) * fmax(1, fabs(ref))))
            fail_msg("%s: %s %s: %.12g, expected %.12g", kind, task, metric, v, ref);
    }
    json_release(want);
    json_release(got);
    str_release(&path);
}

static void test_harness(void **state) {
    (void)state;
    static const char *const kind[] = {"bytelevel", "sentencepiece"};
    Error err = {0};
    for (int k = 0; k < 2; k++) {
        Str items[2] = {{0}, {0}};
        static const char *const flags[] = {"--out " DIR "/out --threads 1", "--out " DIR "/out --threads 3"};
        for (int t = 0; t < 2; t++) {
            char *line = line_for(kind[k], flags[t]);
            Ran r = run(line);
            expect_code(&r, line, 0);
            ran_release(&r);
            free(line);
            OK(io_read_file(&items[t], DIR "/out/items.jsonl", 1 << 24, &err));
        }
        assert_string_equal(items[0].s, items[1].s);
        compare_items(kind[k]);
        compare_metrics(kind[k]);
        str_release(&items[0]);
        str_release(&items[1]);
    }
}

/* -- gates, outputs, errors -----------------------------------------------------------------------------------------
 */

#define PIQA "eval " GOLDEN "/bytelevel " GOLDEN "/tasks/l_piqa.yaml" DATA

static void put_file(const char *path, const char *text) {
    Error err = {0};
    OK(io_write_file(path, text, strlen(text), &err));
}

static void expect_run(const char *line, int code, const char *out, const char *said) {
    Ran r = run(line);
    expect_code(&r, line, code);
    if (out) expect_holds(&r.out, out);
    if (said) expect_holds(&r.err, said);
    ran_release(&r);
}

static void test_gates(void **state) {
    (void)state;
    put_file(DIR "/met.yaml", "gates: [\"l_piqa.acc >= 0\", \"l_piqa.acc <= l_piqa.acc + 0.1\", \"l_piqa.n >= 4\"]\n");
    put_file(DIR "/missed.yaml", "gates: [\"l_piqa.acc >= 0\", \"l_piqa.acc > 1\"]\n");
    put_file(DIR "/strange.yaml", "gates: [\"l_piqa.blue >= 0\"]\n");
    put_file(DIR "/none.yaml", "gates: []\n");
    put_file(DIR "/typo.yaml", "gate: [\"l_piqa.acc >= 0\"]\n");
    expect_run(PIQA " --gate " DIR "/met.yaml", 0, "l_piqa", NULL);
    expect_run(PIQA " --gate " DIR "/missed.yaml --out " DIR "/gated", 6, "l_piqa", "1 of 2 gates missed");
    Json *j = read_json(DIR "/gated/results.json"); /* a missed gate is a result too */
    assert_string_equal(member(j, "status"), "gate");
    assert_int_equal(json_len(json_get(j, "gates")), 2);
    assert_false(json_bool(json_get(json_at(json_get(j, "gates"), 1), "ok"), true));
    json_release(j);
    const char *line = PIQA " --json --gate " DIR "/missed.yaml";
    Ran r = run(line);
    expect_code(&r, line, 6);
    j = one_object(&r, line);
    assert_int_equal(json_int(json_get(j, "code"), -1), 6);
    assert_true(metric_in(j, "l_piqa", "acc") >= 0);
    json_release(j);
    ran_release(&r);
    expect_run(PIQA " --gate " DIR "/strange.yaml", 2, NULL, "a metric 'l_piqa.blue'");
    expect_run(PIQA " --gate " DIR "/none.yaml", 2, NULL, "no gates");
    expect_run(PIQA " --gate " DIR "/typo.yaml", 2, NULL, "did you mean 'gates'");
    expect_run(PIQA " --gate " DIR "/typo.yaml", 2, NULL, "Its keys: gates.");
    put_file(DIR "/slip.yaml", "gates: [\"l_piqa.acc >= 1x\"]\n");
    /* Before anything is opened or scored. */
    expect_run("eval " DIR "/nowhere " GOLDEN "/tasks/l_piqa.yaml" DATA " --gate " DIR "/slip.yaml", 2, NULL,
               "something unexpected at column");
    expect_run(PIQA " --gate " DIR "/absent.yaml", 2, NULL, "absent.yaml");
}

static void test_flags(void **state) {
    (void)state;
    const char *line = PIQA " --json --limit 2 --shots 1";
    Ran r = run(line);
    expect_code(&r, line, 0);
    Json *j = one_object(&r, line);
    const Json *one = json_at(json_get(j, "results"), 0);
    assert_int_equal(json_int(json_get(one, "n"), -1), 2);
    assert_int_equal(json_int(json_get(one, "shots"), -1), 1);
    assert_int_equal(strlen(member(j, "weights")), 32);
    json_release(j);
    ran_release(&r);
    expect_run("eval " GOLDEN "/bytelevel piqa --tasks " TEST_DIR "/../conf/tasks" DATA, 0, "piqa", NULL);
    expect_run("eval " GOLDEN "/bytelevel pica --tasks " TEST_DIR "/../conf/tasks" DATA, 2, NULL, "no task 'pica'");
    expect_run("eval " GOLDEN "/bytelevel piqa piqa --tasks " TEST_DIR "/../conf/tasks" DATA, 2, NULL,
               "a second task with the name 'piqa'");
    expect_run(PIQA " shots.m=1", 2, NULL, "did you mean 'shots.n'");
    expect_run(PIQA " --limit -1", 2, NULL, "--limit must lie in");
    expect_run("eval " PM " " GOLDEN "/tasks/l_piqa.yaml" DATA, 2, NULL, "scoring model");
    expect_run("eval " GOLDEN "/bytelevel", 2, NULL, "an argument is missing");
    put_file(DIR "/choice.jsonl",
             "{\"prompt\":\"q\",\"choices\":[\"x\"],\"gold\":0}\n{\"prompt\":\"q\",\"choices\":[\"\"],\"gold\":0}\n");
    expect_run("eval " MODEL " choice --tasks " TEST_DIR "/../conf/tasks --data " DIR " delimiter=", 3, NULL,
               "choice: document 1, request 0: no token of its own is left for the continuation");
    /* Longer than the context: cut on the left, and said so. */
    line = "eval " MODEL " " GOLDEN "/tasks/l_mmlu.yaml --json --data " GOLDEN "/data";
    r = run(line);
    expect_code(&r, line, 0);
    expect_holds(&r.err, "tokens cut off on the left");
    j = one_object(&r, line);
    assert_true(json_int(json_get(json_at(json_get(j, "inputs"), 0), "tokens_cut"), 0) > 0);
    json_release(j);
    ran_release(&r);
}

static int setup(void **state) {
    (void)state;
    Error err = {0};
    io_remove_tree(DIR, &err);
    OK(io_make_dirs(DIR, &err));
    make_models();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    Error err = {0};
    return io_remove_tree(DIR, &err) ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_harness), cmocka_unit_test(test_gates),
                                       cmocka_unit_test(test_flags)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
