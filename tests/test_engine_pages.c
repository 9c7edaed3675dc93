// layer: engine
/* Pages against a plain model of them: an array of holders and names, searched front to back. */
#include "base/rng.h"
#include "engine/pages.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { PAGES = 13, NAMES = 40 };

typedef struct {
    int held[PAGES], name[PAGES]; /* -1: none */
    int since[PAGES];             /* when it was last let go */
} Plain;

static Hash name_of(int i) { return (Hash){.lo = (uint64_t)(i % 3), .hi = (uint64_t)i}; } /* buckets collide */

static int plain_find(const Plain *m, int name) {
    for (int i = 0; i < PAGES; i++) {
        if (m->name[i] == name) return i;
    }
    return -1;
}

static int plain_free(const Plain *m) {
    int n = 0;
    for (int i = 0; i < PAGES; i++) n += m->held[i] == 0;
    return n;
}

/* What pages_take may not return: a named page while unnamed ones are free, or one let go later than another. */
static void check_taken(const Plain *m, int page) {
    assert_int_equal(m->held[page], 0);
    for (int i = 0; i < PAGES; i++) {
        if (m->held[i] || i == page || m->name[page] < 0) continue;
        assert_true(m->name[i] >= 0 && m->since[i] > m->since[page]);
    }
}

static void test_pages_against_a_plain_model(void **state) {
    (void)state;
    Rng rng = {23, RNG_TEST};
    Pages p;
    Plain m;
    pages_init(&p, PAGES);
    for (int i = 0; i < PAGES; i++) m.held[i] = 0, m.name[i] = -1, m.since[i] = i;
    int n_found = 0, n_evicted = 0;
    for (int step = 0; step < 200000; step++) {
        uint32_t op = rng_below(rng, (uint64_t)step, 0, 100);
        int page = (int)rng_below(rng, (uint64_t)step, 1, PAGES), name = (int)rng_below(rng, (uint64_t)step, 2, NAMES);
        assert_int_equal(pages_free(&p), plain_free(&m));
        if (op < 25) {
            if (plain_free(&m) == 0) continue;
            int32_t got = pages_take(&p);
            check_taken(&m, got);
            n_evicted += m.name[got] >= 0;
            m.held[got] = 1, m.name[got] = -1;
        } else if (op < 45) {
            if (!m.held[page]) continue;
            pages_name(&p, page, name_of(name));
            if (m.name[page] < 0 && plain_find(&m, name) < 0) m.name[page] = name;
        } else if (op < 65) {
            int want = plain_find(&m, name);
            assert_int_equal(pages_find(&p, name_of(name)), want);
            if (want >= 0) m.held[want]++, n_found++;
        } else if (op < 99 || step % 50) {
            if (!m.held[page]) continue;
            pages_drop(&p, page);
            if (--m.held[page] == 0) m.since[page] = PAGES + step;
        } else {
            pages_forget(&p);
            for (int i = 0; i < PAGES; i++) m.name[i] = -1;
        }
    }
    assert_true(n_found > 1000 && n_evicted > 1000);
    pages_release(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pages_against_a_plain_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
