#include "serve/tb_events.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/crc32c.h"
#include "base/io.h"

struct TbFile {
    FILE *f;
    Str path;
};

static void put_le(Str *out, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++) str_putc(out, (char)(unsigned char)(v >> (8 * i)));
}

static void put_varint(Str *out, uint64_t v) {
    for (; v > 127; v >>= 7) str_putc(out, (char)(unsigned char)(v | 128));
    str_putc(out, (char)v);
}

static void put_field(Str *out, int key, const void *p, size_t n) {
    str_putc(out, (char)key);
    put_varint(out, n);
    str_putn(out, p, n);
}

static uint64_t bits(double v) {
    uint64_t u;
    memcpy(&u, &v, sizeof u);
    return u;
}

static uint32_t masked(const void *p, size_t n) {
    uint32_t c = crc32c(0, p, n);
    return ((c >> 15) | (c << 17)) + 0xa282ead8u;
}

static bool put_record(TbFile *f, const Str *message, Error *err) {
    Str r = {0};
    put_le(&r, message->n, 8);
    put_le(&r, masked(r.s, 8), 4);
    str_putn(&r, message->s, message->n);
    put_le(&r, masked(message->s, message->n), 4);
    bool ok = fwrite(r.s, 1, r.n, f->f) == r.n;
    if (!ok) error_set(err, ERR_IO, "%s: cannot write: %s", str_get(&f->path), strerror(errno));
    str_release(&r);
    return ok;
}

static void put_wall(Str *out, double wall) {
    str_putc(out, 0x09); /* field 1, 8 bytes */
    put_le(out, bits(wall), 8);
}

bool tb_open(TbFile **out, const char *dir, const char *name, double wall, Error *err) {
    static const char version[] = "brain.Event:2";
    *out = NULL;
    if (!io_make_dirs(dir, err)) return false;
    TbFile *f = mem_alloc(sizeof *f);
    *f = (TbFile){0};
    str_printf(&f->path, "%s/events.out.tfevents.%010lld.%s", dir, (long long)wall, name);
    f->f = fopen(str_get(&f->path), "wbe");
    if (!f->f) {
        error_set(err, ERR_IO, "%s: cannot open: %s", str_get(&f->path), strerror(errno));
        tb_close(f);
        return false;
    }
    Str m = {0};
    put_wall(&m, wall);
    put_field(&m, 0x1a, version, sizeof version - 1);
    bool ok = put_record(f, &m, err);
    str_release(&m);
    if (ok)
        *out = f;
    else
        tb_close(f);
    return ok;
}

bool tb_scalar(TbFile *f, const char *tag, int64_t step, double wall, double value, Error *err) {
    Str m = {0}, v = {0}, summary = {0};
    float x = (float)value;
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    put_field(&v, 0x0a, tag, strlen(tag));
    str_putc(&v, 0x15); /* field 2, 4 bytes */
    put_le(&v, u, 4);
    put_field(&summary, 0x0a, v.s, v.n);
    put_wall(&m, wall);
    str_putc(&m, 0x10); /* field 2, varint */
    put_varint(&m, (uint64_t)step);
    put_field(&m, 0x2a, summary.s, summary.n);
    bool ok = put_record(f, &m, err);
    str_release(&m);
    str_release(&v);
    str_release(&summary);
    return ok;
}

bool tb_flush(TbFile *f, Error *err) {
    return fflush(f->f) == 0 || error_set(err, ERR_IO, "%s: cannot write: %s", str_get(&f->path), strerror(errno));
}

void tb_close(TbFile *f) {
    if (!f) return;
    if (f->f) fclose(f->f);
    str_release(&f->path);
    free(f);
}
