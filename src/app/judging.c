#include "app/judging.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/conf.h"

static bool read_sheets(Judging *g, Error *err) {
    const char *list = args_flag(g->a, g->c, "--sheets");
    bool ok = true;
    for (const char *s = list; s && *s && ok;) {
        size_t n = strcspn(s, ",");
        Str path = {0};
        str_putn(&path, s, n);
        ok = raters_read(&g->raters, &g->items, str_get(&path), err);
        str_release(&path);
        s += n + (s[n] == ',');
    }
    return ok;
}

static bool open_remote(Judging *g, Error *err) {
    g->has_cfg = conf_load(&g->cfg, NULL, g->a->set, g->a->n_set, err);
    if (!g->has_cfg) return false;
    if (g->cfg.judge.kind != JUDGE_REMOTE)
        return error_set(err, ERR_CONFIG, "key=value arguments set up a service as judge: they need judge.kind=remote");
    g->ctx = (StageCtx){.cfg = &g->cfg, .log = g->a->log, .seed = g->seed, .output = "."};
    g->judge = g->cfg.judge.model;
    return remote_judge_open(&g->remote, &g->ctx, err);
}

static bool open_own(Judging *g, const char *dir, Error *err) {
    Args with = *g->a;
    with.arg[0] = dir;
    if (!open_model(&g->model, &with, g->c, err)) return false;
    g->open = true;
    g->judge = dir;
    if (!open_model_need(&g->model, HEAD_LM, err)) return false;
    if (g->model.has_chat) return true;
    *err = g->model.no_chat;
    return error_wrap(err, "%s: no dialogue with this model", dir);
}

static bool need_someone(const Judging *g, Error *err) {
    const Args *a = g->a;
    bool any =
        args_flag(a, g->c, "--export") || args_flag(a, g->c, "--judge") || args_flag(a, g->c, "--sheets") || a->n_set;
    return any ||
           error_set(err, ERR_CONFIG,
                     "nobody is asked: --judge DIR for a model, --export FILE and then --sheets FILE for people, or "
                     "judge.kind=remote judge.remote.url=.. for a service");
}

bool judging_open(Judging *g, bool pairs, const Args *a, const Command *c, Error *err) {
    *g = (Judging){.a = a, .c = c};
    const char *dir = args_flag(a, c, "--judge");
    bool all = args_flag(a, c, "--all") != NULL;
    if (!need_someone(g, err)) return false;
    if (dir && a->n_set) return error_set(err, ERR_CONFIG, "either --judge or a service (key=value), not both");
    if (!replies_open(g->set, a->arg, a->n_arg, a, c, &g->seed, err)) return false;
    g->n_set = a->n_arg;
    if (pairs) {
        if (!items_pair(&g->items, g->set, g->n_set, g->seed, all, err)) return false;
    } else
        items_rate(&g->items, g->set, g->n_set, g->seed, all);
    if (g->items.n == 0)
        return error_set(err, ERR_FORMAT,
                         "every reply answers a request that should be declined; --all takes those too");
    if (args_flag(a, c, "--export")) return true;
    return read_sheets(g, err) && (!dir || open_own(g, dir, err)) && (!a->n_set || open_remote(g, err));
}

bool judging_rater(double **score, Judging *g, Error *err) {
    *score = NULL;
    if (!g->judge) return true;
    *score = raters_add(&g->raters, &g->items, g->judge, true, err);
    return *score != NULL;
}

bool judging_keep(Judging *g, Error *err) {
    const char *rows = args_flag(g->a, g->c, "--rows");
    return !rows || raters_write(&g->raters, &g->items, rows, err);
}

void judging_close(Judging *g) {
    remote_judge_close(g->remote);
    if (g->has_cfg) run_config_release(&g->cfg);
    if (g->open) open_model_close(&g->model);
    raters_release(&g->raters);
    items_release(&g->items);
    for (int i = 0; i < g->n_set; i++) answers_release(&g->set[i]);
}

void put_agreement(Str *out, const Json *r) {
    const Json *agreement = json_get(r, "agreement");
    for (int i = 0; i < json_len(agreement); i++) {
        const Json *p = json_at(agreement, i);
        str_printf(out, "%s and %s: ", json_str(json_get(p, "a"), NULL), json_str(json_get(p, "b"), NULL));
        int64_t n = json_int(json_get(p, "n"), 0);
        double kappa = json_num(json_get(p, "kappa"), NAN);
        str_printf(out, "%" PRId64 " items in common, equal on ", n);
        put_estimate(out, json_get(p, "exact"), 100);
        str_put(out, isnan(kappa) ? " %, kappa n/a" : " %, kappa ");
        if (!isnan(kappa)) str_printf(out, "%.3f", kappa);
        str_put(out, json_bool(json_get(p, "few"), false) ? " (too few to say)\n" : "\n");
    }
}
