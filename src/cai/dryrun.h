/* cai/dryrun.h — what the stages of a run will need, found out without running any.
 *
 * Memory is not computed by formulas of its own: each training stage's nets, optimizer, activations, sums of gradients and engines are
 * opened by the functions that the stage calls, over a backend that places and counts but holds nothing (tensor/dry.h), and so is what they keep
 * of the host for bytes that travel: gradients in buckets, keys of all ranks, heads' gradients of a pipeline. So the bytes
 * are those of the arenas, for the rank whose part is largest. Where a length follows from data that are not there yet, the largest it can be is
 * taken, and the row says "at most".
 *
 * Times divide the floating-point operations of matrix products by the rate at which this machine has just made such products; what a
 * stage generates, reads and writes is not in them. Nothing is written. */
#ifndef DIKAST_CAI_DRYRUN_H
#define DIKAST_CAI_DRYRUN_H

#include "cai/pipeline.h"

typedef struct {
    const char *stage;
    char dir[600];              /* where its result is, or will be */
    bool done, trains;
    const char *unknown;        /* why its memory cannot be told; NULL: it can */
    bool at_most;
    int64_t parameters, steps;  /* of what it trains; steps 0: as many as its epochs have */
    double tokens;              /* room in all its steps; 0: not known */
    size_t weights, gradients, optimizer, activations, sums, other;    /* other: logits, frozen nets, engines, caches */
    size_t device;              /* all of them, at their peak: bytes of the backend's memory, of one rank */
    size_t host;                /* beside it, of the rank with most of it: the copy that a state is written from, what travels between ranks */
    double disk;                /* bytes: the result and the states beside it */
    double flops, seconds;      /* 0: not known */
} StageNeed;

enum { DRY_STAGES = 24 };
typedef struct {
    StageNeed item[DRY_STAGES];
    int n, ranks, ranks_here;   /* ranks_here: on this machine */
    char backend[32];
    int vocab;
    bool vocab_at_most;         /* the tokenizer is not trained yet: it may find fewer */
    double room;                /* bytes that this machine has left for all its ranks; -1: not known */
    double disk_room;           /* of the file system of run.out; -1: not known */
    double flops_s;
} DryRun;

/* Checks all that a run checks before its first stage; errors as that would give. */
bool dry_run(DryRun *out, const RunConfig *cfg, const char *conf_path, Error *err);
/* ERR_MEMORY or ERR_IO when some stage cannot fit, with the keys to turn. */
bool dry_run_fits(const DryRun *d, const RunConfig *cfg, Error *err);

#endif
