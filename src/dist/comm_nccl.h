/* dist/comm_nccl.h — what comm_nccl.c calls of NCCL and of CUDA's runtime, as one table of functions with declarations of our own:
 * neither is there when the program is built or started. Layouts are those of NCCL 2.18, which later ones read by their size and
 * version fields. Tests put a double in the table's place. */
#ifndef DIKAST_DIST_COMM_NCCL_H
#define DIKAST_DIST_COMM_NCCL_H

#include "dist/comm.h"

typedef struct NcclComm NcclComm;
typedef struct { char internal[128]; } NcclId;
enum { NCCL_SUCCESS = 0, NCCL_IN_PROGRESS = 7, NCCL_INT8 = 0, NCCL_MAGIC = (int)0xcafebeef, NCCL_LAYOUT = 21800, CUDA_NOT_READY = 600,
       CUDA_BY_ADDRESS = 4 };
typedef struct {
    size_t size;
    unsigned magic, version;
    int blocking, cga, min_ctas, max_ctas;  /* INT_MIN: NCCL's own choice */
    const char *net;
    int split_share;
} NcclConfig;

typedef struct {
    /* NCCL; 0 is success */
    int (*get_version)(int *version);
    int (*get_unique_id)(NcclId *id);
    int (*comm_init)(NcclComm **comm, int n, NcclId id, int rank, NcclConfig *config);
    int (*comm_split)(NcclComm *comm, int color, int key, NcclComm **out, NcclConfig *config);
    int (*comm_error)(NcclComm *comm, int *state);      /* ncclCommGetAsyncError */
    int (*comm_rank)(NcclComm *comm, int *rank);
    int (*comm_count)(NcclComm *comm, int *count);
    int (*comm_abort)(NcclComm *comm);
    int (*comm_destroy)(NcclComm *comm);
    int (*group_start)(void);
    int (*group_end)(void);
    int (*send)(const void *buf, size_t n, int dtype, int peer, NcclComm *comm, void *stream);
    int (*recv)(void *buf, size_t n, int dtype, int peer, NcclComm *comm, void *stream);
    const char *(*error_string)(int rc);
    /* CUDA */
    int (*device_count)(int *n);
    int (*set_device)(int device);
    int (*malloc)(void **p, size_t bytes);
    int (*free)(void *p);
    int (*copy)(void *to, const void *from, size_t bytes, int kind, void *stream);
    int (*stream_create)(void **stream);
    int (*stream_destroy)(void *stream);
    int (*stream_query)(void *stream);
} NcclApi;

/* libnccl.so.2 and CUDA's runtime by name. ERR_CONFIG says which is missing, or that no GPU is usable. */
bool nccl_load(NcclApi *api, Error *err);
/* The ranks of boot again, each with the GPU of that number. boot carries the id and how everybody fares; it stays the caller's and
 * may be closed only after *world. Every rank of boot calls it. */
bool comm_open_nccl(Comm **world, Comm *boot, const NcclApi *api, int device, Error *err);

#endif
