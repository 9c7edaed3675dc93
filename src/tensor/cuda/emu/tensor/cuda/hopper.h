/* tensor/cuda/emu/tensor/cuda/hopper.h — the names of tensor/cuda/hopper.h on a CPU (hopper.cc). Descriptors are decoded as the
 * hardware does; what has not been waited for is not there: d is NaN, and products read what they read at any time in between. */
#ifndef DIKAST_TENSOR_CUDA_HOPPER_H
#define DIKAST_TENSOR_CUDA_HOPPER_H

#include "tensor/cuda/launch.h"

#define SHARED_PANELS(name) unsigned char *name = emu_shared()

typedef uint64_t Bar;
void bar_init(Bar *b, int count);
void bar_arrive(Bar *b);
void bar_wait(Bar *b, unsigned parity);
void cp_async_arrive(Bar *b);
static inline void cp_async4(void *to, const void *from, bool valid) { emu_copy(to, from, 4, valid); }
void async_fence();
void half_sync(int id, int n);
void half_arrive(int id, int n);
void emu_regs(int n, bool more);
template <int n> static inline void regs_less() { emu_regs(n, false); }
template <int n> static inline void regs_more() { emu_regs(n, true); }

uint32_t shared_at(const void *p); /* never 0 */
#include "tensor/cuda/wgmma_desc.h"

void wgmma_fence();
void wgmma_commit();
void emu_wgmma_wait(size_t under_way);
template <int n> static inline void wgmma_wait() { emu_wgmma_wait(n); }
template <typename T, int C> static inline void wgmma_held(T (&)[C][4]) {}

/* d: n / 2 numbers of the thread; a: its four registers, or NULL: desc_a */
void emu_wgmma(float *d, int n, const uint32_t *a, uint64_t desc_a, uint64_t desc_b, bool add, bool rows);
static inline uint64_t emu_desc(WgmmaDesc low) { return (uint64_t)WGMMA_HIGH << 32 | low; }
template <bool ADD, bool ROWS, int C> static inline void wgmma(float (&d)[C][4], WgmmaDesc a, WgmmaDesc b) {
    emu_wgmma(d[0], 8 * C, NULL, emu_desc(a), emu_desc(b), ADD, ROWS);
}
template <bool ADD, bool ROWS, int C> static inline void wgmma(float (&d)[C][4], const uint32_t (&a)[4], WgmmaDesc b) {
    emu_wgmma(d[0], 8 * C, a, 0, emu_desc(b), ADD, ROWS);
}

#endif
