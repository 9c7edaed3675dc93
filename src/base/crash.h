/* base/crash.h — places where tests let the process die as if the machine had been switched off, or go wrong in another way.
 *
 * DIKAST_CRASH_AT=POINT[:RANK[:STEP[:ATTEMPT]]] in the environment, such as ckpt.c6 or ckpt.c6:0:200; RANK and STEP may be '*'.
 * ATTEMPT: in that one of a launch alone (DIKAST_ATTEMPT). At a crash_point the process kills itself with SIGKILL: nothing is
 * flushed, no handler runs. Without the variable a point costs one look at the
 * environment, so points stand where a save or a step is, not in inner loops. */
#ifndef DIKAST_BASE_CRASH_H
#define DIKAST_BASE_CRASH_H

#include "base/compiler.h"

bool crash_here(const char *name, int rank, int64_t step);      /* is this the point? */
void crash_point(const char *name, int rank, int64_t step);

#endif
