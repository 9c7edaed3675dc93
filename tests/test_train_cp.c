// layer: train
/* Ranks that divide the rows of every micro-batch: rows have the bits of one rank, what is trained follows it to
 * rounding, they send exactly what the formulas say, and a sequence fits that one of them alone has no room for. */
#include "train_fixture.h"

#include "nn/cut.h"
#include "nn/lora.h"
#include "tp_help.h"
#include "train/batch.h"

typedef enum { KIND_LM, KIND_DPO, KIND_PM, KIND_CLASSIFIER, KIND_MLM } Kind;

typedef struct {
    const char *backend;
    Family family;
    bool tied;
    Kind kind;
    int cp, dp, tp, pp;
    bool shard;
    Keep keep;
    int window;
    bool lora; /* an adapter is trained beside a frozen model */
} Case;

typedef struct {
    Case c;
    int accum, steps;
    bool saves;
    int64_t break_at; /* the data end before this micro-batch, on all ranks; 0: never */
    Str dir;
    Whole want, got;
    int n_wrong;
    pthread_mutex_t lock;
    CommCount sent[8][2]; /* by rank, of group cp: all_to_all, all_gather */
} Run;

typedef struct {
    Fixture f;
    SampleSet set;
    ObjLm *lm;
    ObjPm *pm;
    ObjDpo *dpo;
    Adapter *adapter;
    Objective obj, whole; /* whole: obj before its data were made to end */
    double *ref;
    int64_t break_at;
} Job;

static HeadKind head_of(const Case *c) {
    return c->kind == KIND_PM || c->kind == KIND_CLASSIFIER ? HEAD_SCORE : HEAD_LM;
}

static void job_samples(Job *j, const Case *c) {
    if (c->kind == KIND_LM || c->kind == KIND_MLM)
        lm_samples(&j->set, 60);
    else
        pm_samples(&j->set, 40, false, 1);
    if (c->kind == KIND_CLASSIFIER) j->set.group = 1;
    if (c->kind != KIND_DPO) return;
    for (int64_t i = 0; i < j->set.off[j->set.n]; i++) j->set.weight[i] = 1;
    for (int64_t i = 0; i < j->set.n; i++) j->set.weight[j->set.off[i]] = 0;
    j->ref = mem_alloc((size_t)j->set.n * sizeof *j->ref);
    for (int64_t i = 0; i < j->set.n; i++) j->ref[i] = -3.0 - 0.25 * (double)(i % 7); /* some reference or other */
}

static bool job_open(Job *j, const Case *c, const Mesh *mesh, Error *err) {
    *j = (Job){.lm = NULL};
    ModelConfig cfg = tp_config(c->family, c->tied);
    HeadKind head = head_of(c);
    Fixture *f = &j->f;
    cfg.window = c->window;
    job_samples(j, c);
    if (!pool_open(&f->pool, 1, err) || !backend_open(&f->be, c->backend, f->pool, NULL, err) ||
        !model_init_on(&f->m, f->be, &cfg, mesh, SEED, !c->lora, err) ||
        !head_init(&f->h, &f->m, head, head == HEAD_LM ? cfg.n_vocab : 1, SEED, !c->lora, err))
        return false;
    static const char *const targets[] = {"q_proj", "v_proj", "o_proj", "down_proj"};
    const LoraConfig lora = {.r = 3, .alpha = 6, .target = targets, .n_target = COUNT_OF(targets), .base = "base"};
    if (c->lora && !adapter_init(&j->adapter, &f->m, &lora, SEED, true, err)) return false;
    f->net = (Net){&f->m, &f->h, j->adapter};
    tp_shake(f->net);
    DpoConfig d = {{0.1, 0, false}, false, false};
    switch (c->kind) {
    case KIND_LM:
        return obj_lm_open(&j->lm, &j->obj, &j->set, 64, SEED, err);
    case KIND_MLM:
        return obj_mlm_open(&j->lm, &j->obj, &j->set, 64, SEED, 2, 3, cfg.n_vocab, 0.3, err);
    case KIND_DPO:
        return obj_dpo_open(&j->dpo, &j->obj, &j->set, j->ref, 64, SEED, &d, err);
    case KIND_PM:
        return obj_pm_open(&j->pm, &j->obj, &j->set, 64, SEED, END, 0.01, err);
    case KIND_CLASSIFIER:
        return obj_classifier_open(&j->pm, &j->obj, &j->set, 64, SEED, END, err);
    }
    return false;
}

static bool broken_micro(void *self, int64_t number, Batch *b, Error *err) {
    Job *j = self;
    if (number >= j->break_at) return error_set(err, ERR_FORMAT, "no micro-batch %d", (int)number);
    return j->whole.micro(j->whole.self, number, b, err);
}

static double broken_loss(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m) {
    Job *j = self;
    return j->whole.loss(j->whole.self, be, b, first, out, weight, m);
}

static void break_data(Job *j, int64_t at) {
    j->whole = j->obj, j->break_at = at;
    j->obj.self = j, j->obj.micro = broken_micro, j->obj.loss = broken_loss, j->obj.wait_s = NULL;
}

static void job_close(Job *j) {
    obj_lm_close(j->lm);
    obj_pm_close(j->pm);
    obj_dpo_close(j->dpo);
    samples_release(&j->set);
    free(j->ref);
    adapter_close(j->adapter);
    close_all(&j->f);
}

static TrainConfig config_of(const Run *run, const Mesh *mesh) {
    TrainConfig t = config(run->steps, 1e-3);
    t.accum = run->accum;
    t.mesh = mesh;
    t.keep = run->c.keep;
    t.state_steps = mesh && run->saves ? 5 : 0;
    t.shard = mesh && run->c.shard;
    t.optim.clip = 0.05; /* always at work */
    t.optim.eps =
        1e-4; /* AdamW divides a gradient that is all rounding by its own size: in F32 this bounds what that says */
    return t;
}

static bool open_mesh(Mesh *m, const Case *c, Comm *world, Error *err) {
    return mesh_open(m, world, NULL, c->tp > 0 ? c->tp : 1, c->cp, c->pp > 0 ? c->pp : 1, err);
}

static int ranks_of(const Case *c) { return c->cp * c->dp * (c->tp > 0 ? c->tp : 1) * (c->pp > 0 ? c->pp : 1); }

static void cp_rank(Rank *r) {
    Run *run = r->ud;
    Error err = {0};
    Job j;
    Mesh mesh;
    Trainer *t = NULL;
    bool ok = open_mesh(&mesh, &run->c, r->world, &err) && job_open(&j, &run->c, &mesh, &err);
    if (!ok) snprintf(r->wrong, sizeof r->wrong, "rank %d: %.300s", r->rank, err.msg);
    if (!ok) return;
    TrainConfig tc = config_of(run, &mesh);
    if (run->break_at) break_data(&j, run->break_at);
    ok = trainer_open(&t, j.f.net, &tc, &j.obj, NULL, NULL, &err) && trainer_run(t, run->dir.s, &err);
    if (run->break_at)
        expect(r, !ok && err.code == ERR_FORMAT);
    else if (!ok)
        snprintf(r->wrong, sizeof r->wrong, "rank %d: %.300s", r->rank, err.msg);
    trainer_close(t);
    pthread_mutex_lock(&run->lock);
    if (!run->break_at) run->n_wrong += whole_fill(&run->got, j.f.net, false);
    pthread_mutex_unlock(&run->lock);
    run->sent[r->rank][0] = comm_count(mesh.cp, COMM_ALL_TO_ALL);
    run->sent[r->rank][1] = comm_count(mesh.cp, COMM_ALL_GATHER);
    job_close(&j);
}

static void run_open(Run *run, Case c, int accum, int steps) {
    *run = (Run){.c = c, .accum = accum, .steps = steps};
    pthread_mutex_init(&run->lock, NULL);
}

static void run_close(Run *run) {
    whole_free(&run->want);
    whole_free(&run->got);
    str_release(&run->dir);
    pthread_mutex_destroy(&run->lock);
}

static void run_alone(Run *run, Str *metrics) {
    Job j;
    Error err = {0};
    fresh_dir(&run->dir, "cp_alone");
    must(job_open(&j, &run->c, NULL, &err), &err);
    TrainConfig tc = config_of(run, NULL);
    run_ok(&j.f, &tc, &j.obj, run->dir.s, NULL);
    assert_int_equal(whole_fill(&run->want, j.f.net, false), 0);
    job_close(&j);
    read_metrics(metrics, run->dir.s);
}

static void run_divided(Run *run, Str *metrics) {
    fresh_dir(&run->dir, "cp_divided");
    with_ranks(ranks_of(&run->c), cp_rank, run);
    assert_int_equal(run->n_wrong, 0); /* all hold equal bits */
    read_metrics(metrics, run->dir.s);
}

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
    run_open(&run, c, 2 * c.dp, 20);
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
        {"ref", FAMILY_LLAMA, false, KIND_LM, 2, 1, 1, 1, false, KEEP_ALL, 0, false},
        {"ref", FAMILY_GPT2, true, KIND_LM, 4, 1, 1, 1, false, KEEP_INPUTS, 0, false},
        {"ref", FAMILY_QWEN3, false, KIND_DPO, 2, 2, 1, 1, true, KEEP_ALL, 5, false},
        {"ref", FAMILY_QWEN2, true, KIND_PM, 4, 1, 1, 1, false, KEEP_ALL, 0, false},
        {"ref", FAMILY_GPT2, false, KIND_CLASSIFIER, 3, 1, 1, 1, true, KEEP_ALL, 0, false},
        {"ref", FAMILY_LLAMA, false, KIND_MLM, 2, 1, 1, 1, false, KEEP_ALL, 0, false},
        {"ref", FAMILY_LLAMA, true, KIND_LM, 3, 1, 1, 1, false, KEEP_INPUTS, 0, true},
        {"cpu", FAMILY_LLAMA, true, KIND_LM, 2, 2, 1, 1, true, KEEP_ALL, 0, false},
        {"cpu", FAMILY_GPT2, true, KIND_LM, 4, 2, 1, 1, false, KEEP_INPUTS, 0, false},
        {"cpu", FAMILY_QWEN3, true, KIND_DPO, 4, 1, 1, 1, false, KEEP_ALL, 7, false},
        {"cpu", FAMILY_QWEN2, true, KIND_PM, 2, 1, 1, 1, false, KEEP_ALL, 0, false},
        {"cpu", FAMILY_LLAMA, false, KIND_MLM, 4, 1, 1, 1, false, KEEP_ALL, 0, false},
        {"ref", FAMILY_LLAMA, true, KIND_LM, 2, 1, 2, 1, false, KEEP_ALL, 0, false},
        {"ref", FAMILY_LLAMA, true, KIND_LM, 2, 1, 1, 2, false, KEEP_ALL, 0, false},
        {"ref", FAMILY_QWEN3, false, KIND_PM, 2, 2, 1, 2, true, KEEP_INPUTS, 0, false},
        {"cpu", FAMILY_QWEN3, true, KIND_LM, 2, 1, 2, 2, true, KEEP_ALL, 0, false},
        {"ref", FAMILY_LLAMA, false, KIND_DPO, 2, 1, 2, 2, false, KEEP_ALL, 0, false},
    };
    for (int i = 0; i < COUNT_OF(row); i++) check_case(row[i]);
}

/* -- what they send */

/* What a step's micro-batches come to for rank me of c, of group cp. */
typedef struct {
    CommCount back, gather; /* all_to_all of gradients of keys; all_gather of keys and of what heads say */
} Sent;

/* One micro-batch: keys and values are gathered twice a layer, their gradients go back once; 8 bytes a chosen row. */
static void add_traffic(Sent *s, const ModelConfig *m, const Batch *b, int me, int c, int64_t bytes) {
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
    run_open(&run, c, 2 * c.dp, 3);
    run_divided(&run, &ignore);
    must(job_open(&j, &c, NULL, &err), &err);
    ModelConfig m = tp_config(c.family, c.tied);
    int64_t bytes = (int64_t)dtype_bytes(j.f.be->real), all = 0, rows = 0, chosen = 0;
    for (int d = 0; d < c.dp; d++)
        for (int r = 0; r < c.cp; r++) {
            Sent s = {.back = {0, 0}};
            for (int64_t step = 0; step < run.steps; step++)
                for (int i = d * run.accum / c.dp; i < (d + 1) * run.accum / c.dp; i++) {
                    Batch b;
                    must(j.obj.micro(j.obj.self, step * run.accum + i, &b, &err), &err);
                    if (b.n_row == 0) continue;
                    add_traffic(&s, &m, &b, r, c.cp, bytes);
                    rows += r == 0 ? b.n_tok : 0, chosen += r == 0 ? b.n_row : 0;
                }
            const CommCount *sent = run.sent[d * c.cp + r];
            assert_int_equal(sent[0].calls, s.back.calls);
            assert_int_equal(sent[0].bytes, s.back.bytes);
            assert_int_equal(sent[1].calls, s.gather.calls);
            assert_int_equal(sent[1].bytes, s.gather.bytes);
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
        {"cpu", FAMILY_LLAMA, false, KIND_LM, 2, 1, 1, 1, false, KEEP_ALL, 0, false},
        {"cpu", FAMILY_GPT2, true, KIND_LM, 4, 2, 1, 1, true, KEEP_INPUTS, 0, false},
        {"ref", FAMILY_QWEN3, true, KIND_DPO, 3, 1, 1, 1, false, KEEP_ALL, 0, false},
        {"cpu", FAMILY_QWEN2, true, KIND_PM, 4, 1, 1, 1, false, KEEP_ALL, 0, false},
    };
    for (int i = 0; i < COUNT_OF(row); i++) check_bytes(row[i]);
}

/* -- layouts */

/* Saved by one layout, gone on with by another. */
static void test_states(void **state) {
    (void)state;
    static const Case row[][2] = {
        {{.cp = 2, .dp = 2, .shard = true}, {.cp = 1, .dp = 2}},
        {{.cp = 1, .dp = 2, .shard = true}, {.cp = 4, .dp = 1, .shard = true}},
        {{.cp = 4, .dp = 1}, {.cp = 2, .dp = 1, .tp = 2, .pp = 2, .shard = true}},
    };
    for (int i = 0; i < COUNT_OF(row); i++) {
        Run run;
        Str want = {0}, got = {0};
        const char *worst;
        bool ignore;
        run_open(&run, (Case){.backend = "ref", .family = i % 2 ? FAMILY_LLAMA : FAMILY_GPT2, .tied = true}, 4, 20);
        run_alone(&run, &want);
        fresh_dir(&run.dir, "cp_states");
        run.saves = true;
        for (int k = 0; k < 2; k++) {
            Case to = row[i][k];
            to.backend = run.c.backend, to.family = run.c.family, to.tied = true;
            run.c = to;
            run.break_at = k == 0 ? 4 * 12 + 2 : 0; /* the state is that of step 10 */
            with_ranks(ranks_of(&run.c), cp_rank, &run);
        }
        assert_int_equal(run.n_wrong, 0);
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
    bool ok = open_mesh(&mesh, &c, r->world, &err) && job_open(&j, &c, &mesh, &err);
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
        cmocka_unit_test(test_equal), cmocka_unit_test(test_bytes), cmocka_unit_test(test_states),
        cmocka_unit_test(test_stop),  cmocka_unit_test(test_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
