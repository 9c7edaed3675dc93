/* dist/supervise_int.h — what the files of the supervisor share. One thread; everything happens between two polls. */
#ifndef DIKAST_DIST_SUPERVISE_INT_H
#define DIKAST_DIST_SUPERVISE_INT_H

#include <signal.h>
#include <sys/types.h>

#include "base/io.h"
#include "base/json.h"
#include "dist/culprit.h"
#include "dist/frame.h"
#include "dist/health.h"
#include "dist/supervise.h"

typedef enum { PHASE_RUN, PHASE_DUMP, PHASE_ABORT, PHASE_TERM, PHASE_KILL, PHASE_OVER } Phase;

typedef struct {
    pid_t child;            /* ours and not reaped: local ranks; else 0 */
    bool reaped, hello, bye, local;     /* local: on this machine, so its process can be looked at and killed */
    int status;             /* of waitpid, when reaped */
    int bye_code, conn;     /* conn: index, or -1 */
    Hello id;
    double heard_s, lost_s; /* last BEAT; when its connection ended, 0: it stands */
    BeatMsg beat;
    bool said_slow, said_silent, skipped;   /* skipped: its code or death is accounted for */
    int slow;               /* judgements in a row that it is a straggler */
    Str dump;               /* its reply */
    Pace pace[SECTION_COUNT];
    PulseLedger ledger;     /* its own, at told_ns (0: never told) */
    int64_t told_ns;
} Rank;

typedef struct { int64_t wall_ns; Goodput bins; } Account;      /* of one rank number, over attempts; bins add up to wall_ns */

typedef struct { int fd, rank; Str in, out; double since_s; bool closing; } Conn;

typedef struct { char name[FRAME_HOST_MAX + 1]; int slots, failures; bool out; } Host;

typedef enum { CAUSE_NONE, CAUSE_DIED, CAUSE_EXIT, CAUSE_SILENT, CAUSE_HANG, CAUSE_LAUNCHER, CAUSE_HELLO, CAUSE_CORRUPT } Cause;

typedef struct {
    Cause cause;
    int rank, attempt, detail;          /* rank -1: no one rank; detail: signal or exit code */
    char host[FRAME_HOST_MAX + 1], what[760], when[40], done[200];
    Section section;
    int64_t step;
    int permanent;                      /* exit code that trying again would not change; 0: none */
} Fault;

enum { MAX_STAGES = 64, KEEP_FAULTS = 3 };
typedef struct { char name[32]; int64_t step; } Progress;

typedef struct {
    const LaunchConfig *c;
    Log *log;
    LaunchResult *result;
    /* the launch */
    unsigned char token[16];
    uint64_t run;
    char here[FRAME_HOST_MAX + 1], address[160];
    int listener, signals;
    sigset_t *before;
    Appender *events;
    Host host[LAUNCH_MAX_HOSTS];
    int n_host;
    Progress progress[MAX_STAGES];
    int n_progress, fruitless;
    bool progressed;                    /* in this attempt */
    Fault fault[KEEP_FAULTS];           /* the last ones, newest first */
    int n_fault;
    bool stopping;                      /* asked to save and end */
    int first_signal;
    char started[40], last_checkpoint[64];
    /* the attempt */
    int attempt, world;
    Phase phase;
    double phase_s, begun_s, watched_s, paced_s, said_s, ranks_s;
    bool ranks_changed;                 /* since the file `ranks` was written */
    Rank *rank;                         /* (world) */
    Conn *conn;
    int n_conn, cap_conn;
    pid_t launcher;                     /* mpirun or srun; 0: none, or reaped */
    bool launched, launcher_reaped;
    int launcher_status;
    double launcher_end_s;
    Fault now;                          /* cause != NONE: why this attempt is being stopped */
    int hang_rank;                      /* of a hang in compute; -1: in COMM */
    double longest[SECTION_COUNT];      /* seconds of a finished pass, over all ranks and attempts */
    /* the ledger: attempts follow each other without a gap */
    Account *account;                   /* (c->n): of the attempts that are over */
    int64_t launch_ns;                  /* wall clock of these, of earlier launches too */
    int64_t begun_ns;                   /* of this attempt */
    int64_t fault_ns, found_ns;         /* of s->now; found 0: none */
    int attempts_before, faults_before; /* of earlier launches in this folder */
    double ledger_s;                    /* when it was written last */
    bool well;                          /* the attempt ended with every rank done */
} Sup;

/* supervise.c */
void sup_fault(Sup *s, Cause cause, int rank, int detail, const char *fmt, ...) FORMAT(5, 6);   /* the first one counts */
void sup_phase(Sup *s, Phase phase);
void sup_ask_checkpoint(Sup *s, const char *why);
bool sup_rank_live(const Sup *s, int r);    /* reported, and has neither said BYE nor been reaped */

/* supervise_spawn.c */
bool sup_spawn(Sup *s, Error *err);
void sup_signal(Sup *s, int sig);       /* the launcher and every rank of this machine that is still there */
void sup_reap(Sup *s);
bool sup_all_gone(Sup *s);                  /* no process of this attempt is left, as far as can be known */

/* supervise_conn.c */
void sup_conn_accept(Sup *s);
void sup_conn_read(Sup *s, int i);
void sup_conn_flush(Sup *s, int i);
void sup_conn_sweep(Sup *s);                /* closed ones, and those that never said who they are */
void sup_conn_close_all(Sup *s);
void sup_send(Sup *s, int rank, FrameType type, const char *reason);
void sup_send_all(Sup *s, FrameType type, const char *reason);

/* supervise_watch.c */
void sup_watch(Sup *s);
void sup_pace(Sup *s);
void sup_verdict(Sup *s);
double sup_floor(const Sup *s, Section section);

/* supervise_ledger.c */
void sup_ledger_open(Sup *s);   /* goes on with what an earlier launch left */
void sup_ledger_tell(Sup *s, int rank, const Json *event);
void sup_ledger_fault(Sup *s);              /* s->now has just been found */
void sup_ledger_attempt(Sup *s);            /* one is over (s->well): what it was goes into the accounts */
void sup_ledger_write(Sup *s, bool over);
void sup_ledger_release(Sup *s);
double sup_age(const Rank *k);              /* seconds since its section began or was said to go on */

/* supervise_say.c */
void sup_time(char out[40]);
/* One line of events.jsonl, and with level not "debug" one for people. rank -1: none. */
void sup_say(Sup *s, const char *level, const char *event, int rank, const char *fmt, ...) FORMAT(5, 6);
void sup_say_from(Sup *s, int rank, const Json *event);     /* what a rank reports */
void sup_status(Sup *s, const char *state);
void sup_write_ranks(Sup *s);                 /* the file `ranks` */
void sup_end_leftovers(Sup *s);             /* of a supervisor that is gone */
void sup_write_dumps(Sup *s);
void sup_place(char out[96], const Sup *s, int r);     /* "FWD of step 12 of pretrain" */

#endif
