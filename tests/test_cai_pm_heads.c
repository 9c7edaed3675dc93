// layer: cai
/* Several heads of a preference model: their labels, the bootstrap, and the one head they become. */
#include "cai_help.h"

#include <math.h>

#include "cai/pm_heads.h"
#include "engine_nets.h"

static const char CON[] = "{\"schema\":\"dikast-constitution/1\",\"id\":\"h\",\"principles\":["
                          "{\"id\":\"zero\",\"text\":\"a\",\"weight\":2},"
                          "{\"id\":\"one\",\"text\":\"b\",\"use\":[\"critique\"]},"
                          "{\"id\":\"two\",\"text\":\"c\",\"weight\":0.5}]}";

static void constitution(Constitution *c) {
    Error err = {0};
    *c = (Constitution){0};
    assert_ok(constitution_parse(c, CON, sizeof CON - 1, "t", &err), err);
}

static void near(double a, double b) {
    if (!(fabs(a - b) < 1e-6)) fail_msg("%.9g, expected %.9g", a, b);
}

static void plans(void **state) {
    (void)state;
    Constitution con;
    RunConfig c;
    PmHeads h;
    Error err = {0};
    constitution(&con);
    help_config(&c, NULL, (const char *const[]){NULL});
    assert_ok(pm_heads_plan(&h, &c, &con, &err), err);
    assert_true(h.n == 1 && h.share[0] == 1);
    c.pm.ensemble = 4;
    assert_ok(pm_heads_plan(&h, &c, &con, &err), err);
    assert_true(h.n == 4 && h.share[3] == 0.25);
    c.pm.heads = 1;
    assert_false(pm_heads_plan(&h, &c, &con, &err));
    assert_non_null(strstr(err.msg, "pm.ensemble"));
    c.pm.ensemble = 1;
    c.pm.shuffle = 3;
    assert_false(pm_heads_plan(&h, &c, &con, &err));
    assert_non_null(strstr(err.msg, "pm.shuffle"));
    c.pm.shuffle = 0;
    assert_ok(pm_heads_plan(&h, &c, &con, &err), err);
    assert_true(h.n == 3 && h.principle[0] == 0 && h.principle[1] == 2 && h.principle[2] == PM_HELPFUL);
    assert_true(h.share[0] == 2 && h.share[1] == 0.5 && h.share[2] == 1);
    const double l[3] = {1.5, NAN, -20}, silent[3] = {NAN, NAN, NAN};
    float q, w;
    Rng rng = {1, RNG_BOOT};
    pm_head_label(&q, &w, &h, 0, 0.3, l, false, 6, rng, 1);
    near((double)q, 1 / (1 + exp(-1.5)));
    assert_true(w == 1);
    pm_head_label(&q, &w, &h, 0, 0.3, l, true, 6, rng, 1); /* its sides were exchanged */
    near((double)q, 1 / (1 + exp(1.5)));
    pm_head_label(&q, &w, &h, 1, 0.3, l, false, 6, rng, 1);
    near((double)q, 1 / (1 + exp(6.0)));
    pm_head_label(&q, &w, &h, 2, 0.3, l, false, 6, rng, 1);
    assert_true(w == 0);
    pm_head_label(&q, &w, &h, 0, 0.3, silent, false, 6, rng, 1);
    assert_true(w == 0);
    pm_head_label(&q, &w, &h, 2, 0.3, NULL, true, 6, rng, 1); /* a helpfulness pair has one label */
    near((double)q, 0.3);
    assert_true(w == 1);
    pm_head_label(&q, &w, &h, 0, 0.3, NULL, true, 6, rng, 1);
    assert_true(w == 0);
    run_config_release(&c);
    constitution_release(&con);
}

/* Poisson(1): mean 1, variance 1, none of it for e^-1 of the pairs; heads draw apart. */
static void bootstrap(void **state) {
    (void)state;
    enum { N = 20000 };
    PmHeads h = {.n = 2};
    double sum = 0, sq = 0, both = 0, none = 0;
    for (uint64_t i = 0; i < N; i++) {
        float q, a, b;
        pm_head_label(&q, &a, &h, 0, 0.3, NULL, false, 6, (Rng){7, RNG_BOOT}, i);
        pm_head_label(&q, &b, &h, 1, 0.3, NULL, false, 6, (Rng){7, RNG_BOOT}, i);
        near((double)q, 0.3);
        sum += (double)a / N;
        sq += (double)(a * a) / N;
        both += (double)(a * b) / N;
        none += a == 0 ? 1.0 / N : 0;
    }
    assert_true(fabs(sum - 1) < 0.03 && fabs(sq - 2) < 0.1 && fabs(both - 1) < 0.05 && fabs(none - exp(-1)) < 0.015);
}

static void labels_of_principles(void **state) {
    (void)state;
    static const char rows[] = "{\"id\":\"a\",\"judged\":[{\"principle\":\"two\",\"l_ab\":3,\"l_ba\":-1},{"
                               "\"principle\":\"zero\",\"l_ab\":null,"
                               "\"l_ba\":null,\"miss\":\"CONTEXT\"}]}\n{\"id\":\"b\",\"judged\":[]}\n";
    char dir[256];
    double l[2 * 3];
    Constitution con;
    Error err = {0};
    constitution(&con);
    help_scratch(dir, "labels");
    help_write(dir, "labels.jsonl", rows);
    assert_ok(pm_labels_read(l, 2, &con, dir, &err), err);
    assert_true(isnan(l[0]) && isnan(l[1]) && l[2] == 2 && isnan(l[3]) && isnan(l[5]));
    assert_false(pm_labels_read(l, 1, &con, dir, &err));
    help_write(dir, "labels.jsonl", "{\"id\":\"a\",\"judged\":[{\"principle\":\"gone\",\"l_ab\":3,\"l_ba\":-1}]}\n");
    assert_false(pm_labels_read(l, 1, &con, dir, &err));
    assert_non_null(strstr(err.msg, "gone"));
    help_remove(dir);
    constitution_release(&con);
}

static void scores(float *out, Net net) {
    const int32_t tok[] = {5, 9, 2, 40};
    const Tokens seq[] = {{tok, 4}, {tok, 2}};
    Engine *e = NULL;
    Error err = {0};
    assert_true(engine_open(&e, net, &(EngineConfig){0}, &err));
    assert_ok(engine_score_last(e, seq, 2, out, &err), err);
    engine_close(e);
}

static void heads_become_one(void **state) {
    (void)state;
    Nets n;
    ModelConfig m = tiny_config(0);
    Error err = {0};
    StageNet pm = {0};
    const PmHeads h = {.n = 3, .share = {2, 0.5, -1}};
    float before[6], after[2];
    nets_open(&n, "cpu", 1, &m, 3);
    pm.m = n.model;
    assert_ok(head_init(&pm.h, &pm.m, HEAD_SCORE, 3, 11, false, &err), err);
    pm.net = (Net){&pm.m, &pm.h, NULL};
    scores(before, pm.net);
    assert_ok(pm_heads_sum(&pm, &h, 0.25, &err), err);
    assert_int_equal(pm.h.n_out, 1);
    scores(after, pm.net);
    for (int i = 0; i < 2; i++) {
        double want = 0.25 * (2 * (double)before[3 * i] + 0.5 * (double)before[3 * i + 1] - (double)before[3 * i + 2]);
        assert_true(fabs((double)after[i] - want) < 1e-5);
    }
    head_release(&pm.h);
    nets_close(&n);
}

/* pm.untrained: 1 is the head that a seed gives, 2 its mirror image bit for bit, 3 another one, 4 that one's. */
static void random_heads(void **state) {
    (void)state;
    Nets n;
    ModelConfig m = tiny_config(0);
    Error err = {0};
    StageNet pm = {0};
    float fresh[2], s[4][2];
    nets_open(&n, "cpu", 1, &m, 3);
    pm.m = n.model;
    assert_ok(head_init(&pm.h, &pm.m, HEAD_SCORE, 1, 11, false, &err), err);
    pm.net = (Net){&pm.m, &pm.h, NULL};
    scores(fresh, pm.net);
    for (int k = 0; k < 4; k++) {
        pm_heads_random(&pm, 11, k + 1);
        scores(s[k], pm.net);
    }
    for (int i = 0; i < 2; i++) {
        assert_true(fresh[i] != 0 && s[0][i] == fresh[i] && s[1][i] == -s[0][i]);
        assert_true(s[2][i] != s[0][i] && s[2][i] != s[1][i] && s[3][i] == -s[2][i]);
    }
    head_release(&pm.h);
    nets_close(&n);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(plans), cmocka_unit_test(bootstrap),
                                       cmocka_unit_test(labels_of_principles), cmocka_unit_test(heads_become_one),
                                       cmocka_unit_test(random_heads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
