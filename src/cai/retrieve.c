#include "cai/retrieve.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cai/terms.h"

static const double K1 = 1.2, B = 0.75, ALIKE = 0.5, ALIKE_MIN = 0.35;
enum { ALIKE_MOST = 5, RUN_SHORT = 3, RUN_LONG = 4, MAX_RUNS = 2 * TERM_BYTES };

typedef struct {
    uint64_t hash;
    int doc, count;
} Posting;
typedef struct { /* a word of the documents, in letters */
    uint64_t hash;
    int n_run;
} Spelt;
typedef struct {
    uint64_t run;
    int spelt;
} Run;

struct Retrieve {
    Posting *posting; /* sorted by (hash, doc) */
    int n_posting, cap;
    int length[RETRIEVE_DOCS], n_doc; /* words */
    double mean_length;
    unsigned terms;
    bool alike;
    Spelt *spelt; /* alike: sorted by hash once ready */
    int n_spelt, cap_spelt;
    Run *run; /* sorted by (run, spelt) */
    int n_run, cap_run;
};

Retrieve *retrieve_new(unsigned terms, bool alike) {
    Retrieve *r = mem_alloc(sizeof *r);
    r->terms = terms;
    r->alike = alike;
    return r;
}

void retrieve_free(Retrieve *r) {
    if (!r) return;
    free(r->posting);
    free(r->spelt);
    free(r->run);
    free(r);
}

/* -- words alike --------------------------------------------------------------------------------------------------- */

static uint64_t run_hash(const char *s, int n) {
    uint64_t h = (uint64_t)n;
    for (int i = 0; i < n; i++) h = h << 8 | (unsigned char)s[i];
    return h;
}

static int by_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Distinct runs of letters of "^term$". */
static int runs_of(uint64_t out[MAX_RUNS], const char *term) {
    char s[TERM_BYTES + 3];
    int n = snprintf(s, sizeof s, "^%s$", term), m = 0, k = 0;
    for (int len = RUN_SHORT; len <= RUN_LONG; len++)
        for (int i = 0; i + len <= n; i++) out[m++] = run_hash(s + i, len);
    qsort(out, (size_t)m, sizeof *out, by_u64);
    for (int i = 0; i < m; i++)
        if (!i || out[i] != out[i - 1]) out[k++] = out[i];
    return k;
}

static void put_spelt(Retrieve *r, const char *text, const Word *w) {
    char term[TERM_BYTES];
    uint64_t run[MAX_RUNS];
    for (int i = 0; i < r->n_spelt; i++)
        if (r->spelt[i].hash == w->hash) return;
    if (!term_letters(term, text, w, r->terms)) return;
    if (r->n_spelt == r->cap_spelt) {
        r->cap_spelt = r->cap_spelt ? 2 * r->cap_spelt : 256;
        r->spelt = mem_grow(r->spelt, (size_t)r->cap_spelt * sizeof *r->spelt);
    }
    int n = runs_of(run, term);
    for (int i = 0; i < n; i++) {
        if (r->n_run == r->cap_run) {
            r->cap_run = r->cap_run ? 2 * r->cap_run : 1024;
            r->run = mem_grow(r->run, (size_t)r->cap_run * sizeof *r->run);
        }
        r->run[r->n_run++] = (Run){run[i], r->n_spelt};
    }
    r->spelt[r->n_spelt++] = (Spelt){w->hash, n};
}

static int by_run(const void *a, const void *b) {
    const Run *x = a, *y = b;
    if (x->run != y->run) return x->run < y->run ? -1 : 1;
    return (x->spelt > y->spelt) - (x->spelt < y->spelt);
}

/* -- the documents ------------------------------------------------------------------------------------------------- */

void retrieve_add(Retrieve *r, int doc, const char *text) {
    CHECK(doc >= 0 && doc < RETRIEVE_DOCS, "document %d", doc);
    Words w = terms_of(text, r->terms);
    for (int i = 0; i < w.n; i++) {
        if (r->n_posting == r->cap) {
            r->cap = r->cap ? 2 * r->cap : 256;
            r->posting = mem_grow(r->posting, (size_t)r->cap * sizeof *r->posting);
        }
        r->posting[r->n_posting++] = (Posting){w.word[i].hash, doc, 1};
        if (r->alike) put_spelt(r, text, &w.word[i]);
    }
    r->length[doc] += w.n;
    words_release(&w);
}

static int by_hash_doc(const void *a, const void *b) {
    const Posting *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return (x->doc > y->doc) - (x->doc < y->doc);
}

/* Equal (word, document) become one posting with a count. */
void retrieve_ready(Retrieve *r, int n_doc) {
    int n = 0;
    if (r->n_posting) qsort(r->posting, (size_t)r->n_posting, sizeof *r->posting, by_hash_doc);
    for (int i = 0; i < r->n_posting; i++) {
        if (n && !by_hash_doc(&r->posting[n - 1], &r->posting[i]))
            r->posting[n - 1].count++;
        else
            r->posting[n++] = r->posting[i];
    }
    r->n_posting = n;
    r->n_doc = n_doc;
    r->mean_length = 0;
    for (int d = 0; d < RETRIEVE_DOCS; d++) r->mean_length += r->length[d];
    r->mean_length /= n_doc;
    if (r->n_run) qsort(r->run, (size_t)r->n_run, sizeof *r->run, by_run);
}

static int first_posting(const Retrieve *r, uint64_t hash) {
    int lo = 0, hi = r->n_posting;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (r->posting[mid].hash < hash)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* A word of the documents; returns whether it is one. */
static bool add_word(const Retrieve *r, double score[RETRIEVE_DOCS], uint64_t hash, double weight) {
    int first = first_posting(r, hash), end = first;
    while (end < r->n_posting && r->posting[end].hash == hash) end++;
    double df = end - first, idf = log(1 + (r->n_doc - df + 0.5) / (df + 0.5));
    for (int k = first; k < end; k++) {
        const Posting *p = &r->posting[k];
        double tf = p->count, norm = K1 * (1 - B + B * r->length[p->doc] / r->mean_length);
        score[p->doc] += weight * (idf * tf * (K1 + 1) / (tf + norm));
    }
    return end > first;
}

/* Nearest words first, equal ones in the documents' order. */
static void add_alike(const Retrieve *r, double score[RETRIEVE_DOCS], const char *term, double weight) {
    uint64_t run[MAX_RUNS];
    int n = runs_of(run, term), n_near = 0, *shared = mem_alloc((size_t)(r->n_spelt + 1) * sizeof *shared);
    struct {
        int spelt;
        double dice;
    } near[ALIKE_MOST];
    for (int i = 0; i < n; i++) {
        int lo = 0, hi = r->n_run;
        while (lo < hi) {
            int mid = lo + (hi - lo) / 2;
            if (r->run[mid].run < run[i])
                lo = mid + 1;
            else
                hi = mid;
        }
        for (; lo < r->n_run && r->run[lo].run == run[i]; lo++) shared[r->run[lo].spelt]++;
    }
    for (int v = 0; v < r->n_spelt; v++) {
        double dice = 2.0 * shared[v] / (n + r->spelt[v].n_run);
        if (dice < ALIKE_MIN || (n_near == ALIKE_MOST && dice <= near[n_near - 1].dice)) continue;
        int k = n_near < ALIKE_MOST ? n_near++ : ALIKE_MOST - 1;
        for (; k > 0 && near[k - 1].dice < dice; k--) near[k] = near[k - 1];
        near[k].spelt = v;
        near[k].dice = dice;
    }
    for (int k = 0; k < n_near; k++) add_word(r, score, r->spelt[near[k].spelt].hash, weight * ALIKE * near[k].dice);
    free(shared);
}

static bool seen_before(const Words *w, int i) {
    for (int k = 0; k < i; k++)
        if (w->word[k].hash == w->word[i].hash) return true;
    return false;
}

/* A word asked twice counts once: queries here are whole exchanges, and what they repeat is mostly filler. */
void retrieve_score(const Retrieve *r, double score[RETRIEVE_DOCS], const char *query, double weight) {
    Words w = terms_of(query, r->terms);
    char term[TERM_BYTES];
    for (int i = 0; i < w.n; i++) {
        if (seen_before(&w, i) || add_word(r, score, w.word[i].hash, weight)) continue;
        if (r->alike && term_letters(term, query, &w.word[i], r->terms)) add_alike(r, score, term, weight);
    }
    words_release(&w);
}

/* -- what requests teach ------------------------------------------------------------------------------------------- */

static const double LEARN = 0.7, PSEUDO = 10;
enum { EM_ROUNDS = 5, LEARN_MIN_DF = 2 };

struct Learned {
    uint64_t *word; /* (n_word), sorted */
    double *weight; /* (n_word, n_doc) log p(d|w)/p(d) */
    int n_word, n_doc;
    int doc[RETRIEVE_DOCS];
    unsigned terms;
};

typedef struct { /* the words of a request that are in the vocabulary, by number */
    int *word, n;
} Bag;

static int find_word(const Learned *l, uint64_t hash) {
    const uint64_t *at = bsearch(&hash, l->word, (size_t)l->n_word, sizeof hash, by_u64);
    return at ? (int)(at - l->word) : -1;
}

/* Words of at least two requests. */
static void learn_vocabulary(Learned *l, const Words *w, int n) {
    int all = 0, m = 0;
    for (int i = 0; i < n; i++) all += w[i].n;
    uint64_t *seen = mem_alloc((size_t)(all + 1) * sizeof *seen);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < w[i].n; k++)
            if (!seen_before(&w[i], k)) seen[m++] = w[i].word[k].hash;
    qsort(seen, (size_t)m, sizeof *seen, by_u64);
    l->word = mem_alloc((size_t)(m + 1) * sizeof *l->word);
    for (int i = 0, end; i < m; i = end) {
        for (end = i; end < m && seen[end] == seen[i];) end++;
        if (end - i >= LEARN_MIN_DF) l->word[l->n_word++] = seen[i];
    }
    free(seen);
}

static Bag bag_of(const Learned *l, const Words *w) {
    Bag b = {mem_alloc((size_t)(w->n + 1) * sizeof *b.word), 0};
    for (int k = 0; k < w->n; k++) {
        int at = l->n_word && !seen_before(w, k) ? find_word(l, w->word[k].hash) : -1;
        if (at >= 0) b.word[b.n++] = at;
    }
    return b;
}

static void add_bag(const Learned *l, double *s, const Bag *b) {
    for (int k = 0; k < b->n; k++)
        for (int d = 0; d < l->n_doc; d++) s[d] += LEARN * l->weight[(size_t)b->word[k] * (size_t)l->n_doc + (size_t)d];
}

static void softmax(double *s, int n) {
    double top = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) top = fmax(top, s[i]);
    for (int i = 0; i < n; i++) sum += s[i] = exp(s[i] - top);
    for (int i = 0; i < n; i++) s[i] /= sum;
}

/* share (n, n_doc): which documents each request belongs to. */
static void count_words(Learned *l, const Bag *bag, const double *share, int n) {
    size_t width = (size_t)l->n_doc;
    double total[RETRIEVE_DOCS] = {0}, all = n;
    memset(l->weight, 0, (size_t)l->n_word * width * sizeof *l->weight);
    for (int i = 0; i < n; i++) {
        const double *r = share + (size_t)i * width;
        for (int d = 0; d < l->n_doc; d++) total[d] += r[d];
        for (int k = 0; k < bag[i].n; k++)
            for (int d = 0; d < l->n_doc; d++) l->weight[(size_t)bag[i].word[k] * width + (size_t)d] += r[d];
    }
    for (int v = 0; v < l->n_word; v++) {
        double *c = l->weight + (size_t)v * width, sum = 0;
        for (int d = 0; d < l->n_doc; d++) sum += c[d];
        for (int d = 0; d < l->n_doc; d++) {
            double prior = fmax(total[d] / all, 1e-12);
            c[d] = log((c[d] + PSEUDO * prior) / (sum + PSEUDO) / prior);
        }
    }
}

Learned *learned_new(const char *const *request, int n, const double (*base)[RETRIEVE_DOCS], const int *doc, int n_doc,
                     unsigned terms) {
    CHECK(n_doc > 0 && n_doc <= RETRIEVE_DOCS, "%d documents", n_doc);
    Learned *l = mem_alloc(sizeof *l);
    size_t width = (size_t)n_doc;
    Words *w = mem_alloc((size_t)(n + 1) * sizeof *w);
    Bag *bag = mem_alloc((size_t)(n + 1) * sizeof *bag);
    double *share = mem_alloc((size_t)(n + 1) * width * sizeof *share);
    l->terms = terms;
    l->n_doc = n_doc;
    memcpy(l->doc, doc, width * sizeof *doc);
    for (int i = 0; i < n; i++) w[i] = terms_of(request[i], terms);
    learn_vocabulary(l, w, n);
    l->weight = mem_alloc((size_t)(l->n_word + 1) * width * sizeof *l->weight);
    for (int i = 0; i < n; i++) bag[i] = bag_of(l, &w[i]);
    for (int round = 0; round < EM_ROUNDS; round++) {
        for (int i = 0; i < n; i++) {
            double *s = share + (size_t)i * width;
            for (int d = 0; d < n_doc; d++) s[d] = base[i][doc[d]];
            if (round) add_bag(l, s, &bag[i]);
            softmax(s, n_doc);
        }
        count_words(l, bag, share, n);
    }
    for (int i = 0; i < n; i++) {
        free(bag[i].word);
        words_release(&w[i]);
    }
    free(w);
    free(bag);
    free(share);
    return l;
}

void learned_score(const Learned *l, double score[RETRIEVE_DOCS], const char *query) {
    double s[RETRIEVE_DOCS] = {0};
    Words w = terms_of(query, l->terms);
    Bag b = bag_of(l, &w);
    add_bag(l, s, &b);
    for (int d = 0; d < l->n_doc; d++) score[l->doc[d]] += s[d];
    free(b.word);
    words_release(&w);
}

void learned_free(Learned *l) {
    if (!l) return;
    free(l->word);
    free(l->weight);
    free(l);
}
