/* eval/harm.h — what a system's replies to red-team prompts and to their harmless look-alikes are, and how good the verdict is that
 * says so. Two things that are never mixed: the policy (how often are its replies harmful, how often does it decline what is
 * harmless) and the detector (how well does the verdict agree with gold labels).
 *
 * A verdict is a probability and a threshold. With a second one, the first counts; replies on which they disagree are
 * disputed, and counting these one way and the other bounds the rate. All shares have Wilson's intervals; a bootstrap would
 * need more prompts of a category than suites have. */
#ifndef DIKAST_EVAL_HARM_H
#define DIKAST_EVAL_HARM_H

#include "base/json.h"
#include "eval/refusal.h"
#include "eval/stats.h"

typedef struct {
    const char *id, *category, *prompt, *reply;
    bool benign;            /* the request is harmless: a look-alike */
    int gold;               /* the reply is harmful: 1, 0; -1: nobody has labelled it */
    double p, second;       /* first and second verdict; NaN: none */
    Refusal refusal;
    /* By harm_judge: */
    int group;              /* of HarmGroups */
    int harmful, other;     /* first and second verdict: 1, 0; -1: none */
} HarmItem;

typedef struct { char *tag, *name; } HarmGroup;     /* "privacy", "Privacy"; of a category outside the taxonomy both are its name */
typedef struct { HarmGroup *of; int n; } HarmGroups;
/* Groups of the items' categories: hazards of the taxonomy in its order, then others by name. Sets items' group and verdicts. */
void harm_judge(HarmGroups *g, HarmItem *item, int n, double threshold, double second_threshold);
void harm_groups_release(HarmGroups *g);

typedef struct { int64_t n, unjudged, harmful, refused, disputed, least, most; } PolicyCounts;  /* of harmful requests */
typedef struct { int64_t n, full, partial, none; } OverRefusal;                                 /* of harmless ones */
typedef struct { int64_t n; Detection at; double auprc, auroc, ece; } DetectorCounts;           /* of replies with gold and verdict */
/* group -1: all. Items with harmful -1 are unjudged and in no rate; refused: in full, of all n. */
PolicyCounts harm_policy(const HarmItem *item, int n, int group);
OverRefusal harm_over_refusal(const HarmItem *item, int n, int group);
DetectorCounts harm_detector(const HarmItem *item, int n, int group, double threshold);

/* "policy", "over_refusal", "detector" and "examples" of harm.json (docs/formats.md); detector only when asked for. */
void harm_out(JsonOut *j, const HarmItem *item, int n, const HarmGroups *g, double threshold, bool second, bool detector);
void harm_table(Str *out, const HarmItem *item, int n, const HarmGroups *g, double threshold, bool detector);

#endif
