/* nn/params.c — everything that walks over the list of parameters: placing, counting, visiting, copying. */
#include "nn/nn_int.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(PARAM_COUNT < PARAM_head, "params.def has outgrown the numbers of its rows");

void params_walk(const ModelConfig *c, ModelParams *w, ModelParams *dw, SlotVisitor *fn, void *ud) {
    for (int l = 0; l < c->n_layer; l++) {
#define BLOCK_PARAM(field, name, n_row, n_col, when, how, dec, how_used, cut)                                          \
    if (when)                                                                                                          \
        fn(ud, &(ParamSlot){.number = PARAM_##field,                                                                   \
                            .layer = l,                                                                                \
                            .rows = n_row,                                                                             \
                            .cols = n_col,                                                                             \
                            .init = how,                                                                               \
                            .decay = dec,                                                                              \
                            .use = how_used,                                                                           \
                            .split = cut,                                                                              \
                            .suffix = name,                                                                            \
                            .w = w && w->block ? &w->block[l].field : NULL,                                            \
                            .dw = dw && dw->block ? &dw->block[l].field : NULL});
#define MODEL_PARAM(field, name, n_row, n_col, when, how, dec, how_used, cut)
#include "nn/params.def"
#undef BLOCK_PARAM
#undef MODEL_PARAM
    }
#define BLOCK_PARAM(field, name, n_row, n_col, when, how, dec, how_used, cut)
#define MODEL_PARAM(field, name, n_row, n_col, when, how, dec, how_used, cut)                                          \
    if (when)                                                                                                          \
        fn(ud, &(ParamSlot){.number = PARAM_##field,                                                                   \
                            .layer = -1,                                                                               \
                            .rows = n_row,                                                                             \
                            .cols = n_col,                                                                             \
                            .init = how,                                                                               \
                            .decay = dec,                                                                              \
                            .use = how_used,                                                                           \
                            .split = cut,                                                                              \
                            .suffix = name,                                                                            \
                            .w = w ? &w->field : NULL,                                                                 \
                            .dw = dw ? &dw->field : NULL});
#include "nn/params.def"
#undef BLOCK_PARAM
#undef MODEL_PARAM
}

typedef struct {
    const ModelPart *part;
    SlotVisitor *fn;
    void *ud;
} PartWalk;

static void walk_here(void *ud, const ParamSlot *s) {
    const PartWalk *w = ud;
    ParamSlot here = *s;
    bool begins = s->number == PARAM_wte || s->number == PARAM_wpe;
    if (s->layer < 0 && !(begins ? w->part->first : w->part->last)) return;
    if (s->layer >= 0) here.layer += w->part->layer0;
    w->fn(w->ud, &here);
}

void params_walk_part(const ModelConfig *c, const ModelPart *part, ModelParams *w, ModelParams *dw, SlotVisitor *fn,
                      void *ud) {
    params_walk(c, w, dw, walk_here, &(PartWalk){part, fn, ud});
}

/* -- parts ----------------------------------------------------------------------------------------------------------
 */

static void param_shape(const ModelConfig *c, ParamNumber number, int64_t *rows, int64_t *cols) {
    switch ((int)number) {
#define BLOCK_PARAM(field, name, n_row, n_col, when, how, dec, how_used, cut)                                          \
    case PARAM_##field:                                                                                                \
        *rows = n_row, *cols = n_col;                                                                                  \
        break;
#define MODEL_PARAM BLOCK_PARAM
#include "nn/params.def"
#undef BLOCK_PARAM
#undef MODEL_PARAM
    }
}

TensorPlace model_place(const Model *m, const ParamSlot *s) {
    TensorPlace at = {.rows = s->rows, .cols = s->cols};
    param_shape(&m->whole, s->number, &at.rows, &at.cols);
    if (s->split == SPLIT_ROWS) at.row = model_part_begin(&m->part, at.rows);
    if (s->split == SPLIT_COLS) at.col = model_part_begin(&m->part, at.cols);
    return at;
}

TensorPlace head_place(const Model *m, const Head *h) {
    TensorPlace at = {.rows = h->n_out, .cols = m->cfg.d_model};
    if (h->kind == HEAD_LM) at.rows = m->whole.n_vocab, at.row = model_part_begin(&m->part, m->whole.n_vocab);
    return at;
}

static bool divides(const char *what, int n, int tp, Error *err) {
    if (n % tp == 0) return true;
    return error_set(err, ERR_CONFIG, "dist.tp %d does not divide the model's %s %d: use a divisor of it", tp, what, n);
}

bool model_config_part(ModelConfig *out, const ModelConfig *whole, const ModelPart *part, Error *err) {
    int t = part->tp_n;
    CHECK(t >= 1 && part->tp >= 0 && part->tp < t && comm_size(part->tp_group) == t, "share %d of %d in a group of %d",
          part->tp, t, comm_size(part->tp_group));
    *out = *whole;
    if (!divides("n_head", whole->n_head, t, err) || !divides("n_kv_head", whole->n_kv_head, t, err) ||
        !divides("d_ff", whole->d_ff, t, err))
        return false;
    if (whole->n_vocab < t)
        return error_set(err, ERR_CONFIG, "dist.tp %d: a vocabulary of %d is too small to be divided", t,
                         whole->n_vocab);
    out->n_head /= t, out->n_kv_head /= t, out->d_ff /= t;
    out->n_vocab = (int)(model_part_end(part, whole->n_vocab) - model_part_begin(part, whole->n_vocab));
    return true;
}

/* -- placing --------------------------------------------------------------------------------------------------------
 */

typedef struct {
    Arena *arena;
    Backend *be;
    DType dtype;
} PlaceJob;

static void place_one(void *ud, const ParamSlot *s) {
    PlaceJob *job = ud;
    DType dtype = s->use == PARAM_VECTOR ? job->be->real : job->dtype;
    *s->w = tensor_place_weight(job->arena, dtype, s->rows, s->cols, s->use == PARAM_MATRIX && job->be->panels);
}

bool params_open(ModelParams *p, Arena *arena, Backend *be, DType dtype, const ModelConfig *c, const ModelPart *part,
                 const char *what, Error *err) {
    *p = (ModelParams){.block = mem_alloc((size_t)c->n_layer * sizeof *p->block)};
    Arena measure;
    arena_init_measure(&measure, what);
    params_walk_part(c, part, p, NULL, place_one, &(PlaceJob){&measure, be, dtype});
    if (!arena_init(arena, what, be->mem, measure.used, err)) {
        free(p->block);
        *p = (ModelParams){0};
        return error_wrap(err, "%s", what);
    }
    params_walk_part(c, part, p, NULL, place_one, &(PlaceJob){arena, be, dtype});
    return true;
}

void params_release(ModelParams *p, Arena *arena) {
    arena_release(arena);
    free(p->block);
    *p = (ModelParams){0};
}

bool head_params_open(Head *h, Model *m, HeadKind kind, int n_out, bool grads, Error *err) {
    CHECK(n_out > 0, "a head of %d outputs", n_out);
    *h = (Head){.kind = kind, .n_out = n_out, .tied = kind == HEAD_LM && m->cfg.tied};
    if (!m->part.last) return true;
    h->copy = h->tied && !m->part.first;
    if (h->tied && !h->copy) {
        h->w = m->w.wte;
        if (grads) h->dw = m->dw.wte;
        return true;
    }
    Backend *be = m->be;
    Arena measure, measure_grads;
    arena_init_measure(&measure, "head");
    arena_init_measure(&measure_grads, "head gradient");
    tensor_place_weight(&measure, m->dtype, n_out, m->cfg.d_model, be->panels);
    tensor_place_weight(&measure_grads, be->real, n_out, m->cfg.d_model, be->panels);
    if (!arena_init(&h->params, "head", be->mem, measure.used, err) ||
        (grads && !arena_init(&h->grads, "head gradient", be->mem, measure_grads.used, err))) {
        head_release(h);
        return error_wrap(err, "head of %d outputs", n_out);
    }
    h->w = tensor_place_weight(&h->params, m->dtype, n_out, m->cfg.d_model, be->panels);
    if (grads) {
        h->dw = tensor_place_weight(&h->grads, be->real, n_out, m->cfg.d_model, be->panels);
        be->op->zero(be, h->dw);
    }
    return true;
}

void head_release(Head *h) {
    arena_release(&h->params);
    arena_release(&h->grads);
    *h = (Head){0};
}

void model_release(Model *m) {
    mapped_close(m);
    params_release(&m->w, &m->params);
    params_release(&m->dw, &m->grads);
    free(m->freq);
    str_release(&m->note);
    *m = (Model){0};
}

/* -- counting -------------------------------------------------------------------------------------------------------
 */

static void count_all(void *ud, const ParamSlot *s) { *(int64_t *)ud += s->rows * s->cols; }

static void count_matmul(void *ud, const ParamSlot *s) {
    if (s->layer >= 0 && s->use == PARAM_MATRIX) *(int64_t *)ud += s->rows * s->cols;
}

int64_t model_config_params(const ModelConfig *c) {
    int64_t n = c->tied ? 0 : (int64_t)c->n_vocab * c->d_model;
    params_walk(c, NULL, NULL, count_all, &n);
    return n;
}

int64_t model_config_matmul_params(const ModelConfig *c) {
    int64_t n = (int64_t)c->n_vocab * c->d_model; /* the LM head multiplies, tied or not; looking up wte does not */
    params_walk(c, NULL, NULL, count_matmul, &n);
    return n;
}

/* -- visiting -------------------------------------------------------------------------------------------------------
 */

typedef struct {
    const Model *m;
    ParamVisitor *fn;
    void *ud;
    int n;
} VisitJob;

enum {
    ORDERS = 64,
    ORDER_MODEL = MODEL_MAX_LAYER * ORDERS,
    ORDER_ADAPTER = ORDER_MODEL + ORDERS
}; /* ParamInfo.order */

int64_t param_order(int layer, ParamNumber number) { return (layer < 0 ? ORDER_MODEL : layer * ORDERS) + (int)number; }

static void tell(VisitJob *job, ParamInfo info, TensorPlace at) {
    info.rows = at.rows, info.cols = at.cols, info.row = at.row, info.col = at.col;
    if (job->fn) job->fn(job->ud, job->n, &info);
    job->n++;
}

static void visit_one(void *ud, const ParamSlot *s) {
    VisitJob *job = ud;
    char name[PARAM_NAME_MAX];
    family_param_name(name, job->m->cfg.family, s);
    ParamInfo info = {.name = name, .layer = s->layer, .decay = s->decay, .init = s->init, .w = *s->w};
    info.order = param_order(s->layer, s->number);
    if (s->dw) info.dw = *s->dw;
    tell(job, info, model_place(job->m, s));
}

static void visit_adapter(void *ud, const LoraPart *p) {
    VisitJob *job = ud;
    char name[PARAM_NAME_MAX];
    static const char *const part[] = {".q", ".k", ".v"};
    lora_tensor_name(name, p);
    if (p->n_part > 1) strcat(name, part[p->part]);
    ParamInfo info = {.name = name, .layer = p->layer, .decay = true, .init = INIT_NORMAL, .w = p->w, .dw = p->dw};
    info.order = ORDER_ADAPTER + job->n;
    tell(job, info, (TensorPlace){.rows = p->w.rows, .cols = p->w.cols});
}

static void visit_head(VisitJob *job, const Head *h) {
    char name[PARAM_NAME_MAX];
    family_head_name(name, h->kind);
    ParamInfo info = {.name = name, .layer = -1, .decay = true, .init = INIT_NORMAL};
    info.order = param_order(-1, PARAM_head);
    info.w = h->w, info.dw = h->dw;
    tell(job, info, head_place(job->m, h));
}

int net_visit(Net n, ParamVisitor *fn, void *ud) {
    Model *m = n.trunk;
    VisitJob job = {m, fn, ud, 0};
    params_walk_part(&m->cfg, &m->part, &m->w, &m->dw, visit_one, &job);
    if (n.head && !n.head->tied && !tensor_empty(n.head->w)) visit_head(&job, n.head);
    if (n.adapter) lora_visit(n.adapter, visit_adapter, &job);
    return job.n;
}

int net_visit_own(Net n, ParamVisitor *fn, void *ud) {
    if (!n.adapter) return net_visit(n, fn, ud);
    VisitJob job = {n.trunk, fn, ud, 0};
    if (n.head && n.head->kind == HEAD_SCORE) visit_head(&job, n.head);
    lora_visit(n.adapter, visit_adapter, &job);
    return job.n;
}

static void find_grad(void *ud, int index, const ParamInfo *p) {
    (void)index;
    *(bool *)ud |= !tensor_empty(p->dw);
}

bool net_trains(Net n) {
    bool found = false;
    net_visit(n, find_grad, &found);
    return found;
}

static void zero_grad(void *ud, int index, const ParamInfo *p) {
    Backend *be = ud;
    (void)index;
    if (!tensor_empty(p->dw)) be->op->zero(be, p->dw);
}

void net_zero_grads(Net n) {
    Backend *be = n.trunk->be;
    net_visit(n, zero_grad, be);
    if (n.head && n.head->copy && !tensor_empty(n.head->dw)) be->op->zero(be, n.head->dw);
}

/* -- copying --------------------------------------------------------------------------------------------------------
 */

static void copy_tensor(Backend *to_be, Tensor to, Backend *from_be, Tensor from) {
    if (to.dtype == from.dtype && to.panels == from.panels) {
        to_be->op->copy(to_be, to, from);
        return;
    }
    double *host = mem_alloc((size_t)tensor_count(from) * sizeof *host);
    tensor_get(from_be, host, from);
    tensor_set(to_be, to, host);
    free(host);
}

/* What is here of the model that part is of, out of the whole's tensor. */
static void copy_share(const Model *to, Tensor w, const Model *from, Tensor x, Split cut) {
    const ModelPart *part = &to->part;
    if (part->tp_n == from->part.tp_n || cut == SPLIT_NONE) {
        copy_tensor(to->be, w, from->be, x);
        return;
    }
    int64_t row = cut == SPLIT_ROWS ? model_part_begin(part, x.rows) : 0;
    int64_t col = cut == SPLIT_COLS ? model_part_begin(part, x.cols) : 0;
    double *host = mem_alloc((size_t)tensor_count(x) * sizeof *host);
    tensor_get(from->be, host, x);
    for (int64_t i = 0; i < w.rows; i++)
        memmove(host + i * w.cols, host + (row + i) * x.cols + col, (size_t)w.cols * sizeof *host);
    tensor_set(to->be, w, host);
    free(host);
}

static void copy_block_params(Model *to, Model *from, int layer) {
    int first = to->part.layer0 - from->part.layer0;
#define BLOCK_PARAM(field, name, n_row, n_col, when, how, dec, how_used, cut)                                          \
    if (when) copy_share(to, to->w.block[layer].field, from, from->w.block[layer + first].field, cut);
#define MODEL_PARAM(field, name, n_row, n_col, when, how, dec, how_used, cut)
    const ModelConfig *c = &to->cfg;
#include "nn/params.def"
#undef BLOCK_PARAM
#undef MODEL_PARAM
}

static void copy_model_params(Model *to, Model *from) {
#define BLOCK_PARAM(field, name, n_row, n_col, when, how, dec, how_used, cut)
#define MODEL_PARAM(field, name, n_row, n_col, when, how, dec, how_used, cut)                                          \
    if (when && !tensor_empty(to->w.field)) copy_share(to, to->w.field, from, from->w.field, cut);
    const ModelConfig *c = &to->cfg;
#include "nn/params.def"
#undef BLOCK_PARAM
#undef MODEL_PARAM
}

static bool same_trunk(const ModelConfig *a, const ModelConfig *b, Error *err) {
#define SAME(field)                                                                                                    \
    if (a->field != b->field)                                                                                          \
    return error_set(err, ERR_CONFIG, "cannot copy weights: the models differ in '" #field "' (%g and %g)",            \
                     (double)a->field, (double)b->field)
    SAME(n_head);
    SAME(n_kv_head);
    SAME(d_model);
    SAME(d_head);
    SAME(d_ff);
    SAME(n_vocab);
    SAME(norm);
    SAME(pos);
    SAME(mlp);
    SAME(gelu);
    SAME(qkv_bias);
    SAME(out_bias);
    SAME(mlp_bias);
    SAME(norm_eps);
    if (a->pos == POS_LEARNED) SAME(max_seq);
    if (a->pos == POS_ROPE) SAME(rope_theta);
    SAME(qk_norm);
    SAME(rope.kind);
    SAME(rope.factor);
#undef SAME
    if (a->n_layer > b->n_layer)
        return error_set(err, ERR_CONFIG, "cannot copy weights: %d layers wanted, %d there", a->n_layer, b->n_layer);
    return true;
}

static bool copy_adapter(Net to, Net from, Error *err) {
    const Adapter *a = to.adapter, *b = from.adapter;
    if (!a && !b) return true;
    if (!a || !b) return error_set(err, ERR_CONFIG, "cannot copy weights: only one of the nets has an adapter");
    bool same = a->cfg.r == b->cfg.r && a->scale == b->scale && a->model.n_layer == b->model.n_layer;
    size_t n = (size_t)a->model.n_layer * PARAM_COUNT;
    for (size_t i = 0; i < n && same; i++) same = tensor_same_shape(a->pair[i].b, b->pair[i].b);
    if (!same) return error_set(err, ERR_CONFIG, "cannot copy weights: the adapters differ in rank, scale or matrices");
    for (size_t i = 0; i < n; i++) {
        if (tensor_empty(a->pair[i].b)) continue;
        copy_tensor(to.trunk->be, a->pair[i].a, from.trunk->be, b->pair[i].a);
        copy_tensor(to.trunk->be, a->pair[i].b, from.trunk->be, b->pair[i].b);
    }
    return true;
}

bool net_copy_weights(Net to, Net from, Error *err) {
    model_pack(to.trunk);
    if (!same_trunk(&to.trunk->whole, &from.trunk->whole, err)) return false;
    CHECK(!model_is_stage(from.trunk) ||
              (to.trunk->part.layer0 == from.trunk->part.layer0 && to.trunk->cfg.n_layer == from.trunk->cfg.n_layer),
          "weights copied from a part of a model into another part");
    const ModelPart *a = &to.trunk->part, *b = &from.trunk->part;
    CHECK(b->tp_n == 1 || (a->tp == b->tp && a->tp_n == b->tp_n), "share %d of %d is no copy of share %d of %d", a->tp,
          a->tp_n, b->tp, b->tp_n);
    bool heads = to.head && from.head && to.head != from.head;
    bool divided = heads && to.head->kind == HEAD_LM; /* its outputs are the vocabulary, which is the same */
    if (heads && (to.head->kind != from.head->kind || (!divided && to.head->n_out != from.head->n_out)))
        return error_set(err, ERR_CONFIG, "cannot copy weights: the heads differ (%d and %d outputs)", to.head->n_out,
                         from.head->n_out);
    if (heads && to.head->tied && !from.head->tied)
        return error_set(err, ERR_CONFIG, "cannot copy weights: an untied head into a tied one");
    if (!copy_adapter(to, from, err)) return false;
    if (to.trunk != from.trunk) {
        for (int l = 0; l < to.trunk->cfg.n_layer; l++) copy_block_params(to.trunk, from.trunk, l);
        copy_model_params(to.trunk, from.trunk);
    }
    if (heads && (!to.head->tied || to.head->copy) && !tensor_empty(to.head->w))
        copy_share(to.trunk, to.head->w, from.trunk, from.head->w, divided ? SPLIT_ROWS : SPLIT_NONE);
    to.trunk->version++;
    return true;
}
