/* tensor/dry.h — a backend that gives tensors places and no memory: what training opens over it takes what it would take over the
 * backend it is like, in the same arenas, and is counted; so is what it takes of the host for bytes that travel. Nothing can be computed: of its ops only those that prepare memory may be
 * called (zero, add, copy; they do nothing), and the host side leaves tensors and arrays as they are. */
#ifndef DIKAST_TENSOR_DRY_H
#define DIKAST_TENSOR_DRY_H

#include "tensor/backend.h"

typedef struct { size_t live, peak; } DryBytes;
typedef struct {
    Backend be;             /* points into the struct: do not copy it */
    BackendOps op;
    DryBytes mem, host;     /* of arenas; of be.host */
} DryBackend;

void dry_begin(DryBackend *d, const Backend *like);

#endif
