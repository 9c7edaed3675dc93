/* dikast launch: a run under supervision. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/command.h"
#include "app/conf.h"
#include "cai/pipeline.h"
#include "dist/supervise.h"

enum { MAX_LAUNCHER = 32 };

static const Flag flags[] = {
    {"-n", "N", "ranks (default 1)"},
    {"--via", "HOW", "local (default), or a command that starts ranks, with its flags: 'mpirun ...', 'srun ...'"},
    {"--hosts", "A:2,B:2", "hosts and their ranks, for mpirun; a host that fails twice is left out"},
    {"--address", "NAME", "what ranks call this machine (default: found; 127.0.0.1 when local)"},
    {"--attempts", "N", "attempts in a row without a new checkpoint before giving up (default 3)"},
    {"--cap", "SECONDS", "longest time in one section without a sign of progress (default 1800)"},
    {0}};

/* Which commands can be started again where they were, and what they are called with. */
static const Command *const launchable[] = {&command_run, &command_stage};

static const Command *what_to_launch(const char *name, Error *err) {
    for (int i = 0; i < COUNT_OF(launchable); i++)
        if (!strcmp(name, launchable[i]->name)) return launchable[i];
    error_set(
        err, ERR_CONFIG,
        "'%s' cannot be launched: after -- expected 'run CONF ...' or 'stage STAGE CONF ...', which save their state",
        name);
    return NULL;
}

/* The run's folder, found as the command itself will find it, and how many ranks make one replica; a configuration that
 * is wrong is refused here and now. */
static bool find_run(char *dir, size_t n, int *group, const Args *a, const Command *c, Error *err) {
    Args inner;
    RunConfig cfg;
    PipelineResult r = {0};
    char *argv[MAX_ARGS + 1] = {"dikast"}, name[160];
    for (int i = 0; i < a->n_arg; i++) argv[i + 1] = (char *)(uintptr_t)a->arg[i];
    if (!args_parse(&inner, c, a->n_arg + 1, argv, err)) return false;
    const char *given = args_flag(&inner, c, "--name"), *conf = inner.arg[c == &command_run ? 0 : 1];
    if (inner.n_arg < c->min_arg)
        return error_set(err, ERR_CONFIG, "an argument is missing; usage: dikast %s", c->usage);
    if (given) {
        snprintf(name, sizeof name, "run.name=%s", given);
        inner.set[inner.n_set++] = name;
    }
    if (!conf_load(&cfg, conf, inner.set, inner.n_set, err)) return false;
    bool ok =
        pipeline_name(&r, &cfg, conf, err) && (args_flag(&inner, c, "--replace") || pipeline_claim(&cfg, conf, err));
    *group = (int)(cfg.dist.tp * cfg.dist.cp * cfg.dist.pp);
    if (ok && snprintf(dir, n, "%s/launch", r.run_dir) >= (int)n)
        ok = error_set(err, ERR_CONFIG, "run.out or run.name is too long");
    run_config_release(&cfg);
    return ok;
}

static bool how(LaunchConfig *l, const char *words[MAX_LAUNCHER + 1], char *text, Error *err) {
    int n = 0;
    if (!strcmp(text, "local")) return true;
    for (char *at = NULL, *w = strtok_r(text, " ", &at); w; w = strtok_r(NULL, " ", &at)) {
        if (n == MAX_LAUNCHER) return error_set(err, ERR_CONFIG, "--via: more than %d words", MAX_LAUNCHER);
        words[n++] = w;
    }
    words[n] = NULL;
    const char *slash = n > 0 ? strrchr(words[0], '/') : NULL, *base = slash ? slash + 1 : n > 0 ? words[0] : "";
    l->launcher = words;
    l->via = !strcmp(base, "srun") ? VIA_SRUN : VIA_MPIRUN;
    return !strcmp(base, "srun") || !strcmp(base, "mpirun") || !strcmp(base, "mpiexec") ||
           error_set(err, ERR_CONFIG,
                     "--via '%s': expected local, or a command that begins with mpirun, mpiexec or srun", base);
}

/* Ranks that train together need a way to exchange gradients. */
static bool check_world(const LaunchConfig *l, Error *err) {
    return l->n == 1 || l->via != VIA_LOCAL ||
           error_set(
               err, ERR_CONFIG,
               "-n %d: ranks that are started one by one cannot reach each other: add --via 'mpirun' or --via 'srun' "
               "(ranks of one process: dist.ranks)",
               l->n);
}

static void print_json(const LaunchConfig *l, const LaunchResult *r, bool ok, const Error *err) {
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-launch/1");
    json_out_str(&j, "status", ok ? "done" : err->code == ERR_STOPPED ? "stopped" : "failed");
    json_out_int(&j, "attempts", r->attempts);
    json_out_int(&j, "faults", r->faults);
    json_out_int(&j, "ranks", r->world);
    json_out_str(&j, "dir", l->dir ? l->dir : "");
    if (!ok) {
        json_out_int(&j, "code", error_exit_code(err->code));
        json_out_str(&j, "error", err->msg);
    }
    json_out_obj_end(&j);
    print_text(&text);
}

static bool run(const Args *a, Error *err) {
    const Command *self = &command_launch, *c = what_to_launch(a->arg[0], err);
    const char *via = args_flag(a, self, "--via"), *words[MAX_LAUNCHER + 1], *argv[MAX_ARGS + 2];
    char dir[600], program[4096], text[1000];
    int64_t n, attempts;
    double cap;
    LaunchResult result = {0};
    LaunchConfig l = {.hosts = args_flag(a, self, "--hosts"), .address = args_flag(a, self, "--address")};
    snprintf(text, sizeof text, "%s", via ? via : "local");
    bool ok = c && args_int(a, self, "-n", 1, 1, LAUNCH_MAX_RANKS, &n, err) &&
              args_int(a, self, "--attempts", 3, 1, 1000, &attempts, err) &&
              args_num(a, self, "--cap", 1800, 1, 1e7, &cap, err) && how(&l, words, text, err) &&
              find_run(dir, sizeof dir, &l.group, a, c, err);
    if (ok) {
        if (l.via == VIA_LOCAL) l.group = 0; /* one process, whose threads are ranks */
        l.n = (int)n;
        l.max_fruitless = (int)attempts;
        l.cap_s = cap;
        l.dir = dir;
        l.argv = argv;
        ssize_t got = readlink("/proc/self/exe", program, sizeof program - 1);
        program[got > 0 ? got : 0] = 0;
        argv[0] = program;
        for (int i = 0; i < a->n_arg; i++) argv[i + 1] = a->arg[i];
        argv[a->n_arg + 1] = NULL;
        ok = check_world(&l, err) && supervise(&result, &l, a->log, err);
    }
    if (result.stopped_by_signal) {
        signal(result.signal, SIG_DFL);
        raise(result.signal);
    }
    if (a->json) print_json(&l, &result, ok, err);
    return ok;
}

const Command command_launch = {
    .name = "launch",
    .usage = "launch [-n N] [--via HOW] -- run CONF [key=value ...]",
    .help =
        "run under supervision: what dies or hangs is named and started again\n\n"
        "What follows -- is a command that saves its state: 'run CONF ...' or 'stage STAGE CONF ...'. A rank that "
        "dies,\n"
        "falls silent or hangs is named in STATUS and events.jsonl below out/runs/NAME/launch, everything is stopped\n"
        "and goes on from the last checkpoint, until it is done or three attempts in a row saved nothing new.\n"
        "The first SIGTERM, SIGINT or SIGUSR1 lets the ranks save, then ends with 75; the second kills.",
    .flag = flags,
    .min_arg = 2,
    .max_arg = MAX_ARGS,
    .says_error = true,
    .run = run};
