#include "dist/frame.h"

#include <string.h>

#include "base/crc32c.h"

static const unsigned char magic[4] = {'D', 'K', 'H', '1'};

/* -- bytes */

static void put_le(Str *out, uint64_t v, int bytes) {
    unsigned char b[8];
    for (int i = 0; i < bytes; i++) b[i] = (unsigned char)(v >> 8 * i);
    str_putn(out, b, (size_t)bytes);
}

static uint64_t get_le(const unsigned char **p, int bytes) {
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++) v |= (uint64_t)(*p)[i] << 8 * i;
    *p += bytes;
    return v;
}

static void put_f32(Str *out, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_le(out, bits, 4);
}

static float get_f32(const unsigned char **p) {
    uint32_t bits = (uint32_t)get_le(p, 4);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* -- frames */

/* Least and greatest payload of a type; false: there is no such type. */
static bool limits(uint32_t type, size_t *least, size_t *most) {
    switch (type) {
    case FRAME_HELLO:
        *least = 50, *most = 50 + FRAME_HOST_MAX;
        return true;
    case FRAME_BEAT:
        *least = *most = BEAT_BYTES;
        return true;
    case FRAME_EVENT:
    case FRAME_DUMP_REPLY:
        *least = 2, *most = FRAME_MAX;
        return true;
    case FRAME_BYE:
        *least = *most = 4;
        return true;
    case FRAME_PONG:
        *least = *most = 0;
        return true;
    case FRAME_DUMP:
    case FRAME_CKPT:
    case FRAME_ABORT:
        *least = 0, *most = FRAME_REASON_MAX;
        return true;
    default:
        return false;
    }
}

static bool is_text(FrameType t) { return t != FRAME_HELLO && t != FRAME_BEAT && t != FRAME_BYE; }

void frame_put(Str *out, FrameType type, const void *payload, size_t n) {
    size_t least, most;
    CHECK(limits(type, &least, &most) && n >= least && n <= most, "frame of type %d with %zu bytes", (int)type, n);
    str_putn(out, magic, sizeof magic);
    put_le(out, type, 2);
    put_le(out, 0, 2);
    put_le(out, n, 4);
    put_le(out, crc32c(0, payload, n), 4);
    if (n > 0) str_putn(out, payload, n);
}

bool frame_parse(Frame *out, size_t *used, const void *p, size_t n, size_t most, Error *err) {
    const unsigned char *b = p;
    *used = 0;
    if (memcmp(b, magic, n < sizeof magic ? n : sizeof magic))
        return error_set(err, ERR_FORMAT, "expected a frame, found other bytes");
    if (n < FRAME_HEAD) return true;
    b += sizeof magic;
    uint32_t type = (uint32_t)get_le(&b, 2), zero = (uint32_t)get_le(&b, 2);
    size_t length = (size_t)get_le(&b, 4), least, greatest;
    uint32_t crc = (uint32_t)get_le(&b, 4);
    if (!limits(type, &least, &greatest) || zero != 0)
        return error_set(err, ERR_FORMAT, "a frame of unknown type %u", type);
    if (greatest > most) greatest = most;
    if (length < least || length > greatest)
        return error_set(err, ERR_FORMAT, "a frame of type %u with %zu bytes, expected %zu to %zu", type, length, least,
                         greatest);
    if (n < FRAME_HEAD + length) return true;
    if (crc32c(0, b, length) != crc) return error_set(err, ERR_FORMAT, "a frame of type %u with a wrong sum", type);
    size_t bad;
    if (is_text((FrameType)type) && (!str_utf8_valid((const char *)b, length, &bad) || memchr(b, 0, length)))
        return error_set(err, ERR_FORMAT, "a frame of type %u whose text is not UTF-8", type);
    *out = (Frame){(FrameType)type, b, length};
    *used = FRAME_HEAD + length;
    return true;
}

/* -- payloads */

static bool host_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' ||
           c == '_';
}

void hello_put(Str *out, const Hello *h) {
    Str b = {0};
    str_putn(&b, h->token, sizeof h->token);
    put_le(&b, h->run, 8);
    put_le(&b, h->attempt, 4);
    put_le(&b, h->rank, 4);
    put_le(&b, h->world, 4);
    put_le(&b, h->pid, 4);
    put_le(&b, h->start, 8);
    put_le(&b, strlen(h->host), 2);
    str_put(&b, h->host);
    frame_put(out, FRAME_HELLO, b.s, b.n);
    str_release(&b);
}

bool hello_get(Hello *out, const Frame *f, Error *err) {
    const unsigned char *p = f->p;
    if (f->type != FRAME_HELLO) return error_set(err, ERR_FORMAT, "expected HELLO, found type %d", (int)f->type);
    *out = (Hello){0};
    memcpy(out->token, p, sizeof out->token);
    p += sizeof out->token;
    out->run = get_le(&p, 8);
    out->attempt = (uint32_t)get_le(&p, 4);
    out->rank = (uint32_t)get_le(&p, 4);
    out->world = (uint32_t)get_le(&p, 4);
    out->pid = (uint32_t)get_le(&p, 4);
    out->start = get_le(&p, 8);
    size_t n = (size_t)get_le(&p, 2);
    if (n != f->n - 50 || n == 0) return error_set(err, ERR_FORMAT, "HELLO: a host name of %zu bytes", n);
    for (size_t i = 0; i < n; i++)
        if (!host_char((char)p[i])) return error_set(err, ERR_FORMAT, "HELLO: a host name with other characters");
    memcpy(out->host, p, n);
    if (out->rank >= out->world || out->pid == 0 || out->pid > INT32_MAX)
        return error_set(err, ERR_FORMAT, "HELLO: rank %u of %u, process %u", out->rank, out->world, out->pid);
    return true;
}

void beat_put(Str *out, const BeatMsg *b) {
    Str s = {0};
    put_le(&s, b->step, 8);
    put_le(&s, b->calls, 8);
    put_le(&s, b->section, 4);
    put_le(&s, b->age_ms, 4);
    put_le(&s, b->group, 4);
    put_le(&s, b->op, 4);
    put_le(&s, b->tokens, 8);
    put_le(&s, b->rss, 8);
    put_f32(&s, b->loss);
    put_f32(&s, b->grad_norm);
    put_le(&s, b->flags, 4);
    put_le(&s, b->passes, 4);
    frame_put(out, FRAME_BEAT, s.s, s.n);
    str_release(&s);
}

bool beat_get(BeatMsg *out, const Frame *f, Error *err) {
    const unsigned char *p = f->p;
    if (f->type != FRAME_BEAT) return error_set(err, ERR_FORMAT, "expected BEAT, found type %d", (int)f->type);
    out->step = get_le(&p, 8);
    out->calls = get_le(&p, 8);
    out->section = (uint32_t)get_le(&p, 4);
    out->age_ms = (uint32_t)get_le(&p, 4);
    out->group = (uint32_t)get_le(&p, 4);
    out->op = (uint32_t)get_le(&p, 4);
    out->tokens = get_le(&p, 8);
    out->rss = get_le(&p, 8);
    out->loss = get_f32(&p);
    out->grad_norm = get_f32(&p);
    out->flags = (uint32_t)get_le(&p, 4);
    out->passes = (uint32_t)get_le(&p, 4);
    if (out->flags & ~(uint32_t)BEAT_NONFINITE) return error_set(err, ERR_FORMAT, "BEAT: flags %x", out->flags);
    return true;
}

void bye_put(Str *out, uint32_t code) {
    Str s = {0};
    put_le(&s, code, 4);
    frame_put(out, FRAME_BYE, s.s, s.n);
    str_release(&s);
}

bool bye_get(uint32_t *code, const Frame *f, Error *err) {
    const unsigned char *p = f->p;
    if (f->type != FRAME_BYE) return error_set(err, ERR_FORMAT, "expected BYE, found type %d", (int)f->type);
    *code = (uint32_t)get_le(&p, 4);
    return *code <= 255 || error_set(err, ERR_FORMAT, "BYE: exit code %u", *code);
}
