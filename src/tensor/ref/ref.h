/* tensor/ref/ref.h — shared by the files of the reference backend.
 *
 * ref is the definition every other backend is tested against, so it is written to be read: F64, plain loops over rows,
 * sums in ascending order on one thread, the formula above each function. Shapes are checked here, once for all
 * backends: a model that runs on ref asks for nothing undefined. Row i of an output is a function of row i of the
 * inputs (and the parameters) alone, so row invariance needs no care. */
#ifndef DIKAST_TENSOR_REF_REF_H
#define DIKAST_TENSOR_REF_REF_H

#include "tensor/backend.h"

static inline double *ref_row(Tensor t, int64_t i) { return (double *)t.data + i * t.ld; }

/* An F64 matrix of rows x cols; op and what are for the message. */
void ref_check(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols);
/* Same, or absent. */
void ref_check_opt(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols);

/* matrix.c: rows, lookup, products, optimizer */
void ref_zero(Backend *be, Tensor y);
void ref_copy(Backend *be, Tensor y, Tensor x);
void ref_quantize(Backend *be, Tensor y, Tensor scale, Tensor x);
void ref_cast(Backend *be, Tensor y, Tensor x);
void ref_add(Backend *be, Tensor y, Tensor a, Tensor b);
void ref_add_bias(Backend *be, Tensor y, Tensor x, Tensor b);
double ref_sumsq(Backend *be, Tensor x);
bool ref_all_finite(Backend *be, Tensor x);
void ref_scale(Backend *be, Tensor x, double a);
void ref_dropout(Backend *be, Tensor y, Tensor x, Dropout d);
void ref_embed_fwd(Backend *be, Tensor y, Tensor w, const int32_t *idx, bool add);
void ref_embed_bwd(Backend *be, Tensor dw_acc, Tensor dy, const int32_t *idx);
void ref_gather_rows(Backend *be, Tensor y, Tensor x, const int32_t *row);
void ref_scatter_rows(Backend *be, Tensor y, Tensor x, const int32_t *row);
void ref_scatter_add_rows(Backend *be, Tensor y_acc, Tensor x, const int32_t *row);
void ref_linear_fwd(Backend *be, const LinearOut *out, int n, Tensor x, bool add);
void ref_linear_bwd(Backend *be, Tensor dx, const LinearGrad *grad, int n, Tensor x, bool add_dx);
void ref_adamw(Backend *be, Tensor p, Tensor m, Tensor v, Tensor g, AdamwParams a);

/* elem.c: norms, positions, activations, distributions */
void ref_rmsnorm_fwd(Backend *be, Tensor y, Tensor rstd, Tensor x, Tensor w, float eps);
void ref_rmsnorm_bwd(Backend *be, Tensor dx, Tensor dw_acc, Tensor dy, Tensor x, Tensor w, Tensor rstd, bool add_dx);
void ref_layernorm_fwd(Backend *be, Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor w, Tensor b, float eps);
void ref_layernorm_bwd(Backend *be, Tensor dx, Tensor dw_acc, Tensor db_acc, Tensor dy, Tensor x, Tensor w, Tensor mean,
                       Tensor rstd, bool add_dx);
void ref_rope(Backend *be, Tensor x, const int32_t *pos, const double *freq, int d_head, bool inverse);
void ref_swiglu_fwd(Backend *be, Tensor y, Tensor gate, Tensor up);
void ref_swiglu_bwd(Backend *be, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up);
void ref_gelu_fwd(Backend *be, Tensor y, Tensor x, GeluKind kind);
void ref_gelu_bwd(Backend *be, Tensor dx, Tensor dy, Tensor x, GeluKind kind);
void ref_logprob_fwd(Backend *be, Tensor logprob, Tensor entropy, Tensor logits, const int32_t *target, float temp);
void ref_logprob_bwd(Backend *be, Tensor logits, const int32_t *target, Tensor dlogp, float temp);
void ref_logprob_part_fwd(Backend *be, Tensor stat, Tensor logits, const int32_t *target, float temp);
void ref_logprob_part_bwd(Backend *be, Tensor logits, const int32_t *target, Tensor whole, Tensor dlogp, float temp);

/* attn.c */
void ref_attn_fwd(Backend *be, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v, AttnSeqs s, int d_head);
void ref_attn_bwd(Backend *be, Tensor dq, Tensor dk, Tensor dv, Tensor d_o, Tensor o, Tensor lse, Tensor q, Tensor k,
                  Tensor v, AttnSeqs s, int d_head);
void ref_attn_part_bwd(Backend *be, Tensor dq, Tensor dk, Tensor dv, Tensor d_o, Tensor o, Tensor lse, Tensor q, Tensor k,
                  Tensor v, AttnSeqs s, int d_head);

#endif
