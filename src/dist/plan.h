/* dist/plan.h — what training costs on a cluster, before anyone pays for it: FLOPs, bytes on the fullest GPU, seconds a step,
 * pipeline bubble, exposed communication, checkpoint interval, days. And the search for the layout that costs least.
 *
 * Memory and FLOPs are formulas without fitted constants (Korthikanti et al. 2022, arXiv 2205.05198; Narayanan et al. 2021,
 * arXiv 2104.04473). Time divides work by rates of a PlanGpu, of which three are fitted to published runs: the share of the
 * peak that products reach, bytes an activation moves beside them, the share of the link that sums over tp reach. How far
 * that is from measured runs it was not fitted to stands in docs/scale.md.
 *
 * Everything here is arithmetic on values: nothing is opened, allocated or measured. Bytes are bytes, seconds seconds, rates
 * per second and GPU. "Sequences" are of seq tokens; a step is `batch` of them. */
#ifndef DIKAST_DIST_PLAN_H
#define DIKAST_DIST_PLAN_H

#include "base/error.h"

typedef struct {
    char name[32];
    double peak;                /* FLOP/s of 16-bit products without sparsity */
    double memory;              /* bytes */
    double bandwidth;           /* of memory, bytes/s */
    double link;                /* to GPUs of the same node, bytes/s and direction */
    double net;                 /* to other nodes, bytes/s and direction, per GPU */
    int per_node;
    double gemm, elem, link_share;  /* fitted: see above */
    double overlap;             /* share of the sum over dp that hides behind backward */
    double reserve;             /* bytes of a GPU that are not the program's: driver, libraries, fragments */
    double price;               /* of an hour of one GPU, any currency; 0: unknown */
} PlanGpu;

typedef struct {                /* a decoder: GPT-2's or Llama's kind of block */
    char name[64];
    int64_t layers, width, heads, kv_heads, ffn, vocab;
    bool swiglu;                /* three matrices in the MLP, else two */
    bool tied;                  /* embedding and head are one table */
} PlanModel;

/* What a layer keeps for its backward pass; the papers call the second selective, the third full recomputation. */
typedef enum {
    PLAN_KEEP_ALL,              /* the matrix of scores as well, where it exists */
    PLAN_KEEP_NO_SCORES,        /* all but scores, which are computed again, or never exist (flash) */
    PLAN_KEEP_INPUT,            /* only the layer's input; the layer runs forward again */
} PlanKeep;

typedef struct {
    int tp, pp, dp;             /* ranks = tp * cp * pp * dp; tp inside a node, cp beside it, dp outermost */
    int v;                      /* layers' groups of a stage: 1, or interleaved */
    int micro;                  /* sequences of a micro-batch */
    PlanKeep keep;
    bool sp;                    /* sequence parallel: what tp does not cut by features it cuts by tokens */
    bool flash;                 /* scores never reach memory */
    bool causal;                /* the masked half of attention is neither computed nor counted */
    int zero;                   /* ZeRO stage: 1: moments and masters are cut over dp and cp; 2: and sums of gradients that wait */
    int cp;                     /* ranks that divide the tokens of a micro-batch, by gathering keys and values; 0: as 1 */
} PlanLayout;

typedef struct {
    double state;               /* weights, gradients, masters, moments */
    double acts;                /* kept activations of all micro-batches in flight */
    double work;                /* of the layer and slice at work: what full recomputation needs once more; keys and values of all of cp, and their gradients */
    double sums;                /* of gradients that wait for their sibling in the tree (dist/tree.h): log2 of a replica's micro-batches
                                   times 4 bytes a parameter; ZeRO-2: a dp-th of that */
} PlanMemory;

typedef struct {
    double seconds;             /* of a step */
    double bubble;              /* share of it in which a stage waits for the pipeline */
    double tp_share, dp_share;  /* of it: sums over tp; exposed sums over dp (and cp) */
    double cp_share;            /* of it: keys, values and their gradients between ranks of cp, of which nothing is hidden */
    double flops;               /* of the model, of a step: 3 x forward, nothing counted twice */
    double mfu;                 /* of the peak */
} PlanStep;

/* GPUs that are known by name, NULL at the end of the list: plan_gpu(0), plan_gpu(1), ... */
const PlanGpu *plan_gpu(int i);
const PlanGpu *plan_gpu_find(const char *name);
/* A shape by its name: "124m", "7b", ...; NULL: none of that name. */
const PlanModel *plan_model_find(const char *name);

double plan_params(const PlanModel *m);             /* all of them, tied ones once; vectors are left out */
/* Model FLOPs of one step, forward and backward (2104.04473 eq. 3 in terms of these shapes). */
double plan_flops(const PlanModel *m, double batch, int64_t seq, bool causal);
/* Bytes of keys and values that a rank of cp sends per layer and micro-batch: gathered forward and again backward, gradients back once;
 * each 2 b s h_kv (c-1)/c values. */
double plan_keys_sent(const PlanModel *m, const PlanLayout *l, int64_t seq);
/* Bytes one layer keeps of a micro-batch on one rank, 16-bit activations (2205.05198 table 2). dropout: of layers that have it,
 * the papers' case; its masks and the second copy of the scores are left out otherwise. SwiGLU: 14 + 4 kv_heads/heads +
 * 4 ffn/width bytes a value. */
double plan_acts_layer(const PlanModel *m, const PlanLayout *l, int64_t seq, bool dropout);
/* Of the fullest rank. paper: as the papers' figures count, without tables of the vocabulary and sums that wait, and with dropout. */
PlanMemory plan_memory(const PlanModel *m, const PlanLayout *l, int64_t seq, int64_t batch, bool paper);
/* batch must be a multiple of dp * micro. ZeRO-2 sends the gradient of every micro-batch, the others one sum of them. */
PlanStep plan_step(const PlanGpu *g, const PlanModel *m, const PlanLayout *l, int64_t seq, int64_t batch);

/* Checkpoints and failures. Young's interval tau = sqrt(2 C M) (1974): C seconds that saving stalls training, M seconds
 * between failures. What is left of the time: 1 - C/tau - (tau/2 + R)/M, R seconds to be running again. */
typedef struct { double mttf, interval, efficiency; } PlanFaults;
PlanFaults plan_faults(double nodes, double per_1000_node_days, double stall, double restart);

/* -- search ------------------------------------------------------------------------------------------------------------- */
typedef struct {
    const PlanGpu *gpu;
    const PlanModel *model;
    int gpus;                   /* all are used */
    int64_t seq, batch;
    int max_tp, max_pp;         /* 0: no bound of its own */
    bool recompute;             /* whether PLAN_KEEP_INPUT may be chosen */
    int trained, frozen;        /* models of this shape on the same GPUs, one at work at a time: 1, 0; PPO: policy and value,
                                   reference and preference model, 2, 2. Step times are of training one */
    int cp;                     /* of every layout; 0: 1. It divides gpus */
    bool interleave;            /* whether v may be above 1 */
} PlanAsk;

typedef struct { PlanLayout layout; PlanMemory memory; PlanStep step; } PlanRow;

/* Why layouts were refused: counts, and how far the nearest was from fitting. */
typedef struct {
    int64_t tried, no_divide, no_fit;
    double least;               /* bytes of the layout that came nearest, whether or not it fits */
    PlanLayout least_layout;
} PlanRefused;

/* The best layout of each pair (tp, pp) that fits, fastest first, at most `cap`. Returns how many are in rows. Zero: refused says why, plan_refusal in words what would help. */
int plan_search(PlanRow *rows, int cap, const PlanAsk *ask, PlanRefused *refused);
bool plan_refusal(const PlanAsk *ask, const PlanRefused *refused, Error *err);     /* always false */

#endif
