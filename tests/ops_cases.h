/* tests/ops_cases.h — seeded cases for every op of tensor/backend.h, and a harness that runs one on any backend.
 *
 *      OpCase list[OPS_MAX];
 *      int n = ops_all(list, seed);                                    shapes and flags only, cheap
 *      OpData d;
 *      op_build(&d, &list[i], ref);                                    inputs, in F64 (rounded to F32 if case.f32)
 *      OpOut a = op_run(ref, &d), b = op_run(cpu, &d);                 b.touched must be 0
 *      const char *worst;
 *      double e = op_compare(&d, &b, &a, &worst);                      max over output tensors of |b - a| / |a|
 *      op_out_free(&a); op_out_free(&b); op_free(&d);
 *
 * What a run checks by itself: outputs start as NaN, so what is not written shows; every tensor has NaN columns behind
 * it (case.pad) and NaN before and after it, and writes there are counted in OpOut.touched; key and value rows that no
 * query may see hold NaN. Outputs come back as doubles, which hold every F32, so memcmp on them is memcmp on the bits.
 *
 * Row invariance: op_slice(&sub, &d, first, count) is the same op on fewer rows, for data with d.sliceable; its output
 * must equal op_rows(...) of the whole, bit for bit. ops_row_invariance(be, &d) does that for every row;
 * ops_attn_invariance(be, seed) does it for attention. */
#ifndef DIKAST_TESTS_OPS_CASES_H
#define DIKAST_TESTS_OPS_CASES_H

#include "ops_harness.h"

/* -- the list ----------------------------------------------------------------------------------------------------- */

typedef struct {
    OpCase *list;
    int n;
    uint64_t seed;
} OpList;

/* Appends a case; what the caller leaves 0 gets a usable value. */
static inline void op_add(OpList *l, OpCase c) {
    CHECK(l->n < OPS_MAX, "more than %d cases", OPS_MAX);
    if (c.spread == 0) c.spread = 1;
    if (c.temp == 0) c.temp = 1;
    if (c.eps == 0) c.eps = 1e-5f;
    c.seed = l->seed + (uint64_t)l->n;
    l->list[l->n++] = c;
}

static inline void ops_add_elem(OpList *l) {
    static const int shape[][2] = {{1, 1}, {1, 7}, {3, 5}, {2, 16}, {5, 33}, {17, 64}, {65, 31}, {3, 4099}};
    static const struct {
        OpId op;
        int n_alias;
    } op[] = {{OP_zero, 0},     {OP_copy, 0},       {OP_add, 2},        {OP_add_bias, 1},
              {OP_sumsq, 0},    {OP_all_finite, 0}, {OP_swiglu_fwd, 2}, {OP_swiglu_bwd, 3},
              {OP_gelu_fwd, 1}, {OP_gelu_bwd, 2},   {OP_scale, 0}};
    for (int i = 0; i < COUNT_OF(op); i++)
        for (int j = 0; j < COUNT_OF(shape); j++)
            op_add(l, (OpCase){.op = op[i].op,
                               .n = shape[j][0],
                               .m = shape[j][1],
                               .pad = j % 2 ? 3 : 0,
                               .alias = j % (op[i].n_alias + 1),
                               .panels = j % 3 == 1,
                               .gelu = j / 2 % 2 ? GELU_ERF : GELU_TANH,
                               .spread = j % 3 == 2 ? 4 : 1});
    static const AdamwParams adamw[] = {{1e-3, 0.9, 0.95, 1e-8, 0.1, 1, 1},
                                        {2e-2, 0.9, 0.999, 1e-6, 0, 7, 0.125},
                                        {3e-4, 0, 0.99, 1e-8, 0.01, 1000, 3}};
    for (int i = 0; i < 6; i++)
        op_add(l, (OpCase){
                      .op = OP_adamw, .n = shape[i][0], .m = shape[i][1], .pad = i % 2 ? 5 : 0, .panels = i > 2, .adamw = adamw[i % 3]});
}

static inline void ops_add_lookup(OpList *l) {
    static const int shape[][3] = {{1, 1, 1},    {1, 16, 5},   {7, 5, 3},
                                   {33, 31, 50}, {20, 64, 20}, {300, 17, 40}}; /* n, m, k */
    static const OpId op[] = {OP_embed_fwd, OP_embed_bwd, OP_gather_rows, OP_scatter_rows, OP_scatter_add_rows};
    for (int i = 0; i < COUNT_OF(op); i++)
        for (int j = 0; j < COUNT_OF(shape); j++) {
            OpCase c = {.op = op[i], .n = shape[j][0], .m = shape[j][1], .k = shape[j][2], .pad = j % 2 ? 2 : 0};
            if (c.op == OP_scatter_rows && c.n > c.k) c.n = c.k;
            c.add = c.op == OP_embed_fwd && j % 3 == 1;
            op_add(l, c);
            c.panels = true;
            if (c.op == OP_embed_fwd || c.op == OP_embed_bwd) op_add(l, c);
        }
}

static inline void ops_add_linear(OpList *l) {
    static const int shape[][3] = {{1, 1, 1},    {1, 48, 64},   {3, 7, 5},     {2, 33, 17},
                                   {8, 64, 64},  {65, 130, 31}, {16, 96, 128}, {5, 17, 300},
                                   {64, 64, 65}, {13, 100, 1},  {1, 257, 96},  {70, 3, 40}}; /* n, m, k */
    for (int j = 0; j < COUNT_OF(shape); j++)
        for (int v = 0; v < 4; v++) {
            int pad = (j + v) % 3 == 1 ? 3 : 0;
            OpCase c = {.n = shape[j][0], .m = shape[j][1], .k = shape[j][2], .pad = pad, .add = v & 1};
            c.op = OP_linear_fwd;
            c.without = v >> 1 & 1;
            op_add(l, c);
            if (v > 1 && j > 5) continue;
            c.op = OP_linear_bwd;
            c.without = v < 2 ? 0 : (unsigned)(1 + (j + v) % 7);
            if (c.without == 7) c.without = 6;
            op_add(l, c);
        }
}

/* Products of one call, BF16 and 8-bit weights. */
static inline void ops_add_store(OpList *l) {
    static const int shape[][3] = {{1, 1, 1},   {1, 48, 64}, {3, 7, 5},    {2, 33, 17}, {9, 50, 33},
                                   {8, 64, 64}, {7, 64, 65}, {65, 130, 32}, {5, 17, 300}, {70, 3, 40}}; /* n, m, k */
    for (int j = 0; j < COUNT_OF(shape); j++)
        for (int s = STORE_REAL; s <= STORE_W_I8; s++)
            for (int add = 0; add < 2; add++) {
                OpCase c = {.store = (OpStore)s, .n = shape[j][0], .m = shape[j][1], .k = shape[j][2], .add = add};
                c.pad = (j + s + add) % 3 == 1 ? 3 : 0;
                c.parts = shape[j][1] > 2 * PANEL_ROWS ? 3 - add : 0;
                if (s == STORE_REAL && !c.parts) continue;
                c.op = OP_linear_fwd;
                c.without = (unsigned)(j + s + add) % 2;
                op_add(l, c);
                c.op = OP_linear_bwd;
                c.without = (unsigned)(j + add) % 4 == 3 ? 1 : 0;
                if (s <= STORE_BF16) op_add(l, c);
            }
}

static inline void ops_add_norm(OpList *l) {
    static const int shape[][2] = {{1, 1}, {1, 2}, {1, 64}, {3, 5}, {7, 33}, {17, 96}, {65, 31}, {2, 1027}};
    static const OpId op[] = {OP_rmsnorm_fwd, OP_rmsnorm_bwd, OP_layernorm_fwd, OP_layernorm_bwd};
    for (int i = 0; i < COUNT_OF(op); i++)
        for (int j = 0; j < COUNT_OF(shape); j++) {
            if (i > 1 && shape[j][1] < 3)
                continue; /* one or two columns have no room to vary once mean and scale are gone */
            bool bwd = i % 2;
            op_add(l, (OpCase){.op = op[i],
                               .n = shape[j][0],
                               .m = shape[j][1],
                               .pad = j % 2 ? 3 : 0,
                               .add = bwd && j % 2,
                               .without = j % 4 == 2   ? 3
                                          : j % 4 == 3 ? 1
                                                       : 0,
                               .eps = shape[j][1] < 3 ? 0.1f : 0,
                               .spread = j % 3 == 1 ? 0.1 : 1});
        }
}

static inline void ops_add_rope(OpList *l) {
    static const int shape[][3] = {{1, 1, 2}, {3, 3, 8}, {5, 2, 64}, {17, 4, 10}, {2, 1, 128}}; /* n, heads, d_head */
    for (int j = 0; j < COUNT_OF(shape); j++)
        for (int v = 0; v < 2; v++)
            op_add(l, (OpCase){.op = OP_rope,
                               .n = shape[j][0],
                               .n_head = shape[j][1],
                               .d_head = shape[j][2],
                               .n_kv = 1,
                               .inverse = v,
                               .pad = j % 2 ? 3 : 0});
}

static inline void ops_add_attn(OpList *l) {
    static const struct {
        int n_seq, len[OPS_SEQS];
    } train[] = {{1, {1}}, {2, {3, 5}}, {5, {1, 63, 64, 65, 130}}, {3, {17, 0, 70}}};
    static const struct {
        int n_seq, len[OPS_SEQS], ctx[OPS_SEQS];
        bool shared;
    } cache[] = {
        {1, {1}, {1}, false},
        {1, {1}, {130}, false},
        {4, {1, 1, 1, 1}, {64, 65, 63, 200}, false},
        {4, {5, 1, 64, 17}, {69, 128, 64, 145}, true},
    };
    static const int head[][3] = {{1, 1, 8}, {4, 2, 16}, {3, 1, 5}, {2, 2, 64}}; /* H, K, D */
    for (int i = 0; i < COUNT_OF(train); i++)
        for (int v = 0; v < 4; v++) {
            OpCase c = {.n_seq = train[i].n_seq, .causal = v % 2 == 0, .pad = v > 1 ? 3 : 0, .spread = v == 3 ? 3 : 1};
            const int *h = head[(i + v) % COUNT_OF(head)];
            c.n_head = h[0], c.n_kv = h[1], c.d_head = h[2];
            for (int s = 0; s < c.n_seq; s++) c.len[s] = c.ctx[s] = train[i].len[s];
            c.op = OP_attn_bwd;
            op_add(l, c);
            c.op = OP_attn_fwd;
            c.without = v == 1;
            op_add(l, c);
        }
    for (int i = 0; i < COUNT_OF(cache); i++)
        for (int v = 0; v < 4; v++) {
            OpCase c = {
                .op = OP_attn_fwd, .n_seq = cache[i].n_seq, .causal = v != 1, .pad = v > 1 ? 3 : 0, .paged = true};
            const int *h = head[(i + v) % COUNT_OF(head)];
            c.n_head = h[0], c.n_kv = h[1], c.d_head = h[2];
            memcpy(c.len, cache[i].len, sizeof c.len);
            memcpy(c.ctx, cache[i].ctx, sizeof c.ctx);
            c.shared = cache[i].shared;
            c.without = v == 2;
            op_add(l, c);
        }
}

static inline void ops_add_logprob(OpList *l) {
    static const int shape[][2] = {{1, 1}, {1, 2}, {3, 7}, {5, 260}, {17, 64}, {2, 4099}};
    static const float temp[] = {1, 0.7f, 2};
    for (int j = 0; j < COUNT_OF(shape); j++)
        for (int v = 0; v < 3; v++) {
            OpCase c = {
                .n = shape[j][0], .m = shape[j][1], .temp = temp[v], .pad = (j + v) % 2 ? 3 : 0, .spread = v ? 1 : 8};
            c.op = OP_logprob_bwd;
            op_add(l, c);
            c.op = OP_logprob_fwd;
            c.without = v == 1;
            op_add(l, c);
        }
}

static inline void ops_add_window(OpList *l) {
    static const int head[][3] = {{1, 1, 8}, {4, 2, 16}, {3, 1, 5}, {2, 2, 64}}; /* H, K, D */
    /* Windows smaller than a group of rows, than a tile, across tiles, longer than everything. */
    static const int window[] = {1, 3, 20, 64, 65, 100, 1000};
    for (int i = 0; i < COUNT_OF(window); i++) {
        const int *h = head[i % COUNT_OF(head)];
        OpCase c = {.n_seq = 3, .len = {70, 1, 150}, .causal = true, .window = window[i], .pad = i % 2 ? 3 : 0};
        c.n_head = h[0], c.n_kv = h[1], c.d_head = h[2];
        memcpy(c.ctx, c.len, sizeof c.ctx);
        c.op = OP_attn_bwd;
        op_add(l, c);
        c.op = OP_attn_fwd;
        op_add(l, c);
        c.paged = true;
        c.n_seq = 4;
        memcpy(c.len, (const int[]){1, 5, 1, 64}, 4 * sizeof(int));
        memcpy(c.ctx, (const int[]){130, 69, 200, 130}, 4 * sizeof(int));
        op_add(l, c);
    }
}

/* BF16 operands of what is no product; results are rounded once. */
static inline void ops_add_half(OpList *l) {
    static const int shape[][2] = {{1, 1}, {3, 5}, {2, 16}, {5, 33}, {17, 64}, {65, 31}};
    static const OpId op[] = {OP_cast,     OP_swiglu_fwd,  OP_swiglu_bwd,    OP_gelu_fwd,
                              OP_gelu_bwd, OP_rmsnorm_fwd, OP_layernorm_fwd, OP_embed_fwd,
                              OP_dropout};
    for (int i = 0; i < COUNT_OF(op); i++)
        for (int j = 0; j < COUNT_OF(shape); j++) {
            OpCase c = {.op = op[i], .store = STORE_BF16, .n = shape[j][0], .m = shape[j][1], .k = 20};
            c.pad = j % 2 ? 3 : 0;
            if (i == 0) op_add(l, (OpCase){.op = OP_quantize, .n = shape[j][0], .m = shape[j][1], .pad = c.pad});
            c.panels = j > 2 && (op[i] == OP_cast || op[i] == OP_embed_fwd);
            c.add = op[i] == OP_embed_fwd && j % 2;
            op_add(l, c);
        }
    /* last, because a case's numbers follow from its place */
    for (int j = 0; j < COUNT_OF(shape); j++)
        op_add(l, (OpCase){.op = OP_dropout, .n = shape[j][0], .m = shape[j][1], .pad = j % 2 ? 3 : 0, .alias = j % 2});
    op_add(l, (OpCase){.op = OP_dropout, .n = 3, .m = 16400});
    /* a head of more words than are worked on at once (kernels_half.h: DEEP), and a few */
    for (int add = 0; add < 2; add++)
        op_add(l, (OpCase){.op = OP_linear_bwd, .store = STORE_BF16, .n = add ? 7 : 26, .m = 8211, .k = 5, .add = add});
}

/* Every case, of every op; returns the count. seed varies the numbers, not the shapes. */
static inline int ops_all(OpCase list[OPS_MAX], uint64_t seed) {
    OpList l = {.list = list, .seed = seed * OPS_MAX};
    ops_add_elem(&l);
    ops_add_lookup(&l);
    ops_add_linear(&l);
    ops_add_norm(&l);
    ops_add_rope(&l);
    ops_add_attn(&l);
    ops_add_logprob(&l);
    ops_add_window(&l);
    ops_add_store(&l);
    ops_add_half(&l);
    return l.n;
}

/* -- attention: one query alone, in company, in a cache ----------------------------------------------------------- */

/* Copies the numbers of sequence s, positions [at, at + n) from a training layout (rows of slot from) to row dst of to.
 */
static inline void op_copy_rows(Slot *to, int64_t dst, const Slot *from, int64_t src, int64_t n) {
    memcpy(to->value + dst * to->cols, from->value + src * from->cols, (size_t)(n * from->cols) * sizeof(double));
}

/* Computes sequence s of the whole batch again from position at on, step query rows at a time, each call alone with its
 * keys in shuffled pages; returns how many outputs differ in any bit. */
static inline int64_t op_attn_replay(Backend *be, const OpData *d, const OpOut *whole, int seq, int step,
                                     uint64_t seed) {
    int64_t bad = 0, hd = d->slot[0].cols, heads = d->slot[1].cols, lse_at = d->slot[0].rows * hd;
    for (int at = 0; at < d->c.len[seq]; at += step) {
        int n = d->c.len[seq] - at < step ? d->c.len[seq] - at : step;
        OpCase c = d->c;
        c.n_seq = 1;
        c.len[0] = n;
        c.ctx[0] = c.causal ? at + n : d->c.len[seq];
        c.paged = true;
        c.seed = seed;
        OpData one;
        op_build(&one, &c, NULL);
        op_copy_rows(&one.slot[2], 0, &d->slot[2], d->q_off[seq] + at, n);
        for (int p = 0; p < c.ctx[0]; p++)
            for (int kv = 3; kv <= 4; kv++)
                op_copy_rows(&one.slot[kv], one.kv_page[p / KV_PAGE] + p % KV_PAGE, &d->slot[kv], d->q_off[seq] + p, 1);
        OpOut out = op_run(be, &one);
        const double *o = whole->v + (d->q_off[seq] + at) * hd, *lse = whole->v + lse_at + (d->q_off[seq] + at) * heads;
        for (int64_t i = 0; i < n * hd; i++) bad += memcmp(&out.v[i], &o[i], sizeof *o) != 0;
        for (int64_t i = 0; i < n * heads; i++) bad += memcmp(&out.v[n * hd + i], &lse[i], sizeof *lse) != 0;
        op_out_free(&out);
        op_free(&one);
    }
    return bad;
}

/* Five ragged sequences as one packed batch, with a mask, without, and under windows; then each of them alone from a
 * paged cache: token by token, and in pieces of 7, 64 and 100 rows. Returns the number of outputs whose bits differ;
 * must be 0. */
static inline int64_t ops_attn_invariance(Backend *be, uint64_t seed) {
    static const int step[] = {1, 7, 64, 100}, len[] = {130, 1, 63, 64, 65};
    static const struct {
        bool causal;
        int window, n_head, n_kv, d_head;
    } kind[] = {{false, 0, 4, 2, 16},
                {true, 0, 4, 2, 24},
                {true, 5, 4, 2, 16},
                {true, 70, 4, 2, 24},
                {true, 0, 2, 2, 80}};
    int64_t bad = 0;
    for (int v = 0; v < COUNT_OF(kind); v++) {
        OpCase c = {.op = OP_attn_fwd,
                    .n_seq = 5,
                    .causal = kind[v].causal,
                    .window = kind[v].window,
                    .n_head = kind[v].n_head,
                    .n_kv = kind[v].n_kv,
                    .d_head = kind[v].d_head,
                    .pad = 1,
                    .spread = 2,
                    .f32 = true,
                    .seed = seed};
        for (int s = 0; s < c.n_seq; s++) c.len[s] = c.ctx[s] = len[s];
        OpData d;
        op_build(&d, &c, NULL);
        OpOut whole = op_run(be, &d);
        for (int i = 0; i < COUNT_OF(step); i++)
            for (int s = 0; s < c.n_seq; s++) bad += op_attn_replay(be, &d, &whole, s, step[i], seed + (uint64_t)i);
        op_out_free(&whole);
        op_free(&d);
    }
    return bad;
}

/* d's op on each single row, on halves and on an odd middle part; returns the number of outputs whose bits differ from
 * those of the whole. */
static inline int64_t ops_row_invariance(Backend *be, const OpData *d) {
    int64_t bad = 0, n = d->c.n;
    OpOut whole = op_run(be, d);
    for (int64_t part = 0; part < n + 3; part++) {
        int64_t first = part < n ? part : part == n ? 0 : part == n + 1 ? n / 2 : n / 3;
        int64_t count = part < n ? 1 : part == n ? n / 2 : part == n + 1 ? n - n / 2 : n / 2;
        if (count == 0) continue;
        OpData sub;
        op_slice(&sub, d, first, count);
        OpOut got = op_run(be, &sub), want = op_rows(d, &whole, first, count);
        for (int64_t i = 0; i < want.n; i++) bad += memcmp(&got.v[i], &want.v[i], sizeof *got.v) != 0;
        op_out_free(&got);
        op_out_free(&want);
        op_free(&sub);
    }
    op_out_free(&whole);
    return bad;
}

#endif
