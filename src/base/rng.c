/* base/rng.c — Philox4x32-10: a bijection of the counter, keyed by the seed; ten rounds of two 32x32 products. */
#include "base/rng.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

static void philox(uint32_t c[4], uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c[0];
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t c1 = c[1], c3 = c[3];
        c[0] = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c[1] = (uint32_t)p1;
        c[2] = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c[3] = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

void rng_block(uint32_t out[4], Rng r, uint64_t item, uint32_t step) {
    uint32_t c[4] = {(uint32_t)item, (uint32_t)(item >> 32), step, 0};
    philox(c, (uint32_t)r.seed, (uint32_t)(r.seed >> 32) ^ r.stream);
    memcpy(out, c, sizeof c);
}

/* FNV-1a of the name, then one Philox block mixes it with the seed: names that differ by one bit give unrelated seeds.
 */
Rng rng_derive(Rng r, const char *name) {
    uint64_t h = 0xCBF29CE484222325u;
    for (const unsigned char *p = (const unsigned char *)name; *p; p++) h = (h ^ *p) * 0x100000001B3u;
    uint32_t out[4];
    rng_block(out, (Rng){.seed = r.seed, .stream = r.stream}, h, 0xFFFFFFFFu);
    return (Rng){.seed = (uint64_t)out[1] << 32 | out[0], .stream = r.stream};
}

uint32_t rng_u32(Rng r, uint64_t item, uint32_t step) {
    uint32_t out[4];
    rng_block(out, r, item, step);
    return out[0];
}

static double unit(uint32_t hi, uint32_t lo) { return (double)(((uint64_t)hi << 32 | lo) >> 11) * 0x1p-53; }

double rng_uniform(Rng r, uint64_t item, uint32_t step) {
    uint32_t out[4];
    rng_block(out, r, item, step);
    return unit(out[1], out[0]);
}

double rng_normal(Rng r, uint64_t item, uint32_t step) {
    uint32_t out[4];
    rng_block(out, r, item, step);
    double u = 1.0 - unit(out[1], out[0]); /* (0, 1]: the logarithm is finite */
    double v = unit(out[3], out[2]);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

uint32_t rng_below(Rng r, uint64_t item, uint32_t step, uint32_t n) {
    CHECK(n > 0, "rng_below: n = 0");
    uint32_t out[4];
    rng_block(out, r, item, step);
    /* 64 random bits times n: the bias is below 2^-32, so no rejection loop is needed. */
    uint64_t lo = (uint64_t)out[0] * n;
    uint64_t hi = (uint64_t)out[1] * n + (lo >> 32);
    return (uint32_t)(hi >> 32);
}

/* Fisher-Yates; draw i of this shuffle is coordinate (item, i). Wide ranges take 64-bit draws. */
void rng_shuffle(Rng r, uint64_t item, int64_t *order, int64_t n) {
    CHECK(n >= 0 && n < (int64_t)UINT32_MAX, "rng_shuffle: n = %lld", (long long)n);
    for (int64_t i = 0; i < n; i++) order[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = rng_below(r, item, (uint32_t)i, (uint32_t)(i + 1));
        int64_t t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
}
