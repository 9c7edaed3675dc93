/* normalize.c — the normalizers: NFC and its relatives, lower case, stripping, prepending, replacing.
 *
 * Where a byte of the result comes from follows the rules of `tokenizers`, which thinks in changes: a new character
 * takes the place of the next one of the old text (0), of that one and of k more (-k), or of none (1). It is said to
 * come from the first character it replaces; one that replaces none shares the place of the character consumed last.
 *
 * Most text is normalized already. So NFC and the others look for a character that could change, and do the work only
 * around it: from the last boundary before it to the next boundary. A boundary is before a starter that neither
 * decomposes nor joins the character before it. Characters younger than Unicode 9 are starters of that kind for the
 * reference, whatever they have become since. */
#include "text/text_int.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

typedef struct {
    uint32_t c;
    int change;
    int class; /* combining class, while characters are put in order */
} Change;

/* ---- views and what they look at ---- */

View view_part(const View *v, size_t at, size_t end) {
    View part = {v->s + at, end - at, v->from ? v->from + at : NULL, v->from ? v->to + at : NULL, v->base};
    part.base = v->from && at < v->n ? v->from[at] : part.base + (v->from ? 0 : (uint32_t)at);
    return part;
}

ByteSpan view_span(const View *v, size_t at, size_t end) {
    if (v->from) return (ByteSpan){v->from[at], v->to[end - 1]};
    return (ByteSpan){v->base + (uint32_t)at, v->base + (uint32_t)end};
}

void built_clear(Built *b, bool keep) {
    str_clear(&b->text);
    b->keep = keep;
}

static void built_room(Built *b, size_t more) {
    if (!b->keep || b->text.n + more <= b->cap) return;
    b->cap = 2 * (b->text.n + more) + 64;
    b->from = mem_grow(b->from, b->cap * sizeof *b->from);
    b->to = mem_grow(b->to, b->cap * sizeof *b->to);
}

void built_put(Built *b, const void *s, size_t n, ByteSpan at) {
    built_room(b, n);
    for (size_t i = 0; b->keep && i < n; i++) {
        b->from[b->text.n + i] = at.from;
        b->to[b->text.n + i] = at.to;
    }
    str_putn(&b->text, s, n);
}

void built_copy(Built *b, const View *v, size_t at, size_t end) {
    if (at == end) return;
    built_room(b, end - at);
    for (size_t i = at; b->keep && i < end; i++) {
        ByteSpan span = view_span(v, i, i + 1);
        b->from[b->text.n + i - at] = span.from;
        b->to[b->text.n + i - at] = span.to;
    }
    str_putn(&b->text, v->s + at, end - at);
}

View built_view(const Built *b, uint32_t base) {
    return (View){str_get(&b->text), b->text.n, b->keep ? b->from : NULL, b->keep ? b->to : NULL, base};
}

void built_release(Built *b) {
    str_release(&b->text);
    free(b->from);
    free(b->to);
    *b = (Built){0};
}

/* ---- changes ---- */

/* Where a character comes from that replaces none: `at` is behind the one consumed last. */
static ByteSpan place_before(const View *v, size_t at) {
    return at > 0 ? view_span(v, utf8_before(v->s, at), at) : (ByteSpan){v->base, v->base};
}

/* Writes the changed characters of v from *at on, which moves behind what they replace. */
static void put_changes(Built *to, const View *v, size_t *at, const Change *c, int n) {
    for (int i = 0; i < n; i++) {
        char s[4];
        size_t len, n_new = utf8_write(s, c[i].c);
        ByteSpan place = place_before(v, *at);
        if (c[i].change <= 0 && *at < v->n) {
            utf8_at(v->s + *at, &len);
            place = view_span(v, *at, *at + len);
            bool same = len == n_new && memcmp(s, v->s + *at, len) == 0;
            if (same) built_copy(to, v, *at, *at + len);
            *at += len;
            for (int k = c[i].change; k < 0 && *at < v->n; k++, *at += len) utf8_at(v->s + *at, &len);
            if (same) continue;
        }
        built_put(to, s, n_new, place);
    }
}

static Change *changes_room(Normal *n, size_t more) {
    if (more > n->cap_changes) {
        n->cap_changes = 2 * more;
        n->changes = mem_grow(n->changes, n->cap_changes * sizeof(Change));
    }
    return n->changes;
}

/* ---- NFC, NFD, NFKC, NFKD ---- */

typedef struct {
    bool compose, compat;
} Form;

/* Starters that join the character before them; the other joining characters have a combining class. */
static const CharRange joins[] = {
    {0x9BE, 0x9BE},     {0x9D7, 0x9D7},     {0xB3E, 0xB3E},     {0xB56, 0xB57},     {0xBBE, 0xBBE},
    {0xBD7, 0xBD7},     {0xCC2, 0xCC2},     {0xCD5, 0xCD6},     {0xD3E, 0xD3E},     {0xD57, 0xD57},
    {0xDCF, 0xDCF},     {0xDDF, 0xDDF},     {0x102E, 0x102E},   {0x1161, 0x1175},   {0x11A8, 0x11C2},
    {0x1B35, 0x1B35},   {0x11127, 0x11127}, {0x1133E, 0x1133E}, {0x11357, 0x11357}, {0x114B0, 0x114B0},
    {0x114BA, 0x114BA}, {0x114BD, 0x114BD}, {0x115AF, 0x115AF}, {0x11930, 0x11930},
};

static int combining_class(uint32_t c) {
    if (c < 0x300) return 0;
    int class = utf8proc_get_property((utf8proc_int32_t)c)->combining_class;
    return class && char_is_young(c) ? 0 : class;
}

static int decompose(uint32_t c, Form f, utf8proc_int32_t to[32]) {
    int bound = 0;
    utf8proc_ssize_t n = -1;
    if (c >= 0x80 && !char_is_young(c))
        n = utf8proc_decompose_char((utf8proc_int32_t)c, to, 32, UTF8PROC_DECOMPOSE | (f.compat ? UTF8PROC_COMPAT : 0),
                                    &bound);
    if (n >= 1 && n <= 32) return (int)n;
    to[0] = (utf8proc_int32_t)c;
    return 1;
}

static bool compose_two(uint32_t a, uint32_t b, uint32_t *to) {
    utf8proc_int32_t pair[2] = {(utf8proc_int32_t)a, (utf8proc_int32_t)b};
    if (char_is_young(a) || char_is_young(b)) return false;
    if (utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE) != 1) return false;
    *to = (uint32_t)pair[0];
    return true;
}

/* c, which has canonical parts, is put together again from them: neither one character by another number nor excluded.
 */
static bool comes_back(uint32_t c, Form f) {
    utf8proc_int32_t part[32];
    int n = decompose(c, f, part);
    uint32_t whole = (uint32_t)part[0];
    for (int i = 1; i < n; i++)
        if (!compose_two(whole, (uint32_t)part[i], &whole)) return false;
    return whole == c;
}

/* It stays what it is, and nothing before it in the text can change it. */
static bool is_boundary(uint32_t c, Form f) {
    if (c < 0x80) return true;
    const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)c);
    bool hangul = c >= 0xAC00 && c < 0xD7A4;
    bool parts = hangul || (p->decomp_seqindex != UINT16_MAX && (p->decomp_type == 0 || f.compat));
    if (p->combining_class || parts) {
        if (char_is_young(c)) return true;
        if (p->combining_class || !f.compose) return false;
        if (!hangul && (f.compat || !comes_back(c, f))) return false;
    }
    return !f.compose || !char_in(joins, COUNT_OF(joins), c);
}

/* Bytes below it begin characters that no form changes and that are boundaries. */
static unsigned char first_touchy(Form f) { return f.compat ? 0xC2 : f.compose ? 0xCC : 0xC3; }

/* c[0..n) by class, equal classes as they stand. A text can be nothing but marks, so long runs are counted out. */
enum { FEW_MARKS = 24 };
static void order_run(Change *c, int n) {
    for (int i = 1; n <= FEW_MARKS && i < n; i++)
        for (int k = i; k > 0 && c[k - 1].class > c[k].class; k--) {
            Change moved = c[k];
            c[k] = c[k - 1];
            c[k - 1] = moved;
        }
    if (n <= FEW_MARKS) return;
    int at[257] = {0};
    Change *copy = mem_alloc((size_t)n * sizeof *copy);
    memcpy(copy, c, (size_t)n * sizeof *copy);
    for (int i = 0; i < n; i++) at[c[i].class + 1]++;
    for (int k = 0; k < 256; k++) at[k + 1] += at[k];
    for (int i = 0; i < n; i++) c[at[copy[i].class]++] = copy[i];
    free(copy);
}

/* Unicode Standard, section 3.11. */
static void order_marks(Change *c, int n) {
    for (int i = 0, end; i < n; i = end + 1) {
        for (end = i; end < n && c[end].class != 0;) end++;
        order_run(c + i, end - i);
    }
}

/* In place: each character joins the starter before it unless a character between them blocks it. Returns how many are
 * left. What joins adds its change to the starter's, and one consumed character more. */
static int compose(Change *c, int n) {
    int out = 0, starter = -1, last = -1; /* last: class of the character kept since the starter, -1: none */
    for (int i = 0; i < n; i++) {
        uint32_t joined;
        if (starter >= 0 && last < c[i].class && (last < 0 || c[i].class > 0) &&
            compose_two(c[starter].c, c[i].c, &joined)) {
            c[starter].c = joined;
            c[starter].change += c[i].change - 1;
            continue;
        }
        if (c[i].class == 0) {
            starter = out;
            last = -1;
        } else
            last = c[i].class;
        c[out++] = c[i];
    }
    return out;
}

/* The form of v[at .. end), a boundary to the next. */
static void put_segment(Normal *nm, Built *to, const View *v, size_t at, size_t end, Form f) {
    int n = 0;
    for (size_t i = at, len; i < end; i += len) {
        utf8proc_int32_t part[32];
        int n_part = decompose(utf8_at(v->s + i, &len), f, part);
        Change *c = changes_room(nm, (size_t)(n + n_part));
        for (int k = 0; k < n_part; k++, n++)
            c[n] = (Change){(uint32_t)part[k], k > 0, combining_class((uint32_t)part[k])};
    }
    order_marks(nm->changes, n);
    if (f.compose) n = compose(nm->changes, n);
    put_changes(to, v, &at, nm->changes, n);
    CHECK(at == end, "normalizing consumed %zu bytes of %zu", at, end);
}

static size_t next_touchy(const View *v, size_t i, unsigned char touchy) {
    for (uint64_t eight; v->n - i >= 8 && (memcpy(&eight, v->s + i, 8), !(eight & 0x8080808080808080u));) i += 8;
    while (i < v->n && (unsigned char)v->s[i] < touchy) i++; /* over continuation bytes, too */
    return i;
}

static bool change_form(Normal *nm, Built *to, const View *v, Form f) {
    unsigned char touchy = first_touchy(f);
    size_t done = 0, len;
    for (size_t i = 0; (i = next_touchy(v, i, touchy)) < v->n;) {
        if (is_boundary(utf8_at(v->s + i, &len), f)) {
            i += len;
            continue;
        }
        size_t before = i > 0 ? utf8_before(v->s, i) : 0; /* a boundary: else it had been met before */
        while (i < v->n && !is_boundary(utf8_at(v->s + i, &len), f)) i += len;
        built_copy(to, v, done, before);
        put_segment(nm, to, v, before, i, f);
        done = i;
    }
    if (done > 0) built_copy(to, v, done, v->n);
    return done > 0;
}

/* ---- the others ---- */

static bool strip_accents(Built *to, const View *v) {
    bool any = false;
    for (size_t i = 0, len; i < v->n; i += len) {
        bool accent = char_is_accent(utf8_at(v->s + i, &len));
        any |= accent;
        if (!accent) built_copy(to, v, i, i + len);
    }
    return any;
}

static bool drop_nmt(uint32_t c) {
    return (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
}

static bool nmt_space(uint32_t c) {
    return c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 ||
           c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
}

static bool nmt(Built *to, const View *v) {
    for (size_t i = 0, len; i < v->n; i += len) {
        uint32_t c = utf8_at(v->s + i, &len);
        if (drop_nmt(c)) continue;
        if (nmt_space(c))
            built_put(to, " ", 1, view_span(v, i, i + len));
        else
            built_copy(to, v, i, i + len);
    }
    return true;
}

static bool lowercase(Normal *nm, Built *to, const View *v) {
    bool changed = false;
    for (size_t i = 0, len; i < v->n;) {
        uint32_t low[2], c = utf8_at(v->s + i, &len);
        int n = char_lower(c, low);
        Change *change = changes_room(nm, 2);
        for (int k = 0; k < n; k++) change[k] = (Change){low[k], k > 0, 0};
        changed |= n > 1 || low[0] != c;
        put_changes(to, v, &i, change, n);
    }
    return changed;
}

static bool strip(Built *to, const View *v, bool left, bool right) {
    size_t at = 0, end = v->n, len;
    while (left && at < end && char_is_blank(utf8_at(v->s + at, &len))) at += len;
    while (right && end > at) {
        size_t before = utf8_before(v->s, end);
        if (!char_is_blank(utf8_at(v->s + before, &len))) break;
        end = before;
    }
    built_copy(to, v, at, end);
    return end - at < v->n;
}

static bool byte_level(Built *to, const View *v) {
    for (size_t i = 0, len; i < v->n; i += len) {
        utf8_at(v->s + i, &len);
        Str spelled = {0};
        alphabet_put(&spelled, v->s + i, len);
        if (len == 1 && spelled.n == 1 && spelled.s[0] == v->s[i])
            built_copy(to, v, i, i + 1);
        else
            built_put(to, spelled.s, spelled.n, view_span(v, i, i + len));
        str_release(&spelled);
    }
    return true;
}

static bool prepend(Built *to, const View *v, const Str *text) {
    size_t len;
    utf8_at(v->s, &len);
    built_put(to, str_get(text), text->n, view_span(v, 0, len));
    built_copy(to, v, 0, v->n);
    return text->n > 0;
}

/* Spaces become U+2581 in all text of some tokenizers; nothing here is done by the character. */
static bool replace_literal(Built *to, const View *v, const FormStep *f) {
    size_t done = 0;
    const char *at;
    while (done < v->n && (at = memmem(v->s + done, v->n - done, f->find.literal, f->find.n)) != NULL) {
        size_t i = (size_t)(at - v->s), end = i + f->find.n;
        built_copy(to, v, done, i);
        built_put(to, str_get(&f->text), f->text.n, to->keep ? place_before(v, end) : (ByteSpan){0, 0});
        done = end;
    }
    if (done > 0) built_copy(to, v, done, v->n);
    return done > 0;
}

static bool replace(Normal *nm, Built *to, const View *v, const FormStep *f) {
    bool any = false;
    if (f->find.literal) return replace_literal(to, v, f);
    nm->match.n = 0;
    finder_matches(&nm->match, &f->find, &nm->match_data, v->s, v->n, text_is_wide(v->s, v->n));
    for (int i = 0; i < nm->match.n; i++) {
        const Match *m = &nm->match.m[i];
        any |= m->match;
        if (m->match)
            built_put(to, str_get(&f->text), f->text.n, place_before(v, m->end));
        else
            built_copy(to, v, m->at, m->end);
    }
    return any;
}

/* False: the text stays as it is, and *to is rubbish. */
static bool change(const FormStep *f, Normal *nm, Built *to, const View *v) {
    switch (f->kind) {
    case FORM_NFC:
        return change_form(nm, to, v, (Form){true, false});
    case FORM_NFD:
        return change_form(nm, to, v, (Form){false, false});
    case FORM_NFKC:
        return change_form(nm, to, v, (Form){true, true});
    case FORM_NFKD:
        return change_form(nm, to, v, (Form){false, true});
    case FORM_LOWERCASE:
        return lowercase(nm, to, v);
    case FORM_STRIP:
        return strip(to, v, f->left, f->right);
    case FORM_STRIP_ACCENTS:
        return strip_accents(to, v);
    case FORM_NMT:
        return nmt(to, v);
    case FORM_BYTE_LEVEL:
        return byte_level(to, v);
    case FORM_PREPEND:
        return prepend(to, v, &f->text);
    case FORM_REPLACE:
        return replace(nm, to, v, f);
    }
    return false;
}

/* The longest forms: U+FDFA has 18 letters, of 33 bytes, in three. */
size_t form_growth(const FormStep *f) {
    switch (f->kind) {
    case FORM_NFKC:
    case FORM_NFKD:
        return 11;
    case FORM_REPLACE:
        return replace_growth(&f->find, &f->text);
    case FORM_PREPEND: /* of a text longer than what is prepended */
    case FORM_STRIP:
    case FORM_STRIP_ACCENTS:
    case FORM_NMT:
        return 1;
    case FORM_BYTE_LEVEL:
        return 2;
    case FORM_NFC:
    case FORM_NFD:
    case FORM_LOWERCASE:
        return 3;
    }
    return 1;
}

View normalize(const FormStep *form, int n_form, Normal *n, View v, bool keep) {
    View now = v;
    for (int i = 0, turn = 0; i < n_form && now.n > 0; i++) {
        Built *to = &n->built[turn];
        built_clear(to, keep);
        if (!change(&form[i], n, to, &now)) continue;
        now = built_view(to, v.base);
        turn = !turn;
    }
    return now;
}

void normal_release(Normal *n) {
    built_release(&n->built[0]);
    built_release(&n->built[1]);
    match_data_free(n->match_data);
    free(n->match.m);
    free(n->changes);
    *n = (Normal){0};
}
