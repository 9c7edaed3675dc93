/* tensor/cuda/gemm_simt.h — D (I,J) = A B over C without tensor cores: operands of any dtype as F32, F32 sums. Operands and
 * their transposition as in gemm_mma.h.
 *
 * C is cut into segments of SEGMENT. A segment's sum is one chain of fused multiply-adds, C ascending, begun at 0, and the
 * segments' sums are added in order: in both kernels, so that an element's bits depend on its row of A and its column of B
 * alone. Segments are what a product of few rows, which has no other width, is spread over. */
#ifndef DIKAST_TENSOR_CUDA_GEMM_SIMT_H
#define DIKAST_TENSOR_CUDA_GEMM_SIMT_H

#include "tensor/cuda/gemm.h"

/* -- any size: a T x T tile of D a block, R x R a thread in four blocks of R/2 (one of R where R is 4) ------------------ */

enum { SEGMENT = 1024 };
enum { SIMT_THREADS = 256 };

/* Four elements of a row; those outside are 0. */
__device__ __forceinline__ void operand_get4(float *v, const Operand &o, bool wide, int row, int col) {
    int64_t at = (int64_t)row * o.ld + col;
    int left = row < o.rows ? o.cols - col : 0;
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

/* The sums of segments before, of one thread. */
template <int R> __device__ __forceinline__ void segment_add(float *total, float (*d)[R], bool first) {
    UNROLL for (int m = 0; m < R; m++)
        UNROLL for (int n = 0; n < R; n++) {
            float *at = total + (m * R + n) * SIMT_THREADS + threadIdx.x;
            *at = first ? d[m][n] : *at + d[m][n];
            d[m][n] = 0;
        }
}

/* A piece of an operand on its way: row-major in memory, rows of C elements of T outer ones in shared memory. */
template <int T, int BK, bool TURNED> struct SimtLoader {
    enum { PIECES = (TURNED ? T : BK) / 4, LD = T + 4 };
    static_assert(T * BK == 4 * SIMT_THREADS, "one piece a thread");
    float v[4];
    __device__ __forceinline__ void start(const Operand &o, bool wide, int outer, int c) {
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
__global__ void __launch_bounds__(SIMT_THREADS, B_T ? 1 : 2) simt_kernel(Gemm g, bool wide_a, bool wide_b) {
    enum { R = T / 16, LD = T + 4, TILE = BK * LD };
    __shared__ __align__(16) float tile_a[2][TILE], tile_b[2][TILE];
    SHARED_DYNAMIC(shared);
    float *total = (float *)shared; /* where there are segments: (R, R, SIMT_THREADS) */
    SimtLoader<T, BK, A_T> load_a;
    SimtLoader<T, BK, B_T> load_b;
    int i0, j0;
    gemm_tile(g, blockIdx.x, T, T, &i0, &j0);
    int n_step = (g.c + BK - 1) / BK, ti = (int)threadIdx.x / 16 * 4, tj = (int)threadIdx.x % 16 * 4;
    float d[R][R] = {};
    load_a.start(g.a, wide_a, i0, 0);
    load_b.start(g.b, wide_b, j0, 0);
    load_a.finish(tile_a[0]);
    load_b.finish(tile_b[0]);
    for (int step = 0; step < n_step; step++) {
        sync_block();
        if (step + 1 < n_step) {
            load_a.start(g.a, wide_a, i0, (step + 1) * BK);
            load_b.start(g.b, wide_b, j0, (step + 1) * BK);
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
        if (g.c > SEGMENT && ((step + 1) % (SEGMENT / BK) == 0 || step + 1 == n_step))
            segment_add<R>(total, d, step < SEGMENT / BK);
    }
    UNROLL for (int m = 0; m < R; m++)
        UNROLL for (int n = 0; n < R; n++)
            if (g.c > SEGMENT) d[m][n] = total[(m * R + n) * SIMT_THREADS + threadIdx.x];
    UNROLL for (int m = 0; m < R; m++)
        UNROLL for (int n = 0; n < R; n += 2)
            gemm_put2(g, i0 + ti + m / 4 * (T / 2) + m % 4, j0 + tj + n / 4 * (T / 2) + n % 4, d[m] + n);
}

/* -- few rows (decoding): a lane has one column of D and ROWS rows, a warp segments w, w + FEW_WARPS, .. of C, so that w is
 * read once, at the speed of memory ------------------------------------------------------------------------------------
 * A (I,C) F32; B (J,C) of type W; both in aligned pieces of 16 bytes. Every warp has buffers of its own, filled ahead. */

enum { FEW_WARPS = 4, FEW_COLS = 32 };

__device__ __forceinline__ void widen16(float *v, const float *p) { piece_get<4>(v, p); }
__device__ __forceinline__ void widen16(float *v, const bf16_t *p) { piece_get<8>(v, p); }
__device__ __forceinline__ void widen16(float *v, const int8_t *p) {
    uint4 u = *(const uint4 *)p;
    uint32_t word[4] = {u.x, u.y, u.z, u.w};
    UNROLL for (int i = 0; i < 16; i++)
        v[i] = __uint_as_float(0x4b000000u | ((word[i / 4] ^ 0x80808080u) >> (8 * (i % 4)) & 0xff)) - 8388736.0f;
}

template <typename W, int ROWS> struct Few {
    enum {
        PER = 16 / sizeof(W), /* elements of w in a chunk of 16 bytes */
        CHUNKS = sizeof(W) == 1 ? 8 : 16,
        STEP = CHUNKS * PER, /* of C */
        STEPS = SEGMENT / STEP,
        STAGES = sizeof(W) == 1 ? 4 : 3,
        PITCH = (CHUNKS + 1) * 16, /* bytes: an odd number of chunks, so that lanes meet no bank twice */
        W_BYTES = FEW_COLS * PITCH,
        STAGE = W_BYTES + ROWS * STEP * 4
    };
};

/* Where in C this warp's step number t begins. */
template <class F> __device__ __forceinline__ int few_at(int warp, int t) {
    return (warp + t / F::STEPS * FEW_WARPS) * SEGMENT + t % F::STEPS * F::STEP;
}

template <typename W, int ROWS>
__device__ __forceinline__ void few_start(const Gemm &g, unsigned char *stage, int i0, int j0, int c) {
    typedef Few<W, ROWS> F;
    int lane = (int)threadIdx.x % 32;
    UNROLL_4 for (int e = 0; e < F::CHUNKS; e++) {
        int id = lane + 32 * e, r = id / F::CHUNKS, q = id % F::CHUNKS;
        bool there = j0 + r < g.j && c + q * F::PER < g.c;
        const W *from = (const W *)g.b.data + (there ? (int64_t)(j0 + r) * g.b.ld + c + q * F::PER : 0);
        cp_async16(stage + r * F::PITCH + q * 16, from, there);
    }
    for (int id = lane; id < ROWS * (F::STEP / 4); id += 32) {
        int r = id / (F::STEP / 4), q = id % (F::STEP / 4);
        bool there = i0 + r < g.i && c + q * 4 < g.c;
        const float *from = (const float *)g.a.data + (there ? (int64_t)(i0 + r) * g.a.ld + c + q * 4 : 0);
        cp_async16(stage + F::W_BYTES + (r * F::STEP + q * 4) * 4, from, there);
    }
}

/* d: sums of this lane's column */
template <typename W, int ROWS> __device__ __forceinline__ void few_take(float *d, const unsigned char *stage) {
    typedef Few<W, ROWS> F;
    const unsigned char *w = stage + (int)threadIdx.x % 32 * F::PITCH;
    const float *x = (const float *)(stage + F::W_BYTES);
    UNROLL_4 for (int q = 0; q < F::CHUNKS; q++) {
        float b[F::PER];
        widen16(b, (const W *)(w + q * 16));
        UNROLL for (int c = 0; c < F::PER; c += 4)
            UNROLL for (int r = 0; r < ROWS; r++) {
                float a[4];
                piece_get<4>(a, x + r * F::STEP + q * F::PER + c);
                UNROLL for (int i = 0; i < 4; i++) d[r] = fmaf(a[i], b[c + i], d[r]);
            }
    }
}

template <typename W, int ROWS> __global__ void __launch_bounds__(FEW_WARPS * 32) few_kernel(Gemm g) {
    typedef Few<W, ROWS> F;
    SHARED_DYNAMIC(shared);
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, n_segment = (g.c + SEGMENT - 1) / SEGMENT;
    int i0 = (int)(blockIdx.x % g.tiles_i) * ROWS, j0 = (int)(blockIdx.x / g.tiles_i) * FEW_COLS;
    unsigned char *stage = shared + warp * F::STAGES * F::STAGE;
    float *sum = (float *)(shared + FEW_WARPS * F::STAGES * F::STAGE); /* (segments, ROWS, FEW_COLS) */
    UNROLL for (int t = 0; t < F::STAGES - 1; t++) {
        if (few_at<F>(warp, t) < g.c) few_start<W, ROWS>(g, stage + t * F::STAGE, i0, j0, few_at<F>(warp, t));
        cp_async_commit();
    }
    float d[ROWS] = {};
    for (int t = 0; (warp + t / F::STEPS * FEW_WARPS) < n_segment; t++) {
        cp_async_wait<F::STAGES - 2>();
        sync_warp();
        int next = t + F::STAGES - 1;
        if (few_at<F>(warp, next) < g.c)
            few_start<W, ROWS>(g, stage + next % F::STAGES * F::STAGE, i0, j0, few_at<F>(warp, next));
        cp_async_commit();
        if (few_at<F>(warp, t) < g.c) few_take<W, ROWS>(d, stage + t % F::STAGES * F::STAGE);
        if ((t + 1) % F::STEPS) continue;
        UNROLL for (int r = 0; r < ROWS; r++) {
            sum[((warp + t / F::STEPS * FEW_WARPS) * ROWS + r) * FEW_COLS + lane] = d[r];
            d[r] = 0;
        }
    }
    sync_block();
    for (int r = warp; r < ROWS; r += FEW_WARPS) {
        float all = sum[r * FEW_COLS + lane];
        for (int s = 1; s < n_segment; s++) all += sum[(s * ROWS + r) * FEW_COLS + lane];
        gemm_put(g, i0 + r, j0 + lane, all);
    }
}

template <typename W, int ROWS> static size_t few_shared(const Gemm *g) {
    return (size_t)FEW_WARPS * Few<W, ROWS>::STAGES * Few<W, ROWS>::STAGE +
           (size_t)div_up(g->c, SEGMENT) * ROWS * FEW_COLS * sizeof(float);
}

template <typename W, int ROWS> static void few_launch(Backend *be, Gemm g) {
    unsigned grid = gemm_grid(&g, ROWS, FEW_COLS);
    LAUNCH(be, (few_kernel<W, ROWS>), grid, FEW_WARPS * 32, (few_shared<W, ROWS>(&g)), g);
}

/* False: what it needs is not there, nothing is done. */
template <typename W> static bool few(Backend *be, const Gemm &g) {
    if (few_shared<W, 8>(&g) > cuda_impl(be)->shared_max) return false;
    if (g.i == 1) few_launch<W, 1>(be, g);
    else if (g.i <= 4) few_launch<W, 4>(be, g);
    else few_launch<W, 8>(be, g);
    return true;
}

template <int T, int BK, bool A_T, bool B_T> static void simt_launch(Backend *be, Gemm g, bool wide_a, bool wide_b) {
    unsigned grid = gemm_grid(&g, T, T);
    size_t shared = g.c > SEGMENT ? T * T * sizeof(float) : 0;
    LAUNCH(be, (simt_kernel<T, BK, A_T, B_T>), grid, SIMT_THREADS, shared, g, wide_a, wide_b);
}

#endif
