/* dist/beat.h — a rank's side of the supervision: a thread beside the training that tells the supervisor every second where the
 * main thread is, does what the supervisor asks for, and ends the process when the supervisor is not heard any more.
 *
 *      main thread   pulse_section(...): some stores             never waits for this thread
 *      side thread   BEAT -> PONG; DUMP: reply; CKPT: stop_request; ABORT: _exit(75)
 *                    no PONG for dead_s: _exit(75), the dead-man switch: whoever lost its supervisor may have been replaced
 *
 * What the main thread says by pulse_tell goes to the supervisor's events.jsonl, as beat_event's objects do; with every beat goes
 * the ledger of its time (base/goodput.h).
 *
 * It is the one place below app/ that ends the process: a rank that must not go on may hold any lock, so nothing is asked. */
#ifndef DIKAST_DIST_BEAT_H
#define DIKAST_DIST_BEAT_H

#include "base/json.h"
#include "base/log.h"
#include "base/pulse.h"
#include "dist/frame.h"

enum { EXIT_RESUMABLE = 75 };

typedef struct {
    char address[160];      /* "host:port", or "unix:PATH" */
    Hello hello;            /* pid and start are filled in by beat_open; host too when it is empty */
    Pulse *pulse;
    Stop *stop;             /* asked by CKPT; may be NULL */
    double dead_s;          /* 0: 10 */
} BeatConfig;

/* From DIKAST_SUP, _RUN, _ATTEMPT, _TOKEN, and the launcher's variables for rank and world: OMPI_COMM_WORLD_RANK and _SIZE, PMI_RANK
 * and PMI_SIZE, SLURM_PROCID and SLURM_STEP_NUM_TASKS, RANK and WORLD_SIZE, in this order. *supervised false: nobody supervises this process. */
bool beat_config_env(BeatConfig *out, bool *supervised, Error *err);

typedef struct Beat Beat;
/* Called by the main thread: SIGUSR2 will show its stack to the side thread. Does not wait for the supervisor. */
bool beat_open(Beat **out, const BeatConfig *c, Error *err);
/* One line for the supervisor's events.jsonl: {"event": ..., ...}; any thread. {"event": "corrupt", "rank": r, "msg": ...}
 * makes it stop everybody and go back to the last checkpoint. NULL is fine. */
void beat_event(Beat *b, const char *json);
void beat_close(Beat *b, int exit_code);        /* says BYE with the code the process will end with; NULL is fine */

#endif
