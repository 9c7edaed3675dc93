/* serve/tb_events.h — scalars as TensorBoard reads them: a file of records, each
 *
 *   length u64 | masked crc32c of the length | bytes | masked crc32c of the bytes     (little-endian)
 *
 * whose bytes are an Event message: wall time, step, and a Summary of one tag and value (tensorflow/core/util/event.proto);
 * the first record holds the version. masked(c) = rotr(c, 15) + 0xa282ead8. */
#ifndef DIKAST_SERVE_TB_EVENTS_H
#define DIKAST_SERVE_TB_EVENTS_H

#include "base/error.h"

typedef struct TbFile TbFile;
/* A new file DIR/events.out.tfevents.<seconds>.<name>; the folder is made. An old one of that name is written again. */
bool tb_open(TbFile **out, const char *dir, const char *name, double wall, Error *err);
bool tb_scalar(TbFile *f, const char *tag, int64_t step, double wall, double value, Error *err);
bool tb_flush(TbFile *f, Error *err);
void tb_close(TbFile *f);   /* NULL is fine */

#endif
