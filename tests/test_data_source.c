// layer: data
/* Containers of rows: which one is seen, what CSV and JSON texts become, every way in which they can be wrong. */
#include "base/io.h"
#include "data/csv.h"
#include "data/source.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void put_file(const char *path, const char *s, size_t n) {
    Error err = {0};
    if (!io_write_file(path, s, n, &err)) fail_msg("%s", err.msg);
}

/* "container|line row|line row|..", or "..|error: message" */
static void read_all(Str *out, const char *path, bool text_ok, const Columns *columns) {
    Source *s;
    SourceRow row;
    Error err = {0};
    str_clear(out);
    if (!source_open(&s, path, text_ok, columns, &err)) {
        str_printf(out, "error: %s", err.msg);
        return;
    }
    str_printf(out, "%s", container_name(source_container(s)));
    if (source_packing(s)[0]) str_printf(out, " %s", source_packing(s));
    bool ok = true;
    while (source_container(s) != CONTAINER_TEXT && (ok = source_next(s, &row, &err)) && (row.text || row.value)) {
        JsonOut j;
        Json *parsed = NULL;
        ok = row.value || json_parse(&parsed, row.text, row.n, 0, path, row.line, &err);
        if (!ok) break;
        str_printf(out, "|%d ", row.line);
        json_out_init(&j, out, 0);
        json_out_node(&j, NULL, row.value ? row.value : parsed);
        json_release(parsed);
        source_forget(s);
    }
    if (!ok) str_printf(out, "|error: %s", err.msg);
    source_close(s);
}

typedef struct {
    const char *name, *text, *want; /* what read_all gives; after "error: " a part of the message is enough */
} Case;

static void check_cases(const Case *c, int n, bool text_ok) {
    Str got = {0};
    int n_bad = 0;
    for (int i = 0; i < n; i++) {
        put_file(c[i].name, c[i].text, strlen(c[i].text));
        read_all(&got, c[i].name, text_ok, NULL);
        const char *error = strstr(c[i].want, "error: "), *got_error = strstr(got.s, "error: ");
        size_t n_same = error ? (size_t)(error - c[i].want) : strlen(c[i].want) + 1;
        bool same = !strncmp(got.s, c[i].want, n_same) && (!error || (got_error && strstr(got_error, error + 7)));
        if (!same) print_error("case %d: %s\n  got  %s\n  want %s\n", i, c[i].text, got.s, c[i].want);
        n_bad += !same;
        unlink(c[i].name);
    }
    assert_int_equal(n_bad, 0);
    str_release(&got);
}

// clang-format off
static void test_csv(void **state) {
    (void)state;
    static const Case cases[] = {
        {"t.csv", "a,b\n1,2\n", "csv|2 {\"a\":\"1\",\"b\":\"2\"}"},
        {"t.csv", "\xef\xbb\xbf" "a,b\r\n1,2\r\n3,4", "csv|2 {\"a\":\"1\",\"b\":\"2\"}|3 {\"a\":\"3\",\"b\":\"4\"}"},
        {"t.csv", "a,b\n\"x,\"\"y\"\"\nz\",\n\n,\"\"\n", "csv|2 {\"a\":\"x,\\\"y\\\"\\nz\",\"b\":\"\"}|5 {\"a\":\"\",\"b\":\"\"}"},
        {"t.csv", "a\nit's 5\" long\n", "csv|2 {\"a\":\"it's 5\\\" long\"}"},
        {"t.csv", "a,b\n\"x\r\ny\",z\r\n", "csv|2 {\"a\":\"x\\r\\ny\",\"b\":\"z\"}"},
        {"t.csv", "a,b\nx\ry,z\n", "csv|2 {\"a\":\"x\\ry\",\"b\":\"z\"}"},
        {"t.csv", ",a\n0,x\n1,y\n", "csv|2 {\"\":\"0\",\"a\":\"x\"}|3 {\"\":\"1\",\"a\":\"y\"}"},
        {"t.tsv", "a\tb\nx, y\t\"z\tz\"\n", "tsv|2 {\"a\":\"x, y\",\"b\":\"z\\tz\"}"},
        {"t.csv", "prompt,label,weight,turns\nq,True,0.5,\"[\"\"x\"\", \"\"y\"\"]\"\n7,0,,\n", "csv|2 {\"prompt\":\"q\",\"label\":true,\"weight\":0.5,\"turns\":[\"x\",\"y\"]}|3 {\"prompt\":\"7\",\"label\":false,\"weight\":null,\"turns\":null}"},
        {"t.csv", "weight,label\n12,3\nx,no\n", "csv|2 {\"weight\":12,\"label\":\"3\"}|3 {\"weight\":\"x\",\"label\":false}"},
        {"t.csv", "a,b\n", "csv"},
        {"t.csv", "", "csv"},
        {"t.csv", "{\"a\":1}\n", "jsonl|1 {\"a\":1}"},
        {"t.csv", "a,b\n1\n", "csv|error: t.csv:2: 1 fields, expected 2"},
        {"t.csv", "a,b\n1,2\n\n1,2,3\n", "csv|2 {\"a\":\"1\",\"b\":\"2\"}|error: t.csv:4: 3 fields, expected 2"},
        {"t.csv", "a,b\n1,2\n\"x\ny\",\"z\n", "csv|2 {\"a\":\"1\",\"b\":\"2\"}|error: t.csv:4: a quote is opened here and never closed"},
        {"t.csv", "a\n\"x\"y\n", "csv|error: t.csv:2: text behind a closing quote"},
        {"t.csv", "a,a\n1,2\n", "csv|error: t.csv:1: two columns have one name"},
        {"t.csv", "a\n\xff\n", "csv|error: t.csv:2: the record is not UTF-8"},
        {"t.csv", "turns\n['x']\n", "csv|error: column 'turns': t.csv:2:2: bad JSON"},
    };
    check_cases(cases, COUNT_OF(cases), false);
}

static void test_json(void **state) {
    (void)state;
    static const Case cases[] = {
        {"t.json", "[{\"a\":1},{\"a\":[2,{\"b\":\"]}\\\"\"}]}]", "json|1 {\"a\":1}|1 {\"a\":[2,{\"b\":\"]}\\\"\"}]}"},
        {"t.json", "\xef\xbb\xbf [\n {\"a\":1} ,\n\n {\n\"a\":2}\n]\n\n", "json|2 {\"a\":1}|4 {\"a\":2}"},
        {"t.json", "[]", "json"},
        {"t.json", "", "jsonl"},
        {"t", "[{\"a\":1}]", "json|1 {\"a\":1}"},
        {"t.json", "[{\"a\":1},7,\"x\",null,[1]]", "json|1 {\"a\":1}|1 7|1 \"x\"|1 null|1 [1]"},
        /* an object around the list */
        {"t.json", "{\"version\":\"1\",\"data\":[{\"a\":1},{\"a\":2}],\"n\":[1, 2]}", "json|1 {\"a\":1}|1 {\"a\":2}"},
        {"t.json", "{\n\"data\": [\n{\"a\":1}\n]\n}", "json|3 {\"a\":1}"},
        {"t.json", "{\"data\":[{\"a\":1}],\"more\":[{\"b\":2}]}", "json|1 {\"a\":1}|error: a second list of rows, 'more'"},
        {"t.json", "{\"data\":[{\"a\":1}],\"x\":1 2}", "json|1 {\"a\":1}|error: expected \"name\": value"},
        {"t.json", "{\"data\":[{\"a\":1}],\"x\":[1 2]}", "json|1 {\"a\":1}|error: bad JSON"},
        {"t.json", "{\"x\":1,\"x\":2,\"data\":[{\"a\":1}]}", "json|1 {\"a\":1}|error: bad JSON: duplicate object key"},
        {"t.json", "{\"data\":[{\"a\":1}],}", "json|1 {\"a\":1}|error: bad JSON"},
        /* lists that are columns are no lists of rows */
        {"t.json", "{\"messages\":[{\"role\":\"user\"}]}", "json|1 {\"messages\":[{\"role\":\"user\"}]}"},
        {"t.json", "{\"a\":1}\n{\"a\":2}\n", "json|1 {\"a\":1}|2 {\"a\":2}"},
        {"t.json", "{\n \"a\": 1,\n \"b\": [1, {\"c\": []}]\n}\n{ \"a\": 2 }", "json|1 {\"a\":1,\"b\":[1,{\"c\":[]}]}|5 {\"a\":2}"},
        {"t.jsonl", "{\"a\":1}\n\n{\"data\":[{\"a\":1}]}\n", "jsonl|1 {\"a\":1}|3 {\"data\":[{\"a\":1}]}"},
        {"t.jsonl", "[\"a\"]\n", "jsonl|1 [\"a\"]"},
        /* malformed */
        {"t.json", "[{\"a\":1}", "json|1 {\"a\":1}|error: t.json:1: bad JSON: the file ends inside the list"},
        {"t.json", "[{\"a\":1},", "json|1 {\"a\":1}|error: t.json:1: bad JSON: the file ends inside the list"},
        {"t.json", "[{\"a\":1}\n{\"a\":2}]", "json|1 {\"a\":1}|error: t.json:2: bad JSON: expected a comma"},
        {"t.json", "[{\"a\":1},]", "json|1 {\"a\":1}|error: bad JSON: a comma without a row"},
        {"t.json", "[{\"a\":1},,{\"a\":1}]", "json|1 {\"a\":1}|error: bad JSON: a comma without a row"},
        {"t.json", "[{\"a\":1}] x", "json|1 {\"a\":1}|error: bad JSON: text behind the end"},
        {"t.json", "[{\"a\":1]", "json|error: bad JSON: '}' expected"},
        {"t.json", "[{\"a\":]}]", "json|error: bad JSON"},
        {"t.json", "{\"a\":\"x", "json|error: the file ends inside a value"},
        {"t.json", "{\"a\" 1}", "json|error: expected \"name\": value"},
        {"t.json", "{1:2}", "json|error: expected \"name\": value"},
    };
    check_cases(cases, COUNT_OF(cases), false);
}

static void test_choice(void **state) {
    (void)state;
    static const Case text_ok[] = {
        {"t.txt", "[Illustration]\n", "text"},
        {"t.txt", "[{\"a\":1}]\n", "text"},
        {"t.txt", "{\"text\":\"a\"}\n", "jsonl|1 {\"text\":\"a\"}"},
        {"t", "Some words.\n", "text"},
        {"t", "[Illustration]\n", "text"},
        {"t.csv", "text\nx\n", "csv|2 {\"text\":\"x\"}"},
    }, rows_only[] = {
        {"t.txt", "Some words.\n", "jsonl|error: t.txt:1:4: bad JSON"},
        {"t.parquet", "Some words.\n", "error: is not a Parquet file"},
        {"t.parquet", "", "error: is not a Parquet file"},
        {"t.jsonl", "PAR1", "error: the Parquet file is cut off"},
    };
    check_cases(text_ok, COUNT_OF(text_ok), true);
    check_cases(rows_only, COUNT_OF(rows_only), false);
}
// clang-format on

/* Long fields and rows pass over the reader's buffers. */
static void test_long(void **state) {
    (void)state;
    Str text = {0}, want = {0}, got = {0}, field = {0};
    for (int i = 0; i < 400000; i++) str_putc(&field, (char)('a' + i % 23));
    str_printf(&text, "prompt,x\n");
    for (int i = 0; i < 5; i++) str_printf(&text, "\"%s\"\"\",%d\n", field.s, i);
    put_file("t_long.csv", text.s, text.n);
    str_put(&want, "csv");
    for (int i = 0; i < 5; i++) str_printf(&want, "|%d {\"prompt\":\"%s\\\"\",\"x\":\"%d\"}", i + 2, field.s, i);
    read_all(&got, "t_long.csv", false, NULL);
    assert_string_equal(got.s, want.s);
    unlink("t_long.csv");

    str_clear(&text), str_clear(&want);
    for (int i = 0; i < 5; i++) str_printf(&text, "%s{\"prompt\":\"%s\\\"\",\"x\":%d}", i ? "," : "[", field.s, i);
    str_putc(&text, ']');
    put_file("t_long.json", text.s, text.n);
    str_put(&want, "json");
    for (int i = 0; i < 5; i++) str_printf(&want, "|1 {\"prompt\":\"%s\\\"\",\"x\":%d}", field.s, i);
    read_all(&got, "t_long.json", false, NULL);
    assert_string_equal(got.s, want.s);
    unlink("t_long.json");
    str_release(&text), str_release(&want), str_release(&got), str_release(&field);
}

/* gzip -n of  a,b\n1,2\n */
static void test_packed(void **state) {
    (void)state;
    static const char gz[] = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b\xd4\x49\xe2\x32\xd4\x31\xe2\x02\x00\x7b\x07"
                             "\x97\x0a\x08\x00\x00\x00";
    Str got = {0};
    put_file("t.csv.gz", gz, sizeof gz - 1);
    read_all(&got, "t.csv.gz", false, NULL);
    assert_string_equal(got.s, "csv gzip|2 {\"a\":\"1\",\"b\":\"2\"}");
    put_file("t.parquet.gz", gz, sizeof gz - 1);
    read_all(&got, "t.parquet.gz", false, NULL);
    assert_non_null(strstr(got.s, "unpack it first"));
    unlink("t.csv.gz");
    unlink("t.parquet.gz");
    str_release(&got);
}

/* 25 kB that are 300 MB of rows. */
static void test_unfolds(void **state) {
    (void)state;
    Source *s;
    SourceRow row;
    Error err = {0};
    int64_t n_bytes = 0;
    if (!source_open(&s, TEST_DIR "/golden/unfolds.jsonl.zst", false, NULL, &err)) fail_msg("%s", err.msg);
    bool ok;
    while ((ok = source_next(s, &row, &err)) && row.text) n_bytes += (int64_t)row.n;
    source_close(s);
    assert_false(ok);
    assert_int_equal(err.code, ERR_FORMAT);
    assert_non_null(strstr(err.msg, "unfolds to more than 1000 times its size"));
    assert_true(n_bytes > SOURCE_FREE_BYTES && n_bytes < SOURCE_FREE_BYTES + 30000000);
}

static void test_columns(void **state) {
    (void)state;
    static const char *const item[] = {"prompt:question", "text:prompt", "choices:options"};
    static const char *const bad[] = {"prompt", ":x", "prompt:", "promt:x"};
    Columns c;
    Error err = {0};
    Json *row;
    static const char text[] = "{\"question\":1,\"prompt\":2,\"label\":3}", other[] = "{\"prompt\":5}";
    assert_true(columns_parse(&c, item, 3, "data.columns", &err));
    assert_true(json_parse(&row, text, sizeof text - 1, 0, "row", 1, &err));
    assert_int_equal(json_int(columns_get(&c, row, "prompt"), 0), 1);
    assert_int_equal(json_int(columns_get(&c, row, "text"), 0), 2);
    assert_int_equal(json_int(columns_get(&c, row, "label"), 0), 3);
    assert_null(columns_get(&c, row, "question"));
    assert_null(columns_get(&c, row, "choices"));
    assert_int_equal(json_int(columns_get(NULL, row, "prompt"), 0), 2);
    json_release(row);
    assert_true(json_parse(&row, other, sizeof other - 1, 0, "row", 1, &err));
    assert_int_equal(json_int(columns_get(&c, row, "text"), 0), 5); /* its column goes by another name */
    assert_null(columns_get(&c, row, "prompt"));
    json_release(row);
    Str got = {0}; /* and cells are read as what the name stands for */
    put_file("t.csv", "options\n\"[1]\"\n", 14);
    read_all(&got, "t.csv", false, &c);
    assert_string_equal(got.s, "csv|2 {\"options\":[1]}");
    unlink("t.csv");
    str_release(&got);
    columns_release(&c);
    for (int i = 0; i < COUNT_OF(bad); i++) {
        assert_false(columns_parse(&c, &bad[i], 1, "data.columns", &err));
        assert_int_equal(err.code, ERR_CONFIG);
        assert_int_equal(strncmp(err.msg, "data.columns: '", 15), 0);
    }
    assert_non_null(strstr(err.msg, "did you mean 'prompt'?"));
    static const char *const twice[] = {"prompt:a", "prompt:b"};
    assert_false(columns_parse(&c, twice, 2, "data.columns", &err));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_csv),    cmocka_unit_test(test_json),
                                       cmocka_unit_test(test_choice), cmocka_unit_test(test_long),
                                       cmocka_unit_test(test_packed), cmocka_unit_test(test_unfolds),
                                       cmocka_unit_test(test_columns)};
    return cmocka_run_group_tests_name("source", tests, NULL, NULL);
}
