#include "eval/html.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char DASH[] = "–", MINUS[] = "−", UNKNOWN[] = "\xef\xbf\xbd";

/* Bytes of the UTF-8 character at s, 0 when it is none that XML 1.0 allows. */
static int char_length(const unsigned char *s) {
    if (s[0] < 0x80) return s[0] >= 0x20 || s[0] == '\t' || s[0] == '\n' ? s[0] != 0x7f : 0;
    int n = s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : s[0] >= 0xe0 && s[0] < 0xf0 ? 3 : s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;
    if (n == 0) return 0;
    uint32_t c = s[0] & (0xff >> (n + 1));
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0; /* also at the final NUL */
        c = c << 6 | (s[i] & 0x3f);
    }
    bool overlong = (n == 3 && c < 0x800) || (n == 4 && c < 0x10000);
    bool control = c < 0xa0, surrogate = c >= 0xd800 && c < 0xe000,
         none = (c & 0xfffe) == 0xfffe || (c >= 0xfdd0 && c < 0xfdf0);
    /* Marks that turn the direction of text around could make a sample look like something else. */
    bool turns = (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
    return overlong || control || surrogate || none || turns || c > 0x10ffff ? 0 : n;
}

void html_text(Str *out, const char *s) {
    const unsigned char *p = (const unsigned char *)(s ? s : "");
    while (*p) {
        int n = char_length(p);
        switch (*p) {
        case '<':
            str_put(out, "&lt;");
            break;
        case '>':
            str_put(out, "&gt;");
            break;
        case '&':
            str_put(out, "&amp;");
            break;
        case '"':
            str_put(out, "&quot;");
            break;
        case '\'':
            str_put(out, "&#39;");
            break;
        default:
            if (n)
                str_putn(out, p, (size_t)n);
            else
                str_put(out, UNKNOWN);
        }
        p += n ? n : 1;
    }
}

void html_textf(Str *out, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    char *s = malloc((size_t)n + 1);
    if (s) {
        vsnprintf(s, (size_t)n + 1, fmt, again);
        html_text(out, s);
    }
    free(s);
    va_end(again);
    va_end(ap);
}

/* A printed number with a true minus sign, and no minus before a zero that rounding made. */
static void put_number(Str *out, const char *digits) {
    bool minus = digits[0] == '-', zero = strspn(digits + minus, "0.") == strlen(digits + minus);
    if (minus && !zero) str_put(out, MINUS);
    str_put(out, digits + minus);
}

void html_percent(Str *out, double share) {
    char s[340];
    if (!isfinite(share)) {
        str_put(out, DASH);
        return;
    }
    snprintf(s, sizeof s, "%.1f", 100 * share);
    put_number(out, s);
    str_put(out, "\xc2\xa0%");
}

void html_count(Str *out, double v) {
    char s[340];
    if (!isfinite(v)) {
        str_put(out, DASH);
        return;
    }
    snprintf(s, sizeof s, "%.0f", fabs(v));
    if (v < 0 && strcmp(s, "0")) str_put(out, MINUS);
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++) {
        str_putc(out, s[i]);
        if ((n - i - 1) % 3 == 0 && i + 1 < n) str_putc(out, ',');
    }
}

void html_number(Str *out, double v) {
    char s[40];
    if (isfinite(v) && fabs(v) >= 1000 && fabs(v) < 1e15) {
        html_count(out, v);
        return;
    }
    if (!isfinite(v)) {
        str_put(out, DASH);
        return;
    }
    snprintf(s, sizeof s, fabs(v) < 1 ? "%.3g" : "%.4g", v);
    put_number(out, s);
}

void html_signed(Str *out, double v, int digits) {
    char s[340];
    if (!isfinite(v)) {
        str_put(out, DASH);
        return;
    }
    snprintf(s, sizeof s, "%.*f", digits, v);
    bool zero = strspn(s + (s[0] == '-'), "0.") == strlen(s + (s[0] == '-'));
    if (v > 0 && !zero) str_putc(out, '+');
    put_number(out, s);
}

void html_table(Str *out, const char *caption, const char *const *head, int n) {
    str_put(out, "<div class=\"scroll\" tabindex=\"0\"><table>\n<caption>");
    html_text(out, caption);
    str_put(out, "</caption>\n<thead><tr>");
    for (int i = 0; i < n; i++) {
        bool number = head[i][0] == '#';
        str_put(out, number ? "<th scope=\"col\" class=\"n\">" : "<th scope=\"col\">");
        html_text(out, head[i] + number);
        str_put(out, "</th>");
    }
    str_put(out, "</tr></thead>\n<tbody>\n");
}

void html_table_end(Str *out) { str_put(out, "</tbody></table></div>\n"); }

void html_row(Str *out, const char *head) {
    str_put(out, "<tr><th scope=\"row\">");
    html_text(out, head);
    str_put(out, "</th>");
}

void html_row_end(Str *out) { str_put(out, "</tr>\n"); }

void html_cell(Str *out, const char *text) {
    str_put(out, "<td>");
    html_text(out, text);
    str_put(out, "</td>");
}

void html_cell_count(Str *out, double v) {
    str_put(out, "<td class=\"n\">");
    html_count(out, v);
    str_put(out, "</td>");
}

void html_cell_percent(Str *out, double v) {
    str_put(out, "<td class=\"n\">");
    html_percent(out, v);
    str_put(out, "</td>");
}

void html_cell_number(Str *out, double v) {
    str_put(out, "<td class=\"n\">");
    html_number(out, v);
    str_put(out, "</td>");
}
