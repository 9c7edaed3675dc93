#include "nn/gguf_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/convert.h"
#include "nn/nn_int.h"

/* -- names ----------------------------------------------------------------------------------------------------------
 */

static const char *const names[PARAM_COUNT] = {
    [PARAM_attn_norm] = "attn_norm.weight", [PARAM_attn_norm_b] = "attn_norm.bias",
    [PARAM_wq] = "attn_q.weight",           [PARAM_bq] = "attn_q.bias",
    [PARAM_wk] = "attn_k.weight",           [PARAM_bk] = "attn_k.bias",
    [PARAM_wv] = "attn_v.weight",           [PARAM_bv] = "attn_v.bias",
    [PARAM_wo] = "attn_output.weight",      [PARAM_bo] = "attn_output.bias",
    [PARAM_mlp_norm] = "ffn_norm.weight",   [PARAM_mlp_norm_b] = "ffn_norm.bias",
    [PARAM_w_gate] = "ffn_gate.weight",     [PARAM_w_up] = "ffn_up.weight",
    [PARAM_b_up] = "ffn_up.bias",           [PARAM_w_down] = "ffn_down.weight",
    [PARAM_b_down] = "ffn_down.bias",       [PARAM_wte] = "token_embd.weight",
    [PARAM_wpe] = "position_embd.weight",   [PARAM_norm] = "output_norm.weight",
    [PARAM_norm_b] = "output_norm.bias",    [PARAM_b_gate] = "ffn_gate.bias",
    [PARAM_q_norm] = "attn_q_norm.weight",  [PARAM_k_norm] = "attn_k_norm.weight",
};

typedef struct {
    char name[GGUF_MAX_NAME + 1];
    int part, n_part; /* GPT-2 holds q, k and v in one, one below the other */
    int heads;        /* whose rows are permuted; 0: none are */
} GgufName;

static void gguf_name(GgufName *out, const ModelConfig *c, const ParamSlot *s) {
    bool q = s->number == PARAM_wq || s->number == PARAM_bq, k = s->number == PARAM_wk || s->number == PARAM_bk;
    bool v = s->number == PARAM_wv || s->number == PARAM_bv, llama = strcmp(gguf_architecture(c->family), "llama") == 0;
    const char *name = names[s->number];
    *out = (GgufName){.n_part = 1, .heads = !llama ? 0 : q ? c->n_head : k ? c->n_kv_head : 0};
    if (c->family == FAMILY_GPT2 && (q || k || v)) {
        out->part = q ? 0 : k ? 1 : 2, out->n_part = 3;
        name = s->rows == 1 ? "attn_qkv.bias" : "attn_qkv.weight";
    }
    if (s->layer >= 0)
        snprintf(out->name, sizeof out->name, "blk.%d.%s", s->layer, name);
    else
        snprintf(out->name, sizeof out->name, "%s", name);
}

/* Row of the file -> row of ours: within each head rows 0, d/2, 1, d/2 + 1, .. */
static int64_t permuted(int64_t row, int heads, int64_t rows) {
    if (heads == 0) return row;
    int64_t d = rows / heads, i = row % d;
    return row - i + i % 2 * (d / 2) + i / 2;
}

const char *gguf_architecture(Family f) { return f == FAMILY_MISTRAL ? "llama" : family_model_type(f); }

/* -- pairs ----------------------------------------------------------------------------------------------------------
 */

bool gguf_can_hold(const ModelConfig *c, Error *err) {
    const char *name = family_model_type(c->family);
    if (c->family == FAMILY_GPT2 && c->gelu != GELU_TANH)
        return error_set(err, ERR_CONFIG, "%s with activation_function gelu: GGUF means gelu_new", name);
    if (c->family == FAMILY_QWEN3 && c->qkv_bias)
        return error_set(err, ERR_CONFIG, "%s with attention_bias: GGUF has no tensors for it", name);
    if (c->rope.kind == ROPE_LLAMA3 && strcmp(gguf_architecture(c->family), "llama") != 0)
        return error_set(err, ERR_CONFIG, "%s with rope_type llama3: GGUF has it for llama only", name);
    if (c->rope.kind == ROPE_YARN && c->rope.no_truncate)
        return error_set(err, ERR_CONFIG, "%s with yarn and truncate false: GGUF always truncates", name);
    return true;
}

int gguf_context(const ModelConfig *c) { return c->window > 0 && c->window < c->max_seq ? c->window : c->max_seq; }

static const char *key_of(char out[96], const ModelConfig *c, const char *rest) {
    snprintf(out, 96, "%s.%s", gguf_architecture(c->family), rest);
    return out;
}

static void put_int(GgufOut *g, const ModelConfig *c, const char *rest, int64_t v) {
    char key[96];
    gguf_put_u32(g, key_of(key, c, rest), (uint32_t)v);
}

static void put_num(GgufOut *g, const ModelConfig *c, const char *rest, double v) {
    char key[96];
    gguf_put_f32(g, key_of(key, c, rest), (float)v);
}

static void put_rope(GgufOut *g, const ModelConfig *c) {
    const RopeScaling *r = &c->rope;
    char key[96];
    put_num(g, c, "rope.freq_base", c->rope_theta);
    put_int(g, c, "rope.dimension_count", c->d_head);
    if (r->kind != ROPE_LINEAR && r->kind != ROPE_YARN) return;
    const char *type = r->kind == ROPE_LINEAR ? "linear" : "yarn";
    gguf_put_str(g, key_of(key, c, "rope.scaling.type"), type, strlen(type));
    put_num(g, c, "rope.scaling.factor", r->factor);
    if (r->kind != ROPE_YARN) return;
    put_int(g, c, "rope.scaling.original_context_length", (int64_t)r->original);
    put_num(g, c, "rope.scaling.yarn_beta_fast", r->beta_fast);
    put_num(g, c, "rope.scaling.yarn_beta_slow", r->beta_slow);
    ModelConfig usual = *c;
    usual.rope.attention = 0;
    if (r->attention > 0) put_num(g, c, "rope.scaling.attn_factor", r->attention / rope_attention(&usual));
}

void gguf_put_config(GgufOut *g, const ModelConfig *c) {
    put_int(g, c, "context_length", gguf_context(c));
    put_int(g, c, "embedding_length", c->d_model);
    put_int(g, c, "block_count", c->n_layer);
    put_int(g, c, "feed_forward_length", c->d_ff);
    put_int(g, c, "attention.head_count", c->n_head);
    put_int(g, c, "attention.head_count_kv", c->n_kv_head);
    put_int(g, c, "vocab_size", c->n_vocab);
    if (c->family == FAMILY_GPT2) {
        put_num(g, c, "attention.layer_norm_epsilon", c->norm_eps);
        return;
    }
    put_num(g, c, "attention.layer_norm_rms_epsilon", c->norm_eps);
    put_int(g, c, "attention.key_length", c->d_head);
    put_int(g, c, "attention.value_length", c->d_head);
    put_rope(g, c);
}

/* -- writing --------------------------------------------------------------------------------------------------------
 */

enum { MAX_PARTS = 3 };

typedef struct {
    Tensor part[MAX_PARTS];
    int n_part, heads;
    const float *plain; /* instead of parts: values as they are */
} Source;

typedef struct {
    GgufOut *g;
    Net net;
    GgufType type;
    Source *source; /* (g->n_tensor) */
    int cap;
} WriteJob;

static Source *add_source(WriteJob *job, const char *name, bool matrix, const int64_t *dim, int n_dim) {
    GgufType type = matrix ? job->type : GGUF_TYPE_F32;
    if (gguf_row_bytes(type, dim[n_dim - 1]) < 0) type = GGUF_TYPE_F16;
    gguf_put_tensor(job->g, name, type, dim, n_dim);
    if (job->g->n_tensor > job->cap) {
        job->cap = 2 * job->g->n_tensor;
        job->source = mem_grow(job->source, (size_t)job->cap * sizeof *job->source);
    }
    Source *s = &job->source[job->g->n_tensor - 1];
    *s = (Source){.n_part = 1};
    return s;
}

static void add_parameter(void *ud, const ParamSlot *s) {
    WriteJob *job = ud;
    GgufName n;
    gguf_name(&n, &job->net.trunk->cfg, s);
    if (n.part > 0) { /* parts follow one another */
        for (int i = job->g->n_tensor; i-- > 0;)
            if (strcmp(job->g->tensor[i].name, n.name) == 0) {
                job->source[i].part[n.part] = *s->w;
                return;
            }
        CHECK(false, "no first part of '%s'", n.name);
    }
    bool vector = s->rows == 1;
    int64_t dim[2] = {vector ? s->cols * n.n_part : s->rows * n.n_part, s->cols};
    Source *out = add_source(job, n.name, !vector && s->number != PARAM_wpe, dim, vector ? 1 : 2);
    out->part[0] = *s->w, out->n_part = n.n_part, out->heads = n.heads;
}

static bool put_row(const GgufOutTensor *t, const float *row, int64_t cols, unsigned char *bytes, Writer *w,
                    Error *err) {
    if (gguf_store_row(bytes, row, t->type, cols) > 0)
        return error_set(err, ERR_FORMAT, "tensor '%s' has values that %s cannot hold", t->name,
                         gguf_type_name(t->type));
    return writer_put(w, bytes, (size_t)gguf_row_bytes(t->type, cols), err);
}

/* A part at a time; permuted rows need all of it at hand. A vector's elements are its rows. */
static bool put_source(void *ud, const GgufOutTensor *t, int i, Writer *w, Error *err) {
    const WriteJob *job = ud;
    const Source *s = &job->source[i];
    if (s->plain) return writer_put(w, s->plain, (size_t)t->bytes, err);
    bool ok = true;
    for (int k = 0; k < s->n_part && ok; k++) {
        Tensor x = s->part[k];
        int64_t rows = t->n_dim == 1 ? x.cols : x.rows, cols = t->n_dim == 1 ? 1 : x.cols;
        float *host = mem_alloc((size_t)(rows * cols) * sizeof *host);
        unsigned char *bytes = mem_alloc((size_t)gguf_row_bytes(t->type, cols) + 1);
        tensor_get_f32(job->net.trunk->be, host, x);
        for (int64_t r = 0; r < rows && ok; r++)
            ok = put_row(t, host + permuted(r, s->heads, rows) * cols, cols, bytes, w, err);
        free(host);
        free(bytes);
    }
    return ok;
}

static float *rope_factors(const ModelConfig *c) {
    float *out = mem_alloc((size_t)(c->d_head / 2) * sizeof *out);
    double *plain = mem_alloc((size_t)(c->d_head / 2) * sizeof *plain);
    double *scaled = mem_alloc((size_t)(c->d_head / 2) * sizeof *scaled);
    ModelConfig unscaled = *c;
    unscaled.rope = (RopeScaling){0};
    rope_frequencies(plain, &unscaled);
    rope_frequencies(scaled, c);
    for (int j = 0; j < c->d_head / 2; j++) out[j] = (float)(plain[j] / scaled[j]);
    free(plain);
    free(scaled);
    return out;
}

bool gguf_write_model(const char *path, GgufOut *g, Net n, GgufType type, Error *err) {
    const ModelConfig *c = &n.trunk->cfg;
    WriteJob job = {.g = g, .net = n, .type = type};
    float *factors = NULL;
    params_walk(c, &n.trunk->w, NULL, add_parameter, &job);
    if (!n.head->tied)
        add_source(&job, "output.weight", true, (int64_t[]){n.head->w.rows, n.head->w.cols}, 2)->part[0] = n.head->w;
    if (c->rope.kind == ROPE_LLAMA3) {
        factors = rope_factors(c);
        add_source(&job, "rope_freqs.weight", false, (int64_t[]){c->d_head / 2}, 1)->plain = factors;
    }
    bool ok = gguf_write(path, g, put_source, &job, err);
    free(factors);
    free(job.source);
    return ok;
}

/* -- reading --------------------------------------------------------------------------------------------------------
 */

typedef struct {
    const GgufFile *f;
    ModelConfig *c;
    Error *err;
} ReadJob;

static bool need_int(const ReadJob *r, const char *rest, int *out) {
    char key[96];
    int64_t v;
    const GgufPair *p = gguf_find(r->f, key_of(key, r->c, rest));
    if (!p) return error_set(r->err, ERR_FORMAT, "key '%s' is missing", key);
    if (!gguf_int(p, &v) || v < 1 || v > 1 << 28)
        return error_set(r->err, ERR_FORMAT, "key '%s' must be a whole number in 1..2^28", key);
    *out = (int)v;
    return true;
}

static bool int_or(const ReadJob *r, const char *rest, int otherwise, int *out) {
    char key[96];
    *out = otherwise;
    return gguf_find(r->f, key_of(key, r->c, rest)) ? need_int(r, rest, out) : true;
}

static bool num_or(const ReadJob *r, const char *rest, double otherwise, double *out) {
    char key[96];
    const GgufPair *p = gguf_find(r->f, key_of(key, r->c, rest));
    *out = otherwise;
    return !p || gguf_num(p, out) || error_set(r->err, ERR_FORMAT, "key '%s' must be a number", key);
}

static bool read_architecture(const ReadJob *r) {
    GgufStr s;
    if (!gguf_str(gguf_find(r->f, "general.architecture"), &s))
        return error_set(r->err, ERR_FORMAT, "key 'general.architecture' is missing or no string");
    for (int f = 0; f < FAMILY_COUNT; f++) {
        const char *name = gguf_architecture((Family)f);
        r->c->family = (Family)f;
        if (s.n == strlen(name) && memcmp(s.s, name, s.n) == 0) return true;
    }
    return error_set(r->err, ERR_FORMAT, "architecture '%.*s' is not read, only llama, gpt2, qwen2 and qwen3",
                     s.n < 40 ? (int)s.n : 40, s.s);
}

static bool read_rope(const ReadJob *r) {
    char key[96];
    GgufStr type;
    ModelConfig *c = r->c;
    RopeScaling *s = &c->rope;
    double factor;
    if (!num_or(r, "rope.freq_base", 10000, &c->rope_theta)) return false;
    if (!gguf_str(gguf_find(r->f, key_of(key, c, "rope.scaling.type")), &type)) return true;
    if (type.n == 4 && memcmp(type.s, "none", 4) == 0) return true;
    bool linear = type.n == 6 && memcmp(type.s, "linear", 6) == 0, yarn = type.n == 4 && memcmp(type.s, "yarn", 4) == 0;
    if (!linear && !yarn) return error_set(r->err, ERR_FORMAT, "key '%s' must be none, linear or yarn", key);
    s->kind = linear ? ROPE_LINEAR : ROPE_YARN;
    if (!num_or(r, "rope.scaling.factor", 0, &s->factor)) return false;
    if (linear) return true;
    if (!num_or(r, "rope.scaling.original_context_length", c->max_seq, &s->original) ||
        !num_or(r, "rope.scaling.yarn_beta_fast", 32, &s->beta_fast) ||
        !num_or(r, "rope.scaling.yarn_beta_slow", 1, &s->beta_slow) ||
        !num_or(r, "rope.scaling.attn_factor", 1, &factor))
        return false;
    if (factor != 1) s->attention = factor * rope_attention(c);
    return true;
}

static bool has(const GgufFile *f, const char *name) { return gguf_find_tensor(f, name) != NULL; }

static bool check_config(const ModelConfig *c, Error *err) {
    if (model_config_check(c, err)) return true;
    err->code = ERR_FORMAT; /* what a file says, not what a user asked for */
    return false;
}

static bool read_config(const ReadJob *r) {
    ModelConfig *c = r->c;
    int value_length;
    *c = (ModelConfig){.eos_id = -1, .rope_theta = 10000};
    if (!read_architecture(r) || !need_int(r, "context_length", &c->max_seq) ||
        !need_int(r, "embedding_length", &c->d_model) || !need_int(r, "block_count", &c->n_layer) ||
        !need_int(r, "feed_forward_length", &c->d_ff) || !need_int(r, "attention.head_count", &c->n_head) ||
        !int_or(r, "attention.head_count_kv", c->n_head, &c->n_kv_head) ||
        !int_or(r, "attention.key_length", c->d_model / c->n_head, &c->d_head) ||
        !int_or(r, "attention.value_length", c->d_head, &value_length))
        return false;
    if (value_length != c->d_head)
        return error_set(r->err, ERR_FORMAT, "heads whose keys (%d) and values (%d) differ in width are not read",
                         c->d_head, value_length);
    const GgufTensor *wte = gguf_find_tensor(r->f, "token_embd.weight");
    if (!wte || wte->n_dim != 2 || wte->dim[0] > 1 << 24)
        return error_set(r->err, ERR_FORMAT, "tensor 'token_embd.weight' is missing or no matrix");
    c->n_vocab = (int)wte->dim[0];
    c->tied = !has(r->f, "output.weight");
    if (c->family == FAMILY_GPT2) {
        c->norm = NORM_LAYER, c->pos = POS_LEARNED, c->mlp = MLP_GELU;
        c->qkv_bias = c->out_bias = c->mlp_bias = true;
        return num_or(r, "attention.layer_norm_epsilon", 1e-5, &c->norm_eps) && check_config(c, r->err);
    }
    c->norm = NORM_RMS, c->pos = POS_ROPE, c->mlp = MLP_SWIGLU, c->qk_norm = c->family == FAMILY_QWEN3;
    c->qkv_bias = has(r->f, "blk.0.attn_q.bias"), c->out_bias = has(r->f, "blk.0.attn_output.bias");
    c->mlp_bias = has(r->f, "blk.0.ffn_gate.bias");
    return num_or(r, "attention.layer_norm_rms_epsilon", 1e-6, &c->norm_eps) && read_rope(r) && check_config(c, r->err);
}

static bool check_tensor(const GgufTensor *t, const char *name, const int64_t *dim, int n_dim, Error *err) {
    if (!t) return error_set(err, ERR_FORMAT, "tensor '%s' is missing", name);
    bool same = t->n_dim == n_dim;
    for (int d = 0; d < n_dim && same; d++) same = t->dim[d] == dim[d];
    if (same) return true;
    return error_set(err, ERR_FORMAT, "tensor '%s': %d dimensions, the last %lld, expected %d, the last %lld of [%lld]",
                     name, t->n_dim, (long long)t->dim[t->n_dim - 1], n_dim, (long long)dim[n_dim - 1],
                     (long long)dim[0]);
}

/* Part `part` of a tensor whose rows follow one another. */
static void load_part(Backend *be, Tensor w, const GgufTensor *t, int part, int heads) {
    int64_t rows = t->n_dim == 1 ? w.cols : w.rows, cols = t->n_dim == 1 ? 1 : w.cols;
    int64_t bytes = gguf_row_bytes(t->type, cols);
    float *host = mem_alloc((size_t)(rows * cols) * sizeof *host);
    for (int64_t r = 0; r < rows; r++)
        gguf_load_row(host + permuted(r, heads, rows) * cols, t->data + (part * rows + r) * bytes, t->type, cols);
    tensor_set_f32(be, w, host);
    free(host);
}

typedef struct {
    Model *m;
    const ModelConfig *c;
    const GgufFile *f;
    int64_t n_used;
    bool ok;
    Error *err;
} LoadJob;

/* Before anything of the model's size is allocated. */
static void check_one(void *ud, const ParamSlot *s) {
    LoadJob *job = ud;
    GgufName n;
    if (!job->ok) return;
    gguf_name(&n, job->c, s);
    bool vector = s->rows == 1;
    int64_t dim[2] = {vector ? s->cols * n.n_part : s->rows * n.n_part, s->cols};
    const GgufTensor *t = gguf_find_tensor(job->f, n.name);
    job->ok = check_tensor(t, n.name, dim, vector ? 1 : 2, job->err);
    if (job->ok && vector && t->type != GGUF_TYPE_F32)
        job->ok = error_set(job->err, ERR_FORMAT, "tensor '%s': a vector must be F32, found %s", n.name,
                            gguf_type_name(t->type));
}

static void load_one(void *ud, const ParamSlot *s) {
    LoadJob *job = ud;
    GgufName n;
    gguf_name(&n, job->c, s);
    load_part(job->m->be, *s->w, gguf_find_tensor(job->f, n.name), n.part, n.heads);
    job->n_used += n.part == 0;
}

static bool load_factors(LoadJob *job) {
    const ModelConfig *c = &job->m->cfg;
    const GgufTensor *t = gguf_find_tensor(job->f, "rope_freqs.weight");
    if (!t) return true;
    if (c->pos != POS_ROPE || strcmp(gguf_architecture(c->family), "llama") != 0)
        return error_set(job->err, ERR_FORMAT, "tensor 'rope_freqs.weight' has no place in this model");
    if (!check_tensor(t, "rope_freqs.weight", (int64_t[]){c->d_head / 2}, 1, job->err)) return false;
    for (int j = 0; j < c->d_head / 2; j++) {
        float factor;
        gguf_load_row(&factor, t->data + j * gguf_row_bytes(t->type, 1), t->type, 1);
        if (!(factor > 0))
            return error_set(job->err, ERR_FORMAT, "tensor 'rope_freqs.weight': %g at %d", (double)factor, j);
        job->m->freq[j] /= (double)factor;
    }
    job->n_used++;
    return true;
}

static bool load_head(Head *h, LoadJob *job) {
    Model *m = job->m;
    if (!head_params_open(h, m, HEAD_LM, m->cfg.n_vocab, false, job->err)) return false;
    if (m->cfg.tied) return true;
    const GgufTensor *t = gguf_find_tensor(job->f, "output.weight");
    if (!check_tensor(t, "output.weight", (int64_t[]){m->cfg.n_vocab, m->cfg.d_model}, 2, job->err)) {
        head_release(h);
        return false;
    }
    load_part(m->be, h->w, t, 0, 0);
    job->n_used++;
    return true;
}

bool gguf_model_open(Model *m, Head *h, Backend *be, const GgufFile *f, Error *err) {
    ModelConfig c;
    *m = (Model){0};
    *h = (Head){0};
    if (!read_config(&(ReadJob){f, &c, err})) return false;
    LoadJob job = {.m = m, .c = &c, .f = f, .ok = true, .err = err};
    params_walk(&c, NULL, NULL, check_one, &job);
    if (!job.ok || !model_alloc(m, be, &c, false, err)) return false;
    params_walk(&c, &m->w, NULL, load_one, &job);
    job.ok = job.ok && load_factors(&job) && load_head(h, &job);
    if (job.ok && job.n_used != f->n_tensor)
        job.ok = error_set(err, ERR_FORMAT, "%lld tensors, but this model has %lld", (long long)f->n_tensor,
                           (long long)job.n_used);
    if (job.ok) return true;
    head_release(h);
    model_release(m);
    return false;
}
