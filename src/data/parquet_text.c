/* A value of a column as JSON. */
#include "data/parquet_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DECIMAL_BYTES = 32, DECIMAL_TEXT = 128 + 8 };

static int64_t integer(const PqLeaf *l, PqValue v) {
    int32_t narrow;
    int64_t wide;
    if (l->type == PQ_INT32) {
        memcpy(&narrow, v.s, 4);
        return narrow;
    }
    memcpy(&wide, v.s, 8);
    return wide;
}

static double number(const PqLeaf *l, PqValue v) {
    float single;
    double d;
    if (l->type == PQ_FLOAT) {
        memcpy(&single, v.s, 4);
        return (double)single;
    }
    memcpy(&d, v.s, 8);
    return d;
}

static double half(const uint8_t *s) {
    unsigned bits = s[0] | (unsigned)s[1] << 8, exponent = bits >> 10 & 31, fraction = bits & 1023;
    double v = exponent == 31  ? fraction ? NAN : INFINITY
               : exponent == 0 ? ldexp(fraction, -24)
                               : ldexp(1024 + fraction, (int)exponent - 25);
    return bits >> 15 ? -v : v;
}

/* ---- decimals: an integer of up to 32 bytes and a place for the point */

/* Digits of a two's complement number, the highest byte first. */
static void decimal_digits(char out[DECIMAL_TEXT], const uint8_t *s, size_t n, int scale) {
    uint8_t m[DECIMAL_BYTES];
    char digit[DECIMAL_TEXT];
    int n_digit = 0;
    bool negative = n && s[0] >> 7;
    unsigned carry = negative;
    for (size_t i = n; i-- > 0;) {
        unsigned b = (negative ? (uint8_t)~s[i] : s[i]) + carry;
        m[i] = (uint8_t)b;
        carry = negative ? b >> 8 : 0;
    }
    for (bool any = true; any || n_digit <= scale;) {
        unsigned rest = 0;
        any = false;
        for (size_t i = 0; i < n; i++) {
            rest = rest << 8 | m[i];
            m[i] = (uint8_t)(rest / 10);
            rest %= 10;
            any |= m[i] != 0;
        }
        digit[n_digit++] = (char)('0' + rest);
    }
    if (negative) *out++ = '-';
    while (n_digit-- > 0) {
        *out++ = digit[n_digit];
        if (n_digit == scale && scale > 0) *out++ = '.';
    }
    *out = 0;
}

static bool decimal(const Parquet *q, const PqLeaf *l, PqValue v, JsonBuild *b, const char *key, Error *err) {
    uint8_t bytes[8];
    char text[DECIMAL_TEXT], *end;
    if (l->type == PQ_INT32 || l->type == PQ_INT64) {
        uint64_t i = (uint64_t)integer(l, v);
        for (int k = 0; k < 8; k++) bytes[k] = (uint8_t)(i >> (56 - 8 * k));
        v = (PqValue){bytes, 8};
    }
    if (v.n > DECIMAL_BYTES)
        return parquet_bad(q, l, err, "a decimal of %zu bytes, at most %d are possible", v.n, (int)DECIMAL_BYTES);
    decimal_digits(text, v.s, v.n, l->scale);
    if (l->scale == 0 && strlen(text) <= 18)
        json_build_int(b, key, strtoll(text, &end, 10));
    else
        json_build_num(b, key, strtod(text, &end));
    return true;
}

/* ---- dates and times */

/* Year, month, day of a day counted from 1970-01-01, in the Gregorian calendar: years begin in March, so that the day
 * that some years lack is the last. */
static void put_date(Str *out, int64_t day) {
    int64_t z = day + 719468, era = (z >= 0 ? z : z - 146096) / 146097;
    int64_t doe = z - era * 146097, yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153, month = mp < 10 ? mp + 3 : mp - 9;
    str_printf(out, "%04lld-%02d-%02d", (long long)(yoe + era * 400 + (month <= 2)), (int)month,
               (int)(doy - (153 * mp + 2) / 5 + 1));
}

static void put_time(Str *out, int64_t second, int64_t ns) {
    str_printf(out, "%02d:%02d:%02d", (int)(second / 3600), (int)(second / 60 % 60), (int)(second % 60));
    if (ns % 1000)
        str_printf(out, ".%09d", (int)ns);
    else if (ns)
        str_printf(out, ".%06d", (int)(ns / 1000));
}

/* Seconds and what is left of one, rounded down. */
static int64_t split_units(int64_t v, int unit, int64_t *ns) {
    int64_t per_s = unit == 3 ? 1000 : unit == 6 ? 1000000 : 1000000000;
    int64_t s = v / per_s - (v % per_s < 0);
    *ns = (v - s * per_s) * (1000000000 / per_s);
    return s;
}

static void put_stamp(Str *out, const PqLeaf *l, PqValue v) {
    int64_t second, ns, day;
    if (l->type == PQ_INT96) { /* nanoseconds of the day, Julian day */
        uint32_t julian;
        int64_t of_day;
        memcpy(&of_day, v.s, 8);
        memcpy(&julian, v.s + 8, 4);
        second = split_units(of_day, 9, &ns) + ((int64_t)julian - 2440588) * 86400;
    } else {
        second = split_units(integer(l, v), l->unit, &ns);
    }
    day = second / 86400 - (second % 86400 < 0);
    put_date(out, day);
    str_putc(out, 'T');
    put_time(out, second - day * 86400, ns);
    if (l->utc) str_put(out, "+00:00");
}

/* "2b7e1516-28ae-d2a6-abf7-158809cf4f3c" */
static void put_uuid(Str *out, const uint8_t *s) {
    for (int i = 0; i < 16; i++) str_printf(out, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", s[i]);
}

static void build_text(const PqLeaf *l, PqValue v, JsonBuild *b, const char *key) {
    Str text = {0};
    int64_t second, ns;
    switch (l->meaning) {
    case PQ_DATE:
        put_date(&text, integer(l, v));
        break;
    case PQ_TIME:
        second = split_units(integer(l, v), l->unit, &ns);
        put_time(&text, (second % 86400 + 86400) % 86400, ns);
        break;
    case PQ_STAMP:
        put_stamp(&text, l, v);
        break;
    default:
        put_uuid(&text, v.s);
    }
    json_build_strn(b, key, text.s, text.n);
    str_release(&text);
}

/* ---- */

static bool text_ok(const Parquet *q, const PqLeaf *l, PqValue v, Error *err) {
    size_t bad;
    return str_utf8_valid((const char *)v.s, v.n, &bad) ||
           parquet_bad(q, l, err,
                       "bytes that are not UTF-8 text (at byte %zu of %zu): leave such columns out of the file",
                       bad + 1, v.n);
}

static bool whole(const Parquet *q, const PqLeaf *l, PqValue v, int64_t *out, Error *err) {
    *out = integer(l, v);
    if (l->meaning != PQ_UNSIGNED) return true;
    if (l->type == PQ_INT32)
        *out &= UINT32_MAX;
    else if (*out < 0)
        return parquet_bad(q, l, err, "%llu is beyond the integers that JSON rows may hold", (unsigned long long)*out);
    return true;
}

bool value_build(const Parquet *q, const PqLeaf *l, PqValue v, JsonBuild *b, const char *key, Error *err) {
    int64_t i;
    if (l->meaning == PQ_DECIMAL) return decimal(q, l, v, b, key, err);
    if (l->meaning == PQ_HALF) return json_build_num(b, key, half(v.s)), true;
    if (l->meaning != PQ_PLAIN && l->meaning != PQ_UNSIGNED) return build_text(l, v, b, key), true;
    switch (l->type) {
    case PQ_BOOLEAN:
        json_build_bool(b, key, v.s[0] != 0);
        return true;
    case PQ_INT32:
    case PQ_INT64:
        if (!whole(q, l, v, &i, err)) return false;
        json_build_int(b, key, i);
        return true;
    case PQ_FLOAT:
    case PQ_DOUBLE:
        json_build_num(b, key, number(l, v));
        return true;
    default:
        if (!text_ok(q, l, v, err)) return false;
        json_build_strn(b, key, (const char *)v.s, v.n);
        return true;
    }
}

bool value_key(const Parquet *q, const PqLeaf *l, PqValue v, JsonBuild *b, const char **key, Error *err) {
    char text[24];
    int64_t i;
    bool integers = (l->type == PQ_INT32 || l->type == PQ_INT64) && l->meaning <= PQ_UNSIGNED;
    if (integers) {
        if (!whole(q, l, v, &i, err)) return false;
        int n = snprintf(text, sizeof text, "%lld", (long long)i);
        *key = json_build_copy(b, text, (size_t)n);
        return true;
    }
    if (l->meaning != PQ_PLAIN || (l->type != PQ_BYTES && l->type != PQ_FIXED))
        return parquet_bad(q, l, err, "unsupported: a map with keys that are neither text nor whole numbers");
    if (memchr(v.s, 0, v.n)) return parquet_bad(q, l, err, "a key with a NUL character");
    if (!text_ok(q, l, v, err)) return false;
    *key = json_build_copy(b, (const char *)v.s, v.n);
    return true;
}
