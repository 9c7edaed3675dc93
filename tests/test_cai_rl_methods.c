// layer: cai
// cost: 25
/* Stage rl with every rl.method, from the program's own configuration: finite, its KL reported, its rollouts kept; and
 * a run that is killed while it trains and started again gives the same bytes. */
#include "cai_help.h"

#include <math.h>
#include <signal.h>
#include <time.h>

#include "base/json.h"
#include "train/ppo.h"

static char root[256], out_set[300];

static int setup(void **state) {
    (void)state;
    help_scratch(root, "rl");
    snprintf(out_set, sizeof out_set, "run.out=%s/out", root);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    help_remove(root);
    return 0;
}

static void run_rl(StageResult *rl, const char *const *more) {
    const char *set[12] = {out_set, "rl.group=4", "rl.steps=3"};
    int n = 3;
    RunConfig cfg;
    PipelineResult r;
    Error err = {0};
    for (; *more; more++) set[n++] = *more;
    help_config(&cfg, TINY, set);
    assert_ok(pipeline_run(&r, &cfg, TINY, "rl", NULL, NULL, &err), err);
    *rl = *help_stage(&r, "rl");
    run_config_release(&cfg);
}

static double summary(const StageResult *rl, const char *key) {
    char *text = help_read(rl->dir, "summary.json");
    Json *j = NULL;
    double v = NAN;
    Error err = {0};
    assert_ok(json_parse(&j, text, strlen(text), 0, "summary.json", 1, &err), err);
    assert_ok(json_need_num(j, key, &v, &err), err);
    json_release(j);
    free(text);
    return v;
}

static void last_metrics(Json **j, const StageResult *rl) {
    char *text = help_read(rl->dir, "metrics.jsonl"), *line = text;
    Error err = {0};
    for (char *next = line; (next = strchr(next, '\n')) && next[1]; next++) line = next + 1;
    assert_ok(json_parse(j, line, strcspn(line, "\n"), 0, "metrics.jsonl", 1, &err), err);
    free(text);
}

static void every_method(void **state) {
    (void)state;
    for (int m = 0; m < RL_METHODS; m++) {
        char method[64];
        StageResult rl;
        Json *j;
        snprintf(method, sizeof method, "rl.method=%s", rl_methods[m].name);
        run_rl(&rl, (const char *const[]){method, NULL});
        static const char *const numbers[] = {"kl", "score", "end_share", "length"};
        for (int i = 0; i < COUNT_OF(numbers); i++) assert_true(isfinite(summary(&rl, numbers[i])));
        assert_true(summary(&rl, "kl") != 0 && fabs(summary(&rl, "kl")) < 10);
        assert_true(help_exists(rl.dir, "samples.jsonl") && help_exists(rl.dir, "model/model.safetensors"));
        last_metrics(&j, &rl);
        bool value = json_get(j, "value_loss"), flat = json_get(j, "flat_groups"), k3 = json_get(j, "kl_k3"),
             margin = json_get(j, "margin");
        assert_true(value == rl_methods[m].value && flat == rl_methods[m].groups);
        assert_true(k3 == (m == RL_GRPO) && margin == (m == RL_DPO));
        json_release(j);
    }
}

/* Keys that only some runs set, each with a trace that it did something. */
static void switches(void **state) {
    (void)state;
    StageResult plain, rl;
    Json *j;
    run_rl(&plain, (const char *const[]){"rl.method=ppo", NULL});
    static const char *const ones[] = {"rl.no_end=add",       "rl.whiten_unbiased=true", "rl.mix=0.1",
                                       "rl.value_warmup=1",   "rl.whiten_rewards=true",  "rl.ratio=reply_mean",
                                       "rl.policy_term=sapo", "rl.kl_target=1",          "rl.value_unit=score"};
    for (int i = 0; i < COUNT_OF(ones); i++) {
        run_rl(&rl, (const char *const[]){"rl.method=ppo", ones[i], NULL});
        if (summary(&rl, "kl") == summary(&plain, "kl")) fail_msg("%s changes nothing", ones[i]);
        last_metrics(&j, &rl);
        assert_true((json_get(j, "mix_loss") != NULL) == !strcmp(ones[i], "rl.mix=0.1"));
        json_release(j);
    }
    StageResult grpo, dpo;
    run_rl(&grpo, (const char *const[]){"rl.method=grpo", NULL});
    static const char *const scales[] = {"rl.group_scale=batch", "rl.group_scale=none", "rl.ratio=reply_mean"};
    for (int i = 0; i < COUNT_OF(scales); i++) {
        run_rl(&rl, (const char *const[]){"rl.method=grpo", scales[i], NULL});
        if (summary(&rl, "kl") == summary(&grpo, "kl")) fail_msg("%s changes nothing", scales[i]);
    }
    run_rl(&dpo, (const char *const[]){"rl.method=dpo", "dpo.lr=1e-3", "dpo.steps=3", NULL});
    static const char *const dpos[] = {"dpo.loss=ipo", "dpo.loss=hinge", "dpo.label_smoothing=0.2", "dpo.average=true",
                                       "dpo.beta=0.7"};
    for (int i = 0; i < COUNT_OF(dpos); i++) {
        run_rl(&rl, (const char *const[]){"rl.method=dpo", "dpo.lr=1e-3", "dpo.steps=3", dpos[i], NULL});
        if (summary(&rl, "kl") == summary(&dpo, "kl")) fail_msg("%s changes nothing", dpos[i]);
    }
    run_rl(&grpo, (const char *const[]){"rl.method=dpo", "dpo.lr=1e-3", "dpo.steps=3", "dpo.label_smoothing=0.2",
                                        "dpo.loss=robust", NULL});
    run_rl(&rl, (const char *const[]){"rl.method=dpo", "dpo.lr=1e-3", "dpo.steps=3", "dpo.label_smoothing=0.2", NULL});
    assert_true(summary(&rl, "kl") != summary(&grpo, "kl")); /* robust turns the smoothing round */
}

/* DPO makes no rollouts while it trains: how far it went is said at its end. */
static void too_far(void **state) {
    (void)state;
    for (int far = 0; far < 2; far++) {
        RunConfig cfg;
        PipelineResult r;
        Error err = {0};
        Log *log = log_new(LOG_QUIET);
        help_config(&cfg, TINY,
                    (const char *const[]){out_set, "rl.method=dpo", "dpo.steps=3", "dpo.lr=0.1", "rl.guard.every=0",
                                          far ? "rl.kl_stop=1e-4" : "rl.kl_stop=1e5",
                                          far ? "run.name=far" : "run.name=near", NULL});
        assert_ok(pipeline_run(&r, &cfg, TINY, "rl", log, NULL, &err), err);
        log_free(log);
        char *said = help_read(r.run_dir, "events.jsonl");
        bool warned =
            strstr(said, "nats per reply away from the reference, allowed") && strstr(said, "dpo.lr (0.1) is too high");
        if (warned != (far == 1)) fail_msg("%s", said);
        free(said);
        run_config_release(&cfg);
    }
}

/* What contradicts itself is refused before anything runs. */
static void refused(void **state) {
    (void)state;
    static const char *const bad[][3] = {
        {"rl.policy_term=cispo", NULL, "rl.policy_term cispo cuts ratios at rl.clip_high 0.2"},
        {"rl.method=rloo", "rl.group=5", "with rl.method rloo every update has whole groups"},
        {"rl.dual_clip=0.5", NULL, "rl.dual_clip 0.5 would take the gradient of every token whose ratio is 1"},
        {"rl.clip_delta=1", NULL, "rl.clip_delta 1 would take the gradient"},
        {"rl.kl_target=1", "rl.beta=0", "rl.kl_target 1 with rl.beta 0: the penalty is adapted by factors"},
        {"dpo.loss=robust", "dpo.label_smoothing=0.5", "must be below 0.5"}};
    for (int i = 0; i < COUNT_OF(bad); i++) {
        RunConfig cfg;
        PipelineResult r;
        Error err = {0};
        help_config(&cfg, TINY, (const char *const[]){out_set, bad[i][0], bad[i][1], NULL});
        assert_false(pipeline_run(&r, &cfg, TINY, "rl", NULL, NULL, &err));
        assert_int_equal(err.code, ERR_CONFIG);
        if (!strstr(err.msg, bad[i][2])) fail_msg("'%s' does not say '%s'", err.msg, bad[i][2]);
        run_config_release(&cfg);
    }
}

static void pause_ms(int ms) {
    struct timespec t = {0, ms * 1000000L};
    nanosleep(&t, NULL);
}

/* The store's folder of stage rl, which one configuration fills. */
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
    static const char *const methods[] = {"rl.method=rloo", "rl.method=dpo"};
    for (int m = 0; m < COUNT_OF(methods); m++) {
        const char *const command[] = {"run",
                                       TINY,
                                       "--only",
                                       "rl",
                                       "-q",
                                       methods[m],
                                       "rl.group=4",
                                       "rl.steps=40",
                                       "dpo.steps=60",
                                       "dpo.lr=1e-3",
                                       "run.state_s=0.01",
                                       "run.threads=1",
                                       NULL};
        char sha[2][65], dir[300], rl[600] = "";
        for (int k = 0; k < 2; k++) {
            Error err = {0};
            snprintf(dir, sizeof dir, "%s/kill-%d-%d", root, m, k);
            assert_ok(io_make_dirs(dir, &err), err);
            if (k) {
                pid_t child = help_spawn(dir, command);
                while (!find_rl(rl, dir) || !help_exists(rl, "state/LATEST")) pause_ms(2);
                pause_ms(20);
                kill(child, SIGKILL);
                assert_int_equal(help_wait(child), 1000 + SIGKILL);
                assert_false(help_exists(rl, "DONE"));
            }
            assert_int_equal(help_wait(help_spawn(dir, command)), 0);
            assert_true(find_rl(rl, dir) && help_exists(rl, "DONE"));
            help_sha(sha[k], rl, "model/model.safetensors");
        }
        assert_string_equal(sha[0], sha[1]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method), cmocka_unit_test(switches), cmocka_unit_test(too_far),
        cmocka_unit_test(refused),      cmocka_unit_test(killed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
