/* engine/sample.h — the sampler with its scratch memory, for the generation loop: nothing is allocated per token. The
 * stand-alone forms in engine.h open and release a scratch of their own. */
#ifndef DIKAST_ENGINE_SAMPLE_H
#define DIKAST_ENGINE_SAMPLE_H

#include "engine/engine.h"

typedef struct { /* of one thread */
    int n_vocab;
    uint64_t *key; /* (V) candidates as sortable keys */
    float *weight; /* (V) exp(z - max), rounded up to whole blocks */
    uint8_t *mark; /* (V) all zero between calls */
    double *upto;  /* running total of weights at the end of each block */
} SampleScratch;

void sample_scratch_open(SampleScratch *s, int n_vocab);
void sample_scratch_release(SampleScratch *s);

/* Only what the rule lets through keeps its logit; the rest becomes -INFINITY. rule->force is the caller's. */
void sample_mask(SampleScratch *s, float *logits, const GenRule *rule);
/* Filters in place, as sample_filter. */
void sample_filter_with(SampleScratch *s, float *logits, const SampleParams *p, const int32_t *seen, int n_seen);
/* Penalty, filters and draw, as sample_token without a rule. */
int32_t sample_draw(SampleScratch *s, float *logits, const SampleParams *p, const int32_t *seen, int n_seen, double u);

#endif
