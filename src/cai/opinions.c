#include "cai/opinions.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/io.h"
#include "cai/names.h"
#include "data/csv.h"
#include "eval/agree.h"
#include "eval/detect.h"

/* -- items -----------------------------------------------------------------------------------------------------------
 */

static void name_item(Item *it, const Items *t) {
    const Answer *a = &t->set[it->a].item[it->at_a];
    Str key = {0};
    str_printf(&key, "%llu\n%s\n%s\n%s\n%d", (unsigned long long)t->seed, t->set[it->a].system,
               it->b < 0 ? "" : t->set[it->b].system, a->prompt_id, a->sample);
    uint64_t h = hash_bytes(key.s, key.n).lo;
    snprintf(it->id, sizeof it->id, "%016llx", (unsigned long long)h);
    it->swapped = it->b >= 0 && rng_u32((Rng){t->seed, RNG_SIDE}, h, 0) & 1;
    it->cluster = a->cluster;
    str_release(&key);
}

static Item *add(Items *t, int a, int at_a, int b, int at_b) {
    Item *it = &t->item[t->n++];
    *it = (Item){.a = a, .at_a = at_a, .b = b, .at_b = at_b};
    name_item(it, t);
    return it;
}

void items_rate(Items *t, const Answers *set, int n, uint64_t seed, bool all) {
    int64_t size = 1;
    for (int s = 0; s < n; s++) size += set[s].n;
    *t = (Items){.set = set, .n_set = n, .item = mem_alloc((size_t)size * sizeof(Item)), .seed = seed};
    for (int s = 0; s < n; s++)
        for (int i = 0; i < set[s].n; i++) {
            if (!all && answer_harm_asked(&set[s].item[i]))
                t->harmful++;
            else
                add(t, s, i, -1, -1);
        }
}

static int by_prompt(const void *x, const void *y) {
    const Item *a = x, *b = y;
    if (a->cluster != b->cluster) return (a->cluster > b->cluster) - (a->cluster < b->cluster);
    if (a->a != b->a) return a->a - b->a;
    if (a->at_a != b->at_a) return a->at_a - b->at_a;
    return a->b - b->b;
}

static const char *cluster_name(const Answer *x) { return x->parent[0] ? x->parent : x->prompt_id; }

/* Games of one prompt must be one run whichever systems play, so clusters are numbered across systems: by the first
 * system that has the prompt. */
static void common_clusters(Items *t) {
    const Answers *first = &t->set[0];
    int next = first->n_cluster;
    Names number = names_new(first->n + t->n);
    for (int k = 0; k < first->n; k++) {
        const char *name = cluster_name(&first->item[k]);
        NameEntry *e = names_at(&number, name);
        if (!e->key) *e = (NameEntry){name, first->item[k].cluster};
    }
    for (int i = 0; i < t->n; i++) {
        const Answer *x = &t->set[t->item[i].a].item[t->item[i].at_a];
        if (t->item[i].a == 0) continue; /* has the first system's number */
        NameEntry *e = names_at(&number, cluster_name(x));
        if (!e->key) *e = (NameEntry){cluster_name(x), next++};
        t->item[i].cluster = e->value;
    }
    names_release(&number);
    qsort(t->item, (size_t)t->n, sizeof *t->item, by_prompt);
}

bool items_pair(Items *t, const Answers *set, int n, uint64_t seed, bool all, Error *err) {
    int64_t size = 1;
    if (n < 2) return error_set(err, ERR_CONFIG, "a ranking needs replies of at least two systems, found %d", n);
    for (int s = 0; s < n; s++) size += (int64_t)set[s].n * (n - 1 - s);
    *t = (Items){.set = set, .n_set = n, .item = mem_alloc((size_t)size * sizeof(Item)), .seed = seed, .pairs = true};
    bool ok = true;
    for (int a = 0; a < n && ok; a++)
        for (int b = a + 1; b < n && ok; b++) {
            size_t room = (size_t)(set[a].n + 1);
            int *ia = mem_alloc(room * sizeof *ia), *ib = mem_alloc(room * sizeof *ib);
            int m = answers_match(ia, ib, &set[a], &set[b]);
            for (int i = 0; i < m; i++) {
                if (!all && answer_harm_asked(&set[a].item[ia[i]]))
                    t->harmful++;
                else
                    add(t, a, ia[i], b, ib[i]);
            }
            free(ia);
            free(ib);
            ok = m > 0 ||
                 error_set(err, ERR_FORMAT,
                           "%s and %s hold no replies to the same prompts: expected equal prompt_id (or id) and prompt",
                           set[a].file, set[b].file);
        }
    if (ok) common_clusters(t);
    if (!ok) items_release(t);
    return ok;
}

void items_release(Items *t) {
    free(t->item);
    *t = (Items){0};
}

/* -- sheets ----------------------------------------------------------------------------------------------------------
 */

static bool is_jsonl(const char *path) {
    size_t n = strlen(path);
    return n > 6 && !strcmp(path + n - 6, ".jsonl");
}

/* Packed or not. */
static bool is_csv(const char *path) {
    const char *base = strrchr(path, '/');
    return strstr(base ? base : path, ".csv") || strstr(base ? base : path, ".tsv");
}

static void put_cell(Str *out, const char *s, bool last) {
    str_putc(out, '"');
    if (s[0] && strchr("=+-@\t\r", s[0])) str_putc(out, '\'');
    for (; *s; s++) {
        if (*s == '"') str_putc(out, '"');
        str_putc(out, *s);
    }
    str_put(out, last ? "\"\r\n" : "\",");
}

static void put_line(Str *out, const Items *t, const Item *it, bool json) {
    const Answer *a = &t->set[it->a].item[it->at_a], *b = it->b < 0 ? NULL : &t->set[it->b].item[it->at_b];
    const char *first = b && it->swapped ? b->reply : a->reply, *second = !b ? "" : it->swapped ? a->reply : b->reply;
    if (!json) {
        put_cell(out, it->id, false);
        put_cell(out, a->prompt, false);
        put_cell(out, first, false);
        if (b) put_cell(out, second, false);
        str_put(out, "\r\n");
        return;
    }
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "item", it->id);
    json_out_str(&j, "prompt", a->prompt);
    json_out_str(&j, b ? "reply_1" : "reply", first);
    if (b) json_out_str(&j, "reply_2", second);
    json_out_str(&j, b ? "choice" : "rating", NULL);
    json_out_obj_end(&j);
    str_putc(out, '\n');
}

bool sheet_write(const Items *t, const char *path, Error *err) {
    int64_t *order = mem_alloc((size_t)(t->n + 1) * sizeof *order);
    bool json = is_jsonl(path);
    Str text = {0};
    rng_shuffle((Rng){t->seed, RNG_SHUFFLE}, 0, order, t->n);
    if (!json) str_put(&text, t->pairs ? "item,prompt,reply_1,reply_2,choice\r\n" : "item,prompt,reply,rating\r\n");
    for (int i = 0; i < t->n; i++) put_line(&text, t, &t->item[order[i]], json);
    bool ok = io_write_file(path, str_get(&text), text.n, err);
    str_release(&text);
    free(order);
    return ok;
}

/* -- raters ----------------------------------------------------------------------------------------------------------
 */

double *raters_add(Raters *r, const Items *t, const char *name, bool machine, Error *err) {
    for (int k = 0; k < r->n; k++)
        if (!strcmp(r->item[k].name, name)) return r->item[k].score;
    if (r->n == RATERS_MAX) {
        error_set(err, ERR_FORMAT, "more than %d raters", RATERS_MAX);
        return NULL;
    }
    Rater *x = &r->item[r->n++];
    *x = (Rater){mem_str(name), mem_alloc((size_t)(t->n + 1) * sizeof(double)), machine, t->n};
    for (int i = 0; i < t->n; i++) x->score[i] = NAN;
    return x->score;
}

void raters_release(Raters *r) {
    for (int k = 0; k < r->n; k++) {
        free(r->item[k].name);
        free(r->item[k].score);
    }
    *r = (Raters){0};
}

double raters_mean(const Raters *r, int item, bool people) {
    bool any_people = false;
    double sum = 0;
    int n = 0;
    for (int k = 0; k < r->n; k++) any_people = any_people || !r->item[k].machine;
    for (int k = 0; k < r->n; k++) {
        if (isnan(r->item[k].score[item]) || (people && any_people && r->item[k].machine)) continue;
        sum += r->item[k].score[item];
        n++;
    }
    return n ? sum / n : NAN;
}

typedef struct {
    Raters *raters;
    const Items *items;
    const char *file;
    char *name;         /* of whoever filled a sheet without the column */
    const Item **by_id; /* (items) sorted */
    int filled;
} Filled;

static int by_item(const void *x, const void *y) {
    return strcmp((*(const Item *const *)x)->id, (*(const Item *const *)y)->id);
}

static const Item *find_item(const Filled *f, const char *id) {
    Item key;
    const Item *want = &key;
    snprintf(key.id, sizeof key.id, "%.16s", id);
    const Item **at = bsearch(&want, f->by_id, (size_t)f->items->n, sizeof *f->by_id, by_item);
    return at && strlen(id) == 16 ? *at : NULL;
}

/* The text of a cell: a number, in which a comma may stand for the point where it separates no fields; NaN: empty. */
static bool read_number(double *out, const char *s, bool pairs, Error *err) {
    char text[32], *end;
    *out = NAN;
    s += strspn(s, " \t");
    snprintf(text, sizeof text, "%s", s);
    for (size_t n = strlen(text); n > 0 && strchr(" \t", text[n - 1]); n--) text[n - 1] = 0;
    if (!text[0]) return true;
    if (pairs && !strcasecmp(text, "tie")) return *out = 0, true;
    char *comma = strchr(text, ',');
    if (comma) *comma = '.';
    *out = strtod(text, &end);
    return (end > text && !*end) ||
           error_set(err, ERR_FORMAT, "'%s' is '%.30s', expected %s, or nothing", pairs ? "choice" : "rating", s,
                     pairs ? "1, 2 or 0 (tie)" : "a number from 1 to 5");
}

/* v NaN: this line is not filled in. */
static bool take_opinion(Filled *f, const char *id, const char *rater, bool machine, double v, Error *err) {
    const Item *it = find_item(f, id);
    if (!it)
        return error_set(
            err, ERR_FORMAT,
            "no item '%.20s' in these replies: the sheet was made from other replies, or with another --seed", id);
    if (isnan(v)) return true;
    bool ok = f->items->pairs ? v == 0 || v == 1 || v == 2 : v >= 1 && v <= 5;
    if (!ok)
        return error_set(err, ERR_FORMAT, "'%s' is %g, expected %s", f->items->pairs ? "choice" : "rating", v,
                         f->items->pairs ? "1, 2 or 0 (tie)" : "1 to 5");
    double *score = raters_add(f->raters, f->items, rater && rater[0] ? rater : f->name, machine, err);
    if (!score) return false;
    int at = (int)(it - f->items->item);
    if (!isnan(score[at])) return error_set(err, ERR_FORMAT, "item '%s' is rated twice by the same rater", id);
    score[at] = !f->items->pairs ? v : v == 0 ? 0.5 : (v == 1) != it->swapped;
    f->filled++;
    return true;
}

static bool read_opinion(void *ud, const Json *row, Error *err) {
    Filled *f = ud;
    bool pairs = f->items->pairs;
    const Json *cell = json_get(row, pairs ? "choice" : "rating");
    const char *id = json_str(json_get(row, "item"), NULL), *text = json_str(cell, NULL);
    double v = json_num(cell, NAN);
    if (!id) return error_set(err, ERR_FORMAT, "expected a string at 'item'");
    return (!text || read_number(&v, text, pairs, err)) &&
           take_opinion(f, id, json_str(json_get(row, "rater"), NULL), json_bool(json_get(row, "machine"), false), v,
                        err);
}

/* -- sheets as spreadsheets save them: fields between commas, semicolons or tabs */

/* The first separator outside quotes of the header. */
static char sniff(const char *s, size_t n) {
    bool quoted = false;
    for (size_t i = 0; i < n && (quoted || (s[i] != '\n' && s[i] != '\r')); i++) {
        if (s[i] == '"') quoted = !quoted;
        if (!quoted && (s[i] == ',' || s[i] == ';' || s[i] == '\t')) return s[i];
    }
    return ',';
}

/* Of a column whatever its case, -1: there is none. */
static int column_of(const Csv *c, const char *name) {
    for (int i = 0; i < c->n; i++) {
        const char *s = c->field[i].s + strspn(c->field[i].s, " \t");
        size_t n = strlen(name);
        if (!strncasecmp(s, name, n) && s[n + strspn(s + n, " \t")] == 0) return i;
    }
    return -1;
}

static bool no_column(const Csv *c, const char *path, const char *name, Error *err) {
    Str list = {0};
    for (int i = 0; i < c->n && i < 20; i++) str_printf(&list, "%s%.40s", i ? ", " : "", c->field[i].s);
    error_set(err, ERR_FORMAT, "%s:%d: no column '%s'; its columns are: %s", path, c->line, name, str_get(&list));
    str_release(&list);
    return false;
}

static bool read_records(Filled *f, Csv *c, const char *path, Error *err) {
    const char *column = f->items->pairs ? "choice" : "rating";
    err->code = ERR_NONE;
    if (!csv_next(c, err)) return false;
    int item = column_of(c, "item"), cell = column_of(c, column), rater = column_of(c, "rater"), n = c->n;
    if (n == 0) return true; /* an empty file: nothing is filled in */
    if (item < 0 || cell < 0) return no_column(c, path, item < 0 ? "item" : column, err);
    while (csv_next(c, err) && c->n > 0) {
        double v;
        const char *id = c->field[item < c->n ? item : 0].s;
        if (c->n != n)
            return error_set(err, ERR_FORMAT, "%s:%d: %d fields, expected %d as in the header", path, c->line, c->n, n);
        if (!read_number(&v, c->field[cell].s, f->items->pairs, err) ||
            !take_opinion(f, id, rater < 0 ? NULL : c->field[rater].s, false, v, err))
            return error_wrap(err, "%s:%d", path, c->line);
    }
    return err->code == ERR_NONE;
}

static bool read_sheet(Filled *f, const char *path, Error *err) {
    LineReader *in = NULL;
    const char *line = NULL;
    size_t n = 0;
    if (!lines_open(&in, path, CSV_BYTES, err)) return false;
    char separator = lines_next(in, &line, &n, err) ? sniff(line, n) : ',';
    lines_close(in);
    bool ok = lines_open(&in, path, CSV_BYTES, err);
    Csv c = {.in = in, .name = path, .separator = separator};
    ok = ok && read_records(f, &c, path, err);
    csv_release(&c);
    if (in) lines_close(in);
    return ok;
}

static char *stem_of(const char *path) {
    const char *base = strrchr(path, '/');
    char *name = mem_str(base ? base + 1 : path), *dot = strchr(name, '.');
    if (dot && dot > name) *dot = 0;
    return name;
}

bool raters_read(Raters *r, const Items *t, const char *path, Error *err) {
    Filled f = {r, t, path, stem_of(path), mem_alloc((size_t)(t->n + 1) * sizeof(Item *)), 0};
    for (int i = 0; i < t->n; i++) f.by_id[i] = &t->item[i];
    qsort(f.by_id, (size_t)t->n, sizeof *f.by_id, by_item);
    bool ok = is_csv(path) ? read_sheet(&f, path, err) : source_each(path, read_opinion, &f, err);
    if (ok && f.filled == 0)
        ok = error_set(err, ERR_FORMAT, "%s: nothing is filled in: expected numbers in the column '%s'", path,
                       t->pairs ? "choice" : "rating");
    free(f.name);
    free(f.by_id);
    return ok;
}

bool raters_write(const Raters *r, const Items *t, const char *path, Error *err) {
    Str text = {0};
    for (int k = 0; k < r->n; k++)
        for (int i = 0; i < t->n; i++) {
            double v = r->item[k].score[i];
            if (isnan(v)) continue;
            JsonOut j;
            json_out_init(&j, &text, 0);
            json_out_obj(&j, NULL);
            json_out_str(&j, "item", t->item[i].id);
            json_out_str(&j, "rater", r->item[k].name);
            json_out_bool(&j, "machine", r->item[k].machine);
            if (t->pairs)
                json_out_int(&j, "choice", v == 0.5 ? 0 : (v > 0.5) != t->item[i].swapped ? 1 : 2);
            else
                json_out_num(&j, "rating", v);
            json_out_obj_end(&j);
            str_putc(&text, '\n');
        }
    bool ok = io_write_file(path, str_get(&text), text.n, err);
    str_release(&text);
    return ok;
}

/* -- agreement -------------------------------------------------------------------------------------------------------
 */

static int class_of(double score, bool pairs) { return pairs ? (int)(2 * score) : (int)lround(score) - 1; }

static void put_agreement(JsonOut *j, const Rater *a, const Rater *b, bool pairs) {
    size_t size = (size_t)a->n + 1;
    double *x = mem_alloc(size * sizeof *x), *y = mem_alloc(size * sizeof *y);
    int32_t *cx = mem_alloc(size * sizeof *cx), *cy = mem_alloc(size * sizeof *cy);
    int64_t n = 0, equal = 0;
    for (int i = 0; i < a->n; i++) {
        if (isnan(a->score[i]) || isnan(b->score[i])) continue;
        x[n] = a->score[i];
        y[n] = b->score[i];
        cx[n] = class_of(x[n], pairs);
        cy[n] = class_of(y[n], pairs);
        equal += cx[n] == cy[n];
        n++;
    }
    json_out_obj(j, NULL);
    json_out_str(j, "a", a->name);
    json_out_str(j, "b", b->name);
    json_out_int(j, "n", n);
    json_out_rate(j, "exact", (double)equal, n);
    json_out_num(j, "kappa", cohen_kappa(cx, cy, n, pairs ? 3 : 5, pairs ? KAPPA_PLAIN : KAPPA_QUADRATIC));
    json_out_num(j, "spearman", n ? spearman(x, y, n) : NAN);
    json_out_bool(j, "few", n < 30);
    json_out_obj_end(j);
    free(x);
    free(y);
    free(cx);
    free(cy);
}

void raters_json(JsonOut *j, const Raters *r, const Items *t) {
    json_out_arr(j, "raters");
    for (int k = 0; k < r->n; k++) {
        double sum = 0;
        int n = 0;
        for (int i = 0; i < t->n; i++)
            if (!isnan(r->item[k].score[i])) sum += r->item[k].score[i], n++;
        json_out_obj(j, NULL);
        json_out_str(j, "rater", r->item[k].name);
        json_out_bool(j, "machine", r->item[k].machine);
        json_out_int(j, "n", n);
        json_out_num(j, "mean", n ? sum / n : NAN);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
    json_out_arr(j, "agreement");
    for (int a = 0; a < r->n; a++)
        for (int b = a + 1; b < r->n; b++) put_agreement(j, &r->item[a], &r->item[b], t->pairs);
    json_out_arr_end(j);
}
