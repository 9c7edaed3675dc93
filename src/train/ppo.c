/* Rollout, then `epochs` passes over it in minibatches, one optimizer step each, over policy and (PPO) value together.
 *
 * A minibatch is split into forward passes by tokens, the leaves of its gradient tree, which ranks share out; gradients
 * of sums add up over the passes and are divided by the minibatch's tokens (or replies, see Aggregation) once, so the
 * split changes nothing but rounding, and the ranks not even that. Whatever an update does follows from the weights it
 * starts with, its number and beta: so a state holds both nets, the moments and those two numbers. */
#include "train/ppo.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "base/json.h"
#include "nn/lora.h"
#include "train/batch.h"
#include "train/guard.h"
#include "train/leaves.h"
#include "train/obj.h"

enum { MAX_SKIPPED = 10 }; /* non-finite optimizer steps in a row */
enum { SEEN_PER_ROW = 2 }; /* where replies share rows: attention's rows of a pass, at most, per row of it */

typedef struct { /* one forward pass: whole replies with their prompts, last tokens left out */
    Batch b;
    BatchBuf buf;
    int32_t *tok, *seq_off, *target;
    int32_t *same;     /* (replies) tokens shared with the one before */
    int64_t *at;       /* (R) index into the experience of the token that row predicts */
    int32_t *of;       /* (R) reply of the pass it belongs to */
    ReplySum *sum;     /* (replies) where the ratio is the reply's */
    TokenShare *share; /* (R) what that token counts in the minibatch */
} Pass;

typedef struct {
    const PpoConfig *c;
    const PpoSetup *s;
    Log *log;
    Pulse *pulse;
    const Stop *stop;
    Optim *optim;
    Leaves *leaves;
    Acts *policy_acts,
        *value_acts; /* one and the same where the nets agree in shape: one is done before the other begins */
    Arena policy_mem, value_mem;
    Tensor policy_slice, value_slice;
    Rollout rollout;
    Experience x;
    Pass pass;
    LogpBuf logp;
    PolicyRule rule; /* of this update */
    ObjLm *mix;      /* texts beside the rollouts, or NULL */
    Objective mix_obj;
    Optim *warm; /* the value net's alone during its warm-up, else NULL */
    Leaves *warm_leaves;
    int64_t n_trained; /* rows of the pass over the rollout, of all ranks */
    ReplyShape shape;  /* of the first rollout */
    bool said_drift;
    double *value_rows;     /* (HEAD_SLICE_MOST) */
    double *lp_new, *v_new; /* (n_tok) in the first minibatch, else NULL */
    Model good_trunk;       /* weights of the last rollout within kl_stop */
    Head good_head;
    Adapter *good_adapter; /* of a policy with an adapter: then trunk and head are the policy's */
    bool keeps_good;
    Guard *guard; /* or NULL */
    Metrics *metrics;
    Appender *file;
    State *state; /* NULL without a folder */
    int64_t update, n_skipped, n_skipped_now;
    TraceSum trace; /* of this update */
    int64_t n_pass; /* passes of this update before this minibatch */
    double beta, tok_done, last_reward;
    int64_t n_tok; /* of replies since update 0 */
} Ppo;

static const RlMethodInfo *method(const Ppo *p) { return &rl_methods[p->c->method]; }
static bool has_value(const Ppo *p) { return method(p)->value; }
static Comm *world_of(const Ppo *p) { return p->c->mesh ? p->c->mesh->world : NULL; }
static bool leads(const Ppo *p) { return mesh_leads(p->c->mesh); }
static bool warms_up(const Ppo *p) { return has_value(p) && p->update < p->c->value_warmup; }

/* -- the two losses, as objectives of train_micro */

/* As the engine hands them out, so that equal logits give ratio 1 in F64 too. */
static double as_engine(double x) { return (float)x; }

/* Sums over replies, before any token's gradient. */
static void policy_look(void *self, Backend *be, const Batch *b, int first, Tensor out) {
    Ppo *p = self;
    const Experience *x = &p->x;
    (void)b;
    logp_forward(&p->logp, be, out, p->pass.target + first, (float)p->c->temperature, false);
    for (int i = 0; i < out.rows; i++) {
        int64_t t = p->pass.at[first + i];
        reply_sum_add(&p->pass.sum[p->pass.of[first + i]], as_engine(p->logp.lp[i]), x->lp[t], x->lr[t]);
    }
}

static double policy_loss(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m) {
    Ppo *p = self;
    const Experience *x = &p->x;
    double loss = 0;
    float temp = (float)p->c->temperature;
    (void)b;
    logp_forward(&p->logp, be, out, p->pass.target + first, temp, true);
    for (int i = 0; i < out.rows; i++) {
        int64_t t = p->pass.at[first + i];
        double lp = as_engine(p->logp.lp[i]);
        const ReplySum *sum = &p->pass.sum[p->pass.of[first + i]];
        PpoTerm term = policy_token(&p->logp.dlp[i], &p->rule, sum, lp, x->lp[t], x->lr[t], x->adv[t]);
        TokenShare share = p->pass.share[first + i];
        p->logp.dlp[i] *= share.weight;
        loss += share.weight * (term.loss + term.kl_loss);
        *weight += share.share;
        if (p->lp_new) p->lp_new[t] = lp;
        metrics_add(m, "policy_loss", term.loss, 1);
        if (method(p)->kl == KL_IN_LOSS) metrics_add(m, "kl_k3", kl_estimate(lp, x->lr[t], KL_K3, 0), 1);
        metrics_add(m, "approx_kl", term.approx_kl, 1);
        metrics_add(m, "ppo_kl", term.ppo_kl, 1);
        metrics_add(m, "clipfrac", term.clipfrac, 1);
        metrics_add(m, "clipfrac_dual", term.clipfrac_dual, 1);
        metrics_add(m, "ratio", term.ratio, 1);
        metrics_add(m, "entropy", p->logp.ent[i], 1);
    }
    logp_backward(&p->logp, be, out, p->pass.target + first, temp);
    return loss;
}

static double value_loss(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m) {
    Ppo *p = self;
    const Experience *x = &p->x;
    double loss = 0, *v = p->value_rows;
    (void)b;
    tensor_get(be, v, out);
    for (int i = 0; i < out.rows; i++) {
        int64_t t = p->pass.at[first + i];
        v[i] = value_of(p->c, as_engine(v[i]));
        if (p->v_new) p->v_new[t] = v[i];
        double dv, clipped, l = ppo_value_token(&dv, &clipped, v[i], x->v[t], x->ret[t], p->c->value_clip);
        double by = p->c->value_weight * p->pass.share[first + i].weight;
        v[i] = by * dv / (p->c->value_scale > 0 ? p->c->value_scale : 1);
        loss += by * l;
        metrics_add(m, "value_loss", l, 1);
        metrics_add(m, "value_clipfrac", clipped, 1);
    }
    tensor_set(be, out, v);
    *weight += (double)out.rows;
    return loss;
}

/* -- one minibatch */

/* Replies in order of their numbers: those to one prompt are neighbours. */
static int by_number(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Tokens that a reply can share with the one before it: all that both prompts have but the last, whose row predicts. */
static int shared_with(const Experience *x, int64_t before, int64_t s) {
    return x->prompt[before] == x->prompt[s] ? x->prompt[s]->n - 1 : 0;
}

/* Sharing costs attention a few copies: is a sixth of the minibatch saved? */
static bool shares_rows(const Experience *x, const int64_t *seq, int n) {
    int64_t all = 0, saved = 0;
    for (int k = 0; k < n; k++) {
        all += x->prompt[seq[k]]->n + x->reply[seq[k]].n - 1;
        if (k > 0) saved += shared_with(x, seq[k - 1], seq[k]);
    }
    return 6 * saved >= all;
}

/* How many of replies seq[0..] one pass takes; *weight: what their tokens count in the minibatch. */
static int pass_takes(const Ppo *p, const int64_t *seq, int n, bool sharing, double *weight) {
    const Experience *x = &p->x;
    int n_tok = 0, n_own = 0, taken = 0;
    *weight = 0;
    for (; taken < n; taken++) {
        const GenResult *reply = &x->reply[seq[taken]];
        int len = x->prompt[seq[taken]]->n + reply->n - 1;
        n_own += len - (sharing && taken > 0 ? shared_with(x, seq[taken - 1], seq[taken]) : 0);
        if (n_own > p->c->max_tok || n_tok + len > (sharing ? SEEN_PER_ROW : 1) * p->c->max_tok) break;
        n_tok += len;
        double share = aggregate_token(p->c->aggregation, reply->n, p->c->max_new).share;
        for (int t = 0; t < reply->n; t++) *weight += share;
    }
    CHECK(taken > 0, "a reply does not fit a pass of %d tokens", p->c->max_tok);
    return taken;
}

/* Fills the pass with replies seq[0..taken). */
static void fill_pass(Ppo *p, const int64_t *seq, int taken, bool sharing) {
    Pass *f = &p->pass;
    const Experience *x = &p->x;
    int n_tok = 0, n_row = 0;
    f->seq_off[0] = 0;
    for (int k = 0; k < taken; k++) {
        const PpoPrompt *prompt = x->prompt[seq[k]];
        const GenResult *reply = &x->reply[seq[k]];
        f->same[k] = sharing && k > 0 ? shared_with(x, seq[k - 1], seq[k]) : 0;
        memcpy(f->tok + n_tok, prompt->tok, (size_t)prompt->n * sizeof(int32_t));
        memcpy(f->tok + n_tok + prompt->n, reply->text, (size_t)(reply->n - 1) * sizeof(int32_t));
        n_tok += prompt->n + reply->n - 1;
        f->seq_off[k + 1] = n_tok;
    }
    batch_layout(&f->buf, &f->b, f->tok, n_tok, f->seq_off, taken, true);
    if (sharing) batch_share(&f->buf, &f->b, f->same);
    for (int k = 0; k < taken; k++) {
        f->sum[k] = (ReplySum){0};
        TokenShare share = aggregate_token(p->c->aggregation, x->reply[seq[k]].n, p->c->max_new);
        for (int t = 0; t < x->reply[seq[k]].n; t++, n_row++) {
            f->share[n_row] = share;
            f->of[n_row] = k;
            int row = f->seq_off[k] + x->prompt[seq[k]]->n - 1 + t;
            f->buf.row[n_row] = sharing ? f->buf.seen[row] : row;
            f->target[n_row] = x->reply[seq[k]].text[t];
            f->at[n_row] = x->off[seq[k]] + t;
        }
    }
    f->b.n_row = n_row;
}

/* The doctor's first questions, asked before anything is learnt from this rollout. */
static bool check_first(Ppo *p, const int64_t *seq, int n, Metrics *m, Error *err) {
    const Model *trunk = p->s->policy.trunk;
    bool exact = trunk->be->exact && trunk->part.tp_n == 1; /* whole models generate: other sums */
    bool rounded = p->c->rollout_weights != DTYPE_F32;
    for (int k = 0; k < n; k++) {
        int64_t at = p->x.off[seq[k]];
        int64_t n_tok = p->x.off[seq[k] + 1] - at;
        for (int64_t t = at; (rounded || !exact) && t < at + n_tok; t++)
            metrics_add(m, "rollout_gap", fabs(p->lp_new[t] - p->x.lp[t]), 1);
        if (!rounded && !doctor_first_minibatch(p->lp_new + at, p->x.lp + at, n_tok, exact, err)) return false;
        if (has_value(p) && !doctor_first_values(p->v_new + at, p->x.v + at, n_tok, exact, err)) return false;
    }
    return true;
}

/* mix_weight times the mean next-token loss of one pack, in units of the minibatch's loss, which is divided by weight.
 */
static bool mix_in(Ppo *p, int64_t number, double weight, LeafSum *leaf, Metrics *m, Error *err) {
    Batch b;
    double rows = 0;
    if (!p->mix_obj.micro(p->mix_obj.self, number, &b, err)) return false;
    double all = obj_lm_weight(p->mix), by = p->c->mix_weight * weight / all;
    if (!(all > 0)) return true;
    obj_lm_scale(p->mix, by);
    leaf->loss = train_micro(p->s->policy, p->policy_acts, &b, &p->mix_obj, p->policy_slice, &rows, m);
    metrics_add(m, "mix_loss", leaf->loss / by / all, 1);
    return true;
}

typedef struct { /* a minibatch: replies in order of their numbers, cut into passes; one more leaf is the mix */
    const int64_t *seq;
    int n_pass, *from; /* (n_pass+1) into seq */
    int64_t number, n_leaf;
    double weight; /* of all passes, in order */
    bool first, share, warm;
} Minibatch;

static Minibatch minibatch_plan(const Ppo *p, const int64_t *seq, int n, int64_t number, bool first) {
    Minibatch m = {.seq = seq, .number = number, .first = first, .warm = warms_up(p)};
    m.share = method(p)->groups && shares_rows(&p->x, seq, n);
    m.from = mem_alloc((size_t)(n + 1) * sizeof *m.from);
    for (int k = 0; k < n; m.from[++m.n_pass] = k) {
        double weight;
        k += pass_takes(p, seq + k, n - k, m.share, &weight);
        m.weight += weight;
    }
    m.n_leaf = m.n_pass + (p->mix && !m.warm);
    return m;
}

/* One pass: the policy's gradients and (PPO) the value net's. During the value net's warm-up the policy is only looked
 * at. */
static bool pass_leaf(Ppo *p, const Minibatch *b, int64_t i, LeafSum *leaf, Metrics *m, Error *err) {
    const PpoConfig *c = p->c;
    const Objective policy = {"policy",    1,       NULL,
                              policy_loss, p,       c->max_tok,
                              c->max_tok,  NULL,    c->level != RATIO_TOKEN ? policy_look : NULL,
                              p->pulse,    &p->logp};
    const Objective value = {"value", 1, NULL, value_loss, p, c->max_tok, c->max_tok, NULL, NULL, p->pulse, NULL};
    const int64_t *seq = b->seq + b->from[i];
    int n = b->from[i + 1] - b->from[i];
    double value_rows = 0;
    fill_pass(p, seq, n, b->share);
    leaf->loss = (b->warm ? eval_micro : train_micro)(p->s->policy, p->policy_acts, &p->pass.b, &policy,
                                                      p->policy_slice, &leaf->weight, m);
    leaf->rows = p->pass.b.n_row;
    if (has_value(p))
        leaf->loss += train_micro(p->s->value, p->value_acts, &p->pass.b, &value, p->value_slice, &value_rows, m);
    trace_add(&leaf->trace, c->trace, p->update + 1, p->n_pass + i, &p->pass.b, leaf->loss);
    return !b->first || check_first(p, seq, n, m, err);
}

/* The gradients of this rank's leaves. */
static bool gradients(Ppo *p, Leaves *l, const Minibatch *b, Error *err) {
    for (int64_t i = leaves_first(l); i < leaves_end(l); i++) {
        LeafSum leaf = {0};
        bool ok = i < b->n_pass ? pass_leaf(p, b, i, &leaf, leaves_metrics(l), err)
                                : mix_in(p, b->number, b->weight, &leaf, leaves_metrics(l), err);
        if (!ok || !leaves_add(l, leaf, err)) return false;
    }
    return true;
}

static bool descend(Ppo *p, Leaves *l, const LeafSum *sum, Error *err) {
    bool skipped = !isfinite(sum->loss);
    if (skipped) {
        leaves_drop(l);
    } else {
        if (!leaves_sum(l, err)) return false;
        pulse_section(p->pulse, SECTION_OPT);
        OptimResult r =
            optim_step(p->warm ? p->warm : p->optim, schedule_factor(&p->c->schedule, p->update), 1 / sum->weight);
        if (!mesh_ok(p->c->mesh, err)) return false;
        skipped = r.skipped;
        metrics_add(p->metrics, "grad_norm", r.grad_norm, skipped ? 0 : 1);
        pulse_numbers(p->pulse, sum->loss / sum->weight, r.grad_norm, p->tok_done);
    }
    p->n_skipped = skipped ? p->n_skipped + 1 : 0;
    p->n_skipped_now += skipped;
    return true;
}

static bool minibatch(Ppo *p, int64_t *seq, int n, int64_t number, bool first, Error *err) {
    Leaves *l = p->warm ? p->warm_leaves : p->leaves;
    LeafSum sum;
    Error mine = {0};
    qsort(seq, (size_t)n, sizeof *seq, by_number);
    p->lp_new = first ? mem_alloc(2 * (size_t)p->x.n_tok * sizeof(double)) : NULL;
    p->v_new = first ? p->lp_new + p->x.n_tok : NULL;
    Minibatch b = minibatch_plan(p, seq, n, number, first);
    int64_t n_pass = b.n_pass;
    leaves_begin(l, b.n_leaf);
    gradients(p, l, &b, &mine);
    free(p->lp_new);
    p->lp_new = p->v_new = NULL;
    free(b.from);
    if (!leaves_agree(l, &mine, &sum, p->metrics, err)) return false;
    p->n_trained += (int64_t)sum.rows;
    p->trace.inputs += sum.trace.inputs;
    p->trace.losses += sum.trace.losses;
    p->n_pass += n_pass;
    if (!descend(p, l, &sum, err)) return false;
    if (p->n_skipped < MAX_SKIPPED) return true;
    return error_set(
        err, ERR_DIVERGED,
        "update %" PRId64 ": %d optimizer steps in a row had a non-finite loss or gradient norm (last loss %g). "
        "Likely causes: the learning rate (%g) is too high; gradient clipping is off (clip %g); scores far "
        "outside their usual range (deviation %g)",
        p->update, MAX_SKIPPED, sum.loss, p->c->optim.lr, p->c->optim.clip, p->s->score_sd);
}

static bool learn(Ppo *p, Error *err) {
    const PpoConfig *c = p->c;
    int64_t *seq = mem_alloc((size_t)p->x.n * sizeof(int64_t));
    Rng rng = rng_derive((Rng){c->seed, RNG_SHUFFLE}, "ppo minibatches");
    bool ok = true;
    for (int e = 0; ok && e < c->epochs; e++) {
        p->n_trained = 0;
        rng_shuffle(rng, (uint64_t)(p->update * c->epochs + e), seq, p->x.n);
        for (int m = 0; ok && m < c->minibatches; m++) {
            int64_t from = (int64_t)p->x.n * m / c->minibatches, to = (int64_t)p->x.n * (m + 1) / c->minibatches;
            int64_t number = (p->update * c->epochs + e) * c->minibatches + m;
            ok = minibatch(p, seq + from, (int)(to - from), number, e == 0 && m == 0, err);
        }
        ok = ok && doctor_counts(p->n_trained, p->x.n_tok, e + 1, err);
    }
    free(seq);
    return ok;
}

/* -- metrics */

typedef struct {
    double score, raw, kl, end_share, length, explained, start_s;
} Summary;

static double mean_of(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return sum / (double)n;
}

static Summary summarise(const Experience *x) {
    Summary s = {mean_of(x->score, x->n), mean_of(x->raw, x->n), mean_of(x->kl, x->n), 0, 0, 0, 0};
    double mean_ret = x->ret ? mean_of(x->ret, x->n_tok) : 0, var = 0, miss = 0;
    for (int i = 0; i < x->n; i++) s.end_share += (x->reply[i].why == STOP_TOKEN) / (double)x->n;
    s.length = (double)x->n_tok / x->n;
    for (int64_t t = 0; x->ret && t < x->n_tok; t++) {
        var += (x->ret[t] - mean_ret) * (x->ret[t] - mean_ret);
        miss += (x->v[t] - x->ret[t]) * (x->v[t] - x->ret[t]);
    }
    s.explained = var > 0 ? 1 - miss / var : NAN;
    return s;
}

static bool write_metrics(Ppo *p, const Summary *s, double lr, Error *err) {
    Str line = {0};
    JsonOut j;
    double took = now_s() - s->start_s, mean, weight;
    json_out_init(&j, &line, 0);
    json_out_obj(&j, NULL);
    json_out_int(&j, "step", p->update);
    json_out_num(&j, "score", s->score);
    json_out_num(&j, "score_raw", s->raw);
    json_out_num(&j, "reward", s->score - p->beta * s->kl);
    json_out_num(&j, "kl", s->kl);
    json_out_num(&j, "kl_token", s->kl / s->length);
    json_out_num(&j, "end_share", s->end_share);
    json_out_num(&j, "length", s->length);
    json_out_int(&j, "tokens", p->x.n_tok);
    json_out_num(&j, "beta", p->beta);
    json_out_num(&j, "lr", lr);
    for (int i = 0; i < metrics_count(p->metrics); i++) {
        const char *name = metrics_at(p->metrics, i, &mean, &weight);
        json_out_num(&j, name, mean);
    }
    if (has_value(p)) json_out_num(&j, "explained_variance", s->explained);
    if (method(p)->groups) json_out_num(&j, "flat_groups", (double)p->x.n_flat * p->c->group / p->x.n);
    json_out_int(&j, "skipped", p->n_skipped_now);
    const GuardCheck *check = p->guard ? guard_last(p->guard, p->update - 1) : NULL;
    if (check) {
        json_out_num(&j, "guard_proxy", check->proxy);
        json_out_num(&j, "guard_score", check->score);
    }
    trace_put(&j, &p->trace);
    json_out_num(&j, "t_s", took);
    json_out_num(&j, "t_rollout", p->x.generate_s);
    json_out_num(&j, "t_score", p->x.score_s);
    json_out_num(&j, "t_tok_s", (double)p->x.n_tok / (took > 0 ? took : 1e-9));
    json_out_obj_end(&j);
    bool ok = !p->file || appender_line(p->file, line.s, line.n, err);
    str_release(&line);
    p->tok_done += (double)p->x.n_tok;
    p->n_tok += p->x.n_tok;
    p->last_reward = s->score - p->beta * s->kl;
    log_progress(p->log, p->update, p->c->updates, p->tok_done, "tok", "score %.3f  kl %.2f  end %.0f %%  clip %.2f",
                 s->score, s->kl, 100 * s->end_share, metrics_mean(p->metrics, "clipfrac"));
    ReplyShape now = {s->end_share, s->length};
    if (p->update == 1) p->shape = now;
    const char *drift = doctor_drift(p->shape, now, p->c->max_new);
    if (drift && !p->said_drift) log_warn(p->log, "update %" PRId64 ": %s", p->update, drift);
    p->said_drift = drift != NULL; /* said again when it comes back */
    if (s->end_share == 0 && p->s->end_id >= 0)
        log_warn(p->log,
                 "no reply of an update ended by itself: replies may need more than %d tokens, or the policy never "
                 "learnt to end",
                 p->c->max_new);
    return ok;
}

/* -- state */

static Net good_net(Ppo *p) {
    if (p->good_adapter) return (Net){p->s->policy.trunk, p->s->policy.head, p->good_adapter};
    return (Net){&p->good_trunk, &p->good_head, NULL};
}

static StateView view(Ppo *p) {
    StateView v = {.net = {{"policy", p->s->policy}}, .n_net = 1, .step = p->update, .metric = -p->last_reward};
    if (has_value(p)) v.net[v.n_net].name = "value", v.net[v.n_net++].net = p->s->value;
    if (p->keeps_good) v.net[v.n_net].name = "good", v.net[v.n_net++].net = good_net(p);
    v.optim = warms_up(p) ? p->warm : p->optim;
    v.optim_net[0] = warms_up(p) ? "value" : "policy";
    v.optim_net[1] = "value";
    v.schedule = &p->c->schedule, v.lr = p->c->optim.lr, v.metrics = p->file;
    return v;
}

static void put_state(void *ud, JsonOut *j) {
    const Ppo *p = ud;
    json_out_int(j, "update", p->update);
    json_out_int(j, "rollouts", p->update * p->c->rollouts);
    json_out_int(j, "tokens", p->n_tok);
    json_out_num(j, "beta", p->beta);
    json_out_int(j, "skipped_in_a_row", p->n_skipped);
    json_out_num(j, "first_end_share", p->shape.end_share);
    json_out_num(j, "first_length", p->shape.length);
    json_out_num(j, "reward", p->last_reward);
}

static bool load(Ppo *p, int64_t *metrics_bytes, Error *err) {
    const Json *j;
    if (!state_find(p->state, &j, err)) return false;
    if (!j) return true;
    p->update = json_int(json_get(j, "update"), -1);
    p->n_tok = json_int(json_get(j, "tokens"), 0);
    p->beta = json_num(json_get(j, "beta"), NAN);
    p->n_skipped = json_int(json_get(j, "skipped_in_a_row"), 0);
    p->shape.end_share = json_num(json_get(j, "first_end_share"), 0);
    p->shape.length = json_num(json_get(j, "first_length"), 0);
    p->last_reward = json_num(json_get(j, "reward"), NAN);
    *metrics_bytes = json_int(json_get(j, "metrics_bytes"), -1);
    if (p->update < 0 || *metrics_bytes < 0 || !isfinite(p->beta))
        return error_set(err, ERR_FORMAT,
                         "the saved state has no 'update', 'beta' or 'metrics_bytes' in its 'progress'");
    StateView v = view(p);
    return state_load(p->state, &v, err);
}

/* -- the run */

static bool good_open(Ppo *p, Error *err) {
    Net policy = p->s->policy;
    p->keeps_good = p->c->kl_stop > 0 && !p->s->guard; /* which keeps its own */
    if (!p->keeps_good) return true;
    if (policy.adapter) return adapter_clone(&p->good_adapter, policy, false, err);
    return model_init_on(&p->good_trunk, policy.trunk->be, &policy.trunk->whole, p->c->mesh, 0, false, err) &&
           head_init(&p->good_head, &p->good_trunk, HEAD_LM, policy.trunk->whole.n_vocab, 0, false, err) &&
           net_copy_weights(good_net(p), policy, err);
}

/* May activations of one net serve the other? */
static bool same_shape(const Model *x, const Model *y) {
    const ModelConfig *a = &x->cfg, *b = &y->cfg;
    return x->dtype == y->dtype && a->n_layer == b->n_layer && a->n_head == b->n_head && a->n_kv_head == b->n_kv_head &&
           a->d_model == b->d_model && a->d_head == b->d_head && a->d_ff == b->d_ff && a->norm == b->norm &&
           a->mlp == b->mlp;
}

static bool open_net(Acts **acts, Arena *mem, Tensor *slice, const PpoConfig *c, Net net, Acts *shared, Error *err) {
    *acts = shared;
    return (shared || acts_open(acts, net.trunk, c->max_tok, c->max_tok, c->keep, err)) &&
           head_slice_open(mem, slice, net, err);
}

static bool ppo_open(Ppo *p, Error *err) {
    const PpoConfig *c = p->c;
    const Net nets[2] = {p->s->policy, p->s->value};
    const double lr_scale[2] = {1, c->value_lr};
    OptimConfig optim = c->optim;
    optim.mesh = c->mesh;
    optim.shard = c->shard;
    CHECK(p->s->score && method(p)->rollouts, "%s: no score function, or no method of rollouts", method(p)->name);
    CHECK(!has_value(p) || (nets[1].head->kind == HEAD_SCORE && nets[1].head->n_out == 1),
          "ppo needs a value head of one output");
    if (!rollout_open(&p->rollout, c, p->s, err) ||
        !optim_open(&p->optim, nets, lr_scale, has_value(p) ? 2 : 1, &optim, err) ||
        (warms_up(p) && !optim_open(&p->warm, nets + 1, lr_scale + 1, 1, &optim, err)) ||
        !open_net(&p->policy_acts, &p->policy_mem, &p->policy_slice, c, nets[0], NULL, err) ||
        (method(p)->groups && !acts_share(p->policy_acts, SEEN_PER_ROW * c->max_tok, err)))
        return false;
    p->rollout.pulse = p->pulse;
    leaves_open(&p->leaves, p->optim, c->mesh, c->running_sum);
    if (p->warm) leaves_open(&p->warm_leaves, p->warm, c->mesh, c->running_sum);
    if (has_value(p)) {
        bool same = same_shape(nets[0].trunk, nets[1].trunk);
        if (!open_net(&p->value_acts, &p->value_mem, &p->value_slice, c, nets[1], same ? p->policy_acts : NULL, err))
            return false;
    }
    if (!good_open(p, err) || !doctor_zero_weight(nets[0].trunk->be, err)) return false;
    p->pass.tok = mem_alloc(SEEN_PER_ROW * (size_t)c->max_tok * sizeof(int32_t));
    p->pass.same = mem_alloc((size_t)c->rollouts * sizeof(int32_t));
    p->pass.target = mem_alloc((size_t)c->max_tok * sizeof(int32_t));
    p->pass.seq_off = mem_alloc((size_t)(c->rollouts + 1) * sizeof(int32_t));
    p->pass.at = mem_alloc((size_t)c->max_tok * sizeof(int64_t));
    p->pass.share = mem_alloc((size_t)c->max_tok * sizeof *p->pass.share);
    p->pass.of = mem_alloc((size_t)c->max_tok * sizeof *p->pass.of);
    p->pass.sum = mem_alloc((size_t)c->rollouts * sizeof *p->pass.sum);
    p->value_rows = mem_alloc(HEAD_SLICE_MOST * sizeof(double));
    p->metrics = metrics_new();
    return c->mix_weight == 0 || obj_lm_open(&p->mix, &p->mix_obj, p->s->mix, c->max_tok, c->seed, err);
}

static void ppo_close(Ppo *p) {
    metrics_free(p->metrics);
    free(p->value_rows);
    free(p->pass.tok);
    free(p->pass.same);
    free(p->pass.target);
    free(p->pass.seq_off);
    free(p->pass.at);
    free(p->pass.share);
    free(p->pass.of);
    free(p->pass.sum);
    obj_lm_close(p->mix);
    batch_release(&p->pass.buf);
    logp_release(&p->logp);
    if (!p->good_adapter) {
        head_release(&p->good_head);
        model_release(&p->good_trunk);
    }
    adapter_close(p->good_adapter);
    arena_release(&p->policy_mem);
    arena_release(&p->value_mem);
    if (p->value_acts != p->policy_acts) acts_close(p->value_acts);
    acts_close(p->policy_acts);
    leaves_close(p->leaves);
    leaves_close(p->warm_leaves);
    optim_close(p->optim);
    optim_close(p->warm);
    rollout_close(&p->rollout);
    guard_close(p->guard);
}

/* The policy that made this rollout went too far; the one before the last update did not, nor did the guard's best. */
static bool kl_stop(Ppo *p, double kl, Error *err) {
    int64_t at = p->update - 1;
    if (!(p->guard ? guard_restore(p->guard, &at, err) : net_copy_weights(p->s->policy, good_net(p), err)))
        return false;
    if (p->s->stopped_by_kl) *p->s->stopped_by_kl = true;
    return error_set(err, ERR_DIVERGED,
                     "after %" PRId64
                     " updates the policy is %.1f nats per reply away from the reference, allowed %.1f: the "
                     "weights after %" PRId64 " were put back. Likely causes: the penalty (%g) is too small for these "
                     "scores; the learning rate (%g) is too high",
                     p->update, kl, p->c->kl_stop, at, p->beta, p->c->optim.lr);
}

/* ERR_DIVERGED when the run is over. */
static bool guarded(Ppo *p, Error *err) {
    GuardVerdict v;
    int64_t at;
    if (!p->guard) return true;
    Error mine = {0};
    guard_look(p->guard, p->update, &v, &mine);
    if (!agree(world_of(p), &mine, NULL, 0, NULL, err)) return false;
    if (!v.stop) return true;
    guard_restore(p->guard, &at, &mine);
    if (!agree(world_of(p), &mine, NULL, 0, NULL, err)) return false;
    return error_set(err, ERR_DIVERGED,
                     "after %" PRId64 " updates %s. Training has stopped, and the weights after %" PRId64
                     ", the best by the judge, were put back",
                     p->update, v.cause, at);
}

static void end_warmup(Ppo *p) {
    leaves_close(p->warm_leaves);
    optim_close(p->warm);
    p->warm = NULL;
    p->warm_leaves = NULL;
}

static bool make_update(Ppo *p, Error *err) {
    const PpoConfig *c = p->c;
    double start_s = now_s(), lr = c->optim.lr * schedule_factor(&c->schedule, p->update);
    metrics_clear(p->metrics);
    p->n_skipped_now = 0;
    p->trace = (TraceSum){0};
    p->n_pass = 0;
    p->rule = (PolicyRule){c->clip, c->term, c->level, method(p)->kl == KL_IN_LOSS ? p->beta : 0, c->kl_by_ratio};
    pulse_step(p->pulse, p->update + 1);
    if (!rollout_make(&p->x, &p->rollout, p->update, p->beta, p->stop, err)) return false;
    Summary s = summarise(&p->x);
    s.start_s = start_s;
    double learn_s = now_s();
    bool ok = true;
    if (c->kl_stop > 0 && !(s.kl <= c->kl_stop))
        ok = kl_stop(p, s.kl, err);
    else if (p->keeps_good)
        ok = net_copy_weights(good_net(p), p->s->policy, err);
    ok = ok && learn(p, err);
    if (ok) {
        p->update++;
        if (!warms_up(p)) end_warmup(p);
        Error mine = {0};
        if (leads(p)) write_metrics(p, &s, lr, &mine);
        ok = agree(world_of(p), &mine, NULL, 0, NULL, err);
        if (c->kl_target > 0) p->beta = kl_controller(p->beta, s.kl, c->kl_target, p->x.n, c->kl_horizon);
        PpoReport report = {p->update, p->x.n,          p->x.prompt,  p->x.reply,       p->x.score,
                            p->x.kl,   p->x.generate_s, p->x.score_s, now_s() - learn_s};
        if (ok && leads(p) && p->s->report) p->s->report(p->s->report_ud, &report);
    }
    experience_release(&p->x);
    return ok;
}

/* What rank 0's clock, and anybody's signal, say before an update: is a state due, is it time to stop? By the clock
 * only when nothing waits for a state; by updates whatever it costs. */
static bool look_up(Ppo *p, double saved_s, bool *due, bool *stopped, Error *err) {
    const PpoConfig *c = p->c;
    double state_s = c->state_s > 0 ? c->state_s : 60;
    bool busy = p->state && state_busy(p->state);
    bool by_updates = c->state_updates > 0 && p->update > 0 && p->update % c->state_updates == 0;
    unsigned char now = p->state && (by_updates || (now_s() - saved_s >= state_s && !busy));
    Error mine = {0}, why = {0};
    Gathered all;
    if (stop_requested(p->stop)) error_set(&mine, ERR_STOPPED, "stopped");
    *due = false;
    *stopped = !agree(world_of(p), &mine, &now, 1, &all, &why);
    if (*stopped && why.code != ERR_STOPPED) {
        *err = why;
        return false;
    }
    if (!*stopped) *due = all.data[0] != 0;
    gathered_release(&all);
    return true;
}

static bool suspend(Ppo *p, Error *err) {
    StateView v = view(p);
    if (p->state && !state_save_last(p->state, &v, put_state, p, err)) return false;
    return error_set(err, ERR_STOPPED, "stopped after update %" PRId64 " of %" PRId64 "; run again to go on", p->update,
                     p->c->updates);
}

static bool loop(Ppo *p, Error *err) {
    double saved_s = now_s();
    while (p->update < p->c->updates) {
        bool due, stopped;
        if (trace_over(p->c->trace, p->update, err) || !look_up(p, saved_s, &due, &stopped, err)) return false;
        if (stopped) return suspend(p, err);
        if (due) {
            StateView v = view(p);
            if (!state_save(p->state, &v, put_state, p, err)) return false;
            saved_s = now_s();
        }
        /* Stopped while generating: this update has not begun to change anything. */
        if (!guarded(p, err) || !make_update(p, err)) return err->code == ERR_STOPPED && suspend(p, err);
    }
    if (trace_over(p->c->trace, p->update, err)) return false;
    return guarded(p, err) || (err->code == ERR_STOPPED && suspend(p, err));
}

static bool start(Ppo *p, const char *dir, Error *err) {
    int64_t metrics_bytes = 0;
    Error mine = {0};
    ppo_open(p, &mine);
    if (!agree(world_of(p), &mine, NULL, 0, NULL, err)) return false;
    if (!dir) return true;
    if (!state_open(&p->state, dir, &p->c->state, p->c->mesh, p->log, err) || !load(p, &metrics_bytes, err))
        return false;
    if (p->update > 0 && !warms_up(p)) end_warmup(p);
    if (p->s->guard) guard_open(&p->guard, p->s->guard, p->c, p->s, dir, p->update, p->log, p->stop, &mine);
    if (!agree(world_of(p), &mine, NULL, 0, NULL, err)) return false;
    if (p->update > 0) log_info(p->log, "resumed at update %" PRId64 " of %" PRId64, p->update, p->c->updates);
    Str path = {0};
    str_printf(&path, "%s/metrics.jsonl", dir);
    if (leads(p)) appender_open(&p->file, path.s, metrics_bytes, &mine);
    str_release(&path);
    return agree(world_of(p), &mine, NULL, 0, NULL, err);
}

bool ppo_run(const PpoConfig *c, const PpoSetup *s, const char *dir, Log *log, const Stop *stop, Error *err) {
    Ppo p = {.c = c, .s = s, .log = log, .pulse = log_pulse(log), .stop = stop, .beta = c->beta, .last_reward = NAN};
    bool ok = start(&p, dir, err);
    if (ok) {
        ok = loop(&p, err);
        Error said; /* by the log; the result does not need the state */
        if (p.state) state_settle(p.state, &said);
        pulse_section(p.pulse, SECTION_INIT);
        if (ok && p.file) ok = appender_sync(p.file, err);
        log_progress_end(log);
        if (p.file) appender_close(p.file);
    }
    state_close(p.state);
    ppo_close(&p);
    return ok;
}
