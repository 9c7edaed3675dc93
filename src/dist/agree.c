#include "dist/agree.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t code, bytes;
} Head;

static void keep(Gathered *all, const void *data, int64_t n) {
    if (!all) return;
    all->data = mem_alloc((size_t)n + 1);
    all->off = mem_alloc(2 * sizeof *all->off);
    if (n > 0) memcpy(all->data, data, (size_t)n);
    all->off[1] = n;
}

void gathered_release(Gathered *g) {
    free(g->data);
    free(g->off);
    *g = (Gathered){0};
}

/* Whose error everybody names; -1: all are well. */
static int first_bad(const Head *head, int n) {
    int first = -1;
    for (int r = 0; r < n; r++)
        if (head[r].code != ERR_NONE && (first < 0 || (head[first].code == ERR_STOPPED && head[r].code != ERR_STOPPED)))
            first = r;
    return first;
}

/* The reason travels too, from the rank that everybody names. */
static bool tell(Comm *world, const Error *mine, int rank, Error *err) {
    Error why = *mine;
    comm_broadcast(world, &why, (int64_t)sizeof why, DTYPE_I8, rank, "agree.why");
    if (!comm_ok(world, err)) return false;
    *err = why;
    if (rank != comm_rank(world)) error_wrap(err, "rank %d", rank);
    return false;
}

bool agree(Comm *world, const Error *mine, const void *data, int64_t n, Gathered *all, Error *err) {
    int size = comm_size(world);
    if (all) *all = (Gathered){0};
    if (size == 1) {
        if (mine->code != ERR_NONE) {
            *err = *mine;
            return false;
        }
        keep(all, data, n);
        return true;
    }
    Head own = {(int64_t)mine->code, n}, *head = mem_alloc((size_t)size * sizeof *head);
    int64_t *count = mem_alloc((size_t)(size + 1) * sizeof *count);
    for (int r = 0; r < size; r++) count[r] = (int64_t)sizeof own;
    comm_all_gather(world, head, &own, count, DTYPE_I8, "agree");
    bool ok = comm_ok(world, err);
    if (!ok && mine->code != ERR_NONE && mine->code != ERR_STOPPED) *err = *mine; /* says more than "nobody came" */
    if (ok) {
        int first = first_bad(head, size);
        if (first >= 0) ok = tell(world, mine, first, err);
    }
    int64_t total = 0;
    for (int r = 0; r < size && ok; r++) {
        count[r] = head[r].bytes;
        total += head[r].bytes;
    }
    if (ok && total > 0) {
        unsigned char *bytes = mem_alloc((size_t)total);
        comm_all_gather(world, bytes, data, count, DTYPE_I8, "agree.data");
        ok = comm_ok(world, err);
        if (ok && all) {
            all->data = bytes;
            all->off = mem_alloc((size_t)(size + 1) * sizeof *all->off);
            for (int r = 0; r < size; r++) all->off[r + 1] = all->off[r] + count[r];
        } else {
            free(bytes);
        }
    } else if (ok && all) {
        all->data = mem_alloc(1);
        all->off = mem_alloc((size_t)(size + 1) * sizeof *all->off);
    }
    free(count);
    free(head);
    return ok;
}
