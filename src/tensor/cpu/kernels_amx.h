/* tensor/cpu/kernels_amx.h — products of BF16 matrices on the tiles of AMX, in place of kernels_half.h.
 *
 * A tile is 16 rows of 64 bytes. Four hold sums, two rows and two panels of them, two hold rows of x or dy (32 values
 * of k each), two hold panels: 16 pairs of k with 16 outputs each, which is how weights lie in memory (tensor.h).
 *
 *                              6: panel v   7: panel v + 1
 *      4: rows 0..15             0             1
 *      5: rows 16..31            2             3
 *
 * All of k passes while the sums stay in their tiles. What the instruction computes (Intel's manual, TDPBF16PS; equal
 * bit for bit on a Sapphire Rapids, see tests/test_ops_amx.c): for each output and 32 values of k from zero two chains
 * of fused multiply-adds, k ascending, one over the even, one over the odd k; their sum, then that is added to the
 * tile; subnormal numbers in and out count as 0. So blocks of 32 begin at k = 0 for every row, a last part of one is
 * filled up with zeros, and tiles with fewer rows compute the same: a row's bits depend on nothing but its own numbers.
 * They are not the bits of kernels_half.h.
 *
 *      y  = x w^T     w in place; x in place
 *      dx = dy w      w transposed once (pairs of outputs side by side); every product begins a block of its own
 *      dw = dy^T x    as its transpose: rows are columns of x, transposed; panels are dy's rows zipped two by two
 *
 * The shape of the tiles is state of the thread: a task sets it where it begins and gives it up at its end. */
#ifndef DIKAST_TENSOR_CPU_KERNELS_AMX_H
#define DIKAST_TENSOR_CPU_KERNELS_AMX_H

enum { TILE_K = 32, TILE_VALUES = 512 }; /* values of a tile: 16 x 32 */

/* Panels of a task. With many rows each block of them is read once for all of these, which stay in L2; with few there
 * should be tasks for all threads. */
static int64_t half_panels(int64_t rows) { return rows > 64 ? 8 : 4; }

/* The operand of LDTILECFG. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileShapes;

/* For blocks of n rows, 1..32. */
static void tiles_shape(int64_t n) {
    TileShapes s = {.palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}};
    int64_t first = least(n, 16), second = n - first;
    s.rows[0] = s.rows[1] = s.rows[4] = (uint8_t)first;
    s.rows[2] = s.rows[3] = s.rows[5] = (uint8_t)(second ? second : 1); /* a tile of none cannot be set to 0 */
    s.rows[6] = s.rows[7] = 16;
    _tile_loadconfig(&s);
}

/* The compiler does not know that a tile load reads memory. */
INLINE void tiles_see_memory(void) { __asm__ volatile("" ::: "memory"); }

/* Row r of step i at a[r / 16] + r % 16 * a_row + i * a_step; panel v of step i at b[v] + i * TILE_VALUES. */
typedef struct {
    const uint16_t *a[2], *b[2];
    int64_t a_row, a_step, steps;
} TileRun;
typedef void TileRunFn(const TileRun *t);

INLINE void tiles_run(int nr, int nv, const TileRun *t) {
    const uint16_t *a0 = t->a[0], *a1 = t->a[1], *b0 = t->b[0], *b1 = t->b[1];
    const int64_t row = t->a_row * 2, step = t->a_step;
    for (int64_t i = 0; i < t->steps; i++) {
        _tile_loadd(6, b0, 64);
        _tile_loadd(4, a0, row);
        _tile_dpbf16ps(0, 4, 6);
        if (nr > 1) {
            _tile_loadd(5, a1, row);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (nv > 1) {
            _tile_loadd(7, b1, 64);
            _tile_dpbf16ps(1, 4, 7);
            if (nr > 1) _tile_dpbf16ps(3, 5, 7);
        }
        a0 += step, a1 += step, b0 += TILE_VALUES, b1 += TILE_VALUES;
    }
}
static void tiles_run_1_1(const TileRun *t) { tiles_run(1, 1, t); }
static void tiles_run_1_2(const TileRun *t) { tiles_run(1, 2, t); }
static void tiles_run_2_1(const TileRun *t) { tiles_run(2, 1, t); }
static void tiles_run_2_2(const TileRun *t) { tiles_run(2, 2, t); }
static TileRunFn *const tiles_table[2][2] = {{tiles_run_1_1, tiles_run_1_2}, {tiles_run_2_1, tiles_run_2_2}};

INLINE void tiles_zero(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

INLINE void tile_put(int tile, void *p, int64_t bytes) {
    switch (tile) {
    case 0:
        _tile_stored(0, p, bytes);
        break;
    case 1:
        _tile_stored(1, p, bytes);
        break;
    case 2:
        _tile_stored(2, p, bytes);
        break;
    default:
        _tile_stored(3, p, bytes);
    }
}

/* The sums += a b^T over k values: `rows` rows of a, lda apart, and nv panels, bv apart; values behind the last are 0.
 */
static void tiles_product(int64_t rows, int64_t nv, int64_t k, const uint16_t *a, int64_t lda, const uint16_t *b,
                          int64_t bv) {
    int64_t whole = k / TILE_K, left = k % TILE_K;
    TileRunFn *run = tiles_table[rows > 16][nv - 1];
    TileRun t = {{a, a + (rows > 16 ? 16 * lda : 0)}, {b, b + (nv - 1) * bv}, lda, TILE_K, whole};
    run(&t);
    if (!left) return;
    _Alignas(64) uint16_t last[32 * TILE_K] = {0}, panel[2 * TILE_VALUES] = {0};
    for (int64_t r = 0; r < rows; r++)
        memcpy(last + r * TILE_K, a + r * lda + whole * TILE_K, (size_t)left * sizeof *last);
    for (int64_t v = 0; v < nv; v++)
        memcpy(panel + v * TILE_VALUES, b + v * bv + whole * TILE_VALUES,
               (size_t)((left + 1) / 2 * 32) * sizeof *panel);
    tiles_see_memory();
    t = (TileRun){{last, last + 16 * TILE_K}, {panel, panel + TILE_VALUES}, TILE_K, 0, 1};
    run(&t);
}

/* Where a block of sums goes: rows from `row` of c and cols columns from col; bias: of the first column. */
typedef struct {
    Tensor c; /* F32 or BF16, row-major */
    int64_t row, rows, col, cols;
    const float *bias;
    bool add; /* F32 only */
} TileOut;

/* One tile's n rows x cols <= 16 columns, from row and col on. */
static void tile_store(int tile, const TileOut *o, int64_t row, int64_t n, int64_t col, int64_t cols) {
    const float *bias = o->bias ? o->bias + (col - o->col) : NULL;
    if (cols == 16 && o->c.dtype == DTYPE_F32 && !bias && !o->add) {
        tile_put(tile, f32_row(o->c, row) + col, o->c.ld * (int64_t)sizeof(float));
        return;
    }
    _Alignas(64) float sum[16 * 16];
    tile_put(tile, sum, 64);
    v16 b = bias ? v16_get(bias, cols) : v16_zero();
    for (int64_t r = 0; r < n; r++) {
        v16 s = v16_load(sum + 16 * r);
        if (bias) s = v16_add(s, b);
        if (o->c.dtype == DTYPE_BF16) {
            v16_put_bf16((uint16_t *)o->c.data + (row + r) * o->c.ld + col, s, cols);
            continue;
        }
        float *c = f32_row(o->c, row + r) + col;
        v16_put(c, o->add ? v16_add(s, v16_get(c, cols)) : s, cols);
    }
}

/* Two whole panels of BF16: the conversion takes subnormal numbers for 0, but tiles hold none. */
static void tiles_store_bf16(const TileOut *o) {
    _Alignas(64) float sum[32 * 32];
    tile_put(0, sum, 128);
    tile_put(1, sum + 16, 128);
    if (o->rows > 16) {
        tile_put(2, sum + 512, 128);
        tile_put(3, sum + 528, 128);
    }
    uint16_t *c = (uint16_t *)o->c.data + o->row * o->c.ld + o->col;
    for (int64_t r = 0; r < o->rows; r++)
        _mm512_storeu_si512(c + r * o->c.ld,
                            (__m512i)_mm512_cvtne2ps_pbh(v16_load(sum + 32 * r + 16), v16_load(sum + 32 * r)));
}

static void tiles_store(const TileOut *o) {
    if (o->c.dtype == DTYPE_BF16 && o->cols == 32 && !o->bias) {
        tiles_store_bf16(o);
        return;
    }
    for (int64_t r = 0; r < o->rows; r += 16)
        for (int64_t v = 0; v < o->cols; v += 16)
            tile_store((int)(r / 8 + v / 16), o, o->row + r, least(o->rows - r, 16), o->col + v,
                       least(o->cols - v, 16));
}

/* Rows of a task as blocks of 32, then what is left of them: [*row, *row + n), n of one shape. */
INLINE int64_t rows_of_shape(int64_t row, int64_t row_end) {
    int64_t n = row_end - row;
    tiles_shape(least(n, 32));
    return n < 32 ? n : n - n % 32;
}

/* -- forward --------------------------------------------------------------------------------------------------------
 */

static void tiles_forward_task(void *ud, int64_t task, int thread) {
    (void)thread;
    const Forward *f = ud;
    int64_t row, row_end, first, n_panel;
    const LinearOut *o = forward_part(f, task, &row, &row_end, &first, &n_panel);
    TileOut out = {.c = o->y, .add = f->add};
    for (int64_t n; row < row_end; row += n) {
        n = rows_of_shape(row, row_end);
        for (out.row = row; out.row < row + n; out.row += 32) {
            out.rows = least(row + n - out.row, 32);
            for (int64_t v = first; v < first + n_panel; v += 2) {
                int64_t nv = least(first + n_panel - v, 2), bv = o->w.ld * 16;
                out.col = v * 16;
                out.cols = least(nv * 16, o->w.rows - v * 16);
                out.bias = tensor_empty(o->bias) ? NULL : f32_row(o->bias, 0) + v * 16;
                tiles_zero();
                tiles_product(out.rows, nv, f->x.cols, half_row(f->x, out.row), f->x.ld,
                              (const uint16_t *)o->w.data + v * bv, bv);
                tiles_store(&out);
            }
        }
    }
    _tile_release();
}

static void half_forward(Backend *be, Forward *f, double work) {
    cpu_tiles(be, ceil_div(f->x.rows, CHUNK) * f->n_group, work, tiles_forward_task, f);
}

/* -- backward -------------------------------------------------------------------------------------------------------
 */

/* 16 x 16 values, pairs of columns side by side as panels have them, to pairs of rows side by side. */
INLINE void pairs_transposed(__m512i t[8]) {
    const __m512i swap = _mm512_set4_epi32(0x0f0e0b0a, 0x0d0c0908, 0x07060302, 0x05040100);
    __m512i u[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) t[i] = _mm512_shuffle_epi8(t[i], swap);
        /* now 8 x 8 units of 64 bits: rows by columns */
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        u[i] = _mm512_unpacklo_epi64(t[i], t[i + 1]);
        u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 1]);
    }
#pragma GCC unroll 2
    for (int h = 0; h < 8; h += 4)
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            t[h + i] = _mm512_shuffle_i64x2(u[h + i], u[h + i + 2], 0x88);
            t[h + i + 2] = _mm512_shuffle_i64x2(u[h + i], u[h + i + 2], 0xdd);
        }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        u[i] = _mm512_shuffle_i64x2(t[i], t[i + 4], 0x88);
        u[i + 4] = _mm512_shuffle_i64x2(t[i], t[i + 4], 0xdd);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) t[i] = u[i];
}

/* dst: pairs (2m, 2m + 1) of rows of w at columns col .. col + 15, m ascending; rows and columns that w does not have
 * are 0. */
static void pack_weight_tiles(uint16_t *dst, Tensor w, int64_t col) {
    int64_t panels = ceil_div(w.rows, 16), pairs = least(ceil_div(w.cols - col, 2), 8);
    for (int64_t p = 0; p < panels; p++, dst += 8 * 32) {
        const uint16_t *src = (const uint16_t *)w.data + (p * w.ld + col) * 16;
        __m512i t[8];
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) t[j] = j < pairs ? _mm512_loadu_si512(src + 32 * j) : _mm512_setzero_si512();
        pairs_transposed(t);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) _mm512_storeu_si512(dst + 32 * j, t[j]);
    }
}

INLINE int64_t tile_depth(const LinearGrad *g) { return ceil_div(g->w.rows, TILE_K) * TILE_K; }

/* One panel of transposed weights of all products, one below another. */
static void pack_products(const Backward *b, uint16_t *dst, int64_t panel) {
    for (int i = 0; i < b->n; dst += tile_depth(&b->grad[i++]) * 16) pack_weight_tiles(dst, b->grad[i].w, panel * 16);
}

static void pack_products_task(void *ud, int64_t panel, int thread) {
    (void)thread;
    const Backward *b = ud;
    pack_products(b, b->packed + panel * b->depth * 16, panel);
}

static void tiles_input_grad_task(void *ud, int64_t task, int thread) {
    const Backward *b = ud;
    int64_t row = task / b->n_group * CHUNK, row_end = least(b->dx.rows, row + CHUNK), bv = b->depth * 16;
    int64_t first = task % b->n_group * b->per, end = least(ceil_div(b->dx.cols, 16), first + b->per);
    const uint16_t *panels;
    if (b->packed) {
        panels = b->packed + first * bv;
    } else {
        uint16_t *own = (uint16_t *)(void *)cpu_scratch_of(b->be, thread);
        for (int64_t v = first; v < end; v++) pack_products(b, own + (v - first) * bv, v);
        tiles_see_memory();
        panels = own;
    }
    TileOut out = {.c = b->dx, .add = b->add_dx};
    for (int64_t n; row < row_end; row += n) {
        n = rows_of_shape(row, row_end);
        for (out.row = row; out.row < row + n; out.row += 32) {
            out.rows = least(row + n - out.row, 32);
            for (int64_t v = first; v < end; v += 2) {
                const uint16_t *w = panels + (v - first) * bv;
                int64_t nv = least(end - v, 2);
                out.col = v * 16;
                out.cols = least(nv * 16, b->dx.cols - v * 16);
                tiles_zero();
                for (int i = 0; i < b->n; w += tile_depth(&b->grad[i++]) * 16)
                    tiles_product(out.rows, nv, b->grad[i].dy.cols, half_row(b->grad[i].dy, out.row), b->grad[i].dy.ld,
                                  w, bv);
                tiles_store(&out);
            }
        }
    }
    _tile_release();
}

/* Rows of one chunk use what their task packs; more of them share it. */
static void half_input_grad(Backward *b, double work) {
    int64_t panels = ceil_div(b->dx.cols, 16);
    b->per = half_panels(b->dx.rows);
    b->n_group = ceil_div(panels, b->per);
    b->depth = 0;
    for (int i = 0; i < b->n; i++) b->depth += tile_depth(&b->grad[i]);
    if (b->dx.rows > CHUNK) {
        b->packed = cpu_scratch_shared(b->be, (size_t)(panels * b->depth * 16) * sizeof *b->packed);
        cpu_tiles(b->be, panels, 32.0 * (double)(panels * b->depth), pack_products_task, b);
    } else {
        cpu_scratch_threads(b->be, b->depth * 16 * b->per / 2);
    }
    cpu_tiles(b->be, ceil_div(b->dx.rows, CHUNK) * b->n_group, work, tiles_input_grad_task, b);
}

/* Row r zipped with row r + 1 of src, 16 columns from col; a row or column that is not there is 0. */
INLINE __m512i zipped_rows(Tensor src, int64_t r, int64_t col) {
    __mmask16 m = lanes_below((int)least(src.cols - col, 16));
    const uint16_t *a = half_row(src, r) + col;
    __m256i even = _mm256_maskz_loadu_epi16(r < src.rows ? m : 0, a);
    __m256i odd = _mm256_maskz_loadu_epi16(r + 1 < src.rows ? m : 0, a + src.ld);
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

/* Rows 0, 8, 16, 24 of eight columns as the quarters of a register. */
INLINE __m512i load_eighths(const uint16_t *p, int64_t ld) {
    __m512i r = _mm512_castsi128_si512(_mm_loadu_si128((const void *)p));
    r = _mm512_mask_broadcast_i32x4(r, 0x00f0, _mm_loadu_si128((const void *)(p + 8 * ld)));
    r = _mm512_mask_broadcast_i32x4(r, 0x0f00, _mm_loadu_si128((const void *)(p + 16 * ld)));
    return _mm512_mask_broadcast_i32x4(r, 0xf000, _mm_loadu_si128((const void *)(p + 24 * ld)));
}

/* dst[j][i] = src[i][j], 32 rows and 8 columns: 8 x 8 inside the quarters. */
INLINE void transpose_8(uint16_t *dst, const uint16_t *src, int64_t ld) {
    __m512i r[8], t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = load_eighths(src + i * ld, ld);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm512_unpacklo_epi16(r[i], r[i + 1]);     /* columns 0..3 of rows i, i + 1 */
        t[i + 1] = _mm512_unpackhi_epi16(r[i], r[i + 1]); /* 4..7 */
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            r[i + 2 * h] = _mm512_unpacklo_epi32(t[i + h], t[i + 2 + h]); /* columns 4h, 4h + 1 of four rows */
            r[i + 2 * h + 1] = _mm512_unpackhi_epi32(t[i + h], t[i + 2 + h]);
        }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        _mm512_storeu_si512(dst + 64 * c, _mm512_unpacklo_epi64(r[c], r[c + 4]));
        _mm512_storeu_si512(dst + 64 * c + 32, _mm512_unpackhi_epi64(r[c], r[c + 4]));
    }
}

/* A tile of a block of tokens: 16 columns of x as rows of 32 tokens, or 16 pairs of tokens with 16 columns of dy each.
 */
static void transposed_tile(uint16_t *dst, Tensor x, int64_t row, int64_t col) {
    if (row + 32 <= x.rows && col + 16 <= x.cols) {
        for (int64_t i = 0; i < 32 && col % 32 == 0; i++) __builtin_prefetch(half_row(x, row + i) + col + 32);
        transpose_8(dst, half_row(x, row) + col, x.ld);
        transpose_8(dst + 8 * 32, half_row(x, row) + col + 8, x.ld);
        return;
    }
    _Alignas(64) float pairs[16 * 16];
    v16 t[16];
    for (int64_t i = 0; i < 16; i++) _mm512_store_si512(pairs + 16 * i, zipped_rows(x, row + 2 * i, col));
    v16_load_transposed(t, pairs, 16);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) _mm512_storeu_ps(dst + 32 * i, t[i]);
}
static void zipped_tile(uint16_t *dst, Tensor dy, int64_t row, int64_t col) {
    if (row + 32 > dy.rows || col + 16 > dy.cols) {
        for (int64_t i = 0; i < 16; i++) _mm512_storeu_si512(dst + 32 * i, zipped_rows(dy, row + 2 * i, col));
        return;
    }
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i order = _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(16)), 16));
    const uint16_t *p = half_row(dy, row) + col;
#pragma GCC unroll 16
    for (int64_t i = 0; i < 16; i++, p += 2 * dy.ld) {
        __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const void *)p)),
                                          _mm256_loadu_si256((const void *)(p + dy.ld)), 1);
        _mm512_storeu_si512(dst + 32 * i, _mm512_permutexvar_epi16(order, both));
    }
}

/* A task owns panels of one dw and a part of their rows, as many of both as let it turn its blocks of x and dy around
 * once for many products, and still fit with them into L2. */
enum { PART_GROUPS = 32, BLOCK_TILES = GRAD_BLOCK / TILE_K };

typedef struct {
    const LinearGrad *o;
    int64_t panel, panel_end, group, group_end; /* of 16 outputs, of 16 columns of x */
} WeightPart;

static WeightPart weight_part(const Backward *b, int64_t task) {
    WeightPart p = {.o = b->grad};
    int64_t g = task / b->n_part, part = task % b->n_part, groups = ceil_div(b->x.cols, 16), n;
    for (;; p.o++) {
        n = tensor_empty(p.o->dw_acc) ? 0 : ceil_div(ceil_div(p.o->dw_acc.rows, 16), b->per);
        if (g < n) break;
        g -= n;
    }
    p.panel = g * b->per;
    p.panel_end = least(p.panel + b->per, ceil_div(p.o->dw_acc.rows, 16));
    p.group = groups * part / b->n_part;
    p.group_end = groups * (part + 1) / b->n_part;
    return p;
}

/* dw += the sums in the tiles, n <= 32 of a panel's rows and nv panels. */
static void tiles_add_to_panels(Tensor dw, int64_t panel, int64_t nv, int64_t row, int64_t n) {
    _Alignas(64) float sum[16 * 16];
    for (int64_t v = 0; v < nv; v++)
        for (int64_t r = 0; r < n; r += 16) {
            float *c = (float *)dw.data + ((panel + v) * dw.ld + row + r) * 16;
            tile_put((int)(r / 8 + v), sum, 64);
            for (int64_t i = 0; i < least(n - r, 16); i++)
                v16_store(c + 16 * i, v16_add(v16_load(sum + 16 * i), v16_load(c + 16 * i)));
        }
}

static void tiles_weight_grad_task(void *ud, int64_t task, int thread) {
    const Backward *b = ud;
    const WeightPart p = weight_part(b, task);
    enum { STRIDE = BLOCK_TILES * TILE_VALUES }; /* of a block's tiles of one group or panel */
    uint16_t *x = (uint16_t *)(void *)cpu_scratch_of(b->be, thread), *dy = x + (p.group_end - p.group) * STRIDE;
    tiles_shape(32);
    for (int64_t row = 0; row < b->x.rows; row += GRAD_BLOCK) {
        int64_t steps = ceil_div(least(b->x.rows - row, GRAD_BLOCK), TILE_K);
        for (int64_t i = 0; i < steps; i++) {
            for (int64_t g = p.group; g < p.group_end; g++)
                transposed_tile(x + (g - p.group) * STRIDE + i * TILE_VALUES, b->x, row + i * TILE_K, g * 16);
            for (int64_t v = p.panel; v < p.panel_end; v++)
                zipped_tile(dy + (v - p.panel) * STRIDE + i * TILE_VALUES, p.o->dy, row + i * TILE_K, v * 16);
        }
        tiles_see_memory();
        for (int64_t v = p.panel; v < p.panel_end; v += 2)
            for (int64_t g = p.group; g < p.group_end; g += 2) {
                int64_t nv = least(p.panel_end - v, 2), nr = least(p.group_end - g, 2);
                const uint16_t *a0 = x + (g - p.group) * STRIDE, *b0 = dy + (v - p.panel) * STRIDE;
                TileRun t = {{a0, a0 + (nr - 1) * STRIDE}, {b0, b0 + (nv - 1) * STRIDE}, TILE_K, TILE_VALUES, steps};
                tiles_zero();
                tiles_table[nr - 1][nv - 1](&t);
                tiles_add_to_panels(p.o->dw_acc, v, nv, g * 16, least(nr * 16, b->x.cols - g * 16));
            }
    }
    _tile_release();
}

static void half_weight_grad(Backward *b, double work) {
    int64_t panels = 0, groups = ceil_div(b->x.cols, 16);
    for (int i = 0; i < b->n; i++) panels += ceil_div(b->grad[i].dw_acc.rows, 16);
    b->per = panels >= 64 ? 16 : 8;
    b->n_part = ceil_div(groups, PART_GROUPS);
    b->n_group = 0;
    for (int i = 0; i < b->n; i++) b->n_group += ceil_div(ceil_div(b->grad[i].dw_acc.rows, 16), b->per);
    cpu_scratch_threads(b->be, (ceil_div(groups, b->n_part) + b->per) * BLOCK_TILES * TILE_VALUES / 2);
    cpu_tiles(b->be, b->n_group * b->n_part, work, tiles_weight_grad_task, b);
}

/* n times sixteen multiply-adds. */
static float half_spin(int64_t n) {
    float sum[16 * 16];
    tiles_shape(32);
    tiles_zero();
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (int64_t i = 0; i < n; i += 4 * TILE_VALUES) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sum, 64);
    _tile_release();
    return sum[0];
}

const HalfProducts HALF_PRODUCTS = {half_panels, half_forward, half_input_grad, half_weight_grad, half_spin};

#endif
