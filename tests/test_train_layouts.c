// layer: train
/* A state saved by the ranks of any layout and gone on with by those of any other: weights and moments are those that
 * one rank saved, byte for byte, for all pairs. */
#include "rank_train.h"

#include "base/hash.h"
#include "nn/ckpt.h"

static const Case layouts[] = {
    {.tp = 1, .dp = 1},
    {.tp = 1, .dp = 3, .shard = 1},
    {.tp = 2, .dp = 1},
    {.tp = 1, .dp = 1, .pp = 2},
    {.tp = 4, .dp = 2, .shard = 1},
    {.tp = 2, .dp = 2, .pp = 2, .shard = 2},
    {.tp = 1, .dp = 2, .pp = 4, .shard = 1},
    {.tp = 2, .dp = 1, .pp = 4},
    {.tp = 1, .dp = 2, .pp = 2, .cp = 2, .shard = 1},
    {.tp = 1, .dp = 8, .shard = 2},
};
enum { N_LAYOUT = COUNT_OF(layouts), STEP = 7 };

typedef struct {
    Case c;
    Str from, to; /* folders; from empty: what a rank begins with */
} Move;

static void put_nothing(void *ud, JsonOut *j) { (void)ud, (void)j; }

/* Moments of each element that tell where it is, the same of every part. */
static void mark_moments(void *ud, const OptimPiece *p) {
    double *x = mem_alloc((size_t)(tensor_count(p->t) + 1) * sizeof *x);
    for (int64_t i = 0; i < p->t.rows; i++)
        for (int64_t k = 0; k < p->t.cols; k++) {
            int64_t at = (p->row + i) * p->cols + p->col + k;
            x[i * p->t.cols + k] =
                (double)(float)(1e-3 * (double)at + (double)p->kind + 0.25 * (double)strlen(p->name));
        }
    tensor_set(ud, p->t, x);
    free(x);
}

static void wipe(void *ud, int index, const ParamInfo *p) {
    Backend *be = ud;
    (void)index;
    be->op->zero(be, p->w);
}

static bool load_and_save(const Move *m, const Mesh *mesh, Error *err) {
    Job j = {.lm = NULL};
    Optim *o = NULL;
    State *s = NULL;
    const Json *progress;
    const Schedule once = {.kind = SCHED_CONSTANT, .total = 1};
    OptimConfig oc = {.lr = 1, .eps = 1e-8, .mesh = mesh, .shard = mesh ? m->c.shard : 0};
    bool ok = job_open(&j, &m->c, mesh, err) && optim_open(&o, &j.f.net, NULL, 1, &oc, err);
    StateView v = {
        .net = {{"net", j.f.net}}, .n_net = 1, .optim = o, .optim_net = {"net"}, .step = STEP, .metric = NAN};
    v.schedule = &once;
    if (ok && m->from.n > 0) {
        net_visit(j.f.net, wipe, j.f.be);
        ok = state_open(&s, m->from.s, &(StateConfig){0}, mesh, NULL, err) && state_find(s, &progress, err) &&
             (progress || error_set(err, ERR_STATE, "%s holds no state", m->from.s)) && state_load(s, &v, err);
        state_close(s);
        s = NULL;
    } else if (ok) {
        optim_visit(o, mark_moments, j.f.be);
    }
    ok = ok && state_open(&s, m->to.s, &(StateConfig){0}, mesh, NULL, err) &&
         state_save_last(s, &v, put_nothing, NULL, err);
    state_close(s);
    optim_close(o);
    job_close(&j);
    return ok;
}

static void move_rank(Rank *r) {
    const Move *m = r->ud;
    Error err = {0};
    Mesh mesh;
    comm_deadline(r->world, 100);
    if (!mesh_of(&mesh, &m->c, r->world, &err) || !load_and_save(m, &mesh, &err))
        snprintf(r->wrong, sizeof r->wrong, "rank %d: %.300s", r->rank, err.msg);
}

/* All tensors of the state in dir, in one file: its SHA-256. */
static void sum_of(char sha[65], const char *dir) {
    Str path = {0}, out = {0};
    Ckpt *c;
    Error err = {0};
    str_printf(&path, "%s/state/step-%08d", dir, STEP);
    str_printf(&out, "%s/one", dir);
    must(ckpt_open(&c, path.s, &err) && ckpt_reshard(c, out.s, 1, 0, &err), &err);
    ckpt_close(c);
    str_put(&out, "/shard-00000-of-00001.safetensors");
    must(sha256_file(sha, out.s, &err), &err);
    str_release(&path);
    str_release(&out);
}

static void check_all(const Case *base) {
    char want[65], got[65], name[32];
    Error err = {0};
    Move m = {.c = *base};
    Str first = {0};
    fresh_dir(&m.to, "one");
    must(load_and_save(&m, NULL, &err), &err);
    sum_of(want, m.to.s);
    str_put(&first, m.to.s);
    for (int a = 0; a < N_LAYOUT; a++)
        for (int b = -1; b < N_LAYOUT; b++) { /* -1: one rank's state, saved by layout a, which the others go on from */
            const Case *l = &layouts[b < 0 ? a : b];
            m.c = *base;
            m.c.tp = l->tp, m.c.dp = l->dp, m.c.pp = l->pp, m.c.cp = l->cp, m.c.shard = l->shard;
            str_clear(&m.from);
            if (b < 0)
                str_put(&m.from, first.s);
            else
                str_printf(&m.from, "%s/scratch/%s/from", BUILD_DIR, program_invocation_short_name);
            snprintf(name, sizeof name, b < 0 ? "from" : "to");
            fresh_dir(&m.to, name);
            with_ranks(ranks_of(&m.c), move_rank, &m);
            sum_of(got, m.to.s);
            if (strcmp(got, want)) fail_msg("layout %d, then %d: another state", a, b);
        }
    str_release(&first);
    str_release(&m.from);
    str_release(&m.to);
}

static void test_tied(void **state) {
    (void)state;
    check_all(&(Case){.backend = "cpu", .family = FAMILY_GPT2, .tied = true, .layers = 5});
}

/* BF16 weights with masters, which parts of a state are too. */
static void test_masters(void **state) {
    (void)state;
    check_all(&(Case){.backend = "bf16", .family = FAMILY_QWEN3, .layers = 4});
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tied), cmocka_unit_test(test_masters)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
