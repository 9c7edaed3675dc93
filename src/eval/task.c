#include "eval/task.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "eval/stats.h"
#include "eval/task_int.h"

#define AT(field) offsetof(TaskConfig, field)
// clang-format off
const CfgKey task_keys[] = {
    {"name",            CFG_STR,  CFG_RESULT, AT(name), "", 0, 0, "name of the task in results; with split.by, leaf tasks are called name_value"},
    {"version",         CFG_STR,  CFG_RESULT, AT(version), "", 0, 0, "version of the protocol that it follows, printed with results"},
    {"type",            CFG_ENUM, CFG_RESULT, AT(type), "choice|contexts|text|rolling", 0, 0, "what is scored: choices after a context, a target after contexts, a target, a whole text"},
    {"columns",         CFG_LIST, CFG_RESULT, AT(columns), "", 0, 0, "columns that every row must have; a missing one is an error, not an empty text"},
    {"description",     CFG_STR,  CFG_RESULT, AT(description), "", 0, 0, "template of what stands before everything"},
    {"prompt",          CFG_STR,  CFG_RESULT, AT(prompt), "", 0, 0, "template of the question"},
    {"choices",         CFG_STR,  CFG_RESULT, AT(choices), "", 0, 0, "template of a JSON list: the choices, such as {{choices.text|tojson}}"},
    {"answer",          CFG_STR,  CFG_RESULT, AT(answer), "", 0, 0, "template of the right choice: its number from 0, or its text"},
    {"target",          CFG_STR,  CFG_RESULT, AT(target), "", 0, 0, "contexts, text, rolling: template of the scored text"},
    {"labels",          CFG_STR,  CFG_RESULT, AT(labels), "", 0, 0, "template of a JSON list of 0 and 1, one per choice: acc is then the probability of those labelled 1"},
    {"count",           CFG_STR,  CFG_RESULT, AT(count), "", 0, 0, "rolling: template of the text whose words and bytes are counted; empty: the target"},
    {"clean",           CFG_ENUM, CFG_RESULT, AT(clean), "none|wikihow", 0, 0, "what is done to prompt and choices: wikihow, as HellaSwag's texts are read"},
    {"delimiter",       CFG_STR,  CFG_RESULT, AT(delimiter), " ", 0, 0, "between question and answer"},
    {"separator",       CFG_STR,  CFG_RESULT, AT(separator), "\n\n", 0, 0, "after each example"},
    {"metrics",         CFG_LIST, CFG_RESULT, AT(metrics), "acc", 0, 0, "acc, acc_norm, acc_bytes; text: acc, perplexity; rolling: word_perplexity, byte_perplexity, bits_per_byte"},
    {"data.test",       CFG_LIST, CFG_RESULT, AT(data.test), "", 0, 0, "files of documents: JSONL, JSON, CSV or Parquet"},
    {"data.shots",      CFG_LIST, CFG_RESULT, AT(data.shots), "", 0, 0, "files of examples; none: the other documents"},
    {"shots.n",         CFG_INT,  CFG_RESULT, AT(shots.n), "0", 0, 1000, "examples before each question"},
    {"shots.sampler",   CFG_ENUM, CFG_RESULT, AT(shots.sampler), "random|first_n", 0, 0, "random: drawn per document; first_n: the first ones, in order"},
    {"shots.seed",      CFG_INT,  CFG_RESULT, AT(shots.seed), "1234", 0, 4294967295.0, "seed of the draws, as CPython's random.Random(seed)"},
    {"split.by",        CFG_STR,  CFG_RESULT, AT(split.by), "", 0, 0, "column whose values are tasks of their own, with a group over them"},
    {"split.groups",    CFG_LIST, CFG_RESULT, AT(split.groups), "", 0, 0, "value=group: groups in between"},
    {"split.weighted",  CFG_BOOL, CFG_RESULT, AT(split.weighted), "true", 0, 0, "a group's mean weights tasks by their documents; false: each counts once"},
};
// clang-format on
const int task_key_count = COUNT_OF(task_keys);

/* -- the file -------------------------------------------------------------------------------------------------------
 */

enum { OF_CHOICE = 1 << TASK_CHOICE | 1 << TASK_CONTEXTS, OF_TEXT = 1 << TASK_TEXT, OF_ROLLING = 1 << TASK_ROLLING };
static const struct {
    const char *name;
    int types;
} metrics[METRIC_COUNT] = {{"acc", OF_CHOICE | OF_TEXT},    {"acc_norm", OF_CHOICE},
                           {"acc_bytes", OF_CHOICE},        {"perplexity", OF_TEXT},
                           {"word_perplexity", OF_ROLLING}, {"byte_perplexity", OF_ROLLING},
                           {"bits_per_byte", OF_ROLLING}};
const char *metric_name(Metric m) { return metrics[m].name; }

static bool read_metrics(Task *t, const char *file, Error *err) {
    const TaskConfig *c = &t->cfg;
    for (int i = 0; i < c->metrics.n; i++) {
        int m = 0;
        while (m < METRIC_COUNT && strcmp(metrics[m].name, c->metrics.item[i]) != 0) m++;
        if (m == METRIC_COUNT || !(metrics[m].types & 1 << c->type) || t->n_metric == METRIC_COUNT ||
            (c->labels[0] && m != METRIC_ACC))
            return error_set(err, ERR_CONFIG,
                             "%s: metrics: '%s' is no metric of this type of task ('dikast eval --help')", file,
                             c->metrics.item[i]);
        for (int k = 0; k < t->n_metric; k++)
            if (t->metric[k] == (Metric)m)
                return error_set(err, ERR_CONFIG, "%s: metrics: '%s' stands there twice", file, metrics[m].name);
        t->metric[t->n_metric++] = (Metric)m;
    }
    return t->n_metric > 0 || error_set(err, ERR_CONFIG, "%s: metrics: expected at least one", file);
}

static bool check(const TaskConfig *c, const char *file, Error *err) {
    bool choices = c->type == TASK_CHOICE || c->type == TASK_CONTEXTS;
    const struct {
        const char *key, *value;
        bool wanted, allowed;
    } need[] = {{"name", c->name, true, true},
                {"choices", c->choices, choices, choices},
                {"answer", c->answer, choices, choices},
                {"labels", c->labels, false, c->type == TASK_CHOICE},
                {"target", c->target, c->type != TASK_CHOICE, c->type != TASK_CHOICE},
                {"count", c->count, false, c->type == TASK_ROLLING},
                {"prompt", c->prompt, false, c->type != TASK_ROLLING},
                {"description", c->description, false, c->type != TASK_ROLLING}};
    static const char *const type[] = {"choice", "contexts", "text", "rolling"};
    for (int i = 0; i < COUNT_OF(need); i++) {
        if (need[i].wanted && !need[i].value[0])
            return error_set(err, ERR_CONFIG, "%s: no '%s', which a task of type %s needs", file, need[i].key,
                             type[c->type]);
        if (need[i].value[0] && !need[i].allowed)
            return error_set(err, ERR_CONFIG, "%s: '%s' means nothing in a task of type %s", file, need[i].key,
                             type[c->type]);
    }
    if (strspn(c->name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != strlen(c->name))
        return error_set(err, ERR_CONFIG, "%s: name '%s': expected letters, digits, _ and -", file, c->name);
    if (c->data.test.n == 0)
        return error_set(err, ERR_CONFIG, "%s: no data.test: expected the files of documents", file);
    for (int i = 0; i < c->split.groups.n; i++)
        if (!strchr(c->split.groups.item[i], '='))
            return error_set(err, ERR_CONFIG, "%s: split.groups: '%s': expected value=group", file,
                             c->split.groups.item[i]);
    return true;
}

static void folder_of(Str *out, const char *file) {
    const char *slash = strrchr(file, '/');
    if (slash) str_putn(out, file, (size_t)(slash - file));
}

bool task_open(Task *t, const char *file, const char *const *set, int n_set, const TaskOptions *o, Str *report,
               Error *err) {
    *t = (Task){0};
    if (!config_load(&t->cfg, task_keys, task_key_count, file, set, n_set, report, err)) return false;
    Str folder = {0};
    Docs test = {0}, pool = {0};
    Texts texts = {0};
    Hasher *hash = hasher_new();
    if (o->folder)
        str_put(&folder, o->folder);
    else
        folder_of(&folder, file);
    bool ok = check(&t->cfg, file, err) && read_metrics(t, file, err);
    int64_t shots = o->shots >= 0 ? o->shots : t->cfg.shots.n;
    if (ok && shots > 0 && t->cfg.type == TASK_ROLLING)
        ok = error_set(err, ERR_CONFIG, "%s: a task of type rolling has no examples", file);
    bool own = t->cfg.data.shots.n == 0 || shots == 0;
    ok = ok && texts_open(&texts, &t->cfg, file, &t->heap, err) &&
         docs_read(&test, &t->cfg, &t->cfg.data.test, str_get(&folder), hash, err) &&
         (own || docs_read(&pool, &t->cfg, &t->cfg.data.shots, str_get(&folder), hash, err)) &&
         task_requests(t, &texts, &test, own ? NULL : &pool, o, err);
    t->data = hasher_finish(hash);
    texts_close(&texts);
    docs_release(&test);
    docs_release(&pool);
    str_release(&folder);
    if (!ok) task_close(t);
    return ok;
}

void task_close(Task *t) {
    config_release(&t->cfg, task_keys, task_key_count);
    heap_release(&t->heap);
    free(t->leaf);
    free(t->item);
    free(t->request);
    *t = (Task){0};
}

/* -- results --------------------------------------------------------------------------------------------------------
 */

/* The first of the largest; len NULL: of the log-likelihoods themselves. */
static int argmax(const LikelihoodRequest *r, const int *len, int n) {
    int best = 0;
    for (int i = 1; i < n; i++) {
        double a = len ? r[i].ll / len[i] : r[i].ll, b = len ? r[best].ll / len[best] : r[best].ll;
        if (a > b) best = i;
    }
    return best;
}

/* Probability of the choices labelled 1; relative to the likeliest, so that nothing underflows. */
static double mass(const LikelihoodRequest *r, const TaskItem *it) {
    double top = r[argmax(r, NULL, it->n)].ll, right = 0, all = 0;
    for (int i = 0; i < it->n; i++) {
        double p = exp(r[i].ll - top);
        all += p;
        if (it->label[i]) right += p;
    }
    return right / all;
}

static double value_of(const Task *t, const TaskItem *it, Metric m) {
    const LikelihoodRequest *r = &t->request[it->first];
    switch (m) {
    case METRIC_ACC:
        if (t->cfg.type == TASK_TEXT) return r->greedy;
        return it->label ? mass(r, it) : argmax(r, NULL, it->n) == it->answer;
    case METRIC_ACC_NORM:
        return argmax(r, it->len, it->n) == it->answer;
    case METRIC_ACC_BYTES:
        return argmax(r, it->bytes, it->n) == it->answer;
    default:
        return r->ll;
    }
}

/* ll of all texts over their words or bytes. */
static double per_unit(const Task *t, int leaf, Metric m) {
    double ll = 0, units = 0;
    for (int64_t i = 0; i < t->n_item; i++) {
        const TaskItem *it = &t->item[i];
        if (it->leaf != leaf) continue;
        ll += t->request[it->first].ll;
        units += (double)(m == METRIC_WORD_PERPLEXITY ? it->words : it->n_bytes);
    }
    return m == METRIC_BITS_PER_BYTE ? -ll / units / log(2) : exp(-ll / units);
}

static const double z95 = 1.959963984540054;
static double share(double v) { return v < 0 ? 0 : v > 1 ? 1 : v; } /* NaN stays */

static void leaf_metric(TaskResult *r, const Task *t, int leaf, Metric m, const double *x, int n_draw, Pool *pool) {
    double v = NAN, se = NAN, lo = NAN, hi = NAN;
    if (m < METRIC_PERPLEXITY) {
        v = mean_of(x, r->n);
        se = stderr_mean(x, r->n);
        lo = share(v - z95 * se);
        hi = share(v + z95 * se);
        if (t->cfg.type != TASK_CHOICE || !t->cfg.labels[0]) {
            Interval w = interval_wilson(round(v * (double)r->n), r->n);
            lo = w.lo, hi = w.hi;
        }
    } else if (m == METRIC_PERPLEXITY) {
        v = exp(-mean_of(x, r->n));
        se = stderr_perplexity(x, r->n, n_draw, pool);
    } else {
        v = per_unit(t, leaf, m);
    }
    r->of[r->n_metric].metric = m;
    r->of[r->n_metric].value = v;
    r->of[r->n_metric].se = se;
    r->of[r->n_metric].lo = lo;
    r->of[r->n_metric++].hi = hi;
}

static void leaf_result(TaskResult *r, const Task *t, int leaf, int n_draw, Pool *pool) {
    *r = (TaskResult){.name = t->leaf[leaf].name};
    double *x = mem_alloc((size_t)(t->n_item + 1) * sizeof *x);
    for (int k = 0; k < t->n_metric; k++) {
        r->n = 0;
        for (int64_t i = 0; i < t->n_item; i++)
            if (t->item[i].leaf == leaf) x[r->n++] = value_of(t, &t->item[i], t->metric[k]);
        leaf_metric(r, t, leaf, t->metric[k], x, n_draw, pool);
    }
    free(x);
}

/* Of the leaves that belong to `group`; NULL: all. */
static void group_result(TaskResult *r, const Task *t, const TaskResult *leaf, const char *name, const char *group) {
    double *se = mem_alloc((size_t)(t->n_leaf + 1) * sizeof *se), sum, all;
    int64_t *size = mem_alloc((size_t)(t->n_leaf + 1) * sizeof *size);
    *r = (TaskResult){.name = name, .group = true};
    for (int k = 0; k < t->n_metric && t->metric[k] < METRIC_PERPLEXITY; k++) {
        int n = 0;
        sum = all = 0;
        r->n = 0;
        for (int i = 0; i < t->n_leaf; i++) {
            if (group && strcmp(t->leaf[i].group, group) != 0) continue;
            double weight = t->cfg.split.weighted ? (double)leaf[i].n : 1;
            sum += leaf[i].of[k].value * weight;
            all += weight;
            se[n] = leaf[i].of[k].se;
            size[n++] = leaf[i].n;
            r->n += leaf[i].n;
        }
        double v = sum / all, s = stderr_group(se, size, n, t->cfg.split.weighted);
        r->of[r->n_metric].metric = t->metric[k];
        r->of[r->n_metric].value = v;
        r->of[r->n_metric].se = s;
        r->of[r->n_metric].lo = share(v - z95 * s);
        r->of[r->n_metric++].hi = share(v + z95 * s);
    }
    free(se);
    free(size);
}

int task_results(TaskResult **out, Task *t, int n_draw, Pool *pool) {
    TaskResult *r = mem_alloc((size_t)(2 * t->n_leaf + 2) * sizeof *r);
    int n = t->n_leaf;
    for (int i = 0; i < t->n_leaf; i++) leaf_result(&r[i], t, i, n_draw, pool);
    for (int i = 0; i < t->n_leaf && t->leaf[i].group; i++) {
        bool seen = !t->leaf[i].group[0];
        for (int j = 0; j < i && !seen; j++) seen = !strcmp(t->leaf[j].group, t->leaf[i].group);
        if (!seen)
            group_result(&r[n++], t, r, heap_printf(&t->heap, "%s_%s", t->cfg.name, t->leaf[i].group),
                         t->leaf[i].group);
    }
    if (t->n_leaf > 0 && t->leaf[0].group) group_result(&r[n++], t, r, t->cfg.name, NULL);
    *out = r;
    return n;
}
