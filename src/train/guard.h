/* train/guard.h — the over-optimisation guard of a policy-gradient run: a score that is trained on stops meaning what it
 * should (Gao et al. 2023), so every `every` updates replies to prompts that are never trained on are looked at by others: an
 * independent score, and gauges of how the replies look. The run stops, and gets the weights of its best check back, when
 *
 *   proxy     the trained score is above that of the best check while the independent one stays more than one standard error
 *             below it, `patience` checks in a row;
 *   gauge     a share, the length or the entropy of replies leaves its bound; shares count only where their 95 % interval lies
 *             above it and they have at least doubled since the reference: what it did before is not what RL has done;
 *   kl        a rollout passes kl_stop (ppo.h).
 *
 * Best is the highest independent score, never the trained one. A check draws its replies under the same random numbers every
 * time and touches nothing the run depends on: the bits of a run that is not stopped are those of a run without a guard. Checks
 * lie in dir/guard.jsonl, the best one's weights in dir/guard/, which state_remove takes away; a resumed run reads both back. */
#ifndef DIKAST_TRAIN_GUARD_H
#define DIKAST_TRAIN_GUARD_H

#include "train/rollout.h"

typedef enum {
    GUARD_CUT,          /* replies cut at their greatest length */
    GUARD_TOP4,         /* replies that hold the commonest 4 words in a row */
    GUARD_DUPLICATES,   /* replies equal to one given to an earlier prompt */
    GUARD_EVASIVE,      /* stock refusals without a reason or an alternative */
    GUARD_COMFORT,      /* stock phrases of comfort */
    GUARD_REFUSED,      /* harmless requests that are refused */
    GUARD_SHARES
} GuardShare;
extern const struct GuardShareInfo { const char *name, *words; } guard_share[GUARD_SHARES];  /* "top4", and what it says in a sentence */

typedef struct {
    int64_t every;                  /* updates between checks, at least 1 */
    int patience;                   /* checks in a row, at least 1 */
    double share[GUARD_SHARES];     /* bounds; 0: that gauge is off */
    double length, entropy;         /* greatest relative change of the mean length; least share of the entropy; 0: off */
} GuardRule;

typedef struct {
    int64_t update;                 /* updates the policy had made */
    int64_t n;                      /* replies */
    double proxy, score, se;        /* trained score; independent score and its standard error; NaN: nobody measured it */
    double kl, length, entropy;     /* nats per reply; tokens per reply that ended by itself; nats per token */
    double share[GUARD_SHARES], low[GUARD_SHARES];  /* and the lower end of its 95 % interval */
} GuardCheck;

typedef struct { bool stop; int best; char cause[400]; } GuardVerdict;
/* Of checks in order, the first being the reference's: which is best so far, and whether the last one ends the run, in words. */
GuardVerdict guard_judge(const GuardRule *r, const GuardCheck *c, int n);

/* Looks at replies x of the policy beside those of the reference to the same prompts (equal in the first check): fills all of
 * *out but update. */
typedef bool GuardMeasureFn(void *ud, const Experience *x, const Experience *reference, GuardCheck *out, Error *err);
typedef struct PpoGuard {           /* what PpoSetup names; the caller's */
    GuardRule rule;
    const PpoPrompt *prompt;        /* never trained on; they fit as those of the rollouts do */
    int n_prompt;
    GuardMeasureFn *measure;
    void *ud;
    /* Filled by the run: */
    bool stopped;                   /* by the guard, or by kl_stop: then the policy holds the weights of `kept` */
    GuardCheck kept;                /* the check of the weights the policy was left with, if there was one of them (n > 0) */
    int n_check;
} PpoGuard;

typedef struct Guard Guard;
/* Reads back the checks made up to `update`; generates the reference's replies. dir: the run's. */
bool guard_open(Guard **out, PpoGuard *g, const PpoConfig *c, const PpoSetup *s, const char *dir, int64_t update, Log *log,
                const Stop *stop, Error *err);
void guard_close(Guard *g);
/* Before update `update` (0-based) and after the last one: makes the check if one is due. *v: what is to be thought of the policy
 * as it stands, stop false where no check was due. */
bool guard_look(Guard *g, int64_t update, GuardVerdict *v, Error *err);
const GuardCheck *guard_last(const Guard *g, int64_t update);   /* the check of that update, or NULL */
/* Puts the best check's weights into the policy; returns its update in *update. */
bool guard_restore(Guard *g, int64_t *update, Error *err);

#endif
