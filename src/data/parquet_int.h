/* data/parquet_int.h — inside the Parquet reader.
 *
 *   parquet_thrift.c   Thrift's compact protocol
 *   parquet_meta.c     footer: schema tree, column chunks
 *   parquet_page.c     pages of one column: headers, unpacking, dictionary, repetition and definition levels
 *   parquet_values.c   values of one page by encoding
 *   parquet_text.c     a value as JSON
 *   parquet.c          rows: the columns' streams put together (Dremel; Melnik et al. 2010, section 4)
 *
 * A column is a stream of triples (repetition level, definition level, value). The definition level says how many of the
 * optional and repeated fields on the way from the root are there; the value is there when it is the highest. The repetition
 * level says at which of the repeated fields this triple begins a new entry; 0 begins a row. */
#ifndef DIKAST_DATA_PARQUET_INT_H
#define DIKAST_DATA_PARQUET_INT_H

#include "base/arena.h"
#include "base/io.h"
#include "data/parquet.h"

/* ---- Thrift compact protocol; reading past the end gives zeros and sets bad */
typedef struct {
    const uint8_t *p, *end;
    bool bad;
    int depth;
} Thrift;
enum { T_STOP, T_TRUE, T_FALSE, T_BYTE, T_I16, T_I32, T_I64, T_DOUBLE, T_BINARY, T_LIST, T_SET, T_MAP, T_STRUCT };
/* The next field of a struct: its type, T_STOP at the end. *id: in, the field before (0 at first); out, this one. */
int thrift_field(Thrift *t, int *id);
int64_t thrift_int(Thrift *t);                                  /* I16, I32, I64 */
int64_t thrift_int_of(Thrift *t, int type, int64_t otherwise);  /* skips other types */
bool thrift_bool_of(Thrift *t, int type, bool otherwise);
const uint8_t *thrift_bytes(Thrift *t, size_t *n);
/* Entries of a list whose entries are of type want; others are skipped and 0. Every entry takes a byte at least. */
int64_t thrift_list(Thrift *t, int type, int want);
void thrift_skip(Thrift *t, int type);
uint64_t read_varint(const uint8_t **p, const uint8_t *end, bool *bad);
static inline int64_t unzigzag(uint64_t v) { return (int64_t)(v >> 1) ^ -(int64_t)(v & 1); }

/* ---- schema */
typedef enum { PQ_BOOLEAN, PQ_INT32, PQ_INT64, PQ_INT96, PQ_FLOAT, PQ_DOUBLE, PQ_BYTES, PQ_FIXED, PQ_TYPE_COUNT } PqType;
typedef enum { PQ_PLAIN, PQ_UNSIGNED, PQ_DECIMAL, PQ_DATE, PQ_TIME, PQ_STAMP, PQ_UUID, PQ_HALF } PqMeaning;
typedef enum { PQ_LEAF, PQ_STRUCT, PQ_LIST, PQ_MAP } PqKind;
typedef enum { ENC_PLAIN = 0, ENC_PLAIN_DICTIONARY = 2, ENC_RLE = 3, ENC_BIT_PACKED = 4, ENC_DELTA = 5, ENC_DELTA_LENGTH = 6,
               ENC_DELTA_BYTES = 7, ENC_RLE_DICTIONARY = 8, ENC_SPLIT = 9 } PqEncoding;

typedef struct PqNode {
    const char *name;
    PqKind kind;
    int def;                    /* from this definition level on it is not null */
    int entry_def, rep;         /* LIST, MAP: from which it has an entry; repetition level of the second and later ones */
    int leaf, n_leaf;           /* the columns below */
    struct PqNode *child;       /* STRUCT: members; LIST: the entry; MAP: key and value */
    int n_child;
} PqNode;

/* Runs of equal values and runs of packed ones in turn (RLE), or packed ones alone (BIT_PACKED). */
typedef struct {
    const uint8_t *p, *end;
    int width;
    bool high_first;            /* BIT_PACKED fills bytes from the top */
    uint64_t n_equal, n_packed; /* left of the present run */
    uint32_t value;
    uint64_t bit;               /* of the packed run, from p_packed */
    const uint8_t *packed;
} PqRuns;
void runs_begin(PqRuns *r, const uint8_t *p, const uint8_t *end, int width);
int runs_read(PqRuns *r, uint32_t *out, int n);                 /* how many there were, at most n */

typedef struct {                /* DELTA_BINARY_PACKED, value by value */
    const uint8_t *p, *end;
    uint64_t n_left, value, min_delta, bit;
    uint64_t n_block, n_mini, per_mini;
    const uint8_t *width, *packed;
    uint64_t mini, in_mini;     /* miniblock of the block; values left in it */
    int bits;
    bool first;
} PqDelta;
bool delta_begin(PqDelta *d, const uint8_t *p, const uint8_t *end);
bool delta_next(PqDelta *d, uint64_t *out);
const uint8_t *delta_end(const PqDelta *d);                     /* what follows all its values, NULL: damaged */

typedef struct { const uint8_t *s; size_t n; } PqValue;         /* the bytes of PLAIN, without a length in front */

enum { PQ_AHEAD = 256 };
typedef struct {
    /* schema */
    const char *path;           /* "messages.list.element.role" */
    PqType type;
    PqMeaning meaning;
    int width;                  /* bytes of a value, 0: BYTES, BOOLEAN */
    int scale, unit;            /* DECIMAL: digits behind the point; TIME, STAMP: 10^unit per second */
    bool utc;
    int max_def, max_rep;
    /* column chunk */
    int codec;
    const uint8_t *at, *end;    /* where the next page's header stands; end of the file's data */
    int64_t left;               /* triples on pages to come */
    /* dictionary */
    uint8_t *dict;              /* owned, unpacked */
    const uint8_t *dict_p;      /* its bytes: dict or in the file */
    uint32_t *dict_off;         /* (n_dict+1) of BYTES: where each entry's length stands */
    size_t dict_n, dict_cap, off_cap;
    uint32_t n_dict;
    /* page */
    uint8_t *buf;
    size_t buf_cap;
    int64_t page_left;          /* triples of it not yet in ahead */
    PqRuns reps, defs, index;
    PqEncoding encoding;
    const uint8_t *p, *p_end;   /* PLAIN, bytes of the DELTA kinds, SPLIT */
    int64_t n_split, i_split;
    int bit;                    /* PLAIN BOOLEAN */
    PqDelta delta, lengths;
    Str before;                 /* DELTA_BYTES: the value before */
    uint8_t scratch[16];
    uint32_t rep[PQ_AHEAD], def[PQ_AHEAD], idx[PQ_AHEAD];
    int n_ahead, i_ahead, n_idx, i_idx;
} PqLeaf;

struct Parquet {
    char *name;
    IoMap map;
    bool mapped;
    const uint8_t *data, *data_end;     /* what pages may lie in */
    Heap heap;
    PqNode root;
    PqLeaf *leaf;
    int n_leaf;
    Thrift *group;              /* (n_group) where each one's columns stand in the footer */
    int64_t *group_rows;
    int n_group, at_group;      /* the group being read, -1 before the first */
    int64_t n_row;
    int64_t group_left, row;    /* rows left in it; number of the row last given */
    size_t row_bytes, row_values;
    double n_bytes, n_unpacked; /* of values, and of pages, in all */
    size_t n_held;              /* bytes of unpacked pages and dictionaries */
};

bool parquet_footer(Parquet *q, const uint8_t *p, size_t n, Error *err);
bool parquet_group_begin(Parquet *q, int group, Error *err);    /* points the leaves at its column chunks */
const char *parquet_codec_name(int codec);
bool parquet_bad(const Parquet *q, const PqLeaf *leaf, Error *err, const char *fmt, ...) FORMAT(4, 5);

/* Makes rep[i_ahead], def[i_ahead] valid, or n_ahead 0 when the chunk is at its end. */
bool leaf_fill(Parquet *q, PqLeaf *l, Error *err);
void leaf_release(PqLeaf *l);
/* Points the leaf at a page's values: [p, end) in that encoding. */
bool page_values(const Parquet *q, PqLeaf *l, const uint8_t *p, const uint8_t *end, int64_t encoding, Error *err);
bool leaf_value(const Parquet *q, PqLeaf *l, PqValue *v, Error *err);
/* A value by its type and meaning. */
bool value_build(const Parquet *q, const PqLeaf *l, PqValue v, JsonBuild *b, const char *key, Error *err);
bool value_key(const Parquet *q, const PqLeaf *l, PqValue v, JsonBuild *b, const char **key, Error *err);

#endif
