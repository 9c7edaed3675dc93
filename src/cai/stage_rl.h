/* cai/stage_rl.h — the two halves of stage rl: rollouts (stage_rl.c) and pairs (stage_rl_dpo.c). */
#ifndef DIKAST_CAI_STAGE_RL_H
#define DIKAST_CAI_STAGE_RL_H

#include "cai/stages.h"
#include "train/ppo.h"

void stage_rl_config(PpoConfig *p, const StageCtx *ctx);    /* from the keys alone; max_tok grows with the longest prompt */
/* Trains s->policy on the labelled pairs, then writes summary.json from one rollout of it: KL, score, length, as other methods
 * have them, and hands that rollout to s->report. */
bool stage_rl_dpo(const StageCtx *ctx, const StageText *text, const PpoConfig *c, const PpoSetup *s, Error *err);

#endif
