/* train/pipe.h — micro-batches through the stages of a pipeline: one forward, one backward (1F1B; Narayanan et al. 2021, section 2.2).
 *
 *      stage 0   F0 F1 F2 .  .  .  .  B0 B0 F3 B1 B1 .  B2 B2 ..     F: forward, B: backward of a micro-batch; p = 3
 *      stage 1   .  F0 F1 .  .  B0 B0 F2 B1 B1 F3 B2 B2 .  ..        stage s makes w = min(p - s - 1, n) forwards before its
 *      stage 2   .  .  F0 B0 B0 F1 B1 B1 F2 B2 B2 F3 B3 B3 ..        first backward: it holds w + 1 <= p - s micro-batches
 *
 * What travels, per micro-batch of N tokens and boundary: the residual stream N C forward, its gradient N C back, be->real (2 s b h B
 * bytes; group "pp"). Where the embedding is tied to the head, a micro-batch's gradient must be what one rank adds up in one
 * tensor: the head's part first, slice by slice, then the embedding's, token by token. So the last stage sends the head's part, V C
 * stored elements, to the first (group "ends"), which begins its backward's sum with it; the weights are the first stage's, and
 * their copy is refreshed after every update (net_share_tied). Where the first stage is by then, the last one is some micro-batches
 * further: it keeps pipe_lag + 1 of them, in host memory.
 *
 * Sends and receives wait for each other, so their order must not close a circle: pipe_schedule is that order, for one stage, and
 * tests/test_train_pipe.c plays all stages' against each other. Before them all ranks read the step's micro-batches and agree
 * (pipe_fill); what fails later on one rank is kept until all passes are through, and nobody waits for anybody in vain. */
#ifndef DIKAST_TRAIN_PIPE_H
#define DIKAST_TRAIN_PIPE_H

#include "dist/mesh.h"
#include "train/objective.h"

/* -- the order */

typedef enum { PIPE_RECV_X, PIPE_FORWARD, PIPE_SEND_X, PIPE_RECV_HEAD, PIPE_RECV_DX, PIPE_BACKWARD, PIPE_SEND_HEAD, PIPE_SEND_DX } PipeOp;
typedef struct { PipeOp op; int64_t i; } PipeStep;
/* Of stage `stage` of n_stage >= 2 for micro-batches 0..n-1; tied: with the head's gradients. out: (8 n); returns the number of steps. */
int64_t pipe_schedule(PipeStep *out, int stage, int n_stage, int64_t n, bool tied);
/* Micro-batches that the last stage is ahead when it sends a head's gradient. Stages are p apart and a backward takes two forwards:
 * at two thirds of p both ends wait least. */
static inline int pipe_lag(int n_stage) { return (2 * n_stage - 3) / 3; }

/* -- passes */

enum { PIPE_LANES = 2 };
typedef struct { Net net; int max_seen; } PipeLane;     /* max_seen: rows for acts_share; 0: none */
typedef struct {
    void *ud;
    Pulse *pulse;
    /* Fills micro-batch i. lanes: bit k, net k makes a pass over it; trained: and a backward. Equal answers on every stage, and to
     * every call: made once by pipe_fill, and on the last stage again before its losses. */
    bool (*batch)(void *ud, int64_t i, Batch *b, unsigned *lanes, unsigned *trained, Error *err);
    /* Last stage, after net's forward: head and loss, and the head's backward where it trains. */
    bool (*loss)(void *ud, int64_t i, int lane, Acts *a, const Batch *b, bool train, Error *err);
    bool (*done)(void *ud, int64_t i, Error *err);      /* the gradients hold micro-batch i, which is done */
    void (*lost)(void *ud);     /* of a run that failed: in place of done */
} PipeWork;

typedef struct Pipe Pipe;
/* Activations of (p - stage) micro-batches of max_tok tokens for each net. mesh: borrowed, of two stages at least. */
bool pipe_open(Pipe **out, const PipeLane *lane, int n_lane, const Mesh *mesh, int max_tok, int max_row, Keep keep, Error *err);
void pipe_close(Pipe *p);
typedef struct { int64_t first, step, n; } PipeRun;      /* micro-batches first, first + step, ..: n of them */
/* Those of this pipeline. mine: this rank's fate so far. Every rank of the mesh's world calls it; false: as agree. */
bool pipe_fill(Pipe *p, const PipeWork *w, PipeRun run, const Error *mine, Error *err);
/* Their passes, after pipe_fill. False: this rank's error; the others may be well, so an agreement follows. */
bool pipe_run(Pipe *p, const PipeWork *w, Error *err);

#endif
