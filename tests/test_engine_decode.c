// layer: engine
// label: slow
/* One thousand random shapes on the CPU: text generated with a cache, in random company and pieces, gets the same
 * log-prob bits as one full forward of the finished sequence. */
#include "engine_nets.h"

static int pick(Rng rng, uint64_t item, uint32_t step, int from, int to) {
    return from + (int)rng_below(rng, item, step, (uint32_t)(to - from + 1));
}

static ModelConfig random_config(Rng rng, uint64_t k) {
    ModelConfig c = tiny_config(pick(rng, k, 0, 0, 1));
    bool llama = c.family == FAMILY_LLAMA;
    c.n_layer = pick(rng, k, 2, 1, 3);
    c.n_kv_head = pick(rng, k, 3, 1, 3);
    c.n_head = c.n_kv_head * (llama ? pick(rng, k, 1, 1, 3) : 1);
    c.d_head = 2 * pick(rng, k, 4, 1, 20);
    c.d_model = c.n_head * c.d_head;
    c.d_ff = pick(rng, k, 5, 1, 150);
    c.n_vocab = pick(rng, k, 6, 2, 300);
    c.max_seq = pick(rng, k, 7, 2, 300);
    if (llama) c.tied = pick(rng, k, 8, 0, 1);
    return c;
}

static void one_shape(Rng rng, uint64_t k) {
    enum { N = 8 };
    static Texts t;
    Error err = {0};
    Nets nets;
    ModelConfig c = random_config(rng, k);
    nets_open(&nets, k % 3 ? "cpu" : "bf16", pick(rng, k, 9, 1, 3), &c, k);
    int n = pick(rng, k, 10, 1, N);
    texts_fill(&t, k, n, 1, pick(rng, k, 11, 1, c.max_seq - 1), c.n_vocab);
    if (pick(rng, k, 12, 0, 1)) {
        for (int i = 1; i < n; i++) t.part[i].tok = t.part[0].n >= t.part[i].n ? t.part[0].tok : t.part[i].tok;
    }
    GenRequest req[N];
    GenResult r[N];
    for (int i = 0; i < n; i++) {
        SampleParams p = {.temperature = 1.0,
                          .top_p = 1.0,
                          .repetition = 1.0,
                          .max_new = pick(rng, k, 20 + (uint32_t)i, 1, 30),
                          .rng = {k, RNG_SAMPLE}};
        req[i] = (GenRequest){.id = (uint64_t)i, .prompt = t.part[i], .sample = p};
    }
    Engine *e = engine_of(lm_of(&nets), (EngineConfig){.max_batch_tok = pick(rng, k, 13, 1, 300),
                                                       .max_slots = pick(rng, k, 14, 1, N),
                                                       .share_prefix = pick(rng, k, 15, 0, 1)});
    generate(e, req, n, r);
    for (int i = 0; i < n; i++) {
        float score[32], *to[1] = {score};
        Tokens text = {r[i].text, r[i].n};
        if (!engine_score(e, &req[i].prompt, &text, 1, 1.0f, to, &err)) fail_msg("%s", err.msg);
        if (r[i].n == 0 || memcmp(score, r[i].logprob, (size_t)r[i].n * sizeof *score) != 0) {
            fail_msg("seed 2024, shape %d, request %d of %d tokens: decoding and scoring differ", (int)k, i, r[i].n);
        }
    }
    engine_free_results(r, n);
    engine_close(e);
    nets_close(&nets);
}

static void test_decoding_equals_a_full_forward(void **state) {
    (void)state;
    for (uint64_t k = 0; k < 1000; k++) one_shape((Rng){2024, RNG_TEST}, k);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_decoding_equals_a_full_forward)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
