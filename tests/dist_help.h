/* tests/dist_help.h — ranks as threads of a test. A rank may not use cmocka's asserts, which belong to the main thread: it says
 * what is wrong with expect(), and the main thread fails with the first of it. */
#ifndef DIKAST_TESTS_DIST_HELP_H
#define DIKAST_TESTS_DIST_HELP_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "dist/agree.h"
#include "dist/comm.h"
#include "dist/mesh.h"

typedef struct Rank Rank;
typedef void RankTest(Rank *r);
struct Rank {
    Comm *world;
    int rank, size;
    void *ud; /* of the test, shared by all */
    RankTest *fn;
    char wrong[400];
    pthread_t thread;
};

static inline void expect_at(Rank *r, bool ok, const char *what, int line) {
    if (ok || r->wrong[0]) return;
    Error err = {0};
    comm_ok(r->world, &err);
    snprintf(r->wrong, sizeof r->wrong, "rank %d of %d, line %d: not so: %s (%.200s)", r->rank, r->size, line, what,
             err.msg);
}
#define expect(r, cond) expect_at(r, cond, #cond, __LINE__)

static inline void *rank_main(void *arg) {
    Rank *r = arg;
    r->fn(r);
    comm_close(r->world);
    return NULL;
}

static inline void with_ranks(int n, RankTest *fn, void *ud) {
    Error err = {0};
    Comm **world = mem_alloc((size_t)n * sizeof *world);
    Rank *rank = mem_alloc((size_t)n * sizeof *rank);
    if (!comm_open_threads(world, n, &err)) fail_msg("%s", err.msg);
    for (int i = 0; i < n; i++) {
        rank[i] = (Rank){.world = world[i], .rank = i, .size = n, .ud = ud, .fn = fn};
        assert_int_equal(pthread_create(&rank[i].thread, NULL, rank_main, &rank[i]), 0);
    }
    for (int i = 0; i < n; i++) pthread_join(rank[i].thread, NULL);
    char wrong[400] = "";
    for (int i = 0; i < n; i++)
        if (rank[i].wrong[0] && !wrong[0]) memcpy(wrong, rank[i].wrong, sizeof wrong);
    free(world);
    free(rank);
    if (wrong[0]) fail_msg("%s", wrong);
}

#endif
