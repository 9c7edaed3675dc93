/* eval/pyrandom.h — the numbers CPython's random module gives for an integer seed, for what was drawn there: few-shot
 * examples and bootstrap intervals of published results. Mersenne Twister 19937 (Matsumoto & Nishimura 1998), seeded by the
 * key array as random.seed(int) does. Nothing of ours draws by it. */
#ifndef DIKAST_EVAL_PYRANDOM_H
#define DIKAST_EVAL_PYRANDOM_H

#include "base/error.h"

typedef struct { uint32_t state[624]; int at; } PyRandom;
void pyrandom_seed(PyRandom *r, uint64_t seed);             /* random.seed(int) */
double pyrandom_unit(PyRandom *r);                          /* random(): [0, 1), 53 bits */
uint32_t pyrandom_below(PyRandom *r, uint32_t n);           /* _randbelow(n), n > 0 */
void pyrandom_sample(PyRandom *r, int *out, int n, int k);  /* sample(range(n), k), k <= n */

#endif
