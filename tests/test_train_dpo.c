// layer: train
/* DPO: the loss is what the engine's log-probs say it is, the gradient its derivative whatever the split, soft labels
 * are reached, and the doctor sees a reference that counts other tokens. */
#include "train_fixture.h"

#include "engine/engine.h"

enum { N_PAIR = 6 };

/* Prompts of 3 tokens, replies of 2 to 60 (longer than a head slice in all), one pair without weight. */
static void pairs(SampleSet *s, int n, bool soft) {
    samples_init(s, 2);
    for (int i = 0; i < n; i++)
        for (int side = 0; side < 2; side++) {
            uint64_t item = 100 + 2 * (uint64_t)i + (uint64_t)side;
            int32_t tok[64];
            float weight[64] = {0};
            int len = 5 + (int)draw(item, 0, 59);
            for (int t = 0; t < len; t++) {
                tok[t] =
                    FIRST_WORD + (int32_t)draw(t < 3 ? 100 + (uint64_t)i : item, (uint32_t)t + 1, VOCAB - FIRST_WORD);
                weight[t] = t >= 3;
            }
            double q = soft ? 0.2 + 0.1 * i : 1;
            samples_add(s, tok, weight, len, item, (float)(side ? 1 - q : q), i == 3 ? 0.0f : i == 4 ? 2.0f : 1.0f);
        }
}

typedef struct {
    Fixture f;
    Model ref_m;
    Head ref_h;
    Net ref;
    SampleSet s;
    double *sum; /* of the reference */
    ObjDpo *o;
    Objective obj;
} Dpo;

static void dpo_setup(Dpo *d, const char *backend, int n, bool soft, bool equal) {
    Error err = {0};
    setup(&d->f, backend, HEAD_LM);
    must(model_init(&d->ref_m, d->f.be, &d->f.m.cfg, SEED + !equal, false, &err), &err);
    must(head_init(&d->ref_h, &d->ref_m, HEAD_LM, VOCAB, SEED + !equal, false, &err), &err);
    d->ref = (Net){&d->ref_m, &d->ref_h, NULL};
    pairs(&d->s, n, soft);
    d->sum = mem_alloc((size_t)d->s.n * sizeof *d->sum);
    must(obj_dpo_reference(d->sum, &d->s, d->ref, 128, &err), &err);
    d->o = NULL;
}

static void dpo_close(Dpo *d) {
    obj_dpo_close(d->o);
    free(d->sum);
    samples_release(&d->s);
    head_release(&d->ref_h);
    model_release(&d->ref_m);
    close_all(&d->f);
}

/* Sum of a sample's reply, from the engine token by token. */
static double reply_logprob(Net net, const SampleSet *s, int64_t i, int *n) {
    Error err = {0};
    Engine *e;
    EngineConfig c = {0};
    float lp[64], *out = lp;
    double sum = 0;
    must(engine_open(&e, net, &c, &err), &err);
    Tokens prefix = {s->tok + s->off[i], 3}, text = {s->tok + s->off[i] + 3, (int)(s->off[i + 1] - s->off[i]) - 3};
    must(engine_score(e, &prefix, &text, 1, 1, &out, &err), &err);
    engine_close(e);
    for (int t = 0; t < text.n; t++) sum += lp[t];
    *n = text.n;
    return sum;
}

static double by_hand(const Dpo *d, const DpoConfig *c) {
    double loss = 0, weight = 0;
    for (int64_t i = 0; i < d->s.n; i += 2) {
        double x[2], w = d->s.sample_weight[i], q = d->s.target[i], e = c->rule.smoothing, b = c->rule.beta;
        for (int k = 0; k < 2; k++) {
            int n;
            x[k] = reply_logprob(d->f.net, &d->s, i + k, &n) - reply_logprob(d->ref, &d->s, i + k, &n);
            if (c->average) x[k] /= n;
        }
        double D = x[0] - x[1], p = q * (1 - e) + (1 - q) * e;
        if (c->rule.kind == DPO_ROBUST) p = (q - e) / (1 - 2 * e);
        if (c->rule.kind == DPO_HINGE)
            loss += w * (p * fmax(0, 1 - b * D) + (1 - p) * fmax(0, 1 + b * D));
        else if (c->rule.kind == DPO_IPO)
            loss += w * (p * pow(D - 0.5 / b, 2) + (1 - p) * pow(D + 0.5 / b, 2));
        else
            loss += w * (p * log1p(exp(-b * D)) + (1 - p) * log1p(exp(b * D)));
        weight += w;
    }
    return loss / weight;
}

/* Mean loss and gradient of all pairs in micro-batches of max_tok tokens. */
static Grads all_pairs(Dpo *d, const DpoConfig *c, int max_tok, double *loss) {
    Error err = {0};
    Acts *acts;
    Arena mem;
    Tensor slice;
    double weight = 0;
    obj_dpo_close(d->o);
    must(obj_dpo_open(&d->o, &d->obj, &d->s, d->sum, max_tok, SEED, c, &err), &err);
    must(acts_open(&acts, &d->f.m, d->obj.max_tok, d->obj.max_row, KEEP_ALL, &err), &err);
    must(head_slice_open(&mem, &slice, d->f.net, &err), &err);
    *loss = 0;
    net_zero_grads(d->f.net);
    for (int64_t i = 0; i < obj_dpo_packs(d->o, 0); i++) {
        Batch b;
        must(d->obj.micro(d->obj.self, i, &b, &err), &err);
        *loss += train_micro(d->f.net, acts, &b, &d->obj, slice, &weight, NULL);
    }
    assert_true(weight == N_PAIR); /* five pairs count, one of them twice */
    *loss /= weight;
    Grads g = {.be = d->f.be};
    net_visit(d->f.net, collect_grads, &g);
    for (int64_t i = 0; i < g.n; i++) g.g[i] /= weight;
    arena_release(&mem);
    acts_close(acts);
    return g;
}

/* Sigmoid, conservative, IPO, robust, hinge, each by sums and by means: the loss by hand; one or many micro-batches;
 * the slope along the gradient is its square. */
static void test_loss_and_gradient(void **state) {
    (void)state;
    static const DpoConfig configs[] = {{{0.3, 0, DPO_SIGMOID}, false, false},  {{0.3, 0.2, DPO_SIGMOID}, false, false},
                                        {{0.3, 0.2, DPO_SIGMOID}, true, false}, {{0.4, 0, DPO_IPO}, false, false},
                                        {{0.4, 0.1, DPO_IPO}, true, false},     {{0.4, 0.1, DPO_ROBUST}, false, false},
                                        {{0.4, 0.1, DPO_HINGE}, false, false}};
    Dpo d;
    dpo_setup(&d, "ref", N_PAIR, true, false);
    for (int k = 0; k < COUNT_OF(configs); k++) {
        const DpoConfig *c = &configs[k];
        double loss, split, side[2], square = 0, far = 0;
        Grads g = all_pairs(&d, c, 1000, &loss), h = all_pairs(&d, c, 128, &split);
        assert_true(fabs(by_hand(&d, c) - loss) < 1e-6 * loss); /* the engine hands out floats */
        assert_true(fabs(loss - split) < 1e-12 * loss);
        for (int64_t i = 0; i < g.n; i++) square += g.g[i] * g.g[i], far += pow(g.g[i] - h.g[i], 2);
        assert_true(far < 1e-20 * square);
        double step = 1e-4 / sqrt(square);
        for (int way = 0; way < 2; way++) {
            Shift sh = {d.f.be, g.g, way ? -2 * step : step, 0};
            net_visit(d.f.net, shift_param, &sh);
            Grads unused = all_pairs(&d, c, 1000, &side[way]);
            free(unused.g);
        }
        Shift back = {d.f.be, g.g, step, 0};
        net_visit(d.f.net, shift_param, &back);
        double slope = (side[0] - side[1]) / (2 * step);
        print_message("config %d: loss %.6f, slope along the gradient %.9g, its square %.9g\n", k, loss, slope, square);
        assert_true(fabs(slope - square) < 2e-3 * square); /* sums are of floats: 1e-7 of a step that moves little */
        free(g.g);
        free(h.g);
    }
    dpo_close(&d);
}

/* The policy is the reference: log-ratios are exactly 0, the loss ln 2; a reference counted otherwise is noticed. */
static void test_equal(void **state) {
    static const char *const names[] = {"ref", "cpu", "bf16"};
    (void)state;
    for (int k = 0; k < COUNT_OF(names); k++) {
        Error err = {0};
        Dpo d;
        DpoConfig c = {{0.3, 0, DPO_SIGMOID}, false, true};
        double loss;
        dpo_setup(&d, names[k], N_PAIR, false, true);
        Grads g = all_pairs(&d, &c, 1000, &loss);
        assert_true(fabs(loss - log(2)) < 1e-15);
        assert_true(obj_dpo_check(d.o, &err));
        free(g.g);
        d.sum[4] += 1e-6;
        g = all_pairs(&d, &c, 1000, &loss);
        assert_false(obj_dpo_check(d.o, &err));
        assert_int_equal(err.code, ERR_STATE);
        assert_non_null(strstr(err.msg, "equal weights"));
        Batch b;
        assert_false(d.obj.micro(d.obj.self, 1, &b, &err)); /* and ends the run */
        free(g.g);
        dpo_close(&d);
    }
}

/* Where training ends: beta D = logit p for the sigmoid, D = (2p - 1) / (2 beta) for IPO, p the smoothed label. */
static void test_reaches_labels(void **state) {
    (void)state;
    for (int k = 0; k < 3; k++) {
        Error err = {0};
        Dpo d;
        Str dir = {0};
        DpoConfig c = {{0.5, k == 1 ? 0.1 : 0, k == 2 ? DPO_IPO : DPO_SIGMOID}, false, true};
        TrainConfig t = config(300, 3e-3);
        t.schedule = (Schedule){.kind = SCHED_LINEAR, .total = 300};
        t.optim.weight_decay = 0;
        dpo_setup(&d, "cpu", 3, true, true);
        must(obj_dpo_open(&d.o, &d.obj, &d.s, d.sum, 1000, SEED, &c, &err), &err);
        fresh_dir(&dir, "dpo");
        run_ok(&d.f, &t, &d.obj, dir.s, NULL);
        must(obj_dpo_check(d.o, &err), &err);
        for (int i = 0; i < 3; i++) {
            int n;
            double D = 0, p = 0.2 + 0.1 * i;
            for (int side = 0; side < 2; side++)
                D += (side ? -1 : 1) * (reply_logprob(d.f.net, &d.s, 2 * i + side, &n) - d.sum[2 * i + side]);
            p = p * (1 - c.rule.smoothing) + (1 - p) * c.rule.smoothing;
            double want = k == 2 ? (2 * p - 1) / (2 * 0.5) : log(p / (1 - p)) / 0.5;
            print_message("label %.2f: D %.4f, wanted %.4f\n", p, D, want);
            assert_true(fabs(D - want) < 0.05);
        }
        dpo_close(&d);
        str_release(&dir);
    }
}

static void test_bad_samples(void **state) {
    (void)state;
    Error err = {0};
    SampleSet s;
    ObjDpo *o;
    Objective obj;
    double ref[2] = {0, 0};
    DpoConfig c = {{0.1, 0, DPO_SIGMOID}, false, false};
    int32_t tok[4] = {3, 4, 5, 6};
    static const float none[4] = {0, 0, 0, 0}, good[4] = {0, 0, 1, 1};
    static const struct {
        const float *weight;
        float target;
        double beta, smoothing;
        const char *says;
    } bad[] = {{none, 1, 0.1, 0, "no reply"},
               {good, 1.5f, 0.1, 0, "target 1.5"},
               {good, 1, 0, 0, "dpo.beta is 0"},
               {good, 1, 0.1, 0.6, "dpo.label_smoothing is 0.6"}};
    for (int k = 0; k < COUNT_OF(bad); k++) {
        samples_init(&s, 2);
        for (int side = 0; side < 2; side++) samples_add(&s, tok, bad[k].weight, 4, 9, bad[k].target, 1);
        c.rule.beta = bad[k].beta, c.rule.smoothing = bad[k].smoothing;
        assert_false(obj_dpo_open(&o, &obj, &s, ref, 64, SEED, &c, &err));
        assert_null(o);
        if (!strstr(err.msg, bad[k].says)) fail_msg("'%s' does not say '%s'", err.msg, bad[k].says);
        samples_release(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss_and_gradient),
        cmocka_unit_test(test_equal),
        cmocka_unit_test(test_reaches_labels),
        cmocka_unit_test(test_bad_samples),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
