/* utf8.c — characters of UTF-8: read, stepped over backwards, written. */
#include "text/text_int.h"

size_t utf8_char(const unsigned char *p, size_t n, uint32_t *c) {
    if (p[0] < 0x80) {
        *c = p[0];
        return 1;
    }
    size_t len = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || n < len) return 0;
    uint32_t v = p[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xC0) != 0x80) return 0;
        v = v << 6 | (p[i] & 0x3Fu);
    }
    if ((len == 3 && (v < 0x800 || (v >= 0xD800 && v < 0xE000))) || (len == 4 && (v < 0x10000 || v > 0x10FFFF)))
        return 0;
    *c = v;
    return len;
}

uint32_t utf8_at(const char *s, size_t *len) {
    const unsigned char *p = (const unsigned char *)s;
    *len = p[0] < 0x80 ? 1 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    uint32_t c = *len == 1 ? p[0] : p[0] & (0x7Fu >> *len);
    for (size_t i = 1; i < *len; i++) c = c << 6 | (p[i] & 0x3Fu);
    return c;
}

size_t utf8_before(const char *s, size_t at) {
    do at--;
    while (at > 0 && ((unsigned char)s[at] & 0xC0) == 0x80);
    return at;
}

size_t utf8_write(char to[4], uint32_t c) {
    if (c < 0x80) return to[0] = (char)c, 1;
    size_t len = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--, c >>= 6) to[i] = (char)(0x80 | (c & 0x3F));
    to[0] = (char)(len == 2 ? 0xC0 | c : len == 3 ? 0xE0 | c : 0xF0 | c);
    return len;
}
