/* engine/pages.c — reference counts, names (a chained hash table) and the order of reuse (a list of pages nobody
 * holds). */
#include "engine/pages.h"

#include <stdlib.h>
#include <string.h>

void pages_init(Pages *p, int n_page) {
    CHECK(n_page > 0, "a cache of %d pages", n_page);
    memset(p, 0, sizeof *p);
    p->n_page = n_page;
    p->n_bucket = 1;
    while (p->n_bucket < n_page) p->n_bucket *= 2;
    p->page = mem_alloc((size_t)n_page * sizeof *p->page);
    p->bucket = mem_alloc((size_t)p->n_bucket * sizeof *p->bucket);
    for (int i = 0; i < p->n_bucket; i++) p->bucket[i] = -1;
    for (int i = 0; i < n_page; i++)
        p->page[i] = (Page){.same_bucket = -1, .older = i - 1, .newer = i + 1 < n_page ? i + 1 : -1};
    p->newest = n_page - 1;
    p->n_free = n_page;
}

void pages_release(Pages *p) {
    free(p->page);
    free(p->bucket);
    memset(p, 0, sizeof *p);
}

static int32_t *bucket_of(Pages *p, Hash name) { return &p->bucket[name.lo & (uint64_t)(p->n_bucket - 1)]; }

static int32_t lookup(Pages *p, Hash name) {
    int32_t i = *bucket_of(p, name);
    while (i >= 0 && !hash_equal(p->page[i].name, name)) i = p->page[i].same_bucket;
    return i;
}

static void unname(Pages *p, int32_t page) {
    int32_t *link = bucket_of(p, p->page[page].name);
    while (*link != page) link = &p->page[*link].same_bucket;
    *link = p->page[page].same_bucket;
    p->page[page].same_bucket = -1;
    p->page[page].named = false;
}

static void list_remove(Pages *p, int32_t page) {
    Page *x = &p->page[page];
    *(x->older >= 0 ? &p->page[x->older].newer : &p->oldest) = x->newer;
    *(x->newer >= 0 ? &p->page[x->newer].older : &p->newest) = x->older;
    p->n_free--;
}

static void list_add(Pages *p, int32_t page) {
    Page *x = &p->page[page];
    x->older = x->named ? p->newest : -1;
    x->newer = x->named ? -1 : p->oldest;
    *(x->older >= 0 ? &p->page[x->older].newer : &p->oldest) = page;
    *(x->newer >= 0 ? &p->page[x->newer].older : &p->newest) = page;
    p->n_free++;
}

int32_t pages_take(Pages *p) {
    int32_t i = p->oldest;
    CHECK(i >= 0, "all %d pages are held", p->n_page);
    list_remove(p, i);
    if (p->page[i].named) unname(p, i);
    p->page[i].held = 1;
    return i;
}

void pages_name(Pages *p, int32_t page, Hash name) {
    CHECK(page >= 0 && page < p->n_page && p->page[page].held > 0, "page %d of %d is not held", page, p->n_page);
    if (p->page[page].named || lookup(p, name) >= 0) return;
    int32_t *first = bucket_of(p, name);
    p->page[page].name = name;
    p->page[page].named = true;
    p->page[page].same_bucket = *first;
    *first = page;
}

int32_t pages_find(Pages *p, Hash name) {
    int32_t i = lookup(p, name);
    if (i >= 0 && p->page[i].held++ == 0) list_remove(p, i);
    return i;
}

void pages_drop(Pages *p, int32_t page) {
    CHECK(page >= 0 && page < p->n_page && p->page[page].held > 0, "page %d of %d is not held", page, p->n_page);
    if (--p->page[page].held == 0) list_add(p, page);
}

void pages_forget(Pages *p) {
    for (int32_t i = 0; i < p->n_page; i++) {
        if (p->page[i].named) unname(p, i);
    }
}

Hash pages_next_name(Hash chain, uint64_t version, const int32_t *tok) {
    struct {
        Hash chain;
        uint64_t version;
        int32_t tok[KV_PAGE];
    } key;
    memset(&key, 0, sizeof key);
    key.chain = chain;
    key.version = version;
    memcpy(key.tok, tok, sizeof key.tok);
    return hash_bytes(&key, sizeof key);
}
