/* A judge that says why before it says which. Only the seam is constrained: reasons hold no reserved id, and the
 * verdict comes when the model asks for it or its budget is spent. */
#include <math.h>
#include <stdlib.h>

#include "base/hash.h"
#include "cai/judge.h"
#include "train/losses.h"

enum { CHUNK = 64, MIN_REASON_TOKENS = 4, ANSWER_ROOM = 16 };

typedef struct {
    const Chat *chat;
    const uint8_t *ban_all, *ban; /* every reserved id; all but the one that ends reasons */
    int tokens;
    int32_t end;
} ReasonRule;

static void reason_rule(void *ud, uint64_t id, const int32_t *text, int n, GenRule *rule) {
    const ReasonRule *r = ud;
    (void)id, (void)text;
    rule->ban = n < MIN_REASON_TOKENS ? r->ban_all : r->ban;
    if (n >= r->tokens) rule->force = r->end;
}

typedef struct {
    const Judge *j;
    Sequence *prompt; /* (2 n): item's orders */
    GenRequest *req;  /* (n_req) */
    GenResult *res;
    int *of, n_req; /* order that a request belongs to */
} Reasons;

/* What is asked, and which sample of it. */
static uint64_t request_id(const Sequence *s, int sample) {
    Hasher *h = hasher_new();
    hasher_add(h, s->tok.id, (size_t)s->tok.n * sizeof *s->tok.id);
    hasher_add(h, &sample, sizeof sample);
    return hasher_finish(h).lo;
}

static void ask_reasons(Reasons *r, Judged *out, const JudgeItem *item, int n, const SampleParams *p) {
    const Judge *j = r->j;
    for (int i = 0; i < n; i++) {
        const JudgeItem *it = &item[i];
        bool fits = true;
        for (int k = 0; k < 2; k++) {
            Sequence *s = &r->prompt[2 * i + k];
            chat_reason_prompt(s, j->chat, it->prompt, k ? it->b : it->a, k ? it->a : it->b, it->compare);
            fits = fits && s->tok.n + j->reason_tokens + ANSWER_ROOM <= j->max_len;
        }
        out[i] = (Judged){.scored = fits, .miss = fits ? MISS_NONE : MISS_CONTEXT};
        for (int k = 0; k < 2 && fits; k++)
            for (int m = 0; m < j->reasons; m++) {
                const Sequence *s = &r->prompt[2 * i + k];
                r->of[r->n_req] = 2 * i + k;
                r->req[r->n_req++] = (GenRequest){request_id(s, m), {s->tok.id, s->tok.n}, *p};
            }
    }
}

/* p(first) and p(second) of each sample, summed by order into sum (2 per order). */
static bool decide(const Reasons *r, double *sum, Error *err) {
    const Chat *c = r->j->chat;
    const int32_t option[] = {c->id[SENT_FIRST], c->id[SENT_SECOND]};
    Sequence *seq = mem_alloc((size_t)(r->n_req + 1) * sizeof *seq);
    Tokens *tok = mem_alloc((size_t)(r->n_req + 1) * sizeof *tok);
    float *lp = mem_alloc((size_t)(2 * r->n_req + 1) * sizeof *lp);
    for (int i = 0; i < r->n_req; i++) {
        const GenResult *g = &r->res[i];
        int n = g->n - (g->why == STOP_TOKEN);
        for (int k = 0; k < r->req[i].prompt.n; k++) sequence_put(&seq[i], r->req[i].prompt.tok[k], 0);
        for (int k = 0; k < n; k++) sequence_put(&seq[i], g->text[k], 0);
        chat_reason_end(&seq[i], c, 0);
        tok[i] = (Tokens){seq[i].tok.id, seq[i].tok.n};
    }
    bool ok = sequences_ok(seq, r->n_req, err) && engine_options(r->j->engine, tok, r->n_req, option, 2, lp, err);
    for (int i = 0; i < r->n_req && ok; i++) {
        double l = (double)lp[2 * i] - (double)lp[2 * i + 1];
        sum[2 * r->of[i]] += sigmoid(l);
        sum[2 * r->of[i] + 1] += sigmoid(-l);
    }
    for (int i = 0; i < r->n_req; i++) sequence_release(&seq[i]);
    free(seq);
    free(tok);
    free(lp);
    return ok;
}

static bool reason_chunk(const Judge *j, Judged *out, const JudgeItem *item, int n, const SampleParams *p, Error *err) {
    size_t all = 2 * (size_t)n * (size_t)j->reasons;
    Reasons r = {.j = j,
                 .prompt = mem_alloc(2 * (size_t)n * sizeof *r.prompt),
                 .req = mem_alloc(all * sizeof *r.req),
                 .res = mem_alloc(all * sizeof *r.res),
                 .of = mem_alloc(all * sizeof *r.of)};
    double *sum = mem_alloc(4 * (size_t)n * sizeof *sum);
    ask_reasons(&r, out, item, n, p);
    bool ok =
        sequences_ok(r.prompt, 2 * n, err) && engine_generate(j->engine, r.req, r.n_req, r.res, NULL, j->stop, err);
    if (ok) {
        ok = decide(&r, sum, err);
        engine_free_results(r.res, r.n_req);
    }
    for (int i = 0; i < n && ok; i++) {
        if (!out[i].scored) continue;
        out[i].l_ab = log(sum[4 * i] / sum[4 * i + 1]);
        out[i].l_ba = log(sum[4 * i + 2] / sum[4 * i + 3]);
    }
    for (int i = 0; i < 2 * n; i++) sequence_release(&r.prompt[i]);
    free(r.prompt);
    free(r.req);
    free(r.res);
    free(r.of);
    free(sum);
    return ok;
}

bool judge_reasoned(const Judge *j, Judged *out, const JudgeItem *item, int n, Error *err) {
    const Chat *c = j->chat;
    size_t v = (size_t)tokenizer_n_vocab(c->tok);
    uint8_t *ban = mem_alloc(2 * v);
    ReasonRule rule = {.chat = c, .ban_all = ban, .ban = ban + v, .tokens = j->reason_tokens};
    rule.end = c->id[c->headings ? SENT_END : SENT_VERDICT];
    for (size_t i = 0; i < v; i++) ban[i] = ban[v + i] = tokenizer_is_special(c->tok, (int32_t)i);
    ban[v + (size_t)rule.end] = 0;
    SampleParams p = {.temperature = 1,
                      .top_p = 1,
                      .repetition = 1,
                      .max_new = j->reason_tokens + 1,
                      .rng = {j->seed, RNG_SAMPLE},
                      .stop = &rule.end,
                      .n_stop = 1,
                      .hook = reason_rule,
                      .hook_ud = &rule};
    bool ok = true;
    for (int i = 0; i < n && ok; i += CHUNK)
        ok = reason_chunk(j, out + i, item + i, n - i < CHUNK ? n - i : CHUNK, &p, err);
    free(ban);
    return ok;
}
