// layer: tensor
// gpu: yes
/* Distributions of which each part of the columns is elsewhere: what the parts say, put together, is what ref says of
 * the whole. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tensor/backend.h"

enum { ROWS = 37, COLS = 404, SEED = 11 };

typedef struct {
    Backend *be;
    Pool *pool;
    DType real;
    Arena mem;
} Opened;

static bool opened(Opened *o, const char *backend, const char *isa, int threads) {
    Error err = {0};
    *o = (Opened){.be = NULL};
    if (!pool_open(&o->pool, threads, &err)) fail_msg("%s", err.msg);
    if (backend_open(&o->be, backend, o->pool, isa, &err)) {
        o->real = o->be->real;
        if (!arena_init(&o->mem, "matrices", o->be->mem, (size_t)4 << 20, &err)) fail_msg("%s", err.msg);
        return true;
    }
    pool_close(o->pool);
    return false;
}

static void closed(Opened *o) {
    arena_release(&o->mem);
    backend_close(o->be);
    pool_close(o->pool);
}

typedef struct {
    double logits[ROWS * COLS], lp[ROWS], ent[ROWS], dlp[ROWS];
    int32_t target[ROWS];
} Values;

static Tensor matrix(Opened *o, int64_t rows, int64_t cols) { return tensor_place(&o->mem, o->real, rows, cols); }

static void draw(Values *v, double spread) {
    for (int i = 0; i < ROWS * COLS; i++)
        v->logits[i] = (float)(spread * rng_normal((Rng){SEED, RNG_TEST}, (uint64_t)i, 0));
    for (int i = 0; i < ROWS; i++) {
        v->target[i] = (int32_t)rng_below((Rng){SEED, RNG_TEST}, (uint64_t)i, 1, COLS);
        v->dlp[i] = i % 5 == 4 ? 0 : (float)rng_normal((Rng){SEED, RNG_TEST}, (uint64_t)i, 2);
    }
    for (int j = 0; j < COLS; j++) v->logits[4 * COLS + j] = NAN; /* a row without weight */
    for (int j = 0; j < 3; j++) v->logits[j] = j == 1 ? 80 : -80; /* one word is certain: */
    v->target[0] = 1;
}

static void whole(Values *v, Opened *o, float temp) {
    Tensor x = matrix(o, ROWS, COLS), lp = matrix(o, ROWS, 1), ent = matrix(o, ROWS, 1), d = matrix(o, ROWS, 1);
    tensor_set(o->be, x, v->logits);
    tensor_set(o->be, d, v->dlp);
    o->be->op->logprob_fwd(o->be, lp, ent, x, v->target, temp);
    tensor_get(o->be, v->lp, lp);
    tensor_get(o->be, v->ent, ent);
    o->be->op->logprob_bwd(o->be, x, v->target, d, temp);
    tensor_get(o->be, v->logits, x);
}

/* The same by n parts, each over its own columns. */
static void parts(Values *v, Opened *o, int n, float temp) {
    Tensor x = matrix(o, ROWS, COLS), d = matrix(o, ROWS, 1), stat = matrix(o, ROWS, 4), w = matrix(o, ROWS, 3);
    double *said = mem_alloc((size_t)n * ROWS * 4 * sizeof *said), all[ROWS * 3];
    int32_t *own = mem_alloc((size_t)n * ROWS * sizeof *own);
    tensor_set(o->be, x, v->logits);
    tensor_set(o->be, d, v->dlp);
    for (int q = 0; q < n; q++) {
        int from = COLS * q / n, to = COLS * (q + 1) / n;
        for (int i = 0; i < ROWS; i++)
            own[q * ROWS + i] = v->target[i] >= from && v->target[i] < to ? v->target[i] - from : -1;
        o->be->op->logprob_part_fwd(o->be, stat, tensor_cols(x, from, to - from), own + q * ROWS, temp);
        tensor_get(o->be, said + q * ROWS * 4, stat);
    }
    double elsewhere[ROWS];
    for (int q = 0; q < n; q++) {
        for (int i = 0; i < ROWS; i++) {
            double top = -INFINITY, sum = 0, moment = 0, z = 0;
            elsewhere[i] = 0;
            for (int p = 0; p < n; p++) top = fmax(top, said[(p * ROWS + i) * 4]);
            for (int p = 0; p < n; p++) {
                const double *s = said + (p * ROWS + i) * 4;
                double by = exp(s[0] - top);
                sum += by * s[1], z += s[3], moment += by * (s[2] + (s[0] - top) * s[1]);
                if (p != q) elsewhere[i] += by * s[1];
            }
            v->lp[i] = z - top - log(sum), v->ent[i] = log(sum) - moment / sum;
            all[i * 3] = top, all[i * 3 + 1] = sum, all[i * 3 + 2] = elsewhere[i];
        }
        int from = COLS * q / n, to = COLS * (q + 1) / n;
        tensor_set(o->be, w, all);
        o->be->op->logprob_part_bwd(o->be, tensor_cols(x, from, to - from), own + q * ROWS, w, d, temp);
    }
    tensor_get(o->be, v->logits, x);
    free(said), free(own);
}

static double apart(const double *a, const double *b, int n, double floor) {
    double most = 0;
    for (int i = 0; i < n; i++) {
        if (isnan(a[i]) && isnan(b[i])) continue;
        double far = fabs(a[i] - b[i]) / fmax(floor, fabs(b[i]));
        if (!(far <= most)) most = isnan(far) ? INFINITY : far;
    }
    return most;
}

static void test_parts(void **state) {
    (void)state;
    static const char *const way[][2] = {{"ref", NULL},     {"cpu", "scalar"}, {"cpu", "avx2"},
                                         {"cpu", "avx512"}, {"cuda", NULL},    {"cuda", "exact"}};
    Values *want = mem_alloc(sizeof *want), *got = mem_alloc(sizeof *got);
    int n_opened = 0;
    for (int k = 0; k < COUNT_OF(way); k++)
        for (int t = 0; t < 2; t++)
            for (int n = 1; n <= 5; n++) {
                Opened ref, be;
                float temp = t ? 0.7f : 1;
                assert_true(opened(&ref, "ref", NULL, 1));
                if (!opened(&be, way[k][0], way[k][1], 1 + n % 2)) {
                    closed(&ref);
                    continue;
                }
                n_opened++;
                draw(want, 3), draw(got, 3);
                whole(want, &ref, temp), parts(got, &be, n, temp);
                bool exact = k == 0, gpu = !strcmp(way[k][0], "cuda");
                assert_true(apart(got->lp, want->lp, ROWS, 1) < (exact ? 1e-14 : gpu ? 2e-6 : 1e-6));
                assert_true(apart(got->ent, want->ent, ROWS, 1) < (exact ? 1e-13 : gpu ? 1e-5 : 3e-6));
                assert_true(apart(got->logits, want->logits, ROWS * COLS, 1e-6) < (exact ? 1e-9 : 2e-5));
                for (int j = 0; j < COLS; j++) assert_true(got->logits[4 * COLS + j] == 0);
                closed(&ref), closed(&be);
            }
    assert_true(n_opened >= 20); /* ref and scalar are everywhere */
    free(want), free(got);
}

/* Bits do not depend on threads; the gradient of a word that is all but certain keeps its digits. */
static void test_bits(void **state) {
    (void)state;
    Opened a, b;
    Values *x = mem_alloc(sizeof *x), *y = mem_alloc(sizeof *y);
    assert_true(opened(&a, "cpu", NULL, 1) && opened(&b, "cpu", NULL, 3));
    draw(x, 2), draw(y, 2);
    x->logits[1] = y->logits[1] = 40;
    parts(x, &a, 3, 1), parts(y, &b, 3, 1);
    assert_memory_equal(x->lp, y->lp, sizeof x->lp);
    assert_memory_equal(x->logits, y->logits, sizeof x->logits);
    double others = 0;
    for (int j = 0; j < COLS; j++) others += j == 1 ? 0 : x->logits[j];
    assert_true(x->logits[1] != 0 && fabs(x->logits[1] / -others - 1) < 1e-5);
    closed(&a), closed(&b);
    free(x), free(y);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
