/* split.c — a text cut into the pieces that are merged one by one.
 *
 * The patterns were written for Oniguruma with Unicode 16; PCRE2 10.42 knows Unicode 14 and takes white space to
 * include U+180E. Three measures make both cut alike:
 *
 *   - \s and \S become \p{White_Space} and \P{White_Space};
 *   - each pattern is compiled twice. The wide form adds to \p{L}, \p{N}, \p{Lu} and the like the code points that
 *     became letters, numbers and so on since; it is slower, so only a stretch that holds one is cut by it;
 *   - what the two read differently and no tokenizer we know of uses (sets in a class, \h, (?m)) is refused.
 *
 * Regexes are run on valid UTF-8 only: a text is first cut into valid stretches, and each byte between them is a piece
 * of its own. The check is done here once, together with the search for new code points, and PCRE2 is told so:
 * otherwise each match would check the rest of the text again, which is quadratic. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/text_int.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

// clang-format off
const char *const split_pattern[2] = {[SPLIT_GPT2] = SPLIT_TEXT_GPT2, [SPLIT_LLAMA3] = SPLIT_TEXT_LLAMA("{1,3}")};

/* Assigned in Unicode 15 and 16, so in none of PCRE2 10.42's classes; with the general category they got. (One code
 * point, U+1171E, moved from Mn to Mc, which cannot be expressed; it is in M for both.) */
static const struct { uint32_t first, last; char category[3]; } drift[] = {
    {0x00897, 0x00897, "Mn"}, {0x00CF3, 0x00CF3, "Mc"}, {0x00ECE, 0x00ECE, "Mn"}, {0x01B4E, 0x01B4F, "Po"},
    {0x01B7F, 0x01B7F, "Po"}, {0x01C89, 0x01C89, "Lu"}, {0x01C8A, 0x01C8A, "Ll"}, {0x02427, 0x02429, "So"},
    {0x02FFC, 0x02FFF, "So"}, {0x031E4, 0x031E5, "So"}, {0x031EF, 0x031EF, "So"}, {0x0A7CB, 0x0A7CC, "Lu"},
    {0x0A7CD, 0x0A7CD, "Ll"}, {0x0A7DA, 0x0A7DA, "Lu"}, {0x0A7DB, 0x0A7DB, "Ll"}, {0x0A7DC, 0x0A7DC, "Lu"},
    {0x105C0, 0x105F3, "Lo"}, {0x10D40, 0x10D49, "Nd"}, {0x10D4A, 0x10D4D, "Lo"}, {0x10D4E, 0x10D4E, "Lm"},
    {0x10D4F, 0x10D4F, "Lo"}, {0x10D50, 0x10D65, "Lu"}, {0x10D69, 0x10D6D, "Mn"}, {0x10D6E, 0x10D6E, "Pd"},
    {0x10D6F, 0x10D6F, "Lm"}, {0x10D70, 0x10D85, "Ll"}, {0x10D8E, 0x10D8F, "Sm"}, {0x10EC2, 0x10EC4, "Lo"},
    {0x10EFC, 0x10EFF, "Mn"}, {0x1123F, 0x11240, "Lo"}, {0x11241, 0x11241, "Mn"}, {0x11380, 0x11389, "Lo"},
    {0x1138B, 0x1138B, "Lo"}, {0x1138E, 0x1138E, "Lo"}, {0x11390, 0x113B5, "Lo"}, {0x113B7, 0x113B7, "Lo"},
    {0x113B8, 0x113BA, "Mc"}, {0x113BB, 0x113C0, "Mn"}, {0x113C2, 0x113C2, "Mc"}, {0x113C5, 0x113C5, "Mc"},
    {0x113C7, 0x113CA, "Mc"}, {0x113CC, 0x113CD, "Mc"}, {0x113CE, 0x113CE, "Mn"}, {0x113CF, 0x113CF, "Mc"},
    {0x113D0, 0x113D0, "Mn"}, {0x113D1, 0x113D1, "Lo"}, {0x113D2, 0x113D2, "Mn"}, {0x113D3, 0x113D3, "Lo"},
    {0x113D4, 0x113D5, "Po"}, {0x113D7, 0x113D8, "Po"}, {0x113E1, 0x113E2, "Mn"}, {0x116D0, 0x116E3, "Nd"},
    {0x11B00, 0x11B09, "Po"}, {0x11BC0, 0x11BE0, "Lo"}, {0x11BE1, 0x11BE1, "Po"}, {0x11BF0, 0x11BF9, "Nd"},
    {0x11F00, 0x11F01, "Mn"}, {0x11F02, 0x11F02, "Lo"}, {0x11F03, 0x11F03, "Mc"}, {0x11F04, 0x11F10, "Lo"},
    {0x11F12, 0x11F33, "Lo"}, {0x11F34, 0x11F35, "Mc"}, {0x11F36, 0x11F3A, "Mn"}, {0x11F3E, 0x11F3F, "Mc"},
    {0x11F40, 0x11F40, "Mn"}, {0x11F41, 0x11F41, "Mc"}, {0x11F42, 0x11F42, "Mn"}, {0x11F43, 0x11F4F, "Po"},
    {0x11F50, 0x11F59, "Nd"}, {0x11F5A, 0x11F5A, "Mn"}, {0x1342F, 0x1342F, "Lo"}, {0x13439, 0x1343F, "Cf"},
    {0x13440, 0x13440, "Mn"}, {0x13441, 0x13446, "Lo"}, {0x13447, 0x13455, "Mn"}, {0x13460, 0x143FA, "Lo"},
    {0x16100, 0x1611D, "Lo"}, {0x1611E, 0x16129, "Mn"}, {0x1612A, 0x1612C, "Mc"}, {0x1612D, 0x1612F, "Mn"},
    {0x16130, 0x16139, "Nd"}, {0x16D40, 0x16D42, "Lm"}, {0x16D43, 0x16D6A, "Lo"}, {0x16D6B, 0x16D6C, "Lm"},
    {0x16D6D, 0x16D6F, "Po"}, {0x16D70, 0x16D79, "Nd"}, {0x18CFF, 0x18CFF, "Lo"}, {0x1B132, 0x1B132, "Lo"},
    {0x1B155, 0x1B155, "Lo"}, {0x1CC00, 0x1CCEF, "So"}, {0x1CCF0, 0x1CCF9, "Nd"}, {0x1CD00, 0x1CEB3, "So"},
    {0x1D2C0, 0x1D2D3, "No"}, {0x1DF25, 0x1DF2A, "Ll"}, {0x1E030, 0x1E06D, "Lm"}, {0x1E08F, 0x1E08F, "Mn"},
    {0x1E4D0, 0x1E4EA, "Lo"}, {0x1E4EB, 0x1E4EB, "Lm"}, {0x1E4EC, 0x1E4EF, "Mn"}, {0x1E4F0, 0x1E4F9, "Nd"},
    {0x1E5D0, 0x1E5ED, "Lo"}, {0x1E5EE, 0x1E5EF, "Mn"}, {0x1E5F0, 0x1E5F0, "Lo"}, {0x1E5F1, 0x1E5FA, "Nd"},
    {0x1E5FF, 0x1E5FF, "Po"}, {0x1F6DC, 0x1F6DC, "So"}, {0x1F774, 0x1F776, "So"}, {0x1F77B, 0x1F77F, "So"},
    {0x1F7D9, 0x1F7D9, "So"}, {0x1F8B2, 0x1F8BB, "So"}, {0x1F8C0, 0x1F8C1, "So"}, {0x1FA75, 0x1FA77, "So"},
    {0x1FA87, 0x1FA89, "So"}, {0x1FA8F, 0x1FA8F, "So"}, {0x1FAAD, 0x1FAAF, "So"}, {0x1FABB, 0x1FABF, "So"},
    {0x1FAC6, 0x1FAC6, "So"}, {0x1FACE, 0x1FACF, "So"}, {0x1FADA, 0x1FADC, "So"}, {0x1FADF, 0x1FADF, "So"},
    {0x1FAE8, 0x1FAE9, "So"}, {0x1FAF7, 0x1FAF8, "So"}, {0x1FBCB, 0x1FBEF, "So"}, {0x2B739, 0x2B739, "Lo"},
    {0x2EBF0, 0x2EE5D, "Lo"}, {0x31350, 0x323AF, "Lo"},
};
// clang-format on

struct Splitter {
    pcre2_code *narrow, *wide;
    bool jit_narrow, jit_wide;
    SplitKnown known;
    CharTable *table; /* of a known pattern */
};

static bool is_drift(uint32_t c) {
    int lo = 0, hi = COUNT_OF(drift);
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (c > drift[mid].last)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < COUNT_OF(drift) && c >= drift[lo].first;
}

/* ---- rewriting ---- */

/* The class named at p, just behind "\p" or "\P": the length of its name in braces if it is one general category
 * ("{Lu}") or one group of them ("{L}"), else 0. */
static size_t class_name(const char *p, size_t n) {
    if (n < 3 || p[0] != '{' || !strchr("LMNPSZ", p[1])) return 0;
    if (p[2] == '}') return 3;
    return n >= 4 && p[2] >= 'a' && p[2] <= 'z' && p[3] == '}' ? 4 : 0;
}

static void put_drift(Str *out, const char *name, size_t len) {
    for (int i = 0; i < COUNT_OF(drift); i++)
        if (drift[i].category[0] == name[1] && (len == 3 || drift[i].category[1] == name[2]))
            str_printf(out, "\\x{%X}-\\x{%X}", drift[i].first, drift[i].last);
}

/* One escape at p[0] == '\\'; returns its length. A negated class inside brackets cannot be narrowed by PCRE2's syntax
 * and stays as it is: such patterns split the new code points as Unicode 14 does. */
static size_t rewrite_escape(Str *out, const char *p, size_t n, bool in_class, bool wide) {
    if (n >= 2 && (p[1] == 's' || p[1] == 'S')) {
        str_put(out, p[1] == 's' ? "\\p{White_Space}" : "\\P{White_Space}");
        return 2;
    }
    bool negated = n >= 2 && p[1] == 'P';
    size_t used = wide && n >= 3 && (p[1] == 'p' || negated) ? class_name(p + 2, n - 2) : 0;
    if (used == 0 || (negated && in_class)) {
        size_t len = n < 2 ? n : 2;
        str_putn(out, p, len);
        return len;
    }
    if (!in_class) str_put(out, negated ? "[^" : "[");
    str_put(out, "\\p");
    str_putn(out, p + 2, used);
    put_drift(out, p + 2, used);
    if (!in_class) str_putc(out, ']');
    return 2 + used;
}

/* Syntax that PCRE2 would take for something else than Ruby's, which tokenizers' patterns are in. */
static bool same_meaning(const char *p, size_t n, size_t i, bool in_class, Error *err) {
    if (p[i] == '\\' && i + 1 < n) {
        bool brace = i + 2 < n && p[i + 2] == '{';
        if (strchr("hHvVQE", p[i + 1]) || (strchr("pP", p[i + 1]) && !brace))
            return error_set(err, ERR_FORMAT, "pattern: \\%c at byte %zu means other things to other engines", p[i + 1],
                             i);
    } else if (in_class && i + 1 < n && ((p[i] == '[' && p[i + 1] != ':') || (p[i] == '&' && p[i + 1] == '&')))
        return error_set(err, ERR_FORMAT, "pattern: a set inside a bracket class at byte %zu is not supported", i);
    else if (!in_class && i + 2 < n && p[i] == '(' && p[i + 1] == '?') {
        size_t flag = i + 2;
        while (flag < n && (p[flag] == 'i' || p[flag] == 'x' || p[flag] == '-')) flag++;
        if (flag < n && p[flag] >= 'a' && p[flag] <= 'z')
            return error_set(err, ERR_FORMAT, "pattern: option '%c' at byte %zu means other things to other engines",
                             p[flag], flag);
    }
    return true;
}

static bool rewrite(Str *out, const char *p, size_t n, bool wide, Error *err) {
    bool in_class = false;
    size_t class_at = 0; /* where a ']' would still be a literal */
    for (size_t i = 0; i < n;) {
        if (!same_meaning(p, n, i, in_class, err)) return false;
        if (p[i] == '\\') {
            i += rewrite_escape(out, p + i, n - i, in_class, wide);
            continue;
        }
        if (in_class && p[i] == '[') { /* [:alpha:] as it stands */
            const char *close = memchr(p + i, ']', n - i);
            size_t len = close ? (size_t)(close - (p + i)) + 1 : n - i;
            str_putn(out, p + i, len);
            i += len;
            continue;
        }
        if (!in_class && p[i] == '[') {
            in_class = true;
            class_at = i + 1 < n && p[i + 1] == '^' ? i + 2 : i + 1;
        } else if (in_class && p[i] == ']' && i > class_at)
            in_class = false;
        str_putc(out, p[i++]);
    }
    return true;
}

/* ---- compiling ---- */

static pcre2_code *compile(const char *pattern, size_t n, bool wide, bool *jit, Error *err) {
    Str text = {0};
    pcre2_code *code = NULL;
    if (!rewrite(&text, pattern, n, wide, err)) goto out;
    /* Ruby's syntax, which these patterns are in: ^ and $ match at every line, lines end in LF alone. */
    pcre2_compile_context *ctx = pcre2_compile_context_create(NULL);
    CHECK(ctx, "out of memory");
    pcre2_set_newline(ctx, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(ctx, 50);
    int number;
    PCRE2_SIZE at;
    code = pcre2_compile((PCRE2_SPTR)str_get(&text), text.n,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &number, &at, ctx);
    pcre2_compile_context_free(ctx);
    if (!code) {
        PCRE2_UCHAR why[160];
        pcre2_get_error_message(number, why, sizeof why);
        error_set(err, ERR_FORMAT, "pattern: %s at byte %zu of '%.200s'", (char *)why, (size_t)at, str_get(&text));
        goto out;
    }
    *jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
out:
    str_release(&text);
    return code;
}

bool splitter_open(Splitter **out, const char *pattern, size_t n, Error *err) {
    SplitKnown known = split_known(pattern, n);
    if (known == SPLIT_BY_REGEX) return splitter_open_regex(out, pattern, n, err);
    Splitter *s = mem_alloc(sizeof *s);
    s->known = known;
    s->table = mem_alloc(sizeof *s->table);
    char_table_fill(s->table);
    *out = s;
    return true;
}

bool splitter_open_regex(Splitter **out, const char *pattern, size_t n, Error *err) {
    Splitter *s = mem_alloc(sizeof *s);
    s->narrow = compile(pattern, n, false, &s->jit_narrow, err);
    s->wide = s->narrow ? compile(pattern, n, true, &s->jit_wide, err) : NULL;
    if (!s->wide) {
        splitter_close(s);
        return false;
    }
    *out = s;
    return true;
}

void splitter_close(Splitter *s) {
    if (!s) return;
    pcre2_code_free(s->narrow);
    pcre2_code_free(s->wide);
    free(s->table);
    free(s);
}

/* ---- walking ---- */

/* Length of the well-formed character at p (no surrogates, no overlong forms), 0 if there is none. */
static size_t utf8_char(const unsigned char *p, size_t n, uint32_t *c) {
    if (p[0] < 0x80) {
        *c = p[0];
        return 1;
    }
    size_t len = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || n < len) return 0;
    uint32_t v = p[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xC0) != 0x80) return 0;
        v = v << 6 | (p[i] & 0x3Fu);
    }
    if ((len == 3 && (v < 0x800 || (v >= 0xD800 && v < 0xE000))) || (len == 4 && (v < 0x10000 || v > 0x10FFFF)))
        return 0;
    *c = v;
    return len;
}

/* Bytes from p that are well-formed; *wide (if asked): they hold a code point newer than PCRE2's tables. */
static size_t utf8_stretch(const char *s, size_t n, bool *wide) {
    const unsigned char *p = (const unsigned char *)s;
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= 8 && (memcpy(&eight, p + i, 8), !(eight & 0x8080808080808080u))) {
            i += 8;
            continue;
        }
        uint32_t c;
        size_t len = utf8_char(p + i, n - i, &c);
        if (len == 0) break;
        if (len >= 3 && wide) *wide = *wide || is_drift(c);
        i += len;
    }
    return i;
}

void pieces_open(PieceWalk *w, const Splitter *split) {
    *w = (PieceWalk){.split = split};
    if (split->known != SPLIT_BY_REGEX) return;
    w->match = pcre2_match_data_create(1, NULL);
    CHECK(w->match, "out of memory");
}

void pieces_close(PieceWalk *w) { pcre2_match_data_free(w->match); }

void pieces_text(PieceWalk *w, const char *s, size_t n) {
    w->s = s;
    w->n = n;
    w->at = w->stretch = w->end = w->match_s = w->match_e = w->search = 0;
}

/* Next match at or behind search, in this stretch. A pattern that exhausts PCRE2's limits leaves the rest of the
 * stretch one piece: outside patterns can do that, and encoding has no way to fail; every byte still arrives. */
static bool find(PieceWalk *w) {
    const pcre2_code *code = w->wide ? w->split->wide : w->split->narrow;
    PCRE2_SPTR subject = (PCRE2_SPTR)w->s + w->stretch;
    size_t len = w->end - w->stretch, from = w->search - w->stretch;
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (w->wide ? w->split->jit_wide : w->split->jit_narrow)
        rc = pcre2_jit_match(code, subject, len, from, PCRE2_NO_UTF_CHECK, w->match, NULL);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(code, subject, len, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->match, NULL);
    if (rc < 0) return false;
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(w->match);
    w->match_s = w->stretch + at[0];
    w->match_e = w->stretch + at[1];
    return w->match_s >= w->search && w->match_e >= w->match_s && w->match_e <= w->end; /* \K can turn them round */
}

/* Empty matches cut but give no piece; after one the search goes on one character later, as Oniguruma's iterator does.
 */
static bool find_cut(PieceWalk *w) {
    while (find(w)) {
        w->search = w->match_e;
        if (w->match_e > w->match_s) return true;
        if (w->match_e >= w->end) return false;
        uint32_t c;
        w->search += utf8_char((const unsigned char *)w->s + w->match_e, w->end - w->match_e, &c);
        if (w->match_s > w->at) return true;
    }
    return false;
}

static size_t regex_piece(PieceWalk *w) {
    if (w->match_e <= w->at && !w->dry) w->dry = !find_cut(w);
    return (w->dry ? w->end : w->match_s > w->at ? w->match_s : w->match_e) - w->at;
}

int pieces_next(PieceWalk *w, const char **first, size_t len[PIECES]) {
    bool regex = w->split->known == SPLIT_BY_REGEX;
    *first = w->s + w->at;
    if (w->at == w->n) return 0;
    if (w->at == w->end) {
        w->wide = w->dry = false;
        size_t n = utf8_stretch(w->s + w->at, w->n - w->at, regex ? &w->wide : NULL);
        if (n == 0) {
            w->end = ++w->at;
            len[0] = 1;
            return 1;
        }
        w->stretch = w->search = w->at;
        w->end = w->at + n;
        w->match_e = 0;
    }
    int k = 0;
    if (regex) {
        for (; k < PIECES && w->at < w->end; k++) w->at += len[k] = regex_piece(w);
    } else {
        int n_piece = split_known_pieces(w->split->table, w->split->known, *first, w->end - w->at, len, PIECES);
        for (; k < n_piece; k++) w->at += len[k];
    }
    return k;
}
