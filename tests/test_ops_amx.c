// layer: tensor
/* Products of BF16 on AMX: every number equals what plain C makes of the instruction's definition (kernels_amx.h),
 * whatever the shape and the company; the measured peak is the tiles' own. Skipped by name where the machine has no
 * AMX. */
#include "tensor/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 32, GRAD_TOKENS = 256 };

static float from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static float widened(uint16_t h) { return from_bits((uint32_t)h << 16); }
static float no_subnormal(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

/* sum + a . b of 32 pairs of numbers, as TDPBF16PS has it: even and odd chains, their sum, then that to sum. */
static float tile_dot(float sum, const float a[BLOCK], const float b[BLOCK]) {
    float chain[2] = {0, 0};
    for (int k = 0; k < BLOCK; k++)
        chain[k % 2] = no_subnormal(fmaf(no_subnormal(a[k]), no_subnormal(b[k]), chain[k % 2]));
    return no_subnormal(no_subnormal(sum) + no_subnormal(chain[0] + chain[1]));
}

/* Number k of a vector in steps of `step`. */
typedef struct {
    const float *at;
    int64_t step;
} Chain;

static float tile_chain(float sum, Chain a, Chain b, int64_t n) {
    for (int64_t from = 0; from < n; from += BLOCK) {
        float x[BLOCK] = {0}, y[BLOCK] = {0};
        for (int64_t k = from; k < n && k < from + BLOCK; k++) {
            x[k - from] = a.at[k * a.step];
            y[k - from] = b.at[k * b.step];
        }
        sum = tile_dot(sum, x, y);
    }
    return sum;
}

typedef struct {
    int n, m, k, parts; /* rows; outputs, cut into parts at panels; width of x */
    int kind; /* of numbers: 0 ordinary, 1 small ones whose products are subnormal, 2 subnormal ones among others */
} Shape;

typedef struct {
    Shape s;
    Pool *pool;
    Backend *be;
    float *x, *dy, *w;          /* numbers that BF16 holds */
    uint16_t *x_half, *dy_half; /* (n, k + 2), (n, m + 6) */
    Tensor tx, tdy, tw;
    Arena mem;
} Data;

static uint64_t next(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static void fill(float *p, uint16_t *half, int64_t rows, int64_t cols, int64_t ld, int kind, uint64_t *rng) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            uint32_t e = kind == 0 ? 120 + next(rng) % 10 : kind == 1 ? 58 + next(rng) % 10 : next(rng) % 3 ? 120 : 0;
            uint16_t h = (uint16_t)((next(rng) & 1) << 15 | e << 7 | (next(rng) & 127));
            if (half) half[i * ld + j] = h;
            p[i * cols + j] = widened(h);
        }
}

static void data_open(Data *d, Shape s, int n_thread) {
    Error err = {0};
    *d = (Data){.s = s};
    uint64_t rng = (uint64_t)(s.n * 1000 + s.m * 100 + s.k);
    size_t n = (size_t)s.n, m = (size_t)s.m, k = (size_t)s.k;
    d->x = mem_alloc(n * k * sizeof(float)), d->dy = mem_alloc(n * m * sizeof(float)),
    d->w = mem_alloc(m * k * sizeof(float));
    d->x_half = mem_alloc(n * (k + 2) * sizeof(uint16_t)), d->dy_half = mem_alloc(n * (m + 6) * sizeof(uint16_t));
    memset(d->x_half, 0xff, n * (k + 2) * sizeof(uint16_t)); /* what lies beside a row is NaN */
    memset(d->dy_half, 0xff, n * (m + 6) * sizeof(uint16_t));
    fill(d->x, d->x_half, s.n, s.k, s.k + 2, s.kind, &rng);
    fill(d->dy, d->dy_half, s.n, s.m, s.m + 6, s.kind, &rng);
    fill(d->w, NULL, s.m, s.k, 0, s.kind, &rng);
    d->tx = (Tensor){d->x_half, s.n, s.k, s.k + 2, DTYPE_BF16, false};
    d->tdy = (Tensor){d->dy_half, s.n, s.m, s.m + 6, DTYPE_BF16, false};
    assert_true(pool_open(&d->pool, n_thread, &err));
    assert_true(backend_open(&d->be, "cpu", d->pool, "amx", &err));
    Arena measure;
    arena_init_measure(&measure, "weights");
    tensor_place_weight(&measure, DTYPE_BF16, s.m, s.k, true);
    assert_true(arena_init(&d->mem, "weights", mem_source_host(), measure.used, &err));
    d->tw = tensor_place_weight(&d->mem, DTYPE_BF16, s.m, s.k, true);
    tensor_set_f32(d->be, d->tw, d->w);
}

static void data_close(Data *d) {
    backend_close(d->be);
    pool_close(d->pool);
    arena_release(&d->mem);
    free(d->x), free(d->dy), free(d->w), free(d->x_half), free(d->dy_half);
}

/* First output of part i of `parts`. */
static int part_at(Shape s, int i) {
    int panels = (s.m + PANEL_ROWS - 1) / PANEL_ROWS, at = panels * i / s.parts * PANEL_ROWS;
    return i == s.parts || at > s.m ? s.m : at;
}

static void same_bits(const char *what, Shape s, const float *got, const float *want, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&got[i], &want[i], sizeof *got))
            fail_msg("%s of n=%d m=%d k=%d parts=%d kind=%d: number %lld is %a, expected %a", what, s.n, s.m, s.k,
                     s.parts, s.kind, (long long)i, (double)got[i], (double)want[i]);
}

static void check_forward(const Data *d) {
    Shape s = d->s;
    size_t n = (size_t)s.n * (size_t)s.m;
    float *y = mem_alloc(n * sizeof *y), *want = mem_alloc(n * sizeof *want),
          *bias = mem_alloc((size_t)s.m * sizeof *bias);
    for (int j = 0; j < s.m; j++) bias[j] = (float)j / 8 - 3;
    for (int with = 0; with < 2; with++) {
        LinearOut out[LINEAR_MAX] = {0};
        for (size_t i = 0; i < n; i++) y[i] = (float)i / 16;
        for (int64_t i = 0; i < s.n; i++)
            for (int64_t j = 0; j < s.m; j++) {
                float sum = tile_chain(0, (Chain){d->x + i * s.k, 1}, (Chain){d->w + j * s.k, 1}, s.k);
                want[i * s.m + j] = with ? y[i * s.m + j] + (sum + bias[j]) : sum;
            }
        Tensor ty = tensor_over(y, DTYPE_F32, s.n, s.m), tb = tensor_over(bias, DTYPE_F32, 1, s.m);
        for (int i = 0; i < s.parts; i++) {
            int from = part_at(s, i), count = part_at(s, i + 1) - from;
            out[i].y = tensor_cols(ty, from, count), out[i].w = tensor_rows(d->tw, from, count);
            if (with) out[i].bias = tensor_cols(tb, from, count);
        }
        d->be->op->linear_fwd(d->be, out, s.parts, d->tx, with);
        same_bits(with ? "y + x w + b" : "x w", s, y, want, (int64_t)n);
    }
    free(y), free(want), free(bias);
}

static void check_backward(const Data *d) {
    Shape s = d->s;
    size_t n_x = (size_t)s.n * (size_t)s.k, n_w = (size_t)s.m * (size_t)s.k,
           held = (size_t)((s.m + 15) / 16 * 16 * s.k);
    float *dx = mem_alloc(n_x * sizeof *dx), *want_dx = mem_alloc(n_x * sizeof *dx);
    float *dw = mem_alloc(n_w * sizeof *dw), *want_dw = mem_alloc(n_w * sizeof *dw),
          *panels = mem_alloc(held * sizeof *dw);
    Tensor tdw = {panels, s.m, s.k, s.k, DTYPE_F32, true};
    for (size_t i = 0; i < n_w; i++) dw[i] = want_dw[i] = (float)i / 32;
    memset(panels, 0, held * sizeof *panels);
    tensor_set_f32(d->be, tdw, dw);
    LinearGrad g[LINEAR_MAX] = {0};
    for (int i = 0; i < s.parts; i++) {
        int from = part_at(s, i), count = part_at(s, i + 1) - from;
        g[i] = (LinearGrad){.dy = tensor_cols(d->tdy, from, count), .w = tensor_rows(d->tw, from, count)};
        g[i].dw_acc = tensor_rows(tdw, from, count);
    }
    for (int64_t i = 0; i < s.n; i++)
        for (int64_t j = 0; j < s.k; j++) {
            float sum = 0; /* every product begins a block of its own */
            for (int p = 0; p < s.parts; p++) {
                int from = part_at(s, p), count = part_at(s, p + 1) - from;
                sum = tile_chain(sum, (Chain){d->dy + i * s.m + from, 1}, (Chain){d->w + from * s.k + j, s.k}, count);
            }
            want_dx[i * s.k + j] = sum;
        }
    for (int64_t o = 0; o < s.m; o++)
        for (int64_t j = 0; j < s.k; j++)
            for (int64_t t = 0; t < s.n; t += GRAD_TOKENS) {
                int64_t count = s.n - t < GRAD_TOKENS ? s.n - t : GRAD_TOKENS;
                want_dw[o * s.k + j] +=
                    tile_chain(0, (Chain){d->x + t * s.k + j, s.k}, (Chain){d->dy + t * s.m + o, s.m}, count);
            }
    d->be->op->linear_bwd(d->be, tensor_over(dx, DTYPE_F32, s.n, s.k), g, s.parts, d->tx, false);
    same_bits("dx", s, dx, want_dx, (int64_t)n_x);
    tensor_get_f32(d->be, dw, tdw);
    same_bits("dw", s, dw, want_dw, (int64_t)n_w);
    for (size_t i = 0; i < held; i++) /* what fills the last panel up stays 0 */
        if ((int)(i / ((size_t)s.k * 16)) * 16 + (int)(i % 16) >= s.m) assert_true(panels[i] == 0);
    free(dx), free(want_dx), free(dw), free(want_dw), free(panels);
}

/* Tails of rows, outputs and k, several products, several chunks of rows and blocks of tokens, tasks of many threads.
 */
static const Shape shapes[] = {
    {1, 16, 32, 1, 0},    {1, 1, 1, 1, 0},      {5, 17, 33, 1, 0},  {16, 64, 96, 1, 0},  {17, 40, 31, 2, 0},
    {32, 64, 64, 3, 0},   {33, 100, 130, 3, 0}, {48, 33, 2, 1, 0},  {300, 70, 67, 2, 0}, {417, 96, 48, 3, 0},
    {530, 50, 520, 1, 0}, {64, 1200, 40, 1, 0}, {40, 48, 70, 1, 1}, {290, 33, 40, 1, 1}, {40, 48, 70, 2, 2},
};

static void test_equal_definition(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(shapes); i++) {
        Data d;
        data_open(&d, shapes[i], 1 + i % 3);
        check_forward(&d);
        check_backward(&d);
        data_close(&d);
    }
}

/* A BF16 result is the F32 one rounded; fewer rows, other neighbours: the same bits. */
static void test_rows_alone(void **state) {
    (void)state;
    enum { N = 70, M = 50, K = 75 };
    static float y[N * M];
    static uint16_t half[N * M], want[N * M], alone[N * M];
    Data d;
    data_open(&d, (Shape){N, M, K, 1, 0}, 2);
    d.be->op->linear_fwd(d.be, &(LinearOut){.y = tensor_over(y, DTYPE_F32, N, M), .w = d.tw}, 1, d.tx, false);
    d.be->op->linear_fwd(d.be, &(LinearOut){.y = tensor_over(half, DTYPE_BF16, N, M), .w = d.tw}, 1, d.tx, false);
    d.be->op->cast(d.be, tensor_over(want, DTYPE_BF16, N, M), tensor_over(y, DTYPE_F32, N, M));
    assert_memory_equal(half, want, sizeof want);
    for (int step = 1; step <= 40; step += 3)
        for (int i = 0; i < N; i += step) {
            int n = N - i < step ? N - i : step;
            Tensor part = tensor_rows(tensor_over(alone, DTYPE_BF16, N, M), i, n);
            d.be->op->linear_fwd(d.be, &(LinearOut){.y = part, .w = d.tw}, 1, tensor_rows(d.tx, i, n), false);
            if (i + n == N) assert_memory_equal(alone, want, sizeof want);
        }
    data_close(&d);
}

static bool lacks_amx(void) {
    Pool *pool;
    Backend *be;
    Error err = {0};
    assert_true(pool_open(&pool, 1, &err));
    bool open = backend_open(&be, "cpu", pool, "amx", &err);
    if (open)
        backend_close(be);
    else
        print_message("test_ops_amx: skipped: %s\n", err.msg);
    pool_close(pool);
    return !open;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_definition),
        cmocka_unit_test(test_rows_alone),
    };
    return lacks_amx() ? 77 : cmocka_run_group_tests(tests, NULL, NULL);
}
