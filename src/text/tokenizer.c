/* tokenizer.c — a tokenizer's life, ids back to text, buffers of ids. Text to ids is in encode.c. */
#include "text/text_int.h"

#include "base/io.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

void tokbuf_room(TokBuf *b, int more) {
    if (more <= b->cap - b->n) return;
    CHECK(more <= INT_MAX / 2 - b->n, "more than 2^30 tokens in one buffer");
    int cap = b->cap < 32 ? 64 : b->cap > INT_MAX / 4 ? INT_MAX / 2 : 2 * b->cap;
    b->cap = cap < b->n + more ? b->n + more : cap;
    b->id = mem_grow(b->id, (size_t)b->cap * sizeof *b->id);
}

void tokbuf_putn(TokBuf *b, const int32_t *id, int n) {
    tokbuf_room(b, n);
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

/* Tokens are copied in steps of STEP bytes, most of them in one; what a step writes too much, the next overwrites. */
enum { DECODE_IDS = 256, DECODE_BYTES = 256, STEP = TOKEN_PAD };

static void decode_room(const Tokenizer *t, int n, Str *out) {
    size_t more = (size_t)n * t->most_len + STEP + 1;
    if (more <= out->cap - out->n) return;
    CHECK(out->n < SIZE_MAX / 4, "text of %zu bytes", out->n);
    size_t cap = out->cap + out->cap / 2;
    out->cap = cap < out->n + more ? out->n + more : cap;
    out->s = mem_grow(out->s, out->cap);
}

static void decode_some(const Tokenizer *t, const int32_t *id, int n, bool keep_special, Str *out) {
    decode_room(t, n, out);
    char *to = out->s + out->n;
    for (int i = 0; i < n; i++) {
        if (id[i] < 0 || id[i] >= t->n_vocab || t->kind[id[i]] == TOKEN_ABSENT) continue;
        if (t->kind[id[i]] == TOKEN_SPECIAL && !keep_special) continue;
        const char *from = t->bytes.s + t->start[id[i]];
        size_t len = t->len[id[i]];
        memcpy(to, from, STEP);
        for (size_t at = STEP; at < len; at += STEP) memcpy(to + at, from + at, STEP);
        to += len;
    }
    *to = 0;
    out->n = (size_t)(to - out->s);
}

void tokenizer_decode(const Tokenizer *t, const int32_t *id, int n, bool keep_special, Str *out) {
    int most = t->most_len <= DECODE_BYTES ? DECODE_IDS : 1; /* room is made for the longest token each time */
    for (int at = 0; at < n; at += most) decode_some(t, id + at, n - at < most ? n - at : most, keep_special, out);
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
