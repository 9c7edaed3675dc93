/* cai/remote_rules.h — when to ask a judge service again, how fast, and for how much: pure arithmetic, no network.
 *
 * An HTTP answer is final, worth asking again, or fatal (a mistake of ours that no repetition mends). Waits grow as
 * base 2^attempt with jitter; what the service says itself (Retry-After) goes first. */
#ifndef DIKAST_CAI_REMOTE_RULES_H
#define DIKAST_CAI_REMOTE_RULES_H

#include "base/error.h"
#include "base/rng.h"

typedef enum { HTTP_FINAL, HTTP_AGAIN, HTTP_FATAL } HttpFate;
/* status 0: no complete answer came (refused, reset, timed out, cut). should_retry: the header x-should-retry, "" when absent. */
HttpFate http_fate(int status, const char *should_retry);

/* Seconds that Retry-After asks to wait: a number of seconds, or a date (RFC 9110 5.6.7: the three forms of HTTP-date)
 * counted from date, the answer's own Date header, or from now where that is absent; in the past: 0. Text that is neither
 * gives -1. now: seconds since 1970. */
double retry_after_s(const char *retry_after, const char *date, int64_t now);
double retry_after_ms(const char *text);            /* milliseconds as text -> seconds, -1 */
bool http_date(int64_t *out, const char *text);     /* seconds since 1970 */

/* Wait before attempt + 1, attempt from 0: uniform in [1/2, 1) of min(base 2^attempt, BACKOFF_MAX_S). */
#define BACKOFF_MAX_S 30.0
double backoff_s(double base, int attempt, Rng rng, uint64_t request);

/* A bucket that fills at per_minute / 60 tokens a second and holds burst of them; every request takes one. */
typedef struct { double per_minute, burst, level, at; } RateBucket;
RateBucket rate_bucket(double per_minute, double burst, double now);    /* full; per_minute 0: no limit */
double rate_wait(RateBucket *b, double now);        /* seconds until a token is there; 0: it is */
void rate_take(RateBucket *b);

/* What has been asked and what it cost. Prices: USD per million tokens. */
typedef struct { double max_usd, price_in, price_out; int64_t max_requests, max_tokens; } Budget;   /* 0: no limit */
typedef struct { int64_t requests, tokens_in, tokens_out; } Spent;
double spent_usd(const Budget *b, Spent s);
/* Whether `more` still fits. Names the limit that it would pass, and the key: *limit points to static text; NULL when it fits. */
bool budget_allows(const Budget *b, Spent now, Spent more, const char **limit);
/* Most that a request can cost: a token is at least one byte of what is sent, and an answer ends at max_tokens. */
Spent budget_bound(size_t body_bytes, int64_t max_tokens);

#endif
