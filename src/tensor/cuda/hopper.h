/* tensor/cuda/hopper.h — what compute capability 9.0 has and others have not: barriers in shared memory, and products of a whole
 * warp group (128 threads) from shared memory, in the background. For .cu files that are compiled for sm_90a alone
 * (cmake/cuda.cmake); emu/tensor/cuda/hopper.h has the same names on a CPU. PTX ISA 8.5, "Asynchronous Warpgroup Level Matrix
 * Instructions" and "mbarrier".
 *
 * A matrix in shared memory is made of panels of 64 columns: rows of 128 bytes, one behind the other, from an address that is a
 * multiple of 1024; 16-byte chunk c of row r lies where chunk c ^ r % 8 would (128-byte swizzle), so that neither rows nor
 * columns meet in one bank. A descriptor says where 16 of the columns (or, transposed, 16 of the rows) that a product sums over
 * begin:
 *
 *      wgmma_cols(at)          rows x 16 columns: the sum goes over columns; the next 16 columns: at + 32 bytes
 *      wgmma_rows(at, panel)   16 rows x columns: the sum goes over rows; panel: bytes to the next 64 columns; at + 2048: next rows
 *
 * Products of one batch: wgmma_fence(), some wgmma_*, wgmma_commit(). Until wgmma_wait<n>() has left at most n batches (of this
 * thread, in order) under way, their d may not be touched, nor their a, nor what they read in shared memory; wgmma_held(d or a)
 * behind the wait, and in front of the fence where it was written since, tells the compiler. d (64, N): element (16 w + g + 8 (e / 2), 8 i + 2 t + e % 2) is d[i][e] of warp w, with
 * g = lane / 4, t = lane % 4; a in registers is as for mma_bf16 (launch.h). */
#ifndef DIKAST_TENSOR_CUDA_HOPPER_H
#define DIKAST_TENSOR_CUDA_HOPPER_H

#include "tensor/cuda/launch.h"

/* Dynamic shared memory in which panels may lie. */
#define SHARED_PANELS(name) extern __shared__ __align__(1024) unsigned char name[]

/* -- barriers: count arrivals end a phase; phases are numbered from 0, and bar_wait(b, p) waits for the end of the one of parity p
 * that is going on or was the last. Before the first use of fresh ones: bar_init by one thread, then sync_block(). */
typedef uint64_t Bar;
__device__ __forceinline__ uint32_t shared_at(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void bar_init(Bar *b, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_at(b)), "r"(count) : "memory");
}
__device__ __forceinline__ void bar_arrive(Bar *b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_at(b)) : "memory");
}
__device__ __forceinline__ void bar_wait(Bar *b, unsigned parity) {
    asm volatile("{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done;\nbra again;\ndone:\n}" ::"r"(shared_at(b)), "r"(parity) : "memory");
}
/* An arrival once all copies that the thread has begun so far have landed. */
__device__ __forceinline__ void cp_async_arrive(Bar *b) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_at(b)) : "memory");
}
/* 4 bytes, else as cp_async16. */
__device__ __forceinline__ void cp_async4(void *to, const void *from, bool valid) {
    int bytes = valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_at(to)), "l"(from), "r"(bytes) : "memory");
}
/* Between a wait for copies and the products that read them. */
__device__ __forceinline__ void async_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/* Barrier `id` (1 to 15) of `n` threads; half_arrive: does not wait. */
__device__ __forceinline__ void half_sync(int id, int n) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory"); }
__device__ __forceinline__ void half_arrive(int id, int n) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n) : "memory"); }
/* Registers of the warp group's threads, from here on. */
template <int n> __device__ __forceinline__ void regs_less() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n)); }
template <int n> __device__ __forceinline__ void regs_more() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n)); }

/* -- products ------------------------------------------------------------------------------------------------------------ */

#include "tensor/cuda/wgmma_desc.h"

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int n> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory"); }
template <int C> __device__ __forceinline__ void wgmma_held(float (&d)[C][4]) {
    UNROLL for (int i = 0; i < C; i++) UNROLL for (int e = 0; e < 4; e++) asm volatile("" : "+f"(d[i][e])::"memory");
}
template <int K> __device__ __forceinline__ void wgmma_held(uint32_t (&a)[K][4]) {
    UNROLL for (int i = 0; i < K; i++) UNROLL for (int e = 0; e < 4; e++) asm volatile("" : "+r"(a[i][e])::"memory");
}

/* d (64, N) = (ADD ? d : 0) + a b^T over 16 columns (ROWS false) or + a b over 16 rows (ROWS true); a (64, 16): 16 columns in shared
 * memory, or registers. Without ADD the compiler need not know what was in d, and moves nothing there. */
#define TEXT(x) #x
#define TEXT_OF(x) TEXT(x)
#define HIGH TEXT_OF(WGMMA_HIGH)
#define SAME4(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define NEW4(i) "=f"(d[i][0]), "=f"(d[i][1]), "=f"(d[i][2]), "=f"(d[i][3])
#define EIGHT(F, i) F(i), F(i + 1), F(i + 2), F(i + 3), F(i + 4), F(i + 5), F(i + 6), F(i + 7)
#define DESC(name, operand) ".reg .b64 " name ";\nmov.b64 " name ", {%" operand ", " HIGH "};\n"
#define WGMMA64 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27," \
    "%28,%29,%30,%31" "}, "
#define WGMMA128 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27," \
    "%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53," \
    "%54,%55,%56,%57,%58,%59,%60,%61,%62,%63" "}, "
template <bool ADD, bool ROWS> __device__ __forceinline__ void wgmma(float (&d)[8][4], WgmmaDesc a, WgmmaDesc b) {
    if (ADD)
        asm volatile("{\n" DESC("a", "32") DESC("b", "33") WGMMA64 "a, b, 1, 1, 1, 0, %34;\n}"
                     : EIGHT(SAME4, 0) : "r"(a), "r"(b), "n"((int)ROWS) : "memory");
    else
        asm volatile("{\n" DESC("a", "32") DESC("b", "33") WGMMA64 "a, b, 0, 1, 1, 0, %34;\n}"
                     : EIGHT(NEW4, 0) : "r"(a), "r"(b), "n"((int)ROWS) : "memory");
}
template <bool ADD, bool ROWS> __device__ __forceinline__ void wgmma(float (&d)[8][4], const uint32_t (&a)[4], WgmmaDesc b) {
    if (ADD)
        asm volatile("{\n" DESC("b", "36") WGMMA64 "{%32,%33,%34,%35}, b, 1, 1, 1, %37;\n}"
                     : EIGHT(SAME4, 0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"((int)ROWS) : "memory");
    else
        asm volatile("{\n" DESC("b", "36") WGMMA64 "{%32,%33,%34,%35}, b, 0, 1, 1, %37;\n}"
                     : EIGHT(NEW4, 0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"((int)ROWS) : "memory");
}
template <bool ADD, bool ROWS> __device__ __forceinline__ void wgmma(float (&d)[16][4], WgmmaDesc a, WgmmaDesc b) {
    if (ADD)
        asm volatile("{\n" DESC("a", "64") DESC("b", "65") WGMMA128 "a, b, 1, 1, 1, 0, %66;\n}"
                     : EIGHT(SAME4, 0), EIGHT(SAME4, 8) : "r"(a), "r"(b), "n"((int)ROWS) : "memory");
    else
        asm volatile("{\n" DESC("a", "64") DESC("b", "65") WGMMA128 "a, b, 0, 1, 1, 0, %66;\n}"
                     : EIGHT(NEW4, 0), EIGHT(NEW4, 8) : "r"(a), "r"(b), "n"((int)ROWS) : "memory");
}
template <bool ADD, bool ROWS> __device__ __forceinline__ void wgmma(float (&d)[16][4], const uint32_t (&a)[4], WgmmaDesc b) {
    if (ADD)
        asm volatile("{\n" DESC("b", "68") WGMMA128 "{%64,%65,%66,%67}, b, 1, 1, 1, %69;\n}"
                     : EIGHT(SAME4, 0), EIGHT(SAME4, 8) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"((int)ROWS) : "memory");
    else
        asm volatile("{\n" DESC("b", "68") WGMMA128 "{%64,%65,%66,%67}, b, 0, 1, 1, %69;\n}"
                     : EIGHT(NEW4, 0), EIGHT(NEW4, 8) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"((int)ROWS) : "memory");
}
#undef SAME4
#undef NEW4
#undef EIGHT
#undef WGMMA64
#undef WGMMA128
#undef DESC
#undef HIGH
#undef TEXT_OF
#undef TEXT

#endif
