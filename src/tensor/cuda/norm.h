/* tensor/cuda/norm.h — the order in which a row's squares are added, for norm.cu and for the products that normalize their
 * own rows (few.cu): to the same bits. For .cu files.
 *
 * A row is shared by a group of warps. A lane has pieces of four columns, 128 group apart, and adds their squares in order;
 * then a butterfly over the warp, then one over the group. */
#ifndef DIKAST_TENSOR_CUDA_NORM_H
#define DIKAST_TENSOR_CUDA_NORM_H

#include "tensor/cuda/rows.h"

#include <math.h>

enum { NORM_HELD = 4 }; /* pieces of a lane, at most */

/* Warps that share a row. */
static inline int norm_group(int64_t cols) { return (int)div_up(div_up(cols, 128), NORM_HELD); }

__device__ __forceinline__ float rstd_of(float sum, int64_t cols, float eps) {
    return 1.0f / sqrtf(sum / (float)cols + eps);
}

/* A lane's squares of a row whose pieces are whole and aligned, summed over its warp, which is number `part` of the group. */
__device__ __forceinline__ float norm_squares(const float *row, int64_t cols, int part, int group) {
    float x[NORM_HELD][4], sum = 0;
    UNROLL for (int e = 0; e < NORM_HELD; e++) {
        int64_t col = 4 * ((int)threadIdx.x % 32 + 32 * part) + 128 * group * e;
        whole_get<true, 4>(x[e], row + col, cols - col);
    }
    UNROLL for (int e = 0; e < NORM_HELD; e++)
        UNROLL for (int q = 0; q < 4; q++) sum = fmaf(x[e][q], x[e][q], sum);
    return warp_sum(sum);
}

/* at: (group), the warps' sums; called by whole warps. */
__device__ __forceinline__ float norm_total(const float *at, int group) {
    if (group == 1) return at[0];
    int lane = (int)threadIdx.x % 32;
    return warp_sum(lane < group ? at[lane] : 0.0f);
}

#endif
