/* tensor/cuda/loss.cu — log-probs of targets under a softmax over the columns, and their gradient.
 *
 * A block has a row and reads it once: every thread keeps the largest z it has met and the sums of e^(z - that), which
 * are scaled when a larger one comes, and brought to one maximum at the end. Which elements a thread has depends on the
 * number of columns alone: pieces of four where that is a multiple of four, else single elements side by side over the
 * threads, for rows then begin anywhere.
 *
 * Where a row's other columns are elsewhere (PART) the statistics themselves are told, and the backward is given those
 * of the whole row: then it reads its part a second time only where the target is here.
 *
 * Backward reads a row twice, the second time as far as it goes from shared memory and the rest, with a block a
 * multiprocessor, from the L2 cache. */
#include "tensor/cuda/rows.h"

#include <math.h>

namespace {

enum { LOADS = 4 };             /* pieces of a thread under way together */
enum { PAIRED = 56 * 1024 };    /* columns up to which rows of two blocks a multiprocessor stay in the L2 cache */
enum { WIDE, PIECES, SINGLES }; /* pieces of four, aligned or not; single elements */

const float LOG2_E = 1.44269504f;

struct Logprob {
    float *logits;
    const int32_t *target;
    const float *dlogp, *whole; /* whole, stat: PART */
    float *logprob, *entropy, *stat;
    int64_t ld, ld_dlogp, ld_logprob, ld_entropy, ld_whole, ld_stat;
    float inv; /* 1/temp */
    int cols;
    int kept; /* backward: pieces a thread keeps in shared memory */
};

/* top = max z, sum = sum e^(z - top), moment = sum e^(z - top) (z - top) */
struct Stats {
    float top, sum, moment;
};

/* Column of element q of this thread's piece number k. */
template <int HOW> __device__ __forceinline__ int column(int k, int q) {
    int thread = (int)threadIdx.x, n = (int)blockDim.x;
    return HOW == SINGLES ? thread + (4 * k + q) * n : 4 * (thread + k * n) + q;
}

/* Elements behind the last are `other`. */
template <int HOW>
__device__ __forceinline__ void logits_get(float *v, const float *row, int cols, int k, float other) {
    UNROLL for (int q = 0; q < 4; q++) v[q] = other;
    if constexpr (HOW == WIDE) {
        if (column<HOW>(k, 0) < cols) piece_get<4>(v, row + column<HOW>(k, 0));
    } else {
        UNROLL for (int q = 0; q < 4; q++) if (column<HOW>(k, q) < cols) v[q] = row[column<HOW>(k, q)];
    }
}

template <int HOW> __device__ __forceinline__ void logits_put(float *row, const float *v, int cols, int k) {
    if constexpr (HOW == WIDE) {
        if (column<HOW>(k, 0) < cols) piece_put<4>(row + column<HOW>(k, 0), v);
    } else {
        UNROLL for (int q = 0; q < 4; q++) if (column<HOW>(k, q) < cols) row[column<HOW>(k, q)] = v[q];
    }
}

__device__ __forceinline__ float exp_of(float d) { return exp2_approx(d * LOG2_E); }

/* s with `top` for its maximum, top >= s->top. */
template <bool MOMENT> __device__ __forceinline__ void raise(Stats *s, float top) {
    float d = s->top - top, f = s->top == -INFINITY ? 0.0f : exp_of(d);
    if (MOMENT) s->moment = f * fmaf(fmaxf(d, -1e30f), s->sum, s->moment);
    s->sum *= f;
    s->top = top;
}

/* n numbers z more. An infinitely small one adds nothing to the moment either: p log p goes to 0 with p. */
template <bool MOMENT, int N> __device__ __forceinline__ void take(Stats *s, const float *z) {
    float top = z[0];
    UNROLL for (int i = 1; i < N; i++) top = fmaxf(top, z[i]);
    if (top > s->top) raise<MOMENT>(s, top);
    float base = s->top == -INFINITY ? 0.0f : s->top;
    UNROLL for (int i = 0; i < N; i++) {
        float d = z[i] - base, e = exp_of(d);
        s->sum += e;
        if (MOMENT) s->moment = fmaf(e, fmaxf(d, -1e30f), s->moment);
    }
}

template <bool MOMENT> __device__ __forceinline__ Stats block_stats(Stats s, float *at) {
    int n_warp = blockDim.x / 32;
    raise<MOMENT>(&s, block_max(s.top, at, n_warp));
    s.sum = block_sum(s.sum, at, n_warp);
    if (MOMENT) s.moment = block_sum(s.moment, at, n_warp);
    return s;
}

/* logprob = z_t - logsumexp(z);  entropy = logsumexp(z) - sum_j p_j z_j, both from z - max; PART: stat */
template <int HOW, bool MOMENT, bool PART> __global__ void __launch_bounds__(512) logprob_fwd_kernel(Logprob p) {
    __shared__ float at[32];
    const float *row = p.logits + blockIdx.x * p.ld;
    Stats s = {-INFINITY, 0, 0};
    for (int k = 0; column<HOW>(k, 0) < p.cols; k += LOADS) {
        float z[LOADS * 4];
        UNROLL for (int u = 0; u < LOADS; u++) logits_get<HOW>(z + 4 * u, row, p.cols, k + u, -INFINITY);
        UNROLL for (int i = 0; i < LOADS * 4; i++) z[i] = product(z[i], p.inv);
        take<MOMENT, LOADS * 4>(&s, z);
    }
    s = block_stats<MOMENT>(s, at);
    if (PART && threadIdx.x == 0) {
        float *stat = p.stat + blockIdx.x * p.ld_stat;
        int target = p.target[blockIdx.x];
        stat[0] = s.top, stat[1] = s.sum, stat[2] = s.moment;
        stat[3] = target < 0 ? 0.0f : product(row[target], p.inv);
    }
    if (PART || threadIdx.x > 0 || p.target[blockIdx.x] < 0) return;
    double log_sum = log((double)s.sum);
    p.logprob[blockIdx.x * p.ld_logprob] =
        (float)((double)(product(row[p.target[blockIdx.x]], p.inv) - s.top) - log_sum);
    if (MOMENT) p.entropy[blockIdx.x * p.ld_entropy] = (float)(log_sum - (double)s.moment / (double)s.sum);
}

/* Statistics of a row without its target: others = sum of e^(z - top) over all but it. 1 - p of the target is the share
 * of the others: a difference would keep no digit of it where p is near 1. */
template <int HOW>
__device__ __forceinline__ Stats others_of(const float *row, const Logprob &p, int target, float z_target, f32x4 *keep,
                                           float *at) {
    enum { SOME = HOW == SINGLES ? LOADS / 2 : LOADS }; /* addresses of single elements take registers */
    Stats s = {z_target, 0, 0};
    for (int k = 0; column<HOW>(k, 0) < p.cols; k += SOME) {
        float z[SOME * 4];
        UNROLL for (int u = 0; u < SOME; u++) logits_get<HOW>(z + 4 * u, row, p.cols, k + u, -INFINITY);
        UNROLL for (int u = 0; u < SOME; u++) {
            if (k + u < p.kept) piece_put<4>(keep[threadIdx.x + (k + u) * blockDim.x].v, z + 4 * u);
            UNROLL for (int q = 0; q < 4; q++) z[4 * u + q] =
                column<HOW>(k + u, q) == target ? -INFINITY : product(z[4 * u + q], p.inv);
        }
        take<false, SOME * 4>(&s, z);
    }
    return block_stats<false>(s, at);
}

template <int HOW, bool PART> __global__ void __launch_bounds__(1024) logprob_bwd_kernel(Logprob p) {
    enum { SOME = HOW == SINGLES ? LOADS / 2 : LOADS };
    SHARED_DYNAMIC(shared);
    __shared__ float at[32];
    f32x4 *keep = (f32x4 *)shared;
    float *row = p.logits + blockIdx.x * p.ld, dlogp = p.dlogp[blockIdx.x * p.ld_dlogp], d = dlogp * p.inv;
    if (dlogp == 0) {
        const float zero[4] = {0, 0, 0, 0};
        for (int k = 0; column<HOW>(k, 0) < p.cols; k++) logits_put<HOW>(row, zero, p.cols, k);
        return;
    }
    int target = p.target[blockIdx.x], kept = p.kept;
    Stats s = {0, 0, 0};
    float sum = 0;
    if (!PART || target >= 0) {
        float z_target = product(row[target], p.inv);
        s = others_of<HOW>(row, p, target, z_target, keep, at);
        sum = s.sum + exp_of(z_target - s.top);
    } else {
        kept = 0;
    }
    if constexpr (PART) {
        const float *whole = p.whole + blockIdx.x * p.ld_whole;
        s.sum = s.sum * exp_of(s.top - whole[0]) + whole[2];
        s.top = whole[0], sum = whole[1];
    }
    float share = -d / sum, own = d * (s.sum / sum);
    for (int k = 0; column<HOW>(k, 0) < p.cols; k += SOME) {
        float v[SOME][4];
        UNROLL for (int u = 0; u < SOME; u++) {
            if (k + u < kept)
                piece_get<4>(v[u], keep[threadIdx.x + (k + u) * blockDim.x].v);
            else
                logits_get<HOW>(v[u], row, p.cols, k + u, 0);
        }
        UNROLL for (int u = 0; u < SOME; u++) {
            UNROLL for (int q = 0; q < 4; q++) {
                float g = exp_of(product(v[u][q], p.inv) - s.top) * share;
                v[u][q] = column<HOW>(k + u, q) == target ? own : g;
            }
            logits_put<HOW>(row, v[u], p.cols, k + u);
        }
    }
}

/* -- host side
 * --------------------------------------------------------------------------------------------------------- */

/* target: on the device. Returns how a thread goes through a row. */
int arguments(Logprob *p, const char *op, Tensor logits, const int32_t *target, float temp) {
    cuda_check(op, "logits", logits, logits.rows, logits.cols, CUDA_REAL);
    CHECK(logits.cols < INT32_MAX / 2, "%s: %lld columns", op, (long long)logits.cols);
    CHECK(temp > 0, "%s: temperature %g", op, (double)temp);
    p->logits = (float *)logits.data, p->ld = logits.ld, p->cols = (int)logits.cols, p->inv = 1.0f / temp;
    p->target = target;
    if (p->cols % 4) return SINGLES;
    return rows_aligned(logits.data, logits.rows, logits.ld, 4, 16) ? WIDE : PIECES;
}

unsigned threads_for(int cols, unsigned most) {
    unsigned threads = 32;
    while (threads < most && (int)threads * 4 * LOADS < cols) threads *= 2;
    return threads;
}

template <bool MOMENT, bool PART> void fwd_launch(Backend *be, int64_t rows, int how, Logprob p) {
    unsigned grid = (unsigned)rows, threads = threads_for(p.cols, 512);
    if (how == WIDE)
        LAUNCH(be, (logprob_fwd_kernel<WIDE, MOMENT, PART>), grid, threads, 0, p);
    else if (how == PIECES)
        LAUNCH(be, (logprob_fwd_kernel<PIECES, MOMENT, PART>), grid, threads, 0, p);
    else
        LAUNCH(be, (logprob_fwd_kernel<SINGLES, MOMENT, PART>), grid, threads, 0, p);
}

template <bool PART> void bwd_launch(Backend *be, int64_t rows, int how, Logprob p) {
    bool paired = p.cols <= PAIRED;
    unsigned grid = (unsigned)rows, threads = threads_for(p.cols, paired ? 512 : 1024);
    int64_t pieces = div_up(p.cols, 4 * (int64_t)threads);
    int64_t room = (int64_t)(cuda_impl(be)->shared_max / (paired ? 2 : 1) - 2048) / 16 / threads;
    p.kept = (int)(pieces < room ? pieces : room);
    size_t shared = (size_t)p.kept * threads * 16;
    if (how == WIDE)
        LAUNCH(be, (logprob_bwd_kernel<WIDE, PART>), grid, threads, shared, p);
    else if (how == PIECES)
        LAUNCH(be, (logprob_bwd_kernel<PIECES, PART>), grid, threads, shared, p);
    else
        LAUNCH(be, (logprob_bwd_kernel<SINGLES, PART>), grid, threads, shared, p);
}

void check_part_targets(const char *op, Tensor logits, const int32_t *target) {
    for (int64_t i = 0; i < logits.rows; i++)
        CHECK(target[i] >= -1 && target[i] < logits.cols, "%s: target %lld is %d, expected [-1, %lld)", op,
              (long long)i, (int)target[i], (long long)logits.cols);
}

} // namespace

extern "C" void cuda_logprob_fwd(Backend *be, Tensor logprob, Tensor entropy, Tensor logits, const int32_t *target,
                                 float temp) {
    cuda_check("logprob_fwd", "logprob", logprob, logits.rows, 1, CUDA_REAL);
    cuda_check("logprob_fwd", "entropy", entropy, logits.rows, 1, CUDA_REAL_OPT);
    if (tensor_empty(logits)) return;
    check_index("logprob_fwd", target, logits.rows, logits.cols);
    Logprob p = {};
    int how = arguments(&p, "logprob_fwd", logits, cuda_index(be, target, logits.rows), temp);
    p.logprob = (float *)logprob.data, p.ld_logprob = logprob.ld;
    p.entropy = (float *)entropy.data, p.ld_entropy = entropy.ld;
    if (tensor_empty(entropy))
        fwd_launch<false, false>(be, logits.rows, how, p);
    else
        fwd_launch<true, false>(be, logits.rows, how, p);
}

extern "C" void cuda_logprob_drawn(Backend *be, float *logprob, Tensor logits, const int32_t *drawn, float temp) {
    Logprob p = {};
    int how = arguments(&p, "draw", logits, drawn, temp);
    p.logprob = logprob, p.ld_logprob = 1;
    fwd_launch<false, false>(be, logits.rows, how, p);
}

extern "C" void cuda_logprob_bwd(Backend *be, Tensor logits, const int32_t *target, Tensor dlogp, float temp) {
    cuda_check("logprob_bwd", "dlogp", dlogp, logits.rows, 1, CUDA_REAL);
    if (tensor_empty(logits)) return;
    check_index("logprob_bwd", target, logits.rows, logits.cols);
    Logprob p = {};
    int how = arguments(&p, "logprob_bwd", logits, cuda_index(be, target, logits.rows), temp);
    p.dlogp = (const float *)dlogp.data, p.ld_dlogp = dlogp.ld;
    bwd_launch<false>(be, logits.rows, how, p);
}

extern "C" void cuda_logprob_part_fwd(Backend *be, Tensor stat, Tensor logits, const int32_t *target, float temp) {
    cuda_check("logprob_part_fwd", "stat", stat, logits.rows, 4, CUDA_REAL);
    if (tensor_empty(logits)) return;
    check_part_targets("logprob_part_fwd", logits, target);
    Logprob p = {};
    int how = arguments(&p, "logprob_part_fwd", logits, cuda_index(be, target, logits.rows), temp);
    p.stat = (float *)stat.data, p.ld_stat = stat.ld;
    fwd_launch<true, true>(be, logits.rows, how, p);
}

extern "C" void cuda_logprob_part_bwd(Backend *be, Tensor logits, const int32_t *target, Tensor whole, Tensor dlogp,
                                      float temp) {
    cuda_check("logprob_part_bwd", "whole", whole, logits.rows, 3, CUDA_REAL);
    cuda_check("logprob_part_bwd", "dlogp", dlogp, logits.rows, 1, CUDA_REAL);
    if (tensor_empty(logits)) return;
    check_part_targets("logprob_part_bwd", logits, target);
    Logprob p = {};
    int how = arguments(&p, "logprob_part_bwd", logits, cuda_index(be, target, logits.rows), temp);
    p.dlogp = (const float *)dlogp.data, p.ld_dlogp = dlogp.ld;
    p.whole = (const float *)whole.data, p.ld_whole = whole.ld;
    bwd_launch<true>(be, logits.rows, how, p);
}
