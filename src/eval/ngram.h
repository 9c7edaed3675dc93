/* eval/ngram.h — a linear classifier over hashed n-grams of a request and a reply.
 *
 *   features   words and pairs of neighbouring words: letters (bytes beyond ASCII too) and digits, lower case, of five parts with a
 *              fifth of the buckets each (Weinberger et al. 2009, without signs): the request; the reply; how the reply opens (its
 *              first NGRAM_OPENS words, threes too: declining is said there, and the same words further on are about something
 *              else); how its sentences begin (the first one, two and three words of each: it advises, warns, instructs or speaks of
 *              itself there); request and reply as one text
 *   x_j        of the first four parts (1 + ln count_j) idf_j, idf_j = 1 + ln((1 + n) / (1 + df_j)); of the last, wherever count_j is
 *              not 0, the log-count ratio (Wang & Manning 2012, eq. 2) of the label in question: r_jk = ln (p_j / sum p) - ln (q_j / sum q),
 *              p_j = 1 + rows with the word whose label k is 1, q_j = 1 + those where it is 0. 0 where df_j < 2; each part scaled to its length:
 *              the reply and the last 1, the request NGRAM_REQUEST (what is asked says what a reply may be about, not whether it
 *              helps), the opening NGRAM_OPENING, the sentences NGRAM_SENTENCES; and a constant 1 beside them
 *   z_k        w_k . x, one logistic regression per label: min |w|^2 / 2 + C sum ln(1 + exp(-y z))
 *
 * A row has two readings, the first four parts and the last one. A model may be fitted to either or to both at once; the mean of
 * two models that make different mistakes (ngram_mean) makes fewer.
 * idf makes the rare word large, the ratio the telling one.
 *
 * Fitted by coordinate descent in the dual (Yu, Huang & Lin 2011) in an order drawn from rng, until nothing moves: the same
 * bits whatever the threads. */
#ifndef DIKAST_EVAL_NGRAM_H
#define DIKAST_EVAL_NGRAM_H

#include "base/pool.h"
#include "base/rng.h"

enum { NGRAM_PARTS = 5, NGRAM_BUCKETS = NGRAM_PARTS << 17, NGRAM_OPENS = 12, NGRAM_RUN = 3 };
#define NGRAM_REQUEST 0.3
#define NGRAM_OPENING 0.7
#define NGRAM_SENTENCES 0.7

typedef struct { int32_t *at; float *x; int n; } NgramRow;      /* ascending buckets with their values; in the last part 1 (ngram_seen) */
typedef struct NgramModel NgramModel;
typedef struct { const char *request, *reply; } NgramText;

/* idf from these texts, ratios from them and their labels (n, n_label), as in ngram_fit. */
NgramModel *ngram_new(const NgramText *text, const float *label, int64_t n, int n_label);
void ngram_free(NgramModel *m);                                 /* NULL is fine */
void ngram_row(NgramRow *out, const NgramModel *m, NgramText t);
void ngram_row_release(NgramRow *r);
void ngram_row_only(NgramRow *r, bool request);                 /* leaves the request's part, or the reply's three */
typedef enum { NGRAM_APART, NGRAM_TOGETHER, NGRAM_READINGS } NgramReading;
NgramRow ngram_reading(const NgramRow *r, NgramReading reading); /* borrows: not to be released */
NgramRow ngram_seen(const NgramModel *m, int k, const NgramRow *r, float *x); /* as label k has it, by its ratios; x: room for its values */
/* label (n, n_label): 0 or 1, NaN: the row is none of this label's. A label of one kind only gets the constant alone. Only the
 * first n_fit labels are fitted, the others' weights are 0. */
void ngram_fit(NgramModel *m, const NgramRow *row, const float *label, int64_t n, int n_fit, double c, Rng rng, Pool *pool);
NgramModel *ngram_like(const NgramModel *m);                    /* its idf, ratios and labels, weights 0 */
/* Weights: the mean of one model per reading, each by its reading's share; all like out, which is none of them. */
void ngram_mean(NgramModel *out, NgramModel *const model[NGRAM_READINGS]);
void ngram_score(const NgramModel *m, const NgramRow *row, double *z); /* (n_label) */
int ngram_labels(const NgramModel *m);

bool ngram_save(const NgramModel *m, const char *path, Error *err);    /* safetensors: idf, ratio, weight, bias */
bool ngram_open(NgramModel **out, const char *path, Error *err);       /* files of before there were ratios or all parts too */

#endif
