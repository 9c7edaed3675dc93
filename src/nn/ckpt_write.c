/* nn/ckpt_write.c — the writer: c0, c1, and the thread that does the rest.
 *
 *      caller   |c1 copy|····· trains on ·····|c1 copy|·····
 *      thread           |c2 … c12|                    |c2 … c12|
 *
 * One save at a time: the copy belongs to the thread until it is done, so the next save waits for the one before. */
#include "nn/ckpt_int.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/crash.h"

typedef struct { /* what the thread works on */
    int64_t step;
    CkptPart *part;
    Tensor *like; /* (n) the pieces' tensors; their memory is not touched by the thread */
    size_t *at;   /* (n) where each lies in raw */
    int n;
    unsigned char *raw; /* the writer's; NULL: taken from the backend piece by piece */
    size_t bytes;
    Backend *be;
    void *piece; /* raw NULL: storage of one piece */
    char *section[CKPT_SECTIONS];
    double metric;
    Appender *first;
    Heap heap;
} Job;

struct CkptWriter {
    CkptConfig c;
    char *dir, *run;
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    Job *job; /* handed over, or being written */
    bool quit;
    int64_t last; /* step of the newest checkpoint of this run, -1: none */
    bool failed;  /* the last save; err says why */
    Error err;
    CkptStats stats;
    unsigned char *room; /* of the copies */
    size_t room_bytes;
};

/* -- one job */

static void job_free(Job *j) {
    if (!j) return;
    for (int s = 0; s < CKPT_SECTIONS; s++) free(j->section[s]);
    heap_release(&j->heap);
    free(j->piece);
    free(j->part);
    free(j->like);
    free(j->at);
    free(j);
}

static Job *job_new(Backend *be, const CkptState *s) {
    Job *j = mem_alloc(sizeof *j);
    size_t n = (size_t)s->n_piece + 1, most = 1;
    *j = (Job){.step = s->step, .n = s->n_piece, .be = be, .metric = s->metric, .first = s->first};
    j->part = mem_alloc(n * sizeof *j->part);
    j->like = mem_alloc(n * sizeof *j->like);
    j->at = mem_alloc(n * sizeof *j->at);
    for (int i = 0; i < s->n_piece; i++) {
        const CkptPiece *p = &s->piece[i];
        CHECK(!tensor_empty(p->t) && p->row + p->t.rows <= p->rows && p->col + p->t.cols <= p->cols,
              "piece '%s' reaches out of %lld x %lld", p->name, (long long)p->rows, (long long)p->cols);
        j->part[i] = (CkptPart){.name = heap_strn(&j->heap, p->name, strlen(p->name)),
                                .kind = p->kind,
                                .dtype = p->t.dtype,
                                .n_dim = 2,
                                .shape = {p->rows, p->cols},
                                .box = {2, {p->row, p->col}, {p->t.rows, p->t.cols}}};
        j->like[i] = p->t;
        j->at[i] = j->bytes;
        size_t bytes = tensor_raw_bytes(p->t);
        if (bytes > most) most = bytes;
        j->bytes += (bytes + 63) / 64 * 64;
    }
    for (int k = 0; k < CKPT_SECTIONS; k++) j->section[k] = mem_str(s->section[k]);
    j->piece = mem_alloc(most);
    return j;
}

/* The copy's memory stays for the next one: fresh pages would cost as much as the copy. */
static unsigned char *room_for(CkptWriter *w, size_t bytes) {
    MemSource host = mem_source_host();
    if (w->room_bytes >= bytes) return w->room;
    if (w->room) host.put(host.ud, w->room, w->room_bytes);
    w->room = host.get(host.ud, bytes);
    w->room_bytes = w->room ? bytes : 0;
    return w->room;
}

static void copy_piece(void *ud, int64_t i, int thread) {
    Job *j = ud;
    (void)thread;
    tensor_get_raw(j->be, j->raw + j->at[i], j->like[i]);
}

/* c1. False: there is no memory for a copy. */
static bool job_copy(CkptWriter *w, Job *j) {
    j->raw = room_for(w, j->bytes + 1);
    if (!j->raw) return false;
    bool shared = j->be && j->be->pool && !backend_queues(j->be);
    if (shared) pool_for(j->be->pool, j->n, copy_piece, j);
    for (int64_t i = 0; i < j->n && !shared; i++) copy_piece(j, i, 0);
    free(j->piece);
    j->piece = NULL;
    return true;
}

static bool fill(void *ud, int part, void *out, Error *err) {
    Job *j = ud;
    (void)err;
    const void *raw = j->raw ? j->raw + j->at[part] : j->piece;
    if (!j->raw) tensor_get_raw(j->be, j->piece, j->like[part]);
    tensor_raw_rows(out, raw, j->like[part]);
    return true;
}

static bool write_job(CkptWriter *w, Job *j, Error *err) {
    double start = now_s();
    int64_t bytes = 0;
    const char *section[CKPT_SECTIONS];
    for (int k = 0; k < CKPT_SECTIONS; k++) section[k] = j->section[k];
    CkptCommit s = {.step = j->step, .parent = w->last, .part = j->part, .n_part = j->n, .fill = fill, .ud = j};
    s.section = section, s.metric = j->metric, s.first = j->first;
    bool ok = ckpt_commit(&w->c, &s, &bytes, err);
    pthread_mutex_lock(&w->lock);
    w->stats.write_s += now_s() - start;
    w->stats.saved += ok, w->stats.failed += !ok;
    if (ok) w->last = j->step, w->stats.bytes = bytes;
    pthread_mutex_unlock(&w->lock);
    if (ok) {
        log_event(w->c.log, "ckpt_saved", "step %" PRId64 ": %" PRId64 " bytes in %.3f s", j->step, bytes,
                  now_s() - start);
        return true;
    }
    error_wrap(err, "saving the state of step %" PRId64, j->step);
    log_event(w->c.log, "ckpt_failed", "%s", err->msg);
    return false;
}

/* -- the thread */

static void *work(void *ud) {
    CkptWriter *w = ud;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->job && !w->quit) pthread_cond_wait(&w->changed, &w->lock);
        Job *j = w->job;
        if (!j) break;
        pthread_mutex_unlock(&w->lock);
        Error err = {0};
        bool ok = write_job(w, j, &err);
        if (!ok) log_warn(w->c.log, "training goes on without a newer saved state: %s", err.msg);
        job_free(j);
        pthread_mutex_lock(&w->lock);
        w->failed = !ok, w->err = err;
        w->job = NULL;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

bool ckpt_writer_open(CkptWriter **out, const CkptConfig *c, Error *err) {
    *out = NULL;
    if (c->rank == 0 && !ckpt_sweep(c->dir, err)) return false;
    CkptWriter *w = mem_alloc(sizeof *w);
    *w = (CkptWriter){.c = *c, .dir = mem_str(c->dir), .run = mem_str(c->run ? c->run : ""), .last = -1};
    w->c.dir = w->dir, w->c.run = w->run;
    if (w->c.n_ranks < 1) w->c.n_ranks = 1;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    w->has_thread = !c->wait && pthread_create(&w->thread, NULL, work, w) == 0;
    *out = w;
    return true;
}

void ckpt_writer_close(CkptWriter *w) {
    if (!w) return;
    if (w->has_thread) {
        pthread_mutex_lock(&w->lock);
        w->quit = true;
        pthread_cond_broadcast(&w->changed);
        pthread_mutex_unlock(&w->lock);
        pthread_join(w->thread, NULL);
    }
    MemSource host = mem_source_host();
    if (w->room) host.put(host.ud, w->room, w->room_bytes);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    free(w->dir);
    free(w->run);
    free(w);
}

/* -- for the caller */

bool ckpt_busy(CkptWriter *w) {
    pthread_mutex_lock(&w->lock);
    bool busy = w->job != NULL;
    pthread_mutex_unlock(&w->lock);
    return busy;
}

bool ckpt_wait(CkptWriter *w, Error *err) {
    pthread_mutex_lock(&w->lock);
    while (w->job) pthread_cond_wait(&w->changed, &w->lock);
    bool ok = !w->failed;
    if (!ok) *err = w->err;
    pthread_mutex_unlock(&w->lock);
    return ok;
}

void ckpt_resumed(CkptWriter *w, int64_t step) { w->last = step; }

CkptStats ckpt_stats(CkptWriter *w) {
    pthread_mutex_lock(&w->lock);
    CkptStats s = w->stats;
    pthread_mutex_unlock(&w->lock);
    return s;
}

/* c0: room for what is written now, beside what is there. */
static bool has_room(const CkptWriter *w, const Job *j, Error *err) {
    char *dir = mem_str(w->dir), *slash = strrchr(dir, '/');
    if (!io_is_dir(dir) && slash) *slash = 0; /* the first save makes it */
    double room = io_free_bytes(dir), need = 1.2 * (double)j->bytes * w->c.n_ranks;
    free(dir);
    crash_point("ckpt.c0", w->c.rank, j->step);
    if (room < 0 || room >= need) return true;
    error_set(err, ERR_IO, "%s: %.3g MB are free, a saved state of step %" PRId64 " needs %.3g MB", w->dir, room / 1e6,
              j->step, need / 1e6);
    log_event(w->c.log, "disk", "%s", err->msg);
    return false;
}

static bool save(CkptWriter *w, Job *j, double start, Error *err) {
    bool copied = w->has_thread && job_copy(w, j);
    if (w->has_thread && !copied)
        log_event(w->c.log, "ckpt_memory", "no memory for a copy of %zu bytes: training waits for this save", j->bytes);
    crash_point("ckpt.c1", w->c.rank, j->step);
    bool ok = copied || write_job(w, j, err);
    if (!copied) job_free(j);
    pthread_mutex_lock(&w->lock);
    w->failed = !ok;
    if (!ok) w->err = *err;
    if (copied) w->job = j;
    w->stats.stall_s += now_s() - start;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return ok;
}

bool ckpt_save(CkptWriter *w, Backend *be, const CkptState *s, Error *err) {
    double start = now_s();
    Error before;
    ckpt_wait(w, &before); /* its failure was said */
    if (s->step == w->last) return true;
    Job *j = job_new(be, s);
    if (has_room(w, j, err)) return save(w, j, start, err);
    job_free(j);
    pthread_mutex_lock(&w->lock);
    w->failed = true, w->err = *err, w->stats.failed++;
    pthread_mutex_unlock(&w->lock);
    return false;
}
