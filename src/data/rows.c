/* Files of rows: batches, plain text, ids, errors with their place. What fields mean is in rows_shapes.c. */
#include "data/rows_int.h"
#include "data/source.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *row_kind_name(RowKind k) {
    static const char *const name[ROW_KIND_COUNT] = {"instruction", "preference", "prompt",     "labelled", "text",
                                                     "format",      "choice",     "paraphrase", "unpaired", "any"};
    return name[k];
}

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
    r->skip[i].reason = i < ROWS_SKIPS - 1 ? reason : "other reasons";
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
    static const char *const ending[] = {".gz", ".zst", ".jsonl", ".json", ".txt", ".csv", ".tsv", ".parquet"};
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t n = strlen(name);
    for (int i = 0; i < COUNT_OF(ending); i++) {
        size_t k = strlen(ending[i]);
        if (n > k && !memcmp(name + n - k, ending[i], k)) n -= k;
    }
    return heap_strn(h, name, n);
}

static bool common_fields(RowIn *in, Row *row) {
    const Json *id = row_get(in, "id"), *weight = row_get(in, "weight");
    const char *const name[2] = {"category", "source"};
    const char **const field[2] = {&row->category, &row->source};
    Heap *h = &in->rows->heap;
    row->id = NULL;
    row->line = in->line;
    row->weight = 1;
    row->margin = NAN;
    if (id && json_kind(id) == JSON_STR) {
        if (!row_text(in, id, "id", &row->id, NULL)) return false;
        if (!row->id[0]) row->id = NULL;
    } else if (id && json_kind(id) == JSON_INT) {
        row->id = heap_printf(h, "%lld", (long long)json_int(id, 0));
    } else if (id) {
        return row_bad(in, "id must be a string or an integer");
    }
    if (!row->id) row->id = heap_printf(h, "%s-%d", file_stem(h, in->file), in->line);
    for (int i = 0; i < 2; i++) {
        const Json *j = row_get(in, name[i]);
        *field[i] = "";
        if (j && !row_text(in, j, name[i], field[i], NULL)) return false;
    }
    if (weight) {
        row->weight = json_num(weight, -1);
        if (!(row->weight >= 0 && row->weight < 1e9)) return row_bad(in, "weight must be a number from 0 to 1e9");
    }
    return true;
}

typedef struct {
    RowKind kind;
    const Columns *columns;
    const char *file;
} RowsIn;

/* *skip: why the row is left out, or NULL. */
static bool parse_value(Rows *out, const Json *j, const RowsIn *from, int line, const char **skip, Error *err) {
    RowIn in = {.rows = out, .j = j, .columns = from->columns, .file = from->file, .line = line, .kind = from->kind};
    Row row;
    memset(&row, 0, sizeof row);
    in.any = in.kind == ROW_ANY;
    in.err = err;
    bool ok = json_kind(j) == JSON_OBJ ? common_fields(&in, &row) && row_shape(&in, &row)
                                       : row_bad(&in, "expected an object {...}");
    if (ok && !in.put) rows_put(out, &row);
    *skip = in.skip;
    return ok || in.skip;
}

static bool parse_text(Rows *out, const char *s, size_t n, const RowsIn *from, int line, const char **skip,
                       Error *err) {
    Json *root;
    if (!json_parse(&root, s, n, JSON_NUL_OK, from->file, line, err)) return false;
    bool ok = parse_value(out, root, from, line, skip, err);
    json_release(root);
    return ok;
}

bool rows_parse_value(Rows *out, const Json *row, RowKind kind, const Columns *columns, const char *file, int line,
                      Error *err) {
    RowsIn from = {kind, columns, file};
    const char *skip = NULL;
    if (!parse_value(out, row, &from, line, &skip, err)) return false;
    if (skip) count_skip(out, skip);
    return true;
}

bool rows_parse_line(Rows *out, const char *s, size_t n, RowKind kind, const char *file, int line, Error *err) {
    RowsIn from = {kind, NULL, file};
    const char *skip = NULL;
    if (!parse_text(out, s, n, &from, line, &skip, err)) return false;
    if (skip) count_skip(out, skip);
    out->n_bytes += (int64_t)n;
    return true;
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
    row.kind = ROW_TEXT;
    row.shape = "plain text";
    row.margin = NAN;
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

static bool read_plain(Rows *out, LineReader *in, const char *path, Error *err) {
    Str text = {0};
    const char *line;
    size_t n, bad;
    bool ok = true;
    err->code = ERR_NONE;
    while (ok && lines_next(in, &line, &n, err)) {
        if (memchr(line, '\0', n))
            ok = error_set(err, ERR_FORMAT, "%s:%lld: a NUL byte in text", path, (long long)lines_number(in));
        else if (!str_utf8_valid(line, n, &bad))
            ok = error_set(err, ERR_FORMAT, "%s:%lld: byte %zu of the line is not UTF-8", path,
                           (long long)lines_number(in), bad + 1);
        str_putn(&text, line, n);
        str_putc(&text, '\n');
    }
    ok = ok && err->code == ERR_NONE;
    if (ok) {
        split_documents(out, file_stem(&out->heap, path), &text);
        out->n_bytes += (int64_t)text.n;
    }
    str_release(&text);
    return ok;
}

/* ---- files
 *
 * Rows are gathered in batches and parsed in tiles of them by whichever thread takes one; each thread has its own
 * heap. Tiles are then taken over in their order, so rows, counts and the first error are as if read one by one. */

enum { TILE_ROWS = 32, BATCH_TILES = 128, BATCH_ROWS = TILE_ROWS * BATCH_TILES, BATCH_BYTES = 4 << 20 };

typedef struct {
    const Rows *rows; /* where its rows are: rows->row[first .. first+n) */
    int first, n;
    const char *skip[TILE_ROWS];
    bool ok;
    Error err;
} Tile;

typedef struct {
    RowsIn from;
    Str text;
    size_t off[BATCH_ROWS + 1];    /* of each row's text, which a NUL ends */
    const Json *value[BATCH_ROWS]; /* or NULL: the text is to be parsed */
    int line[BATCH_ROWS], n;
    int64_t n_bytes;
    Rows *of_thread;
    Tile tile[BATCH_TILES];
} Batch;

static void parse_tile(void *ud, int64_t index, int thread) {
    Batch *b = ud;
    Tile *t = &b->tile[index];
    Rows *rows = &b->of_thread[thread];
    t->rows = rows;
    t->first = rows->n;
    t->ok = true;
    for (int k = 0; k < TILE_ROWS && t->ok; k++) {
        int i = (int)index * TILE_ROWS + k;
        t->skip[k] = NULL;
        if (i >= b->n) continue;
        t->ok = b->value[i] ? parse_value(rows, b->value[i], &b->from, b->line[i], &t->skip[k], &t->err)
                            : parse_text(rows, b->text.s + b->off[i], b->off[i + 1] - b->off[i] - 1, &b->from,
                                         b->line[i], &t->skip[k], &t->err);
    }
    t->n = rows->n - t->first;
}

/* Empties the batch into out. */
static bool parse_batch(Rows *out, Batch *b, Pool *pool, Error *err) {
    int n_tile = (b->n + TILE_ROWS - 1) / TILE_ROWS;
    if (pool)
        pool_for(pool, n_tile, parse_tile, b);
    else
        for (int i = 0; i < n_tile; i++) parse_tile(b, i, 0);
    for (int i = 0; i < n_tile; i++) {
        const Tile *t = &b->tile[i];
        if (!t->ok) {
            *err = t->err;
            return false;
        }
        for (int k = 0; k < t->n; k++) rows_put(out, &t->rows->row[t->first + k]);
        for (int k = 0; k < TILE_ROWS; k++)
            if (t->skip[k]) count_skip(out, t->skip[k]);
    }
    out->n_bytes += b->n_bytes;
    str_clear(&b->text);
    b->n = 0;
    b->n_bytes = 0;
    for (int t = 0; t < (pool ? pool_threads(pool) : 1); t++) {
        Rows *r = &b->of_thread[t];
        out->n_merged += r->n_merged;
        out->n_empty += r->n_empty;
        r->n = 0;
        r->n_merged = r->n_empty = 0;
    }
    return true;
}

static void batch_add(Batch *b, const SourceRow *row) {
    b->value[b->n] = row->value;
    b->line[b->n] = row->line;
    b->off[b->n++] = b->text.n;
    b->n_bytes += (int64_t)row->n;
    if (row->text) {
        str_putn(&b->text, row->text, row->n);
        str_putc(&b->text, 0);
    }
    b->off[b->n] = b->text.n;
}

static bool read_rows(Rows *out, Source *in, Batch *b, Pool *pool, Error *err) {
    SourceRow row;
    Error end = {ERR_NONE, ""};
    for (bool more = true; more;) {
        more = source_next(in, &row, &end) && (row.text || row.value);
        if (more) batch_add(b, &row);
        if (more && b->n < BATCH_ROWS && b->text.n + source_held(in) < BATCH_BYTES) continue;
        if (!parse_batch(out, b, pool, err)) return false; /* an error in a row comes before one behind it */
        source_forget(in);
    }
    *err = end;
    return end.code == ERR_NONE;
}

/* What the threads' rows point to lives on with out. */
static void keep_heaps(Rows *out, const Batch *b, int n_thread) {
    out->part = mem_grow(out->part, (size_t)(out->n_part + n_thread) * sizeof *out->part);
    for (int t = 0; t < n_thread; t++) {
        out->part[out->n_part++] = b->of_thread[t].heap;
        free(b->of_thread[t].row);
    }
}

bool rows_read(Rows *out, const char *path, RowKind kind, Error *err) {
    return rows_read_pool(out, path, kind, NULL, NULL, err);
}

bool rows_read_pool(Rows *out, const char *path, RowKind kind, const Columns *columns, Pool *pool, Error *err) {
    Source *in;
    int n_before = out->n, skip_before = out->n_skip;
    err->code = ERR_NONE;
    if (!source_open(&in, path, kind == ROW_TEXT || kind == ROW_ANY, columns, err)) return false;
    int n_thread = pool ? pool_threads(pool) : 1;
    Batch *b = mem_alloc(sizeof *b);
    b->from = (RowsIn){kind, columns, path};
    b->of_thread = mem_alloc((size_t)n_thread * sizeof *b->of_thread);
    bool ok = source_container(in) == CONTAINER_TEXT ? read_plain(out, source_lines(in), path, err)
                                                     : read_rows(out, in, b, pool, err);
    keep_heaps(out, b, n_thread);
    str_release(&b->text);
    free(b->of_thread);
    free(b);
    source_close(in);
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

bool rows_check_ids(const Rows *r, int n_vocab, Error *err) {
    for (int i = 0; i < r->n; i++)
        for (int k = 0; k < r->row[i].n_tok; k++)
            if (r->row[i].tok[k] >= n_vocab)
                return error_set(err, ERR_FORMAT,
                                 "row %s: token id %d, the tokenizer has 0..%d: was the file made for another?",
                                 r->row[i].id, (int)r->row[i].tok[k], n_vocab - 1);
    return true;
}

void rows_release(Rows *r) {
    free(r->row);
    heap_release(&r->heap);
    for (int i = 0; i < r->n_part; i++) heap_release(&r->part[i]);
    free(r->part);
    memset(r, 0, sizeof *r);
}

const char *dialogue_last_user(Dialogue d) {
    for (int i = d.n - 1; i >= 0; i--) {
        if (d.msg[i].role == ROLE_USER) return d.msg[i].text;
    }
    return "";
}
