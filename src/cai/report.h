/* cai/report.h — numbers and pages. report.json: results without clocks (equal runs give equal bytes); report.html: one
 * file, inline CSS and SVG, no script needed, no network, light and dark. Times shown in the HTML come from the manifests;
 * with SOURCE_DATE_EPOCH set they are left out, so that equal runs give equal bytes there too. */
#ifndef DIKAST_CAI_REPORT_H
#define DIKAST_CAI_REPORT_H

#include "base/json.h"
#include "cai/manifest.h"

bool report_write(const PipelineResult *run, const RunConfig *cfg, const char *dir, Error *err);
/* cai/report_html.c: the page alone. m: metrics of every stage, "stage.name". */
bool report_html(const PipelineResult *run, const RunConfig *cfg, const RunMetrics *m, const char *dir, Error *err);
/* cai/report_load.c: a finished run from its directory (resolved.yaml, stages.json, report.json), to write its page again. Fills
 * cfg (run_config_release) and *out. */
bool report_load(PipelineResult *out, RunConfig *cfg, const char *run_dir, Error *err);
/* The same of a run that need not have reached its end: configuration and stages, no gates. */
bool run_load(PipelineResult *out, RunConfig *cfg, const char *run_dir, Error *err);
/* Where a stage's result is, said being its entry in stages.json: where the run said; else in the store beside the run, as when the whole
 * folder was copied, or is seen from another one. */
void run_result_dir(Str *out, const char *run_dir, const char *stage, const Json *said);

#endif
