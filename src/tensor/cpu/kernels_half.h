/* tensor/cpu/kernels_half.h — products of BF16 matrices, and of F32 activations with BF16 or 8-bit weights.
 *
 * BF16: the tiles of kernels_gemm.h with pairs of k for single ones. Sums are F32; each pair adds its odd product, then
 * its even one (vec_pairs.h), so a row's bits depend on nothing but its own numbers, as in F32. Both operands hold the two
 * values of a pair side by side: rows of x and of dy do by themselves, weights do in their panels (tensor.h), and where
 * the sum runs over rows (dw) two rows are zipped into one.
 *
 * Weights alone (generation): the chain of kernels_gemm.h, k ascending, on weights widened in registers; 8-bit weights
 * are whole numbers -127..127 times one scale for each row of w, which multiplies the finished sum. */
#ifndef DIKAST_TENSOR_CPU_KERNELS_HALF_H
#define DIKAST_TENSOR_CPU_KERNELS_HALF_H

typedef struct {
    int64_t k;         /* values, not pairs */
    const uint16_t *a; /* pair i of row r at a + r * lda + 2 * i, or zipped: at a + (i * lda + r) * 2 */
    int64_t lda;
    const uint16_t *b; /* 16 pairs: vector v of pair i at b + v * bv + i * bk */
    int64_t bk, bv;
    const float *init; /* as in Tile */
    int64_t ldi, iv;
    Tensor c; /* F32 or BF16, row-major; or F32 panels: rows are their columns */
    int64_t row, col, cols;
    const float *bias;
    bool add; /* F32 only */
} PairTile;
typedef void PairFn(const PairTile *t);

INLINE void pair_store(const PairTile *t, int64_t r, int64_t v, v16 sum) {
    int64_t left = t->cols - 16 * v;
    if (t->bias) sum = v16_add(sum, v16_get(t->bias + 16 * v, left));
    if (t->c.panels) {
        float *c = (float *)t->c.data + tensor_at(t->c, t->col + 16 * v, t->row + r);
        v16_store(c, t->add ? v16_add(sum, v16_load(c)) : sum);
    } else if (t->c.dtype == DTYPE_BF16) {
        v16_put_bf16((uint16_t *)t->c.data + (t->row + r) * t->c.ld + t->col + 16 * v, sum, left);
    } else {
        float *c = f32_row(t->c, t->row + r) + t->col + 16 * v;
        v16_put(c, t->add ? v16_add(sum, v16_get(c, left)) : sum, left);
    }
}

INLINE void pair_micro(int mr, int nv, bool zipped, const PairTile *t) {
    const int64_t lda = t->lda, bk = t->bk, bv = t->bv;
    const uint16_t *a = t->a, *b = t->b;
    v16 acc[PAIR_ROWS][TILE_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) acc[r][v] = t->init ? v16_load(t->init + r * t->ldi + v * t->iv) : v16_zero();
    for (int64_t i = 0; i < t->k / 2; i++, b += bk) {
        pair16 w[TILE_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) w[v] = pair16_load(b + v * bv);
#pragma GCC unroll 8
        for (int r = 0; r < mr; r++) {
            pair16 x = pair16_set1(zipped ? a + (i * lda + r) * 2 : a + r * lda + 2 * i);
#pragma GCC unroll 4
            for (int v = 0; v < nv; v++) acc[r][v] = pair16_dot(x, w[v], acc[r][v]);
        }
    }
    if (t->k % 2) { /* a row's last value has no partner; zipped rows and panels have a 0 there */
        for (int r = 0; r < mr; r++) {
            uint16_t last[2] = {zipped ? a[(t->k / 2 * lda + r) * 2] : a[r * lda + t->k - 1], 0};
            for (int v = 0; v < nv; v++) acc[r][v] = pair16_dot(pair16_set1(last), pair16_load(b + v * bv), acc[r][v]);
        }
    }
    for (int v = 0; v < nv; v++)
        for (int r = 0; r < mr; r++) pair_store(t, r, v, acc[r][v]);
}

#define PAIR_MICRO(mr, nv)                                                                                             \
    static void pair_row_##mr##_##nv(const PairTile *t) {                                                              \
        if (mr <= PAIR_ROWS) pair_micro(mr <= PAIR_ROWS ? mr : 1, nv, false, t);                                       \
    }                                                                                                                  \
    static void pair_zip_##mr##_##nv(const PairTile *t) {                                                              \
        if (mr <= PAIR_ROWS) pair_micro(mr <= PAIR_ROWS ? mr : 1, nv, true, t);                                        \
    }
MICRO_TILES(PAIR_MICRO)

/* [zipped][rows - 1][vectors - 1] */
#define PAIR_ROW(mr, nv) [0][mr - 1][nv - 1] = pair_row_##mr##_##nv,
#define PAIR_ZIP(mr, nv) [1][mr - 1][nv - 1] = pair_zip_##mr##_##nv,
static PairFn *const pair_table[2][TILE_ROWS][TILE_VECS] = {MICRO_TILES(PAIR_ROW) MICRO_TILES(PAIR_ZIP)};

static const uint16_t *half_row(Tensor t, int64_t i) { return (const uint16_t *)t.data + i * t.ld; }

/* -- forward --------------------------------------------------------------------------------------------------------
 */

static void half_forward_task(void *ud, int64_t task, int thread) {
    (void)thread;
    const Forward *f = ud;
    int64_t row, row_end, v, nv;
    const LinearOut *o = forward_part(f, task, &row, &row_end, &v, &nv);
    PairTile t = {.k = f->x.cols, .lda = f->x.ld, .bk = 32, .bv = o->w.ld * 16, .c = o->y, .add = f->add};
    t.b = (const uint16_t *)o->w.data + v * t.bv;
    t.col = v * 16;
    t.cols = least(nv * 16, o->w.rows - v * 16);
    if (!tensor_empty(o->bias)) t.bias = f32_row(o->bias, 0) + v * 16;
    for (t.row = row; t.row < row_end; t.row += PAIR_ROWS) {
        t.a = half_row(f->x, t.row);
        pair_table[0][least(row_end - t.row, PAIR_ROWS) - 1][nv - 1](&t);
    }
}

/* -- weights alone --------------------------------------------------------------------------------------------------
 */

/* out = sum of x[k] w[k], k ascending, on the widened weights of a panel; n rows of x, one vector of outputs. */
INLINE void widened_chain(v16 *out, int n, int64_t k, const float *x, int64_t ldx, const void *w, DType dtype) {
    v16 acc[8];
#pragma GCC unroll 8
    for (int r = 0; r < n; r++) acc[r] = v16_zero();
    if (dtype == DTYPE_I8) {
        const int8_t *b = w;
        for (int64_t i = 0; i < k; i++) {
            v16 q = v16_load_i8(b + i * 16);
#pragma GCC unroll 8
            for (int r = 0; r < n; r++) acc[r] = v16_fma(v16_set1(x[r * ldx + i]), q, acc[r]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < n; r++) out[r] = acc[r];
        return;
    }
    const uint16_t *b = w;
    for (int64_t i = 0; i + 2 <= k; i += 2) {
        v16 even = v16_even(b + i * 16), odd = v16_odd(b + i * 16);
#pragma GCC unroll 8
        for (int r = 0; r < n; r++) {
            acc[r] = v16_fma(v16_set1(x[r * ldx + i]), even, acc[r]);
            acc[r] = v16_fma(v16_set1(x[r * ldx + i + 1]), odd, acc[r]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < n; r++)
        out[r] = k % 2 ? v16_fma(v16_set1(x[r * ldx + k - 1]), v16_even(b + (k - 1) * 16), acc[r]) : acc[r];
}

#define WIDENED(n)                                                                                                     \
    static void widened_##n(v16 *acc, int64_t k, const float *x, int64_t ldx, const void *w, DType dtype) {            \
        widened_chain(acc, n, k, x, ldx, w, dtype);                                                                    \
    }
WIDENED(1)
WIDENED(2)
WIDENED(3)
WIDENED(4)
WIDENED(5)
WIDENED(6)
WIDENED(7)
WIDENED(8)
/* One row and WIDE_PANELS panels, the next `stride` bytes on: as many chains as keep a fused multiply-add busy. */
enum { WIDE_PANELS = 4 };
static void widened_wide(v16 *out, int64_t k, const float *x, const unsigned char *w, size_t stride, DType dtype) {
    v16 acc[WIDE_PANELS];
#pragma GCC unroll 4
    for (int p = 0; p < WIDE_PANELS; p++) acc[p] = v16_zero();
    int64_t whole = dtype == DTYPE_I8 ? k : k - k % 2;
    if (dtype == DTYPE_I8) {
        for (int64_t i = 0; i < k; i++)
#pragma GCC unroll 4
            for (int p = 0; p < WIDE_PANELS; p++)
                acc[p] = v16_fma(v16_set1(x[i]), v16_load_i8((const int8_t *)(w + p * stride) + i * 16), acc[p]);
    } else {
        for (int64_t i = 0; i < whole; i += 2)
#pragma GCC unroll 4
            for (int p = 0; p < WIDE_PANELS; p++) {
                const uint16_t *b = (const uint16_t *)(const void *)(w + p * stride) + i * 16;
                acc[p] = v16_fma(v16_set1(x[i]), v16_even(b), acc[p]);
                acc[p] = v16_fma(v16_set1(x[i + 1]), v16_odd(b), acc[p]);
            }
    }
    for (int p = 0; p < WIDE_PANELS; p++) {
        const uint16_t *b = (const uint16_t *)(const void *)(w + p * stride) + whole * 16;
        out[p] = whole < k ? v16_fma(v16_set1(x[whole]), v16_even(b), acc[p]) : acc[p];
    }
}

typedef void WidenedFn(v16 *acc, int64_t k, const float *x, int64_t ldx, const void *w, DType dtype);
static WidenedFn *const widened[] = {widened_1, widened_2, widened_3, widened_4,
                                     widened_5, widened_6, widened_7, widened_8};

static void widened_store(const LinearOut *o, int64_t row, int64_t panel, v16 sum, bool add_y) {
    int64_t left = o->w.rows - panel * 16;
    float *y = f32_row(o->y, row) + panel * 16;
    if (!tensor_empty(o->scale)) sum = v16_mul(sum, v16_get(f32_row(o->scale, 0) + panel * 16, left));
    if (!tensor_empty(o->bias)) sum = v16_add(sum, v16_get(f32_row(o->bias, 0) + panel * 16, left));
    v16_put(y, add_y ? v16_add(sum, v16_get(y, left)) : sum, left);
}

static void widened_task(void *ud, int64_t task, int thread) {
    (void)thread;
    const Forward *f = ud;
    int64_t row, row_end, first, n_panel;
    const LinearOut *o = forward_part(f, task, &row, &row_end, &first, &n_panel);
    size_t stride = (size_t)(o->w.ld * 16) * dtype_bytes(o->w.dtype);
    for (int64_t p = first, step; p < first + n_panel; p += step) {
        const unsigned char *w = (const unsigned char *)o->w.data + (size_t)p * stride;
        bool wide = row_end - row == 1 && first + n_panel - p >= WIDE_PANELS;
        step = wide ? WIDE_PANELS : 1;
        for (int64_t r = row; r < row_end; r += TILE_ROWS) {
            v16 acc[8];
            int n = (int)least(row_end - r, TILE_ROWS);
            if (wide)
                widened_wide(acc, f->x.cols, f32_row(f->x, r), w, stride, o->w.dtype);
            else
                widened[n - 1](acc, f->x.cols, f32_row(f->x, r), f->x.ld, w, o->w.dtype);
            for (int i = 0; i < (wide ? WIDE_PANELS : n); i++)
                widened_store(o, wide ? r : r + i, wide ? p + i : p, acc[i], f->add);
        }
    }
}

/* -- backward -------------------------------------------------------------------------------------------------------
 */

/* dst: pairs (2m, 2m + 1) of rows of w at columns col .. col + 15, m ascending; what lies outside w is 0. */
static void pack_weight_pairs(uint16_t *dst, Tensor w, int64_t col) {
    for (int64_t p = 0; p * 16 < w.rows; p++, dst += 8 * 32) {
        const uint16_t *src = (const uint16_t *)w.data + (p * w.ld + col) * 16;
        float rows[16 * 16];
        v16 t[16];
        for (int64_t j = 0; j < 16; j += 2) {
            bool in = col + j < w.cols;
            v16_store(rows + 16 * j, in ? v16_even(src + 16 * j) : v16_zero());
            v16_store(rows + 16 * (j + 1), in ? v16_odd(src + 16 * j) : v16_zero());
        }
        v16_load_transposed(t, rows, 16);
        for (int j = 0; j < 16; j += 2) v16_store_pairs(dst + 16 * j, t[j], t[j + 1]);
    }
}

static void half_input_grad_task(void *ud, int64_t task, int thread) {
    const Backward *b = ud;
    int64_t row = task / b->n_group * CHUNK, row_end = least(b->dx.rows, row + CHUNK), g = task % b->n_group;
    int64_t n_vec = ceil_div(b->dx.cols, 16), v = group_at(n_vec, g), nv = group_at(n_vec, g + 1) - v, depth = 0;
    uint16_t *panel = (uint16_t *)(void *)cpu_scratch_of(b->be, thread);
    float sum[PAIR_ROWS * PANEL];
    for (int i = 0; i < b->n; i++) depth += ceil_div(b->grad[i].w.rows, 16) * 16;
    for (int64_t j = 0, at = 0; j < nv; j++, at = 0)
        for (int i = 0; i < b->n; at += ceil_div(b->grad[i++].w.rows, 16) * 16)
            pack_weight_pairs(panel + (j * depth + at) * 16, b->grad[i].w, (v + j) * 16);
    for (; row < row_end; row += PAIR_ROWS) {
        int64_t mr = least(row_end - row, PAIR_ROWS), at = 0;
        for (int i = 0; i < b->n; at += ceil_div(b->grad[i++].w.rows, 16) * 16) {
            bool last = i + 1 == b->n;
            PairTile t = {.k = b->grad[i].dy.cols, .a = half_row(b->grad[i].dy, row), .lda = b->grad[i].dy.ld};
            t.b = panel + at * 16, t.bk = 32, t.bv = depth * 16;
            t.init = i > 0 ? sum : NULL, t.ldi = PANEL, t.iv = 16;
            t.c = last ? b->dx : tensor_over(sum, DTYPE_F32, PAIR_ROWS, PANEL);
            t.row = last ? row : 0, t.col = last ? v * 16 : 0;
            t.cols = last ? least(nv * 16, b->dx.cols - v * 16) : nv * 16;
            t.add = last && b->add_dx;
            pair_table[0][mr - 1][nv - 1](&t);
        }
    }
}

/* dst: row r zipped with row r + 1 of src, `vecs` vectors of 16; a row or column that is not there is 0. */
static void zip_rows(uint16_t *dst, Tensor src, int64_t r, int64_t col, int64_t vecs) {
    const uint16_t *a = half_row(src, r) + col, *b = r + 1 < src.rows ? a + src.ld : NULL;
    for (int64_t v = 0; v < vecs; v++) {
        int64_t left = src.cols - col - 16 * v;
        left = left < 0 ? 0 : left;
        v16 odd = b ? v16_get_bf16(b + 16 * v, left) : v16_zero();
        v16_store_pairs(dst + 32 * v, v16_get_bf16(a + 16 * v, left), odd);
    }
}

/* x, its rows zipped two by two; blocks begin at even rows. */
static void zip_task(void *ud, int64_t task, int thread) {
    (void)thread;
    const Backward *b = ud;
    int64_t vecs = ceil_div(b->x.cols, 16), end = least(b->x.rows, (task + 1) * GRAD_BLOCK);
    for (int64_t r = task * GRAD_BLOCK; r < end; r += 2) zip_rows(b->zipped + r / 2 * vecs * 32, b->x, r, 0, vecs);
}

static void half_weight_grad_task(void *ud, int64_t task, int thread) {
    const Backward *b = ud;
    int64_t v, nv, first, end, ldx = ceil_div(b->x.cols, 16) * 16;
    const LinearGrad *o = weight_grad_part(b, task, &v, &nv, &first, &end);
    uint16_t *panel = (uint16_t *)(void *)cpu_scratch_of(b->be, thread);
    for (int64_t row = 0; row < b->x.rows; row += GRAD_BLOCK) {
        int64_t n = least(b->x.rows - row, GRAD_BLOCK);
        PairTile t = {.k = n + n % 2, .lda = ldx, .b = panel, .bk = nv * 32, .bv = 32, .c = o->dw_acc, .col = v * 16};
        for (int64_t r = 0; r < n; r += 2) zip_rows(panel + r / 2 * nv * 32, o->dy, row + r, v * 16, nv);
        t.cols = nv * 16;
        t.add = true;
        for (t.row = first; t.row < end; t.row += PAIR_ROWS) {
            t.a = b->zipped + (row / 2 * ldx + t.row) * 2;
            pair_table[1][least(end - t.row, PAIR_ROWS) - 1][nv - 1](&t);
        }
    }
}

#endif
