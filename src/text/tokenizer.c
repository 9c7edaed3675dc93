/* tokenizer.c — a tokenizer's life, byte-level ids back to text, what others may ask it, buffers of ids. */
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

void spanbuf_release(SpanBuf *b) {
    free(b->at);
    *b = (SpanBuf){0};
}

/* What lies where a tokenizer.json should: other formats people have, and the way from them. */
static bool advise(const char *path, Error *err) {
    static const struct {
        const char *name, *what;
    } other[] = {{"tokenizer.model", "a SentencePiece model"},
                 {"tiktoken.model", "tiktoken's ranks"},
                 {"vocab.json", "a vocabulary without its rules"},
                 {"vocab.txt", "a WordPiece vocabulary"}};
    size_t n = strlen(path);
    for (int i = 0; i < COUNT_OF(other); i++) {
        Str file = {0};
        size_t n_name = strlen(other[i].name);
        bool folder = io_is_dir(path), found = !folder && n >= n_name && !strcmp(path + n - n_name, other[i].name);
        if (folder) str_printf(&file, "%s/%s", path, other[i].name);
        found = found || (folder && io_exists(str_get(&file)));
        if (found)
            error_set(
                err, ERR_FORMAT,
                "%s: %s, which is not read here; expected tokenizer.json. Load the folder once with transformers' "
                "AutoTokenizer.from_pretrained(FOLDER) and save it with .save_pretrained(FOLDER): that writes it",
                folder ? str_get(&file) : path, other[i].what);
        str_release(&file);
        if (found) return false;
    }
    return true;
}

bool tokenizer_open(Tokenizer **out, const char *path, Error *err) {
    Str file = {0}, text = {0};
    str_put(&file, path);
    if (io_is_dir(path)) str_put(&file, "/tokenizer.json");
    bool ok = (io_exists(str_get(&file)) && io_is_dir(path)) || advise(path, err);
    ok = ok && io_read_file(&text, str_get(&file), (size_t)256 << 20, err) &&
         tokenizer_parse(out, str_get(&text), text.n, str_get(&file), err);
    str_release(&file);
    str_release(&text);
    return ok;
}

void tokenizer_close(Tokenizer *t) {
    if (!t) return;
    parts_release(t);
    splitter_close(t->split);
    merge_map_release(&t->merge);
    free(t->parts);
    added_trie_release(&t->trie[0]);
    added_trie_release(&t->trie[1]);
    free(t->kind);
    if (t->vocab_start != t->start) free(t->vocab_start);
    if (t->vocab_len != t->len) free(t->vocab_len);
    free(t->start);
    free(t->len);
    str_release(&t->bytes);
    str_release(&t->names);
    free(t->whole);
    free(t->cut_not);
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

void decode_by_table(const Tokenizer *t, const int32_t *id, int n, bool keep_special, Str *out) {
    int most = t->most_len <= DECODE_BYTES ? DECODE_IDS : 1; /* room is made for the longest token each time */
    for (int at = 0; at < n; at += most) decode_some(t, id + at, n - at < most ? n - at : most, keep_special, out);
}

/* ---- questions ---- */

size_t tokenizer_most_bytes(const Tokenizer *t) { return (size_t)(INT_MAX / 2 - 1) / t->growth; }

bool tokenizer_is_exact(const Tokenizer *t) { return t->exact; }

const AddedToken *added_by_id(const Tokenizer *t, int32_t id) {
    int lo = 0, hi = t->n_added;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (t->added[mid].id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < t->n_added && t->added[lo].id == id ? &t->added[lo] : NULL;
}

int32_t tokenizer_special(const Tokenizer *t, const char *spelling) {
    for (int i = 0; i < t->n_added; i++)
        if (t->added[i].special && strcmp(t->added[i].s, spelling) == 0) return t->added[i].id;
    return -1;
}

bool tokenizer_is_special(const Tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n_vocab && t->kind[id] == TOKEN_SPECIAL;
}

void tokenizer_spelling(const Tokenizer *t, int32_t id, Str *out) {
    if (id < 0 || id >= t->n_vocab || t->kind[id] == TOKEN_ABSENT) return;
    if (t->kind[id] >= TOKEN_ADDED)
        str_put(out, added_by_id(t, id)->s);
    else if (t->byte_level && t->kind[id] == TOKEN_PLAIN)
        alphabet_put(out, t->bytes.s + t->start[id], t->len[id]);
    else
        str_putn(out, t->bytes.s + t->start[id], t->len[id]);
}

int32_t tokenizer_id(const Tokenizer *t, const char *spelling) {
    int32_t found = -1;
    Str s = {0};
    for (int32_t id = 0; id < t->n_vocab && found < 0; id++) {
        str_clear(&s);
        tokenizer_spelling(t, id, &s);
        if (t->kind[id] != TOKEN_ABSENT && strcmp(str_get(&s), spelling) == 0) found = id;
    }
    str_release(&s);
    return found;
}

TokenRole tokenizer_role(const Tokenizer *t, int32_t id) {
    if (id < 0 || id >= t->n_vocab || t->kind[id] == TOKEN_ABSENT) return ROLE_TOKEN_ABSENT;
    if (id == t->unk) return ROLE_TOKEN_UNKNOWN;
    if (t->kind[id] == TOKEN_SPECIAL) return ROLE_TOKEN_CONTROL;
    for (int b = 0; t->byte_fallback && b < 256; b++)
        if (t->fallback[b] == id) return ROLE_TOKEN_BYTE;
    return t->kind[id] == TOKEN_ADDED ? ROLE_TOKEN_USER : ROLE_TOKEN_NORMAL;
}

bool tokenizer_is_byte_level(const Tokenizer *t) { return t->byte_level; }

bool tokenizer_adds_prefix(const Tokenizer *t) {
    for (int i = 0; i < t->n_pre; i++)
        if (t->pre[i].prefix != PREFIX_NEVER) return true;
    for (int i = 0; i < t->n_form; i++)
        if (t->form[i].kind == FORM_PREPEND) return true;
    return false;
}

/* Text that is only given other white space is not normalized. */
bool tokenizer_normalizes(const Tokenizer *t) {
    for (int i = 0; i < t->n_form; i++)
        if (t->form[i].kind != FORM_PREPEND && t->form[i].kind != FORM_REPLACE && t->form[i].kind != FORM_BYTE_LEVEL)
            return true;
    return false;
}

const char *tokenizer_pattern(const Tokenizer *t) {
    return t->byte_level && t->split ? splitter_pattern(t->split) : NULL;
}

int tokenizer_n_merge(const Tokenizer *t) { return t->n_merge; }

void tokenizer_merges(const Tokenizer *t, int32_t (*pair)[2]) {
    const MergeMap *m = &t->merge;
    uint64_t *by_rank = mem_alloc(((size_t)t->n_rank + 1) * sizeof *by_rank); /* a pair listed twice leaves a hole */
    memset(by_rank, 0xFF, ((size_t)t->n_rank + 1) * sizeof *by_rank);
    for (uint64_t i = 0; i <= m->mask; i++)
        if (m->slot[i].key != UINT64_MAX) by_rank[m->slot[i].rank] = m->slot[i].key;
    for (int i = 0, n = 0; i < t->n_rank; i++) {
        if (by_rank[i] == UINT64_MAX) continue;
        pair[n][0] = (int32_t)(by_rank[i] >> 32);
        pair[n++][1] = (int32_t)(by_rank[i] & 0xFFFFFFFF);
    }
    free(by_rank);
}

void tokenizer_around(const Tokenizer *t, TokBuf *before, TokBuf *after) {
    tokbuf_putn(before, t->before, t->n_before);
    tokbuf_putn(after, t->after, t->n_after);
}
