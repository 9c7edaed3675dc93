/* eval/likelihood.h — log-likelihoods of texts, by the rules lm-evaluation-harness 0.4.13 has for causal models:
 *
 *   pair      white space at the end of the context belongs to the continuation. The continuation's ids are those of the whole
 *             text behind as many as the context alone has, whether or not the whole begins with the context's. Special tokens
 *             stand around a text as the tokenizer's file says, but not twice where it begins with the prefix token's spelling.
 *             An empty context is the prefix token.
 *   window    the last max_seq + 1 ids of both; what is cut off on the left is counted.
 *   rolling   a text in windows of max_seq predicted ids, each with as much context as fits; the first begins with the prefix.
 */
#ifndef DIKAST_EVAL_LIKELIHOOD_H
#define DIKAST_EVAL_LIKELIHOOD_H

#include "engine/engine.h"
#include "text/tokenizer.h"

typedef struct {
    const Tokenizer *tok;
    Engine *engine;
    Pool *pool;
    int32_t prefix; /* BOS, else EOS; -1: none, then empty contexts are errors */
    int max_seq;
} LikelihoodModel;

typedef struct {
    const char *ctx, *cont; /* cont NULL: rolling, over ctx. Requests that share a context share the pointer */
    double ll;              /* nats */
    bool greedy;            /* every token of the continuation is the likeliest; rolling: false */
    int n_cut;              /* tokens cut off on the left */
} LikelihoodRequest;

/* Fills ll, greedy and n_cut. On failure *bad is the number of the request that is to blame, -1: none in particular. The same
 * bits for any number of threads. */
bool likelihood(const LikelihoodModel *m, LikelihoodRequest *r, int64_t n, int64_t *bad, Log *log, Error *err);

#endif
