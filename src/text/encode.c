/* encode.c — pieces to ids, and encoders.
 *
 * Words repeat: of a hundred pieces of ordinary text 98 were seen before. So an encoder remembers pieces and their ids.
 * A slot is half a cache line. A piece of up to 15 bytes is its own key, padded with zeros, its length in the last
 * byte; of a longer one the key is a hash and where in `bytes` it stands. Up to four ids lie in the slot, more in
 * `ids`. The memo starts small, doubles as it fills and is emptied at its limit; it decides only how soon an answer is
 * known. */
#include "text/text_int.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLOT_IDS = 4,
    KEY_BYTES = 15,
    LONG_BYTES = 64,
    FIRST_SLOTS = 256,
    MOST_SLOTS = 1 << 17,
    PROBES = 32,
    FAR_IDS = 255
};

typedef struct MemoSlot {
    uint64_t key[2]; /* key[1] >> 56: bytes of a short piece, LONG_KEY of a long one, 0 when the slot is free */
    int32_t id[SLOT_IDS];
} MemoSlot; /* id[0]'s top byte: their number; FAR_IDS: id[1] of them begin at ids.id[id[2]] */

#define LONG_KEY ((uint64_t)0xFF << 56)
#define ID_BITS 24 /* a vocabulary has at most 2^22 tokens */

static inline uint64_t key_hash(uint64_t a, uint64_t b) {
    uint64_t h = (a ^ b * 0xD6E8FEB86659FD93u) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 32;
}

static uint64_t slot_hash(const MemoSlot *s) { return key_hash(s->key[0], s->key[1] >= LONG_KEY ? 0 : s->key[1]); }

static void memo_slots(Memo *m, uint64_t n) {
    m->block = mem_alloc((n + 1) * sizeof *m->slot);
    m->slot = (MemoSlot *)(((uintptr_t)m->block + sizeof *m->slot - 1) / sizeof *m->slot * sizeof *m->slot);
    m->mask = n - 1;
}

static void memo_release(Memo *m) {
    free(m->block);
    str_release(&m->bytes);
    tokbuf_release(&m->ids);
}

/* A free slot, or after PROBES steps one whose piece is forgotten. */
static MemoSlot *slot_for(const Memo *m, const MemoSlot *s) {
    uint64_t i = slot_hash(s);
    for (int k = 0; k < PROBES; k++)
        if (m->slot[(i + (uint64_t)k) & m->mask].key[1] == 0) return &m->slot[(i + (uint64_t)k) & m->mask];
    return &m->slot[i & m->mask];
}

static void memo_forget(Memo *m) {
    memset(m->slot, 0, (m->mask + 1) * sizeof *m->slot);
    m->n = 0;
    str_clear(&m->bytes);
    m->ids.n = 0;
}

/* Room for one more slot; at most half of them are taken. */
static void memo_room(Memo *m) {
    if (m->slot && 4 * (m->n + 1) <= 3 * (m->mask + 1)) return;
    if (m->slot && m->mask + 1 == MOST_SLOTS) {
        memo_forget(m);
        return;
    }
    Memo old = *m;
    memo_slots(m, old.slot ? 2 * (old.mask + 1) : FIRST_SLOTS);
    for (uint64_t i = 0; old.slot && i <= old.mask; i++) {
        if (old.slot[i].key[1] == 0) continue;
        *slot_for(m, &old.slot[i]) = old.slot[i];
    }
    free(old.block);
}

/* The ids bpe_piece has just put behind out->id[at] belong to this key. */
static void memo_put(Memo *m, const uint64_t key[2], const char *s, size_t n, const TokBuf *out, int at) {
    int n_id = out->n - at;
    memo_room(m);
    MemoSlot slot = {{key[0], key[1]}, {0}};
    if (n > KEY_BYTES) {
        slot.key[1] = LONG_KEY | (uint64_t)n << 40 | m->bytes.n;
        str_putn(&m->bytes, s, n);
    }
    if (n_id <= SLOT_IDS) {
        memcpy(slot.id, out->id + at, (size_t)n_id * sizeof *slot.id);
        slot.id[0] = (int32_t)((uint32_t)slot.id[0] | (uint32_t)n_id << ID_BITS);
    } else {
        slot.id[0] = (int32_t)((uint32_t)FAR_IDS << ID_BITS);
        slot.id[1] = n_id;
        slot.id[2] = m->ids.n;
        tokbuf_putn(&m->ids, out->id + at, n_id);
    }
    *slot_for(m, &slot) = slot;
    m->n++;
}

/* ---- pieces ---- */

/* The first n <= 15 bytes of s and n itself; `whole` says that 16 bytes can be read there. */
static inline void short_key(uint64_t key[2], const char *s, size_t n, bool whole) {
    static const uint64_t low[9] = {
        0, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF, 0xFFFFFFFFFF, 0xFFFFFFFFFFFF, 0xFFFFFFFFFFFFFF, UINT64_MAX};
    if (whole) {
        memcpy(key, s, 16);
        key[0] &= low[n < 8 ? n : 8];
        key[1] &= low[n < 8 ? 0 : n - 8];
    } else {
        key[0] = key[1] = 0;
        memcpy(key, s, n);
    }
    key[1] |= (uint64_t)n << 56;
}

static void put_known(const Memo *m, const MemoSlot *slot, TokBuf *out) {
    uint32_t n = (uint32_t)slot->id[0] >> ID_BITS;
    if (n == FAR_IDS) {
        tokbuf_putn(out, m->ids.id + slot->id[2], slot->id[1]);
        return;
    }
    int32_t *to = out->id + out->n; /* room for four, whatever n */
    memcpy(to, slot->id, sizeof slot->id);
    to[0] &= (1 << ID_BITS) - 1;
    out->n += (int)n;
}

static void put_new(Encoder *e, const uint64_t key[2], const char *s, size_t n, TokBuf *out) {
    int at = out->n;
    bpe_piece(e->t, &e->scratch, s, n, out, NULL);
    memo_put(&e->memo, key, s, n, out, at);
}

static void long_piece(Encoder *e, const char *s, size_t n, TokBuf *out) {
    Memo *m = &e->memo;
    uint64_t key[2] = {bytes_hash(s, n), LONG_KEY | (uint64_t)n << 40}, hash = key_hash(key[0], 0);
    if (n > LONG_BYTES) {
        bpe_piece(e->t, &e->scratch, s, n, out, NULL);
        return;
    }
    for (uint64_t i = hash; i < hash + PROBES && m->slot[i & m->mask].key[1] != 0; i++) {
        const MemoSlot *slot = &m->slot[i & m->mask];
        if (slot->key[0] != key[0] || slot->key[1] >> 40 != key[1] >> 40) continue;
        if (memcmp(m->bytes.s + (slot->key[1] & (((uint64_t)1 << 40) - 1)), s, n) != 0) continue;
        put_known(m, slot, out);
        return;
    }
    put_new(e, key, s, n, out);
}

static inline const MemoSlot *short_find(const Memo *m, uint64_t hash, const uint64_t key[2]) {
    for (uint64_t i = hash; i < hash + PROBES; i++) {
        const MemoSlot *slot = &m->slot[i & m->mask];
        if (((slot->key[0] ^ key[0]) | (slot->key[1] ^ key[1])) == 0) return slot;
        if (slot->key[1] == 0) return NULL;
    }
    return NULL;
}

/* k pieces from s on; `end` is the end of the text. Where their slots lie is computed for all of them first, so that
 * the cache misses overlap. */
static void encode_pieces(Encoder *e, const char *s, const size_t *len, int k, const char *end, TokBuf *out) {
    uint64_t key[PIECES][2], hash[PIECES];
    Memo *m = &e->memo;
    const char *piece = s;
    for (int p = 0; p < k; piece += len[p++]) {
        short_key(key[p], piece, len[p] <= KEY_BYTES ? len[p] : KEY_BYTES, end - piece >= 16);
        hash[p] = key_hash(key[p][0], key[p][1]);
        __builtin_prefetch(&m->slot[hash[p] & m->mask]);
    }
    for (int p = 0; p < k; s += len[p++]) {
        tokbuf_room(out, SLOT_IDS);
        if (len[p] > KEY_BYTES) {
            long_piece(e, s, len[p], out);
            continue;
        }
        const MemoSlot *slot = short_find(m, hash[p], key[p]);
        if (slot)
            put_known(m, slot, out);
        else
            put_new(e, key[p], s, len[p], out);
    }
}

/* The same when it is asked where tokens come from; v begins at byte 0 of the pieces' text. */
static void place_pieces(Encoder *e, const View *v, const char *s, const size_t *len, int k, TokBuf *out) {
    for (int p = 0; p < k; s += len[p++]) {
        uint32_t at = (uint32_t)(s - v->s);
        e->piece_spans.n = 0;
        bpe_piece(e->t, &e->scratch, s, len[p], out, &e->piece_spans);
        for (int i = 0; i < e->piece_spans.n; i++) {
            ByteSpan span = e->piece_spans.at[i];
            spanbuf_put(e->spans, view_span(v, at + span.from, at + span.to));
        }
    }
}

static void put_pieces(Encoder *e, const View *v, const char *s, const size_t *len, int k, TokBuf *out) {
    if (e->spans)
        place_pieces(e, v, s, len, k, out);
    else
        encode_pieces(e, s, len, k, v->s + v->n, out);
}

void encode_plain(Encoder *e, const View *v, TokBuf *out) {
    const char *first;
    size_t len[PIECES];
    pieces_text(&e->walk, v->s, v->n);
    for (int k; (k = pieces_next(&e->walk, &first, len)) > 0;) put_pieces(e, v, first, len, k, out);
}

/* Length of the part of s[0..n) that can be merged by itself. Text in which U+2581 stands for the space is not cut into
 * words, but where no merge leads across the beginning of one, no matter how the rest goes, it may as well be. */
static size_t part_length(const Tokenizer *t, const char *s, size_t n) {
    static const char space[] = "\xE2\x96\x81";
    size_t i = 1;
    if (!t->cut_space) return n;
    for (const char *at; i < n && (at = memchr(s + i, space[0], n - i)) != NULL; i = (size_t)(at - s) + 1) {
        size_t end = (size_t)(at - s), len;
        if (n - end < 3 || memcmp(at, space, 3) != 0 || (end >= 3 && memcmp(at - 3, space, 3) == 0)) continue;
        uint32_t before = t->n_cut_not > 0 ? utf8_at(s + utf8_before(s, end), &len) : 0;
        bool not = false;
        for (int k = 0; k < t->n_cut_not && !not ; k++) not = t->cut_not[k] == before;
        if (!not ) return end;
    }
    return n;
}

/* Pieces in order, with gaps where text was removed. */
void encode_cut(Encoder *e, const View *v, const PieceBuf *pieces, TokBuf *out) {
    size_t len[PIECES];
    const char *first = v->s, *end = v->s;
    int k = 0;
    for (int i = 0; i < pieces->n; i++) {
        const Piece *p = &pieces->p[i];
        for (size_t at = p->at; at < p->end; at += len[k++]) {
            if (k == PIECES || (k > 0 && v->s + at != end)) {
                put_pieces(e, v, first, len, k, out);
                k = 0;
            }
            if (k == 0) first = v->s + at;
            len[k] = part_length(e->t, v->s + at, p->end - at);
            end = v->s + at + len[k];
        }
    }
    if (k > 0) put_pieces(e, v, first, len, k, out);
}

/* ---- encoders ---- */

static void encoder_init(Encoder *e, const Tokenizer *t) {
    *e = (Encoder){.t = t};
    if (t->split) pieces_open(&e->walk, t->split);
    memo_room(&e->memo);
}

static void encoder_release(Encoder *e) {
    bpe_scratch_release(&e->scratch);
    pieces_close(&e->walk);
    memo_release(&e->memo);
    normal_release(&e->normal);
    cutter_release(&e->cutter);
    spanbuf_release(&e->piece_spans);
}

Encoder *encoder_open(const Tokenizer *t) {
    Encoder *e = mem_alloc(sizeof *e);
    encoder_init(e, t);
    return e;
}

const Tokenizer *encoder_tokenizer(const Encoder *e) { return e->t; }

void encoder_close(Encoder *e) {
    if (!e) return;
    encoder_release(e);
    free(e);
}

static void around(Encoder *e, const int32_t *id, int n_id, size_t at, TokBuf *out) {
    tokbuf_putn(out, id, n_id);
    for (int i = 0; e->spans && i < n_id; i++) spanbuf_put(e->spans, (ByteSpan){(uint32_t)at, (uint32_t)at});
}

void encoder_encode_opts(Encoder *e, const char *s, size_t n, const EncodeOpts *o, TokBuf *out, SpanBuf *spans) {
    const Tokenizer *t = e->t;
    CHECK(n <= tokenizer_most_bytes(t), "text of %zu bytes: encode in parts of at most %zu", n,
          tokenizer_most_bytes(t));
    e->opts = o;
    e->spans = spans;
    e->scratch.special = o->special && o->n_plain == 0; /* nor may merging make one of what users wrote */
    if (t->modes_differ && e->memo.special != e->scratch.special) memo_forget(&e->memo);
    e->memo.special = e->scratch.special;
    if (o->around) around(e, t->before, t->n_before, 0, out);
    if (n > 0) encode_text(e, s, n, out);
    if (o->around) around(e, t->after, t->n_after, n, out);
}

void encoder_encode(Encoder *e, const char *s, size_t n, TokBuf *out) {
    encoder_encode_opts(e, s, n, &(const EncodeOpts){0}, out, NULL);
}

void tokenizer_encode(const Tokenizer *t, const char *s, size_t n, TokBuf *out) {
    Encoder e;
    encoder_init(&e, t);
    encoder_encode(&e, s, n, out);
    encoder_release(&e);
}

/* ---- many texts ---- */

enum { TILE_TEXTS = 32 };

struct TextsEncoder {
    Pool *pool;
    Encoder **encoder; /* (threads) */
    TextAt *text;
    void *ud;
    int64_t n_text, n_tile;
    TokBuf *tile;
    int *end; /* (n_tile * TILE_TEXTS) end of each text's ids in its tile */
};

TextsEncoder *texts_encoder_open(const Tokenizer *t, Pool *pool) {
    TextsEncoder *e = mem_alloc(sizeof *e);
    e->pool = pool;
    e->encoder = mem_alloc((size_t)pool_threads(pool) * sizeof(Encoder *));
    for (int i = 0; i < pool_threads(pool); i++) e->encoder[i] = encoder_open(t);
    return e;
}

void texts_encoder_close(TextsEncoder *e) {
    if (!e) return;
    for (int i = 0; i < pool_threads(e->pool); i++) encoder_close(e->encoder[i]);
    for (int64_t i = 0; i < e->n_tile; i++) tokbuf_release(&e->tile[i]);
    free(e->encoder);
    free(e->tile);
    free(e->end);
    free(e);
}

static void encode_tile(void *ud, int64_t tile, int thread) {
    TextsEncoder *e = ud;
    TokBuf *out = &e->tile[tile];
    out->n = 0;
    for (int64_t i = tile * TILE_TEXTS; i < (tile + 1) * TILE_TEXTS && i < e->n_text; i++) {
        size_t n;
        const char *s = e->text(e->ud, i, &n);
        encoder_encode(e->encoder[thread], s, n, out);
        e->end[i] = out->n;
    }
}

void texts_encode(TextsEncoder *e, TextAt *text, void *ud, int64_t n_text) {
    int64_t n_tile = (n_text + TILE_TEXTS - 1) / TILE_TEXTS;
    if (n_tile > e->n_tile) {
        e->tile = mem_grow(e->tile, (size_t)n_tile * sizeof *e->tile);
        e->end = mem_grow(e->end, (size_t)n_tile * TILE_TEXTS * sizeof *e->end);
        memset(e->tile + e->n_tile, 0, (size_t)(n_tile - e->n_tile) * sizeof *e->tile);
        e->n_tile = n_tile;
    }
    e->text = text;
    e->ud = ud;
    e->n_text = n_text;
    pool_for(e->pool, n_tile, encode_tile, e);
}

const int32_t *texts_ids(const TextsEncoder *e, int64_t i, int *n) {
    CHECK(i >= 0 && i < e->n_text, "text %lld of %lld", (long long)i, (long long)e->n_text);
    int from = i % TILE_TEXTS ? e->end[i - 1] : 0;
    *n = e->end[i] - from;
    return e->tile[i / TILE_TEXTS].id + from;
}
