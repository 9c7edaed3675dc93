// layer: nn
/* Adapters: their gradients against central differences in F64, what they leave alone, merging, and PEFT's files. */
#include "nn_help.h"

#include "base/io.h"
#include "nn/lora.h"
#include "nn/nn_int.h"
#include "nn/optim.h"

#include <math.h>

#define DIR "lora_test"

typedef struct {
    TestNet t; /* the base, frozen */
    Adapter *a;
    Head head; /* SCORE: trained */
    Net net;
} LoraNet;

static const char *const all[] = {"all-linear"};
static const LoraConfig rank3 = {.r = 3, .alpha = 4, .target = all, .n_target = 1, .base = "some/base"};

static void roughen_adapter(LoraNet *l) {
    if (l->a) net_visit(l->net, roughen_one, l->t.model.be);
}

/* As after some training: a as drawn, b no longer zero. Rounding to BF16 stays rounding, which it is not in a rough
 * one. */
static void train_b(void *ud, const LoraPart *p) {
    Backend *be = ud;
    int64_t n = p->up ? tensor_count(p->w) : 0;
    double *x = mem_alloc((size_t)n * sizeof *x + 1);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(0.1 * rng_normal((Rng){4, RNG_TEST}, (uint64_t)i, (uint32_t)(p->layer * 4 + p->part)));
    if (n > 0) tensor_set(be, p->w, x);
    free(x);
}

static void lora_open(LoraNet *l, Backend *be, const ModelConfig *c, HeadKind kind, const LoraConfig *lora,
                      bool grads) {
    Error err = {0};
    *l = (LoraNet){0};
    test_net_open(&l->t, be, c, HEAD_LM, c->n_vocab, false);
    OK(adapter_init(&l->a, &l->t.model, lora, 5, grads, &err));
    l->net = (Net){&l->t.model, &l->t.head, l->a};
    if (kind == HEAD_LM) return;
    OK(head_init(&l->head, &l->t.model, HEAD_SCORE, 2, 6, grads, &err));
    l->net.head = &l->head;
}

static void lora_close(LoraNet *l) {
    adapter_close(l->a);
    head_release(&l->head);
    test_net_close(&l->t);
}

/* -- gradients ------------------------------------------------------------------------------------------------------
 */

typedef struct {
    Net net;
    Acts *acts;
    const Rows *rows;
    int trained, frozen;
} DiffJob;

static void check_one(void *ud, int index, const ParamInfo *p) {
    DiffJob *job = ud;
    double err2 = 0, norm2 = 0;
    if (tensor_empty(p->dw)) {
        job->frozen++;
        return;
    }
    job->trained++;
    int64_t n = tensor_count(p->w);
    for (uint32_t k = 0; k < 8; k++) {
        int64_t at = (int64_t)rng_below((Rng){3, RNG_TEST}, (uint64_t)index, k, (uint32_t)n);
        double expected = loss_difference(job->net, job->acts, job->rows, p->w, at, 5e-5),
               got = ((double *)p->dw.data)[at];
        err2 += (got - expected) * (got - expected);
        norm2 += expected * expected;
    }
    assert_true(norm2 > 0);
    double rel = sqrt(err2) / (sqrt(norm2) + 1e-2);
    if (!(rel < 1e-7)) fail_msg("%s: gradient off by %g of %g", p->name, rel, sqrt(norm2));
}

/* trained: matrices with gradients that there must be. */
static void differences(const ModelConfig *config, HeadKind kind, const LoraConfig *lora, int trained) {
    Error err = {0};
    ModelConfig c = *config;
    c.max_seq = 8;
    Machine mc;
    LoraNet l;
    assert_true(machine_open(&mc, "ref", NULL, 1));
    lora_open(&l, mc.be, &c, kind, lora, true);
    roughen_adapter(&l);
    Rows rows = rows_random((int[]){4, 1, 7}, 3, c.n_vocab, 5);
    rows_keep_odd(&rows);
    rows.drop = 9; /* for adapters with dropout: one mask in all passes */
    DiffJob job = {.net = l.net, .rows = &rows};
    OK(acts_open(&job.acts, &l.t.model, rows.n_tok, rows.n_tok, KEEP_ALL, &err));
    l.a->n_rows = 5; /* several runs of rows */
    run_rows(l.net, job.acts, &rows, 5, true, NULL);
    net_visit(l.net, check_one, &job);
    assert_int_equal(job.trained, trained);
    assert_true(job.frozen > 10);
    acts_close(job.acts);
    rows_free(&rows);
    lora_close(&l);
    machine_close(&mc);
}

static void test_differences(void **state) {
    (void)state;
    ModelConfig c = llama_config(false, true), more[MORE_CONFIGS];
    differences(&c, HEAD_LM, &rank3, 3 * 7 * 2);
    differences(&c, HEAD_SCORE, &rank3, 3 * 7 * 2 + 1);
    more_configs(more);
    for (int i = 0; i < MORE_CONFIGS; i++) differences(&more[i], HEAD_LM, &rank3, more[i].n_layer * 7 * 2);
    static const char *const two[] = {"k_proj", "mlp.down_proj"};
    LoraConfig some = {.r = 2, .alpha = 16, .rslora = true, .target = two, .n_target = 2};
    differences(&c, HEAD_LM, &some, 3 * 2 * 2);
    LoraConfig drops = rank3;
    drops.dropout = 0.3;
    differences(&c, HEAD_LM, &drops, 3 * 7 * 2);
}

/* c_attn: one a, three parts of b; c_proj twice, c_fc. */
static void test_differences_gpt2(void **state) {
    (void)state;
    ModelConfig c = gpt2_config(true, GELU_TANH);
    LoraConfig drops = rank3;
    drops.dropout = 0.3;
    differences(&c, HEAD_LM, &rank3, 2 * (1 + 3 + 3 * 2));
    differences(&c, HEAD_LM, &drops, 2 * (1 + 3 + 3 * 2));
    static const char *const fused[] = {"c_attn"}, *const both[] = {"c_proj"}, *const one[] = {"mlp.c_proj"};
    differences(&c, HEAD_SCORE, &(LoraConfig){.r = 4, .alpha = 4, .target = fused, .n_target = 1}, 2 * 4 + 1);
    differences(&c, HEAD_LM, &(LoraConfig){.r = 1, .alpha = 4, .target = both, .n_target = 1}, 2 * 4);
    differences(&c, HEAD_LM, &(LoraConfig){.r = 1, .alpha = 4, .target = one, .n_target = 1}, 2 * 2);
}

/* -- what holds on every backend ------------------------------------------------------------------------------------
 */

static double *outputs(LoraNet *l, Net net, const Rows *rows, Keep keep, bool backward) {
    Error err = {0};
    Acts *a;
    double *out = mem_alloc((size_t)rows->n_row * (size_t)net.head->n_out * sizeof *out);
    OK(acts_open(&a, &l->t.model, rows->n_tok, rows->n_tok, keep, &err));
    run_rows(net, a, rows, 4, backward, out);
    acts_close(a);
    return out;
}

static double distance(const double *x, const double *y, size_t n) {
    double d = 0, norm = 0;
    for (size_t i = 0; i < n; i++) d += (x[i] - y[i]) * (x[i] - y[i]), norm += y[i] * y[i];
    return sqrt(d / norm);
}

typedef void BackendTest(Backend *be, const ModelConfig *c);

static void on_every_backend(BackendTest *test) {
    for (int i = 0; i < COUNT_OF(every_backend); i++) {
        Machine mc;
        if (!machine_open_at(&mc, i, 2)) continue;
        ModelConfig llama = llama_config(false, true), gpt2 = gpt2_config(true, GELU_TANH), more[MORE_CONFIGS];
        more_configs(more);
        test(mc.be, &llama);
        test(mc.be, &gpt2);
        test(mc.be, &more[5]);
        machine_close(&mc);
    }
}

static double rounding(const Backend *be) {
    return be->dtype == DTYPE_BF16 ? 3e-2 : be->real == DTYPE_F64 ? 1e-6 : 2e-5;
}

static void check_on_off(Backend *be, const ModelConfig *c) {
    LoraNet l;
    lora_open(&l, be, c, HEAD_LM, &rank3, false);
    Net off = {&l.t.model, &l.t.head, NULL};
    Rows rows = rows_random((int[]){9, 2}, 2, c->n_vocab, 8);
    size_t n = (size_t)rows.n_row * (size_t)c->n_vocab;
    double *base = outputs(&l, off, &rows, KEEP_NONE, false), *fresh = outputs(&l, l.net, &rows, KEEP_NONE, false);
    for (size_t i = 0; i < n; i++) assert_true(base[i] == fresh[i]); /* b is zero */
    roughen_one(be, 3, &(ParamInfo){.w = lora_pair(l.a, 0, PARAM_wv)->b, .decay = true});
    double *on = outputs(&l, l.net, &rows, KEEP_NONE, false), *again = outputs(&l, off, &rows, KEEP_NONE, false);
    assert_true(distance(on, base, n) > 1e-2);
    assert_memory_equal(base, again, n * sizeof *base);
    free(base), free(fresh), free(on), free(again);
    rows_free(&rows);
    lora_close(&l);
}

static void test_on_off(void **state) {
    (void)state;
    on_every_backend(check_on_off);
}

static void check_merge(Backend *be, const ModelConfig *c) {
    LoraNet l;
    lora_open(&l, be, c, HEAD_LM, &(LoraConfig){.r = 5, .alpha = 3, .rslora = true, .target = all, .n_target = 1},
              false);
    lora_visit(l.a, train_b, be);
    Net off = {&l.t.model, &l.t.head, NULL};
    Rows rows = rows_random((int[]){9, 2}, 2, c->n_vocab, 8);
    size_t n = (size_t)rows.n_row * (size_t)c->n_vocab;
    double *on = outputs(&l, l.net, &rows, KEEP_ALL, false);
    uint64_t version = l.t.model.version;
    net_merge(l.net);
    assert_true(l.t.model.version > version);
    double *merged = outputs(&l, off, &rows, KEEP_ALL, false), *both = outputs(&l, l.net, &rows, KEEP_ALL, false);
    double d = distance(merged, on, n);
    if (!(d < rounding(be))) fail_msg("%s: merged is off by %g", be->op->name, d);
    for (size_t i = 0; i < n; i++) assert_true(merged[i] == both[i]);
    free(on), free(merged), free(both);
    rows_free(&rows);
    lora_close(&l);
}

static void test_merge(void **state) {
    (void)state;
    on_every_backend(check_merge);
}

typedef struct {
    double *to;
    Backend *be;
    size_t n;
} GradJob;

static void take_grad(void *ud, int index, const ParamInfo *p) {
    GradJob *job = ud;
    (void)index;
    if (tensor_empty(p->dw)) return;
    if (job->to) tensor_get(job->be, job->to + job->n, p->dw);
    job->n += (size_t)tensor_count(p->dw);
}

static double *gradients(Net net, size_t *n) {
    GradJob job = {.be = net.trunk->be};
    net_visit(net, take_grad, &job);
    job.to = mem_alloc(job.n * sizeof *job.to);
    job.n = 0;
    net_visit(net, take_grad, &job);
    *n = job.n;
    net_zero_grads(net);
    return job.to;
}

/* Recomputed = kept, and runs of rows change no output and only the order of sums in gradients. */
static void check_plans(Backend *be, const ModelConfig *c) {
    LoraNet l;
    lora_open(&l, be, c, HEAD_SCORE, &rank3, true);
    roughen_adapter(&l);
    Rows rows = rows_random((int[]){9, 1, 14}, 3, c->n_vocab, 8);
    size_t n, n_out = (size_t)rows.n_row * 2;
    double *out[3], *grad[3];
    for (int k = 0; k < 3; k++) {
        if (k == 2) l.a->n_rows = 7;
        out[k] = outputs(&l, l.net, &rows, k == 1 ? KEEP_INPUTS : KEEP_ALL, true);
        grad[k] = gradients(l.net, &n);
    }
    assert_memory_equal(out[0], out[1], n_out * sizeof **out);
    assert_memory_equal(out[0], out[2], n_out * sizeof **out);
    assert_memory_equal(grad[0], grad[1], n * sizeof **grad);
    assert_true(distance(grad[2], grad[0], n) < rounding(be));
    for (int k = 0; k < 3; k++) free(out[k]), free(grad[k]);
    rows_free(&rows);
    lora_close(&l);
}

static void test_plans(void **state) {
    (void)state;
    on_every_backend(check_plans);
}

/* A pass's number says what it drops: in a pass made again, in runs of other lengths, in blocks that are computed
 * again. */
static void check_dropout(Backend *be, const ModelConfig *c) {
    LoraNet l, frozen;
    LoraConfig drops = rank3;
    drops.dropout = 0.25;
    lora_open(&l, be, c, HEAD_LM, &drops, true);
    lora_open(&frozen, be, c, HEAD_LM, &drops, false);
    lora_visit(l.a, train_b, be);
    lora_visit(frozen.a, train_b, be);
    Rows rows = rows_random((int[]){9, 1, 14}, 3, c->n_vocab, 8);
    enum { FIRST, AGAIN, INPUTS, RUNS, NEXT, NONE, FROZEN, N };
    size_t n_grad, n = (size_t)rows.n_row * (size_t)c->n_vocab;
    double *out[N], *grad[N] = {0};
    for (int k = 0; k < N; k++) {
        rows.drop = k == NEXT ? 6 : k == NONE ? 0 : 5;
        if (k == RUNS) l.a->n_rows = 7;
        LoraNet *net = k == FROZEN ? &frozen : &l;
        out[k] = outputs(net, net->net, &rows, k == INPUTS ? KEEP_INPUTS : KEEP_ALL, k != FROZEN);
        if (k != FROZEN) grad[k] = gradients(net->net, &n_grad);
    }
    for (int k = AGAIN; k <= RUNS; k++) assert_memory_equal(out[FIRST], out[k], n * sizeof **out);
    for (int k = AGAIN; k <= INPUTS; k++) assert_memory_equal(grad[FIRST], grad[k], n_grad * sizeof **grad);
    assert_true(distance(grad[RUNS], grad[FIRST], n_grad) < rounding(be));
    assert_true(distance(out[NEXT], out[FIRST], n) > 1e-3 && distance(out[NONE], out[FIRST], n) > 1e-3);
    assert_memory_equal(out[NONE], out[FROZEN], n * sizeof **out); /* what is not trained drops nothing */
    for (int k = 0; k < N; k++) free(out[k]), free(grad[k]);
    rows_free(&rows);
    lora_close(&l), lora_close(&frozen);
}

static void test_dropout(void **state) {
    (void)state;
    on_every_backend(check_dropout);
}

/* With one token a column of a has a gradient just where its input was kept. */
typedef struct {
    Backend *be;
    int64_t n, fell, same, n_same; /* same: of inputs that gate and up share, dropped in both or in neither */
    bool gate[64];
} FallJob;

static void count_fallen(void *ud, const LoraPart *p) {
    FallJob *job = ud;
    if (p->up || strstr(p->module, "q_proj") || strstr(p->module, "k_proj")) return; /* one key: no gradient */
    int64_t cols = p->w.cols, rows = p->w.rows;
    double *da = mem_alloc((size_t)(rows * cols) * sizeof *da);
    tensor_get(job->be, da, p->dw);
    for (int64_t j = 0; j < cols; j++) {
        bool fell = true;
        for (int64_t i = 0; i < rows; i++) fell = fell && da[i * cols + j] == 0;
        job->n++, job->fell += fell;
        if (strstr(p->module, "gate_proj")) job->gate[j] = fell;
        if (strstr(p->module, "up_proj")) job->n_same++, job->same += fell == job->gate[j];
    }
    free(da);
}

static void test_share(void **state) {
    (void)state;
    Error err = {0};
    Machine mc;
    LoraNet l;
    Acts *acts;
    ModelConfig c = llama_config(false, true);
    LoraConfig drops = rank3;
    drops.dropout = 0.25;
    assert_true(machine_open(&mc, "ref", NULL, 1));
    assert_true(c.d_model <= 64);
    lora_open(&l, mc.be, &c, HEAD_LM, &drops, true);
    roughen_adapter(&l);
    Rows rows = rows_random((int[]){1}, 1, c.n_vocab, 8);
    OK(acts_open(&acts, &l.t.model, 1, 1, KEEP_ALL, &err));
    FallJob job = {.be = mc.be};
    for (rows.drop = 1; rows.drop <= 200; rows.drop++) {
        run_rows(l.net, acts, &rows, 1, true, NULL);
        lora_visit(l.a, count_fallen, &job);
        net_zero_grads(l.net);
    }
    double n = (double)job.n, p = 0.25, agree = p * p + (1 - p) * (1 - p), pairs = (double)job.n_same;
    assert_true(job.n > 20000 && job.n_same > 5000);
    assert_true(fabs((double)job.fell - n * p) < 5 * sqrt(n * p * (1 - p)));
    assert_true(fabs((double)job.same - pairs * agree) < 5 * sqrt(pairs * agree * (1 - agree)));
    acts_close(acts);
    rows_free(&rows);
    lora_close(&l);
    machine_close(&mc);
}

/* Gradients of every backend are ref's. */
static void test_against_ref(void **state) {
    (void)state;
    ModelConfig config[] = {llama_config(true, false), gpt2_config(false, GELU_ERF)};
    for (int k = 0; k < 2; k++) {
        double *want = NULL;
        for (int i = 0; i < COUNT_OF(every_backend); i++) {
            Machine mc;
            LoraNet l;
            size_t n;
            if (!machine_open_at(&mc, i, 2)) continue;
            lora_open(&l, mc.be, &config[k], HEAD_LM, &rank3, true);
            lora_visit(l.a, train_b, mc.be);
            Rows rows = rows_random((int[]){9, 1, 14}, 3, config[k].n_vocab, 8);
            free(outputs(&l, l.net, &rows, KEEP_ALL, true));
            double *got = gradients(l.net, &n);
            double most = mc.be->dtype == DTYPE_BF16 ? 1e-1 : 1e-4, d = want ? distance(got, want, n) : 0;
            if (!(d < most)) fail_msg("%s %s: off by %g", every_backend[i].name, every_backend[i].isa, d);
            if (want) free(got);
            if (!want) want = got;
            rows_free(&rows);
            lora_close(&l);
            machine_close(&mc);
        }
        free(want);
    }
}

/* -- training -------------------------------------------------------------------------------------------------------
 */

static void count_piece(void *ud, const OptimPiece *p) {
    (void)p;
    ++*(int *)ud;
}

static void check_frozen(Backend *be, const ModelConfig *c) {
    Error err = {0};
    LoraNet l;
    Optim *o = NULL;
    Acts *a;
    size_t n, n_adapter = 0;
    lora_open(&l, be, c, HEAD_LM, &rank3, true);
    Net base = {&l.t.model, &l.t.head, NULL};
    Rows rows = rows_random((int[]){9, 6}, 2, c->n_vocab, 8);
    double *before = gather_all(base, true, &n), *first = gather_all(l.net, true, &n_adapter);
    OptimConfig oc = {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1, .clip = 1};
    OK(optim_open(&o, &l.net, NULL, 1, &oc, &err));
    OK(acts_open(&a, &l.t.model, rows.n_tok, rows.n_tok, KEEP_ALL, &err));
    double loss[2];
    for (int step = 0; step < 30; step++) {
        loss[step > 0] = run_rows(l.net, a, &rows, 4, true, NULL);
        assert_false(optim_step(o, 1, 1.0 / rows.n_row).skipped);
    }
    assert_true(loss[1] < 0.8 * loss[0]);
    double *after = gather_all(base, true, &n), *last = gather_all(l.net, true, &n_adapter);
    assert_memory_equal(before, after, n * sizeof *before);
    assert_true(distance(last + n, first + n, n_adapter - n) > 0.1);
    assert_int_equal(n_adapter - n, adapter_params(l.a));
    int n_state = 0; /* moments of what is trained and of nothing else */
    optim_visit(o, count_piece, &n_state);
    int per = be->dtype == DTYPE_BF16 ? 3 : 2, pairs = c->family == FAMILY_GPT2 ? 2 * 10 : c->n_layer * 14;
    assert_int_equal(n_state, per * pairs);
    free(before), free(first), free(after), free(last);
    optim_close(o);
    acts_close(a);
    rows_free(&rows);
    lora_close(&l);
}

static void test_frozen(void **state) {
    (void)state;
    on_every_backend(check_frozen);
}

/* -- first values and targets ---------------------------------------------------------------------------------------
 */

static void test_init(void **state) {
    (void)state;
    Error err = {0};
    Machine mc;
    LoraNet l, same;
    ModelConfig c = llama_config(true, false);
    assert_true(machine_open(&mc, "cpu", NULL, 2));
    lora_open(&l, mc.be, &c, HEAD_LM, &rank3, false);
    lora_open(&same, mc.be, &c, HEAD_LM, &rank3, true);
    size_t n, n_same, n_base;
    double *x = gather_all(l.net, true, &n), *y = gather_all(same.net, true, &n_same);
    free(gather_all((Net){&l.t.model, &l.t.head, NULL}, true, &n_base));
    assert_int_equal(n, n_same);
    assert_memory_equal(x, y, n * sizeof *x);
    Tensor a = lora_pair(l.a, 1, PARAM_w_down)->a, b = lora_pair(l.a, 1, PARAM_w_down)->b;
    double *host = mem_alloc((size_t)tensor_count(a) * sizeof *host), most = 0;
    tensor_get(mc.be, host, a);
    for (int64_t i = 0; i < tensor_count(a); i++) most = fmax(most, fabs(host[i]));
    assert_true(most <= 1 / sqrt(c.d_ff) && most > 0.8 / sqrt(c.d_ff));
    assert_true(mc.be->op->sumsq(mc.be, b) == 0);
    assert_true(x[n_base] != x[n_base + 1]);

    assert_true(l.a->scale == 4.0 / 3);
    static const char *const wrong[] = {"q_proj", "c_attn"}, *const half[] = {"proj"};
    Adapter *no;
    assert_false(adapter_init(&no, &l.t.model, &(LoraConfig){.r = 2, .alpha = 2, .target = wrong, .n_target = 2}, 0,
                              false, &err));
    assert_null(no);
    assert_string_equal(
        err.msg, "no module that LoRA can have is called 'c_attn': expected all-linear, or some of q_proj, k_proj, "
                 "v_proj, o_proj, gate_proj, up_proj, down_proj");
    assert_false(/* the end of a name begins at a dot */
                 adapter_init(&no, &l.t.model, &(LoraConfig){.r = 2, .alpha = 2, .target = half, .n_target = 1}, 0,
                              false, &err));
    assert_non_null(strstr(err.msg, "is called 'proj'"));
    assert_false(
        adapter_init(&no, &l.t.model, &(LoraConfig){.r = 0, .alpha = 2, .target = all, .n_target = 1}, 0, false, &err));
    assert_non_null(strstr(err.msg, "rank of 1..65536"));
    assert_false(adapter_init(&no, &l.t.model, &(LoraConfig){1, 2, false, 1, all, 1, NULL}, 0, false, &err));
    assert_non_null(strstr(err.msg, "dropout 1: expected 0 or more and less than 1"));
    free(x), free(y), free(host);
    lora_close(&l), lora_close(&same);
    machine_close(&mc);
}

/* A pattern is over whole names, and may tell layers apart. */
static void test_patterns(void **state) {
    (void)state;
    static const struct {
        const char *target;
        int n; /* pairs; 0: refused */
        const char *says;
    } cases[] = {
        {".*\\.(q|v)_proj", 3 * 2, NULL},
        {".*layers[.][02][.].*", 2 * 7, NULL},
        {".*\\.1\\.mlp\\..*", 3, NULL},
        {"model\\.layers\\.0\\.self_attn\\.o_proj|.*(gate|down)_proj", 1 + 3 * 2, NULL},
        {"q_pro(j)", 0, "no module that LoRA can have matches 'q_pro(j)': expected all-linear, or some of q_proj"},
        {".*layers[.]7.*", 0, "matches '.*layers[.]7.*'"},
        {"(q_proj", 0, "pattern '(q_proj': "},
        {"((((((((((a*)*)*)*)*)*)*)*)*)*)*b|.*x", 0, "no module"}};
    Error err = {0};
    Machine mc;
    TestNet t;
    ModelConfig c = llama_config(true, false);
    assert_true(machine_open(&mc, "cpu", NULL, 1));
    test_net_open(&t, mc.be, &c, HEAD_LM, c.n_vocab, false);
    for (int i = 0; i < COUNT_OF(cases); i++) {
        Adapter *a;
        const char *target[] = {cases[i].target};
        bool ok = adapter_init(&a, &t.model, &(LoraConfig){.r = 1, .alpha = 1, .target = target, .n_target = 1}, 0,
                               false, &err);
        assert_true(ok == (cases[i].n > 0));
        if (!ok) assert_non_null(strstr(err.msg, cases[i].says));
        if (!ok) continue;
        int n = 0;
        for (int layer = 0; layer < c.n_layer; layer++)
            for (int k = 0; k < PARAM_COUNT; k++) n += !tensor_empty(lora_pair(a, layer, (ParamNumber)k)->b);
        assert_int_equal(n, cases[i].n);
        adapter_close(a);
    }
    test_net_close(&t);
    machine_close(&mc);
}

/* -- files ----------------------------------------------------------------------------------------------------------
 */

static void zero_part(void *ud, const LoraPart *p) { ((Backend *)ud)->op->zero(ud, p->w); }

static void check_round_trip(Backend *be, const ModelConfig *c) {
    Error err = {0};
    LoraNet l;
    Adapter *back;
    Head head;
    size_t n, n_back;
    LoraConfig rs = {
        .r = 3, .alpha = 2.5, .rslora = true, .dropout = 0.05, .target = all, .n_target = 1, .base = "a/base"};
    lora_open(&l, be, c, HEAD_SCORE, &rs, false);
    roughen_adapter(&l);
    OK(adapter_save(l.net, DIR, &err));
    AdapterInfo info;
    OK(adapter_info(&info, DIR, &err));
    assert_int_equal(info.head, HEAD_SCORE);
    assert_string_equal(info.base.s, "a/base");
    OK(adapter_open(&back, &l.t.model, DIR, false, &err));
    OK(adapter_head_open(&head, &l.t.model, DIR, false, &err));
    double *x = gather_all(l.net, true, &n), *y = gather_all((Net){&l.t.model, &head, back}, true, &n_back);
    assert_int_equal(n, n_back);
    for (size_t i = 0; i < n; i++) assert_true((float)x[i] == (float)y[i]);
    assert_true(back->scale == 2.5 / sqrt(3) && back->scale == l.a->scale && adapter_config(back)->rslora);
    assert_true(adapter_config(back)->dropout == 0.05);
    /* what was saved goes into an equal net again */
    lora_visit(l.a, zero_part, be);
    OK(adapter_load(l.net, DIR, &err));
    double *z = gather_all(l.net, true, &n);
    for (size_t i = 0; i < n; i++) assert_true((float)x[i] == (float)z[i]);
    free(x), free(y), free(z);
    str_release(&info.base);
    adapter_close(back);
    head_release(&head);
    lora_close(&l);
}

static void test_round_trip(void **state) {
    (void)state;
    on_every_backend(check_round_trip);
}

static void put_text(const char *path, const char *text) {
    Error err = {0};
    OK(io_write_file(path, text, strlen(text), &err));
}

/* The names that PEFT gives, and target_modules that answer to them. */
static void test_names(void **state) {
    (void)state;
    Error err = {0};
    Machine mc;
    LoraNet l;
    ModelConfig c[] = {llama_config(true, false), gpt2_config(true, GELU_TANH)};
    static const char *const name[][2] = {{"base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight",
                                           "base_model.model.model.layers.0.mlp.gate_proj.lora_B.weight"},
                                          {"base_model.model.transformer.h.1.attn.c_attn.lora_A.weight",
                                           "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"}};
    static const int64_t rows[] = {27, 63};
    static const char *const targets[] = {"\"q_proj\",\n    \"k_proj\"",
                                          "\"c_attn\",\n    \"attn.c_proj\",\n    \"c_fc\",\n"
                                          "    \"mlp.c_proj\""};
    assert_true(machine_open(&mc, "cpu", NULL, 1));
    for (int i = 0; i < 2; i++) {
        Str text = {0};
        StFile f;
        lora_open(&l, mc.be, &c[i], HEAD_LM, &rank3, false);
        OK(adapter_save(l.net, DIR, &err));
        OK(st_open(&f, DIR "/adapter_model.safetensors", &err));
        assert_int_equal(f.n, i ? 2 * 4 * 2 : 3 * 7 * 2);
        const StEntry *a = st_find(&f, name[i][0]), *b = st_find(&f, name[i][1]);
        assert_true(a && a->dim[0] == 3 && a->dim[1] == c[i].d_model);
        assert_true(b && b->dim[0] == rows[i] && b->dim[1] == 3);
        st_close(&f);
        OK(io_read_file(&text, DIR "/adapter_config.json", 1 << 16, &err));
        assert_non_null(strstr(text.s, targets[i]));
        assert_non_null(strstr(text.s, i ? "\"fan_in_fan_out\": true" : "\"fan_in_fan_out\": false"));
        assert_non_null(strstr(text.s, "\"base_model_name_or_path\": \"some/base\""));
        str_release(&text);
        lora_close(&l);
    }
    machine_close(&mc);
}

/* An adapter of some layers only, as layers_to_transform leaves them, keeps them. */
static void test_some_layers(void **state) {
    (void)state;
    Error err = {0};
    Machine mc;
    LoraNet l;
    Adapter *back;
    Str text = {0};
    ModelConfig c = llama_config(true, false);
    assert_true(machine_open(&mc, "cpu", NULL, 1));
    lora_open(&l, mc.be, &c, HEAD_LM, &rank3, false);
    for (int k = 0; k < PARAM_COUNT; k++) *lora_pair(l.a, 1, (ParamNumber)k) = (LoraPair){0};
    OK(adapter_save(l.net, DIR, &err));
    OK(io_read_file(&text, DIR "/adapter_config.json", 1 << 16, &err));
    assert_non_null(strstr(text.s, "\"model.layers.2.mlp.down_proj\""));
    assert_null(strstr(text.s, "layers.1."));
    OK(adapter_open(&back, &l.t.model, DIR, false, &err));
    assert_true(tensor_empty(lora_pair(back, 1, PARAM_wq)->b) && !tensor_empty(lora_pair(back, 2, PARAM_wq)->b));
    assert_int_equal(adapter_params(back), adapter_params(l.a));
    str_release(&text);
    adapter_close(back);
    lora_close(&l);
    machine_close(&mc);
}

#define CONFIG(more) "{\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":4" more "}"

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *config, *says;
    } bad[] = {
        {CONFIG(",\"use_dora\":true"), "'use_dora' is set"},
        {CONFIG(",\"rank_pattern\":{\"q_proj\":4}"), "'rank_pattern' is set"},
        {CONFIG(",\"alpha_pattern\":{\"q_proj\":4}"), "'alpha_pattern' is set"},
        {CONFIG(",\"layer_replication\":[[0,1]]"), "'layer_replication' is set"},
        {CONFIG(",\"lora_bias\":true"), "'lora_bias' is set"},
        {CONFIG(",\"target_parameters\":[\"x\"]"), "'target_parameters' is set"},
        {CONFIG(",\"bias\":\"lora_only\""), "only bias 'none' is supported"},
        {CONFIG(",\"init_lora_weights\":\"pissa_niter_4\""), "path_initial_model_for_weight_conversion"},
        {CONFIG(",\"modules_to_save\":[\"embed_tokens\"]"), "'modules_to_save' holds 'embed_tokens'"},
        {"{\"peft_type\":\"IA3\",\"r\":3,\"lora_alpha\":4}", "'peft_type' is 'IA3', only LORA is supported"},
        {"{\"peft_type\":\"LORA\",\"r\":3.5,\"lora_alpha\":4}", "'r' is 3.5"},
        {"{\"peft_type\":\"LORA\",\"r\":3}", "'lora_alpha' is nan"},
        {"{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":4}", "shape [3, 27], expected [4, 27]"},
        {"{\"peft_type\":\"LORA\",\"r\":65536,\"lora_alpha\":4}", "expected [65536, 27]"},
        {CONFIG(",\"task_type\":\"SEQ_2_SEQ_LM\""), "expected CAUSAL_LM or SEQ_CLS"},
        {CONFIG(",\"use_bdlora\":{\"nblocks\":2}"), "'use_bdlora' is set"},
        {CONFIG(",\"target_modules\":[\"k_proj\",\"proj\"]"), "'target_modules' leaves"},
        {CONFIG(",\"exclude_modules\":[\"0.self_attn.q_proj\"]"), "'exclude_modules' leaves"},
        {CONFIG(",\"layers_to_transform\":[1,7]"), "layers.0.mlp.down_proj.lora_A.weight' is there, but 'layers_to"},
        {CONFIG(",\"layers_to_transform\":1"), "'layers_to_transform' leaves"},
        {"[]", "expected an object"},
    };
    Error err = {0};
    Machine mc;
    LoraNet l;
    Adapter *no;
    ModelConfig c = llama_config(true, false);
    assert_true(machine_open(&mc, "cpu", NULL, 1));
    lora_open(&l, mc.be, &c, HEAD_LM, &rank3, false);
    OK(adapter_save(l.net, DIR, &err));
    for (int i = 0; i < COUNT_OF(bad); i++) {
        put_text(DIR "/adapter_config.json", bad[i].config);
        assert_false(adapter_open(&no, &l.t.model, DIR, false, &err));
        if (!strstr(err.msg, bad[i].says) || !strstr(err.msg, DIR)) fail_msg("%s", err.msg);
        assert_null(no);
    }
    put_text(DIR "/adapter_config.json",
             CONFIG(",\"bias\":\"none\",\"use_dora\":false,\"new_key\":1,\"lora_dropout\":0.1"));
    OK(adapter_open(&no, &l.t.model, DIR, false, &err)); /* what is not known is said */
    assert_non_null(strstr(str_get(&l.t.model.note), "'new_key' is not known"));
    assert_null(strstr(str_get(&l.t.model.note), "lora_dropout"));
    adapter_close(no);
    lora_close(&l);
    machine_close(&mc);
}

/* Tensors that are not what a pair has. */
static void test_tensors(void **state) {
    (void)state;
    static const char first[] = "base_model.model.model.layers.0.self_attn.q_proj.lora_";
    static const struct {
        const char *name[3], *says;
    } bad[] = {
        {{"A.weight"}, "q_proj.lora_B.weight' is missing"},
        {{"B.weight"}, "q_proj.lora_A.weight' is missing"},
        {{"A.weight", "B.weight", "A.bias"}, "q_proj.lora_A.bias' has no place"},
        {{"A.bias"}, "q_proj.lora_A.bias' has no place"},
    };
    Error err = {0};
    Machine mc;
    TestNet t;
    Adapter *no;
    ModelConfig c = llama_config(true, false);
    static const float zero[20 * 24];
    assert_true(machine_open(&mc, "cpu", NULL, 1));
    test_net_open(&t, mc.be, &c, HEAD_LM, c.n_vocab, false);
    OK(io_make_dirs(DIR, &err));
    put_text(DIR "/adapter_config.json", CONFIG(""));
    for (int i = 0; i < COUNT_OF(bad); i++) {
        StOut out[3];
        char name[3][96];
        int n = 0;
        for (; n < 3 && bad[i].name[n]; n++) {
            bool up = bad[i].name[n][0] == 'B';
            snprintf(name[n], sizeof name[n], "%s%s", first, bad[i].name[n]);
            out[n] = (StOut){name[n], "F32", 2, {up ? 24 : 3, up ? 3 : 20}, zero, (size_t)(3 * (up ? 24 : 20)) * 4};
        }
        OK(st_write(DIR "/adapter_model.safetensors", out, n, &err));
        assert_false(adapter_open(&no, &t.model, DIR, false, &err));
        if (!strstr(err.msg, bad[i].says)) fail_msg("%s", err.msg);
    }
    OK(io_remove_tree(DIR "/adapter_model.safetensors", &err));
    put_text(DIR "/adapter_model.bin", "x");
    assert_false(adapter_open(&no, &t.model, DIR, false, &err));
    assert_non_null(strstr(err.msg, "pickled weights are not read"));
    test_net_close(&t);
    machine_close(&mc);
}

static void test_copy(void **state) {
    (void)state;
    Error err = {0};
    Machine mc;
    LoraNet l, other;
    Adapter *copy;
    size_t n;
    ModelConfig c = gpt2_config(true, GELU_TANH);
    assert_true(machine_open(&mc, "cpu", NULL, 1));
    lora_open(&l, mc.be, &c, HEAD_LM, &rank3, true);
    roughen_adapter(&l);
    uint64_t version = l.t.model.version;
    OK(adapter_clone(&copy, l.net, false, &err));
    assert_true(l.t.model.version == version);
    double *x = gather_all(l.net, true, &n), *y = gather_all((Net){&l.t.model, &l.t.head, copy}, true, &n);
    assert_memory_equal(x, y, n * sizeof *x);
    lora_open(&other, mc.be, &c, HEAD_LM, &(LoraConfig){.r = 2, .alpha = 1, .target = all, .n_target = 1}, false);
    assert_false(net_copy_weights(other.net, l.net, &err));
    assert_non_null(strstr(err.msg, "differ in rank"));
    assert_false(net_copy_weights((Net){&l.t.model, &l.t.head, NULL}, l.net, &err));
    free(x), free(y);
    adapter_close(copy);
    lora_close(&l), lora_close(&other);
    machine_close(&mc);
}

static int teardown(void **state) {
    (void)state;
    Error err = {0};
    return io_remove_tree(DIR, &err) && io_remove_tree(DIR "_optim.safetensors", &err) ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_differences), cmocka_unit_test(test_differences_gpt2),
        cmocka_unit_test(test_on_off),      cmocka_unit_test(test_merge),
        cmocka_unit_test(test_plans),       cmocka_unit_test(test_against_ref),
        cmocka_unit_test(test_dropout),     cmocka_unit_test(test_share),
        cmocka_unit_test(test_patterns),    cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_init),        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_names),       cmocka_unit_test(test_some_layers),
        cmocka_unit_test(test_refused),     cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_copy),
    };
    return cmocka_run_group_tests(tests, NULL, teardown);
}
