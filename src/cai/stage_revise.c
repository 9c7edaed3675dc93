/* Critique and revision: revisions.jsonl, one row per dialogue with every round, accepted or not, and counts by reject
 * code. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/io.h"
#include "cai/judge_remote.h"
#include "cai/revise.h"

/* What the selector saw, best first; nothing of an even draw. */
static void candidates_json(JsonOut *j, const Round *q, const Constitution *con) {
    if (!q->n_candidate) return;
    json_out_arr(j, "candidates");
    for (int i = 0; i < q->n_candidate; i++) {
        json_out_obj(j, NULL);
        json_out_str(j, "principle", con->principle[q->candidate[i]].id);
        json_out_num(j, "score", q->score[i]);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
}

static void row_json(Str *out, const Chain *c, const Reviser *r) {
    static const char *const outcome[] = {"kept", "revised", "rejected"};
    const Constitution *con = r->con;
    JsonOut j;
    str_clear(out);
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "id", c->id);
    json_out_str(&j, "prompt_id", c->prompt->id);
    json_out_str(&j, "kind", c->prompt->kind);
    json_out_str(&j, "category", c->prompt->category);
    json_out_str(&j, "prompt", c->prompt->text);
    json_out_str(&j, "reply", c->reply);
    json_out_str(&j, "outcome", outcome[c->outcome]);
    json_out_str(&j, "reject", reject_name(c->reject));
    json_out_str(&j, "final", c->current);
    json_out_str(&j, "constitution", con->sha256);
    json_out_num(&j, "temperature", r->ctx->cfg->revise.s.temperature);
    json_out_arr(&j, "rounds");
    for (int i = 0; i < c->n_round; i++) {
        const Round *q = &c->round[i];
        json_out_obj(&j, NULL);
        json_out_str(&j, "principle", round_principle(r, q)->id);
        json_out_num(&j, "propensity", q->propensity);
        candidates_json(&j, q, con);
        json_out_str(&j, "critique", q->critique);
        json_out_num(&j, "ok_odds", q->verdict_odds);
        json_out_bool(&j, "violates", q->violates);
        json_out_str(&j, "revision", q->revision);
        json_out_str(&j, "reject", reject_name(q->reject));
        json_out_num(&j, "gate_p", q->gate_p);
        json_out_int(&j, "forced", q->n_forced);
        if (q->n_retry) json_out_int(&j, "retries", q->n_retry);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    str_putc(out, '\n');
}

static int by_hash(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;
    return x[0] < y[0] ? -1 : x[0] > y[0] ? 1 : x[1] < y[1] ? -1 : x[1] > y[1];
}

/* The first of equal (prompt, accepted revision) stays; the order of dialogues decides, not the sort. */
static void reject_duplicates(Chain *chain, int n) {
    uint64_t(*seen)[2] = mem_alloc((size_t)(n + 1) * sizeof *seen);
    int m = 0;
    for (int i = 0; i < n; i++) {
        if (chain[i].outcome != OUTCOME_REVISED) continue;
        Hasher *h = hasher_new();
        hasher_add_str(h, chain[i].prompt->text);
        hasher_add_str(h, chain[i].current);
        seen[m][0] = hasher_finish(h).lo;
        seen[m++][1] = (uint64_t)i;
    }
    qsort(seen, (size_t)m, sizeof *seen, by_hash);
    for (int k = 1; k < m; k++)
        if (seen[k][0] == seen[k - 1][0]) {
            chain[seen[k][1]].outcome = OUTCOME_REJECTED;
            chain[seen[k][1]].reject = REJECT_DUP;
        }
    free(seen);
}

/* By which one generation is compared with two calls (revise.mode), and one number of rounds with another. */
typedef struct {
    int n, retries, gated, passed;
    double critique_words, gate_p;
    int round[MAX_ROUNDS], violates[MAX_ROUNDS], accepted[MAX_ROUNDS];
} Measures;

static void measure_round(Measures *m, int at, const Round *q) {
    m->n++;
    m->retries += q->n_retry;
    m->critique_words += text_words(q->critique);
    m->round[at]++;
    m->violates[at] += q->violates;
    m->accepted[at] += q->violates && q->reject == REJECT_NONE;
    if (isnan(q->gate_p)) return;
    m->gated++;
    m->passed += q->reject == REJECT_NONE;
    m->gate_p += q->gate_p;
}

static void summary_measures(Summary *s, const Measures *m) {
    char key[64];
    if (m->n) summary_num(s, "critique_words", m->critique_words / m->n);
    if (m->retries) summary_num(s, "retries", m->retries);
    if (m->gated) {
        summary_num(s, "gate_pass_share", (double)m->passed / m->gated);
        summary_num(s, "gate_p", m->gate_p / m->gated);
    }
    for (int k = 0; k < MAX_ROUNDS && m->round[k]; k++) {
        snprintf(key, sizeof key, "round%d.violates_share", k + 1);
        summary_num(s, key, (double)m->violates[k] / m->round[k]);
        snprintf(key, sizeof key, "round%d.accepted_share", k + 1);
        summary_num(s, key, m->violates[k] ? (double)m->accepted[k] / m->violates[k] : 0);
    }
}

static bool summarise(const StageCtx *ctx, const RemoteJudge *judge, const Chain *chain, int n, Error *err) {
    int outcome[3] = {0}, reject[REJECT_COUNT] = {0}, rounds = 0, violates = 0, forced = 0, parsed = 0;
    char key[64];
    Measures m = {0};
    for (int i = 0; i < n; i++) {
        outcome[chain[i].outcome]++;
        if (chain[i].outcome == OUTCOME_REJECTED) reject[chain[i].reject]++;
        for (int q = 0; q < chain[i].n_round; q++) {
            rounds++;
            parsed += chain[i].round[q].critique && (!chain[i].round[q].violates || chain[i].round[q].revision ||
                                                     chain[i].round[q].reject == REJECT_CONTEXT);
            violates += chain[i].round[q].violates;
            forced += chain[i].round[q].n_forced > 1; /* the seam after the verdict is always forced */
            measure_round(&m, q, &chain[i].round[q]);
        }
    }
    Summary s;
    summary_begin(&s);
    summary_num(&s, "dialogues", n);
    summary_num(&s, "kept", outcome[OUTCOME_KEPT]);
    summary_num(&s, "revised", outcome[OUTCOME_REVISED]);
    summary_num(&s, "rejected", outcome[OUTCOME_REJECTED]);
    summary_num(&s, "rounds", rounds);
    summary_num(&s, "violates_share", rounds ? (double)violates / rounds : 0);
    summary_num(&s, "parsed_share", rounds ? (double)parsed / rounds : 1);
    summary_num(&s, "forced_share", rounds ? (double)forced / rounds : 0);
    summary_num(&s, "accepted_share", n ? (double)(n - outcome[OUTCOME_REJECTED]) / n : 0);
    summary_measures(&s, &m);
    for (int r = 1; r < REJECT_COUNT; r++) {
        snprintf(key, sizeof key, "reject.%s", reject_name(r));
        if (reject[r]) summary_num(&s, key, reject[r]);
    }
    for (int i = 0; i < n; i++) {
        const Chain *c = &chain[i];
        bool lost = c->outcome == OUTCOME_REJECTED;
        ledger_in(ctx->ledger, 1, 0);
        ledger_add(ctx->ledger, lost ? LEDGER_DROPPED : LEDGER_TRAINED, lost ? reject_name(c->reject) : NULL, 1, 0);
    }
    if (!judge || remote_judge_books(judge, &s, err)) return summary_end(&s, ctx, err);
    str_release(&s.text);
    return false;
}

static bool write_rows(const Reviser *r, const Chain *chain, int n, Error *err) {
    Str path = {0}, line = {0};
    Writer *w = NULL;
    path_join(&path, r->ctx->output, "revisions.jsonl");
    bool ok = writer_open(&w, str_get(&path), err);
    for (int i = 0; i < n && ok; i++) {
        row_json(&line, &chain[i], r);
        ok = writer_put(w, line.s, line.n, err);
    }
    ok = writer_end(w, ok, err);
    str_release(&path);
    str_release(&line);
    return ok;
}

static bool all_rounds(Reviser *r, const Prompts *prompts, Error *err) {
    const RunConfig *c = r->ctx->cfg;
    int n;
    PromptDraw *draw = prompts_draw(prompts, r->ctx, c->revise.redteam, c->revise.benign, c->revise.repeats, &n);
    Chain *chain = mem_alloc((size_t)(n + 1) * sizeof *chain);
    Str id = {0};
    for (int i = 0; i < n; i++) {
        chain[i].prompt = &prompts->item[draw[i].prompt];
        str_clear(&id);
        str_printf(&id, "rv-%s-%d", chain[i].prompt->id, draw[i].repeat);
        chain[i].id = mem_str(str_get(&id));
    }
    log_info(r->ctx->log, "%d dialogues, %d principles, up to %d rounds", n, r->con->n, (int)c->revise.rounds);
    bool ok = revise_replies(r, chain, n, err);
    int rounds = c->revise.critique ? (int)c->revise.rounds : 0;
    if (rounds > r->con->n && c->constitution.select != SELECT_ALL) rounds = r->con->n;
    for (int round = 0; round < rounds && ok; round++) ok = revise_round(r, chain, n, err);
    if (ok && c->revise.dedup) reject_duplicates(chain, n);
    ok = ok && write_rows(r, chain, n, err) && revise_audit(r, chain, n, err) &&
         summarise(r->ctx, r->remote, chain, n, err);
    for (int i = 0; i < n; i++) chain_release(&chain[i]);
    free(chain);
    free(draw);
    str_release(&id);
    return ok;
}

/* Words may learn from training prompts only. */
static bool open_picks(Reviser *r, const Prompts *p, Error *err) {
    const char **request = mem_alloc((size_t)(p->n + 1) * sizeof *request);
    int n = 0;
    for (int i = 0; i < p->n; i++)
        if (!strcmp(p->item[i].split, "train")) request[n++] = p->item[i].text;
    bool ok = revise_pick_open(r, request, n, err);
    free(request);
    return ok;
}

static bool uses_judge(const RunConfig *c) { return c->revise.gate && c->revise.critique; }

static bool run(const StageCtx *ctx, Error *err) {
    StageText text = {0};
    StageNet net = {0};
    Constitution con = {0};
    Prompts prompts = {0};
    Reviser r = {.ctx = ctx, .text = &text, .con = &con};
    EngineConfig ec = {.share_prefix = true};
    bool ok = stage_text_open(&text, stage_input(ctx, "tokenizer"), err) &&
              stage_net_open(&net, ctx, stage_input(ctx, "helpful"), HEAD_LM, false, err) &&
              stage_constitution(&con, ctx->cfg, ctx->data_dir, err) &&
              prompts_read(&prompts, stage_input(ctx, "prompts"), err) && engine_open(&r.engine, net.net, &ec, err);
    if (ok && ctx->cfg->judge.kind == JUDGE_REMOTE && uses_judge(ctx->cfg)) ok = remote_judge_open(&r.remote, ctx, err);
    if (ok) {
        r.max_len = net.m.cfg.max_seq;
        ok = open_picks(&r, &prompts, err);
    }
    if (ok) {
        r.eval_grams = gramset_new(13);
        for (int i = 0; i < prompts.n; i++)
            if (strcmp(prompts.item[i].split, "train") != 0) gramset_add(r.eval_grams, prompts.item[i].text);
        pulse_section(log_pulse(ctx->log), SECTION_ROLLOUT);
        ok = all_rounds(&r, &prompts, err);
        gramset_free(r.eval_grams);
    }
    revise_pick_close(&r);
    if (r.engine) engine_close(r.engine);
    remote_judge_close(r.remote);
    prompts_release(&prompts);
    constitution_release(&con);
    stage_net_close(&net);
    stage_text_close(&text);
    return ok;
}

const Stage stage_revise = {.name = "revise",
                            .help = "the model criticises and revises its own replies under the principles",
                            .version = 4,
                            .needs = {"world", "tokenizer", "prompts", "helpful"},
                            .section = {"revise."},
                            .uses_constitution = true,
                            .uses_judge = uses_judge,
                            .run = run};
