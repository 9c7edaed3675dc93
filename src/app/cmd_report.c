/* dikast report: the page of a finished run, written again; or a page of any evaluation results. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/result.h"
#include "base/io.h"
#include "cai/eval_page.h"
#include "cai/report.h"

static const Flag flags[] = {
    {"-o", "FILE", "where the page of results goes (default report.html); beside it report.json"},
    {"--title", "TEXT", "its title (default: dikast evaluation)"},
    {"--gate", "FILE", "YAML with conditions, 'gates: [..]', shown first; one missed: exit 6"},
    {0}};

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

static bool of_run(const Args *a, Error *err) {
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

/* -- results ---------------------------------------------------------------------------------------------------------
 */

/* "out/page.html" -> "out/page.json" */
static void beside(Str *out, const char *page) {
    size_t n = strlen(page);
    str_putn(out, page, n > 5 && !strcmp(page + n - 5, ".html") ? n - 5 : n);
    str_put(out, ".json");
}

static bool write_both(const ResultSet *r, const Gates *g, const char *page, const Args *a, Error *err) {
    const char *title = args_flag(a, &command_report, "--title");
    Str text = {0}, json = {0}, path = {0};
    JsonOut j;
    eval_page(&text, r, g->item, g->n, title ? title : "dikast evaluation");
    json_out_init(&j, &json, 1);
    json_out_obj(&j, NULL);
    eval_page_json(&j, r, g->item, g->n);
    json_out_obj_end(&j);
    str_putc(&json, '\n');
    beside(&path, page);
    bool ok = io_write_file(page, text.s, text.n, err) && io_write_file(str_get(&path), json.s, json.n, err);
    if (ok && a->json)
        print_json(page);
    else if (ok)
        printf("%s\n", page);
    str_release(&text);
    str_release(&json);
    str_release(&path);
    return ok;
}

static bool of_results(const Args *a, Error *err) {
    const char *page = args_flag(a, &command_report, "-o"), *gate = args_flag(a, &command_report, "--gate");
    const Json *json[PAGE_RESULTS];
    ResultSet r;
    Gates g = {0};
    if (!results_read(&r, a->arg, a->n_arg, err)) return false;
    for (int i = 0; i < r.n; i++) json[i] = r.item[i].json;
    bool ok = (!gate || gates_check(&g, gate, json, r.n, a->log, err)) &&
              write_both(&r, &g, page ? page : "report.html", a, err);
    if (ok && g.missed) { ok = error_set(err, ERR_GATE, "%d of %d gates missed", g.missed, g.n); }
    free(g.item);
    results_release(&r);
    return ok;
}

static bool report(const Args *a, Error *err) {
    if (!io_is_dir(a->arg[0])) return of_results(a, err);
    for (int i = 0; flags[i].name; i++)
        if (a->flag[i])
            return error_set(err, ERR_CONFIG, "%s goes with files of results; %s is a run", flags[i].name, a->arg[0]);
    if (a->n_arg > 1) return error_set(err, ERR_CONFIG, "one run at a time, found '%s' too", a->arg[1]);
    return of_run(a, err);
}

const Command command_report = {
    .name = "report",
    .usage = "report RUN_DIR | report RESULTS... [-o FILE]",
    .help = "write report.html of a finished run again, or a page of evaluation results\n\n"
            "RUN_DIR: reads the run directory and the stages it names; runs nothing and needs no data files. With\n"
            "SOURCE_DATE_EPOCH set the page holds no times, so that equal runs give equal bytes.\n"
            "RESULTS: JSON files of 'dikast harm', 'rate', 'rank', 'compare', 'consistency', 'contamination', "
            "'train-classifier'\n"
            "and results.json of 'dikast eval', in any number: verdict, harm against help, categories, over-refusal, "
            "ranking,\n"
            "consistency, judges, examples, limits, on one page; the same numbers for programs beside it.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = MAX_ARGS,
    .run = report};
