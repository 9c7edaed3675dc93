/* dist/tree_send.c — nodes of the tree on their way to the owners of their blocks, and what these make of them.
 *
 * A round is one all_to_all a bucket: every rank hands in its nodes of the round, of which each owner gets its blocks.
 * By runs there is one round, when a rank's last leaf is there, and owners finish the tree in it. By turns every leaf
 * is a round; the d leaves of a round follow each other, so an owner goes through them from left to right and holds,
 * from one round to the next, the nodes that still wait for a right sibling.
 *
 * All ranks begin the same calls in the same order, (round, bucket) ascending, whatever is final first. Owners add on
 * the host, where the bytes arrive. */
#include <stdlib.h>
#include <string.h>

#include "dist/sum.h"
#include "dist/tree_int.h"

static int me(const TreeSum *s) { return comm_rank(s->dp); }
static int64_t real_bytes(const TreeSum *s) { return (int64_t)dtype_bytes(s->be->real); }

/* -- buckets */

typedef struct {
    int index, turn;
} Place;

static int by_turn(const void *a, const void *b) {
    const Place *x = a, *y = b;
    return x->turn != y->turn ? (x->turn > y->turn) - (x->turn < y->turn)
                              : (x->index > y->index) - (x->index < y->index);
}

static int by_index(const void *a, const void *b) {
    return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

static void add_bucket(TreeSum *s, const int *block, int n, int turn0, int turn1) {
    TreeSend *x = &s->send;
    int size = comm_size(s->dp), at = 0;
    x->bucket = mem_grow(x->bucket, (size_t)(x->n_bucket + 1) * sizeof *x->bucket);
    TreeBucket *b = &x->bucket[x->n_bucket++];
    *b = (TreeBucket){.turn0 = turn0, .turn1 = turn1};
    b->block = mem_alloc((size_t)n * sizeof *b->block);
    b->first = mem_alloc((size_t)(size + 1) * sizeof *b->first);
    b->elem = mem_alloc((size_t)size * sizeof *b->elem);
    memcpy(b->block, block, (size_t)n * sizeof *block);
    qsort(b->block, (size_t)n, sizeof *b->block, by_index);
    for (int q = 0; q < size; q++) {
        for (; at < n && b->block[at] < s->b->cut[q + 1]; at++)
            b->elem[q] += block_elements(s->t, s->b->at[b->block[at]]);
        b->first[q + 1] = at;
    }
    if (x->n_bucket > 1) b->off = x->bucket[x->n_bucket - 2].off + x->bucket[x->n_bucket - 2].elem[me(s)];
}

/* In the order in which they become final, each about a TREE_BUCKETS-th of all, cut between turns. */
static void cut_by_turns(TreeSum *s) {
    int n = s->b->n, from = 0;
    int64_t most = BLOCKS_PIECE / real_bytes(s), least = s->b->n_elem / TREE_BUCKETS, elem = 0;
    Place *p = mem_alloc((size_t)n * sizeof *p);
    int *block = mem_alloc((size_t)n * sizeof *block);
    for (int i = 0; i < n; i++) p[i] = (Place){i, s->c.turn[s->b->at[i].tensor]};
    qsort(p, (size_t)n, sizeof *p, by_turn);
    for (int i = 0; i <= n; i++) {
        int64_t next = i < n ? block_elements(s->t, s->b->at[p[i].index]) : 0;
        bool over = i == n || elem + next > most || (elem >= least && p[i].turn != p[i - 1].turn);
        if (i > from && over) {
            add_bucket(s, block, i - from, p[from].turn, p[i - 1].turn + 1);
            from = i;
            elem = 0;
        }
        if (i == n) break;
        block[i - from] = p[i].index;
        elem += next;
    }
    free(p);
    free(block);
}

/* As much for every owner as goes in one piece: all links are busy alike. */
static void cut_evenly(TreeSum *s) {
    int size = comm_size(s->dp), n;
    int64_t most = BLOCKS_PIECE / real_bytes(s);
    int *from = mem_alloc((size_t)size * sizeof *from), *block = mem_alloc((size_t)s->b->n * sizeof *block);
    memcpy(from, s->b->cut, (size_t)size * sizeof *from);
    do {
        n = 0;
        for (int q = 0; q < size; q++) {
            int64_t elem = 0;
            for (; from[q] < s->b->cut[q + 1]; from[q]++) {
                int64_t next = block_elements(s->t, s->b->at[from[q]]);
                if (elem > 0 && elem + next > most) break;
                elem += next;
                block[n++] = from[q];
            }
        }
        if (n > 0) add_bucket(s, block, n, 0, 0);
    } while (n > 0);
    free(from);
    free(block);
}

void send_open(TreeSum *s) {
    TreeSend *x = &s->send;
    if (comm_size(s->dp) == 1) {
        s->c.turn = NULL;
        s->c.n_turn = 0;
        return;
    }
    if (s->c.turn) {
        cut_by_turns(s);
        x->final = mem_alloc((size_t)s->c.n_turn * sizeof *x->final);
    } else {
        cut_evenly(s);
    }
    x->n_held = mem_alloc((size_t)x->n_bucket * sizeof *x->n_held);
    x->forest_first = mem_alloc((size_t)(comm_size(s->dp) + 1) * sizeof *x->forest_first);
}

void send_close(TreeSum *s) {
    TreeSend *x = &s->send;
    for (int i = 0; i < x->n_bucket; i++) {
        free(x->bucket[i].block);
        free(x->bucket[i].first);
        free(x->bucket[i].elem);
    }
    for (int i = 0; i < TREE_FLIGHTS; i++) {
        free(x->flight[i].in);
        free(x->flight[i].out);
        free(x->flight[i].left);
    }
    for (int i = 0; i < x->n_slot; i++) arena_release(&x->slot[i].mem);
    free(x->slot);
    free(x->bucket);
    free(x->forest);
    free(x->forest_first);
    free(x->held);
    free(x->n_held);
    free(x->final);
}

/* -- an owner's nodes */

static bool slot_more(TreeSum *s, Error *err) {
    TreeSend *x = &s->send;
    int64_t n = blocks_elements(s->b, s->t, me(s));
    Arena measure;
    x->slot = mem_grow(x->slot, (size_t)(x->n_slot + 1) * sizeof *x->slot);
    TreeSlot *slot = &x->slot[x->n_slot];
    *slot = (TreeSlot){.t = {0}};
    arena_init_measure(&measure, "a part of a sum of gradients");
    tensor_place(&measure, s->be->real, 1, n);
    if (!arena_init(&slot->mem, "a part of a sum of gradients", s->be->mem, measure.used, err)) return false;
    slot->t = tensor_place(&slot->mem, s->be->real, 1, n);
    x->n_slot++;
    return true;
}

static Tensor slot_part(const TreeSum *s, int slot, const TreeBucket *b) {
    return tensor_cols(s->send.slot[slot].t, b->off, b->elem[me(s)]);
}

/* By runs the nodes of all ranks: they follow from n_leaf, so nobody needs to send them. */
static void plant(TreeSum *s) {
    TreeSend *x = &s->send;
    int size = comm_size(s->dp);
    if (!x->forest) x->forest = mem_alloc((size_t)size * TREE_NODES * sizeof *x->forest);
    for (int r = 0; r < size; r++) {
        int64_t first, end;
        tree_range(s->n_leaf, r, size, &first, &end);
        x->forest_first[r + 1] = x->forest_first[r] + tree_cover(x->forest + x->forest_first[r], first, end, s->n_leaf);
    }
}

bool send_begin(TreeSum *s, Error *err) {
    TreeSend *x = &s->send;
    int size = comm_size(s->dp);
    if (size == 1) return true;
    x->round = x->at = x->n_src = x->n_join = 0;
    x->n_round = s->c.scatter ? (s->n_leaf + size - 1) / size : 1;
    x->depth = s->c.scatter ? tree_depth(s->n_leaf, size) : 0;
    x->held = mem_grow(x->held, (size_t)(x->n_bucket * x->depth + 1) * sizeof *x->held);
    memset(x->n_held, 0, (size_t)x->n_bucket * sizeof *x->n_held);
    if (s->c.turn) memset(x->final, 0, (size_t)s->c.n_turn * sizeof *x->final);
    if (!s->c.scatter) plant(s);
    bool ok = true, none = blocks_elements(s->b, s->t, me(s)) == 0;
    while (ok && !none && x->n_slot < x->depth) ok = slot_more(s, err);
    return ok;
}

/* -- what arrives */

typedef struct { /* the owner's nodes of a bucket, from left to right */
    TreeNode node[TREE_NODES];
    unsigned char *at[TREE_NODES]; /* NULL: in the slot of its number */
    int n;
} Stack;

static unsigned char *fetch(TreeSum *s, const TreeFlight *f, Stack *k, int i) {
    const TreeBucket *b = &s->send.bucket[f->bucket];
    if (k->at[i]) return k->at[i];
    k->at[i] = f->left + (int64_t)i * b->elem[me(s)] * real_bytes(s);
    block_get(s->be, k->at[i], slot_part(s, i, b));
    return k->at[i];
}

static void put_node(TreeSum *s, const TreeFlight *f, Stack *k, TreeNode one, unsigned char *value) {
    int64_t n = s->send.bucket[f->bucket].elem[me(s)];
    while (k->n > 0 && tree_joins(k->node[k->n - 1], one, s->n_leaf)) {
        unsigned char *left = fetch(s, f, k, --k->n);
        sum_add(left, value, n, s->be->real);
        one = tree_parent(k->node[k->n]);
        value = left;
    }
    CHECK(k->n < TREE_NODES, "%d sums held", k->n);
    k->node[k->n] = one;
    k->at[k->n++] = value;
}

static int round_nodes(const TreeSum *s, int64_t round, int rank) {
    const TreeSend *x = &s->send;
    if (s->c.scatter) return round * comm_size(s->dp) + rank < s->n_leaf;
    return x->forest_first[rank + 1] - x->forest_first[rank];
}

/* The sum of all leaves. */
static void put_sum(TreeSum *s, const TreeBucket *b, const unsigned char *from) {
    for (int i = b->first[me(s)]; i < b->first[me(s) + 1]; i++)
        from += block_set(s->be, block_of(s->t, s->b->at[b->block[i]]), from);
}

static void arrive(TreeSum *s, TreeFlight *f) {
    TreeSend *x = &s->send;
    const TreeBucket *b = &x->bucket[f->bucket];
    int64_t n = b->elem[me(s)], step = n * real_bytes(s);
    TreeNode *held = x->held + (int64_t)f->bucket * x->depth;
    Error lost;
    Stack k = {.n = x->n_held[f->bucket]};
    if (n == 0 || x->junk || !comm_ok(s->dp, &lost)) return;
    f->left = mem_grow(f->left, (size_t)(x->depth * step) + 1);
    memcpy(k.node, held, (size_t)k.n * sizeof *held);
    unsigned char *value = f->out;
    for (int q = 0, at = 0; q < comm_size(s->dp); q++)
        for (int i = 0; i < round_nodes(s, f->round, q); i++, at++, value += step) {
            int64_t leaf = f->round * comm_size(s->dp) + q;
            put_node(s, f, &k, s->c.scatter ? (TreeNode){0, leaf} : x->forest[at], value);
        }
    if (f->round + 1 == x->n_round) {
        CHECK(k.n == 1, "a tree of %lld leaves ends in %d nodes", (long long)s->n_leaf, k.n);
        put_sum(s, b, fetch(s, f, &k, 0));
        return;
    }
    CHECK(k.n <= x->depth, "%d nodes held, expected %d", k.n, x->depth);
    for (int i = 0; i < k.n; i++)
        if (k.at[i]) block_set(s->be, slot_part(s, i, b), k.at[i]);
    memcpy(held, k.node, (size_t)k.n * sizeof *held);
    x->n_held[f->bucket] = k.n;
}

/* The oldest one; false: it is not over yet, and nobody waits. */
static bool land_one(TreeSum *s, bool wait) {
    TreeSend *x = &s->send;
    TreeFlight *f = &x->flight[x->oldest];
    if (!wait && !comm_test(f->request)) return false;
    comm_wait(f->request);
    f->request = NULL;
    x->oldest = (x->oldest + 1) % TREE_FLIGHTS;
    x->n_flight--;
    arrive(s, f);
    return true;
}

void send_land(TreeSum *s) {
    while (s->send.n_flight > 0) land_one(s, true);
}

/* -- what leaves */

static void begin_round(TreeSum *s) {
    TreeSend *x = &s->send;
    x->n_src = x->n_join = 0;
    int want = round_nodes(s, x->round, me(s));
    if (s->c.scatter || x->junk) { /* of a step that is given up any values will do */
        while (x->n_src < want) x->src[x->n_src++] = s->t;
        return;
    }
    TreeNode leaf = {0, s->run.first + s->done};
    bool more = s->done < s->run.n; /* the last leaf leaves bucket by bucket */
    int n = s->n_held;
    for (; more && n > 0 && tree_joins(s->held[n - 1].node, leaf, s->n_leaf); n--, x->n_join++)
        leaf = tree_parent(s->held[n - 1].node);
    for (int i = 0; i < n; i++) x->src[x->n_src++] = s->held[i].buf ? s->held[i].buf->t : s->t;
    if (more) x->src[x->n_src++] = x->n_join > 0 ? s->held[n].buf->t : s->t;
    CHECK(x->n_src == want, "%d sums held, expected %d", x->n_src, want);
}

/* What push_here does for a whole leaf. */
static void join(TreeSum *s, const TreeBucket *b) {
    const Tensor *right = s->t;
    for (int k = 0; k < s->send.n_join; k++) {
        const Tensor *left = s->held[s->n_held - 1 - k].buf->t;
        for (int i = 0; i < b->first[comm_size(s->dp)]; i++) {
            Block at = s->b->at[b->block[i]];
            Tensor y = tensor_storage(block_of(left, at));
            s->be->op->add(s->be, y, y, tensor_storage(block_of(right, at)));
        }
        right = left;
    }
}

/* The next bucket. */
static void ship(TreeSum *s) {
    TreeSend *x = &s->send;
    int size = comm_size(s->dp);
    if (x->n_flight == (s->c.turn ? TREE_FLIGHTS : 1)) land_one(s, true);
    if (x->at == 0) begin_round(s);
    const TreeBucket *b = &x->bucket[x->at];
    TreeFlight *f = &x->flight[(x->oldest + x->n_flight) % TREE_FLIGHTS];
    int64_t *sent = mem_alloc(2 * (size_t)size * sizeof *sent), *comes = sent + size, in = 0, out = 0;
    f->round = x->round;
    f->bucket = x->at;
    for (int q = 0; q < size; q++) {
        in += sent[q] = x->n_src * b->elem[q];
        out += comes[q] = round_nodes(s, x->round, q) * b->elem[me(s)];
    }
    f->in = mem_grow(f->in, (size_t)(in * real_bytes(s)) + 1);
    f->out = mem_grow(f->out, (size_t)(out * real_bytes(s)) + 1);
    if (!x->junk) join(s, b);
    size_t at = 0;
    for (int q = 0; q < size; q++)
        for (int k = 0; k < x->n_src; k++)
            for (int i = b->first[q]; i < b->first[q + 1]; i++)
                at += block_get(s->be, f->in + at, block_of(x->src[k], s->b->at[b->block[i]]));
    f->request = comm_start_all_to_all(s->dp, f->out, comes, f->in, sent, s->be->real, "tree.shards");
    free(sent);
    x->n_flight++;
    if (++x->at == x->n_bucket) x->at = 0, x->round++;
}

void send_rest(TreeSum *s, int64_t end) {
    while (s->send.round < end) ship(s);
}

/* Is the leaf being computed what leaves next? */
static bool leaf_is_next(const TreeSum *s) {
    return s->c.scatter ? s->send.round == s->done : s->send.round == 0 && s->done + 1 == s->run.n;
}

void send_turns(TreeSum *s, int from, int to) {
    TreeSend *x = &s->send;
    while (x->n_flight > 0 && land_one(s, false)) continue;
    for (int i = from; i < to && i < s->c.n_turn; i++) x->final[i] = true;
    while (leaf_is_next(s)) {
        const TreeBucket *b = &x->bucket[x->at];
        for (int i = b->turn0; i < b->turn1; i++)
            if (!x->final[i]) return;
        ship(s);
    }
}
