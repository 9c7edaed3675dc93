/* Rows of a JSON file that is not lines. Values are cut out of the text by counting brackets outside of strings; what
 * is cut out is parsed by base/json.h, so nothing is accepted here that is not JSON there. Only what lies around the
 * rows is looked at here: commas, and the other members of an object that holds the list, which are parsed when it
 * ends. */
#include "data/source_int.h"

#include <string.h>

enum { END = -1, FAILED = -2 };

static bool bad(const JsonRows *r, const char *what, Error *err) {
    return error_set(err, ERR_FORMAT, "%s:%d: bad JSON: %s", r->name, r->line, what);
}

/* The next byte that is not white space, not taken. */
static int look(JsonRows *r, Error *err) {
    for (;;) {
        const char *p;
        size_t n, k = 0;
        if (!lines_peek(r->in, 3, &p, &n, err)) return FAILED;
        if (!r->begun && n >= 3 && !memcmp(p, "\xEF\xBB\xBF", 3)) k = 3;
        r->begun = true;
        for (; k < n && (p[k] == ' ' || p[k] == '\t' || p[k] == '\r' || p[k] == '\n'); k++) r->line += p[k] == '\n';
        lines_take(r->in, k);
        if (k < n) return (unsigned char)p[k];
        if (n == 0) return END;
    }
}

static void take(JsonRows *r) { lines_take(r->in, 1); }

/* Appends one value. Its inside is not checked: it ends where brackets and quotes are even, or at what ends a number.
 */
static bool put_value(JsonRows *r, Str *out, Error *err) {
    int64_t depth = 0;
    bool in_string = false, escaped = false, done = false;
    for (size_t i_value = 0; !done;) {
        const char *p;
        size_t n, k = 0;
        if (!lines_peek(r->in, 1, &p, &n, err)) return false;
        if (n == 0) return i_value > 0 && depth == 0 && !in_string ? true : bad(r, "the file ends inside a value", err);
        for (; k < n && !done; i_value++) {
            char c = p[k];
            if (in_string) {
                in_string = escaped || c != '"';
                escaped = !escaped && c == '\\';
                done = !in_string && depth == 0;
                r->line += c == '\n';
                k++;
                continue;
            }
            bool space = c == ' ' || c == '\t' || c == '\r' || c == '\n';
            if (depth == 0 && i_value > 0 && (space || c == ',' || c == ']' || c == '}' || c == ':')) {
                done = true;
                break;
            }
            in_string = c == '"';
            depth += (c == '{' || c == '[') - (c == '}' || c == ']');
            done = depth <= 0 && (c == '}' || c == ']');
            r->line += c == '\n';
            k++;
        }
        str_putn(out, p, k);
        lines_take(r->in, k);
        if (out->n > SOURCE_ROW_BYTES) return bad(r, "a row is longer than 64 MiB", err);
    }
    return true;
}

static bool read_key(JsonRows *r, Error *err) {
    Json *key;
    size_t from = r->text.n;
    if (look(r, err) == FAILED || !put_value(r, &r->text, err)) return false;
    if (!json_parse(&key, r->text.s + from, r->text.n - from, 0, r->name, r->line, err)) return false;
    str_clear(&r->key);
    str_put(&r->key, json_str(key, NULL) ? json_str(key, NULL) : "");
    bool ok = json_kind(key) == JSON_STR;
    json_release(key);
    int c = ok ? look(r, err) : 0;
    if (c == FAILED) return false;
    if (!ok || c != ':') return bad(r, "expected \"name\": value", err);
    take(r);
    str_putc(&r->text, ':');
    return true;
}

/* A list that is a member, its [ taken already. The entries are put apart, so that what was apart stays so. */
static bool put_list(JsonRows *r, Error *err) {
    for (;;) {
        int c = look(r, err);
        if (c == FAILED) return false;
        str_putc(&r->text, c == ',' || c == ']' ? (char)c : ' ');
        if (c == ',' || c == ']')
            take(r);
        else if (!put_value(r, &r->text, err))
            return false;
        if (c == ']') return true;
    }
}

/* A member's value. *rows: it is the list of rows, whose [ is taken; the rest of it is not. */
static bool read_member(JsonRows *r, bool *rows, Error *err) {
    int c = look(r, err);
    *rows = false;
    if (c == FAILED) return false;
    if (c != '[') return put_value(r, &r->text, err);
    take(r);
    str_putc(&r->text, '[');
    if ((c = look(r, err)) == FAILED) return false;
    *rows = c == '{' && !column_known(columns_ours(r->columns, str_get(&r->key)), NULL);
    if (!*rows) return put_list(r, err);
    return !r->wrapped ||
           error_set(err, ERR_FORMAT, "%s:%d: a second list of rows, '%.80s': which one is meant is not clear", r->name,
                     r->line, str_get(&r->key));
}

/* Members of an object up to its end or to the list of rows. */
static bool read_members(JsonRows *r, bool *ended, Error *err) {
    for (*ended = false;;) {
        bool rows;
        int c = look(r, err);
        if (c == FAILED) return false;
        if (c == '}' || c == ',') {
            take(r);
            str_putc(&r->text, (char)c);
            if (c == '}') return *ended = true;
            continue;
        }
        if (!read_key(r, err) || !read_member(r, &rows, err)) return false;
        if (rows) return r->in_list = r->wrapped = r->first = true;
    }
}

/* Is what surrounded the rows JSON? */
static bool check_wrapper(JsonRows *r, Error *err) {
    Json *all;
    if (!json_parse(&all, str_get(&r->text), r->text.n, 0, r->name, r->line, err)) return false;
    json_release(all);
    r->wrapped = false;
    return true;
}

/* The next entry of the list, or its end. Entries go to `key`, which has no other use then. */
static bool next_entry(JsonRows *r, SourceRow *row, bool *ended, Error *err) {
    int c = look(r, err);
    *ended = c == ']';
    if (c == FAILED) return false;
    if (*ended) return take(r), true;
    if (!r->first) {
        if (c != ',')
            return bad(r, c == END ? "the file ends inside the list of rows" : "expected a comma between rows", err);
        take(r);
        if ((c = look(r, err)) == FAILED) return false;
    }
    if (c == ']' || c == ',') return bad(r, "a comma without a row behind it", err);
    if (c == END) return bad(r, "the file ends inside the list of rows", err);
    r->first = false;
    int line = r->line;
    str_clear(&r->key);
    if (!put_value(r, &r->key, err)) return false;
    *row = (SourceRow){.text = r->key.s, .n = r->key.n, .line = line};
    return true;
}

/* After the list: the end of the file, or the other members of the object around it. */
static bool end_list(JsonRows *r, Error *err) {
    bool ended;
    r->in_list = false;
    if (!r->wrapped) {
        int c = look(r, err);
        return c == END || (c != FAILED && bad(r, "text behind the end of the list", err));
    }
    str_putc(&r->text, ']');
    return read_members(r, &ended, err) && check_wrapper(r, err);
}

/* A value that is no list: a row, or an object around one. */
static bool read_top(JsonRows *r, int first, SourceRow *row, Error *err) {
    bool ended = true, ok;
    int line = r->line;
    str_clear(&r->text);
    if (first == '{') {
        take(r);
        str_putc(&r->text, '{');
        ok = read_members(r, &ended, err);
    } else {
        ok = put_value(r, &r->text, err);
    }
    if (ok && ended) *row = (SourceRow){.text = r->text.s, .n = r->text.n, .line = line};
    return ok;
}

bool json_rows_next(JsonRows *r, SourceRow *row, Error *err) {
    *row = (SourceRow){0};
    err->code = ERR_NONE;
    if (r->line == 0) r->line = 1;
    while (!row->text) {
        bool ended = false;
        if (r->in_list) {
            if (!next_entry(r, row, &ended, err) || (ended && !end_list(r, err))) return false;
            continue;
        }
        int c = look(r, err);
        if (c == END) return true;
        if (c == FAILED) return false;
        if (c == '[') {
            take(r);
            r->in_list = r->first = true;
        } else if (!read_top(r, c, row, err)) {
            return false;
        }
    }
    return true;
}

void json_rows_release(JsonRows *r) {
    str_release(&r->text);
    str_release(&r->key);
}
