/* Rollout, then `epochs` passes over it in minibatches, one optimizer step each, over policy and (PPO) value together.
 *
 * A minibatch is split into forward passes by tokens, the leaves of its gradient tree, which ranks share out; gradients
 * of sums add up over the passes and are divided by the minibatch's tokens (or replies, see Aggregation) once, so the
 * split changes nothing but rounding, and the ranks not even that. Whatever an update does follows from the weights it
 * starts with, its number and beta: so a state holds both nets, the moments and those two numbers. */
#include "train/ppo_int.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "base/json.h"
#include "nn/lora.h"

enum { MAX_SKIPPED = 10 }; /* non-finite optimizer steps in a row */

static Comm *world_of(const Ppo *p) { return p->c->mesh ? p->c->mesh->world : NULL; }
static bool leads(const Ppo *p) { return mesh_leads(p->c->mesh); }

/* -- one minibatch */

/* Replies in order of their numbers: those to one prompt are neighbours. */
static int by_number(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static bool descend(Ppo *p, Leaves *l, const LeafSum *sum, Error *err) {
    bool skipped = watch_step(p->watch, p->update + 1, l) || !isfinite(sum->loss);
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
    Leaves *l = ppo_leaves(p);
    bool together;
    LeafSum sum;
    Error mine = {0};
    qsort(seq, (size_t)n, sizeof *seq, by_number);
    p->lp_new = first ? mem_alloc(2 * (size_t)p->x.n_tok * sizeof(double)) : NULL;
    p->v_new = first ? p->lp_new + p->x.n_tok : NULL;
    Minibatch b = minibatch_plan(p, seq, n, number, first);
    int64_t n_pass = b.n_pass;
    leaves_begin(l, b.n_leaf);
    ppo_gradients(p, l, &b, &together, &mine);
    free(p->lp_new);
    p->lp_new = p->v_new = NULL;
    free(b.from);
    if (together) {
        leaves_cancel(l);
        *err = mine;
        return false;
    }
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
    CommTimes comm; /* before the update */
} Summary;

static double mean_of(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return sum / (double)n;
}

static Summary summarise(const Experience *x) {
    Summary s = {mean_of(x->score, x->n), mean_of(x->raw, x->n), mean_of(x->kl, x->n), 0, 0, 0, 0, {0, 0}};
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
    if (ppo_has_value(p)) json_out_num(&j, "explained_variance", s->explained);
    if (ppo_method(p)->groups) json_out_num(&j, "flat_groups", (double)p->x.n_flat * p->c->group / p->x.n);
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
    leaves_put_times(&j, ppo_leaves(p), s->comm, took);
    load_put_row(log_load(p->log), &j);
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
                 "no reply of an update ended by itself: replies may need more than %d token%s, or the policy never "
                 "learnt to end",
                 p->c->max_new, p->c->max_new == 1 ? "" : "s");
    return ok;
}

/* -- state */

static Net good_net(Ppo *p) {
    if (p->good_adapter) return (Net){p->s->policy.trunk, p->s->policy.head, p->good_adapter};
    return (Net){&p->good_trunk, &p->good_head, NULL};
}

static StateView view(Ppo *p) {
    StateView v = {.net = {{"policy", p->s->policy}}, .n_net = 1, .step = p->update, .metric = -p->last_reward};
    if (ppo_has_value(p)) v.net[v.n_net].name = "value", v.net[v.n_net++].net = p->s->value;
    if (p->keeps_good) v.net[v.n_net].name = "good", v.net[v.n_net++].net = good_net(p);
    v.optim = ppo_warms_up(p) ? p->warm : p->optim;
    v.optim_net[0] = ppo_warms_up(p) ? "value" : "policy";
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

static bool ppo_open(Ppo *p, Error *err) {
    const PpoConfig *c = p->c;
    const Net nets[2] = {p->s->policy, p->s->value};
    const double lr_scale[2] = {1, c->value_lr};
    OptimConfig optim = c->optim;
    optim.mesh = c->mesh;
    optim.shard = c->shard;
    CHECK(p->s->score && ppo_method(p)->rollouts, "%s: no score function, or no method of rollouts",
          ppo_method(p)->name);
    CHECK(!ppo_has_value(p) || (nets[1].head->kind == HEAD_SCORE && nets[1].head->n_out == 1),
          "ppo needs a value head of one output");
    if (!model_share_rows(nets[0].trunk, c->mesh, err) ||
        (ppo_has_value(p) && !model_share_rows(nets[1].trunk, c->mesh, err)) ||
        !rollout_open(&p->rollout, c, p->s, err) ||
        !optim_open(&p->optim, nets, lr_scale, ppo_has_value(p) ? 2 : 1, &optim, err) ||
        (ppo_warms_up(p) && !optim_open(&p->warm, nets + 1, lr_scale + 1, 1, &optim, err)) ||
        !ppo_passes_open(p, nets, err))
        return false;
    p->rollout.pulse = p->pulse;
    const LeavesConfig lc = {c->mesh, c->running_sum, c->overlap};
    leaves_open(&p->leaves, p->optim, &lc);
    p->watch =
        watch_new(&(WatchConfig){c->mesh, p->log, {nets[0], nets[1]}, ppo_has_value(p) ? 2 : 1, c->compare_every});
    if (p->warm) leaves_open(&p->warm_leaves, p->warm, &lc);
    if (!good_open(p, err) || !doctor_zero_weight(nets[0].trunk->be, err)) return false;
    p->metrics = metrics_new();
    return c->mix_weight == 0 || obj_lm_open(&p->mix, &p->mix_obj, p->s->mix, c->max_tok, c->seed, err);
}

static void ppo_close(Ppo *p) {
    metrics_free(p->metrics);
    ppo_passes_close(p);
    obj_lm_close(p->mix);
    if (!p->good_adapter) {
        head_release(&p->good_head);
        model_release(&p->good_trunk);
    }
    adapter_close(p->good_adapter);
    watch_free(p->watch);
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
    const CommTimes comm = mesh_times(c->mesh);
    double start_s = now_s(), lr = c->optim.lr * schedule_factor(&c->schedule, p->update);
    metrics_clear(p->metrics);
    p->n_skipped_now = 0;
    p->trace = (TraceSum){0};
    p->n_pass = 0;
    p->rule = (PolicyRule){c->clip, c->term, c->level, ppo_method(p)->kl == KL_IN_LOSS ? p->beta : 0, c->kl_by_ratio};
    pulse_step(p->pulse, p->update + 1);
    if (!rollout_make(&p->x, &p->rollout, p->update, p->beta, p->stop, err)) return false;
    Summary s = summarise(&p->x);
    s.start_s = start_s;
    s.comm = comm;
    double learn_s = now_s();
    bool ok = true;
    if (c->kl_stop > 0 && !(s.kl <= c->kl_stop))
        ok = kl_stop(p, s.kl, err);
    else if (p->keeps_good)
        ok = net_copy_weights(good_net(p), p->s->policy, err);
    ok = ok && learn(p, err);
    if (ok) {
        p->update++;
        if (!ppo_warms_up(p)) end_warmup(p);
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
    if (p->state && !watch_weights(p->watch, p->update, true, err)) return false;
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
        if (p->update > 0 && !watch_weights(p->watch, p->update, due, err)) return false;
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
    if (p->update > 0 && !ppo_warms_up(p)) end_warmup(p);
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
        pulse_working(p.pulse);
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

/* Passes of a minibatch when every reply is as long as can be. */
static int64_t most_leaves(const PpoConfig *c, const PpoSetup *s) {
    int longest = 1;
    for (int i = 0; i < s->n_prompt; i++)
        if (s->prompt[i].n > longest) longest = s->prompt[i].n;
    int n = (c->rollouts + c->minibatches - 1) / c->minibatches, fit = c->max_tok / (longest + c->max_new - 1);
    if (fit < 1) fit = 1;
    return (n + fit - 1) / fit + (c->mix_weight > 0);
}

bool ppo_rehearse(const PpoConfig *c, const PpoSetup *s, Error *err) {
    Ppo p = {.c = c, .s = s, .beta = c->beta};
    bool ok = ppo_open(&p, err) && engine_rehearse(p.rollout.policy, true, err) &&
              engine_rehearse(p.rollout.reference, false, err) &&
              (!p.rollout.value || engine_rehearse(p.rollout.value, false, err));
    if (ok) {
        logp_of(&p.logp, s->policy);
        logp_reserve(&p.logp, s->policy.trunk->be, (int)p.policy_slice.rows);
        ok = leaves_rehearse(p.leaves, most_leaves(c, s), err);
        if (ok) optim_rehearse(p.optim);
    }
    ppo_close(&p);
    return ok;
}
