/* base/pulse.c — the numbers of pulse.h. One writer, so an addition is a load and a store; readers may see a section
 * with the time of the one before it, which is off by one pass and nobody minds. */
#include "base/pulse.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"

struct Pulse {
    _Atomic uint32_t section;
    _Atomic int64_t since_ns, pass_ns, begun_ns, step; /* begun: what runs, in its bin of time */
    _Atomic uint64_t calls;
    _Atomic uint32_t group, op;
    _Atomic double tokens;
    _Atomic float loss, grad_norm;
    _Atomic bool nonfinite;
    _Atomic uint32_t passes[SECTION_COUNT];
    _Atomic int64_t spent_ns[SECTION_COUNT];
    _Atomic int64_t lease_ns; /* when it ends; 0: nobody supervises */
    _Atomic int wake_fd;
    /* A reader must not see a pass in its bin and as the one that runs: `turn` is odd while the writer is between. */
    _Atomic uint32_t turn;
    _Atomic uint32_t bin; /* of the pass that runs */
    _Atomic int64_t good_ns[GOOD_BINS], mark_ns[GOOD_BINS], kept_ns[GOOD_BINS];
    _Atomic bool working;
    Section before_call;  /* the main thread's alone */
    pthread_mutex_t lock; /* of what follows: names are no single store */
    char stage[32], commit_stage[32];
    uint64_t commits;
    int64_t commit_step;
    Str told; /* objects, each with a 0 behind it */
    pthread_mutex_t recorder_lock;
    PulseRecorder *recorder;
    void *recorder_ud;
};

static const char *const names[SECTION_COUNT] = {"INIT", "DATA", "FWD",     "BWD",   "COMM",
                                                 "OPT",  "CKPT", "ROLLOUT", "SCORE", "EVAL"};

const char *section_name(Section s) { return (unsigned)s < SECTION_COUNT ? names[s] : "?"; }

bool section_find(Section *out, const char *name) {
    for (int i = 0; i < SECTION_COUNT; i++)
        if (!strcmp(names[i], name)) {
            *out = (Section)i;
            return true;
        }
    return false;
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#define GET(field) atomic_load_explicit(&p->field, memory_order_relaxed)
#define PUT(field, value) atomic_store_explicit(&p->field, (value), memory_order_relaxed)

Pulse *pulse_new(void) {
    Pulse *p = mem_alloc(sizeof *p);
    CHECK(pthread_mutex_init(&p->lock, NULL) == 0 && pthread_mutex_init(&p->recorder_lock, NULL) == 0, "mutex");
    int64_t now = now_ns();
    PUT(since_ns, now);
    PUT(pass_ns, now);
    PUT(begun_ns, now);
    PUT(wake_fd, -1);
    PUT(bin, GOOD_RESTART);
    return p;
}

void pulse_free(Pulse *p) {
    if (!p) return;
    pthread_mutex_destroy(&p->recorder_lock);
    pthread_mutex_destroy(&p->lock);
    str_release(&p->told);
    free(p);
}

/* A call in between belongs to what it is for. */
static GoodBin bin_of(const Pulse *p, Section s) {
    if (!GET(working)) return GOOD_RESTART;
    if (s == SECTION_COMM) s = p->before_call;
    return s == SECTION_CKPT ? GOOD_SAVE : s == SECTION_DATA ? GOOD_DATA : GOOD_PRODUCTIVE;
}

static void turn_begin(Pulse *p) { atomic_exchange_explicit(&p->turn, GET(turn) + 1, memory_order_acq_rel); }

static void turn_end(Pulse *p) { atomic_store_explicit(&p->turn, GET(turn) + 1, memory_order_release); }

/* The pass that runs ends here, in its bin; the next one begins, in that one. */
static int64_t turn_bin(Pulse *p, GoodBin next) {
    int64_t now = now_ns();
    uint32_t bin = GET(bin);
    turn_begin(p);
    PUT(good_ns[bin], GET(good_ns[bin]) + now - GET(begun_ns));
    PUT(begun_ns, now);
    PUT(bin, (uint32_t)next);
    turn_end(p);
    return now;
}

void pulse_section(Pulse *p, Section s) {
    if (!p) return;
    uint32_t was = GET(section);
    int64_t begun = GET(pass_ns), now = turn_bin(p, bin_of(p, s));
    PUT(passes[was], GET(passes[was]) + 1);
    PUT(spent_ns[was], GET(spent_ns[was]) + now - begun);
    PUT(pass_ns, now);
    PUT(since_ns, now);
    PUT(section, (uint32_t)s);
}

void pulse_working(Pulse *p) {
    if (!p || GET(working)) return;
    PUT(working, true);
    turn_bin(p, bin_of(p, (Section)GET(section)));
}

void pulse_idle(Pulse *p) {
    if (p) PUT(bin, GOOD_IDLE);
}

void pulse_mark(Pulse *p) {
    if (!p) return;
    turn_bin(p, (GoodBin)GET(bin));
    for (int i = 0; i < GOOD_BINS; i++) PUT(mark_ns[i], GET(good_ns[i]));
}

void pulse_kept(Pulse *p) {
    if (!p) return;
    turn_begin(p);
    for (int i = 0; i < GOOD_BINS; i++) PUT(kept_ns[i], GET(mark_ns[i]));
    turn_end(p);
}

void pulse_ledger(PulseLedger *out, Pulse *p) {
    uint32_t turn;
    do {
        turn = atomic_load_explicit(&p->turn, memory_order_acquire);
        for (int i = 0; i < GOOD_BINS; i++) {
            out->all.ns[i] = GET(good_ns[i]);
            out->kept.ns[i] = GET(kept_ns[i]);
        }
        int64_t runs = now_ns() - GET(begun_ns);
        out->all.ns[GET(bin)] += runs > 0 ? runs : 0;
        /* Adding nothing keeps what was read above from being read after it. */
    } while ((turn & 1) || atomic_fetch_add_explicit(&p->turn, 0, memory_order_acq_rel) != turn);
}

int64_t pulse_work_ns(const Pulse *p) {
    if (!p) return 0;
    uint32_t now = GET(section);
    int64_t runs = now >= SECTION_DATA && now <= SECTION_BWD ? now_ns() - GET(pass_ns) : 0;
    return runs + GET(spent_ns[SECTION_DATA]) + GET(spent_ns[SECTION_FWD]) + GET(spent_ns[SECTION_BWD]);
}

void pulse_alive(Pulse *p) {
    if (p) PUT(since_ns, now_ns());
}

void pulse_step(Pulse *p, int64_t step) {
    if (p) PUT(step, step);
}

void pulse_numbers(Pulse *p, double loss, double grad_norm, double tokens) {
    if (!p) return;
    PUT(loss, (float)loss);
    PUT(grad_norm, (float)grad_norm);
    PUT(tokens, tokens);
}

void pulse_nonfinite(Pulse *p) {
    if (p) PUT(nonfinite, true);
}

void pulse_call(Pulse *p, uint32_t group, uint32_t op) {
    if (!p) return;
    p->before_call = (Section)GET(section);
    PUT(group, group);
    PUT(op, op);
    PUT(calls, GET(calls) + 1);
    pulse_section(p, SECTION_COMM);
}

void pulse_call_end(Pulse *p) {
    if (p) pulse_section(p, p->before_call);
}

void pulse_stage(Pulse *p, const char *stage) {
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    snprintf(p->stage, sizeof p->stage, "%s", stage ? stage : "");
    pthread_mutex_unlock(&p->lock);
    PUT(step, 0);
}

static void wake(Pulse *p) {
    int fd = GET(wake_fd);
    uint64_t one = 1;
    if (fd >= 0 && write(fd, &one, sizeof one) < 0) return; /* the next beat tells of it */
}

void pulse_commit(Pulse *p, int64_t step) {
    if (!p) return;
    if (step == PULSE_DONE) pulse_mark(p);
    pulse_kept(p);
    pthread_mutex_lock(&p->lock);
    p->commits++;
    p->commit_step = step;
    memcpy(p->commit_stage, p->stage, sizeof p->commit_stage);
    pthread_mutex_unlock(&p->lock);
    wake(p);
}

enum { MAX_TOLD = 1 << 20 };

void pulse_tell(Pulse *p, const char *json) {
    if (!p || !pulse_supervised(p)) return;
    pthread_mutex_lock(&p->lock);
    if (p->told.n < MAX_TOLD) str_putn(&p->told, json, strlen(json) + 1);
    pthread_mutex_unlock(&p->lock);
    wake(p);
}

bool pulse_take_told(Pulse *p, Str *out) {
    pthread_mutex_lock(&p->lock);
    size_t n = p->told.n > 0 ? strlen(p->told.s) + 1 : 0;
    if (n > 0) {
        str_put(out, p->told.s);
        memmove(p->told.s, p->told.s + n, p->told.n - n);
        p->told.n -= n;
    }
    pthread_mutex_unlock(&p->lock);
    return n > 0;
}

bool pulse_supervised(const Pulse *p) { return p && GET(lease_ns) != 0; }

void pulse_recorder(Pulse *p, PulseRecorder *dump, void *ud) {
    if (!p) return;
    pthread_mutex_lock(&p->recorder_lock);
    p->recorder = dump;
    p->recorder_ud = ud;
    pthread_mutex_unlock(&p->recorder_lock);
}

bool pulse_dump(Pulse *p, Str *out) {
    pthread_mutex_lock(&p->recorder_lock);
    bool any = p->recorder != NULL;
    if (any) p->recorder(p->recorder_ud, out);
    pthread_mutex_unlock(&p->recorder_lock);
    return any;
}

bool pulse_leased(const Pulse *p) {
    if (!p) return true;
    int64_t until = GET(lease_ns);
    return until == 0 || now_ns() < until;
}

void pulse_read(PulseView *out, Pulse *p) {
    *out = (PulseView){.section = (Section)GET(section),
                       .age_s = 1e-9 * (double)(now_ns() - GET(since_ns)),
                       .step = GET(step),
                       .calls = GET(calls),
                       .group = GET(group),
                       .op = GET(op),
                       .tokens = GET(tokens),
                       .loss = GET(loss),
                       .grad_norm = GET(grad_norm)};
    if (out->age_s < 0) out->age_s = 0;
    for (int i = 0; i < SECTION_COUNT; i++) {
        out->passes[i] = GET(passes[i]);
        out->spent_s[i] = 1e-9 * (double)GET(spent_ns[i]);
    }
    pthread_mutex_lock(&p->lock);
    memcpy(out->stage, p->stage, sizeof out->stage);
    memcpy(out->commit_stage, p->commit_stage, sizeof out->commit_stage);
    out->commits = p->commits;
    out->commit_step = p->commit_step;
    pthread_mutex_unlock(&p->lock);
}

bool pulse_take_nonfinite(Pulse *p) { return atomic_exchange_explicit(&p->nonfinite, false, memory_order_relaxed); }

void pulse_wake(Pulse *p, int fd) {
    if (p) PUT(wake_fd, fd);
}

void pulse_lease(Pulse *p, double seconds) {
    if (p) PUT(lease_ns, now_ns() + (int64_t)(1e9 * seconds));
}
