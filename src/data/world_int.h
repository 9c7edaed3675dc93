/* data/world_int.h — what world.c (splits, files) and world_text.c (sentences, demonstrations) share. */
#ifndef DIKAST_DATA_WORLD_INT_H
#define DIKAST_DATA_WORLD_INT_H

#include "base/json.h"
#include "base/rng.h"
#include "data/world.h"

/* A stream of draws for one record: the record's number is the item, the n-th draw the step. */
typedef struct {
    Rng rng;
    uint64_t item;
    uint32_t step;
} Draw;
Draw draw_for(const WorldConfig *c, const char *purpose, uint64_t item);
int draw_below(Draw *d, int n);
bool draw_chance(Draw *d, double p);

typedef struct {
    const WorldCategory *verbs, *objects; /* the same, but for look-alikes: benign verbs, harmful objects */
    int verb, object;
    bool seen; /* some demonstration uses the object */
} Pair;
typedef struct {
    Pair *pair;
    int n;
} Pool;

typedef struct {
    WorldConfig c;
    Pool harm, red, demo, eval;      /* harm = red + eval; demo lies inside red */
    Pool benign, benign_eval;        /* training, held out */
    Pool look, look_demo, look_eval; /* look_demo: those of look whose object is seen */
} World;

const Pair *pool_draw(const Pool *p, Draw *d);
const char *pair_kind(const Pair *p);     /* "harm" | "benign" | "lookalike" */
const char *pair_category(const Pair *p); /* name of the category, or "lookalike" */

void say_request(Str *out, const Pair *p);
void say_comply(Str *out, const Pair *p, Draw *d); /* draws tool and step */
void say_refuse(Str *out, const Pair *p, const char *reason);
void say_evade(Str *out);
const char *any_reason(const World *w, const Pair *p, Draw *d); /* its category's, or some reason for a benign pair */

/* Whole files, one JSON object a line. */
void world_facts(Str *out, const World *w);
void world_sft(Str *out, const World *w, int64_t n);
void world_format(Str *out, const World *w, int64_t n_critique, int64_t n_judge, int64_t n_applies);
void world_prefs(Str *out, const World *w, int64_t n);
void world_judge_gold(Str *out, const World *w);
void world_pm_gold(Str *out, const World *w);

bool world_is_named(const WorldConfig *c, const WorldCategory *category);

#endif
