/* tensor/cpu/vec_pairs.h — 16 x 2 BF16 as an operand of dot products, on machines without an instruction for it: taken
 * apart into the odd and the even ones. pair16_dot adds the odd product first, then the even one, each rounded once: that
 * is what vdpbf16ps does (vec_pairs_bf16.h), so both give the same bits, subnormals apart, which it takes for 0. */
#ifndef DIKAST_TENSOR_CPU_VEC_PAIRS_H
#define DIKAST_TENSOR_CPU_VEC_PAIRS_H

typedef struct {
    v16 even, odd;
} pair16;

INLINE pair16 pair16_load(const uint16_t *p) {
    pair16 r = {v16_even(p), v16_odd(p)};
    return r;
}
/* The same two for all lanes. */
INLINE pair16 pair16_set1(const uint16_t *p) {
    pair16 r = {v16_first(p), v16_second(p)};
    return r;
}
INLINE v16 pair16_dot(pair16 a, pair16 b, v16 sum) { return v16_fma(a.even, b.even, v16_fma(a.odd, b.odd, sum)); }

#endif
