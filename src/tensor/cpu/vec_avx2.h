/* tensor/cpu/vec_avx2.h — the 16 lanes as two registers. See vec.h for what each function promises. */
#ifndef DIKAST_TENSOR_CPU_VEC_AVX2_H
#define DIKAST_TENSOR_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    __m256 lo, hi;
} v16;

/* gemm's register tile: 6 rows x 2 registers = 12 accumulators of 16 */
enum { TILE_ROWS = 6, TILE_VECS = 1, PAIR_ROWS = 4 };
#define MICRO_TILES(T) T(1, 1) T(2, 1) T(3, 1) T(4, 1) T(5, 1) T(6, 1)

#define INLINE static inline __attribute__((always_inline, unused))

/* Lanes below n of 8; n may lie outside 0..8. */
INLINE __m256i lanes_below(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE v16 v16_make(__m256 lo, __m256 hi) {
    v16 r = {lo, hi};
    return r;
}

INLINE v16 v16_set1(float x) { return v16_make(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
INLINE v16 v16_load(const float *p) { return v16_make(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
INLINE void v16_store(float *p, v16 a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
INLINE v16 v16_load_n(const float *p, int n) {
    return v16_make(_mm256_maskload_ps(p, lanes_below(n)), _mm256_maskload_ps(p + 8, lanes_below(n - 8)));
}
INLINE void v16_store_n(float *p, v16 a, int n) {
    _mm256_maskstore_ps(p, lanes_below(n), a.lo);
    _mm256_maskstore_ps(p + 8, lanes_below(n - 8), a.hi);
}

INLINE v16 v16_add(v16 a, v16 b) { return v16_make(_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)); }
INLINE v16 v16_sub(v16 a, v16 b) { return v16_make(_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)); }
INLINE v16 v16_mul(v16 a, v16 b) { return v16_make(_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)); }
INLINE v16 v16_div(v16 a, v16 b) { return v16_make(_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)); }
INLINE v16 v16_sqrt(v16 a) { return v16_make(_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)); }
INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
    return v16_make(_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}
INLINE v16 v16_max(v16 a, v16 b) { return v16_make(_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)); }
INLINE v16 v16_min(v16 a, v16 b) { return v16_make(_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)); }

INLINE v16 v16_abs(v16 a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return v16_make(_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi));
}
INLINE __m256 copysign_8(__m256 size, __m256 sign) {
    __m256 top = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_and_ps(top, sign), _mm256_andnot_ps(top, size));
}
INLINE v16 v16_copysign(v16 size, v16 sign) {
    return v16_make(copysign_8(size.lo, sign.lo), copysign_8(size.hi, sign.hi));
}
INLINE v16 v16_select_n(v16 a, v16 b, int n) {
    return v16_make(_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(lanes_below(n))),
                    _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(lanes_below(n - 8))));
}
INLINE v16 v16_select_lt(v16 x, v16 y, v16 a, v16 b) {
    return v16_make(_mm256_blendv_ps(b.lo, a.lo, _mm256_cmp_ps(x.lo, y.lo, _CMP_LT_OQ)),
                    _mm256_blendv_ps(b.hi, a.hi, _mm256_cmp_ps(x.hi, y.hi, _CMP_LT_OQ)));
}
INLINE __m256 pow2_of_8(__m256 t) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t), 23)); }
INLINE v16 v16_pow2_of(v16 t) { return v16_make(pow2_of_8(t.lo), pow2_of_8(t.hi)); }

INLINE __m256i bf16_bits(__m256 a) { /* rounded to nearest even, in the upper halves; a NaN stays one */
    __m256i x = _mm256_castps_si256(a), odd = _mm256_and_si256(_mm256_srli_epi32(x, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(x, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(r, _mm256_or_si256(x, _mm256_set1_epi32(0x400000)), nan);
}
INLINE __m256 from_bf16(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
INLINE v16 v16_load_bf16(const uint16_t *p) {
    return v16_make(from_bf16(_mm_loadu_si128((const void *)p)), from_bf16(_mm_loadu_si128((const void *)(p + 8))));
}
INLINE __m128i to_bf16(__m256 a) {
    __m256i x = _mm256_srli_epi32(bf16_bits(a), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}
INLINE void v16_store_bf16(uint16_t *p, v16 a) {
    _mm_storeu_si128((void *)p, to_bf16(a.lo));
    _mm_storeu_si128((void *)(p + 8), to_bf16(a.hi));
}
INLINE v16 v16_load_bf16_n(const uint16_t *p, int n) {
    uint16_t h[16] = {0};
    for (int i = 0; i < n; i++) h[i] = p[i];
    return v16_load_bf16(h);
}
INLINE void v16_store_bf16_n(uint16_t *p, v16 a, int n) {
    uint16_t h[16];
    v16_store_bf16(h, a);
    for (int i = 0; i < n; i++) p[i] = h[i];
}
INLINE void v16_store_pairs(uint16_t *p, v16 even, v16 odd) {
    __m256i lo = _mm256_blend_epi16(_mm256_srli_epi32(bf16_bits(even.lo), 16), bf16_bits(odd.lo), 0xaa);
    __m256i hi = _mm256_blend_epi16(_mm256_srli_epi32(bf16_bits(even.hi), 16), bf16_bits(odd.hi), 0xaa);
    _mm256_storeu_si256((void *)p, lo);
    _mm256_storeu_si256((void *)(p + 16), hi);
}
INLINE __m256 even_8(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const void *)p), 16));
}
INLINE __m256 odd_8(const uint16_t *p) {
    __m256i x = _mm256_loadu_si256((const void *)p);
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32((int)0xffff0000u)));
}
INLINE v16 v16_even(const uint16_t *p) { return v16_make(even_8(p), even_8(p + 16)); }
INLINE v16 v16_odd(const uint16_t *p) { return v16_make(odd_8(p), odd_8(p + 16)); }
INLINE __m256i two_bf16(const uint16_t *p) { /* read as one: no way through general registers */
    int both;
    memcpy(&both, p, sizeof both);
    return _mm256_set1_epi32(both);
}
INLINE v16 v16_first(const uint16_t *p) {
    __m256 a = _mm256_castsi256_ps(_mm256_slli_epi32(two_bf16(p), 16));
    return v16_make(a, a);
}
INLINE v16 v16_second(const uint16_t *p) {
    __m256 a = _mm256_castsi256_ps(_mm256_and_si256(two_bf16(p), _mm256_set1_epi32((int)0xffff0000u)));
    return v16_make(a, a);
}
INLINE v16 v16_load_i8(const int8_t *p) {
    return v16_make(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p))),
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(p + 8)))));
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
INLINE float v16_sum(v16 a) { return fold_128(fold_256(_mm256_add_ps(a.lo, a.hi), 0), 0); }
INLINE float v16_top(v16 a) { return fold_128(fold_256(_mm256_max_ps(a.lo, a.hi), 1), 1); }

INLINE __m256 load_halves(const float *p, int64_t ld) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * ld), 1);
}
/* Columns 0..3 of rows 0..7 */
INLINE void load_transposed_8(__m256 r[4], const float *p, int64_t ld) {
    __m256 a = load_halves(p, ld), b = load_halves(p + ld, ld);
    __m256 c = load_halves(p + 2 * ld, ld), d = load_halves(p + 3 * ld, ld);
    __m256 ab = _mm256_unpacklo_ps(a, b), cd = _mm256_unpacklo_ps(c, d);
    r[0] = _mm256_shuffle_ps(ab, cd, 0x44);
    r[1] = _mm256_shuffle_ps(ab, cd, 0xee);
    ab = _mm256_unpackhi_ps(a, b), cd = _mm256_unpackhi_ps(c, d);
    r[2] = _mm256_shuffle_ps(ab, cd, 0x44);
    r[3] = _mm256_shuffle_ps(ab, cd, 0xee);
}

INLINE void v16_load_columns(v16 r[4], const float *p, int64_t ld) {
    __m256 lo[4], hi[4];
    load_transposed_8(lo, p, ld);
    load_transposed_8(hi, p + 8 * ld, ld);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) r[i] = v16_make(lo[i], hi[i]);
}

INLINE void v16_load_transposed(v16 r[16], const float *p, int64_t ld) {
#pragma GCC unroll 4
    for (int q = 0; q < 16; q += 4) v16_load_columns(r + q, p + q, ld);
}

#endif
