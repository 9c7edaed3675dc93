/* cai/eval_judge.h — which model's reply the judge prefers: replies of two models to the same prompts and samples, compared under
 * the label principles in both orders, as pairs are labelled (label_combine). */
#ifndef DIKAST_CAI_EVAL_JUDGE_H
#define DIKAST_CAI_EVAL_JUDGE_H

#include "cai/eval_replies.h"

typedef struct EvalJudge EvalJudge;
/* The helpful model, or the service of judge.remote. Borrows text and con. */
bool eval_judge_open(EvalJudge **out, const StageCtx *ctx, const StageText *text, const Constitution *con, Error *err);
/* win.<a>-<b>: how often b is preferred, with its interval by prompt; a tie (|q - 1/2| < 0.05) counts half, equal texts do too.
 * Beside it .ties, .flips (decided pairs whose orders disagree), .length_corr (q with the length difference, decided pairs),
 * .n and .unjudged. */
bool eval_judge_compare(EvalJudge *j, const Replies *a, const Replies *b, Summary *s, Rng rng, Error *err);
/* A remote judge's cost; nothing else. */
bool eval_judge_books(const EvalJudge *j, Summary *s, Error *err);
void eval_judge_close(EvalJudge *j);    /* NULL is fine */

#endif
