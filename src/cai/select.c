/* Which principle for which exchange. BM25 sees only words, so it proposes and a draw disposes:
 *
 *      q(p) = (1 - eps) softmax(score)(p) + eps / n
 *
 * Every principle keeps at least eps / n, and the probability of what was drawn is handed out, so that any mean over
 * draws can be re-weighted to the uniform draw. Within a chain principles are not repeated: q is cut to those left and
 * renormalised; when none is left the chain starts over with all of them. The random draw is the same with q(p) = 1 /
 * n. Documents are a principle's text, tags and examples that apply. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cai/constitution.h"
#include "cai/terms.h"

static const double K1 = 1.2, B = 0.75;
enum { MAX_PRINCIPLES = 64 }; /* of a constitution: exclude is a bitmask */

typedef struct {
    uint64_t hash;
    int principle, count;
} Posting;

struct Selector {
    SelectMode mode;
    double epsilon;
    Rng rng;
    Posting *posting; /* sorted by (hash, principle) */
    int n_posting;
    int choice[MAX_PRINCIPLES], n_choice; /* principles with the wanted use */
    int length[MAX_PRINCIPLES];           /* words, by principle */
    double mean_length;
    unsigned terms; /* flags of terms_of */
};

static int by_hash_principle(const void *a, const void *b) {
    const Posting *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return (x->principle > y->principle) - (x->principle < y->principle);
}

static void put_words(Selector *s, int *cap, int principle, const char *text) {
    Words w = terms_of(text, s->terms);
    for (int i = 0; i < w.n; i++) {
        if (s->n_posting == *cap) {
            *cap = *cap ? 2 * *cap : 256;
            s->posting = mem_grow(s->posting, (size_t)*cap * sizeof *s->posting);
        }
        s->posting[s->n_posting++] = (Posting){w.word[i].hash, principle, 1};
    }
    s->length[principle] += w.n;
    words_release(&w);
}

/* Equal (word, principle) become one posting with a count. */
static void merge_postings(Selector *s) {
    if (s->n_posting) qsort(s->posting, (size_t)s->n_posting, sizeof *s->posting, by_hash_principle);
    int n = 0;
    for (int i = 0; i < s->n_posting; i++) {
        if (n && !by_hash_principle(&s->posting[n - 1], &s->posting[i]))
            s->posting[n - 1].count++;
        else
            s->posting[n++] = s->posting[i];
    }
    s->n_posting = n;
}

static bool is_english(const Constitution *c) { return !c->language || !strncmp(c->language, "en", 2); }

void selector_parts(Selector *s, const Constitution *c, unsigned parts) {
    int cap = 0;
    free(s->posting);
    s->posting = NULL;
    s->n_posting = 0;
    s->mean_length = 0;
    s->terms = 0;
    if (is_english(c)) s->terms = (parts & PART_STEM ? TERMS_STEM : 0) | (parts & PART_NO_FILLER ? TERMS_NO_FILLER : 0);
    for (int i = 0; i < s->n_choice; i++) {
        int at = s->choice[i];
        const Principle *p = &c->principle[at];
        s->length[at] = 0;
        if (parts & PART_TEXT) put_words(s, &cap, at, p->text);
        for (int k = 0; parts & PART_TAGS && k < p->n_tag; k++) put_words(s, &cap, at, p->tag[k]);
        for (int k = 0; parts & PART_EXAMPLES && k < p->n_example; k++)
            if (p->example[k].applies) put_words(s, &cap, at, p->example[k].text);
        s->mean_length += s->length[at];
    }
    s->mean_length /= s->n_choice;
    merge_postings(s);
}

bool selector_open(Selector **out, const Constitution *c, unsigned use, SelectMode mode, double epsilon, Rng rng,
                   Error *err) {
    CHECK(c->n <= MAX_PRINCIPLES, "a constitution of %d principles", c->n);
    Selector *s = mem_alloc(sizeof *s);
    s->mode = mode;
    s->epsilon = epsilon;
    s->rng = rng;
    for (int i = 0; i < c->n; i++)
        if (c->principle[i].use & use) s->choice[s->n_choice++] = i;
    *out = NULL;
    if (!s->n_choice) {
        selector_close(s);
        return error_set(err, ERR_CONFIG,
                         "constitution '%s': no principle has use '%s'; add it to the 'use' of at least one", c->id,
                         use & USE_CRITIQUE ? "critique" : "label");
    }
    selector_parts(s, c, PARTS_ALL);
    *out = s;
    return true;
}

void selector_close(Selector *s) {
    if (s) free(s->posting);
    free(s);
}

static int first_posting(const Selector *s, uint64_t hash) {
    int lo = 0, hi = s->n_posting;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (s->posting[mid].hash < hash)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* A word asked twice counts once: queries here are whole exchanges, and what they repeat is mostly filler. */
static void scores(const Selector *s, const char *query, double score[MAX_PRINCIPLES]) {
    Words w = terms_of(query, s->terms);
    memset(score, 0, MAX_PRINCIPLES * sizeof *score);
    for (int i = 0; i < w.n; i++) {
        uint64_t h = w.word[i].hash;
        int first = first_posting(s, h), end = first;
        for (int k = 0; k < i && end >= 0; k++)
            if (w.word[k].hash == h) end = -1;
        if (end < 0) continue;
        while (end < s->n_posting && s->posting[end].hash == h) end++;
        double df = end - first, idf = log(1 + (s->n_choice - df + 0.5) / (df + 0.5));
        for (int k = first; k < end; k++) {
            const Posting *p = &s->posting[k];
            double tf = p->count, norm = K1 * (1 - B + B * s->length[p->principle] / s->mean_length);
            score[p->principle] += idf * tf * (K1 + 1) / (tf + norm);
        }
    }
    words_release(&w);
}

double selector_bm25(const Selector *s, const char *query, int principle) {
    double score[MAX_PRINCIPLES];
    CHECK(principle >= 0 && principle < MAX_PRINCIPLES, "principle %d", principle);
    scores(s, query, score);
    return score[principle];
}

int selector_rank(const Selector *s, const char *query, int rank[64], double score[64]) {
    double all[MAX_PRINCIPLES];
    scores(s, query, all);
    for (int i = 0; i < s->n_choice; i++) {
        int k = i;
        for (; k > 0 && all[rank[k - 1]] < all[s->choice[i]]; k--) rank[k] = rank[k - 1];
        rank[k] = s->choice[i];
    }
    for (int i = 0; score && i < s->n_choice; i++) score[i] = all[rank[i]];
    return s->n_choice;
}

/* The best that is not excluded; when all are, the best. */
static int pick_best(const Selector *s, const char *query, uint64_t exclude) {
    int rank[MAX_PRINCIPLES], n = selector_rank(s, query, rank, NULL);
    for (int i = 0; i < n; i++)
        if (!(exclude >> rank[i] & 1)) return rank[i];
    return rank[0];
}

/* q over s->choice, before anything is excluded. */
static void distribution(const Selector *s, const char *query, double *q) {
    int n = s->n_choice;
    for (int i = 0; i < n; i++) q[i] = 1.0 / n;
    if (s->mode == SELECT_RANDOM) return;
    double score[MAX_PRINCIPLES], top = -INFINITY, sum = 0;
    scores(s, query, score);
    for (int i = 0; i < n; i++) top = fmax(top, score[s->choice[i]]);
    for (int i = 0; i < n; i++) sum += q[i] = exp(score[s->choice[i]] - top);
    for (int i = 0; i < n; i++) q[i] = (1 - s->epsilon) * q[i] / sum + s->epsilon / n;
}

int selector_pick(const Selector *s, const char *query, uint64_t item, uint32_t round, uint64_t exclude,
                  double *propensity) {
    double q[MAX_PRINCIPLES], left = 0;
    if (s->mode == SELECT_TOP1) {
        *propensity = 1;
        return pick_best(s, query, exclude);
    }
    distribution(s, query, q);
    for (int pass = 0; pass < 2 && left <= 0; pass++) {
        for (int i = 0; i < s->n_choice; i++)
            if (!(exclude >> s->choice[i] & 1)) left += q[i];
        if (left <= 0) exclude = 0;
    }
    double u = rng_uniform(s->rng, item, round) * left;
    int pick = -1;
    /* The last candidate takes what rounding leaves over; a candidate of probability 0 is never taken. */
    for (int i = 0; i < s->n_choice; i++) {
        if ((exclude >> s->choice[i] & 1) || q[i] <= 0) continue;
        pick = i;
        if (u < q[i]) break;
        u -= q[i];
    }
    CHECK(pick >= 0, "no principle to draw (%d candidates)", s->n_choice);
    *propensity = q[pick] / left;
    return s->choice[pick];
}
