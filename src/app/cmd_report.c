/* dikast report: the page of a finished run, written again. */
#include <stdio.h>

#include "app/command.h"
#include "cai/report.h"

static void print_json(const char *path) {
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "report", path);
    json_out_obj_end(&j);
    printf("%s\n", str_get(&text));
    str_release(&text);
}

static bool report(const Args *a, Error *err) {
    PipelineResult run;
    RunConfig cfg;
    RunMetrics m;
    if (!report_load(&run, &cfg, a->arg[0], err)) return false;
    bool ok = run_metrics_read(&m, &run, &cfg, err);
    if (ok) {
        ok = report_html(&run, &cfg, &m, run.run_dir, err);
        run_metrics_release(&m);
    }
    if (ok && a->json)
        print_json(run.report);
    else if (ok)
        printf("%s\n", run.report);
    run_config_release(&cfg);
    return ok;
}

const Command command_report = {
    .name = "report",
    .usage = "report RUN_DIR",
    .help = "write report.html of a finished run again\n\n"
            "Reads the run directory and the stages it names; runs nothing and needs no data files.\n"
            "With SOURCE_DATE_EPOCH set the page holds no times, so that equal runs give equal bytes.",
    .min_arg = 1,
    .max_arg = 1,
    .run = report};
