#include "dist/proc.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool read_small(const char *path, char *out, size_t n) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t got = read(fd, out, n - 1);
    close(fd);
    out[got > 0 ? got : 0] = 0;
    return got > 0;
}

bool proc_look(int pid, uint64_t *start, char *state) {
    char path[40], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (!read_small(path, text, sizeof text)) return false;
    char *p = strrchr(text, ')'); /* the name before it may hold anything */
    if (!p || sscanf(p + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64,
                     state, start) != 2)
        return false;
    return true;
}

bool proc_alive(int pid, uint64_t start) {
    uint64_t now;
    char state;
    return proc_look(pid, &now, &state) && now == start && state != 'Z' && state != 'X';
}

/* By a descriptor of the process: between the comparison and the signal the pid could have gone to another. */
bool proc_signal(int pid, uint64_t start, int sig) {
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    bool same = proc_alive(pid, start), sent = false;
    if (same && fd >= 0)
        sent = syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0) == 0;
    else if (same)
        sent = kill(pid, sig) == 0;
    if (fd >= 0) close(fd);
    return sent;
}

const char *proc_state_text(char state) {
    switch (state) {
    case 'T':
    case 't':
        return "stopped (SIGSTOP)";
    case 'D':
        return "waiting for input or output";
    case 'R':
        return "running";
    case 'S':
        return "asleep";
    case 'Z':
    case 'X':
        return "dead";
    default:
        return "in an unknown state";
    }
}
