/* tensor/cpu/kernels_avx2.c — the kernels of kernels.h for AVX2 and FMA. */
#include "tensor/cpu/vec_avx2.h"
#include "tensor/cpu/vec.h"

#include <string.h>

#include "tensor/cpu/vec_pairs.h"

#define KERNELS cpu_ops_avx2
#define SPIN cpu_spin_avx2
#define HALF_PRODUCTS cpu_half_avx2
#include "tensor/cpu/kernels.h"
