// layer: data
/* The Parquet reader over committed files (written by pyarrow, and by hand where pyarrow does not write such files any
 * more: tests/peers/parquet_equal.py), each with its rows as JSONL beside it; the same records from both; damage of
 * every kind. */
#include "base/io.h"
#include "base/rng.h"
#include "data/parquet.h"
#include "data/rows.h"
#include "data/source.h"
#include "data/unpack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define FOLDER TEST_DIR "/golden/parquet"

static const char *const good[] = {
    "dictionary_overflows", "maps_and_lists",   "messages_snappy", "messages_v2_zstd", "nulls",
    "pref_delta",           "pref_gzip_groups", "pref_lz4_plain",  "hand_repeated",    "hand_two_levels",
    "hand_tuple",           "hand_pairs",       "hand_bit_packed"};

static void path_of(char path[512], const char *name, const char *ending) {
    snprintf(path, 512, FOLDER "/%s.%s", name, ending);
}

/* All rows of a source as lines of JSON. */
static bool dump(Str *out, const char *path, Error *err) {
    Source *s;
    SourceRow row;
    str_clear(out);
    if (!source_open(&s, path, false, NULL, err)) return false;
    bool ok;
    while ((ok = source_next(s, &row, err)) && (row.text || row.value)) {
        JsonOut j;
        Json *parsed = NULL;
        ok = row.value || json_parse(&parsed, row.text, row.n, 0, path, row.line, err);
        if (!ok) break;
        json_out_init(&j, out, 0);
        json_out_node(&j, NULL, row.value ? row.value : parsed);
        str_putc(out, '\n');
        json_release(parsed);
        source_forget(s);
    }
    source_close(s);
    return ok;
}

static void test_rows(void **state) {
    (void)state;
    Str got = {0}, want = {0};
    for (int i = 0; i < COUNT_OF(good); i++) {
        char parquet[512], jsonl[512];
        Error err = {0};
        path_of(parquet, good[i], "parquet");
        path_of(jsonl, good[i], "jsonl");
        if (!dump(&got, parquet, &err) || !dump(&want, jsonl, &err)) fail_msg("%s: %s", good[i], err.msg);
        if (strcmp(str_get(&got), str_get(&want)))
            fail_msg("%s:\ngot\n%s\nwant\n%s", good[i], str_get(&got), str_get(&want));
        assert_true(want.n > 0);
    }
    str_release(&got);
    str_release(&want);
}

/* Records do not tell which container they came from, but for the name in ids. */
static void test_same_records(void **state) {
    (void)state;
    static const struct {
        const char *name;
        RowKind kind;
    } file[] = {{"messages_snappy", ROW_INSTRUCTION}, {"messages_v2_zstd", ROW_ANY},
                {"pref_delta", ROW_PREFERENCE},       {"pref_gzip_groups", ROW_PREFERENCE},
                {"pref_lz4_plain", ROW_PREFERENCE},   {"nulls", ROW_PROMPT}};
    for (int i = 0; i < COUNT_OF(file); i++) {
        Rows rows[2] = {{0}, {0}};
        Str text[2] = {{0}, {0}};
        for (int k = 0; k < 2; k++) {
            char path[512];
            Error err = {0};
            path_of(path, file[i].name, k ? "parquet" : "jsonl");
            if (!rows_read(&rows[k], path, file[i].kind, &err)) fail_msg("%s", err.msg);
            for (int r = 0; r < rows[k].n; r++) {
                str_printf(&text[k], "%s %d ", rows[k].row[r].id, rows[k].row[r].line);
                row_to_json(&text[k], &rows[k].row[r]);
                str_putc(&text[k], '\n');
            }
            for (int r = 0; rows[k].skip[r].reason; r++)
                str_printf(&text[k], "%s: %d\n", rows[k].skip[r].reason, rows[k].skip[r].n);
        }
        assert_true(rows[0].n > 0);
        assert_string_equal(text[0].s, text[1].s);
        for (int k = 0; k < 2; k++) str_release(&text[k]), rows_release(&rows[k]);
    }
}

/* Reads all rows; whatever comes, it ends, and errors name the file. */
static bool read_bytes(const void *p, size_t n, int64_t *n_row, Error *err) {
    Parquet *q;
    const Json *row = NULL;
    *n_row = 0;
    if (!parquet_open_bytes(&q, p, n, "bytes", err)) return false;
    JsonBuild *b = json_build_new();
    bool ok;
    while ((ok = parquet_next(q, b, &row, err)) && row && ++*n_row < 200000) json_build_clear(b);
    json_build_free(b);
    parquet_close(q);
    return ok;
}

static void expect_error(const char *name, const char *part) {
    char path[512];
    Error err = {0};
    Str data = {0};
    int64_t n_row;
    path_of(path, name, "parquet");
    if (!io_read_file(&data, path, 1 << 20, &err)) fail_msg("%s", err.msg);
    assert_false(read_bytes(data.s, data.n, &n_row, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    if (!strstr(err.msg, part)) fail_msg("%s: got '%s', wanted '%s'", name, err.msg, part);
    str_release(&data);
}

static void test_refused(void **state) {
    (void)state;
    expect_error("bad_codec", "column 'prompt': unsupported codec BROTLI (4)");
    expect_error("bad_shapes", "column 'v.list.y', row 1: its levels do not fit");
    expect_error("bad_endless_row", "column 'v', row 1: the row holds more than");
    expect_error("bad_endless_rows", "the file unfolds to more than");
}

static void test_damage(void **state) {
    (void)state;
    const Rng rng = {7, RNG_TEST};
    int n_refused = 0, n_tried = 0;
    for (int i = 0; i < COUNT_OF(good); i++) {
        char path[512];
        Error err = {0};
        Str data = {0};
        int64_t n_row;
        path_of(path, good[i], "parquet");
        if (!io_read_file(&data, path, 1 << 20, &err)) fail_msg("%s", err.msg);
        for (size_t n = 0; n < data.n; n += 1 + n / 40) { /* cut off: always refused */
            assert_false(read_bytes(data.s, n, &n_row, &err));
            assert_int_equal(strncmp(err.msg, "bytes: ", 7), 0);
        }
        for (uint32_t k = 0; k < 1500; k++) {
            size_t at = rng_below(rng, (uint64_t)i * 4000 + k, 0, (uint32_t)data.n);
            char was = data.s[at];
            data.s[at] = (char)rng_u32(rng, (uint64_t)i * 4000 + k, 1);
            n_refused += !read_bytes(data.s, data.n, &n_row, &err);
            n_tried++;
            data.s[at] = was;
        }
        assert_true(read_bytes(data.s, data.n, &n_row, &err));
        str_release(&data);
    }
    print_message("%d of %d damaged files refused\n", n_refused, n_tried);
    assert_true(n_refused > n_tried / 4);
}

/* The checksum of pref_delta's pages notices what decoding does not. */
static void test_checksum(void **state) {
    (void)state;
    char path[512];
    Error err = {0};
    Str data = {0};
    int64_t n_row;
    path_of(path, "pref_delta", "parquet");
    if (!io_read_file(&data, path, 1 << 20, &err)) fail_msg("%s", err.msg);
    int n_noticed = 0;
    for (char *no = data.s; (no = memmem(no, (size_t)(data.s + data.n - no), " no", 3)); no++) {
        no[1] = 'N';
        bool noticed = !read_bytes(data.s, data.n, &n_row, &err);
        n_noticed += noticed && strstr(err.msg, "column 'rejected', row 1: a page's checksum is wrong");
        no[1] = 'n';
    }
    assert_int_equal(n_noticed, 30); /* one per row; those in the statistics are not data */
    str_release(&data);
}

/* ---- the two codecs, on blocks written by hand after the format descriptions */

static void test_snappy(void **state) {
    (void)state;
    static const struct {
        const char *in, *out; /* out NULL: refused */
        size_t n_in;
    } c[] = {
        {"\x00", "", 1},
        {"\x03\x08"
         "abc",
         "abc", 5},
        {"\x06\x00"
         "a\x12\x01\x00",
         "aaaaaa", 6}, /* 2-byte offset, length 5, overlapping */
        {"\x09\x08"
         "abc\x09\x03",
         "abcabcabc", 7}, /* 1-byte offset, length 6 */
        {"\x07\x08"
         "abc\x0f\x03\x00\x00\x00",
         "abcabca", 10}, /* 4-byte offset, length 4 */
        {"\x06\x08"
         "abc\x0b\x03\x00\x00\x00",
         "abcabc", 10},
        {"\x06\xf0\x05"
         "abcdef",
         "abcdef", 9}, /* length of the literal in a byte */
        {"\x06\xf4\x05\x00"
         "abcdef",
         "abcdef", 10}, /* in two */
        {"\x03\x08"
         "abcd",
         NULL, 6}, /* bytes left over */
        {"\x04\x08"
         "abc",
         NULL, 5}, /* too few */
        {"\x02\x08"
         "abc",
         NULL, 5}, /* too many */
        {"\x06\x00"
         "a\x12\x02\x00",
         NULL, 6}, /* before the start */
        {"\x06\x00"
         "a\x12\x00\x00",
         NULL, 6}, /* distance 0 */
        {"\x06\x00"
         "a\x12\x01",
         NULL, 5}, /* cut off */
        {"\x03\xf0", NULL, 2},
        {"\x80", NULL, 1},
        {"\xff\xff\xff\xff\xff\x0f\x00", NULL, 7},
        {"", NULL, 0},
    };
    for (int i = 0; i < COUNT_OF(c); i++) {
        char out[64];
        size_t n_out = c[i].out ? strlen(c[i].out) : (size_t)(unsigned char)c[i].in[0] % 64;
        char *in = malloc(c[i].n_in + 1); /* of its own: reading beyond is noticed */
        memcpy(in, c[i].in, c[i].n_in);
        bool ok = unpack_snappy(out, n_out, in, c[i].n_in);
        if (ok != (c[i].out != NULL) || (ok && memcmp(out, c[i].out, n_out))) fail_msg("case %d: %d", i, ok);
        free(in);
    }
}

static void test_lz4(void **state) {
    (void)state;
    static const struct {
        const char *in, *out;
        size_t n_in, n_out;
    } c[] = {
        {"\x00", "", 1, 0},
        {"\x30"
         "abc",
         "abc", 4, 3},
        {"\x12"
         "a\x01\x00\x10"
         "b",
         "aaaaaaab", 6, 8}, /* 1 literal, match of 6 at distance 1, 1 literal */
        {"\xf0\x02"
         "abcdefghijklmnopq",
         "abcdefghijklmnopq", 19, 17},
        {"\x1f"
         "a\x01\x00\x02\x00",
         "aaaaaaaaaaaaaaaaaaaaaa", 6, 22}, /* match of 4 + 15 + 2, then nothing */
        {"\x30"
         "ab",
         NULL, 3, 3},
        {"\x30"
         "abc",
         NULL, 4, 2},
        {"\x30"
         "abc",
         NULL, 4, 4},
        {"\x12"
         "a\x02\x00\x10"
         "b",
         NULL, 6, 8},
        {"\x12"
         "a\x00\x00\x10"
         "b",
         NULL, 6, 8},
        {"\x12"
         "a\x01\x00",
         NULL, 4, 7}, /* ends in a copy */
        {"\xf0\xff", NULL, 2, 60},
        {"", NULL, 0, 0},
    };
    for (int i = 0; i < COUNT_OF(c); i++) {
        char out[64], *in = malloc(c[i].n_in + 1);
        memcpy(in, c[i].in, c[i].n_in);
        bool ok = unpack_lz4(out, c[i].n_out, in, c[i].n_in);
        if (ok != (c[i].out != NULL) || (ok && memcmp(out, c[i].out, c[i].n_out))) fail_msg("case %d: %d", i, ok);
        free(in);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows),     cmocka_unit_test(test_same_records),
                                       cmocka_unit_test(test_refused),  cmocka_unit_test(test_damage),
                                       cmocka_unit_test(test_checksum), cmocka_unit_test(test_snappy),
                                       cmocka_unit_test(test_lz4)};
    return cmocka_run_group_tests_name("parquet", tests, NULL, NULL);
}
