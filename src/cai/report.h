/* cai/report.h — numbers and pages. report.json: results without clocks (equal runs give equal bytes); report.html: one
 * file, inline CSS and SVG, no script needed, no network, light and dark. Times shown in the HTML come from the manifests;
 * with SOURCE_DATE_EPOCH set they are left out, so that equal runs give equal bytes there too. */
#ifndef DIKAST_CAI_REPORT_H
#define DIKAST_CAI_REPORT_H

#include "cai/pipeline.h"

bool report_write(const PipelineResult *run, const RunConfig *cfg, const char *dir, Error *err);

#endif
