/* app/export.h — a model folder written for other programs. */
#ifndef DIKAST_APP_EXPORT_H
#define DIKAST_APP_EXPORT_H

#include "app/open.h"
#include "nn/gguf.h"

/* Weights and config.json by net_save_as, and what else the source folder holds for those that load it; what it lacks
 * is made from its ids. */
bool export_hf(const OpenModel *m, const char *out, const SaveOptions *o, Error *err);

/* Is what is to be written the folder that is read? */
bool same_folder(const char *dir, const char *out);

/* One GGUF file, with the vocabulary of the folder's tokenizer.json and its chat template. pre: name of the
 * pre-tokenizer; NULL: known by its pattern. */
bool export_gguf(const OpenModel *m, const char *out, GgufType type, const char *pre, Log *log, Error *err);
/* Tokens, their types and the pre-tokenizer of a file against the folder's. */
bool export_gguf_check(const OpenModel *m, const GgufFile *f, Log *log, Error *err);

#endif
