/* data/rows_int.h — between rows.c (files, batches), rows_shapes.c (which columns make which row), rows_turns.c (transcripts and
 * lists of messages), rows_template.c and rows_show.c. */
#ifndef DIKAST_DATA_ROWS_INT_H
#define DIKAST_DATA_ROWS_INT_H

#include "base/json.h"
#include "data/rows.h"

typedef struct {
    Rows *rows;
    const Json *j;
    const Columns *columns;
    const char *file;
    int line;
    RowKind kind;       /* as asked for, or as found for ROW_ANY */
    bool any;           /* ROW_ANY was asked for */
    const char *skip;   /* set by row_skip */
    bool put;           /* the shape has put its rows itself */
    Error *err;
} RowIn;

bool row_bad(RowIn *in, const char *fmt, ...) FORMAT(2, 3); /* false, err = "file:line: ..." */
bool row_skip(RowIn *in, const char *reason);               /* false, skip = reason: a literal or in the rows' heap */
const Json *row_get(const RowIn *in, const char *key);      /* NULL when absent or null */
bool row_shape(RowIn *in, Row *row);                        /* finds the shape and fills its fields */
/* A string into the heap; what: how errors call it. Text with NUL characters is skipped. */
bool row_text(RowIn *in, const Json *j, const char *what, const char **out, size_t *n);
bool row_need_text(RowIn *in, const char *key, const char **out);

bool row_template(RowIn *in, Row *base);                    /* puts the rows a template stands for */
void rows_put(Rows *r, const Row *row);

/* ---- turns under construction; texts live in the rows' heap */
typedef struct {
    Message *msg;
    int n, cap;
    Rows *rows;
} Turns;
bool text_blank(const char *s);
void turns_put(Turns *t, Role role, const char *s, size_t n);
Dialogue turns_dialogue(const Turns *t, int n);
bool is_transcript(const char *s, size_t n);
/* *open_reply: the text ends in an assistant marker with nothing behind, asking for the reply. */
void read_transcript(Turns *t, const char *s, size_t n, bool *open_reply);
/* A message list in either spelling of its two keys; messages of tools are passed over. */
bool read_messages(RowIn *in, Turns *t, const Json *list, const char *what);
bool messages_use_tools(const Json *list);
/* All messages in normal form, as JSON text; system may be NULL. */
bool messages_to_json(RowIn *in, const Json *list, const Json *more, const char *system, const char *what, const char **out);
/* For a chat template: with role and content all members stay as they are, other spellings become the normal form. more, a
 * second list that goes on (as above), may be NULL. *n_first: messages before it. */
bool messages_to_talk(RowIn *in, const Json *list, const Json *more, const char *system, const char *what, const char **out,
                      int *n_first);
bool messages_of_assistant(const Json *list);
/* The row's list of tools as JSON text; NULL when it has none. */
bool row_tools(RowIn *in, const char **out);

#endif
