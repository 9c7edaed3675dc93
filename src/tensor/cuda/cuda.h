/* tensor/cuda/cuda.h — the backend over any driver table: what tests/test_tensor_cuda_host.c uses, beside cuda.c itself. */
#ifndef DIKAST_TENSOR_CUDA_CUDA_H
#define DIKAST_TENSOR_CUDA_CUDA_H

#include "tensor/cuda/cuda_int.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As BackendProvider.open (backend_int.h): device -1 is 0. */
bool cuda_open_with(Backend *be, const CudaDriver *drv, int device, const char *isa, Error *err);
/* See backend_probe: driver, GPUs, libraries. probe.c */
void cuda_probe(const CudaDriver *drv, BackendSay *say, void *ud);

#ifdef __cplusplus
}
#endif

#endif
