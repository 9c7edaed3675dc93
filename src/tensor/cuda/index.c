#include "tensor/cuda/index.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

typedef struct {
    Hash hash;
    size_t bytes;   /* of the array; 0: nobody's */
    uint64_t asked; /* when it was asked for last */
    unsigned char *at;
    size_t room; /* bytes that are its own */
} Copy;

struct CudaIndex {
    const CudaDriver *drv;
    void *stream;
    unsigned char *ring, *pinned;
    size_t ring_bytes, head, part_bytes, filled;
    int part;
    void *event[INDEX_PARTS]; /* behind the last copy out of the part; NULL events were never recorded */
    bool recorded[INDEX_PARTS];
    uint64_t now;
    Copy small[INDEX_SLOTS], big[INDEX_BIG];
    CudaIndexStats stats;
};

enum { ALIGN = 256 };

static size_t round_up(size_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }

bool cuda_index_open(CudaIndex **out, const CudaDriver *drv, void *stream, size_t ring, size_t pinned, Error *err) {
    CHECK(ring % (ALIGN * INDEX_SMALL) == 0 && pinned % (ALIGN * INDEX_PARTS) == 0, "ring %zu, pinned %zu", ring,
          pinned);
    CudaIndex *ix = mem_alloc(sizeof *ix);
    *ix = (CudaIndex){.drv = drv, .stream = stream, .ring_bytes = ring, .part_bytes = pinned / INDEX_PARTS};
    void *device = NULL, *host = NULL;
    int code = drv->get(&device, ring);
    ix->ring = device;
    if (code == 0) code = drv->host_get(&host, pinned);
    ix->pinned = host;
    for (int i = 0; i < INDEX_PARTS && code == 0; i++) code = drv->event_open(&ix->event[i], false);
    *out = ix;
    if (code == 0) return true;
    cuda_index_close(ix);
    *out = NULL;
    return cuda_error(drv, code, "memory for index arrays", err);
}

void cuda_index_close(CudaIndex *ix) {
    if (!ix) return;
    for (int i = 0; i < INDEX_PARTS; i++)
        if (ix->event[i]) ix->drv->event_close(ix->event[i]);
    for (int i = 0; i < INDEX_BIG; i++)
        if (ix->big[i].at) ix->drv->put(ix->big[i].at);
    if (ix->pinned) ix->drv->host_put(ix->pinned);
    if (ix->ring) ix->drv->put(ix->ring);
    free(ix);
}

/* -- device side --------------------------------------------------------------------------------------------------- */

static bool recent(const CudaIndex *ix, const Copy *c) { return c->bytes > 0 && c->asked + INDEX_KEEP > ix->now; }

static Copy *known(Copy *c, int n, Hash hash, size_t bytes) {
    for (int i = 0; i < n; i++)
        if (c[i].hash.lo == hash.lo && c[i].hash.hi == hash.hi && c[i].bytes == bytes) return &c[i];
    return NULL;
}

/* An unused place, else the one asked for longest ago. */
static Copy *oldest(Copy *c, int n) {
    Copy *old = &c[0];
    for (int i = 0; i < n; i++) {
        if (c[i].bytes == 0) return &c[i];
        if (c[i].asked < old->asked) old = &c[i];
    }
    return old;
}

static bool overlaps(const CudaIndex *ix, const Copy *c, size_t from, size_t room) {
    size_t at = (size_t)(c->at - ix->ring);
    return c->bytes > 0 && at < from + room && from < at + c->room;
}

/* Moves head to where `room` bytes overlap no recent copy. At most INDEX_KEEP copies of at most 1/INDEX_SMALL of the
 * ring each are in the way, so the space between two of them is always wide enough somewhere. */
static void find_room(CudaIndex *ix, size_t room) {
    for (int tries = 0; tries < 2 * INDEX_SLOTS; tries++) {
        if (ix->head + room > ix->ring_bytes) ix->head = 0;
        const Copy *blocks = NULL;
        for (int i = 0; i < INDEX_SLOTS; i++)
            if (recent(ix, &ix->small[i]) && overlaps(ix, &ix->small[i], ix->head, room)) blocks = &ix->small[i];
        if (!blocks) return;
        ix->head = (size_t)(blocks->at - ix->ring) + blocks->room;
    }
    CHECK(false, "index arrays: no room for %zu bytes", room);
}

static Copy *place_small(CudaIndex *ix, size_t room) {
    find_room(ix, room);
    for (int i = 0; i < INDEX_SLOTS; i++)
        if (overlaps(ix, &ix->small[i], ix->head, room)) ix->small[i].bytes = 0;
    Copy *c = oldest(ix->small, INDEX_SLOTS);
    c->at = ix->ring + ix->head;
    c->room = room;
    ix->head += room;
    return c;
}

static Copy *place_big(CudaIndex *ix, size_t room) {
    Copy *c = oldest(ix->big, INDEX_BIG);
    if (c->room >= room) return c;
    void *p = NULL;
    if (c->at) CUDA_OK(ix->drv, ix->drv->put(c->at));
    CUDA_OK(ix->drv, ix->drv->get(&p, room));
    c->at = p;
    c->room = room;
    return c;
}

/* -- host side ----------------------------------------------------------------------------------------------------- */

static void next_part(CudaIndex *ix) {
    const CudaDriver *drv = ix->drv;
    CUDA_OK(drv, drv->event_record(ix->event[ix->part], ix->stream));
    ix->recorded[ix->part] = true;
    ix->part = (ix->part + 1) % INDEX_PARTS;
    ix->filled = 0;
    if (!ix->recorded[ix->part]) return;
    CUDA_OK(drv, drv->event_sync(ix->event[ix->part]));
    ix->stats.waited++;
}

static void send(CudaIndex *ix, unsigned char *to, const unsigned char *host, size_t bytes) {
    while (bytes > 0) {
        if (ix->filled == ix->part_bytes) next_part(ix);
        size_t left = ix->part_bytes - ix->filled, n = bytes < left ? bytes : left;
        unsigned char *from = ix->pinned + (size_t)ix->part * ix->part_bytes + ix->filled;
        memcpy(from, host, n);
        CUDA_OK(ix->drv, ix->drv->copy(to, from, n, CUDA_TO_DEVICE, ix->stream));
        ix->filled += n == left ? n : round_up(n) < left ? round_up(n) : left;
        to += n, host += n, bytes -= n;
    }
}

const void *cuda_index_get(CudaIndex *ix, const void *host, size_t bytes) {
    if (bytes == 0) return ix->ring;
    ix->now++;
    ix->stats.asked++;
    Hash hash = hash_bytes(host, bytes);
    size_t room = round_up(bytes);
    bool big = room > ix->ring_bytes / INDEX_SMALL;
    Copy *c = big ? known(ix->big, INDEX_BIG, hash, bytes) : known(ix->small, INDEX_SLOTS, hash, bytes);
    if (!c) {
        c = big ? place_big(ix, room) : place_small(ix, room);
        c->hash = hash;
        c->bytes = bytes;
        send(ix, c->at, host, bytes);
        ix->stats.sent++;
        ix->stats.sent_bytes += (int64_t)bytes;
    }
    c->asked = ix->now;
    return c->at;
}

CudaIndexStats cuda_index_stats(const CudaIndex *ix) { return ix->stats; }
