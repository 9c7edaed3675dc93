// layer: cai
// label: slow
// cost: 26
/* What a plan says of memory is what a stage's arenas take, to the byte: the same stage is run with its backend's
 * memory counted. And what cannot fit is refused, with the key to turn. */
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

/* -- of ranks */

enum { MOST = 8 };
typedef struct {
    const RunConfig *cfg;
    const PipelineResult *keys;
    const char *name;
    char dir[2][400];
    size_t device[MOST], host[MOST]; /* by rank */
} Taken;

/* As measured(), by one of the ranks that run the stage together; beside it what they keep of the host for each other.
 */
static void taken_rank(Rank *r) {
    Taken *job = r->ud;
    const RunConfig *cfg = job->cfg;
    Error err = {0};
    Pool *pool = NULL;
    Backend *be = NULL;
    Mesh mesh;
    const char *input[STAGE_MAX_NEEDS];
    StageCtx ctx;
    bool ok = mesh_open(&mesh, r->world, NULL, (int)cfg->dist.tp, (int)cfg->dist.cp, (int)cfg->dist.pp, &err) &&
              pipeline_backend(&pool, &be, cfg, &err);
    expect(r, ok);
    if (!ok) return;
    Counted c = {.src = be->mem}, h = {.src = be->host};
    be->mem = (MemSource){.get = counted_get, .put = counted_put, .ud = &c};
    be->host = (MemSource){.get = counted_get, .put = counted_put, .ud = &h};
    for (int k = 0; k < 2 && ok; k++) { /* the second time kernels have their own scratch */
        pipeline_ctx(&ctx, input, job->keys, stage_find(job->name), cfg, be, NULL, NULL);
        ctx.output = job->dir[k], ctx.mesh = &mesh, ctx.ledger = ledger_new();
        size_t before = c.peak = c.live;
        h.peak = h.live;
        ok = ctx.stage->run(&ctx, &err);
        if (!ok) snprintf(r->wrong, sizeof r->wrong, "rank %d: %.300s", r->rank, err.msg);
        job->device[r->rank] = c.peak - before;
        job->host[r->rank] = h.peak;
        ledger_free(ctx.ledger);
    }
    expect(r, h.live == 0);
    backend_close(be);
    pool_close(pool);
}

/* Of the rank with most of each. */
static size_t taken(size_t *host, const RunConfig *cfg, const char *name, int n) {
    Taken *job = mem_alloc(sizeof *job);
    PipelineResult *keys = mem_alloc(sizeof *keys);
    Error err = {0};
    size_t device = 0;
    *job = (Taken){.cfg = cfg, .keys = keys, .name = name};
    *host = 0;
    for (int k = 0; k < 2; k++) {
        snprintf(job->dir[k], sizeof job->dir[k], "%s/%s-ranks-%d", root, name, k);
        assert_ok(io_remove_tree(job->dir[k], &err) && io_make_dirs(job->dir[k], &err), err);
    }
    assert_ok(pipeline_keys(keys, cfg, TINY, &err), err);
    with_ranks(n, taken_rank, job);
    for (int r = 0; r < n; r++) {
        if (job->device[r] > device) device = job->device[r];
        if (job->host[r] > *host) *host = job->host[r];
    }
    free(keys);
    free(job);
    return device;
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
    size_t host, lm = taken(&host, &cfg, "pretrain", 2), rl = taken(&host, &cfg, "rl", 2);
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
                              "ckpt.async=false",
                              NULL};
        snprintf(level, sizeof level, "dist.zero=%d", zero);
        load(&cfg, more);
        plan(a, more);
        size_t host, got = taken(&host, &cfg, "pretrain", 2), said = need_of(a, "pretrain")->device;
        if (said != got) fail_msg("%s: planned %zu bytes, taken %zu", level, said, got);
        said = need_of(a, "pretrain")->host; /* saved in front: no copy of the state */
        if (said != host || host == 0) fail_msg("%s: planned %zu bytes of the host, taken %zu", level, said, host);
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

static void test_parts(void **state) {
    (void)state;
    static const struct {
        int ranks;
        const char *set[9];
    } row[] = {{2, {"dist.tp=2", "model.n_layer=3"}},
               {2, {"dist.pp=2", "model.n_layer=3", "model.tied=false"}},
               {4, {"dist.tp=2", "dist.pp=2", "model.n_layer=3", "model.family=gpt2"}},
               {4, {"dist.tp=2", "dist.zero=true", "pretrain.recompute=true", "pretrain.lr=5e-3"}},
               {2, {"dist.cp=2", "model.n_layer=3"}},
               {4, {"dist.cp=2", "dist.zero=true", "model.n_layer=3", "pretrain.lr=5e-3"}},
               {4, {"dist.cp=2", "dist.zero=2", "model.n_layer=3", "pretrain.lr=6e-3"}},
               {4, {"dist.cp=2", "dist.pp=2", "model.n_layer=3", "pretrain.lr=4e-3"}}};
    DryRun *d = mem_alloc(sizeof *d);
    for (int i = 0; i < COUNT_OF(row); i++) {
        RunConfig cfg;
        const char *set[9];
        char ranks[24];
        int n = 0;
        size_t host;
        snprintf(ranks, sizeof ranks, "dist.ranks=%d", row[i].ranks);
        for (; row[i].set[n]; n++) set[n] = row[i].set[n];
        set[n++] = ranks, set[n++] = "ckpt.async=false", set[n] = NULL;
        load(&cfg, set);
        run_to(&cfg, "tokenizer");
        plan(d, set);
        size_t device = taken(&host, &cfg, "pretrain", row[i].ranks);
        const StageNeed *need = need_of(d, "pretrain");
        if (need->unknown || need->at_most || need->device != device || need->host != host || host == 0)
            fail_msg("%s, %d ranks: planned %zu bytes and %zu of the host, taken %zu and %zu", row[i].set[0],
                     row[i].ranks, need->device, need->host, device, host);
        assert_int_equal(sum_of(need), need->device);
        assert_null(need_of(d, "rl")->unknown);
        run_config_release(&cfg);
    }
    free(d);
}

/* Policy and value net in stages, and all layers of what only reads. */
static void test_stages_rl(void **state) {
    (void)state;
    RunConfig cfg;
    static const char *const set[] = {"dist.ranks=2", "dist.pp=2", "model.n_layer=2", "pm.n_layer=2", NULL};
    static const char *const anew[] = {"dist.ranks=2", "dist.pp=2",  "model.n_layer=2",
                                       "pm.n_layer=2", "rl.lr=7e-7", NULL};
    DryRun *d = mem_alloc(sizeof *d);
    size_t host;
    load(&cfg, set);
    run_to(&cfg, "rl");
    plan(d, anew);
    size_t got = taken(&host, &cfg, "rl", 2);
    const StageNeed *n = need_of(d, "rl");
    print_message("  rl in two stages: at most %zu bytes planned, %zu taken; of the host %zu and %zu\n", n->device, got,
                  n->host, host);
    if (n->unknown || got > n->device || 2 * got < n->device)
        fail_msg("planned at most %zu bytes, taken %zu", n->device, got);
    assert_int_equal(sum_of(n), n->device);
    assert_true(host <= n->host);
    run_config_release(&cfg);
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
                                       cmocka_unit_test(test_stages_rl),   cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
