/* bpe_train.c — learns merges: the most frequent pair of neighbouring tokens becomes a token, until there are enough.
 *
 * Texts are reduced to their distinct pieces with counts, so a step costs what it changes: each pair in the queue knows
 * the words it was seen in; merging it visits those words and adjusts the counts of the pairs beside it. A queue entry
 * may be stale, its pair having lost occurrences since; when such a one comes up it is put back with today's count.
 * Order is count, then lower ids, and ids of bytes follow the characters of the byte alphabet: all as in Hugging Face's
 * BpeTrainer, whose merges this gives for the same texts.
 *
 * No two merges spell the same token, so none need be looked up: between two boundaries that last, every step treats
 * equal strings equally (it goes left to right and starts afresh at a boundary), so a string is cut the same way
 * wherever it stands. A merge that would spell a special token is left out, with all that would build on it; there the
 * text would become the special token. min_count 0 and 1 mean the same, every pair seen at all. */
#include "text/text_int.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    size_t at;
    uint32_t n;
    uint64_t hash;
    int64_t count;
} Word; /* symbols sym[at .. at+n) */
typedef struct {
    int32_t *at;
    int n, cap;
} WordList;
typedef struct {
    uint64_t key;
    int64_t count;
    int fresh;
} Pair; /* fresh: index of this step's list, or -1 */
typedef struct {
    uint64_t key;
    int64_t count;
    WordList words;
} Entry;
typedef struct {
    uint64_t key;
    WordList words;
} Fresh;

typedef struct {
    const BpeTrainParams *p;
    Str bytes; /* of the words, while they are counted */
    Word *word;
    int n_word, cap_word;
    int32_t *word_slot; /* hash table; -1 free */
    uint64_t word_mask;
    int32_t *sym;
    Pair *pair; /* hash table by key; UINT64_MAX free; pairs are never removed */
    uint64_t pair_mask;
    int64_t n_pair;
    Entry *queue;
    int64_t n_queue, cap_queue;
    Fresh *fresh;
    int n_fresh, cap_fresh;
    Str spelling;  /* of the tokens, in bytes, one after another */
    size_t *token; /* (n_token + 1) offsets; token i has id n_special + i */
    int n_token;
    int32_t (*merge)[2];
    int n_merge, cap_merge;
} Train;

static void list_put(WordList *l, int32_t word) {
    if (l->n > 0 && l->at[l->n - 1] == word) return;
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 4;
        l->at = mem_grow(l->at, (size_t)l->cap * sizeof *l->at);
    }
    l->at[l->n++] = word;
}

/* ---- counting pieces ---- */

static void words_rehash(Train *t) {
    t->word_mask = t->word_mask ? 2 * t->word_mask + 1 : (1u << 10) - 1;
    free(t->word_slot);
    t->word_slot = mem_alloc((t->word_mask + 1) * sizeof *t->word_slot);
    memset(t->word_slot, -1, (t->word_mask + 1) * sizeof *t->word_slot);
    for (int32_t w = 0; w < t->n_word; w++) {
        uint64_t i = t->word[w].hash & t->word_mask;
        while (t->word_slot[i] >= 0) i = (i + 1) & t->word_mask;
        t->word_slot[i] = w;
    }
}

static void count_piece(Train *t, const char *s, size_t n) {
    uint64_t hash = bytes_hash(s, n), i = hash & t->word_mask;
    for (; t->word_slot[i] >= 0; i = (i + 1) & t->word_mask) {
        Word *w = &t->word[t->word_slot[i]];
        if (w->hash == hash && w->n == n && memcmp(t->bytes.s + w->at, s, n) == 0) {
            w->count++;
            return;
        }
    }
    CHECK(t->n_word < INT_MAX / 2 && n < UINT32_MAX, "more than 2^30 distinct pieces");
    if (t->n_word == t->cap_word) {
        t->cap_word = t->cap_word ? 2 * t->cap_word : 4096;
        t->word = mem_grow(t->word, (size_t)t->cap_word * sizeof *t->word);
    }
    t->word_slot[i] = t->n_word;
    t->word[t->n_word++] = (Word){t->bytes.n, (uint32_t)n, hash, 1};
    str_putn(&t->bytes, s, n);
    if ((uint64_t)t->n_word * 2 > t->word_mask) words_rehash(t);
}

static bool count_texts(Train *t, BpeTextFn *next, void *ud, Error *err) {
    Splitter *split;
    const char *pattern = split_pattern[t->p->split];
    if (!splitter_open(&split, pattern, strlen(pattern), err)) return false;
    PieceWalk walk;
    size_t n, len[PIECES];
    const char *s, *piece;
    words_rehash(t);
    pieces_open(&walk, split);
    while ((s = next(ud, &n)) != NULL) {
        pieces_text(&walk, s, n);
        for (int k; (k = pieces_next(&walk, &piece, len)) > 0;)
            for (int i = 0; i < k; piece += len[i++]) count_piece(t, piece, len[i]);
    }
    pieces_close(&walk);
    splitter_close(split);
    return true;
}

/* ---- tokens ---- */

static int32_t token_add(Train *t, const char *s, size_t n) {
    str_putn(&t->spelling, s, n);
    t->token[++t->n_token] = t->spelling.n;
    return t->p->n_special + t->n_token - 1;
}

/* Bytes in the order of their characters, and the words as symbols. */
static void tokens_init(Train *t) {
    t->token = mem_alloc(((size_t)t->p->n_vocab + 1) * sizeof *t->token);
    int32_t id[256];
    for (uint32_t c = 0; c < 324; c++) {
        int b = alphabet_byte(c);
        if (b >= 0) id[b] = token_add(t, &(char){(char)b}, 1);
    }
    t->sym = mem_alloc((t->bytes.n + 1) * sizeof *t->sym);
    for (size_t i = 0; i < t->bytes.n; i++) t->sym[i] = id[(unsigned char)t->bytes.s[i]];
    str_release(&t->bytes);
}

/* ---- pairs ---- */

static uint64_t pair_key(int32_t left, int32_t right) { return (uint64_t)(uint32_t)left << 32 | (uint32_t)right; }

static uint64_t pair_slot(const Train *t, uint64_t key) {
    uint64_t i = key * 0x9E3779B97F4A7C15u;
    i = (i ^ i >> 32) & t->pair_mask;
    while (t->pair[i].key != key && t->pair[i].key != UINT64_MAX) i = (i + 1) & t->pair_mask;
    return i;
}

static void pairs_rehash(Train *t) {
    Pair *old = t->pair;
    uint64_t n_old = old ? t->pair_mask + 1 : 0;
    t->pair_mask = old ? 2 * t->pair_mask + 1 : (1u << 10) - 1;
    t->pair = mem_alloc((t->pair_mask + 1) * sizeof *t->pair);
    for (uint64_t i = 0; i <= t->pair_mask; i++) t->pair[i].key = UINT64_MAX;
    for (uint64_t i = 0; i < n_old; i++)
        if (old[i].key != UINT64_MAX) t->pair[pair_slot(t, old[i].key)] = old[i];
    free(old);
}

static void pair_change(Train *t, int32_t left, int32_t right, int64_t count, int32_t word) {
    uint64_t key = pair_key(left, right);
    Pair *p = &t->pair[pair_slot(t, key)];
    if (p->key == UINT64_MAX) {
        *p = (Pair){key, 0, -1};
        if ((uint64_t)++t->n_pair * 2 > t->pair_mask) {
            pairs_rehash(t);
            p = &t->pair[pair_slot(t, key)];
        }
    }
    p->count += count;
    if (count < 0) return;
    if (p->fresh < 0) {
        if (t->n_fresh == t->cap_fresh) {
            t->cap_fresh = t->cap_fresh ? 2 * t->cap_fresh : 1024;
            t->fresh = mem_grow(t->fresh, (size_t)t->cap_fresh * sizeof *t->fresh);
        }
        p->fresh = t->n_fresh;
        t->fresh[t->n_fresh++] = (Fresh){.key = key};
    }
    list_put(&t->fresh[p->fresh].words, word);
}

/* ---- queue: a heap, most frequent first, then lower ids ---- */

static bool before(const Entry *a, const Entry *b) {
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static void queue_push(Train *t, Entry e) {
    if (t->n_queue == t->cap_queue) {
        t->cap_queue = t->cap_queue ? 2 * t->cap_queue : 4096;
        t->queue = mem_grow(t->queue, (size_t)t->cap_queue * sizeof *t->queue);
    }
    int64_t i = t->n_queue++;
    for (; i > 0 && before(&e, &t->queue[(i - 1) / 2]); i = (i - 1) / 2) t->queue[i] = t->queue[(i - 1) / 2];
    t->queue[i] = e;
}

static Entry queue_pop(Train *t) {
    Entry top = t->queue[0], e = t->queue[--t->n_queue];
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < t->n_queue; i = child) {
        if (child + 1 < t->n_queue && before(&t->queue[child + 1], &t->queue[child])) child++;
        if (!before(&t->queue[child], &e)) break;
        t->queue[i] = t->queue[child];
    }
    if (t->n_queue > 0) t->queue[i] = e;
    return top;
}

static void queue_fresh(Train *t) {
    for (int i = 0; i < t->n_fresh; i++) {
        Fresh *f = &t->fresh[i];
        Pair *p = &t->pair[pair_slot(t, f->key)];
        p->fresh = -1;
        if (p->count > 0)
            queue_push(t, (Entry){f->key, p->count, f->words});
        else
            free(f->words.at);
    }
    t->n_fresh = 0;
}

/* ---- merging ---- */

static void merge_word(Train *t, int32_t index, int32_t left, int32_t right, int32_t id) {
    Word *w = &t->word[index];
    int32_t *s = t->sym + w->at;
    uint32_t n = w->n, out = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (s[i] != left || i + 1 >= n || s[i + 1] != right) {
            s[out++] = s[i];
            continue;
        }
        if (out > 0) {
            pair_change(t, s[out - 1], left, -w->count, index);
            pair_change(t, s[out - 1], id, w->count, index);
        }
        if (i + 2 < n) {
            pair_change(t, right, s[i + 2], -w->count, index);
            pair_change(t, id, s[i + 2], w->count, index);
        }
        s[out++] = id;
        i++;
    }
    w->n = out;
}

static bool spells_special(const Train *t, const char *s, size_t n) {
    Str spelled = {0};
    bool same = false;
    alphabet_put(&spelled, s, n);
    for (int i = 0; i < t->p->n_special && !same; i++) same = strcmp(t->p->special[i], str_get(&spelled)) == 0;
    str_release(&spelled);
    return same;
}

static void put_token(const Train *t, Str *out, int32_t id) {
    size_t at = t->token[id - t->p->n_special];
    str_putn(out, t->spelling.s + at, t->token[id - t->p->n_special + 1] - at);
}

static void learn(Train *t) {
    int64_t least = t->p->min_count > 1 ? t->p->min_count : 1;
    Str text = {0};
    pairs_rehash(t);
    for (int32_t w = 0; w < t->n_word; w++)
        for (uint32_t i = 0; i + 1 < t->word[w].n; i++)
            pair_change(t, t->sym[t->word[w].at + i], t->sym[t->word[w].at + i + 1], t->word[w].count, w);
    queue_fresh(t);
    while (t->p->n_special + t->n_token < t->p->n_vocab && t->n_queue > 0) {
        Entry e = queue_pop(t);
        int64_t count = t->pair[pair_slot(t, e.key)].count;
        if (count != e.count) {
            e.count = count;
            queue_push(t, e);
            continue;
        }
        int32_t left = (int32_t)(e.key >> 32), right = (int32_t)(e.key & 0xFFFFFFFF);
        str_clear(&text);
        put_token(t, &text, left);
        put_token(t, &text, right);
        if (e.count >= least && !spells_special(t, text.s, text.n)) {
            int32_t id = token_add(t, text.s, text.n);
            if (t->n_merge == t->cap_merge) {
                t->cap_merge = t->cap_merge ? 2 * t->cap_merge : 1024;
                t->merge = mem_grow(t->merge, (size_t)t->cap_merge * sizeof *t->merge);
            }
            t->merge[t->n_merge][0] = left;
            t->merge[t->n_merge++][1] = right;
            for (int i = 0; i < e.words.n; i++) merge_word(t, e.words.at[i], left, right, id);
            queue_fresh(t);
        }
        free(e.words.at);
        if (e.count < least) break;
    }
    str_release(&text);
}

/* ---- result ---- */

static void write_result(Train *t, Str *json) {
    Str spelled = {0};
    size_t *at = mem_alloc(((size_t)t->n_token + 1) * sizeof *at);
    for (int i = 0; i < t->n_token; i++) {
        at[i] = spelled.n;
        alphabet_put(&spelled, t->spelling.s + t->token[i], t->token[i + 1] - t->token[i]);
        str_putc(&spelled, 0);
    }
    const char **token = mem_alloc(((size_t)t->n_token + 1) * sizeof *token);
    for (int i = 0; i < t->n_token; i++) token[i] = spelled.s + at[i];
    TokenizerSpec spec = {t->p->split, t->p->special, t->p->n_special, token, t->n_token, NULL, t->n_merge};
    spec.merge = (const int32_t(*)[2])t->merge;
    tokenizer_spec_write(json, &spec);
    free(token);
    free(at);
    str_release(&spelled);
}

static bool check_params(const BpeTrainParams *p, Error *err) {
    if (p->n_vocab < 256 + p->n_special || p->n_vocab > 1 << 22)
        return error_set(err, ERR_CONFIG, "vocabulary of %d: expected %d (bytes and special tokens) to %d", p->n_vocab,
                         256 + p->n_special, 1 << 22);
    for (int i = 0; i < p->n_special; i++) {
        Str byte = {0};
        bool taken = !str_utf8_valid(p->special[i], strlen(p->special[i]), NULL) || !*p->special[i] ||
                     (alphabet_read(&byte, p->special[i], strlen(p->special[i])) && byte.n == 1);
        str_release(&byte);
        if (taken)
            return error_set(err, ERR_CONFIG, "special token '%.60s': expected UTF-8 that is not one byte's character",
                             p->special[i]);
        for (int k = 0; k < i; k++)
            if (strcmp(p->special[i], p->special[k]) == 0)
                return error_set(err, ERR_CONFIG, "special token '%.60s' is listed twice", p->special[i]);
    }
    return true;
}

bool bpe_train(Str *json, const BpeTrainParams *p, BpeTextFn *next, void *ud, Error *err) {
    if (!check_params(p, err)) return false;
    Train t = {.p = p};
    bool ok = count_texts(&t, next, ud, err);
    if (ok) {
        tokens_init(&t);
        learn(&t);
        write_result(&t, json);
    }
    for (int64_t i = 0; i < t.n_queue; i++) free(t.queue[i].words.at);
    str_release(&t.bytes);
    free(t.word);
    free(t.word_slot);
    free(t.sym);
    free(t.pair);
    free(t.queue);
    free(t.fresh);
    str_release(&t.spelling);
    free(t.token);
    free(t.merge);
    return ok;
}
