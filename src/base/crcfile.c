#include "base/crcfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/io_int.h"

int64_t crcfile_count(int64_t bytes) { return bytes > 0 ? (bytes - 1) / CRC_BLOCK_BYTES + 1 : 0; }

void crc_sums_release(CrcSums *s) {
    free(s->crc);
    *s = (CrcSums){0};
}

/* -- writing */

struct CrcWriter {
    int fd;
    char *path;
    unsigned char *buf;
    size_t n;
    CrcSums sums;
};

static void writer_free(CrcWriter *w) {
    if (w->fd >= 0) close(w->fd);
    free(w->path);
    free(w->buf);
    crc_sums_release(&w->sums);
    free(w);
}

bool crcfile_create(CrcWriter **out, const char *path, Error *err) {
    *out = NULL;
    unlink(path); /* a new file, not the old one's pages */
    int fd = sys_open(path, O_WRONLY | O_CREAT | O_EXCL);
    if (fd < 0) return error_errno(err, "create", path);
    CrcWriter *w = mem_alloc(sizeof *w);
    *w = (CrcWriter){.fd = fd, .path = mem_str(path), .buf = mem_alloc(CRC_BLOCK_BYTES)};
    *out = w;
    return true;
}

static bool put_block(CrcWriter *w, Error *err) {
    if (w->n == 0) return true;
    w->sums.crc = mem_grow(w->sums.crc, (size_t)(w->sums.n + 1) * sizeof *w->sums.crc);
    w->sums.crc[w->sums.n++] = crc32c(0, w->buf, w->n);
    w->sums.bytes += (int64_t)w->n;
    bool ok = sys_write_all(w->fd, w->buf, w->n);
    w->n = 0;
    return ok || error_errno(err, "write", w->path);
}

bool crcfile_put(CrcWriter *w, const void *p, size_t n, Error *err) {
    const unsigned char *b = p;
    while (n > 0) {
        size_t room = CRC_BLOCK_BYTES - w->n, now = n < room ? n : room;
        memcpy(w->buf + w->n, b, now);
        w->n += now, b += now, n -= now;
        if (w->n == CRC_BLOCK_BYTES && !put_block(w, err)) return false;
    }
    return true;
}

bool crcfile_flush(CrcWriter *w, Error *err) { return put_block(w, err); }

void crcfile_abandon(CrcWriter *w) {
    if (!w) return;
    unlink(w->path);
    writer_free(w);
}

bool crcfile_finish(CrcWriter *w, CrcSums *s, Error *err) {
    *s = (CrcSums){0};
    bool ok = put_block(w, err);
    if (ok && !sys_fdatasync(w->fd)) ok = error_errno(err, "sync to disk", w->path);
    if (ok) { /* network file systems report a full disk only here */
        ok = close(w->fd) == 0 || errno == EINTR || error_errno(err, "write", w->path);
        w->fd = -1;
    }
    if (!ok) {
        crcfile_abandon(w);
        return false;
    }
    *s = w->sums;
    w->sums = (CrcSums){0};
    writer_free(w);
    return true;
}

/* -- reading */

struct CrcReader {
    int fd;
    char *path;
    const CrcSums *sums;
    int64_t held; /* block in buf, -1: none */
    unsigned char *buf;
};

void crcfile_close(CrcReader *r) {
    if (!r) return;
    close(r->fd);
    free(r->path);
    free(r->buf);
    free(r);
}

bool crcfile_open(CrcReader **out, const char *path, const CrcSums *s, Error *err) {
    *out = NULL;
    int fd = sys_open(path, O_RDONLY);
    if (fd < 0 && errno == ENOENT) return error_set(err, ERR_FORMAT, "%s: is missing", path);
    if (fd < 0) return error_errno(err, "open", path);
    struct stat st;
    bool ok = fstat(fd, &st) == 0 || error_errno(err, "look at", path);
    if (ok && st.st_size != s->bytes)
        ok = error_set(err, ERR_FORMAT, "%s: has %lld bytes, expected %lld", path, (long long)st.st_size,
                       (long long)s->bytes);
    if (!ok) {
        close(fd);
        return false;
    }
    CrcReader *r = mem_alloc(sizeof *r);
    *r = (CrcReader){.fd = fd, .path = mem_str(path), .sums = s, .held = -1, .buf = mem_alloc(CRC_BLOCK_BYTES)};
    *out = r;
    return true;
}

static bool hold(CrcReader *r, int64_t block, Error *err) {
    if (r->held == block) return true;
    int64_t from = block * CRC_BLOCK_BYTES, left = r->sums->bytes - from;
    size_t n = (size_t)(left < CRC_BLOCK_BYTES ? left : CRC_BLOCK_BYTES);
    r->held = -1;
    if (lseek(r->fd, (off_t)from, SEEK_SET) < 0) return error_errno(err, "read", r->path);
    for (size_t at = 0; at < n;) {
        ssize_t got = sys_read(r->fd, r->buf + at, n - at);
        if (got < 0) return error_errno(err, "read", r->path);
        if (got == 0) return error_set(err, ERR_FORMAT, "%s: became shorter while it was read", r->path);
        at += (size_t)got;
    }
    uint32_t crc = crc32c(0, r->buf, n);
    if (crc != r->sums->crc[block])
        return error_set(err, ERR_FORMAT, "%s: block %lld (bytes %lld..%lld) is damaged: crc32c %08x, expected %08x",
                         r->path, (long long)block, (long long)from, (long long)from + (long long)n, crc,
                         r->sums->crc[block]);
    r->held = block;
    return true;
}

bool crcfile_read(CrcReader *r, void *out, int64_t at, int64_t n, Error *err) {
    CHECK(at >= 0 && n >= 0 && at + n <= r->sums->bytes, "%s: %lld bytes at %lld of %lld", r->path, (long long)n,
          (long long)at, (long long)r->sums->bytes);
    unsigned char *to = out;
    while (n > 0) {
        int64_t block = at / CRC_BLOCK_BYTES, in = at % CRC_BLOCK_BYTES,
                now = CRC_BLOCK_BYTES - in < n ? CRC_BLOCK_BYTES - in : n;
        if (!hold(r, block, err)) return false;
        memcpy(to, r->buf + in, (size_t)now);
        to += now, at += now, n -= now;
    }
    return true;
}

bool crcfile_check(const char *path, const CrcSums *s, bool past_cache, Error *err) {
    CrcReader *r;
    if (!crcfile_open(&r, path, s, err)) return false;
    if (past_cache) posix_fadvise(r->fd, 0, 0, POSIX_FADV_DONTNEED); /* a wish; synced pages can be dropped */
    bool ok = true;
    for (int64_t b = 0; b < s->n && ok; b++) ok = hold(r, b, err);
    crcfile_close(r);
    return ok;
}
