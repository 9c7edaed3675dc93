/* train/leaves.h — the micro-batches of one optimizer step, numbered through all ranks, as leaves of the gradient tree.
 *
 *      leaves_begin(l, n)                              the step has n
 *      for (i = l->first; i < l->end; i++)             those of this rank
 *          train_micro(.., &leaf.weight, leaf metrics); leaves_add(l, ..)
 *      leaves_agree(l, ..)                             how everybody fares; losses, weights and metrics of all, in order of leaves
 *      leaves_sum(l)                                   gradients: the tree's sum, where the optimizer wants it
 *
 * Losses, weights and metrics are kept per leaf and added up in order of leaves on every rank, so that all ranks hold the same
 * numbers, to the bit those of one rank. */
#ifndef DIKAST_TRAIN_LEAVES_H
#define DIKAST_TRAIN_LEAVES_H

#include "dist/agree.h"
#include "nn/optim.h"
#include "train/objective.h"
#include "train/trace.h"

typedef struct { double loss, weight, tokens, rows, sequences; TraceSum trace; } LeafSum;   /* rows: head rows trained */

typedef struct Leaves Leaves;
/* For the gradients of o (borrowed, as its mesh). running: one running sum instead of the tree, of one rank only; it holds nothing
 * but the gradients themselves. */
void leaves_open(Leaves **out, Optim *o, const Mesh *mesh, bool running);
void leaves_close(Leaves *l);
void leaves_begin(Leaves *l, int64_t n);
int64_t leaves_first(const Leaves *l);
int64_t leaves_end(const Leaves *l);
Metrics *leaves_metrics(Leaves *l);     /* of the leaf being computed */
/* The gradients hold the next leaf. Where several ranks hold parts of the model, s and the metrics are the last stage's.
 * Takes them, its sums and what leaves_metrics collected. */
bool leaves_add(Leaves *l, LeafSum s, Error *err);
/* mine: this rank's fate so far. True: *total and all metrics of all ranks (added to m; NULL: none); false: as agree, and the
 * step's gradients are dropped. */
bool leaves_agree(Leaves *l, const Error *mine, LeafSum *total, Metrics *m, Error *err);
bool leaves_sum(Leaves *l, Error *err); /* false: comm failed */
void leaves_drop(Leaves *l);            /* the step is given up; gradients become zero */

#endif
