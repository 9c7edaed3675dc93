/* tensor/cuda/gemm.h — what our own matrix products share: operands, tiles, what happens to a finished sum. */
#ifndef DIKAST_TENSOR_CUDA_GEMM_H
#define DIKAST_TENSOR_CUDA_GEMM_H

#include "tensor/cuda/rows.h"

struct Operand { /* row-major, of F32, BF16 or I8 */
    const void *data;
    int64_t ld;
    int rows, cols, dtype;
};

/* d (i, j) = (add ? d : 0) + (sum * scale + bias), sum over c; scale, bias: (j) or NULL */
struct Gemm {
    Operand a, b;
    Mat d;
    const float *scale, *bias;
    int i, j, c;
    bool add;
    unsigned tiles_i, tiles_j;
};

/* Products of one A in one launch, so that the last tiles of one and the first of the next share the machine. */
struct GemmSet {
    Gemm g[LINEAR_MAX];
    unsigned tile0[LINEAR_MAX]; /* the first block of each */
    int n;
};

static inline GemmSet gemm_alone(const Gemm &g) {
    GemmSet s = {};
    s.g[0] = g, s.n = 1;
    return s;
}

__device__ __forceinline__ int gemm_which(const GemmSet &s) {
    int which = 0;
    while (which + 1 < s.n && blockIdx.x >= s.tile0[which + 1]) which++;
    return which;
}

__device__ __forceinline__ float operand_get(const Operand &o, int row, int col) {
    int64_t at = (int64_t)row * o.ld + col;
    if (o.dtype == DTYPE_F32) return ((const float *)o.data)[at];
    if (o.dtype == DTYPE_BF16) return to_f32(((const bf16_t *)o.data)[at]);
    return (float)((const int8_t *)o.data)[at];
}

/* Blocks that run together take neighbouring tiles, eight down before one to the right, and share what they read in L2. */
__device__ __forceinline__ void gemm_tile(const Gemm &g, unsigned tile, int rows, int cols, int *i0, int *j0) {
    const unsigned DOWN = 8;
    unsigned stripe = DOWN * g.tiles_j, first = tile / stripe * DOWN, within = tile % stripe;
    unsigned down = g.tiles_i - first < DOWN ? g.tiles_i - first : DOWN;
    *i0 = (int)(first + within % down) * rows;
    *j0 = (int)(within / down) * cols;
}

__device__ __forceinline__ float gemm_finish(const Gemm &g, int j, float sum) {
    if (g.scale) sum = product(sum, g.scale[j]);
    return g.bias ? sum + g.bias[j] : sum;
}

__device__ __forceinline__ void gemm_put(const Gemm &g, int i, int j, float sum) {
    if (i >= g.i || j >= g.j) return;
    sum = gemm_finish(g, j, sum);
    int64_t at = i * g.d.ld + j;
    if (g.d.half) {
        bf16_t *d = (bf16_t *)g.d.data + at;
        store(d, g.add ? sum + load_f32(d) : sum);
    } else {
        float *d = (float *)g.d.data + at;
        *d = g.add ? sum + *d : sum;
    }
}

/* Elements j and j + 1, j even; g.d.wide: pairs are aligned. */
__device__ __forceinline__ void gemm_put2(const Gemm &g, int i, int j, const float *sum) {
    if (!g.d.wide || i >= g.i || j + 1 >= g.j) {
        gemm_put(g, i, j, sum[0]);
        gemm_put(g, i, j + 1, sum[1]);
        return;
    }
    float v[2] = {gemm_finish(g, j, sum[0]), gemm_finish(g, j + 1, sum[1])};
    int64_t at = i * g.d.ld + j;
    if (g.d.half) {
        uint32_t *d = (uint32_t *)((bf16_t *)g.d.data + at);
        float old[2] = {0, 0};
        if (g.add) two_get(old, *d);
        *d = pack_bf16(g.add ? v[0] + old[0] : v[0], g.add ? v[1] + old[1] : v[1]);
    } else {
        float2 *d = (float2 *)((float *)g.d.data + at);
        if (g.add) v[0] += d->x, v[1] += d->y;
        *d = make_float2(v[0], v[1]);
    }
}

static inline unsigned gemm_grid(Gemm *g, int rows, int cols) {
    g->tiles_i = (unsigned)div_up(g->i, rows), g->tiles_j = (unsigned)div_up(g->j, cols);
    return g->tiles_i * g->tiles_j;
}

#endif
