/* dist/proc.h — processes of this machine. A pid alone names nobody for long; a pid with its start time does. */
#ifndef DIKAST_DIST_PROC_H
#define DIKAST_DIST_PROC_H

#include "base/compiler.h"

/* Start time in clock ticks since boot and state letter (R S D T Z ...) of a process; false when there is none. */
bool proc_look(int pid, uint64_t *start, char *state);
bool proc_alive(int pid, uint64_t start);               /* that very process, and not a zombie */
bool proc_signal(int pid, uint64_t start, int sig);     /* only to that very process; false when it is gone */
const char *proc_state_text(char state);                /* "stopped (SIGSTOP)" */

#endif
