/* cai/pipeline_int.h — between pipeline_keys.c (what a run consists of, before anything is computed) and pipeline.c, which
 * computes it. want: one entry per stages[]. */
#ifndef DIKAST_CAI_PIPELINE_INT_H
#define DIKAST_CAI_PIPELINE_INT_H

#include "cai/pipeline.h"

int pipeline_find(const PipelineResult *r, const char *name);   /* its place in r->stage, where it stands already */
/* Where data files lie: data.dir, or the result of the stage that makes them ("" before its turn). */
const char *pipeline_data_dir(const PipelineResult *r, const RunConfig *cfg);
/* only and what it needs, through any number of steps; everything when only is NULL. */
void pipeline_want(bool *want, const char *only);
/* All keys, and whether what is wanted and not done can begin: a data file or constitution that is missing or broken, a judge without a
 * key, a program that is not there stop the run at once. Stages that are not wanted may have no key: then they do not apply. */
bool pipeline_plan(PipelineResult *out, const RunConfig *cfg, const bool *want, Error *err);

#endif
