#include "eval/ngram.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/str.h"
#include "nn/safetensors.h"

enum { PART = NGRAM_BUCKETS / NGRAM_PARTS, PASSES = 100, NEWTON = 40 };
enum { SENTENCES = 3, WHOLE = 4 }; /* places: what older files lack; what is weighed by ratio, the last */

/* The parts by their place in a row; those of a reading are neighbours. */
static const struct {
    bool request, reply; /* whose words */
    int most, run;       /* words at most, and how many together; most 0: beginnings of sentences */
    double length;
    NgramReading reading;
} part_of[NGRAM_PARTS] = {{true, false, INT_MAX, 2, NGRAM_REQUEST, NGRAM_APART},
                          {false, true, INT_MAX, 2, 1, NGRAM_APART},
                          {false, true, NGRAM_OPENS, NGRAM_RUN, NGRAM_OPENING, NGRAM_APART},
                          {false, true, 0, NGRAM_RUN, NGRAM_SENTENCES, NGRAM_APART},
                          {true, true, INT_MAX, 2, 1, NGRAM_TOGETHER}};
static const float share_of[NGRAM_READINGS] = {2 / 3.0F, 1 / 3.0F}; /* in the mean */
static const double STILL = 1e-4; /* of C: a pass that moves no row's weight further is the last */

struct NgramModel {
    int n_label;
    float *idf;   /* (BUCKETS), 0: not used; with ratios 1 in WHOLE */
    float *ratio; /* (n_label, PART) of WHOLE; NULL: idf there too, a file of before */
    float *w;     /* (n_label, BUCKETS) */
    float *bias;  /* (n_label): weight of the constant */
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

/* The first words of each sentence, of each line, and behind a colon: one, two, .. `run` of them. */
static void collect_beginnings(Buckets *b, const char *s, Str *text, int run) {
    static const char end[] = ".!?:;\n";
    while (*s) {
        const char *stop = s + strcspn(s, end);
        str_clear(text);
        for (int k = 1; k <= run; k++) {
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
    Str text = {0}, whole = {0};
    const char *request = t.request ? t.request : "", *reply = t.reply ? t.reply : "";
    str_printf(&whole, "%s\n%s", request, reply);
    for (int p = 0; p < NGRAM_PARTS; p++) {
        const char *s = !part_of[p].reply ? request : !part_of[p].request ? reply : str_get(&whole);
        b.base = p * PART;
        if (part_of[p].most)
            collect(&b, s, &text, part_of[p].most, part_of[p].run);
        else
            collect_beginnings(&b, s, &text, part_of[p].run);
    }
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

static bool by_ratio(const NgramModel *m, int part) { return m->ratio && part == WHOLE; }

void ngram_row(NgramRow *out, const NgramModel *m, NgramText t) {
    NgramRow r;
    count_text(&r, t);
    int n = 0, end[NGRAM_PARTS] = {0};
    for (int i = 0; i < r.n; i++) {
        float idf = m->idf[r.at[i]];
        int part = r.at[i] / PART;
        if (idf == 0) continue;
        r.at[n] = r.at[i];
        r.x[n++] = by_ratio(m, part) ? 1 : (float)((1 + log((double)r.x[i])) * (double)idf);
        end[part] = n;
    }
    r.n = n;
    for (int k = 0, from = 0; k < NGRAM_PARTS; k++) {
        if (end[k] < from) end[k] = from;
        if (!by_ratio(m, k)) scale_part(&r, from, end[k], part_of[k].length);
        from = end[k];
    }
    *out = r;
}

NgramRow ngram_seen(const NgramModel *m, int k, const NgramRow *r, float *x) {
    NgramRow out = {r->at, x, r->n};
    int from = r->n;
    while (m->ratio && from > 0 && r->at[from - 1] >= WHOLE * PART) from--;
    for (int i = 0; i < r->n; i++) x[i] = i < from ? r->x[i] : m->ratio[(int64_t)k * PART + r->at[i] - WHOLE * PART];
    scale_part(&out, from, r->n, part_of[WHOLE].length);
    return out;
}

void ngram_row_release(NgramRow *r) {
    free(r->at);
    free(r->x);
    *r = (NgramRow){0};
}

void ngram_row_only(NgramRow *r, bool request) {
    int n = 0;
    for (int i = 0; i < r->n; i++) {
        int p = r->at[i] / PART;
        if (part_of[p].request != request || part_of[p].reply == request) continue;
        r->at[n] = r->at[i];
        r->x[n++] = r->x[i];
    }
    r->n = n;
}

NgramRow ngram_reading(const NgramRow *r, NgramReading reading) {
    int from = 0, n = 0;
    while (from < r->n && part_of[r->at[from] / PART].reading < reading) from++;
    while (from + n < r->n && part_of[r->at[from + n] / PART].reading == reading) n++;
    return (NgramRow){r->at + from, r->x + from, n};
}

/* -- life ---------------------------------------------------------------------------------------------------------- */

static NgramModel *blank(int n_label) {
    NgramModel *m = mem_alloc(sizeof *m);
    m->n_label = n_label;
    m->idf = mem_alloc(NGRAM_BUCKETS * sizeof *m->idf);
    m->ratio = mem_alloc((size_t)n_label * PART * sizeof *m->ratio);
    m->w = mem_alloc((size_t)n_label * NGRAM_BUCKETS * sizeof *m->w);
    m->bias = mem_alloc((size_t)n_label * sizeof *m->bias);
    return m;
}

/* Rows with each word of WHOLE, by label k: p and q of its two kinds; p becomes r. */
static void weigh_by_ratio(float *p, const float *q, const float *df) {
    double sum_p = 0, sum_q = 0;
    for (int j = 0; j < PART; j++) {
        if (df[j] < 2) continue;
        sum_p += 1 + (double)p[j];
        sum_q += 1 + (double)q[j];
    }
    for (int j = 0; j < PART; j++)
        p[j] = df[j] < 2 ? 0 : (float)(log((1 + (double)p[j]) / sum_p) - log((1 + (double)q[j]) / sum_q));
}

static void count_kinds(float *p, float *q, const NgramRow *r, const float *label, int n_label) {
    for (int i = r->n - 1; i >= 0 && r->at[i] >= WHOLE * PART; i--) {
        int j = r->at[i] - WHOLE * PART;
        for (int k = 0; k < n_label; k++)
            if (!isnan(label[k])) (label[k] > 0.5F ? p : q)[k * PART + j] += 1;
    }
}

NgramModel *ngram_new(const NgramText *text, const float *label, int64_t n, int n_label) {
    NgramModel *m = blank(n_label);
    float *q = mem_alloc((size_t)n_label * PART * sizeof *q), *df = m->idf;
    for (int64_t i = 0; i < n; i++) {
        NgramRow r;
        count_text(&r, text[i]);
        for (int k = 0; k < r.n; k++) df[r.at[k]] += 1;
        count_kinds(m->ratio, q, &r, label + i * n_label, n_label);
        ngram_row_release(&r);
    }
    for (int k = 0; k < n_label; k++) weigh_by_ratio(m->ratio + k * PART, q + k * PART, df + WHOLE * PART);
    for (int j = 0; j < NGRAM_BUCKETS; j++) {
        double idf = j < WHOLE * PART ? 1 + log((1 + (double)n) / (1 + (double)df[j])) : 1;
        m->idf[j] = df[j] < 2 ? 0 : (float)idf;
    }
    free(q);
    return m;
}

void ngram_free(NgramModel *m) {
    if (!m) return;
    free(m->idf);
    free(m->ratio);
    free(m->w);
    free(m->bias);
    free(m);
}

static void clear(NgramModel *m) {
    memset(m->w, 0, (size_t)m->n_label * NGRAM_BUCKETS * sizeof *m->w);
    memset(m->bias, 0, (size_t)m->n_label * sizeof *m->bias);
}

NgramModel *ngram_like(const NgramModel *m) {
    CHECK(m->ratio, "models are made like those that are fitted, not like files of before");
    NgramModel *out = blank(m->n_label);
    memcpy(out->idf, m->idf, NGRAM_BUCKETS * sizeof *out->idf);
    memcpy(out->ratio, m->ratio, (size_t)m->n_label * PART * sizeof *out->ratio);
    return out;
}

void ngram_mean(NgramModel *out, NgramModel *const model[NGRAM_READINGS]) {
    clear(out);
    for (int k = 0; k < NGRAM_READINGS; k++) {
        for (int64_t i = 0; i < (int64_t)out->n_label * NGRAM_BUCKETS; i++) out->w[i] += share_of[k] * model[k]->w[i];
        for (int i = 0; i < out->n_label; i++) out->bias[i] += share_of[k] * model[k]->bias[i];
    }
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
    double *sign = mem_alloc((size_t)(f->n + 1) * sizeof *sign);
    NgramRow *row = mem_alloc((size_t)(f->n + 1) * sizeof *row);
    for (int64_t i = 0; i < f->n; i++) {
        float y = f->label[i * f->m->n_label + k];
        if (isnan(y)) continue;
        row[n] = ngram_seen(f->m, (int)k, &f->row[i], mem_alloc((size_t)(f->row[i].n + 1) * sizeof *f->row[i].x));
        sign[n++] = y > 0.5F ? 1 : -1;
        pos += y > 0.5F;
    }
    const int64_t n_row = n;
    if (pos == 0 || pos == n) { /* nothing tells the rows apart: the log-odds of one pseudo-row on the other side */
        f->m->bias[k] = (float)log(((double)pos + 0.5) / ((double)(n - pos) + 0.5));
        n = 0;
    }
    for (int64_t i = 0; i < n; i++) {
        const NgramRow *r = &row[i];
        double y = sign[i];
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
            const NgramRow *r = &row[i];
            double y = sign[i], q = 1;
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
    free(sign);
    for (int64_t i = 0; i < n_row; i++) free(row[i].x);
    free(row);
}

void ngram_fit(NgramModel *m, const NgramRow *row, const float *label, int64_t n, int n_fit, double c, Rng rng,
               Pool *pool) {
    Fit f = {m, row, label, n, c, rng};
    clear(m);
    if (pool)
        pool_for(pool, n_fit, fit_label, &f);
    else
        for (int k = 0; k < n_fit; k++) fit_label(&f, k, 0);
}

void ngram_score(const NgramModel *m, const NgramRow *row, double *z) {
    float *x = mem_alloc((size_t)(row->n + 1) * sizeof *x);
    for (int k = 0; k < m->n_label; k++) {
        const float *w = m->w + (int64_t)k * NGRAM_BUCKETS;
        const NgramRow r = ngram_seen(m, k, row, x);
        z[k] = (double)m->bias[k];
        for (int i = 0; i < r.n; i++) z[k] += (double)w[r.at[i]] * (double)r.x[i];
    }
    free(x);
}

/* -- files --------------------------------------------------------------------------------------------------------- */

bool ngram_save(const NgramModel *m, const char *path, Error *err) {
    const int64_t n_idf = WHOLE * PART;
    CHECK(m->ratio, "only what was fitted is saved");
    const StOut t[] = {
        {"idf", "F32", 1, {n_idf}, m->idf, (size_t)n_idf * sizeof(float)},
        {"ratio", "F32", 2, {m->n_label, PART}, m->ratio, (size_t)m->n_label * PART * sizeof(float)},
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

/* Files without ratios are older: idf in all parts, of which there are two (request, reply), four, without the
 * sentences', or five. The words of parts that are not there have no idf, so that nothing counts in them. */
static int64_t buckets_of(const StFile *f) {
    const StEntry *idf = st_find(f, "idf");
    int64_t n = idf && idf->n_dim == 1 ? idf->dim[0] : 0;
    return !st_find(f, "ratio") && (n == 2 * PART || n == 4 * PART) ? n : NGRAM_BUCKETS;
}

/* Of four parts the last is the whole text. */
static void make_room(float *x) {
    memcpy(x + WHOLE * PART, x + SENTENCES * PART, PART * sizeof *x);
    memset(x + SENTENCES * PART, 0, PART * sizeof *x);
}

/* A word without a ratio was in fewer than two rows. */
static void use_ratios(NgramModel *m) {
    for (int i = 0; i < m->n_label * PART; i++)
        if (m->ratio[i] != 0) m->idf[WHOLE * PART + i % PART] = 1;
}

bool ngram_open(NgramModel **out, const char *path, Error *err) {
    StFile f;
    *out = NULL;
    if (!st_open(&f, path, err)) return false;
    const StEntry *bias = st_find(&f, "bias");
    bool ok = (bias && bias->n_dim == 1 && bias->dim[0] > 0 && bias->dim[0] <= 4096) ||
              error_set(err, ERR_FORMAT, "%s: no tensor 'bias' of one number per label", path);
    NgramModel *m = ok ? blank((int)bias->dim[0]) : NULL;
    const bool ratios = st_find(&f, "ratio") != NULL;
    const int64_t n = buckets_of(&f), n_idf = ratios ? WHOLE * PART : n;
    ok = ok && take(m->idf, &f, "idf", 1, n_idf, n_idf, path, err) &&
         (!ratios || take(m->ratio, &f, "ratio", m->n_label, PART, PART, path, err)) &&
         take(m->w, &f, "weight", m->n_label, n, NGRAM_BUCKETS, path, err) &&
         take(m->bias, &f, "bias", 1, m->n_label, m->n_label, path, err);
    st_close(&f);
    if (ok && ratios) use_ratios(m);
    if (ok && !ratios) free(m->ratio), m->ratio = NULL;
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
