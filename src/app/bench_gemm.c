/* The three forms of a matrix product at the shapes of a model size: y = x w^T, dx = dy w, dw += dy^T x. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/bench.h"

typedef enum { FWD, DX, DW, FORM_COUNT } Form;

typedef struct {
    const char *name;
    int n, k;
} Op; /* w (n, k) */

static Tensor filled(Arena *a, Backend *be, int64_t rows, int64_t cols, int mod) {
    Tensor t = tensor_place(a, be->real, rows, cols);
    if (a->measuring) return t;
    float *p = t.data;
    for (int64_t i = 0; i < rows * cols; i++) p[i] = (float)(i * 7 % mod) * 0.01f;
    return t;
}

static void place(Arena *a, Backend *be, Tensor t[3], int m, const Op *op) {
    t[0] = filled(a, be, m, op->k, 13);
    t[1] = filled(a, be, op->n, op->k, 11);
    t[2] = filled(a, be, m, op->n, 17);
}

static void once(Backend *be, Form form, const Tensor t[3]) {
    Tensor none = {0}, x = t[0], w = t[1], y = t[2];
    if (form == FWD)
        be->op->linear_fwd(be, y, x, w, none, false);
    else if (form == DX)
        be->op->linear_bwd(be, x, none, none, y, x, w, false);
    else
        be->op->linear_bwd(be, none, w, none, y, x, w, false);
}

static void one_case(Bench *b, const Op *op, int m, Form form, const Tensor t[3]) {
    static const char *const word[] = {"fwd", "dx", "dw"};
    Backend *be = b->machine.be;
    double best = 1e9, sum = 0;
    int n = 0;
    once(be, form, t);
    Meter meter = meter_start();
    for (double begun = now_s(); n < 3 || now_s() - begun < 0.03; n++) {
        double start = now_s();
        once(be, form, t);
        double took = now_s() - start;
        sum += took;
        if (took < best) best = took;
    }
    double flops = 2.0 * m * op->n * op->k / 1e9;
    char name[64];
    snprintf(name, sizeof name, "gemm/%s/%s/%s/M%d/hot", b->size->name, op->name, word[form], m);
    Case c;
    case_begin(&c, b, "gemm", name, pool_threads(b->machine.pool));
    json_out_str(&c.j, "dtype", "fp32");
    json_out_int(&c.j, "M", m);
    json_out_int(&c.j, "N", op->n);
    json_out_int(&c.j, "K", op->k);
    json_out_num(&c.j, "us", rounded(sum / n * 1e6, 2));
    json_out_num(&c.j, "us_best", rounded(best * 1e6, 2));
    json_out_num(&c.j, "gflops", rounded(flops * n / sum, 2));
    json_out_num(&c.j, "gflops_best", rounded(flops / best, 2));
    json_out_int(&c.j, "reps", n);
    case_end(&c, meter, "%8.1f GFLOP/s  %10.1f us", flops * n / sum, sum / n * 1e6);
}

bool bench_gemm(Bench *b, Error *err) {
    static const int rows[] = {1, 8, 32, 64, 512};
    Backend *be = b->machine.be;
    int d = b->size->cfg.d_model;
    const Op op[] = {
        {"qkv", 3 * d, d}, {"proj", d, d}, {"ff1", 4 * d, d}, {"ff2", d, 4 * d}, {"head", b->size->cfg.n_vocab, d}};
    for (int i = 0; i < COUNT_OF(op); i++)
        for (int r = 0; r < COUNT_OF(rows); r++) {
            Arena measure, mem;
            Tensor t[3];
            arena_init_measure(&measure, "products");
            place(&measure, be, t, rows[r], &op[i]);
            if (!arena_init(&mem, "products", be->mem, measure.used, err)) return false;
            place(&mem, be, t, rows[r], &op[i]);
            for (int f = 0; f < (rows[r] < 64 ? 1 : FORM_COUNT); f++) one_case(b, &op[i], rows[r], (Form)f, t);
            arena_release(&mem);
        }
    return true;
}
