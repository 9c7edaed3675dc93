/* base/blocks.h — files that are written once, from front to back, and whose crc32c is known for each block of 4 MiB. So a
 * reader can check just what it reads, and says which block of which file is damaged. */
#ifndef DIKAST_BASE_BLOCKS_H
#define DIKAST_BASE_BLOCKS_H

#include "base/error.h"

enum { BLOCK_BYTES = 4 << 20 };
typedef struct { int64_t bytes; uint32_t *crc; int64_t n; } BlockSums;  /* n = blocks_count(bytes), the last may be short */
int64_t blocks_count(int64_t bytes);
void block_sums_release(BlockSums *s);

/* A file under its own name, not atomic: it becomes valid by somebody naming its sums. */
typedef struct BlockWriter BlockWriter;
bool blocks_create(BlockWriter **out, const char *path, Error *err);    /* replaces what was there by a new file */
bool blocks_put(BlockWriter *w, const void *p, size_t n, Error *err);
bool blocks_flush(BlockWriter *w, Error *err);                          /* everything is with the system, nothing is durable yet */
/* Durable (fdatasync); releases w and fills *s, or removes the file. After a failure to sync the system may have dropped the
 * pages and call the next attempt a success: write a new file, do not try again. */
bool blocks_finish(BlockWriter *w, BlockSums *s, Error *err);
void blocks_abandon(BlockWriter *w);                                    /* removes the file; NULL is fine */

/* The file has exactly s->bytes and every block its sum; past_cache: asks the system to forget its copy first, so that what
 * is checked is what the disk gives. ERR_FORMAT: missing, another size, a damaged block. */
bool blocks_check(const char *path, const BlockSums *s, bool past_cache, Error *err);

/* Reads pieces, checking the blocks they lie in. One block is kept, so that going from front to back reads each once. */
typedef struct BlockReader BlockReader;
bool blocks_open(BlockReader **out, const char *path, const BlockSums *s, Error *err);  /* borrows s */
bool blocks_read(BlockReader *r, void *out, int64_t at, int64_t n, Error *err);
void blocks_close(BlockReader *r);

#endif
