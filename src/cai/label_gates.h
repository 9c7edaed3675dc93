/* cai/label_gates.h — whether labels may be trained on, by the numbers of the label stage's summary.
 *
 * label.gates are the run's own conditions. Beside them stand bounds that hold unless label.release is "always", where there is
 * enough to measure them by: at most 0.1 of the decided labels flip with the order (20 decided), the judge's ECE is at most 0.1 and
 * its length bias too (50 known answers): how much more often than it does, and than every second time, it expects the longer
 * reply to win. */
#ifndef DIKAST_CAI_LABEL_GATES_H
#define DIKAST_CAI_LABEL_GATES_H

#include "cai/run_config.h"

/* ERR_LIMIT naming what was missed: the labels are not released, the stage has no result. dir: holds summary.json. */
bool label_release(const RunConfig *c, const char *dir, Error *err);

#endif
