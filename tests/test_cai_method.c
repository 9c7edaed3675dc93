// layer: cai
/* Whole tiny runs under the options of the method that are off by default: what each leaves in its summary and files.
 */
#include "cai_help.h"

#include <math.h>

#include "base/json.h"

static char root[256];

static void run_with(PipelineResult *run, RunConfig *cfg, const char *name, const char *only, const char *const *more) {
    const char *set[24];
    char out[300];
    int n = 0;
    Error err = {0};
    snprintf(out, sizeof out, "run.out=%s/%s", root, name);
    set[n++] = out;
    while (*more) set[n++] = *more++;
    set[n] = NULL;
    help_config(cfg, TINY, set);
    assert_ok(pipeline_run(run, cfg, TINY, only, NULL, NULL, &err), err);
}

static double metric(const PipelineResult *run, const char *stage, const char *key) {
    char *text = help_read(help_stage(run, stage)->dir, "summary.json");
    Json *j = NULL;
    Error err = {0};
    assert_ok(json_parse(&j, text, strlen(text), 0, "summary.json", 1, &err), err);
    double v = json_num(json_get(j, key), NAN);
    json_release(j);
    free(text);
    return v;
}

static void need(const PipelineResult *run, const char *stage, const char *key, double lo, double hi) {
    double v = metric(run, stage, key);
    if (!(v >= lo && v <= hi)) fail_msg("%s.%s is %g, expected %g to %g", stage, key, v, lo, hi);
}

static void absent(const PipelineResult *run, const char *stage, const char *key) {
    if (!isnan(metric(run, stage, key))) fail_msg("%s.%s is there", stage, key);
}

/* Every label lies within the reasoned judge's bounds, and some lie on them or between. */
static void check_cut_labels(const PipelineResult *run) {
    char *rows = help_read(help_stage(run, "label")->dir, "labels.jsonl");
    Error err = {0};
    int n = 0;
    for (char *line = rows, *end; *line; line = end + 1, n++) {
        Json *j = NULL;
        end = strchr(line, '\n');
        *end = 0;
        assert_ok(json_parse(&j, line, strlen(line), 0, "labels.jsonl", 1, &err), err);
        double q = json_num(json_get(j, "q"), NAN);
        assert_true(q >= 0.4 - 1e-12 && q <= 0.6 + 1e-12);
        json_release(j);
    }
    assert_true(n > 5);
    free(rows);
}

static void reasons_and_principle_heads(void **state) {
    (void)state;
    PipelineResult run;
    RunConfig cfg;
    run_with(&run, &cfg, "a", "pm",
             (const char *const[]){"constitution.select=sampled", "constitution.score=fusion", "revise.retries=1",
                                   "world.reason_share=0.5", "world.applies_share=0.1", "judge.own.reasons=2",
                                   "judge.own.reason_tokens=12", "label.t_cal=0", "pm.heads=principles",
                                   "pm.length_control=true", "pm.margin=0.2", "pm.holdout=0.4", "world.eval_prompts=24",
                                   NULL});
    need(&run, "label", "t_cal", 0.05, 20);
    need(&run, "label", "judge.length_bias", -1, 1);
    check_cut_labels(&run);
    need(&run, "pm", "head.animals.clear", 0, 1000);
    need(&run, "pm", "head.helpful.clear", 1, 1000);
    need(&run, "pm", "head.helpful.accuracy", 0, 1);
    need(&run, "pm", "length_slope", -20, 20);
    need(&run, "pm", "held_helpful.length_corr", -1, 1);
    absent(&run, "pm", "ensemble.sd");
    absent(&run, "pm", "t_cal");
    need(&run, "revise", "round1.violates_share", 0, 1);
    need(&run, "revise", "critique_words", 0.1, 100);
    assert_true(help_exists(help_stage(&run, "revise")->dir, "rejects.json"));
    /* Reasons stand in half of the demonstrations of judging. */
    char *format = help_read(help_stage(&run, "world")->dir, "format.jsonl");
    int judge = 0, reason = 0;
    for (const char *p = format; (p = strstr(p, "\"kind\":\"judge\"")) != NULL; p++) {
        const char *end = strchr(p, '\n'), *r = strstr(p, "\"reason\":\"the first ");
        judge++;
        reason += r && r < end;
    }
    assert_true(judge > 100 && reason > 0.35 * judge && reason < 0.65 * judge);
    free(format);
    run_config_release(&cfg);
}

static void ensembles_and_calibration(void **state) {
    (void)state;
    PipelineResult run;
    RunConfig cfg;
    run_with(&run, &cfg, "b", "pm",
             (const char *const[]){"pm.ensemble=3", "pairs.redteam=80", "pairs.benign=60", "pm.calibrate=true",
                                   "pm.holdout=0.5", NULL});
    need(&run, "pm", "t_cal", 0.05, 20);
    need(&run, "pm", "ensemble.sd", 1e-6, 100);
    need(&run, "pm", "ensemble.agree", 0, 1);
    absent(&run, "pm", "head.helpful.clear");
    absent(&run, "label", "t_cal");
    run_config_release(&cfg);
}

static void all_principles_at_once(void **state) {
    (void)state;
    PipelineResult run;
    RunConfig cfg;
    run_with(&run, &cfg, "c", "revise", (const char *const[]){"constitution.select=all", "revise.rounds=3", NULL});
    char *rows = help_read(help_stage(&run, "revise")->dir, "revisions.jsonl");
    assert_non_null(strstr(rows, "\"principle\":\"all\""));
    assert_null(strstr(rows, "\"principle\":\"animals\""));
    free(rows);
    char *counts = help_read(help_stage(&run, "revise")->dir, "rejects.json");
    assert_non_null(strstr(counts, "\"schema\":\"dikast-rejects/1\""));
    free(counts);
    run_config_release(&cfg);
}

static int setup(void **state) {
    (void)state;
    help_scratch(root, "method");
    return 0;
}

static int teardown(void **state) {
    (void)state;
    help_remove(root);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(reasons_and_principle_heads),
                                       cmocka_unit_test(ensembles_and_calibration),
                                       cmocka_unit_test(all_principles_at_once)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
