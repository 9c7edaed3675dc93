#include "eval/pyrandom.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 624, M = 397 };

static void seed_one(PyRandom *r, uint32_t s) {
    r->state[0] = s;
    for (uint32_t i = 1; i < N; i++) r->state[i] = 1812433253u * (r->state[i - 1] ^ (r->state[i - 1] >> 30)) + i;
    r->at = N;
}

/* init_by_array with the seed's 32-bit digits, the lowest first. */
void pyrandom_seed(PyRandom *r, uint64_t seed) {
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    int n_key = key[1] ? 2 : 1, i = 1, j = 0;
    uint32_t *s = r->state;
    seed_one(r, 19650218u);
    for (int k = N; k > 0; k--) {
        s[i] = (s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1664525u)) + key[j] + (uint32_t)j;
        if (++i == N) s[0] = s[N - 1], i = 1;
        if (++j == n_key) j = 0;
    }
    for (int k = N - 1; k > 0; k--) {
        s[i] = (s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1566083941u)) - (uint32_t)i;
        if (++i == N) s[0] = s[N - 1], i = 1;
    }
    s[0] = 0x80000000u;
}

static uint32_t next_u32(PyRandom *r) {
    uint32_t *s = r->state;
    if (r->at == N) {
        for (int i = 0; i < N; i++) {
            uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % N] & 0x7fffffffu);
            s[i] = s[(i + M) % N] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        r->at = 0;
    }
    uint32_t y = s[r->at++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

double pyrandom_unit(PyRandom *r) {
    uint32_t a = next_u32(r) >> 5, b = next_u32(r) >> 6;
    return ((double)a * 67108864.0 + (double)b) / 9007199254740992.0;
}

uint32_t pyrandom_below(PyRandom *r, uint32_t n) {
    int bits = 0;
    for (uint32_t m = n; m; m >>= 1) bits++;
    uint32_t v;
    do v = next_u32(r) >> (32 - bits);
    while (v >= n);
    return v;
}

/* A list of what is left where that is not much larger than the set of what was drawn. */
void pyrandom_sample(PyRandom *r, int *out, int n, int k) {
    CHECK(k >= 0 && k <= n, "a sample of %d from %d", k, n);
    double set_size = 21;
    if (k > 5) set_size += pow(4, ceil(log((double)k * 3) / log(4)));
    int *pool = mem_alloc((size_t)(n + 1) * sizeof *pool);
    for (int i = 0; i < n; i++) pool[i] = i;
    for (int i = 0; i < k; i++) {
        if ((double)n <= set_size) {
            uint32_t j = pyrandom_below(r, (uint32_t)(n - i));
            out[i] = pool[j];
            pool[j] = pool[n - i - 1];
        } else {
            uint32_t j;
            do j = pyrandom_below(r, (uint32_t)n);
            while (pool[j] < 0);
            pool[j] = -1;
            out[i] = (int)j;
        }
    }
    free(pool);
}
