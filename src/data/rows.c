/* Files of rows: lines, plain text, ids, errors with their place. What fields mean is in rows_shapes.c. */
#include "data/rows_int.h"
#include "base/io.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LINE = 64 << 20 };

bool row_bad(RowIn *in, const char *fmt, ...) {
    char msg[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return error_set(in->err, ERR_FORMAT, "%s:%d: %s", in->file, in->line, msg);
}

bool row_skip(RowIn *in, const char *reason) {
    in->skip = reason;
    return false;
}

static void count_skip(Rows *r, const char *reason) {
    int i = 0;
    while (i < ROWS_SKIPS - 1 && r->skip[i].reason && strcmp(r->skip[i].reason, reason) != 0) i++;
    r->skip[i].reason = reason;
    r->skip[i].n++;
    r->n_skip++;
}

void rows_put(Rows *r, const Row *row) {
    if (r->n == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 64;
        r->row = mem_grow(r->row, sizeof *r->row * (size_t)r->cap);
    }
    r->row[r->n++] = *row;
}

/* "dir/red.team.jsonl.gz" -> "red.team" */
static const char *file_stem(Heap *h, const char *path) {
    static const char *const ending[] = {".gz", ".zst", ".jsonl", ".json", ".txt"};
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t n = strlen(name);
    for (int i = 0; i < COUNT_OF(ending); i++) {
        size_t k = strlen(ending[i]);
        if (n > k && !memcmp(name + n - k, ending[i], k)) n -= k;
    }
    return heap_strn(h, name, n);
}

static bool common_fields(RowIn *in, Row *row) {
    const Json *id = json_get(in->j, "id"), *weight = json_get(in->j, "weight");
    const char *const name[2] = {"category", "source"};
    const char **const field[2] = {&row->category, &row->source};
    Heap *h = &in->rows->heap;
    row->id = NULL;
    row->line = in->line;
    row->weight = 1;
    if (id && json_kind(id) == JSON_STR) {
        size_t n;
        const char *s = json_str(id, &n);
        if (n > 0) row->id = heap_strn(h, s, n);
    } else if (id && json_kind(id) == JSON_INT) {
        row->id = heap_printf(h, "%lld", (long long)json_int(id, 0));
    } else if (id && json_kind(id) != JSON_NIL) {
        return row_bad(in, "'id' must be a string or an integer");
    }
    if (!row->id) row->id = heap_printf(h, "%s-%d", file_stem(h, in->file), in->line);
    for (int i = 0; i < 2; i++) {
        const Json *j = json_get(in->j, name[i]);
        size_t n = 0;
        const char *s = j ? json_str(j, &n) : NULL;
        if (j && !s && json_kind(j) != JSON_NIL) return row_bad(in, "'%s' must be a string", name[i]);
        *field[i] = s ? heap_strn(h, s, n) : "";
    }
    if (weight) {
        row->weight = json_num(weight, -1);
        if (!(row->weight >= 0 && row->weight < 1e9)) return row_bad(in, "'weight' must be a number from 0 to 1e9");
    }
    return true;
}

bool rows_parse_line(Rows *out, const char *s, size_t n, RowKind kind, const char *file, int line, Error *err) {
    Json *root;
    if (!json_parse(&root, s, n, 0, file, line, err)) return false;
    RowIn in = {.rows = out, .j = root, .file = file, .line = line, .err = err};
    Row row;
    memset(&row, 0, sizeof row);
    bool ok, template = kind == ROW_PROMPT && json_get(root, "template");
    if (json_kind(root) != JSON_OBJ)
        ok = row_bad(&in, "expected an object {...}");
    else
        ok = common_fields(&in, &row) && (template ? row_template(&in, &row) : row_shape(&in, &row, kind));
    json_release(root);
    if (ok && !template) rows_put(out, &row);
    if (in.skip) count_skip(out, in.skip), ok = true;
    if (ok) out->n_bytes += (int64_t)n;
    return ok;
}

/* ---- plain text */

static bool blank(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r' && s[i] != '\n') return false;
    }
    return true;
}

static void put_document(Rows *out, const char *stem, const char *s, size_t n, int line) {
    while (n > 0 && blank(s + n - 1, 1)) n--;
    if (n == 0) return;
    Row row;
    memset(&row, 0, sizeof row);
    row.id = heap_printf(&out->heap, "%s-%d", stem, line);
    row.category = row.source = "";
    row.a = heap_strn(&out->heap, s, n);
    row.label = -1;
    row.weight = 1;
    row.line = line;
    rows_put(out, &row);
}

/* Documents end at separator lines; in a file without any, at the first blank line after ROWS_DOC_BYTES. */
static void split_documents(Rows *out, const char *stem, const Str *text) {
    static const char mark[] = "<|endoftext|>";
    const size_t n_mark = sizeof mark - 1;
    bool marked = false;
    for (int pass = 0; pass < 2; pass++) {
        size_t start = 0;
        int line = 1, start_line = 1;
        for (size_t at = 0; at < text->n; line++) {
            const char *s = text->s + at, *nl = memchr(s, '\n', text->n - at);
            size_t n = nl ? (size_t)(nl - s) : text->n - at, next = at + n + (nl ? 1 : 0);
            bool is_mark = n >= n_mark && !memcmp(s, mark, n_mark) && blank(s + n_mark, n - n_mark);
            if (pass == 0 && is_mark) marked = true;
            if (pass == 1 && (marked ? is_mark : blank(s, n) && at - start >= ROWS_DOC_BYTES)) {
                put_document(out, stem, text->s + start, at - start, start_line);
                start = next;
                start_line = line + 1;
            }
            at = next;
        }
        if (pass == 1) put_document(out, stem, text->s + start, text->n - start, start_line);
    }
}

static bool read_plain(Rows *out, LineReader *in, const char *path, const char *first, size_t n_first, Error *err) {
    Str text = {0};
    const char *line = first;
    size_t n = n_first, bad;
    bool ok = true;
    do {
        if (memchr(line, '\0', n))
            ok = error_set(err, ERR_FORMAT, "%s:%lld: a NUL byte in text", path, (long long)lines_number(in));
        else if (!str_utf8_valid(line, n, &bad))
            ok = error_set(err, ERR_FORMAT, "%s:%lld: byte %zu of the line is not UTF-8", path,
                           (long long)lines_number(in), bad + 1);
        str_putn(&text, line, n);
        str_putc(&text, '\n');
    } while (ok && lines_next(in, &line, &n, err));
    ok = ok && err->code == ERR_NONE;
    if (ok) {
        split_documents(out, file_stem(&out->heap, path), &text);
        out->n_bytes += (int64_t)text.n;
    }
    str_release(&text);
    return ok;
}

/* ---- files */

static bool read_lines(Rows *out, LineReader *in, const char *path, RowKind kind, Error *err) {
    const char *line;
    size_t n;
    bool first = true;
    while (lines_next(in, &line, &n, err)) {
        if (kind == ROW_TEXT && first && n > 0 && line[0] != '{') return read_plain(out, in, path, line, n, err);
        if (blank(line, n)) continue;
        first = false;
        if (!rows_parse_line(out, line, n, kind, path, (int)lines_number(in), err)) return false;
    }
    return err->code == ERR_NONE;
}

bool rows_read(Rows *out, const char *path, RowKind kind, Error *err) {
    LineReader *in;
    int n_before = out->n, skip_before = out->n_skip;
    err->code = ERR_NONE;
    if (!lines_open(&in, path, MAX_LINE, err)) return false;
    bool ok = read_lines(out, in, path, kind, err);
    lines_close(in);
    if (ok && out->n == n_before) {
        int n_skip = out->n_skip - skip_before;
        if (n_skip)
            ok =
                error_set(err, ERR_FORMAT, "%s: none of its %d rows is usable (%s)", path, n_skip, out->skip[0].reason);
        else
            ok = error_set(err, ERR_FORMAT, "%s: no rows: the file is empty", path);
    }
    if (!ok) out->n = n_before;
    return ok;
}

void rows_release(Rows *r) {
    free(r->row);
    heap_release(&r->heap);
    memset(r, 0, sizeof *r);
}

const char *dialogue_last_user(Dialogue d) {
    for (int i = d.n - 1; i >= 0; i--) {
        if (d.msg[i].role == ROLE_USER) return d.msg[i].text;
    }
    return "";
}
