/* dist/supervise.c — the loop, the stop sequence, and what is done after an attempt. */
#include "dist/supervise.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dist/net.h"
#include "dist/proc.h"
#include "dist/supervise_int.h"

static const double dump_s = 2, abort_s = 2, term_s = 3, kill_s = 10; /* 15 s from ABORT to the next attempt, at most */
static const double status_s = 10, ranks_s = 0.5, delay_most_s = 60, settle_s = 0.3, slept_s = 2;
enum { TWICE = 2 };

int launch_world(int usable, int group, int64_t micro) {
    int dp = 1, most = usable / (group > 0 ? group : 1);
    if (most < 1) return 0;
    while (2 * dp <= most && (micro == 0 || micro % (2 * (int64_t)dp) == 0)) dp *= 2;
    return dp * (group > 0 ? group : 1);
}

bool sup_rank_live(const Sup *s, int r) { return s->rank[r].hello && !s->rank[r].bye && !s->rank[r].reaped; }

void sup_phase(Sup *s, Phase phase) {
    s->phase = phase;
    s->phase_s = now_s();
}

/* Where a rank that never reported was to be: hosts are filled in order. */
static const char *planned_host(const Sup *s, int rank) {
    if (s->c->via == VIA_LOCAL) return s->here;
    for (int i = 0; s->c->hosts && i < s->n_host; i++) {
        if (s->host[i].out) continue;
        if (rank < s->host[i].slots) return s->host[i].name;
        rank -= s->host[i].slots;
    }
    return "";
}

void sup_fault(Sup *s, Cause cause, int rank, int detail, const char *fmt, ...) {
    if (s->now.cause) return;
    Fault *f = &s->now;
    *f = (Fault){.cause = cause, .rank = rank, .attempt = s->attempt, .detail = detail};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->what, sizeof f->what, fmt, ap);
    va_end(ap);
    sup_time(f->when);
    if (rank >= 0) {
        const Rank *k = &s->rank[rank];
        snprintf(f->host, sizeof f->host, "%s", k->hello ? k->id.host : planned_host(s, rank));
        f->section = (Section)k->beat.section;
        f->step = (int64_t)k->beat.step;
    }
    s->result->faults++;
    sup_ledger_fault(s);
    sup_say(s, "warning",
            cause == CAUSE_HANG     ? "hang"
            : cause == CAUSE_SILENT ? "silent_rank"
                                    : "fault",
            rank, "%s", f->what);
}

void sup_ask_checkpoint(Sup *s, const char *why) {
    s->stopping = true;
    sup_send_all(s, FRAME_CKPT, why);
}

/* -- signals */

static void on_signal(Sup *s, int sig) {
    if (sig == SIGCHLD) {
        sup_reap(s);
        return;
    }
    if (!s->first_signal && !s->stopping) {
        s->first_signal = sig;
        sup_say(s, "info", "stop", -1, "%s: the ranks finish their step, save and end; again to die", strsignal(sig));
        sup_ask_checkpoint(s, "the launch was asked to stop");
        return;
    }
    if (!s->first_signal) { /* a rank was asked before: the same wish */
        s->first_signal = sig;
        return;
    }
    s->result->stopped_by_signal = true;
    s->result->signal = sig;
    sup_send_all(s, FRAME_ABORT, "a second signal");
    sup_signal(s, SIGKILL);
    sup_phase(s, PHASE_OVER);
}

static void read_signals(Sup *s) {
    struct signalfd_siginfo info;
    while (read(s->signals, &info, sizeof info) == sizeof info) on_signal(s, (int)info.ssi_signo);
}

static bool open_signals(Sup *s, sigset_t *before, Error *err) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, before);
    s->before = before;
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return s->signals >= 0 || error_errno(err, "watch", "signals");
}

/* -- one attempt */

static bool every_rank_ended_well(const Sup *s) {
    for (int r = 0; r < s->world; r++) {
        const Rank *k = &s->rank[r];
        if (s->launched ? !(k->bye && k->bye_code == 0)
                        : !(k->reaped && WIFEXITED(k->status) && WEXITSTATUS(k->status) == 0))
            return false;
    }
    return true;
}

static bool everybody_replied(const Sup *s) {
    for (int r = 0; r < s->world; r++)
        if (sup_rank_live(s, r) && s->rank[r].dump.n == 0) return false;
    return true;
}

/* A stopped process neither hears ABORT nor dies of SIGTERM. */
static void kill_stopped(Sup *s) {
    for (int r = 0; r < s->world; r++) {
        const Rank *k = &s->rank[r];
        uint64_t start;
        char state;
        if (k->local && k->id.pid && !k->reaped && proc_look((int)k->id.pid, &start, &state) && start == k->id.start &&
            (state == 'T' || state == 't'))
            proc_signal((int)k->id.pid, start, SIGKILL);
    }
}

static void begin_stop(Sup *s) {
    char reason[80], rank[24] = "the launcher";
    if (s->now.rank >= 0) snprintf(rank, sizeof rank, "rank %d", s->now.rank);
    snprintf(reason, sizeof reason, "attempt %d is given up because of %s", s->attempt, rank);
    sup_send_all(s, FRAME_ABORT, reason);
    sup_phase(s, PHASE_ABORT);
}

static void step_phase(Sup *s) {
    double age = now_s() - s->phase_s;
    switch (s->phase) {
    case PHASE_RUN:
        sup_watch(s);
        if (s->now.cause == CAUSE_HANG) {
            sup_send_all(s, FRAME_DUMP, s->now.what);
            sup_phase(s, PHASE_DUMP);
        } else if (s->now.cause) {
            begin_stop(s);
        } else if (sup_all_gone(s) && (!s->launched || every_rank_ended_well(s) || s->stopping)) {
            sup_phase(s, PHASE_OVER);
        }
        break;
    case PHASE_DUMP:
        if (age < dump_s && !everybody_replied(s)) break;
        sup_write_dumps(s);
        sup_verdict(s);
        begin_stop(s);
        break;
    case PHASE_ABORT:
        if (age > settle_s) kill_stopped(s);
        if (sup_all_gone(s)) {
            sup_phase(s, PHASE_OVER);
        } else if (age > abort_s) {
            sup_signal(s, SIGTERM);
            sup_phase(s, PHASE_TERM);
        }
        break;
    case PHASE_TERM:
        if (sup_all_gone(s)) {
            sup_phase(s, PHASE_OVER);
        } else if (age > term_s) {
            sup_signal(s, SIGKILL);
            sup_phase(s, PHASE_KILL);
        }
        break;
    case PHASE_KILL:
        if (sup_all_gone(s) || age > kill_s) sup_phase(s, PHASE_OVER);
        break;
    case PHASE_OVER:
        break;
    }
}

static void poll_once(Sup *s, int wait_ms) {
    int n = s->n_conn;
    struct pollfd *fd = mem_alloc((size_t)(n + 2) * sizeof *fd);
    fd[0] = (struct pollfd){.fd = s->signals, .events = POLLIN};
    fd[1] = (struct pollfd){.fd = s->listener, .events = POLLIN};
    for (int i = 0; i < n; i++)
        fd[i + 2] = (struct pollfd){.fd = s->conn[i].fd, .events = (short)(POLLIN | (s->conn[i].out.n ? POLLOUT : 0))};
    if (poll(fd, (nfds_t)n + 2, wait_ms) > 0) {
        if (fd[0].revents) read_signals(s);
        for (int i = 0; i < n; i++) {
            if (fd[i + 2].revents & POLLOUT) sup_conn_flush(s, i);
            if (fd[i + 2].revents & (POLLIN | POLLHUP | POLLERR)) sup_conn_read(s, i);
        }
        if (fd[1].revents) sup_conn_accept(s);
    }
    sup_conn_sweep(s);
    free(fd);
}

/* Who has ended said BYE before, if at all: it may still be in the socket. */
static void read_last_words(Sup *s) {
    for (int r = 0; r < s->world; r++)
        if (s->rank[r].reaped && !s->rank[r].skipped && s->rank[r].conn >= 0) sup_conn_read(s, s->rank[r].conn);
}

/* A supervisor that slept (a stopped process, a paused machine) judges nobody by the time it did not see. */
static void forgive_own_sleep(Sup *s, double *looked_s) {
    double now = now_s(), slept = now - *looked_s;
    *looked_s = now;
    if (slept < slept_s) return;
    sup_say(s, "debug", "slept", -1, "the supervisor itself did not run for %.1f s", slept);
    for (int r = 0; r < s->world; r++) {
        s->rank[r].heard_s += slept;
        if (s->rank[r].lost_s > 0) s->rank[r].lost_s += slept;
    }
    s->begun_s += slept;
}

static void attempt_clear(Sup *s) {
    sup_ledger_attempt(s);
    sup_conn_close_all(s);
    for (int r = 0; r < s->world && s->rank; r++) str_release(&s->rank[r].dump);
    free(s->rank);
    s->rank = NULL;
}

static bool attempt_run(Sup *s, int world, Error *err) {
    s->world = world;
    s->rank = mem_alloc((size_t)world * sizeof *s->rank);
    for (int r = 0; r < world; r++) s->rank[r].conn = -1;
    s->attempt++;
    s->now = (Fault){0};
    s->launched = s->launcher_reaped = s->progressed = s->well = false;
    s->begun_s = s->watched_s = now_s();
    s->result->attempts = s->attempt - s->attempts_before;
    s->result->world = world;
    sup_phase(s, PHASE_RUN);
    sup_say(s, s->attempt > 1 ? "info" : "debug", "attempt", -1, "attempt %d begins on %d rank%s", s->attempt, world,
            world == 1 ? "" : "s");
    sup_ledger_write(s, false); /* so that nobody ever has this attempt's number again */
    bool ok = sup_spawn(s, err);
    if (ok) {
        sup_write_ranks(s);
        sup_status(s, "running");
    } else {
        sup_signal(s, SIGKILL);
    }
    for (double looked_s = now_s(); ok && s->phase != PHASE_OVER;) {
        poll_once(s, s->phase == PHASE_RUN ? 200 : 50);
        forgive_own_sleep(s, &looked_s);
        sup_reap(s);
        read_last_words(s);
        if (s->phase != PHASE_OVER) step_phase(s);
        if (s->ranks_changed && now_s() - s->ranks_s > ranks_s) sup_write_ranks(s);
        if (now_s() - s->said_s > status_s) sup_status(s, s->stopping ? "stopping" : "running");
    }
    return ok;
}

/* -- between attempts */

static Host *host_of(Sup *s, const char *name) {
    for (int i = 0; i < s->n_host && *name; i++)
        if (!strcmp(s->host[i].name, name)) return &s->host[i];
    return NULL;
}

/* Ranks that can still be placed: all of them less those of hosts that are left out. */
static int usable_ranks(const Sup *s) {
    int n = s->c->n, lost = 0; /* those that did not fit before may do now */
    for (int i = 0; i < s->n_host; i++)
        if (s->host[i].out) lost += s->host[i].slots;
    return n > lost ? n - lost : 0;
}

static void count_slots(Sup *s) {
    if (s->c->hosts) return; /* given */
    for (int i = 0; i < s->n_host; i++) {
        int n = 0;
        for (int r = 0; r < s->world; r++) n += s->rank[r].hello && !strcmp(s->rank[r].id.host, s->host[i].name);
        if (n > 0) s->host[i].slots = n;
    }
}

/* A host with its second fault goes, if what is left still makes a world. */
static void leave_out(Sup *s) {
    Host *h = host_of(s, s->now.host);
    count_slots(s);
    if (!h || h->out || ++h->failures < TWICE || h->slots == 0) return;
    h->out = true;
    if (launch_world(usable_ranks(s), s->c->group, s->c->micro) > 0) {
        sup_say(s, "warning", "host_left_out", -1, "host %s is left out after %d faults", h->name, h->failures);
        return;
    }
    h->out = false;
    sup_say(s, "debug", "host_kept", -1, "host %s had %d faults, but nothing would be left without it", h->name,
            h->failures);
}

static bool is_persistent(const Sup *s) {
    const Fault *before = &s->fault[0];
    return s->n_fault > 0 && s->now.rank >= 0 && before->rank == s->now.rank && before->cause == s->now.cause &&
           before->detail == s->now.detail && before->step == s->now.step;
}

static void remember(Sup *s, const char *done) {
    for (int i = KEEP_FAULTS - 1; i > 0; i--) s->fault[i] = s->fault[i - 1];
    s->fault[0] = s->now;
    snprintf(s->fault[0].done, sizeof s->fault[0].done, "%s", done);
    if (s->n_fault < KEEP_FAULTS) s->n_fault++;
}

static bool wait_before(Sup *s, double seconds) {
    double end = now_s() + seconds;
    for (double left; (left = end - now_s()) > 0 && !s->stopping;)
        poll_once(s, left < 0.2 ? (int)(1000 * left) + 1 : 200);
    return !s->stopping;
}

static bool ended_for_good(Sup *s, Error *err) {
    static const ErrorCode code[] = {[2] = ERR_CONFIG, [3] = ERR_FORMAT, [5] = ERR_DIVERGED, [6] = ERR_GATE};
    s->result->exit_code = s->now.permanent;
    remember(s, "nothing: the same would happen again");
    sup_status(s, "failed");
    return error_set(err, code[s->now.permanent], "rank %d ended with exit code %d; its own message is above",
                     s->now.rank, s->now.permanent);
}

static bool stopped(Sup *s, Error *err) {
    if (s->now.cause) remember(s, "the launch was stopping; run again to go on from the last checkpoint");
    sup_status(s, "stopped");
    return error_set(err, ERR_STOPPED, "stopped; last checkpoint: %s; run again to go on",
                     s->last_checkpoint[0] ? s->last_checkpoint : "none");
}

static bool given_up(Sup *s, Error *err) {
    Str causes = {0};
    remember(s, "nothing more: the attempts end here");
    sup_say(s, "warning", "crash_loop", s->now.rank, "%d attempts without a new checkpoint", s->fruitless);
    sup_status(s, "failed");
    for (int i = s->n_fault - 1; i >= 0; i--) {
        const Fault *f = &s->fault[i];
        if (causes.n) str_put(&causes, "; ");
        if (f->rank >= 0) str_printf(&causes, "rank %d: ", f->rank);
        str_printf(&causes, "%.160s", f->what);
    }
    error_set(err, ERR_STATE, "%d attempts in a row ended without a new checkpoint: %.700s; see %s/STATUS",
              s->fruitless, str_get(&causes), s->c->dir);
    str_release(&causes);
    return false;
}

static bool nothing_left(Sup *s, Error *err) {
    remember(s, "nothing: too few hosts are left");
    sup_status(s, "failed");
    return error_set(err, ERR_NET,
                     "%d ranks can still be placed, which make no world of multiples of %d that divides %lld "
                     "micro-batches",
                     usable_ranks(s), s->c->group > 0 ? s->c->group : 1, (long long)s->c->micro);
}

/* What comes after an attempt; *world 0: nothing, the result is returned. */
static bool decide(Sup *s, int *world, Error *err) {
    char done[200];
    *world = 0;
    s->well = !s->now.cause && every_rank_ended_well(s);
    if (s->result->stopped_by_signal) return error_set(err, ERR_STOPPED, "a second signal: everything was ended");
    if (s->well) {
        sup_say(s, "debug", "done", -1, "every rank has ended with exit code 0");
        sup_status(s, "done");
        return true;
    }
    if (s->now.permanent) return ended_for_good(s, err);
    if (s->stopping) return stopped(s, err);
    s->fruitless = s->progressed ? 0 : s->fruitless + 1;
    if (is_persistent(s))
        sup_say(s, "warning", "persistent", s->now.rank,
                "the same rank failed in the same way at the same step as before");
    if (s->fruitless >= (s->c->max_fruitless > 0 ? s->c->max_fruitless : 3)) return given_up(s, err);
    leave_out(s);
    *world = launch_world(usable_ranks(s), s->c->group, s->c->micro);
    if (*world == 0) return nothing_left(s, err);
    double delay = s->fruitless == 0 ? 0 : 1 << (s->fruitless < 7 ? s->fruitless - 1 : 6);
    if (delay > delay_most_s) delay = delay_most_s;
    snprintf(done, sizeof done,
             "all ranks were stopped; attempt %d on %d rank%s after %.0f s, from the last checkpoint (%s)",
             s->attempt + 1, *world, *world == 1 ? "" : "s", delay,
             s->last_checkpoint[0] ? s->last_checkpoint : "none yet");
    remember(s, done);
    sup_say(s, "info", "restart", s->now.rank, "%s", done);
    sup_status(s, "restarting");
    if (!wait_before(s, delay)) {
        *world = 0;
        s->now = (Fault){0};
        return stopped(s, err);
    }
    return true;
}

/* -- the launch */

static bool parse_hosts(Sup *s, Error *err) {
    const char *p = s->c->hosts;
    while (p && *p) {
        size_t n = strcspn(p, ","), name = strcspn(p, ":,");
        int slots = 1, end = 0;
        if (name < n && (sscanf(p + name, ":%d%n", &slots, &end) != 1 || name + (size_t)end != n)) slots = 0;
        if (name == 0 || name > FRAME_HOST_MAX || slots < 1 || s->n_host == LAUNCH_MAX_HOSTS)
            return error_set(err, ERR_CONFIG, "hosts: expected NAME:SLOTS,..., found '%.*s'", (int)n, p);
        Host *h = &s->host[s->n_host++];
        *h = (Host){.slots = slots};
        snprintf(h->name, sizeof h->name, "%.*s", (int)name, p);
        p += n + (p[n] == ',');
    }
    return true;
}

static bool open_listener(Sup *s, Error *err) {
    char own[64] = "127.0.0.1";
    int port;
    const LaunchConfig *c = s->c;
    if (c->via != VIA_LOCAL && !c->address) net_own_address(own);
    const char *address = c->address ? c->address : own;
    if (!net_listen(&s->listener, &port, c->via == VIA_LOCAL ? address : NULL, err)) return false;
    if (snprintf(s->address, sizeof s->address, "%s:%d", address, port) >= (int)sizeof s->address)
        return error_set(err, ERR_CONFIG, "the address %s is too long", address);
    return true;
}

static bool check(const LaunchConfig *c, Error *err) {
    if (c->n < 1 || c->n > LAUNCH_MAX_RANKS)
        return error_set(err, ERR_CONFIG, "%d ranks, expected 1 to %d", c->n, LAUNCH_MAX_RANKS);
    if (launch_world(c->n, c->group, c->micro) == 0)
        return error_set(err, ERR_CONFIG,
                         "%d ranks, expected at least %d: tensor, pipeline and context parallelism fill so many", c->n,
                         c->group);
    CHECK(c->argv && c->argv[0] && (c->via == VIA_LOCAL || (c->launcher && c->launcher[0])), "nothing to launch");
    return true;
}

static bool attempts(Sup *s, Error *err) {
    int world = launch_world(s->c->n, s->c->group, s->c->micro);
    bool ok = true;
    if (world < s->c->n)
        sup_say(s, "warning", "fewer_ranks", -1,
                "%d of %d ranks are used: data parallelism takes a power of two that divides the step's micro-batches",
                world, s->c->n);
    while (ok && world > 0) {
        ok = attempt_run(s, world, err) && decide(s, &world, err);
        attempt_clear(s);
    }
    return ok;
}

static bool launch(Sup *s, Error *err) {
    Str path = {0};
    str_printf(&path, "%s/events.jsonl", s->c->dir);
    bool ok = io_sweep(s->c->dir, err) && appender_open(&s->events, path.s, -1, err) && parse_hosts(s, err) &&
              open_listener(s, err);
    if (ok && (getrandom(s->token, sizeof s->token, 0) != sizeof s->token ||
               getrandom(&s->run, sizeof s->run, 0) != sizeof s->run))
        ok = error_errno(err, "read", "random bytes");
    if (ok) {
        sup_end_leftovers(s);
        sup_ledger_open(s);
        ok = attempts(s, err);
        sup_ledger_write(s, true);
        sup_ledger_release(s);
    }
    if (s->listener >= 0) close(s->listener);
    appender_close(s->events);
    str_release(&path);
    return ok;
}

bool supervise(LaunchResult *out, const LaunchConfig *c, Log *log, Error *err) {
    Sup *s = mem_alloc(sizeof *s);
    Str path = {0};
    IoLock lock = {-1};
    sigset_t before;
    *s = (Sup){.c = c, .log = log, .result = out, .listener = -1, .signals = -1};
    *out = (LaunchResult){0};
    net_host(s->here);
    sup_time(s->started);
    bool ok = open_signals(s, &before, err) && check(c, err) && io_make_dirs(c->dir, err);
    str_printf(&path, "%s/.lock", c->dir);
    if (ok && !(ok = io_lock(&lock, path.s, err)) && err->code == ERR_CONFIG)
        error_wrap(err, "another supervisor is at work in %s", c->dir);
    ok = ok && launch(s, err);
    io_unlock(&lock);
    if (s->signals >= 0) close(s->signals);
    sigprocmask(SIG_SETMASK, &before, NULL);
    str_release(&path);
    free(s->conn);
    free(s);
    return ok;
}
