#include "train/oracle.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/oracle_int.h"

static const char FORMAT_NAME[] = "dikast-rl-cases/1";
enum { MOST = 1 << 26 }; /* entries of one tensor */

/* -- what is wrong */

void oracle_bad(OracleRun *c, const char *fmt, ...) {
    if (c->failed) return;
    c->failed = true;
    char what[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    error_set(c->err, ERR_FORMAT, "%s", what);
}

/* -- numbers in */

double *oracle_zeros(OracleRun *c, int64_t n) { return heap_alloc(&c->heap, (size_t)(n > 0 ? n : 1) * sizeof(double)); }

static double finite_num(OracleRun *c, const char *key, const Json *j) {
    double x = json_num(j, NAN);
    if (isfinite(x)) return x;
    oracle_bad(c, "'%s': expected a finite number", key);
    return 0;
}

static const Json *present(const Json *from, const char *key) {
    const Json *j = json_get(from, key);
    return j && json_kind(j) != JSON_NIL ? j : NULL;
}

bool oracle_has(const OracleRun *c, const char *key) { return present(c->in, key) != NULL; }

double oracle_num(OracleRun *c, const char *key) {
    const Json *j = present(c->in, key);
    if (j) return finite_num(c, key, j);
    oracle_bad(c, "'in' has no '%s'", key);
    return 0;
}

double oracle_num_or(OracleRun *c, const char *key, double otherwise) {
    const Json *j = present(c->in, key);
    return j ? finite_num(c, key, j) : otherwise;
}

double oracle_bound(OracleRun *c, const char *key) {
    const Json *j = present(c->in, key);
    double x = j ? finite_num(c, key, j) : 0;
    if (j && !(x > 0)) oracle_bad(c, "'%s' is %g, expected a number above 0, or null: none", key, x);
    return x;
}

bool oracle_flag(OracleRun *c, const char *key) {
    const Json *j = present(c->in, key);
    if (j && json_kind(j) != JSON_YES && json_kind(j) != JSON_NO) oracle_bad(c, "'%s': expected true or false", key);
    return json_bool(j, false);
}

int oracle_word(OracleRun *c, const char *key, const char *const *words) {
    const Json *j = present(c->in, key);
    const char *s = json_str(j, NULL);
    Str list = {0};
    for (int i = 0; words[i]; i++) {
        if (s && !strcmp(words[i], s)) {
            str_release(&list);
            return i;
        }
        str_printf(&list, "%s%s", i ? ", " : "", words[i]);
    }
    if (s)
        oracle_bad(c, "'%s' is '%s', expected one of: %s", key, s, str_get(&list));
    else
        oracle_bad(c, "'%s' is %s, expected one of: %s", key, j ? "not a string" : "missing", str_get(&list));
    str_release(&list);
    return 0;
}

/* An array of n numbers; n 0: of any length that is not 0. NULL after an error. */
static double *numbers(OracleRun *c, const Json *j, const char *key, int *n) {
    int has = j && json_kind(j) == JSON_ARR ? json_len(j) : -1;
    if (has < 1 || (*n > 0 && has != *n) || has > MOST) {
        if (has < 0)
            oracle_bad(c, "'%s' is missing or no array", key);
        else if (*n > 0)
            oracle_bad(c, "'%s' has %d entries, expected %d", key, has, *n);
        else
            oracle_bad(c, "'%s' is empty or too long", key);
        return NULL;
    }
    *n = has;
    double *x = oracle_zeros(c, has);
    for (int i = 0; i < has; i++) x[i] = finite_num(c, key, json_at(j, i));
    return x;
}

double *oracle_vec(OracleRun *c, const char *key, int *n) {
    double *x = numbers(c, present(c->in, key), key, n);
    if (x) return x;
    if (*n == 0) *n = 1;
    return oracle_zeros(c, *n);
}

double *oracle_rows(OracleRun *c, const Json *from, const char *key) {
    int n = c->n_row;
    double *x = numbers(c, present(from, key), key, &n);
    return x ? x : oracle_zeros(c, c->n_row);
}

/* (B, T), every entry. */
static double *matrix(OracleRun *c, const Json *j, const char *key) {
    int rows = j && json_kind(j) == JSON_ARR ? json_len(j) : -1;
    double *x = oracle_zeros(c, (int64_t)c->n_row * c->n_col);
    if (rows != c->n_row) {
        if (rows < 0)
            oracle_bad(c, "'%s' is missing or no array", key);
        else
            oracle_bad(c, "'%s' has %d rows, expected %d", key, rows, c->n_row);
        return x;
    }
    for (int i = 0; i < rows; i++) {
        int n = c->n_col;
        double *row = numbers(c, json_at(j, i), key, &n);
        if (row) memcpy(x + (int64_t)i * n, row, (size_t)n * sizeof *x);
    }
    return x;
}

static double *cut(OracleRun *c, const double *all) {
    double *x = oracle_zeros(c, c->off[c->n_row]);
    for (int i = 0; i < c->n_row; i++)
        memcpy(x + c->off[i], all + (int64_t)i * c->n_col, (size_t)(c->off[i + 1] - c->off[i]) * sizeof *x);
    return x;
}

double *oracle_tokens(OracleRun *c, const Json *from, const char *key) {
    return cut(c, matrix(c, present(from, key), key));
}

double *oracle_tokens_or_rows(OracleRun *c, const char *key) {
    const Json *j = present(c->in, key), *first = json_at(j, 0);
    if (first && json_kind(first) == JSON_ARR) return oracle_tokens(c, c->in, key);
    double *row = oracle_rows(c, c->in, key), *x = oracle_zeros(c, c->off[c->n_row]);
    for (int i = 0; i < c->n_row; i++)
        for (int64_t t = c->off[i]; t < c->off[i + 1]; t++) x[t] = row[i];
    return x;
}

double *oracle_logits(OracleRun *c, int *width) {
    const Json *j = present(c->block, "logits");
    int64_t n = (int64_t)c->n_row * c->n_col;
    *width = json_len(json_at(json_at(j, 0), 0));
    if (*width < 1 || *width > MOST / n || json_len(j) != c->n_row) {
        oracle_bad(c, "block: 'logits' is no array of %d rows of %d tokens of words", c->n_row, c->n_col);
        *width = 1;
        return oracle_zeros(c, n);
    }
    double *x = oracle_zeros(c, n * *width);
    for (int i = 0; i < c->n_row; i++) {
        const Json *row = json_at(j, i);
        if (json_len(row) != c->n_col) oracle_bad(c, "block: 'logits' row %d: expected %d tokens", i, c->n_col);
        for (int t = 0; t < c->n_col && !c->failed; t++) {
            double *at = numbers(c, json_at(row, t), "logits", width);
            if (at) memcpy(x + ((int64_t)i * c->n_col + t) * *width, at, (size_t)*width * sizeof *x);
        }
    }
    return x;
}

int32_t *oracle_labels(OracleRun *c, int width) {
    double *x = matrix(c, present(c->block, "labels"), "labels");
    int64_t n = (int64_t)c->n_row * c->n_col;
    int32_t *id = heap_alloc(&c->heap, (size_t)n * sizeof *id);
    for (int64_t i = 0; i < n; i++) {
        if (!(x[i] >= 0 && x[i] < width && x[i] == floor(x[i]))) {
            oracle_bad(c, "block: label %g, expected a whole number in 0..%d", x[i], width - 1);
            return id;
        }
        id[i] = (int32_t)x[i];
    }
    return id;
}

/* -- results out */

static void hold(OracleRun *c, const char *name, double gap, double top) {
    double e = gap / fmax(top, 0.01);
    if (!isfinite(e)) e = INFINITY;
    if (!c->worst || e > c->max_err) c->max_err = e, c->worst = name;
    c->n_given++;
}

/* NaN counts as infinitely far. */
static double apart(double x, double y) { return isfinite(x) ? fabs(x - y) : INFINITY; }

void oracle_give(OracleRun *c, const char *name, const double *x, int n) {
    const Json *j = json_get(c->out, name);
    if (!j || c->failed) return;
    double *ref = numbers(c, j, name, &n), gap = 0, top = 0;
    for (int i = 0; ref && i < n; i++) gap = fmax(gap, apart(x[i], ref[i])), top = fmax(top, fabs(ref[i]));
    if (ref) hold(c, name, gap, top);
}

void oracle_give_num(OracleRun *c, const char *name, double x) {
    const Json *j = json_get(c->out, name);
    if (!j || c->failed) return;
    double ref = finite_num(c, name, j);
    hold(c, name, apart(x, ref), fabs(ref));
}

void oracle_give_tokens(OracleRun *c, const char *name, const double *x) {
    const Json *j = json_get(c->out, name);
    if (!j || c->failed) return;
    double *ref = cut(c, matrix(c, j, name)), gap = 0, top = 0;
    for (int64_t t = 0; t < c->off[c->n_row]; t++) gap = fmax(gap, apart(x[t], ref[t])), top = fmax(top, fabs(ref[t]));
    hold(c, name, gap, top);
}

/* An entry outside the mask counts where the reference has one: it may have written 0 there. */
void oracle_give_all(OracleRun *c, const char *name, const double *x) {
    const Json *j = json_get(c->out, name);
    if (!j || c->failed) return;
    double *ref = matrix(c, j, name), gap = 0, top = 0;
    for (int i = 0; i < c->n_row; i++)
        for (int t = 0; t < c->n_col; t++) {
            int64_t k = (int64_t)i * c->n_col + t;
            if (ref[k] == 0 && t >= c->off[i + 1] - c->off[i]) continue;
            gap = fmax(gap, apart(x[k], ref[k])), top = fmax(top, fabs(ref[k]));
        }
    hold(c, name, gap, top);
}

/* -- cases */

static bool listed(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += n)
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || !at[n])) return n > 0;
    return false;
}

static void only_listed(OracleRun *c, const Json *obj, const char *what, const char *list) {
    if (!obj || json_kind(obj) != JSON_OBJ) {
        oracle_bad(c, "'%s' is missing or no object", what);
        return;
    }
    for (int i = 0; i < json_len(obj); i++) {
        const Json *value;
        const char *key = json_key_at(obj, i, &value);
        if (!listed(list, key)) oracle_bad(c, "unknown '%s' in '%s'; this function knows: %s", key, what, list);
    }
}

/* Tokens of the first row of an array of rows, 0: it is none. */
static int width_of(const Json *rows) {
    const Json *first = rows && json_kind(rows) == JSON_ARR ? json_at(rows, 0) : NULL;
    return first && json_kind(first) == JSON_ARR ? json_len(first) : 0;
}

/* T of the first of its tensors that a block has; of one without, of the case's own. */
static int block_width(const OracleRun *c) {
    static const char *const tensors[] = {"logp_old", "logp_new", "logp_ref", "values", "vpred", "labels", "logits"};
    static const char *const own[] = {"x", "adv", "returns"};
    for (int i = 0; i < COUNT_OF(tensors); i++)
        if (present(c->block, tensors[i])) return width_of(present(c->block, tensors[i]));
    for (int i = 0; i < COUNT_OF(own); i++)
        if (width_of(present(c->in, own[i]))) return width_of(present(c->in, own[i]));
    for (int i = 0; i < json_len(c->out); i++) {
        const Json *value;
        json_key_at(c->out, i, &value);
        if (width_of(value)) return width_of(value);
    }
    return 0;
}

static void read_block(OracleRun *c) {
    int n = 0;
    const Json *lens = present(c->block, "lens"), *logits = present(c->block, "logits");
    bool all = !lens && logits && json_len(logits) > 0; /* of a block of logits every token may count */
    double *len = all ? NULL : numbers(c, lens, "lens", &n);
    c->n_row = all ? json_len(logits) : len ? n : 1;
    c->n_col = block_width(c);
    if (c->n_col < 1 || c->n_col > MOST / c->n_row) {
        oracle_bad(c, "block: no tensor of rows of tokens, as 'logp_old' is");
        c->n_col = 1;
    }
    c->off = heap_alloc(&c->heap, (size_t)(c->n_row + 1) * sizeof *c->off);
    for (int i = 0; i < c->n_row; i++) {
        double m = len ? len[i] : all ? c->n_col : 0;
        if (!(m >= 0 && m <= c->n_col && m == floor(m))) {
            oracle_bad(c, "block: lens[%d] is %g, expected a whole number in 0..%d", i, m, c->n_col);
            m = 0;
        }
        c->off[i + 1] = c->off[i] + (int64_t)m;
    }
    if (c->off[c->n_row] == 0) oracle_bad(c, "block: no token counts");
}

static const OracleFunction *find_function(const char *name) {
    for (const OracleFunction *f = oracle_functions; f->name; f++)
        if (!strcmp(f->name, name)) return f;
    return NULL;
}

static bool unknown_function(const char *name, Error *err) {
    Str list = {0};
    for (const OracleFunction *f = oracle_functions; f->name; f++) str_printf(&list, " %s", f->name);
    error_set(err, ERR_FORMAT, "unknown function '%.40s'; these are known:%s", name, str_get(&list));
    str_release(&list);
    return false;
}

static bool run_case(OracleCase *out, const Json *j, const Json *blocks, Backend *be, Error *err) {
    OracleRun c = {.in = json_get(j, "in"), .out = json_get(j, "out"), .be = be, .err = err};
    const char *block;
    if (!json_need_str(j, "function", &out->function, NULL, err) || !json_need_num(j, "tol", &out->tol, err))
        return false;
    const OracleFunction *f = find_function(out->function);
    if (!f) return unknown_function(out->function, err);
    if (!(out->tol >= 0)) return error_set(err, ERR_FORMAT, "'tol' is %g, expected a number of at least 0", out->tol);
    if (f->needs_block) {
        if (!json_need_str(j, "block", &block, NULL, err)) return false;
        c.block = json_get(blocks, block);
        if (!c.block) return error_set(err, ERR_FORMAT, "no block '%s'", block);
    }
    only_listed(&c, c.in, "in", f->in);
    only_listed(&c, c.out, "out", f->out);
    if (!c.failed && json_len(c.out) == 0) oracle_bad(&c, "'out' is empty");
    if (!c.failed && f->needs_block) read_block(&c);
    if (!c.failed) f->run(&c);
    CHECK(c.failed || c.n_given == json_len(c.out), "%s gives %d of %d outputs", f->name, c.n_given, json_len(c.out));
    out->worst = c.worst;
    out->max_err = c.max_err;
    out->ok = c.max_err <= out->tol;
    heap_release(&c.heap);
    return !c.failed;
}

static bool run_all(OracleReport *r, Backend *be, Error *err) {
    const char *format;
    const Json *cases = json_get(r->root, "cases"), *blocks = json_get(r->root, "blocks");
    if (!json_need_str(r->root, "format", &format, NULL, err)) return false;
    if (strcmp(format, FORMAT_NAME))
        return error_set(err, ERR_FORMAT, "unknown format '%s', expected '%s'", format, FORMAT_NAME);
    if (!cases || json_kind(cases) != JSON_ARR || json_len(cases) == 0)
        return error_set(err, ERR_FORMAT, "expected cases in an array at 'cases'");
    if (blocks && json_kind(blocks) != JSON_OBJ) return error_set(err, ERR_FORMAT, "expected an object at 'blocks'");
    r->at = mem_alloc((size_t)json_len(cases) * sizeof *r->at);
    for (; r->n < json_len(cases); r->n++) {
        OracleCase *c = &r->at[r->n];
        const Json *j = json_at(cases, r->n);
        if (!json_need_str(j, "id", &c->id, NULL, err)) return error_wrap(err, "case %d", r->n);
        if (!run_case(c, j, blocks, be, err)) return error_wrap(err, "case '%s'", c->id);
        r->n_failed += !c->ok;
    }
    return true;
}

bool oracle_run(OracleReport *out, const char *path, Backend *be, Error *err) {
    *out = (OracleReport){0};
    if (!json_read_file(&out->root, path, JSON_INT_AS_REAL, err)) return false;
    if (run_all(out, be, err)) return true;
    oracle_release(out);
    return error_wrap(err, "%s", path);
}

void oracle_release(OracleReport *r) {
    free(r->at);
    json_release(r->root);
    *r = (OracleReport){0};
}
