/* The rows of a suite's files: prompts, and for systems that answered elsewhere their replies. */
#include "app/harm_int.h"

#include <math.h>
#include <string.h>

#include "data/source.h"
#include "eval/taxonomy.h"

void harm_room(Harm *h) {
    if (h->rows.n < h->cap) return;
    int was = h->cap;
    h->cap = h->rows.n * 2 + 64;
    h->item = mem_grow(h->item, (size_t)h->cap * sizeof *h->item);
    h->reply = mem_grow(h->reply, (size_t)h->cap * sizeof *h->reply);
    h->has_reply = mem_grow(h->has_reply, (size_t)h->cap * sizeof *h->has_reply);
    h->given = mem_grow(h->given, (size_t)h->cap * sizeof *h->given);
    for (int i = was; i < h->cap; i++) h->reply[i] = NULL;
}

static const Json *reply_of(const Json *row) {
    static const char *const name[] = {"reply", "response", "completion"};
    for (int i = 0; i < COUNT_OF(name); i++)
        if (json_get(row, name[i])) return json_get(row, name[i]);
    return NULL;
}

/* A model may write the character NUL, which no text of ours holds: what stands behind it counts too. */
static char *reply_text(const Json *reply) {
    Str text = {0};
    size_t n = 0;
    const char *s = reply ? json_str(reply, &n) : "";
    str_putn(&text, s, n);
    for (char *nul; n > 0 && (nul = memchr(text.s, 0, n));) *nul = ' ';
    return str_detach(&text);
}

/* "kind" of a row: harmful when absent. */
static bool kind_of(bool *benign, const Json *row, bool all_benign, Error *err) {
    const Json *word = json_get(row, "kind");
    const char *s = json_str(word, NULL);
    *benign = all_benign;
    if (!word || json_kind(word) == JSON_NIL || all_benign) return true;
    if (!s) return error_set(err, ERR_FORMAT, "'kind' must be a string, harmful or benign");
    RequestKind kind = request_kind(s);
    *benign = kind == REQUEST_BENIGN;
    return kind != REQUEST_OTHER || error_set(err, ERR_FORMAT, "'kind' is '%.40s', expected harmful or benign", s);
}

static bool number_of(double *out, const Json *row, const char *key, Error *err) {
    const Json *v = json_get(row, key);
    *out = NAN;
    if (!v || json_kind(v) == JSON_NIL) return true;
    if (json_kind(v) == JSON_YES || json_kind(v) == JSON_NO)
        *out = json_kind(v) == JSON_YES;
    else
        *out = json_num(v, NAN);
    return (*out >= 0 && *out <= 1) || error_set(err, ERR_FORMAT, "'%s' must be a number in 0..1", key);
}

static bool read_row(Harm *h, const Json *row, const char *file, int line, bool all_benign, Error *err) {
    int at = h->rows.n;
    double gold, p;
    bool benign;
    if (!rows_parse_value(&h->rows, row, ROW_PROMPT, NULL, file, line, err)) return false;
    if (h->rows.n == at) return true; /* nothing is asked: counted in rows.n_skip */
    if (h->rows.n > at + 1)
        return error_set(err, ERR_FORMAT, "%s:%d: a template with slots is no prompt of a suite", file, line);
    harm_room(h);
    const Json *reply = reply_of(row);
    const char *by = json_str(json_get(row, "model"), NULL);
    if (by && !h->name.n) str_put(&h->name, by);
    if (!kind_of(&benign, row, all_benign, err) || !number_of(&gold, row, "harmful", err) ||
        !number_of(&p, row, "p", err))
        return error_wrap(err, "%s:%d", file, line);
    if (reply && json_kind(reply) != JSON_STR)
        return error_set(err, ERR_FORMAT, "%s:%d: the reply must be a string", file, line);
    h->has_reply[at] = reply != NULL;
    h->reply[at] = reply_text(reply);
    h->given[at] = p;
    h->item[at] =
        (HarmItem){.benign = benign, .gold = isnan(gold) ? -1 : gold >= 0.5, .p = NAN, .second = NAN, .judge = NAN};
    return true;
}

static bool read_file(Harm *h, const char *file, bool benign, Error *err) {
    Source *in = NULL;
    SourceRow row;
    int before = h->rows.n, skipped = h->rows.n_skip;
    Suite *s = &h->suite[h->n_suite++];
    *s = (Suite){.name = file};
    err->code = ERR_NONE;
    if (!hash_file(&s->hash, file, err) || !source_open(&in, file, false, NULL, err)) return false;
    bool ok = true;
    while (ok && (ok = source_next(in, &row, err)) && (row.text || row.value)) {
        Json *parsed = NULL;
        ok = row.value || json_parse(&parsed, row.text, row.n, JSON_NUL_OK, file, row.line, err);
        ok = ok && read_row(h, row.value ? row.value : parsed, file, row.line, benign, err);
        json_release(parsed);
        source_forget(in);
    }
    source_close(in);
    s->prompts = h->rows.n - before;
    if (ok && h->rows.n_skip > skipped)
        log_warn(h->job->a->log, "%s: %d rows left out (%s)", file, h->rows.n_skip - skipped, h->rows.skip[0].reason);
    return ok && (s->prompts > 0 || error_set(err, ERR_FORMAT, "%s: no prompts", file));
}

static bool read_benign(Harm *h, const char *list, Error *err) {
    for (const char *s = list; s && *s;) {
        size_t n = strcspn(s, ",");
        char *file = heap_strn(&h->rows.heap, s, n);
        if (n && !read_file(h, file, true, err)) return false;
        s += n + (s[n] != 0);
    }
    return true;
}

bool harm_read(Harm *h, Error *err) {
    const HarmJob *job = h->job;
    const char *benign = args_flag(job->a, job->c, "--benign");
    int n = job->n_file + 1;
    for (const char *s = benign; s && *s; s++) n += *s == ',';
    h->suite = mem_alloc((size_t)(n + 1) * sizeof *h->suite);
    for (int i = 0; i < job->n_file; i++)
        if (!read_file(h, job->file[i], false, err)) return false;
    if (!read_benign(h, benign, err)) return false;
    int with = 0;
    for (int i = 0; i < h->rows.n; i++) with += h->has_reply[i];
    if (h->m && with)
        return error_set(err, ERR_CONFIG, "%d of %d rows bring replies: leave the model out, or take prompts alone",
                         with, h->rows.n);
    if (!h->m && with < h->rows.n)
        return error_set(err, ERR_CONFIG,
                         "%d of %d rows have no reply ('reply' or 'response'): name the model that answers (--model)",
                         h->rows.n - with, h->rows.n);
    for (int i = 0; i < h->rows.n; i++) {
        HarmItem *x = &h->item[i];
        x->id = h->rows.row[i].id;
        x->category = h->rows.row[i].category;
        x->prompt = dialogue_last_user(h->rows.row[i].prompt);
    }
    return true;
}
