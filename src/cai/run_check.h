/* cai/run_check.h — keys that are each in range and still cannot go together, gates that name nothing: found before
 * anything is computed. What only one stage needs (a service, a program) is its `ready` (cai/stage.h). */
#ifndef DIKAST_CAI_RUN_CHECK_H
#define DIKAST_CAI_RUN_CHECK_H

#include "cai/run_config.h"

enum { RUN_CPU, RUN_REF, RUN_CUDA }; /* run.backend */

bool run_config_check(const RunConfig *cfg, Error *err);
bool run_stage_check(const char *name, Error *err); /* a stage's name, else an error with the nearest */

#endif
