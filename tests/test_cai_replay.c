// layer: cai
/* dikast replay and dikast diff on runs of the tiny configuration: steps made again are the recorded ones to the bit,
 * from the beginning and from the state of an unfinished stage; a changed number, or changed inputs, are found; two
 * constitutions differ where they should. */
#include "cai_help.h"

#include <math.h>
#include <signal.h>
#include <time.h>

#include "base/json.h"
#include "cai/diff.h"
#include "cai/replay.h"
#include "cai/stage_util.h"
#include "nn/ckpt.h"

static char root[256], out_set[300], run_a[300], run_b[300];

static void run_tiny(const char *name, const char *more, const char *only) {
    RunConfig cfg;
    PipelineResult r;
    Error err = {0};
    char name_set[64];
    snprintf(name_set, sizeof name_set, "run.name=%s", name);
    help_config(&cfg, TINY, (const char *const[]){out_set, name_set, "rl.guard.every=1", more, NULL});
    assert_ok(pipeline_run(&r, &cfg, TINY, only, NULL, NULL, &err), err);
    run_config_release(&cfg);
}

static int setup(void **state) {
    (void)state;
    help_scratch(root, "replay");
    snprintf(out_set, sizeof out_set, "run.out=%s/out", root);
    snprintf(run_a, sizeof run_a, "%s/out/runs/a", root);
    snprintf(run_b, sizeof run_b, "%s/out/runs/b", root);
    run_tiny("a", "run.seed=0", NULL);
    run_tiny("b", "constitution.only=fire", NULL); /* a's: animals, theft */
    return 0;
}

static int teardown(void **state) {
    (void)state;
    help_remove(root);
    return 0;
}

static bool replay(Str *out, const char *run, const char *stage, int64_t step, Error *err) {
    ReplayRequest q = {.run_dir = run, .stage = stage, .step = step, .json = true};
    str_clear(out);
    *err = (Error){0};
    return pipeline_replay(out, &q, NULL, NULL, err);
}

static Json *parse(const Str *text) {
    Json *j = NULL;
    Error err = {0};
    assert_ok(json_parse(&j, text->s, text->n, 0, "out", 1, &err), err);
    return j;
}

/* Every stage that trains in this run, an early step and the last. */
static void steps(void **state) {
    (void)state;
    static const struct {
        const char *stage;
        int64_t step;
        int passes;
    } at[] = {{"pretrain", 1, 1}, {"helpful", 5, 1}, {"sl", 2, 1}, {"pm", 1, 1}, {"rl", 1, 0}, {"rl", 3, 0}};
    Str out = {0};
    Error err;
    for (int i = 0; i < COUNT_OF(at); i++) {
        assert_ok(replay(&out, run_a, at[i].stage, at[i].step, &err), err);
        Json *j = parse(&out);
        const Json *was = json_get(j, "recorded"), *now = json_get(j, "replayed");
        assert_true(json_bool(json_get(j, "ok"), false));
        assert_int_equal(json_int(json_get(j, "differ"), -1), 0);
        assert_int_equal(json_int(json_get(j, "not_recorded"), -1), 0);
        assert_true(json_int(json_get(j, "equal"), 0) >= 9);
        assert_int_equal(json_int(json_get(was, "step"), -1), at[i].step);
        assert_string_equal(json_str(json_get(was, "inputs"), NULL), json_str(json_get(now, "inputs"), NULL));
        assert_string_equal(json_str(json_get(was, "losses"), NULL), json_str(json_get(now, "losses"), NULL));
        int passes = json_len(json_get(j, "passes"));
        assert_true(at[i].passes ? passes == at[i].passes : passes >= 4); /* rl: 2 epochs of 2 minibatches */
        json_release(j);
    }
    str_release(&out);
    assert_false(help_exists(root, "out/replay")); /* nothing is left behind */
}

static void text_of_inputs(void **state) {
    (void)state;
    Str out = {0};
    Error err = {0};
    ReplayRequest q = {.run_dir = run_a, .stage = "rl", .step = 2, .show = true};
    assert_ok(pipeline_replay(&out, &q, NULL, NULL, &err), err);
    assert_non_null(strstr(str_get(&out), "rl, step 2 of "));
    assert_non_null(strstr(str_get(&out), "made again from its beginning"));
    assert_non_null(strstr(str_get(&out), "how do i ")); /* a prompt of the world */
    assert_non_null(strstr(str_get(&out), "values equal, bit for bit"));
    str_release(&out);
}

static const StageResult *stage_of(PipelineResult *r, const char *run, const char *stage) {
    RunConfig cfg;
    Str report = {0};
    Error err = {0};
    char path[400];
    snprintf(path, sizeof path, "%s/resolved.yaml", run);
    assert_ok(run_config_load(&cfg, path, NULL, 0, &report, &err), err);
    assert_ok(pipeline_keys(r, &cfg, NULL, &err), err);
    run_config_release(&cfg);
    return help_stage(r, stage);
}

/* One digit of a recorded number; another seed in the run's configuration; a step and a stage that are not there. */
static void found_out(void **state) {
    (void)state;
    Str out = {0};
    Error err;
    PipelineResult r;
    const StageResult *sl = stage_of(&r, run_a, "sl");
    char *was = help_read(sl->dir, "metrics.jsonl"), *spoiled = mem_str(was), *at = strstr(spoiled, "\"loss\":");
    assert_non_null(at);
    at += strlen("\"loss\":");
    while (*at != '.') at++;
    at[4] = at[4] == '7' ? '8' : '7';
    help_write(sl->dir, "metrics.jsonl", spoiled);
    assert_false(replay(&out, run_a, "sl", 1, &err));
    assert_int_equal(err.code, ERR_STATE);
    assert_non_null(strstr(err.msg, "1 of "));
    help_write(sl->dir, "metrics.jsonl", was);
    assert_ok(replay(&out, run_a, "sl", 1, &err), err);
    free(was);
    free(spoiled);

    char *yaml = help_read(run_b, "resolved.yaml"), *other = mem_str(yaml), *seed = strstr(other, "  seed: 0");
    assert_non_null(seed);
    seed[strlen("  seed: ")] = '3';
    help_write(run_b, "resolved.yaml", other);
    assert_false(replay(&out, run_b, "pm", 1, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, "its inputs give"));
    help_write(run_b, "resolved.yaml", yaml);
    free(yaml);
    free(other);

    assert_false(replay(&out, run_a, "rl", 4, &err));
    assert_non_null(strstr(err.msg, "there is no step 4: "));
    assert_false(replay(&out, run_a, "label", 1, &err));
    assert_non_null(strstr(err.msg, "expected a stage that trains"));
    str_release(&out);
}

/* A stage that was killed: its last recorded step, from the state it keeps where that lies before. */
static void unfinished(void **state) {
    (void)state;
    const char *const command[] = {"run",
                                   TINY,
                                   "--only",
                                   "rl",
                                   "-q",
                                   "rl.steps=400",
                                   "run.state_s=0.3",
                                   "run.threads=1",
                                   "run.name=cut",
                                   "rl.guard.every=7",
                                   "rl.guard.patience=100",
                                   NULL};
    char dir[300], rl[600] = "", run[400];
    Error err = {0};
    PipelineResult r;
    snprintf(dir, sizeof dir, "%s/cut", root);
    assert_ok(io_make_dirs(dir, &err), err);
    pid_t child = help_spawn(dir, command);
    char here[1000];
    assert_non_null(getcwd(here, sizeof here));
    for (int i = 0; i < 30000; i++) {
        nanosleep(&(struct timespec){0, 5000000}, NULL);
        if (!rl[0]) {
            char **name;
            int n;
            Str store = {0};
            str_printf(&store, "%s/out/store", dir);
            if (io_list_dir(&name, &n, store.s, &err)) {
                for (int k = 0; k < n; k++)
                    if (!strncmp(name[k], "rl-", 3)) snprintf(rl, sizeof rl, "%s/%.200s", store.s, name[k]);
                io_free_list(name, n);
            }
            str_release(&store);
        } else if (help_exists(rl, "state/LATEST")) {
            nanosleep(&(struct timespec){0, 150000000}, NULL);
            break;
        }
    }
    kill(child, SIGKILL);
    assert_int_equal(help_wait(child), 1000 + SIGKILL);
    assert_false(help_exists(rl, "DONE"));
    int64_t rows = 0;
    char *metrics = help_read(rl, "metrics.jsonl");
    for (const char *c = metrics; *c; c++) rows += *c == '\n';
    free(metrics);
    char **name;
    int n;
    Str states = {0};
    str_printf(&states, "%s/state", rl);
    assert_ok(ckpt_list(&name, &n, states.s, &err), err);
    assert_true(n > 0);
    int64_t newest = strtoll(name[0] + strlen("step-"), NULL, 10),
            oldest = strtoll(name[n - 1] + strlen("step-"), NULL, 10);
    io_free_list(name, n);
    str_release(&states);
    assert_true(oldest > 0 && rows >= newest);
    /* A killed run has no stages.json: starting it again and stopping at once writes it. */
    assert_int_equal(chdir(dir), 0);
    RunConfig cfg;
    help_config(&cfg, TINY,
                (const char *const[]){"rl.steps=400", "run.state_s=0.3", "run.name=cut", "rl.guard.every=7",
                                      "rl.guard.patience=100", "run.threads=1", NULL});
    Stop *stop = NULL;
    assert_ok(stop_open(&stop, &err), err);
    stop_request(stop);
    assert_false(pipeline_run(&r, &cfg, TINY, "rl", NULL, stop, &err));
    assert_int_equal(err.code, ERR_STOPPED);
    stop_close(stop);
    run_config_release(&cfg);
    snprintf(run, sizeof run, "%s/out/runs/cut", dir);
    Str out = {0};
    assert_ok(replay(&out, run, "rl", rows, &err), err);
    Json *j = parse(&out);
    assert_string_equal(json_str(json_get(j, "from"), NULL), oldest < rows ? "the state it keeps" : "its beginning");
    assert_true(json_bool(json_get(j, "ok"), false));
    json_release(j);
    assert_ok(replay(&out, run, "rl", 1, &err), err); /* before the state */
    assert_int_equal(chdir(here), 0);
    str_release(&out);
}

static int64_t number(const Json *j, const char *a, const char *b, const char *c) {
    const Json *x = json_get(json_get(json_get(j, "records"), a), b);
    return json_int(c ? json_get(x, c) : x, -1);
}

static void two_constitutions(void **state) {
    (void)state;
    Str out = {0};
    Error err = {0};
    DiffRequest q = {run_a, run_b, 2, true};
    assert_ok(pipeline_diff(&out, &q, &err), err);
    Json *j = parse(&out);
    const Json *config = json_get(j, "config"), *principles = json_get(j, "principles");
    bool only = false;
    for (int i = 0; i < json_len(config); i++)
        only = only || !strcmp(json_str(json_get(json_at(config, i), "key"), NULL), "constitution.only");
    assert_true(only);
    assert_int_equal(json_len(principles), 3); /* two and one */
    static const char *const same[] = {"world", "tokenizer", "prompts", "pretrain", "helpful"};
    static const char *const other[] = {"revise", "sl", "pairs", "label", "pm", "rl", "eval"};
    for (int i = 0; i < COUNT_OF(same); i++)
        assert_string_equal(json_str(json_get(json_get(j, "stages"), same[i]), NULL), "same");
    for (int i = 0; i < COUNT_OF(other); i++)
        assert_string_equal(json_str(json_get(json_get(j, "stages"), other[i]), NULL), "other");
    /* Dialogues begin alike, under other principles: their first replies are the same. */
    int64_t both = number(j, "dialogues", "both", NULL);
    assert_true(both >= 30 && number(j, "dialogues", "only_a", NULL) == 0);
    assert_int_equal(number(j, "dialogues", "reply", "changed"), 0);
    assert_true(number(j, "dialogues", "rounds.0.principle", "changed") > both / 2); /* all that had a round */
    assert_true(number(j, "labels", "both", NULL) > 0);
    const Json *metrics = json_get(j, "metrics");
    assert_non_null(json_get(metrics, "pm.score_mean"));
    assert_null(json_get(metrics, "eval.helpful.ppl")); /* the same model on the same text */
    json_release(j);

    q.json = false;
    str_clear(&out);
    assert_ok(pipeline_diff(&out, &q, &err), err);
    static const char *const says[] = {"constitution.only: [animals, theft] -> [fire]",
                                       "animals: only in A",
                                       "fire: only in B",
                                       "stages: 5 shared; computed apart: revise, sl,",
                                       "dialogues (revisions.jsonl)",
                                       "other side preferred in ",
                                       "numbers (those that differ)"};
    for (int i = 0; i < COUNT_OF(says); i++)
        if (!strstr(str_get(&out), says[i])) fail_msg("'%s' is not in:\n%s", says[i], str_get(&out));
    str_release(&out);
}

static void with_itself(void **state) {
    (void)state;
    Str out = {0};
    Error err = {0};
    DiffRequest q = {run_a, run_a, 3, false};
    assert_ok(pipeline_diff(&out, &q, &err), err);
    assert_non_null(strstr(str_get(&out), "configuration: the same"));
    assert_non_null(strstr(str_get(&out), "constitution: the same 2 principles"));
    assert_non_null(strstr(str_get(&out), "computed apart: none"));
    assert_null(strstr(str_get(&out), "->"));
    q.run_b = root;
    str_clear(&out);
    assert_false(pipeline_diff(&out, &q, &err));
    assert_non_null(strstr(err.msg, "is no run directory"));
    str_release(&out);
}

static bool first_prompt(void *ud, const Json *row, int line, Error *err) {
    (void)line, (void)err;
    char *id = ud;
    if (!id[0]) snprintf(id, 64, "%s", json_str(json_get(row, "prompt_id"), NULL));
    return true;
}

static void result_of(char *out, size_t n, const char *run, const char *stage) {
    Str path = {0};
    Json *j = NULL;
    Error err = {0};
    str_printf(&path, "%s/stages.json", run);
    assert_ok(json_read_file(&j, path.s, 0, &err), err);
    snprintf(out, n, "%s/../../store/%s-%s", run, stage, json_str(json_get(json_get(j, stage), "key"), NULL));
    json_release(j);
    str_release(&path);
}

/* A run whose folder was moved is told and replayed where it is; a result that is gone is named, not passed over. */
static void moved_and_incomplete(void **state) {
    (void)state;
    char from[300], to[300], run[320], dir[500], away[520], id[64] = "";
    snprintf(from, sizeof from, "%s/out", root);
    snprintf(to, sizeof to, "%s/moved", root);
    snprintf(run, sizeof run, "%s/runs/a", to);
    assert_int_equal(rename(from, to), 0);
    Str out = {0};
    Error err = {0};
    result_of(dir, sizeof dir, run, "revise");
    assert_ok(jsonl_each(dir, "revisions.jsonl", first_prompt, id, &err), err);
    assert_ok(pipeline_why(&out, "nowhere", run, id, &err), err);
    assert_true(strstr(out.s, "dialogue rv-") && !strstr(out.s, "not told"));
    /* What a killed replay left (a process of this number was never there) goes with the next one; others' folders
     * stay. */
    char left[320];
    snprintf(left, sizeof left, "%s/replay/%d/x", to, 1 << 30);
    assert_ok(io_make_dirs(left, &err), err);
    snprintf(left, sizeof left, "%s/replay/mine", to);
    assert_ok(io_make_dirs(left, &err), err);
    assert_ok(replay(&out, run, "sl", 1, &err), err);
    assert_false(help_exists(root, "out"));
    snprintf(left, sizeof left, "moved/replay/%d", 1 << 30);
    assert_false(help_exists(root, left));
    assert_true(help_exists(root, "moved/replay/mine"));
    snprintf(left, sizeof left, "%s/replay", to);
    assert_ok(io_remove_tree(left, &err), err);
    assert_ok(replay(&out, run, "sl", 1, &err), err);
    assert_false(help_exists(root, "moved/replay"));
    result_of(dir, sizeof dir, run, "label");
    snprintf(away, sizeof away, "%s.away", dir);
    assert_int_equal(rename(dir, away), 0);
    str_clear(&out);
    assert_ok(pipeline_why(&out, "nowhere", run, id, &err), err);
    assert_non_null(strstr(out.s, "not told, stage label: "));
    assert_false(pipeline_why(&out, "nowhere", run, "nosuch", &err));
    assert_true(strstr(err.msg, "no record 'nosuch'") && strstr(err.msg, "not told, stage label"));
    char other[320];
    snprintf(other, sizeof other, "%s/runs/b", to);
    DiffRequest q = {run, other, 3, false};
    str_clear(&out);
    assert_ok(pipeline_diff(&out, &q, &err), err);
    assert_non_null(strstr(out.s, "not compared, label of "));
    assert_false(replay(&out, run, "pm", 1, &err));
    assert_int_equal(rename(away, dir), 0);
    result_of(dir, sizeof dir, run, "pm");
    snprintf(away, sizeof away, "%s.away", dir);
    assert_int_equal(rename(dir, away), 0);
    assert_false(replay(&out, run, "pm", 1, &err));
    assert_non_null(strstr(err.msg, "is gone; run the configuration again"));
    assert_int_equal(rename(away, dir), 0);
    assert_int_equal(rename(to, from), 0);
    str_release(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moved_and_incomplete), cmocka_unit_test(steps),
        cmocka_unit_test(text_of_inputs),       cmocka_unit_test(found_out),
        cmocka_unit_test(unfinished),           cmocka_unit_test(two_constitutions),
        cmocka_unit_test(with_itself),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
