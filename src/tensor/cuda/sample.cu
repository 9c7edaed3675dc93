/* tensor/cuda/sample.cu — drawing tokens where the logits are: one block a row, one number back instead of a
 * vocabulary.
 *
 * The row is cut into tiles of TILE words, these into SLOTS slots of a warp's width; sums of exp((z - max) / temp) over
 * a slot and a tile are F32 butterflies, their running total is a double, and the tile that u * total falls into is
 * walked through by fours, then word by word. Everything is in index order, so
 * a row's draw depends on its logits, temperature and u alone. */
#include <stdlib.h>

#include "tensor/cuda/launch.h"

enum { THREADS = 1024, WARPS = THREADS / 32, EACH = 4, SLOT = 32 * EACH, SLOTS = 8, TILE = SLOTS * SLOT, WALK = 8 };

struct DrawRow {
    float temp;
    float pad;
    double u;
};

/* This lane's EACH logits of slot `slot`, those of words `from`..; `other` behind the row's end. wide: rows begin at
 * multiples of 16 bytes and are multiples of EACH long. */
__device__ __forceinline__ void slot_get(float z[EACH], const float *row, int64_t n, int64_t slot, bool wide,
                                         float other) {
    int64_t j = slot * SLOT + threadIdx.x % 32 * EACH;
    for (int e = 0; e < EACH; e++) z[e] = other;
    if (wide && j < n) {
        f32x4 v = *(const f32x4 *)(row + j);
        for (int e = 0; e < EACH; e++) z[e] = v.v[e];
    } else {
        for (int e = 0; e < EACH; e++)
            if (j + e < n) z[e] = row[j + e];
    }
}

/* The least index of a word whose logit is `top`: a maximum of negatives, exact in F32 below 2^24 words. */
__device__ int first_top(const float *row, int64_t n, bool wide, float top, float *at) {
    int64_t best = n;
    for (int64_t slot = threadIdx.x / 32; slot * SLOT < n; slot += WARPS) {
        float z[EACH];
        slot_get(z, row, n, slot, wide, -INFINITY);
        for (int e = EACH - 1; e >= 0; e--) {
            int64_t j = slot * SLOT + threadIdx.x % 32 * EACH + e;
            if (z[e] == top && j < best) best = j;
        }
    }
    return (int)-block_max(-(float)best, at, WARPS);
}

/* Number of the first term at which the running sum passes goal, at most n - 1; run: the sum before it. */
template <typename T> __device__ int walk_to(const T *term, int n, double goal, double *run) {
    int i = 0;
    double sum = *run;
    while (i + 1 < n) {
        T v[WALK]; /* loads that do not wait for the sums */
        for (int q = 0; q < WALK; q++) v[q] = i + q < n ? term[i + q] : (T)0;
        for (int q = 0; q < WALK; q++) {
            if (i + 1 >= n || sum + v[q] > goal) {
                *run = sum;
                return i;
            }
            sum += v[q], i++;
        }
    }
    *run = sum;
    return i;
}

/* Word of the tile's quadruple number i at which run, the sum before it, passes goal. Rounding may leave the goal just
 * behind the last word with mass: then that word. */
__device__ int64_t pick_word(const float *row, int64_t n, int64_t first, double run, double goal, float top,
                             float inv) {
    int64_t last = -1;
    for (int64_t j = first; j < first + EACH && j < n; j++) {
        double q = expf((row[j] - top) * inv);
        if (q > 0) last = j;
        run += q;
        if (run > goal && q > 0) return j;
    }
    for (int64_t j = first < n ? first : n - 1; last < 0; j--)
        if (expf((row[j] - top) * inv) > 0) last = j;
    return last;
}

__global__ void __launch_bounds__(THREADS)
    draw_rows(int32_t *token, const float *logits, int64_t ld, int64_t n, bool wide, const DrawRow *rows) {
    SHARED_DYNAMIC(raw);
    const int64_t tiles = (n + TILE - 1) / TILE;
    float *at = (float *)raw; /* (WARPS) */
    double *quad = (double *)(raw + 32 * 4),
           *goal_run = quad + 256; /* of a tile: sums of words by fours; goal and sum before */
    float *slot_sum = (float *)(goal_run + 2), *tile_sum = slot_sum + tiles * SLOTS;
    __shared__ int64_t which;
    const float *row = logits + blockIdx.x * ld;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    DrawRow r = rows[blockIdx.x];
    float top = -INFINITY, bad = 0;
    for (int64_t slot = warp; slot * SLOT < n; slot += WARPS) {
        float z[EACH];
        slot_get(z, row, n, slot, wide, -INFINITY);
        for (int e = 0; e < EACH; e++) {
            top = fmaxf(top, z[e]);
            bad += z[e] < INFINITY ? 0.0f : 1.0f; /* infinite or no number; -infinity is a masked word */
        }
    }
    top = block_max(top, at, WARPS);
    bad = block_sum(bad, at, WARPS);
    if (bad > 0 || top == -INFINITY) {
        if (threadIdx.x == 0) token[blockIdx.x] = -1;
        return;
    }
    if (r.temp == 0) {
        int best = first_top(row, n, wide, top, at);
        if (threadIdx.x == 0) token[blockIdx.x] = best;
        return;
    }
    float inv = 1.0f / r.temp, p[EACH];
    for (int64_t slot = warp; slot < tiles * SLOTS; slot += WARPS) {
        slot_get(p, row, n, slot, wide, -INFINITY);
        for (int e = 0; e < EACH; e++) p[e] = expf((p[e] - top) * inv);
        float sum = warp_sum((p[0] + p[1]) + (p[2] + p[3]));
        if (lane == 0) slot_sum[slot] = sum;
    }
    sync_block();
    for (int64_t t = warp; t < tiles; t += WARPS) {
        float sum = warp_sum(lane < SLOTS ? slot_sum[t * SLOTS + lane] : 0.0f);
        if (lane == 0) tile_sum[t] = sum;
    }
    sync_block();
    if (threadIdx.x == 0) {
        double total = 0, run = 0;
        for (int64_t t = 0; t < tiles; t++) total += tile_sum[t];
        double goal = r.u * total;
        which = walk_to(tile_sum, (int)tiles, goal, &run);
        goal_run[0] = goal, goal_run[1] = run;
    }
    sync_block();
    if (warp < SLOTS) {
        slot_get(p, row, n, which * SLOTS + warp, wide, -INFINITY);
        for (int e = 0; e < EACH; e++) p[e] = expf((p[e] - top) * inv);
        quad[threadIdx.x] = (double)p[0] + p[1] + p[2] + p[3];
    }
    sync_block();
    if (threadIdx.x > 0) return;
    double run = goal_run[1], goal = goal_run[0];
    int i = walk_to(quad, SLOTS * 32, goal, &run);
    token[blockIdx.x] = (int32_t)pick_word(row, n, which * TILE + (int64_t)i * EACH, run, goal, top, inv);
}

extern "C" void cuda_draw(Backend *be, int32_t *token, float *logprob, Tensor logits, const float *temp,
                          const double *u) {
    cuda_check("draw", "logits", logits, logits.rows, logits.cols, CUDA_REAL);
    CHECK(logits.cols < 1 << 24, "draw: a vocabulary of %lld", (long long)logits.cols);
    if (logits.rows == 0) return;
    int n = (int)logits.rows;
    DrawRow *host = (DrawRow *)mem_alloc((size_t)n * sizeof *host);
    for (int i = 0; i < n; i++) host[i].temp = temp[i], host[i].u = u[i];
    const DrawRow *rows = (const DrawRow *)cuda_bytes(be, host, (size_t)n * sizeof *host);
    free(host);
    struct Drawn {
        int32_t token;
        float logprob;
    };
    static_assert(sizeof(Drawn) == 8, "tokens, then log-probs, in one piece");
    int32_t *device = (int32_t *)cuda_scratch(be, (size_t)n * sizeof(Drawn)), *got;
    size_t tiles = (size_t)(logits.cols + TILE - 1) / TILE, shared = 32 * 4 + 258 * 8 + tiles * (SLOTS + 1) * 4;
    bool wide = (uintptr_t)logits.data % 16 == 0 && logits.cols % EACH == 0 && (n == 1 || logits.ld % EACH == 0);
    LAUNCH(be, draw_rows, n, THREADS, shared, device, (const float *)logits.data, logits.ld, logits.cols, wide, rows);
    for (int i = 0, end; logprob && i < n; i = end) { /* runs of equal temperatures */
        for (end = i + 1; end < n && temp[end] == temp[i];) end++;
        cuda_logprob_drawn(be, (float *)(device + n) + i, tensor_rows(logits, i, end - i), device + i,
                           temp[i] > 0 ? temp[i] : 1.0f);
    }
    got = (int32_t *)mem_alloc((size_t)n * sizeof(Drawn));
    cuda_fetch(be, got, device, (size_t)n * (logprob ? sizeof(Drawn) : sizeof *device));
    memcpy(token, got, (size_t)n * sizeof *token);
    if (logprob) memcpy(logprob, got + n, (size_t)n * sizeof *logprob);
    free(got);
}
