/* data/source_int.h — between source.c and source_json.c, which cuts lists of JSON values into rows. */
#ifndef DIKAST_DATA_SOURCE_INT_H
#define DIKAST_DATA_SOURCE_INT_H

#include "data/source.h"

typedef struct {
    LineReader *in;             /* borrowed */
    const char *name;
    const Columns *columns;
    int line;                   /* of the next byte */
    bool begun, in_list;
    bool wrapped;               /* the list is a member of an object, of which `text` holds what has been read */
    bool first;                 /* no entry of the list has been read */
    Str text, key;
} JsonRows;
/* row->text is NULL at the end. */
bool json_rows_next(JsonRows *r, SourceRow *row, Error *err);
void json_rows_release(JsonRows *r);

#endif
