/* tests/cai_help.h — folders, files and configurations of the pipeline's tests. A test's files lie in a folder of their
 * own below $TMPDIR, which is removed when everything passed. */
#ifndef DIKAST_TESTS_CAI_HELP_H
#define DIKAST_TESTS_CAI_HELP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/io.h"
#include "cai/pipeline.h"

#define TINY TEST_DIR "/../conf/tiny.yaml"

#define assert_ok(call, err)                                                                                           \
    do {                                                                                                               \
        if (!(call)) fail_msg("%s: %s", #call, (err).msg);                                                             \
    } while (0)

/* A new folder below $TMPDIR or /tmp. */
static inline void help_scratch(char out[256], const char *name) {
    const char *base = getenv("TMPDIR");
    snprintf(out, 256, "%s/dikast-%s-XXXXXX", base && base[0] ? base : "/tmp", name);
    if (!mkdtemp(out)) fail_msg("cannot make %s", out);
}

static inline void help_remove(const char *dir) {
    Error err = {0};
    if (!io_remove_tree(dir, &err)) print_message("[  note    ] %s\n", err.msg);
}

/* set: NULL at the end. */
static inline void help_config(RunConfig *c, const char *conf, const char *const *set) {
    Str report = {0};
    Error err = {0};
    int n = 0;
    while (set[n]) n++;
    if (!run_config_load(c, conf, set, n, &report, &err)) fail_msg("%s%s", str_get(&report), err.msg);
    str_release(&report);
}

static inline char *help_read(const char *dir, const char *file) {
    Str path = {0}, text = {0};
    Error err = {0};
    str_printf(&path, "%s/%s", dir, file);
    assert_ok(io_read_file(&text, str_get(&path), (size_t)1 << 30, &err), err);
    str_release(&path);
    return str_detach(&text);
}

static inline void help_write(const char *dir, const char *file, const char *text) {
    Str path = {0};
    Error err = {0};
    str_printf(&path, "%s/%s", dir, file);
    assert_ok(io_write_file(str_get(&path), text, strlen(text), &err), err);
    str_release(&path);
}

static inline bool help_exists(const char *dir, const char *file) {
    Str path = {0};
    str_printf(&path, "%s/%s", dir, file);
    bool there = io_exists(str_get(&path));
    str_release(&path);
    return there;
}

static inline void help_sha(char out[65], const char *dir, const char *file) {
    Str path = {0};
    Error err = {0};
    str_printf(&path, "%s/%s", dir, file);
    assert_ok(sha256_file(out, str_get(&path), &err), err);
    str_release(&path);
}

static inline const StageResult *help_stage(const PipelineResult *r, const char *name) {
    for (int i = 0; i < r->n_stage; i++)
        if (!strcmp(r->stage[i].name, name)) return &r->stage[i];
    fail_msg("no stage '%s'", name);
    return NULL;
}

/* The program itself, working in dir, so that every path it writes down is relative; what it says goes to dir/said. */
static inline pid_t help_spawn(const char *dir, const char *const *argv) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0) return child;
    char *args[32] = {"dikast"};
    for (int i = 0; argv[i] && i < 30; i++) args[i + 1] = (char *)argv[i];
    if (chdir(dir) || !freopen("said", "w", stderr) || !freopen("/dev/null", "w", stdout)) _exit(126);
    setenv("SOURCE_DATE_EPOCH", "0", 1);
    execv(BUILD_DIR "/dikast", args);
    _exit(127);
}

/* Exit code, or 1000 + signal. */
static inline int help_wait(pid_t child) {
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

#endif
