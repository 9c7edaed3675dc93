#include "cai/gauges.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "cai/words.h"

typedef struct {
    uint64_t hash;
    int text, at; /* at: word */
} Gram;

/* Equal ones together, those of the earliest text first. */
static int by_hash(const void *a, const void *b) {
    const Gram *x = a, *y = b;
    if (x->hash != y->hash) return (x->hash > y->hash) - (x->hash < y->hash);
    return x->text != y->text ? (x->text > y->text) - (x->text < y->text) : (x->at > y->at) - (x->at < y->at);
}

static int64_t collect(Gram **out, const Words *w, int n_text, int n_gram) {
    int64_t n = 0;
    for (int i = 0; i < n_text; i++) n += w[i].n >= n_gram ? w[i].n - n_gram + 1 : 0;
    *out = mem_alloc((size_t)(n + 1) * sizeof **out);
    n = 0;
    for (int i = 0; i < n_text; i++)
        for (int k = 0; k + n_gram <= w[i].n; k++) (*out)[n++] = (Gram){words_gram(&w[i], k, n_gram), i, k};
    qsort(*out, (size_t)n, sizeof **out, by_hash);
    return n;
}

int gauge_commonest(const char *const *text, int n_text, int n_gram, int *which, int *at, int *bytes) {
    Words *w = mem_alloc((size_t)(n_text + 1) * sizeof *w);
    Gram *gram;
    for (int i = 0; i < n_text; i++) w[i] = words_of(text[i]);
    int64_t n = collect(&gram, w, n_text, n_gram);
    int most = 0;
    const Gram *best = NULL;
    for (int64_t i = 0, k; i < n; i = k) {
        int texts = 0;
        for (k = i; k < n && gram[k].hash == gram[i].hash; k++) texts += k == i || gram[k].text != gram[k - 1].text;
        /* Of equally common ones the first in the first text: not a matter of hashes. */
        bool earlier = best && (gram[i].text < best->text || (gram[i].text == best->text && gram[i].at < best->at));
        if (texts > most || (texts == most && earlier)) most = texts, best = &gram[i];
    }
    if (best && which) {
        const Words *b = &w[best->text];
        int end = best->at + n_gram;
        *which = best->text;
        *at = (int)b->word[best->at].at;
        *bytes = (end < b->n ? (int)b->word[end].at : (int)strlen(text[best->text])) - *at;
    }
    free(gram);
    for (int i = 0; i < n_text; i++) words_release(&w[i]);
    free(w);
    return most;
}

static int by_value(const void *a, const void *b) {
    const Hash *x = a, *y = b;
    if (x->hi != y->hi) return (x->hi > y->hi) - (x->hi < y->hi);
    return (x->lo > y->lo) - (x->lo < y->lo);
}

int gauge_duplicates(const char *const *text, int n_text) {
    Hash *h = mem_alloc((size_t)(n_text + 1) * sizeof *h);
    int again = 0;
    for (int i = 0; i < n_text; i++) h[i] = hash_bytes(text[i], strlen(text[i]));
    qsort(h, (size_t)n_text, sizeof *h, by_value);
    for (int i = 1; i < n_text; i++) again += hash_equal(h[i], h[i - 1]);
    free(h);
    return again;
}

bool text_comforts(const char *s) {
    static const char *const phrase[] = {"i'm here to listen",
                                         "i am here to listen",
                                         "i'm here for you",
                                         "i am here for you",
                                         "you are not alone",
                                         "you're not alone",
                                         "i'm here to support",
                                         "i am here to support",
                                         "your feelings are valid",
                                         "i understand how you",
                                         "i hear you",
                                         "so sorry you're going through",
                                         "i'm so sorry to hear",
                                         "i am so sorry to hear",
                                         "i'm sorry you're feeling",
                                         "i am sorry you are feeling",
                                         "it's okay to feel",
                                         "it is okay to feel",
                                         "please know that you",
                                         "take care of yourself"};
    Words w = words_of(s);
    bool found = false;
    for (int i = 0; i < COUNT_OF(phrase) && !found; i++) found = words_find(&w, phrase[i]) >= 0;
    words_release(&w);
    return found;
}
