/* jinja_num.c — arithmetic with Python's rules: whole numbers do not overflow, // and % round down, / gives a float. */
#include "text/jinja_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool j_integer(JVal v) { return v.kind == J_BOOL || v.kind == J_INT || v.kind == J_BIG; }
bool j_number(JVal v) { return j_integer(v) || v.kind == J_FLOAT; }

static int64_t small(JVal v) { return v.kind == J_BOOL ? v.u.b : v.u.i; }

bool j_float_of(JVal v, double *f) {
    *f = v.kind == J_FLOAT ? v.u.f : v.kind == J_BIG ? big_double(v) : (double)small(v);
    return v.kind == J_FLOAT || !isinf(*f);
}

/* A whole number against a double, exactly. */
static int order_int_float(JVal i, double f) {
    if (isnan(f)) return 2;
    if (isinf(f)) return f > 0 ? -1 : 1;
    if (i.kind == J_BIG) {
        double d = big_double(i);
        if (fabs(f) < 0x1p63) return i.u.big->negative ? -1 : 1;
        return d < f ? -1 : d > f;
    }
    int64_t v = small(i);
    if (f >= 0x1p63) return -1;
    if (f < -0x1p63) return 1;
    int64_t whole = (int64_t)f;
    if (v != whole) return v < whole ? -1 : 1;
    double rest = f - (double)whole;
    return rest > 0 ? -1 : rest < 0;
}

int j_number_order(JVal a, JVal b) {
    if (a.kind == J_FLOAT && b.kind == J_FLOAT)
        return isnan(a.u.f) || isnan(b.u.f) ? 2 : (a.u.f > b.u.f) - (a.u.f < b.u.f);
    if (b.kind == J_FLOAT) return order_int_float(a, b.u.f);
    if (a.kind == J_FLOAT) {
        int o = order_int_float(b, a.u.f);
        return o == 2 ? 2 : -o;
    }
    if (a.kind == J_BIG || b.kind == J_BIG) return big_order(a, b);
    return (small(a) > small(b)) - (small(a) < small(b));
}

bool jx_int(Jx *x, JVal v, int64_t *i, const char *what) {
    *i = 0;
    if (v.kind == J_UNDEF) {
        jx_undef_error(x, v);
        return false;
    }
    if (v.kind != J_BOOL && v.kind != J_INT) {
        jx_fail(x, "%s: '%s' object cannot be interpreted as an integer", what, j_type(v));
        return false;
    }
    *i = small(v);
    return true;
}

JVal jx_negate(Jx *x, JVal v) {
    if (v.kind == J_UNDEF) return jx_undef_error(x, v);
    if (v.kind == J_FLOAT) return j_float(-v.u.f);
    if (v.kind == J_BIG || (v.kind == J_INT && v.u.i == INT64_MIN)) return big_negate(x, v);
    if (j_integer(v)) return j_int(-small(v));
    return jx_fail(x, "bad operand type for unary -: '%s'", j_type(v));
}

JVal jx_abs(Jx *x, JVal v) {
    if (v.kind == J_FLOAT) return j_float(fabs(v.u.f));
    if (j_integer(v)) return j_number_order(v, j_int(0)) < 0 ? jx_negate(x, v) : v.kind == J_BOOL ? j_int(v.u.b) : v;
    return jx_fail(x, "bad operand type for abs(): '%s'", j_type(v));
}

/* ---- two operands ---- */

static const char *op_text(NodeKind op) {
    static const char *const text[] = {
        [N_ADD] = "+", [N_SUB] = "-", [N_MUL] = "*", [N_DIV] = "/", [N_FLOORDIV] = "//", [N_MOD] = "%", [N_POW] = "**"};
    return text[op];
}

static JVal floor_divide(Jx *x, JVal a, JVal b, bool rest) {
    if (a.kind == J_BIG || b.kind == J_BIG || (small(a) == INT64_MIN && small(b) == -1)) {
        JVal q, r;
        big_divmod(x, a, b, &q, &r);
        return rest ? r : q;
    }
    int64_t p = small(a), d = small(b), q = p / d, r = p % d;
    if (r != 0 && (r < 0) != (d < 0)) {
        q--;
        r += d;
    }
    return j_int(rest ? r : q);
}

static JVal power_int(Jx *x, JVal base, JVal exponent) {
    JVal result = j_int(1);
    if (exponent.kind == J_BIG) {
        int64_t b = base.kind == J_BIG ? 2 : small(base);
        if (b == 0 || b == 1) return j_int(b);
        if (b != -1) return jx_fail(x, "a power too large to compute");
        exponent = j_int(exponent.u.big->d[0] & 1); /* the base of the digits is even */
    }
    for (int64_t e = small(exponent); e > 0 && !x->failed; e >>= 1) {
        if (e & 1) result = jx_arith(x, N_MUL, result, base);
        if (e > 1) base = jx_arith(x, N_MUL, base, base);
    }
    return result;
}

static JVal int_arith(Jx *x, NodeKind op, JVal a, JVal b) {
    bool big = a.kind == J_BIG || b.kind == J_BIG;
    int64_t p = big ? 0 : small(a), q = big ? 0 : small(b), r;
    switch (op) {
    case N_ADD:
        return !big && !__builtin_add_overflow(p, q, &r) ? j_int(r) : big_add(x, a, b, false);
    case N_SUB:
        return !big && !__builtin_sub_overflow(p, q, &r) ? j_int(r) : big_add(x, a, b, true);
    case N_MUL:
        return !big && !__builtin_mul_overflow(p, q, &r) ? j_int(r) : big_mul(x, a, b);
    case N_FLOORDIV:
    case N_MOD:
        if (j_number_order(b, j_int(0)) == 0) return jx_fail(x, "integer division or modulo by zero");
        return floor_divide(x, a, b, op == N_MOD);
    default:
        return power_int(x, a, b);
    }
}

/* Python's floor division of floats: by way of fmod, so that a == (a // b) * b + a % b nearly. */
static void float_divmod(double a, double b, double *quotient, double *rest) {
    double r = fmod(a, b), q = (a - r) / b;
    if (r != 0) {
        if ((b < 0) != (r < 0)) {
            r += b;
            q -= 1;
        }
    } else
        r = copysign(0, b);
    if (q != 0) {
        double f = floor(q);
        if (q - f > 0.5) f += 1;
        q = f;
    } else
        q = copysign(0, a / b);
    *quotient = q;
    *rest = r;
}

static JVal float_power(Jx *x, double a, double b) {
    if (a == 0 && b < 0) return jx_fail(x, "0.0 cannot be raised to a negative power");
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
        return jx_fail(x, "a negative number to a fractional power is complex: not supported");
    double r = pow(a, b);
    if (isinf(r) && isfinite(a) && isfinite(b)) return jx_fail(x, "(34, 'Numerical result out of range')");
    return j_float(r);
}

static JVal float_arith(Jx *x, NodeKind op, double a, double b) {
    double q, r;
    switch (op) {
    case N_ADD:
        return j_float(a + b);
    case N_SUB:
        return j_float(a - b);
    case N_MUL:
        return j_float(a * b);
    case N_POW:
        return float_power(x, a, b);
    default:
        break;
    }
    if (b == 0) return jx_fail(x, "float division by zero");
    if (op == N_DIV) return j_float(a / b);
    float_divmod(a, b, &q, &r);
    return j_float(op == N_MOD ? r : q);
}

/* The double next to the quotient. Beyond 53 bits by way of 40 decimal digits, and a last one that says whether
 * something was left: strtod rounds that right. */
static JVal divide_whole(Jx *x, JVal a, JVal b) {
    int64_t most = (int64_t)1 << 53;
    if (j_number_order(b, j_int(0)) == 0) return jx_fail(x, "division by zero");
    if (a.kind != J_BIG && b.kind != J_BIG && llabs(small(a)) <= most && llabs(small(b)) <= most)
        return j_float((double)small(a) / (double)small(b));
    bool negative = (j_number_order(a, j_int(0)) < 0) != (j_number_order(b, j_int(0)) < 0);
    int na = a.kind == J_BIG ? a.u.big->n : 3, nb = b.kind == J_BIG ? b.u.big->n : 3,
        k = 60 + 9 * (nb > na ? nb - na : 0);
    JVal scaled = int_arith(x, N_MUL, jx_abs(x, a), power_int(x, j_int(10), j_int(k))), q, rest;
    big_divmod(x, scaled, jx_abs(x, b), &q, &rest);
    Str text = {0};
    if (negative) str_putc(&text, '-');
    big_put(x, &text, q);
    str_printf(&text, "%de%d", j_truth(rest) ? 1 : 0, -k - 1);
    double f = strtod(str_get(&text), NULL);
    str_release(&text);
    return isinf(f) ? jx_fail(x, "integer division result too large for a float") : j_float(f);
}

static JVal number_arith(Jx *x, NodeKind op, JVal a, JVal b) {
    bool whole = j_integer(a) && j_integer(b);
    if (whole && op == N_DIV) return divide_whole(x, a, b);
    if (whole && op == N_POW && j_number_order(b, j_int(0)) >= 0) return power_int(x, a, b);
    if (whole && op != N_POW) return int_arith(x, op, a, b);
    double p, q;
    if (!j_float_of(a, &p) || !j_float_of(b, &q)) return jx_fail(x, "int too large to convert to float");
    return float_arith(x, op, p, q);
}

static JVal repeat(Jx *x, JVal seq, JVal times) {
    int64_t n = times.kind == J_BIG ? (times.u.big->negative ? 0 : INT64_MAX) : small(times);
    size_t length = seq.kind == J_STR ? seq.u.str->n : seq.u.list->n;
    if (n < 0 || length == 0) n = 0; /* nothing repeated is nothing, however many times */
    if (n > 0 && n > JINJA_MAX_OUTPUT / (int64_t)length)
        return jx_fail(x, "a sequence repeated %lld times is too long", (long long)n);
    if (seq.kind == J_STR) {
        Str out = {0};
        for (int64_t i = 0; i < n && jx_step(x, (int64_t)length / 64); i++) str_putn(&out, seq.u.str->s, length);
        return jx_markup(x, jx_take(x, &out), seq.u.str->markup);
    }
    if (!jx_step(x, n * (int64_t)length)) return j_none();
    JList *l = jx_list(x, (size_t)n * length);
    for (int64_t i = 0; i < n; i++)
        for (size_t k = 0; k < length; k++) jx_add(x, l, seq.u.list->item[k]);
    return seq.kind == J_LIST ? j_list(l) : j_tuple(l);
}

static JVal add_sequences(Jx *x, JVal a, JVal b) {
    if (a.kind == J_STR) {
        bool markup = a.u.str->markup || b.u.str->markup;
        if (markup) { /* the other side is escaped */
            a = jx_escape(x, a);
            b = jx_escape(x, b);
        }
        size_t n = a.u.str->n, m = b.u.str->n;
        if (n == 0 && !markup) return b;
        if (m == 0 && !markup) return a;
        if (n + m > JINJA_MAX_OUTPUT || !jx_step(x, (int64_t)((n + m) / 64)))
            return jx_fail(x, "a text of %zu bytes is too long", n + m);
        char *s = heap_alloc(&x->heap, n + m + 1);
        memcpy(s, a.u.str->s, n);
        memcpy(s + n, b.u.str->s, m);
        return jx_markup(x, j_str(jx_str_own(x, s, n + m)), markup);
    }
    JList *l = jx_list(x, a.u.list->n + b.u.list->n);
    for (size_t i = 0; i < a.u.list->n; i++) jx_add(x, l, a.u.list->item[i]);
    for (size_t i = 0; i < b.u.list->n; i++) jx_add(x, l, b.u.list->item[i]);
    return a.kind == J_LIST ? j_list(l) : j_tuple(l);
}

JVal jx_arith(Jx *x, NodeKind op, JVal a, JVal b) {
    if (j_number(a) && j_number(b)) return number_arith(x, op, a, b);
    if (op == N_ADD && a.kind == b.kind && (a.kind == J_STR || j_is_seq(a))) return add_sequences(x, a, b);
    if (op == N_MUL && (a.kind == J_STR || j_is_seq(a)) && j_integer(b)) return repeat(x, a, b);
    if (op == N_MUL && (b.kind == J_STR || j_is_seq(b)) && j_integer(a)) return repeat(x, b, a);
    if (op == N_MOD && a.kind == J_STR) return jx_percent(x, a, b);
    if (a.kind == J_UNDEF) return jx_undef_error(x, a);
    if (b.kind == J_UNDEF) return jx_undef_error(x, b);
    return jx_fail(x, "unsupported operand type(s) for %s: '%s' and '%s'", op_text(op), j_type(a), j_type(b));
}

/* ---- conversions ---- */

JVal jx_whole(Jx *x, double f) {
    if (!isfinite(f)) return jx_fail(x, "cannot convert float %s to integer", isnan(f) ? "NaN" : "infinity");
    f = trunc(f);
    if (fabs(f) < 0x1p62) return j_int((int64_t)f);
    char buf[400];
    int n = snprintf(buf, sizeof buf, "%.0f", fabs(f)); /* exact */
    return big_from_digits(x, buf, (size_t)n, 10, f < 0);
}

/* Half to even on the exact value, as Python and printf do. */
static JVal round_float(double v, int digits) {
    char buf[800];
    if (!isfinite(v) || digits > 340) return j_float(v);
    if (digits >= 0) {
        snprintf(buf, sizeof buf, "%.*f", digits, v);
        return j_float(strtod(buf, NULL));
    }
    if (digits < -310) return j_float(copysign(0, v));
    /* To tens: cut the exact decimal expansion there and look at what is cut off. */
    int n = snprintf(buf, sizeof buf, "%.400f", fabs(v)), point = n - 401, cut = point + digits;
    if (cut < 0) return j_float(copysign(0, v));
    char *rest = buf + cut;
    bool above = false;
    for (char *c = rest + 1; *c; c++) above = above || (*c != '0' && *c != '.');
    int last = cut > 0 ? buf[cut - 1] - '0' : 0;
    bool up = *rest > '5' || (*rest == '5' && (above || last % 2 == 1));
    memset(rest, '0', (size_t)(point - cut));
    buf[point] = 0;
    int i = cut;
    while (up && i > 0 && buf[i - 1] == '9') buf[--i] = '0';
    if (up && i > 0) buf[i - 1]++;
    double r = up && i == 0 ? pow(10, point) : strtod(buf, NULL);
    return j_float(copysign(r, v));
}

JVal jx_round(Jx *x, JVal v, int digits) {
    if (v.kind == J_FLOAT) return round_float(v.u.f, digits);
    if (!j_integer(v)) return jx_fail(x, "type %s doesn't define __round__ method", j_type(v));
    if (digits >= 0) return v.kind == J_BOOL ? j_int(v.u.b) : v;
    if (digits < -4000) return j_int(0);
    JVal unit = power_int(x, j_int(10), j_int(-digits)), down = int_arith(x, N_FLOORDIV, v, unit);
    JVal rest = int_arith(x, N_MOD, v, unit), twice = int_arith(x, N_MUL, rest, j_int(2));
    int o = j_number_order(twice, unit);
    bool odd = j_truth(int_arith(x, N_MOD, down, j_int(2)));
    if (o > 0 || (o == 0 && odd)) down = int_arith(x, N_ADD, down, j_int(1));
    return int_arith(x, N_MUL, down, unit);
}

static int digit_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    int l = c | 0x20;
    return l >= 'a' && l <= 'z' ? l - 'a' + 10 : 99;
}

/* White space off both ends, decimal digits of any script as ASCII; false when something else is not ASCII. */
static bool plain_number(Str *out, const char *s, size_t n) {
    size_t len;
    while (n > 0 && j_is_space(j_char(s, n, &len))) s += len, n -= len;
    for (size_t i = 0; i < n; i += len) {
        uint32_t c = j_char(s + i, n - i, &len);
        if (c < 0x80)
            str_putc(out, (char)c);
        else if (j_is_space(c))
            str_putc(out, ' ');
        else if (j_is_decimal(c)) { /* blocks of ten begin with their zero */
            uint32_t zero = c;
            while (c - zero < 9 && j_is_decimal(zero - 1)) zero--;
            str_putc(out, (char)('0' + (c - zero) % 10));
        } else
            return false;
    }
    while (out->n > 0 && j_is_space((unsigned char)out->s[out->n - 1])) out->s[--out->n] = 0;
    return true;
}

static JVal digits_value(Jx *x, const char *s, size_t n, int base, bool negative, bool *ok) {
    Str digits = {0};
    bool under = true; /* one underscore between digits, and after the prefix of a base */
    *ok = n > 0;
    for (size_t i = 0; i < n && *ok; i++) {
        if (s[i] == '_')
            *ok = !under && i + 1 < n;
        else {
            *ok = digit_of(s[i]) < base;
            str_putc(&digits, s[i]);
        }
        under = s[i] == '_';
    }
    JVal v = *ok ? big_from_digits(x, str_get(&digits), digits.n, base, negative) : j_int(0);
    str_release(&digits);
    return v;
}

JVal jx_parse_int(Jx *x, const char *s, size_t n, int base, bool *ok) {
    Str text = {0};
    *ok = plain_number(&text, s, n);
    const char *p = str_get(&text);
    size_t left = text.n;
    bool negative = *p == '-';
    if (*p == '-' || *p == '+') p++, left--;
    int named = left > 2 && p[0] == '0' ? (p[1] | 0x20) : 0, prefix = named == 'x'   ? 16
                                                                      : named == 'o' ? 8
                                                                      : named == 'b' ? 2
                                                                                     : 0;
    if (prefix && (base == prefix || base == 0)) {
        p += 2, left -= 2;
        base = prefix;
        if (*p == '_') p++, left--;
    } else if (base == 0) {
        base = 10;
        for (size_t i = 0; i < left && p[0] == '0'; i++) *ok = *ok && (p[i] == '0' || p[i] == '_'); /* "010" is none */
    }
    JVal v = j_int(0);
    if (*ok) v = digits_value(x, p, left, base, negative, ok);
    str_release(&text);
    return v;
}

bool j_parse_float(const char *s, size_t n, double *f) {
    Str text = {0}, clean = {0};
    bool ok = plain_number(&text, s, n) && text.n > 0;
    for (size_t i = 0; ok && i < text.n; i++) {
        char c = text.s[i];
        if (c == '_') /* between digits only */
            ok = i > 0 && digit_of(text.s[i - 1]) < 10 && digit_of(text.s[i + 1]) < 10;
        else
            str_putc(&clean, c);
    }
    const char *p = str_get(&clean), *q = p + (*p == '+' || *p == '-');
    static const char *const word[] = {"inf", "infinity", "nan"};
    bool named = false;
    for (int i = 0; i < COUNT_OF(word); i++) named = named || strcasecmp(q, word[i]) == 0;
    ok = ok && (named || (strspn(p, "+-0123456789.eE") == clean.n));
    char *end = NULL;
    *f = ok ? strtod(p, &end) : 0;
    ok = ok && end != p && *end == 0;
    str_release(&text);
    str_release(&clean);
    return ok;
}

void jx_put_int(Jx *x, Str *out, JVal v, int base) {
    if (v.kind != J_BIG && base == 10) {
        str_printf(out, "%lld", (long long)small(v));
        return;
    }
    if (base == 10) {
        if (v.u.big->n * 9 > 4300) /* as Python guards its conversion */
            jx_fail(x, "Exceeds the limit (4300 digits) for integer string conversion");
        else
            big_put(x, out, v);
        return;
    }
    bool negative = j_number_order(v, j_int(0)) < 0;
    Str digits = {0};
    JVal left = jx_abs(x, v);
    do {
        JVal rest = int_arith(x, N_MOD, left, j_int(base));
        str_putc(&digits, "0123456789abcdef"[rest.kind == J_INT ? rest.u.i & 15 : 0]);
        left = int_arith(x, N_FLOORDIV, left, j_int(base));
    } while (j_truth(left) && jx_step(x, 1));
    if (negative) str_putc(out, '-');
    for (size_t i = digits.n; i-- > 0;) str_putc(out, digits.s[i]);
    str_release(&digits);
}
