/* The run store. A stage's key is a hash of everything that can change its result, so "is it there?" is one look for
 * DONE, and two runs that agree up to some stage share everything up to it. Keys are computed in the order of stages[],
 * which is a topological order: every needs[] entry stands before its user. */
#include "cai/pipeline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/json.h"
#include "cai/goodput_file.h"
#include "cai/judge_remote.h"
#include "cai/manifest.h"
#include "cai/ranks.h"
#include "cai/report.h"
#include "cai/run_check.h"
#include "cai/stage_util.h"
#include "eval/stats.h"
#include "train/ppo.h"

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

static int find_result(const PipelineResult *r, const char *name) {
    for (int i = 0; i < r->n_stage; i++)
        if (!strcmp(r->stage[i].name, name)) return i;
    CHECK(false, "stage '%s' stands in needs[] before it stands in stages[]", name);
    return -1;
}

/* "cuda:1" */
static void backend_name(char *out, size_t n, const RunConfig *cfg, int local_rank) {
    static const char *const name[] = {"cpu", "ref", "cuda"};
    int at = snprintf(out, n, "%s", name[cfg->run.backend]);
    int device = cfg->run.backend == RUN_CUDA ? ranks_gpu(cfg, local_rank) : (int)cfg->run.device;
    if (device > 0) snprintf(out + at, n - (size_t)at, ":%d", device);
}

static const char *isa_name(const RunConfig *cfg) {
    static const char *const name[] = {"auto", "scalar", "avx2", "avx512", "avx512_bf16", "exact", "amx"};
    return name[cfg->run.isa];
}

/* run.isa=auto names what the machine has; where that decides bits, a store that moves to another machine keeps results
 * of both apart. */
static void hash_bits(Hasher *h, const RunConfig *cfg) {
    char backend[32];
    backend_name(backend, sizeof backend, cfg, 0);
    const char *bits = backend_bits(backend, isa_name(cfg), cfg->run.dtype == 0 ? DTYPE_F32 : DTYPE_BF16);
    if (*bits) hasher_add_str(h, bits);
}

static bool stage_key(StageResult *out, const PipelineResult *done, const Stage *s, const RunConfig *cfg,
                      const char *data_dir, Error *err) {
    bool world = cfg->data.source == 1;
    FileHash f = {.h = hasher_new(), .data_dir = data_dir, .world = world, .err = err, .ok = true};
    hasher_add_str(f.h, s->name);
    hasher_add(f.h, &s->version, sizeof s->version);
    for (int i = 0; i < STAGE_MAX_NEEDS && s->needs[i]; i++) {
        const StageResult *need = &done->stage[find_result(done, s->needs[i])];
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

static const char *world_dir(const PipelineResult *r, const RunConfig *cfg) {
    if (cfg->data.source != 1) return cfg->data.dir;
    for (int i = 0; i < r->n_stage; i++)
        if (!strcmp(r->stage[i].name, "world")) return r->stage[i].dir;
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
        if (!stage_key(r, out, s, cfg, world_dir(out, cfg), err)) return error_wrap(err, "%s", s->name);
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

/* A folder with a lock of its own is somebody else's: the supervisor's. */
static bool has_lock(const char *dir) {
    Str path = {0};
    path_join(&path, dir, ".lock");
    bool there = io_exists(str_get(&path));
    str_release(&path);
    return there;
}

/* What a killed writer left under a temporary name. The caller holds the lock, so none of them is anyone's. */
static bool remove_temporaries(const char *dir, Error *err) {
    char **name;
    int n;
    Str path = {0};
    if (!io_list_dir(&name, &n, dir, err)) return false;
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        path_join(&path, dir, name[i]);
        if (strstr(name[i], ".tmp-"))
            ok = io_remove_tree(str_get(&path), err);
        else if (io_is_dir(str_get(&path)) && !has_lock(str_get(&path)))
            ok = remove_temporaries(str_get(&path), err);
    }
    io_free_list(name, n);
    str_release(&path);
    return ok;
}

/* DONE before the state goes: killed in between, the result is there and some disk space is not. */
static bool write_done(const StageCtx *ctx, Error *err) {
    Str path = {0};
    StateConfig state = stage_state(ctx);
    path_join(&path, ctx->output, "DONE");
    bool ok = io_sync_tree(ctx->output, err) && io_write_file(str_get(&path), "done\n", 5, err) &&
              state_finish(ctx->output, &state, err);
    str_release(&path);
    return ok;
}

/* A rank's part of a stage, and how all fared. Whoever is through first waits as long as it takes: rank 0 measures and
 * writes when the others have done their part. */
static bool run_with_ranks(const StageCtx *ctx, Comm *world, Error *err) {
    Error mine = {0};
    comm_deadline(world, ctx->cfg->dist.timeout_s);
    ctx->stage->run(ctx, &mine);
    comm_deadline(world, 0);
    return agree(world, &mine, NULL, 0, NULL, err);
}

static int stage_number(const Stage *s) {
    int i = 0;
    while (stages[i] != s) i++;
    return i;
}

static bool run_here(const StageCtx *ctx, const PipelineResult *all, const Mesh *mesh, Error *err) {
    if (!ctx->mesh) return ranks_lead(ctx, stage_number(ctx->stage), all, mesh, err);
    order_tell(ctx->mesh->world, ORDER_STAGE, stage_number(ctx->stage), NULL, all);
    return run_with_ranks(ctx, ctx->mesh->world, err);
}

enum { LOOK_S = 1 }; /* seconds between looks at the machine's load */

static bool run_locked(StageCtx *ctx, StageResult *r, const PipelineResult *all, const Mesh *mesh, Error *err) {
    double start = now_s();
    ctx->ledger = ledger_new();
    Str path = {0};
    path_join(&path, ctx->output, "ledger.json");
    LoadWatch *load = load_open(LOOK_S, backend_load, ctx->be);
    log_measure(ctx->log, load);
    bool ok = remove_temporaries(ctx->output, err) && run_here(ctx, all, mesh, err);
    log_measure(ctx->log, NULL);
    load_all(load, &r->load);
    load_close(load);
    pulse_section(log_pulse(ctx->log), SECTION_INIT);
    Error lost;
    /* "Nothing to train on" has its reason in what was lost before. */
    if (!ok && err->code == ERR_STATE && !ledger_check(ctx->ledger, ctx->cfg->data.max_lost, &lost)) *err = lost;
    ok = ok && ledger_close(ctx->ledger, ctx->cfg->data.max_lost, str_get(&path), err);
    /* Not a gate of the run: the data do not fit the limits, and there is no result. */
    if (!ok && err->code == ERR_GATE) err->code = ERR_FORMAT;
    ledger_free(ctx->ledger);
    str_release(&path);
    r->seconds = now_s() - start;
    ok = ok && manifest_write(ctx, r, all, err) && write_done(ctx, err);
    if (ok) pulse_commit(log_pulse(ctx->log), PULSE_DONE);
    return ok || error_wrap(err, "%s", ctx->stage->name);
}

/* What another process holds is waited for. why: what it is doing there. */
static bool wait_lock(IoLock *lock, const char *path, const char *why, Log *log, const Stop *stop, Error *err) {
    for (bool said = false; !io_lock(lock, path, err); said = true) {
        if (err->code != ERR_CONFIG) return false;
        if (stop_requested(stop))
            return error_set(err, ERR_STOPPED, "stopped while waiting for another run; run again to go on");
        if (!said) log_info(log, "%s: waiting for it (%s)", why, err->msg);
        nanosleep(&(struct timespec){0, 100000000}, NULL);
    }
    *err = (Error){0};
    return true;
}

void pipeline_ctx(StageCtx *ctx, const char *input[STAGE_MAX_NEEDS], const PipelineResult *all, const Stage *s,
                  const RunConfig *cfg, Backend *be, Log *log, const Stop *stop) {
    for (int i = 0; i < STAGE_MAX_NEEDS; i++) {
        const StageResult *need = s->needs[i] ? &all->stage[find_result(all, s->needs[i])] : NULL;
        input[i] = need && need->applies ? need->dir : NULL;
        if (!need) break;
    }
    *ctx = (StageCtx){.cfg = cfg,
                      .be = be,
                      .log = log,
                      .stop = stop,
                      .seed = rng_derive((Rng){(uint64_t)cfg->run.seed, 0}, s->name).seed,
                      .data_dir = world_dir(all, cfg),
                      .output = all->stage[find_result(all, s->name)].dir,
                      .input = input,
                      .stage = s};
}

typedef struct { /* where a rank runs stages */
    const RunConfig *cfg;
    Pool *pool;
    Backend *be;
    Mesh mesh;
    Log *log;
    const Stop *stop;
} Site;

static bool open_backend(Pool **pool, Backend **be, const RunConfig *cfg, int threads, int local_rank, Error *err) {
    char backend[32];
    backend_name(backend, sizeof backend, cfg, local_rank);
    return pool_open(pool, threads, err) && backend_open(be, backend, *pool, isa_name(cfg), err) &&
           (cfg->run.dtype == 0 || backend_set_dtype(*be, DTYPE_BF16, err) || error_wrap(err, "run.dtype"));
}

bool pipeline_backend(Pool **pool, Backend **be, const RunConfig *cfg, Error *err) {
    return open_backend(pool, be, cfg, (int)cfg->run.threads, 0, err);
}

/* Threads of ranks on one machine share its CPUs. */
static bool site_open(Site *s, RankPlace place, Error *err) {
    int threads = (int)s->cfg->run.threads;
    if (threads == 0 && place.local_size > 1) threads = pool_cpus() / place.local_size;
    if (threads == 0 && place.local_size > 1) threads = 1;
    if (!open_backend(&s->pool, &s->be, s->cfg, threads, place.local_rank, err)) return false;
    if (s->be->note) log_warn(s->log, "%s", s->be->note);
    return true;
}

static void site_close(Site *s) {
    backend_close(s->be);
    pool_close(s->pool);
}

/* input: (STAGE_MAX_NEEDS), filled here. */
static StageCtx stage_ctx(const Site *site, const PipelineResult *r, int at, const char **input) {
    StageCtx ctx;
    pipeline_ctx(&ctx, input, r, stages[at], site->cfg, site->be, site->log, site->stop);
    ctx.mesh = stages[at]->spread && comm_size(site->mesh.world) > 1 ? &site->mesh : NULL;
    return ctx;
}

static bool run_stage(PipelineResult *out, int at, const Site *site, Error *err) {
    StageResult *r = &out->stage[at];
    const char *input[STAGE_MAX_NEEDS] = {0};
    StageCtx ctx = stage_ctx(site, out, at, input);
    if (!io_make_dirs(r->dir, err)) return error_wrap(err, "%s", r->name);
    Str path = {0};
    path_join(&path, r->dir, ".lock");
    IoLock lock;
    /* The same result is not computed twice. */
    bool ok = wait_lock(&lock, str_get(&path), "another run is computing this stage", site->log, site->stop, err);
    if (ok) {
        /* Whoever held the lock before us may have finished the stage meanwhile. */
        path_join(&path, r->dir, "DONE");
        if (io_exists(str_get(&path)))
            r->cached = true;
        else
            ok = run_locked(&ctx, r, out, &site->mesh, err);
        io_unlock(&lock);
    }
    str_release(&path);
    return ok;
}

/* -- the other ranks */

static bool follow_stage(const Site *site, const Order *o, const Error *broken, Error *err) {
    const char *input[STAGE_MAX_NEEDS] = {0};
    StageCtx ctx = stage_ctx(site, &o->run, o->stage, input);
    if (broken->code != ERR_NONE) return agree(site->mesh.world, broken, NULL, 0, NULL, err);
    ctx.ledger = ledger_new();
    log_stage(site->log, stages[o->stage]->name);
    bool ok = run_with_ranks(&ctx, site->mesh.world, err);
    ledger_free(ctx.ledger);
    return ok;
}

/* A rank that cannot even begin says so when it is asked to. */
static bool follow_orders(Site *site, RankPlace place, Error *err) {
    Order *o = mem_alloc(sizeof *o);
    Error broken = {0};
    site_open(site, place, &broken);
    bool ok = true;
    while ((ok = order_hear(site->mesh.world, o, err)) && o->kind != ORDER_END) {
        Error told = {0};                 /* rank 0 ends the run by what it was told, too */
        pulse_mark(log_pulse(site->log)); /* the stage before has its result */
        pulse_kept(log_pulse(site->log));
        if (o->kind == ORDER_LEDGER)
            goodput_file_write(NULL, site->mesh.world, log_pulse(site->log), &told);
        else if (o->kind == ORDER_LEAD)
            ranks_follow(&site->mesh, site->be, &broken, site->cfg->dist.timeout_s, &told);
        else
            follow_stage(site, o, &broken, &told);
    }
    if (ok && o->end.code != ERR_NONE) {
        *err = o->end;
        ok = false;
    }
    free(o);
    site_close(site);
    return ok;
}

typedef struct {
    const RunConfig *cfg;
    Log *log; /* of a process: silenced; a thread gets one that says nothing */
    const Stop *stop;
} Following;

static bool follow(const Following *f, Comm *world, RankPlace place, Error *err) {
    Site site = {.cfg = f->cfg, .log = f->log, .stop = f->stop};
    Comm *data;
    bool ok = ranks_mesh(&site.mesh, &data, f->cfg, world, place, err) && follow_orders(&site, place, err);
    comm_close(data);
    return ok;
}

/* For whoever supervises this process: calls are section COMM, and the flight recorder is the pulse's. */
static void on_call(void *ud, bool inside, const CommRecord *r) {
    uint32_t group = (uint32_t)(unsigned char)r->group[0] << 8 | (unsigned char)r->group[1]; /* "dp", "tp", "wo"rld */
    if (inside)
        pulse_call(ud, group, (uint32_t)r->op);
    else
        pulse_call_end(ud);
    if (inside && !strcmp(r->site, order_site)) pulse_idle(ud);
}

/* What becomes of it rank 0 hears. */
static void follow_thread(void *ud, Comm *world, RankPlace place) {
    Error err = {0}, lost;
    Following f = *(const Following *)ud;
    f.log = log_new(LOG_NOTHING); /* for its pulse */
    log_silence(f.log);
    comm_on_section(world, on_call, log_pulse(f.log));
    if (!follow(&f, world, place, &err) && !comm_ok(world, &lost)) comm_abort(world, &lost);
    log_free(f.log);
}

static double metric_of(void *ud, const char *name) { return run_metric(ud, name); }

static bool check_gates(PipelineResult *out, const RunConfig *cfg, Error *err) {
    RunMetrics m;
    if (!run_metrics_read(&m, out, cfg, err)) return false;
    int missed = 0;
    for (int i = 0; i < cfg->eval.gates.n; i++) {
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
        return error_set(err, ERR_GATE, "%d of %d gates missed; they are listed in %s", missed, out->n_gate,
                         out->report);
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

/* All keys before the first stage: a data file or constitution that is missing or broken stops the run at once. */
static bool plan(PipelineResult *out, const RunConfig *cfg, const bool *want, Error *err) {
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
    want_stages(want, NULL);
    *out = (PipelineResult){0};
    return pipeline_name(out, cfg, conf_path, err) && run_config_check(cfg, err) && plan(out, cfg, want, err);
}

/* The generated constitution is there once the world is; nobody should wait for a model to learn of a misspelt id. */
static bool check_world(const PipelineResult *r, const RunConfig *cfg, Error *err) {
    Constitution c;
    if (!stage_constitution(&c, cfg, world_dir(r, cfg), err)) return false;
    constitution_release(&c);
    return true;
}

static bool visit_stage(PipelineResult *out, int i, const Site *site, Error *err) {
    StageResult *r = &out->stage[i];
    Log *log = site->log;
    if (!r->cached && stop_requested(site->stop))
        return error_set(err, ERR_STOPPED, "stopped before stage '%s'; run the same command again to go on", r->name);
    log_stage(log, r->name);
    bool ok = true;
    if (r->cached)
        log_debug(log, "unchanged (%s)", r->dir);
    else {
        log_event(log, "stage_start", "%s", r->dir);
        run_status(out, "running", r->name);
        pulse_section(log_pulse(log), SECTION_INIT);
        if (!stages[i]->spread) pulse_working(log_pulse(log)); /* else when its state is read */
        ok = run_stage(out, i, site, err);
        char took[32];
        format_time(took, r->seconds);
        if (ok && r->cached)
            log_info(log, "done by another run");
        else if (ok)
            log_info(log, "done in %s", took);
        log_event(log, ok ? "stage_done" : "stage_failed", "%s", ok ? r->dir : err->msg);
    }
    log_stage(log, NULL);
    return ok && (stages[i] != stage_find("world") || check_world(out, site->cfg, err));
}

static bool run_all(PipelineResult *out, const char *only, Site *site, RankPlace place, Error *err) {
    bool want[COUNT_OF(out->stage)];
    want_stages(want, only);
    bool ok = site_open(site, place, err);
    if (ok && place.size > 1)
        log_info(site->log, "%d ranks (%s), %d thread%s each", place.size, comm_kind(site->mesh.world),
                 pool_threads(site->pool), pool_threads(site->pool) > 1 ? "s" : "");
    for (int i = 0; i < out->n_stage && ok; i++)
        if (out->stage[i].applies && want[i]) ok = visit_stage(out, i, site, err);
    site_close(site);
    return ok;
}

/* Under a supervisor it is the supervisor's. A run is no worse for it when it cannot be written. */
static void write_goodput(const PipelineResult *out, const Site *site) {
    Pulse *pulse = log_pulse(site->log);
    Comm *world = site->mesh.world;
    Error err = {0};
    if (!pulse || pulse_supervised(pulse) || !comm_ok(world, &err)) return;
    order_tell(world, ORDER_LEDGER, 0, NULL, out);
    if (!goodput_file_write(out->run_dir, world, pulse, &err)) log_warn(site->log, "%s", err.msg);
}

static bool run_and_report(PipelineResult *out, const char *only, Site *site, RankPlace place, Error *err) {
    const RunConfig *cfg = site->cfg;
    double start = now_s();
    bool ok = run_all(out, only, site, place, err);
    out->seconds = now_s() - start;
    write_goodput(out, site);
    if (!ok || only) return ok;
    Error gates = {0};
    bool met = check_gates(out, cfg, &gates);
    ok = (met || gates.code == ERR_GATE) && report_write(out, cfg, out->run_dir, err);
    if (!met && (ok || gates.code != ERR_GATE)) {
        *err = gates;
        ok = false;
    }
    return ok;
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

/* From here on the run's stages.json says what it uses, and nothing of that is taken away (inventory_prune, which holds
 * the same lock while it looks); what went before it was written is looked for again. */
static bool begin_dir(PipelineResult *out, const char *conf_path, const Site *site, Error *err) {
    Str path = {0};
    IoLock lock;
    path_join(&path, site->cfg->run.out, ".lock");
    bool ok = wait_lock(&lock, str_get(&path), "the store is being looked through", site->log, site->stop, err);
    for (int i = 0; i < out->n_stage && ok; i++) {
        path_join(&path, out->stage[i].dir, "DONE");
        out->stage[i].cached = out->stage[i].applies && io_exists(str_get(&path));
    }
    if (ok) {
        ok = run_dir_begin(out, site->cfg, conf_path, site->log, err);
        io_unlock(&lock);
    }
    str_release(&path);
    return ok;
}

static bool run_in_dir(PipelineResult *out, const char *conf_path, const char *only, Site *site, RankPlace place,
                       Error *err) {
    const RunConfig *cfg = site->cfg;
    bool want[COUNT_OF(out->stage)];
    want_stages(want, only);
    /* Before the folder: what cannot begin leaves an earlier run's record as it was. */
    if (!plan(out, cfg, want, err) || !io_make_dirs(out->run_dir, err)) return false;
    Str path = {0};
    path_join(&path, out->run_dir, ".lock");
    IoLock lock;
    bool ok = io_lock(&lock, str_get(&path), err);
    if (!ok) {
        str_release(&path);
        return err->code == ERR_CONFIG ? error_wrap(err, "another dikast is working in %s", out->run_dir) : false;
    }
    path_join(&path, out->run_dir, "events.jsonl");
    ok = remove_temporaries(out->run_dir, err) && log_events_to(site->log, str_get(&path), err) &&
         begin_dir(out, conf_path, site, err) && run_and_report(out, only, site, place, err);
    Error ignore = {0}, none = {0};
    bool complete = ok || err->code == ERR_GATE;
    run_dir_end(out, complete ? "done" : err->code == ERR_STOPPED ? "stopped" : "failed", ok ? &none : err, &ignore);
    io_unlock(&lock);
    str_release(&path);
    return ok;
}

/* Rank 0 with all that it has to do, then the end of the others, whatever came. */
static bool lead(PipelineResult *out, const char *conf_path, const char *only, Site *site, Ranks *ranks, Error *err) {
    Following f = {site->cfg, NULL, site->stop};
    Comm *world = ranks_world(ranks);
    Comm *data = NULL;
    Error lost;
    bool met = ranks_start(ranks, follow_thread, &f, err) &&
               ranks_mesh(&site->mesh, &data, site->cfg, world, ranks_place(ranks, 0), err);
    bool ok = met && run_in_dir(out, conf_path, only, site, ranks_place(ranks, 0), err);
    if (met) order_tell(world, ORDER_END, 0, ok ? NULL : err, out); /* else nobody waits for one */
    comm_close(data);
    if (!comm_ok(world, &lost)) comm_abort(world, ok ? &lost : err);
    return ok;
}

static void record_calls(void *ud, Str *out) { comm_dump(ud, out); }

bool pipeline_run(PipelineResult *out, const RunConfig *cfg, const char *conf_path, const char *only, Log *log,
                  const Stop *stop, Error *err) {
    *out = (PipelineResult){0};
    *err = (Error){0};
    if (only && !run_stage_check(only, err)) return false;
    Ranks *ranks;
    if (!pipeline_name(out, cfg, conf_path, err) || !run_config_check(cfg, err) || !ranks_open(&ranks, cfg, err))
        return false;
    Comm *world = ranks_world(ranks);
    comm_on_section(world, on_call, log_pulse(log));
    pulse_recorder(log_pulse(log), record_calls, world);
    Site site = {.cfg = cfg, .log = log, .stop = stop};
    Error lost;
    bool ok;
    out->follows = comm_rank(world) > 0;
    if (out->follows) {
        log_silence(log); /* rank 0 speaks */
        ok = follow(&(Following){cfg, log, stop}, world, ranks_place(ranks, comm_rank(world)), err);
        if (!comm_ok(world, &lost)) comm_abort(world, &lost);
        if (!ok) err->msg[0] = 0; /* all fail by the same thing, and rank 0 says it */
    } else {
        ok = lead(out, conf_path, only, &site, ranks, err);
    }
    pulse_recorder(log_pulse(log), NULL, NULL);
    ranks_close(ranks);
    return ok;
}
