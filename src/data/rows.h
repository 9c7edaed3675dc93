/* data/rows.h — JSONL rows of the shapes users have (plain, .gz, .zst), checked and normalised.
 *
 *   instruction  {prompt, response|completion}; {instruction, input?, output, system?, history?} (Alpaca)
 *   chat         {messages: [{role, content}]}, {conversations: [{from, value}], system?} or {turns: [user, assistant, ..]}:
 *                the last assistant turn is the reply; a row of ROW_INSTRUCTION too
 *   preference   {prompt, chosen, rejected}    strings or message lists; HH transcripts "\n\nHuman: .. \n\nAssistant: .."
 *                with the prompt inside chosen and rejected, or as the prompt
 *   prompt       {prompt[, category]} or {turns} (user turns, of which the first is taken) or
 *                {template: "how do I {verb} ..?", slots: {verb: [..], ..}}: a row per choice of values
 *   labelled     {prompt, response, harmful 0/1[, category]}
 *   text         {text}, or a plain text file with documents ending in a line <|endoftext|> (none: the file is split at
 *                blank lines into documents of about ROWS_DOC_BYTES)
 *   format       {kind: "critique", prompt, response, principle, critique, revision?} |
 *                {kind: "judge", prompt, a, b, principle, answer: "first"|"second"} |
 *                {prompt, a, b, principle, better: 0|1|-1} without kind: a judge's gold label, where -1 is a tie
 *   choice       {task, prompt, choices[], gold};  paraphrase {prompts[2..], category?}
 *
 * A prompt that is a string holding a transcript becomes its turns. Adjacent turns of one role are merged, empty ones
 * dropped. Strings containing NUL, invalid UTF-8, missing or mis-typed fields are errors "file:line: ..."; a file without
 * rows is one too. Well-formed rows that teach nothing (empty reply, both replies equal) are left out and counted. */
#ifndef DIKAST_DATA_ROWS_H
#define DIKAST_DATA_ROWS_H

#include "base/arena.h"
#include "base/pool.h"
#include "text/chat.h"

enum { ROWS_DOC_BYTES = 4096, ROWS_SKIPS = 8 };
typedef enum { ROW_INSTRUCTION, ROW_PREFERENCE, ROW_PROMPT, ROW_LABELLED, ROW_TEXT, ROW_FORMAT, ROW_CHOICE, ROW_PARAPHRASE } RowKind;

typedef struct {
    const char *id;             /* from the row, else "<file stem>-<line>" ; unique after rows_dedup */
    const char *category;       /* "" when absent */
    const char *source;         /* "" when absent */
    Dialogue prompt;            /* ends with a user turn (FORMAT: likewise); TEXT: empty */
    const char *a, *b;          /* INSTRUCTION, LABELLED: a = reply.  PREFERENCE: a = chosen, b = rejected.  TEXT: a.
                                   FORMAT critique: a = reply, b = revision or NULL.  FORMAT judge: a, b = options */
    const char *principle, *critique;   /* FORMAT */
    int label;                  /* LABELLED: harmful 0/1.  FORMAT judge: 0 first, 1 second, -1 a tie (gold rows only);
                                   critique: -1. CHOICE: gold */
    double weight;              /* 1 unless the row says */
    const char *const *list;    /* CHOICE: choices; PARAPHRASE: prompts */
    int n_list;
    int line;
} Row;
typedef struct {                /* zeroed is empty */
    Row *row;
    int n, cap;
    Heap heap, *part;           /* what rows point to; part: (n_part) what several threads read */
    int n_part;
    int64_t n_bytes;            /* of the lines read */
    struct { const char *reason; int n; } skip[ROWS_SKIPS];     /* rows left out, by reason; reason NULL: no more */
    int n_skip;                 /* in all */
} Rows;

bool rows_read(Rows *out, const char *path, RowKind kind, Error *err);      /* appends */
/* The same rows, counts and errors with lines parsed by the threads of a pool; NULL: the calling thread alone. */
bool rows_read_pool(Rows *out, const char *path, RowKind kind, Pool *pool, Error *err);
/* Parses one line (the fuzz entry); file and line name the place in errors. */
bool rows_parse_line(Rows *out, const char *s, size_t n, RowKind kind, const char *file, int line, Error *err);
void rows_release(Rows *r);
/* Exact duplicates of (prompt, a, b) after whitespace folding and case folding, and MinHash near-duplicates at Jaccard >=
 * threshold over word 5-grams (threshold > 1: exact only). Keeps the first; returns how many went; drop_reason[i] (may be
 * NULL, sized n before) receives "DUP" or NULL. Ids that repeat get a suffix. */
int rows_dedup(Rows *r, double threshold, const char **drop_reason);
const char *dialogue_last_user(Dialogue d);

#endif
