/* tensor/cuda/rows.h — rows of F32 or BF16 in pieces of N consecutive elements, which a thread holds as floats.
 *
 * A piece is one 16-byte access where the matrix lies so (wide) and the piece is whole, else N small ones: the values, and
 * what is computed from them, are the same. KIND says at compile time what all matrices of a kernel are, or that each says
 * itself at run time (a branch that a warp takes together).
 *
 *      F32    N 4: 16 bytes        BF16   N 8: 16 bytes, N 4: 8 bytes
 */
#ifndef DIKAST_TENSOR_CUDA_ROWS_H
#define DIKAST_TENSOR_CUDA_ROWS_H

#include "tensor/cuda/launch.h"

#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#define UNROLL_4 _Pragma("unroll 4")
#else
#define UNROLL
#define UNROLL_4
#endif

enum { KIND_F32, KIND_BF16, KIND_ANY };

struct Mat {
    void *data;
    int64_t ld;
    int half, wide; /* BF16; pieces of N elements are aligned */
};

/* a b, rounded: a compiler that joined it with a sum that follows would round once, elsewhere than the other kernels do. */
__device__ __forceinline__ float product(float a, float b) { return fmaf(a, b, 0.0f); }

/* -- pieces ---------------------------------------------------------------------------------------------------------- */

template <int N> __device__ __forceinline__ void piece_get(float *v, const float *p) {
    UNROLL for (int i = 0; i < N; i += 4) {
        f32x4 x = *(const f32x4 *)(p + i);
        UNROLL for (int q = 0; q < 4; q++) v[i + q] = x.v[q];
    }
}
template <int N> __device__ __forceinline__ void piece_put(float *p, const float *v) {
    UNROLL for (int i = 0; i < N; i += 4) {
        f32x4 x;
        UNROLL for (int q = 0; q < 4; q++) x.v[q] = v[i + q];
        *(f32x4 *)(p + i) = x;
    }
}
__device__ __forceinline__ void two_get(float *v, uint32_t bits) {
    v[0] = __uint_as_float(bits << 16);
    v[1] = __uint_as_float(bits & 0xffff0000u);
}
template <int N> __device__ __forceinline__ void piece_get(float *v, const bf16_t *p) {
    if (N == 4) {
        uint2 x = *(const uint2 *)p;
        two_get(v, x.x), two_get(v + 2, x.y);
    } else {
        uint4 x = *(const uint4 *)p;
        two_get(v, x.x), two_get(v + 2, x.y), two_get(v + 4, x.z), two_get(v + 6, x.w);
    }
}
template <int N> __device__ __forceinline__ void piece_put(bf16_t *p, const float *v) {
    if (N == 4) {
        uint2 x;
        x.x = pack_bf16(v[0], v[1]), x.y = pack_bf16(v[2], v[3]);
        *(uint2 *)p = x;
    } else {
        uint4 x;
        x.x = pack_bf16(v[0], v[1]), x.y = pack_bf16(v[2], v[3]);
        x.z = pack_bf16(v[4], v[5]), x.w = pack_bf16(v[6], v[7]);
        *(uint4 *)p = x;
    }
}

/* left: elements from here to the end of the row; those behind it are 0. */
template <int N, typename T> __device__ __forceinline__ void row_get(float *v, const T *p, bool wide, int64_t left) {
    if (N > 1 && wide && left >= N) {
        piece_get<N>(v, p);
        return;
    }
    UNROLL for (int i = 0; i < N; i++) v[i] = i < left ? load_f32(p + i) : 0.0f;
}
template <int N, typename T> __device__ __forceinline__ void row_put(T *p, const float *v, bool wide, int64_t left) {
    if (N > 1 && wide && left >= N) {
        piece_put<N>(p, v);
        return;
    }
    UNROLL for (int i = 0; i < N; i++)
        if (i < left) store(p + i, v[i]);
}

/* The same where it is known at compile time whether pieces are wide, and these then are whole or behind the end: loads
 * without a branch between them. */
template <bool WIDE, int N, typename T> __device__ __forceinline__ void whole_get(float *v, const T *p, int64_t left) {
    if constexpr (WIDE) {
        UNROLL for (int i = 0; i < N; i++) v[i] = 0;
        if (left > 0) piece_get<N>(v, p);
    } else {
        row_get<N>(v, p, false, left);
    }
}
template <bool WIDE, int N, typename T> __device__ __forceinline__ void whole_put(T *p, const float *v, int64_t left) {
    if constexpr (!WIDE) row_put<N>(p, v, false, left);
    else if (left > 0) piece_put<N>(p, v);
}

/* Piece at element `at` of m. */
template <int KIND, int N> __device__ __forceinline__ void mat_get(float *v, const Mat &m, int64_t at, int64_t left) {
    if (KIND == KIND_BF16 || (KIND == KIND_ANY && m.half))
        row_get<N>(v, (const bf16_t *)m.data + at, KIND == KIND_BF16 || m.wide, left);
    else
        row_get<N>(v, (const float *)m.data + at, KIND == KIND_F32 || m.wide, left);
}
template <int KIND, int N> __device__ __forceinline__ void mat_put(const Mat &m, int64_t at, const float *v, int64_t left) {
    if (KIND == KIND_BF16 || (KIND == KIND_ANY && m.half))
        row_put<N>((bf16_t *)m.data + at, v, KIND == KIND_BF16 || m.wide, left);
    else
        row_put<N>((float *)m.data + at, v, KIND == KIND_F32 || m.wide, left);
}

/* -- host side --------------------------------------------------------------------------------------------------------- */

/* Do accesses of `bytes` to every row begin at multiples of it? */
static inline bool rows_aligned(const void *data, int64_t rows, int64_t ld, size_t element, size_t bytes) {
    return (uintptr_t)data % bytes == 0 && (rows <= 1 || (size_t)ld * element % bytes == 0);
}

static inline Mat mat_of(Tensor t, int piece) {
    size_t size = dtype_bytes(t.dtype), bytes = size * (size_t)piece > 16 ? 16 : size * (size_t)piece;
    Mat m;
    m.data = t.data, m.ld = t.ld, m.half = t.dtype == DTYPE_BF16, m.wide = rows_aligned(t.data, t.rows, t.ld, size, bytes);
    return m;
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Index arrays come from callers that checked them; a wrong one would be a stray access on the device. */
static inline void check_index(const char *op, const int32_t *idx, int64_t n, int64_t limit) {
    for (int64_t i = 0; i < n; i++)
        CHECK(idx[i] >= 0 && idx[i] < limit, "%s: index %lld is %d, expected [0, %lld)", op, (long long)i, (int)idx[i],
              (long long)limit);
}

#endif
