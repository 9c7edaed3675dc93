#include "cai/remote_rules.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

HttpFate http_fate(int status, const char *should_retry) {
    if (status >= 200 && status < 300) return HTTP_FINAL;
    if (!strcasecmp(should_retry, "true")) return HTTP_AGAIN;
    if (!strcasecmp(should_retry, "false")) return HTTP_FATAL;
    if (status == 0 || status == 408 || status == 409 || status == 425 || status == 429 || status >= 500)
        return HTTP_AGAIN;
    return HTTP_FATAL;
}

/* -- dates ------------------------------------------------------------------------------------------------------- */
static int month_of(const char *name) {
    static const char month[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    for (int i = 0; i < 12; i++)
        if (!strncasecmp(name, month + 3 * i, 3)) return i;
    return -1;
}

static bool seconds_of(int64_t *out, int year, int month, int day, int hour, int min, int sec) {
    if (year < 1970 || year > 9999 || month < 0 || day < 1 || day > 31 || hour < 0 || hour > 23 || min < 0 ||
        min > 59 || sec < 0 || sec > 60)
        return false;
    struct tm tm = {
        .tm_year = year - 1900, .tm_mon = month, .tm_mday = day, .tm_hour = hour, .tm_min = min, .tm_sec = sec};
    *out = (int64_t)timegm(&tm);
    return true;
}

/* Sun, 06 Nov 1994 08:49:37 GMT | Sunday, 06-Nov-94 08:49:37 GMT | Sun Nov  6 08:49:37 1994 */
bool http_date(int64_t *out, const char *text) {
    char mon[4];
    int day, year, hour, min, sec;
    if (sscanf(text, " %*3[A-Za-z], %2d %3[A-Za-z] %4d %2d:%2d:%2d GMT", &day, mon, &year, &hour, &min, &sec) == 6)
        return seconds_of(out, year, month_of(mon), day, hour, min, sec);
    if (sscanf(text, " %*9[A-Za-z], %2d-%3[A-Za-z]-%2d %2d:%2d:%2d GMT", &day, mon, &year, &hour, &min, &sec) == 6)
        return seconds_of(out, year + (year < 70 ? 2000 : 1900), month_of(mon), day, hour, min, sec);
    if (sscanf(text, " %*3[A-Za-z] %3[A-Za-z] %2d %2d:%2d:%2d %4d", mon, &day, &hour, &min, &sec, &year) == 6)
        return seconds_of(out, year, month_of(mon), day, hour, min, sec);
    return false;
}

/* Digits with a fraction; anything else, infinity and hexadecimal too, is no number here. */
static bool plain_number(double *out, const char *text) {
    while (*text == ' ' || *text == '\t') text++;
    size_t n = strspn(text, "0123456789.");
    char *end;
    if (n == 0 || n > 12) return false;
    double v = strtod(text, &end);
    if (end != text + n) return false;
    while (*end == ' ' || *end == '\t' || *end == '\r') end++;
    if (*end || v < 0) return false;
    *out = v;
    return true;
}

double retry_after_s(const char *retry_after, const char *date, int64_t now) {
    double v;
    int64_t at, from;
    if (plain_number(&v, retry_after)) return v;
    if (!http_date(&at, retry_after)) return -1;
    if (!http_date(&from, date)) from = now;
    return at > from ? (double)(at - from) : 0;
}

double retry_after_ms(const char *text) {
    double v;
    return plain_number(&v, text) ? v / 1000 : -1;
}

/* -- pace -------------------------------------------------------------------------------------------------------- */
double backoff_s(double base, int attempt, Rng rng, uint64_t request) {
    double whole = attempt < 30 ? base * (double)(1 << attempt) : BACKOFF_MAX_S;
    if (!(whole < BACKOFF_MAX_S)) whole = BACKOFF_MAX_S;
    return whole * (0.5 + 0.5 * rng_uniform(rng, request, (uint32_t)attempt));
}

RateBucket rate_bucket(double per_minute, double burst, double now) {
    return (RateBucket){per_minute, burst < 1 ? 1 : burst, burst < 1 ? 1 : burst, now};
}

double rate_wait(RateBucket *b, double now) {
    if (b->per_minute <= 0) return 0;
    if (now > b->at) b->level = fmin(b->burst, b->level + (now - b->at) * b->per_minute / 60);
    b->at = now;
    /* Rounding must not leave one waiting for a token that is there but for a bit. */
    return b->level >= 1 - 1e-9 ? 0 : (1 - b->level) * 60 / b->per_minute;
}

void rate_take(RateBucket *b) { b->level -= 1; }

/* -- cost -------------------------------------------------------------------------------------------------------- */
double spent_usd(const Budget *b, Spent s) {
    return ((double)s.tokens_in * b->price_in + (double)s.tokens_out * b->price_out) / 1e6;
}

bool budget_allows(const Budget *b, Spent now, Spent more, const char **limit) {
    Spent sum = {now.requests + more.requests, now.tokens_in + more.tokens_in, now.tokens_out + more.tokens_out};
    *limit = NULL;
    if (b->max_requests > 0 && sum.requests > b->max_requests) *limit = "judge.remote.max_requests";
    if (b->max_tokens > 0 && sum.tokens_in + sum.tokens_out > b->max_tokens) *limit = "judge.remote.max_total_tokens";
    if (b->max_usd > 0 && spent_usd(b, sum) > b->max_usd) *limit = "judge.remote.max_usd";
    return !*limit;
}

Spent budget_bound(size_t body_bytes, int64_t max_tokens) { return (Spent){1, (int64_t)body_bytes, max_tokens}; }
