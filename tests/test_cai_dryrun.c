// layer: cai
// label: slow
// cost: 26
/* What a plan says of memory is what a stage's arenas take, to the byte: the same stage is run with its backend's
 * memory counted. And what cannot fit is refused, with the key to turn. */
#include <pthread.h>

#include "cai_help.h"
#include "dist_help.h"

#include "cai/dryrun.h"
#include "cai/stages.h"

static char root[256];

static int setup(void **state) {
    (void)state;
    help_scratch(root, "dryrun");
    return 0;
}

static int teardown(void **state) {
    (void)state;
    help_remove(root);
    return 0;
}

/* -- memory that is counted */

typedef struct {
    MemSource src;
    size_t live, peak;
} Counted;

static void *counted_get(void *ud, size_t bytes) {
    Counted *c = ud;
    c->live += bytes;
    if (c->live > c->peak) c->peak = c->live;
    return c->src.get(c->src.ud, bytes);
}

static void counted_put(void *ud, void *p, size_t bytes) {
    Counted *c = ud;
    c->live -= bytes;
    c->src.put(c->src.ud, p, bytes);
}

static void load(RunConfig *cfg, const char *const *more) {
    static const char *const base[] = {"model.max_seq=96",    "pretrain.micro_tokens=128", "pretrain.batch_tokens=640",
                                       "pretrain.steps=20",   "helpful.micro_tokens=128",  "helpful.steps=20",
                                       "sl.micro_tokens=128", "pm.micro_tokens=256",       "rl.micro_tokens=128",
                                       "rl.kl_stop=0"};
    const char *set[24];
    char out[300];
    int n = 0;
    snprintf(out, sizeof out, "run.out=%s/out", root);
    set[n++] = out;
    for (int i = 0; i < COUNT_OF(base); i++) set[n++] = base[i];
    for (; *more; more++) set[n++] = *more;
    set[n] = NULL;
    help_config(cfg, TINY, set);
}

/* The greatest number of bytes the stage's arenas have at one time: of a second run, when kernels have their own
 * scratch. */
static size_t measured(const RunConfig *cfg, const char *name) {
    PipelineResult *keys = mem_alloc(sizeof *keys);
    const Stage *s = stage_find(name);
    Pool *pool;
    Backend *be;
    Error err = {0};
    size_t bytes = 0;
    assert_ok(pipeline_keys(keys, cfg, TINY, &err), err);
    assert_ok(pipeline_backend(&pool, &be, cfg, &err), err);
    Counted c = {.src = be->mem};
    be->mem = (MemSource){.get = counted_get, .put = counted_put, .ud = &c};
    for (int k = 0; k < 2; k++) {
        const char *input[STAGE_MAX_NEEDS];
        char dir[400];
        StageCtx ctx;
        snprintf(dir, sizeof dir, "%s/%s-%d", root, name, k);
        assert_ok(io_remove_tree(dir, &err) && io_make_dirs(dir, &err), err);
        pipeline_ctx(&ctx, input, keys, s, cfg, be, NULL, NULL);
        ctx.output = dir;
        ctx.ledger = ledger_new();
        size_t before = c.peak = c.live;
        assert_ok(s->run(&ctx, &err), err);
        bytes = c.peak - before;
        assert_int_equal(c.live, k ? before : c.live);
        ledger_free(ctx.ledger);
    }
    backend_close(be); /* which gives its scratch back to where it is counted */
    pool_close(pool);
    free(keys);
    return bytes;
}

typedef struct { /* one rank of a stage that several run */
    const RunConfig *cfg;
    const PipelineResult *keys;
    Comm *world;
    const char *dir[2];
    size_t bytes;
    Error err;
    pthread_t thread;
} CountedRank;

static void *counted_rank(void *ud) {
    CountedRank *r = ud;
    const char *input[STAGE_MAX_NEEDS];
    Pool *pool;
    Backend *be;
    Mesh mesh;
    StageCtx ctx;
    Counted c = {0};
    if (mesh_open(&mesh, r->world, NULL, 1, 1, 1, &r->err) && pipeline_backend(&pool, &be, r->cfg, &r->err)) {
        const Stage *s = stage_find("pretrain");
        c.src = be->mem;
        be->mem = (MemSource){.get = counted_get, .put = counted_put, .ud = &c};
        for (int k = 0; k < 2 && r->err.code == ERR_NONE; k++) {
            pipeline_ctx(&ctx, input, r->keys, s, r->cfg, be, NULL, NULL);
            ctx.output = r->dir[k], ctx.mesh = &mesh, ctx.ledger = ledger_new();
            size_t before = c.peak = c.live;
            s->run(&ctx, &r->err);
            r->bytes = c.peak - before;
            ledger_free(ctx.ledger);
        }
        backend_close(be);
        pool_close(pool);
    }
    comm_close(r->world);
    return NULL;
}

/* As measured(), of pretrain and the rank with the most. */
static size_t measured_ranks(const RunConfig *cfg, int n) {
    PipelineResult *keys = mem_alloc(sizeof *keys);
    CountedRank *rank = mem_alloc((size_t)n * sizeof *rank);
    Comm **world = mem_alloc((size_t)n * sizeof *world);
    char dir[2][400];
    size_t most = 0;
    Error err = {0};
    for (int k = 0; k < 2; k++) {
        snprintf(dir[k], sizeof dir[k], "%s/pretrain-ranks-%d", root, k);
        assert_ok(io_remove_tree(dir[k], &err) && io_make_dirs(dir[k], &err), err);
    }
    assert_ok(pipeline_keys(keys, cfg, TINY, &err), err);
    assert_ok(comm_open_threads(world, n, &err), err);
    for (int r = 0; r < n; r++) {
        rank[r] = (CountedRank){.cfg = cfg, .keys = keys, .world = world[r], .dir = {dir[0], dir[1]}};
        assert_int_equal(pthread_create(&rank[r].thread, NULL, counted_rank, &rank[r]), 0);
    }
    for (int r = 0; r < n; r++) pthread_join(rank[r].thread, NULL);
    for (int r = 0; r < n; r++) {
        assert_ok(rank[r].err.code == ERR_NONE, rank[r].err);
        if (rank[r].bytes > most) most = rank[r].bytes;
    }
    free(world);
    free(rank);
    free(keys);
    return most;
}

static const StageNeed *need_of(const DryRun *d, const char *name) {
    for (int i = 0; i < d->n; i++)
        if (!strcmp(d->item[i].stage, name)) return &d->item[i];
    fail_msg("no stage %s", name);
    return NULL;
}

static void plan(DryRun *d, const char *const *more) {
    RunConfig cfg;
    Error err = {0};
    load(&cfg, more);
    assert_ok(dry_run(d, &cfg, TINY, &err), err);
    run_config_release(&cfg);
}

static void run_to(const RunConfig *cfg, const char *only) {
    PipelineResult *r = mem_alloc(sizeof *r);
    Error err = {0};
    assert_ok(pipeline_run(r, cfg, TINY, only, NULL, NULL, &err), err);
    free(r);
}

static size_t sum_of(const StageNeed *n) {
    return n->weights + n->gradients + n->optimizer + n->activations + n->sums + n->other;
}

/* Another learning rate: nothing of the stage is there, and the memory is the same. */
static void test_every_stage(void **state) {
    (void)state;
    RunConfig cfg;
    static const char *const none[] = {NULL};
    static const char *const anew[] = {"pretrain.lr=7e-3", NULL};
    static const char *const exact[] = {"pretrain", "helpful", "sl"}, *const most[] = {"pm", "rl"};
    DryRun *d = mem_alloc(sizeof *d);
    load(&cfg, none);
    run_to(&cfg, "rl");
    plan(d, none);
    assert_true(need_of(d, "pretrain")->done && need_of(d, "rl")->done);
    plan(d, anew);
    assert_false(d->vocab_at_most);
    for (int i = 0; i < COUNT_OF(exact); i++) {
        const StageNeed *n = need_of(d, exact[i]);
        size_t got = measured(&cfg, exact[i]);
        assert_false(n->at_most || n->done);
        if (n->device != got) fail_msg("%s: planned %zu bytes, taken %zu", exact[i], n->device, got);
        assert_int_equal(sum_of(n), n->device);
        assert_int_equal(n->steps, i < 2 ? 20 : 0); /* sl: epochs of what is not there yet */
    }
    for (int i = 0; i < COUNT_OF(most); i++) {
        const StageNeed *n = need_of(d, most[i]);
        size_t got = measured(&cfg, most[i]);
        assert_true(n->at_most);
        if (got > n->device || 2 * got < n->device)
            fail_msg("%s: planned at most %zu bytes, taken %zu", most[i], n->device, got);
        assert_int_equal(sum_of(n), n->device);
    }
    run_config_release(&cfg);
    free(d);
}

static void test_every_way(void **state) {
    (void)state;
    static const char *const way[][3] = {{"run.dtype=bf16", NULL},
                                         {"dist.tree=false", NULL},
                                         {"pretrain.recompute=true", NULL},
                                         {"model.tied=false", "model.family=gpt2", NULL}};
    DryRun *d = mem_alloc(sizeof *d);
    for (int i = 0; i < COUNT_OF(way); i++) {
        RunConfig cfg;
        const char *anew[5];
        int n = 0;
        for (; way[i][n]; n++) anew[n] = way[i][n];
        anew[n] = "pretrain.lr=7e-3", anew[n + 1] = NULL;
        load(&cfg, way[i]);
        run_to(&cfg, "pretrain");
        plan(d, anew);
        size_t got = measured(&cfg, "pretrain"), said = need_of(d, "pretrain")->device;
        if (said != got) fail_msg("%s: planned %zu bytes, taken %zu", way[i][0], said, got);
        run_config_release(&cfg);
    }
    free(d);
}

/* -- two ranks that share every matrix */

typedef struct {
    const RunConfig *cfg;
    const PipelineResult *keys;
    const char *name, *dir;
    size_t peak[2];
} Shared;

static void shared_rank(Rank *r) {
    Shared *job = r->ud;
    const Stage *s = stage_find(job->name);
    Error err = {0};
    Pool *pool = NULL;
    Backend *be = NULL;
    Mesh mesh;
    const char *input[STAGE_MAX_NEEDS];
    StageCtx ctx;
    bool ok = mesh_open(&mesh, r->world, NULL, 2, 1, 1, &err) && pipeline_backend(&pool, &be, job->cfg, &err);
    expect(r, ok);
    Counted c = {.src = be->mem};
    be->mem = (MemSource){.get = counted_get, .put = counted_put, .ud = &c};
    for (int k = 0; k < 2; k++) { /* the second time kernels have their own scratch */
        Error mine = {0};
        if (r->rank == 0 && io_remove_tree(job->dir, &mine) && io_make_dirs(job->dir, &mine)) mine = (Error){0};
        ok = agree(r->world, &mine, NULL, 0, NULL, &err);
        pipeline_ctx(&ctx, input, job->keys, s, job->cfg, be, NULL, NULL);
        ctx.output = job->dir, ctx.mesh = &mesh, ctx.ledger = ledger_new();
        size_t before = c.peak = c.live;
        ok = ok && s->run(&ctx, &err);
        if (!ok) snprintf(r->wrong, sizeof r->wrong, "rank %d: %.300s", r->rank, err.msg);
        job->peak[r->rank] = c.peak - before;
        ledger_free(ctx.ledger);
    }
    backend_close(be);
    pool_close(pool);
}

static size_t measured_shared(const RunConfig *cfg, const char *name) {
    char dir[400];
    Error err = {0};
    PipelineResult *keys = mem_alloc(sizeof *keys);
    snprintf(dir, sizeof dir, "%s/%s-shared", root, name);
    Shared job = {.cfg = cfg, .keys = keys, .name = name, .dir = dir};
    assert_ok(pipeline_keys(keys, cfg, TINY, &err), err);
    with_ranks(2, shared_rank, &job);
    free(keys);
    return job.peak[0] > job.peak[1] ? job.peak[0] : job.peak[1];
}

/* Planned to the byte, rl included: no rank ever holds a whole net. */
static void test_shares(void **state) {
    (void)state;
    RunConfig cfg;
    static const char *const two[] = {"dist.ranks=2", "dist.tp=2", NULL};
    static const char *const anew[] = {"dist.ranks=2", "dist.tp=2", "pretrain.lr=7e-3", NULL};
    DryRun *d = mem_alloc(sizeof *d), *one = mem_alloc(sizeof *one);
    load(&cfg, two);
    run_to(&cfg, "rl");
    plan(d, anew);
    size_t lm = measured_shared(&cfg, "pretrain"), rl = measured_shared(&cfg, "rl");
    const StageNeed *n = need_of(d, "pretrain"), *m = need_of(d, "rl");
    if (n->device != lm) fail_msg("pretrain: planned %zu bytes, taken %zu", n->device, lm);
    if (rl > m->device || 2 * rl < m->device) fail_msg("rl: planned at most %zu bytes, taken %zu", m->device, rl);
    assert_int_equal(sum_of(m), m->device);
    run_config_release(&cfg);
    /* Of a model whose matrices are what there is: half of all of them, frozen ones too. */
    static const char *const alone[] = {"rl.lr=7e-7", "model.d_model=512", "model.n_layer=4", "rl.micro_tokens=96",
                                        NULL};
    static const char *const shared[] = {"rl.lr=7e-7",         "model.d_model=512", "model.n_layer=4",
                                         "rl.micro_tokens=96", "dist.tp=2",         NULL};
    plan(one, alone);
    plan(d, shared);
    const StageNeed *x = need_of(one, "rl"), *y = need_of(d, "rl");
    size_t nets = x->weights + x->gradients + x->optimizer, halves = y->weights + y->gradients + y->optimizer;
    print_message("  rl, bytes of a rank: %zu alone, %zu of two\n", x->device, y->device);
    assert_int_equal(d->ranks, 2);
    assert_true(halves < 0.505 * (double)nets && halves > 0.495 * (double)nets);
    assert_true((double)y->device < 0.6 * (double)x->device);
    free(d);
    free(one);
}

/* Sums of gradients: whole ones of log2(M/d) levels, with ZeRO-2 a d-th of each. Planned, and of two ranks measured. */
static void test_sums(void **state) {
    (void)state;
    static const char *const ranks[] = {"dist.ranks=2", "dist.ranks=4", "dist.ranks=8"};
    DryRun *a = mem_alloc(sizeof *a), *b = mem_alloc(sizeof *b);
    for (int k = 0; k < COUNT_OF(ranks); k++) {
        const char *more[] = {"pretrain.lr=7e-3",
                              "model.d_model=256",
                              "model.n_layer=8",
                              "pretrain.batch_tokens=2048",
                              ranks[k],
                              "dist.zero=1",
                              NULL};
        plan(a, more);
        more[5] = "dist.zero=2";
        plan(b, more);
        const StageNeed *x = need_of(a, "pretrain"), *y = need_of(b, "pretrain");
        double levels = 3 - k, d = 2 << k; /* 16 micro-batches */
        double whole = (double)x->gradients * levels;
        assert_true((double)x->sums == whole);
        assert_true((double)y->sums >= whole / d * 0.999 && (double)y->sums < whole / d * 1.1);
        assert_true(x->device - x->sums == y->device - y->sums); /* nothing else differs */
    }
    for (int zero = 0; zero <= 2; zero++) {
        RunConfig cfg;
        char level[32];
        const char *more[] = {"pretrain.lr=6e-3",
                              "pretrain.steps=3",
                              "dist.ranks=2",
                              level,
                              zero == 1 ? "dist.overlap=false" : "dist.overlap=true",
                              NULL};
        snprintf(level, sizeof level, "dist.zero=%d", zero);
        load(&cfg, more);
        plan(a, more);
        size_t got = measured_ranks(&cfg, 2), said = need_of(a, "pretrain")->device;
        if (said != got) fail_msg("%s: planned %zu bytes, taken %zu", level, said, got);
        run_config_release(&cfg);
    }
    free(a);
    free(b);
}

/* ZeRO-1 over two ranks: each has less of the optimizer. */
static void test_ranks(void **state) {
    (void)state;
    static const char *const one[] = {"pretrain.lr=7e-3", "model.d_model=256", "model.n_layer=4", NULL};
    static const char *const two[] = {"pretrain.lr=7e-3", "model.d_model=256", "model.n_layer=4",
                                      "dist.ranks=2",     "dist.zero=true",    NULL};
    DryRun *a = mem_alloc(sizeof *a), *b = mem_alloc(sizeof *b);
    plan(a, one);
    plan(b, two);
    const StageNeed *x = need_of(a, "pretrain"), *y = need_of(b, "pretrain");
    assert_int_equal(b->ranks, 2);
    assert_true(y->optimizer < x->optimizer * 6 / 10 && y->optimizer > x->optimizer * 4 / 10);
    assert_int_equal(x->weights, y->weights);
    /* Rows over two ranks: half the activations, and keys of all. */
    static const char *const rows[] = {"pretrain.lr=7e-3",
                                       "model.d_model=256",
                                       "model.n_layer=4",
                                       "dist.ranks=2",
                                       "dist.cp=2",
                                       "dist.zero=true",
                                       NULL};
    plan(b, rows);
    y = need_of(b, "pretrain");
    assert_true(y->activations > x->activations / 2 && y->activations < x->activations * 2 / 3);
    assert_true(y->optimizer < x->optimizer * 6 / 10 && y->weights == x->weights);
    RunConfig cfg;
    Error err = {0};
    load(&cfg, (const char *const[]){"dist.ranks=3", "dist.cp=2", NULL});
    assert_false(dry_run(b, &cfg, TINY, &err));
    assert_non_null(strstr(err.msg, "dist.cp 2 and dist.pp 1: 3 ranks cannot be divided"));
    run_config_release(&cfg);
    free(a);
    free(b);
}

/* -- ranks that hold parts of the model */

typedef struct {
    const RunConfig *cfg;
    const PipelineResult *keys;
    int tp, pp;
    size_t bytes[4];
} Parts;

/* As measured(), by one rank of them. */
static void parts_rank(Rank *r) {
    Parts *p = r->ud;
    const Stage *s = stage_find("pretrain");
    Pool *pool;
    Backend *be;
    Mesh mesh;
    Error err = {0};
    char dir[400];
    bool ok = mesh_open(&mesh, r->world, NULL, p->tp, 1, p->pp, &err) && pipeline_backend(&pool, &be, p->cfg, &err);
    expect(r, ok);
    if (!ok) return;
    Counted c = {.src = be->mem};
    be->mem = (MemSource){.get = counted_get, .put = counted_put, .ud = &c};
    for (int k = 0; k < 2 && ok; k++) {
        const char *input[STAGE_MAX_NEEDS];
        StageCtx ctx;
        snprintf(dir, sizeof dir, "%s/parts-%d-%d-%d", root, p->tp, p->pp, k);
        if (r->rank == 0) ok = io_remove_tree(dir, &err) && io_make_dirs(dir, &err);
        comm_barrier(r->world, "test.dir");
        pipeline_ctx(&ctx, input, p->keys, s, p->cfg, be, NULL, NULL);
        ctx.output = dir, ctx.mesh = &mesh, ctx.ledger = ledger_new();
        size_t before = c.peak = c.live;
        ok = ok && s->run(&ctx, &err);
        if (!ok) snprintf(r->wrong, sizeof r->wrong, "rank %d: %.300s", r->rank, err.msg);
        p->bytes[r->rank] = c.peak - before;
        ledger_free(ctx.ledger);
    }
    backend_close(be);
    pool_close(pool);
}

static void test_parts(void **state) {
    (void)state;
    static const struct {
        int tp, pp, dp;
        const char *set[8];
    } row[] = {
        {2, 1, 1, {"dist.ranks=2", "dist.tp=2", "model.n_layer=3"}},
        {1, 2, 1, {"dist.ranks=2", "dist.pp=2", "model.n_layer=3", "model.tied=false"}},
        {2, 2, 1, {"dist.ranks=4", "dist.tp=2", "dist.pp=2", "model.n_layer=3", "model.family=gpt2"}},
        {2, 1, 2, {"dist.ranks=4", "dist.tp=2", "dist.zero=true", "pretrain.recompute=true", "pretrain.lr=5e-3"}}};
    DryRun *d = mem_alloc(sizeof *d);
    for (int i = 0; i < COUNT_OF(row); i++) {
        RunConfig cfg;
        Error err = {0};
        Parts p = {.cfg = &cfg, .keys = mem_alloc(sizeof *p.keys), .tp = row[i].tp, .pp = row[i].pp};
        load(&cfg, row[i].set);
        run_to(&cfg, "tokenizer");
        plan(d, row[i].set);
        assert_ok(pipeline_keys((PipelineResult *)(uintptr_t)p.keys, &cfg, TINY, &err), err);
        with_ranks(row[i].tp * row[i].pp * row[i].dp, parts_rank, &p);
        const StageNeed *n = need_of(d, "pretrain");
        size_t most = 0;
        for (int r = 0; r < COUNT_OF(p.bytes); r++) most = p.bytes[r] > most ? p.bytes[r] : most;
        if (n->unknown || n->at_most || n->device != most)
            fail_msg("tp %d, pp %d: planned %zu bytes, taken %zu", row[i].tp, row[i].pp, n->device, most);
        assert_int_equal(sum_of(n), n->device);
        const char *rl = need_of(d, "rl")->unknown;
        assert_true(row[i].pp > 1 ? rl && strstr(rl, "in stages") : !rl);
        run_config_release(&cfg);
        free((void *)(uintptr_t)p.keys);
    }
    free(d);
}

static void test_refused(void **state) {
    (void)state;
    static const char *const none[] = {NULL};
    RunConfig cfg;
    DryRun *d = mem_alloc(sizeof *d);
    Error err = {0};
    static const char *const large[] = {"pretrain.lr=7e-3", "model.d_model=4096", "model.n_layer=32", "model.n_head=32",
                                        NULL};
    plan(d, large); /* 6 billion parameters: places, no memory */
    assert_true(need_of(d, "pretrain")->device > (size_t)100 << 30);
    load(&cfg, none);
    d->room = 8e9;
    assert_false(dry_run_fits(d, &cfg, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_non_null(strstr(err.msg, "pretrain needs"));
    assert_non_null(strstr(err.msg, "sums of gradients: pretrain.micro_tokens"));
    d->room = 1e15, d->disk_room = 1e9;
    assert_false(dry_run_fits(d, &cfg, &err));
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.msg, "ckpt.keep"));
    d->disk_room = 1e15;
    assert_true(dry_run_fits(d, &cfg, &err));
    run_config_release(&cfg);
    free(d);
}

int main(void) {
    if (getenv("TEST_FILTER")) cmocka_set_test_filter(getenv("TEST_FILTER"));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_stage), cmocka_unit_test(test_every_way),
                                       cmocka_unit_test(test_shares),      cmocka_unit_test(test_ranks),
                                       cmocka_unit_test(test_sums),        cmocka_unit_test(test_parts),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
