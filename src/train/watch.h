/* train/watch.h — are the ranks that train together well? What each tells the others of its micro-batches and its weights, by the
 * rules of dist/health.h, and what is done about it:
 *
 *      a loss that is not finite     its rank and micro-batch are named; the caller skips the step, on all ranks
 *      a rank that is slow           named after a few steps; training goes on
 *      weights that differ           replicas over dp hold equal bits, always: whoever is in the minority is named, and training
 *                                    ends: the weights of all have been trained with its gradients since. Compared every so many
 *                                    steps and before each save, so every saved state is good and a supervisor goes back to one
 *
 * Names go to the log (events.jsonl: non_finite, straggler, corrupt) and to a supervisor.
 *
 * Tests cause the faults: DIKAST_CRASH_AT (base/crash.h) with train.nan, train.flip, train.slow, and train.skip, which leaves the
 * update of a step out. The step is the trainer's, from 1; rl: the update, of which nan and skip take the first minibatch. */
#ifndef DIKAST_TRAIN_WATCH_H
#define DIKAST_TRAIN_WATCH_H

#include "base/log.h"
#include "train/leaves.h"

enum { WATCH_NETS = 2 };
typedef struct {
    const Mesh *mesh;           /* borrowed; NULL: one rank */
    Log *log;
    Net net[WATCH_NETS];        /* what is trained */
    int n_net;
    int64_t every;              /* steps between comparisons of weights; 0: none, nor before saves */
} WatchConfig;

typedef struct Watch Watch;
Watch *watch_new(const WatchConfig *c);
void watch_free(Watch *w);      /* NULL is fine */
/* Micro-batch `number` of the step has been computed; s goes to leaves_add. */
void watch_leaf(Watch *w, int64_t step, int64_t number, LeafSum *s);
/* After leaves_agree. True: a test wants this step skipped. */
bool watch_step(Watch *w, int64_t step, const Leaves *l);
/* After the step, by every rank. save: a state will be saved now. False: weights differ; the error names whose. Under a supervisor it does not
 * return then: the supervisor ends this process and starts again from the last checkpoint. */
bool watch_weights(Watch *w, int64_t step, bool save, Error *err);

#endif
