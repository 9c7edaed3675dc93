/* tensor/cpu/kernels_gemm.h — matrix products.
 *
 * One form serves all three products ("chain"): each output has one accumulator and takes its terms with k ascending,
 * one fused multiply-add each; lanes run over output columns, never over k. So how many rows or columns are computed
 * together, where a tile ends, and whether an accumulator was stored and loaded in between cannot change a bit, and all
 * instruction sets agree.
 *
 * The register tile (micro) is TILE_ROWS x TILE_VECS vectors. Its right operand is a packed panel, b[k][ldb], whole
 * vectors wide and padded with zeros; its left operand is read in place, either a[row][k] or a[k][row]:
 *
 *                              b: panel of the columns, k down
 *                              +-----+-----+-----+
 *                              |     |     |     |
 *      a: rows        k ->     |     |     |     |
 *      +---------------+       +-----+-----+-----+
 *      |               |  x                            =    c: TILE_ROWS x (TILE_VECS * 16), in registers
 *      +---------------+
 *
 * GFLOP/s of one thread (CPU time) for w 704 x 256 on a Xeon whose other core was busy, median/best of 5 runs, by rows
 * N. FMA peak of the same minutes: AVX-512 171-179, AVX2 96. fwd takes eight w in turn, 5.8 MB, so w comes from L3; dx
 * and dw use one set of matrices again and again, which flatters them at small N. Panels are packed anew in each call.
 *
 *                  N =     1        8       32       64      128      512     1024     4096
 *      AVX-512  fwd      8/8    49/54  108/111  133/135  111/148  149/155  144/150  118/146
 *               dx     14/14    81/81  134/135  151/152  120/161  132/156  149/155  119/150
 *               dw     17/18    67/82  135/142  152/155  150/154  114/142  123/136  101/122
 *      AVX2     fwd      8/8    32/40    53/60    60/76    75/79    81/82    71/77    71/81
 *               dx     12/12    41/50    74/74    80/82    83/84    74/83    70/77    76/80
 *               dw     12/12    41/52    59/74    62/79    80/82    71/76    55/64    60/68
 *
 * The other form, lanes over k and a tree at the end, needs no packing; it was not measured. Tried beside this one, few
 * runs each: 6 x 4 vectors (alike for many rows, about 15 % slower for 8), dy packed in strips for dw (about 10 %
 * slower), no prefetch of the next rows (about 15 % slower at N = 4096).
 */
#ifndef DIKAST_TENSOR_CPU_KERNELS_GEMM_H
#define DIKAST_TENSOR_CPU_KERNELS_GEMM_H

enum { PANEL = TILE_VECS * 16 };

typedef void MicroFn(int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc,
                     bool load);

/* mr, nv and by_row are constants after inlining, so the accumulators live in registers. */
INLINE void micro(int mr, int nv, bool by_row, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb,
                  float *c, int64_t ldc, bool load) {
    v16 acc[TILE_ROWS][TILE_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) acc[r][v] = load ? v16_load(c + r * ldc + 16 * v) : v16_zero();
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) __builtin_prefetch(c + r * ldc + 16 * v, 1);
    const float *next = a + mr * lda;
    for (int64_t i = 0; i < k; i++) {
        v16 bv[TILE_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) bv[v] = v16_load(b + i * ldb + 16 * v);
        __builtin_prefetch(by_row ? next + i * mr : a + (i + 8) * lda);
#pragma GCC unroll 8
        for (int r = 0; r < mr; r++) {
            v16 av = v16_set1(by_row ? a[r * lda + i] : a[i * lda + r]);
#pragma GCC unroll 4
            for (int v = 0; v < nv; v++) acc[r][v] = v16_fma(av, bv[v], acc[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) v16_store(c + r * ldc + 16 * v, acc[r][v]);
}

#define MICRO(mr, nv)                                                                                                  \
    static void micro_row_##mr##_##nv(int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,   \
                                      int64_t ldc, bool load) {                                                        \
        micro(mr, nv, true, k, a, lda, b, ldb, c, ldc, load);                                                          \
    }                                                                                                                  \
    static void micro_col_##mr##_##nv(int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,   \
                                      int64_t ldc, bool load) {                                                        \
        micro(mr, nv, false, k, a, lda, b, ldb, c, ldc, load);                                                         \
    }
MICRO_TILES(MICRO)

/* [a by column][rows - 1][vectors - 1] */
#define MICRO_ROW(mr, nv) [0][mr - 1][nv - 1] = micro_row_##mr##_##nv,
#define MICRO_COL(mr, nv) [1][mr - 1][nv - 1] = micro_col_##mr##_##nv,
static MicroFn *const micro_table[2][TILE_ROWS][TILE_VECS] = {MICRO_TILES(MICRO_ROW) MICRO_TILES(MICRO_COL)};

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Four vectors left are better cut 2 + 2 than 3 + 1. */
INLINE int64_t next_vecs(int64_t left) {
    return left == TILE_VECS + 1 && left % 2 == 0 ? left / 2 : least(left, TILE_VECS);
}

/* c (rows, vecs*16) = (load ? c : 0) + a b; a[row][k] */
static void gemm_rows(int64_t rows, int64_t vecs, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb,
                      float *c, int64_t ldc, bool load) {
    for (int64_t v = 0, nv; v < vecs; v += nv) {
        nv = next_vecs(vecs - v);
        for (int64_t r = 0; r < rows; r += TILE_ROWS)
            micro_table[0][least(rows - r, TILE_ROWS) - 1][nv - 1](k, a + r * lda, lda, b + 16 * v, ldb,
                                                                   c + r * ldc + 16 * v, ldc, load);
    }
}

/* The same with a[k][row] */
static void gemm_cols(int64_t rows, int64_t vecs, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb,
                      float *c, int64_t ldc, bool load) {
    for (int64_t v = 0, nv; v < vecs; v += nv) {
        nv = next_vecs(vecs - v);
        for (int64_t r = 0; r < rows; r += TILE_ROWS)
            micro_table[1][least(rows - r, TILE_ROWS) - 1][nv - 1](k, a + r, lda, b + 16 * v, ldb, c + r * ldc + 16 * v,
                                                                   ldc, load);
    }
}

/* dst[k][j] = src[j][k], j < n <= 16; lanes n..15 become 0 */
static void pack_transposed(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t n, int64_t k) {
    v16 t[16];
    int64_t whole = n == 16 ? k / 16 * 16 : 0;
    for (int64_t i = 0; i < whole; i += 16) {
        for (int j = 0; j < 16; j++) __builtin_prefetch(src + (j + 16) * lds + i, 0, 2);
        v16_load_transposed(t, src + i, lds);
#pragma GCC unroll 16
        for (int j = 0; j < 16; j++) v16_store(dst + (i + j) * ldd, t[j]);
    }
    for (int64_t i = whole; i < k; i += 16) {
        float block[16 * 16];
        for (int j = 0; j < 16; j++) v16_store(block + 16 * j, j < n ? v16_get(src + j * lds + i, k - i) : v16_zero());
        v16_load_transposed(t, block, 16);
        for (int64_t j = 0; j < least(k - i, 16); j++) v16_store(dst + (i + j) * ldd, t[j]);
    }
}

/* dst[i][j] = src[i][j], j < cols; padded with 0 to whole vectors. Rows a stride apart are what hardware prefetch does
 * not see coming. */
static void pack_rows(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j += 16) {
            __builtin_prefetch(src + (i + 12) * lds + j);
            v16_store(dst + i * ldd + j, v16_get(src + i * lds + j, cols - j));
        }
}

/* -- linear ---------------------------------------------------------------------------------------------------------
 */

/* Rows of one task: a chunk of x stays in L2 while the panels of w pass. A multiple of every TILE_ROWS. */
enum { CHUNK = 384 };

typedef struct {
    Backend *be;
    Tensor y, x, w, bias;
    bool add, transposed; /* y = x w^T, else y = x w */
    int64_t n_panel;
} Product;

static void product_tile(const Product *p, int64_t row, int64_t rows, int64_t col, int64_t cols, const float *panel,
                         int64_t ldb) {
    float tile[TILE_ROWS * PANEL];
    int64_t vecs = ldb / 16, k = p->x.cols;
    bool direct = cols == ldb && !p->add && tensor_empty(p->bias);
    for (int64_t r = row; r < row + rows; r += TILE_ROWS) {
        int64_t mr = least(row + rows - r, TILE_ROWS);
        MicroFn *fn = micro_table[0][mr - 1][vecs - 1];
        if (direct) {
            fn(k, f32_row(p->x, r), p->x.ld, panel, ldb, f32_row(p->y, r) + col, p->y.ld, false);
            continue;
        }
        fn(k, f32_row(p->x, r), p->x.ld, panel, ldb, tile, PANEL, false);
        for (int64_t i = 0; i < mr; i++) {
            float *y = f32_row(p->y, r + i) + col;
            for (int64_t j = 0; j < cols; j += 16) {
                v16 sum = v16_load(tile + i * PANEL + j);
                if (!tensor_empty(p->bias)) sum = v16_add(sum, v16_get(f32_row(p->bias, 0) + col + j, cols - j));
                if (p->add) sum = v16_add(sum, v16_get(y + j, cols - j));
                v16_put(y + j, sum, cols - j);
            }
        }
    }
}

static void product_task(void *ud, int64_t task, int thread) {
    const Product *p = ud;
    int64_t row = task / p->n_panel * CHUNK, col = task % p->n_panel * PANEL;
    int64_t cols = least(p->y.cols - col, PANEL), ldb = ceil_div(cols, 16) * 16, k = p->x.cols;
    float *panel = cpu_scratch_of(p->be, thread);
    if (p->transposed) {
        for (int64_t j = 0; j < cols; j += 16)
            pack_transposed(panel + j, ldb, f32_row(p->w, col + j), p->w.ld, least(cols - j, 16), k);
    } else {
        pack_rows(panel, ldb, f32_row(p->w, 0) + col, p->w.ld, k, cols);
    }
    product_tile(p, row, least(p->y.rows - row, CHUNK), col, cols, panel, ldb);
}

static void product(Product *p) {
    if (tensor_empty(p->y)) return;
    p->n_panel = ceil_div(p->y.cols, PANEL);
    cpu_scratch_threads(p->be, p->x.cols * PANEL);
    double flops = 2.0 * (double)p->x.cols * (double)tensor_count(p->y);
    cpu_tiles(p->be, ceil_div(p->y.rows, CHUNK) * p->n_panel, flops, product_task, p);
}

static void linear_fwd(Backend *be, Tensor y, Tensor x, Tensor w, Tensor bias, bool add) {
    cpu_check("linear_fwd", "y", y, x.rows, w.rows);
    cpu_check("linear_fwd", "x", x, x.rows, x.cols);
    cpu_check("linear_fwd", "w", w, w.rows, x.cols);
    cpu_check_opt("linear_fwd", "bias", bias, 1, w.rows);
    Product p = {be, y, x, w, bias, add, true, 0};
    product(&p);
}

/* dw += dy^T x. The tokens pass in blocks of GRAD_BLOCK, in order; a block of dy and x stays in L2 while the tasks,
 * each owning GRAD_ROWS x GRAD_COLS outputs, read it. A block is summed from zero, then added: that keeps rounding at
 * the size of a block's sum. dy is read in place, a column at a time; packing it in strips was slower. */
enum { GRAD_ROWS = 192, GRAD_COLS = 144, GRAD_BLOCK = 256 };

typedef struct {
    Backend *be;
    Tensor dw, dy, x;
    int64_t n_col, first, n; /* tokens [first, first + n) */
} Outer;

static void outer_task(void *ud, int64_t task, int thread) {
    const Outer *o = ud;
    int64_t m0 = task / o->n_col * GRAD_ROWS, c0 = task % o->n_col * GRAD_COLS;
    int64_t m_end = least(o->dw.rows, m0 + GRAD_ROWS), c_end = least(o->dw.cols, c0 + GRAD_COLS);
    float *panel = cpu_scratch_of(o->be, thread), tile[TILE_ROWS * PANEL];
    for (int64_t c = c0; c < c_end; c += PANEL) {
        int64_t cols = least(c_end - c, PANEL), vecs = ceil_div(cols, 16);
        pack_rows(panel, vecs * 16, f32_row(o->x, o->first) + c, o->x.ld, o->n, cols);
        for (int64_t m = m0; m < m_end; m += TILE_ROWS) {
            int64_t mr = least(m_end - m, TILE_ROWS);
            micro_table[1][mr - 1][vecs - 1](o->n, f32_row(o->dy, o->first) + m, o->dy.ld, panel, vecs * 16, tile,
                                             PANEL, false);
            for (int64_t r = 0; r < mr; r++) {
                float *dw = f32_row(o->dw, m + r) + c;
                for (int64_t l = 0; l < cols; l += 16)
                    v16_put(dw + l, v16_add(v16_get(dw + l, cols - l), v16_load(tile + r * PANEL + l)), cols - l);
            }
        }
    }
}

static void outer(Backend *be, Tensor dw_acc, Tensor dy, Tensor x) {
    Outer o = {be, dw_acc, dy, x, ceil_div(x.cols, GRAD_COLS), 0, 0};
    cpu_scratch_threads(be, PANEL * GRAD_BLOCK);
    for (; o.first < dy.rows; o.first += GRAD_BLOCK) {
        o.n = least(dy.rows - o.first, GRAD_BLOCK);
        double flops = 2.0 * (double)tensor_count(dw_acc) * (double)o.n;
        cpu_tiles(be, ceil_div(dw_acc.rows, GRAD_ROWS) * o.n_col, flops, outer_task, &o);
    }
}

typedef struct {
    Tensor sum, x;
} ColumnSums;

enum { SUM_COLS = 64 };

static void column_sums_task(void *ud, int64_t task, int thread) {
    (void)thread;
    const ColumnSums *s = ud;
    int64_t end = least(s->x.cols, (task + 1) * SUM_COLS);
    for (int64_t j = task * SUM_COLS; j < end; j += 16) {
        v16 sum = v16_zero();
        for (int64_t i = 0; i < s->x.rows; i++) sum = v16_add(sum, v16_get(f32_row(s->x, i) + j, end - j));
        float *dst = f32_row(s->sum, 0) + j;
        v16_put(dst, v16_add(v16_get(dst, end - j), sum), end - j);
    }
}

/* sum (1,C) += column sums of x (N,C), rows ascending */
static void column_sums(Backend *be, Tensor sum, Tensor x) {
    ColumnSums s = {sum, x};
    cpu_tiles(be, ceil_div(x.cols, SUM_COLS), 8.0 * (double)tensor_count(x), column_sums_task, &s);
}

static void linear_bwd(Backend *be, Tensor dx, Tensor dw_acc, Tensor dbias_acc, Tensor dy, Tensor x, Tensor w,
                       bool add_dx) {
    cpu_check("linear_bwd", "dy", dy, dy.rows, dy.cols);
    if (!tensor_empty(dx)) {
        cpu_check("linear_bwd", "dx", dx, dy.rows, w.cols);
        cpu_check("linear_bwd", "w", w, dy.cols, w.cols);
        Product p = {be, dx, dy, w, {0}, add_dx, false, 0};
        product(&p);
    }
    if (!tensor_empty(dw_acc)) {
        cpu_check("linear_bwd", "dw", dw_acc, dy.cols, x.cols);
        cpu_check("linear_bwd", "x", x, dy.rows, x.cols);
        outer(be, dw_acc, dy, x);
    }
    if (!tensor_empty(dbias_acc)) {
        cpu_check("linear_bwd", "dbias", dbias_acc, 1, dy.cols);
        column_sums(be, dbias_acc, dy);
    }
}

#endif
