/* cai/replay.h — any optimizer step of a stage made again, and compared with what its metrics.jsonl says. */
#ifndef DIKAST_CAI_REPLAY_H
#define DIKAST_CAI_REPLAY_H

#include "cai/pipeline.h"

typedef struct {
    const char *run_dir, *stage;    /* a stage that trains */
    int64_t step;                   /* row of its metrics.jsonl, from 1: a step; of stage rl an update of several */
    bool show;                      /* the text of every sequence, too */
    bool json;
} ReplayRequest;
/* Trains the stage again, in a folder of its own, up to that step: from its beginning, or, while the stage is unfinished, from the
 * state it keeps where that lies before the step. *out: its forward passes (tokens, rows, loss, text) and every value of the row
 * beside what was recorded. ERR_STATE when one differs. The inputs are those of the run: ERR_CONFIG, with what to do, when their
 * hash is not the stage's key any more. */
bool pipeline_replay(Str *out, const ReplayRequest *q, Log *log, const Stop *stop, Error *err);

#endif
