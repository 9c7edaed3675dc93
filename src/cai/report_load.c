/* A finished run read back from its directory, so that its page can be written again: by a newer program, or where data
 * and configuration files are no longer at hand. Nothing is hashed and nothing is run. */
#include <stdio.h>
#include <string.h>

#include "base/io.h"
#include "cai/report.h"
#include "cai/stage_util.h"

static bool load_config(RunConfig *cfg, const char *run_dir, Error *err) {
    Str path = {0}, report = {0};
    path_join(&path, run_dir, "resolved.yaml");
    bool ok =
        io_exists(str_get(&path)) ||
        error_set(err, ERR_CONFIG, "%s is no run directory: it has no resolved.yaml; runs lie below out/runs", run_dir);
    if (ok && !run_config_load(cfg, str_get(&path), NULL, 0, &report, err)) {
        /* The first complaint says most; the rest follow from it or are alike. */
        ok = error_wrap(err, "%.600s", str_get(&report));
    }
    str_release(&path);
    str_release(&report);
    return ok;
}

void run_result_dir(Str *out, const char *run_dir, const char *stage, const Json *said) {
    const char *dir = json_str(json_get(said, "dir"), NULL), *key = json_str(json_get(said, "key"), NULL);
    str_clear(out);
    if (dir && io_is_dir(dir))
        str_put(out, dir);
    else
        str_printf(out, "%s/../../store/%s-%s", run_dir, stage, key ? key : "");
}

static void find_dir(StageResult *r, const Json *said, const char *run_dir) {
    Str path = {0};
    run_result_dir(&path, run_dir, r->name, said);
    if (path.n < sizeof r->dir) memcpy(r->dir, str_get(&path), path.n + 1);
    str_release(&path);
}

/* whole: every result must be there. */
static bool load_stages(PipelineResult *out, const char *run_dir, bool whole, Error *err) {
    Str path = {0};
    Json *root = NULL;
    path_join(&path, run_dir, "stages.json");
    bool ok = json_read_file(&root, str_get(&path), 0, err);
    for (int i = 0; ok && stages[i] && out->n_stage < COUNT_OF(out->stage); i++) {
        StageResult *r = &out->stage[out->n_stage++];
        const Json *s = json_get(root, stages[i]->name);
        const char *key = json_str(json_get(s, "key"), NULL);
        *r = (StageResult){.name = stages[i]->name, .applies = key != NULL};
        if (!key) continue;
        snprintf(r->key, sizeof r->key, "%s", key);
        r->cached = json_bool(json_get(s, "cached"), false);
        r->seconds = json_num(json_get(s, "seconds"), 0);
        find_dir(r, s, run_dir);
        if (whole && !io_is_dir(r->dir))
            ok = error_set(err, ERR_STATE, "stage '%s' of %s: its result %s is gone; run the configuration again",
                           r->name, run_dir, r->dir);
    }
    json_release(root);
    str_release(&path);
    return ok;
}

static void copy(char *out, size_t n, const char *s) { snprintf(out, n, "%.*s", (int)n - 1, s); }

static bool load_gates(PipelineResult *out, const char *run_dir, Error *err) {
    Str path = {0};
    Json *root = NULL;
    path_join(&path, run_dir, "report.json");
    bool ok = io_exists(str_get(&path)) ||
              error_set(err, ERR_STATE, "%s has no report.json: the run did not reach its end; run it again", run_dir);
    ok = ok && json_read_file(&root, str_get(&path), 0, err);
    const Json *gates = json_get(root, "gates");
    for (int i = 0; ok && i < json_len(gates) && out->n_gate < COUNT_OF(out->gate); i++) {
        const Json *g = json_at(gates, i);
        const char *text;
        Gate *gate = &out->gate[out->n_gate];
        *gate = (Gate){.ok = json_bool(json_get(g, "ok"), false)};
        ok = json_need_str(g, "name", &text, NULL, err) && json_need_num(g, "value", &gate->value, err) &&
             json_need_num(g, "bound", &gate->bound, err);
        if (!ok) error_wrap(err, "%s: gate %d", str_get(&path), i + 1);
        if (!ok) break;
        copy(gate->text, sizeof gate->text, text);
        char name[256];
        copy(name, sizeof name, text);
        name[strcspn(name, " <>=")] = 0;
        copy(gate->name, sizeof gate->name, name);
        name[strcspn(name, ".")] = 0;
        copy(gate->stage, sizeof gate->stage, name);
        out->n_gate++;
    }
    json_release(root);
    str_release(&path);
    return ok;
}

static bool load(PipelineResult *out, RunConfig *cfg, const char *run_dir, bool whole, Error *err) {
    *out = (PipelineResult){0};
    if (strlen(run_dir) >= sizeof out->run_dir)
        return error_set(err, ERR_CONFIG, "the path %.60s... is too long", run_dir);
    if (!load_config(cfg, run_dir, err)) return false;
    copy(out->run_dir, sizeof out->run_dir, run_dir);
    for (size_t n = strlen(out->run_dir); n > 1 && out->run_dir[n - 1] == '/'; n--) out->run_dir[n - 1] = 0;
    snprintf(out->report, sizeof out->report, "%s/report.html", out->run_dir);
    if (load_stages(out, out->run_dir, whole, err)) return true;
    run_config_release(cfg);
    return false;
}

bool run_load(PipelineResult *out, RunConfig *cfg, const char *run_dir, Error *err) {
    return load(out, cfg, run_dir, false, err);
}

bool report_load(PipelineResult *out, RunConfig *cfg, const char *run_dir, Error *err) {
    if (!load(out, cfg, run_dir, true, err)) return false;
    if (load_gates(out, out->run_dir, err)) return true;
    run_config_release(cfg);
    return false;
}
