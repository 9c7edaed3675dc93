/* The backend over NCCL. Its ranks are those of another world (threads, or processes of MPI), which carries nothing but
 * the id they meet by.
 *
 * Callers' buffers are host memory, as those of every backend, or memory of this rank's GPU (CUDA finds out by the
 * address): a call copies what it sends into device memory of its own, lets the GPUs exchange it and copies what came
 * back. Communicators do not block (config.blocking 0): each call is asked again and again until it is through, so that
 * a lost peer costs a deadline and not the process. Every exchange is a group of sends and receives, the operations
 * whose order of work NCCL leaves to us; it adds nothing. */
#include "dist/comm_nccl.h"

#include <dlfcn.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "dist/agree.h"
#include "dist/comm_int.h"

typedef struct { /* one rank's device side, shared by its groups */
    NcclApi api;
    void *stream;
    unsigned char *in, *out; /* device memory */
    size_t in_cap, out_cap;
    int users;
} Device;

typedef struct {
    Device *dev;
    NcclComm *comm;
    int rank, size;
} Link;

/* -- waiting */

static bool nccl_error(Link *l, const char *what, int rc, Error *err) {
    return error_set(err, ERR_NET, "NCCL: %s: %s", what, l->dev->api.error_string(rc));
}

static bool cuda_error(const char *what, int rc, Error *err) {
    return error_set(err, ERR_NET, "NCCL: %s: CUDA error %d", what, rc);
}

static bool late(Link *l, const CommCall *call, Error *err) {
    if (now_s() <= call->until) {
        nanosleep(&(struct timespec){0, 20000}, NULL);
        return false;
    }
    l->dev->api.comm_abort(l->comm); /* its kernels would wait for ever */
    l->comm = NULL;
    error_set(err, ERR_NET, "the deadline passed: not all ranks came");
    return true;
}

/* Until the communicator has taken what it was given. */
static bool settle(Link *l, int rc, const CommCall *call, Error *err) {
    const NcclApi *api = &l->dev->api;
    if (rc != NCCL_SUCCESS && rc != NCCL_IN_PROGRESS) return nccl_error(l, call->op, rc, err);
    for (int state = NCCL_IN_PROGRESS;;) {
        rc = api->comm_error(l->comm, &state);
        if (rc != NCCL_SUCCESS) return nccl_error(l, call->op, rc, err);
        if (state == NCCL_SUCCESS) return true;
        if (state != NCCL_IN_PROGRESS) return nccl_error(l, call->op, state, err);
        if (late(l, call, err)) return false;
    }
}

static bool stream_done(Link *l, const CommCall *call, Error *err) {
    const NcclApi *api = &l->dev->api;
    for (int rc; (rc = api->stream_query(l->dev->stream)) != 0;) {
        int state = NCCL_SUCCESS;
        if (rc != CUDA_NOT_READY) return cuda_error(call->op, rc, err);
        if (api->comm_error(l->comm, &state) != NCCL_SUCCESS || (state != NCCL_SUCCESS && state != NCCL_IN_PROGRESS))
            return nccl_error(l, call->op, state, err);
        if (late(l, call, err)) return false;
    }
    return true;
}

/* -- memory */

static bool room(Device *d, unsigned char **p, size_t *cap, size_t want, Error *err) {
    if (want <= *cap) return true;
    if (*p) d->api.free(*p);
    *p = NULL;
    *cap = 0;
    void *got = NULL;
    int rc = d->api.malloc(&got, want);
    if (rc) return error_set(err, ERR_MEMORY, "NCCL: %zu bytes of device memory to send from: CUDA error %d", want, rc);
    *p = got;
    *cap = want;
    return true;
}

/* -- one exchange: part p of in to rank p, part p of out from it; a size of 0 is no message */

static size_t total(const size_t *bytes, int n) {
    size_t sum = 0;
    for (int i = 0; i < n; i++) sum += bytes[i];
    return sum;
}

static bool queue(Link *l, const size_t *out_bytes, const size_t *in_bytes, bool same_in, const CommCall *call,
                  Error *err) {
    const NcclApi *api = &l->dev->api;
    unsigned char *in = l->dev->in, *out = l->dev->out;
    int rc = api->group_start();
    for (int p = 0; p < l->size && rc == NCCL_SUCCESS; p++) {
        if (in_bytes[p] > 0) rc = api->send(in, in_bytes[p], NCCL_INT8, p, l->comm, l->dev->stream);
        if (rc == NCCL_IN_PROGRESS) rc = NCCL_SUCCESS;
        if (rc == NCCL_SUCCESS && out_bytes[p] > 0)
            rc = api->recv(out, out_bytes[p], NCCL_INT8, p, l->comm, l->dev->stream);
        if (rc == NCCL_IN_PROGRESS) rc = NCCL_SUCCESS;
        if (!same_in) in += in_bytes[p];
        out += out_bytes[p];
    }
    int end = api->group_end();
    return settle(l, rc != NCCL_SUCCESS ? rc : end, call, err);
}

/* same_in: every rank gets the same in, of in_bytes[0] at most. */
static bool exchange(Link *l, void *out, const size_t *out_bytes, const void *in, const size_t *in_bytes, bool same_in,
                     const CommCall *call, Error *err) {
    Device *d = l->dev;
    size_t n_out = total(out_bytes, l->size), n_in = same_in ? 0 : total(in_bytes, l->size);
    for (int p = 0; same_in && p < l->size; p++)
        if (in_bytes[p] > n_in) n_in = in_bytes[p];
    if (!room(d, &d->in, &d->in_cap, n_in, err) || !room(d, &d->out, &d->out_cap, n_out, err)) return false;
    int rc = n_in > 0 ? d->api.copy(d->in, in, n_in, CUDA_BY_ADDRESS, d->stream) : 0;
    if (rc) return cuda_error("copy to the device", rc, err);
    if (!queue(l, out_bytes, in_bytes, same_in, call, err)) return false;
    rc = n_out > 0 ? d->api.copy(out, d->out, n_out, CUDA_BY_ADDRESS, d->stream) : 0;
    return rc ? cuda_error("copy from the device", rc, err) : stream_done(l, call, err);
}

static size_t *sizes(const Link *l) { return mem_alloc((size_t)l->size * sizeof(size_t)); }

static bool all_to_all(void *link, void *out, const size_t *out_bytes, const void *in, const size_t *in_bytes,
                       const CommCall *call, Error *err) {
    return exchange(link, out, out_bytes, in, in_bytes, false, call, err);
}

static bool all_gather(void *link, void *out, const void *in, const size_t *bytes, const CommCall *call, Error *err) {
    Link *l = link;
    size_t *sent = sizes(l);
    for (int p = 0; p < l->size; p++) sent[p] = bytes[l->rank];
    bool ok = exchange(l, out, bytes, in, sent, true, call, err);
    free(sent);
    return ok;
}

static bool broadcast(void *link, void *buf, size_t bytes, int root, const CommCall *call, Error *err) {
    Link *l = link;
    size_t *sent = sizes(l), *comes = sizes(l);
    for (int p = 0; p < l->size; p++) sent[p] = l->rank == root && p != root ? bytes : 0;
    if (l->rank != root) comes[root] = bytes;
    bool ok = exchange(l, buf, comes, buf, sent, true, call, err);
    free(sent);
    free(comes);
    return ok;
}

static bool barrier(void *link, const CommCall *call, Error *err) {
    Link *l = link;
    size_t *one = sizes(l);
    unsigned char mine = 1, *all = mem_alloc((size_t)l->size);
    for (int p = 0; p < l->size; p++) one[p] = 1;
    bool ok = exchange(l, all, one, &mine, one, true, call, err);
    free(all);
    free(one);
    return ok;
}

static bool send_to(void *link, const void *buf, size_t bytes, int peer, const CommCall *call, Error *err) {
    Link *l = link;
    size_t *sent = sizes(l), *comes = sizes(l);
    sent[peer] = bytes;
    bool ok = exchange(l, NULL, comes, buf, sent, true, call, err);
    free(sent);
    free(comes);
    return ok;
}

static bool recv_from(void *link, void *buf, size_t bytes, int peer, const CommCall *call, Error *err) {
    Link *l = link;
    size_t *sent = sizes(l), *comes = sizes(l);
    comes[peer] = bytes;
    bool ok = exchange(l, buf, comes, NULL, sent, true, call, err);
    free(sent);
    free(comes);
    return ok;
}

/* -- groups and life */

static NcclConfig config_new(void) {
    return (NcclConfig){.size = sizeof(NcclConfig),
                        .magic = (unsigned)NCCL_MAGIC,
                        .version = NCCL_LAYOUT,
                        .blocking = 0,
                        .cga = INT_MIN,
                        .min_ctas = INT_MIN,
                        .max_ctas = INT_MIN,
                        .split_share = INT_MIN};
}

static void device_leave(Device *d) {
    if (--d->users > 0) return;
    if (d->in) d->api.free(d->in);
    if (d->out) d->api.free(d->out);
    if (d->stream) d->api.stream_destroy(d->stream);
    free(d);
}

static void close_link(void *link) {
    Link *l = link;
    if (l->comm) l->dev->api.comm_destroy(l->comm);
    device_leave(l->dev);
    free(l);
}

static void abort_world(void *link, const Error *why) {
    Link *l = link;
    (void)why;
    if (l->comm) l->dev->api.comm_abort(l->comm);
    l->comm = NULL;
}

static bool split(void *link, int color, int key, void **out, int *rank, int *size, const CommCall *call, Error *err) {
    Link *l = link;
    Link *g = mem_alloc(sizeof *g);
    NcclConfig config = config_new();
    *g = (Link){.dev = l->dev};
    int rc = l->dev->api.comm_split(l->comm, color, key, &g->comm, &config);
    bool ok = settle(l, rc, call, err) && settle(g, NCCL_SUCCESS, call, err);
    if (ok) {
        l->dev->api.comm_rank(g->comm, &g->rank);
        l->dev->api.comm_count(g->comm, &g->size);
        l->dev->users++;
        *rank = g->rank, *size = g->size, *out = g;
    } else {
        free(g);
    }
    return ok;
}

static const CommOps nccl_ops = {.name = "nccl",
                                 .devices = true,
                                 .send = send_to,
                                 .recv = recv_from,
                                 .all_to_all = all_to_all,
                                 .all_gather = all_gather,
                                 .broadcast = broadcast,
                                 .barrier = barrier,
                                 .split = split,
                                 .abort = abort_world,
                                 .close = close_link};

static bool open_device(Device *d, int device, Error *err) {
    int n = 0, rc = d->api.device_count(&n);
    if (rc || n < 1) return error_set(err, ERR_CONFIG, "ranks over NCCL: no usable GPU here (CUDA error %d)", rc);
    if (device >= n)
        return error_set(err, ERR_CONFIG,
                         "ranks over NCCL: GPU %d is asked for, this machine has %d: one rank needs one GPU", device,
                         n);
    if ((rc = d->api.set_device(device)) || (rc = d->api.stream_create(&d->stream)))
        return error_set(err, ERR_CONFIG, "ranks over NCCL: GPU %d: CUDA error %d", device, rc);
    return true;
}

bool comm_open_nccl(Comm **world, Comm *boot, const NcclApi *api, int device, Error *err) {
    Device *d = mem_alloc(sizeof *d);
    Link *l = mem_alloc(sizeof *l);
    Error mine = {0};
    NcclId id = {{0}};
    *d = (Device){.api = *api, .users = 1};
    *l = (Link){d, NULL, comm_rank(boot), comm_size(boot)};
    *world = NULL;
    bool ok = open_device(d, device, &mine);
    int rc = ok && l->rank == 0 ? api->get_unique_id(&id) : NCCL_SUCCESS;
    if (rc != NCCL_SUCCESS) ok = nccl_error(l, "an id to meet by", rc, &mine);
    ok = agree(boot, &mine, NULL, 0, NULL, err); /* before anybody waits for the others inside NCCL */
    comm_broadcast(boot, &id, (int64_t)sizeof id, DTYPE_I8, 0, "nccl.id");
    ok = ok && comm_ok(boot, err);
    if (ok) {
        NcclConfig config = config_new();
        CommCall call = {"start", "nccl.start", now_s() + 120};
        ok = settle(l, api->comm_init(&l->comm, l->size, id, l->rank, &config), &call, err);
    }
    if (!ok) {
        close_link(l);
        return false;
    }
    *world = comm_world(&nccl_ops, l, l->rank, l->size);
    return true;
}

/* -- loading */

static bool take(void *library, const char *name, void *slot, Error *err) {
    void *p = dlsym(library, name);
    if (!p) return error_set(err, ERR_CONFIG, "ranks over NCCL: the library has no %s", name);
    memcpy(slot, &p, sizeof p);
    return true;
}

static void *open_any(const char *const *name, int n) {
    void *p = NULL;
    for (int i = 0; i < n && !p; i++) p = dlopen(name[i], RTLD_NOW | RTLD_GLOBAL);
    return p;
}

bool nccl_load(NcclApi *api, Error *err) {
    static const char *const runtime[] = {"libcudart.so.13", "libcudart.so.12", "libcudart.so"};
    static const char *const nccl[] = {"libnccl.so.2"};
    void *c = open_any(runtime, COUNT_OF(runtime)), *n = c ? open_any(nccl, COUNT_OF(nccl)) : NULL;
    *api = (NcclApi){.get_version = NULL};
    if (!c || !n)
        return error_set(
            err, ERR_CONFIG,
            "ranks over NCCL: %s was not found; install it where the loader looks (LD_LIBRARY_PATH), or use "
            "dist.comm=mpi or threads",
            c ? nccl[0] : "CUDA's runtime (libcudart.so)");
    const struct {
        void *library;
        const char *name;
        void *slot;
    } row[] = {{n, "ncclGetVersion", &api->get_version},
               {n, "ncclGetUniqueId", &api->get_unique_id},
               {n, "ncclCommInitRankConfig", &api->comm_init},
               {n, "ncclCommSplit", &api->comm_split},
               {n, "ncclCommGetAsyncError", &api->comm_error},
               {n, "ncclCommUserRank", &api->comm_rank},
               {n, "ncclCommCount", &api->comm_count},
               {n, "ncclCommAbort", &api->comm_abort},
               {n, "ncclCommDestroy", &api->comm_destroy},
               {n, "ncclGroupStart", &api->group_start},
               {n, "ncclGroupEnd", &api->group_end},
               {n, "ncclSend", &api->send},
               {n, "ncclRecv", &api->recv},
               {n, "ncclGetErrorString", &api->error_string},
               {c, "cudaGetDeviceCount", &api->device_count},
               {c, "cudaSetDevice", &api->set_device},
               {c, "cudaMalloc", &api->malloc},
               {c, "cudaFree", &api->free},
               {c, "cudaMemcpyAsync", &api->copy},
               {c, "cudaStreamCreate", &api->stream_create},
               {c, "cudaStreamDestroy", &api->stream_destroy},
               {c, "cudaStreamQuery", &api->stream_query}};
    for (int i = 0; i < COUNT_OF(row); i++)
        if (!take(row[i].library, row[i].name, row[i].slot, err)) return false;
    int devices = 0, rc = api->device_count(&devices);
    return (rc == 0 && devices > 0) ||
           error_set(err, ERR_CONFIG, "ranks over NCCL: the libraries load, but no GPU is usable (CUDA error %d)", rc);
}
