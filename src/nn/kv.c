/* nn/kv.c — keys and values kept between passes. A page is KV_PAGE positions; all layers' keys and values of a page lie
 * together, so memory that no page was ever written to is never touched:
 *
 *      | page 0: k of layer 0, v of layer 0, k of layer 1, v .. | page 1: .. |        KV_PAGE rows each
 *
 * Every layer sees this as a matrix of its own that begins at its first rows. Who owns which page is the engine's
 * business. */
#include "nn/nn_int.h"

#include <stdlib.h>

static void kv_place(KvCache *kv, Arena *mem, const ModelConfig *c, DType dtype) {
    int64_t rows = (int64_t)kv->n_page * kv->page_rows, cols = (int64_t)c->n_kv_head * c->d_head;
    Tensor all = tensor_place(mem, dtype, rows, cols);
    for (int l = 0; l < kv->n_layer; l++) {
        int64_t first = 2 * (int64_t)l * KV_PAGE, last = kv->page_rows - first - KV_PAGE;
        kv->k[l] = tensor_rows(all, first, rows - first - last);
        kv->v[l] = tensor_rows(all, first + KV_PAGE, rows - first - last);
    }
}

bool kv_open(KvCache *kv, const Model *m, int n_page, Error *err) {
    CHECK(n_page > 0, "a cache of %d pages", n_page);
    *kv = (KvCache){.n_page = n_page, .n_layer = m->cfg.n_layer, .page_rows = 2 * m->cfg.n_layer * KV_PAGE};
    CHECK(n_page <= INT32_MAX / kv->page_rows, "%d pages of %d rows", n_page, kv->page_rows);
    kv->k = mem_alloc((size_t)kv->n_layer * sizeof *kv->k);
    kv->v = mem_alloc((size_t)kv->n_layer * sizeof *kv->v);
    Arena measure;
    arena_init_measure(&measure, "keys and values");
    kv_place(kv, &measure, &m->cfg, model_attn_dtype(m));
    if (!arena_init(&kv->mem, "keys and values", m->be->mem, measure.used, err)) {
        error_wrap(err, "keys and values, %d pages of %d positions", n_page, KV_PAGE);
        kv_release(kv);
        return false;
    }
    kv_place(kv, &kv->mem, &m->cfg, model_attn_dtype(m));
    return true;
}

void kv_release(KvCache *kv) {
    arena_release(&kv->mem);
    free(kv->k);
    free(kv->v);
    *kv = (KvCache){0};
}

size_t kv_page_bytes(const Model *m) {
    const ModelConfig *c = &m->cfg;
    DType dtype = model_attn_dtype(m);
    return (size_t)c->n_layer * 2 * KV_PAGE * (size_t)c->n_kv_head * (size_t)c->d_head * dtype_bytes(dtype);
}
