/* data/rows.h — rows of the shapes users have, from every container of data/source.h, checked and normalised.
 *
 *   instruction  {messages: [{role, content}]}, {conversations: [{from, value}], system?}, {turns: [user, assistant, ..]}: the
 *                last assistant turn is the reply; {prompt, completion|response}; {instruction, input?, output, system?,
 *                history?}; {input_ids, labels?, attention_mask?, completion_mask?}; unpaired rows whose label is true;
 *                critique-revision rows, whose revision is the reply
 *   preference   {prompt, chosen, rejected, margin?}    strings or message lists; HH transcripts "\n\nHuman: .. \n\nAssistant:
 *                .." and message lists with the prompt inside chosen and rejected, or as the prompt
 *   prompt       {prompt[, category]} or {messages} or {turns} (user turns, of which the first is taken) or
 *                {template: "how do I {verb} ..?", slots: {verb: [..], ..}}: a row per choice of values
 *   labelled     {prompt, response, harmful 0/1[, category]}
 *   text         {text}, {input_ids}, or a plain text file with documents ending in a line <|endoftext|> (none: the file is
 *                split at blank lines into documents of about ROWS_DOC_BYTES)
 *   format       {kind: "critique", prompt, response, principle, critique, revision?} |
 *                {kind: "judge", prompt, a, b, principle, answer: "first"|"second"[, reason]} |
 *                {kind: "applies", prompt, response, principle, applies: true|false} |
 *                {prompt, a, b, principle, better: 0|1|-1} without kind: a judge's gold label, where -1 is a tie |
 *                {init_prompt, init_response, critic_prompt, critic_response, revision_prompt, revision_response}
 *   choice       {task, prompt, choices[], gold};  paraphrase {prompts[2..], category?}
 *   unpaired     {prompt, completion, label|kto_tag} or {messages, label|kto_tag}
 *   any          whichever of these the columns say, each row by itself
 *
 * Messages may call tools, and 'tools' may list them (JSON, or JSON inside a string): only instruction rows have room for that.
 *
 * A prompt that is a string holding a transcript becomes its turns. Adjacent turns of one role are merged, empty ones
 * dropped; both are counted. Columns that are null count as absent. Mis-typed fields, columns that make no shape and invalid
 * UTF-8 are errors "file:line: ..."; a file without rows is one too. Well-formed rows that teach nothing (empty reply, both
 * replies equal, a field that is null) are left out and counted by reason. */
#ifndef DIKAST_DATA_ROWS_H
#define DIKAST_DATA_ROWS_H

#include "base/arena.h"
#include "base/pool.h"
#include "data/columns.h"
#include "text/chat.h"

enum { ROWS_DOC_BYTES = 4096, ROWS_SKIPS = 32 };
typedef enum {
    ROW_INSTRUCTION, ROW_PREFERENCE, ROW_PROMPT, ROW_LABELLED, ROW_TEXT, ROW_FORMAT, ROW_CHOICE, ROW_PARAPHRASE, ROW_UNPAIRED,
    ROW_ANY, ROW_KIND_COUNT
} RowKind;
const char *row_kind_name(RowKind k);

typedef struct {
    RowKind kind;               /* as asked for; ROW_ANY: what it turned out to be */
    const char *shape;          /* the columns it was read by: "prompt, chosen, rejected" */
    const char *id;             /* from the row, else "<file stem>-<line>" ; unique after rows_dedup */
    const char *category;       /* "" when absent */
    const char *source;         /* "" when absent */
    Dialogue prompt;            /* ends with a user turn (FORMAT: likewise); TEXT: empty */
    const char *a, *b;          /* INSTRUCTION, LABELLED, UNPAIRED: a = reply.  PREFERENCE: a = chosen, b = rejected.  TEXT: a.
                                   FORMAT critique: a = reply, b = revision or NULL.  FORMAT judge: a, b = options; applies: a = reply, b NULL */
    const char *principle, *critique;   /* FORMAT; judge: critique is the reason, or NULL */
    const char *revision_request;       /* FORMAT of a critique-revision row, else NULL */
    int label;                  /* LABELLED: harmful 0/1.  FORMAT judge: 0 first, 1 second, -1 a tie (gold rows only);
                                   critique: -1; applies: 0/1. CHOICE: gold.  UNPAIRED: desired 0/1 */
    double weight;              /* 1 unless the row says */
    double margin;              /* PREFERENCE: NAN unless the row says */
    bool plain;                 /* prompt and reply were strings of a prompt-completion row: text and its continuation */
    int learn_from;             /* INSTRUCTION: assistant turns before this one of prompt + reply are context by the row's
                                   own structure; 0: all may be learned */
    const char *tools;          /* all messages in normal form as JSON, when tools are used: prompt, a and b leave those out.
                                   Only rows of ROW_ANY have it */
    const char *talk, *talk_tools;      /* INSTRUCTION that uses tools, or is told of some: all messages, and the list of tools
                                   or NULL, as JSON arrays for a chat template (chat_tools); other kinds are skipped */
    int talk_from;              /* as learn_from, counted in messages of talk */
    const int32_t *tok;         /* INSTRUCTION, TEXT: (n_tok) ids of a row that was tokenised before; NULL otherwise */
    const float *tok_weight;    /* (n_tok) loss weight of each */
    int n_tok;
    const char *const *list;    /* CHOICE: choices; PARAPHRASE: prompts */
    int n_list;
    int line;
} Row;
typedef struct {                /* zeroed is empty */
    Row *row;
    int n, cap;
    Heap heap, *part;           /* what rows point to; part: (n_part) what several threads read */
    int n_part;
    int64_t n_bytes;            /* of the rows read, as text; of Parquet's, as values in memory */
    struct { const char *reason; int n; } skip[ROWS_SKIPS];     /* rows left out, by reason; reason NULL: no more */
    int n_skip;                 /* in all */
    int64_t n_merged, n_empty;  /* turns merged with the one before; turns without text, dropped */
} Rows;

bool rows_read(Rows *out, const char *path, RowKind kind, Error *err);      /* appends */
/* The same rows, counts and errors with rows parsed by the threads of a pool; pool NULL: the calling thread alone. columns:
 * other names for columns, or NULL. */
bool rows_read_pool(Rows *out, const char *path, RowKind kind, const Columns *columns, Pool *pool, Error *err);
/* Parses one row (the fuzz entry); file and line name the place in errors. */
bool rows_parse_line(Rows *out, const char *s, size_t n, RowKind kind, const char *file, int line, Error *err);
bool rows_parse_value(Rows *out, const Json *row, RowKind kind, const Columns *columns, const char *file, int line, Error *err);
void rows_release(Rows *r);
/* The normal form of a row of ROW_ANY, as one JSON object: kind, then its fields. */
void row_to_json(Str *out, const Row *r);
/* Rows that were tokenised before must fit the tokenizer: ids below n_vocab. ERR_FORMAT naming the first that does not. */
bool rows_check_ids(const Rows *r, int n_vocab, Error *err);
/* Exact duplicates of (prompt, a, b) after whitespace folding and case folding, and MinHash near-duplicates at Jaccard >=
 * threshold over word 5-grams (threshold > 1: exact only). Keeps the first; returns how many went; drop_reason[i] (may be
 * NULL, sized n before) receives "DUP" or NULL. Ids that repeat get a suffix. */
int rows_dedup(Rows *r, double threshold, const char **drop_reason);
const char *dialogue_last_user(Dialogue d);

#endif
