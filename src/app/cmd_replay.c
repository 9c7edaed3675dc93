/* dikast replay: one optimizer step of a run, made again. */
#include <stdio.h>

#include "app/command.h"
#include "cai/replay.h"

static const Flag flags[] = {{"--stage", "STAGE", "pretrain, helpful, sl, pm, rl or classifier (default: rl)"},
                             {"--step", "N", "row of the stage's metrics.jsonl, from 1; of rl an update"},
                             {"--show", NULL, "the text of every sequence"},
                             {0}};

static bool run(const Args *a, Error *err) {
    const char *stage = args_flag(a, &command_replay, "--stage");
    ReplayRequest q = {.run_dir = a->arg[0],
                       .stage = stage ? stage : "rl",
                       .show = args_flag(a, &command_replay, "--show") != NULL,
                       .json = a->json};
    if (!args_int(a, &command_replay, "--step", 0, 1, INT64_MAX, &q.step, err)) return false;
    if (q.step == 0) return error_set(err, ERR_CONFIG, "--step N is missing: which row of metrics.jsonl");
    Str text = {0};
    bool ok = pipeline_replay(&text, &q, a->log, a->stop, err);
    if (a->json)
        print_text(&text);
    else
        fputs(str_get(&text), stdout);
    str_release(&text);
    return ok;
}

const Command command_replay = {
    .name = "replay",
    .usage = "replay RUN_DIR --step N [--stage STAGE] [--show]",
    .help =
        "one optimizer step of a run made again, compared bit for bit with what was recorded\n\n"
        "Trains the stage again up to that step, in a folder of its own (RUN's out/replay), and prints what its "
        "forward\n"
        "passes read, their losses, and each value of the step's row in metrics.jsonl beside the recorded one. Exit\n"
        "status 1 when one differs. The run's data files and constitution have to be as they were.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = 1,
    .run = run};
