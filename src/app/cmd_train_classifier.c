/* dikast train-classifier: a harm classifier from labelled replies. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/conf.h"
#include "app/open.h"
#include "app/result.h"
#include "cai/train_classifier.h"
#include "eval/classifier.h"

static const Flag flags[] = {
    {"--out", "DIR", "the classifier's folder (needed)"},
    {"--trunks", "N", "trunks that differ by their draws; the mean of their log-odds counts (default 1)"},
    {"--no-ngrams", NULL, "the trunk alone, without the linear model over n-grams"},
    {"--gate", "FILE",
     "YAML with conditions on its numbers, 'gates: [classifier.test.overall.auprc >= 0.9]'; one "
     "missed: exit 6"},
    MACHINE_FLAGS,
    {0}};

/* The configuration of a run, with this command's defaults before what the user sets. */
static bool load(RunConfig *cfg, const Args *a, Error *err) {
    const char **set = mem_alloc((size_t)(classifier_default_count + a->n_set) * sizeof *set);
    memcpy(set, classifier_defaults, (size_t)classifier_default_count * sizeof *set);
    if (a->n_set) memcpy(set + classifier_default_count, a->set, (size_t)a->n_set * sizeof *set);
    bool ok = conf_load(cfg, NULL, set, classifier_default_count + a->n_set, err);
    free(set);
    return ok;
}

static bool run(const Args *a, Error *err) {
    const Command *self = &command_train_classifier;
    RunConfig cfg = {0};
    Machine m = {0};
    Str result = {0}, table = {0};
    const char *out = args_flag(a, self, "--out");
    if (!out) return error_set(err, ERR_CONFIG, "train-classifier needs --out DIR, where the classifier is written");
    int64_t trunks;
    bool ok = args_int(a, self, "--trunks", 1, 1, CLASSIFIER_TRUNKS, &trunks, err) &&
              gate_file_readable(a, self, err) && load(&cfg, a, err) && machine_open(&m, a, self, err);
    if (ok) {
        ClassifierJob job = {&cfg, a->arg, a->n_arg, out, (int)trunks, !args_flag(a, self, "--no-ngrams"),
                             m.be, a->log, a->stop};
        ok = classifier_train(&job, &result, &table, err);
    }
    bool made = ok;
    ok = ok && result_gate(&result, a, self, err);
    if (made && (ok || err->code == ERR_GATE)) print_text(a->json ? &result : &table);
    str_release(&result);
    str_release(&table);
    machine_close(&m);
    run_config_release(&cfg);
    return ok;
}

const Command command_train_classifier = {
    .name = "train-classifier",
    .usage = "train-classifier FILE... --out DIR [key=value...]",
    .help =
        "an independent harm classifier from labelled replies, for evaluation\n\n"
        "FILE: rows {prompt, response, harmful 0/1, category}; none of them should have trained the models that are\n"
        "evaluated. Rows are split by prompt: training, validation (half of classifier.holdout: calibration and\n"
        "thresholds), test (the other half: the figures). The classifier is a trunk with a head of a label for "
        "'harmful'\n"
        "and one per category with enough harmful rows, and a linear model over n-grams; DIR/model is a Hugging Face\n"
        "folder of trunk and head. Keys are those of a run (run.seed, tokenizer.*, model.*, pretrain.*, classifier.*; "
        "see\n"
        "'dikast help classifier') with defaults for a small model; model.path=DIR begins with that model instead of\n"
        "random weights. Results: DIR/classifier.json, DIR/predictions.jsonl.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = MAX_ARGS,
    .takes_set = true,
    .saves_state = true,
    .run = run};
