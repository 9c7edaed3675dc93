/* cai/retrieve.h — which document a request's words speak of: Okapi BM25 (Robertson & Zaragoza 2009), words alike, and what
 * unlabelled requests teach.
 *
 *   bm25(d|q)   = sum over distinct words w of q: idf(w) tf (k1+1) / (tf + k1 (1 - b + b |d|/mean)),   k1 1.2, b .75
 *                 idf(w) = log(1 + (n - df + .5)/(df + .5))
 *   alike(d|q)  = the same over words v of the documents that share letters with a word w of q which stands in none:
 *                 sum of ALIKE dice(w, v) times v's term, the five nearest; dice over runs of 3 and 4 letters, at least .35
 *   learned(d|q) = LEARN sum over words w of q of log p(d|w)/p(d)
 *
 * The last is a naive Bayes model fitted by EM (Nigam et al. 2000) on requests without labels: first every request belongs to
 * the documents by the softmax of its score; then p(d|w) are counted (10 pseudo-counts of p(d)) and the requests shared out
 * again, five times. So "heroin" becomes evidence for the principle whose words it stands beside. */
#ifndef DIKAST_CAI_RETRIEVE_H
#define DIKAST_CAI_RETRIEVE_H

#include "base/compiler.h"

enum { RETRIEVE_DOCS = 64 };
typedef struct Retrieve Retrieve;
Retrieve *retrieve_new(unsigned terms, bool alike);     /* terms: flags of cai/terms.h */
void retrieve_add(Retrieve *r, int doc, const char *text);
void retrieve_ready(Retrieve *r, int n_doc);            /* after the last retrieve_add; n_doc: documents, empty ones too */
void retrieve_free(Retrieve *r);
/* score[d] += weight * (bm25 + alike) */
void retrieve_score(const Retrieve *r, double score[RETRIEVE_DOCS], const char *query, double weight);

typedef struct Learned Learned;
/* base: (n, RETRIEVE_DOCS) scores of each request; doc (n_doc): the documents it may be about. */
Learned *learned_new(const char *const *request, int n, const double (*base)[RETRIEVE_DOCS], const int *doc, int n_doc,
                     unsigned terms);
void learned_score(const Learned *l, double score[RETRIEVE_DOCS], const char *query);      /* adds */
void learned_free(Learned *l);

#endif
