#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/command.h"
#include "base/json.h"
#include "cai/stage.h"

static const Command *const commands[] = {&command_run, &command_stage, &command_why, &command_report};

static const Flag common[] = {{"--json", NULL, "print one JSON object on stdout"},
                              {"-q", NULL, "errors and results only"},
                              {"-v", NULL, "say more"},
                              {"--help", NULL, "this text"}};

const char *args_flag(const Args *a, const Command *c, const char *name) {
    for (int i = 0; c->flag && c->flag[i].name; i++)
        if (!strcmp(c->flag[i].name, name)) return a->flag[i];
    CHECK(false, "command %s has no flag %s", c->name, name);
    return NULL;
}

bool args_int(const Args *a, const Command *c, const char *name, int64_t otherwise, int64_t *out, Error *err) {
    const char *s = args_flag(a, c, name);
    char *end;
    *out = otherwise;
    if (!s) return true;
    *out = strtoll(s, &end, 10);
    return (end != s && !*end) || error_set(err, ERR_CONFIG, "%s must be a whole number, found '%s'", name, s);
}

bool args_num(const Args *a, const Command *c, const char *name, double otherwise, double *out, Error *err) {
    const char *s = args_flag(a, c, name);
    char *end;
    *out = otherwise;
    if (!s) return true;
    *out = strtod(s, &end);
    return (end != s && !*end) || error_set(err, ERR_CONFIG, "%s must be a number, found '%s'", name, s);
}

static void print_flags(const Flag *f, int n) {
    for (int i = 0; i < n && f[i].name; i++) {
        char left[48];
        snprintf(left, sizeof left, "%s%s%s", f[i].name, f[i].value ? " " : "", f[i].value ? f[i].value : "");
        printf("  %-22s %s\n", left, f[i].help);
    }
}

static void print_help(const Command *c) {
    if (c) {
        printf("usage: dikast %s\n\n%s\n\nflags:\n", c->usage, c->help);
        if (c->flag) print_flags(c->flag, MAX_FLAGS);
        print_flags(common, COUNT_OF(common));
        return;
    }
    printf("dikast " DIKAST_VERSION ": trains a language model end to end with the Constitutional AI framework\n\n"
           "usage: dikast COMMAND [arguments]\n\ncommands:\n");
    for (int i = 0; i < COUNT_OF(commands); i++) {
        size_t first_line = strcspn(commands[i]->help, "\n");
        printf("  %-12s %.*s\n", commands[i]->name, (int)first_line, commands[i]->help);
    }
    printf("\nstages, in order:\n");
    for (int i = 0; stages[i]; i++) printf("  %-12s %s\n", stages[i]->name, stages[i]->help);
    printf("\n'dikast COMMAND --help' tells more; 'dikast help KEY' explains configuration keys, such as 'dikast help rl'.\n");
}

static bool print_keys(const char *prefix, Error *err) {
    Str text = {0};
    char section[64];
    snprintf(section, sizeof section, "%s%s", prefix, strchr(prefix, '.') ? "" : ".");
    config_help(&text, run_keys, run_key_count, section);
    bool any = text.n > 0;
    fputs(str_get(&text), stdout);
    str_release(&text);
    return any || error_set(err, ERR_CONFIG, "no command and no configuration section is called '%s'; 'dikast --help' lists commands", prefix);
}

static const Command *find_command(const char *name, Error *err) {
    const char *near = NULL;
    for (int i = 0; i < COUNT_OF(commands); i++) {
        if (!strcmp(commands[i]->name, name)) return commands[i];
        if (str_distance(commands[i]->name, name, 2) <= 2) near = commands[i]->name;
    }
    error_set(err, ERR_CONFIG, "unknown command '%s'%s%s%s; 'dikast --help' lists them", name, near ? " (did you mean '" : "",
              near ? near : "", near ? "'?)" : "");
    return NULL;
}

static bool is_set(const char *s) {
    if (s[0] == '~') return true;
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_.");
    return n > 0 && s[n] == '=';
}

typedef struct { bool help, quiet, verbose; } Common;

static bool parse_flag(Args *a, Common *common_out, const Command *c, int argc, char **argv, int *i, Error *err) {
    const char *s = argv[*i], *equal = strchr(s, '=');
    size_t n = equal ? (size_t)(equal - s) : strlen(s);
    if (!strcmp(s, "--json")) return a->json = true;
    if (!strcmp(s, "-q")) return common_out->quiet = true;
    if (!strcmp(s, "-v")) return common_out->verbose = true;
    if (!strcmp(s, "--help") || !strcmp(s, "-h")) return common_out->help = true;
    const char *near = NULL;
    for (int k = 0; c->flag && c->flag[k].name; k++) {
        const Flag *f = &c->flag[k];
        if (strlen(f->name) == n && !strncmp(f->name, s, n)) {
            if (!f->value) a->flag[k] = "";
            else if (equal) a->flag[k] = equal + 1;
            else if (*i + 1 < argc) a->flag[k] = argv[++*i];
            else return error_set(err, ERR_CONFIG, "%s needs %s", f->name, f->value);
            return true;
        }
        if (str_distance(f->name, s, 2) <= 2) near = f->name;
    }
    return error_set(err, ERR_CONFIG, "unknown flag '%s'%s%s%s; see 'dikast %s --help'", s, near ? " (did you mean '" : "", near ? near : "",
                     near ? "'?)" : "", c->name);
}

static bool parse(Args *a, Common *common_out, const Command *c, int argc, char **argv, Error *err) {
    bool only_args = false;
    for (int i = 2; i < argc; i++) {
        const char *s = argv[i];
        if (!only_args && !strcmp(s, "--")) only_args = true;
        else if (!only_args && s[0] == '-' && s[1]) {
            if (!parse_flag(a, common_out, c, argc, argv, &i, err)) return false;
        } else if (a->n_arg >= MAX_ARGS || a->n_set >= MAX_ARGS) return error_set(err, ERR_CONFIG, "too many arguments");
        else if (!only_args && c->takes_set && a->n_arg > 0 && is_set(s)) a->set[a->n_set++] = s;
        else a->arg[a->n_arg++] = s;
    }
    if (common_out->help) return true;
    if (a->n_arg >= c->min_arg && a->n_arg <= c->max_arg) return true;
    if (a->n_arg > c->max_arg)
        return error_set(err, ERR_CONFIG, "unexpected argument '%s'; usage: dikast %s", a->arg[c->max_arg], c->usage);
    return error_set(err, ERR_CONFIG, "an argument is missing; usage: dikast %s", c->usage);
}

static const char *const error_word[] = {"none",  "io",    "format",   "config", "memory", "net",
                                         "state", "diverged", "gate", "stopped"};

static void print_error(const Error *err, bool json, bool said) {
    if (err->msg[0]) fprintf(stderr, "dikast: %s\n", err->msg);
    if (!json || said) return;
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "status", error_word[err->code]);
    json_out_int(&j, "code", error_exit_code(err->code));
    json_out_str(&j, "error", err->msg);
    json_out_obj_end(&j);
    printf("%s\n", str_get(&text));
    str_release(&text);
}

static int run_command(const Command *c, int argc, char **argv) {
    Args a = {0};
    Common flags = {0};
    Error err = {0};
    if (!parse(&a, &flags, c, argc, argv, &err)) {
        print_error(&err, a.json, false);
        return error_exit_code(err.code);
    }
    if (flags.help) {
        print_help(c);
        return 0;
    }
    bool ok = stop_open(&a.stop, &err);
    if (ok) {
        a.log = log_new(flags.quiet ? LOG_QUIET : flags.verbose ? LOG_VERBOSE : LOG_NORMAL);
        ok = c->run(&a, &err);
        log_free(a.log);
        stop_close(a.stop);
    }
    /* dikast run --json has printed its object, gates and all, whatever the outcome. */
    if (!ok) print_error(&err, a.json, c == &command_run || c == &command_stage);
    if (fflush(stdout) != 0 && ok) return error_exit_code(ERR_IO);
    return ok ? 0 : error_exit_code(err.code);
}

int main(int argc, char **argv) {
    Error err = {0};
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || (!strcmp(argv[1], "help") && argc == 2)) {
        print_help(NULL);
        return argc < 2 ? 2 : 0;
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "version")) {
        printf("dikast " DIKAST_VERSION "\n");
        return 0;
    }
    if (!strcmp(argv[1], "help")) {
        const Command *c = find_command(argv[2], &err);
        if (c) print_help(c);
        else if (!print_keys(argv[2], &err)) {
            print_error(&err, false, false);
            return 2;
        }
        return 0;
    }
    const Command *c = find_command(argv[1], &err);
    if (!c) {
        print_error(&err, false, false);
        return error_exit_code(err.code);
    }
    return run_command(c, argc, argv);
}
