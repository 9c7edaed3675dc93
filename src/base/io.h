/* base/io.h — files. Written as temporary + fsync + rename + fsync of the directory, so a name either holds the whole new
 * content or what it held before. Every system call that can fail passes the fault hook, so tests can fail the k-th. */
#ifndef DIKAST_BASE_IO_H
#define DIKAST_BASE_IO_H

#include "base/error.h"
#include "base/str.h"

bool io_read_file(Str *out, const char *path, size_t max_bytes, Error *err);    /* replaces *out */
bool io_write_file(const char *path, const void *data, size_t n, Error *err);   /* atomic and durable */
bool io_exists(const char *path);
bool io_is_dir(const char *path);
int64_t io_size(const char *path);                                              /* -1 when absent */
bool io_make_dirs(const char *path, Error *err);                                /* mkdir -p */
bool io_rename(const char *from, const char *to, Error *err);                   /* durable: fsyncs the directory */
bool io_rename_new(const char *from, const char *to, Error *err);                /* not yet durable; fails if `to` is there */
bool io_sync(const char *path, Error *err);                                     /* fsync of one file or folder */
bool io_remove_tree(const char *path, Error *err);                              /* absent is fine */
/* The files and folders of dir that pick takes; one that cannot be removed does not keep the others. */
bool io_remove_in(const char *dir, bool (*pick)(void *ud, const char *name), void *ud, Error *err);
bool io_sweep(const char *dir, Error *err);                                     /* what killed writers left in it; none may be at work there */
bool io_sync_tree(const char *path, Error *err);                                /* fsync every file and folder below */
bool io_copy_file(const char *from, const char *to, Error *err);                /* atomic */
bool io_list_dir(char ***names, int *n, const char *path, Error *err);          /* sorted, without . and ..; io_free_list */
void io_free_list(char **names, int n);
/* Replaces *out by a path from the folder of the running program: "/usr/local/bin/../lib/dikast". ERR_IO where /proc does not name it. */
bool io_beside_program(Str *out, const char *name, Error *err);
double io_free_bytes(const char *path);                                         /* of the file system; -1 unknown */

typedef struct { const unsigned char *p; size_t n; } IoMap;                     /* read-only mapping */
bool io_map(IoMap *out, const char *path, Error *err);
void io_unmap(IoMap *m);
/* Part of a mapping that need not stay in memory: read again from the file if it is touched again. */
void io_map_forget(const void *p, size_t n);

/* Streaming atomic writer: nothing appears under path before writer_commit. */
typedef struct Writer Writer;
bool writer_open(Writer **out, const char *path, Error *err);
bool writer_put(Writer *w, const void *data, size_t n, Error *err);
bool writer_commit(Writer *w, Error *err);      /* flush, fsync, rename; releases w whatever the outcome */
void writer_abandon(Writer *w);                 /* removes the temporary; NULL is fine */
/* The one or the other; returns whether the file is there. */
static inline bool writer_end(Writer *w, bool ok, Error *err) {
    if (ok) return writer_commit(w, err);
    writer_abandon(w);
    return false;
}

/* Appender for logs (metrics.jsonl): one write per line; truncate_at drops what a killed run wrote beyond its last state. */
typedef struct Appender Appender;
bool appender_open(Appender **out, const char *path, int64_t truncate_at, Error *err);   /* -1: keep all */
bool appender_line(Appender *a, const char *line, size_t n, Error *err);                 /* adds the newline */
int64_t appender_size(const Appender *a);
bool appender_sync(Appender *a, Error *err);
void appender_close(Appender *a);

/* Lines of plain, .gz and .zst files (by content, not by name; several members/frames in a row are normal). LF and CRLF;
 * a byte order mark on line 1 is dropped. Lines beyond max_line bytes are an error. */
typedef struct LineReader LineReader;
bool lines_open(LineReader **out, const char *path, size_t max_line, Error *err);
/* *line is valid until the next call; returns false with err->code == ERR_NONE at the end of the file. */
bool lines_next(LineReader *r, const char **line, size_t *n, Error *err);
int64_t lines_number(const LineReader *r);      /* 1-based number of the line last returned */
/* The text as it comes, for formats whose units are no lines; not to be mixed with lines_next. Shows at least `least` bytes
 * that are not taken yet, fewer only at the end; *p is valid until the next call. A byte order mark is text here. */
bool lines_peek(LineReader *r, size_t least, const char **p, size_t *n, Error *err);
void lines_take(LineReader *r, size_t n);       /* at most the n that was shown */
const char *lines_packed(const LineReader *r);  /* "gzip", "zstd" or "" */
void lines_close(LineReader *r);

/* Blocks that other formats hold packed: false unless the input is whole, undamaged and gives exactly n_out bytes. */
bool io_unpack_gzip(void *out, size_t n_out, const void *in, size_t n_in);      /* one or more members */
bool io_unpack_zstd(void *out, size_t n_out, const void *in, size_t n_in);
uint32_t io_crc32(const void *p, size_t n);                                     /* as gzip's */

/* A run's lock: file with pid and start time; held while the descriptor is open (flock), so kill -9 releases it. */
typedef struct { int fd; } IoLock;
bool io_lock(IoLock *l, const char *path, Error *err);  /* ERR_CONFIG with the holder's pid when taken */
void io_unlock(IoLock *l);
bool io_locked(const char *path);                       /* somebody holds it now. Never keeps a lock from anyone: io_lock asks twice */

/* Fault injection for tests: hook(ud, what) returning an errno makes the call fail with it. NULL: off. Test-only; not
 * thread-safe to change while I/O runs. */
typedef int IoFaultHook(void *ud, const char *what);
void io_set_fault_hook(IoFaultHook *hook, void *ud);

#endif
