/* tensor/cuda/emu/emu.h — what emu.cc and hopper.cc share. */
#ifndef DIKAST_TENSOR_CUDA_EMU_EMU_H
#define DIKAST_TENSOR_CUDA_EMU_EMU_H

#include "tensor/cuda/launch.h"

#include <vector>

struct EmuCopy { void *to; const void *from; size_t bytes; };

/* emu.cc */
[[noreturn]] void emu_fail(const char *what);           /* names the kernel and the thread */
int emu_thread(void);                                   /* of the block */
size_t emu_shared_bytes(void);
bool emu_coin(void);                                    /* what may happen early or late does so by this */
void emu_wait_for(const std::function<bool()> &ready);  /* others run until it holds */
std::vector<EmuCopy> emu_copies(void);                  /* the thread's that have not landed; they are the caller's now */

/* hopper.cc */
void emu_block_begin(int n_thread);
void emu_block_end(void);
bool emu_land(void);    /* nobody can go on: lets some copies land that arrive at a barrier; false: there are none */

#endif
