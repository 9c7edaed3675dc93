/* eval/contamination.h — did training see what evaluation asks? An item is contaminated when n of its words in a row (13, as
 * Brown et al. 2020) stand in one training text. Words: runs of letters, marks and digits of any script, whatever their case; of scripts without spaces
 * (Han, kana, Thai ..) each character. A text of
 * fewer words must stand there whole; of fewer than CONTAMINATION_LEAST words it says nothing.
 *
 * Items first, then training texts one after another: only the items' n-grams are held, so the size of the training data does not
 * matter. N-grams are compared by 64-bit hashes. */
#ifndef DIKAST_EVAL_CONTAMINATION_H
#define DIKAST_EVAL_CONTAMINATION_H

#include "base/hash.h"
#include "base/json.h"
#include "data/rows.h"
#include "eval/task.h"

enum { CONTAMINATION_N = 13, CONTAMINATION_LEAST = 5, CONTAMINATION_EXAMPLES = 10 };

typedef struct Contamination Contamination;
Contamination *contamination_new(int n);        /* n >= CONTAMINATION_LEAST */
void contamination_free(Contamination *c);      /* NULL is fine */

/* A set of items; the items that follow are its. hash: of the file they come from. */
void contamination_set(Contamination *c, const char *name, Hash hash);
/* Any text with a hit makes the item one; text may hold NULLs. */
void contamination_item(Contamination *c, const char *id, const char *const *text, int n_text);
/* A file of training texts; the texts that follow are its. */
void contamination_train(Contamination *c, const char *name, Hash hash);
void contamination_text(Contamination *c, const char *text, int line, bool first_of_document);

/* Whole files of the shapes of data/rows.h. Items: prompts (multiple choice: with the right choice), texts, every paraphrase.
 * Training: every text of a row. */
bool contamination_set_file(Contamination *c, const char *file, Pool *pool, Error *err);
bool contamination_train_file(Contamination *c, const char *file, Pool *pool, Error *err);

/* A benchmark's documents: what each asks (the end of its context, behind examples and description) with the right answer. */
void contamination_task(Contamination *c, const Task *t);
bool contamination_train_list(Contamination *c, const char *files, Pool *pool, Error *err);     /* names with commas between */

int contamination_sets(const Contamination *c);
typedef struct { const char *name; int64_t items, small, hits; } ContaminationCount;    /* small: items of fewer than n words */
ContaminationCount contamination_count(const Contamination *c, int set);
/* The object of docs/formats.md; key NULL: at the root. seconds: NaN leaves them out. */
void contamination_out(JsonOut *j, const char *key, const Contamination *c, double seconds);
void contamination_table(Str *out, const Contamination *c);

#endif
