/* pieces.c — pre-tokenizers in any order: a text cut into pieces, and changed on the way by Metaspace and prefix
 * spaces.
 *
 * Each step looks at every piece by itself, as if it were a text. A cutting step finds matches, and its behaviour says
 * what becomes of them. Behind ByteLevel the reference's text is spelled in the byte alphabet, where a byte may pass
 * for a letter or a digit; here pieces stay bytes, and only what a step looks at is spelled. */
#include "text/text_int.h"

#include <stdlib.h>
#include <string.h>

static void piece_put(PieceBuf *b, size_t at, size_t end) {
    if (at == end) return;
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 64;
        b->p = mem_grow(b->p, (size_t)b->cap * sizeof *b->p);
    }
    b->p[b->n++] = (Piece){(uint32_t)at, (uint32_t)end};
}

void finder_release(Finder *f) {
    splitter_close(f->regex);
    free(f->literal);
    *f = (Finder){0};
}

static void literal_matches(MatchBuf *out, const Finder *f, const char *s, size_t n) {
    size_t done = 0;
    for (const char *at; done < n && (at = memmem(s + done, n - done, f->literal, f->n)) != NULL;) {
        size_t i = (size_t)(at - s);
        if (i > done) matches_put(out, done, i, false);
        matches_put(out, i, i + f->n, true);
        done = i + f->n;
    }
    if (done < n) matches_put(out, done, n, false);
}

void finder_matches(MatchBuf *out, const Finder *f, void **match_data, const char *s, size_t n, bool wide) {
    if (f->regex)
        splitter_matches(out, f->regex, match_data, s, n, wide);
    else
        literal_matches(out, f, s, n);
}

/* ---- what matches ---- */

/* Each character for which is() holds. */
static void char_matches(MatchBuf *out, const PreStep *p, bool (*is)(const PreStep *, uint32_t), const char *s,
                         size_t n) {
    size_t done = 0;
    for (size_t i = 0, len; i < n; i += len) {
        if (!is(p, utf8_at(s + i, &len))) continue;
        if (i > done) matches_put(out, done, i, false);
        matches_put(out, i, i + len, true);
        done = i + len;
    }
    if (done < n) matches_put(out, done, n, false);
}

static bool is_c(const PreStep *p, uint32_t c) { return c == p->c; }

static bool is_numeric(const PreStep *p, uint32_t c) {
    (void)p;
    return char_is_numeric(c);
}

static bool is_punctuation(const PreStep *p, uint32_t c) {
    (void)p;
    return char_is_punctuation(c);
}

static bool is_blank(const PreStep *p, uint32_t c) {
    (void)p;
    return char_is_blank(c);
}

/* Runs of word characters and runs of neither word characters nor blanks, inverted: the blanks between them match. */
static void blank_matches(MatchBuf *out, const char *s, size_t n) {
    int run = -1;
    size_t begin = 0;
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t c = utf8_at(s + i, &len);
        int kind = char_is_word(c) ? 0 : char_is_blank(c) ? 1 : 2;
        if (kind == run) continue;
        if (i > begin) matches_put(out, begin, i, run == 1);
        run = kind;
        begin = i;
    }
    matches_put(out, begin, n, run == 1);
}

static void fixed_matches(MatchBuf *out, int length, const char *s, size_t n) {
    size_t begin = 0;
    int count = 0;
    for (size_t i = 0, len; i < n;) {
        utf8_at(s + i, &len);
        i += len;
        if (++count < length && i < n) continue;
        matches_put(out, begin, i, false);
        begin = i;
        count = 0;
    }
}

static void step_matches(Cutter *c, const PreStep *p, const char *s, size_t n) {
    MatchBuf *out = &c->match;
    out->n = 0;
    switch (p->kind) {
    case PRE_SPLIT:
    case PRE_BYTE_LEVEL:
        finder_matches(out, &p->find, &c->match_data, s, n, c->wide > 0);
        for (int i = 0; p->invert && i < out->n; i++) out->m[i].match = !out->m[i].match;
        break;
    case PRE_METASPACE:
    case PRE_CHAR_DELIMITER:
        char_matches(out, p, is_c, s, n);
        break;
    case PRE_DIGITS:
        char_matches(out, p, is_numeric, s, n);
        break;
    case PRE_PUNCTUATION:
        char_matches(out, p, is_punctuation, s, n);
        break;
    case PRE_WHITESPACE:
        blank_matches(out, s, n);
        break;
    case PRE_WHITESPACE_SPLIT:
        char_matches(out, p, is_blank, s, n);
        break;
    case PRE_FIXED_LENGTH:
        fixed_matches(out, p->length, s, n);
        break;
    }
}

/* ---- what becomes of matches ---- */

static int join_forward(Match *m, int n, bool runs) {
    int out = 0;
    bool before = false;
    for (int i = 0; i < n; i++) {
        bool match = m[i].match, join = runs ? match == before : match && !before;
        before = match;
        if (join && out > 0)
            m[out - 1].end = m[i].end;
        else
            m[out++] = m[i];
    }
    return out;
}

static int join_backward(Match *m, int n) {
    int out = n;
    bool after = false;
    for (int i = n - 1; i >= 0; i--) {
        bool join = m[i].match && !after;
        after = m[i].match;
        if (join && out < n)
            m[out].at = m[i].at;
        else
            m[--out] = m[i];
    }
    memmove(m, m + out, (size_t)(n - out) * sizeof *m);
    return n - out;
}

static void behave(MatchBuf *b, CutBehavior how) {
    int out = 0;
    switch (how) {
    case CUT_ISOLATED:
        break;
    case CUT_REMOVED:
        for (int i = 0; i < b->n; i++)
            if (!b->m[i].match) b->m[out++] = b->m[i];
        b->n = out;
        break;
    case CUT_CONTIGUOUS:
        b->n = join_forward(b->m, b->n, true);
        break;
    case CUT_WITH_PREVIOUS:
        b->n = join_forward(b->m, b->n, false);
        break;
    case CUT_WITH_NEXT:
        b->n = join_backward(b->m, b->n);
        break;
    }
}

/* A piece by what matches in it; spelled: it is looked at in the byte alphabet, where byte k is character k. */
static void cut_piece(Cutter *c, const PreStep *p, CutBehavior how, const View *v, Piece piece, bool spelled) {
    const char *s = v->s + piece.at;
    size_t n = piece.end - piece.at;
    if (spelled) {
        str_clear(&c->spelled);
        alphabet_put(&c->spelled, s, n);
        s = c->spelled.s;
        n = c->spelled.n;
    }
    step_matches(c, p, s, n);
    behave(&c->match, how);
    size_t at = 0, byte = 0; /* spelled up to here, which is this many bytes */
    for (int i = 0; i < c->match.n; i++) {
        size_t from = c->match.m[i].at, end = c->match.m[i].end;
        if (spelled) {
            for (; at < from; at++) byte += ((unsigned char)s[at] & 0xC0) != 0x80;
            from = byte;
            for (; at < end; at++) byte += ((unsigned char)s[at] & 0xC0) != 0x80;
            end = byte;
        }
        piece_put(&c->next, piece.at + from, piece.at + end);
    }
}

/* ---- what changes the text ---- */

static ByteSpan first_place(const View *v, const Piece *p) {
    size_t len;
    utf8_at(v->s + p->at, &len);
    return view_span(v, p->at, p->at + len);
}

/* Spaces become the replacement; in front of a piece that does not begin with it stands another one. */
static void put_metaspace(Built *to, const PreStep *m, const View *v, const Piece *p) {
    char s[4];
    size_t n = utf8_write(s, m->c), i = p->at, len;
    uint32_t first = utf8_at(v->s + i, &len);
    if (m->prefix != PREFIX_NEVER && first != ' ' && first != m->c &&
        (m->prefix == PREFIX_ALWAYS || view_span(v, i, i + len).from == 0))
        built_put(to, s, n, first_place(v, p));
    while (i < p->end) {
        const char *space = memchr(v->s + i, ' ', p->end - i);
        size_t end = space ? (size_t)(space - v->s) : p->end;
        built_copy(to, v, i, end);
        if (space) built_put(to, s, n, view_span(v, end, end + 1));
        i = end + (space != NULL);
    }
}

static void put_space(Built *to, const View *v, const Piece *p) {
    if (v->s[p->at] != ' ') built_put(to, " ", 1, first_place(v, p));
    built_copy(to, v, p->at, p->end);
}

static View change_pieces(Cutter *c, Built *to, const PreStep *p, const View *v, bool keep) {
    built_clear(to, keep);
    c->next.n = 0;
    for (int i = 0; i < c->piece.n; i++) {
        size_t at = to->text.n;
        if (p->kind == PRE_METASPACE)
            put_metaspace(to, p, v, &c->piece.p[i]);
        else
            put_space(to, v, &c->piece.p[i]);
        piece_put(&c->next, at, to->text.n);
    }
    PieceBuf old = c->piece;
    c->piece = c->next;
    c->next = old;
    return built_view(to, v->base);
}

View cut_pieces(const Tokenizer *t, Cutter *c, View v, bool keep) {
    bool spelled = false;
    c->wide = -1;
    c->piece.n = 0;
    piece_put(&c->piece, 0, v.n);
    for (int i = 0, turn = 0; i < t->n_pre; i++) {
        const PreStep *p = &t->pre[i];
        if (p->kind == PRE_METASPACE || (p->kind == PRE_BYTE_LEVEL && p->prefix != PREFIX_NEVER)) {
            v = change_pieces(c, &c->built[turn], p, &v, keep);
            turn = !turn;
        }
        if ((p->kind == PRE_METASPACE && !p->split) || (p->kind == PRE_BYTE_LEVEL && !p->regex)) {
            spelled |= p->kind == PRE_BYTE_LEVEL;
            continue;
        }
        if (c->wide < 0 && p->find.regex)
            c->wide = text_is_wide(v.s, v.n); /* more than what is left of it is no matter */
        CutBehavior how = p->kind == PRE_METASPACE ? CUT_WITH_NEXT : p->behavior;
        c->next.n = 0;
        for (int k = 0; k < c->piece.n; k++) cut_piece(c, p, how, &v, c->piece.p[k], spelled);
        PieceBuf old = c->piece;
        c->piece = c->next;
        c->next = old;
        spelled |= p->kind == PRE_BYTE_LEVEL;
    }
    return v;
}

void cutter_release(Cutter *c) {
    built_release(&c->built[0]);
    built_release(&c->built[1]);
    free(c->piece.p);
    free(c->next.p);
    free(c->match.m);
    match_data_free(c->match_data);
    str_release(&c->spelled);
    *c = (Cutter){0};
}
