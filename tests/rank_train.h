/* tests/rank_train.h — a small net trained by one rank, and by ranks that share the work, the layers, the matrices or the rows of it: one job,
 * one way to spoil it, one account of what was sent. Tests say which layouts, and what must be equal.
 *
 * dp, pp and ZeRO change no bit: every rank's whole net is compared with that of one rank, byte for byte (Case.exact). Under tp and cp sums add up otherwise:
 * the ranks' parts come together in Run.got, equal ones must have equal bits, and the test bounds the distance from Run.want. */
#ifndef DIKAST_TESTS_RANK_TRAIN_H
#define DIKAST_TESTS_RANK_TRAIN_H

#include "train_fixture.h"

#include "nn/lora.h"
#include "nn/regroup.h"
#include "tp_help.h"
#include "train/batch.h"

typedef enum { KIND_LM, KIND_DPO, KIND_PM, KIND_CLASSIFIER, KIND_MLM } Kind;

typedef struct {            /* 0: what most want */
    const char *backend;    /* "ref", "cpu", "cuda"; "bf16": cpu with BF16 weights */
    Family family;
    bool tied;
    Kind kind;
    int tp, dp;             /* 0: as 1 */
    int shard;              /* ZeRO stage */
    Keep keep;
    int pp;
    bool half;              /* BF16 weights and products */
    int cp;
    int window;
    bool lora;              /* an adapter is trained beside a frozen model */
    int layers;             /* 0: 2 */
    bool windows;           /* layers 0 and 3 look back over everything, the others 8 positions */
    bool panels;            /* every size a multiple of a panel: stored elements are parameters */
    bool exact;             /* ranks must have the bits of one; trained at a high rate with the usual clipping, else so that rounding is not blown up */
    bool measured;          /* DPO's reference: the net's own log-probs, else some or other */
    bool overlap;
    int accum, steps;
    int64_t state_steps, compare_every;
    int stop_at, fail_at;   /* rank 1 asks to stop, its data break, in this micro-batch that it reads; 0: never */
    int64_t break_at;       /* the data end before this micro-batch, on all ranks; 0: never */
    int64_t nan_at;         /* this micro-batch's loss is not finite, whoever computes it; 0: none is */
    const char *says;       /* ranks find themselves unequal, with these words */
} Case;

enum { RUN_RANKS = 8 };
typedef struct {            /* by group, and the gradients' stored elements that the rank has: panels count whole */
    CommCount dp[COMM_OP_COUNT], tp[COMM_OP_COUNT], cp[COMM_OP_COUNT], pp[COMM_OP_COUNT], ends[COMM_OP_COUNT];
    int64_t elements;
} Sent;

typedef struct {
    Case c;
    Str dir, bytes;         /* of metrics and states; one rank's weights */
    Whole want, got;
    int n_wrong;            /* elements of which ranks that have the same one hold other bits */
    Sent sent[RUN_RANKS];
    pthread_mutex_t lock;
} Run;

static inline int at_least_1(int n) { return n > 1 ? n : 1; }
static inline int ranks_of(const Case *c) { return at_least_1(c->tp) * at_least_1(c->cp) * at_least_1(c->pp) * at_least_1(c->dp); }
static inline bool mesh_of(Mesh *m, const Case *c, Comm *world, Error *err) {
    return mesh_open(m, world, NULL, at_least_1(c->tp), at_least_1(c->cp), at_least_1(c->pp), err);
}

/* -- the job */

typedef struct {
    Fixture f;
    SampleSet set;
    ObjLm *lm;
    ObjPm *pm;
    ObjDpo *dpo;
    Adapter *adapter;
    Objective obj, real;    /* real: obj before it was spoiled */
    double *ref;
    const Case *c;
    bool first;             /* rank 1: stop_at and fail_at are meant */
    Stop *stop;
    int n_read;
    int64_t number;
} Job;

static inline HeadKind head_of(const Case *c) { return c->kind == KIND_PM || c->kind == KIND_CLASSIFIER ? HEAD_SCORE : HEAD_LM; }

static inline ModelConfig case_config(const Case *c) {
    ModelConfig m = tp_config(c->family, c->tied);
    if (c->panels) m.n_head = 4, m.n_kv_head = c->family == FAMILY_GPT2 ? 4 : 2, m.d_head = 8, m.d_ff = 64, m.n_vocab = 32;
    if (c->layers > 0) m.n_layer = c->layers;
    m.window = c->windows ? 8 : c->window;
    if (c->windows) m.unwindowed[0] = 9;
    return m;
}

static inline bool case_backend(Fixture *f, const Case *c, Error *err) {
    bool half = c->half || !strcmp(c->backend, "bf16");
    return pool_open(&f->pool, 1, err) && backend_open(&f->be, !strcmp(c->backend, "bf16") ? "cpu" : c->backend, f->pool, NULL, err) &&
           (!half || backend_set_dtype(f->be, DTYPE_BF16, err));
}

static inline bool case_net(Fixture *f, const Case *c, const Mesh *mesh, bool grads, Error *err) {
    ModelConfig m = case_config(c);
    HeadKind head = head_of(c);
    f->net = (Net){&f->m, &f->h, NULL};
    return model_init_on(&f->m, f->be, &m, mesh, SEED, grads, err) && head_init(&f->h, &f->m, head, head == HEAD_LM ? m.n_vocab : 1, SEED, grads, err);
}

/* A whole net, as whoever only reads has it. */
static inline bool measure_reference(Job *j, const Case *c, Error *err) {
    Fixture whole = {.be = j->f.be};
    bool ok = case_net(&whole, c, NULL, false, err);
    if (ok) tp_shake(whole.net);
    ok = ok && obj_dpo_reference(j->ref, &j->set, whole.net, 64, err);
    head_release(&whole.h);
    model_release(&whole.m);
    return ok;
}

static inline bool job_samples(Job *j, const Case *c, Error *err) {
    if (c->kind == KIND_LM || c->kind == KIND_MLM)
        lm_samples(&j->set, 60);
    else
        pm_samples(&j->set, 40, false, 1);
    if (c->kind == KIND_CLASSIFIER) j->set.group = 1;
    if (c->kind != KIND_DPO) return true;
    for (int64_t i = 0; i < j->set.off[j->set.n]; i++) j->set.weight[i] = 1;
    for (int64_t i = 0; i < j->set.n; i++) j->set.weight[j->set.off[i]] = 0;
    j->ref = mem_alloc((size_t)j->set.n * sizeof *j->ref);
    if (c->measured) return measure_reference(j, c, err);
    for (int64_t i = 0; i < j->set.n; i++) j->ref[i] = -3.0 - 0.25 * (double)(i % 7);
    return true;
}

static inline bool job_objective(Job *j, const Case *c, Error *err) {
    const DpoConfig d = {{0.1, 0, false}, false, c->measured};
    switch (c->kind) {
    case KIND_LM:
        return obj_lm_open(&j->lm, &j->obj, &j->set, 64, SEED, err);
    case KIND_MLM:
        return obj_mlm_open(&j->lm, &j->obj, &j->set, 64, SEED, 2, 3, j->f.m.whole.n_vocab, 0.3, err);
    case KIND_DPO:
        return obj_dpo_open(&j->dpo, &j->obj, &j->set, j->ref, 64, SEED, &d, err);
    case KIND_PM:
        return obj_pm_open(&j->pm, &j->obj, &j->set, 64, SEED, END, 0.01, err);
    case KIND_CLASSIFIER:
        return obj_classifier_open(&j->pm, &j->obj, &j->set, 64, SEED, END, err);
    }
    return false;
}

static inline bool job_open(Job *j, const Case *c, const Mesh *mesh, Error *err) {
    *j = (Job){.c = c};
    static const char *const targets[] = {"q_proj", "v_proj", "o_proj", "down_proj"};
    const LoraConfig lora = {.r = 3, .alpha = 6, .target = targets, .n_target = COUNT_OF(targets), .base = "base"};
    if (!case_backend(&j->f, c, err) || !case_net(&j->f, c, mesh, !c->lora, err) ||
        (c->lora && !adapter_init(&j->adapter, &j->f.m, &lora, SEED, true, err)))
        return false;
    j->f.net.adapter = j->adapter;
    tp_shake(j->f.net);
    return job_samples(j, c, err) && job_objective(j, c, err);
}

static inline void job_close(Job *j) {
    obj_lm_close(j->lm);
    obj_pm_close(j->pm);
    obj_dpo_close(j->dpo);
    samples_release(&j->set);
    stop_close(j->stop);
    free(j->ref);
    adapter_close(j->adapter);
    close_all(&j->f);
}

/* -- spoiling it */

static inline bool spoiled_micro(void *self, int64_t number, Batch *b, Error *err) {
    Job *j = self;
    const Case *c = j->c;
    j->n_read++;
    j->number = number;
    if (j->first && j->n_read == c->stop_at) stop_request(j->stop);
    if (j->first && j->n_read == c->fail_at) return error_set(err, ERR_FORMAT, "pack %d is broken", j->n_read);
    if (c->break_at && number >= c->break_at) return error_set(err, ERR_FORMAT, "no micro-batch %d", (int)number);
    return j->real.micro(j->real.self, number, b, err);
}

static inline double spoiled_loss(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m) {
    Job *j = self;
    double loss = j->real.loss(j->real.self, be, b, first, out, weight, m);
    return j->c->nan_at && j->number == j->c->nan_at ? NAN : loss;
}

static inline void spoiled_look(void *self, Backend *be, const Batch *b, int first, Tensor out) {
    Job *j = self;
    j->real.look(j->real.self, be, b, first, out);
}

static inline bool spoil(Job *j, int rank, Error *err) {
    const Case *c = j->c;
    if (!c->stop_at && !c->fail_at && !c->break_at && !c->nan_at) return true;
    j->first = rank == 1;
    j->real = j->obj;
    j->obj.self = j, j->obj.micro = spoiled_micro, j->obj.loss = spoiled_loss, j->obj.wait_s = NULL;
    if (j->obj.look) j->obj.look = spoiled_look;
    return !c->stop_at || rank != 1 || stop_open(&j->stop, err);
}

static inline ErrorCode case_ends(const Case *c) {
    return c->stop_at ? ERR_STOPPED : c->fail_at || c->break_at ? ERR_FORMAT : c->says ? ERR_STATE : ERR_NONE;
}

/* -- training it */

static inline TrainConfig case_train(const Case *c, const Mesh *mesh) {
    TrainConfig t = config(c->steps, c->exact ? 1e-2 : 1e-3);
    t.accum = c->accum;
    t.mesh = mesh;
    t.keep = c->keep;
    t.shard = mesh ? c->shard : 0;
    t.overlap = mesh && c->overlap;
    t.state_steps = mesh ? c->state_steps : 0;
    t.compare_every = c->compare_every;
    if (c->exact) return t;
    t.optim.clip = 0.05; /* always at work */
    t.optim.eps = 1e-4;  /* AdamW divides a gradient that is all rounding by its own size: in F32 this bounds what that says */
    return t;
}

typedef struct { Backend *be; Str *out; } RawBytes;
static inline void put_raw(void *ud, int index, const ParamInfo *p) {
    RawBytes *b = ud;
    size_t n = tensor_raw_bytes(p->w);
    void *x = mem_alloc(n + 1);
    (void)index;
    tensor_get_raw(b->be, x, p->w);
    str_putn(b->out, x, n);
    free(x);
}

/* All weights as they are stored, behind what is in *out; of a net in parts those of the whole. */
static inline bool net_bytes(Str *out, Net net, const Mesh *mesh, Error *err) {
    Regroup *r = NULL;
    if (!model_is_whole(net.trunk) && (!regroup_open(&r, net, mesh, true, err) || !regroup_refresh(r, err))) {
        regroup_close(r);
        return false;
    }
    net_visit(r ? regroup_net(r) : net, put_raw, &(RawBytes){net.trunk->be, out});
    regroup_close(r);
    return true;
}

/* The copy of a tied embedding is what it is a copy of. */
static inline bool same_copy(Net part, const Str *whole) {
    const Head *h = part.head;
    if (!h->copy) return true;
    size_t n = tensor_raw_bytes(h->w);
    for (size_t at = 0; at + n <= whole->n; at += 4)
        if (!memcmp(whole->s + at, h->w.data, n)) return true;
    return false;
}

static inline void count_elements(void *ud, int index, const ParamInfo *p) {
    (void)index;
    if (!tensor_empty(p->dw)) *(int64_t *)ud += tensor_count(tensor_storage(p->dw));
}

static inline void count_sent(Sent *s, const Mesh *m, Net net) {
    *s = (Sent){.elements = 0};
    net_visit(net, count_elements, &s->elements);
    for (CommOp op = 0; op < COMM_OP_COUNT; op++) {
        s->dp[op] = comm_count(m->dp, op), s->tp[op] = comm_count(m->tp, op), s->cp[op] = comm_count(m->cp, op);
        s->pp[op] = comm_count(m->pp, op), s->ends[op] = comm_count(m->ends, op);
    }
}

static inline void judge_weights(Rank *r, Run *run, Net net, const Mesh *mesh) {
    Error err = {0};
    Str got = {0};
    pthread_mutex_lock(&run->lock);
    run->n_wrong += whole_fill(&run->got, net, false);
    pthread_mutex_unlock(&run->lock);
    if (!run->c.exact) return;
    expect(r, net_bytes(&got, net, mesh, &err));
    expect(r, got.n == run->bytes.n && !memcmp(got.s, run->bytes.s, got.n));
    expect(r, same_copy(net, &got));
    str_release(&got);
}

static inline void judge_error(Rank *r, const Case *c, bool ok, const Error *err) {
    expect(r, !ok && err->code == case_ends(c));
    if (c->fail_at) expect(r, strstr(err->msg, "is broken") && (r->rank == 1 || strstr(err->msg, "rank 1: ")));
    if (c->says && !strstr(err->msg, c->says) && !r->wrong[0])
        snprintf(r->wrong, sizeof r->wrong, "'%.200s' is not in: %.150s", c->says, err->msg);
}

static inline void run_rank(Rank *r) {
    Run *run = r->ud;
    const Case *c = &run->c;
    Error err = {0};
    Job j = {.lm = NULL};
    Mesh mesh;
    Trainer *t = NULL;
    comm_deadline(r->world, 100); /* of ranks that wait for each other */
    bool ok = mesh_of(&mesh, c, r->world, &err) && job_open(&j, c, &mesh, &err) && spoil(&j, r->rank, &err);
    TrainConfig tc = case_train(c, &mesh);
    ok = ok && trainer_open(&t, j.f.net, &tc, &j.obj, NULL, j.stop, &err);
    bool opened = ok;
    ok = ok && trainer_run(t, run->dir.s, &err);
    trainer_close(t);
    if (opened) count_sent(&run->sent[r->rank], &mesh, j.f.net);
    if (opened && case_ends(c) != ERR_NONE)
        judge_error(r, c, ok, &err);
    else if (!ok)
        snprintf(r->wrong, sizeof r->wrong, "rank %d: %.300s", r->rank, err.msg);
    else
        judge_weights(r, run, j.f.net, &mesh);
    job_close(&j);
}

static inline void run_open(Run *run, const Case *c) {
    *run = (Run){.c = *c};
    pthread_mutex_init(&run->lock, NULL);
}

static inline void run_close(Run *run) {
    whole_free(&run->want);
    whole_free(&run->got);
    str_release(&run->dir);
    str_release(&run->bytes);
    pthread_mutex_destroy(&run->lock);
}

/* By one rank, whose weights the others' are judged by. */
static inline void run_alone(Run *run, Str *metrics) {
    Job j;
    Error err = {0};
    fresh_dir(&run->dir, "alone");
    must(job_open(&j, &run->c, NULL, &err) && spoil(&j, 0, &err), &err);
    TrainConfig tc = case_train(&run->c, NULL);
    run_ok(&j.f, &tc, &j.obj, run->dir.s, NULL);
    whole_free(&run->want);
    assert_int_equal(whole_fill(&run->want, j.f.net, false), 0);
    str_clear(&run->bytes);
    must(net_bytes(&run->bytes, j.f.net, NULL, &err), &err);
    job_close(&j);
    read_metrics(metrics, run->dir.s);
}

/* By the ranks of run->c, in the folder as it is. */
static inline void run_ranks(Run *run) {
    with_ranks(ranks_of(&run->c), run_rank, run);
    assert_int_equal(run->n_wrong, 0); /* replicas, of divided tensors and of whole ones, hold equal bits */
}

static inline void run_divided(Run *run, Str *metrics) {
    fresh_dir(&run->dir, "divided");
    run_ranks(run);
    read_metrics(metrics, run->dir.s);
}

#endif
