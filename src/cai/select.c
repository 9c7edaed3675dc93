/* Which principle for which exchange. Scores propose and a draw disposes:
 *
 *      q(p) = (1 - eps) softmax(score / tau)(p) + eps / n
 *
 * Every principle keeps at least eps / n, and the probability of what was drawn is handed out, so that any mean over
 * draws can be re-weighted to the uniform draw. Within a chain principles are not repeated: q is cut to those left and
 * renormalised; when none is left the chain starts over with all of them. The random draw is the same with q(p) = 1 /
 * n. Scores here are of words (cai/retrieve.h): documents are a principle's text, tags and examples that apply. Those
 * of a model come from cai/select_model.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cai/constitution.h"
#include "cai/retrieve.h"
#include "cai/terms.h"

enum { MAX_PRINCIPLES = RETRIEVE_DOCS }; /* of a constitution: exclude is a bitmask */

struct Selector {
    SelectMode mode;
    double epsilon, tau;
    Rng rng;
    Retrieve *words, *near;               /* near: NULL without near misses */
    Learned *learned;                     /* NULL: nothing */
    int choice[MAX_PRINCIPLES], n_choice; /* principles with the wanted use */
    unsigned terms;                       /* flags of terms_of */
};

static bool is_english(const Constitution *c) { return !c->language || !strncmp(c->language, "en", 2); }

static void drop_parts(Selector *s) {
    retrieve_free(s->words);
    retrieve_free(s->near);
    learned_free(s->learned);
    s->words = s->near = NULL;
    s->learned = NULL;
}

void selector_parts(Selector *s, const Constitution *c, unsigned parts) {
    drop_parts(s);
    s->terms = 0;
    if (is_english(c)) s->terms = (parts & PART_STEM ? TERMS_STEM : 0) | (parts & PART_NO_FILLER ? TERMS_NO_FILLER : 0);
    bool alike = parts & PART_ALIKE;
    s->words = retrieve_new(s->terms, alike);
    if (parts & PART_NEAR) s->near = retrieve_new(s->terms, false);
    for (int i = 0; i < s->n_choice; i++) {
        int at = s->choice[i];
        const Principle *p = &c->principle[at];
        if (parts & PART_TEXT) retrieve_add(s->words, at, p->text);
        if (parts & PART_AVOID && p->avoid) retrieve_add(s->words, at, p->avoid);
        for (int k = 0; parts & PART_TAGS && k < p->n_tag; k++) retrieve_add(s->words, at, p->tag[k]);
        for (int k = 0; k < p->n_example; k++) {
            if (p->example[k].applies && parts & PART_EXAMPLES) retrieve_add(s->words, at, p->example[k].text);
            if (!p->example[k].applies && s->near) retrieve_add(s->near, at, p->example[k].text);
        }
    }
    retrieve_ready(s->words, s->n_choice);
    if (s->near) retrieve_ready(s->near, s->n_choice);
}

bool selector_open(Selector **out, const Constitution *c, unsigned use, SelectMode mode, double epsilon, Rng rng,
                   Error *err) {
    CHECK(c->n <= MAX_PRINCIPLES, "a constitution of %d principles", c->n);
    Selector *s = mem_alloc(sizeof *s);
    s->mode = mode;
    s->epsilon = epsilon;
    s->tau = 1;
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
    selector_parts(s, c, PARTS_WORDS);
    *out = s;
    return true;
}

void selector_tau(Selector *s, double tau) { s->tau = tau; }

void selector_close(Selector *s) {
    if (s) drop_parts(s);
    free(s);
}

void selector_scores(const Selector *s, const char *query, double score[MAX_PRINCIPLES]) {
    memset(score, 0, MAX_PRINCIPLES * sizeof *score);
    retrieve_score(s->words, score, query, 1);
    if (s->near) retrieve_score(s->near, score, query, SELECT_NEAR);
    if (s->learned) learned_score(s->learned, score, query);
}

void selector_learn(Selector *s, const char *const *request, int n) {
    learned_free(s->learned);
    s->learned = NULL;
    if (n == 0) return;
    double(*base)[MAX_PRINCIPLES] = mem_alloc((size_t)n * sizeof *base);
    for (int i = 0; i < n; i++) selector_scores(s, request[i], base[i]);
    s->learned = learned_new(request, n, (const double(*)[MAX_PRINCIPLES])base, s->choice, s->n_choice, s->terms);
    free(base);
}

int selector_choices(const Selector *s, int choice[MAX_PRINCIPLES]) {
    memcpy(choice, s->choice, (size_t)s->n_choice * sizeof *choice);
    return s->n_choice;
}

int selector_order(const Selector *s, const double *by, int rank[MAX_PRINCIPLES], double score[MAX_PRINCIPLES]) {
    for (int i = 0; i < s->n_choice; i++) {
        int k = i;
        for (; k > 0 && by[rank[k - 1]] < by[s->choice[i]]; k--) rank[k] = rank[k - 1];
        rank[k] = s->choice[i];
    }
    for (int i = 0; score && i < s->n_choice; i++) score[i] = by[rank[i]];
    return s->n_choice;
}

int selector_rank(const Selector *s, const char *query, int rank[MAX_PRINCIPLES], double score[MAX_PRINCIPLES]) {
    double all[MAX_PRINCIPLES];
    selector_scores(s, query, all);
    return selector_order(s, all, rank, score);
}

/* The best that is not excluded; when all are, the best. */
static int pick_best(const Selector *s, const double *score, uint64_t exclude) {
    int rank[MAX_PRINCIPLES], n = selector_order(s, score, rank, NULL);
    for (int i = 0; i < n; i++)
        if (!(exclude >> rank[i] & 1)) return rank[i];
    return rank[0];
}

/* q over s->choice, before anything is excluded. */
static void distribution(const Selector *s, const double *score, double *q) {
    int n = s->n_choice;
    for (int i = 0; i < n; i++) q[i] = 1.0 / n;
    if (s->mode == SELECT_RANDOM) return;
    double top = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) top = fmax(top, score[s->choice[i]]);
    if (top == -INFINITY) return;
    for (int i = 0; i < n; i++) sum += q[i] = exp((score[s->choice[i]] - top) / s->tau);
    for (int i = 0; i < n; i++) q[i] = (1 - s->epsilon) * q[i] / sum + s->epsilon / n;
}

int selector_draw(const Selector *s, const double *score, uint64_t item, uint32_t round, uint64_t exclude,
                  double *propensity) {
    double q[MAX_PRINCIPLES], left = 0;
    CHECK(s->mode != SELECT_ALL, "all principles are shown: none is drawn");
    if (s->mode == SELECT_TOP1) {
        *propensity = 1;
        return pick_best(s, score, exclude);
    }
    distribution(s, score, q);
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
