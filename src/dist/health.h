/* dist/health.h — two questions about ranks that all seem well: is one slow, and is one wrong?
 *
 * Pace. A rank reports, about once a second, the mean time of the passes it made through a section meanwhile. Its score among
 * its peers is (median of the fastest rank) / (its own median), against itself (its best window) / (its last one): 1 is as
 * fast as can be, below HEALTH_SLOW it is a straggler. Waiting for others is no work, so COMM has no pace.
 *
 * Replicas. Data-parallel replicas hold equal bits, always. Parameters are hashed in buckets (XXH3-128 of consecutive bytes);
 * a rank whose hash of a bucket is in the minority has been changed by something that was not training. */
#ifndef DIKAST_DIST_HEALTH_H
#define DIKAST_DIST_HEALTH_H

#include "base/hash.h"

enum { PACE_WINDOWS = 16, PACE_LEAST = 3 };     /* windows kept; fewer than that are no judgement */
#define HEALTH_SLOW 0.75

typedef struct { double window[PACE_WINDOWS]; int n; } Pace;      /* seconds a pass; zeroed is empty */
void pace_add(Pace *p, double seconds);
double pace_median(const Pace *p);              /* of the windows kept; NaN before PACE_LEAST of them */
/* score[r] of n ranks in one section; NaN where a rank has no median yet. */
void pace_scores(double *score, const Pace *p, int n);

typedef struct { Hash *out; int cap, n; size_t bucket, used; Hasher *h; } BucketHash;
void bucket_hash_begin(BucketHash *b, Hash *out, int cap, size_t bucket_bytes);
void bucket_hash_add(BucketHash *b, const void *p, size_t n);   /* CHECKs that the buckets suffice */
int bucket_hash_end(BucketHash *b);             /* buckets written */

typedef struct { int bucket, rank; bool tie; } Corrupt;         /* tie: no majority, so any rank may be the wrong one */
/* hash: (n_rank, n_bucket), row-major. Writes at most cap rows, by bucket then rank; returns how many there are. */
int replicas_compare(Corrupt *out, int cap, const Hash *hash, int n_rank, int n_bucket);

#endif
