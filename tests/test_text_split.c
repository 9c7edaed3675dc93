// layer: text
/* The patterns read by hand cut where PCRE2 cuts: every code point, random strings over an alphabet chosen to hurt,
 * real text. Merging against its definition. Encoders that remember: ids as of one text alone, whatever came before and
 * however many threads there are. DIKAST_SEED=N draws other strings. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
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

static uint64_t seed_of(void) {
    const char *s = getenv("DIKAST_SEED");
    uint64_t seed = s ? strtoull(s, NULL, 10) : 11;
    print_message("seed %llu\n", (unsigned long long)seed);
    return seed;
}

/* ---- cuts ---- */

static const char *const pattern[] = {SPLIT_TEXT_GPT2, SPLIT_TEXT_LLAMA("{1,3}"), SPLIT_TEXT_LLAMA("")};
enum { N_PATTERN = COUNT_OF(pattern) };

typedef struct {
    Splitter *by_hand[N_PATTERN], *by_regex[N_PATTERN];
} Splitters;

static int open_splitters(void **state) {
    static Splitters s;
    Error err = {0};
    for (int i = 0; i < N_PATTERN; i++) {
        size_t n = strlen(pattern[i]);
        assert_true(split_known(pattern[i], n) != SPLIT_BY_REGEX);
        assert_true(splitter_open(&s.by_hand[i], pattern[i], n, &err));
        assert_true(splitter_open_regex(&s.by_regex[i], pattern[i], n, &err));
    }
    assert_true(split_known("a+", 2) == SPLIT_BY_REGEX && split_known(pattern[0], 5) == SPLIT_BY_REGEX);
    *state = &s;
    return 0;
}

static int close_splitters(void **state) {
    Splitters *s = *state;
    for (int i = 0; i < N_PATTERN; i++) {
        splitter_close(s->by_hand[i]);
        splitter_close(s->by_regex[i]);
    }
    return 0;
}

/* The next piece of a walk; its own buffer of lengths. */
typedef struct {
    PieceWalk walk;
    size_t len[PIECES];
    int at, n;
} OneByOne;

static size_t next_piece(OneByOne *o) {
    const char *first;
    if (o->at == o->n) {
        o->at = 0;
        o->n = pieces_next(&o->walk, &first, o->len);
    }
    return o->at < o->n ? o->len[o->at++] : 0;
}

static void assert_same_cuts(const Splitters *s, const char *text, size_t n) {
    for (int i = 0; i < N_PATTERN; i++) {
        OneByOne a = {.n = 0}, b = {.n = 0};
        pieces_open(&a.walk, s->by_hand[i]);
        pieces_open(&b.walk, s->by_regex[i]);
        pieces_text(&a.walk, text, n);
        pieces_text(&b.walk, text, n);
        size_t at = 0;
        while (at < n) {
            size_t x = next_piece(&a), y = next_piece(&b);
            if (x != y || x == 0) {
                for (size_t k = at; k < n && k < at + 24; k++) printf("%02x ", (unsigned char)text[k]);
                fail_msg("pattern %d: at byte %zu of %zu a piece of %zu bytes, PCRE2's has %zu", i, at, n, x, y);
            }
            at += x;
        }
        assert_int_equal(next_piece(&a), 0);
        pieces_close(&a.walk);
        pieces_close(&b.walk);
    }
}

static void put_char(Str *s, uint32_t c) {
    if (c < 0x80) {
        str_putc(s, (char)c);
        return;
    }
    int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    str_putc(s, (char)((more == 1 ? 0xC0 : more == 2 ? 0xE0 : 0xF0) | c >> 6 * more));
    while (more-- > 0) str_putc(s, (char)(0x80 | (c >> 6 * more & 0x3F)));
}

/* Each code point where its class decides: beside a letter, a number, a blank, punctuation, itself, and an apostrophe.
 */
static void test_every_code_point(void **state) {
    char version[40] = "";
    pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, version);
    if (atoi(version) > 16) {
        print_message("skipped: this PCRE2 knows Unicode %s, our tables are of 16\n", version);
        skip();
    }
    Str text = {0};
    for (uint32_t c = 0; c < 0x110000; c++) {
        if (c >= 0xD800 && c < 0xE000) continue;
        static const char around[] = {'x', '1', ' ', '.', '\n', '\''};
        for (int i = 0; i < COUNT_OF(around); i++) {
            put_char(&text, c);
            str_putc(&text, around[i]);
        }
        put_char(&text, c);
        put_char(&text, c);
        if (text.n < 8000 && c != 0x10FFFF) continue;
        assert_same_cuts(*state, text.s, text.n);
        str_clear(&text);
    }
    str_release(&text);
}

static const char *const nasty[] = {
    "a",
    "b",
    "Z",
    "s",
    "t",
    "re",
    "ve",
    "ll",
    "D",
    "M",
    "word",
    "verylongwordindeed",
    "'",
    "'s",
    "'S",
    "'T",
    "'Re",
    "'lL",
    "'\xC5\xBF",
    "\xC5\xBF",
    "\xE2\x80\x99s",
    "0",
    "12",
    "1234567",
    "\xC2\xBD",
    "\xD9\xA3",
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\v",
    "\f",
    "\xC2\x85",
    "\xC2\xA0",
    "\xE1\x9A\x80",
    "\xE1\xA0\x8E",
    "\xE2\x80\xA8",
    "\xE3\x80\x80",
    "\xE2\x80\x8B",
    "\xEF\xBB\xBF",
    ".",
    ",",
    "==",
    "/*",
    "{",
    "@",
    "[",
    "`",
    "_",
    "\\",
    "\x7F",
    "\x01",
    "\x1F",
    "\xC3\xA9",
    "\xC3\x9F",
    "\xCC\x81",
    "\xD0\x96",
    "\xE4\xB8\xAD",
    "\xE6\x96\x87",
    "\xED\x95\x9C",
    "\xF0\x9F\x98\x80",
    "\xE2\x80\x8D",
    "\xF0\x9D\x90\x80",
    "\xF0\xA0\x80\x80",
    "\xF0\x9F\x87\xA9",
    "\xE2\x85\xA7",
    "\xE0\xA2\x97",
    "\xEA\x9F\x8B",
    "\xF0\x91\x9B\x90",
    "\xFF",
    "\xC3",
    "\xE2\x82",
    "\xED\xA0\x80",
    "\xF4\x90\x80\x80",
    "\xC0\xAF",
    "\x80",
    "",
    "etaoin shrdlu",
};

static void put_nasty(Str *s, Rng r, uint64_t item, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        const char *part = nasty[rng_below(r, item, 3 * i, COUNT_OF(nasty))];
        uint32_t times = rng_below(r, item, 3 * i + 1, 12) == 0 ? 1 + rng_below(r, item, 3 * i + 2, 30) : 1;
        for (uint32_t k = 0; k < times; k++) str_put(s, part);
        if (!*part) str_putc(s, 0);
    }
}

static void test_random_strings(void **state) {
    Rng r = {seed_of(), RNG_TEST};
    for (uint64_t item = 0; item < 60000; item++) {
        Str s = {0};
        put_nasty(&s, r, item, 1 + rng_below(r, item, UINT32_MAX, item % 100 == 0 ? 300 : 12));
        char *tight = malloc(s.n); /* nothing behind it: a sanitizer sees what reads too far */
        memcpy(tight, s.s, s.n);
        assert_same_cuts(*state, tight, s.n);
        free(tight);
        str_release(&s);
    }
}

static bool read_real(Str *text, const char *name) {
    Error err = {0};
    char path[800];
    const char *dir = getenv("DIKAST_DATA");
    snprintf(path, sizeof path, "%s/%s", dir && *dir ? dir : TEST_DIR "/../../shared/data/quickstart", name);
    str_clear(text);
    return io_read_file(text, path, (size_t)1 << 26, &err);
}

static void test_real_text(void **state) {
    static const char *const name[] = {"pretrain_childrens_books_cc0.txt", "harm_qa.jsonl", "sft.jsonl",
                                       "consistency.jsonl"};
    Str text = {0};
    size_t n = 0;
    for (int i = 0; i < COUNT_OF(name); i++) {
        if (!read_real(&text, name[i])) continue;
        assert_same_cuts(*state, text.s, text.n);
        n += text.n;
    }
    str_release(&text);
    if (n == 0) {
        print_message("skipped: no data folder\n");
        skip();
    }
    print_message("%zu bytes\n", n);
}

/* ---- encoders ---- */

static Tokenizer *open_golden(const char *name) {
    Error err = {0};
    Tokenizer *t;
    char path[600];
    snprintf(path, sizeof path, TEST_DIR "/golden/text_%s.json", name);
    if (!tokenizer_open(&t, path, &err)) fail_msg("%s", err.msg);
    return t;
}

/* Piece by piece, without any memory of other pieces; for tokenizers whose text holds no added token. */
static void encode_plainly(const Tokenizer *t, const char *s, size_t n, TokBuf *out) {
    BpeScratch scratch = {0};
    PieceWalk w;
    const char *first;
    size_t len[PIECES];
    pieces_open(&w, t->split);
    pieces_text(&w, s, n);
    for (int k; (k = pieces_next(&w, &first, len)) > 0;)
        for (int p = 0; p < k; first += len[p++]) bpe_piece(t, &scratch, first, len[p], out, NULL);
    pieces_close(&w);
    bpe_scratch_release(&scratch);
}

static void assert_same_ids(const TokBuf *a, const TokBuf *b, uint64_t item) {
    int i = 0;
    while (i < a->n && i < b->n && a->id[i] == b->id[i]) i++;
    if (i < a->n || i < b->n)
        fail_msg("text %llu: ids differ from the %d. of %d and %d", (unsigned long long)item, i, a->n, b->n);
}

/* Many different words of every length fill, double and at last empty the memory of pieces. */
static void test_encoder_remembers(void **state) {
    (void)state;
    enum { N_WORD = 260000, TEXTS = 200 };
    Rng r = {seed_of(), RNG_TEST};
    Tokenizer *t = open_golden("gpt2");
    Encoder *e = encoder_open(t);
    TokBuf got = {0}, want = {0};
    Str s = {0};
    for (uint64_t item = 0; item < TEXTS; item++) {
        str_clear(&s);
        if (item % 4 == 0) put_nasty(&s, r, item, 100);
        for (uint32_t i = 0; i < N_WORD / TEXTS; i++) {
            uint32_t n = rng_below(r, item, 4 * i, 50) == 0 ? 12 + rng_below(r, item, 4 * i + 1, 70)
                                                            : 1 + rng_below(r, item, 4 * i + 1, 12);
            uint64_t word = item % 2 ? rng_below(r, item, 4 * i + 2, 3000) : item << 32 | i; /* met before, and new */
            str_putc(&s, i % 3 ? ' ' : '\n');
            for (uint32_t k = 0; k < n; k++) str_putc(&s, (char)('a' + rng_below(r, word, k, 26)));
        }
        got.n = want.n = 0;
        encoder_encode(e, s.s, s.n, &got);
        encode_plainly(t, s.s, s.n, &want);
        assert_same_ids(&got, &want, item);
        got.n = 0;
        tokenizer_encode(t, s.s, s.n, &got);
        assert_same_ids(&got, &want, item);
    }
    tokbuf_release(&got);
    tokbuf_release(&want);
    str_release(&s);
    encoder_close(e);
    tokenizer_close(t);
}

/* As encode.c hashes a piece of up to seven bytes. */
static uint64_t piece_hash(const char *s, size_t n) {
    uint64_t a = 0, b = (uint64_t)n << 56;
    memcpy(&a, s, n);
    uint64_t h = (a ^ b * 0xD6E8FEB86659FD93u) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 32;
}

/* Words made to meet in one place of the memory, many more than are looked for there. */
static void test_encoder_collisions(void **state) {
    (void)state;
    enum { N_WORD = 1500, LOW = 0xFFF };
    Tokenizer *t = open_golden("gpt2");
    Str text = {0};
    TokBuf got = {0}, want = {0};
    char word[8] = "\0\0\0\0\0\0\0";
    int n_word = 0;
    for (uint64_t k = 0; n_word < N_WORD; k++) {
        for (uint64_t i = 0, left = k; i < 7; i++, left /= 26) word[i] = (char)('a' + left % 26);
        if ((piece_hash(word, 7) & LOW) != 0) continue;
        str_putc(&text, '\n'); /* apart from the word: GPT-2's pattern takes one blank alone */
        str_putn(&text, word, 7);
        n_word++;
    }
    Str twice = {0};
    for (int again = 0; again < 2; again++) str_putn(&twice, text.s, text.n);
    tokenizer_encode(t, twice.s, twice.n, &got);
    encode_plainly(t, twice.s, twice.n, &want);
    str_release(&twice);
    assert_same_ids(&got, &want, 0);
    tokbuf_release(&got);
    tokbuf_release(&want);
    str_release(&text);
    tokenizer_close(t);
}

typedef struct {
    Str *text;
} Many;

static const char *many_at(void *ud, int64_t i, size_t *n) {
    const Many *m = ud;
    *n = m->text[i].n;
    return str_get(&m->text[i]);
}

static void test_texts_and_threads(void **state) {
    (void)state;
    enum { N = 500 };
    Rng r = {seed_of(), RNG_TEST};
    Tokenizer *t = open_golden("llama3"); /* it has added tokens */
    Many m = {mem_alloc(N * sizeof(Str))};
    for (uint64_t i = 0; i < N; i++) {
        if (i % 50 != 7) put_nasty(&m.text[i], r, i, 1 + rng_below(r, i, UINT32_MAX, 40));
        if (i % 5 == 0) str_put(&m.text[i], " <tool> the");
    }
    for (int n_thread = 1; n_thread <= 5; n_thread += 2) {
        Error err = {0};
        Pool *pool;
        assert_true(pool_open(&pool, n_thread, &err));
        TextsEncoder *e = texts_encoder_open(t, pool);
        for (int n_text = 0; n_text <= N; n_text += N / 2) {
            texts_encode(e, many_at, &m, n_text);
            for (int64_t i = 0; i < n_text; i++) {
                TokBuf want = {0}, got = {0};
                const int32_t *id = texts_ids(e, i, &got.n);
                got.id = (int32_t *)(uintptr_t)id;
                tokenizer_encode(t, str_get(&m.text[i]), m.text[i].n, &want);
                assert_same_ids(&got, &want, (uint64_t)i);
                tokbuf_release(&want);
            }
        }
        texts_encoder_close(e);
        pool_close(pool);
    }
    for (int i = 0; i < N; i++) str_release(&m.text[i]);
    free(m.text);
    tokenizer_close(t);
}

typedef struct {
    const char *s;
} Once;

static const char *once(void *ud, size_t *n) {
    Once *o = ud;
    const char *s = o->s;
    *n = s ? strlen(s) : 0;
    o->s = NULL;
    return s;
}

/* With tokens of 2, 4, .. 256 dashes. */
static Tokenizer *train_long_tokens(void) {
    Error err = {0};
    Str text = {0}, json = {0};
    const char *special[] = {"<|a special token longer than two steps of sixteen bytes|>"};
    BpeTrainParams p = {.n_vocab = 300, .split = SPLIT_GPT2, .special = special, .n_special = 1};
    Tokenizer *t;
    for (int i = 0; i < 512; i++) str_putc(&text, '-');
    Once texts = {text.s};
    assert_true(bpe_train(&json, &p, once, &texts, &err) && tokenizer_parse(&t, json.s, json.n, "trained", &err));
    str_release(&text);
    str_release(&json);
    assert_true(t->most_len > 100);
    return t;
}

/* Decoding copies in steps; what lies behind a token must not show, and the text may already hold something. */
static void check_decoding(Tokenizer *t) {
    Str want = {0}, got = {0};
    TokBuf ids = {0};
    for (int round = 0; round < 3; round++)
        for (int32_t id = -2; id < tokenizer_n_vocab(t) + 2; id++) tokbuf_put(&ids, id);
    for (int i = 0; i < ids.n; i++) {
        if (ids.id[i] < 0 || ids.id[i] >= t->n_vocab || t->kind[ids.id[i]] == TOKEN_ABSENT) continue;
        str_putn(&want, t->bytes.s + t->start[ids.id[i]], t->len[ids.id[i]]);
    }
    for (int step = 1; step < ids.n; step = step * 3 + 1) {
        str_clear(&got);
        str_put(&got, "before ");
        for (int i = 0; i < ids.n; i += step)
            tokenizer_decode(t, ids.id + i, ids.n - i < step ? ids.n - i : step, true, &got);
        assert_int_equal(got.n, want.n + 7);
        assert_memory_equal(got.s, "before ", 7);
        assert_memory_equal(got.s + 7, want.s, want.n + 1);
    }
    str_release(&want);
    str_release(&got);
    tokbuf_release(&ids);
    tokenizer_close(t);
}

static void test_decode_appends(void **state) {
    (void)state;
    check_decoding(open_golden("gpt2"));
    check_decoding(train_long_tokens());
}

/* ---- merging ---- */

static int32_t id_of(const Tokenizer *t, const char *spelling, size_t n) {
    Str bytes = {0};
    int32_t found = -1;
    assert_true(alphabet_read(&bytes, spelling, n));
    for (int32_t id = 0; id < t->n_vocab && found < 0; id++)
        if (t->kind[id] == TOKEN_PLAIN && t->len[id] == bytes.n &&
            memcmp(t->bytes.s + t->start[id], bytes.s, bytes.n) == 0)
            found = id;
    str_release(&bytes);
    assert_true(found >= 0);
    return found;
}

/* The definition: every merge in turn, wherever it applies, from left to right. */
static void merge_by_definition(const int32_t (*merge)[3], int n_merge, TokBuf *id) {
    for (int r = 0; r < n_merge; r++) {
        int n = 0;
        for (int i = 0; i < id->n; i++) {
            bool pair = i + 1 < id->n && id->id[i] == merge[r][0] && id->id[i + 1] == merge[r][1];
            id->id[n++] = pair ? merge[r][2] : id->id[i];
            i += pair;
        }
        id->n = n;
    }
}

/* Lengths on both sides of where merging changes its method. */
static void test_merging(void **state) {
    (void)state;
    enum { MOST = 2000 };
    static int32_t merge[MOST][3];
    Rng r = {seed_of(), RNG_TEST};
    Error err = {0};
    Tokenizer *t = open_golden("gpt2");
    Json *root;
    if (!json_read_file(&root, TEST_DIR "/golden/text_gpt2.json", 0, &err)) fail_msg("%s", err.msg);
    const Json *list = json_get(json_get(root, "model"), "merges");
    int n_merge = json_len(list);
    assert_in_range(n_merge, 100, MOST);
    for (int i = 0; i < n_merge; i++) {
        const char *a = json_str(json_at(json_at(list, i), 0), NULL), *b = json_str(json_at(json_at(list, i), 1), NULL);
        assert_true(a && b);
        Str both = {0};
        str_put(&both, a);
        str_put(&both, b);
        merge[i][0] = id_of(t, a, strlen(a));
        merge[i][1] = id_of(t, b, strlen(b));
        merge[i][2] = id_of(t, both.s, both.n);
        str_release(&both);
    }
    json_release(root);
    BpeScratch scratch = {0};
    TokBuf want = {0}, got = {0};
    for (uint64_t item = 0; item < 1500; item++) {
        char s[400];
        uint32_t n = item < 300 ? (uint32_t)item + 1 : 1 + rng_below(r, item, 0, 160),
                 few = 1 + rng_below(r, item, 1, 12);
        for (uint32_t i = 0; i < n; i++) s[i] = "etaonihrdslugm"[rng_below(r, item, 2 + i, few + 2)];
        want.n = got.n = 0;
        for (uint32_t i = 0; i < n; i++) tokbuf_put(&want, t->byte_id[(unsigned char)s[i]]);
        merge_by_definition((const int32_t(*)[3])merge, n_merge, &want);
        bpe_piece(t, &scratch, s, n, &got, NULL);
        assert_same_ids(&got, &want, item);
    }
    bpe_scratch_release(&scratch);
    tokbuf_release(&want);
    tokbuf_release(&got);
    tokenizer_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_code_point, open_splitters, close_splitters),
        cmocka_unit_test_setup_teardown(test_random_strings, open_splitters, close_splitters),
        cmocka_unit_test_setup_teardown(test_real_text, open_splitters, close_splitters),
        cmocka_unit_test(test_merging),
        cmocka_unit_test(test_encoder_remembers),
        cmocka_unit_test(test_encoder_collisions),
        cmocka_unit_test(test_texts_and_threads),
        cmocka_unit_test(test_decode_appends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
