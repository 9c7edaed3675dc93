/* What follows from the order of scores, and standard errors. */
#include "eval/pyrandom.h"
#include "eval/stats.h"

#include <math.h>
#include <stdlib.h>

/* -- thresholds from high to low ------------------------------------------------------------------------------------
 */

typedef struct {
    double score;
    int32_t label;
} Scored;

static int downwards(const void *a, const void *b) {
    double x = ((const Scored *)a)->score, y = ((const Scored *)b)->score;
    return (x < y) - (x > y);
}

/* NULL when a score is NaN: it has no place. *pos counts positive labels. */
static Scored *sorted(const double *score, const int32_t *label, int64_t n, int64_t *pos) {
    for (int64_t i = 0; i < n; i++)
        if (isnan(score[i])) return NULL;
    Scored *s = mem_alloc((size_t)(n + 1) * sizeof *s);
    *pos = 0;
    for (int64_t i = 0; i < n; i++) s[i] = (Scored){score[i], label[i] != 0}, *pos += label[i] != 0;
    qsort(s, (size_t)n, sizeof *s, downwards);
    return s;
}

double average_precision(const double *score, const int32_t *label, int64_t n) {
    int64_t pos;
    Scored *s = sorted(score, label, n, &pos);
    if (!s) return NAN;
    double out = 0;
    for (int64_t i = 0, hit = 0; i < n;) {
        int64_t before = hit;
        double at = s[i].score;
        for (; i < n && s[i].score >= at; i++) hit += s[i].label;
        out += (double)(hit - before) * ((double)hit / (double)i);
    }
    free(s);
    return pos ? out / (double)pos : NAN;
}

double recall_at_fpr(const double *score, const int32_t *label, int64_t n, double most, double *threshold) {
    int64_t pos;
    Scored *s = sorted(score, label, n, &pos);
    if (!s) return NAN;
    double best = 0, from = INFINITY;
    for (int64_t i = 0, hit = 0; i < n;) {
        double at = s[i].score;
        for (; i < n && s[i].score >= at; i++) hit += s[i].label;
        if ((double)(i - hit) > most * (double)(n - pos)) break;
        if ((double)hit > best) best = (double)hit, from = at;
    }
    free(s);
    if (threshold) *threshold = from;
    return pos ? best / (double)pos : NAN;
}

/* -- standard errors ------------------------------------------------------------------------------------------------
 */

double mean_of(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return n ? sum / (double)n : NAN;
}

static double deviation(const double *x, int64_t n) {
    double mean = mean_of(x, n), squares = 0;
    for (int64_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    return n > 1 ? sqrt(squares / (double)(n - 1)) : NAN;
}

double stderr_mean(const double *x, int64_t n) { return deviation(x, n) / sqrt((double)n); }

double stderr_group(const double *se, const int64_t *size, int n, bool weighted) {
    double sum = 0, all = 0;
    for (int i = 0; i < n; i++) {
        double m = (double)size[i];
        sum += weighted ? (m - 1) * se[i] * se[i] * m : se[i] * se[i];
        all += m;
    }
    return weighted ? sqrt(sum / (all - n) / all) : sqrt(sum) / n;
}

enum { CHUNK = 1000 };
typedef struct {
    const double *x;
    int64_t n;
    double *out; /* (chunks, CHUNK) */
} Resample;

static void resample_chunk(void *ud, int64_t chunk, int thread) {
    const Resample *r = ud;
    (void)thread;
    PyRandom random;
    pyrandom_seed(&random, (uint64_t)chunk);
    for (int d = 0; d < CHUNK; d++) {
        double sum = 0;
        for (int64_t i = 0; i < r->n; i++) sum += r->x[(int64_t)(pyrandom_unit(&random) * (double)r->n)];
        r->out[chunk * CHUNK + d] = exp(-(sum / (double)r->n));
    }
}

double stderr_perplexity(const double *x, int64_t n, int n_draw, Pool *pool) {
    int chunks = n_draw / CHUNK;
    if (n < 1 || chunks < 1) return NAN;
    Resample r = {x, n, mem_alloc((size_t)chunks * CHUNK * sizeof *r.out)};
    for (int c = 0; !pool && c < chunks; c++) resample_chunk(&r, c, 0);
    if (pool) pool_for(pool, chunks, resample_chunk, &r);
    double out = deviation(r.out, (int64_t)chunks * CHUNK);
    free(r.out);
    return out;
}
