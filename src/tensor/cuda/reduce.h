/* tensor/cuda/reduce.h — sums and maxima over a warp or a block, by a butterfly: each thread ends with the same bits, and
 * they do not depend on which threads came first. Included by launch.h, the emulated one too. */
#ifndef DIKAST_TENSOR_CUDA_REDUCE_H
#define DIKAST_TENSOR_CUDA_REDUCE_H

template <typename T> __device__ __forceinline__ T warp_sum(T x) {
    for (int lanes = 16; lanes > 0; lanes /= 2) x += shfl_xor(x, lanes);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
    for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, shfl_xor(x, lanes));
    return x;
}

/* Over all threads of a block of n_warp * 32, every one of which takes part. at: (n_warp) of shared memory, free again when
 * the call returns. */
template <typename T> __device__ __forceinline__ T block_sum(T x, T *at, int n_warp) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) at[threadIdx.x / 32] = x;
    sync_block();
    T sum = (int)(threadIdx.x % 32) < n_warp ? at[threadIdx.x % 32] : (T)0;
    sum = warp_sum(sum);
    sync_block();
    return sum;
}
__device__ __forceinline__ float block_max(float x, float *at, int n_warp) {
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) at[threadIdx.x / 32] = x;
    sync_block();
    float top = (int)(threadIdx.x % 32) < n_warp ? at[threadIdx.x % 32] : -INFINITY;
    top = warp_max(top);
    sync_block();
    return top;
}

#endif
