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
    x->most = s->c.turn ? TREE_FLIGHTS : 1;
    x->n_held = mem_alloc((size_t)(x->n_bucket * s->c.parts) * sizeof *x->n_held);
    x->forest_first = mem_alloc((size_t)(comm_size(s->dp) + 1) * sizeof *x->forest_first);
}

void send_close(TreeSum *s) {
    TreeSend *x = &s->send;
    for (int i = 0; i < x->n_bucket; i++) {
        free(x->bucket[i].block);
        free(x->bucket[i].first);
        free(x->bucket[i].elem);
    }
    for (int i = 0; i < TREE_FLIGHTS; i++) { host_room_release(s->be, &x->flight[i].room); }
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

/* By turns: ranks of a part, and this rank's part. */
static int part_ranks(const TreeSum *s) { return comm_size(s->dp) / s->c.parts; }
static int part_of(const TreeSum *s, int rank) { return rank / part_ranks(s); }

/* By turns: a rank's leaf of that round, as a number among its part's; maybe behind the last. */
static int64_t turn_of(const TreeSum *s, int64_t round, int rank) {
    return round * part_ranks(s) + rank % part_ranks(s);
}

static int round_nodes(const TreeSum *s, int64_t round, int rank) {
    const TreeSend *x = &s->send;
    if (s->c.scatter) return turn_of(s, round, rank) < s->n_leaf / s->c.parts;
    return x->forest_first[rank + 1] - x->forest_first[rank];
}

/* Of the largest bucket in the first round, the fullest; as much for each that may be under way. */
static void take_flights(TreeSum *s) {
    TreeSend *x = &s->send;
    int size = comm_size(s->dp);
    int64_t own = round_nodes(s, 0, me(s)), all = 0, in = 0, out = 0, left = 0;
    for (int q = 0; q < size; q++) all += round_nodes(s, 0, q);
    for (int i = 0; i < x->n_bucket; i++) {
        int64_t elem = 0, mine = x->bucket[i].elem[me(s)];
        for (int q = 0; q < size; q++) elem += x->bucket[i].elem[q];
        if (own * elem > in) in = own * elem;
        if (all * mine > out) out = all * mine, left = (int64_t)x->depth * s->c.parts * mine;
    }
    size_t bytes = (size_t)real_bytes(s);
    for (int i = 0; i < x->most; i++) {
        TreeFlight *f = &x->flight[i];
        host_room(s->be, &f->room, (size_t)(in + out + left) * bytes + 1);
        f->in = f->room.at;
        f->out = f->in + (size_t)in * bytes;
        f->left = f->out + (size_t)out * bytes;
    }
}

bool send_begin(TreeSum *s, Error *err) {
    TreeSend *x = &s->send;
    int size = comm_size(s->dp);
    if (size == 1) return true;
    x->round = x->at = x->n_src = x->n_join = 0;
    int parts = s->c.parts;
    x->n_round = s->c.scatter ? (s->n_leaf / parts - 1) / part_ranks(s) + 1 : 1;
    x->depth = s->c.scatter ? tree_depth(s->n_leaf, size, parts) : 0;
    x->held = mem_grow(x->held, (size_t)(x->n_bucket * parts * x->depth + 1) * sizeof *x->held);
    memset(x->n_held, 0, (size_t)(x->n_bucket * parts) * sizeof *x->n_held);
    if (s->c.turn) memset(x->final, 0, (size_t)s->c.n_turn * sizeof *x->final);
    if (!s->c.scatter) plant(s);
    take_flights(s);
    bool ok = true, none = blocks_elements(s->b, s->t, me(s)) == 0;
    while (ok && !none && x->n_slot < parts * x->depth) ok = slot_more(s, err);
    return ok;
}

/* -- what arrives */

typedef struct { /* the owner's nodes of a bucket, or of a part of it, from left to right */
    TreeNode node[TREE_NODES];
    unsigned char *at[TREE_NODES]; /* NULL: in its slot */
    int n, slot;                   /* slot: of the first */
} Stack;

static unsigned char *fetch(TreeSum *s, const TreeFlight *f, Stack *k, int i) {
    const TreeBucket *b = &s->send.bucket[f->bucket];
    if (k->at[i]) return k->at[i];
    k->at[i] = f->left + (int64_t)(k->slot + i) * b->elem[me(s)] * real_bytes(s);
    block_get(s->be, k->at[i], slot_part(s, k->slot + i, b));
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

/* The sum of all leaves. */
static void put_sum(TreeSum *s, const TreeBucket *b, const unsigned char *from) {
    for (int i = b->first[me(s)]; i < b->first[me(s) + 1]; i++)
        from += block_set(s->be, block_of(s->t, s->b->at[b->block[i]]), from);
}

/* What is left of the parts, one after another. */
static void finish(TreeSum *s, TreeFlight *f, Stack *part) {
    Stack all = {.n = 0};
    for (int p = 0; p < s->c.parts; p++)
        for (int i = 0; i < part[p].n; i++) put_node(s, f, &all, part[p].node[i], fetch(s, f, &part[p], i));
    CHECK(all.n == 1, "a tree of %lld leaves ends in %d nodes", (long long)s->n_leaf, all.n);
    put_sum(s, &s->send.bucket[f->bucket], all.at[0]);
}

/* Until the next round. */
static void keep(TreeSum *s, const TreeFlight *f, const Stack *k, int part) {
    TreeSend *x = &s->send;
    int at = f->bucket * s->c.parts + part;
    CHECK(k->n <= x->depth, "%d nodes held, expected %d", k->n, x->depth);
    for (int i = 0; i < k->n; i++)
        if (k->at[i]) block_set(s->be, slot_part(s, k->slot + i, &x->bucket[f->bucket]), k->at[i]);
    memcpy(x->held + (int64_t)at * x->depth, k->node, (size_t)k->n * sizeof *k->node);
    x->n_held[at] = k->n;
}

static void arrive(TreeSum *s, TreeFlight *f) {
    TreeSend *x = &s->send;
    int64_t n = x->bucket[f->bucket].elem[me(s)], step = n * real_bytes(s), of = s->n_leaf / s->c.parts;
    Error lost;
    if (n == 0 || x->junk || !comm_ok(s->dp, &lost)) return;
    Stack *part = mem_alloc((size_t)s->c.parts * sizeof *part);
    for (int p = 0; p < s->c.parts; p++) {
        int at = f->bucket * s->c.parts + p;
        part[p].n = x->n_held[at], part[p].slot = p * x->depth;
        memcpy(part[p].node, x->held + (int64_t)at * x->depth, (size_t)part[p].n * sizeof *part[p].node);
    }
    unsigned char *value = f->out;
    for (int q = 0, at = 0; q < comm_size(s->dp); q++)
        for (int i = 0; i < round_nodes(s, f->round, q); i++, at++, value += step) {
            TreeNode leaf = {0, part_of(s, q) * of + turn_of(s, f->round, q)};
            put_node(s, f, &part[s->c.scatter ? part_of(s, q) : 0], s->c.scatter ? leaf : x->forest[at], value);
        }
    if (f->round + 1 == x->n_round)
        finish(s, f, part);
    else
        for (int p = 0; p < s->c.parts; p++) keep(s, f, &part[p], p);
    free(part);
}

/* The oldest one; false: it is not over yet, and nobody waits. */
static bool land_one(TreeSum *s, bool wait) {
    TreeSend *x = &s->send;
    TreeFlight *f = &x->flight[x->oldest];
    if (!wait && !comm_test(f->request)) return false;
    comm_wait(f->request);
    f->request = NULL;
    x->oldest = (x->oldest + 1) % x->most;
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
    if (x->n_flight == x->most) land_one(s, true);
    if (x->at == 0) begin_round(s);
    const TreeBucket *b = &x->bucket[x->at];
    TreeFlight *f = &x->flight[(x->oldest + x->n_flight) % x->most];
    int64_t *sent = mem_alloc(2 * (size_t)size * sizeof *sent), *comes = sent + size;
    f->round = x->round;
    f->bucket = x->at;
    for (int q = 0; q < size; q++) {
        sent[q] = x->n_src * b->elem[q];
        comes[q] = round_nodes(s, x->round, q) * b->elem[me(s)];
    }
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
