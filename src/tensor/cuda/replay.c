#include "tensor/cuda/replay.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "tensor/cuda/driver.h"

enum { RECORDINGS = 64, ARRAYS = 16, CONSTANTS = 8, NOTED = 2, ALIGN = 256 };

typedef struct {
    Hash hash;
    void *at; /* device memory of the recording's own */
} Constant;

typedef struct {
    Hash key;
    bool used, never; /* never: this sequence cannot be recorded */
    int times;        /* it was asked for */
    uint64_t asked;   /* when last */
    HostArray array[ARRAYS];
    size_t offset[ARRAYS], bytes; /* of their copies, in one piece */
    int n_array;
    unsigned char *device, *pinned;
    void *sent; /* event behind the last copy out of pinned */
    bool was_sent;
    Constant constant[CONSTANTS];
    int n_constant;
    void *graph;   /* ready to launch; NULL: not yet */
    void *scratch; /* where scratch lay when it was captured */
} Recording;

struct CudaReplay {
    Recording all[RECORDINGS];
    Recording *now; /* being noted or captured */
    bool capturing;
    bool plain; /* kernels of recordings follow each other */
    uint64_t clock;
    CudaReplayStats stats;
};

CudaReplayStats cuda_replay_stats(const Backend *be) { return ((const CudaImpl *)be->impl)->replay->stats; }

CudaReplay *cuda_replay_new(void) { return mem_alloc(sizeof(CudaReplay)); }

static void drop_graph(CudaImpl *c, Recording *r) {
    if (r->graph) CUDA_OK(c->drv, c->drv->graph_close(r->graph));
    r->graph = NULL;
}

static void drop(CudaImpl *c, Recording *r) {
    if (r->used) CUDA_OK(c->drv, c->drv->sync(c->stream));
    drop_graph(c, r);
    if (r->device) c->drv->put(r->device);
    if (r->pinned) c->drv->host_put(r->pinned);
    if (r->sent) c->drv->event_close(r->sent);
    for (int i = 0; i < r->n_constant; i++)
        if (r->constant[i].at) c->drv->put(r->constant[i].at);
    memset(r, 0, sizeof *r);
}

void cuda_replay_free(CudaReplay *r, Backend *be) {
    if (!r) return;
    for (int i = 0; i < RECORDINGS; i++) drop(cuda_impl(be), &r->all[i]);
    free(r);
}

/* The key's recording, or a fresh one in the place of the one that was asked for longest ago. */
static Recording *recording_of(CudaReplay *r, CudaImpl *c, Hash key, const HostArray *array, int n) {
    Recording *old = &r->all[0];
    for (int i = 0; i < RECORDINGS; i++) {
        Recording *x = &r->all[i];
        if (x->used && hash_equal(x->key, key)) return x;
        if (!x->used || x->asked < old->asked) old = x;
        if (!old->used) continue;
    }
    drop(c, old);
    old->used = true;
    old->key = key;
    CHECK(n <= ARRAYS, "replay: %d arrays", n);
    old->n_array = n;
    for (int i = 0; i < n; i++) {
        old->array[i] = array[i];
        old->offset[i] = old->bytes;
        old->bytes += ((size_t)array[i].n * sizeof(int32_t) + ALIGN - 1) / ALIGN * ALIGN;
    }
    return old;
}

static bool same_arrays(const Recording *r, const HostArray *array, int n) {
    if (r->n_array != n) return false;
    for (int i = 0; i < n; i++)
        if (r->array[i].host != array[i].host || r->array[i].n != array[i].n) return false;
    return true;
}

static bool own_memory(CudaImpl *c, Recording *r) {
    void *device = NULL, *pinned = NULL;
    if (r->device) return true;
    if (c->drv->get(&device, r->bytes) == 0) r->device = device;
    if (c->drv->host_get(&pinned, r->bytes) == 0) r->pinned = pinned;
    return r->device && r->pinned && c->drv->event_open(&r->sent, false) == 0;
}

static void send_arrays(CudaImpl *c, Recording *r) {
    if (r->was_sent) CUDA_OK(c->drv, c->drv->event_sync(r->sent));
    for (int i = 0; i < r->n_array; i++)
        memcpy(r->pinned + r->offset[i], r->array[i].host, (size_t)r->array[i].n * sizeof(int32_t));
    CUDA_OK(c->drv, c->drv->copy(r->device, r->pinned, r->bytes, CUDA_TO_DEVICE, c->stream));
    CUDA_OK(c->drv, c->drv->event_record(r->sent, c->stream));
    r->was_sent = true;
}

bool cuda_replay_begin(Backend *be, const void *key, size_t n_key, const HostArray *array, int n_array) {
    CudaImpl *c = cuda_impl(be);
    CudaReplay *r = c->replay;
    if (!r || !c->drv->capture_begin) return false;
    CHECK(!r->now, "replay: a sequence within a sequence");
    Recording *x = recording_of(r, c, hash_bytes(key, n_key), array, n_array);
    x->asked = ++r->clock;
    if (!same_arrays(x, array, n_array)) { /* the caller's arrays have moved: from the beginning */
        Hash same = x->key;
        drop(c, x);
        x = recording_of(r, c, same, array, n_array);
        x->asked = r->clock;
    }
    if (x->never) {
        r->stats.refused++;
        return false;
    }
    if (x->graph && x->scratch == c->scratch) {
        send_arrays(c, x);
        CUDA_OK(c->drv, c->drv->graph_launch(x->graph, c->stream));
        r->stats.replayed++;
        return true;
    }
    drop_graph(c, x);
    r->now = x;
    r->capturing = x->times++ >= NOTED && own_memory(c, x);
    if (r->capturing) {
        send_arrays(c, x);
        CUDA_OK(c->drv, c->drv->capture_begin(c->stream));
        c->early = c->overlaps && !r->plain;
    }
    return false;
}

bool cuda_replay_end(Backend *be) {
    CudaImpl *c = cuda_impl(be);
    CudaReplay *r = c->replay;
    if (!r || !r->now) return true;
    Recording *x = r->now;
    r->now = NULL;
    if (!r->capturing) return true;
    r->capturing = false;
    if (c->drv->capture_end(c->stream, &x->graph) != 0) {
        c->drv->last_error();
        x->graph = NULL;
        x->never = !c->early;
        r->plain = true;
        c->early = false;
        return false;
    }
    c->early = false;
    x->scratch = c->scratch;
    r->stats.recorded++;
    CUDA_OK(c->drv, c->drv->graph_launch(x->graph, c->stream));
    if (!x->never) return true;
    CUDA_OK(c->drv, c->drv->sync(c->stream)); /* right this once */
    drop_graph(c, x);
    return true;
}

/* What is the same every time (frequencies) gets a copy that stays; what is not cannot be recorded. */
static const void *constant(CudaImpl *c, Recording *x, bool capturing, const void *host, size_t bytes) {
    Hash hash = hash_bytes(host, bytes);
    for (int i = 0; i < x->n_constant; i++)
        if (hash_equal(x->constant[i].hash, hash)) return x->constant[i].at;
    void *at = NULL;
    if (capturing || x->times > 1 || x->n_constant == CONSTANTS || c->drv->get(&at, bytes) != 0) {
        x->never = true;
        return NULL;
    }
    CUDA_OK(c->drv, c->drv->copy(at, host, bytes, CUDA_TO_DEVICE, c->stream));
    CUDA_OK(c->drv, c->drv->sync(c->stream));
    x->constant[x->n_constant++] = (Constant){hash, at};
    return at;
}

const void *cuda_replay_array(Backend *be, const void *host, size_t bytes) {
    CudaImpl *c = cuda_impl(be);
    CudaReplay *r = c->replay;
    if (!r || !r->now || r->now->never) return NULL;
    Recording *x = r->now;
    for (int i = 0; i < x->n_array; i++)
        if (host == x->array[i].host && bytes == (size_t)x->array[i].n * sizeof(int32_t))
            return r->capturing ? x->device + x->offset[i] : NULL;
    return constant(c, x, r->capturing, host, bytes);
}
