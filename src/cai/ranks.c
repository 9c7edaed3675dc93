#include "cai/ranks.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "dist/comm_nccl.h"
#include "engine/lead.h"

enum { COMM_KEY_AUTO, COMM_KEY_SELF, COMM_KEY_THREADS, COMM_KEY_MPI, COMM_KEY_NCCL }; /* of dist.comm */

typedef struct {
    Ranks *ranks;
    int rank;
} Thread;

struct Ranks {
    int n; /* threads of this process; 1 for processes */
    Comm **world;
    RankPlace place; /* of processes */
    pthread_t *id;
    Thread *thread;
    int n_started;
    RankFn *fn;
    void *ud;
};

/* -- the environment */

static int number(const char *name, int otherwise) {
    const char *s = getenv(name);
    char *end;
    if (!s || !*s) return otherwise;
    long v = strtol(s, &end, 10);
    return *end || v < 0 || v > INT_MAX ? otherwise : (int)v;
}

RankPlace ranks_environment(void) {
    static const struct {
        const char *rank, *size, *local_rank, *local_size;
    } launcher[] = {
        {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
        {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
        {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"},
        {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}};
    for (int i = 0; i < COUNT_OF(launcher); i++) {
        int rank = number(launcher[i].rank, -1), size = number(launcher[i].size, 0);
        if (rank < 0 || size < 1 || rank >= size) continue;
        RankPlace p = {rank, size, number(launcher[i].local_rank, rank), number(launcher[i].local_size, size)};
        if (p.local_size < 1 || p.local_size > size) p.local_size = size;
        return p;
    }
    return (RankPlace){0, 1, 0, 1};
}

/* -- life */

static bool open_processes(Ranks *r, const RunConfig *cfg, RankPlace place, Error *err) {
    if (!comm_open_mpi(&r->world[0], err)) return false;
    int n = comm_size(r->world[0]);
    r->place = (RankPlace){comm_rank(r->world[0]), n, place.size == n ? place.local_rank : comm_rank(r->world[0]),
                           place.size == n ? place.local_size : n};
    if (cfg->dist.ranks > 0 && cfg->dist.ranks != n)
        return error_set(err, ERR_CONFIG,
                         "dist.ranks %lld, but %d were started: leave the key out, or start as many as it says",
                         (long long)cfg->dist.ranks, n);
    return true;
}

static bool open_world(Ranks *r, const RunConfig *cfg, Error *err) {
    RankPlace place = ranks_environment();
    int64_t want = cfg->dist.ranks;
    int how = cfg->dist.comm;
    if (how == COMM_KEY_AUTO || how == COMM_KEY_NCCL)
        how = place.size > 1 ? COMM_KEY_MPI : want > 1 ? COMM_KEY_THREADS : COMM_KEY_SELF;
    if (how == COMM_KEY_SELF && want > 1)
        return error_set(err, ERR_CONFIG, "dist.comm self is one rank, dist.ranks says %lld", (long long)want);
    int n = how == COMM_KEY_THREADS && want > 1 ? (int)want : 1;
    r->world = mem_alloc((size_t)n * sizeof *r->world);
    r->n = n;
    r->place = (RankPlace){0, n, 0, n};
    if (how == COMM_KEY_THREADS && n > 1) return comm_open_threads(r->world, n, err);
    return how != COMM_KEY_MPI || open_processes(r, cfg, place, err);
}

bool ranks_divide(const RunConfig *cfg, int n, Error *err) {
    if (n % (cfg->dist.tp * cfg->dist.cp * cfg->dist.pp) == 0) return true;
    return error_set(err, ERR_CONFIG,
                     "dist.tp %lld, dist.cp %lld and dist.pp %lld: %d rank%s cannot be divided so; start a multiple of "
                     "their product (dist.ranks, or mpirun -np)",
                     (long long)cfg->dist.tp, (long long)cfg->dist.cp, (long long)cfg->dist.pp, n, n > 1 ? "s" : "");
}

bool ranks_open(Ranks **out, const RunConfig *cfg, Error *err) {
    Ranks *r = mem_alloc(sizeof *r);
    bool ok = open_world(r, cfg, err);
    if (ok && comm_size(r->world[0]) > 1 && !cfg->dist.tree)
        ok = error_set(err, ERR_CONFIG,
                       "dist.tree=false adds gradients up in the order they come, which is one rank's: with %d ranks "
                       "leave it at true",
                       comm_size(r->world[0]));
    NcclApi api;
    if (ok && cfg->dist.comm == COMM_KEY_NCCL && comm_size(r->world[0]) == 1) ok = nccl_load(&api, err); /* said now */
    int n = ok ? comm_size(r->world[0]) : 1;
    ok = ok && ranks_divide(cfg, n, err);
    if (!ok) {
        if (comm_rank(r->world ? r->world[0] : NULL) > 0) err->msg[0] = 0; /* rank 0 says it */
        ranks_close(r);
        return false;
    }
    *out = r;
    return true;
}

int ranks_gpu(const RunConfig *cfg, int local_rank) {
    int n = (int)cfg->dist.gpus;
    return (int)cfg->run.device + (n > 0 ? local_rank % n : local_rank);
}

bool ranks_mesh(Mesh *m, Comm **data, const RunConfig *cfg, Comm *world, RankPlace place, Error *err) {
    NcclApi api;
    Error mine = {0};
    *data = NULL;
    if (comm_size(world) > 1 && cfg->dist.comm == COMM_KEY_NCCL) {
        nccl_load(&api, &mine);
        if (!agree(world, &mine, NULL, 0, NULL, err) ||
            !comm_open_nccl(data, world, &api, ranks_gpu(cfg, place.local_rank), err))
            return false;
        comm_deadline(*data, cfg->dist.timeout_s);
    }
    return mesh_open(m, world, *data, (int)cfg->dist.tp, (int)cfg->dist.cp, (int)cfg->dist.pp, err);
}

Comm *ranks_world(const Ranks *r) { return comm_size(r->world[0]) > 1 ? r->world[0] : NULL; }

RankPlace ranks_place(const Ranks *r, int rank) {
    RankPlace p = r->place;
    if (r->n > 1) p.rank = p.local_rank = rank;
    return p;
}

static void *play(void *arg) {
    Thread *t = arg;
    Ranks *r = t->ranks;
    r->fn(r->ud, r->world[t->rank], ranks_place(r, t->rank));
    return NULL;
}

bool ranks_start(Ranks *r, RankFn *fn, void *ud, Error *err) {
    r->fn = fn;
    r->ud = ud;
    r->id = mem_alloc((size_t)r->n * sizeof *r->id);
    r->thread = mem_alloc((size_t)r->n * sizeof *r->thread);
    for (int i = 1; i < r->n; i++) {
        r->thread[i] = (Thread){r, i};
        int rc = pthread_create(&r->id[i], NULL, play, &r->thread[i]);
        if (rc) {
            error_set(err, ERR_MEMORY, "cannot start rank %d: %s", i, strerror(rc));
            comm_abort(r->world[0], err);
            return false;
        }
        r->n_started = i;
    }
    return true;
}

void ranks_close(Ranks *r) {
    if (!r) return;
    for (int i = 1; i <= r->n_started; i++) pthread_join(r->id[i], NULL);
    for (int i = 0; r->world && i < r->n; i++) comm_close(r->world[i]);
    free(r->world);
    free(r->id);
    free(r->thread);
    free(r);
}

/* -- orders */

const char order_site[] = "order";

void order_tell(Comm *world, OrderKind kind, int stage, const Error *end, const PipelineResult *run) {
    if (comm_size(world) == 1) return;
    Order *o = mem_alloc(sizeof *o);
    *o = (Order){.kind = kind, .stage = stage, .run = *run};
    if (end) o->end = *end;
    double was = comm_deadline(world, 0);
    comm_broadcast(world, o, (int64_t)sizeof *o, DTYPE_I8, 0, order_site);
    comm_deadline(world, was);
    free(o);
}

bool order_hear(Comm *world, Order *o, Error *err) {
    double was = comm_deadline(world, 0);
    comm_broadcast(world, o, (int64_t)sizeof *o, DTYPE_I8, 0, order_site);
    comm_deadline(world, was);
    if (!comm_ok(world, err)) return false;
    for (int i = 0; i < o->run.n_stage; i++)
        o->run.stage[i].name = stages[i]->name; /* pointers mean nothing elsewhere */
    return true;
}

/* -- stages of rank 0's */

bool ranks_lead(const StageCtx *ctx, int stage, const PipelineResult *run, const Mesh *mesh, Error *err) {
    if (mesh->size.tp == 1 || !mesh->world) return ctx->stage->run(ctx, err);
    Mesh share = mesh_share(mesh);
    StageCtx own = *ctx;
    Error lost;
    order_tell(mesh->world, ORDER_LEAD, stage, NULL, run);
    own.lead = lead_begin(&share, order_site);
    comm_deadline(mesh->world, ctx->cfg->dist.timeout_s);
    bool ok = ctx->stage->run(&own, err);
    lead_end(own.lead);
    comm_deadline(mesh->world, 0);
    if (comm_ok(mesh->world, &lost)) return ok;
    if (ok) *err = lost;
    return false;
}

bool ranks_follow(const Mesh *mesh, Backend *be, const Error *broken, double timeout_s, Error *err) {
    Mesh share = mesh_share(mesh);
    if (comm_rank(mesh->world) >= mesh->size.tp) return true; /* nothing to do */
    return lead_follow(&share, be, broken, timeout_s, order_site, err);
}
