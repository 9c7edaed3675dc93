/* cai/run_backend.h — the backend that run.backend, run.device, run.isa and run.dtype name. */
#ifndef DIKAST_CAI_RUN_BACKEND_H
#define DIKAST_CAI_RUN_BACKEND_H

#include "base/pool.h"
#include "cai/run_config.h"
#include "tensor/backend.h"

/* threads: 0 as pool_open. local_rank: of this machine's ranks, which have a GPU each (ranks_gpu). *pool and *be, zero before, are the
 * caller's to close, also after a failure. */
bool run_backend_open(Pool **pool, Backend **be, const RunConfig *cfg, int threads, int local_rank, Error *err);
const char *run_backend_bits(const RunConfig *cfg);     /* backend_bits of it: part of every key */

#endif
