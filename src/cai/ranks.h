/* cai/ranks.h — the ranks of a run: where they come from, and what rank 0 tells the others.
 *
 *      dikast run conf dist.ranks=2            threads of this process (dist.comm=threads)
 *      mpirun -np 2 dikast run conf            processes (dist.comm=mpi)
 *      either with dist.comm=nccl              gradients and weights travel between GPUs, one a rank; all else as above
 *
 * A process knows that it is one of several from what its launcher left in the environment: OMPI_COMM_WORLD_RANK and _SIZE, PMI_RANK
 * and PMI_SIZE, SLURM_PROCID and SLURM_STEP_NUM_TASKS, RANK and WORLD_SIZE, in this order.
 *
 * Rank 0 runs the pipeline: it decides what is to be done, holds the locks, writes. The others follow its orders: they run the
 * stages that train (Stage.spread) beside it, in the other stages hold shares of its models (engine/lead.h), and do nothing meanwhile. */
#ifndef DIKAST_CAI_RANKS_H
#define DIKAST_CAI_RANKS_H

#include "cai/pipeline.h"
#include "cai/stage.h"
#include "dist/agree.h"
#include "dist/mesh.h"

typedef struct { int rank, size, local_rank, local_size; } RankPlace;  /* local: on this machine */
RankPlace ranks_environment(void);          /* {0, 1, 0, 1} where no launcher says otherwise */

typedef struct Ranks Ranks;
/* Can n ranks be divided as dist.tp, dist.cp and dist.pp say? ERR_CONFIG: no. */
bool ranks_divide(const RunConfig *cfg, int n, Error *err);
/* ERR_CONFIG for what cannot be: keys against the launcher, no MPI, a running sum over ranks. */
bool ranks_open(Ranks **out, const RunConfig *cfg, Error *err);
Comm *ranks_world(const Ranks *r);          /* of this process, of threads that of rank 0; NULL: one rank */
RankPlace ranks_place(const Ranks *r, int rank);
/* Threads: fn(ud, world of its rank, place) begins on a thread for every rank but 0. Processes: nothing. */
typedef void RankFn(void *ud, Comm *world, RankPlace place);
bool ranks_start(Ranks *r, RankFn *fn, void *ud, Error *err);
/* Number of the GPU that this rank of its machine computes on. */
int ranks_gpu(const RunConfig *cfg, int local_rank);
/* The mesh of one rank, whose world is given; with dist.comm=nccl its groups are of another backend: *data, closed first. Every rank
 * calls it. */
bool ranks_mesh(Mesh *m, Comm **data, const RunConfig *cfg, Comm *world, RankPlace place, Error *err);
void ranks_close(Ranks *r);                 /* waits for those threads; closes the world */

/* What rank 0 says to the others, in one message; a rank that is in a call with this site has nothing to do. */
extern const char order_site[];
typedef enum { ORDER_STAGE, ORDER_LEAD, ORDER_LEDGER, ORDER_END } OrderKind;   /* LEAD: lead_follow; LEDGER: goodput_file_write */
typedef struct {
    OrderKind kind;
    int stage;              /* number in stages[] */
    Error end;              /* how the run ended */
    PipelineResult run;     /* keys and folders */
} Order;
void order_tell(Comm *world, OrderKind kind, int stage, const Error *end, const PipelineResult *run);
bool order_hear(Comm *world, Order *o, Error *err);     /* waits as long as it takes */

/* A stage of rank 0's: the ranks of its tensor-parallel group follow (engine/lead.h). tp 1: nobody is told. */
bool ranks_lead(const StageCtx *ctx, int stage, const PipelineResult *run, const Mesh *mesh, Error *err);
/* ORDER_LEAD of another rank. broken: why it cannot work at all. */
bool ranks_follow(const Mesh *mesh, Backend *be, const Error *broken, double timeout_s, Error *err);

#endif
