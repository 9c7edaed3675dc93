/* tensor/cpu/kernels_amx.c — products of BF16 on the tiles of AMX. */
#include "tensor/cpu/vec_avx512.h"
#include "tensor/cpu/vec.h"

#include <string.h>

#include "tensor/cpu/cpu_int.h"

#define HALF_PRODUCTS cpu_half_amx
#include "tensor/cpu/kernels_parts.h"
#include "tensor/cpu/kernels_amx.h"
