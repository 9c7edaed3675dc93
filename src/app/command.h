/* app/command.h — one table of commands: parsing, --help, man pages, completion and dispatch walk it. A command is one file
 * and one line in commands[] (commands.c). stdout is the result, stderr is for people. */
#ifndef DIKAST_APP_COMMAND_H
#define DIKAST_APP_COMMAND_H

#include "base/json.h"
#include "base/log.h"
#include "base/str.h"

typedef struct {
    const char *name;  /* "--threads" */
    const char *value; /* what its value is called in help, NULL: a switch */
    const char *help;
} Flag;

enum { MAX_ARGS = 64, MAX_FLAGS = 40 };
typedef struct {
    const char *arg[MAX_ARGS]; /* positional */
    int n_arg;
    const char *set[MAX_ARGS]; /* key=value and ~key */
    int n_set;
    const char *flag[MAX_FLAGS]; /* by index in the command's flags: value, "" for a set switch, NULL when absent */
    bool json;
    Log *log;
    Stop *stop; /* NULL unless the command saves its state: then signals just end it */
} Args;

typedef struct {
    /* usage is read by completion too (app/complete.h): 'name show|lint FILE [OUT] [--flag N] | name other DIR...', words in
     * small letters as they are typed, in capitals what stands for something, alternatives behind ' | '. */
    const char *name, *usage, *help;
    const Flag *flag; /* ends with a NULL name; common_flags are every command's */
    int min_arg, max_arg;
    bool takes_set;   /* key=value arguments are overrides */
    bool saves_state; /* the first SIGINT or SIGTERM asks it to stop, a second one kills */
    bool says_error;  /* with --json its own object tells of errors too */
    bool (*run)(const Args *a, Error *err);
} Command;

/* Value of a flag by name, NULL when absent. */
const char *args_flag(const Args *a, const Command *c, const char *name);
/* Numbers within min..max; out of range and ill-formed ones are errors that name the flag. */
bool args_int(const Args *a, const Command *c, const char *name, int64_t otherwise, int64_t min, int64_t max,
              int64_t *out, Error *err);
bool args_num(const Args *a, const Command *c, const char *name, double otherwise, double min, double max, double *out,
              Error *err);

typedef struct { bool help, quiet, verbose; } CommonFlags;
/* argv[0] is the program, argv[1] the command; *a zeroed. With --help no argument is missed. */
bool args_read(Args *a, CommonFlags *common, const Command *c, int argc, char **argv, Error *err);
/* The arguments of another command line (argv[0] is the program, argv[1] the command), for a command that starts commands. */
bool args_parse(Args *out, const Command *c, int argc, char **argv, Error *err);

/* stdout, whose failures main reports once: text, then a newline when there is none. Empties *text. */
void print_text(Str *text);

extern const Command *const commands[]; /* in the order of --help, NULL at the end */
extern const Flag common_flags[];       /* ends with a NULL name */

extern const Command command_init, command_ls, command_completion;
extern const Command command_run, command_plan, command_monitor, command_stage, command_launch, command_why,
    command_diff, command_replay, command_report, command_config, command_constitution, command_data, command_chat,
    command_generate, command_score, command_eval, command_harm, command_contamination, command_train_classifier,
    command_answer, command_paraphrase, command_compare, command_consistency, command_rate, command_rank,
    command_logits, command_import, command_export, command_verify_export, command_ckpt, command_tokenize,
    command_bench, command_oracle, command_doctor;
#endif
