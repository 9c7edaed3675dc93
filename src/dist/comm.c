/* The wrapper of comm.h: counts, records, deadlines and failure, once for every backend. */
#include "dist/comm.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "dist/comm_int.h"

enum { NAME = 16 };

typedef struct {          /* what all groups of one rank share */
    pthread_mutex_t lock; /* records and counters: a watchdog's thread reads them */
    CommRecord record[COMM_RECORDS];
    int64_t n_record;
    Error failed; /* code ERR_NONE: not yet */
    double deadline_s;
    CommTimes spent;
    int n_flying;           /* requests under way */
    double flying_s, out_s; /* since when there are some; of that time, seconds inside calls */
    CommHook *hook;
    void *hook_ud;
    Comm *first; /* the world, then its groups */
} CommRankState;

struct Comm {
    const CommOps *op;
    void *link;
    int rank, size;
    char name[NAME];
    int64_t seq;
    CommCount count[COMM_OP_COUNT];
    CommRankState *state;
    Comm *next;
};

const char *comm_op_name(CommOp op) {
    static const char *const name[COMM_OP_COUNT] = {"send",      "recv",    "all_to_all", "all_gather",
                                                    "broadcast", "barrier", "split"};
    CHECK(op >= 0 && op < COMM_OP_COUNT, "op %d", (int)op);
    return name[op];
}

/* -- life */

Comm *comm_world(const CommOps *op, void *link, int rank, int size) {
    Comm *c = mem_alloc(sizeof *c);
    CommRankState *s = mem_alloc(sizeof *s);
    CHECK(!pthread_mutex_init(&s->lock, NULL), "cannot make a lock");
    s->deadline_s = 1800;
    s->first = c;
    *c = (Comm){.op = op, .link = link, .rank = rank, .size = size, .name = "world", .state = s};
    return c;
}

void comm_close(Comm *world) {
    if (!world) return;
    CommRankState *s = world->state;
    CHECK(s->first == world, "group '%s' is closed with its world", world->name);
    for (Comm *c = world->next, *next; c; c = next) {
        next = c->next;
        c->op->close(c->link);
        free(c);
    }
    world->op->close(world->link);
    pthread_mutex_destroy(&s->lock);
    free(s);
    free(world);
}

int comm_rank(const Comm *c) { return c ? c->rank : 0; }
int comm_size(const Comm *c) { return c ? c->size : 1; }
const char *comm_kind(const Comm *c) { return c ? c->op->name : "self"; }

/* -- one call */

static CommRecord *note(Comm *c, CommOp op, int64_t count, DType dtype, int peer, const char *site, size_t sent,
                        CommRecord *mine) {
    CommRankState *s = c->state;
    *mine = (CommRecord){.site = site, .op = op, .dtype = dtype, .count = count, .peer = peer, .start_s = now_s()};
    memcpy(mine->group, c->name, NAME);
    pthread_mutex_lock(&s->lock);
    mine->seq = ++c->seq;
    c->count[op].calls++;
    c->count[op].bytes += (int64_t)sent;
    CommRecord *slot = &s->record[s->n_record++ % COMM_RECORDS];
    *slot = *mine;
    pthread_mutex_unlock(&s->lock);
    return slot;
}

static CommRecord *begin(Comm *c, CommOp op, int64_t count, DType dtype, int peer, const char *site, size_t sent,
                         CommRecord *mine) {
    CommRankState *s = c->state;
    CommRecord *slot = note(c, op, count, dtype, peer, site, sent, mine);
    pthread_mutex_lock(&s->lock);
    slot->wait_s = mine->wait_s = mine->start_s;
    pthread_mutex_unlock(&s->lock);
    if (s->hook) s->hook(s->hook_ud, true, mine);
    return slot;
}

/* Under the lock, or on the thread that calls. */
static void spend(CommRankState *s, double from_s) {
    double took = now_s() - from_s;
    s->spent.inside_s += took;
    if (s->n_flying > 0) s->out_s += took;
}

static void end(Comm *c, CommRecord *slot, CommRecord *mine, bool ok, const Error *err) {
    CommRankState *s = c->state;
    mine->end_s = now_s();
    spend(s, mine->start_s);
    pthread_mutex_lock(&s->lock);
    if (ok) slot->end_s = mine->end_s; /* one that failed stays unfinished in the dump */
    if (!ok) s->failed = *err;
    pthread_mutex_unlock(&s->lock);
    if (s->hook) s->hook(s->hook_ud, false, mine);
}

static bool off(const Comm *c) { return !c || c->size == 1 || c->state->failed.code != ERR_NONE; }

static CommCall call_of(const Comm *c, CommOp op, const char *site) {
    double s = c->state->deadline_s;
    return (CommCall){comm_op_name(op), site, s > 0 ? now_s() + s : INFINITY};
}

/* "dp, all_to_all number 12 at tree.shards: ..." */
static void place(Error *err, const CommRecord *r) {
    error_wrap(err, "group %s, %s number %lld at %s", r->group, comm_op_name(r->op), (long long)r->seq, r->site);
}

void comm_send(Comm *c, const void *buf, int64_t count, DType dtype, int peer, const char *site) {
    if (off(c)) return;
    CHECK(peer >= 0 && peer < c->size && peer != c->rank, "%s: rank %d sends to %d of %d", site, c->rank, peer,
          c->size);
    Error err = {0};
    CommRecord r;
    size_t bytes = (size_t)count * dtype_bytes(dtype);
    CommCall call = call_of(c, COMM_SEND, site);
    CommRecord *slot = begin(c, COMM_SEND, count, dtype, peer, site, bytes, &r);
    bool ok = c->op->send(c->link, buf, bytes, peer, &call, &err);
    if (!ok) place(&err, &r);
    end(c, slot, &r, ok, &err);
}

void comm_recv(Comm *c, void *buf, int64_t count, DType dtype, int peer, const char *site) {
    if (off(c)) return;
    CHECK(peer >= 0 && peer < c->size && peer != c->rank, "%s: rank %d receives from %d of %d", site, c->rank, peer,
          c->size);
    Error err = {0};
    CommRecord r;
    CommCall call = call_of(c, COMM_RECV, site);
    CommRecord *slot = begin(c, COMM_RECV, count, dtype, peer, site, 0, &r);
    bool ok = c->op->recv(c->link, buf, (size_t)count * dtype_bytes(dtype), peer, &call, &err);
    if (!ok) place(&err, &r);
    end(c, slot, &r, ok, &err);
}

static size_t *in_bytes(const int64_t *counts, int n, DType dtype, int64_t *total) {
    size_t *b = mem_alloc((size_t)n * sizeof *b);
    *total = 0;
    for (int i = 0; i < n; i++) {
        CHECK(counts[i] >= 0, "part %d has %lld elements", i, (long long)counts[i]);
        b[i] = (size_t)counts[i] * dtype_bytes(dtype);
        *total += counts[i];
    }
    return b;
}

void comm_all_to_all(Comm *c, void *out, const int64_t *out_counts, const void *in, const int64_t *in_counts,
                     DType dtype, const char *site) {
    if (!c || c->size == 1) {
        CHECK(out_counts[0] == in_counts[0], "%s: %lld elements in, %lld out", site, (long long)in_counts[0],
              (long long)out_counts[0]);
        if (in_counts[0] > 0) memcpy(out, in, (size_t)in_counts[0] * dtype_bytes(dtype));
        return;
    }
    if (off(c)) return;
    Error err = {0};
    CommRecord r;
    int64_t sent, received;
    size_t *ib = in_bytes(in_counts, c->size, dtype, &sent), *ob = in_bytes(out_counts, c->size, dtype, &received);
    CommCall call = call_of(c, COMM_ALL_TO_ALL, site);
    CommRecord *slot =
        begin(c, COMM_ALL_TO_ALL, sent, dtype, -1, site, (size_t)(sent - in_counts[c->rank]) * dtype_bytes(dtype), &r);
    bool ok = c->op->all_to_all(c->link, out, ob, in, ib, &call, &err);
    if (!ok) place(&err, &r);
    end(c, slot, &r, ok, &err);
    free(ib);
    free(ob);
}

/* -- an all_to_all beside the rank's work */

struct CommRequest {
    Comm *c;
    void *flight; /* the backend's */
    CommCall call;
    CommRecord mine;
    CommRecord *slot;
    int64_t number; /* of the record, which the ring gives away after COMM_RECORDS others */
    size_t *in_bytes, *out_bytes;
    bool over;
};

static void take_off(CommRankState *s) {
    if (s->n_flying++ > 0) return;
    s->flying_s = now_s();
    s->out_s = 0;
}

static void land(CommRankState *s) {
    if (--s->n_flying == 0) s->spent.hidden_s += now_s() - s->flying_s - s->out_s;
}

CommRequest *comm_start_all_to_all(Comm *c, void *out, const int64_t *out_counts, const void *in,
                                   const int64_t *in_counts, DType dtype, const char *site) {
    if (!c || c->size == 1 || !c->op->start) {
        comm_all_to_all(c, out, out_counts, in, in_counts, dtype, site);
        return NULL;
    }
    if (off(c)) return NULL;
    CommRankState *s = c->state;
    CommRequest *r = mem_alloc(sizeof *r);
    Error err = {0};
    int64_t sent, received;
    double from_s = now_s();
    *r = (CommRequest){.c = c, .call = call_of(c, COMM_ALL_TO_ALL, site)};
    r->in_bytes = in_bytes(in_counts, c->size, dtype, &sent);
    r->out_bytes = in_bytes(out_counts, c->size, dtype, &received);
    r->slot = note(c, COMM_ALL_TO_ALL, sent, dtype, -1, site, (size_t)(sent - in_counts[c->rank]) * dtype_bytes(dtype),
                   &r->mine);
    r->number = s->n_record - 1;
    bool ok = c->op->start(c->link, &r->flight, out, r->out_bytes, in, r->in_bytes, &r->call, &err);
    spend(s, from_s);
    take_off(s);
    if (ok) return r;
    place(&err, &r->mine);
    pthread_mutex_lock(&s->lock);
    s->failed = err;
    pthread_mutex_unlock(&s->lock);
    r->over = true;
    land(s);
    return r;
}

/* In the ring, also when it was given away meanwhile. */
static void mark(CommRequest *r, bool ended) {
    CommRankState *s = r->c->state;
    pthread_mutex_lock(&s->lock);
    if (s->n_record - r->number > COMM_RECORDS && !ended) {
        r->number = s->n_record;
        r->slot = &s->record[s->n_record++ % COMM_RECORDS];
        *r->slot = r->mine;
    }
    if (s->n_record - r->number <= COMM_RECORDS) r->slot->wait_s = r->mine.wait_s, r->slot->end_s = r->mine.end_s;
    pthread_mutex_unlock(&s->lock);
}

static void look(CommRequest *r, bool wait) {
    Comm *c = r->c;
    CommRankState *s = c->state;
    Error err = {0};
    bool ok = c->op->finish(c->link, r->flight, wait, &r->over, &err);
    r->over = r->over || !ok;
    if (!r->over) return;
    r->mine.end_s = now_s();
    if (ok) mark(r, true);
    if (!ok) place(&err, &r->mine);
    pthread_mutex_lock(&s->lock);
    if (!ok && s->failed.code == ERR_NONE) s->failed = err;
    pthread_mutex_unlock(&s->lock);
}

static void look_timed(CommRequest *r, bool wait) {
    CommRankState *s = r->c->state;
    double from_s = now_s();
    look(r, wait);
    spend(s, from_s);
    if (r->over) land(s);
}

bool comm_test(CommRequest *r) {
    if (!r) return true;
    if (!r->over && !off(r->c)) look_timed(r, false);
    return r->over || off(r->c);
}

void comm_wait(CommRequest *r) {
    if (!comm_test(r) || (r && !r->over)) {
        CommRankState *s = r->c->state;
        double limit = s->deadline_s;
        r->call.until = s->failed.code != ERR_NONE ? now_s() : limit > 0 ? now_s() + limit : INFINITY;
        r->mine.wait_s = now_s();
        mark(r, false);
        if (s->hook) s->hook(s->hook_ud, true, &r->mine);
        look_timed(r, true);
        if (s->hook) s->hook(s->hook_ud, false, &r->mine);
    }
    if (!r) return;
    free(r->in_bytes);
    free(r->out_bytes);
    free(r);
}

CommTimes comm_times(const Comm *world) { return world ? world->state->spent : (CommTimes){0, 0}; }

void comm_all_gather(Comm *c, void *out, const void *in, const int64_t *counts, DType dtype, const char *site) {
    if (!c || c->size == 1) {
        if (counts[0] > 0) memcpy(out, in, (size_t)counts[0] * dtype_bytes(dtype));
        return;
    }
    if (off(c)) return;
    Error err = {0};
    CommRecord r;
    int64_t total;
    size_t *bytes = in_bytes(counts, c->size, dtype, &total);
    CommCall call = call_of(c, COMM_ALL_GATHER, site);
    CommRecord *slot =
        begin(c, COMM_ALL_GATHER, counts[c->rank], dtype, -1, site, bytes[c->rank] * (size_t)(c->size - 1), &r);
    bool ok = c->op->all_gather(c->link, out, in, bytes, &call, &err);
    if (!ok) place(&err, &r);
    end(c, slot, &r, ok, &err);
    free(bytes);
}

void comm_broadcast(Comm *c, void *buf, int64_t count, DType dtype, int root, const char *site) {
    if (off(c)) return;
    CHECK(root >= 0 && root < c->size, "%s: root %d of %d", site, root, c->size);
    Error err = {0};
    CommRecord r;
    size_t bytes = (size_t)count * dtype_bytes(dtype);
    CommCall call = call_of(c, COMM_BROADCAST, site);
    CommRecord *slot =
        begin(c, COMM_BROADCAST, count, dtype, root, site, c->rank == root ? bytes * (size_t)(c->size - 1) : 0, &r);
    bool ok = c->op->broadcast(c->link, buf, bytes, root, &call, &err);
    if (!ok) place(&err, &r);
    end(c, slot, &r, ok, &err);
}

void comm_barrier(Comm *c, const char *site) {
    if (off(c)) return;
    Error err = {0};
    CommRecord r;
    CommCall call = call_of(c, COMM_BARRIER, site);
    CommRecord *slot = begin(c, COMM_BARRIER, 0, DTYPE_I8, -1, site, 0, &r);
    bool ok = c->op->barrier(c->link, &call, &err);
    if (!ok) place(&err, &r);
    end(c, slot, &r, ok, &err);
}

bool comm_split(Comm **out, Comm *c, const char *name, int color, int key, Error *err) {
    *out = NULL;
    CHECK(strlen(name) < NAME, "group name '%s' is too long", name);
    if (!c || c->size == 1) return true;
    if (!comm_ok(c, err)) return false;
    CommRecord r;
    Comm *g = mem_alloc(sizeof *g);
    *g = (Comm){.op = c->op, .state = c->state};
    snprintf(g->name, NAME, "%s", name);
    CommCall call = call_of(c, COMM_SPLIT, name);
    Error why = {0};
    CommRecord *slot = begin(c, COMM_SPLIT, 0, DTYPE_I8, color, name, 0, &r);
    bool ok = c->op->split(c->link, color, key, &g->link, &g->rank, &g->size, &call, &why);
    if (!ok) place(&why, &r);
    end(c, slot, &r, ok, &why);
    if (!ok) {
        free(g);
        *err = why;
        return false;
    }
    g->next = c->state->first->next;
    c->state->first->next = g;
    if (g->size > 1) *out = g;
    return true;
}

bool comm_reaches(const Comm *c) { return !c || c->size == 1 || c->op->devices; }

/* -- failure */

bool comm_ok(const Comm *c, Error *err) {
    if (!c || c->state->failed.code == ERR_NONE) return true;
    *err = c->state->failed;
    return false;
}

void comm_abort(Comm *c, const Error *why) {
    if (!c || c->size == 1) return;
    CommRankState *s = c->state;
    pthread_mutex_lock(&s->lock);
    if (s->failed.code == ERR_NONE) s->failed = *why;
    pthread_mutex_unlock(&s->lock);
    c->op->abort(s->first->link, why);
}

double comm_deadline(Comm *c, double seconds) {
    if (!c) return 0;
    double was = c->state->deadline_s;
    c->state->deadline_s = seconds;
    return was;
}

/* -- what happened */

CommCount comm_count(const Comm *c, CommOp op) {
    if (!c) return (CommCount){0, 0};
    pthread_mutex_lock(&c->state->lock);
    CommCount n = c->count[op];
    pthread_mutex_unlock(&c->state->lock);
    return n;
}

void comm_count_clear(Comm *world) {
    if (!world) return;
    pthread_mutex_lock(&world->state->lock);
    for (Comm *c = world->state->first; c; c = c->next) memset(c->count, 0, sizeof c->count);
    pthread_mutex_unlock(&world->state->lock);
}

void comm_on_section(Comm *world, CommHook *fn, void *ud) {
    if (!world) return;
    world->state->hook = fn;
    world->state->hook_ud = ud;
}

static void put_record(JsonOut *j, const CommRecord *r) {
    json_out_obj(j, NULL);
    json_out_str(j, "group", r->group);
    json_out_int(j, "seq", r->seq);
    json_out_str(j, "op", comm_op_name(r->op));
    json_out_str(j, "dtype", dtype_name(r->dtype));
    json_out_int(j, "count", r->count);
    json_out_int(j, "peer", r->peer);
    json_out_str(j, "site", r->site);
    json_out_num(j, "t_start", r->start_s);
    json_out_num(j, "t_wait", r->wait_s);
    json_out_num(j, "t_end", r->end_s);
    json_out_obj_end(j);
}

void comm_dump(const Comm *world, Str *out) {
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_int(&j, "rank", comm_rank(world));
    json_out_int(&j, "size", comm_size(world));
    json_out_str(&j, "backend", comm_kind(world));
    if (world) {
        CommRankState *s = world->state;
        pthread_mutex_lock(&s->lock);
        json_out_str(&j, "failure", s->failed.code == ERR_NONE ? NULL : s->failed.msg);
        json_out_arr(&j, "records");
        int64_t from = s->n_record > COMM_RECORDS ? s->n_record - COMM_RECORDS : 0;
        for (int64_t i = from; i < s->n_record; i++) put_record(&j, &s->record[i % COMM_RECORDS]);
        json_out_arr_end(&j);
        pthread_mutex_unlock(&s->lock);
    }
    json_out_obj_end(&j);
}
