/* train/trainer.h — the training loop, once, for every objective.
 *
 *   step: for each of its micro-batches: forward, head in slices with loss, backward; gradients add up (leaves.h); one update.
 *
 * Ranks of a mesh: every rank runs the same trainer over the same objective and takes its share of each step's micro-batches;
 * weights, losses and metrics come out equal everywhere, to the bit those of one rank. Rank 0 writes metrics and states, all read
 * them: the folder must be seen by all. A net that is a stage's part of a model goes through a pipeline (pipe.h).
 *
 * Everything about step s follows from the configuration and s, so resuming needs the weights, the moments and the number.
 * Checkpoints (train/state.h) are written every state_s seconds and when *stop is requested, in the background. */
#ifndef DIKAST_TRAIN_TRAINER_H
#define DIKAST_TRAIN_TRAINER_H

#include "base/log.h"
#include "nn/optim.h"
#include "train/objective.h"
#include "train/state.h"
#include "train/trace.h"

typedef struct {
    OptimConfig optim;
    Schedule schedule;      /* total = steps */
    int64_t steps;
    int accum;              /* micro-batches per step, >= 1 */
    Keep keep;              /* KEEP_ALL or KEEP_INPUTS */
    bool keep_auto;         /* in place of keep: train_keep's */
    int max_skipped;        /* non-finite steps in a row that end the run with ERR_DIVERGED; 0: 10 */
    double state_s;         /* seconds between states; 0: 60; tests use small values */
    int64_t state_steps;    /* > 0: also every so many steps */
    StateConfig state;
    const Mesh *mesh;       /* borrowed; NULL: one rank */
    int shard;              /* ZeRO stage, see OptimConfig */
    bool overlap;           /* gradients leave while the backward goes on (leaves.h) */
    int64_t compare_every;  /* steps between comparisons of the ranks' weights (watch.h); 0: never */
    bool running_sum;       /* of one rank: gradients of micro-batches are added as they come, not as a tree; one sum in memory */
    const Trace *trace;     /* NULL: none */
} TrainConfig;

typedef struct Trainer Trainer;
/* Allocates activations for obj->max_tok, max_row. What of the net has no gradients is frozen. */
bool trainer_open(Trainer **out, Net net, const TrainConfig *c, const Objective *obj, Log *log, const Stop *stop, Error *err);
void trainer_close(Trainer *t);
bool trainer_rehearse(Trainer *t, Error *err);  /* takes the memory of a step and makes none; for plans (tensor/dry.h) */
/* Runs steps until c->steps. dir: stage output; metrics.jsonl is appended there, state/ kept there until state_remove.
 * Resumes from dir/state when present. ERR_STOPPED after a saved state when stop was requested.
 *
 * metrics.jsonl, one object per step: step (1..), loss (mean per loss weight), lr, grad_norm, weight (total loss weight),
 * skipped, the objective's means, inputs and losses (trace.h), and times, which are no function of the inputs: t_s, t_tok_s, t_wait (share);
 * of several ranks t_comm and t_hidden: shares of the step that rank 0 was inside calls of comm.h, and that some went on beside its work. */
bool trainer_run(Trainer *t, const char *dir, Error *err);
double trainer_last_loss(const Trainer *t);     /* mean loss of the last step, also one that an earlier process made */
Metrics *trainer_metrics(Trainer *t);           /* the objective's means of the last step made here */

/* The two verbs below the loop, used by PPO (which has its own): one micro-batch's forward, loss, backward into gradients. */
double train_micro(Net net, Acts *a, const Batch *b, const Objective *obj, Tensor slice, double *weight, Metrics *m);
/* Its middle, of a net whose forward is done: head in slices, loss, and (grads) the head's backward. */
double head_micro(Net net, Acts *a, const Batch *b, const Objective *obj, Tensor slice, double *weight, Metrics *m, bool grads);
/* Loss without gradients (evaluation), KEEP_NONE acts are fine. */
double eval_micro(Net net, Acts *a, const Batch *b, const Objective *obj, Tensor slice, double *weight, Metrics *m);
enum { HEAD_SLICE = 128, HEAD_SLICE_LEAST = 32, HEAD_SLICE_MOST = 8192 };
/* Rows of the head computed at once: HEAD_SLICE, more where the backend asks for it. A frozen head's fewer, when its outputs are
 * many: no gradient is summed over its rows, so nothing but the memory of the logits follows from their number. */
int head_slice_rows(Net net);
/* What a pass keeps where nobody says: everything; but when adapters are trained beside a frozen trunk, block inputs alone as
 * soon as all that training adds to the trunk (moments, gradients, adapters, logits, activations of n_acts nets, the program
 * itself) would be more than a quarter of the trunk's bytes. Nets share trunk and optimizer; results do not depend on it. */
Keep train_keep(const Net *net, int n_net, const Optim *optim, int n_acts, int max_tok, int max_row);
/* slice: (head_slice_rows, n_out) in the backend's memory */
bool head_slice_open(Arena *mem, Tensor *slice, Net net, Error *err);   /* released with mem */
/* Mean loss over micro-batches 0..n_micro-1, no gradients needed; m collects the objective's means (NULL: none). */
bool eval_run(double *loss, Net net, const Objective *obj, int64_t n_micro, Metrics *m, Error *err);

#endif
