/* train/ppo_int.h — what ppo.c (updates, state, the run) and ppo_pass.c (forward passes, losses, gradients) share. */
#ifndef DIKAST_TRAIN_PPO_INT_H
#define DIKAST_TRAIN_PPO_INT_H

#include "train/batch.h"
#include "train/guard.h"
#include "train/leaves.h"
#include "train/obj.h"
#include "train/pipe.h"
#include "train/rollout.h"

typedef struct { /* one forward pass: whole replies with their prompts, last tokens left out */
    Batch b;
    BatchBuf buf;
    int32_t *tok, *seq_off, *target;
    int32_t *same;     /* (replies) tokens shared with the one before */
    int64_t *at;       /* (R) index into the experience of the token that row predicts */
    int32_t *of;       /* (R) reply of the pass it belongs to */
    ReplySum *sum;     /* (replies) where the ratio is the reply's */
    TokenShare *share; /* (R) what that token counts in the minibatch */
} Pass;

typedef struct {
    const PpoConfig *c;
    const PpoSetup *s;
    Log *log;
    Pulse *pulse;
    const Stop *stop;
    Optim *optim;
    Leaves *leaves;
    Acts *policy_acts,
        *value_acts; /* one and the same where the nets agree in shape: one is done before the other begins */
    Pipe *pipe;      /* NULL: nets are whole; else this rank's stage of both, instead of these activations: */
    const struct Minibatch *now; /* what goes through it, */
    LeafSum leaf;                /* and the micro-batch whose losses were computed last */
    Arena policy_mem, value_mem;
    Tensor policy_slice, value_slice;
    Rollout rollout;
    Experience x;
    Pass pass;
    LogpBuf logp;
    PolicyRule rule; /* of this update */
    ObjLm *mix;      /* texts beside the rollouts, or NULL */
    Objective mix_obj;
    Optim *warm; /* the value net's alone during its warm-up, else NULL */
    Leaves *warm_leaves;
    int64_t n_trained; /* rows of the pass over the rollout, of all ranks */
    ReplyShape shape;  /* of the first rollout */
    bool said_drift;
    double *value_rows;     /* (HEAD_SLICE_MOST) */
    double *lp_new, *v_new; /* (n_tok) in the first minibatch, else NULL */
    Model good_trunk;       /* weights of the last rollout within kl_stop */
    Head good_head;
    Adapter *good_adapter; /* of a policy with an adapter: then trunk and head are the policy's */
    bool keeps_good;
    Guard *guard; /* or NULL */
    Metrics *metrics;
    Appender *file;
    State *state; /* NULL without a folder */
    int64_t update, n_skipped, n_skipped_now;
    TraceSum trace; /* of this update */
    int64_t n_pass; /* passes of this update before this minibatch */
    double beta, tok_done, last_reward;
    int64_t n_tok; /* of replies since update 0 */
} Ppo;

static inline const RlMethodInfo *ppo_method(const Ppo *p) { return &rl_methods[p->c->method]; }
static inline bool ppo_has_value(const Ppo *p) { return ppo_method(p)->value; }
static inline Leaves *ppo_leaves(const Ppo *p) { return p->warm ? p->warm_leaves : p->leaves; }
static inline bool ppo_warms_up(const Ppo *p) { return ppo_has_value(p) && p->update < p->c->value_warmup; }

/* Replies in order of their numbers, cut into passes; one more leaf is the mix. */
typedef struct Minibatch {
    const int64_t *seq;
    int n_pass, *from; /* (n_pass+1) into seq */
    int64_t number, n_leaf;
    double weight; /* of all passes, in order */
    bool first, share, warm;
} Minibatch;
Minibatch minibatch_plan(const Ppo *p, const int64_t *seq, int n, int64_t number, bool first);
/* The gradients of this rank's leaves of l, which has begun. False: *err, this rank's; *together: all ranks have it. */
bool ppo_gradients(Ppo *p, Leaves *l, const Minibatch *b, bool *together, Error *err);

/* Room for passes of c->max_tok tokens; zeroed fields are closed, too. nets: policy, value. */
bool ppo_passes_open(Ppo *p, const Net nets[2], Error *err);
void ppo_passes_close(Ppo *p);

#endif
