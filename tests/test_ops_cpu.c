// layer: tensor
// cost: 18
/* The cpu backend: every case of ops_cases.h against ref, on every instruction set of this machine; then its promises
 * about bits: rows alone and in company, one set against another, one thread against many. */
#include "ops_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static uint64_t seed = 1; /* TEST_SEED in the environment replaces it */

static const char *const isa_name[] = {"scalar", "avx2", "avx512", "avx512_bf16", "amx"};

typedef struct {
    Pool *pool;
    Backend *be;
} Opened;

/* be is NULL when this machine lacks isa. */
static Opened open_cpu(const char *isa, int n_thread) {
    Opened o = {0};
    Error err = {0};
    if (!pool_open(&o.pool, n_thread, &err)) fail_msg("%s", err.msg);
    if (backend_open(&o.be, "cpu", o.pool, isa, &err)) {
        assert_string_equal(backend_isa(o.be), isa);
        return o;
    }
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, isa));
    print_message("%s\n", err.msg);
    return o;
}

static void close_cpu(Opened *o) {
    backend_close(o->be);
    pool_close(o->pool);
    *o = (Opened){0};
}

static Backend *open_ref(void) {
    Backend *be;
    Error err = {0};
    if (!backend_open(&be, "ref", NULL, NULL, &err)) fail_msg("%s", err.msg);
    return be;
}

static bool is_forward(OpId op) {
    return op == OP_embed_fwd || op == OP_gather_rows || op == OP_linear_fwd || op == OP_rmsnorm_fwd ||
           op == OP_layernorm_fwd || op == OP_rope || op == OP_swiglu_fwd || op == OP_gelu_fwd || op == OP_attn_fwd ||
           op == OP_logprob_fwd || op == OP_add || op == OP_add_bias || op == OP_cast;
}

/* Built once for all tests. */
static struct {
    OpCase list[OPS_MAX];
    OpData data[OPS_MAX];
    int n;
} all;

/* The common cases, and some past the size where work is handed to other threads and where tiles end. */
static int cases(OpCase list[OPS_MAX]) {
    int n = ops_all(list, seed);
    OpList l = {.list = list, .n = n, .seed = seed * OPS_MAX};
    static const int linear[][3] = {{401, 101, 67}, {9, 500, 300}, {1030, 50, 49}, {64, 193, 150}};
    for (int i = 0; i < COUNT_OF(linear); i++)
        for (int v = 0; v < 2; v++) {
            OpCase c = {.n = linear[i][0], .m = linear[i][1], .k = linear[i][2], .pad = v, .add = v, .without = v};
            c.op = OP_linear_fwd;
            op_add(&l, c);
            c.op = OP_linear_bwd;
            c.without = 0;
            op_add(&l, c);
            for (int s = STORE_BF16; s <= STORE_W_I8; s++) {
                c.store = (OpStore)s;
                c.op = OP_linear_fwd;
                op_add(&l, c);
                c.op = OP_linear_bwd;
                if (s == STORE_BF16) op_add(&l, c);
            }
        }
    static const OpId elem[] = {OP_add,         OP_swiglu_bwd,    OP_adamw,       OP_sumsq,      OP_all_finite,
                                OP_rmsnorm_bwd, OP_layernorm_bwd, OP_logprob_fwd, OP_logprob_bwd};
    for (int i = 0; i < COUNT_OF(elem); i++)
        op_add(&l,
               (OpCase){.op = elem[i], .n = 190, .m = 701, .pad = 2, .adamw = {1e-3, 0.9, 0.95, 1e-8, 0.1, 3, 0.5}});
    op_add(&l, (OpCase){.op = OP_sumsq, .n = 2, .m = 70001});
    op_add(&l, (OpCase){.op = OP_embed_bwd, .n = 900, .m = 150, .k = 40});
    op_add(&l, (OpCase){.op = OP_rope, .n = 2050, .n_head = 3, .d_head = 24, .n_kv = 1});
    for (int v = 0; v < 2; v++) {
        OpCase c = {.op = OP_attn_fwd, .n_seq = 3, .causal = !v, .n_head = 4, .n_kv = 2, .d_head = 20, .pad = 1};
        static const int len[] = {200, 65, 129};
        for (int s = 0; s < c.n_seq; s++) c.len[s] = c.ctx[s] = len[s];
        op_add(&l, c);
        c.op = OP_attn_bwd;
        op_add(&l, c);
    }
    /* Sequences of several blocks of rows, whole heads of 64 and 128, one query against several tiles in place. */
    static const struct {
        int len, n_head, n_kv, d_head, window;
        bool causal;
    } wide[] = {{550, 2, 1, 64, 0, true},
                {550, 2, 1, 64, 200, true},
                {300, 1, 1, 64, 0, false},
                {290, 2, 1, 128, 90, true},
                {330, 9, 1, 32, 300, true}};
    for (int i = 0; i < COUNT_OF(wide); i++) {
        OpCase c = {.op = OP_attn_bwd, .n_seq = 2, .causal = wide[i].causal, .window = wide[i].window, .pad = i % 2};
        c.n_head = wide[i].n_head, c.n_kv = wide[i].n_kv, c.d_head = wide[i].d_head;
        c.len[0] = c.ctx[0] = 40, c.len[1] = c.ctx[1] = wide[i].len;
        op_add(&l, c);
        c.op = OP_attn_fwd;
        op_add(&l, c);
        c.paged = true;
        c.len[0] = c.len[1] = 1;
        op_add(&l, c);
    }
    for (int i = 0; i < l.n; i++) list[i].f32 = true;
    return l.n;
}

static int setup(void **state) {
    (void)state;
    Backend *ref = open_ref();
    all.n = cases(all.list);
    for (int i = 0; i < all.n; i++) op_build(&all.data[i], &all.list[i], ref);
    backend_close(ref);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    for (int i = 0; i < all.n; i++) op_free(&all.data[i]);
    return 0;
}

static int64_t differing(const OpOut *a, const OpOut *b) {
    assert_int_equal(a->n, b->n);
    int64_t bad = 0;
    for (int64_t i = 0; i < a->n; i++) bad += memcmp(&a->v[i], &b->v[i], sizeof *a->v) != 0;
    return bad;
}

/* Rounding to F32 at every step. With a single key ds = p (do . v - do . o) is 0 but for the rounding of o, so dq and
 * dk are differences of equals: they only have to be as small. */
static double bound(const OpCase *c) {
    if (c->op == OP_quantize) return 1e-2; /* a half may fall to either side */
    bool linear = c->op == OP_linear_fwd || c->op == OP_linear_bwd;
    if (c->store == STORE_BF16 && !linear) return 4e-3; /* the result is rounded to BF16 */
    if (c->store == STORE_BF16 && !c->add && c->n % 2) return 4e-3;
    bool single = c->op == OP_attn_bwd;
    for (int s = 0; s < c->n_seq; s++) single = single && (c->ctx[s] <= 1 || c->window == 1);
    return single ? 1e-3 : 1e-5;
}

/* A log-prob or an entropy near 0 is what is left of large numbers (logit over temperature, logsumexp): its error is as
 * large as theirs, however small it is itself. Where one word is all but certain F32 has few digits of either. */
static bool small_difference(const OpCase *c, const OpOut *got, const OpOut *want) {
    if (c->op != OP_logprob_fwd) return false;
    for (int64_t i = 0; i < got->n; i++)
        if (!(fabs(got->v[i] - want->v[i]) < 1e-6 + 1e-5 * fabs(want->v[i]))) return false;
    return true;
}

static void test_against_ref(void **state) {
    (void)state;
    int n_isa = 0;
    Backend *ref = open_ref();
    Opened cpu[COUNT_OF(isa_name)];
    double worst[OP_COUNT] = {0};
    for (int s = 0; s < COUNT_OF(isa_name); s++) cpu[s] = open_cpu(isa_name[s], 2);
    for (int i = 0; i < all.n; i++) {
        OpOut want = op_run(ref, &all.data[i]);
        for (int s = 0; s < COUNT_OF(isa_name); s++) {
            if (!cpu[s].be) continue;
            n_isa += i == 0;
            OpOut got = op_run(cpu[s].be, &all.data[i]);
            const char *which;
            char name[240];
            double e = op_compare(&all.data[i], &got, &want, &which);
            if (e > worst[all.list[i].op] && bound(&all.list[i]) < 1e-4) worst[all.list[i].op] = e;
            if (!(e < bound(&all.list[i])) && !small_difference(&all.list[i], &got, &want))
                fail_msg("%s: %s: %s is off by %.3g", isa_name[s], op_case_name(name, &all.list[i]), which, e);
            if (got.touched) fail_msg("%s: %s: wrote outside", isa_name[s], op_case_name(name, &all.list[i]));
            op_out_free(&got);
        }
        op_out_free(&want);
    }
    assert_true(n_isa >= 1);
    for (int i = 0; i < OP_COUNT; i++) print_message("  %-17s %.1e\n", op_name((OpId)i), worst[i]);
    for (int s = 0; s < COUNT_OF(isa_name); s++) close_cpu(&cpu[s]);
    backend_close(ref);
}

/* AMX sums products of BF16 in an order of its own (test_ops_amx.c). */
static bool own_bits(const char *isa, const OpCase *c) {
    return strcmp(isa, "amx") == 0 && c->store == STORE_BF16 && (c->op == OP_linear_fwd || c->op == OP_linear_bwd);
}

/* Every case on be[0] and on the others: equal bits. */
static void assert_same_bits(Opened *o, const char *const *name, int n) {
    for (int i = 0; i < all.n; i++) {
        OpOut want = op_run(o[0].be, &all.data[i]);
        for (int s = 1; s < n; s++) {
            if (!o[s].be || own_bits(name[s], &all.list[i])) continue;
            char text[240];
            OpOut got = op_run(o[s].be, &all.data[i]);
            int64_t bad = differing(&got, &want);
            if (bad) fail_msg("%s: %s: %lld numbers differ", name[s], op_case_name(text, &all.list[i]), (long long)bad);
            op_out_free(&got);
        }
        op_out_free(&want);
    }
    for (int s = 0; s < n; s++) close_cpu(&o[s]);
}

/* All ops, backward ones too: the kernels are one source in sixteen lanes. */
static void test_sets_agree(void **state) {
    (void)state;
    Opened o[COUNT_OF(isa_name)];
    for (int s = 0; s < COUNT_OF(isa_name); s++) o[s] = open_cpu(isa_name[s], 1);
    assert_same_bits(o, isa_name, COUNT_OF(isa_name));
}

static void test_threads(void **state) {
    (void)state;
    static const char *const name[] = {"1 thread", "2 threads", "3 threads", "8 threads"};
    static const int n_thread[] = {1, 2, 3, 8};
    Opened o[COUNT_OF(n_thread)];
    Error err = {0};
    for (int t = 0; t < COUNT_OF(n_thread); t++) {
        assert_true(pool_open(&o[t].pool, n_thread[t], &err));
        assert_true(backend_open(&o[t].be, "cpu", o[t].pool, "auto", &err));
    }
    assert_same_bits(o, name, COUNT_OF(name));
}

/* Products cut into several of one call: not a bit changes. */
static void test_parts(void **state) {
    (void)state;
    int n_run = 0;
    Opened cpu = open_cpu("scalar", 1);
    for (int i = 0; i < all.n; i++) {
        OpData cut = all.data[i];
        if ((cut.c.op != OP_linear_fwd && cut.c.op != OP_linear_bwd) || cut.c.parts || cut.c.m <= 2 * PANEL_ROWS)
            continue;
        OpOut want = op_run(cpu.be, &cut);
        for (cut.c.parts = 2; cut.c.parts <= LINEAR_MAX; cut.c.parts++) {
            OpOut got = op_run(cpu.be, &cut);
            assert_int_equal(differing(&got, &want), 0);
            op_out_free(&got);
        }
        op_out_free(&want);
        n_run++;
    }
    assert_true(n_run > 10);
    close_cpu(&cpu);
}

/* (n, m) at the front of rows that are ld long. */
static Tensor random_matrix(float *at, int64_t n, int64_t m, int64_t ld, uint32_t step) {
    Rng rng = {seed, RNG_TEST};
    for (int64_t i = 0; i < n * ld; i++) at[i] = (float)rng_normal(rng, (uint64_t)i, step);
    Tensor t = tensor_over(at, DTYPE_F32, n, m);
    t.ld = ld;
    return t;
}

static Tensor in_panels(Backend *be, float *at, Tensor w) {
    Tensor p = {at, w.rows, w.cols, w.cols, w.dtype, true};
    float *x = mem_alloc((size_t)tensor_count(w) * sizeof *x);
    tensor_get_f32(be, x, w);
    tensor_set_f32(be, p, x);
    free(x);
    return p;
}

/* A product from row-major weights, as files have them, and one that adds another matrix than the old y: the bits of
 * panels, and of a copy before. */
static void test_where_operands_lie(void **state) {
    (void)state;
    enum { N = 400, M = 75, K = 51, LD = 60, WIDE = 80 };
    static float at[4][N * WIDE], panels[2][2 * N * WIDE];
    static const int rows[] = {1, 5, 23, 70, N};
    for (int s = 0; s < COUNT_OF(isa_name); s++) {
        Opened cpu = open_cpu(isa_name[s], 2);
        for (int k = 0; k < COUNT_OF(rows) && cpu.be; k++) {
            const BackendOps *op = cpu.be->op;
            int64_t n = rows[k];
            Tensor x = random_matrix(at[0], n, K, LD, 0), w = random_matrix(at[1], M, K, LD, 1);
            Tensor v = random_matrix(at[2], K, K, K, 2), bias = random_matrix(at[3], 1, M, M, 3);
            Tensor from = random_matrix(at[3] + WIDE, n, M, M + 2, 4);
            Tensor wp = in_panels(cpu.be, panels[0], w), vp = in_panels(cpu.be, panels[1], v);
            size_t bytes = (size_t)(n * (M + K)) * sizeof(float);
            float *y = mem_alloc(bytes), *z = mem_alloc(bytes);
            Tensor yw = tensor_over(y, DTYPE_F32, n, M), yv = tensor_over(y + n * M, DTYPE_F32, n, K);
            Tensor zw = tensor_over(z, DTYPE_F32, n, M), zv = tensor_over(z + n * M, DTYPE_F32, n, K);
            op->linear_fwd(cpu.be, (LinearOut[]){{.y = yw, .w = wp, .bias = bias}, {.y = yv, .w = vp}}, 2, x, false);
            op->linear_fwd(cpu.be, (LinearOut[]){{.y = zw, .w = w, .bias = bias}, {.y = zv, .w = vp}}, 2, x, false);
            assert_memory_equal(y, z, bytes);
            op->copy(cpu.be, yw, from);
            op->linear_fwd(cpu.be, &(LinearOut){.y = yw, .w = wp, .bias = bias}, 1, x, true);
            op->linear_from(cpu.be, (LinearOut){.y = zw, .w = wp, .bias = bias}, from, x);
            assert_memory_equal(y, z, (size_t)(n * M) * sizeof *y);
            op->linear_from(cpu.be, (LinearOut){.y = zw, .w = w, .bias = bias}, from, x);
            assert_memory_equal(y, z, (size_t)(n * M) * sizeof *y);
            free(y), free(z);
        }
        close_cpu(&cpu);
    }
}

/* For many rows of dx weights are transposed, for few dy is, outputs and columns in parts: the same bits. */
static void dx_of_many_rows(const Opened *cpu, int64_t m, int64_t k, bool add) {
    enum { N = 800, PART = 300 };
    const BackendOps *op = cpu->be->op;
    int64_t rows[] = {m, 33};
    float *dy[2], *w[2], *panels[2];
    LinearGrad g[2], cut[2];
    for (int i = 0; i < 2; i++) {
        dy[i] = mem_alloc((size_t)(N * rows[i]) * sizeof(float));
        w[i] = mem_alloc((size_t)(rows[i] * k) * sizeof(float));
        panels[i] = mem_alloc((size_t)((rows[i] + 16) * k) * sizeof(float));
        Tensor matrix = random_matrix(w[i], rows[i], k, k, (uint32_t)i);
        g[i] = (LinearGrad){.dy = random_matrix(dy[i], N, rows[i], rows[i], 2 + (uint32_t)i),
                            .w = in_panels(cpu->be, panels[i], matrix)};
    }
    size_t bytes = (size_t)(N * k) * sizeof(float);
    float *whole = mem_alloc(bytes), *part = mem_alloc(bytes);
    Tensor a = random_matrix(whole, N, k, k, 4), b = random_matrix(part, N, k, k, 4);
    op->linear_bwd(cpu->be, a, g, 2, (Tensor){0}, add);
    for (int64_t row = 0; row < N; row += PART) {
        int64_t n = row + PART < N ? PART : N - row;
        for (int i = 0; i < 2; i++) cut[i] = (LinearGrad){.dy = tensor_rows(g[i].dy, row, n), .w = g[i].w};
        op->linear_bwd(cpu->be, tensor_rows(b, row, n), cut, 2, (Tensor){0}, add);
    }
    assert_memory_equal(whole, part, bytes);
    for (int i = 0; i < 2; i++) free(dy[i]), free(w[i]), free(panels[i]);
    free(whole), free(part);
}

static void test_dx_of_many_rows(void **state) {
    (void)state;
    for (int s = 0; s < COUNT_OF(isa_name); s++) {
        Opened cpu = open_cpu(isa_name[s], 2);
        for (int add = 0; add < 2 && cpu.be; add++) {
            dx_of_many_rows(&cpu, 60, 70, add);
            dx_of_many_rows(&cpu, 1560, 19, add);
            dx_of_many_rows(&cpu, 10, 790, add);
        }
        close_cpu(&cpu);
    }
}

static void test_row_invariance(void **state) {
    (void)state;
    int n_run = 0;
    for (int s = 0; s < COUNT_OF(isa_name); s++) {
        Opened cpu = open_cpu(isa_name[s], 2);
        for (int i = 0; i < all.n && cpu.be; i++) {
            char name[240];
            if (!is_forward(all.list[i].op) || (double)all.list[i].n * all.list[i].n * all.list[i].m > 1e6) continue;
            int64_t bad = all.data[i].sliceable ? ops_row_invariance(cpu.be, &all.data[i]) : 0;
            n_run += all.data[i].sliceable;
            if (bad)
                fail_msg("%s: %s: %lld bits differ", isa_name[s], op_case_name(name, &all.list[i]), (long long)bad);
        }
        close_cpu(&cpu);
    }
    assert_true(n_run > 50);
}

static void test_decode_equals_prefill(void **state) {
    (void)state;
    for (int s = 0; s < COUNT_OF(isa_name); s++) {
        Opened cpu = open_cpu(isa_name[s], 2);
        if (cpu.be) assert_int_equal(ops_attn_invariance(cpu.be, seed), 0);
        close_cpu(&cpu);
    }
}

/* A key or value that a row must not see does not reach it, not even times 0: NaN in position 40 of 150 leaves the rows
 * before it as they were, and under a window the rows that have it behind them. */
static void test_unseen_rows_unread(void **state) {
    (void)state;
    enum { N = 150, BAD = 40 };
    static const int window[] = {0, 3, 64, 70};
    for (int s = 0; s < COUNT_OF(isa_name) * COUNT_OF(window); s++) {
        Opened cpu = open_cpu(isa_name[s % COUNT_OF(isa_name)], 1);
        if (cpu.be) {
            OpCase c = {.op = OP_attn_fwd, .n_seq = 1, .len = {N}, .ctx = {N}, .causal = true, .n_head = 2};
            c.n_kv = 1, c.d_head = 24, c.spread = 1, c.seed = seed, c.f32 = true;
            c.window = window[s / COUNT_OF(isa_name)];
            OpData d;
            op_build(&d, &c, NULL);
            OpOut clean = op_run(cpu.be, &d);
            for (int kv = 3; kv <= 4; kv++)
                for (int64_t j = 0; j < d.slot[kv].cols; j++) d.slot[kv].value[BAD * d.slot[kv].cols + j] = NAN;
            OpOut dirty = op_run(cpu.be, &d);
            int64_t cols = d.slot[0].cols, end = c.window && BAD + c.window < N ? BAD + c.window : N;
            assert_memory_equal(clean.v, dirty.v, (size_t)(BAD * cols) * sizeof *clean.v);
            for (int64_t j = BAD * cols; j < end * cols; j++) assert_true(isnan(dirty.v[j]));
            assert_memory_equal(clean.v + end * cols, dirty.v + end * cols,
                                (size_t)((N - end) * cols) * sizeof *clean.v);
            op_out_free(&clean);
            op_out_free(&dirty);
            op_free(&d);
        }
        close_cpu(&cpu);
    }
}

/* The table of angles grows and is shared: what was asked for before changes no bit, nor do other frequencies between.
 */
static void test_rope_tables(void **state) {
    (void)state;
    enum { N = 3, D = 12 };
    static const int32_t pos[][N] = {{0, 1, 5},       {300, 2, 299}, {70000, 9, 0},
                                     {4, 4, 1 << 20}, {-3, 7, 255},  {511, 512, 513}};
    for (int s = 0; s < COUNT_OF(isa_name); s++) {
        Opened kept = open_cpu(isa_name[s], 2);
        for (int i = 0; i < 4 * COUNT_OF(pos) && kept.be; i++) {
            double freq[D / 2], far = 0;
            float got[N * D], want[N * D];
            for (int j = 0; j < D / 2; j++) freq[j] = pow(100 + 50 * (i % 6), -2.0 * j / D);
            const int32_t *p = pos[i % COUNT_OF(pos)];
            for (int j = 0; j < N * D; j++) got[j] = want[j] = (float)(j + 1) / 7;
            Opened fresh = open_cpu(isa_name[s], 1);
            kept.be->op->rope(kept.be, tensor_over(got, DTYPE_F32, N, D), p, freq, D, i % 2);
            fresh.be->op->rope(fresh.be, tensor_over(want, DTYPE_F32, N, D), p, freq, D, i % 2);
            assert_memory_equal(got, want, sizeof got);
            for (int r = 0; r < N; r++)
                for (int j = 0; j < D / 2; j++) {
                    double a = (double)p[r] * freq[j] * (i % 2 ? -1 : 1), x1 = (r * D + j + 1) / 7.0,
                           x2 = x1 + D / 2 / 7.0;
                    far = fmax(far, fabs((double)got[r * D + j] - (x1 * cos(a) - x2 * sin(a))));
                    far = fmax(far, fabs((double)got[r * D + D / 2 + j] - (x2 * cos(a) + x1 * sin(a))));
                }
            assert_true(far < 1e-5);
            close_cpu(&fresh);
        }
        close_cpu(&kept);
    }
}

/* -- BF16 and panels -------------------------------------------------------------------------------------------------
 */

static float from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Of the two BF16 around x the nearer one, of two as near the even one; what is past the last one is infinite. */
static double rounded_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x) || isinf(x)) return x;
    double low = from_bits(bits & 0xffff0000u), step = fabs(from_bits((bits & 0x7fff0000u) + 0x10000u)) - fabs(low);
    if (isinf(step)) step = 0x1p120;
    double high = low + copysign(step, x), to_low = fabs(x - low), to_high = fabs(high - x);
    double near = to_low < to_high || (to_low == to_high && !(bits >> 16 & 1)) ? low : high;
    return fabs(near) >= 0x1p128 ? copysign(INFINITY, x) : near;
}

/* One rounding for all: rows, tails, in place, panels of odd shape, on every instruction set, and the way in from the
 * host. Halves, numbers next to them, the ends of the range, infinities and NaNs of every kind. */
/* What is called at once gives the bits of the four calls: in tables and beyond them, rows scattered. */
static void test_rope_kv(void **state) {
    (void)state;
    enum { N = 37, H = 3, K = 2, D = 12, ROWS = 64 };
    double freq[D / 2];
    for (int j = 0; j < D / 2; j++) freq[j] = pow(500.0, -2.0 * j / D);
    for (int s = 0; s < 2 * COUNT_OF(isa_name); s++) {
        Opened cpu = open_cpu(isa_name[s / 2], 2);
        if (cpu.be) {
            float x[2][N * (H + 2 * K) * D], cache[2][2 * ROWS * K * D] = {0};
            int32_t pos[N], row[N];
            for (int i = 0; i < N; i++) pos[i] = 3 * i + (s % 2 ? 1 << 18 : 0), row[i] = (i * 29 + 5) % ROWS;
            for (int i = 0; i < COUNT_OF(x[0]); i++)
                x[0][i] = x[1][i] = (float)rng_normal((Rng){seed, RNG_TEST}, (uint64_t)i, 0);
            const BackendOps *op = cpu.be->op;
            for (int way = 0; way < 2; way++) {
                Tensor q = tensor_over(x[way], DTYPE_F32, N, H * D),
                       kc = tensor_over(cache[way], DTYPE_F32, ROWS, K * D);
                Tensor k = tensor_over(x[way] + N * H * D, DTYPE_F32, N, K * D), v = k, vc = kc;
                v.data = x[way] + N * (H + K) * D, vc.data = cache[way] + ROWS * K * D;
                if (way == 0) {
                    op->rope_kv(cpu.be, q, k, v, kc, vc, row, pos, freq, D);
                    continue;
                }
                op->rope(cpu.be, q, pos, freq, D, false);
                op->rope(cpu.be, k, pos, freq, D, false);
                op->scatter_rows(cpu.be, kc, k, row);
                op->scatter_rows(cpu.be, vc, v, row);
            }
            assert_memory_equal(x[0], x[1], sizeof x[0]);
            assert_memory_equal(cache[0], cache[1], sizeof cache[0]);
        }
        close_cpu(&cpu);
    }
}

static void test_bf16_rounding(void **state) {
    (void)state;
    enum { ROWS = 21, COLS = 53, PANEL_COLS = COLS + 1 };
    static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
    static const uint32_t high[] = {0,      0x0001, 0x007f, 0x0080, 0x3f80, 0x3f81, 0x4049, 0x7f7e, 0x7f7f,
                                    0x7f80, 0x7fbf, 0x7fff, 0x8000, 0xbf81, 0xff7f, 0xff80, 0xffff};
    static float x[ROWS * COLS], panels[2 * PANEL_ROWS * COLS], narrow[ROWS * COLS];
    static uint16_t y[ROWS * COLS], in_panels[2 * PANEL_ROWS * PANEL_COLS], set[2 * PANEL_ROWS * PANEL_COLS];
    static double got[ROWS * COLS], want[ROWS * COLS];
    for (int i = 0; i < ROWS * COLS; i++) {
        x[i] = from_bits(high[i % COUNT_OF(high)] << 16 | low[i / COUNT_OF(high) % COUNT_OF(low)]);
        want[i] = rounded_bf16(x[i]);
    }
    for (int s = 0; s < COUNT_OF(isa_name); s++) {
        Opened cpu = open_cpu(isa_name[s], 2);
        if (!cpu.be) {
            close_cpu(&cpu);
            continue;
        }
        Tensor tx = tensor_over(x, DTYPE_F32, ROWS, COLS), tn = tensor_over(narrow, DTYPE_F32, ROWS, COLS);
        Tensor px = {panels, ROWS, COLS, COLS, DTYPE_F32, true},
               py = {in_panels, ROWS, COLS, PANEL_COLS, DTYPE_BF16, true};
        Tensor ps = {set, ROWS, COLS, PANEL_COLS, DTYPE_BF16, true};
        Tensor t[] = {tensor_over(y, DTYPE_BF16, ROWS, COLS), tensor_narrow(tn), py, ps};
        memcpy(narrow, x, sizeof x);
        memset(in_panels, 0xff, sizeof in_panels);
        memset(set, 0xff, sizeof set);
        tensor_set_f32(cpu.be, px, x);
        cpu.be->op->cast(cpu.be, t[0], tx);
        cpu.be->op->cast(cpu.be, t[1], tn);
        cpu.be->op->cast(cpu.be, t[2], px);
        tensor_set_f32(cpu.be, t[3], x);
        for (int k = 0; k < COUNT_OF(t); k++) {
            tensor_get(cpu.be, got, t[k]);
            for (int i = 0; i < ROWS * COLS; i++) {
                bool same = isnan(want[i]) ? isnan(got[i]) : got[i] == want[i] && !signbit(got[i]) == !signbit(want[i]);
                if (!same)
                    fail_msg("%s, way %d: %a becomes %a, expected %a", isa_name[s], k, (double)x[i], got[i], want[i]);
            }
        }
        for (int i = 0; i < ROWS; i++) /* narrowed rows do not move: threads need not wait for one another */
            assert_memory_equal(narrow + i * COLS, y + i * COLS, COLS * sizeof *y);
        assert_memory_equal(in_panels, set, sizeof set); /* what fills panels and pairs up, too */
        close_cpu(&cpu);
    }
}

/* How a weight lies in panels: every element where tensor.h says, 0 around them, and views that are the matrix's own
 * rows and columns. */
static void test_panels(void **state) {
    (void)state;
    static const DType dtype[] = {DTYPE_F32, DTYPE_BF16, DTYPE_I8};
    static const int shape[][2] = {{1, 1}, {16, 16}, {17, 3}, {37, 20}, {50, 7}};
    Opened cpu = open_cpu("scalar", 1);
    Backend *be = cpu.be;
    for (int k = 0; k < COUNT_OF(dtype) * COUNT_OF(shape); k++) {
        DType type = dtype[k % COUNT_OF(dtype)];
        int64_t rows = shape[k / COUNT_OF(dtype)][0], cols = shape[k / COUNT_OF(dtype)][1], n = rows * cols, n_bad = 0;
        Arena arena;
        Error err = {0};
        arena_init_measure(&arena, "panels");
        for (int i = 0; i < 2; i++) tensor_place_weight(&arena, type, rows, cols, true);
        assert_true(arena_init(&arena, "panels", mem_source_host(), arena.used, &err));
        Tensor w = tensor_place_weight(&arena, type, rows, cols, true), s = tensor_storage(w);
        Tensor copy = tensor_place_weight(&arena, type, rows, cols, true);
        int64_t held = s.rows * s.cols;
        assert_true(held % (PANEL_ROWS * 2) == 0 || type != DTYPE_BF16);
        assert_true(held >= n && held < (rows + PANEL_ROWS) * (cols + 2) && held == s.rows * s.ld);
        double *x = mem_alloc((size_t)n * sizeof *x), *got = mem_alloc((size_t)held * sizeof *got);
        float *f = mem_alloc((size_t)n * sizeof *f), *by_column = mem_alloc((size_t)n * sizeof *f);
        for (int64_t i = 0; i < n; i++) f[i] = (float)(x[i] = (double)(i % 250 - 125 + (i % 250 < 126 ? -1 : 0)));
        for (int64_t i = 0; i < n; i++) by_column[i % cols * rows + i / cols] = f[i];
        unsigned char *half = mem_alloc((size_t)(2 * n + 1));
        /* as in a file: at any address, and columns that lie further apart than they are long */
        int64_t apart = rows + 3;
        unsigned char *half_columns = mem_alloc((size_t)(2 * cols * apart + 1));
        for (int64_t i = 0; i < n; i++) {
            memcpy(half + 1 + 2 * i, (const unsigned char *)&f[i] + 2, 2);
            memcpy(half_columns + 1 + 2 * (i % cols * apart + i / cols), (const unsigned char *)&f[i] + 2, 2);
        }
        for (int way = 0; way < (type == DTYPE_BF16 ? 5 : 3); way++) {
            memset(w.data, 0x55, (size_t)held * dtype_bytes(type));
            if (way == 0) tensor_set(be, w, x);
            if (way == 1) tensor_set_f32(be, w, f);
            if (way == 2) tensor_set_columns_f32(w, by_column);
            if (way == 3) tensor_set_bf16(w, half + 1);
            if (way == 4) tensor_set_columns_bf16(w, half_columns + 1, apart);
            be->op->zero(be, copy);
            be->op->copy(be, copy, w);
            assert_memory_equal(copy.data, w.data, (size_t)held * dtype_bytes(type));
            tensor_get(be, got, s);
            int64_t n_set = 0;
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < cols; j++) n_bad += got[tensor_at(w, i, j)] != x[i * cols + j];
            for (int64_t i = 0; i < held; i++) n_set += got[i] != 0;
            assert_int_equal(n_bad, 0);
            assert_int_equal(n_set, n); /* the rest is 0 */
        }
        free(half);
        free(half_columns);
        for (int64_t first = 0; first < rows; first += PANEL_ROWS) {
            int64_t count = rows - first < 3 ? rows - first : 3, col = cols > 4 ? 2 : 0;
            Tensor view = tensor_cols(tensor_rows(w, first, count), col, cols - col);
            tensor_get(be, got, view);
            for (int64_t i = 0; i < count; i++)
                for (int64_t j = 0; j < cols - col; j++)
                    n_bad += got[i * (cols - col) + j] != x[(first + i) * cols + col + j];
            assert_int_equal(n_bad, 0);
        }
        tensor_get_row(be, got, w, rows - 1);
        assert_memory_equal(got, x + n - cols, (size_t)cols * sizeof *x);
        tensor_set_row(be, copy, rows - 1, x);
        tensor_get_f32(be, f, copy);
        for (int64_t j = 0; j < cols; j++)
            assert_true((double)f[n - cols + j] == x[j] && (rows == 1 || (double)f[j] == x[j]));
        be->op->zero(be, w);
        for (int64_t i = 0; i < held * (int64_t)dtype_bytes(type); i++) assert_int_equal(((char *)w.data)[i], 0);
        free(x), free(got), free(by_column);
        free(f);
        arena_release(&arena);
    }
    close_cpu(&cpu);
}

/* Ends of the number range in every lane: overflow and underflow as IEEE has them, NaN stays NaN and in its place. */
static void test_extremes(void **state) {
    (void)state;
    static const float x[] = {0,    -0.0f,   1e-40f, 87,    88.8f,  89,       200, -87, -100,
                              -103, -104.5f, -200,   3e38f, -3e38f, INFINITY, NAN, 1};
    enum { N = COUNT_OF(x) };
    for (int s = 0; s < COUNT_OF(isa_name); s++) {
        Opened cpu = open_cpu(isa_name[s], 1);
        if (!cpu.be) {
            close_cpu(&cpu);
            continue;
        }
        float in[N], y[N], up[N];
        memcpy(in, x, sizeof in);
        for (int i = 0; i < N; i++) up[i] = 1;
        Tensor tx = tensor_over(in, DTYPE_F32, 1, N), ty = tensor_over(y, DTYPE_F32, 1, N);
        cpu.be->op->swiglu_fwd(cpu.be, ty, tx, tensor_over(up, DTYPE_F32, 1, N));
        for (int i = 0; i < N; i++) {
            double want = (double)x[i] / (1 + exp(-(double)x[i]));
            double error = isinf(want) ? (double)y[i] != want : fabs((double)y[i] - want);
            if (isnan(want)) assert_true(isnan(y[i]));
            if (!isnan(want)) assert_true(error <= 4e-7 * fabs(isinf(want) ? 1 : want) + 1e-37);
        }
        assert_false(cpu.be->op->all_finite(cpu.be, tx));
        in[14] = 1;
        assert_false(cpu.be->op->all_finite(cpu.be, tx));
        in[15] = 1;
        assert_true(cpu.be->op->all_finite(cpu.be, tx));
        /* a row without weight becomes exact 0 whatever it held; a huge logit overflows nothing */
        float logits[2 * 3] = {NAN, INFINITY, 1, 3e38f, -3e38f, 0}, dlogp[2] = {0, 1}, logp[2];
        int32_t target[] = {0, 0};
        Tensor tl = tensor_over(logits, DTYPE_F32, 2, 3), td = tensor_over(dlogp, DTYPE_F32, 2, 1);
        cpu.be->op->logprob_fwd(cpu.be, tensor_over(logp, DTYPE_F32, 2, 1), (Tensor){0}, tl, target, 1);
        assert_true(isnan(logp[0]) && logp[1] == 0);
        cpu.be->op->logprob_bwd(cpu.be, tl, target, td, 1);
        for (int i = 0; i < 6; i++) assert_true(logits[i] == 0);
        close_cpu(&cpu);
    }
}

static void test_open(void **state) {
    (void)state;
    Pool *pool;
    Backend *be;
    Error err = {0};
    assert_true(pool_open(&pool, 1, &err));
    assert_false(backend_open(&be, "cpu", pool, "sse9", &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, "sse9"));
    assert_true(backend_open(&be, "cpu", pool, NULL, &err));
    assert_string_equal(be->op->name, "cpu");
    assert_int_equal(be->real, DTYPE_F32);
    assert_int_equal(be->dtype, DTYPE_F32);
    assert_string_equal(backend_bits("cpu", "avx512", DTYPE_BF16), "");
    assert_string_equal(backend_bits("cpu", "exact", DTYPE_BF16), "");
    assert_string_equal(backend_bits("ref", NULL, DTYPE_BF16), "");
    assert_string_equal(backend_bits("cpu", NULL, DTYPE_F32), "");
    assert_string_equal(backend_bits("cpu", NULL, DTYPE_BF16), strcmp(backend_isa(be), "amx") == 0 ? "amx" : "");
    assert_false(backend_set_dtype(be, DTYPE_I8, &err));
    assert_true(backend_set_dtype(be, DTYPE_BF16, &err) && be->dtype == DTYPE_BF16 && be->real == DTYPE_F32);
    backend_close(be);
    be = open_ref();
    assert_true(backend_set_dtype(be, DTYPE_F64, &err));
    assert_false(backend_set_dtype(be, DTYPE_BF16, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, "ref: dtype BF16"));
    backend_close(be);
    pool_close(pool);
}

int main(void) {
    const char *given = getenv("TEST_SEED");
    if (given) seed = strtoull(given, NULL, 10);
    print_message("seed %llu (TEST_SEED)\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_against_ref),
        cmocka_unit_test(test_sets_agree),
        cmocka_unit_test(test_row_invariance),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_where_operands_lie),
        cmocka_unit_test(test_dx_of_many_rows),
        cmocka_unit_test(test_decode_equals_prefill),
        cmocka_unit_test(test_unseen_rows_unread),
        cmocka_unit_test(test_rope_tables),
        cmocka_unit_test(test_rope_kv),
        cmocka_unit_test(test_bf16_rounding),
        cmocka_unit_test(test_panels),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
