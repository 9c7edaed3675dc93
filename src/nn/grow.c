/* nn/grow.c — a model with a larger vocabulary: the rows there were, and new ones near their mean.
 *
 * The mean row is what a model that knows nothing of a token would say of it: as input it means nothing in particular,
 * as output it takes little probability from the others. Noise of a hundredth keeps two new tokens from being one. */
#include "nn/nn_int.h"

#include <math.h>
#include <stdlib.h>

/* dw of the walk is the other model's weight. */
static void copy_same(void *ud, const ParamSlot *s) {
    Backend *be = ud;
    if (s->number != PARAM_wte) be->op->copy(be, *s->w, *s->dw);
}

static void grow_rows(Backend *be, Tensor to, Tensor from, uint64_t seed, ParamNumber number) {
    int64_t cols = from.cols, rows = from.rows, more = to.rows - rows;
    float *host = mem_alloc((size_t)(to.rows * cols) * sizeof *host);
    double *mean = mem_alloc((size_t)cols * sizeof *mean), size = 0;
    tensor_get_f32(be, host, from);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            double v = (double)host[r * cols + c];
            mean[c] += v / (double)rows;
            size += v * v / (double)(rows * cols);
        }
    Rng rng = {seed, RNG_INIT};
    for (int64_t i = 0; i < more * cols; i++)
        host[rows * cols + i] = (float)(mean[i % cols] + 0.01 * sqrt(size) * rng_normal(rng, (uint64_t)i, number));
    tensor_set_f32(be, to, host);
    free(host);
    free(mean);
}

bool net_grow_vocab(Model *m, Head *h, int n_vocab, uint64_t seed, Error *err) {
    CHECK(h->kind == HEAD_LM && n_vocab >= m->whole.n_vocab, "%d rows of %d", n_vocab, m->whole.n_vocab);
    if (n_vocab == m->whole.n_vocab) return true;
    if (m->part.tp_n > 1)
        return error_set(
            err, ERR_CONFIG,
            "a vocabulary of %d is to become one of %d, which a divided model cannot: leave dist.tp at 1 here",
            m->whole.n_vocab, n_vocab);
    model_pack(m);
    Backend *be = m->be;
    ModelConfig c = m->cfg;
    Model grown;
    Head head;
    bool grads = m->grads.base != NULL;
    c.n_vocab = n_vocab;
    if (!model_alloc(&grown, be, &c, grads, err)) return false;
    if (!head_params_open(&head, &grown, HEAD_LM, n_vocab, grads, err)) {
        model_release(&grown);
        return false;
    }
    params_walk(&c, &grown.w, &m->w, copy_same, be);
    grow_rows(be, grown.w.wte, m->w.wte, seed, PARAM_wte);
    if (!h->tied) grow_rows(be, head.w, h->w, seed, PARAM_head);
    grown.tokens = m->tokens, grown.version = m->version + 1;
    grown.note = m->note;
    m->note = (Str){0};
    head_release(h);
    model_release(m);
    *m = grown, *h = head;
    return true;
}
