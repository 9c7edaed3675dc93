/* tokenizer.c — text to ids and back.
 *
 * Text becomes ids along one road: added tokens that are not special are cut out first (leftmost, then longest; those
 * declared 'normalized' in a second round, as Hugging Face does), the rest is cut into pieces, each piece is merged.
 * Special tokens are not looked for at all, and reading a tokenizer.json refuses one that merging could reach: so no
 * text, whatever it spells, becomes one. */
#include "text/text_int.h"

#include "base/io.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

void tokbuf_putn(TokBuf *b, const int32_t *id, int n) {
    if (n > b->cap - b->n) {
        CHECK(n <= INT_MAX / 2 - b->n, "more than 2^30 tokens in one buffer");
        int cap = b->cap < 32 ? 64 : b->cap > INT_MAX / 4 ? INT_MAX / 2 : 2 * b->cap;
        b->cap = cap < b->n + n ? b->n + n : cap;
        b->id = mem_grow(b->id, (size_t)b->cap * sizeof *b->id);
    }
    if (n > 0) memcpy(b->id + b->n, id, (size_t)n * sizeof *id);
    b->n += n;
}

void tokbuf_put(TokBuf *b, int32_t id) {
    if (b->n == b->cap)
        tokbuf_putn(b, &id, 1);
    else
        b->id[b->n++] = id;
}

void tokbuf_release(TokBuf *b) {
    free(b->id);
    *b = (TokBuf){0};
}

bool tokenizer_open(Tokenizer **out, const char *path, Error *err) {
    Str file = {0}, text = {0};
    str_put(&file, path);
    if (io_is_dir(path)) str_put(&file, "/tokenizer.json");
    bool ok = io_read_file(&text, str_get(&file), (size_t)256 << 20, err) &&
              tokenizer_parse(out, str_get(&text), text.n, str_get(&file), err);
    str_release(&file);
    str_release(&text);
    return ok;
}

void tokenizer_close(Tokenizer *t) {
    if (!t) return;
    splitter_close(t->split);
    merge_map_release(&t->merge);
    free(t->kind);
    free(t->start);
    free(t->len);
    str_release(&t->bytes);
    free(t->whole);
    free(t->added);
    free(t);
}

int tokenizer_n_vocab(const Tokenizer *t) { return t->n_vocab; }

typedef struct {
    const Tokenizer *t;
    PieceWalk walk;
    BpeScratch scratch;
    TokBuf *out;
} Encode;

static void encode_plain(Encode *e, const char *s, size_t n) {
    const char *piece;
    size_t len;
    pieces_text(&e->walk, s, n);
    while (pieces_next(&e->walk, &piece, &len)) bpe_piece(e->t, &e->scratch, piece, len, e->out);
}

static const AddedToken *added_at(const Tokenizer *t, const char *s, size_t n, bool normalized) {
    if (!t->added_first[(unsigned char)s[0]]) return NULL;
    for (int i = 0; i < t->n_added; i++) {
        const AddedToken *a = &t->added[i];
        if (a->normalized == normalized && a->n <= n && memcmp(a->s, s, a->n) == 0) return a;
    }
    return NULL;
}

static void encode_round(Encode *e, const char *s, size_t n, bool normalized) {
    size_t from = 0;
    for (size_t i = 0; i <= n; i++) {
        const AddedToken *a = i < n ? added_at(e->t, s + i, n - i, normalized) : NULL;
        if (!a && i < n) continue;
        if (i > from) {
            if (normalized)
                encode_plain(e, s + from, i - from);
            else
                encode_round(e, s + from, i - from, true);
        }
        if (!a) break;
        tokbuf_put(e->out, a->id);
        from = i + a->n;
        i = from - 1;
    }
}

void tokenizer_encode(const Tokenizer *t, const char *s, size_t n, TokBuf *out) {
    if (n == 0) return;
    CHECK(n < INT_MAX / 2, "text of %zu bytes: encode in parts below 1 GiB", n);
    Encode e = {.t = t, .out = out};
    pieces_open(&e.walk, t->split);
    bpe_scratch_init(&e.scratch, n);
    if (t->n_added > 0)
        encode_round(&e, s, n, false);
    else
        encode_plain(&e, s, n);
    bpe_scratch_release(&e.scratch);
    pieces_close(&e.walk);
}

void tokenizer_decode(const Tokenizer *t, const int32_t *id, int n, bool keep_special, Str *out) {
    for (int i = 0; i < n; i++) {
        if (id[i] < 0 || id[i] >= t->n_vocab || t->kind[id[i]] == TOKEN_ABSENT) continue;
        if (t->kind[id[i]] == TOKEN_SPECIAL && !keep_special) continue;
        str_putn(out, t->bytes.s + t->start[id[i]], t->len[id[i]]);
    }
}

int32_t tokenizer_special(const Tokenizer *t, const char *spelling) {
    size_t n = strlen(spelling);
    for (int32_t id = 0; id < t->n_vocab; id++)
        if (t->kind[id] == TOKEN_SPECIAL && t->len[id] == n && memcmp(t->bytes.s + t->start[id], spelling, n) == 0)
            return id;
    return -1;
}

bool tokenizer_is_special(const Tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n_vocab && t->kind[id] == TOKEN_SPECIAL;
}
