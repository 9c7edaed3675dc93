/* nn/gguf.h — the container of GGUF version 3: pairs of key and value, tensors, in that order, little-endian.
 *
 *   "GGUF" u32 3, u64 tensors, u64 pairs | key, u32 type, value .. | name, u32 dims, u64 dim fastest first .., u32 type,
 *   u64 offset .. | zeros up to the alignment | data, every tensor at a multiple of the alignment
 *
 * The reader maps the file and never trusts a length: what does not fit in the bytes behind it, duplicate keys and names,
 * unknown types, overlapping or misaligned tensors are errors that name the pair or the tensor. What the pairs of a model
 * mean is gguf_model.h's. */
#ifndef DIKAST_NN_GGUF_H
#define DIKAST_NN_GGUF_H

#include "base/io.h"

/* X(name, number in files, bytes; 0: of no fixed size) */
#define GGUF_VALUES(X)                                                                                                 \
    X(U8, 0, 1) X(I8, 1, 1) X(U16, 2, 2) X(I16, 3, 2) X(U32, 4, 4) X(I32, 5, 4) X(F32, 6, 4) X(BOOL, 7, 1)             \
    X(STR, 8, 0) X(ARRAY, 9, 0) X(U64, 10, 8) X(I64, 11, 8) X(F64, 12, 8)
typedef enum {
#define X(name, number, bytes) GGUF_##name = number,
    GGUF_VALUES(X)
#undef X
    GGUF_VALUE_COUNT
} GgufValue;

/* X(name, number in files, elements of a block, bytes of a block) */
#define GGUF_TYPES(X) X(F32, 0, 1, 4) X(F16, 1, 1, 2) X(Q8_0, 8, 32, 34) X(BF16, 30, 1, 2)
typedef enum {
#define X(name, number, elements, bytes) GGUF_TYPE_##name,
    GGUF_TYPES(X)
#undef X
    GGUF_TYPE_COUNT
} GgufType;
enum { GGUF_MAX_NAME = 64, GGUF_MAX_DIM = 4, GGUF_ALIGNMENT = 32 };

const char *gguf_type_name(GgufType t);
int64_t gguf_row_bytes(GgufType t, int64_t cols);   /* -1: cols is no multiple of the block */
/* One row of cols elements, both ways. Storing returns how many finite x the type cannot hold (F16). Q8_0: blocks of 32,
 * d = max|x|/127 as F16, then x/d to the nearest whole number, halves away from 0. */
void gguf_load_row(float *out, const unsigned char *in, GgufType t, int64_t cols);
int64_t gguf_store_row(unsigned char *out, const float *x, GgufType t, int64_t cols);

/* -- reading ---------------------------------------------------------------------------------------------------------- */
typedef struct { const char *s; size_t n; } GgufStr;        /* in the mapping; no NUL behind it */
typedef struct {
    GgufStr key;
    GgufValue type, item;       /* item: of an array */
    uint64_t n;                 /* items of an array */
    const unsigned char *value; /* of an array: its first item */
} GgufPair;
typedef struct {
    GgufStr name;
    GgufType type;
    int n_dim;
    int64_t dim[GGUF_MAX_DIM];  /* our order: slowest first */
    const unsigned char *data;
    size_t bytes;
} GgufTensor;
typedef struct {
    IoMap map;
    GgufPair *pair;             /* by key */
    int64_t n_pair;
    GgufTensor *tensor;         /* by name */
    int64_t n_tensor;
} GgufFile;

bool gguf_open(GgufFile *f, const char *path, Error *err);
bool gguf_parse(GgufFile *f, const void *p, size_t n, const char *name, Error *err);    /* borrowed memory; the fuzz entry */
void gguf_close(GgufFile *f);
const GgufPair *gguf_find(const GgufFile *f, const char *key);                          /* NULL when absent */
const GgufTensor *gguf_find_tensor(const GgufFile *f, const char *name);
/* Scalars of any width that hold the value exactly; false when absent or of another kind. */
bool gguf_int(const GgufPair *p, int64_t *out);
bool gguf_num(const GgufPair *p, double *out);
bool gguf_bool(const GgufPair *p, bool *out);
bool gguf_str(const GgufPair *p, GgufStr *out);
/* Strings of an array one after another: *at begins as p->value; call at most p->n times. */
GgufStr gguf_next_str(const unsigned char **at);
int64_t gguf_item_int(const GgufPair *p, uint64_t i);       /* of an array of whole numbers; 0 for other kinds */

/* -- writing ---------------------------------------------------------------------------------------------------------- */
typedef struct {
    char name[GGUF_MAX_NAME + 1];
    GgufType type;
    int n_dim;
    int64_t dim[GGUF_MAX_DIM];  /* our order */
    uint64_t offset, bytes;
} GgufOutTensor;
typedef struct { Str pairs; uint64_t n_pair; GgufOutTensor *tensor; int n_tensor, cap; uint64_t end; } GgufOut; /* zeroed is empty */
void gguf_put_u32(GgufOut *g, const char *key, uint32_t v);
void gguf_put_f32(GgufOut *g, const char *key, float v);
void gguf_put_bool(GgufOut *g, const char *key, bool v);
void gguf_put_str(GgufOut *g, const char *key, const char *s, size_t n);
void gguf_put_array(GgufOut *g, const char *key, GgufValue item, uint64_t n);   /* n calls of one of these follow: */
void gguf_item_put_str(GgufOut *g, const char *s, size_t n);
void gguf_item_put_i32(GgufOut *g, int32_t v);
void gguf_item_put_f32(GgufOut *g, float v);
void gguf_put_tensor(GgufOut *g, const char *name, GgufType type, const int64_t *dim, int n_dim);
/* put writes tensor i's bytes. The file appears when it is complete. */
typedef bool GgufPut(void *ud, const GgufOutTensor *t, int i, Writer *w, Error *err);
bool gguf_write(const char *path, const GgufOut *g, GgufPut *put, void *ud, Error *err);
void gguf_out_release(GgufOut *g);

#endif
