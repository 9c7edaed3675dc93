/* dist/tree.h — the sum of leaves 0..n-1 as one fixed binary tree: the same bits for every number of ranks.
 *
 * Node (k, i) is the sum of leaves i 2^k .. min((i+1) 2^k, n) - 1: its left child plus its right child; a right child that begins
 * behind the last leaf adds nothing. The tree follows from n alone. Rank r of d owns leaves [n r / d, n (r+1) / d) and computes
 * them in order:
 *
 *      leaf -> equal neighbours merge at once, so log2(n) + 1 nodes are held at most
 *           -> the largest nodes inside the rank's range (one, if n and d are powers of two; at most 2 log2 n) are cut at
 *              block boundaries and sent to the owners of the blocks; these finish the tree in leaf order
 *           -> all ranks get all blocks, or each keeps its own (ZeRO-1)
 *
 * Bytes sent by rank r, of Psi stored elements of which it owns s_r: nodes_r (Psi - s_r) B, then (d-1) s_r B: over all ranks that
 * of a ring's all-reduce where every rank has one node. The library that moves them adds nothing. */
#ifndef DIKAST_DIST_TREE_H
#define DIKAST_DIST_TREE_H

#include "dist/blocks.h"

typedef struct { int level; int64_t index; } TreeNode;
enum { TREE_NODES = 128 };      /* that one rank can be left with */
/* Leaves of one rank, and the nodes that cover them, left to right. */
void tree_range(int64_t n_leaf, int rank, int size, int64_t *first, int64_t *end);
int tree_cover(TreeNode out[TREE_NODES], int64_t first, int64_t end, int64_t n_leaf);

typedef struct TreeSum TreeSum;
/* t: (n) where leaves are computed and the sum arrives, all be->real; zero between steps. b: their blocks, cut for dp's ranks.
 * be, t, b, dp: borrowed, t's array copied. */
void tree_open(TreeSum **out, Backend *be, const Tensor *t, int n, const Blocks *b, Comm *dp);
void tree_close(TreeSum *s);
void tree_begin(TreeSum *s, int64_t n_leaf);
/* t holds the next of this rank's leaves; it is used up, and t zero again but after the last one. ERR_MEMORY: no room for one
 * more node. */
bool tree_push(TreeSum *s, Error *err);
void tree_drop(TreeSum *s);                     /* a step that is given up: forgets the leaves, zeroes t */
/* After all ranks' last leaf: t is the sum of all leaves on every rank; everywhere false: in the rank's own blocks, what the
 * others hold is undefined. Fails as comm does (comm_ok). */
void tree_finish(TreeSum *s, bool everywhere);

#endif
