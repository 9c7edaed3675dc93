// layer: nn
/* The whole model: gradients against central differences in F64, and the equalities that hold to the bit: packed =
 * alone, recomputed = kept, sliced = whole, decoded = prefilled, two threads = one. */
#include "nn_help.h"

#include <math.h>

/* -- gradients ------------------------------------------------------------------------------------------------------
 */

typedef struct {
    Net net;
    Acts *acts;
    const Rows *rows;
    uint64_t seed;
    double worst;
    bool frozen;
} DiffJob;

static void check_one(void *ud, int index, const ParamInfo *p) {
    DiffJob *job = ud;
    double err2 = 0, norm2 = 0;
    int64_t n = tensor_count(p->w);
    int tries = n < 12 ? (int)n : 12;
    for (int k = 0; k < tries; k++) {
        int64_t at =
            tries < 12 ? k : (int64_t)rng_below((Rng){job->seed, RNG_TEST}, (uint64_t)index, (uint32_t)k, (uint32_t)n);
        double expected = loss_difference(job->net, job->acts, job->rows, p->w, at, 1e-3),
               got = ((double *)p->dw.data)[at];
        err2 += (got - expected) * (got - expected);
        norm2 += expected * expected;
    }
    double rel = sqrt(err2) / (sqrt(norm2) + 1e-2);
    if (!(rel < 1e-7)) fail_msg("%s: gradient off by %g (seed %llu)", p->name, rel, (unsigned long long)job->seed);
    if (rel > job->worst) job->worst = rel;
}

static void differences(const ModelConfig *config, HeadKind kind, int n_out, const char *what) {
    Error err = {0};
    ModelConfig used = *config, *c = &used;
    used.max_seq = 8; /* every learned position but one gets gradient */
    Machine mc;
    TestNet t;
    assert_true(machine_open(&mc, "ref", NULL, 1));
    test_net_open(&t, mc.be, c, kind, n_out, true);
    Rows rows = rows_random((int[]){4, 1, 7}, 3, c->n_vocab, 5);
    rows.tok[1] = rows.tok[0]; /* a repeated id */
    rows_keep_odd(&rows);
    DiffJob job = {.net = t.net, .rows = &rows, .seed = 31};
    OK(acts_open(&job.acts, &t.model, rows.n_tok, rows.n_tok, KEEP_ALL, &err));
    run_rows(t.net, job.acts, &rows, 5, true, NULL);
    net_visit(t.net, check_one, &job);
    print_message("%s: worst %.2g\n", what, job.worst);
    acts_close(job.acts);
    rows_free(&rows);
    test_net_close(&t);
    machine_close(&mc);
}

static void test_differences_llama(void **state) {
    (void)state;
    ModelConfig c = llama_config(false, false);
    differences(&c, HEAD_LM, c.n_vocab, "llama");
    c = llama_config(true, true);
    differences(&c, HEAD_LM, c.n_vocab, "llama, tied, biases");
    differences(&c, HEAD_SCORE, 3, "llama, score head");
    c = llama_config(false, false);
    c.window = 3;
    differences(&c, HEAD_LM, c.n_vocab, "llama, window of 3");
}

static void test_differences_more(void **state) {
    (void)state;
    ModelConfig c[MORE_CONFIGS];
    assert_int_equal(more_configs(c), MORE_CONFIGS);
    for (int i = 0; i < MORE_CONFIGS; i++) {
        char what[40];
        snprintf(what, sizeof what, "configuration %d of family %d", i, (int)c[i].family);
        differences(&c[i], HEAD_LM, c[i].n_vocab, what);
    }
}

static void test_differences_gpt2(void **state) {
    (void)state;
    ModelConfig c = gpt2_config(true, GELU_TANH);
    differences(&c, HEAD_LM, c.n_vocab, "gpt2, tied");
    c = gpt2_config(false, GELU_ERF);
    differences(&c, HEAD_LM, c.n_vocab, "gpt2, untied, erf");
    differences(&c, HEAD_SCORE, 1, "gpt2, score head");
}

/* -- equalities -----------------------------------------------------------------------------------------------------
 */

typedef void EqualityTest(Backend *be, const ModelConfig *c);

static void on_every_backend(EqualityTest *test) {
    for (int i = 0; i < COUNT_OF(every_backend); i++) {
        Machine mc;
        if (!machine_open_at(&mc, i, 2)) continue;
        ModelConfig llama = llama_config(false, false), gpt2 = gpt2_config(true, GELU_TANH);
        ModelConfig more[MORE_CONFIGS];
        more_configs(more);
        test(mc.be, &llama);
        test(mc.be, &gpt2);
        test(mc.be, &more[1]);
        test(mc.be, &more[5]);
        machine_close(&mc);
    }
}

static void packed_alone(Backend *be, const ModelConfig *c) {
    static const int len[] = {5, 70, 1, 131, 9};
    Error err = {0};
    TestNet t;
    Acts *a;
    test_net_open(&t, be, c, HEAD_LM, c->n_vocab, false);
    Rows all = rows_random(len, COUNT_OF(len), c->n_vocab, 3);
    size_t v = (size_t)c->n_vocab;
    double *packed = mem_alloc((size_t)all.n_tok * v * sizeof *packed);
    double *alone = mem_alloc((size_t)all.n_tok * v * sizeof *alone);
    OK(acts_open(&a, &t.model, all.n_tok, all.n_tok, KEEP_NONE, &err));
    run_rows(t.net, a, &all, all.n_tok, false, packed);
    for (int s = 0; s < all.n_seq; s++) {
        Rows one = rows_random(&len[s], 1, c->n_vocab, 3);
        memcpy(one.tok, all.tok + all.q_off[s], (size_t)len[s] * sizeof *one.tok);
        run_rows(t.net, a, &one, len[s], false, alone + (size_t)all.q_off[s] * v);
        rows_free(&one);
    }
    assert_memory_equal(packed, alone, (size_t)all.n_tok * v * sizeof *packed);
    free(packed), free(alone);
    acts_close(a);
    rows_free(&all);
    test_net_close(&t);
}

static void test_packed_alone(void **state) {
    (void)state;
    on_every_backend(packed_alone);
}

/* Logits and gradients under one memory plan. */
static double *pass(Backend *be, const ModelConfig *c, Keep keep, bool backward, double *out, size_t *n) {
    static const int len[] = {5, 70, 9};
    Error err = {0};
    TestNet t;
    Acts *a;
    test_net_open(&t, be, c, HEAD_LM, c->n_vocab, true);
    Rows rows = rows_random(len, COUNT_OF(len), c->n_vocab, 3);
    OK(acts_open(&a, &t.model, rows.n_tok + 13, rows.n_tok + 5, keep, &err));
    run_rows(t.net, a, &rows, 32, backward, out);
    double *grads = gather_all(t.net, false, n);
    acts_close(a);
    rows_free(&rows);
    test_net_close(&t);
    return grads;
}

static void recompute_kept(Backend *be, const ModelConfig *c) {
    size_t n, n_out = (size_t)84 * (size_t)c->n_vocab;
    double *out[3];
    for (int i = 0; i < 3; i++) out[i] = mem_alloc(n_out * sizeof **out);
    double *kept = pass(be, c, KEEP_ALL, true, out[0], &n), *again = pass(be, c, KEEP_INPUTS, true, out[1], &n);
    double *none = pass(be, c, KEEP_NONE, false, out[2], &n);
    assert_memory_equal(out[0], out[1], n_out * sizeof **out);
    assert_memory_equal(out[0], out[2], n_out * sizeof **out);
    assert_memory_equal(kept, again, n * sizeof *kept);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        assert_true(isfinite(kept[i]) && none[i] == 0);
        sum += fabs(kept[i]);
    }
    assert_true(sum > 1);
    for (int i = 0; i < 3; i++) free(out[i]);
    free(kept), free(again), free(none);
}

static void test_recompute_kept(void **state) {
    (void)state;
    on_every_backend(recompute_kept);
}

/* Sequence s begins with the first same[s] tokens of the one before; those rows are taken out. */
static void share_rows(Rows *r, const int *same) {
    int own = 0, chosen = 0;
    r->n_seen = r->n_tok;
    r->seen = mem_alloc((size_t)r->n_tok * sizeof(int32_t)), r->home = mem_alloc((size_t)r->n_tok * sizeof(int32_t));
    for (int s = 0, i = 0; s < r->n_seq; s++)
        for (int p = 0; p < r->kv_len[s]; p++, i++) {
            r->seen[i] = p < same[s] ? r->seen[r->q_off[s - 1] + p] : own;
            if (p < same[s]) continue;
            r->tok[own] = r->tok[i], r->target[own] = r->target[i], r->weight[own] = r->weight[i];
            r->pos[own] = r->pos[i], r->home[own++] = i;
        }
    for (int k = 0; k < r->n_row; k++) r->row[chosen++] = r->seen[r->row[k]];
    r->n_tok = own;
}

static double *shared_pass(Backend *be, const ModelConfig *c, Keep keep, bool share, double *out, size_t *n) {
    static const int len[] = {80, 90, 9, 12, 70}, same[] = {0, 70, 5, 0, 2};
    Error err = {0};
    TestNet t;
    Acts *a;
    test_net_open(&t, be, c, HEAD_LM, c->n_vocab, true);
    Rows rows = rows_random(len, COUNT_OF(len), c->n_vocab, 3);
    rows.n_row = 0;
    for (int s = 0; s < rows.n_seq; s++) {
        for (int p = 0; p < same[s]; p++) rows.tok[rows.q_off[s] + p] = rows.tok[rows.q_off[s - 1] + p];
        for (int p = s < 2 ? 72 : 6; p < len[s]; p++) rows.row[rows.n_row++] = rows.q_off[s] + p;
    }
    if (share) share_rows(&rows, same);
    OK(acts_open(&a, &t.model, rows.n_tok + 3, rows.n_row + 5, keep, &err));
    OK(acts_share(a, 100, &err) && acts_share(a, 270, &err));
    bool backward = keep != KEEP_NONE;
    run_rows(t.net, a, &rows, 32, backward, out);
    double *grads = gather_all(t.net, false, n);
    acts_close(a);
    rows_free(&rows);
    test_net_close(&t);
    return grads;
}

/* Shared rows: the same outputs to the bit, the same gradients to rounding. */
static void shared_whole(Backend *be, const ModelConfig *c) {
    size_t n, n_out = (size_t)99 * (size_t)c->n_vocab; /* 8 + 18 + 3 + 6 + 64 rows */
    double *whole = mem_alloc(n_out * sizeof *whole), *out = mem_alloc(n_out * sizeof *out);
    double *want = shared_pass(be, c, KEEP_ALL, false, whole, &n), norm = 0;
    for (size_t i = 0; i < n; i++) norm += want[i] * want[i];
    for (int keep = KEEP_ALL; keep <= KEEP_NONE; keep++) {
        double *got = shared_pass(be, c, (Keep)keep, true, out, &n), off = 0;
        assert_memory_equal(whole, out, n_out * sizeof *out);
        for (size_t i = 0; keep != KEEP_NONE && i < n; i++) off += (got[i] - want[i]) * (got[i] - want[i]);
        double bound = be->real == DTYPE_F64 ? 1e-13 : be->dtype == DTYPE_BF16 ? 1e-2 : 1e-5;
        assert_true(sqrt(off / norm) < bound);
        free(got);
    }
    free(want), free(whole), free(out);
}

static void test_shared_whole(void **state) {
    (void)state;
    on_every_backend(shared_whole);
}

static void head_slices(Backend *be, const ModelConfig *c) {
    static const int len[] = {5, 70, 9}, slice[] = {84, 1, 2, 7, 16, 83};
    Error err = {0};
    TestNet t;
    Acts *a;
    test_net_open(&t, be, c, HEAD_LM, c->n_vocab, false);
    Rows rows = rows_random(len, COUNT_OF(len), c->n_vocab, 3);
    OK(acts_open(&a, &t.model, rows.n_tok, rows.n_tok, KEEP_NONE, &err));
    size_t bytes = (size_t)rows.n_tok * (size_t)c->n_vocab * sizeof(double);
    double *whole = mem_alloc(bytes), *sliced = mem_alloc(bytes);
    for (int i = 0; i < COUNT_OF(slice); i++) {
        run_rows(t.net, a, &rows, slice[i], false, i ? sliced : whole);
        if (i) assert_memory_equal(whole, sliced, bytes);
    }
    /* some rows only */
    Batch b = rows_batch(&rows);
    b.n_row = 3, b.row = (const int32_t[]){0, 17, 83};
    net_forward(t.net, a, &b, NULL);
    Tensor y = own_matrix(be, 3, c->n_vocab);
    head_forward(t.net, a, 0, y);
    tensor_get(be, sliced, y);
    for (int i = 0; i < 3; i++)
        assert_memory_equal(sliced + i * c->n_vocab, whole + b.row[i] * c->n_vocab,
                            (size_t)c->n_vocab * sizeof(double));
    assert_int_equal(acts_hidden(a).rows, 3);
    own_matrix_free(be, y), free(whole), free(sliced);
    acts_close(a);
    rows_free(&rows);
    test_net_close(&t);
}

static void test_head_slices(void **state) {
    (void)state;
    on_every_backend(head_slices);
}

/* Two sequences decoded together through scattered pages, in uneven chunks, against one pass over each. */
static void decode_prefill(Backend *be, const ModelConfig *c) {
    enum { S = 2, MAX = 140, PAGES = 3 };
    static const int len[S] = {MAX, 77}, chunk[] = {66, 1, 1, 5, 1, 60, 1, 1, 1, 1, 1, 1, 1};
    static const int32_t page[S][PAGES] = {{4, 0, 2}, {5, 3, 1}};
    Error err = {0};
    TestNet t;
    Acts *a;
    KvCache kv;
    test_net_open(&t, be, c, HEAD_LM, c->n_vocab, false);
    Rows rows = rows_random(len, S, c->n_vocab, 8);
    size_t v = (size_t)c->n_vocab;
    double *whole = mem_alloc((size_t)rows.n_tok * v * sizeof *whole),
           *part = mem_alloc((size_t)rows.n_tok * v * sizeof *part);
    OK(acts_open(&a, &t.model, rows.n_tok, rows.n_tok, KEEP_NONE, &err));
    OK(kv_open(&kv, &t.model, 6, &err));
    run_rows(t.net, a, &rows, rows.n_tok, false, whole);

    int32_t tok[S * MAX], pos[S * MAX], kv_row[S * MAX], row[S * MAX], origin[S * MAX];
    int32_t q_off[S + 1], kv_len[S], kv_page[S * PAGES];
    for (int step = 0, done = 0; step < COUNT_OF(chunk); done += chunk[step++]) {
        int n = 0, n_seq = 0;
        for (int s = 0; s < S; s++) {
            int end = done + chunk[step] < len[s] ? done + chunk[step] : len[s];
            if (done >= end) continue;
            q_off[n_seq] = n, kv_len[n_seq] = end;
            for (int p = 0; p < PAGES; p++) kv_page[n_seq * PAGES + p] = page[s][p] * kv.page_rows;
            for (int p = done; p < end; p++, n++) {
                origin[n] = rows.q_off[s] + p;
                tok[n] = rows.tok[origin[n]], pos[n] = p, row[n] = n;
                kv_row[n] = page[s][p / KV_PAGE] * kv.page_rows + p % KV_PAGE;
            }
            n_seq++;
        }
        if (n_seq == 0) break;
        q_off[n_seq] = n;
        Batch b = {.n_tok = n, .tok = tok, .pos = pos, .kv_row = kv_row, .n_row = n, .row = row};
        b.seqs = (AttnSeqs){n_seq, PAGES, q_off, kv_len, kv_page, true, 0};
        net_forward(t.net, a, &b, &kv);
        Tensor y = own_matrix(be, n, c->n_vocab);
        double *host = mem_alloc((size_t)n * v * sizeof *host);
        head_forward(t.net, a, 0, y);
        tensor_get(be, host, y);
        for (int i = 0; i < n; i++) memcpy(part + (size_t)origin[i] * v, host + (size_t)i * v, v * sizeof *host);
        own_matrix_free(be, y), free(host);
    }
    assert_memory_equal(whole, part, (size_t)rows.n_tok * v * sizeof *whole);
    free(whole), free(part);
    kv_release(&kv);
    acts_close(a);
    rows_free(&rows);
    test_net_close(&t);
}

static void test_decode_prefill(void **state) {
    (void)state;
    on_every_backend(decode_prefill);
}

static void windowed_decode_prefill(Backend *be, const ModelConfig *c) {
    ModelConfig near = *c;
    near.window = 50;
    decode_prefill(be, &near);
}

/* What lies further back than the windows of all layers together reaches no bit; what lies just within does. */
static void window_reach(Backend *be, const ModelConfig *c) {
    enum { LEN = 40, WINDOW = 6 };
    Error err = {0};
    ModelConfig near = *c;
    near.window = WINDOW;
    memset(near.unwindowed, 0, sizeof near.unwindowed);
    TestNet t;
    Acts *a;
    test_net_open(&t, be, &near, HEAD_LM, near.n_vocab, false);
    Rows rows = rows_random((int[]){LEN}, 1, near.n_vocab, 4);
    OK(acts_open(&a, &t.model, LEN, LEN, KEEP_NONE, &err));
    size_t v = (size_t)near.n_vocab;
    double *old = mem_alloc(LEN * v * sizeof *old), *new = mem_alloc(LEN * v * sizeof *new);
    int at = 2, last = at + near.n_layer * (WINDOW - 1);
    run_rows(t.net, a, &rows, LEN, false, old);
    rows.tok[at] = (rows.tok[at] + 1) % near.n_vocab;
    run_rows(t.net, a, &rows, LEN, false, new);
    for (int i = 0; i < LEN; i++) {
        bool same = memcmp(old + (size_t)i * v, new + (size_t)i *v, v * sizeof *old) == 0;
        if (same != (i < at || i > last)) fail_msg("row %d %s", i, same ? "does not see its window" : "sees too far");
    }
    free(old), free(new);
    acts_close(a);
    rows_free(&rows);
    test_net_close(&t);
}

static void test_window(void **state) {
    (void)state;
    on_every_backend(windowed_decode_prefill);
    on_every_backend(window_reach);
}

/* Recomputing blocks is no excuse either. */
static void any_threads(int at, ModelConfig c) {
    double *grads[3], *out[3];
    size_t n = 0, n_out = (size_t)84 * (size_t)c.n_vocab;
    int n_run = 0;
    for (int threads = 1; threads <= 3; threads++) {
        Machine mc;
        if (!machine_open_at(&mc, at, threads)) break;
        out[n_run] = mem_alloc(n_out * sizeof **out);
        grads[n_run] = pass(mc.be, &c, threads == 2 ? KEEP_INPUTS : KEEP_ALL, true, out[n_run], &n);
        n_run++;
        machine_close(&mc);
    }
    for (int k = 0; k < n_run; k++) {
        assert_memory_equal(out[0], out[k], n_out * sizeof **out);
        assert_memory_equal(grads[0], grads[k], n * sizeof **grads);
    }
    for (int k = 0; k < n_run; k++) free(out[k]), free(grads[k]);
}

static void test_threads(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(every_backend); i++) {
        ModelConfig llama = llama_config(false, false), gpt2 = gpt2_config(true, GELU_ERF);
        llama.d_model = 64, llama.d_ff = 160, llama.n_vocab = 300; /* large enough to be split */
        gpt2.d_model = 63, gpt2.d_head = 21, gpt2.d_ff = 161, gpt2.n_vocab = 301;
        any_threads(i, llama);
        any_threads(i, gpt2);
    }
}

/* -- weights of zero ------------------------------------------------------------------------------------------------
 */

static void zero_weight(Backend *be, const ModelConfig *c) {
    Error err = {0};
    TestNet t;
    Acts *a;
    size_t n;
    test_net_open(&t, be, c, HEAD_LM, c->n_vocab, true);
    Rows rows = rows_random((int[]){6, 8}, 2, c->n_vocab, 3);
    OK(acts_open(&a, &t.model, rows.n_tok, rows.n_tok, KEEP_ALL, &err));
    double *old = mem_alloc((size_t)rows.n_tok * sizeof *old);
    memcpy(old, rows.weight, (size_t)rows.n_tok * sizeof *old);

    for (int i = 0; i < rows.n_tok; i++) rows.weight[i] = 0;
    run_rows(t.net, a, &rows, 5, true, NULL);
    double *none = gather_all(t.net, false, &n);
    for (size_t i = 0; i < n; i++) assert_true(none[i] == 0);

    /* the second sequence weighs nothing: its tokens and targets change no bit of any gradient but through shared ids
     */
    memcpy(rows.weight, old, 6 * sizeof *old);
    run_rows(t.net, a, &rows, 5, true, NULL);
    double *first = gather_all(t.net, false, &n);
    net_zero_grads(t.net);
    for (int i = 6; i < rows.n_tok; i++) {
        rows.tok[i] = (rows.tok[i] + 1) % c->n_vocab;
        rows.target[i] = (rows.target[i] + 3) % c->n_vocab;
    }
    run_rows(t.net, a, &rows, 5, true, NULL);
    double *second = gather_all(t.net, false, &n);
    for (size_t i = 0; i < n; i++) assert_true(first[i] == second[i]);

    free(none), free(first), free(second), free(old);
    acts_close(a);
    rows_free(&rows);
    test_net_close(&t);
}

static void test_zero_weight(void **state) {
    (void)state;
    on_every_backend(zero_weight);
}

/* Several losses may read one hidden state: head_backward adds. */
static void hidden_gradient(Backend *be, const ModelConfig *c) {
    Error err = {0};
    TestNet t;
    Acts *a;
    test_net_open(&t, be, c, HEAD_SCORE, 1, true);
    Rows rows = rows_random((int[]){6}, 1, c->n_vocab, 3);
    Batch b = rows_batch(&rows);
    OK(acts_open(&a, &t.model, 6, 6, KEEP_ALL, &err));
    net_forward(t.net, a, &b, NULL);
    Tensor dout = own_matrix(be, 4, 1);
    tensor_set(be, dout, (const double[]){1, 2, -3, 0.5});
    double once[6 * 32], twice[6 * 32];
    head_backward(t.net, a, 1, dout);
    tensor_get(be, once, acts_dhidden(a));
    tensor_set(be, dout, (const double[]){1, 2, -3, 0.5});
    head_backward(t.net, a, 1, dout);
    tensor_get(be, twice, acts_dhidden(a));
    for (int i = 0; i < 6 * c->d_model; i++) {
        assert_true(twice[i] == 2 * once[i]);
        assert_int_equal(once[i] != 0, i >= c->d_model && i < 5 * c->d_model);
    }
    own_matrix_free(be, dout);
    acts_close(a);
    rows_free(&rows);
    test_net_close(&t);
}

static void test_hidden_gradient(void **state) {
    (void)state;
    on_every_backend(hidden_gradient);
}

/* -- initial weights, copies ----------------------------------------------------------------------------------------
 */

static void test_init(void **state) {
    (void)state;
    Error err = {0};
    ModelConfig c = llama_config(false, false), deeper = c;
    deeper.n_layer = 5;
    c.d_model = deeper.d_model = 64;
    Machine ref;
    Model a, b, d;
    Head head;
    assert_true(machine_open(&ref, "ref", NULL, 2));
    OK(model_init(&a, ref.be, &c, 9, false, &err));
    OK(model_init(&d, ref.be, &deeper, 9, true, &err));
    size_t n, n_b;
    double *x = gather_all((Net){&a, NULL, NULL}, true, &n);
    assert_int_equal(n + (size_t)c.n_vocab * 64, model_config_params(&c));

    /* coordinates, not layout: the deeper model's embedding is the same */
    Tensor w = a.w.wte;
    assert_memory_equal(w.data, d.w.wte.data, (size_t)tensor_count(w) * sizeof(double));
    double sum = 0, sum2 = 0;
    for (int64_t i = 0; i < tensor_count(w); i++) sum += ((double *)w.data)[i], sum2 += pow(((double *)w.data)[i], 2);
    double count = (double)tensor_count(w);
    assert_true(fabs(sum / count) < 4 * 0.02 / sqrt(count));
    assert_true(fabs(sqrt(sum2 / count) / 0.02 - 1) < 4 / sqrt(2 * count));
    assert_true(((double *)a.w.norm.data)[3] == 1);
    const BlockParams *first = &a.w.block[0], *second = &a.w.block[1];
    assert_memory_not_equal(first->wq.data, second->wq.data, 8 * sizeof(double));
    assert_memory_not_equal(first->wk.data, first->wv.data, 8 * sizeof(double));

    /* equal numbers in every backend, whatever its threads */
    for (int i = 0; i < COUNT_OF(every_backend); i++) {
        Machine mc;
        if (!machine_open_at(&mc, i, 1)) continue;
        OK(model_init(&b, mc.be, &c, 9, true, &err));
        double *y = gather_all((Net){&b, NULL, NULL}, true, &n_b);
        assert_int_equal(n, n_b);
        if (!every_backend[i].half) assert_memory_equal(x, y, n * sizeof *x);
        for (size_t k = 0; k < n; k++) assert_true(fabs(x[k] - y[k]) <= fabs(x[k]) / 256); /* BF16 rounds once */
        free(y);
        model_release(&b);
        machine_close(&mc);
    }
    assert_false(head_init(&head, &a, HEAD_LM, c.n_vocab - 1, 1, false, &err));
    assert_non_null(strstr(err.msg, "37"));
    free(x);
    model_release(&a);
    model_release(&d);
    machine_close(&ref);
}

static void test_copy(void **state) {
    (void)state;
    Error err = {0};
    ModelConfig big = llama_config(false, false), small = big, other = big;
    small.n_layer = 2, other.d_ff++;
    Machine ref, cpu;
    TestNet from, to, wrong;
    assert_true(machine_open(&ref, "ref", NULL, 1));
    bool two = machine_open(&cpu, "cpu", NULL, 1);
    test_net_open(&from, ref.be, &big, HEAD_LM, big.n_vocab, false);
    test_net_open(&to, two ? cpu.be : ref.be, &small, HEAD_SCORE, 1, false);
    test_net_open(&wrong, ref.be, &other, HEAD_LM, big.n_vocab, false);
    uint64_t version = to.model.version;
    OK(net_copy_weights((Net){&to.model, NULL, NULL}, from.net, &err));
    assert_int_equal(to.model.version, version + 1);
    double x[20], y[20];
    tensor_get_row(ref.be, x, from.model.w.block[1].wq, 7);
    tensor_get_row(to.model.be, y, to.model.w.block[1].wq, 7);
    assert_memory_equal(x, y, sizeof x);
    tensor_get(ref.be, x, from.model.w.norm);
    tensor_get(to.model.be, y, to.model.w.norm);
    assert_memory_equal(x, y, sizeof x);

    assert_false(net_copy_weights(to.net, from.net, &err)); /* heads of another kind */
    assert_non_null(strstr(err.msg, "head"));
    assert_false(net_copy_weights((Net){&wrong.model, NULL, NULL}, from.net, &err));
    assert_non_null(strstr(err.msg, "d_ff"));
    assert_false(net_copy_weights((Net){&from.model, NULL, NULL}, to.net, &err)); /* more layers than there are */
    assert_non_null(strstr(err.msg, "layers"));
    test_net_close(&from);
    test_net_close(&to);
    test_net_close(&wrong);
    machine_close(&ref);
    if (two) machine_close(&cpu);
}

static void test_counts(void **state) {
    (void)state;
    ModelConfig c = gpt2_config(true, GELU_TANH);
    c.n_layer = 12, c.n_head = c.n_kv_head = 12, c.d_model = 768, c.d_head = 64, c.d_ff = 3072, c.n_vocab = 50257;
    c.max_seq = 1024;
    assert_int_equal(model_config_params(&c), 124439808); /* GPT-2 small */
    assert_int_equal(model_config_matmul_params(&c), 12 * 12 * 768 * 768 + 50257 * 768);
    Machine mc;
    assert_true(machine_open(&mc, "cpu", NULL, 1));
    Model m = {.be = mc.be, .cfg = c, .dtype = DTYPE_F32, .rope_attention = 1},
          half = {.be = mc.be, .cfg = c, .dtype = DTYPE_BF16, .rope_attention = 1};
    assert_int_equal(kv_page_bytes(&m), 12 * 2 * 64 * 768 * 4);
    assert_int_equal(kv_page_bytes(&half), 12 * 2 * 64 * 768 * 4); /* a CPU's attention stays F32 */
    mc.be->attn_half = true;
    assert_int_equal(kv_page_bytes(&half), 12 * 2 * 64 * 768 * 2);
    mc.be->attn_half = false;
    mc.be->recompute_cheap = false;
    assert_true(acts_bytes(&m, 1024, 1024, KEEP_NONE) < acts_bytes(&m, 1024, 1024, KEEP_INPUTS));
    assert_true(acts_bytes(&m, 1024, 1024, KEEP_INPUTS) < acts_bytes(&m, 1024, 1024, KEEP_ALL) / 4);
    assert_true(acts_bytes(&half, 1024, 1024, KEEP_ALL) < acts_bytes(&m, 1024, 1024, KEEP_ALL) * 3 / 4);
    /* Eleven layers do without h1, h2 and act of their own. */
    size_t kept = acts_bytes(&m, 1024, 1024, KEEP_ALL);
    mc.be->recompute_cheap = true;
    size_t saved = kept - acts_bytes(&m, 1024, 1024, KEEP_ALL), values = (size_t)11 * 1024 * (768 + 768 + 3072) * 4;
    assert_in_range(saved, values, values + 33 * 512); /* and the space between 33 tensors */
    machine_close(&mc);
}

static void test_config_check(void **state) {
    (void)state;
    ModelConfig good = llama_config(false, false), c;
    Error err = {0};
    OK(model_config_check(&good, &err));
    c = good, c.n_kv_head = 3;
    assert_false(model_config_check(&c, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, "n_kv_head"));
    c = good, c.d_head = 7;
    assert_false(model_config_check(&c, &err));
    assert_non_null(strstr(err.msg, "d_head"));
    c = good, c.n_layer = 0;
    assert_false(model_config_check(&c, &err));
    assert_non_null(strstr(err.msg, "n_layer"));
    c = good, c.norm_eps = NAN;
    assert_false(model_config_check(&c, &err));
    c = good, c.eos_id = c.n_vocab;
    assert_false(model_config_check(&c, &err));
    c = good, c.mlp_bias = true;
    OK(model_config_check(&c, &err));
    c.family = FAMILY_QWEN2;
    assert_false(model_config_check(&c, &err));
    assert_non_null(strstr(err.msg, "mlp_bias"));
    c = good, c.qk_norm = true;
    assert_false(model_config_check(&c, &err));
    assert_non_null(strstr(err.msg, "qk_norm"));
    c = good, c.rope.kind = ROPE_LLAMA3, c.rope.factor = 8;
    assert_false(model_config_check(&c, &err));
    assert_non_null(strstr(err.msg, "RoPE"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_differences_llama),
        cmocka_unit_test(test_differences_more),
        cmocka_unit_test(test_differences_gpt2),
        cmocka_unit_test(test_packed_alone),
        cmocka_unit_test(test_shared_whole),
        cmocka_unit_test(test_recompute_kept),
        cmocka_unit_test(test_head_slices),
        cmocka_unit_test(test_decode_prefill),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_zero_weight),
        cmocka_unit_test(test_hidden_gradient),
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_config_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
