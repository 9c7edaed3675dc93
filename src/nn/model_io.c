/* nn/model_io.c — model directories: config.json and model.safetensors, or the shards that model.safetensors.index.json
 * lists. Loading is strict, because the usual alternative (fill what is missing with random numbers and go on) costs
 * days: a missing, surplus or mis-shaped tensor is an error that names it. F32 is taken as it is, BF16 and F16 are
 * widened. */
#include "nn/nn_int.h"

#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- configuration --------------------------------------------------------------------------------------------------
 */

static bool in_range(const char *name, int64_t v, int64_t max, Error *err) {
    if (v >= 1 && v <= max) return true;
    return error_set(err, ERR_CONFIG, "model: %s %lld, expected 1..%lld", name, (long long)v, (long long)max);
}

bool model_config_check(const ModelConfig *c, Error *err) {
    if ((int)c->family < 0 || c->family >= FAMILY_COUNT) return error_set(err, ERR_CONFIG, "model: unknown family");
    if (!in_range("n_layer", c->n_layer, 4096, err) || !in_range("n_head", c->n_head, 4096, err) ||
        !in_range("n_kv_head", c->n_kv_head, 4096, err) || !in_range("d_model", c->d_model, 1 << 17, err) ||
        !in_range("d_head", c->d_head, 4096, err) || !in_range("d_ff", c->d_ff, 1 << 20, err) ||
        !in_range("n_vocab", c->n_vocab, 1 << 24, err) || !in_range("max_seq", c->max_seq, 1 << 24, err) ||
        !in_range("n_head * d_head", (int64_t)c->n_head * c->d_head, 1 << 17, err))
        return false;
    if (c->n_head % c->n_kv_head)
        return error_set(err, ERR_CONFIG, "model: n_head %d is not a multiple of n_kv_head %d", c->n_head,
                         c->n_kv_head);
    if (c->pos == POS_ROPE && c->d_head % 2)
        return error_set(err, ERR_CONFIG, "model: d_head %d must be even, RoPE turns pairs", c->d_head);
    if (c->pos == POS_ROPE && !(c->rope_theta > 0 && c->rope_theta < 1e15))
        return error_set(err, ERR_CONFIG, "model: rope_theta %g must be positive", c->rope_theta);
    if (!(c->norm_eps > 0 && c->norm_eps < 1))
        return error_set(err, ERR_CONFIG, "model: norm_eps %g, expected between 0 and 1", c->norm_eps);
    if (c->eos_id < -1 || c->eos_id >= c->n_vocab)
        return error_set(err, ERR_CONFIG, "model: eos_id %d is not in the vocabulary of %d", c->eos_id, c->n_vocab);
    return family_check(c, err) || error_wrap(err, "model");
}

/* -- the files of a directory ---------------------------------------------------------------------------------------
 */

typedef struct {
    StFile *file;
    int n;
} Shards;

static void shards_close(Shards *s) {
    for (int i = 0; i < s->n; i++) st_close(&s->file[i]);
    free(s->file);
    *s = (Shards){0};
}

static bool add_shard(Shards *s, const char *dir, const char *name, Error *err) {
    if (strchr(name, '/')) return error_set(err, ERR_FORMAT, "shard '%.80s' lies outside the folder", name);
    Str path = {0};
    str_printf(&path, "%s/%s", dir, name);
    s->file = mem_grow(s->file, (size_t)(s->n + 1) * sizeof *s->file);
    bool ok = st_open(&s->file[s->n], path.s, err);
    if (ok) s->n++;
    str_release(&path);
    return ok;
}

static bool read_index(Shards *s, const char *dir, const char *path, Error *err) {
    Json *root = NULL;
    if (!json_read_file(&root, path, 0, err)) return false;
    const Json *map = json_get(root, "weight_map");
    bool ok = map && json_kind(map) == JSON_OBJ;
    if (!ok) error_set(err, ERR_FORMAT, "%s: 'weight_map' is missing or not an object", path);
    const char **seen = mem_alloc(((size_t)json_len(map) + 1) * sizeof *seen);
    int n_seen = 0;
    for (int i = 0; ok && i < json_len(map); i++) {
        const Json *node;
        const char *tensor = json_key_at(map, i, &node), *name = json_str(node, NULL);
        if (!name) {
            ok = error_set(err, ERR_FORMAT, "%s: '%.80s' names no file", path, tensor);
            break;
        }
        bool known = false;
        for (int k = n_seen; !known && k-- > 0;) known = strcmp(seen[k], name) == 0;
        if (known) continue;
        seen[n_seen++] = name;
        ok = add_shard(s, dir, name, err);
    }
    free(seen);
    json_release(root);
    return ok;
}

static bool shards_open(Shards *s, const char *dir, Error *err) {
    *s = (Shards){0};
    Str path = {0};
    str_printf(&path, "%s/model.safetensors.index.json", dir);
    bool ok = io_exists(path.s) ? read_index(s, dir, path.s, err) : add_shard(s, dir, "model.safetensors", err);
    if (!ok) shards_close(s);
    str_release(&path);
    return ok;
}

/* By the family's name; files of a bare trunk leave the prefix out. */
static const StEntry *find_tensor(const Shards *s, const char *name, const char *prefix) {
    size_t n = prefix ? strlen(prefix) : 0;
    for (int i = 0; i < s->n; i++) {
        const StEntry *e = st_find(&s->file[i], name);
        if (!e && n && strncmp(name, prefix, n) == 0) e = st_find(&s->file[i], name + n);
        if (e) return e;
    }
    return NULL;
}

/* -- loading --------------------------------------------------------------------------------------------------------
 */

static uint32_t load_u(const unsigned char *p, int bytes) {
    uint32_t v = 0;
    for (int i = bytes - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

static float from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float half_to_float(uint32_t h) {
    uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31) return from_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent > 0) return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float tiny = (float)fraction * 0x1p-24f; /* subnormal: fraction * 2^-24, exact */
    return sign ? -tiny : tiny;
}

typedef enum { LOAD_F32, LOAD_BF16, LOAD_F16 } LoadKind;

static LoadKind load_kind(const StEntry *e) {
    if (strcmp(e->dtype, "F32") == 0) return LOAD_F32;
    return strcmp(e->dtype, "BF16") == 0 ? LOAD_BF16 : LOAD_F16;
}

/* out[i] = element from + i * stride of the file's tensor, which need not be aligned. */
static void load_run(float *out, const unsigned char *data, LoadKind kind, int64_t from, int64_t stride, int64_t n) {
    const unsigned char *p = data + from * (kind == LOAD_F32 ? 4 : 2);
    switch (kind) {
    case LOAD_F32:
        if (stride == 1)
            memcpy(out, p, (size_t)n * sizeof *out);
        else
            for (int64_t i = 0; i < n; i++) memcpy(out + i, p + 4 * i * stride, 4);
        break;
    case LOAD_BF16:
        for (int64_t i = 0; i < n; i++) out[i] = from_bits(load_u(p + 2 * i * stride, 2) << 16);
        break;
    case LOAD_F16:
        for (int64_t i = 0; i < n; i++) out[i] = half_to_float(load_u(p + 2 * i * stride, 2));
        break;
    }
}

static bool check_entry(const StEntry *e, const int64_t *dim, int n_dim, Error *err) {
    bool same = e->n_dim == n_dim;
    for (int i = 0; same && i < n_dim; i++) same = e->dim[i] == dim[i];
    if (!same) {
        Str found = {0}, wanted = {0};
        for (int i = 0; i < e->n_dim; i++) str_printf(&found, "%s%lld", i ? ", " : "", (long long)e->dim[i]);
        for (int i = 0; i < n_dim; i++) str_printf(&wanted, "%s%lld", i ? ", " : "", (long long)dim[i]);
        error_set(err, ERR_FORMAT, "tensor '%s': shape [%s], expected [%s]", e->name, str_get(&found),
                  str_get(&wanted));
        str_release(&found);
        str_release(&wanted);
        return false;
    }
    if (strcmp(e->dtype, "F32") != 0 && strcmp(e->dtype, "BF16") != 0 && strcmp(e->dtype, "F16") != 0)
        return error_set(err, ERR_FORMAT, "tensor '%s': dtype %s is not supported, only F32, BF16 and F16", e->name,
                         e->dtype);
    return true;
}

/* File dimensions of a parameter's tensor: all parts of a fused one; a (1, C) row is a vector. */
static int file_dims(int64_t dim[2], const FileName *f, int64_t rows, int64_t cols) {
    if (rows == 1) {
        dim[0] = cols * f->n_part;
        return 1;
    }
    dim[0] = f->transposed ? cols : rows * f->n_part;
    dim[1] = f->transposed ? rows * f->n_part : cols;
    return 2;
}

/* Where element (r, c) of a parameter lies in its file tensor. */
static int64_t file_index(const FileName *f, int64_t rows, int64_t cols, int64_t r, int64_t c) {
    if (rows == 1) return f->part * cols + c;
    if (f->transposed) return c * (rows * f->n_part) + f->part * rows + r;
    return (f->part * rows + r) * cols + c;
}

/* Panel by panel, so that neither a copy of the tensor nor its pages of the file are in memory at once. */
static void load_tensor(Backend *be, Tensor w, const StEntry *e, const FileName *f) {
    float *host = mem_alloc((size_t)(PANEL_ROWS * w.cols) * sizeof *host);
    LoadKind kind = load_kind(e);
    int64_t stride = w.rows == 1 ? 1 : file_index(f, w.rows, w.cols, 0, 1) - file_index(f, w.rows, w.cols, 0, 0);
    for (int64_t r = 0; r < w.rows; r += PANEL_ROWS) {
        int64_t n = w.rows - r < PANEL_ROWS ? w.rows - r : PANEL_ROWS;
        for (int64_t i = 0; i < n; i++)
            load_run(host + i * w.cols, e->data, kind, file_index(f, w.rows, w.cols, r + i, 0), stride, w.cols);
        tensor_set_f32(be, tensor_rows(w, r, n), host);
    }
    io_map_forget(e->data, e->bytes);
    free(host);
}

typedef struct {
    Model *m;
    Shards *shards;
    const StEntry **used;
    int n_used;
    bool ok;
    Error *err;
} LoadJob;

static void load_one(void *ud, const ParamSlot *s) {
    LoadJob *job = ud;
    FileName f;
    if (!job->ok) return;
    family_file_name(&f, job->m->cfg.family, s);
    const StEntry *e = find_tensor(job->shards, f.name, family_prefix(job->m->cfg.family));
    if (!e) {
        job->ok = error_set(job->err, ERR_FORMAT, "tensor '%s' is missing", f.name);
        return;
    }
    int64_t dim[2];
    int n_dim = file_dims(dim, &f, s->rows, s->cols);
    job->ok = check_entry(e, dim, n_dim, job->err);
    if (!job->ok) return;
    load_tensor(job->m->be, *s->w, e, &f);
    if (f.part == 0) job->used[job->n_used++] = e;
}

/* A tied model's file may repeat the embeddings as lm_head.weight; anything else under that name would be ignored
 * weights. */
static bool check_tied_head(const LoadJob *job, const StEntry *e) {
    const StEntry *wte = NULL;
    for (int i = 0; i < job->n_used; i++)
        if (job->used[i]->n_dim == 2 && strstr(job->used[i]->name, "wte.weight")) wte = job->used[i];
    for (int i = 0; i < job->n_used; i++)
        if (strstr(job->used[i]->name, "embed_tokens.weight")) wte = job->used[i];
    return wte && wte->bytes == e->bytes && memcmp(wte->data, e->data, e->bytes) == 0;
}

static int by_pointer(const void *a, const void *b) {
    const StEntry *x = *(const StEntry *const *)a, *y = *(const StEntry *const *)b;
    return x < y ? -1 : x > y;
}

static bool check_surplus(const LoadJob *job, Error *err) {
    const ModelConfig *c = &job->m->cfg;
    char lm[PARAM_NAME_MAX], score[PARAM_NAME_MAX];
    family_head_name(lm, HEAD_LM);
    family_head_name(score, HEAD_SCORE);
    qsort(job->used, (size_t)job->n_used, sizeof *job->used, by_pointer);
    for (int i = 0; i < job->shards->n; i++) {
        const StFile *f = &job->shards->file[i];
        for (int k = 0; k < f->n; k++) {
            const StEntry *e = &f->entry[k];
            if (bsearch(&e, job->used, (size_t)job->n_used, sizeof *job->used, by_pointer)) continue;
            if (strcmp(e->name, score) == 0 || family_ignores(c->family, e->name)) continue;
            if (strcmp(e->name, lm) == 0) {
                if (!c->tied || check_tied_head(job, e)) continue;
                return error_set(err, ERR_FORMAT,
                                 "tensor '%s' differs from the embeddings, but 'tie_word_embeddings' is true", lm);
            }
            return error_set(err, ERR_FORMAT, "tensor '%s' has no place in this model", e->name);
        }
    }
    return true;
}

static void count_one(void *ud, const ParamSlot *s) {
    (void)s;
    ++*(int *)ud;
}

bool model_open(Model *m, Backend *be, const char *dir, bool grads, Error *err) {
    ModelConfig c;
    Shards shards;
    *m = (Model){0};
    if (!model_config_read(&c, dir, err) || !shards_open(&shards, dir, err)) return false;
    LoadJob job = {.m = m, .shards = &shards, .err = err};
    job.ok = model_alloc(m, be, &c, grads, err);
    if (job.ok) {
        int n = 0;
        params_walk(&c, NULL, NULL, count_one, &n);
        job.used = mem_alloc((size_t)n * sizeof *job.used);
        params_walk(&c, &m->w, NULL, load_one, &job);
        job.ok = job.ok && check_surplus(&job, err);
        free(job.used);
    }
    shards_close(&shards);
    if (job.ok) return true;
    model_release(m);
    return error_wrap(err, "%s", dir);
}

bool head_open(Head *h, Model *m, HeadKind kind, const char *dir, bool grads, Error *err) {
    *h = (Head){0};
    if (kind == HEAD_LM && m->cfg.tied) return head_params_open(h, m, kind, m->cfg.n_vocab, grads, err);
    Shards shards;
    if (!shards_open(&shards, dir, err)) return false;
    FileName f = {.n_part = 1};
    family_head_name(f.name, kind);
    const StEntry *e = find_tensor(&shards, f.name, NULL);
    bool ok = e != NULL;
    if (!ok) error_set(err, ERR_FORMAT, "tensor '%s' is missing", f.name);
    if (ok) {
        int64_t n_out = kind == HEAD_LM ? m->cfg.n_vocab : e->n_dim == 2 && e->dim[0] < 1 << 20 ? e->dim[0] : 1;
        int64_t dim[2] = {n_out > 0 ? n_out : 1, m->cfg.d_model};
        ok = check_entry(e, dim, 2, err) && head_params_open(h, m, kind, (int)dim[0], grads, err);
        /* file_index takes one row for a vector; with one output both are the same bytes */
        if (ok) load_tensor(m->be, h->w, e, &f);
    }
    shards_close(&shards);
    return ok || error_wrap(err, "%s", dir);
}

/* -- saving ---------------------------------------------------------------------------------------------------------
 */

typedef struct {
    Net net;
    Heap heap;
    StOut *out;
    int n;
} SaveJob;

/* Files hold F32, or BF16 where the weights are. */
static StOut *add_output(SaveJob *job, const char *name, const int64_t *dim, int n_dim, DType dtype) {
    bool half = dtype == DTYPE_BF16;
    StOut *o = &job->out[job->n++];
    *o = (StOut){.name = heap_strn(&job->heap, name, strlen(name)), .dtype = half ? "BF16" : "F32", .n_dim = n_dim};
    o->bytes = half ? 2 : 4;
    for (int i = 0; i < n_dim; i++) o->dim[i] = dim[i], o->bytes *= (size_t)dim[i];
    o->data = heap_alloc(&job->heap, o->bytes);
    return o;
}

static void store_tensor(Backend *be, StOut *o, Tensor w, const FileName *f) {
    float *host = mem_alloc((size_t)tensor_count(w) * sizeof *host), *to = (float *)o->data;
    uint16_t *half = (uint16_t *)o->data;
    tensor_get_f32(be, host, w);
    for (int64_t r = 0; r < w.rows; r++)
        for (int64_t c = 0; c < w.cols; c++) {
            int64_t at = file_index(f, w.rows, w.cols, r, c);
            uint32_t bits;
            memcpy(&bits, &host[r * w.cols + c], sizeof bits);
            if (w.dtype == DTYPE_BF16)
                half[at] = (uint16_t)(bits >> 16);
            else
                to[at] = host[r * w.cols + c];
        }
    free(host);
}

static void save_one(void *ud, const ParamSlot *s) {
    SaveJob *job = ud;
    FileName f;
    family_file_name(&f, job->net.trunk->cfg.family, s);
    StOut *o = NULL;
    for (int i = job->n; f.part > 0 && !o && i-- > 0;)
        if (strcmp(job->out[i].name, f.name) == 0) o = &job->out[i];
    if (!o) {
        int64_t dim[2];
        int n_dim = file_dims(dim, &f, s->rows, s->cols);
        o = add_output(job, f.name, dim, n_dim, s->w->dtype);
    }
    store_tensor(job->net.trunk->be, o, *s->w, &f);
}

bool net_save(Net n, const char *dir, Error *err) {
    Model *m = n.trunk;
    SaveJob job = {.net = n};
    job.out = mem_alloc((size_t)net_visit(n, NULL, NULL) * sizeof *job.out);
    params_walk(&m->cfg, &m->w, NULL, save_one, &job);
    if (n.head && !n.head->tied) {
        FileName f = {.n_part = 1};
        int64_t dim[2] = {n.head->w.rows, n.head->w.cols};
        family_head_name(f.name, n.head->kind);
        store_tensor(m->be, add_output(&job, f.name, dim, 2, n.head->w.dtype), n.head->w, &f);
    }
    Str path = {0}, config = {0};
    family_config_write(&config, &m->cfg, m->dtype, n.head ? n.head->kind : HEAD_LM, n.head ? n.head->n_out : 0);
    bool ok = io_make_dirs(dir, err);
    if (ok) {
        str_printf(&path, "%s/model.safetensors", dir);
        ok = st_write(path.s, job.out, job.n, err);
    }
    if (ok) {
        str_clear(&path);
        str_printf(&path, "%s/config.json", dir);
        ok = io_write_file(path.s, config.s, config.n, err);
    }
    str_release(&path);
    str_release(&config);
    heap_release(&job.heap);
    free(job.out);
    return ok;
}
