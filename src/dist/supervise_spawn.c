/* dist/supervise_spawn.c — starting and ending processes. Children get their environment built before the fork, so that
 * nothing but system calls happens between fork and exec. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dist/proc.h"
#include "dist/supervise_int.h"

enum { CANNOT_EXEC = 127 };

typedef struct {
    char **item;
    int n;
} Words;

static void add(Words *w, const char *s) {
    w->item = mem_grow(w->item, (size_t)(w->n + 2) * sizeof *w->item);
    w->item[w->n++] = mem_str(s);
    w->item[w->n] = NULL;
}

FORMAT(2, 3) static void addf(Words *w, const char *fmt, ...) {
    char text[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    add(w, text);
}

static void words_release(Words *w) {
    for (int i = 0; i < w->n; i++) free(w->item[i]);
    free(w->item);
}

/* -- environment */

static const char *const ours[] = {"DIKAST_SUP", "DIKAST_RUN", "DIKAST_ATTEMPT", "DIKAST_TOKEN"};
/* What says which rank this is: a local rank must not take it from the batch system that the supervisor runs under. */
static const char *const ranks[] = {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE",
                                    "SLURM_PROCID",         "SLURM_STEP_NUM_TASKS", "RANK",     "WORLD_SIZE"};

static bool is_one_of(const char *entry, const char *const *name, int n) {
    for (int i = 0; i < n; i++) {
        size_t k = strlen(name[i]);
        if (!strncmp(entry, name[i], k) && entry[k] == '=') return true;
    }
    return false;
}

static void environment(Words *env, const Sup *s, int rank) {
    char token[33];
    for (int i = 0; i < 16; i++) snprintf(token + 2 * i, 3, "%02x", s->token[i]);
    for (char **e = environ; *e; e++)
        if (!is_one_of(*e, ours, COUNT_OF(ours)) && !(rank >= 0 && is_one_of(*e, ranks, COUNT_OF(ranks)))) add(env, *e);
    addf(env, "DIKAST_SUP=%s", s->address);
    addf(env, "DIKAST_RUN=%016" PRIx64, s->run);
    addf(env, "DIKAST_ATTEMPT=%d", s->attempt);
    addf(env, "DIKAST_TOKEN=%s", token);
    if (rank < 0) return;
    addf(env, "RANK=%d", rank);
    addf(env, "WORLD_SIZE=%d", s->world);
}

/* -- one process */

static NORETURN void become(pid_t parent, char *const *argv, char *const *env, const sigset_t *mask, int report,
                            int out) {
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0) dup2(null, STDIN_FILENO);
    if (out >= 0) dup2(out, STDOUT_FILENO);
    setpgid(0, 0); /* Ctrl-C on a terminal is the supervisor's, who asks the ranks in order */
    /* SIGTERM, not SIGKILL: it can still save. One that cannot is ended by its dead-man switch. */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(CANNOT_EXEC); /* it died before that was said */
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, mask, NULL);
    execvpe(argv[0], argv, env);
    int e = errno;
    if (write(report, &e, sizeof e) < 0) _exit(CANNOT_EXEC);
    _exit(CANNOT_EXEC);
}

/* out >= 0: its standard output. */
static bool spawn(pid_t *pid, char *const *argv, char *const *env, const sigset_t *mask, int out, Error *err) {
    int report[2], e = 0;
    pid_t parent = getpid();
    if (pipe2(report, O_CLOEXEC) != 0) return error_errno(err, "make", "a pipe");
    *pid = fork();
    if (*pid == 0) become(parent, argv, env, mask, report[1], out);
    close(report[1]);
    if (*pid < 0) {
        close(report[0]);
        return error_errno(err, "start", argv[0]);
    }
    setpgid(*pid, *pid);
    ssize_t got = read(report[0], &e, sizeof e);
    close(report[0]);
    if (got != sizeof e) return true;
    waitpid(*pid, NULL, 0);
    *pid = 0;
    return error_set(err, ERR_CONFIG, "%s: cannot be started: %s", argv[0], strerror(e));
}

/* -- launchers */

/* Open MPI hands over the variables it is told to; others hand over all. */
static bool is_open_mpi(const Sup *s, bool *is, Error *err) {
    char *argv[] = {(char *)(uintptr_t)s->c->launcher[0], "--version", NULL};
    char text[512];
    size_t n = 0;
    ssize_t got;
    int fd[2];
    pid_t pid;
    if (pipe2(fd, O_CLOEXEC) != 0) return error_errno(err, "make", "a pipe");
    bool ok = spawn(&pid, argv, environ, s->before, fd[1], err);
    close(fd[1]);
    while (ok && n < sizeof text - 1 && (got = read(fd[0], text + n, sizeof text - 1 - n)) > 0) n += (size_t)got;
    close(fd[0]);
    if (ok) waitpid(pid, NULL, 0);
    text[n] = 0;
    *is = strstr(text, "Open MPI") || strstr(text, "OpenRTE") || strstr(text, "PRTE");
    return ok;
}

static void host_list(char *out, size_t n, const Sup *s, bool left_out, bool slots) {
    size_t at = 0;
    out[0] = 0;
    for (int i = 0; i < s->n_host && at < n; i++) {
        if (s->host[i].out != left_out) continue;
        at += (size_t)snprintf(out + at, n - at, "%s%s", at ? "," : "", s->host[i].name);
        if (slots && at < n) at += (size_t)snprintf(out + at, n - at, ":%d", s->host[i].slots);
    }
}

static bool launcher_words(Words *w, const Sup *s, Error *err) {
    char list[3600];
    const LaunchConfig *c = s->c;
    for (int i = 0; c->launcher[i]; i++) add(w, c->launcher[i]);
    if (c->via == VIA_SRUN) {
        host_list(list, sizeof list, s, true, false);
        add(w, "-n");
        addf(w, "%d", s->world);
        if (list[0]) addf(w, "--exclude=%s", list);
    } else {
        bool open_mpi = false;
        if (!is_open_mpi(s, &open_mpi, err)) return false;
        add(w, "-np");
        addf(w, "%d", s->world);
        for (int i = 0; open_mpi && i < COUNT_OF(ours); i++) {
            add(w, "-x");
            add(w, ours[i]);
        }
        if (c->hosts) {
            host_list(list, sizeof list, s, false, true);
            add(w, open_mpi ? "--host" : "-hosts");
            add(w, list);
        }
    }
    for (int i = 0; c->argv[i]; i++) add(w, c->argv[i]);
    return true;
}

static bool spawn_launcher(Sup *s, Error *err) {
    Words argv = {0}, env = {0};
    environment(&env, s, -1);
    bool ok = launcher_words(&argv, s, err) && spawn(&s->launcher, argv.item, env.item, s->before, -1, err);
    s->launched = ok;
    words_release(&argv);
    words_release(&env);
    return ok;
}

bool sup_spawn(Sup *s, Error *err) {
    if (s->c->via != VIA_LOCAL) return spawn_launcher(s, err);
    bool ok = true;
    for (int r = 0; r < s->world && ok; r++) {
        Words env = {0};
        char state;
        Rank *k = &s->rank[r];
        environment(&env, s, r);
        ok = spawn(&k->child, (char *const *)(uintptr_t)s->c->argv, env.item, s->before, -1, err);
        words_release(&env);
        if (!ok) break;
        k->local = true;
        k->id.pid = (uint32_t)k->child;
        if (!proc_look(k->child, &k->id.start, &state)) k->id.start = 0;
    }
    return ok;
}

/* -- their ends */

static bool reap(pid_t *pid, int *status) {
    if (*pid <= 0) return false;
    pid_t got = waitpid(*pid, status, WNOHANG);
    if (got != *pid) return false;
    *pid = 0;
    return true;
}

void sup_reap(Sup *s) {
    if (reap(&s->launcher, &s->launcher_status)) {
        s->launcher_reaped = true;
        s->launcher_end_s = now_s();
    }
    for (int r = 0; r < s->world; r++)
        if (reap(&s->rank[r].child, &s->rank[r].status)) s->rank[r].reaped = true;
}

void sup_signal(Sup *s, int sig) {
    if (s->launcher > 0) kill(-s->launcher, sig);
    for (int r = 0; r < s->world; r++) {
        Rank *k = &s->rank[r];
        if (k->child > 0)
            kill(-k->child, sig); /* not reaped, so the number is still its own */
        else if (k->hello && k->local && !k->reaped)
            proc_signal((int)k->id.pid, k->id.start, sig);
    }
}

bool sup_all_gone(Sup *s) {
    if (s->launcher > 0) return false;
    for (int r = 0; r < s->world; r++) {
        const Rank *k = &s->rank[r];
        if (k->child > 0) return false;
        if (k->reaped || !k->hello) continue;
        if (k->local ? proc_alive((int)k->id.pid, k->id.start) : k->conn >= 0 && !k->bye) return false;
    }
    return true;
}
