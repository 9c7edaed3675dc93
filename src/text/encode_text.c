/* encode_text.c — the long way from text to ids: added tokens, normalizers, pre-tokenizers.
 *
 * A text is cut at invalid bytes, which become tokens by themselves; what lies between is a text of its own for all
 * that follows. Added tokens are looked for in the text, then, between those, in the normalized text. Special tokens
 * are looked for, too, when text must not become them: the place of a match is passed over, as the reference does it.
 */
#include "text/text_int.h"

#include <limits.h>
#include <string.h>

void spanbuf_put(SpanBuf *b, ByteSpan at) {
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 64;
        b->at = mem_grow(b->at, (size_t)b->cap * sizeof *b->at);
    }
    b->at[b->n++] = at;
}

static void put_token(Encoder *e, int32_t id, ByteSpan at, TokBuf *out) {
    tokbuf_put(out, id);
    if (e->spans) spanbuf_put(e->spans, at);
}

static void put_byte(Encoder *e, unsigned char byte, ByteSpan at, TokBuf *out) {
    const Tokenizer *t = e->t;
    int32_t id = t->byte_level ? t->byte_id[byte] : t->byte_fallback ? t->fallback[byte] : -1;
    if (id < 0) id = t->unk;
    if (id >= 0) put_token(e, id, at, out);
}

/* ---- added tokens ---- */

static bool word_before(const View *v, size_t at) {
    size_t len;
    return at > 0 && char_is_word(utf8_at(v->s + utf8_before(v->s, at), &len));
}

static bool word_behind(const View *v, size_t at) {
    size_t len;
    return at < v->n && char_is_word(utf8_at(v->s + at, &len));
}

static size_t blanks_before(const View *v, size_t at) {
    for (size_t before, len; at > 0; at = before) {
        before = utf8_before(v->s, at);
        if (!char_is_blank(utf8_at(v->s + before, &len))) break;
    }
    return at;
}

static size_t blanks_behind(const View *v, size_t at) {
    for (size_t len; at < v->n && char_is_blank(utf8_at(v->s + at, &len)); at += len) continue;
    return at;
}

static bool is_plain(const EncodeOpts *o, ByteSpan at) {
    int lo = 0, hi = o->n_plain; /* the first stretch that ends behind at.from */
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (o->plain[mid].to <= at.from)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < o->n_plain && o->plain[lo].from < at.to;
}

/* Text may become this token at this place. */
static bool admitted(const Encoder *e, const View *v, const AddedToken *a, const AddedMatch *m) {
    if (a->special && (!e->opts->special || is_plain(e->opts, view_span(v, m->at, m->end)))) return false;
    return !a->single_word || (!word_before(v, m->at) && !word_behind(v, m->end));
}

static void encode_section(Encoder *e, View v, TokBuf *out);
static void encode_pieces_of(Encoder *e, const View *v, TokBuf *out);

static void between(Encoder *e, const View *v, size_t at, size_t end, bool normalized, TokBuf *out) {
    if (at >= end) return;
    View part = view_part(v, at, end);
    if (normalized)
        encode_pieces_of(e, &part, out);
    else
        encode_section(e, part, out);
}

/* A token that takes in the blanks behind it can take in the next match: then `done` goes back and a blank is given out
 * twice, or, if that match takes in blanks on its left, nothing of it is left. So it is with the reference. */
static void encode_round(Encoder *e, const View *v, bool normalized, TokBuf *out) {
    const AddedTrie *trie = &e->t->trie[normalized];
    size_t done = 0;
    AddedMatch m;
    for (size_t from = 0; trie->n_node > 0 && added_find(&m, trie, v->s, v->n, from);) {
        const AddedToken *a = &e->t->added[m.index];
        bool plain = a->special && e->opts->special && is_plain(e->opts, view_span(v, m.at, m.end));
        from = plain ? m.at + 1 : m.end; /* a match may begin behind the plain stretch this one reaches into */
        if (!admitted(e, v, a, &m)) continue;
        size_t at = m.at, end = m.end;
        if (a->lstrip) at = blanks_before(v, at);
        if (a->lstrip && at < done) at = done;
        if (a->rstrip) end = blanks_behind(v, end);
        between(e, v, done, at, normalized, out);
        if (at < end) put_token(e, a->id, view_span(v, at, end), out);
        done = end;
    }
    between(e, v, done, v->n, normalized, out);
}

/* ---- sections ---- */

static void encode_pieces_of(Encoder *e, const View *v, TokBuf *out) {
    if (e->t->split) {
        encode_plain(e, v, out);
        return;
    }
    View cut = cut_pieces(e->t, &e->cutter, *v, e->spans || e->t->needs_places);
    encode_cut(e, &cut, &e->cutter.piece, out);
}

/* When text must not become special tokens and there are no others, no match can matter. */
static bool searches(const Encoder *e) { return e->t->n_added_plain > 0 || (e->opts->special && e->t->n_added > 0); }

static void encode_section(Encoder *e, View v, TokBuf *out) {
    v = normalize(e->t->form, e->t->n_form, &e->normal, v, e->spans || e->t->needs_places);
    if (v.n == 0) return;
    if (searches(e))
        encode_round(e, &v, true, out);
    else
        encode_pieces_of(e, &v, out);
}

void encode_text(Encoder *e, const char *s, size_t n, TokBuf *out) {
    View v = {s, n, NULL, NULL, 0};
    bool search = searches(e);
    if (e->t->short_way && !search) {
        encode_plain(e, &v, out);
        return;
    }
    for (size_t i = 0, len; i < n; i += len) {
        len = utf8_stretch(s + i, n - i, NULL);
        View part = view_part(&v, i, i + len);
        if (len == 0)
            put_byte(e, (unsigned char)s[i], view_span(&v, i, i + 1), out), len = 1;
        else if (search)
            encode_round(e, &part, false, out);
        else
            encode_section(e, part, out);
    }
}
