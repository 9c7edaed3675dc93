/* dikast rank: systems ranked by comparisons in pairs. */
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cell.h"
#include "app/judging.h"

static const Flag flags[] = {
    {"--games", "FILE", "no replies: rows {a, b, outcome, prompt_id?, length_a?, length_b?}, made elsewhere"},
    {"--anchor", "SYSTEM", "whose rating is 1000 (default: the first)"},
    {"--draws", "N", "resamples of prompts for intervals (default 1000)"},
    JUDGE_FLAGS("--criterion", "the question the judge is asked, instead of our own wording"),
    REPLIES_FLAGS,
    RESULT_FLAGS,
    MODEL_FLAGS,
    {0}};

static void table(Str *out, const Json *r) {
    const Json *systems = json_get(r, "systems"), *pairs = json_get(r, "pairs"), *judge = json_get(r, "judge");
    str_printf(out, "%-32s %-24s %-24s %s\n", "system", "Elo", "at equal length", "wins, ties, losses");
    for (int i = 0; i < json_len(systems); i++) {
        static const char *const rating[] = {"elo", "elo_length"};
        const Json *s = json_at(systems, i);
        str_cell(out, json_str(json_get(s, "system"), NULL), 32, INT_MAX);
        str_putc(out, ' ');
        for (int k = 0; k < 2; k++) {
            const Json *e = json_get(s, rating[k]);
            Str cell = {0};
            if (e)
                str_printf(&cell, "%.0f [%.0f, %.0f]", json_num(json_get(e, "value"), NAN),
                           json_num(json_get(e, "lo"), NAN), json_num(json_get(e, "hi"), NAN));
            str_printf(out, "%-24s ", e ? str_get(&cell) : "-");
            str_release(&cell);
        }
        str_printf(out, "%" PRId64 ", %" PRId64 ", %" PRId64 "\n", json_int(json_get(s, "wins"), 0),
                   json_int(json_get(s, "ties"), 0), json_int(json_get(s, "losses"), 0));
    }
    for (int i = 0; i < json_len(pairs); i++) {
        const Json *p = json_at(pairs, i);
        str_printf(out, "%s against %s wins ", json_str(json_get(p, "b"), NULL), json_str(json_get(p, "a"), NULL));
        put_estimate(out, json_get(p, "win_b"), 100);
        str_put(out, " %\n");
    }
    if (json_bool(json_get(r, "ridge"), false))
        str_put(out, "a system won or lost everything: half a virtual tie against the anchor was added for each\n");
    put_agreement(out, r);
    if (!judge) return;
    str_put(out, "judge: its orders differ on ");
    put_estimate(out, json_get(judge, "orders_differ"), 100);
    str_printf(out, " %% of decided pairs; first shown chosen %.1f %%; correlation with length %.2f\n",
               100 * json_num(json_get(judge, "first_slot"), NAN), json_num(json_get(judge, "length_corr"), NAN));
}

static bool ask(Judging *g, JudgeReport *report, Error *err) {
    double *score;
    if (!judging_rater(&score, g, err) || !score) return err->code == ERR_NONE;
    const Judge judge = {
        g->model.engine, &g->model.chat, g->remote ? 0 : g->model.model.cfg.max_seq, g->remote, 0, 0, 0, NULL};
    report->name = g->judge;
    return judge_choices(score, &g->items, args_flag(g->a, g->c, "--criterion"), &judge, report, err);
}

static bool find_anchor(int *at, const Games *g, const char *name, Error *err) {
    Str list = {0};
    *at = 0;
    for (int k = 0; name && k < g->n_system; k++) {
        str_printf(&list, "%s%s", k ? ", " : "", g->system[k]);
        if (!strcmp(g->system[k], name)) {
            *at = k;
            name = NULL;
        }
    }
    bool ok = !name || error_set(err, ERR_CONFIG, "--anchor: no system '%s' among %.150s", name, str_get(&list));
    str_release(&list);
    return ok;
}

static bool rank(Str *text, const Games *games, Judging *g, const JudgeReport *report, uint64_t seed, const Args *a,
                 Error *err) {
    int64_t draws, threads;
    int anchor;
    Pool *pool = NULL;
    JsonOut j;
    if (!args_int(a, &command_rank, "--draws", 1000, 0, 1000000, &draws, err) ||
        !args_int(a, &command_rank, "--threads", 0, 0, 1024, &threads, err) ||
        !find_anchor(&anchor, games, args_flag(a, &command_rank, "--anchor"), err) ||
        !pool_open(&pool, (int)threads, err))
        return false;
    json_out_init(&j, text, 0);
    json_out_obj(&j, NULL);
    bool ok = ranking_json(&j, games, anchor, (int)draws, seed, pool, g ? &g->items : NULL, g ? &g->raters : NULL,
                           report->name ? report : NULL, err);
    json_out_obj_end(&j);
    pool_close(pool);
    return ok;
}

static bool rank_games(Str *text, const char *file, const Args *a, Error *err) {
    Games games;
    int64_t seed;
    if (a->n_arg) return error_set(err, ERR_CONFIG, "either files of replies or --games, found '%s' too", a->arg[0]);
    if (!args_int(a, &command_rank, "--seed", 0, 0, INT64_MAX, &seed, err) || !games_read(&games, file, err))
        return false;
    bool ok = rank(text, &games, NULL, &(JudgeReport){0}, (uint64_t)seed, a, err);
    games_release(&games);
    return ok;
}

static bool rank_replies(Str *text, Judging *g, const Args *a, Error *err) {
    JudgeReport report = {0};
    Games games;
    if (!ask(g, &report, err) || !judging_keep(g, err)) return false;
    games_of(&games, &g->items, &g->raters);
    bool ok = games.n > 0 || error_set(err, ERR_FORMAT, "nobody judged a pair");
    ok = ok && rank(text, &games, g, &report, g->seed, a, err);
    games_release(&games);
    return ok;
}

static bool run(const Args *a, Error *err) {
    Judging g = {0};
    Str text = {0};
    const char *sheet = args_flag(a, &command_rank, "--export"), *games = args_flag(a, &command_rank, "--games");
    bool ok = games ? rank_games(&text, games, a, err) : judging_open(&g, true, a, &command_rank, err);
    if (!games && ok && sheet) {
        ok = sheet_write(&g.items, sheet, err);
        if (ok) log_info(a->log, "%s: %d pairs to judge, in the order of seed %" PRIu64, sheet, g.items.n, g.seed);
        judging_close(&g);
        return ok;
    }
    if (!games) ok = ok && rank_replies(&text, &g, a, err);
    judging_close(&g);
    return result_end(ok, &text, "ranking", table, a, &command_rank, err);
}

const Command command_rank = {
    .name = "rank",
    .usage = "rank REPLIES REPLIES... (--judge DIR | --export FILE | --sheets FILES | judge.kind=remote ..) [flags]",
    .help =
        "systems ranked by comparisons of their replies in pairs\n\n"
        "REPLIES: a file per system, rows as for 'dikast compare'; or --games FILE. A judge sees every pair in both "
        "orders;\n"
        "people fill a blind sheet (--export, then --sheets with the same replies and --seed). Ratings: Bradley-Terry "
        "on\n"
        "Elo's scale, intervals by resampling prompts; the same at equal length, by a logistic model with the length\n"
        "difference. Agreement of raters by kappa.",
    .flag = flags,
    .min_arg = 0,
    .max_arg = ANSWERS_MAX,
    .takes_set = true,
    .says_error = true,
    .run = run};
