/* cai/remote_cache.h — answers of judge services by the hash of their question: one file each, written before the answer is
 * used, so that nothing that was paid for is ever asked again, whatever kills the run.
 *
 *   DIR/3f/3f0a…9c.json   {"schema":"dikast-answer/1","request":"3f0a…9c","status":200,"answer":{…as the service sent it…}} */
#ifndef DIKAST_CAI_REMOTE_CACHE_H
#define DIKAST_CAI_REMOTE_CACHE_H

#include "base/hash.h"
#include "base/json.h"

/* What is asked of whom: vote tells equal questions apart that are meant to be asked several times. */
Hash cache_key(const char *url, const char *body, size_t n, int vote);
/* true with *root (json_release; *answer points into it). A file that is absent, or does not hold this answer whole, is not
 * there: false. */
bool cache_get(Json **root, const Json **answer, int *status, const char *dir, Hash key);
/* secret: text that must not reach the disk, whatever the service sends; NULL or "": none. */
bool cache_put(const char *dir, Hash key, int status, const Json *answer, const char *secret, Error *err);
/* Overwrites every occurrence of secret: by '*', or where it is all digits, and so may be met as a number, by '1'. */
void hide_secret(char *text, const char *secret);

#endif
