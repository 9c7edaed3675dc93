/* tests/tp_train.h — a model trained by one rank, and by ranks that share it. */
#ifndef DIKAST_TESTS_TP_TRAIN_H
#define DIKAST_TESTS_TP_TRAIN_H

#include "train_fixture.h"

#include "tp_help.h"
#include "train/batch.h"

typedef enum { KIND_LM, KIND_DPO, KIND_PM, KIND_CLASSIFIER } Kind;

typedef struct {
    const char *backend;
    Family family;
    bool tied;
    Kind kind;
    int tp, dp;
    int shard; /* ZeRO stage */
    Keep keep;
    int pp;    /* 0: one stage */
    bool half; /* BF16 weights and products */
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
    CommCount sent[8][2]; /* by rank, of group tp: all_to_all, all_gather */
} Run;

typedef struct {
    Fixture f;
    SampleSet set;
    ObjLm *lm;
    ObjPm *pm;
    ObjDpo *dpo;
    Objective obj;
    double *ref;
    Objective whole; /* obj before its data were made to end */
    int64_t break_at;
} Job;

static inline HeadKind head_of(const Case *c) { return c->kind == KIND_LM || c->kind == KIND_DPO ? HEAD_LM : HEAD_SCORE; }

static inline void job_samples(Job *j, const Case *c) {
    if (c->kind == KIND_LM)
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

static inline bool job_open(Job *j, const Case *c, const Mesh *mesh, Error *err) {
    *j = (Job){.lm = NULL};
    ModelConfig cfg = tp_config(c->family, c->tied);
    HeadKind head = head_of(c);
    Fixture *f = &j->f;
    job_samples(j, c);
    if (!pool_open(&f->pool, 1, err) || !backend_open(&f->be, c->backend, f->pool, NULL, err) ||
        (c->half && !backend_set_dtype(f->be, DTYPE_BF16, err)) ||
        !model_init_on(&f->m, f->be, &cfg, mesh, SEED, true, err) ||
        !head_init(&f->h, &f->m, head, head == HEAD_LM ? cfg.n_vocab : 1, SEED, true, err))
        return false;
    f->net = (Net){&f->m, &f->h, NULL};
    tp_shake(f->net);
    DpoConfig d = {{0.1, 0, false}, false, false};
    switch (c->kind) {
    case KIND_LM:
        return obj_lm_open(&j->lm, &j->obj, &j->set, 64, SEED, err);
    case KIND_DPO:
        return obj_dpo_open(&j->dpo, &j->obj, &j->set, j->ref, 64, SEED, &d, err);
    case KIND_PM:
        return obj_pm_open(&j->pm, &j->obj, &j->set, 64, SEED, END, 0.01, err);
    case KIND_CLASSIFIER:
        return obj_classifier_open(&j->pm, &j->obj, &j->set, 64, SEED, END, err);
    }
    return false;
}

static inline bool broken_micro(void *self, int64_t number, Batch *b, Error *err) {
    Job *j = self;
    if (number >= j->break_at) return error_set(err, ERR_FORMAT, "no micro-batch %d", (int)number);
    return j->whole.micro(j->whole.self, number, b, err);
}

static inline double broken_loss(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m) {
    Job *j = self;
    return j->whole.loss(j->whole.self, be, b, first, out, weight, m);
}

static inline void break_data(Job *j, int64_t at) {
    j->whole = j->obj, j->break_at = at;
    j->obj.self = j, j->obj.micro = broken_micro, j->obj.loss = broken_loss, j->obj.wait_s = NULL;
}

static inline void job_close(Job *j) {
    obj_lm_close(j->lm);
    obj_pm_close(j->pm);
    obj_dpo_close(j->dpo);
    samples_release(&j->set);
    free(j->ref);
    close_all(&j->f);
}

static inline TrainConfig config_of(const Run *run, const Mesh *mesh) {
    TrainConfig t = config(run->steps, 1e-3);
    t.accum = run->accum;
    t.mesh = mesh;
    t.keep = run->c.keep;
    t.state_steps = mesh && run->saves ? 5 : 0;
    t.shard = mesh ? run->c.shard : 0;
    t.overlap = mesh && run->c.shard != 1;
    t.optim.clip = 0.05; /* always at work */
    t.optim.eps =
        1e-4; /* AdamW divides a gradient that is all rounding by its own size: in F32 this bounds what that says */
    return t;
}

static inline void tp_rank(Rank *r) {
    Run *run = r->ud;
    Error err = {0};
    Job j;
    Mesh mesh;
    Trainer *t = NULL;
    bool ok = mesh_open(&mesh, r->world, NULL, run->c.tp, 1, run->c.pp > 0 ? run->c.pp : 1, &err) &&
              job_open(&j, &run->c, &mesh, &err);
    expect(r, ok);
    TrainConfig tc = config_of(run, &mesh);
    if (run->break_at) break_data(&j, run->break_at);
    ok = ok && trainer_open(&t, j.f.net, &tc, &j.obj, NULL, NULL, &err) && trainer_run(t, run->dir.s, &err);
    if (run->break_at)
        expect(r, !ok && err.code == ERR_FORMAT);
    else if (!ok)
        snprintf(r->wrong, sizeof r->wrong, "rank %d: %.300s", r->rank, err.msg);
    trainer_close(t);
    pthread_mutex_lock(&run->lock);
    if (!run->break_at) run->n_wrong += whole_fill(&run->got, j.f.net, false);
    pthread_mutex_unlock(&run->lock);
    run->sent[r->rank][0] = comm_count(mesh.tp, COMM_ALL_TO_ALL);
    run->sent[r->rank][1] = comm_count(mesh.tp, COMM_ALL_GATHER);
    job_close(&j);
}

static inline void run_open(Run *run, Case c, int accum, int steps) {
    *run = (Run){.c = c, .accum = accum, .steps = steps};
    pthread_mutex_init(&run->lock, NULL);
}

static inline void run_close(Run *run) {
    whole_free(&run->want);
    whole_free(&run->got);
    str_release(&run->dir);
    pthread_mutex_destroy(&run->lock);
}

static inline void run_alone(Run *run, Str *metrics) {
    Job j;
    Error err = {0};
    fresh_dir(&run->dir, "tp_alone");
    must(job_open(&j, &run->c, NULL, &err), &err);
    TrainConfig tc = config_of(run, NULL);
    run_ok(&j.f, &tc, &j.obj, run->dir.s, NULL);
    assert_int_equal(whole_fill(&run->want, j.f.net, false), 0);
    job_close(&j);
    read_metrics(metrics, run->dir.s);
}

static inline void run_ranks(Run *run) { with_ranks(run->c.tp * run->c.dp * (run->c.pp > 0 ? run->c.pp : 1), tp_rank, run); }

static inline void run_divided(Run *run, Str *metrics) {
    fresh_dir(&run->dir, "tp_divided");
    run_ranks(run);
    assert_int_equal(run->n_wrong, 0); /* replicas, of divided tensors and of whole ones, hold equal bits */
    read_metrics(metrics, run->dir.s);
}

#endif
