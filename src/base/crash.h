/* base/crash.h — places where tests let the process die as if the machine had been switched off.
 *
 * DIKAST_CRASH_AT=POINT[:RANK[:STEP]] in the environment, such as ckpt.c6 or ckpt.c6:0:200; RANK may be '*'. At that point the
 * process kills itself with SIGKILL: nothing is flushed, no handler runs. Without the variable a point costs one look at the
 * environment, so points stand where a save or a step is, not in inner loops. */
#ifndef DIKAST_BASE_CRASH_H
#define DIKAST_BASE_CRASH_H

#include "base/compiler.h"

void crash_point(const char *name, int rank, int64_t step);

#endif
