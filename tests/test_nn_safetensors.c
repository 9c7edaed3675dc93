// layer: nn
/* safetensors files and model folders: what is accepted, what is refused and by which name, and that saving, opening
 * and saving again gives the same bytes. */
#include "nn_help.h"

#include "base/io.h"
#include "nn/convert.h"
#include "nn/safetensors.h"

#include <errno.h>
#include <math.h>

/* -- headers --------------------------------------------------------------------------------------------------------
 */

#define F32_1 "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}"
#define ENTRY(type, shape, offsets) "{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

#define TIMES5(x) x x x x x
#define TIMES125(x) TIMES5(TIMES5(TIMES5(x)))
#define U8_1 "\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"

typedef struct {
    const char *header;
    int n_data;        /* bytes after the header */
    int n_tensor;      /* -1: refused */
    const char *names; /* a part of the message */
} Case;

// clang-format off
static const Case cases[] = {
    {"{\"a\":" ENTRY("F32", "[2]", "[0,8]") "}   ", 8, 1, NULL},
    {"{\"a\":" ENTRY("F32", "[2]", "[0,8]") "}", 9, -1, "1 bytes after the last tensor"},
    {"{\"a\":" ENTRY("F32", "[2]", "[0,8]") "}", 7, -1, "'a'"},
    {"{\"a\":" ENTRY("F32", "[2]", "[0,8]") "}", 0, -1, "'a'"},
    {"{}      ", 8, -1, "after the last tensor"},
    {"{}", 0, 0, NULL},
    {"", 0, -1, "case"},
    {" {\"a\":" F32_1 "}\n", 4, 1, NULL},
    {"{\"\xff\":" F32_1 "}", 4, -1, "case"},
    {"{\"a\\u002eb\":" F32_1 "}", 4, 1, NULL},
    {"[]", 0, -1, "not a JSON object"},
    {"{\"a\":" F32_1 "} x", 4, -1, "case"},
    {"{\"a\":" F32_1 ",\"a\":" F32_1 "}", 4, -1, "a"},
    {"{\"a\":" F32_1 ",\"b\":" F32_1 "}", 4, -1, "shared range"},
    {"{\"a\":" ENTRY("F32", "[]", "[0,4]") "}", 4, 1, NULL},
    {"{\"a\":" F32_1 ",\"z\":" ENTRY("F32", "[3,0]", "[4,4]") ",\"b\":" ENTRY("F32", "[1]", "[4,8]") "}", 8, 3, NULL},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, -1, "'dtype'"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, -1, "'data_offsets'"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, -1, "'shape'"},
    {"{\"a\":" ENTRY("f32", "[1]", "[0,4]") "}", 4, -1, "unknown dtype 'f32'"},
    {"{\"a\":" ENTRY("F32", "[1.0]", "[0,4]") "}", 4, -1, "not a non-negative integer"},
    {"{\"a\":" ENTRY("F32", "[-1]", "[0,4]") "}", 4, -1, "not a non-negative integer"},
    {"{\"a\":" ENTRY("F32", "[-0]", "[0,0]") "}", 0, -1, "'-0'"},
    {"{\"a-0\":" F32_1 "}", 4, 1, NULL},
    {"{\"a\":{\"x\":" TIMES125("[") TIMES125("]") ",\"y\":[],\"z\":\"[{\\\"[\"," U8_1 "}}", 1, 1, NULL},
    {"{\"a\":{\"x\":[" TIMES125("[") TIMES125("]") "]," U8_1 "}}", 1, -1, "more than 127 deep"},
    {"{\"a\":" ENTRY("F32\\u0000", "[1]", "[0,4]") "}", 4, -1, "unknown dtype"},
    {"{\"a\":" ENTRY("F32", "[true]", "[0,4]") "}", 4, -1, "not a non-negative integer"},
    {"{\"a\":" ENTRY("F32", "[1]", "[0]") "}", 4, -1, "list of two"},
    {"{\"a\":" ENTRY("F32", "[1]", "[4,0]") "}", 4, -1, "ends before it begins"},
    {"{\"a\":" ENTRY("F32", "[1]", "[-4,0]") "}", 4, -1, "offset 0"},
    {"{\"a\":" ENTRY("F32", "[1]", "[0,4.0]") "}", 4, -1, "offset 1"},
    {"{\"a\": null}", 0, -1, "'a': expected an object with dtype, shape and data_offsets, or a list of the three"},
    {"{\"a\":" ENTRY("U8", "[4294967296,4294967296]", "[0,0]") "}", 0, -1, "2^64"},
    {"{\"a\":" ENTRY("F32", "[4611686018427387904]", "[0,0]") "}", 0, -1, "2^64"},
    {"{\"a\":" ENTRY("F32", "[1844674073709551615,0]", "[0,0]") "}", 0, 1, NULL},
    {"{\"a\":" ENTRY("F32", "[3]", "[0,8]") "}", 8, -1, "need 96 bits"},
    {"{\"a\":" ENTRY("U8", "[1,1,1,1,1,1,1,1,1,2]", "[0,2]") "}", 2, 1, NULL},
    {"{\"a\":" ENTRY("F4", "[4]", "[0,2]") "}", 2, 1, NULL},
    {"{\"a\":" ENTRY("F4", "[3]", "[0,2]") "}", 2, -1, "need 12 bits"},
    {"{\"a\":" ENTRY("F4", "[3]", "[0,1]") "}", 1, -1, "need 12 bits"},
    {"{\"a\":" ENTRY("F6_E3M2", "[2,4]", "[0,6]") "}", 6, 1, NULL},
    {"{\"a\":" ENTRY("BF16", "[2,4]", "[0,16]") "}", 16, 1, NULL},
    {"{\"a\":" ENTRY("C64", "[2,4]", "[0,64]") "}", 64, 1, NULL},
    {"{\"b\":" ENTRY("F32", "[1]", "[4,8]") ",\"a\":" F32_1 "}", 8, 2, NULL},
    {"{\"a\":" ENTRY("F32", "[2]", "[0,8]") ",\"b\":" ENTRY("F32", "[2]", "[4,12]") "}", 12, -1, "shared range"},
    {"{\"a\":" ENTRY("F32", "[1]", "[4,8]") "}", 8, -1, "hole"},
    {"{\"__metadata__\":null,\"a\":" F32_1 "}", 4, 1, NULL},
    {"{\"__metadata__\":{\"k\":\"v\"}}", 0, 0, NULL},
    {"{\"__metadata__\":{\"n\":{\"m\":\"x\"}},\"a\":" F32_1 "}", 4, -1, "__metadata__.n"},
    {"{\"__metadata__\":{\"n\":null}}", 0, -1, "__metadata__.n"},
    {"{\"__metadata__\":[]}", 0, -1, "__metadata__"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"more\":[1,{}]}}", 4, 1, NULL},
    {"{\"a\":[\"F32\",[1],[0,4]]}", 4, 1, NULL},
    {"{\"a\":[\"F32\",[1]]}", 4, -1, "or a list of the three"},
};
// clang-format on

static Str file_of(const char *header, size_t n_header, uint64_t said, int n_data) {
    Str s = {0};
    for (int i = 0; i < 8; i++) str_putc(&s, (char)(said >> 8 * i));
    str_putn(&s, header, n_header);
    for (int i = 0; i < n_data; i++) str_putc(&s, (char)i);
    return s;
}

/* An exact-size copy on the heap, so that ASan sees a read beyond. */
static bool parse_copy(StFile *f, const Str *s, size_t n, Error *err, void **copy) {
    *copy = malloc(n ? n : 1);
    assert_non_null(*copy);
    if (n) memcpy(*copy, s->s, n);
    return st_parse(f, *copy, n, "case", err);
}

static void check_tiling(const StFile *f) {
    for (int i = 1; i < f->n; i++) assert_ptr_equal(f->entry[i].data, f->entry[i - 1].data + f->entry[i - 1].bytes);
}

static void test_headers(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(cases); i++) {
        const Case *c = &cases[i];
        Str s = file_of(c->header, strlen(c->header), strlen(c->header), c->n_data);
        StFile f;
        Error err = {0};
        void *copy;
        bool ok = parse_copy(&f, &s, s.n, &err, &copy);
        if (ok != (c->n_tensor >= 0)) fail_msg("case %d %s: %s", i, c->header, ok ? "accepted" : err.msg);
        if (ok) {
            assert_int_equal(f.n, c->n_tensor);
            check_tiling(&f);
            st_close(&f);
        } else {
            assert_int_equal(err.code, ERR_FORMAT);
            assert_non_null(strstr(err.msg, "case"));
            if (!strstr(err.msg, c->names)) fail_msg("case %d: '%s' does not say '%s'", i, err.msg, c->names);
        }
        free(copy);
        str_release(&s);
    }
}

static void test_lengths(void **state) {
    (void)state;
    static const char header[] = "{\"a\":" F32_1 "}";
    static const uint64_t said[] = {100, UINT64_MAX, UINT64_MAX - 7, 1ull << 63, 100000001, sizeof header + 4};
    StFile f;
    Error err = {0};
    void *copy;
    for (int i = 0; i < COUNT_OF(said); i++) {
        Str s = file_of(header, sizeof header - 1, said[i], 4);
        assert_false(parse_copy(&f, &s, s.n, &err, &copy));
        free(copy);
        str_release(&s);
    }
    /* every truncation, NUL as padding, every single bit turned in the header */
    Str s = file_of("{\"a\":" F32_1 "}\0", sizeof header, sizeof header, 4);
    assert_false(parse_copy(&f, &s, s.n, &err, &copy));
    free(copy);
    str_release(&s);
    s = file_of(header, sizeof header - 1, sizeof header - 1, 4);
    for (size_t n = 0; n < s.n; n++) {
        assert_false(parse_copy(&f, &s, n, &err, &copy));
        free(copy);
    }
    for (size_t bit = 0; bit < (s.n - 4) * 8; bit++) {
        s.s[bit / 8] = (char)(s.s[bit / 8] ^ 1 << bit % 8);
        if (parse_copy(&f, &s, s.n, &err, &copy)) {
            check_tiling(&f);
            st_close(&f);
        }
        free(copy);
        s.s[bit / 8] = (char)(s.s[bit / 8] ^ 1 << bit % 8);
    }
    str_release(&s);
}

static void test_write(void **state) {
    (void)state;
    static const float x[6] = {1, 2, 3, 4, 5, 6};
    static const int64_t t = 7;
    const StOut out[] = {{"b", "F32", 2, {2, 3}, x, 24},
                         {"a", "F32", 1, {1}, x + 5, 4},
                         {"\"quoted\"", "F32", 2, {0, 4}, x, 0},
                         {"t", "I64", 1, {1}, &t, 8}};
    static const char expected[] =
        "{\"__metadata__\":{\"format\":\"pt\"},\"t\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
        "\"\\\"quoted\\\"\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[8,8]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]},"
        "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[12,36]}}";
    const char *path = BUILD_DIR "/nn_safetensors_write.safetensors";
    Error err = {0};
    StFile f;
    Str bytes = {0};
    OK(st_write(path, out, COUNT_OF(out), &err));
    OK(io_read_file(&bytes, path, 1 << 20, &err));
    uint64_t n_header;
    memcpy(&n_header, bytes.s, 8);
    assert_int_equal(n_header % 8, 0);
    assert_int_equal(8 + n_header + 36, bytes.n);
    assert_memory_equal(bytes.s + 8, expected, sizeof expected - 1);
    OK(st_open(&f, path, &err));
    assert_int_equal(f.n, 4);
    const StEntry *b = st_find(&f, "b");
    assert_non_null(b);
    assert_memory_equal(b->data, x, 24);
    assert_int_equal(b->dim[1], 3);
    assert_null(st_find(&f, "c"));
    st_close(&f);
    str_release(&bytes);
    assert_false(st_open(&f, BUILD_DIR "/absent.safetensors", &err));
    assert_int_equal(err.code, ERR_IO);
}

/* -- model folders --------------------------------------------------------------------------------------------------
 */

#define DIR BUILD_DIR "/nn_model"

static void assert_same_file(const char *a, const char *b) {
    Str x = {0}, y = {0};
    Error err = {0};
    OK(io_read_file(&x, a, 1 << 24, &err));
    OK(io_read_file(&y, b, 1 << 24, &err));
    if (x.n != y.n || memcmp(x.s, y.s, x.n) != 0) fail_msg("%s and %s differ", a, b);
    str_release(&x), str_release(&y);
}

/* Matrices as the model has them, vectors in F32. */
static void check_dtypes(Backend *be) {
    Error err = {0};
    StFile f;
    OK(st_open(&f, DIR "/model.safetensors", &err));
    for (int i = 0; i < f.n; i++) {
        bool half = f.entry[i].n_dim == 2 && be->dtype == DTYPE_BF16;
        assert_string_equal(f.entry[i].dtype, half ? "BF16" : "F32");
    }
    st_close(&f);
}

static void round_trip(const ModelConfig *c, HeadKind kind, int n_out, int at) {
    Error err = {0};
    Machine mc;
    TestNet t;
    Model m;
    Head h;
    if (!machine_open_at(&mc, at, 1)) return;
    test_net_open(&t, mc.be, c, kind, n_out, false);
    OK(net_save(t.net, DIR, &err));
    check_dtypes(mc.be);
    OK(model_open(&m, mc.be, DIR, true, &err));
    OK(head_open(&h, &m, kind, DIR, true, &err));
    assert_int_equal(h.n_out, n_out);
    assert_int_equal(h.tied, kind == HEAD_LM && c->tied);
    /* every field comes back; padding is not compared */
    const ModelConfig *d = &m.cfg;
    assert_true(d->family == c->family && d->n_layer == c->n_layer && d->n_head == c->n_head && d->tied == c->tied &&
                d->n_kv_head == c->n_kv_head && d->d_model == c->d_model && d->d_head == c->d_head &&
                d->gelu == c->gelu && d->d_ff == c->d_ff && d->n_vocab == c->n_vocab && d->max_seq == c->max_seq &&
                d->norm == c->norm && d->pos == c->pos && d->mlp == c->mlp && d->qkv_bias == c->qkv_bias &&
                d->out_bias == c->out_bias && d->mlp_bias == c->mlp_bias && d->norm_eps == c->norm_eps &&
                d->eos_id == c->eos_id && d->qk_norm == c->qk_norm && d->window == c->window);
    assert_memory_equal(d->unwindowed, c->unwindowed, sizeof c->unwindowed);
    if (c->pos == POS_ROPE) {
        const RopeScaling *x = &c->rope, *y = &d->rope;
        assert_true(d->rope_theta == c->rope_theta && x->kind == y->kind && x->factor == y->factor &&
                    x->original == y->original && x->low == y->low && x->high == y->high &&
                    x->beta_fast == y->beta_fast && x->beta_slow == y->beta_slow && x->attention == y->attention &&
                    x->no_truncate == y->no_truncate);
    }
    size_t n, n2;
    double *x = gather_all(t.net, true, &n), *y = gather_all((Net){&m, &h, NULL}, true, &n2);
    assert_int_equal(n, n2);
    assert_memory_equal(x, y, n * sizeof *x);
    OK(net_save((Net){&m, &h, NULL}, DIR "_again", &err));
    assert_same_file(DIR "/model.safetensors", DIR "_again/model.safetensors");
    assert_same_file(DIR "/config.json", DIR "_again/config.json");
    free(x), free(y);
    head_release(&h);
    model_release(&m);
    test_net_close(&t);
    machine_close(&mc);
}

static void test_round_trip(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(every_backend); i += i == 1 ? N_REAL - 1 : 1) {
        for (int tied = 0; tied < 2; tied++) {
            ModelConfig llama = llama_config(tied, !tied), gpt2 = gpt2_config(tied, tied ? GELU_TANH : GELU_ERF);
            llama.rope_theta = 500000, llama.norm_eps = 1e-6;
            round_trip(&llama, HEAD_LM, llama.n_vocab, i);
            round_trip(&llama, HEAD_SCORE, 1, i);
            round_trip(&gpt2, HEAD_LM, gpt2.n_vocab, i);
            round_trip(&gpt2, HEAD_SCORE, 3, i);
        }
        ModelConfig more[MORE_CONFIGS];
        more_configs(more);
        for (int k = 0; k < MORE_CONFIGS; k++) round_trip(&more[k], k % 2 ? HEAD_SCORE : HEAD_LM, k % 2 ? 1 : 37, i);
    }
}

/* A model of F32 in a run of BF16: matrices are rounded once, to nearest, vectors stay; what that run saves is, opened
 * in F32, the same numbers again. */
static void rounds_once(const ModelConfig *c) {
    Error err = {0};
    Machine full, half;
    TestNet t;
    Model m, back;
    size_t n;
    assert_true(machine_open(&full, "cpu", "scalar", 1) && machine_open_at(&half, N_REAL, 1));
    test_net_open(&t, full.be, c, HEAD_LM, c->n_vocab, false);
    OK(net_save(t.net, DIR, &err));
    OK(model_open(&m, half.be, DIR, false, &err));
    OK(net_save((Net){&m, NULL, NULL}, DIR "_half", &err));
    OK(model_open(&back, full.be, DIR "_half", false, &err));
    double *x = gather_all((Net){&t.model, NULL, NULL}, true, &n), *y = gather_all((Net){&m, NULL, NULL}, true, &n);
    double *z = gather_all((Net){&back, NULL, NULL}, true, &n);
    assert_memory_equal(y, z, n * sizeof *y);
    size_t n_kept = 0;
    for (size_t i = 0; i < n; i++) {
        assert_true(fabs(x[i] - y[i]) <= fabs(x[i]) / 256);
        n_kept += x[i] == y[i];
    }
    assert_true(n_kept < n / 8);
    n = (size_t)tensor_count(t.model.w.norm);
    tensor_get(full.be, x, t.model.w.norm);
    tensor_get(half.be, y, m.w.norm);
    assert_memory_equal(x, y, n * sizeof *x);
    free(x), free(y), free(z);
    model_release(&m), model_release(&back);
    test_net_close(&t);
    machine_close(&full), machine_close(&half);
}

static void test_rounds_once(void **state) {
    (void)state;
    ModelConfig llama = llama_config(true, false), gpt2 = gpt2_config(true, GELU_TANH);
    rounds_once(&llama);
    rounds_once(&gpt2);
}

/* The folder DIR rewritten to DIR_bad with one tensor edited. */
typedef enum {
    DROP,
    RENAME,
    RESHAPE,
    AS_F64,
    AS_BF16,
    AS_F16,
    ADD,
    ADD_HEAD,
    ADD_OTHER_HEAD,
    STRIP_PREFIX,
    TO_HEAD
} Edit;

static void rewrite(Edit edit, const char *name) {
    Error err = {0};
    StFile f;
    Heap heap = {0};
    OK(io_make_dirs(DIR "_bad", &err));
    OK(io_copy_file(DIR "/config.json", DIR "_bad/config.json", &err));
    OK(st_open(&f, DIR "/model.safetensors", &err));
    StOut *out = mem_alloc((size_t)(f.n + 1) * sizeof *out);
    int n = 0;
    for (int i = 0; i < f.n; i++) {
        const StEntry *e = &f.entry[i];
        StOut o = {.name = e->name, .dtype = e->dtype, .n_dim = e->n_dim, .data = e->data, .bytes = e->bytes};
        memcpy(o.dim, e->dim, sizeof o.dim);
        bool this = strcmp(e->name, name) == 0;
        if (edit == STRIP_PREFIX && strchr(e->name, '.')) o.name = strchr(e->name, '.') + 1;
        if (this && edit == DROP) continue;
        if (this && edit == TO_HEAD) o.name = "lm_head.weight";
        if (this && edit == RENAME) o.name = heap_printf(&heap, "%s_", e->name);
        if (this && edit == RESHAPE) o.dim[0] = e->dim[1], o.dim[1] = e->dim[0];
        if (this && edit == AS_F64) o.dtype = "F64", o.dim[0] /= 2;
        if (this && (edit == AS_BF16 || edit == AS_F16)) {
            unsigned char *half = heap_alloc(&heap, e->bytes / 2);
            for (size_t k = 0; k < e->bytes / 4; k++) {
                static const unsigned char f16[] = {0x00, 0x3c, 0x00, 0xc0, 0x01, 0x00,
                                                    0xff, 0x83, 0xff, 0x7b, 0x00, 0xfc};
                memcpy(half + 2 * k, edit == AS_BF16 ? e->data + 4 * k + 2 : &f16[k % 6 * 2], 2);
            }
            o.dtype = edit == AS_BF16 ? "BF16" : "F16", o.data = half, o.bytes /= 2;
        }
        out[n++] = o;
        if (this && (edit == ADD_HEAD || edit == ADD_OTHER_HEAD)) {
            float *copy = heap_alloc(&heap, e->bytes);
            memcpy(copy, e->data, e->bytes);
            if (edit == ADD_OTHER_HEAD) copy[5] += 1;
            o.name = "lm_head.weight", o.data = copy;
            out[n++] = o;
        }
    }
    static const float one = 1;
    if (edit == ADD) out[n++] = (StOut){.name = name, .dtype = "F32", .n_dim = 1, .dim = {1}, .data = &one, .bytes = 4};
    OK(st_write(DIR "_bad/model.safetensors", out, n, &err));
    free(out);
    heap_release(&heap);
    st_close(&f);
}

static void expect_open(Backend *be, const char *dir, const char *message) {
    Error err = {0};
    Model m;
    bool ok = model_open(&m, be, dir, false, &err);
    if (!message) {
        OK(ok);
        model_release(&m);
        return;
    }
    if (ok || !strstr(err.msg, message)) fail_msg("expected '%s', got '%s'", message, ok ? "success" : err.msg);
    assert_int_equal(err.code, ERR_FORMAT);
    assert_null(m.w.block);
}

/* A tied model may be saved under the head's name alone. */
static void check_kept_as_head(Machine *mc, const TestNet *t) {
    Error err = {0};
    Model m;
    Head h;
    double want[20], got[20];
    rewrite(TO_HEAD, "model.embed_tokens.weight");
    OK(model_open(&m, mc->be, DIR "_bad", false, &err) && head_open(&h, &m, HEAD_LM, DIR "_bad", false, &err));
    tensor_get_row(mc->be, want, t->model.w.wte, 3);
    tensor_get_row(mc->be, got, m.w.wte, 3);
    assert_memory_equal(got, want, sizeof want);
    tensor_get_row(mc->be, got, h.w, 3);
    assert_memory_equal(got, want, sizeof want);
    head_release(&h);
    model_release(&m);
}

static void test_strict(void **state) {
    (void)state;
    Error err = {0};
    Machine mc;
    TestNet t;
    assert_true(machine_open(&mc, "ref", NULL, 1));
    ModelConfig c = llama_config(true, false);
    test_net_open(&t, mc.be, &c, HEAD_LM, c.n_vocab, false);
    OK(net_save(t.net, DIR, &err));
    static const char up[] = "model.layers.1.mlp.up_proj.weight", wte[] = "model.embed_tokens.weight";
    rewrite(DROP, up);
    expect_open(mc.be, DIR "_bad", "tensor 'model.layers.1.mlp.up_proj.weight' is missing");
    rewrite(RENAME, up);
    expect_open(mc.be, DIR "_bad", "tensor 'model.layers.1.mlp.up_proj.weight' is missing");
    rewrite(RESHAPE, up);
    expect_open(mc.be, DIR "_bad", "up_proj.weight': shape [20, 27], expected [27, 20]");
    rewrite(ADD, "model.layers.3.mlp.up_proj.weight");
    expect_open(mc.be, DIR "_bad", "tensor 'model.layers.3.mlp.up_proj.weight' has no place");
    rewrite(ADD, "model.layers.0.self_attn.rotary_emb.inv_freq");
    expect_open(mc.be, DIR "_bad", NULL);
    rewrite(AS_F64, "model.layers.0.self_attn.q_proj.weight");
    expect_open(mc.be, DIR "_bad", "q_proj.weight'");
    rewrite(ADD_HEAD, wte);
    expect_open(mc.be, DIR "_bad", NULL);
    rewrite(ADD_OTHER_HEAD, wte);
    expect_open(mc.be, DIR "_bad", "'lm_head.weight' differs from the embeddings");
    rewrite(STRIP_PREFIX, wte);
    expect_open(mc.be, DIR "_bad", NULL);
    rewrite(TO_HEAD, up);
    expect_open(mc.be, DIR "_bad", "up_proj.weight' is missing");
    check_kept_as_head(&mc, &t);
    OK(io_write_file(DIR "_bad/model.safetensors", "\x08\0\0\0\0\0\0\0{}", 10, &err));
    expect_open(mc.be, DIR "_bad", "truncated or not safetensors");

    Head h;
    assert_false(head_open(&h, &t.model, HEAD_SCORE, DIR, false, &err));
    assert_non_null(strstr(err.msg, "tensor 'score.weight' is missing"));
    test_net_close(&t);
    machine_close(&mc);
}

static void test_half_types(void **state) {
    (void)state;
    Error err = {0};
    Machine mc;
    TestNet t;
    Model m;
    double got[20], kept[20];
    assert_true(machine_open(&mc, "ref", NULL, 1));
    ModelConfig c = llama_config(true, false);
    test_net_open(&t, mc.be, &c, HEAD_LM, c.n_vocab, false);
    OK(net_save(t.net, DIR, &err));
    rewrite(AS_BF16, "model.embed_tokens.weight");
    OK(model_open(&m, mc.be, DIR "_bad", false, &err));
    tensor_get_row(mc.be, got, m.w.wte, 3);
    tensor_get_row(mc.be, kept, t.model.w.wte, 3);
    for (int i = 0; i < 20; i++) assert_true(fabs(got[i] - kept[i]) <= fabs(kept[i]) / 128 && got[i] != 0);
    model_release(&m);

    static const double f16[] = {1, -2, 0x1p-24, -0x3ffp-24, 65504, -INFINITY};
    rewrite(AS_F16, "model.embed_tokens.weight");
    OK(model_open(&m, mc.be, DIR "_bad", false, &err));
    tensor_get_row(mc.be, got, m.w.wte, 0);
    for (int i = 0; i < 20; i++) assert_true(got[i] == f16[i % 6]);
    model_release(&m);
    test_net_close(&t);
    machine_close(&mc);
}

/* GPT-2's files hold q, k and v side by side and transposed: the second of them, of every width of number. */
static void test_half_transposed(void **state) {
    (void)state;
    enum { C = 21 };
    static const double f16[] = {1, -2, 0x1p-24, -0x3ffp-24, 65504, -INFINITY};
    Error err = {0};
    ModelConfig c = gpt2_config(true, GELU_TANH);
    for (int at = 0; at < 2; at++) {
        Machine mc;
        TestNet t;
        Model m;
        double kept[C * C], got[C * C];
        if (!machine_open_at(&mc, at, 1)) continue;
        test_net_open(&t, mc.be, &c, HEAD_LM, c.n_vocab, false);
        Tensor w = t.model.w.block[1].wk;
        tensor_get(mc.be, kept, w);
        for (int i = 0; i < C * C; i++) kept[i] = rint(kept[i] * 32) / 32; /* few digits: exact in BF16 */
        tensor_set(mc.be, w, kept);
        OK(net_save(t.net, DIR, &err));
        rewrite(AS_BF16, "transformer.h.1.attn.c_attn.weight");
        OK(model_open(&m, mc.be, DIR "_bad", false, &err));
        tensor_get(mc.be, got, m.w.block[1].wk);
        assert_memory_equal(got, kept, sizeof got);
        model_release(&m);
        OK(backend_set_dtype(mc.be, at ? DTYPE_BF16 : DTYPE_F64, &err)); /* into panels of BF16, nothing converted */
        OK(model_open(&m, mc.be, DIR "_bad", false, &err));
        tensor_get(mc.be, got, m.w.block[1].wk);
        assert_memory_equal(got, kept, sizeof got);
        model_release(&m);
        OK(backend_set_dtype(mc.be, mc.be->real, &err));
        rewrite(AS_F16, "transformer.h.1.attn.c_attn.weight");
        OK(model_open(&m, mc.be, DIR "_bad", false, &err));
        tensor_get(mc.be, got, m.w.block[1].wk);
        for (int r = 0; r < C; r++)
            for (int k = 0; k < C; k++) assert_true(got[r * C + k] == f16[(k * 3 * C + C + r) % 6]);
        model_release(&m);
        test_net_close(&t);
        machine_close(&mc);
    }
}

static void test_shards(void **state) {
    (void)state;
    Error err = {0};
    Machine mc;
    TestNet t;
    Model m;
    StFile f;
    assert_true(machine_open(&mc, "ref", NULL, 1));
    ModelConfig c = gpt2_config(true, GELU_TANH);
    test_net_open(&t, mc.be, &c, HEAD_LM, c.n_vocab, false);
    OK(net_save(t.net, DIR, &err));
    OK(st_open(&f, DIR "/model.safetensors", &err));
    OK(io_make_dirs(DIR "_shards", &err));
    OK(io_copy_file(DIR "/config.json", DIR "_shards/config.json", &err));
    StOut *out = mem_alloc((size_t)f.n * sizeof *out);
    Str index = {0};
    str_put(&index, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (int i = 0; i < f.n; i++) {
        const StEntry *e = &f.entry[i];
        out[i] = (StOut){.name = e->name, .dtype = e->dtype, .n_dim = e->n_dim, .data = e->data, .bytes = e->bytes};
        memcpy(out[i].dim, e->dim, sizeof out[i].dim);
        str_printf(&index, "%s\"%s\":\"%d.safetensors\"", i ? "," : "", e->name, i < f.n / 2);
    }
    str_put(&index, "}}");
    OK(st_write(DIR "_shards/1.safetensors", out, f.n / 2, &err));
    OK(st_write(DIR "_shards/0.safetensors", out + f.n / 2, f.n - f.n / 2, &err));
    OK(io_write_file(DIR "_shards/model.safetensors.index.json", index.s, index.n, &err));
    OK(model_open(&m, mc.be, DIR "_shards", false, &err));
    size_t n, n2;
    double *x = gather_all(t.net, true, &n), *y = gather_all((Net){&m, NULL, NULL}, true, &n2);
    assert_int_equal(n, n2);
    assert_memory_equal(x, y, n * sizeof *x);
    free(x), free(y), free(out);
    model_release(&m);
    str_clear(&index);
    str_put(&index, "{\"weight_map\":{\"a\":\"../nn_model/model.safetensors\"}}");
    OK(io_write_file(DIR "_shards/model.safetensors.index.json", index.s, index.n, &err));
    expect_open(mc.be, DIR "_shards", "outside the folder");
    static const char *const wrong[][2] = {
        {"{\"weight_map\":{\"transformer.wte.weight\":\"0.safetensors\",\"transformer.other\":\"0.safetensors\"}}",
         "tensor 'transformer.other' is missing: the index places it in 0.safetensors"},
        {"{\"weight_map\":{\"transformer.wte.weight\":\"1.safetensors\"}}",
         "tensor 'transformer.wte.weight' is missing"},
        {"{\"weight_map\":{\"transformer.wte.weight\":\"0.safetensors\"}}", " is missing in the index"},
        {"{\"weight_map\":{\"a\":1}}", "'a' names no file"},
        {"{\"weight_map\":[]}", "'weight_map' is missing or not an object"},
    };
    for (int i = 0; i < COUNT_OF(wrong); i++) {
        OK(io_write_file(DIR "_shards/model.safetensors.index.json", wrong[i][0], strlen(wrong[i][0]), &err));
        expect_open(mc.be, DIR "_shards", wrong[i][1]);
    }
    str_release(&index);
    st_close(&f);
    test_net_close(&t);
    machine_close(&mc);
}

/* Saved in shards, opened, saved whole again: the same bytes, and nothing left of the shards. */
static void test_save_shards(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(every_backend); i += i == 1 ? N_REAL - 1 : 1) {
        Error err = {0};
        Machine mc;
        TestNet t;
        Model m;
        Head h;
        if (!machine_open_at(&mc, i, 2)) continue;
        ModelConfig c = i % 2 ? llama_config(false, true) : gpt2_config(false, GELU_TANH);
        test_net_open(&t, mc.be, &c, HEAD_LM, c.n_vocab, false);
        t.model.tokens = (ModelTokens){.bos = 0, .pad = 3, .n_eos = 2, .eos = {5, 2}};
        OK(io_remove_tree(DIR "_split", &err) && io_remove_tree(DIR, &err));
        OK(net_save(t.net, DIR, &err));
        OK(net_save_as(t.net, DIR "_split", &(SaveOptions){.shard = 2000}, &err));
        assert_false(io_exists(DIR "_split/model.safetensors"));
        char **names;
        int n;
        OK(io_list_dir(&names, &n, DIR "_split", &err));
        assert_true(n > 4);
        char last[64];
        snprintf(last, sizeof last, "model-%05d-of-%05d.safetensors", n - 2, n - 2);
        assert_string_equal(names[n - 2], last);
        io_free_list(names, n);
        OK(model_open(&m, mc.be, DIR "_split", false, &err) && head_open(&h, &m, HEAD_LM, DIR "_split", false, &err));
        assert_true(m.tokens.bos == 0 && m.tokens.pad == 3 && m.tokens.n_eos == 2 && m.tokens.eos[1] == 2);
        assert_int_equal(m.cfg.eos_id, 5);
        OK(net_save((Net){&m, &h, NULL}, DIR "_split", &err));
        assert_same_file(DIR "/model.safetensors", DIR "_split/model.safetensors");
        assert_same_file(DIR "/config.json", DIR "_split/config.json");
        OK(io_list_dir(&names, &n, DIR "_split", &err));
        assert_int_equal(n, 2);
        io_free_list(names, n);
        head_release(&h), model_release(&m);
        test_net_close(&t);
        machine_close(&mc);
    }
}

/* Written in another type and read again: rounded once; what F16 cannot hold is refused by name; what is not finite is
 * noted. */
static void test_save_types(void **state) {
    (void)state;
    static const struct {
        const char *dtype;
        double ulp;
    } types[] = {{"F32", 0}, {"BF16", 1.0 / 256}, {"F16", 1.0 / 2048}};
    Error err = {0};
    Machine mc;
    TestNet t;
    Model m;
    assert_true(machine_open(&mc, "ref", NULL, 1));
    ModelConfig c = gpt2_config(true, GELU_TANH);
    test_net_open(&t, mc.be, &c, HEAD_LM, c.n_vocab, false);
    size_t n, n2;
    double *x = gather_all(t.net, true, &n);
    for (int i = 0; i < COUNT_OF(types); i++) {
        OK(net_save_as(t.net, DIR, &(SaveOptions){.dtype = types[i].dtype}, &err));
        OK(model_open(&m, mc.be, DIR, false, &err));
        double *y = gather_all((Net){&m, NULL, NULL}, true, &n2);
        assert_int_equal(n, n2);
        for (size_t k = 0; k < n; k++) assert_true(fabs(x[k] - y[k]) <= fabs(x[k]) * types[i].ulp + 0x1p-25 * (i == 2));
        assert_string_equal(str_get(&m.note), "");
        free(y);
        model_release(&m);
    }
    ((double *)t.model.w.wte.data)[5] = 1e5;
    assert_false(net_save_as(t.net, DIR, &(SaveOptions){.dtype = "F16"}, &err));
    assert_non_null(strstr(err.msg, "tensor 'transformer.wte.weight' has values that F16 cannot hold"));
    ((double *)t.model.w.wte.data)[5] = (double)NAN, ((double *)t.model.w.wte.data)[77] = -INFINITY;
    ((double *)t.model.w.norm.data)[20] = ((double *)t.model.w.block[1].wk.data)[40] = (double)NAN;
    ((double *)t.model.w.block[1].w_up.data)[3] = INFINITY; /* without a NaN beside it */
    OK(net_save_as(t.net, DIR, &(SaveOptions){.dtype = "BF16"}, &err));
    Machine half; /* reads BF16 as it is */
    assert_true(machine_open(&half, "cpu", NULL, 1));
    OK(backend_set_dtype(half.be, DTYPE_BF16, &err));
    for (int way = 0; way < 2; way++) {
        OK(model_open(&m, way ? half.be : mc.be, DIR, false, &err));
        assert_non_null(
            strstr(str_get(&m.note), "tensor 'transformer.wte.weight': 1 of 651 values are NaN, 1 infinite\n"));
        assert_non_null(
            strstr(str_get(&m.note), "tensor 'transformer.ln_f.weight': 1 of 21 values are NaN, 0 infinite\n"));
        assert_non_null(strstr(str_get(&m.note),
                               "tensor 'transformer.h.1.attn.c_attn.weight': 1 of 441 values are NaN, 0 infinite\n"));
        assert_non_null(strstr(str_get(&m.note), "tensor 'transformer.h.1.mlp.c_fc.weight': 0 of "));
        assert_null(strstr(str_get(&m.note), "h.0"));
        model_release(&m);
    }
    machine_close(&half);
    free(x);
    test_net_close(&t);
    machine_close(&mc);
}

/* Every kind of number a file may hold, at odd addresses. */
static void test_convert(void **state) {
    (void)state;
    static const double values[] = {0, 1, 2, 100, 127, 3};
    unsigned char bytes[64 + 1];
    float out[8], back;
    for (int e = 0; e < ELEM_COUNT; e++) {
        size_t size = element_bytes((Element)e);
        for (int i = 0; i < 6; i++) {
            float f = (float)values[i];
            double d = values[i];
            int64_t k = (int64_t)values[i];
            unsigned char *to = bytes + 1 + size * (size_t)i;
            if (e == ELEM_F64)
                memcpy(to, &d, size);
            else if (e <= ELEM_F16)
                assert_int_equal(element_store(to, &f, (Element)e, 1), 0);
            else
                memcpy(to, &k, size);
        }
        element_load(out, bytes + 1, (Element)e, 6);
        for (int i = 0; i < 6; i++) assert_true((double)out[i] == (e == ELEM_BOOL ? values[i] != 0 : values[i]));
        assert_int_equal(element_of(element_name((Element)e)), e);
    }
    /* every half there is, both ways; and rounding to nearest even */
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t half = (uint16_t)h, again;
        element_load(&back, (const unsigned char *)&half, ELEM_F16, 1);
        double expected = h >> 10 & 31 ? ldexp(1024 + (h & 1023), (int)(h >> 10 & 31) - 25) : ldexp(h & 1023, -24);
        if ((h >> 10 & 31) == 31) expected = h & 1023 ? (double)NAN : INFINITY;
        if (h & 0x8000) expected = -expected;
        assert_true(isnan(expected) ? isnan(back) : (double)back == expected && !signbit(back) == !(h & 0x8000));
        element_store((unsigned char *)&again, &back, ELEM_F16, 1);
        assert_true(isnan(back) ? (again & 0x7fff) > 0x7c00 : again == half);
    }
    static const struct {
        float x;
        uint16_t half;
    } round[] = {{1.00048828125f, 0x3c00},
                 {1.00146484375f, 0x3c02},
                 {65519.0f, 0x7bff},
                 {65520.0f, 0x7c00},
                 {0x1p-25f, 0},
                 {0x1.8p-25f, 1},
                 {0x1.8p-24f, 2},
                 {0x1.ffap-15f, 0x03ff},
                 {0x1.fffp-15f, 0x0400},
                 {-0x1p-14f, 0x8400},
                 {1e-30f, 0}};
    for (int i = 0; i < COUNT_OF(round); i++) {
        uint16_t half;
        int64_t lost = element_store((unsigned char *)&half, &round[i].x, ELEM_F16, 1);
        if (half != round[i].half) fail_msg("%a became %04x, expected %04x", (double)round[i].x, half, round[i].half);
        assert_int_equal(lost, half == 0x7c00);
    }
}

/* -- faults ---------------------------------------------------------------------------------------------------------
 */

static int fail_at(void *ud, const char *what) {
    int *left = ud;
    (void)what;
    return (*left)-- == 0 ? ENOSPC : 0;
}

/* The k-th system call fails, for every k until all succeed: an Error each time, nothing leaked, the old folder intact.
 */
static void test_faults(void **state) {
    (void)state;
    Error err = {0};
    Machine mc;
    TestNet t;
    assert_true(machine_open(&mc, "ref", NULL, 1));
    ModelConfig c = gpt2_config(false, GELU_TANH);
    test_net_open(&t, mc.be, &c, HEAD_LM, c.n_vocab, false);
    OK(net_save(t.net, DIR, &err));
    int k = 0, n_failed = 0;
    for (bool done = false; !done; k++) {
        Model m = {0};
        Head h = {0};
        int left = k;
        io_set_fault_hook(fail_at, &left);
        bool saved = net_save(t.net, DIR "_fault", &err);
        bool opened = saved && model_open(&m, mc.be, DIR "_fault", false, &err);
        bool headed = opened && head_open(&h, &m, HEAD_LM, DIR "_fault", false, &err);
        io_set_fault_hook(NULL, NULL);
        done = left >= 0;
        if (done) {
            assert_true(headed);
        } else if (!headed) { /* what is tried best-effort may fail unseen */
            n_failed++;
            assert_true(err.code == ERR_IO && err.msg[0]);
        }
        if (opened) model_release(&m);
        if (headed) head_release(&h);
        assert_true(k < 1000);
    }
    assert_true(n_failed > 8);
    assert_same_file(DIR "/model.safetensors", DIR "_fault/model.safetensors");
    test_net_close(&t);
    machine_close(&mc);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers),     cmocka_unit_test(test_lengths),         cmocka_unit_test(test_write),
        cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_strict),          cmocka_unit_test(test_half_types),
        cmocka_unit_test(test_rounds_once), cmocka_unit_test(test_half_transposed), cmocka_unit_test(test_shards),
        cmocka_unit_test(test_faults),      cmocka_unit_test(test_save_shards),     cmocka_unit_test(test_save_types),
        cmocka_unit_test(test_convert),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
