/* cai/stage.h — a stage is a function from directories to a directory.
 *
 * Its result lies in <store>/<name>-<key>/, read-only once DONE exists (written last, after fsync of all else). The key
 * hashes stage name and version, the keys of its inputs, the content of the files it reads and the result-changing
 * configuration values of the sections it names. Weights pass as model/, text as JSONL. A stage never calls another.
 * Inside output/: manifest.json, ledger.json, metrics.jsonl, summary.json (numbers for the report), state/ (to resume). */
#ifndef DIKAST_CAI_STAGE_H
#define DIKAST_CAI_STAGE_H

#include "base/log.h"
#include "cai/run_config.h"
#include "data/ledger.h"
#include "dist/mesh.h"
#include "tensor/backend.h"
#include "train/trace.h"

enum { STAGE_MAX_NEEDS = 10 };

typedef struct {
    const RunConfig *cfg;
    Backend *be;
    const Mesh *mesh;           /* the ranks that run this stage together; NULL: this one alone, */
    struct Lead *lead;          /* with what those do that share its models (engine/lead.h); NULL: they are whole */
    Log *log;                   /* says nothing on all ranks but 0; NULL is fine */
    const Stop *stop;
    Ledger *ledger;             /* closed by the pipeline after run() */
    uint64_t seed;              /* of this stage: derived from run.seed and the stage's name */
    const char *data_dir;       /* where data files lie: data.dir, or the world stage's output */
    const char *output;         /* exists; may hold what an interrupted run of the same key left */
    const char *const *input;   /* directory per entry of the stage's needs[], NULL where that stage does not apply */
    const struct Stage *stage;
    const Trace *trace;         /* of a replay (cai/replay.h), else NULL */
} StageCtx;

typedef struct Stage {
    const char *name;           /* "pm" */
    const char *help;           /* one line */
    int version;                /* raised when equal inputs would now give another result */
    const char *needs[STAGE_MAX_NEEDS];     /* other stages */
    const char *section[14];     /* configuration sections that change its result: "pm.", "model." */
    /* false: this stage does not apply under this configuration (then needs[] entries naming it are NULL). NULL: always */
    bool (*applies)(const RunConfig *cfg);
    /* Calls add(ud, path) for every file below data_dir (or absolute) whose content it reads. NULL: none */
    void (*files)(const RunConfig *cfg, void (*add)(void *ud, const char *path), void *ud);
    /* It trains: every rank runs it, on its share of the work, and only rank 0 (stage_leads) writes. Other stages are rank 0's; where models
     * are divided (dist.tp), the ranks that share them follow what it generates and scores. */
    bool spread;
    bool makes_data;            /* its output is where data files lie for the stages behind it, a constitution among them (data.source: world) */
    bool uses_constitution;     /* its canonical hash enters the key */
    /* Whether it judges pairs: then judge.* enters the key, and a remote judge's key must be there before the run begins.
     * NULL: never. */
    bool (*uses_judge)(const RunConfig *cfg);
    /* Whether what it will need besides its inputs is there, asked before the run begins: nobody should train for hours to learn that
     * it is not. NULL: it needs nothing. */
    bool (*ready)(const RunConfig *cfg, Error *err);
    bool (*run)(const StageCtx *ctx, Error *err);
} Stage;

extern const Stage *const stages[];     /* in order, NULL at the end; pipeline, --help and docs walk this list */
const Stage *stage_find(const char *name);


#endif
