#include "cai/select_eval.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cai/stage_util.h"
#include "cai/words.h"

enum { MAX_PRINCIPLES = 64 };

/* -- rows ---------------------------------------------------------------------------------------------------------- */

static void plain_name(Str *out, const char *s) {
    str_clear(out);
    for (; *s; s++) {
        if (isalnum((unsigned char)*s))
            str_putc(out, (char)tolower((unsigned char)*s));
        else if (out->n && out->s[out->n - 1] != '-')
            str_putc(out, '-');
    }
    while (out->n && out->s[out->n - 1] == '-') out->s[--out->n] = 0;
}

static bool names(const Principle *p, const char *plain, Str *room) {
    if (!strcmp(p->id, plain)) return true;
    for (int i = 0; i < p->n_tag; i++) {
        plain_name(room, p->tag[i]);
        if (!strcmp(str_get(room), plain)) return true;
    }
    return false;
}

/* The principle of a category; -1: none, or several. */
static int principle_of(const Constitution *c, const char *category) {
    Str plain = {0}, room = {0};
    int found = -1, n = 0;
    plain_name(&plain, category);
    for (int i = 0; plain.n && i < c->n; i++)
        if (names(&c->principle[i], str_get(&plain), &room)) found = i, n++;
    str_release(&plain);
    str_release(&room);
    return n == 1 ? found : -1;
}

static bool in_list(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',')
        if (strcspn(p, ",") == n && !memcmp(p, word, n)) return true;
    return false;
}

typedef struct {
    SelectCases *to;
    const Constitution *c;
    const char *source;
} Reading;

static bool row(void *ud, const Json *j, int line, Error *err) {
    Reading *r = ud;
    SelectCases *s = r->to;
    const char *prompt, *source = json_str(json_get(j, "source"), NULL),
                        *category = json_str(json_get(j, "category"), NULL);
    (void)line; /* the caller names it */
    if (!source) source = "";
    if (r->source && !in_list(r->source, source)) return true;
    if (!json_need_str(j, "prompt", &prompt, NULL, err)) return false;
    int at = category ? principle_of(r->c, category) : -1;
    if (at < 0) {
        s->n_left_out++;
        return true;
    }
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 256;
        s->at = mem_grow(s->at, (size_t)s->cap * sizeof *s->at);
    }
    s->at[s->n++] =
        (SelectCase){heap_strn(&s->heap, prompt, strlen(prompt)), heap_strn(&s->heap, source, strlen(source)), at};
    return true;
}

bool select_cases_read(SelectCases *s, const Constitution *c, const char *path, const char *source, Error *err) {
    Reading r = {s, c, source};
    return jsonl_each(".", path, row, &r, err);
}

typedef struct {
    const char *source;
    const char **request;
    int n, cap;
    Heap heap;
} Requests;

static bool request_row(void *ud, const Json *j, int line, Error *err) {
    Requests *r = ud;
    const char *prompt, *source = json_str(json_get(j, "source"), NULL);
    (void)line; /* the caller names it */
    if (r->source && !in_list(r->source, source ? source : "")) return true;
    if (!json_need_str(j, "prompt", &prompt, NULL, err)) return false;
    if (r->n == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 256;
        r->request = mem_grow(r->request, (size_t)r->cap * sizeof *r->request);
    }
    r->request[r->n++] = heap_strn(&r->heap, prompt, strlen(prompt));
    return true;
}

bool select_learn(Selector *s, const char *path, const char *source, Error *err) {
    Requests r = {.source = source};
    bool ok = jsonl_each(".", path, request_row, &r, err);
    if (ok && source && !r.n) ok = error_set(err, ERR_FORMAT, "%s: no row to learn from in '%s'", path, source);
    if (ok) selector_learn(s, r.request, r.n);
    free(r.request);
    heap_release(&r.heap);
    return ok;
}

void select_cases_release(SelectCases *s) {
    free(s->at);
    heap_release(&s->heap);
    *s = (SelectCases){0};
}

/* -- scores -------------------------------------------------------------------------------------------------------- */

typedef struct {
    int hit1, hit3, first[MAX_PRINCIPLES];
} Tally;

static void tally(Tally *t, const int *rank, int n, int want) {
    t->first[rank[0]]++;
    t->hit1 += rank[0] == want;
    for (int i = 0; i < n && i < 3; i++) t->hit3 += rank[i] == want;
}

static SelectScore score_of(const Tally *t, int n) {
    SelectScore s = {0};
    if (!n) return s;
    for (int i = 0; i < MAX_PRINCIPLES; i++)
        if (t->first[i]) s.entropy -= (double)t->first[i] / n * log((double)t->first[i] / n);
    s.top1 = (double)t->hit1 / n;
    s.top3 = (double)t->hit3 / n;
    return s;
}

SelectScore select_score(const Selector *s, const SelectCases *test) {
    Tally t = {0};
    for (int i = 0; i < test->n; i++) {
        int rank[MAX_PRINCIPLES], n = selector_rank(s, test->at[i].prompt, rank, NULL);
        tally(&t, rank, n, test->at[i].principle);
    }
    return score_of(&t, test->n);
}

SelectScore select_score_by(const Selector *s, const double (*score)[64], const SelectCases *test) {
    Tally t = {0};
    for (int i = 0; i < test->n; i++) {
        int rank[MAX_PRINCIPLES], n = selector_order(s, score[i], rank, NULL);
        tally(&t, rank, n, test->at[i].principle);
    }
    return score_of(&t, test->n);
}

SelectScore select_random(const Constitution *c, const SelectCases *test) {
    SelectScore s = {0};
    if (!test->n) return s;
    return (SelectScore){1.0 / c->n, c->n < 3 ? 1 : 3.0 / c->n, log(c->n)};
}

/* rank: principles by falling value; equal ones in order. */
static void by_value(int *rank, const double *value, int n) {
    for (int i = 0; i < n; i++) {
        int k = i;
        for (; k > 0 && value[rank[k - 1]] < value[i]; k--) rank[k] = rank[k - 1];
        rank[k] = i;
    }
}

SelectScore select_majority(const Constitution *c, const SelectCases *test) {
    double count[MAX_PRINCIPLES] = {0};
    int rank[MAX_PRINCIPLES] = {0};
    Tally t = {0};
    for (int i = 0; i < test->n; i++) count[test->at[i].principle]++;
    by_value(rank, count, c->n);
    for (int i = 0; i < test->n; i++) tally(&t, rank, c->n, test->at[i].principle);
    return score_of(&t, test->n);
}

/* -- naive Bayes --------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t hash;
    int principle, count;
} Seen;

typedef struct {
    Seen *seen;                  /* sorted by (hash, principle) */
    int n, cap, n_word, n_class; /* words of the vocabulary, principles of the constitution */
    double prior[MAX_PRINCIPLES], total[MAX_PRINCIPLES];
} Bayes;

static int by_hash(const void *a, const void *b) {
    const Seen *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return (x->principle > y->principle) - (x->principle < y->principle);
}

static void bayes_fit(Bayes *b, const SelectCases *train) {
    for (int i = 0; i < train->n; i++) {
        Words w = words_of(train->at[i].prompt);
        int p = train->at[i].principle;
        b->prior[p]++;
        b->total[p] += w.n;
        for (int k = 0; k < w.n; k++) {
            if (b->n == b->cap) {
                b->cap = b->cap ? 2 * b->cap : 4096;
                b->seen = mem_grow(b->seen, (size_t)b->cap * sizeof *b->seen);
            }
            b->seen[b->n++] = (Seen){w.word[k].hash, p, 1};
        }
        words_release(&w);
    }
    if (b->n) qsort(b->seen, (size_t)b->n, sizeof *b->seen, by_hash);
    int n = 0;
    for (int i = 0; i < b->n; i++) {
        if (n && !by_hash(&b->seen[n - 1], &b->seen[i])) {
            b->seen[n - 1].count++;
            continue;
        }
        b->n_word += !n || b->seen[n - 1].hash != b->seen[i].hash;
        b->seen[n++] = b->seen[i];
    }
    b->n = n;
}

static void bayes_rank(const Bayes *b, const char *prompt, int n_train, int *rank) {
    double value[MAX_PRINCIPLES];
    for (int p = 0; p < b->n_class; p++) value[p] = b->prior[p] > 0 ? log(b->prior[p] / n_train) : -INFINITY;
    Words w = words_of(prompt);
    for (int k = 0; k < w.n; k++) {
        int lo = 0, hi = b->n;
        while (lo < hi) {
            int mid = lo + (hi - lo) / 2;
            if (b->seen[mid].hash < w.word[k].hash)
                lo = mid + 1;
            else
                hi = mid;
        }
        if (lo == b->n || b->seen[lo].hash != w.word[k].hash) continue; /* a word it never saw */
        for (int p = 0; p < b->n_class; p++) {
            bool here = lo < b->n && b->seen[lo].hash == w.word[k].hash && b->seen[lo].principle == p;
            value[p] += log((here ? b->seen[lo].count + 1.0 : 1.0) / (b->total[p] + b->n_word));
            lo += here;
        }
    }
    words_release(&w);
    by_value(rank, value, b->n_class);
}

SelectScore select_bayes(const Constitution *c, const SelectCases *train, const SelectCases *test) {
    Bayes b = {.n_class = c->n};
    Tally t = {0};
    bayes_fit(&b, train);
    for (int i = 0; i < test->n; i++) {
        int rank[MAX_PRINCIPLES] = {0};
        bayes_rank(&b, test->at[i].prompt, train->n, rank);
        tally(&t, rank, c->n, test->at[i].principle);
    }
    free(b.seen);
    return score_of(&t, test->n);
}
