/* tensor/cpu/kernels_widened.h — products of F32 activations with BF16 or 8-bit weights (generation): the chain of
 * kernels_gemm.h, k ascending, on weights widened in registers. 8-bit weights are whole numbers -127..127 times one
 * scale for each row of w, which multiplies the finished sum. */
#ifndef DIKAST_TENSOR_CPU_KERNELS_WIDENED_H
#define DIKAST_TENSOR_CPU_KERNELS_WIDENED_H

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

#endif
