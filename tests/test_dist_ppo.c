// layer: train
/* Policy-gradient methods by several ranks: replies dealt by prompt, passes dealt by number, policy and value in one
 * pipeline; the bits of one rank. */
#include <math.h>

#include "dist_help.h"

#include "base/io.h"
#include "nn/regroup.h"
#include "train/ppo.h"

enum { VOCAB = 12, END = 0, GOOD = 3, N_PROMPT = 7, MAX_NEW = 6, SEED = 5 };

typedef struct {
    const char *backend;
    RlMethod method;
    int shard;
    bool overlap, mix, recompute;
    int layers, pp, tp; /* 0: two, one, one */
    int64_t warmup;
    const char *dir;
    int64_t state_updates;
    int stop_after; /* updates, by rank 0's signal; 0: never */
    Str want;       /* policy and value of one rank */
} Case;

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

static bool nets_open(Nets *n, const Case *c, const Mesh *mesh, Error *err) {
    *n = (Nets){.pool = NULL};
    if (!pool_open(&n->pool, 1, err) || !backend_open(&n->be, c->backend, n->pool, NULL, err)) return false;
    Mesh share = mesh_divides(mesh) ? mesh_share(mesh) : (Mesh){0};
    const Mesh *looks = mesh_divides(mesh) ? &share : NULL; /* the reference: all layers */
    for (int k = 0; k < 3; k++) {
        ModelConfig m = {.family = FAMILY_LLAMA, .n_layer = 2, .n_head = 4, .n_kv_head = 2, .d_model = 32, .d_head = 8};
        m.d_ff = 48, m.n_vocab = VOCAB, m.max_seq = 32, m.norm = NORM_RMS, m.pos = POS_ROPE, m.mlp = MLP_SWIGLU;
        m.tied = k < 2, m.rope_theta = 10000, m.norm_eps = 1e-5, m.eos_id = END;
        uint64_t seed = k < 2 ? SEED : SEED + 10;
        if (c->layers > 0) m.n_layer = c->layers;
        if (!model_init_on(&n->m[k], n->be, &m, k == 1 ? looks : mesh, seed, k != 1, err) ||
            !head_init(&n->h[k], &n->m[k], k < 2 ? HEAD_LM : HEAD_SCORE, k < 2 ? VOCAB : 1, seed, k != 1, err))
            return false;
        n->net[k] = (Net){&n->m[k], &n->h[k], NULL};
    }
    for (int p = 0; p < N_PROMPT; p++) {
        for (int t = 0; t < 4; t++) n->tok[p][t] = 4 + (p * 3 + t * 5) % (VOCAB - 4);
        n->prompt[p] = (PpoPrompt){(uint64_t)p, n->tok[p], 2 + p % 3};
    }
    samples_init(&n->mix, 1);
    float weight[8] = {0, 1, 1, 1, 1, 1, 1, 1};
    for (int i = 0; i < 20; i++) {
        int32_t tok[8];
        for (int t = 0; t < 8; t++) tok[t] = 1 + (i * 7 + t * 3) % (VOCAB - 1);
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

static bool run(Nets *n, const Case *c, const Mesh *mesh, Error *err) {
    const RlMethodInfo *m = &rl_methods[c->method];
    PpoConfig p = {
        .method = c->method, .updates = 3, .rollouts = 14, .epochs = 2, .minibatches = 2, .max_new = MAX_NEW};
    p.max_tok = 32, p.beta = 0.1, p.temperature = 0.9, p.gamma = 1, p.lambda = 0.95, p.value_weight = 0.1;
    p.value_clip = 0.2, p.clip = (PpoClip){0.2, 0.2, 3, 0, 0}, p.no_end_score = -1, p.score_clip = 2;
    p.whiten_advantages = true, p.kl_target = 1, p.kl_horizon = 100, p.kl_stop = 100, p.value_lr = 1, p.seed = SEED;
    p.state_s = 1e9, p.optim = (OptimConfig){.lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-5, .clip = 1};
    p.schedule = (Schedule){.kind = SCHED_LINEAR, .total = 6};
    p.group = 7, p.group_kind = GROUP_SD, p.kl_by_ratio = true, p.group_eps = 1e-4;
    p.aggregation = m->aggregation, p.level = m->level, p.value_warmup = c->warmup;
    p.mix_weight = c->mix ? 0.3 : 0, p.mesh = mesh, p.shard = c->shard, p.overlap = c->overlap,
    p.state_updates = c->state_updates;
    p.keep = c->recompute ? KEEP_INPUTS : KEEP_ALL;
    PpoSetup s = {.prompt = n->prompt, .n_prompt = N_PROMPT, .end_id = END, .score_mean = 0.25, .score_sd = 0.5};
    s.score = score_fn, s.report = report_fn, s.report_ud = n, s.mix = &n->mix;
    s.policy = n->net[0], s.reference = n->net[1];
    if (m->value) s.value = n->net[2];
    return ppo_run(&p, &s, c->dir, NULL, n->stop, err);
}

typedef struct {
    Backend *be;
    Str *out;
} Bytes;

static void put_weights(void *ud, int index, const ParamInfo *p) {
    Bytes *b = ud;
    int64_t n = tensor_count(p->w);
    double *x = mem_alloc((size_t)n * sizeof *x);
    (void)index;
    tensor_get(b->be, x, p->w);
    str_putn(b->out, x, (size_t)n * sizeof *x);
    free(x);
}

static bool whole_weights(Str *out, Nets *n, Net net, const Mesh *mesh, Error *err) {
    Regroup *r = NULL;
    if (!model_is_whole(net.trunk) && (!regroup_open(&r, net, mesh, true, err) || !regroup_refresh(r, err)))
        return false;
    net_visit(r ? regroup_net(r) : net, put_weights, &(Bytes){n->be, out});
    regroup_close(r);
    return true;
}

static bool weights_of(Str *out, Nets *n, const Mesh *mesh, Error *err) {
    str_clear(out);
    return whole_weights(out, n, n->net[0], mesh, err) && whole_weights(out, n, n->net[2], mesh, err);
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
    const Case *c = r->ud;
    Error err = {0};
    Nets n;
    Mesh mesh;
    Str got = {0};
    bool ok = mesh_open(&mesh, r->world, NULL, c->tp > 0 ? c->tp : 1, 1, c->pp > 0 ? c->pp : 1, &err) &&
              nets_open(&n, c, &mesh, &err);
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
        expect(r, got.n == c->want.n && (c->tp > 1 ? near(&got, &c->want) : !memcmp(got.s, c->want.s, got.n)));
    }
    expect(r, r->rank == 0 ? n.n_report > 0 : n.n_report == 0);
    str_release(&got);
    nets_close(&n);
}

static void fresh(Str *dir, const char *name) {
    Error err = {0};
    str_clear(dir);
    str_printf(dir, "%s/scratch/dist_ppo/%s", BUILD_DIR, name);
    if (!io_remove_tree(dir->s, &err) || !io_make_dirs(dir->s, &err)) fail_msg("%s", err.msg);
}

static void metrics_of(Str *out, const char *dir) {
    Error err = {0};
    Str path = {0}, all = {0};
    str_clear(out);
    str_printf(&path, "%s/metrics.jsonl", dir);
    if (!io_read_file(&all, path.s, 1 << 24, &err)) fail_msg("%s", err.msg);
    for (char *line = all.s; line && *line; line = strchr(line, '\n') + 1) {
        char *cut = strstr(line, ",\"t_s\"");
        assert_non_null(cut);
        str_putn(out, line, (size_t)(cut - line));
        str_putc(out, '\n');
    }
    str_release(&path);
    str_release(&all);
}

static void alone(Case *c, Str *dir, Str *metrics) {
    Error err = {0};
    Nets n;
    fresh(dir, "alone");
    c->dir = dir->s;
    if (!nets_open(&n, c, NULL, &err) || !run(&n, c, NULL, &err) || !weights_of(&c->want, &n, NULL, &err))
        fail_msg("%s", err.msg);
    nets_close(&n);
    metrics_of(metrics, c->dir);
}

static void test_methods(void **state) {
    (void)state;
    static const int ranks[] = {2, 3, 4};
    Str dir = {0}, want = {0}, got = {0};
    for (RlMethod m = RL_PPO; m < RL_DPO; m++) {
        Case c = {.backend = m == RL_GRPO ? "ref" : "cpu", .method = m, .mix = m != RL_RLOO, .warmup = m == RL_PPO};
        alone(&c, &dir, &want);
        for (int k = 0; k < COUNT_OF(ranks); k++) {
            c.shard = (k + (int)m) % 3, c.overlap = (k + (int)m) % 2;
            fresh(&dir, "many");
            c.dir = dir.s;
            with_ranks(ranks[k], ppo_rank, &c);
            metrics_of(&got, dir.s);
            assert_string_equal(got.s, want.s);
        }
        str_release(&c.want);
    }
    str_release(&dir);
    str_release(&want);
    str_release(&got);
}

/* Policy and value net in shares, of stages too; rollouts from shares, whose log-probs are training's to the bit
 * (doctor). */
static void test_shares(void **state) {
    (void)state;
    static const struct { int tp, pp, dp; } layout[] = {{2, 1, 1}, {2, 1, 2}, {2, 2, 1}};
    Str dir = {0}, want = {0};
    for (RlMethod m = RL_PPO; m < RL_DPO; m++) {
        Case c = {.backend = "ref", .method = m, .mix = m != RL_RLOO, .warmup = m == RL_PPO};
        alone(&c, &dir, &want);
        for (int k = 0; k < COUNT_OF(layout); k++) {
            if (m != RL_PPO && (int)m % COUNT_OF(layout) != k) continue;
            c.tp = layout[k].tp, c.pp = layout[k].pp, c.shard = k == 1 ? 1 + (int)m % 2 : 0, c.overlap = k;
            fresh(&dir, "shares");
            c.dir = dir.s;
            with_ranks(c.tp * c.pp * layout[k].dp, ppo_rank, &c);
        }
        str_release(&c.want);
    }
    str_release(&dir);
    str_release(&want);
}

/* Policy and value net in parts, rollouts from the whole: every method, uneven layers, replicas, ZeRO-1. */
static void test_stages(void **state) {
    (void)state;
    static const struct { int pp, dp; } layout[] = {{2, 1}, {3, 1}, {2, 2}};
    Str dir = {0}, want = {0}, got = {0};
    for (RlMethod m = RL_PPO; m < RL_DPO; m++) {
        Case c = {.backend = m == RL_GRPO ? "ref" : "cpu", .method = m, .mix = m != RL_RLOO, .warmup = m == RL_PPO};
        c.layers = 3, c.recompute = m % 2;
        alone(&c, &dir, &want);
        for (int k = 0; k < COUNT_OF(layout); k++) {
            c.pp = layout[k].pp, c.shard = k == 2 ? 1 + (int)m % 2 : 0, c.overlap = m / 2 % 2 == 0;
            fresh(&dir, "many");
            c.dir = dir.s;
            with_ranks(layout[k].pp * layout[k].dp, ppo_rank, &c);
            metrics_of(&got, dir.s);
            assert_string_equal(got.s, want.s);
        }
        str_release(&c.want);
    }
    str_release(&dir);
    str_release(&want);
    str_release(&got);
}

/* Stopped by a signal that one rank gets, gone on with another number of ranks. */
static void test_resume(void **state) {
    (void)state;
    Str dir = {0}, want = {0}, got = {0};
    Case c = {.backend = "cpu", .method = RL_PPO, .warmup = 1};
    alone(&c, &dir, &want);
    for (int stop = 1; stop <= 2; stop++) {
        fresh(&dir, "resume");
        c.dir = dir.s, c.stop_after = stop, c.shard = stop, c.overlap = true;
        with_ranks(2, ppo_rank, &c);
        c.stop_after = 0, c.shard = 2 - stop;
        with_ranks(4, ppo_rank, &c);
        metrics_of(&got, dir.s);
        assert_string_equal(got.s, want.s);
        fresh(&dir, "resume"); /* in parts, then whole, and the other way round */
        c.dir = dir.s, c.stop_after = stop, c.pp = stop, c.shard = 2;
        with_ranks(4, ppo_rank, &c);
        c.stop_after = 0, c.pp = 3 - stop, c.shard = stop == 1, c.overlap = stop == 1;
        with_ranks(2, ppo_rank, &c);
        c.pp = 0;
        metrics_of(&got, dir.s);
        assert_string_equal(got.s, want.s);
    }
    str_release(&c.want);
    str_release(&dir);
    str_release(&want);
    str_release(&got);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_methods), cmocka_unit_test(test_stages),
                                       cmocka_unit_test(test_shares), cmocka_unit_test(test_resume)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
