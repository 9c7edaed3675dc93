/* decode.c — ids back to text through a chain of decoders.
 *
 * A chain works on a list of token strings, each step on the whole list; what is left is joined. Byte-level tokenizers
 * need none of it: their one decoder is a table (tokenizer.c). Where the reference writes U+FFFD, for byte tokens that
 * do not make characters, these are the bytes: whoever shows text decides what becomes of half a character. */
#include "text/text_int.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    Str text;
    size_t *end; /* of each token in text */
    int n, cap;
} Tokens;

static void tokens_end(Tokens *t) { /* what was put since the last one is a token */
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 64;
        t->end = mem_grow(t->end, (size_t)t->cap * sizeof *t->end);
    }
    t->end[t->n++] = t->text.n;
}

static const char *token_at(const Tokens *t, int i, size_t *n) {
    size_t from = i > 0 ? t->end[i - 1] : 0;
    *n = t->end[i] - from;
    return str_get(&t->text) + from;
}

static void tokens_release(Tokens *t) {
    str_release(&t->text);
    free(t->end);
}

static void put_name(Tokens *to, const Tokenizer *t, int32_t id) {
    const AddedToken *a = t->kind[id] >= TOKEN_ADDED ? added_by_id(t, id) : NULL;
    if (a)
        str_putn(&to->text, a->norm, a->n_norm);
    else
        tokenizer_spelling(t, id, &to->text);
}

static bool shown(const Tokenizer *t, int32_t id, bool keep_special) {
    if (id < 0 || id >= t->n_vocab || t->kind[id] == TOKEN_ABSENT) return false;
    return keep_special || t->kind[id] != TOKEN_SPECIAL;
}

/* ---- steps ---- */

static void replace(Tokens *to, const Tokens *from, const DecodeStep *d) {
    MatchBuf match = {0};
    void *data = NULL;
    for (int i = 0; i < from->n; i++) {
        size_t n;
        const char *s = token_at(from, i, &n);
        match.n = 0;
        if (n > 0 && str_utf8_valid(s, n, NULL))
            finder_matches(&match, &d->find, &data, s, n, text_is_wide(s, n));
        else if (n > 0)
            matches_put(&match, 0, n, false);
        for (int k = 0; k < match.n; k++) {
            const Match *m = &match.m[k];
            if (m->match)
                str_putn(&to->text, str_get(&d->text), d->text.n);
            else
                str_putn(&to->text, s + m->at, m->end - m->at);
        }
        tokens_end(to);
    }
    match_data_free(data);
    free(match.m);
}

static void byte_level(Tokens *to, const Tokens *from) {
    for (int i = 0; i < from->n; i++) {
        size_t n;
        const char *s = token_at(from, i, &n);
        if (!alphabet_read(&to->text, s, n)) str_putn(&to->text, s, n);
    }
    tokens_end(to);
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    char low = (char)(c | 0x20);
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* The byte of "<0xNN>", -1: it is not spelled so. */
int fallback_byte(const char *s, size_t n) {
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    int high = s[3] == '+' ? 0 : hex_digit(s[3]), low = hex_digit(s[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* Bytes side by side are one token if they make characters, else one each. */
static void put_bytes(Tokens *to, Str *bytes) {
    bool whole = str_utf8_valid(str_get(bytes), bytes->n, NULL);
    for (size_t i = 0; i < bytes->n; i++) {
        str_putc(&to->text, bytes->s[i]);
        if (!whole || i + 1 == bytes->n) tokens_end(to);
    }
    str_clear(bytes);
}

static void byte_fallback(Tokens *to, const Tokens *from) {
    Str bytes = {0};
    for (int i = 0; i < from->n; i++) {
        size_t n;
        const char *s = token_at(from, i, &n);
        int byte = fallback_byte(s, n);
        if (byte >= 0) {
            str_putc(&bytes, (char)byte);
            continue;
        }
        put_bytes(to, &bytes);
        str_putn(&to->text, s, n);
        tokens_end(to);
    }
    put_bytes(to, &bytes);
    str_release(&bytes);
}

static void strip(Tokens *to, const Tokens *from, const DecodeStep *d) {
    char c[4];
    size_t n_c = utf8_write(c, d->c), n;
    for (int i = 0; i < from->n; i++) {
        const char *s = token_at(from, i, &n);
        for (int k = 0; k < d->start && n >= n_c && memcmp(s, c, n_c) == 0; k++) {
            s += n_c;
            n -= n_c;
        }
        for (int k = 0; k < d->stop && n >= n_c && memcmp(s + n - n_c, c, n_c) == 0; k++) n -= n_c;
        str_putn(&to->text, s, n);
        tokens_end(to);
    }
}

static void metaspace(Tokens *to, const Tokens *from, const DecodeStep *d) {
    char c[4];
    size_t n_c = utf8_write(c, d->c), n;
    for (int i = 0; i < from->n; i++) {
        const char *s = token_at(from, i, &n);
        for (size_t k = 0; k < n;) {
            if (n - k < n_c || memcmp(s + k, c, n_c) != 0) {
                str_putc(&to->text, s[k++]);
                continue;
            }
            if (i > 0 || !d->drop_first) str_putc(&to->text, ' ');
            k += n_c;
        }
        tokens_end(to);
    }
}

static void step(Tokens *to, const Tokens *from, const DecodeStep *d) {
    switch (d->kind) {
    case DECODE_REPLACE:
        replace(to, from, d);
        break;
    case DECODE_BYTE_LEVEL:
        byte_level(to, from);
        break;
    case DECODE_BYTE_FALLBACK:
        byte_fallback(to, from);
        break;
    case DECODE_FUSE:
        str_putn(&to->text, str_get(&from->text), from->text.n);
        tokens_end(to);
        break;
    case DECODE_STRIP:
        strip(to, from, d);
        break;
    case DECODE_METASPACE:
        metaspace(to, from, d);
        break;
    }
}

static void decode_chain(const Tokenizer *t, const int32_t *id, int n, bool keep_special, Str *out) {
    Tokens list[2] = {0};
    int now = 0;
    for (int i = 0; i < n; i++) {
        if (!shown(t, id[i], keep_special)) continue;
        if (!t->has_decoder && list[0].n > 0) str_putc(&list[0].text, ' ');
        put_name(&list[0], t, id[i]);
        tokens_end(&list[0]);
    }
    for (int i = 0; i < t->n_decode; i++, now = !now) {
        str_clear(&list[!now].text);
        list[!now].n = 0;
        step(&list[!now], &list[now], &t->decode[i]);
    }
    str_putn(out, str_get(&list[now].text), list[now].text.n);
    tokens_release(&list[0]);
    tokens_release(&list[1]);
}

void tokenizer_decode(const Tokenizer *t, const int32_t *id, int n, bool keep_special, Str *out) {
    if (t->decode_bytes)
        decode_by_table(t, id, n, keep_special, out);
    else
        decode_chain(t, id, n, keep_special, out);
}

/* What a token decodes to depends on whether it is the first, and a byte token on those beside it: so the part is
 * decoded behind the ids before it back to one that is shown, and what those are by themselves is taken off. */
void tokenizer_decode_more(const Tokenizer *t, const int32_t *id, int from, int n, bool keep_special, Str *out) {
    if (t->decode_bytes || from <= 0) {
        tokenizer_decode(t, id + (from > 0 ? from : 0), n - (from > 0 ? from : 0), keep_special, out);
        return;
    }
    Str before = {0}, all = {0};
    int first = from - 1;
    while (first > 0 && !shown(t, id[first], keep_special)) first--;
    tokenizer_decode(t, id + first, from - first, keep_special, &before);
    tokenizer_decode(t, id + first, n - first, keep_special, &all);
    size_t same = 0;
    while (same < before.n && same < all.n && before.s[same] == all.s[same]) same++;
    str_putn(out, str_get(&all) + same, all.n - same);
    str_release(&before);
    str_release(&all);
}
