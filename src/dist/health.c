#include "dist/health.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void pace_add(Pace *p, double seconds) {
    if (!(seconds > 0)) return;
    p->window[p->n++ % PACE_WINDOWS] = seconds;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, ascending);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

double pace_median(const Pace *p) {
    double v[PACE_WINDOWS];
    int n = p->n < PACE_WINDOWS ? p->n : PACE_WINDOWS;
    if (n < PACE_LEAST) return NAN;
    memcpy(v, p->window, (size_t)n * sizeof *v);
    return median(v, n);
}

void pace_scores(double *score, const Pace *p, int n) {
    double best = INFINITY;
    for (int r = 0; r < n; r++) {
        score[r] = pace_median(&p[r]);
        if (score[r] < best) best = score[r];
    }
    for (int r = 0; r < n; r++) score[r] = best / score[r];
}

/* -- replicas */

void bucket_hash_begin(BucketHash *b, Hash *out, int cap, size_t bucket_bytes) {
    CHECK(bucket_bytes > 0, "buckets of no bytes");
    *b = (BucketHash){.out = out, .cap = cap, .bucket = bucket_bytes};
}

static void close_bucket(BucketHash *b) {
    CHECK(b->n < b->cap, "more than %d buckets", b->cap);
    b->out[b->n++] = hasher_finish(b->h);
    b->h = NULL;
    b->used = 0;
}

void bucket_hash_add(BucketHash *b, const void *p, size_t n) {
    const unsigned char *at = p;
    while (n > 0) {
        size_t room = b->bucket - b->used, take = n < room ? n : room;
        if (!b->h) b->h = hasher_new();
        hasher_add(b->h, at, take);
        at += take;
        n -= take;
        b->used += take;
        if (b->used == b->bucket) close_bucket(b);
    }
}

int bucket_hash_end(BucketHash *b) {
    if (b->h) close_bucket(b);
    return b->n;
}

static int equal_to(const Hash *hash, int n_rank, int n_bucket, int bucket, Hash h) {
    int n = 0;
    for (int r = 0; r < n_rank; r++) n += hash_equal(hash[(int64_t)r * n_bucket + bucket], h);
    return n;
}

int replicas_compare(Corrupt *out, int cap, const Hash *hash, int n_rank, int n_bucket) {
    int n = 0;
    for (int b = 0; b < n_bucket; b++) {
        if (equal_to(hash, n_rank, n_bucket, b, hash[b]) == n_rank) continue;
        int most = 0;
        for (int r = 0; r < n_rank; r++) {
            int k = equal_to(hash, n_rank, n_bucket, b, hash[(int64_t)r * n_bucket + b]);
            if (k > most) most = k;
        }
        bool tie = 2 * most <= n_rank;
        for (int r = 0; r < n_rank; r++) {
            if (!tie && equal_to(hash, n_rank, n_bucket, b, hash[(int64_t)r * n_bucket + b]) == most) continue;
            if (n < cap) out[n] = (Corrupt){b, r, tie};
            n++;
        }
    }
    return n;
}
