#include "train/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/io.h"
#include "base/json.h"

struct Trainer {
    Net net;
    TrainConfig cfg;
    const Objective *obj;
    Log *log;
    const Stop *stop;
    Optim *optim;
    Acts *acts;
    Arena mem;
    Tensor slice;
    Metrics *metrics;
    Appender *file;
    int64_t step;      /* steps made */
    int64_t n_skipped; /* in a row, up to now */
    double last_loss, tok_done;
};

/* -- one micro-batch */

static double micro(Net net, Acts *a, const Batch *b, const Objective *obj, Tensor slice, double *weight, Metrics *m,
                    bool grads) {
    if (b->n_row == 0) return 0; /* nothing in it is trained */
    net_forward(net, a, b, NULL);
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
    if (grads) net_backward(net, a, b);
    return loss;
}

double train_micro(Net net, Acts *a, const Batch *b, const Objective *obj, Tensor slice, double *weight, Metrics *m) {
    return micro(net, a, b, obj, slice, weight, m, true);
}

double eval_micro(Net net, Acts *a, const Batch *b, const Objective *obj, Tensor slice, double *weight, Metrics *m) {
    return micro(net, a, b, obj, slice, weight, m, false);
}

int head_slice_rows(Net net) {
    int64_t fill = net.trunk->be->slice_values / net.head->n_out;
    return (int)(fill < HEAD_SLICE ? HEAD_SLICE : fill > HEAD_SLICE_MOST ? HEAD_SLICE_MOST : fill);
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

bool trainer_open(Trainer **out, Net net, const TrainConfig *c, const Objective *obj, Log *log, const Stop *stop,
                  Error *err) {
    *out = NULL;
    CHECK(c->accum >= 1 && c->keep != KEEP_NONE, "accum %d, keep %d", c->accum, (int)c->keep);
    CHECK(net_trains(net), "the net was opened without gradients");
    Trainer *t = mem_alloc(sizeof *t);
    *t = (Trainer){.net = net, .cfg = *c, .obj = obj, .log = log, .stop = stop, .last_loss = NAN};
    if (t->cfg.max_skipped == 0) t->cfg.max_skipped = 10;
    if (t->cfg.state_s == 0) t->cfg.state_s = 60;
    t->metrics = metrics_new();
    double scale = 1;
    if (!optim_open(&t->optim, &net, &scale, 1, &c->optim, err) ||
        !acts_open(&t->acts, net.trunk, obj->max_tok, obj->max_row, c->keep, err) ||
        !head_slice_open(&t->mem, &t->slice, net, err)) {
        trainer_close(t);
        return false;
    }
    *out = t;
    return true;
}

void trainer_close(Trainer *t) {
    if (!t) return;
    appender_close(t->file);
    arena_release(&t->mem);
    acts_close(t->acts);
    optim_close(t->optim);
    metrics_free(t->metrics);
    free(t);
}

double trainer_last_loss(const Trainer *t) { return t->last_loss; }
Metrics *trainer_metrics(Trainer *t) { return t->metrics; }

/* -- state */

static bool write_state(void *ud, const char *dir, Error *err) {
    Trainer *t = ud;
    Str path = {0}, text = {0};
    JsonOut j;
    json_out_init(&j, &text, 1);
    json_out_obj(&j, NULL);
    json_out_int(&j, "step", t->step);
    json_out_int(&j, "skipped_in_a_row", t->n_skipped);
    json_out_num(&j, "last_loss", t->last_loss);
    json_out_int(&j, "metrics_bytes", appender_size(t->file));
    json_out_obj_end(&j);
    str_printf(&path, "%s/optim.safetensors", dir);
    bool ok = state_put_net(t->net, dir, "net", err) && optim_save(t->optim, path.s, err);
    str_clear(&path);
    str_printf(&path, "%s/state.json", dir);
    ok = ok && io_write_file(path.s, text.s, text.n, err);
    str_release(&path);
    str_release(&text);
    return ok;
}

/* The metrics file is synced first: the state names a size that must be there. */
static bool save(Trainer *t, const char *dir, Error *err) {
    return appender_sync(t->file, err) && state_save(dir, write_state, t, err);
}

static bool load(Trainer *t, const char *dir, int64_t *metrics_bytes, Error *err) {
    Str path = {0}, base = {0};
    Json *j = NULL;
    str_printf(&base, "%s/state", dir);
    str_printf(&path, "%s/state.json", base.s);
    bool ok = json_read_file(&j, path.s, 0, err);
    if (ok) {
        t->step = json_int(json_get(j, "step"), -1);
        t->n_skipped = json_int(json_get(j, "skipped_in_a_row"), 0);
        t->last_loss = json_num(json_get(j, "last_loss"), NAN);
        *metrics_bytes = json_int(json_get(j, "metrics_bytes"), -1);
        if (t->step < 0 || *metrics_bytes < 0)
            ok = error_set(err, ERR_FORMAT, "%s: expected 'step' and 'metrics_bytes'; remove the folder to start again",
                           path.s);
    }
    str_clear(&path);
    str_printf(&path, "%s/optim.safetensors", base.s);
    ok = ok && state_get_net(t->net, base.s, "net", err) && optim_load(t->optim, path.s, err);
    json_release(j);
    str_release(&path);
    str_release(&base);
    return ok;
}

/* -- the loop */

typedef struct {
    double loss, weight, lr, grad_norm, n_tok, start_s, wait_s;
    TraceSum trace;
    bool skipped, stopped;
} Step;

static double waited(const Trainer *t) { return t->obj->wait_s ? t->obj->wait_s(t->obj->self) : 0; }

/* Gradients of all micro-batches add up, then one update by their sum over the step's whole loss weight: a mean of
 * micro-batch means would weigh the tokens of short ones more. */
static bool make_step(Trainer *t, Step *s, Error *err) {
    const TrainConfig *c = &t->cfg;
    double sum = 0;
    *s = (Step){.start_s = now_s(), .wait_s = waited(t)};
    metrics_clear(t->metrics);
    for (int i = 0; i < c->accum; i++) {
        Batch b;
        if ((s->stopped = stop_requested(t->stop))) break;
        if (!t->obj->micro(t->obj->self, t->step * c->accum + i, &b, err)) return false;
        CHECK(b.n_tok <= t->obj->max_tok && b.n_row <= t->obj->max_row, "micro-batch of %d tokens, %d rows", b.n_tok,
              b.n_row);
        double loss = train_micro(t->net, t->acts, &b, t->obj, t->slice, &s->weight, t->metrics);
        trace_add(&s->trace, c->trace, t->step + 1, i, &b, loss);
        sum += loss;
        s->n_tok += b.n_tok;
    }
    if (s->stopped) { /* an unfinished step leaves nothing behind: it is made again from its start */
        net_zero_grads(t->net);
        return true;
    }
    double factor = schedule_factor(&c->schedule, t->step);
    s->lr = c->optim.lr * factor;
    s->loss = s->weight > 0 ? sum / s->weight : 0;
    if (s->weight > 0 && isfinite(sum)) {
        OptimResult r = optim_step(t->optim, factor, 1 / s->weight);
        s->grad_norm = r.grad_norm;
        s->skipped = r.skipped;
    } else {
        net_zero_grads(t->net);
        s->skipped = s->weight > 0;
        s->grad_norm = s->weight > 0 ? NAN : 0;
    }
    t->n_skipped = s->skipped ? t->n_skipped + 1 : 0;
    t->last_loss = s->loss;
    t->tok_done += s->n_tok;
    t->step++;
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

static bool loop(Trainer *t, const char *dir, Error *err) {
    double saved_s = now_s();
    while (t->step < t->cfg.steps) {
        Step s;
        if (trace_over(t->cfg.trace, t->step, err) || !make_step(t, &s, err)) return false;
        if (s.stopped) {
            if (!save(t, dir, err)) return false;
            return error_set(err, ERR_STOPPED, "stopped after step %" PRId64 " of %" PRId64 "; run again to go on",
                             t->step, t->cfg.steps);
        }
        if (!write_metrics(t, &s, err)) return false;
        if (s.skipped)
            log_warn(t->log, "step %" PRId64 " skipped: loss %g, gradient norm %g", t->step, s.loss, s.grad_norm);
        if (t->n_skipped >= t->cfg.max_skipped) return diverged(t, &s, err);
        bool due = now_s() - saved_s >= t->cfg.state_s || (t->cfg.state_steps > 0 && t->step % t->cfg.state_steps == 0);
        if (due && t->step < t->cfg.steps) {
            if (!save(t, dir, err)) return false;
            saved_s = now_s();
        }
    }
    return !trace_over(t->cfg.trace, t->step, err);
}

bool trainer_run(Trainer *t, const char *dir, Error *err) {
    int64_t metrics_bytes = 0;
    Str path = {0};
    str_printf(&path, "%s/metrics.jsonl", dir);
    bool ok = !state_exists(dir) || load(t, dir, &metrics_bytes, err);
    if (ok && t->step > 0) log_info(t->log, "resumed at step %" PRId64 " of %" PRId64, t->step, t->cfg.steps);
    ok = ok && appender_open(&t->file, path.s, metrics_bytes, err);
    if (ok) {
        ok = loop(t, dir, err);
        if (ok) ok = appender_sync(t->file, err);
        log_progress_end(t->log);
        appender_close(t->file);
        t->file = NULL;
    }
    str_release(&path);
    return ok;
}
