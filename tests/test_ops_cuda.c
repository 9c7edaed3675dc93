// layer: tensor
// gpu: yes
/* The cuda backend: every case of ops_cases.h against ref, and some of sizes where its kernels change their ways; equal
 * bits of two runs; rows alone and in company where that is promised. In a build with CUDA it runs on the GPU (exit 77
 * without one), in others the same kernels run on an emulated one. TEST_OP=attn_fwd,attn_bwd in the environment picks
 * ops. */
#include "ops_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static uint64_t seed = 1; /* TEST_SEED in the environment replaces it */

static struct {
    OpCase list[OPS_MAX];
    OpData data[OPS_MAX];
    int n;
    Backend *be, *ref;
} all;

static bool picked(OpId op) {
    const char *list = getenv("TEST_OP"), *name = op_name(op);
    size_t n = strlen(name);
    if (!list) return true;
    for (const char *at = strstr(list, name); at; at = strstr(at + 1, name))
        if ((at == list || at[-1] == ',') && (at[n] == ',' || at[n] == 0)) return true;
    return false;
}

/* What a BF16 model's attention and the ops around it read and write. */
static void add_half(OpList *l) {
    static const OpId look[] = {OP_gather_rows, OP_scatter_rows, OP_scatter_add_rows};
    for (int i = 0; i < COUNT_OF(look); i++)
        for (int j = 0; j < 3; j++)
            op_add(l,
                   (OpCase){
                       .op = look[i], .store = STORE_BF16, .n = 33, .m = j ? 136 : 31, .k = 50, .pad = j == 1 ? 3 : 0});
    for (int j = 0; j < 3; j++)
        op_add(l, (OpCase){.op = OP_rope,
                           .store = STORE_BF16,
                           .n = 17,
                           .n_head = 3,
                           .d_head = j ? 64 : 10,
                           .n_kv = 1,
                           .inverse = j == 2,
                           .pad = j == 1 ? 3 : 0});
    static const struct {
        int n_seq, len[OPS_SEQS], ctx[OPS_SEQS], n_head, n_kv, d_head, window;
        bool causal, paged;
    } attn[] = {
        {3, {70, 1, 150}, {70, 1, 150}, 4, 2, 16, 0, true, false},
        {3, {70, 1, 150}, {70, 1, 150}, 2, 1, 64, 0, true, false},
        {2, {65, 130}, {65, 130}, 2, 2, 128, 0, true, false},
        {2, {65, 190}, {65, 190}, 3, 1, 64, 70, true, false},
        {2, {65, 129}, {65, 129}, 2, 1, 64, 0, false, false},
        {2, {33, 64}, {33, 64}, 2, 1, 20, 0, true, false},
        {4, {1, 1, 1, 1}, {64, 65, 63, 200}, 4, 2, 64, 0, true, true},
        {4, {5, 1, 64, 17}, {69, 128, 64, 145}, 8, 2, 128, 0, true, true},
        {4, {1, 5, 1, 64}, {130, 69, 200, 130}, 4, 1, 64, 100, true, true},
    };
    for (int i = 0; i < COUNT_OF(attn); i++) {
        OpCase c = {.op = OP_attn_fwd,
                    .store = STORE_BF16,
                    .n_seq = attn[i].n_seq,
                    .causal = attn[i].causal,
                    .pad = i % 3 == 2 ? 8 : 0};
        c.n_head = attn[i].n_head, c.n_kv = attn[i].n_kv, c.d_head = attn[i].d_head, c.window = attn[i].window;
        c.paged = attn[i].paged;
        c.half = 7;
        memcpy(c.len, attn[i].len, sizeof c.len);
        memcpy(c.ctx, attn[i].ctx, sizeof c.ctx);
        op_add(l, c);
        c.op = OP_attn_bwd;
        if (!c.paged) op_add(l, c);
    }
}

/* Sizes past a warp, a block, a tile, a wave of blocks. */
static int cases(OpCase list[OPS_MAX]) {
    int n = ops_all(list, seed);
    OpList l = {.list = list, .n = n, .seed = seed * OPS_MAX};
    static const int linear[][3] = {{129, 200, 72}, {64, 256, 136}, {1, 300, 520}, {37, 129, 67}}; /* n, m, k */
    for (int i = 0; i < COUNT_OF(linear); i++)
        for (int s = STORE_REAL; s <= STORE_W_I8; s++) {
            OpCase c = {.n = linear[i][0], .m = linear[i][1], .k = linear[i][2], .pad = i % 2, .add = i % 2};
            c.store = (OpStore)s;
            c.op = OP_linear_fwd;
            op_add(&l, c);
            c.op = OP_linear_bwd;
            if (s <= STORE_BF16) op_add(&l, c);
        }
    static const int few[][3] = {{1, 200, 256},  {8, 24, 32},   {9, 72, 288}, {16, 64, 2304},
                                 {16, 40, 2656}, {7, 24, 5888}, {17, 40, 96}, {31, 264, 64}};
    for (int i = 0; i < COUNT_OF(few); i++) /* decoding: few.cu */
        for (int add = 0; add < 2; add++)
            op_add(&l, (OpCase){.op = OP_linear_fwd,
                                .store = STORE_BF16,
                                .n = few[i][0],
                                .m = few[i][1],
                                .k = few[i][2],
                                .add = add,
                                .pad = i % 2 ? 8 : 0,
                                .parts = i % 2 ? 2 : 1});
    static const OpId elem[] = {OP_zero,        OP_copy,        OP_add,           OP_add_bias,      OP_swiglu_fwd,
                                OP_swiglu_bwd,  OP_gelu_fwd,    OP_gelu_bwd,      OP_scale,         OP_adamw,
                                OP_sumsq,       OP_all_finite,  OP_rmsnorm_fwd,   OP_layernorm_fwd, OP_rmsnorm_bwd,
                                OP_logprob_fwd, OP_logprob_bwd, OP_layernorm_bwd, OP_dropout};
    for (int i = 0; i < COUNT_OF(elem); i++)
        for (int wide = 0; wide < 2; wide++)
            op_add(&l, (OpCase){.op = elem[i],
                                .n = wide ? 3 : 70,
                                .m = wide ? 4104 : 264,
                                .pad = wide ? 0 : 8,
                                .adamw = {1e-3, 0.9, 0.95, 1e-8, 0.1, 5, 0.5}});
    static const OpId look[] = {OP_embed_fwd, OP_embed_bwd, OP_gather_rows, OP_scatter_rows, OP_scatter_add_rows};
    for (int i = 0; i < COUNT_OF(look); i++)
        op_add(&l, (OpCase){.op = look[i], .n = look[i] == OP_scatter_rows ? 90 : 700, .m = 136, .k = 90});
    op_add(&l, (OpCase){.op = OP_rope, .n = 70, .n_head = 3, .d_head = 24, .n_kv = 1});
    add_half(&l);
    for (int i = 0; i < l.n; i++) list[i].f32 = true;
    return l.n;
}

static int setup(void **state) {
    (void)state;
    Error err = {0};
    if (!backend_open(&all.ref, "ref", NULL, NULL, &err)) fail_msg("%s", err.msg);
    all.n = cases(all.list);
    for (int i = 0; i < all.n; i++) op_build(&all.data[i], &all.list[i], all.ref);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    for (int i = 0; i < all.n; i++) op_free(&all.data[i]);
    backend_close(all.ref);
    backend_close(all.be);
    return 0;
}

/* As in test_ops_cpu.c; sums of many products in BF16 keep to F32's bound because they are summed in F32. */
static double bound(const OpCase *c) {
    if (c->op == OP_quantize) return 1e-2; /* a half may fall to either side */
    bool linear = c->op == OP_linear_fwd || c->op == OP_linear_bwd;
    if (c->store == STORE_BF16 && !linear) return 1e-2; /* the result is rounded to BF16 */
    if (c->store == STORE_BF16 && !c->add && c->n % 2) return 1e-2;
    bool single = c->op == OP_attn_bwd;
    for (int s = 0; s < c->n_seq; s++) single = single && (c->ctx[s] <= 1 || c->window == 1);
    return single ? 1e-3 : 1e-5;
}

/* A log-prob or an entropy near 0 is what is left of large numbers: its error is as large as theirs. */
static bool small_difference(const OpCase *c, const OpOut *got, const OpOut *want) {
    if (c->op != OP_logprob_fwd) return false;
    for (int64_t i = 0; i < got->n; i++)
        if (!(fabs(got->v[i] - want->v[i]) < 1e-6 + 1e-5 * fabs(want->v[i]))) return false;
    return true;
}

/* The case again, with ld and addresses as they were: equal bits. */
static int64_t differing(const OpOut *a, const OpOut *b) {
    int64_t bad = 0;
    for (int64_t i = 0; i < a->n; i++) bad += memcmp(&a->v[i], &b->v[i], sizeof *a->v) != 0;
    return bad;
}

static void test_against_ref(void **state) {
    (void)state;
    double worst[OP_COUNT] = {0};
    int n_bad = 0, n_case[OP_COUNT] = {0};
    for (int i = 0; i < all.n; i++) {
        const OpCase *c = &all.list[i];
        if (!picked(c->op)) continue;
        char name[240];
        const char *which;
        OpOut want = op_run(all.ref, &all.data[i]), got = op_run(all.be, &all.data[i]),
              again = op_run(all.be, &all.data[i]);
        double e = op_compare(&all.data[i], &got, &want, &which);
        bool off = !(e < bound(c)) && !small_difference(c, &got, &want);
        int64_t moved = differing(&got, &again);
        if (off) print_error("%s store=%d: %s is off by %.3g\n", op_case_name(name, c), (int)c->store, which, e);
        if (got.touched) print_error("%s store=%d: wrote outside\n", op_case_name(name, c), (int)c->store);
        if (moved)
            print_error("%s store=%d: %lld bits differ the second time\n", op_case_name(name, c), (int)c->store,
                        (long long)moved);
        n_bad += off || got.touched || moved;
        n_case[c->op]++;
        if (e > worst[c->op] && bound(c) < 1e-4) worst[c->op] = e;
        op_out_free(&want);
        op_out_free(&got);
        op_out_free(&again);
    }
    for (int i = 0; i < OP_COUNT; i++) {
        if (n_case[i]) print_message("  %-17s %3d cases, %.1e\n", op_name((OpId)i), n_case[i], worst[i]);
        assert_true(n_case[i] > 0 || !picked((OpId)i));
    }
    assert_int_equal(n_bad, 0);
}

/* Rows behind the end: nothing is launched, nothing is written. */
static void test_no_rows(void **state) {
    (void)state;
    Backend *be = all.be;
    Tensor none = {.cols = 8, .ld = 8, .dtype = DTYPE_F32}, w = {.rows = 4, .cols = 8, .ld = 8, .dtype = DTYPE_F32};
    Tensor v = tensor_rows(w, 0, 1), thin = {.cols = 4, .ld = 4, .dtype = DTYPE_F32};
    void *p = be->mem.get(be->mem.ud, 4 * 8 * sizeof(float));
    w.data = v.data = p;
    int32_t idx[1] = {0};
    double freq[4] = {1, 1, 1, 1};
    if (picked(OP_zero)) be->op->zero(be, none);
    if (picked(OP_copy)) be->op->copy(be, none, none);
    if (picked(OP_cast)) be->op->cast(be, none, none);
    if (picked(OP_add)) be->op->add(be, none, none, none);
    if (picked(OP_add_bias)) be->op->add_bias(be, none, none, v);
    if (picked(OP_scale)) be->op->scale(be, none, 2);
    if (picked(OP_dropout)) be->op->dropout(be, none, none, (Dropout){.drop = 1});
    if (picked(OP_rope)) be->op->rope(be, none, idx, freq, 8, false);
    if (picked(OP_swiglu_fwd)) be->op->swiglu_fwd(be, none, none, none);
    if (picked(OP_swiglu_bwd)) be->op->swiglu_bwd(be, none, none, none, none, none);
    if (picked(OP_gelu_fwd)) be->op->gelu_fwd(be, none, none, GELU_TANH);
    if (picked(OP_gelu_bwd)) be->op->gelu_bwd(be, none, none, none, GELU_TANH);
    if (picked(OP_embed_fwd)) be->op->embed_fwd(be, none, w, idx, false);
    if (picked(OP_gather_rows)) be->op->gather_rows(be, none, w, idx);
    if (picked(OP_scatter_rows)) be->op->scatter_rows(be, w, none, idx);
    if (picked(OP_rmsnorm_fwd)) be->op->rmsnorm_fwd(be, none, (Tensor){0}, none, v, 1e-5f);
    if (picked(OP_linear_fwd)) be->op->linear_fwd(be, &(LinearOut){.y = thin, .w = w}, 1, none, false);
    if (picked(OP_linear_bwd)) be->op->linear_bwd(be, none, &(LinearGrad){.dy = thin, .w = w}, 1, none, false);
    if (picked(OP_logprob_fwd)) be->op->logprob_fwd(be, (Tensor){.cols = 1, .ld = 1}, (Tensor){0}, none, idx, 1);
    be->mem.put(be->mem.ud, p, 4 * 8 * sizeof(float));
}

/* Tensors larger than the stage they go through, with gaps between rows, of every type, in and out. */
static void test_host_side(void **state) {
    (void)state;
    enum { ROWS = 3, COLS = 9000000 / 4, GAP = 5 }; /* one row is more than half of the stage */
    Backend *be = all.be;
    static const DType dtype[] = {DTYPE_F32, DTYPE_BF16, DTYPE_I8, DTYPE_I32, DTYPE_F64};
    for (int k = 0; k < COUNT_OF(dtype); k++) {
        int64_t rows = k ? 1000 : ROWS, cols = k ? 77 : COLS, n = rows * cols;
        size_t size = dtype_bytes(dtype[k]), bytes = (size_t)(rows * (cols + GAP)) * size;
        void *p = be->mem.get(be->mem.ud, bytes);
        Tensor t = {.data = p, .rows = rows, .cols = cols, .ld = cols + GAP, .dtype = dtype[k]};
        double *x = mem_alloc((size_t)n * sizeof *x), *y = mem_alloc((size_t)n * sizeof *y);
        float *f = mem_alloc((size_t)n * sizeof *f);
        for (int64_t i = 0; i < n; i++) x[i] = (double)((i * 7919 + i / 3000) % 251 - 125);
        tensor_set(be, t, x);
        memset(x, 0, (size_t)n * sizeof *x); /* it may change at once */
        tensor_get(be, y, t);
        int64_t bad = 0;
        for (int64_t i = 0; i < n; i++) bad += y[i] != (double)((i * 7919 + i / 3000) % 251 - 125);
        assert_int_equal(bad, 0);
        tensor_get_f32(be, f, t);
        for (int64_t i = 0; i < n; i++) bad += (double)f[i] != y[i];
        for (int64_t i = 0; i < n; i++) f[i] = -f[i];
        tensor_set_f32(be, t, f);
        for (int64_t i = 0; i < n; i++) f[i] = 0;
        tensor_get_row(be, x, t, rows - 1);
        for (int64_t j = 0; j < cols; j++) bad += x[j] != -y[n - cols + j];
        tensor_set_row(be, t, 1, y);
        tensor_get(be, x, t);
        for (int64_t i = 0; i < n; i++) bad += x[i] != (i / cols == 1 ? y[i - cols] : -y[i]);
        assert_int_equal(bad, 0);
        if (dtype[k] == DTYPE_F32) { /* what lies between the rows is as it was: NaN */
            Tensor all_of = tensor_over(p, DTYPE_F32, rows, cols + GAP);
            double *z = mem_alloc((size_t)(cols + GAP) * sizeof *z);
            tensor_get_row(be, z, all_of, 1);
            for (int64_t j = cols; j < cols + GAP; j++) assert_true(isnan(z[j]));
            free(z);
        }
        be->mem.put(be->mem.ud, p, bytes);
        free(x), free(y), free(f);
    }
}

static bool is_forward(OpId op) {
    return op == OP_embed_fwd || op == OP_gather_rows || op == OP_rmsnorm_fwd || op == OP_layernorm_fwd ||
           op == OP_rope || op == OP_swiglu_fwd || op == OP_gelu_fwd || op == OP_logprob_fwd || op == OP_add ||
           op == OP_add_bias || op == OP_cast;
}

/* All but products and attention: those choose their ways by the shape of the whole. */
static void test_row_invariance(void **state) {
    (void)state;
    int n_run = 0;
    for (int i = 0; i < all.n; i++) {
        char name[240];
        const OpCase *c = &all.list[i];
        if (!is_forward(c->op) || !picked(c->op) || !all.data[i].sliceable || c->n > 20) continue;
        int64_t bad = ops_row_invariance(all.be, &all.data[i]);
        n_run++;
        if (bad) fail_msg("%s: %lld bits differ", op_case_name(name, c), (long long)bad);
    }
    assert_true(n_run > 50 || getenv("TEST_OP"));
}

/* Exact mode: every forward op, products and attention too; a query alone against a whole prompt. */
static void test_exact(void **state) {
    (void)state;
    Backend *be = NULL;
    Error err = {0};
    int n_run = 0;
    if (!backend_open(&be, "cuda", NULL, "exact", &err)) fail_msg("%s", err.msg);
    assert_true(be->exact && !all.be->exact);
    for (int i = 0; i < all.n; i++) {
        char name[240];
        const OpCase *c = &all.list[i];
        bool small = (double)c->n * c->n * c->m * (c->k > 0 ? c->k : 1) < 1e6;
        if (c->op != OP_linear_fwd || !picked(c->op) || !small) continue;
        int64_t bad = ops_row_invariance(be, &all.data[i]);
        n_run++;
        if (bad) fail_msg("%s store=%d: %lld bits differ", op_case_name(name, c), (int)c->store, (long long)bad);
    }
    assert_true(n_run > 20 || getenv("TEST_OP"));
    if (picked(OP_attn_fwd)) assert_int_equal(ops_attn_invariance(be, seed), 0);
    backend_close(be);
}

int main(void) {
    const char *given = getenv("TEST_SEED");
    if (given) seed = strtoull(given, NULL, 10);
    print_message("seed %llu (TEST_SEED)\n", (unsigned long long)seed);
    Error err = {0};
    if (!backend_open(&all.be, "cuda", NULL, NULL, &err)) {
        printf("skipped: %s\n", err.msg);
        return 77;
    }
    print_message("%s\n", backend_isa(all.be));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host_side),      cmocka_unit_test(test_against_ref), cmocka_unit_test(test_no_rows),
        cmocka_unit_test(test_row_invariance), cmocka_unit_test(test_exact),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
