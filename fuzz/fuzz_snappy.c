// layer: data
/* The codecs of Parquet pages. The first byte chooses the codec, the second how long the output is claimed to be (times
 * the input, about); any bytes unpack or not, never beyond the output, and twice the same. */
#include "base/io.h"
#include "data/unpack.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static bool unpack(int codec, uint8_t *out, size_t n_out, const uint8_t *in, size_t n) {
    switch (codec) {
    case 0:
        return unpack_snappy(out, n_out, in, n);
    case 1:
        return unpack_lz4(out, n_out, in, n);
    case 2:
        return io_unpack_gzip(out, n_out, in, n);
    default:
        return io_unpack_zstd(out, n_out, in, n);
    }
}

/* Snappy says how long it is; for the others the input claims it. */
static size_t claimed(int codec, const uint8_t *in, size_t n, uint8_t hint) {
    size_t v = 0;
    if (codec) return (size_t)hint * (1 + n / 16);
    for (size_t i = 0; i < n && i < 4; i++) {
        v |= (size_t)(in[i] & 0x7F) << (7 * i);
        if (in[i] < 0x80) break;
    }
    return v < 1 << 20 ? v : hint;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2) return 0;
    int codec = data[0] % 4;
    size_t n_in = n - 2, n_out = claimed(codec, data + 2, n_in, data[1]);
    uint8_t *in = malloc(n_in + 1), *once = malloc(n_out + 1),
            *twice = malloc(n_out + 1); /* of their own: overruns are noticed */
    CHECK(in && once && twice, "no memory");
    memcpy(in, data + 2, n_in);
    memset(once, 0xAA, n_out + 1);
    memset(twice, 0x55, n_out + 1);
    bool ok = unpack(codec, once, n_out, in, n_in);
    CHECK(unpack(codec, twice, n_out, in, n_in) == ok, "only once");
    CHECK(once[n_out] == 0xAA && twice[n_out] == 0x55, "beyond the end");
    CHECK(!ok || memcmp(once, twice, n_out) == 0, "output that was never written");
    free(in), free(once), free(twice);
    return 0;
}
