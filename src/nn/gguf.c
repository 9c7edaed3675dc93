#include "nn/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/convert.h"

/* -- types ----------------------------------------------------------------------------------------------------------
 */

static const struct {
    const char *name;
    uint32_t number;
    int64_t elements, bytes;
} types[GGUF_TYPE_COUNT] = {
#define X(name, number, elements, bytes) {#name, number, elements, bytes},
    GGUF_TYPES(X)
#undef X
};

static size_t value_bytes(uint32_t number) {
    static const size_t bytes[GGUF_VALUE_COUNT] = {
#define X(name, number, bytes) [number] = bytes,
        GGUF_VALUES(X)
#undef X
    };
    return number < GGUF_VALUE_COUNT ? bytes[number] : 0;
}

const char *gguf_type_name(GgufType t) { return types[t].name; }

int64_t gguf_row_bytes(GgufType t, int64_t cols) {
    return cols % types[t].elements ? -1 : cols / types[t].elements * types[t].bytes;
}

static Element element_type(GgufType t) {
    return t == GGUF_TYPE_F16 ? ELEM_F16 : t == GGUF_TYPE_BF16 ? ELEM_BF16 : ELEM_F32;
}

void gguf_load_row(float *out, const unsigned char *in, GgufType t, int64_t cols) {
    if (t != GGUF_TYPE_Q8_0) {
        element_load(out, in, element_type(t), cols);
        return;
    }
    for (int64_t i = 0; i < cols; i += 32, in += 34) {
        float d;
        element_load(&d, in, ELEM_F16, 1);
        for (int k = 0; k < 32; k++) out[i + k] = d * (float)(int8_t)in[2 + k];
    }
}

static int64_t store_block(unsigned char *out, const float *x) {
    float most = 0;
    for (int k = 0; k < 32; k++) most = fmaxf(most, fabsf(x[k]));
    float d = most / 127, inverse = d > 0 ? 1 / d : 0;
    for (int k = 0; k < 32; k++) out[2 + k] = (unsigned char)(int8_t)roundf(x[k] * inverse);
    return element_store(out, &d, ELEM_F16, 1);
}

int64_t gguf_store_row(unsigned char *out, const float *x, GgufType t, int64_t cols) {
    if (t != GGUF_TYPE_Q8_0) return element_store(out, x, element_type(t), cols);
    int64_t lost = 0;
    for (int64_t i = 0; i < cols; i += 32, out += 34) {
        bool finite = true;
        for (int k = 0; k < 32; k++) finite = finite && isfinite(x[i + k]);
        if (finite)
            lost += store_block(out, x + i);
        else
            lost++; /* no whole number stands for it */
    }
    return lost;
}

/* -- reading --------------------------------------------------------------------------------------------------------
 */

typedef struct {
    const unsigned char *p;
    size_t left;
} Cursor;

static uint64_t load_le(const unsigned char *p, size_t bytes) {
    uint64_t v = 0;
    for (size_t i = bytes; i-- > 0;) v = v << 8 | p[i];
    return v;
}

static bool take(Cursor *c, uint64_t *v, size_t bytes) {
    if (c->left < bytes) return false;
    *v = load_le(c->p, bytes);
    c->p += bytes, c->left -= bytes;
    return true;
}

static bool skip(Cursor *c, uint64_t bytes) {
    if (c->left < bytes) return false;
    c->p += bytes, c->left -= bytes;
    return true;
}

static bool take_str(Cursor *c, GgufStr *s) {
    uint64_t n;
    if (!take(c, &n, 8) || n > c->left) return false;
    *s = (GgufStr){(const char *)c->p, (size_t)n};
    return skip(c, n);
}

static bool truncated(const char *what, int64_t i, Error *err) {
    return error_set(err, ERR_FORMAT, "%s %lld: its length does not fit in the file", what, (long long)i);
}

enum { SHOWN = 80 };
#define SHOW(str) (int)((str).n < SHOWN ? (str).n : SHOWN), (str).s

static bool read_array(GgufPair *p, Cursor *c, Error *err) {
    uint64_t item, n;
    if (!take(c, &item, 4) || !take(c, &n, 8)) return truncated("array of pair", 0, err);
    size_t bytes = value_bytes((uint32_t)item);
    if (item >= GGUF_VALUE_COUNT || item == GGUF_ARRAY)
        return error_set(err, ERR_FORMAT, "key '%.*s': an array of type %llu is not read", SHOW(p->key),
                         (unsigned long long)item);
    p->item = (GgufValue)item, p->n = n, p->value = c->p;
    if (n > c->left / (bytes ? bytes : 8))
        return error_set(err, ERR_FORMAT, "key '%.*s': an array of %llu items does not fit in the file", SHOW(p->key),
                         (unsigned long long)n);
    if (bytes) return skip(c, n * bytes);
    GgufStr s;
    for (uint64_t i = 0; i < n; i++)
        if (!take_str(c, &s))
            return error_set(err, ERR_FORMAT, "key '%.*s': item %llu does not fit in the file", SHOW(p->key),
                             (unsigned long long)i);
    return true;
}

static bool read_pair(GgufPair *p, Cursor *c, int64_t i, Error *err) {
    uint64_t type;
    GgufStr s;
    if (!take_str(c, &p->key) || !take(c, &type, 4)) return truncated("pair", i, err);
    if (p->key.n == 0 || p->key.n > 65535)
        return error_set(err, ERR_FORMAT, "pair %lld: a key of %zu bytes, expected 1..65535", (long long)i, p->key.n);
    if (type >= GGUF_VALUE_COUNT)
        return error_set(err, ERR_FORMAT, "key '%.*s': unknown type %llu", SHOW(p->key), (unsigned long long)type);
    p->type = (GgufValue)type, p->value = c->p;
    if (type == GGUF_ARRAY) return read_array(p, c, err);
    bool ok = type == GGUF_STR ? take_str(c, &s) : skip(c, value_bytes((uint32_t)type));
    return ok || error_set(err, ERR_FORMAT, "key '%.*s': its value does not fit in the file", SHOW(p->key));
}

static bool read_type(GgufTensor *t, uint64_t number, Error *err) {
    int k = GGUF_TYPE_COUNT;
    while (k-- > 0 && types[k].number != number)
        ;
    t->type = (GgufType)k;
    return k >= 0 || error_set(err, ERR_FORMAT, "tensor '%.*s': type %llu is not read, only F32, F16, BF16 and Q8_0",
                               SHOW(t->name), (unsigned long long)number);
}

/* offset is left in t->bytes's place by the caller. */
static bool read_info(GgufTensor *t, uint64_t *offset, Cursor *c, int64_t i, Error *err) {
    uint64_t n_dim, dim[GGUF_MAX_DIM], type, count = 1;
    if (!take_str(c, &t->name) || !take(c, &n_dim, 4)) return truncated("tensor", i, err);
    if (t->name.n == 0 || t->name.n > GGUF_MAX_NAME)
        return error_set(err, ERR_FORMAT, "tensor %lld: a name of %zu bytes, expected 1..%d", (long long)i, t->name.n,
                         GGUF_MAX_NAME);
    if (n_dim < 1 || n_dim > GGUF_MAX_DIM)
        return error_set(err, ERR_FORMAT, "tensor '%.*s': %llu dimensions, expected 1..%d", SHOW(t->name),
                         (unsigned long long)n_dim, GGUF_MAX_DIM);
    for (uint64_t d = 0; d < n_dim; d++)
        if (!take(c, &dim[d], 8)) return truncated("tensor", i, err);
    if (!take(c, &type, 4) || !take(c, offset, 8)) return truncated("tensor", i, err);
    if (!read_type(t, type, err)) return false;
    t->n_dim = (int)n_dim;
    for (uint64_t d = 0; d < n_dim; d++) {
        if (dim[d] > INT64_MAX || __builtin_mul_overflow(count, dim[d], &count) || count > INT64_MAX / 4)
            return error_set(err, ERR_FORMAT, "tensor '%.*s': its shape is too large", SHOW(t->name));
        t->dim[n_dim - 1 - d] = (int64_t)dim[d];
    }
    int64_t row = gguf_row_bytes(t->type, (int64_t)dim[0]);
    if (row < 0)
        return error_set(err, ERR_FORMAT, "tensor '%.*s': %llu columns are no multiple of the %lld of a %s block",
                         SHOW(t->name), (unsigned long long)dim[0], (long long)types[t->type].elements,
                         gguf_type_name(t->type));
    t->bytes = dim[0] ? (size_t)(count / dim[0]) * (size_t)row : 0;
    return true;
}

static int compare_str(GgufStr a, GgufStr b) {
    int c = memcmp(a.s, b.s, a.n < b.n ? a.n : b.n);
    return c ? c : a.n < b.n ? -1 : a.n > b.n;
}

static int by_key(const void *a, const void *b) {
    return compare_str(((const GgufPair *)a)->key, ((const GgufPair *)b)->key);
}

static int by_name(const void *a, const void *b) {
    return compare_str(((const GgufTensor *)a)->name, ((const GgufTensor *)b)->name);
}

static int by_place(const void *a, const void *b) {
    const GgufTensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static bool check_places(const GgufTensor *t, int64_t n, Error *err) {
    for (int64_t i = 1; i < n; i++)
        if (t[i].data < t[i - 1].data + t[i - 1].bytes)
            return error_set(err, ERR_FORMAT, "tensor '%.*s' overlaps '%.*s'", SHOW(t[i].name), SHOW(t[i - 1].name));
    return true;
}

static bool read_alignment(const GgufFile *f, uint64_t *alignment, Error *err) {
    int64_t v = GGUF_ALIGNMENT;
    const GgufPair *p = gguf_find(f, "general.alignment");
    if (p && (!gguf_int(p, &v) || v < 1 || v > 1 << 20 || (v & (v - 1))))
        return error_set(err, ERR_FORMAT, "'general.alignment' must be a power of 2 up to 2^20");
    *alignment = (uint64_t)v;
    return true;
}

static bool read_tensors(GgufFile *f, Cursor *c, size_t n_file, Error *err) {
    uint64_t alignment = GGUF_ALIGNMENT;
    if (!read_alignment(f, &alignment, err)) return false;
    uint64_t *offset = mem_alloc((size_t)(f->n_tensor + 1) * sizeof *offset);
    bool ok = true;
    for (int64_t i = 0; i < f->n_tensor && ok; i++) ok = read_info(&f->tensor[i], &offset[i], c, i, err);
    uint64_t at = n_file - c->left, pad = (alignment - at % alignment) % alignment;
    if (ok && f->n_tensor > 0 && !skip(c, pad)) ok = error_set(err, ERR_FORMAT, "the file ends before its data");
    for (int64_t i = 0; i < f->n_tensor && ok; i++) {
        GgufTensor *t = &f->tensor[i];
        if (offset[i] % alignment)
            ok = error_set(err, ERR_FORMAT, "tensor '%.*s': offset %llu is no multiple of %llu", SHOW(t->name),
                           (unsigned long long)offset[i], (unsigned long long)alignment);
        else if (offset[i] > c->left || t->bytes > c->left - offset[i])
            ok = error_set(err, ERR_FORMAT, "tensor '%.*s': %zu bytes at offset %llu, but there are %zu: truncated",
                           SHOW(t->name), t->bytes, (unsigned long long)offset[i], c->left);
        else
            t->data = c->p + offset[i];
    }
    free(offset);
    if (!ok) return false;
    qsort(f->tensor, (size_t)f->n_tensor, sizeof *f->tensor, by_place);
    if (!check_places(f->tensor, f->n_tensor, err)) return false;
    qsort(f->tensor, (size_t)f->n_tensor, sizeof *f->tensor, by_name);
    for (int64_t i = 1; i < f->n_tensor; i++)
        if (by_name(&f->tensor[i - 1], &f->tensor[i]) == 0)
            return error_set(err, ERR_FORMAT, "tensor '%.*s' is there twice", SHOW(f->tensor[i].name));
    return true;
}

static bool read_all(GgufFile *f, Cursor *c, size_t n_file, Error *err) {
    enum { PAIR_AT_LEAST = 8 + 1 + 4 + 1, INFO_AT_LEAST = 8 + 1 + 4 + 8 + 4 + 8 };
    uint64_t magic, version, n_tensor, n_pair;
    if (!take(c, &magic, 4) || magic != 0x46554747) return error_set(err, ERR_FORMAT, "not a GGUF file");
    if (!take(c, &version, 4) || !take(c, &n_tensor, 8) || !take(c, &n_pair, 8))
        return error_set(err, ERR_FORMAT, "the file ends within its first 24 bytes");
    if (version != 3)
        return error_set(err, ERR_FORMAT, "version %llu is not read, only 3", (unsigned long long)version);
    if (n_pair > c->left / PAIR_AT_LEAST || n_tensor > c->left / INFO_AT_LEAST)
        return error_set(err, ERR_FORMAT, "%llu pairs and %llu tensors do not fit in %zu bytes",
                         (unsigned long long)n_pair, (unsigned long long)n_tensor, n_file);
    f->pair = mem_alloc((size_t)(n_pair + 1) * sizeof *f->pair);
    f->tensor = mem_alloc((size_t)(n_tensor + 1) * sizeof *f->tensor);
    for (; f->n_pair < (int64_t)n_pair; f->n_pair++)
        if (!read_pair(&f->pair[f->n_pair], c, f->n_pair, err)) return false;
    qsort(f->pair, (size_t)n_pair, sizeof *f->pair, by_key);
    for (uint64_t i = 1; i < n_pair; i++)
        if (by_key(&f->pair[i - 1], &f->pair[i]) == 0)
            return error_set(err, ERR_FORMAT, "key '%.*s' is there twice", SHOW(f->pair[i].key));
    f->n_tensor = (int64_t)n_tensor;
    return read_tensors(f, c, n_file, err);
}

bool gguf_parse(GgufFile *f, const void *p, size_t n, const char *name, Error *err) {
    *f = (GgufFile){0};
    Cursor c = {p, n};
    if (read_all(f, &c, n, err)) return true;
    gguf_close(f);
    return error_wrap(err, "%s", name);
}

bool gguf_open(GgufFile *f, const char *path, Error *err) {
    IoMap map;
    *f = (GgufFile){0};
    if (!io_map(&map, path, err)) return false;
    if (!gguf_parse(f, map.p, map.n, path, err)) {
        io_unmap(&map);
        return false;
    }
    f->map = map;
    return true;
}

void gguf_close(GgufFile *f) {
    free(f->pair);
    free(f->tensor);
    if (f->map.p) io_unmap(&f->map);
    *f = (GgufFile){0};
}

const GgufPair *gguf_find(const GgufFile *f, const char *key) {
    GgufPair wanted = {.key = {key, strlen(key)}};
    return f->n_pair ? bsearch(&wanted, f->pair, (size_t)f->n_pair, sizeof *f->pair, by_key) : NULL;
}

const GgufTensor *gguf_find_tensor(const GgufFile *f, const char *name) {
    GgufTensor wanted = {.name = {name, strlen(name)}};
    return f->n_tensor ? bsearch(&wanted, f->tensor, (size_t)f->n_tensor, sizeof *f->tensor, by_name) : NULL;
}

static bool load_int(const unsigned char *at, GgufValue type, int64_t *out) {
    uint64_t v = load_le(at, value_bytes(type));
    switch (type) {
    case GGUF_I8:
        *out = (int8_t)v;
        return true;
    case GGUF_I16:
        *out = (int16_t)v;
        return true;
    case GGUF_I32:
        *out = (int32_t)v;
        return true;
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64:
    case GGUF_I64:
        *out = (int64_t)v;
        return type != GGUF_U64 || v <= INT64_MAX;
    default:
        return false;
    }
}

bool gguf_int(const GgufPair *p, int64_t *out) { return p && load_int(p->value, p->type, out); }

bool gguf_num(const GgufPair *p, double *out) {
    int64_t whole;
    if (!p) return false;
    if (p->type == GGUF_F32) {
        float f;
        memcpy(&f, p->value, sizeof f);
        *out = (double)f;
        return true;
    }
    if (p->type == GGUF_F64) {
        memcpy(out, p->value, sizeof *out);
        return true;
    }
    if (!gguf_int(p, &whole)) return false;
    *out = (double)whole;
    return true;
}

bool gguf_bool(const GgufPair *p, bool *out) {
    if (!p || p->type != GGUF_BOOL) return false;
    *out = p->value[0] != 0;
    return true;
}

bool gguf_str(const GgufPair *p, GgufStr *out) {
    if (!p || p->type != GGUF_STR) return false;
    const unsigned char *at = p->value;
    *out = gguf_next_str(&at);
    return true;
}

GgufStr gguf_next_str(const unsigned char **at) {
    size_t n = (size_t)load_le(*at, 8);
    GgufStr s = {(const char *)*at + 8, n};
    *at += 8 + n;
    return s;
}

int64_t gguf_item_int(const GgufPair *p, uint64_t i) {
    int64_t v = 0;
    size_t bytes = value_bytes(p->item);
    return bytes && i < p->n && load_int(p->value + i * bytes, p->item, &v) ? v : 0;
}

/* -- writing --------------------------------------------------------------------------------------------------------
 */

static void put_le(Str *out, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++) str_putc(out, (char)(v >> 8 * i));
}

static void put_string(Str *out, const char *s, size_t n) {
    put_le(out, n, 8);
    if (n) str_putn(out, s, n);
}

static void put_key(GgufOut *g, const char *key, GgufValue type) {
    put_string(&g->pairs, key, strlen(key));
    put_le(&g->pairs, type, 4);
    g->n_pair++;
}

static uint32_t float_bits(float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

void gguf_put_u32(GgufOut *g, const char *key, uint32_t v) {
    put_key(g, key, GGUF_U32);
    put_le(&g->pairs, v, 4);
}

void gguf_put_f32(GgufOut *g, const char *key, float v) {
    put_key(g, key, GGUF_F32);
    put_le(&g->pairs, float_bits(v), 4);
}

void gguf_put_bool(GgufOut *g, const char *key, bool v) {
    put_key(g, key, GGUF_BOOL);
    str_putc(&g->pairs, (char)v);
}

void gguf_put_str(GgufOut *g, const char *key, const char *s, size_t n) {
    put_key(g, key, GGUF_STR);
    put_string(&g->pairs, s, n);
}

void gguf_put_array(GgufOut *g, const char *key, GgufValue item, uint64_t n) {
    put_key(g, key, GGUF_ARRAY);
    put_le(&g->pairs, item, 4);
    put_le(&g->pairs, n, 8);
}

void gguf_item_put_str(GgufOut *g, const char *s, size_t n) { put_string(&g->pairs, s, n); }
void gguf_item_put_i32(GgufOut *g, int32_t v) { put_le(&g->pairs, (uint32_t)v, 4); }
void gguf_item_put_f32(GgufOut *g, float v) { put_le(&g->pairs, float_bits(v), 4); }

void gguf_put_tensor(GgufOut *g, const char *name, GgufType type, const int64_t *dim, int n_dim) {
    CHECK(strlen(name) <= GGUF_MAX_NAME && n_dim >= 1 && n_dim <= GGUF_MAX_DIM, "tensor '%s'", name);
    if (g->n_tensor == g->cap) {
        g->cap = g->cap ? 2 * g->cap : 64;
        g->tensor = mem_grow(g->tensor, (size_t)g->cap * sizeof *g->tensor);
    }
    GgufOutTensor *t = &g->tensor[g->n_tensor++];
    *t = (GgufOutTensor){.type = type, .n_dim = n_dim, .offset = g->end};
    snprintf(t->name, sizeof t->name, "%s", name);
    int64_t rows = 1, row = gguf_row_bytes(type, dim[n_dim - 1]);
    CHECK(row >= 0, "tensor '%s': %lld columns do not fit %s", name, (long long)dim[n_dim - 1], gguf_type_name(type));
    for (int d = 0; d < n_dim; d++) t->dim[d] = dim[d];
    for (int d = 0; d + 1 < n_dim; d++) rows *= dim[d];
    t->bytes = (uint64_t)(rows * row);
    g->end = (g->end + t->bytes + GGUF_ALIGNMENT - 1) / GGUF_ALIGNMENT * GGUF_ALIGNMENT;
}

static void put_head(Str *out, const GgufOut *g) {
    str_put(out, "GGUF");
    put_le(out, 3, 4);
    put_le(out, (uint64_t)g->n_tensor, 8);
    put_le(out, g->n_pair, 8);
    str_putn(out, g->pairs.s, g->pairs.n);
    for (int i = 0; i < g->n_tensor; i++) {
        const GgufOutTensor *t = &g->tensor[i];
        put_string(out, t->name, strlen(t->name));
        put_le(out, (uint64_t)t->n_dim, 4);
        for (int d = t->n_dim; d-- > 0;) put_le(out, (uint64_t)t->dim[d], 8);
        put_le(out, types[t->type].number, 4);
        put_le(out, t->offset, 8);
    }
    while (out->n % GGUF_ALIGNMENT) str_putc(out, 0);
}

bool gguf_write(const char *path, const GgufOut *g, GgufPut *put, void *ud, Error *err) {
    static const unsigned char zero[GGUF_ALIGNMENT];
    Str head = {0};
    Writer *w = NULL;
    put_head(&head, g);
    bool ok = writer_open(&w, path, err) && writer_put(w, head.s, head.n, err);
    for (int i = 0; i < g->n_tensor && ok; i++) {
        const GgufOutTensor *t = &g->tensor[i];
        size_t pad = (GGUF_ALIGNMENT - t->bytes % GGUF_ALIGNMENT) % GGUF_ALIGNMENT;
        ok = put(ud, t, i, w, err) && (pad == 0 || writer_put(w, zero, pad, err));
    }
    ok = writer_end(w, ok, err);
    str_release(&head);
    return ok;
}

void gguf_out_release(GgufOut *g) {
    str_release(&g->pairs);
    free(g->tensor);
    *g = (GgufOut){0};
}
