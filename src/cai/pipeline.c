/* What has no DONE is computed, in the order of stages[]: by rank 0, which holds the locks and writes, and where a
 * stage spreads by all ranks together. What a stage is called and where it lies: pipeline_keys.c. */
#include "cai/pipeline_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/io.h"
#include "cai/goodput_file.h"
#include "cai/manifest.h"
#include "cai/ranks.h"
#include "cai/report.h"
#include "cai/run_backend.h"
#include "cai/run_check.h"
#include "cai/stage_util.h"
#include "eval/stats.h"
#include "train/state.h"

/* A folder with a lock of its own is somebody else's: the supervisor's. */
static bool has_lock(const char *dir) {
    Str path = {0};
    path_join(&path, dir, ".lock");
    bool there = io_exists(str_get(&path));
    str_release(&path);
    return there;
}

/* What killed writers left in a folder and those below it. The caller holds the lock, so none of it is anyone's. */
static bool remove_temporaries(const char *dir, Error *err) {
    char **name;
    int n;
    Str path = {0};
    if (!io_sweep(dir, err) || !io_list_dir(&name, &n, dir, err)) return false;
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        path_join(&path, dir, name[i]);
        ok = !io_is_dir(str_get(&path)) || has_lock(str_get(&path)) || remove_temporaries(str_get(&path), err);
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
        const StageResult *need = s->needs[i] ? &all->stage[pipeline_find(all, s->needs[i])] : NULL;
        input[i] = need && need->applies ? need->dir : NULL;
        if (!need) break;
    }
    *ctx = (StageCtx){.cfg = cfg,
                      .be = be,
                      .log = log,
                      .stop = stop,
                      .seed = rng_derive((Rng){(uint64_t)cfg->run.seed, 0}, s->name).seed,
                      .data_dir = pipeline_data_dir(all, cfg),
                      .output = all->stage[pipeline_find(all, s->name)].dir,
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

bool pipeline_backend(Pool **pool, Backend **be, const RunConfig *cfg, Error *err) {
    return run_backend_open(pool, be, cfg, (int)cfg->run.threads, 0, err);
}

/* Threads of ranks on one machine share its CPUs. */
static bool site_open(Site *s, RankPlace place, Error *err) {
    int threads = (int)s->cfg->run.threads;
    if (threads == 0 && place.local_size > 1) threads = pool_cpus() / place.local_size;
    if (threads == 0 && place.local_size > 1) threads = 1;
    if (!run_backend_open(&s->pool, &s->be, s->cfg, threads, place.local_rank, err)) return false;
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

/* A generated constitution is there once the data are; nobody should wait for a model to learn of a misspelt id. */
static bool check_data(const PipelineResult *r, const RunConfig *cfg, Error *err) {
    Constitution c;
    if (!stage_constitution(&c, cfg, pipeline_data_dir(r, cfg), err)) return false;
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
    return ok && (!stages[i]->makes_data || check_data(out, site->cfg, err));
}

static bool run_all(PipelineResult *out, const char *only, Site *site, RankPlace place, Error *err) {
    bool want[COUNT_OF(out->stage)];
    pipeline_want(want, only);
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
    pipeline_want(want, only);
    /* Before the folder: what cannot begin leaves an earlier run's record as it was. */
    if (!pipeline_plan(out, cfg, want, err) || !io_make_dirs(out->run_dir, err)) return false;
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
