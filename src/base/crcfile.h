/* base/crcfile.h — files that are written once, from front to back, and whose crc32c is known for each block of 4 MiB. So a
 * reader can check just what it reads, and says which block of which file is damaged. */
#ifndef DIKAST_BASE_CRCFILE_H
#define DIKAST_BASE_CRCFILE_H

#include "base/error.h"

enum { CRC_BLOCK_BYTES = 4 << 20 };
typedef struct { int64_t bytes; uint32_t *crc; int64_t n; } CrcSums;  /* n = crcfile_count(bytes), the last may be short */
int64_t crcfile_count(int64_t bytes);
void crc_sums_release(CrcSums *s);

/* A file under its own name, not atomic: it becomes valid by somebody naming its sums. */
typedef struct CrcWriter CrcWriter;
bool crcfile_create(CrcWriter **out, const char *path, Error *err);    /* replaces what was there by a new file */
bool crcfile_put(CrcWriter *w, const void *p, size_t n, Error *err);
bool crcfile_flush(CrcWriter *w, Error *err);                          /* everything is with the system, nothing is durable yet */
/* Durable (fdatasync); releases w and fills *s, or removes the file. After a failure to sync the system may have dropped the
 * pages and call the next attempt a success: write a new file, do not try again. */
bool crcfile_finish(CrcWriter *w, CrcSums *s, Error *err);
void crcfile_abandon(CrcWriter *w);                                    /* removes the file; NULL is fine */

/* The file has exactly s->bytes and every block its sum; past_cache: asks the system to forget its copy first, so that what
 * is checked is what the disk gives. ERR_FORMAT: missing, another size, a damaged block. */
bool crcfile_check(const char *path, const CrcSums *s, bool past_cache, Error *err);

/* Reads pieces, checking the blocks they lie in. One block is kept, so that going from front to back reads each once. */
typedef struct CrcReader CrcReader;
bool crcfile_open(CrcReader **out, const char *path, const CrcSums *s, Error *err);  /* borrows s */
bool crcfile_read(CrcReader *r, void *out, int64_t at, int64_t n, Error *err);
void crcfile_close(CrcReader *r);

#endif
