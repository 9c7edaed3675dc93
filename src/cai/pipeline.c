/* The run store. A stage's key is a hash of everything that can change its result, so "is it there?" is one look for DONE,
 * and two runs that agree up to some stage share everything up to it. Keys are computed in the order of stages[], which is
 * a topological order: every needs[] entry stands before its user. */
#include "cai/pipeline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/json.h"
#include "cai/manifest.h"
#include "cai/report.h"
#include "cai/stage_util.h"
#include "eval/stats.h"

typedef struct {
    Hasher *h;
    const char *data_dir;
    bool world;
    Error *err;
    bool ok;
} FileHash;

static void add_file(void *ud, const char *name) {
    FileHash *f = ud;
    if (!f->ok) return;
    hasher_add_str(f->h, name);
    /* The world's files follow from the key of the stage that writes them. */
    if (f->world && name[0] != '/' && name[0] != '.') return;
    Str path = {0};
    stage_data_path(&path, f->data_dir, name);
    Hash content;
    f->ok = hash_file(&content, str_get(&path), f->err);
    if (!f->ok)
        error_wrap(f->err,
                   "data files are looked for in data.dir=%s (set it to your folder; README, 'Your own data', lists the row shapes)",
                   f->data_dir);
    else hasher_add(f->h, &content, sizeof content);
    str_release(&path);
}

static bool hash_constitution(Hasher *h, const RunConfig *cfg, const char *data_dir, bool world, Error *err) {
    if (world && !io_exists(cfg->constitution.path)) return true; /* written by the world stage: in its key */
    Constitution c = {0};
    if (!stage_constitution(&c, cfg, data_dir, err)) return false;
    hasher_add_str(h, c.sha256);
    constitution_release(&c);
    return true;
}

static int find_result(const PipelineResult *r, const char *name) {
    for (int i = 0; i < r->n_stage; i++)
        if (!strcmp(r->stage[i].name, name)) return i;
    CHECK(false, "stage '%s' stands in needs[] before it stands in stages[]", name);
    return -1;
}

static bool stage_key(StageResult *out, const PipelineResult *done, const Stage *s, const RunConfig *cfg, const char *data_dir,
                      Error *err) {
    bool world = cfg->data.source == 1;
    FileHash f = {.h = hasher_new(), .data_dir = data_dir, .world = world, .err = err, .ok = true};
    hasher_add_str(f.h, s->name);
    hasher_add(f.h, &s->version, sizeof s->version);
    for (int i = 0; i < STAGE_MAX_NEEDS && s->needs[i]; i++) {
        const StageResult *need = &done->stage[find_result(done, s->needs[i])];
        hasher_add_str(f.h, need->applies ? need->key : "-");
    }
    const char *prefix[10] = {"run."};
    int n_prefix = 1;
    for (int i = 0; i < COUNT_OF(s->section) && s->section[i]; i++) prefix[n_prefix++] = s->section[i];
    if (s->uses_constitution) prefix[n_prefix++] = "constitution.";
    config_hash_into(f.h, cfg, run_keys, run_key_count, prefix, n_prefix);
    if (s->files) s->files(cfg, add_file, &f);
    if (f.ok && s->uses_constitution) f.ok = hash_constitution(f.h, cfg, data_dir, world, err);
    Hash key = hasher_finish(f.h);
    char hex[33];
    hash_hex(hex, key);
    memcpy(out->key, hex, 16);
    out->key[16] = 0;
    return f.ok;
}

static const char *world_dir(const PipelineResult *r, const RunConfig *cfg) {
    if (cfg->data.source != 1) return cfg->data.dir;
    for (int i = 0; i < r->n_stage; i++)
        if (!strcmp(r->stage[i].name, "world")) return r->stage[i].dir;
    return "";
}

static void copy_path(char *out, size_t n, const Str *path) {
    CHECK(path->n < n, "path of %zu bytes, room for %zu: %s", path->n, n, str_get(path));
    memcpy(out, str_get(path), path->n + 1);
}

static bool add_stage(PipelineResult *out, const Stage *s, const RunConfig *cfg, Error *err) {
    StageResult *r = &out->stage[out->n_stage];
    *r = (StageResult){.name = s->name, .applies = !s->applies || s->applies(cfg)};
    if (r->applies) {
        if (!stage_key(r, out, s, cfg, world_dir(out, cfg), err)) return error_wrap(err, "%s", s->name);
        Str done = {0};
        str_printf(&done, "%s/store/%s-%s", cfg->run.out, s->name, r->key);
        copy_path(r->dir, sizeof r->dir, &done);
        path_join(&done, r->dir, "DONE");
        r->cached = io_exists(str_get(&done));
        str_release(&done);
    }
    out->n_stage++;
    return true;
}

static void name_run(PipelineResult *out, const RunConfig *cfg, const char *conf_path) {
    char name[128];
    const char *base = conf_path ? strrchr(conf_path, '/') : NULL;
    snprintf(name, sizeof name, "%s", cfg->run.name[0] ? cfg->run.name : base ? base + 1 : conf_path ? conf_path : "run");
    char *dot = cfg->run.name[0] ? NULL : strrchr(name, '.');
    if (dot) *dot = 0;
    Str path = {0};
    str_printf(&path, "%s/runs/%s", cfg->run.out, name);
    copy_path(out->run_dir, sizeof out->run_dir, &path);
    path_join(&path, out->run_dir, "report.html");
    copy_path(out->report, sizeof out->report, &path);
    str_release(&path);
}

bool pipeline_keys(PipelineResult *out, const RunConfig *cfg, const char *conf_path, Error *err) {
    *out = (PipelineResult){0};
    name_run(out, cfg, conf_path);
    for (int i = 0; stages[i]; i++)
        if (!add_stage(out, stages[i], cfg, err)) return false;
    return true;
}

static bool write_done(const StageCtx *ctx, Error *err) {
    Str path = {0};
    path_join(&path, ctx->output, "state");
    bool ok = io_remove_tree(str_get(&path), err) && io_sync_tree(ctx->output, err);
    path_join(&path, ctx->output, "DONE");
    ok = ok && io_write_file(str_get(&path), "done\n", 5, err);
    str_release(&path);
    return ok;
}

static bool run_locked(StageCtx *ctx, StageResult *r, const PipelineResult *all, Error *err) {
    double start = now_s();
    ctx->ledger = ledger_new();
    Str path = {0};
    path_join(&path, ctx->output, "ledger.json");
    bool ok = ctx->stage->run(ctx, err) &&
              ledger_close(ctx->ledger, ctx->cfg->data.max_lost, str_get(&path), err);
    ledger_free(ctx->ledger);
    str_release(&path);
    r->seconds = now_s() - start;
    ok = ok && manifest_write(ctx, r, all, err) && write_done(ctx, err);
    return ok || error_wrap(err, "%s", ctx->stage->name);
}

static bool run_stage(PipelineResult *out, int at, const Stage *s, const RunConfig *cfg, Backend *be, Log *log,
                      const Stop *stop, Error *err) {
    StageResult *r = &out->stage[at];
    const char *input[STAGE_MAX_NEEDS] = {0};
    for (int i = 0; i < STAGE_MAX_NEEDS && s->needs[i]; i++) {
        const StageResult *need = &out->stage[find_result(out, s->needs[i])];
        input[i] = need->applies ? need->dir : NULL;
    }
    StageCtx ctx = {.cfg = cfg,
                    .be = be,
                    .log = log,
                    .stop = stop,
                    .seed = rng_derive((Rng){(uint64_t)cfg->run.seed, 0}, s->name).seed,
                    .data_dir = world_dir(out, cfg),
                    .output = r->dir,
                    .input = input,
                    .stage = s};
    if (!io_make_dirs(r->dir, err)) return error_wrap(err, "%s", s->name);
    Str path = {0};
    path_join(&path, r->dir, ".lock");
    IoLock lock;
    bool ok = io_lock(&lock, str_get(&path), err);
    if (ok) {
        /* Whoever held the lock before us may have finished the stage meanwhile. */
        path_join(&path, r->dir, "DONE");
        if (io_exists(str_get(&path))) r->cached = true;
        else ok = run_locked(&ctx, r, out, err);
        io_unlock(&lock);
    }
    str_release(&path);
    return ok;
}

static double metric_of(void *ud, const char *name) { return run_metric(ud, name); }

static bool check_gates(PipelineResult *out, const RunConfig *cfg, Error *err) {
    RunMetrics m;
    if (!run_metrics_read(&m, out, cfg, err)) return false;
    int missed = 0;
    for (int i = 0; i < cfg->eval.gates.n && out->n_gate < COUNT_OF(out->gate); i++) {
        GateResult g;
        if (!gate_eval(&g, cfg->eval.gates.item[i], metric_of, &m, err)) {
            run_metrics_release(&m);
            return error_wrap(err, "eval.gates");
        }
        Gate *gate = &out->gate[out->n_gate++];
        *gate = (Gate){.value = g.value, .bound = g.bound, .ok = g.ok};
        snprintf(gate->text, sizeof gate->text, "%.*s", (int)sizeof gate->text - 1, g.text);
        snprintf(gate->name, sizeof gate->name, "%.*s", (int)strcspn(g.text, " <>="), g.text);
        size_t word = strcspn(gate->name, ".");
        if (word >= sizeof gate->stage) word = sizeof gate->stage - 1;
        memcpy(gate->stage, gate->name, word);
        missed += !g.ok;
    }
    run_metrics_release(&m);
    if (missed)
        return error_set(err, ERR_GATE, "%d of %d gates missed; they are listed in %s", missed, out->n_gate, out->report);
    return true;
}

/* only and what it needs, through any number of steps; everything when only is NULL. */
static void want_stages(bool *want, const char *only) {
    int n = 0;
    while (stages[n]) want[n] = !only || !strcmp(stages[n]->name, only), n++;
    for (int i = n - 1; i >= 0; i--)
        for (int k = 0; want[i] && k < STAGE_MAX_NEEDS && stages[i]->needs[k]; k++)
            for (int e = 0; e < i; e++)
                if (!strcmp(stages[e]->name, stages[i]->needs[k])) want[e] = true;
}

static bool run_all(PipelineResult *out, const RunConfig *cfg, const char *only, Log *log, const Stop *stop, Error *err) {
    Pool *pool = NULL;
    Backend *be = NULL;
    static const char *const backend[] = {"cpu", "ref"}, *const isa[] = {"auto", "scalar", "avx2", "avx512"};
    if (!pool_open(&pool, (int)cfg->run.threads, err)) return false;
    bool ok = backend_open(&be, backend[cfg->run.backend], pool, isa[cfg->run.isa], err);
    bool want[COUNT_OF(((PipelineResult *)0)->stage)];
    want_stages(want, only);
    for (int i = 0; stages[i] && ok; i++) {
        ok = add_stage(out, stages[i], cfg, err);
        StageResult *r = &out->stage[i];
        if (!ok || !r->applies || !want[i]) continue;
        if (!r->cached && stop_requested(stop)) {
            ok = error_set(err, ERR_STOPPED, "stopped before stage '%s'; run the same command again to go on", r->name);
            break;
        }
        log_stage(log, r->name);
        if (r->cached) log_debug(log, "unchanged (%s)", r->dir);
        else {
            log_event(log, "stage_start", "%s", r->dir);
            run_status(out, "running", r->name);
            ok = run_stage(out, i, stages[i], cfg, be, log, stop, err);
            char took[32];
            format_time(took, r->seconds);
            if (ok) log_info(log, "done in %s", took);
            log_event(log, ok ? "stage_done" : "stage_failed", "%s", ok ? r->dir : err->msg);
        }
        log_stage(log, NULL);
    }
    backend_close(be);
    pool_close(pool);
    return ok;
}

bool pipeline_run(PipelineResult *out, const RunConfig *cfg, const char *conf_path, const char *only, Log *log,
                  const Stop *stop, Error *err) {
    double start = now_s();
    *out = (PipelineResult){0};
    name_run(out, cfg, conf_path);
    if (only && !stage_find(only)) return error_set(err, ERR_CONFIG, "unknown stage '%s'; 'dikast --help' lists them", only);
    if (!io_make_dirs(out->run_dir, err)) return false;
    Str path = {0};
    path_join(&path, out->run_dir, ".lock");
    IoLock lock;
    bool ok = io_lock(&lock, str_get(&path), err);
    if (!ok) {
        str_release(&path);
        return error_wrap(err, "another dikast is working in %s", out->run_dir);
    }
    path_join(&path, out->run_dir, "events.jsonl");
    ok = log_events_to(log, str_get(&path), err) && run_dir_begin(out, cfg, conf_path, err) &&
         run_all(out, cfg, only, log, stop, err);
    out->seconds = now_s() - start;
    if (ok && !only) {
        Error gates = {0};
        bool met = check_gates(out, cfg, &gates);
        ok = (met || gates.code == ERR_GATE) && report_write(out, cfg, out->run_dir, err);
        if (!met && (ok || gates.code != ERR_GATE)) {
            *err = gates;
            ok = false;
        }
    }
    Error ignore = {0};
    run_dir_end(out, ok ? "done" : error_exit_code(err->code) == 75 ? "stopped" : "failed", err, &ignore);
    io_unlock(&lock);
    str_release(&path);
    return ok;
}

const Stage *stage_find(const char *name) {
    for (int i = 0; stages[i]; i++)
        if (!strcmp(stages[i]->name, name)) return stages[i];
    return NULL;
}
