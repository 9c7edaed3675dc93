/* nn/tp.c — what the ranks that share every tensor of a model tell each other in a pass (Shoeybi et al. 2019, section
 * 3; Korthikanti et al. 2022, section 4.2.2).
 *
 * A rank has its rows of the residual stream, and of its gradient: those of some of the pass's tokens, and of the
 * chosen ones among them. Norms, biases of sums and additions work on these alone. A block's products come in pairs:
 * the first of each reads all rows and gives a rank its own columns, the second gives it a part of every row's sum. So
 * each pair costs one gathering before it and one sum behind it, which leaves a rank the rows it owns; backward the
 * same, the other way round. Normed rows are not kept but normed and gathered again for the gradients of the first
 * products' weights.
 *
 * A norm's weights are everybody's, and their gradients come from each rank's rows (of norms of heads: from its heads),
 * so these are added up over ranks, once a pass and all together. What else all ranks have gets the same gradient on
 * each, from gathered rows. */
#include "nn/nn_int.h"

#include <stdlib.h>

#include "dist/blocks.h"
#include "dist/sum.h"

/* -- whose gradients the ranks have parts of */

static bool in_parts(ParamNumber p) {
    static const ParamNumber all[] = {PARAM_attn_norm, PARAM_attn_norm_b, PARAM_mlp_norm, PARAM_mlp_norm_b,
                                      PARAM_norm,      PARAM_norm_b,      PARAM_q_norm,   PARAM_k_norm};
    for (int i = 0; i < COUNT_OF(all); i++)
        if (all[i] == p) return true;
    return false;
}

typedef struct {
    int n;
    int64_t elements;
    TpWork *w; /* NULL: they are counted */
} GradWalk;

static void visit_grad(void *ud, const ParamSlot *s) {
    GradWalk *g = ud;
    if (!in_parts(s->number)) return;
    if (g->w) {
        Tensor part = tensor_cols(g->w->grads, g->elements, s->cols);
        g->w->grad[g->n] = (TpGrad){s->dw, tensor_over(part.data, part.dtype, 1, s->cols)};
    }
    g->elements += s->cols;
    g->n++;
}

static GradWalk count_grads(const Model *m) {
    GradWalk g = {0};
    params_walk_part(&m->cfg, &m->part, NULL, NULL, visit_grad, &g);
    return g;
}

Tensor tp_grad(const TpWork *w, const Tensor *dw) {
    if (!w || tensor_empty(*dw)) return *dw;
    for (int i = 0; i < w->n_grad; i++)
        if (w->grad[i].dw == dw) return w->grad[i].part;
    CHECK(false, "a gradient that no rank has a part of");
    return *dw;
}

void tp_grads_begin(Model *m, TpWork *w) {
    GradWalk g = {.w = w};
    params_walk_part(&m->cfg, &m->part, NULL, &m->dw, visit_grad, &g);
    w->n_grad = g.n;
    m->be->op->zero(m->be, w->grads);
}

void tp_grads_end(Model *m, TpWork *w) {
    if (!m->dw.block) return; /* nothing of the trunk is trained */
    int64_t n = tensor_count(w->grads);
    unsigned char *sum = w->host.at;
    block_get(m->be, sum, w->grads);
    sum_ranks(w->room.c, sum, sum + (size_t)n * dtype_bytes(m->be->real), n, m->be->real, "norms");
    block_set(m->be, w->grads, sum);
    for (int i = 0; i < w->n_grad; i++) {
        Tensor dw = *w->grad[i].dw;
        if (!tensor_empty(dw)) m->be->op->add(m->be, dw, dw, w->grad[i].part);
    }
}

/* -- life */

void tp_place(TpWork *w, Arena *mem, const Model *m, int64_t n_tok, bool grads) {
    DType real = m->be->real;
    *w = (TpWork){.part = tensor_place(mem, real, n_tok, m->cfg.d_model)};
    rowshare_place(&w->room, mem, m->be, m->part.tp_n, n_tok, m->cfg.d_model);
    if (grads) w->grads = tensor_place(mem, real, 1, count_grads(m).elements);
}

void tp_open(TpWork *w, const Model *m) {
    size_t t = (size_t)m->part.tp_n, n = (size_t)w->part.rows;
    int64_t sums = tensor_count(w->grads);
    rowshare_open(&w->room, m->part.tp_group);
    w->tok = mem_alloc(2 * (t + 1) * sizeof *w->tok);
    w->row = w->tok + t + 1;
    w->at = mem_alloc(3 * n * sizeof *w->at);
    w->place = w->at + n;
    w->id = w->place + n;
    w->grad = mem_alloc((size_t)(count_grads(m).n + 1) * sizeof *w->grad);
    host_room(m->be, &w->host, (size_t)(sums + sum_spare(w->room.c, sums)) * dtype_bytes(m->be->real));
}

void tp_close(TpWork *w) {
    host_room_release(w->room.be, &w->host);
    rowshare_release(&w->room);
    free(w->tok);
    free(w->at);
    free(w->grad);
    *w = (TpWork){0};
}

/* -- rows */

void tp_cut(TpWork *w, const Batch *b) {
    int t = comm_size(w->room.c), me = comm_rank(w->room.c), k = 0;
    rowshare_cut(w->tok, b->n_tok, t);
    for (int r = 0; r <= t; r++) {
        while (k < b->n_row && b->row[k] < w->tok[r]) k++;
        w->row[r] = k;
    }
    for (int64_t i = w->row[me]; i < w->row[me + 1]; i++) w->at[i - w->row[me]] = (int32_t)(b->row[i] - w->tok[me]);
}

static const int64_t *cut_of(const TpWork *w, bool chosen) { return chosen ? w->row : w->tok; }

int64_t tp_before(const TpWork *w, bool chosen) { return w ? cut_of(w, chosen)[comm_rank(w->room.c)] : 0; }

int64_t tp_own(const TpWork *w, bool chosen, int64_t n) {
    if (!w) return n;
    const int64_t *cut = cut_of(w, chosen) + comm_rank(w->room.c);
    return cut[1] - cut[0];
}

const int32_t *tp_chosen(const TpWork *w, const Batch *b) { return w ? w->at : b->row; }

void tp_gather(TpWork *w, bool chosen, Tensor all, Tensor own, const char *site) {
    rowshare_gather(&w->room, all, own, cut_of(w, chosen), site);
}

Tensor tp_sum(TpWork *w, bool chosen, Tensor t, const char *site) {
    return rowshare_sum(&w->room, t, cut_of(w, chosen), site);
}

/* -- the embedding: a rank has some rows of it, the others add nothing */

/* Rows of the batch whose tokens are here; returns their number. */
static int own_tokens(const Model *m, TpWork *w, const Batch *b) {
    int32_t first = (int32_t)model_part_begin(&m->part, m->whole.n_vocab);
    int own = 0;
    for (int i = 0; i < b->n_tok; i++) {
        if (b->tok[i] < first || b->tok[i] >= first + m->cfg.n_vocab) continue;
        w->place[own] = i;
        w->id[own++] = b->tok[i] - first;
    }
    return own;
}

void tp_embed_forward(const Model *m, TpWork *w, Tensor x, const Batch *b) {
    const BackendOps *op = m->be->op;
    int own = own_tokens(m, w, b);
    Tensor all = tensor_rows(w->part, 0, b->n_tok);
    op->zero(m->be, all);
    if (own > 0) {
        Tensor found = rowshare_spare(&w->room, all.dtype, own);
        op->embed_fwd(m->be, found, m->w.wte, w->id, false);
        op->scatter_rows(m->be, all, found, w->place);
    }
    Tensor sum = tp_sum(w, false, all, "embedding");
    if (!tensor_empty(x)) op->copy(m->be, x, sum);
}

void tp_embed_backward(const Model *m, TpWork *w, Tensor dx, const Batch *b) {
    const BackendOps *op = m->be->op;
    Tensor all = tensor_rows(w->part, 0, b->n_tok);
    tp_gather(w, false, all, dx, "embedding.backward");
    int own = own_tokens(m, w, b);
    if (own > 0) {
        Tensor found = rowshare_spare(&w->room, all.dtype, own);
        op->gather_rows(m->be, found, all, w->place);
        op->embed_bwd(m->be, m->dw.wte, found, w->id);
    }
    if (m->cfg.pos == POS_LEARNED) op->embed_bwd(m->be, m->dw.wpe, all, b->pos);
}
