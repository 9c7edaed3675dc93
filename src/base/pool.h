/* base/pool.h — compute threads. A region is n tiles, an equal run of them for the caller and each worker, who take from
 * others when theirs are done; a waiter spins some 30 microseconds, then sleeps on a futex. Workers whose CPU other programs
 * take rest, so that two threads beside a busy core are not slower than one. Tile sizes depend on shapes alone and
 * partial results go to slots by tile number, so no result depends on the thread count:
 *
 *      pool_for(pool, n_tile, tile_sum, &job);                         part[t] = sum of tile t, on whichever thread
 *      for (int64_t t = 0; t < n_tile; t++) sum += part[t];            in order, on one thread
 *
 * Regions do not nest: pool_for inside a tile runs the tiles on the calling thread. One region at a time per pool. */
#ifndef DIKAST_BASE_POOL_H
#define DIKAST_BASE_POOL_H

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Pool Pool;
typedef void PoolFn(void *ud, int64_t tile, int thread);    /* thread: 0..pool_threads-1, for scratch only */

bool pool_open(Pool **out, int n_thread, Error *err);       /* 0: affinity mask and cgroup quota decide */
void pool_close(Pool *p);
int pool_threads(const Pool *p);
/* For fetching ahead only, in a region of n_tile: which tile its thread most likely takes after this one, -1: none; and
 * where a thread begins. */
int64_t pool_next(const Pool *p, int64_t n_tile, int64_t tile);
int64_t pool_first(const Pool *p, int64_t n_tile, int thread);
void pool_for(Pool *p, int64_t n_tile, PoolFn *fn, void *ud);
int pool_cpus(void);                                        /* usable CPUs: affinity mask, cgroup quota */

#ifdef __cplusplus
}
#endif

#endif
