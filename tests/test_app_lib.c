// layer: app
/* dikast.h as a stranger uses it: a model, a preference model and a tokenizer that the test makes, runs of the tiny
 * world, constitutions; what comes out is compared with the layers below. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/io.h"
#include "cai/constitution.h"
#include "dikast.h"
#include "engine/engine.h"
#include "text/chat.h"

#define ROOT BUILD_DIR "/scratch/app_lib"
#define CONF TEST_DIR "/../conf"

static void must(bool ok, const Error *err) {
    if (!ok) fail_msg("%s", err->msg);
}

static void done(bool ok, const dikast_error *err) {
    if (!ok) fail_msg("%d: %s", err->code, err->message);
    assert_int_equal(err->code, DIKAST_OK);
    assert_string_equal(err->message, "");
}

/* -- what a user finds on disk --------------------------------------------------------------------------------------
 */

static const char *const lines[] = {"how do i bake bread ?", "to bake bread , first get flour then heat the oven .",
                                    "how do i sweep the floor ?", "to sweep the floor , first get a broom ."};

static const char *next_line(void *ud, size_t *n) {
    int *at = ud;
    if (*at == 40) return NULL;
    const char *s = lines[(*at)++ % 4];
    *n = strlen(s);
    return s;
}

static void write_tokenizer(const char *dir) {
    const char *special[SENT_COUNT];
    Str json = {0}, path = {0};
    Error err = {0};
    int at = 0;
    for (int i = 0; i < SENT_COUNT; i++) special[i] = sentinel_spelling((Sentinel)i);
    BpeTrainParams p = {320, SPLIT_GPT2, special, SENT_COUNT, 0};
    must(bpe_train(&json, &p, next_line, &at, &err), &err);
    str_printf(&path, "%s/tokenizer.json", dir);
    must(io_write_file(path.s, json.s, json.n, &err), &err);
    str_release(&json);
    str_release(&path);
}

static void write_model(const char *dir, HeadKind kind, uint64_t seed) {
    ModelConfig c = {
        .family = FAMILY_LLAMA, .n_layer = 2, .n_head = 2, .n_kv_head = 1, .d_model = 16, .d_head = 8, .d_ff = 32};
    c.n_vocab = 320, c.max_seq = 64, c.norm = NORM_RMS, c.pos = POS_ROPE, c.mlp = MLP_SWIGLU, c.tied = true;
    c.rope_theta = 10000, c.norm_eps = 1e-5, c.eos_id = SENT_END;
    Pool *pool = NULL;
    Backend *be = NULL;
    Model m;
    Head h;
    Error err = {0};
    must(io_make_dirs(dir, &err) && pool_open(&pool, 1, &err) && backend_open(&be, "cpu", pool, NULL, &err), &err);
    must(model_init(&m, be, &c, seed, false, &err), &err);
    must(head_init(&h, &m, kind, kind == HEAD_LM ? c.n_vocab : 1, seed, false, &err), &err);
    must(net_save((Net){&m, &h, NULL}, dir, &err), &err);
    head_release(&h);
    model_release(&m);
    backend_close(be);
    pool_close(pool);
    write_tokenizer(dir);
}

static int make_folder(void **state) {
    Error err = {0};
    (void)state;
    must(io_remove_tree(ROOT, &err), &err);
    write_model(ROOT "/lm", HEAD_LM, 3);
    write_model(ROOT "/pm", HEAD_SCORE, 4);
    return 0;
}

static const dikast_message ask = {"user", "how do i bake bread ?"};

static dikast_model *open_lm(const char *name, int threads) {
    dikast_model *m;
    dikast_error err;
    char dir[400];
    snprintf(dir, sizeof dir, ROOT "/%s", name);
    done(dikast_model_open(&m, dir, threads, &err), &err);
    return m;
}

/* -- tests ----------------------------------------------------------------------------------------------------------
 */

static void test_version(void **state) {
    (void)state;
    assert_string_equal(dikast_version(), DIKAST_VERSION);
}

static void test_tokenizer_round_trip(void **state) {
    static const char text[] = "how do i bake\0 \xff bread <|end|> \xc3\xa9";
    const size_t n = sizeof text - 1;
    dikast_tokenizer *t;
    dikast_error err;
    int32_t ids[64];
    char back[64];
    (void)state;
    done(dikast_tokenizer_open(&t, ROOT "/lm/tokenizer.json", &err), &err);
    assert_true(dikast_tokenizer_size(t) > 256 && dikast_tokenizer_size(t) <= 320);
    size_t count = dikast_encode(t, text, n, NULL, 0);
    assert_true(count > 0 && count < n); /* merges were learned */
    for (int i = 0; i < 64; i++) ids[i] = -7;
    assert_int_equal(dikast_encode(t, text, n, ids, 3), count); /* no more than there is room for */
    assert_true(ids[2] >= SENT_COUNT && ids[3] == -7);
    assert_int_equal(dikast_encode(t, text, n, ids, 64), count);
    for (size_t i = 0; i < count; i++) assert_true(ids[i] >= SENT_COUNT); /* "<|end|>" in a text is text */
    assert_int_equal(dikast_decode(t, ids, count, NULL, 0), n);
    memset(back, '#', sizeof back);
    assert_int_equal(dikast_decode(t, ids, count, back, sizeof back), n);
    assert_memory_equal(back, text, n);
    assert_int_equal(back[n], '#');
    ids[count] = SENT_END;
    assert_int_equal(dikast_decode(t, ids, count + 1, NULL, 0), n); /* special tokens are no text */
    dikast_tokenizer_close(t);
    assert_false(dikast_tokenizer_open(&t, ROOT "/nothing", &err));
    assert_null(t);
    assert_int_equal(err.code, DIKAST_ERR_IO);
    assert_non_null(strstr(err.message, "nothing"));
}

static void test_model_about(void **state) {
    dikast_model *m = open_lm("lm", 1), *pm = open_lm("pm", 1);
    dikast_model_info a = dikast_model_about(m), b = dikast_model_about(pm);
    (void)state;
    assert_true(!a.scores && b.scores);
    assert_int_equal(a.vocabulary, 320);
    assert_int_equal(a.context, 64);
    /* wte + per layer: norms, q, k, v, o, gate, up, down + final norm */
    assert_int_equal(a.parameters, 320 * 16 + 2 * (2 * 16 + 2 * 16 * 16 + 2 * 8 * 16 + 3 * 32 * 16) + 16);
    assert_int_equal(dikast_encode(dikast_model_tokenizer(m), "", 0, NULL, 0), 0);
    dikast_model_close(m);
    dikast_model_close(pm);
    dikast_model_close(NULL);
}

static void test_generate_follows_seed_alone(void **state) {
    dikast_model *one = open_lm("lm", 1), *two = open_lm("lm", 2);
    dikast_sampling s = dikast_sampling_default();
    dikast_reply a, b, c;
    dikast_error err;
    (void)state;
    s.max_new = 12;
    s.seed = 5;
    done(dikast_generate(&a, one, &ask, 1, &s, &err), &err);
    done(dikast_generate(&b, two, &ask, 1, &s, &err), &err);
    s.seed = 6;
    done(dikast_generate(&c, one, &ask, 1, &s, &err), &err);
    assert_true(a.n_token > 0 && a.n_token <= 12);
    assert_true(a.ended || a.n_token == 12);
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.text, b.text, a.size + 1);
    assert_true(a.logprob == b.logprob); /* to the bit, whatever the threads */
    assert_true(a.logprob != c.logprob);
    dikast_reply_free(&a);
    dikast_reply_free(&b);
    dikast_reply_free(&c);
    assert_null(a.text);
    dikast_model_close(one);
    dikast_model_close(two);
}

static double score_of(dikast_model *m, const char *reply, int *n) {
    double lp;
    dikast_error err;
    done(dikast_score(&lp, n, m, &ask, 1, reply, &err), &err);
    return lp;
}

/* The same with the layers below: the dialogue by hand, one forward pass. */
static double below(HeadKind kind, const char *dir, const char *reply, int *n) {
    Tokenizer *t;
    Chat chat;
    Pool *pool = NULL;
    Backend *be = NULL;
    Model m;
    Head h;
    Engine *e;
    Error err = {0};
    TokBuf before = {0}, after = {0};
    float each[64], *list[1] = {each};
    must(tokenizer_open(&t, dir, &err) && chat_init(&chat, t, &err), &err);
    must(pool_open(&pool, 1, &err) && backend_open(&be, "cpu", pool, NULL, &err), &err);
    must(model_open(&m, be, dir, false, &err) && head_open(&h, &m, kind, dir, false, &err), &err);
    must(engine_open(&e, (Net){&m, &h, NULL}, &(EngineConfig){0}, &err), &err);
    tokbuf_put(&before, chat.id[SENT_USER]);
    tokenizer_encode(t, ask.text, strlen(ask.text), &before);
    tokbuf_put(&before, chat.id[SENT_END]);
    tokbuf_put(&before, chat.id[SENT_ASSISTANT]);
    tokenizer_encode(t, reply, strlen(reply), &after);
    tokbuf_put(&after, chat.id[SENT_END]);
    *n = after.n;
    double sum = 0;
    if (kind == HEAD_LM) {
        must(engine_score(e, &(Tokens){before.id, before.n}, &(Tokens){after.id, after.n}, 1, 1, list, &err), &err);
        for (int i = 0; i < after.n; i++) sum += (double)each[i];
    } else {
        tokbuf_putn(&before, after.id, after.n);
        must(engine_score_last(e, &(Tokens){before.id, before.n}, 1, each, &err), &err);
        sum = (double)each[0];
    }
    tokbuf_release(&before);
    tokbuf_release(&after);
    engine_close(e);
    head_release(&h);
    model_release(&m);
    backend_close(be);
    pool_close(pool);
    tokenizer_close(t);
    return sum;
}

static void test_score(void **state) {
    dikast_model *m = open_lm("lm", 1);
    int n, want_n;
    (void)state;
    double got = score_of(m, "to bake bread .", &n), want = below(HEAD_LM, ROOT "/lm", "to bake bread .", &want_n);
    assert_int_equal(n, want_n);
    assert_true(got == want);
    assert_true(got < 0);
    assert_true(score_of(m, "to bake bread .", NULL) == got);
    assert_true(score_of(m, "to sweep the floor .", NULL) != got);
    score_of(m, "", &n); /* an empty reply is its end */
    assert_int_equal(n, 1);
    dikast_model_close(m);
}

/* At temperature 0 every token is the likeliest, so no other reply of that length can be likelier than a one-token one.
 */
static void test_generate_agrees_with_score(void **state) {
    dikast_model *m = open_lm("lm", 1);
    const dikast_tokenizer *t = dikast_model_tokenizer(m);
    dikast_sampling s = dikast_sampling_default();
    dikast_reply greedy;
    dikast_error err;
    (void)state;
    s.temperature = 0;
    s.max_new = 1;
    done(dikast_generate(&greedy, m, &ask, 1, &s, &err), &err);
    assert_int_equal(greedy.n_token, 1);
    for (int32_t id = SENT_COUNT; id < dikast_tokenizer_size(t); id += 7) {
        /* two tokens of which the first is id: log p(id) + log p(end | id) */
        char text[64];
        int32_t again[8];
        size_t size = dikast_decode(t, &id, 1, text, sizeof text - 1);
        text[size] = 0;
        if (strlen(text) != size || dikast_encode(t, text, size, again, 8) != 1) continue;
        int n;
        assert_true(score_of(m, text, &n) < greedy.logprob);
        assert_int_equal(n, 2);
    }
    dikast_reply_free(&greedy);
    dikast_model_close(m);
}

/* A filter that leaves one token makes every temperature greedy. */
static void test_filters_reach_the_sampler(void **state) {
    dikast_model *m = open_lm("lm", 1);
    dikast_sampling s[3];
    dikast_reply r[3];
    dikast_error err;
    (void)state;
    for (int i = 0; i < 3; i++) s[i] = dikast_sampling_default(), s[i].max_new = 6, s[i].seed = (uint64_t)i;
    s[0].temperature = 0, s[1].top_k = 1, s[2].top_p = 1e-9;
    for (int i = 0; i < 3; i++) done(dikast_generate(&r[i], m, &ask, 1, &s[i], &err), &err);
    for (int i = 1; i < 3; i++) {
        assert_string_equal(r[i].text, r[0].text);
        assert_int_equal(r[i].n_token, r[0].n_token);
    }
    for (int i = 0; i < 3; i++) dikast_reply_free(&r[i]);
    dikast_model_close(m);
}

static void test_preference(void **state) {
    dikast_model *pm = open_lm("pm", 1);
    dikast_message turns[] = {
        {"system", "be brief"}, {"user", "hi"}, {"assistant", "hello"}, {"user", "how do i bake ?"}};
    double a, b, c;
    dikast_error err;
    (void)state;
    done(dikast_preference(&a, pm, turns, 4, "to bake bread .", &err), &err);
    done(dikast_preference(&b, pm, turns, 4, "to bake bread .", &err), &err);
    assert_true(a == b && isfinite(a) && a != 0);
    done(dikast_preference(&b, pm, turns, 4, "get flour .", &err), &err);
    assert_true(a != b);
    done(dikast_preference(&c, pm, turns + 3, 1, "to bake bread .", &err), &err); /* the turns before matter */
    assert_true(a != c);
    int n;
    done(dikast_preference(&a, pm, &ask, 1, "get flour .", &err), &err);
    assert_true(a == below(HEAD_SCORE, ROOT "/pm", "get flour .", &n));
    dikast_model_close(pm);
}

static void refused(bool ok, const dikast_error *err, dikast_code code, const char *word) {
    assert_false(ok);
    if (!strstr(err->message, word)) fail_msg("expected '%s' in: %s", word, err->message);
    assert_int_equal(err->code, code);
}

static void test_what_is_refused(void **state) {
    dikast_model *m = open_lm("lm", 1), *pm = open_lm("pm", 1), *none;
    dikast_error err;
    dikast_reply r;
    double x = 3;
    int n = 3;
    (void)state;
    refused(dikast_preference(&x, m, &ask, 1, "a", &err), &err, DIKAST_ERR_CONFIG, "language model");
    assert_true(x == 0);
    refused(dikast_generate(&r, pm, &ask, 1, NULL, &err), &err, DIKAST_ERR_CONFIG, "scoring model");
    assert_null(r.text);
    refused(dikast_score(&x, &n, m, &ask, 0, "a", &err), &err, DIKAST_ERR_CONFIG, "user's turn");
    assert_int_equal(n, 0);
    refused(dikast_score(&x, &n, m, (dikast_message[]){{"human", "a"}}, 1, "a", &err), &err, DIKAST_ERR_CONFIG,
            "'human'");
    refused(dikast_score(&x, &n, m, (dikast_message[]){ask, {"system", "b"}, ask}, 3, "a", &err), &err,
            DIKAST_ERR_CONFIG, "first");
    char longer[400];
    memset(longer, '?', sizeof longer);
    for (int i = 0; i < 399; i += 2) longer[i] = 'a';
    longer[399] = 0;
    refused(dikast_score(&x, &n, m, &ask, 1, longer, &err), &err, DIKAST_ERR_CONFIG, "holds 64");
    refused(dikast_generate(&r, m, &(dikast_message){"user", longer}, 1, NULL, &err), &err, DIKAST_ERR_CONFIG,
            "holds 64");
    dikast_sampling s = dikast_sampling_default();
    s.temperature = -1;
    refused(dikast_generate(&r, m, &ask, 1, &s, &err), &err, DIKAST_ERR_CONFIG, "temperature");
    s = dikast_sampling_default(), s.top_p = NAN;
    refused(dikast_generate(&r, m, &ask, 1, &s, &err), &err, DIKAST_ERR_CONFIG, "top_p");
    s = dikast_sampling_default(), s.max_new = 0;
    refused(dikast_generate(&r, m, &ask, 1, &s, &err), &err, DIKAST_ERR_CONFIG, "max_new");
    refused(dikast_model_open(&none, ROOT "/lm", -1, &err), &err, DIKAST_ERR_CONFIG, "threads");
    refused(dikast_model_open(&none, ROOT "/no", 1, &err), &err, DIKAST_ERR_IO, "config.json");
    assert_null(none);
    dikast_model_close(m);
    dikast_model_close(pm);
}

static void test_constitution(void **state) {
    dikast_constitution *json, *xml, *none;
    dikast_error err;
    Constitution c = {0};
    Error e = {0};
    (void)state;
    done(dikast_constitution_open(&json, CONF "/constitution.json", &err), &err);
    done(dikast_constitution_open(&xml, CONF "/constitution.xml", &err), &err);
    must(constitution_read(&c, CONF "/constitution.json", &e), &e);
    assert_string_equal(dikast_constitution_sha256(json), c.sha256);
    assert_string_equal(dikast_constitution_sha256(xml), c.sha256);
    assert_int_equal(dikast_constitution_size(json), c.n);
    for (int i = 0; i < c.n; i++) {
        dikast_principle a = dikast_constitution_at(json, (size_t)i), b = dikast_constitution_at(xml, (size_t)i);
        assert_string_equal(a.id, c.principle[i].id);
        assert_string_equal(a.text, c.principle[i].text);
        assert_string_equal(a.critique, b.critique);
        assert_true(strlen(a.revise) > 0 && strlen(a.compare) > 0 && a.weight == c.principle[i].weight);
    }
    constitution_release(&c);
    dikast_constitution_close(json);
    dikast_constitution_close(xml);
    refused(dikast_constitution_open(&none, ROOT "/lm/tokenizer.json", &err), &err, DIKAST_ERR_FORMAT,
            "tokenizer.json");
    assert_null(none);
}

static void test_run_a_stage(void **state) {
    const char *set[] = {"run.out=" ROOT "/out", "run.threads=1"};
    dikast_run_options o = {.set = set, .n_set = 2, .only = "tokenizer"};
    dikast_result *r, *again;
    dikast_error err;
    dikast_tokenizer *t;
    (void)state;
    done(dikast_run(&r, CONF "/tiny.yaml", &o, &err), &err);
    done(dikast_run(&again, CONF "/tiny.yaml", &o, &err), &err);
    assert_string_equal(r->directory, ROOT "/out/runs/tiny");
    assert_int_equal(r->n_gate, 0);
    assert_int_equal(r->n_stage, again->n_stage);
    assert_true(r->n_stage > 2);
    bool found = false;
    for (size_t i = 0; i < r->n_stage; i++) {
        const dikast_stage *a = &r->stage[i], *b = &again->stage[i];
        assert_string_equal(a->key, b->key);
        assert_int_equal(strlen(a->key), 16);
        bool made = !strcmp(a->name, "tokenizer") || !strcmp(a->name, "world");
        assert_true(!a->cached && b->cached == made);
        if (strcmp(a->name, "tokenizer")) continue;
        found = true;
        done(dikast_tokenizer_open(&t, a->directory, &err), &err);
        assert_true(dikast_tokenizer_size(t) <= 700);
        dikast_tokenizer_close(t);
    }
    assert_true(found);
    dikast_result_free(r);
    dikast_result_free(again);
    dikast_result_free(NULL);
}

/* A whole run whose one gate cannot be met: everything is there all the same, and its models open. */
static void test_run_to_the_end(void **state) {
    const char *set[] = {"run.out=" ROOT "/whole", "eval.gold=" BUILD_DIR "/dikast-gold", "run.threads=2",
                         "eval.gates=[rl.kl >= 0 - 1, eval.rl.harm <= 0 - 1]"};
    dikast_run_options o = {.set = set, .n_set = 4};
    dikast_result *r;
    dikast_error err;
    double score = 0;
    (void)state;
    refused(dikast_run(&r, CONF "/tiny.yaml", &o, &err), &err, DIKAST_ERR_GATE, "1 of 2");
    assert_int_equal(r->n_gate, 2);
    assert_string_equal(r->gate[0].text, "rl.kl >= 0 - 1");
    assert_true(r->gate[0].ok && r->gate[0].bound == -1);
    assert_true(!r->gate[1].ok && r->gate[1].value >= 0);
    assert_true(io_exists(r->report) && r->seconds > 0);
    for (size_t i = 0; i < r->n_stage; i++) {
        char dir[700];
        dikast_model *m;
        bool rl = !strcmp(r->stage[i].name, "rl");
        if (!rl && strcmp(r->stage[i].name, "pm")) continue;
        snprintf(dir, sizeof dir, "%s/model", r->stage[i].directory);
        done(dikast_model_open(&m, dir, 1, &err), &err);
        assert_int_equal(dikast_model_about(m).scores, !rl);
        done(rl ? dikast_score(&score, NULL, m, &ask, 1, "no .", &err)
                : dikast_preference(&score, m, &ask, 1, "no .", &err),
             &err);
        assert_true(isfinite(score) && score != 0);
        dikast_model_close(m);
    }
    assert_true(score < 0); /* the policy comes last */
    dikast_result_free(r);
}

static void test_run_refuses(void **state) {
    const char *wrong[] = {"run.out=" ROOT "/out", "rl.betta=1", "model.n_layer=many"};
    dikast_run_options o = {.set = wrong, .n_set = 3};
    dikast_result *r;
    dikast_error err;
    (void)state;
    refused(dikast_run(&r, CONF "/tiny.yaml", &o, &err), &err, DIKAST_ERR_CONFIG, "rl.beta");
    assert_non_null(strstr(err.message, "model.n_layer")); /* every mistake at once */
    assert_null(r);
    o = (dikast_run_options){.set = wrong, .n_set = 1, .only = "nothing"};
    refused(dikast_run(&r, CONF "/tiny.yaml", &o, &err), &err, DIKAST_ERR_CONFIG, "nothing");
    dikast_result_free(r);
    refused(dikast_run(&r, CONF "/no.yaml", NULL, &err), &err, DIKAST_ERR_CONFIG, "no.yaml");
    assert_null(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version),
        cmocka_unit_test(test_tokenizer_round_trip),
        cmocka_unit_test(test_model_about),
        cmocka_unit_test(test_generate_follows_seed_alone),
        cmocka_unit_test(test_score),
        cmocka_unit_test(test_generate_agrees_with_score),
        cmocka_unit_test(test_filters_reach_the_sampler),
        cmocka_unit_test(test_preference),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_constitution),
        cmocka_unit_test(test_run_a_stage),
        cmocka_unit_test(test_run_to_the_end),
        cmocka_unit_test(test_run_refuses),
    };
    return cmocka_run_group_tests(tests, make_folder, NULL);
}
