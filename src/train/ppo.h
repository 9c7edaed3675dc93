/* train/ppo.h — rollouts, experience, update: policy-gradient methods with a KL penalty to a frozen reference. Stages hand
 * prompts and nets in.
 *
 *   ppo              rollout -> score(PM), logprob(reference), value -> rewards with KL -> GAE -> epochs of minibatches
 *   grpo             groups of replies to one prompt; advantages within groups; KL in the loss
 *   rloo             groups; a reply's reward is its score - beta KL, its baseline the mean of the others; the ratio is the reply's
 *   reinforce_pp     token rewards with KL, what follows each, whitened over the rollout; no value net, no groups
 *   reinforce_pp_baseline   groups; score - beta KL less the group's mean, whitened
 *   dpo              no rollouts: pairs, see obj.h; here only its rollouts to look at (rollout.h)
 *
 * One loop: the methods differ in rl_methods[], where advantages come from (advantage.c), and in the value net, which only PPO
 * has. Ranks of a mesh share an update: each (of shares: each tensor-parallel group together) generates and scores the replies to some
 * of its prompts (whole groups), all get all of them; of a minibatch each computes some of the forward passes. Records are rank 0's.
 *
 * The log-probs of the rollout are the old log-probs; in the first minibatch after a rollout ratio 1 is asserted bitwise
 * (doctor). Policy and value are nets of their own with one optimizer: joint gradient norm; the value loss times c_v. */
#ifndef DIKAST_TRAIN_PPO_H
#define DIKAST_TRAIN_PPO_H

#include "data/loader.h"
#include "engine/engine.h"
#include "train/losses.h"
#include "train/trainer.h"

typedef enum { RL_PPO, RL_GRPO, RL_RLOO, RL_REINFORCE_PP, RL_REINFORCE_PP_BASELINE, RL_DPO } RlMethod;
typedef enum { KL_IN_TOKENS, KL_IN_REPLY, KL_IN_LOSS } KlPlace;    /* reward of each token (k1) | of the reply | loss (k3) */
typedef struct {
    const char *name;           /* of rl.method; the row's number is the RlMethod */
    bool rollouts, value, groups;
    KlPlace kl;
    RatioLevel level;           /* what "auto" means */
    Aggregation aggregation;
} RlMethodInfo;
enum { RL_METHODS = RL_DPO + 1 };
extern const RlMethodInfo rl_methods[RL_METHODS];

typedef struct {
    RlMethod method;
    int64_t updates;
    int rollouts, epochs, minibatches, max_new, max_tok;    /* max_tok: tokens per forward pass */
    double beta, temperature;       /* beta: nats cost it, where rl_methods[].kl says */
    double gamma, lambda, value_weight, value_clip; /* PPO */
    PpoClip clip;
    PolicyTerm term;
    RatioLevel level;
    double no_end_score;            /* the score := this when the reply was cut by length (normalised units); NaN: kept */
    bool no_end_adds;               /* the score += no_end_score instead */
    double score_clip;              /* 0: off */
    bool whiten_rewards, whiten_advantages;     /* PPO; the second REINFORCE++, too */
    bool whiten_unbiased;           /* variances by n - 1 */
    int64_t value_warmup;           /* PPO: first updates, which train the value net alone */
    double mix_weight;              /* pre-training mix (Ouyang et al. 2022): that much of the mean next-token loss of one pack
                                       of PpoSetup.mix joins each minibatch's loss; 0: off */
    Aggregation aggregation;        /* of token losses in a minibatch; AGG_SEQ_SUM_NORM divides by max_new */
    int group;                      /* replies per prompt, at least 2; rollouts is a multiple of it */
    GroupKind group_kind;           /* GRPO: not GROUP_OTHERS */
    bool kl_by_ratio;               /* GRPO: k3 times the ratio */
    double group_eps;
    double kl_target, kl_horizon;   /* kl_target 0: fixed beta */
    double kl_stop;                 /* nats per sequence: stop training, keep the last good weights; 0: off */
    OptimConfig optim;
    Schedule schedule;              /* over updates */
    double value_shift, value_scale;    /* PPO: a value is (head's output - shift) / scale; scale 0: the output itself */
    double value_lr;                /* learning-rate of the value net relative to the policy's: 1 */
    double state_s;                 /* seconds between states; 0: 60 */
    int64_t state_updates;          /* > 0: also every so many updates */
    StateConfig state;
    const Trace *trace;             /* NULL: none */
    uint64_t seed;
    Keep keep;                      /* KEEP_ALL (0) or KEEP_INPUTS */
    bool keep_auto;                 /* in place of keep: train_keep's */
    const Mesh *mesh;               /* borrowed; NULL: one rank */
    int shard;                      /* as in TrainConfig, */
    bool overlap, running_sum;      /* and these */
    int64_t compare_every;          /* the same, in updates */
    DType rollout_weights;          /* EngineConfig.weights of rollouts; DTYPE_F32 (0): the policy's own. Else the recorded
                                       log-probs are the rounded policy's: the gap is measured, ratio 1 is not asserted */
} PpoConfig;

typedef struct { uint64_t id; const int32_t *tok; int n; } PpoPrompt;   /* ids up to and including <|assistant|> */

/* Scores whole sequences: prompt + reply -> R. reply[i] holds <|end|> if it was drawn. With ranks: of those of this rank. */
typedef bool PpoScoreFn(void *ud, const PpoPrompt *p, const Tokens *reply, int n, double *score, Error *err);
/* The usual one: a PM's score at the last token; a reply cut by length gets its <|end|> where the PM's context has room. */
typedef struct { Engine *pm; int32_t end_id; int max_seq; } PpoPmScore;
bool ppo_score_pm(void *ud, const PpoPrompt *p, const Tokens *reply, int n, double *score, Error *err);
/* Called after each update with the experience of it (samples for people, checks); again for updates that a resumed run
 * repeats. May be NULL. */
typedef struct {
    int64_t update;
    int n;
    const PpoPrompt *const *prompt;
    const GenResult *reply;
    const double *score, *kl;       /* (n): normalised, as trained on; nats of the sequence */
    double rollout_s, score_s, update_s;    /* seconds of generation, scoring, epochs */
} PpoReport;
typedef void PpoReportFn(void *ud, const PpoReport *r);

typedef struct {
    /* policy and value may be parts of models (nn/model_part.h). Shares generate and score as they are; of stages, which train in one
     * pipeline, copies of all layers of this rank's share do. */
    Net policy, reference, value;   /* reference: all layers, of this rank's share; no gradients; value: SCORE head n_out 1; but for PPO: {0} */
    const PpoPrompt *prompt;
    int n_prompt;                   /* update u takes rollouts u*rollouts.. of a seeded endless shuffle; with groups: those */
    int32_t end_id;                 /* -1: none, every reply has max_new tokens */
    const uint8_t *ban;             /* (V) ids the policy never draws: none if NULL. Must be NULL for exact ratios */
    double score_mean, score_sd;    /* normalisation of R */
    PpoScoreFn *score;
    void *score_ud;
    const SampleSet *mix;           /* texts of mix_weight, of at most max_tok tokens; NULL without */
    PpoReportFn *report;
    void *report_ud;
    bool *stopped_by_kl;            /* set when ERR_DIVERGED comes from kl_stop; may be NULL */
    struct PpoGuard *guard;         /* train/guard.h: stops a run that over-optimises; NULL: none. Needs a dir */
    /* Tests only: spoils the token rewards after the doctor saw them, to prove that a gate notices. NULL. */
    void (*spoil)(double *r, const double *score, const int64_t *off, int n_seq);
} PpoSetup;

/* Trains policy and value in place for c->updates updates; resumes from dir/state; writes dir/metrics.jsonl, one object per
 * update:
 *   step; score, score_raw, reward (score - beta kl), kl (nats per sequence), kl_token, end_share, length, tokens; beta, lr
 *   policy_loss, value_loss (PPO), kl_k3 (GRPO), rollout_gap (rollout_weights, or a backend that is not exact: mean |log-prob of the policy -
 *   recorded one| before the first step), approx_kl, ppo_kl, clipfrac, clipfrac_dual, value_clipfrac (PPO), ratio,
 *   entropy (means over all tokens of all epochs), mix_loss, explained_variance (PPO), flat_groups (groups: share whose scores
 *   are equal, which teach nothing), grad_norm (mean), skipped (optimizer steps); guard_proxy, guard_score (in the update after a
 *   check, whose rollouts the checked policy made); inputs, losses (trace.h); t_s, t_rollout, t_score, t_tok_s.
 * dir NULL: nothing is read or written (benchmarks).
 * ERR_STOPPED after a saved state (a started update is finished first). ERR_DIVERGED when non-finite or when a rollout's KL
 * passes kl_stop, or the guard ends the run: then the policy holds the weights of the last rollout that did not, with a guard
 * those of its best check, and the caller may keep them. */
bool ppo_run(const PpoConfig *c, const PpoSetup *s, const char *dir, Log *log, const Stop *stop, Error *err);

/* Opens what ppo_run opens and takes the memory that its updates take at most, for prompts of the longest length, and computes
 * nothing; for plans (tensor/dry.h). The scorer is the caller's. */
bool ppo_rehearse(const PpoConfig *c, const PpoSetup *s, Error *err);

/* train/doctor.c — invariants checked in every run; a violation is an ERR_STATE that names its likely causes. */
/* Ratio 1 before the first optimizer step after a rollout: equal bits when exact, else a gap of at most 0.1 nats. */
bool doctor_first_minibatch(const double *lp_new, const double *lp_old, int64_t n, bool exact, Error *err);
/* The same for values; inexact: a gap of at most 0.1 of 1 + |value|. */
bool doctor_first_values(const double *v_new, const double *v_old, int64_t n, bool exact, Error *err);
/* With equal weights the rollout's and the reference's log-probs are the same bits, so KL is 0; inexact: as above. */
bool doctor_equal_reference(const double *lp, const double *lr, int64_t n, bool exact, Error *err);
bool doctor_same_weights(Net a, Net b);     /* an adapter that is still new counts as none */
/* r = kl_term everywhere, plus score on the last token of its sequence. */
bool doctor_rewards(const double *r, const double *kl_term, const int64_t *off, const double *score, int n_seq, Error *err);
/* One sequence's advantages against the definition A_t = sum_k (gamma lambda)^k delta_(t+k). */
bool doctor_gae(const double *adv, const double *r, const double *v, int64_t n, double gamma, double lambda, Error *err);
/* The groups' advantages against their definition: centred and times the divisor the scores' distance from their mean (the
 * others' mean); exact 0 where all scores are equal. */
bool doctor_groups(const double *adv, const double *score, const int64_t *off, int n_group, GroupKind kind, double eps,
                   Error *err);
/* Mean 0, deviation 1 (0 when all are equal). */
bool doctor_whitened(const double *x, int64_t n, bool unbiased, Error *err);
/* Every number is finite; what: "score", said with the likely cause. */
bool doctor_finite(const char *what, const char *cause, const double *x, int64_t n, Error *err);
/* A pass over the rollout has trained each of its tokens once. */
bool doctor_counts(int64_t trained, int64_t n_tok, int pass, Error *err);
/* Is something going off? A sentence that says what and why, or NULL: replies that no longer end, that grow or shrink. */
typedef struct { double end_share, length; } ReplyShape;
const char *doctor_drift(ReplyShape first, ReplyShape now, int max_new);
/* A row of weight 0 gets gradient 0 even if its logits are NaN. */
bool doctor_zero_weight(Backend *be, Error *err);

#endif
