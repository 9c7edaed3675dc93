// layer: data
/* The ledger's balance, texts to samples, and packs: each sample once per epoch, equal whatever the order of asking. */
#include "base/hash.h"
#include "base/io.h"
#include "base/rng.h"
#include "data/loader.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static const uint64_t seed = 5;

/* ---- ledger */

static void test_ledger_balance(void **state) {
    (void)state;
    static const char *const reason[] = {"context", "DUP", "too long"};
    Rng rng = {seed, RNG_TEST};
    print_message("seed %llu\n", (unsigned long long)seed);
    for (uint64_t trial = 0; trial < 30; trial++) {
        Ledger *l = ledger_new();
        Error err = {ERR_NONE, ""};
        int64_t lost = 0, in = 0;
        int n = (int)rng_below(rng, trial, 0, 50);
        uint32_t step = 1;
        for (int i = 0; i < n; i++) {
            int bin = (int)rng_below(rng, trial, step++, LEDGER_COUNT);
            int64_t tok = rng_below(rng, trial, step++, 1000), k = rng_below(rng, trial, step++, 3);
            ledger_in(l, k, tok);
            ledger_add(l, (LedgerBin)bin, bin < LEDGER_TRUNCATED ? NULL : reason[rng_below(rng, trial, step++, 3)], k,
                       tok);
            in += tok;
            lost += bin >= LEDGER_TRUNCATED ? tok : 0;
        }
        double share = in ? (double)lost / (double)in : 0, allowed = rng_uniform(rng, trial, step++);
        if (ledger_close(l, allowed, "t.ledger.json", &err) != (share <= allowed))
            fail_msg("trial %d: share %g, allowed %g: %s", (int)trial, share, allowed, err.msg);
        assert_true(ledger_close(l, 1, "t.ledger.json", &err));
        /* Any single unit unaccounted for must be noticed, whichever side it is on. */
        int64_t units[4][2] = {{1, 0}, {0, 1}, {1, 5}, {0, 7}};
        int u = (int)rng_below(rng, trial, step++, 4);
        if (trial % 2)
            ledger_in(l, units[u][0], units[u][1]);
        else
            ledger_add(l, LEDGER_TRAINED, NULL, units[u][0], units[u][1]);
        err.code = ERR_NONE;
        assert_false(ledger_close(l, 1, "t.ledger.json", &err));
        assert_int_equal(err.code, ERR_STATE);
        ledger_free(l);
    }
    unlink("t.ledger.json");
}

static void *book(void *ud) {
    for (int i = 0; i < 2000; i++) {
        ledger_in(ud, 1, 10);
        ledger_add(ud, LEDGER_TRAINED, NULL, 1, 6);
        ledger_add(ud, i % 2 ? LEDGER_DROPPED : LEDGER_TRUNCATED, i % 3 ? "b" : "a", 0, 4);
    }
    return NULL;
}

static void test_ledger_threads_and_file(void **state) {
    (void)state;
    pthread_t t[3];
    Ledger *l = ledger_new();
    Error err = {ERR_NONE, ""};
    Str text = {0};
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&t[i], NULL, book, l), 0);
    for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
    if (!ledger_close(l, 0.4, "t.ledger.json", &err)) fail_msg("%s", err.msg);
    assert_true(io_read_file(&text, "t.ledger.json", 1 << 20, &err));
    assert_non_null(strstr(text.s, "\"samples\": 6000"));
    assert_non_null(strstr(text.s, "\"tokens\": 60000"));
    assert_true(strstr(text.s, "trained") < strstr(text.s, "truncated"));
    assert_true(strstr(text.s, "truncated") < strstr(text.s, "dropped"));
    assert_false(ledger_close(l, 0.39, "t.ledger.json", &err));
    assert_int_equal(err.code, ERR_GATE);
    assert_non_null(strstr(err.msg, "40.0 %"));
    assert_false(ledger_close(l, 1, "t.no.such.dir/ledger.json", &err));
    str_release(&text);
    ledger_free(l);
    unlink("t.ledger.json");
}

/* ---- samples from texts */

typedef struct {
    char **text;
    int64_t n, at;
} Texts;

static const char *text_at(void *ud, int64_t i, size_t *n) {
    const Texts *t = ud;
    *n = strlen(t->text[i]);
    return t->text[i];
}

static const char *text_next(void *ud, size_t *n) {
    Texts *t = ud;
    return t->at < t->n ? text_at(t, t->at++, n) : NULL;
}

static void make_tokenizer(Tokenizer **tok, Chat *chat, Texts *t) {
    Str json = {0};
    Error err = {ERR_NONE, ""};
    const char *special[SENT_COUNT];
    for (int i = 0; i < SENT_COUNT; i++) special[i] = sentinel_spelling((Sentinel)i);
    BpeTrainParams p = {
        .n_vocab = 400, .split = SPLIT_GPT2, .special = special, .n_special = SENT_COUNT, .min_count = 2};
    if (!bpe_train(&json, &p, text_next, t, &err) || !tokenizer_parse(tok, json.s, json.n, "trained", &err) ||
        !chat_init(chat, *tok, &err))
        fail_msg("%s", err.msg);
    str_release(&json);
}

static bool samples_equal(const SampleSet *a, const SampleSet *b) {
    size_t n = (size_t)a->n, n_tok = (size_t)a->off[a->n];
    return a->n == b->n && !memcmp(a->off, b->off, sizeof *a->off * (n + 1)) &&
           !memcmp(a->id, b->id, sizeof *a->id * n) && !memcmp(a->tok, b->tok, sizeof *a->tok * n_tok) &&
           !memcmp(a->weight, b->weight, sizeof *a->weight * n_tok);
}

static void test_texts(void **state) {
    (void)state;
    enum { N = 9000, MAX = 24 }; /* more than one batch */
    static const char *const word[] = {"red", "green", "blue", "kite", "stone", "river", "<|endoftext|>", "a", "bc"};
    char **text = calloc(N, sizeof *text);
    Rng rng = {seed, RNG_TEST};
    for (uint64_t i = 0; i < N; i++) {
        Str s = {0};
        int n = i % 397 == 7 ? 0 : 1 + (int)rng_below(rng, i, 0, 60);
        for (int k = 0; k < n; k++) str_printf(&s, " %s", word[rng_below(rng, i, (uint32_t)k + 1, COUNT_OF(word))]);
        text[i] = s.s ? s.s : strdup("");
    }
    Texts t = {text, N, 0};
    Tokenizer *tok;
    Chat chat;
    make_tokenizer(&tok, &chat, &t);
    SampleSet one, three;
    Ledger *l = ledger_new();
    Error err = {ERR_NONE, ""};
    samples_init(&one, 1);
    samples_init(&three, 1);
    samples_add_texts(&one, &chat, text_at, &t, N, MAX, 1, l);
    samples_add_texts(&three, &chat, text_at, &t, N, MAX, 3, NULL);
    assert_true(samples_equal(&one, &three));
    if (!ledger_close(l, 0.01, "t.ledger.json", &err)) fail_msg("%s", err.msg);
    unlink("t.ledger.json");

    /* Put the pieces of each document together again: every target once, nothing but the text between two marks. */
    int64_t i = 0;
    for (int64_t d = 0; d < N; d++) {
        TokBuf want = {0}, got = {0};
        tokenizer_encode(tok, text[d], strlen(text[d]), &want);
        if (want.n == 0) continue;
        tokbuf_put(&want, chat.id[SENT_ENDOFTEXT]);
        assert_int_equal(one.tok[one.off[i]], chat.id[SENT_ENDOFTEXT]);
        for (int64_t first = i; i < one.n && one.id[i] == (uint64_t)d; i++) {
            int64_t from = one.off[i], n = one.off[i + 1] - from;
            assert_in_range(n, 2, MAX);
            assert_true(one.weight[from] == 0);
            if (i > first) assert_int_equal(one.tok[from], one.tok[from - 1]);
            for (int64_t k = 1; k < n; k++) {
                assert_true(one.weight[from + k] == 1);
                tokbuf_put(&got, one.tok[from + k]);
            }
        }
        assert_int_equal(got.n, want.n);
        assert_memory_equal(got.id, want.id, sizeof *got.id * (size_t)got.n);
        tokbuf_release(&want);
        tokbuf_release(&got);
    }
    assert_int_equal(i, one.n);
    for (int k = 0; k < N; k++) free(text[k]);
    free(text);
    samples_release(&one);
    samples_release(&three);
    ledger_free(l);
    tokenizer_close(tok);
}

/* ---- packs */

static void random_set(SampleSet *s, int group, int n, int max_len, uint64_t item) {
    Rng rng = {seed, RNG_TEST};
    int32_t tok[512];
    float weight[512];
    uint32_t step = 0;
    samples_init(s, group);
    for (int i = 0; i < n; i++) {
        int len = 1 + (int)rng_below(rng, item, step++, (uint32_t)max_len);
        for (int k = 0; k < len; k++) {
            tok[k] = (int32_t)rng_below(rng, item, step++, 30000);
            weight[k] = (float)rng_below(rng, item, step++, 3);
        }
        samples_add(s, tok, weight, len, (uint64_t)i * 10, (float)i, 1);
    }
}

static Hash pack_hash(const Pack *p) {
    Hasher *h = hasher_new();
    hasher_add(h, p->tok, sizeof *p->tok * (size_t)p->n_tok);
    hasher_add(h, p->pos, sizeof *p->pos * (size_t)p->n_tok);
    hasher_add(h, p->weight, sizeof *p->weight * (size_t)p->n_tok);
    hasher_add(h, p->seq_off, sizeof *p->seq_off * (size_t)(p->n_seq + 1));
    hasher_add(h, p->sample, sizeof *p->sample * (size_t)p->n_seq);
    hasher_add(h, &p->epoch, sizeof p->epoch);
    hasher_add(h, &p->number, sizeof p->number);
    return hasher_finish(h);
}

static void check_pack(const SampleSet *s, const Pack *p, int max_tok) {
    assert_in_range(p->n_tok, 1, max_tok);
    assert_int_equal(p->seq_off[0], 0);
    assert_int_equal(p->seq_off[p->n_seq], p->n_tok);
    assert_int_equal(p->n_seq % s->group, 0);
    for (int q = 0; q < p->n_seq; q++) {
        int64_t i = p->sample[q], from = s->off[i];
        int at = p->seq_off[q], n = p->seq_off[q + 1] - at;
        assert_int_equal(n, s->off[i + 1] - from);
        assert_memory_equal(p->tok + at, s->tok + from, sizeof(int32_t) * (size_t)n);
        for (int k = 0; k < n; k++) {
            assert_int_equal(p->pos[at + k], k);
            assert_true(p->weight[at + k] == (k + 1 < n ? s->weight[from + k + 1] : 0));
        }
        assert_int_equal(p->sample[q], p->sample[q - q % s->group] + q % s->group); /* groups stay together, in order */
        if (q % s->group == 0) assert_int_equal(i % s->group, 0);
    }
}

enum { EPOCHS = 3 };

/* Reads epochs in order, checks every pack; returns the hashes of all. */
static Hash *read_in_order(const SampleSet *s, int max_tok, int64_t *n_pack) {
    Loader *l;
    Error err = {ERR_NONE, ""};
    if (!loader_open(&l, s, max_tok, seed, &err)) fail_msg("%s", err.msg);
    *n_pack = 0;
    for (int e = 0; e < EPOCHS; e++) *n_pack += loader_packs_in_epoch(l, e);
    Hash *hash = calloc((size_t)*n_pack, sizeof *hash);
    int *seen = calloc((size_t)s->n, sizeof *seen);
    for (int64_t i = 0; i < *n_pack; i++) {
        const Pack *p = loader_pack(l, i);
        assert_int_equal(p->number, i);
        check_pack(s, p, max_tok);
        for (int q = 0; q < p->n_seq; q++) assert_int_equal(seen[p->sample[q]]++, (int)p->epoch);
        hash[i] = pack_hash(p);
    }
    for (int64_t i = 0; i < s->n; i++) assert_int_equal(seen[i], EPOCHS);
    free(seen);
    loader_close(l);
    return hash;
}

static void test_packs(void **state) {
    (void)state;
    static const struct {
        int group, n, max_len, max_tok;
    } shape[] = {{1, 1, 5, 5},    {1, 3, 4, 64},    {1, 3000, 60, 256}, {2, 2500, 40, 200},
                 {2, 10, 30, 60}, {3, 300, 20, 90}, {1, 5000, 3, 3}};
    Rng rng = {seed, RNG_TEST};
    for (int k = 0; k < COUNT_OF(shape); k++) {
        SampleSet s;
        int64_t n;
        random_set(&s, shape[k].group, shape[k].n - shape[k].n % shape[k].group, shape[k].max_len, (uint64_t)k + 100);
        Hash *want = read_in_order(&s, shape[k].max_tok, &n);
        /* Any start, jumps in both directions, a slow and a fast reader: the same packs. */
        for (uint64_t trial = 0; trial < 6; trial++) {
            Loader *l;
            Error err = {ERR_NONE, ""};
            assert_true(loader_open(&l, &s, shape[k].max_tok, seed, &err));
            int64_t at = rng_below(rng, trial, 0, (uint32_t)n);
            for (uint32_t step = 1; step < 25; step++) {
                assert_true(hash_equal(pack_hash(loader_pack(l, at)), want[at]));
                if (trial % 2) nanosleep(&(struct timespec){0, 200000}, NULL);
                at = rng_below(rng, trial, 2 * step, 8) ? at + 1 : rng_below(rng, trial, 2 * step + 1, (uint32_t)n);
                if (at >= n) at = 0;
            }
            loader_close(l);
        }
        free(want);
        samples_release(&s);
    }
}

/* Jumps while the builder is in the middle of a large pack: what it then finishes is stale and must not be handed out.
 */
static void test_stale_packs(void **state) {
    (void)state;
    SampleSet s;
    Loader *l;
    Error err = {ERR_NONE, ""};
    Rng rng = {seed, RNG_TEST};
    random_set(&s, 1, 8000, 200, 9);
    assert_true(loader_open(&l, &s, 200000, seed, &err));
    int64_t n = loader_packs_in_epoch(l, 0);
    for (uint64_t trial = 0; trial < 300; trial++) {
        int64_t at = rng_below(rng, trial, 0, (uint32_t)n);
        const Pack *p = loader_pack(l, at);
        assert_int_equal(p->number, at);
    }
    loader_close(l);
    samples_release(&s);
}

static int longest(const Pack *p) {
    int best = 0;
    for (int q = 0; q < p->n_seq; q++)
        best = p->seq_off[q + 1] - p->seq_off[q] > best ? p->seq_off[q + 1] - p->seq_off[q] : best;
    return best;
}

static void test_packs_are_full_and_shuffled(void **state) {
    (void)state;
    SampleSet s;
    Loader *l, *other;
    Error err = {ERR_NONE, ""};
    random_set(&s, 1, 1000, 100, 7);
    assert_true(loader_open(&l, &s, 512, seed, &err));
    assert_true(loader_open(&other, &s, 512, seed + 1, &err));
    int64_t n = loader_packs_in_epoch(l, 0), least = (s.off[s.n] + 511) / 512;
    print_message("%lld packs, at least %lld needed\n", (long long)n, (long long)least);
    assert_true((double)n <= 1.02 * (double)least);
    Hash first = pack_hash(loader_pack(l, 0));
    assert_false(hash_equal(first, pack_hash(loader_pack(other, 0)))); /* by seed */
    assert_int_equal(loader_pack(l, n)->epoch, 1);
    /* Long samples are packed first; they must not be read first. */
    int64_t half[2] = {0, 0};
    for (int64_t i = 0; i < n; i++) half[2 * i >= n] += longest(loader_pack(l, i));
    print_message("longest samples, first and second half: %lld, %lld\n", (long long)half[0], (long long)half[1]);
    assert_true(llabs(half[0] - half[1]) < (half[0] + half[1]) / 10);
    assert_true(loader_wait_s(l) >= 0);
    loader_close(l);
    loader_close(other);
    samples_release(&s);
}

/* Replies of few lengths, the shortest rare: 1 in 64 of 6 tokens, the others of 20 or 40. A step is often one pack, and
 * each counts as much as any other, however full: so over packs, as over samples, the rare kind must have its share. */
static void test_packs_are_mixed(void **state) {
    (void)state;
    enum { N = 16384, SHORT = 6 };
    SampleSet s;
    Loader *l;
    Error err = {ERR_NONE, ""};
    int32_t tok[40] = {0};
    float weight[40] = {0};
    samples_init(&s, 1);
    for (int i = 0; i < N; i++) samples_add(&s, tok, weight, i % 64 == 0 ? SHORT : i % 2 ? 20 : 40, (uint64_t)i, 0, 1);
    assert_true(loader_open(&l, &s, 512, seed, &err));
    int64_t n = loader_packs_in_epoch(l, 0), least = (s.off[N] + 511) / 512;
    double share = 0;
    for (int64_t i = 0; i < n; i++) {
        const Pack *p = loader_pack(l, i);
        int kind[3] = {0};
        for (int q = 0; q < p->n_seq; q++) kind[(p->seq_off[q + 1] - p->seq_off[q]) / 20]++;
        share += (double)kind[0] / p->n_seq;
        if (p->n_tok > 256) assert_true(kind[1] > 0 && kind[2] > 0);
    }
    print_message("the rare kind: %.4f of samples, %.4f of a pack; %lld packs, at least %lld needed\n", 1.0 / 64,
                  share / (double)n, (long long)n, (long long)least);
    assert_true(share / (double)n < 1.25 / 64 && share / (double)n > 0.8 / 64);
    assert_true((double)n <= 1.04 * (double)least);
    loader_close(l);
    samples_release(&s);
}

static void test_refusals(void **state) {
    (void)state;
    SampleSet s;
    Loader *l;
    Error err = {ERR_NONE, ""};
    samples_init(&s, 2);
    assert_false(loader_open(&l, &s, 64, seed, &err));
    assert_int_equal(err.code, ERR_STATE);
    int32_t tok[40] = {0};
    float weight[40] = {0};
    samples_add(&s, tok, weight, 40, 17, 0, 1);
    samples_add(&s, tok, weight, 25, 18, 0, 1);
    assert_false(loader_open(&l, &s, 64, seed, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, "id 17"));
    assert_non_null(strstr(err.msg, "65 tokens"));
    assert_true(loader_open(&l, &s, 65, seed, &err));
    loader_close(l); /* never asked */
    loader_close(NULL);
    samples_release(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ledger_balance),  cmocka_unit_test(test_ledger_threads_and_file),
        cmocka_unit_test(test_texts),           cmocka_unit_test(test_packs),
        cmocka_unit_test(test_stale_packs),     cmocka_unit_test(test_packs_are_full_and_shuffled),
        cmocka_unit_test(test_packs_are_mixed), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
