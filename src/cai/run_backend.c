#include "cai/run_backend.h"

#include <stdio.h>

#include "cai/ranks.h"
#include "cai/run_check.h"

/* "cuda:1" */
static void backend_name(char *out, size_t n, const RunConfig *cfg, int local_rank) {
    static const char *const name[] = {"cpu", "ref", "cuda"};
    int at = snprintf(out, n, "%s", name[cfg->run.backend]);
    int device = cfg->run.backend == RUN_CUDA ? ranks_gpu(cfg, local_rank) : (int)cfg->run.device;
    if (device > 0) snprintf(out + at, n - (size_t)at, ":%d", device);
}

static const char *isa_name(const RunConfig *cfg) {
    static const char *const name[] = {"auto", "scalar", "avx2", "avx512", "avx512_bf16", "exact", "amx"};
    return name[cfg->run.isa];
}

const char *run_backend_bits(const RunConfig *cfg) {
    char backend[32];
    backend_name(backend, sizeof backend, cfg, 0);
    return backend_bits(backend, isa_name(cfg), cfg->run.dtype == 0 ? DTYPE_F32 : DTYPE_BF16);
}

bool run_backend_open(Pool **pool, Backend **be, const RunConfig *cfg, int threads, int local_rank, Error *err) {
    char backend[32];
    backend_name(backend, sizeof backend, cfg, local_rank);
    return pool_open(pool, threads, err) && backend_open(be, backend, *pool, isa_name(cfg), err) &&
           (cfg->run.dtype == 0 || backend_set_dtype(*be, DTYPE_BF16, err) || error_wrap(err, "run.dtype"));
}
