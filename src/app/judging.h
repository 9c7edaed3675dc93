/* app/judging.h — whom 'dikast rate' and 'dikast rank' ask: nobody, people through sheets, a model here, a service. */
#ifndef DIKAST_APP_JUDGING_H
#define DIKAST_APP_JUDGING_H

#include "app/open.h"
#include "app/result.h"
#include "cai/judge_remote.h"

#define JUDGE_FLAGS(criterion_, criterion_help_)                                                                       \
    {"--judge", "DIR", "a language model that judges: one of ours, or any with a chat template"},                      \
        {"--export", "FILE", "write a sheet for people there (.csv or .jsonl), and ask nobody"},                       \
        {"--sheets", "FILES", "filled sheets, separated by commas; whoever filled them is a rater"},                   \
        {"--rows", "FILE", "write every opinion there, {item, rater, ..}: a sheet for --sheets"},                      \
        {"--all", NULL, "requests that should be declined, too; else they are left out"}, {                            \
        criterion_, "TEXT", criterion_help_                                                                            \
    }

typedef struct {
    const Args *a;
    const Command *c;
    Answers set[ANSWERS_MAX];
    int n_set;
    uint64_t seed;
    Items items;
    Raters raters;
    OpenModel model;        /* --judge */
    bool open;
    RunConfig cfg;          /* of key=value: judge.kind, judge.remote.* */
    bool has_cfg;
    StageCtx ctx;           /* as the remote judge wants it */
    RemoteJudge *remote;
    const char *judge;      /* its name; NULL: no machine judges */
} Judging;

/* Reads replies (REPLIES_FLAGS) and sheets, makes the items, opens the judge. */
bool judging_open(Judging *g, bool pairs, const Args *a, const Command *c, Error *err);
/* The judge's scores to fill; NULL without a judge, or on error. */
bool judging_rater(double **score, Judging *g, Error *err);
/* --rows, and the books of a remote judge in the log. */
bool judging_keep(Judging *g, Error *err);
void judging_close(Judging *g);

void put_agreement(Str *out, const Json *result);    /* a line per two raters */

#endif
