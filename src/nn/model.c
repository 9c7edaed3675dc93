/* nn/model.c — one pass of a whole net. See model.h for the picture. */
#include "nn/nn_int.h"

#include <string.h>

static void check_batch(const Model *m, const Acts *a, const Batch *b, const KvCache *kv) {
    CHECK(a->be == m->be && a->cfg.n_layer == m->cfg.n_layer && a->cfg.d_model == m->cfg.d_model,
          "activations belong to another model");
    CHECK((kv != NULL) == (b->kv_row != NULL), "a cache and the rows to write in it come together");
    CHECK(!kv || kv->n_layer == m->cfg.n_layer, "a cache of %d layers for %d", kv->n_layer, m->cfg.n_layer);
    int n_seen = b->seen ? b->n_seen : b->n_tok;
    CHECK(b->seqs.q_off[0] == 0 && b->seqs.q_off[b->seqs.n_seq] == n_seen, "sequences do not cover the batch");
    CHECK(!b->seen || (!kv && b->n_seen <= a->max_seen), "%d rows seen by attention, room for %d%s", b->n_seen,
          a->max_seen, kv ? ", and a cache" : "");
    for (int i = 0; b->seen && i < b->n_tok; i++)
        CHECK(b->home[i] >= 0 && b->home[i] < b->n_seen && b->seen[b->home[i]] == i, "row %d is not at home", i);
    int32_t max_pos = m->cfg.max_seq;
    for (int i = 0; i < b->n_tok; i++) {
        CHECK(b->tok[i] >= 0 && b->tok[i] < m->whole.n_vocab, "token %d of a vocabulary of %d", b->tok[i],
              m->whole.n_vocab);
        CHECK(b->pos[i] >= 0 && b->pos[i] < max_pos, "position %d of at most %d", b->pos[i], max_pos);
    }
    for (int i = 0; i < b->n_row; i++)
        CHECK(b->row[i] >= 0 && b->row[i] < b->n_tok && (i == 0 || b->row[i] > b->row[i - 1]),
              "chosen rows must ascend within the batch");
}

static Tensor block_output(const Acts *a, int layer) {
    return layer + 1 < a->cfg.n_layer ? a->block[layer + 1].x : a->last ? a->x_row : a->x_out;
}

/* One new token of each sequence, over a cache: the pass that a generation makes thousands of times. All that its ops
 * follow from, but for the batch's arrays; how far the longest sequence reaches enters in steps of DECODE_STEP
 * positions, as the backends' launches follow from it in such steps. */
static bool replay_decode(Net n, const Acts *a, const Batch *b, const KvCache *kv) {
    const Model *m = n.trunk;
    const AttnSeqs *s = &b->seqs;
    if (!kv || a->keep != KEEP_NONE || m->part.tp_n > 1 || b->n_tok != s->n_seq || b->n_row != b->n_tok) return false;
    int longest = 0;
    for (int i = 0; i < s->n_seq; i++) longest = s->kv_len[i] > longest ? s->kv_len[i] : longest;
    struct {
        ModelConfig cfg;
        const void *params, *acts, *kv, *adapter;
        int n_tok, max_page, causal, reach, dtype;
    } key;
    memset(&key, 0, sizeof key);
    memcpy(&key.cfg, &m->cfg, sizeof key.cfg);
    key.params = m->params.base, key.acts = a->mem.base, key.kv = kv->mem.base;
    key.adapter = n.adapter ? n.adapter->params.base : NULL;
    key.n_tok = b->n_tok, key.max_page = s->max_page, key.causal = s->causal, key.dtype = (int)m->dtype;
    key.reach = (longest + DECODE_STEP - 1) / DECODE_STEP;
    const HostArray array[] = {{b->tok, b->n_tok},
                               {b->pos, b->n_tok},
                               {b->kv_row, b->n_tok},
                               {b->row, b->n_row},
                               {s->q_off, s->n_seq + 1},
                               {s->kv_len, s->n_seq},
                               {s->kv_page, (int64_t)s->n_seq * s->max_page}};
    return backend_replay_begin(m->be, &key, sizeof key, array, COUNT_OF(array));
}

static void forward(Net n, Acts *a, const Batch *b, KvCache *kv) {
    Model *m = n.trunk;
    Backend *be = m->be;
    const BackendOps *op = be->op;
    TpWork *tp = a->tp;
    Tensor x = a->block[0].x;
    if (m->part.first) {
        if (tp)
            tp_embed_forward(m, tp, x, b);
        else
            op->embed_fwd(be, x, m->w.wte, b->tok, false);
        if (m->cfg.pos == POS_LEARNED && x.rows > 0)
            op->embed_fwd(be, x, m->w.wpe, b->pos + tp_before(tp, false), true);
    }
    for (int l = 0; l < m->cfg.n_layer; l++) block_forward(n, l, &a->block[l], block_output(a, l), b, kv);
    if (!m->part.last || b->n_row == 0) return;
    norm_forward(m, tp, true, a->h, a->mean, a->rstd, a->x_row, m->w.norm, m->w.norm_b, "head.input");
    if (a->keep != KEEP_NONE) op->zero(be, a->dh);
}

void net_forward(Net n, Acts *a, const Batch *b, KvCache *kv) {
    Model *m = n.trunk;
    b = acts_own(a, b);
    check_batch(m, a, b, kv);
    if (m->mapped) mapped_pass(m);
    acts_resize(a, b);
    if (replay_decode(n, a, b, kv)) return;
    forward(n, a, b, kv);
    if (!backend_replay_end(m->be)) forward(n, a, b, kv);
}

static void tell_final(const Model *m, int turn) {
    if (m->listen.fn) m->listen.fn(m->listen.ud, m, turn);
}

void net_backward(Net n, Acts *a, const Batch *b) {
    Model *m = n.trunk;
    Backend *be = m->be;
    const BackendOps *op = be->op;
    CHECK(a->keep != KEEP_NONE, "backward of a pass that kept nothing");
    b = acts_own(a, b);
    CHECK(a->n_tok == b->n_tok && a->n_row == b->n_row && b->n_row > 0, "backward of another batch than forward");

    TpWork *tp = a->tp;
    if (tp) { /* which another pass has used since */
        tp_cut(tp, b);
        tp_grads_begin(m, tp);
    }
    if (m->part.last) {
        Tensor dh = head_divided(n) ? tp_sum(tp, true, a->dh, "head.backward")
                                    : tensor_rows(a->dh, tp_before(tp, true), a->x_row.rows);
        if (!tensor_empty(a->dx_row)) op->zero(be, a->dx_row);
        norm_backward(m, a->dx_row, tp_grad(tp, &m->dw.norm), tp_grad(tp, &m->dw.norm_b), dh, a->x_row, m->w.norm,
                      a->mean, a->rstd);
    }
    for (int l = m->cfg.n_layer - 1; l >= 0; l--) {
        if (a->keep == KEEP_INPUTS) block_forward(n, l, &a->block[l], (Tensor){0}, b, NULL);
        if (a->normed_again) block_again(m, l, &a->block[l], a->again);
        if (a->max_all > 0 && a->keep == KEEP_ALL) block_keys(m, &a->block[l]);
        block_backward(n, l, &a->block[l], &a->grad, a->dx, a->dx_row, b);
        tell_final(m, m->cfg.n_layer - 1 - l);
    }
    if (tp) tp_grads_end(m, tp);
    if (m->part.first && !tensor_empty(m->dw.wte)) {
        if (tp) {
            tp_embed_backward(m, tp, a->dx, b);
        } else {
            op->embed_bwd(be, m->dw.wte, a->dx, b->tok);
            if (m->cfg.pos == POS_LEARNED) op->embed_bwd(be, m->dw.wpe, a->dx, b->pos);
        }
    }
    tell_final(m, m->cfg.n_layer);
}

/* -- when gradients are final */

int net_turns(Net n) { return n.trunk->cfg.n_layer + 1; }

typedef struct {
    Net net;
    Tensor dw;
    int turn;
} TurnJob;

static void find_turn(void *ud, int index, const ParamInfo *p) {
    TurnJob *job = ud;
    const Model *m = job->net.trunk;
    (void)index;
    if (p->dw.data != job->dw.data) return;
    bool above = p->layer < 0 && p->dw.data != m->dw.wte.data && p->dw.data != m->dw.wpe.data;
    job->turn = above ? 0 : p->layer < 0 ? m->cfg.n_layer : m->part.layer0 + m->cfg.n_layer - 1 - p->layer;
    if (m->part.tp_n > 1 && !param_divided(p)) job->turn = m->cfg.n_layer; /* tp.c may add the ranks' up at last */
}

int net_turn_of(Net n, Tensor dw) {
    TurnJob job = {n, dw, n.trunk->cfg.n_layer};
    net_visit(n, find_turn, &job);
    CHECK(job.turn >= 0 && job.turn <= n.trunk->cfg.n_layer, "turn %d of %d layers", job.turn, n.trunk->cfg.n_layer);
    return job.turn;
}
