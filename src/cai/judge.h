/* cai/judge.h — the model's own verdict on pairs of replies: log-odds of <|first|> over <|second|>, both orders.
 *
 *   l_ab: a shown first, l_ba: b shown first;  l = (l_ab - l_ba) / 2  is evidence for a, free of a fixed slot preference. */
#ifndef DIKAST_CAI_JUDGE_H
#define DIKAST_CAI_JUDGE_H

#include "cai/constitution.h"
#include "cai/stage_util.h"

enum { JUDGE_OWN, JUDGE_REMOTE };   /* judge.kind */
/* b NULL: one reply to be rated 1 to 5 by the rubric in compare (remote judges: remote_judge_rate). rule: the principle's text, for judges that were not trained on the principles; NULL: compare says all. */
typedef struct { Dialogue prompt; const char *a, *b, *compare, *rule; } JudgeItem;
typedef enum { MISS_NONE, MISS_CONTEXT, MISS_REFUSED, MISS_UNREADABLE, MISS_COUNT } JudgeMiss;
const char *judge_miss_name(JudgeMiss m);   /* "CONTEXT" longer than the judge reads; "REFUSED", "UNREADABLE": remote judges */
typedef struct {
    double l_ab, l_ba;      /* log p(first) - log p(second) as shown */
    bool scored;
    JudgeMiss miss;         /* why it is not */
} Judged;
static inline double judged_l(Judged j) { return (j.l_ab - j.l_ba) / 2; }
static inline bool judged_flip(Judged j) { return (j.l_ab > 0) != (-j.l_ba > 0); }  /* the orders name different winners */

/* Keeps those of the principles, n of them, whose own tests ("better beats worse under this") the judge passes in both orders, a
 * share of least; one without tests stays. passed (con->n): each one's share, NaN without tests. Returns how many stay, -1 with an
 * error. */
typedef struct Judge Judge;
int judge_keep_tested(const Judge *j, const Constitution *con, int *principle, int n, double least, double *passed, Error *err);

/* The label of a pair from its judgements under several principles: within the highest authority level whose weighted sum of
 * clamped log-odds reaches LABEL_UNDECIDED (else the lowest that was scored), q = sigmoid(sum / t_cal). weight 0: nothing was
 * scored, or the orders disagree and q is closer to 0.5 than abstain. */
#define LABEL_UNDECIDED 0.2
typedef struct {
    double q, weight;
    double uncut;           /* q before a bound of the caller's on it */
    int level;              /* authority that decided; -1: none was scored */
    bool flip;              /* at that level the orders name different winners */
    double first_slot;      /* share of judgements that chose what was shown first; NaN: none */
    JudgeMiss miss;         /* nothing was scored: why not, of the first principle */
} PairLabel;
PairLabel label_combine(const Judged *j, const Principle *const *principle, int n, double clamp, double t_cal, double abstain);

bool judge_pairs(Judged *out, Engine *e, const Chat *c, const JudgeItem *item, int n, int max_len, Error *err);

/* Whoever judges in this run: the engine's net, or a service (cai/judge_remote.h) when remote is set. */
typedef struct RemoteJudge RemoteJudge;
struct Judge {
    Engine *engine;
    const Chat *chat;
    int max_len;
    RemoteJudge *remote;
    int reasons, reason_tokens;     /* > 0: it writes reasons first, so many times for each order (judge_reason.c) */
    uint64_t seed;
    const Stop *stop;               /* may be NULL */
};
/* By judge.*; engine, chat and remote are set already. */
void judge_configure(Judge *j, const StageCtx *ctx);
/* Reasons first: of each order p(first) is the mean over the samples, and l its log-odds. Drawn at temperature 1, keyed by what
 * is asked, so that no answer depends on what else is. */
bool judge_reasoned(const Judge *j, Judged *out, const JudgeItem *item, int n, Error *err);
bool judge_ask(const Judge *j, Judged *out, const JudgeItem *item, int n, Error *err);

#endif
