/* nn/safetensors.h — one .safetensors file: strict reader over a mapping, atomic writer. Never trusts a length: holes,
 * overlaps, wrap-around shapes, unknown dtypes, duplicate names and trailing bytes are errors that name the tensor. Nothing
 * but the header is read before somebody looks at data. */
#ifndef DIKAST_NN_SAFETENSORS_H
#define DIKAST_NN_SAFETENSORS_H

#include "base/io.h"
#include "tensor/tensor.h"

typedef struct {
    const char *name, *dtype;   /* as in the file */
    int n_dim;
    const int64_t *dim;         /* (n_dim), at least 8 with zeros behind */
    const unsigned char *data;
    size_t bytes;
} StEntry;
/* entry: by offset; by_name: the same, by name. */
typedef struct { IoMap map; StEntry *entry; const StEntry **by_name; int n; void *impl; } StFile;

bool st_open(StFile *f, const char *path, Error *err);
bool st_parse(StFile *f, const void *p, size_t n, const char *name, Error *err);    /* borrowed memory; the fuzz entry */
void st_close(StFile *f);
const StEntry *st_find(const StFile *f, const char *name);      /* NULL when absent */

typedef struct { const char *name, *dtype; int n_dim; int64_t dim[4]; const void *data; size_t bytes; } StOut;
bool st_write(const char *path, const StOut *t, int n, Error *err);     /* sorted as the format asks; metadata format=pt */
/* What such a file begins with: length and header. order (n): numbers of the tensors as they follow, without gaps; meta: n_meta pairs
 * of key and value for __metadata__. */
void st_head(Str *out, int *order, const StOut *t, int n, const char *const (*meta)[2], int n_meta);
/* The same where data is NULL: put writes tensor i's bytes, one tensor after the other. */
typedef bool StPut(void *ud, const StOut *t, Writer *w, Error *err);
bool st_write_with(const char *path, const StOut *t, int n, StPut *put, void *ud, Error *err);

#endif
