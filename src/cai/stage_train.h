/* cai/stage_train.h — training as stages do it: by the trainer (train/trainer.h), under the keys of their section. */
#ifndef DIKAST_CAI_STAGE_TRAIN_H
#define DIKAST_CAI_STAGE_TRAIN_H

#include "cai/stage.h"
#include "data/loader.h"
#include "train/trainer.h"

/* Tokens of one forward pass over the set: micro_tokens, or as many as its longest group has. */
int stage_pass_tokens(const SampleSet *s, int64_t micro_tokens);
/* Steps, batch and optimizer from the keys; packs_in_epoch decides c->steps when keys->steps is 0. */
void stage_train_config(TrainConfig *c, const StageCtx *ctx, const TrainKeys *k, int64_t packs_in_epoch);
/* Trains net under that, and under the schedule; the stage's output holds the state. False without training when too many samples are
 * lost (data.max_lost). */
bool stage_train(const StageCtx *ctx, Net net, const TrainKeys *keys, const Objective *obj, int64_t packs_in_epoch, Error *err);
/* Mean next-token loss per weighted token of the whole set, nats; NaN when it is empty. */
bool stage_lm_loss(double *out, Net net, const SampleSet *s, int max_tok, Error *err);
void stage_optim(OptimConfig *o, const TrainKeys *k);
StateConfig stage_state(const StageCtx *ctx);    /* ckpt.* */
/* Of that section, over so many steps. */
void stage_schedule(Schedule *s, const char *section, const TrainKeys *k, int64_t steps);

#endif
