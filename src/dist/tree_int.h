/* dist/tree_int.h — what tree.c (shape, leaves of one rank) and tree_send.c (between ranks) share. */
#ifndef DIKAST_DIST_TREE_INT_H
#define DIKAST_DIST_TREE_INT_H

#include "dist/tree.h"

typedef struct {
    Arena mem;
    Tensor *t;              /* as the sum's */
} TreeBuffer;

typedef struct {
    TreeNode node;
    TreeBuffer *buf;        /* NULL: the values stand in t itself */
} TreeHeld;

typedef struct {            /* blocks that travel together */
    int *block, *first;     /* indices ascending, so by owner; (size+1) where each owner's begin */
    int64_t *elem;          /* (size) elements of each owner's */
    int64_t off;            /* where this rank's begin in its nodes */
    int turn0, turn1;       /* final after turns [turn0, turn1) */
} TreeBucket;

typedef struct {            /* one that is under way */
    CommRequest *request;
    int64_t round;
    int bucket;
    HostRoom room;
    unsigned char *in, *out, *left;     /* in it; left: nodes of the owner's that are added to */
} TreeFlight;

enum { TREE_FLIGHTS = 4 };  /* at once; with turns, else one */

typedef struct {            /* an owner's node of its own blocks */
    Arena mem;
    Tensor t;               /* (1, elements) */
} TreeSlot;

typedef struct {            /* what travels between ranks; a round: every rank hands in its nodes of it, once, in all buckets */
    TreeBucket *bucket;
    int n_bucket;
    TreeFlight flight[TREE_FLIGHTS];
    int most, oldest, n_flight; /* most: that may be under way at once */
    int64_t round, n_round; /* of the next bucket that leaves, */
    int at;                 /* and which it is */
    const Tensor *src[TREE_NODES];      /* this round's nodes of this rank */
    int n_src, n_join;      /* n_join: the last one gets so many additions first, bucket by bucket */
    TreeNode *forest;       /* by runs: nodes of all ranks, */
    int *forest_first;      /* (size+1) of each */
    TreeSlot *slot;         /* by turns: */
    int n_slot, depth;      /* taken; wanted of this step, for each part */
    TreeNode *held;         /* (n_bucket * parts * depth) */
    int *n_held;            /* (n_bucket * parts) */
    bool *final;            /* (n_turn) */
    bool junk;              /* the step is given up: what leaves means nothing, what comes is not looked at */
} TreeSend;

struct TreeSum {
    Backend *be;
    Tensor *t;
    int n;
    const Blocks *b;
    Comm *dp;
    TreeConfig c;
    int64_t n_leaf, done;
    TreeRun run;
    TreeHeld held[TREE_NODES];
    int n_held;
    TreeBuffer *spare[TREE_NODES];
    int n_spare;
    TreeSend send;
};

bool tree_joins(TreeNode left, TreeNode right, int64_t n_leaf);
static inline TreeNode tree_parent(TreeNode n) { return (TreeNode){n.level + 1, n.index / 2}; }

void send_open(TreeSum *s);
void send_close(TreeSum *s);
bool send_begin(TreeSum *s, Error *err);        /* takes the owner's nodes */
void send_turns(TreeSum *s, int from, int to);
void send_rest(TreeSum *s, int64_t end);        /* of the rounds before `end` */
void send_land(TreeSum *s);                     /* all that is under way */

#endif
