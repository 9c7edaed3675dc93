/* cai/diff.h — what two runs do not have in common, in the order of the method: configuration, constitution, stages, records,
 * numbers. */
#ifndef DIKAST_CAI_DIFF_H
#define DIKAST_CAI_DIFF_H

#include "cai/pipeline.h"

typedef struct {
    const char *run_a, *run_b;  /* run directories */
    int examples;               /* records shown per kind of difference */
    bool json;
} DiffRequest;
/* Runs nothing and changes nothing. Records are compared by id, so two runs over the same prompts tell which dialogues, pairs,
 * labels and verdicts another constitution, seed or model has changed. */
bool pipeline_diff(Str *out, const DiffRequest *q, Error *err);

#endif
