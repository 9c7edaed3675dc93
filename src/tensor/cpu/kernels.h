/* tensor/cpu/kernels.h — every op of backend.h in terms of vec.h. Included by kernels_<isa>.c, which has defined v16,
 * the list of gemm's register tiles (MICRO_TILES) and the name of the table (KERNELS). */
#include "tensor/cpu/cpu_int.h"

#include "tensor/cpu/kernels_gemm.h"
#include "tensor/cpu/kernels_half.h"
#include "tensor/cpu/kernels_linear.h"
#include "tensor/cpu/kernels_elem.h"
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
    .linear_bwd = linear_bwd,
    .rmsnorm_fwd = rmsnorm_fwd,
    .rmsnorm_bwd = rmsnorm_bwd,
    .layernorm_fwd = layernorm_fwd,
    .layernorm_bwd = layernorm_bwd,
    .rope = rope,
    .swiglu_fwd = swiglu_fwd,
    .swiglu_bwd = swiglu_bwd,
    .gelu_fwd = gelu_fwd,
    .gelu_bwd = gelu_bwd,
    .attn_fwd = attn_fwd,
    .attn_bwd = attn_bwd,
    .logprob_fwd = logprob_fwd,
    .logprob_bwd = logprob_bwd,
    .adamw = adamw,
    .scale = scale,
};

_Static_assert(sizeof(BackendOps) == 31 * sizeof(void *), "cpu lacks an op of backend.h");
