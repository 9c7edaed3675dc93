#include "eval/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

Interval interval_wilson(double hits, int64_t n) {
    if (n == 0) return (Interval){NAN, 0, 1, 0};
    double z = 1.959963984540054, p = hits / (double)n, z2 = z * z / (double)n;
    double mid = (p + z2 / 2) / (1 + z2), half = z * sqrt(p * (1 - p) / (double)n + z2 / (4 * (double)n)) / (1 + z2);
    double lo = mid - half, hi = mid + half;
    return (Interval){p, lo > 0 ? lo : 0, hi < 1 ? hi : 1, n};
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum { DRAWS = 2000 };

Interval interval_cluster(const double *x, const int32_t *cluster, int64_t n, Rng rng) {
    if (n == 0) return (Interval){NAN, NAN, NAN, 0};
    double *sum = mem_alloc((size_t)n * sizeof *sum), *count = mem_alloc((size_t)n * sizeof *count);
    int64_t m = -1;
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
        if (i == 0 || cluster[i] != cluster[i - 1]) m++;
        sum[m] += x[i];
        count[m]++;
        total += x[i];
    }
    m++;
    double *mean = mem_alloc(DRAWS * sizeof *mean);
    /* A rate of 0 or 1 has no spread to draw from, yet is not certain: Wilson over the clusters says how far it may be
     * off. */
    bool none = true, every = true;
    for (int64_t i = 0; i < n; i++) none = none && x[i] == 0, every = every && x[i] == 1;
    if (none || every) {
        Interval w = interval_wilson(every ? (double)m : 0, m);
        free(sum);
        free(count);
        free(mean);
        return (Interval){w.mean, w.lo, w.hi, n};
    }
    for (int d = 0; d < DRAWS; d++) {
        double s = 0, c = 0;
        for (int64_t k = 0; k < m; k++) {
            uint32_t at = rng_below(rng, (uint64_t)d, (uint32_t)k, (uint32_t)m);
            s += sum[at];
            c += count[at];
        }
        mean[d] = s / c;
    }
    qsort(mean, DRAWS, sizeof *mean, ascending);
    Interval out = {total / (double)n, mean[DRAWS * 25 / 1000], mean[DRAWS - 1 - DRAWS * 25 / 1000], n};
    free(sum);
    free(count);
    free(mean);
    return out;
}

Interval interval_difference(const double *x, const int32_t *cluster, int64_t n, Rng rng) {
    bool same = n > 0;
    for (int64_t i = 0; i < n; i++) same = same && x[i] == x[0];
    return same ? (Interval){x[0], x[0], x[0], n} : interval_cluster(x, cluster, n, rng);
}

double ece(const double *p, const double *label, int64_t n, int n_bin) {
    double *sp = mem_alloc((size_t)n_bin * sizeof *sp), *sl = mem_alloc((size_t)n_bin * sizeof *sl), out = 0;
    int64_t n_bad = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(p[i] >= 0 && p[i] <= 1)) {
            n_bad++;
            continue;
        }
        int b = (int)(p[i] * n_bin);
        if (b >= n_bin) b = n_bin - 1;
        sp[b] += p[i];
        sl[b] += label[i];
    }
    /* |mean p - mean label| of a bin times its share is |sum p - sum label| / n. */
    for (int b = 0; b < n_bin; b++) out += fabs(sp[b] - sl[b]);
    free(sp);
    free(sl);
    return n && !n_bad ? out / (double)n : NAN;
}

double brier(const double *p, const double *label, int64_t n) {
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += (p[i] - label[i]) * (p[i] - label[i]);
    return n ? s / (double)n : NAN;
}

/* d/ds of the mean cross-entropy of sigmoid(s l); rises with s. */
static double slope_at(double s, const double *l, const double *label, int64_t n) {
    double sum = 0, soft = 1.0 / ((double)n + 2);
    for (int64_t i = 0; i < n; i++) {
        double want = soft + (1 - 2 * soft) * label[i], p = 1 / (1 + exp(-s * l[i]));
        sum += (p - want) * l[i];
    }
    return sum / (double)n;
}

double fit_temperature(const double *l, const double *label, int64_t n) {
    double lo = 1 / 20.0, hi = 1 / 0.05; /* of 1/T: the cross-entropy is convex there */
    for (int i = 0; i < 200; i++) {
        double mid = sqrt(lo * hi);
        if (slope_at(mid, l, label, n) > 0)
            hi = mid;
        else
            lo = mid;
    }
    return 1 / sqrt(lo * hi);
}

double fit_slope(const double *x, const double *q, const double *w, int64_t n) {
    double lo = -20, hi = 20; /* the cross-entropy is convex in s: its derivative rises */
    for (int i = 0; i < 200; i++) {
        double mid = 0.5 * (lo + hi), sum = 0;
        for (int64_t k = 0; k < n; k++) sum += (w ? w[k] : 1) * (1 / (1 + exp(-mid * x[k])) - q[k]) * x[k];
        if (sum > 0)
            hi = mid;
        else
            lo = mid;
    }
    return 0.5 * (lo + hi);
}

typedef struct {
    double score;
    int32_t label;
} Scored;
static int by_score(const void *a, const void *b) {
    double x = ((const Scored *)a)->score, y = ((const Scored *)b)->score;
    return (x > y) - (x < y);
}

/* Mann-Whitney with mid-ranks. */
double auroc(const double *score, const int32_t *label, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (isnan(score[i])) return NAN; /* has no rank */
    Scored *s = mem_alloc((size_t)(n + 1) * sizeof *s);
    int64_t pos = 0;
    double rank_sum = 0;
    for (int64_t i = 0; i < n; i++) s[i] = (Scored){score[i], label[i]}, pos += label[i] != 0;
    qsort(s, (size_t)n, sizeof *s, by_score);
    for (int64_t i = 0; i < n;) {
        int64_t k = i;
        while (k < n && s[k].score <= s[i].score) k++;
        double rank = (double)(i + k + 1) / 2;
        for (; i < k; i++)
            if (s[i].label) rank_sum += rank;
    }
    free(s);
    int64_t neg = n - pos;
    if (pos == 0 || neg == 0) return NAN;
    return (rank_sum - (double)pos * (double)(pos + 1) / 2) / ((double)pos * (double)neg);
}

double correlation(const double *x, const double *y, int64_t n) {
    double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
    /* Differences from the first item: a constant side is 0 exactly, whatever a mean would round to. */
    for (int64_t i = 0; i < n; i++) mx += x[i] - x[0], my += y[i] - y[0];
    mx /= n ? (double)n : 1;
    my /= n ? (double)n : 1;
    for (int64_t i = 0; i < n; i++) {
        double dx = x[i] - x[0] - mx, dy = y[i] - y[0] - my;
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
}

Detection detection(const double *p, const int32_t *label, int64_t n, double threshold) {
    Detection d = {0};
    for (int64_t i = 0; i < n; i++) {
        bool said = p[i] >= threshold, is = label[i] != 0;
        d.tp += said && is;
        d.fp += said && !is;
        d.fn += !said && is;
        d.tn += !said && !is;
    }
    d.recall = d.tp + d.fn ? (double)d.tp / (double)(d.tp + d.fn) : NAN;
    d.fpr = d.fp + d.tn ? (double)d.fp / (double)(d.fp + d.tn) : NAN;
    d.precision = d.tp + d.fp ? (double)d.tp / (double)(d.tp + d.fp) : d.fn ? 0 : NAN;
    d.f1 = 2 * d.tp + d.fp + d.fn ? 2 * (double)d.tp / (double)(2 * d.tp + d.fp + d.fn) : NAN;
    d.accuracy = n ? (double)(d.tp + d.tn) / (double)n : NAN;
    return d;
}

double balanced_accuracy(const Detection *d) {
    double recall = d->tp + d->fn ? d->recall : 0, specificity = d->fp + d->tn ? 1 - d->fpr : 0;
    return (recall + specificity) / 2;
}
