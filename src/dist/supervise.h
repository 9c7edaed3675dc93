/* dist/supervise.h — runs the ranks of one job until it is done: starts them, listens to their beats, finds out who died, fell
 * silent or hangs, stops everybody, and starts again from the last checkpoint with what is left. It shares nothing with the
 * ranks but a socket, so whatever hangs in them does not hang here.
 *
 *      RUN -- fault --> [DUMP 2 s, of hangs] --> ABORT 2 s --> TERM 3 s --> KILL --> everybody gone, or 15 s --> next attempt
 *
 * Everything it leaves is below dir: events.jsonl (one object per event), STATUS (plain words: who, what, when, what was
 * done), hang-<attempt>/ (what each rank answered), .lock (a second supervisor is refused), ranks (pids with start times, so
 * that the next supervisor can end what this one left).
 *
 * Fencing: every rank gets the launch's token and its attempt's number; who comes with others is told to ABORT. A rank that
 * does not hear its supervisor for 10 s ends itself (beat.h). */
#ifndef DIKAST_DIST_SUPERVISE_H
#define DIKAST_DIST_SUPERVISE_H

#include "base/log.h"
#include "base/pulse.h"

typedef enum { VIA_LOCAL, VIA_MPIRUN, VIA_SRUN } LaunchVia;

enum { LAUNCH_MAX_RANKS = 4096, LAUNCH_MAX_WORDS = 128, LAUNCH_MAX_HOSTS = 1024 };

typedef struct {
    const char *dir;                    /* made when absent */
    const char *const *argv;            /* program and its arguments; NULL at the end */
    int n;                              /* ranks there is room for, 1..; launch_world of them are used */
    LaunchVia via;
    const char *const *launcher;        /* words of the mpirun or srun command; NULL at the end. local: unused */
    const char *hosts;                  /* "a:2,b:2": hosts with slots, for mpirun and to leave hosts out; NULL: unknown */
    const char *address;                /* name of this machine for ranks; NULL: found (127.0.0.1 when local) */
    int group;                          /* tp x cp x pp: ranks come in multiples of it; 0: 1 */
    int64_t micro;                      /* micro-batches a step: data-parallel sizes divide it; 0: any */
    int max_fruitless;                  /* attempts without a new checkpoint before giving up; 0: 3 */
    double floor_s;                     /* > 0: instead of every section's floor (tests) */
    double cap_s;                       /* longest pass of any section; 0: 1800 */
    double hello_s;                     /* a rank must report within; 0: 60 */
} LaunchConfig;

typedef struct {
    int attempts, faults, world;        /* world: of the last attempt */
    int exit_code;                      /* of a run that ended by itself with other than 0 */
    bool stopped_by_signal;             /* the second one: the caller dies of it */
    int signal;
} LaunchResult;

/* Installs its signal handling first. true: the job is done. Errors by code: ERR_STOPPED saved and resumable (75);
 * ERR_CONFIG, ERR_FORMAT, ERR_DIVERGED, ERR_GATE: the ranks ended so, and nothing would change by trying again; ERR_NET: no
 * world fits what is left (4); ERR_STATE: it failed again and again (1). ERR_CONFIG too when another supervisor has dir. */
bool supervise(LaunchResult *out, const LaunchConfig *c, Log *log, Error *err);

/* Ranks for the next attempt: group x the largest power of two that divides micro and fits; 0: none. */
int launch_world(int usable, int group, int64_t micro);

#endif
