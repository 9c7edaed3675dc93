// layer: cai
/* Critique, revision and judging with a random model: structure holds whatever the weights say, chains end as they
 * should, and judging has no side. */
#include "cai_help.h"

#include <math.h>

#include "revise_world.h"

static const char *const reply_text[] = {
    "steal the cars .", "i will not .", "get tools", "sell", "wash dogs then steal", "no"};
enum { N_REPLY = COUNT_OF(reply_text) };

static CritiqueRule rule_of(const World *w, int critique, int reply) {
    const int32_t *id = w->text.chat.id;
    return (CritiqueRule){.chat = &w->text.chat,
                          .ban_all = w->ban[0],
                          .ban_critique = w->ban[1],
                          .ban_revision = w->ban[2],
                          .critique_tokens = critique,
                          .reply_tokens = reply,
                          .verdict_choice = {id[SENT_OK], id[SENT_VIOLATES]}};
}

static GenRule ask(const CritiqueRule *r, const int32_t *text, int n) {
    GenRule out = {.force = -1};
    critique_rule((void *)r, 1, text, n, &out);
    return out;
}

static void rule_by_hand(void **state) {
    World *w = *state;
    const int32_t *s = w->text.chat.id, x = SENT_COUNT + 5;
    CritiqueRule r = rule_of(w, 6, 3);
    int32_t t[32] = {x, x, x, x, x, x, s[SENT_VERDICT], s[SENT_VIOLATES], s[SENT_REVISION], x, x, x, x};
    for (int n = 0; n < 4; n++) { /* a critique has words */
        GenRule g = ask(&r, t, n);
        assert_true(g.ban == w->ban[0] && g.force == -1 && g.n_allow == 0);
    }
    for (int n = 4; n < 6; n++) {
        GenRule g = ask(&r, t, n);
        assert_true(g.ban == w->ban[1] && g.force == -1 && g.n_allow == 0);
    }
    assert_int_equal(ask(&r, t, 6).force, s[SENT_VERDICT]); /* its budget is spent */
    GenRule v = ask(&r, t, 7);
    assert_int_equal(v.n_allow, 2);
    assert_true(v.allow[0] == s[SENT_OK] && v.allow[1] == s[SENT_VIOLATES] && v.force == -1);
    assert_int_equal(ask(&r, t, 8).force, s[SENT_REVISION]);
    for (int n = 9; n < 12; n++) {
        GenRule g = ask(&r, t, n);
        assert_true(g.ban == w->ban[2] && g.force == -1 && g.n_allow == 0);
    }
    assert_int_equal(ask(&r, t, 12).force, s[SENT_END]);
    t[7] = s[SENT_OK];
    assert_int_equal(ask(&r, t, 8).force, s[SENT_END]);
    t[4] = s[SENT_VERDICT]; /* before the budget is spent */
    assert_int_equal(ask(&r, t, 5).n_allow, 2);
    t[5] = s[SENT_VIOLATES];
    assert_int_equal(ask(&r, t, 6).force, s[SENT_REVISION]);
}

enum { N_GEN = 1000, BATCH = 125 };

static void any_generation_parses(void **state) {
    World *w = *state;
    const Chat *c = &w->text.chat;
    int ok = 0, violates = 0, ended = 0, budget = 0;
    for (int b = 0; b < N_GEN / BATCH; b++) {
        CritiqueRule r = rule_of(w, 4 + b, 1 + b % 5);
        SampleParams p = {.temperature = 0.5 + b,
                          .top_p = 1,
                          .repetition = 1,
                          .max_new = r.critique_tokens + 4 + r.reply_tokens,
                          .rng = {(uint64_t)b, RNG_SAMPLE},
                          .stop = &c->id[SENT_END],
                          .n_stop = 1,
                          .hook = critique_rule,
                          .hook_ud = &r};
        GenRequest req[BATCH];
        GenResult out[BATCH];
        Sequence s = {0};
        Message m = {ROLE_USER, w->prompt[b % N_PROMPT].text};
        chat_critique_prompt(&s, c, (Dialogue){&m, 1}, "get tools", "The assistant keeps rules.", "", "");
        for (int i = 0; i < BATCH; i++) req[i] = (GenRequest){(uint64_t)(b * BATCH + i), {s.tok.id, s.tok.n}, p};
        generate(w->engine, req, BATCH, out);
        for (int i = 0; i < BATCH; i++) {
            CritiqueParse q;
            assert_true(chat_critique_parse(c, out[i].text, out[i].n, &q));
            assert_int_equal(out[i].why, STOP_TOKEN);
            assert_int_equal(out[i].text[out[i].n - 1], c->id[SENT_END]);
            assert_in_range(q.n_critique, 4, r.critique_tokens);
            assert_true(isfinite(out[i].odds));
            for (int k = 0; k < q.n_critique; k++)
                assert_false(tokenizer_is_special(w->tok, out[i].text[q.critique + k]));
            int forced = q.n_critique == r.critique_tokens; /* the verdict */
            budget += forced;
            forced++; /* what follows the verdict's word */
            if (q.violates) {
                violates++;
                assert_in_range(q.n_revision, 0, r.reply_tokens);
                assert_false(q.truncated);
                for (int k = 0; k < q.n_revision; k++)
                    assert_false(tokenizer_is_special(w->tok, out[i].text[q.revision + k]));
                forced += q.n_revision == r.reply_tokens;
                ended += q.n_revision < r.reply_tokens;
            } else
                ok++;
            assert_int_equal(out[i].n_forced, forced);
        }
        engine_free_results(out, BATCH);
        sequence_release(&s);
    }
    assert_true(ok > 50 && violates > 50 && ended > 50 && budget > 50 &&
                budget < N_GEN - 10); /* every path was walked */
}

/* What must hold after any number of rounds. counts: by outcome. */
static void chains_check(const Chain *chain, const RunConfig *cfg, int counts[3]) {
    memset(counts, 0, 3 * sizeof *counts);
    for (int i = 0; i < N_CHAIN; i++) {
        const Chain *c = &chain[i];
        const char *current = c->reply;
        int in_row = 0;
        bool over = false;
        uint64_t used = 0;
        counts[c->outcome]++;
        for (int k = 0; k < c->n_round; k++) {
            const Round *q = &c->round[k];
            assert_false(over); /* nothing follows the end of a chain */
            assert_non_null(q->critique);
            assert_true(q->violates == (q->verdict_odds == q->verdict_odds && q->revision != NULL));
            assert_true(q->violates || q->reject == REJECT_NONE);
            assert_true(q->propensity > 0 && q->propensity <= 1);
            assert_int_equal(q->n_candidate, 0);    /* of an even draw */
            assert_false(used >> q->principle & 1); /* five principles, at most four rounds */
            used |= (uint64_t)1 << q->principle;
            if (cfg->revise.gate && q->violates && q->reject == REJECT_NONE)
                assert_true(q->gate_p >= cfg->revise.gate_min);
            if (q->reject == REJECT_WORSE) assert_true(q->gate_p < cfg->revise.gate_min);
            if (!cfg->revise.gate)
                assert_true(isnan(q->gate_p) && q->reject != REJECT_FLIP && q->reject != REJECT_WORSE);
            in_row = q->violates ? 0 : in_row + 1;
            if (q->violates && q->reject == REJECT_NONE) current = q->revision;
            over = in_row == 2 || q->reject != REJECT_NONE;
        }
        assert_true(c->used == used && c->n_round > 0);
        assert_ptr_equal(c->current, current); /* an ok copies; a reject leaves what stood */
        assert_int_equal(c->active, !over);
        bool accepted = current != c->reply;
        const Round *last = &c->round[c->n_round - 1];
        Outcome want = accepted ? OUTCOME_REVISED : last->reject != REJECT_NONE ? OUTCOME_REJECTED : OUTCOME_KEPT;
        assert_int_equal(c->outcome, want);
        assert_int_equal(c->reject, want == OUTCOME_REJECTED ? last->reject : REJECT_NONE);
    }
}

/* As nothing but one slot's preference, or no preference at all: every pair is a tie at one half. */
static void judge_without_opinion(World *w, bool none, double *kept) {
    int c = w->nets.model.cfg.d_model;
    double *nothing = mem_alloc((size_t)c * sizeof *nothing);
    for (int k = 0; k < 2; k++) {
        int64_t id = w->text.chat.id[k ? SENT_SECOND : SENT_FIRST];
        if (none) tensor_get_row(w->nets.be, kept + k * c, w->nets.lm.w, id);
        tensor_set_row(w->nets.be, w->nets.lm.w, id, none ? nothing : kept + k * c);
    }
    free(nothing);
    w->nets.model.version++;
}

static void chains_end_correctly(void **state) {
    World *w = *state;
    enum { NO_GATE, SLOT, TIE_ENOUGH, TIE_NOT_ENOUGH, N_GATE };
    int ungated[2] = {0};
    for (int variant = 0; variant < 2 * N_GATE; variant++) {
        int judge = variant / 2, counts[3], kind[REJECT_COUNT] = {0};
        double kept[2 * 64];
        w->cfg.revise.mode = variant & 1;
        w->cfg.revise.gate = judge != NO_GATE;
        w->cfg.revise.gate_min = judge == TIE_NOT_ENOUGH ? 0.6 : 0.5;
        if (judge >= TIE_ENOUGH) judge_without_opinion(w, true, kept);
        Reviser r = {.ctx = &w->ctx,
                     .engine = w->engine,
                     .text = &w->text,
                     .con = &w->con,
                     .selector = w->selector,
                     .max_len = LONG};
        Chain chain[N_CHAIN];
        Error err = {0};
        chains_make(w, chain);
        for (int round = 0; round < 4; round++) {
            assert_ok(revise_round(&r, chain, N_CHAIN, &err), err);
            chains_check(chain, &w->cfg, counts);
        }
        if (judge >= TIE_ENOUGH) judge_without_opinion(w, false, kept);
        for (int i = 0; i < N_CHAIN; i++) kind[chain[i].reject]++;
        assert_true(kind[REJECT_TRUNCATED] > 5 && counts[OUTCOME_KEPT] > 5);
        if (judge == NO_GATE) {
            assert_true(counts[OUTCOME_REVISED] > 5);
            ungated[variant] = counts[OUTCOME_REVISED];
        }
        if (judge == SLOT) assert_true(counts[OUTCOME_REVISED] == 0 && kind[REJECT_FLIP] == ungated[variant & 1]);
        if (judge == TIE_ENOUGH) assert_int_equal(counts[OUTCOME_REVISED], ungated[variant & 1]);
        if (judge == TIE_NOT_ENOUGH)
            assert_true(counts[OUTCOME_REVISED] == 0 && kind[REJECT_WORSE] == ungated[variant & 1]);
        for (int i = 0; i < N_CHAIN; i++) chain_release(&chain[i]);
    }
    w->cfg.revise.mode = 0;
    w->cfg.revise.gate = false;
}

static void no_room_is_context(void **state) {
    World *w = *state;
    Reviser r = {
        .ctx = &w->ctx, .engine = w->engine, .text = &w->text, .con = &w->con, .selector = w->selector, .max_len = 30};
    Chain chain[N_CHAIN];
    Error err = {0};
    chains_make(w, chain);
    assert_ok(revise_round(&r, chain, N_CHAIN, &err), err);
    for (int i = 0; i < N_CHAIN; i++) {
        assert_true(!chain[i].active && chain[i].outcome == OUTCOME_REJECTED && chain[i].reject == REJECT_CONTEXT);
        assert_int_equal(chain[i].n_round, 0);
        chain_release(&chain[i]);
    }
}

/* What the selector scored, best first; under top1 the best not yet used is taken. */
static void candidates_are_kept(void **state) {
    World *w = *state;
    Selector *best;
    Chain chain[N_CHAIN];
    Error err = {0};
    Str query = {0};
    double score[64];
    assert_ok(selector_open(&best, &w->con, USE_CRITIQUE, SELECT_TOP1, 0, (Rng){3, RNG_PRINCIPLE}, &err), err);
    w->cfg.constitution.select = SELECT_TOP1;
    Reviser r = {
        .ctx = &w->ctx, .engine = w->engine, .text = &w->text, .con = &w->con, .selector = best, .max_len = LONG};
    chains_make(w, chain);
    assert_ok(revise_round(&r, chain, N_CHAIN, &err), err);
    for (int i = 0; i < N_CHAIN; i++) {
        const Round *q = &chain[i].round[0];
        str_clear(&query);
        str_printf(&query, "%s %s", chain[i].prompt->text, chain[i].reply);
        assert_int_equal(q->n_candidate, N_PRINCIPLE);
        assert_true(q->candidate[0] == q->principle && q->propensity == 1);
        selector_scores(best, str_get(&query), score);
        for (int k = 0; k < q->n_candidate; k++) {
            assert_true(q->score[k] == score[q->candidate[k]]);
            assert_true(k == 0 || q->score[k] <= q->score[k - 1]);
        }
        chain_release(&chain[i]);
    }
    w->cfg.constitution.select = SELECT_RANDOM;
    str_release(&query);
    selector_close(best);
}

/* ---- the same model under a vocabulary without sentinels: asked in words */

/* What t reads from is returned: to be released after it is closed. */
static Json *words_open(StageText *t, const World *w) {
    static const char source[] =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    static const char config[] = "{\"eos_token\": \"<|im_end|>\"}";
    const char *special[SENT_COUNT];
    char name[SENT_COUNT][20];
    Str json = {0};
    Json *root = NULL;
    int at = 0;
    Error err = {0};
    for (int i = 0; i < SENT_COUNT; i++) {
        snprintf(name[i], sizeof name[i], "<|other_%d|>", i);
        special[i] = i == SENT_END ? "<|im_end|>" : i == SENT_USER ? "<|im_start|>" : name[i];
    }
    BpeTrainParams p = {
        .n_vocab = 330, .split = SPLIT_GPT2, .special = special, .n_special = SENT_COUNT, .min_count = 2};
    assert_ok(bpe_train(&json, &p, next_text, &at, &err), err);
    assert_ok(tokenizer_parse(&t->tok, json.s, json.n, "other", &err), err);
    assert_int_equal(tokenizer_n_vocab(t->tok), tokenizer_n_vocab(w->tok));
    assert_ok(json_parse(&root, config, sizeof config - 1, 0, "config", 1, &err), err);
    assert_ok(chat_open_template(&t->chat, t->tok, source, sizeof source - 1, root, "here", CHAT_FIXED_DAY, &err), err);
    assert_true(t->chat.headings && t->chat.id[SENT_END] == w->text.chat.id[SENT_END]);
    str_release(&json);
    return root;
}

/* log p(keeps) - log p(breaks), asked with "keeps" as (A) and as (B). */
static double verdict_of(const World *w, const StageText *t, const char *critique, const Chain *c, int principle) {
    const int32_t option[] = {t->chat.id[SENT_FIRST], t->chat.id[SENT_SECOND]};
    const Principle *p = &w->con.principle[principle];
    double odds = 0;
    for (int flip = 0; flip < 2; flip++) {
        Sequence s = {0};
        float lp[2];
        Error err = {0};
        Message m = {ROLE_USER, c->prompt->text};
        chat_verdict_prompt(&s, &t->chat, (Dialogue){&m, 1}, c->reply, p->text, principle_critique(p), critique, flip);
        Tokens prompt = {s.tok.id, s.tok.n};
        assert_ok(engine_options(w->engine, &prompt, 1, option, 2, lp, &err), err);
        odds += flip ? (double)lp[1] - (double)lp[0] : (double)lp[0] - (double)lp[1];
        sequence_release(&s);
    }
    return odds / 2;
}

/* What was said for (A) is now said for (B). */
static void exchange_answers(World *w, const StageText *t) {
    int c = w->nets.model.cfg.d_model;
    double *row = mem_alloc(2 * (size_t)c * sizeof *row);
    const int32_t id[] = {t->chat.id[SENT_FIRST], t->chat.id[SENT_SECOND]};
    for (int k = 0; k < 2; k++) tensor_get_row(w->nets.be, row + k * c, w->nets.lm.w, id[k]);
    for (int k = 0; k < 2; k++) tensor_set_row(w->nets.be, w->nets.lm.w, id[!k], row + k * c);
    free(row);
    w->nets.model.version++;
}

static int longest_critique(const World *w, const StageText *t) {
    int longest = 0;
    for (int i = 0; i < N_PROMPT; i++) {
        Sequence s = {0};
        Message m = {ROLE_USER, w->prompt[i].text};
        const Principle *p = &w->con.principle[0];
        chat_critique_prompt(&s, &t->chat, (Dialogue){&m, 1}, "first get tools then sell the cars .", p->text,
                             principle_critique(p), "");
        if (s.tok.n > longest) longest = s.tok.n;
        sequence_release(&s);
    }
    return longest;
}

/* Reasons are a reply to a question; the answer follows under its heading, and the judge reads both orders. */
static void reasons_in_words(void **state) {
    World *w = *state;
    StageText t = {0};
    Json *config = words_open(&t, w);
    Sequence s = {0};
    Str text = {0};
    Error err = {0};
    Message m = {ROLE_USER, "how do i steal cars ?"};
    chat_reason_prompt(&s, &t.chat, (Dialogue){&m, 1}, "no", "get tools", "which is right ?");
    tokenizer_decode(t.tok, s.tok.id, s.tok.n, true, &text);
    assert_non_null(strstr(str_get(&text),
                           "Human: how do i steal cars ?\n\nTwo replies could come next:\n (A) no\n (B) get "
                           "tools\n\nRule: which is right ?\n\nSay what each reply does under the rule, then "
                           "decide."));
    assert_null(strstr(str_get(&text), "Answer with"));
    assert_null(strstr(str_get(&text), "The answer is ("));
    chat_reason_end(&s, &t.chat, 1);
    str_clear(&text);
    tokenizer_decode(t.tok, s.tok.id, s.tok.n, true, &text);
    assert_non_null(strstr(str_get(&text), "\n\nThe answer is ("));
    Judge j = {.engine = w->engine, .chat = &t.chat, .max_len = LONG, .reasons = 2, .reason_tokens = 6, .seed = 1};
    JudgeItem item[] = {{{&m, 1}, "no", "get tools", "which is right ?", NULL},
                        {{&m, 1}, "get tools", "no", "which is right ?", NULL}};
    Judged out[2];
    assert_ok(judge_ask(&j, out, item, 2, &err), err);
    assert_true(out[0].scored && isfinite(out[0].l_ab));
    assert_true(out[0].l_ab == out[1].l_ba && out[0].l_ba == out[1].l_ab);
    sequence_release(&s);
    str_release(&text);
    stage_text_close(&t);
    json_release(config);
}

static void in_words(void **state) {
    World *w = *state;
    StageText t = {0};
    enum { AS_IS, EXCHANGED, NARROW, N_WAY };
    int violates[N_WAY] = {0}, cut = 0;
    Json *config = words_open(&t, w);
    for (int way = 0; way < N_WAY; way++) {
        w->cfg.revise.mode = way & 1; /* says nothing here: there are always two calls */
        if (way == EXCHANGED) exchange_answers(w, &t);
        Reviser r = {.ctx = &w->ctx,
                     .engine = w->engine,
                     .text = &t,
                     .con = &w->con,
                     .selector = w->selector,
                     .max_len = way == NARROW ? longest_critique(w, &t) + 20 : LONG};
        Chain chain[N_CHAIN];
        Error err = {0};
        chains_make(w, chain);
        assert_ok(revise_round(&r, chain, N_CHAIN, &err), err);
        for (int i = 0; i < N_CHAIN; i++) {
            const Chain *c = &chain[i];
            const Round *q = &c->round[0];
            if (way == NARROW) { /* there is room for the critique, not for the question after it */
                assert_true(c->n_round == 1 && isnan(q->verdict_odds) && q->violates && !q->revision);
                cut += c->reject == REJECT_CONTEXT;
                chain_release(&chain[i]);
                continue;
            }
            assert_true(c->n_round == 1 && isfinite(q->verdict_odds));
            assert_true(q->violates == (q->verdict_odds < 0) && (q->revision != NULL) == q->violates);
            if (i % 16 == 0)
                assert_true(fabs((double)q->verdict_odds - verdict_of(w, &t, q->critique, c, q->principle)) < 1e-5);
            assert_true(q->critique[0] != ' ' && !strstr(q->critique, "<|im_end|>"));
            if (q->revision) assert_true(q->revision[0] != ' ');
            violates[way] += q->violates;
            chain_release(&chain[i]);
        }
    }
    int less = violates[AS_IS] < violates[EXCHANGED] ? AS_IS : EXCHANGED;
    assert_true(violates[less] < N_CHAIN / 4 && violates[!less] > N_CHAIN - N_CHAIN / 4);
    assert_int_equal(cut, N_CHAIN);
    exchange_answers(w, &t);
    w->cfg.revise.mode = 0;
    stage_text_close(&t);
    json_release(config);
}

static void first_replies(void **state) {
    World *w = *state;
    Reviser r = {.ctx = &w->ctx,
                 .engine = w->engine,
                 .text = &w->text,
                 .con = &w->con,
                 .selector = w->selector,
                 .max_len = LONG};
    Chain chain[N_CHAIN] = {{0}};
    Error err = {0};
    int cut = 0;
    for (int i = 0; i < N_CHAIN; i++) {
        char id[20];
        snprintf(id, sizeof id, "rv-%d", i);
        chain[i].prompt = &w->prompt[i % N_PROMPT];
        chain[i].id = mem_str(id);
    }
    assert_ok(revise_replies(&r, chain, N_CHAIN, &err), err);
    for (int i = 0; i < N_CHAIN; i++) {
        const Chain *c = &chain[i];
        assert_ptr_equal(c->current, c->reply);
        assert_int_equal(c->active, !c->reply_truncated);
        assert_int_equal(c->reject, c->reply_truncated ? REJECT_TRUNCATED : REJECT_NONE);
        assert_int_equal(c->outcome, c->reply_truncated ? OUTCOME_REJECTED : OUTCOME_KEPT);
        cut += c->reply_truncated;
    }
    assert_true(cut > 5 && cut < N_CHAIN - 5);
    for (int i = 0; i < N_CHAIN; i++) chain_release(&chain[i]);
}

static void judging_has_no_side(void **state) {
    World *w = *state;
    enum { N = N_REPLY * N_REPLY };
    JudgeItem ab[N], ba[N];
    Judged one[N], two[N];
    Message m = {ROLE_USER, "how do i steal cars ?"};
    Error err = {0};
    for (int i = 0; i < N; i++) {
        ab[i] = (JudgeItem){
            {&m, 1}, reply_text[i / N_REPLY], reply_text[i % N_REPLY], principle_compare(&w->con.principle[0]), NULL};
        ba[i] = (JudgeItem){
            {&m, 1}, reply_text[i % N_REPLY], reply_text[i / N_REPLY], principle_compare(&w->con.principle[0]), NULL};
    }
    assert_ok(judge_pairs(one, w->engine, &w->text.chat, ab, N, LONG, &err), err);
    assert_ok(judge_pairs(two, w->engine, &w->text.chat, ba, N, LONG, &err), err);
    int flips = 0;
    for (int i = 0; i < N; i++) {
        assert_true(one[i].scored && two[i].scored);
        assert_true(one[i].l_ab == two[i].l_ba && one[i].l_ba == two[i].l_ab);
        assert_true(judged_l(one[i]) == -judged_l(two[i]));
        assert_true(one[i].l_ab != 0);
        flips += judged_flip(one[i]);
        if (i / N_REPLY == i % N_REPLY) assert_true(judged_l(one[i]) == 0);
    }
    assert_true(flips > 0);
    Sequence s = {0};
    chat_judge_prompt(&s, &w->text.chat, (Dialogue){&m, 1}, reply_text[1], reply_text[1],
                      principle_compare(&w->con.principle[0]));
    assert_ok(judge_pairs(one, w->engine, &w->text.chat, ab, N, s.tok.n, &err), err); /* some do not fit */
    sequence_release(&s);
    int fits = 0;
    for (int i = 0; i < N; i++) {
        fits += one[i].scored;
        if (one[i].scored) assert_true(one[i].l_ab == two[i].l_ba);
    }
    assert_true(fits > 0 && fits < N);
}

static void labels_combine(void **state) {
    (void)state;
    const Principle root = {.authority = AUTH_ROOT, .weight = 1}, heavy = {.authority = AUTH_ROOT, .weight = 3},
                    guide = {.authority = AUTH_GUIDELINE, .weight = 1};
    const Principle *p[] = {&root, &heavy, &guide};
    /* One level, two weights, the second clamped: 1*2 + 3*6 = 20. */
    PairLabel l = label_combine((Judged[]){{3, -1, true, MISS_NONE}, {50, -50, true, MISS_NONE}}, p, 2, 6, 10, 0.05);
    assert_true(fabs(l.q - 1 / (1 + exp(-2.0))) < 1e-12 && l.weight == 1 && l.level == AUTH_ROOT && !l.flip);
    assert_true(l.first_slot == 0.5);
    /* A decided root is not asked by what guidelines say, however loud. */
    l = label_combine((Judged[]){{0.3, -0.3, true, MISS_NONE}, {0, 0, false, MISS_NONE}, {-50, 50, true, MISS_NONE}}, p,
                      3, 6, 1, 0.05);
    assert_true(l.q > 0.5 && l.level == AUTH_ROOT);
    /* An undecided root (0.19) hands on; its own disagreement of orders does not count any more. */
    l = label_combine((Judged[]){{1.19, 0.81, true, MISS_NONE}, {0, 0, false, MISS_NONE}, {-5, 5, true, MISS_NONE}}, p,
                      3, 6, 1, 0.05);
    assert_true(fabs(l.q - 1 / (1 + exp(5.0))) < 1e-12 && l.level == AUTH_GUIDELINE && !l.flip && l.weight == 1);
    /* Nobody decides: near one half and the orders disagree: abstain. The same without disagreement stays a soft label.
     */
    l = label_combine((Judged[]){{1.1, 1.0, true, MISS_NONE}}, p, 1, 6, 1, 0.05);
    assert_true(l.flip && l.weight == 0 && fabs(l.q - 0.5) < 0.05 && l.first_slot == 1);
    l = label_combine((Judged[]){{0.05, -0.05, true, MISS_NONE}}, p, 1, 6, 1, 0.05);
    assert_true(!l.flip && l.weight == 1);
    l = label_combine((Judged[]){{4, 1, true, MISS_NONE}}, p, 1, 6, 1, 0.05); /* disagree, but far from one half */
    assert_true(l.flip && l.weight == 1);
    l = label_combine((Judged[]){{0, 0, false, MISS_REFUSED}}, p, 1, 6, 1, 0.05);
    assert_int_equal(l.miss, MISS_REFUSED);
    assert_true(l.weight == 0 && l.q == 0.5 && l.level == -1 && isnan(l.first_slot));
    /* Swapped sides give the opposite label. */
    PairLabel a = label_combine((Judged[]){{2, -0.5, true, MISS_NONE}, {-1, 0.25, true, MISS_NONE}}, p, 2, 6, 2, 0.05);
    PairLabel b = label_combine((Judged[]){{-0.5, 2, true, MISS_NONE}, {0.25, -1, true, MISS_NONE}}, p, 2, 6, 2, 0.05);
    assert_true(fabs(a.q + b.q - 1) < 1e-12 && a.flip == b.flip && a.weight == b.weight);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rule_by_hand),
                                       cmocka_unit_test(any_generation_parses),
                                       cmocka_unit_test(chains_end_correctly),
                                       cmocka_unit_test(no_room_is_context),
                                       cmocka_unit_test(first_replies),
                                       cmocka_unit_test(candidates_are_kept),
                                       cmocka_unit_test(judging_has_no_side),
                                       cmocka_unit_test(labels_combine),
                                       cmocka_unit_test(in_words),
                                       cmocka_unit_test(reasons_in_words)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
