/* tensor/cpu/kernels_gemm.h — matrix products.
 *
 * One form serves all three products ("chain"): each output has one accumulator and takes its terms with k ascending,
 * one fused multiply-add each; lanes run over output columns, never over k. So how many rows or columns are computed
 * together, where a tile ends, and whether an accumulator was stored and loaded in between cannot change a bit, and all
 * instruction sets agree.
 *
 * The register tile (micro) is TILE_ROWS x TILE_VECS vectors. Its right operand are panels of 16 columns, k down, padded
 * with zeros; its left operand is read in place: a[row][k], a[k][row], or a panel's a[k / 16][row][k % 16]:
 *
 *                              b: panels of the columns, k down
 *                              +-----+ +-----+ +-----+
 *                              |     | |     | |     |
 *      a: rows        k ->     |     | |     | |     |
 *      +---------------+       +-----+ +-----+ +-----+
 *      |               |  x                            =    c: TILE_ROWS x (TILE_VECS * 16), in registers
 *      +---------------+
 *
 *      y  = x w^T     b: w as it lies in memory (tensor.h: panels); nothing is packed, and few rows of x (decoding) read
 *                     every panel once, in order. Of a w that is no panels a task packs its own, once per CHUNK rows of x
 *      dx = dy w      many rows: b: w transposed, 16 x 16 at a time, once for all; few: computed as its transpose: b: dy
 *                     transposed, a: w as it lies, a value at a time, c: sums, turned on their way to dx
 *      dw = dy^T x    computed as its transpose, which is how panels of dw lie: b: dy, c: dw, a: x by columns, TILE_ROWS
 *                     of them side by side, copied so once for all panels
 *
 * Measured figures and what else was tried: bench/README.md. */
#ifndef DIKAST_TENSOR_CPU_KERNELS_GEMM_H
#define DIKAST_TENSOR_CPU_KERNELS_GEMM_H

typedef struct {
    int64_t k;
    const float *a; /* (rows, k) with lda between rows, (k, rows) with lda between ks, or panels with lda between them */
    int64_t lda;
    /* Lines ld_ahead apart, which need not be readable: k that are read later, for A_ROW_AHEAD and A_STRIP_AHEAD; one a vector of
     * c, written after c, for A_PANEL. */
    const float *ahead;
    int64_t ld_ahead;
    const float *b;     /* vector v of row i at b + v * bv + i * bk */
    int64_t bk, bv;
    const float *init; /* where the sums start: vector v of row r at init + r * ldi + v * iv; NULL: at 0 */
    int64_t ldi, iv;
    float *c;              /* vector v of row r at c + r * ldc + v * cv */
    int64_t ldc, cv, cols; /* cols: columns stored, the rest of the last vector is not touched */
    const float *bias;     /* (cols) added to the sums, or NULL */
    const float *add;      /* then this, which lies as c does but for its ld: c itself, another matrix, or NULL */
    int64_t ld_add;
} Tile;
typedef void MicroFn(const Tile *t);

/* How a is read, and what is fetched meanwhile: of a row-major the rows of the next tile, of a by columns the next rows;
 * or, with either, what a later tile or task reads; or what this one reads of b so many rows on. Of panels the rows of the next
 * tile. */
enum { A_ROW, A_COL, A_ROW_AHEAD, A_ROW_STREAM, A_STRIP, A_STRIP_AHEAD, A_PANEL, A_KINDS };
enum { STREAM_ROWS = 32 };

INLINE void fetch_ahead(int kind, int mr, const Tile *t, const float *a, int64_t i) {
    if (kind == A_ROW) __builtin_prefetch(a + mr * t->lda + i * mr);
    if (kind == A_COL || kind == A_STRIP) __builtin_prefetch(a + (i + 8) * t->lda);
    if (kind == A_ROW_AHEAD || kind == A_STRIP_AHEAD) __builtin_prefetch(t->ahead + i * t->ld_ahead, 0, 2);
    if (kind == A_PANEL) __builtin_prefetch(a + mr * 16 + i * mr, 0, 2);
}

/* Of a panel: of its first 16 ks. */
INLINE float a_at(int kind, const float *a, int64_t lda, int r, int64_t k) {
    if (kind == A_PANEL) return a[r * 16 + k];
    return kind == A_COL || kind == A_STRIP || kind == A_STRIP_AHEAD ? a[k * lda + r] : a[r * lda + k];
}

/* Rows of dx of a task, where lanes run over rows. */
enum { ACROSS_ROWS = 64 };

/* What a kind fixes, said once more so that the compiler knows it. */
INLINE Tile tile_of(int nv, int kind, const Tile *tile) {
    Tile t = *tile;
    if (kind == A_STRIP || kind == A_STRIP_AHEAD) {
        t.lda = TILE_ROWS, t.bk = nv * 16, t.bv = 16, t.ldc = t.ld_add = 16, t.cols = nv * 16;
        t.add = t.c, t.init = t.bias = NULL;
    }
    if (kind == A_PANEL) {
        t.bk = 16, t.ldi = t.ldc = ACROSS_ROWS, t.iv = t.cv = 16, t.cols = nv * 16;
        t.bias = t.add = NULL;
    }
    return t;
}

/* mr, nv and kind are constants after inlining, so the accumulators live in registers. A panel that is being read is a
 * stream that the hardware sees coming; asking for it ahead (8 or 24 vectors) cost up to a third with one row on Zen 4.
 */
INLINE void micro(int mr, int nv, int kind, const Tile *tile) {
    const Tile t = tile_of(nv, kind, tile);
    const int64_t k = t.k, lda = t.lda, bk = t.bk, bv = t.bv;
    const float *a = t.a, *b = t.b;
    v16 acc[TILE_ROWS][TILE_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) {
            acc[r][v] = t.init ? v16_load(t.init + r * t.ldi + v * t.iv) : v16_zero();
            __builtin_prefetch(kind == A_PANEL ? t.ahead + (r * nv + v) * t.ld_ahead : t.c + r * t.ldc + v * t.cv, 1);
        }
    for (int64_t from = 0, block = kind == A_PANEL ? 16 : k; from < k; from += block, a += lda)
        for (int64_t i = 0; i < least(k - from, block); i++) {
            v16 w[TILE_VECS];
#pragma GCC unroll 4
            for (int v = 0; v < nv; v++) {
                w[v] = v16_load(b + v * bv);
                if (kind == A_ROW_STREAM) __builtin_prefetch(b + v * bv + STREAM_ROWS * 16);
            }
            b += bk;
            fetch_ahead(kind, mr, &t, a, i);
#pragma GCC unroll 8
            for (int r = 0; r < mr; r++) {
                v16 x = v16_set1(a_at(kind, a, lda, r, i));
#pragma GCC unroll 4
                for (int v = 0; v < nv; v++) acc[r][v] = v16_fma(x, w[v], acc[r][v]);
            }
        }
#pragma GCC unroll 4
    for (int v = 0; v < nv; v++) {
        int64_t left = t.cols - 16 * v;
        v16 bias = t.bias ? v16_get(t.bias + 16 * v, left) : v16_zero();
#pragma GCC unroll 8
        for (int r = 0; r < mr; r++) {
            float *c = t.c + r * t.ldc + v * t.cv;
            v16 sum = t.bias ? v16_add(acc[r][v], bias) : acc[r][v];
            v16_put(c, t.add ? v16_add(sum, v16_get(t.add + r * t.ld_add + v * t.cv, left)) : sum, left);
        }
    }
}

#define MICRO(mr, nv)                                                                                                  \
    static void micro_row_##mr##_##nv(const Tile *t) { micro(mr, nv, A_ROW, t); }                                      \
    static void micro_col_##mr##_##nv(const Tile *t) { micro(mr, nv, A_COL, t); }                                      \
    static void micro_ahead_##mr##_##nv(const Tile *t) { micro(mr, nv, A_ROW_AHEAD, t); }                              \
    static void micro_strip_ahead_##mr##_##nv(const Tile *t) { micro(mr, nv, A_STRIP_AHEAD, t); }                      \
    static void micro_strip_##mr##_##nv(const Tile *t) { micro(mr, nv, A_STRIP, t); }                                  \
    static void micro_stream_##mr##_##nv(const Tile *t) { micro(mr, nv, A_ROW_STREAM, t); }                            \
    static void micro_panel_##mr##_##nv(const Tile *t) { micro(mr, nv, A_PANEL, t); }
MICRO_TILES(MICRO)

/* [kind of a][rows - 1][vectors - 1] */
#define MICRO_ROW(mr, nv) [A_ROW][mr - 1][nv - 1] = micro_row_##mr##_##nv,
#define MICRO_COL(mr, nv) [A_COL][mr - 1][nv - 1] = micro_col_##mr##_##nv,
#define MICRO_AHEAD(mr, nv) [A_ROW_AHEAD][mr - 1][nv - 1] = micro_ahead_##mr##_##nv,
#define MICRO_STRIP_AHEAD(mr, nv) [A_STRIP_AHEAD][mr - 1][nv - 1] = micro_strip_ahead_##mr##_##nv,
#define MICRO_STRIP(mr, nv) [A_STRIP][mr - 1][nv - 1] = micro_strip_##mr##_##nv,
#define MICRO_STREAM(mr, nv) [A_ROW_STREAM][mr - 1][nv - 1] = micro_stream_##mr##_##nv,
#define MICRO_PANEL(mr, nv) [A_PANEL][mr - 1][nv - 1] = micro_panel_##mr##_##nv,
static MicroFn *const micro_table[A_KINDS][TILE_ROWS][TILE_VECS] = {MICRO_TILES(MICRO_ROW) MICRO_TILES(MICRO_COL)
                                                                        MICRO_TILES(MICRO_AHEAD)
                                                                            MICRO_TILES(MICRO_STRIP_AHEAD) MICRO_TILES(MICRO_STREAM)
                                                                                MICRO_TILES(MICRO_PANEL) MICRO_TILES(MICRO_STRIP)};

/* Of vectors taken one after another: four left are better cut 2 + 2 than 3 + 1. */
INLINE int64_t next_vecs(int64_t left) {
    return left == TILE_VECS + 1 && left % 2 == 0 ? left / 2 : least(left, TILE_VECS);
}

/* c (rows, vecs*16) = (load ? c : 0) + a b, b (k, vecs*16) row-major; a[row][k], or a[k][row] with by_col */
INLINE void gemm(bool by_col, int64_t rows, int64_t vecs, int64_t k, const float *a, int64_t lda, const float *b,
                 int64_t ldb, float *c, int64_t ldc, bool load) {
    Tile t = {.k = k, .lda = lda, .bk = ldb, .bv = 16, .ldi = ldc, .iv = 16, .ldc = ldc, .cv = 16};
    for (int64_t g = 0; g < n_group(vecs); g++) {
        int64_t v = group_at(vecs, g), nv = group_at(vecs, g + 1) - v;
        t.b = b + 16 * v;
        t.cols = 16 * nv;
        for (int64_t r = 0; r < rows; r += TILE_ROWS) {
            t.a = by_col ? a + r : a + r * lda;
            t.c = c + r * ldc + 16 * v;
            t.init = load ? t.c : NULL;
            micro_table[by_col ? A_COL : A_ROW][least(rows - r, TILE_ROWS) - 1][nv - 1](&t);
        }
    }
}

static void gemm_rows(int64_t rows, int64_t vecs, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb,
                      float *c, int64_t ldc, bool load) {
    gemm(false, rows, vecs, k, a, lda, b, ldb, c, ldc, load);
}

static void gemm_cols(int64_t rows, int64_t vecs, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb,
                      float *c, int64_t ldc, bool load) {
    gemm(true, rows, vecs, k, a, lda, b, ldb, c, ldc, load);
}

/* dst[k][j] = src[j][k], j < n <= 16; lanes n..15 become 0 */
static void pack_transposed(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t n, int64_t k) {
    v16 t[16];
    int64_t whole = n == 16 ? k / 16 * 16 : 0;
    for (int64_t i = 0; i < whole; i += 16) {
        for (int j = 0; j < 16; j++) {
            __builtin_prefetch(src + j * lds + i + 64);
            __builtin_prefetch(src + (j + 16) * lds + i, 0, 2);
        }
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

/* A region costs some microseconds; a product of few rows takes as long as its weights take to arrive, which is worth
 * about eight operations a byte. */
static double product_work(double rows, double weights) { return 2 * rows * weights + 32 * weights; }

enum { FEW_ROWS = 64, STREAM_LEAST = 4 }; /* of x; see forward_task */

/* Panels [v, v + nv) of row-major w. */
static const float *pack_panels(float *dst, Tensor w, int64_t v, int64_t nv) {
    for (int64_t j = 0; j < nv; j++)
        pack_transposed(dst + j * w.cols * 16, 16, f32_row(w, (v + j) * 16), w.ld, least(w.rows - (v + j) * 16, 16),
                        w.cols);
    return dst;
}

static void forward_task(void *ud, int64_t task, int thread) {
    const Forward *f = ud;
    int64_t row, row_end, v, nv;
    const LinearOut *o = forward_part(f, task, &row, &row_end, &v, &nv);
    bool in_place = o->w.panels;
    Tile t = {.k = f->x.cols, .lda = f->x.ld, .bk = 16, .ldc = o->y.ld, .cv = 16, .ld_ahead = 16};
    Tensor from = tensor_empty(f->from) ? o->y : f->from;
    t.bv = (in_place ? o->w.ld : o->w.cols) * 16;
    t.b = in_place ? (const float *)o->w.data + v * t.bv
                   : pack_panels(cpu_scratch_of(f->be, thread), o->w, v, nv);
    t.cols = least(nv * 16, o->w.rows - v * 16);
    if (!tensor_empty(o->bias)) t.bias = f32_row(o->bias, 0) + v * 16;
    /* With few rows the panels' way from memory is the cost: the first tile reads them as they come, the tiles after it
     * have them at hand and fetch the next task's. 32 rows of cold weights: 96 -> 112 GFLOP/s. */
    int64_t later = v + nv, first = row;
    bool few = in_place && row_end - row <= FEW_ROWS;
    bool fetch = few && later + nv <= ceil_div(o->w.rows, 16) &&
                 pool_next(f->be->pool, f->n_group, task) >= 0;
    for (; row < row_end; row += TILE_ROWS) {
        int64_t at = (row - first) / TILE_ROWS;
        bool ahead = fetch && at > 0 && at <= nv;
        t.a = f32_row(f->x, row);
        t.c = f32_row(o->y, row) + v * 16;
        if (f->add) t.add = f32_row(from, row) + v * 16, t.ld_add = from.ld;
        if (ahead) t.ahead = (const float *)o->w.data + later * t.bv + (at - 1) * t.k * 16;
        int64_t mr = least(row_end - row, TILE_ROWS);
        bool stream = few && at == 0 && mr >= STREAM_LEAST;
        micro_table[ahead ? A_ROW_AHEAD : stream ? A_ROW_STREAM : A_ROW][mr - 1][nv - 1](&t);
    }
}

/* dst[m][lane] = w[m][col + lane] for all rows m of w; lanes past the last column are 0. */
static void pack_weight(float *dst, Tensor w, int64_t col) {
    int64_t n = least(w.cols - col, 16);
    for (int64_t p = 0; p * 16 < w.rows; p++) {
        const float *src = (const float *)w.data + (p * w.ld + col) * 16;
        float edge[16 * 16];
        v16 t[16];
        for (int j = 0; j < 16; j++) __builtin_prefetch(src + w.ld * 16 + 16 * j);
        if (n < 16) {
            for (int j = 0; j < 16; j++) v16_store(edge + 16 * j, j < n ? v16_load(src + 16 * j) : v16_zero());
            src = edge;
        }
        v16_load_transposed(t, src, 16);
        int64_t rows = least(w.rows - p * 16, 16);
        if (rows == 16) {
#pragma GCC unroll 16
            for (int j = 0; j < 16; j++) v16_store(dst + (p * 16 + j) * 16, t[j]);
        } else {
            for (int64_t j = 0; j < rows; j++) v16_store(dst + (p * 16 + j) * 16, t[j]);
        }
    }
}

/* Panel v of all products' transposed weights, one under the other. */
static void pack_weights_task(void *ud, int64_t v, int thread) {
    (void)thread;
    const Backward *b = ud;
    float *dst = b->panels + v * b->depth * 16;
    for (int i = 0; i < b->n; dst += b->grad[i++].w.rows * 16) pack_weight(dst, b->grad[i].w, v * 16);
}

/* A row of dx is one chain over the outputs of all products, in order. Tiles fetch the panels of the thread's next task. */
static void input_grad_task(void *ud, int64_t task, int thread) {
    (void)thread;
    const Backward *b = ud;
    int64_t row = task / b->n_group * CHUNK, row_end = least(b->dx.rows, row + CHUNK), g = task % b->n_group;
    int64_t n_vec = ceil_div(b->dx.cols, 16), v = group_at(n_vec, g), nv = group_at(n_vec, g + 1) - v;
    int64_t later = (g + 1) % b->n_group, tile_no = 0;
    const float *panel = b->panels + v * b->depth * 16, *next = b->panels + group_at(n_vec, later) * b->depth * 16;
    float tile[TILE_ROWS * PANEL];
    for (; row < row_end; row += TILE_ROWS, tile_no++) {
        int64_t mr = least(row_end - row, TILE_ROWS), at = 0;
        bool ahead = tile_no < group_at(n_vec, later + 1) - group_at(n_vec, later);
        for (int i = 0; i < b->n; at += b->grad[i++].w.rows) {
            bool last = i + 1 == b->n;
            Tile t = {.k = b->grad[i].dy.cols, .a = f32_row(b->grad[i].dy, row), .lda = b->grad[i].dy.ld};
            t.b = panel + at * 16, t.bk = 16, t.bv = b->depth * 16, t.ld_ahead = 16;
            t.init = i > 0 ? tile : NULL, t.ldi = PANEL, t.iv = 16;
            t.c = last ? f32_row(b->dx, row) + v * 16 : tile, t.ldc = last ? b->dx.ld : PANEL, t.cv = 16;
            t.cols = last ? least(nv * 16, b->dx.cols - v * 16) : nv * 16;
            if (last && b->add_dx) t.add = t.c, t.ld_add = t.ldc;
            if (ahead) t.ahead = next + (tile_no * b->depth + at) * 16;
            micro_table[ahead ? A_ROW_AHEAD : A_ROW][mr - 1][nv - 1](&t);
        }
    }
}

/* Of few rows dy is transposed instead: lanes run over rows, and w is read in place, a value at a time, in the same order.
 * A task takes so many rows, or fewer, of a part of dx's columns, and transposes the columns of dy that belong to so many
 * outputs at a time, so that these stay in L2; the sums wait meanwhile. */
enum { ACROSS_DEEP = 1536, ACROSS_COLS = 768 };

/* Columns that are computed before they are put into dx. A multiple of every TILE_ROWS. */
enum { ACROSS_STEP = 48 };

static void count_across_parts(Backward *b) {
    int n_thread = pool_threads(b->be->pool);
    b->depth = 0;
    for (int i = 0; i < b->n; i++)
        if (b->grad[i].w.rows > b->depth) b->depth = least(b->grad[i].w.rows, ACROSS_DEEP);
    b->n_chunk = ceil_div(b->dx.rows, ACROSS_ROWS);
    b->n_part = ceil_div(b->dx.cols, ACROSS_COLS);
    while (b->n_chunk * b->n_part < n_thread && b->dx.cols / b->n_part > 2 * ACROSS_STEP) b->n_part++;
    b->part = ceil_div(ceil_div(b->dx.cols, b->n_part), ACROSS_STEP) * ACROSS_STEP;
    b->n_part = ceil_div(b->dx.cols, b->part);
}

/* dst: panels of 16 rows of dy, k down: its columns [from, from + n). */
static void pack_across(float *dst, Tensor dy, int64_t from, int64_t n) {
    for (int64_t row = 0; row < dy.rows; row += 16)
        pack_transposed(dst + row * n, 16, f32_row(dy, row) + from, dy.ld, least(dy.rows - row, 16), n);
}

/* sums[column][row] = (begins ? 0 : sums) + across w for dx's columns [col, col + cols): w: from the first of the k outputs on.
 * Fetches, meanwhile, a line of each row of dx for writing. */
static void across_tiles(const float *across, const Tensor *w, int64_t from, int64_t k, Tensor dx, int64_t col, int64_t cols,
                         float *sums, bool begins) {
    int64_t n_vec = ceil_div(dx.rows, 16);
    Tile t = {.k = k, .lda = w->ld * 16, .bv = k * 16, .ld_ahead = dx.ld};
    for (int64_t c = 0; c < cols; c += TILE_ROWS) {
        t.a = (const float *)w->data + from / 16 * t.lda + (col + c) * 16;
        for (int64_t g = 0; g < n_group(n_vec); g++) {
            int64_t v = group_at(n_vec, g), nv = group_at(n_vec, g + 1) - v;
            t.b = across + v * t.bv;
            t.c = sums + c * ACROSS_ROWS + v * 16;
            t.init = begins ? NULL : t.c;
            t.ahead = f32_row(dx, v * 16 + c % 16 * nv) + col + c / 16 * 16;
            micro_table[A_PANEL][least(cols - c, TILE_ROWS) - 1][nv - 1](&t);
        }
    }
}

/* to[i][j] = (add ? to : 0) + sums[j][i], i < rows, j < cols, or 16 where there are more. A loop that had it inlined would keep
 * a pointer to each of the rows. */
static __attribute__((noinline)) void put_turned(float *to, int64_t ld, const float *sums, int64_t rows, int64_t cols, bool add) {
    v16 t[16];
    for (int i = 0; i < 16; i++) __builtin_prefetch(to + i * ld + 16, 1);
    v16_load_transposed(t, sums, ACROSS_ROWS);
    if (rows >= 16 && cols >= 16 && !add) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++, to += ld) v16_store(to, t[i]);
        return;
    }
    for (int64_t i = 0; i < least(rows, 16); i++, to += ld) v16_put(to, add ? v16_add(t[i], v16_get(to, cols)) : t[i], cols);
}

/* The same chain as in input_grad_task. */
static void across_task(void *ud, int64_t task, int thread) {
    const Backward *b = ud;
    int64_t chunk = task / b->n_part, first = task % b->n_part * b->part, end = least(b->dx.cols, first + b->part);
    int64_t n_vec = ceil_div(b->dx.rows, 16), row = n_vec * chunk / b->n_chunk * 16;
    Tensor dx = tensor_rows(b->dx, row, least(b->dx.rows, n_vec * (chunk + 1) / b->n_chunk * 16) - row);
    float *across = cpu_scratch_of(b->be, thread), *sums = across + ACROSS_ROWS * b->depth;
    for (int i = 0; i < b->n; i++)
        for (int64_t from = 0; from < b->grad[i].w.rows; from += b->depth) {
            const LinearGrad *o = &b->grad[i];
            int64_t k = least(o->w.rows - from, b->depth);
            bool begins = i == 0 && from == 0, last = i + 1 == b->n && from + k == o->w.rows;
            pack_across(across, tensor_rows(o->dy, row, dx.rows), from, k);
            for (int64_t col = first; col < end; col += ACROSS_STEP) {
                int64_t cols = least(end - col, ACROSS_STEP);
                float *sum = begins && last ? sums : sums + (col - first) * ACROSS_ROWS;
                across_tiles(across, &o->w, from, k, dx, col, cols, sum, begins);
                for (int64_t r = 0; last && r < dx.rows; r += 16)
                    for (int64_t c = 0; c < cols; c += 16)
                        put_turned(f32_row(dx, r) + col + c, dx.ld, sum + c * ACROSS_ROWS + r, dx.rows - r, cols - c, b->add_dx);
            }
        }
}

/* Columns that are copied together: few enough that the strips being written stay in L1. */
enum { STRIP_COLS = 8 * TILE_ROWS };

static void copy_strips(const Backward *b, float *to, int64_t row, int64_t n, int64_t from, int64_t end) {
    for (int64_t i = 0; i < n; i++, to += TILE_ROWS) {
        const float *src = f32_row(b->x, row + i);
        float *dst = to;
        int64_t j = from;
        for (int64_t l = from; l < end; l += 16) __builtin_prefetch(src + 16 * b->x.ld + l);
        for (; j + TILE_ROWS <= end; j += TILE_ROWS, dst += strip_rows(b) * TILE_ROWS)
            memcpy(dst, src + j, TILE_ROWS * sizeof *dst);
        if (j < end) memcpy(dst, src + j, (size_t)(end - j) * sizeof *dst);
    }
}

static const float *hold_strips(const Backward *b, int thread, int64_t part, int64_t first, int64_t end) {
    float *copy = strips_of(b, thread), *to = copy;
    if (holds(b, thread, part)) return copy;
    for (int64_t row = b->row; row < b->row_end; row += GRAD_BLOCK, to += strips_size(b))
        for (int64_t col = first; col < end; col += STRIP_COLS)
            copy_strips(b, to + (col - first) * strip_rows(b), row, least(b->row_end - row, GRAD_BLOCK), col,
                        least(end, col + STRIP_COLS));
    return copy;
}

/* The part of dy that the thread packs after the task's block at row: its next one, its next task's first, or that of its
 * first task of the next pass. */
static const float *packed_next(const Backward *b, int64_t task, int thread, int64_t row, int64_t *ld) {
    int64_t v, nv, first, end, n = b->n_group * b->n_part, then = b->row;
    bool own = row + GRAD_BLOCK < b->row_end;
    int64_t later = own ? task : pool_next(b->be->pool, n, task);
    if (later < 0) {
        later = least(pool_first(b->be->pool, n, thread), n - 1);
        then = b->row_end;
        if (then >= b->x.rows) return NULL;
    }
    const LinearGrad *o = weight_grad_part(b, later, &v, &nv, &first, &end);
    *ld = o->dy.ld;
    return f32_row(o->dy, own ? row + GRAD_BLOCK : then) + v * 16;
}

static void weight_grad_task(void *ud, int64_t task, int thread) {
    const Backward *b = ud;
    int64_t v, nv, first, end;
    const LinearGrad *o = weight_grad_part(b, task, &v, &nv, &first, &end);
    const float *x = hold_strips(b, thread, task / b->n_group, first, end);
    float *panel = cpu_scratch_of(b->be, thread);
    for (int64_t row = b->row; row < b->row_end; row += GRAD_BLOCK, x += strips_size(b)) {
        int64_t n = least(b->row_end - row, GRAD_BLOCK), cols = least(nv * 16, o->dy.cols - v * 16);
        Tile t = {.k = n, .b = panel, .cv = o->dw_acc.ld * 16};
        pack_rows(panel, nv * 16, f32_row(o->dy, row) + v * 16, o->dy.ld, n, cols);
        const float *next = packed_next(b, task, thread, row, &t.ld_ahead);
        for (int64_t k = first; k < end; k += TILE_ROWS) {
            int64_t at = (k - first) / TILE_ROWS;
            bool ahead = next && at < TILE_VECS; /* a line of each row at a time */
            t.a = x + (k - first) * strip_rows(b);
            t.c = (float *)o->dw_acc.data + (v * o->dw_acc.ld + k) * 16;
            if (ahead) t.ahead = next + at * 16;
            micro_table[ahead ? A_STRIP_AHEAD : A_STRIP][least(end - k, TILE_ROWS) - 1][nv - 1](&t);
        }
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
        for (int64_t i = 0; i < s->x.rows; i++) {
            const uint16_t *half = (const uint16_t *)s->x.data + i * s->x.ld + j;
            bool is_bf16 = s->x.dtype == DTYPE_BF16;
            sum = v16_add(sum, is_bf16 ? v16_get_bf16(half, end - j) : v16_get(f32_row(s->x, i) + j, end - j));
        }
        float *dst = f32_row(s->sum, 0) + j;
        v16_put(dst, v16_add(v16_get(dst, end - j), sum), end - j);
    }
}

/* sum (1,C) += column sums of x (N,C), rows ascending */
static void column_sums(Backend *be, Tensor sum, Tensor x) {
    ColumnSums s = {sum, x};
    cpu_tiles(be, ceil_div(x.cols, SUM_COLS), 8.0 * (double)tensor_count(x), column_sums_task, &s);
}

#endif
