// layer: tensor
// gpu: emulated
// label: slow
/* Which attention kernels a device of compute capability 9.0 gets: its own after a look at what they give
 * (attn_check.c), the older ones when that is wrong (here by descriptors that are broken on purpose) or when they are
 * asked for. */
#include "emu/driver_emu.h"
#include "ops_cases.h"
#include "tensor/cuda/cuda_int.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static Backend *ref;

static Backend *open_half(const char *isa) {
    Backend *be = NULL;
    Error err = {0};
    if (!backend_open(&be, "cuda", NULL, isa, &err) || !backend_set_dtype(be, DTYPE_BF16, &err))
        fail_msg("%s", err.msg);
    return be;
}

static OpCase attention(OpId op, int d_head, int n_head, int n_kv, bool causal, int window) {
    OpCase c = {.op = op, .store = STORE_BF16, .half = 7, .n_head = n_head, .n_kv = n_kv, .d_head = d_head};
    c.causal = causal, c.window = window, c.f32 = true, c.spread = 1, c.temp = 1, c.eps = 1e-5f;
    return c;
}

static void compare(Backend *be, OpCase *c, double bound) {
    OpData d;
    const char *which;
    char name[240];
    op_build(&d, c, ref);
    OpOut want = op_run(ref, &d), got = op_run(be, &d);
    double e = op_compare(&d, &got, &want, &which);
    if (!(e < bound)) fail_msg("%s: %s is off by %.3g", op_case_name(name, c), which, e);
    if (got.touched) fail_msg("%s: wrote outside", op_case_name(name, c));
    op_out_free(&want);
    op_out_free(&got);
    op_free(&d);
}

static void one(Backend *be, OpId op, int d_head, int len) {
    OpCase c = attention(op, d_head, 2, 1, true, 0);
    c.n_seq = 1, c.len[0] = c.ctx[0] = len, c.seed = (uint64_t)(1000 * d_head + len);
    compare(be, &c, len == 1 && op == OP_attn_bwd ? 1e30 : 1e-2);
}

/* Every length that ends a tile, a page or a warp's rows, and those beside it. */
static void test_lengths(void **state) {
    (void)state;
    static const int len[] = {1, 2, 15, 16, 17, 31, 63, 64, 65, 96, 127, 128, 129, 191, 192, 193, 255, 256, 257};
    Backend *be = open_half(NULL);
    assert_true(cuda_impl(be)->hopper);
    for (int d = 64; d <= 128; d *= 2)
        for (int i = 0; i < COUNT_OF(len); i++) {
            one(be, OP_attn_fwd, d, len[i]);
            one(be, OP_attn_bwd, d, len[i]);
        }
    backend_close(be);
}

/* More pieces of work than multiprocessors, so that a block does several; groups of four heads; windows; no causality.
 */
static void test_many_pieces(void **state) {
    (void)state;
    static const struct {
        int d_head, n_head, n_kv, window;
        bool causal;
    } all[] = {{128, 4, 1, 0, true}, {64, 4, 1, 90, true}, {128, 2, 2, 33, true}, {64, 4, 2, 0, false}};
    Backend *be = open_half(NULL);
    for (int i = 0; i < COUNT_OF(all); i++)
        for (int bwd = 0; bwd < 2; bwd++) {
            OpCase c = attention(bwd ? OP_attn_bwd : OP_attn_fwd, all[i].d_head, all[i].n_head, all[i].n_kv,
                                 all[i].causal, all[i].window);
            static const int len[] = {140, 9, 260, 64};
            c.n_seq = COUNT_OF(len), c.seed = (uint64_t)i;
            for (int s = 0; s < c.n_seq; s++) c.len[s] = c.ctx[s] = len[s];
            compare(be, &c, 1e-2);
        }
    backend_close(be);
}

/* A row's bits do not depend on the sequences beside it, nor on how its prompt is cut into pieces that are not decoded:
 * tiles of which it sees nothing, before or behind its own, change none. */
static void test_company(void **state) {
    (void)state;
    static const int step[] = {20, 50, 100};
    Backend *be = open_half(NULL);
    for (int i = 0; i < 4; i++) {
        OpCase c = attention(OP_attn_fwd, i % 2 ? 64 : 128, 2, 1, true, i < 2 ? 0 : 90);
        c.n_seq = 2, c.len[0] = c.ctx[0] = 300, c.len[1] = c.ctx[1] = 70, c.seed = (uint64_t)i, c.spread = 8;
        OpData d;
        op_build(&d, &c, NULL);
        OpOut whole = op_run(be, &d);
        for (int k = 0; k < COUNT_OF(step); k++) assert_int_equal(op_attn_replay(be, &d, &whole, 0, step[k], 1), 0);
        assert_int_equal(op_attn_replay(be, &d, &whole, 1, 70, 1), 0);
        op_out_free(&whole);
        op_free(&d);
    }
    backend_close(be);
}

/* What `dikast doctor` would say of attention. */
static void heard(void *ud, int state, const char *what, const char *fix, const char *value) {
    (void)fix;
    snprintf(ud, 320, "%d %s: %s", state, what, value);
}

static void test_trusted(void **state) {
    (void)state;
    Backend *be = open_half("auto");
    const CudaImpl *c = cuda_impl(be);
    print_message("  difference %.2g\n", c->difference);
    assert_true(c->hopper && c->checked && !be->note);
    assert_true(c->difference > 0 && c->difference < 5e-3); /* other kernels, of the same numbers */
    assert_string_equal(backend_isa(be), "sm_90");
    char said[320] = "";
    backend_tell(be, heard, said);
    assert_non_null(strstr(said, "0 attention: kernels for compute capability 9.0"));
    backend_close(be);
}

static void test_asked_for(void **state) {
    (void)state;
    Backend *be = open_half("sm_80");
    assert_true(!cuda_impl(be)->hopper && !be->note);
    assert_string_equal(backend_isa(be), "sm_80");
    one(be, OP_attn_fwd, 128, 100);
    backend_close(be);
    be = open_half("exact"); /* and it stays so */
    assert_true(cuda_impl(be)->exact && cuda_impl(be)->hopper);
    backend_close(be);
    Error err = {0};
    assert_false(backend_open(&be, "cuda", NULL, "sm_70", &err));
    assert_non_null(strstr(err.msg, "auto, exact, sm_80 or sm_90"));
}

/* F32 has no use for them, and no look is taken. */
static void test_f32(void **state) {
    (void)state;
    Backend *be = NULL;
    Error err = {0};
    assert_true(backend_open(&be, "cuda", NULL, NULL, &err));
    assert_false(cuda_impl(be)->checked);
    backend_close(be);
}

/* Start address, leading offset, stride: whichever is wrong, the older kernels are taken and are right. */
static void test_broken(void **state) {
    (void)state;
    static const uint64_t bits[] = {1, (uint64_t)1 << 6, (uint64_t)1 << 16, (uint64_t)64 << 32};
    for (int i = 0; i < COUNT_OF(bits); i++) {
        emu_break_descriptors(bits[i]);
        Backend *be = open_half(NULL);
        print_message("  %s\n", be->note ? be->note : "");
        assert_false(cuda_impl(be)->hopper);
        assert_non_null(be->note);
        assert_non_null(strstr(be->note, "the older ones are used"));
        char said[320] = "";
        backend_tell(be, heard, said);
        assert_memory_equal(said, "1 attention: GPU 0", 18);
        one(be, OP_attn_fwd, 128, 140);
        one(be, OP_attn_bwd, 64, 140);
        backend_close(be);
        emu_break_descriptors(0);
    }
}

int main(void) {
    Error err = {0};
    if (!backend_open(&ref, "ref", NULL, NULL, &err)) {
        printf("%s\n", err.msg);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trusted), cmocka_unit_test(test_lengths),   cmocka_unit_test(test_many_pieces),
        cmocka_unit_test(test_company), cmocka_unit_test(test_asked_for), cmocka_unit_test(test_f32),
        cmocka_unit_test(test_broken),
    };
    if (getenv("TEST_FILTER")) cmocka_set_test_filter(getenv("TEST_FILTER"));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backend_close(ref);
    return failed;
}
