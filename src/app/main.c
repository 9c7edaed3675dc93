#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/help.h"
#include "base/guess.h"
#include "base/json.h"
#include "dist/beat.h"
#include "tensor/backend.h"

const char *args_flag(const Args *a, const Command *c, const char *name) {
    for (int i = 0; c->flag && c->flag[i].name; i++)
        if (!strcmp(c->flag[i].name, name)) return a->flag[i];
    CHECK(false, "command %s has no flag %s", c->name, name);
    return NULL;
}

bool args_int(const Args *a, const Command *c, const char *name, int64_t otherwise, int64_t min, int64_t max,
              int64_t *out, Error *err) {
    const char *s = args_flag(a, c, name);
    char *end;
    *out = otherwise;
    if (!s) return true;
    errno = 0;
    *out = strtoll(s, &end, 10);
    if (end == s || *end) return error_set(err, ERR_CONFIG, "%s must be a whole number, found '%s'", name, s);
    return (errno == 0 && *out >= min && *out <= max) ||
           error_set(err, ERR_CONFIG, "%s must lie in %" PRId64 "..%" PRId64 ", found %s", name, min, max, s);
}

bool args_num(const Args *a, const Command *c, const char *name, double otherwise, double min, double max, double *out,
              Error *err) {
    const char *s = args_flag(a, c, name);
    char *end;
    *out = otherwise;
    if (!s) return true;
    *out = strtod(s, &end);
    if (end == s || *end) return error_set(err, ERR_CONFIG, "%s must be a number, found '%s'", name, s);
    return (*out >= min && *out <= max) ||
           error_set(err, ERR_CONFIG, "%s must lie in %g..%g, found %s", name, min, max, s);
}

static bool is_set(const char *s) {
    if (s[0] == '~') return true;
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_.");
    return n > 0 && s[n] == '=';
}

/* What was meant by a word that has no place: a key that is written as other programs have it. */
static void key_hint(char out[160], const Command *c, const char *s) {
    const char *name = s + strspn(s, "-");
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_.");
    out[0] = 0;
    if (!c->takes_set || n == 0 || n > 60 || !memchr(name, '.', n) || (name[n] && name[n] != '=')) return;
    snprintf(out, 160, " (a key is set by '%.*s=VALUE', without dashes or blanks)", (int)n, name);
}

typedef struct {
    bool help, quiet, verbose;
} Common;

static bool parse_flag(Args *a, Common *common_out, const Command *c, int argc, char **argv, int *i, Error *err) {
    const char *s = argv[*i], *equal = strchr(s, '=');
    size_t n = equal ? (size_t)(equal - s) : strlen(s);
    if (!strcmp(s, "--json")) return a->json = true;
    if (!strcmp(s, "-q")) return common_out->quiet = true;
    if (!strcmp(s, "-v")) return common_out->verbose = true;
    if (!strcmp(s, "--help") || !strcmp(s, "-h")) return common_out->help = true;
    char typed[64];
    snprintf(typed, sizeof typed, "%.*s", (int)(n < 63 ? n : 63), s);
    Guess near = {.typed = typed};
    for (int k = 0; c->flag && c->flag[k].name; k++) {
        const Flag *f = &c->flag[k];
        if (strlen(f->name) == n && !strncmp(f->name, s, n)) {
            if (!f->value && equal) return error_set(err, ERR_CONFIG, "%s takes no value, found '%s'", f->name, s);
            if (!f->value)
                a->flag[k] = "";
            else if (equal)
                a->flag[k] = equal + 1;
            else if (*i + 1 < argc)
                a->flag[k] = argv[++*i];
            else
                return error_set(err, ERR_CONFIG, "%s needs %s", f->name, f->value);
            return true;
        }
        guess_offer(&near, f->name);
    }
    for (int k = 0; common_flags[k].name; k++) guess_offer(&near, common_flags[k].name);
    char key[160];
    key_hint(key, c, s);
    return error_set(err, ERR_CONFIG, "unknown flag '%s'%s; see 'dikast %s --help'", s,
                     key[0] ? key : guess_hint(&near), c->name);
}

static bool parse(Args *a, Common *common_out, const Command *c, int argc, char **argv, Error *err) {
    bool only_args = false;
    for (int i = 2; i < argc; i++) {
        const char *s = argv[i];
        if (!only_args && !strcmp(s, "--"))
            only_args = true;
        else if (!only_args && s[0] == '-' && s[1]) {
            if (!parse_flag(a, common_out, c, argc, argv, &i, err)) return false;
        } else if (a->n_arg >= MAX_ARGS || a->n_set >= MAX_ARGS - 1) /* a command may set one more: run.name */
            return error_set(err, ERR_CONFIG, "too many arguments");
        else if (!only_args && c->takes_set && a->n_arg >= c->min_arg && is_set(s))
            a->set[a->n_set++] = s;
        else
            a->arg[a->n_arg++] = s;
    }
    if (common_out->help) return true;
    if (a->n_arg >= c->min_arg && a->n_arg <= c->max_arg) return true;
    if (a->n_arg > c->max_arg) {
        char key[160];
        key_hint(key, c, a->arg[c->max_arg]);
        return error_set(err, ERR_CONFIG, "unexpected argument '%s'%s; usage: dikast %s", a->arg[c->max_arg], key,
                         c->usage);
    }
    return error_set(err, ERR_CONFIG, "an argument is missing; usage: dikast %s", c->usage);
}

bool args_parse(Args *out, const Command *c, int argc, char **argv, Error *err) {
    Common ignore = {0};
    *out = (Args){0};
    return parse(out, &ignore, c, argc, argv, err);
}

static const char *const error_word[] = {"none", "io",    "format",   "config", "memory",
                                         "net",  "state", "diverged", "gate",   "stopped"};

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
    print_text(&text);
}

/* 0 when everything written has arrived. A reader that went away (| head) is no failure of ours; a full disk is. */
static int finish_stdout(Error *err) {
    bool failed = fflush(stdout) != 0;
    if (!failed && !ferror(stdout)) return 0;
    struct pollfd fd = {.fd = STDOUT_FILENO, .events = POLLOUT};
    int why = errno;
    if (poll(&fd, 1, 0) > 0 && (fd.revents & POLLERR)) return 0;
    errno = why;
    if (failed)
        error_errno(err, "write", "standard output");
    else /* an earlier write, whose reason nobody kept */
        error_set(err, ERR_IO, "standard output: not all of it could be written: is the disk full?");
    return error_exit_code(err->code);
}

/* A process that a supervisor started tells it what it does. Commands that keep no state have no section to name. */
static bool open_beat(Beat **out, const Command *c, const Args *a, Error *err) {
    BeatConfig b;
    bool supervised;
    *out = NULL;
    if (!c->saves_state) return true;
    if (!beat_config_env(&b, &supervised, err)) return false;
    b.pulse = log_pulse(a->log);
    b.stop = a->stop;
    return !supervised || beat_open(out, &b, err);
}

static int run_command(const Command *c, int argc, char **argv) {
    Args a = {0};
    Beat *beat;
    Common flags = {0};
    Error err = {0};
    if (!parse(&a, &flags, c, argc, argv, &err)) {
        print_error(&err, a.json, false);
        return error_exit_code(err.code);
    }
    if (flags.help) {
        Str text = {0};
        help_text(&text, c);
        print_text(&text);
        return finish_stdout(&err);
    }
    bool ok = !c->saves_state || stop_open(&a.stop, &err);
    if (ok) {
        a.log = log_new(flags.quiet ? LOG_QUIET : flags.verbose ? LOG_VERBOSE : LOG_NORMAL);
        ok = open_beat(&beat, c, &a, &err) && c->run(&a, &err);
        beat_close(beat, ok ? 0 : error_exit_code(err.code));
        log_free(a.log);
        stop_close(a.stop);
    }
    if (!ok) print_error(&err, a.json, c->says_error);
    int code = ok ? 0 : error_exit_code(err.code);
    int written = finish_stdout(&err);
    if (written && ok) print_error(&err, false, false);
    return code ? code : written;
}

static void print_version(bool json) {
    char backends[64];
    backend_names(backends, sizeof backends, ", ");
    if (!json) {
        printf("dikast " DIKAST_VERSION " (%s)\n", backends);
        return;
    }
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-version/1");
    json_out_str(&j, "version", DIKAST_VERSION);
    json_out_str(&j, "backends", backends);
    json_out_obj_end(&j);
    print_text(&text);
}

/* Standard streams that are closed would make the next file we open one of them. */
static void hold_streams(void) {
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) return;
}

static bool is_word(const char *s, const char *word, const char *flag) { return !strcmp(s, word) || !strcmp(s, flag); }

int main(int argc, char **argv) {
    Error err = {0};
    signal(SIGPIPE, SIG_IGN);
    hold_streams();
    if (argc < 2) {
        fprintf(stderr, "usage: dikast COMMAND [arguments]; 'dikast --help' lists the commands\n");
        return error_exit_code(ERR_CONFIG);
    }
    bool ok = true;
    if (is_word(argv[1], "help", "--help") || !strcmp(argv[1], "-h"))
        ok = help_run(argc, argv, &err);
    else if (is_word(argv[1], "version", "--version") || !strcmp(argv[1], "-V"))
        print_version(argc > 2 && !strcmp(argv[2], "--json"));
    else {
        const Command *c = command_find(argv[1], &err);
        if (c) return run_command(c, argc, argv);
        ok = false;
    }
    if (!ok) print_error(&err, false, false);
    int written = finish_stdout(&err);
    if (written && ok) print_error(&err, false, false);
    return ok ? written : error_exit_code(err.code);
}
