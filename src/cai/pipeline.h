/* cai/pipeline.h — computes keys, runs what has no DONE, writes the run directory. */
#ifndef DIKAST_CAI_PIPELINE_H
#define DIKAST_CAI_PIPELINE_H

#include "cai/stage.h"

typedef struct { const char *name; char key[17]; double seconds; LoadSample load; bool cached, applies; char dir[600]; } StageResult;
typedef struct { char name[64], stage[24], text[160]; double value, bound; bool ok; } Gate;

typedef struct {
    char run_dir[512], report[560];
    StageResult stage[24];  /* in the order of stages[] */
    int n_stage;
    Gate gate[64];
    int n_gate;
    double seconds;
    bool follows;           /* a process of ranks that is not rank 0: it did its part, and there is nothing to say */
} PipelineResult;

/* only: run up to this stage and no further, without gates and report (NULL: all). Gates missed: returns false with ERR_GATE, result complete. */
bool pipeline_run(PipelineResult *out, const RunConfig *cfg, const char *conf_path, const char *only, Log *log,
                  const Stop *stop, Error *err);
/* ERR_CONFIG with what differs when the run's directory holds another configuration's run that is done, or stopped and may go on;
 * one that failed is in nobody's way, nor is one that is being made (pipeline_run refuses that). Looks only; pipeline_run itself
 * takes whatever is there over. */
bool pipeline_claim(const RunConfig *cfg, const char *conf_path, Error *err);
/* The story of one record through every stage of a run: id is that of a prompt, a dialogue (rv-), a pair (pr-), a rollout
 * (ro-) or a reply. run_dir NULL: the run below out/runs that was written last. */
bool pipeline_why(Str *out, const char *out_dir, const char *run_dir, const char *id, Error *err);
/* Fills run_dir and report only. */
bool pipeline_name(PipelineResult *out, const RunConfig *cfg, const char *conf_path, Error *err);
/* Fills keys and directories without running: used by plans and reports. */
bool pipeline_keys(PipelineResult *out, const RunConfig *cfg, const char *conf_path, Error *err);
/* The same, and all that pipeline_run looks at before its first stage. */
bool pipeline_check(PipelineResult *out, const RunConfig *cfg, const char *conf_path, Error *err);
/* What a stage of a run works with: run.backend and its threads (pool_close, backend_close, also after a failure); and its
 * context, whose output is the stage's result. all: with every stage's directory. input: of the caller's, lives as long as *ctx. */
bool pipeline_backend(Pool **pool, Backend **be, const RunConfig *cfg, Error *err);
void pipeline_ctx(StageCtx *ctx, const char *input[STAGE_MAX_NEEDS], const PipelineResult *all, const Stage *s,
                  const RunConfig *cfg, Backend *be, Log *log, const Stop *stop);

#endif
