// layer: train
/* Tensor-parallel ranks train what one rank trains, to rounding: every objective and family, beside data parallel and
 * divided optimizer state; and send exactly what the formulas say. */
#include "rank_train.h"

/* The largest distance of two metrics files' numbers, relative to their size. */
static double lines_apart(const char *a, const char *b) {
    double most = 0;
    bool text = false;                          /* between quotes nothing is a number */
    static const char bits[] = "\"losses\":\""; /* a hash of the losses' bits, 16 digits and a quote */
    size_t skip = sizeof bits - 1 + 17;
    while (*a && *b) {
        if (!strncmp(a, bits, sizeof bits - 1) && strlen(a) >= skip && strlen(b) >= skip) a += skip, b += skip;
        if (*a == '"') text = !text;
        if (!text && ((*a >= '0' && *a <= '9') || *a == '-')) {
            char *end_a, *end_b;
            double x = strtod(a, &end_a), y = strtod(b, &end_b), far = fabs(x - y) / fmax(1e-2, fabs(y));
            if (!isfinite(far)) return INFINITY;
            if (far > most) most = far;
            a = end_a, b = end_b;
            continue;
        }
        if (*a++ != *b++) return INFINITY;
    }
    return *a == *b ? most : INFINITY;
}

/* The same of the losses alone. */
static double losses_apart(const char *a, const char *b) {
    static const char key[] = "\"loss\":";
    double most = 0;
    int n = 0;
    for (; (a = strstr(a, key)) && (b = strstr(b, key)); n++) {
        double x = strtod(a += sizeof key - 1, NULL), y = strtod(b += sizeof key - 1, NULL), far = fabs(x / y - 1);
        if (!(far <= most)) most = isfinite(far) ? far : INFINITY;
    }
    return n == 20 ? most : INFINITY;
}

static void check_case(Case c) {
    Run run;
    Str want = {0}, got = {0};
    bool exact = !strcmp(c.backend, "ref");
    double bound = exact ? 1e-10 : c.half ? 1e-2 : 1e-6;
    c.accum = 2 * c.dp, c.steps = 20, c.overlap = c.shard != 1;
    run_open(&run, &c);
    run_alone(&run, &want);
    run_divided(&run, &got);
    const char *worst;
    double far = whole_distance(&run.got, &run.want, &worst), lines = lines_apart(got.s, want.s);
    print_message("  %s family %d tied %d objective %d tp %d dp %d pp %d: weights %.1e (%s), metrics %.1e\n", c.backend,
                  c.family, c.tied, c.kind, c.tp, c.dp, c.pp, far, worst, lines);
    assert_true(far < bound);
    assert_true(losses_apart(got.s, want.s) < bound);
    assert_true(lines < (exact ? 1e-10 : c.half ? 5e-2 : 1e-4)); /* norms; means of scores, which are near 0 */
    run_close(&run);
    str_release(&want);
    str_release(&got);
}

static void test_equal(void **state) {
    (void)state;
    static const Case row[] = {
        {.backend = "ref", .tp = 2, .dp = 1},
        {.backend = "ref", .tied = true, .tp = 4, .dp = 1, .keep = KEEP_INPUTS},
        {.backend = "ref", .family = FAMILY_GPT2, .tied = true, .tp = 2, .dp = 2},
        {.backend = "ref", .family = FAMILY_GPT2, .tp = 4, .dp = 1},
        {.backend = "ref", .family = FAMILY_QWEN3, .tp = 4, .dp = 1, .keep = KEEP_INPUTS},
        {.backend = "ref", .family = FAMILY_QWEN3, .tied = true, .kind = KIND_DPO, .tp = 2, .dp = 2, .shard = 1},
        {.backend = "ref", .kind = KIND_DPO, .tp = 4, .dp = 1},
        {.backend = "ref", .family = FAMILY_QWEN2, .tied = true, .kind = KIND_PM, .tp = 2, .dp = 1},
        {.backend = "ref", .family = FAMILY_GPT2, .tied = true, .kind = KIND_PM, .tp = 4, .dp = 2, .shard = 2},
        {.backend = "ref", .family = FAMILY_QWEN3, .kind = KIND_CLASSIFIER, .tp = 2, .dp = 2},
        {.backend = "cpu", .tp = 2, .dp = 1},
        {.backend = "cpu", .tied = true, .tp = 4, .dp = 2, .shard = 1},
        {.backend = "cpu", .family = FAMILY_GPT2, .tied = true, .tp = 2, .dp = 2, .keep = KEEP_INPUTS},
        {.backend = "cpu", .family = FAMILY_GPT2, .tied = true, .tp = 4, .dp = 1},
        {.backend = "cpu", .family = FAMILY_QWEN3, .tp = 4, .dp = 1},
        {.backend = "cpu", .family = FAMILY_QWEN3, .tied = true, .kind = KIND_DPO, .tp = 2, .dp = 2, .shard = 1},
        {.backend = "cpu", .kind = KIND_PM, .tp = 4, .dp = 1},
        {.backend = "cpu", .family = FAMILY_QWEN2, .tied = true, .kind = KIND_CLASSIFIER, .tp = 2, .dp = 1},
        {.backend = "ref", .tied = true, .tp = 2, .dp = 1, .pp = 2},
        {.backend = "ref",
         .family = FAMILY_GPT2,
         .tied = true,
         .tp = 2,
         .dp = 2,
         .shard = 2,
         .keep = KEEP_INPUTS,
         .pp = 2},
        {.backend = "ref", .family = FAMILY_QWEN3, .kind = KIND_DPO, .tp = 4, .dp = 1, .pp = 2},
        {.backend = "ref", .family = FAMILY_QWEN2, .tied = true, .kind = KIND_PM, .tp = 2, .dp = 2, .pp = 2},
        {.backend = "cpu", .family = FAMILY_QWEN3, .tied = true, .tp = 2, .dp = 2, .shard = 1, .pp = 2},
        {.backend = "cpu", .tied = true, .tp = 2, .dp = 1, .half = true},
    };
    for (int i = 0; i < COUNT_OF(row); i++) check_case(row[i]);
}

/* Of one number of shares the bits are the same however replicas divide the work and the state. */
static void test_replicas(void **state) {
    (void)state;
    Run run;
    Str want = {0}, got = {0};
    run_open(&run, &(Case){.backend = "cpu", .family = FAMILY_QWEN3, .tied = true, .tp = 2, .accum = 4, .steps = 20});
    run_divided(&run, &want);
    for (run.c.dp = 2, run.c.shard = 0; run.c.shard <= 2; run.c.shard++) {
        run.c.overlap = run.c.shard != 1;
        run_divided(&run, &got); /* to where the first run's weights are: all must be equal */
        assert_string_equal(got.s, want.s);
    }
    run_close(&run);
    str_release(&want);
    str_release(&got);
}

/* Saved by one layout, gone on with by another. */
static void test_states(void **state) {
    (void)state;
    static const struct {
        int tp, dp, pp;
        int shard;
    } row[][2] = {{{2, 2, 1, 2}, {1, 2, 1, 0}}, {{1, 2, 1, 1}, {4, 1, 1, 0}}, {{4, 1, 1, 0}, {2, 2, 2, 2}}};
    for (int i = 0; i < COUNT_OF(row); i++) {
        Run run;
        Str want = {0}, got = {0};
        const char *worst;
        Case c = {
            .backend = "ref", .family = i % 2 ? FAMILY_LLAMA : FAMILY_GPT2, .tied = true, .accum = 4, .steps = 20};
        run_open(&run, &c);
        run_alone(&run, &want);
        fresh_dir(&run.dir, "states");
        run.c.state_steps = 5;
        for (int k = 0; k < 2; k++) {
            run.c.tp = row[i][k].tp, run.c.dp = row[i][k].dp, run.c.pp = row[i][k].pp, run.c.shard = row[i][k].shard;
            run.c.overlap = run.c.shard != 1;
            run.c.break_at = k == 0 ? 4 * 12 + 2 : 0; /* the state is that of step 10 */
            run_ranks(&run);
        }
        read_metrics(&got, run.dir.s);
        assert_true(whole_distance(&run.got, &run.want, &worst) < 1e-10);
        assert_true(lines_apart(got.s, want.s) < 1e-10);
        run_close(&run);
        str_release(&want);
        str_release(&got);
    }
}

/* -- what they send */

typedef struct {
    int t;
    int64_t bytes, input;      /* of an element; of what products read */
    CommCount sum[4], back[4]; /* by rank: all_to_all, all_gather */
    int64_t tok[5], row[5];    /* of a micro-batch: whose its tokens and its chosen rows are */
    int layer[2];              /* of this stage: from, to */
    bool first, last;
    int64_t own_tok[4]; /* by rank, of all micro-batches: tokens of the stream that it has */
} Traffic;

/* Everybody's parts of n_r columns go to rank r; or what it has to everybody else (dist/rowshare.h). */
static void summed(Traffic *f, const int64_t *cut, int64_t cols) {
    for (int r = 0; r < f->t; r++) {
        f->sum[r].calls++;
        f->sum[r].bytes += (cut[f->t] - (cut[r + 1] - cut[r])) * cols * f->bytes;
    }
}
static void gathered(Traffic *f, const int64_t *cut, int64_t cols, int64_t bytes) {
    for (int r = 0; r < f->t; r++) {
        f->back[r].calls++;
        f->back[r].bytes += (f->t - 1) * (cut[r + 1] - cut[r]) * cols * bytes;
    }
}

static void cut_batch(Traffic *f, const Batch *b) {
    for (int r = 0; r <= f->t; r++) {
        f->tok[r] = (int64_t)b->n_tok * r / f->t;
        f->row[r] = 0;
        for (int i = 0; i < b->n_row; i++) f->row[r] += b->row[i] < f->tok[r];
    }
}

/* One micro-batch of N tokens and R chosen rows, in a stage: 4 gatherings and 4 sums a layer, of the last one three
 * over chosen rows; both normed inputs once more for the backward, and under KEEP_INPUTS attention's sum. The
 * embedding, the head's input and its gradient; the norms' gradients. Log-probs: a slice of rows at a time. */
static void add_traffic(Traffic *f, const Run *run, const ModelConfig *m, const Batch *b, int64_t slice) {
    int64_t c = m->d_model, n_layer = f->layer[1] - f->layer[0];
    int64_t n_norm = (2 * n_layer + f->last) * c * (m->norm == NORM_LAYER ? 2 : 1);
    bool lm = head_of(&run->c) == HEAD_LM;
    if (b->n_row == 0) return;
    cut_batch(f, b);
    for (int r = 0; r < f->t; r++) f->own_tok[r] += f->tok[r + 1] - f->tok[r];
    if (f->first) summed(f, f->tok, c); /* embedding */
    for (int l = f->layer[0]; l < f->layer[1]; l++) {
        const int64_t *rows = l + 1 == m->n_layer ? f->row : f->tok;
        for (int pass = 0; pass < 2; pass++) { /* forward, and again for the backward */
            gathered(f, f->tok, c, f->input);  /* attention's input */
            if (pass == 0 || run->c.keep == KEEP_INPUTS) summed(f, rows, c);
            gathered(f, rows, c, f->input); /* the MLP's */
        }
        summed(f, rows, c);             /* MLP */
        gathered(f, rows, c, f->input); /* backward: */
        summed(f, rows, c);
        gathered(f, rows, c, f->input); /* attention */
        summed(f, f->tok, c);
    }
    if (f->last) gathered(f, f->row, c, f->input); /* head */
    if (f->last && lm) summed(f, f->row, c);
    if (f->first) gathered(f, f->tok, c, f->bytes); /* embedding */
    if (m->qk_norm) n_norm += 2 * n_layer * m->d_head;
    int64_t part[5];
    for (int r = 0; r <= f->t; r++) part[r] = n_norm * r / f->t;
    summed(f, part, 1);
    gathered(f, part, 1, f->bytes);
    for (int pass = 0; f->last && lm && pass < (run->c.kind == KIND_DPO ? 2 : 1); pass++)
        for (int64_t at = 0; at < b->n_row; at += slice) {
            int64_t n = b->n_row - at < slice ? b->n_row - at : slice;
            for (int r = 0; r < f->t; r++) f->back[r].calls++, f->back[r].bytes += (f->t - 1) * 3 * n * 8;
        }
}

static Traffic traffic_of(const Case *c, const Backend *be, const ModelConfig *m, int stage) {
    int n = at_least_1(c->pp);
    return (Traffic){.t = c->tp,
                     .bytes = (int64_t)dtype_bytes(be->real),
                     .input = (int64_t)dtype_bytes(be->dtype),
                     .layer = {model_part_layer(m->n_layer, stage, n), model_part_layer(m->n_layer, stage + 1, n)},
                     .first = stage == 0,
                     .last = stage + 1 == n};
}

/* What a stage's ranks sent each other, and to their neighbours: each its own rows of the stream, forward and back. */
static void check_stage(const Run *run, const ModelConfig *m, const Traffic *f, int rank0) {
    for (int r = 0; r < f->t; r++) {
        const Sent *sent = &run->sent[rank0 + r];
        assert_int_equal(sent->tp[COMM_ALL_TO_ALL].calls, f->sum[r].calls);
        assert_int_equal(sent->tp[COMM_ALL_TO_ALL].bytes, f->sum[r].bytes);
        assert_int_equal(sent->tp[COMM_ALL_GATHER].calls, f->back[r].calls);
        assert_int_equal(sent->tp[COMM_ALL_GATHER].bytes, f->back[r].bytes);
        assert_int_equal(sent->pp[COMM_SEND].bytes, (!f->first + !f->last) * f->own_tok[r] * m->d_model * f->bytes);
    }
}

/* And replicas: gradients of a share of a stage to their owners, sums or (ZeRO) weights back; (d-1)/d Psi (4 nodes + B)
 * d. */
static void check_replicas(const Run *run, int parts, int64_t bytes, int64_t weight) {
    const Case *c = &run->c;
    for (int at = 0; at < parts; at++) {
        int64_t there = 0, back = 0, psi = run->sent[at].elements, nodes = c->shard == 2 ? c->accum / c->dp : 1;
        for (int d = 0; d < c->dp; d++) {
            there += run->sent[at + d * parts].dp[COMM_ALL_TO_ALL].bytes;
            back += run->sent[at + d * parts].dp[COMM_ALL_GATHER].bytes;
        }
        assert_true(psi > 0);
        assert_int_equal(there, c->steps * (c->dp - 1) * psi * bytes * nodes);
        assert_int_equal(back, c->steps * (c->dp - 1) * psi * (c->shard ? weight : bytes));
    }
}

static void check_bytes(Case c) {
    Run run;
    Job j;
    Error err = {0};
    Str ignore = {0};
    int stages = at_least_1(c.pp);
    c.accum = 2 * c.dp, c.steps = 3, c.overlap = c.shard != 1;
    run_open(&run, &c);
    run_divided(&run, &ignore);
    must(job_open(&j, &c, NULL, &err), &err);
    ModelConfig m = case_config(&c);
    for (int d = 0; d < c.dp; d++)
        for (int stage = 0; stage < stages; stage++) {
            Traffic f = traffic_of(&c, j.f.be, &m, stage);
            for (int64_t step = 0; step < c.steps; step++)
                for (int i = 0; i < c.accum / c.dp; i++) {
                    Batch b;
                    int64_t number = c.shard == 2 ? i * c.dp + d : d * (c.accum / c.dp) + i;
                    must(j.obj.micro(j.obj.self, step * c.accum + number, &b, &err), &err);
                    add_traffic(&f, &run, &m, &b, head_slice_rows(j.f.net));
                }
            check_stage(&run, &m, &f, c.tp * (stage + stages * d));
        }
    check_replicas(&run, c.tp * stages, (int64_t)dtype_bytes(j.f.be->real), (int64_t)dtype_bytes(j.f.be->dtype));
    job_close(&j);
    run_close(&run);
    str_release(&ignore);
}

static void test_bytes(void **state) {
    (void)state;
    static const Case row[] = {
        {.backend = "cpu", .tp = 2, .dp = 1},
        {.backend = "cpu", .family = FAMILY_GPT2, .tied = true, .tp = 4, .dp = 2, .shard = 1, .keep = KEEP_INPUTS},
        {.backend = "ref", .family = FAMILY_QWEN3, .tied = true, .kind = KIND_DPO, .tp = 4, .dp = 1},
        {.backend = "cpu", .family = FAMILY_QWEN2, .tied = true, .kind = KIND_PM, .tp = 4, .dp = 1},
        {.backend = "cpu", .tied = true, .tp = 2, .dp = 1, .half = true},
        {.backend = "cpu", .family = FAMILY_QWEN3, .tp = 2, .dp = 2, .shard = 1, .pp = 2, .layers = 3},
        {.backend = "cpu",
         .family = FAMILY_GPT2,
         .tied = true,
         .tp = 2,
         .dp = 2,
         .shard = 2,
         .keep = KEEP_INPUTS,
         .pp = 2},
        {.backend = "ref", .kind = KIND_PM, .tp = 2, .dp = 2, .pp = 2, .layers = 3},
    };
    for (int i = 0; i < COUNT_OF(row); i++) check_bytes(row[i]);
}

/* -- log-probs and entropy of divided outputs, as PPO reads them */

enum { ROWS = 24, SLICE = 7 };

typedef struct {
    const char *backend;
    double lp[9][ROWS], ent[9][ROWS]; /* of one rank, then by rank */
} Heads;

static void read_heads(Heads *h, int place, const Mesh *mesh, Rank *r) {
    Error err = {0};
    Case c = {.backend = h->backend, .family = FAMILY_QWEN3, .kind = KIND_LM};
    Job j;
    Acts *a = NULL;
    BatchBuf buf = {0};
    LogpBuf logp = {0};
    Batch b;
    Arena mem = {0};
    Tensor slice;
    int32_t tok[ROWS], off[] = {0, 9, ROWS}, target[ROWS];
    for (int i = 0; i < ROWS; i++) tok[i] = i % TP_VOCAB, target[i] = (5 * i + 3) % TP_VOCAB;
    bool ok = job_open(&j, &c, mesh, &err) && acts_open(&a, &j.f.m, ROWS, ROWS, KEEP_NONE, &err) &&
              head_slice_open(&mem, &slice, j.f.net, &err);
    if (r) expect(r, ok);
    if (!r) must(ok, &err);
    batch_layout(&buf, &b, tok, ROWS, off, 2, true);
    for (int i = 0; i < ROWS; i++) buf.row[b.n_row++] = i;
    net_forward(j.f.net, a, &b, NULL);
    logp_of(&logp, j.f.net);
    for (int at = 0; at < ROWS; at += SLICE) {
        int n = ROWS - at < SLICE ? ROWS - at : SLICE;
        Tensor out = tensor_rows(slice, 0, n);
        head_forward(j.f.net, a, at, out);
        logp_forward(&logp, j.f.be, out, target + at, 0.7f, true);
        memcpy(h->lp[place] + at, logp.lp, (size_t)n * sizeof(double));
        memcpy(h->ent[place] + at, logp.ent, (size_t)n * sizeof(double));
    }
    logp_release(&logp);
    batch_release(&buf);
    arena_release(&mem);
    acts_close(a);
    job_close(&j);
}

static void heads_rank(Rank *r) {
    Error err = {0};
    Mesh mesh;
    expect(r, mesh_open(&mesh, r->world, NULL, r->size, 1, 1, &err));
    read_heads(r->ud, r->rank + 1, &mesh, r);
    CommCount sent = comm_count(mesh.tp, COMM_ALL_GATHER);
    int64_t c = 32, own = ROWS * (r->rank + 1) / r->size - ROWS * r->rank / r->size; /* 2 inputs a layer, the head's */
    int64_t bytes = !strcmp(((Heads *)r->ud)->backend, "ref") ? 8 : 4;
    expect(r, sent.bytes == (r->size - 1) * (5 * own * c * bytes + 4 * ROWS * 8)); /* four scalars a row */
}

/* Rows of outputs go round together, so all ranks cut them alike: also where one share is too wide for as many rows. */
static void slices_rank(Rank *r) {
    Error err = {0};
    Mesh mesh;
    Fixture f;
    ModelConfig c = tp_config(FAMILY_LLAMA, false);
    c.n_vocab = 2 * 21845 + 1; /* 2^21 logits are 96 rows of 21845, but not of 21846 */
    bool ok = mesh_open(&mesh, r->world, NULL, 2, 1, 1, &err) && pool_open(&f.pool, 1, &err) &&
              backend_open(&f.be, "cpu", f.pool, NULL, &err) &&
              model_init_on(&f.m, f.be, &c, &mesh, SEED, false, &err) &&
              head_init(&f.h, &f.m, HEAD_LM, c.n_vocab, SEED, false, &err);
    expect(r, ok);
    expect(r, head_slice_rows((Net){&f.m, &f.h, NULL}) == 64);
    close_all(&f);
}

static void test_slices(void **state) {
    (void)state;
    with_ranks(2, slices_rank, NULL);
}

static void test_heads(void **state) {
    (void)state;
    static const char *const backends[] = {"ref", "cpu"};
    for (int k = 0; k < 2; k++)
        for (int t = 2; t <= 4; t *= 2) {
            Heads h = {.backend = backends[k]};
            read_heads(&h, 0, NULL, NULL);
            with_ranks(t, heads_rank, &h);
            double bound = k == 0 ? 1e-14 : 1e-6;
            for (int r = 1; r <= t; r++)
                for (int i = 0; i < ROWS; i++) {
                    assert_true(fabs(h.lp[r][i] - h.lp[0][i]) < bound * fabs(h.lp[0][i]));
                    assert_true(fabs(h.ent[r][i] - h.ent[0][i]) < bound * fabs(h.ent[0][i]));
                    assert_true(h.lp[r][i] == h.lp[1][i] && h.ent[r][i] == h.ent[1][i]);
                }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal), cmocka_unit_test(test_replicas), cmocka_unit_test(test_states),
        cmocka_unit_test(test_bytes), cmocka_unit_test(test_heads),    cmocka_unit_test(test_slices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
