/* tensor/cuda/replay.h — recordings of op sequences as CUDA graphs: see backend_replay_begin (backend.h).
 *
 *      1st and 2nd time  the ops run; arrays that were not announced are noted and must be the same both times
 *      3rd               the ops are captured, the graph runs
 *      later             announced arrays are sent to the graph's own copies, the graph runs
 *
 * The kernels of a recording may overlap (LAUNCH_EARLY). Where a driver makes no graph of such kernels they do not, and where it
 * makes none at all the sequence is never recorded.
 *
 * A sequence whose unannounced arrays change (work lists made from contents), or whose ops wait, is never recorded. A
 * recording that used scratch memory is made again when scratch has moved since. */
#ifndef DIKAST_TENSOR_CUDA_REPLAY_H
#define DIKAST_TENSOR_CUDA_REPLAY_H

#include "tensor/cuda/cuda_int.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct { int64_t recorded, replayed, refused; } CudaReplayStats; /* sequences; refused: such as cannot be recorded */
CudaReplayStats cuda_replay_stats(const Backend *be);

CudaReplay *cuda_replay_new(void);
void cuda_replay_free(CudaReplay *r, Backend *be);      /* NULL is fine */
bool cuda_replay_begin(Backend *be, const void *key, size_t n_key, const HostArray *array, int n_array);
bool cuda_replay_end(Backend *be);
/* While a sequence is noted or captured: the device copy that stands for this host array; NULL: the caller's own way. */
const void *cuda_replay_array(Backend *be, const void *host, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
