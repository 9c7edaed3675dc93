/* tests/emu/driver_emu.h — see driver_emu.c. */
#ifndef DIKAST_TESTS_DRIVER_EMU_H
#define DIKAST_TESTS_DRIVER_EMU_H

#include "tensor/cuda/driver.h"

#ifdef __cplusplus
extern "C" {
#endif

void emu_device_memory(bool open);     /* nests: kernels may touch device memory between true and false */
bool emu_on_device(const void *p);
void emu_break_descriptors(uint64_t bits); /* flipped in that of every second operand of a product from now on; 0: none */

#ifdef __cplusplus
}
#endif

#endif
