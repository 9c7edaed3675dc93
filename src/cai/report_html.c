#include "base/io.h"
#include "cai/report.h"
#include "cai/stage_util.h"

bool report_html(const PipelineResult *run, const RunConfig *cfg, const RunMetrics *m, const char *dir, Error *err) {
    Str page = {0}, path = {0};
    str_printf(&page, "<!doctype html><meta charset=\"utf-8\"><title>dikast, seed %lld</title><h1>Gates</h1><table>", (long long)cfg->run.seed);
    for (int i = 0; i < run->n_gate; i++)
        str_printf(&page, "<tr><td>%s<td>%s<td>%.4g<td>%.4g\n", run->gate[i].ok ? "met" : "missed", run->gate[i].text, run->gate[i].value,
                   run->gate[i].bound);
    str_put(&page, "</table><h1>Metrics</h1><table>");
    for (int i = 0; i < m->n; i++) str_printf(&page, "<tr><td>%s<td>%.6g\n", m->item[i].name, m->item[i].value);
    str_put(&page, "</table>\n");
    path_join(&path, dir, "report.html");
    bool ok = io_write_file(str_get(&path), page.s, page.n, err);
    str_release(&page);
    str_release(&path);
    return ok;
}
