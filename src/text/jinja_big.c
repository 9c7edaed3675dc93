/* jinja_big.c — whole numbers beyond 64 bits, in digits of 1e9: rare in templates, so simple rather than fast. */
#include "text/jinja_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BASE = 1000000000, BASE_DIGITS = 9, MAX_BIG = 1200 /* digits of the base: 10,800 decimal ones */ };

/* A number of either kind as digits. n 0: zero. */
typedef struct {
    bool negative;
    int n;
    const uint32_t *d;
    uint32_t small[3];
} Digits;

static void digits_of(Digits *out, JVal v) {
    if (v.kind == J_BIG) {
        *out = (Digits){.negative = v.u.big->negative, .n = v.u.big->n, .d = v.u.big->d};
        return;
    }
    int64_t i = v.kind == J_BOOL ? v.u.b : v.u.i;
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    out->negative = i < 0;
    out->n = 0;
    for (; u > 0; u /= BASE) out->small[out->n++] = (uint32_t)(u % BASE);
    out->d = out->small;
}

static int order_digits(const uint32_t *a, int n, const uint32_t *b, int m) {
    if (n != m) return n < m ? -1 : 1;
    while (n-- > 0)
        if (a[n] != b[n]) return a[n] < b[n] ? -1 : 1;
    return 0;
}

static JBig *big_new(Jx *x, int n) { return heap_alloc(&x->heap, sizeof(JBig) + (size_t)(n + 1) * sizeof(uint32_t)); }

/* Without leading zeros, as the smallest kind. */
static JVal normal(Jx *x, JBig *b, int n, bool negative) {
    while (n > 0 && b->d[n - 1] == 0) n--;
    if (n > MAX_BIG) return jx_fail(x, "a number of more than %d digits", MAX_BIG * BASE_DIGITS);
    b->n = n;
    b->negative = negative;
    if (n <= 3) {
        uint64_t u = 0;
        bool fits = true;
        for (int i = n; i-- > 0;)
            fits = fits && !__builtin_mul_overflow(u, (uint64_t)BASE, &u) && !__builtin_add_overflow(u, b->d[i], &u);
        if (fits && u <= INT64_MAX) return j_int(negative ? -(int64_t)u : (int64_t)u);
        if (fits && negative && u == (uint64_t)INT64_MAX + 1) return j_int(INT64_MIN);
    }
    JVal v = {J_BIG, {0}};
    v.u.big = b;
    return v;
}

static JVal add_digits(Jx *x, const Digits *a, const Digits *b, bool negative) {
    int n = a->n > b->n ? a->n : b->n;
    JBig *r = big_new(x, n + 1);
    uint32_t carry = 0;
    for (int i = 0; i < n; i++) {
        uint32_t sum = (i < a->n ? a->d[i] : 0) + (i < b->n ? b->d[i] : 0) + carry;
        r->d[i] = sum % BASE;
        carry = sum / BASE;
    }
    r->d[n] = carry;
    return normal(x, r, n + 1, negative);
}

/* |a| >= |b| */
static void subtract_into(uint32_t *out, const uint32_t *a, int n, const uint32_t *b, int m) {
    int64_t borrow = 0;
    for (int i = 0; i < n; i++) {
        int64_t left = (int64_t)a[i] - (i < m ? b[i] : 0) - borrow;
        borrow = left < 0;
        out[i] = (uint32_t)(left + (borrow ? BASE : 0));
    }
}

JVal big_add(Jx *x, JVal a, JVal b, bool subtract) {
    Digits p, q;
    digits_of(&p, a);
    digits_of(&q, b);
    if (subtract) q.negative = !q.negative;
    if (p.negative == q.negative) return add_digits(x, &p, &q, p.negative);
    bool swap = order_digits(p.d, p.n, q.d, q.n) < 0;
    const Digits *large = swap ? &q : &p, *small = swap ? &p : &q;
    JBig *r = big_new(x, large->n);
    subtract_into(r->d, large->d, large->n, small->d, small->n);
    return normal(x, r, large->n, large->negative);
}

JVal big_mul(Jx *x, JVal a, JVal b) {
    Digits p, q;
    digits_of(&p, a);
    digits_of(&q, b);
    if (p.n + q.n > MAX_BIG + 2) return jx_fail(x, "a number of more than %d digits", MAX_BIG * BASE_DIGITS);
    if (!jx_step(x, (int64_t)p.n * q.n / 64)) return j_none();
    JBig *r = big_new(x, p.n + q.n);
    for (int i = 0; i < p.n; i++) {
        uint64_t carry = 0;
        for (int j = 0; j < q.n || carry; j++) {
            uint64_t sum = r->d[i + j] + carry + (j < q.n ? (uint64_t)p.d[i] * q.d[j] : 0);
            r->d[i + j] = (uint32_t)(sum % BASE);
            carry = sum / BASE;
        }
    }
    return normal(x, r, p.n + q.n, p.negative != q.negative);
}

/* Schoolbook: the digit of each place by halving between 0 and BASE, which needs no normalised divisor. */
static uint32_t quotient_digit(const uint32_t *rest, int n, const Digits *b, uint32_t *product) {
    uint32_t low = 0, high = BASE - 1;
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;
        uint64_t carry = 0;
        for (int i = 0; i < b->n; i++) {
            carry += (uint64_t)middle * b->d[i];
            product[i] = (uint32_t)(carry % BASE);
            carry /= BASE;
        }
        product[b->n] = (uint32_t)carry;
        int m = b->n + 1;
        while (m > 0 && product[m - 1] == 0) m--;
        if (order_digits(product, m, rest, n) <= 0)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static void divide_digits(Jx *x, const Digits *a, const Digits *b, JBig **quotient, JBig **rest, int *n_rest) {
    JBig *q = big_new(x, a->n), *r = big_new(x, b->n + 2), *t = big_new(x, b->n + 2);
    int n = 0;
    for (int i = a->n; i-- > 0;) {
        memmove(r->d + 1, r->d, (size_t)n * sizeof *r->d);
        r->d[0] = a->d[i];
        n++;
        while (n > 0 && r->d[n - 1] == 0) n--;
        uint32_t digit = n < b->n ? 0 : quotient_digit(r->d, n, b, t->d);
        q->d[i] = digit;
        if (digit == 0) continue;
        uint64_t carry = 0;
        for (int k = 0; k < b->n; k++) {
            carry += (uint64_t)digit * b->d[k];
            t->d[k] = (uint32_t)(carry % BASE);
            carry /= BASE;
        }
        t->d[b->n] = (uint32_t)carry;
        subtract_into(r->d, r->d, n, t->d, b->n + 1 < n ? b->n + 1 : n);
        while (n > 0 && r->d[n - 1] == 0) n--;
    }
    *quotient = q;
    *rest = r;
    *n_rest = n;
}

void big_divmod(Jx *x, JVal a, JVal b, JVal *quotient, JVal *rest) {
    Digits p, q;
    digits_of(&p, a);
    digits_of(&q, b);
    *quotient = *rest = j_int(0);
    if (!jx_step(x, (int64_t)p.n * q.n / 2)) return;
    JBig *quot, *left;
    int n_left;
    divide_digits(x, &p, &q, &quot, &left, &n_left);
    *quotient = normal(x, quot, p.n, p.negative != q.negative);
    *rest = normal(x, left, n_left, p.negative);
    if (j_truth(*rest) && p.negative != q.negative) { /* downwards, not towards zero */
        *quotient = big_add(x, *quotient, j_int(1), true);
        *rest = big_add(x, *rest, b, false);
    }
}

JVal big_negate(Jx *x, JVal v) { return big_add(x, j_int(0), v, true); }

int big_order(JVal a, JVal b) {
    Digits p, q;
    digits_of(&p, a);
    digits_of(&q, b);
    if (p.negative != q.negative) return p.negative ? -1 : 1;
    int o = order_digits(p.d, p.n, q.d, q.n);
    return p.negative ? -o : o;
}

void big_put(Jx *x, Str *out, JVal v) {
    Digits p;
    digits_of(&p, v);
    jx_step(x, p.n);
    if (p.negative) str_putc(out, '-');
    for (int i = p.n; i-- > 0;) str_printf(out, i == p.n - 1 ? "%u" : "%09u", p.d[i]);
    if (p.n == 0) str_putc(out, '0');
}

/* By way of decimal digits: strtod rounds them right. */
double big_double(JVal v) {
    Digits p;
    digits_of(&p, v);
    Str text = {0};
    if (p.negative) str_putc(&text, '-');
    for (int i = p.n; i-- > 0;) str_printf(&text, "%09u", p.d[i]);
    double f = strtod(str_get(&text), NULL);
    str_release(&text);
    return f;
}

JVal big_from_digits(Jx *x, const char *s, size_t n, int base, bool negative) {
    if (n > (size_t)MAX_BIG * BASE_DIGITS) return jx_fail(x, "a number of more than %d digits", MAX_BIG * BASE_DIGITS);
    JBig *b = big_new(x, (int)n / 4 + 2);
    int used = 0;
    jx_step(x, (int64_t)(n * n / 256));
    for (size_t i = 0; i < n; i++) {
        int c = s[i] | 0x20;
        uint64_t carry = (uint64_t)(c <= '9' ? s[i] - '0' : c - 'a' + 10);
        for (int k = 0; k < used; k++) {
            carry += (uint64_t)b->d[k] * (uint64_t)base;
            b->d[k] = (uint32_t)(carry % BASE);
            carry /= BASE;
        }
        if (carry) b->d[used++] = (uint32_t)carry;
    }
    return normal(x, b, used, negative);
}
