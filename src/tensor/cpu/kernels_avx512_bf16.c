/* tensor/cpu/kernels_avx512_bf16.c — products of BF16 by AVX-512's dot product of pairs. */
#include "tensor/cpu/vec_avx512.h"
#include "tensor/cpu/vec.h"

#include <string.h>

#include "tensor/cpu/cpu_int.h"
#include "tensor/cpu/vec_pairs_bf16.h"

#define HALF_PRODUCTS cpu_half_avx512_bf16
#include "tensor/cpu/kernels_parts.h"
#include "tensor/cpu/kernels_half.h"
