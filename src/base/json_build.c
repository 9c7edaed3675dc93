/* base/json_build.c — JSON values built without text. Children are arrays, an object of more than a few entries has a
 * hash index, and release is one call. */
#include "base/hash.h"
#include "base/json_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { INDEX_FROM = 12 }; /* objects with fewer entries are searched in order */

uint32_t json_key_slot(const char *key) { return (uint32_t)hash_bytes(key, strlen(key)).lo; }

/* The index of an object that has its keys; small ones have none. False when two keys are equal. */
bool json_index(Members *m, size_t n, Heap *h) {
    if (n > UINT32_MAX / 4) return false;
    if (n < INDEX_FROM) {
        for (size_t i = 1; i < n; i++)
            for (size_t k = 0; k < i; k++)
                if (strcmp(m->key[i], m->key[k]) == 0) return false;
        return true;
    }
    uint32_t n_slot = 32;
    while (n_slot < n * 2) n_slot *= 2;
    m->mask = n_slot - 1;
    m->slot = heap_alloc(h, n_slot * sizeof *m->slot);
    for (size_t i = 0; i < n; i++) {
        uint32_t s = json_key_slot(m->key[i]) & m->mask;
        for (; m->slot[s]; s = (s + 1) & m->mask)
            if (strcmp(m->key[m->slot[s] - 1], m->key[i]) == 0) return false;
        m->slot[s] = (uint32_t)i + 1;
    }
    return true;
}

JsonBuild *json_build_new(void) { return mem_alloc(sizeof(JsonBuild)); }

void json_build_release(JsonBuild *b) {
    heap_release(&b->heap);
    free(b->done);
    free(b->open);
}

void json_build_free(JsonBuild *b) {
    if (!b) return;
    json_build_release(b);
    free(b);
}

void json_build_clear(JsonBuild *b) {
    heap_release(&b->heap);
    b->heap = (Heap){0};
    b->n = b->depth = 0;
}

size_t json_build_bytes(const JsonBuild *b) { return b->heap.total_bytes; }

const char *json_build_copy(JsonBuild *b, const char *s, size_t n) { return heap_strn(&b->heap, s, n); }

Json *json_build_value(JsonBuild *b, const char *key, JsonKind kind) {
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 64;
        b->done = mem_grow(b->done, b->cap * sizeof *b->done);
    }
    Built *v = &b->done[b->n++];
    *v = (Built){.node.kind = kind, .key = key};
    return &v->node;
}

static void build_open(JsonBuild *b, const char *key, JsonKind kind) {
    json_build_value(b, key, kind);
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
    return json_index(m, node->n, &b->heap);
}

void json_build_arr(JsonBuild *b, const char *key) { build_open(b, key, JSON_ARR); }

void json_build_arr_end(JsonBuild *b) {
    const Built *v;
    Json *node = build_close(b, &v);
    node->u.item = heap_alloc(&b->heap, node->n * sizeof *node->u.item);
    for (size_t i = 0; i < node->n; i++) node->u.item[i] = v[i].node;
}

void json_build_strn(JsonBuild *b, const char *key, const char *s, size_t n) {
    Json *v = json_build_value(b, key, JSON_STR);
    v->u.s = heap_strn(&b->heap, s, n);
    v->n = n;
}

void json_build_num(JsonBuild *b, const char *key, double v) {
    Json *node = json_build_value(b, key, isfinite(v) ? JSON_REAL : JSON_NIL);
    node->u.r = v;
}

void json_build_int(JsonBuild *b, const char *key, int64_t v) { json_build_value(b, key, JSON_INT)->u.i = v; }

void json_build_bool(JsonBuild *b, const char *key, bool v) { json_build_value(b, key, v ? JSON_YES : JSON_NO); }

void json_build_null(JsonBuild *b, const char *key) { json_build_value(b, key, JSON_NIL); }

void json_build_share(JsonBuild *b, const char *key, const Json *node) {
    *json_build_value(b, key, node->kind) = *node;
}

const Json *json_build_take(JsonBuild *b) {
    CHECK(b->depth == 0 && b->n == 1, "JSON: %zu values, %zu levels open", b->n, b->depth);
    Json *root = heap_alloc(&b->heap, sizeof *root);
    *root = b->done[0].node;
    b->n = 0;
    return root;
}
