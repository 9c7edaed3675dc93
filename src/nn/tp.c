/* nn/tp.c — what the ranks that share every tensor of a model tell each other in a pass (Shoeybi et al. 2019, section
 * 3).
 *
 * All of them hold the residual stream, and its gradient, whole and with equal bits. A block's products come in pairs:
 * the first of each gives a rank its own columns, the second a part of every sum. So each pair costs one sum forward,
 * of what it adds to the stream (g), and one backward, of what it adds to the gradient of its input (f). */
#include "nn/nn_int.h"

#include <stdlib.h>

#include "dist/blocks.h"
#include "dist/sum.h"

void tp_place(TpWork *w, Arena *mem, const Model *m, int64_t n_row, bool grads) {
    DType real = m->be->real;
    *w = (TpWork){.part = tensor_place(mem, real, n_row, m->cfg.d_model)};
    if (grads && m->cfg.qk_norm) w->head_norm = tensor_place(mem, real, 2 * (int64_t)m->cfg.n_layer, m->cfg.d_head);
}

void tp_open(TpWork *w, const Model *m) {
    int64_t most = tensor_count(w->part), norms = tensor_count(w->head_norm);
    if (norms > most) most = norms;
    size_t bytes = dtype_bytes(m->be->real);
    w->host = mem_alloc((size_t)(most + sum_spare(m->part.tp_group, most)) * bytes);
    w->spare = w->host + (size_t)most * bytes;
    w->row = mem_alloc(2 * (size_t)w->part.rows * sizeof *w->row);
    w->id = w->row + w->part.rows;
}

void tp_close(TpWork *w) {
    free(w->host);
    free(w->row);
    *w = (TpWork){0};
}

void tp_sum(const Model *m, TpWork *w, Tensor t, const char *site) {
    block_get(m->be, w->host, t);
    sum_ranks(m->part.tp_group, w->host, w->spare, tensor_count(t), m->be->real, site);
    block_set(m->be, t, w->host);
}

/* -- the embedding: a rank has some rows of it, the others add nothing */

/* Rows of the batch whose tokens are here; returns their number. */
static int own_tokens(const Model *m, TpWork *w, const int32_t *tok, int64_t n) {
    int32_t first = (int32_t)model_part_begin(&m->part, m->whole.n_vocab);
    int own = 0;
    for (int64_t i = 0; i < n; i++) {
        if (tok[i] < first || tok[i] >= first + m->cfg.n_vocab) continue;
        w->row[own] = (int32_t)i;
        w->id[own++] = tok[i] - first;
    }
    return own;
}

void tp_embed_forward(const Model *m, TpWork *w, Tensor x, const int32_t *tok) {
    const BackendOps *op = m->be->op;
    int own = own_tokens(m, w, tok, x.rows);
    op->zero(m->be, x);
    if (own > 0) {
        Tensor part = tensor_rows(w->part, 0, own);
        op->embed_fwd(m->be, part, m->w.wte, w->id, false);
        op->scatter_rows(m->be, x, part, w->row);
    }
    tp_sum(m, w, x, "embedding");
}

void tp_embed_backward(const Model *m, TpWork *w, Tensor dx, const int32_t *tok) {
    int own = own_tokens(m, w, tok, dx.rows);
    if (own == 0) return;
    Tensor part = tensor_rows(w->part, 0, own);
    m->be->op->gather_rows(m->be, part, dx, w->row);
    m->be->op->embed_bwd(m->be, m->dw.wte, part, w->id);
}

/* -- norms of single heads: their weights are everybody's, their gradients come from each rank's own heads */

Tensor tp_head_norm(const TpWork *w, int layer, int which) {
    return tensor_rows(w->head_norm, 2 * (int64_t)layer + which, 1);
}

void tp_head_norms_begin(const Model *m, TpWork *w) {
    if (!tensor_empty(w->head_norm)) m->be->op->zero(m->be, w->head_norm);
}

void tp_head_norms_end(const Model *m, TpWork *w) {
    if (tensor_empty(w->head_norm)) return;
    tp_sum(m, w, w->head_norm, "head norms");
    for (int l = 0; l < m->cfg.n_layer; l++) {
        Tensor dq = m->dw.block[l].q_norm, dk = m->dw.block[l].k_norm;
        if (tensor_empty(dq)) continue;
        m->be->op->add(m->be, dq, dq, tp_head_norm(w, l, 0));
        m->be->op->add(m->be, dk, dk, tp_head_norm(w, l, 1));
    }
}
