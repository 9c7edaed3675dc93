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

static Tensor filled(Tensor t, int mod) {
    float *p = t.data;
    Tensor s = tensor_storage(t);
    for (int64_t i = 0; p && i < s.rows * s.cols; i++) p[i] = (float)(i * 7 % mod) * 0.01f;
    return t;
}

enum { COLD_WEIGHTS = 64 << 20 }; /* walked through, as decoding does: 256 MB */

typedef struct {
    Tensor x, y, *w; /* (n_copy) */
    int n_copy;
} Operands;

static void place(Operands *t, Arena *a, Backend *be, int m, const Op *op) {
    t->x = filled(tensor_place(a, be->real, m, op->k), 13);
    t->y = filled(tensor_place(a, be->real, m, op->n), 17);
    for (int i = 0; i < t->n_copy; i++)
        t->w[i] = filled(tensor_place_weight(a, be->real, op->n, op->k, be->panels), 11);
}

static void once(Backend *be, Form form, const Operands *t, int turn) {
    Tensor none = {0}, w = t->w[turn % t->n_copy];
    if (form == FWD)
        be->op->linear_fwd(be, &(LinearOut){t->y, w, none}, 1, t->x, false);
    else if (form == DX)
        be->op->linear_bwd(be, t->x, &(LinearGrad){t->y, w, none, none}, 1, none, false);
    else
        be->op->linear_bwd(be, none, &(LinearGrad){t->y, none, w, none}, 1, t->x, false);
}

static void one_case(Bench *b, const Op *op, int m, Form form, const Operands *t) {
    static const char *const word[] = {"fwd", "dx", "dw"};
    Backend *be = b->machine.be;
    double best = 1e9, sum = 0;
    int n = 0;
    once(be, form, t, 0);
    Meter meter = meter_start();
    for (double begun = now_s(); n < 3 || now_s() - begun < 1e-3 * b->ms; n++) {
        double start = now_s();
        once(be, form, t, n + 1);
        double took = now_s() - start;
        sum += took;
        if (took < best) best = took;
    }
    double flops = 2.0 * m * op->n * op->k / 1e9;
    char name[64];
    snprintf(name, sizeof name, "gemm/%s/%s/%s/M%d/%s", b->size->name, op->name, word[form], m,
             b->cold ? "cold" : "hot");
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

static bool one_shape(Bench *b, const Op *op, int m, Error *err) {
    Backend *be = b->machine.be;
    int64_t copies = b->cold ? COLD_WEIGHTS / ((int64_t)op->n * op->k) : 1;
    Operands t = {.n_copy = copies > 1 ? (int)copies : 1};
    Arena measure, mem;
    t.w = mem_alloc((size_t)t.n_copy * sizeof *t.w);
    arena_init_measure(&measure, "products");
    place(&t, &measure, be, m, op);
    bool ok = arena_init(&mem, "products", be->mem, measure.used, err);
    if (ok) {
        place(&t, &mem, be, m, op);
        for (int f = 0; f < (m < 64 ? 1 : FORM_COUNT); f++) one_case(b, op, m, (Form)f, &t);
        arena_release(&mem);
    }
    free(t.w);
    return ok;
}

static bool listed(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *p = list; p; p = strchr(p, ','), p = p ? p + 1 : NULL)
        if (!strncmp(p, word, n) && (p[n] == ',' || !p[n])) return true;
    return false;
}

bool bench_gemm(Bench *b, Error *err) {
    int d = b->size->cfg.d_model;
    const Op op[] = {
        {"qkv", 3 * d, d}, {"proj", d, d}, {"ff1", 4 * d, d}, {"ff2", d, 4 * d}, {"head", b->size->cfg.n_vocab, d}};
    for (int i = 0; i < COUNT_OF(op); i++) {
        if (b->ops && !listed(b->ops, op[i].name)) continue;
        char *end;
        for (const char *p = b->rows; *p; p = *end ? end + 1 : end) {
            long m = strtol(p, &end, 10);
            if (end == p || (*end && *end != ',') || m < 1 || m > 1 << 20)
                return error_set(err, ERR_CONFIG, "--m must be a list of row counts like 1,8,512, found '%s'", b->rows);
            if (!one_shape(b, &op[i], (int)m, err)) return false;
        }
    }
    return true;
}
