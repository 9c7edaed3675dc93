/* cai/remote.h — HTTP POSTs, many at a time. Hides libcurl; remote.c or, in builds without it, remote_absent.c is linked.
 *
 * One thread. http_post starts a transfer, http_wait drives all of them until one has ended. A key goes into headers and
 * nowhere else: nothing here logs, and no message holds it. Redirects are not followed (they would take the key along);
 * netrc files are not read; only http and https are spoken. */
#ifndef DIKAST_CAI_REMOTE_H
#define DIKAST_CAI_REMOTE_H

#include "base/error.h"
#include "base/str.h"

typedef struct Http Http;
typedef struct {
    const char *url;                /* borrowed, like all of these, until http_close */
    const char *const *header;      /* "name: value", sent with every request */
    int n_header, concurrency;
    double timeout_s;               /* of a whole transfer */
    bool direct;                    /* past any proxy of the environment: to this machine a key goes unencrypted */
} HttpConfig;
typedef struct {
    int status;                     /* 0: no complete answer; then why says what happened */
    Str body;
    char why[160];
    char retry_after[64], retry_after_ms[32], date[64], should_retry[8];    /* headers, "" when absent */
} HttpReply;

/* Why there is no remote judge: a build without libcurl, or a machine without it; NULL where there is one. */
const char *http_absent(void);
bool http_open(Http **out, const HttpConfig *c, Error *err);
void http_close(Http *h);                       /* NULL is fine; unfinished transfers are cut off */
/* Starts a transfer on slot, 0 .. concurrency-1, which is free; body and id are copied. id: value of the header
 * Idempotency-Key, by which a service may know a repeated request. */
bool http_post(Http *h, int slot, const char *id, const char *body, size_t n, Error *err);
/* Waits until a transfer has ended, at most max_s seconds. Returns its slot, which is free again, and its reply (whose body
 * the caller clears or releases); -1: none has. */
int http_wait(Http *h, double max_s, HttpReply *reply);

#endif
