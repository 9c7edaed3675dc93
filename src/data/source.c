#include "data/csv.h"
#include "data/parquet.h"
#include "data/source_int.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct Source {
    char *path;
    Container container;
    const Columns *columns;
    LineReader *lines;
    int64_t n_file; /* bytes of the file */
    double n_text;  /* and of the rows it held so far */
    JsonRows json;
    Csv csv;
    char **header; /* (n_header) names of CSV columns, of ours where they have another */
    ColumnType *type;
    int n_header;
    Parquet *parquet;
    int64_t n_row;
    JsonBuild *build;
    Json **cell; /* (n_cell) parsed cells that values of build share */
    int n_cell, cap_cell;
};

const char *container_name(Container c) {
    static const char *const name[] = {"jsonl", "json", "csv", "tsv", "parquet", "text"};
    return name[c];
}

/* ---- which container */

static bool ends_in(const char *path, size_t n, const char *ending) {
    size_t k = strlen(ending);
    return n > k && !strncasecmp(path + n - k, ending, k);
}

static bool white(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

static Container choose(const char *path, const char *p, size_t n, bool text_ok) {
    size_t n_path = strlen(path), i = n >= 3 && !memcmp(p, "\xEF\xBB\xBF", 3) ? 3 : 0;
    if (ends_in(path, n_path, ".gz")) n_path -= 3;
    if (ends_in(path, n_path, ".zst")) n_path -= 4;
    if (parquet_is(p, n) || ends_in(path, n_path, ".parquet")) return CONTAINER_PARQUET;
    while (i < n && white(p[i])) i++;
    char first = i < n ? p[i] : 0, second = 0;
    for (size_t k = i + 1; k < n && !second; k++)
        if (!white(p[k])) second = p[k];
    bool list = first == '[' && (second == '{' || second == ']');
    bool csv = ends_in(path, n_path, ".csv"), tsv = ends_in(path, n_path, ".tsv");
    if ((csv || tsv) && first != '{' && !list) return csv ? CONTAINER_CSV : CONTAINER_TSV;
    if (first == '{') return ends_in(path, n_path, ".json") ? CONTAINER_JSON : CONTAINER_JSONL;
    if (list && !(text_ok && ends_in(path, n_path, ".txt"))) return CONTAINER_JSON;
    return text_ok && first ? CONTAINER_TEXT : CONTAINER_JSONL;
}

bool source_open(Source **out, const char *path, bool text_ok, const Columns *c, Error *err) {
    const char *p;
    size_t n;
    Source *s = mem_alloc(sizeof *s);
    *out = NULL;
    s->path = mem_str(path);
    s->columns = c;
    s->n_file = io_size(path);
    s->build = json_build_new();
    bool ok = lines_open(&s->lines, path, SOURCE_ROW_BYTES, err) && lines_peek(s->lines, 4096, &p, &n, err);
    if (ok) {
        s->container = choose(path, p, n, text_ok);
        s->json = (JsonRows){.in = s->lines, .name = s->path, .columns = c};
        s->csv = (Csv){.in = s->lines, .name = s->path, .separator = s->container == CONTAINER_TSV ? '\t' : ','};
    }
    if (ok && s->container == CONTAINER_PARQUET) {
        if (lines_packed(s->lines)[0])
            ok = error_set(err, ERR_FORMAT, "%s: a Parquet file inside a %s file: unpack it first", path,
                           lines_packed(s->lines));
        ok = ok && parquet_open(&s->parquet, path, err);
    }
    if (ok)
        *out = s;
    else
        source_close(s);
    return ok;
}

/* ---- values that are not text */

static bool keep_cell(Source *s, Json *cell) {
    if (s->n_cell == s->cap_cell) {
        s->cap_cell = s->cap_cell ? 2 * s->cap_cell : 64;
        s->cell = mem_grow(s->cell, (size_t)s->cap_cell * sizeof *s->cell);
    }
    s->cell[s->n_cell++] = cell;
    return true;
}

static bool is_one_of(const CsvField *f, const char *const *word, int n) {
    for (int i = 0; i < n; i++)
        if (!strcasecmp(f->s, word[i])) return true;
    return false;
}

/* A cell of a column whose values are not text. What does not fit stays text, which the row's reader then refuses. */
static bool put_cell(Source *s, int i, const CsvField *f, Error *err) {
    static const char *const yes[] = {"true", "1", "1.0", "yes"}, *const no[] = {"false", "0", "0.0", "no"};
    const char *key = s->header[i];
    char *end;
    Json *cell;
    if (s->type[i] != COLUMN_TEXT && f->n == 0) return json_build_null(s->build, key), true;
    switch (s->type[i]) {
    case COLUMN_NUMBER: {
        double v = strtod(f->s, &end);
        bool whole = f->s[strspn(f->s, "-0123456789")] == 0 && f->n < 18;
        if (*end || end == f->s) break;
        if (whole)
            json_build_int(s->build, key, strtoll(f->s, &end, 10));
        else
            json_build_num(s->build, key, v);
        return true;
    }
    case COLUMN_FLAG:
        if (!is_one_of(f, yes, COUNT_OF(yes)) && !is_one_of(f, no, COUNT_OF(no))) break;
        json_build_bool(s->build, key, is_one_of(f, yes, COUNT_OF(yes)));
        return true;
    case COLUMN_JSON:
        if (!json_parse(&cell, f->s, f->n, JSON_NUL_OK, s->path, s->csv.line, err))
            return error_wrap(err, "column '%.80s'", key);
        json_build_share(s->build, key, cell);
        return keep_cell(s, cell);
    case COLUMN_TEXT:
        break;
    }
    json_build_strn(s->build, key, f->s, f->n);
    return true;
}

static bool read_header(Source *s, Error *err) {
    Csv *c = &s->csv;
    if (!csv_next(c, err)) return false;
    s->header = mem_alloc((size_t)c->n * sizeof *s->header + 1);
    s->type = mem_alloc((size_t)c->n * sizeof *s->type + 1);
    json_build_obj(s->build, NULL);
    for (int i = 0; i < c->n; i++) {
        if (memchr(c->field[i].s, 0, c->field[i].n))
            return error_set(err, ERR_FORMAT, "%s:%d: a NUL character in the name of column %d", s->path, c->line,
                             i + 1);
        s->header[s->n_header++] = mem_str(c->field[i].s);
        column_known(columns_ours(s->columns, c->field[i].s), &s->type[i]);
        json_build_null(s->build, s->header[i]);
    }
    bool differ = json_build_obj_end(s->build);
    json_build_clear(s->build);
    return differ || error_set(err, ERR_FORMAT, "%s:%d: two columns have one name", s->path, c->line);
}

static bool next_record(Source *s, SourceRow *row, Error *err) {
    Csv *c = &s->csv;
    if (!s->header && !read_header(s, err)) return false;
    if (!csv_next(c, err)) return false;
    if (c->n == 0) return true;
    if (c->n != s->n_header)
        return error_set(err, ERR_FORMAT, "%s:%d: %d fields, expected %d as in the header", s->path, c->line, c->n,
                         s->n_header);
    json_build_obj(s->build, NULL);
    for (int i = 0; i < c->n; i++)
        if (!put_cell(s, i, &c->field[i], err)) return false;
    json_build_obj_end(s->build);
    *row = (SourceRow){.value = json_build_take(s->build), .n = c->text.n, .line = c->line};
    return true;
}

static bool next_parquet(Source *s, SourceRow *row, Error *err) {
    const Json *value;
    size_t before = json_build_bytes(s->build);
    if (!parquet_next(s->parquet, s->build, &value, err)) return false;
    s->n_row++;
    *row = (SourceRow){.value = value, .line = s->n_row > INT_MAX ? INT_MAX : (int)s->n_row};
    row->n = json_build_bytes(s->build) - before;
    return true;
}

static bool blank(const char *s, size_t n) {
    while (n > 0 && white(s[n - 1])) n--;
    return n == 0;
}

static bool next_line(Source *s, SourceRow *row, Error *err) {
    const char *line;
    size_t n;
    while (lines_next(s->lines, &line, &n, err)) {
        if (blank(line, n)) continue;
        int64_t number = lines_number(s->lines);
        *row = (SourceRow){.text = line, .n = n, .line = number > INT_MAX ? INT_MAX : (int)number};
        return true;
    }
    return err->code == ERR_NONE;
}

static bool check_unfold(Source *s, size_t n, Error *err) {
    s->n_text += (double)n;
    bool ok = s->n_file < 0 || !lines_packed(s->lines)[0] ||
              s->n_text <= (double)SOURCE_FREE_BYTES + SOURCE_UNFOLD * (double)s->n_file;
    return ok || error_set(err, ERR_FORMAT, "%s: unfolds to more than %d times its size; it may be made to fill memory",
                           s->path, (int)SOURCE_UNFOLD);
}

bool source_next(Source *s, SourceRow *row, Error *err) {
    bool ok = false;
    *row = (SourceRow){0};
    err->code = ERR_NONE;
    switch (s->container) {
    case CONTAINER_JSONL:
        ok = next_line(s, row, err);
        break;
    case CONTAINER_JSON:
        ok = json_rows_next(&s->json, row, err);
        break;
    case CONTAINER_CSV:
    case CONTAINER_TSV:
        ok = next_record(s, row, err);
        break;
    case CONTAINER_PARQUET:
        ok = next_parquet(s, row, err);
        break;
    case CONTAINER_TEXT:
        CHECK(false, "%s: text has no rows", s->path);
    }
    return ok && check_unfold(s, row->n, err);
}

void source_forget(Source *s) {
    json_build_clear(s->build);
    for (int i = 0; i < s->n_cell; i++) json_release(s->cell[i]);
    s->n_cell = 0;
}

size_t source_held(const Source *s) { return json_build_bytes(s->build); }

void source_close(Source *s) {
    if (!s) return;
    source_forget(s);
    json_build_free(s->build);
    json_rows_release(&s->json);
    csv_release(&s->csv);
    for (int i = 0; i < s->n_header; i++) free(s->header[i]);
    free(s->header);
    free(s->type);
    free(s->cell);
    parquet_close(s->parquet);
    lines_close(s->lines);
    free(s->path);
    free(s);
}

Container source_container(const Source *s) { return s->container; }

const char *source_packing(const Source *s) {
    if (!s->parquet) return lines_packed(s->lines);
    const char *codec = parquet_codec(s->parquet);
    return strcmp(codec, "none") ? codec : "";
}

int64_t source_groups(const Source *s) { return s->parquet ? parquet_groups(s->parquet) : 0; }

LineReader *source_lines(Source *s) { return s->lines; }
