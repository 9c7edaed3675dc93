/* cai/goodput_file.h — the ledger of a run's time as a file (base/goodput.h; docs/formats.md): of a run under dikast launch the
 * supervisor's launch/goodput.json, over all attempts; else goodput.json of the run directory, of the last command. */
#ifndef DIKAST_CAI_GOODPUT_FILE_H
#define DIKAST_CAI_GOODPUT_FILE_H

#include "base/goodput.h"
#include "base/pulse.h"
#include "dist/agree.h"

/* Every rank of the world, at the same time; rank 0 writes (run_dir; others: NULL). Ranks that began later than the first were idle. */
bool goodput_file_write(const char *run_dir, Comm *world, Pulse *own, Error *err);

typedef struct {
    Goodput bins;               /* of all ranks */
    int64_t wall_ns;            /* clock on the wall */
    int ranks, attempts, faults;
} RunGoodput;
/* The newer one of the two; false: there is none that can be read. */
bool goodput_file_read(RunGoodput *out, const char *run_dir);

#endif
