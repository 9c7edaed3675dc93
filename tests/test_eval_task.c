// layer: eval
/* Task files: what documents become, byte for byte; what is refused, and how it is said; metrics of known likelihoods.
 */
#include "eval/task.h"

#include "base/io.h"
#include "eval/pytext.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DIR "eval_task_test.d"
#define TASKS TEST_DIR "/../conf/tasks/"

static void write_file(const char *name, const char *text) {
    Error err = {0};
    Str path = {0};
    str_printf(&path, DIR "/%s", name);
    if (!io_make_dirs(DIR, &err) || !io_write_file(path.s, text, strlen(text), &err)) fail_msg("%s", err.msg);
    str_release(&path);
}

/* A task of conf/tasks on documents; set: one override more, or NULL. */
static bool open_task(Task *t, const char *file, const char *data, const char *set, int64_t shots, Str *report,
                      Error *err) {
    const char *sets[] = {"data.test=docs.jsonl", set};
    write_file("docs.jsonl", data);
    return task_open(t, file, sets, set ? 2 : 1, &(TaskOptions){DIR, 0, shots}, report, err);
}

static void ok_task(Task *t, const char *file, const char *data, const char *set, int64_t shots) {
    Str report = {0};
    Error err = {0};
    if (!open_task(t, file, data, set, shots, &report, &err)) fail_msg("%s%s", str_get(&report), err.msg);
    str_release(&report);
}

static void bad_task(const char *file, const char *data, const char *set, ErrorCode code, const char *part) {
    Task t;
    Str report = {0};
    Error err = {0};
    assert_false(open_task(&t, file, data, set, -1, &report, &err));
    str_put(&report, err.msg);
    if (err.code != code || !strstr(report.s, part)) fail_msg("code %d, '%s' is not in: %s", err.code, part, report.s);
    str_release(&report);
}

static void expect(const Task *t, int64_t i, const char *ctx, const char *cont) {
    assert_true(i < t->n_request);
    assert_string_equal(t->request[i].ctx, ctx);
    if (cont) assert_string_equal(t->request[i].cont, cont);
}

/* -- requests -------------------------------------------------------------------------------------------------------
 */

static void test_mmlu(void **state) {
    (void)state;
    Task t;
    write_file(
        "dev.jsonl",
        "{\"question\":\"Who decides "
        "guilt?\",\"subject\":\"criminal_law\",\"choices\":[\"jury\",\"cook\",\"guard\",\"clerk\"],\"answer\":0}\n"
        "{\"question\":\"What pumps "
        "blood?\",\"subject\":\"anatomy\",\"choices\":[\"heart\",\"lung\",\"skin\",\"nail\"],\"answer\":0}\n"
        "{\"question\":\"never a shot\",\"subject\":\"anatomy\",\"choices\":[\"a\",\"b\",\"c\",\"d\"],\"answer\":1}\n");
    static const char data[] =
        "{\"question\":\" Which bone is longest? "
        "\",\"subject\":\"anatomy\",\"choices\":[\"femur\",\"tibia\",\"ulna\",\"radius\"],\"answer\":2}\n"
        "{\"question\":\"Q\",\"subject\":\"criminal_law\",\"choices\":[\"1\",\"2\",\"3\",\"4\"],\"answer\":3}\n";
    ok_task(&t, TASKS "mmlu.yaml", data, "data.shots=dev.jsonl", 1);
    assert_int_equal(t.n_request, 8);
    expect(&t, 0,
           "The following are multiple choice questions (with answers) about anatomy.\n\nWhat pumps blood?\nA. "
           "heart\nB. lung\nC. skin\n"
           "D. nail\nAnswer: A\n\nWhich bone is longest?\nA. femur\nB. tibia\nC. ulna\nD. radius\nAnswer:",
           " A");
    assert_ptr_equal(t.request[0].ctx, t.request[3].ctx); /* shared, so that it is encoded once */
    assert_string_equal(t.request[3].cont, " D");
    expect(&t, 4,
           "The following are multiple choice questions (with answers) about criminal law.\n\nWho decides guilt?\nA. "
           "jury\nB. cook\n"
           "C. guard\nD. clerk\nAnswer: A\n\nQ\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:",
           " A");
    assert_int_equal(t.item[0].answer, 2);
    assert_string_equal(t.leaf[0].name, "mmlu_anatomy");
    assert_string_equal(t.leaf[0].group, "stem");
    assert_string_equal(t.leaf[1].group, ""); /* no subject of the set */
    task_close(&t);
}

static void test_hellaswag(void **state) {
    (void)state;
    Task t;
    ok_task(&t, TASKS "hellaswag.yaml",
            "{\"activity_label\":\"Cooking\",\"ctx_a\":\"[header] How to fry an egg [title] Heat the "
            "pan\",\"ctx_b\":\"éclair First\","
            "\"endings\":[\" Oil it. \",\"Paint it.\",\"[a] Sell it.\",\"Fold   it.\"],\"label\":\"1\"}\n",
            NULL, -1);
    static const char ctx[] = "Cooking: How to fry an egg. Heat the pan Éclair first";
    expect(&t, 0, ctx, " Oil it.");
    expect(&t, 1, ctx, " Paint it.");
    expect(&t, 2, ctx, "  Sell it.");
    expect(&t, 3, ctx, " Fold  it.");
    assert_true(t.item[0].len[2] == 9 && t.item[0].answer == 1);
    task_close(&t);
    Str out = {0};
    static const char odd[] = " a [title][b\nc] [d]]  [title] e [\xC2\xA0";
    py_clean_wikihow(&out, odd, sizeof odd - 1);
    assert_string_equal(out.s, "a. [b\nc] ] . e ["); /* a bracket that a line end stands in stays */
    str_release(&out);
}

static void test_python_text(void **state) {
    (void)state;
    assert_int_equal(py_rstrip("a \t\xE3\x80\x80\xC2\xA0", 8), 1);
    assert_int_equal(py_rstrip("\xC3\xA9", 2), 2);
    assert_int_equal(py_rstrip(" \n", 2), 0);
    assert_int_equal(py_len("é€a", 6), 3);
    assert_int_equal(py_words(" a  b ", 6), 4); /* empty pieces at both ends count */
    assert_int_equal(py_words("", 0), 1);
    assert_int_equal(py_words("a\xE2\x80\xA8"
                              "b",
                              5),
                     2);
}

static void test_others(void **state) {
    (void)state;
    Task t;
    ok_task(&t, TASKS "winogrande.yaml",
            "{\"sentence\":\"Sam gave Tom a book, so the reader is _ _ "
            ".\",\"option1\":\"Sam\",\"option2\":\"Tom\",\"answer\":\"2\"}\n"
            "{\"sentence\":\"_ ran.\",\"option1\":\"A\",\"option2\":\"B\",\"answer\":\"1\"}\n",
            NULL, 1);
    expect(&t, 1, "A ran.\n\nSam gave Tom a book, so the reader is Tom", " _ .");
    expect(&t, 2, "Sam gave Tom a book, so the reader is Tom _ .\n\nA", " ran.");
    assert_true(t.item[0].answer == 1 && t.item[0].n == 2);
    task_close(&t);
    ok_task(&t, TASKS "lambada_openai.yaml", "{\"text\":\"the cat  sat there\"}\n", NULL, -1);
    expect(&t, 0, "the cat  sat", " there");
    task_close(&t);
    ok_task(&t, TASKS "arc_easy.yaml",
            "{\"question\":\"Which?\",\"choices\":{\"text\":[\"a\",\"b "
            "\",\"c\"],\"label\":[\"1\",\"2\",\"3\"]},\"answerKey\":\"2\"}\n",
            NULL, -1);
    expect(&t, 1, "Question: Which?\nAnswer:", " b ");
    assert_true(t.item[0].answer == 1 && t.n_request == 3);
    task_close(&t);
    ok_task(&t, TASKS "truthfulqa_mc2.yaml",
            "{\"question\":\"Why?\",\"mc2_targets\":{\"choices\":[\"x\",\"y\"],\"labels\":[1,0]}}\n", NULL, -1);
    assert_true(t.item[0].label[0] && !t.item[0].label[1]);
    assert_non_null(strstr(t.request[0].ctx, "A: The 1992 Olympics were held in Barcelona, Spain.\n\nQ: Why?\nA:"));
    assert_true(!strncmp(t.request[0].ctx, "Q: What is human life", 21));
    task_close(&t);
    ok_task(&t, TASKS "boolq.yaml", "{\"passage\":\"P\",\"question\":\"is it\",\"label\":true}\n", NULL, -1);
    expect(&t, 1, "P\nQuestion: is it?\nAnswer:", " yes");
    assert_int_equal(t.item[0].answer, 1);
    task_close(&t);
    ok_task(&t, TASKS "openbookqa.yaml",
            "{\"question_stem\":\"Ice\",\"choices\":{\"text\":[\"melts\",\"sings\"],\"label\":[\"A\",\"B\"]},"
            "\"answerKey\":\" B\"}\n",
            NULL, -1);
    expect(&t, 0, "Ice", " melts");
    assert_int_equal(t.item[0].answer, 1);
    task_close(&t);
    ok_task(&t, TASKS "hhh.yaml", "{\"prompt\":\"Better:\",\"corrects\":[\" (B)\"],\"incorrects\":[\" (A)\"]}\n", NULL,
            -1);
    expect(&t, 0, "Better:", " (A)");
    assert_int_equal(t.item[0].answer, 1);
    task_close(&t);
    ok_task(&t, TASKS "rolling.yaml", "{\"text\":\" a b\"}\n", NULL, -1);
    assert_true(t.request[0].cont == NULL && t.item[0].words == 3 && t.item[0].n_bytes == 4);
    task_close(&t);
}

/* Five documents as their own pool: no document is its own example, and examples differ from draw to draw. */
static void test_own_shots(void **state) {
    (void)state;
    Task t;
    Str data = {0};
    for (int i = 0; i < 5; i++)
        str_printf(&data, "{\"prompt\":\"q%d\",\"choices\":[\"x\",\"y\"],\"gold\":%d}\n", i, i % 2);
    ok_task(&t, TASKS "choice.yaml", data.s, NULL, 2);
    bool differ = false;
    for (int i = 0; i < 5; i++) {
        char own[16];
        const char *ctx = t.request[2 * i].ctx;
        snprintf(own, sizeof own, "q%d", i);
        assert_int_equal(strlen(ctx), 2 * 6 + 2); /* "q1 y\n\n" twice, "q0" */
        assert_string_equal(ctx + 12, own);
        assert_null(strstr(ctx, own) == ctx + 12 ? NULL : own);
        differ = differ || strncmp(ctx, t.request[0].ctx, 12) != 0;
    }
    assert_true(differ);
    task_close(&t);
    Str report = {0};
    Error err = {0};
    assert_false(open_task(&t, TASKS "choice.yaml", data.s, NULL, 5, &report, &err));
    assert_non_null(strstr(err.msg, "4 examples to choose from, 5 are needed"));
    str_release(&data);
}

/* -- refusals -------------------------------------------------------------------------------------------------------
 */

static void test_refusals(void **state) {
    (void)state;
    static const char good[] = "{\"prompt\":\"q\",\"choices\":[\"x\",\"y\"],\"gold\":1}\n";
    bad_task(TASKS "choice.yaml", "{\"prompt\":\"q\",\"choices\":[\"x\"]}\n", NULL, ERR_FORMAT,
             "docs.jsonl:1: no column 'gold', which task 'choice' reads");
    bad_task(TASKS "choice.yaml", "{\"prompt\":null,\"choices\":[\"x\"],\"gold\":0}\n", NULL, ERR_FORMAT,
             "null in column 'prompt'");
    bad_task(TASKS "choice.yaml", "{\"prompt\":\"q\",\"choices\":[\"x\",\"y\"],\"gold\":2}\n", NULL, ERR_FORMAT,
             "docs.jsonl:1: task 'choice': the answer is '2', expected 0..1 or the text of a choice");
    bad_task(TASKS "choice.yaml", "{\"prompt\":\"q\",\"choices\":[\"x\",7],\"gold\":0}\n", NULL, ERR_FORMAT,
             "choice 2 is no string");
    bad_task(TASKS "choice.yaml", "{\"prompt\":\"q\",\"choices\":[],\"gold\":0}\n", NULL, ERR_FORMAT, "no choices");
    bad_task(TASKS "choice.yaml", "{\"prompt\":\"q\",\"choices\":\"xy\",\"gold\":0}\n", NULL, ERR_FORMAT,
             "expected a list");
    bad_task(TASKS "arc_easy.yaml",
             "{\"question\":\"q\",\"choices\":{\"text\":[\"a\"],\"label\":[\"A\"]},\"answerKey\":\"B\"}\n", NULL,
             ERR_FORMAT, "docs.jsonl:1: task 'arc_easy', answer:");
    bad_task(TASKS "truthfulqa_mc2.yaml",
             "{\"question\":\"q\",\"mc2_targets\":{\"choices\":[\"a\",\"b\"],\"labels\":[1]}}\n", NULL, ERR_FORMAT,
             "1 labels of 2 choices");
    bad_task(TASKS "choice.yaml", "[1]\n", NULL, ERR_FORMAT, "docs.jsonl");
    bad_task(TASKS "choice.yaml", good, "prompt={{", ERR_CONFIG, "choice.yaml: prompt:");
    bad_task(TASKS "choice.yaml", good, "metrics=perplexity", ERR_CONFIG, "'perplexity' is no metric of this type");
    bad_task(TASKS "choice.yaml", good, "metrics=acc,acc_norm,acc", ERR_CONFIG, "'acc' stands there twice");
    bad_task(TASKS "choice.yaml", "\n\n", NULL, ERR_FORMAT, "no documents");
    bad_task(TASKS "choice.yaml", good, "target=x", ERR_CONFIG, "'target' means nothing in a task of type choice");
    bad_task(TASKS "choice.yaml", good, "type=text", ERR_CONFIG, "'choices' means nothing in a task of type text");
    bad_task(TASKS "winogrande.yaml", good, "target=", ERR_CONFIG, "no 'target', which a task of type contexts needs");
    bad_task(TASKS "choice.yaml", good, "name=a/b", ERR_CONFIG, "name 'a/b'");
    bad_task(TASKS "choice.yaml", good, "data.test=nowhere.jsonl", ERR_IO,
             "nowhere.jsonl: no such file; task 'choice'");
    bad_task(TASKS "choice.yaml", good, "propmt=x", ERR_CONFIG, "did you mean 'prompt'");
    bad_task(TASKS "choice.yaml", good, "split.by=topic", ERR_FORMAT, "column 'topic', which splits it, is missing");
}

/* -- metrics --------------------------------------------------------------------------------------------------------
 */

static double of(const TaskResult *r, int n, const char *name, Metric m, double *se) {
    for (int i = 0; i < n; i++)
        for (int k = 0; k < r[i].n_metric && !strcmp(r[i].name, name); k++)
            if (r[i].of[k].metric == m) {
                if (se) *se = r[i].of[k].se;
                return r[i].of[k].value;
            }
    return NAN;
}

#define assert_near(a, b) assert_true(fabs((a) - (b)) < 1e-12)

static void test_metrics(void **state) {
    (void)state;
    Task t;
    TaskResult *r;
    double se;
    ok_task(&t, TASKS "choice.yaml",
            "{\"prompt\":\"q\",\"choices\":[\"é\",\"abc\"],\"gold\":0}\n{\"prompt\":\"q\",\"choices\":[\"é\",\"abcd\"],"
            "\"gold\":1}\n",
            "metrics=[acc,acc_norm,acc_bytes]", -1);
    static const double ll[] = {-3, -6, -2, -2}; /* per character -3, -2; per byte -1.5, -2; a tie; -2, -.5; -1, -.5 */
    for (int i = 0; i < 4; i++) t.request[i].ll = ll[i];
    int n = task_results(&r, &t, 0, NULL);
    assert_int_equal(n, 1);
    assert_near(of(r, n, "choice", METRIC_ACC, &se), 0.5); /* the first of equals wins, here it is wrong */
    assert_near(se, 0.5);
    assert_near(of(r, n, "choice", METRIC_ACC_NORM, NULL), 0.5);
    assert_near(of(r, n, "choice", METRIC_ACC_BYTES, NULL), 1);
    free(r);
    task_close(&t);
    ok_task(&t, TASKS "truthfulqa_mc2.yaml",
            "{\"question\":\"q\",\"mc2_targets\":{\"choices\":[\"a\",\"b\",\"c\"],\"labels\":[1,0,1]}}\n", NULL, -1);
    t.request[0].ll = -2000, t.request[1].ll = -2000 + log(3), t.request[2].ll = -2000 + log(2);
    n = task_results(&r, &t, 0, NULL);
    assert_near(of(r, n, "truthfulqa_mc2", METRIC_ACC, &se), 0.5);
    assert_true(isnan(se));
    free(r);
    task_close(&t);
    ok_task(&t, TASKS "lambada_openai.yaml", "{\"text\":\"a b\"}\n{\"text\":\"a c\"}\n", NULL, -1);
    t.request[0] = (LikelihoodRequest){.ll = -1, .greedy = true};
    t.request[1].ll = -2;
    n = task_results(&r, &t, 1000, NULL);
    assert_near(of(r, n, "lambada_openai", METRIC_PERPLEXITY, &se), exp(1.5));
    assert_true(se > 1 && se < 3);
    assert_near(of(r, n, "lambada_openai", METRIC_ACC, NULL), 0.5);
    free(r);
    task_close(&t);
    ok_task(&t, TASKS "rolling.yaml", "{\"text\":\"a b\"}\n{\"text\":\"cd\"}\n", NULL, -1);
    t.request[0].ll = -4, t.request[1].ll = -2;
    n = task_results(&r, &t, 0, NULL);
    assert_near(of(r, n, "rolling", METRIC_WORD_PERPLEXITY, NULL), exp(2));
    assert_near(of(r, n, "rolling", METRIC_BITS_PER_BYTE, NULL), 6.0 / 5 / log(2));
    free(r);
    task_close(&t);
}

/* Two leaf tasks in one group, a third without: weights are their documents. */
static void test_groups(void **state) {
    (void)state;
    for (int weighted = 0; weighted < 2; weighted++) {
        Task t;
        TaskResult *r;
        Str data = {0};
        static const char *const topic[] = {"a", "b", "a", "a", "b", "c", "c"};
        for (int i = 0; i < 7; i++)
            str_printf(&data, "{\"prompt\":\"q\",\"choices\":[\"x\",\"y\"],\"gold\":%d,\"topic\":\"%s\"}\n", i == 2,
                       topic[i]);
        write_file("split.yaml", weighted ? "extends: base.yaml\n" : "extends: base.yaml\nsplit: {weighted: false}\n");
        Str base = {0};
        str_printf(&base, "extends: %schoice.yaml\nmetrics: [acc]\nsplit: {by: topic, groups: [a=ab, b=ab]}\n", TASKS);
        write_file("base.yaml", base.s);
        ok_task(&t, DIR "/split.yaml", data.s, NULL, -1);
        for (int i = 0; i < 14; i++) t.request[i].ll = i % 2 ? -2 : -1; /* says 0 always */
        int n = task_results(&r, &t, 0, NULL);
        double se, sa = sqrt(2.0 / 9 * 3 / 2 / 3);
        assert_int_equal(n, 5);
        assert_near(of(r, n, "choice_a", METRIC_ACC, &se), 2.0 / 3);
        assert_near(se, sa);
        assert_near(of(r, n, "choice_b", METRIC_ACC, NULL), 1);
        assert_near(of(r, n, "choice_ab", METRIC_ACC, &se), weighted ? 4.0 / 5 : 5.0 / 6);
        assert_near(se, weighted ? sqrt(2 * sa * sa * 3 / 3 / 5) : sa / 2);
        assert_near(of(r, n, "choice", METRIC_ACC, NULL), weighted ? 6.0 / 7 : 8.0 / 9);
        assert_true(r[0].n == 3 && r[3].group && r[3].n == 5 && r[4].n == 7);
        free(r);
        task_close(&t);
        str_release(&data);
        str_release(&base);
    }
}

static int teardown(void **state) {
    (void)state;
    Error err = {0};
    return io_remove_tree(DIR, &err) ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mmlu),    cmocka_unit_test(test_hellaswag), cmocka_unit_test(test_python_text),
        cmocka_unit_test(test_others),  cmocka_unit_test(test_own_shots), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_metrics), cmocka_unit_test(test_groups),
    };
    return cmocka_run_group_tests(tests, NULL, teardown);
}
