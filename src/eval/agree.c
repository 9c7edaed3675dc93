#include "eval/agree.h"

#include "eval/stats.h"

#include <math.h>
#include <stdlib.h>

double cohen_kappa(const int32_t *a, const int32_t *b, int64_t n, int n_class, KappaWeight w) {
    if (n == 0) return NAN;
    double *ra = mem_alloc((size_t)n_class * sizeof *ra), *rb = mem_alloc((size_t)n_class * sizeof *rb);
    double observed = 0, expected = 0;
    for (int64_t i = 0; i < n; i++) {
        CHECK(a[i] >= 0 && a[i] < n_class && b[i] >= 0 && b[i] < n_class, "classes %d, %d of %d", a[i], b[i], n_class);
        double d = a[i] - b[i];
        observed += w == KAPPA_QUADRATIC ? d * d : d != 0;
        ra[a[i]]++;
        rb[b[i]]++;
    }
    for (int i = 0; i < n_class; i++)
        for (int j = 0; j < n_class; j++) {
            double d = i - j;
            expected += (w == KAPPA_QUADRATIC ? d * d : d != 0) * ra[i] * rb[j] / (double)n;
        }
    free(ra);
    free(rb);
    return expected > 0 ? 1 - observed / expected : NAN;
}

double fleiss_kappa(const int32_t *count, int64_t n_item, int n_class) {
    double *share = mem_alloc((size_t)n_class * sizeof *share), total = 0, agree = 0, chance = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < n_item; i++) {
        double squares = 0, all = 0;
        for (int k = 0; k < n_class; k++) {
            double c = count[i * n_class + k];
            CHECK(c >= 0, "item %lld: %g ratings of class %d", (long long)i, c, k);
            squares += c * c;
            all += c;
        }
        if (all < 2) continue;
        for (int k = 0; k < n_class; k++) share[k] += count[i * n_class + k];
        total += all;
        agree += (squares - all) / (all * (all - 1));
        n++;
    }
    for (int k = 0; k < n_class && n; k++) chance += share[k] / total * (share[k] / total);
    free(share);
    if (n == 0) return NAN;
    agree /= (double)n;
    return chance < 1 ? (agree - chance) / (1 - chance) : NAN;
}

typedef struct {
    double x;
    int64_t at;
} Ranked;

static int by_value(const void *a, const void *b) {
    double x = ((const Ranked *)a)->x, y = ((const Ranked *)b)->x;
    return (x > y) - (x < y);
}

static void mid_ranks(double *rank, const double *x, int64_t n) {
    Ranked *r = mem_alloc((size_t)n * sizeof *r);
    for (int64_t i = 0; i < n; i++) r[i] = (Ranked){x[i], i};
    qsort(r, (size_t)n, sizeof *r, by_value);
    for (int64_t i = 0; i < n;) {
        int64_t k = i;
        while (k < n && r[k].x <= r[i].x) k++;
        double mid = (double)(i + k + 1) / 2;
        for (; i < k; i++) rank[r[i].at] = mid;
    }
    free(r);
}

double spearman(const double *x, const double *y, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (isnan(x[i]) || isnan(y[i])) return NAN; /* has no rank */
    if (n < 2) return NAN;
    double *rx = mem_alloc((size_t)n * sizeof *rx), *ry = mem_alloc((size_t)n * sizeof *ry);
    mid_ranks(rx, x, n);
    mid_ranks(ry, y, n);
    double r = correlation(rx, ry, n);
    free(rx);
    free(ry);
    return r;
}

double mcnemar_exact(int64_t b, int64_t c) {
    int64_t n = b + c, low = b < c ? b : c;
    if (n == 0) return 1;
    double p = 0;
    for (int64_t i = 0; i <= low; i++) {
        double choose = lgamma((double)n + 1) - lgamma((double)i + 1) - lgamma((double)(n - i) + 1);
        p += exp(choose - (double)n * log(2));
    }
    return 2 * p < 1 ? 2 * p : 1;
}

ClusterFlip cluster_flip(const int32_t *verdict, int64_t n) {
    int64_t most = 0, equal = 0;
    for (int64_t a = 0; a < n; a++) {
        int64_t same = 0;
        for (int64_t b = 0; b < n; b++) same += verdict[b] == verdict[a];
        if (same > most) most = same;
        equal += same - 1;
    }
    return (ClusterFlip){1 - (double)most / (double)n, n < 2 ? NAN : 1 - (double)equal / (double)(n * (n - 1))};
}

FlipRates flip_rates(const int32_t *verdict, const int32_t *cluster, int64_t n) {
    FlipRates r = {0};
    int64_t pairs = 0;
    for (int64_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && cluster[end] == cluster[i];) end++;
        ClusterFlip c = cluster_flip(verdict + i, end - i);
        r.flip += c.flip;
        r.unanimous += c.flip == 0;
        r.n_cluster++;
        if (end - i < 2) continue;
        r.pair_flip += c.pair;
        pairs++;
    }
    r.flip /= (double)r.n_cluster; /* of nothing: NaN */
    r.unanimous /= (double)r.n_cluster;
    r.pair_flip /= (double)pairs;
    return r;
}
