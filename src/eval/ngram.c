#include "eval/ngram.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/str.h"
#include "nn/safetensors.h"

enum { HALF = NGRAM_BUCKETS / 2, PASSES = 100, NEWTON = 40 };
static const double STILL = 1e-4; /* of C: a pass that moves no row's weight further is the last */

struct NgramModel {
    int n_label;
    float *idf;  /* (BUCKETS), 0: not used */
    float *w;    /* (n_label, BUCKETS) */
    float *bias; /* (n_label): weight of the constant */
};

/* -- features ------------------------------------------------------------------------------------------------------ */

typedef struct {
    int32_t *at;
    int n, cap, base; /* base: first bucket of this half */
} Buckets;

static void put(Buckets *b, uint64_t kind, const char *s, size_t n) {
    uint64_t h = hash_bytes(s, n).lo ^ kind * 0x9E3779B97F4A7C15u;
    h ^= h >> 32;
    if (b->n == b->cap) b->at = mem_grow(b->at, (size_t)(b->cap = b->cap * 2 + 256) * sizeof *b->at);
    b->at[b->n++] = b->base + (int32_t)(h & (HALF - 1));
}

static bool in_word(char c) {
    unsigned char u = (unsigned char)c;
    return u >= 0x80 || (u >= '0' && u <= '9') || (u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z');
}

/* Words in lower case with one blank after each; a pair is two of them with the blank between. */
static void collect(Buckets *b, const char *s, Str *text) {
    str_clear(text);
    size_t before = 0;
    for (bool first = true; *s; first = false) {
        while (*s && !in_word(*s)) s++;
        if (!*s) break;
        size_t word = text->n;
        for (; in_word(*s); s++) str_putc(text, *s >= 'A' && *s <= 'Z' ? (char)(*s + 32) : *s);
        put(b, 1, text->s + word, text->n - word);
        if (!first) put(b, 2, text->s + before, text->n - before);
        str_putc(text, ' ');
        before = word;
    }
}

static int ascending(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Buckets of a text with how often each was hit, both halves, ascending. */
static void count_text(NgramRow *out, NgramText t) {
    Buckets b = {0};
    Str text = {0};
    collect(&b, t.request ? t.request : "", &text);
    b.base = HALF;
    collect(&b, t.reply ? t.reply : "", &text);
    str_release(&text);
    if (b.n) qsort(b.at, (size_t)b.n, sizeof *b.at, ascending);
    *out = (NgramRow){b.at, mem_alloc((size_t)(b.n + 1) * sizeof *out->x), 0};
    for (int i = 0; i < b.n; out->n++) {
        int first = i;
        while (i < b.n && b.at[i] == b.at[first]) i++;
        out->x[out->n] = (float)(i - first);
        b.at[out->n] = b.at[first];
    }
}

static void scale_half(NgramRow *r, int from, int to, double length) {
    double norm = 0;
    for (int i = from; i < to; i++) norm += (double)r->x[i] * (double)r->x[i];
    norm = norm > 0 ? length / sqrt(norm) : 0;
    for (int i = from; i < to; i++) r->x[i] = (float)((double)r->x[i] * norm);
}

void ngram_row(NgramRow *out, const NgramModel *m, NgramText t) {
    NgramRow r;
    count_text(&r, t);
    int n = 0, half = 0;
    for (int i = 0; i < r.n; i++) {
        float idf = m->idf[r.at[i]];
        if (idf == 0) continue;
        half += r.at[i] < HALF;
        r.at[n] = r.at[i];
        r.x[n++] = (float)((1 + log((double)r.x[i])) * (double)idf);
    }
    r.n = n;
    scale_half(&r, 0, half, NGRAM_REQUEST);
    scale_half(&r, half, n, 1);
    *out = r;
}

void ngram_row_release(NgramRow *r) {
    free(r->at);
    free(r->x);
    *r = (NgramRow){0};
}

/* -- life ---------------------------------------------------------------------------------------------------------- */

static NgramModel *blank(int n_label) {
    NgramModel *m = mem_alloc(sizeof *m);
    m->n_label = n_label;
    m->idf = mem_alloc(NGRAM_BUCKETS * sizeof *m->idf);
    m->w = mem_alloc((size_t)n_label * NGRAM_BUCKETS * sizeof *m->w);
    m->bias = mem_alloc((size_t)n_label * sizeof *m->bias);
    return m;
}

NgramModel *ngram_new(const NgramText *text, int64_t n, int n_label) {
    NgramModel *m = blank(n_label);
    for (int64_t i = 0; i < n; i++) {
        NgramRow r;
        count_text(&r, text[i]);
        for (int k = 0; k < r.n; k++) m->idf[r.at[k]] += 1;
        ngram_row_release(&r);
    }
    for (int j = 0; j < NGRAM_BUCKETS; j++)
        m->idf[j] = m->idf[j] < 2 ? 0 : (float)(1 + log((1 + (double)n) / (1 + (double)m->idf[j])));
    return m;
}

void ngram_free(NgramModel *m) {
    if (!m) return;
    free(m->idf);
    free(m->w);
    free(m->bias);
    free(m);
}

int ngram_labels(const NgramModel *m) { return m->n_label; }

/* -- fitting ------------------------------------------------------------------------------------------------------- */

typedef struct {
    NgramModel *m;
    const NgramRow *row;
    const float *label;
    int64_t n;
    double c;
    Rng rng;
} Fit;

static double dot(const double *w, const NgramRow *r) {
    double s = w[NGRAM_BUCKETS];
    for (int i = 0; i < r->n; i++) s += w[r->at[i]] * (double)r->x[i];
    return s;
}

static double sigmoid_of(double u) { return u >= 0 ? 1 / (1 + exp(-u)) : exp(u) / (1 + exp(u)); }

/* The dual of one row: alpha = C s(u) where u + q (C s(u) - alpha_old) + b = 0, q = |x|^2, b = y w.x. The left side
 * rises by at least 1 per unit of u, so the root lies between where s is 1 and where it is 0; Newton inside that
 * bracket. */
static double solve_row(double alpha, double q, double b, double c) {
    double lo = q * (alpha - c) - b, hi = q * alpha - b, u = log(alpha / (c - alpha));
    if (!(u > lo && u < hi)) u = (lo + hi) / 2;
    for (int k = 0; k < NEWTON; k++) {
        double s = sigmoid_of(u), h = u + q * (c * s - alpha) + b;
        if (h > 0)
            hi = u;
        else
            lo = u;
        double next = u - h / (1 + q * c * s * (1 - s));
        if (!(next > lo && next < hi)) next = (lo + hi) / 2;
        if (fabs(next - u) < 1e-10) break;
        u = next;
    }
    double out = c * sigmoid_of(u), edge = c * 1e-12;
    return out < edge ? edge : out > c - edge ? c - edge : out;
}

static void fit_label(void *ud, int64_t k, int thread) {
    const Fit *f = ud;
    (void)thread;
    int64_t *order = mem_alloc((size_t)(f->n + 1) * sizeof *order), n = 0, pos = 0;
    double *w = mem_alloc((NGRAM_BUCKETS + 1) * sizeof *w), *alpha = mem_alloc((size_t)(f->n + 1) * sizeof *alpha);
    int64_t *use = mem_alloc((size_t)(f->n + 1) * sizeof *use);
    for (int64_t i = 0; i < f->n; i++) {
        float y = f->label[i * f->m->n_label + k];
        if (isnan(y)) continue;
        use[n++] = i;
        pos += y > 0.5F;
    }
    if (pos == 0 || pos == n) { /* nothing tells the rows apart: the log-odds of one pseudo-row on the other side */
        f->m->bias[k] = (float)log(((double)pos + 0.5) / ((double)(n - pos) + 0.5));
        n = 0;
    }
    for (int64_t i = 0; i < n; i++) {
        const NgramRow *r = &f->row[use[i]];
        double y = f->label[use[i] * f->m->n_label + k] > 0.5F ? 1 : -1;
        alpha[i] = f->c * 1e-3;
        for (int j = 0; j < r->n; j++) w[r->at[j]] += y * alpha[i] * (double)r->x[j];
        w[NGRAM_BUCKETS] += y * alpha[i];
    }
    double moved = 1;
    for (int pass = 0; pass < PASSES && n && moved > STILL * f->c; pass++) {
        moved = 0;
        rng_shuffle(f->rng, (uint64_t)(k * PASSES + pass), order, n);
        for (int64_t o = 0; o < n; o++) {
            int64_t i = order[o];
            const NgramRow *r = &f->row[use[i]];
            double y = f->label[use[i] * f->m->n_label + k] > 0.5F ? 1 : -1, q = 1;
            for (int j = 0; j < r->n; j++) q += (double)r->x[j] * (double)r->x[j];
            double next = solve_row(alpha[i], q, y * dot(w, r), f->c), step = y * (next - alpha[i]);
            if (fabs(step) > moved) moved = fabs(step);
            alpha[i] = next;
            for (int j = 0; j < r->n; j++) w[r->at[j]] += step * (double)r->x[j];
            w[NGRAM_BUCKETS] += step;
        }
    }
    if (n) {
        for (int j = 0; j < NGRAM_BUCKETS; j++) f->m->w[k * NGRAM_BUCKETS + j] = (float)w[j];
        f->m->bias[k] = (float)w[NGRAM_BUCKETS];
    }
    free(order);
    free(w);
    free(alpha);
    free(use);
}

void ngram_fit(NgramModel *m, const NgramRow *row, const float *label, int64_t n, int n_fit, double c, Rng rng,
               Pool *pool) {
    Fit f = {m, row, label, n, c, rng};
    memset(m->w, 0, (size_t)m->n_label * NGRAM_BUCKETS * sizeof *m->w);
    memset(m->bias, 0, (size_t)m->n_label * sizeof *m->bias);
    if (pool)
        pool_for(pool, n_fit, fit_label, &f);
    else
        for (int k = 0; k < n_fit; k++) fit_label(&f, k, 0);
}

void ngram_score(const NgramModel *m, const NgramRow *row, double *z) {
    for (int k = 0; k < m->n_label; k++) {
        const float *w = m->w + (int64_t)k * NGRAM_BUCKETS;
        z[k] = (double)m->bias[k];
        for (int i = 0; i < row->n; i++) z[k] += (double)w[row->at[i]] * (double)row->x[i];
    }
}

/* -- files --------------------------------------------------------------------------------------------------------- */

bool ngram_save(const NgramModel *m, const char *path, Error *err) {
    const StOut t[] = {
        {"idf", "F32", 1, {NGRAM_BUCKETS}, m->idf, NGRAM_BUCKETS * sizeof(float)},
        {"weight", "F32", 2, {m->n_label, NGRAM_BUCKETS}, m->w, (size_t)m->n_label * NGRAM_BUCKETS * sizeof(float)},
        {"bias", "F32", 1, {m->n_label}, m->bias, (size_t)m->n_label * sizeof(float)}};
    return st_write(path, t, COUNT_OF(t), err);
}

static bool take(float *to, const StFile *f, const char *name, int n_dim, int64_t rows, int64_t cols, const char *path,
                 Error *err) {
    const StEntry *e = st_find(f, name);
    if (!e || strcmp(e->dtype, "F32") || e->n_dim != n_dim || e->dim[0] != rows || (n_dim == 2 && e->dim[1] != cols))
        return error_set(err, ERR_FORMAT, "%s: tensor '%s': expected F32, %lld x %lld", path, name, (long long)rows,
                         (long long)cols);
    memcpy(to, e->data, e->bytes);
    for (size_t i = 0; i < e->bytes / sizeof(float); i++)
        if (!isfinite(to[i]))
            return error_set(err, ERR_FORMAT, "%s: tensor '%s': value %zu is not finite", path, name, i);
    return true;
}

bool ngram_open(NgramModel **out, const char *path, Error *err) {
    StFile f;
    *out = NULL;
    if (!st_open(&f, path, err)) return false;
    const StEntry *bias = st_find(&f, "bias");
    bool ok = (bias && bias->n_dim == 1 && bias->dim[0] > 0 && bias->dim[0] <= 4096) ||
              error_set(err, ERR_FORMAT, "%s: no tensor 'bias' of one number per label", path);
    NgramModel *m = ok ? blank((int)bias->dim[0]) : NULL;
    ok = ok && take(m->idf, &f, "idf", 1, NGRAM_BUCKETS, 1, path, err) &&
         take(m->w, &f, "weight", 2, m->n_label, NGRAM_BUCKETS, path, err) &&
         take(m->bias, &f, "bias", 1, m->n_label, 1, path, err);
    st_close(&f);
    if (ok)
        *out = m;
    else
        ngram_free(m);
    return ok;
}
