// layer: data
/* Every row of tests/golden/dataset_shapes.jsonl, rows as found in the wild with our normal form or the reason for
 * refusal; tokenised rows, tool calls, other names of columns, null columns. */
#include "base/io.h"
#include "data/ledger.h"
#include "data/loader.h"
#include "data/rows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static bool equal(const Json *a, const Json *b) {
    size_t n, m;
    if (!a || !b || json_kind(a) != json_kind(b) || json_len(a) != json_len(b)) return false;
    switch (json_kind(a)) {
    case JSON_OBJ:
        for (int i = 0; i < json_len(a); i++) {
            const Json *v;
            const char *key = json_key_at(a, i, &v);
            if (!equal(v, json_get(b, key))) return false;
        }
        return true;
    case JSON_ARR:
        for (int i = 0; i < json_len(a); i++)
            if (!equal(json_at(a, i), json_at(b, i))) return false;
        return true;
    case JSON_STR: {
        const char *s = json_str(a, &n), *t = json_str(b, &m);
        return n == m && !memcmp(s, t, n);
    }
    default:
        return json_num(a, 0) == json_num(b, 0);
    }
}

/* The normal form of one row; the reason in *why when it is refused. */
static Json *normal_form(const Json *row, RowKind kind, const Columns *c, Str *why) {
    Rows rows = {0};
    Error err = {0};
    Json *out = NULL;
    Str text = {0};
    str_clear(why);
    if (!rows_parse_value(&rows, row, kind, c, "f", 1, &err)) {
        assert_int_equal(err.code, ERR_FORMAT);
        assert_int_equal(strncmp(err.msg, "f:1: ", 5), 0);
        str_put(why, err.msg + 5);
    } else if (rows.n_skip) {
        str_put(why, rows.skip[0].reason);
    } else {
        assert_int_equal(rows.n, 1);
        row_to_json(&text, &rows.row[0]);
        if (!json_parse(&out, text.s, text.n, 0, "normal", 1, &err)) fail_msg("%s: %s", text.s, err.msg);
    }
    str_release(&text);
    rows_release(&rows);
    return out;
}

static void test_vectors(void **state) {
    (void)state;
    LineReader *in;
    Error err = {0};
    const char *line;
    size_t n;
    int n_case = 0, n_bad = 0;
    if (!lines_open(&in, TEST_DIR "/golden/dataset_shapes.jsonl", 1 << 20, &err)) fail_msg("%s", err.msg);
    while (lines_next(in, &line, &n, &err)) {
        Json *vector;
        Str why = {0}, shown = {0};
        if (!json_parse(&vector, line, n, 0, "vectors", ++n_case, &err)) fail_msg("%s", err.msg);
        const Json *want = json_get(vector, "expect");
        const char *reject = json_str(json_get(vector, "reject"), NULL), *id = json_str(json_get(vector, "id"), NULL);
        Json *got = normal_form(json_get(vector, "row"), ROW_ANY, NULL, &why);
        bool ok = reject ? !got && !strncmp(str_get(&why), reject, strlen(reject)) : got != NULL;
        for (int i = 0; ok && !reject && i < json_len(want); i++) {
            const Json *v;
            const char *key = json_key_at(want, i, &v);
            ok = !strcmp(key, "note") || equal(v, json_get(got, key));
        }
        if (ok && !reject) ok = json_len(got) == json_len(want) - (json_get(want, "note") != NULL); /* nothing beyond */
        JsonOut j;
        json_out_init(&j, &shown, 0);
        json_out_node(&j, NULL, got);
        if (!ok) print_error("%s: got %s %s\n", id, got ? shown.s : "refusal:", str_get(&why));
        n_bad += !ok;
        str_release(&shown), str_release(&why);
        json_release(got), json_release(vector);
    }
    lines_close(in);
    assert_int_equal(err.code, ERR_NONE);
    assert_int_equal(n_case, 31);
    assert_int_equal(n_bad, 0);
}

typedef struct {
    RowKind kind;
    const char *row, *want; /* normal form, or "! part of the reason" */
} Case;

static void check(const Case *c, int n, const Columns *columns) {
    int n_bad = 0;
    for (int i = 0; i < n; i++) {
        Json *row, *want = NULL;
        Error err = {0};
        Str why = {0}, shown = {0}, line = {0}, wanted = {0};
        for (const char *p = c[i].row; *p; p++) str_putc(&line, *p == '\'' ? '"' : *p);
        for (const char *p = c[i].want; *p; p++) str_putc(&wanted, *p == '\'' ? '"' : *p);
        if (!json_parse(&row, line.s, line.n, JSON_NUL_OK, "row", 1, &err)) fail_msg("%s", err.msg);
        bool reject = c[i].want[0] == '!';
        if (!reject && !json_parse(&want, wanted.s, wanted.n, 0, "want", 1, &err)) fail_msg("%s", err.msg);
        Json *got = normal_form(row, c[i].kind, columns, &why);
        JsonOut j;
        json_out_init(&j, &shown, 0);
        json_out_node(&j, NULL, got);
        bool ok = reject ? !got && strstr(str_get(&why), c[i].want + 2) != NULL : got && equal(want, got);
        if (!ok) print_error("case %d: %s\n  got %s %s\n  want %s\n", i, c[i].row, shown.s, str_get(&why), c[i].want);
        n_bad += !ok;
        json_release(row), json_release(want), json_release(got);
        str_release(&why), str_release(&shown), str_release(&line), str_release(&wanted);
    }
    assert_int_equal(n_bad, 0);
}

// clang-format off
static void test_tokens(void **state) {
    (void)state;
    static const Case cases[] = {
        {ROW_ANY, "{'input_ids':[5,6,7]}", "{'kind':'tokens','input_ids':[5,6,7],'learned':[1,1,1]}"},
        {ROW_ANY, "{'input_ids':[5,6,7],'labels':[-100,6,-100],'text':'x'}", "{'kind':'tokens','input_ids':[5,6,7],'learned':[0,1,0]}"},
        {ROW_TEXT, "{'input_ids':[0,5,6,7,0],'labels':[-100,5,6,7,-100],'attention_mask':[0,1,1,1,0]}", "{'kind':'tokens','input_ids':[5,6,7],'learned':[1,1,1]}"},
        {ROW_INSTRUCTION, "{'input_ids':[5,6,7],'completion_mask':[0,0,1]}", "{'kind':'tokens','input_ids':[5,6,7],'learned':[0,0,1]}"},
        {ROW_INSTRUCTION, "{'input_ids':[5,6,7],'assistant_masks':[0,1,1],'labels':3}", "{'kind':'tokens','input_ids':[5,6,7],'learned':[0,1,1]}"},
        {ROW_ANY, "{'input_ids':[5,6],'labels':[5,-100]}", "! no token to learn"},  /* nothing stands before the first */
        {ROW_ANY, "{'input_ids':[5,6],'labels':[5,7]}", "! labels: entry 2 is neither the token"},
        {ROW_ANY, "{'input_ids':[5,6],'labels':[5]}", "! labels has 1 entries, input_ids 2"},
        {ROW_ANY, "{'input_ids':[5,-6]}", "! entry 2 is no token"},
        {ROW_ANY, "{'input_ids':[5,2147483648]}", "! entry 2 is no token"},
        {ROW_ANY, "{'input_ids':'5 6'}", "! input_ids must be a list"},
        {ROW_ANY, "{'input_ids':[]}", "! no token to learn"},
        {ROW_PREFERENCE, "{'input_ids':[5,6]}", "! unknown columns: input_ids"},
    };
    check(cases, COUNT_OF(cases), NULL);
}

static void test_tools(void **state) {
    (void)state;
    static const char calls[] = "{'messages':[{'role':'user','content':'q'},{'role':'assistant','content':null,'tool_calls':[{'id':'1','type':'function','function':{'name':'f','arguments':'{\\\"x\\\": 1}'}}]},"
                                "{'role':'tool','tool_call_id':'1','content':'4'},{'role':'assistant','content':'a'}]}";
    const Case cases[] = {
        {ROW_ANY, calls, "{'kind':'sft','messages':[{'role':'user','content':'q'},{'role':'assistant','content':'','tool_calls':[{'type':'function','function':{'name':'f','arguments':{'x':1}}}]},"
                         "{'role':'tool','content':'4'},{'role':'assistant','content':'a'}]}"},
        {ROW_INSTRUCTION, calls, "{'kind':'sft','messages':[{'role':'user','content':'q'},{'role':'assistant','content':'a'}]}"},
        {ROW_UNPAIRED, "{'prompt':[{'role':'user','content':'q'}],'completion':[{'role':'assistant','tool_calls':[{'function':{'name':'f','arguments':{}}}]}],'label':true}", "! tool calls"},
        {ROW_INSTRUCTION, "{'prompt':'q','completion':[{'role':'assistant','tool_calls':[{'function':{'name':'f','arguments':{}}}]},{'role':'assistant','content':'a'}]}", "! tool calls"},
        {ROW_INSTRUCTION, "{'messages':[{'role':'user','content':'q'},{'role':'assistant','content':'a'}],'tools':'[{'}", "! tools is a string that is not JSON"},
        {ROW_INSTRUCTION, "{'messages':[{'role':'user','content':'q'},{'role':'assistant','content':'a'}],'tools':{'name':'f'}}", "! tools must be a list of functions"},
        {ROW_INSTRUCTION, "{'messages':[{'role':'user','content':'q'},{'role':'tool','content':'4'}]}", "! no assistant turn to learn from"},
        {ROW_INSTRUCTION, "{'messages':[{'role':'user','content':'q'},{'role':'assistant','tool_calls':[{'function':{'name':'f','arguments':{'x':'\\u0000'}}}]}]}", "! NUL character in text"},
        {ROW_INSTRUCTION, "{'messages':[{'role':'user','content':'q'},{'role':'assistant','content':'a'}],'tools':[{'name':'\\u0000'}]}", "! NUL character in text"},
        {ROW_ANY, "{'conversations':[{'from':'human','value':'q'},{'from':'function_call','value':'f(1)'},{'from':'gpt','value':'a'}]}", "! a function_call is not JSON"},
        {ROW_ANY, "{'messages':[{'role':'user','content':'q'},{'role':'assistant','tool_calls':[{'function':{'name':'f','arguments':'{'}}]},{'role':'assistant','content':'a'}]}", "! the arguments of a tool call are not JSON"},
        {ROW_ANY, "{'messages':[{'role':'user','content':'q'},{'role':'assistant','tool_calls':[{}]},{'role':'assistant','content':'a'}]}", "! a tool call has no name"},
        {ROW_ANY, "{'messages':[{'role':'user','content':'q','tool_calls':null},{'role':'assistant','content':'a','tool_calls':[]}]}", "{'kind':'sft','messages':[{'role':'user','content':'q'},{'role':'assistant','content':'a'}]}"},
    };
    check(cases, COUNT_OF(cases), NULL);
    /* Prompt and reply leave the tools out. */
    static const char row[] = "{\"conversations\":[{\"from\":\"human\",\"value\":\"q\"},{\"from\":\"function_call\",\"value\":\"{\\\"name\\\": \\\"f\\\"}\"},"
                              "{\"from\":\"observation\",\"value\":\"4\"},{\"from\":\"gpt\",\"value\":\"a\"}]}";
    Rows r = {0};
    Error err = {0};
    if (!rows_parse_line(&r, row, sizeof row - 1, ROW_ANY, "f", 1, &err)) fail_msg("%s", err.msg);
    assert_int_equal(r.row[0].prompt.n, 1);
    assert_string_equal(r.row[0].prompt.msg[0].text, "q");
    assert_string_equal(r.row[0].a, "a");
    rows_release(&r);
}

/* What a template is given of instruction rows with tools. */
static void test_talk(void **state) {
    (void)state;
    static const struct {
        const char *row, *talk, *tools;
        int from;
    } table[] = {
        {"{'messages':[{'role':'user','content':'q'},{'role':'assistant','content':null,'tool_calls':[{'id':'1','type':'function','function':{'name':'f','arguments':'{}'}}]},{'role':'tool','tool_call_id':'1','name':'f','content':'4'}],'tools':[{'name':'f'}]}",
         "[{'role':'user','content':'q'},{'role':'assistant','content':null,'tool_calls':[{'id':'1','type':'function','function':{'name':'f','arguments':'{}'}}]},{'role':'tool','tool_call_id':'1','name':'f','content':'4'}]",
         "[{'name':'f'}]", 0},
        {"{'system':'s','conversations':[{'from':'human','value':'q'},{'from':'function_call','value':'{\\'name\\': \\'f\\', \\'arguments\\': {}}'},{'from':'observation','value':'4'},{'from':'gpt','value':'a'}],'tools':'[{\\'name\\': \\'f\\'}]'}",
         "[{'role':'system','content':'s'},{'role':'user','content':'q'},{'role':'assistant','content':'','tool_calls':[{'type':'function','function':{'name':'f','arguments':{}}}]},{'role':'tool','content':'4'},{'role':'assistant','content':'a'}]",
         "[{'name':'f'}]", 0},
        {"{'prompt':[{'role':'developer','content':'d'},{'role':'human','content':'q'}],'completion':[{'role':'assistant','tool_calls':[{'function':{'name':'f','arguments':{}}}]}]}",
         "[{'role':'developer','content':'d'},{'role':'user','content':'q'},{'role':'assistant','tool_calls':[{'function':{'name':'f','arguments':{}}}]}]", NULL, 2},
        {"{'messages':[{'role':'user','content':'q'},{'role':'assistant','content':'a'}],'tools':[{'name':'f'}]}", "[{'role':'user','content':'q'},{'role':'assistant','content':'a'}]", "[{'name':'f'}]", 0},
        {"{'messages':[{'role':'user','content':'q'},{'role':'assistant','content':'a'}],'tools':[]}", NULL, NULL, 0},
        {"{'messages':[{'role':'user','content':'q'},{'role':'assistant','content':'a'}],'tools':'null'}", NULL, NULL, 0},
    };
    for (int i = 0; i < COUNT_OF(table); i++) {
        Rows r = {0};
        Error err = {0};
        Str text[3] = {{0}};
        const char *from[3] = {table[i].row, table[i].talk, table[i].tools};
        for (int k = 0; k < 3; k++)
            for (const char *p = from[k]; p && *p; p++) str_putc(&text[k], *p == '\'' ? '"' : *p);
        if (!rows_parse_line(&r, text[0].s, text[0].n, ROW_INSTRUCTION, "f", 1, &err)) fail_msg("%d: %s", i, err.msg);
        if (r.n != 1) fail_msg("%d: %s", i, r.skip[0].reason);
        const Row *row = &r.row[0];
        assert_int_equal(row->talk != NULL, from[1] != NULL);
        assert_int_equal(row->talk_tools != NULL, from[2] != NULL);
        if (from[1]) assert_string_equal(row->talk, str_get(&text[1]));
        if (from[2]) assert_string_equal(row->talk_tools, str_get(&text[2]));
        assert_int_equal(row->talk_from, table[i].from);
        rows_release(&r);
        for (int k = 0; k < 3; k++) str_release(&text[k]);
    }
}

static void test_kinds(void **state) {
    (void)state;
    static const Case cases[] = {
        /* unpaired rows are examples when they are wanted */
        {ROW_INSTRUCTION, "{'prompt':'q','completion':'r','label':true}", "{'kind':'sft_plain','prompt':'q','completion':'r'}"},
        {ROW_INSTRUCTION, "{'prompt':'q','completion':'r','label':false}", "! labelled as not wanted"},
        {ROW_UNPAIRED, "{'prompt':'q','completion':'r','label':0}", "{'kind':'unpaired_plain','prompt':'q','completion':'r','label':false}"},
        {ROW_ANY, "{'prompt':'q','completion':'r','label':1.0}",
         "{'kind':'unpaired_plain','prompt':'q','completion':'r','label':true}"},
        {ROW_ANY, "{'prompt':'q','completion':'r','label':3}", "{'kind':'sft_plain','prompt':'q','completion':'r'}"}, /* a class, not a flag */
        {ROW_ANY, "{'prompt':'q','response':'r'}", "{'kind':'sft','messages':[{'role':'user','content':'q'},{'role':'assistant','content':'r'}]}"},
        {ROW_ANY, "{'prompt':[{'role':'user','content':'q'}],'completion':[{'role':'assistant','content':'a'},{'role':'user','content':'b'},{'role':'assistant','content':'c'}]}",
         "{'kind':'sft','messages':[{'role':'user','content':'q'},{'role':'assistant','content':'a'},{'role':'user','content':'b'},{'role':'assistant','content':'c'}],'loss_from':1}"},
        {ROW_ANY, "{'prompt':'q','completion':[{'role':'assistant','content':' '}]}", "! empty reply"},
        /* critique and revision: either use */
        {ROW_INSTRUCTION, "{'init_prompt':'p','init_response':'1','critic_prompt':'cp','critic_response':'c','revision_prompt':'rp','revision_response':'2'}",
         "{'kind':'sft','messages':[{'role':'user','content':'p'},{'role':'assistant','content':'2'}]}"},
        {ROW_FORMAT, "{'init_prompt':'p','init_response':'1','critic_prompt':'cp','critic_response':'c','revision_prompt':'rp','revision_response':' '}", "! empty reply"},
        /* null is absent */
        {ROW_ANY, "{'prompt':'q','chosen':null,'rejected':null,'completion':'r'}", "{'kind':'sft_plain','prompt':'q','completion':'r'}"},
        {ROW_PREFERENCE, "{'prompt':'q','chosen':'x','rejected':null}", "! rejected is null"},
        {ROW_ANY, "{'prompt':null}", "! prompt is null"},
        {ROW_PREFERENCE, "{'prompt':null,'chosen':'x','rejected':'y'}", "! prompt is null"},
        {ROW_ANY, "{'messages':[{'role':'user','content':'q'},{'role':'assistant','content':null}]}", "! content missing in entry 2 of messages"},
        {ROW_ANY, "{'prompt':'q','chosen':'x','rejected':'y','margin':'z'}", "! margin must be a number"},
        {ROW_PREFERENCE, "{'prompt':'q','chosen':'x','rejected':'y','margin':null}", "{'kind':'preference_plain','prompt':'q','chosen':'x','rejected':'y'}"},
        {ROW_ANY, "{'text':'a\\u0000b'}", "! NUL character in text"},
        {ROW_ANY, "{'id':'a\\u0000b','text':'x'}", "! NUL character in text"},
        {ROW_PROMPT, "{'template':'{x}','slots':{'x':['a\\u0000b']}}", "! NUL character in text"},
        {ROW_ANY, "{'messages':[{'role':'user','content':'a\\u0000b'},{'role':'assistant','content':'c'}]}", "! NUL character in text"},
        {ROW_ANY, "{}", "! unknown columns: ; map them"},
        {ROW_ANY, "{'prompt':'q','harmful':1}", "{'kind':'prompt','prompt':[{'role':'user','content':'q'}]}"},
        {ROW_ANY, "{'prompt':'q','response':'r','harmful':1}", "{'kind':'labelled','prompt':[{'role':'user','content':'q'}],'response':'r','harmful':true}"},
        {ROW_ANY, "{'task':'t','prompt':'q','choices':['x','y'],'gold':1}", "{'kind':'choice','prompt':[{'role':'user','content':'q'}],'choices':['x','y'],'gold':1}"},
        {ROW_ANY, "{'kind':'critique','prompt':'q','response':'r','principle':'p','critique':'c'}", "{'kind':'critique','prompt':[{'role':'user','content':'q'}],'principle':'p','response':'r','critique':'c','revision':null}"},
    };
    check(cases, COUNT_OF(cases), NULL);
}

static void test_columns(void **state) {
    (void)state;
    static const char *const item[] = {"prompt:question", "completion:answer", "id:key"};
    static const Case cases[] = {
        {ROW_ANY, "{'question':'q','answer':'r'}", "{'kind':'sft_plain','prompt':'q','completion':'r'}"},
        {ROW_ANY, "{'question':'q','answer':'r','prompt':'template','completion':5}", "{'kind':'sft_plain','prompt':'q','completion':'r'}"},
        {ROW_ANY, "{'prompt':'q','completion':'r'}", "{'kind':'sft_plain','prompt':'q','completion':'r'}"},
        {ROW_INSTRUCTION, "{'question':'q','reply':'r'}", "! 'completion' is missing; the row has: question, reply"},
    };
    Columns c;
    Error err = {0};
    assert_true(columns_parse(&c, item, 3, "data.columns", &err));
    check(cases, COUNT_OF(cases), &c);
    columns_release(&c);
}
// clang-format on

/* What is merged and dropped is counted, as are rows left out, by reason. */
static void test_counts(void **state) {
    (void)state;
    static const char text[] =
        "{\"chosen\":\"\\n\\nHuman: a\\n\\nHuman: b\\n\\nAssistant: c\",\"rejected\":\"\\n\\nHuman: a\\n\\nHuman: "
        "b\\n\\nAssistant: d\"}\n"
        "{\"chosen\":\"\\n\\nHuman: a\\n\\nAssistant:  \\n\\nHuman: b\\n\\nAssistant: c\",\"rejected\":\"\\n\\nHuman: "
        "a\\n\\nAssistant: d\"}\n"
        "{\"prompt\":\"a\\n\",\"chosen\":\"x\",\"rejected\":\"x\"}\n"
        "{\"prompt\":\"\\n\\nHuman: a\\n\\nAssistant:\",\"chosen\":\"x\",\"rejected\":\"y\"}\n";
    Rows r = {0};
    Error err = {0};
    if (!io_write_file("t_shapes.jsonl", text, sizeof text - 1, &err)) fail_msg("%s", err.msg);
    if (!rows_read(&r, "t_shapes.jsonl", ROW_PREFERENCE, &err)) fail_msg("%s", err.msg);
    assert_int_equal(r.n, 2);
    assert_int_equal(r.n_merged, 3); /* twice in the first row, once where the empty turn was */
    assert_int_equal(r.n_empty, 1);
    assert_int_equal(r.n_skip, 2);
    assert_string_equal(r.skip[0].reason, "prompts differ");
    assert_string_equal(r.skip[1].reason, "chosen and rejected are equal");
    assert_string_equal(r.row[0].prompt.msg[0].text, "a\n\nb");
    rows_release(&r);
    unlink("t_shapes.jsonl");
}

/* Tokenised rows are cut so that every token but the first is a target once, and the books say so. */
static void test_ids(void **state) {
    (void)state;
    int32_t tok[10];
    float weight[10];
    for (int i = 0; i < 10; i++) tok[i] = i + 1, weight[i] = i % 3 != 1;
    for (int max = 2; max <= 12; max++) {
        SampleSet s;
        double total = 0;
        int next = 1;
        samples_init(&s, 1);
        Ledger *l = ledger_new();
        samples_add_ids(&s, tok, weight, 10, 77, max, l);
        for (int64_t k = 0; k < s.n; k++) {
            assert_true(s.off[k + 1] - s.off[k] <= max);
            assert_true(s.id[k] == 77);
            assert_true(s.weight[s.off[k]] == 0);
            for (int64_t i = s.off[k] + 1; i < s.off[k + 1]; i++, next++) {
                assert_int_equal(s.tok[i], tok[next]);
                assert_true(s.weight[i] == weight[next]);
                total += (double)s.weight[i];
            }
        }
        assert_int_equal(next, 10);
        assert_true(total == 6);
        Error err = {0};
        if (!ledger_close(l, 0, "t_ledger.json", &err)) fail_msg("%s", err.msg);
        ledger_free(l);
        samples_release(&s);
    }
    unlink("t_ledger.json");
    Row row = {.id = "x", .tok = tok, .tok_weight = weight, .n_tok = 10};
    Rows rows = {.row = &row, .n = 1};
    Error err = {0};
    assert_true(rows_check_ids(&rows, 11, &err));
    assert_false(rows_check_ids(&rows, 10, &err));
    assert_non_null(strstr(err.msg, "row x: token id 10, the tokenizer has 0..9"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vectors), cmocka_unit_test(test_tokens),
                                       cmocka_unit_test(test_tools),   cmocka_unit_test(test_talk),
                                       cmocka_unit_test(test_kinds),   cmocka_unit_test(test_columns),
                                       cmocka_unit_test(test_counts),  cmocka_unit_test(test_ids)};
    return cmocka_run_group_tests_name("shapes", tests, NULL, NULL);
}
