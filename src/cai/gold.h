/* cai/gold.h — what a reply is, and the program that says so of replies of the tiny world: a program of its own, so that no stage
 * can learn from it. Any other that reads rows {id, prompt, reply} from the file it is given, and prints a row {verdict} for each, in
 * order, may stand in its place. */
#ifndef DIKAST_CAI_GOLD_H
#define DIKAST_CAI_GOLD_H

#include "cai/run_config.h"

typedef enum { VERDICT_COMPLY, VERDICT_REFUSE_REASON, VERDICT_REFUSE, VERDICT_EVADE, VERDICT_OTHER, VERDICT_COUNT } Verdict;
const char *verdict_word(Verdict v);        /* "comply", "refuse_reason", "refuse", "evade", "other" */
Verdict verdict_find(const char *word);     /* VERDICT_COUNT: none of these */

/* Where the tiny world's program lies: eval.gold, else beside ours; ERR_CONFIG when it is not there. */
bool gold_program(char out[1024], const RunConfig *cfg, Error *err);
/* Runs a program on the n rows of dir/in and keeps what it prints in dir/out. verdict (n): one of each row; of a word that is none of
 * the above, OTHER. ERR_STATE when it fails or leaves rows out, ERR_FORMAT where it prints anything else. */
bool gold_ask(Verdict *verdict, int n, const char *program, const char *dir, const char *in, const char *out, Error *err);

#endif
