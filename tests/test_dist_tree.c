// layer: dist
/* The gradient tree: the same bits for any number of leaves and ranks, those of its definition; what it sends; the
 * blocks. */
#include "dist_help.h"

#include "base/rng.h"
#include "dist/tree.h"

/* -- the definition */

static float leaf_value(int64_t leaf, int64_t i) {
    double u = rng_uniform((Rng){11, RNG_TEST}, (uint64_t)leaf, (uint32_t)i);
    return (float)((u - 0.5) *
                   (leaf % 3 == 0 ? 1e4 : 1)); /* of unlike size, so that every other order rounds otherwise */
}

/* Sum of leaves [first, end) of the node at that level, as the header says. */
static float node_sum(int level, int64_t index, int64_t n, int64_t i) {
    int64_t first = index << level;
    if (level == 0) return leaf_value(first, i);
    float left = node_sum(level - 1, 2 * index, n, i);
    if (first + ((int64_t)1 << (level - 1)) >= n) return left;
    return left + node_sum(level - 1, 2 * index + 1, n, i);
}

static int root_level(int64_t n) {
    int k = 0;
    while (((int64_t)1 << k) < n) k++;
    return k;
}

/* -- the thing */

enum { N_TENSOR = 4 };
static const int64_t shape[N_TENSOR][2] = {{1, 37}, {21, 5}, {0, 3}, {40, 9}};

typedef struct {
    const char *backend;
    bool panels;
    int64_t n_leaf, n_elem;
    float *sum; /* (n_elem) by definition */
    int64_t plain_differs;
    bool shard, scatter, turns;
    int parts; /* by turns */
} Case;

static const int turn_of[N_TENSOR] = {2, 0, 0, 1};
enum { N_TURN = 3 };

typedef struct {
    MemSource src;
    size_t live;
} Counted;

static void *counted_get(void *ud, size_t bytes) {
    Counted *c = ud;
    c->live += bytes;
    return c->src.get(c->src.ud, bytes);
}

static void counted_put(void *ud, void *p, size_t bytes) {
    Counted *c = ud;
    c->live -= bytes;
    c->src.put(c->src.ud, p, bytes);
}

static void fill(Backend *be, const Tensor *t, int64_t leaf) {
    int64_t at = 0;
    for (int k = 0; k < N_TENSOR; k++) {
        int64_t n = tensor_count(t[k]);
        float *x = mem_alloc((size_t)n * sizeof *x);
        for (int64_t i = 0; i < n; i++) x[i] = leaf_value(leaf, at++);
        if (n > 0) tensor_set_f32(be, t[k], x);
        free(x);
    }
}

static void place(Tensor *t, Arena *mem, const Backend *be, bool panels) {
    for (int k = 0; k < N_TENSOR; k++)
        t[k] = tensor_place_weight(mem, be->real, shape[k][0], shape[k][1], panels && be->panels && k > 0);
}

static void check_sum(Rank *r, const Case *c, Backend *be, const Tensor *t, const Blocks *b) {
    int64_t at = 0;
    for (int k = 0; k < N_TENSOR; k++) {
        int64_t n = tensor_count(t[k]), row = 0, n_row = t[k].rows;
        float *x = mem_alloc((size_t)n * sizeof *x);
        if (n > 0) tensor_get_f32(be, x, t[k]);
        if (c->shard) blocks_rows(b, k, r->rank, &row, &n_row);
        for (int64_t i = row * t[k].cols; i < (row + n_row) * t[k].cols; i++) expect(r, x[i] == c->sum[at + i]);
        at += n;
        free(x);
    }
}

static void check_bytes(Rank *r, const Case *c, const Tensor *t, const Blocks *b) {
    TreeNode node[TREE_NODES];
    int64_t own = blocks_elements(b, t, r->rank);
    TreeRun run = tree_run(c->n_leaf, r->rank, r->size, c->scatter, c->parts);
    int64_t n = c->scatter ? run.n : tree_cover(node, run.first, run.first + run.n, c->n_leaf);
    int64_t size = (int64_t)dtype_bytes(t[0].dtype);
    expect(r, comm_count(r->world, COMM_ALL_TO_ALL).bytes == n * (b->n_elem - own) * size);
    expect(r, comm_count(r->world, COMM_ALL_GATHER).bytes == (c->shard ? 0 : (r->size - 1) * own * size));
}

/* A leaf, tensor by tensor in order of turns. What has left is spoilt at once: the sum must not notice. */
static void give_leaf(Rank *r, const Case *c, Backend *be, const Tensor *t, TreeSum *s, int64_t i) {
    TreeRun run = tree_leaves(s);
    int64_t calls = comm_count(r->world, COMM_ALL_TO_ALL).calls;
    bool leaves = r->size > 1 && c->turns && (c->scatter || i + 1 == run.n);
    fill(be, t, run.first + i * run.step);
    for (int k = 0; k + 1 < N_TURN && c->turns; k++) {
        tree_final(s, 0, k + 1);
        for (int j = 0; leaves && j < N_TENSOR; j++)
            if (turn_of[j] == k && !tensor_empty(t[j])) be->op->zero(be, t[j]);
        expect(r, comm_count(r->world, COMM_ALL_TO_ALL).calls - calls == (leaves ? k + 1 : 0));
    }
    tree_push(s);
}

/* Every rank gives up after another leaf. */
static void give_up(Rank *r, const Case *c, Backend *be, const Tensor *t, TreeSum *s) {
    for (int64_t i = 0; i < r->rank && i < tree_leaves(s).n; i++) give_leaf(r, c, be, t, s, i);
    if (r->rank < tree_leaves(s).n) { /* in the middle of one */
        fill(be, t, 99);
        tree_final(s, 0, 1);
    }
    tree_settle(s);
    comm_barrier(r->world, "test");
    tree_drop(s);
}

static size_t placed(const Backend *be, const Tensor *t, int n) {
    Arena measure;
    arena_init_measure(&measure, "test");
    for (int k = 0; k < n; k++) tensor_place_weight(&measure, be->real, t[k].rows, t[k].cols, t[k].panels);
    return measure.used;
}

/* By runs whole sums; by turns parts, of the rank's own blocks: none or one where a rank has one or two leaves. */
static void check_memory(Rank *r, const Case *c, const Backend *be, const Tensor *t, const Blocks *b, size_t live) {
    int64_t own = blocks_elements(b, t, r->rank), n = tree_run(c->n_leaf, r->rank, r->size, c->scatter, c->parts).n;
    Tensor part = tensor_over(NULL, be->real, 1, own);
    bool even = (c->n_leaf & (c->n_leaf - 1)) == 0 && (r->size & (r->size - 1)) == 0 && r->size <= c->n_leaf;
    int levels = even ? root_level(n) : -1; /* log2 of the rank's leaves */
    if (!c->scatter) {
        if (even) expect(r, live == (size_t)levels * placed(be, t, N_TENSOR));
        return;
    }
    int depth = own > 0 ? tree_depth(c->n_leaf, r->size, c->parts) : 0;
    if (even && own > 0) expect(r, depth == levels);
    expect(r, live == (size_t)(depth * c->parts) * placed(be, &part, 1));
    expect(r, depth <= root_level(c->n_leaf));
}

static void tree(Rank *r) {
    const Case *c = r->ud;
    Pool *pool;
    Backend *be;
    Error err = {0};
    Arena measure, mem = {0};
    Tensor t[N_TENSOR];
    Blocks b;
    TreeSum *s;
    bool ok = pool_open(&pool, 1, &err) && backend_open(&be, c->backend, pool, NULL, &err);
    expect(r, ok);
    arena_init_measure(&measure, "test");
    place(t, &measure, be, c->panels);
    expect(r, arena_init(&mem, "test", be->mem, measure.used, &err));
    place(t, &mem, be, c->panels);
    blocks_make(&b, t, N_TENSOR, r->size);
    Counted count = {be->mem, 0};
    be->mem = (MemSource){.get = counted_get, .put = counted_put, .ud = &count};
    tree_open(&s, be, t, N_TENSOR, &b, r->world,
              &(TreeConfig){.scatter = c->scatter,
                            .parts = c->parts,
                            .turn = c->turns ? turn_of : NULL,
                            .n_turn = c->turns ? N_TURN : 0});
    for (int round = 0; round < 2; round++) { /* the second one in buffers that are there already */
        for (int k = 0; k < N_TENSOR; k++)
            if (!tensor_empty(t[k])) be->op->zero(be, t[k]);
        if (round == 0) { /* steps that are given up leave no trace */
            expect(r, tree_begin(s, c->n_leaf, &err));
            give_up(r, c, be, t, s);
            expect(r, tree_begin(s, c->n_leaf, &err));
            tree_cancel(s);
        }
        comm_count_clear(r->world);
        expect(r, tree_begin(s, c->n_leaf, &err));
        TreeRun run = tree_leaves(s);
        for (int64_t i = 0; i < run.n; i++) give_leaf(r, c, be, t, s, i);
        tree_settle(s);
        tree_finish(s, !c->shard);
        expect(r, comm_ok(r->world, &err));
        check_sum(r, c, be, t, &b);
        check_memory(r, c, be, t, &b, count.live);
        if (r->size > 1) check_bytes(r, c, t, &b);
    }
    tree_close(s);
    expect(r, count.live == 0);
    be->mem = count.src;
    blocks_release(&b);
    arena_release(&mem);
    backend_close(be);
    pool_close(pool);
}

static Case case_of(const char *backend, int64_t n_leaf, bool shard) {
    Case c = {.backend = backend, .panels = true, .n_leaf = n_leaf, .shard = shard, .parts = 1};
    for (int k = 0; k < N_TENSOR; k++) c.n_elem += shape[k][0] * shape[k][1];
    c.sum = mem_alloc((size_t)c.n_elem * sizeof *c.sum);
    for (int64_t i = 0; i < c.n_elem; i++) {
        float plain = 0;
        c.sum[i] = node_sum(root_level(n_leaf), 0, n_leaf, i);
        for (int64_t l = 0; l < n_leaf; l++) plain += leaf_value(l, i);
        c.plain_differs += plain != c.sum[i];
    }
    return c;
}

static void test_tree(void **state) {
    (void)state;
    static const int ranks[] = {1, 2, 3, 4, 5, 8};
    static const int64_t leaves[] = {1, 2, 3, 5, 6, 8, 12, 13, 16, 24};
    for (int m = 0; m < COUNT_OF(leaves); m++) {
        Case c = case_of("cpu", leaves[m], false);
        for (int k = 0; k < COUNT_OF(ranks); k++)
            for (int how = 0; how < 4; how++) {
                c.shard = (m + how) % 2 == 1;
                c.scatter = how > 1 && ranks[k] > 1, c.turns = how % 2;
                with_ranks(ranks[k], tree, &c);
                for (c.parts = 2; c.parts <= 4 && c.scatter; c.parts++)
                    if (ranks[k] % c.parts == 0 && leaves[m] % c.parts == 0) with_ranks(ranks[k], tree, &c);
                c.parts = 1;
            }
        if (leaves[m] >= 12) assert_true(c.plain_differs > 10); /* else the order would prove nothing */
        free(c.sum);
    }
}

/* In F64 the sums are of floats: 24 of them in any order of this kind are exact there, so only F32 tells orders apart;
 * here that the F64 path moves and adds whole doubles. */
static void f64_sum(Case *c) {
    for (int64_t i = 0; i < c->n_elem; i++) {
        double x = 0;
        for (int64_t l = 0; l < c->n_leaf; l++) x += leaf_value(l, i);
        c->sum[i] = (float)x;
    }
}

static void test_f64(void **state) {
    (void)state;
    for (int n = 1; n <= 4; n++) {
        Case c = case_of("ref", 7, n == 3);
        c.scatter = c.turns = n == 3;
        f64_sum(&c);
        with_ranks(n, tree, &c);
        free(c.sum);
    }
}

/* -- shapes */

static void test_cover(void **state) {
    (void)state;
    for (int64_t n = 1; n <= 70; n++)
        for (int size = 1; size <= 9; size++) {
            int64_t at = 0;
            for (int r = 0; r < size; r++) {
                TreeNode node[TREE_NODES];
                int64_t first, end;
                tree_range(n, r, size, &first, &end);
                assert_int_equal(first, at);
                int k = tree_cover(node, first, end, n);
                for (int i = 0; i < k; i++) { /* one after another, within the range but for what hangs over the end */
                    assert_int_equal(node[i].index << node[i].level, at);
                    at = (node[i].index + 1) << node[i].level;
                    if (at > n) at = n;
                    assert_true(at <= end);
                }
                assert_int_equal(at, end);
                if ((n & (n - 1)) == 0 && (size & (size - 1)) == 0 && size <= n) assert_int_equal(k, 1);
                assert_true(k <= 2 * root_level(n) + 1);
            }
            assert_int_equal(at, n);
            int64_t all = 0;
            for (int r = 0; r < size; r++) { /* by turns: every leaf once, too, and as evenly */
                TreeRun run = tree_run(n, r, size, true, 1);
                assert_true(run.n == n / size || run.n == n / size + 1);
                if (run.n > 0) assert_true(run.first == r && run.step == size && r + (run.n - 1) * size < n);
                all += run.n;
            }
            assert_int_equal(all, n);
            for (int parts = 2; parts <= size; parts++) { /* in parts: of each part every leaf once */
                int64_t seen[70] = {0};
                if (size % parts != 0 || n % parts != 0) continue;
                for (int r = 0; r < size; r++) {
                    TreeRun run = tree_run(n, r, size, true, parts);
                    for (int64_t i = 0; i < run.n; i++) {
                        int64_t leaf = run.first + i * run.step;
                        assert_true(leaf < n && leaf / (n / parts) == r / (size / parts));
                        seen[leaf]++;
                    }
                }
                for (int64_t i = 0; i < n; i++) assert_int_equal(seen[i], 1);
            }
        }
}

static void test_blocks(void **state) {
    (void)state;
    Tensor t[4] = {tensor_over(NULL, DTYPE_F32, 1, 300000),
                   tensor_over(NULL, DTYPE_F32, 1000, 1000),
                   tensor_over(NULL, DTYPE_F32, 70, 1000),
                   {0}};
    t[3] = (Tensor){.rows = 5000, .cols = 192, .ld = 192, .panels = true};
    for (int size = 1; size <= 8; size++) {
        Blocks b;
        blocks_make(&b, t, 4, size);
        int64_t elem = 0, row[4] = {0};
        for (int i = 0; i < b.n; i++) { /* every row once, in order */
            Block k = b.at[i];
            assert_int_equal(k.row, row[k.tensor]);
            row[k.tensor] += k.n_row;
            assert_true(block_elements(t, k) >= BLOCK_MIN || k.n_row == t[k.tensor].rows);
            assert_true(!t[k.tensor].panels || k.row % PANEL_ROWS == 0);
            elem += block_elements(t, k);
        }
        for (int i = 0; i < 4; i++) assert_int_equal(row[i], t[i].rows);
        assert_int_equal(elem, b.n_elem);
        assert_int_equal(elem, 300000 + 1000000 + 70000 + 5008 * 192);
        assert_int_equal(b.cut[0], 0);
        assert_int_equal(b.cut[size], b.n);
        int64_t own = 0;
        for (int r = 0; r < size; r++) own += blocks_elements(&b, t, r);
        assert_int_equal(own, elem);
        if (size == 2) assert_true(llabs(2 * blocks_elements(&b, t, 0) - elem) < 500000);
        blocks_release(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cover), cmocka_unit_test(test_blocks),
                                       cmocka_unit_test(test_tree), cmocka_unit_test(test_f64)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
