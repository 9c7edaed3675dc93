/* report.json: what a run found, without clocks, so that equal runs give equal bytes. */
#include "cai/report_int.h"

#include "base/io.h"
#include "cai/stage_util.h"

static void metrics_json(JsonOut *j, const RunMetrics *m) {
    json_out_obj(j, "metrics");
    for (int i = 0; i < m->n; i++) json_out_num(j, m->item[i].name, m->item[i].value);
    json_out_obj_end(j);
}

static void gates_json(JsonOut *j, const PipelineResult *run) {
    json_out_arr(j, "gates");
    for (int i = 0; i < run->n_gate; i++) {
        json_out_obj(j, NULL);
        json_out_str(j, "name", run->gate[i].text);
        json_out_num(j, "value", run->gate[i].value);
        json_out_num(j, "bound", run->gate[i].bound);
        json_out_bool(j, "ok", run->gate[i].ok);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
}

/* Results of eval's replies; what could not be compared is left out, and said on the page. */
static void evaluations_json(JsonOut *j, const PipelineResult *run, const RunConfig *cfg, const RunMetrics *m) {
    ResultSet r;
    Error ignore = {0};
    if (!run_compared(&r, run, cfg, m, &ignore)) return;
    json_out_arr(j, "evaluations");
    for (int i = 0; i < r.n; i++) json_out_node(j, NULL, r.item[i].json);
    json_out_arr_end(j);
    results_release(&r);
}

static bool write_json(const PipelineResult *run, const RunConfig *cfg, const RunMetrics *m, const char *dir,
                       Error *err) {
    Str text = {0}, path = {0};
    JsonOut j;
    json_out_init(&j, &text, 1);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-report/1");
    json_out_int(&j, "seed", cfg->run.seed);
    json_out_obj(&j, "stages");
    for (int i = 0; i < run->n_stage; i++)
        if (run->stage[i].applies) json_out_str(&j, run->stage[i].name, run->stage[i].key);
    json_out_obj_end(&j);
    gates_json(&j, run);
    metrics_json(&j, m);
    evaluations_json(&j, run, cfg, m);
    json_out_obj_end(&j);
    str_putc(&text, '\n');
    path_join(&path, dir, "report.json");
    bool ok = io_write_file(str_get(&path), text.s, text.n, err);
    str_release(&text);
    str_release(&path);
    return ok;
}

bool report_write(const PipelineResult *run, const RunConfig *cfg, const char *dir, Error *err) {
    RunMetrics m;
    if (!run_metrics_read(&m, run, cfg, err)) return false;
    bool ok = write_json(run, cfg, &m, dir, err) && report_html(run, cfg, &m, dir, err);
    run_metrics_release(&m);
    return ok;
}
