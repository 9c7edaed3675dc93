// layer: train
// gpu: yes
// cost: 60
/* Whole nets on the cuda backend, on a GPU or emulated: its numbers beside the cpu backend's, F32 and BF16; generation
 * beside scoring; training step by step; equal calls, equal bits. Exit 77 where the build has the backend and the
 * machine no GPU. */
#include "engine_nets.h"

#include "nn/lora.h"
#include "tensor/cuda/replay.h"
#include "train/batch.h"
#include "train/trainer.h"

static Pool *pool;

typedef struct {
    Backend *be;
    Model model;
    Head lm, score;
    Adapter *adapter; /* NULL: none */
    bool half;
} Side;

/* Heads of 16 and of 64 columns, several pages, grouped heads, untied; GPT-2's parts. */
static ModelConfig config(int kind) {
    ModelConfig c = tiny_config(kind == 2);
    c.max_seq = 200;
    if (kind == 0) c.d_head = 16;
    if (kind == 1) c.d_head = 64, c.n_head = 2, c.n_kv_head = 1, c.d_model = 64, c.d_ff = 96, c.n_vocab = 133;
    if (kind == 2) c.d_head = 16, c.n_head = c.n_kv_head = 2, c.mlp_bias = true;
    return c;
}

static void side_open(Side *s, const char *backend, const char *isa, bool half, const ModelConfig *c, bool grads) {
    Error err = {0};
    memset(s, 0, sizeof *s);
    s->half = half;
    if (!backend_open(&s->be, backend, pool, isa, &err)) fail_msg("%s", err.msg);
    if (half && !backend_set_dtype(s->be, DTYPE_BF16, &err)) fail_msg("%s", err.msg);
    if (!model_init(&s->model, s->be, c, 5, grads, &err)) fail_msg("%s", err.msg);
    if (!head_init(&s->lm, &s->model, HEAD_LM, c->n_vocab, 5, grads, &err)) fail_msg("%s", err.msg);
    if (!head_init(&s->score, &s->model, HEAD_SCORE, 1, 5, false, &err)) fail_msg("%s", err.msg);
}

/* The model is frozen beside it. */
static void side_adapt(Side *s) {
    Error err = {0};
    static const char *const target[] = {"all-linear"};
    LoraConfig lora = {.r = 5, .alpha = 10, .target = target, .n_target = 1};
    if (!adapter_init(&s->adapter, &s->model, &lora, 6, true, &err)) fail_msg("%s", err.msg);
}

/* As after some training: b is no longer zero. */
static void train_b(void *ud, int index, const ParamInfo *p) {
    if (!strstr(p->name, "lora_B")) return;
    float *x = mem_alloc((size_t)tensor_count(p->w) * sizeof *x);
    for (int64_t i = 0; i < tensor_count(p->w); i++)
        x[i] = (float)(0.1 * rng_normal((Rng){8, RNG_TEST}, (uint64_t)i, (uint32_t)index));
    tensor_set_f32(ud, p->w, x);
    free(x);
}

static void side_close(Side *s) {
    adapter_close(s->adapter);
    head_release(&s->score);
    head_release(&s->lm);
    model_release(&s->model);
    backend_close(s->be);
}

static Net side_lm(Side *s) { return (Net){&s->model, &s->lm, s->adapter}; }

/* Log-probs of all texts, one after another. */
static float *scores(Side *s, const Texts *t, int64_t *n) {
    Engine *e = engine_of(side_lm(s), (EngineConfig){.max_batch_tok = 256});
    Error err = {0};
    float *out[256], *all;
    Tokens prefix[256], text[256];
    *n = 0;
    for (int i = 0; i < t->n; i++) {
        prefix[i] = (Tokens){t->part[i].tok, 1};
        text[i] = (Tokens){t->part[i].tok + 1, t->part[i].n - 1};
        *n += text[i].n;
    }
    all = mem_alloc((size_t)*n * sizeof *all);
    float *at = all;
    for (int i = 0; i < t->n; i++) out[i] = at, at += text[i].n;
    if (!engine_score(e, prefix, text, t->n, 1, out, &err)) fail_msg("%s", err.msg);
    engine_close(e);
    return all;
}

static double worst(const float *a, const float *b, int64_t n) {
    double w = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= w)) w = d;
    }
    return w;
}

static void test_scores_are_the_cpus(void **state) {
    (void)state;
    static Texts t;
    for (int kind = 0; kind < 3; kind++)
        for (int half = 0; half < 2; half++) {
            ModelConfig c = config(kind);
            Side cpu, gpu;
            int64_t n, m;
            texts_fill(&t, 3, 4, 2, 100, c.n_vocab);
            side_open(&cpu, "cpu", NULL, half, &c, false);
            side_open(&gpu, "cuda", NULL, half, &c, false);
            float *a = scores(&cpu, &t, &n), *b = scores(&gpu, &t, &m), *again = scores(&gpu, &t, &m);
            assert_memory_equal(b, again, (size_t)m * sizeof *b);
            double gap = worst(a, b, n);
            if (!(gap <= (half ? 3e-2 : 2e-5))) fail_msg("kind %d half %d: log-probs %.2e apart", kind, half, gap);
            free(a);
            free(b);
            free(again);
            side_close(&gpu);
            side_close(&cpu);
        }
}

enum { NEW = 12 };

static void six_requests(GenRequest req[6], const Texts *t) {
    for (int i = 0; i < 6; i++) {
        req[i] = (GenRequest){.id = (uint64_t)i, .prompt = t->part[i]};
        req[i].sample = (SampleParams){.temperature = i % 2, .top_p = 1, .repetition = 1, .max_new = NEW};
        if (i == 5) req[i].sample.top_k = 7; /* drawn on the host */
        req[i].sample.rng = (Rng){9, RNG_SAMPLE};
    }
}

/* Of what was drawn, beside what scoring says of it. */
static double worst_drawn(Engine *e, const GenRequest *req, const GenResult *res) {
    double gap = 0;
    Error err = {0};
    for (int i = 0; i < 6; i++) {
        float lp[NEW], *out = lp;
        Tokens text = {res[i].text, res[i].n};
        if (!engine_score(e, &req[i].prompt, &text, 1, 1, &out, &err)) fail_msg("%s", err.msg);
        double w = worst(lp, res[i].logprob, res[i].n);
        if (!(w <= gap)) gap = w;
    }
    return gap;
}

/* What was drawn gets, when scored, the log-prob it was recorded with, to the bit in exact mode; the same calls give
 * the same bits; 40 tokens are enough for recorded passes. In BF16 with an adapter. */
static void test_generation_is_scoring(void **state) {
    (void)state;
    static Texts t;
    static const struct {
        const char *isa;
        bool half;
        double gap;
    } mode[] = {{NULL, false, 2e-5}, {NULL, true, 3e-2}, {"exact", false, 0}, {"exact", true, 0}};
    for (int kind = 0; kind < 3; kind++)
        for (int k = 0; k < COUNT_OF(mode); k++) {
            ModelConfig c = config(kind);
            Side gpu;
            GenRequest req[6];
            GenResult res[2][6];
            side_open(&gpu, "cuda", mode[k].isa, mode[k].half, &c, false);
            if (mode[k].half) side_adapt(&gpu);
            if (mode[k].half) net_visit(side_lm(&gpu), train_b, gpu.be);
            assert_int_equal(gpu.be->exact, mode[k].isa != NULL);
            texts_fill(&t, 4, 6, 1, 70, c.n_vocab);
            six_requests(req, &t);
            for (int again = 0; again < 2; again++) {
                Engine *e = engine_of(side_lm(&gpu), (EngineConfig){.max_slots = 4, .share_prefix = true});
                generate(e, req, 6, res[again]);
                double gap = worst_drawn(e, req, res[again]);
                if (!(gap <= mode[k].gap)) fail_msg("kind %d mode %d: drawn %.2e from scored", kind, k, gap);
                engine_close(e);
            }
            for (int i = 0; i < 6; i++) assert_same_result(&res[0][i], &res[1][i]);
            engine_free_results(res[0], 6);
            engine_free_results(res[1], 6);
            side_close(&gpu);
        }
}

enum { LONG = 24, RECORDED = 3 };

/* Passes over the newest token of every sequence are recorded and replayed, in exact mode too, and what is drawn in
 * them is what scoring says. In BF16 without an adapter, where a block's halves begin in one launch. */
static void test_recorded(void **state) {
    (void)state;
    static Texts t;
    static const char *const isa[] = {NULL, "exact"};
    for (int k = 0; k < 2 * COUNT_OF(isa); k++) {
        ModelConfig c = config(k / 2);
        Side gpu;
        GenRequest req[RECORDED];
        GenResult res[RECORDED];
        Error err = {0};
        side_open(&gpu, "cuda", isa[k % 2], true, &c, false);
        texts_fill(&t, 6, RECORDED, 20, 30, c.n_vocab);
        Engine *e = engine_of(side_lm(&gpu), (EngineConfig){.max_slots = RECORDED});
        for (int i = 0; i < RECORDED; i++) {
            req[i] = (GenRequest){.id = (uint64_t)i, .prompt = t.part[i]};
            req[i].sample = (SampleParams){.temperature = 1, .top_p = 1, .repetition = 1, .max_new = LONG};
            req[i].sample.rng = (Rng){9, RNG_SAMPLE};
        }
        generate(e, req, RECORDED, res);
        for (int i = 0; i < RECORDED; i++) {
            float lp[LONG], *out = lp;
            Tokens text = {res[i].text, res[i].n};
            if (!engine_score(e, &req[i].prompt, &text, 1, 1, &out, &err)) fail_msg("%s", err.msg);
            double gap = worst(lp, res[i].logprob, res[i].n);
            if (!(gap <= (isa[k % 2] ? 0 : 3e-2))) fail_msg("mode %d, request %d: drawn %.2e from scored", k, i, gap);
        }
        CudaReplayStats s = cuda_replay_stats(gpu.be);
        assert_true(s.recorded >= 1 && s.replayed >= LONG - 6 && s.refused == 0);
        engine_close(e);
        engine_free_results(res, RECORDED);
        side_close(&gpu);
    }
}

/* -- training: next tokens of packed texts ------------------------------------------------------------------------- */

typedef struct {
    BatchBuf buf;
    LogpBuf logp;
    Batch b;
    int32_t target[512];
    int32_t seq_off[8];
    int n;
} Lesson;

static bool lesson_micro(void *self, int64_t number, Batch *b, Error *err) {
    (void)number, (void)err;
    *b = ((Lesson *)self)->b;
    return true;
}

static double lesson_loss(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m) {
    Lesson *l = self;
    double loss = 0;
    (void)b, (void)m;
    logp_forward(&l->logp, be, out, l->target + first, 1, false);
    for (int i = 0; i < out.rows; i++) {
        loss -= l->logp.lp[i];
        l->logp.dlp[i] = -1;
    }
    logp_backward(&l->logp, be, out, l->target + first, 1);
    *weight += (double)out.rows;
    return loss;
}

static void lesson_open(Lesson *l, const Texts *t) {
    memset(l, 0, sizeof *l);
    for (int s = 0; s < t->n; s++) l->seq_off[s + 1] = l->seq_off[s] + t->part[s].n;
    l->n = l->seq_off[t->n];
    assert_true(l->n <= 512 && t->n < 8);
    batch_layout(&l->buf, &l->b, t->tok, l->n, l->seq_off, t->n, true);
    for (int i = 0; i < l->n; i++) {
        l->buf.row[i] = i;
        l->target[i] = t->tok[(i + 1) % l->n];
    }
    l->b.n_row = l->n;
}

enum { STEPS = 3 };
typedef struct {
    double loss[STEPS], norm[STEPS];
} Course;

static Course train(Side *s, const Texts *t, Keep keep) {
    Course c;
    Lesson l;
    Error err = {0};
    Optim *o = NULL;
    Acts *a = NULL;
    Arena mem = {0};
    Tensor slice;
    Net net = side_lm(s);
    OptimConfig oc = {.lr = 3e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1};
    lesson_open(&l, t);
    Objective obj = {.name = "lesson", .row_group = 1, .micro = lesson_micro, .loss = lesson_loss, .self = &l};
    obj.max_tok = obj.max_row = l.n;
    net_zero_grads(net);
    if (!optim_open(&o, &net, NULL, 1, &oc, &err) || !acts_open(&a, net.trunk, l.n, l.n, keep, &err) ||
        !head_slice_open(&mem, &slice, net, &err))
        fail_msg("%s", err.msg);
    for (int i = 0; i < STEPS; i++) {
        double weight = 0;
        c.loss[i] = train_micro(net, a, &l.b, &obj, slice, &weight, NULL) / weight;
        c.norm[i] = optim_step(o, 1, 1 / weight).grad_norm;
    }
    arena_release(&mem);
    acts_close(a);
    optim_close(o);
    batch_release(&l.buf);
    logp_release(&l.logp);
    return c;
}

static void training(bool lora) {
    static Texts t;
    for (int kind = lora; kind < 3; kind++)
        for (int half = 0; half < 2; half++) {
            ModelConfig c = config(kind);
            texts_fill(&t, 6, 2, 20, 90, c.n_vocab);
            Course course[4];
            for (int side = 0; side < 4; side++) { /* cpu; cuda; cuda again; cuda, blocks run again in the backward */
                Side s;
                side_open(&s, side ? "cuda" : "cpu", NULL, half, &c, !lora);
                if (lora) side_adapt(&s);
                course[side] = train(&s, &t, side == 3 ? KEEP_INPUTS : KEEP_ALL);
                side_close(&s);
            }
            assert_memory_equal(&course[1], &course[2], sizeof course[1]);
            assert_memory_equal(&course[1], &course[3], sizeof course[1]);
            for (int i = 0; i < STEPS; i++) {
                double dl = fabs(course[1].loss[i] - course[0].loss[i]) / course[0].loss[i];
                double dn = fabs(course[1].norm[i] - course[0].norm[i]) / course[0].norm[i];
                if (!(dl <= (half ? 2e-3 : 2e-6)) || !(dn <= (half ? 2e-2 : 2e-4)))
                    fail_msg("kind %d half %d step %d: loss %.6f beside %.6f, norm %.6f beside %.6f", kind, half, i,
                             course[1].loss[i], course[0].loss[i], course[1].norm[i], course[0].norm[i]);
            }
            assert_true(course[1].loss[STEPS - 1] < course[1].loss[0]);
        }
}

static void test_training_is_the_cpus(void **state) {
    (void)state;
    training(false);
}

static void test_adapters_training_is_the_cpus(void **state) {
    (void)state;
    training(true);
}

/* What the model writes greedily is greedy, another last token is not; with pages and without, in exact mode to the
 * bit. */
static void test_greedy_scores(void **state) {
    (void)state;
    enum { N = 8, SHOTS = 130, K = 5 };
    static int32_t tok[N][SHOTS + 2 + K];
    ModelConfig c = config(0);
    Error err = {0};
    for (int exact = 0; exact < 2; exact++) {
        Side s;
        side_open(&s, "cuda", exact ? "exact" : NULL, false, &c, false);
        Engine *paged = engine_of(side_lm(&s), (EngineConfig){.share_prefix = true, .max_batch_tok = 256});
        Engine *packed = engine_of(side_lm(&s), (EngineConfig){.max_batch_tok = 256});
        GenRequest req[N];
        GenResult res[N];
        for (int i = 0; i < N; i++) {
            for (int p = 0; p < SHOTS; p++) tok[i][p] = (7 * p + 3) % c.n_vocab;
            for (int p = 0; p < 2; p++) tok[i][SHOTS + p] = (11 * i + p) % c.n_vocab;
            req[i] = (GenRequest){.id = (uint64_t)i, .prompt = {tok[i], SHOTS + 2}};
            req[i].sample = (SampleParams){.top_p = 1, .repetition = 1, .max_new = K};
        }
        generate(packed, req, N, res);
        Tokens prefix[N], text[N];
        float value[2][N][K], *out[2][N];
        bool greedy[2][N];
        for (int i = 0; i < N; i++) {
            memcpy(tok[i] + SHOTS + 2, res[i].text, K * sizeof(int32_t));
            if (i % 2) tok[i][SHOTS + 1 + K] = (tok[i][SHOTS + 1 + K] + 1) % c.n_vocab;
            prefix[i] = req[i].prompt;
            text[i] = (Tokens){tok[i] + SHOTS + 2, K};
            for (int v = 0; v < 2; v++) out[v][i] = value[v][i];
        }
        engine_free_results(res, N);
        assert_true(engine_score_greedy(paged, prefix, text, N, out[0], greedy[0], &err));
        assert_true(engine_score_greedy(packed, prefix, text, N, out[1], greedy[1], &err));
        assert_true(engine_stats(paged).n_shared > 0 && engine_stats(packed).n_shared == 0);
        for (int i = 0; i < N; i++) {
            assert_true(greedy[0][i] == (i % 2 == 0) && greedy[1][i] == (i % 2 == 0));
            double w = worst(value[0][i], value[1][i], K);
            if (!(w <= (exact ? 0 : 1e-4))) fail_msg("exact %d, sequence %d: %g", exact, i, w);
        }
        engine_close(paged);
        engine_close(packed);
        side_close(&s);
    }
}

int main(void) {
    Error err = {0};
    Backend *be = NULL;
    if (!pool_open(&pool, 2, &err)) return 1;
    if (!backend_open(&be, "cuda", pool, NULL, &err)) {
        printf("skipped: %s\n", err.msg);
        pool_close(pool);
        return 77;
    }
    backend_close(be);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scores_are_the_cpus),   cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_generation_is_scoring), cmocka_unit_test(test_greedy_scores),
        cmocka_unit_test(test_training_is_the_cpus),  cmocka_unit_test(test_adapters_training_is_the_cpus),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pool_close(pool);
    return failed;
}
