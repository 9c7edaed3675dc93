/* tensor/cuda/attn_mma.h — tiles of BF16 rows in shared memory, for the tensor core kernels of attention.
 *
 * A tile's rows are D + 8 elements apart: an odd number of 16-byte chunks, so that the eight rows of every 8x8 matrix that
 * ldmatrix reads lie in different banks, and every fragment's address is one register plus a constant.
 *
 * With g = lane / 4, t = lane % 4, and i the 16 rows or columns that a fragment begins at:
 *   mma_rows     rows of x, 16 of d: A                    x (rows, D)
 *   mma_cols     columns = rows of y, 16 of d: B, twice   y (columns, D): x y^T
 *   mma_sums     16 rows of y to sum over, 16 columns d: B, twice    p y
 * each at element (i, d) + the lane's own offset, which *_lane gives. */
#ifndef DIKAST_TENSOR_CUDA_ATTN_MMA_H
#define DIKAST_TENSOR_CUDA_ATTN_MMA_H

#include "tensor/cuda/attn_dev.h"

template <int D> struct MmaTile {
    enum { PITCH = D + 8, STEPS = D / 16, CHUNKS = D / 8 };
};

/* Rows [0, ROWS) of `from`, whose row 0 begins at element 0 and whose rows are ld apart, `chunks` 16-byte chunks of each; zeros
 * outside [low, high) and behind the chunks. Asynchronous. */
template <int D, int ROWS, int THREADS>
static __device__ __forceinline__ void mma_fetch(bf16_t *to, const bf16_t *from, int64_t ld, int low, int high, int chunks) {
    typedef MmaTile<D> T;
    UNROLL for (int i = 0; i < ROWS * T::CHUNKS; i += THREADS) {
        int at = i + (int)threadIdx.x, r = at / T::CHUNKS, c = at % T::CHUNKS;
        if (ROWS * T::CHUNKS % THREADS != 0 && at >= ROWS * T::CHUNKS) break;
        cp_async16(to + r * T::PITCH + c * 8, from + r * ld + c * 8, r >= low && r < high && c < chunks);
    }
}

template <int D> static __device__ __forceinline__ int mma_rows_lane(void) {
    int lane = (int)threadIdx.x % 32;
    return lane % 16 * MmaTile<D>::PITCH + lane / 16 * 8;
}
template <int D> static __device__ __forceinline__ int mma_cols_lane(void) {
    int lane = (int)threadIdx.x % 32;
    return (lane % 8 + lane / 16 * 8) * MmaTile<D>::PITCH + lane / 8 % 2 * 8;
}
template <int D> static __device__ __forceinline__ int mma_sums_lane(void) { return mma_rows_lane<D>(); }

/* s (16 MT rows, 8 * COLS / 8 columns) += x y^T; at_x, at_y: with the lane's offset; rows of x 16 apart per MT */
template <int D, int MT, int COLS>
static __device__ __forceinline__ void mma_scores(float s[MT][COLS / 8][4], const bf16_t *at_x, const bf16_t *at_y) {
    typedef MmaTile<D> T;
    UNROLL for (int k = 0; k < T::STEPS; k++) {
        uint32_t x[MT][4];
        UNROLL for (int m = 0; m < MT; m++) ldmatrix_x4(x[m], at_x + m * 16 * T::PITCH + k * 16);
        UNROLL for (int n = 0; n < COLS / 16; n++) {
            uint32_t y[4];
            ldmatrix_x4(y, at_y + n * 16 * T::PITCH + k * 16);
            UNROLL for (int m = 0; m < MT; m++) mma_bf16(s[m][2 * n], x[m], y), mma_bf16(s[m][2 * n + 1], x[m], y + 2);
        }
    }
}

/* The same with x in registers. */
template <int D, int MT, int COLS>
static __device__ __forceinline__ void mma_scores_held(float s[MT][COLS / 8][4], const uint32_t x[MT][D / 16][4],
                                                       const bf16_t *at_y) {
    typedef MmaTile<D> T;
    UNROLL for (int k = 0; k < T::STEPS; k++)
        UNROLL for (int n = 0; n < COLS / 16; n++) {
            uint32_t y[4];
            ldmatrix_x4(y, at_y + n * 16 * T::PITCH + k * 16);
            UNROLL for (int m = 0; m < MT; m++) mma_bf16(s[m][2 * n], x[m][k], y), mma_bf16(s[m][2 * n + 1], x[m][k], y + 2);
        }
}

/* 16 columns of scores, as accumulators hold them, to the fragment that sums over them. */
static __device__ __forceinline__ void mma_pack(uint32_t a[4], const float left[4], const float right[4]) {
    a[0] = pack_bf16(left[0], left[1]), a[1] = pack_bf16(left[2], left[3]);
    a[2] = pack_bf16(right[0], right[1]), a[3] = pack_bf16(right[2], right[3]);
}

/* o (16 MT rows, D) += p y over 16 rows of y; at_y: the first of them with the lane's offset */
template <int D, int MT>
static __device__ __forceinline__ void mma_sum(float o[MT][D / 8][4], const uint32_t p[MT][4], const bf16_t *at_y) {
    UNROLL for (int n = 0; n < D / 16; n++) {
        uint32_t y[4];
        ldmatrix_x4_t(y, at_y + n * 16);
        UNROLL for (int m = 0; m < MT; m++) mma_bf16(o[m][2 * n], p[m], y), mma_bf16(o[m][2 * n + 1], p[m], y + 2);
    }
}

#endif
