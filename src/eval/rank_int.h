/* eval/rank_int.h — shared by the two rankings. */
#ifndef DIKAST_EVAL_RANK_INT_H
#define DIKAST_EVAL_RANK_INT_H

#include "eval/rank.h"

/* Solves the n equations h x = g, h (n, n) symmetric and positive definite; x replaces g. False when it is not. Uses h up. */
bool rank_solve(double *h, double *g, int n);
bool rank_check_games(const Game *game, int64_t n, int n_model, Error *err);
/* First game of each prompt, games of a prompt in one run; returns the number of prompts. begin (n + 2). */
int64_t rank_prompts(int64_t *begin, const int32_t *prompt, int64_t n);
/* 2.5 and 97.5 % of the columns of draw (n_draw, n_column); NaN ones are left out. */
void rank_percentiles(Interval *out, const double *draw, int n_draw, int n_column);
double rank_points(double t);   /* on Elo's scale */

#endif
