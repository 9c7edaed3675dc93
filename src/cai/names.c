#include "cai/names.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/hash.h"

Names names_new(int n) {
    Names t = {.n_slot = 16};
    while (t.n_slot < 2 * (size_t)n + 2) t.n_slot *= 2;
    t.slot = mem_alloc(t.n_slot * sizeof *t.slot);
    return t;
}

NameEntry *names_at(const Names *t, const char *key) {
    size_t i = (size_t)hash_bytes(key, strlen(key)).lo & (t->n_slot - 1);
    while (t->slot[i].key && strcmp(t->slot[i].key, key)) i = (i + 1) & (t->n_slot - 1);
    return &t->slot[i];
}

void names_release(Names *t) {
    free(t->slot);
    *t = (Names){0};
}
