/* jinja_dict.c — maps in the order of insertion, as Python's: small ones are looked through, larger ones have an index
 * of open addresses. */
#include "text/jinja_int.h"

#include <string.h>

bool j_hashable(JVal v) {
    if (v.kind == J_TUPLE) {
        for (size_t i = 0; i < v.u.list->n; i++)
            if (!j_hashable(v.u.list->item[i])) return false;
    }
    return v.kind != J_LIST && v.kind != J_DICT && v.kind != J_SLICE && v.kind != J_VIEW;
}

static uint32_t hash_mix(uint32_t h, uint64_t v) { return (h ^ (uint32_t)(v ^ v >> 32)) * 16777619u + 0x9E3779B9u; }

/* Equal numbers hash alike whatever their kind: by the double next to them. */
static uint32_t hash_of(JVal v) {
    uint32_t h = 2166136261u;
    double f = 0;
    uint64_t bits;
    switch (v.kind) {
    case J_BOOL:
    case J_INT:
    case J_BIG:
    case J_FLOAT:
        if (!j_float_of(v, &f) || f == 0) f = 0;
        memcpy(&bits, &f, sizeof bits);
        return hash_mix(h, bits * 0x9E3779B97F4A7C15u);
    case J_STR:
        for (size_t i = 0; i < v.u.str->n; i++) h = (h ^ (unsigned char)v.u.str->s[i]) * 16777619u;
        return h;
    case J_TUPLE:
        for (size_t i = 0; i < v.u.list->n; i++) h = hash_mix(h, hash_of(v.u.list->item[i]));
        return h;
    default:
        return hash_mix(h, v.kind);
    }
}

enum { INDEX_FROM = 8 };

JDict *jx_dict(Jx *x) { return heap_alloc(&x->heap, sizeof(JDict)); }

static size_t dict_at(Jx *x, const JDict *d, JVal key) {
    if (!d->slot) {
        for (size_t i = 0; i < d->n; i++)
            if (jx_equal(x, d->key[i], key)) return i;
        return SIZE_MAX;
    }
    for (size_t s = hash_of(key) & d->mask; d->slot[s]; s = (s + 1) & d->mask) {
        size_t i = d->slot[s] - 1;
        if (jx_equal(x, d->key[i], key)) return i;
    }
    return SIZE_MAX;
}

static void dict_index(Jx *x, JDict *d) {
    size_t n_slot = 32;
    while (n_slot < d->cap * 2) n_slot *= 2;
    d->slot = heap_alloc(&x->heap, n_slot * sizeof *d->slot);
    d->mask = n_slot - 1;
    for (size_t i = 0; i < d->n; i++) {
        size_t s = hash_of(d->key[i]) & d->mask;
        while (d->slot[s]) s = (s + 1) & d->mask;
        d->slot[s] = (uint32_t)i + 1;
    }
}

static void dict_grow(Jx *x, JDict *d) {
    size_t cap = d->cap ? d->cap * 2 : 4;
    JVal *key = heap_alloc(&x->heap, cap * sizeof *key), *value = heap_alloc(&x->heap, cap * sizeof *value);
    if (d->n) {
        memcpy(key, d->key, d->n * sizeof *key);
        memcpy(value, d->value, d->n * sizeof *value);
    }
    d->key = key;
    d->value = value;
    d->cap = cap;
    if (cap >= INDEX_FROM) dict_index(x, d);
}

void jx_dict_set(Jx *x, JDict *d, JVal key, JVal value) {
    if (!j_hashable(key)) {
        jx_fail(x, "unhashable type: '%s'", j_type(key));
        return;
    }
    size_t at = dict_at(x, d, key);
    if (at != SIZE_MAX) {
        d->value[at] = value;
        return;
    }
    if (!jx_step(x, 1)) return;
    if (d->n == d->cap) dict_grow(x, d);
    d->key[d->n] = key;
    d->value[d->n++] = value;
    if (!d->slot) return;
    size_t s = hash_of(key) & d->mask;
    while (d->slot[s]) s = (s + 1) & d->mask;
    d->slot[s] = (uint32_t)d->n;
}

JVal *jx_dict_get(Jx *x, const JDict *d, JVal key) {
    if (!j_hashable(key)) {
        jx_fail(x, "unhashable type: '%s'", j_type(key));
        return NULL;
    }
    size_t at = dict_at(x, d, key);
    return at == SIZE_MAX ? NULL : &d->value[at];
}

JVal *jx_dict_find(Jx *x, const JDict *d, const char *key) {
    JStr s = {key, strlen(key), 0, false};
    return jx_dict_get(x, d, j_str(&s));
}
