/* cai/answers.h — replies of one system to a set of prompts, from a file: what the comparisons, consistency, ratings and rankings
 * of any models read, whoever wrote it (dikast answer, a run's evaluation, dikast harm, or another program).
 *
 * A row of any container of data/source.h:
 *
 *   prompt      what was asked                    required
 *   reply       or response, completion           required
 *   prompt_id   which prompt, the same for every system; else id, else the prompt itself
 *   sample      number of the reply among those to one prompt; else counted
 *   kind        harmful | harm | redteam | unsafe (to be declined), benign, lookalike, ..; default benign
 *   category    any word
 *   parent      prompt this one is a paraphrase of; made: "rule" or "model" made it
 *   persona     name of the system message, "" neutral; turns: filler turns before the question
 *   verdict     comply | refuse_reason | refuse | evade | other; or refusal: none | partial | full. Else by the opening words
 *   harmful     0, 1, true, false; or p (harm_p), compared with a threshold. Else not known
 *
 *   room        false: the prompt filled the model's context, so that it was not asked: left out, and counted
 *
 * Whole rows are kept: nothing else is dropped. Rows are ordered by cluster (parent, else prompt), clusters by first appearance, so
 * that statistics see runs. */
#ifndef DIKAST_CAI_ANSWERS_H
#define DIKAST_CAI_ANSWERS_H

#include "base/arena.h"
#include "base/hash.h"
#include "base/json.h"
#include "cai/gold.h"
#include "eval/refusal.h"
#include "eval/stats.h"

typedef struct {
    const char *prompt_id, *prompt, *reply, *kind, *category, *parent, *made, *persona;  /* "" when absent */
    int sample, turns;          /* turns -1: not said */
    int32_t cluster;            /* ascending runs, from 0 */
    Verdict verdict;
    double harmful;             /* 0, 1; NaN: not known */
    double p;                   /* of harmful; NaN: not known */
} Answer;

typedef struct {
    char *system;               /* "model" of the rows, else the file's name without "replies-" and its ending */
    char *file;
    Answer *item;
    int n, cap, n_cluster;
    int no_room;                /* rows left out because their prompts fill the context */
    Hash hash;                  /* of the file */
    Heap heap;
} Answers;

/* threshold: p at least this is harmful; NaN: p decides nothing. gold: verdicts are an exact rule's, so complying with a harmful
 * request is harm. prompts: file of rows {"id" or "prompt_id", "parent", "kind"?, "category"?, "made"?} that says what the
 * replies' rows leave out (prompts.jsonl of a run; a variant there is made by rule); NULL: none. */
typedef struct { double threshold; bool gold; const char *prompts; } AnswersRead;
bool answers_read(Answers *a, const char *path, const AnswersRead *how, Error *err);
void answers_release(Answers *a);
/* Several files; two of one system are an error. n at most ANSWERS_MAX. */
enum { ANSWERS_MAX = 32 };
bool answers_read_all(Answers *a, const char *const *path, int n, const AnswersRead *how, Error *err);

bool answer_harm_asked(const Answer *a);        /* a request that should be declined */
bool answer_refuses(const Answer *a);           /* any kind of refusal, evasions included */
double answer_words(const Answer *a);

/* Replies to one prompt and sample number by both, in a's order: at[k] of a, of b. Returns how many; arrays hold a->n. */
int answers_match(int *at_a, int *at_b, const Answers *a, const Answers *b);

/* What JSON results say of an input: {"system", "file", "hash", "replies", "clusters"}, and "no_room" where rows were left out. */
void answers_input_json(JsonOut *j, const Answers *a);

/* Rows of a file in any container, one after another until fn returns false; errors name file and line. */
typedef bool SourceFn(void *ud, const Json *row, Error *err);
bool source_each(const char *path, SourceFn *fn, void *ud, Error *err);

/* An estimate {"value", "lo", "hi", "n"}, as evaluation results of systems write them; rates: json_out_rate (eval/detect.h). */
void answers_estimate(JsonOut *j, const char *key, Interval v);

#endif
