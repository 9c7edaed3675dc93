/* nn/row_parts.h — rows of outputs that are divided over tensor-parallel ranks (vocabulary parallel, Shoeybi et al. 2019, sec. 3).
 *
 * Of each row a rank tells what its columns say: the greatest logit, the sum of exponentials, the target's logit (0 of one that is
 * elsewhere) and, where entropy is asked for, the moment. From these every rank adds up the same numbers, in order of ranks and in
 * F64, so all have equal bits; they are the same for training (train/logp.c) and generation (engine/), which is what lets a ratio
 * be 1 exactly. Told: 3 numbers (4 with entropy) of 8 bytes a row, one all_gather. */
#ifndef DIKAST_NN_ROW_PARTS_H
#define DIKAST_NN_ROW_PARTS_H

#include "nn/model.h"

enum { ROW_TOLD = 3, ROW_TOLD_ENTROPY = 4 };

typedef struct {            /* zeroed is valid and empty; bound to the backend of the first call */
    Comm *group;
    int64_t begin;          /* the first of the columns that are here */
    int cap;                /* rows */
    Tensor stat;            /* (rows, 4) */
    double *said, *all;     /* (rows, 4), by rank */
    int32_t *target;        /* (rows) among the columns here, or -1 */
    Arena mem;
} RowParts;

typedef struct { double top, sum, moment, target; } RowSum;    /* of all columns: max z, sum e^(z - max), its moment, z[target] */

void row_parts_of(RowParts *p, Net net);                        /* group NULL where the net's outputs are not divided */
void row_parts_reserve(RowParts *p, Backend *be, int n);
/* What is to be told of rows [first, first + logits.rows) of a slice; target counts through all columns. */
void row_parts_say(RowParts *p, Backend *be, int first, Tensor logits, const int32_t *target, float temp, bool entropy);
void row_parts_tell(RowParts *p, int n, bool entropy, const char *site);    /* of rows [0, n); every rank of the group */
RowSum row_parts_sum(const RowParts *p, int row, int n, bool entropy);
double row_parts_elsewhere(const RowParts *p, int row, int n, bool entropy, double top);   /* sum e^(z - top) of the other ranks' */
void row_parts_release(RowParts *p);

#endif
