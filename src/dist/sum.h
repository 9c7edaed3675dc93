/* dist/sum.h — one array per rank, added up in order of ranks: ((x_0 + x_1) + x_2) + ..  Every rank gets the same bits, and they follow
 * from the number of ranks alone, whatever moves the bytes.
 *
 * Rank r of t owns elements [n r / t, n (r+1) / t), o_r of them: it gets all ranks' (all_to_all), adds, and hands the sums round
 * (all_gather). Bytes sent: (n - o_r) B, then (t-1) o_r B: together 2 (t-1)/t n B where t divides n, a ring's all-reduce. */
#ifndef DIKAST_DIST_SUM_H
#define DIKAST_DIST_SUM_H

#include "dist/comm.h"

/* to += from, n elements of F32 or F64 in host memory. */
void sum_add(void *to, const void *from, int64_t n, DType dtype);
/* x (n), F32 or F64, in host memory: becomes the sum. spare: room for sum_spare(c, n) elements. */
void sum_ranks(Comm *c, void *x, void *spare, int64_t n, DType dtype, const char *site);
/* The first half: part[q] elements of x, one part behind the other, are rank q's. The first part[own rank] of out (room for that many from
 * every rank) become the sum of what all have for this one. */
void sum_to_owners(Comm *c, void *out, const void *x, const int64_t *part, DType dtype, const char *site);
static inline int64_t sum_spare(const Comm *c, int64_t n) { return n + comm_size(c); }

#endif
