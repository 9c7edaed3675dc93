// layer: train
/* Ranks train to the bits of one rank: every objective and method, any number of ranks, whole and divided optimizer
 * state; what they send, to the byte; saving, resuming with another number of ranks, and stopping together. */
#include "train_fixture.h"

#include "dist_help.h"

typedef enum { KIND_LM, KIND_PM, KIND_CLASSIFIER, KIND_DPO } Kind;

typedef struct { /* what all ranks of a case do */
    const char *backend;
    Kind kind;
    int accum, steps;
    int shard;
    bool overlap;
    const char *dir; /* of metrics and states */
    int64_t state_steps, compare_every;
    const char *says;                  /* the error that training ends with */
    int stop_at;                       /* rank 1 asks to stop in this micro-batch (of its own); 0: never */
    int fail_at;                       /* rank 1's data break in this one; 0: never */
    Str want;                          /* the weights of one rank */
    int64_t bytes[8][2], own[8], elem; /* by rank: all_to_all and all_gather of group dp; elements it owns */
} Case;

/* -- weights as bytes */

typedef struct {
    Backend *be;
    Str *out;
} Bytes;

static void put_weights(void *ud, int index, const ParamInfo *p) {
    Bytes *b = ud;
    int64_t n = tensor_count(p->w);
    double *x = mem_alloc((size_t)n * sizeof *x);
    (void)index;
    tensor_get(b->be, x, p->w);
    str_putn(b->out, x, (size_t)n * sizeof *x);
    free(x);
}

static void weights_of(Str *out, Net net) {
    Bytes b = {net.trunk->be, out};
    str_clear(out);
    net_visit(net, put_weights, &b);
}

/* -- one rank of a training run */

typedef struct {
    Objective real;
    Rank *rank;
    const Case *c;
    Stop *stop;
    int n;
} Spoiled;

static bool spoiled_micro(void *self, int64_t number, Batch *b, Error *err) {
    Spoiled *s = self;
    s->n++;
    if (s->rank->rank == 1 && s->n == s->c->stop_at) stop_request(s->stop);
    if (s->rank->rank == 1 && s->n == s->c->fail_at) return error_set(err, ERR_FORMAT, "pack %d is broken", s->n);
    return s->real.micro(s->real.self, number, b, err);
}

static double spoiled_loss(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m) {
    Spoiled *s = self;
    return s->real.loss(s->real.self, be, b, first, out, weight, m);
}

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

static void net_of(Fixture *f, HeadKind kind) { /* every size a multiple of a panel: elements are parameters */
    Error err = {0};
    ModelConfig c = {.family = FAMILY_LLAMA, .n_layer = 2, .n_head = 4, .n_kv_head = 2, .d_model = 32, .d_head = 8};
    c.d_ff = 64, c.n_vocab = 32, c.max_seq = 128, c.norm = NORM_RMS, c.pos = POS_ROPE, c.mlp = MLP_SWIGLU;
    c.tied = kind == HEAD_LM, c.rope_theta = 10000, c.norm_eps = 1e-5, c.eos_id = END;
    must(model_init(&f->m, f->be, &c, SEED, true, &err), &err);
    must(head_init(&f->h, &f->m, kind, kind == HEAD_LM ? 32 : 1, SEED, true, &err), &err);
    f->net = (Net){&f->m, &f->h, NULL};
}

static void job_open(Job *j, const Case *c) {
    Error err = {0};
    *j = (Job){.lm = NULL};
    open_backend(&j->f, c->backend, 1);
    net_of(&j->f, c->kind == KIND_LM || c->kind == KIND_DPO ? HEAD_LM : HEAD_SCORE);
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
    DpoConfig d = {{0.1, 0, false}, false, false};
    j->ref = mem_alloc((size_t)j->set.n * sizeof *j->ref);
    must(obj_dpo_reference(j->ref, &j->set, j->f.net, 64, &err), &err);
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

static TrainConfig config_of(const Case *c, const Mesh *mesh) {
    TrainConfig t = config(c->steps, 1e-2);
    t.accum = c->accum;
    t.mesh = mesh;
    t.shard = c->shard;
    t.overlap = c->overlap;
    t.state_steps = c->state_steps;
    t.compare_every = c->compare_every;
    return t;
}

static void spoil(Job *j, Rank *r, const Case *c, Error *err) {
    j->spoiled = (Spoiled){.real = j->obj, .rank = r, .c = c};
    if (r->rank == 1 && c->stop_at) expect(r, stop_open(&j->spoiled.stop, err));
    j->obj.self = &j->spoiled;
    j->obj.micro = spoiled_micro;
    j->obj.loss = spoiled_loss;
    j->obj.look = NULL;
    j->obj.wait_s = NULL;
}

static void note_bytes(Rank *r, Case *c, const Mesh *mesh, Net net) {
    Error err = {0};
    Optim *o;
    int n;
    OptimConfig oc = config(1, 1).optim;
    oc.mesh = mesh;
    expect(r, optim_open(&o, &net, NULL, 1, &oc, &err));
    const Tensor *grad = optim_grads(o, &n);
    c->own[r->rank] = blocks_elements(optim_blocks(o), grad, r->rank);
    if (r->rank == 0) c->elem = optim_blocks(o)->n_elem;
    optim_close(o);
    c->bytes[r->rank][0] = comm_count(mesh->dp, COMM_ALL_TO_ALL).bytes;
    c->bytes[r->rank][1] = comm_count(mesh->dp, COMM_ALL_GATHER).bytes;
}

/* Trains; returns whether it ended well, with *err what not. */
static bool train_rank(Rank *r, Str *got, Error *err) {
    Case *c = r->ud;
    Job j;
    Mesh mesh;
    Trainer *t = NULL;
    expect(r, mesh_open(&mesh, r->world, NULL, 1, 1, 1, err));
    job_open(&j, c);
    if (c->stop_at || c->fail_at) spoil(&j, r, c, err);
    TrainConfig tc = config_of(c, &mesh);
    bool ok = trainer_open(&t, j.f.net, &tc, &j.obj, NULL, j.spoiled.stop, err);
    expect(r, ok);
    ok = ok && trainer_run(t, c->dir, err);
    trainer_close(t);
    weights_of(got, j.f.net);
    note_bytes(r, c, &mesh, j.f.net);
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
    job_open(&j, c);
    TrainConfig tc = config_of(c, NULL);
    tc.shard = 0;
    run_ok(&j.f, &tc, &j.obj, c->dir, NULL);
    weights_of(&c->want, j.f.net);
    job_close(&j);
    read_metrics(metrics, c->dir);
}

/* -- the same bits */

static void test_equal(void **state) {
    (void)state;
    static const struct {
        const char *backend;
        Kind kind;
        int accum;
    } row[] = {{"cpu", KIND_LM, 8},  {"cpu", KIND_LM, 6},         {"cpu", KIND_LM, 1}, {"ref", KIND_LM, 3},
               {"bf16", KIND_LM, 5}, {"cpu", KIND_CLASSIFIER, 4}, {"cpu", KIND_PM, 4}, {"cpu", KIND_DPO, 4}};
    static const int ranks[] = {2, 3, 4, 8};
    Str dir = {0}, want = {0}, got = {0};
    for (int i = 0; i < COUNT_OF(row); i++) {
        fresh_dir(&dir, "ranks_alone");
        Case c = {.backend = row[i].backend, .kind = row[i].kind, .accum = row[i].accum, .steps = 6, .dir = dir.s};
        alone(&c, &want);
        for (int k = 0; k < COUNT_OF(ranks); k++) {
            if (ranks[k] == 8 && (i > 1 && row[i].kind == KIND_LM)) continue;
            c.shard = (i + k) % 3, c.overlap = (i + k / 2) % 2;
            fresh_dir(&dir, "ranks_many");
            c.dir = dir.s;
            with_ranks(ranks[k], equal_rank, &c);
            read_metrics(&got, dir.s);
            assert_string_equal(got.s, want.s); /* losses, norms and means too */
        }
        str_release(&c.want);
    }
    str_release(&dir);
    str_release(&want);
    str_release(&got);
}

/* Every stage of ZeRO, with and without overlap, over every number of ranks. */
static void test_stages(void **state) {
    (void)state;
    static const Kind kind[] = {KIND_LM, KIND_PM};
    Str dir = {0}, want = {0}, got = {0};
    for (int i = 0; i < COUNT_OF(kind); i++) {
        fresh_dir(&dir, "ranks_alone");
        Case c = {.backend = "cpu", .kind = kind[i], .accum = 8, .steps = 20, .dir = dir.s};
        alone(&c, &want);
        for (int d = 2; d <= 8; d *= 2)
            for (c.shard = 0; c.shard <= 2; c.shard++)
                for (int overlap = 0; overlap < 2; overlap++) {
                    fresh_dir(&dir, "ranks_many");
                    c.dir = dir.s, c.overlap = overlap;
                    with_ranks(d, equal_rank, &c);
                    read_metrics(&got, dir.s);
                    assert_string_equal(got.s, want.s);
                }
        str_release(&c.want);
    }
    str_release(&dir);
    str_release(&want);
    str_release(&got);
}

/* -- what they send */

static void test_bytes(void **state) {
    (void)state;
    Str dir = {0}, want = {0};
    for (int how = 0; how < 6; how++)
        for (int d = 2; d <= 8; d *= 2) {
            Case c = {.backend = "cpu", .kind = KIND_LM, .accum = 8, .steps = 3, .shard = how % 3, .overlap = how / 3};
            fresh_dir(&dir, "ranks_alone");
            c.dir = dir.s;
            alone(&c, &want);
            fresh_dir(&dir, "ranks_bytes");
            c.dir = dir.s;
            with_ranks(d, equal_rank, &c);
            int64_t psi = c.elem, sent = 0, nodes = c.shard == 2 ? 8 / d : 1; /* ZeRO-2: every leaf */
            ModelConfig m = {.n_layer = 2,
                             .n_head = 4,
                             .n_kv_head = 2,
                             .d_model = 32,
                             .d_head = 8,
                             .d_ff = 64,
                             .n_vocab = 32,
                             .max_seq = 128,
                             .norm = NORM_RMS,
                             .mlp = MLP_SWIGLU,
                             .tied = true};
            assert_int_equal(psi, model_config_params(&m));
            for (int r = 0; r < d; r++) {
                assert_int_equal(c.bytes[r][0], 3 * nodes * (psi - c.own[r]) * 4); /* gradients to their owners */
                assert_int_equal(c.bytes[r][1], 3 * (d - 1) * c.own[r] * 4);       /* sums, or (ZeRO-1) weights, back */
                sent += c.bytes[r][0] + c.bytes[r][1];
            }
            /* d ranks x (d-1)/d Psi (4 nodes + 4) x 3 steps */
            assert_int_equal(sent, 3 * (d - 1) * psi * (4 * nodes + 4));
            str_release(&c.want);
        }
    str_release(&dir);
    str_release(&want);
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

/* Saved by d ranks, gone on with by another number of them: the weights are those of one rank that was never
 * interrupted. */
static void test_states(void **state) {
    (void)state;
    static const struct {
        const char *backend;
        int before, after;
        int shard_before, shard_after;
    } row[] = {{"cpu", 4, 2, 1, 0}, {"cpu", 2, 4, 0, 1}, {"bf16", 3, 2, 1, 2},
               {"cpu", 3, 5, 0, 2}, {"cpu", 4, 2, 2, 0}, {"cpu", 2, 4, 2, 1}};
    Str dir = {0}, want = {0}, got = {0};
    for (int i = 0; i < COUNT_OF(row); i++) {
        fresh_dir(&dir, "ranks_alone");
        Case c = {.backend = row[i].backend, .kind = KIND_LM, .accum = 6, .steps = 7, .dir = dir.s};
        alone(&c, &want);
        fresh_dir(&dir, "ranks_states");
        c.dir = dir.s, c.shard = row[i].shard_before, c.stop_at = 6, c.overlap = i % 2;
        with_ranks(row[i].before, part_rank, &c);
        c.stop_at = 0, c.shard = row[i].shard_after, c.overlap = !c.overlap;
        with_ranks(row[i].after, equal_rank, &c);
        read_metrics(&got, dir.s);
        assert_string_equal(got.s, want.s);
        fresh_dir(&dir, "ranks_states"); /* and data that break on one rank, with a state of some steps before */
        c.dir = dir.s, c.fail_at = 7, c.state_steps = 1, c.shard = row[i].shard_before;
        with_ranks(row[i].before, part_rank, &c);
        c.fail_at = 0, c.shard = row[i].shard_after;
        with_ranks(row[i].after, equal_rank, &c);
        str_release(&c.want);
    }
    str_release(&dir);
    str_release(&want);
    str_release(&got);
}

/* -- what goes wrong quietly */

static void wrong_rank(Rank *r) {
    const Case *c = r->ud;
    Error err = {0};
    Str got = {0};
    expect(r, !train_rank(r, &got, &err));
    expect(r, err.code == ERR_STATE);
    if (!strstr(err.msg, c->says)) snprintf(r->wrong, sizeof r->wrong, "'%.200s' is not in: %.150s", c->says, err.msg);
    str_release(&got);
}

/* A weight of rank 2 changes after step 4. Compared every third step, that is seen at step 6; a state after each second
 * step is compared too, at step 4, and the one before is good: who goes on from it ends as if nothing had happened. */
static void test_changed_weight(void **state) {
    (void)state;
    static const struct {
        int ranks;
        int64_t every, states;
        const char *says;
    } row[] = {{4, 3, 0, "step 6: the weights of rank 2 differ"},
               {3, 100, 2, "step 4: the weights of rank 2 differ"},
               {3, 1, 0, "step 4: the weights of rank 2 differ"}};
    Str dir = {0}, want = {0};
    fresh_dir(&dir, "ranks_alone");
    Case c = {.backend = "cpu", .kind = KIND_LM, .accum = 6, .steps = 7, .dir = dir.s};
    alone(&c, &want);
    for (int i = 0; i < COUNT_OF(row); i++) {
        fresh_dir(&dir, "ranks_changed");
        c.dir = dir.s, c.compare_every = row[i].every, c.state_steps = row[i].states, c.says = row[i].says;
        setenv("DIKAST_CRASH_AT", "train.flip:2:4", 1);
        with_ranks(row[i].ranks, wrong_rank, &c);
        unsetenv("DIKAST_CRASH_AT");
        assert_int_equal(state_exists(dir.s), row[i].states > 0);
        with_ranks(row[i].ranks, equal_rank, &c);
    }
    fresh_dir(&dir, "ranks_changed"); /* two of two: nobody knows who is right */
    c.dir = dir.s, c.compare_every = 1, c.state_steps = 0, c.says = "no majority";
    setenv("DIKAST_CRASH_AT", "train.flip:1:4", 1);
    with_ranks(2, wrong_rank, &c);
    unsetenv("DIKAST_CRASH_AT");
    str_release(&c.want);
    str_release(&dir);
    str_release(&want);
}

/* One loss of one rank is no number: the step is skipped by all, and nothing else is different. */
static void test_not_finite(void **state) {
    (void)state;
    Str dir = {0}, want = {0};
    fresh_dir(&dir, "ranks_alone");
    Case c = {.backend = "cpu", .kind = KIND_LM, .accum = 6, .steps = 5, .dir = dir.s};
    setenv("DIKAST_CRASH_AT", "train.skip:*:3", 1);
    alone(&c, &want);
    for (int ranks = 2; ranks <= 4; ranks++) {
        fresh_dir(&dir, "ranks_nan");
        c.dir = dir.s, c.shard = ranks - 2, c.overlap = ranks > 2;
        setenv("DIKAST_CRASH_AT", "train.nan:1:3", 1);
        with_ranks(ranks, equal_rank, &c);
    }
    unsetenv("DIKAST_CRASH_AT");
    str_release(&c.want);
    str_release(&dir);
    str_release(&want);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_equal),          cmocka_unit_test(test_stages),
                                       cmocka_unit_test(test_bytes),          cmocka_unit_test(test_states),
                                       cmocka_unit_test(test_changed_weight), cmocka_unit_test(test_not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
