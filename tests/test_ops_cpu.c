// layer: tensor
/* The cpu backend: every case of ops_cases.h against ref, on every instruction set of this machine; then its promises
 * about bits: rows alone and in company, one set against another, one thread against many. */
#include "ops_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static uint64_t seed = 1; /* TEST_SEED in the environment replaces it */

static const char *const isa_name[] = {"scalar", "avx2", "avx512"};

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
           op == OP_logprob_fwd || op == OP_add || op == OP_add_bias;
}

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
        }
    static const OpId elem[] = {OP_add,         OP_swiglu_fwd,  OP_swiglu_bwd,    OP_gelu_fwd,    OP_adamw,
                                OP_sumsq,       OP_scale,       OP_zero,          OP_copy,        OP_all_finite,
                                OP_rmsnorm_fwd, OP_rmsnorm_bwd, OP_layernorm_bwd, OP_logprob_fwd, OP_logprob_bwd};
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
    for (int i = 0; i < l.n; i++) list[i].f32 = true;
    return l.n;
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
    bool single = c->op == OP_attn_bwd;
    for (int s = 0; s < c->n_seq; s++) single = single && c->ctx[s] <= 1;
    return single ? 1e-3 : 1e-5;
}

static void test_against_ref(void **state) {
    (void)state;
    static OpCase list[OPS_MAX];
    int n = cases(list), n_isa = 0;
    Backend *ref = open_ref();
    Opened cpu[COUNT_OF(isa_name)];
    double worst[OP_COUNT] = {0};
    for (int s = 0; s < COUNT_OF(isa_name); s++) cpu[s] = open_cpu(isa_name[s], 2);
    for (int i = 0; i < n; i++) {
        OpData d;
        op_build(&d, &list[i], ref);
        OpOut want = op_run(ref, &d);
        for (int s = 0; s < COUNT_OF(isa_name); s++) {
            if (!cpu[s].be) continue;
            n_isa += i == 0;
            OpOut got = op_run(cpu[s].be, &d);
            const char *which;
            char name[240];
            double e = op_compare(&d, &got, &want, &which);
            if (e > worst[list[i].op] && bound(&list[i]) < 1e-4) worst[list[i].op] = e;
            if (!(e < bound(&list[i])))
                fail_msg("%s: %s: %s is off by %.3g", isa_name[s], op_case_name(name, &list[i]), which, e);
            if (got.touched) fail_msg("%s: %s: wrote outside", isa_name[s], op_case_name(name, &list[i]));
            op_out_free(&got);
        }
        op_out_free(&want);
        op_free(&d);
    }
    assert_true(n_isa >= 1);
    for (int i = 0; i < OP_COUNT; i++) print_message("  %-17s %.1e\n", op_name((OpId)i), worst[i]);
    for (int s = 0; s < COUNT_OF(isa_name); s++) close_cpu(&cpu[s]);
    backend_close(ref);
}

/* All ops, backward ones too: the kernels are one source in sixteen lanes. */
static void test_sets_agree(void **state) {
    (void)state;
    static OpCase list[OPS_MAX];
    int n = cases(list);
    Backend *ref = open_ref();
    Opened plain = open_cpu("scalar", 1);
    for (int s = 1; s < COUNT_OF(isa_name); s++) {
        Opened wide = open_cpu(isa_name[s], 1);
        for (int i = 0; i < n && wide.be; i++) {
            OpData d;
            char name[240];
            op_build(&d, &list[i], ref);
            OpOut a = op_run(plain.be, &d), b = op_run(wide.be, &d);
            int64_t bad = differing(&a, &b);
            if (bad) fail_msg("%s: %s: %lld bits differ", isa_name[s], op_case_name(name, &list[i]), (long long)bad);
            op_out_free(&a);
            op_out_free(&b);
            op_free(&d);
        }
        close_cpu(&wide);
    }
    close_cpu(&plain);
    backend_close(ref);
}

static void test_row_invariance(void **state) {
    (void)state;
    static OpCase list[OPS_MAX];
    int n = cases(list), n_run = 0;
    Backend *ref = open_ref();
    for (int s = 0; s < COUNT_OF(isa_name); s++) {
        Opened cpu = open_cpu(isa_name[s], 2);
        for (int i = 0; i < n && cpu.be; i++) {
            OpData d;
            char name[240];
            if (!is_forward(list[i].op) || (double)list[i].n * list[i].n * list[i].m > 2e6) continue;
            op_build(&d, &list[i], ref);
            int64_t bad = d.sliceable ? ops_row_invariance(cpu.be, &d) : 0;
            n_run += d.sliceable;
            if (bad) fail_msg("%s: %s: %lld bits differ", isa_name[s], op_case_name(name, &list[i]), (long long)bad);
            op_free(&d);
        }
        close_cpu(&cpu);
    }
    assert_true(n_run > 50);
    backend_close(ref);
}

static void test_decode_equals_prefill(void **state) {
    (void)state;
    for (int s = 0; s < COUNT_OF(isa_name); s++) {
        Opened cpu = open_cpu(isa_name[s], 2);
        if (cpu.be) assert_int_equal(ops_attn_invariance(cpu.be, seed), 0);
        close_cpu(&cpu);
    }
}

static void test_threads(void **state) {
    (void)state;
    static const int n_thread[] = {2, 3, 8};
    static OpCase list[OPS_MAX];
    int n = cases(list);
    Backend *ref = open_ref();
    Pool *one_pool;
    Backend *one;
    Error err = {0};
    assert_true(pool_open(&one_pool, 1, &err) && backend_open(&one, "cpu", one_pool, NULL, &err));
    for (int t = 0; t < COUNT_OF(n_thread); t++) {
        Pool *pool;
        Backend *many;
        assert_true(pool_open(&pool, n_thread[t], &err) && backend_open(&many, "cpu", pool, "auto", &err));
        for (int i = 0; i < n; i++) {
            OpData d;
            char name[240];
            op_build(&d, &list[i], ref);
            OpOut a = op_run(one, &d), b = op_run(many, &d);
            int64_t bad = differing(&a, &b);
            if (bad)
                fail_msg("%d threads: %s: %lld bits differ", n_thread[t], op_case_name(name, &list[i]), (long long)bad);
            op_out_free(&a);
            op_out_free(&b);
            op_free(&d);
        }
        backend_close(many);
        pool_close(pool);
    }
    backend_close(one);
    pool_close(one_pool);
    backend_close(ref);
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
    backend_close(be);
    pool_close(pool);
}

int main(void) {
    const char *given = getenv("TEST_SEED");
    if (given) seed = strtoull(given, NULL, 10);
    print_message("seed %llu (TEST_SEED)\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),       cmocka_unit_test(test_against_ref),
        cmocka_unit_test(test_sets_agree), cmocka_unit_test(test_row_invariance),
        cmocka_unit_test(test_threads),    cmocka_unit_test(test_decode_equals_prefill),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
