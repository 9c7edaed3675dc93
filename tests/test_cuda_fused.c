// layer: tensor
// gpu: yes
/* Ops that the cuda backend makes in one launch, beside the ops they stand for: equal bits, and nothing but what is
 * theirs is written. Drawing. On a GPU or emulated. */
#include "base/rng.h"
#include "tensor/backend.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <cmocka.h>

enum { MOST = 64 };

static struct {
    Backend *be;
    struct {
        void *p;
        size_t bytes;
    } held[MOST];
    int n_held;
    uint64_t next;
} t;

/* A matrix with gaps between rows; fresh memory is NaN. spread 0: as it came. */
static Tensor matrix(int64_t rows, int64_t cols, DType dtype, double spread) {
    int64_t ld = cols + (rows > 1 ? 16 : 0), n = rows * cols;
    size_t bytes = (size_t)(rows * ld) * dtype_bytes(dtype);
    assert_true(t.n_held < MOST);
    t.held[t.n_held].p = t.be->mem.get(t.be->mem.ud, bytes);
    t.held[t.n_held].bytes = bytes;
    Tensor x = {.data = t.held[t.n_held++].p, .rows = rows, .cols = cols, .ld = ld, .dtype = dtype};
    t.next++;
    if (spread == 0) return x;
    float *v = mem_alloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = (float)(spread * rng_normal((Rng){3, RNG_TEST}, (uint64_t)i, (uint32_t)t.next));
    tensor_set_f32(t.be, x, v);
    free(v);
    return x;
}

static void let_go(void) {
    for (int i = 0; i < t.n_held; i++) t.be->mem.put(t.be->mem.ud, t.held[i].p, t.held[i].bytes);
    t.n_held = 0;
}

static int64_t differing(Tensor x, Tensor y) {
    int64_t n = x.rows * x.cols, bad = 0;
    float *a = mem_alloc((size_t)n * sizeof *a), *b = mem_alloc((size_t)n * sizeof *b);
    tensor_get_f32(t.be, a, x);
    tensor_get_f32(t.be, b, y);
    for (int64_t i = 0; i < n; i++) bad += memcmp(&a[i], &b[i], sizeof *a) != 0 && !(isnan(a[i]) && isnan(b[i]));
    free(a);
    free(b);
    return bad;
}

static bool finite_all(Tensor x) {
    int64_t n = x.rows * x.cols;
    bool ok = true;
    float *a = mem_alloc((size_t)n * sizeof *a);
    tensor_get_f32(t.be, a, x);
    for (int64_t i = 0; i < n; i++) ok = ok && isfinite(a[i]);
    free(a);
    return ok;
}

/* rows, width, inner width of the MLP, heads, KV heads, width of a head */
static const struct {
    int n, c, f, heads, kv, d;
    bool bias;
} shape[] = {{1, 64, 96, 2, 1, 32, false},   {1, 1024, 72, 3, 1, 64, true}, {3, 544, 200, 1, 1, 16, false},
             {4, 4096, 64, 1, 1, 128, true}, {5, 96, 104, 2, 2, 48, false}, {11, 160, 24, 3, 3, 16, true},
             {16, 2656, 40, 1, 1, 64, false}};

static NormedRows rows_of(int64_t n, int64_t c) {
    return (NormedRows){matrix(n, c, DTYPE_BF16, 0), matrix(n, c, DTYPE_F32, 2), matrix(1, c, DTYPE_F32, 1), 1e-5f};
}

static LinearOut product_of(Tensor y, int64_t m, int64_t k, bool bias) {
    LinearOut o = {.y = y, .w = matrix(m, k, DTYPE_BF16, 0.05)};
    if (bias) o.bias = matrix(1, m, DTYPE_F32, 0.5);
    return o;
}

static void test_swiglu(void **state) {
    (void)state;
    const BackendOps *op = t.be->op;
    for (int i = 0; i < COUNT_OF(shape); i++) {
        int64_t n = shape[i].n, c = shape[i].c, f = shape[i].f;
        NormedRows r = rows_of(n, c);
        LinearOut out[] = {product_of(matrix(n, f, DTYPE_BF16, 0), f, c, shape[i].bias),
                           product_of(matrix(n, f, DTYPE_BF16, 0), f, c, shape[i].bias)};
        Tensor want = matrix(n, f, DTYPE_BF16, 0), got = matrix(n, f, DTYPE_BF16, 0);
        assert_true(op->norm_swiglu(t.be, got, out[0], out[1], r));
        op->rmsnorm_fwd(t.be, r.h, (Tensor){0}, r.x, r.w, r.eps);
        op->linear_fwd(t.be, out, 2, r.h, false);
        op->swiglu_fwd(t.be, want, out[1].y, out[0].y);
        int64_t bad = differing(got, want);
        if (bad || !finite_all(want))
            fail_msg("shape %d: %lld of %lld elements differ", i, (long long)bad, (long long)(n * f));
        let_go();
    }
}

static void test_qkv(void **state) {
    (void)state;
    const BackendOps *op = t.be->op;
    for (int i = 0; i < COUNT_OF(shape); i++) {
        int64_t n = shape[i].n, c = shape[i].c, d = shape[i].d, nq = shape[i].heads * d, nk = shape[i].kv * d;
        enum { CACHE = 40 };
        int32_t kv_row[16], pos[16];
        double freq[64];
        for (int j = 0; j < n; j++) kv_row[j] = (7 * j + 3) % CACHE, pos[j] = 100 * j + 5;
        for (int j = 0; j < d / 2; j++) freq[j] = pow(10000, -2.0 * j / (double)d);
        NormedRows r = rows_of(n, c);
        LinearOut out[] = {product_of(matrix(n, nq, DTYPE_BF16, 0), nq, c, shape[i].bias),
                           product_of(matrix(n, nk, DTYPE_BF16, 0), nk, c, shape[i].bias),
                           product_of(matrix(n, nk, DTYPE_BF16, 0), nk, c, shape[i].bias)};
        Tensor cache[4], q = matrix(n, nq, DTYPE_BF16, 0);
        for (int j = 0; j < 4; j++)
            cache[j] = matrix(CACHE, nk, DTYPE_BF16, 0); /* rows that are not written stay NaN */
        LinearOut other[] = {out[0], out[1], out[2]};
        other[0].y = q;
        assert_true(op->norm_qkv(t.be, other, r, cache[0], cache[1], kv_row, pos, freq, (int)d));
        op->rmsnorm_fwd(t.be, r.h, (Tensor){0}, r.x, r.w, r.eps);
        op->linear_fwd(t.be, out, 3, r.h, false);
        op->rope_kv(t.be, out[0].y, out[1].y, out[2].y, cache[2], cache[3], kv_row, pos, freq, (int)d);
        int64_t bad_q = differing(q, out[0].y), bad_k = differing(cache[0], cache[2]),
                bad_v = differing(cache[1], cache[3]);
        if (bad_q || bad_k || bad_v || !finite_all(q))
            fail_msg("shape %d: %lld, %lld, %lld elements of q, k, v differ", i, (long long)bad_q, (long long)bad_k,
                     (long long)bad_v);
        let_go();
    }
}

/* What the kernel is not for is left to the ops one by one, and nothing is touched. */
static void test_refused(void **state) {
    (void)state;
    const BackendOps *op = t.be->op;
    NormedRows r = rows_of(17, 64);
    LinearOut o[2];
    for (int i = 0; i < 2; i++) o[i] = product_of(matrix(17, 32, DTYPE_BF16, 0), 32, 64, false);
    Tensor y = matrix(17, 32, DTYPE_BF16, 1), same = matrix(17, 32, DTYPE_BF16, 0);
    op->copy(t.be, same, y);
    assert_false(op->norm_swiglu(t.be, y, o[0], o[1], r)); /* too many rows */
    o[0].w = matrix(32, 64, DTYPE_F32, 1);
    r.h = tensor_rows(r.h, 0, 1), r.x = tensor_rows(r.x, 0, 1);
    assert_false(op->norm_swiglu(t.be, tensor_rows(y, 0, 1), o[0], o[1], r)); /* F32 weights */
    assert_int_equal(differing(y, same), 0);
    let_go();
}

/* An optimizer's update: with a BF16 copy of the weights and without, rows aligned and not. */
static void test_update(void **state) {
    (void)state;
    static const int size[][2] = {{1, 1031}, {37, 64}, {5, 130}, {300, 256}};
    const AdamwParams a = {1e-2, 0.9, 0.95, 1e-8, 0.1, 3, 0.7};
    const BackendOps *op = t.be->op;
    for (int k = 0; k < 2 * COUNT_OF(size); k++) {
        int64_t rows = size[k / 2][0], cols = size[k / 2][1];
        Tensor x[2][5]; /* p, m, v, g, w */
        for (int j = 0; j < 5; j++)
            for (int side = 0; side < 2; side++) {
                x[side][j] = matrix(rows, cols, j < 4 ? DTYPE_F32 : DTYPE_BF16, j < 4 && side == 0 ? 0.3 : 0);
                if (j < 4 && side == 1) op->copy(t.be, x[1][j], x[0][j]);
                if (j == 2) op->scale(t.be, x[side][j], 0); /* a second moment is not negative */
            }
        bool half = k % 2;
        op->update(t.be, half ? x[0][4] : (Tensor){0}, x[0][0], x[0][1], x[0][2], x[0][3], a);
        op->adamw(t.be, x[1][0], x[1][1], x[1][2], x[1][3], a);
        op->cast(t.be, x[1][4], x[1][0]);
        op->zero(t.be, x[1][3]);
        for (int j = 0; j < 4 + half; j++) {
            int64_t bad = differing(x[0][j], x[1][j]);
            if (bad || !finite_all(x[1][j]))
                fail_msg("size %d, half %d, tensor %d: %lld differ", k / 2, half, j, (long long)bad);
        }
        let_go();
    }
}

/* Is `token` the word at which the running sum of exp(z/temp) passes u of its total, but for rounding? */
static bool drawn_rightly(const float *z, int n, double temp, double u, int token) {
    double top = -INFINITY, total = 0, before = 0;
    for (int j = 0; j < n; j++) top = z[j] > top ? z[j] : top;
    for (int j = 0; j < n; j++) total += exp((z[j] - top) / temp);
    for (int j = 0; j < token; j++) before += exp((z[j] - top) / temp);
    double own = exp((z[token] - top) / temp), slack = 1e-5 * total;
    return own > 0 && before <= u * total + slack && before + own >= u * total - slack;
}

enum { DRAWS = 9 };

/* Rows of a kind each: drawn at three temperatures, greedy with equals, masked words, a number that is none. */
static void fill_rows(float *z, int n, float *temp, double *u) {
    for (int i = 0; i < DRAWS; i++) {
        for (int j = 0; j < n; j++)
            z[i * n + j] = (float)(3 * rng_normal((Rng){5, RNG_TEST}, (uint64_t)(i * n + j), (uint32_t)n));
        temp[i] = i < 5 ? (float)(0.5 * (1 + i / 2)) : i == 8 ? 0.0f : 1.0f;
        u[i] = rng_uniform((Rng){6, RNG_TEST}, (uint64_t)i, (uint32_t)n);
    }
    u[3] = 0, u[4] = 1 - 1e-12;
    for (int j = 0; j < n; j += 2) z[5 * n + j] = -INFINITY;
    z[6 * n + n - 1] = NAN;
    for (int j = 0; j < n; j++) z[7 * n + j] = -INFINITY;
    z[8 * n + n / 3] = z[8 * n + n / 2] = z[8 * n + n - 1] = 99;
    if (n > n / 3 + 4096) z[8 * n + n / 3 + 4096] = 99; /* the same thread's */
}

static void test_draw(void **state) {
    (void)state;
    static const int width[] = {7, 64, 1024, 1027, 5003, 33000};
    const BackendOps *op = t.be->op;
    for (int k = 0; k < COUNT_OF(width); k++) {
        int n = width[k];
        float *z = mem_alloc((size_t)(DRAWS * n) * sizeof *z), temp[DRAWS], logprob[DRAWS], want[DRAWS];
        double u[DRAWS];
        int32_t token[DRAWS], alone[DRAWS];
        fill_rows(z, n, temp, u);
        Tensor logits = matrix(DRAWS, n, DTYPE_F32, 0), value = matrix(1, 1, DTYPE_F32, 0);
        tensor_set_f32(t.be, logits, z);
        op->draw(t.be, token, logprob, logits, temp, u);
        op->draw(t.be, alone, NULL, logits, temp, u);
        assert_memory_equal(token, alone, sizeof token);
        for (int i = 0; i < DRAWS; i++) {
            if (i == 6 || i == 7) {
                assert_int_equal(token[i], -1);
                continue;
            }
            assert_in_range(token[i], 0, n - 1);
            if (temp[i] == 0)
                assert_int_equal(token[i], n / 3);
            else if (!drawn_rightly(z + i * n, n, temp[i], u[i], token[i]))
                fail_msg("%d words, row %d: drew %d at %g of temperature %g", n, i, token[i], u[i], (double)temp[i]);
            op->logprob_fwd(t.be, value, (Tensor){0}, tensor_rows(logits, i, 1), &token[i], temp[i] > 0 ? temp[i] : 1);
            tensor_get_f32(t.be, &want[i], value);
            assert_memory_equal(&want[i], &logprob[i], sizeof want[i]);
            op->draw(t.be, alone, NULL, tensor_rows(logits, i, 1), &temp[i], &u[i]);
            assert_int_equal(alone[0], token[i]);
        }
        free(z);
        let_go();
    }
}

int main(void) {
    Error err = {0};
    if (!backend_open(&t.be, "cuda", NULL, NULL, &err)) {
        printf("skipped: %s\n", err.msg);
        return 77;
    }
    if (!backend_set_dtype(t.be, DTYPE_BF16, &err)) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_swiglu), cmocka_unit_test(test_qkv),
                                       cmocka_unit_test(test_refused), cmocka_unit_test(test_draw),
                                       cmocka_unit_test(test_update)};
    int bad = cmocka_run_group_tests(tests, NULL, NULL);
    backend_close(t.be);
    return bad;
}
