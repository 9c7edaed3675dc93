#include "eval/ngram.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/str.h"
#include "nn/safetensors.h"

enum { REQUEST, REPLY, OPENING, SENTENCES, WHOLE, PARTS }; /* places of the parts */
enum { PART = NGRAM_BUCKETS / PARTS, PASSES = 100, NEWTON = 40 };
static const double part_length[PARTS] = {NGRAM_REQUEST, 1, NGRAM_OPENING, NGRAM_SENTENCES, 1};
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
    int n, cap, base; /* base: first bucket of this part */
} Buckets;

static void put(Buckets *b, uint64_t kind, const char *s, size_t n) {
    uint64_t h = hash_bytes(s, n).lo ^ kind * 0x9E3779B97F4A7C15u;
    h ^= h >> 32;
    if (b->n == b->cap) b->at = mem_grow(b->at, (size_t)(b->cap = b->cap * 2 + 256) * sizeof *b->at);
    b->at[b->n++] = b->base + (int32_t)(h & (PART - 1));
}

static bool in_word(char c) {
    unsigned char u = (unsigned char)c;
    return u >= 0x80 || (u >= '0' && u <= '9') || (u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z');
}

/* Words in lower case with one blank after each; pairs and longer runs are neighbours with the blank between. At most
 * `most` words, runs of at most `run`. */
static void collect(Buckets *b, const char *s, Str *text, int most, int run) {
    size_t start[NGRAM_RUN] = {0}; /* of the last words, this one first */
    str_clear(text);
    for (int n = 1; n <= most; n++) {
        while (*s && !in_word(*s)) s++;
        if (!*s) break;
        for (int k = NGRAM_RUN - 1; k > 0; k--) start[k] = start[k - 1];
        start[0] = text->n;
        for (; in_word(*s); s++) str_putc(text, *s >= 'A' && *s <= 'Z' ? (char)(*s + 32) : *s);
        for (int k = 0; k < run && k < n; k++) put(b, (uint64_t)k + 1, text->s + start[k], text->n - start[k]);
        str_putc(text, ' ');
    }
}

/* The first words of each sentence, of each line, and behind a colon: one, two, .. NGRAM_RUN of them. */
static void collect_beginnings(Buckets *b, const char *s, Str *text) {
    static const char end[] = ".!?:;\n";
    while (*s) {
        const char *stop = s + strcspn(s, end);
        str_clear(text);
        for (int k = 1; k <= NGRAM_RUN; k++) {
            while (s < stop && !in_word(*s)) s++;
            if (s == stop) break;
            for (; s < stop && in_word(*s); s++) str_putc(text, *s >= 'A' && *s <= 'Z' ? (char)(*s + 32) : *s);
            put(b, (uint64_t)k, text->s, text->n);
            str_putc(text, ' ');
        }
        s = stop + strspn(stop, end);
    }
}

static int ascending(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Buckets of a text with how often each was hit, part after part, ascending. */
static void count_text(NgramRow *out, NgramText t) {
    Buckets b = {0};
    Str text = {0};
    collect(&b, t.request ? t.request : "", &text, INT_MAX, 2);
    b.base = REPLY * PART;
    collect(&b, t.reply ? t.reply : "", &text, INT_MAX, 2);
    b.base = OPENING * PART;
    collect(&b, t.reply ? t.reply : "", &text, NGRAM_OPENS, NGRAM_RUN);
    b.base = SENTENCES * PART;
    collect_beginnings(&b, t.reply ? t.reply : "", &text);
    b.base = WHOLE * PART;
    Str whole = {0};
    str_printf(&whole, "%s\n%s", t.request ? t.request : "", t.reply ? t.reply : "");
    collect(&b, str_get(&whole), &text, INT_MAX, 2);
    str_release(&whole);
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

static void scale_part(NgramRow *r, int from, int to, double length) {
    double norm = 0;
    for (int i = from; i < to; i++) norm += (double)r->x[i] * (double)r->x[i];
    norm = norm > 0 ? length / sqrt(norm) : 0;
    for (int i = from; i < to; i++) r->x[i] = (float)((double)r->x[i] * norm);
}

void ngram_row(NgramRow *out, const NgramModel *m, NgramText t) {
    NgramRow r;
    count_text(&r, t);
    int n = 0, end[PARTS] = {0};
    for (int i = 0; i < r.n; i++) {
        float idf = m->idf[r.at[i]];
        if (idf == 0) continue;
        r.at[n] = r.at[i];
        r.x[n++] = (float)((1 + log((double)r.x[i])) * (double)idf);
        end[r.at[n - 1] / PART] = n;
    }
    r.n = n;
    for (int k = 0, from = 0; k < PARTS; k++) {
        if (end[k] < from) end[k] = from;
        scale_part(&r, from, end[k], part_length[k]);
        from = end[k];
    }
    *out = r;
}

void ngram_row_release(NgramRow *r) {
    free(r->at);
    free(r->x);
    *r = (NgramRow){0};
}

void ngram_row_only(NgramRow *r, bool request) {
    int n = 0;
    for (int i = 0; i < r->n; i++) {
        if ((r->at[i] < PART) != request || r->at[i] >= WHOLE * PART) continue;
        r->at[n] = r->at[i];
        r->x[n++] = r->x[i];
    }
    r->n = n;
}

NgramRow ngram_reading(const NgramRow *r, NgramReading reading) {
    int n = 0;
    while (n < r->n && r->at[n] < WHOLE * PART) n++;
    return reading == NGRAM_APART ? (NgramRow){r->at, r->x, n} : (NgramRow){r->at + n, r->x + n, r->n - n};
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

NgramModel *ngram_like(const NgramModel *m) {
    NgramModel *out = blank(m->n_label);
    memcpy(out->idf, m->idf, NGRAM_BUCKETS * sizeof *out->idf);
    return out;
}

void ngram_mean(NgramModel *out, const NgramModel *a, const NgramModel *b, float share) {
    for (int64_t i = 0; i < (int64_t)out->n_label * NGRAM_BUCKETS; i++)
        out->w[i] = share * a->w[i] + (1 - share) * b->w[i];
    for (int k = 0; k < out->n_label; k++) out->bias[k] = share * a->bias[k] + (1 - share) * b->bias[k];
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

/* rows x cols numbers of the file at to, whose rows are `step` apart. */
static bool take(float *to, const StFile *f, const char *name, int64_t rows, int64_t cols, int64_t step,
                 const char *path, Error *err) {
    const StEntry *e = st_find(f, name);
    bool flat = e && e->n_dim == 1 && rows == 1 && e->dim[0] == cols;
    if (!e || strcmp(e->dtype, "F32") || !(flat || (e->n_dim == 2 && e->dim[0] == rows && e->dim[1] == cols)))
        return error_set(err, ERR_FORMAT, "%s: tensor '%s': expected F32, %lld x %lld", path, name, (long long)rows,
                         (long long)cols);
    const float *from = (const float *)e->data;
    for (int64_t i = 0; i < rows * cols; i++)
        if (!isfinite(from[i]))
            return error_set(err, ERR_FORMAT, "%s: tensor '%s': value %lld is not finite", path, name, (long long)i);
    for (int64_t r = 0; r < rows; r++) memcpy(to + r * step, from + r * cols, (size_t)cols * sizeof *to);
    return true;
}

/* Older files have two parts (request, reply), or four, without the sentences': the others' words then have no idf, so
 * that nothing counts there. */
static int64_t buckets_of(const StFile *f) {
    const StEntry *idf = st_find(f, "idf");
    int64_t n = idf && idf->n_dim == 1 ? idf->dim[0] : 0;
    return n == 2 * PART || n == 4 * PART ? n : NGRAM_BUCKETS;
}

/* Of four parts the last is the whole text. */
static void make_room(float *x) {
    memcpy(x + WHOLE * PART, x + SENTENCES * PART, PART * sizeof *x);
    memset(x + SENTENCES * PART, 0, PART * sizeof *x);
}

bool ngram_open(NgramModel **out, const char *path, Error *err) {
    StFile f;
    *out = NULL;
    if (!st_open(&f, path, err)) return false;
    const StEntry *bias = st_find(&f, "bias");
    bool ok = (bias && bias->n_dim == 1 && bias->dim[0] > 0 && bias->dim[0] <= 4096) ||
              error_set(err, ERR_FORMAT, "%s: no tensor 'bias' of one number per label", path);
    NgramModel *m = ok ? blank((int)bias->dim[0]) : NULL;
    int64_t n = buckets_of(&f);
    ok = ok && take(m->idf, &f, "idf", 1, n, n, path, err) &&
         take(m->w, &f, "weight", m->n_label, n, NGRAM_BUCKETS, path, err) &&
         take(m->bias, &f, "bias", 1, m->n_label, m->n_label, path, err);
    st_close(&f);
    if (ok && n == 4 * PART) {
        make_room(m->idf);
        for (int k = 0; k < m->n_label; k++) make_room(m->w + (int64_t)k * NGRAM_BUCKETS);
    }
    if (ok)
        *out = m;
    else
        ngram_free(m);
    return ok;
}
