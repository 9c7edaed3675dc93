/* base/io_lines.c — lines of plain, gzip and zstd files.
 *
 * A source turns file bytes into text bytes in `buf`; lines_next hands out slices of buf and asks for more when there
 * is no newline. Compressed files may hold several members or frames in a row (cat a.gz b.gz, bgzip, zstd -T): the end
 * of one is the end of the text only if the file ends there too; a file that ends inside one is an error. */
#include "base/io.h"

#include "base/io_int.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

typedef enum { SOURCE_PLAIN, SOURCE_GZIP, SOURCE_ZSTD } SourceKind;
enum { IN_BYTES = 1 << 17, OUT_BYTES = 1 << 17 };

struct LineReader {
    int fd;
    char *path;
    size_t max_line;
    SourceKind kind;
    unsigned char *in;
    size_t in_at, in_n;
    bool in_end;
    z_stream z;
    int64_t n_member;
    ZSTD_DStream *zstd;
    bool inside; /* a member or frame has begun and not ended */
    char *buf;
    size_t at, scanned, n, cap; /* text buf[at, n); no newline in [at, scanned) */
    bool end;
    int64_t number;
};

static bool refill(LineReader *r, Error *err) {
    if (r->in_at < r->in_n || r->in_end) return true;
    r->in_at = r->in_n = 0;
    ssize_t got = sys_read(r->fd, r->in, IN_BYTES);
    if (got < 0) return error_errno(err, "read", r->path);
    r->in_n = (size_t)got;
    r->in_end = got == 0;
    return true;
}

static bool bad_data(const LineReader *r, const char *what, const char *why, Error *err) {
    return error_set(err, ERR_FORMAT, "%s: bad %s data after line %lld: %s", r->path, what, (long long)r->number, why);
}

static bool cut_off(const LineReader *r, Error *err) {
    return error_set(err, ERR_FORMAT, "%s: the compressed file ends early, after line %lld: copy or download it again",
                     r->path, (long long)r->number);
}

/* Each step consumes input and produces up to `room` bytes at buf + n; *made may be 0. */
static bool step_gzip(LineReader *r, size_t room, size_t *made, Error *err) {
    if (!r->inside) {
        /* Tapes pad the last member with zeros. */
        while (r->n_member > 0 && r->in_at < r->in_n && r->in[r->in_at] == 0) r->in_at++;
        if (r->in_at == r->in_n) return true;
        if (inflateReset(&r->z) != Z_OK) return bad_data(r, "gzip", "cannot start a member", err);
        r->inside = true;
        r->n_member++;
    }
    r->z.next_in = r->in + r->in_at;
    r->z.avail_in = (uInt)(r->in_n - r->in_at);
    r->z.next_out = (unsigned char *)r->buf + r->n;
    r->z.avail_out = (uInt)room;
    int code = inflate(&r->z, Z_NO_FLUSH);
    r->in_at = r->in_n - r->z.avail_in;
    *made = room - r->z.avail_out;
    if (code == Z_STREAM_END)
        r->inside = false;
    else if (code != Z_OK && code != Z_BUF_ERROR)
        return bad_data(r, "gzip", r->z.msg ? r->z.msg : "damaged", err);
    return true;
}

static bool step_zstd(LineReader *r, size_t room, size_t *made, Error *err) {
    ZSTD_inBuffer in = {.src = r->in, .size = r->in_n, .pos = r->in_at};
    ZSTD_outBuffer out = {.dst = r->buf + r->n, .size = room};
    size_t code = ZSTD_decompressStream(r->zstd, &out, &in);
    r->in_at = in.pos;
    *made = out.pos;
    if (ZSTD_isError(code)) return bad_data(r, "zstd", ZSTD_getErrorName(code), err);
    r->inside = code != 0;
    return true;
}

static void step_plain(LineReader *r, size_t room, size_t *made) {
    size_t n = r->in_n - r->in_at;
    if (n > room) n = room;
    memcpy(r->buf + r->n, r->in + r->in_at, n);
    r->in_at += n;
    *made = n;
}

/* Appends at least one byte to buf or sets end. Keeps one byte free for the final NUL. */
static bool fill(LineReader *r, Error *err) {
    if (r->at > 0) {
        memmove(r->buf, r->buf + r->at, r->n - r->at);
        r->n -= r->at;
        r->scanned -= r->at;
        r->at = 0;
    }
    if (r->cap - r->n < OUT_BYTES / 2) {
        r->cap = r->cap * 2;
        r->buf = mem_grow(r->buf, r->cap);
    }
    for (;;) {
        if (!refill(r, err)) return false;
        size_t made = 0, room = r->cap - r->n - 1;
        if (room > (size_t)1 << 30) room = (size_t)1 << 30; /* zlib counts in 32 bits */
        bool idle = r->in_at == r->in_n;
        bool ok = true;
        /* With no input left a decoder may still hold output; it is asked until it gives nothing. */
        if (r->kind == SOURCE_PLAIN)
            step_plain(r, room, &made);
        else if (r->kind == SOURCE_GZIP)
            ok = step_gzip(r, room, &made, err);
        else if (!idle || r->inside)
            ok = step_zstd(r, room, &made, err);
        if (!ok) return false;
        r->n += made;
        if (made > 0) return true;
        if (r->in_end && idle) {
            if (r->inside) return cut_off(r, err);
            r->end = true;
            return true;
        }
    }
}

/* Public dumps are packed with --long=31: 2 GiB of window. A frame's header alone asks for it, so that much is granted
 * only to files large enough to have a use for it; others get zstd's own limit of 128 MiB. */
static int window_log(int fd) {
    struct stat st;
    int64_t useful = fstat(fd, &st) == 0 ? (int64_t)st.st_size * 64 : 0;
    int log = 27;
    while (log < 31 && (int64_t)1 << log < useful) log++;
    return log;
}

static bool begin(LineReader *r, Error *err) {
    if (!refill(r, err)) return false;
    /* A pipe may deliver the magic in pieces; fill what is missing by hand. */
    while (r->in_n < 4 && !r->in_end) {
        ssize_t got = sys_read(r->fd, r->in + r->in_n, IN_BYTES - r->in_n);
        if (got < 0) return error_errno(err, "read", r->path);
        if (got == 0) break;
        r->in_n += (size_t)got;
    }
    const unsigned char *m = r->in;
    bool zstd = r->in_n >= 4 && memcmp(m, "\x28\xB5\x2F\xFD", 4) == 0;
    bool skippable = r->in_n >= 4 && (m[0] & 0xF0) == 0x50 && memcmp(m + 1, "\x2A\x4D\x18", 3) == 0;
    if (r->in_n >= 2 && m[0] == 0x1F && m[1] == 0x8B) {
        r->kind = SOURCE_GZIP;
        CHECK(inflateInit2(&r->z, 15 + 16) == Z_OK, "zlib: no memory");
    } else if (zstd || skippable) {
        r->kind = SOURCE_ZSTD;
        r->zstd = ZSTD_createDStream();
        CHECK(r->zstd != NULL, "zstd: no memory");
        CHECK(!ZSTD_isError(ZSTD_DCtx_setParameter(r->zstd, ZSTD_d_windowLogMax, window_log(r->fd))), "zstd: window");
    }
    return true;
}

bool lines_open(LineReader **out, const char *path, size_t max_line, Error *err) {
    *out = NULL;
    int fd = sys_open(path, O_RDONLY);
    if (fd < 0) return error_errno(err, "open", path);
    LineReader *r = mem_alloc(sizeof *r);
    r->fd = fd;
    r->path = mem_str(path);
    r->max_line = max_line;
    r->in = mem_alloc(IN_BYTES);
    r->cap = OUT_BYTES;
    r->buf = mem_alloc(r->cap);
    if (!begin(r, err)) {
        lines_close(r);
        return false;
    }
    *out = r;
    return true;
}

static const char *take_line(LineReader *r, size_t end, size_t next, size_t *n) {
    char *line = r->buf + r->at;
    if (end > r->at && r->buf[end - 1] == '\r') end--;
    r->buf[end] = 0;
    *n = end - r->at;
    r->at = r->scanned = next;
    r->number++;
    if (r->number == 1 && *n >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) {
        line += 3;
        *n -= 3;
    }
    return line;
}

bool lines_next(LineReader *r, const char **line, size_t *n, Error *err) {
    *line = NULL;
    *n = 0;
    err->code = ERR_NONE;
    for (;;) {
        char *newline = memchr(r->buf + r->scanned, '\n', r->n - r->scanned);
        size_t end = newline ? (size_t)(newline - r->buf) : r->n;
        if (end - r->at > r->max_line) {
            return error_set(err, ERR_FORMAT, "%s:%lld: line is longer than %zu bytes", r->path,
                             (long long)r->number + 1, r->max_line);
        }
        if (newline) {
            *line = take_line(r, end, end + 1, n);
            return true;
        }
        r->scanned = r->n;
        if (r->end) {
            if (r->at == r->n) return false;
            *line = take_line(r, r->n, r->n, n);
            return true;
        }
        if (!fill(r, err)) return false;
    }
}

int64_t lines_number(const LineReader *r) { return r->number; }

bool lines_peek(LineReader *r, size_t least, const char **p, size_t *n, Error *err) {
    err->code = ERR_NONE;
    while (r->n - r->at < least && !r->end)
        if (!fill(r, err)) return false;
    *p = r->buf + r->at;
    *n = r->n - r->at;
    return true;
}

void lines_take(LineReader *r, size_t n) {
    CHECK(n <= r->n - r->at, "lines: %zu bytes taken of %zu", n, r->n - r->at);
    r->at += n;
    if (r->scanned < r->at) r->scanned = r->at;
}

const char *lines_packed(const LineReader *r) {
    return r->kind == SOURCE_GZIP ? "gzip" : r->kind == SOURCE_ZSTD ? "zstd" : "";
}

void lines_close(LineReader *r) {
    if (!r) return;
    if (r->kind == SOURCE_GZIP) inflateEnd(&r->z);
    ZSTD_freeDStream(r->zstd);
    close(r->fd);
    free(r->path);
    free(r->in);
    free(r->buf);
    free(r);
}
