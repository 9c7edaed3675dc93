/* nn/block.c — one transformer block, forward and backward side by side.
 *
 *      x --+-- norm -- q, k, v -- rotate -- attention -- wo --(+)-- x_mid --+-- norm -- gate, up -- act -- w_down
 * --(+)-- x_out
 *          +-------------------------------------------------+ +------------------------------------------+
 *
 * Families differ in which parameters are empty tensors and in a few fields of the configuration; no family is asked.
 * Between q, k and "rotate" stand their own norms where the model has them. Nothing here knows whether it trains: which
 * activations survive the call is decided by how acts.c placed them. In the last block what follows attention runs on
 * the rows that the head reads: a gather stands before wo, and where no row is chosen the block only fills the cache.
 *
 * Of a model that ranks divide (tp.c) x, x_mid, x_out and their gradients are a rank's own rows, everything else is of
 * all rows and the rank's own columns: between a norm and the products rows are gathered, behind wo and w_down summed.
 *
 * Under KEEP_NONE x, x_mid and x_out are the same memory and the copies below vanish; the bits stay the same, because
 * linear_fwd adds the residual last. */
#include "nn/nn_int.h"

static const Tensor none = {0};
static const BlockParams no_scales = {0};

static void norm_rows(const Model *m, Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor w, Tensor b) {
    const BackendOps *op = m->be->op;
    if (x.rows == 0) return; /* there may be fewer than ranks */
    if (m->cfg.norm == NORM_RMS)
        op->rmsnorm_fwd(m->be, y, rstd, x, w, (float)m->cfg.norm_eps);
    else
        op->layernorm_fwd(m->be, y, mean, rstd, x, w, b, (float)m->cfg.norm_eps);
}

void norm_forward(const Model *m, TpWork *tp, bool chosen, Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor w,
                  Tensor b, const char *site) {
    Tensor own = tp ? rowshare_spare(&tp->room, y.dtype, x.rows) : y;
    norm_rows(m, own, mean, rstd, x, w, b);
    if (tp) tp_gather(tp, chosen, y, own, site);
}

void norm_backward(const Model *m, Tensor dx, Tensor dw_acc, Tensor db_acc, Tensor dy, Tensor x, Tensor w, Tensor mean,
                   Tensor rstd) {
    const BackendOps *op = m->be->op;
    if (x.rows == 0) return;
    if (m->cfg.norm == NORM_RMS)
        op->rmsnorm_bwd(m->be, dx, dw_acc, dy, x, w, rstd, true);
    else
        op->layernorm_bwd(m->be, dx, dw_acc, db_acc, dy, x, w, mean, rstd, true);
}

/* out.y = residual + x w^T + bias; of a divided model x w^T is the sum of all ranks', and the rest is added to it by
 * who has the row. */
static void linear_residual(const Model *m, TpWork *tp, bool chosen, LinearOut out, Tensor residual, Tensor x,
                            const char *site) {
    Backend *be = m->be;
    if (tp) {
        const LinearOut mine = {.y = tensor_rows(tp->part, 0, x.rows), .w = out.w, .scale = out.scale};
        be->op->linear_fwd(be, &mine, 1, x, false);
        Tensor sum = tp_sum(tp, chosen, mine.y, site);
        if (tensor_empty(sum)) return;
        if (!tensor_empty(out.bias)) be->op->add_bias(be, sum, sum, out.bias);
        be->op->add(be, out.y, residual, sum);
        return;
    }
    bool moves = out.y.data != residual.data;
    if (moves && be->op->linear_from) {
        be->op->linear_from(be, out, residual, x);
        return;
    }
    if (moves) be->op->copy(be, out.y, residual);
    be->op->linear_fwd(be, &out, 1, x, true);
}

/* The batch says who is there, the model how far back anybody looks. */
static AttnSeqs seen_by(const Model *m, int layer, const Batch *b) {
    AttnSeqs s = b->seqs;
    s.window = s.causal ? model_config_window(&m->cfg, layer) : 0;
    return s;
}

/* t as products read it: itself, or rounded into half, which may be the same memory. */
static Tensor as_input(const Model *m, Tensor half, Tensor t) {
    if (m->dtype == t.dtype) return t;
    m->be->op->cast(m->be, half, t);
    return half;
}

void block_keys(const Model *m, const BlockActs *a) {
    CpWork all = acts_keys(a->rows);
    cp_gather(m, &all, acts_cut(a->rows), a->k, a->v);
}

static void attend(const Model *m, int layer, const BlockActs *a, Tensor k, Tensor v, const Batch *b) {
    Backend *be = m->be;
    const BackendOps *op = be->op;
    AttnSeqs seqs = seen_by(m, layer, b);
    int d_head = m->cfg.d_head;
    const SeenActs *s = a->seen;
    if (a->rows) {
        CpWork all = acts_keys(a->rows);
        block_keys(m, a);
        k = all.k, v = all.v;
    }
    if (!b->seen) {
        op->attn_fwd(be, a->o, a->lse, a->q, k, v, seqs, d_head);
        return;
    }
    op->gather_rows(be, s->q, a->q, b->seen);
    op->gather_rows(be, s->k, k, b->seen);
    op->gather_rows(be, s->v, v, b->seen);
    op->attn_fwd(be, s->o, s->lse, s->q, s->k, s->v, seqs, d_head);
    op->gather_rows(be, a->o, s->o, b->home);
    op->gather_rows(be, a->lse, s->lse, b->home);
}

/* A row that many sequences see gets the sum of its gradients; as a query it has one, at home. */
static void attend_backward(const Model *m, int layer, const BlockActs *a, const BlockGrads *g, const Batch *b) {
    Backend *be = m->be;
    const BackendOps *op = be->op;
    AttnSeqs seqs = seen_by(m, layer, b);
    int d_head = m->cfg.d_head;
    const SeenActs *s = a->seen;
    if (a->rows) {
        CpWork all = acts_keys(a->rows);
        op->attn_part_bwd(be, g->dq, all.dk, all.dv, g->d_o, a->o, a->lse, a->q, all.k, all.v, seqs, d_head);
        cp_scatter(m, &all, acts_cut(a->rows), g->dk, g->dv);
        return;
    }
    if (!b->seen) {
        op->attn_bwd(be, g->dq, g->dk, g->dv, g->d_o, a->o, a->lse, a->q, a->k, a->v, seqs, d_head);
        return;
    }
    op->gather_rows(be, s->q, a->q, b->seen);
    op->gather_rows(be, s->k, a->k, b->seen);
    op->gather_rows(be, s->v, a->v, b->seen);
    op->gather_rows(be, s->o, a->o, b->seen);
    op->gather_rows(be, s->lse, a->lse, b->seen);
    op->zero(be, s->d_o);
    op->scatter_rows(be, s->d_o, g->d_o, b->home);
    op->attn_bwd(be, s->dq, s->dk, s->dv, s->d_o, s->o, s->lse, s->q, s->k, s->v, seqs, d_head);
    op->gather_rows(be, g->dq, s->dq, b->home);
    op->zero(be, g->dk);
    op->scatter_add_rows(be, g->dk, s->dk, b->seen);
    op->zero(be, g->dv);
    op->scatter_add_rows(be, g->dv, s->dv, b->seen);
}

/* (N, heads*D) as (N*heads, D). */
static Tensor by_head(const Model *m, Tensor t) {
    return tensor_over(t.data, t.dtype, t.rows * (t.cols / m->cfg.d_head), m->cfg.d_head);
}

static void turn(const Model *m, Tensor q, Tensor k, const Batch *b, bool inverse) {
    Backend *be = m->be;
    if (m->cfg.pos != POS_ROPE) return;
    be->op->rope(be, q, b->pos, m->freq, m->cfg.d_head, inverse);
    be->op->rope(be, k, b->pos, m->freq, m->cfg.d_head, inverse);
    if (m->rope_attention == 1) return;
    be->op->scale(be, q, m->rope_attention);
    be->op->scale(be, k, m->rope_attention);
}

/* Turns, and writes what a cache is for. */
static void place_keys(const Model *m, const BlockActs *a, Tensor k, Tensor v, const Batch *b, bool cached) {
    const BackendOps *op = m->be->op;
    bool plain = m->cfg.pos == POS_ROPE && m->rope_attention == 1;
    if (plain && cached && op->rope_kv) {
        op->rope_kv(m->be, a->q, a->k, a->v, k, v, b->kv_row, b->pos, m->freq, m->cfg.d_head);
        return;
    }
    turn(m, a->q, a->k, b, false);
    if (!cached) return;
    op->scatter_rows(m->be, k, a->k, b->kv_row);
    op->scatter_rows(m->be, v, a->v, b->kv_row);
}

static void activate(const Model *m, const BlockActs *a) {
    if (m->cfg.mlp == MLP_SWIGLU)
        m->be->op->swiglu_fwd(m->be, a->act, a->gate, a->up);
    else
        m->be->op->gelu_fwd(m->be, a->act, a->up, m->cfg.gelu);
}

static void norm_first(const Model *m, int layer, const BlockActs *a, const char *site) {
    const BlockParams *w = &m->w.block[layer];
    norm_forward(m, a->tp, false, a->h1, a->mean1, a->rstd1, a->x, w->attn_norm, w->attn_norm_b, site);
}

static void norm_second(const Model *m, int layer, const BlockActs *a, const char *site) {
    const BlockParams *w = &m->w.block[layer];
    norm_forward(m, a->tp, block_chooses(m, layer), a->h2, a->mean2, a->rstd2, a->x_mid, w->mlp_norm, w->mlp_norm_b,
                 site);
}

void block_again(const Model *m, int layer, const BlockActs *a, bool act) {
    norm_first(m, layer, a, "attention.again");
    norm_second(m, layer, a, "mlp.again");
    if (act) activate(m, a);
}

/* The beginnings of a block's halves at once, where the backend can: in a pass over a cache, whose activations nobody
 * reads again, of a model that has nothing between these ops. False: step by step. */
static bool queries_at_once(Net n, const BlockActs *a, const BlockParams *w, const LinearOut *qkv, const Batch *b,
                            Tensor k, Tensor v) {
    const Model *m = n.trunk;
    const ModelConfig *c = &m->cfg;
    bool plain =
        c->norm == NORM_RMS && !c->qk_norm && c->pos == POS_ROPE && m->rope_attention == 1 && !n.adapter && !a->tp;
    if (!plain || !m->be->op->norm_qkv) return false;
    const NormedRows r = {a->h1, a->x, w->attn_norm, (float)c->norm_eps};
    return m->be->op->norm_qkv(m->be, qkv, r, k, v, b->kv_row, b->pos, m->freq, c->d_head);
}

static bool gated_at_once(Net n, const BlockActs *a, const BlockParams *w, const LinearOut *up_gate) {
    const Model *m = n.trunk;
    const ModelConfig *c = &m->cfg;
    if (c->norm != NORM_RMS || c->mlp != MLP_SWIGLU || n.adapter || a->tp || !m->be->op->norm_swiglu) return false;
    const NormedRows r = {a->h2, a->x_mid, w->mlp_norm, (float)c->norm_eps};
    return m->be->op->norm_swiglu(m->be, a->act, up_gate[0], up_gate[1], r);
}

static const ParamNumber qkv_params[] = {PARAM_wq, PARAM_wk, PARAM_wv}, up_gate_params[] = {PARAM_w_up, PARAM_w_gate},
                         wo_param[] = {PARAM_wo}, down_param[] = {PARAM_w_down};

static void queries_by_steps(Net n, int layer, const BlockActs *a, const LinearOut *qkv, const Batch *b, Tensor k,
                             Tensor v, bool cached) {
    const Model *m = n.trunk;
    Backend *be = m->be;
    const ModelConfig *c = &m->cfg;
    const BlockParams *w = &m->w.block[layer];
    norm_first(m, layer, a, "attention.input");
    be->op->linear_fwd(be, qkv, 3, a->h1, false);
    lora_forward(n, layer, qkv_params, qkv, 3, a->h1, b);
    if (c->qk_norm) {
        be->op->rmsnorm_fwd(be, by_head(m, a->q), a->q_rstd, by_head(m, a->q_raw), w->q_norm, (float)c->norm_eps);
        be->op->rmsnorm_fwd(be, by_head(m, a->k), a->k_rstd, by_head(m, a->k_raw), w->k_norm, (float)c->norm_eps);
    }
    place_keys(m, a, k, v, b, cached);
}

static void hidden_by_steps(Net n, int layer, const BlockActs *a, const LinearOut *up_gate, const Batch *b) {
    const Model *m = n.trunk;
    norm_second(m, layer, a, "mlp.input");
    int n_up = m->cfg.mlp == MLP_SWIGLU ? 2 : 1;
    m->be->op->linear_fwd(m->be, up_gate, n_up, a->h2, false);
    lora_forward(n, layer, up_gate_params, up_gate, n_up, a->h2, b);
    activate(m, a);
}

void block_forward(Net n, int layer, const BlockActs *a, Tensor x_out, const Batch *b, KvCache *kv) {
    const Model *m = n.trunk;
    Backend *be = m->be;
    const BackendOps *op = be->op;
    const ModelConfig *c = &m->cfg;
    const BlockParams *w = &m->w.block[layer], *s = m->scale ? &m->scale[layer] : &no_scales;
    bool last = block_chooses(m, layer);

    Tensor q_out = c->qk_norm ? a->q_raw : a->q, k_out = c->qk_norm ? a->k_raw : a->k;
    const LinearOut qkv[] = {{q_out, w->wq, w->bq, s->wq}, {k_out, w->wk, w->bk, s->wk}, {a->v, w->wv, w->bv, s->wv}};
    Tensor k = kv ? kv->k[layer] : a->k, v = kv ? kv->v[layer] : a->v;
    if (!kv || !queries_at_once(n, a, w, qkv, b, k, v)) queries_by_steps(n, layer, a, qkv, b, k, v, kv != NULL);
    if (last && b->n_row == 0) return;
    attend(m, layer, a, k, v, b);
    if (last) {
        op->gather_rows(be, a->o_row, a->o, b->row);
        if (!tensor_empty(a->x_mid)) op->gather_rows(be, a->x_mid, a->x, tp_chosen(a->tp, b));
    }
    Tensor o = as_input(m, a->o_in, last ? a->o_row : a->o);
    const LinearOut mid = {a->x_mid, w->wo, w->bo, s->wo}, down = {x_out, w->w_down, w->b_down, s->w_down};
    linear_residual(m, a->tp, last, mid, last ? a->x_mid : a->x, o, "attention");
    lora_forward(n, layer, wo_param, &mid, 1, o, b);

    const LinearOut up_gate[] = {{a->up, w->w_up, w->b_up, s->w_up}, {a->gate, w->w_gate, w->b_gate, s->w_gate}};
    if (!kv || !gated_at_once(n, a, w, up_gate)) hidden_by_steps(n, layer, a, up_gate, b);
    if (!x_out.data) return;
    linear_residual(m, a->tp, last, down, a->x_mid, a->act, "mlp");
    lora_forward(n, layer, down_param, &down, 1, a->act, b);
}

static Tensor in_place(const Model *m, Tensor t) { return m->dtype == t.dtype ? t : as_input(m, tensor_narrow(t), t); }

/* dx = sum_i dy_i w_i through matrices and adapters, and their gradients. */
static void linear_backward(Net n, int layer, const ParamNumber *which, Tensor dx, const LinearGrad *grad, int n_grad,
                            Tensor x, const Batch *b) {
    Backend *be = n.trunk->be;
    be->op->linear_bwd(be, dx, grad, n_grad, x, false);
    lora_backward(n, layer, which, dx, grad, n_grad, x, b);
}

/* The gradient of a product's sums as it reads it: all rows, in the model's dtype. */
static Tensor whole_gradient(const Model *m, TpWork *tp, bool chosen, Tensor half, Tensor dy, const char *site) {
    if (!tp) return as_input(m, half, dy);
    Tensor own = dy;
    if (!tensor_empty(half)) {
        own = rowshare_spare(&tp->room, half.dtype, dy.rows);
        if (dy.rows > 0) m->be->op->cast(m->be, own, dy);
    }
    Tensor all =
        tensor_empty(half) ? tensor_rows(tp->part, 0, chosen ? tp->row[m->part.tp_n] : tp->tok[m->part.tp_n]) : half;
    tp_gather(tp, chosen, all, own, site);
    return all;
}

void block_backward(Net n, int layer, const BlockActs *a, const BlockGrads *g, Tensor dx, Tensor dx_row,
                    const Batch *b) {
    const Model *m = n.trunk;
    Backend *be = m->be;
    const BackendOps *op = be->op;
    const ModelConfig *c = &m->cfg;
    const BlockParams *w = &m->w.block[layer], *d = &m->dw.block[layer];

    bool last = block_chooses(m, layer), gated = c->mlp == MLP_SWIGLU;
    int64_t n_row = last ? b->n_row : b->n_tok;
    Tensor dy = last ? dx_row : dx, dh = tensor_rows(g->dh, 0, n_row), dup = tensor_rows(g->dact, 0, n_row);
    Tensor dgate = gated ? tensor_rows(g->dgate, 0, n_row) : none;
    bool half = m->dtype != be->real;
    Tensor dy_half = half ? tensor_rows(g->dx_in, 0, n_row) : none,
           o = tensor_empty(a->o_in) ? (last ? a->o_row : a->o) : a->o_in;

    const LinearGrad down = {whole_gradient(m, a->tp, last, dy_half, dy, "mlp.gradient"), w->w_down, d->w_down,
                             d->b_down};
    linear_backward(n, layer, down_param, dup, &down, 1, a->act, b);
    if (gated)
        op->swiglu_bwd(be, dgate, dup, dup, a->gate, a->up);
    else
        op->gelu_bwd(be, dup, dup, a->up, c->gelu);
    const LinearGrad up_gate[] = {{dup, w->w_up, d->w_up, d->b_up}, {dgate, w->w_gate, d->w_gate, d->b_gate}};
    linear_backward(n, layer, up_gate_params, dh, up_gate, gated ? 2 : 1, a->h2, b);
    if (a->tp) dh = tp_sum(a->tp, last, dh, "mlp.backward");
    norm_backward(m, dy, tp_grad(a->tp, &d->mlp_norm), tp_grad(a->tp, &d->mlp_norm_b), dh, a->x_mid, w->mlp_norm,
                  a->mean2, a->rstd2);

    Tensor d_o = last ? tensor_rows(g->dq, 0, n_row) : g->d_o; /* dq is free until attention's turn */
    const LinearGrad mid = {whole_gradient(m, a->tp, last, dy_half, dy, "attention.gradient"), w->wo, d->wo, d->bo};
    linear_backward(n, layer, wo_param, d_o, &mid, 1, o, b);
    if (last) {
        op->zero(be, g->d_o);
        op->scatter_rows(be, g->d_o, d_o, b->row);
        if (!tensor_empty(dx)) op->zero(be, dx);
        if (!tensor_empty(dy)) op->scatter_rows(be, dx, dy, tp_chosen(a->tp, b));
    }
    attend_backward(m, layer, a, g, b);
    turn(m, g->dq, g->dk, b, true);
    Tensor dq = g->dq, dk = g->dk, dv = in_place(m, g->dv);
    if (c->qk_norm) { /* d_o is free by now, and so is dq in its turn */
        dq = g->d_o, dk = tensor_over(g->dq.data, g->dq.dtype, g->dk.rows, g->dk.cols);
        Tensor dq_norm = tp_grad(a->tp, &d->q_norm), dk_norm = tp_grad(a->tp, &d->k_norm);
        op->rmsnorm_bwd(be, by_head(m, dq), dq_norm, by_head(m, g->dq), by_head(m, a->q_raw), w->q_norm, a->q_rstd,
                        false);
        op->rmsnorm_bwd(be, by_head(m, dk), dk_norm, by_head(m, g->dk), by_head(m, a->k_raw), w->k_norm, a->k_rstd,
                        false);
    }
    dq = in_place(m, dq), dk = in_place(m, dk);
    const LinearGrad qkv[] = {{dq, w->wq, d->wq, d->bq}, {dk, w->wk, d->wk, d->bk}, {dv, w->wv, d->wv, d->bv}};
    linear_backward(n, layer, qkv_params, g->dh, qkv, 3, a->h1, b);
    dh = a->tp ? tp_sum(a->tp, false, g->dh, "attention.backward") : g->dh;
    norm_backward(m, dx, tp_grad(a->tp, &d->attn_norm), tp_grad(a->tp, &d->attn_norm_b), dh, a->x, w->attn_norm,
                  a->mean1, a->rstd1);
}
