/* tensor/cuda/wgmma_desc.h — descriptors of matrices in shared memory, for hopper.h (which says what they are) and its emulation. */
#ifndef DIKAST_TENSOR_CUDA_WGMMA_DESC_H
#define DIKAST_TENSOR_CUDA_WGMMA_DESC_H

#include "tensor/cuda/launch.h"

/* The low half of a descriptor: address / 16 | leading offset / 16 << 16. WGMMA_HIGH, the other half, is the same for all: groups of
 * eight rows are 1024 bytes apart (64 << 0), 128-byte swizzle (1 << 30). */
typedef uint32_t WgmmaDesc;
#define WGMMA_HIGH 0x40000040

static __device__ __forceinline__ WgmmaDesc wgmma_cols(const void *at) { return (shared_at(at) & 0x3ffff) >> 4 | 1 << 16; }
static __device__ __forceinline__ WgmmaDesc wgmma_rows(const void *at, int panel) {
    return (shared_at(at) & 0x3ffff) >> 4 | (uint32_t)panel >> 4 << 16;
}
static __device__ __forceinline__ WgmmaDesc wgmma_step(WgmmaDesc d, int bytes) { return d + (uint32_t)(bytes >> 4); }

#endif
