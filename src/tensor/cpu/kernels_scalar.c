/* tensor/cpu/kernels_scalar.c — the kernels of kernels.h for plain C. */
#include "tensor/cpu/vec_scalar.h"
#include "tensor/cpu/vec.h"

#include <string.h>

#include "tensor/cpu/vec_pairs.h"

#define MICRO_TILES(T) T(1, 1) T(2, 1)

#define HALF_PRODUCTS "tensor/cpu/kernels_half.h"
#define KERNELS cpu_ops_scalar
#define SPIN cpu_spin_scalar
#define SPIN_HALF cpu_spin_half_scalar
#include "tensor/cpu/kernels.h"
