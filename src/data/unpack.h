/* data/unpack.h — the two byte-oriented codecs of Parquet pages that are small enough to be ours. Both take a whole block of
 * outside bytes and give exactly n_out bytes; anything else (a copy that reaches before the start, output beyond n_out or short
 * of it, input left over or missing) is false. out and in must not overlap; what is in out after false is unspecified. */
#ifndef DIKAST_DATA_UNPACK_H
#define DIKAST_DATA_UNPACK_H

#include "base/compiler.h"

/* Google's format description of 2011: varint of the length, then literals and copies of up to 64 bytes. */
bool unpack_snappy(void *out, size_t n_out, const void *in, size_t n_in);
/* One LZ4 block without a frame (LZ4_RAW in Parquet): literals and copies of at least 4 bytes in turn. */
bool unpack_lz4(void *out, size_t n_out, const void *in, size_t n_in);

#endif
