/* tensor/cuda/matmul.h — products through cuBLASLt: plans by shape.
 *
 * cuBLASLt sees column-major matrices, so our row-major (R,C) with ld is its C x R with the same ld:
 *
 *      forward   y (N,M) = x w^T       D = y: M x N      A = w transposed     B = x
 *      dx        dx (N,K) = dy w       D = dx: K x N     A = w                B = dy
 *      dw        dw (M,K) += dy^T x    D = dw: K x M     A = x                B = dy transposed
 *
 * Sums are F32 (no TF32). The algorithm is the library's first choice for the shape, N rounded up so that ragged batches share
 * plans; it is a function of shape, strides, types and alignment alone, never of a measurement, so a run repeats. Split-K adds
 * up in the workspace in order; in-place (atomic) reductions are ruled out. */
#ifndef DIKAST_TENSOR_CUDA_MATMUL_H
#define DIKAST_TENSOR_CUDA_MATMUL_H

#include "tensor/cuda/cuda_int.h"

typedef struct { int64_t n_call, n_plan, n_own; } CudaMatmulStats;    /* products; plans made; products by our own kernels */
CudaMatmulStats cuda_matmul_stats(const Backend *be);

#endif
