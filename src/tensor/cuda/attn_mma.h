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

/* Rows [0, ROWS) of `from`, whose row 0 begins at element 0 and whose rows are ld apart, `chunks` of CHUNKS 16-byte chunks of
 * each, to rows PITCH apart; zeros outside [low, high) and behind the chunks. Asynchronous, by THREADS threads of which this is
 * number `thread`. A thread's copies are PER rows apart: one address, one step. */
template <typename T, int CHUNKS, int PITCH, int ROWS, int THREADS>
static __device__ __forceinline__ void mma_copy(T *to, const T *from, int64_t ld, int low, int high, int chunks, int thread) {
    enum { PER = THREADS / CHUNKS, ODD = ROWS % PER != 0 || THREADS % CHUNKS != 0, WIDE = 16 / sizeof(T) };
    const int r = thread / CHUNKS, c = thread % CHUNKS;
    if (ODD && r >= PER) return;
    to += r * PITCH + c * WIDE;
    from += r * ld + c * WIDE;
    if (low <= 0 && high >= ROWS) {
        UNROLL for (int i = 0; i < ROWS; i += PER, from += PER * ld)
            if (!ODD || r + i < ROWS) cp_async16(to + i * PITCH, from, c < chunks);
    } else {
        UNROLL for (int i = 0; i < ROWS; i += PER, from += PER * ld)
            if (!ODD || r + i < ROWS) cp_async16(to + i * PITCH, from, c < chunks && r + i >= low && r + i < high);
    }
}
/* The same to a tile, by a block. */
template <int D, int ROWS, int THREADS>
static __device__ __forceinline__ void mma_fetch(bf16_t *to, const bf16_t *from, int64_t ld, int low, int high, int chunks) {
    mma_copy<bf16_t, D / 8, D + 8, ROWS, THREADS>(to, from, ld, low, high, chunks, (int)threadIdx.x);
}

/* Row g (h 0) or g + 8 (h 1) of 16 rows of a result, times a, to the head that begins at element `at`. */
template <int D>
static __device__ __forceinline__ void mma_store(const AttnMat &m, int64_t at, const float o[D / 8][4], int h, float a, int d_head) {
    at += threadIdx.x % 4 * 2;
    if (m.vec && m.half) {
        UNROLL for (int n = 0; n < D / 8; n++)
            if (n * 8 < d_head) *(uint32_t *)((bf16_t *)m.p + at + n * 8) = pack_bf16(o[n][2 * h] * a, o[n][2 * h + 1] * a);
    } else if (m.vec) {
        UNROLL for (int n = 0; n < D / 8; n++)
            if (n * 8 + (int)threadIdx.x % 4 * 2 < d_head)
                *(float2 *)((float *)m.p + at + n * 8) = make_float2(o[n][2 * h] * a, o[n][2 * h + 1] * a);
    } else {
        UNROLL for (int n = 0; n < D / 8; n++)
            attn_store2(m, at + n * 8, o[n][2 * h] * a, o[n][2 * h + 1] * a, d_head - n * 8 - (int)threadIdx.x % 4 * 2);
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
