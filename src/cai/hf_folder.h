/* cai/hf_folder.h — what a model folder holds beside weights and tokenizer.json for programs that open it by name:
 * generation_config.json, tokenizer_config.json and, with a template, chat_template.jinja (which wins over the key of
 * tokenizer_config.json: both are written, equal). */
#ifndef DIKAST_CAI_HF_FOLDER_H
#define DIKAST_CAI_HF_FOLDER_H

#include "nn/model.h"
#include "text/tokenizer.h"

typedef struct {
    const Tokenizer *tok;
    ModelTokens tokens;
    int max_seq;
    const char *chat_template;  /* Jinja; NULL: none is written */
} HfExtras;
bool hf_extras_write(const char *dir, const HfExtras *x, Error *err);
/* A folder's chat template: chat_template.jinja, else the key of tokenizer_config.json (of several the default); empty without. */
bool hf_template_read(Str *out, const char *dir, Error *err);

#endif
