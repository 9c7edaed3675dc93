/* tensor/backend.h — every operation the system performs on matrices.
 *
 * Outputs first, then inputs, then scalars. Nothing aliases unless stated. An argument named *_acc is accumulated into
 * (+=); every other output is overwritten (=). An empty Tensor for an optional output skips it. Parameter gradients are
 * always _acc. Every tensor has dtype be->real: F64 in ref, F32 in cpu and cuda (sums and statistics of one row may use
 * wider registers, in one fixed order). In cpu and cuda these may be BF16 instead; sums are F32, and a BF16 result is the F32
 * result rounded once, to nearest even:
 *   linear_fwd: x and every w; then each y as it likes, but F32 with add. Under F32 x all w may be BF16, or 8-bit whole
 *               numbers with F32 scales (y = scale * sum); y is F32. bias: always F32
 *   linear_bwd: every dy and w, and x; then dx as it likes, but F32 with add_dx. dw and dbias: always F32
 *   rmsnorm_fwd, layernorm_fwd: y    swiglu_*, gelu_*: each tensor as it likes    embed_fwd: w
 *   dropout: x, and y is of its dtype
 *   cast: y, x or both; in panels from F32 to BF16 or between equals    zero, copy: any dtype of tensor.h
 * In cuda (be->attn_half) also:
 *   attn_fwd, attn_bwd: all but lse; weights of keys are rounded before they multiply values
 *   rope, gather_rows, scatter_rows, scatter_add_rows: every tensor
 *
 * Row invariance, where be->exact (ref, cpu, cuda with isa "exact"): the bits of a row in any *_fwd do not depend on the
 * other rows, on their number, on its own place among them or on the thread count. Everything is deterministic, everywhere:
 * equal calls, equal bits, on any thread count.
 *
 * Shape letters: N tokens, R chosen rows, C d_model, H/K query/KV heads, D d_head, F d_ff, V vocabulary. Index arrays are
 * host int32, checked by callers; an op keeps nothing of them. */
#ifndef DIKAST_TENSOR_BACKEND_H
#define DIKAST_TENSOR_BACKEND_H

#include "base/load.h"
#include "base/pool.h"
#include "base/rng.h"
#include "tensor/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Backend Backend;

enum { LINEAR_MAX = 3 };   /* products of one x in one call */
enum { DECODE_STEP = 256 }; /* keys: what an op launches for decoding follows from the longest reach in such steps */
enum { KV_PAGE = 64 };     /* positions per page of keys and values; also attention's key tile */

typedef struct {           /* which key/value rows each query sequence sees */
    int n_seq, max_page;   /* S; columns of kv_page */
    const int32_t *q_off;  /* (S+1) query rows of sequence s: [q_off[s], q_off[s+1]) */
    const int32_t *kv_len; /* (S) positions it has; query i of n sees positions < kv_len-n+i+1 (all kv_len if !causal) */
    const int32_t *kv_page;/* (S, max_page) K/V row of positions 0, KV_PAGE, 2*KV_PAGE, ... */
    bool causal;
    int window;            /* causal only: the query at position p sees positions p-window+1..p; 0: from 0 on */
} AttnSeqs;

typedef enum { GELU_TANH, GELU_ERF } GeluKind;  /* "gelu_new" of GPT-2; "gelu" */

typedef struct {
    double lr, beta1, beta2, eps, weight_decay; /* weight_decay 0 for groups without it */
    int64_t t;                                  /* 1-based count of updates made, for bias correction */
    double grad_scale;                          /* multiplies g first: 1/token count times clipping */
} AdamwParams;

/* One of several products of one x. w, dw: as be->panels asks; F32 w of linear_fwd row-major too: slower, the same bits. */
typedef struct { Tensor y, w, bias, scale; } LinearOut; /* y (N,M)  w (M,K)  bias (1,M) or empty; scale (1,M): of 8-bit w */
typedef struct { Tensor dy, w, dw_acc, dbias_acc; } LinearGrad; /* dy (N,M)  dw (M,K) and dbias (1,M), or empty */

typedef struct { Tensor h, x, w; float eps; } NormedRows; /* rmsnorm_fwd's y, x and w */

/* Element (i, j) falls where the 16-bit number of its coordinates is below drop: number j%8 of the Philox block of (rng, row+i,
 * j/8), low half of a word first. So equal coordinates fall together whoever asks, however rows are cut. */
typedef struct { Rng rng; uint64_t row; uint32_t drop; } Dropout;      /* drop of 65536 fall: 0..65535 */

typedef struct {
    const char *name;

    /* -- plain ------------------------------------------------------------------------------------------------- */
    void (*zero)(Backend *be, Tensor y);
    void (*copy)(Backend *be, Tensor y, Tensor x);                      /* of one dtype and layout */
    void (*cast)(Backend *be, Tensor y, Tensor x);                      /* y = x in y's dtype; y may be tensor_narrow(x) */
    void (*add)(Backend *be, Tensor y, Tensor a, Tensor b);             /* y = a + b; y may alias a or b */
    void (*add_bias)(Backend *be, Tensor y, Tensor x, Tensor b);        /* y = x + b  b (1,C); y may alias x */
    /* 8-bit weights of F32 ones: scale_i = max_j |x_ij| / 127, y_ij = x_ij / scale_i to the nearest whole number, even ones
     * first; a row of zeros has scale 1.  y (M,K) in panels, scale (1,M), x (M,K) */
    void (*quantize)(Backend *be, Tensor y, Tensor scale, Tensor x);
    /* y = x * 65536/(65536 - drop), but 0 for what falls, whatever it was; y may be x.  Srivastava et al. 2014 */
    void (*dropout)(Backend *be, Tensor y, Tensor x, Dropout d);
    double (*sumsq)(Backend *be, Tensor x);                             /* double, fixed blocks in fixed order */
    /* sum of the sumsq of n tensors, in order; NULL: one call each. One wait instead of n, where ops are queued. */
    double (*sumsq_all)(Backend *be, const Tensor *x, int n);
    bool (*all_finite)(Backend *be, Tensor x);

    /* -- lookup ------------------------------------------------------------------------------------------------ */
    /* y[i] = (add ? y[i] : 0) + w[idx[i]]     w (V,C) idx (N) y (N,C) */
    void (*embed_fwd)(Backend *be, Tensor y, Tensor w, const int32_t *idx, bool add);
    /* dw[idx[i]] += dy[i], in ascending i for every row of dw */
    void (*embed_bwd)(Backend *be, Tensor dw_acc, Tensor dy, const int32_t *idx);
    void (*gather_rows)(Backend *be, Tensor y, Tensor x, const int32_t *row);        /* y[i] = x[row[i]] */
    void (*scatter_rows)(Backend *be, Tensor y, Tensor x, const int32_t *row);       /* y[row[i]] = x[i], rows distinct */
    void (*scatter_add_rows)(Backend *be, Tensor y_acc, Tensor x, const int32_t *row); /* y[row[i]] += x[i], any order of
                                                                                        rows; repeated rows in order */

    /* -- linear ------------------------------------------------------------------------------------------------ */
    /* y_i = (add ? y_i : 0) + x w_i^T (+ bias_i) for i < n <= LINEAR_MAX   x (N,K). The product is summed first, then bias,
     * then the old y is added. Equal to n calls bit for bit, in one region. */
    void (*linear_fwd)(Backend *be, const LinearOut *out, int n, Tensor x, bool add);
    /* y = from + x w^T (+ bias); from (N,M), F32 like y. NULL: copy, then linear_fwd with add, which gives the same. */
    void (*linear_from)(Backend *be, LinearOut out, Tensor from, Tensor x);
    /* dx = (add_dx ? dx : 0) + sum_i dy_i w_i;  dw_i += dy_i^T x;  dbias_i += column sums of dy_i. Empty dx, dw_acc or
     * dbias_acc: skipped; x may be empty without dw */
    void (*linear_bwd)(Backend *be, Tensor dx, const LinearGrad *grad, int n, Tensor x, bool add_dx);

    /* Beginnings of a block's two halves, for few rows; false, or NULL: there is no faster way for these tensors than the ops
     * one by one, and nothing was done. To the bits of
     *   norm_qkv      h = rmsnorm_fwd(x);  linear_fwd of q, k and v of h;  rope_kv      (k and v may stay as they were)
     *   norm_swiglu   h = rmsnorm_fwd(x);  linear_fwd of up and gate of h;  y = swiglu_fwd      (up and gate likewise)
     * and h may or may not be written. */
    bool (*norm_qkv)(Backend *be, const LinearOut qkv[3], NormedRows r, Tensor kc, Tensor vc, const int32_t *kv_row,
                     const int32_t *pos, const double *freq, int d_head);
    bool (*norm_swiglu)(Backend *be, Tensor y, LinearOut up, LinearOut gate, NormedRows r);

    /* -- norms ------------------------------------------------------------------------------------------------- */
    /* y = x * rstd * w,  rstd = 1/sqrt(mean(x^2)+eps)   x (N,C) w (1,C) rstd (N,1).  Zhang & Sennrich 2019, eq. 4 */
    void (*rmsnorm_fwd)(Backend *be, Tensor y, Tensor rstd, Tensor x, Tensor w, float eps);
    /* dx = (add_dx ? dx : 0) + ...;  dw += ... */
    void (*rmsnorm_bwd)(Backend *be, Tensor dx, Tensor dw_acc, Tensor dy, Tensor x, Tensor w, Tensor rstd, bool add_dx);
    /* y = (x - mean) * rstd * w + b    mean, rstd (N,1)  w, b (1,C).  Ba et al. 2016 */
    void (*layernorm_fwd)(Backend *be, Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor w, Tensor b, float eps);
    void (*layernorm_bwd)(Backend *be, Tensor dx, Tensor dw_acc, Tensor db_acc, Tensor dy, Tensor x, Tensor w,
                          Tensor mean, Tensor rstd, bool add_dx);

    /* -- positions and activations ------------------------------------------------------------------------------ */
    /* In place on x (N, heads*D), each head's halves (x1, x2): angle a = pos[i] * freq[j], j < D/2,
     * (x1 cos a - x2 sin a, x2 cos a + x1 sin a); inverse = rotate by -a (the backward).  freq: host (D/2), F64.
     * Su et al. 2021, HF half-split layout. */
    void (*rope)(Backend *be, Tensor x, const int32_t *pos, const double *freq, int d_head, bool inverse);
    /* rope of q and k, then rows kv_row[i] of kc and vc := rows i of k and v, to the same bits. NULL: those four calls. */
    void (*rope_kv)(Backend *be, Tensor q, Tensor k, Tensor v, Tensor kc, Tensor vc, const int32_t *kv_row, const int32_t *pos,
                    const double *freq, int d_head);
    /* y = silu(gate) * up.  Shazeer 2020.  y may alias gate or up */
    void (*swiglu_fwd)(Backend *be, Tensor y, Tensor gate, Tensor up);
    /* dgate may alias gate, dup may alias up, either may alias dy */
    void (*swiglu_bwd)(Backend *be, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up);
    void (*gelu_fwd)(Backend *be, Tensor y, Tensor x, GeluKind kind);                   /* y may alias x */
    void (*gelu_bwd)(Backend *be, Tensor dx, Tensor dy, Tensor x, GeluKind kind);       /* dx may alias dy or x */

    /* -- attention --------------------------------------------------------------------------------------------- */
    /* o = softmax(q k^T / sqrt(D)) v, grouped heads (query head h uses KV head h / (H/K)).  q, o (N, H*D); k, v (rows,
     * K*D), addressed through s.kv_page; lse (N, H).  Keys are visited page by page from position 0 with an online
     * softmax, so one query alone and a whole prompt sum alike; keys that are masked or outside the window are never
     * visited.  Dao 2023 */
    void (*attn_fwd)(Backend *be, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v, AttnSeqs s, int d_head);
    /* Training layout only: sequence s's keys are its own rows (kv_page[s][p] = q_off[s] + p*KV_PAGE). No (T,T) matrix.
     * dq, dk, dv overwritten. */
    void (*attn_bwd)(Backend *be, Tensor dq, Tensor dk, Tensor dv, Tensor d_o, Tensor o, Tensor lse, Tensor q, Tensor k,
                     Tensor v, AttnSeqs s, int d_head);
    /* The same where some queries of a sequence are here and all of its keys (context parallel): its n queries stand at its last
     * n positions (of kv_len; n <= kv_len), its keys in one run of rows, kv_page[s][p] = kv_page[s][0] + p*KV_PAGE. Neighbours whose
     * runs begin at one row are pieces of one sequence: dk and dv of a key are sums over their queries in this order; a key that
     * nobody sees gets 0. Otherwise runs have no row in common. dq (N, ..), dk, dv (rows of k, ..) overwritten. NULL: the backend cannot. */
    void (*attn_part_bwd)(Backend *be, Tensor dq, Tensor dk, Tensor dv, Tensor d_o, Tensor o, Tensor lse, Tensor q, Tensor k,
                          Tensor v, AttnSeqs s, int d_head);

    /* -- distributions ----------------------------------------------------------------------------------------- */
    /* per row, z = logits/temp: logprob (R,1) = z[target] - logsumexp(z); entropy (R,1) or empty. target[i] in [0, V).
     * The sampler's log-prob and every loss come from this one function. */
    void (*logprob_fwd)(Backend *be, Tensor logprob, Tensor entropy, Tensor logits, const int32_t *target, float temp);
    /* in place: logits := dlogp[i]/temp * (onehot(target) - softmax(z)).  dlogp (R,1); a row with dlogp 0 becomes exact 0
     * whatever it held (NaN too) */
    void (*logprob_bwd)(Backend *be, Tensor logits, const int32_t *target, Tensor dlogp, float temp);
    /* The same where logits are some columns of V (vocabulary parallel, Shoeybi et al. 2019, section 3). target: among these, -1:
     * elsewhere. NULL, NULL: the backend cannot. What these columns say of a row, stat (R,4):
     *     m = max z | s = sum e^(z - m) | sum e^(z - m) (z - m) | z[target], 0 of -1 */
    void (*logprob_part_fwd)(Backend *be, Tensor stat, Tensor logits, const int32_t *target, float temp);
    /* and once all columns have spoken, whole (R,3): m | s of all | the share of s that lies elsewhere. As logprob_bwd. */
    void (*logprob_part_bwd)(Backend *be, Tensor logits, const int32_t *target, Tensor whole, Tensor dlogp, float temp);

    /* NULL: the caller fetches the logits and draws on the host (engine/sample.c). token[i] (host, R) of row i: temp[i] 0: the
     * lowest index of the greatest logit; else the first index at which the running sum of exp(z/temp[i]), in order of index,
     * passes u[i] of its total; -1: a logit is infinite or no number, or all are -infinity. temp, u: host (R), u in [0, 1).
     * logprob (host, R; NULL: not wanted): logprob_fwd's of these tokens at temp[i], or at 1 where that is 0; of -1: anything */
    void (*draw)(Backend *be, int32_t *token, float *logprob, Tensor logits, const float *temp, const double *u);

    /* -- optimizer --------------------------------------------------------------------------------------------- */
    /* torch's single-tensor AdamW: g *= grad_scale; p *= (float)(1 - lr wd); m += (g-m)(1-b1); v = b2 v + (1-b2) g g;
     * p -= lr/(1-b1^t) * m / (sqrt(v)/sqrt(1-b2^t) + eps).  Scalars in double, tensors as they are. */
    void (*adamw)(Backend *be, Tensor p, Tensor m, Tensor v, Tensor g, AdamwParams a);
    /* adamw of p, m and v; w = cast of p, where w is not empty; g = zero. To the bits of these calls. NULL: they are made one by
     * one. */
    void (*update)(Backend *be, Tensor w, Tensor p, Tensor m, Tensor v, Tensor g, AdamwParams a);
    void (*scale)(Backend *be, Tensor x, double a);                     /* x *= a */
} BackendOps;

struct Backend {
    const BackendOps *op;
    DType real;         /* DTYPE_F64 in ref, DTYPE_F32 in cpu and cuda */
    DType dtype;        /* of weight matrices and of what products read: real; BF16 after backend_set_dtype */
    bool panels;        /* weight matrices of linear_* and embed_* lie in panels (tensor.h): cpu; others: row-major */
    bool dry;           /* tensors have places and no memory (dry.h) */
    bool exact;         /* row invariance holds; else what a row gives alone and in company differs by rounding */
    bool recompute_cheap; /* training does not keep what one elementwise pass brings back: a sixth less memory for about 1 % of the
                           time where products are slow beside memory (cpu); cuda keeps it: 2 % by the times of its kernels */
    bool attn_half;     /* under a BF16 model queries, keys, values, attention's output and their gradients are BF16 too: cuda,
                           whose attention multiplies BF16; cpu: they stay F32 */
    int64_t slice_values; /* logits made at once that fill the machine, */
    int pass_tok;         /* and tokens of a pass of the engine; 0: few do, the caller knows best */
    size_t cache_bytes;   /* keys and values that a generation may take without being told; 0: the caller's own bound */
    MemSource mem;      /* where its tensors live; only ops and the host side below may touch what is in there */
    MemSource host;     /* where bytes wait that travel between ranks: host memory, apart so that a plan can count it (dry.h) */
    const char *note;   /* what its user should know, once the dtype is set; NULL: nothing */
    Pool *pool;         /* borrowed */
    void *impl;
};

/* name: "ref", "cpu", "cuda" or "cuda:1" for another GPU than the first, where the build has it. isa: NULL or "auto" for the
 * best of this machine, else "scalar" | "avx2" | "avx512" | "avx512_bf16" | "amx" (cpu only), "exact" | "sm_80", on sm_90 the kernels of
 * older devices (cuda only). One thread at a time uses a backend; a
 * cuda one on another GPU than the first only the thread that opened it. */
bool backend_open(Backend **out, const char *name, Pool *pool, const char *isa, Error *err);
void backend_close(Backend *be);
bool backend_on_host(const Backend *be);    /* do its tensors live in host memory? */
/* BF16 for all models opened from now on: cpu and cuda. */
bool backend_set_dtype(Backend *be, DType dtype, Error *err);
const char *backend_isa(const Backend *be);     /* "scalar", "avx2", "avx512", "amx"; "ref" for ref; "sm_90" for cuda */

/* Whose bits a backend opened by that name and isa computes under dtype: "" those of all its instruction sets, or the name
 * of the one that sums in an order of its own: "amx" under BF16. Part of what a result follows from. */
const char *backend_bits(const char *name, const char *isa, DType dtype);

/* Names of the backends that this build can open, with sep between them. */
void backend_names(char *out, size_t n, const char *sep);
/* Why this build cannot open a backend of that name and how to get one that can; NULL: it can. */
const char *backend_absent(const char *name);
/* What a backend finds on this machine, one call of say per thing: state 0 fine, 1 worth a warning, 2 it cannot work so;
 * fix: what to do about it, or NULL. Opens nothing that stays open. */
typedef void BackendSay(void *ud, int state, const char *what, const char *fix, const char *value);
void backend_probe(const char *name, BackendSay *say, void *ud);
/* The same of an open one, under its dtype. */
void backend_tell(const Backend *be, BackendSay *say, void *ud);

/* How busy the device is that a backend computes on; be: a Backend. Any one thread at a time may ask while another computes, so it
 * is a LoadProbe. False: host memory and host processors are all there is, or nobody can tell (no NVML). */
bool backend_load(void *be, LoadDevice *out);

/* Waits until all ops called so far are through, for clocks: those of cpu and ref are when they return. */
void backend_wait(Backend *be);
bool backend_queues(const Backend *be);     /* does backend_wait have anything to wait for? */

/* A sequence of ops that comes again with the same tensors and numbers, but for the contents of some host arrays: decoding.
 * key: all bytes that the sequence follows from, the arrays' addresses and contents apart. _begin, true: the backend made all of
 * it from a recording, the caller skips its ops. False: the caller makes them, then calls _end, and makes them once more, for
 * good, when that is false: they were to be recorded, and could not be. Inside, no op may return a value. cpu and ref record
 * nothing. */
typedef struct { const int32_t *host; int64_t n; } HostArray;
bool backend_replay_begin(Backend *be, const void *key, size_t n_key, const HostArray *array, int n_array);
bool backend_replay_end(Backend *be);

/* Floating-point operations that load nothing, on all threads of the pool: returns how many were made (a multiply-add is
 * two), so that a benchmark that times it knows the machine's peak. 0: this backend has none. */
double backend_spin(Backend *be);

/* Room of be->host. Zeroed is valid and empty. host_room: at least so many bytes from now on; what was in it is lost when it
 * grows. CHECKs where there is no memory. */
typedef struct { unsigned char *at; size_t bytes; } HostRoom;
void host_room(Backend *be, HostRoom *r, size_t bytes);
void host_room_release(Backend *be, HostRoom *r);

/* Host side of tensors, any layout, with conversion: double holds every F32 and F64 exactly. In order with the ops; when one
 * returns, its host array may change. Everything outside backends that reads or writes a tensor's elements goes this way. be
 * may be NULL for tensors in host memory. */
void tensor_get(Backend *be, double *out, Tensor x);        /* out: rows*cols, contiguous */
void tensor_set(Backend *be, Tensor y, const double *in);
void tensor_get_f32(Backend *be, float *out, Tensor x);
void tensor_set_f32(Backend *be, Tensor y, const float *in);
void tensor_set_bf16(Tensor y, const unsigned char *in);    /* y: panels of BF16 in host memory; in: rows*cols of BF16, little-endian */
/* The same of columns: element (i, j) is number j*ld + i of in. */
void tensor_set_columns_bf16(Tensor y, const unsigned char *in, int64_t ld);
void tensor_set_columns_f32(Tensor y, const float *in);     /* y in host memory; in: its columns one after another, cols*rows */
/* The cheapest way to the host: bytes of tensor_storage(x), rows next to each other; and from them, later and without the backend,
 * the elements row-major in their own dtype. like: x, of which only shape, dtype and panels are looked at. */
size_t tensor_raw_bytes(Tensor x);
void tensor_get_raw(Backend *be, void *out, Tensor x);
void tensor_raw_rows(void *out, const void *raw, Tensor like);
void tensor_set_rows(Backend *be, Tensor y, const void *in);    /* elements row-major in y's dtype, aligned */
void tensor_get_row(Backend *be, double *out, Tensor x, int64_t i);     /* out: cols; a row inside a panel too */
void tensor_set_row(Backend *be, Tensor y, int64_t i, const double *in);

#ifdef __cplusplus
}
#endif

#endif
