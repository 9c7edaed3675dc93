/* Every stage's model compared on the same prompts, and its consistency: the evaluation results that `dikast compare`
 * and `dikast consistency` would make of the replies of a run's eval stage. Nothing is generated or judged again. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "cai/report_int.h"

static const StageResult *stage_of(const PipelineResult *run, const char *name) {
    for (int i = 0; i < run->n_stage; i++)
        if (!strcmp(run->stage[i].name, name))
            return run->stage[i].applies && run->stage[i].dir[0] && io_is_dir(run->stage[i].dir) ? &run->stage[i]
                                                                                                 : NULL;
    return NULL;
}

/* Replies of the models that the evaluation holds. They are called by the models' ids, whatever folder they lie in. */
static bool read_replies(Answers *set, int *n, const StageResult *eval, const AnswersRead *how, Error *err) {
    *n = 0;
    for (int i = 0; i < PAGE_MODELS; i++) {
        Str path = {0};
        char name[64];
        snprintf(name, sizeof name, "replies-%s.jsonl", page_model[i].id);
        bool ok = !page_file(&path, eval, name) || answers_read(&set[*n], str_get(&path), how, err);
        if (ok && set[*n].n) {
            Answers *a = &set[(*n)++];
            free(a->file);
            free(a->system);
            a->file = mem_str(name);
            a->system = mem_str(page_model[i].id);
        }
        str_release(&path);
        if (!ok) return false;
    }
    return true;
}

/* Equal runs in other folders have equal pages. */
static void without_folder(Error *err, const char *dir) {
    size_t n = strlen(dir);
    if (!strncmp(err->msg, dir, n) && err->msg[n] == '/')
        memmove(err->msg, err->msg + n + 1, strlen(err->msg + n + 1) + 1);
}

typedef bool MakeFn(JsonOut *j, const Answers *a, int n, uint64_t seed, Error *err);
static bool add(ResultSet *out, MakeFn *make, const char *name, const Answers *set, int n, uint64_t seed, Error *err) {
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    bool ok = make(&j, set, n, seed, err);
    json_out_obj_end(&j);
    ok = ok && results_add(out, text.s, text.n, name, err);
    str_release(&text);
    return ok;
}

bool run_compared(ResultSet *out, const PipelineResult *run, const RunConfig *cfg, const RunMetrics *m, Error *err) {
    const StageResult *eval = stage_of(run, "eval"), *prompts = stage_of(run, "prompts");
    Answers set[PAGE_MODELS] = {0};
    Str path = {0};
    int n = 0;
    *out = (ResultSet){0};
    if (!eval) return true;
    AnswersRead how = {run_metric(m, "classifier.threshold"), cfg->data.source == 1, NULL};
    if (prompts && page_file(&path, prompts, "prompts.jsonl")) how.prompts = str_get(&path);
    bool ok = read_replies(set, &n, eval, &how, err);
    if (ok && n > 1) ok = add(out, comparison_json, "comparison", set, n, (uint64_t)cfg->run.seed, err);
    if (ok && n > 0) {
        /* Prompts without paraphrases and one sample each: then there is nothing to be consistent in. */
        Error none = {0};
        add(out, consistency_json, "consistency", set, n, (uint64_t)cfg->run.seed, &none);
    }
    for (int i = 0; i < n; i++) answers_release(&set[i]);
    str_release(&path);
    if (!ok) {
        without_folder(err, eval->dir);
        results_release(out);
    }
    return ok;
}
