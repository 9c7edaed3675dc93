/* base/str.c — growable byte string, edit distance, UTF-8 check. */
#include "base/str.h"

#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void reserve(Str *b, size_t more) {
    CHECK(more < SIZE_MAX / 4 && b->n < SIZE_MAX / 4, "string of %zu + %zu bytes", b->n, more);
    size_t need = b->n + more + 1;
    if (need <= b->cap) return;
    size_t cap = b->cap ? b->cap : 32;
    while (cap < need) cap += cap / 2 + 16;
    b->s = mem_grow(b->s, cap);
    b->cap = cap;
}

void str_putn(Str *b, const void *s, size_t n) {
    reserve(b, n);
    if (n) memcpy(b->s + b->n, s, n);
    b->n += n;
    b->s[b->n] = 0;
}

void str_put(Str *b, const char *s) { str_putn(b, s, strlen(s)); }

void str_putc(Str *b, char c) { str_putn(b, &c, 1); }

void str_printf(Str *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    CHECK(n >= 0, "str_printf: bad format '%s'", fmt);
    reserve(b, (size_t)n);
    vsnprintf(b->s + b->n, (size_t)n + 1, fmt, again);
    va_end(again);
    b->n += (size_t)n;
}

void str_clear(Str *b) {
    b->n = 0;
    if (b->s) b->s[0] = 0;
}

void str_release(Str *b) {
    free(b->s);
    *b = (Str){0};
}

char *str_detach(Str *b) {
    reserve(b, 0);
    char *s = b->s;
    s[b->n] = 0;
    *b = (Str){0};
    return s;
}

const char *str_get(const Str *b) { return b->s ? b->s : ""; }

/* Optimal string alignment: Damerau-Levenshtein where no substring is edited twice. Three rolling rows; words longer
 * than the row are not near anything anybody mistyped. */
int str_distance(const char *a, const char *b, int limit) {
    enum { MAX_WORD = 127 };
    size_t na = strlen(a), nb = strlen(b);
    size_t gap = na > nb ? na - nb : nb - na;
    if (gap > (size_t)limit || na > MAX_WORD || nb > MAX_WORD) return limit + 1;
    int rows[3][MAX_WORD + 1];
    int *two_up = rows[0], *up = rows[1], *row = rows[2];
    for (size_t j = 0; j <= nb; j++) up[j] = (int)j;
    for (size_t i = 1; i <= na; i++) {
        int least = row[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int d = up[j - 1] + (a[i - 1] != b[j - 1]);
            if (up[j] + 1 < d) d = up[j] + 1;
            if (row[j - 1] + 1 < d) d = row[j - 1] + 1;
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && two_up[j - 2] + 1 < d) d = two_up[j - 2] + 1;
            row[j] = d;
            if (d < least) least = d;
        }
        if (least > limit + 1) return limit + 1;
        int *t = two_up;
        two_up = up, up = row, row = t;
    }
    return up[nb] > limit ? limit + 1 : up[nb];
}

bool str_utf8_valid(const char *s, size_t n, size_t *bad_at) {
    const unsigned char *p = (const unsigned char *)s;
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= sizeof eight) {
            memcpy(&eight, p + i, sizeof eight);
            if (!(eight & UINT64_C(0x8080808080808080))) {
                i += sizeof eight;
                continue;
            }
        }
        unsigned char c = p[i];
        if (c < 0x80) {
            i++;
            continue;
        }
        /* The second byte's range excludes overlong forms (E0, F0), surrogates (ED) and beyond U+10FFFF (F4). */
        int more = c >= 0xC2 && c <= 0xDF ? 1 : c >= 0xE0 && c <= 0xEF ? 2 : c >= 0xF0 && c <= 0xF4 ? 3 : 0;
        bool ok = more > 0 && i + (size_t)more < n;
        if (ok) {
            unsigned lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
            unsigned hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
            ok = p[i + 1] >= lo && p[i + 1] <= hi;
            for (int k = 2; k <= more && ok; k++) ok = (p[i + (size_t)k] & 0xC0) == 0x80;
        }
        if (!ok) {
            if (bad_at) *bad_at = i;
            return false;
        }
        i += (size_t)more + 1;
    }
    return true;
}
