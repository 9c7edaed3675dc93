/* tensor/cuda/norm.cu — RMSNorm and LayerNorm.
 *
 * A row is held in registers by a group of warps, up to four pieces of four columns a lane, so that it is read once;
 * groups of up to four warps share a block. How many warps follows from the columns alone, and with them the order of
 * every sum: a row's bits do not depend on its company. Rows of more than LONGEST_HELD columns are read again for each
 * pass.
 *
 * Backward: with h = (x - mu) r and g = dy w:  dx (+)= r (g - mean(g) - h mean(g h));  dw += sum dy h;  db += sum dy;
 * RMSNorm has mu = mean(g) = 0. A group walks down its rows with the sums of its columns in registers, blocks leave one
 * row of partial sums each, and these are added in order: NORM_BLOCKS is a constant, so the bits do not depend on the
 * GPU. */
#include "tensor/cuda/norm.h"

namespace {

/* NORM_BLOCKS: two a multiprocessor of the largest GPUs; column sums of so few rows need no scratch of their own. */
enum {
    HELD = NORM_HELD,
    GROUP_MAX = 16,
    LONGEST_HELD = 4 * 32 * HELD * GROUP_MAX,
    NORM_BLOCKS = 264,
    LONG_THREADS = 512
};

struct Shape {
    int64_t rows, cols;
    int group, workers; /* warps a row; rows a block */
    bool wide;          /* all pieces are aligned and whole */
};

/* at: (VALUES, 32), not used again before the next barrier but one. */
template <int VALUES> __device__ __forceinline__ void group_sums(float *v, float *at, int group) {
    UNROLL for (int i = 0; i < VALUES; i++) v[i] = warp_sum(v[i]);
    if (group == 1) return;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    UNROLL for (int i = 0; i < VALUES; i++) if (lane == 0) at[i * 32 + warp] = v[i];
    sync_block();
    UNROLL for (int i = 0; i < VALUES; i++) v[i] =
        warp_sum(lane < group ? at[i * 32 + warp / group * group + lane] : 0.0f);
}

/* -- forward
 * ----------------------------------------------------------------------------------------------------------- */

struct NormFwd {
    Mat y;
    const float *x, *w, *b;
    float *mean, *rstd; /* or NULL */
    int64_t ld_x, ld_mean, ld_rstd;
    Shape s;
    float eps;
};

template <bool CENTRED, bool WIDE>
__device__ __forceinline__ void norm_put(const NormFwd &a, int64_t row, int64_t col, const float *x, float mu,
                                         float r) {
    float y[4], w[4], b[4];
    int64_t left = a.s.cols - col;
    whole_get<WIDE, 4>(w, a.w + col, left);
    if (CENTRED) whole_get<WIDE, 4>(b, a.b + col, left);
    UNROLL for (int q = 0; q < 4; q++) y[q] = CENTRED ? fmaf((x[q] - mu) * r, w[q], b[q]) : x[q] * r * w[q];
    if (a.y.half)
        whole_put<WIDE, 4>((bf16_t *)a.y.data + row * a.y.ld + col, y, left);
    else
        whole_put<WIDE, 4>((float *)a.y.data + row * a.y.ld + col, y, left);
}

template <bool CENTRED>
__device__ __forceinline__ void statistics_put(const NormFwd &a, int64_t row, float mu, float r) {
    if (CENTRED && a.mean) a.mean[row * a.ld_mean] = mu;
    if (a.rstd) a.rstd[row * a.ld_rstd] = r;
}

template <bool CENTRED, bool WIDE, int E> __global__ void __launch_bounds__(512) norm_fwd_kernel(NormFwd a) {
    __shared__ float at[2][32];
    release_next();
    await_inputs();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = a.s.group;
    int64_t row = (int64_t)blockIdx.x * a.s.workers + warp / group, first = 4 * (lane + 32 * (warp % group));
    bool active = row < a.s.rows;
    float x[E][4], mu = 0, sum = 0;
    UNROLL for (int e = 0; e < E; e++) {
        int64_t col = first + 128 * group * e;
        whole_get<WIDE, 4>(x[e], a.x + row * a.ld_x + col, active ? a.s.cols - col : 0);
    }
    if (CENTRED) {
        UNROLL for (int e = 0; e < E; e++) sum += (x[e][0] + x[e][1]) + (x[e][2] + x[e][3]);
        group_sums<1>(&sum, at[0], group);
        mu = sum / (float)a.s.cols;
        sum = 0;
    }
    UNROLL for (int e = 0; e < E; e++) UNROLL for (int q = 0; q < 4; q++) {
        float d = x[e][q] - mu;
        if (CENTRED && first + 128 * group * e + q >= a.s.cols) d = 0;
        sum = fmaf(d, d, sum);
    }
    group_sums<1>(&sum, at[1], group);
    float r = rstd_of(sum, a.s.cols, a.eps);
    if (!active) return;
    UNROLL for (int e = 0; e < E; e++) if (first + 128 * group * e < a.s.cols)
        norm_put<CENTRED, WIDE>(a, row, first + 128 * group * e, x[e], mu, r);
    if (first == 0) statistics_put<CENTRED>(a, row, mu, r);
}

template <bool CENTRED, bool WIDE> __global__ void __launch_bounds__(LONG_THREADS) norm_fwd_long_kernel(NormFwd a) {
    __shared__ float at[LONG_THREADS / 32];
    release_next();
    await_inputs();
    const float *row = a.x + blockIdx.x * a.ld_x;
    int64_t first = 4 * threadIdx.x, cols = a.s.cols;
    float x[4], mu = 0, sum = 0;
    if (CENTRED) {
        for (int64_t col = first; col < cols; col += 4 * LONG_THREADS) {
            whole_get<WIDE, 4>(x, row + col, cols - col);
            sum += (x[0] + x[1]) + (x[2] + x[3]);
        }
        mu = block_sum(sum, at, LONG_THREADS / 32) / (float)cols;
        sum = 0;
    }
    for (int64_t col = first; col < cols; col += 4 * LONG_THREADS) {
        whole_get<WIDE, 4>(x, row + col, cols - col);
        UNROLL for (int q = 0; q < 4; q++) if (col + q < cols) sum = fmaf(x[q] - mu, x[q] - mu, sum);
    }
    float r = rstd_of(block_sum(sum, at, LONG_THREADS / 32), cols, a.eps);
    for (int64_t col = first; col < cols; col += 4 * LONG_THREADS) {
        whole_get<WIDE, 4>(x, row + col, cols - col);
        norm_put<CENTRED, WIDE>(a, blockIdx.x, col, x, mu, r);
    }
    if (first == 0) statistics_put<CENTRED>(a, blockIdx.x, mu, r);
}

/* -- backward
 * ---------------------------------------------------------------------------------------------------------- */

struct NormBwd {
    float *dx, *dw, *db; /* dw, db: (blocks, cols) of partial sums, or NULL */
    const float *dy, *x, *w, *mean, *rstd;
    int64_t ld_dx, ld_dy, ld_x, ld_mean, ld_rstd;
    Shape s;
    bool add;
};

/* One row of sums a block, from those of its workers. red: (workers, cols). */
template <int E>
__device__ __forceinline__ void sums_put(float *out, float (*sum)[4], float *red, const Shape &s, int64_t first,
                                         int worker) {
    if (!out) return;
    sync_block();
    UNROLL for (int e = 0; e < E; e++) UNROLL for (int q = 0; q < 4; q++) {
        int64_t col = first + 128 * s.group * e + q;
        if (col < s.cols) red[worker * s.cols + col] = sum[e][q];
    }
    sync_block();
    for (int64_t col = threadIdx.x; col < s.cols; col += blockDim.x) {
        float total = red[col];
        for (int k = 1; k < s.workers; k++) total += red[k * s.cols + col];
        out[blockIdx.x * s.cols + col] = total;
    }
}

template <bool CENTRED, bool WIDE, int E> __global__ void __launch_bounds__(512) norm_bwd_kernel(NormBwd a) {
    __shared__ float at[2][2 * 32];
    SHARED_DYNAMIC(red);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = a.s.group, turn = 0;
    int64_t first = 4 * (lane + 32 * (warp % group)), step = (int64_t)gridDim.x * a.s.workers;
    float dw[E][4] = {}, db[CENTRED ? E : 1][4] = {};
    for (int64_t base = (int64_t)blockIdx.x * a.s.workers; base < a.s.rows; base += step, turn ^= 1) {
        int64_t row = base + warp / group;
        bool active = row < a.s.rows;
        float h[E][4], g[E][4], dx[E][4], sum[2] = {0, 0};
        UNROLL for (int e = 0; e < E; e++) {
            int64_t col = first + 128 * group * e, left = active ? a.s.cols - col : 0;
            whole_get<WIDE, 4>(h[e], a.x + row * a.ld_x + col, left);
            whole_get<WIDE, 4>(g[e], a.dy + row * a.ld_dy + col, left);
            if (a.add) whole_get<WIDE, 4>(dx[e], a.dx + row * a.ld_dx + col, left);
        }
        float r = active ? a.rstd[row * a.ld_rstd] : 0, mu = CENTRED && active ? a.mean[row * a.ld_mean] : 0;
        UNROLL for (int e = 0; e < E; e++) {
            int64_t col = first + 128 * group * e;
            float w[4];
            whole_get<WIDE, 4>(w, a.w + col, a.s.cols - col);
            UNROLL for (int q = 0; q < 4; q++) {
                float dy = g[e][q];
                h[e][q] = CENTRED ? (h[e][q] - mu) * r : h[e][q] * r;
                g[e][q] = dy * w[q];
                sum[0] = fmaf(g[e][q], h[e][q], sum[0]);
                dw[e][q] = fmaf(dy, h[e][q], dw[e][q]);
                if (CENTRED) sum[1] += g[e][q], db[e][q] += dy;
            }
        }
        group_sums<CENTRED ? 2 : 1>(sum, at[turn], group);
        float gh_mean = sum[0] / (float)a.s.cols, g_mean = CENTRED ? sum[1] / (float)a.s.cols : 0;
        if (!active) continue;
        UNROLL for (int e = 0; e < E; e++) {
            int64_t col = first + 128 * group * e;
            float d[4];
            UNROLL for (int q = 0; q < 4; q++) {
                d[q] = r * fmaf(-h[e][q], gh_mean, g[e][q] - g_mean);
                if (a.add) d[q] += dx[e][q];
            }
            whole_put<WIDE, 4>(a.dx + row * a.ld_dx + col, d, a.s.cols - col);
        }
    }
    sums_put<E>(a.dw, dw, (float *)red, a.s, first, warp / group);
    if (CENTRED) sums_put<E>(a.db, db, (float *)red, a.s, first, warp / group);
}

/* acc: dw, then db, in shared memory; a thread keeps to its columns. */
template <bool CENTRED, bool WIDE> __global__ void __launch_bounds__(LONG_THREADS) norm_bwd_long_kernel(NormBwd a) {
    __shared__ float at[LONG_THREADS / 32];
    SHARED_DYNAMIC(shared);
    float *dw = (float *)shared, *db = dw + a.s.cols, x[4], dy[4], w[4], dx[4];
    int64_t first = 4 * threadIdx.x, cols = a.s.cols;
    for (int64_t col = threadIdx.x; col < (CENTRED ? 2 : 1) * cols; col += LONG_THREADS) dw[col] = 0;
    sync_block();
    for (int64_t row = blockIdx.x; row < a.s.rows; row += gridDim.x) {
        float r = a.rstd[row * a.ld_rstd], mu = CENTRED ? a.mean[row * a.ld_mean] : 0, sum_g = 0, sum_gh = 0;
        for (int64_t col = first; col < cols; col += 4 * LONG_THREADS) {
            whole_get<WIDE, 4>(x, a.x + row * a.ld_x + col, cols - col);
            whole_get<WIDE, 4>(dy, a.dy + row * a.ld_dy + col, cols - col);
            whole_get<WIDE, 4>(w, a.w + col, cols - col);
            UNROLL for (int q = 0; q < 4; q++) {
                float h = (x[q] - mu) * r, g = dy[q] * w[q];
                sum_g += g, sum_gh = fmaf(g, h, sum_gh);
                if (col + q >= cols) continue;
                dw[col + q] = fmaf(dy[q], h, dw[col + q]);
                if (CENTRED) db[col + q] += dy[q];
            }
        }
        float gh_mean = block_sum(sum_gh, at, LONG_THREADS / 32) / (float)cols;
        float g_mean = CENTRED ? block_sum(sum_g, at, LONG_THREADS / 32) / (float)cols : 0;
        for (int64_t col = first; col < cols; col += 4 * LONG_THREADS) {
            whole_get<WIDE, 4>(x, a.x + row * a.ld_x + col, cols - col);
            whole_get<WIDE, 4>(dy, a.dy + row * a.ld_dy + col, cols - col);
            whole_get<WIDE, 4>(w, a.w + col, cols - col);
            if (a.add) whole_get<WIDE, 4>(dx, a.dx + row * a.ld_dx + col, cols - col);
            UNROLL for (int q = 0; q < 4; q++) {
                float d = r * fmaf(-((x[q] - mu) * r), gh_mean, dy[q] * w[q] - g_mean);
                dx[q] = a.add ? dx[q] + d : d;
            }
            whole_put<WIDE, 4>(a.dx + row * a.ld_dx + col, dx, cols - col);
        }
    }
    sync_block();
    for (int64_t col = threadIdx.x; col < cols; col += LONG_THREADS) {
        if (a.dw) a.dw[blockIdx.x * cols + col] = dw[col];
        if (CENTRED && a.db) a.db[blockIdx.x * cols + col] = db[col];
    }
}

/* -- host side
 * --------------------------------------------------------------------------------------------------------- */

/* Warps a row and rows a block; returns the pieces that a lane holds. Pieces that are not wide have one kernel: what it
 * holds too much is zeros, added last. */
int shape_of(Shape *s) {
    int warps = (int)div_up(s->cols, 128);
    s->group = norm_group(s->cols);
    s->workers = s->group < 8 ? 8 / s->group : 1;
    return s->wide ? (int)div_up(warps, s->group) : HELD;
}

bool wide_rows(Tensor t) { return tensor_empty(t) || (rows_aligned(t.data, t.rows, t.ld, 4, 16) && t.cols % 4 == 0); }

template <bool CENTRED> void fwd_launch(Backend *be, NormFwd a) {
    int64_t rows = a.s.rows;
    if (a.s.cols > LONGEST_HELD) {
        if (a.s.wide)
            LAUNCH_EARLY(be, (norm_fwd_long_kernel<CENTRED, true>), (unsigned)rows, LONG_THREADS, 0, a);
        else
            LAUNCH_EARLY(be, (norm_fwd_long_kernel<CENTRED, false>), (unsigned)rows, LONG_THREADS, 0, a);
        return;
    }
    int held = shape_of(&a.s);
    unsigned grid = (unsigned)div_up(rows, a.s.workers), threads = 32 * (unsigned)(a.s.group * a.s.workers);
    if (!a.s.wide)
        LAUNCH_EARLY(be, (norm_fwd_kernel<CENTRED, false, HELD>), grid, threads, 0, a);
    else if (held == 1)
        LAUNCH_EARLY(be, (norm_fwd_kernel<CENTRED, true, 1>), grid, threads, 0, a);
    else if (held == 2)
        LAUNCH_EARLY(be, (norm_fwd_kernel<CENTRED, true, 2>), grid, threads, 0, a);
    else if (held == 3)
        LAUNCH_EARLY(be, (norm_fwd_kernel<CENTRED, true, 3>), grid, threads, 0, a);
    else
        LAUNCH_EARLY(be, (norm_fwd_kernel<CENTRED, true, 4>), grid, threads, 0, a);
}

template <bool CENTRED>
void norm_fwd(Backend *be, Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor w, Tensor b, float eps) {
    NormFwd a = {};
    a.y = mat_of(y, 4);
    a.x = (const float *)x.data, a.w = (const float *)w.data, a.b = (const float *)b.data;
    a.mean = (float *)mean.data, a.rstd = (float *)rstd.data;
    a.ld_x = x.ld, a.ld_mean = mean.ld, a.ld_rstd = rstd.ld;
    a.s.rows = x.rows, a.s.cols = x.cols, a.s.wide = wide_rows(x) && wide_rows(w) && wide_rows(b) && a.y.wide;
    a.eps = eps;
    if (!tensor_empty(x)) fwd_launch<CENTRED>(be, a);
}

template <bool CENTRED> unsigned bwd_launch(Backend *be, NormBwd a) {
    int64_t rows = a.s.rows, cols = a.s.cols;
    if (cols > LONGEST_HELD) {
        unsigned grid = (unsigned)least(rows, NORM_BLOCKS);
        size_t shared = (size_t)cols * (CENTRED ? 2 : 1) * sizeof(float);
        CHECK(shared + 1024 <= cuda_impl(be)->shared_max,
              "norm: %lld columns, whose gradients do not fit shared memory", (long long)cols);
        if (a.s.wide)
            LAUNCH(be, (norm_bwd_long_kernel<CENTRED, true>), grid, LONG_THREADS, shared, a);
        else
            LAUNCH(be, (norm_bwd_long_kernel<CENTRED, false>), grid, LONG_THREADS, shared, a);
        return grid;
    }
    int held = shape_of(&a.s);
    int64_t blocks = div_up(rows, a.s.workers);
    unsigned grid = (unsigned)least(blocks, NORM_BLOCKS);
    unsigned threads = 32 * (unsigned)(a.s.group * a.s.workers);
    size_t shared = (size_t)(a.s.workers * cols) * sizeof(float);
    if (!a.s.wide)
        LAUNCH(be, (norm_bwd_kernel<CENTRED, false, HELD>), grid, threads, shared, a);
    else if (held == 1)
        LAUNCH(be, (norm_bwd_kernel<CENTRED, true, 1>), grid, threads, shared, a);
    else if (held == 2)
        LAUNCH(be, (norm_bwd_kernel<CENTRED, true, 2>), grid, threads, shared, a);
    else if (held == 3)
        LAUNCH(be, (norm_bwd_kernel<CENTRED, true, 3>), grid, threads, shared, a);
    else
        LAUNCH(be, (norm_bwd_kernel<CENTRED, true, 4>), grid, threads, shared, a);
    return grid;
}

template <bool CENTRED>
void norm_bwd(Backend *be, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Tensor mean, Tensor rstd,
              bool add) {
    if (tensor_empty(x)) return;
    NormBwd a = {};
    a.dx = (float *)dx.data, a.dy = (const float *)dy.data, a.x = (const float *)x.data, a.w = (const float *)w.data;
    a.mean = (const float *)mean.data, a.rstd = (const float *)rstd.data;
    a.ld_dx = dx.ld, a.ld_dy = dy.ld, a.ld_x = x.ld, a.ld_mean = mean.ld, a.ld_rstd = rstd.ld;
    a.s.rows = x.rows, a.s.cols = x.cols, a.add = add;
    a.s.wide = wide_rows(dx) && wide_rows(dy) && wide_rows(x) && wide_rows(w);
    float *part = (float *)cuda_scratch(be, (size_t)(2 * NORM_BLOCKS * x.cols) * sizeof(float));
    if (!tensor_empty(dw)) a.dw = part;
    if (!tensor_empty(db)) a.db = part + NORM_BLOCKS * x.cols;
    unsigned blocks = bwd_launch<CENTRED>(be, a);
    if (a.dw) cuda_column_sums(be, dw, tensor_over(a.dw, DTYPE_F32, blocks, x.cols));
    if (a.db) cuda_column_sums(be, db, tensor_over(a.db, DTYPE_F32, blocks, x.cols));
}

} // namespace

extern "C" void cuda_rmsnorm_fwd(Backend *be, Tensor y, Tensor rstd, Tensor x, Tensor w, float eps) {
    cuda_check("rmsnorm_fwd", "x", x, x.rows, x.cols, CUDA_REAL);
    cuda_check("rmsnorm_fwd", "y", y, x.rows, x.cols, CUDA_ANY);
    cuda_check("rmsnorm_fwd", "w", w, 1, x.cols, CUDA_REAL);
    cuda_check("rmsnorm_fwd", "rstd", rstd, x.rows, 1, CUDA_REAL_OPT);
    norm_fwd<false>(be, y, (Tensor){}, rstd, x, w, (Tensor){}, eps);
}

extern "C" void cuda_layernorm_fwd(Backend *be, Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor w, Tensor b,
                                   float eps) {
    cuda_check("layernorm_fwd", "x", x, x.rows, x.cols, CUDA_REAL);
    cuda_check("layernorm_fwd", "y", y, x.rows, x.cols, CUDA_ANY);
    cuda_check("layernorm_fwd", "w", w, 1, x.cols, CUDA_REAL);
    cuda_check("layernorm_fwd", "b", b, 1, x.cols, CUDA_REAL);
    cuda_check("layernorm_fwd", "mean", mean, x.rows, 1, CUDA_REAL_OPT);
    cuda_check("layernorm_fwd", "rstd", rstd, x.rows, 1, CUDA_REAL_OPT);
    norm_fwd<true>(be, y, mean, rstd, x, w, b, eps);
}

extern "C" void cuda_rmsnorm_bwd(Backend *be, Tensor dx, Tensor dw_acc, Tensor dy, Tensor x, Tensor w, Tensor rstd,
                                 bool add_dx) {
    cuda_check("rmsnorm_bwd", "x", x, x.rows, x.cols, CUDA_REAL);
    cuda_check("rmsnorm_bwd", "dx", dx, x.rows, x.cols, CUDA_REAL);
    cuda_check("rmsnorm_bwd", "dy", dy, x.rows, x.cols, CUDA_REAL);
    cuda_check("rmsnorm_bwd", "w", w, 1, x.cols, CUDA_REAL);
    cuda_check("rmsnorm_bwd", "rstd", rstd, x.rows, 1, CUDA_REAL);
    cuda_check("rmsnorm_bwd", "dw", dw_acc, 1, x.cols, CUDA_REAL_OPT);
    norm_bwd<false>(be, dx, dw_acc, (Tensor){}, dy, x, w, (Tensor){}, rstd, add_dx);
}

extern "C" void cuda_layernorm_bwd(Backend *be, Tensor dx, Tensor dw_acc, Tensor db_acc, Tensor dy, Tensor x, Tensor w,
                                   Tensor mean, Tensor rstd, bool add_dx) {
    cuda_check("layernorm_bwd", "x", x, x.rows, x.cols, CUDA_REAL);
    cuda_check("layernorm_bwd", "dx", dx, x.rows, x.cols, CUDA_REAL);
    cuda_check("layernorm_bwd", "dy", dy, x.rows, x.cols, CUDA_REAL);
    cuda_check("layernorm_bwd", "w", w, 1, x.cols, CUDA_REAL);
    cuda_check("layernorm_bwd", "mean", mean, x.rows, 1, CUDA_REAL);
    cuda_check("layernorm_bwd", "rstd", rstd, x.rows, 1, CUDA_REAL);
    cuda_check("layernorm_bwd", "dw", dw_acc, 1, x.cols, CUDA_REAL_OPT);
    cuda_check("layernorm_bwd", "db", db_acc, 1, x.cols, CUDA_REAL_OPT);
    norm_bwd<true>(be, dx, dw_acc, db_acc, dy, x, w, mean, rstd, add_dx);
}
