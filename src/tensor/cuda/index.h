/* tensor/cuda/index.h — device copies of small host arrays: positions, page tables, targets, frequencies.
 *
 * Found again by content (XXH3-128 and length), so the same positions are sent once per pass, not once per layer. A copy lives
 * in a ring of device memory, or, when it is larger than 1/INDEX_SMALL of the ring, in memory of its own; it goes when the ring
 * comes round to it, but never while it is among the INDEX_KEEP last ones asked for: an op may ask for that many before its
 * launch. Writing over a copy that an earlier op still reads is no race, both are on the stream. Uploads pass through a pinned
 * ring, so the caller's array may change at once; a part of that ring is filled again only after an event behind its copies.
 *
 *      device  | free | positions | kv_page | q_off | head ->  kv_len | ...
 *      pinned  | part 0: event | part 1: event | filling ... | part 3: event | */
#ifndef DIKAST_TENSOR_CUDA_INDEX_H
#define DIKAST_TENSOR_CUDA_INDEX_H

#include "tensor/cuda/cuda_int.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { INDEX_SLOTS = 256, INDEX_BIG = 32, INDEX_KEEP = 16, INDEX_PARTS = 4, INDEX_SMALL = 64 };

typedef struct { int64_t asked, sent, sent_bytes, waited; } CudaIndexStats; /* waited: for a part of the pinned ring */

/* ring, pinned: bytes, multiples of 256 * INDEX_SMALL and 256 * INDEX_PARTS. */
bool cuda_index_open(CudaIndex **out, const CudaDriver *drv, void *stream, size_t ring, size_t pinned, Error *err);
void cuda_index_close(CudaIndex *ix);   /* NULL is fine */
const void *cuda_index_get(CudaIndex *ix, const void *host, size_t bytes);
CudaIndexStats cuda_index_stats(const CudaIndex *ix);

#ifdef __cplusplus
}
#endif

#endif
