/* nn/model_save.c — writing model directories: config.json, and model.safetensors or shards with their index. A tensor
 * is converted on its way into the file, so no second copy of a model is ever in memory. */
#include "nn/nn_int.h"

#include "base/json.h"
#include "nn/convert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PARTS = 3 };
static const int64_t shard_bytes = 5000000000;

typedef struct { /* one tensor of the file: up to three parameters side by side */
    StOut out;
    FileName file;
    Tensor part[MAX_PARTS];
    int shard;
} SaveTensor;

typedef struct {
    Net net;
    const char *dtype; /* of all; NULL: of each */
    Heap heap;
    SaveTensor *tensor;
    int n, cap;
    const SaveTensor **at; /* (n) by number in the file being written */
    const StOut *first;
} SaveJob;

static void add_tensor(SaveJob *job, const FileName *f, const int64_t *dim, int n_dim, Tensor w) {
    if (job->n == job->cap) {
        job->cap = job->cap ? 2 * job->cap : 64;
        job->tensor = mem_grow(job->tensor, (size_t)job->cap * sizeof *job->tensor);
    }
    SaveTensor *t = &job->tensor[job->n++];
    const char *dtype = job->dtype ? job->dtype : w.dtype == DTYPE_BF16 ? "BF16" : "F32";
    *t = (SaveTensor){.file = *f};
    t->out = (StOut){.name = heap_strn(&job->heap, f->name, strlen(f->name)), .dtype = dtype, .n_dim = n_dim};
    t->out.bytes = element_bytes(element_of(dtype));
    for (int i = 0; i < n_dim; i++) t->out.dim[i] = dim[i], t->out.bytes *= (size_t)dim[i];
    t->part[f->part] = w;
}

static void save_one(void *ud, const ParamSlot *s) {
    SaveJob *job = ud;
    FileName f;
    family_file_name(&f, job->net.trunk->cfg.family, s);
    for (int i = job->n; f.part > 0 && i-- > 0;)
        if (strcmp(job->tensor[i].out.name, f.name) == 0) {
            job->tensor[i].part[f.part] = *s->w;
            return;
        }
    int64_t dim[2];
    int n_dim = file_dims(dim, &f, s->rows, s->cols);
    add_tensor(job, &f, dim, n_dim, *s->w);
}

/* -- bytes of a tensor -- */

typedef struct {
    const StOut *t;
    Writer *w;
    unsigned char *bytes;
    Element type;
} Put;

static bool put_floats(Put *p, const float *x, int64_t n, Error *err) {
    int64_t lost = element_store(p->bytes, x, p->type, n);
    if (lost > 0)
        return error_set(err, ERR_FORMAT, "tensor '%s' has values that %s cannot hold: write BF16 or F32", p->t->name,
                         p->t->dtype);
    return writer_put(p->w, p->bytes, (size_t)n * element_bytes(p->type), err);
}

/* Rows of the parts one after another. */
static bool put_rows(Put *p, Backend *be, const SaveTensor *s, Error *err) {
    int64_t cols = s->part[0].cols;
    float *host = mem_alloc((size_t)(PANEL_ROWS * cols) * sizeof *host);
    p->bytes = mem_alloc((size_t)(PANEL_ROWS * cols) * element_bytes(p->type));
    bool ok = true;
    for (int k = 0; k < s->file.n_part && ok; k++)
        for (int64_t r = 0; r < s->part[k].rows && ok; r += PANEL_ROWS) {
            int64_t n = s->part[k].rows - r < PANEL_ROWS ? s->part[k].rows - r : PANEL_ROWS;
            tensor_get_f32(be, host, tensor_rows(s->part[k], r, n));
            ok = put_floats(p, host, n * cols, err);
        }
    free(host);
    free(p->bytes);
    return ok;
}

/* Row c of the file is column c of every part. */
static bool put_columns(Put *p, Backend *be, const SaveTensor *s, Error *err) {
    int64_t rows = s->part[0].rows, cols = s->part[0].cols, n = rows * s->file.n_part;
    float *host = mem_alloc((size_t)(n * cols) * sizeof *host), *row = mem_alloc((size_t)n * sizeof *row);
    p->bytes = mem_alloc((size_t)n * element_bytes(p->type));
    for (int k = 0; k < s->file.n_part; k++) tensor_get_f32(be, host + k * rows * cols, s->part[k]);
    bool ok = true;
    for (int64_t c = 0; c < cols && ok; c++) {
        for (int64_t r = 0; r < n; r++) row[r] = host[r * cols + c];
        ok = put_floats(p, row, n, err);
    }
    free(host);
    free(row);
    free(p->bytes);
    return ok;
}

static bool put_tensor(void *ud, const StOut *t, Writer *w, Error *err) {
    const SaveJob *job = ud;
    const SaveTensor *s = job->at[t - job->first];
    Put p = {.t = t, .w = w, .type = element_of(t->dtype)};
    Backend *be = job->net.trunk->be;
    return s->file.transposed && s->out.n_dim == 2 ? put_columns(&p, be, s, err) : put_rows(&p, be, s, err);
}

/* -- files -- */

/* Tensors in their order, a new file where the next would make one too long. Returns the number of files. */
static int assign_shards(SaveJob *job, int64_t most) {
    int shard = 0;
    int64_t bytes = 0;
    for (int i = 0; i < job->n; i++) {
        int64_t own = (int64_t)job->tensor[i].out.bytes;
        if (bytes > 0 && bytes + own > most) shard++, bytes = 0;
        job->tensor[i].shard = shard;
        bytes += own;
    }
    return shard + 1;
}

static void shard_name(char out[64], int shard, int n_shard) {
    if (n_shard == 1)
        snprintf(out, 64, "model.safetensors");
    else
        snprintf(out, 64, "model-%05d-of-%05d.safetensors", shard + 1, n_shard);
}

static bool write_shard(SaveJob *job, const char *dir, int shard, int n_shard, Error *err) {
    StOut *out = mem_alloc((size_t)job->n * sizeof *out);
    job->at = mem_alloc((size_t)job->n * sizeof *job->at);
    int n = 0;
    for (int i = 0; i < job->n; i++) {
        if (job->tensor[i].shard != shard) continue;
        job->at[n] = &job->tensor[i];
        out[n++] = job->tensor[i].out;
    }
    job->first = out;
    char name[64];
    Str path = {0};
    shard_name(name, shard, n_shard);
    str_printf(&path, "%s/%s", dir, name);
    bool ok = st_write_with(path.s, out, n, put_tensor, job, err);
    str_release(&path);
    free(job->at);
    free(out);
    return ok;
}

static bool write_index(const SaveJob *job, const char *dir, int n_shard, Error *err) {
    Str text = {0}, path = {0};
    JsonOut j;
    int64_t total = 0;
    char name[64];
    for (int i = 0; i < job->n; i++) total += (int64_t)job->tensor[i].out.bytes;
    json_out_init(&j, &text, 2);
    json_out_obj(&j, NULL);
    json_out_obj(&j, "metadata");
    json_out_int(&j, "total_size", total);
    json_out_obj_end(&j);
    json_out_obj(&j, "weight_map");
    for (int i = 0; i < job->n; i++) {
        shard_name(name, job->tensor[i].shard, n_shard);
        json_out_str(&j, job->tensor[i].out.name, name);
    }
    json_out_obj_end(&j);
    json_out_obj_end(&j);
    str_putc(&text, '\n');
    str_printf(&path, "%s/model.safetensors.index.json", dir);
    bool ok = io_write_file(path.s, text.s, text.n, err);
    str_release(&text);
    str_release(&path);
    return ok;
}

/* Weights of an earlier save under names that this one did not write: a reader would take them, or wonder. */
static bool is_stale(const char *name, int n_shard) {
    int k, of, end = 0;
    if (strcmp(name, "model.safetensors") == 0) return n_shard > 1;
    if (strcmp(name, "model.safetensors.index.json") == 0) return n_shard == 1;
    if (sscanf(name, "model-%5d-of-%5d.safetensors%n", &k, &of, &end) != 2 || end == 0 || name[end]) return false;
    return n_shard == 1 || of != n_shard;
}

static bool remove_stale(const char *dir, int n_shard, Error *err) {
    char **name;
    int n;
    Str path = {0};
    if (!io_list_dir(&name, &n, dir, err)) return false;
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        if (!is_stale(name[i], n_shard)) continue;
        str_clear(&path);
        str_printf(&path, "%s/%s", dir, name[i]);
        ok = io_remove_tree(path.s, err);
    }
    io_free_list(name, n);
    str_release(&path);
    return ok;
}

static void put_config(Str *out, Net n, const char *dtype) {
    Model *m = n.trunk;
    if (!dtype) dtype = m->dtype == DTYPE_BF16 ? "BF16" : "F32";
    family_config_write(out, model_is_whole(m) ? &m->cfg : &m->whole, &m->tokens, dtype,
                        n.head ? n.head->kind : HEAD_LM, n.head ? n.head->n_out : 0);
}

bool net_describe(JsonOut *j, const char *key, Net n, Error *err) {
    Str text = {0};
    Json *config;
    put_config(&text, n, NULL);
    bool ok = json_parse(&config, text.s, text.n, 0, "config.json", 1, err);
    str_release(&text);
    if (!ok) return false;
    json_out_obj(j, key);
    json_out_node(j, "config", config);
    json_out_str(j, "head", n.head && n.head->kind == HEAD_SCORE ? "score" : "lm");
    json_out_int(j, "outputs", n.head ? n.head->n_out : 0);
    if (n.adapter) {
        const LoraConfig *c = adapter_config(n.adapter);
        json_out_obj(j, "adapter");
        json_out_int(j, "r", c->r);
        json_out_num(j, "alpha", c->alpha);
        json_out_bool(j, "rslora", c->rslora);
        json_out_obj_end(j);
    } else {
        json_out_str(j, "adapter", NULL);
    }
    json_out_obj_end(j);
    json_release(config);
    return true;
}

static bool write_config(const SaveJob *job, const char *dir, Error *err) {
    Str path = {0}, config = {0};
    put_config(&config, job->net, job->dtype);
    str_printf(&path, "%s/config.json", dir);
    bool ok = io_write_file(path.s, config.s, config.n, err);
    str_release(&path);
    str_release(&config);
    return ok;
}

bool net_save_as(Net n, const char *dir, const SaveOptions *o, Error *err) {
    Model *m = n.trunk;
    CHECK(model_is_whole(m), "a part of a model has no folder");
    bool windowed = m->cfg.family != FAMILY_LLAMA && m->cfg.family != FAMILY_GPT2;
    if (m->cfg.window > 0 && !windowed)
        return error_set(err, ERR_CONFIG, "config.json of %s has no key for a window",
                         family_model_type(m->cfg.family));
    SaveJob job = {.net = n, .dtype = o->dtype};
    params_walk(&m->cfg, &m->w, NULL, save_one, &job);
    if (n.head && !n.head->tied) {
        FileName f = {.n_part = 1};
        int64_t dim[2] = {n.head->w.rows, n.head->w.cols};
        family_head_name(f.name, n.head->kind);
        add_tensor(&job, &f, dim, 2, n.head->w);
    }
    int n_shard = assign_shards(&job, o->shard > 0 ? o->shard : shard_bytes);
    bool ok = io_make_dirs(dir, err);
    for (int i = 0; i < n_shard && ok; i++) ok = write_shard(&job, dir, i, n_shard, err);
    if (ok && n_shard > 1) ok = write_index(&job, dir, n_shard, err);
    ok = ok && remove_stale(dir, n_shard, err) && write_config(&job, dir, err);
    heap_release(&job.heap);
    free(job.tensor);
    return ok;
}

bool net_save(Net n, const char *dir, Error *err) { return net_save_as(n, dir, &(SaveOptions){0}, err); }
