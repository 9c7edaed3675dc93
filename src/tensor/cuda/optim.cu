/* tensor/cuda/optim.cu — AdamW, and what it asks of gradients: their sum of squares and whether all are finite. */
#include "tensor/cuda/map.h"

#include <math.h>
#include <stdlib.h>

namespace {

/* -- sums over a whole tensor: block b adds pieces b, b + grid, .. of a fixed number of blocks; one thread then adds
 * the blocks' numbers in order
 * ---------------------------------------------------------------------------------------------------- */

enum { SUM_THREADS = 256, SUM_LOADS = 4, SUM_BLOCKS = 1024 };

struct SumArgs {
    const float *x;
    int64_t ld, n_piece, cols;
    unsigned per_row; /* pieces; 0: all is one row */
    double *out;
};

/* Squares of floats are exact in double. */
struct Square {
    __device__ static void take(double *sum, float x) { *sum += (double)x * (double)x; }
};

/* x - x is 0 for what is finite, NaN for the rest. */
struct Finite {
    __device__ static void take(double *sum, float x) { *sum += (double)(x - x); }
};

template <class Op, bool WIDE> __global__ void __launch_bounds__(SUM_THREADS) sum_kernel(SumArgs a) {
    __shared__ double at[SUM_THREADS / 32];
    double sum[4] = {0, 0, 0, 0};
    int64_t step = (int64_t)gridDim.x * SUM_THREADS;
    for (int64_t piece = (int64_t)blockIdx.x * SUM_THREADS + threadIdx.x; piece < a.n_piece;
         piece += SUM_LOADS * step) {
        float v[SUM_LOADS][4];
        UNROLL for (int u = 0; u < SUM_LOADS; u++) {
            int64_t p = piece + u * step, row = 0, col = p * 4;
            if (a.per_row) row = (unsigned)p / a.per_row, col = (int64_t)((unsigned)p % a.per_row) * 4;
            whole_get<WIDE, 4>(v[u], a.x + row * a.ld + col, p < a.n_piece ? a.cols - col : 0);
        }
        UNROLL for (int u = 0; u < SUM_LOADS; u++) UNROLL for (int q = 0; q < 4; q++) Op::take(&sum[q], v[u][q]);
    }
    double total = block_sum((sum[0] + sum[1]) + (sum[2] + sum[3]), at, SUM_THREADS / 32);
    if (threadIdx.x == 0) a.out[blockIdx.x] = total;
}

/* Queues the sums of x's blocks into out; returns how many there are. */
template <class Op> int64_t queue_sums(Backend *be, Tensor x, double *out) {
    if (tensor_empty(x)) return 0;
    SumArgs a = {};
    int64_t rows = x.rows;
    if (rows > 1 && x.ld == x.cols) x.cols *= rows, x.ld = x.cols, x.rows = rows = 1;
    a.x = (const float *)x.data, a.ld = x.ld, a.cols = x.cols;
    int64_t per_row = div_up(x.cols, 4);
    a.n_piece = rows * per_row, a.per_row = rows > 1 ? (unsigned)per_row : 0;
    CHECK(rows == 1 || a.n_piece < INT32_MAX, "a sum over %lld rows of %lld columns with gaps", (long long)rows,
          (long long)x.cols);
    int64_t blocks = least(div_up(a.n_piece, SUM_THREADS * SUM_LOADS), SUM_BLOCKS);
    a.out = out;
    bool wide = rows_aligned(x.data, rows, x.ld, 4, 16) && x.cols % 4 == 0;
    if (wide)
        LAUNCH(be, (sum_kernel<Op, true>), (unsigned)blocks, SUM_THREADS, 0, a);
    else
        LAUNCH(be, (sum_kernel<Op, false>), (unsigned)blocks, SUM_THREADS, 0, a);
    return blocks;
}

/* Block i: the sum of tensor i's count[i] numbers, in order. */
__global__ void __launch_bounds__(SUM_THREADS) add_sums_kernel(double *sum, const double *part, const int32_t *count) {
    enum { AHEAD = 8 };
    __shared__ double at[SUM_BLOCKS];
    const int n = count[blockIdx.x];
    for (int i = (int)threadIdx.x; i < n; i += SUM_THREADS) at[i] = part[(int64_t)blockIdx.x * SUM_BLOCKS + i];
    sync_block();
    if (threadIdx.x > 0) return;
    double total = 0;
    for (int i = 0; i < n; i += AHEAD) {
        double v[AHEAD]; /* on their way before they are added */
        UNROLL for (int q = 0; q < AHEAD; q++) v[q] = i + q < n ? at[i + q] : 0;
        UNROLL for (int q = 0; q < AHEAD; q++) total += v[q];
    }
    sum[blockIdx.x] = total;
}

/* sum[i] of n tensors, on the host, after one wait. */
template <class Op> void sums_over(Backend *be, double *sum, const Tensor *x, int n) {
    double *part = (double *)cuda_scratch(be, (size_t)n * (SUM_BLOCKS + 1) * sizeof(double)),
           *all = part + (int64_t)n * SUM_BLOCKS;
    int32_t *count = (int32_t *)mem_alloc((size_t)n * sizeof *count);
    for (int i = 0; i < n; i++) count[i] = (int32_t)queue_sums<Op>(be, x[i], part + (int64_t)i * SUM_BLOCKS);
    LAUNCH(be, add_sums_kernel, (unsigned)n, SUM_THREADS, 0, all, part, cuda_index(be, count, n));
    free(count);
    cuda_fetch(be, sum, all, (size_t)n * sizeof *sum);
}

template <class Op> double sum_over(Backend *be, Tensor x) {
    double sum = 0;
    sums_over<Op>(be, &sum, &x, 1);
    return sum;
}

/* -- AdamW: scalars are worked out in double and rounded once, as torch's kernels do
 * ----------------------------------- */

struct Adamw { /* of p, m, v, g */
    float grad_scale, keep, mix1, beta2, mix2, step, root, eps;
    __device__ void operator()(float *y, const float *x) const {
        float g = product(x[3], grad_scale), m = fmaf(g - x[1], mix1, x[1]);
        float v = fmaf(g * mix2, g, x[2] * beta2);
        float under = sqrtf(v) / root + eps;
        y[0] = product(x[0], keep) + m * -step / under;
        y[1] = m;
        y[2] = v;
    }
};

/* The same, then a gradient of zero, then HALF a copy of p, which is rounded where it is stored. */
template <bool HALF> struct Update {
    Adamw adamw;
    __device__ void operator()(float *y, const float *x) const {
        adamw(y, x);
        y[3] = 0;
        if (HALF) y[4] = y[0];
    }
};

Adamw adamw_of(AdamwParams a) {
    CHECK(a.t >= 1, "adamw: t is %lld, expected 1 for the first update", (long long)a.t);
    Adamw w;
    w.grad_scale = (float)a.grad_scale;
    w.keep = (float)(1 - a.lr * a.weight_decay);
    w.mix1 = (float)(1 - a.beta1);
    w.beta2 = (float)a.beta2;
    w.mix2 = (float)(1 - a.beta2);
    w.step = (float)(a.lr / (1 - pow(a.beta1, (double)a.t)));
    w.root = (float)sqrt(1 - pow(a.beta2, (double)a.t));
    w.eps = (float)a.eps;
    return w;
}

void check_adamw(const char *op, Tensor p, Tensor m, Tensor v, Tensor g) {
    cuda_check(op, "p", p, p.rows, p.cols, CUDA_REAL);
    cuda_check(op, "m", m, p.rows, p.cols, CUDA_REAL);
    cuda_check(op, "v", v, p.rows, p.cols, CUDA_REAL);
    cuda_check(op, "g", g, p.rows, p.cols, CUDA_REAL);
}

} // namespace

extern "C" double cuda_sumsq(Backend *be, Tensor x) {
    cuda_check("sumsq", "x", x, x.rows, x.cols, CUDA_REAL);
    return sum_over<Square>(be, x);
}

/* Each tensor's sum is what cuda_sumsq gives. */
extern "C" double cuda_sumsq_all(Backend *be, const Tensor *x, int n) {
    if (n == 0) return 0;
    double *part = (double *)mem_alloc((size_t)n * sizeof *part), sum = 0;
    for (int i = 0; i < n; i++) cuda_check("sumsq_all", "x", x[i], x[i].rows, x[i].cols, CUDA_REAL);
    sums_over<Square>(be, part, x, n);
    for (int i = 0; i < n; i++) sum += part[i];
    free(part);
    return sum;
}

extern "C" bool cuda_all_finite(Backend *be, Tensor x) {
    cuda_check("all_finite", "x", x, x.rows, x.cols, CUDA_REAL);
    return sum_over<Finite>(be, x) == 0;
}

extern "C" void cuda_adamw(Backend *be, Tensor p, Tensor m, Tensor v, Tensor g, AdamwParams a) {
    check_adamw("adamw", p, m, v, g);
    map<3, 4>(be, {p, m, v}, {p, m, v, g}, adamw_of(a));
}

extern "C" void cuda_update(Backend *be, Tensor w, Tensor p, Tensor m, Tensor v, Tensor g, AdamwParams a) {
    check_adamw("update", p, m, v, g);
    cuda_check("update", "w", w, p.rows, p.cols, CUDA_ANY_OPT);
    if (tensor_empty(w))
        map<4, 4>(be, {p, m, v, g}, {p, m, v, g}, Update<false>{adamw_of(a)});
    else
        map<5, 4>(be, {p, m, v, g, w}, {p, m, v, g}, Update<true>{adamw_of(a)});
}
