// layer: train
/* The objectives: the loss is what it is said to be and the gradient its derivative, weight 0 leaves no trace, and each
 * learns what it should. */
#include "train_fixture.h"

#include "engine/engine.h"

/* -- the loss is what it is said to be, the gradient its derivative */

/* From the engine's log-probs and scores, sample by sample. */
static double loss_by_hand(Fixture *f, const SampleSet *s, bool pairs) {
    Error err = {0};
    Engine *e;
    EngineConfig c = {0};
    float lp[64], score[2], *out = lp;
    double sum = 0, weight = 0;
    must(engine_open(&e, f->net, &c, &err), &err);
    for (int64_t i = 0; i < s->n; i += s->group) {
        Tokens seq[2];
        for (int g = 0; g < s->group; g++)
            seq[g] = (Tokens){s->tok + s->off[i + g], (int)(s->off[i + g + 1] - s->off[i + g])};
        double w = s->sample_weight[i], q = s->target[i];
        if (pairs) {
            must(engine_score_last(e, seq, 2, score, &err), &err);
            double d = (double)score[0] - score[1], both = (double)score[0] + score[1];
            sum += w * (q * log1p(exp(-d)) + (1 - q) * log1p(exp(d)) + 0.01 * both * both);
            weight += w;
            continue;
        }
        Tokens first = {seq[0].tok, 1}, rest = {seq[0].tok + 1, seq[0].n - 1};
        must(engine_score(e, &first, &rest, 1, 1, &out, &err), &err);
        for (int t = 1; t < seq[0].n; t++) {
            sum -= w * s->weight[s->off[i] + t] * lp[t - 1];
            weight += w * s->weight[s->off[i] + t];
        }
    }
    engine_close(e);
    return sum / weight;
}

/* Along the gradient itself the loss changes by its square: one number that a wrong factor anywhere changes. */
static void test_loss_and_gradient(void **state) {
    (void)state;
    for (int pairs = 0; pairs < 2; pairs++) {
        Fixture f;
        SampleSet s;
        int n_micro;
        double loss, side[2], weight, square = 0;
        setup(&f, "ref", pairs ? HEAD_SCORE : HEAD_LM);
        if (pairs)
            pm_samples(&s, 6, false, 0.75f);
        else
            lm_samples(&s, 6);
        Grads g = whole_set(&f, &s, pairs, 100, &n_micro, &loss, &weight);
        assert_true(fabs(loss_by_hand(&f, &s, pairs) - loss) < 1e-6 * loss);
        for (int64_t i = 0; i < g.n; i++) square += g.g[i] * g.g[i];
        double h = 1e-4 / sqrt(square);
        for (int k = 0; k < 2; k++) {
            Shift sh = {f.be, g.g, k ? -2 * h : h, 0};
            net_visit(f.net, shift_param, &sh);
            Grads unused = whole_set(&f, &s, pairs, 100, &n_micro, &side[k], &weight);
            free(unused.g);
        }
        double slope = (side[0] - side[1]) / (2 * h);
        print_message("%s: slope along the gradient %.9g, its square %.9g\n", pairs ? "pairs" : "tokens", slope,
                      square);
        assert_true(fabs(slope - square) < 1e-5 * square);
        free(g.g);
        samples_release(&s);
        close_all(&f);
    }
}

/* -- weight 0 */

static void test_zero_weight(void **state) {
    static const char *const names[] = {"ref", "cpu"};
    (void)state;
    for (int k = 0; k < 2; k++) {
        Error err = {0};
        Fixture f;
        SampleSet s;
        Objective obj;
        ObjPm *pm;
        Batch b;
        Arena mem;
        setup(&f, names[k], HEAD_SCORE);
        must(doctor_zero_weight(f.be, &err), &err);
        pm_samples(&s, 3, false, 0);
        must(obj_pm_open(&pm, &obj, &s, 256, SEED, END, 0.01, &err), &err);
        must(obj.micro(obj.self, 0, &b, &err), &err);
        assert_int_equal(b.n_row, 6);
        must(arena_init(&mem, "test", f.be->mem, 1 << 16, &err), &err);
        Tensor out = tensor_place(&mem, f.be->real, 6, 1);
        double x[6], weight = 0;
        for (int i = 0; i < 6; i++) x[i] = NAN;
        tensor_set(f.be, out, x);
        assert_true(obj.loss(obj.self, f.be, &b, 0, out, &weight, NULL) == 0 && weight == 0);
        tensor_get(f.be, x, out);
        for (int i = 0; i < 6; i++) assert_true(x[i] == 0);
        arena_release(&mem);
        obj_pm_close(pm);
        samples_release(&s);
        close_all(&f);
    }
}

/* Head rows are exactly those whose next token carries weight, in this pack's own sequences. */
static void test_rows(void **state) {
    (void)state;
    Error err = {0};
    Fixture f;
    SampleSet s;
    Objective obj;
    ObjLm *lm;
    Batch b;
    open_backend(&f, "ref", 1);
    lm_samples(&s, 6);
    must(obj_lm_open(&lm, &obj, &s, 512, SEED, &err), &err);
    must(obj.micro(obj.self, 0, &b, &err), &err);
    int expected = 0;
    for (int64_t i = 0; i < s.n; i++)
        for (int64_t t = s.off[i] + 1; t < s.off[i + 1]; t++) expected += s.weight[t] != 0;
    assert_int_equal(b.n_row, expected);
    for (int i = 0; i < b.n_row; i++) {
        int t = b.pos[b.row[i]] + 1; /* the predicted token's place in its sequence */
        assert_true(t % 3 != 0);
        assert_true(i == 0 || b.row[i] > b.row[i - 1]);
    }
    for (int q = 0; q < b.seqs.n_seq; q++) {
        assert_int_equal(b.seqs.kv_len[q], b.seqs.q_off[q + 1] - b.seqs.q_off[q]);
        assert_int_equal(b.seqs.kv_page[q * b.seqs.max_page], b.seqs.q_off[q]);
        assert_int_equal(b.pos[b.seqs.q_off[q]], 0);
    }
    assert_true(b.seqs.causal && b.kv_row == NULL);
    obj_lm_close(lm);
    samples_release(&s);
    backend_close(f.be);
    pool_close(f.pool);
}

/* -- learning */

static void test_overfit(void **state) {
    (void)state;
    Error err = {0};
    Fixture f;
    SampleSet s;
    Objective obj;
    ObjLm *lm;
    Str dir = {0};
    double loss;
    setup(&f, "cpu", HEAD_LM);
    lm_samples(&s, 4);
    must(obj_lm_open(&lm, &obj, &s, 256, SEED, &err), &err);
    assert_int_equal(obj_lm_packs(lm, 0), 1);
    TrainConfig c = config(150, 1e-2);
    fresh_dir(&dir, "overfit");
    run_ok(&f, &c, &obj, dir.s, &loss);
    print_message("overfit: loss %.4f after %d steps\n", loss, (int)c.steps);
    assert_true(loss < 0.05);
    obj_lm_close(lm);
    samples_release(&s);
    close_all(&f);
    str_release(&dir);
}

static double pm_accuracy(Fixture *f, const SampleSet *s) {
    Error err = {0};
    Objective obj;
    ObjPm *pm;
    double loss;
    Metrics *m = metrics_new();
    must(obj_pm_open(&pm, &obj, s, 512, SEED, END, 0, &err), &err);
    must(eval_run(&loss, f->net, &obj, obj_pm_packs(pm, 0), m, &err), &err);
    double a = metrics_mean(m, "accuracy");
    metrics_free(m);
    obj_pm_close(pm);
    return a;
}

/* A set that one word separates reaches 100 %, on pairs it never saw too; with every label turned round, 0 % of the
 * true ones. */
static void test_preference(void **state) {
    (void)state;
    Error err = {0};
    SampleSet held_out;
    Str dir = {0};
    pm_samples(&held_out, 400, false, 1);
    for (int flip = 0; flip < 2; flip++) {
        Fixture f;
        SampleSet s;
        Objective obj;
        ObjPm *pm;
        setup(&f, "cpu", HEAD_SCORE);
        pm_samples(&s, 300, flip, 1);
        double before = pm_accuracy(&f, &held_out);
        must(obj_pm_open(&pm, &obj, &s, 512, SEED, END, 0.001, &err), &err);
        TrainConfig c = config(120, 3e-3);
        fresh_dir(&dir, "pm");
        run_ok(&f, &c, &obj, dir.s, NULL);
        double seen = pm_accuracy(&f, &s), after = pm_accuracy(&f, &held_out);
        print_message("preference%s: accuracy %.3f -> %.3f held out, %.3f on its own labels\n", flip ? ", flipped" : "",
                      before, after, seen);
        assert_true(seen == 1);
        assert_true(flip ? after < 0.02 : after > 0.98);
        assert_true(before > 0.2 && before < 0.8);
        obj_pm_close(pm);
        samples_release(&s);
        close_all(&f);
    }
    samples_release(&held_out);
    str_release(&dir);
}

static void test_classifier(void **state) {
    (void)state;
    Error err = {0};
    Fixture f;
    SampleSet pairs, s;
    Objective obj;
    ObjPm *pm;
    Str dir = {0};
    setup(&f, "cpu", HEAD_SCORE);
    pm_samples(&pairs, 150, false, 1);
    samples_init(&s, 1);
    for (int64_t i = 0; i < pairs.n; i++) {
        float q = pairs.target[i - i % 2], label = (i % 2 ? 1 - q : q) > 0.5f ? 1.0f : 0.0f;
        samples_add(&s, pairs.tok + pairs.off[i], pairs.weight + pairs.off[i], (int)(pairs.off[i + 1] - pairs.off[i]),
                    (uint64_t)i, label, 1);
    }
    must(obj_classifier_open(&pm, &obj, &s, 512, SEED, END, &err), &err);
    TrainConfig c = config(120, 3e-3);
    fresh_dir(&dir, "classifier");
    Trainer *t;
    must(trainer_open(&t, f.net, &c, &obj, NULL, NULL, &err), &err);
    must(trainer_run(t, dir.s, &err), &err);
    assert_true(metrics_mean(trainer_metrics(t), "accuracy") == 1);
    trainer_close(t);
    obj_pm_close(pm);
    samples_release(&pairs);
    samples_release(&s);
    close_all(&f);
    str_release(&dir);
}

/* Two labels are two classifiers: the loss is the sum of theirs, unknown ones leave no trace, and both are learned. */
static void test_labels(void **state) {
    (void)state;
    enum { N = 4, K = 2 };
    Error err = {0};
    Backend *be;
    Pool *pool;
    SampleSet s;
    Objective obj;
    ObjPm *pm;
    Batch b;
    static const float label[N * K] = {1, 0, 0, NAN, 1, 1, NAN, NAN};
    static const int32_t tok[] = {FIRST_WORD, FIRST_WORD, END};
    static const float weight[3] = {0};
    must(pool_open(&pool, 1, &err), &err);
    must(backend_open(&be, "ref", pool, NULL, &err), &err);
    samples_init(&s, 1);
    for (int i = 0; i < N; i++) samples_add(&s, tok, weight, 3, (uint64_t)i, 0, i == 2 ? 0.5f : 1);
    must(obj_labels_open(&pm, &obj, &s, label, K, 64, SEED, END, &err), &err);
    must(obj.micro(obj.self, 0, &b, &err), &err);
    assert_int_equal(b.n_row, N);
    Arena mem = {0};
    must(arena_init(&mem, "labels", be->mem, 1 << 16, &err), &err);
    Tensor out = tensor_place(&mem, be->dtype, N, K);
    double z[N * K], loss = 0, want = 0, total = 0;
    for (int i = 0; i < N * K; i++) z[i] = 0.3 * i - 1;
    tensor_set(be, out, z);
    Metrics *m = metrics_new();
    loss = obj.loss(obj.self, be, &b, 0, out, &total, m);
    double dz[N * K];
    tensor_get(be, dz, out);
    /* Rows stand in the order of the pack; all samples are equal but for labels and weights, so sums tell them apart.
     */
    double grad = 0, grad_want = 0;
    Loader *order;
    must(loader_open(&order, &s, 64, SEED, &err), &err);
    const Pack *p = loader_pack(order, 0);
    for (int r = 0; r < N; r++)
        for (int k = 0; k < K; k++) {
            int64_t i = p->sample[r];
            double d, w = i == 2 ? 0.5 : 1;
            grad += dz[r * K + k];
            if (isnan(label[i * K + k])) {
                assert_true(dz[r * K + k] == 0);
                continue;
            }
            want += w * logistic_loss(&d, z[r * K + k], (double)label[i * K + k]);
            grad_want += w * d;
        }
    assert_true(fabs(loss - want) < 1e-12 && fabs(grad - grad_want) < 1e-12 && total == 3.5);
    loader_close(order);
    metrics_free(m);
    arena_release(&mem);
    obj_pm_close(pm);
    static const float beyond[N * K] = {1, 0, 0, 2};
    assert_false(obj_labels_open(&pm, &obj, &s, beyond, K, 64, SEED, END, &err));
    assert_non_null(strstr(err.msg, "sample 1 has label 2"));
    samples_release(&s);
    backend_close(be);
    pool_close(pool);
}

/* Two heads with labels, weights and offsets of their own, a margin: loss and gradient of given scores, by the
 * formula. */
static void test_heads(void **state) {
    (void)state;
    enum { PAIRS = 3, HEADS = 2 };
    static const float target[PAIRS * HEADS] = {0.9f, 0.2f, 0.5f, 1, 0, 0.7f},
                                      own[PAIRS * HEADS] = {1, 2, 0, 0.5f, 1, 0};
    static const double offset[PAIRS] = {0.3, -0.2, 0};
    Error err = {0};
    Fixture f;
    SampleSet s;
    Objective obj;
    ObjPm *pm;
    Batch b;
    Arena mem;
    setup(&f, "ref", HEAD_SCORE);
    pm_samples(&s, PAIRS, false, 1);
    must(obj_pm_open(&pm, &obj, &s, 256, SEED, END, 0.01, &err), &err);
    obj_pm_rule(pm, &(PmRule){HEADS, target, own, offset, 0.4});
    must(obj.micro(obj.self, 0, &b, &err), &err);
    must(arena_init(&mem, "test", f.be->mem, 1 << 16, &err), &err);
    Tensor out = tensor_place(&mem, f.be->real, 2 * PAIRS, HEADS);
    double x[2 * PAIRS * HEADS], grad[2 * PAIRS * HEADS], want = 0, want_weight = 0, weight = 0;
    for (int i = 0; i < 2 * PAIRS * HEADS; i++) x[i] = sin(3.0 * i + 1);
    tensor_set(f.be, out, x);
    double loss = obj.loss(obj.self, f.be, &b, 0, out, &weight, NULL);
    tensor_get(f.be, grad, out);
    for (int i = 0; i < PAIRS; i++) {
        int64_t pair = -1; /* packs shuffle pairs */
        for (int64_t p = 0; p < PAIRS; p++)
            if (b.n_tok && !memcmp(s.tok + s.off[2 * p], b.tok + (i ? b.row[2 * i - 1] + 1 : 0),
                                   (size_t)(s.off[2 * p + 1] - s.off[2 * p]) * sizeof(int32_t)))
                pair = p;
        assert_true(pair >= 0);
        for (int k = 0; k < HEADS; k++) {
            double q = (double)target[pair * HEADS + k], w = (double)own[pair * HEADS + k];
            double a = x[2 * i * HEADS + k], c = x[(2 * i + 1) * HEADS + k];
            double d = a - c - 0.4 * (2 * q - 1) + offset[pair], slope = w * (1 / (1 + exp(-d)) - q);
            want += w * (q * log1p(exp(-d)) + (1 - q) * log1p(exp(d)) + 0.01 * (a + c) * (a + c));
            want_weight += w;
            assert_true(fabs(grad[2 * i * HEADS + k] - (slope + w * 0.02 * (a + c))) < 1e-12);
            assert_true(fabs(grad[(2 * i + 1) * HEADS + k] - (-slope + w * 0.02 * (a + c))) < 1e-12);
        }
    }
    assert_true(fabs(loss - want) < 1e-12 && fabs(weight - want_weight) < 1e-12);
    arena_release(&mem);
    obj_pm_close(pm);
    samples_release(&s);
    close_all(&f);
}

static void test_sample_without_end(void **state) {
    (void)state;
    Error err = {0};
    SampleSet s;
    Objective obj;
    ObjPm *pm;
    pm_samples(&s, 3, false, 1);
    s.tok[s.off[4] - 1] = FIRST_WORD;
    assert_false(obj_pm_open(&pm, &obj, &s, 512, SEED, END, 0, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_non_null(strstr(err.msg, "1003")); /* the sample's id */
    samples_release(&s);
}

/* Sequences of one repeated word: only what comes later can tell the first masked one, so the attention must look
 * both ways. */
static void test_masked(void **state) {
    (void)state;
    enum { LEN = 24, N = 256 };
    Error err = {0};
    Fixture f;
    SampleSet s;
    Objective obj;
    ObjLm *lm;
    Str dir = {0};
    setup(&f, "cpu", HEAD_LM);
    samples_init(&s, 1);
    for (int i = 0; i < N; i++) {
        int32_t tok[LEN] = {0};
        float weight[LEN] = {0};
        for (int t = 1; t < LEN; t++) {
            tok[t] = FIRST_WORD + (int32_t)draw((uint64_t)i, 0, VOCAB - FIRST_WORD);
            weight[t] = 1;
        }
        samples_add(&s, tok, weight, LEN, (uint64_t)i, 0, 1);
    }
    must(obj_mlm_open(&lm, &obj, &s, 512, SEED, MASK, FIRST_WORD, VOCAB, 0.15, &err), &err);
    double n_tok = 0, n_target = 0, n_mask = 0, n_random = 0, n_same = 0;
    int64_t n_pack = 3 * obj_lm_packs(lm, 0);
    for (int64_t i = 0; i < n_pack; i++) {
        Batch b;
        must(obj.micro(obj.self, i, &b, &err), &err);
        assert_false(b.seqs.causal);
        n_tok += b.n_tok - b.seqs.n_seq;
        n_target += b.n_row;
        for (int r = 0; r < b.n_row; r++) {
            int32_t now = b.tok[b.row[r]];
            assert_true(b.pos[b.row[r]] > 0);
            int32_t word = -1; /* what the sequence repeats: its commonest token outside the mask */
            for (int q = 0; q < b.seqs.n_seq; q++)
                if (b.row[r] >= b.seqs.q_off[q] && b.row[r] < b.seqs.q_off[q + 1])
                    for (int t = b.seqs.q_off[q] + 1, votes = 0; t < b.seqs.q_off[q + 1]; t++) {
                        if (b.tok[t] == MASK) continue;
                        if (votes == 0) word = b.tok[t];
                        votes += b.tok[t] == word ? 1 : -1;
                    }
            n_mask += now == MASK;
            n_same += now == word;
            n_random += now != MASK && now != word;
        }
    }
    double share = n_target / n_tok, sd = sqrt(0.15 * 0.85 / n_tok), n_word = VOCAB - FIRST_WORD;
    print_message("masked: %.4f of %.0f tokens; %.3f mask, %.3f random, %.3f same\n", share, n_tok, n_mask / n_target,
                  n_random / n_target, n_same / n_target);
    assert_true(fabs(share - 0.15) < 4 * sd);
    assert_true(fabs(n_mask / n_target - 0.8) < 4 * sqrt(0.16 / n_target));
    assert_true(fabs(n_random / n_target - 0.1 * (n_word - 1) / n_word) < 4 * sqrt(0.09 / n_target));
    assert_true(fabs(n_same / n_target - 0.1 * (n_word + 1) / n_word) < 4 * sqrt(0.09 / n_target));
    obj_lm_close(lm);
    must(obj_mlm_open(&lm, &obj, &s, 512, SEED, MASK, FIRST_WORD, VOCAB, 0.15, &err), &err);
    TrainConfig c = config(150, 1e-2);
    double loss;
    fresh_dir(&dir, "masked");
    run_ok(&f, &c, &obj, dir.s, &loss);
    print_message("masked: loss %.4f (uniform %.4f)\n", loss, log(VOCAB - FIRST_WORD));
    assert_true(loss < 0.1);
    obj_lm_close(lm);
    samples_release(&s);
    close_all(&f);
    str_release(&dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss_and_gradient),
        cmocka_unit_test(test_zero_weight),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_overfit),
        cmocka_unit_test(test_preference),
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_classifier),
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_masked),
        cmocka_unit_test(test_sample_without_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
