/* tensor/cuda/few.cu — products of few rows (decoding): up to three of one x in one launch, at the speed of reading w
 * once; with the norm before them and what is done to their sums after them, where a block's half begins so.
 *
 * A block makes strips of y, 8 columns wide or two of 8, for all rows, and has one strip after another: two loads of w
 * are always under way, the next strip's too. Its warps share the sum over K: warp s takes pieces s, s + WARPS, .. of
 * 32, so that together they read 512 bytes of each row of w side by side; a lane's 16 bytes of w and of x are two steps
 * of mma, whose K order is a permutation that both sides share. The warps' sums are added in order of the warps. What
 * order a sum has follows from K alone, but differs from linear.cu's: exact mode does not come here.
 *
 * w is nobody's output while a recording runs, so the first loads are under way before the kernel waits for its inputs:
 * the memory is busy while norms and attention of one row are computed.
 *
 *      what       strip's two halves of 8 columns         what their sums become
 *      PLAIN      neighbours (or one half alone)          y, or added to it
 *      TURN       a head's columns j and j + d_head/2     a turned pair of q or of the cache's k; v's as they are
 *      SWIGLU     column j of up and of gate              silu(gate) up
 */
#include "tensor/cuda/few.h"
#include "tensor/cuda/formulas.h"
#include "tensor/cuda/norm.h"

namespace {

enum { WARPS = 8, THREADS = 32 * WARPS, BLOCKS = 2, PIECE = 32 };
enum { NORM_ROWS = 4, NORM_COLS = 128 * NORM_HELD * WARPS }; /* that blocks normalize for themselves */
enum { NORM_PIECES = NORM_COLS / (4 * THREADS) };            /* of four columns, a thread's */
enum { SHARED_X = 80 * 1024 }; /* bytes of x up to which a block has them in shared memory */
enum What { PLAIN, TURN, SWIGLU };

struct Product {
    const bf16_t *w[2]; /* of a strip's halves */
    const float *bias[2];
    int64_t ldw[2], ldy;
    void *y;
    const int32_t *to; /* row i of y is number to[i]; NULL: i */
    int m;             /* columns of w; TURN: of y */
    int apart;         /* columns between a strip's halves; 0: both are the same column */
    int strip0;        /* the first of its strips */
    bool bf16, turns;
};

struct Few {
    Product p[LINEAR_MAX];
    const bf16_t *x; /* NULL: normalized by the kernel from norm_x */
    const float *norm_x, *norm_w;
    const int32_t *pos;
    const double *freq;
    int64_t ldx;
    int n, rows, k, strips, norm_group;
    float eps;
    bool add, shared; /* shared: x lies in shared memory */
};

/* First column of a strip's half. */
template <int HALVES> __device__ __forceinline__ int column_of(const Product &p, int strip, int half) {
    if (HALVES == 1 || p.apart == 0) return strip * 8;
    int within = p.apart / 8;
    return strip / within * 2 * p.apart + strip % within * 8 + half * p.apart;
}

__device__ __forceinline__ const Product &product_of(const Few &f, int strip) {
    int which = 0;
    while (which + 1 < f.n && strip >= f.p[which + 1].strip0) which++;
    return f.p[which];
}

/* Where a block is in w: a strip of its own, and a place in K. */
template <int HALVES> struct Place {
    const bf16_t *w[HALVES]; /* this lane's; NULL: no such column */
    int strip, k;

    __device__ __forceinline__ void go(const Few &f, int to) {
        const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
        strip = to, k = 0;
        UNROLL for (int c = 0; c < HALVES; c++) w[c] = NULL;
        if (strip >= f.strips) return;
        const Product &p = product_of(f, strip);
        UNROLL for (int c = 0; c < HALVES; c++) {
            int col = column_of<HALVES>(p, strip - p.strip0, c) + lane / 4;
            if (col < p.m) w[c] = p.w[c] + (int64_t)col * p.ldw[c] + warp * PIECE + lane % 4 * 8;
        }
    }
    __device__ __forceinline__ void next(const Few &f, int step) {
        k += step;
        if (k >= f.k) go(f, strip + (int)gridDim.x);
    }
};

/* What a lane has of U pieces of w; and of x, rows g and g + 8, where these are not in shared memory. */
template <int HALVES, int U> struct Pieces { uint4 w[U][HALVES], lo[U], hi[U]; };

template <int HALVES, int U>
__device__ __forceinline__ void load_w(Pieces<HALVES, U> &p, const Few &f, const Place<HALVES> &at) {
    const int warp = (int)threadIdx.x / 32;
    UNROLL for (int u = 0; u < U; u++) UNROLL for (int c = 0; c < HALVES; c++) {
        int k = at.k + u * WARPS * PIECE;
        p.w[u][c] = make_uint4(0, 0, 0, 0);
        if (at.w[c] && k + warp * PIECE < f.k) p.w[u][c] = load_once(at.w[c] + k);
    }
}

/* 8 elements of a row of x, from k on; those of rows that are not there are 0, for they may be no numbers. */
__device__ __forceinline__ uint4 x_piece(const Few &f, const bf16_t *x, int64_t pitch, int row, int k) {
    if (row >= f.rows || k >= f.k) return make_uint4(0, 0, 0, 0);
    return *(const uint4 *)(x + row * pitch + k);
}

/* x: in memory or in shared memory. HALVES 1: there are at most 8 rows. */
template <int HALVES, int U>
__device__ __forceinline__ void load_x(Pieces<HALVES, U> &p, const Few &f, const bf16_t *x, int64_t pitch, int k) {
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    UNROLL for (int u = 0; u < U; u++) {
        int at = k + (u * WARPS + warp) * PIECE + lane % 4 * 8;
        p.lo[u] = x_piece(f, x, pitch, lane / 4, at);
        p.hi[u] = HALVES == 1 ? make_uint4(0, 0, 0, 0) : x_piece(f, x, pitch, lane / 4 + 8, at);
    }
}

template <int HALVES, int U>
__device__ __forceinline__ void multiply(float acc[HALVES][4], const Pieces<HALVES, U> &p) {
    UNROLL for (int u = 0; u < U; u++) {
        const uint4 &lo = p.lo[u], &hi = p.hi[u];
        const uint32_t a0[4] = {lo.x, hi.x, lo.y, hi.y}, a1[4] = {lo.z, hi.z, lo.w, hi.w};
        UNROLL for (int c = 0; c < HALVES; c++) {
            const uint32_t b0[2] = {p.w[u][c].x, p.w[u][c].y}, b1[2] = {p.w[u][c].z, p.w[u][c].w};
            mma_bf16(acc[c], a0, b0);
            mma_bf16(acc[c], a1, b1);
        }
    }
}

/* A thread's columns of the norm's weights. */
struct NormWeights {
    float v[NORM_PIECES][4];
};

__device__ __forceinline__ void load_norm(NormWeights &w, const Few &f) {
    UNROLL for (int e = 0; e < NORM_PIECES; e++) {
        int k = 4 * ((int)threadIdx.x + e * THREADS);
        if (f.norm_x && k < f.k) piece_get<4>(w.v[e], f.norm_w + k);
    }
}

/* x to shared memory, rows 16 bytes more apart than they are long; normalized on the way, as norm.cu would, or as it
 * is. */
__device__ __forceinline__ void take_x(const Few &f, const NormWeights &w, bf16_t *sx, float *at) {
    const int warp = (int)threadIdx.x / 32;
    if (!f.norm_x) {
        for (int i = (int)threadIdx.x; i < f.rows * (f.k / 8); i += THREADS) {
            int row = i / (f.k / 8), k = i % (f.k / 8) * 8;
            *(uint4 *)(sx + row * (f.k + 8) + k) = *(const uint4 *)(f.x + row * f.ldx + k);
        }
        sync_block();
        return;
    }
    for (int job = warp; job < f.rows * f.norm_group; job += WARPS) {
        int row = job / f.norm_group, part = job % f.norm_group;
        float sum = norm_squares(f.norm_x + row * f.ldx, f.k, part, f.norm_group);
        if (threadIdx.x % 32 == 0) at[row * WARPS + part] = sum;
    }
    sync_block();
    for (int row = 0; row < f.rows; row++) {
        float r = rstd_of(norm_total(at + row * WARPS, f.norm_group), f.k, f.eps), x[4], y[4];
        UNROLL for (int e = 0; e < NORM_PIECES; e++) {
            int k = 4 * ((int)threadIdx.x + e * THREADS);
            if (k >= f.k) break;
            piece_get<4>(x, f.norm_x + row * f.ldx + k);
            UNROLL for (int q = 0; q < 4; q++) y[q] = x[q] * r * w.v[e][q];
            piece_put<4>(sx + row * (f.k + 8) + k, y);
        }
    }
    sync_block();
}

/* A column's sum as linear_fwd would have written it, in BF16. */
__device__ __forceinline__ float rounded(const Product &p, int half, int col, float sum) {
    return to_f32(to_bf16(p.bias[half] ? sum + p.bias[half][col] : sum));
}

/* v: the sums of row `row` at a strip's columns number `pair`. */
template <What WHAT, int HALVES>
__device__ __forceinline__ void put(const Few &f, const Product &p, int strip, int row, int pair, const float *v) {
    int at_row = p.to ? p.to[row] : row;
    if (WHAT == PLAIN) {
        UNROLL for (int c = 0; c < HALVES; c++) {
            int col = column_of<HALVES>(p, strip, c) + pair;
            if (col >= p.m) continue;
            float sum = p.bias[c] ? v[c] + p.bias[c][col] : v[c];
            int64_t at = at_row * p.ldy + col;
            if (p.bf16)
                store((bf16_t *)p.y + at, sum);
            else
                ((float *)p.y)[at] = f.add ? ((float *)p.y)[at] + sum : sum;
        }
        return;
    }
    int col = column_of<HALVES>(p, strip, 0) + pair, second = column_of<HALVES>(p, strip, HALVES - 1) + pair;
    bf16_t *y = (bf16_t *)p.y + at_row * p.ldy;
    float a = rounded(p, 0, col, v[0]), b = rounded(p, 1, second, v[HALVES - 1]);
    if (WHAT == SWIGLU) {
        store(y + col, swiglu(b, a));
        return;
    }
    if (p.turns) {
        float s, c;
        sine_cosine((double)f.pos[row] * f.freq[col % (2 * p.apart)], &s, &c);
        turn_pair(&a, &b, s, c);
    }
    store(y + col, a);
    store(y + second, b);
}

/* SHARED: x lies in shared memory; else its pieces are loaded as early as those of w. */
template <What WHAT, int HALVES, int U, bool SHARED>
__global__ void __launch_bounds__(THREADS, BLOCKS) few_kernel(const __grid_constant__ Few f) {
    enum { STEP = WARPS * PIECE * U };
    __shared__ float sums[2][WARPS][HALVES * 4][32];
    SHARED_DYNAMIC(raw);
    bf16_t *sx = (bf16_t *)raw;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    release_next();
    Place<HALVES> ahead;
    Pieces<HALVES, U> even, odd;
    ahead.go(f, (int)blockIdx.x);
    load_w<HALVES, U>(even, f, ahead);
    ahead.next(f, STEP);
    load_w<HALVES, U>(odd, f, ahead);
    NormWeights norm;
    load_norm(norm, f);
    await_inputs();
    if (SHARED) take_x(f, norm, sx, &sums[0][0][0][0]);
    if (!SHARED) load_x<HALVES, U>(even, f, f.x, f.ldx, 0), load_x<HALVES, U>(odd, f, f.x, f.ldx, ahead.k);

    float acc[HALVES][4] = {};
    int strip = (int)blockIdx.x, k = 0, turn = 0;
    auto step = [&](Pieces<HALVES, U> &p) {
        if (SHARED) load_x<HALVES, U>(p, f, sx, f.k + 8, k);
        multiply<HALVES, U>(acc, p);
        ahead.next(f, STEP);
        load_w<HALVES, U>(p, f, ahead);
        if (!SHARED) load_x<HALVES, U>(p, f, f.x, f.ldx, ahead.k);
        k += STEP;
        if (k < f.k) return;
        UNROLL for (int c = 0; c < HALVES; c++) UNROLL for (int e = 0; e < 4; e++) {
            sums[turn][warp][c * 4 + e][lane] = acc[c][e];
            acc[c][e] = 0;
        }
        sync_block();
        if ((int)threadIdx.x < 128) {
            const int e = warp, row = lane / 4 + e / 2 * 8;
            const Product &made = product_of(f, strip);
            float v[HALVES];
            UNROLL for (int c = 0; c < HALVES; c++) {
                v[c] = 0;
                UNROLL for (int s = 0; s < WARPS; s++) v[c] += sums[turn][s][c * 4 + e][lane];
            }
            if (row < f.rows) put<WHAT, HALVES>(f, made, strip - made.strip0, row, lane % 4 * 2 + e % 2, v);
        }
        turn ^= 1; /* who is still adding has these to himself until all have met at the next strip's end */
        strip += (int)gridDim.x, k = 0;
    };
    while (strip < f.strips) {
        step(even);
        if (strip < f.strips) step(odd);
    }
}

/* -- host side ------------------------------------------------------------------------------------------------------
 */

bool pieces(Tensor t) { return t.dtype == DTYPE_BF16 && (uintptr_t)t.data % 16 == 0 && (t.rows <= 1 || t.ld % 8 == 0); }

bool known_sizes(int64_t rows, int64_t k) { return rows <= FEW_ROWS && k % PIECE == 0 && k < 1 << 30; }

/* Both halves of the strips are o's w. False: not for this kernel. */
bool product_set(Product *p, LinearOut o, int apart) {
    if (!pieces(o.w) || !tensor_empty(o.scale) || o.w.rows >= 1 << 30) return false;
    p->w[0] = p->w[1] = (const bf16_t *)o.w.data, p->ldw[0] = p->ldw[1] = o.w.ld;
    p->bias[0] = p->bias[1] = tensor_empty(o.bias) ? NULL : (const float *)o.bias.data;
    p->y = o.y.data, p->ldy = o.y.ld, p->bf16 = o.y.dtype == DTYPE_BF16;
    p->m = (int)o.w.rows, p->apart = apart;
    return true;
}

/* The rows of x that the products read. */
void rows_set(Few *f, Tensor x) {
    f->x = (const bf16_t *)x.data, f->ldx = x.ld, f->rows = (int)x.rows, f->k = (int)x.cols;
    f->shared = x.rows * (x.cols + 8) * 2 <= SHARED_X;
}

/* The same, normalized: by the kernel where they are few, else by one before it. */
void normed_rows_set(Backend *be, Few *f, const NormedRows *r) {
    bool aligned = rows_aligned(r->x.data, r->x.rows, r->x.ld, 4, 16) && rows_aligned(r->w.data, 1, 0, 4, 16);
    if (r->x.rows <= NORM_ROWS && r->x.cols <= NORM_COLS && aligned) {
        rows_set(f, r->x);
        f->x = NULL, f->norm_x = (const float *)r->x.data, f->norm_w = (const float *)r->w.data;
        f->norm_group = norm_group(r->x.cols), f->eps = r->eps;
        return;
    }
    cuda_rmsnorm_fwd(be, r->h, (Tensor){}, r->x, r->w, r->eps);
    rows_set(f, r->h);
}

template <What WHAT, int HALVES, int U> void launch(Backend *be, Few f) {
    for (int i = 0; i < f.n; i++) {
        f.p[i].strip0 = f.strips;
        int half = WHAT == SWIGLU || HALVES == 1 ? 8 : 16;
        f.strips += (f.p[i].m + half - 1) / half;
    }
    unsigned grid = (unsigned)least(f.strips, (int64_t)BLOCKS * cuda_impl(be)->n_sm);
    size_t shared = (size_t)f.rows * (size_t)(f.k + 8) * 2;
    if (f.shared)
        LAUNCH_EARLY(be, (few_kernel<WHAT, HALVES, U, true>), grid, THREADS, shared, f);
    else
        LAUNCH_EARLY(be, (few_kernel<WHAT, HALVES, U, false>), grid, THREADS, 0, f);
}

} // namespace

extern "C" bool cuda_few_fwd(Backend *be, const LinearOut *out, int n, Tensor x, bool add) {
    if (!known_sizes(x.rows, x.cols) || !pieces(x)) return false;
    Few f = {};
    f.n = n, f.add = add;
    rows_set(&f, x);
    for (int i = 0; i < n; i++)
        if (!product_set(&f.p[i], out[i], 8)) return false;
    if (x.rows <= 8)
        launch<PLAIN, 1, 4>(be, f);
    else
        launch<PLAIN, 2, 2>(be, f);
    return true;
}

/* What both fused ops ask of their norm. */
static bool normed_fits(Backend *be, const char *op, NormedRows r) {
    cuda_check(op, "x", r.x, r.x.rows, r.x.cols, CUDA_REAL);
    cuda_check(op, "w", r.w, 1, r.x.cols, CUDA_REAL);
    cuda_check(op, "h", r.h, r.x.rows, r.x.cols, CUDA_ANY);
    return !cuda_impl(be)->exact && r.x.rows > 0 && known_sizes(r.x.rows, r.x.cols) && pieces(r.h);
}

extern "C" bool cuda_norm_qkv(Backend *be, const LinearOut qkv[3], NormedRows r, Tensor kc, Tensor vc,
                              const int32_t *kv_row, const int32_t *pos, const double *freq, int d_head) {
    if (!normed_fits(be, "norm_qkv", r) || d_head % 16 != 0) return false;
    Few f = {};
    f.n = 3;
    const Tensor to[] = {qkv[0].y, kc, vc};
    for (int i = 0; i < 3; i++) {
        CHECK(to[i].cols == qkv[i].w.rows && qkv[i].w.cols == r.x.cols && to[i].cols % d_head == 0,
              "norm_qkv: product %d is (%lld, %lld) for %lld columns, d_head %d", i, (long long)qkv[i].w.rows,
              (long long)qkv[i].w.cols, (long long)to[i].cols, d_head);
        if (to[i].dtype != DTYPE_BF16 || !product_set(&f.p[i], qkv[i], i < 2 ? d_head / 2 : 8)) return false;
        f.p[i].y = to[i].data, f.p[i].ldy = to[i].ld, f.p[i].turns = i < 2;
    }
    f.p[1].to = f.p[2].to = cuda_index(be, kv_row, r.x.rows);
    f.pos = cuda_index(be, pos, r.x.rows);
    f.freq = cuda_doubles(be, freq, d_head / 2);
    normed_rows_set(be, &f, &r);
    launch<TURN, 2, 2>(be, f);
    return true;
}

extern "C" bool cuda_norm_swiglu(Backend *be, Tensor y, LinearOut up, LinearOut gate, NormedRows r) {
    cuda_check("norm_swiglu", "y", y, r.x.rows, up.w.rows, CUDA_ANY);
    CHECK(tensor_same_shape(up.w, gate.w) && up.w.cols == r.x.cols, "norm_swiglu: up (%lld, %lld), gate (%lld, %lld)",
          (long long)up.w.rows, (long long)up.w.cols, (long long)gate.w.rows, (long long)gate.w.cols);
    if (!normed_fits(be, "norm_swiglu", r) || y.dtype != DTYPE_BF16 || y.cols % 8 != 0) return false;
    Few f = {};
    Product second = {};
    f.n = 1;
    if (!product_set(&f.p[0], up, 0) || !product_set(&second, gate, 0)) return false;
    f.p[0].w[1] = second.w[1], f.p[0].ldw[1] = second.ldw[1], f.p[0].bias[1] = second.bias[1];
    f.p[0].y = y.data, f.p[0].ldy = y.ld;
    normed_rows_set(be, &f, &r);
    launch<SWIGLU, 2, 2>(be, f);
    return true;
}
