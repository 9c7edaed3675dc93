#include "nn/row_parts.h"

#include <math.h>
#include <stdlib.h>

enum { STAT = 4 }; /* numbers of logprob_part_fwd's stat */

void row_parts_of(RowParts *p, Net net) {
    Comm *group = head_divided(net) ? net.trunk->part.tp_group : NULL;
    CHECK(!group || net.trunk->be->op->logprob_part_fwd, "backend %s has no divided outputs", net.trunk->be->op->name);
    if (group != p->group) row_parts_release(p);
    p->group = group;
    p->begin = head_begin(net);
}

void row_parts_reserve(RowParts *p, Backend *be, int n) {
    if (n <= p->cap || !p->group) return;
    Comm *group = p->group;
    int64_t begin = p->begin;
    row_parts_release(p);
    p->group = group, p->begin = begin;
    Arena measure;
    Error err = {0};
    arena_init_measure(&measure, "parts of rows");
    p->stat = tensor_place(&measure, be->real, n, STAT);
    CHECK(arena_init(&p->mem, "parts of rows", be->mem, measure.used, &err), "%s", err.msg);
    p->stat = tensor_place(&p->mem, be->real, n, STAT);
    p->said = mem_alloc(STAT * (size_t)n * sizeof(double));
    p->all = mem_alloc(STAT * (size_t)n * (size_t)comm_size(group) * sizeof(double));
    p->target = mem_alloc((size_t)n * sizeof(int32_t));
    p->cap = n;
}

static int width_of(bool entropy) { return entropy ? ROW_TOLD_ENTROPY : ROW_TOLD; }

void row_parts_say(RowParts *p, Backend *be, int first, Tensor logits, const int32_t *target, float temp,
                   bool entropy) {
    int n = (int)logits.rows, width = width_of(entropy);
    double *x = p->all; /* free until it is told */
    for (int i = 0; i < n; i++) {
        int64_t at = target[i] - p->begin;
        p->target[first + i] = at >= 0 && at < logits.cols ? (int32_t)at : -1;
    }
    Tensor stat = tensor_rows(p->stat, first, n);
    be->op->logprob_part_fwd(be, stat, logits, p->target + first, temp);
    tensor_get(be, x, stat);
    for (int i = 0; i < n; i++) { /* what is told, next to each other: the moment last, if at all */
        const double s[STAT] = {x[i * STAT], x[i * STAT + 1], x[i * STAT + 3], x[i * STAT + 2]};
        for (int k = 0; k < width; k++) p->said[(first + i) * width + k] = s[k];
    }
}

void row_parts_tell(RowParts *p, int n, bool entropy, const char *site) {
    int size = comm_size(p->group);
    int64_t *count = mem_alloc((size_t)size * sizeof *count);
    for (int q = 0; q < size; q++) count[q] = (int64_t)n * width_of(entropy);
    comm_all_gather(p->group, p->all, p->said, count, DTYPE_F64, site);
    free(count);
}

static const double *said_by(const RowParts *p, int rank, int row, int n, bool entropy) {
    return p->all + ((int64_t)rank * n + row) * width_of(entropy);
}

RowSum row_parts_sum(const RowParts *p, int row, int n, bool entropy) {
    RowSum r = {.top = -INFINITY};
    int size = comm_size(p->group);
    for (int q = 0; q < size; q++) r.top = fmax(r.top, said_by(p, q, row, n, entropy)[0]);
    for (int q = 0; q < size; q++) {
        const double *said = said_by(p, q, row, n, entropy);
        double by = exp(said[0] - r.top);
        r.sum += by * said[1];
        r.target += said[2];
        if (entropy) r.moment += by * (said[3] + (said[0] - r.top) * said[1]);
    }
    return r;
}

double row_parts_elsewhere(const RowParts *p, int row, int n, bool entropy, double top) {
    double sum = 0;
    int me = comm_rank(p->group);
    for (int q = 0; q < comm_size(p->group); q++) {
        const double *said = said_by(p, q, row, n, entropy);
        if (q != me) sum += exp(said[0] - top) * said[1];
    }
    return sum;
}

void row_parts_release(RowParts *p) {
    arena_release(&p->mem);
    free(p->said);
    free(p->all);
    free(p->target);
    *p = (RowParts){0};
}
