/* tensor/cuda/map.h — elementwise operations: out[..] = op(in[..]) for every element of matrices of one shape.
 *
 * A thread takes U pieces that lie a block's width apart, so that their loads are under way together, and writes after it
 * has read all of them: an output may be the same memory as an input of its dtype. Matrices without gaps are one long row.
 * op: struct with operator()(float *out, const float *in), OUT and IN values of one element. */
#ifndef DIKAST_TENSOR_CUDA_MAP_H
#define DIKAST_TENSOR_CUDA_MAP_H

#include "tensor/cuda/rows.h"

enum { MAP_THREADS = 256 };

template <int OUT, int IN> struct MapArgs {
    Mat out[OUT], in[IN];
    int64_t n_piece, cols;
    unsigned per_row; /* pieces; 0: all is one row */
};

/* WHOLE: every piece is there to its last element, which leaves loads without a branch between them. */
template <int TO, int FROM, int N, int U, bool WHOLE, int OUT, int IN, class Op>
__device__ __forceinline__ void map_pieces(const MapArgs<OUT, IN> &a, Op op, int64_t first, const int64_t *row,
                                           const int64_t *col) {
    float x[U][IN][N];
    UNROLL for (int u = 0; u < U; u++)
        if (WHOLE || first + u * MAP_THREADS < a.n_piece) {
            UNROLL for (int i = 0; i < IN; i++)
                mat_get<FROM, N>(x[u][i], a.in[i], row[u] * a.in[i].ld + col[u], WHOLE ? N : a.cols - col[u]);
        }
    UNROLL for (int u = 0; u < U; u++)
        if (WHOLE || first + u * MAP_THREADS < a.n_piece) {
            float y[OUT][N];
            UNROLL for (int j = 0; j < N; j++) {
                float in[IN], out[OUT];
                UNROLL for (int i = 0; i < IN; i++) in[i] = x[u][i][j];
                op(out, in);
                UNROLL for (int i = 0; i < OUT; i++) y[i][j] = out[i];
            }
            UNROLL for (int i = 0; i < OUT; i++)
                mat_put<TO, N>(a.out[i], row[u] * a.out[i].ld + col[u], y[i], WHOLE ? N : a.cols - col[u]);
        }
}

template <int TO, int FROM, int N, int U, int OUT, int IN, class Op>
__global__ void __launch_bounds__(MAP_THREADS) map_kernel(MapArgs<OUT, IN> a, Op op) {
    release_next();
    await_inputs();
    int64_t first = (int64_t)blockIdx.x * (U * MAP_THREADS) + threadIdx.x, row[U], col[U];
    bool whole = true;
    UNROLL for (int u = 0; u < U; u++) {
        int64_t piece = first + u * MAP_THREADS;
        row[u] = 0, col[u] = piece * N;
        if (a.per_row) {
            unsigned r = (unsigned)piece / a.per_row;
            row[u] = r, col[u] = (int64_t)((unsigned)piece - r * a.per_row) * N;
        }
        whole = whole && piece < a.n_piece && col[u] + N <= a.cols;
    }
    if (whole)
        map_pieces<TO, FROM, N, U, true>(a, op, first, row, col);
    else
        map_pieces<TO, FROM, N, U, false>(a, op, first, row, col);
}

/* -- host side --------------------------------------------------------------------------------------------------------- */

template <int TO, int FROM, int N, int OUT, int IN, class Op>
static void map_launch(Backend *be, MapArgs<OUT, IN> a, int64_t rows, Op op) {
    enum { U = (IN == 1 ? 4 : IN == 2 ? 2 : 1) * (N == 1 ? 2 : 1) };
    int64_t per_row = div_up(a.cols, N);
    a.n_piece = rows * per_row;
    a.per_row = rows > 1 ? (unsigned)per_row : 0;
    CHECK(rows == 1 || a.n_piece < INT32_MAX, "elementwise: %lld rows of %lld columns with gaps", (long long)rows,
          (long long)a.cols);
    unsigned grid = (unsigned)div_up(a.n_piece, U * MAP_THREADS);
    LAUNCH_EARLY(be, (map_kernel<TO, FROM, N, U, OUT, IN, Op>), grid, MAP_THREADS, 0, a, op);
}

/* The matrices of a, in pieces of `piece`; true when all are wide. flat: each is one row. */
template <int OUT, int IN> static bool map_mats(MapArgs<OUT, IN> *a, const Tensor *t, bool flat, int piece) {
    bool wide = true;
    for (int i = 0; i < OUT + IN; i++) {
        Tensor one = t[i];
        if (flat) one.rows = 1, one.cols = one.ld = a->cols;
        Mat m = mat_of(one, piece);
        if (one.rows == 1) m.ld = 0;
        wide = wide && m.wide;
        *(i < OUT ? &a->out[i] : &a->in[i - OUT]) = m;
    }
    return wide;
}

/* All of out[0]'s shape, but that an input of one row is given to every row. */
template <int OUT, int IN, class Op> static void map(Backend *be, const Tensor (&out)[OUT], const Tensor (&in)[IN], Op op) {
    int64_t rows = out[0].rows, cols = out[0].cols;
    if (rows == 0 || cols == 0) return;
    Tensor t[OUT + IN];
    for (int i = 0; i < OUT; i++) t[i] = out[i];
    for (int i = 0; i < IN; i++) t[OUT + i] = in[i];
    bool flat = true;
    int half_out = 0, half_in = 0;
    for (int i = 0; i < OUT + IN; i++) {
        flat = flat && (rows == 1 || (t[i].ld == cols && t[i].rows == rows));
        *(i < OUT ? &half_out : &half_in) += t[i].dtype == DTYPE_BF16;
    }
    MapArgs<OUT, IN> a;
    a.cols = flat ? rows * cols : cols;
    if (flat) rows = 1;
    bool to_f32 = half_out == 0, to_half = half_out == OUT, from_f32 = half_in == 0, from_half = half_in == IN;
    if (to_f32 && from_f32 && map_mats(&a, t, flat, 4)) map_launch<KIND_F32, KIND_F32, 4>(be, a, rows, op);
    else if (to_half && from_f32 && map_mats(&a, t, flat, 4)) map_launch<KIND_BF16, KIND_F32, 4>(be, a, rows, op);
    else if (from_f32 && map_mats(&a, t, flat, 4)) map_launch<KIND_ANY, KIND_F32, 4>(be, a, rows, op);
    else if (map_mats(&a, t, flat, 8) && to_half && from_half) map_launch<KIND_BF16, KIND_BF16, 8>(be, a, rows, op);
    else map_launch<KIND_ANY, KIND_ANY, 1>(be, a, rows, op);
}

#endif
