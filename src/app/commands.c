/* The one table of commands: parsing, help, man pages and completion walk it. */
#include "app/command.h"

// clang-format off
const Command *const commands[] = {
    &command_init,
    &command_run,
    &command_plan,
    &command_ls,
    &command_monitor,
    &command_stage,
    &command_launch,
    &command_why,
    &command_diff,
    &command_replay,
    &command_report,
    &command_config,
    &command_constitution,
    &command_data,
    &command_chat,
    &command_generate,
    &command_score,
    &command_eval,
    &command_harm,
    &command_contamination,
    &command_train_classifier,
    &command_answer,
    &command_paraphrase,
    &command_compare,
    &command_consistency,
    &command_rate,
    &command_rank,
    &command_logits,
    &command_import,
    &command_export,
    &command_verify_export,
    &command_ckpt,
    &command_tokenize,
    &command_bench,
    &command_oracle,
    &command_doctor,
    &command_completion,
    NULL,
};

const Flag common_flags[] = {
    {"--json", NULL, "print one JSON object on stdout"},
    {"-q", NULL, "errors and results only"},
    {"-v", NULL, "say more"},
    {"--help", NULL, "this text"},
    {0},
};
// clang-format on
