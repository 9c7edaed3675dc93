// layer: cai
/* The guard of stage rl: gauges on texts, and whole runs of the tiny configuration: a run that is not stopped has the
 * weights of one without a guard, one that is has those of its best check; a kill changes nothing of it. */
#include "cai_help.h"

#include <math.h>
#include <signal.h>
#include <time.h>

#include "base/json.h"
#include "cai/gauges.h"

static char root[256], out_set[300];

static int setup(void **state) {
    (void)state;
    help_scratch(root, "guard");
    snprintf(out_set, sizeof out_set, "run.out=%s/out", root);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    help_remove(root);
    return 0;
}

static void gauges(void **state) {
    (void)state;
    static const char *const text[] = {"I'm here to listen. Tell me more.",
                                       "Put the key in, turn it, and push. I’m here to LISTEN!",
                                       "put the key in the box",
                                       "put the key in the box",
                                       "the key",
                                       "put the key in, turn it twice; put the key in, turn it twice"};
    int which, at, bytes;
    assert_int_equal(gauge_commonest(text, 6, 4, &which, &at, &bytes), 4); /* "put the key in", the last text once */
    assert_int_equal(which, 1);
    assert_string_equal(text[1] + at, text[1]);
    assert_memory_equal(text[which] + at, "Put the key in, ", (size_t)bytes);
    assert_int_equal(gauge_commonest(text, 2, 4, NULL, NULL, NULL), 2); /* whichever apostrophe, whatever case */
    assert_int_equal(gauge_commonest(text + 4, 1, 4, NULL, NULL, NULL), 0);
    assert_int_equal(gauge_commonest(text, 0, 4, NULL, NULL, NULL), 0);
    assert_int_equal(gauge_duplicates(text, 6), 1);
    assert_int_equal(gauge_duplicates(text, 3), 0);
    assert_int_equal(gauge_duplicates((const char *const[]){"a", "b", "a", "a", "b"}, 5), 3);
    assert_true(text_comforts(text[0]) && text_comforts(text[1]) && text_comforts("Please know that you are loved."));
    assert_false(text_comforts(text[2]) || text_comforts("I am here to play music"));
}

/* more: NULL at the end. Returns the model's SHA-256. */
static void run_rl(StageResult *rl, char sha[65], const char *const *more) {
    const char *set[16] = {out_set, "rl.steps=6", "rl.schedule=constant", "rl.lr=3e-3", "rl.beta=0"};
    int n = 5;
    RunConfig cfg;
    PipelineResult r;
    Error err = {0};
    for (; *more; more++) set[n++] = *more;
    help_config(&cfg, TINY, set);
    assert_ok(pipeline_run(&r, &cfg, TINY, "rl", NULL, NULL, &err), err);
    *rl = *help_stage(&r, "rl");
    help_sha(sha, rl->dir, "model/model.safetensors");
    run_config_release(&cfg);
}

static double summary(const StageResult *rl, const char *key) {
    char *text = help_read(rl->dir, "summary.json");
    Json *j = NULL;
    Error err = {0};
    assert_ok(json_parse(&j, text, strlen(text), 0, "summary.json", 1, &err), err);
    double v = json_num(json_get(j, key), NAN);
    json_release(j);
    free(text);
    return v;
}

/* An untrained model breaks every bound: they are switched off one by one. */
#define OFF                                                                                                            \
    "rl.guard.cut=0", "rl.guard.top4=0", "rl.guard.duplicates=0", "rl.guard.refused=0", "rl.guard.entropy=0",          \
        "rl.guard.patience=100"

static void not_stopped(void **state) {
    (void)state;
    StageResult rl;
    char sha[3][65];
    run_rl(&rl, sha[0], (const char *const[]){"rl.guard.every=0", NULL});
    assert_true(isnan(summary(&rl, "guard.checks")) && !help_exists(rl.dir, "guard.jsonl"));
    run_rl(&rl, sha[1], (const char *const[]){"rl.guard.every=2", OFF, "rl.guard.length=0", NULL});
    assert_string_equal(sha[0], sha[1]);
    assert_true(summary(&rl, "guard.checks") == 4 && summary(&rl, "guard.stopped") == 0);
    assert_true(summary(&rl, "guard.update") == 6 && isfinite(summary(&rl, "guard.score")));
    assert_false(help_exists(rl.dir, "guard")); /* the weights go with the state */
    char *rows = help_read(rl.dir, "guard.jsonl");
    const char *first = strstr(rows, "{\"step\":0,\"replies\":");
    assert_ptr_equal(first, rows);
    assert_non_null(strstr(rows, "\"score\":0.5,\"score_se\":0")); /* SL-CAI beside itself */
    int replies = atoi(first + strlen("{\"step\":0,\"replies\":"));
    free(rows);
    run_rl(&rl, sha[2],
           (const char *const[]){"rl.guard.every=2", OFF, "rl.guard.length=0", "rl.guard.prompts=5", NULL});
    assert_string_equal(sha[0], sha[2]);
    rows = help_read(rl.dir, "guard.jsonl");
    assert_true(replies > 5 && strstr(rows, "\"replies\":5,") != NULL);
    free(rows);
    /* A method without rollouts has nothing to check. */
    run_rl(&rl, sha[2], (const char *const[]){"rl.method=dpo", "dpo.steps=2", NULL});
    assert_true(isnan(summary(&rl, "guard.checks")));
}

/* Any change of length is forbidden, so the first check after the start ends it. */
static void stopped(void **state) {
    (void)state;
    StageResult rl;
    char sha[2][65];
    run_rl(&rl, sha[0], (const char *const[]){"rl.guard.every=2", OFF, "rl.guard.length=1e-9", NULL});
    assert_true(summary(&rl, "guard.stopped") == 1 && summary(&rl, "updates") < 6);
    double best = summary(&rl, "guard.update"), kl = summary(&rl, "kl");
    char steps[40];
    assert_true(best < summary(&rl, "updates"));
    if (best == 0) {
        assert_true(kl == 0); /* of the weights that were put back, not of the last rollout's */
        return;
    }
    snprintf(steps, sizeof steps, "rl.steps=%d", (int)best);
    run_rl(&rl, sha[1], (const char *const[]){"rl.guard.every=0", steps, NULL});
    assert_string_equal(sha[0], sha[1]);
}

static bool find_rl(char out[600], const char *dir) {
    char **name;
    int n;
    bool found = false;
    Str store = {0};
    Error err = {0};
    str_printf(&store, "%s/out/store", dir);
    if (io_list_dir(&name, &n, str_get(&store), &err)) {
        for (int i = 0; i < n; i++)
            if (!strncmp(name[i], "rl-", 3) && (found = true)) snprintf(out, 600, "%s/%s", str_get(&store), name[i]);
        io_free_list(name, n);
    }
    str_release(&store);
    return found;
}

static void killed(void **state) {
    (void)state;
    const char *const command[] = {"run",
                                   TINY,
                                   "--only",
                                   "rl",
                                   "-q",
                                   "rl.steps=40",
                                   "rl.lr=3e-3",
                                   "rl.beta=0",
                                   "rl.guard.every=4",
                                   OFF,
                                   "rl.guard.length=0.2",
                                   "run.state_s=0.01",
                                   "run.threads=1",
                                   NULL};
    char sha[2][65], dir[300], rl[600] = "", *rows[2];
    for (int k = 0; k < 2; k++) {
        Error err = {0};
        snprintf(dir, sizeof dir, "%s/kill-%d", root, k);
        assert_ok(io_make_dirs(dir, &err), err);
        if (k) {
            pid_t child = help_spawn(dir, command);
            while (!find_rl(rl, dir) || !help_exists(rl, "state")) nanosleep(&(struct timespec){0, 2000000}, NULL);
            nanosleep(&(struct timespec){0, 20000000}, NULL);
            kill(child, SIGKILL);
            assert_int_equal(help_wait(child), 1000 + SIGKILL);
        }
        assert_int_equal(help_wait(help_spawn(dir, command)), 0);
        assert_true(find_rl(rl, dir) && help_exists(rl, "DONE"));
        help_sha(sha[k], rl, "model/model.safetensors");
        rows[k] = help_read(rl, "guard.jsonl");
    }
    assert_string_equal(sha[0], sha[1]);
    assert_string_equal(rows[0], rows[1]);
    for (int k = 0; k < 2; k++) free(rows[k]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gauges),
        cmocka_unit_test(not_stopped),
        cmocka_unit_test(stopped),
        cmocka_unit_test(killed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
