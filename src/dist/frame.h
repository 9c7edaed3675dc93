/* dist/frame.h — what ranks and their supervisor say to each other over one stream, TCP or unix.
 *
 *      u32 magic 'DKH1' | u16 type | u16 0 | u32 length <= 1 MiB | u32 crc32c(payload) | payload        little-endian
 *
 * Both sides read strictly: an unknown type, a length a type cannot have, a wrong sum, text that is no text end the
 * connection. Nothing in a frame is trusted before its sum fits. */
#ifndef DIKAST_DIST_FRAME_H
#define DIKAST_DIST_FRAME_H

#include "base/error.h"
#include "base/str.h"

enum { FRAME_HEAD = 16, FRAME_MAX = 1 << 20, FRAME_REASON_MAX = 1000, FRAME_HOST_MAX = 64 };

typedef enum {
    FRAME_HELLO = 1,        /* rank: who it is; first on every connection */
    FRAME_BEAT,             /* rank: once a second; answered by PONG */
    FRAME_EVENT,            /* rank: one JSON object */
    FRAME_DUMP_REPLY,       /* rank: one JSON object, see beat.h */
    FRAME_BYE,              /* rank: it ends by itself, with this exit code */
    FRAME_PONG = 16,        /* supervisor: empty */
    FRAME_DUMP,             /* supervisor, with a reason: say where you are */
    FRAME_CKPT,             /* ... finish the step, save, exit 75 */
    FRAME_ABORT,            /* ... exit at once */
} FrameType;

typedef struct { FrameType type; const unsigned char *p; size_t n; } Frame;     /* payload borrowed from the buffer */

void frame_put(Str *out, FrameType type, const void *payload, size_t n);        /* appends */
/* The frame that begins at p: true and *used > 0: here it is; true and *used == 0: more bytes are needed; false: this is no
 * frame, nor will it be. most: longest payload that is wanted now. */
bool frame_parse(Frame *out, size_t *used, const void *p, size_t n, size_t most, Error *err);

typedef struct {
    unsigned char token[16];    /* the launch's secret */
    uint64_t run, start;        /* start: the process' start time in clock ticks since boot (dist/proc.h) */
    uint32_t attempt, rank, world, pid;
    char host[FRAME_HOST_MAX + 1];      /* letters, digits, '.', '-', '_' */
} Hello;
void hello_put(Str *out, const Hello *h);
bool hello_get(Hello *out, const Frame *f, Error *err);

enum { BEAT_BYTES = 64, BEAT_NONFINITE = 1 };
typedef struct {
    uint64_t step, calls;       /* step being made; collectives started */
    uint32_t section, age_ms;
    uint32_t group, op;         /* of the last collective */
    uint64_t tokens, rss;       /* so far; bytes */
    float loss, grad_norm;
    uint32_t flags, passes;     /* BEAT_*; finished passes of the section */
} BeatMsg;
void beat_put(Str *out, const BeatMsg *b);
bool beat_get(BeatMsg *out, const Frame *f, Error *err);

void bye_put(Str *out, uint32_t code);
bool bye_get(uint32_t *code, const Frame *f, Error *err);

#endif
