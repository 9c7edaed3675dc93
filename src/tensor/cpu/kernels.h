/* tensor/cpu/kernels.h — every op of backend.h in terms of vec.h. Included by kernels_<isa>.c, which has defined v16 and
 * pair16, and the names of the table (KERNELS), of products of BF16 by pairs (HALF_PRODUCTS) and of SPIN. */
#include "tensor/cpu/cpu_int.h"

#include "tensor/cpu/kernels_parts.h"
#include "tensor/cpu/kernels_gemm.h"
#include "tensor/cpu/kernels_elem.h"
#include "tensor/cpu/kernels_half.h"
#include "tensor/cpu/kernels_widened.h"
#include "tensor/cpu/kernels_linear.h"
#include "tensor/cpu/kernels_norm.h"
#include "tensor/cpu/kernels_attn_tile.h"
#include "tensor/cpu/kernels_attn.h"
#include "tensor/cpu/kernels_attn_bwd.h"

const BackendOps KERNELS = {
    .name = "cpu",
    .zero = zero,
    .copy = copy,
    .cast = cast,
    .quantize = quantize,
    .add = add,
    .add_bias = add_bias,
    .sumsq = sumsq,
    .all_finite = all_finite,
    .embed_fwd = embed_fwd,
    .embed_bwd = embed_bwd,
    .gather_rows = gather_rows,
    .scatter_rows = scatter_rows,
    .scatter_add_rows = scatter_add_rows,
    .linear_fwd = linear_fwd,
    .linear_from = linear_from,
    .linear_bwd = linear_bwd,
    .rmsnorm_fwd = rmsnorm_fwd,
    .rmsnorm_bwd = rmsnorm_bwd,
    .layernorm_fwd = layernorm_fwd,
    .layernorm_bwd = layernorm_bwd,
    .rope = rope,
    .rope_kv = rope_kv,
    .swiglu_fwd = swiglu_fwd,
    .swiglu_bwd = swiglu_bwd,
    .gelu_fwd = gelu_fwd,
    .gelu_bwd = gelu_bwd,
    .attn_fwd = attn_fwd,
    .attn_bwd = attn_bwd,
    .attn_part_bwd = attn_part_bwd,
    .logprob_fwd = logprob_fwd,
    .logprob_bwd = logprob_bwd,
    .logprob_part_fwd = logprob_part_fwd,
    .logprob_part_bwd = logprob_part_bwd,
    .adamw = adamw,
    .scale = scale,
    .dropout = dropout,
};

/* What the machine could do at best: chains of multiply-adds in registers, as many as hide their latency, nothing
 * loaded. Returns something that depends on all of them, so that none is left out. */
float SPIN(int64_t n) {
    enum { CHAINS = TILE_ROWS * TILE_VECS };
    v16 acc[CHAINS], a = v16_set1(0.999999f), b = v16_set1(1e-6f);
#pragma GCC unroll 24
    for (int c = 0; c < CHAINS; c++) acc[c] = v16_set1((float)c);
    for (int64_t i = 0; i < n; i += CHAINS)
#pragma GCC unroll 24
        for (int c = 0; c < CHAINS; c++) acc[c] = v16_fma(acc[c], a, b);
    v16 sum = v16_zero();
    for (int c = 0; c < CHAINS; c++) sum = v16_add(sum, acc[c]);
    return v16_sum(sum);
}

_Static_assert(sizeof(BackendOps) == 42 * sizeof(void *), "cpu lacks an op of backend.h; see ref.c");
