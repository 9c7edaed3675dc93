/* tensor/cpu/vec_pairs_bf16.h — vec_pairs.h with AVX512-BF16's instruction. */
#ifndef DIKAST_TENSOR_CPU_VEC_PAIRS_BF16_H
#define DIKAST_TENSOR_CPU_VEC_PAIRS_BF16_H

typedef __m512bh pair16;

INLINE pair16 pair16_load(const uint16_t *p) { return (pair16)_mm512_loadu_si512((const void *)p); }
INLINE pair16 pair16_set1(const uint16_t *p) { return (pair16)two_bf16(p); }
INLINE v16 pair16_dot(pair16 a, pair16 b, v16 sum) { return _mm512_dpbf16_ps(sum, a, b); }

#endif
