/* base/arena.h — memory with one lifetime, from any source (malloc, cudaMalloc, pinned host).
 *
 * Sizes are never computed twice: the function that places objects runs first on a measuring arena (ARENA_MEASURE:
 * hands out NULL, counts bytes), then on a real one of exactly that size.
 *
 *      base | params of layer 0 | mark | params of layer 1 .. | used | free | cap
 *
 * Debug builds (NDEBUG unset) fill fresh memory with 0xff bytes (NaN as float), put red zones between objects and poison
 * what arena_rewind gives back, so that ASan sees overruns inside one arena. */
#ifndef DIKAST_BASE_ARENA_H
#define DIKAST_BASE_ARENA_H

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    void *(*get)(void *ud, size_t bytes);           /* NULL: there is none */
    void (*put)(void *ud, void *p, size_t bytes);
    void (*left)(void *ud, char *out, size_t n);    /* for messages: " on GPU 0, which has ..."; NULL: nothing to say */
    void *ud;
} MemSource;

typedef struct {
    const char *name;
    MemSource src;
    unsigned char *base;
    size_t used, cap, peak;
    bool measuring;
} Arena;

enum { ARENA_ALIGN = 256 };

MemSource mem_source_host(void);    /* mmap, 2 MiB aligned and madvised to huge pages when large */

void arena_init_measure(Arena *a, const char *name); /* allocations return NULL; a->used counts */
bool arena_init(Arena *a, const char *name, MemSource src, size_t cap, Error *err);
void arena_release(Arena *a);                        /* fine on a zeroed Arena */
void *arena_alloc(Arena *a, size_t bytes);           /* 256-byte aligned; CHECKs with name and numbers when full */
size_t arena_mark(const Arena *a);
void arena_rewind(Arena *a, size_t mark);

/* Host arenas for records and requests whose size is unknown beforehand: a chain of blocks, freed together. */
typedef struct ArenaBlock ArenaBlock;
typedef struct { ArenaBlock *block; size_t total_bytes; } Heap;     /* zeroed is valid and empty */
void *heap_alloc(Heap *h, size_t bytes);                            /* zeroed, 16-byte aligned */
char *heap_strn(Heap *h, const char *s, size_t n);                  /* copy with a final NUL */
char *heap_printf(Heap *h, const char *fmt, ...) FORMAT(2, 3);
void heap_release(Heap *h);

#ifdef __cplusplus
}
#endif

#endif
