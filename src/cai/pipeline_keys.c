/* The run store's names. A stage's key is a hash of everything that can change its result, so "is it there?" is one
 * look for DONE, and two runs that agree up to some stage share everything up to it. Keys are computed in the order of
 * stages[], which is a topological order: every needs[] entry stands before its user. Nothing here computes a result.
 */
#include "cai/pipeline_int.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/io.h"
#include "cai/judge_remote.h"
#include "cai/manifest.h"
#include "cai/run_backend.h"
#include "cai/run_check.h"
#include "cai/stage_util.h"

/* -- keys */

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
    f->ok = io_exists(str_get(&path)) ? hash_file(&content, str_get(&path), f->err)
                                      : error_set(f->err, ERR_FORMAT, "%s: no such file", str_get(&path));
    if (!f->ok && strncmp(str_get(&path), name, strlen(name))) /* it lies below the data folder */
        error_wrap(f->err,
                   "data files are looked for in data.dir=%s (set it to your folder; README, 'Your own data', lists "
                   "the row shapes)",
                   f->data_dir);
    else
        hasher_add(f->h, &content, sizeof content);
    str_release(&path);
}

static bool hash_constitution(Hasher *h, const RunConfig *cfg, const char *data_dir, bool world, Error *err) {
    if (world && !io_exists(cfg->constitution.path)) { /* written by the world stage: in its key; which one is not */
        if (strcmp(cfg->constitution.path, "constitution.json")) hasher_add_str(h, cfg->constitution.path);
        return true;
    }
    Constitution c = {0};
    if (!stage_constitution(&c, cfg, data_dir, err)) return false;
    hasher_add_str(h, c.sha256);
    constitution_release(&c);
    return true;
}

int pipeline_find(const PipelineResult *r, const char *name) {
    for (int i = 0; i < r->n_stage; i++)
        if (!strcmp(r->stage[i].name, name)) return i;
    CHECK(false, "stage '%s' stands in needs[] before it stands in stages[]", name);
    return -1;
}

/* run.isa=auto names what the machine has; where that decides bits, a store that moves to another machine keeps results
 * of both apart. */
static void hash_bits(Hasher *h, const RunConfig *cfg) {
    const char *bits = run_backend_bits(cfg);
    if (*bits) hasher_add_str(h, bits);
}

static bool stage_key(StageResult *out, const PipelineResult *done, const Stage *s, const RunConfig *cfg,
                      const char *data_dir, Error *err) {
    bool world = cfg->data.source == 1;
    FileHash f = {.h = hasher_new(), .data_dir = data_dir, .world = world, .err = err, .ok = true};
    hasher_add_str(f.h, s->name);
    hasher_add(f.h, &s->version, sizeof s->version);
    for (int i = 0; i < STAGE_MAX_NEEDS && s->needs[i]; i++) {
        const StageResult *need = &done->stage[pipeline_find(done, s->needs[i])];
        hasher_add_str(f.h, need->applies ? need->key : "-");
    }
    const char *prefix[COUNT_OF(s->section) + 4] = {"run."};
    int n_prefix = 1;
    for (int i = 0; i < COUNT_OF(s->section) && s->section[i]; i++) prefix[n_prefix++] = s->section[i];
    if (s->uses_constitution) prefix[n_prefix++] = "constitution.";
    if (s->uses_judge && s->uses_judge(cfg)) {
        prefix[n_prefix++] = cfg->judge.kind == JUDGE_OWN ? "judge.kind" : "judge.";
        if (cfg->judge.kind == JUDGE_OWN) prefix[n_prefix++] = "judge.own.";
    }
    config_hash_into(f.h, cfg, run_keys, run_key_count, prefix, n_prefix);
    hash_bits(f.h, cfg);
    if (cfg->dist.tp > 1) hasher_add_str(f.h, "shares generate"); /* not whole models, as once */
    if (s->files) s->files(cfg, add_file, &f);
    if (f.ok && s->uses_constitution) f.ok = hash_constitution(f.h, cfg, data_dir, world, err);
    Hash key = hasher_finish(f.h);
    char hex[33];
    hash_hex(hex, key);
    memcpy(out->key, hex, 16);
    out->key[16] = 0;
    return f.ok;
}

const char *pipeline_data_dir(const PipelineResult *r, const RunConfig *cfg) {
    if (cfg->data.source != 1) return cfg->data.dir;
    for (int i = 0; i < r->n_stage; i++)
        if (stages[i]->makes_data) return r->stage[i].dir;
    return "";
}

static bool copy_path(char *out, size_t n, const Str *path, Error *err) {
    if (path->n >= n)
        return error_set(err, ERR_CONFIG,
                         "run.out or run.name is too long: a path of %zu bytes, at most %zu: %.200s...", path->n, n - 1,
                         str_get(path));
    memcpy(out, str_get(path), path->n + 1);
    return true;
}

static bool add_stage(PipelineResult *out, const Stage *s, const RunConfig *cfg, Error *err) {
    StageResult *r = &out->stage[out->n_stage];
    *r = (StageResult){.name = s->name, .applies = !s->applies || s->applies(cfg)};
    if (r->applies) {
        if (!stage_key(r, out, s, cfg, pipeline_data_dir(out, cfg), err)) return error_wrap(err, "%s", s->name);
        Str done = {0};
        str_printf(&done, "%s/store/%s-%s", cfg->run.out, s->name, r->key);
        bool ok = copy_path(r->dir, sizeof r->dir, &done, err);
        path_join(&done, r->dir, "DONE");
        r->cached = ok && io_exists(str_get(&done));
        str_release(&done);
        if (!ok) return false;
    }
    out->n_stage++;
    return true;
}

/* -- a run */

bool pipeline_name(PipelineResult *out, const RunConfig *cfg, const char *conf_path, Error *err) {
    char name[128];
    const char *given = cfg->run.name, *slash = conf_path ? strrchr(conf_path, '/') : NULL;
    const char *base = slash ? slash + 1 : conf_path ? conf_path : "run";
    if (strchr(given, '/') || given[0] == '.' || strlen(given) >= sizeof name)
        return error_set(
            err, ERR_CONFIG,
            "run.name is '%.140s': expected the name of a folder, without '/', '.' in front, below 128 bytes", given);
    snprintf(name, sizeof name, "%s", given[0] ? given : base);
    char *dot = given[0] ? NULL : strrchr(name, '.');
    if (dot && dot > name) *dot = 0;
    Str path = {0};
    str_printf(&path, "%s/runs/%s", cfg->run.out, name);
    bool ok = copy_path(out->run_dir, sizeof out->run_dir, &path, err);
    if (ok) {
        path_join(&path, out->run_dir, "report.html");
        ok = copy_path(out->report, sizeof out->report, &path, err);
    }
    str_release(&path);
    return ok;
}

bool pipeline_keys(PipelineResult *out, const RunConfig *cfg, const char *conf_path, Error *err) {
    *out = (PipelineResult){0};
    if (!pipeline_name(out, cfg, conf_path, err)) return false;
    for (int i = 0; stages[i]; i++)
        if (!add_stage(out, stages[i], cfg, err)) return false;
    return true;
}

void pipeline_want(bool *want, const char *only) {
    int n = 0;
    while (stages[n]) want[n] = !only || !strcmp(stages[n]->name, only), n++;
    for (int i = n - 1; i >= 0; i--)
        for (int k = 0; want[i] && k < STAGE_MAX_NEEDS && stages[i]->needs[k]; k++)
            for (int e = 0; e < i; e++)
                if (!strcmp(stages[e]->name, stages[i]->needs[k])) want[e] = true;
}

bool pipeline_plan(PipelineResult *out, const RunConfig *cfg, const bool *want, Error *err) {
    for (int i = 0; stages[i]; i++) {
        if (add_stage(out, stages[i], cfg, err)) {
            const StageResult *r = &out->stage[i];
            const Stage *s = stages[i];
            if (!want[i] || !r->applies || r->cached) continue;
            if (s->uses_judge && s->uses_judge(cfg) && !remote_judge_check(cfg, true, err)) return false;
            if (s->ready && !s->ready(cfg, err)) return error_wrap(err, "%s", s->name);
            continue;
        }
        if (want[i]) return false;
        out->stage[out->n_stage++].applies = false;
        *err = (Error){0};
    }
    return true;
}

bool pipeline_check(PipelineResult *out, const RunConfig *cfg, const char *conf_path, Error *err) {
    bool want[COUNT_OF(out->stage)];
    pipeline_want(want, NULL);
    *out = (PipelineResult){0};
    return pipeline_name(out, cfg, conf_path, err) && run_config_check(cfg, err) && pipeline_plan(out, cfg, want, err);
}

bool pipeline_claim(const RunConfig *cfg, const char *conf_path, Error *err) {
    PipelineResult r = {0};
    Str path = {0}, changes = {0}, status = {0};
    bool ok = pipeline_name(&r, cfg, conf_path, err) && run_dir_changes(&changes, r.run_dir, cfg, err);
    path_join(&path, r.run_dir, ".lock");
    bool idle = ok && changes.n > 0 && !io_locked(str_get(&path));
    path_join(&path, r.run_dir, "STATUS");
    if (idle && io_exists(str_get(&path))) ok = io_read_file(&status, str_get(&path), (size_t)1 << 16, err);
    if (ok && idle && strncmp(str_get(&status), "failed", 6))
        ok = error_set(err, ERR_CONFIG,
                       "%s holds a run of another configuration: --name NAME puts this one beside it, --replace in its "
                       "place (stages that are done stay stored). Changed: %s",
                       r.run_dir, str_get(&changes));
    str_release(&path);
    str_release(&changes);
    str_release(&status);
    return ok;
}
