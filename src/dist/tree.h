/* dist/tree.h — the sum of leaves 0..n-1 as one fixed binary tree: the same bits for every number of ranks.
 *
 * Node (k, i) is the sum of leaves i 2^k .. min((i+1) 2^k, n) - 1: its left child plus its right child; a right child that begins
 * behind the last leaf adds nothing. The tree follows from n alone: who adds what, and when, changes no bit. Ranks share it out in
 * one of two ways.
 *
 * By runs: rank r of d computes leaves [n r / d, n (r+1) / d) in order:
 *
 *      leaf -> equal neighbours merge at once, so log2(n/d) whole sums are held beside the leaf at most
 *           -> the largest nodes inside the rank's range (one, if n and d are powers of two; at most 2 log2 n) are cut at
 *              block boundaries and sent to the owners of the blocks; these finish the tree in leaf order
 *           -> all ranks get all blocks, or each keeps its own (ZeRO-1)
 *
 * By turns (scatter: gradients of ZeRO-2, Rajbhandari et al. 2020, section 5.2): rank r computes leaves r, r + d, r + 2 d, ...
 *
 *      leaf -> cut at block boundaries, every block sent to its owner at once: nothing else of it stays
 *           -> the owner has d leaves that follow each other and adds them to its nodes, of its own blocks alone: log2(n/d) d-ths
 *              of a whole sum where n and d are powers of two
 *
 * By turns in c parts, of ranks that compute c things' parts side by side (nn/cut.h): part k has leaves [k n/c, (k+1) n/c) and ranks
 * [k d/c, (k+1) d/c), which take them in turn. An owner adds up each part's leaves from left to right, and at the end the parts'.
 *
 * Bytes sent by rank r, of Psi stored elements of B bytes of which it owns s_r: nodes_r (Psi - s_r) B (by turns: as many nodes as it
 * has leaves), then (d-1) s_r B where all want all: by runs, over all ranks, that of a ring's all-reduce where every rank has one
 * node. The library that moves them adds nothing.
 *
 * Blocks travel in buckets. With TreeConfig.turn a bucket leaves as soon as the leaf's part of it is final, while the rest is
 * still being computed (tree_final); buckets leave in one order on all ranks. */
#ifndef DIKAST_DIST_TREE_H
#define DIKAST_DIST_TREE_H

#include "dist/blocks.h"

typedef struct { int level; int64_t index; } TreeNode;
enum { TREE_NODES = 128 };      /* that one rank can be left with */
/* Leaves of one rank, and the nodes that cover them, left to right. */
void tree_range(int64_t n_leaf, int rank, int size, int64_t *first, int64_t *end);
int tree_cover(TreeNode out[TREE_NODES], int64_t first, int64_t end, int64_t n_leaf);
typedef struct { int64_t first, step, n; } TreeRun;    /* leaves first, first + step, ..: n of them */
TreeRun tree_run(int64_t n_leaf, int rank, int size, bool scatter, int parts);     /* parts: by turns */
/* Nodes of its own blocks that an owner holds at most, of each part, while leaves come by turns. */
int tree_depth(int64_t n_leaf, int size, int parts);

typedef struct TreeSum TreeSum;
typedef struct {
    bool scatter;           /* leaves by turns, */
    int parts;              /* in so many parts; 0: 1. It divides leaves and ranks */
    const int *turn;        /* (tensors) a leaf's part of a tensor is final after this turn, 0..n_turn-1; NULL: when the leaf is
                               (tree_push): nothing leaves before. Copied */
    int n_turn;
} TreeConfig;
enum { TREE_BUCKETS = 32 }; /* with turns: a bucket is about that part of a leaf; never more than BLOCKS_PIECE, but for a larger block */

/* t: (n) where leaves are computed and the sum arrives, all be->real; zero between steps. b: their blocks, cut for dp's ranks.
 * be, t, b, dp: borrowed, t's array copied. */
void tree_open(TreeSum **out, Backend *be, const Tensor *t, int n, const Blocks *b, Comm *dp, const TreeConfig *c);
void tree_close(TreeSum *s);
/* Takes all memory of a step. ERR_MEMORY: no room for a node more; this rank then gives no leaf, and
 * ends the step as any that it gives up. */
bool tree_begin(TreeSum *s, int64_t n_leaf, Error *err);
TreeRun tree_leaves(const TreeSum *s);          /* this rank's */
/* In between: this rank's leaf being computed has its last values in the tensors of turns [from, to). */
void tree_final(TreeSum *s, int from, int to);
/* t holds the next of this rank's leaves; it is used up, and t zero again but after the last one. */
void tree_push(TreeSum *s);
/* In its place, where this rank gives up but goes on to do what others than dp's wait for, in the usual order (a pipeline): this leaf's
 * part of the exchange without the leaf. */
void tree_skip(TreeSum *s);
/* This rank's leaves are all there, or it gives up: whatever the others wait for from it begins. So nobody waits for a rank
 * longer than it takes to come here, and what the ranks agree on next need not wait for the exchange. After it tree_finish or
 * tree_drop, on all ranks the same. */
void tree_settle(TreeSum *s);
void tree_drop(TreeSum *s);                     /* a step that all ranks give up: forgets the leaves, zeroes t */
void tree_cancel(TreeSum *s);                   /* the same where no rank has begun with its leaves: nothing travels */
/* Where all ranks have given all their leaves: t is the sum of all leaves on every rank; everywhere false: in
 * the rank's own blocks, what the others hold is undefined. Fails as comm does (comm_ok). */
void tree_finish(TreeSum *s, bool everywhere);
/* Of a dry backend, between tree_begin and tree_cancel: takes what tree_finish takes beside, and gives it back. */
void tree_rehearse(TreeSum *s, bool everywhere);

#endif
