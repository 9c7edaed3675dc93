/* nn/init.c — initial weights. Element i of parameter p of layer l is a function of (seed, p, l, i) alone, i counting
 * through the whole tensor whatever part of it is here, so neither the layout of memory nor the number of threads nor
 * the presence of other parameters changes it. Values are rounded to F32 for every backend: ref and cpu start from
 * equal numbers, and saving them loses nothing. */
#include "nn/nn_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { INIT_TILE = 4096, INIT_RUN = 1 << 20 };

typedef struct {
    float *out;
    int64_t first, n, cols; /* elements: of the tensor here before these, of these; of a row here */
    TensorPlace at;
    Rng rng;
    uint32_t param;
    double std;
} InitJob;

static void init_tile(void *ud, int64_t tile, int thread) {
    InitJob *job = ud;
    (void)thread;
    int64_t end = (tile + 1) * INIT_TILE < job->n ? (tile + 1) * INIT_TILE : job->n;
    for (int64_t i = tile * INIT_TILE; i < end; i++) {
        int64_t row = job->at.row + (job->first + i) / job->cols, col = job->at.col + (job->first + i) % job->cols;
        job->out[i] = (float)(job->std * rng_normal(job->rng, (uint64_t)(row * job->at.cols + col), job->param));
    }
}

static void init_normal(Backend *be, Tensor w, TensorPlace at, uint64_t seed, ParamNumber number, int layer,
                        double std) {
    if (be->dry) return;
    InitJob job = {.rng = {seed, RNG_INIT}, .std = std, .at = at, .cols = w.cols};
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
    const Model *m;
    uint64_t seed;
} InitAll;

static void init_one(void *ud, const ParamSlot *s) {
    InitAll *job = ud;
    const Model *m = job->m;
    TensorPlace at = model_place(m, s);
    switch (s->init) {
    case INIT_ZERO:
        init_constant(m->be, *s->w, 0);
        break;
    case INIT_ONE:
        init_constant(m->be, *s->w, 1);
        break;
    case INIT_NORMAL:
        init_normal(m->be, *s->w, at, job->seed, s->number, s->layer, 0.02);
        break;
    case INIT_RESID:
        init_normal(m->be, *s->w, at, job->seed, s->number, s->layer, 0.02 / sqrt(2.0 * m->whole.n_layer));
        break;
    }
}

bool model_share_rows(Model *m, const Mesh *mesh, Error *err) {
    if (!mesh) return true;
    m->part.cp = mesh->at.cp, m->part.cp_n = mesh->size.cp, m->part.cp_group = mesh->cp;
    if (m->part.cp_n > 1 && !m->be->op->attn_part_bwd)
        return error_set(err, ERR_CONFIG,
                         "dist.cp %d: backend %s does not divide the rows of a micro-batch; cpu and ref do",
                         m->part.cp_n, m->be->op->name);
    return true;
}

/* The layers of a stage, what stands before the first and behind the last, and the share of every divided tensor. */
static bool take_part(Model *m, const Mesh *mesh, Error *err) {
    m->part = model_part_whole();
    if (!mesh) return true;
    int n_stage = mesh->size.pp, stage = mesh->at.pp, n = m->whole.n_layer;
    if (n_stage > n)
        return error_set(err, ERR_CONFIG, "dist.pp %d: this model has %d layers, and every stage needs one", n_stage,
                         n);
    int from = model_part_layer(n, stage, n_stage), to = model_part_layer(n, stage + 1, n_stage);
    m->part.layer0 = from, m->part.first = stage == 0, m->part.last = stage + 1 == n_stage;
    m->part.pp_group = mesh->pp;
    m->part.tp = mesh->at.tp, m->part.tp_n = mesh->size.tp, m->part.tp_group = mesh->tp;
    if (!model_config_part(&m->cfg, &m->whole, &m->part, err)) return false;
    m->cfg.n_layer = to - from;
    memset(m->cfg.unwindowed, 0, sizeof m->cfg.unwindowed);
    for (int l = from; l < to; l++)
        if (m->whole.unwindowed[l / 32] >> (l % 32) & 1) m->cfg.unwindowed[(l - from) / 32] |= 1u << ((l - from) % 32);
    return true;
}

bool model_alloc(Model *m, Backend *be, const ModelConfig *cfg, bool grads, Error *err) {
    return model_alloc_on(m, be, cfg, NULL, grads, err);
}

bool model_alloc_on(Model *m, Backend *be, const ModelConfig *whole, const Mesh *mesh, bool grads, Error *err) {
    *m = (Model){0};
    if (!model_config_check(whole, err)) return false;
    m->be = be, m->cfg = m->whole = *whole, m->dtype = be->dtype, m->version = 1;
    if (!take_part(m, mesh, err)) return false;
    const ModelConfig *cfg = &m->cfg;
    m->rope_attention = rope_attention(cfg);
    model_tokens_init(&m->tokens, cfg->eos_id);
    if (!params_open(&m->w, &m->params, be, m->dtype, cfg, &m->part, "parameters", err)) goto fail;
    if (grads) {
        if (!params_open(&m->dw, &m->grads, be, be->real, cfg, &m->part, "gradients", err)) goto fail;
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
    return model_init_on(m, be, cfg, NULL, seed, grads, err);
}

bool model_init_on(Model *m, Backend *be, const ModelConfig *cfg, const Mesh *mesh, uint64_t seed, bool grads,
                   Error *err) {
    if (!model_alloc_on(m, be, cfg, mesh, grads, err)) return false;
    params_walk_part(&m->cfg, &m->part, &m->w, NULL, init_one, &(InitAll){m, seed});
    return true;
}

bool head_init(Head *h, Model *m, HeadKind kind, int n_out, uint64_t seed, bool grads, Error *err) {
    if (kind == HEAD_LM && n_out != m->whole.n_vocab) {
        *h = (Head){0};
        return error_set(err, ERR_CONFIG, "an LM head needs one output per vocabulary entry (%d), not %d",
                         m->whole.n_vocab, n_out);
    }
    if (!head_params_open(h, m, kind, kind == HEAD_LM ? m->cfg.n_vocab : n_out, grads, err)) return false;
    head_draw(h, m, seed, 1);
    return true;
}

void head_draw(Head *h, Model *m, uint64_t seed, double scale) {
    double std = h->kind == HEAD_LM ? 0.02 : 1 / sqrt((double)m->cfg.d_model + 1);
    if (tensor_empty(h->w) || (h->tied && !h->copy)) return;
    init_normal(m->be, h->w, head_place(m, h), seed, h->copy ? PARAM_wte : PARAM_head, -1, scale * std);
}
