/* nn/kv.c — keys and values kept between passes: per layer one matrix of rows, a page being KV_PAGE consecutive rows.
 * Who owns which page is the engine's business. */
#include "nn/nn_int.h"

#include <stdlib.h>

static void kv_place(KvCache *kv, Arena *mem, const ModelConfig *c, DType real) {
    int64_t rows = (int64_t)kv->n_page * KV_PAGE, cols = (int64_t)c->n_kv_head * c->d_head;
    for (int l = 0; l < kv->n_layer; l++) {
        kv->k[l] = tensor_place(mem, real, rows, cols);
        kv->v[l] = tensor_place(mem, real, rows, cols);
    }
}

bool kv_open(KvCache *kv, const Model *m, int n_page, Error *err) {
    CHECK(n_page > 0, "a cache of %d pages", n_page);
    *kv = (KvCache){.n_page = n_page, .n_layer = m->cfg.n_layer};
    kv->k = mem_alloc((size_t)kv->n_layer * sizeof *kv->k);
    kv->v = mem_alloc((size_t)kv->n_layer * sizeof *kv->v);
    Arena measure;
    arena_init_measure(&measure, "keys and values");
    kv_place(kv, &measure, &m->cfg, m->be->real);
    if (!arena_init(&kv->mem, "keys and values", m->be->mem, measure.used, err)) {
        error_wrap(err, "keys and values, %d pages of %d positions", n_page, KV_PAGE);
        kv_release(kv);
        return false;
    }
    kv_place(kv, &kv->mem, &m->cfg, m->be->real);
    return true;
}

void kv_release(KvCache *kv) {
    arena_release(&kv->mem);
    free(kv->k);
    free(kv->v);
    *kv = (KvCache){0};
}

size_t kv_page_bytes(const ModelConfig *c, DType real) {
    return (size_t)c->n_layer * 2 * KV_PAGE * (size_t)c->n_kv_head * (size_t)c->d_head * dtype_bytes(real);
}
