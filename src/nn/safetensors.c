/* nn/safetensors.c — u64 little-endian header length, that many bytes of JSON, then the tensors' bytes without a gap.
 *
 * The reader accepts a file only if the tensors, sorted by offset, tile the buffer exactly: the first begins at 0, each
 * begins where the last ended, the last ends with the file. So no two tensors share a byte and none can point outside.
 * Stricter than the reference library in one point: duplicate names are an error. */
#include "nn/safetensors.h"

#include "base/arena.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

enum { ST_MAX_HEADER = 100000000 };

typedef struct {
    const char *name;
    int bits;
} StType;

static const StType st_types[] = {
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
};

static const StType *find_type(const char *name) {
    for (int i = 0; i < COUNT_OF(st_types); i++)
        if (strcmp(st_types[i].name, name) == 0) return &st_types[i];
    return NULL;
}

/* -- reading --------------------------------------------------------------------------------------------------------
 */

enum { DIMS_AT_LEAST = 8 };

typedef struct { /* what entries point into */
    Json *root;
    Heap heap;
} Header;

/* count: of elements */
static bool read_shape(StEntry *e, Heap *heap, const Json *shape, uint64_t *count, Error *err) {
    if (!shape || json_kind(shape) != JSON_ARR)
        return error_set(err, ERR_FORMAT, "tensor '%s': 'shape' is missing or not a list", e->name);
    e->n_dim = json_len(shape);
    int64_t *dim = heap_alloc(heap, (size_t)(e->n_dim > DIMS_AT_LEAST ? e->n_dim : DIMS_AT_LEAST) * sizeof *dim);
    e->dim = dim;
    for (int i = 0; i < e->n_dim; i++) {
        const Json *d = json_at(shape, i);
        dim[i] = json_kind(d) == JSON_INT ? json_int(d, -1) : -1;
        if (dim[i] < 0)
            return error_set(err, ERR_FORMAT, "tensor '%s': dimension %d is not a non-negative integer", e->name, i);
        if (__builtin_mul_overflow(*count, (uint64_t)dim[i], count))
            return error_set(err, ERR_FORMAT, "tensor '%s': its shape has more than 2^64 bits", e->name);
    }
    return true;
}

/* An entry is an object; the reference takes a list of the three too, in this order. */
static const Json *part(const Json *node, const char *key, int at) {
    return json_kind(node) == JSON_ARR ? json_at(node, at) : json_get(node, key);
}

/* begin is left in e->data's place by the caller. */
static bool read_entry(StEntry *e, Heap *heap, uint64_t *begin, const Json *node, uint64_t n_data, Error *err) {
    size_t n;
    const char *dtype = json_str(part(node, "dtype", 0), &n);
    if (!dtype) return error_set(err, ERR_FORMAT, "tensor '%s': 'dtype' is missing or not a string", e->name);
    const StType *type = strlen(dtype) == n ? find_type(dtype) : NULL;
    if (!type) return error_set(err, ERR_FORMAT, "tensor '%s': unknown dtype '%.40s'", e->name, dtype);
    e->dtype = type->name;
    uint64_t bits = 1;
    if (!read_shape(e, heap, part(node, "shape", 1), &bits, err)) return false;
    if (__builtin_mul_overflow(bits, (uint64_t)type->bits, &bits))
        return error_set(err, ERR_FORMAT, "tensor '%s': its shape has more than 2^64 bits", e->name);

    const Json *offsets = part(node, "data_offsets", 2);
    if (!offsets || json_kind(offsets) != JSON_ARR || json_len(offsets) != 2)
        return error_set(err, ERR_FORMAT, "tensor '%s': 'data_offsets' must be a list of two integers", e->name);
    int64_t at[2];
    for (int i = 0; i < 2; i++) {
        const Json *o = json_at(offsets, i);
        at[i] = json_kind(o) == JSON_INT ? json_int(o, -1) : -1;
        if (at[i] < 0 || (uint64_t)at[i] > n_data)
            return error_set(err, ERR_FORMAT, "tensor '%s': offset %d is not within the %llu bytes of data", e->name, i,
                             (unsigned long long)n_data);
    }
    if (at[1] < at[0]) return error_set(err, ERR_FORMAT, "tensor '%s': it ends before it begins", e->name);
    e->bytes = (size_t)(at[1] - at[0]);
    if (bits % 8 || bits / 8 != e->bytes)
        return error_set(err, ERR_FORMAT, "tensor '%s': shape and dtype need %llu bits, its range holds %zu bytes",
                         e->name, (unsigned long long)bits, e->bytes);
    *begin = (uint64_t)at[0];
    return true;
}

static int by_offset(const void *a, const void *b) {
    const StEntry *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

enum { MAX_NESTED = 127 }; /* of the library that files are written for */

/* What a JSON header must not hold though our reader takes it: a minus zero (a number to JSON, no count of anything;
 * parsed it would look like 0), deep nesting. NULL when there is none. The text is JSON. */
static const char *misfit(const unsigned char *p, size_t n) {
    bool string = false;
    int depth = 0;
    for (size_t i = 0; i < n; i++) {
        if (string && p[i] == '\\')
            i++;
        else if (p[i] == '"')
            string = !string;
        else if (string)
            continue;
        else if (p[i] == '-' && i + 2 < n && p[i + 1] == '0' && !strchr(".eE", p[i + 2]))
            return "the header holds '-0', which is no size and no offset";
        else if (p[i] == '[' || p[i] == '{') {
            if (++depth > MAX_NESTED) return "the header nests lists and objects more than 127 deep";
        } else if (p[i] == ']' || p[i] == '}')
            depth--;
    }
    return NULL;
}

static bool read_metadata(const Json *meta, Error *err) {
    if (json_kind(meta) == JSON_NIL) return true;
    if (json_kind(meta) != JSON_OBJ) return error_set(err, ERR_FORMAT, "'__metadata__' is not an object");
    for (int i = 0; i < json_len(meta); i++) {
        const Json *value;
        const char *key = json_key_at(meta, i, &value);
        if (json_kind(value) != JSON_STR)
            return error_set(err, ERR_FORMAT, "'__metadata__.%.80s' is not a string", key);
    }
    return true;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const StEntry *const *)a)->name, (*(const StEntry *const *)b)->name);
}

static bool read_entries(StFile *f, const unsigned char *data, uint64_t n_data, Error *err) {
    Header *header = f->impl;
    const Json *root = header->root;
    if (json_kind(root) != JSON_OBJ) return error_set(err, ERR_FORMAT, "the header is not a JSON object");
    int n = json_len(root);
    f->entry = mem_alloc((size_t)(n > 0 ? n : 1) * sizeof *f->entry);
    for (int i = 0; i < n; i++) {
        const Json *node;
        const char *name = json_key_at(root, i, &node);
        if (strcmp(name, "__metadata__") == 0) {
            if (!read_metadata(node, err)) return false;
            continue;
        }
        StEntry *e = &f->entry[f->n++];
        uint64_t begin = 0;
        e->name = name;
        if (json_kind(node) != JSON_OBJ && !(json_kind(node) == JSON_ARR && json_len(node) == 3))
            return error_set(
                err, ERR_FORMAT,
                "tensor '%s': expected an object with dtype, shape and data_offsets, or a list of the three", name);
        if (!read_entry(e, &header->heap, &begin, node, n_data, err)) return false;
        e->data = data + begin;
    }
    qsort(f->entry, (size_t)f->n, sizeof *f->entry, by_offset);
    const unsigned char *end = data;
    for (int i = 0; i < f->n; i++) {
        if (f->entry[i].data != end)
            return error_set(err, ERR_FORMAT, "tensor '%s': begins at byte %llu of the data, expected %llu (a %s)",
                             f->entry[i].name, (unsigned long long)(f->entry[i].data - data),
                             (unsigned long long)(end - data), f->entry[i].data > end ? "hole" : "shared range");
        end += f->entry[i].bytes;
    }
    if (end != data + n_data)
        return error_set(err, ERR_FORMAT, "%llu bytes after the last tensor",
                         (unsigned long long)(data + n_data - end));
    f->by_name = mem_alloc((size_t)(n > 0 ? n : 1) * sizeof *f->by_name);
    for (int i = 0; i < f->n; i++) f->by_name[i] = &f->entry[i];
    qsort(f->by_name, (size_t)f->n, sizeof *f->by_name, by_name);
    return true;
}

static void drop(StFile *f) {
    Header *header = f->impl;
    if (header) {
        json_release(header->root);
        heap_release(&header->heap);
    }
    free(header);
    free(f->entry);
    free(f->by_name);
    f->impl = NULL, f->entry = NULL, f->by_name = NULL, f->n = 0;
}

bool st_parse(StFile *f, const void *p, size_t n, const char *name, Error *err) {
    const unsigned char *bytes = p;
    *f = (StFile){0};
    if (n < 8) return error_set(err, ERR_FORMAT, "%s: %zu bytes are too few for a safetensors file", name, n);
    uint64_t n_header = 0;
    for (int i = 7; i >= 0; i--) n_header = n_header << 8 | bytes[i];
    if (n_header > ST_MAX_HEADER || n_header > n - 8)
        return error_set(err, ERR_FORMAT,
                         "%s: header of %llu bytes in a file of %zu (at most %d): truncated or not safetensors", name,
                         (unsigned long long)n_header, n, ST_MAX_HEADER);
    Header *header = mem_alloc(sizeof *header);
    f->impl = header;
    if (!json_parse(&header->root, (const char *)bytes + 8, (size_t)n_header, JSON_NUL_OK, name, 1, err)) {
        drop(f);
        return false;
    }
    const char *why = misfit(bytes + 8, (size_t)n_header);
    if (why) {
        drop(f);
        return error_set(err, ERR_FORMAT, "%s: %s", name, why);
    }
    if (!read_entries(f, bytes + 8 + n_header, n - 8 - n_header, err)) {
        drop(f);
        return error_wrap(err, "%s", name);
    }
    return true;
}

bool st_open(StFile *f, const char *path, Error *err) {
    IoMap map;
    *f = (StFile){0};
    if (!io_map(&map, path, err)) return false;
    if (!st_parse(f, map.p, map.n, path, err)) {
        io_unmap(&map);
        return false;
    }
    f->map = map;
    return true;
}

void st_close(StFile *f) {
    drop(f);
    if (f->map.p) io_unmap(&f->map);
    *f = (StFile){0};
}

const StEntry *st_find(const StFile *f, const char *name) {
    StEntry wanted = {.name = name};
    const StEntry *key = &wanted, **at = NULL;
    if (f->n > 0) at = bsearch(&key, f->by_name, (size_t)f->n, sizeof *f->by_name, by_name);
    return at ? *at : NULL;
}

/* -- writing --------------------------------------------------------------------------------------------------------
 */

static int dtype_bits(const StOut *t) {
    const StType *type = find_type(t->dtype);
    CHECK(type, "tensor '%s': unknown dtype '%s'", t->name, t->dtype);
    return type->bits;
}

/* Wide dtypes first, so that every tensor is aligned to its elements; then by name. */
static int by_width(const void *a, const void *b) {
    const StOut *x = *(const StOut *const *)a, *y = *(const StOut *const *)b;
    int wx = dtype_bits(x), wy = dtype_bits(y);
    if (wx != wy) return wx > wy ? -1 : 1;
    return strcmp(x->name, y->name);
}

static void put_header(Str *out, const StOut *const *t, int n, const char *const (*meta)[2], int n_meta) {
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_obj(&j, "__metadata__");
    json_out_str(&j, "format", "pt");
    for (int i = 0; i < n_meta; i++) json_out_str(&j, meta[i][0], meta[i][1]);
    json_out_obj_end(&j);
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        json_out_obj(&j, t[i]->name);
        json_out_str(&j, "dtype", t[i]->dtype);
        json_out_arr(&j, "shape");
        for (int d = 0; d < t[i]->n_dim; d++) json_out_int(&j, NULL, t[i]->dim[d]);
        json_out_arr_end(&j);
        json_out_arr(&j, "data_offsets");
        json_out_int(&j, NULL, at);
        json_out_int(&j, NULL, at += (int64_t)t[i]->bytes);
        json_out_arr_end(&j);
        json_out_obj_end(&j);
    }
    json_out_obj_end(&j);
    while (out->n % 8) str_putc(out, ' ');
}

void st_head(Str *out, int *order, const StOut *t, int n, const char *const (*meta)[2], int n_meta) {
    const StOut **sorted = mem_alloc((size_t)(n > 0 ? n : 1) * sizeof *sorted);
    for (int i = 0; i < n; i++) sorted[i] = &t[i];
    qsort(sorted, (size_t)n, sizeof *sorted, by_width);
    for (int i = 1; i < n; i++) CHECK(strcmp(sorted[i - 1]->name, sorted[i]->name) != 0, "'%s' twice", sorted[i]->name);
    for (int i = 0; i < n; i++) order[i] = (int)(sorted[i] - t);
    Str header = {0};
    put_header(&header, sorted, n, meta, n_meta);
    for (int i = 0; i < 8; i++) str_putc(out, (char)((uint64_t)header.n >> 8 * i));
    str_putn(out, header.s, header.n);
    str_release(&header);
    free(sorted);
}

bool st_write_with(const char *path, const StOut *t, int n, StPut *put, void *ud, Error *err) {
    int *order = mem_alloc((size_t)(n > 0 ? n : 1) * sizeof *order);
    Str head = {0};
    st_head(&head, order, t, n, NULL, 0);
    Writer *w = NULL;
    bool ok = writer_open(&w, path, err) && writer_put(w, head.s, head.n, err);
    for (int i = 0; ok && i < n; i++) {
        const StOut *o = &t[order[i]];
        ok = o->data || o->bytes == 0 ? writer_put(w, o->data, o->bytes, err) : put(ud, o, w, err);
    }
    ok = writer_end(w, ok, err);
    str_release(&head);
    free(order);
    return ok;
}

bool st_write(const char *path, const StOut *t, int n, Error *err) {
    return st_write_with(path, t, n, NULL, NULL, err);
}
