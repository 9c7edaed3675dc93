/* base/error.c — messages, and the one place besides app/ that may end the process. */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Cuts at a character's start, so that a clipped message is still valid UTF-8. */
static void clip_utf8(char *s, size_t cap) {
    size_t n = strlen(s);
    if (n + 1 < cap) return;
    while (n > 0 && ((unsigned char)s[n - 1] & 0xC0) == 0x80) n--;
    if (n > 0 && (unsigned char)s[n - 1] >= 0xC0) n--;
    s[n] = 0;
}

bool error_set(Error *err, ErrorCode code, const char *fmt, ...) {
    /* The arguments may point into err->msg ("%s: %s", path, err->msg): format aside, then copy. */
    char text[sizeof err->msg];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    clip_utf8(text, sizeof text);
    memcpy(err->msg, text, sizeof text);
    err->code = code;
    return false;
}

bool error_wrap(Error *err, const char *fmt, ...) {
    char text[sizeof err->msg];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    size_t at = n < 0 ? 0 : (size_t)n < sizeof text - 3 ? (size_t)n : sizeof text - 3;
    size_t room = sizeof text - at - 3, tail = strlen(err->msg);
    memcpy(text + at, ": ", 2);
    memcpy(text + at + 2, err->msg, tail < room ? tail : room);
    text[at + 2 + (tail < room ? tail : room)] = 0;
    clip_utf8(text, sizeof text);
    memcpy(err->msg, text, sizeof text);
    return false;
}

/* What a person can do about it; NULL where the system's own words say enough. */
static const char *errno_hint(int e) {
    switch (e) {
    case ENOSPC:
        return "disk full: free space, or choose another disk (a run: run.out)";
    case EDQUOT:
        return "disk quota used up: free space, or choose another disk (a run: run.out)";
    case EFBIG:
        return "file size limit reached: raise it with ulimit -f";
    case EROFS:
        return "the file system is read-only: choose a place that can be written (a run: run.out)";
    case EACCES:
    case EPERM:
        return "no permission: check owner and mode with ls -ld, or choose another path";
    case EEXIST:
        return "something of that name is in the way: move it, or choose another path";
    case ENOTDIR:
        return "a part of this path is a file, not a folder";
    case EISDIR:
        return "it is a folder: name a file";
    case ENOENT:
        return "check the path; relative paths start at the current directory";
    case EMFILE:
    case ENFILE:
        return "too many open files: raise the limit with ulimit -n";
    case EIO:
        return "the disk reported an error: check it (dmesg) before trusting this file";
    case ESTALE:
        return "the network file system lost the file: remount it and run again";
    case ENOMEM:
        return "out of memory: lower the stage's micro_tokens or free memory";
    case ENAMETOOLONG:
        return "the path is too long: choose a shorter one";
    default:
        return NULL;
    }
}

bool error_errno(Error *err, const char *what, const char *path) {
    int e = errno;
    const char *hint = errno_hint(e);
    return error_set(err, e == ENOMEM ? ERR_MEMORY : ERR_IO, "%s: cannot %s: %s%s%s%s", path, what, strerror(e),
                     hint ? " (" : "", hint ? hint : "", hint ? ")" : "");
}

int error_exit_code(ErrorCode code) {
    switch (code) {
    case ERR_NONE:
        return 0;
    case ERR_STATE:
        return 1;
    case ERR_CONFIG:
        return 2;
    case ERR_FORMAT:
        return 3;
    case ERR_IO:
    case ERR_MEMORY:
    case ERR_NET:
        return 4;
    case ERR_DIVERGED:
        return 5;
    case ERR_GATE:
    case ERR_LIMIT:
        return 6;
    case ERR_STOPPED:
        return 75;
    }
    return 1;
}

NORETURN void check_failed(const char *file, int line, const char *expr, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fflush(stdout);
    fprintf(stderr, "\n%s:%d: check failed: %s: ", file, line, expr);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\nThis is a bug in dikast, not in your data. Please report it with the command you ran.\n");
    va_end(ap);
    fflush(stderr);
    abort();
}

void *mem_alloc(size_t bytes) {
    void *p = calloc(1, bytes ? bytes : 1);
    CHECK(p != NULL, "out of memory: %zu bytes", bytes);
    return p;
}

void *mem_grow(void *p, size_t bytes) {
    void *q = realloc(p, bytes ? bytes : 1);
    CHECK(q != NULL, "out of memory: %zu bytes", bytes);
    return q;
}

char *mem_str(const char *s) {
    if (!s) return NULL;
    size_t n = strlen(s) + 1;
    return memcpy(mem_alloc(n), s, n);
}
