#include "dist/beat.h"

#include <errno.h>
#include <execinfo.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/load.h"
#include "dist/net.h"
#include "dist/proc.h"

enum { MAX_STACK = 64, MAX_UNSENT = 4 << 20 };
static const double beat_s = 1, retry_s = 0.5, stack_s = 0.2, bye_s = 1;

struct Beat {
    BeatConfig c;
    pthread_t main, side;
    int fd, wake_fd;
    bool connecting;
    Str in, out;
    double heard_s, next_s, retry_at_s;
    PulseView sent; /* what the last "times" event began from */
    uint64_t commits;
    pthread_mutex_t lock; /* of the next two */
    Str events;           /* frames that wait for the side thread */
    int closing;          /* exit code + 1 */
    /* The handler's: the main thread's addresses. */
    void *stack[MAX_STACK];
    _Atomic int n_stack;
    struct sigaction before;
};

/* -- environment */

static bool env_number(uint64_t *out, const char *name, int base, uint64_t max, Error *err) {
    const char *s = getenv(name);
    char *end;
    errno = 0;
    *out = s ? strtoull(s, &end, base) : 0;
    return (s && *s && *s != '-' && !*end && errno == 0 && *out <= max) ||
           error_set(err, ERR_CONFIG, "%s is '%s', expected a number%s", name, s ? s : "(unset)",
                     base == 16 ? " in hexadecimal digits" : "");
}

static bool env_rank(uint32_t *rank, uint32_t *world, Error *err) {
    static const char *const name[][2] = {{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                                          {"PMI_RANK", "PMI_SIZE"},
                                          {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
                                          {"RANK", "WORLD_SIZE"}};
    uint64_t r, w;
    for (int i = 0; i < COUNT_OF(name); i++) {
        if (!getenv(name[i][0]) || !getenv(name[i][1])) continue;
        if (!env_number(&r, name[i][0], 10, UINT32_MAX, err) || !env_number(&w, name[i][1], 10, UINT32_MAX, err))
            return false;
        *rank = (uint32_t)r;
        *world = (uint32_t)w;
        return r < w || error_set(err, ERR_CONFIG, "%s is %u and %s is %u", name[i][0], *rank, name[i][1], *world);
    }
    return error_set(err, ERR_CONFIG,
                     "DIKAST_SUP is set, but no launcher says which rank this is: RANK and WORLD_SIZE are missing");
}

static bool hex_bytes(unsigned char *out, int n, const char *s) {
    for (int i = 0; i < n; i++) {
        unsigned v;
        if (!s[0] || !s[1] || strspn(s, "0123456789abcdef") < 2 || sscanf(s, "%2x", &v) != 1) return false;
        out[i] = (unsigned char)v;
        s += 2;
    }
    return !*s;
}

bool beat_config_env(BeatConfig *out, bool *supervised, Error *err) {
    const char *address = getenv("DIKAST_SUP"), *token = getenv("DIKAST_TOKEN");
    uint64_t attempt;
    *out = (BeatConfig){0};
    *supervised = address && *address;
    if (!*supervised) return true;
    if (strlen(address) >= sizeof out->address) return error_set(err, ERR_CONFIG, "DIKAST_SUP is too long");
    snprintf(out->address, sizeof out->address, "%s", address);
    if (!token || !hex_bytes(out->hello.token, sizeof out->hello.token, token))
        return error_set(err, ERR_CONFIG, "DIKAST_TOKEN: expected %zu hexadecimal digits", 2 * sizeof out->hello.token);
    if (!env_number(&out->hello.run, "DIKAST_RUN", 16, UINT64_MAX, err) ||
        !env_number(&attempt, "DIKAST_ATTEMPT", 10, UINT32_MAX, err))
        return false;
    out->hello.attempt = (uint32_t)attempt;
    return env_rank(&out->hello.rank, &out->hello.world, err);
}

/* -- the main thread's stack */

/* Only a signal that the side thread queued carries a Beat. */
static void show_stack(int sig, siginfo_t *info, void *context) {
    (void)sig, (void)context;
    if (info->si_code != SI_QUEUE || info->si_pid != getpid()) return;
    Beat *b = info->si_value.sival_ptr;
    int e = errno;
    atomic_store(&b->n_stack, backtrace(b->stack, MAX_STACK));
    errno = e;
}

static void put_stack(Beat *b, JsonOut *j) {
    atomic_store(&b->n_stack, 0);
    if (pthread_sigqueue(b->main, SIGUSR2, (union sigval){.sival_ptr = b}) == 0)
        for (double end = now_s() + stack_s; atomic_load(&b->n_stack) == 0 && now_s() < end;)
            nanosleep(&(struct timespec){0, 2000000}, NULL);
    int n = atomic_load(&b->n_stack);
    char **text = n > 0 ? backtrace_symbols(b->stack, n) : NULL;
    json_out_arr(j, "stack");
    for (int i = 0; text && i < n; i++) json_out_str(j, NULL, text[i]);
    json_out_arr_end(j);
    free(text);
}

/* -- what is sent */

static void put_recorder(Beat *b, JsonOut *j) {
    Str text = {0};
    Json *comm;
    Error err = {0};
    if (!pulse_dump(b->c.pulse, &text)) return;
    if (json_parse(&comm, str_get(&text), text.n, 0, "flight recorder", 1, &err)) {
        json_out_node(j, "comm", comm);
        json_release(comm);
    } else {
        json_out_str(j, "comm_error", err.msg);
    }
    str_release(&text);
}

static void put_dump(Beat *b, const Frame *why) {
    PulseView v;
    Str text = {0};
    JsonOut j;
    pulse_read(&v, b->c.pulse);
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_int(&j, "rank", b->c.hello.rank);
    json_out_str(&j, "host", b->c.hello.host);
    json_out_int(&j, "pid", b->c.hello.pid);
    json_out_strn(&j, "why", (const char *)why->p, why->n);
    json_out_str(&j, "stage", v.stage);
    json_out_int(&j, "step", v.step);
    json_out_str(&j, "section", section_name(v.section));
    json_out_num(&j, "age_s", v.age_s);
    put_recorder(b, &j);
    put_stack(b, &j);
    json_out_obj_end(&j);
    if (text.n <= FRAME_MAX) frame_put(&b->out, FRAME_DUMP_REPLY, text.s, text.n);
    str_release(&text);
}

/* Passes and seconds of each section since the last time: what the straggler score is made from (health.h). */
static void put_times(Beat *b, const PulseView *v) {
    Str text = {0};
    JsonOut j;
    bool any = false;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "event", "times");
    for (int i = 0; i < SECTION_COUNT; i++) {
        uint32_t n = v->passes[i] - b->sent.passes[i];
        if (n == 0) continue;
        any = true;
        json_out_arr(&j, section_name((Section)i));
        json_out_int(&j, NULL, n);
        json_out_num(&j, NULL, v->spent_s[i] - b->sent.spent_s[i]);
        json_out_arr_end(&j);
    }
    json_out_obj_end(&j);
    if (any) frame_put(&b->out, FRAME_EVENT, text.s, text.n);
    b->sent = *v;
    str_release(&text);
}

static void put_ledger(Beat *b) {
    PulseLedger l;
    Str text = {0};
    JsonOut j;
    pulse_ledger(&l, b->c.pulse);
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "event", "ledger");
    goodput_put(&j, "all", &l.all);
    goodput_put(&j, "kept", &l.kept);
    json_out_obj_end(&j);
    frame_put(&b->out, FRAME_EVENT, text.s, text.n);
    str_release(&text);
}

static void put_told(Beat *b) {
    Str text = {0};
    while (b->out.n < MAX_UNSENT && pulse_take_told(b->c.pulse, &text)) {
        frame_put(&b->out, FRAME_EVENT, text.s, text.n);
        str_clear(&text);
    }
    str_release(&text);
}

static void put_commits(Beat *b, const PulseView *v) {
    if (v->commits == b->commits) return;
    Str text = {0};
    JsonOut j;
    b->commits = v->commits;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "event", "checkpoint");
    json_out_str(&j, "stage", v->commit_stage);
    json_out_int(&j, "step", v->commit_step);
    json_out_obj_end(&j);
    frame_put(&b->out, FRAME_EVENT, text.s, text.n);
    str_release(&text);
}

static void put_beat(Beat *b) {
    PulseView v;
    pulse_read(&v, b->c.pulse);
    double age_ms = 1e3 * v.age_s, rss = load_rss();
    BeatMsg m = {.step = (uint64_t)v.step,
                 .calls = v.calls,
                 .section = v.section,
                 .age_ms = age_ms < UINT32_MAX ? (uint32_t)age_ms : UINT32_MAX,
                 .group = v.group,
                 .op = v.op,
                 .tokens = v.tokens > 0 && v.tokens < 1e18 ? (uint64_t)v.tokens : 0,
                 .rss = rss > 0 ? (uint64_t)rss : 0,
                 .loss = v.loss,
                 .grad_norm = v.grad_norm,
                 .flags = pulse_take_nonfinite(b->c.pulse) ? BEAT_NONFINITE : 0,
                 .passes = v.passes[v.section]};
    put_commits(b, &v);
    put_times(b, &v);
    put_ledger(b);
    beat_put(&b->out, &m);
}

/* -- the side thread */

static NORETURN void die(const Beat *b, const char *why) {
    char text[FRAME_REASON_MAX + 160];
    int n = snprintf(text, sizeof text, "dikast: rank %u: %s\n", b->c.hello.rank, why);
    if (write(STDERR_FILENO, text, (size_t)n) < 0) _exit(EXIT_RESUMABLE);
    _exit(EXIT_RESUMABLE);
}

static void disconnect(Beat *b) {
    if (b->fd >= 0) close(b->fd);
    b->fd = -1;
    b->retry_at_s = now_s() + retry_s;
}

static void try_connect(Beat *b) {
    Error err = {0};
    if (!net_connect(&b->fd, b->c.address, &err)) {
        disconnect(b);
        return;
    }
    b->connecting = true;
    str_clear(&b->in);
    str_clear(&b->out); /* what was cut in two is of no use to a new connection */
    hello_put(&b->out, &b->c.hello);
    put_beat(b);
}

static void obey(Beat *b, const Frame *f) {
    char why[FRAME_REASON_MAX + 1];
    switch (f->type) {
    case FRAME_PONG:
        b->heard_s = now_s();
        pulse_lease(b->c.pulse, b->c.dead_s);
        break;
    case FRAME_DUMP:
        put_dump(b, f);
        break;
    case FRAME_CKPT:
        if (b->c.stop) stop_request(b->c.stop);
        break;
    case FRAME_ABORT:
        snprintf(why, sizeof why, "%.*s", (int)f->n, (const char *)f->p);
        die(b, why);
    default:
        break; /* the parser let it through, but it is no command: a rank does not answer ranks */
    }
}

static void receive(Beat *b) {
    Frame f;
    size_t used, at = 0;
    Error err = {0};
    bool open = net_read(b->fd, &b->in), good = true;
    while ((good = frame_parse(&f, &used, b->in.s ? b->in.s + at : "", b->in.n - at, FRAME_MAX, &err)) && used > 0) {
        at += used;
        obey(b, &f);
    }
    net_drop(&b->in, at);
    if (!open || !good) disconnect(b);
}

static bool take_events(Beat *b, int *closing) {
    pthread_mutex_lock(&b->lock);
    bool any = b->events.n > 0;
    if (any && b->out.n < MAX_UNSENT) str_putn(&b->out, b->events.s, b->events.n);
    str_clear(&b->events);
    *closing = b->closing;
    pthread_mutex_unlock(&b->lock);
    return any;
}

static void wait_a_while(Beat *b, double until_s) {
    double left = until_s - now_s();
    struct pollfd fd[2] = {{.fd = b->wake_fd, .events = POLLIN}, {.fd = b->fd, .events = POLLIN}};
    if (b->fd >= 0 && (b->out.n > 0 || b->connecting)) fd[1].events |= POLLOUT;
    if (poll(fd, 2, left > 0 ? (int)(1000 * left) + 1 : 0) < 0) return;
    uint64_t n;
    if ((fd[0].revents & POLLIN) && read(b->wake_fd, &n, sizeof n) < 0) return;
    if (b->fd < 0) return;
    if (fd[1].revents & POLLOUT) {
        b->connecting = false;
        if (!net_write(b->fd, &b->out)) disconnect(b);
    }
    if (b->fd >= 0 && (fd[1].revents & (POLLIN | POLLHUP | POLLERR))) receive(b);
}

/* BYE must arrive before the process ends; a supervisor that does not read is not waited for long. */
static void say_bye(Beat *b, int code) {
    put_told(b);
    put_beat(b);
    bye_put(&b->out, (uint32_t)code & 255);
    for (double end = now_s() + bye_s; now_s() < end && (b->out.n > 0 || b->fd < 0);) {
        if (b->fd < 0 && now_s() >= b->retry_at_s) {
            try_connect(b);
            bye_put(&b->out, (uint32_t)code & 255);
        }
        wait_a_while(b, now_s() + 0.05);
    }
    /* Closing while a PONG lies unread would reset the connection, and BYE with it: so the supervisor closes first. */
    if (b->fd >= 0) shutdown(b->fd, SHUT_WR);
    for (double end = now_s() + bye_s; now_s() < end && b->fd >= 0;) wait_a_while(b, now_s() + 0.05);
}

static void *side(void *arg) {
    Beat *b = arg;
    char why[100];
    for (;;) {
        int closing;
        double now = now_s();
        if (b->fd < 0 && now >= b->retry_at_s) try_connect(b);
        take_events(b, &closing);
        if (closing) {
            say_bye(b, closing - 1);
            return NULL;
        }
        if (now - b->heard_s > b->c.dead_s) {
            snprintf(why, sizeof why, "the supervisor was not heard for %.0f s; ending, to be started again by it",
                     now - b->heard_s);
            die(b, why);
        }
        PulseView v;
        pulse_read(&v, b->c.pulse);
        if (b->fd >= 0) put_told(b);
        if (now >= b->next_s || v.commits != b->commits) {
            if (b->fd >= 0 && b->out.n < MAX_UNSENT) put_beat(b);
            b->next_s = now + beat_s;
        }
        wait_a_while(b, b->fd < 0 && b->retry_at_s < b->next_s ? b->retry_at_s : b->next_s);
    }
}

/* -- life */

static bool watch_stack(Beat *b, Error *err) {
    struct sigaction act = {.sa_sigaction = show_stack, .sa_flags = SA_SIGINFO | SA_RESTART};
    backtrace(b->stack, MAX_STACK); /* loads what it needs now: in the handler it could not */
    sigemptyset(&act.sa_mask);
    return sigaction(SIGUSR2, &act, &b->before) == 0 || error_errno(err, "watch", "SIGUSR2");
}

/* Signals are for other threads: this one may have to end the process while they are blocked in one. */
static bool start_side(Beat *b, Error *err) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int e = pthread_create(&b->side, NULL, side, b);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return e == 0 || error_set(err, ERR_MEMORY, "cannot start the thread that beats: %s", strerror(e));
}

bool beat_open(Beat **out, const BeatConfig *c, Error *err) {
    char state;
    *out = NULL;
    CHECK(c->pulse, "a beat without a pulse");
    Beat *b = mem_alloc(sizeof *b);
    b->c = *c;
    if (b->c.dead_s == 0) b->c.dead_s = 10;
    b->main = pthread_self();
    b->fd = -1;
    b->heard_s = now_s();
    b->c.hello.pid = (uint32_t)getpid();
    if (!proc_look(getpid(), &b->c.hello.start, &state)) b->c.hello.start = 0;
    if (!b->c.hello.host[0]) net_host(b->c.hello.host);
    pulse_read(&b->sent, c->pulse);
    b->commits = b->sent.commits;
    CHECK(pthread_mutex_init(&b->lock, NULL) == 0, "mutex");
    b->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (b->wake_fd < 0) {
        error_errno(err, "open", "an event descriptor");
        free(b);
        return false;
    }
    pulse_wake(c->pulse, b->wake_fd);
    pulse_lease(c->pulse, b->c.dead_s);
    if (!watch_stack(b, err) || !start_side(b, err)) {
        pulse_wake(c->pulse, -1);
        close(b->wake_fd);
        free(b);
        return false;
    }
    *out = b;
    return true;
}

static void wake(Beat *b) {
    uint64_t one = 1;
    while (write(b->wake_fd, &one, sizeof one) < 0 && errno == EINTR) continue;
}

void beat_event(Beat *b, const char *json) {
    if (!b) return;
    pthread_mutex_lock(&b->lock);
    if (b->events.n < MAX_UNSENT) frame_put(&b->events, FRAME_EVENT, json, strlen(json));
    pthread_mutex_unlock(&b->lock);
    wake(b);
}

void beat_close(Beat *b, int exit_code) {
    if (!b) return;
    pthread_mutex_lock(&b->lock);
    b->closing = (exit_code & 255) + 1;
    pthread_mutex_unlock(&b->lock);
    wake(b);
    pthread_join(b->side, NULL);
    pulse_wake(b->c.pulse, -1);
    sigaction(SIGUSR2, &b->before, NULL);
    if (b->fd >= 0) close(b->fd);
    close(b->wake_fd);
    str_release(&b->in);
    str_release(&b->out);
    str_release(&b->events);
    pthread_mutex_destroy(&b->lock);
    free(b);
}
