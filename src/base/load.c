#include "base/load.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

/* A mean as its sum over seconds, and how many of those seconds were told. */
typedef struct {
    double sum, seconds;
} Mean;

typedef struct {
    double start_s, cpu_s; /* clocks when it was begun */
    double rss, gpu_bytes; /* most so far; negative: not told */
    Mean gpu, watts, mhz;
} Span;

#define NOTHING ((LoadDevice){-1, -1, -1, -1})

struct LoadWatch {
    LoadProbe *probe;
    void *ud;
    double period_s, looked_s;
    double rss;        /* of the last look, */
    LoadDevice device; /* and this too */
    Span since, all;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool ending;
};

static double cpu_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double load_rss(void) {
    FILE *f = fopen("/proc/self/statm", "re");
    long pages = -1;
    if (f && fscanf(f, "%*d %ld", &pages) != 1) pages = -1;
    if (f) fclose(f);
    return pages < 0 ? -1 : (double)pages * (double)sysconf(_SC_PAGESIZE);
}

double load_memory(const char *what) {
    char line[256];
    double kib = -1;
    size_t n = strlen(what);
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && kib < 0 && fgets(line, sizeof line, f))
        if (!strncmp(line, what, n) && line[n] == ':') kib = strtod(line + n + 1, NULL);
    if (f) fclose(f);
    return kib < 0 ? -1 : 1024 * kib;
}

static Span span_begin(void) { return (Span){.start_s = now_s(), .cpu_s = cpu_now(), .rss = -1, .gpu_bytes = -1}; }

static void mean_add(Mean *m, double value, double seconds) {
    if (value < 0) return;
    m->sum += value * seconds;
    m->seconds += seconds;
}

static double mean_of(const Mean *m) { return m->seconds > 0 ? m->sum / m->seconds : -1; }

static void span_add(Span *s, double rss, const LoadDevice *d, double seconds) {
    if (rss > s->rss) s->rss = rss;
    if (d->bytes > s->gpu_bytes) s->gpu_bytes = d->bytes;
    mean_add(&s->gpu, d->busy, seconds);
    mean_add(&s->watts, d->watts, seconds);
    mean_add(&s->mhz, d->mhz, seconds);
}

/* One look; what is seen now stands for the time since the look before. The lock is not held while the device is asked.
 */
static void look(LoadWatch *l) {
    LoadDevice d = NOTHING;
    if (l->probe && !l->probe(l->ud, &d)) d = NOTHING;
    double rss = load_rss(), now = now_s();
    pthread_mutex_lock(&l->lock);
    double seconds = now - l->looked_s > 1e-6 ? now - l->looked_s : 1e-6;
    span_add(&l->since, rss, &d, seconds);
    span_add(&l->all, rss, &d, seconds);
    l->looked_s = now, l->rss = rss, l->device = d;
    pthread_mutex_unlock(&l->lock);
}

static void *watch(void *arg) {
    LoadWatch *l = arg;
    bool ending = false;
    while (!ending) {
        look(l);
        double until = now_s() + l->period_s;
        struct timespec t = {(time_t)until, (long)((until - (double)(time_t)until) * 1e9)};
        pthread_mutex_lock(&l->lock);
        while (!l->ending && now_s() < until) pthread_cond_timedwait(&l->wake, &l->lock, &t);
        ending = l->ending;
        pthread_mutex_unlock(&l->lock);
    }
    return NULL;
}

LoadWatch *load_open(double period_s, LoadProbe *probe, void *ud) {
    LoadWatch *l = mem_alloc(sizeof *l);
    *l = (LoadWatch){.probe = probe, .ud = ud, .period_s = period_s, .looked_s = now_s(), .rss = -1, .device = NOTHING};
    l->since = l->all = span_begin();
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->wake, &clock);
    pthread_condattr_destroy(&clock);
    int code = pthread_create(&l->thread, NULL, watch, l);
    CHECK(code == 0, "no thread for the machine's load: %d", code);
    return l;
}

void load_close(LoadWatch *l) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->ending = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static LoadSample sample_of(const Span *s) {
    double seconds = now_s() - s->start_s;
    return (LoadSample){.seconds = seconds,
                        .cpu = (cpu_now() - s->cpu_s) / (seconds > 1e-9 ? seconds : 1e-9),
                        .rss = s->rss,
                        .gpu = mean_of(&s->gpu),
                        .gpu_bytes = s->gpu_bytes,
                        .gpu_watts = mean_of(&s->watts),
                        .gpu_mhz = mean_of(&s->mhz)};
}

/* Work that is faster than the looks is given the last one's numbers. */
void load_take(LoadWatch *l, LoadSample *out) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    *out = sample_of(&l->since);
    l->since = span_begin();
    span_add(&l->since, l->rss, &l->device, 1e-9);
    pthread_mutex_unlock(&l->lock);
}

void load_all(LoadWatch *l, LoadSample *out) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    *out = sample_of(&l->all);
    pthread_mutex_unlock(&l->lock);
}

static void put(JsonOut *j, const char *prefix, const char *name, double value) {
    char key[64];
    if (value < 0) return;
    snprintf(key, sizeof key, "%s%s", prefix, name);
    json_out_num(j, key, value);
}

void load_put(JsonOut *j, const char *prefix, const LoadSample *s) {
    put(j, prefix, "cpu", s->cpu);
    put(j, prefix, "rss_mb", s->rss < 0 ? -1 : s->rss / 1e6);
    put(j, prefix, "gpu", s->gpu);
    put(j, prefix, "gpu_mb", s->gpu_bytes < 0 ? -1 : s->gpu_bytes / 1e6);
    put(j, prefix, "gpu_w", s->gpu_watts);
    put(j, prefix, "gpu_mhz", s->gpu_mhz);
}

void load_put_row(LoadWatch *l, JsonOut *j) {
    LoadSample s;
    if (!l) return;
    load_take(l, &s);
    load_put(j, "t_", &s);
}
