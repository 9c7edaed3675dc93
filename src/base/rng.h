/* base/rng.h — Philox4x32-10 (Salmon et al. 2011). No state: equal coordinates give equal numbers whoever asks, in
 * whatever order. item: sample, example or element of a parameter; step: token, round or epoch. */
#ifndef DIKAST_BASE_RNG_H
#define DIKAST_BASE_RNG_H

#include "base/compiler.h"

typedef enum {      /* one stream per purpose, never reused; append only (numbers are part of results) */
    RNG_INIT, RNG_SHUFFLE, RNG_SAMPLE, RNG_MASK, RNG_PRINCIPLE, RNG_AUGMENT, RNG_SPLIT, RNG_SIDE, RNG_WORLD, RNG_BOOT,
    RNG_TEST, RNG_RETRY, RNG_DROPOUT,
} RngStream;

typedef struct { uint64_t seed; uint32_t stream; } Rng;

/* Derived generator for a stage or record: hashes name into the seed. */
Rng rng_derive(Rng r, const char *name);
void rng_block(uint32_t out[4], Rng r, uint64_t item, uint32_t step);   /* one Philox block: counter {item, step, 0}, key {seed}^stream */
uint32_t rng_u32(Rng r, uint64_t item, uint32_t step);
double rng_uniform(Rng r, uint64_t item, uint32_t step);                /* [0, 1), 53 bits */
double rng_normal(Rng r, uint64_t item, uint32_t step);                 /* Box-Muller of one block */
uint32_t rng_below(Rng r, uint64_t item, uint32_t step, uint32_t n);    /* [0, n), n > 0; multiply-shift of 64 bits */
void rng_shuffle(Rng r, uint64_t item, int64_t *order, int64_t n);      /* order := a permutation of 0..n-1 */

#endif
