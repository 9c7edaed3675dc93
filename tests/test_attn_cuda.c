// layer: tensor
// gpu: yes
// label: slow
// cost: 20
/* Attention of the cuda backend beyond the common cases: heads and contexts of several tiles and splits, BF16 mode with
 * tensors of every type, and its promises about bits. On the GPU, or emulated (test_ops_cuda.c). TEST_ONLY=n runs case
 * n alone. */
#include "ops_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static uint64_t seed = 1;         /* TEST_SEED in the environment replaces it */
static Backend *be, *exact, *ref; /* exact: be, where rows must not tell how many they are */

typedef struct {
    int n_head, n_kv, d_head, window;
    bool causal, paged;
    int n_seq, len[OPS_SEQS], ctx[OPS_SEQS]; /* ctx 0: len */
    int pad;
} Shape;

// clang-format off
static const Shape shapes[] = {
    /* one tile and a bit, heads of every kernel, sequences that end inside tiles */
    {2, 1,  32,   0, true,  false, 3, {200, 17, 129}, {0}, 0},
    {2, 2,  64,   0, true,  false, 2, {300, 40},      {0}, 0},
    {2, 1,  80,   0, true,  false, 2, {150, 70},      {0}, 0},
    {2, 1,  96,   0, true,  false, 2, {150, 70},      {0}, 0},
    {2, 1, 128,   0, true,  false, 2, {280, 33},      {0}, 0},
    {2, 1, 128,   0, false, false, 2, {150, 70},      {0}, 0},
    {8, 1,  64,   0, true,  false, 1, {200},          {0}, 0},
    {1, 1, 160,   0, true,  false, 1, {100},          {0}, 0},
    /* widths that kernels pad, rows that lie badly */
    {2, 1,  48,   0, true,  false, 2, {130, 20},      {0}, 3},
    {2, 1,  72,   0, true,  false, 2, {130, 20},      {0}, 1},
    {3, 1, 100,   0, true,  false, 2, {130, 20},      {0}, 0},
    {2, 1, 112,   0, false, false, 1, {130},          {0}, 8},
    /* windows shorter than a tile, of several tiles */
    {2, 1,  64,  30, true,  false, 2, {300, 20},      {0}, 0},
    {2, 1,  64, 150, true,  false, 2, {400, 20},      {0}, 0},
    {2, 1, 128, 100, true,  false, 1, {290},          {0}, 0},
    {1, 1, 128,  66, true,  false, 1, {220},          {0}, 0},
    {2, 1,  32,  34, true,  false, 1, {200},          {0}, 0},
    /* prompts that continue, from shuffled pages */
    {4, 2,  64,   0, true,  true,  4, {20, 130, 1, 64}, {300, 130, 70, 200}, 0},
    {2, 1, 128,   0, true,  true,  2, {40, 1},        {200, 333}, 8},
    {2, 1,  64, 100, true,  true,  2, {140, 3},       {400, 333}, 0},
    {2, 1,  40,   0, false, true,  2, {30, 2},        {100, 80}, 5},
    /* tiles of which a warp's first row misses one key, its last row sees one */
    {2, 1,  64,   0, true,  true,  4, {40, 40, 40, 40}, {102, 103, 73, 72}, 0},
    {1, 1,  64,  65, true,  true,  3, {40, 40, 40},   {167, 168, 200}, 0},
    /* decoding over several splits, groups of one to sixteen heads */
    {2, 2,  64,   0, true,  true,  3, {1, 1, 1},      {1100, 64, 513}, 0},
    {8, 1,  64,   0, true,  true,  2, {1, 4},         {600, 257}, 0},
    {16, 1, 128,  0, true,  true,  2, {1, 2},         {300, 700}, 0},
    {20, 1, 32,   0, true,  true,  2, {1, 3},         {300, 40}, 0},
    {4, 2,  80, 300, true,  true,  3, {1, 2, 16},     {900, 301, 650}, 0},
    {4, 2,  96,   0, true,  true,  2, {1, 1},         {90, 600}, 8},
    {3, 1,   5,   0, true,  true,  2, {1, 2},         {300, 1030}, 1},
};
// clang-format on

static OpCase make(const Shape *s, OpId op, OpStore store, unsigned half, int number) {
    OpCase c = {.op = op, .store = store, .half = half, .n_head = s->n_head, .n_kv = s->n_kv, .d_head = s->d_head};
    c.n_seq = s->n_seq, c.window = s->window, c.causal = s->causal, c.paged = s->paged, c.pad = s->pad;
    for (int i = 0; i < s->n_seq; i++) c.len[i] = s->len[i], c.ctx[i] = s->ctx[i] ? s->ctx[i] : s->len[i];
    c.spread = 1, c.temp = 1, c.eps = 1e-5f, c.f32 = true;
    c.seed = seed * 1000 + (uint64_t)number;
    return c;
}

static int only(void) { return getenv("TEST_ONLY") ? atoi(getenv("TEST_ONLY")) : -1; }

/* Against ref, twice: equal bits. Returns the error, of the worst tensor. */
static double compare(const OpCase *c, double bound, int number) {
    OpData d;
    op_build(&d, c, ref);
    const char *which;
    char name[240];
    OpOut want = op_run(ref, &d), got = op_run(be, &d), again = op_run(be, &d);
    double e = op_compare(&d, &got, &want, &which);
    if (!(e < bound)) fail_msg("%d %s half=%u: %s is off by %.3g", number, op_case_name(name, c), c->half, which, e);
    if (got.touched) fail_msg("%d %s: wrote outside", number, op_case_name(name, c));
    if (memcmp(got.v, again.v, (size_t)got.n * sizeof *got.v) != 0)
        fail_msg("%d %s: other bits the second time", number, op_case_name(name, c));
    op_out_free(&want);
    op_out_free(&got);
    op_out_free(&again);
    op_free(&d);
    return e;
}

static void use(Backend *b, DType dtype) {
    Error err = {0};
    if (!backend_set_dtype(b, dtype, &err)) fail_msg("%s", err.msg);
}

static void all_shapes(OpStore store, const unsigned *half, int n_half, double bound) {
    double fwd = 0, bwd = 0;
    for (int i = 0; i < COUNT_OF(shapes); i++) {
        if (only() >= 0 && only() != i) continue;
        OpCase c = make(&shapes[i], OP_attn_fwd, store, half[i % n_half], i);
        fwd = fmax(fwd, compare(&c, bound, i));
        c.op = OP_attn_bwd;
        if (!c.paged) bwd = fmax(bwd, compare(&c, bound, i));
    }
    print_message("  forward %.1e, backward %.1e\n", fwd, bwd);
}

static void test_f32(void **state) {
    (void)state;
    use(be, DTYPE_F32);
    all_shapes(STORE_REAL, (const unsigned[]){0}, 1, 1e-5);
}

/* F32 tensors whose numbers BF16 holds, so that what is left is the rounding of p, ds and o. */
static void test_bf16(void **state) {
    (void)state;
    use(be, DTYPE_BF16);
    all_shapes(STORE_ROUND, (const unsigned[]){0}, 1, 3e-3);
    use(be, DTYPE_F32);
}

static void test_bf16_tensors(void **state) {
    (void)state;
    use(be, DTYPE_BF16);
    all_shapes(STORE_BF16, (const unsigned[]){7, 7, 1, 6, 3, 5, 2}, 7, 1e-2);
    use(be, DTYPE_F32);
}

/* The common cases, in BF16 mode too. Differences of equals (one key alone) only have to be small. */
static void test_common_bf16(void **state) {
    (void)state;
    use(be, DTYPE_BF16);
    static OpCase list[OPS_MAX];
    int n = ops_all(list, seed), n_run = 0;
    for (int i = 0; i < n; i++) {
        OpCase c = list[i];
        bool single = c.op == OP_attn_bwd;
        for (int s = 0; s < c.n_seq; s++) single = single && (c.ctx[s] <= 1 || c.window == 1);
        if ((c.op != OP_attn_fwd && c.op != OP_attn_bwd) || single) continue;
        if (only() >= 0 && only() != i) continue;
        c.f32 = true;
        c.store = STORE_ROUND;
        compare(&c, 1e-2, i);
        n_run++;
    }
    assert_true(n_run > 50 || only() >= 0);
    use(be, DTYPE_F32);
}

/* F32: one query alone, some of them, a whole prompt, any pages, any company. */
static void test_f32_invariance(void **state) {
    (void)state;
    assert_int_equal(ops_attn_invariance(be, seed), 0);
    static const Shape long_one = {2, 1, 16, 0, true, false, 2, {1100, 70}, {0}, 1};
    static const int step[] = {16, 100, 700};
    for (int window = 0; window <= 600; window += 600) {
        OpCase c = make(&long_one, OP_attn_fwd, STORE_REAL, 0, 1);
        c.window = window;
        OpData d;
        op_build(&d, &c, NULL);
        OpOut whole = op_run(be, &d);
        for (int i = 0; i < COUNT_OF(step); i++)
            assert_int_equal(op_attn_replay(be, &d, &whole, 0, step[i], seed + (uint64_t)i), 0);
        op_out_free(&whole);
        op_free(&d);
    }
}

/* BF16: the rows of a sequence do not depend on the sequences beside it; nor those of a prompt on how it is cut into
 * pieces that are not decoded. */
static void test_bf16_company(void **state) {
    (void)state;
    use(be, DTYPE_BF16);
    static const Shape together = {2, 1, 64, 0, true, false, 3, {300, 40, 9}, {0}, 0};
    OpCase c = make(&together, OP_attn_fwd, STORE_REAL, 0, 1);
    OpData d;
    op_build(&d, &c, NULL);
    OpOut whole = op_run(be, &d);
    assert_int_equal(op_attn_replay(be, &d, &whole, 0, 100, seed), 0);
    assert_int_equal(op_attn_replay(be, &d, &whole, 1, 40, seed), 0);
    assert_int_equal(op_attn_replay(be, &d, &whole, 2, 9, seed), 0);
    op_out_free(&whole);
    op_free(&d);
    use(be, DTYPE_F32);
}

/* BF16, exact: as F32, whatever kernel has the rows. */
static void test_bf16_exact(void **state) {
    (void)state;
    static const Shape mixed[] = {
        {4, 2, 32, 0, true, false, 3, {150, 70, 9}, {0}, 0}, {2, 1, 64, 70, true, false, 2, {200, 30}, {0}, 0},
        {2, 2, 80, 0, true, false, 1, {100}, {0}, 0},        {2, 1, 96, 0, false, false, 2, {90, 20}, {0}, 0},
        {16, 1, 128, 0, true, false, 1, {80}, {0}, 0},       {20, 1, 40, 100, true, false, 1, {130}, {0}, 8},
        {2, 1, 40, 0, true, false, 1, {70}, {0}, 1}};
    static const int step[] = {1, 5, 16, 40};
    use(exact, DTYPE_BF16);
    for (int i = 0; i < COUNT_OF(mixed); i++) {
        OpCase c = make(&mixed[i], OP_attn_fwd, i == 2 ? STORE_REAL : STORE_BF16, 7, i);
        OpData d;
        op_build(&d, &c, NULL);
        OpOut whole = op_run(exact, &d), usual = op_run(ref, &d);
        const char *which;
        assert_true(op_compare(&d, &whole, &usual, &which) < 1e-2);
        for (int s = 0; s < c.n_seq; s++) {
            int k = (i + s) % COUNT_OF(step);
            assert_int_equal(op_attn_replay(exact, &d, &whole, s, s == 0 && i ? step[k] : 1, seed + 1), 0);
        }
        op_out_free(&whole);
        op_out_free(&usual);
        op_free(&d);
    }
    use(exact, DTYPE_F32);
}

/* Rows of no sequence: nothing is written by the forward, zeros by the backward. */
static void test_no_rows(void **state) {
    (void)state;
    Tensor none = {.cols = 8, .ld = 8, .dtype = DTYPE_F32};
    static const int32_t off[2] = {0, 0}, len[1] = {0}, page[1] = {0};
    AttnSeqs s = {.n_seq = 1, .max_page = 1, .q_off = off, .kv_len = len, .kv_page = page, .causal = true};
    be->op->attn_fwd(be, none, (Tensor){0}, none, none, none, s, 8);
    be->op->attn_bwd(be, none, none, none, none, none, (Tensor){.cols = 1, .ld = 1}, none, none, none, s, 8);
}

int main(void) {
    const char *given = getenv("TEST_SEED");
    if (given) seed = strtoull(given, NULL, 10);
    print_message("seed %llu (TEST_SEED)\n", (unsigned long long)seed);
    Error err = {0};
    if (!backend_open(&be, "cuda", NULL, NULL, &err)) {
        printf("skipped: %s\n", err.msg);
        return 77;
    }
    if (!backend_open(&exact, "cuda", NULL, "exact", &err)) {
        printf("%s\n", err.msg);
        return 1;
    }
    if (!backend_open(&ref, "ref", NULL, NULL, &err)) {
        printf("%s\n", err.msg);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),         cmocka_unit_test(test_bf16),           cmocka_unit_test(test_bf16_tensors),
        cmocka_unit_test(test_common_bf16), cmocka_unit_test(test_f32_invariance), cmocka_unit_test(test_bf16_company),
        cmocka_unit_test(test_bf16_exact),  cmocka_unit_test(test_no_rows),
    };
    if (getenv("TEST_FILTER")) cmocka_set_test_filter(getenv("TEST_FILTER"));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backend_close(ref);
    backend_close(exact);
    backend_close(be);
    return failed;
}
