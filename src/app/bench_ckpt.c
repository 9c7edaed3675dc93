/* Saving a training state: how long training stands still, in the background and in front, and how long a save takes.
 * Weights, moments and F32 masters of a net of random weights, into a folder that is removed again. Background and
 * front take turns, each save of a step of its own; the first of each is not counted. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/bench.h"
#include "base/io.h"
#include "train/state.h"

typedef struct {
    Bench *b;
    Model m;
    Head h;
    Net net;
    Optim *optim;
    State *state[2]; /* in the background, in front */
    Appender *metrics;
    Str dir;
    int64_t step;
} Save;

enum { BACKGROUND, FRONT };

static bool save_open(Save *s, Error *err) {
    Backend *be = s->b->machine.be;
    const OptimConfig o = {.lr = 3e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    Str path = {0};
    str_printf(&s->dir, "%s/dikast-bench-XXXXXX", s->b->dir ? s->b->dir : ".");
    if (!mkdtemp(s->dir.s)) {
        bool no = error_errno(err, "make a folder", s->dir.s);
        str_clear(&s->dir);
        return no;
    }
    str_printf(&path, "%s/metrics.jsonl", s->dir.s);
    bool ok = model_init(&s->m, be, &s->b->size->cfg, 0, true, err);
    if (ok) s->net.trunk = &s->m;
    ok = ok && head_init(&s->h, &s->m, HEAD_LM, s->b->size->cfg.n_vocab, 0, true, err);
    if (ok) s->net.head = &s->h;
    ok = ok && optim_open(&s->optim, &s->net, NULL, 1, &o, err) && appender_open(&s->metrics, path.s, -1, err);
    for (int k = 0; k < 2 && ok; k++)
        ok = state_open(&s->state[k], s->dir.s, &(StateConfig){.wait = k == FRONT}, NULL, NULL, err);
    str_release(&path);
    return ok;
}

static void save_close(Save *s) {
    Error ignore;
    for (int k = 0; k < 2; k++) state_close(s->state[k]);
    appender_close(s->metrics);
    optim_close(s->optim);
    if (s->net.head) head_release(&s->h);
    if (s->net.trunk) model_release(&s->m);
    if (s->dir.n) io_remove_tree(s->dir.s, &ignore);
    str_release(&s->dir);
}

static void put_nothing(void *ud, JsonOut *j) { (void)ud, (void)j; }

/* stall: what the caller waits for; all: until it is verified. */
static bool save(Save *s, int kind, double *stall, double *all, Error *err) {
    const Schedule constant = {.kind = SCHED_CONSTANT, .total = 1};
    StateView v = {.net = {{"net", s->net}}, .n_net = 1, .optim = s->optim, .optim_net = {"net"}, .step = ++s->step};
    v.metric = NAN, v.schedule = &constant, v.metrics = s->metrics;
    double start = now_s();
    bool ok = state_save(s->state[kind], &v, put_nothing, NULL, err);
    *stall = now_s() - start;
    ok = ok && state_settle(s->state[kind], err);
    *all = now_s() - start;
    return ok;
}

static bool measure(Save *s, Error *err) {
    int n = (int)s->b->reps;
    double *v = mem_alloc(4 * (size_t)n * sizeof *v), *stall[2] = {v, v + n}, *all[2] = {v + 2 * n, v + 3 * n}, ignore;
    bool ok = save(s, BACKGROUND, &ignore, &ignore, err) && save(s, FRONT, &ignore, &ignore, err);
    Meter meter = meter_start();
    for (int i = 0; i < n && ok; i++)
        ok = save(s, BACKGROUND, &stall[BACKGROUND][i], &all[BACKGROUND][i], err) &&
             save(s, FRONT, &stall[FRONT][i], &all[FRONT][i], err);
    if (ok) {
        Case k;
        char name[64];
        double bytes = (double)state_stats(s->state[FRONT]).bytes;
        double background = median_of(stall[BACKGROUND], n), front = median_of(stall[FRONT], n);
        double behind = median_of(all[BACKGROUND], n);
        snprintf(name, sizeof name, "ckpt/%s", s->b->size->name);
        case_begin(&k, s->b, "ckpt", name, pool_threads(s->b->machine.pool));
        json_out_str(&k.j, "dtype", s->b->dtype_name);
        json_out_num(&k.j, "mb", rounded(bytes / 1e6, 1));
        json_out_num(&k.j, "stall_async_ms", rounded(1e3 * background, 2));
        json_out_num(&k.j, "stall_sync_ms", rounded(1e3 * front, 2));
        json_out_num(&k.j, "stall_share", rounded(background / front, 4));
        json_out_num(&k.j, "write_async_ms", rounded(1e3 * behind, 1));
        json_out_num(&k.j, "mb_s", rounded(bytes / 1e6 / front, 1));
        case_end(&k, meter,
                 "%.1f MB  training waits %.1f ms in the background, %.1f ms in front: %.1f %%  written in %.0f ms",
                 bytes / 1e6, 1e3 * background, 1e3 * front, 100 * background / front, 1e3 * behind);
    }
    free(v);
    return ok;
}

bool bench_ckpt(Bench *b, Error *err) {
    Save *s = mem_alloc(sizeof *s);
    s->b = b;
    bool ok = save_open(s, err) && measure(s, err);
    save_close(s);
    free(s);
    return ok;
}
