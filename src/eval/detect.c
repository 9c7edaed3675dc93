#include "eval/detect.h"

#include <math.h>
#include <stdlib.h>

enum { RESAMPLES = 2000, NEWTON = 100, CURVES = 3 };

/* -- curves over weighted rows ------------------------------------------------------------------------------------- */

typedef struct {
    const double *p;
    const int32_t *label, *run; /* run: number of each row's cluster, 0.. */
    const int32_t *order;       /* (n) rows by descending p */
    int64_t n;
    int n_run;
    double threshold;
    Rng rng;
    double *value; /* (CURVES, RESAMPLES) */
} Curves;

/* AUPRC, AUROC and F1 when row i counts weight[run[i]] times. Equal scores are one step. */
static void curves_of(double out[CURVES], const Curves *c, const int32_t *weight) {
    double pos = 0, neg = 0, tp = 0, fp = 0, ap = 0, pairs = 0, hit = 0, flagged = 0;
    for (int64_t i = 0; i < c->n; i++) {
        double w = weight ? weight[c->run[i]] : 1;
        *(c->label[i] ? &pos : &neg) += w;
        if (c->p[i] >= c->threshold) {
            flagged += w;
            if (c->label[i]) hit += w;
        }
    }
    for (int64_t i = 0; i < c->n;) {
        double up = 0, down = 0, at = c->p[c->order[i]];
        for (; i < c->n && c->p[c->order[i]] == at; i++) {
            int32_t row = c->order[i];
            *(c->label[row] ? &up : &down) += weight ? weight[c->run[row]] : 1;
        }
        pairs += up * (neg - fp - down / 2);
        tp += up;
        fp += down;
        if (up > 0) ap += up / pos * tp / (tp + fp);
    }
    out[0] = pos > 0 ? ap : NAN;
    out[1] = pos > 0 && neg > 0 ? pairs / (pos * neg) : NAN;
    out[2] = pos > 0 ? 2 * hit / (flagged + pos) : NAN;
}

static void resample(void *ud, int64_t d, int thread) {
    Curves *c = ud;
    (void)thread;
    double v[CURVES];
    int32_t *weight = mem_alloc((size_t)(c->n_run + 1) * sizeof *weight);
    for (int k = 0; k < c->n_run; k++) weight[rng_below(c->rng, (uint64_t)d, (uint32_t)k, (uint32_t)c->n_run)]++;
    curves_of(v, c, weight);
    for (int k = 0; k < CURVES; k++) c->value[k * RESAMPLES + d] = v[k];
    free(weight);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static Interval percentiles(double mean, double *v, int64_t n_row) {
    int n = 0;
    for (int i = 0; i < RESAMPLES; i++)
        if (!isnan(v[i])) v[n++] = v[i];
    if (isnan(mean) || n == 0) return (Interval){NAN, NAN, NAN, n_row};
    qsort(v, (size_t)n, sizeof *v, ascending);
    int cut = n * 25 / 1000;
    return (Interval){mean, v[cut], v[n - 1 - cut], n_row};
}

typedef struct {
    double p;
    int32_t row;
} Ranked;
static int by_rank(const void *a, const void *b) {
    const Ranked *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? 1 : -1;
    return (x->row > y->row) - (x->row < y->row);
}

static int32_t *order_of(const double *p, int64_t n) {
    Ranked *r = mem_alloc((size_t)(n + 1) * sizeof *r);
    int32_t *order = mem_alloc((size_t)(n + 1) * sizeof *order);
    for (int64_t i = 0; i < n; i++) r[i] = (Ranked){p[i], (int32_t)i};
    qsort(r, (size_t)n, sizeof *r, by_rank);
    for (int64_t i = 0; i < n; i++) order[i] = r[i].row;
    free(r);
    return order;
}

void detect_stats(DetectStats *out, const double *p, const int32_t *label, const int32_t *cluster, int64_t n,
                  double threshold, Rng rng, Pool *pool) {
    int32_t *run = mem_alloc((size_t)(n + 1) * sizeof *run), *order = order_of(p, n);
    double *value = mem_alloc(CURVES * RESAMPLES * sizeof *value), *soft = mem_alloc((size_t)(n + 1) * sizeof *soft);
    int n_run = 0;
    for (int64_t i = 0; i < n; i++) {
        n_run += i == 0 || cluster[i] != cluster[i - 1];
        run[i] = n_run - 1;
        soft[i] = label[i];
    }
    Curves c = {p, label, run, order, n, n_run, threshold, rng, value};
    double v[CURVES] = {NAN, NAN, NAN};
    if (n) curves_of(v, &c, NULL);
    if (pool)
        pool_for(pool, RESAMPLES, resample, &c);
    else
        for (int d = 0; d < RESAMPLES; d++) resample(&c, d, 0);
    *out = (DetectStats){.auprc = percentiles(v[0], value, n),
                         .auroc = percentiles(v[1], value + RESAMPLES, n),
                         .f1 = percentiles(v[2], value + 2 * RESAMPLES, n),
                         .at = detection(p, label, n, threshold),
                         .recall_at_fpr05 = n ? recall_at_fpr(p, label, n, 0.05, NULL) : NAN,
                         .ece = n ? ece(p, soft, n, 10) : NAN,
                         .brier = n ? brier(p, soft, n) : NAN};
    out->precision = interval_wilson((double)out->at.tp, out->at.tp + out->at.fp);
    out->recall = interval_wilson((double)out->at.tp, out->at.tp + out->at.fn);
    out->fpr = interval_wilson((double)out->at.fp, out->at.fp + out->at.tn);
    free(run);
    free(order);
    free(value);
    free(soft);
}

static int descending(const void *a, const void *b) { return ascending(b, a); }

double detect_expected_f1(const double *p, int64_t n) {
    double *by = mem_alloc((size_t)(n + 1) * sizeof *by), pos = 0, hit = 0, best = 0, threshold = 0.5;
    for (int64_t i = 0; i < n; i++) pos += by[i] = p[i];
    qsort(by, (size_t)n, sizeof *by, descending);
    for (int64_t i = 0; i < n; i++) {
        hit += by[i];
        if (i + 1 < n && by[i + 1] == by[i]) continue;
        double f1 = 2 * hit / ((double)(i + 1) + pos);
        if (f1 > best) best = f1, threshold = by[i];
    }
    free(by);
    return threshold;
}

/* -- blending ------------------------------------------------------------------------------------------------------ */

static double sigmoid_of(double u) { return u >= 0 ? 1 / (1 + exp(-u)) : exp(u) / (1 + exp(u)); }

double detect_blended(const DetectBlend *b, const double *z, int n_part) {
    double u = b->bias;
    for (int k = 0; k < n_part; k++) u += b->w[k] * z[k];
    return sigmoid_of(u);
}

/* Solves the symmetric positive definite 3 x 3 system a x = g in place; entries of dropped unknowns are the identity's.
 */
static void solve3(double a[3][3], double g[3]) {
    for (int k = 0; k < 3; k++)
        for (int i = k + 1; i < 3; i++) {
            double f = a[i][k] / a[k][k];
            for (int j = k; j < 3; j++) a[i][j] -= f * a[k][j];
            g[i] -= f * g[k];
        }
    for (int k = 2; k >= 0; k--) {
        for (int j = k + 1; j < 3; j++) g[k] -= a[k][j] * g[j];
        g[k] /= a[k][k];
    }
}

typedef struct {
    const double *z;
    const int32_t *label;
    int64_t n;
    int n_part;
    double ridge, yes, no; /* targets of the two labels */
    bool use[2];
} Blend;

/* One Newton step; returns the largest change. */
static double blend_step(DetectBlend *b, const Blend *f) {
    double h[3][3] = {{0}}, g[3] = {0}, most = 0;
    for (int64_t i = 0; i < f->n; i++) {
        double x[3] = {0, 0, 1}, p = detect_blended(b, f->z + i * f->n_part, f->n_part);
        for (int k = 0; k < f->n_part; k++) x[k] = f->use[k] ? f->z[i * f->n_part + k] : 0;
        double d = p - (f->label[i] ? f->yes : f->no), s = p * (1 - p);
        for (int r = 0; r < 3; r++) {
            g[r] += d * x[r];
            for (int c = 0; c < 3; c++) h[r][c] += s * x[r] * x[c];
        }
    }
    for (int k = 0; k < 2; k++) {
        bool used = k < f->n_part && f->use[k];
        h[k][k] += used ? f->ridge : 1;
        if (used) g[k] += f->ridge * (b->w[k] - 1.0 / f->n_part);
    }
    h[2][2] += 1e-9;
    solve3(h, g);
    for (int r = 0; r < 3; r++)
        if (fabs(g[r]) > most) most = fabs(g[r]);
    double scale = most > 2 ? 2 / most : 1; /* far from the optimum a full step may overshoot */
    for (int k = 0; k < f->n_part; k++)
        if (f->use[k]) b->w[k] -= scale * g[k];
    b->bias -= scale * g[2];
    return most;
}

void detect_blend(DetectBlend *out, const double *z, int n_part, const int32_t *label, int64_t n, double ridge) {
    CHECK(n_part == 1 || n_part == 2, "%d scorers", n_part);
    double pos = 0;
    for (int64_t i = 0; i < n; i++) pos += label[i] != 0;
    Blend f = {z, label, n, n_part, ridge, (pos + 1) / (pos + 2), 1 / ((double)n - pos + 2), {true, n_part == 2}};
    for (int round = 0; round < 2; round++) {
        *out = (DetectBlend){.bias = 0};
        for (int k = 0; k < n_part; k++) out->w[k] = f.use[k] ? 1.0 / n_part : 0;
        for (int s = 0; s < NEWTON && blend_step(out, &f) > 1e-10; s++) continue;
        bool drop = false;
        for (int k = 0; k < n_part; k++)
            if (out->w[k] < 0) f.use[k] = false, out->w[k] = 0, drop = true;
        if (!drop) return;
    }
}

double detect_reply_share(double whole, double shuffled) {
    if (!(whole > 0.5) || isnan(shuffled)) return NAN;
    double share = 1 - (shuffled - 0.5) / (whole - 0.5);
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

/* -- JSON ---------------------------------------------------------------------------------------------------------- */

void json_out_rate(JsonOut *j, const char *key, double hits, int64_t n) {
    Interval v = interval_wilson(hits, n);
    json_out_obj(j, key);
    json_out_num(j, "value", v.mean);
    json_out_num(j, "lo", v.lo);
    json_out_num(j, "hi", v.hi);
    json_out_num(j, "hits", hits);
    json_out_int(j, "n", n);
    json_out_obj_end(j);
}

void json_out_balanced_accuracy(JsonOut *j, const Detection *d) {
    json_out_num(j, "balanced_accuracy", d->tp + d->fn && d->fp + d->tn ? balanced_accuracy(d) : NAN);
}

void json_out_estimate(JsonOut *j, const char *key, Interval v) {
    if (isnan(v.mean)) {
        json_out_num(j, key, NAN);
        return;
    }
    json_out_obj(j, key);
    json_out_num(j, "value", v.mean);
    json_out_num(j, "lo", v.lo);
    json_out_num(j, "hi", v.hi);
    json_out_int(j, "n", v.n);
    json_out_obj_end(j);
}
