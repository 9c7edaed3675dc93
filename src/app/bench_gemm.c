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

static Tensor filled(Backend *be, Tensor t) {
    bench_fill(be, t);
    return t;
}

enum { COLD_WEIGHTS = 64 << 20 }; /* walked through, as decoding does: 256 MB */

typedef struct {
    Tensor x, y, dw, *w; /* (n_copy) */
    int n_copy;
} Operands;

static void place(Operands *t, Arena *a, Bench *b, int m, const Op *op) {
    Backend *be = b->machine.be;
    t->x = filled(be, tensor_place(a, b->dtype, m, op->k));
    t->y = filled(be, tensor_place(a, b->dtype, m, op->n));
    t->dw = filled(be, tensor_place_weight(a, DTYPE_F32, op->n, op->k, be->panels));
    for (int i = 0; i < t->n_copy; i++)
        t->w[i] = filled(be, tensor_place_weight(a, b->dtype, op->n, op->k, be->panels));
}

typedef struct {
    Backend *be;
    const Operands *t;
    Form form;
} Product;

static void once(void *ud, int turn) {
    const Product *p = ud;
    const Operands *t = p->t;
    Backend *be = p->be;
    Form form = p->form;
    Tensor none = {0}, w = t->w[turn % t->n_copy];
    if (form == FWD)
        be->op->linear_fwd(be, &(LinearOut){.y = t->y, .w = w}, 1, t->x, false);
    else if (form == DX)
        be->op->linear_bwd(be, t->x, &(LinearGrad){t->y, w, none, none}, 1, none, false);
    else
        be->op->linear_bwd(be, none, &(LinearGrad){t->y, none, t->dw, none}, 1, t->x, false);
}

static void one_case(Bench *b, const Op *op, int m, Form form, const Operands *t) {
    static const char *const word[] = {"fwd", "dx", "dw"};
    Product p = {b->machine.be, t, form};
    Meter meter = meter_start();
    Timing took = bench_time(p.be, once, &p, 1e-3 * b->ms);
    double flops = 2.0 * m * op->n * op->k / 1e9;
    char name[64];
    snprintf(name, sizeof name, "gemm/%s/%s/%s/M%d/%s", b->size->name, op->name, word[form], m,
             b->cold ? "cold" : "hot");
    Case c;
    case_begin(&c, b, "gemm", name, pool_threads(b->machine.pool));
    json_out_str(&c.j, "dtype", b->dtype_name);
    json_out_int(&c.j, "M", m);
    json_out_int(&c.j, "N", op->n);
    json_out_int(&c.j, "K", op->k);
    json_out_num(&c.j, "us", rounded(took.mean * 1e6, 2));
    json_out_num(&c.j, "us_best", rounded(took.best * 1e6, 2));
    json_out_num(&c.j, "gflops", rounded(flops / took.mean, 2));
    json_out_num(&c.j, "gflops_best", rounded(flops / took.best, 2));
    json_out_int(&c.j, "reps", took.n);
    case_end(&c, meter, "%8.1f GFLOP/s  %10.1f us", flops / took.mean, took.mean * 1e6);
}

static bool one_shape(Bench *b, const Op *op, int m, Error *err) {
    Backend *be = b->machine.be;
    int64_t copies = b->cold ? COLD_WEIGHTS / ((int64_t)op->n * op->k) : 1;
    Operands t = {.n_copy = copies > 1 ? (int)copies : 1};
    Arena measure, mem;
    t.w = mem_alloc((size_t)t.n_copy * sizeof *t.w);
    arena_init_measure(&measure, "products");
    place(&t, &measure, b, m, op);
    bool ok = arena_init(&mem, "products", be->mem, measure.used, err);
    if (ok) {
        place(&t, &mem, b, m, op);
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
