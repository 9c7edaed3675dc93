/* tensor/cuda/linear.cu — matrix products by kernels of our own.
 *
 * Sums have one fixed order over what is summed (gemm_mma.h, gemm_simt.h), without splits: in own_fwd the bits of a row
 * do not depend on the other rows or on how many there are, so that decoding and training agree bit for bit. Tensor
 * cores serve BF16 x under BF16 or 8-bit w; everything else is multiplied as F32. Which tiles are taken is a matter of
 * speed alone. */
#include "tensor/cuda/gemm_mma.h"
#include "tensor/cuda/gemm_simt.h"

namespace {

enum { FEW_ROWS = 32 };
enum { SIDE_MAX = INT32_MAX - 65536 }; /* rows and columns are ints, those behind the end of a tile too */

Operand operand(Tensor t) {
    Operand o;
    o.data = t.data, o.rows = (int)t.rows, o.cols = (int)t.cols, o.ld = t.ld, o.dtype = t.dtype;
    return o;
}

/* d (I,J) over c */
Gemm product_of(Tensor d, Tensor a, Tensor b, int64_t c, bool add) {
    Gemm g = {};
    g.a = operand(a), g.b = operand(b), g.d = mat_of(d, 2);
    g.i = (int)d.rows, g.j = (int)d.cols, g.c = (int)c, g.add = add;
    return g;
}

/* Whole pieces of `bytes` bytes, aligned. */
bool in_pieces(Tensor t, size_t bytes) {
    size_t size = dtype_bytes(t.dtype);
    return rows_aligned(t.data, t.rows, t.ld, size, bytes) && (size_t)t.cols * size % bytes == 0;
}

void check_operand(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols) {
    CHECK(t.rows == rows && t.cols == cols && !t.panels && (tensor_empty(t) || (t.data && t.ld >= t.cols)),
          "%s: %s is (%lld, %lld), ld %lld%s, expected (%lld, %lld)", op, what, (long long)t.rows, (long long)t.cols,
          (long long)t.ld, t.panels ? ", in panels" : "", (long long)rows, (long long)cols);
    CHECK(rows < SIDE_MAX && cols < SIDE_MAX, "%s: %s is (%lld, %lld)", op, what, (long long)rows, (long long)cols);
    CHECK(t.dtype == DTYPE_F32 || t.dtype == DTYPE_BF16 || t.dtype == DTYPE_I8, "%s: %s is %s", op, what,
          dtype_name(t.dtype));
}

/* Fewer than one large tile a multiprocessor: smaller ones keep more of them busy. */
bool few_tiles(Backend *be, const GemmSet &s) {
    int64_t n = 0;
    for (int i = 0; i < s.n; i++) n += div_up(s.g[i].i, 128) * div_up(s.g[i].j, 128);
    return n < cuda_impl(be)->n_sm;
}

/* What tiles of that size would take: rounds over the multiprocessors, of so much work each; `toll` is for what smaller
 * tiles read more often. */
double tile_time(Backend *be, const GemmSet &s, int rows, int cols, double toll) {
    int64_t n = 0;
    for (int i = 0; i < s.n; i++) n += div_up(s.g[i].i, rows) * div_up(s.g[i].j, cols);
    return (double)div_up(n, cuda_impl(be)->n_sm) * rows * cols * toll;
}

template <bool A_T, bool B_T> void mma(Backend *be, const GemmSet &s, bool wide) {
    double large = tile_time(be, s, 128, 128, 1), middle = tile_time(be, s, 128, 64, 1.1),
           small = tile_time(be, s, 64, 64, 1.35);
    if (!wide)
        mma_launch<64, 64, 32, 32, 32, 0, 2, A_T, B_T, LOAD_ANY>(be, s);
    else if (small < large && small < middle)
        mma_launch<64, 64, 64, 32, 32, 0, 4, A_T, B_T, LOAD_WIDE>(be, s);
    else if (middle < large)
        mma_launch<128, 64, 32, 64, 32, 0, 4, A_T, B_T, LOAD_WIDE>(be, s);
    else
        mma_launch<128, 128, 32, 64, 64, 0, 4, A_T, B_T, LOAD_WIDE>(be, s);
}

template <bool A_T, bool B_T> void simt(Backend *be, Gemm g, Tensor a, Tensor b) {
    bool wide_a = rows_aligned(a.data, a.rows, a.ld, dtype_bytes(a.dtype), 4 * dtype_bytes(a.dtype));
    bool wide_b = rows_aligned(b.data, b.rows, b.ld, dtype_bytes(b.dtype), 4 * dtype_bytes(b.dtype));
    if (few_tiles(be, gemm_alone(g)))
        simt_launch<64, 16, A_T, B_T>(be, g, wide_a, wide_b);
    else
        simt_launch<128, 8, A_T, B_T>(be, g, wide_a, wide_b);
}

/* BF16 x. Few rows: narrow tiles, many of them, with much of w under way. */
void fwd_mma(Backend *be, const GemmSet &s, bool wide, bool light) {
    int rows = s.g[0].i;
    if (!wide)
        mma<false, false>(be, s, false);
    else if (light && rows <= 16)
        mma_launch<16, 32, 128, 16, 16, 6, 6, false, false, LOAD_I8>(be, s);
    else if (light && (rows <= 256 || few_tiles(be, s)))
        mma_launch<64, 64, 64, 32, 32, 0, 4, false, false, LOAD_I8>(be, s);
    else if (light)
        mma_launch<128, 128, 32, 64, 64, 0, 4, false, false, LOAD_I8>(be, s);
    else if (rows <= 16)
        mma_launch<16, 32, 128, 16, 16, 2, 6, false, false, LOAD_WIDE>(be, s);
    else if (rows <= 32)
        mma_launch<32, 32, 128, 32, 16, 2, 4, false, false, LOAD_WIDE>(be, s);
    else if (rows <= 64)
        mma_launch<64, 32, 64, 32, 16, 0, 6, false, false, LOAD_WIDE>(be, s);
    else
        mma<false, false>(be, s, true);
}

/* F32 x. */
void fwd_simt(Backend *be, Gemm g, Tensor x, Tensor w) {
    if (x.dtype == DTYPE_F32 && g.i <= FEW_ROWS && in_pieces(x, 16) && in_pieces(w, 16)) {
        if (w.dtype == DTYPE_F32 && few<float>(be, g)) return;
        if (w.dtype == DTYPE_BF16 && few<bf16_t>(be, g)) return;
        if (w.dtype == DTYPE_I8 && few<int8_t>(be, g)) return;
    }
    simt<false, false>(be, g, x, w);
}

Gemm fwd_product(LinearOut out, Tensor x, bool add) {
    check_operand("linear_fwd", "x", x, out.y.rows, out.w.cols);
    check_operand("linear_fwd", "w", out.w, out.y.cols, x.cols);
    cuda_check("linear_fwd", "y", out.y, x.rows, out.w.rows, CUDA_ANY);
    cuda_check("linear_fwd", "bias", out.bias, 1, out.w.rows, CUDA_REAL_OPT);
    cuda_check("linear_fwd", "scale", out.scale, 1, out.w.rows, CUDA_REAL_OPT);
    Gemm g = product_of(out.y, x, out.w, x.cols, add);
    g.bias = (const float *)out.bias.data, g.scale = (const float *)out.scale.data;
    return g;
}

} // namespace

/* Tensor cores take all that are of BF16 or 8-bit w, of one kind and in whole pieces, together. */
extern "C" void cuda_own_fwd(Backend *be, const LinearOut *out, int n, Tensor x, bool add) {
    GemmSet set = {};
    bool wide = in_pieces(x, 16), half = x.dtype == DTYPE_BF16;
    for (int i = 0; i < n; i++) {
        Gemm g = fwd_product(out[i], x, add);
        if (tensor_empty(out[i].y)) continue;
        bool light = out[i].w.dtype == DTYPE_I8, first = set.n == 0;
        if (!half || out[i].w.dtype == DTYPE_F32) {
            fwd_simt(be, g, x, out[i].w);
            continue;
        }
        bool whole = wide && in_pieces(out[i].w, 16), same = first || set.g[0].b.dtype == g.b.dtype;
        if (!whole || !same)
            fwd_mma(be, gemm_alone(g), whole, light);
        else
            set.g[set.n++] = g;
    }
    if (set.n > 0) fwd_mma(be, set, true, set.g[0].b.dtype == DTYPE_I8);
}

extern "C" void cuda_own_dx(Backend *be, Tensor dx, Tensor dy, Tensor w, bool add) {
    check_operand("linear_bwd", "dy", dy, dx.rows, w.rows);
    check_operand("linear_bwd", "w", w, dy.cols, dx.cols);
    cuda_check("linear_bwd", "dx", dx, dy.rows, w.cols, CUDA_ANY);
    if (tensor_empty(dx)) return;
    Gemm g = product_of(dx, dy, w, dy.cols, add);
    if (dy.dtype == DTYPE_BF16 && w.dtype == DTYPE_BF16)
        mma<false, true>(be, gemm_alone(g), in_pieces(dy, 16) && in_pieces(w, 16));
    else
        simt<false, true>(be, g, dy, w);
}

extern "C" void cuda_own_dw(Backend *be, Tensor dw_acc, Tensor dy, Tensor x) {
    check_operand("linear_bwd", "dy", dy, x.rows, dw_acc.rows);
    check_operand("linear_bwd", "x", x, dy.rows, dw_acc.cols);
    cuda_check("linear_bwd", "dw", dw_acc, dy.cols, x.cols, CUDA_REAL);
    if (tensor_empty(dw_acc)) return;
    Gemm g = product_of(dw_acc, dy, x, dy.rows, true);
    if (dy.dtype == DTYPE_BF16 && x.dtype == DTYPE_BF16)
        mma<true, true>(be, gemm_alone(g), in_pieces(dy, 16) && in_pieces(x, 16));
    else
        simt<true, true>(be, g, dy, x);
}

/* -- column sums
 * ------------------------------------------------------------------------------------------------------- */

namespace {

/* Up to STRAIGHT rows in one go; more in at most CHUNKS_MAX chunks, whose sums are then added like rows. */
enum { SUMS_THREADS = 256, STRAIGHT = 512, CHUNK_ROWS = 128, CHUNKS_MAX = 64 };

/* LANES threads share four columns, thread l has rows l, l + LANES, .. of the block's chunk; then a tree over them. */
template <int LANES>
__global__ void __launch_bounds__(SUMS_THREADS)
    column_sums_kernel(float *out, int64_t ld_out, bool add, Mat x, int64_t rows, int64_t cols, int64_t chunk) {
    enum { ACROSS = SUMS_THREADS / LANES, U = 4 };
    __shared__ float at[LANES][ACROSS * 4];
    int across = (int)threadIdx.x % ACROSS, l = (int)threadIdx.x / ACROSS;
    int64_t col = 4 * ((int64_t)blockIdx.x * ACROSS + across),
            end = (blockIdx.y + 1) * chunk < rows ? (blockIdx.y + 1) * chunk : rows;
    float sum[4] = {0, 0, 0, 0};
    for (int64_t row = blockIdx.y * chunk + l; row < end; row += U * LANES) {
        float v[U][4];
        UNROLL for (int u = 0; u < U; u++)
            mat_get<KIND_ANY, 4>(v[u], x, (row + u * LANES) * x.ld + col, row + u * LANES < end ? cols - col : 0);
        UNROLL for (int u = 0; u < U; u++) UNROLL for (int q = 0; q < 4; q++) sum[q] += v[u][q];
    }
    UNROLL for (int q = 0; q < 4; q++) at[l][across * 4 + q] = sum[q];
    for (int half = LANES / 2; half > 0; half /= 2) {
        sync_block();
        UNROLL for (int q = 0; q < 4; q++) if (l < half) at[l][across * 4 + q] += at[l + half][across * 4 + q];
    }
    UNROLL for (int q = 0; q < 4; q++) {
        if (l > 0 || col + q >= cols) continue;
        float *to = out + blockIdx.y * ld_out + col + q;
        *to = add ? *to + at[0][across * 4 + q] : at[0][across * 4 + q];
    }
}

} // namespace

/* Takes no scratch for up to STRAIGHT rows: norm.cu has its partial sums there. */
extern "C" void cuda_column_sums(Backend *be, Tensor dbias_acc, Tensor dy) {
    cuda_check("column_sums", "dy", dy, dy.rows, dy.cols, CUDA_ANY);
    cuda_check("column_sums", "dbias", dbias_acc, 1, dy.cols, CUDA_REAL);
    if (tensor_empty(dy)) return;
    if (dy.rows > STRAIGHT) {
        int64_t chunk = div_up(dy.rows, least(div_up(dy.rows, CHUNK_ROWS), CHUNKS_MAX)),
                chunks = div_up(dy.rows, chunk);
        Tensor part =
            tensor_over(cuda_scratch(be, (size_t)(chunks * dy.cols) * sizeof(float)), DTYPE_F32, chunks, dy.cols);
        dim3 grid((unsigned)div_up(dy.cols, 4 * (SUMS_THREADS / 8)), (unsigned)chunks);
        LAUNCH(be, column_sums_kernel<8>, grid, SUMS_THREADS, 0, (float *)part.data, part.ld, false, mat_of(dy, 4),
               dy.rows, dy.cols, chunk);
        dy = part;
    }
    dim3 grid((unsigned)div_up(dy.cols, 4 * (SUMS_THREADS / 32)));
    LAUNCH(be, column_sums_kernel<32>, grid, SUMS_THREADS, 0, (float *)dbias_acc.data, 0, true, mat_of(dy, 4), dy.rows,
           dy.cols, dy.rows);
}
