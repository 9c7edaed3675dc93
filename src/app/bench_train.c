/* Training: forward, backward and AdamW by the trainer's own verbs, on the same random tokens every step, logits of all
 * rows.
 *
 * The head runs in slices, forward and backward in turn, so the time of a step is split at the loss:
 *
 *      net_forward, head | loss, its gradient | head backward, head of the next slice | loss ... | head backward,
 * net_backward forward             measured apart       a third forward (one product of three)             backward */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/bench.h"
#include "nn/lora.h"
#include "nn/optim.h"
#include "train/batch.h"
#include "train/trainer.h"

typedef struct {
    Bench *b;
    ModelConfig cfg;
    Model m;
    Head h;
    Adapter *adapter;
    Net net;
    Acts *acts;
    Arena mem;
    Tensor slice;
    Optim *optim;
    Objective obj;
    BatchBuf buf;
    Batch batch;
    LogpBuf logp;
    int32_t *tok, *target, *seq_off;
    int n_seq, len;
    double begun, left, fwd, bwd; /* of this step; left: when the last slice's loss was through */
} Train;

static bool same_batch(void *self, int64_t number, Batch *b, Error *err) {
    (void)number, (void)err;
    *b = ((Train *)self)->batch;
    return true;
}

static double loss_of_slice(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight,
                            Metrics *metrics) {
    Train *t = self;
    (void)b, (void)metrics;
    int n = (int)out.rows;
    double start = now_s(), loss = 0;
    if (first == 0)
        t->fwd += start - t->begun;
    else {
        t->fwd += (start - t->left) / 3;
        t->bwd += (start - t->left) * 2 / 3;
    }
    logp_forward(&t->logp, be, out, t->target + first, 1, false);
    double half = now_s();
    for (int i = 0; i < n; i++) {
        loss -= t->logp.lp[i];
        t->logp.dlp[i] = -1;
    }
    logp_backward(&t->logp, be, out, t->target + first, 1);
    *weight += n;
    t->left = now_s();
    t->fwd += half - start;
    t->bwd += t->left - half;
    return loss;
}

static bool train_open(Train *t, Error *err) {
    Backend *be = t->b->machine.be;
    const ModelConfig *c = &t->cfg;
    int n = t->n_seq * t->len;
    Rng rng = {0, RNG_TEST};
    t->tok = mem_alloc((size_t)n * sizeof *t->tok);
    t->target = mem_alloc((size_t)n * sizeof *t->target);
    t->seq_off = mem_alloc((size_t)(t->n_seq + 1) * sizeof *t->seq_off);
    for (int i = 0; i < n; i++) {
        uint32_t vocab = (uint32_t)c->n_vocab;
        t->tok[i] = (int32_t)rng_below(rng, (uint64_t)i, 0, vocab);
        t->target[i] = (int32_t)rng_below(rng, (uint64_t)i + 1, (i + 1) % t->len ? 0 : 1, vocab);
    }
    for (int s = 0; s <= t->n_seq; s++) t->seq_off[s] = s * t->len;
    batch_layout(&t->buf, &t->batch, t->tok, n, t->seq_off, t->n_seq, true);
    for (int i = 0; i < n; i++) t->buf.row[i] = i;
    t->batch.n_row = n;
    t->obj = (Objective){.name = "bench",
                         .row_group = 1,
                         .micro = same_batch,
                         .loss = loss_of_slice,
                         .self = t,
                         .max_tok = n,
                         .max_row = n};
    bool all = t->b->lora == 0;
    if (!model_init(&t->m, be, c, 0, all, err)) return false;
    t->net.trunk = &t->m;
    if (!head_init(&t->h, &t->m, HEAD_LM, c->n_vocab, 0, all, err)) return false;
    t->net.head = &t->h;
    static const char *const target[] = {"all-linear"};
    LoraConfig lora = {.r = (int)t->b->lora, .alpha = 2.0 * (double)t->b->lora, .target = target, .n_target = 1};
    if (!all && !adapter_init(&t->adapter, &t->m, &lora, 0, true, err)) return false;
    t->net.adapter = t->adapter;
    OptimConfig o = {.lr = 3e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1};
    net_zero_grads(t->net);
    if (!optim_open(&t->optim, &t->net, NULL, 1, &o, err)) return false;
    if (t->b->keep_auto) t->b->keep = train_keep(&t->net, 1, t->optim, 1, n, n);
    return acts_open(&t->acts, &t->m, n, n, t->b->keep, err) && head_slice_open(&t->mem, &t->slice, t->net, err);
}

static void train_close(Train *t) {
    acts_close(t->acts);
    arena_release(&t->mem);
    optim_close(t->optim);
    adapter_close(t->adapter);
    if (t->net.head) head_release(&t->h);
    if (t->net.trunk) model_release(&t->m);
    batch_release(&t->buf);
    logp_release(&t->logp);
    free(t->tok);
    free(t->target);
    free(t->seq_off);
}

typedef struct {
    double fwd, bwd, opt, cpu, loss;
} Step;

static Step train_step(Train *t) {
    Step s = {0};
    double cpu = own_cpu_s(), weight = 0;
    t->begun = now_s();
    t->fwd = t->bwd = 0;
    double loss = train_micro(t->net, t->acts, &t->batch, &t->obj, t->slice, &weight, NULL);
    double end = now_s();
    optim_step(t->optim, 1, 1 / weight);
    backend_wait(t->b->machine.be);
    s.opt = now_s() - end;
    s.fwd = t->fwd;
    s.bwd = t->bwd + end - t->left;
    s.loss = loss / weight;
    s.cpu = own_cpu_s() - cpu;
    return s;
}

static void report(Train *t, const Step *step, int n, double warm, Meter meter) {
    Bench *b = t->b;
    double *v = mem_alloc((size_t)n * sizeof *v), tok = t->n_seq * t->len;
    double med[5], best;
    for (int k = 0; k < 5; k++) {
        for (int i = 0; i < n; i++) {
            const Step *s = &step[i];
            v[i] = k == 0 ? s->fwd : k == 1 ? s->bwd : k == 2 ? s->opt : k == 3 ? s->cpu : s->fwd + s->bwd + s->opt;
        }
        med[k] = median_of(v, n);
    }
    best = v[0];
    free(v);
    const ModelConfig *c = &b->size->cfg;
    double flops = 6.0 * (double)model_config_matmul_params(c) + 12.0 * c->n_layer * c->d_model * t->len;
    double rate = tok / med[4], gflops = flops * rate / 1e9;
    char name[64];
    snprintf(name, sizeof name, "train/%s/%dx%d", b->size->name, t->n_seq, t->len);
    Case k;
    case_begin(&k, b, "train", name, pool_threads(b->machine.pool));
    json_out_str(&k.j, "impl", "native");
    json_out_str(&k.j, "dtype", b->dtype_name);
    json_out_int(&k.j, "batch", t->n_seq);
    json_out_int(&k.j, "seq", t->len);
    if (b->lora > 0) json_out_int(&k.j, "lora", b->lora);
    json_out_str(&k.j, "keep", b->keep == KEEP_ALL ? "all" : "inputs");
    json_out_num(&k.j, "tok_s", rounded(rate, 1));
    json_out_num(&k.j, "tok_s_best", rounded(tok / best, 1));
    json_out_num(&k.j, "tok_cpu_s", rounded(tok / med[3], 1));
    json_out_num(&k.j, "step_ms", rounded(1e3 * med[4], 1));
    json_out_num(&k.j, "fwd_ms", rounded(1e3 * med[0], 1));
    json_out_num(&k.j, "bwd_ms", rounded(1e3 * med[1], 1));
    json_out_num(&k.j, "opt_ms", rounded(1e3 * med[2], 1));
    json_out_num(&k.j, "gflops", rounded(gflops, 1));
    json_out_num(&k.j, "mfu", b->peak > 0 ? rounded(gflops / b->peak, 3) : NAN);
    json_out_num(&k.j, "loss", rounded(step[n - 1].loss, 3));
    json_out_num(&k.j, "warm_s", rounded(warm, 1));
    json_out_int(&k.j, "steps", n);
    case_end(&k, meter,
             "%.0f tok/s  %.0f tok per CPU second  step %.1f ms = %.1f forward + %.1f backward + %.1f optimizer  %.1f "
             "GFLOP/s  loss %.3f",
             rate, tok / med[3], 1e3 * med[4], 1e3 * med[0], 1e3 * med[1], 1e3 * med[2], gflops, step[n - 1].loss);
}

bool bench_train(Bench *b, Error *err) {
    Train *t = mem_alloc(sizeof *t);
    t->b = b;
    t->n_seq = b->batch ? (int)b->batch : b->size->batch;
    t->len = b->seq ? (int)b->seq : b->size->seq;
    t->cfg = bench_config(b->size, t->len);
    bool ok = train_open(t, err);
    if (ok) {
        int n = (int)b->steps;
        Step *step = mem_alloc((size_t)n * sizeof *step);
        double start = now_s();
        for (int64_t i = 0; i < b->warmup; i++) train_step(t);
        double warm = now_s() - start;
        Meter meter = meter_start();
        for (int i = 0; i < n; i++) step[i] = train_step(t);
        report(t, step, n, warm, meter);
        free(step);
    }
    train_close(t);
    free(t);
    return ok;
}
