/* nn/model_io.c — reading model directories: config.json and model.safetensors, or the shards that
 * model.safetensors.index.json lists. Loading is strict, because the usual alternative (fill what is missing with
 * random numbers and go on) costs days: a missing, surplus, misplaced or mis-shaped tensor is an error that names it.
 * Files are mapped, a tensor's bytes are touched once, a panel at a time, and given back.
 *
 * What a process pays for before its first token is fresh memory for panels: the kernel clears it, and where the host
 * has to hand it out first that is slower than everything else together. model_open_mapped puts it off. */
#include "nn/nn_int.h"

#include "nn/convert.h"

#include "base/json.h"

#include <stdatomic.h>
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
    if (!in_range("n_layer", c->n_layer, MODEL_MAX_LAYER, err) || !in_range("n_head", c->n_head, 4096, err) ||
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
    const RopeScaling *r = &c->rope;
    bool scaled = r->kind == ROPE_PLAIN || (r->factor > 0 && r->factor < 1e9);
    if (r->kind == ROPE_LLAMA3 || r->kind == ROPE_YARN) scaled = scaled && r->original > 0;
    if (r->kind == ROPE_LLAMA3) scaled = scaled && r->low > 0 && r->high > r->low;
    if (r->kind == ROPE_YARN) scaled = scaled && r->beta_fast > 0 && r->beta_slow > 0 && c->rope_theta != 1;
    if (!scaled) return error_set(err, ERR_CONFIG, "model: the scaling of RoPE is incomplete or out of range");
    if (c->window < 0) return error_set(err, ERR_CONFIG, "model: window %d, expected 0 or more", c->window);
    if (!(c->norm_eps > 0 && c->norm_eps < 1))
        return error_set(err, ERR_CONFIG, "model: norm_eps %g, expected between 0 and 1", c->norm_eps);
    if (c->eos_id < -1 || c->eos_id >= c->n_vocab)
        return error_set(err, ERR_CONFIG, "model: eos_id %d is not in the vocabulary of %d", c->eos_id, c->n_vocab);
    return family_check(c, err) || error_wrap(err, "model");
}

/* -- the files of a directory ---------------------------------------------------------------------------------------
 */

enum { MAX_SHARDS = 100000 };

typedef struct {
    StFile *file;
    const char **name; /* (n) below the folder; in index */
    int n, cap;
    Json *index; /* NULL: one file */
} Shards;

static void shards_close(Shards *s) {
    for (int i = 0; i < s->n; i++) st_close(&s->file[i]);
    free(s->file);
    free(s->name);
    json_release(s->index);
    *s = (Shards){0};
}

static bool add_shard(Shards *s, const char *dir, const char *name, Error *err) {
    if (strchr(name, '/')) return error_set(err, ERR_FORMAT, "shard '%.80s' lies outside the folder", name);
    if (s->n == MAX_SHARDS) return error_set(err, ERR_FORMAT, "more than %d shards", MAX_SHARDS);
    Str path = {0};
    str_printf(&path, "%s/%s", dir, name);
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 8;
        s->file = mem_grow(s->file, (size_t)s->cap * sizeof *s->file);
        s->name = mem_grow(s->name, (size_t)s->cap * sizeof *s->name);
    }
    bool ok = st_open(&s->file[s->n], path.s, err);
    if (ok) s->name[s->n++] = name;
    str_release(&path);
    return ok;
}

static int find_shard(const Shards *s, const char *name) {
    for (int i = s->n; i-- > 0;)
        if (strcmp(s->name[i], name) == 0) return i;
    return -1;
}

/* Every tensor is where the index says, and the index knows every tensor. */
static bool check_index(const Shards *s, const Json *map, Error *err) {
    for (int i = 0; i < json_len(map); i++) {
        const Json *node;
        const char *tensor = json_key_at(map, i, &node), *name = json_str(node, NULL);
        if (!st_find(&s->file[find_shard(s, name)], tensor))
            return error_set(err, ERR_FORMAT, "tensor '%.200s' is missing: the index places it in %.80s", tensor, name);
    }
    for (int i = 0; i < s->n; i++)
        for (int k = 0; k < s->file[i].n; k++) {
            const char *tensor = s->file[i].entry[k].name, *name = json_str(json_get(map, tensor), NULL);
            if (!name || strcmp(name, s->name[i]) != 0)
                return error_set(err, ERR_FORMAT, "tensor '%.200s' of %.80s is %s in the index", tensor, s->name[i],
                                 name ? "placed in another file" : "missing");
        }
    return true;
}

static bool read_index(Shards *s, const char *dir, const char *path, Error *err) {
    if (!json_read_file(&s->index, path, JSON_INT_AS_REAL, err)) return false;
    const Json *map = json_get(s->index, "weight_map");
    bool ok = map && json_kind(map) == JSON_OBJ;
    if (!ok) error_set(err, ERR_FORMAT, "'weight_map' is missing or not an object");
    for (int i = 0; ok && i < json_len(map); i++) {
        const Json *node;
        const char *tensor = json_key_at(map, i, &node), *name = json_str(node, NULL);
        if (!name)
            ok = error_set(err, ERR_FORMAT, "'%.80s' names no file", tensor);
        else if (find_shard(s, name) < 0)
            ok = add_shard(s, dir, name, err);
    }
    ok = ok && check_index(s, map, err);
    return ok || error_wrap(err, "%s", path);
}

/* One file wins over an index, as for the library that made the layout. */
static bool shards_open(Shards *s, const char *dir, Error *err) {
    *s = (Shards){0};
    Str one = {0}, index = {0}, old = {0};
    str_printf(&one, "%s/model.safetensors", dir);
    str_printf(&index, "%s/model.safetensors.index.json", dir);
    str_printf(&old, "%s/pytorch_model.bin", dir);
    if (!io_exists(old.s)) str_put(&old, ".index.json"); /* in shards */
    bool ok;
    if (!io_exists(one.s) && io_exists(index.s))
        ok = read_index(s, dir, index.s, err);
    else if (!io_exists(one.s) && io_exists(old.s))
        ok = error_set(err, ERR_FORMAT,
                       "%s: pickled weights are not read: save the model again with "
                       "save_pretrained(folder, safe_serialization=True)",
                       old.s);
    else
        ok = add_shard(s, dir, "model.safetensors", err);
    if (!ok) shards_close(s);
    str_release(&one);
    str_release(&index);
    str_release(&old);
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

/* Of a tied model either name may be the one that was kept. */
static const StEntry *find_param(const Shards *s, const ModelConfig *c, const ParamSlot *slot, const FileName *f) {
    const StEntry *e = find_tensor(s, f->name, family_prefix(c->family));
    char lm[PARAM_NAME_MAX];
    if (e || slot->number != PARAM_wte || !c->tied) return e;
    family_head_name(lm, HEAD_LM);
    return find_tensor(s, lm, NULL);
}

/* -- loading --------------------------------------------------------------------------------------------------------
 */

bool load_check(const StEntry *e, const int64_t *dim, int n_dim, Error *err) {
    bool same = e->n_dim == n_dim;
    for (int i = 0; same && i < n_dim; i++) same = e->dim[i] == dim[i];
    if (!same) {
        Str found = {0}, wanted = {0};
        for (int i = 0; i < e->n_dim; i++) str_printf(&found, "%s%lld", i ? ", " : "", (long long)e->dim[i]);
        for (int i = 0; i < n_dim; i++) str_printf(&wanted, "%s%lld", i ? ", " : "", (long long)dim[i]);
        error_set(err, ERR_FORMAT, "tensor '%s': shape [%.200s], expected [%s]", e->name, str_get(&found),
                  str_get(&wanted));
        str_release(&found);
        str_release(&wanted);
        return false;
    }
    if (element_of(e->dtype) == ELEM_COUNT)
        return error_set(err, ERR_FORMAT,
                         "tensor '%s': dtype %s is not supported, only F32, BF16, F16, F64 and integers", e->name,
                         e->dtype);
    return true;
}

int file_dims(int64_t dim[2], const FileName *f, int64_t rows, int64_t cols) {
    if (rows == 1) {
        dim[0] = cols * f->n_part;
        return 1;
    }
    dim[0] = f->transposed ? cols : rows * f->n_part;
    dim[1] = f->transposed ? rows * f->n_part : cols;
    return 2;
}

typedef struct {
    Backend *be;
    Tensor w;
    TensorPlace at;
    const StEntry *e;
    const FileName *f;
    Element type;
    int64_t tile_rows;
    float *host;            /* (threads, tile_rows * cols) */
    int64_t *n_nan, *n_inf; /* (threads) */
} LoadTensor;

/* A transposed tensor is read in runs of so many numbers, which lie a row of the file apart. */
enum { RUN_ROWS = 8 * PANEL_ROWS };

static bool is_transposed(const LoadTensor *job) { return job->f->transposed && job->at.rows > 1; }

/* Of element (row, col) of the tensor here among those of the file's. */
static int64_t file_at(const LoadTensor *job, int64_t row, int64_t col) {
    const TensorPlace *at = &job->at;
    row += job->f->part * at->rows + at->row, col += at->col;
    return is_transposed(job) ? col * at->rows * job->f->n_part + row : row * at->cols + col;
}

static bool whole_rows(const LoadTensor *job) { return job->w.cols == job->at.cols; }

enum { FORGET = 1 << 19 }; /* bytes, or one tile */

/* The pages of a run of tiles, once the next run is through: by then most threads have left it, and one that has not
 * finds them in the file again. */
static void forget_run(const LoadTensor *job, int64_t tile) {
    int64_t size = (int64_t)element_bytes(job->type), row = size * job->at.cols, n = FORGET / (row * job->tile_rows);
    if (n == 0) n = 1;
    if (tile % n != n - 1 || tile < 2 * n - 1) return;
    int64_t first = (tile + 1 - 2 * n) * job->tile_rows;
    io_map_forget(job->e->data + file_at(job, first, 0) * size, (size_t)(n * job->tile_rows * row));
}

/* BF16 of the file is BF16 of the model: nothing to convert. */
static void load_as_it_is(LoadTensor *job, int64_t tile, int thread) {
    Tensor w = job->w;
    int64_t first = tile * job->tile_rows, n = w.rows - first < job->tile_rows ? w.rows - first : job->tile_rows;
    int64_t all = job->at.rows * job->f->n_part, nan = 0, inf = 0;
    const unsigned char *in = job->e->data + file_at(job, first, 0) * (int64_t)sizeof(uint16_t);
    Tensor to = tensor_rows(w, first, n);
    if (!is_transposed(job)) {
        count_nonfinite_bf16(&nan, &inf, in, n * w.cols);
        tensor_set_bf16(to, in);
        forget_run(job, tile);
    } else {
        for (int64_t c = 0; c < w.cols; c++)
            count_nonfinite_bf16(&nan, &inf, in + c * all * (int64_t)sizeof(uint16_t), n);
        tensor_set_columns_bf16(to, in, all);
    }
    job->n_nan[thread] += nan, job->n_inf[thread] += inf;
}

/* Tile by tile, so that neither a copy of the tensor nor its pages of the file are in memory at once. */
static void load_panel(void *ud, int64_t tile, int thread) {
    LoadTensor *job = ud;
    if (job->w.panels && job->w.dtype == DTYPE_BF16 && job->type == ELEM_BF16 &&
        (whole_rows(job) || is_transposed(job))) {
        load_as_it_is(job, tile, thread);
        return;
    }
    Tensor w = job->w;
    int64_t size = (int64_t)element_bytes(job->type), first = tile * job->tile_rows, nan, inf;
    int64_t n = w.rows - first < job->tile_rows ? w.rows - first : job->tile_rows;
    float *host = job->host + thread * job->tile_rows * w.cols;
    bool columns = is_transposed(job) && job->be->panels;
    if (!is_transposed(job)) {
        int64_t run = whole_rows(job) ? n : 1;
        for (int64_t i = 0; i < n; i += run)
            element_load(host + i * w.cols, job->e->data + file_at(job, first + i, 0) * size, job->type, run * w.cols);
        forget_run(job, tile);
    } else {
        float run[RUN_ROWS];
        for (int64_t c = 0; c < w.cols; c++) {
            float *to = columns ? host + c * n : run;
            element_load(to, job->e->data + file_at(job, first, c) * size, job->type, n);
            for (int64_t i = 0; i < n && !columns; i++) host[i * w.cols + c] = run[i];
        }
    }
    count_nonfinite(&nan, &inf, host, n * w.cols);
    job->n_nan[thread] += nan, job->n_inf[thread] += inf;
    if (columns)
        tensor_set_columns_f32(tensor_rows(w, first, n), host);
    else
        tensor_set_f32(job->be, tensor_rows(w, first, n), host);
}

static void note_nonfinite(Str *note, const StEntry *e, int64_t nan, int64_t inf, int64_t n) {
    if (nan + inf > 0)
        str_printf(note, "tensor '%s': %lld of %lld values are NaN, %lld infinite\n", e->name, (long long)nan,
                   (long long)n, (long long)inf);
}

void load_tensor(Backend *be, Tensor w, const TensorPlace *at, const StEntry *e, const FileName *f, Str *note) {
    /* Threads where tensors lie in host memory and rows of a panel belong together. */
    Pool *pool = be->panels ? be->pool : NULL;
    size_t n_thread = pool ? (size_t)pool_threads(pool) : 1;
    LoadTensor job = {.be = be, .w = w, .e = e, .f = f, .type = element_of(e->dtype)};
    job.at = at ? *at : (TensorPlace){.rows = w.rows, .cols = w.cols};
    job.tile_rows = is_transposed(&job) ? RUN_ROWS : PANEL_ROWS;
    int64_t n_tile = (w.rows + job.tile_rows - 1) / job.tile_rows, nan = 0, inf = 0;
    job.host = mem_alloc(n_thread * (size_t)(job.tile_rows * w.cols) * sizeof *job.host);
    job.n_nan = mem_alloc(2 * n_thread * sizeof *job.n_nan);
    job.n_inf = job.n_nan + n_thread;
    if (pool)
        pool_for(pool, n_tile, load_panel, &job);
    else
        for (int64_t t = 0; t < n_tile; t++) load_panel(&job, t, 0);
    for (size_t t = 0; t < n_thread; t++) nan += job.n_nan[t], inf += job.n_inf[t];
    if (note) note_nonfinite(note, e, nan, inf, tensor_count(w));
    if (f->part == f->n_part - 1) io_map_forget(e->data, e->bytes);
    free(job.host);
    free(job.n_nan);
}

typedef struct {
    Model *m;
    const ModelConfig *cfg; /* of the whole model */
    Shards *shards;
    Str *note; /* NULL: it has been noted */
    const StEntry **used;
    int n_used;
    const StEntry *wte;
    bool as_they_lie; /* every tensor can be read where it is */
    bool ok;
    Error *err;
} LoadJob;

/* As a product reads a row-major matrix, and a norm its vector. */
static bool lies_ready(const StEntry *e, const FileName *f) {
    return element_of(e->dtype) == ELEM_F32 && !f->transposed && f->n_part == 1 &&
           (uintptr_t)e->data % sizeof(float) == 0;
}

/* Before anything of the model's size is allocated: a config.json may claim what no file holds. */
static void check_one(void *ud, const ParamSlot *s) {
    LoadJob *job = ud;
    FileName f;
    if (!job->ok) return;
    family_file_name(&f, job->cfg->family, s);
    const StEntry *e = find_param(job->shards, job->cfg, s, &f);
    if (!e) {
        job->ok = error_set(job->err, ERR_FORMAT, "tensor '%s' is missing", f.name);
        return;
    }
    int64_t dim[2];
    int n_dim = file_dims(dim, &f, s->rows, s->cols);
    job->ok = load_check(e, dim, n_dim, job->err);
    job->as_they_lie = job->as_they_lie && lies_ready(e, &f);
    if (f.part == 0) job->used[job->n_used++] = e;
    if (s->number == PARAM_wte) job->wte = e;
}

static void load_one(void *ud, const ParamSlot *s) {
    LoadJob *job = ud;
    FileName f;
    family_file_name(&f, job->cfg->family, s);
    const StEntry *e = find_param(job->shards, job->cfg, s, &f);
    TensorPlace at = model_place(job->m, s);
    load_tensor(job->m->be, *s->w, &at, e, &f, job->note);
}

/* A tied model's file may repeat the embeddings as lm_head.weight; anything else under that name would be ignored
 * weights. */
static bool check_tied_head(const LoadJob *job, const StEntry *e) {
    return job->wte->bytes == e->bytes && memcmp(job->wte->data, e->data, e->bytes) == 0;
}

static int by_pointer(const void *a, const void *b) {
    const StEntry *x = *(const StEntry *const *)a, *y = *(const StEntry *const *)b;
    return x < y ? -1 : x > y;
}

static bool check_surplus(const LoadJob *job, Error *err) {
    const ModelConfig *c = &job->m->whole;
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

static void load_own(void *ud, const ParamSlot *s) {
    if (s->layer < 0) load_one(ud, s);
}

static void load_block(void *ud, const ParamSlot *s) {
    if (s->layer >= 0) load_one(ud, s);
}

struct MappedFiles {
    Shards shards;
    ModelParams packed; /* where the weights go, memory that nothing has touched */
    int n_pass;
};

enum { SCAN_TILE = 1 << 16 };

typedef struct {
    const float *x;
    int64_t n;
    _Atomic int64_t n_nan, n_inf;
} Scan;

static void scan_tile(void *ud, int64_t tile, int thread) {
    (void)thread;
    Scan *s = ud;
    int64_t nan, inf, first = tile * SCAN_TILE, n = s->n - first < SCAN_TILE ? s->n - first : SCAN_TILE;
    count_nonfinite(&nan, &inf, s->x + first, n);
    atomic_fetch_add(&s->n_nan, nan);
    atomic_fetch_add(&s->n_inf, inf);
}

/* Everything is checked when it is opened, whenever it is moved. */
static void view_one(void *ud, const ParamSlot *s) {
    LoadJob *job = ud;
    FileName f;
    family_file_name(&f, job->cfg->family, s);
    const StEntry *e = find_param(job->shards, job->cfg, s, &f);
    Scan scan = {.x = (const float *)(const void *)e->data, .n = s->rows * s->cols};
    pool_for(job->m->be->pool, (scan.n + SCAN_TILE - 1) / SCAN_TILE, scan_tile, &scan);
    note_nonfinite(job->note, e, scan.n_nan, scan.n_inf, scan.n);
    *s->w = tensor_over((void *)(uintptr_t)e->data, DTYPE_F32, s->rows, s->cols);
}

/* Takes the shards over. */
static void map_all(LoadJob *job) {
    Model *m = job->m;
    m->mapped = mem_alloc(sizeof *m->mapped);
    m->mapped->packed = m->w;
    m->w = (ModelParams){.block = mem_alloc((size_t)m->cfg.n_layer * sizeof *m->w.block)};
    params_walk(&m->cfg, &m->w, NULL, view_one, job);
    m->mapped->shards = *job->shards;
    *job->shards = (Shards){0};
}

void mapped_close(Model *m) {
    if (!m->mapped) return;
    shards_close(&m->mapped->shards);
    free(m->w.block);
    m->w = m->mapped->packed;
    free(m->mapped);
    m->mapped = NULL;
}

void model_pack(Model *m) {
    if (!m->mapped) return;
    LoadJob job = {.m = m, .cfg = &m->cfg, .shards = &m->mapped->shards};
    /* Not file and panels at once: a tensor's pages come back while it is moved; the largest tensor's before the rest
     * is there. */
    for (int i = 0; i < job.shards->n; i++) io_map_forget(job.shards->file[i].map.p, job.shards->file[i].map.n);
    params_walk(&m->cfg, &m->mapped->packed, NULL, load_own, &job);
    params_walk(&m->cfg, &m->mapped->packed, NULL, load_block, &job);
    mapped_close(m);
}

void mapped_pass(Model *m) {
    if (m->mapped->n_pass++ > 0) model_pack(m);
}

static bool open_files(Model *m, Backend *be, const char *dir, const Mesh *mesh, bool grads, bool mapped, Error *err) {
    ModelConfig c;
    Shards shards;
    *m = (Model){0};
    if (!model_config_read(&c, dir, err) || !shards_open(&shards, dir, err)) return false;
    LoadJob job = {.m = m, .cfg = &c, .shards = &shards, .note = &m->note, .ok = true, .err = err};
    job.as_they_lie = mapped && be->panels && be->pool && be->dtype == DTYPE_F32;
    int n = 0;
    params_walk(&c, NULL, NULL, count_one, &n);
    job.used = mem_alloc((size_t)n * sizeof *job.used);
    params_walk(&c, NULL, NULL, check_one, &job);
    job.ok = job.ok && model_alloc_on(m, be, &c, mesh, grads, err);
    if (job.ok) {
        job.ok = check_surplus(&job, err);
        if (job.ok && job.as_they_lie)
            map_all(&job);
        else if (job.ok)
            params_walk_part(&m->cfg, &m->part, &m->w, NULL, load_one, &job);
        job.ok = job.ok && model_tokens_read(&m->tokens, &m->note, dir, c.n_vocab, err);
    }
    free(job.used);
    shards_close(&shards);
    if (job.ok) return true;
    model_release(m);
    return error_wrap(err, "%s", dir);
}

bool model_open(Model *m, Backend *be, const char *dir, bool grads, Error *err) {
    return open_files(m, be, dir, NULL, grads, false, err);
}

bool model_open_on(Model *m, Backend *be, const char *dir, const Mesh *mesh, bool grads, Error *err) {
    return open_files(m, be, dir, mesh, grads, false, err);
}

bool model_open_mapped(Model *m, Backend *be, const char *dir, Error *err) {
    return open_files(m, be, dir, NULL, false, true, err);
}

typedef struct {
    const Shards *shards;
    const ModelConfig *cfg;
    FileName *name;
    const StEntry *found;
} FindEmbedding;

static void find_embedding(void *ud, const ParamSlot *s) {
    FindEmbedding *e = ud;
    if (s->number != PARAM_wte) return;
    family_file_name(e->name, e->cfg->family, s);
    e->found = find_param(e->shards, e->cfg, s, e->name);
}

bool head_open(Head *h, Model *m, HeadKind kind, const char *dir, bool grads, Error *err) {
    *h = (Head){0};
    bool tied = kind == HEAD_LM && m->cfg.tied;
    if (tied && (m->part.first || !m->part.last)) return head_params_open(h, m, kind, m->cfg.n_vocab, grads, err);
    Shards shards;
    if (!shards_open(&shards, dir, err)) return false;
    FileName f = {.n_part = 1};
    FindEmbedding embedding = {&shards, &m->cfg, &f, NULL};
    family_head_name(f.name, kind);
    if (tied) params_walk(&m->cfg, NULL, NULL, find_embedding, &embedding);
    const StEntry *e = tied ? embedding.found : find_tensor(&shards, f.name, NULL);
    bool ok = e != NULL;
    if (!ok) error_set(err, ERR_FORMAT, "tensor '%s' is missing", f.name);
    if (ok) {
        int64_t n_out = kind == HEAD_LM ? m->whole.n_vocab : e->n_dim == 2 && e->dim[0] < 1 << 20 ? e->dim[0] : 1;
        int64_t dim[2] = {n_out > 0 ? n_out : 1, m->cfg.d_model};
        ok = load_check(e, dim, 2, err) &&
             head_params_open(h, m, kind, kind == HEAD_LM ? m->cfg.n_vocab : (int)dim[0], grads, err);
        if (ok && !tensor_empty(h->w)) {
            /* file_index takes one row for a vector; with one output both are the same bytes */
            TensorPlace at = head_place(m, h);
            load_tensor(m->be, h->w, &at, e, &f, &m->note);
        }
    }
    shards_close(&shards);
    return ok || error_wrap(err, "%s", dir);
}
