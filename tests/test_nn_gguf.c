// layer: nn
/* GGUF: the container's bytes, what it refuses and by which name; models written and read again in every type; the rows
 * of Llama's q and k; growing a vocabulary. */
#include "nn_help.h"

#include "base/io.h"
#include "nn/gguf_model.h"

#include <errno.h>
#include <math.h>

#define FILE_NAME BUILD_DIR "/nn_model.gguf"

static bool put_number(void *ud, const GgufOutTensor *t, int i, Writer *w, Error *err) {
    unsigned char *bytes = mem_alloc((size_t)t->bytes);
    (void)ud;
    memset(bytes, i + 1, (size_t)t->bytes);
    bool ok = writer_put(w, bytes, (size_t)t->bytes, err);
    free(bytes);
    return ok;
}

static void write_small(void) {
    Error err = {0};
    GgufOut g = {0};
    gguf_put_str(&g, "general.architecture", "x", 1);
    gguf_put_u32(&g, "n", 7);
    gguf_put_f32(&g, "f", 0.5f);
    gguf_put_bool(&g, "b", true);
    gguf_put_array(&g, "words", GGUF_STR, 2);
    gguf_item_put_str(&g, "one", 3);
    gguf_item_put_str(&g, "", 0);
    gguf_put_array(&g, "ints", GGUF_I32, 2);
    gguf_item_put_i32(&g, -3), gguf_item_put_i32(&g, 4);
    gguf_put_tensor(&g, "a", GGUF_TYPE_F32, (int64_t[]){3}, 1);
    gguf_put_tensor(&g, "q", GGUF_TYPE_Q8_0, (int64_t[]){2, 64}, 2);
    OK(gguf_write(FILE_NAME, &g, put_number, NULL, &err));
    gguf_out_release(&g);
}

static void test_container(void **state) {
    (void)state;
    static const unsigned char begin[] = {'G', 'G', 'U', 'F', 3, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0,  6,
                                          0,   0,   0,   0,   0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 'g'};
    Error err = {0};
    GgufFile f;
    GgufStr s;
    int64_t v;
    double x;
    bool b;
    write_small();
    OK(gguf_open(&f, FILE_NAME, &err));
    assert_memory_equal(f.map.p, begin, sizeof begin);
    assert_true(gguf_int(gguf_find(&f, "n"), &v) && v == 7);
    assert_true(gguf_num(gguf_find(&f, "f"), &x) && x == 0.5);
    assert_true(gguf_bool(gguf_find(&f, "b"), &b) && b);
    assert_false(gguf_int(gguf_find(&f, "f"), &v) || gguf_int(gguf_find(&f, "none"), &v));
    assert_true(gguf_str(gguf_find(&f, "general.architecture"), &s) && s.n == 1 && s.s[0] == 'x');
    const GgufPair *words = gguf_find(&f, "words"), *ints = gguf_find(&f, "ints");
    const unsigned char *at = words->value;
    s = gguf_next_str(&at);
    assert_true(words->n == 2 && s.n == 3 && !memcmp(s.s, "one", 3) && gguf_next_str(&at).n == 0);
    assert_true(gguf_item_int(ints, 0) == -3 && gguf_item_int(ints, 1) == 4 && gguf_item_int(ints, 2) == 0);
    const GgufTensor *a = gguf_find_tensor(&f, "a"), *q = gguf_find_tensor(&f, "q");
    assert_true(a->bytes == 12 && a->data[0] == 1 && (a->data - f.map.p) % 32 == 0);
    assert_true(q->bytes == 136 && q->data[135] == 2 && q->data - a->data == 32);
    assert_true(q->dim[0] == 2 && q->dim[1] == 64 && q->type == GGUF_TYPE_Q8_0);
    assert_int_equal(f.map.n % 32, 0);
    gguf_close(&f);
}

/* One byte or word of a good file changed. */
static const struct {
    const char *what; /* bytes to find; their first is at `by` from what is changed */
    int by, bytes;
    uint64_t to;
    const char *message;
} damage[] = {
    {"GGUF", 0, 1, 'H', "not a GGUF file"},
    {"GGUF", 4, 4, 2, "version 2 is not read"},
    {"GGUF", 8, 8, UINT64_MAX, "do not fit in"},
    {"GGUF", 16, 8, 1000000, "do not fit in"},
    {"GGUF", 24, 8, UINT64_MAX - 3, "pair 0"},
    {"ints", 4, 4, 13, "key 'ints': unknown type 13"},
    {"ints", 8, 4, 9, "key 'ints': an array of type 9"},
    {"ints", 12, 8, 1ull << 62, "key 'ints': an array of"},
    {"words", 5 + 16, 8, 1ull << 40, "key 'words': item 0"},
    {"words", -8, 8, 0, "pair 4: a key of 0 bytes"},
    {"\1\0\0\0\0\0\0\0q", 8, 1, 'a', "tensor 'a' is there twice"},
    {"\1\0\0\0\0\0\0\0q", 9, 4, 5, "tensor 'q': 5 dimensions"},
    {"\1\0\0\0\0\0\0\0q", 13, 8, 63, "63 columns are no multiple of the 32 of a Q8_0 block"},
    {"\1\0\0\0\0\0\0\0q", 13, 8, 1ull << 63, "tensor 'q': its shape is too large"},
    {"\1\0\0\0\0\0\0\0q", 29, 4, 2, "tensor 'q': type 2 is not read"},
    {"\1\0\0\0\0\0\0\0q", 33, 8, 33, "offset 33 is no multiple of 32"},
    {"\1\0\0\0\0\0\0\0q", 33, 8, 0, "overlaps"},
    {"\1\0\0\0\0\0\0\0q", 33, 8, 1ull << 40, "truncated"},
};

static void test_damage(void **state) {
    (void)state;
    Error err = {0};
    Str good = {0};
    GgufFile f;
    write_small();
    OK(io_read_file(&good, FILE_NAME, 1 << 20, &err));
    unsigned char *copy = mem_alloc(good.n);
    for (int i = 0; i < COUNT_OF(damage); i++) {
        size_t n = i < 5 ? 4 : damage[i].what[0] == 1 ? 9 : strlen(damage[i].what);
        unsigned char *at = memmem(good.s, good.n, damage[i].what, n);
        assert_non_null(at);
        memcpy(copy, good.s, good.n);
        for (int k = 0; k < damage[i].bytes; k++)
            copy[at - (unsigned char *)good.s + damage[i].by + k] = (unsigned char)(damage[i].to >> 8 * k);
        if (gguf_parse(&f, copy, good.n, "case", &err)) fail_msg("damage %d is accepted", i);
        assert_int_equal(err.code, ERR_FORMAT);
        if (!strstr(err.msg, damage[i].message))
            fail_msg("damage %d: '%s' does not say '%s'", i, err.msg, damage[i].message);
    }
    for (size_t n = 0; n + 24 < good.n; n++) { /* padding behind the last tensor may be missing */
        unsigned char *shorter = mem_alloc(n + 1);
        memcpy(shorter, good.s, n);
        assert_false(gguf_parse(&f, shorter, n, "case", &err));
        free(shorter);
    }
    free(copy);
    str_release(&good);
}

static void test_rows(void **state) {
    (void)state;
    float x[64], back[64];
    unsigned char row[68];
    for (int i = 0; i < 64; i++) x[i] = (float)(i - 20) * (i < 32 ? 0.25f : 3);
    assert_int_equal(gguf_row_bytes(GGUF_TYPE_Q8_0, 64), 68);
    assert_int_equal(gguf_row_bytes(GGUF_TYPE_Q8_0, 48), -1);
    assert_int_equal(gguf_store_row(row, x, GGUF_TYPE_Q8_0, 64), 0);
    gguf_load_row(back, row, GGUF_TYPE_Q8_0, 64);
    for (int i = 0; i < 64; i++) assert_true(fabsf(back[i] - x[i]) <= (i < 32 ? 5.0f : 129.0f) / 127 * 0.51f);
    assert_int_equal((int8_t)row[2], -127); /* the largest of the first block: -20 of -20..11 */
    assert_int_equal(row[34 + 2 + 31], 127);
    x[3] = 0.5f / 127 * 5, x[0] = -5; /* exactly half of a step: away from 0 */
    gguf_store_row(row, x, GGUF_TYPE_Q8_0, 64);
    assert_int_equal((int8_t)row[2 + 3], 1);
    memset(x, 0, sizeof x);
    gguf_store_row(row, x, GGUF_TYPE_Q8_0, 64);
    gguf_load_row(back, row, GGUF_TYPE_Q8_0, 64);
    assert_memory_equal(x, back, sizeof x);
    x[40] = INFINITY;
    assert_int_equal(gguf_store_row(row, x, GGUF_TYPE_Q8_0, 64), 1);
    x[40] = 1e9f;
    assert_int_equal(gguf_store_row(row, x, GGUF_TYPE_Q8_0, 64), 1); /* d overflows F16 */
}

/* -- models -------------------------------------------------------------------------------------------------------- */

static void save_model(Net n, GgufType type) {
    Error err = {0};
    GgufOut g = {0};
    const char *arch = gguf_architecture(n.trunk->cfg.family);
    OK(gguf_can_hold(&n.trunk->cfg, &err));
    gguf_put_str(&g, "general.architecture", arch, strlen(arch));
    gguf_put_config(&g, &n.trunk->cfg);
    OK(gguf_write_model(FILE_NAME, &g, n, type, &err));
    gguf_out_release(&g);
}

/* Weights within the type's rounding, and the outputs of a pass equal to the bit in F32. */
static void model_round_trip(Backend *be, const ModelConfig *c, GgufType type, double rounding) {
    Error err = {0};
    TestNet t;
    Model m;
    Head h;
    GgufFile f;
    size_t n, n2;
    test_net_open(&t, be, c, HEAD_LM, c->n_vocab, false);
    save_model(t.net, type);
    OK(gguf_open(&f, FILE_NAME, &err));
    OK(gguf_model_open(&m, &h, be, &f, &err));
    gguf_close(&f);
    double *x = gather_all(t.net, true, &n), *y = gather_all((Net){&m, &h, NULL}, true, &n2);
    assert_int_equal(n, n2);
    for (size_t i = 0; i < n; i++)
        if (!(fabs(x[i] - y[i]) <= rounding * fabs(x[i]) + (type == GGUF_TYPE_Q8_0 ? 0.02 : 1e-7 * (rounding > 0))))
            fail_msg("%s family %d: value %zu is %g, was %g", gguf_type_name(type), (int)c->family, i, y[i], x[i]);
    assert_true(m.cfg.max_seq == gguf_context(c) && m.cfg.tied == c->tied &&
                fabs(m.rope_attention - t.model.rope_attention) < 1e-6);
    for (int j = 0; c->pos == POS_ROPE && j < c->d_head / 2; j++)
        assert_true(fabs(m.freq[j] / t.model.freq[j] - 1) < 1e-6);
    free(x), free(y);
    head_release(&h), model_release(&m);
    test_net_close(&t);
}

static void test_models(void **state) {
    (void)state;
    static const struct {
        GgufType type;
        double rounding;
    } types[] = {{GGUF_TYPE_F32, 0}, {GGUF_TYPE_F16, 0x1p-11}, {GGUF_TYPE_BF16, 0x1p-8}, {GGUF_TYPE_Q8_0, 0.004}};
    ModelConfig c[MORE_CONFIGS + 2];
    int n = more_configs(c);
    c[n++] = gpt2_config(true, GELU_TANH), c[n++] = gpt2_config(false, GELU_TANH);
    c[5].rope.no_truncate = false, c[5].qkv_bias = c[5].out_bias = false; /* what GGUF cannot say: below */
    for (int b = 0; b < 2; b++) {
        Machine mc;
        if (!machine_open(&mc, b ? "cpu" : "ref", NULL, 2)) continue;
        for (int i = 0; i < n; i++)
            for (int k = 0; k < COUNT_OF(types); k++) {
                c[i].d_model = c[i].family == FAMILY_GPT2 ? c[i].d_model : k == 3 && i % 2 ? 64 : 20;
                model_round_trip(mc.be, &c[i], types[k].type, types[k].rounding);
            }
        machine_close(&mc);
    }
}

static void test_refused(void **state) {
    (void)state;
    Error err = {0};
    ModelConfig c[MORE_CONFIGS], erf = gpt2_config(true, GELU_ERF);
    more_configs(c);
    assert_false(gguf_can_hold(&erf, &err));
    assert_non_null(strstr(err.msg, "gelu"));
    assert_false(gguf_can_hold(&c[5], &err));
    c[5].qkv_bias = c[5].out_bias = false;
    assert_false(gguf_can_hold(&c[5], &err));
    assert_non_null(strstr(err.msg, "truncate"));
    c[3].rope = c[0].rope;
    assert_false(gguf_can_hold(&c[3], &err));
    assert_non_null(strstr(err.msg, "llama3"));
}

/* Row 2i + s of a head's rows in the file is row s * d/2 + i of ours. */
static void test_permuted(void **state) {
    (void)state;
    Error err = {0};
    Machine mc;
    TestNet t;
    GgufFile f;
    assert_true(machine_open(&mc, "ref", NULL, 1));
    ModelConfig c = llama_config(false, true);
    test_net_open(&t, mc.be, &c, HEAD_LM, c.n_vocab, false);
    save_model(t.net, GGUF_TYPE_F32);
    OK(gguf_open(&f, FILE_NAME, &err));
    const GgufTensor *q = gguf_find_tensor(&f, "blk.1.attn_q.weight"), *k = gguf_find_tensor(&f, "blk.1.attn_k.bias");
    const GgufTensor *v = gguf_find_tensor(&f, "blk.1.attn_v.bias");
    const double *wq = t.model.w.block[1].wq.data, *bk = t.model.w.block[1].bk.data, *bv = t.model.w.block[1].bv.data;
    for (int h = 0; h < 4; h++)
        for (int i = 0; i < 3; i++)
            for (int s = 0; s < 2; s++) {
                int ours = h * 6 + s * 3 + i, file = h * 6 + 2 * i + s;
                float got;
                memcpy(&got, q->data + ((size_t)file * 20 + 7) * sizeof got, sizeof got);
                assert_true((double)got == wq[ours * 20 + 7]);
                if (h > 1) continue;
                memcpy(&got, k->data + (size_t)file * sizeof got, sizeof got);
                assert_true((double)got == bk[ours]);
                memcpy(&got, v->data + (size_t)file * sizeof got, sizeof got);
                assert_true((double)got == bv[file]);
            }
    gguf_close(&f);
    test_net_close(&t);
    machine_close(&mc);
}

/* A tensor or pair fewer, more, or of another shape: refused by name. */
static void test_strict(void **state) {
    (void)state;
    static const struct {
        const char *find, *put, *message;
    } edits[] = {
        {"blk.2.ffn_up.weight", "blk.9.ffn_up.weight", "tensor 'blk.2.ffn_up.weight' is missing"},
        {"llama.block_count", "llama.block_comte", "key 'llama.block_count' is missing"},
        {"output_norm.weight", "output_worm.weight", "tensor 'output_norm.weight' is missing"},
        {"blk.0.ffn_gate.bias", "blk.0.ffn_gate.beas", "tensors, but this model has"},
    };
    Error err = {0};
    Machine mc;
    TestNet t;
    Model m;
    Head h;
    Str file = {0};
    GgufFile f;
    assert_true(machine_open(&mc, "ref", NULL, 1));
    ModelConfig all[MORE_CONFIGS], c;
    more_configs(all);
    c = all[0];
    test_net_open(&t, mc.be, &c, HEAD_LM, c.n_vocab, false);
    save_model(t.net, GGUF_TYPE_F32);
    for (int i = 0; i < COUNT_OF(edits); i++) {
        OK(io_read_file(&file, FILE_NAME, 1 << 24, &err));
        char *at = memmem(file.s, file.n, edits[i].find, strlen(edits[i].find));
        assert_non_null(at);
        memcpy(at, edits[i].put, strlen(edits[i].put));
        OK(gguf_parse(&f, file.s, file.n, "edited", &err));
        assert_false(gguf_model_open(&m, &h, mc.be, &f, &err));
        if (!strstr(err.msg, edits[i].message)) fail_msg("'%s' does not say '%s'", err.msg, edits[i].message);
        gguf_close(&f);
    }
    str_release(&file);
    test_net_close(&t);
    machine_close(&mc);
}

static int fail_at(void *ud, const char *what) {
    int *left = ud;
    (void)what;
    return (*left)-- == 0 ? ENOSPC : 0;
}

static void test_faults(void **state) {
    (void)state;
    Error err = {0};
    for (int k = 0, done = 0; !done; k++) {
        int left = k;
        GgufOut g = {0};
        gguf_put_tensor(&g, "a", GGUF_TYPE_F32, (int64_t[]){3}, 1);
        io_set_fault_hook(fail_at, &left);
        bool ok = gguf_write(FILE_NAME, &g, put_number, NULL, &err);
        io_set_fault_hook(NULL, NULL);
        done = left >= 0;
        assert_true(ok == (done != 0) || (ok && k > 2));
        gguf_out_release(&g);
        assert_true(k < 100);
    }
}

/* -- growing ------------------------------------------------------------------------------------------------------- */

static void grow(Backend *be, bool tied) {
    Error err = {0};
    TestNet t;
    ModelConfig c = tied ? gpt2_config(true, GELU_TANH) : llama_config(false, true);
    int old = c.n_vocab, new = old + 5;
    test_net_open(&t, be, &c, HEAD_LM, c.n_vocab, true);
    Rows rows = rows_random((int[]){9}, 1, old, 3);
    Acts *a;
    double *before = mem_alloc((size_t)(9 * old) * sizeof *before),
           *after = mem_alloc((size_t)(9 * new) * sizeof *after);
    OK(acts_open(&a, &t.model, 9, 9, KEEP_ALL, &err));
    run_rows(t.net, a, &rows, 9, false, before);
    acts_close(a);
    OK(net_grow_vocab(&t.model, &t.head, new, 4, &err));
    assert_true(t.model.cfg.n_vocab == new &&t.head.n_out == new &&t.head.tied == tied &&t.head.w.rows == new);
    OK(acts_open(&a, &t.model, 9, 9, KEEP_ALL, &err));
    run_rows(t.net, a, &rows, 9, true, after); /* gradients have grown, too */
    for (int i = 0; i < 9; i++)
        for (int v = 0; v < old; v++) assert_true(before[i * old + v] == after[i * new + v]);
    double row[64], mean[64] = {0}, far = 0, size = 0, other[64];
    for (int r = 0; r < old; r++) {
        tensor_get_row(be, row, t.model.w.wte, r);
        for (int k = 0; k < c.d_model; k++) mean[k] += row[k] / old, size += row[k] * row[k] / old;
    }
    tensor_get_row(be, row, t.model.w.wte, old), tensor_get_row(be, other, t.model.w.wte, old + 1);
    for (int k = 0; k < c.d_model; k++) far += pow(row[k] - mean[k], 2);
    assert_true(far > 0 && sqrt(far / size) < 0.03);
    assert_memory_not_equal(row, other, sizeof(double) * 4);
    free(before), free(after);
    acts_close(a);
    rows_free(&rows);
    test_net_close(&t);
}

static void test_grow(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        Machine mc;
        if (!machine_open(&mc, i ? "cpu" : "ref", NULL, 1)) continue;
        grow(mc.be, true);
        grow(mc.be, false);
        machine_close(&mc);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_container), cmocka_unit_test(test_damage),  cmocka_unit_test(test_rows),
        cmocka_unit_test(test_models),    cmocka_unit_test(test_refused), cmocka_unit_test(test_permuted),
        cmocka_unit_test(test_strict),    cmocka_unit_test(test_faults),  cmocka_unit_test(test_grow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
