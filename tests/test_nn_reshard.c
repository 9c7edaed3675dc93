// layer: nn
/* The reshard planner over random layouts: every wanted box comes out as if it had been cut from the whole tensor; what
 * is stored nowhere or twice is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "nn/reshard.h"

enum { CASES = 400, MAX_BOX = 64 };
static const Rng rng = {11, RNG_TEST};

typedef struct {
    uint64_t item;
    uint32_t step;
} Dice;

static int64_t roll(Dice *d, int64_t n) { return rng_below(rng, d->item, d->step++, (uint32_t)n); }

static Box whole(const int64_t *shape, int n_dim) {
    Box b;
    assert_true(box_cut(&b, shape, n_dim, 0, 0, 1));
    return b;
}

/* Splits a box at random places until there are n. */
static int split(Box *box, int n, const Box *all, Dice *d) {
    int count = 1;
    box[0] = *all;
    for (int tries = 0; count < n && tries < 200; tries++) {
        int i = (int)roll(d, count), dim = (int)roll(d, all->n_dim);
        if (box[i].len[dim] < 2) continue;
        int64_t at = 1 + roll(d, box[i].len[dim] - 1);
        box[count] = box[i];
        box[count].at[dim] += at, box[count].len[dim] -= at;
        box[i].len[dim] = at;
        count++;
    }
    return count;
}

static Box random_box(const int64_t *shape, int n_dim, Dice *d) {
    Box b = {.n_dim = n_dim};
    for (int k = 0; k < n_dim; k++) {
        b.at[k] = roll(d, shape[k]);
        b.len[k] = 1 + roll(d, shape[k] - b.at[k]);
    }
    return b;
}

/* The plain definition: element by element; numbers are the elements' places in the whole tensor. */
static int64_t number_at(const Box *b, const int64_t *shape, int64_t i) {
    int64_t index[BOX_DIMS], n = 0;
    for (int k = b->n_dim; k-- > 0;) {
        index[k] = b->at[k] + i % b->len[k];
        i /= b->len[k];
    }
    for (int k = 0; k < b->n_dim; k++) n = n * shape[k] + index[k];
    return n;
}

static void fill(int64_t *out, const Box *b, const int64_t *shape) {
    for (int64_t i = 0; i < box_volume(b); i++) out[i] = number_at(b, shape, i);
}

static void random_layouts(void **state) {
    (void)state;
    for (int c = 0; c < CASES; c++) {
        Dice d = {(uint64_t)c, 0};
        int n_dim = 1 + (int)roll(&d, BOX_DIMS), n;
        int64_t shape[BOX_DIMS];
        for (int k = 0; k < n_dim; k++) shape[k] = 1 + roll(&d, n_dim > 2 ? 7 : 30);
        Box all = whole(shape, n_dim), have[MAX_BOX];
        int n_have = split(have, 1 + (int)roll(&d, MAX_BOX - 1), &all, &d);
        Box want = roll(&d, 4) ? random_box(shape, n_dim, &d) : all;
        ReshardCopy *plan;
        Error err = {0};
        assert_true(reshard_plan(&plan, &n, &want, have, n_have, &err));
        int64_t *got = malloc((size_t)box_volume(&want) * sizeof *got),
                *expected = malloc((size_t)box_volume(&want) * sizeof *got);
        memset(got, 0xff, (size_t)box_volume(&want) * sizeof *got);
        fill(expected, &want, shape);
        for (int i = 0; i < n; i++) {
            int64_t *stored = malloc((size_t)box_volume(&have[plan[i].have]) * sizeof *stored);
            fill(stored, &have[plan[i].have], shape);
            reshard_copy(got, stored, &plan[i], sizeof *got);
            free(stored);
        }
        assert_memory_equal(got, expected, (size_t)box_volume(&want) * sizeof *got);
        free(got);
        free(expected);
        free(plan);
    }
}

/* A piece taken away, or one that lies there twice, is noticed wherever it is wanted. */
static void holes_and_doubles(void **state) {
    int holes = 0, doubles = 0;
    (void)state;
    for (int c = 0; c < CASES; c++) {
        Dice d = {(uint64_t)c + 100000, 0};
        int n_dim = 1 + (int)roll(&d, BOX_DIMS), n;
        int64_t shape[BOX_DIMS];
        for (int k = 0; k < n_dim; k++) shape[k] = 2 + roll(&d, 6);
        Box all = whole(shape, n_dim), have[MAX_BOX + 1], both;
        int n_have = split(have, 2 + (int)roll(&d, 20), &all, &d), gone = (int)roll(&d, n_have);
        Box want = random_box(shape, n_dim, &d), taken = have[gone];
        bool touched = box_meet(&both, &want, &taken);
        ReshardCopy *plan;
        Error err = {0};
        have[gone] = have[n_have - 1];
        bool ok = reshard_plan(&plan, &n, &want, have, n_have - 1, &err);
        assert_int_equal(ok, !touched);
        if (!ok) holes++, assert_non_null(strstr(err.msg, "stored nowhere"));
        free(plan);
        have[n_have - 1] = taken; /* whole again; and a second box over a part of it */
        have[n_have] = random_box(shape, n_dim, &d);
        touched = box_meet(&both, &want, &have[n_have]);
        ok = reshard_plan(&plan, &n, &want, have, n_have + 1, &err);
        assert_int_equal(ok, !touched);
        if (!ok) doubles++, assert_non_null(strstr(err.msg, "stored twice"));
        if (!ok) assert_null(plan);
        free(plan);
    }
    assert_true(holes > CASES / 4 && doubles > CASES / 4);
}

static bool count_run(void *ud, int64_t from, int64_t to, int64_t n) {
    (void)from, (void)to, (void)n;
    return ++*(int *)ud < 1000;
}

/* Whole rows of a matrix lie together: one run, not one a row. */
static void runs_are_joined(void **state) {
    static const struct {
        Box have, want;
        int runs;
    } c[] = {{{2, {0, 0}, {8, 5}}, {2, {0, 0}, {8, 5}}, 1},
             {{2, {0, 0}, {8, 5}}, {2, {2, 0}, {3, 5}}, 1},
             {{2, {0, 0}, {8, 5}}, {2, {2, 1}, {3, 4}}, 3},
             {{3, {0, 0, 0}, {4, 3, 5}}, {3, {1, 0, 0}, {2, 3, 5}}, 1},
             {{3, {0, 0, 0}, {4, 3, 5}}, {3, {1, 1, 0}, {2, 2, 5}}, 2}};
    (void)state;
    for (int i = 0; i < COUNT_OF(c); i++) {
        ReshardCopy *plan;
        Error err;
        int n, runs = 0;
        assert_true(reshard_plan(&plan, &n, &c[i].want, &c[i].have, 1, &err));
        assert_true(n == 1 && reshard_runs(plan, count_run, &runs));
        assert_int_equal(runs, c[i].runs);
        free(plan);
    }
}

static void cuts_cover(void **state) {
    (void)state;
    for (int64_t rows = 1; rows < 12; rows++)
        for (int n = 1; n < 15; n++) {
            const int64_t shape[2] = {rows, 3};
            int64_t next = 0, least = rows, most = 0;
            for (int i = 0; i < n; i++) {
                Box b;
                if (!box_cut(&b, shape, 2, 0, i, n)) continue;
                assert_true(b.at[0] == next && b.len[1] == 3 && box_inside(&b, shape));
                next += b.len[0];
                if (b.len[0] < least) least = b.len[0];
                if (b.len[0] > most) most = b.len[0];
            }
            assert_int_equal(next, rows);
            assert_true(most - least <= 1);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_layouts), cmocka_unit_test(holes_and_doubles),
                                       cmocka_unit_test(runs_are_joined), cmocka_unit_test(cuts_cover)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
