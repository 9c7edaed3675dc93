// layer: train
/* Ranks that divide the rows of every micro-batch: rows have the bits of one rank, what is trained follows it to
 * rounding, they send exactly what the formulas say, and a sequence fits that one of them alone has no room for. */
#include "rank_train.h"

#include "nn/cut.h"

/* Largest relative distance of the losses; *first: are those of the first step, before any update, equal to the bit? */
static double losses_apart(const char *a, const char *b, bool *first) {
    static const char key[] = "\"loss\":";
    double most = 0;
    int n = 0;
    for (; (a = strstr(a, key)) && (b = strstr(b, key)); n++) {
        double x = strtod(a += sizeof key - 1, NULL), y = strtod(b += sizeof key - 1, NULL), far = fabs(x / y - 1);
        if (n == 0) *first = x == y;
        if (!(far <= most)) most = isfinite(far) ? far : INFINITY;
    }
    return n == 20 ? most : INFINITY;
}

static void check_case(Case c) {
    Run run;
    Str want = {0}, got = {0};
    double bound = !strcmp(c.backend, "ref") ? 1e-10 : 1e-6;
    bool first = false;
    const char *worst;
    c.accum = 2 * c.dp, c.steps = 20;
    run_open(&run, &c);
    run_alone(&run, &want);
    run_divided(&run, &got);
    double far = whole_distance(&run.got, &run.want, &worst), losses = losses_apart(got.s, want.s, &first);
    print_message("  %s family %d tied %d objective %d cp %d dp %d tp %d pp %d: weights %.1e (%s), losses %.1e\n",
                  c.backend, c.family, c.tied, c.kind, c.cp, c.dp, c.tp, c.pp, far, worst, losses);
    assert_true(far < bound);
    assert_true(losses < bound);
    assert_true(first || c.tp > 1); /* rows have the bits of one rank */
    run_close(&run);
    str_release(&want);
    str_release(&got);
}

static void test_equal(void **state) {
    (void)state;
    static const Case row[] = {
        {.backend = "ref", .dp = 1, .cp = 2},
        {.backend = "ref", .family = FAMILY_GPT2, .tied = true, .dp = 1, .keep = KEEP_INPUTS, .cp = 4},
        {.backend = "ref", .family = FAMILY_QWEN3, .kind = KIND_DPO, .dp = 2, .shard = 1, .cp = 2, .window = 5},
        {.backend = "ref", .family = FAMILY_QWEN2, .tied = true, .kind = KIND_PM, .dp = 1, .cp = 4},
        {.backend = "ref", .family = FAMILY_GPT2, .kind = KIND_CLASSIFIER, .dp = 1, .shard = 1, .cp = 3},
        {.backend = "ref", .kind = KIND_MLM, .dp = 1, .cp = 2},
        {.backend = "ref", .tied = true, .dp = 1, .keep = KEEP_INPUTS, .cp = 3, .lora = true},
        {.backend = "cpu", .tied = true, .dp = 2, .shard = 1, .cp = 2},
        {.backend = "cpu", .family = FAMILY_GPT2, .tied = true, .dp = 2, .keep = KEEP_INPUTS, .cp = 4},
        {.backend = "cpu", .family = FAMILY_QWEN3, .tied = true, .kind = KIND_DPO, .dp = 1, .cp = 4, .window = 7},
        {.backend = "cpu", .family = FAMILY_QWEN2, .tied = true, .kind = KIND_PM, .dp = 1, .cp = 2},
        {.backend = "cpu", .kind = KIND_MLM, .dp = 1, .cp = 4},
        {.backend = "ref", .family = FAMILY_GPT2, .tied = true, .kind = KIND_PM, .dp = 1, .shard = 2, .cp = 3},
        {.backend = "cpu", .tied = true, .dp = 2, .shard = 2, .cp = 2},
        {.backend = "ref",
         .family = FAMILY_QWEN3,
         .kind = KIND_DPO,
         .dp = 2,
         .shard = 2,
         .keep = KEEP_INPUTS,
         .pp = 2,
         .cp = 2},
        {.backend = "ref", .tied = true, .tp = 2, .dp = 1, .cp = 2},
        {.backend = "ref", .tied = true, .dp = 1, .pp = 2, .cp = 2},
        {.backend = "ref",
         .family = FAMILY_QWEN3,
         .kind = KIND_PM,
         .dp = 2,
         .shard = 1,
         .keep = KEEP_INPUTS,
         .pp = 2,
         .cp = 2},
        {.backend = "cpu", .family = FAMILY_QWEN3, .tied = true, .tp = 2, .dp = 1, .shard = 1, .pp = 2, .cp = 2},
        {.backend = "ref", .kind = KIND_DPO, .tp = 2, .dp = 1, .pp = 2, .cp = 2},
    };
    for (int i = 0; i < COUNT_OF(row); i++) check_case(row[i]);
}

/* Of one number of parts the bits are the same however replicas divide the work and ZeRO what is kept of it. */
static void test_replicas(void **state) {
    (void)state;
    Run run;
    Str want = {0}, got = {0};
    run_open(&run, &(Case){.backend = "cpu", .tied = true, .cp = 2, .accum = 6, .steps = 8});
    run_divided(&run, &want);
    for (run.c.dp = 1; run.c.dp <= 4; run.c.dp++)
        for (run.c.shard = 0; run.c.shard <= 2; run.c.shard++) {
            run_divided(&run, &got); /* to where the first run's weights are: all must be equal */
            assert_string_equal(got.s, want.s);
        }
    run_close(&run);
    str_release(&want);
    str_release(&got);
}

/* -- what they send */

/* What a step's micro-batches come to for rank me of c, of group cp. */
typedef struct {
    CommCount back, gather; /* all_to_all of gradients of keys; all_gather of keys and of what heads say */
} Keys;

/* One micro-batch: keys and values are gathered twice a layer, their gradients go back once; 8 bytes a chosen row. */
static void add_traffic(Keys *s, const ModelConfig *m, const Batch *b, int me, int c, int64_t bytes) {
    CutBuf cut = {0};
    cut_batch(&cut, b, me, c);
    int64_t own = cut.cut.n_row[me], kv = (int64_t)m->n_kv_head * m->d_head, layers = m->n_layer;
    int64_t picked = cut.cut.pick_off[me + 1] - cut.cut.pick_off[me];
    s->gather.calls += 2 * layers + 1;
    s->gather.bytes += 2 * layers * (c - 1) * 2 * own * kv * bytes + (c - 1) * picked * 8;
    s->back.calls += layers;
    s->back.bytes += layers * 2 * (b->n_tok - own) * kv * bytes;
    cut_release(&cut);
}

static void check_bytes(Case c) {
    Run run;
    Job j;
    Error err = {0};
    Str ignore = {0};
    c.accum = 2 * c.dp, c.steps = 3;
    run_open(&run, &c);
    run_divided(&run, &ignore);
    must(job_open(&j, &c, NULL, &err), &err);
    ModelConfig m = case_config(&c);
    int64_t bytes = (int64_t)dtype_bytes(j.f.be->real), all = 0, rows = 0, chosen = 0;
    for (int d = 0; d < c.dp; d++)
        for (int r = 0; r < c.cp; r++) {
            Keys s = {.back = {0, 0}};
            for (int64_t step = 0; step < c.steps; step++)
                for (int i = d * c.accum / c.dp; i < (d + 1) * c.accum / c.dp; i++) {
                    Batch b;
                    must(j.obj.micro(j.obj.self, step * c.accum + i, &b, &err), &err);
                    if (b.n_row == 0) continue;
                    add_traffic(&s, &m, &b, r, c.cp, bytes);
                    rows += r == 0 ? b.n_tok : 0, chosen += r == 0 ? b.n_row : 0;
                }
            const CommCount *sent = run.sent[d * c.cp + r].cp;
            assert_int_equal(sent[COMM_ALL_TO_ALL].calls, s.back.calls);
            assert_int_equal(sent[COMM_ALL_TO_ALL].bytes, s.back.bytes);
            assert_int_equal(sent[COMM_ALL_GATHER].calls, s.gather.calls);
            assert_int_equal(sent[COMM_ALL_GATHER].bytes, s.gather.bytes);
            all += s.back.bytes + s.gather.bytes;
        }
    int64_t kv = (int64_t)m.n_kv_head * m.d_head;
    assert_int_equal(all, (c.cp - 1) * (3 * m.n_layer * 2 * rows * kv * bytes + 8 * chosen));
    job_close(&j);
    run_close(&run);
    str_release(&ignore);
}

static void test_bytes(void **state) {
    (void)state;
    static const Case row[] = {
        {.backend = "cpu", .dp = 1, .cp = 2},
        {.backend = "cpu", .family = FAMILY_GPT2, .tied = true, .dp = 2, .shard = 1, .keep = KEEP_INPUTS, .cp = 4},
        {.backend = "ref", .family = FAMILY_QWEN3, .tied = true, .kind = KIND_DPO, .dp = 1, .cp = 3},
        {.backend = "cpu", .family = FAMILY_QWEN2, .tied = true, .kind = KIND_PM, .dp = 1, .cp = 4},
    };
    for (int i = 0; i < COUNT_OF(row); i++) check_bytes(row[i]);
}

/* -- layouts */

/* Saved by one layout, gone on with by another. */
static void test_states(void **state) {
    (void)state;
    static const Case row[][2] = {
        {{.cp = 2, .dp = 2, .shard = 1}, {.cp = 1, .dp = 2}},
        {{.cp = 1, .dp = 2, .shard = 1}, {.cp = 4, .dp = 1, .shard = 1}},
        {{.cp = 4, .dp = 1}, {.cp = 2, .dp = 1, .tp = 2, .pp = 2, .shard = 1}},
    };
    for (int i = 0; i < COUNT_OF(row); i++) {
        Run run;
        Str want = {0}, got = {0};
        const char *worst;
        bool ignore;
        Case c = {
            .backend = "ref", .family = i % 2 ? FAMILY_LLAMA : FAMILY_GPT2, .tied = true, .accum = 4, .steps = 20};
        run_open(&run, &c);
        run_alone(&run, &want);
        fresh_dir(&run.dir, "states");
        for (int k = 0; k < 2; k++) {
            run.c = row[i][k];
            run.c.backend = c.backend, run.c.family = c.family, run.c.tied = true, run.c.accum = 4, run.c.steps = 20;
            run.c.state_steps = 5;
            run.c.break_at = k == 0 ? 4 * 12 + 2 : 0; /* the state is that of step 10 */
            run_ranks(&run);
        }
        read_metrics(&got, run.dir.s);
        assert_true(whole_distance(&run.got, &run.want, &worst) < 1e-10);
        assert_true(losses_apart(got.s, want.s, &ignore) < 1e-10);
        run_close(&run);
        str_release(&want);
        str_release(&got);
    }
}

/* -- signals */

typedef struct {
    Stop *stop[2]; /* by rank; the first has been asked to */
    Str dir;
} Stopped;

/* A rank that alone hears a signal does not leave the other waiting for its keys. */
static void stop_rank(Rank *r) {
    Stopped *s = r->ud;
    const Case c = {.backend = "cpu", .family = FAMILY_LLAMA, .cp = 2, .dp = 1};
    Error err = {0};
    Mesh mesh;
    Job j;
    Trainer *t = NULL;
    comm_deadline(r->world, 20);
    bool ok = mesh_of(&mesh, &c, r->world, &err) && job_open(&j, &c, &mesh, &err);
    expect(r, ok);
    if (!ok) return;
    TrainConfig tc = config(1000, 1e-3);
    tc.mesh = &mesh;
    expect(r, trainer_open(&t, j.f.net, &tc, &j.obj, NULL, s->stop[r->rank], &err));
    expect(r, !trainer_run(t, s->dir.s, &err));
    expect(r, err.code == ERR_STOPPED);
    trainer_close(t);
    job_close(&j);
}

static void test_stop(void **state) {
    (void)state;
    Stopped s = {.dir = {0}};
    Error err = {0};
    fresh_dir(&s.dir, "cp_stop");
    must(stop_open(&s.stop[0], &err), &err);
    stop_request(s.stop[0]);
    with_ranks(2, stop_rank, &s);
    stop_close(s.stop[0]);
    str_release(&s.dir);
}

/* -- a sequence that one rank has no room for */

enum { LONG = 32768, LONG_RANKS = 4, LONG_WINDOW = 64 };

typedef struct {
    MemSource src;
    size_t live, peak, cap;
} Limited;

static void *limited_get(void *ud, size_t bytes) {
    Limited *m = ud;
    if (m->live + bytes > m->cap) return NULL;
    m->live += bytes;
    if (m->live > m->peak) m->peak = m->live;
    return m->src.get(m->src.ud, bytes);
}

static void limited_put(void *ud, void *p, size_t bytes) {
    Limited *m = ud;
    m->live -= bytes;
    m->src.put(m->src.ud, p, bytes);
}

typedef struct {
    Str dir;
    size_t cap, acts[LONG_RANKS]; /* of a rank's arenas; what its activations took */
    double loss[LONG_RANKS];
    ErrorCode code[LONG_RANKS];
} Long;

static ModelConfig long_config(void) {
    ModelConfig c = tp_config(FAMILY_LLAMA, true);
    c.n_head = 2, c.n_kv_head = 1, c.d_model = 16, c.d_head = 8, c.d_ff = 32, c.max_seq = LONG, c.window = LONG_WINDOW;
    return c;
}

/* One step over one sequence, a byte of whose arenas more than cap is refused. */
static void train_long(Long *l, int rank, const Mesh *mesh) {
    Error err = {0};
    Fixture f;
    SampleSet set;
    ObjLm *lm = NULL;
    Objective obj;
    Trainer *t = NULL;
    Limited mem = {.cap = SIZE_MAX};
    ModelConfig c = long_config();
    int32_t *tok = mem_alloc(LONG * sizeof *tok);
    float *weight = mem_alloc(LONG * sizeof *weight);
    for (int i = 0; i < LONG; i++) tok[i] = i * 7 % 11, weight[i] = i % 64 == 0;
    samples_init(&set, 1);
    samples_add(&set, tok, weight, LONG, 0, 0, 1);
    bool ok = pool_open(&f.pool, 1, &err) && backend_open(&f.be, "cpu", f.pool, NULL, &err) &&
              model_init(&f.m, f.be, &c, SEED, true, &err) &&
              head_init(&f.h, &f.m, HEAD_LM, c.n_vocab, SEED, true, &err) &&
              obj_lm_open(&lm, &obj, &set, LONG, SEED, &err);
    CHECK(ok, "%s", err.msg);
    f.net = (Net){&f.m, &f.h, NULL};
    MemSource plain = mem.src = f.be->mem;
    f.be->mem = (MemSource){.get = limited_get, .put = limited_put, .ud = &mem};
    mem.cap = l->cap;
    TrainConfig tc = config(1, 1e-3);
    tc.keep = KEEP_INPUTS, tc.mesh = mesh;
    if (trainer_open(&t, f.net, &tc, &obj, NULL, NULL, &err)) {
        l->acts[rank] = acts_bytes(&f.m, LONG, LONG, KEEP_INPUTS);
        if (trainer_run(t, l->dir.s, &err)) l->loss[rank] = trainer_last_loss(t);
    }
    l->code[rank] = err.code;
    trainer_close(t);
    obj_lm_close(lm);
    f.be->mem = plain;
    samples_release(&set);
    free(tok);
    free(weight);
    close_all(&f);
}

static void long_rank(Rank *r) {
    Error err = {0};
    Mesh mesh;
    expect(r, mesh_open(&mesh, r->world, NULL, 1, LONG_RANKS, 1, &err));
    train_long(r->ud, r->rank, &mesh);
}

static void test_long(void **state) {
    (void)state;
    Long one = {.cap = SIZE_MAX}, four = {.cap = 0}, short_of = {.cap = 0};
    fresh_dir(&one.dir, "cp_long_one");
    train_long(&one, 0, NULL);
    assert_int_equal(one.code[0], ERR_NONE);
    ModelConfig c = long_config();
    size_t keys = 4 * (size_t)LONG * (size_t)(c.n_kv_head * c.d_head) * sizeof(float); /* k, v, dk, dv of all rows */
    four.cap = one.acts[0] / 2;
    short_of.cap = four.cap;
    fresh_dir(&short_of.dir, "cp_long_short");
    train_long(&short_of, 0, NULL);
    assert_int_equal(short_of.code[0], ERR_MEMORY); /* one rank alone has no room */
    fresh_dir(&four.dir, "cp_long");
    with_ranks(LONG_RANKS, long_rank, &four);
    for (int r = 0; r < LONG_RANKS; r++) {
        assert_int_equal(four.code[r], ERR_NONE);
        assert_true(four.acts[r] >= one.acts[0] / LONG_RANKS + keys);
        assert_true(four.acts[r] < one.acts[0] / LONG_RANKS + keys + (1 << 16)); /* what stands between tensors */
        assert_true(four.loss[r] == one.loss[0]);
    }
    print_message("  %d rows: activations of one rank %zu bytes, of %d ranks %zu each, %zu of them keys\n", LONG,
                  one.acts[0], LONG_RANKS, four.acts[0], keys);
    str_release(&one.dir);
    str_release(&four.dir);
    str_release(&short_of.dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal),  cmocka_unit_test(test_replicas), cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_states), cmocka_unit_test(test_stop),     cmocka_unit_test(test_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
