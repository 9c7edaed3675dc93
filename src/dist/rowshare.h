/* dist/rowshare.h — matrices whose rows the ranks of a group divide (sequence parallel: Korthikanti et al. 2022, section 4.2.2).
 *
 * Rank r has rows [cut[r], cut[r+1]). A product whose inputs are divided by columns gives every rank a part of all rows' sums:
 * rowshare_sum brings each rank the sums of its own rows (reduce-scatter); rowshare_gather brings all rows to everybody (all-gather).
 *
 *      parts (N,C) of t ranks  -- rowshare_sum -->  own rows of the sum  -- residual, norm -->  own rows  -- rowshare_gather -->  (N,C)
 *
 * A sum is ((x_0 + x_1) + x_2) + .. in order of ranks, by the backend's add, so its bits follow from t alone, not from the cut and not
 * from what moves the bytes. Of n_r rows that rank r of t owns, it sends (n - n_r) C B in a sum and (t-1) n_r C B in a gathering.
 *
 * Bytes go straight from and to the backend's memory where the group can reach it (comm_reaches), else by way of the host. */
#ifndef DIKAST_DIST_ROWSHARE_H
#define DIKAST_DIST_ROWSHARE_H

#include "dist/comm.h"
#include "tensor/backend.h"

typedef struct {
    Backend *be;
    Comm *c;
    Tensor spare;       /* (t ceil(n/t), cols) of be->real: what comes from the others; work space between calls */
    HostRoom room;
    unsigned char *in, *out;    /* host copies, in it; NULL: not needed */
    int64_t *sent, *comes;      /* (t) */
} RowShare;

/* Room for sums and gatherings of up to n rows, of which no rank owns more than rowshare_most(n, t); in an arena of be->mem, measuring
 * or real. */
void rowshare_place(RowShare *w, Arena *mem, Backend *be, int t, int64_t n, int64_t cols);
void rowshare_open(RowShare *w, Comm *c);    /* once placed in real memory; c: of t ranks */
void rowshare_release(RowShare *w);
/* As evenly as whole rows go: rank r of t begins at row floor(n r / t). cut has t + 1 elements. */
static inline int64_t rowshare_begin(int64_t n, int r, int t) { return n * r / t; }
void rowshare_cut(int64_t *cut, int64_t n, int t);
static inline int64_t rowshare_most(int64_t n, int t) { return (n + t - 1) / t; }  /* rows of a rank, at most */

/* t (cut[t], cols), contiguous, be->real; stays as it was. Returns this rank's rows of the sum, which lie in spare. */
Tensor rowshare_sum(RowShare *w, Tensor t, const int64_t *cut, const char *site);
/* all (cut[t], cols) := everybody's own rows; both contiguous, of one dtype. own may lie in spare, not in all. */
void rowshare_gather(RowShare *w, Tensor all, Tensor own, const int64_t *cut, const char *site);
/* (n, cols) of that dtype in spare. */
Tensor rowshare_spare(const RowShare *w, DType dtype, int64_t n);

#endif
