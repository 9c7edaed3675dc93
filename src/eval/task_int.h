/* eval/task_int.h — documents and their texts, shared by task.c, task_docs.c and task_requests.c. */
#ifndef DIKAST_EVAL_TASK_INT_H
#define DIKAST_EVAL_TASK_INT_H

#include "data/source.h"
#include "eval/task.h"
#include "text/jinja.h"

typedef struct {
    const Json *row;
    const char *file;
    int line;
    const char *shot; /* its text as an example, made when first needed */
} Doc;
typedef struct {
    Doc *doc;
    int n, cap;
    Source **source; /* open as long as rows are needed: those of Parquet live in it */
    int n_source;
    Json **own;      /* rows that were parsed here */
    int n_own, cap_own;
    Heap heap; /* names of files */
} Docs;
/* Appends the rows of files; every row has all of the task's columns. */
bool docs_read(Docs *d, const TaskConfig *c, const CfgList *files, const char *folder, Hasher *hash, Error *err);
void docs_release(Docs *d);

typedef enum { TEXT_DESCRIPTION, TEXT_PROMPT, TEXT_CHOICES, TEXT_ANSWER, TEXT_TARGET, TEXT_LABELS, TEXT_COUNT, TEXT_KINDS } TextKind;
typedef struct {
    const TaskConfig *cfg;
    JinjaTemplate *of[TEXT_KINDS]; /* NULL: the key is empty */
    Json *no_messages;
    JinjaOut out;
    Heap *heap;
} Texts;
bool texts_open(Texts *t, const TaskConfig *c, const char *file, Heap *heap, Error *err);
void texts_close(Texts *t);
/* A text of a document, on the heap, cleaned if the task cleans that kind; "" when the key is empty. NULL: error. */
const char *texts_make(Texts *t, TextKind kind, const Doc *d, Error *err);
/* Choices: strings. NULL: error. */
const char **texts_choices(Texts *t, const Doc *d, int *n, Error *err);
bool texts_answer(Texts *t, const Doc *d, const char *const *choice, int n, int *answer, Error *err);
bool texts_labels(Texts *t, const Doc *d, int n, bool *label, Error *err);
bool doc_error(const Doc *d, Error *err, const char *fmt, ...) FORMAT(3, 4); /* ERR_FORMAT "file:line: ..." */

/* Leaves, items and requests from documents; pool: shots, or NULL: test itself. */
bool task_requests(Task *t, Texts *texts, Docs *test, Docs *pool, const TaskOptions *o, Error *err);

#endif
