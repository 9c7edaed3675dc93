/* tensor/cuda/few.h — linear_fwd for few BF16 rows, alone and with what stands beside it in a block; see few.cu. */
#ifndef DIKAST_TENSOR_CUDA_FEW_H
#define DIKAST_TENSOR_CUDA_FEW_H

#include "tensor/cuda/cuda_int.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { FEW_ROWS = 16 };

/* As linear_fwd, for at most FEW_ROWS rows of BF16 x and BF16 w whose rows begin at multiples of 16 bytes, K a multiple of 32.
 * False: they are not so, nothing is done. */
bool cuda_few_fwd(Backend *be, const LinearOut *out, int n, Tensor x, bool add);

#ifdef __cplusplus
}
#endif

#endif
