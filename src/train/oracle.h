/* train/oracle.h — cases with known results, run through the functions that training calls (losses.h, batch.h).
 *
 * A file is {"format": "dikast-rl-cases/1", "blocks": {name: tensors}, "cases": [{id, function, block, in, out, tol}]}. Tensors
 * of a block: lens (B), of rows of T tokens; logp_old, logp_new, logp_ref, values, vpred (B x T); score (B); logits (B x T x V),
 * labels (B x T). Only the first lens[i] tokens of row i count. docs/formats.md lists functions, parameters, outputs.
 *
 * The error of an output is its largest absolute difference over max(0.01, largest absolute value of the reference), that of
 * a case the largest of its outputs; not finite counts as INFINITY. A case is ok when its error is at most tol. */
#ifndef DIKAST_TRAIN_ORACLE_H
#define DIKAST_TRAIN_ORACLE_H

#include "base/json.h"
#include "tensor/backend.h"

typedef struct {
    const char *id, *function, *worst;      /* worst: the output that is furthest off */
    double max_err, tol;
    bool ok;
} OracleCase;
typedef struct {
    OracleCase *at;
    int n, n_failed;
    Json *root;                 /* owns the strings */
} OracleReport;
/* ERR_FORMAT when the file is not that: an unknown format, function, parameter or output, a missing or ill-shaped tensor, a
 * number that is not finite; the message names file, case and key. be: of log-softmax. */
bool oracle_run(OracleReport *out, const char *path, Backend *be, Error *err);
void oracle_release(OracleReport *r);

#endif
