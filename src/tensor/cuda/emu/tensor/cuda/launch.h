/* tensor/cuda/emu/tensor/cuda/launch.h — the names of tensor/cuda/launch.h on a CPU, for tests: found first on the include path
 * when a .cu file is compiled as C++. Blocks run one after another; the threads of a block are fibers that take turns at
 * barriers and warp collectives (emu.cc). Collectives need all 32 lanes of a warp, as the real ones here do; a barrier that not
 * every live thread reaches, or a collective that a lane misses, is found and aborts with the kernel's name. */
#ifndef DIKAST_TENSOR_CUDA_LAUNCH_H
#define DIKAST_TENSOR_CUDA_LAUNCH_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#include "tensor/cuda/cuda_int.h"

using std::fmaxf;
using std::fminf;

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static
#define __restrict__
#define __align__(n)

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

/* Runs the kernel, or, while a graph is captured, keeps it: body has copies of its arguments. early: see LAUNCH_EARLY; every thread has to call await_inputs, and writing device memory before that is a fault. */
void emu_launch(const char *kernel, bool early, dim3 grid, dim3 block, size_t shared, const std::function<void()> &body);
void await_inputs();
unsigned char *emu_shared(void);
void emu_barrier(void);
/* All 32 lanes of the warp give `bytes` (<= 64) of their own and get everybody's: all + lane * 64. */
const unsigned char *emu_exchange(const void *mine, size_t bytes);

#define LAUNCH(be, kernel, grid, block, shared, ...) LAUNCH_AS(false, be, kernel, grid, block, shared, __VA_ARGS__)
#define LAUNCH_EARLY(be, kernel, grid, block, shared, ...)                                                             \
    LAUNCH_AS(true, be, kernel, grid, block, shared, __VA_ARGS__)
#define LAUNCH_AS(early, be, kernel, grid, block, shared, ...)                                                         \
    do {                                                                                                               \
        auto launch_fn = kernel;                                                                                       \
        emu_launch(#kernel, early, dim3(grid), dim3(block), (shared), [=] { launch_fn(__VA_ARGS__); });                \
        cuda_launched(be, #kernel);                                                                                    \
    } while (0)

#define UNROLL
#define SHARED_DYNAMIC(name) unsigned char *name = emu_shared()

/* -- types ------------------------------------------------------------------------------------------------------- */

struct bf16_t { uint16_t bits; };
struct alignas(16) f32x4 { float v[4]; };
struct alignas(8) bf16x4 { bf16_t v[4]; };
struct alignas(16) bf16x8 { bf16_t v[8]; };

static inline unsigned __float_as_uint(float x) { unsigned u; memcpy(&u, &x, 4); return u; }
static inline float __uint_as_float(unsigned u) { float x; memcpy(&x, &u, 4); return x; }
static inline int __float_as_int(float x) { return (int)__float_as_uint(x); }
static inline float __int_as_float(int i) { return __uint_as_float((unsigned)i); }
static inline float to_f32(float x) { return x; }
static inline float to_f32(bf16_t x) { return __uint_as_float((unsigned)x.bits << 16); }
static inline bf16_t to_bf16(float x) {
    unsigned u = __float_as_uint(x);
    if (x != x) return bf16_t{0x7fff};
    return bf16_t{(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
static inline float load_f32(const float *p) { return *p; }
static inline float load_f32(const bf16_t *p) { return to_f32(*p); }
static inline void store(float *p, float x) { *p = x; }
static inline void store(bf16_t *p, float x) { *p = to_bf16(x); }
static inline uint32_t pack_bf16(float lo, float hi) { return to_bf16(lo).bits | (uint32_t)to_bf16(hi).bits << 16; }

static inline uint4 load_once(const void *p) { return *(const uint4 *)p; }
static inline void prefetch(const void *) {}
static inline void release_next() {}

/* -- warps and blocks ---------------------------------------------------------------------------------------------- */

int emu_lane(void);
template <typename T> static inline T emu_from(const unsigned char *all, int lane) {
    T x;
    memcpy(&x, all + lane * 64, sizeof x);
    return x;
}
template <typename T> static inline T shfl_xor(T x, int lanes) {
    int lane = emu_lane() ^ lanes;
    return emu_from<T>(emu_exchange(&x, sizeof x), lane);
}
template <typename T> static inline T shfl(T x, int lane) { return emu_from<T>(emu_exchange(&x, sizeof x), lane & 31); }
static inline unsigned warp_ballot(bool b) {
    const unsigned char *all = emu_exchange(&b, 1);
    unsigned bits = 0;
    for (int l = 0; l < 32; l++) bits |= (unsigned)(all[l * 64] != 0) << l;
    return bits;
}
static inline void sync_warp() {
    char c = 0;
    emu_exchange(&c, 1);
}
static inline void sync_block() { emu_barrier(); }

/* -- arithmetic ------------------------------------------------------------------------------------------------------ */
static inline float exp2_approx(float x) { return std::exp2(x); }
static inline float rcp_approx(float x) { return 1 / x; }
static inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
template <typename T> static inline T min(T a, T b) { return a < b ? a : b; }
template <typename T> static inline T max(T a, T b) { return a > b ? a : b; }
static inline int __float2int_rn(float x) { return (int)std::nearbyint(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }

/* -- tensor cores ------------------------------------------------------------------------------------------------------ */
void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]);
void emu_ldmatrix(uint32_t r[4], const void *row, bool transposed);
static inline void ldmatrix_x4(uint32_t r[4], const void *row) { emu_ldmatrix(r, row, false); }
static inline void ldmatrix_x4_t(uint32_t r[4], const void *row) { emu_ldmatrix(r, row, true); }
void emu_copy(void *to, const void *from, size_t bytes, bool valid);
void emu_copy_commit(void);
void emu_copy_wait(size_t under_way);
static inline void cp_async16(void *to, const void *from, bool valid) { emu_copy(to, from, 16, valid); }
static inline void cp_async_commit() { emu_copy_commit(); }
template <int n> static inline void cp_async_wait() { emu_copy_wait(n); }

#include "tensor/cuda/reduce.h"

#endif
