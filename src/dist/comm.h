/* dist/comm.h — groups of ranks that exchange bytes.
 *
 * A Comm only moves bytes: sums are dist/tree.c's, because libraries do not agree on their order. Four backends stand behind
 * one table (comm_ops.h): self (one rank), threads (ranks of one process), mpi (a module of its own, opened when it is wanted)
 * and nccl (device memory, opened by name). Around the table this wrapper keeps, per rank,
 *
 *      counters        calls and bytes sent, by (group, op); what a rank keeps for itself is not sent
 *      flight recorder the last COMM_RECORDS calls: group, number in the group, op, what, when begun, when ended
 *      a deadline      seconds that a call may take; 0: none
 *      a hook          told when a call begins and ends (the COMM section of a watchdog)
 *      clocks          seconds inside calls, and seconds that calls went on beside the rank's own work (comm_times)
 *
 * Failure. Calls return nothing and may fail: a peer is gone, the deadline passed, the ranks called different things. The
 * first failure of a rank stays: every later call in any of its groups returns at once and leaves its outputs undefined, and
 * comm_ok says what happened. So the code in between (a block's forward) needs no error paths, and whoever uses a result asks
 * once. Failing poisons the whole world: the other ranks' calls end too (threads: with the same reason; mpi: processes of
 * ranks that wait for this one find out by their own deadline, or by comm_abort, which ends them).
 *
 * A NULL Comm is a group of one rank. In such a group calls are local, cost nothing and are not counted. One thread per rank
 * calls these functions; comm_dump and comm_count may be called by another one. */
#ifndef DIKAST_DIST_COMM_H
#define DIKAST_DIST_COMM_H

#include "base/str.h"
#include "tensor/tensor.h"

typedef enum { COMM_SEND, COMM_RECV, COMM_ALL_TO_ALL, COMM_ALL_GATHER, COMM_BROADCAST, COMM_BARRIER, COMM_SPLIT, COMM_OP_COUNT } CommOp;
const char *comm_op_name(CommOp op);    /* "all_to_all" */

typedef struct Comm Comm;

/* -- life ------------------------------------------------------------------------------------------------------------ */
/* A world: all ranks there are. Groups are split off it and die with it. */
bool comm_open_self(Comm **world, Error *err);
/* n ranks of this process: world[r] belongs to the thread that plays rank r. Each closes its own; the last one frees what they
 * share. n >= 1. */
bool comm_open_threads(Comm **world, int n, Error *err);
/* This process as a rank of the job that mpirun or srun started. ERR_CONFIG where this build or machine has no MPI, saying what
 * is missing. MPI is initialised FUNNELED: the calling thread makes all calls. */
bool comm_open_mpi(Comm **world, Error *err);
void comm_close(Comm *world);           /* NULL: nothing */
/* Every rank of c calls it: ranks of one colour become a group, in order of (key, rank in c). name: of at most 15 bytes, for
 * messages and counters. *out NULL when the group has one rank. */
bool comm_split(Comm **out, Comm *c, const char *name, int color, int key, Error *err);

int comm_rank(const Comm *c);           /* 0 of NULL */
int comm_size(const Comm *c);           /* 1 of NULL */
const char *comm_kind(const Comm *c);   /* of the backend: "self", "threads", "mpi", "nccl" */

/* -- calls ----------------------------------------------------------------------------------------------------------- */
/* count, counts: elements of dtype; parts lie one after another. site: a literal that names the place ("tree.shards") in dumps
 * and messages; ranks that call different things are told apart by it. Buffers do not overlap. */
void comm_send(Comm *c, const void *buf, int64_t count, DType dtype, int peer, const char *site);
void comm_recv(Comm *c, void *buf, int64_t count, DType dtype, int peer, const char *site);
/* Part q of in (in_counts[q]) goes to rank q; part p of out (out_counts[p]) comes from rank p. */
void comm_all_to_all(Comm *c, void *out, const int64_t *out_counts, const void *in, const int64_t *in_counts, DType dtype, const char *site);
/* in (counts[rank]) of every rank, in order of ranks. */
void comm_all_gather(Comm *c, void *out, const void *in, const int64_t *counts, DType dtype, const char *site);
void comm_broadcast(Comm *c, void *buf, int64_t count, DType dtype, int root, const char *site);
void comm_barrier(Comm *c, const char *site);

/* comm_all_to_all that goes on while the rank computes. It is a call of its group like any other: all ranks begin the group's
 * calls in one order. out and in are the request's until it is over; counts are copied. Bytes move when the rank looks
 * (comm_test) or waits (comm_wait), so whoever computes for long looks now and then. At most COMM_FLYING of a rank and group are under
 * way, and they are waited for in the order they began. The deadline counts from comm_wait on: a rank that computes is not late for itself. Where a
 * backend cannot (nccl), comm_start makes the whole call. Every request ends in comm_wait, also after a failure: only then is
 * nobody reading `in` any more. */
typedef struct CommRequest CommRequest;
enum { COMM_FLYING = 8 };
CommRequest *comm_start_all_to_all(Comm *c, void *out, const int64_t *out_counts, const void *in, const int64_t *in_counts, DType dtype,
                                   const char *site);   /* NULL: it is over already */
bool comm_test(CommRequest *r);         /* over, or failed: comm_wait will not wait. NULL: true */
void comm_wait(CommRequest *r);         /* and frees it */

/* Buffers may lie in device memory too: of work that is through, on the device that c's rank uses. A NULL c: everywhere. */
bool comm_reaches(const Comm *c);

/* -- failure --------------------------------------------------------------------------------------------------------- */
bool comm_ok(const Comm *c, Error *err);                /* NULL: true */
/* This rank cannot go on: the others' calls fail with its reason. mpi: the job's processes end, with exit code of why. */
void comm_abort(Comm *c, const Error *why);
double comm_deadline(Comm *c, double seconds);          /* of the calls from now on, of all groups of this rank; 0: none.
                                                           Returns what it was; 1800 at first */

/* -- what happened --------------------------------------------------------------------------------------------------- */
typedef struct { int64_t calls, bytes; } CommCount;     /* bytes: sent by this rank to others */
CommCount comm_count(const Comm *c, CommOp op);         /* of this group */
void comm_count_clear(Comm *world);                     /* of all groups of this rank */

enum { COMM_RECORDS = 256 };
typedef struct {
    char group[16];
    const char *site;
    int64_t seq;            /* number of the call in its group, from 1 */
    CommOp op;
    DType dtype;
    int64_t count;          /* elements this rank hands in (receives, of recv) */
    int peer;               /* or root; -1: all */
    double start_s, end_s;  /* now_s(); end 0: not over */
    double wait_s;          /* since when the rank is inside of it: start_s; of comm_start, when it began to wait; 0: not yet */
} CommRecord;
/* {"rank", "size", "backend", "failure", "records": [...]}, oldest first, for a supervisor that asks who waits for whom. */
void comm_dump(const Comm *world, Str *out);
/* fn(ud, true, record) when a call of this rank begins, fn(ud, false, record) when it is over; on the rank's thread. */
typedef void CommHook(void *ud, bool inside, const CommRecord *r);
void comm_on_section(Comm *world, CommHook *fn, void *ud);

/* Seconds of this rank, all groups, since its world was opened. hidden_s: of the time in which at least one request was under way, what
 * the rank did not spend inside a call. */
typedef struct { double inside_s, hidden_s; } CommTimes;
CommTimes comm_times(const Comm *world);

#endif
