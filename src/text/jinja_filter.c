/* jinja_filter.c — filters of texts and numbers, and the tables of all. */
#include "text/jinja_int.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- text ---- */

static JVal filter_upper(Jx *x, JVal v, const JVal *arg) { return (void)arg, jx_case(x, jx_text(x, v), CASE_UPPER); }
static JVal filter_lower(Jx *x, JVal v, const JVal *arg) { return (void)arg, jx_case(x, jx_text(x, v), CASE_LOWER); }
static JVal filter_string(Jx *x, JVal v, const JVal *arg) { return (void)arg, jx_text(x, v); }
static JVal filter_safe(Jx *x, JVal v, const JVal *arg) { return (void)arg, jx_markup(x, jx_text(x, v), true); }
static JVal filter_escape(Jx *x, JVal v, const JVal *arg) { return (void)arg, jx_escape(x, v); }
static JVal filter_capitalize(Jx *x, JVal v, const JVal *arg) {
    return (void)arg, jx_case(x, jx_text(x, v), CASE_CAPITAL);
}
static JVal filter_forceescape(Jx *x, JVal v, const JVal *arg) {
    return (void)arg, jx_escape(x, jx_markup(x, jx_text(x, v), false));
}
static JVal filter_trim(Jx *x, JVal v, const JVal *arg) { return jx_strip(x, jx_text(x, v), arg[0], STRIP_BOTH); }

static JVal filter_replace(Jx *x, JVal v, const JVal *arg) {
    int64_t count = -1;
    if (j_given(arg[2]) && arg[2].kind != J_NONE && !jx_int(x, arg[2], &count, "replace()")) return j_none();
    return jx_replace(x, jx_markup(x, jx_text(x, v), false), jx_text(x, arg[0]), jx_text(x, arg[1]), count);
}

static JVal filter_center(Jx *x, JVal v, const JVal *arg) {
    int64_t width = 80;
    if (j_given(arg[0]) && !jx_int(x, arg[0], &width, "width")) return j_none();
    return jx_center(x, jx_text(x, v), width, ' ', 0);
}

/* Words begin after blanks and ( [ { < -. */
static JVal filter_title(Jx *x, JVal v, const JVal *arg) {
    JVal text = jx_text(x, v);
    const JStr *s = text.u.str;
    Str out = {0};
    size_t len;
    (void)arg;
    for (size_t i = 0; i < s->n && jx_step(x, 1);) {
        size_t first, to = i;
        uint32_t c = j_char(s->s + i, s->n - i, &first);
        while (to < s->n) {
            c = j_char(s->s + to, s->n - to, &len);
            if (j_is_space(c) || (c && c < 0x80 && strchr("-({[<", (int)c))) break;
            to += len;
        }
        if (to > i) {
            j_put_case(&out, s->s + i, first, CASE_UPPER);
            j_put_case(&out, s->s + i + first, to - i - first, CASE_LOWER);
            i = to;
        } else {
            str_putn(&out, s->s + i, first);
            i += first;
        }
    }
    return jx_take(x, &out);
}

static JVal filter_indent(Jx *x, JVal v, const JVal *arg) {
    JVal with = jx_strz(x, "    ");
    if (j_given(arg[0])) with = arg[0].kind == J_STR ? arg[0] : jx_arith(x, N_MUL, jx_strz(x, " "), arg[0]);
    if (v.kind != J_STR) return jx_arith(x, N_ADD, v, jx_strz(x, "\n")); /* which fails as there */
    JVal text = jx_arith(x, N_ADD, v, jx_strz(x, "\n")), lines = jx_lines(x, text, false);
    bool first = j_given(arg[1]) && j_truth(arg[1]), blank = j_given(arg[2]) && j_truth(arg[2]);
    if (x->failed) return j_none();
    Str out = {0};
    for (size_t i = 0; i < lines.u.list->n && jx_step(x, (int64_t)with.u.str->n / 64); i++) {
        const JStr *line = lines.u.list->item[i].u.str;
        if (i > 0) str_putc(&out, '\n');
        if (i == 0 ? first : blank || line->n > 0) str_putn(&out, with.u.str->s, with.u.str->n);
        str_putn(&out, line->s, line->n);
    }
    return jx_markup(x, jx_take(x, &out), v.u.str->markup);
}

static JVal filter_truncate(Jx *x, JVal v, const JVal *arg) {
    int64_t length = 255, leeway = 5, n;
    JVal end = j_given(arg[2]) ? arg[2] : jx_strz(x, "...");
    if (j_given(arg[0]) && !jx_int(x, arg[0], &length, "truncate()")) return j_none();
    if (j_given(arg[3]) && arg[3].kind != J_NONE && !jx_int(x, arg[3], &leeway, "truncate()")) return j_none();
    if (end.kind != J_STR || length < (int64_t)end.u.str->n_char || leeway < 0)
        return jx_fail(x, "truncate(): expected a length of at least that of the end, and a leeway of at least 0");
    if (!jx_len(x, v, &n) || n <= length + leeway) return v;
    JVal part[3] = {j_none(), j_int(length - (int64_t)end.u.str->n_char), j_none()};
    JVal cut = jx_slice(x, v, part);
    if (cut.kind == J_STR && !(j_given(arg[1]) && j_truth(arg[1]))) {
        JVal pieces = jx_split(x, cut, jx_strz(x, " "), 1, true);
        if (!x->failed) cut = pieces.u.list->item[0];
    }
    return x->failed ? j_none() : jx_arith(x, N_ADD, cut, end);
}

static JVal filter_wordcount(Jx *x, JVal v, const JVal *arg) {
    JVal text = jx_text(x, v);
    int64_t n = 0;
    bool inside = false;
    size_t len;
    (void)arg;
    for (size_t i = 0; i < text.u.str->n; i += len) {
        bool word = j_is_word(j_char(text.u.str->s + i, text.u.str->n - i, &len));
        n += word && !inside;
        inside = word;
    }
    return j_int(n);
}

static JVal filter_format(Jx *x, JVal v, const JArgs *a) {
    if (a->n_pos && a->n_kw) return jx_fail(x, "can't handle positional and keyword arguments at the same time");
    JList *pos = jx_list(x, (size_t)a->n_pos);
    JDict *kw = jx_dict(x);
    for (int i = 0; i < a->n_pos; i++) jx_add(x, pos, a->pos[i]);
    for (int i = 0; i < a->n_kw; i++) jx_dict_set(x, kw, j_str(a->kw[i]), a->kw_value[i]);
    return jx_percent(x, jx_text(x, v), a->n_kw ? j_dict(kw) : j_tuple(pos));
}

/* ---- markup ---- */

/* Out go the stretches from open to close. */
static void cut_between(Str *s, const char *open, const char *close) {
    size_t from = 0;
    for (char *a; s->n && (a = memmem(s->s + from, s->n - from, open, strlen(open)));) {
        size_t at = (size_t)(a - s->s);
        char *b = memmem(a, s->n - at, close, strlen(close));
        if (!b) break;
        b += strlen(close);
        memmove(a, b, s->n - (size_t)(b - s->s) + 1);
        s->n -= (size_t)(b - a);
        from = at >= 4 ? at - 4 : 0; /* what is left may form a new opening */
    }
}

static void put_unescaped(Str *out, const char *s, size_t n) {
    static const struct {
        const char *entity;
        char c;
    } named[] = {{"&amp;", '&'},  {"&lt;", '<'},  {"&gt;", '>'},   {"&quot;", '"'},
                 {"&#39;", '\''}, {"&#34;", '"'}, {"&apos;", '\''}};
    for (size_t i = 0; i < n; i++) {
        int k = 0;
        while (k < COUNT_OF(named) &&
               (i + strlen(named[k].entity) > n || memcmp(s + i, named[k].entity, strlen(named[k].entity))))
            k++;
        str_putc(out, k < COUNT_OF(named) ? named[k].c : s[i]);
        if (k < COUNT_OF(named)) i += strlen(named[k].entity) - 1;
    }
}

static JVal filter_striptags(Jx *x, JVal v, const JVal *arg) {
    JVal text = jx_text(x, v);
    Str s = {0}, out = {0};
    (void)arg;
    if (text.u.str->n > 1 << 16) return jx_fail(x, "striptags of more than %d bytes is not supported", 1 << 16);
    jx_step(x, (int64_t)text.u.str->n);
    str_putn(&s, text.u.str->s, text.u.str->n);
    cut_between(&s, "<!--", "-->");
    cut_between(&s, "<", ">");
    JVal words = jx_join(x, jx_strz(x, " "), jx_split(x, jx_take(x, &s), j_missing(), -1, false), true);
    put_unescaped(&out, words.kind == J_STR ? words.u.str->s : "", words.kind == J_STR ? words.u.str->n : 0);
    return jx_take(x, &out);
}

static JVal filter_xmlattr(Jx *x, JVal v, const JVal *arg) {
    Str out = {0};
    if (v.kind == J_UNDEF) return jx_undef_error(x, v);
    if (v.kind != J_DICT) return jx_fail(x, "'%s' object has no attribute 'items'", j_type(v));
    for (size_t i = 0; i < v.u.dict->n && !x->failed; i++) {
        JVal key = v.u.dict->key[i], value = v.u.dict->value[i];
        if (value.kind == J_NONE || value.kind == J_UNDEF) continue;
        if (key.kind != J_STR || strpbrk(key.u.str->s, " \t\n\r\f\v/>="))
            jx_fail(x, "Invalid character in attribute name");
        if (out.n || !(j_given(arg[0]) && !j_truth(arg[0]))) str_putc(&out, ' ');
        jx_put(x, &out, jx_escape(x, key));
        str_put(&out, "=\"");
        jx_put(x, &out, jx_escape(x, value));
        str_putc(&out, '"');
    }
    return jx_take(x, &out);
}

static void put_quoted(Jx *x, Str *out, JVal v, bool query) {
    JVal text = jx_text(x, v);
    for (size_t i = 0; i < text.u.str->n && jx_step(x, 1); i++) {
        unsigned char c = (unsigned char)text.u.str->s[i];
        if ((c < 0x80 && isalnum(c)) || (c && strchr("_.-~", c)) || (c == '/' && !query))
            str_putc(out, (char)c);
        else if (c == ' ' && query)
            str_putc(out, '+');
        else
            str_printf(out, "%%%02X", c);
    }
}

static JVal filter_urlencode(Jx *x, JVal v, const JVal *arg) {
    Str out = {0};
    JVal pair;
    (void)arg;
    if (v.kind == J_STR || !j_iterable(v)) {
        put_quoted(x, &out, v, false);
        return jx_take(x, &out);
    }
    if (v.kind == J_DICT) { /* its items */
        JArgs none = {0};
        static const JStr items = {"items", 5, 5, false};
        v = jx_call(x, jx_getattr(x, v, &items), &none);
    }
    JIter *it = jx_iter(x, v);
    while (jx_next(x, it, &pair)) {
        JList *l = j_iterable(pair) ? jx_collect(x, pair) : NULL;
        if (!l || l->n != 2) {
            jx_fail(x, "urlencode needs pairs");
            break;
        }
        if (out.n) str_putc(&out, '&');
        put_quoted(x, &out, l->item[0], true);
        str_putc(&out, '=');
        put_quoted(x, &out, l->item[1], true);
    }
    return jx_take(x, &out);
}

/* ---- numbers ---- */

static JVal filter_abs(Jx *x, JVal v, const JVal *arg) { return (void)arg, jx_abs(x, v); }

static JVal filter_int(Jx *x, JVal v, const JVal *arg) {
    JVal otherwise = j_given(arg[0]) ? arg[0] : j_int(0);
    int64_t base = 10;
    bool ok = false;
    double f;
    if (v.kind == J_UNDEF) return jx_undef_error(x, v);
    if (v.kind == J_BOOL) return j_int(v.u.b);
    if (j_integer(v)) return v;
    if (v.kind == J_FLOAT) return isnan(v.u.f) ? otherwise : jx_whole(x, v.u.f);
    if (v.kind != J_STR) return otherwise;
    if (j_given(arg[1])) base = arg[1].kind == J_BOOL ? arg[1].u.b : arg[1].kind == J_INT ? arg[1].u.i : -1; /* none */
    if (base == 0 || (base >= 2 && base <= 36)) {
        JVal i = jx_parse_int(x, v.u.str->s, v.u.str->n, (int)base, &ok);
        if (ok) return i;
    }
    return j_parse_float(v.u.str->s, v.u.str->n, &f) && isfinite(f) ? jx_whole(x, f) : otherwise;
}

static JVal filter_float(Jx *x, JVal v, const JVal *arg) {
    double f;
    if (v.kind == J_UNDEF) return jx_undef_error(x, v);
    if (j_number(v)) return j_float_of(v, &f) ? j_float(f) : jx_fail(x, "int too large to convert to float");
    if (v.kind == J_STR && j_parse_float(v.u.str->s, v.u.str->n, &f)) return j_float(f);
    return j_given(arg[0]) ? arg[0] : j_float(0);
}

static JVal filter_round(Jx *x, JVal v, const JVal *arg) {
    int64_t digits = 0;
    static const char *const method[] = {"common", "ceil", "floor"};
    int m = 0;
    double f;
    if (j_given(arg[1])) {
        JVal name = jx_text(x, arg[1]);
        while (m < 3 && strcmp(method[m], name.u.str->s)) m++;
        if (m == 3) return jx_fail(x, "method must be common, ceil or floor");
    }
    if (m == 0 && j_given(arg[0]) && arg[0].kind == J_NONE) /* round(v, None) of Python: a whole number */
        return v.kind == J_FLOAT ? jx_whole(x, jx_round(x, v, 0).u.f) : jx_round(x, v, 0);
    if (j_given(arg[0]) && !jx_int(x, arg[0], &digits, "round()")) return j_none();
    if (digits > 5000 || digits < -5000) return jx_fail(x, "round() to %lld digits", (long long)digits);
    if (m == 0) return jx_round(x, v, (int)digits);
    JVal unit = jx_arith(x, N_POW, j_int(10), j_int(digits)), scaled = jx_arith(x, N_MUL, v, unit);
    if (x->failed) return j_none();
    if (scaled.kind == J_FLOAT) {
        f = m == 1 ? ceil(scaled.u.f) : floor(scaled.u.f);
        scaled = jx_whole(x, f);
    } else if (!j_integer(scaled))
        return jx_fail(x, "must be real number, not %s", j_type(scaled));
    return jx_arith(x, N_DIV, scaled, unit);
}

static JVal filter_filesizeformat(Jx *x, JVal v, const JVal *arg) {
    static const char *const name[2][8] = {{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"},
                                           {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}};
    bool binary = j_given(arg[0]) && j_truth(arg[0]);
    double bytes = 0, base = binary ? 1024 : 1000, unit = base;
    char text[400]; /* 1e308 bytes are 285 digits of YB */
    if (v.kind == J_UNDEF) return jx_undef_error(x, v);
    if (!(j_number(v) && j_float_of(v, &bytes)) && !(v.kind == J_STR && j_parse_float(v.u.str->s, v.u.str->n, &bytes)))
        return jx_fail(x, "could not convert %s to float", j_type(v));
    if (bytes == 1) return jx_strz(x, "1 Byte");
    if (bytes < base) {
        snprintf(text, sizeof text, "%.0f Bytes", trunc(bytes) + 0.0); /* no -0 */
        return jx_strz(x, text);
    }
    int i = 0;
    for (unit *= base; i < 7 && bytes >= unit; i++) unit *= base;
    snprintf(text, sizeof text, "%.1f %s", base * bytes / unit, name[binary][i]);
    return jx_strz(x, text);
}

/* ---- JSON ---- */

static bool separators(Jx *x, JVal v, JsonStyle *s) {
    if (!j_given(v) || v.kind == J_NONE) return true;
    JList *l = j_iterable(v) ? jx_collect(x, v) : NULL;
    if (!l || l->n != 2 || l->item[0].kind != J_STR || l->item[1].kind != J_STR) {
        jx_fail(x, "tojson: separators must be two texts");
        return false;
    }
    s->item = l->item[0].u.str;
    s->colon = l->item[1].u.str;
    return true;
}

static JVal filter_tojson(Jx *x, JVal v, const JVal *arg) {
    JsonStyle s = {.ascii = j_given(arg[0]) && j_truth(arg[0]), .sort = j_given(arg[3]) && j_truth(arg[3])};
    s.pretty = j_given(arg[1]) && arg[1].kind != J_NONE;
    s.item = jx_strz(x, s.pretty ? "," : ", ").u.str;
    s.colon = jx_strz(x, ": ").u.str;
    if (s.pretty) {
        JVal indent = arg[1].kind == J_STR ? arg[1] : jx_arith(x, N_MUL, jx_strz(x, " "), arg[1]);
        if (x->failed || indent.kind != J_STR) return x->failed ? j_none() : jx_fail(x, "tojson: a strange indent");
        if (indent.u.str->n > 1000) return jx_fail(x, "tojson: an indent of %zu bytes", indent.u.str->n);
        s.indent = indent.u.str;
    }
    if (!separators(x, arg[2], &s)) return j_none();
    Str out = {0};
    jx_put_json(x, &out, v, &s);
    return jx_take(x, &out);
}

static JVal filter_refused(Jx *x, JVal v, const JArgs *a) {
    (void)v, (void)a;
    return jx_fail(x, "this filter is not supported");
}

/* ---- the tables ---- */

// clang-format off
const FilterRow filters_text[] = {
    {"trim", filter_trim, "chars?", NULL}, {"tojson", filter_tojson, "ensure_ascii? indent? separators? sort_keys?", NULL},
    {"string", filter_string, "", NULL}, {"upper", filter_upper, "", NULL}, {"lower", filter_lower, "", NULL},
    {"safe", filter_safe, "", NULL}, {"replace", filter_replace, "old new count?", NULL}, {"title", filter_title, "", NULL},
    {"capitalize", filter_capitalize, "", NULL}, {"indent", filter_indent, "width? first? blank?", NULL},
    {"int", filter_int, "default? base?", NULL}, {"float", filter_float, "default?", NULL}, {"abs", filter_abs, "", NULL},
    {"round", filter_round, "precision? method?", NULL}, {"format", NULL, NULL, filter_format},
    {"center", filter_center, "width?", NULL}, {"truncate", filter_truncate, "length? killwords? end? leeway?", NULL},
    {"wordcount", filter_wordcount, "", NULL}, {"escape", filter_escape, "", NULL}, {"e", filter_escape, "", NULL},
    {"forceescape", filter_forceescape, "", NULL}, {"striptags", filter_striptags, "", NULL},
    {"xmlattr", filter_xmlattr, "autospace?", NULL}, {"urlencode", filter_urlencode, "", NULL},
    {"filesizeformat", filter_filesizeformat, "binary?", NULL},
    {"wordwrap", jx_wordwrap, "width? break_long_words? wrapstring? break_on_hyphens?", NULL}, {"pprint", jx_pprint, "", NULL},
    /* known, so that a template naming them is one; an error when used */
    {"random", NULL, NULL, filter_refused}, {"urlize", NULL, NULL, filter_refused}, {0}};
// clang-format on

/* Rows of both tables by one number. */
static const FilterRow *filter_row(int row) {
    int n = 0;
    while (filters_text[n].name) n++;
    return row < n ? &filters_text[row] : &filters_seq[row - n];
}

int j_find_filter(const JStr *name) {
    int at = 0;
    for (int t = 0; t < 2; t++) {
        for (const FilterRow *f = t ? filters_seq : filters_text; f->name; f++, at++)
            if (strlen(f->name) == name->n && memcmp(f->name, name->s, name->n) == 0) return at;
    }
    return -1;
}

JVal jx_filter(Jx *x, int row, JVal v, const JArgs *a) {
    const FilterRow *f = filter_row(row);
    JVal arg[MAX_BOUND];
    if (f->raw == filter_refused) return jx_fail(x, "the filter '%s' is not supported", f->name);
    if (f->raw) return f->raw(x, v, a);
    if (!jx_bind(x, f->name, f->spec, BIND_ANY, a, arg)) return j_none();
    return f->fn(x, v, arg);
}

JVal jx_filter_named(Jx *x, JVal name, JVal v, const JArgs *a) {
    int row = name.kind == J_STR ? j_find_filter(name.u.str) : -1;
    if (row >= 0) return jx_filter(x, row, v, a);
    JVal text = jx_text(x, name);
    return jx_fail(x, "No filter named '%.60s'.", text.u.str->s);
}
