/* tensor/cpu/vec.h — what every kernel is written in: sixteen float lanes, and functions made of them.
 *
 * Each vec_<isa>.h defines v16 and the same primitives: one register on AVX-512, two on AVX2, an array in plain C. All
 * are single IEEE operations (fma rounds once), and sums over lanes go down one tree (l + l+8, then +4, +2, +1), so a
 * kernel gives the same bits on all of them. That needs -ffp-contract=off: a compiler that fuses what it likes would
 * fuse differently per instruction set.
 *
 *      v16_load_n / v16_store_n (p, n)     lanes below n only, n in 0..16; the rest reads as 0 and is not touched
 *      v16_max(a, b), v16_min(a, b)        b when either is NaN: constants go first, so that a NaN survives
 *      v16_select_n(a, b, n)               lanes below n from a, the others from b
 *      v16_select_lt(x, y, a, b)           x < y ? a : b
 *      v16_pow2_of(t)                      t = POW2_SHIFT + n, n whole, -126..128: 2^(n-1), 0 for n = -126
 *      v16_top, v16_sum                    over the lanes
 *      v16_load_bf16, v16_store_bf16, _n   sixteen BF16; stores round to nearest even
 *      v16_even(p), v16_odd(p)             of 32 BF16, every second one; v16_store_pairs(p, even, odd) puts them there
 *      v16_first(p), v16_second(p)         of two BF16, in all lanes
 *      v16_load_i8(p)                      sixteen bytes
 *      v16_load_transposed(r, p, ld)       lane j of r[i] = p[j * ld + i], i and j < 16
 *      v16_load_columns(r, p, ld)          the same for i < 4 only */
#ifndef DIKAST_TENSOR_CPU_VEC_H
#define DIKAST_TENSOR_CPU_VEC_H

#include <math.h>

/* Of a row's tail: `left` elements remain from p on. */
INLINE v16 v16_get(const float *p, int64_t left) { return left >= 16 ? v16_load(p) : v16_load_n(p, (int)left); }
INLINE void v16_put(float *p, v16 a, int64_t left) {
    if (left >= 16)
        v16_store(p, a);
    else
        v16_store_n(p, a, (int)left);
}
INLINE v16 v16_get_bf16(const uint16_t *p, int64_t left) {
    return left >= 16 ? v16_load_bf16(p) : v16_load_bf16_n(p, (int)left);
}
INLINE void v16_put_bf16(uint16_t *p, v16 a, int64_t left) {
    if (left >= 16)
        v16_store_bf16(p, a);
    else
        v16_store_bf16_n(p, a, (int)left);
}
INLINE v16 v16_zero(void) { return v16_set1(0.0f); }
INLINE v16 v16_neg(v16 a) { return v16_sub(v16_set1(-0.0f), a); }

/* 1.5 * 2^23 + 126: adding it rounds to a whole number n and leaves n + 126 in the lowest bits, an exponent field as it
 * stands. */
#define POW2_SHIFT 12583038.0f

/* e^x to about 1 ulp for t = x within -87.4..89. x = n ln 2 + r, -126 <= n <= 128. No step makes a subnormal: on x86
 * each costs some 150 cycles, and every masked score would be one. */
INLINE v16 v16_exp_within(v16 t) {
    const v16 shift = v16_set1(POW2_SHIFT);
    v16 whole = v16_fma(t, v16_set1(1.44269504f), shift), n = v16_sub(whole, shift);
    v16 r = v16_fma(n, v16_set1(-0.693359375f), t);
    r = v16_fma(n, v16_set1(2.12194440e-4f), r);
    v16 p = v16_set1(0.000197892616f);
    p = v16_fma(p, r, v16_set1(0.00139457523f));
    p = v16_fma(p, r, v16_set1(0.0083335042f));
    p = v16_fma(p, r, v16_set1(0.0416662805f));
    p = v16_fma(p, r, v16_set1(0.166666657f));
    p = v16_fma(p, r, v16_set1(0.5f));
    p = v16_add(v16_fma(v16_mul(r, r), p, r), v16_set1(1.0f));
    return v16_mul(v16_add(p, p), v16_pow2_of(whole));
}

/* e^x: 0 below -86.99 (1.65e-38), inf above 88.73, NaN for NaN. */
INLINE v16 v16_exp(v16 x) { return v16_exp_within(v16_max(v16_set1(-87.4f), v16_min(v16_set1(89.0f), x))); }

/* The same for x that is at most 0, or a rounding above. */
INLINE v16 v16_exp_below(v16 x) { return v16_exp_within(v16_max(v16_set1(-87.4f), x)); }

/* 1/(1 + e^-x) */
INLINE v16 v16_sigmoid(v16 x) { return v16_div(v16_set1(1.0f), v16_add(v16_set1(1.0f), v16_exp(v16_neg(x)))); }

/* erf to 8e-8: below 1 x + x p(x^2), else 1 - exp(q(x) - x); both polynomials fitted to the least greatest error. */
INLINE v16 v16_erf(v16 x) {
    v16 t = v16_min(v16_set1(4.1f), v16_abs(x)), s = v16_mul(t, t);
    v16 p = v16_set1(7.88912294e-05f);
    p = v16_fma(p, s, v16_set1(-0.000802084222f));
    p = v16_fma(p, s, v16_set1(0.00518953567f));
    p = v16_fma(p, s, v16_set1(-0.0268544443f));
    p = v16_fma(p, s, v16_set1(0.112836003f));
    p = v16_fma(p, s, v16_set1(-0.37612626f));
    p = v16_fma(p, s, v16_set1(0.128379166f));
    v16 small = v16_fma(t, p, t);
    v16 q = v16_set1(-1.69787015e-07f);
    q = v16_fma(q, t, v16_set1(-1.92621701e-05f));
    q = v16_fma(q, t, v16_set1(0.000426502083f));
    q = v16_fma(q, t, v16_set1(-0.00415376527f));
    q = v16_fma(q, t, v16_set1(0.0251017399f));
    q = v16_fma(q, t, v16_set1(-0.108278461f));
    q = v16_fma(q, t, v16_set1(-0.633332849f));
    q = v16_fma(q, t, v16_set1(-0.129527345f));
    q = v16_fma(q, t, v16_set1(0.000178122471f));
    v16 large = v16_sub(v16_set1(1.0f), v16_exp(v16_sub(q, t)));
    return v16_copysign(v16_select_lt(t, v16_set1(1.0f), small, large), x);
}

#endif
