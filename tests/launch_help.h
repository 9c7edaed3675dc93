/* tests/launch_help.h — toy launches for tests: each case has a folder, starts supervisors in it, reads what they leave. Cases run
 * side by side on threads of their own; the first thing that is not as it must be is the case's failure. */
#ifndef DIKAST_TESTS_LAUNCH_HELP_H
#define DIKAST_TESTS_LAUNCH_HELP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/goodput.h"
#include "base/hash.h"
#include "base/io.h"
#include "base/json.h"
#include "base/log.h"

#define TOY BUILD_DIR "/tests/"

typedef struct Case {
    const char *name;
    void (*run)(struct Case *c);
    const char *launch;     /* the supervisor's folder below dir; NULL: "launch" */
    char dir[256], failed[1500];
    pthread_t thread;
} Case;

typedef struct { double t; int rank, pid, attempt; int64_t step; char msg[1300]; } Event;    /* t: seconds since 1970 */

/* -- judging */

FORMAT(3, 4) static void need(Case *c, bool ok, const char *fmt, ...) {
    if (ok || c->failed[0]) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->failed, sizeof c->failed, fmt, ap);
    va_end(ap);
}

static void need_code(Case *c, int code, int expected) { need(c, code == expected, "code %d, expected %d", code, expected); }

/* Bounds hold on a machine that has time for this. */
static inline void need_soon(Case *c, const char *what, double took, double bound) {
    double load = 0;
    bool busy = getloadavg(&load, 1) == 1 && load > 1.5 * (double)sysconf(_SC_NPROCESSORS_ONLN);
    if (busy) bound *= 2;
    need(c, took <= bound, "%s after %.2f s, allowed %.1f s (load %.1f)", what, took, bound, load);
}

static char *text_of(const Case *c, const char *file) {
    char path[400];
    Str text = {0};
    Error err = {0};
    snprintf(path, sizeof path, "%s/%s", c->dir, file);
    if (io_exists(path)) io_read_file(&text, path, 1 << 24, &err);
    return str_detach(&text);
}

static inline void need_text(Case *c, const char *file, const char *part) {
    char *text = text_of(c, file);
    need(c, strstr(text, part) != NULL, "'%s' is not in %s: %.900s", part, file, text);
    free(text);
}

/* -- events */

static double unix_time(const char *rfc3339) {
    struct tm tm = {0};
    double s = 0;
    if (!rfc3339 || sscanf(rfc3339, "%d-%d-%dT%d:%d:%lfZ", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &s) != 6)
        return 0;
    tm.tm_year -= 1900;
    tm.tm_mon--;
    return (double)timegm(&tm) + s;
}

/* Calls fn for each event of that name; -1 rank: any. The last whole lines count. */
static int each_event(const Case *c, const char *name, int rank, int want, Event *out) {
    char file[200];
    snprintf(file, sizeof file, "%s/events.jsonl", c->launch ? c->launch : "launch");
    char *text = text_of(c, file);
    int n = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        Json *j;
        Error err = {0};
        if (!json_parse(&j, line, (size_t)(end - line), 0, "events.jsonl", 1, &err)) continue;
        const char *event = json_str(json_get(j, "event"), NULL), *msg = json_str(json_get(j, "msg"), NULL);
        int r = (int)json_int(json_get(j, "rank"), -1);
        if (event && !strcmp(event, name) && (rank < 0 || r == rank) && (want < 0 || n++ == want)) {
            if (want < 0) n++;
            *out = (Event){.t = unix_time(json_str(json_get(j, "t"), NULL)),
                           .rank = r,
                           .pid = (int)json_int(json_get(j, "pid"), 0),
                           .attempt = (int)json_int(json_get(j, "attempt"), 0),
                           .step = json_int(json_get(j, "step"), -1)};
            snprintf(out->msg, sizeof out->msg, "%s", msg ? msg : "");
        }
        json_release(j);
    }
    free(text);
    return n;
}

static inline int count_events(const Case *c, const char *name) {
    Event e;
    return each_event(c, name, -1, -1, &e);
}

static inline Event event(const Case *c, const char *name, int i) {
    Event e = {.rank = -1};
    each_event(c, name, -1, i, &e);
    return e;
}

/* -- waiting */

static void nap(double s) {
    struct timespec t = {(time_t)s, (long)((s - (double)(time_t)s) * 1e9)};
    nanosleep(&t, NULL);
}

enum { PATIENCE_S = 80 };
#define WAIT_FOR(c, condition)                                                                                         \
    do {                                                                                                               \
        double until_ = now_s() + PATIENCE_S;                                                                          \
        while (!(condition) && now_s() < until_ && !(c)->failed[0]) nap(0.01);                                         \
        need(c, condition, "waited %d s for %s", PATIENCE_S, #condition);                                              \
    } while (0)

static inline Event wait_event(Case *c, const char *name) {
    WAIT_FOR(c, count_events(c, name) > 0);
    return event(c, name, 0);
}

/* Process of the rank that reported last. */
static inline int rank_pid(const Case *c, int rank) {
    Event e = {0};
    each_event(c, "hello", rank, -1, &e);
    return e.pid;
}

static inline void wait_rank(Case *c, int rank) { WAIT_FOR(c, rank_pid(c, rank) > 0); }

static int lines_of(const Case *c, const char *file, int want, char line[200]) {
    char *text = text_of(c, file);
    int n = 0;
    for (char *p = text, *end; (end = strchr(p, '\n')); p = end + 1)
        if (n++ == want) snprintf(line, 200, "%.*s", (int)(end - p < 199 ? end - p : 199), p);
    free(text);
    return n;
}

static inline double crash_time(Case *c, int i) {
    char line[200] = "0";
    need(c, lines_of(c, "crash.log", i, line) > i, "fault %d never happened", i);
    return atof(line);
}

static inline void wait_crash(Case *c, int i) {
    char line[200];
    WAIT_FOR(c, lines_of(c, "crash.log", i, line) > i);
}

static inline int64_t last_state(const Case *c) {
    char path[400];
    for (int64_t step = 5000; step > 0; step--) {
        snprintf(path, sizeof path, "%s/ckpt-%06lld.bin", c->dir, (long long)step);
        if (io_exists(path)) return step;
    }
    return 0;
}

static inline void wait_steps(Case *c, int steps) { WAIT_FOR(c, last_state(c) >= steps); }

/* -- processes */

extern char **environ;

/* In the case's folder. argv ends with NULL; set: "A=b\nC=d", before what the test's own environment holds. */
static pid_t spawn_in(Case *c, char *const *argv, const char *set) {
    char said[400], *copy = mem_str(set), *env[512];
    int n = 0;
    pid_t pid = -1;
    posix_spawn_file_actions_t files;
    for (char *at = NULL, *w = strtok_r(copy, "\n", &at); w; w = strtok_r(NULL, "\n", &at)) env[n++] = w;
    for (char **e = environ; *e && n < 511; e++) env[n++] = *e;
    env[n] = NULL;
    snprintf(said, sizeof said, "%s/said", c->dir);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addchdir_np(&files, c->dir);
    posix_spawn_file_actions_addopen(&files, 1, said, O_WRONLY | O_CREAT | O_APPEND, 0666);
    posix_spawn_file_actions_adddup2(&files, 1, 2);
    int e = posix_spawn(&pid, argv[0], &files, NULL, argv, env);
    need(c, e == 0, "%s: %s", argv[0], strerror(e));
    posix_spawn_file_actions_destroy(&files);
    free(copy);
    return e == 0 ? pid : -1;
}

/* Exit code, 1000 + signal, or -1: it is still there after so many seconds, and is ended. */
static int wait_within(pid_t pid, double seconds) {
    int status;
    double until = now_s() + seconds;
    for (;;) {
        pid_t got = waitpid(pid, &status, WNOHANG);
        if (got == pid) return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
        if (got < 0 && errno == ECHILD && kill(pid, 0) < 0) return -2; /* another has waited for it */
        if (now_s() > until) break;
        nap(0.01);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return -1;
}

static inline int adopted_wait(Case *c, pid_t pid, double seconds) {
    need(c, pid > 0, "no such process was seen");
    return pid > 0 ? wait_within(pid, seconds) : -1;
}

static inline pid_t launch_start(Case *c, int steps, const char *flags, const char *set) {
    char number[16], *copy = mem_str(flags ? flags : ""), *argv[32] = {(char *)(uintptr_t)(TOY "toy_launch")};
    int n = 1;
    for (char *at = NULL, *w = strtok_r(copy, " ", &at); w && n < 28; w = strtok_r(NULL, " ", &at)) argv[n++] = w;
    snprintf(number, sizeof number, "%d", steps);
    argv[n++] = c->dir;
    argv[n++] = number;
    pid_t pid = spawn_in(c, argv, set);
    free(copy);
    return pid;
}

static inline int launch_wait(Case *c, pid_t pid) {
    int code = pid > 0 ? wait_within(pid, PATIENCE_S) : -1;
    need(c, code != -1, "the supervisor did not end");
    return code;
}

static inline int launch(Case *c, int steps, const char *flags, const char *set) {
    return launch_wait(c, launch_start(c, steps, flags, set));
}

static inline void need_nobody(Case *c, double seconds) {
    for (int r = 0; r < 4; r++)
        need(c, rank_pid(c, r) == 0 || wait_within(rank_pid(c, r), seconds) != -1, "rank %d is still there", r);
}

static inline int child_of(pid_t pid) {
    char path[64], text[64] = "";
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    if (!fgets(text, sizeof text, f)) text[0] = 0;
    fclose(f);
    return atoi(text);
}

/* -- results */

static inline void begin(Case *c) {
    const char *base = getenv("TMPDIR");
    snprintf(c->dir, sizeof c->dir, "%s/dikast-%s-XXXXXX", base && base[0] ? base : "/tmp", c->name);
    need(c, mkdtemp(c->dir) != NULL, "cannot make %s", c->dir);
}

static inline void finish(Case *c) {
    Error err = {0};
    if (!c->failed[0] && !io_remove_tree(c->dir, &err)) need(c, false, "%s", err.msg);
}

static inline bool same_result(const Case *a, const Case *b) {
    char path[2][400], sha[2][65];
    Error err = {0};
    snprintf(path[0], sizeof path[0], "%s/final.bin", a->dir);
    snprintf(path[1], sizeof path[1], "%s/final.bin", b->dir);
    return sha256_file(sha[0], path[0], &err) && sha256_file(sha[1], path[1], &err) && !strcmp(sha[0], sha[1]);
}

/* The same bytes as one rank's, without a supervisor and undisturbed. */
static inline void need_result(Case *c, int steps) {
    Case alone = {.name = c->name};
    char number[16];
    if (c->failed[0]) return;
    begin(&alone);
    snprintf(number, sizeof number, "%d", steps);
    char *const argv[] = {(char *)(uintptr_t)(TOY "toy_rank"), alone.dir, number, NULL};
    need_code(c, wait_within(spawn_in(&alone, argv, "TOY_STEP_MS=0"), PATIENCE_S), 0);
    need(c, same_result(c, &alone), "the result is not that of an undisturbed run");
    finish(&alone);
}

/* -- the ledger */

/* Every bin of every rank adds up to that rank's wall clock, and ranks to the whole, in integers; seconds of a bin come back. */
static inline double ledger_s(Case *c, const char *bin) {
    char file[200];
    snprintf(file, sizeof file, "%s/goodput.json", c->launch ? c->launch : "launch");
    char *text = text_of(c, file);
    Json *j = NULL;
    Error err = {0};
    Goodput total, sum = {{0}}, one = {{0}};
    int64_t wall = 0;
    need(c, json_parse(&j, text, strlen(text), 0, file, 1, &err), "%s", err.msg);
    if (!j) return 0;
    const Json *ranks = json_get(j, "ranks");
    need(c, json_bool(json_get(j, "over"), false), "%s: the launch did not end in order", file);
    need(c, goodput_get(&total, json_get(j, "bins_ns")), "%s: a bin is missing", file);
    for (int r = 0; r < json_len(ranks); r++) {
        int64_t w = json_int(json_get(json_at(ranks, r), "wall_ns"), -1);
        need(c, goodput_get(&one, json_get(json_at(ranks, r), "bins_ns")), "%s: rank %d: a bin is missing", file, r);
        need(c, goodput_total(&one) == w, "%s: rank %d: bins %lld, wall clock %lld", file, r, (long long)goodput_total(&one), (long long)w);
        need(c, w <= json_int(json_get(j, "wall_ns"), -1), "%s: rank %d has more time than there was", file, r);
        goodput_add(&sum, &one);
        wall += w;
    }
    need(c, json_len(ranks) > 0 && !memcmp(&sum, &total, sizeof sum) && wall == json_int(json_get(j, "rank_ns"), -1) && goodput_total(&total) == wall,
         "%s: ranks and totals differ", file);
    int64_t ns = json_int(json_get(json_get(j, "bins_ns"), bin), -1);
    need(c, ns >= 0, "%s: no bin '%s'", file, bin);
    json_release(j);
    free(text);
    return 1e-9 * (double)ns;
}

/* Ranks times the clock on the wall: seconds of all ranks. */
static inline double ledger_wall_s(Case *c) {
    char *text = text_of(c, "launch/goodput.json");
    Json *j = NULL;
    Error err = {0};
    double wall = json_parse(&j, text, strlen(text), 0, "goodput.json", 1, &err) ? json_num(json_get(j, "wall_ns"), 0) : 0;
    json_release(j);
    free(text);
    return 1e-9 * wall;
}

/* -- running */

static void *case_thread(void *arg) {
    Case *c = arg;
    begin(c);
    c->run(c);
    finish(c);
    return NULL;
}

static void case_result(void **state) {
    Case *c = *state;
    pthread_join(c->thread, NULL);
    if (c->failed[0]) fail_msg("%s: %s (%s)", c->name, c->failed, c->dir);
}

/* only: that case alone, NULL: all. Returns the number of failures. */
static inline int run_cases(Case *c, int n, const char *only) {
    struct CMUnitTest *test = mem_alloc((size_t)n * sizeof *test);
    int n_test = 0;
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* orphans come to us, so their exit codes are seen */
    for (int i = 0; i < n; i++) {
        if (only && strcmp(only, c[i].name)) continue;
        test[n_test++] = (struct CMUnitTest){c[i].name, case_result, NULL, NULL, &c[i]};
        if (pthread_create(&c[i].thread, NULL, case_thread, &c[i]) != 0) return 1;
        nap(0.05); /* 100 processes that start at once are no fault to be tested */
    }
    int failed = _cmocka_run_group_tests("launch", test, (size_t)n_test, NULL, NULL);
    free(test);
    return failed;
}

#endif
