/* base/log.c — lines for people on stderr, events.jsonl for machines. The stop switch is in stop.c. */
#include "base/log.h"

#include "base/io.h"
#include "base/json.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { N_SAMPLE = 32, MAX_WARNING = 200 };
static const double redraw_s = 0.2, line_s = 10;
static const int64_t line_steps = 100;

typedef struct {
    double t, units;
    int64_t step;
} Sample;

typedef struct {
    Sample first;          /* where this stage began counting in this process */
    Sample ring[N_SAMPLE]; /* spread over the last tenth of the steps: the ETA follows the present speed */
    int n_ring;
    Str line;       /* newest text */
    bool on_screen; /* a redrawn line is there now */
    bool unsaid;    /* the newest line has not been printed */
    double shown_t;
    int64_t shown_step;
} Progress;

typedef struct {
    char *text;
    int64_t n;
} Warning;

struct Log {
    pthread_mutex_t lock;
    LogLevel level;
    bool terminal;
    char *stage;
    Appender *events;
    Warning *warning;
    int n_warning;
    Progress progress;
    Pulse *pulse;
    LoadWatch *load; /* borrowed */
};

double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void format_count(char buf[16], double v) {
    static const char *const unit[] = {"", "k", "M", "G", "T", "P"};
    if (!isfinite(v)) {
        snprintf(buf, 16, "?");
        return;
    }
    int u = 0;
    while (fabs(v) >= 999.95 && u + 1 < COUNT_OF(unit)) {
        v /= 1000;
        u++;
    }
    bool whole = u == 0 && (v == floor(v) || fabs(v) >= 100);
    if (fabs(v) >= 1e6)
        snprintf(buf, 16, "%.1e", v);
    else
        snprintf(buf, 16, "%.*f%s", whole ? 0 : u == 0 && fabs(v) < 10 ? 2 : 1, v, unit[u]);
}

void format_time(char buf[32], double seconds) {
    if (!isfinite(seconds) || seconds < 0 || seconds > 1e9) {
        snprintf(buf, 32, "?");
    } else if (seconds < 9.95) {
        snprintf(buf, 32, "%.1f s", seconds);
    } else if (seconds < 59.5) {
        snprintf(buf, 32, "%.0f s", seconds);
    } else {
        long long minutes = llround(seconds / 60);
        long long hours = llround(seconds / 3600);
        if (minutes < 60)
            snprintf(buf, 32, "%lld min", minutes);
        else if (minutes < 48 * 60)
            snprintf(buf, 32, "%lld h %02lld min", minutes / 60, minutes % 60);
        else
            snprintf(buf, 32, "%lld days %02lld h", hours / 24, hours % 24);
    }
}

Log *log_new(LogLevel level) {
    Log *l = mem_alloc(sizeof *l);
    CHECK(pthread_mutex_init(&l->lock, NULL) == 0, "mutex");
    l->level = level;
    l->terminal = isatty(STDERR_FILENO) == 1;
    l->pulse = pulse_new();
    return l;
}

Pulse *log_pulse(const Log *l) { return l ? l->pulse : NULL; }

void log_measure(Log *l, LoadWatch *load) {
    if (l) l->load = load;
}

LoadWatch *log_load(const Log *l) { return l ? l->load : NULL; }

/* ---- all below run under the lock ---- */

static void wipe(Log *l) {
    if (l->progress.on_screen) fputs("\r\033[K", stderr);
    l->progress.on_screen = false;
}

static void redraw(Log *l) {
    Progress *p = &l->progress;
    const char *s = str_get(&p->line);
    size_t n = p->line.n;
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 && n >= size.ws_col) {
        n = size.ws_col - 1u; /* a wrapped line could not be wiped */
        while (n > 0 && ((unsigned char)s[n] & 0xC0) == 0x80) n--;
    }
    fprintf(stderr, "\r%.*s\033[K", (int)n, s);
    p->on_screen = true;
    p->unsaid = true;
}

static void say(Log *l, const char *lead, const char *text) {
    bool again = l->progress.on_screen;
    wipe(l);
    fprintf(stderr, "%s%s%s%s\n", lead, l->stage ? l->stage : "", l->stage ? ": " : "", text);
    if (again) redraw(l);
}

static void record(Log *l, const char *level, const char *event, const char *text) {
    if (!l->events) return;
    struct timespec now;
    struct tm tm;
    char t[48];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(t, sizeof t, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(t + n, sizeof t - n, ".%03dZ", (int)(now.tv_nsec / 1000000));

    Str s = {0};
    JsonOut j;
    json_out_init(&j, &s, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "t", t);
    json_out_str(&j, "level", level);
    json_out_str(&j, "event", event);
    if (l->stage) json_out_str(&j, "stage", l->stage);
    json_out_str(&j, "msg", text);
    json_out_obj_end(&j);
    Error err = {0};
    if (!appender_line(l->events, s.s, s.n, &err)) {
        appender_close(l->events);
        l->events = NULL;
        say(l, "warning: no further events are recorded: ", err.msg);
    }
    str_release(&s);
}

/* True the first time; from then on only counts. */
static bool new_warning(Log *l, const char *text) {
    for (int i = 0; i < l->n_warning; i++) {
        if (strcmp(l->warning[i].text, text) == 0) return l->warning[i].n++ == 0;
    }
    if (l->n_warning == MAX_WARNING) return true;
    l->warning = mem_grow(l->warning, (size_t)(l->n_warning + 1) * sizeof *l->warning);
    l->warning[l->n_warning++] = (Warning){.text = mem_str(text), .n = 1};
    return true;
}

static void finish_progress(Log *l) {
    Progress *p = &l->progress;
    if (p->unsaid) {
        if (l->terminal)
            fprintf(stderr, "\r%s\033[K\n", str_get(&p->line));
        else
            fprintf(stderr, "%s\n", str_get(&p->line));
    }
    Str line = p->line;
    str_clear(&line);
    *p = (Progress){.line = line};
}

/* Speed over the last tenth of the steps (of all so far, where that is less than ten). */
static Sample take_sample(Progress *p, Sample now, int64_t total) {
    if (p->n_ring == 0) p->first = now;
    int64_t gap = total / 10 / (N_SAMPLE - 2);
    bool due = p->n_ring == 0 || now.step - p->ring[(p->n_ring - 1) % N_SAMPLE].step >= (gap > 1 ? gap : 1);
    if (due) p->ring[p->n_ring++ % N_SAMPLE] = now;
    int64_t window = total / 10 > 10 ? total / 10 : 10;
    for (int i = p->n_ring > N_SAMPLE ? p->n_ring - N_SAMPLE : 0; i < p->n_ring; i++) {
        Sample s = p->ring[i % N_SAMPLE];
        if (s.step >= now.step - window && s.t < now.t) return s;
    }
    return p->first;
}

static void write_progress(Log *l, Sample now, int64_t total, const char *unit, const char *text) {
    Progress *p = &l->progress;
    Sample from = take_sample(p, now, total);
    str_clear(&p->line);
    int percent = total > 0 ? (int)(100.0 * (double)now.step / (double)total) : 0;
    str_printf(&p->line, "%s %lld/%lld %2d %%  %s", l->stage ? l->stage : "", (long long)now.step, (long long)total,
               percent, text);
    double elapsed = now.t - from.t;
    if (elapsed <= 0 || now.step <= from.step) return;
    char rate[16], eta[32];
    if (unit && now.units > from.units) {
        format_count(rate, (now.units - from.units) / elapsed);
        str_printf(&p->line, "  %s %s/s", rate, unit);
    }
    format_time(eta, elapsed / (double)(now.step - from.step) * (double)(total - now.step));
    if (now.step < total) str_printf(&p->line, "  eta %s", eta);
}

/* ---- outside ---- */

/* Formats, then takes the lock: the arguments may be slow, and never call back into the log. */
static char *format_text(const char *fmt, va_list ap) {
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    CHECK(n >= 0, "log: bad format '%s'", fmt);
    char *text = mem_alloc((size_t)n + 1);
    vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    return text;
}

/* Recorded always, said from a level on. */
static void note(Log *l, LogLevel from, const char *level, const char *event, const char *fmt, va_list ap) {
    if (!l) return;
    char *text = format_text(fmt, ap);
    pthread_mutex_lock(&l->lock);
    if (l->level >= from) say(l, "", text);
    record(l, level, event, text);
    pthread_mutex_unlock(&l->lock);
    free(text);
}

void log_info(Log *l, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    note(l, LOG_NORMAL, "info", "note", fmt, ap);
    va_end(ap);
}

void log_warn(Log *l, const char *fmt, ...) {
    if (!l) return;
    va_list ap;
    va_start(ap, fmt);
    char *text = format_text(fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&l->lock);
    if (l->level > LOG_NOTHING && new_warning(l, text)) {
        say(l, "warning: ", text);
        record(l, "warning", "warning", text);
    }
    pthread_mutex_unlock(&l->lock);
    free(text);
}

void log_warn_lines(Log *l, const char *where, const char *text) {
    for (size_t n; (n = strcspn(text, "\n")) > 0; text += n + (text[n] != 0))
        log_warn(l, "%s: %.*s", where, (int)n, text);
}

void log_debug(Log *l, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    note(l, LOG_VERBOSE, "debug", "debug", fmt, ap);
    va_end(ap);
}

void log_event(Log *l, const char *event, const char *fmt, ...) {
    if (!l) return;
    va_list ap;
    va_start(ap, fmt);
    char *text = format_text(fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&l->lock);
    record(l, "info", event, text);
    pthread_mutex_unlock(&l->lock);
    free(text);
}

void log_progress(Log *l, int64_t step, int64_t total, double units_done, const char *unit, const char *fmt, ...) {
    pulse_alive(log_pulse(l));
    if (!l || l->level <= LOG_QUIET) return;
    va_list ap;
    va_start(ap, fmt);
    char *text = format_text(fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&l->lock);
    Progress *p = &l->progress;
    double t = now_s();
    if (p->n_ring == 0) p->shown_t = l->terminal ? 0 : t, p->shown_step = step;
    write_progress(l, (Sample){.t = t, .units = units_done, .step = step}, total, unit, text);
    p->unsaid = true;
    bool due =
        l->terminal ? t - p->shown_t >= redraw_s : t - p->shown_t >= line_s && step - p->shown_step >= line_steps;
    if (due) {
        if (l->terminal) {
            redraw(l);
        } else {
            fprintf(stderr, "%s\n", str_get(&p->line));
            p->unsaid = false;
        }
        p->shown_t = t;
        p->shown_step = step;
    }
    pthread_mutex_unlock(&l->lock);
    free(text);
}

void log_progress_end(Log *l) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    finish_progress(l);
    pthread_mutex_unlock(&l->lock);
}

void log_stage(Log *l, const char *stage) {
    if (!l) return;
    char *copy = mem_str(stage);
    pulse_stage(l->pulse, stage);
    pthread_mutex_lock(&l->lock);
    finish_progress(l);
    free(l->stage);
    l->stage = copy;
    pthread_mutex_unlock(&l->lock);
}

bool log_events_to(Log *l, const char *path, Error *err) {
    if (!l || l->level == LOG_NOTHING) return true;
    Appender *a;
    if (!appender_open(&a, path, -1, err)) return false;
    pthread_mutex_lock(&l->lock);
    appender_close(l->events);
    l->events = a;
    pthread_mutex_unlock(&l->lock);
    return true;
}

void log_silence(Log *l) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    finish_progress(l);
    l->level = LOG_NOTHING;
    appender_close(l->events);
    l->events = NULL;
    pthread_mutex_unlock(&l->lock);
}

void log_free(Log *l) {
    if (!l) return;
    finish_progress(l);
    free(l->stage);
    l->stage = NULL;
    for (int i = 0; i < l->n_warning; i++) {
        Warning *w = &l->warning[i];
        if (w->n > 1) fprintf(stderr, "warning, %lld times in all: %s\n", (long long)w->n, w->text);
        free(w->text);
    }
    free(l->warning);
    appender_close(l->events);
    pulse_free(l->pulse);
    str_release(&l->progress.line);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
