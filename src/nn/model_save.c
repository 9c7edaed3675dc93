/* nn/model_save.c — writing model directories: config.json, and model.safetensors or shards with their index. A tensor
 * is converted on its way into the file, so no second copy of a model is ever in memory; of a net that ranks share one
 * tensor of the file at a time comes together, on the rank that writes. */
#include "nn/nn_int.h"

#include "base/json.h"
#include "dist/agree.h"
#include "nn/convert.h"
#include "nn/regroup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PARTS = 3 };
static const int64_t shard_bytes = 5000000000;

typedef struct { /* a parameter: here, or (w empty) to be gathered */
    Tensor w;
    int64_t rows, cols, order;
} SavePart;

typedef struct { /* one tensor of the file: up to three parameters side by side */
    StOut out;
    FileName file;
    SavePart part[MAX_PARTS];
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
    NetGather *gather; /* NULL: the net is whole */
    Comm *group;       /* of those who hand it over */
} SaveJob;

static void add_tensor(SaveJob *job, const FileName *f, const int64_t *dim, int n_dim, SavePart part, DType type) {
    if (job->n == job->cap) {
        job->cap = job->cap ? 2 * job->cap : 64;
        job->tensor = mem_grow(job->tensor, (size_t)job->cap * sizeof *job->tensor);
    }
    SaveTensor *t = &job->tensor[job->n++];
    const char *dtype = job->dtype ? job->dtype : type == DTYPE_BF16 ? "BF16" : "F32";
    *t = (SaveTensor){.file = *f};
    t->out = (StOut){.name = heap_strn(&job->heap, f->name, strlen(f->name)), .dtype = dtype, .n_dim = n_dim};
    t->out.bytes = element_bytes(element_of(dtype));
    for (int i = 0; i < n_dim; i++) t->out.dim[i] = dim[i], t->out.bytes *= (size_t)dim[i];
    t->part[f->part] = part;
}

static void save_one(void *ud, const ParamSlot *s) {
    SaveJob *job = ud;
    FileName f;
    const Model *m = job->net.trunk;
    DType type = s->w ? s->w->dtype : s->use == PARAM_VECTOR ? m->be->real : m->dtype;
    SavePart part = {.rows = s->rows, .cols = s->cols, .order = param_order(s->layer, s->number)};
    if (s->w) part.w = *s->w;
    family_file_name(&f, m->cfg.family, s);
    for (int i = job->n; f.part > 0 && i-- > 0;)
        if (strcmp(job->tensor[i].out.name, f.name) == 0) {
            job->tensor[i].part[f.part] = part;
            return;
        }
    int64_t dim[2];
    int n_dim = file_dims(dim, &f, s->rows, s->cols);
    add_tensor(job, &f, dim, n_dim, part, type);
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

/* Rows of the parts one after another. host: all of them, gathered; NULL: they are here. */
static bool put_rows(Put *p, Backend *be, const SaveTensor *s, const float *host, Error *err) {
    int64_t cols = s->part[0].cols;
    float *some = mem_alloc((size_t)(PANEL_ROWS * cols) * sizeof *some);
    p->bytes = mem_alloc((size_t)(PANEL_ROWS * cols) * element_bytes(p->type));
    bool ok = true;
    for (int k = 0; k < s->file.n_part && ok; k++)
        for (int64_t r = 0; r < s->part[k].rows && ok; r += PANEL_ROWS) {
            int64_t n = s->part[k].rows - r < PANEL_ROWS ? s->part[k].rows - r : PANEL_ROWS;
            if (!host) tensor_get_f32(be, some, tensor_rows(s->part[k].w, r, n));
            ok = put_floats(p, host ? host : some, n * cols, err);
            if (host) host += n * cols;
        }
    free(some);
    free(p->bytes);
    return ok;
}

/* Row c of the file is column c of every part. */
static bool put_columns(Put *p, const SaveTensor *s, const float *host, Error *err) {
    int64_t rows = s->part[0].rows, cols = s->part[0].cols, n = rows * s->file.n_part;
    float *row = mem_alloc((size_t)n * sizeof *row);
    p->bytes = mem_alloc((size_t)n * element_bytes(p->type));
    bool ok = true;
    for (int64_t c = 0; c < cols && ok; c++) {
        for (int64_t r = 0; r < n; r++) row[r] = host[r * cols + c];
        ok = put_floats(p, row, n, err);
    }
    free(row);
    free(p->bytes);
    return ok;
}

/* All parts of one tensor, on the rank that writes (out NULL: on another one). */
static void bring_parts(SaveJob *job, const SaveTensor *s, float *out) {
    for (int k = 0; k < s->file.n_part; k++) {
        if (job->gather)
            net_gather(job->gather, s->part[k].order, out);
        else
            tensor_get_f32(job->net.trunk->be, out, s->part[k].w);
        if (out) out += s->part[k].rows * s->part[k].cols;
    }
}

/* Files have an order of their own, so the rank that writes says which tensor is next. */
static const char next_site[] = "gather.next";
static void say_next(const SaveJob *job, int32_t number) {
    comm_broadcast(job->group, &number, 1, DTYPE_I32, 0, next_site);
}

static float *tensor_room(const SaveTensor *s) {
    int64_t n = 0;
    for (int k = 0; k < s->file.n_part; k++) n += s->part[k].rows * s->part[k].cols;
    return mem_alloc((size_t)n * sizeof(float));
}

static bool put_tensor(void *ud, const StOut *t, Writer *w, Error *err) {
    SaveJob *job = ud;
    const SaveTensor *s = job->at[t - job->first];
    Put p = {.t = t, .w = w, .type = element_of(t->dtype)};
    bool columns = s->file.transposed && s->out.n_dim == 2, together = columns || job->gather;
    float *host = together ? tensor_room(s) : NULL;
    if (job->gather) say_next(job, (int32_t)(s - job->tensor));
    if (together) bring_parts(job, s, host);
    bool ok = columns ? put_columns(&p, s, host, err) : put_rows(&p, job->net.trunk->be, s, host, err);
    free(host);
    return ok;
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
static bool is_stale(void *ud, const char *name) {
    int k, of, end = 0, n_shard = *(const int *)ud;
    if (strcmp(name, "model.safetensors") == 0) return n_shard > 1;
    if (strcmp(name, "model.safetensors.index.json") == 0) return n_shard == 1;
    if (sscanf(name, "model-%5d-of-%5d.safetensors%n", &k, &of, &end) != 2 || end == 0 || name[end]) return false;
    return n_shard == 1 || of != n_shard;
}

static int head_outputs(Net n) {
    if (!n.head) return 0;
    return n.head->kind == HEAD_LM ? n.trunk->whole.n_vocab : n.head->n_out;
}

static void put_config(Str *out, Net n, const char *dtype) {
    Model *m = n.trunk;
    if (!dtype) dtype = m->dtype == DTYPE_BF16 ? "BF16" : "F32";
    family_config_write(out, model_is_whole(m) ? &m->cfg : &m->whole, &m->tokens, dtype,
                        n.head ? n.head->kind : HEAD_LM, head_outputs(n));
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
    json_out_int(j, "outputs", head_outputs(n));
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

static void list_tensors(SaveJob *job) {
    const Net n = job->net;
    Model *m = n.trunk;
    if (job->gather)
        params_walk(&m->whole, NULL, NULL, save_one, job);
    else
        params_walk(&m->cfg, &m->w, NULL, save_one, job);
    if (!n.head || n.head->tied) return;
    FileName f = {.n_part = 1};
    SavePart part = {.rows = n.head->kind == HEAD_LM ? m->whole.n_vocab : n.head->n_out, .cols = m->whole.d_model};
    part.order = param_order(-1, PARAM_head);
    if (!job->gather) part.w = n.head->w;
    int64_t dim[2] = {part.rows, part.cols};
    family_head_name(f.name, n.head->kind);
    add_tensor(job, &f, dim, 2, part, job->gather ? m->dtype : n.head->w.dtype);
}

static bool write_folder(SaveJob *job, const char *dir, int64_t most, Error *err) {
    int n_shard = assign_shards(job, most > 0 ? most : shard_bytes);
    bool ok = io_make_dirs(dir, err);
    for (int i = 0; i < n_shard && ok; i++) ok = write_shard(job, dir, i, n_shard, err);
    if (ok && n_shard > 1) ok = write_index(job, dir, n_shard, err);
    return ok && io_remove_in(dir, is_stale, &n_shard, err) && write_config(job, dir, err);
}

static bool has_window_key(const Model *m, Error *err) {
    bool windowed = m->cfg.family != FAMILY_LLAMA && m->cfg.family != FAMILY_GPT2;
    return m->cfg.window == 0 || windowed ||
           error_set(err, ERR_CONFIG, "config.json of %s has no key for a window", family_model_type(m->cfg.family));
}

static void job_release(SaveJob *job) {
    heap_release(&job->heap);
    free(job->tensor);
    net_gather_close(job->gather);
}

bool net_save_as(Net n, const char *dir, const SaveOptions *o, Error *err) {
    CHECK(model_is_whole(n.trunk), "a part of a model has no folder of its own");
    if (!has_window_key(n.trunk, err)) return false;
    SaveJob job = {.net = n, .dtype = o->dtype};
    list_tensors(&job);
    bool ok = write_folder(&job, dir, o->shard, err);
    job_release(&job);
    return ok;
}

/* The others hand over what they are asked for, until nothing more is: all of it is written, or could not be. */
static void hand_over(SaveJob *job) {
    int32_t next;
    Error ignore;
    do {
        next = -1;
        comm_broadcast(job->group, &next, 1, DTYPE_I32, 0, next_site);
        if (next >= 0 && comm_ok(job->group, &ignore)) bring_parts(job, &job->tensor[next], NULL);
    } while (next >= 0 && comm_ok(job->group, &ignore));
}

bool net_save_on(Net n, const Mesh *mesh, const char *dir, Error *err) {
    if (model_is_whole(n.trunk)) return !mesh_leads(mesh) || net_save(n, dir, err);
    if (mesh->at.dp > 0) return true;
    if (!has_window_key(n.trunk, err)) return false;
    SaveJob job = {.net = n, .group = mesh->model};
    Error mine = {0};
    if (!net_gather_open(&job.gather, n, mesh, err)) return false;
    list_tensors(&job);
    if (comm_rank(mesh->model) > 0) {
        hand_over(&job);
    } else {
        write_folder(&job, dir, 0, &mine);
        say_next(&job, -1);
    }
    bool ok = agree(mesh->model, &mine, NULL, 0, NULL, err);
    job_release(&job);
    return ok;
}

bool net_save(Net n, const char *dir, Error *err) { return net_save_as(n, dir, &(SaveOptions){0}, err); }
