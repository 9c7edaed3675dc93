/* nn/cut.h — the rows of a micro-batch divided over the ranks of a group (context parallel; Llama Team 2024, section 3.3.2).
 *
 * Attention costs a row the more the later it stands, so a sequence is dealt out from both ends: in the order 0, n-1, 1, n-2, .. of its
 * n rows every rank takes n / c that follow each other, and what is left over goes round, from where the sequence before stopped.
 *
 *      row    0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
 *      rank   0  0  1  1  2  2  3  3  3  3  2  2  1  1  0  0         n = 16, c = 4: that section's 2c chunks
 *
 * So ranks have equal numbers of rows, to one, and of every sequence equal numbers of (query, key) pairs, to about n; of short
 * sequences beside long ones, too. A rank has at most two runs of rows of a sequence, and its rows stand in their order.
 *
 * All ranks make the same cut of the same batch, and say nothing. A rank that would have no row, or none that the head reads, works on
 * one nobody asked for, whose gradient is 0: so all make the same calls. */
#ifndef DIKAST_NN_CUT_H
#define DIKAST_NN_CUT_H

#include "nn/model.h"

typedef struct { int32_t first, n; } CutRun;        /* rows [first, first + n) of the whole */

struct Cut {
    int rank, n_rank;
    int n_all;                      /* rows of the whole */
    const CutRun *run;              /* of rank q: [run_off[q], run_off[q+1]), in the order of its rows */
    const int32_t *run_off;         /* (c+1) */
    const int32_t *n_row;           /* (c) rows of each rank; 0: it has one of nobody's instead */
    const int32_t *pick, *pick_off; /* (R), (c+1): chosen rows of rank q, as numbers among the whole's R, ascending */
};

typedef struct CutBuf {             /* zeroed is valid and empty; grows, never shrinks */
    Cut cut;
    Batch mine;                     /* this rank's: its sequences are runs, each of whose queries see the keys of the whole */
    CutRun *run;
    int32_t *run_off, *n_row, *pick, *pick_off, *owner;         /* owner (n_all): whose row that is */
    int32_t *tok, *pos, *row, *q_off, *kv_len, *kv_page;
    int cap_run, cap_all, cap_rank, cap_own, cap_seq, cap_page;
} CutBuf;

/* Most rows of a rank. */
static inline int cut_rows(int n_all, int n_rank) { return (n_all + n_rank - 1) / n_rank; }
/* whole: a training batch (no cache, no shared rows), borrowed for the cut and mine. */
void cut_batch(CutBuf *buf, const Batch *whole, int rank, int n_rank);
void cut_release(CutBuf *buf);

#endif
