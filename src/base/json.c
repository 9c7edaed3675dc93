/* base/json.c — strict JSON in; the only file that knows jansson.
 *
 * Text that is plainly well formed becomes a tree in json_scan.c. About everything else jansson decides, and says what
 * is wrong; its tree is copied into one Heap, because jansson has no "i-th entry of an object" and frees node by node.
 */
#include "base/io.h"
#include "base/json_int.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define JSON_REAL JANSSON_REAL /* both sides name it; the values are equal */
#include <jansson.h>
#undef JSON_REAL

static_assert((int)JSON_OBJ == JSON_OBJECT && (int)JSON_STR == JSON_STRING && (int)JSON_REAL == JANSSON_REAL &&
                  (int)JSON_NIL == JSON_NULL,
              "our kinds are jansson's types");

typedef struct {
    Json node; /* first, so that the root is its own owner */
    Heap heap;
} Root;

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
    CHECK(json_index(m, to->n, h), "jansson let a key through twice");
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

bool json_parse_jansson(Json **out, const char *s, size_t n, int flags, const char *name, int first_line, Error *err) {
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

bool json_parse(Json **out, const char *s, size_t n, int flags, const char *name, int first_line, Error *err) {
    JsonBuild b = {0};
    bool quick = json_scan(&b, s, n, flags);
    if (quick) {
        Root *root = mem_alloc(sizeof *root);
        *root = (Root){*json_build_take(&b), b.heap};
        b.heap = (Heap){0};
        *out = &root->node;
    }
    json_build_release(&b);
    return quick || json_parse_jansson(out, s, n, flags, name, first_line, err);
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
    for (uint32_t s = json_key_slot(key) & m->mask; m->slot[s]; s = (s + 1) & m->mask) {
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
