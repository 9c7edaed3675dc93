/* base/pulse.h — what this process is doing, for whoever watches it from another thread (dist/beat.h) or another process.
 *
 * The main thread says which section it is in and which step it makes; others read. Saying it costs some relaxed stores and
 * one look at the clock, so it is said whether anybody watches or not. Every Log owns one (log_pulse), which is how it reaches
 * trainers and stages. All functions accept NULL and then do nothing; only the main thread writes, unless it says otherwise. */
#ifndef DIKAST_BASE_PULSE_H
#define DIKAST_BASE_PULSE_H

#include "base/goodput.h"
#include "base/str.h"

/* INIT is whatever stands before, between and after the others: opening, reading, writing results; it has no usual length. */
typedef enum {
    SECTION_INIT, SECTION_DATA, SECTION_FWD, SECTION_BWD, SECTION_COMM, SECTION_OPT, SECTION_CKPT, SECTION_ROLLOUT,
    SECTION_SCORE, SECTION_EVAL, SECTION_COUNT
} Section;
const char *section_name(Section s);                    /* "FWD" */
bool section_find(Section *out, const char *name);

typedef struct Pulse Pulse;
Pulse *pulse_new(void);
void pulse_free(Pulse *p);

void pulse_section(Pulse *p, Section s);                /* the section now begins; again: one more pass of it */
void pulse_alive(Pulse *p);                             /* it goes on: its age begins again */
void pulse_step(Pulse *p, int64_t step);                /* number of the step being made, from 1 */
void pulse_numbers(Pulse *p, double loss, double grad_norm, double tokens);     /* of the step just made; tokens: so far */
void pulse_nonfinite(Pulse *p);                         /* what this rank itself computed was not finite */
void pulse_call(Pulse *p, uint32_t group, uint32_t op); /* a collective begins: the section is COMM ... */
void pulse_call_end(Pulse *p);                          /* ... and again what it was before */
void pulse_stage(Pulse *p, const char *stage);          /* name for the following steps; at most 31 bytes are kept */
/* State that a restart can begin from is durable up to this step of the stage; PULSE_DONE: the stage has its result. */
#define PULSE_DONE INT64_MAX
void pulse_commit(Pulse *p, int64_t step);

/* Where the time goes (goodput.h). All of it counts as restart until pulse_working says that work goes on. pulse_mark: what was
 * done so far is in the state now being saved; pulse_kept (and pulse_commit, which calls it): and that is durable. */
void pulse_working(Pulse *p);
void pulse_mark(Pulse *p);
void pulse_kept(Pulse *p);
void pulse_idle(Pulse *p);                              /* the pass of the section that runs now is waiting for something to do */
/* Time in DATA, FWD and BWD up to now: a rank's own work on micro-batches, without what it waited for others. 0 without a pulse. */
int64_t pulse_work_ns(const Pulse *p);

/* A JSON object {"event": ..., ...} for whoever supervises this process (dist/beat.h says what it does with which); any thread.
 * Without a supervisor it goes nowhere. */
void pulse_tell(Pulse *p, const char *json);
bool pulse_supervised(const Pulse *p);

/* Who can say what was communicated lately, as one JSON object (comm of culprit.h): called by the watching side, on its thread,
 * while the main thread may be anywhere. NULL: nobody any more, which waits until it is not being asked. */
typedef void PulseRecorder(void *ud, Str *out);
void pulse_recorder(Pulse *p, PulseRecorder *dump, void *ud);

/* A lease: while somebody supervises this process, results may be put in their place only as long as the supervisor was heard
 * lately; a process that slept (SIGSTOP, a link that was down) may have been replaced. Always true without a supervisor. */
bool pulse_leased(const Pulse *p);

/* -- the watching side: any thread */

typedef struct {
    Section section;
    double age_s;               /* since it began or was said to go on */
    int64_t step;
    uint64_t calls;             /* collectives started */
    uint32_t group, op;         /* of the last one */
    double tokens;
    float loss, grad_norm;
    uint32_t passes[SECTION_COUNT];     /* finished ones */
    double spent_s[SECTION_COUNT];      /* in finished passes */
    char stage[32];
    uint64_t commits;
    int64_t commit_step;        /* of the last commit */
    char commit_stage[32];
} PulseView;
void pulse_read(PulseView *out, Pulse *p);
bool pulse_dump(Pulse *p, Str *out);                    /* the recorder's object; false: there is none */
typedef struct { Goodput all, kept; } PulseLedger;      /* since pulse_new, to now; of it: what a durable state holds */
void pulse_ledger(PulseLedger *out, Pulse *p);
bool pulse_take_told(Pulse *p, Str *out);               /* appends one object that waits; false: none does */
bool pulse_take_nonfinite(Pulse *p);                    /* whether pulse_nonfinite was said since this was asked last */
void pulse_wake(Pulse *p, int fd);                      /* an eventfd that is written to at each commit; -1: none */
void pulse_lease(Pulse *p, double seconds);             /* the supervisor was heard just now; the lease holds so long */

#endif
