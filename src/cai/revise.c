#include "cai/revise.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/format.h"
#include "cai/judge.h"
#include "train/losses.h"

enum { MIN_CRITIQUE_TOKENS = 4 };

void critique_rule(void *ud, uint64_t id, const int32_t *text, int n, GenRule *rule) {
    const CritiqueRule *r = ud;
    const int32_t *s = r->chat->id;
    (void)id;
    int verdict = -1, revision = -1;
    for (int i = 0; i < n; i++) {
        if (text[i] == s[SENT_VERDICT]) verdict = i;
        if (text[i] == s[SENT_REVISION]) revision = i;
    }
    if (verdict < 0) {
        rule->ban = n < MIN_CRITIQUE_TOKENS ? r->ban_all : r->ban_critique;
        if (n >= r->critique_tokens) rule->force = s[SENT_VERDICT];
    } else if (verdict == n - 1) {
        rule->allow = r->verdict_choice;
        rule->n_allow = 2;
    } else if (revision < 0)
        rule->force = text[n - 1] == s[SENT_OK] ? s[SENT_END] : s[SENT_REVISION];
    else {
        rule->ban = r->ban_revision;
        if (n - 1 - revision >= r->reply_tokens) rule->force = s[SENT_END];
    }
}

static void ban_reserved(uint8_t *ban, const StageText *t, int allowed) {
    for (int32_t i = 0; i < tokenizer_n_vocab(t->tok); i++) ban[i] = tokenizer_is_special(t->tok, i);
    if (allowed >= 0) ban[t->chat.id[allowed]] = 0;
}

static char *decode(const StageText *t, const int32_t *id, int n) {
    Str s = {0};
    tokenizer_decode(t->tok, id, n, false, &s);
    return str_detach(&s);
}

static Dialogue user_turn(Message *m, const Chain *c) {
    *m = (Message){ROLE_USER, c->prompt->text};
    return (Dialogue){m, 1};
}

/* Requests whose sequences are built by the caller; frees the sequences. */
typedef struct {
    Sequence *seq;
    GenRequest *req;
    GenResult *res;
    int *chain;
    int n;
} Calls;

static void calls_init(Calls *c, int n) {
    *c = (Calls){.seq = mem_alloc((size_t)(n + 1) * sizeof *c->seq),
                 .req = mem_alloc((size_t)(n + 1) * sizeof *c->req),
                 .res = mem_alloc((size_t)(n + 1) * sizeof *c->res),
                 .chain = mem_alloc((size_t)(n + 1) * sizeof *c->chain)};
}

static void calls_release(Calls *c, bool results) {
    if (results) engine_free_results(c->res, c->n);
    for (int i = 0; i < c->n; i++) sequence_release(&c->seq[i]);
    free(c->seq);
    free(c->req);
    free(c->res);
    free(c->chain);
}

static Sequence *calls_add(Calls *c, int chain) {
    c->chain[c->n] = chain;
    return &c->seq[c->n++];
}

static bool calls_run(Calls *c, const Reviser *r, const Chain *chain, const SampleParams *p, const char *what,
                      Error *err) {
    char key[300];
    for (int i = 0; i < c->n; i++) {
        snprintf(key, sizeof key, "%s/%s", chain[c->chain[i]].id, what);
        c->req[i] = (GenRequest){.id = stage_id(key), .prompt = {c->seq[i].tok.id, c->seq[i].tok.n}, .sample = *p};
    }
    return sequences_ok(c->seq, c->n, err) &&
           engine_generate(r->engine, c->req, c->n, c->res, r->ctx->log, r->ctx->stop, err);
}

static void reject_chain(Chain *c, Reject why) {
    c->active = false;
    c->outcome = OUTCOME_REJECTED;
    c->reject = why;
}

bool revise_replies(Reviser *r, Chain *chain, int n, Error *err) {
    const Chat *chat = &r->text->chat;
    Calls calls;
    SampleParams p;
    uint8_t *ban = mem_alloc((size_t)tokenizer_n_vocab(r->text->tok));
    calls_init(&calls, n);
    ban_reserved(ban, r->text, SENT_END);
    CritiqueRule only_end = {.ban_revision = ban};
    stage_sampling(&p, r->ctx, &r->ctx->cfg->revise.s, &chat->id[SENT_END], 1);
    p.hook = reply_rule;
    p.hook_ud = &only_end;
    for (int i = 0; i < n; i++) {
        Message m;
        chat_respond(calls_add(&calls, i), chat, user_turn(&m, &chain[i]));
    }
    bool ok = calls_run(&calls, r, chain, &p, "reply", err);
    for (int i = 0; i < n && ok; i++) {
        const GenResult *g = &calls.res[i];
        bool ended = g->why == STOP_TOKEN;
        chain[i].reply = decode(r->text, g->text, g->n - ended);
        chain[i].current = chain[i].reply;
        chain[i].active = true;
        chain[i].reply_truncated = !ended;
        if (!ended) reject_chain(&chain[i], g->why == STOP_CONTEXT ? REJECT_CONTEXT : REJECT_TRUNCATED);
    }
    calls_release(&calls, ok);
    free(ban);
    return ok;
}

void reply_rule(void *ud, uint64_t id, const int32_t *text, int n, GenRule *rule) {
    const CritiqueRule *r = ud;
    (void)id, (void)text, (void)n;
    rule->ban = r->ban_revision;
}

/* What follows a heading begins with the space between them. */
static char *decode_reply(const StageText *t, const int32_t *id, int n) {
    char *s = decode(t, id, n);
    size_t blank = t->chat.headings ? strspn(s, " \n") : 0;
    memmove(s, s + blank, strlen(s) - blank + 1);
    return s;
}

/* A span of generated ids between two sentinels -> text. */
static void read_round(Round *q, const StageText *t, const GenResult *g, const CritiqueRule *rule) {
    CritiqueParse parse = {0};
    if (t->chat.headings) { /* the verdict is another call */
        bool ended = g->why == STOP_TOKEN;
        q->critique = decode_reply(t, g->text, g->n - ended);
        q->n_forced = 1 + !ended; /* as natively, where one seam always is */
        return;
    }
    if (rule->two_calls) { /* ends with the verdict */
        parse.n_critique = g->n - 2;
        parse.violates = g->text[g->n - 1] == t->chat.id[SENT_VIOLATES];
    } else {
        bool ok = chat_critique_parse(&t->chat, g->text, g->n, &parse);
        CHECK(ok, "a generated critique does not parse (%d tokens)", g->n);
    }
    q->critique = decode(t, g->text + parse.critique, parse.n_critique);
    q->violates = parse.violates;
    q->verdict_odds = g->odds;
    q->n_forced = g->n_forced;
    if (parse.violates && !rule->two_calls) {
        q->revision = decode(t, g->text + parse.revision, parse.n_revision);
        q->truncated = parse.n_revision >= rule->reply_tokens;
    }
}

/* "critique2", and "critique2.1" for the first attempt after it was rejected: what keys the random numbers of a call.
 */
static void call_name(char out[32], const char *what, const Round *q, int round) {
    if (q->n_retry)
        snprintf(out, 32, "%s%d.%d", what, round, q->n_retry);
    else
        snprintf(out, 32, "%s%d", what, round);
}

/* Second call of two-call mode: only now the revision request is in the prompt. */
static bool second_call(Reviser *r, Chain *chain, const int *of, int n_of, Error *err) {
    const Chat *chat = &r->text->chat;
    Calls calls;
    SampleParams p;
    Str rule = {0};
    bool ok = true;
    uint8_t *ban = mem_alloc((size_t)tokenizer_n_vocab(r->text->tok));
    ban_reserved(ban, r->text, SENT_END);
    CritiqueRule only_end = {.ban_revision = ban};
    stage_sampling(&p, r->ctx, &r->ctx->cfg->revise.s, &chat->id[SENT_END], 1);
    p.hook = reply_rule;
    p.hook_ud = &only_end;
    calls_init(&calls, n_of);
    for (int i = 0; i < n_of; i++) {
        Chain *c = &chain[of[i]];
        Round *q = &c->round[c->n_round - 1];
        if (!q->violates) continue;
        Message m;
        Sequence *s = calls_add(&calls, of[i]);
        const Principle *pr = round_principle(r, q);
        principle_text(&rule, pr);
        chat_revision_prompt(s, chat, user_turn(&m, c), c->current, str_get(&rule), principle_critique(pr), q->critique,
                             principle_revise(pr));
        if (s->tok.n + p.max_new <= r->max_len) continue;
        ok = ok && sequence_ok(s, err); /* no room: the round has no revision, and its filter says CONTEXT */
        sequence_release(s);
        calls.n--;
    }
    char what[32] = "";
    const Chain *first = n_of ? &chain[of[0]] : NULL;
    if (first) call_name(what, "revise", &first->round[first->n_round - 1], first->n_round);
    bool ran = ok && calls_run(&calls, r, chain, &p, what, err);
    for (int i = 0; i < calls.n && ran; i++) {
        Round *q = &chain[calls.chain[i]].round[chain[calls.chain[i]].n_round - 1];
        const GenResult *g = &calls.res[i];
        q->truncated = g->why != STOP_TOKEN;
        q->revision = decode_reply(r->text, g->text, g->n - !q->truncated);
    }
    calls_release(&calls, ran);
    str_release(&rule);
    free(ban);
    return ran;
}

/* Verdicts in words, asked for in both orders so that a liking for (A) cancels: odds = (l - l_flipped) / 2. A dialogue
 * that has no room left for the question counts as a violation, whose revision has no room either. */
static bool verdict_calls(Reviser *r, Chain *chain, const int *of, int n_of, Error *err) {
    const Chat *chat = &r->text->chat;
    Sequence *seq = mem_alloc((size_t)(2 * n_of + 1) * sizeof *seq);
    Tokens *prompt = mem_alloc((size_t)(2 * n_of + 1) * sizeof *prompt);
    float *lp = mem_alloc((size_t)(4 * n_of + 1) * sizeof *lp);
    int *owner = mem_alloc((size_t)(n_of + 1) * sizeof *owner), n = 0;
    const int32_t option[] = {chat->id[SENT_FIRST], chat->id[SENT_SECOND]};
    Str rule = {0};
    for (int i = 0; i < n_of; i++) {
        Chain *c = &chain[of[i]];
        Round *q = &c->round[c->n_round - 1];
        const Principle *pr = round_principle(r, q);
        Message m;
        bool fits = true;
        principle_text(&rule, pr);
        for (int flip = 0; flip < 2; flip++) {
            Sequence *s = &seq[2 * i + flip];
            chat_verdict_prompt(s, chat, user_turn(&m, c), c->current, str_get(&rule), principle_critique(pr),
                                q->critique, flip);
            prompt[2 * n + flip] = (Tokens){s->tok.id, s->tok.n};
            fits = fits && s->tok.n <= r->max_len;
        }
        q->violates = true;
        q->verdict_odds = NAN;
        if (fits) owner[n++] = of[i];
    }
    bool ok = sequences_ok(seq, 2 * n_of, err) && engine_options(r->engine, prompt, 2 * n, option, 2, lp, err);
    for (int i = 0; i < n && ok; i++) {
        Chain *c = &chain[owner[i]];
        Round *q = &c->round[c->n_round - 1];
        const float *l = lp + 4 * i;
        q->verdict_odds = ((l[0] - l[1]) - (l[2] - l[3])) / 2;
        q->violates = q->verdict_odds < 0;
    }
    for (int i = 0; i < 2 * n_of; i++) sequence_release(&seq[i]);
    free(seq);
    free(prompt);
    free(lp);
    free(owner);
    str_release(&rule);
    return ok;
}

const Principle *round_principle(const Reviser *r, const Round *q) {
    return q->principle == r->con->n ? &r->joint : &r->con->principle[q->principle];
}

/* Chain number i asks for a critique, when `room` tokens of answer fit. CONTEXT is found here, before generating: a
 * chain whose room ends keeps what earlier rounds gave. */
static void add_critique(Calls *calls, Reviser *r, Chain *c, int i, const CritiqueRule *rule, int room) {
    Message m;
    Str text = {0};
    Sequence *s = calls_add(calls, i);
    const Principle *pr = round_principle(r, &c->round[c->n_round - 1]);
    principle_text(&text, pr);
    chat_critique_prompt(s, rule->chat, user_turn(&m, c), c->current, str_get(&text), principle_critique(pr),
                         rule->two_calls ? "" : principle_revise(pr));
    str_release(&text);
    if (s->tok.n + room <= r->max_len) return;
    c->n_round--;
    if (c->outcome == OUTCOME_REVISED)
        c->active = false;
    else
        reject_chain(c, REJECT_CONTEXT);
    sequence_release(s);
    calls->n--;
}

/* Critique calls of this round for every active chain, or those to be made again; of[] receives those that were made.
 */
static bool critique_calls(Reviser *r, Chain *chain, int n, bool again, int *of, int *n_of, Error *err) {
    const StageText *t = r->text;
    const Chat *chat = &t->chat;
    size_t v = (size_t)tokenizer_n_vocab(t->tok);
    uint8_t *ban = mem_alloc(3 * v);
    ban_reserved(ban, t, -1);
    ban_reserved(ban + v, t, SENT_VERDICT);
    ban_reserved(ban + 2 * v, t, SENT_END);
    CritiqueRule rule = {.chat = chat,
                         .ban_all = ban,
                         .ban_critique = ban + v,
                         .ban_revision = ban + 2 * v,
                         .critique_tokens = (int)r->ctx->cfg->revise.critique_tokens,
                         .reply_tokens = (int)r->ctx->cfg->revise.s.max_new,
                         .verdict_choice = {chat->id[SENT_OK], chat->id[SENT_VIOLATES]},
                         .two_calls = chat->headings || r->ctx->cfg->revise.mode == 1};
    const int32_t stop_one[] = {chat->id[SENT_END]}, stop_two[] = {chat->id[SENT_OK], chat->id[SENT_VIOLATES]};
    bool at_verdict = rule.two_calls && !chat->headings;
    SampleParams p;
    stage_sampling(&p, r->ctx, &r->ctx->cfg->revise.s, at_verdict ? stop_two : stop_one, at_verdict ? 2 : 1);
    p.hook = chat->headings ? reply_rule : critique_rule;
    p.hook_ud = &rule;
    int room = rule.critique_tokens + 3 + rule.reply_tokens + 1;
    p.max_new = chat->headings ? rule.critique_tokens : room;
    Calls calls;
    calls_init(&calls, n);
    for (int i = 0; i < n; i++) {
        if (!chain[i].active || (again && !chain[i].again)) continue;
        add_critique(&calls, r, &chain[i], i, &rule, room);
    }
    char what[32] = "";
    const Chain *first = calls.n ? &chain[calls.chain[0]] : NULL;
    if (first) call_name(what, "critique", &first->round[first->n_round - 1], first->n_round);
    bool ok = calls_run(&calls, r, chain, &p, what, err);
    for (int i = 0; i < calls.n && ok; i++) {
        Chain *c = &chain[calls.chain[i]];
        read_round(&c->round[c->n_round - 1], t, &calls.res[i], &rule);
        of[i] = calls.chain[i];
    }
    *n_of = calls.n;
    calls_release(&calls, ok);
    free(ban);
    ok = ok && (!chat->headings || verdict_calls(r, chain, of, *n_of, err));
    return ok && (!rule.two_calls || second_call(r, chain, of, *n_of, err));
}

static Reject filter(Reviser *r, const Chain *c, const Round *q) {
    const RunConfig *cfg = r->ctx->cfg;
    const Principle *p = round_principle(r, q);
    if (!q->revision) return REJECT_CONTEXT;
    /* What stood in the prompt must not come back as part of the answer. */
    const char *const shown[] = {p->text, principle_critique(p), principle_revise(p), principle_compare(p)};
    FilterInput f = {.leak = shown,
                     .n_leak = COUNT_OF(shown),
                     .prompt = c->prompt->text,
                     .previous = c->current,
                     .critique = q->critique,
                     .revision = q->revision,
                     .truncated = q->truncated,
                     .min_words = (int)cfg->revise.min_words,
                     .need_quote = cfg->revise.need_quote,
                     .max_similar = cfg->revise.max_similar,
                     .min_similar = cfg->revise.min_similar};
    Reject why = filter_revision(&f);
    if (why == REJECT_NONE && r->eval_grams && gramset_hits(r->eval_grams, q->revision)) why = REJECT_CONTAM;
    if (why == REJECT_NONE && text_evasive(q->revision) &&
        evasive_quota_full(cfg->revise.evasive_share, r->n_evasive, r->n_accepted))
        why = REJECT_EVASIVE;
    return why;
}

/* The judge must prefer the revision in both orders. */
static bool gate(Reviser *r, Chain *chain, const int *of, int n_of, Error *err) {
    JudgeItem *item = mem_alloc((size_t)(n_of + 1) * sizeof *item);
    Message *msg = mem_alloc((size_t)(n_of + 1) * sizeof *msg);
    Judged *out = mem_alloc((size_t)(n_of + 1) * sizeof *out);
    Round **round = mem_alloc((size_t)(n_of + 1) * sizeof *round);
    Str rule = {0};
    Heap rules = {0};
    int n = 0;
    for (int i = 0; i < n_of; i++) {
        Chain *c = &chain[of[i]];
        Round *q = &c->round[c->n_round - 1];
        if (!q->violates || q->reject != REJECT_NONE) continue;
        const Principle *p = round_principle(r, q);
        principle_text(&rule, p);
        item[n] = (JudgeItem){user_turn(&msg[n], c), q->revision, c->current, principle_compare(p),
                              heap_strn(&rules, str_get(&rule), rule.n)};
        round[n++] = q;
    }
    Judge judge = {.engine = r->engine, .chat = &r->text->chat, .max_len = r->max_len, .remote = r->remote};
    judge_configure(&judge, r->ctx);
    bool ok = judge_ask(&judge, out, item, n, err);
    for (int i = 0; i < n && ok; i++) {
        Round *q = round[i];
        if (!out[i].scored) {
            q->reject = out[i].miss == MISS_CONTEXT ? REJECT_CONTEXT : REJECT_ABSTAIN;
            continue;
        }
        q->gate_p = sigmoid(judged_l(out[i]));
        if (judged_flip(out[i]))
            q->reject = REJECT_FLIP;
        else if (q->gate_p < r->ctx->cfg->revise.gate_min)
            q->reject = REJECT_WORSE;
    }
    str_release(&rule);
    heap_release(&rules);
    free(item);
    free(msg);
    free(out);
    free(round);
    return ok;
}

static void settle(Reviser *r, Chain *c) {
    Round *q = &c->round[c->n_round - 1];
    if (!q->violates) {
        if (++c->n_ok_in_row == 2) c->active = false;
        return;
    }
    c->n_ok_in_row = 0;
    if (q->reject != REJECT_NONE) {
        /* An earlier accepted revision stands; without one the dialogue is known to be bad and not mended. */
        if (c->outcome == OUTCOME_REVISED)
            c->active = false;
        else
            reject_chain(c, q->reject);
        return;
    }
    c->outcome = OUTCOME_REVISED;
    c->current = q->revision;
    r->n_accepted++;
    r->n_evasive += text_evasive(q->revision);
}

static bool one_attempt(Reviser *r, Chain *chain, int n, bool again, int *of, int *n_of, Error *err) {
    bool ok = critique_calls(r, chain, n, again, of, n_of, err);
    for (int i = 0; i < *n_of && ok; i++) {
        Chain *c = &chain[of[i]];
        Round *q = &c->round[c->n_round - 1];
        if (q->violates) q->reject = filter(r, c, q);
    }
    return ok && (!r->ctx->cfg->revise.gate || gate(r, chain, of, *n_of, err));
}

/* Marks what was rejected for another attempt, under the same principle; how many. A context does not grow by asking.
 */
static int take_back(Chain *chain, const int *of, int n_of) {
    int m = 0;
    for (int i = 0; i < n_of; i++) {
        Chain *c = &chain[of[i]];
        Round *q = &c->round[c->n_round - 1];
        c->again = q->violates && q->reject != REJECT_NONE && q->reject != REJECT_CONTEXT;
        if (!c->again) continue;
        m++;
        free(q->critique);
        free(q->revision);
        q->critique = q->revision = NULL;
        q->reject = REJECT_NONE;
        q->gate_p = NAN;
        q->violates = q->truncated = false;
        q->n_retry++;
    }
    return m;
}

bool revise_round(Reviser *r, Chain *chain, int n, Error *err) {
    int *of = mem_alloc((size_t)(n + 1) * sizeof *of), n_of = 0;
    bool ok = revise_pick(r, chain, n, err) && one_attempt(r, chain, n, false, of, &n_of, err);
    for (int64_t k = r->ctx->cfg->revise.retries; ok; k--) {
        int again = k > 0 ? take_back(chain, of, n_of) : 0;
        for (int i = 0; i < n_of; i++)
            if (!again || !chain[of[i]].again) settle(r, &chain[of[i]]);
        if (!again) break;
        ok = one_attempt(r, chain, n, true, of, &n_of, err);
    }
    free(of);
    return ok;
}

void chain_release(Chain *c) {
    for (int i = 0; i < c->n_round; i++) {
        free(c->round[i].critique);
        free(c->round[i].revision);
    }
    free(c->id);
    free(c->reply);
    *c = (Chain){0};
}
