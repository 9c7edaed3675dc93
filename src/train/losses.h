/* train/losses.h — the arithmetic of RL and preference learning on plain arrays in double; no tensors, no models, so it can
 * be checked against references by hand. Ragged: token arrays concatenate sequences, off[s]..off[s+1]. All tokens count
 * (no padding exists). Outputs may alias inputs of the same shape. Learning note = the project's docs/papers.md. */
#ifndef DIKAST_TRAIN_LOSSES_H
#define DIKAST_TRAIN_LOSSES_H

#include "base/compiler.h"

/* r_t = -beta (lp_t - lr_t) + [t = last] score.  k1 in the reward (Ziegler et al. 2019). clip_kl, clip_score 0: off. */
void ppo_rewards(double *r, const double *lp, const double *lr, const int64_t *off, const double *score, int n_seq,
                 double beta, double clip_kl, double clip_score);
/* delta_t = r_t + gamma V_{t+1} - V_t, V beyond the end 0;  A_t = delta_t + gamma lambda A_{t+1};  ret = A + V.
 * Schulman et al. 2016, section 3. */
void ppo_gae(double *adv, double *ret, const double *r, const double *v, const int64_t *off, int n_seq, double gamma,
             double lambda);
/* x := (x - mean) / sqrt(var + 1e-8) (+ mean unless shift_mean). unbiased: var by n-1. Two passes. */
void whiten(double *x, int64_t n, bool shift_mean, bool unbiased);

typedef struct { double eps_low, eps_high, dual_clip; /* dual_clip 0: off */ } PpoClip;
typedef struct { double loss, clipfrac, clipfrac_dual, approx_kl, ppo_kl, ratio; } PpoTerm;
/* One token: d = clip(lp_new - lp_old, +-20), rho = e^d, l = max(-A rho, -A clip(rho, 1-eps_low, 1+eps_high)), dual clip
 * where A < 0: min(l, -dual A). *dlp = dl/dlp_new (0 beyond +-20 and where a constant branch wins; ties inside: -A rho). */
PpoTerm ppo_policy_token(double *dlp, double lp_new, double lp_old, double adv, PpoClip c);
/* l = 0.5 max((V-R)^2, (Vclip-R)^2), Vclip = V_old + clip(V - V_old, +-eps); eps 0: no clip. */
double ppo_value_token(double *dv, double *clipped, double v, double v_old, double ret, double eps);
/* Fixed or adaptive beta (Ziegler et al. 2019): e = clip(kl/target - 1, +-0.2); beta (1 + e n/horizon). */
double kl_controller(double beta, double kl, double target, double n, double horizon);

typedef enum { KL_K1, KL_K2, KL_K3 } KlKind;
double kl_estimate(double lp, double lr, KlKind kind, double clamp);    /* clamp 0: off */

/* Mean over tokens (DAPO) | over sequences of their sums | of their means (Shao et al. 2024) | sum / max_len (Liu et al. 2025). */
typedef enum { AGG_TOKEN_MEAN, AGG_SEQ_MEAN_TOKEN_SUM, AGG_SEQ_MEAN_TOKEN_MEAN, AGG_SEQ_SUM_NORM } Aggregation;
double aggregate(const double *x, const int64_t *off, int n_seq, Aggregation kind, double max_len);
/* The same for sums that grow batch by batch: a token of a sequence of n counts loss * weight, and a batch's sum is divided
 * by the sum of its tokens' shares. AGG_SEQ_SUM_NORM is divided by the sequences as well: B max_len. */
typedef struct { double weight, share; } TokenShare;
TokenShare aggregate_token(Aggregation kind, int64_t n, double max_len);

/* Advantages within groups: sequences [off[g], off[g+1]), at least 2, answer one prompt; A_i = (s_i - mean) / (sd + eps), sd
 * over n - 1 (Shao et al. 2024, section 4.1.2); scale false: s_i - mean (Liu et al. 2025). Equal scores give exact 0; returns
 * how many groups had those. */
int group_advantages(double *adv, const double *score, const int64_t *off, int n_group, bool scale, double eps);
/* The KL to the reference as a term of the loss: beta k3 (Shao et al. 2024, eq. 4), with by_ratio times rho = e^(lp_new -
 * lp_old), as the tokens were drawn from the old policy. *dlp += its derivative by lp_new. */
double grpo_kl_token(double *dlp, double lp_new, double lp_old, double lr, double beta, bool by_ratio);

/* Soft-label Bradley-Terry: D = a - b - margin; l = -q log s(D) - (1-q) log s(-D) + center (a+b)^2; stable for |D| <= 1e4. */
double preference_loss(double *da, double *db, double a, double b, double q, double margin, double center);
double logistic_loss(double *dz, double z, double label);   /* classifier: soft BCE with logits */
double sigmoid(double x);

#endif
