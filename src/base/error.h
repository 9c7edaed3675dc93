/* base/error.h — two kinds of failure.
 *
 * CHECK is for our own mistakes (a shape that does not fit): it prints file, line, expression and reason and aborts. It
 * is never compiled out.
 *
 * Error is for the world's mistakes (a truncated shard): a fallible function returns true on success; on false it has
 * filled *err and released what it had taken. Callers add context: "rl: pm: tensor 'score.weight': expected ...".
 * A message says where, what was found, what was expected and, if we can, what to do. err is never NULL. */
#ifndef DIKAST_BASE_ERROR_H
#define DIKAST_BASE_ERROR_H

#include "base/compiler.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    ERR_NONE,
    ERR_IO,       /* exit 4: the file system or the device said no */
    ERR_FORMAT,   /* exit 3: outside data is malformed */
    ERR_CONFIG,   /* exit 2: a key, a flag, a command */
    ERR_MEMORY,   /* exit 4 */
    ERR_NET,      /* exit 4 */
    ERR_STATE,    /* exit 1: something of ours is not as it must be (a stage missing, a locked run) */
    ERR_DIVERGED, /* exit 5: non-finite loss k times in a row, KL stop */
    ERR_GATE,     /* exit 6: a gate or threshold was not met */
    ERR_STOPPED,  /* exit 75: SIGTERM or SIGINT, state saved, run again to go on */
    ERR_LIMIT,    /* exit 6: a stage's own limit was not kept: of spending, of its labels' quality; it has no result */
} ErrorCode;

typedef struct {
    ErrorCode code;
    char msg[1000];
} Error;

bool error_set(Error *err, ErrorCode code, const char *fmt, ...) FORMAT(3, 4); /* always returns false */
bool error_wrap(Error *err, const char *fmt, ...) FORMAT(2, 3); /* puts "...: " before the message; returns false */
bool error_errno(Error *err, const char *what, const char *path); /* ERR_IO (ERR_MEMORY for ENOMEM) from errno: "path:
                                                                     cannot open: No such file or directory" + a hint */
int error_exit_code(ErrorCode code);                                      /* the table above; 0 for ERR_NONE */

NORETURN void check_failed(const char *file, int line, const char *expr, const char *fmt, ...) FORMAT(4, 5);
#define CHECK(cond, ...)                                                                                               \
    do {                                                                                                               \
        if (!(cond)) check_failed(__FILE__, __LINE__, #cond, __VA_ARGS__);                                             \
    } while (0)

/* malloc family that CHECKs: for bookkeeping whose failure nobody can answer. Sized data goes to an Arena or says so. */
void *mem_alloc(size_t bytes);            /* zeroed */
void *mem_grow(void *p, size_t bytes);    /* realloc */
char *mem_str(const char *s);             /* strdup; NULL stays NULL */

#ifdef __cplusplus
}
#endif

#endif
