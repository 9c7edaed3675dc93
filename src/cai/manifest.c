#include "cai/manifest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/build.h"
#include "base/io.h"
#include "cai/stage_util.h"

void machine_cpu(char *out, size_t n) {
    snprintf(out, n, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (!f) return;
    char line[512];
    while (fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        colon[1 + strcspn(colon + 1, "\n")] = 0;
        snprintf(out, n, "%s", colon + 2);
        break;
    }
    fclose(f);
}

static void time_utc(char out[32]) {
    time_t t = time(NULL);
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

void machine_json(JsonOut *j, const char *key, const Backend *be) {
    char cpu[256];
    machine_cpu(cpu, sizeof cpu);
    json_out_obj(j, key);
    json_out_str(j, "cpu", cpu);
    json_out_int(j, "cpus", pool_cpus());
    if (be) {
        json_out_str(j, "backend", be->op->name);
        json_out_str(j, "isa", backend_isa(be));
        json_out_int(j, "threads", pool_threads(be->pool));
    }
    char build[BUILD_ID_MAX];
    build_id(build);
    json_out_str(j, "dikast", DIKAST_VERSION);
    json_out_str(j, "build", build);
    json_out_obj_end(j);
}

static bool write_json(const char *dir, const char *file, Str *text, Error *err) {
    Str path = {0};
    path_join(&path, dir, file);
    str_putc(text, '\n');
    bool ok = io_write_file(str_get(&path), text->s, text->n, err);
    str_release(&path);
    str_release(text);
    return ok;
}

bool manifest_write(const StageCtx *ctx, const StageResult *r, const PipelineResult *all, Error *err) {
    Str text = {0}, config = {0};
    JsonOut j;
    json_out_init(&j, &text, 1);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-manifest/1");
    json_out_str(&j, "stage", r->name);
    json_out_str(&j, "key", r->key);
    json_out_int(&j, "version", ctx->stage->version);
    json_out_obj(&j, "inputs");
    for (int i = 0; i < all->n_stage; i++)
        for (int k = 0; k < STAGE_MAX_NEEDS && ctx->stage->needs[k]; k++)
            if (!strcmp(ctx->stage->needs[k], all->stage[i].name) && all->stage[i].applies)
                json_out_str(&j, all->stage[i].name, all->stage[i].key);
    json_out_obj_end(&j);
    json_out_int(&j, "seed", ctx->cfg->run.seed);
    machine_json(&j, "machine", ctx->be);
    char when[32];
    time_utc(when);
    json_out_str(&j, "finished", when);
    json_out_num(&j, "seconds", r->seconds);
    json_out_obj(&j, "load");
    load_put(&j, "", &r->load);
    json_out_obj_end(&j);
    config_dump(&config, ctx->cfg, run_keys, run_key_count);
    json_out_str(&j, "config", str_get(&config));
    json_out_obj_end(&j);
    str_release(&config);
    return write_json(ctx->output, "manifest.json", &text, err);
}

/* The value of a key in a dump: the text behind "  key: " in its section. NULL: not there. */
static const char *dumped(const char *text, const char *name, size_t *n) {
    size_t section = strcspn(name, ".");
    bool inside = false;
    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        if (line[0] != ' ') {
            inside = !strncmp(line, name, section) && line[section] == ':';
            continue;
        }
        const char *key = name + section + 1, *at = line + 2;
        if (!inside || line[1] != ' ' || strncmp(at, key, strlen(key)) || strncmp(at + strlen(key), ": ", 2)) continue;
        at += strlen(key) + 2;
        *n = strcspn(at, "\n");
        return at;
    }
    return NULL;
}

enum { MAX_NAMED = 8, MAX_SHOWN = 60 };

static void put_shown(Str *out, const char *s, size_t n) {
    str_putn(out, s, n > MAX_SHOWN ? MAX_SHOWN : n);
    if (n > MAX_SHOWN) str_put(out, "...");
}

/* "rl.beta 0.05 -> 0.1, ..." of the keys that can change results, between two dumps. */
static void list_changes(Str *out, const char *before, const char *now, bool unknown_too) {
    int n = 0;
    for (int i = 0; i < run_key_count; i++) {
        size_t n_old = 0, n_new = 0;
        const char *a = dumped(before, run_keys[i].name, &n_old), *b = dumped(now, run_keys[i].name, &n_new);
        if (run_keys[i].scope != CFG_RESULT || !b || (!a && !unknown_too)) continue;
        if ((a && n_old == n_new && !memcmp(a, b, n_new)) || n++ >= MAX_NAMED) continue;
        str_printf(out, "%s%s ", n > 1 ? ", " : "", run_keys[i].name);
        put_shown(out, a ? a : "?", a ? n_old : 1);
        str_put(out, " -> ");
        put_shown(out, b, n_new);
    }
    if (n > MAX_NAMED) str_printf(out, " and %d more", n - MAX_NAMED);
}

bool run_dir_changes(Str *out, const char *run_dir, const RunConfig *cfg, Error *err) {
    Str path = {0}, before = {0}, now = {0};
    path_join(&path, run_dir, "resolved.yaml");
    bool ok = !io_exists(str_get(&path)) || io_read_file(&before, str_get(&path), (size_t)1 << 20, err);
    str_clear(out);
    if (ok && before.n > 0) {
        config_dump(&now, cfg, run_keys, run_key_count);
        list_changes(out, str_get(&before), str_get(&now), false);
    }
    str_release(&path);
    str_release(&before);
    str_release(&now);
    return ok;
}

/* Which results the run uses, and whether they are there: from the beginning, so that nobody takes them away from a run
 * that was killed ('dikast ls --prune'). */
static bool write_stages(const PipelineResult *r, Error *err) {
    Str text = {0}, path = {0};
    JsonOut j;
    json_out_init(&j, &text, 1);
    json_out_obj(&j, NULL);
    for (int i = 0; i < r->n_stage; i++) {
        const StageResult *s = &r->stage[i];
        if (!s->applies) continue;
        json_out_obj(&j, s->name);
        json_out_str(&j, "key", s->key);
        json_out_str(&j, "dir", s->dir);
        path_join(&path, s->dir, "DONE");
        json_out_str(&j, "state", io_exists(str_get(&path)) ? "done" : "to do");
        json_out_bool(&j, "cached", s->cached);
        json_out_num(&j, "seconds", s->seconds);
        json_out_obj_end(&j);
    }
    json_out_obj_end(&j);
    str_release(&path);
    return write_json(r->run_dir, "stages.json", &text, err);
}

bool run_dir_begin(const PipelineResult *r, const RunConfig *cfg, const char *conf_path, Log *log, Error *err) {
    Str text = {0}, path = {0}, before = {0}, changes = {0};
    Error ignore = {0};
    bool ok = write_stages(r, err);
    if (ok && conf_path) {
        path_join(&path, r->run_dir, "config.yaml");
        ok = io_copy_file(conf_path, str_get(&path), err);
    }
    config_dump(&text, cfg, run_keys, run_key_count);
    path_join(&path, r->run_dir, "resolved.yaml");
    if (io_exists(str_get(&path)) && io_read_file(&before, str_get(&path), (size_t)1 << 20, &ignore))
        list_changes(&changes, str_get(&before), str_get(&text), true);
    if (changes.n) log_info(log, "%s held another configuration; changed since: %s", r->run_dir, str_get(&changes));
    ok = ok && io_write_file(str_get(&path), str_get(&text), text.n, err);
    str_clear(&text);
    JsonOut j;
    json_out_init(&j, &text, 1);
    machine_json(&j, NULL, NULL);
    ok = ok && write_json(r->run_dir, "env.json", &text, err);
    str_release(&text);
    str_release(&path);
    str_release(&before);
    str_release(&changes);
    return ok;
}

bool run_status(const PipelineResult *r, const char *state, const char *detail) {
    Str path = {0}, text = {0};
    Error ignore = {0};
    path_join(&path, r->run_dir, "STATUS");
    str_printf(&text, "%s%s%s\n", state, detail && detail[0] ? ": " : "", detail ? detail : "");
    bool ok = io_write_file(str_get(&path), text.s, text.n, &ignore);
    str_release(&path);
    str_release(&text);
    return ok;
}

bool run_dir_end(const PipelineResult *r, const char *state, const Error *why, Error *err) {
    bool ok = write_stages(r, err);
    return run_status(r, state, why->code == ERR_NONE ? NULL : why->msg) && ok;
}

static void put_metric(RunMetrics *m, const char *prefix, const char *name, double value) {
    if (m->n == m->cap) {
        m->cap = m->cap ? 2 * m->cap : 64;
        m->item = mem_grow(m->item, (size_t)m->cap * sizeof *m->item);
    }
    size_t n = strlen(prefix) + strlen(name) + 2;
    char *full = mem_alloc(n);
    snprintf(full, n, "%s.%s", prefix, name);
    m->item[m->n].name = full;
    m->item[m->n++].value = value;
}

static bool read_flat(RunMetrics *m, const char *path, const char *member, const char *prefix, Error *err) {
    Json *root = NULL;
    if (!json_read_file(&root, path, 0, err)) return false;
    const Json *obj = member ? json_get(root, member) : root;
    for (int i = 0; i < json_len(obj); i++) {
        const Json *v;
        const char *name = json_key_at(obj, i, &v);
        put_metric(m, prefix, name, json_num(v, NAN));
    }
    json_release(root);
    return true;
}

bool run_metrics_read(RunMetrics *m, const PipelineResult *r, const RunConfig *cfg, Error *err) {
    *m = (RunMetrics){0};
    Str path = {0};
    bool ok = true;
    for (int i = 0; i < r->n_stage && ok; i++) {
        if (!r->stage[i].applies) continue;
        path_join(&path, r->stage[i].dir, "summary.json");
        if (io_exists(str_get(&path))) ok = read_flat(m, str_get(&path), NULL, r->stage[i].name, err);
    }
    if (ok && cfg->eval.base[0]) {
        str_clear(&path);
        str_printf(&path, "%s/runs/%s/report.json", cfg->run.out, cfg->eval.base);
        ok = read_flat(m, str_get(&path), "metrics", "base", err) ||
             error_wrap(err, "eval.base=%s: run that configuration first", cfg->eval.base);
    }
    str_release(&path);
    if (!ok) run_metrics_release(m);
    return ok;
}

void run_metrics_release(RunMetrics *m) {
    for (int i = 0; i < m->n; i++) free(m->item[i].name);
    free(m->item);
    *m = (RunMetrics){0};
}

double run_metric(const RunMetrics *m, const char *name) {
    for (int i = 0; i < m->n; i++)
        if (!strcmp(m->item[i].name, name)) return m->item[i].value;
    return NAN;
}
