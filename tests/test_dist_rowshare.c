// layer: dist
// gpu: yes
/* Rows that ranks divide: sums in order of ranks, whoever owns which rows, also none; gatherings; the bytes of both;
 * from host memory and, by way of the host, from a device's. */
#include "dist_help.h"

#include "base/rng.h"
#include "dist/rowshare.h"

enum { MOST = 11, COLS = 5 };

typedef struct {
    const char *backend;
    int64_t cut[6]; /* (t+1) */
    double sum[MOST * COLS];
} Case;

/* Element i of rank r's part. */
static double value(int rank, int64_t i) {
    return (double)(float)rng_normal((Rng){3, RNG_TEST}, (uint64_t)i, (uint32_t)rank);
}

static void want(Case *c, int t) {
    bool wide = !strcmp(c->backend, "ref");
    for (int64_t i = 0; i < c->cut[t] * COLS; i++) {
        double sum = value(0, i);
        for (int r = 1; r < t; r++) sum = wide ? sum + value(r, i) : (double)((float)sum + (float)value(r, i));
        c->sum[i] = sum;
    }
}

typedef struct {
    Backend *be;
    Pool *pool;
    Arena mem;
    RowShare room;
    Tensor part, all, half;
} Opened;

static void place(Opened *o, Arena *mem, int t) {
    o->part = tensor_place(mem, o->be->real, MOST, COLS);
    o->all = tensor_place(mem, o->be->real, MOST, COLS);
    o->half = tensor_place(mem, DTYPE_BF16, MOST, COLS);
    rowshare_place(&o->room, mem, o->be, t, MOST, COLS);
}

static bool open_rank(Opened *o, const char *backend, Comm *c, Error *err) {
    Arena measure;
    *o = (Opened){.be = NULL};
    if (!pool_open(&o->pool, 1, err) || !backend_open(&o->be, backend, o->pool, NULL, err)) return false;
    arena_init_measure(&measure, "rows");
    place(o, &measure, comm_size(c));
    if (!arena_init(&o->mem, "rows", o->be->mem, measure.used, err)) return false;
    place(o, &o->mem, comm_size(c));
    rowshare_open(&o->room, c);
    return true;
}

static void close_rank(Opened *o) {
    rowshare_release(&o->room);
    arena_release(&o->mem);
    backend_close(o->be);
    pool_close(o->pool);
}

static void sum_and_gather(Rank *r, Opened *o, const Case *c) {
    int64_t n = c->cut[r->size], first = c->cut[r->rank], own = c->cut[r->rank + 1] - first;
    double x[MOST * COLS];
    Tensor part = tensor_rows(o->part, 0, n), all = tensor_rows(o->all, 0, n);
    for (int64_t i = 0; i < n * COLS; i++) x[i] = value(r->rank, i);
    tensor_set(o->be, part, x);
    Tensor sum = rowshare_sum(&o->room, part, c->cut, "test.sum");
    expect(r, sum.rows == own && sum.cols == COLS);
    tensor_get(o->be, x, sum);
    for (int64_t i = 0; i < own * COLS; i++) expect(r, x[i] == c->sum[first * COLS + i]);
    tensor_get(o->be, x, part);
    for (int64_t i = 0; i < n * COLS; i++) expect(r, x[i] == value(r->rank, i));
    rowshare_gather(&o->room, all, sum, c->cut, "test.gather");
    tensor_get(o->be, x, all);
    for (int64_t i = 0; i < n * COLS; i++) expect(r, x[i] == c->sum[i]);
    CommCount sent = comm_count(r->world, COMM_ALL_TO_ALL), back = comm_count(r->world, COMM_ALL_GATHER);
    int64_t bytes = COLS * (int64_t)dtype_bytes(o->be->real);
    expect(r, sent.calls == 1 && sent.bytes == (n - own) * bytes);
    expect(r, back.calls == 1 && back.bytes == (r->size - 1) * own * bytes);
}

/* Rows of another dtype, out of the room between calls. */
static void gather_half(Rank *r, Opened *o, const Case *c) {
    int64_t n = c->cut[r->size], first = c->cut[r->rank], own = c->cut[r->rank + 1] - first;
    double x[MOST * COLS];
    Tensor half = rowshare_spare(&o->room, DTYPE_BF16, own), all = tensor_rows(o->half, 0, n);
    for (int64_t i = 0; i < own * COLS; i++) x[i] = (double)(first * COLS + i);
    if (own > 0) tensor_set(o->be, half, x);
    rowshare_gather(&o->room, all, half, c->cut, "test.half");
    tensor_get(o->be, x, all);
    for (int64_t i = 0; i < n * COLS; i++) expect(r, x[i] == (double)i);
}

static void rows_rank(Rank *r) {
    const Case *c = r->ud;
    Opened o;
    Error err = {0};
    bool ok = open_rank(&o, c->backend, r->world, &err);
    expect(r, ok);
    if (!ok) return;
    sum_and_gather(r, &o, c);
    if (strcmp(c->backend, "ref") != 0) gather_half(r, &o, c);
    expect(r, comm_ok(r->world, &err));
    close_rank(&o);
}

static bool opens(const char *backend) {
    Error err = {0};
    Pool *pool;
    Backend *be;
    if (!pool_open(&pool, 1, &err)) fail_msg("%s", err.msg);
    bool ok = backend_open(&be, backend, pool, NULL, &err);
    if (ok) backend_close(be);
    pool_close(pool);
    return ok;
}

static void test_rows(void **state) {
    (void)state;
    static const char *const backend[] = {"ref", "cpu", "cuda"};
    static const struct {
        int t;
        int64_t cut[6];
    } row[] = {{2, {0, 5, 11}}, {2, {0, 0, 3}}, {3, {0, 4, 4, 8}}, {4, {0, 0, 1, 2, 2}}, {5, {0, 2, 4, 6, 8, 11}}};
    for (int k = 0; k < COUNT_OF(backend); k++) {
        if (!opens(backend[k])) { /* cuda, where it is built and has no GPU */
            assert_string_equal(backend[k], "cuda");
            continue;
        }
        for (int i = 0; i < COUNT_OF(row); i++) {
            Case c = {.backend = backend[k]};
            memcpy(c.cut, row[i].cut, sizeof c.cut);
            want(&c, row[i].t);
            with_ranks(row[i].t, rows_rank, &c);
        }
    }
}

static void test_cut(void **state) {
    (void)state;
    for (int t = 1; t <= 8; t++)
        for (int64_t n = 0; n < 40; n++) {
            int64_t cut[9];
            rowshare_cut(cut, n, t);
            assert_true(cut[0] == 0 && cut[t] == n);
            for (int r = 0; r < t; r++) {
                int64_t own = cut[r + 1] - cut[r];
                assert_true(own == n / t || own == rowshare_most(n, t));
            }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_cut)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
