/* From scores to advantages, by method (rl_methods[]). */
#include <math.h>
#include <stdlib.h>

#include "train/rollout.h"

const RlMethodInfo rl_methods[RL_METHODS] = {
    // clang-format off
    {"ppo",                   true,  true,  false, KL_IN_TOKENS, RATIO_TOKEN,   AGG_TOKEN_MEAN},
    {"grpo",                  true,  false, true,  KL_IN_LOSS,   RATIO_TOKEN,   AGG_SEQ_MEAN_TOKEN_MEAN},
    {"rloo",                  true,  false, true,  KL_IN_REPLY,  RATIO_SEQ_SUM, AGG_SEQ_MEAN_TOKEN_MEAN},
    {"reinforce_pp",          true,  false, false, KL_IN_TOKENS, RATIO_TOKEN,   AGG_TOKEN_MEAN},
    {"reinforce_pp_baseline", true,  false, true,  KL_IN_REPLY,  RATIO_TOKEN,   AGG_TOKEN_MEAN},
    {"dpo",                   false, false, false, KL_IN_LOSS,   RATIO_TOKEN,   AGG_TOKEN_MEAN},
    // clang-format on
};

static double *doubles(int64_t n) { return mem_alloc((size_t)(n > 0 ? n : 1) * sizeof(double)); }

static bool whiten_advantages(Experience *x, const PpoConfig *c, Error *err) {
    if (!c->whiten_advantages) return true;
    whiten(x->adv, x->n_tok, true, c->whiten_unbiased);
    return doctor_whitened(x->adv, x->n_tok, c->whiten_unbiased, err);
}

/* Every token of a reply has the reply's advantage. */
static bool judge_groups(Experience *x, const PpoConfig *c, double beta, Error *err) {
    const RlMethodInfo *m = &rl_methods[c->method];
    static const GroupKind kinds[RL_METHODS] = {[RL_RLOO] = GROUP_OTHERS, [RL_REINFORCE_PP_BASELINE] = GROUP_CENTRED};
    GroupKind kind = c->method == RL_GRPO ? c->group_kind : kinds[c->method];
    int n_group = x->n / c->group;
    int64_t *off = mem_alloc((size_t)(n_group + 1) * sizeof *off);
    double *reward = doubles(x->n), *adv = doubles(x->n);
    for (int g = 0; g <= n_group; g++) off[g] = (int64_t)g * c->group;
    for (int i = 0; i < x->n; i++) reward[i] = x->score[i] - (m->kl == KL_IN_REPLY ? beta * x->kl[i] : 0);
    x->n_flat = group_advantages(adv, reward, off, n_group, kind, c->group_eps);
    bool ok = doctor_groups(adv, reward, off, n_group, kind, c->group_eps, err);
    for (int i = 0; i < x->n; i++)
        for (int64_t t = x->off[i]; t < x->off[i + 1]; t++) x->adv[t] = adv[i];
    free(off);
    free(reward);
    free(adv);
    return ok && (c->method != RL_REINFORCE_PP_BASELINE || whiten_advantages(x, c, err));
}

enum { LOOKED_AT = 4 }; /* replies whose advantages the doctor computes again */

/* Rewards of tokens; then GAE over values, or what follows each token. */
static bool judge_tokens(Experience *x, const PpoConfig *c, double beta,
                         void (*spoil)(double *, const double *, const int64_t *, int), Error *err) {
    bool gae = rl_methods[c->method].value;
    double lambda = gae ? c->lambda : 1, *v = gae ? x->v : doubles(x->n_tok), *r = gae ? x->r : doubles(x->n_tok);
    double *kl_term = x->adv; /* free until the advantages */
    for (int64_t t = 0; t < x->n_tok; t++) kl_term[t] = beta * (x->lr[t] - x->lp[t]);
    ppo_rewards(r, x->lp, x->lr, x->off, x->score, x->n, beta, 0, NULL);
    bool ok = doctor_rewards(r, kl_term, x->off, x->score, x->n, err);
    if (ok && spoil) spoil(r, x->score, x->off, x->n);
    if (ok && gae && c->whiten_rewards) whiten(r, x->n_tok, false, c->whiten_unbiased);
    if (ok && gae) ppo_gae(x->adv, x->ret, r, v, x->off, x->n, c->gamma, lambda);
    if (ok && !gae) reward_to_go(x->adv, r, x->off, x->n, c->gamma);
    for (int i = 0; ok && i < x->n && i < LOOKED_AT; i++) {
        int64_t at = x->off[i];
        ok = doctor_gae(x->adv + at, r + at, v + at, x->off[i + 1] - at, c->gamma, lambda, err);
    }
    if (!gae) free(v), free(r);
    return ok && whiten_advantages(x, c, err);
}

bool experience_judge(Experience *x, const PpoConfig *c, double beta,
                      void (*spoil)(double *, const double *, const int64_t *, int), Error *err) {
    const RlMethodInfo *m = &rl_methods[c->method];
    if (!m->rollouts) return true;
    return m->groups ? judge_groups(x, c, beta, err) : judge_tokens(x, c, beta, spoil, err);
}
