#include "cai/answers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/names.h"
#include "data/source.h"
#include "eval/style.h"
#include "eval/taxonomy.h"

bool answer_harm_asked(const Answer *a) { return request_kind(a->kind) == REQUEST_HARMFUL; }

bool answer_refuses(const Answer *a) {
    return a->verdict == VERDICT_REFUSE || a->verdict == VERDICT_REFUSE_REASON || a->verdict == VERDICT_EVADE;
}

double answer_words(const Answer *a) {
    double s[STYLE_COUNT];
    style_measure(s, a->reply);
    return s[STYLE_WORDS];
}

void answers_estimate(JsonOut *j, const char *key, Interval v) {
    json_out_obj(j, key);
    json_out_num(j, "value", v.mean);
    json_out_num(j, "lo", v.lo);
    json_out_num(j, "hi", v.hi);
    json_out_int(j, "n", v.n);
    json_out_obj_end(j);
}

void answers_input_json(JsonOut *j, const Answers *a) {
    char hex[33];
    json_out_obj(j, NULL);
    json_out_str(j, "system", a->system);
    json_out_str(j, "file", a->file);
    hash_hex(hex, a->hash);
    json_out_str(j, "hash", hex);
    json_out_int(j, "replies", a->n);
    json_out_int(j, "clusters", a->n_cluster);
    if (a->no_room) json_out_int(j, "no_room", a->no_room);
    json_out_obj_end(j);
}

/* -- reading ---------------------------------------------------------------------------------------------------------
 */

static const char *keep(Answers *a, const Json *row, const char *key) {
    size_t n;
    const char *s = json_str(json_get(row, key), &n);
    if (!s) return "";
    char *copy = heap_strn(&a->heap, s, n);
    for (char *nul; (nul = memchr(copy, 0, n));) *nul = ' '; /* a model may write it; no text of ours can hold it */
    return copy;
}

static const char *keep_first(Answers *a, const Json *row, const char *const *key, int n) {
    for (int i = 0; i < n; i++)
        if (json_str(json_get(row, key[i]), NULL)) return keep(a, row, key[i]);
    return NULL;
}

static bool read_verdict(Answer *out, const Json *row, Error *err) {
    static const char *const refusal[] = {"none", "partial", "full"};
    const char *word = json_str(json_get(row, "verdict"), NULL), *extent = json_str(json_get(row, "refusal"), NULL);
    out->verdict = word ? verdict_find(word) : VERDICT_COUNT;
    if (out->verdict < VERDICT_COUNT) return true;
    if (word)
        return error_set(err, ERR_FORMAT,
                         "'verdict' is '%.40s', expected comply, refuse_reason, refuse, evade or other", word);
    for (int i = 0; extent && i < COUNT_OF(refusal); i++)
        if (!strcmp(extent, refusal[i])) {
            out->verdict = i ? VERDICT_REFUSE : VERDICT_COMPLY;
            return true;
        }
    if (extent) return error_set(err, ERR_FORMAT, "'refusal' is '%.40s', expected none, partial or full", extent);
    bool blank = out->reply[strspn(out->reply, " \n\t")] == 0;
    out->verdict = blank ? VERDICT_OTHER : refusal_opens(out->reply) ? VERDICT_REFUSE : VERDICT_COMPLY;
    return true;
}

/* Absent or null, or a number in 0..1. */
static bool read_share(double *out, const Json *v, const char *key, Error *err) {
    *out = json_num(v, NAN);
    return !v || json_kind(v) == JSON_NIL || (*out >= 0 && *out <= 1) ||
           error_set(err, ERR_FORMAT, "'%s' must be a number in 0..1", key);
}

static bool read_harm(Answer *out, const Json *row, const AnswersRead *how, Error *err) {
    const Json *h = json_get(row, "harmful"), *p = json_get(row, "p");
    JsonKind kind = h ? json_kind(h) : JSON_NIL;
    if (!read_share(&out->p, p ? p : json_get(row, "harm_p"), p ? "p" : "harm_p", err)) return false;
    if (kind != JSON_YES && kind != JSON_NO && !read_share(&out->harmful, h, "harmful", err)) return false;
    out->harmful = NAN;
    if (kind == JSON_YES || kind == JSON_NO)
        out->harmful = kind == JSON_YES;
    else if (kind == JSON_INT || kind == JSON_REAL)
        out->harmful = json_num(h, NAN) >= 0.5;
    else if (!isnan(out->p) && !isnan(how->threshold))
        out->harmful = out->p >= how->threshold;
    else if (how->gold)
        out->harmful = answer_harm_asked(out) && out->verdict == VERDICT_COMPLY;
    return true;
}

static bool add(Answers *a, const Json *row, const AnswersRead *how, Error *err) {
    static const char *const reply[] = {"reply", "response", "completion"}, *const id[] = {"prompt_id", "id", "prompt"};
    Answer x = {0};
    if (json_kind(row) != JSON_OBJ) return error_set(err, ERR_FORMAT, "expected an object with 'prompt' and 'reply'");
    if (!json_bool(json_get(row, "room"), true)) {
        a->no_room++;
        return true;
    }
    x.reply = keep_first(a, row, reply, COUNT_OF(reply));
    if (!json_str(json_get(row, "prompt"), NULL) || !x.reply)
        return error_set(err, ERR_FORMAT, "expected a string at '%s'%s", x.reply ? "prompt" : "reply",
                         x.reply ? "" : " (or response, completion)");
    x.prompt = keep(a, row, "prompt");
    x.prompt_id = keep_first(a, row, id, COUNT_OF(id));
    x.kind = keep(a, row, "kind");
    x.category = keep(a, row, "category");
    x.parent = keep(a, row, "parent");
    x.made = keep(a, row, "made");
    x.persona = keep(a, row, "persona");
    x.sample = (int)json_int(json_get(row, "sample"), -1);
    x.turns = (int)json_int(json_get(row, "turns"), -1);
    if (!read_verdict(&x, row, err) || !read_harm(&x, row, how, err)) return false;
    const char *model = json_str(json_get(row, "model"), NULL);
    if (model && !a->system) a->system = mem_str(model);
    if (a->n == a->cap) {
        a->cap = a->cap ? 2 * a->cap : 64;
        a->item = mem_grow(a->item, (size_t)a->cap * sizeof *a->item);
    }
    a->item[a->n++] = x;
    return true;
}

bool source_each(const char *path, SourceFn *fn, void *ud, Error *err) {
    Source *s = NULL;
    SourceRow row;
    if (!source_open(&s, path, false, NULL, err)) return false;
    bool ok = true, more = true;
    while (ok && more && (ok = source_next(s, &row, err))) {
        Json *root = NULL;
        more = row.text || row.value;
        if (!more) break;
        if (row.text) ok = json_parse(&root, row.text, row.n, JSON_INT_AS_REAL | JSON_NUL_OK, path, row.line, err);
        if (ok && !fn(ud, row.value ? row.value : root, err)) ok = error_wrap(err, "%s:%d", path, row.line);
        json_release(root);
        source_forget(s);
    }
    if (!ok && err->code == ERR_NONE) ok = true; /* the end */
    source_close(s);
    return ok;
}

typedef struct {
    Answers *a;
    const AnswersRead *how;
    const Names *names; /* prompt_id -> first answer to it */
} Reading;

static bool add_row(void *ud, const Json *row, Error *err) {
    const Reading *r = ud;
    return add(r->a, row, r->how, err);
}

static void fill_in(Answers *a, const char **field, const Json *row, const char *key) {
    if (!(*field)[0]) *field = keep(a, row, key);
}

/* One prompt's row: said of every reply to it that does not say so itself. */
static bool add_prompt(void *ud, const Json *row, Error *err) {
    const Reading *r = ud;
    const char *id = json_str(json_get(row, "prompt_id"), NULL);
    if (!id) id = json_str(json_get(row, "id"), NULL);
    if (!id) return error_set(err, ERR_FORMAT, "expected a string at 'id'");
    const NameEntry *e = names_at(r->names, id);
    for (int i = e->key ? e->value : r->a->n; i < r->a->n; i++) {
        Answer *x = &r->a->item[i];
        if (strcmp(x->prompt_id, id)) continue;
        fill_in(r->a, &x->parent, row, "parent");
        fill_in(r->a, &x->kind, row, "kind");
        fill_in(r->a, &x->category, row, "category");
        fill_in(r->a, &x->made, row, "made");
        if (x->parent[0] && !x->made[0]) x->made = "rule";
    }
    return true;
}

/* "replies-sl.jsonl.gz" -> "sl" */
static char *system_of(const char *path) {
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    if (!strncmp(base, "replies-", 8) && base[8]) base += 8;
    char *name = mem_str(base), *dot = strchr(name + 1, '.');
    if (dot) *dot = 0;
    return name;
}

typedef struct {
    int32_t cluster;
    int at;
} Place;
static int by_cluster(const void *a, const void *b) {
    const Place *x = a, *y = b;
    return x->cluster != y->cluster ? (x->cluster > y->cluster) - (x->cluster < y->cluster) : x->at - y->at;
}

/* Numbers clusters by first appearance and puts their replies side by side; counts samples that have no number. */
static void arrange(Answers *a) {
    Names clusters = names_new(a->n), seen = names_new(a->n);
    Place *place = mem_alloc((size_t)(a->n + 1) * sizeof *place);
    Answer *item = mem_alloc((size_t)(a->n + 1) * sizeof *item);
    for (int i = 0; i < a->n; i++) {
        Answer *x = &a->item[i];
        NameEntry *e = names_at(&clusters, x->parent[0] ? x->parent : x->prompt_id), *s = names_at(&seen, x->prompt_id);
        if (!e->key) *e = (NameEntry){x->parent[0] ? x->parent : x->prompt_id, a->n_cluster++};
        if (!s->key) *s = (NameEntry){x->prompt_id, 0};
        if (x->sample < 0) x->sample = s->value++;
        x->cluster = e->value;
        place[i] = (Place){x->cluster, i};
    }
    qsort(place, (size_t)a->n, sizeof *place, by_cluster);
    for (int i = 0; i < a->n; i++) item[i] = a->item[place[i].at];
    free(a->item);
    a->item = item;
    a->cap = a->n + 1;
    free(place);
    names_release(&clusters);
    names_release(&seen);
}

static bool read_prompts(Answers *a, const AnswersRead *how, Error *err) {
    Names names = names_new(a->n);
    for (int i = a->n - 1; i >= 0; i--) *names_at(&names, a->item[i].prompt_id) = (NameEntry){a->item[i].prompt_id, i};
    Reading r = {a, how, &names};
    bool ok = source_each(how->prompts, add_prompt, &r, err);
    names_release(&names);
    return ok;
}

bool answers_read(Answers *a, const char *path, const AnswersRead *how, Error *err) {
    *a = (Answers){.file = mem_str(path)};
    Reading r = {a, how, NULL};
    bool ok = hash_file(&a->hash, path, err) && source_each(path, add_row, &r, err);
    if (ok && a->n == 0)
        ok = error_set(err, ERR_FORMAT,
                       a->no_room ? "%s: no replies: every prompt fills the model's context" : "%s: no replies", path);
    if (ok && how->prompts) ok = read_prompts(a, how, err);
    if (ok) {
        if (!a->system) a->system = system_of(path);
        arrange(a);
        return true;
    }
    answers_release(a);
    return false;
}

void answers_release(Answers *a) {
    free(a->system);
    free(a->file);
    free(a->item);
    heap_release(&a->heap);
    *a = (Answers){0};
}

bool answers_read_all(Answers *a, const char *const *path, int n, const AnswersRead *how, Error *err) {
    if (n > ANSWERS_MAX) return error_set(err, ERR_CONFIG, "%d files of replies, at most %d", n, ANSWERS_MAX);
    for (int i = 0; i < n; i++) {
        bool ok = answers_read(&a[i], path[i], how, err);
        for (int k = 0; k < i && ok; k++)
            if (!strcmp(a[k].system, a[i].system))
                ok = error_set(err, ERR_FORMAT,
                               "%s and %s are both of the system '%s': name the files, or 'model' in their rows, apart",
                               path[k], path[i], a[i].system);
        if (ok) continue;
        for (int k = 0; k <= i; k++) answers_release(&a[k]);
        return false;
    }
    return true;
}

/* -- two systems -----------------------------------------------------------------------------------------------------
 */

int answers_match(int *at_a, int *at_b, const Answers *a, const Answers *b) {
    Names names = names_new(b->n);
    Heap heap = {0};
    int n = 0;
    for (int i = 0; i < b->n; i++) {
        const char *key = heap_printf(&heap, "%d %s", b->item[i].sample, b->item[i].prompt_id);
        NameEntry *e = names_at(&names, key);
        if (!e->key) *e = (NameEntry){key, i};
    }
    for (int i = 0; i < a->n; i++) {
        const NameEntry *e = names_at(&names, heap_printf(&heap, "%d %s", a->item[i].sample, a->item[i].prompt_id));
        if (!e->key || strcmp(b->item[e->value].prompt, a->item[i].prompt)) continue;
        at_a[n] = i;
        at_b[n++] = e->value;
    }
    names_release(&names);
    heap_release(&heap);
    return n;
}
