/* eval/rank.h — models ranked by pairwise games.
 *
 * Bradley & Terry 1952, by maximum likelihood: maximise sum w [o log s(t_a - t_b) + (1 - o) log s(t_b - t_a)], o 1, .5, 0.
 * Ratings are on Elo's scale, 1000 + 400 (t - t_anchor) / ln 10: the anchor stays at 1000. */
#ifndef DIKAST_EVAL_RANK_H
#define DIKAST_EVAL_RANK_H

#include "base/pool.h"
#include "base/rng.h"
#include "eval/stats.h"

typedef struct {
    int a, b;
    double outcome, weight; /* of a: 1 won, .5 tie, 0 lost */
} Game;
/* rating (n_model). A model that won or lost everything, or that no game links to the anchor, has no finite maximum: then
 * *ridge is set and every other model gets half a virtual tie against the anchor. False when a game names a model outside
 * 0..n_model-1 or an outcome outside 0..1. */
bool rank_bradley_terry(double *rating, bool *ridge, const Game *game, int64_t n, int n_model, int anchor, Error *err);
/* 95 % percentile intervals: n_draw resamples of prompts; games of a prompt stay together (prompt[i] in ascending runs). Each
 * draw has its own random numbers, so neither their order nor the number of threads matters; pool NULL: this thread alone. */
bool rank_intervals(Interval *rating, const Game *game, const int32_t *prompt, int64_t n, int n_model, int anchor,
                    int n_draw, Rng rng, Pool *pool, Error *err);
/* Length control, the minimal form of Dubois et al. 2024: P(a beats b) = s(t_a - t_b + phi tanh((len_a - len_b) / sd)), sd of the
 * length differences of all games, each from both sides; the rating is of equal lengths. longer[i] = len_a - len_b of game i, any unit. phi > 0: longer
 * replies are preferred. Without a finite maximum: half a virtual tie per model as above, and phi a prior N(0, 5^2). */
typedef struct { double phi, sd; bool ridge; } LengthEffect;
bool rank_length(double *rating, LengthEffect *effect, const Game *game, const double *longer, int64_t n, int n_model, int anchor,
                 Error *err);
/* As rank_intervals; (n_model + 1): the last is phi's. */
bool rank_length_intervals(Interval *rating, const Game *game, const double *longer, const int32_t *prompt, int64_t n, int n_model,
                           int anchor, int n_draw, Rng rng, Pool *pool, Error *err);
/* Online Elo in the order of the games; it depends on that order. */
void rank_elo(double *rating, const Game *game, int64_t n, int n_model, double k, double start);

#endif
