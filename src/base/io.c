/* base/io.c — files: atomic and durable writes, folders, mappings, logs, locks. */
#include "base/io.h"

#include "base/io_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define TEMPORARY ".tmp-" /* behind the name of what is being written; then pid and number */

/* The one writable global of the library: tests set it before any I/O runs, programs never do. */
static struct {
    IoFaultHook *hook;
    void *ud;
} fault;

void io_set_fault_hook(IoFaultHook *hook, void *ud) {
    fault.hook = hook;
    fault.ud = ud;
}

static bool faulty(const char *what) {
    if (!fault.hook) return false;
    int e = fault.hook(fault.ud, what);
    if (e) errno = e;
    return e != 0;
}

int sys_open(const char *path, int flags) {
    if (faulty("open")) return -1;
    int fd;
    do fd = open(path, flags | O_CLOEXEC, 0666);
    while (fd < 0 && errno == EINTR);
    return fd;
}

ssize_t sys_read(int fd, void *p, size_t n) {
    if (faulty("read")) return -1;
    ssize_t got;
    do got = read(fd, p, n);
    while (got < 0 && errno == EINTR);
    return got;
}

bool sys_write_all(int fd, const void *p, size_t n) {
    const char *c = p;
    while (n > 0) {
        if (faulty("write")) return false;
        ssize_t put = write(fd, c, n);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return false;
        c += put;
        n -= (size_t)put;
    }
    return true;
}

bool sys_fsync(int fd) {
    if (faulty("fsync")) return false;
    /* EINVAL: a pipe or a file system without it, where there is nothing to wait for. */
    return fsync(fd) == 0 || errno == EINVAL;
}

bool sys_fdatasync(int fd) { return !faulty("fsync") && (fdatasync(fd) == 0 || errno == EINVAL); }

static bool sys_rename(const char *from, const char *to) { return !faulty("rename") && rename(from, to) == 0; }

static bool sys_mkdir(const char *path) { return !faulty("mkdir") && mkdir(path, 0777) == 0; }

/* "a/b/c" -> "a/b", "/c" -> "/", "c" -> "."; the caller frees. */
static char *parent_of(const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    while (n > 0 && path[n - 1] != '/') n--;
    while (n > 1 && path[n - 1] == '/') n--;
    char *dir = mem_str(n > 0 ? path : ".");
    if (n > 0) dir[n] = 0;
    return dir;
}

static bool sync_path(const char *path, int flags, Error *err) {
    int fd = sys_open(path, flags);
    if (fd < 0) return error_errno(err, "open", path);
    bool ok = sys_fsync(fd) || error_errno(err, "sync to disk", path);
    close(fd);
    return ok;
}

static bool sync_parent(const char *path, Error *err) {
    char *dir = parent_of(path);
    bool ok = sync_path(dir, O_RDONLY | O_DIRECTORY, err);
    free(dir);
    return ok;
}

/* ---- whole files ---- */

bool io_read_file(Str *out, const char *path, size_t max_bytes, Error *err) {
    str_clear(out);
    int fd = sys_open(path, O_RDONLY);
    if (fd < 0) return error_errno(err, "open", path);
    bool ok = false;
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        error_set(err, ERR_IO, "%s: is a folder, expected a file", path);
        goto out;
    }
    char *chunk = mem_alloc((size_t)1 << 16);
    for (;;) {
        ssize_t got = sys_read(fd, chunk, (size_t)1 << 16);
        if (got < 0) error_errno(err, "read", path);
        ok = got == 0;
        if (got <= 0) break;
        str_putn(out, chunk, (size_t)got);
        if (out->n > max_bytes) {
            error_set(err, ERR_FORMAT, "%s: is larger than the %zu bytes allowed here", path, max_bytes);
            break;
        }
    }
    free(chunk);
out:
    close(fd);
    if (!ok) str_clear(out);
    if (ok) str_putn(out, "", 0); /* an empty file gives "", not NULL */
    return ok;
}

bool io_write_file(const char *path, const void *data, size_t n, Error *err) {
    Writer *w;
    if (!writer_open(&w, path, err)) return false;
    if (!writer_put(w, data, n, err)) {
        writer_abandon(w);
        return false;
    }
    return writer_commit(w, err);
}

bool io_copy_file(const char *from, const char *to, Error *err) {
    int fd = sys_open(from, O_RDONLY);
    if (fd < 0) return error_errno(err, "open", from);
    Writer *w = NULL;
    enum { CHUNK = 1 << 18 };
    char *chunk = mem_alloc(CHUNK);
    bool ok = writer_open(&w, to, err);
    while (ok) {
        ssize_t got = sys_read(fd, chunk, CHUNK);
        if (got < 0) ok = error_errno(err, "read", from);
        if (got <= 0) break;
        ok = writer_put(w, chunk, (size_t)got, err);
    }
    ok = writer_end(w, ok, err);
    free(chunk);
    close(fd);
    return ok;
}

bool io_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

bool io_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int64_t io_size(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_size : -1;
}

bool io_beside_program(Str *out, const char *name, Error *err) {
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    str_clear(out);
    if (n < 0) return error_errno(err, "cannot read link", "/proc/self/exe");
    self[n] = 0;
    char *slash = strrchr(self, '/');
    if (slash) *slash = 0;
    str_printf(out, "%s/%s", slash ? self : ".", name);
    return true;
}

double io_free_bytes(const char *path) {
    struct statvfs v;
    return statvfs(path, &v) == 0 ? (double)v.f_bavail * (double)v.f_frsize : -1;
}

/* ---- folders ---- */

bool io_make_dirs(const char *path, Error *err) {
    char *at = mem_str(path);
    bool ok = true;
    size_t n = strlen(path);
    for (size_t i = 1; i <= n && ok; i++) {
        if (at[i] != '/' && at[i] != 0) continue;
        char keep = at[i];
        at[i] = 0;
        if (!io_is_dir(at) && !sys_mkdir(at) && !(errno == EEXIST && io_is_dir(at)))
            ok = error_errno(err, "make the folder", at);
        at[i] = keep;
    }
    free(at);
    return ok;
}

bool io_rename(const char *from, const char *to, Error *err) {
    if (!sys_rename(from, to)) return error_errno(err, "rename into place", to);
    return sync_parent(to, err);
}

/* Some network file systems know no RENAME_NOREPLACE; there a folder with something in it is never replaced either. */
bool io_rename_new(const char *from, const char *to, Error *err) {
    bool ok = !faulty("rename") && renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0;
    if (!ok && errno == EINVAL) ok = rename(from, to) == 0;
    return ok || error_errno(err, "rename into place", to);
}

bool io_sync(const char *path, Error *err) { return sync_path(path, O_RDONLY, err); }

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

bool io_list_dir(char ***names, int *n, const char *path, Error *err) {
    *names = NULL;
    *n = 0;
    DIR *d = faulty("open") ? NULL : opendir(path);
    if (!d) return error_errno(err, "list the folder", path);
    int cap = 0;
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(d);
        if (!e) break;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (*n == cap) {
            cap = cap ? cap * 2 : 16;
            *names = mem_grow(*names, (size_t)cap * sizeof **names);
        }
        (*names)[(*n)++] = mem_str(e->d_name);
    }
    int failed = errno;
    closedir(d);
    if (failed) {
        io_free_list(*names, *n);
        *names = NULL;
        *n = 0;
        errno = failed;
        return error_errno(err, "list the folder", path);
    }
    if (*n > 0) qsort(*names, (size_t)*n, sizeof **names, by_name);
    return true;
}

void io_free_list(char **names, int n) {
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
}

/* Calls visit for everything below path (links are not followed), contents before their folder, then for path itself.
 */
typedef bool VisitFn(const char *path, bool is_dir, Error *err);

static bool walk_tree(Str *path, VisitFn *visit, Error *err) {
    struct stat st;
    if (lstat(path->s, &st) != 0) return error_errno(err, "look at", path->s);
    bool is_dir = S_ISDIR(st.st_mode);
    if (is_dir) {
        char **names;
        int n;
        if (!io_list_dir(&names, &n, path->s, err)) return false;
        size_t len = path->n;
        bool ok = true;
        for (int i = 0; i < n && ok; i++) {
            str_putc(path, '/');
            str_put(path, names[i]);
            ok = walk_tree(path, visit, err);
            path->n = len;
            path->s[len] = 0;
        }
        io_free_list(names, n);
        if (!ok) return false;
    }
    return visit(path->s, is_dir, err);
}

static bool visit_remove(const char *path, bool is_dir, Error *err) {
    bool ok = !faulty("remove") && (is_dir ? rmdir(path) : unlink(path)) == 0;
    return ok || error_errno(err, "remove", path);
}

static bool visit_sync(const char *path, bool is_dir, Error *err) {
    struct stat st;
    if (!is_dir && lstat(path, &st) == 0 && !S_ISREG(st.st_mode)) return true; /* opening a pipe would wait */
    return sync_path(path, O_RDONLY | (is_dir ? O_DIRECTORY : 0), err);
}

bool io_remove_tree(const char *path, Error *err) {
    struct stat st;
    if (lstat(path, &st) != 0 && errno == ENOENT) return true;
    Str at = {0};
    str_put(&at, path);
    bool ok = walk_tree(&at, visit_remove, err);
    str_release(&at);
    return ok;
}

bool io_remove_in(const char *dir, bool (*pick)(void *ud, const char *name), void *ud, Error *err) {
    char **name;
    int n;
    Str path = {0};
    if (!io_list_dir(&name, &n, dir, err)) return false;
    bool ok = true;
    Error later = {0};
    for (int i = 0; i < n; i++) {
        if (!pick(ud, name[i])) continue;
        str_clear(&path);
        str_printf(&path, "%s/%s", dir, name[i]);
        Error *first = ok ? err : &later;
        ok = io_remove_tree(str_get(&path), first) && ok;
    }
    io_free_list(name, n);
    str_release(&path);
    return ok;
}

static bool is_temporary(void *ud, const char *name) {
    (void)ud;
    return strstr(name, TEMPORARY) != NULL;
}

bool io_sweep(const char *dir, Error *err) { return io_remove_in(dir, is_temporary, NULL, err); }

bool io_sync_tree(const char *path, Error *err) {
    Str at = {0};
    str_put(&at, path);
    bool ok = walk_tree(&at, visit_sync, err);
    str_release(&at);
    return ok;
}

/* ---- mappings ---- */

bool io_map(IoMap *out, const char *path, Error *err) {
    static const unsigned char nothing[1] = {0};
    *out = (IoMap){.p = nothing};
    int fd = sys_open(path, O_RDONLY);
    if (fd < 0) return error_errno(err, "open", path);
    bool ok = false;
    struct stat st;
    if (fstat(fd, &st) != 0) {
        error_errno(err, "look at", path);
    } else if (!S_ISREG(st.st_mode)) {
        error_set(err, ERR_IO, "%s: is not a regular file", path);
    } else if (st.st_size == 0) {
        ok = true;
    } else {
        void *p = faulty("mmap") ? MAP_FAILED : mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        ok = p != MAP_FAILED || error_errno(err, "map", path);
        if (ok) *out = (IoMap){.p = p, .n = (size_t)st.st_size};
    }
    close(fd);
    return ok;
}

void io_unmap(IoMap *m) {
    if (m->n > 0) munmap((void *)(uintptr_t)m->p, m->n);
    *m = (IoMap){0};
}

void io_map_forget(const void *p, size_t n) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)p + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)p + n) / page * page;
    if (first < end) madvise((void *)first, end - first, MADV_DONTNEED); /* a wish */
}

/* ---- atomic writer ---- */

struct Writer {
    int fd;
    char *path, *tmp;
    unsigned char *buf;
    size_t n;
    bool broken; /* a put failed: what is in the temporary must never get the name */
};
enum { WRITER_BUFFER = 1 << 17 };

static void writer_free(Writer *w) {
    if (w->fd >= 0) close(w->fd);
    free(w->path);
    free(w->tmp);
    free(w->buf);
    free(w);
}

bool writer_open(Writer **out, const char *path, Error *err) {
    *out = NULL;
    Writer *w = mem_alloc(sizeof *w);
    w->path = mem_str(path);
    w->fd = -1;
    /* A killed process leaves its temporary behind; one with our number may have, so try further names. */
    for (int k = 0; k < 1000 && w->fd < 0; k++) {
        Str name = {0};
        str_printf(&name, "%s" TEMPORARY "%ld-%d", path, (long)getpid(), k);
        free(w->tmp);
        w->tmp = str_detach(&name);
        w->fd = sys_open(w->tmp, O_WRONLY | O_CREAT | O_EXCL);
        if (w->fd < 0 && errno != EEXIST) break;
    }
    if (w->fd < 0) {
        error_errno(err, "create", path);
        writer_free(w);
        return false;
    }
    w->buf = mem_alloc(WRITER_BUFFER);
    *out = w;
    return true;
}

static bool writer_flush(Writer *w, Error *err) {
    size_t n = w->n;
    w->n = 0;
    if (sys_write_all(w->fd, w->buf, n)) return true;
    w->broken = true;
    return error_errno(err, "write", w->path);
}

bool writer_put(Writer *w, const void *data, size_t n, Error *err) {
    if (w->broken) return error_set(err, ERR_IO, "%s: an earlier write failed", w->path);
    const unsigned char *p = data;
    if (w->n + n > WRITER_BUFFER && !writer_flush(w, err)) return false;
    if (n > WRITER_BUFFER) {
        w->broken = !sys_write_all(w->fd, p, n);
        return !w->broken || error_errno(err, "write", w->path);
    }
    if (n) memcpy(w->buf + w->n, p, n);
    w->n += n;
    return true;
}

void writer_abandon(Writer *w) {
    if (!w) return;
    unlink(w->tmp);
    writer_free(w);
}

bool writer_commit(Writer *w, Error *err) {
    bool ok = !w->broken || error_set(err, ERR_IO, "%s: an earlier write failed", w->path);
    ok = ok && writer_flush(w, err);
    if (ok && !sys_fsync(w->fd)) ok = error_errno(err, "sync to disk", w->path);
    if (ok) {
        /* Network file systems report a full disk only here. */
        bool closed = close(w->fd) == 0 || errno == EINTR;
        w->fd = -1;
        if (!closed) ok = error_errno(err, "write", w->path);
    }
    if (ok && !sys_rename(w->tmp, w->path)) ok = error_errno(err, "rename into place", w->path);
    if (!ok) {
        writer_abandon(w);
        return false;
    }
    ok = sync_parent(w->path, err);
    writer_free(w);
    return ok;
}

/* ---- logs ---- */

struct Appender {
    int fd;
    char *path;
    int64_t size;
    bool torn;
    Str line;
};

/* A killed process may have left half a line; ours must not continue it. */
static bool ends_in_newline(int fd, int64_t size) {
    char c = '\n';
    return size == 0 || pread(fd, &c, 1, (off_t)size - 1) != 1 || c == '\n';
}

bool appender_open(Appender **out, const char *path, int64_t truncate_at, Error *err) {
    *out = NULL;
    int fd = sys_open(path, O_RDWR | O_CREAT | O_APPEND);
    if (fd < 0) return error_errno(err, "open", path);
    struct stat st;
    bool ok = fstat(fd, &st) == 0 || error_errno(err, "look at", path);
    int64_t size = ok ? (int64_t)st.st_size : 0;
    if (ok && truncate_at > size) {
        ok = error_set(err, ERR_STATE,
                       "%s: has %lld bytes, but the saved state was made when it had %lld: was it edited?", path,
                       (long long)size, (long long)truncate_at);
    }
    if (ok && truncate_at >= 0 && truncate_at < size) {
        ok = ftruncate(fd, (off_t)truncate_at) == 0 || error_errno(err, "shorten", path);
        size = truncate_at;
    }
    if (ok && !ends_in_newline(fd, size)) {
        ok = sys_write_all(fd, "\n", 1) || error_errno(err, "write", path);
        size++;
    }
    if (!ok) {
        close(fd);
        return false;
    }
    Appender *a = mem_alloc(sizeof *a);
    *a = (Appender){.fd = fd, .path = mem_str(path), .size = size};
    *out = a;
    return true;
}

bool appender_line(Appender *a, const char *line, size_t n, Error *err) {
    str_clear(&a->line);
    if (a->torn) str_putc(&a->line, '\n');
    a->torn = false;
    str_putn(&a->line, line, n);
    str_putc(&a->line, '\n');
    if (!sys_write_all(a->fd, a->line.s, a->line.n)) {
        error_errno(err, "write", a->path);
        /* Takes half a line back; should even that fail, the next line begins on a line of its own. */
        a->torn = ftruncate(a->fd, (off_t)a->size) != 0;
        return false;
    }
    a->size += (int64_t)a->line.n;
    return true;
}

int64_t appender_size(const Appender *a) { return a->size; }

bool appender_sync(Appender *a, Error *err) { return sys_fsync(a->fd) || error_errno(err, "sync to disk", a->path); }

void appender_close(Appender *a) {
    if (!a) return;
    close(a->fd);
    free(a->path);
    str_release(&a->line);
    free(a);
}

/* ---- locks ---- */

static bool locked_by_other(int fd, const char *path, Error *err) {
    char who[160] = "";
    ssize_t n = pread(fd, who, sizeof who - 1, 0);
    if (n > 0) who[strcspn(who, "\n")] = 0;
    return error_set(err, ERR_CONFIG, "%s: in use by %s; wait for it, stop it, or choose another run.name", path,
                     n > 0 && who[0] ? who : "another process");
}

/* Held only for a moment by whoever merely looks (io_locked), so a second try tells him from a holder. */
static bool take_lock(int fd) {
    enum { LOOK_NS = 20000000 };
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return true;
    if (errno != EWOULDBLOCK) return false;
    nanosleep(&(struct timespec){0, LOOK_NS}, NULL);
    return flock(fd, LOCK_EX | LOCK_NB) == 0;
}

bool io_locked(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool held = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(fd);
    return held;
}

bool io_lock(IoLock *l, const char *path, Error *err) {
    l->fd = -1;
    int fd = sys_open(path, O_RDWR | O_CREAT);
    if (fd < 0) return error_errno(err, "open", path);
    if (faulty("lock") || !take_lock(fd)) {
        if (errno == EWOULDBLOCK)
            locked_by_other(fd, path, err);
        else
            error_errno(err, "lock", path);
        close(fd);
        return false;
    }
    char who[160];
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = (size_t)snprintf(who, sizeof who, "process %ld, started ", (long)getpid());
    n += strftime(who + n, sizeof who - n, "%Y-%m-%d %H:%M:%S UTC\n", &tm);
    /* On a full disk it is held all the same: whoever makes room needs it. */
    if (ftruncate(fd, 0) != 0 || (!sys_write_all(fd, who, n) && errno != ENOSPC && errno != EDQUOT)) {
        error_errno(err, "write", path);
        close(fd);
        return false;
    }
    l->fd = fd;
    return true;
}

/* The file stays: removing it would let two processes hold locks on two files of one name. */
void io_unlock(IoLock *l) {
    if (l->fd >= 0) close(l->fd);
    l->fd = -1;
}
