#include "base/crash.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The next field, "" when there is none; *p goes behind it. */
static const char *field(const char **p) {
    if (!*p || **p != ':') return "";
    const char *at = *p + 1;
    *p = at + strcspn(at, ":");
    return at;
}

static bool fits(const char *text, int64_t v) {
    return !*text || *text == ':' || *text == '*' || strtoll(text, NULL, 10) == v;
}

bool crash_here(const char *name, int rank, int64_t step) {
    const char *at = getenv("DIKAST_CRASH_AT"), *attempt = getenv("DIKAST_ATTEMPT");
    size_t n = strlen(name);
    if (!at || strncmp(at, name, n) != 0 || (at[n] && at[n] != ':')) return false;
    const char *p = at + n;
    return fits(field(&p), rank) && fits(field(&p), step) && fits(field(&p), attempt ? strtoll(attempt, NULL, 10) : 0);
}

void crash_point(const char *name, int rank, int64_t step) {
    if (crash_here(name, rank, step)) kill(getpid(), SIGKILL);
}
