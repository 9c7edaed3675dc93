// layer: base
/* JSON in: what is accepted and refused, with places. JSON out: numbers as Python prints them, escapes, order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/io.h"
#include "base/json_int.h"
#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool parses(const char *s, size_t n, int flags, Error *err) {
    Json *j;
    bool ok = json_parse(&j, s, n, flags, "t", 1, err);
    json_release(j);
    return ok;
}

static void test_accepts(void **state) {
    (void)state;
    static const char *const good[] = {
        "{\"a\":9007199254740993}",
        "9223372036854775807",
        "-9223372036854775808",
        "1e-400",
        "-0.0",
        "0.1",
        "1E5",
        " [1 , 2 ] \n",
        "\"\\ud83d\\ude00\"",
        "\"\\u00e9\"",
        "\"\x7f\"",
        "true",
        "null",
        "{}",
        "[]",
        "\"\\/\"",
        "{\"\":1}",
        "[[[]]]",
    };
    Error err = {0};
    for (int i = 0; i < COUNT_OF(good); i++) {
        if (!parses(good[i], strlen(good[i]), 0, &err)) fail_msg("%s: %s", good[i], err.msg);
    }
}

static const char *const bad[] = {
    "",
    " ",
    "9223372036854775808",
    "18446744073709551615",
    "1e400",
    "1.",
    ".5",
    "+1",
    "01",
    "0x10",
    "NaN",
    "Infinity",
    "[1,]",
    "{\"a\":1,}",
    "{\"a\":1,\"a\":2}",
    "{a:1}",
    "'a'",
    "\"a\nb\"",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"\\udc00\"",
    "\"\\ud83d\\ue000\"",
    "\"\xff\"",
    "\"\xc0\x80\"",
    "\xef\xbb\xbf{}",
    "{} x",
    "[1] [2]",
    "// c\n1",
    "tru",
    "\"\\x41\"",
    "[1",
    "{\"a\"",
    "\"abc",
    "\"a\\u0000b\"",
};

static void test_refuses(void **state) {
    (void)state;
    Error err = {0};
    for (int i = 0; i < COUNT_OF(bad); i++) {
        if (parses(bad[i], strlen(bad[i]), 0, &err)) fail_msg("accepted: %s", bad[i]);
        assert_int_equal(err.code, ERR_FORMAT);
        assert_true(strncmp(err.msg, "t:", 2) == 0);
    }
    assert_false(parses("\"a\0b\"", 5, JSON_NUL_OK, &err));
    Str deep = {0};
    for (int i = 0; i < 100000; i++) str_putc(&deep, '[');
    assert_false(parses(deep.s, deep.n, 0, &err));
    str_release(&deep);
}

static void test_places_and_flags(void **state) {
    (void)state;
    Error err = {0};
    Json *j;
    assert_false(json_parse(&j, "{\"a\":1,\n \"b\": x}", 16, 0, "data.jsonl", 17, &err));
    assert_non_null(strstr(err.msg, "data.jsonl:18:7: bad JSON:"));
    assert_null(j);

    static const char big[] = "{\"model_max_length\":1000000000000000019884624838656,\"n\":12}";
    assert_false(parses(big, strlen(big), 0, &err));
    assert_true(json_parse(&j, big, strlen(big), JSON_INT_AS_REAL, "t", 1, &err));
    assert_true(json_num(json_get(j, "model_max_length"), 0) > 9e29);
    assert_int_equal(json_int(json_get(j, "model_max_length"), -1), -1);
    assert_int_equal(json_int(json_get(j, "n"), -1), 12);
    json_release(j);

    assert_true(json_parse(&j, "[\"a\\u0000b\"]", 12, JSON_NUL_OK, "t", 1, &err));
    size_t n;
    const char *s = json_str(json_at(j, 0), &n);
    assert_int_equal(n, 3);
    assert_memory_equal(s, "a\0b", 4);
    json_release(j);
}

static void test_reading(void **state) {
    (void)state;
    Error err = {0};
    Json *j;
    static const char text[] = "{\"z\":1,\"a\":[1.5,true,null,\"x\"],\"m\":{\"k\":-2}}";
    assert_true(json_parse(&j, text, strlen(text), 0, "t", 1, &err));
    assert_int_equal(json_kind(j), JSON_OBJ);
    assert_int_equal(json_len(j), 3);
    const Json *v;
    assert_string_equal(json_key_at(j, 0, &v), "z");
    assert_int_equal(json_int(v, 0), 1);
    assert_string_equal(json_key_at(j, 2, NULL), "m");
    assert_null(json_key_at(j, 3, &v));
    assert_null(v);
    const Json *a = json_get(j, "a");
    assert_int_equal(json_len(a), 4);
    assert_true(json_num(json_at(a, 0), 0) == 1.5);
    assert_true(json_bool(json_at(a, 1), false));
    assert_int_equal(json_kind(json_at(a, 2)), JSON_NIL);
    assert_string_equal(json_str(json_at(a, 3), NULL), "x");
    assert_null(json_at(a, 4));
    assert_null(json_at(a, -1));
    assert_int_equal(json_int(json_get(json_get(j, "m"), "k"), 0), -2);
    assert_null(json_get(a, "k"));
    assert_int_equal(json_int(NULL, 5), 5);

    const char *s;
    double d;
    assert_false(json_need_str(j, "z", &s, NULL, &err));
    assert_string_equal(err.msg, "expected a string at 'z', found a number");
    assert_false(json_need_num(j, "nope", &d, &err));
    assert_string_equal(err.msg, "expected a number at 'nope', found nothing");
    assert_true(json_need_num(j, "z", &d, &err) && d == 1);
    json_release(j);
}

static void test_large_object(void **state) {
    (void)state;
    Error err = {0};
    Str text = {0};
    enum { N = 5000 };
    JsonOut o;
    json_out_init(&o, &text, 0);
    json_out_obj(&o, NULL);
    for (int i = 0; i < N; i++) {
        char key[20];
        snprintf(key, sizeof key, "k%d", i * 7);
        json_out_int(&o, key, i);
    }
    json_out_obj_end(&o);
    Json *j;
    assert_true(json_parse(&j, text.s, text.n, 0, "t", 1, &err));
    for (int i = 0; i < N; i++) {
        const Json *v;
        const char *key = json_key_at(j, i, &v);
        assert_int_equal(json_int(v, -1), i);
        assert_ptr_equal(json_get(j, key), v);
    }
    assert_null(json_get(j, "k1"));
    json_release(j);
    str_release(&text);
}

static void test_numbers_as_python(void **state) {
    (void)state;
    static const struct {
        double v;
        const char *s;
    } row[] = {
        {0.0, "0.0"},
        {-0.0, "-0.0"},
        {1, "1.0"},
        {-1.5, "-1.5"},
        {0.1, "0.1"},
        {1.0 / 3, "0.3333333333333333"},
        {1e16, "1e+16"},
        {1e15, "1000000000000000.0"},
        {9999999999999998.0, "9999999999999998.0"},
        {123456789012345680.0, "1.2345678901234568e+17"},
        {0.0001, "0.0001"},
        {0.00001, "1e-05"},
        {0.00012345, "0.00012345"},
        {1.5e-7, "1.5e-07"},
        {5e-324, "5e-324"},
        {2.2250738585072014e-308, "2.2250738585072014e-308"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {100, "100.0"},
        {1e100, "1e+100"},
        {3e-6, "3e-06"},
        {0.30000000000000004, "0.30000000000000004"},
        {2251799813685248.5, "2251799813685248.5"},
        {1e22, "1e+22"},
        {(double)0.1f, "0.10000000149011612"},
    };
    char buf[32];
    for (int i = 0; i < COUNT_OF(row); i++) {
        json_format_num(buf, row[i].v);
        assert_string_equal(buf, row[i].s);
    }
    Rng r = {.seed = 11, .stream = RNG_TEST};
    for (uint64_t i = 0; i < 20000; i++) {
        uint32_t b[4];
        double v;
        rng_block(b, r, i, 0);
        memcpy(&v, b, sizeof v);
        if (!isfinite(v)) continue;
        if (i % 3 == 0) v = rng_normal(r, i, 1);
        json_format_num(buf, v);
        double back = strtod(buf, NULL);
        assert_memory_equal(&back, &v, sizeof v);
        assert_true(strpbrk(buf, ".e") != NULL);
    }
}

static void test_writing(void **state) {
    (void)state;
    Str s = {0};
    JsonOut o;
    json_out_init(&o, &s, 0);
    json_out_obj(&o, NULL);
    json_out_str(&o, "q", "a\"b\\c/\b\f\n\r\t\x01\x7f\xC3\xA9");
    json_out_str(&o, "none", NULL);
    json_out_arr(&o, "list");
    json_out_num(&o, NULL, 0.5);
    json_out_num(&o, NULL, NAN);
    json_out_int(&o, NULL, INT64_MIN);
    json_out_bool(&o, NULL, true);
    json_out_obj(&o, NULL);
    json_out_obj_end(&o);
    json_out_arr_end(&o);
    json_out_strn(&o, "bad", "x\xFFy\xE2\x82z\0", 7);
    json_out_obj_end(&o);
    assert_string_equal(s.s,
                        "{\"q\":\"a\\\"b\\\\c/\\b\\f\\n\\r\\t\\u0001\x7f\xC3\xA9\",\"none\":null,\"list\":[0.5,null,"
                        "-9223372036854775808,true,{}],\"bad\":\"x\xEF\xBF\xBDy\xEF\xBF\xBD\xEF\xBF\xBDz\\u0000\"}");
    Error err = {0};
    Json *j;
    assert_true(json_parse(&j, s.s, s.n, JSON_NUL_OK, "t", 1, &err));
    Str again = {0};
    json_out_init(&o, &again, 0);
    json_out_node(&o, NULL, j);
    assert_string_equal(again.s, s.s); /* print of parse is the same text */
    str_clear(&again);
    json_out_init(&o, &again, 2);
    json_out_obj(&o, NULL);
    json_out_node(&o, "v", json_get(j, "list"));
    json_out_arr(&o, "e");
    json_out_arr_end(&o);
    json_out_obj_end(&o);
    assert_string_equal(again.s,
                        "{\n  \"v\": [\n    0.5,\n    null,\n    -9223372036854775808,\n    true,\n    {}\n  ],\n"
                        "  \"e\": []\n}");
    json_release(j);
    str_release(&again);
    str_release(&s);
}

static void test_files(void **state) {
    (void)state;
    Error err = {0};
    Json *j;
    assert_false(json_read_file(&j, "no_such.json", 0, &err));
    assert_int_equal(err.code, ERR_IO);
    assert_true(io_write_file("json_test.json", "[1,\n2,]", 7, &err));
    assert_false(json_read_file(&j, "json_test.json", 0, &err));
    assert_true(strncmp(err.msg, "json_test.json:2:3: bad JSON", 28) == 0);
    unlink("json_test.json");
}

/* -- the quick reader beside jansson */

static bool same(const Json *a, const Json *b) {
    if (a->kind != b->kind || a->n != b->n) return false;
    switch (a->kind) {
    case JSON_OBJ:
        for (size_t i = 0; i < a->n; i++) {
            const Members *x = a->u.members, *y = b->u.members;
            if (strcmp(x->key[i], y->key[i]) || !same(&x->value[i], &y->value[i])) return false;
            if (json_get(a, x->key[i]) != &x->value[i]) return false;
        }
        return true;
    case JSON_ARR:
        for (size_t i = 0; i < a->n; i++)
            if (!same(&a->u.item[i], &b->u.item[i])) return false;
        return true;
    case JSON_STR:
        return memcmp(a->u.s, b->u.s, a->n + 1) == 0;
    case JSON_INT:
        return a->u.i == b->u.i;
    case JSON_REAL:
        return memcmp(&a->u.r, &b->u.r, sizeof(double)) == 0;
    default:
        return true;
    }
}

/* Did the quick reader take it? If so jansson does, with the same tree. */
static bool quick(const char *s, size_t n, int flags) {
    Error err = {0};
    JsonBuild b = {0};
    Json *j;
    /* Exactly as long as the text, so that a sanitizer sees who reads on. */
    char *copy = malloc(n ? n : 1);
    memcpy(copy, s, n);
    bool ok = json_scan(&b, copy, n, flags);
    free(copy);
    bool good = json_parse_jansson(&j, s, n, flags, "t", 1, &err);
    if (ok && !good) fail_msg("taken, but %s: %.*s", err.msg, (int)n, s);
    if (ok && !same(json_build_take(&b), j)) fail_msg("another tree: %.*s", (int)n, s);
    json_release(j);
    json_build_release(&b);
    return ok;
}

static void test_quick_takes(void **state) {
    (void)state;
    static const char *const text[] = {
        "{}",
        "[]",
        " [ ] ",
        "\"\"",
        "-0",
        "0",
        "123456789012345678",
        "-12",
        "0.1",
        "-0.0",
        "1e-400",
        "2.5E+3",
        "1234567890123456789012345678901234.56",
        "{\"a\" : [1, {\"b\":null, \"c\":[true,false,[[]],{}]}, \"x\"] ,\r\n\t\"d\":{} }\n",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\u20AC\\ud83d\\ude00\"",
        "\"12345678\\n12345678\\n\"",
        "\"\xC3\xA9 and \xF0\x9F\x98\x80 \x7f\"",
        "{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5,\"f\":6,\"g\":7,\"h\":8,\"i\":9,\"j\":10,\"k\":11,\"l\":12,\"m\":13}",
        "{\"\":1}",
    };
    for (int i = 0; i < COUNT_OF(text); i++)
        if (!quick(text[i], strlen(text[i]), 0)) fail_msg("left to jansson: %s", text[i]);
    for (int i = 0; i < COUNT_OF(bad); i++)
        if (quick(bad[i], strlen(bad[i]), 0)) fail_msg("taken: %s", bad[i]);
    assert_true(quick("\"a\\u0000b\"", 10, JSON_NUL_OK));
    assert_true(quick("[12,-0,1e3]", 11, JSON_INT_AS_REAL));
    Str deep = {0};
    for (int open = 0; open < 2; open++)
        for (int i = 0; i < SCAN_DEPTH; i++) str_putc(&deep, open ? ']' : '[');
    assert_true(quick(deep.s, deep.n, 0));
    str_release(&deep);
}

enum { PIECES = 48 };
static const char *const piece[PIECES] = {"{",
                                          "}",
                                          "[",
                                          "]",
                                          ",",
                                          ":",
                                          "\"",
                                          "\"a\"",
                                          "\"b\":",
                                          "\"a\":1",
                                          "1",
                                          "-",
                                          "0",
                                          ".",
                                          "e",
                                          "+",
                                          "9999999999",
                                          "true",
                                          "false",
                                          "null",
                                          " ",
                                          "\n",
                                          "\\",
                                          "u",
                                          "\\u00",
                                          "d83d",
                                          "\\ude00",
                                          "\xC3\xA9",
                                          "\xC3",
                                          "\xA9",
                                          "\xED\xA0\x80",
                                          "\xF0\x9F\x98\x80",
                                          "\xF5",
                                          "text text",
                                          "12345678",
                                          "\\n",
                                          "\\u0000",
                                          "\x01",
                                          "/",
                                          "E1",
                                          "[[",
                                          "]]",
                                          "{\"k\":",
                                          "}}",
                                          "\"x\":[1,2]",
                                          "nul",
                                          "1e999",
                                          "0.5"};

/* Random texts, and good ones with a byte or two changed, cut or doubled. */
static void test_quick_agrees(void **state) {
    (void)state;
    static const int flags[] = {0, JSON_NUL_OK, JSON_INT_AS_REAL};
    static const char good[] = "{\"prompt\": \"a longer piece of text, \\\"quoted\\\" \\u00e9 \xC3\xA9\", \"n\": [1, "
                               "-2.5e3, true, null, {\"k\": []}], "
                               "\"m\": {\"prompt\": \"x\", \"y\": 12}}";
    Rng r = {.seed = 5, .stream = RNG_TEST};
    int taken = 0;
    Str text = {0};
    for (uint64_t i = 0; i < 60000; i++) {
        uint32_t x[4];
        rng_block(x, r, i, 0);
        str_clear(&text);
        if (i % 2) {
            for (uint32_t k = 0; k < 1 + x[0] % 9; k++) {
                uint32_t y[4];
                rng_block(y, r, i, 1 + k);
                str_put(&text, piece[y[0] % PIECES]);
            }
        } else {
            size_t n = sizeof good - 1, at = x[0] % n, other = x[1] % n;
            str_putn(&text, good, n);
            if (x[3] % 4 == 0) text.s[at] = (char)x[2];
            if (x[3] % 4 == 1) text.s[at] = good[other];
            if (x[3] % 4 == 2) text.n = at;
            if (x[3] % 4 == 3) str_putn(&text, good + other, n - other);
        }
        taken += quick(text.n ? text.s : "", text.n, flags[i / 2 % COUNT_OF(flags)]);
    }
    str_release(&text);
    assert_in_range(taken, 4000, 60000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quick_takes),  cmocka_unit_test(test_quick_agrees),      cmocka_unit_test(test_accepts),
        cmocka_unit_test(test_refuses),      cmocka_unit_test(test_places_and_flags),  cmocka_unit_test(test_reading),
        cmocka_unit_test(test_large_object), cmocka_unit_test(test_numbers_as_python), cmocka_unit_test(test_writing),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
