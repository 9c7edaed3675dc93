#include "dist/tree.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    Arena mem;
    Tensor *t; /* as the sum's */
} Buffer;

typedef struct {
    TreeNode node;
    Buffer *buf; /* NULL: the values stand in t itself */
} Held;

struct TreeSum {
    Backend *be;
    Tensor *t;
    int n;
    const Blocks *b;
    Comm *dp;
    int64_t n_leaf, next, first, end;
    Held held[TREE_NODES];
    int n_held;
    Buffer *spare[TREE_NODES];
    int n_spare;
};

/* -- the tree's shape */

void tree_range(int64_t n_leaf, int rank, int size, int64_t *first, int64_t *end) {
    *first = n_leaf * rank / size;
    *end = n_leaf * (rank + 1) / size;
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
static bool joins(TreeNode left, TreeNode right, int64_t n_leaf) {
    while (right.level < left.level && right.index % 2 == 0 && (right.index + 1) << right.level >= n_leaf)
        right = (TreeNode){right.level + 1, right.index / 2};
    return right.level == left.level && left.index % 2 == 0 && right.index == left.index + 1;
}

static TreeNode parent(TreeNode n) { return (TreeNode){n.level + 1, n.index / 2}; }

/* -- buffers */

static void place(Buffer *b, Arena *mem, const TreeSum *s) {
    for (int i = 0; i < s->n; i++)
        b->t[i] = tensor_place_weight(mem, s->t[i].dtype, s->t[i].rows, s->t[i].cols, s->t[i].panels);
}

static Buffer *buffer_get(TreeSum *s, Error *err) {
    if (s->n_spare > 0) return s->spare[--s->n_spare];
    Buffer *b = mem_alloc(sizeof *b);
    Arena measure;
    b->t = mem_alloc((size_t)(s->n + 1) * sizeof *b->t);
    arena_init_measure(&measure, "a sum of gradients");
    place(b, &measure, s);
    if (arena_init(&b->mem, "a sum of gradients", s->be->mem, measure.used, err)) {
        place(b, &b->mem, s);
        return b;
    }
    free(b->t);
    free(b);
    error_wrap(err, "gradients of several micro-batches are added up as a tree, which holds one sum per level: more "
                    "tokens per micro-batch need fewer, dist.tree=false (one rank) only one");
    return NULL;
}

static void buffer_put(TreeSum *s, Buffer *b) {
    if (!b) return;
    if (s->n_spare < TREE_NODES) {
        s->spare[s->n_spare++] = b;
        return;
    }
    arena_release(&b->mem);
    free(b->t);
    free(b);
}

void tree_open(TreeSum **out, Backend *be, const Tensor *t, int n, const Blocks *b, Comm *dp) {
    CHECK(b->n_rank == comm_size(dp), "blocks cut for %d ranks of %d", b->n_rank, comm_size(dp));
    TreeSum *s = mem_alloc(sizeof *s);
    *s = (TreeSum){.be = be, .n = n, .b = b, .dp = dp};
    s->t = mem_alloc((size_t)(n + 1) * sizeof *s->t);
    memcpy(s->t, t, (size_t)n * sizeof *t);
    *out = s;
}

static void forget(TreeSum *s) {
    for (int i = 0; i < s->n_held; i++) buffer_put(s, s->held[i].buf);
    s->n_held = 0;
    s->next = s->end = 0;
}

void tree_close(TreeSum *s) {
    if (!s) return;
    forget(s);
    for (int i = 0; i < s->n_spare; i++) {
        arena_release(&s->spare[i]->mem);
        free(s->spare[i]->t);
        free(s->spare[i]);
    }
    free(s->t);
    free(s);
}

/* -- leaves */

void tree_begin(TreeSum *s, int64_t n_leaf) {
    CHECK(n_leaf > 0 && s->n_held == 0, "%lld leaves, %d sums held", (long long)n_leaf, s->n_held);
    s->n_leaf = n_leaf;
    tree_range(n_leaf, comm_rank(s->dp), comm_size(s->dp), &s->first, &s->end);
    s->next = s->first;
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

bool tree_push(TreeSum *s, Error *err) {
    CHECK(s->next < s->end, "leaf %lld is not this rank's", (long long)s->next);
    Held leaf = {{0, s->next++}, NULL};
    while (s->n_held > 0 && joins(s->held[s->n_held - 1].node, leaf.node, s->n_leaf)) {
        Held *left = &s->held[s->n_held - 1];
        add_into(s, left->buf->t, leaf.buf ? leaf.buf->t : s->t);
        buffer_put(s, leaf.buf);
        leaf = (Held){parent(left->node), left->buf};
        s->n_held--;
    }
    bool last = s->next == s->end;
    if (!leaf.buf && !last) {
        leaf.buf = buffer_get(s, err);
        if (!leaf.buf) return false;
        move(s, leaf.buf->t, s->t);
    }
    CHECK(s->n_held < TREE_NODES, "%d sums held", s->n_held);
    s->held[s->n_held++] = leaf;
    if (!last) zero(s);
    return true;
}

void tree_drop(TreeSum *s) {
    forget(s);
    zero(s);
}

/* -- across ranks */

typedef struct { /* all ranks' nodes: they follow from n_leaf, so nobody needs to send them */
    TreeNode *node;
    int *first; /* (size+1) of each rank */
} Forest;

static Forest forest_make(const TreeSum *s) {
    int size = comm_size(s->dp);
    Forest f = {mem_alloc((size_t)size * TREE_NODES * sizeof *f.node), mem_alloc((size_t)(size + 1) * sizeof *f.first)};
    for (int r = 0; r < size; r++) {
        int64_t first, end;
        tree_range(s->n_leaf, r, size, &first, &end);
        f.first[r + 1] = f.first[r] + tree_cover(f.node + f.first[r], first, end, s->n_leaf);
    }
    int me = comm_rank(s->dp);
    CHECK(f.first[me + 1] - f.first[me] == s->n_held, "%d sums held, expected %d", s->n_held,
          f.first[me + 1] - f.first[me]);
    return f;
}

static void add_host(void *left, const void *right, int64_t n, DType dtype) {
    if (dtype == DTYPE_F64) {
        double *a = left;
        const double *b = right;
        for (int64_t i = 0; i < n; i++) a[i] += b[i];
    } else {
        float *a = left;
        const float *b = right;
        for (int64_t i = 0; i < n; i++) a[i] += b[i];
    }
}

/* Finishes the tree above nodes in leaf order that cover all of it; part k lies at parts + k * n elements. The sum ends
 * in the first part. */
static void finish_parts(const TreeNode *all, int count, unsigned char *parts, int64_t n, DType dtype, int64_t n_leaf) {
    TreeNode node[TREE_NODES];
    unsigned char *at[TREE_NODES];
    size_t step = (size_t)n * dtype_bytes(dtype);
    int held = 0;
    for (int k = 0; k < count; k++) {
        TreeNode one = all[k];
        unsigned char *value = parts + (size_t)k * step;
        while (held > 0 && joins(node[held - 1], one, n_leaf)) {
            held--;
            add_host(at[held], value, n, dtype);
            one = parent(node[held]);
            value = at[held];
        }
        CHECK(held < TREE_NODES, "%d sums held", held);
        node[held] = one;
        at[held++] = value;
    }
    CHECK(held == 1, "a tree of %lld leaves ends in %d nodes", (long long)n_leaf, held);
}

typedef struct {
    int *from, *to;        /* (size) blocks of the round */
    int64_t *elem;         /* (size) their elements */
    int64_t *sent, *comes; /* (size) elements to and from each rank */
    unsigned char *in, *out;
} Round;

static bool next_round(Round *r, const TreeSum *s, const Forest *f) {
    int size = comm_size(s->dp), me = comm_rank(s->dp);
    int64_t most = BLOCKS_PIECE / (int64_t)dtype_bytes(s->be->real), all = 0, in = 0, out = 0;
    for (int q = 0; q < size; q++) {
        r->elem[q] = 0;
        for (r->to[q] = r->from[q]; r->to[q] < s->b->cut[q + 1]; r->to[q]++) {
            int64_t n = block_elements(s->t, s->b->at[r->to[q]]);
            if (r->elem[q] > 0 && r->elem[q] + n > most) break;
            r->elem[q] += n;
        }
        all += r->elem[q];
    }
    for (int q = 0; q < size; q++) {
        in += r->sent[q] = s->n_held * r->elem[q];
        out += r->comes[q] = (f->first[q + 1] - f->first[q]) * r->elem[me];
    }
    size_t bytes = dtype_bytes(s->be->real);
    r->in = mem_grow(r->in, (size_t)in * bytes + 1);
    r->out = mem_grow(r->out, (size_t)out * bytes + 1);
    return all > 0;
}

static void pack(Round *r, const TreeSum *s) {
    size_t at = 0;
    for (int q = 0; q < comm_size(s->dp); q++)
        for (int k = 0; k < s->n_held; k++) {
            const Tensor *t = s->held[k].buf ? s->held[k].buf->t : s->t;
            for (int i = r->from[q]; i < r->to[q]; i++) at += block_get(s->be, r->in + at, block_of(t, s->b->at[i]));
        }
}

/* The owners' sums arrive in t only when everything has been read from there. */
static void exchange(TreeSum *s, const Forest *f) {
    int size = comm_size(s->dp), me = comm_rank(s->dp);
    size_t n = (size_t)size;
    DType real = s->be->real;
    Error ignore;
    Round r = {
        .from = mem_alloc(n * sizeof(int)), .to = mem_alloc(n * sizeof(int)), .elem = mem_alloc(n * sizeof(int64_t))};
    r.sent = mem_alloc(n * sizeof(int64_t));
    r.comes = mem_alloc(n * sizeof(int64_t));
    memcpy(r.from, s->b->cut, n * sizeof(int));
    while (next_round(&r, s, f)) {
        pack(&r, s);
        comm_all_to_all(s->dp, r.out, r.comes, r.in, r.sent, real, "tree.shards");
        if (!comm_ok(s->dp, &ignore)) break;
        if (r.elem[me] > 0) finish_parts(f->node, f->first[size], r.out, r.elem[me], real, s->n_leaf);
        size_t at = 0;
        for (int i = r.from[me]; i < r.to[me]; i++) at += block_set(s->be, block_of(s->t, s->b->at[i]), r.out + at);
        memcpy(r.from, r.to, n * sizeof(int));
    }
    free(r.from);
    free(r.to);
    free(r.elem);
    free(r.sent);
    free(r.comes);
    free(r.in);
    free(r.out);
}

void tree_finish(TreeSum *s, bool everywhere) {
    CHECK(s->next == s->end, "%lld leaves are missing", (long long)(s->end - s->next));
    if (comm_size(s->dp) == 1) {
        CHECK(s->n_held == 1, "%d sums held of all leaves", s->n_held);
        if (s->held[0].buf) move(s, s->t, s->held[0].buf->t);
    } else {
        Forest f = forest_make(s);
        exchange(s, &f);
        if (everywhere) blocks_gather(s->b, s->dp, s->be, s->t, "tree.sum");
        free(f.node);
        free(f.first);
    }
    forget(s);
}
