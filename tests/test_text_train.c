// layer: text
/* Merges learned from the golden text equal those Hugging Face's trainer learned from it; what training leaves out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/io.h"
#include "base/json.h"
#include "text/chat.h"

#define GOLDEN TEST_DIR "/golden/"

typedef struct {
    const char *const *text;
    int n, at;
} Texts;

static const char *next_text(void *ud, size_t *n) {
    Texts *t = ud;
    if (t->at == t->n) return NULL;
    *n = strlen(t->text[t->at]);
    return t->text[t->at++];
}

static void sentinels(const char **special) {
    for (int i = 0; i < SENT_COUNT; i++) special[i] = sentinel_spelling((Sentinel)i);
}

/* Trains and parses the result. */
static Json *train(const BpeTrainParams *p, const char *const *text, int n) {
    Str json = {0};
    Error err = {0};
    Json *root;
    Texts texts = {text, n, 0};
    if (!bpe_train(&json, p, next_text, &texts, &err)) fail_msg("%s", err.msg);
    if (!json_parse(&root, json.s, json.n, 0, "trained", 1, &err)) fail_msg("%s", err.msg);
    Tokenizer *t;
    if (!tokenizer_parse(&t, json.s, json.n, "trained", &err)) fail_msg("%s", err.msg);
    tokenizer_close(t);
    str_release(&json);
    return root;
}

static const Json *model(const Json *root, const char *key) { return json_get(json_get(root, "model"), key); }

static void check_golden(const char *path, SplitPattern split, int n_vocab, int n_extra) {
    const char *special[SENT_COUNT];
    Str text = {0};
    Error err = {0};
    Json *want;
    sentinels(special);
    if (!io_read_file(&text, GOLDEN "text_train.txt", 1 << 20, &err)) fail_msg("%s", err.msg);
    if (!json_read_file(&want, path, 0, &err)) fail_msg("%s", err.msg);
    BpeTrainParams p = {n_vocab, split, special, SENT_COUNT, 0};
    Json *got = train(&p, (const char *const[]){str_get(&text)}, 1);
    const Json *vocab = model(got, "vocab"), *merges = model(got, "merges");
    assert_int_equal(json_len(vocab), json_len(model(want, "vocab")) - n_extra);
    assert_int_equal(json_len(merges), json_len(model(want, "merges")));
    assert_true(json_len(merges) > 100);
    for (int i = 0; i < json_len(vocab); i++) {
        const Json *id;
        const char *key = json_key_at(vocab, i, &id);
        assert_int_equal(json_int(id, -1), i);
        assert_int_equal(json_int(json_get(model(want, "vocab"), key), -2), i);
    }
    for (int i = 0; i < json_len(merges); i++) {
        const Json *pair = json_at(model(want, "merges"), i);
        Str joined = {0};
        str_printf(&joined, "%s %s", json_str(json_at(pair, 0), NULL), json_str(json_at(pair, 1), NULL));
        assert_string_equal(json_str(json_at(merges, i), NULL), str_get(&joined));
        str_release(&joined);
    }
    json_release(want);
    json_release(got);
    str_release(&text);
}

static void test_golden_merges(void **state) {
    (void)state;
    check_golden(GOLDEN "text_gpt2.json", SPLIT_GPT2, 420, 0);
    check_golden(GOLDEN "text_llama3.json", SPLIT_LLAMA3, 700, 1); /* the oracle adds one word afterwards */
}

/* By hand: "abab" twice, "bab" once. Pairs ab 5, ba 3; then (ab,ab) 2 and (b,ab) 1. Of equal counts lower ids come
 * first. */
static void test_by_hand(void **state) {
    (void)state;
    BpeTrainParams p = {300, SPLIT_GPT2, NULL, 0, 0};
    Json *j = train(&p, (const char *const[]){"abab", "abab", "bab"}, 3);
    assert_int_equal(json_len(model(j, "merges")), 3);
    assert_string_equal(json_str(json_at(model(j, "merges"), 0), NULL), "a b");
    assert_string_equal(json_str(json_at(model(j, "merges"), 1), NULL), "ab ab");
    assert_string_equal(json_str(json_at(model(j, "merges"), 2), NULL), "b ab");
    assert_int_equal(json_int(json_get(model(j, "vocab"), "!"), -1), 0); /* bytes by character: 33 first */
    assert_int_equal(json_int(json_get(model(j, "vocab"), "\xc4\xa0"), -1), 188 + 32); /* the space, U+0120 */
    assert_int_equal(json_int(json_get(model(j, "vocab"), "ab"), -1), 256);
    json_release(j);
    p.min_count = 2;
    j = train(&p, (const char *const[]){"abab", "abab", "bab"}, 3);
    assert_int_equal(json_len(model(j, "merges")), 2);
    json_release(j);
    p.n_vocab = 257;
    j = train(&p, (const char *const[]){"abab", "abab", "bab"}, 3);
    assert_int_equal(json_len(model(j, "merges")), 1);
    json_release(j);
    j = train(&p, (const char *const[]){"cd ba", "", "dc ba"}, 3); /* ba and " b" 2 each: b (id 65) before the space */
    assert_string_equal(json_str(json_at(model(j, "merges"), 0), NULL), "b a");
    json_release(j);
    j = train(&p, NULL, 0);
    assert_int_equal(json_len(model(j, "merges")), 0);
    json_release(j);
}

/* A run of odd length leaves its last letter over: "aaa" pairs as (a,a) a. Invalid bytes are pieces, so they never
 * merge. */
static void test_runs_and_bytes(void **state) {
    (void)state;
    BpeTrainParams p = {300, SPLIT_LLAMA3, NULL, 0, 0};
    Json *j = train(&p, (const char *const[]){"aaa", "\xff\xff\xff\xff"}, 2);
    assert_int_equal(json_len(model(j, "merges")), 2);
    assert_string_equal(json_str(json_at(model(j, "merges"), 0), NULL), "a a");
    assert_string_equal(json_str(json_at(model(j, "merges"), 1), NULL), "aa a");
    json_release(j);
}

/* Text that spells a special token is plain text: in whole pieces too, where merging could otherwise rebuild it. */
static void test_special_stays_apart(void **state) {
    (void)state;
    const char *const special[] = {"<|end|>", "stop"};
    const char *const text[] = {"stop stop stop<|end|><|end|><|end|>", "stop"};
    BpeTrainParams p = {400, SPLIT_GPT2, special, 2, 0};
    Str json = {0};
    Error err = {0};
    Texts texts = {text, 2, 0};
    Tokenizer *t;
    assert_true(bpe_train(&json, &p, next_text, &texts, &err));
    if (!tokenizer_parse(&t, json.s, json.n, "trained", &err)) fail_msg("%s", err.msg);
    assert_int_equal(tokenizer_special(t, "<|end|>"), 0);
    assert_int_equal(tokenizer_special(t, "stop"), 1);
    TokBuf ids = {0};
    tokenizer_encode(t, "stop<|end|>", 11, &ids);
    assert_true(ids.n >= 3);
    for (int i = 0; i < ids.n; i++) assert_true(ids.id[i] > 1);
    tokbuf_release(&ids);
    tokenizer_close(t);
    str_release(&json);
}

static void test_params_refused(void **state) {
    (void)state;
    static const struct {
        int n_vocab;
        const char *special[3];
        int n;
        const char *says;
    } table[] = {
        {255, {NULL}, 0, "vocabulary of 255: expected 256"},
        {257, {"<|a|>", "<|b|>"}, 2, "vocabulary of 257: expected 258"},
        {1 << 23, {NULL}, 0, "vocabulary of 8388608"},
        {300, {"x"}, 1, "special token 'x'"},
        {300, {"\xc4\xa0"}, 1, "not one byte's character"},
        {300, {""}, 1, "special token ''"},
        {300, {"\xff"}, 1, "expected UTF-8"},
        {300, {"<|a|>", "<|b|>", "<|a|>"}, 3, "'<|a|>' is listed twice"},
    };
    for (int i = 0; i < COUNT_OF(table); i++) {
        BpeTrainParams p = {table[i].n_vocab, SPLIT_GPT2, table[i].special, table[i].n, 0};
        Str json = {0};
        Error err = {0};
        Texts none = {NULL, 0, 0};
        assert_false(bpe_train(&json, &p, next_text, &none, &err));
        assert_int_equal(err.code, ERR_CONFIG);
        if (!strstr(err.msg, table[i].says)) fail_msg("'%s' does not say '%s'", err.msg, table[i].says);
        assert_int_equal(json.n, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_merges),  cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_runs_and_bytes), cmocka_unit_test(test_special_stays_apart),
        cmocka_unit_test(test_params_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
