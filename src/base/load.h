/* base/load.h — what a piece of work costs its machine: CPU and memory of this process, and, where somebody can tell, the load of
 * the device it computes on. A thread of its own looks every `period_s` seconds, so the work is not held up; what is asked for
 * between two looks is the time since the last question.
 *
 * Means are over time, the greatest values over looks. A number that nobody could tell is negative, and load_put leaves it out.
 * Functions of a LoadWatch but load_open accept NULL and then do nothing. One thread asks at a time. */
#ifndef DIKAST_BASE_LOAD_H
#define DIKAST_BASE_LOAD_H

#include "base/json.h"

typedef struct { double busy, bytes, watts, mhz; } LoadDevice;  /* share of the time 0..1; in use; now; of its processors */
typedef bool LoadProbe(void *ud, LoadDevice *out);              /* called on the thread; false: nothing can be told now */

typedef struct {
    double seconds;                     /* since the question before */
    double cpu, rss;                    /* processors kept busy, mean; bytes in memory, most */
    double gpu, gpu_bytes, gpu_watts, gpu_mhz; /* mean, most, mean, mean */
} LoadSample;

double load_rss(void);                      /* bytes of this process in memory; negative: unknown */
double load_memory(const char *what);       /* bytes that /proc/meminfo has under that name, "MemAvailable"; negative: unknown */

typedef struct LoadWatch LoadWatch;
/* probe may be NULL: this process alone. */
LoadWatch *load_open(double period_s, LoadProbe *probe, void *ud);
void load_close(LoadWatch *l);
void load_take(LoadWatch *l, LoadSample *out);           /* since load_take was called last, or since load_open */
void load_all(LoadWatch *l, LoadSample *out);            /* since load_open */
/* Fields PREFIXcpu, PREFIXrss_mb, PREFIXgpu, PREFIXgpu_mb, PREFIXgpu_w, PREFIXgpu_mhz of an object. */
void load_put(JsonOut *j, const char *prefix, const LoadSample *s);
/* load_take's, with prefix t_, to a row of metrics. */
void load_put_row(LoadWatch *l, JsonOut *j);

#endif
