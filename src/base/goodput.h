/* base/goodput.h — where the time of a run's ranks went: every nanosecond of every rank is in exactly one bin.
 *
 *      productive  what the result is made of: computing, and exchanging with other ranks on the way
 *      save        training waits while a state is copied or written
 *      lost        computed, and to be computed again after a failure: no durable state held it
 *      detection   from a failure until it is found
 *      restart     from there, or from the start, until work goes on: ending, starting, opening, reading the state
 *      data        making up micro-batches and waiting for them
 *      idle        nothing to do: rank 0 works alone, or this rank has finished
 *
 * Productive time over all time is the effective training time ratio (ETTR). Integers, so that sums are exact: bins add up to
 * ranks times wall clock, to the nanosecond. */
#ifndef DIKAST_BASE_GOODPUT_H
#define DIKAST_BASE_GOODPUT_H

#include "base/json.h"

typedef enum { GOOD_PRODUCTIVE, GOOD_SAVE, GOOD_LOST, GOOD_DETECTION, GOOD_RESTART, GOOD_DATA, GOOD_IDLE, GOOD_BINS } GoodBin;
typedef struct { int64_t ns[GOOD_BINS]; } Goodput;

const char *goodput_name(int bin);                      /* "productive" */
int64_t goodput_total(const Goodput *g);
double goodput_ettr(const Goodput *g);                  /* NaN of nothing */
void goodput_add(Goodput *to, const Goodput *g);
int64_t goodput_move(Goodput *g, GoodBin from, GoodBin to, int64_t ns);     /* what there is, at most ns; returns how much it was */
void goodput_put(JsonOut *j, const char *key, const Goodput *g);            /* {"productive": ns, ...} */
bool goodput_get(Goodput *out, const Json *j);          /* false: a bin is missing or negative */

#endif
