#include "train/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/io.h"
#include "base/json.h"
#include "nn/lora.h"
#include "train/head_cut.h"
#include "train/pipe.h"
#include "train/watch.h"

struct Trainer {
    Net net;
    TrainConfig cfg;
    Objective obj_here; /* the caller's, with our pulse */
    const Objective *obj;
    Pulse *pulse;
    Log *log;
    const Stop *stop;
    Optim *optim;
    Leaves *leaves;
    Watch *watch;
    Acts *acts;   /* NULL: */
    Pipe *pipe;   /* this rank's stages of a pipeline */
    LeafSum leaf; /* of the micro-batch whose loss was computed last */
    Arena mem;
    Tensor slice;
    Metrics *metrics;
    Appender *file;
    int64_t step;      /* steps made */
    int64_t n_skipped; /* in a row, up to now */
    double last_loss, tok_done;
    int64_t n_tok, n_seq; /* seen since step 0 */
};

/* -- one micro-batch */

double head_micro(Net net, Acts *a, const Batch *b, const Objective *obj, Tensor slice, double *weight, Metrics *m,
                  bool grads) {
    CHECK(obj->logp || !head_divided(net), "objective %s does not know of divided outputs", obj->name);
    if (obj->logp) logp_of(obj->logp, net);
    if (acts_cut(a)) return head_micro_cut(net, a, b, obj, slice, weight, m, grads);
    double loss = 0;
    int rows = (int)slice.rows, step = rows - rows % obj->row_group;
    for (int first = 0; obj->look && first < b->n_row; first += step) {
        Tensor out = tensor_rows(slice, 0, b->n_row - first < step ? b->n_row - first : step);
        head_forward(net, a, first, out);
        obj->look(obj->self, net.trunk->be, b, first, out);
    }
    for (int first = 0; first < b->n_row; first += step) {
        int n = b->n_row - first < step ? b->n_row - first : step;
        Tensor out = tensor_rows(slice, 0, n);
        head_forward(net, a, first, out);
        loss += obj->loss(obj->self, net.trunk->be, b, first, out, weight, m);
        if (grads) head_backward(net, a, first, out);
    }
    return loss;
}

static double micro(Net net, Acts *a, const Batch *b, const Objective *obj, Tensor slice, double *weight, Metrics *m,
                    bool grads) {
    if (b->n_row == 0) return 0; /* nothing in it is trained */
    pulse_section(obj->pulse, SECTION_FWD);
    net_forward(net, a, b, NULL);
    double loss = head_micro(net, a, b, obj, slice, weight, m, grads);
    if (grads) {
        pulse_section(obj->pulse, SECTION_BWD);
        net_backward(net, a, b);
    }
    return loss;
}

double train_micro(Net net, Acts *a, const Batch *b, const Objective *obj, Tensor slice, double *weight, Metrics *m) {
    return micro(net, a, b, obj, slice, weight, m, true);
}

double eval_micro(Net net, Acts *a, const Batch *b, const Objective *obj, Tensor slice, double *weight, Metrics *m) {
    return micro(net, a, b, obj, slice, weight, m, false);
}

enum { FROZEN_VALUES = 1 << 21 }; /* 8 MB of logits */

int head_slice_rows(Net net) {
    int64_t n_out = net.head->n_out;
    if (head_divided(net))
        n_out = (net.trunk->whole.n_vocab - 1) / net.trunk->part.tp_n + 1; /* the same on all ranks */
    int64_t fill = net.trunk->be->slice_values / n_out, few = FROZEN_VALUES / n_out;
    if (fill == 0 && tensor_empty(net.head->dw) && few < HEAD_SLICE)
        return few < HEAD_SLICE_LEAST ? HEAD_SLICE_LEAST : (int)(few - few % HEAD_SLICE_LEAST);
    return (int)(fill < HEAD_SLICE ? HEAD_SLICE : fill > HEAD_SLICE_MOST ? HEAD_SLICE_MOST : fill);
}

enum { PROGRAM_BYTES = 12 << 20 }; /* libraries, heap and threads' stacks, as measured beside small models */

Keep train_keep(const Net *net, int n_net, const Optim *optim, int n_acts, int max_tok, int max_row) {
    const Model *m = net[0].trunk;
    size_t real = m->be->real == DTYPE_F64 ? 8 : 4, added = PROGRAM_BYTES + optim_bytes(optim);
    if (m->grads.used > 0 || !net[0].adapter) return KEEP_ALL;
    for (int i = 0; i < n_net; i++) {
        if (net[i].adapter) added += adapter_bytes(net[i].adapter);
        added += (size_t)head_slice_rows(net[i]) * (size_t)net[i].head->n_out * real;
    }
    added += (size_t)n_acts * acts_bytes(m, max_tok, max_row, KEEP_ALL);
    return added <= m->params.used / 4 ? KEEP_ALL : KEEP_INPUTS;
}

bool head_slice_open(Arena *mem, Tensor *slice, Net net, Error *err) {
    Arena measure;
    int rows = head_slice_rows(net);
    arena_init_measure(&measure, "head slice");
    tensor_place(&measure, net.trunk->be->real, rows, net.head->n_out);
    if (!arena_init(mem, "head slice", net.trunk->be->mem, measure.used, err)) return false;
    *slice = tensor_place(mem, net.trunk->be->real, rows, net.head->n_out);
    return true;
}

bool eval_run(double *loss, Net net, const Objective *obj, int64_t n_micro, Metrics *m, Error *err) {
    Arena mem = {0};
    Acts *acts = NULL;
    Tensor slice;
    double sum = 0, weight = 0;
    bool ok = head_slice_open(&mem, &slice, net, err) &&
              acts_open(&acts, net.trunk, obj->max_tok, obj->max_row, KEEP_NONE, err);
    for (int64_t i = 0; ok && i < n_micro; i++) {
        Batch b;
        ok = obj->micro(obj->self, i, &b, err);
        if (ok) sum += eval_micro(net, acts, &b, obj, slice, &weight, m);
    }
    *loss = weight > 0 ? sum / weight : NAN;
    acts_close(acts);
    arena_release(&mem);
    return ok;
}

/* -- life */

static bool open_passes(Trainer *t, Error *err) {
    const Objective *o = t->obj;
    const PipeLane lane = {t->net, 0};
    if (!model_is_stage(t->net.trunk))
        return acts_open(&t->acts, t->net.trunk, o->max_tok, o->max_row, t->cfg.keep, err);
    return pipe_open(&t->pipe, &lane, 1, t->cfg.mesh, o->max_tok, o->max_row, t->cfg.keep, err);
}

bool trainer_open(Trainer **out, Net net, const TrainConfig *c, const Objective *obj, Log *log, const Stop *stop,
                  Error *err) {
    *out = NULL;
    CHECK(c->accum >= 1 && c->keep != KEEP_NONE, "accum %d, keep %d", c->accum, (int)c->keep);
    CHECK(net_trains(net), "the net was opened without gradients");
    if (!model_share_rows(net.trunk, c->mesh, err)) return false;
    Trainer *t = mem_alloc(sizeof *t);
    *t = (Trainer){.net = net, .cfg = *c, .obj_here = *obj, .log = log, .stop = stop, .last_loss = NAN};
    t->obj = &t->obj_here;
    t->obj_here.pulse = t->pulse = log_pulse(log);
    if (t->cfg.max_skipped == 0) t->cfg.max_skipped = 10;
    if (t->cfg.state_s == 0) t->cfg.state_s = 60;
    t->metrics = metrics_new();
    t->cfg.optim.mesh = c->mesh;
    t->cfg.optim.shard = c->shard;
    double scale = 1;
    bool ok = optim_open(&t->optim, &net, &scale, 1, &t->cfg.optim, err);
    if (ok && c->keep_auto) t->cfg.keep = train_keep(&net, 1, t->optim, 1, obj->max_tok, obj->max_row);
    if (!ok || !open_passes(t, err) || (net.trunk->part.last && !head_slice_open(&t->mem, &t->slice, net, err))) {
        trainer_close(t);
        return false;
    }
    leaves_open(&t->leaves, t->optim, &(LeavesConfig){c->mesh, c->running_sum, c->overlap});
    t->watch = watch_new(&(WatchConfig){c->mesh, log, {net}, 1, c->compare_every});
    *out = t;
    return true;
}

void trainer_close(Trainer *t) {
    if (!t) return;
    appender_close(t->file);
    arena_release(&t->mem);
    acts_close(t->acts);
    pipe_close(t->pipe);
    watch_free(t->watch);
    leaves_close(t->leaves);
    optim_close(t->optim);
    metrics_free(t->metrics);
    free(t);
}

bool trainer_rehearse(Trainer *t, Error *err) {
    if (!leaves_rehearse(t->leaves, t->cfg.accum, err)) return false;
    optim_rehearse(t->optim);
    return true;
}

double trainer_last_loss(const Trainer *t) { return t->last_loss; }
Metrics *trainer_metrics(Trainer *t) { return t->metrics; }

static Comm *world_of(const Trainer *t) { return t->cfg.mesh ? t->cfg.mesh->world : NULL; }
static bool leads(const Trainer *t) { return mesh_leads(t->cfg.mesh); }

/* -- state */

static StateView view(Trainer *t) {
    StateView v = {.net = {{"net", t->net}}, .n_net = 1, .optim = t->optim, .optim_net = {"net"}, .step = t->step};
    v.metric = t->last_loss, v.schedule = &t->cfg.schedule, v.lr = t->cfg.optim.lr, v.metrics = t->file;
    return v;
}

static void put_state(void *ud, JsonOut *j) {
    const Trainer *t = ud;
    json_out_int(j, "step", t->step);
    json_out_int(j, "micro_batches", t->step * t->cfg.accum);
    json_out_int(j, "tokens", t->n_tok);
    json_out_int(j, "sequences", t->n_seq);
    json_out_int(j, "skipped_in_a_row", t->n_skipped);
    json_out_num(j, "last_loss", t->last_loss);
}

static bool load(Trainer *t, State *s, int64_t *metrics_bytes, Error *err) {
    const Json *j;
    if (!state_find(s, &j, err)) return false;
    if (!j) return true;
    t->step = json_int(json_get(j, "step"), -1);
    t->n_tok = json_int(json_get(j, "tokens"), 0);
    t->n_seq = json_int(json_get(j, "sequences"), 0);
    t->n_skipped = json_int(json_get(j, "skipped_in_a_row"), 0);
    t->last_loss = json_num(json_get(j, "last_loss"), NAN);
    *metrics_bytes = json_int(json_get(j, "metrics_bytes"), -1);
    if (t->step < 0 || *metrics_bytes < 0)
        return error_set(err, ERR_FORMAT, "the saved state has no 'step' or 'metrics_bytes' in its 'progress'");
    StateView v = view(t);
    return state_load(s, &v, err);
}

/* -- the loop */

typedef struct {
    double loss, weight, lr, grad_norm, n_tok, start_s, wait_s;
    CommTimes comm; /* before it */
    TraceSum trace;
    bool skipped, stopped;
} Step;

static double waited(const Trainer *t) { return t->obj->wait_s ? t->obj->wait_s(t->obj->self) : 0; }

static bool read_micro(Trainer *t, int64_t i, Batch *b, Error *err) {
    pulse_section(t->pulse, SECTION_DATA);
    if (!t->obj->micro(t->obj->self, t->step * t->cfg.accum + i, b, err)) return false;
    b->drop = (uint64_t)(t->step * t->cfg.accum + i) + 1;
    CHECK(b->n_tok <= t->obj->max_tok && b->n_row <= t->obj->max_row, "micro-batch of %d tokens, %d rows", b->n_tok,
          b->n_row);
    return true;
}

static void count_leaf(Trainer *t, LeafSum *leaf, int64_t i, const Batch *b) {
    trace_add(&leaf->trace, t->cfg.trace, t->step + 1, i, b, leaf->loss);
    leaf->tokens = b->n_tok;
    leaf->rows = b->n_row;
    leaf->sequences = b->seqs.n_seq;
}

/* Do several ranks make one micro-batch's passes? They begin them together, or wait for each other in vain. */
static bool together(const Trainer *t) { return t->cfg.mesh && t->cfg.mesh->model; }

/* This rank's micro-batches. False: *err, which may be ERR_STOPPED. */
static bool make_leaves(Trainer *t, Error *err) {
    for (int64_t k = 0; k < leaves_count(t->leaves); k++) {
        int64_t i = leaves_number(t->leaves, k);
        Batch b;
        LeafSum leaf = {0};
        if (!together(t) && stop_requested(t->stop)) return error_set(err, ERR_STOPPED, "stopped");
        if (!read_micro(t, i, &b, err)) return false;
        leaf.loss = train_micro(t->net, t->acts, &b, t->obj, t->slice, &leaf.weight, leaves_metrics(t->leaves));
        count_leaf(t, &leaf, i, &b);
        watch_leaf(t->watch, t->step + 1, i, &leaf);
        if (!leaves_add(t->leaves, leaf, err)) return false;
    }
    return true;
}

/* The same through the stages of a pipeline: what a micro-batch comes to is known on the last one. */
static bool pipe_batch(void *ud, int64_t i, Batch *b, unsigned *lanes, unsigned *trained, Error *err) {
    Trainer *t = ud;
    *lanes = *trained = 1;
    t->leaf = (LeafSum){0};
    if (!read_micro(t, i, b, err)) return false;
    if (b->n_row == 0) count_leaf(t, &t->leaf, i, b);
    return true;
}

static bool pipe_loss(void *ud, int64_t i, int lane, Acts *a, const Batch *b, bool train, Error *err) {
    Trainer *t = ud;
    (void)lane, (void)err;
    t->leaf.loss = head_micro(t->net, a, b, t->obj, t->slice, &t->leaf.weight, leaves_metrics(t->leaves), train);
    count_leaf(t, &t->leaf, i, b);
    return true;
}

static bool pipe_done(void *ud, int64_t i, Error *err) {
    Trainer *t = ud;
    watch_leaf(t->watch, t->step + 1, i, &t->leaf);
    return leaves_add(t->leaves, t->leaf, err);
}

static void pipe_lost(void *ud) { leaves_skip(((Trainer *)ud)->leaves); }

static PipeWork pipe_work(Trainer *t) { return (PipeWork){t, t->pulse, pipe_batch, pipe_loss, pipe_done, pipe_lost}; }

static bool make_ready(Trainer *t, Error *err) {
    Error mine = {0};
    if (!together(t)) return true;
    if (stop_requested(t->stop)) error_set(&mine, ERR_STOPPED, "stopped");
    if (!t->pipe) return agree(world_of(t), &mine, NULL, 0, NULL, err);
    PipeWork w = pipe_work(t);
    const PipeRun run = {leaves_number(t->leaves, 0), leaves_number(t->leaves, 1) - leaves_number(t->leaves, 0),
                         leaves_count(t->leaves)};
    return pipe_fill(t->pipe, &w, run, &mine, err);
}

/* Gradients of all micro-batches add up, then one update by their sum over the step's whole loss weight: a mean of
 * micro-batch means would weigh the tokens of short ones more. An unfinished step leaves nothing behind: it is made
 * again from its start. */
static bool make_step(Trainer *t, Step *s, Error *err) {
    const TrainConfig *c = &t->cfg;
    LeafSum sum;
    Error mine = {0};
    *s = (Step){.start_s = now_s(), .wait_s = waited(t), .comm = mesh_times(c->mesh)};
    metrics_clear(t->metrics);
    leaves_begin(t->leaves, c->accum);
    if (!make_ready(t, err)) {
        leaves_cancel(t->leaves);
        s->stopped = err->code == ERR_STOPPED;
        return s->stopped;
    }
    PipeWork w = pipe_work(t);
    if (t->pipe)
        pipe_run(t->pipe, &w, &mine);
    else
        make_leaves(t, &mine);
    if (!leaves_agree(t->leaves, &mine, &sum, t->metrics, err)) {
        s->stopped = err->code == ERR_STOPPED;
        return s->stopped;
    }
    bool left_out = watch_step(t->watch, t->step + 1, t->leaves);
    double factor = schedule_factor(&c->schedule, t->step);
    pulse_section(t->pulse, SECTION_OPT);
    s->lr = c->optim.lr * factor;
    s->weight = sum.weight;
    s->n_tok = sum.tokens;
    s->trace = sum.trace;
    s->loss = s->weight > 0 ? sum.loss / s->weight : 0;
    if (s->weight > 0 && isfinite(sum.loss) && !left_out) {
        if (!leaves_sum(t->leaves, err)) return false;
        OptimResult r = optim_step(t->optim, factor, 1 / s->weight);
        if (!mesh_ok(t->cfg.mesh, err)) return false;
        s->grad_norm = r.grad_norm;
        s->skipped = r.skipped;
    } else {
        leaves_drop(t->leaves);
        s->skipped = s->weight > 0;
        s->grad_norm = s->weight > 0 ? NAN : 0;
    }
    t->n_skipped = s->skipped ? t->n_skipped + 1 : 0;
    t->last_loss = s->loss;
    t->tok_done += s->n_tok;
    t->n_tok += (int64_t)s->n_tok;
    t->n_seq += (int64_t)sum.sequences;
    t->step++;
    pulse_numbers(t->pulse, s->loss, s->grad_norm, t->tok_done);
    return true;
}

static bool write_metrics(Trainer *t, const Step *s, Error *err) {
    Str line = {0};
    JsonOut j;
    double took = now_s() - s->start_s, mean, weight;
    json_out_init(&j, &line, 0);
    json_out_obj(&j, NULL);
    json_out_int(&j, "step", t->step);
    json_out_num(&j, "loss", s->loss);
    json_out_num(&j, "lr", s->lr);
    json_out_num(&j, "grad_norm", s->grad_norm);
    json_out_num(&j, "weight", s->weight);
    json_out_int(&j, "tokens", (int64_t)s->n_tok);
    json_out_bool(&j, "skipped", s->skipped);
    for (int i = 0; i < metrics_count(t->metrics); i++) {
        const char *name = metrics_at(t->metrics, i, &mean, &weight);
        json_out_num(&j, name, mean);
    }
    trace_put(&j, &s->trace);
    json_out_num(&j, "t_s", took);
    json_out_num(&j, "t_tok_s", s->n_tok / (took > 0 ? took : 1e-9));
    json_out_num(&j, "t_wait", took > 0 ? (waited(t) - s->wait_s) / took : 0);
    leaves_put_times(&j, t->leaves, s->comm, took);
    load_put_row(log_load(t->log), &j);
    json_out_obj_end(&j);
    bool ok = appender_line(t->file, line.s, line.n, err);
    str_release(&line);
    log_progress(t->log, t->step, t->cfg.steps, t->tok_done, "tok", "loss %.4g  lr %.3g  norm %.3g%s", s->loss, s->lr,
                 s->grad_norm, s->skipped ? "  skipped" : "");
    return ok;
}

static bool diverged(const Trainer *t, const Step *s, Error *err) {
    return error_set(
        err, ERR_DIVERGED,
        "step %" PRId64 ": %" PRId64 " steps in a row had a non-finite loss or gradient norm (last loss %g, norm "
        "%g). Likely causes: the learning rate (%g at this step) is too high or its warm-up too short; gradient "
        "clipping is off (clip %g); the weights it started from or the data hold non-finite values. None of "
        "these steps changed the weights",
        t->step, t->n_skipped, s->loss, s->grad_norm, s->lr, t->cfg.optim.clip);
}

/* Rank 0's clock decides for all: `due` is its answer, everywhere. By the clock only when nothing waits for it; by
 * steps whatever it costs. */
static bool after_step(Trainer *t, const Step *s, State *state, double saved_s, bool *due, Error *err) {
    const TrainConfig *c = &t->cfg;
    Error mine = {0};
    Gathered all;
    bool busy = state_busy(state), by_steps = c->state_steps > 0 && t->step % c->state_steps == 0;
    unsigned char now = t->step < c->steps && (by_steps || (now_s() - saved_s >= c->state_s && !busy));
    if (leads(t)) write_metrics(t, s, &mine);
    if (!agree(world_of(t), &mine, &now, 1, &all, err)) return false;
    *due = all.data[0] != 0;
    gathered_release(&all);
    return true;
}

static bool loop(Trainer *t, State *state, Error *err) {
    double saved_s = now_s();
    while (t->step < t->cfg.steps) {
        Step s;
        StateView v;
        bool due;
        if (trace_over(t->cfg.trace, t->step, err) || !make_step(t, &s, err)) return false;
        if (s.stopped) {
            v = view(t);
            if (!watch_weights(t->watch, t->step, true, err)) return false;
            if (!state_save_last(state, &v, put_state, t, err)) return false;
            return error_set(err, ERR_STOPPED, "stopped after step %" PRId64 " of %" PRId64 "; run again to go on",
                             t->step, t->cfg.steps);
        }
        if (!after_step(t, &s, state, saved_s, &due, err)) return false;
        if (s.skipped)
            log_warn(t->log, "step %" PRId64 " skipped: loss %g, gradient norm %g", t->step, s.loss, s.grad_norm);
        if (t->n_skipped >= t->cfg.max_skipped) return diverged(t, &s, err);
        if (!watch_weights(t->watch, t->step, due, err)) return false;
        if (!due) continue;
        v = view(t);
        if (!state_save(state, &v, put_state, t, err)) return false;
        saved_s = now_s();
    }
    return !trace_over(t->cfg.trace, t->step, err);
}

bool trainer_run(Trainer *t, const char *dir, Error *err) {
    int64_t metrics_bytes = 0;
    State *state = NULL;
    Str path = {0};
    Error mine = {0};
    str_printf(&path, "%s/metrics.jsonl", dir);
    bool ok = state_open(&state, dir, &t->cfg.state, t->cfg.mesh, t->log, err) && load(t, state, &metrics_bytes, err);
    if (ok && t->step > 0) log_info(t->log, "resumed at step %" PRId64 " of %" PRId64, t->step, t->cfg.steps);
    if (ok && leads(t)) appender_open(&t->file, path.s, metrics_bytes, &mine);
    ok = ok && agree(world_of(t), &mine, NULL, 0, NULL, err);
    if (ok) {
        pulse_working(t->pulse);
        ok = loop(t, state, err);
        Error said; /* by the log; the result does not need the state */
        state_settle(state, &said);
        if (ok && leads(t)) ok = appender_sync(t->file, err);
        pulse_section(t->pulse, SECTION_INIT);
        log_progress_end(t->log);
        appender_close(t->file);
        t->file = NULL;
    }
    state_close(state);
    str_release(&path);
    return ok;
}
