/* nn/ckpt_manifest.c — manifest.json as a struct: strict reader, writer, and the union of the records of several ranks.
 *
 * The last key holds the crc32c of every byte before its comma, in a tail of fixed form, so that no bit of the file can
 * change unseen. After that the reader still trusts nothing: a file with a right sum may come from anywhere. */
#include "nn/ckpt_int.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/crc32c.h"

const char *const ckpt_kind_names[CKPT_KINDS] = {"param", "master", "m", "v"};
const char *const ckpt_section_names[CKPT_SECTIONS] = {"layout", "progress", "rng", "schedule", "env", "nets"};

enum { TAIL = 20 }; /* ,"self":"89abcdef"}\n */

typedef struct {
    Json *root;
    Heap heap;
} Impl;

static Impl *impl_of(CkptManifest *m) {
    if (!m->impl) m->impl = mem_alloc(sizeof(Impl));
    return m->impl;
}

void ckpt_manifest_release(CkptManifest *m) {
    Impl *impl = m->impl;
    for (int i = 0; i < m->n_tensor; i++) free(m->tensor[i].box);
    for (int i = 0; i < m->n_file; i++) crc_sums_release(&m->file[i].sums);
    free(m->tensor);
    free(m->file);
    if (impl) {
        json_release(impl->root);
        heap_release(&impl->heap);
    }
    free(impl);
    *m = (CkptManifest){0};
}

static int by_kind_and_name(const void *a, const void *b) {
    const CkptTensor *x = a, *y = b;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    return strcmp(x->name, y->name);
}

const CkptTensor *ckpt_manifest_find(const CkptManifest *m, CkptKind kind, const char *name) {
    CkptTensor key = {.name = name, .kind = kind};
    return m->n_tensor ? bsearch(&key, m->tensor, (size_t)m->n_tensor, sizeof key, by_kind_and_name) : NULL;
}

/* -- writing */

static void put_dims(JsonOut *j, const char *key, const int64_t *v, int n) {
    json_out_arr(j, key);
    for (int d = 0; d < n; d++) json_out_int(j, NULL, v[d]);
    json_out_arr_end(j);
}

static void put_tensors(JsonOut *j, const CkptManifest *m) {
    json_out_arr(j, "tensors");
    for (int i = 0; i < m->n_tensor; i++) {
        const CkptTensor *t = &m->tensor[i];
        json_out_obj(j, NULL);
        json_out_str(j, "name", t->name);
        json_out_str(j, "kind", ckpt_kind_names[t->kind]);
        json_out_str(j, "dtype", dtype_name(t->dtype));
        put_dims(j, "shape", t->shape, t->n_dim);
        json_out_arr(j, "boxes");
        for (int b = 0; b < t->n_box; b++) {
            json_out_obj(j, NULL);
            put_dims(j, "offset", t->box[b].box.at, t->n_dim);
            put_dims(j, "extent", t->box[b].box.len, t->n_dim);
            json_out_int(j, "file", t->box[b].file);
            json_out_int(j, "at", t->box[b].at);
            json_out_int(j, "bytes", t->box[b].bytes);
            json_out_obj_end(j);
        }
        json_out_arr_end(j);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
}

static void put_files(JsonOut *j, const CkptManifest *m) {
    json_out_arr(j, "files");
    for (int i = 0; i < m->n_file; i++) {
        json_out_obj(j, NULL);
        json_out_str(j, "name", m->file[i].name);
        json_out_int(j, "bytes", m->file[i].sums.bytes);
        json_out_arr(j, "crc32c");
        for (int64_t b = 0; b < m->file[i].sums.n; b++) json_out_int(j, NULL, m->file[i].sums.crc[b]);
        json_out_arr_end(j);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
}

static bool put_section(JsonOut *j, const CkptPut *p, int s, Error *err) {
    const char *text = p->text ? p->text[s] : NULL;
    const Json *node = p->m->section[s];
    Json *parsed = NULL;
    if (text && !json_parse(&parsed, text, strlen(text), 0, ckpt_section_names[s], 1, err)) return false;
    if (parsed) node = parsed;
    if (node) {
        json_out_node(j, ckpt_section_names[s], node);
    } else {
        json_out_obj(j, ckpt_section_names[s]);
        if (s == CKPT_LAYOUT) {
            json_out_int(j, "world", p->m->world);
            static const char *const one[] = {"tp", "cp", "pp"};
            for (int i = 0; i < COUNT_OF(one); i++) json_out_int(j, one[i], 1);
            json_out_int(j, "dp", p->m->world);
            json_out_int(j, "zero", 0);
            json_out_str(j, "order", "tp cp pp dp");
        }
        json_out_obj_end(j);
    }
    json_release(parsed);
    return true;
}

bool ckpt_manifest_put(Str *out, const CkptPut *p, Error *err) {
    const CkptManifest *m = p->m;
    JsonOut j;
    char when[32];
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
    str_clear(out);
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "format", p->format);
    json_out_str(&j, "run", m->run ? m->run : "");
    json_out_int(&j, "attempt", m->attempt);
    json_out_int(&j, "step", m->step);
    json_out_int(&j, "parent", m->parent);
    json_out_str(&j, "created", when);
    json_out_int(&j, "world", m->world);
    bool ok = true;
    for (int s = 0; s < CKPT_SECTIONS && ok; s++) {
        ok = put_section(&j, p, s, err);
        if (s != CKPT_LAYOUT) continue;
        put_tensors(&j, m);
        put_files(&j, m);
    }
    json_out_num(&j, "metric", p->metric);
    /* The tail by hand: its form is fixed to the byte. */
    uint32_t crc = crc32c(0, out->s, out->n);
    str_printf(out, ",\"self\":\"%08" PRIx32 "\"}\n", crc);
    return ok;
}

/* -- reading */

static bool need_int(const Json *obj, const char *key, int64_t least, int64_t *out, Error *err) {
    const Json *j = json_get(obj, key);
    if (!j || json_kind(j) != JSON_INT || json_int(j, -1) < least)
        return error_set(err, ERR_FORMAT, "'%s' is missing or no whole number from %" PRId64 " on", key, least);
    *out = json_int(j, least);
    return true;
}

static const char *need_text(const Json *obj, const char *key, Error *err) {
    size_t n;
    const char *s = json_str(json_get(obj, key), &n);
    if (!s) error_set(err, ERR_FORMAT, "'%s' is missing or no text", key);
    return s;
}

static bool need_dims(const Json *obj, const char *key, int64_t *out, int n, int64_t least, Error *err) {
    const Json *a = json_get(obj, key);
    bool ok = a && json_kind(a) == JSON_ARR && json_len(a) == n;
    for (int d = 0; d < n && ok; d++) {
        const Json *v = json_at(a, d);
        ok = json_kind(v) == JSON_INT && json_int(v, -1) >= least;
        out[d] = json_int(v, 0);
    }
    return ok ||
           error_set(err, ERR_FORMAT, "'%s' is missing or not %d whole numbers from %" PRId64 " on", key, n, least);
}

static bool find_word(int *out, const char *word, const char *const *list, int n) {
    for (*out = 0; *out < n; ++*out)
        if (word && strcmp(list[*out], word) == 0) return true;
    return false;
}

static bool read_file(CkptFile *f, const Json *j, Error *err) {
    f->name = need_text(j, "name", err);
    if (!f->name) return false;
    if (strchr(f->name, '/') || f->name[0] == '.' || !f->name[0])
        return error_set(err, ERR_FORMAT, "file '%.80s': expected a plain name", f->name);
    if (!need_int(j, "bytes", 0, &f->sums.bytes, err)) return error_wrap(err, "file '%.80s'", f->name);
    const Json *crc = json_get(j, "crc32c");
    int64_t n = crcfile_count(f->sums.bytes);
    if (!crc || json_kind(crc) != JSON_ARR || json_len(crc) != n)
        return error_set(err, ERR_FORMAT, "file '%.80s': expected 'crc32c' to list %" PRId64 " sums", f->name, n);
    f->sums.n = n;
    f->sums.crc = mem_alloc((size_t)(n > 0 ? n : 1) * sizeof *f->sums.crc);
    for (int i = 0; i < n; i++) {
        int64_t v = json_kind(json_at(crc, i)) == JSON_INT ? json_int(json_at(crc, i), -1) : -1;
        if (v < 0 || v > UINT32_MAX) return error_set(err, ERR_FORMAT, "file '%.80s': sum %d", f->name, i);
        f->sums.crc[i] = (uint32_t)v;
    }
    return true;
}

static bool read_box(CkptBox *b, const CkptTensor *t, const CkptManifest *m, const Json *j, Error *err) {
    int64_t file = 0;
    b->box.n_dim = t->n_dim;
    if (!need_dims(j, "offset", b->box.at, t->n_dim, 0, err) || !need_dims(j, "extent", b->box.len, t->n_dim, 1, err) ||
        !need_int(j, "file", 0, &file, err) || !need_int(j, "at", 0, &b->at, err) ||
        !need_int(j, "bytes", 1, &b->bytes, err))
        return false;
    if (!box_inside(&b->box, t->shape)) return error_set(err, ERR_FORMAT, "a box reaches out of the tensor");
    if (file >= m->n_file) return error_set(err, ERR_FORMAT, "a box in file %" PRId64 " of %d", file, m->n_file);
    b->file = (int)file;
    if (b->bytes != box_volume(&b->box) * (int64_t)dtype_bytes(t->dtype))
        return error_set(err, ERR_FORMAT, "a box of %" PRId64 " bytes, its extent asks for another number", b->bytes);
    if (b->at > m->file[file].sums.bytes || b->bytes > m->file[file].sums.bytes - b->at)
        return error_set(err, ERR_FORMAT, "a box reaches out of file '%.80s'", m->file[file].name);
    return true;
}

static bool read_shape(CkptTensor *t, const Json *j, Error *err) {
    const Json *shape = json_get(j, "shape");
    int n = shape && json_kind(shape) == JSON_ARR ? json_len(shape) : 0, dtype;
    const char *names[DTYPE_COUNT];
    for (int i = 0; i < DTYPE_COUNT; i++) names[i] = dtype_name((DType)i);
    if (!find_word(&dtype, need_text(j, "dtype", err), names, DTYPE_COUNT))
        return error_set(err, ERR_FORMAT, "'dtype' is missing or unknown");
    if (n < 1 || n > BOX_DIMS)
        return error_set(err, ERR_FORMAT, "'shape' is missing or not of 1 to %d dimensions", BOX_DIMS);
    t->dtype = (DType)dtype, t->n_dim = n;
    if (!need_dims(j, "shape", t->shape, n, 1, err)) return false;
    int64_t bytes = (int64_t)dtype_bytes(t->dtype);
    for (int d = 0; d < n; d++)
        if (__builtin_mul_overflow(bytes, t->shape[d], &bytes))
            return error_set(err, ERR_FORMAT, "'shape' has more than 2^63 bytes");
    return true;
}

static bool read_tensor(CkptTensor *t, const CkptManifest *m, const Json *j, Error *err) {
    int kind;
    t->name = need_text(j, "name", err);
    if (!t->name) return false;
    const char *word = need_text(j, "kind", err);
    if (!find_word(&kind, word, ckpt_kind_names, CKPT_KINDS))
        return error_set(err, ERR_FORMAT, "tensor '%.120s': 'kind' is missing or unknown", t->name);
    t->kind = (CkptKind)kind;
    bool ok = read_shape(t, j, err);
    const Json *boxes = json_get(j, "boxes");
    int n = ok && boxes && json_kind(boxes) == JSON_ARR ? json_len(boxes) : 0;
    if (ok && n < 1) ok = error_set(err, ERR_FORMAT, "'boxes' is missing or empty");
    t->box = mem_alloc((size_t)(n > 0 ? n : 1) * sizeof *t->box);
    for (; ok && t->n_box < n; t->n_box += ok) ok = read_box(&t->box[t->n_box], t, m, json_at(boxes, t->n_box), err);
    return ok || error_wrap(err, "tensor '%.120s' (%s)", t->name, ckpt_kind_names[kind]);
}

static bool read_lists(CkptManifest *m, const Json *root, Error *err) {
    const Json *files = json_get(root, "files"), *tensors = json_get(root, "tensors");
    if (!files || json_kind(files) != JSON_ARR || !tensors || json_kind(tensors) != JSON_ARR)
        return error_set(err, ERR_FORMAT, "'files' or 'tensors' is missing or no list");
    int n_file = json_len(files), n_tensor = json_len(tensors);
    m->file = mem_alloc((size_t)(n_file + 1) * sizeof *m->file);
    m->tensor = mem_alloc((size_t)(n_tensor + 1) * sizeof *m->tensor);
    for (int i = 0; i < n_file; i++) {
        m->n_file++;
        if (!read_file(&m->file[i], json_at(files, i), err)) return false;
        for (int k = 0; k < i; k++)
            if (strcmp(m->file[k].name, m->file[i].name) == 0)
                return error_set(err, ERR_FORMAT, "file '%.80s' is listed twice", m->file[i].name);
    }
    for (int i = 0; i < n_tensor; i++) {
        m->n_tensor++;
        if (!read_tensor(&m->tensor[i], m, json_at(tensors, i), err)) return false;
    }
    qsort(m->tensor, (size_t)m->n_tensor, sizeof *m->tensor, by_kind_and_name);
    for (int i = 1; i < m->n_tensor; i++)
        if (by_kind_and_name(&m->tensor[i - 1], &m->tensor[i]) == 0)
            return error_set(err, ERR_FORMAT, "tensor '%.120s' (%s) is listed twice", m->tensor[i].name,
                             ckpt_kind_names[m->tensor[i].kind]);
    return true;
}

static bool read_root(CkptManifest *m, const Json *root, const char *format, Error *err) {
    int64_t attempt = 0, world = 0;
    const char *is = need_text(root, "format", err);
    if (!is) return false;
    if (strcmp(is, format) != 0)
        return error_set(err, ERR_FORMAT, "'format' is '%.40s', expected %s: written by another version?", is, format);
    m->run = need_text(root, "run", err);
    if (!m->run || !need_int(root, "attempt", 0, &attempt, err) || !need_int(root, "step", 0, &m->step, err) ||
        !need_int(root, "parent", -1, &m->parent, err) || !need_int(root, "world", 1, &world, err))
        return false;
    if (attempt > INT32_MAX || world > INT32_MAX)
        return error_set(err, ERR_FORMAT, "'attempt' or 'world' is too large");
    m->attempt = (int)attempt, m->world = (int)world;
    for (int s = 0; s < CKPT_SECTIONS; s++) {
        m->section[s] = json_get(root, ckpt_section_names[s]);
        if (!m->section[s] || json_kind(m->section[s]) != JSON_OBJ)
            return error_set(err, ERR_FORMAT, "'%s' is missing or no object", ckpt_section_names[s]);
    }
    return read_lists(m, root, err);
}

static bool parse(CkptManifest *m, const char *text, size_t n, const char *format, const char *name, Error *err) {
    *m = (CkptManifest){0};
    char tail[TAIL + 1];
    uint32_t crc = n > TAIL ? crc32c(0, text, n - TAIL) : 0;
    snprintf(tail, sizeof tail, ",\"self\":\"%08" PRIx32 "\"}\n", crc);
    if (n <= TAIL || memcmp(text + n - TAIL, tail, TAIL) != 0)
        return error_set(err, ERR_FORMAT,
                         "%s: damaged, or no manifest of a checkpoint: it does not end in its own crc32c", name);
    Json *root;
    if (!json_parse(&root, text, n, 0, name, 1, err)) return false;
    impl_of(m)->root = root;
    m->crc = crc32c(crc, text + n - TAIL, TAIL);
    if (json_kind(root) != JSON_OBJ) error_set(err, ERR_FORMAT, "expected an object");
    if (json_kind(root) == JSON_OBJ && read_root(m, root, format, err)) return true;
    ckpt_manifest_release(m);
    return error_wrap(err, "%s", name);
}

bool ckpt_manifest_parse(CkptManifest *m, const char *text, size_t n, const char *name, Error *err) {
    return parse(m, text, n, CKPT_FORMAT, name, err);
}

bool ckpt_record_parse(CkptManifest *m, const char *text, size_t n, const char *name, Error *err) {
    return parse(m, text, n, CKPT_RECORD, name, err);
}

double ckpt_manifest_metric(const CkptManifest *m) {
    const Impl *impl = m->impl;
    return impl ? json_num(json_get(impl->root, "metric"), NAN) : NAN;
}

/* -- union */

void ckpt_manifest_merge(CkptManifest *to, const CkptManifest *shard) {
    Heap *heap = &impl_of(to)->heap;
    int first = to->n_file;
    to->file = mem_grow(to->file, (size_t)(to->n_file + shard->n_file + 1) * sizeof *to->file);
    for (int i = 0; i < shard->n_file; i++) {
        const CkptFile *f = &shard->file[i];
        CkptFile *own = &to->file[to->n_file++];
        *own = (CkptFile){heap_strn(heap, f->name, strlen(f->name)), f->sums};
        own->sums.crc = mem_alloc((size_t)(f->sums.n + 1) * sizeof *own->sums.crc);
        if (f->sums.n) memcpy(own->sums.crc, f->sums.crc, (size_t)f->sums.n * sizeof *own->sums.crc);
    }
    to->tensor = mem_grow(to->tensor, (size_t)(to->n_tensor + shard->n_tensor + 1) * sizeof *to->tensor);
    for (int i = 0; i < shard->n_tensor; i++) {
        CkptTensor *own = &to->tensor[to->n_tensor++];
        *own = shard->tensor[i];
        own->name = heap_strn(heap, own->name, strlen(own->name));
        own->box = mem_alloc((size_t)own->n_box * sizeof *own->box);
        memcpy(own->box, shard->tensor[i].box, (size_t)own->n_box * sizeof *own->box);
        for (int b = 0; b < own->n_box; b++) own->box[b].file += first;
    }
}

static int by_place(const void *a, const void *b) {
    const CkptBox *x = a, *y = b;
    for (int d = 0; d < x->box.n_dim; d++)
        if (x->box.at[d] != y->box.at[d]) return x->box.at[d] < y->box.at[d] ? -1 : 1;
    return (x->file > y->file) - (x->file < y->file);
}

/* Entries of one tensor become one. */
void ckpt_manifest_sort(CkptManifest *m) {
    int n = 0;
    if (m->n_tensor) qsort(m->tensor, (size_t)m->n_tensor, sizeof *m->tensor, by_kind_and_name);
    for (int i = 0; i < m->n_tensor; i++) {
        CkptTensor *last = n ? &m->tensor[n - 1] : NULL, *t = &m->tensor[i];
        if (!last || by_kind_and_name(last, t) != 0) {
            m->tensor[n++] = *t;
            continue;
        }
        last->box = mem_grow(last->box, (size_t)(last->n_box + t->n_box) * sizeof *last->box);
        memcpy(last->box + last->n_box, t->box, (size_t)t->n_box * sizeof *t->box);
        last->n_box += t->n_box;
        free(t->box);
    }
    m->n_tensor = n;
    for (int i = 0; i < n; i++) qsort(m->tensor[i].box, (size_t)m->tensor[i].n_box, sizeof(CkptBox), by_place);
}

/* -- names */

void ckpt_join(Str *out, const char *a, const char *b) {
    str_clear(out);
    str_printf(out, "%s/%s", a, b);
}

void ckpt_step_name(char out[32], int64_t step) { snprintf(out, 32, "step-%08" PRId64, step); }

bool ckpt_step_number(int64_t *step, const char *name) {
    char own[32];
    if (strncmp(name, "step-", 5) != 0) return false;
    *step = strtoll(name + 5, NULL, 10);
    if (*step < 0) return false;
    ckpt_step_name(own, *step);
    return strcmp(own, name) == 0;
}

void ckpt_shard_name(char out[64], int rank, int n_ranks) {
    snprintf(out, 64, "shard-%05d-of-%05d.safetensors", rank, n_ranks);
}
