/* The functions a case may name, each in terms of what training calls. */
#include <math.h>

#include "train/batch.h"
#include "train/losses.h"
#include "train/oracle_int.h"

typedef struct { /* what the cases of a policy loss have in common */
    double *lp_new, *lp_old, *lp_ref, *adv;
} PolicyIn;

static PolicyIn policy_in(OracleRun *c) {
    return (PolicyIn){oracle_tokens(c, c->block, "logp_new"), oracle_tokens(c, c->block, "logp_old"),
                      oracle_tokens(c, c->block, "logp_ref"), oracle_tokens_or_rows(c, "adv")};
}

typedef struct {         /* how packages differ around the loss itself */
    bool kl_raw;         /* ppo_kl of the log-ratio as it is, not cut */
    double per_row;      /* share of a row without tokens in a mean of rows: TRL counts it, verl leaves it out */
    const double *blank; /* (B) or NULL: loss of such a row; with tokens it is not used */
} PolicyHabit;

/* As the update does it: a reply's sums first, then every token's loss and slope by its share; one division at the end.
 */
static void policy_run(OracleRun *c, const PolicyRule *rule, Aggregation kind, double max_len, PolicyHabit habit) {
    PolicyIn x = policy_in(c);
    double loss = 0, total = 0, clipped = 0, dual = 0, kl = 0, n = (double)c->off[c->n_row];
    double *dlp = oracle_zeros(c, c->off[c->n_row]);
    for (int s = 0; s < c->n_row; s++) {
        ReplySum sum = {0};
        int64_t from = c->off[s], to = c->off[s + 1];
        if (from == to && kind != AGG_TOKEN_MEAN) total += habit.per_row;
        if (from == to && habit.blank) loss += habit.blank[s];
        for (int64_t t = from; t < to; t++) reply_sum_add(&sum, x.lp_new[t], x.lp_old[t], x.lp_ref[t]);
        for (int64_t t = from; t < to; t++) {
            PpoTerm p = policy_token(&dlp[t], rule, &sum, x.lp_new[t], x.lp_old[t], x.lp_ref[t], x.adv[t]);
            TokenShare share = aggregate_token(kind, to - from, max_len);
            dlp[t] *= share.weight;
            loss += share.weight * (p.loss + p.kl_loss);
            total += share.share;
            clipped += p.clipfrac / n;
            dual += p.clipfrac_dual / n;
            kl += (habit.kl_raw ? -p.log_ratio : p.ppo_kl) / n;
        }
    }
    for (int64_t t = 0; t < c->off[c->n_row]; t++) dlp[t] /= total;
    oracle_give_num(c, "loss", loss / total);
    oracle_give_tokens(c, "dlogp", dlp);
    oracle_give_num(c, "clipfrac", clipped);
    oracle_give_num(c, "clipfrac_lower", dual);
    oracle_give_num(c, "ppo_kl", kl);
}

static const char *const modes[] = {"token-mean", "seq-mean-token-sum", "seq-mean-token-mean",
                                    "seq-mean-token-sum-norm", NULL};

/* verl divides a sum of rows by T once; we by what this gives for each row that has tokens. */
static double width_by_rows(const OracleRun *c) {
    int n = 0;
    for (int s = 0; s < c->n_row; s++) n += c->off[s + 1] > c->off[s];
    return (double)c->n_col / n;
}

static void policy_loss(OracleRun *c) {
    PolicyRule rule = {.clip = {.eps_low = oracle_num(c, "eps_low"),
                                .eps_high = oracle_num(c, "eps_high"),
                                .dual_clip = oracle_bound(c, "dual_clip")}};
    Aggregation kind = (Aggregation)oracle_word(c, "aggregation", modes);
    policy_run(c, &rule, kind, width_by_rows(c), (PolicyHabit){.kl_raw = oracle_flag(c, "kl_raw")});
}

static void group_loss(OracleRun *c) {
    static const struct {
        PolicyTerm term;
        Aggregation as;
    } of[] = {{TERM_CLIP, AGG_SEQ_MEAN_TOKEN_MEAN}, {TERM_CLIP, AGG_TOKEN_MEAN},  {TERM_CLIP, AGG_TOKEN_MEAN},
              {TERM_CLIP, AGG_SEQ_SUM_NORM},        {TERM_CISPO, AGG_TOKEN_MEAN}, {TERM_SAPO, AGG_SEQ_MEAN_TOKEN_MEAN},
              {TERM_CLIP, AGG_SEQ_MEAN_TOKEN_SUM}};
    static const char *const kinds[] = {"grpo", "bnpo", "dapo", "dr_grpo", "cispo", "sapo", "luspo", NULL};
    static const char *const levels[] = {"token", "sequence", NULL};
    int kind = oracle_word(c, "kind", kinds);
    PolicyRule rule = {.clip = {.eps_low = oracle_num(c, "eps_low"),
                                .eps_high = oracle_num(c, "eps_high"),
                                .delta = oracle_bound(c, "delta"),
                                .max_log_ratio = INFINITY},
                       .term = of[kind].term,
                       .level = oracle_word(c, "level", levels) ? RATIO_SEQ_MEAN : RATIO_TOKEN,
                       .kl_beta = oracle_num_or(c, "beta", 0),
                       .kl_by_ratio = oracle_flag(c, "kl_ratio")};
    double max_len = of[kind].as == AGG_SEQ_SUM_NORM ? oracle_num(c, "max_len") : 1;
    if (!(max_len > 0)) oracle_bad(c, "'max_len' is %g, expected a number above 0", max_len);
    policy_run(c, &rule, of[kind].as, max_len, (PolicyHabit){.per_row = 1});
}

static void rloo_loss(OracleRun *c) {
    double eps = oracle_num(c, "eps");
    PolicyRule rule = {.clip = {.eps_low = eps, .eps_high = eps, .max_log_ratio = INFINITY}, .level = RATIO_SEQ_SUM};
    double *blank = oracle_rows(c, c->in, "adv"); /* a ratio of 1 */
    for (int s = 0; s < c->n_row; s++) blank[s] = -blank[s];
    policy_run(c, &rule, AGG_SEQ_MEAN_TOKEN_MEAN, 1, (PolicyHabit){.per_row = 1, .blank = blank});
}

static void aggregate(OracleRun *c) {
    double *x = oracle_tokens(c, c->in, "x"), sum = 0, total = 0;
    double width = width_by_rows(c);
    Aggregation kind = (Aggregation)oracle_word(c, "mode", modes);
    for (int s = 0; s < c->n_row; s++)
        for (int64_t t = c->off[s]; t < c->off[s + 1]; t++) {
            TokenShare share = aggregate_token(kind, c->off[s + 1] - c->off[s], width);
            sum += share.weight * x[t];
            total += share.share;
        }
    oracle_give_num(c, "loss", sum / total);
}

static void masked_whiten(OracleRun *c) {
    double *x = oracle_tokens(c, c->in, "x");
    whiten(x, c->off[c->n_row], oracle_flag(c, "shift_mean"), oracle_flag(c, "unbiased"));
    oracle_give_tokens(c, "out", x);
}

static void estimate(OracleRun *c) {
    static const char *const kinds[] = {"k1", "k2", "k3", NULL};
    double *lp = oracle_tokens(c, c->block, "logp_old"), *lr = oracle_tokens(c, c->block, "logp_ref");
    KlKind kind = (KlKind)oracle_word(c, "kind", kinds);
    double clamp = oracle_num_or(c, "clamp", 0);
    for (int64_t t = 0; t < c->off[c->n_row]; t++) lp[t] = kl_estimate(lp[t], lr[t], kind, clamp);
    oracle_give_tokens(c, "kl", lp);
}

static double *rewards(OracleRun *c, double beta, double clamp, const double *clip) {
    double *lp = oracle_tokens(c, c->block, "logp_old"), *lr = oracle_tokens(c, c->block, "logp_ref");
    double *r = oracle_zeros(c, c->off[c->n_row]), *score = oracle_rows(c, c->block, "score");
    ppo_rewards(r, lp, lr, c->off, score, c->n_row, beta, clamp, clip);
    return r;
}

static void token_reward(OracleRun *c) {
    int two = 2;
    double *clip = oracle_has(c, "clip") ? oracle_vec(c, "clip", &two) : NULL;
    if (clip && clip[0] > clip[1]) oracle_bad(c, "'clip' is %g, %g: expected the lower bound first", clip[0], clip[1]);
    oracle_give_tokens(c, "reward", rewards(c, oracle_num(c, "beta"), oracle_num_or(c, "clamp", 0), clip));
}

static void gae(OracleRun *c) {
    double *r = rewards(c, oracle_num(c, "beta"), 0, NULL), *v = oracle_tokens(c, c->block, "values");
    double *ret = oracle_zeros(c, c->off[c->n_row]);
    ppo_gae(r, ret, r, v, c->off, c->n_row, oracle_num(c, "gamma"), oracle_num(c, "lambda"));
    whiten(r, c->off[c->n_row], true, oracle_flag(c, "unbiased"));
    oracle_give_tokens(c, "adv_whitened", r);
    oracle_give_tokens(c, "returns", ret);
}

static void value_loss(OracleRun *c) {
    double *ret = oracle_tokens(c, c->in, "returns"), *v = oracle_tokens(c, c->block, "vpred");
    double *old = oracle_tokens(c, c->block, "values"), eps = oracle_bound(c, "clip");
    double loss = 0, clipped = 0, n = (double)c->off[c->n_row];
    for (int64_t t = 0; t < c->off[c->n_row]; t++) {
        double dv, held;
        loss += ppo_value_token(&dv, &held, v[t], old[t], ret[t], eps) / n;
        clipped += held / n;
        v[t] = dv / n;
    }
    oracle_give_num(c, "loss", loss);
    oracle_give_num(c, "clipfrac", clipped);
    oracle_give_tokens(c, "dv", v);
}

/* Advantages of all rows; those of a group need not stand together in a case. */
static double *by_groups(OracleRun *c, GroupKind kind, double eps) {
    int n = c->n_row, n_group = 0, used = 0;
    double *group = oracle_vec(c, "group", &n), *score = oracle_rows(c, c->block, "score");
    double *packed = oracle_zeros(c, n), *adv = oracle_zeros(c, n);
    int64_t *off = heap_alloc(&c->heap, (size_t)(n + 1) * sizeof *off);
    int *from = heap_alloc(&c->heap, (size_t)n * sizeof *from);
    for (int i = 0; i < n; i++) {
        bool first = true;
        for (int k = 0; k < i && first; k++) first = group[k] != group[i];
        if (!first) continue;
        for (int k = i; k < n; k++)
            if (group[k] == group[i]) packed[used] = score[k], from[used++] = k;
        off[++n_group] = used;
    }
    group_advantages(packed, packed, off, n_group, kind, eps);
    for (int i = 0; i < n; i++) adv[from[i]] = packed[i];
    return adv;
}

static double *spread(OracleRun *c, const double *row) {
    double *x = oracle_zeros(c, c->off[c->n_row]);
    for (int s = 0; s < c->n_row; s++)
        for (int64_t t = c->off[s]; t < c->off[s + 1]; t++) x[t] = row[s];
    return x;
}

static void group_advantage(OracleRun *c) {
    static const char *const kinds[] = {"grpo", "rloo", "mean", NULL};
    static const GroupKind of[] = {GROUP_SD, GROUP_OTHERS, GROUP_CENTRED};
    GroupKind kind = of[oracle_word(c, "kind", kinds)];
    oracle_give_tokens(c, "adv", spread(c, by_groups(c, kind, oracle_num_or(c, "eps", 0))));
}

static void reinforce_pp(OracleRun *c) {
    double *r = rewards(c, 0, 0, NULL);
    reward_to_go(r, r, c->off, c->n_row, oracle_num(c, "gamma"));
    whiten(r, c->off[c->n_row], true, true);
    oracle_give_tokens(c, "adv", r);
}

static void reinforce_pp_baseline(OracleRun *c) {
    double *x = spread(c, by_groups(c, GROUP_CENTRED, 0));
    whiten(x, c->off[c->n_row], true, true);
    oracle_give_tokens(c, "adv", x);
}

static void bt_loss(OracleRun *c) {
    int n = 0;
    double *a = oracle_vec(c, "chosen", &n), *b = oracle_vec(c, "rejected", &n), *dr = oracle_zeros(c, 2 * n), loss = 0;
    double *margin = oracle_has(c, "margin") ? oracle_vec(c, "margin", &n) : oracle_zeros(c, n);
    double center = oracle_num_or(c, "center", 0);
    for (int i = 0; i < n; i++) {
        loss += preference_loss(&dr[i], &dr[n + i], a[i], b[i], 1, margin[i], center) / n;
        dr[i] /= n, dr[n + i] /= n;
    }
    oracle_give_num(c, "loss", loss);
    oracle_give(c, "dr", dr, 2 * n);
}

/* Both users of the soft loss: the pair (slope of a = of d) and the classifier, which is the same with b = 0. */
static void soft_bt(OracleRun *c) {
    int n = 0;
    double *d = oracle_vec(c, "d", &n), *q = oracle_vec(c, "q", &n), *dd = oracle_zeros(c, n), loss[2] = {0, 0};
    for (int i = 0; i < n; i++) {
        double db, dz;
        loss[0] += preference_loss(&dd[i], &db, d[i] + 0.5, 0.5, q[i], 0, 0) / n;
        loss[1] += logistic_loss(&dz, d[i], q[i]) / n;
        if (fabs(dz - dd[i]) > fabs(dz) * 1e-9 + 1e-12)
            dd[i] = NAN; /* the two must agree, but for d + 0.5's rounding */
        dd[i] /= n;
    }
    if (fabs(loss[0] - loss[1]) > fabs(loss[0]) * 1e-9) loss[0] = NAN;
    oracle_give_num(c, "loss", loss[0]);
    oracle_give(c, "dd", dd, n);
}

static void dpo(OracleRun *c) {
    int n = 0;
    double *pc = oracle_vec(c, "pc", &n), *pr = oracle_vec(c, "pr", &n), *qc = oracle_vec(c, "qc", &n);
    double *qr = oracle_vec(c, "qr", &n), *slope = oracle_zeros(c, n), loss = 0;
    DpoRule rule = {oracle_num(c, "beta"), oracle_num_or(c, "label_smoothing", 0),
                    oracle_flag(c, "ipo") ? DPO_IPO : DPO_SIGMOID};
    if (rule.kind == DPO_IPO) rule.smoothing = 0; /* the packages smooth no IPO */
    if (!(rule.beta > 0)) oracle_bad(c, "'beta' is %g, expected a number above 0", rule.beta);
    for (int i = 0; i < n; i++) {
        pc[i] -= qc[i], pr[i] -= qr[i];
        loss += dpo_loss(&slope[i], pc[i] - pr[i], 1, rule) / n;
        slope[i] /= n;
        pc[i] *= rule.beta, pr[i] *= rule.beta;
    }
    oracle_give_num(c, "loss", loss);
    oracle_give(c, "chosen_rewards", pc, n);
    oracle_give(c, "rejected_rewards", pr, n);
    oracle_give(c, "dpc", slope, n);
    for (int i = 0; i < n; i++) slope[i] = -slope[i];
    oracle_give(c, "dpr", slope, n);
}

static void log_softmax_gather(OracleRun *c) {
    int width, n = c->n_row * c->n_col;
    double *z = oracle_logits(c, &width), temperature = oracle_num(c, "temperature");
    int32_t *label = oracle_labels(c, width);
    if (!(temperature > 0)) oracle_bad(c, "'temperature' is %g, expected a number above 0", temperature);
    if (c->failed) return;
    LogpBuf buf = {0};
    Arena mem = {0}, measure;
    Error err = {0};
    arena_init_measure(&measure, "oracle");
    tensor_place(&measure, c->be->real, n, width);
    if (!arena_init(&mem, "oracle", c->be->mem, measure.used, &err)) {
        oracle_bad(c, "%s", err.msg);
        return;
    }
    Tensor logits = tensor_place(&mem, c->be->real, n, width);
    tensor_set(c->be, logits, z);
    logp_forward(&buf, c->be, logits, label, (float)temperature, true);
    oracle_give_all(c, "logp", buf.lp);
    oracle_give_all(c, "ent", buf.ent);
    logp_release(&buf);
    arena_release(&mem);
}

#define POLICY_OUT "loss dlogp clipfrac ppo_kl clipfrac_lower"
// clang-format off
const OracleFunction oracle_functions[] = {
    {"log_softmax_gather",    log_softmax_gather,    true,  "temperature", "logp ent"},
    {"masked_whiten",         masked_whiten,         true,  "x shift_mean unbiased", "out"},
    {"kl_estimate",           estimate,              true,  "kind clamp", "kl"},
    {"token_reward",          token_reward,          true,  "beta clip clamp", "reward"},
    {"gae",                   gae,                   true,  "beta lambda gamma unbiased", "adv_whitened returns"},
    {"policy_loss",           policy_loss,           true,  "adv eps_low eps_high dual_clip aggregation kl_raw", POLICY_OUT},
    {"value_loss",            value_loss,            true,  "returns clip", "loss dv clipfrac"},
    {"aggregate",             aggregate,             true,  "x mode", "loss"},
    {"group_loss",            group_loss,            true,  "adv kind level beta eps_low eps_high delta kl_ratio max_len", POLICY_OUT},
    {"rloo_loss",             rloo_loss,             true,  "adv eps", POLICY_OUT},
    {"group_advantage",       group_advantage,       true,  "group kind eps", "adv"},
    {"reinforce_pp",          reinforce_pp,          true,  "gamma", "adv"},
    {"reinforce_pp_baseline", reinforce_pp_baseline, true,  "group", "adv"},
    {"bt_loss",               bt_loss,               false, "chosen rejected margin center", "loss dr"},
    {"soft_bt",               soft_bt,               false, "d q", "loss dd"},
    {"dpo_loss",              dpo,                   false, "pc pr qc qr beta label_smoothing ipo", "loss chosen_rewards rejected_rewards dpc dpr"},
    {0}};
// clang-format on
