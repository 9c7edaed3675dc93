/* data/source.h — the rows of a file, whatever its container:
 *
 *   jsonl     a value per line
 *   json      a list of rows, an object with one list of rows among its members, or objects one after another
 *   csv, tsv  a header and records (data/csv.h); cells of columns that hold numbers, flags or lists are read as such
 *   parquet   data/parquet.h
 *   text      no rows: lines for whoever cuts them into documents
 *
 * all but Parquet also as .gz and .zst. Which one it is is seen from the content; the ending of the name decides between
 * containers that look alike (csv, text) and for json between lines and lists. Rows come one by one, so memory does not depend
 * on the size of the file. A packed file that unfolds to more than SOURCE_UNFOLD times its size is refused. */
#ifndef DIKAST_DATA_SOURCE_H
#define DIKAST_DATA_SOURCE_H

#include "base/io.h"
#include "data/columns.h"

enum { SOURCE_UNFOLD = 1000, SOURCE_FREE_BYTES = 256 << 20, SOURCE_ROW_BYTES = 64 << 20 };

typedef enum { CONTAINER_JSONL, CONTAINER_JSON, CONTAINER_CSV, CONTAINER_TSV, CONTAINER_PARQUET, CONTAINER_TEXT } Container;
const char *container_name(Container c);

typedef struct {
    const char *text;       /* a row as JSON that is not parsed yet; valid until the next call */
    size_t n;
    const Json *value;      /* or a row that is; valid until source_forget */
    int line;               /* where it begins; Parquet: number of the row */
} SourceRow;

typedef struct Source Source;
/* text_ok: what is no container of rows may be plain text. c tells which names are columns, and may be NULL; borrowed. */
bool source_open(Source **out, const char *path, bool text_ok, const Columns *c, Error *err);
/* text and value are NULL at the end (and err->code is ERR_NONE). Not for text. */
bool source_next(Source *s, SourceRow *row, Error *err);
void source_forget(Source *s);                          /* values handed out so far are released */
size_t source_held(const Source *s);                    /* bytes they take */
void source_close(Source *s);

Container source_container(const Source *s);
const char *source_packing(const Source *s);            /* "gzip", "snappy", ..; "" when not packed */
int64_t source_groups(const Source *s);                 /* row groups of Parquet, else 0 */
LineReader *source_lines(Source *s);                    /* of CONTAINER_TEXT, at its start */

#endif
