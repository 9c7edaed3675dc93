/* base/config_report.c — the mistakes of a configuration: collected from all its sources, shown in their order as
 * compilers show theirs. */
#include "base/config_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The source line and a caret under `at`; tabs are repeated so that the caret stands right. */
static void show_line(Str *out, const ConfigSource *src, ConfigPlace at) {
    const char *p = src->text, *end = src->text + src->n;
    for (int line = 1; line < at.line && p < end; line++) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        p = newline ? newline + 1 : end;
    }
    const char *stop = p < end ? memchr(p, '\n', (size_t)(end - p)) : NULL;
    if (!stop) stop = end;
    if (stop > p && stop[-1] == '\r') stop--;
    if (stop == p) return;
    if (!str_utf8_valid(p, (size_t)(stop - p), NULL)) return; /* no terminal shows it well */
    for (const char *c = p; c < stop; c++) str_putc(out, (unsigned char)*c < 0x20 && *c != '\t' ? ' ' : *c);
    str_putc(out, '\n');
    const char *c = p;
    for (int col = 1; col < at.col && c < stop; col++) {
        str_putc(out, *c == '\t' ? '\t' : ' ');
        do c++;
        while (c < stop && ((unsigned char)*c & 0xC0) == 0x80);
    }
    str_putc(out, '^');
    int room = 0;
    for (c += c < stop; c < stop; c++) room += ((unsigned char)*c & 0xC0) != 0x80;
    for (int i = 1; i < at.width && i <= room; i++) str_putc(out, '~');
    str_putc(out, '\n');
}

void config_report(ConfigReport *r, const ConfigSource *src, ConfigPlace at, const char *fmt, ...) {
    char text[1000];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *c = text; *c; c++) {
        if ((unsigned char)*c < 0x20) *c = ' ';
    }
    Str out = {0};
    if (src->text)
        str_printf(&out, "%s:%d:%d: error: %s\n", src->path, at.line, at.col, text);
    else
        str_printf(&out, "%s: error: %s\n", src->path, text);
    if (src->text) show_line(&out, src, at);
    int n = r->n_error++;
    r->mistake = mem_grow(r->mistake, (size_t)r->n_error * sizeof *r->mistake);
    r->mistake[n] = (ConfigMistake){src->order, at.line, at.col, n, str_detach(&out)};
}

static int by_place(const void *a, const void *b) {
    const ConfigMistake *x = a, *y = b;
    if (x->order != y->order) return x->order < y->order ? -1 : 1;
    if (x->line != y->line) return x->line < y->line ? -1 : 1;
    if (x->col != y->col) return x->col < y->col ? -1 : 1;
    return x->number < y->number ? -1 : 1;
}

void config_report_print(ConfigReport *r, Str *out) {
    if (r->n_error) qsort(r->mistake, (size_t)r->n_error, sizeof *r->mistake, by_place);
    for (int i = 0; i < r->n_error; i++) {
        str_put(out, r->mistake[i].text);
        free(r->mistake[i].text);
    }
    free(r->mistake);
    if (r->n_error == 0) return;
    str_printf(out, "%d error%s.", r->n_error, r->n_error == 1 ? "" : "s");
    if (r->other.n > 0)
        for (int i = 0; i < r->other.n; i++)
            str_printf(out, "%s%s%s", i ? ", " : " Its keys: ", r->other.key[i].name, i + 1 < r->other.n ? "" : ".");
    else if (r->of_keys)
        str_printf(out, " 'dikast %s%s' lists the keys.", r->section[0] ? "help " : "config --keys", r->section);
    str_putc(out, '\n');
}
