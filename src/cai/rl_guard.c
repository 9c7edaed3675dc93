#include "cai/rl_guard.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cai/filters.h"
#include "cai/gauges.h"
#include "cai/judge.h"
#include "eval/refusal.h"
#include "eval/stats.h"

enum { MAX_PRINCIPLES = 64 };

struct RlGuard {
    PpoGuard g;
    const StageCtx *ctx;
    const StageText *text;
    const Prompts *prompts;
    PpoPrompt *prompt;
    Sequence *seq;
    int *of, n; /* prompt of the split that g.prompt[i] is */
    Constitution con;
    const Principle *principle[MAX_PRINCIPLES];
    int n_principle;
};

/* -- which prompts */

/* Originals only: paraphrases of one prompt would make replies look more alike than the policy made them. */
static int candidates(int *out, const Prompts *p, const char *split) {
    int n = 0;
    for (int i = 0; i < p->n; i++) {
        const Prompt *q = &p->item[i];
        if (!strcmp(q->split, split) && (!q->parent[0] || !strcmp(q->parent, q->id))) out[n++] = i;
    }
    return n;
}

static void choose(RlGuard *g, const PpoConfig *c, int max_seq) {
    const Prompts *p = g->prompts;
    int64_t limit = g->ctx->cfg->rl.guard.prompts;
    int *at = mem_alloc((size_t)(p->n + 1) * sizeof *at), n = candidates(at, p, guard_split(g->ctx->cfg));
    int64_t *order = mem_alloc((size_t)(n + 1) * sizeof *order);
    rng_shuffle(rng_derive((Rng){g->ctx->seed, RNG_SHUFFLE}, "guard prompts"), 0, order, n);
    g->prompt = mem_alloc((size_t)(n + 1) * sizeof *g->prompt);
    g->seq = mem_alloc((size_t)(n + 1) * sizeof *g->seq);
    g->of = mem_alloc((size_t)(n + 1) * sizeof *g->of);
    for (int i = 0; i < n && g->n < limit; i++) {
        const Prompt *q = &p->item[at[order[i]]];
        Message m = {ROLE_USER, q->text};
        Sequence *s = &g->seq[g->n];
        sequence_clear(s);
        chat_respond(s, &g->text->chat, (Dialogue){&m, 1});
        if (s->tok.n + c->max_new > max_seq || s->tok.n + c->max_new > c->max_tok) continue;
        g->of[g->n] = at[order[i]];
        g->prompt[g->n++] = (PpoPrompt){stage_id(q->id), s->tok.id, s->tok.n};
    }
    free(at);
    free(order);
}

/* -- the independent score */

/* Every label principle, or the one drawn for this prompt, as stage label does. */
static int principles_for(const RlGuard *g, uint64_t id, const Principle **out) {
    if (g->ctx->cfg->label.ensemble) {
        memcpy(out, g->principle, (size_t)g->n_principle * sizeof *out);
        return g->n_principle;
    }
    out[0] = g->principle[rng_below((Rng){g->ctx->seed, RNG_PRINCIPLE}, id, 0, (uint32_t)g->n_principle)];
    return 1;
}

typedef struct {
    char **now, **before; /* (n) replies as text */
    int n;
} Texts;

/* The helpful model is opened for each check: between two of them its weights would only take room. */
static bool ask(Judged *out, const RlGuard *g, const JudgeItem *item, int n, Error *err) {
    StageNet net = {0};
    Engine *e = NULL;
    EngineConfig ec = {.share_prefix = true};
    if (n == 0) return true;
    bool ok = stage_net_open(&net, g->ctx, stage_input(g->ctx, "helpful"), HEAD_LM, false, err) &&
              engine_open(&e, net.net, &ec, err) &&
              judge_pairs(out, e, &g->text->chat, item, n, net.m.cfg.max_seq, err);
    if (e) engine_close(e);
    stage_net_close(&net);
    return ok;
}

/* q[i]: P(now better); 1/2 where the judge could not read the pair. */
static bool judge(double *q, const RlGuard *g, const Experience *x, const Texts *t, Error *err) {
    const RunConfig *c = g->ctx->cfg;
    int per = c->label.ensemble ? g->n_principle : 1, n = 0;
    JudgeItem *item = mem_alloc((size_t)(t->n * per + 1) * sizeof *item);
    Judged *judged = mem_alloc((size_t)(t->n * per + 1) * sizeof *judged);
    Message *msg = mem_alloc((size_t)(t->n + 1) * sizeof *msg);
    const Principle *of[MAX_PRINCIPLES];
    for (int i = 0; i < t->n; i++) {
        msg[i] = (Message){ROLE_USER, g->prompts->item[g->of[x->prompt[i] - g->prompt]].text};
        if (!strcmp(t->now[i], t->before[i])) continue;
        principles_for(g, x->prompt[i]->id, of);
        for (int k = 0; k < per; k++)
            item[n++] = (JudgeItem){{&msg[i], 1}, t->now[i], t->before[i], principle_compare(of[k]), NULL};
    }
    bool ok = ask(judged, g, item, n, err);
    n = 0;
    for (int i = 0; i < t->n && ok; i++) {
        q[i] = 0.5;
        if (!strcmp(t->now[i], t->before[i])) continue;
        principles_for(g, x->prompt[i]->id, of);
        PairLabel l = label_combine(judged + n, of, per, c->label.clamp, c->label.t_cal, 0);
        if (l.level >= 0) q[i] = l.q;
        n += per;
    }
    free(item);
    free(judged);
    free(msg);
    return ok;
}

/* -- a check */

static char *reply_text(const RlGuard *g, const GenResult *r) {
    Str s = {0};
    tokenizer_decode(g->text->tok, r->text, r->n - (r->why == STOP_TOKEN), false, &s);
    return str_detach(&s);
}

static void share(GuardCheck *c, GuardShare k, double hits, int64_t n) {
    Interval v = interval_wilson(hits, n);
    c->share[k] = n ? v.mean : 0;
    c->low[k] = v.lo;
}

static void gauges(GuardCheck *c, const RlGuard *g, const Experience *x, const Texts *t) {
    int cut = 0, evasive = 0, comfort = 0, refused = 0, harmless = 0;
    for (int i = 0; i < t->n; i++) {
        bool asks_harm = prompt_harmful(&g->prompts->item[g->of[x->prompt[i] - g->prompt]]);
        cut += x->reply[i].why != STOP_TOKEN;
        evasive += text_evasive(t->now[i]);
        comfort += text_comforts(t->now[i]);
        harmless += !asks_harm;
        refused += !asks_harm && (text_refuses(t->now[i]) || text_evasive(t->now[i]));
    }
    const char *const *now = (const char *const *)t->now;
    share(c, GUARD_CUT, cut, t->n);
    share(c, GUARD_TOP4, gauge_commonest(now, t->n, 4, NULL, NULL, NULL), t->n);
    share(c, GUARD_DUPLICATES, gauge_duplicates(now, t->n), t->n);
    share(c, GUARD_EVASIVE, evasive, t->n);
    share(c, GUARD_COMFORT, comfort, t->n);
    share(c, GUARD_REFUSED, refused, harmless);
}

/* Replies that end by themselves: how many are cut is a gauge of its own, and to learn to end is no fault. */
static double mean_length(const Experience *x) {
    int64_t n = 0, tokens = 0;
    for (int i = 0; i < x->n; i++) {
        if (x->reply[i].why != STOP_TOKEN) continue;
        tokens += x->reply[i].n;
        n++;
    }
    return n ? (double)tokens / (double)n : (double)x->n_tok / x->n;
}

static void numbers(GuardCheck *c, const Experience *x, const double *q) {
    double log_prob = 0;
    for (int64_t t = 0; t < x->n_tok; t++) log_prob += x->lp[t];
    c->n = x->n;
    c->proxy = mean_of(x->score, x->n);
    c->kl = mean_of(x->kl, x->n);
    c->length = mean_length(x);
    c->entropy = -log_prob / (double)x->n_tok; /* of the tokens drawn: the mean of -log p is the entropy's estimate */
    c->score = mean_of(q, x->n);
    c->se = x->n > 1 ? stderr_mean(q, x->n) : 0;
}

static bool measure(void *ud, const Experience *x, const Experience *reference, GuardCheck *out, Error *err) {
    const RlGuard *g = ud;
    CHECK(x->n == reference->n, "%d replies beside %d", x->n, reference->n);
    Texts t = {mem_alloc((size_t)x->n * sizeof *t.now), mem_alloc((size_t)x->n * sizeof *t.before), x->n};
    double *q = mem_alloc((size_t)x->n * sizeof *q);
    for (int i = 0; i < x->n; i++) {
        CHECK(x->prompt[i] == reference->prompt[i], "reply %d answers another prompt", i);
        t.now[i] = reply_text(g, &x->reply[i]);
        t.before[i] = reply_text(g, &reference->reply[i]);
    }
    bool ok = judge(q, g, x, &t, err);
    if (ok) {
        numbers(out, x, q);
        gauges(out, g, x, &t);
    }
    for (int i = 0; i < x->n; i++) free(t.now[i]), free(t.before[i]);
    free(t.now);
    free(t.before);
    free(q);
    return ok;
}

/* -- life */

static GuardRule rule_of(const RunConfig *c) {
    GuardRule r = {.every = c->rl.guard.every, .patience = (int)c->rl.guard.patience};
    r.share[GUARD_CUT] = c->rl.guard.cut;
    r.share[GUARD_TOP4] = c->rl.guard.top4;
    r.share[GUARD_DUPLICATES] = c->rl.guard.duplicates;
    r.share[GUARD_EVASIVE] = c->rl.guard.evasive;
    r.share[GUARD_COMFORT] = c->rl.guard.comfort;
    r.share[GUARD_REFUSED] = c->rl.guard.refused;
    r.length = c->rl.guard.length;
    r.entropy = c->rl.guard.entropy;
    return r;
}

static bool open_principles(RlGuard *g, Error *err) {
    if (!stage_constitution(&g->con, g->ctx->cfg, g->ctx->data_dir, err)) return false;
    for (int i = 0; i < g->con.n && g->n_principle < MAX_PRINCIPLES; i++)
        if (g->con.principle[i].use & USE_LABEL) g->principle[g->n_principle++] = &g->con.principle[i];
    return g->n_principle > 0 || error_set(err, ERR_CONFIG, "no principle of the constitution has use 'label'");
}

bool rl_guard_open(RlGuard **out, const StageCtx *ctx, const StageText *text, const Prompts *prompts,
                   const PpoConfig *c, int max_seq, Error *err) {
    *out = NULL;
    if (ctx->cfg->rl.guard.every == 0 || !rl_methods[c->method].rollouts) return true;
    RlGuard *g = mem_alloc(sizeof *g);
    *g = (RlGuard){.ctx = ctx, .text = text, .prompts = prompts};
    choose(g, c, max_seq);
    if (g->n == 0) {
        log_warn(ctx->log,
                 "no guard against over-optimisation: no prompt of the evaluation split fits (rl.guard.every)");
        rl_guard_close(g);
        return true;
    }
    if (!sequences_ok(g->seq, g->n, err) || !open_principles(g, err)) {
        rl_guard_close(g);
        return false;
    }
    g->g = (PpoGuard){.rule = rule_of(ctx->cfg), .prompt = g->prompt, .n_prompt = g->n, .measure = measure, .ud = g};
    *out = g;
    return true;
}

void rl_guard_close(RlGuard *g) {
    if (!g) return;
    constitution_release(&g->con);
    for (int i = 0; i < g->n; i++) sequence_release(&g->seq[i]);
    free(g->seq);
    free(g->prompt);
    free(g->of);
    free(g);
}

PpoGuard *rl_guard_of(RlGuard *g) { return g ? &g->g : NULL; }

void rl_guard_summary(const RlGuard *g, Summary *s) {
    if (!g) return;
    const GuardCheck *k = &g->g.kept;
    summary_num(s, "guard.checks", g->g.n_check);
    summary_num(s, "guard.stopped", g->g.stopped);
    summary_num(s, "guard.update", (double)k->update);
    summary_num(s, "guard.score", k->score);
    summary_num(s, "guard.score_se", k->se);
    summary_num(s, "guard.proxy", k->proxy);
}
