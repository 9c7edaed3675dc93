/* nn/acts.c — where activations live. A pass always computes the same things; the memory plan decides which of them are
 * still there when the backward comes:
 *
 *      KEEP_ALL      every block has its own set                      backward reads them; where the backend says so,
 *                    but for h1, h2 and act, one shared set           these are computed again from what was kept
 *      KEEP_INPUTS   every block has its own x, one shared set        backward runs block_forward again, then reads
 *      KEEP_NONE     one x for all, one shared set, tightly aliased   no backward
 *
 * acts_place runs twice, on a measuring arena and on the real one, so acts_bytes is what gets allocated. */
#include "nn/nn_int.h"

#include <stdlib.h>

typedef struct { /* of statistics and the residual stream; of what products read; of what attention reads and writes */
    DType real, dtype, attn;
} Types;

static Types types_of(const Model *m) { return (Types){m->be->real, m->dtype, model_attn_dtype(m)}; }

/* What one pass over kept values brings back: own, or the first block's. */
static void place_normed(BlockActs *a, Arena *mem, const Acts *acts, Types t, int64_t n_mlp) {
    a->h1 = tensor_place(mem, t.dtype, acts->max_tok, acts->cfg.d_model);
    a->h2 = acts->keep == KEEP_NONE ? a->h1 : tensor_place(mem, t.dtype, n_mlp, acts->cfg.d_model);
}

static void place_act(BlockActs *a, Arena *mem, const Acts *acts, Types t, int64_t n_mlp) {
    if (acts->keep != KEEP_NONE) a->act = tensor_place(mem, t.dtype, n_mlp, acts->cfg.d_ff);
}

/* n rows as far as attention, n_mlp from there on; of the residual stream those that the rank has: */
static void place_inner(BlockActs *a, Arena *mem, const Acts *acts, Types t, int64_t n_mlp, int64_t own_mlp) {
    const ModelConfig *c = &acts->cfg;
    int64_t n = acts->max_tok, own = acts->own_tok;
    Keep keep = acts->keep;
    int64_t n_q = (int64_t)c->n_head * c->d_head, n_kv = (int64_t)c->n_kv_head * c->d_head;
    bool mean = c->norm == NORM_LAYER, lean = keep == KEEP_NONE;
    DType real = t.real, dtype = t.dtype;
    if (mean) a->mean1 = tensor_place(mem, real, own, 1);
    a->rstd1 = tensor_place(mem, real, own, 1);
    if (c->qk_norm) {
        a->q_raw = tensor_place(mem, real, n, n_q);
        a->k_raw = tensor_place(mem, real, n, n_kv);
        a->q_rstd = tensor_place(mem, real, n * c->n_head, 1);
        a->k_rstd = tensor_place(mem, real, n * c->n_kv_head, 1);
    }
    a->q = tensor_place(mem, t.attn, n, n_q);
    a->k = tensor_place(mem, t.attn, n, n_kv);
    a->v = tensor_place(mem, t.attn, n, n_kv);
    a->o = tensor_place(mem, t.attn, n, n_q);
    if (dtype != t.attn) a->o_in = tensor_place(mem, dtype, n_mlp, n_q);
    a->lse = tensor_place(mem, real, n, c->n_head);
    a->x_mid = lean ? a->x : tensor_place(mem, real, own_mlp, c->d_model);
    if (mean) a->mean2 = lean ? a->mean1 : tensor_place(mem, real, own_mlp, 1);
    a->rstd2 = lean ? a->rstd1 : tensor_place(mem, real, own_mlp, 1);
    if (c->mlp == MLP_SWIGLU) a->gate = tensor_place(mem, dtype, n_mlp, c->d_ff);
    a->up = tensor_place(mem, dtype, n_mlp, c->d_ff);
    if (lean) a->act = a->up;
}

static void place_grads(Acts *a, Arena *mem, Types t) {
    const ModelConfig *c = &a->cfg;
    int64_t n = a->max_tok, n_q = (int64_t)c->n_head * c->d_head, n_kv = (int64_t)c->n_kv_head * c->d_head;
    DType real = t.real, dtype = t.dtype;
    if (a->last) a->dx_row = tensor_place(mem, real, a->own_row, c->d_model);
    a->dx = tensor_place(mem, real, a->own_tok, c->d_model);
    a->grad.dh = tensor_place(mem, real, n, c->d_model);
    a->grad.dq = tensor_place(mem, t.attn, n, n_q);
    a->grad.dk = tensor_place(mem, t.attn, n, n_kv);
    a->grad.dv = tensor_place(mem, t.attn, n, n_kv);
    a->grad.d_o = tensor_place(mem, t.attn, n, n_q);
    a->grad.dact = tensor_place(mem, dtype, n, c->d_ff);
    if (dtype != real) a->grad.dx_in = tensor_place(mem, dtype, n, c->d_model);
    if (c->mlp == MLP_SWIGLU) a->grad.dgate = tensor_place(mem, dtype, n, c->d_ff);
}

static void acts_place(Acts *a, Arena *mem, const Model *m) {
    Types t = types_of(m);
    const ModelConfig *c = &a->cfg;
    DType real = t.real, dtype = t.dtype;
    BlockActs shared = a->lender ? a->lender->block[0] : (BlockActs){0};
    bool lent = a->lender != NULL;
    int64_t most = a->max_tok > a->max_row ? a->max_tok : a->max_row; /* a row may be chosen twice */
    if (a->last) a->x_row = tensor_place(mem, real, a->own_row, c->d_model);
    if (!a->last) a->x_out = lent ? a->lender->x_out : tensor_place(mem, real, a->own_tok, c->d_model);
    for (int l = 0; l < c->n_layer; l++) {
        BlockActs *b = &a->block[l];
        bool own_x = l == 0 || a->keep != KEEP_NONE, own_rest = (l == 0 && !lent) || a->keep == KEEP_ALL;
        bool last = a->last && l + 1 == c->n_layer;
        Tensor x = own_x ? tensor_place(mem, real, a->own_tok, c->d_model) : shared.x;
        *b = shared;
        b->x = x;
        int64_t n_mlp = last ? a->max_row : a->max_tok;
        bool begins = l == 0 && !lent;
        if (own_rest && (begins || !a->normed_again)) place_normed(b, mem, a, t, a->normed_again ? most : n_mlp);
        if (own_rest && (begins || !a->again)) place_act(b, mem, a, t, a->again ? most : n_mlp);
        if (own_rest) place_inner(b, mem, a, t, n_mlp, last ? a->own_row : a->own_tok);
        if (l == 0 && !lent) shared = *b;
        if (last) b->o_row = tensor_place(mem, t.attn, a->max_row, (int64_t)c->n_head * c->d_head);
        if (last && a->keep == KEEP_NONE) b->x_mid = a->x_row;
    }
    if (a->last && c->norm == NORM_LAYER) a->mean = tensor_place(mem, real, a->own_row, 1);
    if (a->last) a->rstd = tensor_place(mem, real, a->own_row, 1);
    if (a->last) a->h = tensor_place(mem, dtype, a->max_row, c->d_model);
    if (m->part.tp_n > 1 && !lent) tp_place(&a->tp_work, mem, m, most, a->keep != KEEP_NONE);
    if (a->keep == KEEP_NONE) return;
    if (a->max_all > 0 && !lent) cp_place(&a->cp, mem, m, t.attn, a->max_all);
    if (a->last) a->dh = tensor_place(mem, real, a->max_row, c->d_model);
    if (lent)
        a->dx_row = a->lender->dx_row, a->dx = a->lender->dx, a->grad = a->lender->grad;
    else
        place_grads(a, mem, t);
}

static void acts_shape(Acts *a, const Model *m, int n_tok, int n_row, Keep keep) {
    const ModelConfig *c = &m->cfg;
    CHECK(n_tok > 0 && n_row >= 0, "room for %d tokens and %d chosen rows", n_tok, n_row);
    bool divides = m->part.cp_n > 1 && keep != KEEP_NONE;
    int own = divides ? cut_rows(n_tok, m->part.cp_n) : n_tok, most_row = divides && n_row > own ? own : n_row;
    *a = (Acts){.cfg = *c, .keep = keep, .max_tok = own, .max_row = most_row > 0 ? most_row : 1};
    if (divides) a->max_all = n_tok;
    a->first = m->part.first, a->last = m->part.last;
    a->again = keep == KEEP_ALL && m->be->recompute_cheap;
    a->normed_again = a->again || (keep == KEEP_ALL && m->part.tp_n > 1);
    a->own_tok = a->max_tok, a->own_row = a->max_row;
    if (m->part.tp_n > 1) a->own_tok = rowshare_most(a->max_tok, m->part.tp_n);
    if (m->part.tp_n > 1 && a->max_row > a->own_tok) a->own_row = a->own_tok;
    a->block = mem_alloc((size_t)c->n_layer * sizeof *a->block);
}

size_t acts_bytes(const Model *m, int n_tok, int n_row, Keep keep) {
    Acts a;
    Arena measure;
    acts_shape(&a, m, n_tok, n_row, keep);
    arena_init_measure(&measure, "activations");
    acts_place(&a, &measure, m);
    free(a.block);
    return measure.used;
}

static bool open_acts(Acts **out, const Model *m, int n_tok, int n_row, Keep keep, Acts *lender, Error *err) {
    *out = NULL;
    Acts *a = mem_alloc(sizeof *a);
    Arena measure;
    acts_shape(a, m, n_tok, n_row, keep);
    a->be = m->be, a->part = &m->part, a->lender = lender;
    arena_init_measure(&measure, "activations");
    acts_place(a, &measure, m);
    if (!arena_init(&a->mem, "activations", m->be->mem, measure.used, err)) {
        error_wrap(err, "activations of %d tokens", n_tok);
        acts_close(a);
        return false;
    }
    acts_place(a, &a->mem, m);
    a->attn = model_attn_dtype(m);
    if (m->part.tp_n > 1) a->tp = lender ? lender->tp : &a->tp_work;
    if (a->tp && !lender) tp_open(a->tp, m);
    if (a->max_all > 0 && !lender) cp_open(&a->cp, m);
    for (int l = 0; l < m->cfg.n_layer; l++) {
        a->block[l].seen = &a->seen, a->block[l].tp = a->tp;
        a->block[l].rows = a->max_all > 0 ? a : NULL;
    }
    *out = a;
    return true;
}

bool acts_open(Acts **out, const Model *m, int n_tok, int n_row, Keep keep, Error *err) {
    return open_acts(out, m, n_tok, n_row, keep, NULL, err);
}

bool acts_open_beside(Acts **out, const Model *m, Acts *first, Error *err) {
    CHECK(first->keep != KEEP_NONE && !first->lender, "a pass beside one that has no backward, or borrows itself");
    int n_tok = first->max_all > 0 ? first->max_all : first->max_tok;
    return open_acts(out, m, n_tok, first->max_row, first->keep, first, err);
}

static void place_seen(const Acts *a, SeenActs *s, Arena *mem, int64_t n) {
    const ModelConfig *c = &a->cfg;
    int64_t n_q = (int64_t)c->n_head * c->d_head, n_kv = (int64_t)c->n_kv_head * c->d_head;
    struct {
        Tensor *t;
        int64_t cols;
    } all[] = {{&s->q, n_q},  {&s->k, n_kv},  {&s->v, n_kv},  {&s->o, n_q},  {&s->lse, c->n_head},
               {&s->dq, n_q}, {&s->dk, n_kv}, {&s->dv, n_kv}, {&s->d_o, n_q}};
    int used = a->keep == KEEP_NONE ? 5 : COUNT_OF(all);
    for (int i = 0; i < used; i++)
        *all[i].t = tensor_place(mem, all[i].t == &s->lse ? a->be->real : a->attn, n, all[i].cols);
}

bool acts_share(Acts *a, int n_seen, Error *err) {
    if (n_seen <= a->max_seen) return true;
    Arena measure;
    arena_release(&a->seen_mem);
    a->seen_mem = (Arena){0};
    a->max_seen = 0;
    arena_init_measure(&measure, "rows seen by attention");
    place_seen(a, &a->seen, &measure, n_seen);
    if (!arena_init(&a->seen_mem, "rows seen by attention", a->be->mem, measure.used, err)) return false;
    place_seen(a, &a->seen, &a->seen_mem, n_seen);
    a->max_seen = n_seen;
    return true;
}

void acts_close(Acts *a) {
    if (!a) return;
    arena_release(&a->mem);
    arena_release(&a->seen_mem);
    tp_close(&a->tp_work);
    cp_close(&a->cp, a->be);
    cut_release(&a->cut);
    free(a->block);
    free(a);
}

/* Every tensor shrinks to the pass's rows, all or this rank's; capacity is max_tok and max_row. */
void acts_resize(Acts *a, const Batch *b) {
    int n_tok = b->n_tok, n_row = b->n_row;
    CHECK(n_tok > 0 && n_tok <= a->max_tok, "%d tokens in activations for %d", n_tok, a->max_tok);
    CHECK(n_row >= 0 && (n_row <= a->max_row || !a->last), "%d chosen rows in activations for %d", n_row, a->max_row);
    a->n_tok = n_tok, a->n_row = n_row;
    if (a->tp) tp_cut(a->tp, b);
    int64_t own_tok = tp_own(a->tp, false, n_tok), own_row = tp_own(a->tp, true, n_row);
    for (int l = 0; l < a->cfg.n_layer; l++) {
        BlockActs *x = &a->block[l];
        bool last = a->last && l + 1 == a->cfg.n_layer;
        Tensor *first[] = {&x->h1, &x->q, &x->k, &x->v, &x->o, &x->lse}, *first_own[] = {&x->x, &x->mean1, &x->rstd1};
        Tensor *second[] = {&x->o_in, &x->h2, &x->gate, &x->up, &x->act},
               *second_own[] = {&x->x_mid, &x->mean2, &x->rstd2};
        for (int i = 0; i < COUNT_OF(first); i++) first[i]->rows = n_tok;
        for (int i = 0; i < COUNT_OF(first_own); i++) first_own[i]->rows = own_tok;
        for (int i = 0; i < COUNT_OF(second); i++) second[i]->rows = last ? n_row : n_tok;
        for (int i = 0; i < COUNT_OF(second_own); i++) second_own[i]->rows = last ? own_row : own_tok;
        x->o_row.rows = n_row;
        x->q_raw.rows = x->k_raw.rows = n_tok;
        x->q_rstd.rows = (int64_t)n_tok * a->cfg.n_head, x->k_rstd.rows = (int64_t)n_tok * a->cfg.n_kv_head;
    }
    BlockGrads *g = &a->grad;
    Tensor *by_tok[] = {&g->dh, &g->dq, &g->dk, &g->dv, &g->d_o, &g->dact, &g->dgate, &g->dx_in};
    Tensor *by_own_row[] = {&a->x_row, &a->mean, &a->rstd, &a->dx_row};
    for (int i = 0; i < COUNT_OF(by_tok); i++) by_tok[i]->rows = n_tok;
    for (int i = 0; i < COUNT_OF(by_own_row); i++) by_own_row[i]->rows = own_row;
    a->x_out.rows = a->dx.rows = own_tok;
    a->h.rows = a->dh.rows = n_row;
    SeenActs *s = &a->seen;
    Tensor *by_seen[] = {&s->q, &s->k, &s->v, &s->o, &s->lse, &s->dq, &s->dk, &s->dv, &s->d_o};
    for (int i = 0; b->seen && i < COUNT_OF(by_seen); i++) by_seen[i]->rows = b->n_seen;
}

const Batch *acts_own(Acts *a, const Batch *b) {
    if (a->max_all == 0) return b;
    CHECK(b->n_tok <= a->max_all, "%d tokens in activations for %d", b->n_tok, a->max_all);
    cut_batch(&a->cut, b, a->part->cp, a->part->cp_n);
    return &a->cut.mine;
}

const Cut *acts_cut(const Acts *a) { return a->max_all > 0 ? &a->cut.cut : NULL; }

/* Room for keys of all ranks, of this pass or of the one it borrows from. */
CpWork acts_keys(const Acts *a) {
    CpWork w = a->lender ? a->lender->cp : a->cp;
    Tensor *all[] = {&w.k, &w.v, &w.dk, &w.dv};
    for (int i = 0; i < COUNT_OF(all); i++) all[i]->rows = a->cut.cut.n_all;
    return w;
}

Tensor acts_hidden(const Acts *a) { return a->h; }

/* Of a pass of n_tok tokens, which need not have begun. */
static Tensor own_rows(const Acts *a, Tensor t, int n_tok) {
    CHECK(n_tok <= a->max_tok, "%d tokens of room for %d go through a part of a model", n_tok, a->max_tok);
    int size = a->tp ? comm_size(a->tp->room.c) : 1, me = a->tp ? comm_rank(a->tp->room.c) : 0;
    t.rows = rowshare_begin(n_tok, me + 1, size) - rowshare_begin(n_tok, me, size);
    return t;
}

Tensor acts_input(Acts *a, int n_tok) {
    CHECK(!a->first, "the first part of a model begins with tokens");
    return own_rows(a, a->block[0].x, n_tok);
}

Tensor acts_output(const Acts *a, int n_tok) {
    CHECK(!a->last, "the last part of a model has chosen rows only");
    return own_rows(a, a->x_out, n_tok);
}

Tensor acts_gradient(Acts *a, int n_tok) {
    CHECK(a->keep != KEEP_NONE, "activations opened without room for gradients");
    return own_rows(a, a->dx, n_tok);
}

Tensor acts_dhidden(Acts *a) {
    CHECK(a->keep != KEEP_NONE, "activations opened without room for gradients");
    return a->dh;
}
