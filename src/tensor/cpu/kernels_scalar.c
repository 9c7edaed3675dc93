/* tensor/cpu/kernels_scalar.c — the kernels of kernels.h for plain C. */
#include "tensor/cpu/vec_scalar.h"
#include "tensor/cpu/vec.h"

#include <string.h>

#include "tensor/cpu/vec_pairs.h"

#define KERNELS cpu_ops_scalar
#define SPIN cpu_spin_scalar
#define HALF_PRODUCTS cpu_half_scalar
#include "tensor/cpu/kernels.h"
