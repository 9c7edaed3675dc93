// layer: nn
/* A model that reads its files until its second pass: the bits of every pass, where its weights lie and when they move,
 * what it says of strange values, and everything that writes or copies weights before it has moved them. */
#include "nn_help.h"

#include "base/io.h"
#include "nn/light.h"

#include <math.h>

#define DIR BUILD_DIR "/nn_mapped"

typedef struct {
    Model m;
    Head h;
    Net net;
} Opened;

static Opened *open_as(Backend *be, bool mapped) {
    Error err = {0};
    Opened *o = mem_alloc(sizeof *o);
    if (mapped)
        OK(model_open_mapped(&o->m, be, DIR, &err));
    else
        OK(model_open(&o->m, be, DIR, false, &err));
    OK(head_open(&o->h, &o->m, HEAD_LM, DIR, false, &err));
    o->net = (Net){&o->m, &o->h, NULL};
    return o;
}

static void close_opened(Opened *o) {
    head_release(&o->h);
    model_release(&o->m);
    free(o);
}

/* dtype: of the file, NULL: as the model's. */
static void save_as(Backend *be, const ModelConfig *c, float strange, const char *dtype) {
    Error err = {0};
    TestNet t;
    test_net_open(&t, be, c, HEAD_LM, c->n_vocab, false);
    if (strange != 0) {
        Tensor w = t.model.w.block[1].w_up;
        double *x = mem_alloc((size_t)tensor_count(w) * sizeof *x);
        tensor_get(be, x, w);
        x[7] = (double)strange, x[8] = (double)-strange;
        tensor_set(be, w, x);
        free(x);
    }
    OK(net_save_as(t.net, DIR, &(SaveOptions){.dtype = dtype}, &err));
    test_net_close(&t);
}

static void save(Backend *be, const ModelConfig *c, float strange) { save_as(be, c, strange, NULL); }

static double *outputs(Net net, const Rows *rows) {
    Error err = {0};
    Acts *a;
    double *out = mem_alloc((size_t)rows->n_row * (size_t)net.head->n_out * sizeof *out);
    OK(acts_open(&a, net.trunk, rows->n_tok, rows->n_row, KEEP_NONE, &err));
    run_rows(net, a, rows, 50, false, out);
    acts_close(a);
    return out;
}

static void same_outputs(Net a, Net b, const Rows *rows) {
    double *x = outputs(a, rows), *y = outputs(b, rows);
    assert_memory_equal(x, y, (size_t)rows->n_row * (size_t)a.head->n_out * sizeof *x);
    free(x), free(y);
}

static void same_weights(Net a, Net b) {
    size_t n, m;
    double *x = gather_all(a, true, &n), *y = gather_all(b, true, &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n * sizeof *x);
    free(x), free(y);
}

/* Three passes: one row, rows of several chunks, one row. */
static void test_passes(void **state) {
    (void)state;
    static const int one[] = {1}, many[] = {150, 3, 160, 149};
    int n_run = 0;
    for (int k = 0; k < 2 * N_REAL; k++) {
        Machine mc;
        ModelConfig c = llama_config(k % 2, k % 2);
        if (!machine_open_at(&mc, k / 2, 2)) continue;
        bool panels = mc.be->panels;
        save(mc.be, &c, 0);
        Rows rows[2] = {rows_random(one, 1, c.n_vocab, 3), rows_random(many, COUNT_OF(many), c.n_vocab, 4)};
        for (int first = 0; first < 2; first++) {
            Opened *o = open_as(mc.be, false), *p = open_as(mc.be, true);
            assert_true(!o->m.mapped && !p->m.mapped == !panels);
            same_weights(o->net, p->net);
            assert_true(!p->m.mapped == !panels);
            same_outputs(o->net, p->net, &rows[first]);
            assert_true(!p->m.mapped == !panels && (!panels || !p->m.w.block[0].wq.panels));
            same_outputs(o->net, p->net, &rows[!first]);
            assert_true(!p->m.mapped && p->m.w.block[0].wq.panels == panels);
            same_outputs(o->net, p->net, &rows[first]);
            same_weights(o->net, p->net);
            close_opened(o), close_opened(p);
        }
        n_run += panels;
        rows_free(&rows[0]), rows_free(&rows[1]);
        machine_close(&mc);
    }
    assert_true(n_run >= 2);
}

/* Where a product cannot read what the file holds everything is as ever: matrices that lie transposed; BF16, of the
 * model or of the file alone. */
static void test_cannot(void **state) {
    (void)state;
    static const int len[] = {5};
    for (int k = 0; k < 3; k++) {
        Machine mc;
        Error err = {0};
        ModelConfig c = k ? llama_config(true, false) : gpt2_config(true, GELU_TANH);
        assert_true(machine_open(&mc, "cpu", "scalar", 1));
        if (k == 1 && !backend_set_dtype(mc.be, DTYPE_BF16, &err)) fail_msg("%s", err.msg);
        save_as(mc.be, &c, 0, k == 2 ? "BF16" : NULL);
        Opened *o = open_as(mc.be, false), *p = open_as(mc.be, true);
        Rows rows = rows_random(len, 1, c.n_vocab, 5);
        assert_null(p->m.mapped);
        same_outputs(o->net, p->net, &rows);
        rows_free(&rows);
        close_opened(o), close_opened(p);
        machine_close(&mc);
    }
}

/* Strange values are told once, when it is opened. */
static void test_notes(void **state) {
    (void)state;
    static const int len[] = {4};
    for (int k = 0; k < 2; k++) {
        Machine mc;
        ModelConfig c = llama_config(true, false);
        assert_true(machine_open(&mc, "cpu", "scalar", 2));
        save(mc.be, &c, k ? NAN : INFINITY);
        Opened *o = open_as(mc.be, false), *p = open_as(mc.be, true);
        Rows rows = rows_random(len, 1, c.n_vocab, 6);
        const char *want = k ? "2 of 540 values are NaN, 0 infinite" : "0 of 540 values are NaN, 2 infinite";
        assert_non_null(strstr(str_get(&p->m.note), want));
        for (int i = 0; i < 2; i++) free(outputs(p->net, &rows));
        assert_null(p->m.mapped);
        assert_string_equal(str_get(&o->m.note), str_get(&p->m.note));
        rows_free(&rows);
        close_opened(o), close_opened(p);
        machine_close(&mc);
    }
}

/* Copies, rounded copies and larger vocabularies, of a model that nothing has run. */
static void test_moved_before_a_pass(void **state) {
    (void)state;
    static const int len[] = {20, 3};
    Error err = {0};
    Machine mc;
    ModelConfig c = llama_config(true, false);
    assert_true(machine_open(&mc, "cpu", "scalar", 2));
    save(mc.be, &c, 0);
    Rows rows = rows_random(len, 2, c.n_vocab, 7);

    Opened *o = open_as(mc.be, false), *p = open_as(mc.be, true);
    TestNet t;
    test_net_open(&t, mc.be, &c, HEAD_LM, c.n_vocab, false);
    OK(net_copy_weights(t.net, p->net, &err));
    same_weights(o->net, t.net);
    OK(net_copy_weights(p->net, t.net, &err)); /* its files are no memory to write to */
    same_weights(t.net, p->net);
    same_outputs(t.net, p->net, &rows);
    test_net_close(&t);
    close_opened(p);

    p = open_as(mc.be, true);
    LightNet plain, mapped;
    OK(light_open(&plain, o->net, DTYPE_BF16, &err) && light_open(&mapped, p->net, DTYPE_BF16, &err));
    same_outputs(light_net(&plain), light_net(&mapped), &rows);
    light_release(&plain), light_release(&mapped);
    close_opened(p);

    p = open_as(mc.be, true);
    OK(net_grow_vocab(&o->m, &o->h, c.n_vocab + 5, 1, &err) && net_grow_vocab(&p->m, &p->h, c.n_vocab + 5, 1, &err));
    same_weights(o->net, p->net);
    same_outputs(o->net, p->net, &rows);
    close_opened(o), close_opened(p);
    rows_free(&rows);
    machine_close(&mc);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes),
        cmocka_unit_test(test_cannot),
        cmocka_unit_test(test_notes),
        cmocka_unit_test(test_moved_before_a_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
