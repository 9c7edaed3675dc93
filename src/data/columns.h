/* data/columns.h — the columns that rows may have, and other people's names for them. */
#ifndef DIKAST_DATA_COLUMNS_H
#define DIKAST_DATA_COLUMNS_H

#include "base/json.h"

/* What a cell of text (CSV) stands for in a column of that name; columns that are not known hold text. */
typedef enum { COLUMN_TEXT, COLUMN_NUMBER, COLUMN_FLAG, COLUMN_JSON } ColumnType;
bool column_known(const char *name, ColumnType *type);      /* type may be NULL */

typedef struct { char *ours, *theirs; } ColumnName;
typedef struct { ColumnName *item; int n; } Columns;        /* zeroed: all columns have our names */
/* Each item is "ours:theirs": "prompt:question". Errors (ERR_CONFIG) begin with where. */
bool columns_parse(Columns *c, const char *const *item, int n, const char *where, Error *err);
void columns_release(Columns *c);
/* The column of a row. A row that has the column `theirs` has it under `ours` alone; rows without it are as they are. */
const Json *columns_get(const Columns *c, const Json *row, const char *ours);
const char *columns_ours(const Columns *c, const char *theirs);     /* the name it goes by */

#endif
