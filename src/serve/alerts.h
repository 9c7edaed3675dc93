/* serve/alerts.h — rules over the rows of metrics.jsonl that say when somebody should look, and in plain words why.
 *
 * A rule fires once when its condition begins to hold and again only after it has not held in between. Windows are of the last
 * 128 steps of one stage; medians, not means, so that one bad step is no new normal. Nothing here knows files or clocks but for
 * the times it is given. */
#ifndef DIKAST_SERVE_ALERTS_H
#define DIKAST_SERVE_ALERTS_H

#include "base/config.h"
#include "base/json.h"

typedef struct {            /* 0 turns a rule off */
    double loss_z;          /* loss above its median by so many times 1.4826 MAD */
    double grad_norm;       /* times its median, three steps in a row */
    double kl;              /* nats per reply */
    double entropy;         /* share of its first values' median below which it has collapsed */
    double clip_fraction;   /* share of tokens whose ratio is clipped */
    double throughput;      /* share of its median below which 16 steps were slow */
    double wait;            /* share of time spent waiting for data, over 16 steps */
    double stall_s;         /* seconds without a step of a running stage */
    double checkpoint_s;    /* age of the newest saved state */
    double disk;            /* free space in sizes of the saved state */
} AlertLimits;

extern const CfgKey alert_keys[];   /* of AlertLimits; section "alerts" of a rule file */
extern const int alert_key_count;

typedef struct {
    const char *name;       /* "loss" */
    int64_t step;
    double value, limit;
    char text[200];         /* what is seen, likely causes */
} Alert;

typedef void AlertFn(void *ud, const Alert *a);

typedef struct Alerts Alerts;       /* of one stage */
Alerts *alerts_new(const AlertLimits *limits, AlertFn *fn, void *ud);
void alerts_free(Alerts *a);        /* NULL is fine */
void alerts_row(Alerts *a, const Json *row);    /* a line of metrics.jsonl */
/* What the clock and the disk say of a stage that runs. Ages in seconds, bytes; negative: not known. */
typedef struct { double since_step, since_state, disk_free, state_bytes; } AlertClock;
void alerts_clock(Alerts *a, const AlertClock *c);

#endif
