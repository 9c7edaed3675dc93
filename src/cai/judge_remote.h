/* cai/judge_remote.h — a judge behind HTTP, wherever the own one judges: same items, same Judged.
 *
 * Every item is two questions, one per order. A question's answer comes from the cache or from the service; it is in the
 * cache before it is used. So a run that was killed pays for nothing twice, and a second run gives equal bits without a
 * request. What comes back when, and how often something was asked again, changes no result.
 *
 *   question -> [vote 0, vote 1 ...] -> log-odds: the option tokens' log-probs when the service gives them, else
 *   log((k1 + 1/2) / (k2 + 1/2)) of the votes for what was shown first and second
 *
 * A refusal or an answer that names no option is asked once more with a plain reminder; then that vote is void. A question
 * without any vote leaves its item unscored, with the reason: nothing is drawn at random, nothing disappears.
 *
 * Failures: the service's "not now" (and answers that were cut) are asked again judge.remote.retries times; then, and when
 * it says "never", the stage fails with what it said. Limits of money, requests or tokens end it with ERR_LIMIT before a
 * request that could pass them. In each case what is under way is waited for and kept. */
#ifndef DIKAST_CAI_JUDGE_REMOTE_H
#define DIKAST_CAI_JUDGE_REMOTE_H

#include "cai/judge.h"

/* Keys that are each in range and still make no judge (judge.kind own: all is well). key: the environment must hold the key. */
bool remote_judge_check(const RunConfig *c, bool key, Error *err);
bool remote_judge_open(RemoteJudge **out, const StageCtx *ctx, Error *err);
bool remote_judge_ask(RemoteJudge *r, Judged *out, const JudgeItem *item, int n, Error *err);
/* Items with b NULL: rating[i] in 1..5, the mean of the digits' log-probs where the service gives them, else of the votes; NaN:
 * refused, unreadable, too long. One question each. */
bool remote_judge_rate(RemoteJudge *r, double *rating, const JudgeItem *item, int n, Error *err);
/* Questions, answers, tokens, cost: judge.json in the stage's output, and metrics "remote.*". */
bool remote_judge_books(const RemoteJudge *r, Summary *s, Error *err);
void remote_judge_close(RemoteJudge *r);    /* NULL is fine */

#endif
