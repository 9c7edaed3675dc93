/* cai/judge.h — the model's own verdict on pairs of replies: log-odds of <|first|> over <|second|>, both orders.
 *
 *   l_ab: a shown first, l_ba: b shown first;  l = (l_ab - l_ba) / 2  is evidence for a, free of a fixed slot preference. */
#ifndef DIKAST_CAI_JUDGE_H
#define DIKAST_CAI_JUDGE_H

#include "cai/stage_util.h"

typedef struct { Dialogue prompt; const char *a, *b, *compare; } JudgeItem;
typedef struct {
    double l_ab, l_ba;      /* log p(first) - log p(second) as shown */
    bool scored;            /* false: longer than the context */
} Judged;
static inline double judged_l(Judged j) { return (j.l_ab - j.l_ba) / 2; }
static inline bool judged_flip(Judged j) { return (j.l_ab > 0) != (-j.l_ba > 0); }  /* the orders name different winners */

bool judge_pairs(Judged *out, Engine *e, const Chat *c, const JudgeItem *item, int n, int max_len, Error *err);

#endif
