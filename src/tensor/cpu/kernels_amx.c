/* tensor/cpu/kernels_amx.c — the kernels of kernels.h for AVX-512 with the tiles of AMX for products of BF16. */
#include "tensor/cpu/vec_avx512.h"
#include "tensor/cpu/vec.h"

#include <string.h>

// clang-format off
#define MICRO_TILES(T)                                                      \
    T(1, 1) T(2, 1) T(3, 1) T(4, 1) T(5, 1) T(6, 1) T(7, 1) T(8, 1)         \
    T(1, 2) T(2, 2) T(3, 2) T(4, 2) T(5, 2) T(6, 2) T(7, 2) T(8, 2)         \
    T(1, 3) T(2, 3) T(3, 3) T(4, 3) T(5, 3) T(6, 3) T(7, 3) T(8, 3)
// clang-format on

#define HALF_PRODUCTS "tensor/cpu/kernels_amx.h"
#define KERNELS cpu_ops_amx
#define SPIN cpu_spin_amx
#define SPIN_HALF cpu_spin_half_amx
#include "tensor/cpu/kernels.h"
