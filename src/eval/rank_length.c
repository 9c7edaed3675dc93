/* Bradley-Terry with one more term, the length difference of a game's replies (eval/rank.h). Games are not merged by
 * pair as in rank.c, since each has its own length; the parameters are the models' abilities but the anchor's, then
 * phi. */
#include "eval/rank_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 100 };
static const double enough = 1e-11, prior_sd = 5;

typedef struct {
    const Game *game;
    const double *x; /* tanh(longer / sd) of each */
    const int64_t *index, *begin;
    int64_t n; /* of index, or of game when index is NULL */
    int n_model, anchor;
    bool ridge, prior; /* virtual ties; phi's prior */
} Fit;

static void add_term(double *g, double *h, int n, const int at[3], const double slope[3], double r, double v) {
    for (int i = 0; i < 3; i++) {
        if (at[i] < 0) continue;
        g[at[i]] += r * slope[i];
        for (int j = 0; j < 3; j++)
            if (at[j] >= 0) h[at[i] * n + at[j]] += v * slope[i] * slope[j];
    }
}

/* o log s(d) + (1 - o) log s(-d), without overflow. */
static double log_likelihood(double o, double d) {
    return -o * (d > 0 ? log1p(exp(-d)) : log1p(exp(d)) - d) - (1 - o) * (d > 0 ? d + log1p(exp(-d)) : log1p(exp(d)));
}

/* theta: abilities in the order of the models without the anchor, then phi. */
static double one_game(double *g, double *h, const Fit *f, const Game *game, double x, const double *theta) {
    int n = f->n_model;
    if (game->a == game->b || game->weight == 0) return 0;
    const int at[3] = {game->a == f->anchor ? -1 : game->a - (game->a > f->anchor),
                       game->b == f->anchor ? -1 : game->b - (game->b > f->anchor), n - 1};
    const double slope[3] = {1, -1, x};
    double d = 0;
    for (int i = 0; i < 3; i++)
        if (at[i] >= 0) d += slope[i] * theta[at[i]];
    double win = 1 / (1 + exp(-d)), w = game->weight;
    add_term(g, h, n, at, slope, w * (game->outcome - win), w * win * (1 - win));
    return w * log_likelihood(game->outcome, d);
}

static double gradient(double *g, double *h, const Fit *f, const double *theta) {
    int n = f->n_model;
    double ll = 0;
    memset(g, 0, (size_t)n * sizeof *g);
    memset(h, 0, (size_t)n * (size_t)n * sizeof *h);
    for (int64_t k = 0; k < f->n; k++) {
        int64_t from = f->index ? f->begin[f->index[k]] : k, to = f->index ? f->begin[f->index[k] + 1] : k + 1;
        for (int64_t i = from; i < to; i++) ll += one_game(g, h, f, &f->game[i], f->x[i], theta);
    }
    for (int m = 0; m < n && f->ridge; m++)
        if (m != f->anchor) ll += one_game(g, h, f, &(Game){m, f->anchor, 0.5, 0.5}, 0, theta);
    if (f->prior) {
        double precision = 1 / (prior_sd * prior_sd), phi = theta[n - 1];
        g[n - 1] -= precision * phi;
        h[n * n - 1] += precision;
        ll -= precision * phi * phi / 2;
    }
    return ll;
}

static bool maximise(double *theta, const Fit *f) {
    size_t n = (size_t)f->n_model;
    double *g = mem_alloc(n * sizeof *g), *h = mem_alloc(n * n * sizeof *h), *to = mem_alloc(n * sizeof *to),
           *step = mem_alloc(n * sizeof *step);
    bool ok = true, done = false;
    memset(theta, 0, n * sizeof *theta);
    for (int s = 0; s < STEPS && ok && !done; s++) {
        double ll = gradient(g, h, f, theta), largest = 0, part = 1;
        memcpy(step, g, n * sizeof *step);
        ok = rank_solve(h, step, (int)n);
        for (int half = 0; ok && half < 40; half++, part /= 2) {
            for (size_t m = 0; m < n; m++) to[m] = theta[m] + part * step[m];
            if (gradient(g, h, f, to) >= ll - 1e-12 * fabs(ll)) break;
        }
        for (size_t m = 0; ok && m < n; m++) {
            largest = fmax(largest, fabs(to[m] - theta[m]));
            theta[m] = to[m];
            ok = fabs(theta[m]) < 30; /* on its way to infinity */
        }
        done = largest < enough;
    }
    free(g);
    free(h);
    free(to);
    free(step);
    return ok && done;
}

/* rating (n_model), then phi. */
static bool fit(double *rating, double *phi, Fit *f) {
    double *theta = mem_alloc((size_t)(f->n_model + 1) * sizeof *theta);
    bool ok = maximise(theta, f);
    if (!ok) {
        f->ridge = f->prior = true;
        ok = maximise(theta, f);
    }
    for (int m = 0; m < f->n_model; m++) rating[m] = rank_points(m == f->anchor ? 0 : theta[m - (m > f->anchor)]);
    *phi = theta[f->n_model - 1];
    free(theta);
    return ok;
}

/* Of the differences, each seen from both sides, so that their mean is 0. Games of a model with itself do not count. */
static double spread(const Game *game, const double *longer, int64_t n) {
    double squares = 0;
    int64_t k = 0;
    for (int64_t i = 0; i < n; i++)
        if (game[i].a != game[i].b) squares += longer[i] * longer[i], k++;
    return k ? sqrt(squares / (double)k) : 0;
}

static double *terms(double *sd, const Game *game, const double *longer, int64_t n) {
    double *x = mem_alloc((size_t)(n + 1) * sizeof *x);
    *sd = spread(game, longer, n);
    for (int64_t i = 0; i < n; i++) x[i] = *sd > 0 ? tanh(longer[i] / *sd) : 0;
    return x;
}

bool rank_length(double *rating, LengthEffect *effect, const Game *game, const double *longer, int64_t n, int n_model,
                 int anchor, Error *err) {
    CHECK(n_model > 0 && anchor >= 0 && anchor < n_model, "anchor %d of %d models", anchor, n_model);
    if (!rank_check_games(game, n, n_model, err)) return false;
    *effect = (LengthEffect){0};
    double *x = terms(&effect->sd, game, longer, n);
    Fit f = {.game = game, .x = x, .n = n, .n_model = n_model, .anchor = anchor, .prior = effect->sd == 0};
    bool ok = fit(rating, &effect->phi, &f);
    effect->ridge = f.ridge;
    free(x);
    return ok || error_set(err, ERR_DIVERGED, "the length-controlled ratings of %d models do not converge", n_model);
}

typedef struct {
    Fit fit;
    int64_t n_prompt;
    Rng rng;
    double *draw; /* (n_draw, n_model + 1) */
} Draws;

static void draw_tile(void *ud, int64_t d, int thread) {
    const Draws *w = ud;
    (void)thread;
    int64_t *index = mem_alloc((size_t)(w->n_prompt + 1) * sizeof *index);
    for (int64_t k = 0; k < w->n_prompt; k++)
        index[k] = rng_below(w->rng, (uint64_t)d, (uint32_t)k, (uint32_t)w->n_prompt);
    Fit f = w->fit;
    f.index = index;
    f.n = w->n_prompt;
    int n = f.n_model + 1;
    double *to = w->draw + d * n;
    if (!fit(to, &to[n - 1], &f))
        for (int m = 0; m < n; m++) to[m] = NAN;
    free(index);
}

bool rank_length_intervals(Interval *rating, const Game *game, const double *longer, const int32_t *prompt, int64_t n,
                           int n_model, int anchor, int n_draw, Rng rng, Pool *pool, Error *err) {
    double *middle = mem_alloc((size_t)n_model * sizeof *middle), sd;
    LengthEffect effect;
    bool ok = rank_length(middle, &effect, game, longer, n, n_model, anchor, err);
    int64_t *begin = mem_alloc((size_t)(n + 2) * sizeof *begin);
    double *x = terms(&sd, game, longer, n);
    Draws w = {.fit = {.game = game, .x = x, .begin = begin, .n_model = n_model, .anchor = anchor, .prior = sd == 0},
               .rng = rng};
    w.n_prompt = rank_prompts(begin, prompt, n);
    w.draw = mem_alloc((size_t)(n_draw + 1) * (size_t)(n_model + 1) * sizeof *w.draw);
    for (int64_t d = 0; ok && !pool && d < n_draw; d++) draw_tile(&w, d, 0);
    if (ok && pool) pool_for(pool, n_draw, draw_tile, &w);
    for (int m = 0; ok && m <= n_model; m++)
        rating[m] = (Interval){.mean = m < n_model ? middle[m] : effect.phi, .n = w.n_prompt};
    if (ok) rank_percentiles(rating, w.draw, n_draw, n_model + 1);
    free(w.draw);
    free(begin);
    free(middle);
    free(x);
    return ok;
}
