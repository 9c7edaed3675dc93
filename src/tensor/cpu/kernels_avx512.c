/* tensor/cpu/kernels_avx512.c — the kernels of kernels.h for AVX-512 (F, VL, DQ, BW). */
#include "tensor/cpu/vec_avx512.h"
#include "tensor/cpu/vec.h"

#include <string.h>

#include "tensor/cpu/vec_pairs.h"

// clang-format off
#define MICRO_TILES(T)                                                      \
    T(1, 1) T(2, 1) T(3, 1) T(4, 1) T(5, 1) T(6, 1) T(7, 1) T(8, 1)         \
    T(1, 2) T(2, 2) T(3, 2) T(4, 2) T(5, 2) T(6, 2) T(7, 2) T(8, 2)         \
    T(1, 3) T(2, 3) T(3, 3) T(4, 3) T(5, 3) T(6, 3) T(7, 3) T(8, 3)
// clang-format on

#define HALF_PRODUCTS "tensor/cpu/kernels_half.h"
#define KERNELS cpu_ops_avx512
#define SPIN cpu_spin_avx512
#define SPIN_HALF cpu_spin_half_avx512
#include "tensor/cpu/kernels.h"
