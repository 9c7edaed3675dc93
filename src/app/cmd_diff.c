/* dikast diff: two runs beside each other. */
#include <stdio.h>

#include "app/command.h"
#include "cai/diff.h"

static const Flag flags[] = {{"--examples", "N", "changed records shown of each kind (default: 3)"}, {0}};

static bool run(const Args *a, Error *err) {
    int64_t examples;
    if (!args_int(a, &command_diff, "--examples", 3, 0, 1000000, &examples, err)) return false;
    const DiffRequest q = {a->arg[0], a->arg[1], (int)examples, a->json};
    Str text = {0};
    bool ok = pipeline_diff(&text, &q, err);
    if (a->json)
        print_text(&text);
    else
        fputs(str_get(&text), stdout);
    str_release(&text);
    return ok;
}

const Command command_diff = {.name = "diff",
                              .usage = "diff RUN_A RUN_B [--examples N]",
                              .help = "what changed between two runs: keys, principles, samples, labels, scores\n\n"
                                      "Records are compared by their ids: which dialogues ended otherwise, which pairs "
                                      "got another label, which replies\n"
                                      "another verdict or score. Numbers are those of the stages' summaries.",
                              .flag = flags,
                              .min_arg = 2,
                              .max_arg = 2,
                              .run = run};
