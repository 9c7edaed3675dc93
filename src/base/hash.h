/* base/hash.h — XXH3-128 for store keys and caches; SHA-256 (libcrypto) for constitutions and published checksums. */
#ifndef DIKAST_BASE_HASH_H
#define DIKAST_BASE_HASH_H

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct { uint64_t lo, hi; } Hash;
typedef struct Hasher Hasher;

Hasher *hasher_new(void);
void hasher_add(Hasher *h, const void *p, size_t n);
void hasher_add_str(Hasher *h, const char *s);      /* length, then bytes: ("ab","c") differs from ("a","bc") */
Hash hasher_finish(Hasher *h);                      /* frees h */
Hash hash_bytes(const void *p, size_t n);
bool hash_file(Hash *out, const char *path, Error *err);
bool hash_equal(Hash a, Hash b);
void hash_hex(char out[33], Hash h);
void sha256_hex(char out[65], const void *p, size_t n);
bool sha256_file(char out[65], const char *path, Error *err);

#ifdef __cplusplus
}
#endif

#endif
