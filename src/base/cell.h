/* base/cell.h — cells of tables that people read in a terminal. */
#ifndef DIKAST_BASE_CELL_H
#define DIKAST_BASE_CELL_H

#include "base/str.h"

/* A table's cell: s, at most `most` of its UTF-8 characters, then blanks up to `width` of them. Control characters, which would move
 * or colour a terminal, are shown as '?'. */
void str_cell(Str *b, const char *s, int width, int most);

#endif
