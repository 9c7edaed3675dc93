/* Order of what is written decides what a killed run may find: first the weights of a new best check, then the row of
 * that check. A row that is missing is made again, and makes the same weights; so the folder always belongs to the rows
 * that a resumed run reads, or to one that it is about to make. */
#include "train/guard.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "base/json.h"

const struct GuardShareInfo guard_share[GUARD_SHARES] = {
    {"cut", "replies that are cut at their greatest length"},
    {"top4", "replies that hold the same four words in a row"},
    {"duplicates", "replies that repeat one given to another prompt"},
    {"evasive", "replies that open with a stock refusal, without a reason or an alternative"},
    {"comfort", "replies made of stock phrases of comfort"},
    {"refused", "refusals of harmless requests"},
};

static const double LEAST_ENTROPY = 0.01; /* nats per token at the start: below it a policy was settled before */

struct Guard {
    PpoGuard *g;
    const PpoSetup *s;
    PpoConfig c; /* of the check's replies */
    PpoSetup setup;
    const char *dir;
    Log *log;
    const Stop *stop;
    Experience reference;
    GuardCheck *check;
    int n, cap;
};

/* -- the judgement */

static int best_of(const GuardCheck *c, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (c[i].score >= c[best].score || isnan(c[best].score)) best = i;
    return best;
}

/* A step down the same replies' scores took is known to no more than either check's own error. */
static bool parted(const GuardCheck *best, const GuardCheck *now) {
    return now->proxy > best->proxy && now->score < best->score - fmax(best->se, now->se);
}

static bool by_proxy(GuardVerdict *v, const GuardRule *r, const GuardCheck *c, int n) {
    int row = 0;
    while (row < n - 1 - v->best && parted(&c[v->best], &c[n - 1 - row])) row++;
    if (row < r->patience) return false;
    snprintf(
        v->cause, sizeof v->cause,
        "the preference model's score rose from %.3f to %.3f while the judge's fell from %.3f to %.3f, %d checks in a "
        "row: the policy has learnt what the preference model rewards and not what it stands for",
        c[v->best].proxy, c[n - 1].proxy, c[v->best].score, c[n - 1].score, row);
    return true;
}

static bool by_share(GuardVerdict *v, const GuardRule *r, const GuardCheck *first, const GuardCheck *now) {
    for (int k = 0; k < GUARD_SHARES; k++) {
        if (!(r->share[k] > 0) || !(now->low[k] > r->share[k]) || !(now->share[k] > 2 * first->share[k])) continue;
        snprintf(v->cause, sizeof v->cause,
                 "%.1f %% %s, %.1f %% at the start, allowed %.1f %% (rl.guard.%s): a habit that scores well has spread",
                 100 * now->share[k], guard_share[k].words, 100 * first->share[k], 100 * r->share[k],
                 guard_share[k].name);
        return true;
    }
    return false;
}

static bool by_shape(GuardVerdict *v, const GuardRule *r, const GuardCheck *first, const GuardCheck *now) {
    if (r->length > 0 && fabs(now->length / first->length - 1) > r->length) {
        snprintf(v->cause, sizeof v->cause,
                 "replies that end have %.1f tokens on average, %.1f at the start, allowed %.0f %% more or less "
                 "(rl.guard.length): "
                 "the score may pay for %s",
                 now->length, first->length, 100 * r->length,
                 now->length > first->length ? "length itself" : "saying little");
        return true;
    }
    /* A share of next to nothing would be an alarm about rounding. */
    if (r->entropy > 0 && first->entropy > LEAST_ENTROPY && now->entropy < r->entropy * first->entropy) {
        snprintf(v->cause, sizeof v->cause,
                 "the policy's entropy fell to %.3f nats per token, %.3f at the start, allowed %.0f %% of that "
                 "(rl.guard.entropy): it has settled on few replies",
                 now->entropy, first->entropy, 100 * r->entropy);
        return true;
    }
    return false;
}

GuardVerdict guard_judge(const GuardRule *r, const GuardCheck *c, int n) {
    GuardVerdict v = {.best = best_of(c, n)};
    if (n < 2) return v;
    bool gauge = by_share(&v, r, &c[0], &c[n - 1]) || by_shape(&v, r, &c[0], &c[n - 1]);
    v.stop = gauge || by_proxy(&v, r, c, n);
    if (gauge) v.best = best_of(c, n - 1); /* what a gauge refuses is no candidate, whatever its score */
    return v;
}

/* -- rows */

static void put_number(JsonOut *j, const char *what, const char *name, double x) {
    char key[32];
    snprintf(key, sizeof key, "%s%s", name, what);
    json_out_num(j, key, x);
}

static void put_row(Str *out, const GuardCheck *c) {
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_int(&j, "step", c->update);
    json_out_int(&j, "replies", c->n);
    json_out_num(&j, "proxy", c->proxy);
    json_out_num(&j, "score", c->score);
    json_out_num(&j, "score_se", c->se);
    json_out_num(&j, "kl", c->kl);
    json_out_num(&j, "length", c->length);
    json_out_num(&j, "entropy", c->entropy);
    for (int k = 0; k < GUARD_SHARES; k++) {
        put_number(&j, "", guard_share[k].name, c->share[k]);
        put_number(&j, ".lo", guard_share[k].name, c->low[k]);
    }
    json_out_obj_end(&j);
    str_putc(out, '\n');
}

static double number(const Json *row, const char *what, const char *name) {
    char key[32];
    snprintf(key, sizeof key, "%s%s", name, what);
    return json_num(json_get(row, key), NAN);
}

static GuardCheck get_row(const Json *row) {
    GuardCheck c = {.update = json_int(json_get(row, "step"), -1), .n = json_int(json_get(row, "replies"), 0)};
    c.proxy = number(row, "", "proxy"), c.score = number(row, "", "score"), c.se = number(row, "", "score_se");
    c.kl = number(row, "", "kl"), c.length = number(row, "", "length"), c.entropy = number(row, "", "entropy");
    for (int k = 0; k < GUARD_SHARES; k++) {
        c.share[k] = number(row, "", guard_share[k].name);
        c.low[k] = number(row, ".lo", guard_share[k].name);
    }
    return c;
}

static void add(Guard *g, const GuardCheck *c) {
    if (g->n == g->cap) {
        g->cap = g->cap ? 2 * g->cap : 16;
        g->check = mem_grow(g->check, (size_t)g->cap * sizeof *g->check);
    }
    g->check[g->n++] = *c;
    g->g->n_check = g->n;
}

static bool write_rows(const Guard *g, Error *err) {
    Str path = {0}, text = {0};
    for (int i = 0; i < g->n; i++) put_row(&text, &g->check[i]);
    str_printf(&path, "%s/guard.jsonl", g->dir);
    bool ok = io_write_file(path.s, text.s, text.n, err);
    str_release(&path);
    str_release(&text);
    return ok;
}

/* Rows of later updates are of a run that was killed after its state was saved: they are made again. */
static bool read_rows(Guard *g, int64_t update, Error *err) {
    Str path = {0};
    LineReader *r = NULL;
    const char *line;
    size_t n;
    str_printf(&path, "%s/guard.jsonl", g->dir);
    bool ok = update == 0 || !io_exists(path.s) || lines_open(&r, path.s, 1 << 16, err);
    err->code = ok ? ERR_NONE : err->code;
    while (ok && r && lines_next(r, &line, &n, err)) {
        Json *row = NULL;
        ok = json_parse(&row, line, n, 0, path.s, (int)lines_number(r), err);
        GuardCheck c = get_row(row);
        if (ok && c.update < 0) ok = error_set(err, ERR_FORMAT, "%s:%d: expected 'step'", path.s, (int)lines_number(r));
        if (ok && c.update <= update) add(g, &c);
        json_release(row);
    }
    ok = ok && err->code == ERR_NONE;
    lines_close(r);
    str_release(&path);
    return ok;
}

/* -- weights */

/* Rank 0 writes; of a policy in parts its replica hands it tensor by tensor. */
static bool keep_weights(const Guard *g, Error *err) {
    Str fresh = {0}, now = {0};
    str_printf(&fresh, "%s/guard.new", g->dir);
    str_printf(&now, "%s/guard", g->dir);
    bool leads = mesh_leads(g->c.mesh);
    Error mine = {0};
    if (leads && io_remove_tree(fresh.s, &mine) && io_make_dirs(fresh.s, &mine)) mine = (Error){0};
    bool ok = mine.code == ERR_NONE;
    ok = state_put_net(g->s->policy, g->c.mesh, fresh.s, "policy", err) && ok;
    if (mine.code != ERR_NONE) *err = mine;
    ok = ok && (!leads || (io_sync_tree(fresh.s, err) && io_remove_tree(now.s, err) && io_rename(fresh.s, now.s, err)));
    str_release(&fresh);
    str_release(&now);
    return ok || error_wrap(err, "keeping the weights of the guard's best check");
}

bool guard_restore(Guard *g, int64_t *update, Error *err) {
    CHECK(g->n > 0, "nothing was checked");
    Str path = {0};
    GuardVerdict v = guard_judge(&g->g->rule, g->check, g->n);
    str_printf(&path, "%s/guard", g->dir);
    bool ok = state_get_net(g->s->policy, g->c.mesh, path.s, "policy", err);
    str_release(&path);
    *update = g->check[v.best].update;
    g->g->stopped = true;
    g->g->kept = g->check[v.best];
    return ok;
}

/* -- a check */

/* Rollout 0 of a run of its own: the same prompts and random numbers every time, whoever is asked. */
static bool replies(Experience *x, Guard *g, Net policy, Error *err) {
    Rollout r;
    g->setup.policy = policy;
    if (!rollout_open(&r, &g->c, &g->setup, err)) return false;
    bool ok = rollout_make(x, &r, 0, 0, g->stop, err);
    rollout_close(&r);
    return ok;
}

bool guard_open(Guard **out, PpoGuard *pg, const PpoConfig *c, const PpoSetup *s, const char *dir, int64_t update,
                Log *log, const Stop *stop, Error *err) {
    CHECK(pg->rule.every > 0 && pg->rule.patience > 0 && pg->n_prompt > 0, "a guard of %d prompts", pg->n_prompt);
    Guard *g = mem_alloc(sizeof *g);
    *g = (Guard){.g = pg, .s = s, .c = *c, .setup = *s, .dir = dir, .log = log, .stop = stop};
    g->c.method = RL_DPO; /* the method that only looks at its rollouts */
    g->c.rollouts = pg->n_prompt;
    g->c.epochs = g->c.minibatches = 1;
    g->c.rollout_weights = DTYPE_F32;
    g->c.seed = rng_derive((Rng){c->seed, RNG_SAMPLE}, "guard").seed;
    g->setup.prompt = pg->prompt;
    g->setup.n_prompt = pg->n_prompt;
    g->setup.value = (Net){0};
    g->setup.spoil = NULL;
    pg->stopped = false, pg->kept = (GuardCheck){0}, pg->n_check = 0;
    *out = g;
    return read_rows(g, update, err) && replies(&g->reference, g, s->reference, err);
}

void guard_close(Guard *g) {
    if (!g) return;
    experience_release(&g->reference);
    free(g->check);
    free(g);
}

static bool measure(Guard *g, int64_t update, GuardCheck *out, Error *err) {
    Experience x = {0};
    bool start =
        update == 0 && !model_is_stage(g->s->policy.trunk) && doctor_same_weights(g->s->policy, g->s->reference);
    if (!start && !replies(&x, g, g->s->policy, err)) return false;
    *out = (GuardCheck){0};
    bool ok = g->g->measure(g->g->ud, start ? &g->reference : &x, &g->reference, out, err);
    out->update = update;
    experience_release(&x);
    return ok || error_wrap(err, "the guard's check after %" PRId64 " updates", update);
}

static void tell(const Guard *g, const GuardCheck *c) {
    Str text = {0};
    for (int k = 0; k < GUARD_SHARES; k++) str_printf(&text, "  %s %.3f", guard_share[k].name, c->share[k]);
    log_event(g->log, "guard", "update %" PRId64 ": score %.3f  judge %.3f  kl %.2f  length %.1f  entropy %.3f%s",
              c->update, c->proxy, c->score, c->kl, c->length, c->entropy, str_get(&text));
    str_release(&text);
}

bool guard_look(Guard *g, int64_t update, GuardVerdict *v, Error *err) {
    *v = (GuardVerdict){0};
    bool done = g->n > 0 && g->check[g->n - 1].update == update;
    if (!done && update % g->g->rule.every != 0 && update != g->c.updates) return true;
    if (!done) {
        GuardCheck c;
        if (!measure(g, update, &c, err)) return false;
        add(g, &c);
        tell(g, &c);
        *v = guard_judge(&g->g->rule, g->check, g->n);
        bool is_best = v->best == g->n - 1;
        if ((is_best && !keep_weights(g, err)) || (mesh_leads(g->c.mesh) && !write_rows(g, err))) return false;
    }
    *v = guard_judge(&g->g->rule, g->check, g->n);
    if (!v->stop) g->g->kept = g->check[g->n - 1];
    return true;
}

const GuardCheck *guard_last(const Guard *g, int64_t update) {
    return g->n > 0 && g->check[g->n - 1].update == update ? &g->check[g->n - 1] : NULL;
}
