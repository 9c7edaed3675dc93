/* nn/nn_int.h — what the files of nn/ share: the numbered walk over params.def, names in files, activations. */
#ifndef DIKAST_NN_NN_INT_H
#define DIKAST_NN_NN_INT_H

#include "dist/rowshare.h"
#include "nn/cut.h"
#include "nn/lora.h"
#include "nn/model.h"
#include "nn/safetensors.h"

/* One number per row of params.def. Part of results: initial weights are drawn from (number, layer), so rows are
 * appended, never reordered. */
typedef enum {
#define BLOCK_PARAM(field, name, rows, cols, when, init, decay, use, split) PARAM_##field,
#define MODEL_PARAM(field, name, rows, cols, when, init, decay, use, split) PARAM_##field,
#include "nn/params.def"
#undef BLOCK_PARAM
#undef MODEL_PARAM
    PARAM_COUNT,
    PARAM_head = 63, /* the untied head's number */
} ParamNumber;
enum { PARAM_NAME_MAX = 128 };

typedef struct {
    ParamNumber number;
    int layer; /* -1: not in a block */
    int64_t rows, cols;
    InitKind init;
    bool decay;
    ParamUse use;
    Split split;
    const char *suffix; /* as in params.def */
    Tensor *w, *dw;     /* slots in the structs walked; NULL where no struct was given */
} ParamSlot;
typedef void SlotVisitor(void *ud, const ParamSlot *slot);

/* Every parameter that exists under c: blocks in order, then the model's own. w and dw may be NULL. */
void params_walk(const ModelConfig *c, ModelParams *w, ModelParams *dw, SlotVisitor *fn, void *ud);
/* Of those the ones that a part has; c: of the part, layers numbered as in the whole. */
void params_walk_part(const ModelConfig *c, const ModelPart *part, ModelParams *w, ModelParams *dw, SlotVisitor *fn,
                      void *ud);
/* dtype: of matrices and tables */
bool params_open(ModelParams *p, Arena *arena, Backend *be, DType dtype, const ModelConfig *c, const ModelPart *part,
                 const char *what, Error *err);
void params_release(ModelParams *p, Arena *arena);
/* Shapes, memory, RoPE frequencies; the weights themselves undefined, gradients zero. */
bool model_alloc(Model *m, Backend *be, const ModelConfig *cfg, bool grads, Error *err);
bool model_alloc_on(Model *m, Backend *be, const ModelConfig *cfg, const Mesh *mesh, bool grads, Error *err);
/* n_out: outputs that are here. */
bool head_params_open(Head *h, Model *m, HeadKind kind, int n_out, bool grads, Error *err);
/* Of which whole tensor one is a part, and where it begins there. */
typedef struct {
    int64_t rows, cols, row, col;
} TensorPlace;
TensorPlace model_place(const Model *m, const ParamSlot *s);
TensorPlace head_place(const Model *m, const Head *h);

/* How a family writes one parameter: `part` of n_part pieces, side by side along the output dimension; transposed: (in,
 * out). */
typedef struct {
    char name[PARAM_NAME_MAX];
    bool transposed;
    int part, n_part;
} FileName;
void family_file_name(FileName *out, Family f, const ParamSlot *slot);
void family_head_name(char out[PARAM_NAME_MAX], HeadKind kind);
/* The module that holds a matrix: "model.layers.0.self_attn.q_proj", and its part there. */
void family_module_name(FileName *f, Family family, const ParamSlot *slot);
void family_param_name(char out[PARAM_NAME_MAX], Family f, const ParamSlot *slot); /* unique, also for fused parts */
const char *family_model_type(Family f);
bool family_find(Family *f, const char *model_type, Error *err);
const char *family_class(Family f, HeadKind kind);
bool family_ignores(Family f, const char *name);     /* buffers old checkpoints carry: causal masks, RoPE tables */
const char *family_prefix(Family f);                 /* of trunk names; some files leave it out */
bool family_check(const ModelConfig *c, Error *err); /* does the family's config.json have a key for every feature? */
/* dtype: safetensors' name. Every feature has a key: family_check. */
void family_config_write(Str *out, const ModelConfig *c, const ModelTokens *t, const char *dtype, HeadKind kind, int n_out);
void model_tokens_init(ModelTokens *t, int eos); /* eos -1: none */
/* bos, eos (one or many) and pad of config.json, then of generation_config.json, whose eos win. Ids outside the vocabulary
 * are no error: library defaults stand in the files of small models. note gets a line for each. */
bool model_tokens_read(ModelTokens *t, Str *note, const char *dir, int n_vocab, Error *err);

int64_t param_order(int layer, ParamNumber number);  /* ParamInfo.order; layer of the whole net, -1: not in a block */

/* The head's matrix, where it lies now. */
static inline Tensor net_head_weight(Net n) { return n.head->tied && !n.head->copy ? n.trunk->w.wte : n.head->w; }

/* model_io.c: a pass of a mapped model begins; its own, when it ends before it was packed. */
void mapped_pass(Model *m);
void mapped_close(Model *m);

/* rope.c */
void rope_frequencies(double *freq, const ModelConfig *c); /* (d_head/2) */
double rope_attention(const ModelConfig *c);

/* model_io.c: a tensor of a file, as its parameter, which is the part of it at `at` (NULL: the whole). Where values are not
 * finite, *note says so. */
void load_tensor(Backend *be, Tensor w, const TensorPlace *at, const StEntry *e, const FileName *f, Str *note);
/* File dimensions of a parameter's tensor: all parts of a fused one; a (1, C) row is a vector. Returns their number. */
int file_dims(int64_t dim[2], const FileName *f, int64_t rows, int64_t cols);
bool load_check(const StEntry *e, const int64_t *dim, int n_dim, Error *err); /* shape, and a dtype that we read */

/* Attention's view of a pass whose sequences share rows, one for all blocks: (n_seen, ...) copies of the rows, and in the
 * backward their gradients before those of one row are added up. */
typedef struct {
    Tensor q, k, v, o, lse;
    Tensor dq, dk, dv, d_o;
} SeenActs;

/* A gradient of which every rank has a part: the weight's own, and this rank's. */
typedef struct {
    const Tensor *dw;
    Tensor part;
} TpGrad;

/* What a pass of a model that is divided over tensor-parallel ranks needs beside (tp.c). */
typedef struct {
    RowShare room;
    Tensor part;            /* (N, C) a rank's part of a sum; rows of all */
    Tensor grads;           /* (1, all parts' elements); empty without gradients */
    TpGrad *grad;
    int n_grad;
    int64_t *tok, *row;     /* (t+1) whose the pass's tokens are, and its chosen rows: those of its tokens */
    int32_t *at;            /* (own chosen rows) where they are among the own tokens */
    int32_t *place, *id;    /* (N) */
    HostRoom host;          /* one sum of grads, and what it needs beside */
} TpWork;

/* And of a pass whose rows are divided over context-parallel ranks (cp.c). */
typedef struct {
    Tensor k, v, dk, dv;         /* (rows of the whole, K*D) of all ranks, of one layer */
    HostRoom room;
    unsigned char *host, *spare; /* in it: what travels */
    int64_t *count;              /* (n_rank) */
    int n_rank;
} CpWork;

/* Activations of one block. Under KEEP_ALL every tensor is its layer's own (but see again); under KEEP_INPUTS only x is; under
 * KEEP_NONE nothing is, and x, x_mid and the next block's x are one tensor. N and R are all rows; of x, x_mid and their statistics
 * a rank of a divided model has its own ones only. */
typedef struct {
    Tensor x;            /* (N, C) input of the block */
    Tensor mean1, rstd1; /* (N, 1) statistics of the first norm; mean only for LayerNorm */
    Tensor h1;           /* (N, C) normed input of attention */
    Tensor q_raw, k_raw; /* (N, H*D), (N, K*D) before their norms, and */
    Tensor q_rstd, k_rstd; /* (N*H, 1), (N*K, 1) their statistics; empty without such norms */
    Tensor q, k, v;      /* (N, H*D), (N, K*D), (N, K*D), rotated */
    Tensor o, lse;       /* (N, H*D), (N, H) */
    Tensor o_row;        /* (R, H*D) in the last block, whose other rows below are R, too: nobody reads the rest */
    Tensor o_in;         /* o or, in the last block, o_row as the product reads it; empty where they are of its dtype */
    Tensor x_mid;        /* (N, C) x + attention */
    Tensor mean2, rstd2; /* (N, 1) */
    Tensor h2;           /* (N, C) normed input of the MLP */
    Tensor gate, up;     /* (N, F); gate only for SwiGLU */
    Tensor act;          /* (N, F) input of the down projection */
    SeenActs *seen;      /* the pass's own; used where the batch shares rows */
    TpWork *tp;          /* the pass's own, of a divided model; else NULL */
    Acts *rows;          /* the pass, where its rows are divided; else NULL */
} BlockActs;

typedef struct {            /* backward's work space, one for all blocks */
    Tensor dh;              /* (N, C) gradient of a norm's output */
    Tensor dq, dk, dv, d_o; /* (N, H*D), (N, K*D), (N, K*D), (N, H*D) */
    Tensor dact, dgate;     /* (N, F); dact becomes the gradient of up */
    Tensor dx_in;           /* (N, C) BF16: dx as products read it; else empty */
} BlockGrads;

struct Acts {
    Backend *be;
    const ModelPart *part; /* borrowed of the model */
    ModelConfig cfg;
    Keep keep;
    bool first, last;      /* of the model's part */
    Acts *lender;          /* whose work space this uses; NULL: it has its own */
    bool again;            /* h1, h2 and act are not kept, the backward computes them again */
    bool normed_again;     /* h1 and h2 are not; so always of a divided model, whose ranks keep their own rows */
    DType attn;            /* of what attention reads and writes */
    int max_tok, max_row;
    int64_t own_tok, own_row; /* of them at most this rank's: all, of a model that is not divided */
    int max_all;           /* rows of the whole, where they are divided; else 0 */
    int n_tok, n_row;      /* of the last pass */
    BlockActs *block;      /* (n_layer) */
    Tensor x_row;          /* (R, C) output of the last block: chosen rows only; of a divided model, as x and x_out, own ones */
    Tensor x_out;          /* (N, C) output of the last block of a part that is not the last; else empty */
    Tensor mean, rstd, h;  /* (R, 1), (R, 1), (R, C): final norm */
    Tensor dh, dx_row, dx; /* (R, C), (R, C), (N, C): gradients of h, x_row and the residual stream; the last two of own rows */
    BlockGrads grad;
    Arena mem;
    int max_seen;
    SeenActs seen;
    Arena seen_mem;
    TpWork tp_work, *tp;   /* NULL: the model is not divided; else tp_work, or the lender's */
    CpWork cp;
    CutBuf cut; /* of the last pass */
};

/* The block that works on chosen rows only. */
static inline bool block_chooses(const Model *m, int layer) { return m->part.last && layer + 1 == m->cfg.n_layer; }

/* Of queries, keys, values, attention's output and their gradients. Norms and scales of heads work on F32. */
static inline DType model_attn_dtype(const Model *m) {
    bool half = m->be->attn_half && !m->cfg.qk_norm && m->rope_attention == 1;
    return half ? m->dtype : m->be->real;
}

void acts_resize(Acts *a, const Batch *b); /* rows of every tensor := those of one pass */
CpWork acts_keys(const Acts *a);           /* where keys of all ranks go in this pass */

/* y: all rows; x: own ones, as tp_own says (tp NULL: all). */
void norm_forward(const Model *m, TpWork *tp, bool chosen, Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor w, Tensor b,
                  const char *site);
/* dx +=, of own rows */
void norm_backward(const Model *m, Tensor dx, Tensor dw_acc, Tensor db_acc, Tensor dy, Tensor x, Tensor w, Tensor mean,
                   Tensor rstd);
/* x_out {0}: only what the backward reads, which ends before it. */
void block_forward(Net n, int layer, const BlockActs *a, Tensor x_out, const Batch *b, KvCache *kv);
/* h1, h2 and, with act, act from what is kept, by the ops that made them: the same bits. */
void block_again(const Model *m, int layer, const BlockActs *a, bool act);
/* Where rows are divided: keys and values of all ranks, from what is kept, for the backward. */
void block_keys(const Model *m, const BlockActs *a);
/* dx: gradient of the block's output on entry, of its input on return. The last block's output has chosen rows only: their
 * gradient comes in dx_row, which is used up. */
void block_backward(Net n, int layer, const BlockActs *a, const BlockGrads *g, Tensor dx, Tensor dx_row, const Batch *b);

/* tp.c. w NULL: the model is not divided, own rows are all rows. */
void tp_place(TpWork *w, Arena *mem, const Model *m, int64_t n_tok, bool grads);
void tp_open(TpWork *w, const Model *m); /* once placed in real memory */
void tp_close(TpWork *w);
void tp_cut(TpWork *w, const Batch *b); /* a pass begins: whose are which rows */
/* Own rows of all the pass's chosen rows (chosen) or tokens, and how many of them come before. */
int64_t tp_own(const TpWork *w, bool chosen, int64_t n);
int64_t tp_before(const TpWork *w, bool chosen);
const int32_t *tp_chosen(const TpWork *w, const Batch *b); /* own chosen rows, among the own tokens */
/* all := everybody's own rows. */
void tp_gather(TpWork *w, bool chosen, Tensor all, Tensor own, const char *site);
/* Own rows of the sum of everybody's t; until the next call. */
Tensor tp_sum(TpWork *w, bool chosen, Tensor t, const char *site);
/* x: own tokens; dx: theirs. */
void tp_embed_forward(const Model *m, TpWork *w, Tensor x, const Batch *b);
void tp_embed_backward(const Model *m, TpWork *w, Tensor dx, const Batch *b);
/* Between _begin and _end tp_grad(w, dw) is where this rank's part of that norm's gradient is added up; _end adds everybody's parts to
 * the weights' own gradients. */
Tensor tp_grad(const TpWork *w, const Tensor *dw);
void tp_grads_begin(Model *m, TpWork *w);
void tp_grads_end(Model *m, TpWork *w);

/* cp.c: keys and values of all ranks to w->k and w->v; the gradients of all of them, w->dk and w->dv, to whose rows they are, which become
 * dk and dv: sums over ranks. */
void cp_place(CpWork *w, Arena *mem, const Model *m, DType attn, int64_t n_all);
void cp_open(CpWork *w, const Model *m); /* once placed in real memory */
void cp_close(CpWork *w, Backend *be);
void cp_gather(const Model *m, CpWork *w, const Cut *c, Tensor k, Tensor v);
void cp_scatter(const Model *m, CpWork *w, const Cut *c, Tensor dk, Tensor dv);

/* lora.c. One matrix's pair; empty where it has none. The parts of a fused one share a and da. */
typedef struct {
    Tensor a, b;   /* (r, K), (M, r) of a matrix (M, K) */
    Tensor da, db; /* empty without gradients */
} LoraPair;

struct Adapter {
    Backend *be;
    LoraConfig cfg; /* without targets and base */
    ModelConfig model;
    DType dtype; /* of a and b: the trunk's */
    double scale;
    bool grads;
    Str base;       /* base_model_name_or_path */
    LoraPair *pair; /* (n_layer, PARAM_COUNT), by number */
    int n_rows;     /* of a pass, worked on at once */
    /* (n_rows, r): x a^T and its gradient, as summed and, where products read another dtype, as read; (n_rows, widest): sums
     * of what is stored as BF16, else empty */
    Tensor u, du, u_in, du_in, wide;
    uint64_t seed;
    uint32_t drop;       /* of 65536 inputs; 0 without gradients */
    Tensor x_in, dx_out; /* (n_rows, widest) where inputs are dropped: what a reads, and its gradient; else empty */
    Arena params, grad_mem, work;
};

static inline LoraPair *lora_pair(const Adapter *a, int layer, ParamNumber number) {
    return &a->pair[(size_t)layer * PARAM_COUNT + number];
}

/* y_i += scale * (x a_i^T) b_i^T for those of which[] that the net's adapter has. */
void lora_forward(Net n, int layer, const ParamNumber *which, const LinearOut *out, int n_out, Tensor x, const Batch *b);
/* Of the same: adds to dx and to the gradients of a and b. */
void lora_backward(Net n, int layer, const ParamNumber *which, Tensor dx, const LinearGrad *grad, int n_grad, Tensor x,
                   const Batch *b);

/* Every matrix of the pairs, in net_visit's order. b of a fused matrix is in parts. */
typedef struct {
    char module[PARAM_NAME_MAX];
    bool up; /* b */
    int layer, part, n_part;
    Tensor w, dw;
} LoraPart;
typedef void LoraVisitor(void *ud, const LoraPart *p);
void lora_visit(const Adapter *a, LoraVisitor *fn, void *ud);
void lora_tensor_name(char out[PARAM_NAME_MAX], const LoraPart *p); /* PEFT's */
/* The shortest end of a module's name that no other of its layer answers to: "q_proj", "mlp.c_proj". */
const char *lora_short_name(const ModelConfig *c, const char *module);
/* Has the adapter a pair of this module? */
typedef bool LoraWants(void *ud, const char *module, const ParamSlot *s);
/* Values undefined, gradients zero. */
bool lora_place(Adapter **out, Model *m, const LoraConfig *c, bool grads, LoraWants *wants, void *ud, Error *err);

#endif
