/* Which principle a round is under. All chains' are found together, so that a model is asked in batches. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/revise.h"

static bool same_text(const char *a, const char *b) { return a && b ? !strcmp(a, b) : a == b; }

/* All principles that may criticise, as one: "1. text 2. text". Requests are those that all of them have, else the
 * generic ones. */
static void join_principles(Reviser *r) {
    Str all = {0}, one = {0};
    int n = 0;
    Principle joint = {.id = "all", .weight = 1};
    for (int i = 0; i < r->con->n; i++) {
        if (!(r->con->principle[i].use & USE_CRITIQUE)) continue;
        const Principle *p = &r->con->principle[i];
        if (n == 0) joint.critique = p->critique, joint.revise = p->revise, joint.compare = p->compare;
        if (!same_text(joint.critique, p->critique)) joint.critique = NULL;
        if (!same_text(joint.revise, p->revise)) joint.revise = NULL;
        if (!same_text(joint.compare, p->compare)) joint.compare = NULL;
        principle_text(&one, p);
        str_printf(&all, "%s%d. %s", n ? " " : "", n + 1, str_get(&one));
        n++;
    }
    joint.text = heap_strn(&r->heap, str_get(&all), all.n);
    r->joint = joint;
    str_release(&all);
    str_release(&one);
}

bool revise_pick_open(Reviser *r, const char *const *request, int n, Error *err) {
    const RunConfig *c = r->ctx->cfg;
    ScoreKind by = (ScoreKind)c->constitution.score;
    SelectMode mode = (SelectMode)c->constitution.select;
    bool scored = mode == SELECT_TOP1 || mode == SELECT_SAMPLED;
    if (!selector_open(&r->selector, r->con, USE_CRITIQUE, mode, c->constitution.epsilon,
                       (Rng){r->ctx->seed, RNG_PRINCIPLE}, err))
        return false;
    if (mode == SELECT_ALL) join_principles(r);
    if (mode == SELECT_SAMPLED) selector_tau(r->selector, c->constitution.tau);
    if (scored && by != SCORE_BM25) {
        selector_parts(r->selector, r->con, PARTS_ALL);
        selector_learn(r->selector, request, n);
    }
    return !scored || !score_asks_model(by) ||
           select_model_open(&r->by_model, r->engine, &r->text->chat, r->con, r->selector, r->max_len,
                             (int)c->constitution.candidates, err);
}

void revise_pick_close(Reviser *r) {
    select_model_close(r->by_model);
    selector_close(r->selector);
    heap_release(&r->heap);
}

static bool model_scores(Reviser *r, const Chain *chain, const int *of, int n, double (*score)[64], Error *err) {
    SelectQuery *q = mem_alloc((size_t)(n + 1) * sizeof *q);
    for (int i = 0; i < n; i++) q[i] = (SelectQuery){chain[of[i]].prompt->text, chain[of[i]].current};
    bool ok = select_model_scores(r->by_model, (ScoreKind)r->ctx->cfg->constitution.score, q, n, score, err);
    free(q);
    return ok;
}

static void pick(const Reviser *r, Chain *c, const double *score) {
    Round *q = &c->round[c->n_round++];
    SelectMode mode = (SelectMode)r->ctx->cfg->constitution.select;
    *q = (Round){.gate_p = NAN};
    if (mode == SELECT_ALL) {
        q->principle = r->con->n;
        q->propensity = 1;
        return;
    }
    q->principle = selector_draw(r->selector, score, stage_id(c->id), (uint32_t)c->n_round, c->used, &q->propensity);
    c->used |= (uint64_t)1 << q->principle;
    if (mode == SELECT_RANDOM) return;
    int rank[64], m = selector_order(r->selector, score, rank, NULL);
    q->n_candidate = m < MAX_CANDIDATES ? m : MAX_CANDIDATES;
    for (int i = 0; i < q->n_candidate; i++) q->candidate[i] = rank[i], q->score[i] = score[rank[i]];
}

bool revise_pick(Reviser *r, Chain *chain, int n, Error *err) {
    int *of = mem_alloc((size_t)(n + 1) * sizeof *of), m = 0;
    double(*score)[64] = mem_alloc((size_t)(n + 1) * sizeof *score);
    Str query = {0};
    SelectMode mode = (SelectMode)r->ctx->cfg->constitution.select;
    for (int i = 0; i < n; i++)
        if (chain[i].active) of[m++] = i;
    bool ok = !r->by_model || model_scores(r, chain, of, m, score, err);
    for (int i = 0; i < m && ok; i++) {
        Chain *c = &chain[of[i]];
        if (!r->by_model && mode != SELECT_RANDOM && mode != SELECT_ALL) {
            str_clear(&query);
            str_printf(&query, "%s %s", c->prompt->text, c->current);
            selector_scores(r->selector, str_get(&query), score[i]);
        }
        pick(r, c, score[i]);
    }
    str_release(&query);
    free(score);
    free(of);
    return ok;
}
