// layer: nn
/* Against PyTorch: tiny random models of every family (grouped heads, biases, tied and untied, windows, scaled RoPE,
 * norms of q and k), written by oracle/nn_goldens.py in float64. Logits, loss, every gradient, and the weights after
 * ten AdamW steps with clipping. */
#include "nn_help.h"

#include "base/json.h"
#include "nn/nn_int.h"
#include "nn/optim.h"

#include <math.h>

enum { STEPS = 10 };

typedef struct {
    double logits, grad, after; /* bounds: see agree(); F32 ones are those of the oracle table */
} Bounds;
static const Bounds f64_bounds = {1e-10, 1e-9, 1e-9}, f32_bounds = {1e-5, 5e-6, 2e-5};

typedef struct {
    StFile file;
    Backend *be;
    Family family;
    bool grads;
    const char *prefix; /* "grad." or "after." */
    double bound, worst;
    int n;
} Golden;

static const double *golden_f64(const Golden *g, const char *name, int64_t n) {
    const StEntry *e = st_find(&g->file, name);
    if (!e) fail_msg("no golden '%s'", name);
    assert_string_equal(e->dtype, "F64");
    assert_int_equal(e->bytes, (size_t)n * sizeof(double));
    assert_int_equal((uintptr_t)e->data % 8, 0);
    return (const double *)(const void *)e->data;
}

static int32_t *golden_ids(const Golden *g, const char *name, int n) {
    const StEntry *e = st_find(&g->file, name);
    if (!e || e->bytes != (size_t)n * 8) fail_msg("no golden '%s'", name);
    int32_t *out = mem_alloc((size_t)n * sizeof *out);
    for (int i = 0; i < n; i++) {
        int64_t v;
        memcpy(&v, e->data + 8 * i, 8);
        out[i] = (int32_t)v;
    }
    return out;
}

/* ||got - expected|| / ||expected||, a gradient that vanishes by symmetry (the key bias without rotation) being
 * measured against 0.01. */
static double agree(const double *got, const double *expected, int64_t n) {
    double diff = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) diff += pow(got[i] - expected[i], 2), norm += expected[i] * expected[i];
    return sqrt(diff) / fmax(sqrt(norm), 0.01);
}

static void check(Golden *g, const char *name, const double *got, const double *expected, int64_t n, double bound) {
    double rel = agree(got, expected, n);
    if (!(rel < bound)) fail_msg("%s: off by %.3g, bound %.3g", name, rel, bound);
    if (rel > g->worst) g->worst = rel;
    g->n++;
}

static int64_t golden_at(Tensor t, int64_t out, int64_t in, bool transposed, int part, int n_part) {
    if (n_part > 1 && t.rows == 1) return part * t.cols + in;
    return transposed && t.rows > 1 ? in * (n_part * t.rows) + part * t.rows + out : out * t.cols + in;
}

/* The golden's part of a parameter, turned to our orientation: Conv1D keeps (in, out), c_attn holds q, k, v. */
static void check_param(Golden *g, const char *name, Tensor t, bool transposed, int part, int n_part) {
    char full[160];
    int64_t n = tensor_count(t);
    snprintf(full, sizeof full, "%s%s", g->prefix, name);
    const double *file = golden_f64(g, full, n * n_part);
    double *got = mem_alloc((size_t)n * sizeof *got), *expected = mem_alloc((size_t)n * sizeof *expected);
    tensor_get(g->be, got, t);
    for (int64_t i = 0; i < n; i++) expected[i] = file[golden_at(t, i / t.cols, i % t.cols, transposed, part, n_part)];
    check(g, full, got, expected, n, g->bound);
    free(got), free(expected);
}

static void check_slot(void *ud, const ParamSlot *s) {
    Golden *g = ud;
    FileName f;
    /* Without rotation softmax does not see the key bias: its gradient is zero up to rounding, which in F32 is as large
     * as AdamW's eps, so ten steps of it are noise. */
    if (s->number == PARAM_bk && g->family == FAMILY_GPT2 && !g->grads && g->be->real == DTYPE_F32) return;
    family_file_name(&f, g->family, s);
    check_param(g, f.name, *s->w, f.transposed, f.part, f.n_part);
}

/* Every parameter of the net, gradients or weights. */
static void check_all(Golden *g, Net net, bool grads, double bound) {
    Model *m = net.trunk;
    g->prefix = grads ? "grad." : "after.", g->bound = bound, g->grads = grads, g->family = m->cfg.family;
    params_walk(&m->cfg, grads ? &m->dw : &m->w, NULL, check_slot, g);
    if (!net.head->tied) check_param(g, "lm_head.weight", grads ? net.head->dw : net.head->w, false, 0, 1);
}

static Rows golden_rows(const Golden *g) {
    int32_t *len = golden_ids(g, "len", 2);
    Rows r = rows_random((const int *)len, 2, 2, 1);
    free(r.tok), free(r.target);
    r.tok = golden_ids(g, "tok", r.n_tok), r.target = golden_ids(g, "target", r.n_tok);
    memcpy(r.weight, golden_f64(g, "weight", r.n_tok), (size_t)r.n_tok * sizeof *r.weight);
    free(len);
    return r;
}

typedef struct {
    Backend *be;
    double by;
} ScaleJob;

static void scale_gradient(void *ud, int index, const ParamInfo *p) {
    ScaleJob *job = ud;
    (void)index;
    job->be->op->scale(job->be, p->dw, job->by);
}

static void against_golden(const char *dir, Backend *be, const Bounds *bound, const char *what) {
    Error err = {0};
    Golden g = {.be = be};
    Model m;
    Head head;
    Acts *a;
    Optim *o;
    char path[1024];
    snprintf(path, sizeof path, "%s/golden/%s", TEST_DIR, dir);
    OK(model_open(&m, be, path, true, &err));
    OK(head_open(&head, &m, HEAD_LM, path, true, &err));
    snprintf(path, sizeof path, "%s/golden/%s/expected.safetensors", TEST_DIR, dir);
    OK(st_open(&g.file, path, &err));
    Net net = {&m, &head, NULL};
    Rows rows = golden_rows(&g);
    double total = 0;
    for (int i = 0; i < rows.n_tok; i++) total += rows.weight[i];
    OK(acts_open(&a, &m, rows.n_tok, rows.n_tok, KEEP_INPUTS, &err));
    OptimConfig oc = {.lr = 0x1p-7, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.125, .clip = 1};
    OK(optim_open(&o, &net, NULL, 1, &oc, &err));

    int64_t n_logits = (int64_t)rows.n_tok * m.cfg.n_vocab;
    double *logits = mem_alloc((size_t)n_logits * sizeof *logits);
    const double *loss = golden_f64(&g, "loss", STEPS), *norm = golden_f64(&g, "norm", STEPS);
    bool clipped = false, free_steps = false;
    for (int step = 0; step < STEPS; step++) {
        double got = run_rows(net, a, &rows, 4, true, step ? NULL : logits) / total;
        check(&g, "loss", &got, &loss[step], 1, bound->after);
        if (step == 0) {
            check(&g, "logits", logits, golden_f64(&g, "logits", n_logits), n_logits, bound->logits);
            net_visit(net, scale_gradient,
                      &(ScaleJob){be, 1 / total}); /* ours are of the sum, the golden's of the mean */
            check_all(&g, net, true, bound->grad);
            net_visit(net, scale_gradient, &(ScaleJob){be, total});
        }
        OptimResult r = optim_step(o, 1, 1 / total);
        check(&g, "norm", &r.grad_norm, &norm[step], 1, bound->after);
        assert_false(r.skipped);
        clipped = clipped || r.clip_factor < 1, free_steps = free_steps || r.clip_factor == 1;
    }
    check_all(&g, net, false, bound->after);
    assert_true(clipped);
    print_message("%s %s: %d tensors, worst %.2g, %s\n", dir, what, g.n, g.worst,
                  free_steps ? "some steps clipped" : "all clipped");
    free(logits);
    optim_close(o);
    acts_close(a);
    rows_free(&rows);
    st_close(&g.file);
    head_release(&head);
    model_release(&m);
}

static const char *const goldens[] = {"nn_llama", "nn_gpt2", "nn_llama3", "nn_mistral", "nn_qwen2", "nn_qwen3"};

/* Skipped by name where the build has no CUDA or the machine no GPU. */
static void test_goldens_on_a_gpu(void **state) {
    (void)state;
    Machine mc;
    if (!machine_open(&mc, "cuda", NULL, 2)) skip();
    for (int k = 0; k < COUNT_OF(goldens); k++) against_golden(goldens[k], mc.be, &f32_bounds, "cuda");
    machine_close(&mc);
}

static void test_goldens(void **state) {
    (void)state;
    for (int i = 0; i < N_REAL; i++) {
        Machine mc;
        if (!machine_open_at(&mc, i, 2)) continue;
        const Bounds *bound = mc.be->real == DTYPE_F64 ? &f64_bounds : &f32_bounds;
        char what[32];
        snprintf(what, sizeof what, "%s %s", every_backend[i].name, every_backend[i].isa ? every_backend[i].isa : "");
        for (int k = 0; k < COUNT_OF(goldens); k++) against_golden(goldens[k], mc.be, bound, what);
        machine_close(&mc);
    }
}

/* -- BF16 -------------------------------------------------------------------------------------------------------- */

/* Relative errors of PyTorch's own BF16 (oracle/nn_bf16.py) against the goldens, and ours. */
typedef struct {
    Golden g;
    const Json *torch;
    double diff, norm;           /* squared: of all gradients together */
    double part_diff, part_norm; /* of the parts of a fused parameter so far */
    double torch_all;
} Half;

static void compare_half(Half *h, const char *name, const double *got, const double *expected, int64_t n, bool last) {
    double torch = json_num(json_get(h->torch, name), NAN);
    for (int64_t i = 0; i < n; i++)
        h->part_diff += pow(got[i] - expected[i], 2), h->part_norm += expected[i] * expected[i];
    if (!last) return;
    h->diff += h->part_diff, h->norm += h->part_norm;
    double own = sqrt(h->part_diff) / fmax(sqrt(h->part_norm), 0.01), allowed = 2 * fmax(torch, h->torch_all);
    h->part_diff = h->part_norm = 0;
    if (!(own <= allowed)) fail_msg("%s: off by %.3g, twice PyTorch's error is %.3g", name, own, allowed);
    h->g.n++;
}

static void half_param(Half *h, const char *name, Tensor t, bool transposed, int part, int n_part) {
    char full[160];
    int64_t n = tensor_count(t);
    snprintf(full, sizeof full, "grad.%s", name);
    const double *file = golden_f64(&h->g, full, n * n_part);
    double *got = mem_alloc((size_t)n * sizeof *got), *expected = mem_alloc((size_t)n * sizeof *expected);
    tensor_get(h->g.be, got, t);
    for (int64_t i = 0; i < n; i++) expected[i] = file[golden_at(t, i / t.cols, i % t.cols, transposed, part, n_part)];
    compare_half(h, full, got, expected, n, part == n_part - 1);
    free(got), free(expected);
}

static void half_slot(void *ud, const ParamSlot *s) {
    Half *h = ud;
    FileName f;
    family_file_name(&f, h->g.family, s);
    half_param(h, f.name, *s->w, f.transposed, f.part, f.n_part);
}

static void half_against_golden(const char *dir, Backend *be, const Json *errors, const char *what) {
    Error err = {0};
    Half h = {.g = {.be = be}, .torch = json_get(errors, dir)};
    Model m;
    Head head;
    Acts *a;
    char path[1024];
    snprintf(path, sizeof path, "%s/golden/%s", TEST_DIR, dir);
    OK(model_open(&m, be, path, true, &err));
    OK(head_open(&head, &m, HEAD_LM, path, true, &err));
    snprintf(path, sizeof path, "%s/golden/%s/expected.safetensors", TEST_DIR, dir);
    OK(st_open(&h.g.file, path, &err));
    Net net = {&m, &head, NULL};
    Rows rows = golden_rows(&h.g);
    double total = 0;
    for (int i = 0; i < rows.n_tok; i++) total += rows.weight[i];
    OK(acts_open(&a, &m, rows.n_tok, rows.n_tok, KEEP_ALL, &err));
    int64_t n_logits = (int64_t)rows.n_tok * m.cfg.n_vocab;
    double *logits = mem_alloc((size_t)n_logits * sizeof *logits);
    run_rows(net, a, &rows, 4, true, logits);
    net_visit(net, scale_gradient, &(ScaleJob){be, 1 / total});
    h.g.family = m.cfg.family;
    h.torch_all = json_num(json_get(h.torch, "all"), NAN);
    compare_half(&h, "logits", logits, golden_f64(&h.g, "logits", n_logits), n_logits, true);
    h.diff = h.norm = 0;
    params_walk(&m.cfg, &m.dw, NULL, half_slot, &h);
    if (!head.tied) half_param(&h, "lm_head.weight", head.dw, false, 0, 1);
    double all = sqrt(h.diff / h.norm);
    print_message("%s %s: %d tensors, all gradients off by %.2g, PyTorch's by %.2g\n", dir, what, h.g.n, all,
                  h.torch_all);
    assert_true(all <= 2 * h.torch_all && all > 1e-4); /* it is BF16 */
    free(logits);
    acts_close(a);
    rows_free(&rows);
    st_close(&h.g.file);
    head_release(&head);
    model_release(&m);
}

static void test_half_goldens(void **state) {
    (void)state;
    Json *errors = NULL;
    Error err = {0};
    OK(json_read_file(&errors, TEST_DIR "/golden/nn_bf16.json", 0, &err));
    for (int i = N_REAL; i < COUNT_OF(every_backend); i++) {
        Machine mc;
        if (!machine_open_at(&mc, i, 2)) continue;
        half_against_golden("nn_llama", mc.be, errors, every_backend[i].isa);
        half_against_golden("nn_gpt2", mc.be, errors, every_backend[i].isa);
        machine_close(&mc);
    }
    Machine mc;
    if (machine_open(&mc, "cuda", NULL, 2)) {
        OK(backend_set_dtype(mc.be, DTYPE_BF16, &err));
        half_against_golden("nn_llama", mc.be, errors, "cuda");
        half_against_golden("nn_gpt2", mc.be, errors, "cuda");
        machine_close(&mc);
    }
    json_release(errors);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_goldens), cmocka_unit_test(test_goldens_on_a_gpu),
                                       cmocka_unit_test(test_half_goldens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
