/* tensor/cpu/kernels_half.h — products of BF16 matrices by pairs, which the includer calls HALF_PRODUCTS.
 *
 * The tiles of kernels_gemm.h with pairs of k for single ones. Sums are F32; each pair adds its odd product, then
 * its even one (vec_pairs.h), so a row's bits depend on nothing but its own numbers, as in F32. Both operands hold the
 * two values of a pair side by side: rows of x and of dy do by themselves, weights do in their panels (tensor.h), and
 * where the sum runs over rows (dw) two rows are zipped into one. */
#ifndef DIKAST_TENSOR_CPU_KERNELS_HALF_H
#define DIKAST_TENSOR_CPU_KERNELS_HALF_H

/* Panels of a task. */
static int64_t half_panels(int64_t rows) {
    (void)rows;
    return TILE_VECS;
}

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

static void half_forward(Backend *be, Forward *f, double work) {
    cpu_tiles(be, ceil_div(f->x.rows, CHUNK) * f->n_group, work, half_forward_task, f);
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

/* A matrix of more rows, such as a head of words, is packed and multiplied in parts of so many: the sums wait in memory. */
enum { DEEP = 8192 };

/* One matrix, part by part; panel: room for DEEP rows of weights, then for the sums. */
static void half_deep_grad(const Backward *b, int64_t begin, int64_t end, int64_t v, int64_t nv, uint16_t *panel) {
    float *sums = (float *)(void *)(panel + DEEP * PANEL);
    Tensor dy = b->grad[0].dy, w = b->grad[0].w;
    for (int64_t at = 0; at < w.rows; at += DEEP) {
        int64_t n = least(w.rows - at, DEEP), depth = ceil_div(n, 16) * 16;
        bool last = at + n == w.rows;
        for (int64_t j = 0; j < nv; j++) pack_weight_pairs(panel + j * depth * 16, tensor_rows(w, at, n), (v + j) * 16);
        for (int64_t row = begin; row < end; row += PAIR_ROWS) {
            int64_t mr = least(end - row, PAIR_ROWS);
            float *sum = sums + (row - begin) * PANEL;
            PairTile t = {.k = n, .a = half_row(dy, row) + at, .lda = dy.ld, .b = panel, .bk = 32, .bv = depth * 16};
            t.init = at > 0 ? sum : NULL, t.ldi = PANEL, t.iv = 16;
            t.c = last ? b->dx : tensor_over(sum, DTYPE_F32, mr, PANEL);
            t.row = last ? row : 0, t.col = last ? v * 16 : 0;
            t.cols = last ? least(nv * 16, b->dx.cols - v * 16) : nv * 16;
            t.add = last && b->add_dx;
            pair_table[0][mr - 1][nv - 1](&t);
        }
    }
}

static bool is_deep(const Backward *b) { return b->n == 1 && b->depth > DEEP; }

static void half_input_grad_task(void *ud, int64_t task, int thread) {
    const Backward *b = ud;
    int64_t row = task / b->n_group * CHUNK, row_end = least(b->dx.rows, row + CHUNK), g = task % b->n_group;
    int64_t n_vec = ceil_div(b->dx.cols, 16), v = group_at(n_vec, g), nv = group_at(n_vec, g + 1) - v, depth = b->depth;
    uint16_t *panel = (uint16_t *)(void *)cpu_scratch_of(b->be, thread);
    float sum[PAIR_ROWS * PANEL];
    if (is_deep(b)) {
        half_deep_grad(b, row, row_end, v, nv, panel);
        return;
    }
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

static void half_input_grad(Backward *b, double work) {
    b->n_group = n_group(ceil_div(b->dx.cols, 16));
    b->depth = 0;
    for (int i = 0; i < b->n; i++) b->depth += ceil_div(b->grad[i].w.rows, 16) * 16;
    int64_t room = is_deep(b) ? DEEP * PANEL / 2 + CHUNK * PANEL : b->depth * PANEL / 2;
    cpu_scratch_threads(b->be, room);
    cpu_tiles(b->be, ceil_div(b->dx.rows, CHUNK) * b->n_group, work, half_input_grad_task, b);
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

/* The thread's copy of the columns [first, end) of x, a part, its rows zipped two by two: (rows / 2, part). */
static const uint16_t *hold_zipped(const Backward *b, int thread, int64_t part, int64_t first, int64_t end) {
    uint16_t *copy = (uint16_t *)(void *)strips_of(b, thread), *to = copy;
    if (holds(b, thread, part)) return copy;
    for (int64_t r = b->row; r < b->row_end; r += 2, to += 2 * b->part)
        zip_rows(to, b->x, r, first, ceil_div(end - first, 16));
    return copy;
}

static void half_weight_grad_task(void *ud, int64_t task, int thread) {
    const Backward *b = ud;
    int64_t v, nv, first, end;
    const LinearGrad *o = weight_grad_part(b, task, &v, &nv, &first, &end);
    const uint16_t *x = hold_zipped(b, thread, task / b->n_group, first, end);
    uint16_t *panel = (uint16_t *)(void *)cpu_scratch_of(b->be, thread);
    for (int64_t row = b->row; row < b->row_end; row += GRAD_BLOCK, x += GRAD_BLOCK * b->part) {
        int64_t n = least(b->row_end - row, GRAD_BLOCK);
        PairTile t = {.k = n + n % 2, .lda = b->part, .b = panel, .bk = nv * 32, .bv = 32, .c = o->dw_acc, .col = v * 16};
        for (int64_t r = 0; r < n; r += 2) zip_rows(panel + r / 2 * nv * 32, o->dy, row + r, v * 16, nv);
        t.cols = nv * 16;
        t.add = true;
        for (t.row = first; t.row < end; t.row += PAIR_ROWS) {
            t.a = x + 2 * (t.row - first);
            pair_table[1][least(end - t.row, PAIR_ROWS) - 1][nv - 1](&t);
        }
    }
}

static void half_weight_grad(Backward *b, double work) {
    count_weight_parts(b, 16);
    weight_grad_passes(b, work, half_weight_grad_task);
}

/* n times sixteen multiply-adds, two in a pair. */
static float half_spin(int64_t n) {
    enum { CHAINS = PAIR_ROWS * TILE_VECS };
    static const uint16_t ones[32] = {0x3f80};
    v16 acc[CHAINS];
    pair16 a = pair16_set1(ones), b = pair16_load(ones);
#pragma GCC unroll 24
    for (int c = 0; c < CHAINS; c++) acc[c] = v16_set1((float)c);
    for (int64_t i = 0; i < n; i += 2 * CHAINS)
#pragma GCC unroll 24
        for (int c = 0; c < CHAINS; c++) acc[c] = pair16_dot(a, b, acc[c]);
    v16 sum = v16_zero();
    for (int c = 0; c < CHAINS; c++) sum = v16_add(sum, acc[c]);
    return v16_sum(sum);
}

const HalfProducts HALF_PRODUCTS = {half_panels, half_forward, half_input_grad, half_weight_grad, half_spin};

#endif
