/* cai/manifest.h — what a run leaves beside its results: the stage's manifest, the run directory's files, and the metrics of
 * all stages read back for gates and report. */
#ifndef DIKAST_CAI_MANIFEST_H
#define DIKAST_CAI_MANIFEST_H

#include "base/json.h"
#include "cai/pipeline.h"

/* manifest.json: key, input keys, resolved configuration of the run, seed, version, machine, instruction set, seconds. */
bool manifest_write(const StageCtx *ctx, const StageResult *r, const PipelineResult *all, Error *err);

/* config.yaml (as given), resolved.yaml, env.json, stages.json; command is the caller's. A directory that held another
 * configuration goes on under this one, and the log names the keys that changed. */
bool run_dir_begin(const PipelineResult *r, const RunConfig *cfg, const char *conf_path, Log *log, Error *err);
/* What run_dir_begin would have to say of such keys, "" when the directory holds no other configuration. A key that the other one
 * did not know yet is no difference. */
bool run_dir_changes(Str *out, const char *run_dir, const RunConfig *cfg, Error *err);
bool run_status(const PipelineResult *r, const char *state, const char *detail);    /* STATUS, best effort */
bool run_dir_end(const PipelineResult *r, const char *state, const Error *why, Error *err);     /* stages.json, STATUS; why: ERR_NONE when all is well */

/* Flat metrics "stage.name" of every applicable stage's summary.json, and "base.stage.name" of eval.base's report.json. */
typedef struct { struct RunMetric { char *name; double value; } *item; int n, cap; } RunMetrics;
bool run_metrics_read(RunMetrics *m, const PipelineResult *r, const RunConfig *cfg, Error *err);
void run_metrics_release(RunMetrics *m);
double run_metric(const RunMetrics *m, const char *name);   /* NaN when absent */

/* {"cpu": ..., "isa": ..., "threads": ..., "version": ...} */
void machine_json(JsonOut *j, const char *key, const Backend *be);
void machine_cpu(char *out, size_t n);                      /* model name of the processor */

#endif
