/* cai/filters.h — typed rejects for generated text (method note, section 5). Pure functions on strings. */
#ifndef DIKAST_CAI_FILTERS_H
#define DIKAST_CAI_FILTERS_H

#include "base/compiler.h"

#define REJECTS(X)                                                                                                     \
    X(NONE) X(CONTEXT) X(SHORT) X(TRUNCATED) X(TURN) X(REPEAT) X(META) X(LEAK) X(LANG) X(UNGROUNDED) X(SAME) X(FAR)    \
    X(WORSE) X(FLIP) X(EVASIVE) X(DUP) X(CONTAM) X(TIE)                                           \
    X(ABSTAIN)
typedef enum {
#define X(name) REJECT_##name,
    REJECTS(X)
#undef X
    REJECT_COUNT
} Reject;
const char *reject_name(Reject r);

typedef struct {
    const char *prompt, *previous, *critique, *revision;    /* revision under test, the text before it */
    bool truncated;
    const char *const *leak;    /* exemplar texts: 8-grams shared with one -> LEAK */
    int n_leak;
    int min_words;              /* SHORT below; 5 */
    bool need_quote;            /* UNGROUNDED: the critique must share 2 consecutive words with the previous reply */
    double max_similar, min_similar;    /* SAME above, FAR below (word-bigram Dice); 0.95, 0.05; 0 switches off FAR */
} FilterInput;
Reject filter_revision(const FilterInput *f);
bool text_evasive(const char *s);               /* stock refusal without reason or alternative, in the first 160 bytes */
/* Stock refusals may be the share of what was accepted so far, the first one in any case; share 0: none. */
bool evasive_quota_full(double share, int n_evasive, int n_accepted);
double text_similarity(const char *a, const char *b);  /* Dice over word bigrams, 0..1; equal texts 1 */
int text_words(const char *s);
bool text_repeats(const char *s);
/* 13-gram overlap with any evaluation text: set of hashes built once. */
typedef struct GramSet GramSet;
GramSet *gramset_new(int n_gram);
void gramset_add(GramSet *g, const char *text);
bool gramset_hits(const GramSet *g, const char *text);
void gramset_free(GramSet *g);

#endif
