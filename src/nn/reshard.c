#include "nn/reshard.h"

#include <stdlib.h>
#include <string.h>

int64_t box_volume(const Box *b) {
    int64_t n = 1;
    for (int d = 0; d < b->n_dim; d++) n *= b->len[d];
    return n;
}

bool box_meet(Box *out, const Box *a, const Box *b) {
    CHECK(a->n_dim == b->n_dim, "boxes of %d and %d dimensions", a->n_dim, b->n_dim);
    *out = (Box){.n_dim = a->n_dim};
    for (int d = 0; d < a->n_dim; d++) {
        int64_t end_a = a->at[d] + a->len[d], end_b = b->at[d] + b->len[d], end = end_a < end_b ? end_a : end_b;
        out->at[d] = a->at[d] > b->at[d] ? a->at[d] : b->at[d];
        out->len[d] = end - out->at[d];
        if (out->len[d] <= 0) return false;
    }
    return true;
}

bool box_inside(const Box *b, const int64_t *shape) {
    for (int d = 0; d < b->n_dim; d++)
        if (b->at[d] < 0 || b->len[d] <= 0 || b->at[d] > shape[d] || b->len[d] > shape[d] - b->at[d]) return false;
    return true;
}

bool box_cut(Box *out, const int64_t *shape, int n_dim, int dim, int i, int n) {
    *out = (Box){.n_dim = n_dim};
    for (int d = 0; d < n_dim; d++) out->len[d] = shape[d];
    int64_t each = shape[dim] / n, more = shape[dim] % n;
    out->at[dim] = i * each + (i < more ? i : more);
    out->len[dim] = each + (i < more);
    return out->len[dim] > 0;
}

/* -- the plan */

/* Elements from one index of dimension d to the next. */
static int64_t step_of(const Box *b, int d) {
    int64_t n = 1;
    for (int k = d + 1; k < b->n_dim; k++) n *= b->len[k];
    return n;
}

static ReshardCopy copy_of(const Box *part, const Box *want, const Box *have, int number) {
    ReshardCopy c = {.have = number, .n_dim = part->n_dim};
    for (int d = 0; d < part->n_dim; d++) {
        c.n[d] = part->len[d];
        c.from_step[d] = step_of(have, d);
        c.to_step[d] = step_of(want, d);
        c.from += (part->at[d] - have->at[d]) * c.from_step[d];
        c.to += (part->at[d] - want->at[d]) * c.to_step[d];
    }
    return c;
}

typedef struct {
    Box box;
    int have;
} Part;

static int by_first(const void *a, const void *b) {
    const Part *x = a, *y = b;
    return (x->box.at[0] > y->box.at[0]) - (x->box.at[0] < y->box.at[0]);
}

/* Sorted by where they begin in the first dimension, a part can meet only those that begin before it ends there. */
static bool apart(Part *part, int n, Error *err) {
    qsort(part, (size_t)n, sizeof *part, by_first);
    for (int i = 0; i < n; i++)
        for (int k = i + 1; k < n && part[k].box.at[0] < part[i].box.at[0] + part[i].box.len[0]; k++) {
            Box both;
            if (box_meet(&both, &part[i].box, &part[k].box))
                return error_set(err, ERR_FORMAT, "%lld elements are stored twice, in pieces %d and %d",
                                 (long long)box_volume(&both), part[i].have, part[k].have);
        }
    return true;
}

static int by_have(const void *a, const void *b) {
    const ReshardCopy *x = a, *y = b;
    if (x->have != y->have) return x->have - y->have;
    return (x->from > y->from) - (x->from < y->from);
}

bool reshard_plan(ReshardCopy **out, int *n, const Box *want, const Box *have, int n_have, Error *err) {
    Part *part = mem_alloc((size_t)(n_have > 0 ? n_have : 1) * sizeof *part);
    int64_t found = 0, wanted = box_volume(want);
    *out = NULL, *n = 0;
    for (int i = 0; i < n_have; i++) {
        if (!box_meet(&part[*n].box, want, &have[i])) continue;
        found += box_volume(&part[*n].box);
        part[(*n)++].have = i;
    }
    bool ok = apart(part, *n, err);
    if (ok && found != wanted)
        ok = error_set(err, ERR_FORMAT, "%lld of %lld elements are stored nowhere", (long long)(wanted - found),
                       (long long)wanted);
    if (ok) {
        *out = mem_alloc((size_t)*n * sizeof **out);
        for (int i = 0; i < *n; i++) (*out)[i] = copy_of(&part[i].box, want, &have[part[i].have], part[i].have);
        qsort(*out, (size_t)*n, sizeof **out, by_have);
    }
    free(part);
    return ok;
}

bool reshard_runs(const ReshardCopy *c, ReshardRun *run, void *ud) {
    int d = c->n_dim - 1;
    int64_t together = c->n[d], i[BOX_DIMS] = {0};
    /* Is a whole inner dimension one piece on both sides? Then the next one lengthens the run. */
    while (d > 0 && c->from_step[d - 1] == together && c->to_step[d - 1] == together) together *= c->n[--d];
    for (;;) {
        int64_t from = c->from, to = c->to;
        for (int k = 0; k < d; k++) from += i[k] * c->from_step[k], to += i[k] * c->to_step[k];
        if (!run(ud, from, to, together)) return false;
        int k = d - 1;
        while (k >= 0 && ++i[k] == c->n[k]) i[k--] = 0;
        if (k < 0) return true;
    }
}

typedef struct {
    unsigned char *to;
    const unsigned char *from;
    size_t size;
} CopyJob;

static bool copy_run(void *ud, int64_t from, int64_t to, int64_t n) {
    CopyJob *job = ud;
    memcpy(job->to + (size_t)to * job->size, job->from + (size_t)from * job->size, (size_t)n * job->size);
    return true;
}

void reshard_copy(void *to, const void *from, const ReshardCopy *c, size_t size) {
    reshard_runs(c, copy_run, &(CopyJob){to, from, size});
}
