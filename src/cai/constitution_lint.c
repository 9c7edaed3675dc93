#include "cai/constitution_lint.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/words.h"

static const double NEAR = 0.8, SAME_BUT_NEGATED = 0.9;

/* A text's words: sorted and without repetition for J, hashed in order for equality, negations apart. */
typedef struct {
    uint64_t *set;
    int n, n_word, n_negation;
    uint64_t order;
} Bag;

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* What contradictions in words are made of: negations turn a sentence round; of two opposites the second counts as the
 * first turned round; "always", "must" and the like come and go with negations and say nothing here. */
static const char *const negation[] = {"no",      "not",    "never",    "nothing", "none",      "nobody",
                                       "neither", "nor",    "without",  "cannot",  "can't",     "don't",
                                       "doesn't", "won't",  "isn't",    "aren't",  "shouldn't", "mustn't",
                                       "refuses", "refuse", "declines", "decline"};
static const char *const filler[] = {"do",     "does",  "to",   "always", "ever", "must",
                                     "should", "shall", "will", "can",    "may"};
static const char *const opposite[][2] = {{"longer", "shorter"},
                                          {"long", "short"},
                                          {"more", "less"},
                                          {"most", "least"},
                                          {"allow", "forbid"},
                                          {"allows", "forbids"},
                                          {"encourage", "discourage"},
                                          {"encourages", "discourages"},
                                          {"accept", "reject"},
                                          {"accepts", "rejects"},
                                          {"include", "omit"},
                                          {"includes", "omits"},
                                          {"formal", "informal"},
                                          {"polite", "rude"},
                                          {"safe", "unsafe"},
                                          {"honest", "dishonest"},
                                          {"reveal", "hide"},
                                          {"reveals", "hides"},
                                          {"agree", "disagree"},
                                          {"agrees", "disagrees"}};

static uint64_t hash_of(const char *word) {
    Words w = words_of(word);
    CHECK(w.n == 1, "'%s' is one word", word);
    uint64_t h = w.word[0].hash;
    words_release(&w);
    return h;
}

typedef struct { /* the lists above as words_of makes their words */
    uint64_t negation[COUNT_OF(negation)], filler[COUNT_OF(filler)], opposite[COUNT_OF(opposite)][2];
} Turning;

static Turning turning_words(void) {
    Turning t;
    for (int i = 0; i < COUNT_OF(negation); i++) t.negation[i] = hash_of(negation[i]);
    for (int i = 0; i < COUNT_OF(filler); i++) t.filler[i] = hash_of(filler[i]);
    for (int i = 0; i < COUNT_OF(opposite); i++)
        for (int k = 0; k < 2; k++) t.opposite[i][k] = hash_of(opposite[i][k]);
    return t;
}

static bool is_one_of(uint64_t h, const uint64_t *word, int n) {
    for (int i = 0; i < n; i++)
        if (word[i] == h) return true;
    return false;
}

/* False: the word is dropped. */
static bool turn(uint64_t *h, int *n_negation, const Turning *t) {
    bool negates = is_one_of(*h, t->negation, COUNT_OF(negation));
    *n_negation += negates;
    for (int i = 0; i < COUNT_OF(opposite); i++)
        if (*h == t->opposite[i][1]) {
            *h = t->opposite[i][0];
            ++*n_negation;
            return true;
        }
    return !negates && !is_one_of(*h, t->filler, COUNT_OF(filler));
}

/* t: NULL for the words as they are. */
static Bag bag_of(const char *s, const Turning *t) {
    Words w = words_of(s);
    Bag b = {.set = mem_alloc((size_t)(w.n + 1) * sizeof *b.set), .n_word = w.n};
    for (int i = 0; i < w.n; i++) {
        uint64_t h = w.word[i].hash;
        b.order = b.order * 0x9E3779B97F4A7C15u + h;
        if (t && !turn(&h, &b.n_negation, t)) continue;
        b.set[b.n++] = h;
    }
    words_release(&w);
    qsort(b.set, (size_t)b.n, sizeof *b.set, by_value);
    int n = 0;
    for (int i = 0; i < b.n; i++)
        if (!n || b.set[n - 1] != b.set[i]) b.set[n++] = b.set[i];
    b.n = n;
    return b;
}

static void bag_release(Bag *b) { free(b->set); }

static double jaccard(const Bag *a, const Bag *b) {
    int both = 0;
    for (int i = 0, k = 0; i < a->n && k < b->n;) {
        if (a->set[i] == b->set[k])
            both++, i++, k++;
        else if (a->set[i] < b->set[k])
            i++;
        else
            k++;
    }
    int either = a->n + b->n - both;
    return either ? (double)both / either : 0;
}

static bool same_words(const Bag *a, const Bag *b) { return a->n_word == b->n_word && a->order == b->order; }

static void put(Lint *l, bool error, const char *code, int principle, int other, const char *key, const char *fmt, ...)
    FORMAT(7, 8);

static void put(Lint *l, bool error, const char *code, int principle, int other, const char *key, const char *fmt,
                ...) {
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 16;
        l->finding = mem_grow(l->finding, (size_t)l->cap * sizeof *l->finding);
    }
    l->finding[l->n++] = (Finding){code, heap_strn(&l->heap, text, strlen(text)), error, principle, other, key};
    l->n_error += error;
}

void lint_release(Lint *l) {
    free(l->finding);
    heap_release(&l->heap);
    *l = (Lint){0};
}

/* -- one principle ------------------------------------------------------------------------------------------------- */

static void check_examples(Lint *l, int at, const Principle *p) {
    int yes = 0;
    Bag *bag = mem_alloc((size_t)(p->n_example + 1) * sizeof *bag);
    for (int i = 0; i < p->n_example; i++) {
        bag[i] = bag_of(p->example[i].text, NULL);
        yes += p->example[i].applies;
        for (int k = 0; k < i; k++) {
            bool same = same_words(&bag[i], &bag[k]), alike = p->example[i].applies == p->example[k].applies;
            if (same && !alike)
                put(l, true, "example-both-ways", at, -1, "examples", "\"%.80s\" applies and does not apply",
                    p->example[i].text);
            else if (alike && (same || jaccard(&bag[i], &bag[k]) >= NEAR))
                put(l, false, "duplicate-example", at, -1, "examples", "\"%.80s\" says what \"%.80s\" says",
                    p->example[i].text, p->example[k].text);
        }
    }
    for (int i = 0; i < p->n_example; i++) bag_release(&bag[i]);
    free(bag);
    int no = p->n_example - yes;
    if (yes < LINT_MIN_POSITIVE || no < LINT_MIN_NEAR_MISS)
        put(l, false, "few-examples", at, -1, "examples",
            "%d examples apply and %d look alike but do not; expected at least %d and %d", yes, no,
            (int)LINT_MIN_POSITIVE, (int)LINT_MIN_NEAR_MISS);
}

static void check_tests(Lint *l, int at, const Principle *p) {
    if (!p->n_test) put(l, false, "no-test", at, -1, "tests", "no test says which of two replies is better under it");
    for (int i = 0; i < p->n_test; i++) {
        Bag better = bag_of(p->test[i].better, NULL), worse = bag_of(p->test[i].worse, NULL);
        if (same_words(&better, &worse))
            put(l, true, "test-same", at, -1, "tests", "better and worse of \"%.80s\" are the same reply",
                p->test[i].prompt);
        bag_release(&better);
        bag_release(&worse);
    }
}

static void check_length(Lint *l, int at, const Principle *p, int max) {
    const char *const part[] = {p->text, p->avoid, principle_critique(p), principle_revise(p)};
    int n = 0;
    for (int i = 0; i < COUNT_OF(part); i++) {
        Words w = words_of(part[i]);
        n += w.n;
        words_release(&w);
    }
    if (n > max)
        put(l, false, "long-text", at, -1, "text",
            "text, avoid, critique and revise have %d words, which every critique prompt carries; expected at most %d",
            n, max);
}

/* -- two principles ------------------------------------------------------------------------------------------------ */

/* a == b: the text and the avoid of one. */
static void check_directives(Lint *l, const Constitution *c, int a, int b, const Turning *t) {
    const Principle *p = &c->principle[a], *q = &c->principle[b];
    const char *const of_p[] = {p->text, p->avoid}, *const of_q[] = {q->text, q->avoid};
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 2; k++) {
            if (!of_p[i] || !of_q[k] || (a == b && i >= k)) continue;
            Bag x = bag_of(of_p[i], t), y = bag_of(of_q[k], t);
            if ((x.n_negation ^ y.n_negation) & 1 && jaccard(&x, &y) >= SAME_BUT_NEGATED)
                put(l, p->authority == q->authority, "opposite-texts", a, b, i ? "avoid" : "text",
                    "\"%.100s\" is the opposite of \"%.100s\" in principle '%s'", of_p[i], of_q[k], q->id);
            bag_release(&x);
            bag_release(&y);
        }
}

static bool same_text(const char *a, const char *b) {
    Bag x = bag_of(a, NULL), y = bag_of(b, NULL);
    bool same = same_words(&x, &y);
    bag_release(&x);
    bag_release(&y);
    return same;
}

static void check_test_pair(Lint *l, const Constitution *c, int a, int b) {
    const Principle *p = &c->principle[a], *q = &c->principle[b];
    for (int i = 0; i < p->n_test; i++)
        for (int k = a == b ? i + 1 : 0; k < q->n_test; k++) {
            const PrincipleTest *x = &p->test[i], *y = &q->test[k];
            if (!same_text(x->prompt, y->prompt)) continue;
            const char *both = same_text(x->better, y->worse)   ? x->better
                               : same_text(x->worse, y->better) ? x->worse
                                                                : NULL;
            if (both)
                put(l, p->authority == q->authority, "opposite-tests", a, b, "tests",
                    "\"%.80s\": \"%.80s\" is better in a test of '%s' and worse in one of '%s'", x->prompt, both,
                    both == x->better ? p->id : q->id, both == x->better ? q->id : p->id);
        }
}

static void check_near(Lint *l, const Constitution *c, int a, int b, const Bag *text) {
    double j = jaccard(&text[a], &text[b]);
    if (j >= NEAR)
        put(l, false, "near-duplicate", a, b, "text",
            "says what '%s' says: %.0f %% of the words are common to both (J %.2f)", c->principle[b].id, 100 * j, j);
}

/* -- all ----------------------------------------------------------------------------------------------------------- */

static bool has_category(const Principle *p, const char *name) {
    for (int i = 0; i < p->n_tag; i++)
        if (!strcmp(p->tag[i], name)) return true;
    return !strcmp(p->id, name);
}

static void check_categories(Lint *l, const Constitution *c, const LintOptions *o) {
    for (int k = 0; k < o->n_category; k++) {
        bool any = false;
        for (int i = 0; i < c->n; i++) any |= has_category(&c->principle[i], o->category[k]);
        if (!any)
            put(l, true, "empty-category", -1, -1, "tags", "no principle has the tag or id '%.60s'", o->category[k]);
    }
}

void constitution_lint(Lint *out, const Constitution *c, const LintOptions *o) {
    *out = (Lint){0};
    const Turning turning = turning_words();
    Bag *text = mem_alloc((size_t)(c->n + 1) * sizeof *text);
    Str s = {0};
    for (int i = 0; i < c->n; i++) {
        principle_text(&s, &c->principle[i]);
        text[i] = bag_of(str_get(&s), NULL);
    }
    for (int i = 0; i < c->n; i++) {
        const Principle *p = &c->principle[i];
        check_examples(out, i, p);
        check_tests(out, i, p);
        check_length(out, i, p, o->max_words ? o->max_words : LINT_MAX_WORDS);
        if (!p->n_tag) put(out, false, "no-category", i, -1, "tags", "no tag; the first one names its category");
        for (int k = 0; k <= i; k++) {
            if (k < i) check_near(out, c, i, k, text);
            check_directives(out, c, i, k, &turning);
            check_test_pair(out, c, i, k);
        }
    }
    check_categories(out, c, o);
    for (int i = 0; i < c->n; i++) bag_release(&text[i]);
    free(text);
    str_release(&s);
}
