/* dikast harm: harmful-response rate, over-refusal, and how good the verdict is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/conf.h"
#include "app/harm_run.h"

static const Flag flags[] = {{"--model", "DIR", "the language model that answers; else rows bring replies"},
                             {"--out", "DIR", "write harm.json and replies.jsonl there"},
                             HARM_FLAGS,
                             MODEL_FLAGS,
                             {0}};

static bool load(RunConfig *cfg, const Args *a, Error *err) {
    const char *set[MAX_ARGS + 1];
    int n = 0;
    const char *judge = args_flag(a, &command_harm, "--judge");
    if (judge && !strcmp(judge, "remote")) set[n++] = "judge.kind=remote";
    for (int i = 0; i < a->n_set; i++) set[n++] = a->set[i];
    return conf_load(cfg, NULL, set, n, err);
}

static bool run(const Args *a, Error *err) {
    const Command *self = &command_harm;
    const char *model = args_flag(a, self, "--model");
    OpenModel m = {0};
    Machine alone = {0};
    RunConfig cfg = {0};
    Str result = {0}, table = {0};
    Args with = *a;
    with.arg[0] = model;
    bool ok = load(&cfg, a, err);
    if (ok && model)
        ok = open_model(&m, &with, self, err) && open_model_need(&m, HEAD_LM, err);
    else if (ok)
        ok = machine_open(&alone, a, self, err);
    if (ok) {
        HarmJob job = {a, self, a->arg, a->n_arg, args_flag(a, self, "--out"), &cfg};
        ok = harm_run(&job, model ? &m : NULL, model ? &m.machine : &alone, &result, &table, err);
    }
    if (ok) print_text(a->json ? &result : &table);
    str_release(&result);
    str_release(&table);
    if (model) open_model_close(&m);
    machine_close(&alone);
    run_config_release(&cfg);
    return ok;
}

const Command command_harm = {
    .name = "harm",
    .usage = "harm FILE... [--model DIR] [--classifier DIR] [--judge DIR|remote] [--out DIR] [key=value...]",
    .help =
        "red-team suites by category: harmful-response rate, over-refusal, quality of the verdict\n\n"
        "FILE: rows {prompt, category, kind: harmful|benign}; a model answers them (--model), or rows bring their "
        "'reply'.\n"
        "Who says which replies are harmful: a classifier; a judge, a model of ours, one from elsewhere, or a service "
        "with\n"
        "--judge remote judge.remote.url=URL judge.remote.model=NAME ('dikast help judge'); the tiny world's gold "
        "program; or\n"
        "the rows themselves, by 'p' or by a label 'harmful' 0/1. With a classifier and a judge the judge counts and "
        "what\n"
        "they dispute is shown. Rows with a label say how good the verdict is. Categories are put under the hazards "
        "of\n"
        "MLCommons AILuminate 1.0. conf/eval/harm.jsonl is a small suite of requests with a harmless look-alike each.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = MAX_ARGS,
    .takes_set = true,
    .run = run};
