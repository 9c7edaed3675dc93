/* tensor/cuda/attn_simt.h — tiles of the F32 attention kernels, forward and backward: 256 threads as 16 x 16, thread (tx, ty)
 * has rows ty*RM .. of the tile's 16*RM, and of 64 columns tx, tx+16, tx+32, tx+48. Sums are chains of fmaf in one order,
 * whatever RM, so a row's bits do not depend on how many rows came along. Heads wider than DP go through in chunks. */
#ifndef DIKAST_TENSOR_CUDA_ATTN_SIMT_H
#define DIKAST_TENSOR_CUDA_ATTN_SIMT_H

#include "tensor/cuda/attn_dev.h"

enum { SIMT_THREADS = 256, SIMT_P_PITCH = 68 };

static __device__ __forceinline__ int simt_tx(void) { return (int)threadIdx.x % 16; }
static __device__ __forceinline__ int simt_ty(void) { return (int)threadIdx.x / 16; }

/* Columns [col, col + DP) of one head of 64 rows from `row` on, zeros outside rows [low, high) and behind the head's end. */
template <int DP>
static __device__ __forceinline__ void simt_rows(float *to, const AttnMat &m, int64_t row, int head, int d_head, int col,
                                                 int low, int high) {
    for (int i = (int)threadIdx.x; i < 64 * (DP / 4); i += SIMT_THREADS) {
        int r = i / (DP / 4), c = i % (DP / 4) * 4;
        float4 x = make_float4(0, 0, 0, 0);
        if (r >= low && r < high)
            x = attn_load4(m, (row + r) * m.ld + (int64_t)head * d_head + col + c, d_head - col - c);
        *(float4 *)(to + r * (DP + 4) + c) = x;
    }
}

/* s[i][c] += x[row ty*RM+i] . y[row tx+16c], d ascending; x, y: rows of DP + 4 */
template <int RM, int DP>
static __device__ __forceinline__ void simt_dot(float s[RM][4], const float *x, const float *y) {
    const float *xr = x + simt_ty() * RM * (DP + 4), *yr = y + simt_tx() * (DP + 4);
    _Pragma("unroll 2") for (int d = 0; d < DP; d += 4) {
        float4 b[4];
        UNROLL for (int c = 0; c < 4; c++) b[c] = *(const float4 *)(yr + c * 16 * (DP + 4) + d);
        UNROLL for (int i = 0; i < RM; i++) {
            float4 a = *(const float4 *)(xr + i * (DP + 4) + d);
            UNROLL for (int c = 0; c < 4; c++)
                s[i][c] = fmaf(a.w, b[c].w, fmaf(a.z, b[c].z, fmaf(a.y, b[c].y, fmaf(a.x, b[c].x, s[i][c]))));
        }
    }
}

/* Of a thread's columns in a (rows, DP) result: group c of Simt<DP>::WIDE begins at column simt_col<DP>(c). */
template <int DP> struct Simt {
    enum { COLS = DP / 16, WIDE = COLS < 4 ? COLS : 4, GROUPS = COLS / WIDE };
};
template <int DP> static __device__ __forceinline__ int simt_col(int c) {
    return (c * 16 + simt_tx()) * Simt<DP>::WIDE;
}

/* acc[i] += sum_j p[row ty*RM+i][j] y[row j], sum[i] += sum_j p[..][j], j ascending; p: rows of SIMT_P_PITCH */
template <int RM, int DP>
static __device__ __forceinline__ void simt_add(float acc[RM][DP / 16], float sum[RM], const float *p, const float *y) {
    typedef Simt<DP> S;
    const float *pr = p + simt_ty() * RM * SIMT_P_PITCH;
    for (int j = 0; j < 64; j += 4) {
        float w[RM][4];
        UNROLL for (int i = 0; i < RM; i++) {
            float4 x = *(const float4 *)(pr + i * SIMT_P_PITCH + j);
            w[i][0] = x.x, w[i][1] = x.y, w[i][2] = x.z, w[i][3] = x.w;
        }
        UNROLL for (int e = 0; e < 4; e++) {
            UNROLL for (int i = 0; i < RM; i++) sum[i] += w[i][e];
            UNROLL for (int c = 0; c < S::GROUPS; c++) {
                const float *yr = y + (j + e) * (DP + 4) + simt_col<DP>(c);
                float v[4];
                if (S::WIDE == 4) {
                    float4 x = *(const float4 *)yr;
                    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
                } else {
                    float2 x = *(const float2 *)yr;
                    v[0] = x.x, v[1] = x.y;
                }
                UNROLL for (int i = 0; i < RM; i++)
                    UNROLL for (int k = 0; k < S::WIDE; k++)
                        acc[i][c * S::WIDE + k] = fmaf(w[i][e], v[k], acc[i][c * S::WIDE + k]);
            }
        }
    }
}

/* Row i of the thread's result, times a, to columns [col, ..) of a head that begins at element `at`. */
template <int RM, int DP>
static __device__ __forceinline__ void simt_store(const AttnMat &m, int64_t at, const float *acc, float a, int col, int d_head) {
    typedef Simt<DP> S;
    UNROLL for (int c = 0; c < S::GROUPS; c++)
        UNROLL for (int k = 0; k < S::WIDE; k += 2) {
            int j = col + simt_col<DP>(c) + k;
            attn_store2(m, at + j, acc[c * S::WIDE + k] * a, acc[c * S::WIDE + k + 1] * a, d_head - j);
        }
}

#endif
