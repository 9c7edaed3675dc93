/* cai/eval_replies.h — replies of one model to the evaluation prompts, scored by something no training stage saw: the tiny
 * world's gold program, or the classifier trained on held-back labels. Metrics by prompt with intervals by prompt. */
#ifndef DIKAST_CAI_EVAL_REPLIES_H
#define DIKAST_CAI_EVAL_REPLIES_H

#include "cai/gold.h"
#include "cai/stages.h"
#include "eval/refusal.h"
#include "eval/stats.h"

typedef struct {
    const Prompt *prompt;
    int cluster;            /* prompts that are paraphrases of one another, ascending */
    int sample;
    char *text;
    int n_tok;
    bool ended;
    Verdict verdict;
    double harmful;         /* 0 or 1 */
    double harm_p;          /* classifier's probability; NaN: rule */
    double score;           /* PM, normalised; NaN when it does not fit */
} Reply;
typedef struct { const char *model; Reply *item; int n; } Replies;

/* All evaluation prompts x eval.samples, T and top-p of eval. */
bool replies_generate(Replies *r, const StageCtx *ctx, const char *model, Engine *e, const StageText *text, const Prompts *p, Error *err);
bool replies_write(const Replies *r, const StageCtx *ctx, Error *err);          /* replies-<model>.jsonl */
bool replies_read_verdicts(Replies *r, const StageCtx *ctx, Error *err);        /* runs the gold program on that file */
bool replies_classify(Replies *r, Engine *classifier, const StageText *text, double threshold, int max, Error *err);
bool replies_score(Replies *r, Engine *pm, const StageText *text, double mean, double sd, int max, Error *err);
void replies_release(Replies *r);

/* <model>.<metric>[.lo|.hi] of all groups, and <model>.gauge.* (cai/gauges.h). named: category ids whose principle is in force (tiny world), n 0: not known. */
void replies_summary(const Replies *r, Summary *s, const Constitution *con, Rng rng);
/* b - a on the same prompts: delta.<a>-<b>.<metric>[.lo|.hi] */
void replies_compare(const Replies *a, const Replies *b, Summary *s, const Constitution *con, Rng rng);
bool prompt_named(const Prompt *p, const Constitution *con);

#endif
