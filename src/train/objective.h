/* train/objective.h — a loss. The trainer owns the loop; an objective says what to feed and what it costs.
 *
 * micro(self, number, &b): fills a Batch (arrays owned by the objective until the next call) for micro-batch `number`.
 * loss(): sees head rows [first, first+out.rows) of the batch (never split inside a row_group), overwrites out or fills dout
 *   (dout may alias out) with gradients of the *sum* of losses and returns the sum of loss; *weight += the loss weight used.
 * look(): where a row's gradient needs all rows of its sequence: sees every head row before loss() sees the first. NULL: not
 *   needed.
 *   The trainer divides by the step's total weight once, so no split of a step into micro-batches changes the mean. */
#ifndef DIKAST_TRAIN_OBJECTIVE_H
#define DIKAST_TRAIN_OBJECTIVE_H

#include "base/pulse.h"
#include "train/batch.h"

enum { METRIC_NAME = 32 };          /* bytes of a name, its NUL too */
typedef struct Metrics Metrics;     /* weighted means by name, in order of first use; the trainer clears them each step */
Metrics *metrics_new(void);
void metrics_free(Metrics *m);
void metrics_add(Metrics *m, const char *name, double value, double weight);    /* weight 0: only the name; m NULL: nothing */
double metrics_mean(const Metrics *m, const char *name);                        /* NaN when absent or without weight */
int metrics_count(const Metrics *m);
const char *metrics_at(const Metrics *m, int i, double *mean, double *weight);
void metrics_clear(Metrics *m);
/* The sums behind a mean, and such sums added as they are: what travels between ranks. m NULL: nothing. */
const char *metrics_sum_at(const Metrics *m, int i, double *sum, double *weight);
void metrics_add_sum(Metrics *m, const char *name, double sum, double weight);

typedef struct {
    const char *name;
    int row_group;          /* 2 for preference pairs, else 1 */
    bool (*micro)(void *self, int64_t number, Batch *b, Error *err);
    double (*loss)(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m);
                            /* out in: head output; out: gradient of the sum of losses */
    void *self;
    int max_tok, max_row;   /* capacity the trainer must provide */
    double (*wait_s)(void *self);   /* seconds spent waiting for data so far; NULL: none */
    void (*look)(void *self, Backend *be, const Batch *b, int first, Tensor out);
    Pulse *pulse;           /* told when forward and backward begin; the trainers set it */
    LogpBuf *logp;          /* with which loss and look read log-probs: trainers say of which net (logp_of). NULL: they read none */
    /* With logp: (R) the tokens whose log-probs loss and look read of the micro-batch's chosen rows, at which temperature, and is their
     * entropy read; linear: the gradient of a row follows from no log-prob. Where rows are divided over ranks (head_cut.h). */
    const int32_t *target;
    float temp;
    bool entropy, linear;
} Objective;

#endif
