/* nn/reshard.h — which bytes of which stored pieces make up a wanted piece. The one planner behind loading a checkpoint under
 * another layout and behind moving weights between layouts.
 *
 * A box is a range in each dimension of a global tensor, stored row-major and without gaps. For a wanted box the plan is its
 * intersections with the stored ones, each one copy:
 *
 *      stored box a          wanted          copy of a:  n[] elements in each dimension,
 *      +--------+         +---------+        the last one contiguous on both sides
 *      |     +--+         |##|      |        from + sum i_d from_step[d]   (elements of a)
 *      |     |##|         |##|      |        to   + sum i_d to_step[d]     (elements of the wanted box)
 *      +-----+--+         +---------+
 *
 * Every wanted element must be stored exactly once: the copies' volumes sum to the box's and no two overlap, else ERR_FORMAT. */
#ifndef DIKAST_NN_RESHARD_H
#define DIKAST_NN_RESHARD_H

#include "base/error.h"

enum { BOX_DIMS = 4 };
typedef struct { int n_dim; int64_t at[BOX_DIMS], len[BOX_DIMS]; } Box;     /* 1..BOX_DIMS; len > 0 */

int64_t box_volume(const Box *b);
bool box_meet(Box *out, const Box *a, const Box *b);                /* false: they share nothing */
bool box_inside(const Box *b, const int64_t *shape);                /* lies within [0, shape) in each dimension, is not empty */

typedef struct {
    int have;                       /* number of the stored box */
    int n_dim;
    int64_t n[BOX_DIMS];            /* elements in each dimension; n[n_dim-1] of them lie together */
    int64_t from, to;               /* first element in the stored and in the wanted box */
    int64_t from_step[BOX_DIMS], to_step[BOX_DIMS];
} ReshardCopy;

/* *out: freed by the caller, NULL on failure; ordered by `from` within a stored box and by the boxes' numbers. */
bool reshard_plan(ReshardCopy **out, int *n, const Box *want, const Box *have, int n_have, Error *err);
/* Calls run(ud, from, to, n) for each contiguous run of elements, in the order in which they are stored; whole dimensions that lie
 * together on both sides are one run. Stops and returns false when run does. */
typedef bool ReshardRun(void *ud, int64_t from, int64_t to, int64_t n);
bool reshard_runs(const ReshardCopy *c, ReshardRun *run, void *ud);
/* From memory to memory: elements of `size` bytes. */
void reshard_copy(void *to, const void *from, const ReshardCopy *c, size_t size);

/* Piece i of n of a tensor cut along dimension dim as evenly as whole rows (columns) allow, the first ones larger. False where
 * there are fewer rows than pieces before it: the piece is empty. */
bool box_cut(Box *out, const int64_t *shape, int n_dim, int dim, int i, int n);

#endif
