// layer: engine
/* Generation and scoring on tiny random nets: whatever the arrangement of a batch, the same bits. */
#include "engine_nets.h"

static const char *const backends[] = {"ref", "cpu", "bf16"};
enum { N_VARIANT = 6 }; /* Llama and GPT-2 on each backend */

static void variant_open(Nets *n, int variant, int threads) {
    ModelConfig c = tiny_config(variant % 2);
    nets_open(n, backends[variant / 2], threads, &c, 5);
}

static const SampleParams greedy = {
    .temperature = 0.0, .top_p = 1.0, .repetition = 1.0, .max_new = 24, .rng = {7, RNG_SAMPLE}};
static const SampleParams drawn = {
    .temperature = 1.0, .top_p = 1.0, .repetition = 1.0, .max_new = 24, .rng = {7, RNG_SAMPLE}};

/* Every setting at once, by request number. */
static SampleParams mixed(int i) {
    SampleParams p = drawn;
    p.max_new = 1 + (i * 7) % 40;
    if (i % 3 == 1) p.temperature = 0.7;
    if (i % 5 == 2) p.top_k = 9;
    if (i % 5 == 3) p.top_p = 0.8;
    if (i % 5 == 4) p.min_p = 0.05;
    if (i % 4 == 3) p.repetition = 1.3;
    if (i % 11 == 6) p.temperature = 0.0;
    return p;
}

static void requests(GenRequest *req, const Texts *t) {
    for (int i = 0; i < t->n; i++)
        req[i] = (GenRequest){.id = 1000 + 3 * (uint64_t)i, .prompt = t->part[i], .sample = mixed(i)};
}

static void test_greedy_is_the_argmax_of_full_passes(void **state) {
    (void)state;
    static Texts t;
    Nets nets;
    for (int variant = 0; variant < N_VARIANT; variant++) {
        variant_open(&nets, variant, 1);
        Error err = {0};
        texts_fill(&t, 1, 1, 50, 50, 61);
        Engine *e = engine_of(lm_of(&nets), (EngineConfig){.share_prefix = true});
        GenRequest req = {.id = 4, .prompt = t.part[0], .sample = greedy};
        GenResult r;
        generate(e, &req, 1, &r);
        assert_int_equal(r.n, 24);
        assert_int_equal(r.why, STOP_LENGTH);
        int32_t all[80];
        memcpy(all, t.part[0].tok, 50 * sizeof *all);
        for (int k = 0; k < r.n; k++) {
            float z[61];
            assert_true(engine_logits(e, (Tokens){all, 50 + k}, z, &err));
            int best = 0;
            for (int v = 1; v < 61; v++) best = z[v] > z[best] ? v : best;
            assert_int_equal(r.text[k], best);
            all[50 + k] = r.text[k];
        }
        engine_free_results(&r, 1);
        engine_close(e);
        nets_close(&nets);
    }
}

/* Token t of a request is sample_token of a full pass's logits, of everything before it, and of u(id, t). */
static void test_draws_follow_their_coordinates(void **state) {
    (void)state;
    enum { N = 22 };
    static Texts t;
    static GenRequest req[N];
    static GenResult r[N];
    Nets nets;
    for (int variant = 0; variant < N_VARIANT; variant++) {
        Error err = {0};
        variant_open(&nets, variant, 1);
        texts_fill(&t, 15, N, 1, 20, 61);
        requests(req, &t);
        Engine *e = engine_of(lm_of(&nets), (EngineConfig){.max_slots = 4});
        generate(e, req, N, r);
        for (int i = 0; i < N; i++) {
            int32_t all[64];
            memcpy(all, t.part[i].tok, (size_t)t.part[i].n * sizeof *all);
            for (int k = 0; k < r[i].n; k++) {
                float z[61];
                int n = t.part[i].n + k;
                assert_true(engine_logits(e, (Tokens){all, n}, z, &err));
                double u = rng_uniform(req[i].sample.rng, req[i].id, (uint32_t)k);
                assert_int_equal(r[i].text[k], sample_token(z, 61, &req[i].sample, NULL, all, n, u));
                all[n] = r[i].text[k];
            }
        }
        engine_free_results(r, N);
        engine_close(e);
        nets_close(&nets);
    }
}

static void test_company_changes_nothing(void **state) {
    (void)state;
    enum { N = 40 };
    static Texts t;
    static GenRequest req[N];
    static GenResult alone[N], r[N];
    const EngineConfig config[] = {{.max_batch_tok = 37, .max_slots = 5},
                                   {.max_slots = 64},
                                   {.max_batch_tok = 512, .max_slots = 7, .share_prefix = true},
                                   {.max_batch_tok = 1, .max_slots = 1}};
    Nets nets;
    for (int variant = 0; variant < N_VARIANT; variant++) {
        variant_open(&nets, variant, 1);
        texts_fill(&t, 2, N, 1, 150, 61);
        requests(req, &t);
        Engine *e = engine_of(lm_of(&nets), (EngineConfig){.max_slots = 1});
        for (int i = 0; i < N; i++) generate(e, &req[i], 1, &alone[i]);
        engine_close(e);
        for (int k = 0; k < COUNT_OF(config); k++) {
            int n = k == 3 ? 4 : N; /* one token a pass is slow */
            e = engine_of(lm_of(&nets), config[k]);
            generate(e, req, n, r);
            for (int i = 0; i < n; i++) assert_same_result(&r[i], &alone[i]);
            engine_free_results(r, n);
            engine_close(e);
        }
        engine_free_results(alone, N);
        nets_close(&nets);
    }
}

static void test_shared_prefix_changes_nothing(void **state) {
    (void)state;
    enum { N = 12, COMMON = 150 };
    static Texts t;
    static GenRequest req[N];
    static GenResult off[N], on[N];
    Nets nets;
    for (int variant = 0; variant < N_VARIANT; variant++) {
        variant_open(&nets, variant, 1);
        texts_fill(&t, 3, N, COMMON + 1, 200, 61);
        for (int i = 1; i < N; i++)
            memcpy((int32_t *)(uintptr_t)t.part[i].tok, t.tok, (i % 4 == 3 ? 70 : COMMON) * sizeof *t.tok);
        t.part[5] = t.part[4] = t.part[0]; /* one prompt, other draws */
        t.part[6] = (Tokens){t.tok, 128};  /* ends with a page */
        t.part[7] = (Tokens){t.tok, 129};
        /* Equal second page behind another first one: not the same. */
        memcpy((int32_t *)(uintptr_t)t.part[9].tok, t.part[10].tok + 3, KV_PAGE * sizeof *t.tok);
        requests(req, &t);
        for (int batch = 0; batch < 2; batch++) {
            EngineConfig c = {.max_batch_tok = batch ? 90 : 0};
            Engine *e = engine_of(lm_of(&nets), c);
            generate(e, req, N, off);
            assert_int_equal(engine_stats(e).n_shared, 0);
            engine_close(e);
            c.share_prefix = true;
            e = engine_of(lm_of(&nets), c);
            generate(e, req, N, on);
            for (int i = 0; i < N; i++) assert_same_result(&on[i], &off[i]);
            /* All but the first share two pages; those of 70 common tokens and that of 128 tokens one,
               part 9 none. */
            int64_t shared = engine_stats(e).n_shared;
            assert_int_equal(shared, (7 * 2 + 3 * 1) * KV_PAGE);
            engine_free_results(on, N);
            generate(e, req, N, on); /* again: everything is there */
            for (int i = 0; i < N; i++) assert_same_result(&on[i], &off[i]);
            assert_true(engine_stats(e).n_shared > 2 * shared);
            engine_free_results(on, N);
            engine_free_results(off, N);
            engine_close(e);
        }
        nets_close(&nets);
    }
}

/* Many replies to one prompt compute it once: full pages are shared, the rest is copied, the last token is each one's
 * own. */
static void test_groups_compute_prompts_once(void **state) {
    (void)state;
    enum { PROMPTS = 7, GROUP = 5, N = PROMPTS * GROUP };
    static const int length[PROMPTS] = {1, 2, 32, 64, 65, 66, 150};
    static Texts t;
    static GenRequest req[N];
    static GenResult off[N], on[N];
    const EngineConfig config[] = {{0}, {.max_slots = 3}, {.max_batch_tok = 40}, {.max_batch_tok = 7, .max_slots = 7}};
    Nets nets;
    for (int variant = 0; variant < N_VARIANT; variant++) {
        variant_open(&nets, variant, 1);
        texts_fill(&t, 21, N, 150, 200, 61);
        for (int i = 0; i < N; i++) t.part[i] = (Tokens){t.part[i / GROUP * GROUP].tok, length[i / GROUP]};
        requests(req, &t);
        for (int i = 0; i < N; i += 4) req[i].sample.max_new = 1; /* donors that are gone after the pass */
        int64_t prompts = 0, once = 0;
        for (int p = 0; p < PROMPTS; p++) {
            prompts += (int64_t)GROUP * length[p];
            once += length[p] + GROUP - 1; /* the whole, and the last token for the others */
        }
        for (int k = 0; k < COUNT_OF(config); k++) {
            EngineConfig c = config[k];
            Engine *e = engine_of(lm_of(&nets), c);
            generate(e, req, N, off);
            assert_true(engine_stats(e).n_prefill == prompts && engine_stats(e).n_copied == 0);
            engine_close(e);
            c.share_prefix = true;
            e = engine_of(lm_of(&nets), c);
            generate(e, req, N, on);
            for (int i = 0; i < N; i++) assert_same_result(&on[i], &off[i]);
            EngineStats s = engine_stats(e);
            assert_true(s.n_prefill + s.n_shared + s.n_copied == prompts);
            if (k == 0) assert_int_equal(s.n_prefill, once);
            assert_true(s.n_prefill < prompts / 2);
            engine_free_results(on, N);
            engine_free_results(off, N);
            engine_close(e);
        }
        nets_close(&nets);
    }
}

static void test_few_pages_make_requests_wait(void **state) {
    (void)state;
    enum { N = 20 };
    static Texts t;
    static GenRequest req[N];
    static GenResult want[N], r[N];
    Nets nets;
    for (int variant = 0; variant < N_VARIANT; variant++) {
        variant_open(&nets, variant, 1);
        texts_fill(&t, 4, N, 1, 150, 61);
        for (int i = 0; i < N; i += 2)
            memcpy((int32_t *)(uintptr_t)t.part[i].tok, t.tok,
                   (size_t)(t.part[i].n < t.part[0].n ? t.part[i].n : t.part[0].n) * 4);
        requests(req, &t);
        Engine *e = engine_of(lm_of(&nets), (EngineConfig){0});
        generate(e, req, N, want);
        engine_close(e);
        size_t page = kv_page_bytes(&nets.model);
        for (size_t n_page = 3; n_page <= 5; n_page++) { /* 150 + 40 tokens are three pages */
            e = engine_of(lm_of(&nets), (EngineConfig){.kv_bytes = n_page * page, .share_prefix = n_page != 4});
            generate(e, req, N, r);
            for (int i = 0; i < N; i++) assert_same_result(&r[i], &want[i]);
            engine_free_results(r, N);
            engine_close(e);
        }
        Error err = {0};
        e = engine_of(lm_of(&nets), (EngineConfig){.kv_bytes = 2 * page});
        assert_false(engine_generate(e, req, N, r, NULL, NULL, &err));
        assert_int_equal(err.code, ERR_CONFIG);
        assert_non_null(strstr(err.msg, "raise its cache"));
        engine_close(e);
        engine_free_results(want, N);
        nets_close(&nets);
    }
}

static void test_threads_change_nothing(void **state) {
    (void)state;
    enum { N = 16 };
    static Texts t;
    static GenRequest req[N];
    static GenResult r[3][N];
    for (int variant = 0; variant < N_VARIANT; variant++) {
        texts_fill(&t, 6, N, 1, 120, 61);
        requests(req, &t);
        for (int k = 0; k < 3; k++) {
            Nets nets;
            variant_open(&nets, variant, k + 1);
            Engine *e = engine_of(lm_of(&nets), (EngineConfig){.share_prefix = true});
            generate(e, req, N, r[k]);
            for (int i = 0; i < N && k > 0; i++) assert_same_result(&r[k][i], &r[0][i]);
            engine_close(e);
            nets_close(&nets);
        }
        for (int k = 0; k < 3; k++) engine_free_results(r[k], N);
    }
}

/* Log-probs of one sequence's last n_text tokens by the plan and the layout of training, written out here. */
static void train_logprob(Nets *nets, const int32_t *tok, int n, int n_text, float temp, float *out) {
    Error err = {0};
    Acts *a;
    int32_t pos[512], row[512], page[8], q_off[2] = {0, n}, kv_len[1] = {n};
    for (int i = 0; i < n; i++) pos[i] = i;
    for (int i = 0; i < 8; i++) page[i] = i * KV_PAGE;
    for (int i = 0; i < n_text; i++) row[i] = n - n_text - 1 + i;
    Batch b = {.n_tok = n,
               .tok = tok,
               .pos = pos,
               .n_row = n_text,
               .row = row,
               .seqs = {.n_seq = 1, .max_page = 8, .q_off = q_off, .kv_len = kv_len, .kv_page = page, .causal = true}};
    if (!acts_open(&a, &nets->model, n, n_text, KEEP_ALL, &err)) fail_msg("%s", err.msg);
    Arena mem;
    int n_vocab = nets->model.cfg.n_vocab;
    if (!arena_init(&mem, "test", nets->be->mem, (size_t)n_text * (size_t)(n_vocab + 1) * 8 + 4096, &err))
        fail_msg("%s", err.msg);
    Tensor logits = tensor_place(&mem, nets->be->real, n_text, n_vocab),
           lp = tensor_place(&mem, nets->be->real, n_text, 1);
    net_forward(lm_of(nets), a, &b, NULL);
    head_forward(lm_of(nets), a, 0, logits);
    nets->be->op->logprob_fwd(nets->be, lp, (Tensor){0}, logits, tok + n - n_text, temp);
    tensor_get_f32(nets->be, out, lp);
    arena_release(&mem);
    acts_close(a);
}

static void test_rollout_is_scoring_is_training(void **state) {
    (void)state;
    enum { N = 12 };
    static Texts t;
    static GenRequest req[N];
    static GenResult r[N];
    Nets nets;
    for (int variant = 0; variant < N_VARIANT; variant++) {
        variant_open(&nets, variant, 1);
        Error err = {0};
        texts_fill(&t, 8, N, 1, 150, 61);
        requests(req, &t);
        for (int k = 0; k < 2; k++) {
            const double temp = k ? 0.8 : 1.0;
            for (int i = 0; i < N; i++) req[i].sample.temperature = temp;
            Engine *e = engine_of(lm_of(&nets), (EngineConfig){.max_batch_tok = 100, .share_prefix = true});
            generate(e, req, N, r);
            Tokens text[N];
            float score[N][64], train[64], *to[N];
            for (int i = 0; i < N; i++) text[i] = (Tokens){r[i].text, r[i].n}, to[i] = score[i];
            assert_true(engine_score(e, t.part, text, N, (float)temp, to, &err));
            for (int i = 0; i < N; i++) {
                int32_t all[512];
                memcpy(all, t.part[i].tok, (size_t)t.part[i].n * sizeof *all);
                memcpy(all + t.part[i].n, r[i].text, (size_t)r[i].n * sizeof *all);
                train_logprob(&nets, all, t.part[i].n + r[i].n, r[i].n, (float)temp, train);
                assert_memory_equal(score[i], train, (size_t)r[i].n * sizeof *train);
                assert_memory_equal(r[i].logprob, train, (size_t)r[i].n * sizeof *train);
            }
            engine_free_results(r, N);
            engine_close(e);
        }
        nets_close(&nets);
    }
}

/* Neighbours that begin alike share rows; nobody sees it in the numbers, only in their count. */
static void test_scoring_shares_beginnings(void **state) {
    (void)state;
    enum { N = 24, LONG = 100 };
    static Texts t;
    Nets nets;
    for (int variant = 0; variant < N_VARIANT; variant++) {
        variant_open(&nets, variant, 1);
        Error err = {0};
        texts_fill(&t, 22, 2 * N, 2, LONG, 61);
        Tokens prefix[N], text[N], whole[N];
        static int32_t tok[N][2 * LONG];
        static float all[2][N][2 * LONG], lp[2][N][2 * LONG];
        float *to_all[2][N], *to_lp[2][N], last[2][N];
        int n_all = 0;
        for (int i = 0; i < N; i++) {
            prefix[i] = t.part[i / 6 * 6]; /* four groups of six */
            text[i] = t.part[N + i];
            memcpy(tok[i], prefix[i].tok, (size_t)prefix[i].n * sizeof **tok);
            memcpy(tok[i] + prefix[i].n, text[i].tok, (size_t)text[i].n * sizeof **tok);
            whole[i] = (Tokens){tok[i], prefix[i].n + text[i].n};
            n_all += whole[i].n;
            for (int k = 0; k < 2; k++) to_all[k][i] = all[k][i], to_lp[k][i] = lp[k][i];
        }
        memset(all, 0, sizeof all), memset(lp, 0, sizeof lp);
        for (int pass = 0; pass < 2; pass++) { /* everything at once; passes that begin inside a group */
            Engine *l = engine_of(lm_of(&nets), (EngineConfig){.max_batch_tok = pass ? 210 : 4000});
            Engine *s = engine_of(score_of(&nets), (EngineConfig){.max_batch_tok = pass ? 210 : 4000});
            for (int i = 0; i < N; i++) {
                assert_true(engine_score(l, &prefix[i], &text[i], 1, 0.9f, &to_lp[0][i], &err));
                assert_true(engine_score_last(s, &whole[i], 1, &last[0][i], &err));
                assert_true(engine_score_all(s, &whole[i], 1, &to_all[0][i], &err));
            }
            int64_t alone = engine_stats(l).n_scored, alone_score = engine_stats(s).n_scored;
            assert_int_equal(alone, n_all - N);
            assert_true(engine_score(l, prefix, text, N, 0.9f, to_lp[1], &err));
            assert_true(engine_score_last(s, whole, N, last[1], &err));
            assert_true(engine_score_all(s, whole, N, to_all[1], &err));
            assert_memory_equal(lp[0], lp[1], sizeof lp[0]);
            assert_memory_equal(last[0], last[1], sizeof last[0]);
            assert_memory_equal(all[0], all[1], sizeof all[0]);
            assert_true(engine_stats(l).n_scored - alone < alone * 9 / 10);
            assert_true(engine_stats(s).n_scored < alone_score * 2 * 97 / 100); /* of all rows none is shared */
            engine_close(l);
            engine_close(s);
        }
        nets_close(&nets);
    }
}

/* -- rules
 * -------------------------------------------------------------------------------------------------------------- */

typedef struct {
    int32_t allow[2];
    uint8_t ban[61];
    int n_asked;
} Script;

/* Token 0 and 5 forced; 1 and 6 from two options; from 2 on nothing odd; 3 free. All through one buffer. */
static void script(void *ud, uint64_t id, const int32_t *text, int n, GenRule *rule) {
    Script *s = ud;
    s->n_asked++;
    assert_true(n == 0 || text != NULL);
    memset(s->ban, 0, sizeof s->ban);
    if (n == 0 || n == 5) {
        rule->force = 10 + (int32_t)(id % 7);
    } else if (n == 1 || n == 6) {
        s->allow[0] = 20 + (int32_t)(id % 5), s->allow[1] = 40 + (int32_t)(id % 3);
        rule->allow = s->allow, rule->n_allow = 2;
    } else if (n != 3) {
        for (int i = 1; i < 61; i += 2) s->ban[i] = 1;
        rule->ban = s->ban;
    }
}

static void test_hooks_are_obeyed(void **state) {
    (void)state;
    enum { N = 10, LEN = 12 };
    static Texts t;
    Nets nets;
    for (int variant = 0; variant < N_VARIANT; variant++) {
        variant_open(&nets, variant, 2);
        Error err = {0};
        static GenRequest req[N];
        static GenResult r[N], alone;
        Script s = {0};
        texts_fill(&t, 9, N, 5, 90, 61);
        for (int i = 0; i < N; i++) {
            req[i] = (GenRequest){.id = (uint64_t)i, .prompt = t.part[i], .sample = i % 2 ? drawn : greedy};
            req[i].sample.max_new = LEN, req[i].sample.hook = script, req[i].sample.hook_ud = &s;
        }
        Engine *e = engine_of(lm_of(&nets), (EngineConfig){.share_prefix = true});
        generate(e, req, N, r);
        assert_int_equal(s.n_asked, N * LEN);
        int odd = 0;
        for (int i = 0; i < N; i++) {
            assert_int_equal(r[i].n, LEN);
            assert_int_equal(r[i].n_forced, 2);
            int32_t a = 20 + i % 5, b = 40 + i % 3, all[200];
            for (int k = 0; k < LEN; k++) {
                int32_t x = r[i].text[k];
                if (k == 0 || k == 5)
                    assert_int_equal(x, 10 + i % 7);
                else if (k == 1 || k == 6)
                    assert_true(x == a || x == b);
                else if (k == 3)
                    odd += x % 2;
                else
                    assert_int_equal(x % 2, 0);
            }
            float z[61], score[LEN], *to[1] = {score};
            memcpy(all, req[i].prompt.tok, (size_t)req[i].prompt.n * sizeof *all);
            memcpy(all + req[i].prompt.n, r[i].text, 6 * sizeof *all);
            assert_true(engine_logits(e, (Tokens){all, req[i].prompt.n + 6}, z, &err));
            assert_true(r[i].odds == z[a] - z[b]);
            if (i % 2 == 0) assert_int_equal(r[i].text[6], z[a] > z[b] ? a : b); /* greedy among two */
            Tokens text = {r[i].text, LEN};
            assert_true(engine_score(e, &req[i].prompt, &text, 1, 1.0f, to, &err)); /* rules do not touch log-probs */
            assert_memory_equal(r[i].logprob, score, sizeof score);
            generate(e, &req[i], 1, &alone);
            assert_same_result(&r[i], &alone);
            engine_free_results(&alone, 1);
        }
        assert_true(odd > 0);
        engine_free_results(r, N);
        engine_close(e);
        nets_close(&nets);
    }
}

static void ban_all(void *ud, uint64_t id, const int32_t *text, int n, GenRule *rule) {
    (void)id, (void)text;
    if (n == 2) rule->ban = ud;
}

static void force_seven(void *ud, uint64_t id, const int32_t *text, int n, GenRule *rule) {
    (void)ud, (void)id, (void)text;
    if (n == 3) rule->force = 7;
}

static void test_ends(void **state) {
    (void)state;
    static Texts t;
    Nets nets;
    for (int variant = 0; variant < N_VARIANT; variant++) {
        variant_open(&nets, variant, 1);
        Error err = {0};
        GenResult r, cut, many[4];
        texts_fill(&t, 10, 1, 255, 255, 61);
        Engine *e = engine_of(lm_of(&nets), (EngineConfig){0});
        GenRequest req = {.id = 1, .prompt = {t.tok, 40}, .sample = drawn};
        generate(e, &req, 1, &r);
        /* A stop token ends the text where it first appears and is part of it. */
        const int32_t stop[2] = {r.text[9], 60};
        int first = 0;
        while (r.text[first] != stop[0] && r.text[first] != stop[1]) first++;
        req.sample.stop = stop, req.sample.n_stop = 2;
        generate(e, &req, 1, &cut);
        assert_int_equal(cut.n, first + 1);
        assert_int_equal(cut.why, STOP_TOKEN);
        assert_memory_equal(cut.text, r.text, (size_t)cut.n * sizeof *cut.text);
        assert_memory_equal(cut.logprob, r.logprob, (size_t)cut.n * sizeof *cut.logprob);
        engine_free_results(&cut, 1);
        engine_free_results(&r, 1);
        /* A forced one too. */
        const int32_t seven = 7;
        req.sample = greedy, req.sample.hook = force_seven;
        req.sample.stop = &seven, req.sample.n_stop = 1;
        generate(e, &req, 1, &cut);
        assert_true(cut.why == STOP_TOKEN && cut.n <= 4 && cut.text[cut.n - 1] == 7);
        engine_free_results(&cut, 1);
        /* Length and context. */
        const int len[4] = {250, 256, 255, 9}, got[4] = {6, 0, 1, 0};
        const StopReason why[4] = {STOP_CONTEXT, STOP_CONTEXT, STOP_CONTEXT, STOP_LENGTH};
        GenRequest q[4];
        for (int i = 0; i < 4; i++) q[i] = (GenRequest){.id = (uint64_t)i, .prompt = {t.tok, len[i]}, .sample = drawn};
        q[3].sample.max_new = 0;
        generate(e, q, 4, many);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(many[i].n, got[i]);
            assert_int_equal(many[i].why, why[i]);
        }
        engine_free_results(many, 4);
        generate(e, NULL, 0, NULL);
        /* Nothing left to draw is an error, and the engine works on. */
        uint8_t ban[61];
        memset(ban, 1, sizeof ban);
        GenRequest bad[2] = {{.id = 1, .prompt = {t.tok, 40}, .sample = drawn},
                             {.id = 2, .prompt = {t.tok, 40}, .sample = drawn}};
        bad[1].sample.hook = ban_all, bad[1].sample.hook_ud = ban;
        assert_false(engine_generate(e, bad, 2, many, NULL, NULL, &err));
        assert_int_equal(err.code, ERR_DIVERGED);
        assert_null(many[0].text);
        generate(e, bad, 1, many);
        assert_int_equal(many[0].n, 24);
        engine_free_results(many, 1);
        engine_close(e);
        nets_close(&nets);
    }
}

static void request_stop(void *ud, uint64_t id, const int32_t *text, int n, GenRule *rule) {
    (void)id, (void)text, (void)rule;
    if (n == 5) stop_request(ud);
}

static void test_stop_request(void **state) {
    (void)state;
    static Texts t;
    Nets nets;
    Error err = {0};
    Stop *stop;
    assert_true(stop_open(&stop, &err));
    ModelConfig c = tiny_config(0);
    nets_open(&nets, "ref", 1, &c, 5);
    texts_fill(&t, 11, 3, 10, 20, 61);
    GenRequest req[3];
    GenResult r[3];
    for (int i = 0; i < 3; i++) req[i] = (GenRequest){.id = (uint64_t)i, .prompt = t.part[i], .sample = drawn};
    req[0].sample.max_new = 3;
    req[1].sample.hook = request_stop, req[1].sample.hook_ud = stop;
    Engine *e = engine_of(lm_of(&nets), (EngineConfig){.share_prefix = true});
    assert_false(engine_generate(e, req, 3, r, NULL, stop, &err));
    assert_int_equal(err.code, ERR_STOPPED);
    assert_non_null(strstr(err.msg, "1 of 3"));
    for (int i = 0; i < 3; i++) assert_null(r[i].text);
    engine_close(e);
    nets_close(&nets);
    stop_close(stop);
}

static void test_new_weights_drop_cached_pages(void **state) {
    (void)state;
    static Texts t;
    Nets nets;
    for (int variant = 0; variant < N_VARIANT; variant++) {
        variant_open(&nets, variant, 1);
        GenResult before, after, fresh;
        texts_fill(&t, 12, 1, 140, 140, 61);
        GenRequest req = {.id = 1, .prompt = t.part[0], .sample = drawn};
        Engine *e = engine_of(lm_of(&nets), (EngineConfig){.share_prefix = true});
        generate(e, &req, 1, &before);
        Tensor wv = nets.model.w.block[0].wv;
        double *w = mem_alloc((size_t)tensor_count(wv) * sizeof *w);
        tensor_get(nets.be, w, wv);
        w[3 * wv.cols + 4] += 0.5;
        tensor_set(nets.be, wv, w);
        free(w);
        nets.model.version++;
        generate(e, &req, 1, &after);
        assert_int_equal(engine_stats(e).n_shared, 0);
        Engine *other = engine_of(lm_of(&nets), (EngineConfig){0});
        generate(other, &req, 1, &fresh);
        assert_same_result(&after, &fresh);
        assert_memory_not_equal(before.logprob, after.logprob, sizeof(float));
        engine_free_results(&before, 1);
        generate(e, &req, 1, &before); /* unchanged since: shared */
        assert_int_equal(engine_stats(e).n_shared, 2 * KV_PAGE);
        engine_close(other);
        engine_close(e);
        nets_close(&nets);
        engine_free_results(&before, 1);
        engine_free_results(&after, 1);
        engine_free_results(&fresh, 1);
    }
}

/* -- scoring
 * ------------------------------------------------------------------------------------------------------------ */

static void test_packed_scores_are_scores_alone(void **state) {
    (void)state;
    enum { N = 24 };
    static Texts t;
    Nets nets;
    for (int variant = 0; variant < N_VARIANT; variant++) {
        variant_open(&nets, variant, 2);
        Error err = {0};
        texts_fill(&t, 13, N, 1, 200, 61);
        const int budget[] = {0, 64, 512};
        float last[3][N], one, all[N][200], *to[N];
        for (int i = 0; i < N; i++) to[i] = all[i];
        for (int k = 0; k < 3; k++) {
            Engine *e = engine_of(score_of(&nets), (EngineConfig){.max_batch_tok = budget[k]});
            assert_true(engine_score_last(e, t.part, N, last[k], &err));
            assert_true(engine_score_all(e, t.part, N, to, &err));
            assert_memory_equal(last[k], last[0], sizeof last[0]);
            for (int i = 0; i < N; i++) {
                assert_true(engine_score_last(e, &t.part[i], 1, &one, &err));
                assert_memory_equal(&one, &last[k][i], sizeof one);
                int cut = t.part[i].n / 2; /* a score in the middle is that of the text up to there */
                assert_memory_equal(&all[i][t.part[i].n - 1], &one, sizeof one);
                assert_true(engine_score_last(e, &(Tokens){t.part[i].tok, cut + 1}, 1, &one, &err));
                assert_memory_equal(&all[i][cut], &one, sizeof one);
            }
            engine_close(e);
        }
        nets_close(&nets);
    }
}

static void test_options_are_log_probs(void **state) {
    (void)state;
    enum { N = 9 };
    static Texts t;
    Nets nets;
    for (int variant = 0; variant < N_VARIANT; variant++) {
        variant_open(&nets, variant, 1);
        Error err = {0};
        texts_fill(&t, 14, N, 1, 57, 61);
        const int32_t option[3] = {17, 3, 60};
        float lp[N * 3], z[61], alone[3], text_lp, *to[1] = {&text_lp};
        Engine *e = engine_of(lm_of(&nets), (EngineConfig){0});
        assert_true(engine_options(e, t.part, N, option, 3, lp, &err));
        for (int i = 0; i < N; i++) {
            assert_true(engine_logits(e, t.part[i], z, &err));
            double sum = 0.0;
            for (int v = 0; v < 61; v++) sum += exp((double)z[v]);
            for (int k = 0; k < 3; k++) {
                assert_true(fabs(lp[i * 3 + k] - ((double)z[option[k]] - log(sum))) < 2e-5);
                Tokens text = {&option[k], 1};
                assert_true(engine_score(e, &t.part[i], &text, 1, 1.0f, to, &err));
                assert_memory_equal(&text_lp, &lp[i * 3 + k], sizeof text_lp);
            }
            assert_true(engine_options(e, &t.part[i], 1, option, 3, alone, &err));
            assert_memory_equal(alone, lp + i * 3, sizeof alone);
        }
        engine_close(e);
        /* Behind a common beginning of a page, with and without sharing it; one prompt fills the context. */
        static int32_t full[N * 256];
        Tokens long_prompt[N];
        float packed[N * 3], shared[N * 3];
        for (int i = 0; i < N; i++) {
            memcpy(full + i * 256, t.tok, 70 * sizeof *full);
            memcpy(full + i * 256 + 70, t.part[i].tok, (size_t)t.part[i].n * sizeof *full);
            long_prompt[i] = (Tokens){full + i * 256, i == 4 ? 256 : 70 + t.part[i].n};
        }
        for (int share = 0; share < 2; share++) {
            e = engine_of(lm_of(&nets), (EngineConfig){.share_prefix = share, .max_batch_tok = 200});
            assert_true(engine_options(e, long_prompt, N, option, 3, share ? shared : packed, &err));
            assert_true(engine_options(e, long_prompt, 0, option, 3, NULL, &err));
            assert_int_equal(engine_stats(e).n_shared, share ? (N - 1) * KV_PAGE : 0);
            engine_close(e);
        }
        assert_memory_equal(packed, shared, sizeof packed);
        nets_close(&nets);
    }
}

static void test_scoring_empty_and_wrong_input(void **state) {
    (void)state;
    Nets nets;
    Error err = {0};
    ModelConfig c = tiny_config(0);
    nets_open(&nets, "ref", 1, &c, 5);
    Engine *e = engine_of(lm_of(&nets), (EngineConfig){0});
    static int32_t tok[300];
    float lp[300], z[61], *to[2] = {lp, lp + 10};
    Tokens prefix[2] = {{tok, 3}, {tok, 4}}, text[2] = {{tok, 0}, {tok, 2}};
    lp[0] = 77.0f;
    assert_true(engine_score(e, prefix, text, 2, 1.0f, to, &err)); /* an empty text has no log-probs */
    assert_true(lp[0] == 77.0f && lp[10] < 0.0f);
    assert_true(engine_score(e, prefix, text, 1, 1.0f, to, &err));
    assert_true(engine_score(e, prefix, text, 0, 1.0f, to, &err));
    prefix[1].n = 0;
    assert_false(engine_score(e, prefix, text, 2, 1.0f, to, &err));
    assert_non_null(strstr(err.msg, "sequence 1 has no prefix"));
    assert_true(engine_logits(e, (Tokens){tok, 256}, z, &err));
    assert_false(engine_logits(e, (Tokens){tok, 257}, z, &err));
    assert_non_null(strstr(err.msg, "257 tokens, the model's context holds 256"));
    assert_false(engine_logits(e, (Tokens){tok, 0}, z, &err));
    tok[2] = 61;
    assert_false(engine_logits(e, (Tokens){tok, 5}, z, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_non_null(strstr(err.msg, "token 2 is 61, expected 0..60"));
    GenRequest req = {.prompt = {tok, 5}, .sample = drawn};
    GenResult r;
    assert_false(engine_generate(e, &req, 1, &r, NULL, NULL, &err));
    assert_non_null(strstr(err.msg, "token 2 is 61"));
    req.prompt.n = 0;
    assert_false(engine_generate(e, &req, 1, &r, NULL, NULL, &err));
    assert_non_null(strstr(err.msg, "no prompt"));
    engine_close(e);
    nets_close(&nets);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_is_the_argmax_of_full_passes),
        cmocka_unit_test(test_draws_follow_their_coordinates),
        cmocka_unit_test(test_company_changes_nothing),
        cmocka_unit_test(test_shared_prefix_changes_nothing),
        cmocka_unit_test(test_groups_compute_prompts_once),
        cmocka_unit_test(test_few_pages_make_requests_wait),
        cmocka_unit_test(test_threads_change_nothing),
        cmocka_unit_test(test_rollout_is_scoring_is_training),
        cmocka_unit_test(test_scoring_shares_beginnings),
        cmocka_unit_test(test_hooks_are_obeyed),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_stop_request),
        cmocka_unit_test(test_new_weights_drop_cached_pages),
        cmocka_unit_test(test_packed_scores_are_scores_alone),
        cmocka_unit_test(test_options_are_log_probs),
        cmocka_unit_test(test_scoring_empty_and_wrong_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
