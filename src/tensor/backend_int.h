/* tensor/backend_int.h — what a backend gives backend.c, and the list of those that this build has.
 *
 * open finds pool set and mem host memory; it fills op and real, and mem, panels and impl where it needs others. device: the
 * number behind the name's colon, -1 without one. On failure it leaves nothing behind. close releases impl. isa names the
 * instruction set in use. spin: see backend_spin; NULL: cannot.
 *
 * A backend whose tensors are not in host memory gives the last four: wait, see backend_wait. Copies move `rows` rows of `width` bytes, pitches in
 * bytes; both are in order with the ops. copy_out waits until the bytes are there. copy_in from memory that stage gave
 * returns at once, from other memory when that may change again; stage(half) is one half of a buffer (bytes: its size), once
 * nothing reads that half any more, so that one half can be filled while the other is under way. */
#ifndef DIKAST_TENSOR_BACKEND_INT_H
#define DIKAST_TENSOR_BACKEND_INT_H

#include "tensor/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *name;   /* also the name in its op table */
    const char *absent; /* why this build cannot open it and how to get one that can; NULL: it can */
    bool (*open)(Backend *be, int device, const char *isa, Error *err);
    void (*close)(Backend *be);
    const char *(*isa)(const Backend *be);
    double (*spin)(Backend *be);
    const char *(*bits)(const char *isa, DType dtype); /* see backend_bits; NULL: "" */
    void (*probe)(BackendSay *say, void *ud);   /* see backend_probe; NULL: nothing to tell */
    bool (*load)(Backend *be, LoadDevice *out); /* see backend_load; NULL: no device of its own */
    void (*set_dtype)(Backend *be);             /* be->dtype has been set; may set be->note. NULL: nothing to do */
    void (*tell)(const Backend *be, BackendSay *say, void *ud); /* see backend_tell; NULL: nothing */
    bool (*replay_begin)(Backend *be, const void *key, size_t n_key, const HostArray *array, int n_array);
    bool (*replay_end)(Backend *be); /* NULL, both: nothing is recorded */
    void (*wait)(Backend *be);
    void *(*stage)(Backend *be, int half, size_t *bytes);
    void (*copy_in)(Backend *be, void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t rows);
    void (*copy_out)(Backend *be, void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t rows);
} BackendProvider;

extern const BackendProvider backend_cpu, backend_ref, backend_cuda;

/* Ends with NULL. providers.c or providers_cuda.c, as the build has it. */
extern const BackendProvider *const backend_providers[];

#ifdef __cplusplus
}
#endif

#endif
