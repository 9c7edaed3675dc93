/* tensor/cuda/attn_wgmma.h — what the attention kernels for compute capability 9.0 share (after FlashAttention-3, Shah et al. 2024).
 *
 * A block is one warp group that copies and two that compute, 64 rows each. Tiles go through rings in shared memory: a slot has a
 * barrier `full`, which the copies of 128 threads end, and a barrier `empty`, at which every computing warp arrives once it has read
 * the slot; both sides count its uses. There are as many blocks as multiprocessors, each takes every so manieth
 * piece of work, there and back, so that lists that begin with the heaviest are shared out evenly; the copying warps are ahead by
 * as much as fits, into the next piece of work too. */
#ifndef DIKAST_TENSOR_CUDA_ATTN_WGMMA_H
#define DIKAST_TENSOR_CUDA_ATTN_WGMMA_H

#include "tensor/cuda/attn_mma.h"
#include "tensor/cuda/hopper.h"

enum {
    WG_COPY = 128,                   /* copying threads: the first ones */
    WG_ROWS = 128,                   /* rows of a block: 64 of each computing warp group */
    WG_THREADS = WG_COPY + 2 * 128,
    WG_WARPS = 8,                    /* computing ones */
    WG_COPY_REGS = 40, WG_REGS = 232 /* registers of a thread: 128 (40 + 2 232) = 384 168, which a block starts with */
};

/* Panels of ROWS rows, D columns. */
template <int D, int ROWS> struct Panels {
    enum { PANEL = ROWS * 128, BYTES = D / 64 * PANEL };
};

/* The n-th use of a ring of SLOTS, a power of two: its slot, and the parity of the slot's phase that it is. */
template <int SLOTS> static __device__ __forceinline__ int ring_slot(unsigned n) { return (int)(n % SLOTS); }
template <int SLOTS> static __device__ __forceinline__ unsigned ring_phase(unsigned n) { return n / SLOTS % 2; }
/* Piece number i of this block, of those that are counted from 0 on. */
static __device__ __forceinline__ int wg_piece(int i) {
    return i * (int)gridDim.x + (int)(i % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
}
/* x, which is the same in all lanes, so that the compiler knows: descriptors are then computed once for the warp. */
static __device__ __forceinline__ int uniform(int x) { return shfl(x, 0); }

/* By all lanes of a computing warp. */
static __device__ __forceinline__ void wg_release(Bar *empty) {
    if (threadIdx.x % 32 == 0) bar_arrive(empty);
}

/* Rows [0, ROWS) of `from`, whose rows are ld apart, to panels PANEL bytes apart; zeros outside [low, high). By WG_COPY threads, in
 * the background; four copies at a time, for they have few registers. */
template <int D, int ROWS, int PANEL>
static __device__ __forceinline__ void wg_fetch(unsigned char *to, const bf16_t *from, int64_t ld, int low, int high) {
    enum { CHUNKS = D / 8, PER = WG_COPY / CHUNKS };
    static_assert(PER % 8 == 0 && ROWS % PER == 0, "a thread's copies lie in one column of chunks");
    const int r = (int)threadIdx.x / CHUNKS, c = (int)threadIdx.x % CHUNKS;
    to += c / 8 * PANEL + r * 128 + ((c ^ r) % 8) * 16;
    from += r * ld + c * 8;
    _Pragma("unroll 4") for (int i = 0; i < ROWS; i += PER, from += PER * ld)
        cp_async16(to + i * 128, from, r + i >= low && r + i < high);
}

/* No copying thread ends while a copy of its own is under way. */
static __device__ __forceinline__ void wg_drain(void) {
    cp_async_commit();
    cp_async_wait<0>();
}

/* d (64, 8 C) = x y^T: x (64, D) and y (8 C, D) in panels of X and Y bytes. */
template <int D, int X, int Y, int C>
static __device__ __forceinline__ void wg_scores(float (&d)[C][4], WgmmaDesc x, WgmmaDesc y) {
    wgmma<false, false>(d, x, y);
    UNROLL for (int k = 1; k < D / 16; k++)
        wgmma<true, false>(d, wgmma_step(x, k / 4 * X + k % 4 * 32), wgmma_step(y, k / 4 * Y + k % 4 * 32));
}
/* d (64, D) += p y: p (64, 16 K) in registers, y (16 K, D) in panels. */
template <int D, int K>
static __device__ __forceinline__ void wg_sum(float (&d)[D / 8][4], const uint32_t (&p)[K][4], WgmmaDesc y) {
    UNROLL for (int k = 0; k < K; k++) wgmma<true, true>(d, p[k], wgmma_step(y, k * 2048));
}
/* Scores, as accumulators hold them, to the operand that sums over their columns. */
template <int K> static __device__ __forceinline__ void wg_pack(uint32_t (&p)[K][4], const float (&s)[2 * K][4]) {
    UNROLL for (int k = 0; k < K; k++) mma_pack(p[k], s[2 * k], s[2 * k + 1]);
}
/* Row h (0: g, 1: g + 8) of a warp's 16, times a, to the head that begins at element `at`. */
template <int D>
static __device__ __forceinline__ void wg_store(const AttnMat &m, int64_t at, const float (&o)[D / 8][4], int h, float a) {
    at += threadIdx.x % 4 * 2;
    UNROLL for (int n = 0; n < D / 8; n++) attn_store2(m, at + n * 8, o[n][2 * h] * a, o[n][2 * h + 1] * a, 2);
}

#endif
