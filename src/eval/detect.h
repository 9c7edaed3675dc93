/* eval/detect.h — how good a detector of harm is on labelled rows: curves with intervals over prompts, rates with Wilson's,
 * calibration; and how the log-odds of one or two scorers become a probability and a threshold.
 *
 * Positive: harmful. The interval of AUPRC, AUROC and F1 is a percentile bootstrap over clusters (rows of one prompt stay
 * together): 2,000 resamples whose draws are keyed by (seed, resample, place), so neither threads nor order matter;
 * resamples in which the number has no meaning are left out. */
#ifndef DIKAST_EVAL_DETECT_H
#define DIKAST_EVAL_DETECT_H

#include "base/json.h"
#include "eval/stats.h"

typedef struct {
    Interval auprc, auroc, f1;          /* f1 at the threshold; n: rows; mean NaN where it has no meaning */
    Interval precision, recall, fpr;    /* Wilson */
    Detection at;                       /* counts at the threshold */
    double recall_at_fpr05, ece, brier; /* ece: 10 bins of equal width; NaN without rows */
} DetectStats;
/* p (n) probabilities; cluster (n) in ascending runs; pool NULL: this thread alone. */
void detect_stats(DetectStats *out, const double *p, const int32_t *label, const int32_t *cluster, int64_t n,
                  double threshold, Rng rng, Pool *pool);

/* The threshold with the best F1 that probabilities promise, 2 sum_{p >= t} p / (#{p >= t} + sum p) (Lipton et al. 2014: half of the
 * F1 it reaches), a value of p; .5 without any. The rows' labels are used as far as p was calibrated on them and no further: the best
 * F1 on the same rows hangs on the few near the threshold (sd .10 over halves of validation rows, of this one .014). */
double detect_expected_f1(const double *p, int64_t n);

/* p = sigmoid(sum_k w_k z_k + bias), n_part of 1 or 2, by maximum likelihood (Platt 1999 with the prior of his pseudo-counts; of
 * one part 1/w is Guo et al.'s temperature). ridge * (w_k - 1/n_part)^2 / 2 holds the weights where there are few positives;
 * a weight that would be negative is 0. z (n, n_part). Newton, at most 100 steps. */
typedef struct { double w[2], bias; } DetectBlend;
void detect_blend(DetectBlend *out, const double *z, int n_part, const int32_t *label, int64_t n, double ridge);
double detect_blended(const DetectBlend *b, const double *z, int n_part);

/* Of what a scorer of replies knows beyond chance, the share that is gone when every reply is another row's: 1 - (shuffled - 1/2) /
 * (whole - 1/2) of AUROCs, within [0, 1]; NaN where the whole knows nothing. Below DETECT_READS it judges requests, not replies. */
double detect_reply_share(double whole, double shuffled);
#define DETECT_READS 0.5

/* Pieces of result files (docs/formats.md, Evaluation results). */
void json_out_rate(JsonOut *j, const char *key, double hits, int64_t n);        /* Wilson */
void json_out_balanced_accuracy(JsonOut *j, const Detection *d);                 /* null where a class has no rows */
void json_out_estimate(JsonOut *j, const char *key, Interval v);                /* null when its mean is NaN */

#endif
