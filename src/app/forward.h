/* app/forward.h — the head's raw outputs for one sequence alone, as tools that compare models want them. */
#ifndef DIKAST_APP_FORWARD_H
#define DIKAST_APP_FORWARD_H

#include "engine/engine.h"

/* out (n, n_out): head outputs after tokens first .. first + n - 1 of the sequence. False ends the pass with *err. */
typedef bool ForwardRows(void *ud, int first, int n, const float *out, Error *err);
/* Rows from `first` on, a slice at a time, ascending. The sequence must fit the context and the vocabulary: else an
 * ERR_FORMAT. */
bool forward_sequence(Net net, Tokens seq, int first, ForwardRows *fn, void *ud, Error *err);

#endif
