/* eval/stats.h — intervals, agreement and gates on plain arrays. */
#ifndef DIKAST_EVAL_STATS_H
#define DIKAST_EVAL_STATS_H

#include "base/error.h"
#include "base/pool.h"
#include "base/rng.h"

typedef struct { double mean, lo, hi; int64_t n; } Interval;     /* 95 % */
Interval interval_wilson(double hits, int64_t n);                /* Wilson 1927; n 0: {NaN, 0, 1} */
/* Mean of x with items grouped in clusters (samples of one prompt): percentile bootstrap over clusters, 2000 draws keyed by
 * rng; all x 0 or all x 1: Wilson over the number of clusters. cluster[i] in ascending runs. */
Interval interval_cluster(const double *x, const int32_t *cluster, int64_t n, Rng rng);
/* The same of paired differences, which may be negative: where all are equal there is nothing to draw from, and no rate either. */
Interval interval_difference(const double *x, const int32_t *cluster, int64_t n, Rng rng);
/* Expected calibration error, n_bin equal-width bins on p in [0,1]; label soft or 0/1. Guo et al. 2017.
 * NaN when a p lies outside. */
double ece(const double *p, const double *label, int64_t n, int n_bin);
double brier(const double *p, const double *label, int64_t n);
/* Temperature T for which sigmoid(l / T) fits the labels (soft or 0/1, n > 0) best: least mean cross-entropy against labels drawn
 * in to [1/(n+2), 1 - 1/(n+2)] (Platt 1999), within [0.05, 20]. Guo et al. 2017. */
double fit_temperature(const double *l, const double *label, int64_t n);
/* The slope s of sigmoid(s x) that fits soft labels q best, weights w (NULL: 1), within +-20. */
double fit_slope(const double *x, const double *q, const double *w, int64_t n);
double auroc(const double *score, const int32_t *label, int64_t n);          /* ties count half; NaN with one class or a NaN score */
/* sum (R_k - R_(k-1)) P_k over distinct thresholds from high to low; equal scores are one step. NaN with no positive label or
 * a NaN score. */
double average_precision(const double *score, const int32_t *label, int64_t n);
/* Largest recall at a threshold whose false-positive rate is at most `most`; *threshold (may be NULL) is that threshold. */
double recall_at_fpr(const double *score, const int32_t *label, int64_t n, double most, double *threshold);
double correlation(const double *x, const double *y, int64_t n);             /* Pearson; 0 when a side is constant */
/* A share of nothing is NaN; precision is 0 when nothing was flagged but should have been. */
typedef struct { double recall, fpr, precision, f1, accuracy; int64_t tp, fp, tn, fn; } Detection;
Detection detection(const double *p, const int32_t *label, int64_t n, double threshold);   /* positive: p >= threshold */

double balanced_accuracy(const Detection *d);                                /* mean of recall and specificity; a share of nothing counts 0 */

/* Standard errors as evaluation harnesses print them; NaN: none. */
double mean_of(const double *x, int64_t n);
double stderr_mean(const double *x, int64_t n);                              /* s_(n-1) / sqrt n; NaN for n < 2 */
/* Of a group of leaf tasks: its mean weighted by their sizes, or (weighted false) each counting once. NaN if any leaf has none. */
double stderr_group(const double *se, const int64_t *size, int n, bool weighted);
/* sd of exp(-mean x) over n_draw bootstrap resamples, drawn as the harness draws them: thousands of draws, each thousand from
 * Python's generator seeded by its number. The same for any number of threads; pool NULL: this thread alone. */
double stderr_perplexity(const double *x, int64_t n, int n_draw, Pool *pool);

typedef struct { char text[200]; double value, bound; bool ok; } GateResult;
/* eval/gates.c — "harm.sl.named <= harm.helpful.named - 0.30": metric, <= or >= or < or >, sum of metrics and numbers
 * (with an optional factor: 1.05 * ppl.helpful). Metrics are the flat names of every stage's summary.json, prefixed by the
 * stage ("eval.harm.rl"); names starting "base." come from another run's report.json (eval.base). */
bool gate_eval(GateResult *out, const char *expr, double (*metric)(void *ud, const char *name), void *ud, Error *err);
/* Whether it can be read at all, whatever metrics there will be: every one counts as 1. */
bool gate_readable(const char *expr, Error *err);

#endif
