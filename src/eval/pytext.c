#include "eval/pytext.h"

#include <string.h>

/* Bytes of the white space character that begins at s; 0: none does. */
static size_t space_at(const char *s, size_t n) {
    const unsigned char *p = (const unsigned char *)s;
    if (n == 0) return 0;
    if ((p[0] >= 0x09 && p[0] <= 0x0D) || (p[0] >= 0x1C && p[0] <= 0x20)) return 1;
    if (n >= 2 && p[0] == 0xC2) return p[1] == 0x85 || p[1] == 0xA0 ? 2 : 0;
    if (n < 3) return 0;
    uint32_t c = (uint32_t)(p[0] & 15) << 12 | (uint32_t)(p[1] & 63) << 6 | (uint32_t)(p[2] & 63);
    if (p[0] < 0xE1 || p[0] > 0xE3) return 0;
    bool space = c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
                 c == 0x205F || c == 0x3000;
    return space ? 3 : 0;
}

size_t py_rstrip(const char *s, size_t n) {
    while (n > 0) {
        size_t at = n - 1;
        while (at > 0 && ((unsigned char)s[at] & 0xC0) == 0x80) at--;
        if (space_at(s + at, n - at) != n - at) break;
        n = at;
    }
    return n;
}

void py_strip(const char **s, size_t *n) {
    *n = py_rstrip(*s, *n);
    for (size_t k; (k = space_at(*s, *n)) > 0;) *s += k, *n -= k;
}

int64_t py_len(const char *s, size_t n) {
    int64_t len = 0;
    for (size_t i = 0; i < n; i++) len += ((unsigned char)s[i] & 0xC0) != 0x80;
    return len;
}

int64_t py_words(const char *s, size_t n) {
    int64_t words = 1;
    for (size_t i = 0, k; i < n;) {
        if ((k = space_at(s + i, n - i)) == 0) {
            i++;
            continue;
        }
        words++;
        for (; (k = space_at(s + i, n - i)) > 0;) i += k;
    }
    return words;
}

static void replace(Str *out, const Str *in, const char *from, const char *to) {
    size_t len = strlen(from);
    for (size_t i = 0; i < in->n;) {
        bool hit = in->n - i >= len && !memcmp(in->s + i, from, len);
        if (hit)
            str_put(out, to);
        else
            str_putc(out, in->s[i]);
        i += hit ? len : 1;
    }
}

void py_clean_wikihow(Str *out, const char *s, size_t n) {
    Str stripped = {0}, titled = {0}, flat = {0};
    py_strip(&s, &n);
    str_putn(&stripped, s, n);
    replace(&titled, &stripped, " [title]", ". ");
    for (size_t i = 0; i < titled.n;) {
        size_t end = i + 1;
        if (titled.s[i] == '[')
            while (end < titled.n && titled.s[end] != ']' && titled.s[end] != '\n') end++;
        if (titled.s[i] == '[' && end < titled.n && titled.s[end] == ']')
            i = end + 1;
        else
            str_putc(&flat, titled.s[i++]);
    }
    replace(out, &flat, "  ", " ");
    str_release(&stripped);
    str_release(&titled);
    str_release(&flat);
}
