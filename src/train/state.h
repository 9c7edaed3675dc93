/* train/state.h — what a training stage needs to go on, as a checkpoint (nn/ckpt.h) in dir/state: nets, optimizer, and a few
 * numbers as JSON. Shared by the trainer and PPO; everything else follows from configuration and step.
 *
 * Tensors are called <net>.<parameter>; a net with an adapter is that and a scoring head, never its frozen trunk. */
#ifndef DIKAST_TRAIN_STATE_H
#define DIKAST_TRAIN_STATE_H

#include "dist/mesh.h"
#include "nn/ckpt.h"
#include "nn/optim.h"

typedef struct {            /* zeroed: the usual */
    int keep;               /* the last so many checkpoints stay; 0: 2 */
    int64_t keep_every;     /* also those whose step is a multiple, 0: none, */
    bool keep_best;         /* and the one of the lowest metric; these two even when the stage has its result */
    bool wait;              /* training waits until a save is on disk */
    uint64_t seed;          /* told in the manifest */
    int rank, n_ranks;      /* n_ranks 0: 1. Ranks save together: nets are equal on all of them, each writes a part */
} StateConfig;

/* Ranks of a mesh: every rank calls each of these, and all succeed or all fail. Each writes a part; of a divided optimizer
 * (ZeRO-1) its own rows. The folder must be seen by all. */

enum { STATE_NETS = 3 };
typedef struct {
    struct { const char *name; Net net; } net[STATE_NETS];
    int n_net;
    Optim *optim;
    const char *optim_net[STATE_NETS];  /* names of its nets, in its order */
    int64_t step;
    double metric;              /* lower is better; NAN: none */
    const Schedule *schedule;   /* and the peak rate it multiplies */
    double lr;
    Appender *metrics;          /* synced before a checkpoint names its size; NULL on all ranks but 0 */
} StateView;

typedef struct State State;
/* mesh: borrowed; NULL: one rank, or those that c names. */
bool state_open(State **out, const char *dir, const StateConfig *c, const Mesh *mesh, Log *log, Error *err);
void state_close(State *s);     /* waits for what is being written; NULL is fine */
/* Saves when it can: a failure is said and training goes on. put adds the owner's numbers to "progress". False with ERR_STOPPED:
 * the supervisor was not heard for so long that another process may have this one's place (pulse_leased), which must end. What
 * is on disk is told to the supervisor by the next call of any of these. */
typedef void StatePut(void *ud, JsonOut *progress);
bool state_save(State *s, const StateView *v, StatePut *put, void *ud, Error *err);
/* The same, and waits: nothing will be saved after it. */
bool state_save_last(State *s, const StateView *v, StatePut *put, void *ud, Error *err);
bool state_busy(State *s);      /* a save is being written: another one would wait for it */
bool state_settle(State *s, Error *err);    /* waits until it is; whether it succeeded */
/* The newest good checkpoint's numbers, before the view can be made; *progress NULL: there is none. Then its tensors. */
bool state_find(State *s, const Json **progress, Error *err);
bool state_load(State *s, const StateView *v, Error *err);
int64_t state_found(const State *s);         /* its step, -1: none */
CkptStats state_stats(State *s);

/* A net by itself: dir/name/ holds it, of a net with an adapter only that and a scoring head; loading is strict and takes the
 * weights into net. */
bool state_put_net(Net net, const Mesh *mesh, const char *dir, const char *name, Error *err);
bool state_get_net(Net net, const Mesh *mesh, const char *dir, const char *name, Error *err);

bool state_exists(const char *dir);                     /* is there something to resume from? */
bool state_remove(const char *dir, Error *err);
/* When the stage has its result: leaves what is to be kept for people. */
bool state_finish(const char *dir, const StateConfig *c, Error *err);

#endif
