// layer: train
/* Stages of a pipeline train to the bits of one rank: every objective, tied and untied, uneven layers, steps that the
 * stages do not divide, replicas, ZeRO-1, states of other layouts; what they send, to the byte; and their order, played
 * against itself. */
#include "rank_train.h"

#include "train/pipe.h"

/* -- the order */

enum { MAX_STAGES = 8, MAX_MICRO = 20 };

typedef struct {
    PipeStep step[8 * MAX_MICRO];
    int64_t n, at;
    double time;
    int held, most; /* forwards without their backward */
} Stage;

static int peer_of(PipeOp op, int stage, int last) {
    switch (op) {
    case PIPE_RECV_X:
    case PIPE_SEND_DX:
        return stage - 1;
    case PIPE_SEND_X:
    case PIPE_RECV_DX:
        return stage + 1;
    case PIPE_RECV_HEAD:
        return last;
    case PIPE_SEND_HEAD:
        return 0;
    default:
        return -1;
    }
}

static PipeOp other_side(PipeOp op) {
    static const PipeOp side[] = {
        [PIPE_RECV_X] = PIPE_SEND_X,   [PIPE_SEND_X] = PIPE_RECV_X,       [PIPE_RECV_DX] = PIPE_SEND_DX,
        [PIPE_SEND_DX] = PIPE_RECV_DX, [PIPE_RECV_HEAD] = PIPE_SEND_HEAD, [PIPE_SEND_HEAD] = PIPE_RECV_HEAD};
    return side[op];
}

/* One step of stage k, where both sides of a message are there. */
static bool advance(Stage *s, int k, int p) {
    Stage *me = &s[k];
    if (me->at == me->n) return false;
    PipeStep now = me->step[me->at];
    int peer = peer_of(now.op, k, p - 1);
    if (peer < 0) {
        bool forth = now.op == PIPE_FORWARD;
        me->time += forth ? 1 : 2;
        me->held += forth ? 1 : -1;
        if (me->held > me->most) me->most = me->held;
        me->at++;
        return true;
    }
    Stage *you = &s[peer];
    if (you->at == you->n) return false;
    PipeStep theirs = you->step[you->at];
    if (theirs.op != other_side(now.op) || theirs.i != now.i || peer_of(theirs.op, peer, p - 1) != k) return false;
    me->time = you->time = fmax(me->time, you->time);
    me->at++, you->at++;
    return true;
}

/* Every stage comes to its end, with forward and backward of each micro-batch in order; returns how long that takes. */
static double play(int p, int n, bool tied) {
    Stage *s = mem_alloc((size_t)p * sizeof *s);
    double took = 0;
    bool moved = true;
    for (int k = 0; k < p; k++) s[k].n = pipe_schedule(s[k].step, k, p, n, tied);
    while (moved) {
        moved = false;
        for (int k = 0; k < p; k++) moved = advance(s, k, p) || moved;
    }
    for (int k = 0; k < p; k++) {
        int64_t next[2] = {0};
        if (s[k].at != s[k].n)
            fail_msg("%d stages, %d micro-batches%s: stage %d waits for ever at step %lld", p, n, tied ? ", tied" : "",
                     k, (long long)s[k].at);
        for (int64_t i = 0; i < s[k].n; i++) {
            bool back = s[k].step[i].op == PIPE_BACKWARD;
            if (back || s[k].step[i].op == PIPE_FORWARD) assert_int_equal(s[k].step[i].i, next[back]++);
        }
        assert_true(next[0] == n && next[1] == n);
        assert_int_equal(s[k].most, p - k < n ? p - k : n);
        took = fmax(took, s[k].time);
    }
    free(s);
    return took;
}

static void test_order(void **state) {
    (void)state;
    for (int p = 2; p <= MAX_STAGES; p++)
        for (int n = 1; n <= MAX_MICRO; n++) {
            assert_true(play(p, n, false) == 3.0 * (n + p - 1)); /* the bubble: (p-1)/n of the ideal time */
            play(p, n, true);
        }
    for (int p = 2; p <= MAX_STAGES;
         p++) { /* where sending the head's gradient keeps nobody waiting, and where it does */
        double more = play(p, MAX_MICRO, true) / play(p, MAX_MICRO, false);
        assert_true(p % 3 == 2 ? more == 1 : more < 1.32);
    }
}

/* -- the same bits */

typedef struct {
    int pp, dp;
    int shard;
} Layout3;
static const Layout3 layouts[] = {{2, 1, 0}, {4, 1, 0}, {2, 2, 1}, {3, 1, 0}, {2, 2, 2}, {4, 2, 2}};

static void equal_under(const Case *c, const Layout3 *l, int n) {
    Run run;
    Str want = {0}, got = {0};
    run_open(&run, c);
    run.c.exact = run.c.measured = true;
    run_alone(&run, &want);
    for (int k = 0; k < n; k++) {
        if (l[k].pp > c->layers) continue;
        run.c.pp = l[k].pp, run.c.dp = l[k].dp, run.c.shard = l[k].shard, run.c.overlap = k != 2;
        run_divided(&run, &got);
        assert_string_equal(got.s, want.s); /* losses, norms and means too */
    }
    run_close(&run);
    str_release(&want);
    str_release(&got);
}

static void test_equal(void **state) {
    (void)state;
    static const Case row[] = {
        {.backend = "cpu", .layers = 5, .tied = true, .accum = 8},
        {.backend = "cpu", .layers = 4, .accum = 6, .keep = KEEP_INPUTS},
        {.backend = "cpu", .layers = 4, .tied = true, .accum = 1},
        {.backend = "cpu", .layers = 7, .tied = true, .accum = 3, .keep = KEEP_INPUTS},
        {.backend = "cpu", .layers = 4, .family = FAMILY_GPT2, .tied = true, .accum = 5},
        {.backend = "bf16", .layers = 4, .tied = true, .accum = 5},
        {.backend = "cpu", .layers = 5, .family = FAMILY_QWEN3, .windows = true, .accum = 3},
        {.backend = "ref", .layers = 4, .family = FAMILY_GPT2, .accum = 3},
        {.backend = "cpu", .layers = 4, .kind = KIND_PM, .tied = true, .accum = 4},
        {.backend = "cpu", .layers = 5, .kind = KIND_CLASSIFIER, .accum = 3},
        {.backend = "cpu", .layers = 4, .kind = KIND_DPO, .tied = true, .accum = 4},
    };
    for (int i = 0; i < COUNT_OF(row); i++) {
        Case c = row[i];
        c.steps = 4;
        equal_under(&c, layouts + (i % 2), i == 0 ? COUNT_OF(layouts) : 3);
    }
}

/* A step whose loss is not finite is left out by all, and leaves nothing behind. */
static void test_skipped(void **state) {
    (void)state;
    Case c = {.backend = "cpu", .layers = 4, .tied = true, .accum = 4, .steps = 4, .nan_at = 6};
    equal_under(&c, layouts, 3);
}

/* -- what they send */

static void test_bytes(void **state) {
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        Case c = {.backend = "cpu", .layers = 4, .tied = tied, .exact = true, .accum = 6, .steps = 3};
        Run run;
        Str want = {0}, got = {0};
        run_open(&run, &c);
        run_alone(&run, &want);
        int64_t tokens = 0;
        for (const char *at = want.s; (at = strstr(at, "\"tokens\":")); at++) tokens += strtoll(at + 9, NULL, 10);
        run.c.pp = 4;
        run_divided(&run, &got);
        int64_t x = tokens * 32 * 4; /* s b h B, of all micro-batches: forward, and as much back */
        for (int r = 0; r < 4; r++) assert_int_equal(run.sent[r].pp[COMM_SEND].bytes, r % 3 == 0 ? x : 2 * x);
        int64_t wte = (VOCAB + 15) / 16 * 16 * 32 * 4;                               /* panels count whole */
        assert_int_equal(run.sent[3].ends[COMM_SEND].bytes, tied ? 3 * 6 * wte : 0); /* a gradient a micro-batch, */
        assert_int_equal(run.sent[0].ends[COMM_SEND].bytes, tied ? 3 * wte : 0);     /* weights back once a step */
        run_close(&run);
        str_release(&want);
        str_release(&got);
    }
}

/* -- states */

/* Saved under one layout, gone on with under another: the weights are those of one rank that was never interrupted. */
static void test_states(void **state) {
    (void)state;
    static const struct {
        const char *backend;
        bool tied;
        Layout3 before, after;
    } row[] = {{"cpu", true, {2, 1, 0}, {1, 2, 2}},
               {"cpu", true, {1, 2, 1}, {4, 1, 0}},
               {"bf16", true, {2, 2, 2}, {3, 1, 0}},
               {"cpu", false, {4, 1, 0}, {2, 2, 1}}};
    Str want = {0}, got = {0};
    for (int i = 0; i < COUNT_OF(row); i++) {
        const Layout3 *a = &row[i].before, *b = &row[i].after;
        Run run;
        Case c = {.backend = row[i].backend, .layers = 5, .tied = row[i].tied, .exact = true, .accum = 4, .steps = 6};
        run_open(&run, &c);
        run_alone(&run, &want);
        for (int failing = 0; failing < 2; failing++) {
            fresh_dir(&run.dir, "states");
            run.c.pp = a->pp, run.c.dp = a->dp, run.c.shard = a->shard;
            run.c.stop_at = failing ? 0 : 10, run.c.fail_at = failing ? 11 : 0, run.c.state_steps = failing;
            run_ranks(&run);
            run.c.pp = b->pp, run.c.dp = b->dp, run.c.shard = b->shard;
            run.c.stop_at = run.c.fail_at = 0;
            run_ranks(&run);
            read_metrics(&got, run.dir.s);
            assert_string_equal(got.s, want.s);
        }
        run_close(&run);
    }
    str_release(&want);
    str_release(&got);
}

/* -- what cannot be */

static void deep_rank(Rank *r) {
    const Case *c = r->ud;
    Mesh mesh;
    Error err = {0};
    Fixture f = {.pool = NULL};
    expect(r, mesh_of(&mesh, c, r->world, &err) && case_backend(&f, c, &err));
    expect(r, !case_net(&f, c, &mesh, true, &err));
    expect(r, err.code == ERR_CONFIG && strstr(err.msg, "dist.pp 4: this model has 3 layers") != NULL);
    close_all(&f);
}

static void test_refused(void **state) {
    (void)state;
    Case c = {.backend = "cpu", .layers = 3, .pp = 4};
    with_ranks(4, deep_rank, &c);
    for (int n = 1; n < 12; n++) /* layers are dealt out whole, as evenly as they go */
        for (int p = 1; p <= n; p++)
            for (int s = 0; s < p; s++) {
                int k = model_part_layer(n, s + 1, p) - model_part_layer(n, s, p);
                assert_true(k == n / p || k == n / p + 1);
                assert_true(model_part_layer(n, 0, p) == 0 && model_part_layer(n, p, p) == n);
            }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_equal), cmocka_unit_test(test_skipped),
                                       cmocka_unit_test(test_bytes), cmocka_unit_test(test_states)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
