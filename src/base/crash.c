#include "base/crash.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void crash_point(const char *name, int rank, int64_t step) {
    const char *at = getenv("DIKAST_CRASH_AT");
    size_t n = strlen(name);
    if (!at || strncmp(at, name, n) != 0 || (at[n] && at[n] != ':')) return;
    const char *of_rank = at[n] ? at + n + 1 : NULL, *of_step = of_rank ? strchr(of_rank, ':') : NULL;
    if (of_rank && *of_rank != '*' && strtol(of_rank, NULL, 10) != rank) return;
    if (of_step && strtoll(of_step + 1, NULL, 10) != step) return;
    kill(getpid(), SIGKILL);
}
