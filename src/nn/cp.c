/* nn/cp.c — what the ranks that divide a micro-batch's rows tell each other in a pass (nn/cut.h; Llama Team 2024,
 * section 3.3.2).
 *
 * Everything but attention works on rows by themselves. A block's queries see keys of all ranks: so keys and values,
 * rotated, are gathered before it, and the gradients that a rank's queries have for everybody's keys go back to whose
 * these are, where they are added in order of ranks. Gathered rows lie as they do in the whole micro-batch, so
 * attention visits the same keys in the same order, and a row's bits are those of one rank. They are not kept: the
 * backward gathers again, one layer at a time. */
#include "nn/nn_int.h"

#include <stdlib.h>

#include "dist/blocks.h"
#include "dist/sum.h"

void cp_place(CpWork *w, Arena *mem, const Model *m, DType attn, int64_t n_all) {
    int64_t n_kv = (int64_t)m->cfg.n_kv_head * m->cfg.d_head;
    Tensor *all[] = {&w->k, &w->v, &w->dk, &w->dv};
    for (int i = 0; i < COUNT_OF(all); i++) *all[i] = tensor_place(mem, attn, n_all, n_kv);
}

void cp_open(CpWork *w, const Model *m) {
    size_t row = 2 * (size_t)w->k.cols * dtype_bytes(w->k.dtype);
    w->n_rank = m->part.cp_n;
    host_room(m->be, &w->room, (2 * (size_t)w->k.rows + (size_t)w->n_rank) * row);
    w->host = w->room.at;
    w->spare = w->host + (size_t)w->k.rows * row; /* n_rank times the rows of one */
    w->count = mem_alloc((size_t)w->n_rank * sizeof *w->count);
}

void cp_close(CpWork *w, Backend *be) {
    host_room_release(be, &w->room);
    free(w->count);
    *w = (CpWork){0};
}

/* A rank's rows travel as keys, then values. */
static const int64_t *count_rows(const CpWork *w, const Cut *c) {
    for (int q = 0; q < c->n_rank; q++) w->count[q] = 2 * c->n_row[q] * w->k.cols;
    return w->count;
}

/* Rank q's rows of what is there for all, to or from its part of a message. */
static void move_runs(const Model *m, const Cut *c, int q, Tensor t, unsigned char *at, bool out) {
    size_t row = (size_t)t.cols * dtype_bytes(t.dtype);
    for (int i = c->run_off[q]; i < c->run_off[q + 1]; at += (size_t)c->run[i].n * row, i++) {
        Tensor rows = tensor_rows(t, c->run[i].first, c->run[i].n);
        if (out)
            block_get(m->be, at, rows);
        else
            block_set(m->be, rows, at);
    }
}

static void move_all(const Model *m, const Cut *c, Tensor k, Tensor v, unsigned char *at, bool out) {
    size_t row = (size_t)k.cols * dtype_bytes(k.dtype);
    for (int q = 0; q < c->n_rank; q++) {
        move_runs(m, c, q, k, at, out);
        at += (size_t)c->n_row[q] * row;
        move_runs(m, c, q, v, at, out);
        at += (size_t)c->n_row[q] * row;
    }
}

void cp_gather(const Model *m, CpWork *w, const Cut *c, Tensor k, Tensor v) {
    int64_t own = c->n_row[c->rank];
    size_t half = (size_t)own * (size_t)k.cols * dtype_bytes(k.dtype);
    if (own > 0) {
        block_get(m->be, w->spare, tensor_rows(k, 0, own));
        block_get(m->be, w->spare + half, tensor_rows(v, 0, own));
    }
    comm_all_gather(m->part.cp_group, w->host, w->spare, count_rows(w, c), k.dtype, "keys");
    move_all(m, c, w->k, w->v, w->host, false);
}

void cp_scatter(const Model *m, CpWork *w, const Cut *c, Tensor dk, Tensor dv) {
    int64_t own = c->n_row[c->rank];
    size_t half = (size_t)own * (size_t)dk.cols * dtype_bytes(dk.dtype);
    move_all(m, c, w->dk, w->dv, w->host, true);
    sum_to_owners(m->part.cp_group, w->spare, w->host, count_rows(w, c), dk.dtype, "keys.backward");
    if (own == 0) {
        m->be->op->zero(m->be, dk);
        m->be->op->zero(m->be, dv);
        return;
    }
    block_set(m->be, tensor_rows(dk, 0, own), w->spare);
    block_set(m->be, tensor_rows(dv, 0, own), w->spare + half);
}
