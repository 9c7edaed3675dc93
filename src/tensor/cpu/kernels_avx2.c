/* tensor/cpu/kernels_avx2.c — the kernels of kernels.h for AVX2 and FMA. */
#include "tensor/cpu/vec_avx2.h"
#include "tensor/cpu/vec.h"

#include <string.h>

#include "tensor/cpu/vec_pairs.h"

#define MICRO_TILES(T) T(1, 1) T(2, 1) T(3, 1) T(4, 1) T(5, 1) T(6, 1)

#define HALF_PRODUCTS "tensor/cpu/kernels_half.h"
#define KERNELS cpu_ops_avx2
#define SPIN cpu_spin_avx2
#define SPIN_HALF cpu_spin_half_avx2
#include "tensor/cpu/kernels.h"
