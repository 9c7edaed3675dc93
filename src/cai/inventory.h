/* cai/inventory.h — what lies in an out/ folder: runs, stored stages, and which run uses which stage. A run uses the stages that
 * its stages.json names, and those that its configuration reads (model.path=out/store/sl-.../model). */
#ifndef DIKAST_CAI_INVENTORY_H
#define DIKAST_CAI_INVENTORY_H

#include "base/error.h"

typedef struct {
    char *name;
    char state[16];     /* done, failed, stopped, running, killed; "" when it has not begun to say */
    char stage[32];     /* of running and killed: where */
    double age_s, bytes;    /* since it last said something; on disk */
    int n_stage;
} InventoryRun;

typedef struct {
    char *name;         /* "pm-7c1e04ab52d90f31" */
    const char *state;  /* done, running (a process works on it), unfinished */
    double age_s, bytes;
    int n_run, *run;    /* indices of the runs that use it */
    bool pruned;        /* by inventory_prune: it is gone, or, looking only, would be */
} InventoryStage;

typedef struct {
    char *out;
    InventoryRun *run;
    InventoryStage *stage;
    int n_run, n_stage;
    double left_bytes;  /* of what a prune that was killed had begun to remove */
} Inventory;

/* Changes nothing. Sizes are what the disk gives up, not what files say they hold. */
bool inventory_read(Inventory *v, const char *out, Error *err);
void inventory_release(Inventory *v);

/* Reads, then removes every stage that no run uses and no process works on (look: only marks it). Runs that begin meanwhile wait
 * for a moment, and find what they use. Killed at any time it leaves every remaining stage whole; the next prune goes on. */
bool inventory_prune(Inventory *v, const char *out, bool look, Error *err);

#endif
