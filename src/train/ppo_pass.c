/* Forward passes of a minibatch: which replies each takes, what they lose, and the gradients of this rank's share of
 * them, one after another or through the stages of a pipeline. */
#include "train/ppo_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SEEN_PER_ROW = 2 }; /* where replies share rows: attention's rows of a pass, at most, per row of it */

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
        if (ppo_method(p)->kl == KL_IN_LOSS) metrics_add(m, "kl_k3", kl_estimate(lp, x->lr[t], KL_K3, 0), 1);
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

/* -- one pass */

/* Tokens that a reply can share with the one before it: all that both prompts have but the last, whose row predicts. */
static int shared_with(const Experience *x, int64_t before, int64_t s) {
    return x->prompt[before] == x->prompt[s] ? x->prompt[s]->n - 1 : 0;
}

/* Rows that ranks divide (cp) are each one sequence's. */
static bool may_share(const Ppo *p) { return ppo_method(p)->groups && (!p->c->mesh || p->c->mesh->size.cp == 1); }

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
    bool exact = p->s->policy.trunk->be->exact;
    bool rounded = p->c->rollout_weights != DTYPE_F32;
    for (int k = 0; k < n; k++) {
        int64_t at = p->x.off[seq[k]];
        int64_t n_tok = p->x.off[seq[k] + 1] - at;
        for (int64_t t = at; (rounded || !exact) && t < at + n_tok; t++)
            metrics_add(m, "rollout_gap", fabs(p->lp_new[t] - p->x.lp[t]), 1);
        if (!rounded && !doctor_first_minibatch(p->lp_new + at, p->x.lp + at, n_tok, exact, err)) return false;
        if (ppo_has_value(p) && !doctor_first_values(p->v_new + at, p->x.v + at, n_tok, exact, err)) return false;
    }
    return true;
}

/* mix_weight times the mean next-token loss of one pack, in units of the minibatch's loss, which is divided by weight.
 * a: of a forward that is done, NULL: of none. */
static void mix_loss(Ppo *p, const Batch *b, double weight, Acts *a, LeafSum *leaf, Metrics *m) {
    double rows = 0, all = obj_lm_weight(p->mix), by = p->c->mix_weight * weight / all;
    Net net = p->s->policy;
    obj_lm_scale(p->mix, by);
    leaf->loss = a ? head_micro(net, a, b, &p->mix_obj, p->policy_slice, &rows, m, true)
                   : train_micro(net, p->policy_acts, b, &p->mix_obj, p->policy_slice, &rows, m);
    metrics_add(m, "mix_loss", leaf->loss / by / all, 1);
}

static bool mix_in(Ppo *p, int64_t number, double weight, LeafSum *leaf, Metrics *m, Error *err) {
    Batch b;
    if (!p->mix_obj.micro(p->mix_obj.self, number, &b, err)) return false;
    if (obj_lm_weight(p->mix) > 0) mix_loss(p, &b, weight, NULL, leaf, m);
    return true;
}

Minibatch minibatch_plan(const Ppo *p, const int64_t *seq, int n, int64_t number, bool first) {
    Minibatch m = {.seq = seq, .number = number, .first = first, .warm = ppo_warms_up(p)};
    m.share = may_share(p) && shares_rows(&p->x, seq, n);
    m.from = mem_alloc((size_t)(n + 1) * sizeof *m.from);
    for (int k = 0; k < n; m.from[++m.n_pass] = k) {
        double weight;
        k += pass_takes(p, seq + k, n - k, m.share, &weight);
        m.weight += weight;
    }
    m.n_leaf = m.n_pass + (p->mix && !m.warm);
    return m;
}

static Objective policy_objective(Ppo *p) {
    Objective o = {
        .name = "policy", .row_group = 1, .loss = policy_loss, .self = p, .pulse = p->pulse, .logp = &p->logp};
    o.max_tok = o.max_row = p->c->max_tok;
    o.target = p->pass.target, o.temp = (float)p->c->temperature, o.entropy = true;
    if (p->c->level != RATIO_TOKEN) o.look = policy_look;
    return o;
}

static Objective value_objective(Ppo *p) {
    Objective o = {.name = "value", .row_group = 1, .loss = value_loss, .self = p, .pulse = p->pulse};
    o.max_tok = o.max_row = p->c->max_tok;
    return o;
}

/* One pass: the policy's gradients and (PPO) the value net's. During the value net's warm-up the policy is only looked
 * at. */
static bool pass_leaf(Ppo *p, const Minibatch *b, int64_t i, LeafSum *leaf, Metrics *m, Error *err) {
    const PpoConfig *c = p->c;
    const Objective policy = policy_objective(p), value = value_objective(p);
    const int64_t *seq = b->seq + b->from[i];
    int n = b->from[i + 1] - b->from[i];
    double value_rows = 0;
    fill_pass(p, seq, n, b->share);
    leaf->loss = (b->warm ? eval_micro : train_micro)(p->s->policy, p->policy_acts, &p->pass.b, &policy,
                                                      p->policy_slice, &leaf->weight, m);
    leaf->rows = p->pass.b.n_row;
    leaf->tokens = p->pass.b.n_tok;
    if (ppo_has_value(p))
        leaf->loss += train_micro(p->s->value, p->value_acts, &p->pass.b, &value, p->value_slice, &value_rows, m);
    trace_add(&leaf->trace, c->trace, p->update + 1, p->n_pass + i, &p->pass.b, leaf->loss);
    return !b->first || check_first(p, seq, n, m, err);
}

/* The same through the stages of a pipeline: lane 0 is the policy, lane 1 the value net. */
static bool pipe_batch(void *ud, int64_t i, Batch *b, unsigned *lanes, unsigned *trained, Error *err) {
    Ppo *p = ud;
    const Minibatch *m = p->now;
    p->leaf = (LeafSum){0};
    if (i == m->n_pass) { /* the mix */
        if (!p->mix_obj.micro(p->mix_obj.self, m->number, b, err)) return false;
        *lanes = *trained = obj_lm_weight(p->mix) > 0;
        return true;
    }
    fill_pass(p, m->seq + m->from[i], m->from[i + 1] - m->from[i], m->share);
    *b = p->pass.b;
    *lanes = ppo_has_value(p) ? 3 : 1;
    *trained = m->warm ? *lanes & ~1U : *lanes;
    return true;
}

static bool pipe_loss(void *ud, int64_t i, int lane, Acts *a, const Batch *b, bool train, Error *err) {
    Ppo *p = ud;
    const Minibatch *mb = p->now;
    Metrics *m = leaves_metrics(ppo_leaves(p));
    double value_rows = 0;
    if (i == mb->n_pass) {
        mix_loss(p, b, mb->weight, a, &p->leaf, m);
        return true;
    }
    const Objective obj = lane ? value_objective(p) : policy_objective(p);
    p->leaf.loss += head_micro(lane ? p->s->value : p->s->policy, a, b, &obj, lane ? p->value_slice : p->policy_slice,
                               lane ? &value_rows : &p->leaf.weight, m, train);
    p->leaf.rows = b->n_row;
    p->leaf.tokens = b->n_tok;
    if (lane != ppo_has_value(p)) return true;
    trace_add(&p->leaf.trace, p->c->trace, p->update + 1, p->n_pass + i, b, p->leaf.loss);
    return !mb->first || check_first(p, mb->seq + mb->from[i], mb->from[i + 1] - mb->from[i], m, err);
}

static bool pipe_done(void *ud, int64_t i, Error *err) {
    Ppo *p = ud;
    watch_leaf(p->watch, p->update + 1, i, &p->leaf);
    return leaves_add(ppo_leaves(p), p->leaf, err);
}

static void pipe_lost(void *ud) { leaves_skip(ppo_leaves(ud)); }

/* The gradients of this rank's leaves. False: *err; *together: all ranks have it. */
static bool pipe_gradients(Ppo *p, Leaves *l, const Minibatch *b, bool *together, Error *err) {
    const PipeWork w = {p, p->pulse, pipe_batch, pipe_loss, pipe_done, pipe_lost};
    const Error none = {0};
    p->now = b;
    const PipeRun run = {leaves_number(l, 0), leaves_number(l, 1) - leaves_number(l, 0), leaves_count(l)};
    *together = !pipe_fill(p->pipe, &w, run, &none, err);
    return !*together && pipe_run(p->pipe, &w, err);
}

bool ppo_gradients(Ppo *p, Leaves *l, const Minibatch *b, bool *together, Error *err) {
    *together = false;
    if (p->pipe) return pipe_gradients(p, l, b, together, err);
    for (int64_t k = 0; k < leaves_count(l); k++) {
        int64_t i = leaves_number(l, k);
        LeafSum leaf = {0};
        bool ok = i < b->n_pass ? pass_leaf(p, b, i, &leaf, leaves_metrics(l), err)
                                : mix_in(p, b->number, b->weight, &leaf, leaves_metrics(l), err);
        watch_leaf(p->watch, p->update + 1, i, &leaf);
        if (!ok || !leaves_add(l, leaf, err)) return false;
    }
    return true;
}

/* -- room */

/* May activations of one net serve the other? */
static bool same_shape(const Model *x, const Model *y) {
    const ModelConfig *a = &x->cfg, *b = &y->cfg;
    return x->dtype == y->dtype && a->n_layer == b->n_layer && a->n_head == b->n_head && a->n_kv_head == b->n_kv_head &&
           a->d_model == b->d_model && a->d_head == b->d_head && a->d_ff == b->d_ff && a->norm == b->norm &&
           a->mlp == b->mlp;
}

static bool open_net(Acts **acts, Arena *mem, Tensor *slice, const PpoConfig *c, Net net, Keep keep, Acts *shared,
                     Error *err) {
    *acts = shared;
    return (shared || acts_open(acts, net.trunk, c->max_tok, c->max_tok, keep, err)) &&
           head_slice_open(mem, slice, net, err);
}

/* Both nets of a pipeline have passes under way at once, so they share none of this. */
static bool open_stages(Ppo *p, const Net nets[2], Keep keep, Error *err) {
    const PpoConfig *c = p->c;
    int n = ppo_has_value(p) ? 2 : 1, seen = may_share(p) ? SEEN_PER_ROW * c->max_tok : 0;
    const PipeLane lane[2] = {{nets[0], seen}, {nets[1], seen}};
    bool last = nets[0].trunk->part.last;
    return pipe_open(&p->pipe, lane, n, c->mesh, c->max_tok, c->max_tok, keep, err) &&
           (!last || head_slice_open(&p->policy_mem, &p->policy_slice, nets[0], err)) &&
           (!last || n == 1 || head_slice_open(&p->value_mem, &p->value_slice, nets[1], err));
}

static bool open_acts(Ppo *p, const Net nets[2], Error *err) {
    const PpoConfig *c = p->c;
    int n_net = ppo_has_value(p) ? 2 : 1;
    bool stages = model_is_stage(nets[0].trunk), same = n_net == 2 && same_shape(nets[0].trunk, nets[1].trunk);
    Keep keep = !c->keep_auto ? c->keep : train_keep(nets, n_net, p->optim, same ? 1 : n_net, c->max_tok, c->max_tok);
    if (stages) return open_stages(p, nets, keep, err);
    if (!open_net(&p->policy_acts, &p->policy_mem, &p->policy_slice, c, nets[0], keep, NULL, err) ||
        (may_share(p) && !acts_share(p->policy_acts, SEEN_PER_ROW * c->max_tok, err)))
        return false;
    if (!ppo_has_value(p)) return true;
    return open_net(&p->value_acts, &p->value_mem, &p->value_slice, c, nets[1], keep, same ? p->policy_acts : NULL,
                    err);
}

bool ppo_passes_open(Ppo *p, const Net nets[2], Error *err) {
    const PpoConfig *c = p->c;
    p->pass.tok = mem_alloc(SEEN_PER_ROW * (size_t)c->max_tok * sizeof(int32_t));
    p->pass.same = mem_alloc((size_t)c->rollouts * sizeof(int32_t));
    p->pass.target = mem_alloc((size_t)c->max_tok * sizeof(int32_t));
    p->pass.seq_off = mem_alloc((size_t)(c->rollouts + 1) * sizeof(int32_t));
    p->pass.at = mem_alloc((size_t)c->max_tok * sizeof(int64_t));
    p->pass.share = mem_alloc((size_t)c->max_tok * sizeof *p->pass.share);
    p->pass.of = mem_alloc((size_t)c->max_tok * sizeof *p->pass.of);
    p->pass.sum = mem_alloc((size_t)c->rollouts * sizeof *p->pass.sum);
    p->value_rows = mem_alloc(HEAD_SLICE_MOST * sizeof(double));
    return open_acts(p, nets, err);
}

void ppo_passes_close(Ppo *p) {
    free(p->value_rows);
    free(p->pass.tok);
    free(p->pass.same);
    free(p->pass.target);
    free(p->pass.seq_off);
    free(p->pass.at);
    free(p->pass.share);
    free(p->pass.of);
    free(p->pass.sum);
    batch_release(&p->pass.buf);
    logp_release(&p->logp);
    arena_release(&p->policy_mem);
    arena_release(&p->value_mem);
    if (p->value_acts != p->policy_acts) acts_close(p->value_acts);
    acts_close(p->policy_acts);
    pipe_close(p->pipe);
}
