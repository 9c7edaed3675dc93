/* nn/lora.h — LoRA (Hu et al. 2021): beside a frozen matrix W (M,K) two small ones are trained,
 *
 *      y = x W^T + scale (x A^T) B^T        A (r,K)  B (M,r)      scale = alpha / r, rsLoRA (Kalajdzievski 2023): alpha / sqrt(r)
 *
 * A starts uniform in +-1/sqrt(K), B as zero: a new adapter changes nothing. An adapter belongs to a trunk, which others may
 * use with another adapter or none. Its tensors have the trunk's dtype; biases, norms and embeddings have no adapter.
 *
 * In passes that say so (Batch.drop) an adapter with gradients reads dropout(x) in place of x: elements are 0 with probability
 * p, the others divided by 1 - p (Srivastava et al. 2014). Each matrix has a mask of its own, as a module of PEFT's has; a fused
 * one has one. A mask follows from (seed, pass, layer, matrix, row, column) alone: a block that is run again for the backward
 * drops the same. p is rounded to a multiple of 2^-16.
 *
 * Files are PEFT's: adapter_config.json and adapter_model.safetensors, names of the family's modules behind
 * "base_model.model.", a scoring head among them. A fused matrix (gpt2's c_attn) has one A and one B of all its rows. */
#ifndef DIKAST_NN_LORA_H
#define DIKAST_NN_LORA_H

#include "nn/model.h"

typedef struct {
    int r;
    double alpha;
    bool rslora;
    double dropout;             /* 0 <= p < 1 */
    /* Modules by name or by the end of it: "q_proj", "mlp.c_proj"; by a pattern that the whole name matches, as PEFT takes one:
     * ".*[.](q|v)_proj", told from a name by any of *+?()[]{}|\^$; or one "all-linear": every matrix of every layer */
    const char *const *target;
    int n_target;
    const char *base;           /* base_model_name_or_path: the trunk's folder; NULL: none */
} LoraConfig;

/* Drawn by coordinates from seed. Targets that no module answers to are errors that list the modules. */
bool adapter_init(Adapter **out, Model *m, const LoraConfig *c, uint64_t seed, bool grads, Error *err);
/* A folder of PEFT's. Strict: a tensor without a place, a pair's missing half, another shape than the trunk's, and every
 * option that would change what is computed are errors with names. m->note gets what is strange. */
bool adapter_open(Adapter **out, Model *m, const char *dir, bool grads, Error *err);
/* The same values, for n's trunk. */
bool adapter_clone(Adapter **out, Net n, bool grads, Error *err);
void adapter_close(Adapter *a);                                     /* NULL is fine */
/* The net's adapter and, of a scoring net, its head. */
bool adapter_save(Net n, const char *dir, Error *err);
/* What adapter_save wrote, into an equal net. Nothing has changed on failure but, perhaps, values. */
bool adapter_load(Net n, const char *dir, Error *err);

/* What a folder says of itself; zeroed is released. */
typedef struct { Str base; HeadKind head; } AdapterInfo;
bool adapter_info(AdapterInfo *out, const char *dir, Error *err);
/* The scoring head that lies with an adapter. */
bool adapter_head_open(Head *h, Model *m, const char *dir, bool grads, Error *err);

/* W += scale B A in the trunk, in F32, and B = 0: the net computes the same, to rounding, without its adapter too. Nets that
 * share the trunk are changed with it. Raises the trunk's version. */
void net_merge(Net n);

bool adapter_is_new(const Adapter *a);                              /* every B is zero: the net is its trunk */
int64_t adapter_params(const Adapter *a);                           /* numbers in A and B */
size_t adapter_bytes(const Adapter *a);                             /* of its tensors, gradients and work space */
const LoraConfig *adapter_config(const Adapter *a);                 /* without targets */

#endif
