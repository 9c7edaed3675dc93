/* cai/eval_results.h — evaluation results as JSON objects {"kind", "schema": 1, ..}: what docs/formats.md documents under
 * "Evaluation results", the report renders and gates read. Each function writes the members of one object that the caller has
 * opened. Equal inputs and seed give equal bytes. */
#ifndef DIKAST_CAI_EVAL_RESULTS_H
#define DIKAST_CAI_EVAL_RESULTS_H

#include "base/pool.h"
#include "cai/judge.h"
#include "cai/opinions.h"
#include "eval/rank.h"

/* Every pair of systems on the prompts both answered, measure by measure: differences with intervals, tests, Holm's correction
 * over all tests of the object. ERR_FORMAT when two systems share no prompt. */
bool comparison_json(JsonOut *j, const Answers *a, int n, uint64_t seed, Error *err);

/* Each system over its clusters of related prompts: verdicts (paraphrases made by rule, made by a model, repeated samples), under
 * personas and after filler turns, style and self-description. ERR_FORMAT when a file has no cluster of two replies. */
bool consistency_json(JsonOut *j, const Answers *a, int n, uint64_t seed, Error *err);

/* Ratings 1..5 of every system by all raters, people before judges; their agreement. judge may be NULL. */
void rating_json(JsonOut *j, const Items *t, const Raters *r, const char *judge);

/* One game between two systems, from items or from a file of rows {"a", "b", "outcome": 1 | .5 | 0 | "a" | "b" | "tie", "prompt_id"?,
 * "length_a"?, "length_b"?, "rater"?}. */
typedef struct {
    char **system;
    int n_system;
    Game *game;
    double *longer;         /* words of a's reply less b's; NaN: not known */
    int32_t *prompt;        /* ascending runs */
    int n;
} Games;
bool games_read(Games *g, const char *path, Error *err);
void games_of(Games *g, const Items *t, const Raters *r);
void games_release(Games *g);
/* How a judge did: both orders of every pair it decided. */
typedef struct { const char *name, *criterion; int64_t asked, decided, orders_differ, unjudged; double first_slot, length_corr; } JudgeReport;
/* Bradley-Terry and length-controlled ratings with intervals, pairs, raters. anchor: a system's index, at 1000. t, r and judge may
 * be NULL. */
bool ranking_json(JsonOut *j, const Games *g, int anchor, int n_draw, uint64_t seed, Pool *pool, const Items *t, const Raters *r,
                  const JudgeReport *judge, Error *err);

/* The judge's opinions, as a rater's scores. criterion NULL: RATING_RUBRIC, PAIR_CRITERION. */
extern const char RATING_RUBRIC[], PAIR_CRITERION[];
/* p(k) over the five digits behind a fixed rubric, renormalised; the rating is sum k p(k). A language model with a dialogue. */
bool judge_ratings(double *score, const Items *t, const char *rubric, Engine *e, const Chat *c, int max_len, int64_t *unjudged,
                   Error *err);
/* The same by a service. */
bool judge_ratings_remote(double *score, const Items *t, const char *rubric, RemoteJudge *judge, int64_t *unjudged, Error *err);
/* Both orders; a tie when |q - 1/2| < 0.05, and when the replies are equal. */
bool judge_choices(double *score, const Items *t, const char *criterion, const Judge *judge, JudgeReport *report, Error *err);

/* A number of a result by its path, as gates write it: members joined by dots; in a list the member whose "system", "measure",
 * "part", "category", "feature", "claim", "task", "set", "label" or "rater" is that word, or its number from 0; of an object with a
 * "value" that value. "consistency.systems.rl.parts.rule.unanimous" begins with the kind; a result of one system may name it next, as in
 * "harm.rl.policy.overall.harmful". NaN: there is none. */
double result_metric(const Json *result, const char *path);
/* Its kind: "kind", or "capability" for the results of `dikast eval`; NULL: not an evaluation result. */
const char *result_kind(const Json *result);

#endif
