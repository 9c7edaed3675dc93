// layer: train
/* Stages of a pipeline train to the bits of one rank: every objective, tied and untied, uneven layers, steps that the
 * stages do not divide, replicas, ZeRO-1, states of other layouts; what they send, to the byte; and their order, played
 * against itself. */
#include "train_fixture.h"

#include "dist_help.h"
#include "nn/regroup.h"
#include "train/pipe.h"

typedef enum { KIND_LM, KIND_PM, KIND_CLASSIFIER, KIND_DPO } Kind;

typedef struct { /* what all ranks of a case do */
    const char *backend;
    Kind kind;
    int layers;
    bool gpt2, windows, tied; /* windows: layers 0 and 3 look back over everything, the others 8 positions */
    Keep keep;
    int accum, steps, pp;
    int shard;
    bool overlap;
    const char *dir; /* of metrics and states */
    int64_t state_steps;
    int stop_at, fail_at; /* rank 1 asks to stop, its data break, in this micro-batch that it reads; 0: never */
    int64_t nan_at;       /* this micro-batch's loss is not finite; 0: none is */
    Str want;             /* the weights of one rank */
    int64_t x_bytes[8], head_bytes[8], rows; /* sent over "pp" and "ends" by rank; tokens of all micro-batches */
} Case;

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

/* -- nets and data */

static void config_net(ModelConfig *c, const Case *k) {
    *c = (ModelConfig){
        .family = FAMILY_LLAMA, .n_layer = k->layers, .n_head = 4, .n_kv_head = 2, .d_model = 32, .d_head = 8};
    c->d_ff = 64, c->n_vocab = VOCAB, c->max_seq = 128, c->norm = NORM_RMS, c->pos = POS_ROPE, c->mlp = MLP_SWIGLU;
    c->tied = k->tied, c->rope_theta = 10000, c->norm_eps = 1e-5, c->eos_id = END;
    if (k->windows) c->family = FAMILY_QWEN3, c->qk_norm = true, c->window = 8, c->unwindowed[0] = 9;
    if (!k->gpt2) return;
    c->family = FAMILY_GPT2, c->n_kv_head = 4, c->norm = NORM_LAYER, c->pos = POS_LEARNED, c->mlp = MLP_GELU;
    c->qkv_bias = c->out_bias = c->mlp_bias = true;
}

static HeadKind head_of(const Case *c) { return c->kind == KIND_LM || c->kind == KIND_DPO ? HEAD_LM : HEAD_SCORE; }

static void net_of(Fixture *f, const Case *k, const Mesh *mesh, bool grads) {
    Error err = {0};
    ModelConfig c;
    config_net(&c, k);
    must(model_init_on(&f->m, f->be, &c, mesh, SEED, grads, &err), &err);
    must(head_init(&f->h, &f->m, head_of(k), head_of(k) == HEAD_LM ? VOCAB : 1, SEED, grads, &err), &err);
    f->net = (Net){&f->m, &f->h, NULL};
}

typedef struct {
    Objective real;
    Rank *rank; /* NULL: alone */
    const Case *c;
    Stop *stop;
    int n;
    int64_t number;
} Spoiled;

typedef struct {
    Fixture f;
    SampleSet set;
    ObjLm *lm;
    ObjPm *pm;
    ObjDpo *dpo;
    Objective obj;
    double *ref;
    Spoiled spoiled;
} Job;

static void reference_of(Job *j, const Case *c) { /* of a whole net, as stages have it */
    Error err = {0};
    Fixture whole = {.be = j->f.be};
    net_of(&whole, c, NULL, false);
    j->ref = mem_alloc((size_t)j->set.n * sizeof *j->ref);
    must(obj_dpo_reference(j->ref, &j->set, whole.net, 64, &err), &err);
    head_release(&whole.h);
    model_release(&whole.m);
}

static void job_open(Job *j, const Case *c, const Mesh *mesh) {
    Error err = {0};
    *j = (Job){.lm = NULL};
    open_backend(&j->f, c->backend, 1);
    net_of(&j->f, c, mesh, true);
    if (c->kind == KIND_LM) {
        lm_samples(&j->set, 60);
        must(obj_lm_open(&j->lm, &j->obj, &j->set, 64, SEED, &err), &err);
        return;
    }
    pm_samples(&j->set, 40, false, 1);
    if (c->kind == KIND_CLASSIFIER) j->set.group = 1;
    if (c->kind == KIND_PM) must(obj_pm_open(&j->pm, &j->obj, &j->set, 64, SEED, END, 0.01, &err), &err);
    if (c->kind == KIND_CLASSIFIER) must(obj_classifier_open(&j->pm, &j->obj, &j->set, 64, SEED, END, &err), &err);
    if (c->kind != KIND_DPO) return;
    for (int64_t i = 0; i < j->set.off[j->set.n]; i++) j->set.weight[i] = 1;
    for (int64_t i = 0; i < j->set.n; i++) j->set.weight[j->set.off[i]] = 0;
    DpoConfig d = {{0.1, 0, false}, false, true};
    reference_of(j, c);
    must(obj_dpo_open(&j->dpo, &j->obj, &j->set, j->ref, 64, SEED, &d, &err), &err);
}

static void job_close(Job *j) {
    obj_lm_close(j->lm);
    obj_pm_close(j->pm);
    obj_dpo_close(j->dpo);
    samples_release(&j->set);
    stop_close(j->spoiled.stop);
    free(j->ref);
    close_all(&j->f);
}

static bool spoiled_micro(void *self, int64_t number, Batch *b, Error *err) {
    Spoiled *s = self;
    s->n++;
    s->number = number;
    bool mine = s->rank && s->rank->rank == 1;
    if (mine && s->n == s->c->stop_at) stop_request(s->stop);
    if (mine && s->n == s->c->fail_at) return error_set(err, ERR_FORMAT, "pack %d is broken", s->n);
    return s->real.micro(s->real.self, number, b, err);
}

static double spoiled_loss(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m) {
    Spoiled *s = self;
    double loss = s->real.loss(s->real.self, be, b, first, out, weight, m);
    return s->c->nan_at && s->number == s->c->nan_at ? NAN : loss;
}

static void spoil(Job *j, Rank *r, const Case *c, Error *err) {
    j->spoiled = (Spoiled){.real = j->obj, .rank = r, .c = c};
    if (c->stop_at) must(stop_open(&j->spoiled.stop, err), err);
    j->obj.self = &j->spoiled;
    j->obj.micro = spoiled_micro;
    j->obj.loss = spoiled_loss;
    j->obj.look = NULL;
    j->obj.wait_s = NULL;
}

/* -- weights as bytes */

static void put_weights(void *ud, int index, const ParamInfo *p) {
    Str *out = ud;
    (void)index;
    size_t n = tensor_raw_bytes(p->w);
    void *x = mem_alloc(n);
    memcpy(x, p->w.data, n);
    str_putn(out, x, n);
    free(x);
}

static void weights_of(Str *out, Net net) {
    str_clear(out);
    net_visit(net, put_weights, out);
}

static bool whole_weights(Str *out, Net part, const Mesh *mesh, Error *err) {
    Regroup *r;
    if (model_is_whole(part.trunk)) {
        weights_of(out, part);
        return true;
    }
    if (!regroup_open(&r, part, mesh, true, err)) return false;
    bool ok = regroup_refresh(r, err);
    if (ok) weights_of(out, regroup_net(r));
    regroup_close(r);
    return ok;
}

/* -- one rank of a training run */

static TrainConfig config_of(const Case *c, const Mesh *mesh) {
    TrainConfig t = config(c->steps, 1e-2);
    t.accum = c->accum;
    t.keep = c->keep;
    t.mesh = mesh;
    t.shard = c->shard;
    t.overlap = c->overlap;
    t.state_steps = c->state_steps;
    return t;
}

/* The copy of a tied embedding is what it is a copy of. */
static bool same_copy(Net part, const Str *whole) {
    const Head *h = part.head;
    if (!h->copy) return true;
    size_t n = tensor_raw_bytes(h->w);
    for (size_t at = 0; at + n <= whole->n; at += 4)
        if (!memcmp(whole->s + at, h->w.data, n)) return true;
    return false;
}

static bool train_rank(Rank *r, Str *got, Error *err) {
    Case *c = r->ud;
    Job j;
    Mesh mesh;
    Trainer *t = NULL;
    comm_deadline(r->world, 60); /* of stages that wait for each other */
    expect(r, mesh_open(&mesh, r->world, NULL, 1, 1, c->pp, err));
    job_open(&j, c, &mesh);
    if (c->stop_at || c->fail_at || c->nan_at) spoil(&j, r, c, err);
    TrainConfig tc = config_of(c, &mesh);
    bool ok = trainer_open(&t, j.f.net, &tc, &j.obj, NULL, j.spoiled.stop, err);
    expect(r, ok);
    comm_count_clear(r->world);
    ok = ok && trainer_run(t, c->dir, err);
    trainer_close(t);
    c->x_bytes[r->rank] = comm_count(mesh.pp, COMM_SEND).bytes;
    c->head_bytes[r->rank] = comm_count(mesh.ends, COMM_SEND).bytes;
    Error lost = {0};
    expect(r, whole_weights(got, j.f.net, &mesh, &lost));
    if (ok) expect(r, same_copy(j.f.net, got));
    job_close(&j);
    return ok;
}

static void equal_rank(Rank *r) {
    const Case *c = r->ud;
    Error err = {0};
    Str got = {0};
    bool ok = train_rank(r, &got, &err);
    expect(r, ok);
    if (!ok) snprintf(r->wrong, sizeof r->wrong, "rank %d: %.300s", r->rank, err.msg);
    expect(r, got.n == c->want.n && !memcmp(got.s, c->want.s, got.n));
    str_release(&got);
}

/* The weights and metrics of one rank, into c->want and *metrics. */
static void alone(Case *c, Str *metrics) {
    Job j;
    Error err = {0};
    job_open(&j, c, NULL);
    if (c->nan_at) spoil(&j, NULL, c, &err);
    TrainConfig tc = config_of(c, NULL);
    tc.shard = 0;
    run_ok(&j.f, &tc, &j.obj, c->dir, NULL);
    weights_of(&c->want, j.f.net);
    job_close(&j);
    read_metrics(metrics, c->dir);
}

/* -- the same bits */

typedef struct {
    int pp, dp;
    int shard;
} Layout3;
static const Layout3 layouts[] = {{2, 1, 0}, {4, 1, 0}, {2, 2, 1}, {3, 1, 0}, {2, 2, 2}, {4, 2, 2}};

static void equal_under(Case *c, const Layout3 *l, int n) {
    Str dir = {0}, want = {0}, got = {0};
    fresh_dir(&dir, "pipe_alone");
    c->dir = dir.s;
    alone(c, &want);
    for (int k = 0; k < n; k++) {
        if (l[k].pp > c->layers) continue;
        c->pp = l[k].pp, c->shard = l[k].shard, c->overlap = k != 2;
        fresh_dir(&dir, "pipe_many");
        c->dir = dir.s;
        with_ranks(l[k].pp * l[k].dp, equal_rank, c);
        read_metrics(&got, dir.s);
        assert_string_equal(got.s, want.s); /* losses, norms and means too */
    }
    str_release(&c->want);
    str_release(&dir);
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
        {.backend = "cpu", .layers = 4, .gpt2 = true, .tied = true, .accum = 5},
        {.backend = "bf16", .layers = 4, .tied = true, .accum = 5},
        {.backend = "cpu", .layers = 5, .windows = true, .accum = 3},
        {.backend = "ref", .layers = 4, .gpt2 = true, .accum = 3},
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
        Case c = {.backend = "cpu", .layers = 4, .tied = tied, .accum = 6, .steps = 3, .pp = 4};
        Str dir = {0}, want = {0};
        fresh_dir(&dir, "pipe_alone");
        c.dir = dir.s;
        alone(&c, &want);
        int64_t tokens = 0;
        for (const char *at = want.s; (at = strstr(at, "\"tokens\":")); at++) tokens += strtoll(at + 9, NULL, 10);
        fresh_dir(&dir, "pipe_bytes");
        c.dir = dir.s;
        with_ranks(4, equal_rank, &c);
        int64_t x = tokens * 32 * 4; /* s b h B, of all micro-batches: forward, and as much back */
        assert_int_equal(c.x_bytes[0], x);
        assert_int_equal(c.x_bytes[1], 2 * x);
        assert_int_equal(c.x_bytes[2], 2 * x);
        assert_int_equal(c.x_bytes[3], x);
        int64_t wte = (VOCAB + 15) / 16 * 16 * 32 * 4;             /* panels count whole */
        assert_int_equal(c.head_bytes[3], tied ? 3 * 6 * wte : 0); /* a gradient a micro-batch, */
        assert_int_equal(c.head_bytes[0], tied ? 3 * wte : 0);     /* weights back once a step */
        str_release(&c.want);
        str_release(&dir);
        str_release(&want);
    }
}

/* -- states */

static void part_rank(Rank *r) { /* stops by a signal that rank 1 alone gets, or by its broken data */
    const Case *c = r->ud;
    Error err = {0};
    Str got = {0};
    expect(r, !train_rank(r, &got, &err));
    expect(r, err.code == (c->stop_at ? ERR_STOPPED : ERR_FORMAT));
    if (c->fail_at)
        expect(r, strstr(err.msg, "is broken") != NULL && (r->rank == 1 || strstr(err.msg, "rank 1: ") != NULL));
    str_release(&got);
}

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
    Str dir = {0}, want = {0}, got = {0};
    for (int i = 0; i < COUNT_OF(row); i++) {
        const Layout3 *a = &row[i].before, *b = &row[i].after;
        fresh_dir(&dir, "pipe_alone");
        Case c = {.backend = row[i].backend, .layers = 5, .tied = row[i].tied, .accum = 4, .steps = 6, .dir = dir.s};
        alone(&c, &want);
        for (int failing = 0; failing < 2; failing++) {
            fresh_dir(&dir, "pipe_states");
            c.dir = dir.s, c.shard = a->shard, c.pp = a->pp;
            c.stop_at = failing ? 0 : 10, c.fail_at = failing ? 11 : 0, c.state_steps = failing;
            with_ranks(a->pp * a->dp, part_rank, &c);
            c.stop_at = c.fail_at = 0, c.shard = b->shard, c.pp = b->pp;
            with_ranks(b->pp * b->dp, equal_rank, &c);
            read_metrics(&got, dir.s);
            assert_string_equal(got.s, want.s);
        }
        str_release(&c.want);
    }
    str_release(&dir);
    str_release(&want);
    str_release(&got);
}

/* -- what cannot be */

static void deep_rank(Rank *r) {
    Case *c = r->ud;
    Mesh mesh;
    Error err = {0};
    Fixture f;
    ModelConfig m;
    open_backend(&f, "cpu", 1);
    config_net(&m, c);
    expect(r, mesh_open(&mesh, r->world, NULL, 1, 1, 4, &err));
    expect(r, !model_init_on(&f.m, f.be, &m, &mesh, SEED, true, &err));
    expect(r, err.code == ERR_CONFIG && strstr(err.msg, "dist.pp 4: this model has 3 layers") != NULL);
    backend_close(f.be);
    pool_close(f.pool);
}

static void test_refused(void **state) {
    (void)state;
    Case c = {.layers = 3};
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
