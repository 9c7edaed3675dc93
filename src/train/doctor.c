/* What must hold in every run, checked where it costs nothing next to a forward pass. Each of these has been wrong in
 * some public trainer while its curves looked fine, so a violation ends the run and says where to look. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nn/lora.h"
#include "train/ppo.h"

/* NaN counts as a gap of infinity. */
static const double INEXACT_GAP = 0.1; /* nats: far more than rounding, far less than a mistake */

static double gap(double a, double b) {
    double d = fabs(a - b);
    return d >= 0 ? d : INFINITY;
}

bool doctor_first_minibatch(const double *lp_new, const double *lp_old, int64_t n, bool exact, Error *err) {
    double worst = 0, bound = exact ? 0 : INEXACT_GAP;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++)
        if (gap(lp_new[i], lp_old[i]) > worst) {
            worst = gap(lp_new[i], lp_old[i]);
            at = i;
        }
    if (worst <= bound) return true;
    return error_set(
        err, ERR_STATE,
        "the ratio is not 1 before the first optimizer step: token %" PRId64 " of %" PRId64
        " has log-prob %.9g in training and %.9g in the rollout (allowed gap %g). Likely causes: the weights "
        "changed between rollout and update; rollout and training use different temperatures; logit rows are "
        "shifted by one; a filter (top-k, top-p) shaped the stored log-probs; a kernel whose rows depend on "
        "their neighbours",
        at, n, lp_new[at], lp_old[at], bound);
}

bool doctor_first_values(const double *v_new, const double *v_old, int64_t n, bool exact, Error *err) {
    for (int64_t i = 0; i < n; i++) {
        double bound = exact ? 0 : INEXACT_GAP * (1 + fabs(v_old[i]));
        if (gap(v_new[i], v_old[i]) > bound)
            return error_set(
                err, ERR_STATE,
                "before the first optimizer step token %" PRId64 " of %" PRId64
                " has value %.9g in training and %.9g in the rollout (allowed gap %g). Likely causes: values "
                "are read from rows shifted by one; the value net changed in between",
                i, n, v_new[i], v_old[i], bound);
    }
    return true;
}

bool doctor_equal_reference(const double *lp, const double *lr, int64_t n, bool exact, Error *err) {
    for (int64_t i = 0; i < n; i++)
        if (!(gap(lp[i], lr[i]) <= (exact ? 0 : INEXACT_GAP)))
            return error_set(
                err, ERR_STATE,
                "policy and reference hold equal weights, yet token %" PRId64
                " has log-prob %.9g under one and %.9g under the other. Likely causes: generation and scoring "
                "disagree (cache pages, positions); the reference is scored at another temperature; its rows "
                "are shifted by one",
                i, lp[i], lr[i]);
    return true;
}

bool doctor_rewards(const double *r, const double *kl_term, const int64_t *off, const double *score, int n_seq,
                    Error *err) {
    for (int s = 0; s < n_seq; s++)
        for (int64_t t = off[s]; t < off[s + 1]; t++) {
            bool last = t + 1 == off[s + 1];
            double want = kl_term[t] + (last ? score[s] : 0);
            if (gap(r[t], want) <= 1e-12 * (1 + fabs(want))) continue;
            return error_set(
                err, ERR_STATE,
                "reward of token %" PRId64 " of %" PRId64 " in sequence %d is %.9g, expected %.9g (KL term %.9g%s). "
                "Likely causes: the score sits on the wrong token (first, every, one late); the KL penalty has "
                "the wrong sign or factor",
                t - off[s], off[s + 1] - off[s], s, r[t], want, kl_term[t], last ? " plus the score" : "");
        }
    return true;
}

bool doctor_gae(const double *adv, const double *r, const double *v, int64_t n, double gamma, double lambda,
                Error *err) {
    for (int64_t t = 0; t < n; t++) {
        double want = 0, factor = 1, size = 1;
        for (int64_t k = t; k < n; k++) {
            double delta = r[k] + (k + 1 < n ? gamma * v[k + 1] : 0) - v[k];
            want += factor * delta;
            size += fabs(factor * delta);
            factor *= gamma * lambda;
        }
        if (gap(adv[t], want) <= 1e-9 * size) continue;
        return error_set(
            err, ERR_STATE,
            "advantage of token %" PRId64 " of %" PRId64 " is %.9g, its definition gives %.9g. Likely causes: a "
            "value after the end is bootstrapped; sequences run into each other; lambda (%g) or gamma (%g) is "
            "applied twice or not at all",
            t, n, adv[t], want, lambda, gamma);
    }
    return true;
}

typedef struct {
    double mean, sd;
    bool flat;
} Spread;

static Spread spread_of(const double *x, int64_t n) {
    Spread s = {0, 0, true};
    for (int64_t i = 0; i < n; i++) {
        s.mean += x[i] / (double)n;
        s.flat = s.flat && x[i] == x[0];
    }
    for (int64_t i = 0; i < n; i++) s.sd += (x[i] - s.mean) * (x[i] - s.mean) / (double)(n - 1);
    s.sd = sqrt(s.sd);
    return s;
}

/* What the advantage times by[kind] must be: the score less the mean, of the others where n/(n-1) stands in by. */
bool doctor_groups(const double *adv, const double *score, const int64_t *off, int n_group, GroupKind kind, double eps,
                   Error *err) {
    Spread all = spread_of(score, off[n_group]);
    for (int64_t g = 0, i = 0; g < n_group; g++) {
        int64_t n = off[g + 1] - off[g];
        Spread s = spread_of(score + off[g], n);
        double size = 1;
        for (int64_t k = off[g]; k < off[g + 1]; k++) size += fabs(score[k]);
        const double by[] = {s.sd + eps, all.sd + eps, 1, (double)(n - 1) / (double)n};
        for (i = off[g]; i < off[g + 1]; i++) {
            double want = s.flat ? 0 : score[i] - s.mean, got = adv[i] * (s.flat ? 1 : by[kind]);
            if (gap(got, want) <= (s.flat ? 0 : 1e-9 * size)) continue;
            return error_set(
                err, ERR_STATE,
                "reply %d of a group of %d has score %.9g (mean %.9g, deviation %.9g) and advantage %.9g, expected "
                "%.9g. Likely causes: groups run into each other; the deviation is not that of the group; equal scores "
                "are divided by rounding errors",
                (int)(i - off[g]), (int)n, score[i], s.mean, s.sd, adv[i], s.flat ? 0 : want / by[kind]);
        }
    }
    return true;
}

bool doctor_whitened(const double *x, int64_t n, bool unbiased, Error *err) {
    if (n < 2) return true;
    Spread s = spread_of(x, n);
    double sd = s.sd * (unbiased ? 1 : sqrt((double)(n - 1) / (double)n));
    /* 1e-8 beside the variance pulls small deviations below 1. */
    if (fabs(s.mean) <= 1e-9 && sd <= 1 + 1e-9) return true;
    return error_set(err, ERR_STATE,
                     "whitened advantages have mean %.3g and deviation %.9g, expected 0 and 1. Likely causes: tokens "
                     "that do not count were averaged in; the mean of one micro-batch was taken for that of the "
                     "rollout",
                     s.mean, sd);
}

bool doctor_finite(const char *what, const char *cause, const double *x, int64_t n, Error *err) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return error_set(err, ERR_STATE, "%s %" PRId64 " of %" PRId64 " is %g. Likely cause: %s", what, i, n, x[i],
                             cause);
    return true;
}

bool doctor_counts(int64_t trained, int64_t n_tok, int pass, Error *err) {
    if (trained == n_tok) return true;
    return error_set(err, ERR_STATE,
                     "pass %d over the rollout trained %" PRId64 " tokens of %" PRId64
                     ". Likely causes: a mask counts prompt or padding; replies are left out or taken twice where "
                     "minibatches are cut",
                     pass, trained, n_tok);
}

const char *doctor_drift(ReplyShape first, ReplyShape now, int max_new) {
    if (first.end_share >= 0.2 && now.end_share < 0.5 * first.end_share)
        return "half as many replies end by themselves as at first. Likely causes: long replies score higher "
               "(length in the preference data); rl.no_end_score costs too little; the end token is masked";
    if (now.length > 2 * first.length && now.length > 8)
        return "replies are twice as long as at first. Likely causes: the preference model rewards length; "
               "repetition that it does not notice; rl.beta too small";
    if (now.length < 0.5 * first.length && first.length > 8 && max_new > 8)
        return "replies are half as long as at first. Likely causes: the policy found one short reply that scores "
               "well (look at samples.jsonl); the KL penalty, summed over tokens, makes long replies expensive: "
               "rl.beta too large";
    return NULL;
}

bool doctor_zero_weight(Backend *be, Error *err) {
    enum { ROWS = 3, COLS = 5 };
    static const int32_t target[ROWS] = {0, 2, 4};
    double z[ROWS * COLS], dlp[ROWS] = {-1, 0, -1};
    Arena mem, measure;
    if (be->dry) return true;
    for (int i = 0; i < ROWS * COLS; i++) z[i] = i / COLS == 1 ? NAN : 0.1 * i;
    arena_init_measure(&measure, "doctor");
    tensor_place(&measure, be->real, ROWS, COLS);
    tensor_place(&measure, be->real, ROWS, 1);
    if (!arena_init(&mem, "doctor", be->mem, measure.used, err)) return false;
    Tensor t = tensor_place(&mem, be->real, ROWS, COLS), d = tensor_place(&mem, be->real, ROWS, 1);
    tensor_set(be, t, z);
    tensor_set(be, d, dlp);
    be->op->logprob_bwd(be, t, target, d, 1);
    tensor_get(be, z, t);
    arena_release(&mem);
    for (int i = 0; i < ROWS * COLS; i++)
        if (i / COLS == 1 ? z[i] != 0 : !(z[i] != 0))
            return error_set(
                err, ERR_STATE,
                "gradient of logit %d in row %d is %g: a row of weight 0 must get exactly 0 whatever it holds, "
                "and the others must not. Likely cause: the %s backend multiplies by the weight instead of "
                "skipping the row",
                i % COLS, i / COLS, z[i], be->op->name);
    return true;
}

typedef struct {
    Tensor *w;
    int n, cap;
} Weights;

static void collect(void *ud, int index, const ParamInfo *p) {
    Weights *w = ud;
    (void)index;
    if (w->n == w->cap) {
        w->cap = w->cap ? 2 * w->cap : 64;
        w->w = mem_grow(w->w, (size_t)w->cap * sizeof(Tensor));
    }
    w->w[w->n++] = p->w;
}

static bool same_tensor(Backend *be_a, Tensor a, Backend *be_b, Tensor b, double *row_a, double *row_b) {
    for (int64_t i = 0; i < a.rows; i++) {
        tensor_get_row(be_a, row_a, a, i);
        tensor_get_row(be_b, row_b, b, i);
        if (memcmp(row_a, row_b, (size_t)a.cols * sizeof(double)) != 0) return false;
    }
    return true;
}

bool doctor_same_weights(Net a, Net b) {
    if (a.adapter && adapter_is_new(a.adapter)) a.adapter = NULL;
    if (b.adapter && adapter_is_new(b.adapter)) b.adapter = NULL;
    Weights wa = {0}, wb = {0};
    net_visit(a, collect, &wa);
    net_visit(b, collect, &wb);
    int64_t widest = 1;
    bool same = wa.n == wb.n;
    for (int i = 0; same && i < wa.n; i++) {
        same = tensor_same_shape(wa.w[i], wb.w[i]);
        if (wa.w[i].cols > widest) widest = wa.w[i].cols;
    }
    double *row = mem_alloc(2 * (size_t)widest * sizeof(double));
    for (int i = 0; same && i < wa.n; i++)
        same = same_tensor(a.trunk->be, wa.w[i], b.trunk->be, wb.w[i], row, row + widest);
    free(row);
    free(wa.w);
    free(wb.w);
    return same;
}
