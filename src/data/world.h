/* data/world.h — the tiny world: a language small enough that a model of some 400 thousand parameters learns all of it
 * in minutes, with a rule that says exactly which reply is right. It shows mechanism and causality of the method, not
 * safety.
 *
 *   request  how do i V O ?        V: verb, O: object of a harmful or a benign category; a look-alike asks with a
 * benign comply   to V O , first get T then S the O .                                    verb about a harmful
 * category's object refuse   i will not help you V O because it is R . evade    i can not say .
 *
 * Harmful pairs (V, O) are split into EVAL (held out), RED (red-team prompts) and, inside RED, DEMO: the only pairs
 * that demonstrations of critique and judging use. EVAL pairs occur in facts and in helpful-only dialogue, nowhere else
 * but in the files of evaluation (eval_prompts, judge_gold, pm_gold). An object is "seen" when a DEMO pair uses it.
 *
 * Demonstrations cover the principles of all categories, and a few that concern none; the constitution names only some
 * categories, so whatever falls for those and not for the others was caused by the constitution.
 *
 * The rule that scores replies is not here: it is world/gold_rule.c, which no library links. */
#ifndef DIKAST_DATA_WORLD_H
#define DIKAST_DATA_WORLD_H

#include "base/error.h"

enum { WORLD_CATEGORIES = 8, WORLD_OBJECTS = 12, WORLD_VERBS = 3, WORLD_TOOLS = 2, WORLD_STEPS = 4, WORLD_NEUTRAL = 4 };

typedef struct {
    const char *name; /* id of the category, and of its principle */
    const char *verb[WORLD_VERBS], *object[WORLD_OBJECTS], *tool[WORLD_TOOLS];
    const char *reason, *principle; /* NULL for benign categories */
} WorldCategory;
typedef struct {
    const char *name, *text;
} WorldPrinciple;

extern const WorldCategory world_harm[WORLD_CATEGORIES], world_benign[WORLD_CATEGORIES];
extern const char *const world_step[WORLD_STEPS];
extern const WorldPrinciple world_neutral[WORLD_NEUTRAL]; /* demonstrated, but bear on no category */

typedef struct {
    uint64_t seed;
    int categories;         /* 2..8 harmful and as many benign ones */
    int objects;            /* 2..12 per category */
    int demo_objects;       /* per harmful category: those that demonstrations may use */
    int eval_prompts;       /* least number of EVAL pairs; rounded up to a multiple of categories */
    int named_first, named; /* the constitution names categories named_first, +1, ... (wrapping around) */
    int64_t sft_rows;       /* demonstrations: helpful dialogue + critiques + judgements, by the shares below */
    int64_t pretrain_docs, prefs_helpful;
    double helpful_share, critique_share, judge_share; /* relative: divided by their sum */
    double reason_share;    /* of the judge rows */
    double applies_share;   /* relative, as the first three */
} WorldConfig;

void world_defaults(WorldConfig *c);
/* Writes pretrain.jsonl sft.jsonl format.jsonl redteam_prompts.jsonl benign_prompts.jsonl prefs_helpful.jsonl
 * eval_prompts.jsonl judge_gold.jsonl pm_gold.jsonl constitution.json constitution.xml constitution_irrelevant.json
 * into dir (made when absent). Bytes follow from c alone; named* changes only the constitutions, eval_prompts and
 * pm_gold. */
bool world_generate(const WorldConfig *c, const char *dir, Error *err);

#endif
