// layer: train
/* The formulas of train/losses.h against arrays computed by the packages people use (TRL, OpenRLHF, verl, the
 * summarize-from-feedback code): tests/golden/rl_cases.json, where every case names its source and tolerance, by the
 * code of `dikast oracle`; and what is wrong with files that are not such. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/io.h"
#include "train/losses.h"
#include "train/oracle.h"
#include "train/rollout.h"

static bool run_file(OracleReport *r, const char *backend, const char *path, Error *err) {
    Pool *pool;
    Backend *be;
    *err = (Error){0};
    assert_true(pool_open(&pool, 1, err));
    assert_true(backend_open(&be, backend, pool, NULL, err));
    bool ok = oracle_run(r, path, be, err);
    backend_close(be);
    pool_close(pool);
    return ok;
}

static const struct {
    const char *function;
    int n_case;
} functions[] = {{"masked_whiten", 5},
                 {"kl_estimate", 8},
                 {"token_reward", 3},
                 {"gae", 5},
                 {"policy_loss", 10},
                 {"value_loss", 4},
                 {"aggregate", 7},
                 {"bt_loss", 5},
                 {"soft_bt", 1},
                 {"group_loss", 24},
                 {"log_softmax_gather", 3},
                 {"group_advantage", 4},
                 {"rloo_loss", 2},
                 {"reinforce_pp", 2},
                 {"reinforce_pp_baseline", 2},
                 {"dpo_loss", 5}};

static void test_reference_cases(void **state) {
    (void)state;
    static const char *const backends[] = {"ref", "cpu"};
    for (int b = 0; b < COUNT_OF(backends); b++) {
        Error err;
        OracleReport r;
        int n_case[COUNT_OF(functions)] = {0};
        if (!run_file(&r, backends[b], TEST_DIR "/golden/rl_cases.json", &err)) fail_msg("%s", err.msg);
        for (int i = 0; i < r.n; i++) {
            const OracleCase *c = &r.at[i];
            for (int f = 0; f < COUNT_OF(functions); f++) n_case[f] += !strcmp(functions[f].function, c->function);
            if (!c->ok) print_message("%s: %s is off by %.2e, allowed %.0e\n", c->id, c->worst, c->max_err, c->tol);
            assert_true(c->ok == (c->max_err <= c->tol));
        }
        assert_int_equal(r.n_failed, 0);
        assert_int_equal(r.n, 90);
        for (int f = 0; f < COUNT_OF(functions); f++) assert_int_equal(n_case[f], functions[f].n_case);
        oracle_release(&r);
    }
}

/* Cases of our own, whose results are numbers one can check by hand. */
#define BLOCK                                                                                                          \
    "\"lens\":[2,1],\"logp_old\":[[0,0],[0,9]],\"logp_new\":[[0,0],[0,9]],\"logp_ref\":[[0,0],[0,9]],"                 \
    "\"values\":[[0,0],[0,9]],\"vpred\":[[0,0],[0,9]],\"score\":[1,2],\"logits\":[[[0,0],[0,0]],[[0,0],[0,0]]],"       \
    "\"labels\":[[0,1],[1,0]]"

static bool run_text(OracleReport *r, const char *block, const char *cases, Error *err) {
    Str text = {0};
    str_printf(&text, "{\"format\":\"dikast-rl-cases/1\",\"blocks\":{\"b\":{%s}},\"cases\":[%s]}", block, cases);
    assert_true(io_write_file(BUILD_DIR "/scratch_oracle.json", text.s, text.n, err));
    bool ok = run_file(r, "ref", BUILD_DIR "/scratch_oracle.json", err);
    str_release(&text);
    return ok;
}

static void test_hand_made(void **state) {
    (void)state;
    Error err;
    OracleReport r;
    /* Means over 3 tokens, padding (9) left out; half off; an error is taken of 0.01 at least; two outputs, one wrong.
     */
    static const char cases[] =
        "{\"id\":\"a\",\"function\":\"aggregate\",\"block\":\"b\",\"tol\":1e-9,\"in\":{\"x\":[[1,2],[6,9]],"
        "\"mode\":\"token-mean\"},\"out\":{\"loss\":3}},"
        "{\"id\":\"b\",\"function\":\"aggregate\",\"block\":\"b\",\"tol\":0.5,\"in\":{\"x\":[[1,2],[6,9]],"
        "\"mode\":\"seq-mean-token-sum-norm\"},\"out\":{\"loss\":3}},"
        "{\"id\":\"c\",\"function\":\"aggregate\",\"block\":\"b\",\"tol\":0.49,\"in\":{\"x\":[[1,2],[6,9]],"
        "\"mode\":\"seq-mean-token-sum-norm\"},\"out\":{\"loss\":3}},"
        "{\"id\":\"d\",\"function\":\"kl_estimate\",\"block\":\"b\",\"tol\":0.1,\"in\":{\"kind\":\"k1\","
        "\"clamp\":null},\"out\":{\"kl\":[[0.001,0],[0,5]]}},"
        "{\"id\":\"e\",\"function\":\"group_advantage\",\"block\":\"b\",\"tol\":1e-12,\"in\":{\"kind\":\"rloo\","
        "\"group\":[7,7]},\"out\":{\"adv\":[[-1,-1],[1,0]]}},"
        "{\"id\":\"f\",\"function\":\"dpo_loss\",\"tol\":1e-9,\"in\":{\"pc\":[1],\"pr\":[1],\"qc\":[1],\"qr\":[1],"
        "\"beta\":0.5,\"label_smoothing\":0.25},\"out\":{\"loss\":0.6931471805599453,\"dpc\":[-0.1]}},"
        "{\"id\":\"g\",\"function\":\"soft_bt\",\"tol\":1e-9,\"in\":{\"d\":[0],\"q\":[1]},"
        "\"out\":{\"loss\":1.3862943611198906,\"dd\":[-0.5]}}";
    if (!run_text(&r, BLOCK, cases, &err)) fail_msg("%s", err.msg);
    static const double want[] = {0, 0.5, 0.5, 0.1, 0, 0.25, 0.5};
    static const bool ok[] = {true, true, false, true, true, false, false};
    assert_int_equal(r.n, COUNT_OF(want));
    assert_int_equal(r.n_failed, 3);
    for (int i = 0; i < r.n; i++) {
        assert_true(fabs(r.at[i].max_err - want[i]) < 1e-12);
        assert_true(r.at[i].ok == ok[i]);
    }
    assert_true(!strcmp(r.at[5].worst, "dpc") && !strcmp(r.at[6].worst, "loss"));
    oracle_release(&r);
}

#define IN(function, in, out)                                                                                          \
    "{\"id\":\"k\",\"function\":\"" function "\",\"block\":\"b\",\"tol\":1,\"in\":{" in "},\"out\":{" out "}}"
#define KL(in, out)                                                                                                    \
    "{\"id\":\"k\",\"function\":\"kl_estimate\",\"block\":\"b\",\"tol\":1,\"in\":{" in "},\"out\":{" out "}}"
#define OUT "\"kl\":[[0,0],[0,0]]"

/* Rows without tokens: verl leaves them out of a mean of rows, TRL counts them (RLOO with a ratio of 1), and a sum over
 * T is divided by T whatever rows there are. IPO is not smoothed. A block may have no more than its function reads.
 * Numbers by hand: 3 rows of lens 2, 0, 1; policy_loss at ratio 1 is -adv. */
static void test_bare_rows(void **state) {
    (void)state;
    static const char block[] =
        "\"lens\":[2,0,1],\"logp_old\":[[0,0],[5,5],[0,9]],\"logp_new\":[[0,0],[7,7],[0,9]],"
        "\"logp_ref\":[[0,0],[1,1],[0,9]],\"logits\":[[[0,0],[0,0]],[[0,0],[0,0]],[[0,0],[0,0]]],"
        "\"labels\":[[0,1],[1,0],[1,1]]";
#define POLICY(mode, loss)                                                                                             \
    IN("policy_loss", "\"adv\":[-1,-1,-4],\"eps_low\":0.2,\"eps_high\":0.2,\"aggregation\":\"" mode "\"",              \
       "\"loss\":" loss)
#define GROUP(kind, loss)                                                                                              \
    IN("group_loss",                                                                                                   \
       "\"adv\":[-1,-1,-4],\"eps_low\":0.2,\"eps_high\":0.2,\"level\":\"token\",\"max_len\":4,\"kind\":\"" kind "\"",  \
       "\"loss\":" loss)
    static const char *const cases[] = {
        POLICY("token-mean", "2"),
        POLICY("seq-mean-token-sum", "3"),
        POLICY("seq-mean-token-mean", "2.5"),
        POLICY("seq-mean-token-sum-norm", "3"),
        GROUP("bnpo", "2"),
        GROUP("luspo", "2"),
        GROUP("grpo", "1.6666666666666667"),
        GROUP("dr_grpo", "0.5"),
        IN("rloo_loss", "\"adv\":[-1,-3,-4],\"eps\":0.2", "\"loss\":2.6666666666666665"),
        IN("aggregate", "\"x\":[[1,1],[9,9],[4,9]],\"mode\":\"seq-mean-token-sum-norm\"", "\"loss\":3"),
        IN("dpo_loss", "\"pc\":[1],\"pr\":[1],\"qc\":[1],\"qr\":[1],\"beta\":0.5,\"label_smoothing\":0.25,\"ipo\":true",
           "\"loss\":1,\"dpc\":[-2]")};
    static const char alone[] =
        IN("log_softmax_gather", "\"temperature\":1", "\"ent\":[[0.6931471805599453,0.6931471805599453]]");
    Error err;
    OracleReport r;
    for (int i = 0; i < COUNT_OF(cases); i++) {
        if (!run_text(&r, block, cases[i], &err)) fail_msg("%s: %s", cases[i], err.msg);
        if (!(r.at[0].max_err < 1e-12)) fail_msg("%s: off by %g", cases[i], r.at[0].max_err);
        oracle_release(&r);
    }
    if (!run_text(&r, "\"logits\":[[[0,0],[0,0]]],\"labels\":[[0,1]]", alone, &err)) fail_msg("%s", err.msg);
    assert_true(r.at[0].max_err < 1e-6);
    oracle_release(&r);
}

static void test_bad_files(void **state) {
    (void)state;
    static const struct {
        const char *block, *cases, *says;
    } bad[] = {
        {BLOCK, "{\"id\":\"x\",\"function\":\"nope\",\"tol\":1}",
         "case 'x': unknown function 'nope'; these are known: log_softmax_gather masked_whiten"},
        {BLOCK, "{\"function\":\"gae\",\"tol\":1}", "case 0: "},
        {BLOCK, "{\"id\":\"x\",\"function\":\"gae\",\"in\":{},\"out\":{}}", "'tol'"},
        {BLOCK, "{\"id\":\"x\",\"function\":\"gae\",\"tol\":1,\"block\":\"q\"}", "no block 'q'"},
        {BLOCK, KL("\"kind\":\"k4\"", OUT), "'kind' is 'k4', expected one of: k1, k2, k3"},
        {BLOCK, KL("\"clamp\":1", OUT), "'kind' is missing, expected one of: k1, k2, k3"},
        {BLOCK, KL("\"kind\":3", OUT), "'kind' is not a string, expected one of: k1, k2, k3"},
        {BLOCK, KL("\"kind\":\"k1\",\"clap\":1", OUT), "unknown 'clap' in 'in'"},
        {BLOCK, KL("\"kind\":\"k1\"", OUT ",\"loss\":1"), "unknown 'loss' in 'out'"},
        {BLOCK, KL("\"kind\":\"k1\"", ""), "'out' is empty"},
        {BLOCK, KL("\"kind\":\"k1\",\"clamp\":\"a\"", OUT), "'clamp': expected a finite number"},
        {BLOCK, KL("\"kind\":\"k1\"", "\"kl\":[[0,0]]"), "'kl' has 1 rows, expected 2"},
        {BLOCK, KL("\"kind\":\"k1\"", "\"kl\":[[0,0],[0]]"), "'kl' has 1 entries, expected 2"},
        {BLOCK, KL("\"kind\":\"k1\"", "\"kl\":3"), "'kl' is missing or no array"},
        {"\"lens\":[3,1],\"logp_old\":[[0,0],[0,0]]", KL("\"kind\":\"k1\"", OUT), "lens[0] is 3"},
        {"\"lens\":[1.5,1],\"logp_old\":[[0,0],[0,0]]", KL("\"kind\":\"k1\"", OUT), "lens[0] is 1.5"},
        {"\"lens\":[0,0],\"logp_old\":[[0,0],[0,0]]", KL("\"kind\":\"k1\"", OUT), "no token counts"},
        {"\"lens\":[1,1],\"logp_old\":[[0,0],[0,0]]", KL("\"kind\":\"k1\"", OUT), "'logp_ref' is missing"},
        {"\"lens\":[1,1]", KL("\"kind\":\"k1\"", OUT), "'logp_old' is missing or no array"},
        {"\"lens\":[1,1]", KL("\"kind\":\"k1\"", "\"kl\":3"), "block: no tensor of rows of tokens"},
        {BLOCK, IN("value_loss", "\"returns\":[[0,0],[0,0]],\"clip\":0", "\"loss\":0"),
         "'clip' is 0, expected a number above"},
        {BLOCK, IN("token_reward", "\"beta\":1,\"clip\":[1,-1]", "\"reward\":[[0,0],[0,0]]"), "the lower bound first"},
        {BLOCK,
         IN("group_loss",
            "\"adv\":[1,1],\"kind\":\"dr_grpo\",\"level\":\"token\",\"eps_low\":0,\"eps_high\":0,\"max_len\":0",
            "\"loss\":0"),
         "'max_len' is 0, expected a number above 0"},
        {"\"lens\":[2],\"logp_old\":[[0,0]],\"logits\":[[[0,0],[0]]],\"labels\":[[0,0]]",
         "{\"id\":\"l\",\"function\":\"log_softmax_gather\",\"block\":\"b\",\"tol\":1,\"in\":{\"temperature\":1},"
         "\"out\":{\"logp\":[[0,0]]}}",
         "'logits' has 1 entries, expected 2"},
        {"\"lens\":[2],\"logp_old\":[[0,0]],\"logits\":[[[0,0],[0,0]]],\"labels\":[[0,2]]",
         "{\"id\":\"l\",\"function\":\"log_softmax_gather\",\"block\":\"b\",\"tol\":1,\"in\":{\"temperature\":1},"
         "\"out\":{\"logp\":[[0,0]]}}",
         "label 2, expected a whole number in 0..1"},
    };
    for (int i = 0; i < COUNT_OF(bad); i++) {
        Error err;
        OracleReport r;
        assert_false(run_text(&r, bad[i].block, bad[i].cases, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        if (!strstr(err.msg, bad[i].says)) fail_msg("'%s' does not say '%s'", err.msg, bad[i].says);
        assert_non_null(strstr(err.msg, "scratch_oracle.json"));
    }
    Error err = {0};
    OracleReport r;
    static const char other[] = "{\"format\":\"dikast-rl-cases/2\",\"cases\":[]}";
    assert_true(io_write_file(BUILD_DIR "/scratch_oracle.json", other, sizeof other - 1, &err));
    assert_false(run_file(&r, "ref", BUILD_DIR "/scratch_oracle.json", &err));
    assert_non_null(strstr(err.msg, "unknown format 'dikast-rl-cases/2', expected 'dikast-rl-cases/1'"));
    assert_true(io_remove_tree(BUILD_DIR "/scratch_oracle.json", &err));
}

/* Where no package computes them: edges that tensors of random numbers do not reach. */
static void test_edges(void **state) {
    (void)state;
    double da, db, y[2] = {3, 3};
    for (int sign = -1; sign <= 1; sign += 2) { /* |D| up to 1e4: finite loss, exact slope */
        double l = preference_loss(&da, &db, sign * 5e3, -sign * 5e3, 1, 0, 0);
        assert_true(sign > 0 ? l == 0 && da == 0 : l == 1e4 && da == -1);
        assert_true(db == -da);
    }
    assert_true(preference_loss(&da, &db, 2, 2, 0.5, 0, 0) == log(2) && da == 0 && db == 0);
    assert_true(sigmoid(0) == 0.5 && sigmoid(1e4) == 1 && sigmoid(-1e4) == 0);

    whiten(y, 2, true, false); /* no spread: finite, zero */
    assert_true(y[0] == 0 && y[1] == 0);
    whiten(y, 1, true, true);
    assert_true(y[0] == 0);

    int64_t off[] = {0, 0, 3}; /* an empty sequence owns no token */
    double score[] = {7, -2}, lp[] = {-1, -1, -1}, r[3], v[3] = {0.5, 0.25, 0.125}, adv[3], ret[3];
    ppo_rewards(r, lp, lp, off, score, 2, 0.1, 0, NULL);
    assert_true(r[0] == 0 && r[1] == 0 && r[2] == -2);
    ppo_gae(adv, ret, r, v, off, 2, 1, 1);
    assert_true(adv[0] == -2.5 && ret[0] == -2 && ret[2] == -2); /* lambda 1: the return is what follows */
    double bound[2] = {-1, 0.5};
    ppo_rewards(r, lp, lp, off, score, 2, 0.1, 0, bound);
    assert_true(r[2] == -1);
    reward_to_go(ret, v, off, 2, 0.5);
    assert_true(ret[2] == 0.125 && ret[1] == 0.3125 && ret[0] == 0.65625);

    double dlp; /* ratio 1 exactly: both branches tie, the gradient is the plain policy gradient */
    PpoTerm t = policy_token(&dlp, &(PolicyRule){.clip = {0.2, 0.2, 3}}, NULL, -0.7, -0.7, 0, 1.5);
    assert_true(t.loss == -1.5 && dlp == -1.5 && t.ratio == 1 && t.clipfrac == 0 && t.approx_kl == 0);
    t = policy_token(&dlp, &(PolicyRule){.clip = {0.2, 0.2, 0}}, NULL, 0, -30, 0,
                     -1); /* beyond the cut: value held, no gradient */
    assert_true(dlp == 0 && t.loss == exp(20) && t.ppo_kl == -20 && t.log_ratio == 30 && t.approx_kl == 450);
    double dv, clipped;
    assert_true(ppo_value_token(&dv, &clipped, 5, 1, 2, 0) == 4.5 && dv == 3 && clipped == 0);

    assert_true(fabs(kl_controller(0.1, 12, 6, 256, 10000) - 0.1 * (1 + 0.2 * 0.0256)) < 1e-15);
    assert_true(fabs(kl_controller(0.1, 5.4, 6, 100, 1000) - 0.1 * (1 - 0.1 * 0.1)) < 1e-15);
    assert_true(kl_controller(0.1, 0, 6, 100, 1000) == 0.1 * (1 - 0.2 * 0.1));
}

static void test_groups(void **state) {
    (void)state;
    /* 0.1 three times: their mean is not 0.1 to the last bit, their advantages are 0 all the same. Then a group of two.
     */
    double score[5] = {0.1, 0.1, 0.1, 3, 1}, adv[5], dlp;
    int64_t off[] = {0, 3, 5};
    assert_int_equal(group_advantages(adv, score, off, 2, GROUP_SD, 1e-4), 1);
    assert_true(adv[0] == 0 && adv[1] == 0 && adv[2] == 0);
    assert_true(fabs(adv[3] - 1 / (sqrt(2) + 1e-4)) < 1e-15 && adv[4] == -adv[3]);
    assert_int_equal(group_advantages(adv, score, off, 2, GROUP_OTHERS, 0), 1);
    assert_true(adv[0] == 0 && adv[3] == 2 && adv[4] == -2); /* 3 less the other's 1 */
    assert_int_equal(group_advantages(adv, score, off, 2, GROUP_BATCH_SD, 0), 1);
    double sd = sqrt((3 * 0.76 * 0.76 + 2.14 * 2.14 + 0.14 * 0.14) / 4); /* about the mean of all, 0.86 */
    assert_true(adv[1] == 0 && fabs(adv[3] - 1 / sd) < 1e-14);
    assert_int_equal(group_advantages(adv, score, off, 2, GROUP_CENTRED, 1e-4), 1);
    assert_true(adv[0] == 0 && adv[3] == 1 && adv[4] == -1);
    group_advantages(score, score, off, 2, GROUP_CENTRED, 0); /* in place */
    assert_memory_equal(score, adv, sizeof adv);

    PolicyRule rule = {.clip = {0.2, 0.2, 0, 0, 0}, .kl_beta = 0.5, .kl_by_ratio = true};
    PpoTerm t = policy_token(&dlp, &rule, NULL, -0.7, -1.2, -0.7, 0); /* policy = reference: no loss, no pull */
    assert_true(t.kl_loss == 0 && dlp == 0 && t.ratio > 1.6);
    policy_token(&dlp, &rule, NULL, -0.7, -0.7, -1.1,
                 0); /* on policy the slope is beta (lp - lr): that of the KL itself */
    assert_true(fabs(dlp - 0.5 * 0.4) < 1e-15);

    rule = (PolicyRule){.clip = {0.2, 0.4, 0, 1.1, 0}}; /* delta within the clip range */
    t = policy_token(&dlp, &rule, NULL, log(1.3), 0, 0, 1);
    assert_true(fabs(t.loss + 1.1) < 1e-15 && dlp == 0);
    t = policy_token(&dlp, &rule, NULL, log(1.3), 0, 0,
                     -1); /* the clipped branch is the worse one, and not at its bound */
    assert_true(fabs(t.loss - 1.3) < 1e-15 && fabs(dlp - 1.3) < 1e-15);

    int64_t len[] = {0, 2, 5};
    double x[5] = {1, 2, 3, 4, 6};
    static const double want[] = {16.0 / 5, 16.0 / 2, (1.5 + 13.0 / 3) / 2, 16.0 / (2 * 4)};
    for (int k = 0; k < 4; k++) { /* over tokens, sums, means, sums by B max_len */
        double sum = 0, total = 0;
        for (int s = 0; s < 2; s++)
            for (int64_t i = len[s]; i < len[s + 1]; i++) {
                TokenShare share = aggregate_token((Aggregation)k, len[s + 1] - len[s], 4);
                sum += share.weight * x[i];
                total += share.share;
            }
        assert_true(fabs(sum / total - want[k]) < 1e-14);
    }
}

/* The variants against their equations at a hard label, and what robust is for: over labels of which a share e is
 * flipped, its mean is the plain loss on the true ones. */
static void test_dpo_variants(void **state) {
    (void)state;
    double slope;
    for (int i = 0; i < 50; i++) {
        double d = 8 * sin(i * 1.7), z = 0.4 * d, e = 0.05 + 0.008 * i;
        double good = log1p(exp(-z)), bad = log1p(exp(z));
        double robust = dpo_loss(&slope, d, 1, (DpoRule){0.4, e, DPO_ROBUST});
        assert_true(fabs(robust - ((1 - e) * good - e * bad) / (1 - 2 * e)) < 1e-12);
        double flipped = dpo_loss(&slope, d, 0, (DpoRule){0.4, e, DPO_ROBUST});
        assert_true(fabs((1 - e) * robust + e * flipped - dpo_loss(&slope, d, 1, (DpoRule){0.4, 0, DPO_SIGMOID})) <
                    1e-12);
        assert_true(fabs(dpo_loss(&slope, d, 1, (DpoRule){0.4, 0, DPO_HINGE}) - (z < 1 ? 1 - z : 0)) < 1e-14);
        assert_true(slope == (z < 1 ? -0.4 : 0));
        assert_true(fabs(dpo_loss(&slope, d, 0, (DpoRule){0.4, 0, DPO_HINGE}) - (z > -1 ? 1 + z : 0)) < 1e-14);
    }
}

/* dlp, dv, da, db, dz are the derivatives of what the functions return. */
static void test_gradients(void **state) {
    (void)state;
    const double h = 1e-6;
    for (int i = 0; i < 200; i++) {
        double u = sin(i * 1.7), w = cos(i * 2.3), a, b, p, m, unused;
        ppo_value_token(&a, &unused, u, w, 0.3, 0.2);
        p = ppo_value_token(&b, &unused, u + h, w, 0.3, 0.2);
        m = ppo_value_token(&b, &unused, u - h, w, 0.3, 0.2);
        assert_true(fabs((p - m) / (2 * h) - a) < 1e-6);
        for (int kind = DPO_SIGMOID; kind <= DPO_HINGE; kind++) {
            DpoRule rule = {0.3, 0.1, (DpoKind)kind};
            dpo_loss(&a, 3 * u, 0.5 + 0.5 * w, rule);
            p = dpo_loss(&b, 3 * u + h, 0.5 + 0.5 * w, rule);
            m = dpo_loss(&b, 3 * u - h, 0.5 + 0.5 * w, rule);
            assert_true(fabs((p - m) / (2 * h) - a) < 1e-6);
        }
        double q = 0.5 + 0.5 * u, da, db;
        preference_loss(&da, &db, u, w, q, 0.1, 0.01);
        p = preference_loss(&a, &b, u + h, w, q, 0.1, 0.01) - preference_loss(&a, &b, u - h, w, q, 0.1, 0.01);
        m = preference_loss(&a, &b, u, w + h, q, 0.1, 0.01) - preference_loss(&a, &b, u, w - h, q, 0.1, 0.01);
        assert_true(fabs(p / (2 * h) - da) < 1e-6 && fabs(m / (2 * h) - db) < 1e-6);
        logistic_loss(&da, w, q);
        p = logistic_loss(&a, w + h, q) - logistic_loss(&a, w - h, q);
        assert_true(fabs(p / (2 * h) - da) < 1e-6);
    }
}

/* Loss of a whole reply under weights that agree. */
static double reply_loss(double *dlp, const PolicyRule *rule, const double *lp, const double *old, const double *ref,
                         double adv, int n) {
    ReplySum sum = {0};
    double loss = 0;
    for (int t = 0; t < n; t++) reply_sum_add(&sum, lp[t], old[t], ref[t]);
    for (int t = 0; t < n; t++) {
        PpoTerm term = policy_token(&dlp[t], rule, &sum, lp[t], old[t], ref[t], adv);
        loss += term.loss + term.kl_loss;
    }
    return loss;
}

/* Every term at every level with every kind of KL: slopes are the derivatives of the reply's loss. */
static void test_policy_gradients(void **state) {
    (void)state;
    enum { N = 3 };
    const double h = 1e-6;
    for (int i = 0; i < 3 * 3 * 3 * 40; i++) {
        int k = i / 40;
        PolicyRule rule = {.clip = {0.2, 0.28, 3, 0, 0}, .term = (PolicyTerm)(k % 3), .level = (RatioLevel)(k / 3 % 3)};
        rule.kl_beta = k / 9 ? 0.3 : 0, rule.kl_by_ratio = k / 9 == 2;
        if (rule.term == TERM_CISPO) rule.clip.eps_high = 1.1; /* the weight has no gradient: see below */
        double lp[N], old[N], ref[N], dlp[N], unused[N], adv = cos(i * 0.7);
        for (int t = 0; t < N; t++) {
            lp[t] = -1 + 0.3 * sin(i + 5.1 * t);
            old[t] = -1 + 0.3 * cos(2 * i + t);
            ref[t] = -1 + 0.5 * sin(3 * i + t);
        }
        double all = reply_loss(dlp, &rule, lp, old, ref, adv, N);
        assert_true(isfinite(all));
        for (int t = 0; t < N; t++) {
            double keep = lp[t], held = 0;
            lp[t] = keep + h;
            double p = reply_loss(unused, &rule, lp, old, ref, adv, N);
            lp[t] = keep - h;
            double m = reply_loss(unused, &rule, lp, old, ref, adv, N);
            lp[t] = keep;
            if (rule.term ==
                TERM_CISPO) { /* less what comes by the weight: its change times A lp of every token it weighs */
                double d = rule.level == RATIO_TOKEN ? lp[t] - old[t] : 0, along = lp[t], one = 1;
                if (rule.level != RATIO_TOKEN) {
                    along = 0;
                    for (int u = 0; u < N; u++) d += lp[u] - old[u], along += lp[u];
                    if (rule.level == RATIO_SEQ_MEAN) d /= N, one = 1.0 / N;
                }
                if (exp(d) < rule.clip.eps_high) held = -exp(d) * one * adv * along;
            }
            assert_true(fabs((p - m) / (2 * h) - held - dlp[t]) < 1e-5);
        }
    }
}

/* From two replies of 1 and 2 tokens to advantages, by hand; 2 prompts' groups in one update look alike. */
static void test_advantages(void **state) {
    (void)state;
    const double lp[3] = {-1, -2, -0.5}, lr[3] = {-1.5, -2.5, -1}, score[2] = {1, 0}, kl[2] = {0.5, 1}, beta = 0.2;
    int64_t off[3] = {0, 1, 3};
    /* RLOO: 1 - .1 against 0 - .2. REINFORCE++ with token rewards .9, -.1, -.1: what follows is .9, -.2, -.1. */
    static const double want[RL_METHODS][3] = {[RL_GRPO] = {0.5, -0.5, -0.5},
                                               [RL_RLOO] = {1.1, -1.1, -1.1},
                                               [RL_REINFORCE_PP] = {0.9, -0.2, -0.1},
                                               [RL_REINFORCE_PP_BASELINE] = {0.55, -0.55, -0.55}};
    for (RlMethod m = RL_GRPO; m < RL_DPO; m++) {
        Error err = {0};
        double adv[3];
        Experience x = {.n = 2, .n_tok = 3, .off = off, .lp = (double *)lp, .lr = (double *)lr, .adv = adv};
        x.score = (double *)score, x.kl = (double *)kl;
        PpoConfig c = {.method = m, .group = 2, .group_kind = GROUP_CENTRED, .gamma = 1};
        assert_true(experience_judge(&x, &c, beta, NULL, &err));
        for (int t = 0; t < 3; t++) assert_true(fabs(adv[t] - want[m][t]) < 1e-12);
        c.whiten_advantages = true;
        assert_true(experience_judge(&x, &c, beta, NULL, &err));
        bool whitens = m == RL_REINFORCE_PP || m == RL_REINFORCE_PP_BASELINE;
        assert_true((fabs(adv[0] + adv[1] + adv[2]) < 1e-9) == whitens);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_cases),
        cmocka_unit_test(test_hand_made),
        cmocka_unit_test(test_bare_rows),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_dpo_variants),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_policy_gradients),
        cmocka_unit_test(test_advantages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
