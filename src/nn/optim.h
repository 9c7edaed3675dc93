/* nn/optim.h — schedules, gradient norm, clipping, AdamW over the parameters of one or more nets.
 *
 * Order of one update: norm of the accumulated gradients (double, the blocks of dist/blocks.h in order), times scale (1 / loss weight of the step);
 * non-finite: nothing is changed, the step counts as skipped; clip factor min(1, clip/(norm + 1e-6)) (torch); AdamW with
 * decay groups (matrices and embeddings decay; biases and norms do not); gradients zeroed. BF16 weights have an F32 master
 * here, which takes the update and is then rounded into them; the master begins as what the weights are at optim_open. */
#ifndef DIKAST_NN_OPTIM_H
#define DIKAST_NN_OPTIM_H

#include "dist/blocks.h"
#include "dist/mesh.h"
#include "nn/model.h"

typedef enum { SCHED_CONSTANT, SCHED_LINEAR, SCHED_COSINE, SCHED_WSD } ScheduleKind;
typedef enum { DECAY_LINEAR, DECAY_COSINE, DECAY_SQRT } DecayKind;     /* of WSD: 1-x | (1+cos pi x)/2 | 1-sqrt x */
typedef struct {
    ScheduleKind kind;
    int64_t warmup, total, decay;   /* steps; decay: WSD's last phase */
    double floor;                   /* f: multiplier m becomes f + (1-f) m in cosine, linear and WSD decay; 0: none */
    bool warmup_from_one;           /* (s+1)/W as llm.c instead of s/max(1,W) as HF */
    DecayKind decay_kind;
} Schedule;
/* Multiplier of the peak rate for update s = 0, 1, ...; HF get_scheduler's formulas (learning note, section 6). */
double schedule_factor(const Schedule *c, int64_t s);

typedef struct {
    double lr, beta1, beta2, eps, weight_decay, clip;   /* eps > 0; clip 0: off */
    const Mesh *mesh;           /* borrowed; NULL: one rank */
    int shard;                  /* ZeRO stage (Rajbhandari et al. 2020), 0: none. 1: a rank of mesh->dp holds moments and masters of its
                                   own blocks, updates those, and all hand their weights round. 2: so it is here, and sums of gradients
                                   are wanted where their owners are (train/leaves.h). The same bits */
} OptimConfig;

typedef struct Optim Optim;
typedef struct { double grad_norm; bool skipped; double clip_factor; } OptimResult;

bool optim_open(Optim **out, const Net *net, const double *lr_scale, int n_net, const OptimConfig *c, Error *err);
void optim_close(Optim *o);
/* What it updates: gradients, in the order of the nets' parameters, and their blocks, cut for the ranks of mesh->dp. */
const Tensor *optim_grads(const Optim *o, int *n);
const Blocks *optim_blocks(const Optim *o);
Backend *optim_backend(const Optim *o);
size_t optim_bytes(const Optim *o);         /* of moments and masters */
int optim_zero(const Optim *o);             /* the stage; of one replica 0 */
bool optim_shards(const Optim *o);          /* its state is divided: gradients are wanted by blocks */
const Net *optim_nets(const Optim *o, int *n);
int optim_net_of(const Optim *o, int grad); /* the first net that has this gradient */
/* lr_factor from the schedule; grad_scale: 1 / total loss weight. Gradients: sums over all ranks, of the rank's own blocks at
 * least under shard. Every rank calls it; may fail as comm does (comm_ok). Raises every trunk's version unless skipped. */
OptimResult optim_step(Optim *o, double lr_factor, double grad_scale);
void optim_rehearse(Optim *o);               /* of a dry backend: takes what an update takes beside, and gives it back */
int64_t optim_updates(const Optim *o);      /* t: updates made (skipped ones not counted) */
/* What a state must hold beside the weights: for each parameter m, v and, of BF16 weights, the master; of a divided state this
 * rank's rows. net: its number in optim_open. Those who fill the tensors say how many updates they have seen. */
typedef enum { OPTIM_M, OPTIM_V, OPTIM_MASTER } OptimKind;
typedef struct {
    int net;
    const char *name;       /* the parameter's in its net */
    OptimKind kind;
    int64_t rows, cols, row, col;   /* of the whole parameter; where t begins in it */
    bool share;             /* of a parameter that tensor-parallel ranks divide */
    Tensor t;
} OptimPiece;
typedef void OptimVisitor(void *ud, const OptimPiece *p);
void optim_visit(const Optim *o, OptimVisitor *fn, void *ud);
void optim_resume(Optim *o, int64_t updates);

#endif
