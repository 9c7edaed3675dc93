/* dikast rate: replies rated 1 to 5, by people or a judge. */
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "base/cell.h"
#include "app/judging.h"

static const Flag flags[] = {JUDGE_FLAGS("--rubric", "what the digits mean, instead of our own wording"),
                             REPLIES_FLAGS,
                             RESULT_FLAGS,
                             MODEL_FLAGS,
                             {0}};

static void table(Str *out, const Json *r) {
    const Json *systems = json_get(r, "systems");
    for (int i = 0; i < json_len(systems); i++) {
        const Json *s = json_at(systems, i), *bin = json_get(s, "histogram");
        str_cell(out, json_str(json_get(s, "system"), NULL), 32, INT_MAX);
        str_putc(out, ' ');
        put_estimate(out, json_get(s, "rating"), 1);
        str_put(out, "  4 and more: ");
        put_estimate(out, json_get(s, "share_4"), 100);
        str_put(out, " %  (");
        for (int k = 0; k < 5; k++) str_printf(out, "%s%" PRId64, k ? " " : "", json_int(json_at(bin, k), 0));
        str_put(out, ")\n");
    }
    put_agreement(out, r);
}

static bool ask(Judging *g, Error *err) {
    double *score;
    int64_t unjudged = 0;
    const char *rubric = args_flag(g->a, g->c, "--rubric");
    if (!judging_rater(&score, g, err) || !score) return err->code == ERR_NONE;
    bool ok = g->remote ? judge_ratings_remote(score, &g->items, rubric, g->remote, &unjudged, err)
                        : judge_ratings(score, &g->items, rubric, g->model.engine, &g->model.chat,
                                        g->model.model.cfg.max_seq, &unjudged, err);
    if (ok && unjudged)
        log_warn(
            g->a->log,
            "%" PRId64
            " of %d replies could not be rated: too long for the judge, it declined, or it gave no digit from 1 to 5",
            unjudged, g->items.n);
    return ok;
}

static bool run(const Args *a, Error *err) {
    Judging g;
    Str text = {0};
    JsonOut j;
    const char *sheet = args_flag(a, &command_rate, "--export");
    bool ok = judging_open(&g, false, a, &command_rate, err);
    if (ok && sheet) {
        ok = sheet_write(&g.items, sheet, err);
        if (ok) log_info(a->log, "%s: %d replies to rate, in the order of seed %" PRIu64, sheet, g.items.n, g.seed);
        judging_close(&g);
        return ok;
    }
    ok = ok && ask(&g, err) && judging_keep(&g, err);
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    if (ok) rating_json(&j, &g.items, &g.raters, g.judge);
    json_out_obj_end(&j);
    judging_close(&g);
    return result_end(ok, &text, "rating", table, a, &command_rate, err);
}

const Command command_rate = {
    .name = "rate",
    .usage = "rate REPLIES... (--judge DIR | --export FILE | --sheets FILES | judge.kind=remote ..) [flags]",
    .help = "replies rated 1 to 5 for helpfulness, by people or by a judge\n\n"
            "REPLIES: a file per system, rows as for 'dikast compare'. People: --export writes a blind sheet, shuffled "
            "by the\n"
            "seed; filled, it comes back with --sheets, the same replies and the same --seed. A judge rates by the "
            "probabilities\n"
            "of the five digits. Several raters: mean of people, agreement by quadratic weighted kappa.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = ANSWERS_MAX,
    .takes_set = true,
    .says_error = true,
    .run = run};
