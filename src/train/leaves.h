/* train/leaves.h — the micro-batches of one optimizer step, numbered through all ranks, as leaves of the gradient tree.
 *
 *      leaves_begin(l, n)                              the step has n
 *      for (i = 0; i < leaves_count(l); i++)           those of this rank: leaves_number(l, i)
 *          train_micro(.., &leaf.weight, leaf metrics); leaves_add(l, ..)
 *      leaves_agree(l, ..)                             how everybody fares; losses, weights and metrics of all, in order of leaves
 *      leaves_sum(l)                                   gradients: the tree's sum, where the optimizer wants it
 *
 * A rank has a run of neighbours; with ZeRO-2 every dp-th leaf, each of which goes to the owners of its parts when it is there. With
 * overlap what goes to other ranks leaves while the backward of the layers below goes on: net_backward tells (Model.listen).
 * Ranks that divide the rows of a micro-batch (cp) each have a part of its gradient, a leaf of its own: the tree has c n of them, those of
 * cp's first rank before those of the second. Loss and metrics all of them know; the first one tells.
 *
 * Losses, weights and metrics are kept per leaf and added up in order of leaves on every rank, so that all ranks hold the same
 * numbers, to the bit those of one rank. */
#ifndef DIKAST_TRAIN_LEAVES_H
#define DIKAST_TRAIN_LEAVES_H

#include "dist/agree.h"
#include "nn/optim.h"
#include "train/objective.h"
#include "train/trace.h"

typedef struct {
    double loss, weight, tokens, rows, sequences;   /* rows: head rows trained */
    TraceSum trace;
    int64_t number;         /* of the leaf in its step */
    double seconds;         /* that its rank worked on it; of these two no sums are made */
} LeafSum;

/* How the ranks fared in the step: what leaves_agree saw. Arrays: (ranks of the world). */
typedef struct {
    int64_t n, n_bad, bad;  /* leaves; those whose loss is not finite, the first of them */
    int bad_rank;
    double *seconds, *tokens, *leaves;
} LeafHealth;

typedef struct Leaves Leaves;
typedef struct {
    const Mesh *mesh;       /* borrowed; NULL: one rank */
    bool running;           /* one running sum instead of the tree, of one rank only; it holds nothing but the gradients themselves */
    bool overlap;           /* buckets of gradients leave as the backward makes them */
} LeavesConfig;
/* For the gradients of o (borrowed), whose ZeRO stage it follows. */
void leaves_open(Leaves **out, Optim *o, const LeavesConfig *c);
void leaves_close(Leaves *l);
/* Takes the memory of the step; without, the first leaves_add says so. */
void leaves_begin(Leaves *l, int64_t n);
int64_t leaves_count(const Leaves *l);
int64_t leaves_number(const Leaves *l, int64_t i);
Metrics *leaves_metrics(Leaves *l);     /* of the leaf being computed */
/* The gradients hold the next leaf. Where several ranks hold parts of the model, s and the metrics are the last stage's.
 * Takes them, its sums and what leaves_metrics collected. */
bool leaves_add(Leaves *l, LeafSum s, Error *err);
/* In place of leaves_add, on the way to telling of an error: see tree_skip. */
void leaves_skip(Leaves *l);
/* mine: this rank's fate so far. True: *total and all metrics of all ranks (added to m; NULL: none); false: as agree, and the
 * step's gradients are dropped. */
bool leaves_agree(Leaves *l, const Error *mine, LeafSum *total, Metrics *m, Error *err);
const LeafHealth *leaves_health(const Leaves *l);       /* until the next leaves_begin */
bool leaves_sum(Leaves *l, Error *err); /* false: comm failed */
/* "t_comm", "t_hidden" of several ranks (trainer.h): since `before` (mesh_times), in took_s seconds. */
void leaves_put_times(JsonOut *j, const Leaves *l, CommTimes before, double took_s);
/* Takes the memory that a step of n leaves takes on this rank, and leaves it as leaves_drop does; for plans (tensor/dry.h). */
bool leaves_rehearse(Leaves *l, int64_t n, Error *err);
void leaves_drop(Leaves *l);            /* the step is given up, by all ranks; gradients become zero */
void leaves_cancel(Leaves *l);          /* the same before any rank has begun with its leaves */

#endif
