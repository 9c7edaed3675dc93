/* data/csv.h — records of comma-separated files (RFC 4180), and of tab-separated ones by the same rules.
 *
 * A field in quotes may hold separators, line breaks (kept as they are) and, doubled, quotes; a quote inside a field that does
 * not begin with one is text. Lines end in LF or CRLF; blank ones are passed over; a byte order mark is dropped. Errors with
 * their line: text behind a closing quote, a quote that is never closed, bytes that are not UTF-8, records beyond CSV_BYTES or
 * CSV_FIELDS. */
#ifndef DIKAST_DATA_CSV_H
#define DIKAST_DATA_CSV_H

#include "base/io.h"

enum { CSV_BYTES = 64 << 20, CSV_FIELDS = 10000 };

typedef struct { const char *s; size_t n; } CsvField;   /* NUL-terminated too */
typedef struct {                                        /* zeroed, then in, name and separator set, is at the start */
    LineReader *in;                                     /* borrowed */
    const char *name;                                   /* for errors */
    char separator;
    int line;                                           /* of the record last returned, 1-based */
    CsvField *field;
    int n;                                              /* fields of it; 0: there is none left */
    int cap, next_line;
    bool begun;
    Str text;
    size_t *off;
} Csv;

bool csv_next(Csv *c, Error *err);                      /* fields are valid until the next call */
void csv_release(Csv *c);

#endif
