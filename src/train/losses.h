/* train/losses.h — the arithmetic of RL and preference learning on plain arrays in double; no tensors, no models, so it can
 * be checked against references by hand. Ragged: token arrays concatenate sequences, off[s]..off[s+1]. All tokens count
 * (no padding exists). Outputs may alias inputs of the same shape. Learning note = the project's docs/papers.md. */
#ifndef DIKAST_TRAIN_LOSSES_H
#define DIKAST_TRAIN_LOSSES_H

#include "base/compiler.h"

/* r_t = -beta (lp_t - lr_t) + [t = last] score.  k1 in the reward (Ziegler et al. 2019). clip_kl 0: off; clip_score: its
 * lower and upper bound, NULL: off. */
void ppo_rewards(double *r, const double *lp, const double *lr, const int64_t *off, const double *score, int n_seq,
                 double beta, double clip_kl, const double clip_score[2]);
/* delta_t = r_t + gamma V_{t+1} - V_t, V beyond the end 0;  A_t = delta_t + gamma lambda A_{t+1};  ret = A + V.
 * Schulman et al. 2016, section 3. */
void ppo_gae(double *adv, double *ret, const double *r, const double *v, const int64_t *off, int n_seq, double gamma,
             double lambda);
/* ret_t = r_t + gamma ret_{t+1}: what follows, without a baseline (REINFORCE++, Hu 2025). */
void reward_to_go(double *ret, const double *r, const int64_t *off, int n_seq, double gamma);
/* x := (x - mean) / sqrt(var + 1e-8) (+ mean unless shift_mean). unbiased: var by n-1. Two passes. */
void whiten(double *x, int64_t n, bool shift_mean, bool unbiased);

/* What one reply's policy loss is made of. d_t = lp_new - lp_old of a token; the ratio is that of
 *   RATIO_TOKEN     the token: rho = e^d                            PPO, GRPO
 *   RATIO_SEQ_MEAN  the reply, averaged: e^(mean d)                 GSPO (Zheng et al. 2025)
 *   RATIO_SEQ_SUM   the reply: e^(sum d)                            RLOO (Ahmadian et al. 2024)
 * and the term, A being the advantage,
 *   TERM_CLIP       max(-A rho, -A clip(rho, 1-eps_low, 1+eps_high)); dual clip where A < 0: min(l, -dual A); delta: rho of
 *                   the first branch is at most delta
 *   TERM_CISPO      -min(rho, eps_high) A lp_new, the weight without gradient (MiniMax 2025); its value moves with lp itself
 *   TERM_SAPO       -A 4 s(tau (rho - 1)) / tau, tau 1 where A > 0, else 1.05
 * plus the KL to the reference as a term of the loss: kl_beta k3 (Shao et al. 2024, eq. 4), with kl_by_ratio times rho, as
 * the tokens were drawn from the old policy. */
typedef enum { RATIO_TOKEN, RATIO_SEQ_MEAN, RATIO_SEQ_SUM } RatioLevel;
typedef enum { TERM_CLIP, TERM_CISPO, TERM_SAPO } PolicyTerm;
typedef struct {
    double eps_low, eps_high;
    double dual_clip, delta;    /* 0: off */
    double max_log_ratio;       /* log-ratios beyond are cut before exp, and have no gradient; 0: 20, INFINITY: never */
} PpoClip;
typedef struct {
    PpoClip clip;
    PolicyTerm term;
    RatioLevel level;
    double kl_beta;             /* 0: no KL in the loss */
    bool kl_by_ratio;
} PolicyRule;
typedef struct { double log_ratio, kl, n; } ReplySum;   /* over a reply's tokens: d, k3, 1; starts as {0} */
void reply_sum_add(ReplySum *s, double lp_new, double lp_old, double lr);
typedef struct { double loss, kl_loss, clipfrac, clipfrac_dual, approx_kl, ppo_kl, log_ratio, ratio; } PpoTerm;
/* One token. loss without, kl_loss the KL's share. *dlp = d(loss + kl_loss of all tokens of the reply)/d lp_new, given that
 * they weigh alike; ties inside the clip range: -A rho. s: the reply's sums; RATIO_TOKEN: may be NULL. log_ratio is raw. */
PpoTerm policy_token(double *dlp, const PolicyRule *rule, const ReplySum *s, double lp_new, double lp_old, double lr,
                     double adv);
/* l = 0.5 max((V-R)^2, (Vclip-R)^2), Vclip = V_old + clip(V - V_old, +-eps); eps 0: no clip. */
double ppo_value_token(double *dv, double *clipped, double v, double v_old, double ret, double eps);
/* Fixed or adaptive beta (Ziegler et al. 2019): e = clip(kl/target - 1, +-0.2); beta (1 + e n/horizon). */
double kl_controller(double beta, double kl, double target, double n, double horizon);

typedef enum { KL_K1, KL_K2, KL_K3 } KlKind;
double kl_estimate(double lp, double lr, KlKind kind, double clamp);    /* clamp 0: off */

/* Mean over tokens (DAPO) | over sequences of their sums | of their means (Shao et al. 2024) | sum / max_len (Liu et al. 2025).
 * A token of a sequence of n counts loss * weight, and the sum over any batch is divided by the sum of its tokens' shares, so
 * sums may grow batch by batch. AGG_SEQ_SUM_NORM is divided by the sequences as well: B max_len. */
typedef enum { AGG_TOKEN_MEAN, AGG_SEQ_MEAN_TOKEN_SUM, AGG_SEQ_MEAN_TOKEN_MEAN, AGG_SEQ_SUM_NORM } Aggregation;
typedef struct { double weight, share; } TokenShare;
TokenShare aggregate_token(Aggregation kind, int64_t n, double max_len);

/* Advantages within groups: sequences [off[g], off[g+1]) answer one prompt. m their mean score, sd their deviation (n - 1):
 *   GROUP_SD         (s - m) / (sd + eps)               Shao et al. 2024, section 4.1.2
 *   GROUP_BATCH_SD   the same by the deviation of all   scale_rewards: batch
 *   GROUP_CENTRED    s - m                              Liu et al. 2025; REINFORCE++ with baseline
 *   GROUP_OTHERS     s - mean of the others             RLOO: n/(n-1) (s - m)
 * Equal scores give exact 0; returns how many groups had those. A group of one has nothing to compare with: m 0, sd 1. */
typedef enum { GROUP_SD, GROUP_BATCH_SD, GROUP_CENTRED, GROUP_OTHERS } GroupKind;
int group_advantages(double *adv, const double *score, const int64_t *off, int n_group, GroupKind kind, double eps);

/* DPO (Rafailov et al. 2023) of D = (pc - qc) - (pr - qr): sums over the reply's tokens, policy less reference, chosen less
 * rejected. q: probability that chosen is better, 1 unless soft; e = smoothing; p = q (1-e) + (1-q) e:
 *   sigmoid  -p log s(beta D) - (1-p) log s(-beta D)             with e > 0 the conservative one (Mitchell 2023)
 *   ipo      p (D - 1/(2 beta))^2 + (1-p) (D + 1/(2 beta))^2     Azar et al. 2024
 *   robust   sigmoid's with p = (q - e) / (1 - 2e), which may lie outside 0..1: an unbiased estimate of the loss on true labels when
 *            a share e < 1/2 of them is flipped               Chowdhury et al. 2024, eq. 12
 *   hinge    p max(0, 1 - beta D) + (1-p) max(0, 1 + beta D)     Zhao et al. 2023 (SLiC) on log-ratios */
typedef enum { DPO_SIGMOID, DPO_IPO, DPO_ROBUST, DPO_HINGE } DpoKind;
typedef struct { double beta, smoothing; DpoKind kind; } DpoRule;
double dpo_loss(double *slope, double d, double q, DpoRule rule);      /* *slope = dl/dD */

/* Soft-label Bradley-Terry: D = a - b - margin; l = -q log s(D) - (1-q) log s(-D) + center (a+b)^2; stable for |D| <= 1e4. */
double preference_loss(double *da, double *db, double a, double b, double q, double margin, double center);
double logistic_loss(double *dz, double z, double label);   /* classifier: soft BCE with logits */
double sigmoid(double x);

#endif
