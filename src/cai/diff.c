#include "cai/diff.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "cai/report.h"
#include "cai/stage_util.h"

enum { A, B, SIDES };

typedef struct {
    RunConfig cfg;
    PipelineResult run;
    RunMetrics metrics;
    Constitution con;
    bool open, has_con;
} Side;

typedef struct {
    const DiffRequest *q;
    Side side[SIDES];
    Str *out;
    JsonOut j; /* with --json */
    Str text;  /* else */
} Diff;

static const char *run_name(const Diff *d, int k) { return k == A ? d->q->run_a : d->q->run_b; }

/* -- configuration ------------------------------------------------------------------------------------------------- */
static void diff_config(Diff *d) {
    Str v[SIDES] = {{0}, {0}};
    bool any = false;
    if (d->q->json) json_out_arr(&d->j, "config");
    for (int i = 0; i < run_key_count; i++) {
        for (int k = 0; k < SIDES; k++) {
            str_clear(&v[k]);
            config_value(&v[k], &d->side[k].cfg, &run_keys[i]);
        }
        if (!strcmp(str_get(&v[A]), str_get(&v[B]))) continue;
        bool matters = run_keys[i].scope == CFG_RESULT;
        if (d->q->json) {
            json_out_obj(&d->j, NULL);
            json_out_str(&d->j, "key", run_keys[i].name);
            json_out_str(&d->j, "a", str_get(&v[A]));
            json_out_str(&d->j, "b", str_get(&v[B]));
            json_out_bool(&d->j, "changes_results", matters);
            json_out_obj_end(&d->j);
            continue;
        }
        if (!any) str_put(&d->text, "configuration\n");
        any = true;
        str_printf(&d->text, "  %s: %s -> %s%s\n", run_keys[i].name, str_get(&v[A]), str_get(&v[B]),
                   matters ? "" : "  (cannot change results)");
    }
    if (d->q->json)
        json_out_arr_end(&d->j);
    else if (!any)
        str_put(&d->text, "configuration: the same\n");
    for (int k = 0; k < SIDES; k++) str_release(&v[k]);
}

/* -- constitution -------------------------------------------------------------------------------------------------- */
static const StageResult *result_of(const Side *s, const char *stage) {
    for (int i = 0; i < s->run.n_stage; i++)
        if (!strcmp(s->run.stage[i].name, stage) && s->run.stage[i].applies && io_is_dir(s->run.stage[i].dir))
            return &s->run.stage[i];
    return NULL;
}

/* The file as it is now; what labels were made under is recorded beside them. */
static void open_constitution(Side *s) {
    Error ignore = {0};
    const StageResult *world = result_of(s, "world");
    s->has_con = stage_constitution(&s->con, &s->cfg, world ? world->dir : s->cfg.data.dir, &ignore);
}

static bool first_hash(void *ud, const Json *row, int line, Error *err) {
    char *out = ud;
    const char *sha = json_str(json_get(row, "constitution"), NULL);
    (void)line, (void)err;
    if (!out[0] && sha) snprintf(out, 65, "%s", sha);
    return true;
}

/* The file may be another one than when the labels were made. */
static void note_changed(Diff *d, int k) {
    char sha[65] = "";
    Error ignore = {0};
    const StageResult *label = result_of(&d->side[k], "label");
    if (d->q->json || !d->side[k].has_con || !label ||
        !jsonl_each(label->dir, "labels.jsonl", first_hash, sha, &ignore))
        return;
    if (sha[0] && strcmp(sha, d->side[k].con.sha256))
        str_printf(&d->text,
                   "  (the constitution of %s has changed since it labelled: its file of today is compared)\n",
                   run_name(d, k));
}

static void one_principle(Diff *d, const char *id, const char *what, bool *any) {
    if (d->q->json) {
        json_out_obj(&d->j, NULL);
        json_out_str(&d->j, "id", id);
        json_out_str(&d->j, "what", what);
        json_out_obj_end(&d->j);
        return;
    }
    if (!*any) str_put(&d->text, "\nconstitution\n");
    *any = true;
    str_printf(&d->text, "  %s: %s\n", id, what);
}

static bool same_principle(const Principle *a, const Principle *b) {
    Str t[SIDES] = {{0}, {0}};
    const Principle *p[SIDES] = {a, b};
    for (int k = 0; k < SIDES; k++) {
        JsonOut j;
        json_out_init(&j, &t[k], 0);
        principle_to_json(&j, p[k]);
    }
    bool same = !strcmp(str_get(&t[A]), str_get(&t[B]));
    for (int k = 0; k < SIDES; k++) str_release(&t[k]);
    return same;
}

static void diff_constitution(Diff *d) {
    bool any = false;
    for (int k = 0; k < SIDES; k++) open_constitution(&d->side[k]);
    const Side *a = &d->side[A], *b = &d->side[B];
    if (d->q->json) json_out_arr(&d->j, "principles");
    for (int i = 0; i < a->con.n && a->has_con && b->has_con; i++) {
        int at = constitution_find(&b->con, a->con.principle[i].id);
        if (at < 0)
            one_principle(d, a->con.principle[i].id, "only in A", &any);
        else if (!same_principle(&a->con.principle[i], &b->con.principle[at]))
            one_principle(d, a->con.principle[i].id, "other words, weight, authority or examples", &any);
    }
    for (int i = 0; i < b->con.n && a->has_con && b->has_con; i++)
        if (constitution_find(&a->con, b->con.principle[i].id) < 0)
            one_principle(d, b->con.principle[i].id, "only in B", &any);
    if (d->q->json) {
        json_out_arr_end(&d->j);
        return;
    }
    if (!a->has_con || !b->has_con)
        str_printf(&d->text, "\nconstitution: that of %s can not be read any more\n", run_name(d, a->has_con ? B : A));
    else if (!any)
        str_printf(&d->text, "\nconstitution: the same %d principles\n", a->con.n);
    for (int k = 0; k < SIDES; k++) note_changed(d, k);
}

/* -- stages -------------------------------------------------------------------------------------------------------- */
static void diff_stages(Diff *d) {
    int same = 0;
    Str other = {0};
    if (d->q->json) json_out_obj(&d->j, "stages");
    for (int i = 0; stages[i]; i++) {
        const StageResult *r[SIDES];
        for (int k = 0; k < SIDES; k++) r[k] = result_of(&d->side[k], stages[i]->name);
        if (!r[A] && !r[B]) continue;
        const char *word = !r[B] ? "only in A" : !r[A] ? "only in B" : strcmp(r[A]->key, r[B]->key) ? "other" : "same";
        same += !strcmp(word, "same");
        if (d->q->json)
            json_out_str(&d->j, stages[i]->name, word);
        else if (strcmp(word, "same"))
            str_printf(&other, "%s%s%s%s%s", other.n ? ", " : "", stages[i]->name, strcmp(word, "other") ? " (" : "",
                       strcmp(word, "other") ? word : "", strcmp(word, "other") ? ")" : "");
    }
    if (d->q->json)
        json_out_obj_end(&d->j);
    else
        str_printf(&d->text, "\nstages: %d shared; computed apart: %s\n", same, other.n ? str_get(&other) : "none");
    str_release(&other);
}

/* -- records ------------------------------------------------------------------------------------------------------- */
typedef enum {
    TEXT,
    NUMBER,
    SIDE_OF_HALF
} FieldKind; /* SIDE_OF_HALF: a probability whose side of 1/2 is the verdict */
enum { MAX_FIELDS = 4 };
typedef struct {
    const char *stage, *file, *what;
    struct {
        const char *path; /* members and indices: "rounds.0.principle" */
        FieldKind kind;
    } field[MAX_FIELDS];
} RecordFile;
// clang-format off
static const RecordFile record_file[] = {
    {"prompts", "prompts.jsonl",         "prompts",   {{"prompt", TEXT}, {"split", TEXT}}},
    {"revise",  "revisions.jsonl",       "dialogues", {{"outcome", TEXT}, {"rounds.0.principle", TEXT}, {"reply", TEXT}, {"final", TEXT}}},
    {"pairs",   "pairs.jsonl",           "pairs",     {{"a", TEXT}, {"b", TEXT}}},
    {"label",   "labels.jsonl",          "labels",    {{"q", SIDE_OF_HALF}}},
    {"rl",      "samples.jsonl",         "rollouts",  {{"reply", TEXT}, {"score", NUMBER}}},
    {"eval",    "replies-helpful.jsonl", "replies of the helpful model", {{"verdict", TEXT}, {"reply", TEXT}, {"harm_p", NUMBER}, {"score", NUMBER}}},
    {"eval",    "replies-sl.jsonl",      "replies of SL-CAI", {{"verdict", TEXT}, {"reply", TEXT}, {"harm_p", NUMBER}, {"score", NUMBER}}},
    {"eval",    "replies-rl.jsonl",      "replies of RL-CAI", {{"verdict", TEXT}, {"reply", TEXT}, {"harm_p", NUMBER}, {"score", NUMBER}}},
};
// clang-format on

typedef struct {
    char *id, *text[MAX_FIELDS];
    double number[MAX_FIELDS];
} Record;
typedef struct {
    const RecordFile *file;
    Record *item;
    int n, cap;
} Records;

static const Json *at_path(const Json *row, const char *path) {
    while (row && *path) {
        size_t n = strcspn(path, ".");
        char word[64];
        snprintf(word, sizeof word, "%.*s", (int)n, path);
        if (json_kind(row) == JSON_ARR)
            row = atoi(word) < json_len(row) ? json_at(row, atoi(word)) : NULL;
        else
            row = json_get(row, word);
        path += n + (path[n] == '.');
    }
    return row;
}

static bool add_record(void *ud, const Json *row, int line, Error *err) {
    Records *r = ud;
    const char *id;
    (void)line;
    if (!json_need_str(row, "id", &id, NULL, err)) return false;
    if (r->n == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 256;
        r->item = mem_grow(r->item, (size_t)r->cap * sizeof *r->item);
    }
    Record *x = &r->item[r->n++];
    *x = (Record){.id = mem_str(id)};
    for (int f = 0; f < MAX_FIELDS && r->file->field[f].path; f++) {
        const Json *v = at_path(row, r->file->field[f].path);
        const char *s = v ? json_str(v, NULL) : NULL;
        if (r->file->field[f].kind == TEXT)
            x->text[f] = mem_str(s ? s : "");
        else
            x->number[f] = v ? json_num(v, NAN) : NAN;
    }
    return true;
}

static int by_id(const void *a, const void *b) { return strcmp(((const Record *)a)->id, ((const Record *)b)->id); }

static bool read_records(Records *r, const RecordFile *file, const StageResult *s, Error *err) {
    *r = (Records){.file = file};
    if (!jsonl_each(s->dir, file->file, add_record, r, err)) return false;
    if (r->n) qsort(r->item, (size_t)r->n, sizeof *r->item, by_id);
    return true;
}

static void records_release(Records *r) {
    for (int i = 0; i < r->n; i++) {
        free(r->item[i].id);
        for (int f = 0; f < MAX_FIELDS; f++) free(r->item[i].text[f]);
    }
    free(r->item);
}

typedef struct {
    int both, only[SIDES], changed;
    int field[MAX_FIELDS], numbers[MAX_FIELDS]; /* records in which it changed; in which both sides have one */
    double sum[MAX_FIELDS], absolute[MAX_FIELDS];
} Tally;

static bool field_changed(const RecordFile *file, int f, const Record *a, const Record *b) {
    switch (file->field[f].kind) {
    case TEXT:
        return strcmp(a->text[f], b->text[f]) != 0;
    case SIDE_OF_HALF:
        return (a->number[f] > 0.5) != (b->number[f] > 0.5);
    case NUMBER:
        break;
    }
    return a->number[f] != b->number[f] && !(isnan(a->number[f]) && isnan(b->number[f]));
}

static void put_one_line(Str *out, const char *s) {
    enum { LONGEST = 90 };
    size_t n = 0;
    for (; s[n] && n < LONGEST; n++) str_putc(out, s[n] == '\n' ? ' ' : s[n]);
    if (s[n]) str_put(out, "...");
}

static void example(Diff *d, const RecordFile *file, const Record *a, const Record *b) {
    str_printf(&d->text, "    %s\n", a->id);
    for (int f = 0; f < MAX_FIELDS && file->field[f].path; f++) {
        bool text = file->field[f].kind == TEXT, number = !isnan(a->number[f]) || !isnan(b->number[f]);
        if (text ? !field_changed(file, f, a, b) : !number || a->number[f] == b->number[f]) continue;
        str_printf(&d->text, "      %s: ", file->field[f].path);
        if (!text) {
            str_printf(&d->text, "%.4g -> %.4g\n", a->number[f], b->number[f]);
            continue;
        }
        put_one_line(&d->text, a->text[f]);
        str_put(&d->text, "\n        -> ");
        put_one_line(&d->text, b->text[f]);
        str_putc(&d->text, '\n');
    }
}

/* Whether a record counts as changed is up to its words and verdicts: numbers differ in every record once anything
 * does. */
static void count(Tally *t, Diff *d, const RecordFile *file, const Record *a, const Record *b) {
    bool changed = false;
    t->both++;
    for (int f = 0; f < MAX_FIELDS && file->field[f].path; f++) {
        bool here = field_changed(file, f, a, b);
        t->field[f] += here;
        changed = changed || (here && file->field[f].kind != NUMBER);
        if (file->field[f].kind == TEXT || isnan(a->number[f]) || isnan(b->number[f])) continue;
        t->numbers[f]++;
        t->sum[f] += b->number[f] - a->number[f];
        t->absolute[f] += fabs(b->number[f] - a->number[f]);
    }
    if (changed && ++t->changed <= d->q->examples && !d->q->json) example(d, file, a, b);
}

static void put_tally(Diff *d, const RecordFile *file, const Tally *t) {
    if (!d->q->json)
        str_printf(&d->text, "  %d in both, %d only in A, %d only in B; changed: %d\n", t->both, t->only[A], t->only[B],
                   t->changed);
    for (int f = 0; f < MAX_FIELDS && file->field[f].path; f++) {
        bool text = file->field[f].kind == TEXT;
        double n = t->numbers[f] ? t->numbers[f] : 1;
        if (d->q->json) {
            json_out_obj(&d->j, file->field[f].path);
            json_out_int(&d->j, "changed", t->field[f]);
            if (!text) json_out_num(&d->j, "mean_change", t->sum[f] / n);
            if (!text) json_out_num(&d->j, "mean_absolute_change", t->absolute[f] / n);
            json_out_obj_end(&d->j);
        } else if (text ? t->field[f] > 0 : t->absolute[f] > 0) {
            str_printf(&d->text, "    %s: ", file->field[f].path);
            if (text)
                str_printf(&d->text, "%d\n", t->field[f]);
            else
                str_printf(&d->text, "%s%d, mean change %+.4f, mean absolute change %.4f\n",
                           file->field[f].kind == SIDE_OF_HALF ? "other side preferred in " : "", t->field[f],
                           t->sum[f] / n, t->absolute[f] / n);
        }
    }
}

static void compare_records(Diff *d, const RecordFile *file, const Records *a, const Records *b) {
    Tally t = {0};
    Str before = d->text;
    d->text = (Str){0}; /* examples, which follow the counts */
    int i = 0, k = 0;
    while (i < a->n || k < b->n) {
        int order = i == a->n ? 1 : k == b->n ? -1 : strcmp(a->item[i].id, b->item[k].id);
        if (order == 0) count(&t, d, file, &a->item[i], &b->item[k]);
        t.only[A] += order<0, t.only[B] += order> 0;
        i += order <= 0, k += order >= 0;
    }
    Str examples = d->text;
    d->text = before;
    if (d->q->json) {
        json_out_obj(&d->j, file->what);
        json_out_int(&d->j, "both", t.both);
        json_out_int(&d->j, "only_a", t.only[A]);
        json_out_int(&d->j, "only_b", t.only[B]);
        json_out_int(&d->j, "changed", t.changed);
    } else
        str_printf(&d->text, "\n%s (%s)\n", file->what, file->file);
    put_tally(d, file, &t);
    if (d->q->json) json_out_obj_end(&d->j);
    str_put(&d->text, str_get(&examples));
    str_release(&examples);
}

static bool has_file(const StageResult *r, const char *file) {
    Str path = {0};
    if (r) path_join(&path, r->dir, file);
    bool there = r && io_exists(str_get(&path));
    str_release(&path);
    return there;
}

/* Results that a run had and that are gone: nothing of them is compared. */
static void name_absent(Diff *d) {
    Str said = {0};
    if (d->q->json) json_out_arr(&d->j, "absent");
    for (int k = 0; k < SIDES; k++)
        for (int i = 0; i < d->side[k].run.n_stage; i++) {
            const StageResult *r = &d->side[k].run.stage[i];
            if (!r->applies || io_is_dir(r->dir)) continue;
            str_clear(&said);
            str_printf(&said, "%s of %s: its result %s is not there", r->name, run_name(d, k), r->dir);
            if (d->q->json)
                json_out_str(&d->j, NULL, str_get(&said));
            else
                str_printf(&d->text, "\nnot compared, %s", str_get(&said));
        }
    if (d->q->json)
        json_out_arr_end(&d->j);
    else if (said.n)
        str_putc(&d->text, '\n');
    str_release(&said);
}

static bool diff_records(Diff *d, Error *err) {
    bool ok = true;
    name_absent(d);
    if (d->q->json) json_out_obj(&d->j, "records");
    for (int i = 0; i < COUNT_OF(record_file) && ok; i++) {
        const RecordFile *f = &record_file[i];
        const StageResult *r[SIDES] = {result_of(&d->side[A], f->stage), result_of(&d->side[B], f->stage)};
        if (!has_file(r[A], f->file) || !has_file(r[B], f->file) || !strcmp(r[A]->key, r[B]->key)) continue;
        Records x[SIDES] = {{0}, {0}};
        ok = read_records(&x[A], f, r[A], err) && read_records(&x[B], f, r[B], err);
        if (ok) compare_records(d, f, &x[A], &x[B]);
        for (int k = 0; k < SIDES; k++) records_release(&x[k]);
    }
    if (d->q->json) json_out_obj_end(&d->j);
    return ok;
}

/* -- numbers ------------------------------------------------------------------------------------------------------- */
static bool is_bound(const char *name) {
    size_t n = strlen(name);
    return n > 3 && (!strcmp(name + n - 3, ".lo") || !strcmp(name + n - 3, ".hi"));
}

static double with(const RunMetrics *m, const char *name, const char *end) {
    char key[200];
    snprintf(key, sizeof key, "%.180s%s", name, end);
    return run_metric(m, key);
}

static void put_metric(Diff *d, const char *name, double a, double b) {
    /* Intervals that do not meet: a difference that is more than the draw of prompts. */
    double hi_a = with(&d->side[A].metrics, name, ".hi"), lo_b = with(&d->side[B].metrics, name, ".lo");
    double hi_b = with(&d->side[B].metrics, name, ".hi"), lo_a = with(&d->side[A].metrics, name, ".lo");
    bool clear = hi_a < lo_b || hi_b < lo_a;
    if (d->q->json) {
        json_out_obj(&d->j, name);
        json_out_num(&d->j, "a", a);
        json_out_num(&d->j, "b", b);
        if (!isnan(hi_a) && !isnan(hi_b)) json_out_bool(&d->j, "intervals_apart", clear);
        json_out_obj_end(&d->j);
    } else
        str_printf(&d->text, "  %-40s %10.4g -> %-10.4g%s\n", name, a, b, clear ? "  intervals apart" : "");
}

static bool diff_metrics(Diff *d, Error *err) {
    for (int k = 0; k < SIDES; k++) {
        RunConfig cfg = d->side[k].cfg;
        cfg.eval.base = (char *)(uintptr_t) ""; /* of a third run */
        if (!run_metrics_read(&d->side[k].metrics, &d->side[k].run, &cfg, err)) return false;
    }
    const RunMetrics *a = &d->side[A].metrics, *b = &d->side[B].metrics;
    if (d->q->json)
        json_out_obj(&d->j, "metrics");
    else
        str_put(&d->text, "\nnumbers (those that differ)\n");
    for (int i = 0; i < a->n; i++) {
        double x = a->item[i].value, y = run_metric(b, a->item[i].name);
        if (!is_bound(a->item[i].name) && !isnan(y) && x != y) put_metric(d, a->item[i].name, x, y);
    }
    if (d->q->json) json_out_obj_end(&d->j);
    return true;
}

bool pipeline_diff(Str *out, const DiffRequest *q, Error *err) {
    Diff d = {.q = q, .out = out};
    bool ok = true;
    for (int k = 0; k < SIDES && ok; k++)
        ok = d.side[k].open = run_load(&d.side[k].run, &d.side[k].cfg, k == A ? q->run_a : q->run_b, err);
    if (ok) {
        if (q->json) {
            json_out_init(&d.j, out, 0);
            json_out_obj(&d.j, NULL);
            json_out_str(&d.j, "schema", "dikast-diff/1");
            json_out_str(&d.j, "a", q->run_a);
            json_out_str(&d.j, "b", q->run_b);
        } else
            str_printf(&d.text, "A %s\nB %s\n\n", q->run_a, q->run_b);
        diff_config(&d);
        diff_constitution(&d);
        diff_stages(&d);
        ok = diff_records(&d, err) && diff_metrics(&d, err);
        if (ok && q->json)
            json_out_obj_end(&d.j);
        else if (ok)
            str_put(out, str_get(&d.text));
        if (!ok) str_clear(out);
    }
    for (int k = 0; k < SIDES; k++) {
        run_metrics_release(&d.side[k].metrics);
        if (d.side[k].has_con) constitution_release(&d.side[k].con);
        if (d.side[k].open) run_config_release(&d.side[k].cfg);
    }
    str_release(&d.text);
    return ok;
}
