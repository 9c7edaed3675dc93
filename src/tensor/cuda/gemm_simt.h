/* tensor/cuda/gemm_simt.h — D (I,J) = A B over C without tensor cores: operands of any dtype as F32, F32 sums. Operands and
 * their transposition as in gemm_mma.h.
 *
 * An element of D is one chain of fused multiply-adds, C ascending, begun at 0, in both kernels: its bits depend on its row of
 * A and its column of B alone. */
#ifndef DIKAST_TENSOR_CUDA_GEMM_SIMT_H
#define DIKAST_TENSOR_CUDA_GEMM_SIMT_H

#include "tensor/cuda/gemm.h"

/* -- any size: a T x T tile of D a block, R x R a thread in four blocks of R/2 (one of R where R is 4) ------------------ */

enum { SIMT_THREADS = 256 };

/* Four elements of a row; those outside are 0. */
__device__ __forceinline__ void operand_get4(float *v, const Operand &o, bool wide, int64_t row, int64_t col) {
    int64_t at = row * o.ld + col, left = row < o.rows ? o.cols - col : 0;
    if (!wide || left < 4) {
        UNROLL for (int q = 0; q < 4; q++) v[q] = q < left ? operand_get(o, row, col + q) : 0.0f;
    } else if (o.dtype == DTYPE_F32) {
        piece_get<4>(v, (const float *)o.data + at);
    } else if (o.dtype == DTYPE_BF16) {
        piece_get<4>(v, (const bf16_t *)o.data + at);
    } else {
        uint32_t four = *(const uint32_t *)((const int8_t *)o.data + at);
        UNROLL for (int q = 0; q < 4; q++) v[q] = (float)(int8_t)(four >> (8 * q));
    }
}

/* A piece of an operand on its way: row-major in memory, rows of C elements of T outer ones in shared memory. */
template <int T, int BK, bool TURNED> struct SimtLoader {
    enum { PIECES = (TURNED ? T : BK) / 4, LD = T + 4 };
    static_assert(T * BK == 4 * SIMT_THREADS, "one piece a thread");
    float v[4];
    __device__ __forceinline__ void start(const Operand &o, bool wide, int64_t outer, int64_t c) {
        int r = (int)threadIdx.x / PIECES, q = (int)threadIdx.x % PIECES * 4;
        if (TURNED) operand_get4(v, o, wide, c + r, outer + q);
        else operand_get4(v, o, wide, outer + r, c + q);
    }
    __device__ __forceinline__ void finish(float *tile) {
        int r = (int)threadIdx.x / PIECES, q = (int)threadIdx.x % PIECES * 4;
        if (TURNED) {
            piece_put<4>(tile + r * LD + q, v);
        } else {
            UNROLL for (int i = 0; i < 4; i++) tile[(q + i) * LD + r] = v[i];
        }
    }
};

template <int T, int BK, bool A_T, bool B_T>
__global__ void __launch_bounds__(SIMT_THREADS, 2) simt_kernel(Gemm g, bool wide_a, bool wide_b) {
    enum { R = T / 16, LD = T + 4, TILE = BK * LD };
    __shared__ __align__(16) float tile_a[2][TILE], tile_b[2][TILE];
    SimtLoader<T, BK, A_T> load_a;
    SimtLoader<T, BK, B_T> load_b;
    int64_t i0, j0;
    gemm_tile(g, T, T, &i0, &j0);
    int n_step = (int)((g.c + BK - 1) / BK), ti = (int)threadIdx.x / 16 * 4, tj = (int)threadIdx.x % 16 * 4;
    float d[R][R] = {};
    load_a.start(g.a, wide_a, i0, 0);
    load_b.start(g.b, wide_b, j0, 0);
    load_a.finish(tile_a[0]);
    load_b.finish(tile_b[0]);
    for (int step = 0; step < n_step; step++) {
        sync_block();
        if (step + 1 < n_step) {
            load_a.start(g.a, wide_a, i0, (int64_t)(step + 1) * BK);
            load_b.start(g.b, wide_b, j0, (int64_t)(step + 1) * BK);
        }
        const float *from_a = tile_a[step % 2] + ti, *from_b = tile_b[step % 2] + tj;
        UNROLL for (int c = 0; c < BK; c++) {
            float a[R], b[R];
            UNROLL for (int q = 0; q < R; q += 4) {
                piece_get<4>(a + q, from_a + c * LD + q * (T / 8));
                piece_get<4>(b + q, from_b + c * LD + q * (T / 8));
            }
            UNROLL for (int m = 0; m < R; m++)
                UNROLL for (int n = 0; n < R; n++) d[m][n] = fmaf(a[m], b[n], d[m][n]);
        }
        if (step + 1 < n_step) {
            load_a.finish(tile_a[(step + 1) % 2]);
            load_b.finish(tile_b[(step + 1) % 2]);
        }
    }
    UNROLL for (int m = 0; m < R; m++)
        UNROLL for (int n = 0; n < R; n += 2)
            gemm_put2(g, i0 + ti + m / 4 * (T / 2) + m % 4, j0 + tj + n / 4 * (T / 2) + n % 4, d[m] + n);
}

/* -- few rows (decoding): a thread has one column of D and ROWS rows, so that w is read once, at the speed of memory -------
 * A (I,C) F32, I <= FEW_WARPS * ROWS; B (J,C) of type W; both aligned to 16 bytes. Copies run ahead in STAGES buffers. */

enum { FEW_WARPS = 4, FEW_COLS = 32, FEW_STEP = 128 };

__device__ __forceinline__ void widen16(float *v, const float *p) { piece_get<4>(v, p); }
__device__ __forceinline__ void widen16(float *v, const bf16_t *p) { piece_get<8>(v, p); }
__device__ __forceinline__ void widen16(float *v, const int8_t *p) {
    uint4 u = *(const uint4 *)p;
    uint32_t word[4] = {u.x, u.y, u.z, u.w};
    UNROLL for (int i = 0; i < 16; i++)
        v[i] = __uint_as_float(0x4b000000u | ((word[i / 4] ^ 0x80808080u) >> (8 * (i % 4)) & 0xff)) - 8388736.0f;
}

template <typename W> struct FewTile {
    enum {
        PER = 16 / sizeof(W), /* elements of w a chunk */
        CHUNKS = FEW_STEP / PER,
        PITCH = (CHUNKS + 1) * 16, /* bytes; an odd number of chunks: lanes meet no bank twice */
        W_BYTES = FEW_COLS * PITCH
    };
};

template <typename W, int ROWS>
__device__ __forceinline__ void few_start(const Gemm &g, unsigned char *stage, int64_t j0, int64_t c) {
    typedef FewTile<W> F;
    for (int id = (int)threadIdx.x; id < FEW_COLS * F::CHUNKS; id += FEW_WARPS * 32) {
        int r = id / F::CHUNKS, q = id % F::CHUNKS;
        bool there = j0 + r < g.j && c + q * F::PER < g.c;
        const W *from = (const W *)g.b.data + (there ? (j0 + r) * g.b.ld + c + q * F::PER : 0);
        cp_async16(stage + r * F::PITCH + q * 16, from, there);
    }
    unsigned char *x = stage + F::W_BYTES;
    for (int id = (int)threadIdx.x; id < FEW_WARPS * ROWS * (FEW_STEP / 4); id += FEW_WARPS * 32) {
        int r = id / (FEW_STEP / 4), q = id % (FEW_STEP / 4);
        bool there = r < g.i && c + q * 4 < g.c;
        const float *from = (const float *)g.a.data + (there ? r * g.a.ld + c + q * 4 : 0);
        cp_async16(x + r * (FEW_STEP * 4) + q * 16, from, there);
    }
}

template <typename W, int ROWS, int STAGES> __global__ void __launch_bounds__(FEW_WARPS * 32) few_kernel(Gemm g) {
    typedef FewTile<W> F;
    enum { STAGE = F::W_BYTES + FEW_WARPS * ROWS * FEW_STEP * 4 };
    SHARED_DYNAMIC(shared);
    int lane = (int)threadIdx.x % 32, first = (int)threadIdx.x / 32 * ROWS, n_step = (int)((g.c + FEW_STEP - 1) / FEW_STEP);
    int64_t j0 = (int64_t)blockIdx.x * FEW_COLS;
    float d[ROWS] = {};
    UNROLL for (int s = 0; s < STAGES - 1; s++) {
        if (s < n_step) few_start<W, ROWS>(g, shared + s * STAGE, j0, (int64_t)s * FEW_STEP);
        cp_async_commit();
    }
    for (int step = 0; step < n_step; step++) {
        cp_async_wait<STAGES - 2>();
        sync_block();
        int next = step + STAGES - 1;
        if (next < n_step) few_start<W, ROWS>(g, shared + next % STAGES * STAGE, j0, (int64_t)next * FEW_STEP);
        cp_async_commit();
        if (first >= g.i) continue;
        const unsigned char *w = shared + step % STAGES * STAGE, *x = w + F::W_BYTES + first * (FEW_STEP * 4);
        UNROLL for (int q = 0; q < F::CHUNKS; q++) {
            float b[F::PER];
            widen16(b, (const W *)(w + lane * F::PITCH + q * 16));
            UNROLL for (int c = 0; c < F::PER; c += 4)
                UNROLL for (int r = 0; r < ROWS; r++) {
                    float a[4];
                    piece_get<4>(a, (const float *)(x + r * (FEW_STEP * 4)) + q * F::PER + c);
                    UNROLL for (int i = 0; i < 4; i++) d[r] = fmaf(a[i], b[c + i], d[r]);
                }
        }
    }
    UNROLL for (int r = 0; r < ROWS; r++) gemm_put(g, first + r, j0 + lane, d[r]);
}

template <typename W, int ROWS, int STAGES> static void few_launch_rows(Backend *be, Gemm g) {
    size_t shared = STAGES * (FewTile<W>::W_BYTES + (size_t)FEW_WARPS * ROWS * FEW_STEP * 4);
    unsigned grid = (unsigned)div_up(g.j, FEW_COLS);
    LAUNCH(be, (few_kernel<W, ROWS, STAGES>), grid, FEW_WARPS * 32, shared, g);
}

template <typename W, int STAGES> static void few_launch(Backend *be, Gemm g) {
    if (g.i <= FEW_WARPS) few_launch_rows<W, 1, STAGES>(be, g);
    else if (g.i <= 2 * FEW_WARPS) few_launch_rows<W, 2, STAGES>(be, g);
    else few_launch_rows<W, 8, STAGES>(be, g);
}

#endif
