/* data/loader.h — tokenised samples and packed micro-batches by number.
 *
 * A SampleSet holds sequences of ids with per-token loss weights. The loader deals them into packs of at most max_tok
 * tokens: sample order of epoch e is a permutation keyed by (seed, e); windows of that order are packed best-fit, long
 * samples first; so pack i is the same rows whoever asks, and resuming needs only the number. Samples of which many fit in
 * a pack are not sorted by length: a pack is a fair sample of them. Groups (the two sides of a preference pair) stay
 * neighbours in one pack. A background thread builds packs ahead of the trainer. */
#ifndef DIKAST_DATA_LOADER_H
#define DIKAST_DATA_LOADER_H

#include "data/ledger.h"
#include "text/chat.h"

typedef struct {
    int32_t *tok;           /* all tokens, concatenated */
    float *weight;          /* loss weight of predicting this token from the one before; the first of a sample is 0 */
    int64_t *off;           /* (n+1) */
    uint64_t *id;           /* (n) provenance: caller's number */
    float *target;          /* (n) per-sample number (PM: soft label of the pair on its first side; classifier: label) */
    float *sample_weight;   /* (n) */
    int64_t n, cap, cap_tok;
    int group;              /* samples per group: 1, or 2 for pairs */
} SampleSet;
void samples_init(SampleSet *s, int group);
void samples_add(SampleSet *s, const int32_t *tok, const float *weight, int n, uint64_t id, float target, float sample_weight);
void samples_release(SampleSet *s);
/* A row that was tokenised before, cut the same way: weight[k] is that of predicting tok[k]. */
void samples_add_ids(SampleSet *s, const int32_t *tok, const float *weight, int n, uint64_t id, int max_len, Ledger *l);
/* Text of documents -> samples of at most max_len tokens: <|endoftext|> tokens <|endoftext|>, in pieces that overlap by one
 * token, so every token of the document and its end is a target once (and booked once). Tokenised by n_thread threads (0: all
 * CPUs), which call text() at the same time; the result does not depend on their number. l may be NULL. */
void samples_add_texts(SampleSet *s, const Chat *c, TextAt *text, void *ud, int64_t n_text, int max_len, int n_thread, Ledger *l);

typedef struct {
    int n_tok, n_seq;
    int32_t *tok, *seq_off;     /* (N), (S+1) */
    int32_t *pos;               /* (N) */
    float *weight;              /* (N) weight[i]: loss weight of predicting token i+1 from row i (0 on last rows); does not hold
                                   the sample's sample_weight */
    int64_t *sample;            /* (S) index into the SampleSet */
    int64_t epoch, number;
} Pack;

typedef struct Loader Loader;
/* Samples longer than max_tok are an error (callers cut or drop them with a ledger entry first). */
bool loader_open(Loader **out, const SampleSet *s, int max_tok, uint64_t seed, Error *err);
/* Meant for ascending numbers (any start, gaps and steps back cost a rebuild), one thread; valid until the next call. */
const Pack *loader_pack(Loader *l, int64_t number);
int64_t loader_packs_in_epoch(Loader *l, int64_t epoch);
double loader_wait_s(const Loader *l);      /* seconds the caller waited in total */
void loader_close(Loader *l);

#endif
