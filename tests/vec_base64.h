/* tests/vec_base64.h — bytes of the vectors' requests. What is no digit is passed over. */
#ifndef DIKAST_TESTS_VEC_BASE64_H
#define DIKAST_TESTS_VEC_BASE64_H

#include <string.h>

#include "base/str.h"

static inline int base64_value(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

static inline void base64_decode(Str *out, const char *s, size_t n) {
    uint32_t bits = 0;
    int have = 0;
    for (size_t i = 0; i < n; i++) {
        int v = base64_value(s[i]);
        if (v < 0) continue;
        bits = bits << 6 | (uint32_t)v;
        have += 6;
        if (have < 8) continue;
        have -= 8;
        str_putc(out, (char)(bits >> have));
    }
}

#endif
