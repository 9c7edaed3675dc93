// layer: nn
/* Tensor parallel: what a rank holds, drawn or loaded, is its share of what one rank has, and so is what a block keeps
 * for its backward; what cannot be divided is refused. */
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

/* -- what a pass keeps */

enum { TOK = 256 };

/* Of blocks that work on all rows: what another one adds. */
static size_t block_bytes(const ModelConfig *c, Backend *be, const Mesh *mesh, Keep keep, Error *err) {
    size_t bytes[2];
    for (int i = 0; i < 2; i++) {
        Model m;
        ModelConfig cfg = *c;
        cfg.n_layer = 2 + i;
        if (!model_init_on(&m, be, &cfg, mesh, TP_SEED, false, err)) return 0;
        bytes[i] = acts_bytes(&m, TOK, TOK, keep);
        model_release(&m);
    }
    return bytes[1] - bytes[0];
}

typedef struct {
    ModelConfig cfg;
    size_t kept, input; /* of one rank */
    size_t zones, zone; /* what a debug build puts between the objects of kept, behind one object */
} Room;

/* Room for the gradients of all norms' weights, and what another block adds to it. */
static size_t norms(const ModelConfig *c, int n_layer) {
    int64_t n =
        (2 * n_layer + 1) * c->d_model * (c->norm == NORM_LAYER ? 2 : 1) + (c->qk_norm ? 2 * n_layer * c->d_head : 0);
    return ((size_t)n * sizeof(double) + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
}

static void room_rank(Rank *r) {
    const Room *room = r->ud;
    size_t sums = norms(&room->cfg, 3) - norms(&room->cfg, 2);
    Error err = {0};
    Mesh mesh;
    Backend *be;
    Pool *pool;
    size_t t = (size_t)r->size;
    expect(r, mesh_open(&mesh, r->world, NULL, r->size, 1, 1, &err) && be_open(&be, &pool, "ref", &err));
    expect(r, block_bytes(&room->cfg, be, &mesh, KEEP_ALL, &err) == room->kept / t + room->zones + sums);
    expect(r, block_bytes(&room->cfg, be, &mesh, KEEP_INPUTS, &err) == room->input / t + room->zone + sums);
    be->recompute_cheap = false; /* the MLP's product is kept, normed rows are not */
    size_t act = (size_t)(TOK * room->cfg.d_ff) * sizeof(double);
    expect(r, block_bytes(&room->cfg, be, &mesh, KEEP_ALL, &err) ==
                  (room->kept + act) / t + room->zones + room->zone + sums);
    backend_close(be);
    pool_close(pool);
}

static void test_room(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(models); i++) {
        Error err = {0};
        Backend *be;
        Pool *pool;
        Room room = {.cfg = tp_config(models[i].family, models[i].tied)};
        const ModelConfig *c = &room.cfg;
        if (!be_open(&be, &pool, "ref", &err)) fail_msg("%s", err.msg);
        int64_t heads = c->n_head + c->n_kv_head, stats = c->norm == NORM_LAYER ? 4 : 2;
        int64_t want = 2 * c->d_model + 2 * heads * c->d_head + c->n_head + stats;
        want += (c->mlp == MLP_SWIGLU ? 2 : 1) * c->d_ff + (c->qk_norm ? heads * (c->d_head + 1) : 0);
        room.kept = (size_t)(TOK * want) * sizeof(double), room.input = (size_t)(TOK * c->d_model) * sizeof(double);
        room.zones = block_bytes(c, be, NULL, KEEP_ALL, &err) - room.kept;
        room.zone = block_bytes(c, be, NULL, KEEP_INPUTS, &err) - room.input;
        assert_true(room.zone <= ARENA_ALIGN && (room.zone ? room.zones / room.zone : 0) < 20 &&
                    room.zones < 20 * ARENA_ALIGN);
        for (int t = 2; t <= 4; t *= 2) with_ranks(t, room_rank, &room);
        backend_close(be);
        pool_close(pool);
    }
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
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
