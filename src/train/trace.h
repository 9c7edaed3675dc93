/* train/trace.h — what an optimizer step saw, in few bytes, so that it can be made again and compared (dikast replay).
 *
 * Every row of metrics.jsonl holds "inputs", a hash of the token ids of its forward passes and of the rows that were trained, and
 * "losses", one of the bits of each pass's loss. Both are sums of XXH3 values over passes, modulo 2^64, each with the number of its
 * pass: no matter in what order, or on which of several processes, the passes were made. */
#ifndef DIKAST_TRAIN_TRACE_H
#define DIKAST_TRAIN_TRACE_H

#include "base/json.h"
#include "nn/model.h"

typedef struct { uint64_t inputs, losses; } TraceSum;   /* of a step; starts as {0} */

/* Who makes a step again: training ends after `steps` rows of metrics.jsonl with ERR_STOPPED, and is seen doing the last. */
typedef struct {
    int64_t steps;
    void (*look)(void *ud, int64_t pass, const Batch *b, double loss);  /* each pass of step `steps`, after its loss */
    void *ud;
    bool *done;             /* set when that step was made */
} Trace;

/* One pass of step `step` (counted from 1), the pass-th of it. t: NULL but in a replay. */
void trace_add(TraceSum *s, const Trace *t, int64_t step, int64_t pass, const Batch *b, double loss);
void trace_put(JsonOut *j, const TraceSum *s);
/* Is it over after so many steps? Then *err says so. */
bool trace_over(const Trace *t, int64_t steps, Error *err);

#endif
