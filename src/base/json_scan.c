/* base/json_scan.c — the quick way through JSON text: rows of data are mostly long strings, which are looked at and
 * copied eight bytes at a time.
 *
 * It accepts a part of what jansson accepts, with the same tree, and leaves the rest, good or bad, to jansson: so there
 * is one judge of what JSON is, and one author of error messages. test_base_json compares the two. */
#include "base/json_int.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte of eight is the lowest");

typedef struct {
    JsonBuild *b;
    const char *at, *end;
    char *text; /* where the next string goes: no string is longer than what spells it, its quotes make room for the NUL
                 */
    const char *key; /* of the next value; NULL outside of objects */
    int flags;
} Scan;

/* The highest bit of each byte that is below n (at most 128), or equal to c. Right up to the first such byte: beyond it
 * borrows may have set others. */
static uint64_t bytes_below(uint64_t x, uint64_t n) { return (x - UINT64_C(0x0101010101010101) * n) & ~x; }
static uint64_t bytes_equal(uint64_t x, unsigned char c) {
    return bytes_below(x ^ UINT64_C(0x0101010101010101) * c, 1);
}

enum { HIGH_BITS = 0x80 };

/* Copies what stands for itself to s->text; stops in front of anything else. Room: eight bytes more than are there.
 * Adds the highest bits of what it has read to *high. */
static void copy_plain(Scan *s, uint64_t *high) {
    const uint64_t bits = UINT64_C(0x0101010101010101) * HIGH_BITS;
    while (s->end - s->at >= 8) {
        uint64_t x;
        memcpy(&x, s->at, 8);
        memcpy(s->text, &x, 8);
        uint64_t stop = (bytes_below(x, 0x20) | bytes_equal(x, '"') | bytes_equal(x, '\\')) & bits;
        *high |= x & bits;
        int n = stop ? __builtin_ctzll(stop) / 8 : 8;
        s->at += n;
        s->text += n;
        if (stop) return;
    }
    for (; s->at < s->end; s->at++) {
        unsigned char c = (unsigned char)*s->at;
        if (c < 0x20 || c == '"' || c == '\\') return;
        *high |= c & HIGH_BITS;
        *s->text++ = (char)c;
    }
}

/* Four hexadecimal digits at p. -1: they are not. */
static int32_t hex4(const char *p, const char *end) {
    int32_t v = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        int c = p[i], low = c | 0x20;
        if (c >= '0' && c <= '9')
            v = v * 16 + c - '0';
        else if (low >= 'a' && low <= 'f')
            v = v * 16 + low - 'a' + 10;
        else
            return -1;
    }
    return v;
}

static void put_utf8(Scan *s, uint32_t c) {
    char *t = s->text;
    if (c < 0x80) {
        *t++ = (char)c;
    } else if (c < 0x800) {
        *t++ = (char)(0xC0 | c >> 6);
    } else if (c < 0x10000) {
        *t++ = (char)(0xE0 | c >> 12);
        *t++ = (char)(0x80 | (c >> 6 & 0x3F));
    } else {
        *t++ = (char)(0xF0 | c >> 18);
        *t++ = (char)(0x80 | (c >> 12 & 0x3F));
        *t++ = (char)(0x80 | (c >> 6 & 0x3F));
    }
    if (c >= 0x80) *t++ = (char)(0x80 | (c & 0x3F));
    s->text = t;
}

/* \uXXXX, or two of them for a character beyond U+FFFF; at is behind the u. */
static bool scan_code(Scan *s, bool nul_ok) {
    int32_t c = hex4(s->at, s->end);
    if (c < 0 || (c == 0 && !nul_ok) || (c >= 0xDC00 && c <= 0xDFFF)) return false;
    s->at += 4;
    if (c >= 0xD800 && c <= 0xDBFF) {
        int32_t low = s->end - s->at >= 2 && s->at[0] == '\\' && s->at[1] == 'u' ? hex4(s->at + 2, s->end) : -1;
        if (low < 0xDC00 || low > 0xDFFF) return false;
        s->at += 6;
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
    }
    put_utf8(s, (uint32_t)c);
    return true;
}

/* What a backslash begins. */
static bool scan_escape(Scan *s, bool nul_ok) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (s->end - s->at < 2) return false;
    char c = s->at[1];
    s->at += 2;
    if (c == 'u') return scan_code(s, nul_ok);
    const char *which = c ? strchr(from, c) : NULL;
    if (which) *s->text++ = to[which - from];
    return which != NULL;
}

/* The string whose opening quote is taken. *n: its bytes without the NUL behind them. */
static bool scan_string(Scan *s, bool nul_ok, const char **out, size_t *n) {
    char *from = s->text;
    uint64_t high = 0;
    for (;;) {
        copy_plain(s, &high);
        if (s->at == s->end) return false;
        if (*s->at == '"') break;
        if (*s->at != '\\' || !scan_escape(s, nul_ok)) return false;
    }
    s->at++;
    *out = from;
    *n = (size_t)(s->text - from);
    *s->text++ = 0;
    /* What escapes give is whole characters, so they neither mend nor break their neighbours. */
    return !high || str_utf8_valid(from, *n, NULL);
}

static bool digit(const Scan *s) { return s->at < s->end && *s->at >= '0' && *s->at <= '9'; }

/* Digits, at least one. */
static bool skip_digits(Scan *s) {
    if (!digit(s)) return false;
    while (digit(s)) s->at++;
    return true;
}

static bool scan_real(Scan *s, const char *from) {
    char buf[41], *end;
    size_t n = (size_t)(s->at - from);
    if (n >= sizeof buf) return false;
    memcpy(buf, from, n);
    buf[n] = 0;
    double v = strtod(buf, &end);
    if (end != buf + n || !isfinite(v)) return false; /* a locale with another point; too large */
    json_build_value(s->b, s->key, JSON_REAL)->u.r = v;
    return true;
}

static bool scan_number(Scan *s) {
    const char *from = s->at;
    s->at += *s->at == '-';
    const char *first = s->at;
    if (!skip_digits(s) || (*first == '0' && s->at > first + 1)) return false;
    bool whole = true;
    if (s->at < s->end && *s->at == '.') {
        whole = false;
        s->at++;
        if (!skip_digits(s)) return false;
    }
    if (s->at < s->end && (*s->at | 0x20) == 'e') {
        whole = false;
        s->at++;
        if (s->at < s->end && (*s->at == '+' || *s->at == '-')) s->at++;
        if (!skip_digits(s)) return false;
    }
    if (!whole || (s->flags & JSON_INT_AS_REAL)) return scan_real(s, from);
    if (s->at - first > 18) return false;
    int64_t v = 0;
    for (; first < s->at; first++) v = v * 10 + (*first - '0');
    json_build_value(s->b, s->key, JSON_INT)->u.i = *from == '-' ? -v : v;
    return true;
}

static bool scan_word(Scan *s, const char *word, size_t n, JsonKind kind) {
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n) != 0) return false;
    s->at += n;
    json_build_value(s->b, s->key, kind);
    return true;
}

static void skip_space(Scan *s) {
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\t' || *s->at == '\r')) s->at++;
}

/* The next byte that is not white space, taken if it is c. */
static bool takes(Scan *s, char c) {
    skip_space(s);
    if (s->at == s->end || *s->at != c) return false;
    s->at++;
    return true;
}

/* "key": */
static bool scan_key(Scan *s) {
    size_t n;
    return takes(s, '"') && scan_string(s, false, &s->key, &n) && takes(s, ':');
}

/* One value, or the beginning of one. *opened: a list or an object has begun and is not empty. */
static bool scan_value(Scan *s, bool *opened) {
    *opened = false;
    skip_space(s);
    if (s->at == s->end) return false;
    switch (*s->at) {
    case '"': {
        const char *text;
        size_t n;
        s->at++;
        if (!scan_string(s, s->flags & JSON_NUL_OK, &text, &n)) return false;
        Json *v = json_build_value(s->b, s->key, JSON_STR);
        v->u.s = text;
        v->n = n;
        return true;
    }
    case '{':
        s->at++;
        json_build_obj(s->b, s->key);
        if (takes(s, '}')) return json_build_obj_end(s->b);
        *opened = true;
        return scan_key(s);
    case '[':
        s->at++;
        json_build_arr(s->b, s->key);
        s->key = NULL;
        *opened = !takes(s, ']');
        if (!*opened) json_build_arr_end(s->b);
        return true;
    case 't':
        return scan_word(s, "true", 4, JSON_YES);
    case 'f':
        return scan_word(s, "false", 5, JSON_NO);
    case 'n':
        return scan_word(s, "null", 4, JSON_NIL);
    default:
        return scan_number(s);
    }
}

/* What follows a value inside of others: a comma and, in objects, the next key, or ends. *next: another value follows.
 */
static bool scan_after(Scan *s, bool *next) {
    for (*next = false; s->b->depth > 0;) {
        bool object = s->b->done[s->b->open[s->b->depth - 1] - 1].node.kind == JSON_OBJ;
        if (takes(s, ',')) {
            *next = true;
            s->key = NULL;
            return !object || scan_key(s);
        }
        if (!takes(s, object ? '}' : ']')) return false;
        if (!object)
            json_build_arr_end(s->b);
        else if (!json_build_obj_end(s->b))
            return false;
    }
    return true;
}

bool json_scan(JsonBuild *b, const char *text, size_t n, int flags) {
    Scan s = {.b = b, .at = text, .end = text + n, .flags = flags};
    s.text = heap_alloc(&b->heap, n + 8);
    for (bool next = true; next;) {
        if (b->depth > SCAN_DEPTH) return false;
        bool opened;
        if (!scan_value(&s, &opened)) return false;
        if (!opened && !scan_after(&s, &next)) return false;
    }
    skip_space(&s);
    return s.at == s.end;
}
