// layer: train
/* Policy-gradient methods by several ranks: replies dealt by prompt, passes dealt by number, policy and value in one
 * pipeline; the bits of one rank. */
#include "rank_train.h"

enum { RL_VOCAB = 12, RL_END = 0, GOOD = 3, N_PROMPT = 7, MAX_NEW = 6, RL_SEED = 5 };

typedef struct {
    int tp, pp, dp, shard;
    bool overlap;
} How;

typedef struct {
    const char *backend;
    RlMethod method;
    How how;
    bool mix, recompute;
    int layers; /* 0: two */
    int64_t warmup;
    Str dir;
    int stop_after; /* updates, by rank 0's signal; 0: never */
    Str want;       /* policy and value of one rank */
} RlCase;

typedef struct {
    Pool *pool;
    Backend *be;
    Model m[3]; /* policy, reference, value */
    Head h[3];
    Net net[3];
    int32_t tok[N_PROMPT][4];
    PpoPrompt prompt[N_PROMPT];
    SampleSet mix;
    Stop *stop;
    int64_t stop_after;
    int n_report;
} Nets;

static bool score_fn(void *ud, const PpoPrompt *p, const Tokens *reply, int n, double *score, Error *err) {
    (void)ud, (void)p, (void)err;
    for (int i = 0; i < n; i++) {
        double hits = 0;
        for (int t = 0; t < reply[i].n; t++) hits += reply[i].tok[t] == GOOD;
        score[i] = 4 * hits / reply[i].n;
    }
    return true;
}

static void report_fn(void *ud, const PpoReport *r) {
    Nets *n = ud;
    n->n_report++;
    if (r->update == n->stop_after) stop_request(n->stop);
}

static bool nets_open(Nets *n, const RlCase *c, const Mesh *mesh, Error *err) {
    *n = (Nets){.pool = NULL};
    if (!pool_open(&n->pool, 1, err) || !backend_open(&n->be, c->backend, n->pool, NULL, err)) return false;
    Mesh share = mesh_divides(mesh) ? mesh_share(mesh) : (Mesh){0};
    const Mesh *looks = mesh_divides(mesh) ? &share : NULL; /* the reference: all layers */
    for (int k = 0; k < 3; k++) {
        ModelConfig m = {.family = FAMILY_LLAMA, .n_layer = 2, .n_head = 4, .n_kv_head = 2, .d_model = 32, .d_head = 8};
        m.d_ff = 48, m.n_vocab = RL_VOCAB, m.max_seq = 32, m.norm = NORM_RMS, m.pos = POS_ROPE, m.mlp = MLP_SWIGLU;
        m.tied = k < 2, m.rope_theta = 10000, m.norm_eps = 1e-5, m.eos_id = RL_END;
        uint64_t seed = k < 2 ? RL_SEED : RL_SEED + 10;
        if (c->layers > 0) m.n_layer = c->layers;
        if (!model_init_on(&n->m[k], n->be, &m, k == 1 ? looks : mesh, seed, k != 1, err) ||
            !head_init(&n->h[k], &n->m[k], k < 2 ? HEAD_LM : HEAD_SCORE, k < 2 ? RL_VOCAB : 1, seed, k != 1, err))
            return false;
        n->net[k] = (Net){&n->m[k], &n->h[k], NULL};
    }
    for (int p = 0; p < N_PROMPT; p++) {
        for (int t = 0; t < 4; t++) n->tok[p][t] = 4 + (p * 3 + t * 5) % (RL_VOCAB - 4);
        n->prompt[p] = (PpoPrompt){(uint64_t)p, n->tok[p], 2 + p % 3};
    }
    samples_init(&n->mix, 1);
    float weight[8] = {0, 1, 1, 1, 1, 1, 1, 1};
    for (int i = 0; i < 20; i++) {
        int32_t tok[8];
        for (int t = 0; t < 8; t++) tok[t] = 1 + (i * 7 + t * 3) % (RL_VOCAB - 1);
        samples_add(&n->mix, tok, weight, 8, (uint64_t)i, 0, 1);
    }
    return true;
}

static void nets_close(Nets *n) {
    for (int k = 0; k < 3; k++) {
        head_release(&n->h[k]);
        model_release(&n->m[k]);
    }
    samples_release(&n->mix);
    stop_close(n->stop);
    backend_close(n->be);
    pool_close(n->pool);
}

static bool run(Nets *n, const RlCase *c, const Mesh *mesh, Error *err) {
    const RlMethodInfo *m = &rl_methods[c->method];
    PpoConfig p = {
        .method = c->method, .updates = 3, .rollouts = 14, .epochs = 2, .minibatches = 2, .max_new = MAX_NEW};
    p.max_tok = 32, p.beta = 0.1, p.temperature = 0.9, p.gamma = 1, p.lambda = 0.95, p.value_weight = 0.1;
    p.value_clip = 0.2, p.clip = (PpoClip){0.2, 0.2, 3, 0, 0}, p.no_end_score = -1, p.score_clip = 2;
    p.whiten_advantages = true, p.kl_target = 1, p.kl_horizon = 100, p.kl_stop = 100, p.value_lr = 1, p.seed = RL_SEED;
    p.state_s = 1e9, p.optim = (OptimConfig){.lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-5, .clip = 1};
    p.schedule = (Schedule){.kind = SCHED_LINEAR, .total = 6};
    p.group = 7, p.group_kind = GROUP_SD, p.kl_by_ratio = true, p.group_eps = 1e-4;
    p.aggregation = m->aggregation, p.level = m->level, p.value_warmup = c->warmup;
    p.mix_weight = c->mix ? 0.3 : 0, p.mesh = mesh;
    p.shard = c->how.shard, p.overlap = c->how.overlap;
    p.keep = c->recompute ? KEEP_INPUTS : KEEP_ALL;
    PpoSetup s = {.prompt = n->prompt, .n_prompt = N_PROMPT, .end_id = RL_END, .score_mean = 0.25, .score_sd = 0.5};
    s.score = score_fn, s.report = report_fn, s.report_ud = n, s.mix = &n->mix;
    s.policy = n->net[0], s.reference = n->net[1];
    if (m->value) s.value = n->net[2];
    return ppo_run(&p, &s, c->dir.s, NULL, n->stop, err);
}

static bool weights_of(Str *out, Nets *n, const Mesh *mesh, Error *err) {
    return net_bytes(out, n->net[0], mesh, err) && net_bytes(out, n->net[2], mesh, err);
}

/* Shares of tensors add up otherwise: to rounding, which F64 has little of. */
static bool near(const Str *got, const Str *want) {
    double apart = 0, norm = 0;
    for (size_t i = 0; i + sizeof(double) <= got->n; i += sizeof(double)) {
        double x, y;
        memcpy(&x, got->s + i, sizeof x);
        memcpy(&y, want->s + i, sizeof y);
        apart += (x - y) * (x - y), norm += y * y;
    }
    return sqrt(apart / norm) < 1e-10;
}

static void ppo_rank(Rank *r) {
    const RlCase *c = r->ud;
    Error err = {0};
    Nets n;
    Mesh mesh;
    Str got = {0};
    bool ok = mesh_open(&mesh, r->world, NULL, c->how.tp, 1, c->how.pp, &err) && nets_open(&n, c, &mesh, &err);
    expect(r, ok);
    if (c->stop_after && r->rank == 0) {
        expect(r, stop_open(&n.stop, &err));
        n.stop_after = c->stop_after;
    }
    ok = run(&n, c, &mesh, &err);
    if (c->stop_after) {
        expect(r, !ok && err.code == ERR_STOPPED);
    } else {
        if (!ok && !r->wrong[0]) snprintf(r->wrong, sizeof r->wrong, "rank %d: %.300s", r->rank, err.msg);
        expect(r, weights_of(&got, &n, &mesh, &err));
        expect(r, got.n == c->want.n && (c->how.tp > 1 ? near(&got, &c->want) : !memcmp(got.s, c->want.s, got.n)));
    }
    expect(r, r->rank == 0 ? n.n_report > 0 : n.n_report == 0);
    str_release(&got);
    nets_close(&n);
}

/* One rank's, into c->want and *metrics. */
static void alone(RlCase *c, Str *metrics) {
    Error err = {0};
    Nets n;
    fresh_dir(&c->dir, "alone");
    c->how = (How){1, 1, 1, 0, false};
    must(nets_open(&n, c, NULL, &err) && run(&n, c, NULL, &err) && weights_of(&c->want, &n, NULL, &err), &err);
    nets_close(&n);
    read_metrics(metrics, c->dir.s);
}

static void by_ranks(RlCase *c, How how) {
    c->how = how;
    with_ranks(how.tp * how.pp * how.dp, ppo_rank, c);
}

static void case_close(RlCase *c) {
    str_release(&c->want);
    str_release(&c->dir);
}

/* Ranks end with the weights of one; and where no sum is made otherwise with its metrics. */
static void equal_under(RlCase *c, const How *how, int n) {
    Str want = {0}, got = {0};
    alone(c, &want);
    for (int k = 0; k < n; k++) {
        fresh_dir(&c->dir, "many");
        by_ranks(c, how[k]);
        read_metrics(&got, c->dir.s);
        if (how[k].tp == 1) assert_string_equal(got.s, want.s);
    }
    case_close(c);
    str_release(&want);
    str_release(&got);
}

static RlCase case_of(const char *backend, RlMethod m) {
    return (RlCase){.backend = backend, .method = m, .mix = m != RL_RLOO, .warmup = m == RL_PPO};
}

static void test_methods(void **state) {
    (void)state;
    for (RlMethod m = RL_PPO; m < RL_DPO; m++) {
        RlCase c = case_of(m == RL_GRPO ? "ref" : "cpu", m);
        How how[3];
        for (int k = 0; k < 3; k++) how[k] = (How){1, 1, 2 + k, (k + (int)m) % 3, (k + (int)m) % 2};
        equal_under(&c, how, 3);
    }
}

/* Policy and value net in shares, of stages too; rollouts from shares, whose log-probs are training's to the bit
 * (doctor). */
static void test_shares(void **state) {
    (void)state;
    for (RlMethod m = RL_PPO; m < RL_DPO; m++) {
        const How how[3] = {{2, 1, 1, 0, false}, {2, 1, 2, 1 + (int)m % 2, true}, {2, 2, 1, 0, true}};
        RlCase c = case_of("ref", m);
        equal_under(&c, m == RL_PPO ? how : how + (int)m % 3, m == RL_PPO ? 3 : 1);
    }
}

/* Policy and value net in parts, rollouts from the whole: every method, uneven layers, replicas, ZeRO-1. */
static void test_stages(void **state) {
    (void)state;
    for (RlMethod m = RL_PPO; m < RL_DPO; m++) {
        bool overlap = m / 2 % 2 == 0;
        const How how[3] = {{1, 2, 1, 0, overlap}, {1, 3, 1, 0, overlap}, {1, 2, 2, 1 + (int)m % 2, overlap}};
        RlCase c = case_of(m == RL_GRPO ? "ref" : "cpu", m);
        c.layers = 3, c.recompute = m % 2;
        equal_under(&c, how, 3);
    }
}

/* Stopped by a signal that one rank gets, gone on with another number of ranks; in parts, then whole, and the other way
 * round. */
static void test_resume(void **state) {
    (void)state;
    Str want = {0}, got = {0};
    RlCase c = case_of("cpu", RL_PPO);
    alone(&c, &want);
    for (int stop = 1; stop <= 2; stop++) {
        const How how[2][2] = {{{1, 1, 2, stop, true}, {1, 1, 4, 2 - stop, true}},
                               {{1, stop, 4 / stop, 2, true}, {1, 3 - stop, stop == 1 ? 1 : 2, stop == 1, stop == 1}}};
        for (int i = 0; i < 2; i++) {
            fresh_dir(&c.dir, "resume");
            c.stop_after = stop;
            by_ranks(&c, how[i][0]);
            c.stop_after = 0;
            by_ranks(&c, how[i][1]);
            read_metrics(&got, c.dir.s);
            assert_string_equal(got.s, want.s);
        }
    }
    case_close(&c);
    str_release(&want);
    str_release(&got);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_methods), cmocka_unit_test(test_stages),
                                       cmocka_unit_test(test_shares), cmocka_unit_test(test_resume)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
