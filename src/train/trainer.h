/* train/trainer.h — the training loop, once, for every objective.
 *
 *   step: for each of its micro-batches: forward, head in slices with loss, backward (gradients add up); then one update.
 *
 * Everything about step s follows from the configuration and s, so resuming needs the weights, the moments and the number.
 * State is written every state_s seconds and when *stop is requested: state/ holds model.safetensors + optim.safetensors +
 * state.json (step, metrics offset), replaced atomically as a folder (state.new -> state). */
#ifndef DIKAST_TRAIN_TRAINER_H
#define DIKAST_TRAIN_TRAINER_H

#include "base/log.h"
#include "nn/optim.h"
#include "train/objective.h"

typedef struct {
    OptimConfig optim;
    Schedule schedule;      /* total = steps */
    int64_t steps;
    int accum;              /* micro-batches per step, >= 1 */
    Keep keep;              /* KEEP_ALL or KEEP_INPUTS */
    int max_skipped;        /* non-finite steps in a row that end the run with ERR_DIVERGED; 0: 10 */
    double state_s;         /* seconds between states; 0: 60; tests use small values */
    int64_t state_steps;    /* > 0: also every so many steps (deterministic kill tests) */
} TrainConfig;

typedef struct Trainer Trainer;
/* Allocates activations for obj->max_tok, max_row. The net must have gradients. */
bool trainer_open(Trainer **out, Net net, const TrainConfig *c, const Objective *obj, Log *log, const Stop *stop, Error *err);
void trainer_close(Trainer *t);
/* Runs steps until c->steps. dir: stage output; metrics.jsonl is appended there, state/ kept there and removed by
 * trainer_finish. Resumes from dir/state when present. ERR_STOPPED after a saved state when stop was requested. */
bool trainer_run(Trainer *t, const char *dir, Error *err);
double trainer_last_loss(const Trainer *t);
Metrics *trainer_metrics(Trainer *t);

/* The two verbs below the loop, used by PPO (which has its own): one micro-batch's forward, loss, backward into gradients. */
double train_micro(Net net, Acts *a, const Batch *b, const Objective *obj, Tensor slice, double *weight, Metrics *m);
/* Loss without gradients (evaluation), KEEP_NONE acts are fine. */
double eval_micro(Net net, Acts *a, const Batch *b, const Objective *obj, Tensor slice, double *weight, Metrics *m);
enum { HEAD_SLICE = 128 };  /* rows of the head computed at once */

/* state folder, shared with PPO: atomically replace dir/state by what the callback writes into a fresh folder. */
typedef bool StateWriter(void *ud, const char *dir, Error *err);
bool state_save(const char *dir, StateWriter *write, void *ud, Error *err);
bool state_exists(const char *dir);

#endif
