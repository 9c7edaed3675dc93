// layer: train
/* The formulas of train/losses.h against arrays computed by the packages people use (TRL, OpenRLHF, verl, the
 * summarize-from-feedback code): tests/golden/rl_cases.json, where every case names its source and tolerance. The error
 * of an output is its largest absolute difference over max(0.01, largest absolute reference value). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/json.h"
#include "tensor/backend.h"
#include "train/losses.h"

typedef struct {
    double *x;
    int64_t n;
} Array;

typedef struct {
    Json *root;
    int n_run, n_fail;
} Golden;

typedef struct { /* one case, with its block's tensors cut to the tokens that count */
    const Json *in, *out, *block;
    const char *id;
    double tol;
    int64_t off[16];
    int n_seq, n_col;
    Array lp_old, lp_new, lp_ref, v_old, v_new, score;
    Golden *golden;
} Case;

static void append(Array *a, const Json *j) {
    if (json_kind(j) == JSON_ARR) {
        for (int i = 0; i < json_len(j); i++) append(a, json_at(j, i));
        return;
    }
    a->x = mem_grow(a->x, (size_t)(a->n + 1) * sizeof(double));
    a->x[a->n++] = json_num(j, NAN);
}

static Array array(const Json *j) {
    Array a = {0};
    append(&a, j);
    return a;
}

/* Rows of a (B,T) matrix, each cut to its length, one after another. */
static Array ragged(const Case *c, const Json *j) {
    Array all = array(j), a = {mem_alloc((size_t)c->off[c->n_seq] * sizeof(double)), c->off[c->n_seq]};
    assert_int_equal(all.n, c->n_seq * c->n_col);
    for (int s = 0; s < c->n_seq; s++)
        for (int64_t t = c->off[s]; t < c->off[s + 1]; t++) a.x[t] = all.x[s * c->n_col + t - c->off[s]];
    free(all.x);
    return a;
}

static Array zeros(int64_t n) { return (Array){mem_alloc((size_t)n * sizeof(double)), n}; }

static void expect(const Case *c, const char *name, const double *x, Array ref) {
    double top = 0.01, gap = 0;
    for (int64_t i = 0; i < ref.n; i++) {
        top = fmax(top, fabs(ref.x[i]));
        double d = fabs(x[i] - ref.x[i]);
        if (!(d <= gap)) gap = d;
    }
    c->golden->n_run++;
    if (!(gap / top <= c->tol)) {
        c->golden->n_fail++;
        print_message("%s: %s is off by %.2e of %.2e, allowed %.0e\n", c->id, name, gap, top, c->tol);
    }
    free(ref.x);
}

static void expect_ragged(const Case *c, const char *name, const double *x) {
    const Json *ref = json_get(c->out, name);
    if (ref) expect(c, name, x, ragged(c, ref));
}

static void expect_array(const Case *c, const char *name, const double *x) {
    const Json *ref = json_get(c->out, name);
    if (ref) expect(c, name, x, array(ref));
}

static double num(const Case *c, const char *key) { return json_num(json_get(c->in, key), 0); }
static bool flag(const Case *c, const char *key) { return json_bool(json_get(c->in, key), false); }
static const char *word(const Case *c, const char *key) { return json_str(json_get(c->in, key), NULL); }

static Aggregation aggregation(const char *s) {
    if (!strcmp(s, "token-mean")) return AGG_TOKEN_MEAN;
    if (!strcmp(s, "seq-mean-token-sum")) return AGG_SEQ_MEAN_TOKEN_SUM;
    if (!strcmp(s, "seq-mean-token-mean")) return AGG_SEQ_MEAN_TOKEN_MEAN;
    assert_string_equal(s, "seq-mean-token-sum-norm");
    return AGG_SEQ_SUM_NORM;
}

/* What aggregate() weighs each token with: the gradient of the aggregate. */
static double token_weight(const Case *c, Aggregation kind, int64_t t) {
    if (kind == AGG_TOKEN_MEAN) return 1.0 / (double)c->off[c->n_seq];
    int s = 0;
    while (c->off[s + 1] <= t) s++;
    return 1.0 / (double)(c->off[s + 1] - c->off[s]) / c->n_seq;
}

static void case_whiten(const Case *c) {
    Array x = ragged(c, json_get(c->in, "x"));
    whiten(x.x, x.n, flag(c, "shift_mean"), flag(c, "unbiased"));
    expect_ragged(c, "out", x.x);
    free(x.x);
}

static void case_kl(const Case *c) {
    Array kl = zeros(c->off[c->n_seq]);
    const char *kind = word(c, "kind");
    for (int64_t t = 0; t < kl.n; t++)
        kl.x[t] = kl_estimate(c->lp_old.x[t], c->lp_ref.x[t], (KlKind)(kind[1] - '1'), num(c, "clamp"));
    expect_ragged(c, "kl", kl.x);
    free(kl.x);
}

static void case_reward(const Case *c) {
    Array r = zeros(c->off[c->n_seq]);
    ppo_rewards(r.x, c->lp_old.x, c->lp_ref.x, c->off, c->score.x, c->n_seq, num(c, "beta"), num(c, "clamp"),
                json_num(json_at(json_get(c->in, "clip"), 1), 0));
    expect_ragged(c, "reward", r.x);
    free(r.x);
}

static void case_gae(const Case *c) {
    Array r = zeros(c->off[c->n_seq]), ret = zeros(r.n);
    ppo_rewards(r.x, c->lp_old.x, c->lp_ref.x, c->off, c->score.x, c->n_seq, num(c, "beta"), 0, 0);
    ppo_gae(r.x, ret.x, r.x, c->v_old.x, c->off, c->n_seq, num(c, "gamma"), num(c, "lambda"));
    whiten(r.x, r.n, true, flag(c, "unbiased"));
    expect_ragged(c, "adv_whitened", r.x);
    expect_ragged(c, "returns", ret.x);
    free(r.x);
    free(ret.x);
}

/* Cases give either one advantage per row or one per token. */
static Array advantages(const Case *c) {
    const Json *j = json_get(c->in, "adv");
    if (json_kind(json_at(j, 0)) == JSON_ARR) return ragged(c, j);
    Array row = array(j), a = zeros(c->off[c->n_seq]);
    for (int s = 0; s < c->n_seq; s++)
        for (int64_t t = c->off[s]; t < c->off[s + 1]; t++) a.x[t] = row.x[s];
    free(row.x);
    return a;
}

static void case_policy(const Case *c) {
    PpoClip clip = {num(c, "eps_low"), num(c, "eps_high"), num(c, "dual_clip")};
    Aggregation kind = aggregation(word(c, "aggregation"));
    Array adv = advantages(c), loss = zeros(adv.n), dlp = zeros(adv.n);
    double clipfrac = 0, dual = 0, kl = 0, n = (double)adv.n;
    for (int64_t t = 0; t < adv.n; t++) {
        PpoTerm p = ppo_policy_token(&dlp.x[t], c->lp_new.x[t], c->lp_old.x[t], adv.x[t], clip);
        loss.x[t] = p.loss;
        dlp.x[t] *= token_weight(c, kind, t);
        clipfrac += p.clipfrac / n;
        dual += p.clipfrac_dual / n;
        kl += (flag(c, "kl_raw") ? c->lp_old.x[t] - c->lp_new.x[t] : p.ppo_kl) / n;
        double raw = c->lp_new.x[t] - c->lp_old.x[t];
        assert_true(p.approx_kl == 0.5 * raw * raw);
        assert_true(p.ratio == exp(fmin(20, fmax(-20, raw))));
    }
    double total = aggregate(loss.x, c->off, c->n_seq, kind, c->n_col);
    expect_array(c, "loss", &total);
    expect_array(c, "clipfrac", &clipfrac);
    expect_array(c, "clipfrac_lower", &dual);
    expect_array(c, "ppo_kl", &kl);
    expect_ragged(c, "dlogp", dlp.x);
    free(adv.x);
    free(loss.x);
    free(dlp.x);
}

/* GRPO's loss on the minibatch machinery's own terms: weights and shares of tokens, as they come. TRL's delta is our
 * dual clip: it acts on negative advantages alone once delta is beyond the clip range. */
static void case_group_loss(const Case *c) {
    static const struct {
        const char *kind;
        Aggregation as;
    } kinds[] = {{"grpo", AGG_SEQ_MEAN_TOKEN_MEAN},
                 {"bnpo", AGG_TOKEN_MEAN},
                 {"dapo", AGG_TOKEN_MEAN},
                 {"dr_grpo", AGG_SEQ_SUM_NORM},
                 {"luspo", AGG_SEQ_MEAN_TOKEN_SUM}};
    int k = 0;
    while (strcmp(kinds[k].kind, word(c, "kind"))) k++;
    PpoClip clip = {num(c, "eps_low"), num(c, "eps_high"), num(c, "delta")};
    Array adv = advantages(c), dlp = zeros(adv.n);
    double loss = 0, total = 0;
    for (int s = 0; s < c->n_seq; s++)
        for (int64_t t = c->off[s]; t < c->off[s + 1]; t++) {
            TokenShare share = aggregate_token(kinds[k].as, c->off[s + 1] - c->off[s], num(c, "max_len"));
            PpoTerm p = ppo_policy_token(&dlp.x[t], c->lp_new.x[t], c->lp_old.x[t], adv.x[t], clip);
            double kl = grpo_kl_token(&dlp.x[t], c->lp_new.x[t], c->lp_old.x[t], c->lp_ref.x[t], num(c, "beta"),
                                      flag(c, "kl_ratio"));
            dlp.x[t] *= share.weight;
            loss += share.weight * (p.loss + kl);
            total += share.share;
        }
    loss /= total;
    for (int64_t t = 0; t < dlp.n; t++) dlp.x[t] /= total;
    expect_array(c, "loss", &loss);
    expect_ragged(c, "dlogp", dlp.x);
    free(adv.x);
    free(dlp.x);
}

static void case_group_advantage(const Case *c) {
    Array group = array(json_get(c->in, "group")), adv = zeros(group.n), token = zeros(c->off[c->n_seq]);
    int64_t off[16] = {0};
    int n_group = 0;
    for (int64_t i = 0; i < group.n; i++) {
        n_group = (int)group.x[i] + 1;
        off[n_group] = i + 1;
    }
    assert_int_equal(group_advantages(adv.x, c->score.x, off, n_group, true, num(c, "eps")), 0);
    for (int s = 0; s < c->n_seq; s++)
        for (int64_t t = c->off[s]; t < c->off[s + 1]; t++) token.x[t] = adv.x[s];
    expect_ragged(c, "adv", token.x);
    free(group.x);
    free(adv.x);
    free(token.x);
}

static void case_value(const Case *c) {
    Array ret = ragged(c, json_get(c->in, "returns")), dv = zeros(ret.n);
    double loss = 0, clipfrac = 0, n = (double)ret.n;
    for (int64_t t = 0; t < ret.n; t++) {
        double clipped;
        loss += ppo_value_token(&dv.x[t], &clipped, c->v_new.x[t], c->v_old.x[t], ret.x[t], num(c, "clip")) / n;
        dv.x[t] /= n;
        clipfrac += clipped / n;
    }
    expect_array(c, "loss", &loss);
    expect_array(c, "clipfrac", &clipfrac);
    expect_ragged(c, "dv", dv.x);
    free(ret.x);
    free(dv.x);
}

static void case_aggregate(const Case *c) {
    Array x = ragged(c, json_get(c->in, "x"));
    double loss = aggregate(x.x, c->off, c->n_seq, aggregation(word(c, "mode")), c->n_col);
    expect_array(c, "loss", &loss);
    free(x.x);
}

static void case_bt(const Case *c) {
    Array a = array(json_get(c->in, "chosen")), b = array(json_get(c->in, "rejected")), dr = zeros(2 * a.n);
    const Json *j = json_get(c->in, "margin");
    Array margin = j ? array(j) : zeros(a.n);
    double loss = 0, n = (double)a.n;
    for (int64_t i = 0; i < a.n; i++) {
        loss += preference_loss(&dr.x[i], &dr.x[a.n + i], a.x[i], b.x[i], 1, margin.x[i], num(c, "center")) / n;
        dr.x[i] /= n;
        dr.x[a.n + i] /= n;
    }
    expect_array(c, "loss", &loss);
    expect_array(c, "dr", dr.x);
    free(a.x);
    free(b.x);
    free(dr.x);
    free(margin.x);
}

/* Both users of the soft loss: the pair (gradient of a = of d) and the classifier, which is the same with b = 0. */
static void case_soft(const Case *c) {
    Array d = array(json_get(c->in, "d")), q = array(json_get(c->in, "q")), dd = zeros(d.n), dz = zeros(d.n);
    double loss = 0, loss_z = 0, n = (double)d.n, db;
    for (int64_t i = 0; i < d.n; i++) {
        loss += preference_loss(&dd.x[i], &db, d.x[i] + 0.5, 0.5, q.x[i], 0, 0) / n;
        assert_true(db == -dd.x[i]);
        loss_z += logistic_loss(&dz.x[i], d.x[i], q.x[i]) / n;
        dd.x[i] /= n;
        dz.x[i] /= n;
    }
    expect_array(c, "loss", &loss);
    expect_array(c, "loss", &loss_z);
    expect_array(c, "dd", dd.x);
    expect_array(c, "dd", dz.x);
    free(d.x);
    free(q.x);
    free(dd.x);
    free(dz.x);
}

static void case_logprob(const Case *c) {
    static const char *const names[] = {"ref", "cpu"};
    for (int k = 0; k < COUNT_OF(names); k++) {
        Error err;
        Pool *pool;
        Backend *be;
        assert_true(pool_open(&pool, 1, &err));
        assert_true(backend_open(&be, names[k], pool, NULL, &err));
        Array z = array(json_get(c->block, "logits")), label = array(json_get(c->block, "labels"));
        Array lp = zeros(label.n), ent = zeros(label.n);
        int32_t *target = mem_alloc((size_t)label.n * sizeof(int32_t));
        for (int64_t i = 0; i < label.n; i++) target[i] = (int32_t)label.x[i];
        Arena arena;
        assert_true(arena_init(&arena, "logprob case", be->mem, 1 << 20, &err));
        Tensor logits = tensor_place(&arena, be->real, label.n, z.n / label.n);
        Tensor t_lp = tensor_place(&arena, be->real, label.n, 1), t_ent = tensor_place(&arena, be->real, label.n, 1);
        tensor_set(be, logits, z.x);
        be->op->logprob_fwd(be, t_lp, t_ent, logits, target, (float)num(c, "temperature"));
        tensor_get(be, lp.x, t_lp);
        tensor_get(be, ent.x, t_ent);
        expect_array(c, "logp", lp.x);
        expect_array(c, "ent", ent.x);
        arena_release(&arena);
        free(target);
        free(z.x);
        free(label.x);
        free(lp.x);
        free(ent.x);
        backend_close(be);
        pool_close(pool);
    }
}

static const struct {
    const char *function;
    void (*run)(const Case *c);
    int n_case;
} functions[] = {
    // clang-format off
    {"masked_whiten", case_whiten, 5}, {"kl_estimate", case_kl, 8},    {"token_reward", case_reward, 3},
    {"gae", case_gae, 5},              {"policy_loss", case_policy, 10}, {"value_loss", case_value, 4},
    {"aggregate", case_aggregate, 7},  {"bt_loss", case_bt, 5},        {"soft_bt", case_soft, 1},
    {"log_softmax_gather", case_logprob, 3}, {"group_loss", case_group_loss, 11},
    {"group_advantage", case_group_advantage, 2},
    // clang-format on
};

static void case_load(Case *c, const Json *j, Golden *g) {
    *c = (Case){.in = json_get(j, "in"), .out = json_get(j, "out"), .golden = g};
    c->id = json_str(json_get(j, "id"), NULL);
    c->tol = json_num(json_get(j, "tol"), 0);
    c->block = json_get(json_get(g->root, "blocks"), json_str(json_get(j, "block"), NULL));
    assert_non_null(c->block);
    const Json *lens = json_get(c->block, "lens");
    c->n_seq = json_len(lens);
    c->n_col = json_len(json_at(json_get(c->block, "logp_old"), 0));
    for (int s = 0; s < c->n_seq; s++) c->off[s + 1] = c->off[s] + json_int(json_at(lens, s), 0);
    c->lp_old = ragged(c, json_get(c->block, "logp_old"));
    c->lp_new = ragged(c, json_get(c->block, "logp_new"));
    c->lp_ref = ragged(c, json_get(c->block, "logp_ref"));
    c->v_old = ragged(c, json_get(c->block, "values"));
    c->v_new = ragged(c, json_get(c->block, "vpred"));
    c->score = array(json_get(c->block, "score"));
}

static void case_release(Case *c) {
    free(c->lp_old.x);
    free(c->lp_new.x);
    free(c->lp_ref.x);
    free(c->v_old.x);
    free(c->v_new.x);
    free(c->score.x);
}

static void test_reference_cases(void **state) {
    (void)state;
    Error err;
    Golden g = {0};
    int n_case[COUNT_OF(functions)] = {0};
    if (!json_read_file(&g.root, TEST_DIR "/golden/rl_cases.json", JSON_INT_AS_REAL, &err)) fail_msg("%s", err.msg);
    const Json *cases = json_get(g.root, "cases");
    for (int i = 0; i < json_len(cases); i++) {
        const Json *j = json_at(cases, i);
        const char *name = json_str(json_get(j, "function"), NULL);
        int f = 0;
        while (f < COUNT_OF(functions) && strcmp(functions[f].function, name)) f++;
        assert_true(f < COUNT_OF(functions));
        Case c;
        case_load(&c, j, &g);
        functions[f].run(&c);
        n_case[f]++;
        case_release(&c);
    }
    for (int f = 0; f < COUNT_OF(functions); f++) assert_int_equal(n_case[f], functions[f].n_case);
    json_release(g.root);
    assert_int_equal(g.n_fail, 0);
    assert_true(g.n_run >= 124);
}

/* Where no package computes them: edges that tensors of random numbers do not reach. */
static void test_edges(void **state) {
    (void)state;
    double da, db, x[3] = {1, 2, 4}, y[2] = {3, 3};
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
    ppo_rewards(r, lp, lp, off, score, 2, 0.1, 0, 0);
    assert_true(r[0] == 0 && r[1] == 0 && r[2] == -2);
    ppo_gae(adv, ret, r, v, off, 2, 1, 1);
    assert_true(adv[0] == -2.5 && ret[0] == -2 && ret[2] == -2); /* lambda 1: the return is what follows */
    assert_true(aggregate(x, off, 2, AGG_SEQ_MEAN_TOKEN_MEAN, 0) == 7.0 / 3);
    assert_true(aggregate(x, off, 2, AGG_SEQ_SUM_NORM, 14) == 0.5);

    double dlp; /* ratio 1 exactly: both branches tie, the gradient is the plain policy gradient */
    PpoTerm t = ppo_policy_token(&dlp, -0.7, -0.7, 1.5, (PpoClip){0.2, 0.2, 3});
    assert_true(t.loss == -1.5 && dlp == -1.5 && t.ratio == 1 && t.clipfrac == 0 && t.approx_kl == 0);
    t = ppo_policy_token(&dlp, 0, -30, -1, (PpoClip){0.2, 0.2, 0}); /* beyond the cut: value held, no gradient */
    assert_true(dlp == 0 && t.loss == exp(20));
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
    assert_int_equal(group_advantages(adv, score, off, 2, true, 1e-4), 1);
    assert_true(adv[0] == 0 && adv[1] == 0 && adv[2] == 0);
    assert_true(fabs(adv[3] - 1 / (sqrt(2) + 1e-4)) < 1e-15 && adv[4] == -adv[3]);
    assert_int_equal(group_advantages(adv, score, off, 2, false, 1e-4), 1);
    assert_true(adv[0] == 0 && adv[3] == 1 && adv[4] == -1);
    group_advantages(score, score, off, 2, false, 0); /* in place */
    assert_memory_equal(score, adv, sizeof adv);

    dlp = 0.25; /* policy = reference: no loss, no pull, whatever the ratio */
    assert_true(grpo_kl_token(&dlp, -0.7, -1.2, -0.7, 0.5, true) == 0 && dlp == 0.25);
    dlp = 0; /* on policy, weighted by the ratio, the slope is beta (lp - lr): that of the KL itself */
    grpo_kl_token(&dlp, -0.7, -0.7, -1.1, 0.5, true);
    assert_true(fabs(dlp - 0.5 * 0.4) < 1e-15);

    int64_t len[] = {0, 2, 5};
    double x[5] = {1, 2, 3, 4, 6};
    for (int k = 0; k < 4; k++) { /* batch by batch as at once; B max_len where aggregate() divides by max_len alone */
        double sum = 0, total = 0;
        for (int s = 0; s < 2; s++)
            for (int64_t t = len[s]; t < len[s + 1]; t++) {
                TokenShare share = aggregate_token((Aggregation)k, len[s + 1] - len[s], 4);
                sum += share.weight * x[t];
                total += share.share;
            }
        double want = aggregate(x, len, 2, (Aggregation)k, k == AGG_SEQ_SUM_NORM ? 8 : 4);
        assert_true(fabs(sum / total - want) < 1e-14);
    }
}

/* dlp, dv, da, db, dz are the derivatives of what the functions return. */
static void test_gradients(void **state) {
    (void)state;
    const double h = 1e-6;
    for (int i = 0; i < 200; i++) {
        double u = sin(i * 1.7), w = cos(i * 2.3), a, b, p, m, unused;
        PpoClip clip = {0.2, 0.28, 3};
        ppo_policy_token(&a, u, 0.1, w, clip);
        p = ppo_policy_token(&unused, u + h, 0.1, w, clip).loss;
        m = ppo_policy_token(&unused, u - h, 0.1, w, clip).loss;
        assert_true(fabs((p - m) / (2 * h) - a) < 1e-6);
        ppo_value_token(&a, &unused, u, w, 0.3, 0.2);
        p = ppo_value_token(&b, &unused, u + h, w, 0.3, 0.2);
        m = ppo_value_token(&b, &unused, u - h, w, 0.3, 0.2);
        assert_true(fabs((p - m) / (2 * h) - a) < 1e-6);
        for (int by_ratio = 0; by_ratio < 2; by_ratio++) {
            a = unused = 0;
            grpo_kl_token(&a, u, 0.1, w, 0.3, by_ratio);
            p = grpo_kl_token(&unused, u + h, 0.1, w, 0.3, by_ratio);
            m = grpo_kl_token(&unused, u - h, 0.1, w, 0.3, by_ratio);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_cases),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
