// layer: engine
/* Generation from rounded copies of the weights: what it gives is what a net whose matrices were rounded beforehand
 * gives, to the bit for BF16, within rounding for 8 bits, which are scaled after the sum; and the copy follows the
 * weights. */
#include "engine_nets.h"

enum { N = 9, MAX_NEW = 24 };

static const DType dtypes[] = {DTYPE_BF16, DTYPE_I8};

static double rounded(DType dtype, double v, double scale) {
    if (dtype == DTYPE_I8) return rint((double)(float)((float)v / (float)scale)) * (double)(float)scale;
    uint16_t half;
    Tensor one = tensor_over(&half, DTYPE_BF16, 1, 1);
    tensor_set(NULL, one, &v);
    tensor_get(NULL, &v, one);
    return v;
}

static void round_rows(Backend *be, Tensor w, DType dtype) {
    double *row = mem_alloc((size_t)w.cols * sizeof *row);
    for (int64_t i = 0; i < w.rows; i++) {
        double top = 0;
        tensor_get_row(be, row, w, i);
        for (int64_t j = 0; j < w.cols; j++) top = fmax(top, fabs(row[j]));
        double scale = top > 0 ? (double)((float)top / 127.0f) : 1;
        for (int64_t j = 0; j < w.cols; j++) row[j] = rounded(dtype, row[j], scale);
        tensor_set_row(be, w, i, row);
    }
    free(row);
}

typedef struct {
    Backend *be;
    DType dtype;
} RoundJob;

static void round_one(void *ud, int index, const ParamInfo *p) {
    RoundJob *job = ud;
    (void)index;
    if (p->layer >= 0 && p->w.panels) round_rows(job->be, p->w, job->dtype);
}

/* The net itself becomes what the copy was. An untied head: the embeddings stay as they are. */
static void round_net(Nets *n, DType dtype) {
    net_visit((Net){&n->model, NULL, NULL}, round_one, &(RoundJob){n->be, dtype});
    round_rows(n->be, n->lm.w, dtype);
    n->model.version++;
}

static void requests(GenRequest *req, const Texts *t, int n_vocab) {
    static const int32_t stop[] = {3};
    for (int i = 0; i < N; i++) {
        req[i] = (GenRequest){.id = (uint64_t)i, .prompt = t->part[i]};
        req[i].sample = (SampleParams){.temperature = i % 3 ? 0.8 : 0,
                                       .top_p = 1,
                                       .repetition = 1,
                                       .max_new = MAX_NEW,
                                       .rng = {7, RNG_SAMPLE},
                                       .stop = stop,
                                       .n_stop = 1};
    }
    assert_true(n_vocab > 3);
}

static void test_rounded_before(void **state) {
    (void)state;
    static Texts t;
    for (int kind = 0; kind < 2; kind++)
        for (int k = 0; k < COUNT_OF(dtypes); k++) {
            Nets nets;
            ModelConfig c = tiny_config(kind);
            c.tied = false;
            nets_open(&nets, "cpu", 2, &c, 5);
            texts_fill(&t, 3, N, 1, 90, c.n_vocab);
            GenRequest req[N];
            GenResult light[N], own[N], whole[N];
            requests(req, &t, c.n_vocab);
            Engine *plain = engine_of(lm_of(&nets), (EngineConfig){0});
            Engine *e = engine_of(lm_of(&nets), (EngineConfig){.weights = dtypes[k]});
            generate(plain, req, N, whole);
            generate(e, req, N, light);
            round_net(&nets, dtypes[k]);
            generate(plain, req, N, own);
            int differ = 0;
            for (int i = 0; i < N; i++) {
                differ += light[i].logprob[0] != whole[i].logprob[0];
                if (dtypes[k] == DTYPE_BF16) assert_same_result(&light[i], &own[i]);
                assert_int_equal(light[i].text[0], own[i].text[0]);
                assert_true(fabs((double)(light[i].logprob[0] - own[i].logprob[0])) < 1e-4);
            }
            assert_true(differ >= N / 2); /* rounding does something */
            engine_free_results(light, N);
            engine_free_results(own, N);
            engine_free_results(whole, N);
            engine_close(e);
            engine_close(plain);
            nets_close(&nets);
        }
}

/* Scoring reads the net's own weights, before and after generation. */
static void test_follows_the_weights(void **state) {
    (void)state;
    static Texts t;
    Error err = {0};
    for (int k = 0; k < COUNT_OF(dtypes); k++) {
        Nets nets;
        ModelConfig c = tiny_config(1);
        nets_open(&nets, "cpu", 1, &c, 6);
        texts_fill(&t, 4, N, 4, 40, c.n_vocab);
        GenRequest req[N];
        GenResult first[N], after[N], fresh[N];
        requests(req, &t, c.n_vocab);
        Engine *e = engine_of(lm_of(&nets), (EngineConfig){.weights = dtypes[k], .share_prefix = true});
        Engine *plain = engine_of(lm_of(&nets), (EngineConfig){0});
        float a[64], b[64], *pa[] = {a}, *pb[] = {b};
        generate(e, req, N, first);
        if (!engine_score(e, &t.part[0], &t.part[1], 1, 1, pa, &err)) fail_msg("%s", err.msg);
        if (!engine_score(plain, &t.part[0], &t.part[1], 1, 1, pb, &err)) fail_msg("%s", err.msg);
        assert_memory_equal(a, b, (size_t)t.part[1].n * sizeof *a);
        nets.be->op->scale(nets.be, nets.model.w.block[1].w_down, -2);
        nets.model.version++;
        generate(e, req, N, after);
        Engine *other = engine_of(lm_of(&nets), (EngineConfig){.weights = dtypes[k]});
        generate(other, req, N, fresh);
        int differ = 0;
        for (int i = 0; i < N; i++) {
            assert_same_result(&after[i], &fresh[i]);
            differ += first[i].logprob[0] != after[i].logprob[0];
        }
        assert_true(differ == N);
        engine_free_results(first, N);
        engine_free_results(after, N);
        engine_free_results(fresh, N);
        engine_close(other);
        engine_close(plain);
        engine_close(e);
        nets_close(&nets);
    }
}

static void test_refused(void **state) {
    (void)state;
    static Texts t;
    Error err = {0};
    Nets nets;
    ModelConfig c = tiny_config(0);
    nets_open(&nets, "ref", 1, &c, 6);
    texts_fill(&t, 4, N, 4, 40, c.n_vocab);
    GenRequest req[N];
    GenResult out[N];
    requests(req, &t, c.n_vocab);
    Engine *e = engine_of(lm_of(&nets), (EngineConfig){.weights = DTYPE_I8});
    assert_false(engine_generate(e, req, N, out, NULL, NULL, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, "I8"));
    engine_close(e);
    nets_close(&nets);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rounded_before),
                                       cmocka_unit_test(test_follows_the_weights), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
