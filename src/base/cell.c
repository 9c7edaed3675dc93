#include "base/cell.h"

void str_cell(Str *b, const char *s, int width, int most) {
    const unsigned char *p = (const unsigned char *)s;
    int n = 0;
    for (; *p && n < most; n++) {
        bool control = *p < 0x20 || *p == 0x7F || (*p == 0xC2 && p[1] < 0xA0);
        size_t len = 1;
        while ((p[len] & 0xC0) == 0x80) len++;
        if (control)
            str_putc(b, '?');
        else
            str_putn(b, p, len);
        p += len;
    }
    for (; n < width; n++) str_putc(b, ' ');
}
