// layer: nn
/* Schedules against transformers, AdamW and clipping against torch (golden/nn_optim.json), and what is ours: joint norm
 * over several nets, skipped steps, decay groups, moments that resume to the bit. */
#include "nn_help.h"

#include "base/json.h"
#include "nn/optim.h"

#include <math.h>

static Json *golden(void) {
    Json *root = NULL;
    Error err = {0};
    OK(json_read_file(&root, TEST_DIR "/golden/nn_optim.json", 0, &err));
    return root;
}

static double num(const Json *obj, const char *key) {
    const Json *j = json_get(obj, key);
    if (!j) fail_msg("no '%s' in the golden", key);
    return json_num(j, NAN);
}

/* -- schedules ------------------------------------------------------------------------------------------------------
 */

static Schedule schedule_of(const Json *j) {
    const char *name = json_str(json_get(j, "name"), NULL), *decay = json_str(json_get(j, "decay_type"), NULL);
    Schedule s = {.warmup = (int64_t)num(j, "warmup"), .total = (int64_t)num(j, "total")};
    s.kind = strcmp(name, "linear") == 0                 ? SCHED_LINEAR
             : strcmp(name, "warmup_stable_decay") == 0  ? SCHED_WSD
             : strcmp(name, "constant_with_warmup") == 0 ? SCHED_CONSTANT
                                                         : SCHED_COSINE;
    s.decay = json_int(json_get(j, "num_decay_steps"), 0);
    s.floor = json_num(json_get(j, "min_lr_rate"), json_num(json_get(j, "min_lr_ratio"), 0));
    if (decay) s.decay_kind = decay[0] == 'l' ? DECAY_LINEAR : decay[0] == 'c' ? DECAY_COSINE : DECAY_SQRT;
    return s;
}

static void test_schedules(void **state) {
    (void)state;
    Json *root = golden();
    const Json *list = json_get(root, "schedules");
    assert_int_equal(json_len(list), 8);
    for (int i = 0; i < json_len(list); i++) {
        const Json *factor = json_get(json_at(list, i), "factor");
        Schedule s = schedule_of(json_at(list, i));
        for (int k = 0; k < json_len(factor); k++) {
            double got = schedule_factor(&s, k), expected = json_num(json_at(factor, k), NAN);
            if (!(fabs(got - expected) < 1e-12))
                fail_msg("schedule %d, step %d: %.17g, expected %.17g", i, k, got, expected);
        }
    }
    json_release(root);

    Schedule s = {.kind = SCHED_LINEAR, .warmup = 4, .total = 12, .floor = 0.25, .warmup_from_one = true};
    static const double expected[] = {0.25, 0.5, 0.75, 1, 1, 0.90625};
    for (int k = 0; k < COUNT_OF(expected); k++) assert_true(fabs(schedule_factor(&s, k) - expected[k]) < 1e-15);
    assert_true(schedule_factor(&s, 12) == 0.25 && schedule_factor(&s, 500) == 0.25);
}

/* -- a net whose gradients the tests write ---------------------------------------------------------------------------
 */

static ModelConfig square_config(void) {
    return (ModelConfig){.family = FAMILY_LLAMA,
                         .n_layer = 1,
                         .n_head = 1,
                         .n_kv_head = 1,
                         .d_model = 8,
                         .d_head = 8,
                         .d_ff = 8,
                         .n_vocab = 9,
                         .max_seq = 4,
                         .norm = NORM_RMS,
                         .pos = POS_ROPE,
                         .mlp = MLP_SWIGLU,
                         .tied = true,
                         .rope_theta = 10000,
                         .norm_eps = 1e-5,
                         .eos_id = -1};
}

static double rule_grad(int64_t i, int64_t s) {
    double sign_and_size = (double)((i * 40503 + s * 9973 + 12345) % 65536) / 32768 - 1;
    return sign_and_size * pow(2, -3.0 * (double)(s % 5));
}

static void set_grads(Backend *be, Tensor dw, int64_t s, double scale) {
    double g[96];
    assert_true(tensor_count(dw) <= 96);
    for (int64_t i = 0; i < tensor_count(dw); i++) g[i] = scale * rule_grad(i, s);
    tensor_set(be, dw, g);
}

static void set_params(Backend *be, Tensor w) {
    double p[96];
    for (int64_t i = 0; i < tensor_count(w); i++) p[i] = ((double)((i * 40503 + 777) % 65536) / 32768 - 1) / 32;
    tensor_set(be, w, p);
}

typedef struct {
    Backend *be;
    int64_t step;
    double scale;
} GradJob;

static void set_one_grad(void *ud, int index, const ParamInfo *p) {
    GradJob *job = ud;
    set_grads(job->be, p->dw, job->step + index, job->scale);
}

static void set_all_grads(Net net, int64_t step, double scale) {
    net_visit(net, set_one_grad, &(GradJob){net.trunk->be, step, scale});
}

static void close_to(Backend *be, Tensor w, const Json *expected, double bound, const char *what) {
    double got[96];
    tensor_get(be, got, w);
    for (int i = 0; i < json_len(expected); i++) {
        double e = json_num(json_at(expected, i), NAN);
        if (!(fabs(got[i] - e) <= bound)) fail_msg("%s[%d]: %.12g, expected %.12g", what, i, got[i], e);
    }
}

/* The matrix wq decays, the norm does not: two of torch's parameter groups in one net. */
static void adamw_case(Backend *be, const Json *c, const Json *plain) {
    Error err = {0};
    ModelConfig mc = square_config();
    Model m;
    Optim *o;
    OK(model_init(&m, be, &mc, 1, true, &err));
    Net net = {&m, NULL, NULL};
    BlockParams *w = &m.w.block[0], *d = &m.dw.block[0];
    set_params(be, w->wq);
    set_params(be, w->attn_norm);
    OptimConfig oc = {.lr = 2 * num(c, "lr"), .beta1 = num(c, "beta1"), .beta2 = num(c, "beta2"), .eps = num(c, "eps")};
    oc.weight_decay = num(c, "weight_decay");
    OK(optim_open(&o, &net, NULL, 1, &oc, &err));
    int64_t n = (int64_t)num(c, "steps");
    for (int64_t s = 1; s <= n; s++) {
        set_grads(be, d->wq, s, 4);
        set_grads(be, d->attn_norm, s, 4);
        OptimResult r = optim_step(o, 0.5, 0.25);
        assert_true(!r.skipped && r.clip_factor == 1);
    }
    assert_int_equal(optim_updates(o), n);
    bool exact = be->real == DTYPE_F64;
    const char *which = exact ? "f64" : "f32";
    double bound = exact ? 1e-12 : 1e-7;
    close_to(be, w->wq, json_get(c, which), bound, "wq");
    if (plain) close_to(be, w->attn_norm, json_get(plain, which), bound, "attn_norm");
    optim_close(o);
    model_release(&m);
}

static void test_adamw(void **state) {
    (void)state;
    Json *root = golden();
    const Json *list = json_get(root, "adamw");
    assert_int_equal(json_len(list), 12);
    for (int b = 0; b < N_REAL; b++) {
        Machine mc;
        if (!machine_open_at(&mc, b, 1)) continue;
        /* cases 4..7 are 0..3 without decay */
        for (int i = 0; i < json_len(list); i++)
            adamw_case(mc.be, json_at(list, i), i < 4 ? json_at(list, i + 4) : NULL);
        machine_close(&mc);
    }
    json_release(root);
}

static void test_clip(void **state) {
    (void)state;
    Json *root = golden();
    const Json *list = json_get(root, "clip");
    Error err = {0};
    Machine mc;
    Model m;
    Optim *o;
    assert_int_equal(json_len(list), 3);
    assert_true(machine_open(&mc, "ref", NULL, 1));
    ModelConfig c = square_config();
    OK(model_init(&m, mc.be, &c, 1, true, &err));
    Net net = {&m, NULL, NULL};
    OptimConfig oc = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .clip = 1};
    OK(optim_open(&o, &net, NULL, 1, &oc, &err));
    for (int i = 0; i < 3; i++) {
        const Json *j = json_at(list, i), *first = json_get(j, "first");
        BlockParams *d = &m.dw.block[0];
        Tensor t[] = {d->wq, d->wk, d->wv};
        for (int k = 0; k < 3; k++) set_grads(mc.be, t[k], k + 1, num(j, "scale"));
        OptimResult r = optim_step(o, 1, 1);
        assert_true(fabs(r.grad_norm / num(j, "norm") - 1) < 1e-12);
        for (int k = 0; k < 3; k++) {
            double clipped = rule_grad(0, k + 1) * num(j, "scale") * r.clip_factor;
            assert_true(fabs(clipped - json_num(json_at(first, k), NAN)) < 1e-12);
        }
        for (int k = 0; k < 3; k++)
            set_grads(mc.be, t[k], k + 1, num(j, "scale") * 8); /* a sum of eight: the same mean */
        OptimResult mean = optim_step(o, 1, 0.125);
        assert_true(mean.grad_norm == r.grad_norm && mean.clip_factor == r.clip_factor);
    }
    optim_close(o);
    model_release(&m);
    machine_close(&mc);
    json_release(root);
}

/* -- several nets ---------------------------------------------------------------------------------------------------
 */

static void test_joint(void **state) {
    (void)state;
    Error err = {0};
    Machine mc;
    Model a, b;
    Head h1, h2;
    Optim *o;
    assert_true(machine_open(&mc, "ref", NULL, 1));
    ModelConfig c = square_config();
    OK(model_init(&a, mc.be, &c, 1, true, &err));
    OK(model_init(&b, mc.be, &c, 1, true, &err));
    OK(head_init(&h1, &a, HEAD_SCORE, 1, 1, true, &err));
    OK(head_init(&h2, &a, HEAD_SCORE, 2, 2, true, &err));
    OptimConfig oc = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};
    Net nets[] = {{&a, NULL, NULL}, {&b, NULL, NULL}};
    OK(optim_open(&o, nets, (const double[]){1, 0.5}, 2, &oc, &err));
    size_t n;
    double *before = gather_all(nets[0], true, &n);
    set_all_grads(nets[0], 1, 1);
    double sum = 0, *g = gather_all(nets[0], false, &n);
    for (size_t i = 0; i < n; i++) sum += g[i] * g[i];
    set_all_grads(nets[1], 1, 1);
    OptimResult r = optim_step(o, 1, 1);
    assert_true(fabs(r.grad_norm - sqrt(2 * sum)) < 1e-12);
    double *x = gather_all(nets[0], true, &n), *y = gather_all(nets[1], true, &n);
    for (size_t i = 0; i < n; i++) {
        assert_true(fabs((x[i] - before[i]) - 2 * (y[i] - before[i])) < 1e-15);
        assert_true(x[i] != before[i]);
    }
    double *zero = gather_all(nets[0], false, &n);
    for (size_t i = 0; i < n; i++) assert_true(zero[i] == 0);
    optim_close(o);

    /* two heads on one trunk: the trunk moves once, its version rises once */
    Net shared[] = {{&a, &h1, NULL}, {&a, &h2, NULL}};
    uint64_t version = a.version;
    OK(optim_open(&o, shared, NULL, 2, &oc, &err));
    set_all_grads(shared[0], 1, 1);
    set_all_grads(shared[1], 1, 1);
    optim_step(o, 1, 1);
    double *z = gather_all(nets[0], true, &n);
    for (size_t i = 0; i < n; i++) assert_true(fabs((z[i] - x[i]) - (x[i] - before[i])) < 1e-8);
    assert_int_equal(a.version, version + 1);
    optim_close(o);
    free(before), free(g), free(x), free(y), free(zero), free(z);
    head_release(&h1), head_release(&h2);
    model_release(&a), model_release(&b);
    machine_close(&mc);
}

/* -- skipped steps, resuming -----------------------------------------------------------------------------------------
 */

/* Moments and masters as ranks' states hold them, in F64, and the number of updates behind them. */
typedef struct {
    Backend *be;
    OptimPiece piece[256];
    int n;
} Pieces;

static void add_piece(void *ud, const OptimPiece *p) {
    Pieces *all = ud;
    assert_true(all->n < COUNT_OF(all->piece));
    all->piece[all->n++] = *p;
}

static Pieces pieces_of(const Optim *o) {
    Pieces all = {.be = optim_backend(o)};
    optim_visit(o, add_piece, &all);
    return all;
}

static double *gather_state(const Optim *o, size_t *n) {
    Pieces all = pieces_of(o);
    *n = 1;
    for (int i = 0; i < all.n; i++) *n += (size_t)tensor_count(all.piece[i].t);
    double *x = mem_alloc(*n * sizeof *x), *to = x;
    *to++ = (double)optim_updates(o);
    for (int i = 0; i < all.n; i++) {
        Tensor t = all.piece[i].t;
        for (int64_t r = 0; r < t.rows; r++, to += t.cols) tensor_get_row(all.be, to, t, r);
    }
    return x;
}

static void copy_state(Optim *to, const Optim *from) {
    Pieces a = pieces_of(from), b = pieces_of(to);
    assert_int_equal(a.n, b.n);
    for (int i = 0; i < a.n; i++) {
        Tensor x = a.piece[i].t, y = b.piece[i].t;
        assert_string_equal(a.piece[i].name, b.piece[i].name);
        assert_int_equal(a.piece[i].kind, b.piece[i].kind);
        double *row = mem_alloc((size_t)x.cols * sizeof *row);
        for (int64_t r = 0; r < x.rows; r++) {
            tensor_get_row(a.be, row, x, r);
            tensor_set_row(b.be, y, r, row);
        }
        free(row);
    }
    optim_resume(to, optim_updates(from));
}

static void same_state(const double *a, size_t n_a, const double *b, size_t n_b) {
    assert_int_equal(n_a, n_b);
    assert_memory_equal(a, b, n_a * sizeof *a);
}

static void test_skipped(void **state) {
    (void)state;
    static const double bad[] = {INFINITY, -INFINITY, NAN};
    for (int k = 0; k < COUNT_OF(every_backend); k++) {
        Error err = {0};
        Machine mc;
        TestNet t;
        Optim *o;
        size_t n;
        if (!machine_open_at(&mc, k, 1)) continue;
        ModelConfig c = square_config();
        test_net_open(&t, mc.be, &c, HEAD_SCORE, 1, true);
        OptimConfig oc = {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1};
        OK(optim_open(&o, &t.net, NULL, 1, &oc, &err));
        set_all_grads(t.net, 1, 1);
        assert_false(optim_step(o, 1, 1).skipped);
        double *before = gather_all(t.net, true, &n);
        uint64_t version = t.model.version;
        size_t n_state, n_now;
        double *kept = gather_state(o, &n_state);
        for (int i = 0; i < COUNT_OF(bad); i++) {
            set_all_grads(t.net, 2, 1);
            double row[64];
            Tensor d = t.model.dw.block[0].w_up;
            assert_true(d.cols <= COUNT_OF(row));
            tensor_get_row(mc.be, row, d, 3);
            row[5] = bad[i];
            tensor_set_row(mc.be, d, 3, row);
            OptimResult r = optim_step(o, 1, 1);
            assert_true(r.skipped && !isfinite(r.grad_norm));
        }
        double *now = gather_state(o, &n_now);
        same_state(kept, n_state, now, n_now);
        double *after = gather_all(t.net, true, &n), *grads = gather_all(t.net, false, &n);
        assert_memory_equal(before, after, n * sizeof *after);
        for (size_t i = 0; i < n; i++) assert_true(grads[i] == 0);
        assert_int_equal(t.model.version, version);
        assert_int_equal(optim_updates(o), 1);
        free(before), free(after), free(grads), free(kept), free(now);
        optim_close(o);
        test_net_close(&t);
        machine_close(&mc);
    }
}

static void steps(Net net, Optim *o, int first, int last) {
    for (int s = first; s < last; s++) {
        set_all_grads(net, s, 0.3);
        optim_step(o, 1.0 / (1 + s), 0.5);
    }
}

static void test_resume(void **state) {
    (void)state;
    for (int k = 0; k < COUNT_OF(every_backend); k++) {
        Error err = {0};
        Machine mc;
        TestNet a, b;
        Optim *o, *p;
        size_t n;
        if (!machine_open_at(&mc, k, 1)) continue;
        ModelConfig c = square_config();
        test_net_open(&a, mc.be, &c, HEAD_SCORE, 1, true);
        test_net_open(&b, mc.be, &c, HEAD_SCORE, 1, true);
        OptimConfig oc = {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1};
        OK(optim_open(&o, &a.net, NULL, 1, &oc, &err));
        steps(a.net, o, 0, 4);
        OK(net_copy_weights(b.net, a.net, &err));
        OK(optim_open(&p, &b.net, NULL, 1, &oc, &err));
        copy_state(p, o);
        assert_int_equal(optim_updates(p), 4);
        steps(a.net, o, 4, 9);

        steps(b.net, p, 4, 9);
        double *x = gather_all(a.net, true, &n), *y = gather_all(b.net, true, &n);
        assert_memory_equal(x, y, n * sizeof *x);
        size_t n_s, n_t;
        double *s = gather_state(o, &n_s), *t = gather_state(p, &n_t);
        same_state(s, n_s, t, n_t);
        free(x), free(y), free(s), free(t);
        optim_close(o), optim_close(p);
        test_net_close(&a), test_net_close(&b);
        machine_close(&mc);
    }
}

/* What fills the last panel up, and the column behind an odd last one, is 0 in weights and gradients. */
static void padding_one(void *ud, int index, const ParamInfo *p) {
    (void)index;
    Tensor both[] = {p->w, p->dw};
    for (int k = 0; k < 2; k++) {
        Tensor s = tensor_storage(both[k]);
        double *x = mem_alloc((size_t)tensor_count(s) * sizeof *x);
        tensor_get(ud, x, s);
        for (int64_t i = 0; i < both[k].rows; i++)
            for (int64_t j = 0; j < both[k].cols; j++) x[tensor_at(both[k], i, j)] = 0;
        for (int64_t i = 0; i < tensor_count(s); i++)
            if (x[i] != 0) fail_msg("%s: %g behind the %s", p->name, x[i], k ? "gradient" : "weights");
        free(x);
    }
}

/* Training with everything that touches whole storage: decay, clipping, a step without numbers, rounding. */
static void padding(Backend *be, const ModelConfig *c) {
    static const int len[] = {5, 40, 9};
    Error err = {0};
    TestNet t;
    Acts *a;
    Optim *o;
    size_t n;
    test_net_open(&t, be, c, HEAD_LM, c->n_vocab, true);
    Rows rows = rows_random(len, COUNT_OF(len), c->n_vocab, 3);
    OptimConfig oc = {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 0.5};
    OK(acts_open(&a, &t.model, rows.n_tok, rows.n_tok, KEEP_ALL, &err));
    OK(optim_open(&o, &t.net, NULL, 1, &oc, &err));
    double *old = gather_all(t.net, true, &n);
    for (int s = 0; s < 4; s++) {
        rows.weight[7] = s == 1 ? INFINITY : 1;
        run_rows(t.net, a, &rows, 20, true, NULL);
        if (s != 1) net_visit(t.net, padding_one, be);
        assert_true(optim_step(o, 1, 0.1).skipped == (s == 1));
        net_visit(t.net, padding_one, be);
    }
    double *new = gather_all(t.net, true, &n);
    size_t n_moved = 0;
    for (size_t i = 0; i < n; i++) n_moved += old[i] != new[i];
    assert_true(n_moved > n * 3 / 4);
    free(old), free(new);
    optim_close(o);
    acts_close(a);
    rows_free(&rows);
    test_net_close(&t);
}

static void test_padding(void **state) {
    (void)state;
    for (int k = 0; k < COUNT_OF(every_backend); k++) {
        Machine mc;
        if (!machine_open_at(&mc, k, 1)) continue;
        ModelConfig llama = llama_config(true, true), gpt2 = gpt2_config(true, GELU_TANH);
        padding(mc.be, &llama);
        padding(mc.be, &gpt2);
        machine_close(&mc);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedules), cmocka_unit_test(test_adamw),   cmocka_unit_test(test_clip),
        cmocka_unit_test(test_joint),     cmocka_unit_test(test_skipped), cmocka_unit_test(test_resume),
        cmocka_unit_test(test_padding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
