/* data/parquet.h — rows of a Parquet file as JSON values, the same that the file's rows written as JSONL would give.
 *
 * Read are data pages v1 and v2; encodings PLAIN, RLE, BIT_PACKED, PLAIN_DICTIONARY, RLE_DICTIONARY (a column may turn from
 * dictionary to plain midway), DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY, BYTE_STREAM_SPLIT; codecs none,
 * snappy, gzip, zstd, lz4_raw; all physical types; lists, structs and maps in each other up to PARQUET_DEPTH levels; page
 * checksums where the writer made some. Anything else is an error that names it and the column.
 *
 *   struct -> object, list (annotated, in the three known layouts, or bare repeated field) -> array
 *   map -> object; its keys must be text or whole numbers and differ
 *   text, enum, JSON, and bytes that are UTF-8 -> string; other bytes are an error
 *   integers -> integer (unsigned ones beyond int64 are an error); floats -> number; decimals -> number
 *   dates and times -> ISO 8601 text: "2024-01-31", "12:34:56.789000", "2024-01-31T12:34:56+00:00"; UUID -> its text
 *   null, NaN and infinities -> null
 *
 * The file is mapped; in memory are one page and one dictionary per column and the footer's schema. Every length in the file
 * is a claim. Files that unfold to more than PARQUET_UNFOLD times their size (and PARQUET_FREE_BYTES) are refused. */
#ifndef DIKAST_DATA_PARQUET_H
#define DIKAST_DATA_PARQUET_H

#include "base/json.h"

enum {
    PARQUET_DEPTH = 32,
    PARQUET_UNFOLD = 1000,
    PARQUET_FREE_BYTES = 256 << 20,
    PARQUET_ROW_BYTES = 64 << 20, /* of one row's values */
    PARQUET_ROW_VALUES = 4 << 20, /* in one row */
};

typedef struct Parquet Parquet;
bool parquet_is(const void *p, size_t n);                               /* do the first bytes say so? */
bool parquet_open(Parquet **out, const char *path, Error *err);
bool parquet_open_bytes(Parquet **out, const void *p, size_t n, const char *name, Error *err);  /* borrows p; the fuzz entry */
int64_t parquet_rows(const Parquet *q);                                 /* as the footer claims */
int parquet_groups(const Parquet *q);
const char *parquet_codec(const Parquet *q);                            /* of the first column; "none", "snappy", .. */
/* The next row, as a root in b; *row is NULL after the last one. Rows are numbered from 1. */
bool parquet_next(Parquet *q, JsonBuild *b, const Json **row, Error *err);
void parquet_close(Parquet *q);

#endif
