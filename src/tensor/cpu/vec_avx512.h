/* tensor/cpu/vec_avx512.h — the 16 lanes as one register. See vec.h for what each function promises. */
#ifndef DIKAST_TENSOR_CPU_VEC_AVX512_H
#define DIKAST_TENSOR_CPU_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m512 v16;

/* gemm's register tile: 8 rows x 3 vectors = 24 accumulators, 3 + 1 operands; with pairs of BF16 taken apart 6 + 2 */
enum { TILE_ROWS = 8, TILE_VECS = 3, PAIR_ROWS = 8 };
// clang-format off
#define MICRO_TILES(T)                                                      \
    T(1, 1) T(2, 1) T(3, 1) T(4, 1) T(5, 1) T(6, 1) T(7, 1) T(8, 1)         \
    T(1, 2) T(2, 2) T(3, 2) T(4, 2) T(5, 2) T(6, 2) T(7, 2) T(8, 2)         \
    T(1, 3) T(2, 3) T(3, 3) T(4, 3) T(5, 3) T(6, 3) T(7, 3) T(8, 3)
// clang-format on

#define INLINE static inline __attribute__((always_inline, unused))

INLINE __mmask16 lanes_below(int n) { return (__mmask16)((1u << n) - 1u); }

INLINE v16 v16_set1(float x) { return _mm512_set1_ps(x); }
INLINE v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void v16_store(float *p, v16 a) { _mm512_storeu_ps(p, a); }
INLINE v16 v16_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(lanes_below(n), p); }
INLINE void v16_store_n(float *p, v16 a, int n) { _mm512_mask_storeu_ps(p, lanes_below(n), a); }

INLINE v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
INLINE v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
INLINE v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
INLINE v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
INLINE v16 v16_sqrt(v16 a) { return _mm512_sqrt_ps(a); }
INLINE v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE v16 v16_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
INLINE v16 v16_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }

INLINE v16 v16_abs(v16 a) { return _mm512_abs_ps(a); }
INLINE v16 v16_copysign(v16 size, v16 sign) {
    __m512i top = _mm512_set1_epi32(INT32_MIN);
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(top, _mm512_castps_si512(sign), _mm512_castps_si512(size), 0xCA));
}
INLINE v16 v16_select_n(v16 a, v16 b, int n) { return _mm512_mask_blend_ps(lanes_below(n), b, a); }
INLINE v16 v16_select_lt(v16 x, v16 y, v16 a, v16 b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), b, a);
}
INLINE v16 v16_pow2_of(v16 t) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t), 23)); }

INLINE __m512i bf16_bits(__m512 a) { /* rounded to nearest even, in the upper halves; a NaN stays one */
    __m512i x = _mm512_castps_si512(a), odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(x, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    return _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), x, _mm512_set1_epi32(0x400000));
}
INLINE v16 v16_from_bf16(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
INLINE v16 v16_load_bf16(const uint16_t *p) { return v16_from_bf16(_mm256_loadu_si256((const void *)p)); }
INLINE v16 v16_load_bf16_n(const uint16_t *p, int n) {
    return v16_from_bf16(_mm256_maskz_loadu_epi16(lanes_below(n), p));
}
INLINE void v16_store_bf16(uint16_t *p, v16 a) {
    _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bf16_bits(a), 16)));
}
INLINE void v16_store_bf16_n(uint16_t *p, v16 a, int n) {
    _mm256_mask_storeu_epi16(p, lanes_below(n), _mm512_cvtepi32_epi16(_mm512_srli_epi32(bf16_bits(a), 16)));
}
INLINE void v16_store_pairs(uint16_t *p, v16 even, v16 odd) {
    __m512i e = _mm512_srli_epi32(bf16_bits(even), 16);
    _mm512_storeu_si512((void *)p, _mm512_mask_blend_epi16(0xaaaaaaaau, e, bf16_bits(odd)));
}
INLINE v16 v16_even(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512((const void *)p), 16));
}
INLINE v16 v16_odd(const uint16_t *p) {
    __m512i x = _mm512_loadu_si512((const void *)p);
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000u)));
}
INLINE __m512i two_bf16(const uint16_t *p) { /* read as one: no way through general registers */
    int both;
    memcpy(&both, p, sizeof both);
    return _mm512_set1_epi32(both);
}
INLINE v16 v16_first(const uint16_t *p) { return _mm512_castsi512_ps(_mm512_slli_epi32(two_bf16(p), 16)); }
INLINE v16 v16_second(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_and_si512(two_bf16(p), _mm512_set1_epi32((int)0xffff0000u)));
}
INLINE v16 v16_load_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}

INLINE __m128 fold_256(__m256 a, int take_max) {
    __m128 lo = _mm256_castps256_ps128(a), hi = _mm256_extractf128_ps(a, 1);
    return take_max ? _mm_max_ps(lo, hi) : _mm_add_ps(lo, hi);
}
INLINE float fold_128(__m128 a, int take_max) {
    __m128 b = _mm_movehl_ps(a, a);
    a = take_max ? _mm_max_ps(a, b) : _mm_add_ps(a, b);
    b = _mm_shuffle_ps(a, a, 0x55);
    return _mm_cvtss_f32(take_max ? _mm_max_ss(a, b) : _mm_add_ss(a, b));
}
INLINE float v16_sum(v16 a) {
    return fold_128(fold_256(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)), 0), 0);
}
INLINE float v16_top(v16 a) {
    return fold_128(fold_256(_mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)), 1), 1);
}

INLINE __m512 zip_pd(__m512 a, __m512 b, int high) {
    __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_castpd_ps(high ? _mm512_unpackhi_pd(x, y) : _mm512_unpacklo_pd(x, y));
}
/* Rows 0, 4, 8, 12 into the quarters of one register. A masked broadcast is a load and a blend, which any vector unit
 * does; an insertion would need the shuffle unit, the scarce one here. */
INLINE __m512 load_quarters(const float *p, int64_t ld) {
    __m512 r = _mm512_castps128_ps512(_mm_loadu_ps(p));
    r = _mm512_mask_broadcast_f32x4(r, 0x00f0, _mm_loadu_ps(p + 4 * ld));
    r = _mm512_mask_broadcast_f32x4(r, 0x0f00, _mm_loadu_ps(p + 8 * ld));
    return _mm512_mask_broadcast_f32x4(r, 0xf000, _mm_loadu_ps(p + 12 * ld));
}

/* What remains is 4x4 inside the quarters: 32 shuffles for sixteen columns, where whole rows would take 64. */
INLINE void v16_load_columns(v16 r[4], const float *p, int64_t ld) {
    __m512 a = load_quarters(p, ld), b = load_quarters(p + ld, ld);
    __m512 c = load_quarters(p + 2 * ld, ld), d = load_quarters(p + 3 * ld, ld);
    __m512 ab = _mm512_unpacklo_ps(a, b), cd = _mm512_unpacklo_ps(c, d);
    r[0] = zip_pd(ab, cd, 0);
    r[1] = zip_pd(ab, cd, 1);
    ab = _mm512_unpackhi_ps(a, b), cd = _mm512_unpackhi_ps(c, d);
    r[2] = zip_pd(ab, cd, 0);
    r[3] = zip_pd(ab, cd, 1);
}

INLINE void v16_load_transposed(v16 r[16], const float *p, int64_t ld) {
#pragma GCC unroll 4
    for (int q = 0; q < 16; q += 4) v16_load_columns(r + q, p + q, ld);
}

#endif
