#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/help.h"
#include "base/json.h"
#include "dist/beat.h"
#include "tensor/backend.h"

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
    CommonFlags flags = {0};
    Error err = {0};
    if (!args_read(&a, &flags, c, argc, argv, &err)) {
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
