/* tensor/cuda/sample.cu — drawing tokens where the logits are: one block a row, one number back instead of a
 * vocabulary.
 *
 * The row is cut into tiles of TILE words; tile sums of exp((z - max) / temp) are F32 butterflies, their running total
 * is a double, and the tile that u * total falls into is walked through word by word. Everything is in index order, so
 * a row's draw depends on its logits, temperature and u alone. */
#include <stdlib.h>

#include "tensor/cuda/launch.h"

enum { THREADS = 256, EACH = 4, TILE = THREADS * EACH, WARPS = THREADS / 32 };

struct DrawRow {
    float temp;
    float pad;
    double u;
};

/* p of this thread's EACH words of tile t; 0 behind the row's end. */
__device__ __forceinline__ void tile_terms(float p[EACH], const float *z, int64_t n, int64_t t, float top, float inv) {
    for (int e = 0; e < EACH; e++) {
        int64_t j = t * TILE + threadIdx.x * EACH + e;
        p[e] = j < n ? expf((z[j] - top) * inv) : 0.0f;
    }
}

__device__ int first_top(const float *z, int64_t n, float top, float *at) {
    int64_t best = n;
    for (int64_t j = threadIdx.x; j < n && best == n; j += THREADS)
        if (z[j] == top) best = j;
    /* the least index: a maximum of negatives, exact in F32 below 2^24 words */
    return (int)-block_max(-(float)best, at, WARPS);
}

__global__ void __launch_bounds__(THREADS)
    draw_rows(int32_t *token, const float *logits, int64_t ld, int64_t n, const DrawRow *rows) {
    SHARED_DYNAMIC(raw);
    float *at = (float *)raw; /* (WARPS) */
    float *sum = at + 32;     /* (tiles) */
    double *walk =
        (double *)(raw + 128 +
                   (((n + TILE - 1) / TILE * 4 + 15) / 16 * 16)); /* [0] target, [1] before; then (THREADS) */
    const float *z = logits + blockIdx.x * ld;
    DrawRow r = rows[blockIdx.x];
    float top = -INFINITY, bad = 0;
    for (int64_t j = threadIdx.x; j < n; j += THREADS) {
        top = fmaxf(top, z[j]);
        bad += z[j] < INFINITY ? 0.0f : 1.0f; /* infinite or no number; -infinity is a masked word */
    }
    top = block_max(top, at, WARPS);
    bad = block_sum(bad, at, WARPS);
    if (bad > 0 || top == -INFINITY) {
        if (threadIdx.x == 0) token[blockIdx.x] = -1;
        return;
    }
    if (r.temp == 0) {
        int best = first_top(z, n, top, at);
        if (threadIdx.x == 0) token[blockIdx.x] = best;
        return;
    }
    float inv = 1.0f / r.temp;
    int64_t tiles = (n + TILE - 1) / TILE;
    for (int64_t t = 0; t < tiles; t++) {
        float p[EACH];
        tile_terms(p, z, n, t, top, inv);
        float s = block_sum((p[0] + p[1]) + (p[2] + p[3]), at, WARPS);
        if (threadIdx.x == 0) sum[t] = s;
    }
    sync_block();
    if (threadIdx.x == 0) {
        double total = 0, run = 0;
        for (int64_t t = 0; t < tiles; t++) total += sum[t];
        double goal = r.u * total;
        int64_t t = 0;
        while (t + 1 < tiles && run + sum[t] <= goal) run += sum[t++];
        walk[0] = goal;
        walk[1] = run;
        sum[0] = (float)t; /* which tile */
    }
    sync_block();
    int64_t t = (int64_t)sum[0];
    float p[EACH];
    tile_terms(p, z, n, t, top, inv);
    walk[2 + threadIdx.x] = (double)p[0] + p[1] + p[2] + p[3];
    sync_block();
    if (threadIdx.x > 0) return;
    double run = walk[1], goal = walk[0];
    int i = 0;
    while (i + 1 < THREADS && run + walk[2 + i] <= goal) run += walk[2 + i++];
    /* Rounding may leave the goal just behind the last word with mass: then that word. */
    int64_t pick = -1, last = -1, first = t * TILE + (int64_t)i * EACH;
    for (int64_t j = first; j < first + EACH && j < n; j++) {
        double q = expf((z[j] - top) * inv);
        if (q > 0) last = j;
        run += q;
        if (run > goal && q > 0) {
            pick = j;
            break;
        }
    }
    if (pick < 0) pick = last;
    for (int64_t j = first < n ? first : n - 1; pick < 0; j--)
        if (expf((z[j] - top) * inv) > 0) pick = j;
    token[blockIdx.x] = (int32_t)pick;
}

extern "C" void cuda_draw(Backend *be, int32_t *token, Tensor logits, const float *temp, const double *u) {
    cuda_check("draw", "logits", logits, logits.rows, logits.cols, CUDA_REAL);
    CHECK(logits.cols < 1 << 24, "draw: a vocabulary of %lld", (long long)logits.cols);
    if (logits.rows == 0) return;
    int n = (int)logits.rows;
    DrawRow *host = (DrawRow *)mem_alloc((size_t)n * sizeof *host);
    for (int i = 0; i < n; i++) host[i].temp = temp[i], host[i].u = u[i];
    const DrawRow *rows = (const DrawRow *)cuda_bytes(be, host, (size_t)n * sizeof *host);
    free(host);
    int32_t *device = (int32_t *)cuda_scratch(be, (size_t)n * sizeof *device);
    size_t tiles = (size_t)(logits.cols + TILE - 1) / TILE,
           shared = 128 + (tiles * 4 + 15) / 16 * 16 + (THREADS + 2) * 8;
    LAUNCH(be, draw_rows, n, THREADS, shared, device, (const float *)logits.data, logits.ld, logits.cols, rows);
    cuda_fetch(be, token, device, (size_t)n * sizeof *device);
}
