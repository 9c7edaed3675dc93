#include "dist/tree.h"

#include <stdlib.h>
#include <string.h>

#include "dist/tree_int.h"

/* -- the tree's shape */

void tree_range(int64_t n_leaf, int rank, int size, int64_t *first, int64_t *end) {
    *first = n_leaf * rank / size;
    *end = n_leaf * (rank + 1) / size;
}

TreeRun tree_run(int64_t n_leaf, int rank, int size, bool scatter, int parts) {
    int64_t first, end, n = n_leaf / parts, d = size / parts, part = rank / d, turn = rank % d;
    if (scatter) return (TreeRun){part * n + turn, d, turn < n ? (n - turn - 1) / d + 1 : 0};
    tree_range(n_leaf, rank, size, &first, &end);
    return (TreeRun){first, 1, end - first};
}

/* A node that reaches past the last leaf counts as ending there. */
int tree_cover(TreeNode out[TREE_NODES], int64_t first, int64_t end, int64_t n_leaf) {
    int n = 0;
    for (int64_t at = first; at < end;) {
        int k = 0;
        for (;; k++) {
            int64_t width = (int64_t)1 << (k + 1), stop = at + width;
            bool hangs_over = end == n_leaf && stop > n_leaf && at + width / 2 < n_leaf;
            if (at % width != 0 || (stop > end && !hangs_over)) break;
        }
        CHECK(n < TREE_NODES, "a rank with more than %d nodes", TREE_NODES);
        out[n++] = (TreeNode){k, at >> k};
        at = ((at >> k) + 1) << k;
    }
    return n;
}

/* Is `right` the right child of left's parent? One without a sibling of its own, for lack of leaves, rises to its
 * level. */
bool tree_joins(TreeNode left, TreeNode right, int64_t n_leaf) {
    while (right.level < left.level && right.index % 2 == 0 && (right.index + 1) << right.level >= n_leaf)
        right = (TreeNode){right.level + 1, right.index / 2};
    return right.level == left.level && left.index % 2 == 0 && right.index == left.index + 1;
}

/* One more node, to the right of those held. */
static int push_node(TreeNode *node, int n, TreeNode one, int64_t n_leaf) {
    while (n > 0 && tree_joins(node[n - 1], one, n_leaf)) one = tree_parent(node[--n]);
    CHECK(n < TREE_NODES, "%d sums held", n);
    node[n] = one;
    return n + 1;
}

int tree_depth(int64_t n_leaf, int size, int parts) {
    TreeNode node[TREE_NODES];
    int most = 0;
    for (int part = 0; part < parts; part++)
        for (int64_t i = 0, n = 0, of = n_leaf / parts; i + 1 < of; i++) {
            n = push_node(node, (int)n, (TreeNode){0, part * of + i}, n_leaf);
            if ((i + 1) % (size / parts) == 0 && n > most) most = (int)n;
        }
    return most;
}

/* Whole sums that leaves of one run need at most at a time, beside the one being computed. */
static int count_buffers(TreeRun run, int64_t n_leaf) {
    TreeNode node[TREE_NODES];
    int n = 0, most = 0;
    for (int64_t i = 0; i + 1 < run.n; i++) {
        n = push_node(node, n, (TreeNode){0, run.first + i}, n_leaf);
        if (n > most) most = n;
    }
    return most;
}

/* -- buffers */

static void place(TreeBuffer *b, Arena *mem, const TreeSum *s) {
    for (int i = 0; i < s->n; i++)
        b->t[i] = tensor_place_weight(mem, s->t[i].dtype, s->t[i].rows, s->t[i].cols, s->t[i].panels);
}

static bool buffer_more(TreeSum *s, Error *err) {
    TreeBuffer *b = mem_alloc(sizeof *b);
    Arena measure;
    b->t = mem_alloc((size_t)(s->n + 1) * sizeof *b->t);
    arena_init_measure(&measure, "a sum of gradients");
    place(b, &measure, s);
    if (arena_init(&b->mem, "a sum of gradients", s->be->mem, measure.used, err)) {
        place(b, &b->mem, s);
        s->spare[s->n_spare++] = b;
        return true;
    }
    free(b->t);
    free(b);
    return error_wrap(err, "gradients of several micro-batches are added up as a tree, which holds one sum per level: "
                           "more tokens per micro-batch need fewer, dist.zero=2 (several ranks) parts of sums, "
                           "dist.tree=false (one rank) only one");
}

static void buffer_put(TreeSum *s, TreeBuffer *b) {
    if (!b) return;
    CHECK(s->n_spare < TREE_NODES, "%d buffers", s->n_spare);
    s->spare[s->n_spare++] = b;
}

void tree_open(TreeSum **out, Backend *be, const Tensor *t, int n, const Blocks *b, Comm *dp, const TreeConfig *c) {
    CHECK(b->n_rank == comm_size(dp), "blocks cut for %d ranks of %d", b->n_rank, comm_size(dp));
    TreeSum *s = mem_alloc(sizeof *s);
    *s = (TreeSum){.be = be, .n = n, .b = b, .dp = dp, .c = *c};
    s->c.scatter = c->scatter && comm_size(dp) > 1;
    s->c.parts = s->c.scatter && c->parts > 1 ? c->parts : 1;
    CHECK(comm_size(dp) % s->c.parts == 0, "%d parts over %d ranks", s->c.parts, comm_size(dp));
    s->t = mem_alloc((size_t)(n + 1) * sizeof *s->t);
    memcpy(s->t, t, (size_t)n * sizeof *t);
    send_open(s);
    *out = s;
}

static void forget(TreeSum *s) {
    for (int i = 0; i < s->n_held; i++) buffer_put(s, s->held[i].buf);
    s->n_held = 0;
    s->n_leaf = s->done = 0;
    s->run = (TreeRun){0, 1, 0};
}

void tree_close(TreeSum *s) {
    if (!s) return;
    send_land(s);
    forget(s);
    for (int i = 0; i < s->n_spare; i++) {
        arena_release(&s->spare[i]->mem);
        free(s->spare[i]->t);
        free(s->spare[i]);
    }
    send_close(s);
    free(s->t);
    free(s);
}

/* -- leaves */

TreeRun tree_leaves(const TreeSum *s) { return s->run; }

bool tree_begin(TreeSum *s, int64_t n_leaf, Error *err) {
    CHECK(n_leaf > 0 && s->n_leaf == 0, "%lld leaves, %lld under way", (long long)n_leaf, (long long)s->n_leaf);
    CHECK(n_leaf % s->c.parts == 0, "%lld leaves in %d parts", (long long)n_leaf, s->c.parts);
    s->n_leaf = n_leaf;
    s->run = tree_run(n_leaf, comm_rank(s->dp), comm_size(s->dp), s->c.scatter, s->c.parts);
    bool ok = send_begin(s, err);
    int want = s->c.scatter ? 0 : count_buffers(s->run, n_leaf);
    while (ok && s->n_spare < want) ok = buffer_more(s, err);
    s->send.junk = !ok;
    return ok;
}

static void zero(TreeSum *s) {
    for (int i = 0; i < s->n; i++)
        if (!tensor_empty(s->t[i])) s->be->op->zero(s->be, s->t[i]);
}

static void add_into(TreeSum *s, const Tensor *left, const Tensor *right) {
    for (int i = 0; i < s->n; i++) {
        if (tensor_empty(left[i])) continue;
        Tensor y = tensor_storage(left[i]);
        s->be->op->add(s->be, y, y, tensor_storage(right[i]));
    }
}

static void move(TreeSum *s, const Tensor *to, const Tensor *from) {
    for (int i = 0; i < s->n; i++)
        if (!tensor_empty(to[i])) s->be->op->copy(s->be, to[i], from[i]);
}

static void push_here(TreeSum *s, bool last) {
    TreeHeld leaf = {{0, s->run.first + s->done}, NULL};
    while (s->n_held > 0 && tree_joins(s->held[s->n_held - 1].node, leaf.node, s->n_leaf)) {
        TreeHeld *left = &s->held[s->n_held - 1];
        add_into(s, left->buf->t, leaf.buf ? leaf.buf->t : s->t);
        buffer_put(s, leaf.buf);
        leaf = (TreeHeld){tree_parent(left->node), left->buf};
        s->n_held--;
    }
    if (!leaf.buf && !last) {
        CHECK(s->n_spare > 0, "no room for leaf %lld", (long long)s->done);
        leaf.buf = s->spare[--s->n_spare];
        move(s, leaf.buf->t, s->t);
    }
    CHECK(s->n_held < TREE_NODES, "%d sums held", s->n_held);
    s->held[s->n_held++] = leaf;
}

/* Does anything leave before all ranks have agreed that the step's leaves are there? */
static bool eager(const TreeSum *s) { return comm_size(s->dp) > 1 && (s->c.scatter || s->c.turn); }

void tree_push(TreeSum *s) {
    CHECK(s->done < s->run.n, "leaf %lld is not this rank's", (long long)s->done);
    bool last = s->done + 1 == s->run.n;
    if (s->c.scatter)
        send_rest(s, s->done + 1);
    else if (last && eager(s))
        send_rest(s, 1);
    else if (!s->send.junk)
        push_here(s, last);
    s->done++;
    if (!last) zero(s);
    for (int i = 0; i < s->c.n_turn; i++) s->send.final[i] = false;
}

void tree_skip(TreeSum *s) {
    s->send.junk = true;
    if (s->done < s->run.n) tree_push(s);
}

void tree_final(TreeSum *s, int from, int to) {
    if (!eager(s) || !s->c.turn || s->done >= s->run.n) return;
    send_turns(s, from, to);
}

void tree_settle(TreeSum *s) {
    if (!eager(s) || s->n_leaf == 0) return;
    s->send.junk |= s->done < s->run.n;
    send_rest(s, s->send.n_round);
}

void tree_cancel(TreeSum *s) {
    s->send.junk = true;
    send_land(s);
    forget(s);
    zero(s);
}

void tree_drop(TreeSum *s) {
    tree_settle(s);
    tree_cancel(s);
}

void tree_rehearse(TreeSum *s, bool everywhere) {
    CHECK(s->be->dry, "a step of which nothing comes");
    if (everywhere) blocks_gather(s->b, s->dp, s->be, s->t, "tree.sum");
}

void tree_finish(TreeSum *s, bool everywhere) {
    CHECK(s->n_leaf > 0 && s->done == s->run.n, "%lld leaves are missing", (long long)(s->run.n - s->done));
    if (comm_size(s->dp) == 1) {
        CHECK(s->n_held == 1, "%d sums held of all leaves", s->n_held);
        if (s->held[0].buf) move(s, s->t, s->held[0].buf->t);
    } else {
        send_rest(s, s->send.n_round);
        send_land(s);
        if (everywhere) blocks_gather(s->b, s->dp, s->be, s->t, "tree.sum");
    }
    forget(s);
}
