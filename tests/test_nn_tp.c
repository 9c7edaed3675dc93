// layer: nn
/* Tensor parallel: what a rank holds, drawn or loaded, is its share of what one rank has; what cannot be divided is
 * refused. */
#include <math.h>

#include "tp_help.h"

typedef struct {
    const char *backend;
    ModelConfig cfg;
    HeadKind head;
    const char *dir; /* NULL: drawn */
    Whole want, got;
    int n_wrong;
    pthread_mutex_t lock;
} Case;

static bool be_open(Backend **be, Pool **pool, const char *backend, Error *err) {
    bool half = !strcmp(backend, "bf16");
    return pool_open(pool, 2, err) && backend_open(be, half ? "cpu" : backend, *pool, NULL, err) &&
           (!half || backend_set_dtype(*be, DTYPE_BF16, err));
}

static bool net_open(Model *m, Head *h, Backend *be, const Case *c, const Mesh *mesh, Error *err) {
    int n_out = c->head == HEAD_LM ? c->cfg.n_vocab : 3;
    if (c->dir) return model_open_on(m, be, c->dir, mesh, true, err) && head_open(h, m, c->head, c->dir, true, err);
    return model_init_on(m, be, &c->cfg, mesh, TP_SEED, true, err) &&
           head_init(h, m, c->head, n_out, TP_SEED, true, err);
}

/* -- drawn and loaded */

static void alone(Case *c, const char *save) {
    Error err = {0};
    Backend *be;
    Pool *pool;
    Model m;
    Head h;
    if (!be_open(&be, &pool, c->backend, &err) || !net_open(&m, &h, be, c, NULL, &err)) fail_msg("%s", err.msg);
    if (save) tp_shake((Net){&m, &h, NULL});
    assert_int_equal(whole_fill(&c->want, (Net){&m, &h, NULL}, false), 0);
    if (save && !net_save((Net){&m, &h, NULL}, save, &err)) fail_msg("%s", err.msg);
    head_release(&h);
    model_release(&m);
    backend_close(be);
    pool_close(pool);
}

static void share_rank(Rank *r) {
    Case *c = r->ud;
    Error err = {0};
    Mesh mesh;
    Backend *be;
    Pool *pool;
    Model m = {0};
    Head h = {0};
    expect(r, mesh_open(&mesh, r->world, NULL, r->size, 1, 1, &err) && be_open(&be, &pool, c->backend, &err));
    bool ok = net_open(&m, &h, be, c, &mesh, &err);
    expect(r, ok);
    if (!ok) snprintf(r->wrong, sizeof r->wrong, "rank %d: %.300s", r->rank, err.msg);
    pthread_mutex_lock(&c->lock);
    if (ok) c->n_wrong += whole_fill(&c->got, (Net){&m, &h, NULL}, false);
    pthread_mutex_unlock(&c->lock);
    head_release(&h);
    model_release(&m);
    backend_close(be);
    pool_close(pool);
}

/* Every element is held by one rank if its tensor is divided, else by all. */
static void check_shares(Case *c, int ranks) {
    const char *worst;
    with_ranks(ranks, share_rank, c);
    assert_int_equal(c->n_wrong, 0);
    if (whole_distance(&c->got, &c->want, &worst) != 0) fail_msg("%s of %d ranks differs", worst, ranks);
    int64_t divided = 0, all = 0;
    for (int i = 0; i < c->got.n; i++) {
        const WholeTensor *t = &c->got.t[i];
        int64_t n = t->rows * t->cols;
        bool whole = t->filled[0] == ranks;
        for (int64_t k = 0; k < n; k++) assert_int_equal(t->filled[k], whole ? ranks : 1);
        if (strstr(t->name, "norm") || strstr(t->name, "ln_") || strstr(t->name, "wpe")) assert_true(whole);
        all += n, divided += whole ? 0 : n;
    }
    assert_true((double)divided > 0.8 * (double)all);
    whole_free(&c->got);
}

static const struct {
    Family family;
    bool tied;
    HeadKind head;
} models[] = {{FAMILY_LLAMA, false, HEAD_LM},
              {FAMILY_LLAMA, true, HEAD_LM},
              {FAMILY_GPT2, true, HEAD_LM},
              {FAMILY_QWEN3, false, HEAD_LM},
              {FAMILY_QWEN2, true, HEAD_SCORE}};

static void test_shares(void **state) {
    (void)state;
    static const char *const backends[] = {"ref", "cpu", "bf16"};
    Str dir = {0};
    for (int i = 0; i < COUNT_OF(models); i++)
        for (int k = 0; k < COUNT_OF(backends); k++) {
            Error err = {0};
            Case c = {.backend = backends[k], .head = models[i].head};
            c.cfg = tp_config(models[i].family, models[i].tied);
            pthread_mutex_init(&c.lock, NULL);
            str_clear(&dir);
            str_printf(&dir, "%s/scratch/nn_tp/%d-%d", BUILD_DIR, i, k);
            if (!io_remove_tree(dir.s, &err) || !io_make_dirs(dir.s, &err)) fail_msg("%s", err.msg);
            alone(&c, NULL);
            for (int t = 2; t <= 4; t *= 2) check_shares(&c, t);
            whole_free(&c.want);
            alone(&c, dir.s);
            c.dir = dir.s;
            for (int t = 2; t <= 4; t *= 2) check_shares(&c, t);
            whole_free(&c.want);
            pthread_mutex_destroy(&c.lock);
        }
    str_release(&dir);
}

/* -- what cannot be divided */

typedef struct {
    ModelConfig cfg;
    const char *says;
} Refusal;

static void refused_rank(Rank *r) {
    const Refusal *f = r->ud;
    Error err = {0};
    Mesh mesh;
    Backend *be;
    Pool *pool;
    Model m;
    expect(r, mesh_open(&mesh, r->world, NULL, r->size, 1, 1, &err) && be_open(&be, &pool, "ref", &err));
    expect(r, !model_init_on(&m, be, &f->cfg, &mesh, TP_SEED, false, &err));
    expect(r, err.code == ERR_CONFIG && strstr(err.msg, "dist.tp 4") && strstr(err.msg, f->says));
    backend_close(be);
    pool_close(pool);
}

static void test_refused(void **state) {
    (void)state;
    Refusal f = {.cfg = tp_config(FAMILY_LLAMA, false)};
    f.cfg.n_head = 6, f.cfg.n_kv_head = 2, f.says = "n_head 6";
    with_ranks(4, refused_rank, &f);
    f.cfg.n_head = 8, f.says = "n_kv_head 2";
    with_ranks(4, refused_rank, &f);
    f.cfg.n_kv_head = 4, f.cfg.d_ff = 70, f.says = "d_ff 70";
    with_ranks(4, refused_rank, &f);
    f.cfg.d_ff = 72, f.cfg.n_vocab = 3, f.says = "vocabulary of 3";
    with_ranks(4, refused_rank, &f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
