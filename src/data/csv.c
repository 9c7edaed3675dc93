#include "data/csv.h"

#include <stdlib.h>
#include <string.h>

enum { END = -1, FAILED = -2 };

static bool bad(const Csv *c, int line, const char *what, Error *err) {
    return error_set(err, ERR_FORMAT, "%s:%d: %s", c->name, line, what);
}

/* The next byte without taking it. */
static int look(Csv *c, Error *err) {
    const char *p;
    size_t n;
    if (!lines_peek(c->in, 1, &p, &n, err)) return FAILED;
    return n ? (unsigned char)*p : END;
}

static bool begin_field(Csv *c, Error *err) {
    if (c->n == CSV_FIELDS) return bad(c, c->line, "more fields than a record may have", err);
    if (c->n == c->cap) {
        c->cap = c->cap ? 2 * c->cap : 16;
        c->off = mem_grow(c->off, (size_t)c->cap * sizeof *c->off);
        c->field = mem_grow(c->field, (size_t)c->cap * sizeof *c->field);
    }
    c->off[c->n++] = c->text.n;
    return true;
}

/* Takes bytes up to the first of the stops (or all that are at hand) into the field. */
static bool put_until(Csv *c, const char *stop, int n_stop, Error *err) {
    const char *p;
    size_t n, k = 0;
    if (!lines_peek(c->in, 1, &p, &n, err)) return false;
    for (bool stopped = false; k < n; k++) {
        for (int i = 0; i < n_stop; i++) stopped |= p[k] == stop[i];
        if (stopped) break;
        c->next_line += p[k] == '\n';
    }
    if (c->text.n + k > CSV_BYTES)
        return bad(c, c->line, "the record is longer than 64 MiB; is a quote not closed?", err);
    str_putn(&c->text, p, k);
    lines_take(c->in, k);
    return true;
}

static bool quoted(Csv *c, Error *err) {
    int begin = c->next_line;
    lines_take(c->in, 1);
    for (;;) {
        if (!put_until(c, "\"", 1, err)) return false;
        int at = look(c, err);
        if (at == FAILED) return false;
        if (at == END) return bad(c, begin, "a quote is opened here and never closed", err);
        if (at != '"') continue;
        lines_take(c->in, 1);
        at = look(c, err);
        if (at == FAILED) return false;
        if (at != '"') return true;
        str_putc(&c->text, '"');
        lines_take(c->in, 1);
    }
}

/* What follows a field: another one, or the end of the record. */
static bool after_field(Csv *c, bool *more, Error *err) {
    const char *p;
    size_t n;
    if (!lines_peek(c->in, 2, &p, &n, err)) return false;
    *more = n > 0 && p[0] == c->separator;
    size_t end = n > 0 && p[0] == '\n' ? 1 : n > 1 && p[0] == '\r' && p[1] == '\n' ? 2 : 0;
    if (n == 1 && p[0] == '\r') end = 1;
    if (n > 0 && !*more && end == 0)
        return bad(c, c->next_line, "text behind a closing quote: a quote inside a field is written twice", err);
    lines_take(c->in, *more ? 1 : end);
    c->next_line += end > 0;
    return true;
}

static bool plain(Csv *c, Error *err) {
    const char stop[3] = {c->separator, '\n', '\r'};
    for (;;) {
        const char *p;
        size_t n;
        if (!put_until(c, stop, 3, err) || !lines_peek(c->in, 2, &p, &n, err)) return false;
        bool lone = n > 1 && p[0] == '\r' && p[1] != '\n'; /* a carriage return inside a line is text */
        if (n == 0 || (!lone && (p[0] == stop[0] || p[0] == '\n' || p[0] == '\r'))) return true;
        if (!lone) continue;
        str_putc(&c->text, '\r');
        lines_take(c->in, 1);
    }
}

static bool skip_blank_lines(Csv *c, bool *end, Error *err) {
    for (;;) {
        const char *p;
        size_t n;
        if (!lines_peek(c->in, 4, &p, &n, err)) return false;
        if (!c->begun && n >= 3 && !memcmp(p, "\xEF\xBB\xBF", 3)) {
            lines_take(c->in, 3);
            c->begun = true;
            continue;
        }
        c->begun = true;
        *end = n == 0;
        size_t blank = n > 0 && p[0] == '\n' ? 1 : n > 1 && p[0] == '\r' && p[1] == '\n' ? 2 : 0;
        if (blank == 0) return true;
        lines_take(c->in, blank);
        c->next_line++;
    }
}

bool csv_next(Csv *c, Error *err) {
    bool end, more = true;
    size_t at;
    c->n = 0;
    str_clear(&c->text);
    if (c->next_line == 0) c->next_line = 1;
    if (!skip_blank_lines(c, &end, err)) return false;
    if (end) return true;
    c->line = c->next_line;
    while (more) {
        if (!begin_field(c, err)) return false;
        int first = look(c, err);
        if (first == FAILED || !(first == '"' ? quoted(c, err) : plain(c, err)) || !after_field(c, &more, err))
            return false;
        str_putc(&c->text, 0);
    }
    if (!str_utf8_valid(c->text.s, c->text.n, &at)) return bad(c, c->line, "the record is not UTF-8 text", err);
    for (int i = 0; i < c->n; i++) {
        size_t next = i + 1 < c->n ? c->off[i + 1] : c->text.n;
        c->field[i] = (CsvField){c->text.s + c->off[i], next - c->off[i] - 1};
    }
    return true;
}

void csv_release(Csv *c) {
    free(c->field);
    free(c->off);
    str_release(&c->text);
    *c = (Csv){0};
}
