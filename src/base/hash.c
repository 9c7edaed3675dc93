/* base/hash.c — XXH3-128 and SHA-256; the only file that knows xxHash and libcrypto. */
#include "base/hash.h"

#include "base/io.h"

#include <openssl/sha.h> /* not evp.h: it has a type named ERR_STATE */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct Hasher {
    XXH3_state_t *state;
};

Hasher *hasher_new(void) {
    Hasher *h = mem_alloc(sizeof *h);
    h->state = XXH3_createState();
    CHECK(h->state != NULL && XXH3_128bits_reset(h->state) == XXH_OK, "xxHash: no memory");
    return h;
}

void hasher_add(Hasher *h, const void *p, size_t n) {
    if (n) XXH3_128bits_update(h->state, p, n);
}

void hasher_add_str(Hasher *h, const char *s) {
    uint64_t n = strlen(s);
    unsigned char len[8];
    for (int i = 0; i < 8; i++) len[i] = (unsigned char)(n >> (8 * i));
    hasher_add(h, len, sizeof len);
    hasher_add(h, s, n);
}

Hash hasher_finish(Hasher *h) {
    XXH128_hash_t v = XXH3_128bits_digest(h->state);
    XXH3_freeState(h->state);
    free(h);
    return (Hash){.lo = v.low64, .hi = v.high64};
}

Hash hash_bytes(const void *p, size_t n) {
    XXH128_hash_t v = XXH3_128bits(p, n);
    return (Hash){.lo = v.low64, .hi = v.high64};
}

enum { HASH_RUN = 1 << 23 };

/* Run by run, so that a file of a model's size is never in memory. */
bool hash_file(Hash *out, const char *path, Error *err) {
    IoMap m;
    if (!io_map(&m, path, err)) return false;
    Hasher *h = hasher_new();
    for (size_t at = 0; at < m.n; at += HASH_RUN) {
        size_t n = m.n - at < HASH_RUN ? m.n - at : HASH_RUN;
        hasher_add(h, m.p + at, n);
        io_map_forget(m.p + at, n);
    }
    *out = hasher_finish(h);
    io_unmap(&m);
    return true;
}

bool hash_equal(Hash a, Hash b) { return a.lo == b.lo && a.hi == b.hi; }

static void hex(char *out, const unsigned char *p, size_t n) {
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digit[p[i] >> 4];
        out[2 * i + 1] = digit[p[i] & 15];
    }
    out[2 * n] = 0;
}

void hash_hex(char out[33], Hash h) {
    unsigned char b[16]; /* big-endian, as xxhsum -H2 prints */
    for (int i = 0; i < 8; i++) {
        b[i] = (unsigned char)(h.hi >> (56 - 8 * i));
        b[8 + i] = (unsigned char)(h.lo >> (56 - 8 * i));
    }
    hex(out, b, sizeof b);
}

void sha256_hex(char out[65], const void *p, size_t n) {
    unsigned char digest[SHA256_DIGEST_LENGTH];
    CHECK(SHA256(n ? p : (const void *)"", n, digest) != NULL, "libcrypto: SHA-256 failed");
    hex(out, digest, sizeof digest);
}

bool sha256_file(char out[65], const char *path, Error *err) {
    IoMap m;
    if (!io_map(&m, path, err)) return false;
    sha256_hex(out, m.p, m.n);
    io_unmap(&m);
    return true;
}
