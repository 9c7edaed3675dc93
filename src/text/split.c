/* split.c — a text cut into the pieces that are merged one by one.
 *
 * Patterns are run by PCRE2 in two forms, as split_rewrite.c makes them: the wide one knows the code points that are
 * newer than PCRE2's tables; it is slower, so only a stretch that holds one is cut by it. Regexes are run on valid
 * UTF-8 only: a text is first cut into valid stretches, and each byte between them is a piece of its own. The check is
 * done here once, together with the search for new code points, and PCRE2 is told so: otherwise each match would check
 * the rest of the text again, which is quadratic. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/text_int.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

// clang-format off
const char *const split_pattern[2] = {[SPLIT_GPT2] = SPLIT_TEXT_GPT2, [SPLIT_LLAMA3] = SPLIT_TEXT_LLAMA("{1,3}")};
// clang-format on

enum { MATCH_KIB = 256 << 10 }; /* memory of one match */

struct Splitter {
    pcre2_code *narrow, *wide;
    pcre2_match_context *limits;
    bool jit_narrow, jit_wide;
    SplitKnown known;
    CharTable *table; /* of a known pattern */
    char *pattern;
};

/* ---- compiling ---- */

static pcre2_code *compile(const char *pattern, size_t n, bool wide, bool *jit, Error *err) {
    Str text = {0};
    pcre2_code *code = NULL;
    if (!pattern_rewrite(&text, pattern, n, wide, err)) goto out;
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

static Splitter *splitter_new(const char *pattern, size_t n) {
    Splitter *s = mem_alloc(sizeof *s);
    s->pattern = mem_alloc(n + 1);
    memcpy(s->pattern, pattern, n);
    return s;
}

bool splitter_open(Splitter **out, const char *pattern, size_t n, Error *err) {
    SplitKnown known = split_known(pattern, n);
    if (known == SPLIT_BY_REGEX) return splitter_open_regex(out, pattern, n, err);
    Splitter *s = splitter_new(pattern, n);
    s->known = known;
    s->table = mem_alloc(sizeof *s->table);
    char_table_fill(s->table);
    *out = s;
    return true;
}

bool splitter_open_regex(Splitter **out, const char *pattern, size_t n, Error *err) {
    Splitter *s = splitter_new(pattern, n);
    s->narrow = compile(pattern, n, false, &s->jit_narrow, err);
    s->limits = pcre2_match_context_create(NULL);
    CHECK(s->limits, "out of memory");
    pcre2_set_heap_limit(s->limits, MATCH_KIB);
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
    pcre2_match_context_free(s->limits);
    free(s->table);
    free(s->pattern);
    free(s);
}

const char *splitter_pattern(const Splitter *s) { return s->pattern; }

/* ---- walking ---- */

/* *wide (if asked) is set when they hold a code point newer than PCRE2's tables, else left alone. */
size_t utf8_stretch(const char *s, size_t n, bool *wide) {
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
        if (len >= 3 && wide) *wide = *wide || char_is_drift(c);
        i += len;
    }
    return i;
}

static pcre2_match_data *match_data(void) {
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    CHECK(m, "out of memory");
    return m;
}

void match_data_free(void *m) { pcre2_match_data_free(m); }

void pieces_open(PieceWalk *w, const Splitter *split) {
    *w = (PieceWalk){.split = split};
    if (split->known != SPLIT_BY_REGEX) return;
    w->match = match_data();
}

void pieces_close(PieceWalk *w) { pcre2_match_data_free(w->match); }

void pieces_text(PieceWalk *w, const char *s, size_t n) {
    w->s = s;
    w->n = n;
    w->at = w->stretch = w->end = w->match_s = w->match_e = w->search = 0;
}

/* Next match at or behind `from`. A pattern that exhausts PCRE2's limits matches no more in this text: outside patterns
 * can do that, and encoding has no way to fail; every byte still arrives. */
static bool regex_find(const Splitter *split, bool wide, void *match, const char *s, size_t n, size_t from, size_t *at,
                       size_t *end) {
    const pcre2_code *code = wide ? split->wide : split->narrow;
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (wide ? split->jit_wide : split->jit_narrow)
        rc = pcre2_jit_match(code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, match, split->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, split->limits);
    if (rc < 0) return false;
    const PCRE2_SIZE *v = pcre2_get_ovector_pointer(match);
    *at = v[0];
    *end = v[1];
    return *at >= from && *end >= *at && *end <= n; /* \K can turn them round */
}

static bool find(PieceWalk *w) {
    size_t at, end;
    if (!regex_find(w->split, w->wide, w->match, w->s + w->stretch, w->end - w->stretch, w->search - w->stretch, &at,
                    &end))
        return false;
    w->match_s = w->stretch + at;
    w->match_e = w->stretch + end;
    return true;
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

/* ---- all matches ---- */

void matches_put(MatchBuf *b, size_t at, size_t end, bool match) {
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 64;
        b->m = mem_grow(b->m, (size_t)b->cap * sizeof *b->m);
    }
    b->m[b->n++] = (Match){(uint32_t)at, (uint32_t)end, match};
}

static void known_matches(MatchBuf *out, const Splitter *s, const char *text, size_t n) {
    size_t len[PIECES];
    for (size_t at = 0; at < n;) {
        int k = split_known_pieces(s->table, s->known, text + at, n - at, len, PIECES);
        for (int i = 0; i < k; at += len[i++]) matches_put(out, at, at + len[i], true);
    }
}

bool text_is_wide(const char *s, size_t n) {
    bool wide = false;
    utf8_stretch(s, n, &wide);
    return wide;
}

/* An empty match right behind the match before it does not count; the search goes on one character later. That is
 * Oniguruma's iterator. */
void splitter_matches(MatchBuf *out, const Splitter *s, void **match, const char *text, size_t n, bool wide) {
    if (s->known != SPLIT_BY_REGEX) {
        known_matches(out, s, text, n);
        return;
    }
    bool any = false;
    if (!*match) *match = match_data();
    size_t done = 0, from = 0, at, end, len;
    while (from <= n && regex_find(s, wide, *match, text, n, from, &at, &end)) {
        if (at == end && any && end == done) {
            if (from == n) break;
            utf8_at(text + from, &len);
            from += len;
            continue;
        }
        if (at > done) matches_put(out, done, at, false);
        matches_put(out, at, end, true);
        done = from = end;
        any = true;
    }
    if (done < n) matches_put(out, done, n, false);
}
