#include "dist/plan.h"

#include <math.h>
#include <string.h>

#define GIB 1073741824.0

/* -- what is known by name */

// clang-format off
/* Peaks and bandwidths: NVIDIA's data sheets. gemm, elem, link_share: fitted to 2104.04473 table 1 and 2205.05198 table 5 (A100)
 * and to Megatron-core's table of H100 runs (docs/scale.md); the H200 has the H100's. */
static const PlanGpu gpus[] = {
    /* name    peak    memory         bandwidth  link   net   node  gemm elem share overlap reserve price */
    {"A100",  312e12,  80.0 * GIB,   2.039e12,  300e9, 25e9,  8,   0.74, 8,  0.4,  0.8, 4 * GIB, 0},
    {"H100",  989e12,  79.6 * GIB,   3.35e12,   450e9, 50e9,  8,   0.62, 32, 0.8,  0.8, 4 * GIB, 0},
    {"H200",  989e12, 140.4 * GIB,   4.8e12,    450e9, 50e9,  8,   0.62, 32, 0.8,  0.8, 4 * GIB, 0},
};
/* Public shapes: GPT-2 small; Llama 3.2 1B, Llama 2 7B and 13B, Llama 3 8B, 70B, 405B. */
static const PlanModel models[] = {
    /* name   layers width heads kv  ffn    vocab   swiglu tied */
    {"124m",  12,   768,   12,  12,  3072,  50257,  false, true},
    {"1b",    16,  2048,   32,   8,  8192,  128256, true,  true},
    {"7b",    32,  4096,   32,  32,  11008, 32000,  true,  false},
    {"8b",    32,  4096,   32,   8,  14336, 128256, true,  false},
    {"13b",   40,  5120,   40,  40,  13824, 32000,  true,  false},
    {"70b",   80,  8192,   64,   8,  28672, 128256, true,  false},
    {"405b", 126, 16384,  128,   8,  53248, 128256, true,  false},
};
// clang-format on

const PlanGpu *plan_gpu(int i) { return i < COUNT_OF(gpus) ? &gpus[i] : NULL; }

const PlanGpu *plan_gpu_find(const char *name) {
    for (int i = 0; i < COUNT_OF(gpus); i++)
        if (!strcmp(gpus[i].name, name)) return &gpus[i];
    return NULL;
}

const PlanModel *plan_model_find(const char *name) {
    for (int i = 0; i < COUNT_OF(models); i++)
        if (!strcmp(models[i].name, name)) return &models[i];
    return NULL;
}

/* -- counts */

/* Weights of one layer's matrices. */
static double layer_params(const PlanModel *m) {
    double h = (double)m->width, kv = (double)m->kv_heads / (double)m->heads, f = (double)m->ffn / h;
    return (2 + 2 * kv + (m->swiglu ? 3 : 2) * f) * h * h;
}

static double table_params(const PlanModel *m) { return (double)m->vocab * (double)m->width; }

double plan_params(const PlanModel *m) {
    return (double)m->layers * layer_params(m) + (m->tied ? 1 : 2) * table_params(m);
}

/* FLOPs of one token in one layer's scores and weighted sums, forward. */
static double attention_flops(const PlanModel *m, int64_t seq, bool causal) {
    return 4 * (double)seq * (double)m->width * (causal ? 0.5 : 1);
}

double plan_flops(const PlanModel *m, double batch, int64_t seq, bool causal) {
    double layer = 2 * layer_params(m) + attention_flops(m, seq, causal);
    return 3 * batch * (double)seq * ((double)m->layers * layer + 2 * table_params(m));
}

static double cp_of(const PlanLayout *l) { return l->cp > 1 ? l->cp : 1; }

/* Keys and values of a layer and micro-batch, of all tokens and this rank's heads, 16-bit. */
static double keys_bytes(const PlanModel *m, const PlanLayout *l, int64_t seq) {
    double width = (double)m->width * (double)m->kv_heads / (double)m->heads;
    return 2 * 2 * (double)seq * l->micro * width / fmin(l->tp, (double)m->kv_heads);
}

double plan_keys_sent(const PlanModel *m, const PlanLayout *l, int64_t seq) {
    return 3 * keys_bytes(m, l, seq) * (cp_of(l) - 1) / cp_of(l);
}

/* Bytes a value of the residual stream stands for. Every rank holds `whole` unless sequence parallelism cuts it: norms'
 * inputs 4, inputs of attention and MLP 4, two masks 2. Cut by features: q 2, k and v 4 of their heads' share,
 * attention's output 2, and of the MLP 16 (4 widths, before and after GELU), or of SwiGLU gate and up, 2 bytes each a
 * value, beside 2 that its product's input takes. */
double plan_acts_layer(const PlanModel *m, const PlanLayout *l, int64_t seq, bool dropout) {
    double h = (double)m->width, x = (double)seq * l->micro * h / cp_of(l), t = l->tp;
    double whole = 8 + (dropout ? 2 : 0);
    double kv = 4 * (double)m->kv_heads / (double)m->heads;
    double cut = m->swiglu ? 6 + kv + 4 * (double)m->ffn / h : 20 + kv;
    double scores = (dropout ? 5 : 2) * (double)m->heads * (double)seq / h;
    if (l->keep == PLAN_KEEP_INPUT) return 2 * x;
    if (l->keep == PLAN_KEEP_NO_SCORES || l->flash) scores = 0;
    return x * (l->sp ? (whole + cut + scores) / t : whole + (cut + scores) / t);
}

/* Layers' worth of activations that the first stage holds: its L/p of min(p, m) micro-batches, and of interleaved
 * schedules (p-1)/(p v) more. */
static double layers_held(const PlanModel *m, const PlanLayout *l, double n_micro) {
    double p = l->pp, L = (double)m->layers;
    if (n_micro < p) return L * n_micro / p;
    return l->v > 1 ? L * (1 + (p - 1) / (p * l->v)) : L;
}

enum { HEAD_ROWS = 512 }; /* whose logits exist at a time, F32, with their gradient */

PlanMemory plan_memory(const PlanModel *m, const PlanLayout *l, int64_t seq, int64_t batch, bool paper) {
    double per_param = l->zero ? 6 + 12.0 / (l->dp * cp_of(l)) : 18;
    double tables = paper ? 0 : l->pp == 1 && !m->tied ? 2 : 1;
    double layers = paper ? (double)m->layers / l->pp : ceil((double)m->layers / l->pp);
    double n_micro = (double)batch / (l->dp * l->micro);
    PlanLayout again = *l;
    again.keep = PLAN_KEEP_NO_SCORES;
    double params = (layers * layer_params(m) + tables * table_params(m)) / l->tp;
    PlanMemory r = {.state = per_param * params,
                    .acts = plan_acts_layer(m, l, seq, paper) * layers_held(m, l, n_micro)};
    if (!paper) r.sums = ceil(log2(n_micro)) * 4 * params / (l->zero == 2 ? l->dp : 1);
    if (!paper) r.work = 2 * 4.0 * HEAD_ROWS * (double)m->vocab / l->tp;
    if (l->keep == PLAN_KEEP_INPUT) r.work += plan_acts_layer(m, &again, seq, paper);
    if (l->cp > 1) r.work += 2 * keys_bytes(m, l, seq);
    return r;
}

/* -- time */

typedef struct {
    double forward, backward, tp, cp; /* of one layer and micro-batch, all sent included; over tp, over cp alone */
} LayerTime;

/* Shares of a bandwidth that transfers reach: memory, points to points, sums over nodes. */
#define MEMORY_SHARE 0.85
#define P2P_SHARE 0.9
#define SUM_SHARE 0.8

static LayerTime layer_time(const PlanGpu *g, const PlanModel *m, const PlanLayout *l, int64_t seq) {
    double tok = (double)l->micro * (double)seq / cp_of(l), t = l->tp, h = (double)m->width;
    double gemm = g->peak * g->gemm, memory = g->bandwidth * MEMORY_SHARE;
    double attention = attention_flops(m, seq, l->causal);
    double scores = l->flash ? 0 : 8 * (double)m->heads * (double)seq * tok / t; /* bytes of materialised matrices */
    double math = tok * (2 * layer_params(m) + attention) / t / gemm;
    double moved = (tok * h * 2 * g->elem * (l->sp ? 1 / t : 0.5 + 0.5 / t) + scores) / memory;
    double sums = 4 * (t - 1) / t * tok * h * 2 / (g->link * g->link_share); /* two all-reduces */
    LayerTime r = {.forward = math + moved + sums, .backward = 2 * math + 2 * moved + sums, .tp = 2 * sums};
    double wire = l->tp * cp_of(l) <= g->per_node ? g->link * g->link_share : g->net * SUM_SHARE;
    r.cp = plan_keys_sent(m, l, seq) / wire; /* as often whether or not the layer runs again */
    if (l->keep == PLAN_KEEP_INPUT) {
        r.backward += r.forward;
        r.tp += sums;
    } else if (l->keep == PLAN_KEEP_NO_SCORES && !l->flash) {
        r.backward += tok * attention / t / gemm + scores / memory;
    }
    r.forward += r.cp / 3;
    r.backward += 2 * r.cp / 3;
    return r;
}

PlanStep plan_step(const PlanGpu *g, const PlanModel *m, const PlanLayout *l, int64_t seq, int64_t batch) {
    double t = l->tp, p = l->pp, v = l->v, h = (double)m->width, c = cp_of(l), d = l->dp * c; /* d: equal weights */
    double tok = (double)l->micro * (double)seq / c, n_micro = (double)batch / (l->dp * l->micro), ranks = t * p * d;
    bool one_node = ranks <= g->per_node;
    double wire = one_node ? g->link : g->net;
    LayerTime layer = layer_time(g, m, l, seq);
    double stage = (double)m->layers / p * (layer.forward + layer.backward);
    double p2p = p == 1 ? 0 : 2 * v * tok * h * 2 / t / (wire * P2P_SHARE);
    double head = 3 * tok * 2 * table_params(m) / t / (g->peak * g->gemm);
    double n = ((double)m->layers * layer_params(m) + table_params(m)) / (t * p);
    double sent = l->zero == 2 ? n_micro + 1 : l->zero == 1 ? 2 : 4; /* times 2 bytes: gradients, and weights or sums */
    double dp = 2 * (d - 1) / d * n * sent / (wire * SUM_SHARE) * (1 - g->overlap);
    double opt = n * 30 / (l->zero ? d : 1) / (g->bandwidth * MEMORY_SHARE);
    PlanStep r = {.flops = plan_flops(m, (double)batch, seq, l->causal)};
    r.seconds = (n_micro + (p - 1) / v) * (stage + p2p) + n_micro * head + dp + opt;
    r.bubble = (p - 1) / v * (stage + p2p) / r.seconds;
    r.tp_share = (n_micro + (p - 1) / v) * (double)m->layers / p * layer.tp / r.seconds;
    r.cp_share = (n_micro + (p - 1) / v) * (double)m->layers / p * layer.cp / r.seconds;
    r.dp_share = dp / r.seconds;
    r.mfu = r.flops / (ranks * r.seconds * g->peak);
    return r;
}

/* -- failures */

PlanFaults plan_faults(double nodes, double per_1000_node_days, double stall, double restart) {
    PlanFaults f = {.mttf = 86400 * 1000 / (per_1000_node_days * nodes)};
    f.interval = sqrt(2 * stall * f.mttf);
    f.efficiency = 1 - stall / f.interval - (f.interval / 2 + restart) / f.mttf;
    return f;
}

/* -- search */

static double total(PlanMemory m) { return m.state + m.acts + m.work + m.sums; }

static bool heads_split(const PlanModel *m, int tp) {
    bool kv = m->kv_heads % tp == 0 || tp % m->kv_heads == 0; /* or several ranks hold the same ones */
    return m->heads % tp == 0 && m->ffn % tp == 0 && kv;
}

/* First and last part may have a layer less: they have the tables. */
static bool layers_split(const PlanModel *m, int parts) {
    return m->layers >= parts && (m->layers % parts == 0 || (parts > 2 && (m->layers + 2) % parts == 0));
}

/* One layout: refused, or better than the best of its pair so far. */
static void try_layout(PlanRow *best, bool *any, const PlanAsk *ask, const PlanLayout *l, PlanRefused *refused) {
    PlanRow row = {.layout = *l, .memory = plan_memory(ask->model, l, ask->seq, ask->batch, false)};
    double weights = 2 * plan_params(ask->model) / (l->tp * l->pp); /* of a frozen model */
    row.memory.state = ask->trained * row.memory.state + ask->frozen * weights;
    row.memory.sums *= ask->trained;
    double bytes = total(row.memory);
    refused->tried++;
    if (refused->least == 0 || bytes < refused->least) {
        refused->least = bytes;
        refused->least_layout = *l;
    }
    if (bytes > ask->gpu->memory - ask->gpu->reserve) {
        refused->no_fit++;
        return;
    }
    row.step = plan_step(ask->gpu, ask->model, l, ask->seq, ask->batch);
    if (*any && row.step.seconds >= best->step.seconds) return;
    *best = row;
    *any = true;
}

static bool try_pair(PlanRow *best, const PlanAsk *ask, int tp, int pp, PlanRefused *refused) {
    int cp = ask->cp > 1 ? ask->cp : 1, dp = ask->gpus / (tp * pp * cp);
    bool any = false;
    for (int micro = 1; micro <= 16; micro *= 2) {
        if (ask->batch % ((int64_t)dp * micro) != 0) {
            refused->no_divide++;
            continue;
        }
        int64_t n_micro = ask->batch / ((int64_t)dp * micro);
        for (int v = 1; v <= (pp > 1 && ask->interleave ? 8 : 1); v++) {
            if (v > 1 && (!layers_split(ask->model, pp * v) || n_micro % pp != 0)) continue;
            for (int full = 0; full <= (ask->recompute ? 1 : 0); full++) {
                PlanLayout l = {.tp = tp, .pp = pp, .dp = dp, .v = v, .micro = micro, .sp = tp > 1, .flash = true};
                l.keep = full ? PLAN_KEEP_INPUT : PLAN_KEEP_NO_SCORES;
                l.causal = true;
                l.cp = cp;
                int least = dp * cp > 1, most = 2 * least;
                for (l.zero = least; l.zero <= most; l.zero++) try_layout(best, &any, ask, &l, refused);
            }
        }
    }
    return any;
}

static int insert(PlanRow *rows, int n, int cap, const PlanRow *row) {
    int at = n;
    while (at > 0 && rows[at - 1].step.seconds > row->step.seconds) at--;
    if (at == cap) return n;
    int keep = n < cap ? n : cap - 1;
    memmove(rows + at + 1, rows + at, (size_t)(keep - at) * sizeof *rows);
    rows[at] = *row;
    return keep + 1;
}

/* Ranks tp r to tp (r+1) - 1 work together: none of these runs may reach from one node into the next. */
static bool crosses(const PlanAsk *ask, int tp) {
    return ask->gpus > ask->gpu->per_node && ask->gpu->per_node % tp != 0;
}

int plan_search(PlanRow *rows, int cap, const PlanAsk *ask, PlanRefused *refused) {
    int n = 0, max_tp = ask->max_tp > 0 && ask->max_tp < ask->gpu->per_node ? ask->max_tp : ask->gpu->per_node;
    int cp = ask->cp > 1 ? ask->cp : 1;
    *refused = (PlanRefused){0};
    for (int tp = 1; tp <= max_tp && tp <= ask->gpus; tp *= 2) {
        if (!heads_split(ask->model, tp) || ask->gpus % (tp * cp) != 0 || crosses(ask, tp)) continue;
        for (int pp = 1;
             pp <= ask->gpus / (tp * cp) && pp <= ask->model->layers && (ask->max_pp == 0 || pp <= ask->max_pp); pp++) {
            PlanRow best;
            if (ask->gpus % (tp * cp * pp) != 0 || !layers_split(ask->model, pp)) continue;
            if (try_pair(&best, ask, tp, pp, refused)) n = insert(rows, n, cap, &best);
        }
    }
    return n;
}

bool plan_refusal(const PlanAsk *ask, const PlanRefused *r, Error *err) {
    double room = ask->gpu->memory - ask->gpu->reserve;
    if (r->tried == 0)
        return error_set(
            err, ERR_CONFIG,
            "no layout of %d GPUs divides %lld sequences a step among its replicas; choose a batch that is "
            "a multiple of %d, or fewer GPUs",
            ask->gpus, (long long)ask->batch, ask->gpus);
    const PlanLayout *l = &r->least_layout;
    return error_set(
        err, ERR_MEMORY,
        "%s with sequences of %lld does not fit %d x %s: nearest is tp %d cp %d pp %d dp %d with %.1f GiB of %.1f; "
        "more GPUs, more ranks a sequence (--cp), shorter sequences%s or a smaller model would fit",
        ask->model->name, (long long)ask->seq, ask->gpus, ask->gpu->name, l->tp, (int)cp_of(l), l->pp, l->dp,
        r->least / GIB, room / GIB, ask->recompute ? "" : ", recomputation");
}
