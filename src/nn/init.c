/* nn/init.c — initial weights. Element i of parameter p of layer l is a function of (seed, p, l, i) alone, so neither
 * the layout of memory nor the number of threads nor the presence of other parameters changes it. Values are rounded to
 * F32 for every backend: ref and cpu start from equal numbers, and saving them loses nothing. */
#include "nn/nn_int.h"

#include <math.h>
#include <stdlib.h>

enum { INIT_TILE = 4096, INIT_RUN = 1 << 20 };

typedef struct {
    float *out;
    int64_t first, n; /* elements: of the tensor before these, of these */
    Rng rng;
    uint32_t param;
    double std;
} InitJob;

static void init_tile(void *ud, int64_t tile, int thread) {
    InitJob *job = ud;
    (void)thread;
    int64_t end = (tile + 1) * INIT_TILE < job->n ? (tile + 1) * INIT_TILE : job->n;
    for (int64_t i = tile * INIT_TILE; i < end; i++)
        job->out[i] = (float)(job->std * rng_normal(job->rng, (uint64_t)(job->first + i), job->param));
}

void init_normal(Backend *be, Tensor w, uint64_t seed, ParamNumber number, int layer, double std) {
    if (be->dry) return;
    InitJob job = {.rng = {seed, RNG_INIT}, .std = std};
    job.param = (uint32_t)(layer + 1) * 64 + (uint32_t)number;
    int64_t most = (INIT_RUN / w.cols / PANEL_ROWS + 1) * PANEL_ROWS; /* rows: a large tensor never lies here whole */
    if (most > w.rows) most = w.rows;
    job.out = mem_alloc((size_t)(most * w.cols) * sizeof *job.out);
    for (int64_t r = 0; r < w.rows; r += most) {
        Tensor part = tensor_rows(w, r, w.rows - r < most ? w.rows - r : most);
        job.first = r * w.cols, job.n = tensor_count(part);
        int64_t n_tile = (job.n + INIT_TILE - 1) / INIT_TILE;
        if (be->pool)
            pool_for(be->pool, n_tile, init_tile, &job);
        else
            for (int64_t t = 0; t < n_tile; t++) init_tile(&job, t, 0);
        tensor_set_f32(be, part, job.out);
    }
    free(job.out);
}

static void init_constant(Backend *be, Tensor w, double value) {
    be->op->zero(be, w);
    if (value == 0 || be->dry) return;
    double *host = mem_alloc((size_t)tensor_count(w) * sizeof *host);
    for (int64_t i = 0; i < tensor_count(w); i++) host[i] = value;
    tensor_set(be, w, host);
    free(host);
}

typedef struct {
    Backend *be;
    uint64_t seed;
    int n_layer;
} InitAll;

static void init_one(void *ud, const ParamSlot *s) {
    InitAll *job = ud;
    switch (s->init) {
    case INIT_ZERO:
        init_constant(job->be, *s->w, 0);
        break;
    case INIT_ONE:
        init_constant(job->be, *s->w, 1);
        break;
    case INIT_NORMAL:
        init_normal(job->be, *s->w, job->seed, s->number, s->layer, 0.02);
        break;
    case INIT_RESID:
        init_normal(job->be, *s->w, job->seed, s->number, s->layer, 0.02 / sqrt(2.0 * job->n_layer));
        break;
    }
}

bool model_alloc(Model *m, Backend *be, const ModelConfig *cfg, bool grads, Error *err) {
    *m = (Model){0};
    if (!model_config_check(cfg, err)) return false;
    m->be = be, m->cfg = *cfg, m->dtype = be->dtype, m->version = 1;
    m->rope_attention = rope_attention(cfg);
    model_tokens_init(&m->tokens, cfg->eos_id);
    if (!params_open(&m->w, &m->params, be, m->dtype, cfg, "parameters", err)) goto fail;
    if (grads) {
        if (!params_open(&m->dw, &m->grads, be, be->real, cfg, "gradients", err)) goto fail;
        net_zero_grads((Net){m, NULL, NULL});
    } else {
        m->dw.block = mem_alloc((size_t)cfg->n_layer * sizeof *m->dw.block); /* of empty tensors */
    }
    if (cfg->pos == POS_ROPE) {
        m->freq = mem_alloc((size_t)(cfg->d_head / 2) * sizeof *m->freq);
        rope_frequencies(m->freq, cfg);
    }
    return true;
fail:
    model_release(m);
    return false;
}

bool model_init(Model *m, Backend *be, const ModelConfig *cfg, uint64_t seed, bool grads, Error *err) {
    if (!model_alloc(m, be, cfg, grads, err)) return false;
    params_walk(cfg, &m->w, NULL, init_one, &(InitAll){be, seed, cfg->n_layer});
    return true;
}

bool head_init(Head *h, Model *m, HeadKind kind, int n_out, uint64_t seed, bool grads, Error *err) {
    if (kind == HEAD_LM && n_out != m->cfg.n_vocab) {
        *h = (Head){0};
        return error_set(err, ERR_CONFIG, "an LM head needs one output per vocabulary entry (%d), not %d",
                         m->cfg.n_vocab, n_out);
    }
    if (!head_params_open(h, m, kind, n_out, grads, err)) return false;
    double std = kind == HEAD_LM ? 0.02 : 1 / sqrt((double)m->cfg.d_model + 1);
    if (!h->tied) init_normal(m->be, h->w, seed, PARAM_head, -1, std);
    return true;
}
