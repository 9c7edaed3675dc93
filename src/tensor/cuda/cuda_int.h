/* tensor/cuda/cuda_int.h — what the files of the cuda backend share. Compiles as C (host files) and as CUDA C++ (*.cu).
 *
 *   driver.c      everything that is called outside our own code, as one table: the CUDA runtime, cuBLASLt (opened at run
 *                 time), NVML. Tests put a fake or an emulated one in its place
 *   cuda.c        life, memory, the op table, argument checks that many ops share
 *   probe.c       what is on this machine, for `dikast doctor`
 *   index.c       device copies of host index arrays
 *   matmul.c      linear_*: cuBLASLt where it can be had, else linear.cu
 *   *.cu          kernels and the ops that launch them; device code uses launch.h's names only, so that emu/launch.h can
 *                 run the same sources on a CPU
 *
 * Ops are asynchronous: they are queued on the backend's one stream and return; ops that return a value wait for it. Every
 * launch is checked. There are no float atomics: a sum over threads or blocks is a tree of fixed shape, so equal inputs give
 * equal bits. A tensor of more than one row may have any ld >= cols; data is aligned to its dtype only, and kernels that want
 * 16-byte accesses check and fall back. */
#ifndef DIKAST_TENSOR_CUDA_INT_H
#define DIKAST_TENSOR_CUDA_INT_H

#include "tensor/backend.h"
#include "tensor/cuda/driver.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CudaIndex CudaIndex;   /* index.c */
typedef struct CudaMatmul CudaMatmul; /* matmul.c */
typedef struct CudaReplay CudaReplay; /* replay.c */

typedef struct {
    const CudaDriver *drv;
    int device, n_sm;            /* multiprocessors: how wide reductions and persistent kernels go */
    size_t shared_max;           /* bytes of shared memory a block may ask for */
    bool hopper;                 /* compute capability 9.0: kernels of *_wgmma*.cu run, unless attn_check.c finds them wrong */
    bool checked;                /* it has looked, */
    double difference;           /* and this is what it found, relative to the older kernels */
    char note[256];              /* be->note */
    bool overlaps;               /* the device can begin a kernel before the one before it is through: sm_90 */
    bool early;                  /* and what is queued becomes a recording that does so: see LAUNCH_EARLY */
    bool exact;                  /* row invariance: forward products and attention in one way for any number of rows */
    void *stream;                /* cudaStream_t */
    CudaIndex *index;
    CudaMatmul *matmul;
    CudaReplay *replay;
    void *scratch;               /* device memory, grown on demand; contents live until the next op */
    size_t scratch_bytes;
    void *pinned;                /* host memory for results that an op returns; what cuda.c stages through lies behind */
    size_t pinned_bytes;
    void *half_event[2];         /* behind the last copy out of each half of the stage, when it is busy */
    bool half_busy[2];
    char isa[16];                /* "sm_90" */
    char pci[32];                /* the device's address, as NVML wants it */
    void *nvml;                  /* opened by the first who asks for the load */
    bool asked_nvml;
} CudaImpl;

static inline CudaImpl *cuda_impl(Backend *be) { return (CudaImpl *)be->impl; }

/* Device copy of n host int32 for the op at hand, which may ask for INDEX_KEEP of them (index.h). Content-addressed: arrays
 * with the same content share a copy, so the same positions are sent once per pass, not once per layer. */
const int32_t *cuda_index(Backend *be, const int32_t *host, int64_t n);
/* Device copy of n host doubles (RoPE frequencies), as cuda_index. */
const double *cuda_doubles(Backend *be, const double *host, int64_t n);
/* Device copy of any host bytes (small structs, one per row), as cuda_index. */
const void *cuda_bytes(Backend *be, const void *host, size_t bytes);
/* Device memory of at least `bytes`, 256-byte aligned, until the op returns (the next op on the stream may reuse it). Once per
 * op: a second call gives the same memory, or gives it back for more. */
void *cuda_scratch(Backend *be, size_t bytes);
/* CHECKs the runtime's last error; called after each launch (LAUNCH does). */
void cuda_launched(Backend *be, const char *kernel);
/* Copies device memory to host memory and waits for it (and all that was queued before). */
void cuda_fetch(Backend *be, void *host, const void *device, size_t bytes);

/* Argument check of an op: shape, ld and dtype; real: F32 only, else F32 or BF16. An empty tensor fails unless
 * opt, or rows or cols are 0: nothing can be launched over no rows, so ops return first in that case. */
typedef enum { CUDA_REAL, CUDA_ANY, CUDA_REAL_OPT, CUDA_ANY_OPT } CudaNeed;
void cuda_check(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols, CudaNeed need);

/* -- ops, one prototype each, signatures of backend.h's table; where they are defined ------------------------------- */
/* elem.cu */
void cuda_zero(Backend *be, Tensor y);
void cuda_copy(Backend *be, Tensor y, Tensor x);
void cuda_cast(Backend *be, Tensor y, Tensor x);
void cuda_quantize(Backend *be, Tensor y, Tensor scale, Tensor x);
void cuda_add(Backend *be, Tensor y, Tensor a, Tensor b);
void cuda_add_bias(Backend *be, Tensor y, Tensor x, Tensor b);
void cuda_scale(Backend *be, Tensor x, double a);
void cuda_dropout(Backend *be, Tensor y, Tensor x, Dropout d);
void cuda_rope(Backend *be, Tensor x, const int32_t *pos, const double *freq, int d_head, bool inverse);
void cuda_rope_kv(Backend *be, Tensor q, Tensor k, Tensor v, Tensor kc, Tensor vc, const int32_t *kv_row, const int32_t *pos,
                  const double *freq, int d_head);
void cuda_swiglu_fwd(Backend *be, Tensor y, Tensor gate, Tensor up);
void cuda_swiglu_bwd(Backend *be, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up);
void cuda_gelu_fwd(Backend *be, Tensor y, Tensor x, GeluKind kind);
void cuda_gelu_bwd(Backend *be, Tensor dx, Tensor dy, Tensor x, GeluKind kind);
/* lookup.cu */
void cuda_embed_fwd(Backend *be, Tensor y, Tensor w, const int32_t *idx, bool add);
void cuda_embed_bwd(Backend *be, Tensor dw_acc, Tensor dy, const int32_t *idx);
void cuda_gather_rows(Backend *be, Tensor y, Tensor x, const int32_t *row);
void cuda_scatter_rows(Backend *be, Tensor y, Tensor x, const int32_t *row);
void cuda_scatter_add_rows(Backend *be, Tensor y_acc, Tensor x, const int32_t *row);
/* norm.cu */
void cuda_rmsnorm_fwd(Backend *be, Tensor y, Tensor rstd, Tensor x, Tensor w, float eps);
void cuda_rmsnorm_bwd(Backend *be, Tensor dx, Tensor dw_acc, Tensor dy, Tensor x, Tensor w, Tensor rstd, bool add_dx);
void cuda_layernorm_fwd(Backend *be, Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor w, Tensor b, float eps);
void cuda_layernorm_bwd(Backend *be, Tensor dx, Tensor dw_acc, Tensor db_acc, Tensor dy, Tensor x, Tensor w, Tensor mean,
                        Tensor rstd, bool add_dx);
/* loss.cu */
void cuda_logprob_fwd(Backend *be, Tensor logprob, Tensor entropy, Tensor logits, const int32_t *target, float temp);
void cuda_logprob_bwd(Backend *be, Tensor logits, const int32_t *target, Tensor dlogp, float temp);
void cuda_logprob_part_fwd(Backend *be, Tensor stat, Tensor logits, const int32_t *target, float temp);
void cuda_logprob_part_bwd(Backend *be, Tensor logits, const int32_t *target, Tensor whole, Tensor dlogp, float temp);
/* As logprob_fwd, but all pointers are device pointers; where drawn is negative logprob stays as it is. */
void cuda_logprob_drawn(Backend *be, float *logprob, Tensor logits, const int32_t *drawn, float temp);
/* sample.cu */
void cuda_draw(Backend *be, int32_t *token, float *logprob, Tensor logits, const float *temp, const double *u);
/* optim.cu */
double cuda_sumsq(Backend *be, Tensor x);
double cuda_sumsq_all(Backend *be, const Tensor *x, int n);
bool cuda_all_finite(Backend *be, Tensor x);
void cuda_adamw(Backend *be, Tensor p, Tensor m, Tensor v, Tensor g, AdamwParams a);
void cuda_update(Backend *be, Tensor w, Tensor p, Tensor m, Tensor v, Tensor g, AdamwParams a);
/* matmul.c */
/* Called by backend.c with everything but be->impl->matmul in place. An Error when cuBLASLt
 * cannot be found; under a driver whose lt_open is NULL (the emulated one) all products are our own kernels'. */
bool cuda_matmul_open(Backend *be, Error *err);
void cuda_matmul_close(Backend *be);    /* fine when it was not opened */
void cuda_linear_fwd(Backend *be, const LinearOut *out, int n, Tensor x, bool add);
void cuda_linear_from(Backend *be, LinearOut out, Tensor from, Tensor x);
/* few.cu */
bool cuda_norm_qkv(Backend *be, const LinearOut qkv[3], NormedRows r, Tensor kc, Tensor vc, const int32_t *kv_row,
                   const int32_t *pos, const double *freq, int d_head);
bool cuda_norm_swiglu(Backend *be, Tensor y, LinearOut up, LinearOut gate, NormedRows r);
void cuda_linear_bwd(Backend *be, Tensor dx, const LinearGrad *grad, int n, Tensor x, bool add_dx);
/* linear.cu: products by our own kernels: what matmul.c uses without cuBLASLt, for I8 weights, and where rows must not
 * depend on their company. Signature per product: y (N,M) (add ? +=) x (N,K) w (M,K) ...; see the file */
void cuda_own_fwd(Backend *be, const LinearOut *out, int n, Tensor x, bool add);
void cuda_own_dx(Backend *be, Tensor dx, Tensor dy, Tensor w, bool add);     /* dx (N,K) (+)= dy (N,M) w (M,K) */
void cuda_own_dw(Backend *be, Tensor dw_acc, Tensor dy, Tensor x);           /* dw (M,K) += dy^T x */
void cuda_column_sums(Backend *be, Tensor dbias_acc, Tensor dy);             /* dbias (1,M) += sum of rows, fixed tree */
/* attn_check.c: before BF16 is first used; see there */
void cuda_attn_check(Backend *be);
/* attn.cu (F32: SIMT; the definition), attn_mma.cu and attn_wgmma.cu (tensor cores) behind these two */
void cuda_attn_fwd(Backend *be, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v, AttnSeqs s, int d_head);
void cuda_attn_bwd(Backend *be, Tensor dq, Tensor dk, Tensor dv, Tensor d_o, Tensor o, Tensor lse, Tensor q, Tensor k,
                   Tensor v, AttnSeqs s, int d_head);

#ifdef __cplusplus
}
#endif

#endif
