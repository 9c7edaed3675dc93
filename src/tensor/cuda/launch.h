/* tensor/cuda/launch.h — everything of CUDA that kernels use, by our own names where a name needs a body, so that
 * emu/launch.h can give the same to a CPU build of the same sources (tests). A .cu file includes this and cuda_int.h, and
 * nothing else of CUDA; the include path picks the header.
 *
 *   LAUNCH(be, kernel, grid, block, shared, args...)   queue on the backend's stream; shared: dynamic bytes, any size up to
 *                                                      shared_max; checked. A template's comma needs (parentheses)
 *   LAUNCH_EARLY(be, kernel, ...)                      the same; within a recording (replay.h) the kernel may begin while
 *                                                      the one before it still runs. Every thread of it calls
 *                                                      await_inputs() before it touches what earlier kernels write, and
 *                                                      before it writes anything. What it reads before is what no kernel of
 *                                                      a recording writes: weights, and the arrays that were announced
 *   release_next()                                     from here on the next LAUNCH_EARLY may begin, once all blocks are here
 *                                                      or over; it still waits for this kernel's end
 *   SHARED_DYNAMIC(name)                               unsigned char *name: the dynamic shared memory, 16-byte aligned
 *   bf16_t, load_f32(p), store(p, v)                   BF16 by its bits; conversions round to nearest even
 *   warp_sum, warp_max, block_sum, block_max           fixed butterfly: every thread gets the same bits
 *   mma_bf16, ldmatrix_x4, ldmatrix_x4_t, cp_async16   tensor cores (sm_80 forms) and asynchronous copies
 */
#ifndef DIKAST_TENSOR_CUDA_LAUNCH_H
#define DIKAST_TENSOR_CUDA_LAUNCH_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "tensor/cuda/cuda_int.h"

#define LAUNCH(be, kernel, grid, block, shared, ...) LAUNCH_AS(false, be, kernel, grid, block, shared, __VA_ARGS__)
#define LAUNCH_EARLY(be, kernel, grid, block, shared, ...) \
    LAUNCH_AS(cuda_impl(be)->early, be, kernel, grid, block, shared, __VA_ARGS__)

#define LAUNCH_AS(early, be, kernel, grid, block, shared, ...)                                                              \
    do {                                                                                                                    \
        auto launch_fn = kernel;                                                                                            \
        size_t launch_shared = (shared);                                                                                    \
        if (launch_shared > 16 * 1024) /* with what is static, 48 KB may be passed */                                                                                      \
            cudaFuncSetAttribute((const void *)launch_fn, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)launch_shared); \
        cudaLaunchAttribute launch_attribute = {};                                                                          \
        launch_attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;                                           \
        launch_attribute.val.programmaticStreamSerializationAllowed = 1;                                                    \
        cudaLaunchConfig_t launch_config = {};                                                                              \
        launch_config.gridDim = (grid), launch_config.blockDim = (block);                                                   \
        launch_config.dynamicSmemBytes = launch_shared, launch_config.stream = (cudaStream_t)cuda_impl(be)->stream;         \
        launch_config.attrs = &launch_attribute, launch_config.numAttrs = (early) ? 1 : 0;                                  \
        cudaLaunchKernelEx(&launch_config, launch_fn, __VA_ARGS__);                                                         \
        cuda_launched(be, #kernel);                                                                                         \
    } while (0)

/* Before a loop of constant length over registers. */
#define UNROLL _Pragma("unroll")

#define SHARED_DYNAMIC(name) extern __shared__ __align__(16) unsigned char name[]

/* -- types ------------------------------------------------------------------------------------------------------------ */

struct bf16_t { uint16_t bits; };
struct alignas(16) f32x4 { float v[4]; };
struct alignas(8) bf16x4 { bf16_t v[4]; };
struct alignas(16) bf16x8 { bf16_t v[8]; };

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16_t x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ __forceinline__ bf16_t to_bf16(float x) {
    __nv_bfloat16 h = __float2bfloat16_rn(x);
    return bf16_t{__bfloat16_as_ushort(h)};
}
__device__ __forceinline__ float load_f32(const float *p) { return *p; }
__device__ __forceinline__ float load_f32(const bf16_t *p) { return to_f32(*p); }
__device__ __forceinline__ void store(float *p, float x) { *p = x; }
__device__ __forceinline__ void store(bf16_t *p, float x) { *p = to_bf16(x); }
/* Two values as one register of BF16: lo in the low half, the order that mma wants. */
__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
    __nv_bfloat162 h = __floats2bfloat162_rn(lo, hi);
    return *(uint32_t *)&h;
}

/* 16 bytes that nobody reads again soon: they stay out of the first cache, where x and the like have to stay. Read-only memory. */
__device__ __forceinline__ uint4 load_once(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

/* Brings the 128 bytes around p nearer, to where all multiprocessors read and write: whoever writes them meanwhile is heeded. */
__device__ __forceinline__ void prefetch(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

/* -- warps and blocks --------------------------------------------------------------------------------------------------- */

__device__ __forceinline__ float shfl_xor(float x, int lanes) { return __shfl_xor_sync(0xffffffffu, x, lanes); }
__device__ __forceinline__ double shfl_xor(double x, int lanes) { return __shfl_xor_sync(0xffffffffu, x, lanes); }
__device__ __forceinline__ int shfl_xor(int x, int lanes) { return __shfl_xor_sync(0xffffffffu, x, lanes); }
__device__ __forceinline__ float shfl(float x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
__device__ __forceinline__ int shfl(int x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
__device__ __forceinline__ unsigned warp_ballot(bool b) { return __ballot_sync(0xffffffffu, b); }
__device__ __forceinline__ void sync_warp() { __syncwarp(); }
__device__ __forceinline__ void sync_block() { __syncthreads(); }

/* -- kernels that overlap: sm_90's; before it kernels follow each other anyway ---------------------------------------------- */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__device__ __forceinline__ void await_inputs() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void release_next() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
#else
__device__ __forceinline__ void await_inputs() {}
__device__ __forceinline__ void release_next() {}
#endif

/* -- arithmetic ----------------------------------------------------------------------------------------------------------
 * exp2_approx: ex2.approx, 2 units in the last place, what expf is made of; rcp_approx: rcp.approx, 1 unit. Results and
 * arguments below 2^-126 are 0. */
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float rcp_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* -- tensor cores: m16n8k16, A row-major, B column-major, BF16 in, F32 out --------------------------------------------------
 * With g = lane / 4, t = lane % 4:  a[0] (g, 2t..) a[1] (g+8, 2t..) a[2] (g, 2t+8..) a[3] (g+8, 2t+8..);
 * b[0] (k 2t.., column g) b[1] (k 2t+8.., column g);  d[0], d[1] (g, 2t..), d[2], d[3] (g+8, 2t..).  d += a b */
__device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* Four 8x8 matrices of BF16 from shared memory: lane l gives the address of row l % 8 of matrix l / 8 (16 bytes, aligned);
 * r[i] of lane l: matrix i, row l / 4, columns 2 (l % 4) and the next; _t: of the transposed matrices. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *row) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_t(uint32_t r[4], const void *row) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
/* 16 bytes from global to shared memory, behind the thread's back; valid false: 16 zero bytes, nothing is read. Copies of a
 * thread are grouped by cp_async_commit; cp_async_wait<n> waits until at most n of its groups are under way. */
__device__ __forceinline__ void cp_async16(void *to, const void *from, bool valid) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int n> __device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory"); }

#include "tensor/cuda/reduce.h"

#endif
