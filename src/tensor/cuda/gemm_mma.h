/* tensor/cuda/gemm_mma.h — D (I,J) = A B over C on tensor cores: BF16 operands, F32 sums.
 *
 *      A  (I,C) row-major, or with A_T its transpose: (C,I) row-major      B  (J,C), or with B_T (C,J)
 *      so  fwd  y  = x w^T    A = x, B = w            dx = dy w   A = dy, B = w with B_T
 *          dw = dy^T x        A = dy with A_T, B = x with B_T
 *
 * An element of D is one chain of m16n8k16 products, C ascending by 16, begun at 0: its bits depend on its row of A and its
 * column of B alone, not on I, on the tile it falls into or on which of the kernels below computed it. So one row (decoding)
 * and a thousand (training) agree, and the choice of tiles is free.
 *
 * Tiles of A and B pass through STAGES buffers of shared memory, filled by asynchronous copies of 16 bytes (8 BF16, a chunk);
 * chunks of a row are permuted so that ldmatrix meets no bank twice. B may be 8-bit whole numbers (LOAD_I8): read ahead into
 * registers and widened on the way to shared memory, exactly. LOAD_ANY: operands that are not aligned, element by element. */
#ifndef DIKAST_TENSOR_CUDA_GEMM_MMA_H
#define DIKAST_TENSOR_CUDA_GEMM_MMA_H

#include "tensor/cuda/gemm.h"

enum { LOAD_WIDE, LOAD_I8, LOAD_ANY };

/* Where chunk q of row r lies in a tile whose rows have N chunks. */
template <int N> __device__ __forceinline__ int chunk_at(int r, int q) {
    return r * N + (N >= 8 ? q ^ (r & 7) : N == 4 ? q ^ (r >> 1 & 3) : q ^ (r >> 2 & 1));
}

/* Four signed bytes as four BF16: 2^23 + (byte + 128) is a float with the byte in its lowest bits. */
__device__ __forceinline__ uint2 widen4(uint32_t bytes) {
    uint32_t b = bytes ^ 0x80808080u;
    float v[4];
    UNROLL for (int i = 0; i < 4; i++) v[i] = __uint_as_float(0x4b000000u | (b >> (8 * i) & 0xff)) - 8388736.0f;
    uint2 r;
    r.x = __float_as_uint(v[0]) >> 16 | (__float_as_uint(v[1]) & 0xffff0000u);
    r.y = __float_as_uint(v[2]) >> 16 | (__float_as_uint(v[3]) & 0xffff0000u);
    return r;
}

/* A tile of ROWS x COLS elements of a row-major operand, and the way it gets to shared memory. */
template <int ROWS, int COLS, int THREADS, int LOAD> struct Loader {
    enum { CHUNKS = COLS / 8, EACH = ROWS * CHUNKS / THREADS, HELD = LOAD == LOAD_I8 ? ROWS * COLS / 16 / THREADS : 1 };
    static_assert(ROWS * CHUNKS % THREADS == 0 && EACH > 0 && (LOAD != LOAD_I8 || ROWS * COLS / 16 % THREADS == 0), "tile");
    uint4 held[HELD] = {};

    __device__ __forceinline__ void start(uint16_t *tile, const Operand &o, int row, int col) {
        if constexpr (LOAD == LOAD_WIDE) {
            UNROLL for (int e = 0; e < EACH; e++) {
                int id = (int)threadIdx.x + e * THREADS, r = id / CHUNKS, q = id % CHUNKS;
                bool there = row + r < o.rows && col + 8 * q < o.cols;
                const uint16_t *from = (const uint16_t *)o.data + (there ? (int64_t)(row + r) * o.ld + col + 8 * q : 0);
                cp_async16(tile + 8 * chunk_at<CHUNKS>(r, q), from, there);
            }
        } else if constexpr (LOAD == LOAD_I8) {
            UNROLL for (int e = 0; e < HELD; e++) {
                int id = (int)threadIdx.x + e * THREADS, r = id / (CHUNKS / 2), q = id % (CHUNKS / 2);
                held[e].x = held[e].y = held[e].z = held[e].w = 0;
                if (row + r < o.rows && col + 16 * q < o.cols)
                    held[e] = *(const uint4 *)((const int8_t *)o.data + (int64_t)(row + r) * o.ld + col + 16 * q);
            }
        }
    }

    /* After what is computed between the two: by now the loads have arrived. */
    __device__ __forceinline__ void finish(uint16_t *tile, const Operand &o, int row, int col) {
        if constexpr (LOAD == LOAD_I8) {
            UNROLL for (int e = 0; e < HELD; e++) {
                int id = (int)threadIdx.x + e * THREADS, r = id / (CHUNKS / 2), q = id % (CHUNKS / 2);
                uint2 a = widen4(held[e].x), b = widen4(held[e].y), c = widen4(held[e].z), d = widen4(held[e].w);
                uint4 lo, hi;
                lo.x = a.x, lo.y = a.y, lo.z = b.x, lo.w = b.y;
                hi.x = c.x, hi.y = c.y, hi.z = d.x, hi.w = d.y;
                *(uint4 *)(tile + 8 * chunk_at<CHUNKS>(r, 2 * q)) = lo;
                *(uint4 *)(tile + 8 * chunk_at<CHUNKS>(r, 2 * q + 1)) = hi;
            }
        } else if constexpr (LOAD == LOAD_ANY) {
            for (int id = (int)threadIdx.x; id < ROWS * COLS; id += THREADS) {
                int r = id / COLS, c = id % COLS;
                float v = 0;
                if (row + r < o.rows && col + c < o.cols) v = operand_get(o, row + r, col + c);
                tile[8 * chunk_at<CHUNKS>(r, c / 8) + c % 8] = to_bf16(v).bits;
            }
        }
    }
};

/* Fragments of 16 x 16 at (outer, c) of a tile: outer is I or J. TURNED: the tile's rows are C. A and B differ in which of the
 * middle two 8 x 8 matrices comes first. */
template <int N, bool TURNED, bool FOR_B>
__device__ __forceinline__ void fragment(uint32_t r[4], const uint16_t *tile, int outer, int c) {
    int lane = (int)threadIdx.x % 32, m = lane / 8, i = lane % 8;
    int down = FOR_B != TURNED ? m / 2 : m % 2, right = FOR_B != TURNED ? m % 2 : m / 2; /* of the matrix, in eights */
    if (TURNED) ldmatrix_x4_t(r, tile + 8 * chunk_at<N>(c + 8 * down + i, outer / 8 + right));
    else ldmatrix_x4(r, tile + 8 * chunk_at<N>(outer + 8 * down + i, c / 8 + right));
}

/* BM x BN tile of D a block, WM x WN a warp, and EXTRA warps that only move data; BK of C a step. LOAD is B's; A is LOAD_ANY when B is, else LOAD_WIDE. */
template <int BM, int BN, int BK, int WM, int WN, int EXTRA, int STAGES, bool A_T, bool B_T, int LOAD>
__global__ void __launch_bounds__(((BM / WM) * (BN / WN) + EXTRA) * 32) mma_kernel(const __grid_constant__ GemmSet set) {
    enum { WARPS = (BM / WM) * (BN / WN), THREADS = (WARPS + EXTRA) * 32, TILE_A = BM * BK, TILE_B = BN * BK };
    enum { A_CHUNKS = (A_T ? BM : BK) / 8, B_CHUNKS = (B_T ? BN : BK) / 8 };
    SHARED_DYNAMIC(shared);
    uint16_t *tile_a = (uint16_t *)shared, *tile_b = tile_a + STAGES * TILE_A;
    Loader<A_T ? BK : BM, A_T ? BM : BK, THREADS, LOAD == LOAD_ANY ? LOAD_ANY : LOAD_WIDE> load_a;
    Loader<B_T ? BK : BN, B_T ? BN : BK, THREADS, LOAD> load_b;
    int i0, j0, which = gemm_which(set);
    const Gemm g = set.g[which];
    gemm_tile(g, blockIdx.x - set.tile0[which], BM, BN, &i0, &j0);
    int n_step = (g.c + BK - 1) / BK, warp = (int)threadIdx.x / 32;
    int wi = warp / (BN / WN) * WM, wj = warp % (BN / WN) * WN;
    float d[WM / 16][WN / 8][4] = {};

    release_next();
    UNROLL for (int s = 0; s < STAGES - 1; s++) { /* in a recording B are weights */
        if (s >= n_step) break;
        load_b.start(tile_b + s * TILE_B, g.b, B_T ? s * BK : j0, B_T ? j0 : s * BK);
        load_b.finish(tile_b + s * TILE_B, g.b, B_T ? s * BK : j0, B_T ? j0 : s * BK);
    }
    await_inputs();
    UNROLL for (int s = 0; s < STAGES - 1; s++) {
        if (s < n_step) {
            load_a.start(tile_a + s * TILE_A, g.a, A_T ? s * BK : i0, A_T ? i0 : s * BK);
            load_a.finish(tile_a + s * TILE_A, g.a, A_T ? s * BK : i0, A_T ? i0 : s * BK);
        }
        cp_async_commit();
    }
    for (int step = 0; step < n_step; step++) {
        cp_async_wait<STAGES - 2>();
        sync_block();
        int next = step + STAGES - 1, into = next % STAGES, from = step % STAGES;
        int c = next * BK;
        if (next < n_step) {
            load_a.start(tile_a + into * TILE_A, g.a, A_T ? c : i0, A_T ? i0 : c);
            load_b.start(tile_b + into * TILE_B, g.b, B_T ? c : j0, B_T ? j0 : c);
        }
        cp_async_commit();
        UNROLL for (int k = 0; k < BK; k += 16) {
            if (EXTRA > 0 && warp >= WARPS) break;
            uint32_t a[WM / 16][4], b[WN / 16][4];
            UNROLL for (int m = 0; m < WM / 16; m++)
                fragment<A_CHUNKS, A_T, false>(a[m], tile_a + from * TILE_A, wi + 16 * m, k);
            UNROLL for (int n = 0; n < WN / 16; n++)
                fragment<B_CHUNKS, B_T, true>(b[n], tile_b + from * TILE_B, wj + 16 * n, k);
            UNROLL for (int m = 0; m < WM / 16; m++)
                UNROLL for (int n = 0; n < WN / 8; n++) mma_bf16(d[m][n], a[m], b[n / 2] + n % 2 * 2);
        }
        if (next < n_step) {
            load_a.finish(tile_a + into * TILE_A, g.a, A_T ? c : i0, A_T ? i0 : c);
            load_b.finish(tile_b + into * TILE_B, g.b, B_T ? c : j0, B_T ? j0 : c);
        }
    }
    if (EXTRA > 0 && warp >= WARPS) return;
    int lane = (int)threadIdx.x % 32;
    UNROLL for (int m = 0; m < WM / 16; m++)
        UNROLL for (int n = 0; n < WN / 8; n++)
            UNROLL for (int half = 0; half < 2; half++)
                gemm_put2(g, i0 + wi + 16 * m + lane / 4 + 8 * half, j0 + wj + 8 * n + lane % 4 * 2, d[m][n] + 2 * half);
}

template <int BM, int BN, int BK, int WM, int WN, int EXTRA, int STAGES, bool A_T, bool B_T, int LOAD>
static void mma_launch(Backend *be, GemmSet set) {
    enum { THREADS = ((BM / WM) * (BN / WN) + EXTRA) * 32 };
    size_t shared = (size_t)STAGES * (BM + BN) * BK * 2;
    unsigned grid = 0;
    for (int i = 0; i < set.n; i++) set.tile0[i] = grid, grid += gemm_grid(&set.g[i], BM, BN);
    LAUNCH_EARLY(be, (mma_kernel<BM, BN, BK, WM, WN, EXTRA, STAGES, A_T, B_T, LOAD>), grid, THREADS, shared, set);
}

#endif
