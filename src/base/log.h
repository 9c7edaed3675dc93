/* base/log.h — what people and machines see while something runs. A Log is made in main and handed down; stderr is for
 * people, events.jsonl (when opened) for machines. Progress: on a terminal one line redrawn at most 5 times a second;
 * otherwise one full line per log interval (10 s or 100 steps, whichever is later), never '\r'.
 * All functions accept log == NULL and then do nothing; log_* may be called from any thread. */
#ifndef DIKAST_BASE_LOG_H
#define DIKAST_BASE_LOG_H

#include "base/error.h"
#include "base/load.h"
#include "base/pulse.h"

typedef struct Log Log;
typedef enum { LOG_NOTHING = -1, LOG_QUIET, LOG_NORMAL, LOG_VERBOSE } LogLevel;

Log *log_new(LogLevel level);
void log_free(Log *l);
void log_silence(Log *l);                                       /* from now on it says and records nothing; its pulse goes on */
Pulse *log_pulse(const Log *l);                                 /* what this process is doing; log_progress says that it goes on */
/* What measures the load of the work that is being done, for whoever writes metrics; borrowed, NULL: nobody measures. */
void log_measure(Log *l, LoadWatch *load);
LoadWatch *log_load(const Log *l);
bool log_events_to(Log *l, const char *path, Error *err);       /* appends JSON objects {t, level, event, stage, msg} */
void log_stage(Log *l, const char *stage);                      /* name for the following lines; NULL: none */
void log_info(Log *l, const char *fmt, ...) FORMAT(2, 3);       /* a line for people, level normal */
void log_warn(Log *l, const char *fmt, ...) FORMAT(2, 3);       /* same text once, count at the end */
void log_warn_lines(Log *l, const char *where, const char *text);   /* each line of text as a warning "where: line" */
void log_debug(Log *l, const char *fmt, ...) FORMAT(2, 3);      /* -v only */
void log_event(Log *l, const char *event, const char *fmt, ...) FORMAT(3, 4);   /* events.jsonl only */
/* text: "loss 2.314  lr 1.9e-4"; the log adds "stage step/total pct" in front and "tok/s eta" behind. units_done counts
 * what unit names ("tok", "rows") since the start of this stage in this process. */
void log_progress(Log *l, int64_t step, int64_t total, double units_done, const char *unit, const char *fmt, ...) FORMAT(6, 7);
void log_progress_end(Log *l);                                  /* finishes the redrawn line */
double now_s(void);                                             /* monotonic seconds */
void format_count(char buf[16], double v);                      /* 12.3k, 4.1M */
void format_time(char buf[32], double seconds);                 /* 45 s, 14 min, 1 h 02 min, from 48 h on 2 days 02 h */

/* First SIGINT, SIGTERM or SIGUSR1: stop_requested turns true and one line says so; the second kills the process with the
 * signal's default action (stop_request is no signal: after it, the next one is the first). A watcher thread owns the signals (signalfd), so there is no handler and no global. Open it
 * first thing in main, before any other thread. */
typedef struct Stop Stop;
bool stop_open(Stop **out, Error *err);
bool stop_requested(const Stop *s);     /* NULL: false */
void stop_request(Stop *s);             /* another way to be asked: a supervisor's, a test's */
void stop_close(Stop *s);

#endif
