/* nn/ckpt_int.h — what the files of checkpoints share. */
#ifndef DIKAST_NN_CKPT_INT_H
#define DIKAST_NN_CKPT_INT_H

#include "nn/ckpt.h"
#include "nn/safetensors.h"

#define CKPT_FORMAT "dikast-ckpt/1"
#define CKPT_RECORD "dikast-ckpt-shard/1" /* shard-i.json: a manifest of one file */
enum { CKPT_MAX_MANIFEST = 256 << 20 };

void ckpt_step_name(char out[32], int64_t step); /* "step-00001200" */
bool ckpt_step_number(int64_t *step, const char *name);
void ckpt_shard_name(char out[64], int rank, int n_ranks);
void ckpt_join(Str *out, const char *a, const char *b);

/* Sections are taken from text, or from nodes where text is NULL; what is NULL in both is {}. */
typedef struct {
    const CkptManifest *m;
    const char *format;
    const char *const *text; /* (CKPT_SECTIONS) or NULL */
    double metric;
} CkptPut;
bool ckpt_manifest_put(Str *out, const CkptPut *p, Error *err);
bool ckpt_record_parse(CkptManifest *m, const char *text, size_t n, const char *name, Error *err);
double ckpt_manifest_metric(const CkptManifest *m);

/* One shard: a safetensors file written box by box. */
typedef struct {
    const char *name; /* of the tensor */
    CkptKind kind;
    DType dtype;
    int n_dim;
    int64_t shape[BOX_DIMS];
    Box box;
} CkptPart;
/* A part's elements row-major, `bytes` of them. */
typedef bool CkptFill(void *ud, int part, void *out, Error *err);
/* Writes path (c3, c4) and describes it: file number 0 of m, tensors and boxes. m: zeroed, released by the caller. */
bool ckpt_shard_write(CkptManifest *m, const char *path, const CkptPart *part, int n, CkptFill *fill, void *ud, int rank,
                      int64_t step, Error *err);
/* Adds what one shard holds to a manifest under way. */
void ckpt_manifest_merge(CkptManifest *to, const CkptManifest *shard);
void ckpt_manifest_sort(CkptManifest *m);

/* ckpt_commit.c: everything after the copy. */
typedef struct {
    int64_t step, parent;
    const CkptPart *part;
    int n_part;
    CkptFill *fill;
    void *ud;
    const char *const *section;
    double metric;
    Appender *first;
} CkptCommit;
bool ckpt_commit(const CkptConfig *c, const CkptCommit *s, int64_t *bytes, Error *err);
bool ckpt_sweep(const char *dir, Error *err);   /* tmp.*, trash.* */
void ckpt_retain(const CkptConfig *c);          /* c12 */
/* dir/step-x becomes dir/bad.step-x; said in the log. */
void ckpt_set_aside(const char *dir, const char *name, const char *why, Log *log);

#endif
