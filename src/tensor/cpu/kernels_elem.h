/* tensor/cpu/kernels_elem.h — elementwise operations, lookup, positions, activations. Rows and elements do not meet, so
 * tiles may be cut anywhere; where sums cross rows (lookup's backward) a task owns columns and takes the rows in order.
 */
#ifndef DIKAST_TENSOR_CPU_KERNELS_ELEM_H
#define DIKAST_TENSOR_CPU_KERNELS_ELEM_H

#include <string.h>

/* Sixteen elements of a row, F32 or BF16. */
INLINE v16 row_get(Tensor t, int64_t i, int64_t j, int64_t left) {
    if (t.dtype == DTYPE_BF16) return v16_get_bf16((const uint16_t *)t.data + i * t.ld + j, left);
    return v16_get(f32_row(t, i) + j, left);
}
INLINE void row_put(Tensor t, int64_t i, int64_t j, v16 a, int64_t left) {
    if (t.dtype == DTYPE_BF16)
        v16_put_bf16((uint16_t *)t.data + i * t.ld + j, a, left);
    else
        v16_put(f32_row(t, i) + j, a, left);
}
/* A tensor that may be of either. */
static void check_any(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols) {
    cpu_check_as(op, what, t, rows, cols, t.dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32);
}

/* -- plain ----------------------------------------------------------------------------------------------------------
 */

typedef struct {
    Tensor y, a, b;
    float k;
    int kind;
} Elem;

static void zero_span(const void *job, Span s, int64_t tile) {
    (void)tile;
    const Elem *e = job;
    size_t size = dtype_bytes(e->y.dtype);
    for (int64_t i = s.row; i < s.row_end; i++)
        memset((char *)e->y.data + (size_t)(i * e->y.ld + s.col) * size, 0, (size_t)(s.col_end - s.col) * size);
}

static void zero(Backend *be, Tensor y) {
    y = tensor_storage(y);
    cpu_check_as("zero", "y", y, y.rows, y.cols, y.dtype);
    Elem e = {.y = y};
    cpu_spans(be, y.rows, y.cols, zero_span, &e);
}

static void copy_span(const void *job, Span s, int64_t tile) {
    (void)tile;
    const Elem *e = job;
    size_t size = dtype_bytes(e->y.dtype);
    for (int64_t i = s.row; i < s.row_end; i++)
        memcpy((char *)e->y.data + (size_t)(i * e->y.ld + s.col) * size,
               (const char *)e->a.data + (size_t)(i * e->a.ld + s.col) * size, (size_t)(s.col_end - s.col) * size);
}

static void copy(Backend *be, Tensor y, Tensor x) {
    CHECK(tensor_same_shape(x, y) && x.panels == y.panels, "copy: x and y differ in shape or layout");
    y = tensor_storage(y), x = tensor_storage(x);
    cpu_check_as("copy", "x", x, y.rows, y.cols, y.dtype);
    cpu_check_as("copy", "y", y, y.rows, y.cols, y.dtype);
    Elem e = {.y = y, .a = x};
    cpu_spans(be, y.rows, y.cols, copy_span, &e);
}

/* Ascending, so that y may be the BF16 view of x's own rows: what is written lies behind what is still to be read. */
static void cast_task(const void *job, int64_t row, int64_t row_end) {
    const Elem *e = job;
    for (int64_t i = row; i < row_end; i++)
        for (int64_t j = 0; j < e->y.cols; j += 16)
            row_put(e->y, i, j, row_get(e->a, i, j, e->y.cols - j), e->y.cols - j);
}

/* One panel of weights: 16 rows, columns ascending, two by two. */
static void cast_panels_task(void *ud, int64_t panel, int thread) {
    (void)thread;
    const Elem *e = ud;
    const float *x = (const float *)e->a.data + panel * e->a.ld * PANEL_ROWS;
    uint16_t *y = (uint16_t *)e->y.data + panel * e->y.ld * PANEL_ROWS;
    for (int64_t j = 0; j < e->y.cols; j += 2) {
        v16 odd = j + 1 < e->y.cols ? v16_load(x + (j + 1) * PANEL_ROWS) : v16_zero();
        v16_store_pairs(y + j * PANEL_ROWS, v16_load(x + j * PANEL_ROWS), odd);
    }
}

static void cast(Backend *be, Tensor y, Tensor x) {
    Elem e = {.y = y, .a = x};
    CHECK(x.panels == y.panels, "cast: x and y differ in layout");
    if (y.panels && y.dtype != x.dtype) {
        cpu_check_weight("cast", "x", x, y.rows, y.cols, DTYPE_F32);
        cpu_check_weight("cast", "y", y, y.rows, y.cols, DTYPE_BF16);
        cpu_tiles(be, ceil_div(y.rows, PANEL_ROWS), 16.0 * (double)tensor_count(y), cast_panels_task, &e);
        return;
    }
    if (y.panels) {
        copy(be, y, x);
        return;
    }
    check_any("cast", "x", x, y.rows, y.cols);
    check_any("cast", "y", y, y.rows, y.cols);
    cpu_rows(be, y.rows, y.cols, 1, cast_task, &e);
}

static void add_span(const void *job, Span s, int64_t tile) {
    (void)tile;
    const Elem *e = job;
    for (int64_t i = s.row; i < s.row_end; i++) {
        float *y = f32_row(e->y, i);
        const float *a = f32_row(e->a, i), *b = f32_row(e->b, e->b.rows == 1 ? 0 : i);
        for (int64_t j = s.col; j < s.col_end; j += 16) {
            int64_t left = s.col_end - j;
            v16_put(y + j, v16_add(v16_get(a + j, left), v16_get(b + j, left)), left);
        }
    }
}

static void add(Backend *be, Tensor y, Tensor a, Tensor b) {
    cpu_check("add", "y", y, y.rows, y.cols);
    cpu_check("add", "a", a, y.rows, y.cols);
    cpu_check("add", "b", b, y.rows, y.cols);
    Elem e = {.y = y, .a = a, .b = b};
    cpu_spans(be, y.rows, y.cols, add_span, &e);
}

static void add_bias(Backend *be, Tensor y, Tensor x, Tensor b) {
    cpu_check("add_bias", "y", y, y.rows, y.cols);
    cpu_check("add_bias", "x", x, y.rows, y.cols);
    cpu_check("add_bias", "b", b, 1, y.cols);
    Elem e = {.y = y, .a = x, .b = b};
    cpu_spans(be, y.rows, y.cols, add_span, &e);
}

static void scale_span(const void *job, Span s, int64_t tile) {
    (void)tile;
    const Elem *e = job;
    for (int64_t i = s.row; i < s.row_end; i++)
        for (int64_t j = s.col; j < s.col_end; j += 16) {
            float *y = f32_row(e->y, i) + j;
            v16_put(y, v16_mul(v16_set1(e->k), v16_get(y, s.col_end - j)), s.col_end - j);
        }
}

static void scale(Backend *be, Tensor x, double a) {
    x = tensor_storage(x);
    cpu_check("scale", "x", x, x.rows, x.cols);
    Elem e = {.y = x, .k = (float)a};
    cpu_spans(be, x.rows, x.cols, scale_span, &e);
}

typedef struct {
    Tensor y, x;
    Dropout d;
} Drop;

static void dropout_span(const void *job, Span s, int64_t tile) {
    (void)tile;
    const Drop *e = job;
    v16 scale = v16_set1((float)(65536.0 / (65536 - e->d.drop)));
    for (int64_t i = s.row; i < s.row_end; i++)
        for (int64_t j = s.col; j < s.col_end; j += 16) {
            uint32_t block[8];
            float keep[16];
            for (int k = 0; k < 2; k++)
                rng_block(block + 4 * k, e->d.rng, e->d.row + (uint64_t)i, (uint32_t)(j / 8 + k));
            for (int k = 0; k < 16; k++) keep[k] = (block[k / 2] >> (k % 2 ? 16 : 0) & 0xffff) >= e->d.drop;
            v16 x = v16_mul(row_get(e->x, i, j, s.col_end - j), scale);
            row_put(e->y, i, j, v16_select_lt(v16_zero(), v16_load(keep), x, v16_zero()), s.col_end - j);
        }
}

_Static_assert(CPU_TILE % 16 == 0, "a span would begin inside a block of random numbers");

static void dropout(Backend *be, Tensor y, Tensor x, Dropout d) {
    check_any("dropout", "y", y, y.rows, y.cols);
    cpu_check_as("dropout", "x", x, y.rows, y.cols, y.dtype);
    CHECK(d.drop < 1 << 16, "dropout: %u of 65536", d.drop);
    Drop e = {y, x, d};
    cpu_spans(be, y.rows, y.cols, dropout_span, &e);
}

typedef struct {
    Tensor y, scale, x;
} Quantize;

/* One panel: the scales of its rows are its lanes. */
static void quantize_task(void *ud, int64_t panel, int thread) {
    (void)thread;
    const Quantize *q = ud;
    const float *x = (const float *)q->x.data + panel * q->x.ld * PANEL_ROWS;
    int8_t *y = (int8_t *)q->y.data + panel * q->y.ld * PANEL_ROWS;
    v16 top = v16_zero(), unit = v16_set1(1.0f);
    for (int64_t j = 0; j < q->x.cols; j++) top = v16_max(top, v16_abs(v16_load(x + j * PANEL_ROWS)));
    v16 scale = v16_select_lt(v16_zero(), top, v16_div(top, v16_set1(127.0f)), unit);
    int64_t left = q->x.rows - panel * PANEL_ROWS;
    v16_put(f32_row(q->scale, 0) + panel * PANEL_ROWS, scale, left);
    const v16 shift = v16_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    for (int64_t j = 0; j < q->x.cols; j++) {
        float whole[16];
        v16 z = v16_div(v16_load(x + j * PANEL_ROWS), scale);
        v16_store(whole, v16_sub(v16_add(z, shift), shift));
        for (int l = 0; l < 16; l++) y[j * PANEL_ROWS + l] = (int8_t)whole[l];
    }
}

static void quantize(Backend *be, Tensor y, Tensor scale, Tensor x) {
    cpu_check_weight("quantize", "y", y, y.rows, y.cols, DTYPE_I8);
    cpu_check_weight("quantize", "x", x, y.rows, y.cols, DTYPE_F32);
    cpu_check("quantize", "scale", scale, 1, y.rows);
    Quantize q = {y, scale, x};
    cpu_tiles(be, ceil_div(y.rows, PANEL_ROWS), 32.0 * (double)tensor_count(y), quantize_task, &q);
}

typedef struct {
    Tensor x;
    double *part;
} Reduction;

/* Squares of floats are exact in double; sixteen running sums. */
static void sumsq_span(const void *job, Span s, int64_t tile) {
    const Reduction *r = job;
    double sum[16] = {0};
    for (int64_t i = s.row; i < s.row_end; i++) {
        const float *x = f32_row(r->x, i);
        int64_t j = s.col;
        for (; j + 16 <= s.col_end; j += 16)
            for (int l = 0; l < 16; l++) sum[l] += (double)x[j + l] * (double)x[j + l];
        for (int l = 0; j < s.col_end; j++, l++) sum[l] += (double)x[j] * (double)x[j];
    }
    for (int half = 8; half > 0; half /= 2)
        for (int l = 0; l < half; l++) sum[l] += sum[l + half];
    r->part[tile] = sum[0];
}

static double sumsq(Backend *be, Tensor x) {
    x = tensor_storage(x);
    cpu_check("sumsq", "x", x, x.rows, x.cols);
    int64_t n = cpu_span_count(x.rows, x.cols);
    Reduction r = {x, cpu_scratch_shared(be, (size_t)n * sizeof(double))};
    cpu_spans(be, x.rows, x.cols, sumsq_span, &r);
    double sum = 0;
    for (int64_t t = 0; t < n; t++) sum += r.part[t];
    return sum;
}

/* x - x is 0 for what is finite, NaN for the rest; NaN stays in the sum. */
static void finite_span(const void *job, Span s, int64_t tile) {
    const Reduction *r = job;
    v16 sum = v16_zero();
    for (int64_t i = s.row; i < s.row_end; i++)
        for (int64_t j = s.col; j < s.col_end; j += 16) {
            v16 x = v16_get(f32_row(r->x, i) + j, s.col_end - j);
            sum = v16_add(sum, v16_sub(x, x));
        }
    r->part[tile] = (double)v16_sum(sum);
}

static bool all_finite(Backend *be, Tensor x) {
    x = tensor_storage(x);
    cpu_check("all_finite", "x", x, x.rows, x.cols);
    int64_t n = cpu_span_count(x.rows, x.cols);
    Reduction r = {x, cpu_scratch_shared(be, (size_t)n * sizeof(double))};
    cpu_spans(be, x.rows, x.cols, finite_span, &r);
    bool finite = true;
    for (int64_t t = 0; t < n; t++) finite = finite && r.part[t] == 0;
    return finite;
}

/* -- lookup ---------------------------------------------------------------------------------------------------------
 */

typedef struct {
    Tensor y, x;
    const int32_t *row;
    bool add;
} Lookup;

static void gather_task(const void *job, int64_t row, int64_t row_end) {
    const Lookup *l = job;
    for (int64_t i = row; i < row_end; i++) {
        float *y = f32_row(l->y, i);
        const float *x = f32_row(l->x, l->row[i]);
        if (!l->add) {
            memcpy(y, x, (size_t)l->y.cols * sizeof *y);
            continue;
        }
        for (int64_t j = 0; j < l->y.cols; j += 16) {
            int64_t left = l->y.cols - j;
            v16_put(y + j, v16_add(v16_get(y + j, left), v16_get(x + j, left)), left);
        }
    }
}

static void gather_panels_task(const void *job, int64_t row, int64_t row_end) {
    const Lookup *l = job;
    for (int64_t i = row; i < row_end; i++) {
        float *y = f32_row(l->y, i);
        const float *x = (const float *)l->x.data + tensor_at(l->x, l->row[i], 0);
        for (int64_t j = 0; j < l->y.cols; j++) y[j] = l->add ? y[j] + x[j * PANEL_ROWS] : x[j * PANEL_ROWS];
    }
}

/* From BF16, in panels or not, to F32. */
static void gather_half_task(const void *job, int64_t row, int64_t row_end) {
    const Lookup *l = job;
    for (int64_t i = row; i < row_end; i++) {
        float *y = f32_row(l->y, i);
        const uint16_t *x = l->x.data;
        for (int64_t j = 0; j < l->y.cols; j++) {
            uint32_t bits = (uint32_t)x[tensor_at(l->x, l->row[i], j)] << 16;
            float v;
            memcpy(&v, &bits, sizeof v);
            y[j] = l->add ? y[j] + v : v;
        }
    }
}

static void gather(Backend *be, const char *op, const Lookup *l) {
    cpu_check(op, "y", l->y, l->y.rows, l->y.cols);
    cpu_check_index(op, l->row, l->y.rows, l->x.rows);
    RowsFn *task = l->x.dtype == DTYPE_BF16 ? gather_half_task : l->x.panels ? gather_panels_task : gather_task;
    cpu_rows(be, l->y.rows, l->y.cols, 1, task, l);
}

static void embed_fwd(Backend *be, Tensor y, Tensor w, const int32_t *idx, bool add_to_y) {
    if (w.panels)
        cpu_check_weight("embed_fwd", "w", w, w.rows, y.cols, w.dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32);
    else
        check_any("embed_fwd", "w", w, w.rows, y.cols);
    gather(be, "embed_fwd", &(Lookup){y, w, idx, add_to_y});
}

static void gather_rows(Backend *be, Tensor y, Tensor x, const int32_t *row) {
    cpu_check("gather_rows", "x", x, x.rows, y.cols);
    gather(be, "gather_rows", &(Lookup){y, x, row, false});
}

static void scatter_task(const void *job, int64_t row, int64_t row_end) {
    const Lookup *l = job;
    for (int64_t i = row; i < row_end; i++)
        memcpy(f32_row(l->y, l->row[i]), f32_row(l->x, i), (size_t)l->x.cols * sizeof(float));
}

static void scatter_rows(Backend *be, Tensor y, Tensor x, const int32_t *row) {
    cpu_check("scatter_rows", "y", y, y.rows, x.cols);
    cpu_check("scatter_rows", "x", x, x.rows, x.cols);
    cpu_check_index("scatter_rows", row, x.rows, y.rows);
    Lookup l = {y, x, row, false};
    cpu_rows(be, x.rows, x.cols, 1, scatter_task, &l);
}

static void scatter_add_task(void *ud, int64_t task, int thread) {
    (void)thread;
    const Lookup *l = ud;
    int64_t col = task * SUM_COLS, end = least(l->x.cols, col + SUM_COLS);
    for (int64_t i = 0; i < l->x.rows; i++) {
        float *y = f32_row(l->y, l->row[i]);
        const float *x = f32_row(l->x, i);
        for (int64_t j = col; j < end; j += 16)
            v16_put(y + j, v16_add(v16_get(y + j, end - j), v16_get(x + j, end - j)), end - j);
    }
}

static void scatter_add_rows(Backend *be, Tensor y_acc, Tensor x, const int32_t *row) {
    cpu_check("scatter_add_rows", "y", y_acc, y_acc.rows, x.cols);
    cpu_check("scatter_add_rows", "x", x, x.rows, x.cols);
    cpu_check_index("scatter_add_rows", row, x.rows, y_acc.rows);
    Lookup l = {y_acc, x, row, true};
    cpu_tiles(be, ceil_div(x.cols, SUM_COLS), 16.0 * (double)tensor_count(x), scatter_add_task, &l);
}

static void scatter_add_panels_task(void *ud, int64_t task, int thread) {
    (void)thread;
    const Lookup *l = ud;
    int64_t col = task * SUM_COLS, end = least(l->x.cols, col + SUM_COLS);
    for (int64_t i = 0; i < l->x.rows; i++) {
        float *y = (float *)l->y.data + tensor_at(l->y, l->row[i], 0);
        const float *x = f32_row(l->x, i);
        for (int64_t j = col; j < end; j++) y[j * PANEL_ROWS] += x[j];
    }
}

static void embed_bwd(Backend *be, Tensor dw_acc, Tensor dy, const int32_t *idx) {
    if (!dw_acc.panels) {
        scatter_add_rows(be, dw_acc, dy, idx);
        return;
    }
    cpu_check_weight("embed_bwd", "dw", dw_acc, dw_acc.rows, dy.cols, DTYPE_F32);
    cpu_check("embed_bwd", "dy", dy, dy.rows, dy.cols);
    cpu_check_index("embed_bwd", idx, dy.rows, dw_acc.rows);
    Lookup l = {dw_acc, dy, idx, true};
    cpu_tiles(be, ceil_div(dy.cols, SUM_COLS), 64.0 * (double)tensor_count(dy), scatter_add_panels_task, &l);
}

/* -- positions ------------------------------------------------------------------------------------------------------
 */

/* cos and sin of an angle depend on (pos, freq) alone. Rows find them by position in the backend's table; positions too
 * far out for a table (or negative) have them computed per row, in scratch. */
enum { FAR_POSITION = 1 << 18 };

typedef struct {
    Tensor x;
    const int32_t *pos; /* NULL: angles are by row */
    int half;
    float sign; /* of sin */
    Angles angles;
} Rope;

typedef struct {
    const int32_t *pos;
    const double *freq;
    int half;
    float *cos, *sin; /* (rows, half) */
} RowAngles;

static void row_angles_task(const void *job, int64_t row, int64_t row_end) {
    const RowAngles *r = job;
    for (int64_t i = row; i < row_end; i++)
        for (int j = 0; j < r->half; j++) {
            double s, c;
            cpu_sincos((double)r->pos[i] * r->freq[j], &s, &c);
            r->cos[i * r->half + j] = (float)c;
            r->sin[i * r->half + j] = (float)s;
        }
}

static void rope_task(const void *job, int64_t row, int64_t row_end) {
    const Rope *r = job;
    const v16 sign = v16_set1(r->sign);
    for (int64_t i = row; i < row_end; i++) {
        int64_t at = (r->pos ? r->pos[i] : i) * r->half;
        for (int64_t h = 0; h < r->x.cols; h += 2 * r->half)
            for (int64_t j = 0; j < r->half; j += 16) {
                int64_t left = r->half - j;
                float *x1 = f32_row(r->x, i) + h + j, *x2 = x1 + r->half;
                v16 a = v16_get(x1, left), b = v16_get(x2, left);
                v16 c = v16_get(r->angles.cos + at + j, left);
                v16 s = v16_mul(v16_get(r->angles.sin + at + j, left), sign);
                v16_put(x1, v16_sub(v16_mul(a, c), v16_mul(b, s)), left);
                v16_put(x2, v16_add(v16_mul(b, c), v16_mul(a, s)), left);
            }
    }
}

static Rope rope_open(Backend *be, Tensor x, const int32_t *pos, const double *freq, int d_head, bool inverse) {
    cpu_check("rope", "x", x, x.rows, x.cols);
    CHECK(d_head > 0 && d_head % 2 == 0 && x.cols % d_head == 0, "rope: %lld columns, d_head %d", (long long)x.cols,
          d_head);
    Rope r = {.x = x, .pos = pos, .half = d_head / 2, .sign = inverse ? -1.0f : 1.0f};
    int64_t n_pos = 0;
    bool far = false;
    for (int64_t i = 0; i < x.rows; i++) {
        if (pos[i] >= n_pos) n_pos = (int64_t)pos[i] + 1;
        far = far || pos[i] < 0 || pos[i] >= FAR_POSITION;
    }
    if (far) {
        float *cos = cpu_scratch_shared(be, (size_t)(x.rows * d_head) * sizeof *cos), *sin = cos + x.rows * r.half;
        RowAngles a = {pos, freq, r.half, cos, sin};
        cpu_rows(be, x.rows, r.half, 16, row_angles_task, &a);
        r.pos = NULL;
        r.angles = (Angles){cos, sin};
    } else {
        r.angles = cpu_angles(be, freq, r.half, n_pos);
    }
    return r;
}

static void rope(Backend *be, Tensor x, const int32_t *pos, const double *freq, int d_head, bool inverse) {
    Rope r = rope_open(be, x, pos, freq, d_head, inverse);
    cpu_rows(be, x.rows, x.cols, 1, rope_task, &r);
}

typedef struct {
    Rope q, k;
    Lookup keys, values;
} RopeKv;

static void rope_kv_task(const void *job, int64_t row, int64_t row_end) {
    const RopeKv *r = job;
    rope_task(&r->q, row, row_end);
    rope_task(&r->k, row, row_end);
    scatter_task(&r->keys, row, row_end);
    scatter_task(&r->values, row, row_end);
}

/* The rows that are written are in no cache. */
enum { COLD_WRITE = 4 };

static void rope_kv(Backend *be, Tensor q, Tensor k, Tensor v, Tensor kc, Tensor vc, const int32_t *kv_row,
                    const int32_t *pos, const double *freq, int d_head) {
    cpu_check("rope_kv", "k", k, q.rows, k.cols);
    cpu_check("rope_kv", "v", v, q.rows, v.cols);
    cpu_check("rope_kv", "kc", kc, kc.rows, k.cols);
    cpu_check("rope_kv", "vc", vc, kc.rows, v.cols);
    cpu_check_index("rope_kv", kv_row, q.rows, kc.rows);
    RopeKv r = {.q = rope_open(be, q, pos, freq, d_head, false), .keys = {kc, k, kv_row, false}};
    CHECK(k.cols % d_head == 0, "rope_kv: %lld columns of keys, d_head %d", (long long)k.cols, d_head);
    r.k = r.q;
    r.k.x = k;
    r.values = (Lookup){vc, v, kv_row, false};
    cpu_rows(be, q.rows, q.cols + k.cols + v.cols, COLD_WRITE, rope_kv_task, &r);
}

/* -- activations ----------------------------------------------------------------------------------------------------
 */

static void swiglu_fwd_task(const void *job, int64_t row, int64_t row_end) {
    const Elem *e = job;
    for (int64_t i = row; i < row_end; i++)
        for (int64_t j = 0; j < e->y.cols; j += 16) {
            int64_t left = e->y.cols - j;
            v16 g = row_get(e->a, i, j, left), u = row_get(e->b, i, j, left);
            row_put(e->y, i, j, v16_mul(v16_mul(g, v16_sigmoid(g)), u), left);
        }
}

static void swiglu_fwd(Backend *be, Tensor y, Tensor gate, Tensor up) {
    check_any("swiglu_fwd", "y", y, y.rows, y.cols);
    check_any("swiglu_fwd", "gate", gate, y.rows, y.cols);
    check_any("swiglu_fwd", "up", up, y.rows, y.cols);
    Elem e = {.y = y, .a = gate, .b = up};
    cpu_rows(be, y.rows, y.cols, 2, swiglu_fwd_task, &e);
}

typedef struct {
    Tensor dgate, dup, dy, gate, up;
} Swiglu;

static void swiglu_bwd_span(const void *job, Span span, int64_t tile) {
    (void)tile;
    const Swiglu *w = job;
    const v16 one = v16_set1(1.0f);
    for (int64_t i = span.row; i < span.row_end; i++)
        for (int64_t j = span.col; j < span.col_end; j += 16) {
            int64_t left = span.col_end - j;
            v16 d = row_get(w->dy, i, j, left), g = row_get(w->gate, i, j, left);
            v16 u = row_get(w->up, i, j, left), s = v16_sigmoid(g), ds = v16_mul(d, s);
            v16 slope = v16_fma(g, v16_sub(one, s), one);
            row_put(w->dgate, i, j, v16_mul(v16_mul(ds, u), slope), left);
            row_put(w->dup, i, j, v16_mul(ds, g), left);
        }
}

static void swiglu_bwd(Backend *be, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up) {
    check_any("swiglu_bwd", "dgate", dgate, dy.rows, dy.cols);
    check_any("swiglu_bwd", "dup", dup, dy.rows, dy.cols);
    check_any("swiglu_bwd", "dy", dy, dy.rows, dy.cols);
    check_any("swiglu_bwd", "gate", gate, dy.rows, dy.cols);
    check_any("swiglu_bwd", "up", up, dy.rows, dy.cols);
    Swiglu w = {dgate, dup, dy, gate, up};
    cpu_spans(be, dy.rows, dy.cols, swiglu_bwd_span, &w);
}

/* (1 + tanh z)/2 = sigmoid(2z), so the tanh kind needs no tanh. Both kinds: y = x phi(x), dy/dx = phi + x phi'. */
INLINE v16 gelu_phi(v16 x, int kind) {
    if (kind == GELU_ERF) {
        v16 half = v16_set1(0.5f);
        return v16_fma(half, v16_erf(v16_mul(x, v16_set1(0.707106781f))), half);
    }
    v16 z = v16_fma(v16_mul(v16_mul(x, x), x), v16_set1(0.0713548163f), v16_mul(x, v16_set1(1.59576912f)));
    return v16_sigmoid(z);
}

INLINE v16 gelu_slope(v16 x, v16 phi, int kind) {
    v16 x2 = v16_mul(x, x);
    if (kind == GELU_ERF) {
        v16 density = v16_mul(v16_set1(0.398942280f), v16_exp(v16_mul(x2, v16_set1(-0.5f))));
        return v16_fma(x, density, phi);
    }
    v16 dz = v16_fma(x2, v16_set1(0.214064449f), v16_set1(1.59576912f));
    v16 dphi = v16_mul(v16_mul(phi, v16_sub(v16_set1(1.0f), phi)), dz);
    return v16_fma(x, dphi, phi);
}

static void gelu_fwd_span(const void *job, Span s, int64_t tile) {
    (void)tile;
    const Elem *e = job;
    for (int64_t i = s.row; i < s.row_end; i++)
        for (int64_t j = s.col; j < s.col_end; j += 16) {
            int64_t left = s.col_end - j;
            v16 x = row_get(e->a, i, j, left);
            row_put(e->y, i, j, v16_mul(x, gelu_phi(x, e->kind)), left);
        }
}

static void gelu_fwd(Backend *be, Tensor y, Tensor x, GeluKind kind) {
    check_any("gelu_fwd", "y", y, y.rows, y.cols);
    check_any("gelu_fwd", "x", x, y.rows, y.cols);
    Elem e = {.y = y, .a = x, .kind = kind};
    cpu_spans(be, y.rows, y.cols, gelu_fwd_span, &e);
}

static void gelu_bwd_span(const void *job, Span s, int64_t tile) {
    (void)tile;
    const Elem *e = job;
    for (int64_t i = s.row; i < s.row_end; i++)
        for (int64_t j = s.col; j < s.col_end; j += 16) {
            int64_t left = s.col_end - j;
            v16 x = row_get(e->b, i, j, left), phi = gelu_phi(x, e->kind);
            v16 d = row_get(e->a, i, j, left);
            row_put(e->y, i, j, v16_mul(d, gelu_slope(x, phi, e->kind)), left);
        }
}

static void gelu_bwd(Backend *be, Tensor dx, Tensor dy, Tensor x, GeluKind kind) {
    check_any("gelu_bwd", "dx", dx, dy.rows, dy.cols);
    check_any("gelu_bwd", "dy", dy, dy.rows, dy.cols);
    check_any("gelu_bwd", "x", x, dy.rows, dy.cols);
    Elem e = {.y = dx, .a = dy, .b = x, .kind = kind};
    cpu_spans(be, dy.rows, dy.cols, gelu_bwd_span, &e);
}

#endif
