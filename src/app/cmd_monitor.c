/* dikast monitor: watches a run from outside. What the run writes (stages.json, metrics.jsonl) is the truth; alerts,
 * the page for Prometheus and TensorBoard's files are made from it, so that none of them can hold up or change a run.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "app/command.h"
#include "base/io.h"
#include "cai/goodput_file.h"
#include "cai/run_config.h"
#include "serve/alerts.h"
#include "serve/endpoint.h"
#include "serve/gauges.h"
#include "serve/tb_events.h"

static const Flag flags[] = {
    {"--once", NULL, "read what is there, then end"},
    {"--every", "S", "seconds between looks (default 1)"},
    {"--port", "N", "serve /metrics for Prometheus; 0: a free port"},
    {"--host", "ADDRESS", "where to listen (default 127.0.0.1)"},
    {"--tensorboard", "DIR", "write event files, one folder a stage"},
    {"--rules", "FILE", "YAML with limits, section alerts; 'alerts' in docs/scale.md lists them"},
    {"--exec", "COMMAND", "run by sh for every new alert, with DIKAST_ALERT, DIKAST_STAGE and DIKAST_MESSAGE"},
    {0}};

typedef struct {
    char name[32], dir[600];
    bool done;
    double wall;    /* of the newest row: when the file was written */
    int64_t offset; /* of metrics.jsonl, read so far */
    int64_t rows;
    double seen_at; /* when the last row was seen, now_s */
    Alerts *alerts;
    TbFile *tb;
} View;

enum { MAX_VIEW = 32 };
typedef struct Monitor {
    const char *run, *tensorboard, *exec;
    Log *log;
    AlertLimits limits;
    Gauges *gauges;
    Endpoint *endpoint;
    Appender *file; /* alerts.jsonl */
    View view[MAX_VIEW];
    int n_view, n_alert, at;   /* at: the view being read */
    int64_t events;            /* of events.jsonl, read so far */
    bool history;              /* rows from before we came: recorded, nobody is called */
    char state[32], stage[32]; /* of the run; what it is at */
    Error failed;              /* of an alert's file */
} Monitor;

/* -- alerts
 * ------------------------------------------------------------------------------------------------------------ */

extern char **environ;

static void call(const Monitor *m, const Alert *a, const char *stage) {
    posix_spawnattr_t attr;
    sigset_t none;
    pid_t pid;
    char *const argv[] = {"sh", "-c", (char *)m->exec, NULL};
    setenv("DIKAST_ALERT", a->name, 1);
    setenv("DIKAST_STAGE", stage, 1);
    setenv("DIKAST_MESSAGE", a->text, 1);
    sigemptyset(&none);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setsigmask(&attr, &none); /* ours are blocked: a thread waits for them */
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    int rc = posix_spawn(&pid, "/bin/sh", NULL, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    if (rc) log_warn(m->log, "--exec: %s", strerror(rc));
}

static void wall_time(char out[40]) {
    struct timespec t;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    size_t n = strftime(out, 40, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, 40 - n, ".%03ldZ", t.tv_nsec / 1000000);
}

static void raise_alert(void *ud, const Alert *a) {
    Monitor *m = ud;
    const View *v = &m->view[m->at];
    Str line = {0};
    JsonOut j;
    char t[40];
    wall_time(t);
    json_out_init(&j, &line, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "t", t);
    json_out_str(&j, "alert", a->name);
    json_out_str(&j, "stage", v->name);
    json_out_int(&j, "step", a->step);
    json_out_num(&j, "value", a->value);
    json_out_num(&j, "limit", a->limit);
    json_out_str(&j, "msg", a->text);
    json_out_obj_end(&j);
    if (m->failed.code == ERR_NONE) (void)appender_line(m->file, line.s, line.n, &m->failed);
    str_release(&line);
    m->n_alert++;
    double before = gauges_get(m->gauges, "dikast_alerts_total", a->name);
    gauges_set(m->gauges, "dikast_alerts_total", "alert", a->name, isnan(before) ? 1 : before + 1, true);
    log_info(m->log, "alert %s: %s, step %lld: %s (%.4g, limit %.4g)", a->name, v->name, (long long)a->step, a->text,
             a->value, a->limit);
    if (m->exec && !m->history) call(m, a, v->name);
}

/* -- rows
 * -------------------------------------------------------------------------------------------------------------- */

static double file_time(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 ? (double)s.st_mtim.tv_sec + 1e-9 * (double)s.st_mtim.tv_nsec : NAN;
}

static bool open_tb(const Monitor *m, View *v, double wall, Error *err) {
    Str dir = {0};
    str_printf(&dir, "%s/%s", m->tensorboard, v->name);
    bool ok = tb_open(&v->tb, dir.s, v->name, wall, err);
    str_release(&dir);
    return ok;
}

static void take_row(Monitor *m, const Json *row) {
    View *v = &m->view[m->at];
    const Json *value;
    char tag[160];
    int64_t step = json_int(json_get(row, "step"), v->rows + 1);
    v->rows++;
    v->seen_at = now_s();
    alerts_row(v->alerts, row);
    for (int i = 0; i < json_len(row); i++) {
        const char *key = json_key_at(row, i, &value);
        JsonKind k = json_kind(value);
        if (k != JSON_INT && k != JSON_REAL && k != JSON_NIL) continue;
        double x = k == JSON_NIL ? NAN : json_num(value, NAN);
        snprintf(tag, sizeof tag, "dikast_%s", key);
        gauges_set(m->gauges, tag, "stage", v->name, x, false);
        if (!v->tb || !strcmp(key, "step")) continue;
        snprintf(tag, sizeof tag, "%s/%s", v->name, key);
        if (m->failed.code == ERR_NONE) (void)tb_scalar(v->tb, tag, step, v->wall, x, &m->failed);
    }
}

/* Lines of a file that is being written, from *at on; whole ones only. A file that is shorter than what was read was
 * cut back by a run that went on from an older state, and is read again. Absent: no lines. */
typedef void LineFn(Monitor *m, const Json *row);
static bool each_line(Monitor *m, const char *dir, const char *name, int64_t *at, LineFn *fn, Error *err) {
    Str path = {0};
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    str_printf(&path, "%s/%s", dir, name);
    FILE *f = fopen(path.s, "re");
    if (f && io_size(path.s) < *at) *at = 0;
    if (f && fseek(f, (long)*at, SEEK_SET) == 0)
        while (m->failed.code == ERR_NONE && (n = getline(&line, &cap, f)) > 0 && line[n - 1] == '\n') {
            Json *row = NULL;
            Error bad = {0};
            *at += n;
            if (json_parse(&row, line, (size_t)n - 1, 0, path.s, 1, &bad))
                fn(m, row);
            else
                log_warn(m->log, "%s", bad.msg);
            json_release(row);
        }
    if (f) fclose(f);
    free(line);
    str_release(&path);
    if (m->failed.code != ERR_NONE) *err = m->failed;
    return m->failed.code == ERR_NONE;
}

static bool read_rows(Monitor *m, View *v, Error *err) {
    Str path = {0};
    str_printf(&path, "%s/metrics.jsonl", v->dir);
    v->wall = file_time(path.s);
    str_release(&path);
    bool wanted = m->tensorboard && !v->tb && !isnan(v->wall);
    return (!wanted || open_tb(m, v, v->wall, err)) &&
           each_line(m, v->dir, "metrics.jsonl", &v->offset, take_row, err) && (!v->tb || tb_flush(v->tb, err));
}

/* -- the run
 * ----------------------------------------------------------------------------------------------------------- */

static void view_end(View *v) {
    alerts_free(v->alerts);
    tb_close(v->tb);
}

/* A stage of another key (the configuration changed) is another stage. */
static void see_stage(Monitor *m, const char *name, const char *dir, bool done) {
    int i = 0;
    while (i < m->n_view && strcmp(m->view[i].name, name)) i++;
    if (i == MAX_VIEW) return;
    View *v = &m->view[i];
    if (i == m->n_view || strcmp(v->dir, dir)) {
        if (i == m->n_view)
            m->n_view++;
        else
            view_end(v);
        *v = (View){.seen_at = now_s(), .alerts = alerts_new(&m->limits, raise_alert, m)};
        snprintf(v->name, sizeof v->name, "%s", name);
        snprintf(v->dir, sizeof v->dir, "%s", dir);
    }
    v->done = done;
}

/* What ranks that train find of each other is an alert as it stands. */
static void take_finding(Monitor *m, const char *event, const char *stage, const char *msg) {
    static const char *const finding[] = {"straggler", "corrupt", "non_finite"};
    bool is = false;
    for (int i = 0; i < COUNT_OF(finding); i++) is = is || !strcmp(event, finding[i]);
    for (m->at = 0; is && m->at < m->n_view && strcmp(m->view[m->at].name, stage); m->at++) {}
    if (!is || m->at == m->n_view) return;
    Alert a = {.name = event};
    snprintf(a.text, sizeof a.text, "%s", msg);
    sscanf(msg, "step %" SCNd64, &a.step);
    raise_alert(m, &a);
}

static void take_event(Monitor *m, const Json *row) {
    const char *event = json_str(json_get(row, "event"), NULL), *stage = json_str(json_get(row, "stage"), NULL);
    const char *dir = json_str(json_get(row, "msg"), NULL);
    if (!event || !stage || !dir) return;
    if (!strcmp(event, "stage_start")) see_stage(m, stage, dir, false);
    if (!strcmp(event, "stage_done")) see_stage(m, stage, dir, true);
    take_finding(m, event, stage, dir);
}

/* What has begun is told by events.jsonl at once; what another run had done already by stages.json, at the end. */
static bool read_stages(Monitor *m, Error *err) {
    Str path = {0};
    Json *j = NULL;
    const Json *value;
    bool ok = each_line(m, m->run, "events.jsonl", &m->events, take_event, err);
    str_printf(&path, "%s/stages.json", m->run);
    if (ok && io_exists(path.s)) ok = json_read_file(&j, path.s, 0, err);
    for (int i = 0; ok && i < json_len(j); i++) {
        const char *name = json_key_at(j, i, &value), *dir = json_str(json_get(value, "dir"), NULL);
        const char *state = json_str(json_get(value, "state"), NULL);
        if (name && dir && state && !strcmp(state, "done")) see_stage(m, name, dir, true);
    }
    json_release(j);
    str_release(&path);
    return ok;
}

/* STATUS: "running: NAME-OF-STAGE", "done", "stopped", "failed: why"; empty when there is none. */
static void run_state(Monitor *m) {
    Str path = {0}, text = {0};
    Error err = {0};
    str_printf(&path, "%s/STATUS", m->run);
    m->state[0] = m->stage[0] = 0;
    if (io_read_file(&text, path.s, 1 << 16, &err)) sscanf(str_get(&text), "%31[a-z]%*[: ]%31s", m->state, m->stage);
    str_release(&path);
    str_release(&text);
}

/* CPU seconds and resident bytes of the process that holds the run. */
static void look_at_process(Monitor *m) {
    Str path = {0}, text = {0};
    Error err = {0};
    char stat_path[64], line[1024];
    long pid = 0;
    str_printf(&path, "%s/.lock", m->run);
    if (io_read_file(&text, path.s, 4096, &err)) sscanf(str_get(&text), "process %ld", &pid);
    str_release(&path);
    str_release(&text);
    snprintf(stat_path, sizeof stat_path, "/proc/%ld/stat", pid);
    FILE *f = pid > 0 ? fopen(stat_path, "re") : NULL;
    char *rest = f && fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
    if (f) fclose(f);
    unsigned long user, kernel;
    long rss;
    bool ok = rest && sscanf(rest + 1,
                             " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d %*u %*u %ld",
                             &user, &kernel, &rss) == 3;
    gauges_set(m->gauges, "dikast_up", NULL, NULL, ok, false);
    if (!ok) return;
    gauges_set(m->gauges, "dikast_process_cpu_seconds_total", NULL, NULL,
               (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK), true);
    gauges_set(m->gauges, "dikast_process_resident_bytes", NULL, NULL, (double)rss * (double)sysconf(_SC_PAGESIZE),
               false);
}

static double tree_bytes(const char *dir) {
    char **name;
    int n;
    double sum = 0;
    Error err = {0};
    if (!io_list_dir(&name, &n, dir, &err)) return 0;
    for (int i = 0; i < n; i++) {
        Str path = {0};
        str_printf(&path, "%s/%s", dir, name[i]);
        sum += io_is_dir(path.s) ? tree_bytes(path.s) : (double)io_size(path.s);
        str_release(&path);
    }
    io_free_list(name, n);
    return sum;
}

static void look_at_clock(const Monitor *m, View *v) {
    Str state = {0};
    str_printf(&state, "%s/state", v->dir);
    double saved = file_time(state.s), free_bytes = io_free_bytes(v->dir);
    AlertClock c = {.since_step = v->rows > 0 ? now_s() - v->seen_at : -1,
                    .since_state = isnan(saved) ? -1 : (double)time(NULL) - saved,
                    .disk_free = free_bytes,
                    .state_bytes = isnan(saved) ? 0 : tree_bytes(state.s)};
    str_release(&state);
    alerts_clock(v->alerts, &c);
    gauges_set(m->gauges, "dikast_disk_free_bytes", NULL, NULL, free_bytes, false);
    if (c.since_state >= 0)
        gauges_set(m->gauges, "dikast_checkpoint_age_seconds", "stage", v->name, c.since_state, false);
}

/* Seconds of all ranks by bin, and the share of them that came to something. */
static void look_at_goodput(Monitor *m) {
    RunGoodput g;
    if (!goodput_file_read(&g, m->run)) return;
    for (int i = 0; i < GOOD_BINS; i++)
        gauges_set(m->gauges, "dikast_rank_seconds_total", "bin", goodput_name(i), 1e-9 * (double)g.bins.ns[i], true);
    gauges_set(m->gauges, "dikast_ettr", NULL, NULL, goodput_ettr(&g.bins), false);
    gauges_set(m->gauges, "dikast_starts_total", NULL, NULL, g.attempts, true);
    gauges_set(m->gauges, "dikast_faults_total", NULL, NULL, g.faults, true);
}

static bool look(Monitor *m, Error *err) {
    Str text = {0};
    bool ok = read_stages(m, err);
    for (m->at = 0; ok && m->at < m->n_view; m->at++) {
        View *v = &m->view[m->at];
        bool running = !strcmp(m->state, "running") && !strcmp(m->stage, v->name);
        ok = read_rows(m, v, err);
        gauges_set(m->gauges, "dikast_stage_running", "stage", v->name, running, false);
        gauges_set(m->gauges, "dikast_stage_done", "stage", v->name, v->done, false);
        if (running && !m->history) look_at_clock(m, v);
    }
    look_at_process(m);
    look_at_goodput(m);
    if (m->endpoint) {
        gauges_text(m->gauges, &text);
        endpoint_publish(m->endpoint, str_get(&text), text.n);
        str_release(&text);
    }
    while (waitpid(-1, NULL, WNOHANG) > 0) {} /* of --exec */
    return ok;
}

/* ----------------------------------------------------------------------------------------------------------------------
 */

static bool read_limits(Monitor *m, const char *path, Error *err) {
    Str report = {0}, resolved = {0};
    RunConfig cfg;
    bool ok = config_load(&m->limits, alert_keys, alert_key_count, path, NULL, 0, &report, err);
    if (!ok) fputs(str_get(&report), stderr);
    str_clear(&report);
    str_printf(&resolved, "%s/resolved.yaml", m->run);
    if (ok && !path && io_exists(resolved.s) && run_config_load(&cfg, resolved.s, NULL, 0, &report, &(Error){0})) {
        if (cfg.rl.kl_target > 0) m->limits.kl = 2 * cfg.rl.kl_target;
        run_config_release(&cfg);
    }
    str_release(&report);
    str_release(&resolved);
    return ok;
}

static bool begin(Monitor *m, const Args *a, Error *err) {
    const Command *c = &command_monitor;
    const char *port = args_flag(a, c, "--port"), *host = args_flag(a, c, "--host");
    int64_t number;
    Str path = {0};
    if (!args_int(a, c, "--port", 0, 0, 65535, &number, err) || !read_limits(m, args_flag(a, c, "--rules"), err))
        return false;
    if (!host) host = "127.0.0.1";
    if (port && !endpoint_open(&m->endpoint, host, (int)number, err)) return false;
    if (port) log_info(m->log, "http://%s:%d/metrics", host, endpoint_port(m->endpoint));
    str_printf(&path, "%s/alerts.jsonl", m->run);
    bool ok = appender_open(&m->file, path.s, 0, err); /* alerts follow from rows, which are read from their start */
    str_release(&path);
    return ok;
}

static void end(Monitor *m) {
    for (int i = 0; i < m->n_view; i++) view_end(&m->view[i]);
    endpoint_close(m->endpoint);
    appender_close(m->file);
    gauges_free(m->gauges);
}

static void say_end(const Monitor *m, bool json) {
    int64_t rows = 0;
    for (int i = 0; i < m->n_view; i++) rows += m->view[i].rows;
    RunGoodput g;
    bool timed = goodput_file_read(&g, m->run);
    if (!json) {
        printf("%s: %s, %lld steps read, %d alert%s\n", m->run, m->state, (long long)rows, m->n_alert,
               m->n_alert == 1 ? "" : "s");
        if (timed) printf("%d rank%s: ", g.ranks, g.ranks == 1 ? "" : "s");
        for (int i = 0; timed && i < GOOD_BINS; i++)
            printf("%s%s %.1f %%", i ? ", " : "", goodput_name(i),
                   100 * (double)g.bins.ns[i] / fmax(1, (double)goodput_total(&g.bins)));
        if (timed) printf("\n");
        return;
    }
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-monitor/1");
    json_out_str(&j, "run", m->run);
    json_out_str(&j, "state", m->state);
    json_out_int(&j, "rows", rows);
    json_out_int(&j, "alerts", m->n_alert);
    if (timed) goodput_put(&j, "goodput_ns", &g.bins);
    json_out_obj_end(&j);
    print_text(&text);
}

/* A run that has just begun has little, but not nothing. */
static bool is_run(const char *dir, Error *err) {
    static const char *const file[] = {"STATUS", "events.jsonl", "stages.json", "resolved.yaml"};
    Str path = {0};
    bool found = false;
    if (!io_is_dir(dir)) return error_set(err, ERR_IO, "%s: no such run directory", dir);
    for (int i = 0; i < COUNT_OF(file) && !found; i++) {
        str_clear(&path);
        str_printf(&path, "%s/%s", dir, file[i]);
        found = io_exists(str_get(&path));
    }
    str_release(&path);
    return found || error_set(err, ERR_CONFIG, "%s is no run directory; runs lie below out/runs", dir);
}

static bool run(const Args *a, Error *err) {
    double every;
    Monitor m = {.run = a->arg[0], .log = a->log, .history = true, .gauges = gauges_new()};
    m.tensorboard = args_flag(a, &command_monitor, "--tensorboard");
    m.exec = args_flag(a, &command_monitor, "--exec");
    bool once = args_flag(a, &command_monitor, "--once") != NULL;
    bool ok =
        is_run(m.run, err) && args_num(a, &command_monitor, "--every", 1, 0.01, 3600, &every, err) && begin(&m, a, err);
    while (ok) {
        run_state(&m); /* before reading: what is written until then is read */
        ok = look(&m, err);
        m.history = false;
        if (!ok || once || strcmp(m.state, "running") || stop_requested(a->stop)) break;
        struct timespec t = {(time_t)every, (long)(1e9 * (every - floor(every)))};
        nanosleep(&t, NULL);
    }
    if (ok) say_end(&m, a->json);
    end(&m);
    return ok;
}

const Command command_monitor = {
    .name = "monitor",
    .usage = "monitor RUN_DIR [--port N] [--tensorboard DIR] [--exec COMMAND]",
    .help = "watch a run: alerts, a page for Prometheus, files for TensorBoard\n\n"
            "Reads what the run writes, from its beginning, and ends with it; a run never waits for its monitor. "
            "Alerts say what\n"
            "is seen and likely causes, on stderr and in RUN_DIR/alerts.jsonl: losses and gradients that are not "
            "finite or jump,\n"
            "KL, entropy, clipping, slow steps, waiting for data, no step or saved state for long, a filling disk.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = 1,
    .saves_state = true,
    .run = run};
