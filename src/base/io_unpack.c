/* base/io_unpack.c — blocks of memory packed by zlib and zstd. */
#include "base/io.h"

#include <zlib.h>
#include <zstd.h>

bool io_unpack_gzip(void *out, size_t n_out, const void *in, size_t n_in) {
    if (n_out > UINT32_MAX || n_in > UINT32_MAX) return false; /* zlib counts in 32 bits */
    z_stream z = {.next_in = (unsigned char *)(uintptr_t)in, .avail_in = (uInt)n_in};
    unsigned char none;
    z.next_out = n_out ? out : &none;
    z.avail_out = (uInt)n_out;
    CHECK(inflateInit2(&z, 15 + 32) == Z_OK, "zlib: no memory");
    int code;
    do {
        code = inflate(&z, Z_FINISH);
        bool next = code == Z_STREAM_END && z.avail_in > 0;
        if (!next) break;
        code = inflateReset(&z);
    } while (code == Z_OK);
    bool ok = code == Z_STREAM_END && z.avail_in == 0 && z.avail_out == 0;
    inflateEnd(&z);
    return ok;
}

bool io_unpack_zstd(void *out, size_t n_out, const void *in, size_t n_in) {
    size_t n = ZSTD_decompress(out, n_out, in, n_in);
    return !ZSTD_isError(n) && n == n_out;
}

uint32_t io_crc32(const void *p, size_t n) { return (uint32_t)crc32_z(0, p, n); }
