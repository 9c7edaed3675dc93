/* cai/opinions.h — what people and judges say about replies: items, sheets that go to people and come back, raters, agreement.
 *
 * A rating item is one reply, 1 to 5; a pair item is two systems' replies to one prompt and sample, of which one is better or
 * neither. An item's id is a hash of seed, systems, prompt and sample: it tells a rater nothing, and finds the item again when the
 * sheet comes back with the same replies and seed. Sheets are shuffled by the seed, and so are the sides of pairs.
 *
 *   rating sheet   item, prompt, reply, rating            to fill: 1..5
 *   pair sheet     item, prompt, reply_1, reply_2, choice to fill: 1, 2, or 0 for a tie
 *
 * CSV (RFC 4180) or, when the name ends in .jsonl, JSON lines. Cells that a spreadsheet would take for a formula get an
 * apostrophe in front. Who filled it is the column "rater", else the file's name. Empty cells are not rated. */
#ifndef DIKAST_CAI_OPINIONS_H
#define DIKAST_CAI_OPINIONS_H

#include "cai/answers.h"

typedef struct {
    char id[17];
    int a, at_a;                /* system, reply; */
    int b, at_b;                /* of a pair; -1, -1 */
    bool swapped;               /* the sheet shows b first */
    int32_t cluster;            /* of a's reply: prompts in ascending runs */
} Item;
typedef struct {
    const Answers *set;
    int n_set;
    Item *item;
    int n;
    bool pairs;
    int64_t harmful;            /* replies, or pairs, that were left out because the request should be declined */
    uint64_t seed;
} Items;
/* Items are ordered by prompt. all: harmful requests too. set is borrowed. */
void items_rate(Items *t, const Answers *set, int n, uint64_t seed, bool all);
bool items_pair(Items *t, const Answers *set, int n, uint64_t seed, bool all, Error *err);
void items_release(Items *t);

bool sheet_write(const Items *t, const char *path, Error *err);

/* score (items): rating 1..5; for pairs of a: 1 better, .5 tie, 0 worse; NaN: said nothing. */
typedef struct { char *name; double *score; bool machine; int n; } Rater;
enum { RATERS_MAX = 32 };
typedef struct { Rater item[RATERS_MAX]; int n; } Raters;
double *raters_add(Raters *r, const Items *t, const char *name, bool machine, Error *err);  /* scores to fill, all NaN; NULL: too many */
/* A filled sheet, any container. Rows of items that are not there are errors that say which seed and files belong together. */
bool raters_read(Raters *r, const Items *t, const char *path, Error *err);
bool raters_write(const Raters *r, const Items *t, const char *path, Error *err);           /* rows {item, rater, rating | choice} */
void raters_release(Raters *r);
/* Mean over the raters who said something; NaN: nobody did. people: only raters that are no machines, if there are any. */
double raters_mean(const Raters *r, int item, bool people);

/* "raters": [{"rater", "machine", "n", "mean"}], "agreement": [{"a", "b", "n", "exact", "kappa", "spearman", "few"}] of every two:
 * kappa quadratic for ratings (ordinal), plain for choices; few: n < 30. */
void raters_json(JsonOut *j, const Raters *r, const Items *t);

#endif
