/* tensor/cuda/attn_int.h — what the attention files share.
 *
 *   attn.cu           the two ops: checks, who goes which way, lists of tiles, rounding to BF16
 *   attn_simt.cu      F32 arithmetic, forward; attn_simt_bwd.cu: backward. What runs when be->dtype is F32, and for d_head > 128
 *   attn_mma.cu       tensor cores, forward; attn_mma_bwd.cu: backward. What runs when be->dtype is BF16
 *   attn_wgmma.cu     the same on compute capability 9.0, d_head 64 and 128; attn_wgmma_bwd.cu: backward; attn_check.c: before its first use
 *   attn_decode.cu    BF16 mode, few queries against many keys
 *
 * The host cuts the packed sequences into tiles of query (or key) rows, one a block for each head, those with most work first,
 * and sends the list; a tile never spans two sequences, and begins at a multiple of its size from its sequence's first row, so
 * what happens to a row does not depend on the rest of the batch. */
#ifndef DIKAST_TENSOR_CUDA_ATTN_INT_H
#define DIKAST_TENSOR_CUDA_ATTN_INT_H

#include "tensor/cuda/cuda_int.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    ATTN_MMA_HEAD = 128,    /* the widest head that tensor core kernels take */
    ATTN_SIMT_SPLIT = 512,  /* keys of one partial sum, from position 0 on; F32 mode */
    ATTN_MMA_SPLIT = 256,   /* BF16 mode, decoding only */
    ATTN_FEW = 16           /* query rows up to which a sequence is decoded */
};

/* Rows of heads side by side, as kernels see them. */
typedef struct {
    void *p;
    int64_t ld;     /* elements */
    bool half;      /* BF16, else F32 */
    bool vec;       /* every head of every row begins at a multiple of 16 bytes and is a multiple of 16 bytes wide */
} AttnMat;

/* Query rows of one sequence; row i of them sees positions < end, or, when causal, < end + i. */
typedef struct { int32_t row, n, end, page; } AttnTile; /* first row of q; count; keys; where its pages begin in AttnFwd.page */

/* Rows of one sequence in training layout, where position p is row begin + p of everything. */
typedef struct { int32_t begin, len, first, pad; } AttnSpan; /* the sequence's first row and length; the tile's position */

typedef struct {
    AttnMat q, k, v, o;
    float *lse;             /* NULL: not wanted */
    int64_t lse_ld;
    const int32_t *page;    /* K/V row of each page of each sequence */
    const AttnTile *tile;
    const int32_t *q_off, *kv_len;  /* decoding: of all sequences; those with more than ATTN_FEW queries are others' */
    float *part, *stat;     /* decoding, F32 sums of splits: (S, n_split, K, n_row, d_head) and (S, n_split, K, n_row, 2) */
    int32_t max_page, n_split, n_row; /* decoding: page's columns; splits and (query, head of its group) pairs, at most */
    int32_t n_head, n_kv, d_head, window; /* window: a large number when there is none */
    bool causal;
    float scale;            /* 1/sqrt(D) */
} AttnFwd;

typedef struct {
    AttnMat q, k, v, d_o, dq, dk, dv;
    const float *lse, *delta; /* (H, N); lse in units of the exponential that the kernels use */
    const AttnSpan *span;
    int64_t n;              /* N */
    int32_t n_head, n_kv, d_head, window;
    bool causal;
    float scale;
} AttnBwd;

/* n blocks' worth of tiles each; a's pointers are device pointers. */
void attn_simt_fwd(Backend *be, AttnFwd a, int n_tile);
void attn_simt_decode(Backend *be, AttnFwd a, int n_seq);
void attn_simt_bwd_keys(Backend *be, AttnBwd a, int n_span);    /* dk, dv of tiles of keys */
void attn_simt_bwd_queries(Backend *be, AttnBwd a, int n_span); /* dq of tiles of queries */
void attn_mma_fwd(Backend *be, AttnFwd a, int n_tile);          /* k, v: BF16 with vec */
void attn_mma_decode(Backend *be, AttnFwd a, int n_seq);        /* k, v: vec, of one type */
void attn_mma_decode_exact(Backend *be, AttnFwd a, int n_seq);  /* the bits of attn_mma_fwd; k, v: BF16 with vec */
/* Shared memory of a block that attn_mma_decode asks for, and all other attn_mma_*, at most. */
size_t attn_mma_decode_shared(bool half);
size_t attn_mma_shared(int d_head);
void attn_mma_bwd_keys(Backend *be, AttnBwd a, int n_span);     /* dk, dv; q, k, v, d_o: BF16 with vec */
void attn_mma_bwd_queries(Backend *be, AttnBwd a, int n_span);  /* dq */

/* Rows of a tile of each of them. */
enum { ATTN_SIMT_ROWS = 64, ATTN_MMA_ROWS = 128 };
int attn_mma_bwd_rows(int d_head);

/* The same for compute capability 9.0, d_head 64 and 128; q, k, v, d_o: BF16 with vec. All tiles have ATTN_WGMMA_ROWS rows. */
enum { ATTN_WGMMA_ROWS = 128 };
void attn_wgmma_fwd(Backend *be, AttnFwd a, int n_tile);
void attn_wgmma_bwd_keys(Backend *be, AttnBwd a, int n_span);
void attn_wgmma_bwd_queries(Backend *be, AttnBwd a, int n_span);

#ifdef __cplusplus
}
#endif

#endif
