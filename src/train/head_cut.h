/* train/head_cut.h — head and loss of a micro-batch whose rows are divided over ranks (nn/cut.h).
 *
 * A loss may depend on rows of several ranks: pairs, sums over a reply. So every rank tells what the head says of its chosen rows,
 * a log-prob (an LM head), its outputs (others), and all of them compute the whole loss from equal numbers, in the order of one
 * rank, and with it the gradients of all rows, of which each takes its own. Losses and metrics are those of one rank, to the bit
 * where rows are; the head's products are made by those who have the rows:
 *
 *      LM head      slices of own rows: logits -> log-probs     all_gather     loss     slices again: logits -> their gradient
 *                   Where gradients do not follow from log-probs (Objective.linear) one time is enough.
 *      others       own outputs                                 all_gather     loss     own gradients
 *
 * Sent: (c-1) times 8 bytes a chosen row of the rank's own and number told (outputs; log-prob and, where it is read, entropy). */
#ifndef DIKAST_TRAIN_HEAD_CUT_H
#define DIKAST_TRAIN_HEAD_CUT_H

#include "train/objective.h"

/* head_micro (trainer.h) of such a micro-batch. b: the whole; a: after net_forward of this rank's rows. */
double head_micro_cut(Net net, Acts *a, const Batch *b, const Objective *obj, Tensor slice, double *weight, Metrics *m, bool grads);

#endif
