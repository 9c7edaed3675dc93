/* tests/emu/driver_emu.h — see driver_emu.c. */
#ifndef DIKAST_TESTS_DRIVER_EMU_H
#define DIKAST_TESTS_DRIVER_EMU_H

#include "tensor/cuda/driver.h"

#ifdef __cplusplus
extern "C" {
#endif

void emu_device_memory(bool open);
/* While it is open: may kernels read it only? */
void emu_device_memory_frozen(bool frozen);

/* src/tensor/cuda/emu/emu.cc: launches between begin and end become a graph. */
void emu_capture_begin(void);
bool emu_capturing(void);
void *emu_capture_end(void);
void emu_graph_launch(void *graph);
void emu_graph_close(void *graph);     /* nests: kernels may touch device memory between true and false */
bool emu_on_device(const void *p);
void emu_break_descriptors(uint64_t bits); /* flipped in that of every second operand of a product from now on; 0: none */

#ifdef __cplusplus
}
#endif

#endif
