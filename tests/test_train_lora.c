// layer: train
/* Training of adapters: the frozen model keeps its bits, a state holds what is trained and nothing else, a run that was
 * killed ends with the bits of one that was not, and PPO's nets are one model with adapters. */
#include "train_fixture.h"

#include "nn/lora.h"

typedef struct {
    Fixture f; /* model and LM head: frozen */
    Head score;
    Adapter *policy, *value;
    Net lm, pm, frozen;
} LoraFixture;

static const char *const targets[] = {"all-linear"};

static void lora_setup(LoraFixture *l, const char *backend, int n_thread, uint64_t seed, double dropout) {
    Error err = {0};
    ModelConfig c = {.family = FAMILY_LLAMA, .n_layer = 2, .n_head = 4, .n_kv_head = 2, .d_model = 32, .d_head = 8};
    c.d_ff = 48, c.n_vocab = VOCAB, c.max_seq = 128, c.norm = NORM_RMS, c.pos = POS_ROPE, c.mlp = MLP_SWIGLU;
    c.rope_theta = 10000, c.norm_eps = 1e-5, c.eos_id = END;
    LoraConfig lora = {.r = 3, .alpha = 6, .dropout = dropout, .target = targets, .n_target = 1, .base = "base"};
    Fixture *f = &l->f;
    open_backend(f, backend, n_thread);
    must(model_init(&f->m, f->be, &c, SEED, false, &err), &err);
    must(head_init(&f->h, &f->m, HEAD_LM, VOCAB, SEED, false, &err), &err);
    must(head_init(&l->score, &f->m, HEAD_SCORE, 1, seed, true, &err), &err);
    must(adapter_init(&l->policy, &f->m, &lora, seed, true, &err), &err);
    must(adapter_init(&l->value, &f->m, &lora, seed + 1, true, &err), &err);
    l->frozen = (Net){&f->m, &f->h, NULL};
    l->lm = (Net){&f->m, &f->h, l->policy};
    l->pm = (Net){&f->m, &l->score, l->value};
}

static void lora_close(LoraFixture *l) {
    adapter_close(l->policy);
    adapter_close(l->value);
    head_release(&l->score);
    close_all(&l->f);
}

static void collect_weights(void *ud, int index, const ParamInfo *p) {
    Grads *g = ud;
    (void)index;
    int64_t n = tensor_count(p->w);
    g->g = mem_grow(g->g, (size_t)(g->n + n) * sizeof(double));
    tensor_get(g->be, g->g + g->n, p->w);
    g->n += n;
}

static Grads weights(Net net) {
    Grads g = {.be = net.trunk->be};
    net_visit(net, collect_weights, &g);
    return g;
}

static bool same(Grads a, Grads b) { return a.n == b.n && !memcmp(a.g, b.g, (size_t)a.n * sizeof *a.g); }

/* -- the trainer ----------------------------------------------------------------------------------------------------
 */

typedef struct {
    Objective obj;
    int64_t crash_at;
} Crash;

static bool crashing(void *self, int64_t number, Batch *b, Error *err) {
    Crash *c = self;
    if (number == c->crash_at) return error_set(err, ERR_IO, "crash");
    return c->obj.micro(c->obj.self, number, b, err);
}

static double through(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m) {
    Crash *c = self;
    return c->obj.loss(c->obj.self, be, b, first, out, weight, m);
}

/* 8 steps, a state after every third. crash: step that never begins, or -1. */
static bool train(LoraFixture *l, bool pairs, const SampleSet *s, int64_t crash, const char *dir) {
    Error err = {0};
    ObjLm *lm = NULL;
    ObjPm *pm = NULL;
    Crash c = {.crash_at = crash};
    Trainer *t;
    TrainConfig config_ = config(8, 1e-2);
    config_.state_steps = 3;
    if (pairs)
        must(obj_pm_open(&pm, &c.obj, s, 80, SEED, END, 0, &err), &err);
    else
        must(obj_lm_open(&lm, &c.obj, s, 80, SEED, &err), &err);
    Objective o = c.obj;
    o.self = &c, o.micro = crashing, o.loss = through, o.wait_s = NULL;
    must(trainer_open(&t, pairs ? l->pm : l->lm, &config_, &o, NULL, NULL, &err), &err);
    bool ok = trainer_run(t, dir, &err);
    if (!ok && crash < 0) fail_msg("%s", err.msg);
    trainer_close(t);
    obj_lm_close(lm);
    obj_pm_close(pm);
    return ok;
}

static void resume_case(const char *backend, bool pairs, double dropout) {
    LoraFixture a, b, c;
    SampleSet s;
    Str dir_a = {0}, dir_b = {0}, metrics_a = {0}, metrics_b = {0}, moments_a = {0}, moments_b = {0};
    if (pairs)
        pm_samples(&s, 30, false, 1);
    else
        lm_samples(&s, 20);
    /* The process that goes on brings another adapter and head: the state's win. What it drops follows from its own
     * seed. */
    uint64_t other = dropout > 0 ? SEED : SEED + 5;
    lora_setup(&a, backend, 1, SEED, dropout);
    lora_setup(&b, backend, 1, SEED, dropout);
    lora_setup(&c, backend, 2, other, dropout);
    Grads before = weights(a.frozen), first = weights(pairs ? a.pm : a.lm);
    fresh_dir(&dir_a, "lora_a");
    fresh_dir(&dir_b, "lora_b");
    assert_true(train(&a, pairs, &s, -1, dir_a.s));
    assert_false(train(&b, pairs, &s, 4, dir_b.s));
    file_in(&moments_b, dir_b.s, "state/step-00000003/shard-00000-of-00001.safetensors");
    assert_non_null(memmem(moments_b.s, moments_b.n, "param/net.", 10));
    assert_null(memmem(moments_b.s, moments_b.n, "embed_tokens", 12)); /* the frozen model is in no state */
    assert_true(train(&c, pairs, &s, -1, dir_b.s));
    Grads x = weights(pairs ? a.pm : a.lm), y = weights(pairs ? c.pm : c.lm), after = weights(a.frozen);
    assert_true(same(x, y));
    assert_true(same(before, after));
    assert_true(distance(x, first) > 1e-3);
    read_metrics(&metrics_a, dir_a.s);
    read_metrics(&metrics_b, dir_b.s);
    assert_string_equal(metrics_a.s, metrics_b.s);
    file_in(&moments_a, dir_a.s, "state/step-00000006/shard-00000-of-00001.safetensors");
    file_in(&moments_b, dir_b.s, "state/step-00000006/shard-00000-of-00001.safetensors");
    assert_true(moments_a.n == moments_b.n && !memcmp(moments_a.s, moments_b.s, moments_a.n));
    Str *const text[] = {&dir_a, &dir_b, &metrics_a, &metrics_b, &moments_a, &moments_b};
    for (int i = 0; i < COUNT_OF(text); i++) str_release(text[i]);
    free(before.g), free(first.g), free(x.g), free(y.g), free(after.g);
    samples_release(&s);
    lora_close(&a), lora_close(&b), lora_close(&c);
}

static void test_resume(void **state) {
    (void)state;
    static const char *const backend[] = {"cpu", "bf16"};
    for (int i = 0; i < COUNT_OF(backend); i++) {
        resume_case(backend[i], false, 0);
        resume_case(backend[i], true, 0);
        resume_case(backend[i], i == 0, 0.3);
    }
}

static void set_trained(void *ud, int index, const ParamInfo *p) {
    int64_t n = tensor_empty(p->dw) ? 0 : tensor_count(p->w);
    double *x = mem_alloc((size_t)n * sizeof *x + 1);
    for (int64_t i = 0; i < n; i++) x[i] = (float)rng_normal((Rng){SEED, RNG_TEST}, (uint64_t)i, (uint32_t)index);
    if (n > 0) tensor_set(ud, p->w, x);
    free(x);
}

/* With learning rate 0 every step of one batch has the same loss, unless each drops other inputs. */
static void test_drops(void **state) {
    (void)state;
    Error err = {0};
    for (int k = 0; k < 2; k++) {
        LoraFixture l;
        SampleSet s;
        ObjLm *lm;
        Objective o;
        Trainer *t;
        double loss[2];
        lm_samples(&s, 1);
        lora_setup(&l, "cpu", 1, SEED, k ? 0.3 : 0);
        net_visit(l.lm, set_trained, l.f.be); /* b of a new adapter is zero: what a reads would not matter */
        must(obj_lm_open(&lm, &o, &s, 80, SEED, &err), &err);
        for (int steps = 1; steps <= 2; steps++) {
            Str dir = {0};
            TrainConfig c = config(steps, 0);
            fresh_dir(&dir, "lora_drops");
            must(trainer_open(&t, l.lm, &c, &o, NULL, NULL, &err), &err);
            must(trainer_run(t, dir.s, &err), &err);
            loss[steps - 1] = trainer_last_loss(t);
            trainer_close(t);
            str_release(&dir);
        }
        assert_true(k ? loss[0] != loss[1] : loss[0] == loss[1]);
        obj_lm_close(lm);
        samples_release(&s);
        lora_close(&l);
    }
}

/* Left to us, adapters beside a small trunk keep block inputs alone; a trunk four times what is added, or one that is
 * trained, keeps all. */
static void test_keep(void **state) {
    (void)state;
    Error err = {0};
    LoraFixture l;
    Optim *o;
    OptimConfig c = {.lr = 1, .eps = 1e-8};
    lora_setup(&l, "cpu", 1, SEED, 0);
    must(optim_open(&o, &l.lm, NULL, 1, &c, &err), &err);
    assert_int_equal(train_keep(&l.lm, 1, o, 1, 80, 80), KEEP_INPUTS);
    Model large = *l.lm.trunk;
    Net net = l.lm;
    net.trunk = &large;
    large.params.used = 1 << 30;
    assert_int_equal(train_keep(&net, 1, o, 1, 80, 80), KEEP_ALL);
    assert_int_equal(train_keep(&net, 1, o, 1, 1 << 20, 80), KEEP_INPUTS);
    net.adapter = NULL;
    assert_int_equal(train_keep(&net, 1, o, 1, 1 << 20, 80), KEEP_ALL);
    optim_close(o);
    lora_close(&l);
}

/* -- PPO over one model ---------------------------------------------------------------------------------------------
 */

enum { N_PROMPT = 5, GOOD = FIRST_WORD };

typedef struct {
    LoraFixture l;
    PpoConfig c;
    PpoSetup s;
    int32_t tok[N_PROMPT][4];
    PpoPrompt prompt[N_PROMPT];
    int crash_at, n_score;
    bool stopped_by_kl;
} Rl;

static bool score(void *ud, const PpoPrompt *p, const Tokens *reply, int n, double *out, Error *err) {
    Rl *r = ud;
    (void)p;
    if (r->n_score++ == r->crash_at) return error_set(err, ERR_IO, "crash");
    for (int i = 0; i < n; i++) {
        out[i] = 0;
        for (int t = 0; t < reply[i].n; t++) out[i] += reply[i].tok[t] == GOOD;
    }
    return true;
}

static void rl_open(Rl *r, const char *backend, RlMethod method, uint64_t seed) {
    *r = (Rl){.crash_at = -1};
    lora_setup(&r->l, backend, 1, seed, 0);
    for (int p = 0; p < N_PROMPT; p++) {
        for (int t = 0; t < 4; t++) r->tok[p][t] = 4 + (p * 3 + t * 5) % (VOCAB - 4);
        r->prompt[p] = (PpoPrompt){(uint64_t)p, r->tok[p], 2 + p % 3};
    }
    PpoConfig *c = &r->c;
    *c = (PpoConfig){.method = method, .updates = 5, .rollouts = 12, .epochs = 2, .minibatches = 2, .max_new = 8};
    c->max_tok = 64, c->beta = 0.05, c->temperature = 1, c->gamma = 1, c->lambda = 0.95, c->value_weight = 0.1;
    c->value_clip = 0.2, c->clip = (PpoClip){0.2, 0.2, 3, 0, 0}, c->no_end_score = NAN, c->whiten_advantages = true;
    c->kl_stop = 100, c->value_lr = 1, c->seed = SEED, c->state_s = 1e9, c->state_updates = 2;
    c->group = 6, c->group_kind = GROUP_SD, c->kl_by_ratio = true, c->group_eps = 1e-4;
    c->aggregation = method == RL_GRPO ? AGG_SEQ_MEAN_TOKEN_MEAN : AGG_TOKEN_MEAN;
    c->optim = (OptimConfig){.lr = 2e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .clip = 1};
    c->schedule = (Schedule){.kind = SCHED_CONSTANT, .total = 5};
    r->s = (PpoSetup){.policy = r->l.lm, .reference = r->l.frozen, .prompt = r->prompt, .n_prompt = N_PROMPT};
    if (method == RL_PPO) r->s.value = r->l.pm;
    r->s.end_id = END, r->s.score_mean = 0.5, r->s.score_sd = 0.5, r->s.score = score, r->s.score_ud = r;
    r->s.stopped_by_kl = &r->stopped_by_kl;
}

static bool rl_run(Rl *r, const char *dir, Error *err) {
    *err = (Error){0};
    return ppo_run(&r->c, &r->s, dir, NULL, NULL, err);
}

static void rl_case(const char *backend, RlMethod method) {
    Error err = {0};
    Rl a, b, c;
    Str dir = {0}, metrics_a = {0}, metrics_b = {0};
    rl_open(&a, backend, method, SEED);
    rl_open(&b, backend, method, SEED);
    rl_open(&c, backend, method, SEED + 9);
    Grads before = weights(a.l.frozen), first = weights(a.l.pm);
    /* a new adapter is no change: the doctor asserts that the first update's KL is zero and its ratio one */
    assert_true(doctor_same_weights(a.l.lm, a.l.frozen));
    fresh_dir(&dir, "lora_whole");
    must(rl_run(&a, dir.s, &err), &err);
    read_metrics(&metrics_a, dir.s);
    if (strcmp(backend, "cpu") == 0) assert_true(number(&metrics_a, "kl") == 0);
    assert_false(doctor_same_weights(a.l.lm, a.l.frozen));
    fresh_dir(&dir, "lora_killed");
    b.crash_at = 3; /* of update 4; the state is that of update 2 */
    assert_false(rl_run(&b, dir.s, &err));
    must(rl_run(&c, dir.s, &err), &err);
    read_metrics(&metrics_b, dir.s);
    assert_string_equal(metrics_a.s, metrics_b.s);
    Grads x = weights(a.l.lm), y = weights(c.l.lm), v = weights(a.l.pm), w = weights(c.l.pm),
          after = weights(a.l.frozen);
    assert_true(same(x, y));
    assert_true(method == RL_GRPO || same(v, w));
    assert_true((method == RL_GRPO) == same(v, first));
    assert_true(same(before, after));
    free(before.g), free(first.g), free(x.g), free(y.g), free(v.g), free(w.g), free(after.g);
    str_release(&dir), str_release(&metrics_a), str_release(&metrics_b);
    lora_close(&a.l), lora_close(&b.l), lora_close(&c.l);
}

static void test_ppo(void **state) {
    (void)state;
    static const char *const backend[] = {"cpu", "bf16"};
    for (int i = 0; i < COUNT_OF(backend); i++) {
        rl_case(backend[i], RL_PPO);
        rl_case(backend[i], RL_GRPO);
    }
}

/* The policy of before the update that went too far comes back: here a new adapter. */
static void test_kl_stop(void **state) {
    (void)state;
    Error err = {0};
    Rl r;
    Str dir = {0};
    rl_open(&r, "cpu", RL_PPO, SEED);
    r.c.kl_stop = 1e-9;
    fresh_dir(&dir, "lora_kl");
    assert_false(rl_run(&r, dir.s, &err));
    assert_true(r.stopped_by_kl);
    assert_true(adapter_is_new(r.l.policy) && !adapter_is_new(r.l.value));
    str_release(&dir);
    lora_close(&r.l);
}

/* Rollouts from rounded copies of the frozen matrices follow the adapter. */
static void test_rounded(void **state) {
    (void)state;
    Error err = {0};
    Rl r;
    Str dir = {0}, metrics = {0};
    rl_open(&r, "cpu", RL_PPO, SEED);
    r.c.rollout_weights = DTYPE_I8;
    fresh_dir(&dir, "lora_rounded");
    must(rl_run(&r, dir.s, &err), &err);
    read_metrics(&metrics, dir.s);
    char *last = strstr(metrics.s, "\"step\":5");
    assert_non_null(last);
    double gap = strtod(strstr(last, "\"rollout_gap\":") + strlen("\"rollout_gap\":"), NULL);
    assert_true(gap > 0 && gap < 0.02);
    str_release(&dir), str_release(&metrics);
    lora_close(&r.l);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_resume),  cmocka_unit_test(test_keep),
                                       cmocka_unit_test(test_drops),   cmocka_unit_test(test_ppo),
                                       cmocka_unit_test(test_kl_stop), cmocka_unit_test(test_rounded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
