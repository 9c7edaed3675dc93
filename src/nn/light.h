/* nn/light.h — a net that holds the matrices of another one in fewer bytes, for generation: decoding is bound by the bytes
 * of weights it reads. Everything else (embeddings that are looked up, norms, biases) is borrowed. Activations stay as
 * they are, so only the weights are rounded: BF16, or 8-bit whole numbers with one scale for each output (quantize in
 * tensor/backend.h). Log-probs are those of the rounded net, not of the other one. */
#ifndef DIKAST_NN_LIGHT_H
#define DIKAST_NN_LIGHT_H

#include "nn/model.h"

typedef struct {
    Model trunk;        /* no gradients; lends from.trunk's tensors */
    Head head;
    Adapter *adapter;   /* from's own: small, so it stays as it is */
    DType dtype;
    uint64_t version;   /* of the weights it was rounded from */
    Arena mem;
} LightNet;

/* from: a language model whose dtype is its backend's real one; outlives the light net. dtype: DTYPE_BF16 or DTYPE_I8. */
bool light_open(LightNet *l, Net from, DType dtype, Error *err);
void light_update(LightNet *l, Net from);       /* rounds again if from's version has changed */
void light_release(LightNet *l);
static inline Net light_net(LightNet *l) { return (Net){&l->trunk, &l->head, l->adapter}; }

#endif
