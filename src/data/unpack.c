/* Both formats are sequences of "take these bytes" and "repeat what stands d bytes back". The copies are checked
 * against what is there before they are made; the fast ways write a fixed number of bytes when there is room for that
 * many on both sides, because most pieces are short and a call of memcpy costs more than they do. */
#include "data/unpack.h"

#include <string.h>

enum { WIDE = 16 }; /* bytes the fast ways may read and write beyond a piece */

typedef struct {
    uint8_t *out, *at, *end;
    const uint8_t *in, *in_end;
} Unpack;

static bool take(Unpack *u, size_t n) {
    size_t have = (size_t)(u->in_end - u->in), room = (size_t)(u->end - u->at);
    if (n <= WIDE && have >= WIDE && room >= WIDE) {
        memcpy(u->at, u->in, WIDE);
    } else {
        if (n > have || n > room) return false;
        memcpy(u->at, u->in, n);
    }
    u->at += n;
    u->in += n;
    return true;
}

/* The piece may overlap itself: a distance of 1 repeats a byte n times. */
static bool repeat(Unpack *u, size_t distance, size_t n) {
    size_t room = (size_t)(u->end - u->at);
    if (distance == 0 || distance > (size_t)(u->at - u->out) || n > room) return false;
    const uint8_t *from = u->at - distance;
    if (distance >= WIDE && room >= n + WIDE) {
        for (size_t i = 0; i < n; i += WIDE) memcpy(u->at + i, from + i, WIDE);
    } else if (distance >= n) {
        memcpy(u->at, from, n);
    } else {
        for (size_t i = 0; i < n; i++) u->at[i] = from[i];
    }
    u->at += n;
    return true;
}

static bool little(Unpack *u, int n, size_t *v) {
    if (u->in_end - u->in < n) return false;
    *v = 0;
    for (int i = 0; i < n; i++) *v |= (size_t)u->in[i] << (8 * i);
    u->in += n;
    return true;
}

static bool done(const Unpack *u) { return u->at == u->end && u->in == u->in_end; }

static bool snappy_length(Unpack *u, size_t *n) {
    *n = 0;
    for (int shift = 0; shift < 35 && u->in < u->in_end; shift += 7) {
        uint8_t c = *u->in++;
        *n |= (size_t)(c & 0x7F) << shift;
        if (c < 0x80) return *n <= UINT32_MAX;
    }
    return false;
}

bool unpack_snappy(void *out, size_t n_out, const void *in, size_t n_in) {
    Unpack u = {out, out, (uint8_t *)out + n_out, in, (const uint8_t *)in + n_in};
    size_t claimed, distance, n;
    if (!snappy_length(&u, &claimed) || claimed != n_out) return false;
    while (u.in < u.in_end) {
        unsigned tag = *u.in++;
        bool ok = true;
        switch (tag & 3) {
        case 0:
            n = tag >> 2;
            if (n >= 60) ok = little(&u, (int)n - 59, &n); /* the length stands behind the tag, in 1 to 4 bytes */
            if (!ok || !take(&u, n + 1)) return false;
            continue;
        case 1:
            n = 4 + (tag >> 2 & 7);
            ok = little(&u, 1, &distance);
            if (ok) distance |= (size_t)(tag >> 5) << 8;
            break;
        case 2:
            n = 1 + (tag >> 2);
            ok = little(&u, 2, &distance);
            break;
        default:
            n = 1 + (tag >> 2);
            ok = little(&u, 4, &distance);
        }
        if (!ok || !repeat(&u, distance, n)) return false;
    }
    return done(&u);
}

/* A length of 15 goes on in the bytes that follow, each added, until one is below 255. */
static bool lz4_length(Unpack *u, size_t *n) {
    if (*n < 15) return true;
    for (;;) {
        if (u->in == u->in_end) return false;
        uint8_t c = *u->in++;
        *n += c;
        if (c < 255) return true;
    }
}

bool unpack_lz4(void *out, size_t n_out, const void *in, size_t n_in) {
    Unpack u = {out, out, (uint8_t *)out + n_out, in, (const uint8_t *)in + n_in};
    while (u.in < u.in_end) {
        unsigned token = *u.in++;
        size_t n = token >> 4, distance;
        if (!lz4_length(&u, &n) || !take(&u, n)) return false;
        if (u.in == u.in_end) return done(&u); /* the last sequence is literals alone */
        n = token & 15;
        if (!little(&u, 2, &distance) || !lz4_length(&u, &n) || !repeat(&u, distance, n + 4)) return false;
    }
    return false; /* a block does not end in a copy */
}
