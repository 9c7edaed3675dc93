#include "train/losses.h"

#include <math.h>

#include "base/error.h"

/* Log-ratios beyond this are cut before exp: e^20 is already a ratio nobody trusts, and its gradient is 0. */
static const double MAX_LOG_RATIO = 20;

static double clip(double x, double lo, double hi) { return x < lo ? lo : x > hi ? hi : x; }

void ppo_rewards(double *r, const double *lp, const double *lr, const int64_t *off, const double *score, int n_seq,
                 double beta, double clip_kl, const double clip_score[2]) {
    for (int s = 0; s < n_seq; s++) {
        for (int64_t t = off[s]; t < off[s + 1]; t++) r[t] = -beta * kl_estimate(lp[t], lr[t], KL_K1, clip_kl);
        if (off[s + 1] == off[s]) continue;
        r[off[s + 1] - 1] += clip_score ? clip(score[s], clip_score[0], clip_score[1]) : score[s];
    }
}

void ppo_gae(double *adv, double *ret, const double *r, const double *v, const int64_t *off, int n_seq, double gamma,
             double lambda) {
    for (int s = 0; s < n_seq; s++) {
        double next_v = 0, next_a = 0;
        for (int64_t t = off[s + 1] - 1; t >= off[s]; t--) {
            double value = v[t], a = r[t] + gamma * next_v - value + gamma * lambda * next_a;
            adv[t] = a;
            ret[t] = a + value;
            next_v = value;
            next_a = a;
        }
    }
}

void reward_to_go(double *ret, const double *r, const int64_t *off, int n_seq, double gamma) {
    for (int s = 0; s < n_seq; s++) {
        double next = 0;
        for (int64_t t = off[s + 1] - 1; t >= off[s]; t--) ret[t] = next = r[t] + gamma * next;
    }
}

void whiten(double *x, int64_t n, bool shift_mean, bool unbiased) {
    if (n == 0) return;
    double sum = 0, sq = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) sq += (x[i] - mean) * (x[i] - mean);
    double var = unbiased ? (n > 1 ? sq / (double)(n - 1) : 0) : sq / (double)n;
    double scale = 1 / sqrt(var + 1e-8), shift = shift_mean ? 0 : mean;
    for (int64_t i = 0; i < n; i++) x[i] = (x[i] - mean) * scale + shift;
}

void reply_sum_add(ReplySum *s, double lp_new, double lp_old, double lr) {
    s->log_ratio += lp_new - lp_old;
    s->kl += kl_estimate(lp_new, lr, KL_K3, 0);
    s->n += 1;
}

/* Terms of a log-ratio. *slope = dl/d log-ratio, 0 where a constant branch wins. */
static PpoTerm clip_term(double *slope, double raw, double far, double adv, PpoClip c) {
    double d = clip(raw, -far, far), rho = exp(d), held_rho = clip(rho, 1 - c.eps_low, 1 + c.eps_high);
    double free_rho = c.delta > 0 && rho > c.delta ? c.delta : rho;
    double free_loss = -adv * free_rho, held_loss = -adv * held_rho;
    bool held = held_loss > free_loss;
    PpoTerm t = {.loss = held ? held_loss : free_loss, .clipfrac = held, .ratio = rho};
    *slope = (held ? held_rho : free_rho) != rho || fabs(raw) > far ? 0 : -adv * rho;
    if (c.dual_clip > 0 && adv < 0 && t.loss > -adv * c.dual_clip) {
        t.loss = -adv * c.dual_clip;
        t.clipfrac_dual = 1;
        *slope = 0;
    }
    return t;
}

static PpoTerm sapo_term(double *slope, double raw, double far, double adv) {
    double rho = exp(clip(raw, -far, far)), tau = adv > 0 ? 1 : 1.05, gate = sigmoid(tau * (rho - 1));
    *slope = fabs(raw) > far ? 0 : -adv * 4 * gate * (1 - gate) * rho;
    return (PpoTerm){.loss = -adv * 4 * gate / tau, .ratio = rho};
}

/* The weight carries no gradient, so what moves is lp itself: *direct. */
static PpoTerm cispo_term(double *direct, double raw, double far, double adv, double lp, double cap) {
    double rho = exp(clip(raw, -far, far)), weight = rho < cap ? rho : cap;
    *direct = -weight * adv;
    return (PpoTerm){.loss = -weight * adv * lp, .clipfrac = rho > cap, .ratio = rho};
}

/* A shared log-ratio moves by 1/n (mean) or 1 (sum) with one token's log-prob and takes the losses of all n tokens
 * along. */
PpoTerm policy_token(double *dlp, const PolicyRule *rule, const ReplySum *s, double lp_new, double lp_old, double lr,
                     double adv) {
    double token = lp_new - lp_old, raw = token, slope = 0, direct = 0, reach = 1;
    double far = rule->clip.max_log_ratio > 0 ? rule->clip.max_log_ratio : MAX_LOG_RATIO;
    double kl = kl_estimate(lp_new, lr, KL_K3, 0),
           kl_along = kl; /* KL that the ratio weighs, per token it moves with */
    if (rule->level != RATIO_TOKEN) raw = s->log_ratio, kl_along = s->kl, reach = s->n;
    if (rule->level == RATIO_SEQ_MEAN) raw /= s->n, kl_along /= s->n, reach = 1;
    PpoTerm t = {0};
    if (rule->term == TERM_CLIP) t = clip_term(&slope, raw, far, adv, rule->clip);
    if (rule->term == TERM_SAPO) t = sapo_term(&slope, raw, far, adv);
    if (rule->term == TERM_CISPO) t = cispo_term(&direct, raw, far, adv, lp_new, rule->clip.eps_high);
    *dlp = direct + reach * slope;
    if (rule->kl_beta != 0) {
        double by = rule->kl_beta * (rule->kl_by_ratio ? t.ratio : 1);
        bool moves = rule->kl_by_ratio && fabs(raw) <= far; /* does the ratio? */
        t.kl_loss = by * kl;
        *dlp += by * (1 - exp(lr - lp_new) + (moves ? kl_along : 0));
    }
    t.log_ratio = token;
    t.approx_kl = 0.5 * token * token;
    t.ppo_kl = -clip(token, -far, far);
    return t;
}

double ppo_value_token(double *dv, double *clipped, double v, double v_old, double ret, double eps) {
    double held_v = eps > 0 ? v_old + clip(v - v_old, -eps, eps) : v;
    double free_loss = (v - ret) * (v - ret), held_loss = (held_v - ret) * (held_v - ret);
    bool held = held_loss > free_loss;
    *dv = held ? 0 : v - ret;
    *clipped = held;
    return 0.5 * (held ? held_loss : free_loss);
}

double kl_controller(double beta, double kl, double target, double n, double horizon) {
    return beta * (1 + clip(kl / target - 1, -0.2, 0.2) * n / horizon);
}

double kl_estimate(double lp, double lr, KlKind kind, double clamp) {
    double d = lp - lr, kl = d;
    if (kind == KL_K2) kl = 0.5 * d * d;
    if (kind == KL_K3) kl = exp(-d) - 1 + d;
    return clamp > 0 ? clip(kl, -clamp, clamp) : kl;
}

TokenShare aggregate_token(Aggregation kind, int64_t n, double max_len) {
    double one = 1 / (double)n;
    switch (kind) {
    case AGG_TOKEN_MEAN:
        return (TokenShare){1, 1};
    case AGG_SEQ_MEAN_TOKEN_SUM:
        return (TokenShare){1, one};
    case AGG_SEQ_MEAN_TOKEN_MEAN:
        return (TokenShare){one, one};
    case AGG_SEQ_SUM_NORM:
        return (TokenShare){1 / max_len, one};
    }
    CHECK(false, "aggregation %d", (int)kind);
}

/* A mean of equal numbers need not be that number to the last bit, and sd + eps would blow the rest up. */
static bool all_equal(const double *x, int64_t n) {
    for (int64_t i = 1; i < n; i++)
        if (x[i] != x[0]) return false;
    return true;
}

/* Deviation over n - 1. */
static double deviation(const double *x, int64_t n) {
    double sum = 0, sq = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    for (int64_t i = 0; i < n; i++) sq += (x[i] - sum / (double)n) * (x[i] - sum / (double)n);
    return n > 1 ? sqrt(sq / (double)(n - 1)) : 1;
}

int group_advantages(double *adv, const double *score, const int64_t *off, int n_group, GroupKind kind, double eps) {
    double batch_sd = kind == GROUP_BATCH_SD ? deviation(score, off[n_group]) : 0;
    int n_flat = 0;
    for (int g = 0; g < n_group; g++) {
        const double *s = score + off[g];
        double *a = adv + off[g], sum = 0, by = 1;
        int64_t n = off[g + 1] - off[g];
        bool flat = n > 1 && all_equal(s, n);
        n_flat += flat;
        for (int64_t i = 0; i < n; i++) sum += s[i];
        double mean = n > 1 ? sum / (double)n : 0;
        if (kind == GROUP_SD) by = deviation(s, n) + eps;
        if (kind == GROUP_BATCH_SD) by = batch_sd + eps;
        if (kind == GROUP_OTHERS && n > 1) by = (double)(n - 1) / (double)n;
        for (int64_t i = 0; i < n; i++) a[i] = flat ? 0 : (s[i] - mean) / by;
    }
    return n_flat;
}

/* log(1 + e^x) without overflow on either side. */
static double softplus(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }

double sigmoid(double x) {
    double e = exp(-fabs(x));
    return (x >= 0 ? 1 : e) / (1 + e);
}

double dpo_loss(double *slope, double d, double q, DpoRule rule) {
    double e = rule.smoothing, p = q * (1 - e) + (1 - q) * e, z = rule.beta * d;
    if (rule.kind == DPO_IPO) {
        double aim = 1 / (2 * rule.beta);
        *slope = 2 * (d - (2 * p - 1) * aim);
        return p * (d - aim) * (d - aim) + (1 - p) * (d + aim) * (d + aim);
    }
    if (rule.kind == DPO_HINGE) {
        *slope = rule.beta * ((1 - p) * (z > -1) - p * (z < 1));
        return p * fmax(0, 1 - z) + (1 - p) * fmax(0, 1 + z);
    }
    if (rule.kind == DPO_ROBUST) p = (q - e) / (1 - 2 * e);
    *slope = rule.beta * (sigmoid(z) - p);
    return p * softplus(-z) + (1 - p) * softplus(z);
}

double preference_loss(double *da, double *db, double a, double b, double q, double margin, double center) {
    double d = a - b - margin, slope = sigmoid(d) - q, pull = 2 * center * (a + b);
    *da = slope + pull;
    *db = -slope + pull;
    return q * softplus(-d) + (1 - q) * softplus(d) + center * (a + b) * (a + b);
}

double logistic_loss(double *dz, double z, double label) {
    *dz = sigmoid(z) - label;
    return label * softplus(-z) + (1 - label) * softplus(z);
}
