/* jinja_layout.c — the filters that lay text out in lines: wordwrap as Python's textwrap does it, pprint as its pprint.
 */
#include "text/jinja_int.h"

#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* ---- wordwrap ---- */

/* textwrap's pieces of a line: blanks; dashes between words; words, which end behind a hyphen between letters. */
#define WS "[\\t\\n\\x0b\\x0c\\r ]"
#define LETTER "[^\\d\\W]"
#define WORD_PUNCT "[\\w!\"'&.,?]"
static const char hyphen_pattern[] =
    WS "+|(?<=" WORD_PUNCT ")-{2,}(?=\\w)|[^\\t\\n\\x0b\\x0c\\r ]+?(?:-(?:(?<=" LETTER "{2}-)|(?<=" LETTER "-" LETTER
       "-))(?=" LETTER "-?" LETTER ")|(?=" WS "|\\z)|(?<=" WORD_PUNCT ")(?=-{2,}\\w))";
static const char blank_pattern[] = WS "+";

static JVal piece(Jx *x, const char *s, size_t n) { return j_str(jx_str_own(x, s, n)); }

static JList *pieces_of(Jx *x, const JStr *line, bool hyphens) {
    JList *l = jx_list(x, 0);
    int code;
    size_t offset, at = 0;
    const char *pattern = hyphens ? hyphen_pattern : blank_pattern;
    pcre2_code *re =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &offset, NULL);
    CHECK(re, "the pattern of wordwrap: error %d at %zu", code, offset);
    pcre2_match_data *m = pcre2_match_data_create_from_pattern(re, NULL);
    size_t bad;
    if (!str_utf8_valid(line->s, line->n, &bad)) jx_fail(x, "a lone surrogate in a text to wrap");
    while (at < line->n && jx_step(x, 1)) {
        if (pcre2_match(re, (PCRE2_SPTR)line->s, line->n, at, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, m, NULL) < 1) break;
        size_t from = pcre2_get_ovector_pointer(m)[0], to = pcre2_get_ovector_pointer(m)[1];
        if (from > at) jx_add(x, l, piece(x, line->s + at, from - at));
        jx_add(x, l, piece(x, line->s + from, to - from));
        at = to;
    }
    if (at < line->n) jx_add(x, l, piece(x, line->s + at, line->n - at));
    pcre2_match_data_free(m);
    pcre2_code_free(re);
    return l;
}

static bool blank(JVal v) {
    size_t len;
    for (size_t i = 0; i < v.u.str->n; i += len)
        if (!j_is_space(j_char(v.u.str->s + i, v.u.str->n - i, &len))) return false;
    return true;
}

typedef struct {
    int64_t width;
    bool long_words, hyphens;
    const JStr *newline;
} Wrap;

/* How much of a word too long for its line goes there: what there is room for, or up to a hyphen. */
static size_t word_part(const JStr *s, int64_t room, const Wrap *w) {
    size_t end = j_offset(s, (size_t)room < s->n_char ? (size_t)room : s->n_char);
    for (size_t i = end; w->hyphens && i-- > 1;) {
        if (s->s[i] != '-') continue;
        for (size_t k = 0; k < i; k++)
            if (s->s[k] != '-') return i + 1;
        break;
    }
    return end;
}

static void put_line(Str *out, const JList *l, size_t from, size_t to, const Wrap *w, bool first) {
    if (!first) str_putn(out, w->newline->s, w->newline->n);
    for (size_t i = from; i < to; i++) str_putn(out, l->item[i].u.str->s, l->item[i].u.str->n);
}

static void wrap_line(Jx *x, Str *out, const JStr *line, const Wrap *w) {
    JList *l = pieces_of(x, line, w->hyphens);
    bool first = true;
    for (size_t at = 0; at < l->n && jx_step(x, 1);) {
        if (!first && blank(l->item[at])) at++;
        size_t from = at;
        int64_t used = 0;
        while (at < l->n && used + (int64_t)l->item[at].u.str->n_char <= w->width)
            used += (int64_t)l->item[at++].u.str->n_char;
        size_t to = at;
        bool full = false; /* a long word finds no room at all: then the blank before it stays, as there */
        const JStr *s = at < l->n ? l->item[at].u.str : NULL;
        if (s && (int64_t)s->n_char > w->width) {
            size_t cut = w->long_words ? word_part(s, w->width - used, w) : at == from ? s->n : 0;
            if (cut > 0) { /* the rest takes the place of the word, its beginning that of what is done */
                JVal rest = piece(x, s->s + cut, s->n - cut), part = piece(x, s->s, cut);
                bool drop = blank(part);
                if (to > from || !drop) {
                    put_line(out, l, from, to, w, first);
                    if (!drop) str_putn(out, s->s, cut);
                    first = false;
                }
                l->item[at] = rest;
                if (rest.u.str->n == 0) at++;
                continue;
            }
            full = w->long_words;
        }
        if (!full && to > from && blank(l->item[to - 1])) to--;
        if (to > from) {
            put_line(out, l, from, to, w, first);
            first = false;
        }
    }
}

static bool flag(JVal v, bool otherwise) { return j_given(v) ? j_truth(v) : otherwise; }

JVal jx_wordwrap(Jx *x, JVal v, const JVal *arg) {
    Wrap w = {79, flag(arg[1], true), flag(arg[3], true), jx_strz(x, "\n").u.str};
    Str out = {0};
    if (v.kind != J_STR)
        return v.kind == J_UNDEF ? jx_undef_error(x, v)
                                 : jx_fail(x, "'%s' object has no attribute 'splitlines'", j_type(v));
    if (j_given(arg[0]) && !jx_int(x, arg[0], &w.width, "wordwrap()")) return j_none();
    if (j_given(arg[2]) && arg[2].kind == J_STR) w.newline = arg[2].u.str;
    JVal lines = jx_lines(x, v, false);
    if (w.width <= 0 && lines.u.list->n > 0) return jx_fail(x, "invalid width %lld (must be > 0)", (long long)w.width);
    for (size_t i = 0; i < lines.u.list->n && !x->failed; i++) {
        if (i > 0) str_putn(&out, w.newline->s, w.newline->n);
        wrap_line(x, &out, lines.u.list->item[i].u.str, &w);
    }
    return jx_take(x, &out);
}

/* ---- pprint ---- */

enum { PRETTY_WIDTH = 80 };

/* Maps by key; where keys have no order, by the name of their type. */
static JVal sorted_keys(Jx *x, JVal v) {
    if (v.kind != J_DICT) return v;
    const JDict *d = v.u.dict;
    JDict *s = jx_dict(x);
    size_t *order = heap_alloc(&x->heap, (d->n + 1) * sizeof *order);
    for (size_t i = 0; i < d->n; i++) {
        size_t at = i;
        for (; at > 0 && jx_step(x, 1); at--) {
            JVal a = d->key[i], b = d->key[order[at - 1]];
            bool comparable = (j_number(a) && j_number(b)) || (a.kind == b.kind && (a.kind == J_STR || j_is_seq(a)));
            if ((comparable ? jx_order(x, a, b) : strcmp(j_type(a), j_type(b))) >= 0) break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    for (size_t i = 0; i < d->n; i++) jx_dict_set(x, s, d->key[order[i]], d->value[order[i]]);
    return j_dict(s);
}

/* A copy with every map sorted. */
static JVal sorted_deep(Jx *x, JVal v) {
    if ((v.kind != J_DICT && !j_is_seq(v)) || !jx_enter(x)) return v;
    v = sorted_keys(x, v);
    if (v.kind == J_DICT)
        for (size_t i = 0; i < v.u.dict->n; i++) v.u.dict->value[i] = sorted_deep(x, v.u.dict->value[i]);
    else {
        JList *l = jx_list(x, v.u.list->n);
        for (size_t i = 0; i < v.u.list->n; i++) jx_add(x, l, sorted_deep(x, v.u.list->item[i]));
        v.u.list = l;
    }
    jx_leave(x);
    return v;
}

static size_t repr_width(Jx *x, JVal v) {
    Str text = {0};
    jx_put_repr(x, &text, v);
    size_t n = j_count(str_get(&text), text.n);
    str_release(&text);
    return n;
}

static void new_line(Str *out, int64_t indent) {
    str_putc(out, '\n');
    for (int64_t i = 0; i < indent; i++) str_putc(out, ' ');
}

static void pretty(Jx *x, Str *out, JVal v, int64_t indent, int64_t allowance, int level);

/* The pieces a long line is cut into: words with the blanks behind them, as many together as there is room for. */
static void pretty_words(Jx *x, JList *chunks, JVal line, int64_t width, int64_t last_width) {
    const JStr *s = line.u.str;
    size_t begin = 0, len;
    for (size_t i = 0; i < s->n && !x->failed;) {
        size_t end = i;
        while (end < s->n && !j_is_space(j_char(s->s + end, s->n - end, &len))) end += len;
        while (end < s->n && j_is_space(j_char(s->s + end, s->n - end, &len))) end += len;
        int64_t room = end == s->n ? last_width : width;
        if ((int64_t)repr_width(x, piece(x, s->s + begin, end - begin)) > room) {
            if (i > begin) jx_add(x, chunks, piece(x, s->s + begin, i - begin));
            begin = i;
        }
        i = end;
    }
    if (begin < s->n) jx_add(x, chunks, piece(x, s->s + begin, s->n - begin));
}

static void pretty_text(Jx *x, Str *out, JVal v, int64_t indent, int64_t allowance, int level) {
    JList *lines = jx_lines(x, jx_markup(x, v, false), true).u.list, *chunks = jx_list(x, 0);
    if (level == 1) indent++, allowance++;
    int64_t width = PRETTY_WIDTH - indent;
    for (size_t i = 0; i < lines->n && !x->failed; i++) {
        bool last = i + 1 == lines->n;
        if ((int64_t)repr_width(x, lines->item[i]) <= width - (last ? allowance : 0))
            jx_add(x, chunks, lines->item[i]);
        else
            pretty_words(x, chunks, lines->item[i], width, width - (last ? allowance : 0));
    }
    if (chunks->n <= 1) {
        jx_put_repr(x, out, v);
        return;
    }
    if (level == 1) str_putc(out, '(');
    for (size_t i = 0; i < chunks->n; i++) {
        if (i > 0) new_line(out, indent);
        jx_put_repr(x, out, chunks->item[i]);
    }
    if (level == 1) str_putc(out, ')');
}

static void pretty_dict(Jx *x, Str *out, const JDict *d, int64_t indent, int64_t allowance, int level) {
    str_putc(out, '{');
    for (size_t i = 0; i < d->n && !x->failed; i++) {
        if (i > 0) {
            str_putc(out, ',');
            new_line(out, indent + 1);
        }
        jx_put_repr(x, out, d->key[i]);
        str_put(out, ": ");
        pretty(x, out, d->value[i], indent + 3 + (int64_t)repr_width(x, d->key[i]), i + 1 == d->n ? allowance + 1 : 1,
               level);
    }
    str_putc(out, '}');
}

static void pretty(Jx *x, Str *out, JVal v, int64_t indent, int64_t allowance, int level) {
    bool compound = v.kind == J_STR || v.kind == J_DICT || j_is_seq(v);
    if (out->n > JINJA_MAX_OUTPUT) jx_fail(x, "a text of more than %d bytes", JINJA_MAX_OUTPUT);
    if (!compound || (int64_t)repr_width(x, v) <= PRETTY_WIDTH - indent - allowance) {
        jx_put_repr(x, out, v);
        return;
    }
    if (!jx_step(x, 1 + indent / 16) || !jx_enter(x)) return;
    if (v.kind == J_STR)
        pretty_text(x, out, v, indent, allowance, level + 1);
    else if (v.kind == J_DICT)
        pretty_dict(x, out, v.u.dict, indent, allowance, level + 1);
    else {
        const JList *l = v.u.list;
        const char *end = v.kind == J_LIST ? "]" : l->n == 1 ? ",)" : ")";
        str_putc(out, v.kind == J_LIST ? '[' : '(');
        for (size_t i = 0; i < l->n && !x->failed; i++) {
            if (i > 0) {
                str_putc(out, ',');
                new_line(out, indent + 1);
            }
            pretty(x, out, l->item[i], indent + 1, i + 1 == l->n ? allowance + (int64_t)strlen(end) : 1, level + 1);
        }
        str_put(out, end);
    }
    jx_leave(x);
}

JVal jx_pprint(Jx *x, JVal v, const JVal *arg) {
    Str out = {0};
    (void)arg;
    v = sorted_deep(x, v);
    if (!x->failed) pretty(x, &out, v, 0, 0, 0);
    return jx_take(x, &out);
}
