// layer: text
/* Tokenizer files of every style and component against what Hugging Face's `tokenizers` makes of them (tok_cases.json,
 * written by tests/oracle/tok_goldens.py): ids, places, decoded text; each file written by us and read again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tok_help.h"

typedef struct {
    const char *file, *text;
    size_t n;
} Where;

static void assert_list(const Where *w, const char *what, const int32_t *got, int n_got, const Json *want) {
    bool same = n_got == json_len(want);
    for (int i = 0; same && i < n_got; i++) same = got[i] == (int32_t)json_int(json_at(want, i), -1);
    if (same) return;
    Str s = {0};
    for (int i = 0; i < n_got; i++) str_printf(&s, " %d", (int)got[i]);
    str_put(&s, "\n  expected");
    for (int i = 0; i < json_len(want); i++) str_printf(&s, " %d", (int)json_int(json_at(want, i), -1));
    fail_msg("%s, '%.*s': %s differ\n  got     %s", w->file, (int)w->n, w->text, what, s.s);
}

/* Places, rounded outward to characters as the reference gives them. */
static void assert_places(const Where *w, const SpanBuf *spans, const Json *want) {
    int32_t *at = mem_alloc((2 * (size_t)spans->n + 1) * sizeof *at);
    for (int i = 0; i < spans->n; i++) {
        size_t from = spans->at[i].from, to = spans->at[i].to;
        while (from > 0 && from < w->n && ((unsigned char)w->text[from] & 0xC0) == 0x80) from--;
        while (to > from && to < w->n && ((unsigned char)w->text[to] & 0xC0) == 0x80) to++;
        at[2 * i] = (int32_t)from;
        at[2 * i + 1] = (int32_t)to;
    }
    assert_list(w, "places", at, 2 * spans->n, want);
    free(at);
}

static void check_case(Encoder *e, const Where *w, const Json *c) {
    const EncodeOpts special = {.special = true}, plain = {0}, around = {.special = true, .around = true};
    TokBuf ids = {0};
    SpanBuf spans = {0};
    Str back = {0};
    size_t n_want;
    encoder_encode_opts(e, w->text, w->n, &special, &ids, NULL);
    assert_list(w, "ids", ids.id, ids.n, json_get(c, "ids"));
    const char *want = json_str(json_get(c, "decoded"), &n_want);
    tokenizer_decode(encoder_tokenizer(e), ids.id, ids.n, true, &back);
    if (!want) want = w->text, n_want = w->n;
    Str shown = {0}, expected = {0}; /* the reference writes U+FFFD where we give bytes: as JSON both are the same */
    JsonOut j;
    json_out_init(&j, &shown, 0);
    json_out_strn(&j, NULL, str_get(&back), back.n);
    json_out_init(&j, &expected, 0);
    json_out_strn(&j, NULL, want, n_want);
    if (strcmp(str_get(&shown), str_get(&expected)) != 0)
        fail_msg("%s: decoded %s, expected %s", w->file, shown.s, expected.s);
    ids.n = 0;
    encoder_encode_opts(e, w->text, w->n, &special, &ids, &spans);
    assert_list(w, "ids with places", ids.id, ids.n, json_get(c, "ids"));
    assert_int_equal(spans.n, ids.n);
    if (json_get(c, "at")) assert_places(w, &spans, json_get(c, "at"));
    ids.n = 0;
    encoder_encode_opts(e, w->text, w->n, &plain, &ids, NULL);
    if (json_get(c, "plain")) assert_list(w, "ids of plain text", ids.id, ids.n, json_get(c, "plain"));
    for (int i = 0; i < ids.n; i++)
        if (tokenizer_is_special(encoder_tokenizer(e), ids.id[i]) && ids.id[i] != encoder_tokenizer(e)->unk)
            fail_msg("%s, '%s': text became special token %d", w->file, w->text, (int)ids.id[i]);
    ids.n = 0;
    encoder_encode_opts(e, w->text, w->n, &around, &ids, NULL);
    if (json_get(c, "around")) assert_list(w, "ids with what is put around", ids.id, ids.n, json_get(c, "around"));
    tokbuf_release(&ids);
    spanbuf_release(&spans);
    str_release(&back);
    str_release(&shown);
    str_release(&expected);
}

/* Each text twice with one encoder, so that the second time its pieces are remembered, and what it remembers of special
 * tokens is not used for plain text. */
static void check_file(const Json *file, const Tokenizer *t, int *n_case) {
    Encoder *e = encoder_open(t);
    const Json *cases = json_get(file, "cases");
    for (int i = 0; i < 2 * json_len(cases); i++) {
        const Json *c = json_at(cases, i % json_len(cases));
        Where w = {json_str(json_get(file, "name"), NULL), NULL, 0};
        w.text = json_str(json_get(c, "text"), &w.n);
        check_case(e, &w, c);
    }
    *n_case += json_len(cases);
    encoder_close(e);
}

static void test_files(void **state) {
    (void)state;
    const Json *files = json_get(root, "files");
    int n_case = 0;
    for (int i = 0; i < json_len(files); i++) {
        Tokenizer *t = open_file(json_at(files, i));
        check_file(json_at(files, i), t, &n_case);
        tokenizer_close(t);
    }
    assert_true(json_len(files) > 30 && n_case > 300);
}

static void test_written(void **state) {
    (void)state;
    const Json *files = json_get(root, "files");
    int n_case = 0;
    for (int i = 0; i < json_len(files); i++) {
        Tokenizer *t = open_file(json_at(files, i)), *again;
        Str json = {0};
        Error err = {0};
        tokenizer_write(t, &json);
        if (!tokenizer_parse(&again, json.s, json.n, "written", &err)) fail_msg("%s", err.msg);
        check_file(json_at(files, i), again, &n_case);
        tokenizer_close(t);
        tokenizer_close(again);
        str_release(&json);
    }
}

/* A text decoded id by id is the text decoded at once; special tokens between change nothing. */
static void test_decode_in_parts(void **state) {
    (void)state;
    const Json *files = json_get(root, "files");
    for (int i = 0; i < json_len(files); i++) {
        Tokenizer *t = open_file(json_at(files, i));
        const Json *cases = json_get(json_at(files, i), "cases");
        for (int k = 0; t->has_decoder && k < json_len(cases); k++) {
            const Json *want = json_get(json_at(cases, k), "ids");
            TokBuf ids = {0};
            Str parts = {0}, whole = {0};
            tokbuf_put(&ids, 1);
            for (int m = 0; m < json_len(want); m++) tokbuf_put(&ids, (int32_t)json_int(json_at(want, m), -1));
            for (int m = 0; m < ids.n; m++) tokenizer_decode_more(t, ids.id, m, m + 1, false, &parts);
            tokenizer_decode(t, ids.id, ids.n, false, &whole);
            assert_string_equal(str_get(&parts), str_get(&whole));
            tokbuf_release(&ids);
            str_release(&parts);
            str_release(&whole);
        }
        tokenizer_close(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_written),
        cmocka_unit_test(test_decode_in_parts),
    };
    return cmocka_run_group_tests(tests, open_root, close_root);
}
