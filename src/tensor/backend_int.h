/* tensor/backend_int.h — what a backend gives backend.c, which alone knows all of them.
 *
 * _open finds pool set and mem host memory; it fills op and real, and mem and impl where it needs
 * others. On failure it leaves nothing behind. _close releases impl. _isa names the instruction set in use. */
#ifndef DIKAST_TENSOR_BACKEND_INT_H
#define DIKAST_TENSOR_BACKEND_INT_H

#include "tensor/backend.h"

bool backend_ref_open(Backend *be, const char *isa, Error *err);
void backend_ref_close(Backend *be);
const char *backend_ref_isa(const Backend *be);

bool backend_cpu_open(Backend *be, const char *isa, Error *err);
void backend_cpu_close(Backend *be);
const char *backend_cpu_isa(const Backend *be);
double backend_cpu_spin(Backend *be); /* see backend_spin */

#endif
