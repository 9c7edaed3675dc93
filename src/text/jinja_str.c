/* jinja_str.c — methods of text, in code points, as Python's str has them. Markup (what the filters safe and escape
 * give) stays markup and escapes what is joined to it. */
#include "text/jinja_int.h"

#include <string.h>

typedef struct {
    const char *s;
    size_t n;
} Part;

static JVal part(Jx *x, JVal of, const char *s, size_t n) {
    return jx_markup(x, j_str(jx_str_own(x, s, n)), of.u.str->markup);
}

static bool need_text(Jx *x, JVal v, const char *what) {
    if (v.kind == J_STR) return true;
    if (v.kind == J_UNDEF)
        jx_undef_error(x, v);
    else
        jx_fail(x, "%s: must be str, not %s", what, j_type(v));
    return false;
}

/* ---- stripping ---- */

static bool in_chars(const JStr *set, uint32_t c) {
    size_t len;
    if (!set) return j_is_space(c);
    for (size_t i = 0; i < set->n; i += len)
        if (j_char(set->s + i, set->n - i, &len) == c) return true;
    return false;
}

JVal jx_strip(Jx *x, JVal text, JVal chars, StripKind kind) {
    const JStr *s = text.u.str, *set = NULL;
    size_t from = 0, to = s->n, len;
    if (j_given(chars) && chars.kind != J_NONE) {
        if (!need_text(x, chars, "strip arg")) return j_none();
        set = chars.u.str;
        if (!jx_step(x, (int64_t)(set->n / 16))) return j_none();
    }
    while ((kind & STRIP_LEFT) && from < to && in_chars(set, j_char(s->s + from, to - from, &len))) from += len;
    while ((kind & STRIP_RIGHT) && to > from) {
        size_t k = to - 1;
        while (k > from && ((unsigned char)s->s[k] & 0xC0) == 0x80) k--;
        if (!in_chars(set, j_char(s->s + k, to - k, &len))) break;
        to = k;
    }
    return from == 0 && to == s->n ? text : part(x, text, s->s + from, to - from);
}

static JVal str_strip(Jx *x, JVal self, const JVal *arg) { return jx_strip(x, self, arg[0], STRIP_BOTH); }
static JVal str_lstrip(Jx *x, JVal self, const JVal *arg) { return jx_strip(x, self, arg[0], STRIP_LEFT); }
static JVal str_rstrip(Jx *x, JVal self, const JVal *arg) { return jx_strip(x, self, arg[0], STRIP_RIGHT); }

/* ---- splitting ---- */

static void split_blanks(Jx *x, JVal self, int64_t max, bool right, JList *l) {
    const JStr *s = self.u.str;
    size_t from = 0, to = s->n, len;
    JVal rest = jx_strip(x, self, j_missing(), right ? STRIP_RIGHT : STRIP_LEFT);
    if (!right) from = s->n - rest.u.str->n;
    if (right) to = rest.u.str->n;
    while (from < to && !x->failed) {
        if (max >= 0 && (int64_t)l->n == max) { /* the rest, without blanks at its outer end */
            JVal last =
                jx_strip(x, part(x, self, s->s + from, to - from), j_missing(), right ? STRIP_RIGHT : STRIP_LEFT);
            jx_add(x, l, last);
            return;
        }
        size_t a = from, b = to;
        if (!right) {
            while (a < to && !j_is_space(j_char(s->s + a, to - a, &len))) a += len;
            jx_add(x, l, part(x, self, s->s + from, a - from));
            while (a < to && j_is_space(j_char(s->s + a, to - a, &len))) a += len;
            from = a;
        } else {
            JVal head = part(x, self, s->s, to);
            while (b > 0) {
                size_t k = b - 1;
                while (k > 0 && ((unsigned char)s->s[k] & 0xC0) == 0x80) k--;
                if (j_is_space(j_char(s->s + k, b - k, &len))) break;
                b = k;
            }
            jx_add(x, l, part(x, self, s->s + b, to - b));
            head = jx_strip(x, part(x, self, s->s, b), j_missing(), STRIP_RIGHT);
            to = head.u.str->n;
        }
    }
}

static const char *find_last(const char *s, size_t n, const JStr *what) {
    for (size_t i = n; n >= what->n && i-- > 0;)
        if (i + what->n <= n && memcmp(s + i, what->s, what->n) == 0) return s + i;
    return NULL;
}

static void split_at(Jx *x, JVal self, const JStr *sep, int64_t max, bool right, JList *l) {
    const char *s = self.u.str->s, *end = s + self.u.str->n, *hit;
    while (!x->failed && (max < 0 || (int64_t)l->n < max)) {
        hit = right ? find_last(s, (size_t)(end - s), sep) : memmem(s, (size_t)(end - s), sep->s, sep->n);
        if (!hit) break;
        if (right) {
            jx_add(x, l, part(x, self, hit + sep->n, (size_t)(end - hit) - sep->n));
            end = hit;
        } else {
            jx_add(x, l, part(x, self, s, (size_t)(hit - s)));
            s = hit + sep->n;
        }
    }
    jx_add(x, l, part(x, self, s, (size_t)(end - s)));
}

JVal jx_split(Jx *x, JVal text, JVal sep, int64_t max, bool right) {
    JList *l = jx_list(x, 0);
    if (!jx_step(x, (int64_t)(text.u.str->n / 64))) return j_none();
    if (!j_given(sep) || sep.kind == J_NONE)
        split_blanks(x, text, max, right, l);
    else if (!need_text(x, sep, "split"))
        return j_none();
    else if (sep.u.str->n == 0)
        return jx_fail(x, "empty separator");
    else
        split_at(x, text, sep.u.str, max, right, l);
    for (size_t i = 0; right && i < l->n / 2; i++) { /* they were found from the end */
        JVal t = l->item[i];
        l->item[i] = l->item[l->n - 1 - i];
        l->item[l->n - 1 - i] = t;
    }
    return j_list(l);
}

static JVal split_args(Jx *x, JVal self, const JVal *arg, bool right) {
    int64_t max = -1;
    if (j_given(arg[1]) && !jx_int(x, arg[1], &max, "split()")) return j_none();
    return jx_split(x, self, arg[0], max, right);
}

static JVal str_split(Jx *x, JVal self, const JVal *arg) { return split_args(x, self, arg, false); }
static JVal str_rsplit(Jx *x, JVal self, const JVal *arg) { return split_args(x, self, arg, true); }

JVal jx_lines(Jx *x, JVal text, bool keep) {
    const JStr *s = text.u.str;
    JList *l = jx_list(x, 0);
    size_t from = 0, len;
    for (size_t i = 0; i < s->n && !x->failed; i += len) {
        uint32_t c = j_char(s->s + i, s->n - i, &len);
        if (!j_is_line_end(c)) continue;
        size_t end = i;
        if (c == '\r' && i + 1 < s->n && s->s[i + 1] == '\n') len = 2;
        jx_add(x, l, part(x, text, s->s + from, (keep ? i + len : end) - from));
        from = i + len;
    }
    if (from < s->n) jx_add(x, l, part(x, text, s->s + from, s->n - from));
    return j_list(l);
}

static JVal str_splitlines(Jx *x, JVal self, const JVal *arg) {
    int64_t keep = 0;
    if (j_given(arg[0]) && !jx_int(x, arg[0], &keep, "splitlines()")) return j_none();
    return jx_lines(x, self, keep != 0);
}

static JVal partition(Jx *x, JVal self, JVal sep, bool right) {
    JList *l = jx_list(x, 3);
    if (!need_text(x, sep, "partition")) return j_none();
    if (sep.u.str->n == 0) return jx_fail(x, "empty separator");
    const JStr *s = self.u.str;
    const char *hit = right ? find_last(s->s, s->n, sep.u.str) : memmem(s->s, s->n, sep.u.str->s, sep.u.str->n);
    if (hit) {
        jx_add(x, l, part(x, self, s->s, (size_t)(hit - s->s)));
        jx_add(x, l, jx_markup(x, sep, self.u.str->markup));
        jx_add(x, l, part(x, self, hit + sep.u.str->n, s->n - (size_t)(hit - s->s) - sep.u.str->n));
    } else {
        for (int i = 0; i < 3; i++) jx_add(x, l, i == (right ? 2 : 0) ? self : part(x, self, "", 0));
    }
    return j_tuple(l);
}

static JVal str_partition(Jx *x, JVal self, const JVal *arg) { return partition(x, self, arg[0], false); }
static JVal str_rpartition(Jx *x, JVal self, const JVal *arg) { return partition(x, self, arg[0], true); }

/* ---- searching ---- */

/* The stretch text[start:end] that find, count, startswith look at. False: an argument is wrong. */
static bool window(Jx *x, const JStr *s, const JVal *arg, Part *w, int64_t *first, bool *beyond) {
    int64_t n = (int64_t)s->n_char, at[2] = {0, n};
    for (int i = 0; i < 2; i++) {
        if (!j_given(arg[i]) || arg[i].kind == J_NONE) continue;
        if (!jx_int(x, arg[i], &at[i], "slice indices")) return false;
        if (at[i] < 0) at[i] = at[i] + n < 0 ? 0 : at[i] + n;
    }
    *beyond = at[0] > n; /* not even an empty text is found there */
    if (at[0] > n) at[0] = n;
    if (at[1] > n) at[1] = n;
    if (at[1] < at[0]) {
        *beyond = true;
        at[1] = at[0];
    }
    size_t from = j_offset(s, (size_t)at[0]), to = j_offset(s, (size_t)at[1]);
    *w = (Part){s->s + from, to - from};
    *first = at[0];
    return jx_step(x, (int64_t)(s->n / 256));
}

static JVal find(Jx *x, JVal self, const JVal *arg, bool right, bool must) {
    Part w;
    int64_t first;
    bool beyond;
    if (!need_text(x, arg[0], "find") || !window(x, self.u.str, arg + 1, &w, &first, &beyond)) return j_none();
    const JStr *what = arg[0].u.str;
    const char *hit = NULL;
    if (!beyond && what->n == 0)
        hit = right ? w.s + w.n : w.s;
    else if (!beyond)
        hit = right ? find_last(w.s, w.n, what) : memmem(w.s, w.n, what->s, what->n);
    if (!hit && must) return jx_fail(x, "substring not found");
    return j_int(hit ? first + (int64_t)j_count(w.s, (size_t)(hit - w.s)) : -1);
}

static JVal str_find(Jx *x, JVal self, const JVal *arg) { return find(x, self, arg, false, false); }
static JVal str_rfind(Jx *x, JVal self, const JVal *arg) { return find(x, self, arg, true, false); }
static JVal str_index(Jx *x, JVal self, const JVal *arg) { return find(x, self, arg, false, true); }
static JVal str_rindex(Jx *x, JVal self, const JVal *arg) { return find(x, self, arg, true, true); }

static JVal str_count(Jx *x, JVal self, const JVal *arg) {
    Part w;
    int64_t first, count = 0;
    bool beyond;
    if (!need_text(x, arg[0], "count") || !window(x, self.u.str, arg + 1, &w, &first, &beyond)) return j_none();
    const JStr *what = arg[0].u.str;
    if (what->n == 0) return j_int(beyond ? 0 : (int64_t)j_count(w.s, w.n) + 1);
    for (const char *hit; (hit = memmem(w.s, w.n, what->s, what->n)); count++) {
        w.n -= (size_t)(hit - w.s) + what->n;
        w.s = hit + what->n;
    }
    return j_int(count);
}

static JVal affix(Jx *x, JVal self, const JVal *arg, bool end) {
    Part w;
    int64_t first;
    bool beyond;
    JList one = {(JVal *)arg, 1, 1, false};
    const JList *l = arg[0].kind == J_TUPLE ? arg[0].u.list : &one;
    if (!window(x, self.u.str, arg + 1, &w, &first, &beyond)) return j_none();
    for (size_t i = 0; i < l->n; i++) {
        if (!need_text(x, l->item[i], end ? "endswith" : "startswith")) return j_none();
        const JStr *s = l->item[i].u.str;
        if (!beyond && s->n <= w.n && memcmp(end ? w.s + w.n - s->n : w.s, s->s, s->n) == 0) return j_bool(true);
    }
    return j_bool(false);
}

static JVal str_startswith(Jx *x, JVal self, const JVal *arg) { return affix(x, self, arg, false); }
static JVal str_endswith(Jx *x, JVal self, const JVal *arg) { return affix(x, self, arg, true); }

static JVal remove_affix(Jx *x, JVal self, JVal what, bool end) {
    if (!need_text(x, what, "removeprefix or removesuffix")) return j_none();
    const JStr *s = self.u.str, *w = what.u.str;
    if (w->n > s->n || memcmp(end ? s->s + s->n - w->n : s->s, w->s, w->n) != 0) return self;
    return part(x, self, end ? s->s : s->s + w->n, s->n - w->n);
}

static JVal str_removeprefix(Jx *x, JVal self, const JVal *arg) { return remove_affix(x, self, arg[0], false); }
static JVal str_removesuffix(Jx *x, JVal self, const JVal *arg) { return remove_affix(x, self, arg[0], true); }

/* ---- rewriting ---- */

JVal jx_replace(Jx *x, JVal text, JVal from, JVal to, int64_t count) {
    const JStr *s = text.u.str, *f = from.u.str, *t = to.u.str;
    Str out = {0};
    size_t at = 0, len;
    if (s->markup) t = jx_escape(x, to).u.str;
    if (!jx_step(x, (int64_t)(s->n / 64))) return j_none();
    while (at <= s->n && count != 0 && out.n < JINJA_MAX_OUTPUT) {
        if (f->n == 0) { /* between all characters, and at both ends */
            str_putn(&out, t->s, t->n);
            if (at == s->n) break;
            j_char(s->s + at, s->n - at, &len);
            str_putn(&out, s->s + at, len);
            at += len;
        } else {
            const char *hit = memmem(s->s + at, s->n - at, f->s, f->n);
            if (!hit) break;
            str_putn(&out, s->s + at, (size_t)(hit - s->s) - at);
            str_putn(&out, t->s, t->n);
            at = (size_t)(hit - s->s) + f->n;
        }
        count--;
    }
    if (out.n >= JINJA_MAX_OUTPUT) jx_fail(x, "a text of more than %d bytes", JINJA_MAX_OUTPUT);
    if (at < s->n) str_putn(&out, s->s + at, s->n - at);
    return jx_markup(x, jx_take(x, &out), s->markup);
}

static JVal str_replace(Jx *x, JVal self, const JVal *arg) {
    int64_t count = -1;
    if (!need_text(x, arg[0], "replace") || !need_text(x, arg[1], "replace")) return j_none();
    if (j_given(arg[2]) && !jx_int(x, arg[2], &count, "replace()")) return j_none();
    return jx_replace(x, self, arg[0], arg[1], count);
}

JVal jx_case(Jx *x, JVal text, CaseKind kind) {
    Str out = {0};
    if (!jx_step(x, (int64_t)(text.u.str->n / 16))) return j_none();
    j_put_case(&out, text.u.str->s, text.u.str->n, kind);
    return jx_markup(x, jx_take(x, &out), text.u.str->markup);
}

static JVal str_upper(Jx *x, JVal self, const JVal *arg) { return (void)arg, jx_case(x, self, CASE_UPPER); }
static JVal str_lower(Jx *x, JVal self, const JVal *arg) { return (void)arg, jx_case(x, self, CASE_LOWER); }
static JVal str_title(Jx *x, JVal self, const JVal *arg) { return (void)arg, jx_case(x, self, CASE_TITLE); }
static JVal str_capitalize(Jx *x, JVal self, const JVal *arg) { return (void)arg, jx_case(x, self, CASE_CAPITAL); }
static JVal str_swapcase(Jx *x, JVal self, const JVal *arg) { return (void)arg, jx_case(x, self, CASE_SWAP); }
static JVal str_casefold(Jx *x, JVal self, const JVal *arg) { return (void)arg, jx_case(x, self, CASE_FOLD); }

/* side: -1 text at the left, 1 at the right, 0 in the middle. fill is UTF-8, one character. */
static JVal pad(Jx *x, JVal text, int64_t width, const JStr *fill, int side) {
    int64_t n = width - (int64_t)text.u.str->n_char, left;
    if (n <= 0) return text;
    if (n > JINJA_MAX_OUTPUT / 4 || !jx_step(x, n / 16))
        return jx_fail(x, "a width of %lld is too large", (long long)width);
    left = side < 0 ? 0 : side > 0 ? n : n / 2 + (n & width & 1); /* Python's way of halving */
    Str out = {0};
    for (int64_t i = 0; i < left; i++) str_putn(&out, fill->s, fill->n);
    str_putn(&out, text.u.str->s, text.u.str->n);
    for (int64_t i = left; i < n; i++) str_putn(&out, fill->s, fill->n);
    return jx_markup(x, jx_take(x, &out), text.u.str->markup);
}

JVal jx_center(Jx *x, JVal text, int64_t width, char fill, int side) {
    JStr f = {&fill, 1, 1, false};
    return pad(x, text, width, &f, side);
}

static JVal justify(Jx *x, JVal self, const JVal *arg, int side) {
    int64_t width;
    static const JStr blank = {" ", 1, 1, false};
    if (!jx_int(x, arg[0], &width, "width")) return j_none();
    if (!j_given(arg[1])) return pad(x, self, width, &blank, side);
    if (!need_text(x, arg[1], "the fill character")) return j_none();
    if (arg[1].u.str->n_char != 1) return jx_fail(x, "The fill character must be exactly one character long");
    return pad(x, self, width, arg[1].u.str, side);
}

static JVal str_center(Jx *x, JVal self, const JVal *arg) { return justify(x, self, arg, 0); }
static JVal str_ljust(Jx *x, JVal self, const JVal *arg) { return justify(x, self, arg, -1); }
static JVal str_rjust(Jx *x, JVal self, const JVal *arg) { return justify(x, self, arg, 1); }

static JVal str_zfill(Jx *x, JVal self, const JVal *arg) {
    int64_t width;
    const JStr *s = self.u.str;
    if (!jx_int(x, arg[0], &width, "width")) return j_none();
    bool sign = s->n && (s->s[0] == '-' || s->s[0] == '+');
    JVal digits = jx_center(x, part(x, self, s->s + sign, s->n - sign), width - sign, '0', 1);
    return sign && !x->failed ? jx_arith(x, N_ADD, part(x, self, s->s, 1), digits) : digits;
}

static JVal str_expandtabs(Jx *x, JVal self, const JVal *arg) {
    int64_t size = 8, column = 0;
    Str out = {0};
    if (j_given(arg[0]) && !jx_int(x, arg[0], &size, "expandtabs()")) return j_none();
    if (size > 1000) return jx_fail(x, "a tab of %lld columns is too wide", (long long)size);
    for (size_t i = 0; i < self.u.str->n && jx_step(x, 1); i++) {
        char c = self.u.str->s[i];
        if (c == '\t') {
            int64_t n = size > 0 ? size - column % size : 0;
            for (int64_t k = 0; k < n; k++) str_putc(&out, ' ');
            column += n;
        } else {
            str_putc(&out, c);
            column = c == '\n' || c == '\r' ? 0 : column + (((unsigned char)c & 0xC0) != 0x80);
        }
    }
    return jx_markup(x, jx_take(x, &out), self.u.str->markup);
}

JVal jx_join(Jx *x, JVal sep, JVal items, bool strict) {
    Str out = {0};
    JIter *it = jx_iter(x, items);
    JVal v;
    bool first = true, markup = sep.u.str->markup;
    while (jx_next(x, it, &v)) {
        if (strict && v.kind != J_STR) {
            jx_fail(x, "sequence item: expected str instance, %s found", j_type(v));
            break;
        }
        if (!first) str_putn(&out, sep.u.str->s, sep.u.str->n);
        first = false;
        jx_put(x, &out, markup ? jx_escape(x, v) : v);
        if (out.n > JINJA_MAX_OUTPUT) jx_fail(x, "a text of more than %d bytes", JINJA_MAX_OUTPUT);
    }
    return jx_markup(x, jx_take(x, &out), markup);
}

static JVal str_join(Jx *x, JVal self, const JVal *arg) {
    return jx_join(x, self, arg[0], !self.u.str->markup); /* markup makes text of what it joins */
}

/* ---- asking ---- */

typedef bool CharTest(uint32_t c);

static JVal all_chars(const JStr *s, CharTest *test, bool empty) {
    size_t len;
    for (size_t i = 0; i < s->n; i += len)
        if (!test(j_char(s->s + i, s->n - i, &len))) return j_bool(false);
    return j_bool(s->n > 0 || empty);
}

static bool alnum(uint32_t c) { return c != '_' && j_is_word(c); }
static bool ascii(uint32_t c) { return c < 0x80; }

static JVal str_isalpha(Jx *x, JVal self, const JVal *arg) {
    return (void)x, (void)arg, all_chars(self.u.str, j_is_letter, false);
}
static JVal str_isdigit(Jx *x, JVal self, const JVal *arg) {
    return (void)x, (void)arg, all_chars(self.u.str, j_is_digit, false);
}
static JVal str_isalnum(Jx *x, JVal self, const JVal *arg) {
    return (void)x, (void)arg, all_chars(self.u.str, alnum, false);
}
static JVal str_isascii(Jx *x, JVal self, const JVal *arg) {
    return (void)x, (void)arg, all_chars(self.u.str, ascii, true);
}
static JVal str_isspace(Jx *x, JVal self, const JVal *arg) {
    return (void)x, (void)arg, all_chars(self.u.str, j_is_space, false);
}
static JVal str_isdecimal(Jx *x, JVal self, const JVal *arg) {
    return (void)x, (void)arg, all_chars(self.u.str, j_is_decimal, false);
}
static JVal str_isnumeric(Jx *x, JVal self, const JVal *arg) {
    return (void)x, (void)arg, all_chars(self.u.str, j_is_numeric, false);
}
static JVal str_isprintable(Jx *x, JVal self, const JVal *arg) {
    return (void)x, (void)arg, all_chars(self.u.str, j_is_printable, true);
}

static JVal str_isidentifier(Jx *x, JVal self, const JVal *arg) {
    size_t len;
    (void)x, (void)arg;
    if (self.u.str->n == 0) return j_bool(false);
    uint32_t c = j_char(self.u.str->s, self.u.str->n, &len);
    return j_is_name_start(c) ? all_chars(self.u.str, j_is_name, false) : j_bool(false);
}

/* Some cased character, and none of the other case. */
static JVal one_case(const JStr *s, bool upper) {
    bool some = false;
    size_t len;
    for (size_t i = 0; i < s->n; i += len) {
        uint32_t c = j_char(s->s + i, s->n - i, &len);
        if (j_is_title(c) || (upper ? j_is_lower(c) : j_is_upper(c))) return j_bool(false);
        some = some || (upper ? j_is_upper(c) : j_is_lower(c));
    }
    return j_bool(some);
}

static JVal str_isupper(Jx *x, JVal self, const JVal *arg) { return (void)x, (void)arg, one_case(self.u.str, true); }
static JVal str_islower(Jx *x, JVal self, const JVal *arg) { return (void)x, (void)arg, one_case(self.u.str, false); }

static JVal str_istitle(Jx *x, JVal self, const JVal *arg) {
    bool some = false, inside = false;
    size_t len;
    (void)x, (void)arg;
    for (size_t i = 0; i < self.u.str->n; i += len) {
        uint32_t c = j_char(self.u.str->s + i, self.u.str->n - i, &len);
        bool upper = j_is_upper(c) || j_is_title(c), lower = j_is_lower(c);
        if ((upper && inside) || (lower && !inside)) return j_bool(false);
        some = some || upper || lower;
        inside = upper || lower;
    }
    return j_bool(some);
}

// clang-format off
#define NONE BIND_POSITIONAL, NULL
static const MethodRow methods[] = {
    {"strip", str_strip, "chars?", NONE}, {"lstrip", str_lstrip, "chars?", NONE}, {"rstrip", str_rstrip, "chars?", NONE},
    {"split", str_split, "sep? maxsplit?", BIND_ANY, NULL}, {"rsplit", str_rsplit, "sep? maxsplit?", BIND_ANY, NULL},
    {"startswith", str_startswith, "prefix start? end?", NONE}, {"endswith", str_endswith, "suffix start? end?", NONE},
    {"replace", str_replace, "old new count?", NONE}, {"join", str_join, "iterable", NONE},
    {"upper", str_upper, "", NONE}, {"lower", str_lower, "", NONE}, {"title", str_title, "", NONE},
    {"capitalize", str_capitalize, "", NONE}, {"swapcase", str_swapcase, "", NONE}, {"casefold", str_casefold, "", NONE},
    {"find", str_find, "sub start? end?", NONE}, {"rfind", str_rfind, "sub start? end?", NONE},
    {"index", str_index, "sub start? end?", NONE}, {"rindex", str_rindex, "sub start? end?", NONE},
    {"count", str_count, "sub start? end?", NONE}, {"partition", str_partition, "sep", NONE},
    {"rpartition", str_rpartition, "sep", NONE}, {"splitlines", str_splitlines, "keepends?", BIND_ANY, NULL},
    {"removeprefix", str_removeprefix, "prefix", NONE}, {"removesuffix", str_removesuffix, "suffix", NONE},
    {"center", str_center, "width fillchar?", NONE}, {"ljust", str_ljust, "width fillchar?", NONE},
    {"rjust", str_rjust, "width fillchar?", NONE}, {"zfill", str_zfill, "width", NONE},
    {"expandtabs", str_expandtabs, "tabsize?", BIND_ANY, NULL}, {"format", NULL, NULL, BIND_ANY, jx_format},
    {"format_map", NULL, NULL, BIND_ANY, jx_format_map}, {"isalpha", str_isalpha, "", NONE}, {"isdigit", str_isdigit, "", NONE},
    {"isalnum", str_isalnum, "", NONE}, {"isascii", str_isascii, "", NONE}, {"isspace", str_isspace, "", NONE},
    {"isdecimal", str_isdecimal, "", NONE}, {"isnumeric", str_isnumeric, "", NONE}, {"isprintable", str_isprintable, "", NONE},
    {"isidentifier", str_isidentifier, "", NONE}, {"isupper", str_isupper, "", NONE}, {"islower", str_islower, "", NONE},
    {"istitle", str_istitle, "", NONE},
    {"encode", NULL, NULL, NONE}, {"translate", NULL, NULL, NONE}, {"maketrans", NULL, NULL, NONE}, /* not supported */
};
// clang-format on

const MethodRow *j_str_method(const char *name) {
    for (int i = 0; i < COUNT_OF(methods); i++)
        if (strcmp(methods[i].name, name) == 0) return &methods[i];
    return NULL;
}
