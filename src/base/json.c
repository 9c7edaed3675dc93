/* base/json.c — strict JSON in, our own emitter out; the only file that knows jansson.
 *
 * jansson parses; its tree is then copied into one Heap, because jansson has no "i-th entry of an object" and frees
 * node by node. Ours: children are arrays, an object of more than a few entries has a hash index, release is one call.
 */
#include "base/json.h"

#include "base/arena.h"
#include "base/hash.h"
#include "base/io.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JSON_REAL JANSSON_REAL /* both sides name it; the values are equal */
#include <jansson.h>
#undef JSON_REAL

static_assert((int)JSON_OBJ == JSON_OBJECT && (int)JSON_STR == JSON_STRING && (int)JSON_REAL == JANSSON_REAL &&
                  (int)JSON_NIL == JSON_NULL,
              "our kinds are jansson's types");

enum { INDEX_FROM = 12 }; /* objects with fewer entries are searched in order */

typedef struct {
    const char **key;
    Json *value;
    uint32_t *slot; /* entry number + 1, open addressing; NULL for small objects */
    uint32_t mask;
} Members;

struct Json {
    JsonKind kind;
    size_t n; /* bytes, items or entries */
    union {
        int64_t i;
        double r;
        const char *s;
        Json *item;
        Members *members;
    } u;
};

typedef struct {
    Json node; /* first, so that the root is its own owner */
    Heap heap;
} Root;

static uint32_t key_slot(const char *key) { return (uint32_t)hash_bytes(key, strlen(key)).lo; }

/* The index of an object that has its keys. False when two are equal; small objects have none and are not looked at. */
static bool index_members(Members *m, size_t n, Heap *h) {
    if (n < INDEX_FROM || n > UINT32_MAX / 4) return true;
    uint32_t n_slot = 32;
    while (n_slot < n * 2) n_slot *= 2;
    m->mask = n_slot - 1;
    m->slot = heap_alloc(h, n_slot * sizeof *m->slot);
    for (size_t i = 0; i < n; i++) {
        uint32_t s = key_slot(m->key[i]) & m->mask;
        for (; m->slot[s]; s = (s + 1) & m->mask)
            if (strcmp(m->key[m->slot[s] - 1], m->key[i]) == 0) return false;
        m->slot[s] = (uint32_t)i + 1;
    }
    return true;
}

static void copy_node(Json *to, json_t *from, Heap *h);

static void copy_object(Json *to, json_t *from, Heap *h) {
    Members *m = heap_alloc(h, sizeof *m);
    to->n = json_object_size(from);
    to->u.members = m;
    m->key = heap_alloc(h, to->n * sizeof *m->key);
    m->value = heap_alloc(h, to->n * sizeof *m->value);
    size_t i = 0;
    for (void *it = json_object_iter(from); it; it = json_object_iter_next(from, it), i++) {
        m->key[i] = heap_strn(h, json_object_iter_key(it), json_object_iter_key_len(it));
        copy_node(&m->value[i], json_object_iter_value(it), h);
    }
    CHECK(index_members(m, to->n, h), "jansson let a key through twice");
}

/* Recursion is bounded: jansson refuses more than 2,048 levels. */
static void copy_node(Json *to, json_t *from, Heap *h) {
    to->kind = (JsonKind)json_typeof(from);
    switch (to->kind) {
    case JSON_OBJ:
        copy_object(to, from, h);
        break;
    case JSON_ARR:
        to->n = json_array_size(from);
        to->u.item = heap_alloc(h, to->n * sizeof *to->u.item);
        for (size_t i = 0; i < to->n; i++) copy_node(&to->u.item[i], json_array_get(from, i), h);
        break;
    case JSON_STR:
        to->n = json_string_length(from);
        to->u.s = heap_strn(h, json_string_value(from), to->n);
        break;
    case JSON_INT:
        to->u.i = json_integer_value(from);
        break;
    case JSON_REAL:
        to->u.r = json_real_value(from);
        break;
    case JSON_YES:
    case JSON_NO:
    case JSON_NIL:
        break;
    }
}

bool json_parse(Json **out, const char *s, size_t n, int flags, const char *name, int first_line, Error *err) {
    *out = NULL;
    json_error_t je;
    size_t f = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY;
    if (flags & JSON_INT_AS_REAL) f |= JSON_DECODE_INT_AS_REAL;
    if (flags & JSON_NUL_OK) f |= JSON_ALLOW_NUL;
    json_t *tree = json_loadb(n ? s : "", n, f, &je);
    if (!tree) {
        for (char *c = je.text; *c; c++) {
            if ((unsigned char)*c < 0x20) *c = ' ';
        }
        return error_set(err, ERR_FORMAT, "%s:%d:%d: bad JSON: %s", name, first_line + (je.line > 0 ? je.line - 1 : 0),
                         je.column > 0 ? je.column : 1, n ? je.text : "it is empty");
    }
    Root *root = mem_alloc(sizeof *root);
    copy_node(&root->node, tree, &root->heap);
    json_decref(tree);
    *out = &root->node;
    return true;
}

bool json_read_file(Json **out, const char *path, int flags, Error *err) {
    *out = NULL;
    Str text = {0};
    bool ok =
        io_read_file(&text, path, (size_t)1 << 31, err) && json_parse(out, str_get(&text), text.n, flags, path, 1, err);
    str_release(&text);
    return ok;
}

void json_release(Json *root) {
    if (!root) return;
    Root *r = (Root *)root;
    heap_release(&r->heap);
    free(r);
}

JsonKind json_kind(const Json *j) { return j->kind; }

const Json *json_get(const Json *obj, const char *key) {
    if (!obj || obj->kind != JSON_OBJ) return NULL;
    const Members *m = obj->u.members;
    if (!m->slot) {
        for (size_t i = 0; i < obj->n; i++) {
            if (strcmp(m->key[i], key) == 0) return &m->value[i];
        }
        return NULL;
    }
    for (uint32_t s = key_slot(key) & m->mask; m->slot[s]; s = (s + 1) & m->mask) {
        uint32_t i = m->slot[s] - 1;
        if (strcmp(m->key[i], key) == 0) return &m->value[i];
    }
    return NULL;
}

int json_len(const Json *j) { return j && (j->kind == JSON_ARR || j->kind == JSON_OBJ) ? (int)j->n : 0; }

const Json *json_at(const Json *arr, int i) {
    return arr && arr->kind == JSON_ARR && i >= 0 && (size_t)i < arr->n ? &arr->u.item[i] : NULL;
}

const char *json_key_at(const Json *obj, int i, const Json **value) {
    bool there = obj && obj->kind == JSON_OBJ && i >= 0 && (size_t)i < obj->n;
    if (value) *value = there ? &obj->u.members->value[i] : NULL;
    return there ? obj->u.members->key[i] : NULL;
}

const char *json_str(const Json *j, size_t *n) {
    bool is = j && j->kind == JSON_STR;
    if (n) *n = is ? j->n : 0;
    return is ? j->u.s : NULL;
}

double json_num(const Json *j, double otherwise) {
    if (j && j->kind == JSON_REAL) return j->u.r;
    return j && j->kind == JSON_INT ? (double)j->u.i : otherwise;
}

int64_t json_int(const Json *j, int64_t otherwise) {
    if (j && j->kind == JSON_INT) return j->u.i;
    /* Files read with JSON_INT_AS_REAL: whole numbers that a double holds exactly. */
    bool whole = j && j->kind == JSON_REAL && fabs(j->u.r) <= 0x1p53 && j->u.r == floor(j->u.r);
    return whole ? (int64_t)j->u.r : otherwise;
}

bool json_bool(const Json *j, bool otherwise) {
    if (j && j->kind == JSON_YES) return true;
    return j && j->kind == JSON_NO ? false : otherwise;
}

static const char *kind_words(const Json *j) {
    if (!j) return "nothing";
    switch (j->kind) {
    case JSON_OBJ:
        return "an object";
    case JSON_ARR:
        return "an array";
    case JSON_STR:
        return "a string";
    case JSON_INT:
    case JSON_REAL:
        return "a number";
    case JSON_YES:
        return "true";
    case JSON_NO:
        return "false";
    case JSON_NIL:
        return "null";
    }
    return "nothing";
}

bool json_need_str(const Json *obj, const char *key, const char **s, size_t *n, Error *err) {
    const Json *j = json_get(obj, key);
    *s = json_str(j, n);
    return *s ? true : error_set(err, ERR_FORMAT, "expected a string at '%s', found %s", key, kind_words(j));
}

bool json_need_num(const Json *obj, const char *key, double *v, Error *err) {
    const Json *j = json_get(obj, key);
    if (!j || (j->kind != JSON_INT && j->kind != JSON_REAL))
        return error_set(err, ERR_FORMAT, "expected a number at '%s', found %s", key, kind_words(j));
    *v = json_num(j, 0);
    return true;
}

/* ---- building ---- */

typedef struct {
    Json node;
    const char *key;
} Built;

struct JsonBuild {
    Heap heap;
    Built *done; /* finished values, those of each open level behind those of the one around it */
    size_t n, cap;
    size_t *open; /* where the values of each open level begin; behind its own entry in done */
    size_t depth, cap_depth;
};

JsonBuild *json_build_new(void) { return mem_alloc(sizeof(JsonBuild)); }

void json_build_free(JsonBuild *b) {
    if (!b) return;
    heap_release(&b->heap);
    free(b->done);
    free(b->open);
    free(b);
}

void json_build_clear(JsonBuild *b) {
    heap_release(&b->heap);
    b->heap = (Heap){0};
    b->n = b->depth = 0;
}

size_t json_build_bytes(const JsonBuild *b) { return b->heap.total_bytes; }

const char *json_build_copy(JsonBuild *b, const char *s, size_t n) { return heap_strn(&b->heap, s, n); }

static Json *build_value(JsonBuild *b, const char *key, JsonKind kind) {
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 64;
        b->done = mem_grow(b->done, b->cap * sizeof *b->done);
    }
    Built *v = &b->done[b->n++];
    *v = (Built){.node.kind = kind, .key = key};
    return &v->node;
}

static void build_open(JsonBuild *b, const char *key, JsonKind kind) {
    build_value(b, key, kind);
    if (b->depth == b->cap_depth) {
        b->cap_depth = b->cap_depth ? 2 * b->cap_depth : 16;
        b->open = mem_grow(b->open, b->cap_depth * sizeof *b->open);
    }
    b->open[b->depth++] = b->n;
}

/* The values of the innermost level leave the stack; *first are they, until the next value. */
static Json *build_close(JsonBuild *b, const Built **first) {
    CHECK(b->depth > 0, "JSON: end without begin");
    size_t from = b->open[--b->depth];
    Json *node = &b->done[from - 1].node;
    *first = &b->done[from];
    node->n = b->n - from;
    b->n = from;
    return node;
}

void json_build_obj(JsonBuild *b, const char *key) { build_open(b, key, JSON_OBJ); }

bool json_build_obj_end(JsonBuild *b) {
    const Built *v;
    Json *node = build_close(b, &v);
    Members *m = heap_alloc(&b->heap, sizeof *m);
    m->key = heap_alloc(&b->heap, node->n * sizeof *m->key);
    m->value = heap_alloc(&b->heap, node->n * sizeof *m->value);
    for (size_t i = 0; i < node->n; i++) m->key[i] = v[i].key, m->value[i] = v[i].node;
    node->u.members = m;
    for (size_t i = 1; i < node->n && node->n < INDEX_FROM; i++)
        for (size_t k = 0; k < i; k++)
            if (strcmp(m->key[i], m->key[k]) == 0) return false;
    return index_members(m, node->n, &b->heap);
}

void json_build_arr(JsonBuild *b, const char *key) { build_open(b, key, JSON_ARR); }

void json_build_arr_end(JsonBuild *b) {
    const Built *v;
    Json *node = build_close(b, &v);
    node->u.item = heap_alloc(&b->heap, node->n * sizeof *node->u.item);
    for (size_t i = 0; i < node->n; i++) node->u.item[i] = v[i].node;
}

void json_build_strn(JsonBuild *b, const char *key, const char *s, size_t n) {
    Json *v = build_value(b, key, JSON_STR);
    v->u.s = heap_strn(&b->heap, s, n);
    v->n = n;
}

void json_build_num(JsonBuild *b, const char *key, double v) {
    Json *node = build_value(b, key, isfinite(v) ? JSON_REAL : JSON_NIL);
    node->u.r = v;
}

void json_build_int(JsonBuild *b, const char *key, int64_t v) { build_value(b, key, JSON_INT)->u.i = v; }

void json_build_bool(JsonBuild *b, const char *key, bool v) { build_value(b, key, v ? JSON_YES : JSON_NO); }

void json_build_null(JsonBuild *b, const char *key) { build_value(b, key, JSON_NIL); }

void json_build_share(JsonBuild *b, const char *key, const Json *node) { *build_value(b, key, node->kind) = *node; }

const Json *json_build_take(JsonBuild *b) {
    CHECK(b->depth == 0 && b->n == 1, "JSON: %zu values, %zu levels open", b->n, b->depth);
    Json *root = heap_alloc(&b->heap, sizeof *root);
    *root = b->done[0].node;
    b->n = 0;
    return root;
}

/* ---- writing ---- */

void json_out_init(JsonOut *j, Str *out, int indent) { *j = (JsonOut){.out = out, .indent = indent}; }

static void new_line(JsonOut *j) {
    str_putc(j->out, '\n');
    for (int i = 0; i < j->depth * j->indent; i++) str_putc(j->out, ' ');
}

/* Bytes that are not UTF-8 become U+FFFD: what we write must be readable by every JSON reader, ours included. */
static void put_string(Str *out, const char *s, size_t n) {
    str_putc(out, '"');
    while (n > 0) {
        size_t good = n;
        bool valid = str_utf8_valid(s, n, &good);
        size_t from = 0;
        for (size_t i = 0; i < good; i++) {
            unsigned char c = (unsigned char)s[i];
            if (c >= 0x20 && c != '"' && c != '\\') continue;
            str_putn(out, s + from, i - from);
            from = i + 1;
            switch (c) {
            case '"':
                str_put(out, "\\\"");
                break;
            case '\\':
                str_put(out, "\\\\");
                break;
            case '\b':
                str_put(out, "\\b");
                break;
            case '\f':
                str_put(out, "\\f");
                break;
            case '\n':
                str_put(out, "\\n");
                break;
            case '\r':
                str_put(out, "\\r");
                break;
            case '\t':
                str_put(out, "\\t");
                break;
            default:
                str_printf(out, "\\u%04x", c);
            }
        }
        str_putn(out, s + from, good - from);
        if (valid) break;
        str_put(out, "\xEF\xBF\xBD");
        s += good + 1;
        n -= good + 1;
    }
    str_putc(out, '"');
}

static void put_key(JsonOut *j, const char *key) {
    put_string(j->out, key, strlen(key));
    str_put(j->out, j->indent ? ": " : ":");
}

static void put_num(Str *out, double v) {
    char buf[32];
    json_format_num(buf, v);
    str_put(out, isfinite(v) ? buf : "null");
}

/* Comma, line break, key: everything before a value. */
static void lead(JsonOut *j, const char *key) {
    if (j->depth > 0) {
        if (j->need_comma[j->depth]) str_putc(j->out, ',');
        j->need_comma[j->depth] = true;
        if (j->indent) new_line(j);
    }
    if (key) put_key(j, key);
}

static void open_level(JsonOut *j, const char *key, char c) {
    lead(j, key);
    str_putc(j->out, c);
    j->depth++;
    CHECK(j->depth < COUNT_OF(j->need_comma), "JSON nested deeper than %d", COUNT_OF(j->need_comma) - 1);
    j->need_comma[j->depth] = false;
}

static void close_level(JsonOut *j, char c) {
    CHECK(j->depth > 0, "JSON: end without begin");
    bool any = j->need_comma[j->depth];
    j->depth--;
    if (any && j->indent) new_line(j);
    str_putc(j->out, c);
}

void json_out_obj(JsonOut *j, const char *key) { open_level(j, key, '{'); }
void json_out_obj_end(JsonOut *j) { close_level(j, '}'); }
void json_out_arr(JsonOut *j, const char *key) { open_level(j, key, '['); }
void json_out_arr_end(JsonOut *j) { close_level(j, ']'); }

void json_out_strn(JsonOut *j, const char *key, const char *s, size_t n) {
    lead(j, key);
    put_string(j->out, s, n);
}

static void put_word(JsonOut *j, const char *key, const char *word) {
    lead(j, key);
    str_put(j->out, word);
}

void json_out_str(JsonOut *j, const char *key, const char *s) {
    if (s)
        json_out_strn(j, key, s, strlen(s));
    else
        put_word(j, key, "null");
}

void json_out_num(JsonOut *j, const char *key, double v) {
    lead(j, key);
    put_num(j->out, v);
}

void json_out_int(JsonOut *j, const char *key, int64_t v) {
    lead(j, key);
    str_printf(j->out, "%lld", (long long)v);
}

void json_out_bool(JsonOut *j, const char *key, bool v) { put_word(j, key, v ? "true" : "false"); }

/* Not by way of open_level: a parsed tree may be deeper than what we write ourselves. */
static void put_node(JsonOut *j, const Json *node) {
    switch (node->kind) {
    case JSON_OBJ:
    case JSON_ARR: {
        bool object = node->kind == JSON_OBJ;
        str_putc(j->out, object ? '{' : '[');
        j->depth++;
        for (size_t i = 0; i < node->n; i++) {
            if (i > 0) str_putc(j->out, ',');
            if (j->indent) new_line(j);
            if (object) put_key(j, node->u.members->key[i]);
            put_node(j, object ? &node->u.members->value[i] : &node->u.item[i]);
        }
        j->depth--;
        if (node->n > 0 && j->indent) new_line(j);
        str_putc(j->out, object ? '}' : ']');
        break;
    }
    case JSON_STR:
        put_string(j->out, node->u.s, node->n);
        break;
    case JSON_INT:
        str_printf(j->out, "%lld", (long long)node->u.i);
        break;
    case JSON_REAL:
        put_num(j->out, node->u.r);
        break;
    case JSON_YES:
        str_put(j->out, "true");
        break;
    case JSON_NO:
        str_put(j->out, "false");
        break;
    case JSON_NIL:
        str_put(j->out, "null");
        break;
    }
}

void json_out_node(JsonOut *j, const char *key, const Json *node) {
    lead(j, key);
    if (node)
        put_node(j, node);
    else
        str_put(j->out, "null");
}

/* The fewest digits that read back equal, as %.*e. Any decimal of up to 15 digits survives the way through a normal
 * double, so 15 digits without their trailing zeros are the answer whenever 15 are enough. */
static void shortest_digits(char buf[32], double v) {
    int first = fabs(v) >= DBL_MIN || v == 0 ? 14 : 0;
    for (int p = first; p <= 16; p++) {
        snprintf(buf, 32, "%.*e", p, v);
        if (strtod(buf, NULL) == v) return;
    }
}

void json_format_num(char buf[32], double v) {
    if (!isfinite(v)) {
        snprintf(buf, 32, "%s", isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
        return;
    }
    char e[32], digit[20];
    shortest_digits(e, v);
    bool negative = e[0] == '-';
    int n = 0;
    const char *c = e + negative;
    for (; *c && *c != 'e'; c++) {
        if (*c != '.') digit[n++] = *c;
    }
    int exponent = atoi(c + 1);
    while (n > 1 && digit[n - 1] == '0') n--;
    digit[n] = 0;
    /* At most sign + 17 digits + point + zeros or exponent: 25 characters. */
    char *o = buf;
    if (negative) *o++ = '-';
    bool scientific = exponent < -4 || exponent >= 16;
    int point = scientific ? 1 : exponent + 1; /* digits in front of the point */
    if (point <= 0) {
        *o++ = '0';
        *o++ = '.';
        for (; point < 0; point++) *o++ = '0';
        point = -1;
    }
    for (int i = 0; i < n || i < point; i++) {
        if (i == point) *o++ = '.';
        *o++ = i < n ? digit[i] : '0';
    }
    if (!scientific && point >= n) {
        *o++ = '.';
        *o++ = '0';
    }
    *o = 0;
    if (scientific) snprintf(o, (size_t)(buf + 32 - o), "e%+03d", exponent);
}
