// layer: cai
/* Rounds beyond the plain one: principles scored by the model, all of them at once, second attempts, the audit of
 * rejects.
 */
#include "revise_world.h"

#include <math.h>

static Reviser reviser(World *w) {
    return (Reviser){.ctx = &w->ctx, .engine = w->engine, .text = &w->text, .con = &w->con, .max_len = LONG};
}

static void release(Reviser *r, Chain *chain) {
    for (int i = 0; i < N_CHAIN; i++) chain_release(&chain[i]);
    revise_pick_close(r);
}

/* -- scores of the model ------------------------------------------------------------------------------------------- */

static const char EXAMPLES[] =
    "{\"schema\":\"dikast-constitution/1\",\"id\":\"h\",\"principles\":["
    "{\"id\":\"zero\",\"text\":\"cars\",\"examples\":[{\"text\":\"steal cars\",\"applies\":true},"
    "{\"text\":\"how do i steal\",\"applies\":true},{\"text\":\"wash cars\",\"applies\":false}]},"
    "{\"id\":\"one\",\"text\":\"dogs\",\"examples\":[{\"text\":\"wash dogs\",\"applies\":true}]},"
    "{\"id\":\"label-only\",\"text\":\"x\",\"use\":[\"label\"]},"
    "{\"id\":\"three\",\"text\":\"tools\"}]}";
enum { WIDTH = 32 };

static void embed_one(const World *w, double x[WIDTH], const char *prompt, const char *reply) {
    Sequence s = {0};
    Message m = {ROLE_USER, prompt};
    float out[WIDTH];
    Error err = {0};
    chat_respond(&s, &w->text.chat, (Dialogue){&m, 1});
    if (reply[0]) chat_reply(&s, &w->text.chat, reply, 0, false);
    assert_ok(engine_embed(w->engine, &(Tokens){s.tok.id, s.tok.n}, 1, out, &err), err);
    for (int k = 0; k < WIDTH; k++) x[k] = (double)out[k];
    sequence_release(&s);
}

static double cosine(const double *a, const double *b, const double *centre) {
    double ab = 0, aa = 0, bb = 0;
    for (int k = 0; k < WIDTH; k++) {
        double x = a[k] - centre[k], y = b[k] - centre[k];
        ab += x * y, aa += x * x, bb += y * y;
    }
    return ab / sqrt(aa * bb);
}

static double odds_one(const World *w, const char *prompt, const char *reply, const char *rule) {
    const int32_t option[] = {w->text.chat.id[SENT_YES], w->text.chat.id[SENT_NO]};
    Sequence s = {0};
    Message m = {ROLE_USER, prompt};
    float lp[2];
    Error err = {0};
    chat_applies_prompt(&s, &w->text.chat, (Dialogue){&m, 1}, reply, rule);
    assert_ok(engine_options(w->engine, &(Tokens){s.tok.id, s.tok.n}, 1, option, 2, lp, &err), err);
    sequence_release(&s);
    return (double)lp[0] - (double)lp[1];
}

/* z over those of v that are listed. */
static double z_of(const double *v, const int *of, int n, int at) {
    double mean = 0, sq = 0;
    for (int i = 0; i < n; i++) mean += v[of[i]];
    mean /= n;
    for (int i = 0; i < n; i++) sq += (v[of[i]] - mean) * (v[of[i]] - mean);
    return sq > 0 ? (v[at] - mean) / sqrt(sq / n) : 0;
}

static void scores_of_the_model(void **state) {
    World *w = *state;
    Constitution c = {0};
    Selector *s = NULL;
    SelectModel *m = NULL;
    Error err = {0};
    static const int choice[] = {0, 1, 3};
    static const SelectQuery q[] = {{"how do i steal dogs ?", "get tools"}, {"why ?", ""}};
    static const char *const example[] = {"steal cars", "how do i steal", "wash dogs", "tools"};
    static const int of[] = {0, 0, 1, 3}, best[2] = {2, 2};
    double x[4][WIDTH], centre[WIDTH] = {0};
    assert_ok(constitution_parse(&c, EXAMPLES, sizeof EXAMPLES - 1, "t", &err), err);
    assert_ok(selector_open(&s, &c, USE_CRITIQUE, SELECT_SAMPLED, 0.1, (Rng){1, RNG_PRINCIPLE}, &err), err);
    selector_parts(s, &c, PARTS_ALL);
    assert_ok(select_model_open(&m, w->engine, &w->text.chat, &c, s, LONG, best[0], &err), err);
    for (int i = 0; i < 4; i++) {
        embed_one(w, x[i], example[i], "");
        for (int k = 0; k < WIDTH; k++) centre[k] += x[i][k] / 4;
    }
    for (ScoreKind kind = SCORE_EMBEDDING; kind <= SCORE_FUSION; kind++) {
        double got[2][64];
        assert_ok(select_model_scores(m, kind, q, 2, got, &err), err);
        for (int i = 0; i < 2; i++) {
            double y[WIDTH], words[64], near[64], sum[64], odds[64];
            char both[80];
            snprintf(both, sizeof both, "%s %s", q[i].prompt, q[i].reply);
            selector_scores(s, both, words);
            embed_one(w, y, q[i].prompt, q[i].reply);
            near[0] = near[1] = near[3] = -2;
            for (int k = 0; k < 4; k++) near[of[k]] = fmax(near[of[k]], cosine(y, x[k], centre));
            for (int k = 0; k < 3; k++)
                sum[choice[k]] = z_of(words, choice, 3, choice[k]) + z_of(near, choice, 3, choice[k]);
            int rank[64];
            selector_order(s, sum, rank, NULL);
            for (int k = 0; k < 3; k++) {
                Str rule = {0};
                principle_text(&rule, &c.principle[choice[k]]);
                odds[choice[k]] = odds_one(w, q[i].prompt, q[i].reply, str_get(&rule));
                str_release(&rule);
            }
            for (int k = 0; k < 3; k++) {
                int p = rank[k];
                double want = kind == SCORE_EMBEDDING ? sum[p]
                              : k >= best[0]          ? -INFINITY
                              : kind == SCORE_ODDS    ? odds[p]
                                                      : sum[p] + z_of(odds, rank, best[0], p);
                if (!(got[i][p] == want || fabs(got[i][p] - want) < 1e-4))
                    fail_msg("kind %d, query %d, principle %d: %g, expected %g", (int)kind, i, p, got[i][p], want);
            }
        }
    }
    select_model_close(m);
    selector_close(s);
    constitution_release(&c);
}

/* A pair that is longer than the context has no odds, and counts by what is known. */
static void too_long_for_odds(void **state) {
    World *w = *state;
    Constitution c = {0};
    Selector *s = NULL;
    SelectModel *m = NULL;
    Error err = {0};
    double a[1][64], b[1][64];
    SelectQuery q = {"how do i steal dogs , how do i steal dogs , how do i steal dogs ?", "get tools"};
    assert_ok(constitution_parse(&c, EXAMPLES, sizeof EXAMPLES - 1, "t", &err), err);
    assert_ok(selector_open(&s, &c, USE_CRITIQUE, SELECT_SAMPLED, 0.1, (Rng){1, RNG_PRINCIPLE}, &err), err);
    assert_ok(select_model_open(&m, w->engine, &w->text.chat, &c, s, 24, 2, &err), err);
    assert_ok(select_model_scores(m, SCORE_EMBEDDING, &q, 1, a, &err), err);
    assert_ok(select_model_scores(m, SCORE_FUSION, &q, 1, b, &err), err);
    assert_memory_equal(a, b, sizeof a);
    select_model_close(m);
    selector_close(s);
    constitution_release(&c);
}

static void rounds_by_the_model(void **state) {
    World *w = *state;
    Reviser r = reviser(w);
    Chain chain[N_CHAIN];
    Error err = {0};
    const char *request[N_PROMPT];
    for (int i = 0; i < N_PROMPT; i++) request[i] = w->prompt[i].text;
    w->cfg.constitution.select = SELECT_SAMPLED;
    w->cfg.constitution.score = SCORE_FUSION;
    w->cfg.constitution.candidates = 3;
    w->cfg.constitution.epsilon = 0.2;
    w->cfg.constitution.tau = 2;
    assert_ok(revise_pick_open(&r, request, N_PROMPT, &err), err);
    chains_make(w, chain);
    assert_ok(revise_round(&r, chain, N_CHAIN, &err), err);
    int outside = 0;
    for (int i = 0; i < N_CHAIN; i++) {
        const Round *q = &chain[i].round[0];
        double sum = 0, mine = 0;
        assert_int_equal(q->n_candidate, N_PRINCIPLE);
        for (int k = 0; k < N_PRINCIPLE; k++) {
            assert_int_equal(isfinite(q->score[k]), k < 3);
            sum += exp(q->score[k] / 2);
            if (q->candidate[k] == q->principle) mine = exp(q->score[k] / 2), outside += k >= 3;
        }
        double want = 0.8 * mine / sum + 0.2 / N_PRINCIPLE;
        if (!(fabs(q->propensity - want) < 1e-12)) fail_msg("propensity %g, expected %g", q->propensity, want);
    }
    assert_in_range(outside, 1, N_CHAIN / 4); /* two of five get a fifth of a fifth each: 19 of 240 */
    release(&r, chain);
    w->cfg.constitution.select = SELECT_RANDOM;
    w->cfg.constitution.score = SCORE_BM25;
}

/* -- all at once --------------------------------------------------------------------------------------------------- */

static void all_principles_at_once(void **state) {
    World *w = *state;
    Reviser r = reviser(w);
    Chain chain[N_CHAIN];
    Error err = {0};
    w->cfg.constitution.select = SELECT_ALL;
    assert_ok(revise_pick_open(&r, NULL, 0, &err), err);
    assert_string_equal(r.joint.text,
                        "1. The assistant keeps rule 0 about cars. 2. The assistant keeps rule 1 about cars. "
                        "3. The assistant keeps rule 2 about cars. 4. The assistant keeps rule 3 about cars. "
                        "5. The assistant keeps rule 4 about cars.");
    chains_make(w, chain);
    for (int k = 0; k < 2; k++) assert_ok(revise_round(&r, chain, N_CHAIN, &err), err);
    int second = 0;
    for (int i = 0; i < N_CHAIN; i++)
        for (int k = 0; k < chain[i].n_round; k++) {
            assert_ptr_equal(round_principle(&r, &chain[i].round[k]), &r.joint);
            assert_true(chain[i].round[k].propensity == 1 && chain[i].used == 0);
            second += k == 1;
        }
    assert_true(second > 20); /* the same rule again */
    release(&r, chain);
    w->cfg.constitution.select = SELECT_RANDOM;
}

/* -- second attempts ----------------------------------------------------------------------------------------------- */

static void rejects_are_tried_again(void **state) {
    World *w = *state;
    static Chain once[N_CHAIN], twice[N_CHAIN];
    Error err = {0};
    Chain *const of[] = {once, twice};
    w->cfg.revise.min_words = 2; /* so that some stay rejected */
    for (int k = 0; k < 2; k++) {
        Reviser r = reviser(w);
        w->cfg.revise.retries = 2 * k;
        assert_ok(revise_pick_open(&r, NULL, 0, &err), err);
        chains_make(w, of[k]);
        assert_ok(revise_round(&r, of[k], N_CHAIN, &err), err);
        revise_pick_close(&r);
    }
    int saved = 0, lost = 0;
    for (int i = 0; i < N_CHAIN; i++) {
        const Round *a = &once[i].round[0], *b = &twice[i].round[0];
        assert_true(once[i].n_round == 1 && twice[i].n_round == 1);
        assert_int_equal(a->n_retry, 0);
        assert_true(a->principle == b->principle && a->propensity == b->propensity);
        if (a->reject == REJECT_NONE) { /* nothing to mend: the same round */
            assert_int_equal(b->n_retry, 0);
            assert_string_equal(a->critique, b->critique);
            assert_int_equal(once[i].outcome, twice[i].outcome);
            continue;
        }
        assert_in_range(b->n_retry, 1, 2);
        assert_true(b->reject == REJECT_NONE || b->n_retry == 2); /* then the last code stands */
        assert_int_equal(twice[i].outcome == OUTCOME_REJECTED, b->reject != REJECT_NONE);
        saved += b->reject == REJECT_NONE;
        lost += b->reject != REJECT_NONE;
    }
    if (saved <= 5 || lost <= 5) fail_msg("%d saved, %d lost", saved, lost);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < N_CHAIN; i++) chain_release(&of[k][i]);
    w->cfg.revise.retries = 0;
    w->cfg.revise.min_words = 0;
}

/* -- the audit ----------------------------------------------------------------------------------------------------- */

static void rejects_are_kept_for_people(void **state) {
    World *w = *state;
    char dir[256];
    Chain chain[N_CHAIN];
    Reviser r = reviser(w);
    Error err = {0};
    int want[REJECT_COUNT] = {0}, all = 0, counted = 0, shown[REJECT_COUNT] = {0};
    help_scratch(dir, "audit");
    w->ctx.output = dir;
    w->cfg.revise.audit = 7;
    w->cfg.revise.min_words = 2;
    assert_ok(revise_pick_open(&r, NULL, 0, &err), err);
    chains_make(w, chain);
    for (int k = 0; k < 3; k++) assert_ok(revise_round(&r, chain, N_CHAIN, &err), err);
    assert_true(chain[0].outcome != OUTCOME_REJECTED || chain[0].n_round > 0);
    chain[0].outcome = OUTCOME_REJECTED; /* as the stage does with a repeated one */
    chain[0].reject = REJECT_DUP;
    assert_ok(revise_audit(&r, chain, N_CHAIN, &err), err);
    for (int i = 0; i < N_CHAIN; i++)
        for (int k = 0; k < chain[i].n_round; k++) want[chain[i].round[k].reject]++;
    want[REJECT_NONE] = 0;
    want[REJECT_DUP]++;
    for (int k = 0; k < REJECT_COUNT; k++) all += want[k];
    char *text = help_read(dir, "rejects.json"), *rows = help_read(dir, "rejects.jsonl");
    Json *j = NULL;
    assert_ok(json_parse(&j, text, strlen(text), 0, "rejects.json", 1, &err), err);
    assert_int_equal(json_int(json_get(j, "rejects"), -1), all);
    const Json *counts = json_get(j, "counts");
    for (int i = 0; i < json_len(counts); i++) counted += (int)json_int(json_get(json_at(counts, i), "n"), 0);
    assert_int_equal(counted, all);
    json_release(j);
    for (char *line = rows, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        *end = 0;
        assert_ok(json_parse(&j, line, strlen(line), 0, "rejects.jsonl", 1, &err), err);
        const char *code = json_str(json_get(j, "code"), NULL), *revision = json_str(json_get(j, "revision"), NULL);
        for (int k = 1; k < REJECT_COUNT; k++)
            if (!strcmp(code, reject_name((Reject)k))) shown[k]++;
        assert_true(revision || !strcmp(code, "DUP"));
        assert_non_null(json_str(json_get(j, "previous"), NULL));
        json_release(j);
    }
    for (int k = 1; k < REJECT_COUNT; k++)
        if (shown[k] != (want[k] < 7 ? want[k] : 7))
            fail_msg("%s: %d shown of %d", reject_name((Reject)k), shown[k], want[k]);
    assert_true(want[REJECT_SHORT] > 7);
    free(text);
    free(rows);
    release(&r, chain);
    help_remove(dir);
    w->cfg.revise.audit = 50;
    w->cfg.revise.min_words = 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_of_the_model),     cmocka_unit_test(too_long_for_odds),
        cmocka_unit_test(rounds_by_the_model),     cmocka_unit_test(all_principles_at_once),
        cmocka_unit_test(rejects_are_tried_again), cmocka_unit_test(rejects_are_kept_for_people)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
