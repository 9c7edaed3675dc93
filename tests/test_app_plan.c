// layer: app
/* dikast plan as a user sees it: layouts that fit, in text and JSON; a described GPU; refusals. The formulas themselves
 * are tested beside published figures in test_dist_plan.c. */
#define DIR "app_plan_test.d"
#include "cli_help.h"

#include <math.h>

#define CONF TEST_DIR "/../conf/tiny.yaml"

static Json *plan(const char *line) {
    Json *j = NULL;
    Error err = {0};
    Ran r = run(line);
    if (r.code != 0) fail_msg("%s: exit %d: %s", line, r.code, str_get(&r.err));
    OK(json_parse(&j, r.out.s, r.out.n, 0, line, 1, &err));
    ran_release(&r);
    return j;
}

static double num(const Json *row, const char *key) {
    const Json *v = json_get(row, key);
    if (!v) fail_msg("'%s' is missing", key);
    return json_num(v, NAN);
}

static void test_layouts_fit(void **state) {
    (void)state;
    Json *j = plan("plan --gpus 64xH100 --model 7b --seq 8k --batch 512 --tokens 200B --json");
    const Json *rows = json_get(j, "layouts");
    assert_string_equal(json_str(json_get(j, "schema"), NULL), "dikast-plan/1");
    assert_int_equal(json_int(json_get(j, "seq"), 0), 8192);
    assert_true(json_len(rows) > 3);
    for (int i = 0; i < json_len(rows); i++) {
        const Json *r = json_at(rows, i);
        double bytes = num(r, "state_bytes") + num(r, "activation_bytes") + num(r, "work_bytes");
        assert_true(num(r, "tp") * num(r, "pp") * num(r, "dp") == 64 && num(r, "cp") == 1);
        assert_true(bytes < (79.6 - 4) * 1073741824.0);
        assert_true(fabs(num(r, "tokens_s") * num(r, "step_s") - 512 * 8192) < 1);
        double days = 200e9 / num(r, "tokens_s") / 86400 / num(r, "efficiency");
        assert_true(fabs(num(r, "days") / days - 1) < 1e-9);
        assert_true(num(r, "mfu") > 0.2 && num(r, "mfu") < 0.62);
        if (i > 0) assert_true(num(r, "step_s") >= num(json_at(rows, i - 1), "step_s"));
    }
    json_release(j);
}

static void test_scaling_rows(void **state) {
    (void)state;
    Json *j = plan("plan --gpus 16384xH100 --model 405b --seq 8k --batch 2048 --scaling --json");
    const Json *strong = json_get(j, "strong_scaling"), *weak = json_get(j, "weak_scaling");
    assert_true(json_len(strong) >= 4 && json_len(weak) >= 4);
    assert_true(num(json_at(strong, json_len(strong) - 1), "gpus") == 16384);
    for (int i = 1; i < json_len(strong); i++)
        assert_true(num(json_at(strong, i), "gpus") == 2 * num(json_at(strong, i - 1), "gpus"));
    for (int i = 1; i < json_len(weak); i++)
        assert_true(num(json_at(weak, i), "batch") == 2 * num(json_at(weak, i - 1), "batch"));
    json_release(j);
}

/* Twice the bandwidth and peak of a described GPU: never slower; a price makes a cost. */
static void test_described_gpu(void **state) {
    (void)state;
    Error err = {0};
    const char *slow =
        "gpu:\n  name: X1\n  peak: 100e12\n  memory_gib: 48\n  bandwidth: 1e12\n  link: 30e9\n  net: 10e9\n"
        "  price: 2\n";
    const char *fast =
        "gpu:\n  name: X1\n  peak: 200e12\n  memory_gib: 48\n  bandwidth: 2e12\n  link: 30e9\n  net: 10e9\n"
        "  price: 2\n";
    OK(io_write_file(DIR "/slow.yaml", slow, strlen(slow), &err));
    OK(io_write_file(DIR "/fast.yaml", fast, strlen(fast), &err));
    const char *const file[] = {"slow", "fast"};
    double cost[2], step[2];
    for (int i = 0; i < 2; i++) {
        Str line = {0};
        str_printf(&line, "plan --gpus 16xX1 --model 1b --tokens 20B --json --hardware " DIR "/%s.yaml", file[i]);
        Json *j = plan(line.s);
        const Json *r = json_at(json_get(j, "layouts"), 0);
        step[i] = num(r, "step_s");
        cost[i] = num(r, "cost");
        assert_true(fabs(cost[i] - num(r, "days") * 24 * 16 * 2) < 1e-6 * cost[i]);
        json_release(j);
        str_release(&line);
    }
    assert_true(step[1] < step[0] && cost[1] < cost[0]);
    Json *shipped = plan("plan --gpus 8xL40S --model 1b --json --hardware " TEST_DIR "/../conf/hardware.yaml");
    assert_true(json_len(json_get(shipped, "layouts")) > 0);
    json_release(shipped);
}

static const struct {
    const char *line;
    int code;
    const char *says;
} wrong[] = {
    {"plan", 2, "what is to be planned?"},
    {"plan --gpus 64 --model 7b", 2, "64xH100"},
    {"plan --gpus 0xH100 --model 7b", 2, "count of 1 to"},
    {"plan --gpus 8xB9000 --model 7b", 2, "known are A100, H100, H200"},
    {"plan --gpus 8xH100 --model 7bb", 4, "neither a known shape nor a model folder"},
    {"plan --gpus 8xH100 --model 7b --seq 8q", 2, "--seq must be a number"},
    {"plan --gpus 8xH100 --model 7b --seq 0.5", 2, "--seq must be a whole number"},
    {"plan --gpus 8xH100 --model 7b --seq 1e30", 2, "--seq must be a whole number"},
    {"plan --gpus 8xH100 --model 7b --tokens -3", 2, "--tokens must be a number"},
    {"plan --gpus 8xH100 --model 7b --tokens inf", 2, "--tokens must be a number"},
    {"plan --gpus 64xH100 --model 124m --batch 7", 2, "divides 7 sequences"},
    {"plan --gpus 64xH100 --model 7b --cp 3", 2, "--cp 3 does not divide 64 GPUs"},
    {"plan --gpus 8xA100 --model 405b", 4, "does not fit 8 x A100"},
    {"plan " CONF " --gpus 8xH100", 2, "--gpus plans a cluster"},
    {"plan " CONF " pm.lrr=1", 2, "pm.lrr"},
    {"plan pm.lr=1", 2, "goes with a configuration"},
    {"plan " CONF " data.source=files data.dir=" DIR "/nowhere", 3, "no such file"},
    {"plan --gpus 8xX1 --model 1b --hardware " DIR "/absent.yaml", 2, "absent.yaml"},
    {"plan --gpus 8xX2 --model 1b --hardware " DIR "/half.yaml", 2, "gpu.bandwidth is missing"},
    {"plan --gpus 8xX2 --model 1b --hardware " DIR "/small.yaml", 2, "gpu.memory_gib 2 leaves nothing"},
};

static void test_refusals(void **state) {
    (void)state;
    Error err = {0};
    const char *half = "gpu:\n  name: X2\n  peak: 1e14\n  memory_gib: 48\n";
    const char *small =
        "gpu:\n  name: X2\n  peak: 1e14\n  memory_gib: 2\n  bandwidth: 1e12\n  link: 1e10\n  net: 1e10\n";
    OK(io_write_file(DIR "/half.yaml", half, strlen(half), &err));
    OK(io_write_file(DIR "/small.yaml", small, strlen(small), &err));
    for (int i = 0; i < COUNT_OF(wrong); i++) {
        Ran r = run(wrong[i].line);
        if (r.code != wrong[i].code || !strstr(str_get(&r.err), wrong[i].says))
            fail_msg("%s: exit %d, expected %d with '%s': %s", wrong[i].line, r.code, wrong[i].code, wrong[i].says,
                     str_get(&r.err));
        assert_true(r.out.n == 0);
        ran_release(&r);
    }
}

/* A run: every stage, memory of those that train, and nothing is written. */
static void test_run(void **state) {
    (void)state;
    Json *j = plan("plan " CONF " run.out=" DIR "/out pretrain.steps=10 --json");
    const Json *rows = json_get(j, "stages");
    int trains = 0;
    assert_string_equal(json_str(json_get(j, "schema"), NULL), "dikast-plan-run/1");
    assert_true(json_bool(json_get(j, "vocab_at_most"), false));
    for (int i = 0; i < json_len(rows); i++) {
        const Json *r = json_at(rows, i);
        assert_string_equal(json_str(json_get(r, "state"), NULL), "to do");
        if (!json_get(r, "device_bytes")) continue;
        double parts = num(r, "weight_bytes") + num(r, "gradient_bytes") + num(r, "optimizer_bytes") +
                       num(r, "activation_bytes") + num(r, "sum_bytes") + num(r, "other_bytes");
        assert_true(parts == num(r, "device_bytes") && num(r, "disk_bytes") > 0);
        if (num(r, "steps") > 0) assert_true(num(r, "seconds") > 0 && num(r, "flops") > 0);
        trains++;
    }
    assert_int_equal(trains, 5); /* pretrain, helpful, sl, pm, rl */
    json_release(j);
    assert_false(io_exists(DIR "/out"));
    Ran r = run("plan " CONF " run.out=" DIR "/out model.d_model=16384 model.n_layer=96 model.n_head=128");
    expect_code(&r, "a model of 300 billion parameters", 4);
    assert_non_null(strstr(str_get(&r.err), "pretrain needs"));
    assert_non_null(strstr(str_get(&r.out), "pretrain"));
    assert_false(io_exists(DIR "/out"));
    ran_release(&r);
}

static int setup(void **state) {
    (void)state;
    Error err = {0};
    return io_remove_tree(DIR, &err) && io_make_dirs(DIR, &err) ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_layouts_fit), cmocka_unit_test(test_scaling_rows),
                                       cmocka_unit_test(test_described_gpu), cmocka_unit_test(test_run),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, setup, NULL);
}
