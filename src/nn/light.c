#include "nn/light.h"

#include "nn/nn_int.h"

#include <stdlib.h>

typedef struct {
    LightNet *l;
    Arena *mem; /* NULL: round what was placed */
} LightJob;

/* The scale of a block's matrix stands where the matrix does, in a struct of its own. */
static Tensor *scale_of(LightNet *l, const ParamSlot *s) {
    const char *block = (const char *)&l->trunk.w.block[s->layer];
    size_t at = (size_t)((const char *)s->w - block);
    return (Tensor *)(void *)((char *)&l->trunk.scale[s->layer] + at);
}

static void place_matrix(LightNet *l, Arena *mem, Tensor *w, Tensor *scale, int64_t rows, int64_t cols) {
    Backend *be = l->trunk.be;
    *w = tensor_place_weight(mem, l->dtype, rows, cols, be->panels);
    if (l->dtype == DTYPE_I8) *scale = tensor_place(mem, be->real, 1, rows);
}

static void round_matrix(LightNet *l, Tensor w, Tensor scale, Tensor from) {
    Backend *be = l->trunk.be;
    if (l->dtype == DTYPE_I8)
        be->op->quantize(be, w, scale, from);
    else
        be->op->cast(be, w, from);
}

/* dw of the walk is the other net's weight. */
static void visit(void *ud, const ParamSlot *s) {
    LightJob *job = ud;
    if (s->use != PARAM_MATRIX || s->layer < 0) return; /* a tied embedding is rounded as the head */
    if (job->mem)
        place_matrix(job->l, job->mem, s->w, scale_of(job->l, s), s->rows, s->cols);
    else
        round_matrix(job->l, *s->w, *scale_of(job->l, s), *s->dw);
}

static void place(LightNet *l, Arena *mem, Net from) {
    params_walk(&from.trunk->cfg, &l->trunk.w, &from.trunk->w, visit, &(LightJob){l, mem});
    place_matrix(l, mem, &l->head.w, &l->head.scale, from.head->w.rows, from.head->w.cols);
}

static void round_all(LightNet *l, Net from) {
    params_walk(&from.trunk->cfg, &l->trunk.w, &from.trunk->w, visit, &(LightJob){l, NULL});
    round_matrix(l, l->head.w, l->head.scale, net_head_weight(from));
    l->version = from.trunk->version;
    l->trunk.version = from.trunk->version;
}

bool light_open(LightNet *l, Net from, DType dtype, Error *err) {
    const Model *m = from.trunk;
    model_pack(from.trunk);
    *l = (LightNet){.trunk = *m, .head = *from.head, .adapter = from.adapter, .dtype = dtype};
    if (dtype != DTYPE_BF16 && dtype != DTYPE_I8)
        return error_set(err, ERR_CONFIG, "generation from %s weights: expected BF16 or I8", dtype_name(dtype));
    if (m->dtype != DTYPE_F32 || !m->be->panels)
        return error_set(err, ERR_CONFIG,
                         "generation from %s weights needs an F32 model of backend cpu, this one is %s",
                         dtype_name(dtype), dtype_name(m->dtype));
    size_t n = (size_t)m->cfg.n_layer;
    l->trunk.params = l->trunk.grads = l->head.params = l->head.grads = (Arena){0};
    l->trunk.dw = (ModelParams){0};
    l->trunk.w.block = mem_alloc(n * sizeof *l->trunk.w.block);
    l->trunk.scale = mem_alloc(n * sizeof *l->trunk.scale);
    for (size_t i = 0; i < n; i++) l->trunk.w.block[i] = m->w.block[i];
    l->head.tied = false;
    l->head.dw = (Tensor){0};
    Arena measure;
    arena_init_measure(&measure, "rounded weights");
    place(l, &measure, from);
    if (!arena_init(&l->mem, "rounded weights", m->be->mem, measure.used, err)) {
        light_release(l);
        return false;
    }
    place(l, &l->mem, from);
    round_all(l, from);
    return true;
}

/* Under an adapter the trunk's version is the adapter's: its own matrices stay. */
void light_update(LightNet *l, Net from) {
    bool frozen = l->adapter && tensor_empty(from.trunk->dw.wte);
    if (l->version == from.trunk->version) return;
    if (!frozen) round_all(l, from);
    l->version = l->trunk.version = from.trunk->version;
}

void light_release(LightNet *l) {
    arena_release(&l->mem);
    free(l->trunk.w.block);
    free(l->trunk.scale);
    *l = (LightNet){0};
}
