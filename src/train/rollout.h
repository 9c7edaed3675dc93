/* train/rollout.h — what one update learns from: replies with their log-probs, values, rewards, advantages. */
#ifndef DIKAST_TRAIN_ROLLOUT_H
#define DIKAST_TRAIN_ROLLOUT_H

#include "nn/regroup.h"
#include "train/ppo.h"

typedef struct {            /* token arrays concatenate the replies: reply s owns [off[s], off[s+1]) */
    int n;
    int64_t n_tok;
    const PpoPrompt **prompt;           /* (n) */
    GenResult *reply;                   /* (n) */
    int64_t *off;                       /* (n+1) */
    double *lp, *lr, *adv;              /* (n_tok) log-probs under policy and reference; advantage */
    double *v, *r, *ret;                /* (n_tok) value of the state before the token, reward, return; but for PPO: NULL */
    double *raw, *score, *kl;           /* (n) R as scored; normalised; sum of lp - lr */
    int n_flat;                         /* groups without a spread of scores */
    double generate_s, score_s;         /* seconds */
} Experience;

typedef struct {            /* engines over the setup's nets, and the order of prompts */
    const PpoConfig *c;
    const PpoSetup *s;
    Net policy_net, value_net;          /* what the engines run: the setup's, or of stages of a pipeline all layers, of this rank's share */
    Regroup *joined[2];                 /* of policy and value; NULL where they are no stages */
    Engine *policy, *reference, *value; /* value: PPO */
    int64_t *order;         /* (n_prompt) of epoch order_epoch */
    int64_t order_epoch;
    Pulse *pulse;           /* told what it does; NULL is fine */
} Rollout;

/* Of parts of nets on several ranks: every rank of the mesh calls it. */
bool rollout_open(Rollout *r, const PpoConfig *c, const PpoSetup *s, Error *err);
void rollout_close(Rollout *r);
/* The experience of update u under penalty beta. Equal (weights, u, beta): equal experience. */
bool rollout_make(Experience *x, Rollout *r, int64_t update, double beta, const Stop *stop, Error *err);
/* x->adv, and for PPO r and ret, from log-probs, values and scores; the doctor looks at each before the next is made of it.
 * spoil: see PpoSetup. DPO: nothing. */
bool experience_judge(Experience *x, const PpoConfig *c, double beta,
                      void (*spoil)(double *r, const double *score, const int64_t *off, int n_seq), Error *err);
void experience_release(Experience *x);
double value_of(const PpoConfig *c, double output);     /* of the value net's head */

#endif
