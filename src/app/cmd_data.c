/* dikast data: what a file of rows holds, and how training will see it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/data_view.h"
#include "app/open.h"
#include "data/source.h"

enum { SHOWN_BYTES = 2000, MAX_WORDS = 48, MAX_COUNTED = 16, BATCH = 512, MAX_FIRST = 1000 };

static const Flag flags[] = {
    {"--tokenizer", "DIR", "tokenizer.json or a folder that holds one: count and show tokens"},
    {"--rows", "N", "rows to show (inspect: default 3; show: default all)"},
    {"--columns", "LIST", "other names of columns, as data.columns: prompt:question,completion:answer"},
    {"--kind", "KIND",
     "read rows as the data keys do: instruction (data.sft), preference, prompt, labelled, text,\n"
     "                         format, choice, unpaired; without: as their columns say"},
    {0}};

/* ---- arguments */

static bool read_columns(Columns *c, const char *list, Error *err) {
    const char *item[MAX_WORDS];
    char *copy = mem_str(list ? list : ""), *rest = copy;
    int n = 0;
    for (char *word; n < MAX_WORDS && (word = strsep(&rest, ","));)
        if (*word) item[n++] = word;
    bool ok = rest ? error_set(err, ERR_CONFIG, "--columns: more than %d names", (int)MAX_WORDS)
                   : columns_parse(c, item, n, "--columns", err);
    free(copy);
    return ok;
}

static bool read_kind(RowKind *kind, const char *name, Error *err) {
    *kind = ROW_ANY;
    if (!name) return true;
    for (int k = 0; k < ROW_ANY; k++)
        if (!strcmp(name, row_kind_name((RowKind)k))) return *kind = (RowKind)k, true;
    return error_set(err, ERR_CONFIG, "--kind: no rows are called '%s'; see 'dikast data --help'", name);
}

typedef struct {
    const char *path;
    Columns columns;
    RowKind kind;
    int64_t n_first;
    Tokenizer *tok;
    Chat chat;
    bool has_chat;
} Wanted;

static bool wanted_open(Wanted *w, const Args *a, Error *err) {
    const Command *self = &command_data;
    const char *tokenizer = args_flag(a, self, "--tokenizer");
    *w = (Wanted){.path = a->arg[1]};
    if (!args_int(a, self, "--rows", -1, 0, 1000000000, &w->n_first, err) ||
        !read_kind(&w->kind, args_flag(a, self, "--kind"), err) ||
        !read_columns(&w->columns, args_flag(a, self, "--columns"), err))
        return false;
    if (!tokenizer) return true;
    Str dir = {0};
    Error no_chat = {0};
    str_printf(&dir, "%s/model", tokenizer);
    if (!io_is_dir(str_get(&dir))) str_clear(&dir), str_put(&dir, tokenizer);
    bool ok = tokenizer_open(&w->tok, str_get(&dir), err), folder = io_is_dir(str_get(&dir));
    w->has_chat = ok && (folder ? chat_open(&w->chat, w->tok, str_get(&dir), CHAT_FIXED_DAY, &no_chat)
                                : chat_init(&w->chat, w->tok, &no_chat));
    str_release(&dir);
    if (ok && !w->has_chat) log_warn(a->log, "%s: tokens are those of the texts alone", no_chat.msg);
    return ok;
}

static void wanted_close(Wanted *w) {
    chat_close(&w->chat);
    if (w->tok) tokenizer_close(w->tok);
    columns_release(&w->columns);
}

/* ---- what is counted */

typedef struct {
    char *name;
    int64_t n;
} Counted;
typedef struct {
    Counted item[MAX_COUNTED];
    int n;
} Counts; /* the last one is for all that have no room */

static void count(Counts *c, const char *name, int64_t n) {
    int i = 0;
    while (i < c->n && strcmp(c->item[i].name, name) != 0) i++;
    if (i == MAX_COUNTED) i--;
    if (i == c->n) c->item[c->n++] = (Counted){mem_str(i == MAX_COUNTED - 1 ? "other reasons" : name), 0};
    c->item[i].n += n;
}

static void counts_release(Counts *c) {
    for (int i = 0; i < c->n; i++) free(c->item[i].name);
}

typedef struct {
    int64_t *v;
    size_t n, cap;
    double total;
} Lengths;

static void length_put(Lengths *l, int64_t v) {
    if (l->n == l->cap) l->cap = l->cap ? 2 * l->cap : 1024, l->v = mem_grow(l->v, l->cap * sizeof *l->v);
    l->v[l->n++] = v;
    l->total += (double)v;
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The least value that at least the share q of all do not pass; after sorting. */
static int64_t quantile(const Lengths *l, double q) {
    size_t i = (size_t)ceil(q * (double)l->n);
    return l->n ? l->v[i > 0 ? i - 1 : 0] : 0;
}

typedef struct {
    const Wanted *w;
    ViewStyle style;
    Container container;
    char packing[16];
    int64_t n_group, n_row, n_usable, n_left_out, n_bad, n_merged, n_empty, n_shown;
    Counts shapes, left_out, bad;
    char *first_bad;
    Counts columns; /* value: 1 when it is one of ours */
    Lengths bytes, tokens;
    View view[2];
    Str shown;
    JsonOut json; /* the first rows, into shown, when json is wanted */
} Inspection;

static void note_columns(Inspection *in, const Json *row) {
    for (int i = 0; i < json_len(row); i++) {
        const Json *value;
        const char *name = json_key_at(row, i, &value);
        int k = 0;
        while (k < in->columns.n && strcmp(in->columns.item[k].name, name) != 0) k++;
        if (k < in->columns.n || k == MAX_COUNTED) continue;
        in->columns.item[in->columns.n++] =
            (Counted){mem_str(name), column_known(columns_ours(&in->w->columns, name), NULL)};
    }
}

/* ---- one usable row */

static int64_t count_tokens(const Wanted *w, const Row *r) {
    const char *const field[] = {r->a, r->b};
    TokBuf ids = {0};
    for (int i = 0; i < r->prompt.n; i++)
        tokenizer_encode(w->tok, r->prompt.msg[i].text, strlen(r->prompt.msg[i].text), &ids);
    for (int i = 0; i < COUNT_OF(field); i++)
        if (field[i]) tokenizer_encode(w->tok, field[i], strlen(field[i]), &ids);
    int64_t n = r->tok ? r->n_tok : ids.n;
    tokbuf_release(&ids);
    return n;
}

static void show_json(Inspection *in, const Row *r, int n_view) {
    JsonOut *j = &in->json;
    Str normal = {0};
    Json *node;
    Error err = {0};
    json_out_obj(j, NULL);
    json_out_str(j, "id", r->id);
    json_out_int(j, "line", r->line);
    json_out_str(j, "kind", row_kind_name(r->kind));
    json_out_str(j, "shape", r->shape);
    row_to_json(&normal, r);
    if (json_parse(&node, normal.s, normal.n, 0, "row", 1, &err)) {
        json_out_node(j, "row", node);
        json_release(node);
    }
    str_release(&normal);
    json_out_arr(j, "sequences");
    for (int i = 0; i < n_view; i++) {
        const View *v = &in->view[i];
        json_out_obj(j, NULL);
        if (v->name[0]) json_out_str(j, "name", v->name);
        json_out_arr(j, "parts");
        for (int k = 0; k < v->n; k++) {
            size_t from = k ? v->span[k - 1].end : 0;
            json_out_obj(j, NULL);
            json_out_bool(j, "learned", v->span[k].learned);
            json_out_strn(j, "text", v->text.s + from, v->span[k].end - from);
            json_out_obj_end(j);
        }
        json_out_arr_end(j);
        if (v->s.tok.n) {
            json_out_arr(j, "ids");
            for (int k = 0; k < v->s.tok.n; k++) json_out_int(j, NULL, v->s.tok.id[k]);
            json_out_arr_end(j);
            json_out_arr(j, "learned");
            for (int k = 0; k < v->s.tok.n; k++) json_out_int(j, NULL, k > 0 && v->s.weight[k] != 0);
            json_out_arr_end(j);
        }
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
    json_out_obj_end(j);
}

static void show_text(Inspection *in, const Row *r, int n_view) {
    Str *out = &in->shown;
    str_printf(out, "\nline %d, %s: %s", r->line, row_kind_name(r->kind), r->shape);
    if (r->kind == ROW_UNPAIRED || r->kind == ROW_LABELLED || r->kind == ROW_CHOICE)
        str_printf(out, "  label %d", r->label);
    if (isfinite(r->margin)) str_printf(out, "  margin %g", r->margin);
    str_putc(out, '\n');
    for (int i = 0; i < n_view; i++) {
        const View *v = &in->view[i];
        if (v->name[0] || v->s.tok.n) str_put(out, "  ");
        if (v->name[0]) str_printf(out, "%s%s", v->name, v->s.tok.n ? ", " : ":\n");
        if (v->s.tok.n) str_printf(out, "%d tokens:\n", v->s.tok.n);
        view_print(out, v, in->style, "    ", SHOWN_BYTES);
    }
    if (n_view == 0 || r->tools) {
        Str normal = {0};
        str_put(out, "    ");
        row_to_json(&normal, r);
        str_putn(out, normal.s, normal.n > SHOWN_BYTES ? SHOWN_BYTES : normal.n);
        str_putc(out, '\n');
        str_release(&normal);
    }
}

static void inspect_row(Inspection *in, const Row *r, bool json) {
    const Wanted *w = in->w;
    char shape[120];
    bool shown = in->n_shown < w->n_first;
    snprintf(shape, sizeof shape, "%s: %s%s", row_kind_name(r->kind), r->shape,
             r->plain   ? " (plain text)"
             : r->tools ? " (tools)"
                        : "");
    count(&in->shapes, shape, 1);
    in->n_usable++;
    length_put(&in->bytes, (int64_t)row_text_bytes(r));
    int n_view = shown || w->has_chat ? view_row(in->view, w->has_chat ? &w->chat : NULL, r) : 0;
    for (int i = 0; i < n_view && w->has_chat; i++) length_put(&in->tokens, in->view[i].s.tok.n);
    if (w->tok && !w->has_chat) length_put(&in->tokens, count_tokens(w, r));
    if (!shown) return;
    in->n_shown++;
    if (json)
        show_json(in, r, n_view);
    else
        show_text(in, r, n_view);
}

/* ---- all rows */

static void take_rows(Inspection *in, Rows *rows, bool json) {
    Error err = {0};
    for (int i = 0; i < rows->n; i++) {
        Rows one = {.row = &rows->row[i], .n = 1};
        if (in->w->tok && !rows_check_ids(&one, tokenizer_n_vocab(in->w->tok), &err)) {
            in->n_bad++;
            count(&in->bad, "token ids that the tokenizer does not have", 1);
            if (!in->first_bad) in->first_bad = mem_str(err.msg);
            continue;
        }
        inspect_row(in, &rows->row[i], json);
    }
    for (int i = 0; i < ROWS_SKIPS && rows->skip[i].reason; i++)
        count(&in->left_out, rows->skip[i].reason, rows->skip[i].n);
    in->n_left_out += rows->n_skip;
    in->n_merged += rows->n_merged;
    in->n_empty += rows->n_empty;
    rows_release(rows);
}

/* A malformed row stops training; here it is counted, so that one look shows all there is to repair. */
static void note_bad(Inspection *in, const Error *err) {
    const char *why = strstr(err->msg, ": ");
    in->n_bad++;
    count(&in->bad, why ? why + 2 : err->msg, 1);
    if (!in->first_bad) in->first_bad = mem_str(err->msg);
}

static void parse_row(Inspection *in, Rows *rows, const SourceRow *row) {
    const Wanted *w = in->w;
    Error bad = {0};
    Json *parsed = NULL;
    const Json *value = row->value;
    in->n_row++;
    if (!value && json_parse(&parsed, row->text, row->n, JSON_NUL_OK, w->path, row->line, &bad)) value = parsed;
    if (value) note_columns(in, value);
    if (!value || !rows_parse_value(rows, value, w->kind, &w->columns, w->path, row->line, &bad)) note_bad(in, &bad);
    json_release(parsed);
}

static bool inspect_rows(Inspection *in, Source *s, bool json, Error *err) {
    Rows rows = {0};
    SourceRow row;
    bool ok;
    for (int n = 0; (ok = source_next(s, &row, err)) && (row.text || row.value);) {
        parse_row(in, &rows, &row);
        if (++n < BATCH) continue;
        take_rows(in, &rows, json);
        source_forget(s);
        n = 0;
    }
    take_rows(in, &rows, json);
    return ok;
}

static bool inspect_file(Inspection *in, bool json, Error *err) {
    const Wanted *w = in->w;
    Source *s;
    Rows rows = {0};
    if (!source_open(&s, w->path, w->kind == ROW_ANY || w->kind == ROW_TEXT, &w->columns, err)) return false;
    in->container = source_container(s);
    snprintf(in->packing, sizeof in->packing, "%s", source_packing(s));
    in->n_group = source_groups(s);
    bool ok;
    if (in->container == CONTAINER_TEXT) {
        ok = rows_read(&rows, w->path, ROW_TEXT, err);
        in->n_row = rows.n;
        take_rows(in, &rows, json);
    } else {
        ok = inspect_rows(in, s, json, err);
    }
    source_close(s);
    return ok && (in->n_row > 0 || error_set(err, ERR_FORMAT, "%s: no rows: the file is empty", w->path));
}

/* ---- the report */

static void put_counts(Str *out, const Counts *c, const char *title) {
    for (int i = 0; i < c->n; i++)
        str_printf(out, "%-10s %10lld  %s\n", i ? "" : title, (long long)c->item[i].n, c->item[i].name);
}

static void put_lengths(Str *out, Lengths *l, const char *title) {
    char total[16];
    if (l->n == 0) return;
    qsort(l->v, l->n, sizeof *l->v, by_value);
    format_count(total, l->total);
    str_printf(out, "%-10s %10lld %10lld %10lld %10lld %10s\n", title, (long long)l->v[0], (long long)quantile(l, 0.5),
               (long long)quantile(l, 0.95), (long long)l->v[l->n - 1], total);
}

static void report_text(Inspection *in) {
    Str out = {0};
    str_printf(&out, "%s: %s", in->w->path, container_name(in->container));
    if (in->packing[0]) str_printf(&out, ", %s", in->packing);
    if (in->n_group) str_printf(&out, ", %lld row group%s", (long long)in->n_group, in->n_group == 1 ? "" : "s");
    str_printf(&out, ", %lld bytes\n", (long long)io_size(in->w->path));
    str_printf(&out, "%-10s %10lld  %lld usable, %lld left out, %lld malformed\n", "rows", (long long)in->n_row,
               (long long)in->n_usable, (long long)in->n_left_out, (long long)in->n_bad);
    put_counts(&out, &in->shapes, "shape");
    put_counts(&out, &in->left_out, "left out");
    put_counts(&out, &in->bad, "malformed");
    if (in->n_merged + in->n_empty)
        str_printf(&out, "%-10s %10lld  merged with the one before, of the same role; %lld without text dropped\n",
                   "turns", (long long)in->n_merged, (long long)in->n_empty);
    str_put(&out, in->columns.n ? "columns    " : "");
    for (int i = 0; i < in->columns.n; i++) {
        const char *name = in->columns.item[i].name, *ours = columns_ours(&in->w->columns, name);
        str_printf(&out, "%s%.60s%s%s%s", i ? ", " : "", name, strcmp(name, ours) ? " as " : "",
                   strcmp(name, ours) ? ours : "", in->columns.item[i].n ? "" : " (not used)");
    }
    if (in->columns.n) str_putc(&out, '\n');
    str_printf(&out, "%-10s %10s %10s %10s %10s %10s\n", "length", "min", "median", "p95", "max", "total");
    put_lengths(&out, &in->bytes, "bytes");
    put_lengths(&out, &in->tokens, "tokens");
    if (in->shown.n && in->style == VIEW_BRACKETS) str_put(&out, "\nwhat is learned stands in [[ ]]\n");
    str_putn(&out, str_get(&in->shown), in->shown.n);
    print_text(&out);
}

static void json_counts(JsonOut *j, const char *key, const Counts *c, const char *name) {
    json_out_arr(j, key);
    for (int i = 0; i < c->n; i++) {
        json_out_obj(j, NULL);
        json_out_str(j, name, c->item[i].name);
        json_out_int(j, "rows", c->item[i].n);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
}

static void json_lengths(JsonOut *j, const char *key, Lengths *l) {
    if (l->n == 0) return;
    qsort(l->v, l->n, sizeof *l->v, by_value);
    json_out_obj(j, key);
    json_out_int(j, "min", l->v[0]);
    json_out_int(j, "median", quantile(l, 0.5));
    json_out_int(j, "p95", quantile(l, 0.95));
    json_out_int(j, "max", l->v[l->n - 1]);
    json_out_int(j, "total", (int64_t)l->total);
    json_out_obj_end(j);
}

static void report_json(Inspection *in, const Error *err) {
    Str out = {0};
    JsonOut j;
    Json *first;
    Error ignored = {0};
    json_out_init(&j, &out, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-data-inspect/1");
    json_out_str(&j, "file", in->w->path);
    json_out_str(&j, "container", container_name(in->container));
    json_out_str(&j, "packing", in->packing);
    json_out_int(&j, "row_groups", in->n_group);
    json_out_int(&j, "bytes", io_size(in->w->path));
    json_out_int(&j, "rows", in->n_row);
    json_out_int(&j, "usable", in->n_usable);
    json_out_int(&j, "left_out", in->n_left_out);
    json_out_int(&j, "malformed", in->n_bad);
    json_counts(&j, "shapes", &in->shapes, "shape");
    json_counts(&j, "reasons_left_out", &in->left_out, "reason");
    json_counts(&j, "reasons_malformed", &in->bad, "reason");
    json_out_int(&j, "turns_merged", in->n_merged);
    json_out_int(&j, "turns_empty", in->n_empty);
    json_out_arr(&j, "columns");
    for (int i = 0; i < in->columns.n; i++) {
        json_out_obj(&j, NULL);
        json_out_str(&j, "name", in->columns.item[i].name);
        json_out_str(&j, "as", in->columns.item[i].n ? columns_ours(&in->w->columns, in->columns.item[i].name) : NULL);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_obj(&j, "lengths");
    json_lengths(&j, "bytes", &in->bytes);
    json_lengths(&j, "tokens", &in->tokens);
    json_out_obj_end(&j);
    json_out_arr_end(&in->json);
    if (json_parse(&first, in->shown.s, in->shown.n, 0, "rows", 1, &ignored)) {
        json_out_node(&j, "first", first);
        json_release(first);
    }
    json_out_int(&j, "code", error_exit_code(err->code));
    json_out_str(&j, "error", err->code ? err->msg : NULL);
    json_out_obj_end(&j);
    print_text(&out);
}

static ViewStyle choose_style(void) {
    const char *no = getenv("NO_COLOR"), *force = getenv("CLICOLOR_FORCE"), *term = getenv("TERM");
    if (force && *force && strcmp(force, "0")) return VIEW_COLOUR;
    bool plain = (no && *no) || (term && !strcmp(term, "dumb")) || !isatty(STDOUT_FILENO);
    return plain ? VIEW_BRACKETS : VIEW_COLOUR;
}

static bool inspect(Wanted *w, bool json, Error *err) {
    Inspection in = {.w = w, .style = choose_style()};
    if (w->n_first < 0) w->n_first = 3;
    if (w->n_first > MAX_FIRST) w->n_first = MAX_FIRST;
    json_out_init(&in.json, &in.shown, 0);
    if (json) json_out_arr(&in.json, NULL);
    bool ok = inspect_file(&in, json, err);
    if (ok && in.n_bad)
        ok = error_set(err, ERR_FORMAT, "%lld of %lld rows are malformed; the first: %.700s", (long long)in.n_bad,
                       (long long)in.n_row, in.first_bad);
    else if (ok)
        err->code = ERR_NONE;
    if (json)
        report_json(&in, err);
    else if (in.n_row)
        report_text(&in);
    Counts *const all[] = {&in.shapes, &in.left_out, &in.bad, &in.columns};
    for (int i = 0; i < COUNT_OF(all); i++) counts_release(all[i]);
    for (int i = 0; i < 2; i++) view_release(&in.view[i]);
    free(in.bytes.v), free(in.tokens.v), free(in.first_bad);
    str_release(&in.shown);
    return ok;
}

/* ---- show: every row as a line of JSON */

static void print_row(Str *out, const Json *row, const Columns *c) {
    JsonOut j;
    str_clear(out);
    json_out_init(&j, out, 0);
    if (json_kind(row) == JSON_OBJ && c->n) {
        json_out_obj(&j, NULL);
        for (int i = 0; i < json_len(row); i++) {
            const Json *value;
            const char *name = json_key_at(row, i, &value);
            json_out_node(&j, columns_ours(c, name), value);
        }
        json_out_obj_end(&j);
    } else {
        json_out_node(&j, NULL, row);
    }
    str_putc(out, '\n');
    fwrite(out->s, 1, out->n, stdout);
}

static bool show(const Wanted *w, Error *err) {
    Source *s;
    SourceRow row;
    Str line = {0};
    bool ok = source_open(&s, w->path, false, &w->columns, err);
    if (!ok) return false;
    for (int64_t n = 0;
         (w->n_first < 0 || n < w->n_first) && (ok = source_next(s, &row, err)) && (row.text || row.value); n++) {
        Json *parsed = NULL;
        ok = row.value || json_parse(&parsed, row.text, row.n, JSON_NUL_OK, w->path, row.line, err);
        if (!ok) break;
        print_row(&line, row.value ? row.value : parsed, &w->columns);
        json_release(parsed);
        if (source_held(s) > (size_t)1 << 20) source_forget(s);
    }
    str_release(&line);
    source_close(s);
    return ok;
}

static void report_error(const Error *err) {
    Str out = {0};
    JsonOut j;
    json_out_init(&j, &out, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-data-inspect/1");
    json_out_int(&j, "code", error_exit_code(err->code));
    json_out_str(&j, "error", err->msg);
    json_out_obj_end(&j);
    print_text(&out);
}

static bool run(const Args *a, Error *err) {
    bool is_show = !strcmp(a->arg[0], "show");
    Wanted w = {0};
    if (!is_show && strcmp(a->arg[0], "inspect") != 0) {
        error_set(err, ERR_CONFIG, "data: '%s' is neither inspect nor show", a->arg[0]);
        if (a->json) report_error(err);
        return false;
    }
    if (!wanted_open(&w, a, err)) {
        wanted_close(&w);
        if (a->json) report_error(err);
        return false;
    }
    bool ok = is_show ? show(&w, err) : inspect(&w, a->json, err);
    wanted_close(&w);
    return ok;
}

const Command command_data = {
    .name = "data",
    .usage = "data inspect|show FILE [--tokenizer DIR] [--rows N] [--columns LIST] [--kind KIND] [--json]",
    .help = "what a file of rows holds, and how training will see it\n\n"
            "FILE is JSONL, JSON, CSV, TSV or plain text, also as .gz or .zst, or Parquet. inspect: container, shapes, "
            "rows left\n"
            "out by reason, lengths, and the first rows with what is learned in green (in [[ ]] when stdout is no "
            "terminal).\n"
            "show: every row as a line of JSON, whatever the container.",
    .flag = flags,
    .min_arg = 2,
    .max_arg = 2,
    .says_error = true,
    .run = run};
