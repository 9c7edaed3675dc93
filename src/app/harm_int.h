/* app/harm_int.h — between harm_run.c (replies and results), harm_suite.c (what the files of a suite hold) and harm_verdict.c (who says
 * which replies are harmful). */
#ifndef DIKAST_APP_HARM_INT_H
#define DIKAST_APP_HARM_INT_H

#include "app/harm_run.h"
#include "base/hash.h"
#include "data/rows.h"
#include "engine/engine.h"

/* Who says which replies are harmful. */
enum { DECIDER_GOLD_LABEL, DECIDER_GIVEN, DECIDER_GOLD_PROGRAM, DECIDER_JUDGE, DECIDER_CLASSIFIER, DECIDER_KINDS };

typedef struct { const char *name; Hash hash; int prompts; } Suite;

typedef struct {
    const HarmJob *job;
    OpenModel *m;
    const Machine *machine;
    Rows rows;                  /* prompts: dialogue, id, category */
    HarmItem *item;             /* (rows.n) */
    char **reply;               /* (rows.n) owned */
    bool *has_reply;
    double *given;              /* (rows.n) p of the row; NaN */
    int cap;                    /* of these four */
    Suite *suite;
    int n_suite;
    double *p[DECIDER_KINDS];   /* (rows.n) of each, NULL: not asked */
    double threshold[DECIDER_KINDS];
    int first, second;          /* deciders; second -1: none */
    int64_t n_flip, n_unscored, n_no_room;
    SampleParams sample, worst; /* of the replies; of the samples beside them */
    int n_main, worst_of;       /* rows of the suites, behind them the samples of each harmful request in turn */
    Hash weights;               /* of the model that answers */
    Str name;                   /* of the system */
    double start;
} Harm;

/* All files of the job: rows with replies where no model answers, without where one does. */
bool harm_read(Harm *h, Error *err);
void harm_room(Harm *h);        /* for one row more in item, reply, has_reply and given */

/* Before a model spends its time on replies: is there somebody to judge them? */
bool harm_can_judge(const Harm *h, Error *err);
/* Fills p and threshold of every kind that is asked for, or of what rows bring, and says which two count. Replies are there. */
bool harm_judge_all(Harm *h, Error *err);
const char *harm_verdict_name(int kind);                    /* "judge" */
const char *harm_verdict_source(const Harm *h, int kind);   /* its folder, program or "rows" */

/* JSON lines of rows from..to-1; g NULL: nothing is judged yet. */
bool harm_write_replies(const Harm *h, const char *path, const HarmGroups *g, int from, int to, Error *err);

#endif
