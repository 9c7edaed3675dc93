/* The backend over an MPI, as a module of its own (dikast_mpi.so): an MPI's handles are of its own kind in every
 * library, so this file must be compiled with the header of the one that runs, and a program without ranks should start
 * where there is none.
 *
 * MPI-3, host buffers, one thread. Every call is a non-blocking one that is tested until it is through or its time is
 * over: a stopped peer would hold a blocking call for ever. Between tests the thread yields, then sleeps: on two cores
 * a rank that spins takes the time of the one it waits for. The sums are not MPI's: only bytes travel, so any MPI gives
 * equal results. */
#include <limits.h>
#include <math.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "dist/comm_ops.h"

typedef struct {
    MPI_Comm comm;
    int rank, size;
    bool world, ours; /* ours: MPI was initialised here, and ends here */
} Link;

static bool mpi_error(Error *err, const char *what, int rc) {
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int n = 0;
    MPI_Error_string(rc, text, &n);
    return error_set(err, ERR_NET, "MPI: %s: %.*s", what, n, text);
}

static bool wait_for(MPI_Request *request, const CommCall *call, Error *err) {
    enum { EAGER = 200, YIELDS = 2000, SOON = 20000 }; /* then some 50 us at a time, after a second 1 ms */
    for (int64_t i = 0;; i++) {
        MPI_Status status;
        int flag = 0, rc = MPI_Test(request, &flag, &status);
        if (rc != MPI_SUCCESS) return mpi_error(err, call->op, rc);
        if (flag) return true;
        if (i < EAGER) continue;
        if (i < YIELDS)
            sched_yield();
        else
            nanosleep(&(struct timespec){0, i < SOON ? 50000 : 1000000}, NULL);
        if (i % 64 == 0 && now_s() > call->until)
            return error_set(err, ERR_NET, "the deadline passed: not all ranks came");
    }
}

/* MPI counts in int. Callers send pieces far below; one that does not is told. */
static bool fits(size_t bytes, const CommCall *call, Error *err) {
    return bytes <= INT_MAX || error_set(err, ERR_STATE, "%s at %s: %zu bytes in one call, MPI's limit is %d", call->op,
                                         call->site, bytes, INT_MAX);
}

static bool send_to(void *link, const void *buf, size_t bytes, int peer, const CommCall *call, Error *err) {
    Link *l = link;
    MPI_Request r;
    if (!fits(bytes, call, err)) return false;
    int rc = MPI_Isend(buf, (int)bytes, MPI_BYTE, peer, 0, l->comm, &r);
    return rc == MPI_SUCCESS ? wait_for(&r, call, err) : mpi_error(err, call->op, rc);
}

static bool recv_from(void *link, void *buf, size_t bytes, int peer, const CommCall *call, Error *err) {
    Link *l = link;
    MPI_Request r;
    if (!fits(bytes, call, err)) return false;
    int rc = MPI_Irecv(buf, (int)bytes, MPI_BYTE, peer, 0, l->comm, &r);
    return rc == MPI_SUCCESS ? wait_for(&r, call, err) : mpi_error(err, call->op, rc);
}

/* Counts, then displacements. */
static bool layout(int *count, const size_t *bytes, int n, const CommCall *call, Error *err) {
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        count[i] = (int)bytes[i];
        count[n + i] = (int)at;
        at += bytes[i];
        if (!fits(at, call, err)) return false;
    }
    return true;
}

/* Open MPI takes equal addresses for MPI_IN_PLACE, also where nothing is sent, and then sends what it should receive.
 */
static const void *apart(const void *in, const void *out) {
    static const char nothing = 0;
    return in == out ? &nothing : in;
}

static int *counts_new(int n) { return mem_alloc(4 * (size_t)n * sizeof(int)); }

static bool all_to_all(void *link, void *out, const size_t *out_bytes, const void *in, const size_t *in_bytes,
                       const CommCall *call, Error *err) {
    Link *l = link;
    int *c = counts_new(l->size), n = l->size;
    MPI_Request r;
    bool ok = layout(c, in_bytes, n, call, err) && layout(c + 2 * n, out_bytes, n, call, err);
    if (ok) {
        int rc = MPI_Ialltoallv(apart(in, out), c, c + n, MPI_BYTE, out, c + 2 * n, c + 3 * n, MPI_BYTE, l->comm, &r);
        ok = rc == MPI_SUCCESS ? wait_for(&r, call, err) : mpi_error(err, call->op, rc);
    }
    free(c);
    return ok;
}

typedef struct {
    MPI_Request r;
    int *count;
    const CommCall *call;
} Flight;

static bool start(void *link, void **request, void *out, const size_t *out_bytes, const void *in,
                  const size_t *in_bytes, const CommCall *call, Error *err) {
    Link *l = link;
    int *c = counts_new(l->size), n = l->size;
    Flight *f = mem_alloc(sizeof *f);
    *f = (Flight){.count = c, .call = call};
    bool ok = layout(c, in_bytes, n, call, err) && layout(c + 2 * n, out_bytes, n, call, err);
    if (ok) {
        int rc =
            MPI_Ialltoallv(apart(in, out), c, c + n, MPI_BYTE, out, c + 2 * n, c + 3 * n, MPI_BYTE, l->comm, &f->r);
        ok = rc == MPI_SUCCESS || mpi_error(err, call->op, rc);
    }
    if (!ok) {
        free(c);
        free(f);
        return false;
    }
    *request = f;
    return true;
}

/* One that failed or is late is left to MPI, which reads its counts still. */
static bool finish(void *link, void *request, bool wait, bool *over, Error *err) {
    Flight *f = request;
    MPI_Status status;
    int flag = 0;
    (void)link;
    if (wait) {
        if (!wait_for(&f->r, f->call, err)) return false;
        flag = 1;
    } else {
        int rc = MPI_Test(&f->r, &flag, &status);
        if (rc != MPI_SUCCESS) return mpi_error(err, f->call->op, rc);
    }
    *over = flag != 0;
    if (!flag) return true;
    free(f->count);
    free(f);
    return true;
}

static bool all_gather(void *link, void *out, const void *in, const size_t *bytes, const CommCall *call, Error *err) {
    Link *l = link;
    int *c = counts_new(l->size), n = l->size;
    MPI_Request r;
    bool ok = layout(c, bytes, n, call, err);
    if (ok) {
        int rc = MPI_Iallgatherv(in, c[l->rank], MPI_BYTE, out, c, c + n, MPI_BYTE, l->comm, &r);
        ok = rc == MPI_SUCCESS ? wait_for(&r, call, err) : mpi_error(err, call->op, rc);
    }
    free(c);
    return ok;
}

static bool broadcast(void *link, void *buf, size_t bytes, int root, const CommCall *call, Error *err) {
    Link *l = link;
    MPI_Request r;
    if (!fits(bytes, call, err)) return false;
    int rc = MPI_Ibcast(buf, (int)bytes, MPI_BYTE, root, l->comm, &r);
    return rc == MPI_SUCCESS ? wait_for(&r, call, err) : mpi_error(err, call->op, rc);
}

static bool barrier(void *link, const CommCall *call, Error *err) {
    Link *l = link;
    MPI_Request r;
    int rc = MPI_Ibarrier(l->comm, &r);
    return rc == MPI_SUCCESS ? wait_for(&r, call, err) : mpi_error(err, call->op, rc);
}

static bool split(void *link, int color, int key, void **out, int *rank, int *size, const CommCall *call, Error *err) {
    Link *l = link;
    if (!barrier(link, call, err)) return false; /* the split itself blocks: only when all are here */
    Link *g = mem_alloc(sizeof *g);
    int rc = MPI_Comm_split(l->comm, color, key, &g->comm);
    if (rc != MPI_SUCCESS) {
        free(g);
        return mpi_error(err, "MPI_Comm_split", rc);
    }
    MPI_Comm_set_errhandler(g->comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(g->comm, &g->rank);
    MPI_Comm_size(g->comm, &g->size);
    *rank = g->rank;
    *size = g->size;
    *out = g;
    return true;
}

static void abort_job(void *link, const Error *why) {
    Link *l = link;
    fprintf(stderr, "dikast: rank %d: %s\n", l->rank, why->msg);
    fflush(stderr);
    MPI_Abort(l->comm, error_exit_code(why->code));
}

static void close_link(void *link) {
    Link *l = link;
    if (l->world && l->ours)
        MPI_Finalize();
    else
        MPI_Comm_free(&l->comm);
    free(l);
}

static const CommOps mpi_ops = {.name = "mpi",
                                .send = send_to,
                                .recv = recv_from,
                                .all_to_all = all_to_all,
                                .start = start,
                                .finish = finish,
                                .all_gather = all_gather,
                                .broadcast = broadcast,
                                .barrier = barrier,
                                .split = split,
                                .abort = abort_job,
                                .close = close_link};

__attribute__((visibility("default"))) CommMpiOpen dikast_comm_mpi;

bool dikast_comm_mpi(int abi, const CommOps **op, void **world, int *rank, int *size, Error *err) {
    int there = 0, over = 0, level = 0;
    if (abi != COMM_MPI_ABI)
        return error_set(err, ERR_CONFIG, "the module is of another version (%d, not %d): build both again",
                         COMM_MPI_ABI, abi);
    MPI_Initialized(&there);
    MPI_Finalized(&over);
    if (over) return error_set(err, ERR_STATE, "MPI was finished in this process before; it cannot begin again");
    int rc = there ? MPI_SUCCESS : MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
    if (rc != MPI_SUCCESS) return mpi_error(err, "MPI_Init_thread", rc);
    Link *l = mem_alloc(sizeof *l);
    *l = (Link){.world = true, .ours = !there};
    MPI_Comm_dup(MPI_COMM_WORLD, &l->comm);
    MPI_Comm_set_errhandler(l->comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(l->comm, &l->rank);
    MPI_Comm_size(l->comm, &l->size);
    *op = &mpi_ops;
    *world = l;
    *rank = l->rank;
    *size = l->size;
    return true;
}
