/* Duplicates. Two rows are compared as one folded text: white space runs are one blank, ASCII letters are small.
 *
 * Near duplicates are sought among earlier rows that were kept: MinHash signatures of the word 5-grams propose
 * candidates, the exact Jaccard index of the two sets decides. A signature of 128 minima is cut into bands of r; two
 * sets of index j share a band with probability 1 - (1 - j^r)^(128/r). r is the largest for which the curve's steep
 * part still lies below the threshold, so that hardly a true pair is missed (Broder 1997; Leskovec et al., Mining of
 * Massive Datasets, 3.4). */
#include "base/hash.h"
#include "data/rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_MIN = 128, SHINGLE_WORDS = 5 };

/* ---- a multimap from 64-bit keys to numbers; linear probing, never more than half full */

typedef struct {
    struct Slot {
        uint64_t key;
        int64_t value;
    } * slot; /* value -1: free */
    size_t cap, n;
} Map;

static void map_put(Map *m, uint64_t key, int64_t value);

static void map_grow(Map *m) {
    Map old = *m;
    m->cap = old.cap ? old.cap * 2 : 256;
    m->n = 0;
    m->slot = mem_alloc(sizeof *m->slot * m->cap);
    for (size_t i = 0; i < m->cap; i++) m->slot[i].value = -1;
    for (size_t i = 0; i < old.cap; i++) {
        if (old.slot[i].value >= 0) map_put(m, old.slot[i].key, old.slot[i].value);
    }
    free(old.slot);
}

static void map_put(Map *m, uint64_t key, int64_t value) {
    if (2 * (m->n + 1) > m->cap) map_grow(m);
    size_t i = (size_t)key & (m->cap - 1);
    while (m->slot[i].value >= 0) i = (i + 1) & (m->cap - 1);
    m->slot[i].key = key;
    m->slot[i].value = value;
    m->n++;
}

/* Walks the values of key: start with *at = SIZE_MAX; -1 at the end. */
static int64_t map_next(const Map *m, uint64_t key, size_t *at) {
    if (m->cap == 0) return -1;
    size_t i = *at == SIZE_MAX ? (size_t)key & (m->cap - 1) : (*at + 1) & (m->cap - 1);
    for (; m->slot[i].value >= 0; i = (i + 1) & (m->cap - 1)) {
        if (m->slot[i].key == key) {
            *at = i;
            return m->slot[i].value;
        }
    }
    return -1;
}

/* ---- the text compared */

static void fold(Str *out, const char *s) {
    bool gap = false;
    for (; s && *s; s++) {
        if (*s == ' ' || *s == '\n' || *s == '\t' || *s == '\r') {
            gap = true;
            continue;
        }
        if (gap && out->n && out->s[out->n - 1] != '\x1f' && out->s[out->n - 1] != ' ') str_putc(out, ' ');
        gap = false;
        str_putc(out, *s >= 'A' && *s <= 'Z' ? (char)(*s + 32) : *s);
    }
    str_putc(out, '\x1f'); /* between fields: ("a b", "c") differs from ("a", "b c") */
}

static void folded_row(Str *out, const Row *r) {
    str_clear(out);
    for (int i = 0; i < r->prompt.n; i++) {
        str_putc(out, (char)('0' + (int)r->prompt.msg[i].role));
        str_putc(out, ' ');
        fold(out, r->prompt.msg[i].text);
    }
    fold(out, r->a);
    fold(out, r->b);
    fold(out, r->principle);
    fold(out, r->critique);
    fold(out, r->tools);
    for (int i = 0; i < r->n_list; i++) fold(out, r->list[i]);
    for (int i = 0; i < r->n_tok; i++) str_printf(out, "%d ", (int)r->tok[i]);
}

/* ---- shingles and signatures */

typedef struct {
    uint64_t *hash;
    int n;
} Shingles; /* sorted, distinct */

static uint64_t mix(uint64_t x) {
    x ^= x >> 30, x *= 0xbf58476d1ce4e5b9u, x ^= x >> 27, x *= 0x94d049bb133111ebu; /* splitmix64's finaliser */
    return x ^ x >> 31;
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Of fewer than five words the whole text is the only shingle. */
static Shingles shingles_of(const Str *text) {
    size_t start[SHINGLE_WORDS] = {0}, n_word = 0, cap = 16;
    Shingles sh = {mem_alloc(sizeof *sh.hash * cap), 0};
    for (size_t i = 0; i < text->n;) {
        while (i < text->n && (text->s[i] == ' ' || text->s[i] == '\x1f')) i++;
        if (i == text->n) break;
        start[n_word++ % SHINGLE_WORDS] = i;
        while (i < text->n && text->s[i] != ' ' && text->s[i] != '\x1f') i++;
        if (n_word < SHINGLE_WORDS) continue;
        size_t from = start[n_word % SHINGLE_WORDS];
        if ((size_t)sh.n == cap) sh.hash = mem_grow(sh.hash, sizeof *sh.hash * (cap *= 2));
        sh.hash[sh.n++] = hash_bytes(text->s + from, i - from).lo;
    }
    if (sh.n == 0) sh.hash[sh.n++] = hash_bytes(str_get(text), text->n).lo;
    qsort(sh.hash, (size_t)sh.n, sizeof *sh.hash, by_value);
    int n = 1;
    for (int i = 1; i < sh.n; i++) {
        if (sh.hash[i] != sh.hash[n - 1]) sh.hash[n++] = sh.hash[i];
    }
    sh.n = n;
    return sh;
}

static double jaccard(Shingles a, Shingles b) {
    int both = 0;
    for (int i = 0, j = 0; i < a.n && j < b.n;) {
        if (a.hash[i] == b.hash[j])
            both++, i++, j++;
        else if (a.hash[i] < b.hash[j])
            i++;
        else
            j++;
    }
    return (double)both / (double)(a.n + b.n - both);
}

static int band_rows(double threshold) {
    int best = 1;
    for (int r = 1; r <= N_MIN; r *= 2) {
        if (pow((double)r / N_MIN, 1.0 / r) <= threshold - 0.08) best = r;
    }
    return best;
}

static void signature(uint64_t min[N_MIN], Shingles sh) {
    for (int k = 0; k < N_MIN; k++) {
        uint64_t salt = mix(0x9e3779b97f4a7c15u * (uint64_t)(k + 1)), best = UINT64_MAX;
        for (int i = 0; i < sh.n; i++) {
            uint64_t h = mix(sh.hash[i] ^ salt);
            if (h < best) best = h;
        }
        min[k] = best;
    }
}

typedef struct {
    double threshold;
    int r;
    Map band;       /* hash of (band number, its minima) -> index into set */
    Shingles *set;  /* of kept rows */
    int64_t *asked; /* the row that last compared itself with this set */
    int n, cap;
} Near;

static bool near_find_or_add(Near *nr, const Str *text, int64_t row) {
    uint64_t min[N_MIN], key[N_MIN];
    Shingles sh = shingles_of(text);
    signature(min, sh);
    int n_band = N_MIN / nr->r;
    for (int b = 0; b < n_band; b++) {
        uint64_t h = mix((uint64_t)b + 1);
        for (int i = 0; i < nr->r; i++) h = mix(h ^ min[b * nr->r + i]) + h;
        key[b] = h;
        size_t at = SIZE_MAX;
        for (int64_t k; (k = map_next(&nr->band, h, &at)) >= 0;) {
            if (nr->asked[k] == row) continue;
            nr->asked[k] = row;
            if (jaccard(sh, nr->set[k]) >= nr->threshold) {
                free(sh.hash);
                return true;
            }
        }
    }
    if (nr->n == nr->cap) {
        nr->cap = nr->cap ? 2 * nr->cap : 64;
        nr->set = mem_grow(nr->set, sizeof *nr->set * (size_t)nr->cap);
        nr->asked = mem_grow(nr->asked, sizeof *nr->asked * (size_t)nr->cap);
    }
    for (int b = 0; b < n_band; b++) map_put(&nr->band, key[b], nr->n);
    nr->asked[nr->n] = -1;
    nr->set[nr->n++] = sh;
    return false;
}

static void near_release(Near *nr) {
    for (int i = 0; i < nr->n; i++) free(nr->set[i].hash);
    free(nr->set), free(nr->asked), free(nr->band.slot);
}

/* Ids already taken get "-2", "-3", ... */
static void make_id_unique(Rows *r, Row *row, Map *ids) {
    const char *id = row->id;
    for (int k = 2;; k++) {
        uint64_t key = hash_bytes(id, strlen(id)).lo;
        size_t at = SIZE_MAX;
        if (map_next(ids, key, &at) < 0) {
            map_put(ids, key, 1);
            row->id = id;
            return;
        }
        id = heap_printf(&r->heap, "%s-%d", row->id, k);
    }
}

int rows_dedup(Rows *r, double threshold, const char **drop_reason) {
    Map exact = {0}, ids = {0};
    Near near = {.threshold = threshold, .r = band_rows(threshold)};
    Str text = {0};
    int kept = 0, n = r->n;
    for (int i = 0; i < n; i++) {
        size_t at = SIZE_MAX;
        folded_row(&text, &r->row[i]);
        uint64_t key = hash_bytes(str_get(&text), text.n).lo;
        bool dup = map_next(&exact, key, &at) >= 0 || (threshold <= 1 && near_find_or_add(&near, &text, i));
        if (drop_reason) drop_reason[i] = dup ? "DUP" : NULL;
        if (dup) continue;
        map_put(&exact, key, i);
        make_id_unique(r, &r->row[i], &ids);
        r->row[kept++] = r->row[i];
    }
    r->n = kept;
    free(exact.slot), free(ids.slot);
    near_release(&near);
    str_release(&text);
    return n - kept;
}
