/* Documents of a task and the texts that its templates make of them. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/pytext.h"
#include "eval/task_int.h"

bool doc_error(const Doc *d, Error *err, const char *fmt, ...) {
    char text[800];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return error_set(err, ERR_FORMAT, "%s:%d: %s", d->file, d->line, text);
}

/* -- reading --------------------------------------------------------------------------------------------------------
 */

static bool has_columns(const Doc *d, const TaskConfig *c, Error *err) {
    if (json_kind(d->row) != JSON_OBJ) return doc_error(d, err, "expected an object with the columns of '%s'", c->name);
    for (int i = 0; i < c->columns.n; i++) {
        const Json *v = json_get(d->row, c->columns.item[i]);
        if (v && json_kind(v) != JSON_NIL) continue;
        return doc_error(d, err, "%s column '%s', which task '%s' reads", v ? "null in" : "no", c->columns.item[i],
                         c->name);
    }
    return true;
}

static void add_doc(Docs *d, Json *own, const Doc *doc) {
    if (d->n == d->cap) {
        d->cap = d->cap ? 2 * d->cap : 256;
        d->doc = mem_grow(d->doc, (size_t)d->cap * sizeof *d->doc);
    }
    if (own && d->n_own == d->cap_own) {
        d->cap_own = d->cap_own ? 2 * d->cap_own : 256;
        d->own = mem_grow(d->own, (size_t)d->cap_own * sizeof *d->own);
    }
    if (own) d->own[d->n_own++] = own;
    d->doc[d->n++] = *doc;
}

static bool read_file(Docs *d, const TaskConfig *c, const char *path, Error *err) {
    Source *s = NULL;
    SourceRow r;
    if (!source_open(&s, path, false, NULL, err)) return false;
    d->source = mem_grow(d->source, (size_t)(d->n_source + 1) * sizeof(Source *));
    d->source[d->n_source++] = s;
    for (;;) {
        Json *own = NULL;
        if (!source_next(s, &r, err)) return false;
        if (!r.text && !r.value) return true;
        if (r.text && !json_parse(&own, r.text, r.n, 0, path, r.line, err)) return false;
        add_doc(d, own, &(Doc){.row = own ? own : r.value, .file = path, .line = r.line});
        if (!has_columns(&d->doc[d->n - 1], c, err)) return false;
    }
}

bool docs_read(Docs *d, const TaskConfig *c, const CfgList *files, const char *folder, Hasher *hash, Error *err) {
    for (int i = 0; i < files->n; i++) {
        Str path = {0};
        const char *name = files->item[i];
        if (name[0] != '/' && folder[0]) str_printf(&path, "%s/", folder);
        str_put(&path, name);
        const char *file = heap_strn(&d->heap, path.s, path.n); /* documents name it in errors */
        str_release(&path);
        Hash h;
        if (!io_exists(file))
            return error_set(err, ERR_IO,
                             "%s: no such file; task '%s' reads its documents there (--data says in which folder)",
                             file, c->name);
        if (!hash_file(&h, file, err)) return false;
        hasher_add(hash, &h, sizeof h);
        if (!read_file(d, c, file, err)) return false;
    }
    return d->n > 0 || error_set(err, ERR_FORMAT, "task '%s': no documents in %s%s", c->name, files->item[0],
                                 files->n > 1 ? " and the other files" : "");
}

void docs_release(Docs *d) {
    for (int i = 0; i < d->n_own; i++) json_release(d->own[i]);
    for (int i = 0; i < d->n_source; i++) source_close(d->source[i]);
    free(d->doc);
    free(d->own);
    free(d->source);
    heap_release(&d->heap);
    *d = (Docs){0};
}

/* -- templates ------------------------------------------------------------------------------------------------------
 */

static const char *const key_name[TEXT_KINDS] = {"description", "prompt", "choices", "answer",
                                                 "target",      "labels", "count"};

/* The language drops one newline at a template's end; here it belongs to the text. */
static bool compile(JinjaTemplate **out, const char *text, const char *file, const char *key, Error *err) {
    if (!text[0]) return true;
    Str source = {0};
    JinjaError e = {0};
    str_printf(&source, "%s{{''}}", text);
    bool ok = jinja_parse(out, source.s, source.n, &e);
    if (!ok)
        error_set(err, ERR_CONFIG, "%s: %s: %s in line %d of the template", file, key, str_get(&e.message), e.line);
    jinja_error_release(&e);
    str_release(&source);
    return ok;
}

bool texts_open(Texts *t, const TaskConfig *c, const char *file, Heap *heap, Error *err) {
    const char *const text[TEXT_KINDS] = {c->description, c->prompt, c->choices, c->answer,
                                          c->target,      c->labels, c->count};
    *t = (Texts){.cfg = c, .heap = heap};
    for (int k = 0; k < TEXT_KINDS; k++)
        if (!compile(&t->of[k], text[k], file, key_name[k], err)) return false;
    return json_parse(&t->no_messages, "[]", 2, 0, "messages", 1, err);
}

void texts_close(Texts *t) {
    for (int k = 0; k < TEXT_KINDS; k++) jinja_close(t->of[k]);
    if (t->no_messages) json_release(t->no_messages);
    jinja_out_release(&t->out);
}

/* Into t->out. */
static bool render(Texts *t, TextKind kind, const Doc *d, Error *err) {
    int n = json_len(d->row);
    JinjaVar *var = mem_alloc((size_t)(n + 1) * sizeof *var);
    for (int i = 0; i < n; i++) var[i].name = json_key_at(d->row, i, &var[i].value);
    JinjaError e = {0};
    JinjaChat chat = {.messages = t->no_messages, .var = var, .n_var = n};
    bool ok = jinja_render(t->of[kind], &chat, &t->out, &e);
    if (!ok) doc_error(d, err, "task '%s', %s: %s", t->cfg->name, key_name[kind], str_get(&e.message));
    jinja_error_release(&e);
    free(var);
    return ok;
}

static const char *cleaned(Texts *t, TextKind kind, const char *s, size_t n) {
    if (t->cfg->clean == CLEAN_NONE || (kind != TEXT_PROMPT && kind != TEXT_CHOICES)) return heap_strn(t->heap, s, n);
    Str out = {0};
    py_clean_wikihow(&out, s, n);
    const char *copy = heap_strn(t->heap, str_get(&out), out.n);
    str_release(&out);
    return copy;
}

const char *texts_make(Texts *t, TextKind kind, const Doc *d, Error *err) {
    if (!t->of[kind]) return "";
    if (!render(t, kind, d, err)) return NULL;
    return cleaned(t, kind, str_get(&t->out.text), t->out.text.n);
}

/* A template that writes a list as JSON. */
static Json *list_of(Texts *t, TextKind kind, const Doc *d, Error *err) {
    Json *j = NULL;
    Error why = {0};
    if (!render(t, kind, d, err)) return NULL;
    bool ok = json_parse(&j, str_get(&t->out.text), t->out.text.n, 0, key_name[kind], 1, &why);
    if (ok && json_kind(j) == JSON_ARR) return j;
    if (ok) json_release(j);
    doc_error(d, err, "task '%s', %s: expected a list, such as {{choices|tojson}} writes, found '%.60s'", t->cfg->name,
              key_name[kind], str_get(&t->out.text));
    return NULL;
}

const char **texts_choices(Texts *t, const Doc *d, int *n, Error *err) {
    Json *j = list_of(t, TEXT_CHOICES, d, err);
    if (!j) return NULL;
    const char **choice = heap_alloc(t->heap, (size_t)(json_len(j) + 1) * sizeof *choice);
    bool ok = true;
    *n = json_len(j);
    if (*n < 1) ok = doc_error(d, err, "task '%s': no choices", t->cfg->name);
    for (int i = 0; i < *n && ok; i++) {
        size_t len;
        const char *s = json_str(json_at(j, i), &len);
        ok = s || doc_error(d, err, "task '%s': choice %d is no string", t->cfg->name, i + 1);
        if (ok) choice[i] = cleaned(t, TEXT_CHOICES, s, len);
    }
    json_release(j);
    return ok ? choice : NULL;
}

bool texts_answer(Texts *t, const Doc *d, const char *const *choice, int n, int *answer, Error *err) {
    if (!render(t, TEXT_ANSWER, d, err)) return false;
    const char *s = str_get(&t->out.text);
    size_t digits = strspn(s, "0123456789");
    *answer = -1;
    if (digits > 0 && digits < 9 && !s[digits]) {
        *answer = atoi(s);
    } else {
        for (int i = 0; i < n && *answer < 0; i++)
            if (!strcmp(choice[i], s)) *answer = i;
    }
    return (*answer >= 0 && *answer < n) ||
           doc_error(d, err, "task '%s': the answer is '%.60s', expected 0..%d or the text of a choice", t->cfg->name,
                     s, n - 1);
}

bool texts_labels(Texts *t, const Doc *d, int n, bool *label, Error *err) {
    Json *j = list_of(t, TEXT_LABELS, d, err);
    if (!j) return false;
    bool ok = json_len(j) == n || doc_error(d, err, "task '%s': %d labels of %d choices", t->cfg->name, json_len(j), n);
    for (int i = 0; i < n && ok; i++) {
        int64_t v = json_int(json_at(j, i), -1);
        ok = v == 0 || v == 1 || doc_error(d, err, "task '%s': label %d is not 0 or 1", t->cfg->name, i + 1);
        label[i] = v == 1;
    }
    json_release(j);
    return ok;
}
