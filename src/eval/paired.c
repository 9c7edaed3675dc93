#include "eval/paired.h"

#include <math.h>
#include <stdlib.h>

#include "eval/agree.h"

enum { DRAWS = 2000, FLIPS = 9999 };

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sums of (b - a) by cluster; returns how many there are. */
static int64_t cluster_sums(double *sum, const double *a, const double *b, const int32_t *cluster, int64_t n) {
    int64_t m = -1;
    for (int64_t i = 0; i < n; i++) {
        if (i == 0 || cluster[i] != cluster[i - 1]) sum[++m] = 0;
        sum[m] += b[i] - a[i];
    }
    return m + 1;
}

static double flip_test(const double *sum, int64_t m, Rng rng) {
    double seen = 0;
    int far = 0;
    for (int64_t k = 0; k < m; k++) seen += sum[k];
    /* Sums of the same numbers in another order differ in their last bits: those are ties, not differences. */
    double bound = fabs(seen) * (1 - 1e-12);
    for (int d = 0; d < FLIPS; d++) {
        double total = 0;
        for (int64_t k = 0; k < m; k++) {
            uint32_t word = rng_u32(rng, (uint64_t)d, (uint32_t)(k / 32));
            total += word >> (k % 32) & 1 ? sum[k] : -sum[k];
        }
        far += fabs(total) >= bound;
    }
    return (1.0 + far) / (1.0 + FLIPS);
}

Paired paired_compare(const double *a, const double *b, const int32_t *cluster, int64_t n, Rng rng) {
    Paired r = {.p = NAN, .test = "mcnemar", .n = n, .mean_a = mean_of(a, n), .mean_b = mean_of(b, n)};
    double *d = mem_alloc((size_t)(n + 1) * sizeof *d), *sum = mem_alloc((size_t)(n + 1) * sizeof *sum);
    bool binary = true;
    for (int64_t i = 0; i < n; i++) {
        d[i] = b[i] - a[i];
        binary = binary && (a[i] == 0 || a[i] == 1) && (b[i] == 0 || b[i] == 1);
        r.only_a += d[i] < 0;
        r.only_b += d[i] > 0;
    }
    r.n_cluster = cluster_sums(sum, a, b, cluster, n);
    r.difference = interval_difference(d, cluster, n, rng);
    if (n > 0 && binary && r.n_cluster == n)
        r.p = mcnemar_exact(r.only_a, r.only_b);
    else if (n > 0) {
        r.test = "sign-flip";
        r.p = flip_test(sum, r.n_cluster, rng_derive(rng, "flip"));
    }
    free(d);
    free(sum);
    return r;
}

typedef struct {
    double p;
    int at;
} Ordered;

static int by_p(const void *a, const void *b) {
    const Ordered *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? -1 : 1;
    return x->at - y->at;
}

void holm_adjust(double *adjusted, const double *p, int n) {
    Ordered *o = mem_alloc((size_t)(n + 1) * sizeof *o);
    int m = 0;
    double most = 0;
    for (int i = 0; i < n; i++)
        if (!isnan(p[i])) o[m++] = (Ordered){p[i], i};
    qsort(o, (size_t)m, sizeof *o, by_p);
    for (int i = 0; i < n; i++) adjusted[i] = NAN;
    for (int k = 0; k < m; k++) {
        most = fmax(most, fmin(1, (m - k) * o[k].p));
        adjusted[o[k].at] = most;
    }
    free(o);
}

/* -- trends ---------------------------------------------------------------------------------------------------------
 */

typedef struct {
    double n, x, y, xx, xy;
} Moments;

static void moments_add(Moments *to, const Moments *m) {
    to->n += m->n, to->x += m->x, to->y += m->y, to->xx += m->xx, to->xy += m->xy;
}

static double moments_slope(const Moments *m) {
    double sxx = m->xx - m->x * m->x / m->n, sxy = m->xy - m->x * m->y / m->n;
    return sxx > 1e-12 * m->xx ? sxy / sxx : NAN;
}

Interval slope_interval(const double *x, const double *y, const int32_t *cluster, int64_t n, Rng rng) {
    Moments *part = mem_alloc((size_t)(n + 1) * sizeof *part), all = {0};
    double *draw = mem_alloc(DRAWS * sizeof *draw);
    int64_t m = -1;
    int kept = 0;
    for (int64_t i = 0; i < n; i++) {
        if (i == 0 || cluster[i] != cluster[i - 1]) m++;
        const Moments one = {1, x[i], y[i], x[i] * x[i], x[i] * y[i]};
        moments_add(&part[m], &one);
        moments_add(&all, &one);
    }
    m++;
    Interval out = {n ? moments_slope(&all) : NAN, NAN, NAN, n};
    for (int d = 0; d < DRAWS && isfinite(out.mean); d++) {
        Moments s = {0};
        for (int64_t k = 0; k < m; k++) moments_add(&s, &part[rng_below(rng, (uint64_t)d, (uint32_t)k, (uint32_t)m)]);
        draw[kept] = moments_slope(&s);
        kept += isfinite(draw[kept]);
    }
    if (kept) {
        qsort(draw, (size_t)kept, sizeof *draw, ascending);
        out.lo = draw[kept * 25 / 1000];
        out.hi = draw[kept - 1 - kept * 25 / 1000];
    }
    free(part);
    free(draw);
    return out;
}

double icc_one_way(const double *x, const int32_t *cluster, int64_t n, double *within) {
    double grand = mean_of(x, n), between = 0, inside = 0, squares = 0;
    int64_t k = 0;
    for (int64_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && cluster[end] == cluster[i];) end++;
        double mean = mean_of(x + i, end - i), size = (double)(end - i);
        for (int64_t j = i; j < end; j++) inside += (x[j] - mean) * (x[j] - mean);
        between += size * (mean - grand) * (mean - grand);
        squares += size * size;
        k++;
    }
    double msw = n > k ? inside / (double)(n - k) : NAN;
    if (within) *within = sqrt(msw);
    if (k < 2 || n <= k) return NAN;
    double msb = between / (double)(k - 1), n0 = ((double)n - squares / (double)n) / (double)(k - 1);
    double all = msb + (n0 - 1) * msw;
    return all > 0 ? (msb - msw) / all : NAN;
}

double js_divergence(const double *p, const double *q, int n) {
    double sp = 0, sq = 0, js = 0;
    for (int i = 0; i < n; i++) sp += p[i], sq += q[i];
    if (!(sp > 0 && sq > 0)) return NAN;
    for (int i = 0; i < n; i++) {
        double a = p[i] / sp, b = q[i] / sq, mid = (a + b) / 2;
        if (a > 0) js += a / 2 * log2(a / mid);
        if (b > 0) js += b / 2 * log2(b / mid);
    }
    return js > 0 ? js : 0;
}
