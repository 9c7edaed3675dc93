// layer: text
/* Ids against Hugging Face's, the round trip of any bytes, special tokens, and every refusal of tokenizer_parse. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/io.h"
#include "base/json.h"
#include "base/rng.h"
#include "text/text_int.h"

#define GOLDEN TEST_DIR "/golden/"

static Tokenizer *open_golden(const char *name) {
    Error err = {0};
    Tokenizer *t;
    char path[600];
    snprintf(path, sizeof path, GOLDEN "text_%s.json", name);
    if (!tokenizer_open(&t, path, &err)) fail_msg("%s", err.msg);
    return t;
}

static void assert_round_trip(const Tokenizer *t, const char *s, size_t n) {
    TokBuf ids = {0};
    Str back = {0};
    tokenizer_encode(t, s, n, &ids);
    for (int i = 0; i < ids.n; i++) assert_false(tokenizer_is_special(t, ids.id[i]));
    tokenizer_decode(t, ids.id, ids.n, false, &back);
    assert_int_equal(back.n, n);
    assert_memory_equal(str_get(&back), s, n);
    tokbuf_release(&ids);
    str_release(&back);
}

static void assert_ids(const Tokenizer *t, const char *s, size_t n, const int32_t *want, int n_want) {
    TokBuf ids = {0};
    tokenizer_encode(t, s, n, &ids);
    bool same = ids.n == n_want;
    for (int i = 0; same && i < n_want; i++) same = ids.id[i] == want[i];
    if (!same) {
        for (int i = 0; i < ids.n; i++) printf("%d%s", ids.id[i], i + 1 < ids.n ? "," : " (ours)\n");
        for (int i = 0; i < n_want; i++) printf("%d%s", want[i], i + 1 < n_want ? "," : " (expected)\n");
        fail_msg("ids differ for '%.*s'", (int)n, s);
    }
    tokbuf_release(&ids);
}

static void test_golden_ids(void **state) {
    (void)state;
    Error err = {0};
    Json *root;
    if (!json_read_file(&root, GOLDEN "text_ids.json", JSON_NUL_OK, &err)) fail_msg("%s", err.msg);
    const Json *cases = json_get(root, "cases");
    assert_true(json_len(cases) > 70);
    const char *const name[] = {"gpt2", "llama3"};
    for (int k = 0; k < 2; k++) {
        Tokenizer *t = open_golden(name[k]);
        for (int i = 0; i < json_len(cases); i++) {
            const Json *want = json_get(json_at(cases, i), name[k]);
            int32_t id[2048];
            size_t n;
            const char *s = json_str(json_get(json_at(cases, i), "text"), &n);
            assert_true(want && json_len(want) <= COUNT_OF(id));
            for (int j = 0; j < json_len(want); j++) id[j] = (int32_t)json_int(json_at(want, j), -1);
            assert_ids(t, s, n, id, json_len(want));
            assert_round_trip(t, s, n);
        }
        tokenizer_close(t);
    }
    json_release(root);
}

/* A small vocabulary hides where a text was cut, so cuts are compared by themselves. */
static void assert_pieces(const Splitter *split, const char *s, size_t n, const Json *want) {
    PieceWalk w;
    const char *first;
    size_t len[PIECES];
    int i = 0;
    pieces_open(&w, split);
    pieces_text(&w, s, n);
    for (int k; (k = pieces_next(&w, &first, len)) > 0;)
        for (int p = 0; p < k; p++, i++)
            if ((int64_t)len[p] != json_int(json_at(want, i), -1))
                fail_msg("piece %d of '%.*s' is %zu bytes long, expected %d", i, (int)n, s, len[p],
                         (int)json_int(json_at(want, i), -1));
    assert_int_equal(i, json_len(want));
    pieces_close(&w);
}

static void test_golden_pieces(void **state) {
    (void)state;
    Error err = {0};
    Json *root;
    if (!json_read_file(&root, GOLDEN "text_ids.json", JSON_NUL_OK, &err)) fail_msg("%s", err.msg);
    const Json *cases = json_get(root, "cases"), *odd = json_get(root, "odd");
    const char *const key[] = {"pieces_gpt2", "pieces_llama3"};
    Splitter *split;
    size_t n;
    for (int k = 0; k < 2; k++) {
        assert_true(splitter_open(&split, split_pattern[k], strlen(split_pattern[k]), &err));
        for (int i = 0; i < json_len(cases); i++) {
            const char *s = json_str(json_get(json_at(cases, i), "text"), &n);
            assert_pieces(split, s, n, json_get(json_at(cases, i), key[k]));
        }
        splitter_close(split);
    }
    assert_true(json_len(odd) > 10);
    for (int i = 0; i < json_len(odd); i++) {
        const char *pattern = json_str(json_get(json_at(odd, i), "pattern"), &n);
        if (!splitter_open(&split, pattern, n, &err)) fail_msg("%s", err.msg);
        const char *s = json_str(json_get(json_at(odd, i), "text"), &n);
        print_message("%s\n", pattern);
        assert_pieces(split, s, n, json_get(json_at(odd, i), "pieces"));
        splitter_close(split);
    }
    json_release(root);
}

/* One text holding every golden text twice goes through the memo of repeated pieces; its words must come out as alone.
 */
static void test_repeated_pieces(void **state) {
    (void)state;
    Tokenizer *t = open_golden("gpt2");
    Rng r = {7, RNG_TEST};
    Str text = {0};
    TokBuf want = {0};
    for (uint32_t i = 0; i < 6000; i++) { /* a line break before each word keeps the pieces apart */
        char word[60] = {'\n'};
        uint32_t n = rng_below(r, i, 0, 40) == 0 ? 50 : 2 + rng_below(r, i, 1, 2);
        for (uint32_t k = 1; k < n; k++) word[k] = (char)('a' + rng_below(r, i, 2 + k, 15));
        str_put(&text, word);
        tokenizer_encode(t, word, 1, &want);
        tokenizer_encode(t, word + 1, n - 1, &want);
    }
    assert_ids(t, text.s, text.n, want.id, want.n);
    tokbuf_release(&want);
    str_release(&text);
    tokenizer_close(t);
}

/* Valid stretches are encoded as if alone; each invalid byte is one byte token. */
static void test_invalid_utf8(void **state) {
    (void)state;
    static const struct {
        const char *text;
        const char *part[6];
    } table[] = {
        {"the\xff gate", {"the", "\xff", " gate"}},
        {"\xc3", {"\xc3"}},
        {"a\xc3(", {"a", "\xc3", "("}},
        {"\xe2\x82 \xe2\x82\xac", {"\xe2", "\x82", " \xe2\x82\xac"}},
        {"\xed\xa0\x80x", {"\xed", "\xa0", "\x80", "x"}}, /* a surrogate */
        {"\xc0\xaf", {"\xc0", "\xaf"}},                   /* overlong */
        {"\xe0\x80\xaf", {"\xe0", "\x80", "\xaf"}},
        {"\xf0\x82\x82\xac", {"\xf0", "\x82", "\x82", "\xac"}},
        {"\xf4\x90\x80\x80", {"\xf4", "\x90", "\x80", "\x80"}}, /* beyond U+10FFFF */
        {"\xf5 ok", {"\xf5", " ok"}},
        {"  \x80  ", {"  ", "\x80", "  "}},
    };
    Tokenizer *t = open_golden("llama3");
    for (int i = 0; i < COUNT_OF(table); i++) {
        TokBuf want = {0};
        for (int k = 0; k < 6 && table[i].part[k]; k++) {
            int before = want.n;
            tokenizer_encode(t, table[i].part[k], strlen(table[i].part[k]), &want);
            if (strlen(table[i].part[k]) == 1) assert_int_equal(want.n, before + 1);
        }
        assert_ids(t, table[i].text, strlen(table[i].text), want.id, want.n);
        PieceWalk w;
        const char *piece = NULL, *part = table[i].text;
        size_t len[PIECES];
        int n_piece = 0, at = 0;
        pieces_open(&w, t->split);
        pieces_text(&w, table[i].text, strlen(table[i].text));
        for (int k = 0; k < 6 && table[i].part[k]; k++) { /* pieces end where the parts do */
            const char *to = part + strlen(table[i].part[k]);
            while (part < to) {
                if (at == n_piece) {
                    n_piece = pieces_next(&w, &piece, len);
                    at = 0;
                    assert_true(n_piece > 0 && piece == part);
                }
                part += len[at++];
            }
            assert_ptr_equal(part, to);
        }
        assert_int_equal(at, n_piece);
        assert_int_equal(pieces_next(&w, &piece, len), 0);
        pieces_close(&w);
        tokbuf_release(&want);
    }
    tokenizer_close(t);
}

static void test_round_trip_random(void **state) {
    (void)state;
    const char *given = getenv("DIKAST_TEST_SEED");
    Rng r = {given ? strtoull(given, NULL, 10) : 41, RNG_TEST};
    print_message("seed %llu\n", (unsigned long long)r.seed);
    static const char *const part[] = {"\xe2\x82\xac", "\xf0\x9f\x98\x80", " the", "  ",   "\n",      "<|end|>",
                                       "==",           "<tool>",           "1234", "\xc3", "aaaaaaaa"};
    Tokenizer *tok[2] = {open_golden("gpt2"), open_golden("llama3")};
    for (uint64_t i = 0; i < 3000; i++) {
        Str s = {0};
        uint32_t n = rng_below(r, i, 0, 60), kind = rng_below(r, i, 1, 3);
        for (uint32_t k = 0; k < n; k++) {
            uint32_t x = rng_u32(r, i, 2 + k);
            if (kind > 0 && x % 3)
                str_put(&s, part[x / 3 % COUNT_OF(part)]);
            else
                str_putc(&s, kind == 1 ? (char)(x >> 24) : "ab =-\x80"[(x >> 8) % 6]);
        }
        for (int k = 0; k < 2; k++) assert_round_trip(tok[k], str_get(&s), s.n);
        str_release(&s);
    }
    for (int k = 0; k < 2; k++) tokenizer_close(tok[k]);
}

static void test_special(void **state) {
    (void)state;
    Tokenizer *t = open_golden("llama3");
    assert_int_equal(tokenizer_special(t, "<|endoftext|>"), 0);
    assert_int_equal(tokenizer_special(t, "<|end|>"), 4);
    assert_int_equal(tokenizer_special(t, "<|mask|>"), 18);
    assert_int_equal(tokenizer_special(t, "<|nobody|>"), -1);
    assert_int_equal(tokenizer_special(t, "<tool>"), -1); /* added, not special */
    assert_int_equal(tokenizer_special(t, "the"), -1);
    assert_int_equal(tokenizer_special(t, ""), -1);
    assert_true(tokenizer_is_special(t, 18));
    assert_false(tokenizer_is_special(t, 19));
    assert_false(tokenizer_is_special(t, -1));
    assert_false(tokenizer_is_special(t, tokenizer_n_vocab(t)));
    assert_int_equal(tokenizer_n_vocab(t), 701);
    TokBuf whole = {0}, cut = {0};
    tokenizer_encode(t, "<tool>", 6, &whole);
    tokenizer_encode(t, "<tool>", 5, &cut); /* the token's end lies behind the text's */
    assert_true(whole.n == 1 && cut.n > 1);
    tokbuf_release(&whole);
    tokbuf_release(&cut);
    for (int32_t id = 0; id < 19; id++) { /* spelled in text, none becomes its id */
        Str s = {0};
        tokenizer_decode(t, &id, 1, true, &s);
        assert_int_equal(tokenizer_special(t, str_get(&s)), id);
        str_put(&s, " <|end|>");
        assert_round_trip(t, s.s, s.n);
        str_release(&s);
    }
    tokenizer_close(t);
}

static void test_decode(void **state) {
    (void)state;
    Tokenizer *t = open_golden("llama3");
    TokBuf ids = {0};
    Str s = {0};
    tokbuf_put(&ids, 4);
    tokenizer_encode(t, "red gate", 8, &ids);
    int32_t absent[] = {-1, 701, 1 << 30, INT32_MIN, 690}; /* 690: a hole in the vocabulary */
    tokbuf_putn(&ids, absent, COUNT_OF(absent));
    tokbuf_put(&ids, 0);
    tokenizer_decode(t, ids.id, ids.n, false, &s);
    assert_string_equal(str_get(&s), "red gate");
    str_clear(&s);
    tokenizer_decode(t, ids.id, ids.n, true, &s);
    assert_string_equal(str_get(&s), "<|end|>red gate<|endoftext|>");
    tokenizer_decode(t, NULL, 0, true, &s); /* appends nothing */
    assert_int_equal(s.n, 28);
    tokbuf_release(&ids);
    str_release(&s);
    tokenizer_close(t);
}

enum { N_THREAD = 4 };
typedef struct {
    const Tokenizer *t;
    const Str *text;
    TokBuf ids;
} Job;

static void *encode_job(void *ud) {
    Job *j = ud;
    for (int i = 0; i < 3; i++) {
        j->ids.n = 0;
        tokenizer_encode(j->t, j->text->s, j->text->n, &j->ids);
    }
    return NULL;
}

static void test_threads_share(void **state) {
    (void)state;
    Error err = {0};
    Str text = {0};
    if (!io_read_file(&text, GOLDEN "text_train.txt", 1 << 20, &err)) fail_msg("%s", err.msg);
    Tokenizer *t = open_golden("llama3");
    pthread_t thread[N_THREAD];
    Job job[N_THREAD];
    for (int i = 0; i < N_THREAD; i++) {
        job[i] = (Job){t, &text, {0}};
        assert_int_equal(pthread_create(&thread[i], NULL, encode_job, &job[i]), 0);
    }
    for (int i = 0; i < N_THREAD; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < N_THREAD; i++) {
        assert_int_equal(job[i].ids.n, job[0].ids.n);
        assert_memory_equal(job[i].ids.id, job[0].ids.id, (size_t)job[0].ids.n * 4);
    }
    for (int i = 0; i < N_THREAD; i++) tokbuf_release(&job[i].ids);
    str_release(&text);
    tokenizer_close(t);
}

/* ---- refusals: one edit each of a file that opens ---- */

static char *replaced(const char *s, const char *from, const char *to) {
    const char *at = strstr(s, from);
    if (!at) fail_msg("the golden file does not hold '%s'", from);
    Str out = {0};
    str_putn(&out, s, (size_t)(at - s));
    str_put(&out, to);
    str_put(&out, at + strlen(from));
    return str_detach(&out);
}

#define PRE "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
#define SEQ(list, parts) "{\"type\":\"Sequence\",\"" list "\":[" parts "]}"
#define NFKD "{\"type\":\"NFKD\"}"
#define METASPACE(c, scheme) "{\"type\":\"Metaspace\",\"replacement\":" c ",\"prepend_scheme\":\"" scheme "\"}"
#define SEQ_A "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define TEMPLATE(single, special)                                                                                      \
    "{\"type\":\"TemplateProcessing\",\"single\":" single ",\"pair\":[],\"special_tokens\":" special "}"
// clang-format off
static const struct { const char *file, *from, *to, *says; } refusals[] = {
    {"gpt2", "{\"version\"", "[\"version\"", "bad JSON"},
    {"gpt2", "\"version\":\"1.0\"", "\"version\":\"2.0\"", "version: '2.0'"},
    {"gpt2", "\"truncation\":null", "\"truncation\":5", "truncation: expected an object or null"},
    {"gpt2", "\"padding\":null", "\"padding\":[]", "padding: expected an object or null"},
    {"gpt2", "\"padding\":null", "\"paddings\":null", "unknown key 'paddings'"},
    {"gpt2", "\"normalizer\":null", "\"normalizer\":{\"type\":\"BertNormalizer\"}", "normalizer: 'BertNormalizer'"},
    {"gpt2", "\"normalizer\":null", "\"normalizer\":\"NFC\"", "normalizer: expected an object"},
    {"gpt2", "\"normalizer\":null", "\"normalizer\":{\"type\":\"NFC\",\"form\":1}", "normalizer: unknown key 'form'"},
    {"gpt2", "\"normalizer\":null", "\"normalizer\":{\"kind\":\"NFC\"}", "normalizer: '(no type)'"},
    {"gpt2", "\"normalizer\":null", "\"normalizer\":" SEQ("normalizers", "{\"type\":\"NFC\"},{\"type\":\"Precompiled\"}"),
     "normalizer.normalizers[1]: 'Precompiled'"},
    {"gpt2", "\"normalizer\":null", "\"normalizer\":" SEQ("steps", ""), "unknown key 'steps'"},
    {"gpt2", "\"normalizer\":null", "\"normalizer\":{\"type\":\"Sequence\"}", "expected an array at 'normalizers'"},
    {"gpt2", "\"normalizer\":null", "\"normalizer\":{\"type\":\"Strip\",\"strip_left\":1,\"strip_right\":true}",
     "expected true or false at 'strip_left'"},
    {"gpt2", "\"normalizer\":null", "\"normalizer\":{\"type\":\"Prepend\"}", "expected a string at 'prepend'"},
    {"gpt2", "\"normalizer\":null",
     "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"x\"}", "one that is not empty at 'String'"},
    {"gpt2", "\"normalizer\":null",
     "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"x\"}", "normalizer: pattern: missing"},
    {"gpt2", "\"normalizer\":null", "\"normalizer\":" SEQ("normalizers", NFKD "," NFKD "," NFKD "," NFKD),
     "more than 256 times as long"},
    {"gpt2", "\"pre_tokenizer\":{\"type\":\"ByteLevel\"", "\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"",
     "pre_tokenizer: 'UnicodeScripts'"},
    {"gpt2", "\"pre_tokenizer\":{\"type\":\"ByteLevel\"", "\"pre_tokenizer\":{\"type\":\"Metaspace\"",
     "pre_tokenizer: unknown key 'trim_offsets'"},
    {"llama3", PRE, PRE METASPACE("\"\"", "first") ",", "expected one character at 'replacement'"},
    {"llama3", PRE, PRE METASPACE("\"ab\"", "first") ",", "expected one character at 'replacement'"},
    {"llama3", PRE, PRE METASPACE("\"_\"", "last") ",", "prepend_scheme 'last' is not one of"},
    {"llama3", PRE, PRE "{\"type\":\"FixedLength\",\"length\":0},", "expected a number from 1 on at 'length'"},
    {"llama3", PRE, PRE "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true},", "a second ByteLevel"},
    {"gpt2", "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false",
     "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":null", "expected true or false at 'add_prefix_space'"},
    {"gpt2", "\"pre_tokenizer\":{", "\"pre_tokenizer\":null,\"decoder\":{", "duplicate"},
    {"gpt2", "\"use_regex\":true", "\"use_regex\":true,\"fast\":1", "unknown key 'fast'"},
    {"gpt2", "\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"type\":\"WordPiece\"", "decoder: 'WordPiece'"},
    {"gpt2", "\"post_processor\":null", "\"post_processor\":{\"type\":\"BertProcessing\"}",
     "post_processor: 'BertProcessing'"},
    {"llama3", "\"behavior\":\"Isolated\"", "\"behavior\":\"Dropped\"", "behavior 'Dropped'"},
    {"llama3", "\"invert\":false", "\"invert\":0", "expected true or false at 'invert'"},
    {"llama3", "{\"Regex\":", "{\"Words\":", "pattern: unknown key 'Words'"},
    {"gpt2", "\"post_processor\":null", "\"post_processor\":" TEMPLATE("[]", "{}"), "single does not hold Sequence A"},
    {"gpt2", "\"post_processor\":null", "\"post_processor\":" TEMPLATE("[" SEQ_A "," SEQ_A "]", "{}"), "or, once, Sequence A"},
    {"gpt2", "\"post_processor\":null",
     "\"post_processor\":" TEMPLATE("[{\"SpecialToken\":{\"id\":\"x\",\"type_id\":0}}," SEQ_A "]", "{}"), "no ids for 'x'"},
    {"gpt2", "\"post_processor\":null",
     "\"post_processor\":" TEMPLATE("[{\"SpecialToken\":{\"id\":\"x\",\"type_id\":0}}," SEQ_A "]", "{\"x\":{\"ids\":[5000]}}"),
     "post_processor: id 5000"},
    {"llama3", "{\"Regex\":\"(?i:", "{\"Regex\":\"((?i:", "pattern: missing closing parenthesis"},
    {"llama3", "{\"Regex\":\"", "{\"Regex\":\"[a[^bc]]|", "set inside a bracket class"},
    {"llama3", "{\"Regex\":\"", "{\"Regex\":\"[a-z&&b]|", "an intersection in a bracket class"},
    {"llama3", "{\"Regex\":\"", "{\"Regex\":\"[[:alpha:]]|", "'[:' at byte 1"},
    {"llama3", "{\"Regex\":\"", "{\"Regex\":\"a{3}+|", "'{3}+' means other things"},
    {"llama3", "{\"Regex\":\"", "{\"Regex\":\"a{3}?|", "'{3}?' means other things"},
    {"llama3", "{\"Regex\":\"", "{\"Regex\":\"a{,3}|", "'{,3}"},
    {"llama3", "{\"Regex\":\"", "{\"Regex\":\"\\\\p{Kawi}|", "'\\p{Kawi}|"},
    {"llama3", "{\"Regex\":\"", "{\"Regex\":\"\\\\h|", "'\\h' at byte 0"},
    {"llama3", "{\"Regex\":\"", "{\"Regex\":\"\\\\pL|", "'\\pL|"},
    {"llama3", "{\"Regex\":\"(?i:", "{\"Regex\":\"(?im:", "option 'm' at byte 3"},
    {"gpt2", "\"type\":\"BPE\"", "\"type\":\"Unigram\"", "model: 'Unigram'"},
    {"gpt2", "\"dropout\":null", "\"dropout\":0.1", "model.dropout"},
    {"gpt2", "\"continuing_subword_prefix\":null", "\"continuing_subword_prefix\":\"##\"", "continuing_subword_prefix"},
    {"gpt2", "\"end_of_word_suffix\":null", "\"end_of_word_suffix\":\"</w>\"", "end_of_word_suffix"},
    {"gpt2", "\"byte_fallback\":false", "\"byte_fallback\":1", "model.byte_fallback: expected true or false"},
    {"gpt2", "\"fuse_unk\":false", "\"fuse_unk\":\"no\"", "model.fuse_unk: expected true or false"},
    {"gpt2", "\"unk_token\":null", "\"unk_token\":7", "model.unk_token: expected a string"},
    {"gpt2", "\"ignore_merges\":false", "\"ignore_merges\":0", "ignore_merges"},
    {"gpt2", "\"vocab\":{", "\"vocabulary\":{", "unknown key 'vocabulary'"},
    {"gpt2", "\"A\":51", "\"A\":-1", "'A': expected an id from 0"},
    {"gpt2", "\"A\":51", "\"A\":4194304", "'A': expected an id from 0"},
    {"gpt2", "\"A\":51", "\"A\":\"51\"", "'A': expected an id from 0"},
    {"gpt2", "\"A\":51", "\"A\":52", "'A' and 'B' share id 52"},
    {"gpt2", "\"merges\":[[", "\"merges\":[7,[", "model.merges[0]: expected two tokens"},
    {"gpt2", "\"merges\":[[", "\"merges\":[[\"a\"],[", "model.merges[0]: expected two tokens"},
    {"gpt2", "\"merges\":[[", "\"merges\":[\"a b c\",[", "'a b c': expected two tokens"},
    {"gpt2", "\"merges\":[[", "\"merges\":[[\"a\",\"nowhere\"],[", "'nowhere' is not in model.vocab"},
    {"gpt2", "\"merges\":[[", "\"merges\":[[\"!\",\"~\"],[", "its result '!~' is not in model.vocab"},
    {"gpt2", "\"added_tokens\":[", "\"added_tokens\":[5,", "added_tokens"},
    {"gpt2", "\"added_tokens\":[{\"id\":0,\"content\":\"<|endoftext|>\"",
     "\"added_tokens\":[{\"id\":0,\"content\":\"\"",
     "non-empty string at 'content'"},
    {"gpt2", "\"content\":\"<|end|>\"", "\"content\":\"<|system|>\"", "'<|system|>' has id 4, but 1 in model.vocab"},
    {"gpt2", "\"content\":\"<|end|>\"", "\"content\":\"<|fresh|>\"", "which is another token's"},
    {"gpt2", "\"id\":4,\"content\":\"<|end|>\"", "\"id\":51,\"content\":\"A\"",
     "'A' is special, but plain text leads to it too"},
    {"gpt2", "\"special\":true", "\"special\":1", "expected true or false at 'special'"},
    {"gpt2", "\"special\":true", "\"special\":true,\"colour\":1", "unknown key 'colour'"},
    {"llama3", "\"content\":\"<tool>\",\"single_word\":false", "\"content\":\"<tool>\",\"single_word\":2",
     "expected true or false at 'single_word'"},
    {"llama3", "\"content\":\"<tool>\",\"single_word\":false,\"lstrip\":false",
     "\"content\":\"<tool>\",\"single_word\":false,\"lstrip\":null", "expected true or false at 'lstrip'"},
    {"llama3", "\"id\":661,\"content\":\"<tool>\"", "\"id\":690,\"content\":\"<tool>\"", "loading this file numbers it 661"},
};
// clang-format on

static void test_refusals(void **state) {
    (void)state;
    Str file[2] = {{0}, {0}};
    Error err = {0};
    assert_true(io_read_file(&file[0], GOLDEN "text_gpt2.json", 1 << 20, &err));
    assert_true(io_read_file(&file[1], GOLDEN "text_llama3.json", 1 << 20, &err));
    for (int i = 0; i < COUNT_OF(refusals); i++) {
        char *s = replaced(str_get(&file[refusals[i].file[0] == 'l']), refusals[i].from, refusals[i].to);
        Tokenizer *t = NULL;
        err = (Error){0};
        if (tokenizer_parse(&t, s, strlen(s), "tok.json", &err)) fail_msg("accepted: %s", refusals[i].to);
        if (!strstr(err.msg, refusals[i].says)) fail_msg("'%s' does not say '%s'", err.msg, refusals[i].says);
        assert_int_equal(err.code, ERR_FORMAT);
        assert_int_equal(strncmp(err.msg, "tok.json:", 9), 0);
        free(s);
    }
    Tokenizer *t = NULL;
    static const char *const tiny[] = {"", "{}", "[]", "null", "{\"model\":null}", "7", "{\"version\":1}"};
    for (int i = 0; i < COUNT_OF(tiny); i++) assert_false(tokenizer_parse(&t, tiny[i], strlen(tiny[i]), "x", &err));
    for (size_t n = 0; n + 2 < file[1].n; n += 97) assert_false(tokenizer_parse(&t, file[1].s, n, "x", &err));
    assert_false(tokenizer_open(&t, GOLDEN "no_such_file.json", &err));
    assert_int_equal(err.code, ERR_IO);
    for (int i = 0; i < 2; i++) str_release(&file[i]);
}

/* What the same walk must accept: older spellings and absent optional parts. */
static void test_accepts(void **state) {
    (void)state;
    static const struct {
        const char *from, *to;
    } edit[] = {
        {"\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,\"end_of_word_"
         "suffix\":null",
         "\"dropout\":0,\"unk_token\":\"<|endoftext|>\",\"continuing_subword_prefix\":\"\",\"end_of_word_suffix\":"
         "\"\""},
        {"\"truncation\":null,\"padding\":null,", ""},
        {"\"version\":\"1.0\",", ""},
        {"\"use_regex\":true", "\"use_regex\":true"},
        {"\"post_processor\":null",
         "\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}]}"},
        {"\"normalizer\":null,", ""},
    };
    Str file = {0};
    Error err = {0};
    assert_true(io_read_file(&file, GOLDEN "text_gpt2.json", 1 << 20, &err));
    Tokenizer *plain = open_golden("gpt2");
    TokBuf want = {0};
    tokenizer_encode(plain, "the gardener mended it", 22, &want);
    for (int i = 0; i < COUNT_OF(edit); i++) {
        char *s = replaced(str_get(&file), edit[i].from, edit[i].to);
        Tokenizer *t;
        if (!tokenizer_parse(&t, s, strlen(s), "tok.json", &err)) fail_msg("%s", err.msg);
        assert_ids(t, "the gardener mended it", 22, want.id, want.n);
        tokenizer_close(t);
        free(s);
    }
    tokbuf_release(&want);
    tokenizer_close(plain);
    str_release(&file);
}

/* Patterns from outside: empty matches, look-behind, runaway backtracking. Every byte arrives all the same. */
static void test_odd_patterns(void **state) {
    (void)state;
    static const char *const pattern[] = {"a*",      "",  "(?=b)", "\\\\b",           "x",          "(a+)+c",
                                          "(?<=a)b", "^", "$",     "\\\\p{L}+|\\\\K", "[^\\\\P{L}]"};
    Str file = {0};
    Error err = {0};
    assert_true(io_read_file(&file, GOLDEN "text_llama3.json", 1 << 20, &err));
    const char *text = "aab abab\n\nxaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab \xff b";
    const char *at = strstr(str_get(&file), "{\"Regex\":\"") + 10, *end = strstr(at, "\"}");
    for (int i = 0; i < COUNT_OF(pattern); i++) {
        Str s = {0};
        str_putn(&s, file.s, (size_t)(at - file.s));
        str_put(&s, pattern[i]);
        str_put(&s, end);
        Tokenizer *t;
        if (!tokenizer_parse(&t, s.s, s.n, "tok.json", &err)) fail_msg("%s: %s", pattern[i], err.msg);
        assert_round_trip(t, text, strlen(text));
        tokenizer_close(t);
        str_release(&s);
    }
    str_release(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_ids),
        cmocka_unit_test(test_golden_pieces),
        cmocka_unit_test(test_repeated_pieces),
        cmocka_unit_test(test_invalid_utf8),
        cmocka_unit_test(test_round_trip_random),
        cmocka_unit_test(test_special),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_threads_share),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_accepts),
        cmocka_unit_test(test_odd_patterns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
