/* Rollout, then `epochs` passes over it in minibatches, one optimizer step each, over policy and (PPO) value together.
 *
 * A minibatch is split into forward passes by tokens; gradients of sums add up over the passes and are divided by the
 * minibatch's tokens (or replies, see Aggregation) once, so the split changes nothing but rounding. Whatever an update
 * does follows from the weights it starts with, its number and beta: so a state holds both nets, the moments and those
 * two numbers. */
#include "train/ppo.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "base/json.h"
#include "nn/lora.h"
#include "train/batch.h"
#include "train/guard.h"
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
    const Stop *stop;
    Optim *optim;
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
    Optim *warm;       /* the value net's alone during its warm-up, else NULL */
    int64_t n_trained; /* rows of the pass over the rollout */
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
    int64_t update, n_skipped, n_skipped_now;
    TraceSum trace; /* of this update */
    int64_t n_pass;
    double beta, tok_done;
} Ppo;

static const RlMethodInfo *method(const Ppo *p) { return &rl_methods[p->c->method]; }
static bool has_value(const Ppo *p) { return method(p)->value; }
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
    p->n_trained += out.rows;
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

/* Fills the pass with replies seq[0..] as long as they fit; returns how many it took. */
static int fill_pass(Ppo *p, const int64_t *seq, int n, bool sharing) {
    Pass *f = &p->pass;
    const Experience *x = &p->x;
    int n_tok = 0, n_own = 0, n_row = 0, taken = 0;
    f->seq_off[0] = 0;
    for (; taken < n; taken++) {
        const PpoPrompt *prompt = x->prompt[seq[taken]];
        const GenResult *reply = &x->reply[seq[taken]];
        int len = prompt->n + reply->n - 1;
        f->same[taken] = sharing && taken > 0 ? shared_with(x, seq[taken - 1], seq[taken]) : 0;
        n_own += len - f->same[taken];
        if (n_own > p->c->max_tok || n_tok + len > (sharing ? SEEN_PER_ROW : 1) * p->c->max_tok) break;
        memcpy(f->tok + n_tok, prompt->tok, (size_t)prompt->n * sizeof(int32_t));
        memcpy(f->tok + n_tok + prompt->n, reply->text, (size_t)(reply->n - 1) * sizeof(int32_t));
        n_tok += prompt->n + reply->n - 1;
        f->seq_off[taken + 1] = n_tok;
    }
    CHECK(taken > 0, "a reply does not fit a pass of %d tokens", p->c->max_tok);
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
    return taken;
}

/* The doctor's first questions, asked before anything is learnt from this rollout. */
static bool check_first(Ppo *p, const int64_t *seq, int n, Error *err) {
    bool exact = p->s->policy.trunk->be->exact;
    bool rounded = p->c->rollout_weights != DTYPE_F32;
    for (int k = 0; k < n; k++) {
        int64_t at = p->x.off[seq[k]];
        int64_t n_tok = p->x.off[seq[k] + 1] - at;
        for (int64_t t = at; (rounded || !exact) && t < at + n_tok; t++)
            metrics_add(p->metrics, "rollout_gap", fabs(p->lp_new[t] - p->x.lp[t]), 1);
        if (!rounded && !doctor_first_minibatch(p->lp_new + at, p->x.lp + at, n_tok, exact, err)) return false;
        if (has_value(p) && !doctor_first_values(p->v_new + at, p->x.v + at, n_tok, exact, err)) return false;
    }
    return true;
}

/* mix_weight times the mean next-token loss of one pack, in units of the minibatch's loss, which is divided by weight.
 */
static bool mix_in(Ppo *p, int64_t number, double weight, double *loss, Error *err) {
    Batch b;
    double rows = 0;
    if (!p->mix_obj.micro(p->mix_obj.self, number, &b, err)) return false;
    double all = obj_lm_weight(p->mix), by = p->c->mix_weight * weight / all;
    if (!(all > 0)) return true;
    obj_lm_scale(p->mix, by);
    double l = train_micro(p->s->policy, p->policy_acts, &b, &p->mix_obj, p->policy_slice, &rows, p->metrics);
    metrics_add(p->metrics, "mix_loss", l / by / all, 1);
    *loss += l;
    return true;
}

/* All gradients of a minibatch. During the value net's warm-up the policy is only looked at. */
static bool gradients(Ppo *p, const int64_t *seq, int n, int64_t number, double *loss, double *weight, Error *err) {
    const PpoConfig *c = p->c;
    const Objective policy = {
        "policy", 1, NULL, policy_loss, p, c->max_tok, c->max_tok, NULL, c->level != RATIO_TOKEN ? policy_look : NULL};
    const Objective value = {"value", 1, NULL, value_loss, p, c->max_tok, c->max_tok, NULL, NULL};
    bool share = method(p)->groups && shares_rows(&p->x, seq, n), warm = warms_up(p);
    double value_rows = 0;
    for (int k = 0; k < n;) {
        k += fill_pass(p, seq + k, n - k, share);
        double pass = (warm ? eval_micro : train_micro)(p->s->policy, p->policy_acts, &p->pass.b, &policy,
                                                        p->policy_slice, weight, p->metrics);
        if (has_value(p))
            pass +=
                train_micro(p->s->value, p->value_acts, &p->pass.b, &value, p->value_slice, &value_rows, p->metrics);
        trace_add(&p->trace, c->trace, p->update + 1, p->n_pass++, &p->pass.b, pass);
        *loss += pass;
    }
    return !p->mix || warm || mix_in(p, number, *weight, loss, err);
}

static bool minibatch(Ppo *p, int64_t *seq, int n, int64_t number, bool first, Error *err) {
    double loss = 0, weight = 0;
    qsort(seq, (size_t)n, sizeof *seq, by_number);
    p->lp_new = first ? mem_alloc(2 * (size_t)p->x.n_tok * sizeof(double)) : NULL;
    p->v_new = first ? p->lp_new + p->x.n_tok : NULL;
    bool made = gradients(p, seq, n, number, &loss, &weight, err);
    bool ok = made && (!first || check_first(p, seq, n, err));
    free(p->lp_new);
    p->lp_new = p->v_new = NULL;
    if (!ok) return false;
    bool skipped = !isfinite(loss);
    if (skipped) {
        net_zero_grads(p->s->policy);
        if (has_value(p)) net_zero_grads(p->s->value);
    } else {
        OptimResult r =
            optim_step(p->warm ? p->warm : p->optim, schedule_factor(&p->c->schedule, p->update), 1 / weight);
        skipped = r.skipped;
        metrics_add(p->metrics, "grad_norm", r.grad_norm, skipped ? 0 : 1);
    }
    p->n_skipped = skipped ? p->n_skipped + 1 : 0;
    p->n_skipped_now += skipped;
    if (p->n_skipped < MAX_SKIPPED) return true;
    return error_set(
        err, ERR_DIVERGED,
        "update %" PRId64 ": %d optimizer steps in a row had a non-finite loss or gradient norm (last loss %g). "
        "Likely causes: the learning rate (%g) is too high; gradient clipping is off (clip %g); scores far "
        "outside their usual range (deviation %g)",
        p->update, MAX_SKIPPED, loss, p->c->optim.lr, p->c->optim.clip, p->s->score_sd);
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

static bool write_state(void *ud, const char *dir, Error *err) {
    Ppo *p = ud;
    Str path = {0}, text = {0};
    JsonOut j;
    json_out_init(&j, &text, 1);
    json_out_obj(&j, NULL);
    json_out_int(&j, "update", p->update);
    json_out_num(&j, "beta", p->beta);
    json_out_int(&j, "skipped_in_a_row", p->n_skipped);
    json_out_num(&j, "first_end_share", p->shape.end_share);
    json_out_num(&j, "first_length", p->shape.length);
    json_out_int(&j, "metrics_bytes", appender_size(p->file));
    json_out_obj_end(&j);
    str_printf(&path, "%s/optim.safetensors", dir);
    bool ok = state_put_net(p->s->policy, dir, "policy", err) &&
              (!has_value(p) || state_put_net(p->s->value, dir, "value", err)) &&
              (!p->keeps_good || state_put_net(good_net(p), dir, "good", err)) &&
              optim_save(warms_up(p) ? p->warm : p->optim, path.s, err);
    str_clear(&path);
    str_printf(&path, "%s/state.json", dir);
    ok = ok && io_write_file(path.s, text.s, text.n, err);
    str_release(&path);
    str_release(&text);
    return ok;
}

static bool save(Ppo *p, const char *dir, Error *err) {
    return appender_sync(p->file, err) && state_save(dir, write_state, p, err);
}

static bool load(Ppo *p, const char *dir, int64_t *metrics_bytes, Error *err) {
    Str path = {0}, base = {0};
    Json *j = NULL;
    str_printf(&base, "%s/state", dir);
    str_printf(&path, "%s/state.json", base.s);
    bool ok = json_read_file(&j, path.s, 0, err);
    if (ok) {
        p->update = json_int(json_get(j, "update"), -1);
        p->beta = json_num(json_get(j, "beta"), NAN);
        p->n_skipped = json_int(json_get(j, "skipped_in_a_row"), 0);
        p->shape.end_share = json_num(json_get(j, "first_end_share"), 0);
        p->shape.length = json_num(json_get(j, "first_length"), 0);
        *metrics_bytes = json_int(json_get(j, "metrics_bytes"), -1);
        if (p->update < 0 || *metrics_bytes < 0 || !isfinite(p->beta))
            ok = error_set(err, ERR_FORMAT,
                           "%s: expected 'update', 'beta' and 'metrics_bytes'; remove the folder to start again",
                           path.s);
    }
    str_clear(&path);
    str_printf(&path, "%s/optim.safetensors", base.s);
    ok = ok && state_get_net(p->s->policy, base.s, "policy", err) &&
         (!has_value(p) || state_get_net(p->s->value, base.s, "value", err)) &&
         (!p->keeps_good || state_get_net(good_net(p), base.s, "good", err)) &&
         optim_load(warms_up(p) ? p->warm : p->optim, path.s, err);
    json_release(j);
    str_release(&path);
    str_release(&base);
    return ok;
}

/* -- the run */

static bool good_open(Ppo *p, Error *err) {
    Net policy = p->s->policy;
    p->keeps_good = p->c->kl_stop > 0 && !p->s->guard; /* which keeps its own */
    if (!p->keeps_good) return true;
    if (policy.adapter) return adapter_clone(&p->good_adapter, policy, false, err);
    return model_init(&p->good_trunk, policy.trunk->be, &policy.trunk->cfg, 0, false, err) &&
           head_init(&p->good_head, &p->good_trunk, HEAD_LM, policy.head->n_out, 0, false, err) &&
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
    CHECK(p->s->score && method(p)->rollouts, "%s: no score function, or no method of rollouts", method(p)->name);
    CHECK(!has_value(p) || (nets[1].head->kind == HEAD_SCORE && nets[1].head->n_out == 1),
          "ppo needs a value head of one output");
    if (!rollout_open(&p->rollout, c, p->s, err) ||
        !optim_open(&p->optim, nets, lr_scale, has_value(p) ? 2 : 1, &c->optim, err) ||
        (warms_up(p) && !optim_open(&p->warm, nets + 1, lr_scale + 1, 1, &c->optim, err)) ||
        !open_net(&p->policy_acts, &p->policy_mem, &p->policy_slice, c, nets[0], NULL, err) ||
        (method(p)->groups && !acts_share(p->policy_acts, SEEN_PER_ROW * c->max_tok, err)))
        return false;
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
    if (!guard_look(p->guard, p->update, &v, err)) return false;
    if (!v.stop) return true;
    if (!guard_restore(p->guard, &at, err)) return false;
    return error_set(err, ERR_DIVERGED,
                     "after %" PRId64 " updates %s. Training has stopped, and the weights after %" PRId64
                     ", the best by the judge, were put back",
                     p->update, v.cause, at);
}

static bool make_update(Ppo *p, Error *err) {
    const PpoConfig *c = p->c;
    double start_s = now_s(), lr = c->optim.lr * schedule_factor(&c->schedule, p->update);
    metrics_clear(p->metrics);
    p->n_skipped_now = 0;
    p->trace = (TraceSum){0};
    p->n_pass = 0;
    p->rule = (PolicyRule){c->clip, c->term, c->level, method(p)->kl == KL_IN_LOSS ? p->beta : 0, c->kl_by_ratio};
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
        if (!warms_up(p)) {
            optim_close(p->warm);
            p->warm = NULL;
        }
        ok = write_metrics(p, &s, lr, err);
        if (c->kl_target > 0) p->beta = kl_controller(p->beta, s.kl, c->kl_target, p->x.n, c->kl_horizon);
        PpoReport report = {p->update, p->x.n,          p->x.prompt,  p->x.reply,       p->x.score,
                            p->x.kl,   p->x.generate_s, p->x.score_s, now_s() - learn_s};
        if (ok && p->s->report) p->s->report(p->s->report_ud, &report);
    }
    experience_release(&p->x);
    return ok;
}

static bool suspend(Ppo *p, const char *dir, Error *err) {
    if (dir && !save(p, dir, err)) return false;
    return error_set(err, ERR_STOPPED, "stopped after update %" PRId64 " of %" PRId64 "; run again to go on", p->update,
                     p->c->updates);
}

static bool loop(Ppo *p, const char *dir, Error *err) {
    double saved_s = now_s(), state_s = p->c->state_s > 0 ? p->c->state_s : 60;
    while (p->update < p->c->updates) {
        if (trace_over(p->c->trace, p->update, err)) return false;
        if (stop_requested(p->stop)) return suspend(p, dir, err);
        /* Stopped while generating: this update has not begun to change anything. */
        if (!guarded(p, err) || !make_update(p, err)) return err->code == ERR_STOPPED && suspend(p, dir, err);
        bool due = now_s() - saved_s >= state_s || (p->c->state_updates > 0 && p->update % p->c->state_updates == 0);
        if (dir && due && p->update < p->c->updates) {
            if (!save(p, dir, err)) return false;
            saved_s = now_s();
        }
    }
    if (trace_over(p->c->trace, p->update, err)) return false;
    return guarded(p, err) || (err->code == ERR_STOPPED && suspend(p, dir, err));
}

static bool start(Ppo *p, const char *dir, Error *err) {
    int64_t metrics_bytes = 0;
    if (!ppo_open(p, err)) return false;
    if (!dir) return true;
    if (state_exists(dir) && !load(p, dir, &metrics_bytes, err)) return false;
    if (p->s->guard && !guard_open(&p->guard, p->s->guard, p->c, p->s, dir, p->update, p->log, p->stop, err))
        return false;
    if (p->update > 0) log_info(p->log, "resumed at update %" PRId64 " of %" PRId64, p->update, p->c->updates);
    Str path = {0};
    str_printf(&path, "%s/metrics.jsonl", dir);
    bool ok = appender_open(&p->file, path.s, metrics_bytes, err);
    str_release(&path);
    return ok;
}

bool ppo_run(const PpoConfig *c, const PpoSetup *s, const char *dir, Log *log, const Stop *stop, Error *err) {
    Ppo p = {.c = c, .s = s, .log = log, .stop = stop, .beta = c->beta};
    bool ok = start(&p, dir, err);
    if (ok) {
        ok = loop(&p, dir, err);
        if (ok && p.file) ok = appender_sync(p.file, err);
        log_progress_end(log);
        if (p.file) appender_close(p.file);
    }
    ppo_close(&p);
    return ok;
}
