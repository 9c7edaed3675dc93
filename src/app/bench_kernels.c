/* Every kernel beside the machine's roof: its operations, the bytes it has to move, the time of a call, and what share
 * of the roof min(peak, bytes/operation x stream) that is. Peak (multiply-adds in registers) and stream (copying 256
 * MB) are measured first, with the same threads. Shapes are those of one training pass of the size; operations of
 * transcendental functions count as one each, so elementwise kernels are judged by bytes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/bench.h"

typedef struct {
    Backend *be;
    int64_t n, c, f, v, hd, kd; /* tokens; widths: model, MLP, vocabulary, query and key heads */
    int n_head, d_head, n_seq, len;
    DType dtype, attn;     /* of what products read; of attention */
    Tensor x, h, y, vec;   /* (N, C) as the residual stream has them; (1, C) */
    Tensor x_in, y_in;     /* (N, C) as products read them */
    Tensor w, p, dw, m, s; /* (F, C): a weight; its master, gradient and moments */
    Tensor gate, up, act;
    Tensor q, k, val, o, d_o, dq, dk, dv, lse, rstd, logits, logp;
    int32_t *idx, *pos, *q_off, *kv_len, *page;
    double *freq;
    AttnSeqs seqs;
} Kit;

static void place(Kit *k, Arena *a) {
    Backend *be = k->be;
    DType real = be->real, in = k->dtype, attn = k->attn;
    struct {
        Tensor *t;
        DType dtype;
        int64_t rows, cols;
        bool weight;
    } all[] = {{&k->x, real, k->n, k->c, false},        {&k->h, real, k->n, k->c, false},
               {&k->y, real, k->n, k->c, false},        {&k->vec, real, 1, k->c, false},
               {&k->x_in, in, k->n, k->c, false},       {&k->y_in, in, k->n, k->c, false},
               {&k->w, in, k->f, k->c, true},           {&k->p, real, k->f, k->c, true},
               {&k->dw, real, k->f, k->c, true},        {&k->m, real, k->f, k->c, true},
               {&k->s, real, k->f, k->c, true},         {&k->gate, in, k->n, k->f, false},
               {&k->up, in, k->n, k->f, false},         {&k->act, in, k->n, k->f, false},
               {&k->q, attn, k->n, k->hd, false},       {&k->k, attn, k->n, k->kd, false},
               {&k->val, attn, k->n, k->kd, false},     {&k->o, attn, k->n, k->hd, false},
               {&k->d_o, attn, k->n, k->hd, false},     {&k->dq, attn, k->n, k->hd, false},
               {&k->dk, attn, k->n, k->kd, false},      {&k->dv, attn, k->n, k->kd, false},
               {&k->lse, real, k->n, k->n_head, false}, {&k->rstd, real, k->n, 1, false},
               {&k->logits, real, 256, k->v, false},    {&k->logp, real, 256, 1, false}};
    for (int i = 0; i < COUNT_OF(all); i++) {
        *all[i].t = all[i].weight ? tensor_place_weight(a, all[i].dtype, all[i].rows, all[i].cols, be->panels)
                                  : tensor_place(a, all[i].dtype, all[i].rows, all[i].cols);
        bench_fill(be, *all[i].t);
    }
}

static void kit_indices(Kit *k, const ModelConfig *c) {
    int pages = (k->len + KV_PAGE - 1) / KV_PAGE;
    k->idx = mem_alloc((size_t)k->n * sizeof *k->idx);
    k->pos = mem_alloc((size_t)k->n * sizeof *k->pos);
    k->q_off = mem_alloc((size_t)(k->n_seq + 1) * sizeof *k->q_off);
    k->kv_len = mem_alloc((size_t)k->n_seq * sizeof *k->kv_len);
    k->page = mem_alloc((size_t)(k->n_seq * pages) * sizeof *k->page);
    k->freq = mem_alloc((size_t)k->d_head * sizeof *k->freq);
    for (int64_t i = 0; i < k->n; i++) {
        k->idx[i] = (int32_t)(i * 7919 % (k->v < k->f ? k->v : k->f));
        k->pos[i] = (int32_t)(i % k->len);
    }
    for (int s = 0; s < k->n_seq; s++) {
        k->q_off[s + 1] = k->q_off[s] + k->len;
        k->kv_len[s] = k->len;
        for (int p = 0; p < pages; p++) k->page[s * pages + p] = k->q_off[s] + p * KV_PAGE;
    }
    for (int j = 0; j < k->d_head / 2; j++) k->freq[j] = pow(10000, -2.0 * j / c->d_head);
    k->seqs = (AttnSeqs){k->n_seq, pages, k->q_off, k->kv_len, k->page, true, 0};
}

static void kit_free(Kit *k) {
    free(k->idx);
    free(k->pos);
    free(k->q_off);
    free(k->kv_len);
    free(k->page);
    free(k->freq);
}

// clang-format off
static void k_linear(Kit *k) { k->be->op->linear_fwd(k->be, &(LinearOut){.y = k->up, .w = k->w}, 1, k->x_in, false); }
static void k_dx(Kit *k) { k->be->op->linear_bwd(k->be, k->h, &(LinearGrad){.dy = k->up, .w = k->w}, 1, (Tensor){0}, false); }
static void k_dw(Kit *k) { k->be->op->linear_bwd(k->be, (Tensor){0}, &(LinearGrad){.dy = k->up, .dw_acc = k->dw}, 1, k->x_in, false); }
static void k_attn(Kit *k) { k->be->op->attn_fwd(k->be, k->o, k->lse, k->q, k->k, k->val, k->seqs, k->d_head); }
static void k_attn_bwd(Kit *k) { k->be->op->attn_bwd(k->be, k->dq, k->dk, k->dv, k->d_o, k->o, k->lse, k->q, k->k, k->val, k->seqs, k->d_head); }
static void k_norm(Kit *k) { k->be->op->rmsnorm_fwd(k->be, k->y_in, k->rstd, k->x, k->vec, 1e-5f); }
static void k_norm_bwd(Kit *k) { k->be->op->rmsnorm_bwd(k->be, k->y, (Tensor){0}, k->h, k->x, k->vec, k->rstd, true); }
static void k_rope(Kit *k) { k->be->op->rope(k->be, k->q, k->pos, k->freq, k->d_head, false); }
static void k_swiglu(Kit *k) { k->be->op->swiglu_fwd(k->be, k->act, k->gate, k->up); }
static void k_swiglu_bwd(Kit *k) { k->be->op->swiglu_bwd(k->be, k->gate, k->act, k->act, k->gate, k->up); }
static void k_gelu(Kit *k) { k->be->op->gelu_fwd(k->be, k->act, k->up, GELU_TANH); }
static void k_logprob(Kit *k) { k->be->op->logprob_fwd(k->be, k->logp, (Tensor){0}, k->logits, k->idx, 1); }
static void k_copy(Kit *k) { k->be->op->copy(k->be, k->y, k->x); }
static void k_embed(Kit *k) { k->be->op->embed_fwd(k->be, k->y, k->w, k->idx, false); }
static void k_embed_bwd(Kit *k) { k->be->op->embed_bwd(k->be, k->dw, k->y, k->idx); }
static void k_sumsq(Kit *k) { k->be->op->sumsq(k->be, k->dw); }
static void k_sumsq_all(Kit *k) { /* one wait, as for a gradient's norm */
    const Tensor all[] = {k->dw, k->p, k->m, k->s};
    for (int i = 0; i < COUNT_OF(all) && !k->be->op->sumsq_all; i++) k->be->op->sumsq(k->be, all[i]);
    if (k->be->op->sumsq_all) k->be->op->sumsq_all(k->be, all, COUNT_OF(all));
}
static void k_adamw(Kit *k) {
    k->be->op->adamw(k->be, k->p, k->m, k->s, k->dw, (AdamwParams){1e-9, 0.9, 0.95, 1e-8, 0, 1, 1});
}
// clang-format on

typedef struct {
    const char *name;
    void (*run)(Kit *k);
    double flops, bytes; /* of a call */
} Kernel;

typedef struct {
    Kit *k;
    void (*run)(Kit *k);
} Call;

static void run_kernel(void *ud, int turn) {
    (void)turn;
    const Call *c = ud;
    c->run(c->k);
}

/* From registers where a backend can; else what a large product reaches. */
static bool measure_peak(double *rate, Backend *be, DType dtype, Error *err) {
    enum { SIDE = 8192, TRIES = 8 };
    *rate = 0;
    Arena measure, mem = {0};
    Tensor t[3] = {0};
    bool product = backend_queues(be);
    arena_init_measure(&measure, "peak");
    for (int i = 0; i < COUNT_OF(t) && product; i++) tensor_place(&measure, dtype, SIDE, SIDE);
    if (!arena_init(&mem, "peak", be->mem, measure.used, err)) return false;
    for (int i = 0; i < COUNT_OF(t) && product; i++) bench_fill(be, t[i] = tensor_place(&mem, dtype, SIDE, SIDE));
    for (int i = 0; i < TRIES; i++) {
        double start = now_s(), flops = product ? 2.0 * SIDE * SIDE * SIDE : backend_spin(be);
        if (product) be->op->linear_fwd(be, &(LinearOut){.y = t[0], .w = t[1]}, 1, t[2], false);
        backend_wait(be);
        double r = flops / (now_s() - start);
        if (i > 0 && r > *rate) *rate = r;
    }
    arena_release(&mem);
    return true;
}

/* Bytes a second of copying what no cache holds; in a CPU a store reads its line first. */
static bool measure_stream(double *rate, Backend *be, Error *err) {
    enum { ROWS = 8192, COLS = 4096 };
    Arena measure, mem;
    arena_init_measure(&measure, "stream");
    for (int i = 0; i < 2; i++) tensor_place(&measure, be->real, ROWS, COLS);
    if (!arena_init(&mem, "stream", be->mem, measure.used, err)) return false;
    Tensor a = tensor_place(&mem, be->real, ROWS, COLS), b = tensor_place(&mem, be->real, ROWS, COLS);
    be->op->zero(be, a);
    be->op->zero(be, b);
    backend_wait(be);
    *rate = 0;
    for (int i = 0; i < 5; i++) {
        double start = now_s();
        be->op->copy(be, b, a);
        backend_wait(be);
        double r = (backend_queues(be) ? 2.0 : 3.0) * ROWS * COLS * 4 / (now_s() - start);
        if (r > *rate) *rate = r;
    }
    arena_release(&mem);
    return true;
}

static void report(Bench *b, Kit *k, const Kernel *e, double peak, double stream) {
    Call call = {k, e->run};
    Meter meter = meter_start();
    Timing took = bench_time(k->be, run_kernel, &call, 1e-3 * b->ms);
    double s = took.best, roof = fmax(peak > 0 ? e->flops / peak : 0, e->bytes / stream);
    char name[64];
    Case c;
    snprintf(name, sizeof name, "kernel/%s/%s", b->size->name, e->name);
    case_begin(&c, b, "kernels", name, pool_threads(b->machine.pool));
    json_out_str(&c.j, "dtype", b->dtype_name);
    json_out_num(&c.j, "us_best", rounded(s * 1e6, 2));
    json_out_num(&c.j, "mflop", rounded(e->flops / 1e6, 2));
    json_out_num(&c.j, "mbyte", rounded(e->bytes / 1e6, 2));
    json_out_num(&c.j, "gflops_best", rounded(e->flops / s / 1e9, 2));
    json_out_num(&c.j, "gb_s_best", rounded(e->bytes / s / 1e9, 2));
    json_out_num(&c.j, "peak_gflops", rounded(peak / 1e9, 1));
    json_out_num(&c.j, "stream_gb_s", rounded(stream / 1e9, 1));
    json_out_num(&c.j, "roof", rounded(roof / s, 3));
    json_out_int(&c.j, "reps", took.n);
    case_end(&c, meter, "%9.1f us  %7.1f GFLOP/s  %6.1f GB/s  %3.0f %% of the roof (%s)", s * 1e6, e->flops / s / 1e9,
             e->bytes / s / 1e9, 100 * roof / s, e->flops * stream > e->bytes * peak ? "arithmetic" : "memory");
}

bool bench_kernels(Bench *b, Error *err) {
    const ModelConfig *c = &b->size->cfg;
    Kit k = {.be = b->machine.be, .c = c->d_model, .f = c->d_ff, .v = c->n_vocab, .n_head = c->n_head};
    k.d_head = c->d_head, k.hd = (int64_t)c->n_head * c->d_head, k.kd = (int64_t)c->n_kv_head * c->d_head;
    k.n_seq = b->batch ? (int)b->batch : b->size->batch;
    k.len = b->seq ? (int)b->seq : b->size->seq;
    k.n = (int64_t)k.n_seq * k.len;
    k.dtype = b->dtype, k.attn = k.be->attn_half ? b->dtype : k.be->real;
    double stream, peak;
    if (!measure_peak(&peak, k.be, k.dtype, err) || !measure_stream(&stream, k.be, err)) return false;
    Arena measure, mem;
    arena_init_measure(&measure, "kernels");
    place(&k, &measure);
    if (!arena_init(&mem, "kernels", k.be->mem, measure.used, err)) return false;
    place(&k, &mem);
    kit_indices(&k, c);
    double n = (double)k.n, nc = n * (double)k.c, nf = n * (double)k.f, fc = (double)k.f * (double)k.c;
    double in = (double)dtype_bytes(k.dtype), attn = (double)dtype_bytes(k.attn); /* bytes; everything else has 4 */
    double pairs = n * (k.len + 1) / 2 * (double)k.hd, qkv = attn * n * (double)(k.hd + 2 * k.kd);
    double lv = 256.0 * (double)k.v, q = attn * n * (double)k.hd;
    const Kernel list[] = {
        {"linear/fwd", k_linear, 2 * n * fc, in * (nc + nf + fc)},
        {"linear/dx", k_dx, 2 * n * fc, 4 * nc + in * (nf + fc)},
        {"linear/dw", k_dw, 2 * n * fc, in * (nc + nf) + 8 * fc},
        {"attention/fwd", k_attn, 4 * pairs, qkv + q},
        {"attention/bwd", k_attn_bwd, 10 * pairs, 2 * qkv + 2 * q},
        {"rmsnorm/fwd", k_norm, 4 * nc, (4 + in) * nc},
        {"rmsnorm/bwd", k_norm_bwd, 10 * nc, 16 * nc},
        {"rope", k_rope, 3 * n * (double)k.hd, 2 * q},
        {"swiglu/fwd", k_swiglu, 4 * nf, 3 * in * nf},
        {"swiglu/bwd", k_swiglu_bwd, 9 * nf, 5 * in * nf},
        {"gelu/fwd", k_gelu, 8 * nf, 2 * in * nf},
        {"logprob/fwd", k_logprob, 4 * lv, 4 * lv},
        {"copy", k_copy, 0, 8 * nc},
        {"embed/fwd", k_embed, 0, (4 + in) * nc},
        {"embed/bwd", k_embed_bwd, nc, 12 * nc},
        {"sumsq", k_sumsq, 2 * fc, 4 * fc},
        {"sumsq_x4", k_sumsq_all, 8 * fc, 16 * fc},
        {"adamw", k_adamw, 14 * fc, 28 * fc},
    };
    for (int i = 0; i < COUNT_OF(list); i++) report(b, &k, &list[i], peak, stream);
    kit_free(&k);
    arena_release(&mem);
    return true;
}
