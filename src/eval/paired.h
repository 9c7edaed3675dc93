/* eval/paired.h — two systems on the same items, and trends: differences with intervals and tests. Plain arrays in; items of
 * one cluster (paraphrases and repeated samples of a prompt) stay together and stand in ascending runs. */
#ifndef DIKAST_EVAL_PAIRED_H
#define DIKAST_EVAL_PAIRED_H

#include "eval/stats.h"

typedef struct {
    Interval difference;    /* mean of b - a; percentile bootstrap over clusters, 2000 draws */
    double mean_a, mean_b;
    double p;               /* two-sided; NaN without items */
    const char *test;       /* "mcnemar": 0/1 values, one item per cluster; else "sign-flip" */
    int64_t n, n_cluster, only_a, only_b;   /* items whose value is larger in a, in b */
} Paired;
/* McNemar's exact test, or where it does not apply (several items per cluster, other values) Fisher's randomisation test: the
 * signs of the clusters' sums are flipped at random 9999 times, p = (1 + draws at least as far from 0) / 10000. */
Paired paired_compare(const double *a, const double *b, const int32_t *cluster, int64_t n, Rng rng);

/* Holm 1979: adjusted[i] = max over p_j <= p_i of min(1, (m - rank_j) p_j), rank from 0; NaN ones stay NaN and do not count in m.
 * adjusted may be p. */
void holm_adjust(double *adjusted, const double *p, int n);

/* Least-squares slope of y on x with its percentile bootstrap over clusters; NaN when x does not vary. */
Interval slope_interval(const double *x, const double *y, const int32_t *cluster, int64_t n, Rng rng);

/* ICC(1,1) = (MSB - MSW) / (MSB + (n0 - 1) MSW), Shrout & Fleiss 1979; n0 = (N - sum n_i^2 / N) / (k - 1) when clusters differ
 * in size. NaN with fewer than two clusters, without repeated items or without any spread. *within (may be NULL): sqrt MSW. */
double icc_one_way(const double *x, const int32_t *cluster, int64_t n, double *within);

/* Jensen-Shannon divergence in bits of two distributions given as counts; 0 when equal, 1 when disjoint; NaN when one is empty. */
double js_divergence(const double *p, const double *q, int n);

#endif
