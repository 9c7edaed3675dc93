/* dist/comm_ops.h — what a backend of comm.h provides: one table over opaque links, a link being this rank's end of a group.
 *
 * Sizes are bytes and parts lie one after another. until: now_s() at which the call gives up, INFINITY for never. False: *err
 * says why. The wrapper calls nothing for groups of one rank, and nothing after a failure. */
#ifndef DIKAST_DIST_COMM_OPS_H
#define DIKAST_DIST_COMM_OPS_H

#include "base/error.h"

typedef struct { const char *op, *site; double until; } CommCall;      /* op and site: for messages and to compare ranks */

typedef struct CommOps {
    const char *name;
    bool devices;       /* buffers may lie in device memory */
    bool (*send)(void *link, const void *buf, size_t bytes, int peer, const CommCall *call, Error *err);
    bool (*recv)(void *link, void *buf, size_t bytes, int peer, const CommCall *call, Error *err);
    bool (*all_to_all)(void *link, void *out, const size_t *out_bytes, const void *in, const size_t *in_bytes, const CommCall *call,
                       Error *err);
    /* all_to_all that goes on beside the rank; NULL: there is no such thing. in, out, sizes and call stay until it is over. finish looks
     * once, or (wait) until call->until. False, or *over: *request is gone, and so is everybody who read `in`. */
    bool (*start)(void *link, void **request, void *out, const size_t *out_bytes, const void *in, const size_t *in_bytes,
                  const CommCall *call, Error *err);
    bool (*finish)(void *link, void *request, bool wait, bool *over, Error *err);
    bool (*all_gather)(void *link, void *out, const void *in, const size_t *bytes, const CommCall *call, Error *err);
    bool (*broadcast)(void *link, void *buf, size_t bytes, int root, const CommCall *call, Error *err);
    bool (*barrier)(void *link, const CommCall *call, Error *err);
    bool (*split)(void *link, int color, int key, void **out, int *rank, int *size, const CommCall *call, Error *err);
    void (*abort)(void *link, const Error *why);    /* of the world; may not return (mpi) */
    void (*close)(void *link);                      /* of a group; of the world last */
} CommOps;

/* The module that comm_open_mpi loads exports one function of this type, under this name. abi: COMM_MPI_ABI of the caller. */
enum { COMM_MPI_ABI = 2 };
#define COMM_MPI_SYMBOL "dikast_comm_mpi"
typedef bool CommMpiOpen(int abi, const CommOps **op, void **world, int *rank, int *size, Error *err);

#endif
