/* base/pulse.c — the numbers of pulse.h. One writer, so an addition is a load and a store; readers may see a section
 * with the time of the one before it, which is off by one pass and nobody minds. */
#include "base/pulse.h"

#include <math.h>
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
    _Atomic int64_t since_ns, begun_ns, step;
    _Atomic uint64_t calls;
    _Atomic uint32_t group, op;
    _Atomic double tokens;
    _Atomic float loss, grad_norm;
    _Atomic bool nonfinite;
    _Atomic uint32_t passes[SECTION_COUNT];
    _Atomic int64_t spent_ns[SECTION_COUNT];
    _Atomic int64_t lease_ns; /* when it ends; 0: nobody supervises */
    _Atomic int wake_fd;
    Section before_call;  /* the main thread's alone */
    pthread_mutex_t lock; /* of what follows: names are no single store */
    char stage[32], commit_stage[32];
    uint64_t commits;
    int64_t commit_step;
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
    PUT(begun_ns, now);
    PUT(wake_fd, -1);
    return p;
}

void pulse_free(Pulse *p) {
    if (!p) return;
    pthread_mutex_destroy(&p->recorder_lock);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void pulse_section(Pulse *p, Section s) {
    if (!p) return;
    int64_t now = now_ns();
    uint32_t was = GET(section);
    PUT(passes[was], GET(passes[was]) + 1);
    PUT(spent_ns[was], GET(spent_ns[was]) + now - GET(begun_ns));
    PUT(begun_ns, now);
    PUT(since_ns, now);
    PUT(section, (uint32_t)s);
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
    if (!isfinite(loss) || !isfinite(grad_norm)) PUT(nonfinite, true);
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

void pulse_commit(Pulse *p, int64_t step) {
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->commits++;
    p->commit_step = step;
    memcpy(p->commit_stage, p->stage, sizeof p->commit_stage);
    pthread_mutex_unlock(&p->lock);
    int fd = GET(wake_fd);
    uint64_t one = 1;
    if (fd >= 0 && write(fd, &one, sizeof one) < 0) return; /* the next beat tells of it */
}

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
