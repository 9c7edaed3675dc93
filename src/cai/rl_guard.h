/* cai/rl_guard.h — what the guard of stage rl looks at: replies of the policy to the prompts of the evaluation split, judged
 * by the helpful model (whoever labels) against SL-CAI's replies to the same prompts, and gauges of their text.
 *
 * The independent score is P(better than SL-CAI's reply), averaged over prompts, from the judge of the labels under the
 * label principles, in both orders: the preference model learnt from that judge's verdicts on SL-CAI's pairs, and is asked here about
 * replies it never saw; where the two part, the preference model is being exploited. Equal replies are 1/2 without asking. */
#ifndef DIKAST_CAI_RL_GUARD_H
#define DIKAST_CAI_RL_GUARD_H

#include "cai/stages.h"
#include "train/guard.h"

typedef struct RlGuard RlGuard;
/* *out NULL, with a word in the log, where nothing is to be guarded: rl.guard.every 0, a method without rollouts, no evaluation
 * prompt that fits. */
bool rl_guard_open(RlGuard **out, const StageCtx *ctx, const StageText *text, const Prompts *prompts, const PpoConfig *c,
                   int max_seq, Error *err);
void rl_guard_close(RlGuard *g);
PpoGuard *rl_guard_of(RlGuard *g);      /* NULL: NULL */
/* guard.checks, guard.stopped, guard.update, guard.score: of the weights that were kept. */
void rl_guard_summary(const RlGuard *g, Summary *s);

#endif
