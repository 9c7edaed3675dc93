// layer: text
/* The tokenizer's parts by themselves: normal forms against utf8proc's, cutting before U+2581, bytes that are not
 * UTF-8, text that must not become special tokens, what a tokenizer tells of itself, files that are no tokenizer.json.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <utf8proc.h>

#include "base/io.h"
#include "base/rng.h"
#include "tok_help.h"

/* ---- normal forms ---- */

static const struct {
    FormKind kind;
    utf8proc_option_t option;
} forms[] = {{FORM_NFC, UTF8PROC_STABLE | UTF8PROC_COMPOSE},
             {FORM_NFD, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
             {FORM_NFKC, UTF8PROC_STABLE | UTF8PROC_COMPAT | UTF8PROC_COMPOSE},
             {FORM_NFKD, UTF8PROC_STABLE | UTF8PROC_COMPAT | UTF8PROC_DECOMPOSE}};

static void put_char(Str *s, uint32_t c) {
    char utf8[4];
    str_putn(s, utf8, utf8_write(utf8, c));
}

static void assert_form(int k, const Str *s) {
    FormStep step = {.kind = forms[k].kind};
    Normal n = {0};
    utf8proc_uint8_t *want;
    View v = normalize(&step, 1, &n, (View){s->s, s->n, NULL, NULL, 0}, false);
    utf8proc_ssize_t n_want =
        utf8proc_map((const utf8proc_uint8_t *)s->s, (utf8proc_ssize_t)s->n, &want, forms[k].option);
    assert_true(n_want >= 0);
    if (v.n != (size_t)n_want || memcmp(v.s, want, v.n) != 0) {
        size_t at = 0;
        while (at < v.n && at < (size_t)n_want && v.s[at] == (char)want[at]) at++;
        fail_msg("form %d differs at byte %zu of %zu, '%.40s' for '%.40s'", k, at, v.n, v.s + at, (char *)want + at);
    }
    free(want);
    normal_release(&n);
}

/* Every code point alone, between letters and behind one, but those the reference does not know. */
static void test_forms_of_all(void **state) {
    (void)state;
    Str s = {0};
    for (uint32_t c = 1; c < 0x110000; c++) {
        if ((c >= 0xD800 && c < 0xE000) || char_is_young(c)) continue;
        put_char(&s, c);
        str_putc(&s, 'e');
        put_char(&s, c);
        if (s.n < 8000 && c != 0x10FFFF) continue;
        for (int k = 0; k < COUNT_OF(forms); k++) assert_form(k, &s);
        str_clear(&s);
    }
    str_release(&s);
}

static void test_forms_of_marks(void **state) {
    (void)state;
    static const uint32_t part[] = {0x41,   0x65,   0x301,  0x323,  0x308,  0x327,  0x345,  0x93C,  0x915, 0x9C7, 0x9BE,
                                    0x1100, 0x1161, 0x11A8, 0xAC00, 0x212B, 0x1E0B, 0x307,  0xDDC,  0xDCA, 0x344, 0x958,
                                    0xFB01, 0x3099, 0x304B, 0x3162, 0xFDFA, 0x17F,  0x1FBE, 0x2FA1, 0x5D0, 0x5B0};
    Rng r = {17, RNG_TEST};
    Str s = {0};
    for (uint64_t i = 0; i < 4000; i++) {
        str_clear(&s);
        uint32_t n = 1 + rng_below(r, i, 0, i % 50 == 0 ? 300 : 12);
        for (uint32_t k = 0; k < n; k++) put_char(&s, part[rng_below(r, i, 1 + k, COUNT_OF(part))]);
        for (int k = 0; k < COUNT_OF(forms); k++) assert_form(k, &s);
    }
    str_clear(&s); /* marks of many classes in a row, more than are ordered by insertion */
    for (uint64_t i = 0; i < 200000; i++) put_char(&s, 0x300 + rng_below(r, i, 9, 0x6F));
    for (int k = 0; k < COUNT_OF(forms); k++) assert_form(k, &s);
    str_release(&s);
}

/* ---- cutting ---- */

static void put_random(Str *s, Rng r, uint64_t i) {
    static const char *const part[] = {
        " ",        "  ",  "the", "gate",         "a", "b",   "e",    "\xE2\x96\x81",     "\n",
        "\xC3\xA9", "n't", "1",   "\xE7\x8C\xAB", ".", "red", " the", "\xF0\x9F\x98\x80", "x"};
    str_clear(s);
    uint32_t n = rng_below(r, i, 0, 60);
    for (uint32_t k = 0; k < n; k++) str_put(s, part[rng_below(r, i, 1 + k, COUNT_OF(part))]);
}

/* Pieces cut before U+2581 and remembered give the ids of pieces merged whole. */
static void test_cut_before_space(void **state) {
    (void)state;
    static const char *const name[] = {"mistral", "llama2", "across", "few, unk", "unk fused", "leads to special"};
    Rng r = {23, RNG_TEST};
    Str s = {0};
    TokBuf ids = {0}, want = {0};
    for (int f = 0; f < COUNT_OF(name); f++) {
        Tokenizer *t = open_named(name[f]), *whole = open_named(name[f]);
        assert_true(t->cut_space);
        whole->cut_space = false;
        Encoder *e = encoder_open(t);
        for (uint64_t i = 0; i < 400; i++) {
            put_random(&s, r, i);
            ids.n = want.n = 0;
            encoder_encode(e, str_get(&s), s.n, &ids);
            tokenizer_encode(whole, str_get(&s), s.n, &want);
            assert_int_equal(ids.n, want.n);
            if (ids.n > 0) assert_memory_equal(ids.id, want.id, (size_t)ids.n * 4);
        }
        encoder_close(e);
        tokenizer_close(t);
        tokenizer_close(whole);
    }
    Tokenizer *t = open_named("few, nothing"); /* characters vanish, which brings spaces together */
    assert_false(t->cut_space);
    tokenizer_close(t);
    t = open_named("across"); /* merges lead across: not behind those characters */
    assert_true(t->n_cut_not > 0);
    tokenizer_close(t);
    str_release(&s);
    tokbuf_release(&ids);
    tokbuf_release(&want);
}

/* ---- bytes that are not UTF-8 ---- */

static void assert_same(const TokBuf *got, const TokBuf *want) {
    for (int i = 0; i < got->n && i < want->n; i++) assert_int_equal(got->id[i], want->id[i]);
    assert_int_equal(got->n, want->n);
}

static void test_invalid_bytes(void **state) {
    (void)state;
    static const struct {
        const char *file, *text, *first, *byte, *rest; /* rest is encoded as if it stood behind an added token */
    } table[] = {
        {"mistral", "the\xFFgate", "the", "<0xFF>", "gate"},
        {"llama2", "the\xC3gate", "the", "<0xC3>", "gate"},
        {"llama2", "\x80 a", "", "<0x80>", " a"},
        {"few, unk", "the\x80gate", "the", NULL, "gate"},
        {"unk each", "the\x80gate", "the", "<unk>", "gate"},
        {"qwen2", "e\xCC\x81\xFFgate", "\xC3\xA9", NULL, "gate"},
    };
    for (int i = 0; i < COUNT_OF(table); i++) {
        Tokenizer *t = open_named(table[i].file);
        TokBuf ids = {0}, want = {0}, rest = {0};
        Str behind = {0};
        tokenizer_encode(t, table[i].text, strlen(table[i].text), &ids);
        tokenizer_encode(t, table[i].first, strlen(table[i].first), &want);
        int32_t byte = table[i].byte   ? tokenizer_id(t, table[i].byte)
                       : t->byte_level ? t->byte_id[0xFF]
                                       : t->fallback[0x80];
        if (byte < 0) byte = t->unk;
        assert_true(byte >= 0);
        tokbuf_put(&want, byte);
        str_printf(&behind, "<s>%s", table[i].rest);
        Encoder *e = encoder_open(t);
        encoder_encode_opts(e, behind.s, behind.n, &(const EncodeOpts){.special = true}, &rest, NULL);
        tokbuf_putn(&want, rest.id + 1, rest.n - 1);
        assert_same(&ids, &want);
        encoder_close(e);
        tokbuf_release(&ids);
        tokbuf_release(&want);
        tokbuf_release(&rest);
        str_release(&behind);
        tokenizer_close(t);
    }
}

/* ---- special tokens ---- */

static int count_special(Encoder *e, const char *text, const EncodeOpts *o) {
    TokBuf ids = {0};
    int n = 0;
    encoder_encode_opts(e, text, strlen(text), o, &ids, NULL);
    for (int i = 0; i < ids.n; i++) n += tokenizer_is_special(encoder_tokenizer(e), ids.id[i]);
    tokbuf_release(&ids);
    return n;
}

static void test_plain_stretches(void **state) {
    (void)state;
    Tokenizer *t = open_named("llama3");
    Encoder *e = encoder_open(t);
    const char *text = "<s>a<s>b</s>"; /* at 0, 4 and 8 */
    const ByteSpan one[] = {{4, 7}}, touch[] = {{1, 2}, {9, 20}}, beside[] = {{3, 4}, {7, 8}}, all[] = {{0, 12}};
    assert_int_equal(count_special(e, text, &(const EncodeOpts){0}), 0);
    assert_int_equal(count_special(e, text, &(const EncodeOpts){.special = true}), 3);
    assert_int_equal(count_special(e, text, &(const EncodeOpts){.special = true, .plain = one, .n_plain = 1}), 2);
    assert_int_equal(count_special(e, text, &(const EncodeOpts){.special = true, .plain = touch, .n_plain = 2}), 1);
    assert_int_equal(count_special(e, text, &(const EncodeOpts){.special = true, .plain = beside, .n_plain = 2}), 3);
    assert_int_equal(count_special(e, text, &(const EncodeOpts){.special = true, .plain = all, .n_plain = 1}), 0);
    encoder_close(e);
    tokenizer_close(t);
    t = open_named("leads to special"); /* nor does merging make one of what a user wrote */
    e = encoder_open(t);
    assert_int_equal(count_special(e, text, &(const EncodeOpts){.special = true, .plain = one, .n_plain = 1}), 2);
    assert_int_equal(count_special(e, text, &(const EncodeOpts){.special = true}), 3);
    encoder_close(e);
    tokenizer_close(t);
}

/* Merging leads to <s>, and through it to longer tokens: those stay, <s> itself is taken apart. */
static void test_special_taken_apart(void **state) {
    (void)state;
    Tokenizer *t = open_named("leads to special");
    TokBuf ids = {0};
    Str back = {0};
    tokenizer_encode(t, "<s>x<s><s>", 10, &ids);
    for (int i = 0; i < ids.n; i++) assert_false(tokenizer_is_special(t, ids.id[i]));
    assert_int_equal(ids.id[ids.n - 1], tokenizer_id(t, "<s><s>"));
    tokenizer_decode(t, ids.id, ids.n, true, &back);
    assert_string_equal(str_get(&back), "<s>x<s><s>");
    SpanBuf spans = {0};
    Encoder *e = encoder_open(t);
    ids.n = 0;
    encoder_encode_opts(e, "b<s>", 4, &(const EncodeOpts){0}, &ids, &spans);
    assert_int_equal(spans.at[spans.n - 1].from, 3); /* ">" of its own */
    assert_int_equal(spans.at[spans.n - 2].from, 1); /* "<s" */
    assert_int_equal(spans.at[spans.n - 2].to, 3);
    encoder_close(e);
    tokbuf_release(&ids);
    spanbuf_release(&spans);
    str_release(&back);
    tokenizer_close(t);
}

/* ---- what it tells, and writing ---- */

static void test_questions(void **state) {
    (void)state;
    Tokenizer *t = open_named("mistral");
    Str s = {0};
    assert_int_equal(tokenizer_role(t, 0), ROLE_TOKEN_UNKNOWN);
    assert_int_equal(tokenizer_role(t, 1), ROLE_TOKEN_CONTROL);
    assert_int_equal(tokenizer_role(t, tokenizer_id(t, "<0x41>")), ROLE_TOKEN_BYTE);
    assert_int_equal(tokenizer_role(t, tokenizer_id(t, "a")), ROLE_TOKEN_NORMAL);
    assert_int_equal(tokenizer_role(t, tokenizer_id(t, "[KEEP]")), ROLE_TOKEN_USER);
    assert_int_equal(tokenizer_role(t, tokenizer_n_vocab(t)), ROLE_TOKEN_ABSENT);
    assert_false(tokenizer_is_byte_level(t) || tokenizer_is_exact(t) || tokenizer_normalizes(t));
    assert_true(tokenizer_adds_prefix(t));
    assert_null(tokenizer_pattern(t));
    tokenizer_close(t);
    t = open_named("llama3");
    TokBuf before = {0}, after = {0};
    tokenizer_around(t, &before, &after);
    assert_int_equal(before.n, 1);
    assert_int_equal(after.n, 2);
    assert_int_equal(after.id[1], 5);
    assert_true(tokenizer_is_byte_level(t) && !tokenizer_adds_prefix(t));
    assert_false(tokenizer_is_exact(t)); /* [KEEP] takes in blanks */
    Tokenizer *bare = open_named("o200k");
    assert_true(tokenizer_is_exact(bare));
    tokenizer_close(bare);
    assert_string_equal(tokenizer_pattern(t), split_pattern[SPLIT_LLAMA3]);
    int32_t(*pair)[2] = mem_alloc((size_t)tokenizer_n_merge(t) * sizeof *pair);
    tokenizer_merges(t, pair);
    const Json *merges = json_get(json_get(json_get(root, "models"), "bytes"), "merges");
    assert_int_equal(tokenizer_n_merge(t), json_len(merges));
    for (int i = 0; i < json_len(merges); i++) {
        str_clear(&s);
        tokenizer_spelling(t, pair[i][0], &s);
        str_putc(&s, ' ');
        tokenizer_spelling(t, pair[i][1], &s);
        assert_string_equal(s.s, json_str(json_at(merges, i), NULL));
    }
    free(pair);
    tokbuf_release(&before);
    tokbuf_release(&after);
    str_release(&s);
    tokenizer_close(t);
    t = open_named("qwen2");
    assert_true(tokenizer_normalizes(t) && !tokenizer_is_exact(t));
    tokenizer_close(t);
}

static void test_with_special(void **state) {
    (void)state;
    static const char *const add[] = {"<|user|>", "</s>", "<|end|>"};
    static const char *const file[] = {"llama3", "mistral", "llama2"};
    for (int f = 0; f < COUNT_OF(file); f++) {
        Tokenizer *t = open_named(file[f]), *more;
        Error err = {0};
        TokBuf ids = {0}, want = {0};
        const char *text = "the gate <|user|> 12 </s>";
        assert_true(tokenizer_with_special(&more, t, add, 3, &err));
        assert_int_equal(tokenizer_n_vocab(more), tokenizer_n_vocab(t) + 2);
        assert_int_equal(tokenizer_special(more, "<|user|>"), tokenizer_n_vocab(t));
        assert_int_equal(tokenizer_special(more, "<|end|>"), tokenizer_n_vocab(t) + 1);
        assert_int_equal(tokenizer_special(more, "</s>"), tokenizer_special(t, "</s>"));
        tokenizer_encode(more, text, 8, &ids); /* before the first place that a token might have been */
        tokenizer_encode(t, text, 8, &want);
        assert_same(&ids, &want);
        tokbuf_release(&ids);
        tokbuf_release(&want);
        tokenizer_close(t);
        tokenizer_close(more);
    }
}

static const char *one_text(void *ud, size_t *n) {
    const char **s = ud, *now = *s;
    *n = now ? strlen(now) : 0;
    *s = NULL;
    return now;
}

/* What training writes is what writing writes. */
static void test_trained_written(void **state) {
    (void)state;
    static const char *const special[] = {"<|end|>", "<|mask|>"};
    for (int split = 0; split < 2; split++) {
        BpeTrainParams p = {300, (SplitPattern)split, special, 2, 0};
        const char *text = "the gate, the red gate \xF0\x9F\x98\x80 don't 123 the gate";
        Str json = {0}, again = {0};
        Error err = {0};
        Tokenizer *t;
        assert_true(bpe_train(&json, &p, one_text, &text, &err));
        assert_true(tokenizer_parse(&t, json.s, json.n, "trained", &err));
        assert_true(tokenizer_is_exact(t));
        tokenizer_write(t, &again);
        assert_string_equal(again.s, json.s);
        tokenizer_close(t);
        str_release(&json);
        str_release(&again);
    }
}

/* ---- other files ---- */

static void test_advice(void **state) {
    (void)state;
    static const char *const name[] = {"tokenizer.model", "vocab.json", "tiktoken.model", "vocab.txt"};
    for (int i = 0; i < COUNT_OF(name); i++) {
        Str dir = {0}, file = {0};
        Error err = {0};
        Tokenizer *t;
        str_printf(&dir, BUILD_DIR "/tok_advice_%d", i);
        str_printf(&file, "%s/%s", dir.s, name[i]);
        assert_true(io_remove_tree(dir.s, &err) && io_make_dirs(dir.s, &err) && io_write_file(file.s, "x", 1, &err));
        const char *const path[] = {dir.s, file.s};
        for (int k = 0; k < 2; k++) {
            err = (Error){0};
            assert_false(tokenizer_open(&t, path[k], &err));
            assert_int_equal(err.code, ERR_FORMAT);
            if (!strstr(err.msg, file.s) || !strstr(err.msg, "save_pretrained"))
                fail_msg("'%s' does not advise", err.msg);
        }
        assert_true(io_remove_tree(dir.s, &err));
        str_release(&dir);
        str_release(&file);
    }
}

static void test_most_bytes(void **state) {
    (void)state;
    Tokenizer *exact = open_named("llama3"), *long_form = open_named("words");
    assert_true(tokenizer_most_bytes(exact) > 1000000000);
    assert_true(tokenizer_most_bytes(long_form) < tokenizer_most_bytes(exact) / 11);
    assert_true(tokenizer_most_bytes(long_form) > 1000000);
    tokenizer_close(exact);
    tokenizer_close(long_form);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms_of_all),     cmocka_unit_test(test_forms_of_marks),
        cmocka_unit_test(test_cut_before_space), cmocka_unit_test(test_invalid_bytes),
        cmocka_unit_test(test_plain_stretches),  cmocka_unit_test(test_special_taken_apart),
        cmocka_unit_test(test_questions),        cmocka_unit_test(test_with_special),
        cmocka_unit_test(test_trained_written),  cmocka_unit_test(test_advice),
        cmocka_unit_test(test_most_bytes),
    };
    return cmocka_run_group_tests(tests, open_root, close_root);
}
