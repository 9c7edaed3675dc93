/* base/arena.c — bump allocation. In debug builds each object is followed by one red zone of ARENA_ALIGN bytes, which
 * ASan reports on touch and which, without ASan, holds a pattern that arena_rewind and arena_release verify. The
 * measuring pass counts the red zones too, so both passes agree. */
#include "base/arena.h"

#include "base/asan.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef NDEBUG
enum { DEBUG_ARENA = 0, RED_ZONE = 0 };
#else
enum { DEBUG_ARENA = 1, RED_ZONE = ARENA_ALIGN };
#endif
enum { RED_BYTE = 0xFA, FRESH_BYTE = 0xFF };
enum { RED_MAGIC_BYTES = 16 }; /* tail of the red zone: the size of the object it follows, then a constant */
static const uint64_t red_magic = 0x0DD1CA57DEADBEEFu;

static const size_t huge_page = (size_t)2 << 20;

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

static void *host_get(void *ud, size_t bytes) {
    (void)ud;
    if (bytes < huge_page) {
        void *p = NULL;
        return posix_memalign(&p, ARENA_ALIGN, bytes ? bytes : 1) == 0 ? p : NULL;
    }
    /* Over-map by one huge page and unmap the ends: mmap alone aligns to 4 KiB only. */
    size_t want = round_up(bytes, huge_page);
    unsigned char *p =
        mmap(NULL, want + huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    size_t skip = (huge_page - (uintptr_t)p % huge_page) % huge_page;
    if (skip) munmap(p, skip);
    if (huge_page - skip) munmap(p + skip + want, huge_page - skip);
    /* A wish: without it we only lose speed. Not of the last, broken page, which would hold up to 2 MiB that nobody
     * uses, nor of so little that one would be most of it: of logits decoding uses a row. */
    if (bytes >= 2 * huge_page) madvise(p + skip, bytes / huge_page * huge_page, MADV_HUGEPAGE);
    return p + skip;
}

static void host_put(void *ud, void *p, size_t bytes) {
    (void)ud;
    if (bytes < huge_page)
        free(p);
    else
        munmap(p, round_up(bytes, huge_page));
}

MemSource mem_source_host(void) { return (MemSource){.get = host_get, .put = host_put}; }

/* Only host memory can be filled and poisoned from here. */
static bool on_host(const Arena *a) { return a->src.get == host_get; }

void arena_init_measure(Arena *a, const char *name) { *a = (Arena){.name = name, .measuring = true, .cap = SIZE_MAX}; }

bool arena_init(Arena *a, const char *name, MemSource src, size_t cap, Error *err) {
    *a = (Arena){.name = name, .src = src};
    if (cap == 0) return true;
    void *p = cap <= SIZE_MAX - 2 * huge_page ? src.get(src.ud, cap) : NULL;
    if (!p) {
        char left[160] = "";
        if (src.left) src.left(src.ud, left, sizeof left);
        return error_set(err, ERR_MEMORY,
                         "%s: cannot get %.1f MB of memory%s: lower the stage's micro_tokens or the model's size", name,
                         (double)cap / 1e6, left);
    }
    a->base = p;
    a->cap = cap;
    if (DEBUG_ARENA && on_host(a)) asan_poison(a->base, cap);
    return true;
}

static void write_red_zone(unsigned char *at, size_t object_bytes) {
    asan_unpoison(at, RED_ZONE);
    memset(at, RED_BYTE, RED_ZONE);
    uint64_t tail[2] = {object_bytes, red_magic};
    memcpy(at + RED_ZONE - RED_MAGIC_BYTES, tail, sizeof tail);
    asan_poison(at, RED_ZONE);
}

/* Walks the red zones from the top down to mark: each tells where the one before it ends. */
static void check_red_zones(const Arena *a, size_t mark) {
    size_t end = a->used;
    while (end > mark) {
        unsigned char *zone = a->base + end - RED_ZONE;
        asan_unpoison(zone, RED_ZONE);
        uint64_t tail[2];
        memcpy(tail, zone + RED_ZONE - RED_MAGIC_BYTES, sizeof tail);
        bool intact = tail[1] == red_magic && tail[0] + RED_ZONE <= end;
        for (int i = 0; i < RED_ZONE - RED_MAGIC_BYTES; i++) intact &= zone[i] == RED_BYTE;
        CHECK(intact, "arena '%s': something wrote past the object that ends at byte %zu", a->name, end - RED_ZONE);
        asan_poison(zone, RED_ZONE);
        end -= tail[0] + RED_ZONE;
    }
}

void arena_release(Arena *a) {
    if (a->base) {
        if (DEBUG_ARENA && on_host(a)) {
            check_red_zones(a, 0);
            asan_unpoison(a->base, a->cap);
        }
        a->src.put(a->src.ud, a->base, a->cap);
    }
    *a = (Arena){0};
}

void *arena_alloc(Arena *a, size_t bytes) {
    CHECK(bytes <= SIZE_MAX / 4, "arena '%s': %zu bytes", a->name, bytes);
    size_t object = round_up(bytes, ARENA_ALIGN), take = object + RED_ZONE;
    CHECK(take <= a->cap - a->used, "arena '%s' is full: %zu bytes wanted, %zu of %zu used", a->name, take, a->used,
          a->cap);
    size_t at = a->used;
    a->used += take;
    if (a->used > a->peak) a->peak = a->used;
    if (a->measuring || !a->base) return NULL; /* no base: an arena of no bytes gave out no bytes */
    unsigned char *p = a->base + at;
    if (DEBUG_ARENA && on_host(a)) {
        asan_unpoison(p, object);
        memset(p, FRESH_BYTE, object);
        write_red_zone(p + object, object);
        if (object > bytes) asan_poison(p + bytes, object - bytes);
    }
    return p;
}

size_t arena_mark(const Arena *a) { return a->used; }

void arena_rewind(Arena *a, size_t mark) {
    CHECK(mark <= a->used, "arena '%s': rewind to %zu, but only %zu used", a->name, mark, a->used);
    if (DEBUG_ARENA && !a->measuring && a->base && on_host(a)) {
        check_red_zones(a, mark);
        asan_poison(a->base + mark, a->used - mark);
    }
    a->used = mark;
}

/* Heap: blocks of doubling size up to 1 MiB; an object larger than a block gets its own, behind the current one so that
 * the current one keeps filling. */
struct ArenaBlock {
    ArenaBlock *next;
    size_t used, cap;
    max_align_t data[];
};

static ArenaBlock *block_new(size_t cap) {
    ArenaBlock *b = mem_alloc(sizeof *b + cap);
    b->cap = cap;
    return b;
}

void *heap_alloc(Heap *h, size_t bytes) {
    CHECK(bytes <= SIZE_MAX / 4, "heap: %zu bytes", bytes);
    size_t take = round_up(bytes ? bytes : 1, 16);
    if (!h->block || h->block->cap - h->block->used < take) {
        size_t cap = h->block ? h->block->cap * 2 : 4096;
        if (cap > (size_t)1 << 20) cap = (size_t)1 << 20;
        bool own = take > cap / 2;
        ArenaBlock *b = block_new(own ? take : cap);
        if (own && h->block) {
            b->next = h->block->next;
            h->block->next = b;
            b->used = take;
            h->total_bytes += take;
            return b->data;
        }
        b->next = h->block;
        h->block = b;
    }
    void *p = (unsigned char *)h->block->data + h->block->used;
    h->block->used += take;
    h->total_bytes += take;
    return p;
}

char *heap_strn(Heap *h, const char *s, size_t n) {
    char *p = heap_alloc(h, n + 1);
    if (n) memcpy(p, s, n);
    return p;
}

char *heap_printf(Heap *h, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    CHECK(n >= 0, "heap_printf: bad format '%s'", fmt);
    char *p = heap_alloc(h, (size_t)n + 1);
    vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

void heap_release(Heap *h) {
    while (h->block) {
        ArenaBlock *next = h->block->next;
        free(h->block);
        h->block = next;
    }
    *h = (Heap){0};
}
