/* train/ppo.h — rollouts, experience, update: PPO with a KL penalty to a frozen reference. Stages hand prompts and nets in.
 *
 *   rollout(policy) -> score(PM) , logprob(reference), value(critic) -> rewards with KL -> GAE -> K epochs of minibatches
 *
 * The log-probs of the rollout are the old log-probs; in the first minibatch after a rollout ratio 1 is asserted bitwise
 * (doctor). Policy and value are nets of their own with one optimizer: joint gradient norm; the value loss times c_v. */
#ifndef DIKAST_TRAIN_PPO_H
#define DIKAST_TRAIN_PPO_H

#include "engine/engine.h"
#include "train/losses.h"
#include "train/trainer.h"

typedef struct {
    int64_t updates;
    int rollouts, epochs, minibatches, max_new, max_tok;    /* max_tok: tokens per forward pass */
    double beta, temperature, gamma, lambda, value_weight, value_clip;
    PpoClip clip;
    double no_end_score;            /* the score := this when the reply was cut by length (normalised units) */
    double score_clip;              /* 0: off */
    bool whiten_rewards, whiten_advantages;
    double kl_target, kl_horizon;   /* kl_target 0: fixed beta */
    double kl_stop;                 /* nats per sequence: stop training, keep the last good weights; 0: off */
    OptimConfig optim;
    Schedule schedule;              /* over updates */
    double value_lr;                /* learning-rate of the value net relative to the policy's: 1 */
    double state_s;
    int64_t state_updates;
    uint64_t seed;
} PpoConfig;

typedef struct { uint64_t id; const int32_t *tok; int n; } PpoPrompt;   /* ids up to and including <|assistant|> */

/* Scores whole sequences: prompt + reply -> R. By default the PM; tests plug tables in. */
typedef bool PpoScoreFn(void *ud, const PpoPrompt *p, const Tokens *reply, int n, double *score, Error *err);
/* Called after each update with the experience of it (samples for people, checks). May be NULL. */
typedef struct {
    int64_t update;
    int n;
    const PpoPrompt *const *prompt;
    const GenResult *reply;
    const double *score, *kl;       /* (n) */
} PpoReport;
typedef void PpoReportFn(void *ud, const PpoReport *r);

typedef struct {
    Net policy, reference, value;   /* reference: no gradients; value: SCORE head n_out 1 */
    const PpoPrompt *prompt;
    int n_prompt;                   /* update u takes rollouts u*rollouts.. of a seeded endless shuffle */
    int32_t end_id;
    const uint8_t *ban;             /* (V) ids the policy never draws: none if NULL. Must be NULL for exact ratios */
    double score_mean, score_sd;    /* normalisation of R */
    PpoScoreFn *score;
    void *score_ud;
    PpoReportFn *report;
    void *report_ud;
} PpoSetup;

bool ppo_run(const PpoConfig *c, const PpoSetup *s, const char *dir, Log *log, const Stop *stop, Error *err);

/* train/doctor.c — invariants checked in every run; a violation names its likely cause. */
typedef struct { double max_ratio_gap, max_kl_first; bool reward_on_last; double end_share, gae_gap; } DoctorReport;
bool doctor_first_minibatch(const double *lp_new, const double *lp_old, int64_t n, bool exact, Error *err);
bool doctor_rewards(const double *r, const double *kl_term, const int64_t *off, const double *score, int n_seq, Error *err);
bool doctor_gae(const double *adv, const double *r, const double *v, int64_t n, double gamma, double lambda, Error *err);

#endif
