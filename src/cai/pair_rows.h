/* cai/pair_rows.h — pairs.jsonl and labels.jsonl read back together. */
#ifndef DIKAST_CAI_PAIR_ROWS_H
#define DIKAST_CAI_PAIR_ROWS_H

#include "cai/stages.h"

typedef struct {
    const char *id, *prompt_id, *kind, *category, *prompt, *a, *b;
    double q, weight;       /* of the label: P(a preferred); weight 0: abstained. q NaN: no label read */
} PairRow;
typedef struct { PairRow *item; int n, cap, at; Heap heap; } PairRows;
bool pair_rows_read(PairRows *p, const char *pairs_dir, const char *label_dir, Error *err);  /* label_dir NULL: pairs only */
void pair_rows_release(PairRows *p);

#endif
