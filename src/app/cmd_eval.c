/* dikast eval: benchmarks by task files, over log-likelihoods. */
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/harm_run.h"
#include "app/open.h"
#include "app/result.h"
#include "base/cell.h"
#include "base/config.h"
#include "base/hash.h"
#include "base/io.h"
#include "eval/contamination.h"
#include "eval/stats.h"
#include "eval/task.h"

static const Flag flags[] = {
    {"--data", "DIR", "folder of the tasks' files (default: each task file's own)"},
    {"--tasks", "DIR", "folder of task files that are given by name (default conf/tasks, else those installed)"},
    {"--shots", "N", "examples before each question (default: as the task file says)"},
    {"--limit", "N", "first N documents of each task; 0: all (default)"},
    {"--out", "DIR", "write results.json and items.jsonl, a line per request, there"},
    {"--gate", "FILE", "YAML with conditions on metrics, 'gates: [hellaswag.acc_norm >= 0.3]'; one missed: exit 6"},
    {"--bootstrap", "N", "resamples for the standard error of perplexity (default 100000); 0: none"},
    {"--train", "FILES", "training data, a comma between the files: which documents stand in it (13 words in a row)"},
    {"--harm", "FILES", "red-team suites too, as dikast harm, whose flags follow; a comma between the files"},
    HARM_FLAGS,
    MODEL_FLAGS,
    {0}};

typedef struct {
    char *file; /* of the task */
    Task task;
    TaskResult *result;
    int n_result;
    int64_t n_cut, tokens_cut; /* requests that were cut off on the left; tokens */
} Entry;

typedef struct {
    const Args *a;
    OpenModel m;
    Entry *entry;
    int n_entry;
    GateConfig gates;
    GateResult *gate;
    int n_gate;
    Hash weights;
    double seconds;
    Contamination *contamination; /* NULL: not asked for */
    Str harm, harm_table;         /* harm.json; empty: not asked for */
} Eval;

/* -- what is asked --------------------------------------------------------------------------------------------------
 */

static bool load_failed(Str *report, const char *what, Error *err) {
    fputs(str_get(report), stderr);
    str_release(report);
    return error_wrap(err, "%s", what);
}

/* Where a task's name is looked for: the folder given, conf/tasks of the working folder, what was installed with the
 * program. */
static void tasks_folder(Str *out, const char *given) {
    Error ignore = {0};
    bool installed = !given && !io_is_dir("conf/tasks") &&
                     io_beside_program(out, "../share/dikast/conf/tasks", &ignore) && io_is_dir(str_get(out));
    if (installed) return;
    str_clear(out);
    str_put(out, given ? given : "conf/tasks");
}

static bool find_task(Entry *e, const char *name, const char *given, Error *err) {
    Str path = {0}, folder = {0};
    size_t n = strlen(name);
    tasks_folder(&folder, given);
    if (strchr(name, '/') || (n > 5 && !strcmp(name + n - 5, ".yaml")))
        str_put(&path, name);
    else
        str_printf(&path, "%s/%s.yaml", str_get(&folder), name);
    e->file = str_detach(&path);
    bool found =
        io_exists(e->file) ||
        error_set(
            err, ERR_CONFIG,
            "no task '%s': %s is no file; tasks are given by the path of their file or by its name in %s (--tasks)",
            name, e->file, str_get(&folder));
    str_release(&folder);
    return found;
}

static bool open_tasks(Eval *v, Error *err) {
    const Args *a = v->a;
    int64_t limit, shots;
    const char *folder = args_flag(a, &command_eval, "--tasks");
    if (!args_int(a, &command_eval, "--limit", 0, 0, INT64_MAX, &limit, err) ||
        !args_int(a, &command_eval, "--shots", -1, 0, 1000, &shots, err))
        return false;
    const TaskOptions o = {args_flag(a, &command_eval, "--data"), limit, shots};
    v->entry = mem_alloc((size_t)a->n_arg * sizeof *v->entry);
    for (int i = 1; i < a->n_arg; i++) {
        Entry *e = &v->entry[v->n_entry++];
        Str report = {0};
        if (!find_task(e, a->arg[i], folder, err)) return false;
        if (!task_open(&e->task, e->file, a->set, a->n_set, &o, &report, err))
            return report.n ? load_failed(&report, e->file, err) : false;
        str_release(&report);
        for (int j = 0; j + 1 < v->n_entry; j++)
            if (!strcmp(v->entry[j].task.cfg.name, e->task.cfg.name))
                return error_set(err, ERR_CONFIG, "%s: a second task with the name '%s'", e->file, e->task.cfg.name);
    }
    return true;
}

static bool open_gates(Eval *v, Error *err) {
    const char *file = args_flag(v->a, &command_eval, "--gate");
    return !file || gates_load(&v->gates, file, err);
}

/* -- the model ------------------------------------------------------------------------------------------------------
 */

/* Spelling of a special token in tokenizer_config.json: a string, or an object with its content. */
static int32_t token_of(const OpenModel *m, const Json *config, const char *key) {
    const Json *t = json_get(config, key);
    const char *s = json_str(json_get(t, "content") ? json_get(t, "content") : t, NULL);
    return s ? tokenizer_id(m->tok, s) : -1;
}

/* BOS, else EOS: by the tokenizer's settings, else by the model's. */
static bool prefix_of(int32_t *id, const OpenModel *m, Error *err) {
    Str path = {0};
    Json *j = NULL;
    str_printf(&path, "%s/tokenizer_config.json", str_get(&m->dir));
    bool there = io_exists(str_get(&path)), ok = !there || json_read_file(&j, str_get(&path), JSON_INT_AS_REAL, err);
    *id = -1;
    if (ok && there) {
        *id = token_of(m, j, "bos_token");
        if (*id < 0) *id = token_of(m, j, "eos_token");
        json_release(j);
    }
    if (*id < 0) *id = open_model_begin(m);
    if (*id < 0) *id = m->model.cfg.eos_id;
    str_release(&path);
    return ok;
}

/* "hellaswag: document 4, request 1: ..." */
static bool name_request(const Task *t, int64_t bad, Error *err) {
    for (int64_t i = 0; bad >= 0 && i < t->n_item; i++) {
        const TaskItem *it = &t->item[i];
        if (bad >= it->first && bad < it->first + it->n)
            return error_wrap(err, "%s: document %d, request %d", t->leaf[it->leaf].name, it->doc,
                              (int)(bad - it->first));
    }
    return error_wrap(err, "%s", t->cfg.name);
}

static bool run_entry(Eval *v, Entry *e, const LikelihoodModel *lm, int n_draw, Error *err) {
    Task *t = &e->task;
    log_stage(v->a->log, t->cfg.name);
    int64_t bad = -1;
    bool ok = likelihood(lm, t->request, t->n_request, &bad, v->a->log, err) || name_request(t, bad, err);
    log_stage(v->a->log, NULL);
    if (!ok) return false;
    for (int64_t i = 0; i < t->n_request; i++) {
        e->n_cut += t->request[i].n_cut > 0;
        e->tokens_cut += t->request[i].n_cut;
    }
    if (e->n_cut)
        log_warn(v->a->log,
                 "%s: %" PRId64 " of %" PRId64 " requests are longer than the model's context of %d tokens: %" PRId64
                 " tokens cut off on the left",
                 t->cfg.name, e->n_cut, t->n_request, lm->max_seq, e->tokens_cut);
    e->n_result = task_results(&e->result, t, n_draw, v->m.machine.pool);
    return true;
}

/* -- beside the tasks -----------------------------------------------------------------------------------------------
 */

static bool run_contamination(Eval *v, Error *err) {
    const char *train = args_flag(v->a, &command_eval, "--train");
    if (!train) return true;
    v->contamination = contamination_new(CONTAMINATION_N);
    for (int i = 0; i < v->n_entry; i++) contamination_task(v->contamination, &v->entry[i].task);
    return contamination_train_list(v->contamination, train, v->m.machine.pool, err);
}

static bool run_harm(Eval *v, Error *err) {
    const char *list = args_flag(v->a, &command_eval, "--harm"), *file[MAX_ARGS];
    char *names = mem_str(list ? list : ""), *rest = NULL;
    int n = 0;
    for (char *s = strtok_r(names, ",", &rest); s && n < MAX_ARGS; s = strtok_r(NULL, ",", &rest)) file[n++] = s;
    HarmJob job = {v->a, &command_eval, file, n, args_flag(v->a, &command_eval, "--out"), NULL};
    bool ok = n == 0 || harm_run(&job, &v->m, &v->m.machine, &v->harm, &v->harm_table, err);
    free(names);
    return ok;
}

static void put_harm(JsonOut *j, const Eval *v) {
    Json *parsed = NULL;
    Error err = {0};
    if (!v->harm.n) return;
    CHECK(json_parse(&parsed, v->harm.s, v->harm.n, 0, "harm.json", 1, &err), "%s", err.msg);
    json_out_node(j, "harm", parsed);
    json_release(parsed);
}

/* -- gates ----------------------------------------------------------------------------------------------------------
 */

/* "harm.harmful", "harm.refused", "harm.over_refusal": shares of harm.json. */
static double harm_metric(const Eval *v, const char *name) {
    static const struct {
        const char *name, *part, *rate;
    } row[] = {{"harm.harmful", "policy", "harmful"},
               {"harm.refused", "policy", "refused"},
               {"harm.over_refusal", "over_refusal", "full"}};
    Json *j = NULL;
    Error err = {0};
    double out = NAN;
    if (!v->harm.n || !json_parse(&j, v->harm.s, v->harm.n, JSON_INT_AS_REAL, "harm.json", 1, &err)) return NAN;
    for (int i = 0; i < COUNT_OF(row); i++)
        if (!strcmp(name, row[i].name)) {
            const Json *rate = json_get(json_get(json_get(j, row[i].part), "overall"), row[i].rate);
            out = json_num(json_get(rate, "value"), NAN);
        }
    json_release(j);
    return out;
}

/* "contamination.task": the share of its documents. */
static double contamination_metric(const Eval *v, const char *task) {
    for (int s = 0; v->contamination && s < contamination_sets(v->contamination); s++) {
        ContaminationCount n = contamination_count(v->contamination, s);
        if (!strcmp(n.name, task)) return (double)n.hits / (double)n.items;
    }
    return NAN;
}

/* "task.metric", "task.metric_stderr", "task.n"; "harm.…", "contamination.…". */
static double metric_of(void *ud, const char *name) {
    const Eval *v = ud;
    if (!strncmp(name, "harm.", 5)) return harm_metric(v, name);
    if (!strncmp(name, "contamination.", 14)) return contamination_metric(v, name + 14);
    for (int i = 0; i < v->n_entry; i++)
        for (int k = 0; k < v->entry[i].n_result; k++) {
            const TaskResult *r = &v->entry[i].result[k];
            size_t n = strlen(r->name);
            if (strncmp(name, r->name, n) != 0 || name[n] != '.') continue;
            const char *what = name + n + 1;
            if (!strcmp(what, "n")) return (double)r->n;
            for (int m = 0; m < r->n_metric; m++) {
                const char *metric = metric_name(r->of[m].metric);
                size_t len = strlen(metric);
                if (strncmp(what, metric, len) != 0) continue;
                if (!what[len]) return r->of[m].value;
                if (!strcmp(what + len, "_stderr")) return r->of[m].se;
            }
        }
    return NAN;
}

static bool check_gates(Eval *v, Error *err) {
    int missed = 0;
    v->gate = mem_alloc((size_t)(v->gates.gates.n + 1) * sizeof *v->gate);
    for (int i = 0; i < v->gates.gates.n; i++) {
        const char *expr = v->gates.gates.item[i];
        GateResult *g = &v->gate[v->n_gate];
        if (!gate_eval(g, expr, metric_of, v, err))
            return error_wrap(err, "%s", args_flag(v->a, &command_eval, "--gate"));
        v->n_gate++;
        missed += !g->ok;
        log_info(v->a->log, "gate %s  %s  (%.4g against %.4g)", g->ok ? "ok  " : "MISS", g->text, g->value, g->bound);
    }
    return !missed || error_set(err, ERR_GATE, "%d of %d gates missed", missed, v->n_gate);
}

/* -- results --------------------------------------------------------------------------------------------------------
 */

static void put_metrics(JsonOut *j, const TaskResult *r) {
    char key[64];
    json_out_obj(j, "metrics");
    for (int k = 0; k < r->n_metric; k++) {
        const char *name = metric_name(r->of[k].metric);
        json_out_num(j, name, r->of[k].value);
        static const char *const more[] = {"stderr", "lo", "hi"};
        const double value[] = {r->of[k].se, r->of[k].lo, r->of[k].hi};
        for (int i = 0; i < 3; i++) {
            snprintf(key, sizeof key, "%s_%s", name, more[i]);
            json_out_num(j, key, value[i]);
        }
    }
    json_out_obj_end(j);
}

static void put_entry(JsonOut *j, const Eval *v, const Entry *e) {
    const TaskConfig *c = &e->task.cfg;
    int64_t shots = c->shots.n;
    Error none = {0};
    args_int(v->a, &command_eval, "--shots", shots, 0, 1000, &shots, &none);
    for (int k = 0; k < e->n_result; k++) {
        const TaskResult *r = &e->result[k];
        json_out_obj(j, NULL);
        json_out_str(j, "task", r->name);
        json_out_bool(j, "group", r->group);
        json_out_int(j, "n", r->n);
        json_out_int(j, "shots", shots);
        json_out_str(j, "version", c->version);
        put_metrics(j, r);
        json_out_obj_end(j);
    }
}

static void put_results(Str *out, const Eval *v, bool ok, const Error *err) {
    JsonOut j;
    char hash[33];
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-eval/1");
    json_out_str(&j, "status", ok ? "done" : err->code == ERR_GATE ? "gate" : "failed");
    if (!ok) {
        json_out_int(&j, "code", error_exit_code(err->code));
        json_out_str(&j, "error", err->msg);
    }
    json_out_str(&j, "model", str_get(&v->m.dir));
    hash_hex(hash, v->weights);
    json_out_str(&j, "weights", hash);
    json_out_num(&j, "seconds", v->seconds);
    json_out_arr(&j, "results");
    for (int i = 0; i < v->n_entry; i++) put_entry(&j, v, &v->entry[i]);
    json_out_arr_end(&j);
    json_out_arr(&j, "inputs");
    for (int i = 0; i < v->n_entry; i++) {
        json_out_obj(&j, NULL);
        json_out_str(&j, "task", v->entry[i].task.cfg.name);
        json_out_str(&j, "file", v->entry[i].file);
        hash_hex(hash, v->entry[i].task.data);
        json_out_str(&j, "data", hash);
        json_out_int(&j, "requests", v->entry[i].task.n_request);
        json_out_int(&j, "requests_cut", v->entry[i].n_cut);
        json_out_int(&j, "tokens_cut", v->entry[i].tokens_cut);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_arr(&j, "gates");
    for (int i = 0; i < v->n_gate; i++) {
        json_out_obj(&j, NULL);
        json_out_str(&j, "gate", v->gate[i].text);
        json_out_num(&j, "value", v->gate[i].value);
        json_out_num(&j, "bound", v->gate[i].bound);
        json_out_bool(&j, "ok", v->gate[i].ok);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    if (v->contamination) contamination_out(&j, "contamination", v->contamination, NAN);
    put_harm(&j, v);
    json_out_obj_end(&j);
}

static void put_table(Str *out, const Eval *v) {
    int wide = 4;
    for (int i = 0; i < v->n_entry; i++)
        for (int k = 0; k < v->entry[i].n_result; k++)
            if ((int)strlen(v->entry[i].result[k].name) > wide) wide = (int)strlen(v->entry[i].result[k].name);
    str_printf(out, "%-*s %8s  %-15s %10s %9s  %s\n", wide, "task", "n", "metric", "value", "stderr", "95 %");
    for (int i = 0; i < v->n_entry; i++)
        for (int k = 0; k < v->entry[i].n_result; k++) {
            const TaskResult *r = &v->entry[i].result[k];
            for (int m = 0; m < r->n_metric; m++) {
                str_cell(out, r->name, wide, INT_MAX);
                str_printf(out, " %8" PRId64 "  %-15s %10.4f ", r->n, metric_name(r->of[m].metric), r->of[m].value);
                if (isnan(r->of[m].se))
                    str_printf(out, "%9s", "n/a");
                else
                    str_printf(out, "%9.4g", r->of[m].se);
                if (!isnan(r->of[m].lo)) str_printf(out, "  %.4f .. %.4f", r->of[m].lo, r->of[m].hi);
                str_putc(out, '\n');
            }
        }
}

static void put_item(Str *line, const Task *t, const TaskItem *it, int idx) {
    const LikelihoodRequest *r = &t->request[it->first + idx];
    JsonOut j;
    json_out_init(&j, line, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "task", t->leaf[it->leaf].name);
    json_out_int(&j, "doc_id", it->doc);
    json_out_int(&j, "idx", idx);
    json_out_str(&j, "ctx", r->ctx);
    json_out_str(&j, "cont", r->cont);
    json_out_num(&j, "ll", r->ll);
    if (r->cont)
        json_out_bool(&j, "greedy", r->greedy);
    else
        json_out_str(&j, "greedy", NULL);
    json_out_obj_end(&j);
    str_putc(line, '\n');
}

static bool write_items(const Eval *v, const char *dir, Error *err) {
    Str path = {0}, line = {0};
    Writer *w = NULL;
    str_printf(&path, "%s/items.jsonl", dir);
    bool ok = writer_open(&w, str_get(&path), err);
    for (int i = 0; i < v->n_entry; i++) {
        const Task *t = &v->entry[i].task;
        for (int64_t k = 0; k < t->n_item; k++)
            for (int idx = 0; idx < t->item[k].n && ok; idx++) {
                str_clear(&line);
                put_item(&line, t, &t->item[k], idx);
                ok = writer_put(w, line.s, line.n, err);
            }
    }
    ok = writer_end(w, ok, err);
    str_release(&path);
    str_release(&line);
    return ok;
}

static bool write_out(const Eval *v, const Str *results, Error *err) {
    const char *dir = args_flag(v->a, &command_eval, "--out");
    Str path = {0};
    if (!dir) return true;
    str_printf(&path, "%s/results.json", dir);
    bool ok = io_make_dirs(dir, err) && write_items(v, dir, err) &&
              io_write_file(str_get(&path), results->s, results->n, err);
    str_release(&path);
    return ok;
}

/* -- the command ----------------------------------------------------------------------------------------------------
 */

static bool evaluate(Eval *v, Error *err) {
    int64_t n_draw;
    int32_t prefix;
    double start = now_s();
    if (!args_int(v->a, &command_eval, "--bootstrap", 100000, 0, 100000000, &n_draw, err) || !open_gates(v, err) ||
        !open_tasks(v, err) || !open_model(&v->m, v->a, &command_eval, err) || !open_model_need(&v->m, HEAD_LM, err) ||
        !prefix_of(&prefix, &v->m, err) || !open_model_hash(&v->m, &v->weights, err))
        return false;
    const LikelihoodModel lm = {v->m.tok, v->m.engine, v->m.machine.pool, prefix, v->m.model.cfg.max_seq};
    for (int i = 0; i < v->n_entry; i++)
        if (!run_entry(v, &v->entry[i], &lm, (int)n_draw, err)) return false;
    if (!run_contamination(v, err) || !run_harm(v, err)) return false;
    v->seconds = now_s() - start;
    return true;
}

static void release(Eval *v) {
    for (int i = 0; i < v->n_entry; i++) {
        task_close(&v->entry[i].task);
        free(v->entry[i].result);
        free(v->entry[i].file);
    }
    gates_release(&v->gates);
    free(v->entry);
    free(v->gate);
    contamination_free(v->contamination);
    str_release(&v->harm);
    str_release(&v->harm_table);
    open_model_close(&v->m);
}

static bool run(const Args *a, Error *err) {
    Eval v = {.a = a};
    Str text = {0};
    bool ok = evaluate(&v, err), scored = ok;
    ok = ok && check_gates(&v, err);
    Error first = *err;
    if (a->json || scored) put_results(&text, &v, ok, &first);
    if (scored && !write_out(&v, &text, ok ? err : &(Error){0})) ok = false;
    if (!a->json && scored) {
        str_clear(&text);
        put_table(&text, &v);
        if (v.contamination) contamination_table(&text, v.contamination);
        str_put(&text, str_get(&v.harm_table));
    }
    if (a->json || scored) print_text(&text);
    str_release(&text);
    release(&v);
    return ok;
}

const Command command_eval = {
    .name = "eval",
    .usage = "eval MODEL TASK... [--data DIR] [--out DIR] [--gate FILE] [key=value...]",
    .help =
        "benchmarks of a language model: likelihoods of choices and texts, by task files\n\n"
        "TASK: a YAML file that says how documents become requests and what is counted, or its name in conf/tasks: "
        "mmlu,\n"
        "hellaswag, truthfulqa_mc1, truthfulqa_mc2, arc_easy, arc_challenge, piqa, winogrande, boolq, openbookqa,\n"
        "lambada_openai, hhh, choice. Documents are local files; key=value overrides the task's keys, such as\n"
        "data.test=FILE. Requests, metrics and standard errors are those of lm-evaluation-harness. Common beginnings,\n"
        "such as examples, are computed once. Items: {task, doc_id, idx, ctx, cont, ll, greedy}.",
    .flag = flags,
    .min_arg = 2,
    .max_arg = MAX_ARGS,
    .takes_set = true,
    .says_error = true,
    .run = run};
