/* nn/model.h — the transformer: configuration, weights, activations, one forward and one backward for everything.
 *
 * Rows are packed tokens (N, C), sequences are row ranges, no padding. Training, recomputation, prefill and decoding call
 * net_forward with other memory plans and other row lists; policy, reference, PM and value are the same code with other
 * heads. The trunk's final norm and the head run on chosen rows only.
 *
 *   tokens -> embed -> [block]*L -> gather rows -> norm -> h (R,C) -> head_forward in slices -> out (n, n_out)
 *   dout  -> head_backward in slices -> dh (R,C) -> net_backward -> gradients (+=)
 *
 * A model directory holds config.json (Hugging Face's keys) and model.safetensors; tokenizer.json is copied beside it by
 * the stages. Names in files are the family's (family.c). */
#ifndef DIKAST_NN_MODEL_H
#define DIKAST_NN_MODEL_H

#include "base/json.h"
#include "base/rng.h"
#include "base/str.h"
#include "nn/model_part.h"
#include "tensor/backend.h"

typedef enum { NORM_RMS, NORM_LAYER } NormKind;
typedef enum { POS_ROPE, POS_LEARNED } PosKind;
typedef enum { MLP_SWIGLU, MLP_GELU } MlpKind;
typedef enum { FAMILY_LLAMA, FAMILY_GPT2, FAMILY_MISTRAL, FAMILY_QWEN2, FAMILY_QWEN3, FAMILY_COUNT } Family;

/* How RoPE's frequencies f_j = theta^(-2j/D) are changed for contexts longer than those trained on (rope.c). */
typedef enum { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN } RopeKind;
typedef struct {            /* zeroed: plain */
    RopeKind kind;
    bool no_truncate;       /* yarn: ends of the ramp are not rounded to whole pairs */
    double factor;          /* all but plain */
    double original;        /* llama3, yarn: context trained on */
    double low, high;       /* llama3: pairs that turn less often than low over it are divided, more than high kept */
    double beta_fast, beta_slow;    /* yarn: turns over it at the ends of the ramp */
    double attention;       /* yarn: cos and sin are multiplied by it; 0: 0.1 ln(factor) + 1 */
} RopeScaling;

enum { MODEL_MAX_LAYER = 1024 };
typedef struct {            /* a family is a setting of these; family_config.c reads and writes config.json */
    Family family;          /* names in files only; no arithmetic asks it */
    int n_layer, n_head, n_kv_head, d_model, d_head, d_ff, n_vocab, max_seq;
    int window;             /* positions a causal pass looks back, the query's own included; 0: all */
    uint32_t unwindowed[MODEL_MAX_LAYER / 32];  /* bit l: layer l looks back over everything all the same */
    NormKind norm;
    PosKind pos;
    MlpKind mlp;
    GeluKind gelu;
    bool qkv_bias, out_bias, mlp_bias, tied;
    bool qk_norm;           /* each head of q and k has an RMSNorm of its own before rotation */
    double rope_theta, norm_eps;
    RopeScaling rope;
    int eos_id;             /* written as eos_token_id; -1: none */
} ModelConfig;

/* Ids that a model folder names for those who generate or pad; -1: none. */
enum { MODEL_MAX_EOS = 8 };
typedef struct { int bos, pad, n_eos, eos[MODEL_MAX_EOS]; } ModelTokens;

typedef struct {
#define BLOCK_PARAM(field, name, rows, cols, when, init, decay, use, split) Tensor field;
#define MODEL_PARAM(field, name, rows, cols, when, init, decay, use, split)
#include "nn/params.def"
#undef BLOCK_PARAM
#undef MODEL_PARAM
} BlockParams;

typedef struct {
#define BLOCK_PARAM(field, name, rows, cols, when, init, decay, use, split)
#define MODEL_PARAM(field, name, rows, cols, when, init, decay, use, split) Tensor field;
#include "nn/params.def"
#undef BLOCK_PARAM
#undef MODEL_PARAM
    BlockParams *block;     /* (n_layer) */
} ModelParams;

typedef enum { PARAM_VECTOR, PARAM_TABLE, PARAM_MATRIX } ParamUse;
typedef enum { SPLIT_NONE, SPLIT_ROWS, SPLIT_COLS } Split;
typedef enum { INIT_ZERO, INIT_ONE, INIT_NORMAL, INIT_RESID } InitKind;

/* What one forward pass is about. All arrays are host memory, borrowed for the pass (and its backward). */
typedef struct {
    int n_tok;                  /* N */
    const int32_t *tok, *pos;   /* (N), (N): ids; position of each token in its own sequence */
    AttnSeqs seqs;              /* S sequences and the key/value rows each sees */
    const int32_t *kv_row;      /* (N) cache row for each token's K and V, or NULL: no cache (training) */
    int n_row;                  /* R */
    const int32_t *row;         /* (R) distinct ascending rows whose hidden state the head reads */
    /* Without a cache, sequences that begin alike may share the rows of the beginning. seqs then describes n_seen rows as if
     * each sequence were whole: row i of them is the pass's row seen[i], and row home[j] is where row j stands. NULL, NULL:
     * all N rows stand for themselves. Only attention works on n_seen rows; every row gets the same bits either way. */
    int n_seen;
    const int32_t *seen, *home; /* (n_seen), (N): seen[home[j]] = j */
    uint64_t drop;              /* not 0: adapters drop inputs out, by numbers of this pass; equal ones drop the same */
} Batch;

/* Memory plans: train | train, recompute blocks in backward | generate and score. Outputs do not depend on the plan. */
typedef enum { KEEP_ALL, KEEP_INPUTS, KEEP_NONE } Keep;

typedef struct MappedFiles MappedFiles;
struct Model;

/* Told by net_backward that the gradients of turns 0..turn are final (net_turn_of). */
typedef struct { void (*fn)(void *ud, const struct Model *trunk, int turn); void *ud; } GradListener;

typedef struct Model {
    Backend *be;
    ModelConfig cfg, whole;     /* of what is here, of the whole model (nn/model_part.h) */
    ModelPart part;
    DType dtype;                /* of matrices, tables and what products read: be->dtype when it was opened. Vectors, the
                                   residual stream, gradients of parameters, statistics and logits are be->real */
    uint64_t version;           /* raised by every optimizer step, its adapters' too; caches of older ones are not used */
    ModelParams w, dw;          /* dw: empty tensors when opened without gradients */
    BlockParams *scale;         /* (n_layer): of 8-bit matrices, (1, rows) each; empty tensors otherwise, NULL: none has */
    Arena params, grads;
    GradListener listen;        /* fn NULL: nobody; set by who wants to know */
    MappedFiles *mapped;        /* model_open_mapped: until its matrices lie in panels, w is views of these; else NULL */
    double *freq;               /* RoPE frequencies, (d_head/2) */
    double rope_attention;      /* yarn: q and k are multiplied by it when turned; else 1 */
    ModelTokens tokens;         /* read from the folder, written with it */
    Str note;                   /* what is strange in the folder it came from, a line each: values that are not finite */
} Model;

/* LM: V outputs, weight tied to wte or lm_head.weight. SCORE: n_out outputs, score.weight (n_out, C), no bias. */
typedef enum { HEAD_LM, HEAD_SCORE } HeadKind;
typedef struct {
    HeadKind kind;
    int n_out;                  /* outputs that are here: of a divided LM head its share (head_begin) */
    bool tied;                  /* w and dw alias the trunk's wte (a mapped trunk's moves: nn_int.h, net_head_weight), or (copy) */
    bool copy;                  /* are here because the embedding is not: another part's, whose gradients dw is added to */
    Tensor w, dw;
    Tensor scale;               /* of an 8-bit w, (1, n_out) */
    Arena params, grads;
} Head;

/* LoRA: for chosen matrices y += scale * (x a^T) b^T (nn/lora.h). */
typedef struct Adapter Adapter;

/* What a stage calls policy, reference, pm or value; owns nothing. Nets may share a trunk: with adapters the policy is
 * {m, lm, adapter}, its reference {m, lm, NULL}, the PM {m, score, another}. What was opened without gradients is frozen: it
 * is in no optimizer, and costs no more than its weights. */
typedef struct { Model *trunk; Head *head; Adapter *adapter; } Net;

/* Are a net's outputs divided (vocabulary parallel)? head_forward then gives columns [head_begin, head_begin + n_out) of them. */
static inline bool head_divided(Net n) { return n.head && n.head->kind == HEAD_LM && n.trunk->part.tp_n > 1; }
static inline int64_t head_begin(Net n) { return head_divided(n) ? model_part_begin(&n.trunk->part, n.trunk->whole.n_vocab) : 0; }

typedef struct Acts Acts;       /* activations of one pass; opaque but for the chosen rows: */
typedef struct KvCache {        /* per layer keys and values; row = page * page_rows + position within the page */
    int n_page, n_layer;
    int page_rows;              /* rows from one page to the next: a page's keys and values of all layers lie together */
    Tensor *k, *v;              /* (n_layer) of (.., K*D) */
    Arena mem;
} KvCache;

/* -- configuration and files (family*.c, model_*.c) ---------------------------------------------------------------- */
bool model_config_check(const ModelConfig *c, Error *err);                      /* ERR_CONFIG naming the field */
/* What of whole a part holds. Heads, key/value heads and MLP columns must divide by tp_n; vocabulary rows need not. */
bool model_config_part(ModelConfig *out, const ModelConfig *whole, const ModelPart *part, Error *err);
bool model_config_read(ModelConfig *c, const char *dir, Error *err);            /* dir/config.json */
/* The head that the folder's weights have, by 'architectures' of its config.json; where that is missing, SCORE if it has 'num_labels'. */
bool model_head_kind(HeadKind *kind, const char *dir, Error *err);
bool model_config_parse(ModelConfig *c, const char *json, size_t n, const char *name, Error *err);  /* the fuzz entry */
int model_config_window(const ModelConfig *c, int layer);                       /* of one layer */
int64_t model_config_params(const ModelConfig *c);                              /* count, head included once if untied */
/* Weight matrices that take part in a product, for FLOP counts: 6*this + 12*L*d*T per token when training. */
int64_t model_config_matmul_params(const ModelConfig *c);

/* -- life ----------------------------------------------------------------------------------------------------------- */
/* Random weights drawn by full-tensor coordinates from (rng.seed, RNG_INIT), parameter number, element. */
bool model_init(Model *m, Backend *be, const ModelConfig *cfg, uint64_t seed, bool grads, Error *err);
bool model_open(Model *m, Backend *be, const char *dir, bool grads, Error *err);    /* strict: missing, extra, mis-shaped
                                                                                       tensors are errors with names */
/* As model_open without gradients, but ready sooner: where files have matrices as a product can read them (cpu, F32 as F32, none
 * transposed or fused) they are checked and left there, mapped, and the first pass reads them. The next one begins by moving them
 * into panels, which costs what model_open saved, and closes the files. Every pass gives the bits it would give anyway. Files
 * must not change until then. Where files are otherwise this is model_open. */
bool model_open_mapped(Model *m, Backend *be, const char *dir, Error *err);
void model_pack(Model *m);  /* now rather than with the second pass; whoever writes weights calls it */
void model_release(Model *m);
/* The same of what a rank of a mesh holds (nn/model_part.h): of every tensor that is here the values of the whole's, and of files
 * no more is read. mesh NULL: of one rank. ERR_CONFIG where there are more stages than layers (dist.pp) or the model cannot be divided
 * so (dist.tp). A head of a stage that is not the last one is empty: it only knows its kind; a tied one of the last stage, where the
 * embedding is not, is a copy of the first stage's. */
bool model_init_on(Model *m, Backend *be, const ModelConfig *cfg, const Mesh *mesh, uint64_t seed, bool grads, Error *err);
bool model_open_on(Model *m, Backend *be, const char *dir, const Mesh *mesh, bool grads, Error *err);
/* From now on passes that train divide their rows over mesh->cp (NULL: over nobody); trainers say so of what they train. ERR_CONFIG where
 * the backend cannot (dist.cp). */
bool model_share_rows(Model *m, const Mesh *mesh, Error *err);
static inline bool model_is_stage(const Model *m) { return !(m->part.first && m->part.last); }    /* of a pipeline */
static inline bool model_is_whole(const Model *m) { return m->part.first && m->part.last && m->part.tp_n == 1; }
/* n_out: of the whole; LM: m->whole.n_vocab, of which the head has the rows that m has of the embedding. */
bool head_init(Head *h, Model *m, HeadKind kind, int n_out, uint64_t seed, bool grads, Error *err); /* SCORE: N(0, 1/sqrt(C+1)) */
/* Draws the weights of an open head again, times scale: -1 gives the mirror image of what the seed gives, whose scores have the other
 * sign. Not those of a tied head, which are the embedding's. */
void head_draw(Head *h, Model *m, uint64_t seed, double scale);
bool head_open(Head *h, Model *m, HeadKind kind, const char *dir, bool grads, Error *err);
void head_release(Head *h);
/* config.json + model.safetensors, or shards of at most `shard` bytes and their index when there is more; each file atomic.
 * Shards of an earlier save are removed. */
typedef struct {
    const char *dtype;      /* of every tensor: "F32", "BF16", "F16"; NULL: as it is, F32 or BF16, ref's rounded to F32 */
    int64_t shard;          /* 0: 5e9 */
} SaveOptions;
bool net_save(Net n, const char *dir, Error *err);
/* The same of a net in parts: tensor by tensor onto rank 0 of the mesh's world, which writes. Every rank of the world calls it; of its
 * replica (mesh->model) all succeed or all fail. A whole net: net_save by rank 0. */
bool net_save_on(Net n, const Mesh *mesh, const char *dir, Error *err);
/* {"config": config.json's content, "head": "lm" | "score", "outputs", "adapter": {r, alpha, rslora} or null} */
bool net_describe(JsonOut *j, const char *key, Net n, Error *err);
bool net_save_as(Net n, const char *dir, const SaveOptions *o, Error *err);
/* More rows of embedding and head, in place: new ones near the mean of the old, drawn from seed. HEAD_LM. On failure
 * nothing has changed. */
bool net_grow_vocab(Model *m, Head *h, int n_vocab, uint64_t seed, Error *err);
/* Equal shapes, except that `to` may have fewer layers: it gets the first ones, of a part its own. Heads are copied where both nets have one
 * (of one kind); leave the head NULL to copy a trunk only. Adapters: both nets have one of the same matrices and rank, or none
 * has. What the nets share stays. Raises to.trunk->version. */
bool net_copy_weights(Net to, Net from, Error *err);

typedef struct {
    const char *name;           /* in the family's spelling: "model.layers.0.self_attn.q_proj.weight" */
    int layer;                  /* -1: not in a block */
    bool decay;
    InitKind init;
    Tensor w, dw;               /* dw empty without gradients */
    int64_t rows, cols;         /* of the whole tensor, */
    int64_t row, col;           /* where w begins in it */
    int64_t order;              /* ascending in a walk over the whole net */
} ParamInfo;
static inline bool param_divided(const ParamInfo *p) { return p->w.rows < p->rows || p->w.cols < p->cols; }
typedef void ParamVisitor(void *ud, int index, const ParamInfo *p);
int net_visit(Net n, ParamVisitor *fn, void *ud);       /* trunk, untied head, adapter; fixed order; returns the count */
int net_visit_own(Net n, ParamVisitor *fn, void *ud);   /* what is the net's alone: of one with an adapter that, and a scoring head */
bool net_trains(Net n);                                 /* has anything gradients? */
void net_zero_grads(Net n);

/* -- passes --------------------------------------------------------------------------------------------------------- */
/* Capacity n_tok tokens, n_row chosen rows. KEEP_NONE has no backward. Acts places itself in arena memory of be->mem. */
bool acts_open(Acts **out, const Model *m, int n_tok, int n_row, Keep keep, Error *err);
void acts_close(Acts *a);
bool acts_share(Acts *a, int n_seen, Error *err);   /* room for batches whose sequences share rows; again: for more */
size_t acts_bytes(const Model *m, int n_tok, int n_row, Keep keep);
/* For another pass of the same capacity that is under way at the same time: room of its own for what its backward reads, work space
 * and output of `first`, which is closed later. So no two of their passes or backwards interleave. */
bool acts_open_beside(Acts **out, const Model *m, Acts *first, Error *err);
/* Context parallel (nn/cut.h): a plan with a backward of a model whose part.cp_n is above 1 has room for this rank's share of n_tok rows, and its
 * passes are made together with the other ranks of part.cp_group: net_forward and net_backward take the whole micro-batch, the same
 * on all. What follows speaks of this rank's rows; acts_own: of which batch that is, b itself where nothing is divided. */
typedef struct Cut Cut;
const Batch *acts_own(Acts *a, const Batch *b);
const Cut *acts_cut(const Acts *a);     /* of the last pass; NULL: not divided */
Tensor acts_hidden(const Acts *a);      /* h (R,C): normed hidden states of the batch's chosen rows, after net_forward */
Tensor acts_dhidden(Acts *a);           /* dh (R,C): zeroed by net_forward under a training plan; head_backward adds */

/* What a part of a model takes from the part before it and hands to the next: the residual stream (N,C), be->real; of N = n_tok
 * tokens a tensor-parallel rank has rows floor(N r/t) to floor(N (r+1)/t), like its neighbours in the pipeline.
 *      acts_input      put there before net_forward (a part that is not the first)
 *      acts_output     after it (a part that is not the last)
 *      acts_gradient   of the output, put there before net_backward; of the input, after it */
Tensor acts_input(Acts *a, int n_tok);
Tensor acts_output(const Acts *a, int n_tok);
Tensor acts_gradient(Acts *a, int n_tok);

/* kv may be NULL (training, scoring: b->kv_row NULL too). With kv: new K and V rows go to b->kv_row, attention reads the
 * cache through b->seqs.kv_page. */
void net_forward(Net n, Acts *a, const Batch *b, KvCache *kv);
/* Uses dh; adds to the gradients of what was opened with some. */
void net_backward(Net n, Acts *a, const Batch *b);
/* When a gradient is final: what is above the blocks and the last block's after turn 0, the block's before it after turn 1, ..., what is
 * below them, and what a sum over tp ends in, after the last one. dw: one of the net's, as net_visit has it. */
int net_turns(Net n);
int net_turn_of(Net n, Tensor dw);
/* Head on chosen rows [first, first+out.rows): out (rows, n_out). Any slicing gives the same bits. */
void head_forward(Net n, const Acts *a, int first, Tensor out);
/* dh[first..] += dout w, head.dw += dout^T h; dout is used up. Of divided outputs dh is this rank's part until net_backward */
void head_backward(Net n, Acts *a, int first, Tensor dout);

bool kv_open(KvCache *kv, const Model *m, int n_page, Error *err);
void kv_release(KvCache *kv);
size_t kv_page_bytes(const Model *m);

#endif
