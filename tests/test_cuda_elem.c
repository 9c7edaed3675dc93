// layer: tensor
// gpu: yes
/* What test_ops_cuda.c does not ask of the cuda backend's kernels: rows by our own products, whoever is beside them;
 * equal bits wherever the data lies; sums long enough for several parts; edge values. In a build with CUDA on the GPU
 * (exit 77 without one), in others emulated. */
#include "ops_cases.h"

#include "tensor/cuda/cuda_int.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static Backend *be, *ref;

/* A tensor `skip` elements into memory of its own. */
typedef struct {
    Tensor t;
    void *p;
    size_t bytes;
} Place;

static Place place(DType dtype, int64_t rows, int64_t cols, int64_t gap, int64_t skip) {
    Place a = {.bytes = (size_t)(rows * (cols + gap) + skip) * dtype_bytes(dtype)};
    a.p = be->mem.get(be->mem.ud, a.bytes);
    a.t = (Tensor){.data = (char *)a.p + (size_t)skip * dtype_bytes(dtype),
                   .rows = rows,
                   .cols = cols,
                   .ld = cols + gap,
                   .dtype = dtype};
    return a;
}

static void put(Place *a) { be->mem.put(be->mem.ud, a->p, a->bytes); }

static double *normal(int64_t n, uint32_t item, double spread) {
    double *x = mem_alloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (double)(float)(spread * rng_normal((Rng){.seed = 5, .stream = RNG_TEST}, (uint64_t)i, item));
    return x;
}

/* -- products ---------------------------------------------------------------------------------------------------------
 */

typedef struct {
    DType x, w, y;
    int n, m, k, gap, skip;
} Product;

/* y of rows [first, first + count) of x, as doubles; caller frees. */
static double *own_fwd(const Product *p, const double *x, const double *w, const double *side, int first, int count) {
    Place px = place(p->x, count, p->k, p->gap, p->skip), pw = place(p->w, p->m, p->k, p->gap, p->skip);
    Place py = place(p->y, count, p->m, p->gap, p->skip), pb = place(DTYPE_F32, 1, p->m, 0, 0),
          ps = place(DTYPE_F32, 1, p->m, 0, 0);
    tensor_set(be, px.t, x + (int64_t)first * p->k);
    tensor_set(be, pw.t, w);
    tensor_set(be, pb.t, side);
    tensor_set(be, ps.t, side + p->m);
    LinearOut o = {.y = py.t, .w = pw.t, .bias = pb.t};
    if (p->w == DTYPE_I8) o.scale = ps.t;
    cuda_own_fwd(be, &o, 1, px.t, false);
    double *y = mem_alloc((size_t)count * (size_t)p->m * sizeof *y);
    tensor_get(be, y, py.t);
    put(&px), put(&pw), put(&py), put(&pb), put(&ps);
    return y;
}

/* Row after row, in groups of every size that has a kernel of its own, aligned and not: the bits of the whole. */
static void test_own_rows(void **state) {
    (void)state;
    static const Product kind[] = {
        {DTYPE_F32, DTYPE_F32, DTYPE_F32, 150, 72, 2116, 0, 0},
        {DTYPE_F32, DTYPE_BF16, DTYPE_F32, 70, 40, 4104, 0, 0},
        {DTYPE_F32, DTYPE_I8, DTYPE_F32, 70, 72, 1040, 0, 0},
        {DTYPE_BF16, DTYPE_BF16, DTYPE_F32, 300, 136, 328, 0, 0},
        {DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, 140, 264, 72, 0, 0},
        {DTYPE_BF16, DTYPE_I8, DTYPE_BF16, 300, 136, 336, 0, 0},
    };
    static const int group[] = {1, 2, 4, 7, 16, 31, 33, 64, 65, 300};
    for (int c = 0; c < COUNT_OF(kind); c++) {
        Product p = kind[c];
        double *x = normal((int64_t)p.n * p.k, 1, 1), *w = normal((int64_t)p.m * p.k, 2, p.w == DTYPE_I8 ? 40 : 1),
               *side = normal(2 * p.m, 3, 1);
        if (p.w == DTYPE_I8)
            for (int64_t i = 0; i < (int64_t)p.m * p.k; i++) w[i] = fmax(-127, fmin(127, rint(w[i])));
        double *whole = own_fwd(&p, x, w, side, 0, p.n), worst = 0;
        for (int i = 0; i < COUNT_OF(group); i++)
            for (int away = 0; away < 2; away++) {
                int count = group[i] < p.n ? group[i] : p.n,
                    first = group[i] % 5 < p.n - count ? group[i] % 5 : p.n - count;
                Product q = p;
                if (away) q.gap = 1, q.skip = 3;
                double *y = own_fwd(&q, x, w, side, first, count);
                int64_t bad = 0;
                for (int64_t j = 0; j < (int64_t)count * p.m; j++)
                    bad += memcmp(&y[j], &whole[(int64_t)first * p.m + j], sizeof *y) != 0;
                if (bad)
                    fail_msg("%s x %s: %lld bits of %d rows differ, %s", dtype_name(p.x), dtype_name(p.w),
                             (long long)bad, count, away ? "unaligned" : "aligned");
                free(y);
            }
        /* and what they are */
        for (int n = 0; n < p.n; n += 7)
            for (int m = 0; m < p.m; m++) {
                double sum = 0, size = 0;
                for (int k = 0; k < p.k; k++) {
                    double xv = x[(int64_t)n * p.k + k], wv = w[(int64_t)m * p.k + k];
                    uint16_t half;
                    Tensor one = tensor_over(&half, DTYPE_BF16, 1, 1);
                    if (p.x == DTYPE_BF16) tensor_set(NULL, one, &xv), tensor_get(NULL, &xv, one);
                    if (p.w == DTYPE_BF16) tensor_set(NULL, one, &wv), tensor_get(NULL, &wv, one);
                    sum += xv * wv, size += fabs(xv * wv);
                }
                if (p.w == DTYPE_I8) sum *= side[p.m + m], size *= fabs(side[p.m + m]);
                sum += side[m], size += fabs(side[m]);
                double e =
                    fabs(whole[(int64_t)n * p.m + m] - sum) / (p.y == DTYPE_BF16 ? fabs(sum) * 8e3 + size : size);
                worst = e > worst ? e : worst;
            }
        print_message("  %s x %s -> %s: %.1e\n", dtype_name(p.x), dtype_name(p.w), dtype_name(p.y), worst);
        assert_true(worst < 1e-6);
        free(x), free(w), free(side), free(whole);
    }
}

/* -- where data lies
 * ---------------------------------------------------------------------------------------------------- */

static bool has_half(OpId op) {
    return op == OP_swiglu_fwd || op == OP_swiglu_bwd || op == OP_gelu_fwd || op == OP_gelu_bwd ||
           op == OP_rmsnorm_fwd || op == OP_layernorm_fwd || op == OP_embed_fwd || op == OP_gather_rows ||
           op == OP_scatter_add_rows || op == OP_rope || op == OP_cast;
}

/* Every op of one thread order: aligned rows, and rows with a gap that no access of 16 bytes fits. */
static void test_alignment(void **state) {
    (void)state;
    static const OpId op[] = {OP_copy,
                              OP_add,
                              OP_add_bias,
                              OP_sumsq,
                              OP_swiglu_fwd,
                              OP_swiglu_bwd,
                              OP_gelu_fwd,
                              OP_gelu_bwd,
                              OP_rmsnorm_fwd,
                              OP_rmsnorm_bwd,
                              OP_layernorm_fwd,
                              OP_layernorm_bwd,
                              OP_logprob_fwd,
                              OP_logprob_bwd,
                              OP_adamw,
                              OP_embed_fwd,
                              OP_embed_bwd,
                              OP_gather_rows,
                              OP_scatter_add_rows,
                              OP_linear_bwd,
                              OP_rope,
                              OP_quantize,
                              OP_cast};
    for (int i = 0; i < COUNT_OF(op); i++)
        for (int s = 0; s < 2; s++) {
            if (s && !has_half(op[i])) continue;
            OpCase c = {.op = op[i],
                        .store = s ? STORE_BF16 : STORE_REAL,
                        .n = 70,
                        .m = 648,
                        .k = 24,
                        .n_head = 3,
                        .d_head = 48,
                        .n_kv = 1,
                        .seed = 3,
                        .f32 = true};
            c.adamw = (AdamwParams){1e-3, 0.9, 0.95, 1e-8, 0.1, 5, 0.5}, c.spread = c.temp = 1, c.eps = 1e-5f;
            if (op[i] == OP_linear_bwd) c.m = 136;
            OpData d;
            op_build(&d, &c, ref);
            OpOut wide = op_run(be, &d);
            d.c.pad = 3;
            OpOut narrow = op_run(be, &d);
            int64_t bad = narrow.touched;
            for (int64_t j = 0; j < wide.n; j++) bad += memcmp(&wide.v[j], &narrow.v[j], sizeof *wide.v) != 0;
            if (bad) fail_msg("%s store=%d: %lld bits differ", op_name(op[i]), s, (long long)bad);
            op_out_free(&wide);
            op_out_free(&narrow);
            op_free(&d);
        }
}

/* BF16 over F32's own rows, of rows longer than a block takes at once. */
static void test_cast_in_place(void **state) {
    (void)state;
    for (int away = 0; away < 2; away++) {
        enum { ROWS = 3, COLS = 5001 };
        Place a = place(DTYPE_F32, ROWS, COLS, away ? 0 : 3, 0), b = place(DTYPE_BF16, ROWS, COLS, 0, 0);
        double *x = normal(ROWS * COLS, 1, 3), *want = mem_alloc(ROWS * COLS * sizeof *want),
               *got = mem_alloc(ROWS * COLS * sizeof *got);
        tensor_set(be, a.t, x);
        tensor_set(be, b.t, x);
        tensor_get(be, want, b.t);
        be->op->cast(be, tensor_narrow(a.t), a.t);
        tensor_get(be, got, tensor_narrow(a.t));
        assert_memory_equal(got, want, ROWS * COLS * sizeof *got);
        put(&a), put(&b);
        free(x), free(want), free(got);
    }
}

/* -- long sums
 * ------------------------------------------------------------------------------------------------------------ */

/* Rows that are hit hundreds of times, norms of more columns than are held, column sums of thousands of rows. */
static void test_long(void **state) {
    (void)state;
    static const OpCase list[] = {
        {.op = OP_embed_bwd, .n = 1500, .m = 260, .k = 4},
        {.op = OP_scatter_add_rows, .n = 1500, .m = 7, .k = 3000, .pad = 1},
        {.op = OP_scatter_add_rows, .n = 700, .m = 24, .k = 1},
        {.op = OP_rmsnorm_fwd, .n = 2, .m = 8200},
        {.op = OP_layernorm_fwd, .n = 2, .m = 8201},
        {.op = OP_rmsnorm_bwd, .n = 3, .m = 8200, .add = true},
        {.op = OP_layernorm_bwd, .n = 3, .m = 8201},
        {.op = OP_layernorm_bwd, .n = 900, .m = 96, .add = true},
        {.op = OP_rmsnorm_bwd, .n = 600, .m = 516},
        {.op = OP_rmsnorm_fwd, .n = 5, .m = 4096},
        {.op = OP_layernorm_bwd, .n = 5, .m = 3072},
        {.op = OP_linear_bwd, .n = 5000, .m = 68, .k = 8, .without = 3},
        {.op = OP_sumsq, .n = 1, .m = 5000000},
        {.op = OP_logprob_fwd, .n = 3, .m = 70001},
        {.op = OP_logprob_bwd, .n = 3, .m = 70000},
        {.op = OP_logprob_bwd, .n = 3, .m = 32003},
    };
    for (int i = 0; i < COUNT_OF(list); i++) {
        OpCase c = list[i];
        c.seed = 11, c.f32 = true, c.eps = 1e-5f, c.temp = c.spread = 1;
        OpData d;
        op_build(&d, &c, ref);
        OpOut want = op_run(ref, &d), got = op_run(be, &d);
        const char *which;
        double e = op_compare(&d, &got, &want, &which);
        if (!(e < 1e-5) || got.touched) fail_msg("%s n=%d m=%d: %s is off by %.3g", op_name(c.op), c.n, c.m, which, e);
        op_out_free(&want);
        op_out_free(&got);
        op_free(&d);
    }
}

/* -- edge values
 * ----------------------------------------------------------------------------------------------------------- */

/* Angles of positions near and far, negative too, against those of a double. */
static void test_rope_far(void **state) {
    (void)state;
    enum { N = 9, HALF = 8 };
    static const int32_t pos[N] = {0, 1, -1, 5, 4096, 131071, 1 << 24, INT32_MAX, INT32_MIN};
    double freq[HALF], x[N * 2 * HALF], y[N * 2 * HALF];
    for (int j = 0; j < HALF; j++) freq[j] = pow(10000, -j / 8.0);
    for (int i = 0; i < N * 2 * HALF; i++) x[i] = i / HALF % 2 ? 0.5 : 1;
    Place a = place(DTYPE_F32, N, 2 * HALF, 0, 0);
    tensor_set(be, a.t, x);
    be->op->rope(be, a.t, pos, freq, 2 * HALF, false);
    tensor_get(be, y, a.t);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < HALF; j++) {
            double angle = pos[i] * freq[j], s = sin(angle), c = cos(angle);
            assert_true(fabs(y[i * 2 * HALF + j] - (c - 0.5 * s)) < 2.5e-7);
            assert_true(fabs(y[i * 2 * HALF + HALF + j] - (0.5 * c + s)) < 2.5e-7);
        }
    put(&a);
}

/* A row without weight is exact 0 whatever it held; elsewhere a NaN shows; a logit of -inf has probability 0; where one
 * word is all but certain, the gradient keeps its digits. */
static void test_logprob_edges(void **state) {
    (void)state;
    enum { N = 5, COLS = 2052 };
    for (int gap = 0; gap < 2; gap++) {
        Place a = place(DTYPE_F32, N, COLS, gap, 0), d = place(DTYPE_F32, N, 1, 0, 0),
              lp = place(DTYPE_F32, N, 1, 0, 0), en = place(DTYPE_F32, N, 1, 0, 0);
        double *x = normal(N * COLS, 1, 1), dlogp[N] = {0, 1, 1, 1, 2}, logp[N], entropy[N];
        static const int32_t target[N] = {1, 1, 1, 7, 2051};
        for (int j = 0; j < COLS; j++) x[j] = NAN;
        x[COLS + 77] = NAN;
        for (int j = 0; j < COLS; j++)
            if (j % 3) x[2 * COLS + j] = -INFINITY;
        x[2 * COLS + 1] = 0.25;
        x[3 * COLS + 7] = 25;
        tensor_set(be, a.t, x);
        tensor_set(be, d.t, dlogp);
        be->op->logprob_fwd(be, lp.t, en.t, a.t, target, 1);
        tensor_get(be, logp, lp.t);
        tensor_get(be, entropy, en.t);
        be->op->logprob_bwd(be, a.t, target, d.t, 1);
        double *y = mem_alloc(N * COLS * sizeof *y);
        tensor_get(be, y, a.t);
        for (int j = 0; j < COLS; j++) assert_true(y[j] == 0 && isnan(y[COLS + j]));
        assert_true(isnan(logp[0]) && isnan(logp[1]) && isnan(entropy[1]));
        for (int i = 2; i < N; i++) {
            double sum = 0, others = 0, mean = 0, p_t;
            for (int j = 0; j < COLS; j++) {
                sum += exp(x[i * COLS + j]);
                if (j != target[i]) others += exp(x[i * COLS + j]);
                if (x[i * COLS + j] > -INFINITY) mean += exp(x[i * COLS + j]) * x[i * COLS + j];
            }
            p_t = exp(x[i * COLS + target[i]]) / sum;
            assert_true(fabs(logp[i] - log(p_t)) < 4e-6 && logp[i] <= 0);
            assert_true(fabs(entropy[i] - (log(sum) - mean / sum)) < 4e-6);
            for (int j = 0; j < COLS; j++) {
                double want = dlogp[i] * (j == target[i] ? others / sum : -exp(x[i * COLS + j]) / sum);
                assert_true(fabs(y[i * COLS + j] - want) <= 5e-6 * fabs(want));
            }
        }
        put(&a), put(&d), put(&lp), put(&en);
        free(x), free(y);
    }
}

static void test_all_finite(void **state) {
    (void)state;
    enum { ROWS = 7, COLS = 3001 };
    static const double odd[] = {NAN, INFINITY, -INFINITY};
    for (int gap = 0; gap < 3; gap++) {
        Place a = place(DTYPE_F32, ROWS, COLS, gap, 0);
        double *x = normal(ROWS * COLS, 1, 1e30);
        tensor_set(be, a.t, x);
        assert_true(be->op->all_finite(be, a.t));
        for (int k = 0; k < 3; k++) {
            int at = k == 0 ? 0 : k == 1 ? ROWS * COLS - 1 : 4097;
            double was = x[at];
            x[at] = odd[k];
            tensor_set(be, a.t, x);
            assert_false(be->op->all_finite(be, a.t));
            x[at] = was;
        }
        put(&a);
        free(x);
    }
}

static void test_zero_and_copy_any(void **state) {
    (void)state;
    static const DType dtype[] = {DTYPE_I32, DTYPE_I8, DTYPE_BF16, DTYPE_F32};
    for (int k = 0; k < COUNT_OF(dtype); k++)
        for (int skip = 0; skip < 3; skip++) {
            enum { ROWS = 5, COLS = 333 };
            Place a = place(dtype[k], ROWS, COLS, skip, skip), b = place(dtype[k], ROWS, COLS, 0, 1);
            double x[ROWS * COLS], y[ROWS * COLS];
            for (int i = 0; i < ROWS * COLS; i++) x[i] = i % 251 - 125;
            tensor_set(be, a.t, x);
            be->op->copy(be, b.t, a.t);
            tensor_get(be, y, b.t);
            assert_memory_equal(x, y, sizeof x);
            be->op->zero(be, tensor_cols(a.t, 1, COLS - 1));
            tensor_get(be, y, a.t);
            for (int i = 0; i < ROWS * COLS; i++) assert_true(y[i] == (i % COLS ? 0 : x[i]));
            put(&a), put(&b);
        }
}

int main(void) {
    Error err = {0};
    if (!backend_open(&be, "cuda", NULL, NULL, &err)) {
        printf("skipped: %s\n", err.msg);
        return 77;
    }
    if (!backend_open(&ref, "ref", NULL, NULL, &err)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_rows),      cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_cast_in_place), cmocka_unit_test(test_long),
        cmocka_unit_test(test_rope_far),      cmocka_unit_test(test_logprob_edges),
        cmocka_unit_test(test_all_finite),    cmocka_unit_test(test_zero_and_copy_any),
    };
    int bad = cmocka_run_group_tests(tests, NULL, NULL);
    backend_close(be);
    backend_close(ref);
    return bad;
}
