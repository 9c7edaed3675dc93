/* app/data_view.h — a row as training will see it: one sequence, or two for a preference, with what is learned set apart. */
#ifndef DIKAST_APP_DATA_VIEW_H
#define DIKAST_APP_DATA_VIEW_H

#include "data/rows.h"

typedef struct { size_t end; bool learned; } Span;  /* from the end of the span before */
typedef struct {
    const char *name;           /* "", or "chosen", "rejected" */
    Sequence s;                 /* empty without a tokenizer */
    Str text;                   /* the sequence as text, special tokens by their spelling */
    Span *span;                 /* (n) which parts of text are learned */
    int n, cap;
} View;

/* Fills one or two views and returns how many: 0 for rows of which no sequence is made. chat NULL: by text alone. */
int view_row(View out[2], const Chat *chat, const Row *row);
void view_clear(View *v);
void view_release(View *v);
typedef enum { VIEW_BRACKETS, VIEW_COLOUR } ViewStyle;
/* Learned parts in green, the others dim; or learned parts in [[ ]]. Control characters are shown as '?'. At most limit bytes
 * of text (about: never inside a character). Lines begin with the margin. */
void view_print(Str *out, const View *v, ViewStyle style, const char *margin, size_t limit);
size_t row_text_bytes(const Row *row);          /* of its prompt and replies */

#endif
