#include "tensor/ref/ref.h"

#include "tensor/backend_int.h"

#include <string.h>

static const BackendOps ops = {
    .name = "ref",
    .zero = ref_zero,
    .copy = ref_copy,
    .cast = ref_cast,
    .quantize = ref_quantize,
    .add = ref_add,
    .add_bias = ref_add_bias,
    .sumsq = ref_sumsq,
    .all_finite = ref_all_finite,
    .embed_fwd = ref_embed_fwd,
    .embed_bwd = ref_embed_bwd,
    .gather_rows = ref_gather_rows,
    .scatter_rows = ref_scatter_rows,
    .scatter_add_rows = ref_scatter_add_rows,
    .linear_fwd = ref_linear_fwd,
    .linear_bwd = ref_linear_bwd,
    .rmsnorm_fwd = ref_rmsnorm_fwd,
    .rmsnorm_bwd = ref_rmsnorm_bwd,
    .layernorm_fwd = ref_layernorm_fwd,
    .layernorm_bwd = ref_layernorm_bwd,
    .rope = ref_rope,
    .swiglu_fwd = ref_swiglu_fwd,
    .swiglu_bwd = ref_swiglu_bwd,
    .gelu_fwd = ref_gelu_fwd,
    .gelu_bwd = ref_gelu_bwd,
    .attn_fwd = ref_attn_fwd,
    .attn_bwd = ref_attn_bwd,
    .attn_part_bwd = ref_attn_part_bwd,
    .logprob_fwd = ref_logprob_fwd,
    .logprob_bwd = ref_logprob_bwd,
    .logprob_part_fwd = ref_logprob_part_fwd,
    .logprob_part_bwd = ref_logprob_part_bwd,
    .adamw = ref_adamw,
    .scale = ref_scale,
    .dropout = ref_dropout,
};

/* An entry added to the op table must be added here: ref defines every op but those that backend.h says may be NULL. */
_Static_assert(sizeof(BackendOps) == 42 * sizeof(void *), "ref lacks an op of backend.h");

static bool ref_open(Backend *be, int device, const char *isa, Error *err) {
    (void)device;
    if (isa && strcmp(isa, "auto") != 0)
        return error_set(err, ERR_CONFIG, "isa '%s': ref has no instruction sets, expected auto", isa);
    be->op = &ops;
    be->real = DTYPE_F64;
    be->exact = true;
    be->recompute_cheap = true;
    return true;
}

static void ref_close(Backend *be) { (void)be; }

static const char *ref_isa(const Backend *be) {
    (void)be;
    return "ref";
}

const BackendProvider backend_ref = {.name = "ref", .open = ref_open, .close = ref_close, .isa = ref_isa};

void ref_check(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols) {
    CHECK(t.rows == rows && t.cols == cols, "%s: %s is (%lld, %lld), expected (%lld, %lld)", op, what,
          (long long)t.rows, (long long)t.cols, (long long)rows, (long long)cols);
    if (tensor_empty(t)) return;
    CHECK(t.dtype == DTYPE_F64, "%s: %s is %s, expected F64", op, what, dtype_name(t.dtype));
    CHECK(t.data && t.ld >= t.cols, "%s: %s has data %s, ld %lld", op, what, t.data ? "set" : "NULL", (long long)t.ld);
}

void ref_check_opt(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols) {
    if (!tensor_empty(t)) ref_check(op, what, t, rows, cols);
}
