/* jinja_format.c — the two ways Python formats: text % values, and text.format(values) with its little language
 * [[fill]align][sign][#][0][width][,][.precision][type]. */
#include "text/jinja_int.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WIDTH = 100000, MAX_PRECISION = 500 };

typedef struct {
    char fill[4];
    size_t n_fill;
    char align, sign, type, group; /* 0: as usual */
    bool alternate, zero;
    int64_t width, precision; /* -1: none */
} Spec;

static void put_fill(Str *out, const Spec *s, int64_t n) {
    for (; n > 0; n--) str_putn(out, s->fill, s->n_fill);
}

/* sign_len bytes in front stay there when filling is "=": zeros go between sign and digits. */
static void put_padded(Str *out, const Spec *s, const char *text, size_t n, size_t sign_len, char usual) {
    int64_t gap = s->width - (int64_t)j_count(text, n);
    char align = s->align ? s->align : usual;
    if (gap < 0) gap = 0;
    if (align == '=') {
        str_putn(out, text, sign_len);
        put_fill(out, s, gap);
        str_putn(out, text + sign_len, n - sign_len);
        return;
    }
    int64_t left = align == '>' ? gap : align == '^' ? gap / 2 : 0;
    put_fill(out, s, left);
    str_putn(out, text, n);
    put_fill(out, s, gap - left);
}

/* ---- numbers as digits ---- */

static void put_grouped(Str *out, const char *digits, size_t whole, size_t n, char group, size_t every) {
    for (size_t i = 0; i < whole; i++) {
        if (i > 0 && (whole - i) % every == 0) str_putc(out, group);
        str_putc(out, digits[i]);
    }
    str_putn(out, digits + whole, n - whole);
}

/* The digits of |f|: %e, %f, %g, or Python's shortest form (type 0). */
static void float_digits(Str *out, double f, char type, int64_t precision, bool alternate) {
    char buf[1024], fmt[16];
    if (!isfinite(f)) {
        str_put(out, isupper((unsigned char)type) ? (isnan(f) ? "NAN" : "INF") : isnan(f) ? "nan" : "inf");
        return;
    }
    f = fabs(f);
    if (type == 0 && precision < 0) {
        json_format_num(buf, f);
        str_put(out, buf);
        return;
    }
    if (type == 0) { /* as g, but a whole number keeps ".0" and goes to exponents one digit earlier */
        snprintf(buf, sizeof buf, "%.*e", (int)(precision > 0 ? precision - 1 : 0), f);
        int exponent = atoi(strchr(buf, 'e') + 1);
        bool scientific = exponent < -4 || exponent >= (precision > 1 ? precision - 1 : 1);
        if (precision == 1 && exponent == 0) scientific = false;
        snprintf(buf, sizeof buf, "%.*g", (int)(precision ? precision : 1), f);
        if (scientific && !strchr(buf, 'e')) {
            snprintf(buf, sizeof buf, "%.*e", (int)(precision ? precision - 1 : 0), f);
            char *e = strchr(buf, 'e'), *point = strchr(buf, '.');
            if (point) { /* without trailing zeros */
                char *last = e;
                while (last[-1] == '0') last--;
                if (last[-1] == '.') last--;
                memmove(last, e, strlen(e) + 1);
            }
        }
        str_put(out, buf);
        if (!strpbrk(buf, ".e")) str_put(out, ".0");
        return;
    }
    snprintf(fmt, sizeof fmt, "%%%s.*%c", alternate ? "#" : "", type == 'n' ? 'g' : type == '%' ? 'f' : type);
    snprintf(buf, sizeof buf, fmt, (int)(precision < 0 ? 6 : precision), type == '%' ? f * 100 : f);
    str_put(out, buf);
    if (type == '%') str_putc(out, '%');
}

static void int_digits(Jx *x, Str *out, JVal v, char type, bool alternate) {
    int base = type == 'b' ? 2 : type == 'o' ? 8 : type == 'x' || type == 'X' ? 16 : 10;
    if (alternate && base != 10) str_printf(out, "0%c", type);
    size_t from = out->n;
    jx_put_int(x, out, jx_abs(x, v), base);
    for (size_t i = from; type == 'X' && i < out->n; i++) out->s[i] = (char)toupper((unsigned char)out->s[i]);
}

static bool negative_number(JVal v) {
    return v.kind == J_FLOAT ? signbit(v.u.f) && !isnan(v.u.f) : j_number_order(v, j_int(0)) < 0;
}

static void format_number(Jx *x, Str *out, JVal v, const Spec *s) {
    Str text = {0}, digits = {0};
    bool whole = v.kind != J_FLOAT && !(s->type && strchr("eEfFgG%", s->type));
    double f = 0;
    if (!whole && !j_float_of(v, &f)) jx_fail(x, "int too large to convert to float");
    if (negative_number(v))
        str_putc(&text, '-');
    else if (s->sign == '+' || s->sign == ' ')
        str_putc(&text, s->sign);
    size_t sign = text.n;
    if (whole)
        int_digits(x, &digits, v, s->type, s->alternate);
    else
        float_digits(&digits, f, s->type, s->precision, s->alternate);
    const char *d = str_get(&digits);
    size_t prefix = whole && s->alternate && s->type && strchr("boxX", s->type) ? 2 : 0;
    size_t lead = whole ? digits.n - prefix : strspn(d, "0123456789");
    str_putn(&text, d, prefix);
    if (s->group)
        put_grouped(&text, d + prefix, lead, digits.n - prefix, s->group, s->type && strchr("boxX", s->type) ? 4 : 3);
    else
        str_putn(&text, d + prefix, digits.n - prefix);
    put_padded(out, s, str_get(&text), text.n, sign + prefix, s->zero ? '=' : '>');
    str_release(&text);
    str_release(&digits);
}

/* ---- format specifications ---- */

static bool bad_spec(Jx *x, JVal v, const char *spec, size_t n) {
    jx_fail(x, "Invalid format specifier '%.*s' for object of type '%s'", n < 40 ? (int)n : 40, spec, j_type(v));
    return false;
}

static const char *read_number(const char *p, const char *end, int64_t *v) {
    *v = 0;
    while (p < end && *p >= '0' && *p <= '9' && *v < MAX_WIDTH * 10) *v = *v * 10 + (*p++ - '0');
    return p;
}

/* ascii(v): its repr, what is not ASCII escaped. */
static void put_ascii(Jx *x, Str *out, JVal v) {
    Str text = {0};
    size_t len;
    jx_put_repr(x, &text, v);
    for (size_t i = 0; i < text.n; i += len) {
        uint32_t c = j_char(text.s + i, text.n - i, &len);
        if (c < 0x80)
            str_putc(out, (char)c);
        else
            str_printf(out, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)c);
    }
    str_release(&text);
}

static bool read_spec(Jx *x, JVal v, const char *p, size_t n, Spec *s) {
    const char *begin = p, *end = p + n;
    size_t len = 0;
    bool filled = false;
    *s = (Spec){.fill = " ", .n_fill = 1, .precision = -1};
    if (n > 0) j_char(p, n, &len);
    if (len && p + len < end && strchr("<>=^", p[len])) {
        memcpy(s->fill, p, len);
        s->n_fill = len;
        filled = true;
        s->align = p[len];
        p += len + 1;
    } else if (p < end && strchr("<>=^", *p))
        s->align = *p++;
    if (p < end && strchr("+- ", *p)) s->sign = *p++;
    if (p < end && *p == '#') s->alternate = true, p++;
    if (p < end && *p == '0') {
        s->zero = !filled;
        if (!filled) memcpy(s->fill, "0", 2);
        if (!filled) s->n_fill = 1;
        p++;
    }
    p = read_number(p, end, &s->width);
    if (p < end && (*p == ',' || *p == '_')) s->group = *p++;
    if (p < end && *p == '.') {
        const char *digits = ++p;
        p = read_number(p, end, &s->precision);
        if (p == digits) return bad_spec(x, v, begin, n);
    }
    if (p < end) s->type = *p++;
    if (p != end) return bad_spec(x, v, begin, n);
    if (s->width > MAX_WIDTH || s->precision > MAX_PRECISION) {
        jx_fail(x, "a width or precision too large");
        return false;
    }
    return true;
}

static void format_text(Jx *x, Str *out, JVal v, const Spec *s) {
    const JStr *t = v.u.str;
    size_t n = t->n;
    if ((s->type && s->type != 's') || s->sign || s->alternate || s->group || s->align == '=') {
        jx_fail(x, "a format specifier does not fit an object of type 'str'");
        return;
    }
    if (s->precision >= 0 && s->precision < (int64_t)t->n_char) n = j_offset(t, (size_t)s->precision);
    put_padded(out, s, t->s, n, 0, '<');
}

static void format_value(Jx *x, Str *out, JVal v, const char *spec, size_t n) {
    Spec s;
    if (n == 0) {
        jx_put(x, out, v);
        return;
    }
    if (v.kind != J_STR && !j_number(v)) {
        jx_fail(x, "unsupported format string passed to %s.__format__", j_type(v));
        return;
    }
    if (!read_spec(x, v, spec, n, &s) || !jx_step(x, s.width / 16)) return;
    if (v.kind == J_STR) {
        format_text(x, out, v, &s);
        return;
    }
    const char *types = v.kind == J_FLOAT ? "eEfFgGn%" : "bcdoxXneEfFgG%";
    bool whole = v.kind != J_FLOAT && (!s.type || strchr("bcdoxXn", s.type));
    if ((s.type && !strchr(types, s.type)) || (whole && s.precision >= 0) ||
        (s.group == ',' && s.type && strchr("boxXnc", s.type)))
        bad_spec(x, v, spec, n);
    else if (s.group && s.zero)
        jx_fail(x, "zero padding of grouped digits is not supported");
    else if (s.type == 'c') {
        Str c = {0};
        int64_t code;
        if (jx_int(x, v, &code, "%c") && code >= 0 && code < 0x110000)
            j_str_char(&c, (uint32_t)code);
        else
            jx_fail(x, "%%c arg not in range(0x110000)");
        put_padded(out, &s, str_get(&c), c.n, 0, '<');
        str_release(&c);
    } else {
        if (s.type == 'n') s.type = v.kind == J_FLOAT ? 'g' : 'd';
        if (s.type == 'd') s.type = 0;
        if (whole && v.kind == J_BOOL) v = j_int(v.u.b);
        format_number(x, out, v, &s);
    }
}

/* ---- text.format ---- */

typedef struct {
    Jx *x;
    const JArgs *args;
    JVal map;
    int next; /* of automatic numbers; -1: given ones are used */
} Fields;

static JVal field_value(Fields *f, const char *name, size_t n) {
    Jx *x = f->x;
    bool number = n > 0;
    for (size_t i = 0; i < n; i++) number = number && name[i] >= '0' && name[i] <= '9';
    if (n == 0 || number) {
        if ((n == 0 && f->next < 0) || (n > 0 && f->next > 0))
            return jx_fail(x, "cannot mix automatic and manual field numbering");
        int64_t at = n == 0 ? f->next++ : 0;
        if (n > 0) f->next = -1;
        if (n > 0) read_number(name, name + n, &at);
        if (!f->args || at >= f->args->n_pos) return jx_fail(x, "Replacement index %lld out of range", (long long)at);
        return f->args->pos[at];
    }
    JVal *v = NULL;
    if (!f->args && f->map.kind != J_DICT) /* only now: a text without names takes anything */
        return jx_fail(x, "format_map() argument must be a mapping, not %s", j_type(f->map));
    if (f->map.kind == J_DICT) v = jx_dict_get(x, f->map.u.dict, jx_str(x, name, n));
    for (int i = 0; f->args && i < f->args->n_kw; i++)
        if (f->args->kw[i]->n == n && memcmp(f->args->kw[i]->s, name, n) == 0) v = &f->args->kw_value[i];
    return v ? *v : jx_fail(x, "KeyError: '%.*s'", n < 60 ? (int)n : 60, name);
}

/* name(.attribute | [index])* */
static JVal field(Fields *f, const char *s, size_t n) {
    size_t at = 0;
    while (at < n && s[at] != '.' && s[at] != '[') at++;
    JVal v = field_value(f, s, at);
    while (at < n && !f->x->failed) {
        bool attr = s[at++] == '.';
        size_t from = at;
        while (at < n && (attr ? s[at] != '.' && s[at] != '[' : s[at] != ']')) at++;
        if (at == from || (!attr && at == n)) return jx_fail(f->x, "Empty attribute in format string");
        if (attr)
            v = jx_getattr(f->x, v, jx_str(f->x, s + from, at - from).u.str);
        else {
            int64_t i;
            bool number = read_number(s + from, s + at, &i) == s + at;
            v = jx_getitem(f->x, v, number ? j_int(i) : jx_str(f->x, s + from, at - from));
            at++;
            if (at < n && s[at] != '.' && s[at] != '[')
                return jx_fail(f->x, "Only '.' or '[' may follow ']' in format field specifier");
        }
    }
    return v;
}

static void format_fields(Fields *f, Str *out, const char *s, size_t n, int depth);

/* What stands between braces: field [!conversion] [:specification], the last with fields of its own. */
static void format_one(Fields *f, Str *out, const char *s, size_t n, int depth) {
    size_t at = 0, open = 0;
    while (at < n && (open || (s[at] != ':' && s[at] != '!'))) {
        open = s[at] == '[' ? 1 : s[at] == ']' ? 0 : open;
        at++;
    }
    JVal v = field(f, s, at);
    if (at < n && s[at] == '!') {
        char c = at + 1 < n ? s[at + 1] : 0;
        at += 2;
        if ((c != 'r' && c != 's' && c != 'a') || (at < n && s[at] != ':')) {
            jx_fail(f->x, "Unknown conversion specifier in a format string");
            return;
        }
        Str text = {0};
        if (c == 's')
            jx_put(f->x, &text, v);
        else if (c == 'a')
            put_ascii(f->x, &text, v);
        else
            jx_put_repr(f->x, &text, v);
        v = jx_take(f->x, &text);
    }
    Str spec = {0};
    if (at < n) format_fields(f, &spec, s + at + 1, n - at - 1, depth - 1);
    if (!f->x->failed) format_value(f->x, out, v, str_get(&spec), spec.n);
    str_release(&spec);
}

static void format_fields(Fields *f, Str *out, const char *s, size_t n, int depth) {
    if (depth < 0) {
        jx_fail(f->x, "Max string recursion exceeded");
        return;
    }
    for (size_t i = 0; i < n && jx_step(f->x, 1); i++) {
        if (s[i] != '{' && s[i] != '}') {
            str_putc(out, s[i]);
            continue;
        }
        if (i + 1 < n && s[i + 1] == s[i]) {
            str_putc(out, s[i++]);
            continue;
        }
        size_t end = i + 1;
        int open = 1;
        for (; end < n && open; end++) open += s[end] == '{' ? 1 : s[end] == '}' ? -1 : 0;
        if (s[i] == '}' || open) {
            jx_fail(f->x, "Single '%c' encountered in format string", s[i]);
            return;
        }
        format_one(f, out, s + i + 1, end - i - 2, depth);
        i = end - 1;
        if (out->n > JINJA_MAX_OUTPUT) jx_fail(f->x, "a text of more than %d bytes", JINJA_MAX_OUTPUT);
    }
}

static JVal formatted(Fields *f, JVal self) {
    Str out = {0};
    format_fields(f, &out, self.u.str->s, self.u.str->n, 2);
    return jx_markup(f->x, jx_take(f->x, &out), self.u.str->markup);
}

JVal jx_format(Jx *x, JVal self, const JArgs *a) {
    Fields f = {x, a, j_none(), 0};
    return formatted(&f, self);
}

JVal jx_format_map(Jx *x, JVal self, const JArgs *a) {
    JVal arg[MAX_BOUND];
    if (!jx_bind(x, "format_map", "mapping", BIND_POSITIONAL, a, arg)) return j_none();
    Fields f = {x, NULL, arg[0], 0};
    return formatted(&f, self);
}

/* ---- text % values ---- */

typedef struct {
    JVal value;
    size_t at;
    bool map;
} Values;

static JVal next_value(Jx *x, Values *v) {
    if (v->value.kind == J_TUPLE) {
        if (v->at < v->value.u.list->n) return v->value.u.list->item[v->at++];
    } else if (v->at++ == 0)
        return v->value;
    return jx_fail(x, "not enough arguments for format string");
}

static JVal whole_of(Jx *x, JVal v, char type) {
    bool base = strchr("oxX", type) != NULL;
    if (j_integer(v)) return v.kind == J_BOOL ? j_int(v.u.b) : v;
    if (v.kind == J_FLOAT && !base) return jx_whole(x, v.u.f);
    return jx_fail(x, "%%%c format: %s is required, not %s", type, base ? "an integer" : "a real number", j_type(v));
}

/* d, i, u, o, x and X. */
static void percent_int(Jx *x, Str *out, JVal v, Spec *s) {
    v = whole_of(x, v, s->type);
    if (x->failed) return;
    Str text = {0}, digits = {0};
    if (s->type == 'i' || s->type == 'u') s->type = 'd';
    jx_put_int(x, &digits, jx_abs(x, v), s->type == 'o' ? 8 : s->type == 'd' ? 10 : 16);
    for (size_t i = 0; s->type == 'X' && i < digits.n; i++) digits.s[i] = (char)toupper((unsigned char)digits.s[i]);
    if (negative_number(v))
        str_putc(&text, '-');
    else if (s->sign)
        str_putc(&text, s->sign);
    if (s->alternate && s->type != 'd') str_printf(&text, "0%c", s->type);
    size_t sign = text.n;
    for (int64_t i = (int64_t)digits.n; i < s->precision; i++) str_putc(&text, '0');
    str_putn(&text, str_get(&digits), digits.n);
    put_padded(out, s, str_get(&text), text.n, sign, s->zero ? '=' : '>');
    str_release(&digits);
    str_release(&text);
}

static void percent_value(Jx *x, Str *out, JVal v, Spec *s) {
    Str text = {0};
    double f;
    switch (s->type) {
    case 's':
    case 'r':
    case 'a':
        if (s->type == 's')
            jx_put(x, &text, v);
        else if (s->type == 'a')
            put_ascii(x, &text, v);
        else
            jx_put_repr(x, &text, v);
        if (s->precision >= 0 && (size_t)s->precision < j_count(str_get(&text), text.n)) {
            JStr t = {text.s, text.n, j_count(text.s, text.n), false};
            text.n = j_offset(&t, (size_t)s->precision);
        }
        memcpy(s->fill, " ", 2);
        put_padded(out, s, str_get(&text), text.n, 0, '>');
        break;
    case 'c':
        memcpy(s->fill, " ", 2);
        if (v.kind == J_STR && v.u.str->n_char == 1)
            put_padded(out, s, v.u.str->s, v.u.str->n, 0, '>');
        else if (j_integer(v) && v.kind != J_BIG && v.u.i >= 0 && v.u.i < 0x110000) {
            j_str_char(&text, (uint32_t)v.u.i);
            put_padded(out, s, text.s, text.n, 0, '>');
        } else
            jx_fail(x, "%%c requires int or char");
        break;
    case 'd':
    case 'i':
    case 'u':
    case 'o':
    case 'x':
    case 'X':
        percent_int(x, out, v, s);
        break;
    default:
        if (!j_number(v))
            jx_fail(x, "must be real number, not %s", j_type(v));
        else if (!j_float_of(v, &f))
            jx_fail(x, "int too large to convert to float");
        else
            format_number(x, out, j_float(f), s);
    }
    str_release(&text);
}

/* One % of the text, from the character after it; returns where it ends, NULL: failed. */
static const char *percent_one(Jx *x, Str *out, const char *p, const char *end, Values *values) {
    Spec s = {.fill = " ", .n_fill = 1, .precision = -1};
    Values one = *values;
    bool keyed = false;
    if (p < end && *p == '%') return str_putc(out, '%'), p + 1; /* with flags or a width it is an unknown character */
    if (p < end && *p == '(') {
        int open = 1;
        const char *key = ++p;
        while (p < end && open) open += *p == '(' ? 1 : *p == ')' ? -1 : 0, p++;
        if (open || values->value.kind != J_DICT)
            return jx_fail(x, open ? "incomplete format key" : "format requires a mapping"), NULL;
        JVal *v = jx_dict_get(x, values->value.u.dict, jx_str(x, key, (size_t)(p - key) - 1));
        if (!v) return jx_fail(x, "KeyError in a format string"), NULL;
        one = (Values){.value = *v, .map = true};
        if (v->kind == J_TUPLE) { /* one value, not several */
            JList *l = jx_list(x, 1);
            jx_add(x, l, *v);
            one.value = j_tuple(l);
        }
        keyed = true;
    }
    for (; p < end && strchr("-+ #0", *p); p++) {
        if (*p == '-') s.align = '<';
        if (*p == '+' || (*p == ' ' && !s.sign)) s.sign = *p;
        if (*p == '#') s.alternate = true;
        if (*p == '0') s.zero = true;
    }
    if (s.zero && !s.align) memcpy(s.fill, "0", 2);
    for (int i = 0; i < 2; i++) { /* width, precision */
        int64_t *to = i ? &s.precision : &s.width;
        if (i && (p >= end || *p != '.')) break;
        if (i) p++, *to = 0;
        if (p < end && *p == '*') {
            p++;
            if (!jx_int(x, next_value(x, values), to, "*")) return NULL;
            if (!i && *to < 0) s.align = '<', *to = -*to;
            if (!keyed) one = *values;
        } else
            p = read_number(p, end, to);
        if (*to > (i ? MAX_PRECISION : MAX_WIDTH) || *to < 0) return jx_fail(x, "a width or precision too large"), NULL;
    }
    while (p < end && strchr("hlL", *p)) p++;
    if (p >= end) return jx_fail(x, "incomplete format"), NULL;
    s.type = *p++;
    if (!strchr("diuoxXeEfFgGcrsa", s.type)) return jx_fail(x, "unsupported format character '%c'", s.type), NULL;
    JVal v = next_value(x, &one);
    if (!keyed) *values = one;
    if (x->failed || !jx_step(x, s.width / 16)) return NULL;
    percent_value(x, out, v, &s);
    return x->failed ? NULL : p;
}

JVal jx_percent(Jx *x, JVal format, JVal value) {
    Str out = {0};
    Values values = {.value = value};
    values.map = value.kind == J_DICT || value.kind == J_LIST || value.kind == J_RANGE || value.kind == J_UNDEF;
    const char *p = format.u.str->s, *end = p + format.u.str->n;
    while (p && p < end && jx_step(x, 1)) {
        if (*p != '%')
            str_putc(&out, *p++);
        else
            p = percent_one(x, &out, p + 1, end, &values);
    }
    size_t given = value.kind == J_TUPLE ? value.u.list->n : 1;
    if (!x->failed && values.at < given && !values.map)
        jx_fail(x, "not all arguments converted during string formatting");
    return jx_markup(x, jx_take(x, &out), format.u.str->markup);
}
