/* Models ranked by games. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/eval_results.h"
#include "eval/detect.h"

/* -- games -----------------------------------------------------------------------------------------------------------
 */

typedef struct {
    Games *g;
    char **prompt; /* of each game; NULL: none given, a prompt of its own */
    int cap;
} Reading;

static void grow(Reading *r) {
    Games *g = r->g;
    if (g->n < r->cap) return;
    r->cap = r->cap ? 2 * r->cap : 256;
    size_t n = (size_t)r->cap;
    g->game = mem_grow(g->game, n * sizeof *g->game);
    g->longer = mem_grow(g->longer, n * sizeof *g->longer);
    g->prompt = mem_grow(g->prompt, n * sizeof *g->prompt);
    r->prompt = mem_grow(r->prompt, n * sizeof *r->prompt);
}

static int system_at(Games *g, const char *name) {
    int k = 0;
    while (k < g->n_system && strcmp(g->system[k], name)) k++;
    if (k == g->n_system) {
        g->system = mem_grow(g->system, (size_t)(k + 1) * sizeof *g->system);
        g->system[g->n_system++] = mem_str(name);
    }
    return k;
}

static bool read_outcome(double *out, const Json *v, Error *err) {
    const char *word = json_str(v, NULL);
    *out = !word                  ? json_num(v, NAN)
           : !strcmp(word, "a")   ? 1
           : !strcmp(word, "b")   ? 0
           : !strcmp(word, "tie") ? 0.5
                                  : NAN;
    char *end;
    if (word && isnan(*out) && *word) *out = strtod(word, &end), *out = *end ? NAN : *out;
    return (*out >= 0 && *out <= 1) ||
           error_set(err, ERR_FORMAT, "expected 'outcome' 1 (a is better), 0, 0.5, or \"a\", \"b\", \"tie\"");
}

static bool read_game(void *ud, const Json *row, Error *err) {
    Reading *r = ud;
    const char *a, *b, *prompt = json_str(json_get(row, "prompt_id"), NULL);
    double outcome;
    if (!json_need_str(row, "a", &a, NULL, err) || !json_need_str(row, "b", &b, NULL, err) ||
        !read_outcome(&outcome, json_get(row, "outcome"), err))
        return false;
    grow(r);
    Games *g = r->g;
    int ia = system_at(g, a), ib = system_at(g, b);
    g->game[g->n] = (Game){ia, ib, outcome, 1};
    g->longer[g->n] = json_num(json_get(row, "length_a"), NAN) - json_num(json_get(row, "length_b"), NAN);
    r->prompt[g->n++] = mem_str(prompt);
    return true;
}

typedef struct {
    const char *prompt;
    int at;
} Named;
static int by_name(const void *x, const void *y) {
    const Named *a = x, *b = y;
    int c = a->prompt && b->prompt ? strcmp(a->prompt, b->prompt) : (a->prompt != NULL) - (b->prompt != NULL);
    return c ? c : a->at - b->at;
}

/* Games of one prompt side by side. */
static void sort_games(Games *g, char **prompt) {
    Named *name = mem_alloc((size_t)(g->n + 1) * sizeof *name);
    Game *game = mem_alloc((size_t)(g->n + 1) * sizeof *game);
    double *longer = mem_alloc((size_t)(g->n + 1) * sizeof *longer);
    int32_t number = -1;
    for (int i = 0; i < g->n; i++) name[i] = (Named){prompt[i], i};
    qsort(name, (size_t)g->n, sizeof *name, by_name);
    for (int i = 0; i < g->n; i++) {
        bool same = i > 0 && name[i].prompt && name[i - 1].prompt && !strcmp(name[i].prompt, name[i - 1].prompt);
        number += !same;
        game[i] = g->game[name[i].at];
        longer[i] = g->longer[name[i].at];
        g->prompt[i] = number;
    }
    free(g->game);
    free(g->longer);
    free(name);
    g->game = game;
    g->longer = longer;
}

bool games_read(Games *g, const char *path, Error *err) {
    *g = (Games){0};
    Reading r = {.g = g};
    bool ok = source_each(path, read_game, &r, err);
    if (ok && g->n == 0) ok = error_set(err, ERR_FORMAT, "%s: no games", path);
    if (ok) sort_games(g, r.prompt);
    for (int i = 0; i < g->n; i++) free(r.prompt[i]);
    free(r.prompt);
    if (!ok) games_release(g);
    return ok;
}

/* One game per item that anybody judged, by the mean of what was said. */
void games_of(Games *g, const Items *t, const Raters *r) {
    size_t size = (size_t)(t->n + 1);
    *g = (Games){.game = mem_alloc(size * sizeof(Game)),
                 .longer = mem_alloc(size * sizeof(double)),
                 .prompt = mem_alloc(size * sizeof(int32_t))};
    for (int s = 0; s < t->n_set; s++) system_at(g, t->set[s].system);
    for (int i = 0; i < t->n; i++) {
        const Item *it = &t->item[i];
        double v = raters_mean(r, i, true);
        if (isnan(v)) continue;
        g->game[g->n] = (Game){it->a, it->b, v, 1};
        g->longer[g->n] = answer_words(&t->set[it->a].item[it->at_a]) - answer_words(&t->set[it->b].item[it->at_b]);
        g->prompt[g->n++] = it->cluster;
    }
}

void games_release(Games *g) {
    for (int k = 0; k < g->n_system; k++) free(g->system[k]);
    free(g->system);
    free(g->game);
    free(g->longer);
    free(g->prompt);
    *g = (Games){0};
}

/* -- the result ------------------------------------------------------------------------------------------------------
 */

static void put_system(JsonOut *j, const Games *g, int s, Interval elo, const Interval *even, double online) {
    int64_t n = 0, wins = 0, ties = 0;
    for (int i = 0; i < g->n; i++) {
        const Game *x = &g->game[i];
        if (x->a == x->b || (x->a != s && x->b != s)) continue;
        double mine = x->a == s ? x->outcome : 1 - x->outcome;
        n++;
        wins += mine > 0.5;
        ties += mine == 0.5;
    }
    json_out_obj(j, NULL);
    json_out_str(j, "system", g->system[s]);
    answers_estimate(j, "elo", elo);
    if (even) answers_estimate(j, "elo_length", *even);
    json_out_num(j, "elo_online", online);
    json_out_int(j, "games", n);
    json_out_int(j, "wins", wins);
    json_out_int(j, "ties", ties);
    json_out_int(j, "losses", n - wins - ties);
    json_out_obj_end(j);
}

static void put_pair(JsonOut *j, const Games *g, int a, int b, const Interval *even, uint64_t seed) {
    double *x = mem_alloc((size_t)(g->n + 1) * sizeof *x);
    int32_t *prompt = mem_alloc((size_t)(g->n + 1) * sizeof *prompt);
    int64_t n = 0, ties = 0;
    for (int i = 0; i < g->n; i++) {
        const Game *q = &g->game[i];
        if (!((q->a == a && q->b == b) || (q->a == b && q->b == a))) continue;
        x[n] = q->b == b ? 1 - q->outcome : q->outcome;
        ties += q->outcome == 0.5;
        prompt[n++] = g->prompt[i];
    }
    if (n > 0) {
        json_out_obj(j, NULL);
        json_out_str(j, "a", g->system[a]);
        json_out_str(j, "b", g->system[b]);
        answers_estimate(j, "win_b", interval_cluster(x, prompt, n, (Rng){seed, RNG_BOOT}));
        if (even) json_out_num(j, "win_b_length", 1 / (1 + pow(10, (even[a].mean - even[b].mean) / 400)));
        json_out_int(j, "ties", ties);
        json_out_obj_end(j);
    }
    free(x);
    free(prompt);
}

static void put_judge(JsonOut *j, const JudgeReport *r) {
    json_out_obj(j, "judge");
    json_out_str(j, "name", r->name);
    json_out_str(j, "criterion", r->criterion);
    json_out_int(j, "asked", r->asked);
    json_out_int(j, "unjudged", r->unjudged);
    json_out_rate(j, "orders_differ", (double)r->orders_differ, r->decided);
    json_out_num(j, "first_slot", r->first_slot);
    json_out_num(j, "length_corr", r->length_corr);
    json_out_obj_end(j);
}

static bool lengths_known(const Games *g) {
    for (int i = 0; i < g->n; i++)
        if (isnan(g->longer[i])) return false;
    return true;
}

static void put_all(JsonOut *j, const Games *g, const Interval *elo, const Interval *even, const double *online,
                    uint64_t seed) {
    json_out_arr(j, "systems");
    for (int s = 0; s < g->n_system; s++) put_system(j, g, s, elo[s], even ? &even[s] : NULL, online[s]);
    json_out_arr_end(j);
    json_out_arr(j, "pairs");
    for (int a = 0; a < g->n_system; a++)
        for (int b = a + 1; b < g->n_system; b++) put_pair(j, g, a, b, even, seed);
    json_out_arr_end(j);
}

bool ranking_json(JsonOut *j, const Games *g, int anchor, int n_draw, uint64_t seed, Pool *pool, const Items *t,
                  const Raters *r, const JudgeReport *judge, Error *err) {
    size_t size = (size_t)(g->n_system + 1);
    Interval *elo = mem_alloc(size * sizeof *elo), *even = mem_alloc(size * sizeof *even);
    double *plain = mem_alloc(size * sizeof *plain);
    bool ridge = false, length = lengths_known(g);
    LengthEffect effect = {0};
    const Rng rng = {seed, RNG_BOOT};
    bool ok = rank_bradley_terry(plain, &ridge, g->game, g->n, g->n_system, anchor, err) &&
              rank_intervals(elo, g->game, g->prompt, g->n, g->n_system, anchor, n_draw, rng, pool, err);
    if (ok && length)
        ok = rank_length(plain, &effect, g->game, g->longer, g->n, g->n_system, anchor, err) &&
             rank_length_intervals(even, g->game, g->longer, g->prompt, g->n, g->n_system, anchor, n_draw,
                                   rng_derive(rng, "length"), pool, err);
    if (ok) {
        json_out_str(j, "kind", "ranking");
        json_out_int(j, "schema", 1);
        json_out_int(j, "seed", (int64_t)seed);
        json_out_arr(j, "inputs");
        for (int s = 0; t && s < t->n_set; s++) answers_input_json(j, &t->set[s]);
        json_out_arr_end(j);
        if (t) json_out_int(j, "harmful_left_out", t->harmful);
        json_out_str(j, "anchor", g->system[anchor]);
        json_out_int(j, "games", g->n);
        json_out_int(j, "draws", n_draw);
        json_out_bool(j, "ridge", ridge);
        rank_elo(plain, g->game, g->n, g->n_system, 4, 1000);
        put_all(j, g, elo, length ? even : NULL, plain, seed);
        if (length) {
            json_out_obj(j, "length");
            answers_estimate(j, "phi", even[g->n_system]);
            json_out_num(j, "sd", effect.sd);
            json_out_bool(j, "ridge", effect.ridge);
            json_out_obj_end(j);
        }
        if (r) raters_json(j, r, t);
        if (judge) put_judge(j, judge);
    }
    free(elo);
    free(even);
    free(plain);
    return ok;
}
