/* tensor/cpu/vec_scalar.h — the 16 lanes one by one, for machines without FMA registers and as the check on the others:
 * plain C, fmaf for every fused step, so it is exact and slow. See vec.h for what each function promises. */
#ifndef DIKAST_TENSOR_CPU_VEC_SCALAR_H
#define DIKAST_TENSOR_CPU_VEC_SCALAR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    float f[16];
} v16;

enum { TILE_ROWS = 2, TILE_VECS = 1, PAIR_ROWS = 2 };
#define MICRO_TILES(T) T(1, 1) T(2, 1)

#define INLINE static inline __attribute__((unused))
#define LANES for (int l = 0; l < 16; l++)

INLINE v16 v16_set1(float x) {
    v16 r;
    LANES r.f[l] = x;
    return r;
}
INLINE v16 v16_load(const float *p) {
    v16 r;
    memcpy(r.f, p, sizeof r.f);
    return r;
}
INLINE void v16_store(float *p, v16 a) { memcpy(p, a.f, sizeof a.f); }
INLINE v16 v16_load_n(const float *p, int n) {
    v16 r = v16_set1(0);
    for (int l = 0; l < n; l++) r.f[l] = p[l];
    return r;
}
INLINE void v16_store_n(float *p, v16 a, int n) {
    for (int l = 0; l < n; l++) p[l] = a.f[l];
}

INLINE float bf16_float(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
INLINE uint16_t float_bf16(float f) { /* to nearest even; a NaN stays one */
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (f != f) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
INLINE v16 v16_load_bf16_n(const uint16_t *p, int n) {
    v16 r = v16_set1(0);
    for (int l = 0; l < n; l++) r.f[l] = bf16_float(p[l]);
    return r;
}
INLINE v16 v16_load_bf16(const uint16_t *p) { return v16_load_bf16_n(p, 16); }
INLINE void v16_store_bf16_n(uint16_t *p, v16 a, int n) {
    for (int l = 0; l < n; l++) p[l] = float_bf16(a.f[l]);
}
INLINE void v16_store_bf16(uint16_t *p, v16 a) { v16_store_bf16_n(p, a, 16); }
INLINE void v16_store_pairs(uint16_t *p, v16 even, v16 odd) {
    LANES p[2 * l] = float_bf16(even.f[l]), p[2 * l + 1] = float_bf16(odd.f[l]);
}
INLINE v16 v16_even(const uint16_t *p) {
    v16 r;
    LANES r.f[l] = bf16_float(p[2 * l]);
    return r;
}
INLINE v16 v16_odd(const uint16_t *p) { return v16_even(p + 1); }
INLINE v16 v16_first(const uint16_t *p) { return v16_set1(bf16_float(p[0])); }
INLINE v16 v16_second(const uint16_t *p) { return v16_set1(bf16_float(p[1])); }
INLINE v16 v16_load_i8(const int8_t *p) {
    v16 r;
    LANES r.f[l] = p[l];
    return r;
}

INLINE v16 v16_add(v16 a, v16 b) {
    LANES a.f[l] += b.f[l];
    return a;
}
INLINE v16 v16_sub(v16 a, v16 b) {
    LANES a.f[l] -= b.f[l];
    return a;
}
INLINE v16 v16_mul(v16 a, v16 b) {
    LANES a.f[l] *= b.f[l];
    return a;
}
INLINE v16 v16_div(v16 a, v16 b) {
    LANES a.f[l] /= b.f[l];
    return a;
}
INLINE v16 v16_sqrt(v16 a) {
    LANES a.f[l] = sqrtf(a.f[l]);
    return a;
}
INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
    LANES a.f[l] = fmaf(a.f[l], b.f[l], c.f[l]);
    return a;
}
/* As maxps and minps: the second operand when either is NaN. */
INLINE v16 v16_max(v16 a, v16 b) {
    LANES a.f[l] = a.f[l] > b.f[l] ? a.f[l] : b.f[l];
    return a;
}
INLINE v16 v16_min(v16 a, v16 b) {
    LANES a.f[l] = a.f[l] < b.f[l] ? a.f[l] : b.f[l];
    return a;
}

INLINE v16 v16_abs(v16 a) {
    LANES a.f[l] = fabsf(a.f[l]);
    return a;
}
INLINE v16 v16_copysign(v16 size, v16 sign) {
    LANES size.f[l] = copysignf(size.f[l], sign.f[l]);
    return size;
}
INLINE v16 v16_select_n(v16 a, v16 b, int n) {
    LANES a.f[l] = l < n ? a.f[l] : b.f[l];
    return a;
}
INLINE v16 v16_select_lt(v16 x, v16 y, v16 a, v16 b) {
    LANES a.f[l] = x.f[l] < y.f[l] ? a.f[l] : b.f[l];
    return a;
}
INLINE v16 v16_pow2_of(v16 t) {
    LANES {
        uint32_t bits;
        memcpy(&bits, &t.f[l], sizeof bits);
        bits <<= 23;
        memcpy(&t.f[l], &bits, sizeof bits);
    }
    return t;
}

INLINE float v16_sum(v16 a) {
    for (int half = 8; half > 0; half /= 2)
        for (int l = 0; l < half; l++) a.f[l] += a.f[l + half];
    return a.f[0];
}
INLINE float v16_top(v16 a) {
    for (int half = 8; half > 0; half /= 2)
        for (int l = 0; l < half; l++) a.f[l] = a.f[l] > a.f[l + half] ? a.f[l] : a.f[l + half];
    return a.f[0];
}

INLINE void v16_load_columns(v16 r[4], const float *p, int64_t ld) {
    for (int i = 0; i < 4; i++) LANES r[i].f[l] = p[l * ld + i];
}
INLINE void v16_load_transposed(v16 r[16], const float *p, int64_t ld) {
    for (int i = 0; i < 16; i++) LANES r[i].f[l] = p[l * ld + i];
}

#endif
