/* data/rows_int.h — between rows.c (files, lines) and rows_shapes.c (what the fields of each shape mean). */
#ifndef DIKAST_DATA_ROWS_INT_H
#define DIKAST_DATA_ROWS_INT_H

#include "base/json.h"
#include "data/rows.h"

typedef struct {
    Rows *rows;
    const Json *j;
    const char *file;
    int line;
    const char *skip; /* set by row_skip */
    Error *err;
} RowIn;

bool row_bad(RowIn *in, const char *fmt, ...) FORMAT(2, 3); /* false, err = "file:line: ..." */
bool row_skip(RowIn *in, const char *reason);               /* false, skip = reason (a literal) */
bool row_shape(RowIn *in, Row *row, RowKind kind);          /* fills the fields of that shape */

bool row_template(RowIn *in, const Row *base); /* puts the rows a template stands for */
void rows_put(Rows *r, const Row *row);

#endif
