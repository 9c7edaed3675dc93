// layer: cai
// label: slow
// cost: 90
/* kill -9 at any moment, then the same command again: the bytes are those of a run that nobody disturbed. */
#include "cai_help.h"

#include <signal.h>
#include <time.h>

#include "base/json.h"
#include "base/rng.h"

enum { KILLS = 20, CHAIN = 6 };

/* States are written often, so that kills meet half-written ones too. */
static const char *const command[] = {"run", TINY, "-q", "rl.steps=8", "run.state_s=0.02", NULL};
static char root[256];
static char reference[3][65];
static double took; /* seconds of the undisturbed run */

static void sleep_s(double s) {
    struct timespec t = {(time_t)s, (long)((s - (double)(time_t)s) * 1e9)};
    nanosleep(&t, NULL);
}

static void fresh(char out[300], const char *name, int n) {
    Error err = {0};
    snprintf(out, 300, "%s/%s%d", root, name, n);
    assert_ok(io_make_dirs(out, &err), err);
}

/* SHA-256 of the policy, report.json and report.html. */
static void result(char sha[3][65], const char *dir) {
    Error err = {0};
    Json *j = NULL;
    Str path = {0};
    str_printf(&path, "%s/out/runs/tiny/stages.json", dir);
    assert_ok(json_read_file(&j, str_get(&path), 0, &err), err);
    str_clear(&path);
    str_printf(&path, "%s/%s/model", dir, json_str(json_get(json_get(j, "rl"), "dir"), NULL));
    help_sha(sha[0], str_get(&path), "model.safetensors");
    str_clear(&path);
    str_printf(&path, "%s/out/runs/tiny", dir);
    help_sha(sha[1], str_get(&path), "report.json");
    help_sha(sha[2], str_get(&path), "report.html");
    json_release(j);
    str_release(&path);
}

static void finish_and_compare(const char *dir, const char *what) {
    static const char *const name[] = {"the policy", "report.json", "report.html"};
    char sha[3][65];
    int rc = help_wait(help_spawn(dir, command));
    if (rc != 0) fail_msg("%s: the run after it ended with %d: %s", what, rc, help_read(dir, "said"));
    result(sha, dir);
    for (int i = 0; i < 3; i++)
        if (strcmp(sha[i], reference[i]))
            fail_msg("%s: %s differs from the undisturbed run's (%s)", what, name[i], dir);
}

static bool find_state(const char *dir) {
    char **name;
    int n;
    bool found = false;
    Str store = {0}, path = {0};
    Error err = {0};
    str_printf(&store, "%s/out/store", dir);
    if (io_list_dir(&name, &n, str_get(&store), &err)) {
        for (int i = 0; i < n; i++) {
            str_clear(&path);
            str_printf(&path, "%s/%s", str_get(&store), name[i]);
            found = found || help_exists(str_get(&path), "state") || help_exists(str_get(&path), "state.new") ||
                    help_exists(str_get(&path), "state.old");
        }
        io_free_list(name, n);
    }
    str_release(&store);
    str_release(&path);
    return found;
}

static int setup(void **state) {
    char dir[300];
    (void)state;
    help_scratch(root, "kill");
    fresh(dir, "reference", 0);
    double start = now_s();
    assert_int_equal(help_wait(help_spawn(dir, command)), 0);
    took = now_s() - start;
    result(reference, dir);
    return 0;
}

static void equal_runs_are_equal(void **state) {
    char dir[300];
    (void)state;
    fresh(dir, "equal", 0);
    finish_and_compare(dir, "nothing");
}

static void killed_anywhere(void **state) {
    const char *given = getenv("DIKAST_TEST_SEED");
    Rng rng = {given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL), RNG_TEST};
    int in_training = 0, too_late = 0;
    (void)state;
    print_message("[  note    ] seed %llu (DIKAST_TEST_SEED)\n", (unsigned long long)rng.seed);
    for (int i = 0; i < KILLS; i++) {
        char dir[300], what[100];
        /* One moment in each twentieth of the run. */
        double at = took * (i + rng_uniform(rng, (uint64_t)i, 0)) / KILLS;
        fresh(dir, "killed", i);
        pid_t child = help_spawn(dir, command);
        sleep_s(at);
        kill(child, SIGKILL);
        too_late += help_wait(child) != 1000 + SIGKILL;
        in_training += find_state(dir);
        snprintf(what, sizeof what, "kill -9 after %.3f s of %.3f", at, took);
        finish_and_compare(dir, what);
        help_remove(dir);
    }
    print_message("[  note    ] %d of %d kills left a training state, %d came after the end\n", in_training, KILLS,
                  too_late);
    assert_true(in_training > 0);
}

static void killed_again_and_again(void **state) {
    char dir[300];
    (void)state;
    fresh(dir, "chain", 0);
    for (int i = 0; i < CHAIN; i++) {
        pid_t child = help_spawn(dir, command);
        sleep_s(took / 4);
        kill(child, SIGKILL);
        help_wait(child);
    }
    finish_and_compare(dir, "six kills in a row");
}

/* Waits until STATUS names the stage; false when the run ended before. */
static bool until_stage(pid_t child, const char *dir, const char *status) {
    for (;;) {
        int ended;
        if (waitpid(child, &ended, WNOHANG) == child) return false;
        if (help_exists(dir, "out/runs/tiny/STATUS")) {
            char *text = help_read(dir, "out/runs/tiny/STATUS");
            bool there = !strcmp(text, status);
            free(text);
            if (there) return true;
        }
        sleep_s(0.002);
    }
}

static void stopped_and_resumed(void **state) {
    static const char *const stage[] = {"running: helpful\n", "running: revise\n", "running: rl\n"};
    (void)state;
    for (int i = 0; i < COUNT_OF(stage); i++) {
        char dir[300], *said;
        int signal_sent = i == 1 ? SIGINT : SIGTERM;
        fresh(dir, "stopped", i);
        pid_t child = help_spawn(dir, command);
        assert_true(until_stage(child, dir, stage[i]));
        sleep_s(0.02);
        kill(child, signal_sent);
        int rc = help_wait(child);
        said = help_read(dir, "said");
        if (rc != 75) fail_msg("%s: exit code %d, expected 75: %s", stage[i], rc, said);
        assert_non_null(strstr(said, "again"));
        free(said);
        char *status = help_read(dir, "out/runs/tiny/STATUS");
        assert_memory_equal(status, "stopped", 7);
        free(status);
        finish_and_compare(dir, stage[i]);
    }
}

/* Writing the world takes no notice of a first signal for a while; the second does not wait for it. */
static void second_signal_kills(void **state) {
    char dir[300];
    const char *const slow[] = {"run", TINY, "-q", "world.sft_rows=3000000", NULL};
    (void)state;
    fresh(dir, "second", 0);
    pid_t child = help_spawn(dir, slow);
    assert_true(until_stage(child, dir, "running: world\n"));
    kill(child, SIGTERM);
    sleep_s(0.2);
    assert_int_equal(waitpid(child, NULL, WNOHANG), 0);
    double start = now_s();
    kill(child, SIGTERM);
    assert_int_equal(help_wait(child), 1000 + SIGTERM);
    assert_true(now_s() - start < 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(equal_runs_are_equal), cmocka_unit_test(killed_anywhere),
                                       cmocka_unit_test(killed_again_and_again), cmocka_unit_test(stopped_and_resumed),
                                       cmocka_unit_test(second_signal_kills)};
    int failed = cmocka_run_group_tests(tests, setup, NULL);
    if (!failed) help_remove(root);
    return failed;
}
