/* One iteration of PPO or GRPO by the trainer's own loop: generation, scoring, epochs of minibatches. Random weights
 * and prompts; replies have a fixed length, so no token ends them. Policy, frozen reference, preference model and, for
 * PPO, value are of one size. The first update warms up and is not counted. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/bench.h"
#include "train/ppo.h"

enum { POLICY, REFERENCE, SCORER, VALUE, N_NET };

typedef struct {
    double rollout, score, update, cpu;
} Iteration;

typedef struct {
    Bench *b;
    PpoConfig c;
    PpoSetup s;
    Model m[N_NET];
    Head h[N_NET];
    Net net[N_NET];
    Engine *scorer;
    PpoPmScore pm;
    PpoPrompt *prompt;
    int32_t *tok;
    Iteration *it; /* (updates), the first is warm-up */
    double begun, cpu, warm;
    Meter meter;
} Rl;

static void report(void *ud, const PpoReport *r) {
    Rl *l = ud;
    double cpu = own_cpu_s();
    l->it[r->update - 1] = (Iteration){r->rollout_s, r->score_s, r->update_s, cpu - l->cpu};
    for (int i = 0; i < r->n; i++) CHECK(r->reply[i].n == l->c.max_new, "a reply of %d tokens", r->reply[i].n);
    if (r->update == 1) {
        l->warm = now_s() - l->begun;
        l->meter = meter_start();
    }
    l->cpu = own_cpu_s();
}

static bool open_nets(Rl *l, Error *err) {
    const ModelConfig *c = &l->b->size->cfg;
    int n = l->c.method == RL_PPO ? N_NET : VALUE;
    for (int k = 0; k < n; k++) {
        bool lm = k == POLICY || k == REFERENCE, grads = k == POLICY || k == VALUE;
        uint64_t seed = lm ? 0 : (uint64_t)k;
        if (!model_init(&l->m[k], l->b->machine.be, c, seed, grads, err)) return false;
        l->net[k].trunk = &l->m[k];
        if (!head_init(&l->h[k], &l->m[k], lm ? HEAD_LM : HEAD_SCORE, lm ? c->n_vocab : 1, seed, grads, err))
            return false;
        l->net[k].head = &l->h[k];
        if (grads) net_zero_grads(l->net[k]);
    }
    EngineConfig e = {.max_batch_tok = l->c.max_tok};
    return engine_open(&l->scorer, l->net[SCORER], &e, err);
}

static void configure(Rl *l, bool grpo) {
    const Bench *b = l->b;
    l->c = (PpoConfig){.rollout_weights = b->weights,
                       .method = grpo ? RL_GRPO : RL_PPO,
                       .updates = b->iters + 1,
                       .rollouts = (int)b->seqs,
                       .epochs = (int)b->epochs,
                       .minibatches = (int)(b->seqs / b->minibatch),
                       .max_new = (int)b->n_new,
                       .max_tok = (int)(b->pass > b->plen + b->n_new ? b->pass : b->plen + b->n_new),
                       .beta = grpo ? 0.04 : 0.05,
                       .temperature = 1,
                       .gamma = 1,
                       .lambda = 0.95,
                       .value_weight = 0.1,
                       .value_clip = 0.2,
                       .value_lr = 1,
                       .clip = {0.2, 0.2, 0, 0, 0},
                       .no_end_score = NAN,
                       .whiten_advantages = true,
                       .aggregation = AGG_TOKEN_MEAN,
                       .group = (int)b->group,
                       .group_kind = GROUP_SD,
                       .group_eps = 1e-4,
                       .optim = {1e-5, 0.9, 0.999, 1e-8, 0.01, 1},
                       .schedule = {.kind = SCHED_CONSTANT, .total = b->iters + 1}};
    int n_prompt = (int)((b->iters + 1) * b->seqs / (grpo ? b->group : 1)), len = (int)b->plen;
    l->prompt = mem_alloc((size_t)n_prompt * sizeof *l->prompt);
    l->tok = mem_alloc((size_t)n_prompt * (size_t)len * sizeof *l->tok);
    l->it = mem_alloc((size_t)l->c.updates * sizeof *l->it);
    for (int i = 0; i < n_prompt * len; i++)
        l->tok[i] = (int32_t)rng_below((Rng){0, RNG_TEST}, (uint64_t)i, 0, (uint32_t)b->size->cfg.n_vocab);
    for (int i = 0; i < n_prompt; i++) l->prompt[i] = (PpoPrompt){(uint64_t)i, l->tok + (size_t)i * (size_t)len, len};
    l->pm = (PpoPmScore){NULL, 0, len + l->c.max_new}; /* no room for an end token */
    l->s = (PpoSetup){.prompt = l->prompt,
                      .n_prompt = n_prompt,
                      .end_id = -1,
                      .score_sd = 1,
                      .score = ppo_score_pm,
                      .score_ud = &l->pm,
                      .report = report,
                      .report_ud = l};
}

static double median_field(const Rl *l, int field, double *best) {
    int n = (int)l->b->iters;
    double *v = mem_alloc((size_t)n * sizeof *v);
    for (int i = 0; i < n; i++) {
        const Iteration *t = &l->it[i + 1];
        const double of[] = {t->rollout, t->score, t->update, t->cpu, t->rollout + t->score + t->update};
        v[i] = of[field];
    }
    double med = median_of(v, n);
    if (best) *best = v[0];
    free(v);
    return med;
}

static void say(Rl *l, const char *kind) {
    Bench *b = l->b;
    double best, rollout = median_field(l, 0, NULL), score = median_field(l, 1, NULL),
                 update = median_field(l, 2, NULL);
    double cpu = median_field(l, 3, NULL), all = median_field(l, 4, &best);
    double rate = (double)(b->seqs * b->n_new) / rollout;
    char name[96];
    snprintf(name, sizeof name, "%s/%s/%dx(%d+%d)x%d", kind, b->size->name, (int)b->seqs, (int)b->plen, (int)b->n_new,
             (int)b->epochs);
    Case k;
    case_begin(&k, b, "rl", name, pool_threads(b->machine.pool));
    json_out_str(&k.j, "algo", kind);
    json_out_str(&k.j, "dtype", b->dtype_name);
    json_out_int(&k.j, "seqs", b->seqs);
    json_out_int(&k.j, "minibatch", b->minibatch);
    json_out_num(&k.j, "iter_s", rounded(all, 4));
    json_out_num(&k.j, "iter_s_best", rounded(best, 4));
    json_out_num(&k.j, "rollout_s", rounded(rollout, 4));
    json_out_num(&k.j, "score_s", rounded(score, 4));
    json_out_num(&k.j, "update_s", rounded(update, 4));
    json_out_num(&k.j, "rollout_tok_s", rounded(rate, 1));
    json_out_num(&k.j, "iter_cpu_s", rounded(cpu, 4));
    json_out_num(&k.j, "warm_s", rounded(l->warm, 2));
    json_out_int(&k.j, "iters", b->iters);
    case_end(&k, l->meter,
             "%.3f s an iteration (%.3f CPU seconds) = %.3f rollout (%.0f tok/s) + %.3f scoring + %.3f update", all,
             cpu, rollout, rate, score, update);
}

static bool check(const Bench *b, bool grpo, Error *err) {
    if (b->seqs % b->minibatch)
        return error_set(err, ERR_CONFIG, "--seqs %d is no multiple of --minibatch %d", (int)b->seqs,
                         (int)b->minibatch);
    if (b->plen + b->n_new > b->size->cfg.max_seq)
        return error_set(err, ERR_CONFIG, "--plen %d and --new %d pass the model's context of %d", (int)b->plen,
                         (int)b->n_new, b->size->cfg.max_seq);
    if (grpo && (b->group < 2 || b->seqs % b->group))
        return error_set(err, ERR_CONFIG, "--seqs %d in groups of --group %d: expected whole groups of at least 2",
                         (int)b->seqs, (int)b->group);
    return true;
}

static bool bench_rl(Bench *b, bool grpo, Error *err) {
    if (!check(b, grpo, err)) return false;
    Rl *l = mem_alloc(sizeof *l);
    l->b = b;
    configure(l, grpo);
    bool ok = open_nets(l, err);
    if (ok) {
        l->pm.pm = l->scorer;
        l->s.policy = l->net[POLICY], l->s.reference = l->net[REFERENCE], l->s.value = l->net[VALUE];
        l->begun = now_s();
        l->cpu = own_cpu_s();
        ok = ppo_run(&l->c, &l->s, NULL, NULL, NULL, err);
    }
    if (ok) say(l, grpo ? "grpo" : "ppo");
    engine_close(l->scorer);
    for (int k = 0; k < N_NET; k++) {
        if (l->net[k].head) head_release(&l->h[k]);
        if (l->net[k].trunk) model_release(&l->m[k]);
    }
    free(l->prompt);
    free(l->tok);
    free(l->it);
    free(l);
    return ok;
}

bool bench_ppo(Bench *b, Error *err) { return bench_rl(b, false, err); }
bool bench_grpo(Bench *b, Error *err) { return bench_rl(b, true, err); }
