/* eval/agree.h — do judges, raters and paraphrases agree? Plain arrays in, plain numbers out; NaN where a number has no
 * meaning (no items, no spread). */
#ifndef DIKAST_EVAL_AGREE_H
#define DIKAST_EVAL_AGREE_H

#include "base/error.h"

typedef enum { KAPPA_PLAIN, KAPPA_QUADRATIC } KappaWeight;
/* Two raters, classes 0..n_class-1: 1 - sum w o / sum w e. Cohen 1960; weights (i - j)^2: Cohen 1968. */
double cohen_kappa(const int32_t *a, const int32_t *b, int64_t n, int n_class, KappaWeight w);
/* count (n_item, n_class): how many of an item's ratings fell into each class. Fleiss 1971, (mean P_i - P_e) / (1 - P_e); items
 * may have different numbers of ratings, those with fewer than two are left out. NaN when one class holds everything. */
double fleiss_kappa(const int32_t *count, int64_t n_item, int n_class);
double spearman(const double *x, const double *y, int64_t n); /* Pearson of mid-ranks */
/* Two-sided exact test of two systems on the same items: b, c items only the first, only the second got right. 1947. */
double mcnemar_exact(int64_t b, int64_t c);

/* Verdicts (class numbers) of one cluster of paraphrases, n at least 1. */
typedef struct { double flip, pair; } ClusterFlip;     /* 1 - the largest class's share; share of unequal pairs, NaN of one verdict */
ClusterFlip cluster_flip(const int32_t *verdict, int64_t n);
/* And of all clusters: cluster[i] in ascending runs. */
typedef struct {
    double flip;        /* 1 - mean over clusters of the largest class's share */
    double pair_flip;   /* mean over clusters (of two or more) of the share of unequal pairs */
    double unanimous;   /* share of clusters with one verdict */
    int64_t n_cluster;
} FlipRates;
FlipRates flip_rates(const int32_t *verdict, const int32_t *cluster, int64_t n);

#endif
