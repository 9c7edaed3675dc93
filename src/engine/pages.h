/* engine/pages.h — who holds which page of the key/value cache, and which pages hold what.
 *
 * A page is KV_PAGE positions of one sequence's keys and values in every layer. Its content follows from the tokens up
 * to its end (and from the weights), so the chained hash of those tokens names it. Whoever starts with the same tokens
 * finds the page by name and holds it too: nothing is copied, for full pages are never written again.
 *
 *      take -> written pass by pass -> full: named -> held by any number -> held by none: kept, oldest reused first
 *
 * Nobody waits here: callers ask pages_free first and keep their own count of what they promised. */
#ifndef DIKAST_ENGINE_PAGES_H
#define DIKAST_ENGINE_PAGES_H

#include "base/hash.h"
#include "tensor/backend.h" /* KV_PAGE */

typedef struct {
    int32_t held; /* holders */
    bool named;
    Hash name;
    int32_t same_bucket;  /* next page in the bucket; -1: none */
    int32_t older, newer; /* in the list of pages nobody holds */
} Page;

typedef struct {
    int n_page, n_free, n_bucket;
    Page *page;
    int32_t *bucket;        /* (n_bucket) first page of each; -1: none */
    int32_t oldest, newest; /* pages nobody holds, in the order of reuse: unnamed ones first */
} Pages;

void pages_init(Pages *p, int n_page);
void pages_release(Pages *p);
static inline int pages_free(const Pages *p) { return p->n_free; } /* pages nobody holds, named ones included */
/* Name of the page whose KV_PAGE tokens follow on the page named chain (the first: all zero), under weights of this version. */
Hash pages_next_name(Hash chain, uint64_t version, const int32_t *tok);
int32_t pages_take(Pages *p);                       /* a page with one holder and no name; CHECKs that one is free */
void pages_name(Pages *p, int32_t page, Hash name); /* a second page of the same name stays unnamed */
int32_t pages_find(Pages *p, Hash name);            /* holds and returns it; -1: no such page */
void pages_drop(Pages *p, int32_t page);            /* one holder less */
void pages_forget(Pages *p);                        /* all names: the weights changed */

#endif
