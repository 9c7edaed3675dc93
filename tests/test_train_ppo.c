// layer: train
/* The plumbing of PPO and GRPO on a tiny net (that it learns is test_train_token_mdp's business): equal bits after a
 * stop or a kill and on any number of threads, scores as configured, the stop at too much KL, and a doctor that notices
 * what it is there for. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/io.h"
#include "base/json.h"
#include "train/rollout.h"

enum { VOCAB = 12, END = 0, GOOD = 3, N_PROMPT = 7, MAX_NEW = 6, SEED = 5 };

typedef struct {
    Pool *pool;
    Backend *be;
    Model m[3]; /* policy, reference, value */
    Head h[3];
    Net net[3];
    int32_t tok[N_PROMPT][4];
    PpoPrompt prompt[N_PROMPT];
    PpoConfig c;
    PpoSetup s;
    /* what the callbacks do and saw */
    Stop *stop;
    int64_t stop_after, crash_at, perturb_at, n_score, n_report;
    int used[N_PROMPT];
    bool check_scores, saw_cut, saw_end, saw_banned;
    int flat_calls; /* so many first calls score every reply alike */
} Fixture;

static void must(bool ok, const Error *err) {
    if (!ok) fail_msg("%s", err->msg);
}

/* Share of the word GOOD; on the way the fixture's accidents happen. */
static bool score_fn(void *ud, const PpoPrompt *p, const Tokens *reply, int n, double *score, Error *err) {
    Fixture *f = ud;
    (void)p;
    int64_t call = f->n_score++;
    for (int i = 0; i < n; i++) {
        double hits = 0;
        for (int t = 0; t < reply[i].n; t++) hits += reply[i].tok[t] == GOOD;
        score[i] = call < f->flat_calls ? 0.1 : 4 * hits / reply[i].n;
    }
    if (call == f->crash_at) return error_set(err, ERR_IO, "pulled the plug");
    if (call == f->perturb_at) { /* as if somebody else wrote the weights between rollout and update */
        double x;
        Tensor w = tensor_cols(tensor_rows(f->m[0].w.norm, 0, 1), 0, 1);
        tensor_get(f->be, &x, w);
        x += 1e-6;
        tensor_set(f->be, w, &x);
    }
    return true;
}

static void report_fn(void *ud, const PpoReport *r) {
    Fixture *f = ud;
    f->n_report++;
    for (int i = 0; i < r->n; i++) {
        const GenResult *g = &r->reply[i];
        double hits = 0;
        f->used[r->prompt[i]->id]++;
        if (rl_methods[f->c.method].groups) assert_ptr_equal(r->prompt[i], r->prompt[i - i % f->c.group]);
        for (int t = 0; t < g->n; t++) {
            hits += g->text[t] == GOOD;
            f->saw_banned = f->saw_banned || (f->s.ban && f->s.ban[g->text[t]]);
        }
        if (!f->check_scores) continue;
        bool ended = g->text[g->n - 1] == END;
        double z = ended ? (4 * hits / g->n - f->s.score_mean) / f->s.score_sd : f->c.no_end_score;
        if (f->c.score_clip > 0) z = fmax(-f->c.score_clip, fmin(f->c.score_clip, z));
        assert_true(r->score[i] == z);
        f->saw_end = f->saw_end || ended;
        f->saw_cut = f->saw_cut || !ended;
    }
    if (r->update == f->stop_after) stop_request(f->stop);
}

static void open_net(Fixture *f, int k, uint64_t seed) {
    Error err = {0};
    ModelConfig c = {.family = FAMILY_LLAMA, .n_layer = 2, .n_head = 4, .n_kv_head = 2, .d_model = 32, .d_head = 8};
    c.d_ff = 48, c.n_vocab = VOCAB, c.max_seq = 32, c.norm = NORM_RMS, c.pos = POS_ROPE, c.mlp = MLP_SWIGLU;
    c.tied = k < 2, c.rope_theta = 10000, c.norm_eps = 1e-5, c.eos_id = END;
    must(model_init(&f->m[k], f->be, &c, seed, k != 1, &err), &err);
    must(head_init(&f->h[k], &f->m[k], k < 2 ? HEAD_LM : HEAD_SCORE, k < 2 ? VOCAB : 1, seed, k != 1, &err), &err);
    f->net[k] = (Net){&f->m[k], &f->h[k], NULL};
}

static void close_nets(Fixture *f) {
    for (int k = 0; k < 3; k++) {
        head_release(&f->h[k]);
        model_release(&f->m[k]);
    }
}

static void open_nets(Fixture *f, uint64_t seed) {
    open_net(f, 0, seed);
    open_net(f, 1, SEED);
    open_net(f, 2, seed + 10);
}

/* backend: "ref", "cpu", or "bf16": cpu with BF16 weights. */
static void fixture_open(Fixture *f, const char *backend, int n_thread) {
    Error err = {0};
    bool half = strcmp(backend, "bf16") == 0;
    *f = (Fixture){.stop_after = -1, .crash_at = -1, .perturb_at = -1};
    must(pool_open(&f->pool, n_thread, &err), &err);
    must(backend_open(&f->be, half ? "cpu" : backend, f->pool, NULL, &err), &err);
    if (half) must(backend_set_dtype(f->be, DTYPE_BF16, &err), &err);
    open_nets(f, SEED);
    for (int p = 0; p < N_PROMPT; p++) {
        for (int t = 0; t < 4; t++) f->tok[p][t] = 4 + (p * 3 + t * 5) % (VOCAB - 4);
        f->prompt[p] = (PpoPrompt){(uint64_t)p, f->tok[p], 2 + p % 3};
    }
    PpoConfig *c = &f->c;
    *c = (PpoConfig){.updates = 6, .rollouts = 14, .epochs = 2, .minibatches = 2, .max_new = MAX_NEW, .max_tok = 64};
    c->beta = 0.1, c->temperature = 0.9, c->gamma = 1, c->lambda = 0.95, c->value_weight = 0.1, c->value_clip = 0.2;
    c->clip = (PpoClip){0.2, 0.2, 3, 0, 0}, c->no_end_score = -1, c->score_clip = 2, c->whiten_advantages = true;
    c->kl_target = 1, c->kl_horizon = 100, c->kl_stop = 100, c->value_lr = 1, c->seed = SEED, c->state_s = 1e9;
    c->optim = (OptimConfig){.lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-5, .clip = 1};
    c->schedule = (Schedule){.kind = SCHED_LINEAR, .total = 6};
    PpoSetup *s = &f->s;
    *s = (PpoSetup){.prompt = f->prompt, .n_prompt = N_PROMPT, .end_id = END, .score_mean = 0.25, .score_sd = 0.5};
    s->score = score_fn, s->score_ud = f, s->report = report_fn, s->report_ud = f;
}

static void as_method(Fixture *f, RlMethod method) {
    const RlMethodInfo *m = &rl_methods[method];
    f->c.method = method;
    f->c.group = 7, f->c.group_kind = GROUP_SD, f->c.kl_by_ratio = true, f->c.group_eps = 1e-4;
    f->c.aggregation = m->aggregation, f->c.level = m->level;
    if (method == RL_REINFORCE_PP) f->c.whiten_unbiased = true;
}

static void as_grpo(Fixture *f) { as_method(f, RL_GRPO); }

/* The methods that roll out. */
#define EACH_METHOD(m) for (RlMethod m = RL_PPO; m < RL_DPO; m++)

static bool run(Fixture *f, const char *dir, Error *err) {
    f->s.policy = f->net[0], f->s.reference = f->net[1];
    f->s.value = rl_methods[f->c.method].value ? f->net[2] : (Net){0};
    f->s.score_ud = f->s.report_ud = f;
    f->s.prompt = f->prompt;
    *err = (Error){0};
    return ppo_run(&f->c, &f->s, dir, NULL, f->stop, err);
}

static void fixture_close(Fixture *f) {
    close_nets(f);
    stop_close(f->stop);
    backend_close(f->be);
    pool_close(f->pool);
}

static void fresh_dir(Str *dir, const char *name) {
    Error err = {0};
    str_clear(dir);
    str_printf(dir, "%s/scratch/train_ppo/%s", BUILD_DIR, name);
    must(io_remove_tree(dir->s, &err) && io_make_dirs(dir->s, &err), &err);
}

/* metrics.jsonl without the times, which end each line. */
static void read_metrics(Str *out, const char *dir) {
    Error err = {0};
    Str path = {0}, all = {0};
    str_clear(out);
    str_printf(&path, "%s/metrics.jsonl", dir);
    must(io_read_file(&all, path.s, 1 << 24, &err), &err);
    for (char *line = all.s; line && *line; line = strchr(line, '\n') + 1) {
        char *cut = strstr(line, ",\"t_s\"");
        assert_non_null(cut);
        str_putn(out, line, (size_t)(cut - line));
        str_put(out, "}\n");
    }
    str_release(&path);
    str_release(&all);
}

static double metric(const Str *metrics, int line, const char *name) {
    Error err = {0};
    const char *at = metrics->s;
    for (; line > 0; line--) at = strchr(at, '\n') + 1;
    Json *j;
    must(json_parse(&j, at, strcspn(at, "\n"), JSON_INT_AS_REAL, "metrics", 1, &err), &err);
    double x = json_num(json_get(j, name), NAN);
    json_release(j);
    return x;
}

/* -- equal bits */

static void resume(const char *backend, RlMethod method) {
    static const char *const ways[] = {"stop", "kill"};
    Error err;
    Fixture a, b;
    Str dir = {0}, metrics_a = {0}, metrics_b = {0};
    fixture_open(&a, backend, 1);
    as_method(&a, method);
    fresh_dir(&dir, "whole");
    must(run(&a, dir.s, &err), &err);
    read_metrics(&metrics_a, dir.s);
    assert_false(doctor_same_weights(a.net[0], a.net[1]));
    assert_true(metric(&metrics_a, 5, "beta") != 0.1); /* the controller's state is part of what must come back */
    for (int way = 0; way < COUNT_OF(ways); way++) {
        fixture_open(&b, backend, 1);
        as_method(&b, method);
        b.c.state_updates = 3;
        fresh_dir(&dir, ways[way]);
        if (way == 0) {
            must(stop_open(&b.stop, &err), &err);
            b.stop_after = 2;
        } else {
            b.crash_at = 4; /* during update 5; the state is that of update 3 */
        }
        assert_false(run(&b, dir.s, &err));
        assert_int_equal(err.code, way == 0 ? ERR_STOPPED : ERR_IO);
        stop_close(b.stop);
        b.stop = NULL;
        b.crash_at = -1;
        close_nets(&b);
        open_nets(&b, SEED + 1); /* the new process brings other weights; the state's win */
        int64_t reports = b.n_report;
        must(run(&b, dir.s, &err), &err);
        assert_int_equal(b.n_report - reports, way == 0 ? 4 : 3);
        read_metrics(&metrics_b, dir.s);
        assert_string_equal(metrics_a.s, metrics_b.s);
        assert_true(doctor_same_weights(a.net[0], b.net[0]));
        assert_true(!rl_methods[method].value || doctor_same_weights(a.net[2], b.net[2]));
        fixture_close(&b);
    }
    fixture_close(&a);
    str_release(&dir);
    str_release(&metrics_a);
    str_release(&metrics_b);
}

static void test_resume(void **state) {
    (void)state;
    static const char *const backend[] = {"cpu", "bf16"};
    for (int i = 0; i < COUNT_OF(backend); i++) EACH_METHOD(m) resume(backend[i], m);
}

static void threads(const char *backend, RlMethod method) {
    Error err;
    Fixture f[2];
    Str dir = {0}, metrics[2] = {{0}, {0}};
    for (int k = 0; k < 2; k++) {
        fixture_open(&f[k], backend, k + 1);
        as_method(&f[k], method);
        f[k].c.keep = k ? KEEP_INPUTS : KEEP_ALL;
        f[k].c.updates = 3;
        fresh_dir(&dir, "threads");
        must(run(&f[k], dir.s, &err), &err);
        read_metrics(&metrics[k], dir.s);
    }
    assert_string_equal(metrics[0].s, metrics[1].s);
    assert_true(doctor_same_weights(f[0].net[0], f[1].net[0]) && doctor_same_weights(f[0].net[2], f[1].net[2]));
    for (int k = 0; k < 2; k++) {
        fixture_close(&f[k]);
        str_release(&metrics[k]);
    }
    str_release(&dir);
}

static void test_threads(void **state) {
    (void)state;
    static const char *const backend[] = {"cpu", "bf16"};
    for (int i = 0; i < COUNT_OF(backend); i++) EACH_METHOD(m) threads(backend[i], m);
}

/* A minibatch in one pass or in many: the same sums to rounding, on both backends; the first rollout to the bit. */
static void passes(RlMethod method) {
    const char *const fields[] = {"policy_loss",
                                  method == RL_PPO    ? "value_loss"
                                  : method == RL_GRPO ? "kl_k3"
                                                      : "ratio",
                                  "approx_kl", "grad_norm", "entropy"};
    Error err;
    for (int back = 0; back < 2; back++) {
        Str dir = {0}, metrics[2] = {{0}, {0}};
        for (int k = 0; k < 2; k++) {
            Fixture f;
            fixture_open(&f, back ? "ref" : "cpu", 1);
            as_method(&f, method);
            f.c.updates = 2;
            f.c.max_tok = k ? 1000 : 10;
            fresh_dir(&dir, "passes");
            must(run(&f, dir.s, &err), &err);
            read_metrics(&metrics[k], dir.s);
            fixture_close(&f);
        }
        assert_true(metric(&metrics[0], 0, "score") == metric(&metrics[1], 0, "score"));
        assert_true(metric(&metrics[0], 0, "kl") == 0); /* policy = reference before the first update */
        assert_true(metric(&metrics[0], 1, "kl") != 0);
        for (int i = 0; i < COUNT_OF(fields); i++) {
            double x = metric(&metrics[0], 0, fields[i]), y = metric(&metrics[1], 0, fields[i]);
            assert_true(fabs(x - y) <= (back ? 1e-7 : 2e-5) * fmax(fabs(x), 1e-2));
        }
        str_release(&metrics[0]);
        str_release(&metrics[1]);
        str_release(&dir);
    }
}

static void test_passes(void **state) {
    (void)state;
    EACH_METHOD(m) passes(m); /* where one pass holds whole groups, they share their prompts' rows */
}

/* One optimizer over both nets: the joint norm is that of the policy's and c_v times the value's gradient. */
static void test_value_weight(void **state) {
    (void)state;
    Error err;
    Str dir = {0}, metrics = {0};
    double square[3];
    for (int k = 0; k < 3; k++) {
        Fixture f;
        fixture_open(&f, "ref", 1);
        f.c.updates = f.c.epochs = f.c.minibatches = 1;
        f.c.value_weight = 0.1 * k;
        fresh_dir(&dir, "value_weight");
        must(run(&f, dir.s, &err), &err);
        read_metrics(&metrics, dir.s);
        square[k] = pow(metric(&metrics, 0, "grad_norm"), 2);
        fixture_close(&f);
    }
    assert_true(square[0] > 0 && square[1] > square[0]);
    assert_true(fabs((square[2] - square[0]) / (square[1] - square[0]) - 4) < 1e-6);
    str_release(&dir);
    str_release(&metrics);
}

/* A value net whose output is read as (u - 0.7) / 3 learns what a plain one learns from scores that are 3 times as
 * large and 0.7 higher, with a gradient 9 times as small. */
static double value_gradient(double shift, double scale, double score_mean, double score_sd) {
    Error err;
    Str dir = {0}, metrics = {0};
    double square[2];
    for (int k = 0; k < 2; k++) {
        Fixture f;
        fixture_open(&f, "ref", 1);
        f.c.updates = f.c.epochs = f.c.minibatches = 1;
        f.c.value_weight = k, f.c.value_clip = 0, f.c.lambda = 1, f.c.beta = 0, f.c.kl_target = 0;
        f.c.no_end_score = NAN, f.c.score_clip = 0;
        f.c.value_shift = shift, f.c.value_scale = scale;
        f.s.score_mean = score_mean, f.s.score_sd = score_sd;
        fresh_dir(&dir, "value_unit");
        must(run(&f, dir.s, &err), &err);
        read_metrics(&metrics, dir.s);
        square[k] = pow(metric(&metrics, 0, "grad_norm"), 2);
        fixture_close(&f);
    }
    str_release(&dir);
    str_release(&metrics);
    return sqrt(square[1] - square[0]);
}

static void test_value_unit(void **state) {
    (void)state;
    double read = value_gradient(0.7, 3, 0.25, 0.5), plain = value_gradient(0, 0, 0.25 - 0.7 * 0.5 / 3, 0.5 / 3);
    assert_true(read > 0 && fabs(plain / read / 9 - 1) < 1e-6);
}

/* -- what goes in */

static void test_scores_and_prompts(void **state) {
    (void)state;
    Error err;
    Fixture f;
    Str dir = {0}, metrics = {0};
    fixture_open(&f, "cpu", 1);
    f.check_scores = true;
    uint8_t ban[VOCAB] = {0};
    ban[5] = ban[7] = 1;
    f.s.ban = ban;
    f.c.kl_target = 0;
    fresh_dir(&dir, "scores");
    must(run(&f, dir.s, &err), &err);
    assert_true(f.saw_end && f.saw_cut);
    assert_false(f.saw_banned);
    for (int p = 0; p < N_PROMPT; p++) assert_int_equal(f.used[p], 6 * 14 / N_PROMPT); /* every epoch uses each once */
    read_metrics(&metrics, dir.s);
    for (int i = 0; i < 6; i++) {
        assert_true(metric(&metrics, i, "step") == i + 1 && metric(&metrics, i, "beta") == 0.1);
        assert_true(fabs(metric(&metrics, i, "lr") - 3e-3 * (6 - i) / 6) < 1e-15); /* linear to 0 over the updates */
        assert_true(metric(&metrics, i, "skipped") == 0);
        double end = metric(&metrics, i, "end_share"), length = metric(&metrics, i, "length");
        assert_true(end > 0 && end < 1 && length >= 1 && length <= MAX_NEW);
    }
    fixture_close(&f);
    str_release(&dir);
    str_release(&metrics);
}

/* Prompts in turn, each for a whole group; a metric for what GRPO has and none for what it has not. */
static void test_groups(void **state) {
    (void)state;
    Error err;
    Fixture f;
    Str dir = {0}, metrics = {0};
    fixture_open(&f, "cpu", 1);
    as_grpo(&f);
    f.c.updates = 7; /* 14 groups: every prompt twice */
    fresh_dir(&dir, "groups");
    must(run(&f, dir.s, &err), &err);
    for (int p = 0; p < N_PROMPT; p++) assert_int_equal(f.used[p], 2 * 7);
    read_metrics(&metrics, dir.s);
    assert_true(metric(&metrics, 0, "kl") == 0 && metric(&metrics, 0, "flat_groups") < 1);
    assert_true(metric(&metrics, 6, "kl_k3") > 0 && isnan(metric(&metrics, 6, "value_loss")));
    assert_true(isnan(metric(&metrics, 6, "explained_variance")));
    fixture_close(&f);
    str_release(&dir);
    str_release(&metrics);
}

/* The four aggregations of one rollout's gradient: sums over replies, by replies, by tokens, by what could have been.
 */
static void test_aggregations(void **state) {
    (void)state;
    Error err;
    Str dir = {0}, metrics = {0};
    double norm[4], length = 0;
    for (int k = 0; k < 4; k++) {
        Fixture f;
        fixture_open(&f, "ref", 1);
        as_grpo(&f);
        f.c.updates = f.c.epochs = f.c.minibatches = 1;
        f.c.aggregation = (Aggregation)k;
        fresh_dir(&dir, "aggregations");
        must(run(&f, dir.s, &err), &err);
        read_metrics(&metrics, dir.s);
        norm[k] = metric(&metrics, 0, "grad_norm");
        length = metric(&metrics, 0, "length");
        fixture_close(&f);
    }
    assert_true(fabs(norm[AGG_SEQ_MEAN_TOKEN_SUM] / norm[AGG_TOKEN_MEAN] / length - 1) < 1e-9);
    assert_true(fabs(norm[AGG_SEQ_MEAN_TOKEN_SUM] / norm[AGG_SEQ_SUM_NORM] / MAX_NEW - 1) < 1e-9);
    double mean = norm[AGG_SEQ_MEAN_TOKEN_MEAN];
    assert_true(mean < norm[AGG_SEQ_MEAN_TOKEN_SUM] && mean > norm[AGG_SEQ_SUM_NORM]);
    assert_true(fabs(mean / norm[AGG_TOKEN_MEAN] - 1) > 1e-3);
    str_release(&dir);
    str_release(&metrics);
}

/* Equal scores teach nothing: while the policy is the reference, not one bit of it changes. */
static void test_flat_groups(void **state) {
    (void)state;
    Error err;
    Fixture f;
    Str dir = {0}, metrics = {0};
    fixture_open(&f, "cpu", 1);
    as_grpo(&f);
    f.c.updates = 3;
    f.c.no_end_score = NAN;
    f.flat_calls = 2;
    fresh_dir(&dir, "flat");
    must(run(&f, dir.s, &err), &err);
    read_metrics(&metrics, dir.s);
    for (int i = 0; i < 2; i++)
        assert_true(metric(&metrics, i, "flat_groups") == 1 && metric(&metrics, i, "grad_norm") == 0);
    assert_true(metric(&metrics, 1, "kl") == 0 && metric(&metrics, 2, "kl") == 0);
    assert_true(metric(&metrics, 2, "flat_groups") == 0 && metric(&metrics, 2, "grad_norm") > 0);
    assert_false(doctor_same_weights(f.net[0], f.net[1]));
    fixture_close(&f);
    str_release(&dir);
    str_release(&metrics);
}

static void test_pm_score(void **state) {
    (void)state;
    Error err = {0};
    Fixture f;
    Engine *e;
    EngineConfig ec = {0};
    fixture_open(&f, "cpu", 1);
    must(engine_open(&e, f.net[2], &ec, &err), &err);
    int32_t ended[] = {5, 6, END}, cut[] = {8, 9};
    Tokens reply[2] = {{ended, 3}, {cut, 2}};
    PpoPmScore pm = {e, END, 32};
    double score[2];
    must(ppo_score_pm(&pm, f.prompt, reply, 2, score, &err), &err);
    int32_t seq[2][8];
    Tokens want[2];
    float out[2];
    for (int i = 0; i < 2; i++) {
        int n = f.prompt[i].n;
        memcpy(seq[i], f.prompt[i].tok, (size_t)n * sizeof(int32_t));
        memcpy(seq[i] + n, reply[i].tok, (size_t)reply[i].n * sizeof(int32_t));
        n += reply[i].n;
        if (i == 1) seq[i][n++] = END;
        want[i] = (Tokens){seq[i], n};
    }
    must(engine_score_last(e, want, 2, out, &err), &err);
    assert_true(score[0] == out[0] && score[1] == out[1] && out[0] != out[1]);
    engine_close(e);
    fixture_close(&f);
}

static void test_bad_setup(void **state) {
    (void)state;
    Error err;
    Fixture f;
    Str dir = {0};
    fixture_open(&f, "cpu", 1);
    fresh_dir(&dir, "bad");
    f.c.max_tok = 9; /* prompts 2 and 5 have 4 tokens */
    assert_false(run(&f, dir.s, &err));
    assert_true(err.code == ERR_CONFIG && strstr(err.msg, "prompt 2 of 4 tokens"));
    f.c.max_tok = 64;
    f.c.max_new = 30;
    assert_false(run(&f, dir.s, &err));
    assert_true(err.code == ERR_CONFIG && strstr(err.msg, "context of 32"));
    f.c.max_new = MAX_NEW;
    f.c.temperature = 0;
    assert_false(run(&f, dir.s, &err));
    assert_true(err.code == ERR_CONFIG && strstr(err.msg, "temperature"));
    f.c.temperature = 1;
    as_grpo(&f);
    for (int group = 1; group < 6; group += 4) { /* nobody to compare with; a group cut in two */
        f.c.group = group;
        assert_false(run(&f, dir.s, &err));
        assert_true(err.code == ERR_CONFIG && strstr(err.msg, "14 rollouts in groups of"));
    }
    fixture_close(&f);
    str_release(&dir);
}

/* -- too far */

/* No penalty and a high rate: some rollout passes kl_stop, and the policy is then that of the rollout before. */
static void test_kl_stop(void **state) {
    (void)state;
    Error err;
    Fixture f, g;
    Str dir = {0};
    fixture_open(&f, "cpu", 1);
    f.c.updates = 40, f.c.beta = 0, f.c.kl_target = 0, f.c.kl_stop = 1.5, f.c.optim.lr = 1e-2;
    f.c.schedule = (Schedule){.kind = SCHED_CONSTANT, .total = 40};
    bool by_kl = false;
    f.s.stopped_by_kl = &by_kl;
    fresh_dir(&dir, "far");
    assert_false(run(&f, dir.s, &err));
    assert_int_equal(err.code, ERR_DIVERGED);
    assert_true(by_kl);
    long long updates = 0;
    const char *at = strstr(err.msg, "after ");
    assert_non_null(at);
    updates = strtoll(at + 6, NULL, 10);
    assert_true(updates > 1 && updates < 40);
    assert_non_null(strstr(err.msg, "penalty"));
    fixture_open(&g, "cpu", 1);
    g.c = f.c;
    g.c.updates = updates - 1;
    fresh_dir(&dir, "far_before");
    must(run(&g, dir.s, &err), &err);
    assert_true(doctor_same_weights(f.net[0], g.net[0]));
    fixture_close(&f);
    fixture_close(&g);
    str_release(&dir);
}

/* -- the doctor */

static void test_weights_changed(void **state) {
    static const char *const names[] = {"ref", "cpu"};
    (void)state;
    for (int k = 0; k < 2; k++) {
        Error err;
        Fixture f;
        Str dir = {0};
        fixture_open(&f, names[k], 1);
        f.perturb_at = 1; /* the second rollout; one weight by a millionth */
        fresh_dir(&dir, "perturbed");
        assert_false(run(&f, dir.s, &err));
        assert_int_equal(err.code, ERR_STATE);
        assert_non_null(strstr(err.msg, "the weights changed between rollout and update"));
        fixture_close(&f);
        str_release(&dir);
    }
}

/* A backend that multiplies by the weight instead of skipping the row. */
static void careless_bwd(Backend *be, Tensor logits, const int32_t *target, Tensor dlogp, float temp) {
    (void)be, (void)target, (void)temp;
    for (int64_t i = 0; i < logits.rows; i++)
        for (int64_t j = 0; j < logits.cols; j++)
            ((double *)logits.data)[i * logits.ld + j] *= ((double *)dlogp.data)[i * dlogp.ld];
}

static void test_doctor_zero_weight(void **state) {
    (void)state;
    Error err = {0};
    Fixture f;
    fixture_open(&f, "ref", 1);
    assert_true(doctor_zero_weight(f.be, &err));
    BackendOps ops = *f.be->op;
    const BackendOps *real = f.be->op;
    ops.logprob_bwd = careless_bwd;
    f.be->op = &ops;
    assert_false(doctor_zero_weight(f.be, &err));
    assert_non_null(strstr(err.msg, "weight 0"));
    f.be->op = real;
    fixture_close(&f);
}

/* Rollouts from rounded weights: the gap of their log-probs is measured, coarser weights have a larger one, and none is
 * there when the weights are the policy's own. */
static void test_rounded_rollouts(void **state) {
    (void)state;
    static const DType weights[] = {DTYPE_F32, DTYPE_BF16, DTYPE_I8};
    Str dir = {0}, metrics = {0};
    Error err = {0};
    for (int method = RL_PPO; method <= RL_GRPO; method++) {
        double gap[COUNT_OF(weights)];
        for (int k = 0; k < COUNT_OF(weights); k++) {
            Fixture f;
            fixture_open(&f, "cpu", 1);
            as_method(&f, (RlMethod)method);
            f.c.rollout_weights = weights[k];
            fresh_dir(&dir, "rounded");
            must(run(&f, dir.s, &err), &err);
            read_metrics(&metrics, dir.s);
            gap[k] = metric(&metrics, 1, "rollout_gap");
            fixture_close(&f);
        }
        assert_true(isnan(gap[0]));
        assert_true(gap[1] > 1e-6 && gap[1] < gap[2] && gap[2] < 0.1);
    }
    str_release(&dir);
    str_release(&metrics);
}

/* -- what only some runs switch on */

/* While the value net warms up, the policy keeps its bits; both learn after that, and a stop within changes nothing. */
static void test_value_warmup(void **state) {
    (void)state;
    Error err;
    Str dir = {0}, metrics[2] = {{0}, {0}};
    for (int way = 0; way < 2; way++) {
        Fixture f;
        fixture_open(&f, "cpu", 1);
        f.c.value_warmup = 3;
        f.c.optim.weight_decay = 0.1; /* would move a policy without gradients */
        fresh_dir(&dir, "warmup");
        if (way) {
            must(stop_open(&f.stop, &err), &err);
            f.stop_after = 2;
            assert_false(run(&f, dir.s, &err));
            assert_true(doctor_same_weights(f.net[0], f.net[1]));
            stop_close(f.stop);
            f.stop = NULL;
            close_nets(&f);
            open_nets(&f, SEED + 1);
        }
        must(run(&f, dir.s, &err), &err);
        read_metrics(&metrics[way], dir.s);
        assert_false(doctor_same_weights(f.net[0], f.net[1]));
        fixture_close(&f);
    }
    for (int i = 0; i < 4; i++)
        assert_true(metric(&metrics[0], i, "kl") == 0 &&
                    metric(&metrics[0], i, "ratio") == (i < 3 ? 1 : metric(&metrics[0], 3, "ratio")));
    assert_true(metric(&metrics[0], 4, "kl") != 0);
    assert_true(metric(&metrics[0], 2, "value_loss") < metric(&metrics[0], 0, "value_loss"));
    assert_string_equal(metrics[0].s, metrics[1].s);
    str_release(&dir);
    for (int way = 0; way < 2; way++) str_release(&metrics[way]);
}

/* The mix: with scores that teach nothing only its texts do, more with more weight, and their loss falls. */
static void test_mix(void **state) {
    (void)state;
    Error err;
    Str dir = {0}, metrics = {0};
    int32_t text[12];
    float weight[12];
    double norm[2];
    for (int t = 0; t < 12; t++) text[t] = 2 + t % 3, weight[t] = t > 0;
    for (int k = 0; k < 2; k++) {
        Fixture f;
        SampleSet mix;
        fixture_open(&f, "cpu", 1);
        samples_init(&mix, 1);
        for (int i = 0; i < 4; i++) samples_add(&mix, text + i % 3, weight, 9, (uint64_t)i, 0, 1);
        as_grpo(&f);
        f.c.mix_weight = k ? 4 : 2, f.c.no_end_score = NAN, f.c.updates = 12, f.c.optim.clip = 0, f.c.beta = 0;
        f.c.kl_target = 0;
        f.flat_calls = 100;
        f.s.mix = &mix;
        fresh_dir(&dir, "mix");
        must(run(&f, dir.s, &err), &err);
        read_metrics(&metrics, dir.s);
        norm[k] = metric(&metrics, 0, "grad_norm");
        assert_true(metric(&metrics, 11, "mix_loss") < 0.7 * metric(&metrics, 0, "mix_loss"));
        samples_release(&mix);
        fixture_close(&f);
    }
    assert_true(norm[1] > 1.2 * norm[0]);
    str_release(&dir);
    str_release(&metrics);
}

/* Cut replies: the score is replaced (test_scores_and_prompts), lowered, or kept. */
static void test_no_end(void **state) {
    (void)state;
    Error err;
    Str dir = {0}, metrics = {0};
    double score[3], cut = 0;
    for (int k = 0; k < 3; k++) {
        Fixture f;
        fixture_open(&f, "cpu", 1);
        f.c.updates = 1, f.c.score_clip = 0;
        f.c.no_end_score = k ? -0.5 * (k - 1) : NAN, f.c.no_end_adds = true;
        fresh_dir(&dir, "no_end");
        must(run(&f, dir.s, &err), &err);
        read_metrics(&metrics, dir.s);
        score[k] = metric(&metrics, 0, "score");
        cut = 1 - metric(&metrics, 0, "end_share");
        fixture_close(&f);
    }
    assert_true(score[0] == score[1] && cut > 0);
    assert_true(fabs(score[1] - score[2] - 0.5 * cut) < 1e-12);
    str_release(&dir);
    str_release(&metrics);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_rounded_rollouts),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_passes),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_flat_groups),
        cmocka_unit_test(test_aggregations),
        cmocka_unit_test(test_pm_score),
        cmocka_unit_test(test_value_weight),
        cmocka_unit_test(test_value_unit),
        cmocka_unit_test(test_scores_and_prompts),
        cmocka_unit_test(test_bad_setup),
        cmocka_unit_test(test_kl_stop),
        cmocka_unit_test(test_weights_changed),
        cmocka_unit_test(test_value_warmup),
        cmocka_unit_test(test_mix),
        cmocka_unit_test(test_no_end),
        cmocka_unit_test(test_doctor_zero_weight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
