/* tensor/cpu/kernels_avx512.c — the kernels of kernels.h for AVX-512 (F, VL, DQ, BW). */
#include "tensor/cpu/vec_avx512.h"
#include "tensor/cpu/vec.h"

#include <string.h>

#include "tensor/cpu/vec_pairs.h"

#define KERNELS cpu_ops_avx512
#define SPIN cpu_spin_avx512
#define HALF_PRODUCTS cpu_half_avx512
#include "tensor/cpu/kernels.h"
