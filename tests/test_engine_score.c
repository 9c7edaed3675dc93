// layer: engine
/* engine_score_greedy: the log-probs of engine_score to the bit, whether beginnings are shared by packing or by pages,
 * and greedy flags that agree with the logits. */
#include "engine_nets.h"

enum { N = 24, VOCAB = 61 };

typedef struct {
    Tokens prefix[N], text[N];
    int32_t tok[N][256];
    float *each[N];
    float value[N][256];
    bool greedy[N];
} Set;

/* Sequences of `shots` common tokens, a question of their own in pairs, and answers; the last ones are equal but for
 * their last token. */
static void fill(Set *s, int shots, int question, int answer) {
    for (int i = 0; i < N; i++) {
        int n = 0, k = i < 18 && i % 4 != 3 ? answer + i % 3 : 1;
        for (int p = 0; p < shots; p++) s->tok[i][n++] = (int32_t)((7 * p + 3) % VOCAB);
        for (int p = 0; p < question + (i / 2) % 5; p++) s->tok[i][n++] = (int32_t)((11 * p + 5 * (i / 6)) % VOCAB);
        s->prefix[i] = (Tokens){s->tok[i], n};
        for (int p = 0; p < k; p++) s->tok[i][n++] = (int32_t)((13 * p + 17 * i + 1) % VOCAB);
        s->text[i] = (Tokens){s->tok[i] + s->prefix[i].n, k};
        s->each[i] = s->value[i];
        memset(s->value[i], 0xFF, sizeof s->value[i]); /* NaN */
    }
}

static bool is_greedy(Engine *e, const Set *s, int i) {
    float z[VOCAB];
    Error err = {0};
    for (int p = 0; p < s->text[i].n; p++) {
        assert_true(engine_logits(e, (Tokens){s->tok[i], s->prefix[i].n + p}, z, &err));
        int best = 0;
        for (int v = 1; v < VOCAB; v++)
            if (z[v] > z[best]) best = v;
        if (s->text[i].tok[p] != best) return false;
    }
    return true;
}

/* Makes some answers what greedy decoding writes. */
static void follow(Engine *e, Set *s) {
    float z[VOCAB];
    Error err = {0};
    for (int i = 0; i < N; i += 4) {
        for (int p = 0; p < s->text[i].n; p++) {
            assert_true(engine_logits(e, (Tokens){s->tok[i], s->prefix[i].n + p}, z, &err));
            int best = 0;
            for (int v = 1; v < VOCAB; v++)
                if (z[v] > z[best]) best = v;
            s->tok[i][s->prefix[i].n + p] = best;
        }
    }
}

static void compare(Nets *n, const EngineConfig *c, Set *s, bool pages, int line) {
    static Set plain;
    Error err = {0};
    Engine *e = NULL, *alone = NULL;
    assert_true(engine_open(&e, (Net){&n->model, &n->lm, NULL}, c, &err));
    assert_true(engine_open(&alone, (Net){&n->model, &n->lm, NULL}, &(EngineConfig){.max_batch_tok = 32}, &err));
    follow(alone, s);
    memcpy(&plain, s, sizeof plain);
    for (int i = 0; i < N; i++) {
        plain.each[i] = plain.value[i];
        assert_true(engine_score(alone, &s->prefix[i], &s->text[i], 1, 1.0f, &plain.each[i], &err));
    }
    for (int round = 0; round < 2; round++) { /* the second one finds the first one's pages */
        int64_t before = engine_stats(e).n_shared;
        for (int i = 0; i < N; i++) memset(s->value[i], 0xFF, sizeof s->value[i]);
        if (!engine_score_greedy(e, s->prefix, s->text, N, s->each, s->greedy, &err))
            fail_msg("line %d: %s", line, err.msg);
        if ((engine_stats(e).n_shared > before) != pages) fail_msg("line %d: pages shared, or not", line);
        int hits = 0;
        for (int i = 0; i < N; i++) {
            if (memcmp(s->value[i], plain.value[i], (size_t)s->text[i].n * sizeof(float)))
                fail_msg("line %d, round %d: sequence %d: %g %g", line, round, i, (double)s->value[i][0],
                         (double)plain.value[i][0]);
            assert_int_equal(s->greedy[i], is_greedy(alone, s, i));
            hits += s->greedy[i];
        }
        assert_true(hits >= N / 4 && hits < N);
    }
    engine_close(e);
    engine_close(alone);
}

static void test_equal(void **state) {
    (void)state;
    static Set s;
    for (int kind = 0; kind < 2; kind++) {
        ModelConfig m = tiny_config(kind);
        for (int threads = 1; threads <= 3; threads += 2) {
            Nets n;
            nets_open(&n, "cpu", threads, &m, 5);
            size_t page = kv_page_bytes(&n.model);
            fill(&s, 150, 30, 3);
            compare(&n, &(EngineConfig){.share_prefix = true}, &s, true, __LINE__);
            compare(&n, &(EngineConfig){.share_prefix = true, .max_batch_tok = 40}, &s, true, __LINE__); /* in pieces */
            compare(&n, &(EngineConfig){.share_prefix = true, .kv_bytes = 4 * page}, &s, true,
                    __LINE__); /* one by one */
            compare(&n, &(EngineConfig){.share_prefix = false}, &s, false, __LINE__);
            fill(&s, 150, 38, 6); /* answers reach beyond a page that their prefixes do not fill */
            compare(&n, &(EngineConfig){.share_prefix = true}, &s, true, __LINE__);
            fill(&s, 5, 12, 3);
            compare(&n, &(EngineConfig){.share_prefix = true}, &s, false, __LINE__);
            nets_close(&n);
        }
    }
}

static void test_limits(void **state) {
    (void)state;
    static Set s;
    ModelConfig m = tiny_config(0);
    Nets n;
    Error err = {0};
    Engine *e = NULL;
    nets_open(&n, "cpu", 1, &m, 5);
    fill(&s, 150, 30, 3);
    size_t page = kv_page_bytes(&n.model);
    assert_true(engine_open(&e, (Net){&n.model, &n.lm, NULL},
                            &(EngineConfig){.share_prefix = true, .kv_bytes = 2 * page}, &err));
    assert_false(engine_score_greedy(e, s.prefix, s.text, N, s.each, s.greedy, &err));
    assert_non_null(strstr(err.msg, "more keys and values"));
    s.text[3].n = 0; /* nothing is asked of it, and nothing is said against it */
    s.text[4].n = 0;
    engine_close(e);
    err = (Error){0};
    assert_true(engine_open(&e, (Net){&n.model, &n.lm, NULL}, &(EngineConfig){.share_prefix = true}, &err));
    assert_true(engine_score_greedy(e, s.prefix, s.text, N, s.each, s.greedy, &err));
    assert_true(s.greedy[3] && s.value[5][0] < 0);
    assert_true(engine_score_greedy(e, s.prefix, s.text, 0, s.each, s.greedy, &err));
    engine_close(e);
    nets_close(&n);
}

/* The head is linear: what it says of the mean hidden state is the mean of its logits. Company changes no bit, in a
 * pass whose rows take several slices. */
static void test_embed(void **state) {
    (void)state;
    static Set s;
    Nets n;
    ModelConfig m = tiny_config(0);
    Error err = {0};
    Engine *e = NULL;
    static float all[N * 32], one[32], z[VOCAB];
    nets_open(&n, "cpu", 2, &m, 7);
    fill(&s, 60, 5, 3);
    assert_true(engine_open(&e, (Net){&n.model, &n.lm, NULL}, &(EngineConfig){.max_batch_tok = 1024}, &err));
    assert_int_equal(engine_width(e), 32);
    assert_true(engine_embed(e, s.prefix, N, all, &err));
    double head[32];
    tensor_get_row(n.be, head, n.lm.w, 9);
    for (int i = 0; i < N; i += 5) {
        double mean = 0, want = 0;
        assert_true(engine_embed(e, &s.prefix[i], 1, one, &err));
        assert_memory_equal(one, all + 32 * i, sizeof one);
        for (int p = 1; p <= s.prefix[i].n; p++) {
            assert_true(engine_logits(e, (Tokens){s.tok[i], p}, z, &err));
            want += (double)z[9] / s.prefix[i].n;
        }
        for (int k = 0; k < 32; k++) mean += head[k] * (double)one[k];
        if (!(fabs(mean - want) < 1e-4 * (1 + fabs(want)))) fail_msg("%g, expected %g", mean, want);
    }
    engine_close(e);
    nets_close(&n);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_equal), cmocka_unit_test(test_limits),
                                       cmocka_unit_test(test_embed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
