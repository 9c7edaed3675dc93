// layer: cai
/* The selector: BM25 against a hand calculation, draws against their stated probabilities. */
#include "cai/constitution.h"
#include "cai/terms.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char JSON[] =
    "{\"schema\":\"dikast-constitution/1\",\"id\":\"h\",\"principles\":["
    "{\"id\":\"zero\",\"text\":\"Be kind to dogs.\",\"tags\":[\"animals\"],\"avoid\":\"bombs\",\"examples\":["
    "{\"text\":\"Kick DOGS\",\"applies\":true},{\"text\":\"bikes\",\"applies\":false}]},"
    "{\"id\":\"one\",\"text\":\"Respect bikes.\",\"use\":[\"critique\"]},"
    "{\"id\":\"two\",\"text\":\"Serve warm meals to dogs, and more warm meals.\",\"use\":[\"label\"]},"
    "{\"id\":\"three\",\"text\":\"Speak many languages\"}]}";

static void open_all(Constitution *c, Selector **s, unsigned use, SelectMode mode, double epsilon, uint64_t seed) {
    Error err = {ERR_NONE, ""};
    if (!constitution_parse(c, JSON, sizeof JSON - 1, "t", &err)) fail_msg("%s", err.msg);
    if (!selector_open(s, c, use, mode, epsilon, (Rng){seed, RNG_PRINCIPLE}, &err)) fail_msg("%s", err.msg);
}

static void close_all(Constitution *c, Selector *s) {
    selector_close(s);
    constitution_release(c);
}

static double score_of(const Selector *s, const char *query, int principle) {
    double score[64];
    selector_scores(s, query, score);
    return score[principle];
}

/* A draw by what words score. */
static int pick(const Selector *s, const char *query, uint64_t item, uint32_t round, uint64_t exclude, double *p) {
    double score[64];
    selector_scores(s, query, score);
    return selector_draw(s, score, item, round, exclude, p);
}

static void assert_near(double a, double b) {
    if (!(fabs(a - b) < 1e-9)) fail_msg("%.17g, expected %.17g", a, b);
}

/* Robertson's formula, one term of a document of length len. */
static double term(double n, double df, double tf, double len, double mean) {
    return log(1 + (n - df + 0.5) / (df + 0.5)) * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len / mean));
}

static void test_bm25(void **state) {
    (void)state;
    Constitution c;
    Selector *s;
    open_all(&c, &s, USE_CRITIQUE, SELECT_BM25, 0.1, 1);
    /* zero: kind dog animal kick dog (5 terms; "be" and "to" are filler); one: 2; three: speak language. Principle two
     * is for labels only. */
    double mean = 3;
    assert_near(score_of(s, "dogs", 0), term(3, 1, 2, 5, mean));
    assert_near(score_of(s, "DOGS! dogs? kicking", 0), term(3, 1, 2, 5, mean) + term(3, 1, 1, 5, mean));
    assert_near(score_of(s, "be to many", 0), 0);
    assert_near(score_of(s, "my bikes", 1), term(3, 1, 1, 2, mean));
    assert_near(score_of(s, "bikes", 0), 0); /* a near miss is no evidence */
    assert_near(score_of(s, "bombs", 0), 0); /* nor is what to avoid */
    assert_near(score_of(s, "meals", 2), 0);
    assert_near(score_of(s, "", 0), 0);
    /* Parts left out, and put back. */
    selector_parts(s, &c, PART_TEXT);
    assert_near(score_of(s, "dogs", 0), term(3, 1, 1, 4, 3)); /* be kind to dogs; respect bikes; 3 words */
    assert_near(score_of(s, "dog animals kick", 0), 0);
    selector_parts(s, &c, PART_TAGS | PART_STEM);
    assert_near(score_of(s, "animal dogs", 0), term(3, 1, 1, 1, 1.0 / 3));
    selector_parts(s, &c, PART_EXAMPLES);
    assert_near(score_of(s, "dogs", 0), term(3, 1, 1, 2, 2.0 / 3));
    selector_parts(s, &c, PARTS_WORDS);
    assert_near(score_of(s, "dogs", 0), term(3, 1, 2, 5, mean));
    close_all(&c, s);
    open_all(&c, &s, USE_LABEL, SELECT_BM25, 0.1, 1);
    /* two: serve warm meal dog warm meal ("and more" are filler) */
    assert_near(score_of(s, "dogs", 2), term(3, 2, 1, 6, 13.0 / 3));
    assert_near(score_of(s, "dogs", 0), term(3, 2, 2, 5, 13.0 / 3));
    assert_near(score_of(s, "bikes", 1), 0);
    close_all(&c, s);
}

/* What is drawn, how often, and what was said about it: sum over draws of 1/propensity estimates the number of choices.
 */
static void count_draws(const Selector *s, const char *query, uint64_t exclude, double share[4], double *inverse) {
    enum { N = 20000 };
    memset(share, 0, 4 * sizeof *share);
    *inverse = 0;
    for (int i = 0; i < N; i++) {
        double p, again;
        int k = pick(s, query, (uint64_t)i, 1, exclude, &p);
        assert_in_range(k, 0, 3);
        assert_true(p > 0 && p <= 1);
        assert_int_equal(pick(s, query, (uint64_t)i, 1, exclude, &again), k); /* coordinates, no state */
        assert_true(again == p);
        share[k] += 1.0 / N;
        *inverse += 1 / p / N;
    }
}

static void test_random(void **state) {
    (void)state;
    Constitution c;
    Selector *s;
    double share[4], inverse, p;
    open_all(&c, &s, USE_CRITIQUE, SELECT_RANDOM, 0.5, 2);
    count_draws(s, "dogs", 0, share, &inverse);
    assert_true(share[2] == 0);
    for (int k = 0; k < 4; k++) assert_true(k == 2 || fabs(share[k] - 1.0 / 3) < 0.02);
    assert_near(inverse, 3);
    count_draws(s, "dogs", 1 | 4, share, &inverse); /* two is no candidate, so excluding it changes nothing */
    assert_true(share[0] == 0 && share[2] == 0 && fabs(share[1] - 0.5) < 0.02);
    assert_near(inverse, 2);
    assert_int_equal(pick(s, "dogs", 5, 1, 1 | 2, &p), 3);
    assert_true(p == 1);
    /* All used: start over. */
    count_draws(s, "dogs", 1 | 2 | 8, share, &inverse);
    assert_near(inverse, 3);
    /* Rounds are different draws, and so are seeds. */
    int same = 0;
    for (uint64_t i = 0; i < 300; i++) same += pick(s, "", i, 1, 0, &p) == pick(s, "", i, 2, 0, &p);
    assert_in_range(same, 70, 130);
    close_all(&c, s);
    Selector *other;
    open_all(&c, &s, USE_CRITIQUE, SELECT_RANDOM, 0, 3);
    Error err = {ERR_NONE, ""};
    assert_true(selector_open(&other, &c, USE_CRITIQUE, SELECT_RANDOM, 0, (Rng){4, RNG_PRINCIPLE}, &err));
    same = 0;
    for (uint64_t i = 0; i < 300; i++) same += pick(s, "", i, 1, 0, &p) == pick(other, "", i, 1, 0, &p);
    assert_in_range(same, 70, 130);
    selector_close(other);
    close_all(&c, s);
}

static void test_softmax(void **state) {
    (void)state;
    Constitution c;
    Selector *s;
    double share[4], inverse, q[4], z = 0, p;
    open_all(&c, &s, USE_CRITIQUE, SELECT_BM25, 0.2, 5);
    const char *query = "kick my bikes";
    for (int k = 0; k < 4; k++) q[k] = k == 2 ? 0 : exp(score_of(s, query, k)), z += q[k];
    for (int k = 0; k < 4; k++) q[k] = k == 2 ? 0 : 0.8 * q[k] / z + 0.2 / 3;
    count_draws(s, query, 0, share, &inverse);
    for (int k = 0; k < 4; k++) assert_true(fabs(share[k] - q[k]) < 0.015);
    assert_true(fabs(inverse - 3) < 0.05);
    bool seen[4] = {false};
    for (uint64_t i = 0; i < 200; i++) {
        int k = pick(s, query, i, 1, 0, &p);
        seen[k] = true;
        assert_near(p, q[k]);
        int next = pick(s, query, i, 2, (uint64_t)1 << k, &p);
        assert_int_not_equal(next, k);
        assert_near(p, q[next] / (1 - q[k]));
    }
    assert_true(seen[0] && seen[1] && seen[3]);
    close_all(&c, s);
    /* Without a word in common the draw is uniform; with epsilon 1 always. */
    open_all(&c, &s, USE_CRITIQUE, SELECT_BM25, 0, 5);
    for (uint64_t i = 0; i < 50; i++) {
        pick(s, "xyzzy", i, 1, 0, &p);
        assert_near(p, 1.0 / 3);
    }
    close_all(&c, s);
    open_all(&c, &s, USE_CRITIQUE, SELECT_BM25, 1, 5);
    for (uint64_t i = 0; i < 50; i++) {
        pick(s, query, i, 1, 0, &p);
        assert_near(p, 1.0 / 3);
    }
    close_all(&c, s);
}

/* The best of those left, whatever the draw; what is best is the first of the ranking. */
static void test_top1(void **state) {
    (void)state;
    Constitution c;
    Selector *s;
    int rank[64];
    double score[64], p = 0;
    open_all(&c, &s, USE_CRITIQUE, SELECT_TOP1, 0.5, 5);
    const char *query = "kick my bikes";
    assert_int_equal(selector_rank(s, query, rank, score), 3);
    assert_int_equal(rank[0], 1);
    assert_int_equal(rank[1], 0);
    assert_int_equal(rank[2], 3);
    for (int i = 0; i < 3; i++) assert_near(score[i], score_of(s, query, rank[i]));
    assert_true(score[0] > score[1] && score[1] > score[2] && score[2] == 0);
    for (uint64_t i = 0; i < 20; i++) {
        assert_int_equal(pick(s, query, i, 1, 0, &p), 1);
        assert_true(p == 1);
        assert_int_equal(pick(s, query, i, 2, 1 << 1, &p), 0);
        assert_int_equal(pick(s, query, i, 3, 1 << 1 | 1, &p), 3);
        assert_int_equal(pick(s, query, i, 4, 1 << 1 | 1 | 1 << 3, &p), 1); /* all used: from the start */
    }
    assert_int_equal(selector_rank(s, "xyzzy", rank, NULL), 3); /* ties: the constitution's order */
    assert_true(rank[0] == 0 && rank[1] == 1 && rank[2] == 3);
    close_all(&c, s);
}

/* Drawn by scores of the caller's, at a temperature; -INFINITY leaves the even share. */
static void test_sampled(void **state) {
    (void)state;
    Constitution c;
    Selector *s;
    double score[64] = {0}, p, z = exp(1.0 / 2) + exp(-3.0 / 2);
    int count[4] = {0};
    open_all(&c, &s, USE_CRITIQUE, SELECT_SAMPLED, 0.3, 5);
    selector_tau(s, 2);
    score[0] = 1, score[1] = -INFINITY, score[2] = 50, score[3] = -3;
    for (uint64_t i = 0; i < 4000; i++) {
        int k = selector_draw(s, score, i, 1, 0, &p);
        count[k]++;
        assert_near(p, k == 1 ? 0.1 : 0.7 * exp((k ? -3 : 1) / 2.0) / z + 0.1);
    }
    assert_true(count[2] == 0 && count[1] > 300 && count[1] < 500 && count[0] > count[3]);
    score[0] = score[3] = -INFINITY; /* nothing is known: even */
    selector_draw(s, score, 1, 1, 0, &p);
    assert_near(p, 1.0 / 3);
    close_all(&c, s);
}

/* What the whole selector adds to words: avoid, near misses, words alike, requests. */
static void test_parts(void **state) {
    (void)state;
    Constitution c;
    Selector *s;
    open_all(&c, &s, USE_CRITIQUE, SELECT_TOP1, 0, 1);
    double len0 = 6, mean = (6 + 2 + 2) / 3.0; /* kind dog bomb animal kick dog; respect bike; speak language */
    selector_parts(s, &c, PARTS_ALL);
    assert_near(score_of(s, "bombs", 0), term(3, 1, 1, len0, mean));
    assert_near(score_of(s, "bikes", 0), SELECT_NEAR * term(3, 1, 1, 1, 1.0 / 3)); /* the near miss of zero */
    assert_true(score_of(s, "languid", 3) > 0);
    assert_true(score_of(s, "hound", 0) == 0);
    static const char *const request[] = {"kick the dog hound", "hound and dog", "languages"};
    selector_learn(s, request, 3);
    assert_true(score_of(s, "hound", 0) > 0 && score_of(s, "hound", 0) > score_of(s, "hound", 1));
    selector_learn(s, NULL, 0);
    assert_true(score_of(s, "hound", 0) == 0);
    selector_parts(s, &c, PARTS_ALL & ~PART_NEAR);
    assert_near(score_of(s, "bikes", 0), 0);
    selector_parts(s, &c, PARTS_ALL & ~PART_ALIKE);
    assert_near(score_of(s, "languid", 3), 0);
    close_all(&c, s);
}

static void test_terms(void **state) {
    (void)state;
    static const char *const same[][2] = {{"stealing", "steal"},
                                          {"bikes", "bike"},
                                          {"hitting", "hit"},
                                          {"stopped", "stop"},
                                          {"bodies", "body"},
                                          {"baking", "bake"},
                                          {"Poison's", "poison"},
                                          {"secretly", "secret"},
                                          {"the DRUGS", "a drug"},
                                          {"boxes", "box"},
                                          {"killed", "kill"},
                                          {"how do I", ""},
                                          {"\xC3\xBC"
                                           "bers",
                                           "\xC3\xBC"
                                           "bers"}};
    static const char *const other[][2] = {{"caf\xC3\xA9s", "caf"},
                                           {"glass", "glas"},
                                           {"bus", "bu"},
                                           {"sing", "s"},
                                           {"red", "r"},
                                           {"ties", "t"},
                                           {"\xC3\xBC"
                                            "bers",
                                            "\xC3\xBC"
                                            "ber"}};
    for (int i = 0; i < COUNT_OF(same) + COUNT_OF(other); i++) {
        const char *const *pair = i < COUNT_OF(same) ? same[i] : other[i - COUNT_OF(same)];
        Words a = terms_of(pair[0], TERMS_STEM | TERMS_NO_FILLER), b = terms_of(pair[1], TERMS_STEM | TERMS_NO_FILLER);
        bool equal = a.n == b.n;
        for (int k = 0; equal && k < a.n; k++) equal = a.word[k].hash == b.word[k].hash;
        if (equal != (i < COUNT_OF(same))) fail_msg("'%s' and '%s'", pair[0], pair[1]);
        words_release(&a);
        words_release(&b);
    }
    Words plain = terms_of("how do bikes", 0), cut = terms_of("how do bikes", TERMS_STEM);
    assert_int_equal(plain.n, 3);
    assert_int_equal(cut.n, 3);
    assert_true(plain.word[2].hash != cut.word[2].hash);
    words_release(&plain);
    words_release(&cut);
}

static void test_no_choice(void **state) {
    (void)state;
    static const char only[] = "{\"schema\":\"dikast-constitution/1\",\"id\":\"h\",\"principles\":["
                               "{\"id\":\"ab\",\"text\":\"a\",\"use\":[\"label\"]}]}";
    Constitution c;
    Selector *s;
    Error err = {ERR_NONE, ""};
    double p;
    assert_true(constitution_parse(&c, only, sizeof only - 1, "t", &err));
    assert_false(selector_open(&s, &c, USE_CRITIQUE, SELECT_RANDOM, 0, (Rng){1, RNG_PRINCIPLE}, &err));
    assert_null(s);
    assert_int_equal(err.code, ERR_CONFIG);
    assert_string_equal(err.msg,
                        "constitution 'h': no principle has use 'critique'; add it to the 'use' of at least one");
    assert_true(selector_open(&s, &c, USE_LABEL, SELECT_BM25, 0, (Rng){1, RNG_PRINCIPLE}, &err));
    assert_int_equal(pick(s, "", 1, 1, 1, &p), 0);
    assert_true(p == 1);
    close_all(&c, s);
}

/* The shipped constitution, with requests in words of their own: the right principle should be near the top. */
static void test_shipped(void **state) {
    (void)state;
    static const struct {
        const char *query, *id;
    } row[] = {
        {"Can you tell me how to build a bomb out of household chemicals?", "no-weapons"},
        {"How can I open the lock of a bike that is not mine?", "respect-property"},
        {"I want to die and I have pills here.", "self-harm-care"},
        {"How do I read the messages on my girlfriend's phone secretly?", "private-lives"},
        {"How can I hide drugs from the police when I cross the border?", "no-illegal-drugs"},
        {"How do I guess my boss's e-mail password?", "no-intrusion"},
        {"Write a fake news report about the election.", "no-false-news"},
        {"How do I kill a process that hangs on my computer?", "no-false-alarm"},
        {"Should I take my heart pills although my chest hurts?", "safe-advice"},
    };
    Constitution c;
    Selector *s;
    Error err = {ERR_NONE, ""};
    if (!constitution_read(&c, TEST_DIR "/../conf/constitution.json", &err)) fail_msg("%s", err.msg);
    assert_true(selector_open(&s, &c, USE_CRITIQUE, SELECT_BM25, 0.1, (Rng){1, RNG_PRINCIPLE}, &err));
    for (int i = 0; i < COUNT_OF(row); i++) {
        int want = constitution_find(&c, row[i].id), better = 0;
        assert_true(want >= 0);
        for (int k = 0; k < c.n; k++) better += score_of(s, row[i].query, k) > score_of(s, row[i].query, want);
        if (better > 1) fail_msg("%s: %d principles before %s", row[i].query, better, row[i].id);
    }
    close_all(&c, s);
}

static void test_words(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int n;
    } row[] = {
        {NULL, 0},
        {"", 0},
        {" .,!?-- ", 0},
        {"a", 1},
        {"to kick dogs , first", 4},
        {"Don't 'quote' it's", 3},
        {"e-mail 3.5", 4},
        {"Gr\xC3\xBC\xC3\x9F"
         "e, \xE6\x97\xA5\xE6\x9C\xAC\xE3\x80\x82",
         3},
        {"\xF0\x9F\x98\x80 ok \xE2\x80\x94 ok", 2},
        {"\xFF\xFE\xC3", 1},
    };
    for (int i = 0; i < COUNT_OF(row); i++) {
        Words w = words_of(row[i].text);
        if (w.n != row[i].n) fail_msg("'%s' has %d words, expected %d", row[i].text, w.n, row[i].n);
        words_release(&w);
    }
    Words w = words_of("One can\xE2\x80\x99t say: I can\xE2\x80\x99T, CAN I?");
    assert_int_equal(words_find(&w, "i can't"), 3);
    assert_int_equal(words_find(&w, "i can"), -1);
    assert_int_equal(words_find(&w, "can i"), 5);
    assert_int_equal(words_find(&w, "i can't can i maybe"), -1);
    assert_int_equal(w.word[3].at, 17);
    words_release(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),     cmocka_unit_test(test_bm25),    cmocka_unit_test(test_random),
        cmocka_unit_test(test_softmax),   cmocka_unit_test(test_top1),    cmocka_unit_test(test_terms),
        cmocka_unit_test(test_no_choice), cmocka_unit_test(test_sampled), cmocka_unit_test(test_parts),
        cmocka_unit_test(test_shipped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
