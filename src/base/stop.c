/* base/stop.c — the stop switch of log.h: a thread that reads the signals, so there is no handler. */
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct Stop {
    _Atomic bool requested;
    int signal_fd, quit_fd;
    sigset_t watched, before;
    pthread_t thread;
};

static void tell(const char *text) {
    const char *lead = isatty(STDERR_FILENO) == 1 ? "\n" : ""; /* below the redrawn progress line */
    if (write(STDERR_FILENO, lead, strlen(lead)) < 0 || write(STDERR_FILENO, text, strlen(text)) < 0) return;
}

static void die_of(int sig) {
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, sig);
    signal(sig, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &one, NULL);
    raise(sig);
}

static void *watch(void *arg) {
    Stop *s = arg;
    bool signalled = false;
    struct pollfd fd[2] = {{.fd = s->signal_fd, .events = POLLIN}, {.fd = s->quit_fd, .events = POLLIN}};
    for (;;) {
        if (poll(fd, 2, -1) < 0) continue; /* EINTR */
        if (fd[0].revents & POLLIN) {
            struct signalfd_siginfo info;
            if (read(s->signal_fd, &info, sizeof info) != sizeof info) continue;
            if (signalled) die_of((int)info.ssi_signo);
            signalled = true;
            atomic_store(&s->requested, true);
            tell("stopping after this step; state will be saved; again to die\n");
        } else if (fd[1].revents & POLLIN) {
            return NULL;
        }
    }
}

bool stop_open(Stop **out, Error *err) {
    *out = NULL;
    Stop *s = mem_alloc(sizeof *s);
    s->signal_fd = s->quit_fd = -1;
    sigemptyset(&s->watched);
    sigaddset(&s->watched, SIGINT);
    sigaddset(&s->watched, SIGTERM);
    sigaddset(&s->watched, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &s->watched, &s->before);
    s->signal_fd = signalfd(-1, &s->watched, SFD_CLOEXEC | SFD_NONBLOCK);
    s->quit_fd = eventfd(0, EFD_CLOEXEC);
    int e = s->signal_fd < 0 || s->quit_fd < 0 ? errno : pthread_create(&s->thread, NULL, watch, s);
    if (e != 0) {
        if (s->signal_fd >= 0) close(s->signal_fd);
        if (s->quit_fd >= 0) close(s->quit_fd);
        pthread_sigmask(SIG_SETMASK, &s->before, NULL);
        free(s);
        return error_set(err, ERR_IO, "cannot watch signals: %s", strerror(e));
    }
    *out = s;
    return true;
}

bool stop_requested(const Stop *s) { return s && atomic_load(&s->requested); }

void stop_request(Stop *s) { atomic_store(&s->requested, true); }

void stop_close(Stop *s) {
    if (!s) return;
    uint64_t one = 1;
    while (write(s->quit_fd, &one, sizeof one) < 0 && errno == EINTR) continue;
    pthread_join(s->thread, NULL);
    close(s->signal_fd);
    close(s->quit_fd);
    pthread_sigmask(SIG_SETMASK, &s->before, NULL);
    free(s);
}
