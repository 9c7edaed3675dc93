#include "train/losses.h"

#include <math.h>

#include "base/error.h"

/* Log-ratios beyond this are cut before exp: e^20 is already a ratio nobody trusts, and its gradient is 0. */
static const double MAX_LOG_RATIO = 20;

static double clip(double x, double lo, double hi) { return x < lo ? lo : x > hi ? hi : x; }

void ppo_rewards(double *r, const double *lp, const double *lr, const int64_t *off, const double *score, int n_seq,
                 double beta, double clip_kl, double clip_score) {
    for (int s = 0; s < n_seq; s++) {
        for (int64_t t = off[s]; t < off[s + 1]; t++) r[t] = -beta * kl_estimate(lp[t], lr[t], KL_K1, clip_kl);
        if (off[s + 1] == off[s]) continue;
        r[off[s + 1] - 1] += clip_score > 0 ? clip(score[s], -clip_score, clip_score) : score[s];
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

PpoTerm ppo_policy_token(double *dlp, double lp_new, double lp_old, double adv, PpoClip c) {
    double raw = lp_new - lp_old, d = clip(raw, -MAX_LOG_RATIO, MAX_LOG_RATIO), rho = exp(d);
    double free_loss = -adv * rho, held_loss = -adv * clip(rho, 1 - c.eps_low, 1 + c.eps_high);
    bool held = held_loss > free_loss;
    PpoTerm t = {.loss = held ? held_loss : free_loss, .clipfrac = held, .ratio = rho};
    t.approx_kl = 0.5 * raw * raw;
    t.ppo_kl = -d;
    *dlp = held || fabs(raw) > MAX_LOG_RATIO ? 0 : -adv * rho;
    if (c.dual_clip > 0 && adv < 0 && t.loss > -adv * c.dual_clip) {
        t.loss = -adv * c.dual_clip;
        t.clipfrac_dual = 1;
        *dlp = 0;
    }
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

double aggregate(const double *x, const int64_t *off, int n_seq, Aggregation kind, double max_len) {
    double sum = 0;
    int64_t n_used = 0;
    for (int s = 0; s < n_seq; s++) {
        int64_t n = off[s + 1] - off[s];
        if (n == 0) continue;
        double seq = 0;
        for (int64_t t = off[s]; t < off[s + 1]; t++) seq += x[t];
        sum += kind == AGG_SEQ_MEAN_TOKEN_MEAN ? seq / (double)n : seq;
        n_used++;
    }
    if (n_used == 0) return 0;
    switch (kind) {
    case AGG_TOKEN_MEAN:
        return sum / (double)(off[n_seq] - off[0]);
    case AGG_SEQ_SUM_NORM:
        return sum / max_len;
    case AGG_SEQ_MEAN_TOKEN_SUM:
    case AGG_SEQ_MEAN_TOKEN_MEAN:
        break;
    }
    return sum / (double)n_used;
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

int group_advantages(double *adv, const double *score, const int64_t *off, int n_group, bool scale, double eps) {
    int n_flat = 0;
    for (int g = 0; g < n_group; g++) {
        const double *s = score + off[g];
        double *a = adv + off[g], sum = 0, sq = 0;
        int64_t n = off[g + 1] - off[g];
        CHECK(n >= 2, "group %d of %d replies", g, (int)n);
        bool flat = all_equal(s, n);
        n_flat += flat;
        for (int64_t i = 0; i < n; i++) sum += s[i];
        double mean = sum / (double)n;
        for (int64_t i = 0; i < n; i++) sq += (s[i] - mean) * (s[i] - mean);
        double by = scale ? sqrt(sq / (double)(n - 1)) + eps : 1;
        for (int64_t i = 0; i < n; i++) a[i] = flat ? 0 : (s[i] - mean) / by;
    }
    return n_flat;
}

double grpo_kl_token(double *dlp, double lp_new, double lp_old, double lr, double beta, bool by_ratio) {
    double kl = kl_estimate(lp_new, lr, KL_K3, 0), slope = 1 - exp(lr - lp_new);
    double raw = lp_new - lp_old, rho = by_ratio ? exp(clip(raw, -MAX_LOG_RATIO, MAX_LOG_RATIO)) : 1;
    bool moves = by_ratio && fabs(raw) <= MAX_LOG_RATIO; /* does rho? */
    *dlp += beta * rho * (slope + (moves ? kl : 0));
    return beta * rho * kl;
}

/* log(1 + e^x) without overflow on either side. */
static double softplus(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }

double sigmoid(double x) {
    double e = exp(-fabs(x));
    return (x >= 0 ? 1 : e) / (1 + e);
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
