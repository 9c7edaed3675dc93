/* bpe.c — a piece's bytes merged into tokens: the pair of lowest rank first, the leftmost of equals, until none is
 * left.
 *
 * Short pieces (nearly all of natural text) keep the rank of every pair in an array and look for the lowest by scanning
 * it. Long ones (a page of dashes, base64, a language without spaces) would make that quadratic; they use a heap of
 * (rank, position). A heap entry whose pair has changed meanwhile is recognised by its rank: ranks belong to pairs, so
 * if the pair there still has this rank the entry holds. Both ways give the same ids. */
#include "text/text_int.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { SHORT_PIECE = 128 };

/* ---- byte alphabet ---- */

/* Bytes 33-126, 161-172 and 174-255 stand for themselves; the other 68, ascending, are U+0100 and following. */
uint32_t alphabet_char(unsigned char b) {
    if (b < 33) return 256u + b;
    if (b >= 127 && b <= 160) return 256u + 33 + (b - 127u);
    return b == 173 ? 256u + 67 : b;
}

int alphabet_byte(uint32_t c) {
    if (c >= 256 && c < 289) return (int)c - 256;
    if (c >= 289 && c < 323) return (int)c - 289 + 127;
    if (c == 323) return 173;
    return (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255) ? (int)c : -1;
}

void alphabet_put(Str *out, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t c = alphabet_char((unsigned char)s[i]);
        if (c >= 128) str_putc(out, (char)(0xC0 | c >> 6));
        str_putc(out, (char)(c < 128 ? c : 0x80 | (c & 0x3F)));
    }
}

bool alphabet_read(Str *out, const char *s, size_t n) {
    char byte[256];
    size_t first = out->n, n_byte = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t c = (unsigned char)s[i];
        if (c >= 0xC2 && c < 0xE0 && i + 1 < n)
            c = (c & 0x1F) << 6 | ((unsigned char)s[++i] & 0x3F);
        else if (c >= 128)
            c = 0;
        int b = alphabet_byte(c);
        if (b < 0) {
            out->n = first;
            if (out->s) out->s[first] = 0;
            return false;
        }
        byte[n_byte++] = (char)b;
        if (n_byte == sizeof byte || i + 1 == n) {
            str_putn(out, byte, n_byte);
            n_byte = 0;
        }
    }
    return true;
}

/* ---- tables ---- */

static inline uint64_t mix(uint64_t x) {
    x *= 0x9E3779B97F4A7C15u;
    return x ^ x >> 32;
}

static inline uint64_t pair_key(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

void merge_map_init(MergeMap *m, int n_expected) {
    uint64_t cap = 16;
    while (cap < 2 * (uint64_t)n_expected + 2) cap *= 2;
    m->slot = mem_alloc(cap * sizeof *m->slot);
    m->mask = cap - 1;
    m->seen = mem_alloc(cap);
    m->seen_mask = 8 * cap - 1;
    for (uint64_t i = 0; i < cap; i++) m->slot[i].key = UINT64_MAX;
}

static inline uint64_t seen_bit(const MergeMap *m, uint64_t hash) { return hash >> 32 & m->seen_mask; }

void merge_map_put(MergeMap *m, int32_t left, int32_t right, int32_t rank, int32_t id) {
    uint64_t key = pair_key(left, right), hash = mix(key), i = hash & m->mask, bit = seen_bit(m, hash);
    while (m->slot[i].key != UINT64_MAX && m->slot[i].key != key) i = (i + 1) & m->mask;
    m->slot[i] = (MergeSlot){key, rank, id};
    m->seen[bit / 64] |= UINT64_C(1) << bit % 64;
}

/* NULL: no such merge. */
static inline const MergeSlot *merge_map_get(const MergeMap *m, int32_t left, int32_t right) {
    uint64_t key = pair_key(left, right), hash = mix(key), bit = seen_bit(m, hash);
    if (!(m->seen[bit / 64] >> bit % 64 & 1)) return NULL;
    for (uint64_t i = hash & m->mask; m->slot[i].key != UINT64_MAX; i = (i + 1) & m->mask)
        if (m->slot[i].key == key) return &m->slot[i];
    return NULL;
}

void merge_map_release(MergeMap *m) {
    free(m->slot);
    free(m->seen);
    *m = (MergeMap){0};
}

uint64_t bytes_hash(const char *s, size_t n) {
    uint64_t h = n, word;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&word, s, 8);
        h = mix(h ^ word) * 0xD6E8FEB86659FD93u;
    }
    word = 0;
    memcpy(&word, s, n);
    return mix(h ^ word) * 0xD6E8FEB86659FD93u >> 16;
}

int32_t whole_find(const Tokenizer *t, const char *s, size_t n) {
    for (uint64_t i = bytes_hash(s, n) & t->whole_mask; t->whole[i] >= 0; i = (i + 1) & t->whole_mask) {
        int32_t id = t->whole[i];
        if (t->vocab_len[id] == n && memcmp(t->bytes.s + t->vocab_start[id], s, n) == 0) return id;
    }
    return -1;
}

static void whole_put(Tokenizer *t, int32_t id) {
    const char *s = t->bytes.s + t->start[id];
    if (t->len[id] == 0 || whole_find(t, s, t->len[id]) >= 0) return;
    uint64_t i = bytes_hash(s, t->len[id]) & t->whole_mask;
    while (t->whole[i] >= 0) i = (i + 1) & t->whole_mask;
    t->whole[i] = id;
}

/* kind[] is the vocabulary's here: what added_tokens make of it comes later. */
void whole_build(Tokenizer *t) {
    uint64_t cap = 16;
    while (cap < 2 * (uint64_t)t->n_vocab) cap *= 2;
    t->whole_mask = cap - 1;
    t->whole = mem_alloc(cap * sizeof *t->whole);
    for (uint64_t i = 0; i < cap; i++) t->whole[i] = -1;
    for (int32_t id = 0; id < t->n_vocab; id++)
        if (t->kind[id] == TOKEN_PLAIN) whole_put(t, id);
}

/* ---- symbols: what a piece is before merging ---- */

static void symbol_put(BpeScratch *b, int *n, int32_t id, size_t from, size_t to) {
    if (*n == b->cap_symbol) {
        b->cap_symbol = b->cap_symbol ? 2 * b->cap_symbol : 256;
        b->id = mem_grow(b->id, (size_t)b->cap_symbol * sizeof *b->id);
        b->at = mem_grow(b->at, (size_t)b->cap_symbol * sizeof *b->at);
    }
    b->id[*n] = id;
    b->at[(*n)++] = (ByteSpan){(uint32_t)from, (uint32_t)to};
}

/* The tokens <0xNN> of s[0..n), if none is missing. */
static bool fall_back(const Tokenizer *t, BpeScratch *b, int *n_symbol, const char *s, size_t n, size_t from,
                      bool one_place) {
    for (size_t i = 0; i < n; i++)
        if (t->fallback[(unsigned char)s[i]] < 0) return false;
    for (size_t i = 0; i < n; i++) {
        size_t at = one_place ? from : from + i;
        symbol_put(b, n_symbol, t->fallback[(unsigned char)s[i]], at, at + 1);
    }
    return true;
}

static int32_t char_id(const Tokenizer *t, const char *s, size_t n) {
    return n == 1 ? t->byte_id[(unsigned char)s[0]] : whole_find(t, s, n);
}

/* A byte or character of the vocabulary is its token; another one its <0xNN> tokens, if the model falls back on them
 * and has them all; else unknown. An unknown token waits for the next known one, which it stands before, and for
 * nothing else: <0xNN> tokens overtake it. That is how `tokenizers` does it. Without an unknown token nothing stands.
 */
static int symbols_read(const Tokenizer *t, BpeScratch *b, const char *s, size_t n) {
    int n_symbol = 0;
    bool waits = false;
    ByteSpan unk = {0, 0};
    for (size_t i = 0, len; i < n; i += len) {
        char spelled[4];
        const char *name = s + i;
        size_t n_name;
        if (t->byte_level) {
            len = 1;
            name = spelled;
            n_name = utf8_write(spelled, alphabet_char((unsigned char)s[i]));
        } else {
            utf8_at(s + i, &len);
            n_name = len;
        }
        int32_t id = t->byte_level ? t->byte_id[(unsigned char)s[i]] : char_id(t, s + i, len);
        if (id >= 0) {
            if (waits) symbol_put(b, &n_symbol, t->unk, unk.from, unk.to);
            waits = false;
            symbol_put(b, &n_symbol, id, i, i + len);
            continue;
        }
        if (t->byte_fallback && fall_back(t, b, &n_symbol, name, n_name, i, t->byte_level)) continue;
        if (t->unk < 0) continue;
        if (waits && !t->fuse_unk) symbol_put(b, &n_symbol, t->unk, unk.from, unk.to);
        unk = (ByteSpan){waits && t->fuse_unk ? unk.from : (uint32_t)i, (uint32_t)(i + len)};
        waits = true;
    }
    if (waits) symbol_put(b, &n_symbol, t->unk, unk.from, unk.to);
    return n_symbol;
}

/* The bytes of symbols [first, end), which became one token. */
static ByteSpan symbols_span(const Tokenizer *t, const BpeScratch *b, int first, int end) {
    if (t->all_bytes) return (ByteSpan){(uint32_t)first, (uint32_t)end};
    const ByteSpan *f = &b->at[first], *l = &b->at[end - 1];
    return (ByteSpan){f->from, l->to > f->to ? l->to : f->to};
}

typedef struct {
    const Tokenizer *t;
    TokBuf *out;
    SpanBuf *spans; /* NULL: not asked for */
    bool plain;     /* special tokens that merging led to are taken apart */
} Give;

static void give(const Give *g, int32_t id, ByteSpan at) {
    tokbuf_put(g->out, id);
    if (g->spans) spanbuf_put(g->spans, at);
}

static const struct SpecialParts *parts_of(const Tokenizer *t, int32_t id) {
    int lo = 0, hi = t->n_parts;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (t->parts[mid].id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < t->n_parts && t->parts[lo].id == id ? &t->parts[lo] : NULL;
}

/* A token of one symbol or more. Text must not become a special token, but longer tokens may be made of one: so merging
 * goes its way, and a special token that is left is given as the two it was made of. */
static void give_token(const Give *g, int32_t id, ByteSpan at, int n_symbol) {
    const struct SpecialParts *p = g->plain && n_symbol > 1 ? parts_of(g->t, id) : NULL;
    if (!p) {
        give(g, id, at);
        return;
    }
    uint32_t n = g->t->vocab_len[p->left], room = at.to - at.from;
    ByteSpan left = {at.from, at.from + (n < room ? n : room)}, right = {left.to, at.to};
    give_token(g, p->left, left, n_symbol); /* neither is longer than its spelling, so this ends */
    give_token(g, p->right, right, n_symbol);
}

/* ---- merging ---- */

/* Position in the low bits of a pair's key, rank above: the least key is the pair to merge. Four keys at a time. */
enum { POS_BITS = 7, NO_PAIR = INT32_MAX, LANES = 4, SHORT_LANES = SHORT_PIECE / LANES };
static_assert(SHORT_PIECE == 1 << POS_BITS && MERGE_RANKS <= 1 << (31 - POS_BITS), "a key has 31 bits");
typedef int32_t Lanes __attribute__((vector_size(4 * LANES)));

typedef struct {
    union {
        Lanes lane[SHORT_LANES];
        int32_t key[SHORT_PIECE]; /* of the pair of a symbol and its next; NO_PAIR: no merge, or no symbol */
    };
    int32_t id[SHORT_PIECE], to[SHORT_PIECE];
    uint8_t prev[SHORT_PIECE], next[SHORT_PIECE];
} Short;

static inline Lanes lesser(Lanes a, Lanes b) {
    Lanes less = a < b;
    return (a & less) | (b & ~less);
}

static inline int32_t least_key(const Short *p, int n_lane) {
    Lanes a = p->lane[0], b = n_lane > 1 ? p->lane[1] : a;
    for (int i = 2; i + 1 < n_lane; i += 2) {
        a = lesser(a, p->lane[i]);
        b = lesser(b, p->lane[i + 1]);
    }
    a = lesser(lesser(a, b), p->lane[n_lane - 1]);
    int32_t x = a[0] < a[1] ? a[0] : a[1], y = a[2] < a[3] ? a[2] : a[3];
    return x < y ? x : y;
}

static inline void pair_key_at(const MergeMap *map, Short *p, int at, int next) {
    const MergeSlot *m = merge_map_get(map, p->id[at], p->id[next]);
    p->key[at] = m ? m->rank << POS_BITS | at : NO_PAIR;
    p->to[at] = m ? m->id : -1;
}

/* Merges symbols 0..n-1 whose ids are filled in; *last is the last one left. */
static inline void merge_all(const MergeMap *map, Short *p, int n, int *last) {
    int n_lane = (n + LANES - 1) / LANES;
    *last = n - 1;
    for (int i = 0; i < *last; i++) pair_key_at(map, p, i, i + 1);
    for (int32_t key; (key = least_key(p, n_lane)) != NO_PAIR;) {
        int at = key & (SHORT_PIECE - 1), gone = p->next[at];
        p->id[at] = p->to[at];
        if (gone == *last) {
            *last = at;
            p->key[at] = NO_PAIR;
        } else {
            p->next[at] = p->next[gone];
            p->prev[p->next[at]] = (uint8_t)at;
            pair_key_at(map, p, at, p->next[at]);
        }
        p->key[gone] = NO_PAIR;
        if (at > 0) pair_key_at(map, p, p->prev[at], at);
    }
}

static inline void short_init(Short *p, int n) {
    p->lane[(n - 1) / LANES] = (Lanes){NO_PAIR, NO_PAIR, NO_PAIR, NO_PAIR};
}

static inline void short_symbol(Short *p, int i, int32_t id) {
    p->id[i] = id;
    p->prev[i] = (uint8_t)(i - 1);
    p->next[i] = (uint8_t)(i + 1);
}

/* Bytes, of which only the ids are wanted: what nearly every call is. */
static void merge_bytes(const Tokenizer *t, const char *s, int n, TokBuf *out) {
    Short p;
    int last;
    short_init(&p, n);
    for (int i = 0; i < n; i++) short_symbol(&p, i, t->byte_id[(unsigned char)s[i]]);
    merge_all(&t->merge, &p, n, &last);
    tokbuf_room(out, n);
    for (int i = 0;; i = p.next[i]) {
        out->id[out->n++] = p.id[i];
        if (i == last) return;
    }
}

/* The bytes of s, or with s NULL the symbols in b. */
static void merge_short(const BpeScratch *b, const char *s, int n, const Give *g) {
    Short p;
    int last;
    short_init(&p, n);
    for (int i = 0; i < n; i++) short_symbol(&p, i, s ? g->t->byte_id[(unsigned char)s[i]] : b->id[i]);
    merge_all(&g->t->merge, &p, n, &last);
    p.next[last] = (uint8_t)n; /* at most 128 */
    for (int i = 0; i < n; i = p.next[i]) give_token(g, p.id[i], symbols_span(g->t, b, i, p.next[i]), p.next[i] - i);
}

typedef struct {
    int32_t id, prev, next, rank, to;
} Symbol; /* rank, to: of the pair with the next; rank -1: no merge, or the symbol was merged into the one before */

static void heap_down(uint64_t *h, int64_t n, int64_t i) {
    uint64_t c = h[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && h[child + 1] < h[child]) child++;
        if (h[child] >= c) break;
        h[i] = h[child];
    }
    h[i] = c;
}

static void heap_push(uint64_t *h, int64_t *n, uint64_t c) {
    int64_t i = (*n)++;
    for (; i > 0 && h[(i - 1) / 2] > c; i = (i - 1) / 2) h[i] = h[(i - 1) / 2];
    h[i] = c;
}

/* The pair of a symbol and its next is looked up again; false: it is no merge. */
static bool candidate(const MergeMap *map, Symbol *sym, int32_t at, uint64_t *c) {
    int32_t next = sym[at].next;
    const MergeSlot *m = next < 0 ? NULL : merge_map_get(map, sym[at].id, sym[next].id);
    sym[at].rank = m ? m->rank : -1;
    if (!m) return false;
    sym[at].to = m->id;
    *c = (uint64_t)(uint32_t)m->rank << 32 | (uint32_t)at;
    return true;
}

static void merge_long(const Tokenizer *t, BpeScratch *b, const char *s, int32_t n, const Give *g) {
    const MergeMap *map = &t->merge;
    /* A merge removes one symbol and adds at most two candidates. */
    size_t heap_bytes = 3 * (size_t)n * sizeof(uint64_t), need = heap_bytes + (size_t)n * sizeof(Symbol);
    if (b->cap < need) {
        free(b->buf);
        b->buf = mem_grow(NULL, need);
        b->cap = need;
    }
    uint64_t *heap = b->buf;
    Symbol *sym = (Symbol *)((char *)b->buf + heap_bytes);
    int64_t n_heap = 0;
    for (int32_t i = 0; i < n; i++)
        sym[i] = (Symbol){s ? t->byte_id[(unsigned char)s[i]] : b->id[i], i - 1, i + 1 < n ? i + 1 : -1, -1, -1};
    for (int32_t i = 0; i < n; i++) n_heap += candidate(map, sym, i, &heap[n_heap]);
    for (int64_t i = n_heap / 2 - 1; i >= 0; i--) heap_down(heap, n_heap, i);
    while (n_heap > 0) {
        uint64_t c = heap[0];
        heap[0] = heap[--n_heap];
        if (n_heap > 1) heap_down(heap, n_heap, 0);
        int32_t at = (int32_t)(c & 0xFFFFFFFF), next = sym[at].next;
        if (sym[at].rank != (int32_t)(c >> 32)) continue;
        sym[at].id = sym[at].to;
        sym[at].next = sym[next].next;
        if (sym[next].next >= 0) sym[sym[next].next].prev = at;
        sym[next].rank = -1;
        if (candidate(map, sym, at, &c)) heap_push(heap, &n_heap, c);
        if (sym[at].prev >= 0 && candidate(map, sym, sym[at].prev, &c)) heap_push(heap, &n_heap, c);
    }
    for (int32_t i = 0; i >= 0; i = sym[i].next) {
        int32_t end = sym[i].next < 0 ? n : sym[i].next;
        give_token(g, sym[i].id, symbols_span(t, b, i, end), end - i);
    }
}

void bpe_scratch_release(BpeScratch *b) {
    free(b->buf);
    free(b->id);
    free(b->at);
}

void bpe_piece(const Tokenizer *t, BpeScratch *b, const char *s, size_t n, TokBuf *out, SpanBuf *spans) {
    int32_t whole = t->ignore_merges ? whole_find(t, s, n) : -1;
    if (whole >= 0 && !b->special && t->kind[whole] == TOKEN_SPECIAL) whole = -1;
    if (whole < 0 && t->all_bytes && n <= SHORT_PIECE && !spans && t->n_parts == 0) {
        merge_bytes(t, s, (int)n, out);
        return;
    }
    Give g = {t, out, spans, !b->special && t->n_parts > 0};
    if (whole >= 0) {
        give(&g, whole, (ByteSpan){0, (uint32_t)n});
        return;
    }
    const char *bytes = t->all_bytes ? s : NULL;
    int n_symbol = bytes ? (int)n : symbols_read(t, b, s, n);
    if (n_symbol == 0) return;
    if (n_symbol > SHORT_PIECE)
        merge_long(t, b, bytes, n_symbol, &g);
    else
        merge_short(b, bytes, n_symbol, &g);
}
