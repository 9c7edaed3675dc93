/* tensor/cuda/few.cu — products of few rows (decoding): up to three of one x in one launch, at the speed of reading w
 * once.
 *
 * A block makes 8 FT columns of y for all rows. Its warps share the sum over K: warp s takes pieces s, s + WARPS, .. of
 * 32, so that together they read 512 bytes of each row of w side by side; a lane's 16 bytes of w and of x are two steps
 * of mma, whose K order is a permutation that both sides share. The warps' sums are added in order of the warps. What
 * order a sum has follows from K and the instance alone, but differs from linear.cu's: exact mode does not come here.
 */
#include "tensor/cuda/few.h"
#include "tensor/cuda/launch.h"

namespace {

enum { WARPS = 8, THREADS = 32 * WARPS, PIECE = 32 };

struct Product {
    const bf16_t *w;
    void *y;
    const float *bias; /* NULL: none */
    int64_t ldw, ldy;
    int m, block0; /* columns of y; the first of its blocks */
    bool half;
};

struct Few {
    Product p[LINEAR_MAX];
    const bf16_t *x;
    int64_t ldx;
    int n, rows, k;
    bool add;
};

__device__ __forceinline__ uint4 piece(const bf16_t *p, bool valid) {
    uint4 zero = {0, 0, 0, 0};
    return valid ? *(const uint4 *)p : zero;
}

/* What a lane has of U pieces: its rows of w, and of x the rows g and g + 8 of each tile. */
template <int RT, int FT, int U> struct Pieces { uint4 w[U][FT], lo[U][RT], hi[U][RT]; };

template <int RT, int FT, int U>
__device__ __forceinline__ void load_pieces(Pieces<RT, FT, U> &p, const Few &f, const bf16_t *w, int64_t ldw,
                                            const bf16_t *x, int k, int columns, int rows) {
    UNROLL for (int u = 0; u < U; u++) {
        int at = k + u * WARPS * PIECE;
        UNROLL for (int c = 0; c < FT; c++) p.w[u][c] =
            piece(w + (int64_t)c * 8 * ldw + at, at < f.k && c * 8 < columns);
        UNROLL for (int r = 0; r < RT; r++) {
            p.lo[u][r] = piece(x + (int64_t)r * 16 * f.ldx + at, at < f.k && r * 16 < rows);
            p.hi[u][r] = piece(x + (int64_t)(r * 16 + 8) * f.ldx + at, at < f.k && r * 16 + 8 < rows);
        }
    }
}

template <int RT, int FT, int U>
__device__ __forceinline__ void multiply(float acc[RT][FT][4], const Pieces<RT, FT, U> &p) {
    UNROLL for (int u = 0; u < U; u++) UNROLL for (int r = 0; r < RT; r++) {
        const uint4 &lo = p.lo[u][r], &hi = p.hi[u][r];
        const uint32_t a0[4] = {lo.x, hi.x, lo.y, hi.y}, a1[4] = {lo.z, hi.z, lo.w, hi.w};
        UNROLL for (int c = 0; c < FT; c++) {
            const uint32_t b0[2] = {p.w[u][c].x, p.w[u][c].y}, b1[2] = {p.w[u][c].z, p.w[u][c].w};
            mma_bf16(acc[r][c], a0, b0);
            mma_bf16(acc[r][c], a1, b1);
        }
    }
}

/* The next pieces are under way while these are multiplied. */
template <int RT, int FT, int U> __global__ void __launch_bounds__(THREADS, 2) few_kernel(Few f) {
    __shared__ float sums[WARPS][RT * FT * 4][32];
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int which = 0;
    while (which + 1 < f.n && (int)blockIdx.x >= f.p[which + 1].block0) which++;
    const Product p = f.p[which];
    const int first = ((int)blockIdx.x - p.block0) * 8 * FT, columns = p.m - first - g, rows = f.rows - g;
    const bf16_t *w = p.w + (int64_t)(first + g) * p.ldw + t * 8, *x = f.x + (int64_t)g * f.ldx + t * 8;
    const int STEP = WARPS * PIECE * U;
    float acc[RT][FT][4] = {};
    Pieces<RT, FT, U> a, b;
    load_pieces<RT, FT, U>(a, f, w, p.ldw, x, warp * PIECE, columns, rows);
    for (int k = warp * PIECE; k < f.k; k += 2 * STEP) {
        load_pieces<RT, FT, U>(b, f, w, p.ldw, x, k + STEP, columns, rows);
        multiply<RT, FT, U>(acc, a);
        load_pieces<RT, FT, U>(a, f, w, p.ldw, x, k + 2 * STEP, columns, rows);
        multiply<RT, FT, U>(acc, b);
    }
    UNROLL for (int r = 0; r < RT; r++) UNROLL for (int c = 0; c < FT; c++) UNROLL for (int e = 0; e < 4; e++)
        sums[warp][(r * FT + c) * 4 + e][lane] = acc[r][c][e];
    sync_block();
    for (int i = (int)threadIdx.x; i < RT * FT * 4 * 32; i += THREADS) {
        int l = i % 32, e = i / 32 % 4, c = i / 128 % FT, r = i / 128 / FT;
        int row = r * 16 + l / 4 + e / 2 * 8, col = first + c * 8 + l % 4 * 2 + e % 2;
        if (row >= f.rows || col >= p.m) continue;
        float sum = 0;
        UNROLL for (int s = 0; s < WARPS; s++) sum += sums[s][(r * FT + c) * 4 + e][l];
        if (p.bias) sum += p.bias[col];
        int64_t at = (int64_t)row * p.ldy + col;
        if (p.half)
            store((bf16_t *)p.y + at, sum);
        else if (f.add)
            ((float *)p.y)[at] += sum;
        else
            ((float *)p.y)[at] = sum;
    }
}

template <int RT, int FT, int U> void launch(Backend *be, Few f) {
    int blocks = 0;
    for (int i = 0; i < f.n; i++) {
        f.p[i].block0 = blocks;
        blocks += (f.p[i].m + 8 * FT - 1) / (8 * FT);
    }
    LAUNCH(be, (few_kernel<RT, FT, U>), (unsigned)blocks, THREADS, 0, f);
}

bool pieces(Tensor t) { return t.dtype == DTYPE_BF16 && (uintptr_t)t.data % 16 == 0 && (t.rows <= 1 || t.ld % 8 == 0); }

} // namespace

extern "C" bool cuda_few_fwd(Backend *be, const LinearOut *out, int n, Tensor x, bool add) {
    if (x.rows > FEW_ROWS || !pieces(x) || x.cols % PIECE != 0 || x.cols >= 1 << 30) return false;
    Few f = {};
    f.x = (const bf16_t *)x.data, f.ldx = x.ld, f.rows = (int)x.rows, f.k = (int)x.cols, f.n = n, f.add = add;
    for (int i = 0; i < n; i++) {
        Tensor w = out[i].w, y = out[i].y;
        if (!pieces(w) || !tensor_empty(out[i].scale) || w.rows >= 1 << 30) return false;
        f.p[i].w = (const bf16_t *)w.data, f.p[i].ldw = w.ld, f.p[i].m = (int)w.rows;
        f.p[i].y = y.data, f.p[i].ldy = y.ld, f.p[i].half = y.dtype == DTYPE_BF16;
        f.p[i].bias = tensor_empty(out[i].bias) ? NULL : (const float *)out[i].bias.data;
    }
    if (x.rows <= 8)
        launch<1, 1, 4>(be, f);
    else
        launch<1, 2, 2>(be, f);
    return true;
}
