#include "eval/rank_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 200 };
static const double scale = 400, at = 1000, enough = 1e-12;

/* -- Bradley-Terry --------------------------------------------------------------------------------------------------
 */

bool rank_solve(double *h, double *g, int n) {
    for (int k = 0; k < n; k++) {
        double d = h[k * n + k];
        for (int j = 0; j < k; j++) d -= h[k * n + j] * h[k * n + j];
        if (!(d > 1e-14)) return false;
        h[k * n + k] = sqrt(d);
        for (int i = k + 1; i < n; i++) {
            double s = h[i * n + k];
            for (int j = 0; j < k; j++) s -= h[i * n + j] * h[k * n + j];
            h[i * n + k] = s / h[k * n + k];
        }
    }
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < i; j++) g[i] -= h[i * n + j] * g[j];
        g[i] /= h[i * n + i];
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int j = i + 1; j < n; j++) g[i] -= h[j * n + i] * g[j];
        g[i] /= h[i * n + i];
    }
    return true;
}

/* One pair's games: the likelihood needs no more. */
typedef struct {
    double won, weight; /* by the first of the pair; of all */
} Pairing;

static void add_games(Pairing *p, const Game *game, int64_t n, int n_model) {
    for (int64_t i = 0; i < n; i++) {
        const Game *g = &game[i];
        int a = g->a, b = g->b;
        double o = g->outcome;
        if (a == b) continue;
        if (a > b) a = g->b, b = g->a, o = 1 - o;
        p[a * n_model + b].won += g->weight * o;
        p[a * n_model + b].weight += g->weight;
    }
}

static double gradient(double *g, double *h, const Pairing *p, const double *t, int n_model, int anchor) {
    int n = n_model - 1;
    double ll = 0;
    memset(g, 0, (size_t)n * sizeof *g);
    memset(h, 0, (size_t)n * (size_t)n * sizeof *h);
    for (int a = 0; a < n_model; a++)
        for (int b = a + 1; b < n_model; b++) {
            const Pairing *q = &p[a * n_model + b];
            if (q->weight == 0) continue;
            double d = t[a] - t[b], win = 1 / (1 + exp(-d)), v = q->weight * win * (1 - win);
            double slope = q->won - q->weight * win;
            ll -= q->won * log1p(exp(-d)) + (q->weight - q->won) * log1p(exp(d));
            int i = a - (a > anchor), j = b - (b > anchor);
            if (a != anchor) g[i] += slope, h[i * n + i] += v;
            if (b != anchor) g[j] -= slope, h[j * n + j] += v;
            if (a != anchor && b != anchor) h[i * n + j] -= v, h[j * n + i] -= v;
        }
    return ll;
}

/* Newton; a step that lowers the likelihood is halved. False when the maximum is at infinity or not unique. */
static bool maximise(double *t, const Pairing *p, int n_model, int anchor) {
    int n = n_model - 1;
    size_t size = (size_t)(n > 0 ? n : 1);
    double *g = mem_alloc(size * sizeof *g), *h = mem_alloc(size * size * sizeof *h),
           *to = mem_alloc((size_t)n_model * sizeof *to);
    double *step = mem_alloc(size * sizeof *step);
    memset(t, 0, (size_t)n_model * sizeof *t);
    bool done = n == 0, ok = true;
    for (int s = 0; s < STEPS && ok && !done; s++) {
        double ll = gradient(g, h, p, t, n_model, anchor), largest = 0, part = 1;
        memcpy(step, g, (size_t)n * sizeof *step);
        ok = rank_solve(h, step, n);
        for (int half = 0; ok && half < 40; half++, part /= 2) {
            for (int m = 0; m < n_model; m++) to[m] = m == anchor ? 0 : t[m] + part * step[m - (m > anchor)];
            if (gradient(g, h, p, to, n_model, anchor) >= ll - 1e-12 * fabs(ll)) break;
        }
        for (int m = 0; ok && m < n_model; m++) {
            double d = fabs(to[m] - t[m]);
            if (d > largest) largest = d;
            t[m] = to[m];
            ok = fabs(t[m]) < 30; /* 5200 points from the anchor: it is on its way to infinity */
        }
        done = largest < enough;
    }
    free(g);
    free(h);
    free(to);
    free(step);
    return ok && done;
}

double rank_points(double t) { return at + scale * t / log(10); }

static bool ratings(double *rating, const Pairing *given, int n_model, int anchor, bool *ridge) {
    size_t n = (size_t)n_model * (size_t)n_model;
    Pairing *p = mem_alloc((n + 1) * sizeof *p);
    memcpy(p, given, n * sizeof *p);
    *ridge = !maximise(rating, p, n_model, anchor);
    if (*ridge) {
        for (int m = 0; m < n_model; m++) {
            int a = m < anchor ? m : anchor, b = m < anchor ? anchor : m;
            if (m == anchor) continue;
            p[a * n_model + b].won += 0.25;
            p[a * n_model + b].weight += 0.5;
        }
    }
    bool ok = !*ridge || maximise(rating, p, n_model, anchor);
    for (int m = 0; m < n_model; m++) rating[m] = rank_points(rating[m]);
    free(p);
    return ok;
}

bool rank_check_games(const Game *game, int64_t n, int n_model, Error *err) {
    for (int64_t i = 0; i < n; i++) {
        const Game *g = &game[i];
        if (g->a < 0 || g->a >= n_model || g->b < 0 || g->b >= n_model)
            return error_set(err, ERR_FORMAT, "game %lld is between models %d and %d, expected 0..%d", (long long)i,
                             g->a, g->b, n_model - 1);
        if (!(g->outcome >= 0 && g->outcome <= 1) || !(g->weight >= 0 && isfinite(g->weight)))
            return error_set(err, ERR_FORMAT, "game %lld has outcome %g and weight %g, expected 0..1 and at least 0",
                             (long long)i, g->outcome, g->weight);
    }
    return true;
}

bool rank_bradley_terry(double *rating, bool *ridge, const Game *game, int64_t n, int n_model, int anchor, Error *err) {
    CHECK(n_model > 0 && anchor >= 0 && anchor < n_model, "anchor %d of %d models", anchor, n_model);
    if (!rank_check_games(game, n, n_model, err)) return false;
    Pairing *p = mem_alloc((size_t)n_model * (size_t)n_model * sizeof *p);
    add_games(p, game, n, n_model);
    bool ok = ratings(rating, p, n_model, anchor, ridge);
    free(p);
    return ok || error_set(err, ERR_DIVERGED, "the ratings of %d models do not converge", n_model);
}

/* -- intervals ------------------------------------------------------------------------------------------------------
 */

typedef struct {
    const Game *game;
    const int64_t *begin; /* (n_prompt + 1) */
    int64_t n_prompt;
    int n_model, anchor;
    Rng rng;
    double *draw; /* (n_draw, n_model); NaN: that draw has no ratings */
} Draws;

static void draw_tile(void *ud, int64_t d, int thread) {
    const Draws *w = ud;
    (void)thread;
    size_t n = (size_t)w->n_model * (size_t)w->n_model;
    Pairing *p = mem_alloc(n * sizeof *p);
    for (int64_t k = 0; k < w->n_prompt; k++) {
        uint32_t i = rng_below(w->rng, (uint64_t)d, (uint32_t)k, (uint32_t)w->n_prompt);
        add_games(p, w->game + w->begin[i], w->begin[i + 1] - w->begin[i], w->n_model);
    }
    bool ridge;
    double *to = w->draw + d * w->n_model;
    if (!ratings(to, p, w->n_model, w->anchor, &ridge))
        for (int m = 0; m < w->n_model; m++) to[m] = NAN;
    free(p);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void rank_percentiles(Interval *out, const double *draw, int n_draw, int n_column) {
    double *column = mem_alloc((size_t)(n_draw + 1) * sizeof *column);
    for (int m = 0; m < n_column; m++) {
        int n = 0;
        for (int d = 0; d < n_draw; d++)
            if (!isnan(draw[d * n_column + m])) column[n++] = draw[d * n_column + m];
        qsort(column, (size_t)n, sizeof *column, ascending);
        out[m].lo = n ? column[n * 25 / 1000] : NAN;
        out[m].hi = n ? column[n - 1 - n * 25 / 1000] : NAN;
    }
    free(column);
}

int64_t rank_prompts(int64_t *begin, const int32_t *prompt, int64_t n) {
    int64_t n_prompt = 0;
    for (int64_t i = 0; i < n; i++)
        if (i == 0 || prompt[i] != prompt[i - 1]) begin[n_prompt++] = i;
    begin[n_prompt] = n;
    return n_prompt;
}

bool rank_intervals(Interval *rating, const Game *game, const int32_t *prompt, int64_t n, int n_model, int anchor,
                    int n_draw, Rng rng, Pool *pool, Error *err) {
    double *middle = mem_alloc((size_t)n_model * sizeof *middle);
    bool ridge, ok = rank_bradley_terry(middle, &ridge, game, n, n_model, anchor, err);
    int64_t *begin = mem_alloc((size_t)(n + 2) * sizeof *begin), n_prompt = rank_prompts(begin, prompt, n);
    Draws w = {game, begin, n_prompt, n_model, anchor, rng, NULL};
    w.draw = mem_alloc((size_t)(n_draw + 1) * (size_t)n_model * sizeof *w.draw);
    for (int64_t d = 0; ok && !pool && d < n_draw; d++) draw_tile(&w, d, 0);
    if (ok && pool) pool_for(pool, n_draw, draw_tile, &w);
    for (int m = 0; ok && m < n_model; m++) rating[m] = (Interval){.mean = middle[m], .n = n_prompt};
    if (ok) rank_percentiles(rating, w.draw, n_draw, n_model);
    free(w.draw);
    free(begin);
    free(middle);
    return ok;
}

void rank_elo(double *rating, const Game *game, int64_t n, int n_model, double k, double start) {
    for (int m = 0; m < n_model; m++) rating[m] = start;
    for (int64_t i = 0; i < n; i++) {
        const Game *g = &game[i];
        double expected = 1 / (1 + pow(10, (rating[g->b] - rating[g->a]) / scale)), d = k * (g->outcome - expected);
        rating[g->a] += d;
        rating[g->b] -= d;
    }
}
