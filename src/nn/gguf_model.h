/* nn/gguf_model.h — a model in a GGUF file: pairs that describe it, tensors by llama.cpp's names. The vocabulary's pairs
 * are the caller's.
 *
 * Llama's q and k (weights and biases) have their rows permuted, half-split to interleaved, because that program turns
 * neighbours; other families are as they are. Vectors are F32 whatever the type, and so are GPT-2's positions. A tied
 * head is left out. */
#ifndef DIKAST_NN_GGUF_MODEL_H
#define DIKAST_NN_GGUF_MODEL_H

#include "nn/gguf.h"
#include "nn/model.h"

const char *gguf_architecture(Family f);    /* "llama": Mistral too */
/* What the file cannot say, by name: ERR_CONFIG. */
bool gguf_can_hold(const ModelConfig *c, Error *err);
/* Positions within which the written model and ours look back equally far: windows have no key. */
int gguf_context(const ModelConfig *c);
void gguf_put_config(GgufOut *g, const ModelConfig *c);
/* Adds the tensors and writes the file. Matrices as `type`, or F16 where Q8_0's blocks do not fit the columns. */
bool gguf_write_model(const char *path, GgufOut *g, Net n, GgufType type, Error *err);

/* Strict as model_open: missing, surplus and mis-shaped tensors are errors that name them. HEAD_LM. */
bool gguf_model_open(Model *m, Head *h, Backend *be, const GgufFile *f, Error *err);

#endif
