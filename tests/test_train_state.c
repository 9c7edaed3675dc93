// layer: train
// cost: 30
/* Training through trouble with its saved states: killed at every commit point and anywhere between, full and failing
 * disks. The oracle is always the same: the weights at the end are those of a run that nobody disturbed. */
#include "train_fixture.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"

enum { STEPS = 10, SKIPPED = 77 };

typedef struct {
    const char *dir, *crash; /* DIKAST_CRASH_AT, or NULL */
    int64_t every;
    int keep;
    bool wait;
} Run;

static void hash_param(void *ud, int index, const ParamInfo *p) {
    (void)index;
    float *v = malloc((size_t)tensor_count(p->w) * sizeof *v);
    tensor_get_f32(NULL, v, p->w);
    hasher_add(ud, v, (size_t)tensor_count(p->w) * sizeof *v);
    free(v);
}

/* Trains in this process; the hash of the weights goes to dir/hash. */
static bool train(const Run *r, Error *err) {
    Fixture f;
    SampleSet s;
    Objective obj;
    ObjLm *lm;
    Trainer *t;
    setup(&f, "cpu", HEAD_LM);
    lm_samples(&s, 12);
    must(obj_lm_open(&lm, &obj, &s, 80, SEED, err), err);
    TrainConfig c = config(STEPS, 3e-3);
    c.state_steps = r->every, c.state.keep = r->keep, c.state.wait = r->wait;
    must(trainer_open(&t, f.net, &c, &obj, NULL, NULL, err), err);
    bool ok = trainer_run(t, r->dir, err);
    if (ok) {
        Hasher *h = hasher_new();
        char hex[33], path[400];
        net_visit(f.net, hash_param, h);
        hash_hex(hex, hasher_finish(h));
        snprintf(path, sizeof path, "%s/hash", r->dir);
        must(io_write_file(path, hex, 32, err), err);
    }
    trainer_close(t);
    obj_lm_close(lm);
    samples_release(&s);
    close_all(&f);
    return ok;
}

/* The same in a child, which may die: its wait status. */
static pid_t begin(const Run *r) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0) return child;
    Error err = {0};
    if (r->crash) setenv("DIKAST_CRASH_AT", r->crash, 1);
    bool ok = train(r, &err);
    if (!ok) fprintf(stderr, "%s\n", err.msg);
    _exit(ok ? 0 : 1);
}

static int end(pid_t child) {
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static char reference[33];

static void expect_reference(const char *dir, const char *what) {
    Str hash = {0};
    file_in(&hash, dir, "hash");
    if (strcmp(hash.s, reference)) fail_msg("%s: the weights differ", what);
    str_release(&hash);
}

static int make_reference(void **state) {
    Str dir = {0}, hash = {0};
    (void)state;
    fresh_dir(&dir, "state_reference");
    if (end(begin(&(Run){.dir = dir.s})) != 0) return 1; /* saves nothing */
    file_in(&hash, dir.s, "hash");
    snprintf(reference, sizeof reference, "%s", hash.s);
    str_release(&dir);
    str_release(&hash);
    return 0;
}

static int count_in(const char *dir, const char *begins) {
    char **name;
    int n, count = 0;
    Error err;
    Str path = {0};
    str_printf(&path, "%s/state", dir);
    if (!io_is_dir(path.s)) {
        str_release(&path);
        return 0;
    }
    must(io_list_dir(&name, &n, path.s, &err), &err);
    for (int i = 0; i < n; i++) count += !strncmp(name[i], begins, strlen(begins));
    io_free_list(name, n);
    str_release(&path);
    return count;
}

static void put_nothing(void *ud, JsonOut *j) { (void)ud, (void)j; }

/* -- killed */

static void killed_at_each_point(void **state) {
    Str dir = {0};
    (void)state;
    for (int c = 0; c <= 12; c++)
        for (int save = 0; save < 2; save++) { /* the first one ever, and one with another before it */
            char crash[40], what[80];
            if (c == 12 && save == 0) continue; /* nothing is deleted yet */
            fresh_dir(&dir, "state_killed");
            /* c12 names the step that is being deleted */
            snprintf(crash, sizeof crash, "ckpt.c%d:0:%d", c, c == 12 ? 3 : save ? 6 : 3);
            snprintf(what, sizeof what, "killed at %s", crash);
            Run r = {.dir = dir.s, .crash = crash, .every = 3, .keep = 1, .wait = c % 2};
            int status = end(begin(&r));
            if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) fail_msg("%s: status %x", what, (unsigned)status);
            int steps = count_in(dir.s, "step-"), expected = c < 8 ? save : 1 + (save && c < 12);
            if (steps != expected) fail_msg("%s: %d checkpoints, expected %d", what, steps, expected);
            r.crash = NULL;
            assert_int_equal(end(begin(&r)), 0);
            expect_reference(dir.s, what);
            assert_int_equal(count_in(dir.s, "step-"), 1);
            assert_int_equal(count_in(dir.s, "tmp.") + count_in(dir.s, "trash.") + count_in(dir.s, "bad."), 0);
        }
    str_release(&dir);
}

static void killed_anywhere(void **state) {
    const char *given = getenv("DIKAST_TEST_SEED");
    Rng rng = {given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL), RNG_TEST};
    Str dir = {0};
    (void)state;
    print_message("[  note    ] seed %llu (DIKAST_TEST_SEED)\n", (unsigned long long)rng.seed);
    fresh_dir(&dir, "state_anywhere");
    Run r = {.dir = dir.s, .every = 1};
    double start = now_s();
    assert_int_equal(end(begin(&r)), 0);
    double took = now_s() - start;
    int saved = 0, killed = 0;
    for (int i = 0; i < 12; i++) {
        fresh_dir(&dir, "state_anywhere");
        for (int k = 0; k < 3; k++) { /* again and again */
            pid_t child = begin(&r);
            usleep((useconds_t)(1e6 * took * rng_uniform(rng, (uint64_t)i, (uint32_t)k)));
            kill(child, SIGKILL);
            bool hit = end(child) != 0;
            killed += hit;
            if (!hit) took *= 0.7; /* the machine was busier when it was measured */
            saved += count_in(dir.s, "step-") > 0;
        }
        assert_int_equal(end(begin(&r)), 0);
        expect_reference(dir.s, "killed three times");
    }
    assert_true(killed > 12 && saved > 0);
    str_release(&dir);
}

/* -- failing disks */

typedef struct {
    pthread_t main;
    int count, fail_at, code;
    bool all; /* from there on */
} Faults;

/* Calls of the writer's thread only: those of the metrics are another matter. */
static int fail_kth(void *ud, const char *what) {
    Faults *f = ud;
    (void)what;
    if (pthread_equal(pthread_self(), f->main)) return 0;
    int k = f->count++;
    return k == f->fail_at || (f->all && k > f->fail_at) ? f->code : 0;
}

static void disk_fails_once(void **state) {
    Str dir = {0};
    Error err = {0};
    int calls = 1, k;
    (void)state;
    for (k = 0; k < calls; k++) {
        Faults f = {pthread_self(), 0, k, k % 2 ? EIO : ENOSPC, false};
        fresh_dir(&dir, "state_fault");
        Run r = {.dir = dir.s, .every = 4};
        io_set_fault_hook(fail_kth, &f);
        bool ok = train(&r, &err);
        io_set_fault_hook(NULL, NULL);
        must(ok, &err);
        expect_reference(dir.s, "one call failed");
        int steps = count_in(dir.s, "step-");
        if (steps < 1 || count_in(dir.s, "tmp.") > 1) fail_msg("call %d: %d checkpoints", k, steps);
        calls = f.count;
    }
    assert_true(k > 30);
    print_message("[  note    ] %d calls of the writer failed, one at a time\n", k);
    str_release(&dir);
}

static void disk_stays_full(void **state) {
    Str dir = {0};
    Error err = {0};
    (void)state;
    fresh_dir(&dir, "state_full");
    Faults f = {pthread_self(), 0, INT32_MAX, ENOSPC, true};
    Run r = {.dir = dir.s, .every = 3};
    io_set_fault_hook(fail_kth, &f); /* how many calls make one save? */
    must(train(&(Run){.dir = dir.s, .every = 7}, &err), &err);
    f.fail_at = f.count, f.count = 0;
    fresh_dir(&dir, "state_full");
    bool ok = train(&r, &err);
    io_set_fault_hook(NULL, NULL);
    must(ok, &err);
    expect_reference(dir.s, "a full disk");
    assert_int_equal(count_in(dir.s, "step-"), 1); /* the one from before it was full, and it is whole: */
    Ckpt *c;
    Str path = {0};
    str_printf(&path, "%s/state", dir.s);
    must(ckpt_newest(&c, path.s, "state_full", NULL, &err), &err);
    assert_true(c && ckpt_manifest(c)->step == 3);
    ckpt_close(c);
    str_release(&path);
    str_release(&dir);
}

/* A file system of 1 MiB with room for one checkpoint: by blocks (c0 says no), or by files (a write fails). */
static int on_small_disk(const char *dir, const char *options, size_t filler) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0) return WEXITSTATUS(end(child));
    Error err = {0};
    Ckpt *c = NULL;
    Str path = {0};
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", dir, "tmpfs", 0, options) != 0)
        _exit(SKIPPED);
    str_printf(&path, "%s/filler", dir);
    void *zero = calloc(1, filler + 1);
    bool ok = (filler == 0 || io_write_file(path.s, zero, filler, &err)) && train(&(Run){.dir = dir, .every = 2}, &err);
    str_clear(&path);
    str_printf(&path, "%s/state", dir);
    const char *slash = strrchr(dir, '/') + 1;
    ok = ok && ckpt_newest(&c, path.s, slash, NULL, &err);
    int code = !ok ? 1 : !c ? 2 : ckpt_manifest(c)->step != 2 ? 3 : count_in(dir, "bad.") ? 4 : 0;
    str_clear(&path);
    Str hash = {0};
    file_in(&hash, dir, "hash");
    if (code == 0 && strcmp(hash.s, reference)) code = 5;
    if (code) fprintf(stderr, "%s: %d %s\n", options, code, err.msg);
    _exit(code);
}

static void small_disk(void **state) {
    Str dir = {0};
    (void)state;
    fresh_dir(&dir, "state_small");
    int code = on_small_disk(dir.s, "size=1m,nr_inodes=11", 0);
    if (code == SKIPPED) {
        print_message("[  note    ] skipped: mounting a tmpfs in a namespace of its own is not permitted here\n");
        skip();
    }
    assert_int_equal(code, 0);
    assert_int_equal(on_small_disk(dir.s, "size=1m", 520000), 0);
    str_release(&dir);
}

/* -- several ranks: here processes with equal nets, as data parallel has them */

static void ranks_share_the_writing(void **state) {
    enum { RANKS = 3 };
    Str dir = {0}, path = {0};
    Error err = {0};
    pid_t child[RANKS];
    int64_t total = 0, least = INT64_MAX;
    (void)state;
    fresh_dir(&dir, "state_ranks");
    for (int r = 0; r < RANKS; r++) {
        child[r] = fork();
        if (child[r] > 0) continue;
        Fixture f;
        State *s;
        Optim *o;
        OptimConfig oc = {.lr = 1, .eps = 1e-8};
        Schedule once = {.kind = SCHED_CONSTANT, .total = 1};
        const StateConfig c = {.rank = r, .n_ranks = RANKS};
        setup(&f, "bf16", HEAD_LM);
        str_printf(&path, "%s/opened", dir.s);
        while (r > 0 && !io_exists(path.s)) usleep(1000); /* rank 0 sweeps */
        bool ok = optim_open(&o, &f.net, NULL, 1, &oc, &err) && state_open(&s, dir.s, &c, NULL, NULL, &err);
        ok = ok && (r > 0 || io_write_file(path.s, "", 0, &err));
        StateView v = {.net = {{"net", f.net}}, .n_net = 1, .optim = o, .optim_net = {"net"}, .step = 4, .metric = NAN};
        v.schedule = &once;
        ok = ok && state_save_last(s, &v, put_nothing, NULL, &err);
        if (!ok) fprintf(stderr, "rank %d: %s\n", r, err.msg);
        _exit(ok ? 0 : 1);
    }
    for (int r = 0; r < RANKS; r++) assert_int_equal(end(child[r]), 0);
    for (int r = 0; r < RANKS; r++) {
        str_clear(&path);
        str_printf(&path, "%s/state/step-00000004/shard-%05d-of-%05d.safetensors", dir.s, r, RANKS);
        int64_t bytes = io_size(path.s);
        total += bytes;
        if (bytes < least) least = bytes;
    }
    assert_true(least > total / RANKS * 3 / 4); /* balanced */
    Fixture want, f;
    Optim *o;
    State *s;
    const Json *progress;
    const OptimConfig oc = {.lr = 1, .eps = 1e-8};
    setup(&want, "bf16", HEAD_LM);
    open_backend(&f, "bf16", 1);
    open_net(&f, HEAD_LM, SEED + 3);
    must(optim_open(&o, &f.net, NULL, 1, &oc, &err), &err);
    must(state_open(&s, dir.s, &(StateConfig){0}, NULL, NULL, &err), &err);
    must(state_find(s, &progress, &err), &err);
    assert_non_null(progress);
    assert_int_equal(state_found(s), 4);
    StateView v = {.net = {{"net", f.net}}, .n_net = 1, .optim = o, .optim_net = {"net"}};
    must(state_load(s, &v, &err), &err);
    Hasher *a = hasher_new(), *b = hasher_new();
    net_visit(want.net, hash_param, a);
    net_visit(f.net, hash_param, b);
    assert_true(hash_equal(hasher_finish(a), hasher_finish(b)));
    state_close(s);
    optim_close(o);
    close_all(&f);
    close_all(&want);
    str_release(&dir);
    str_release(&path);
}

/* -- the folder */

static void earlier_format(void **state) {
    Str dir = {0}, path = {0};
    Error err = {0};
    (void)state;
    fresh_dir(&dir, "state_old");
    str_printf(&path, "%s/state", dir.s);
    must(io_make_dirs(path.s, &err), &err);
    str_put(&path, "/state.json");
    must(io_write_file(path.s, "{\"step\":3}", 10, &err), &err);
    assert_true(state_exists(dir.s));
    assert_false(train(&(Run){.dir = dir.s}, &err));
    assert_int_equal(err.code, ERR_STATE);
    assert_non_null(strstr(err.msg, "state/state.json: a state of an earlier version"));
    assert_non_null(strstr(err.msg, "remove the folder"));
    must(state_remove(dir.s, &err), &err);
    assert_false(state_exists(dir.s));
    must(train(&(Run){.dir = dir.s}, &err), &err);
    expect_reference(dir.s, "begun again");
    str_release(&dir);
    str_release(&path);
}

static void what_stays(void **state) {
    Str dir = {0};
    Error err = {0};
    (void)state;
    fresh_dir(&dir, "state_stay");
    must(train(&(Run){.dir = dir.s, .every = 1, .keep = 100}, &err), &err);
    assert_int_equal(count_in(dir.s, "step-"), STEPS - 1);
    must(state_finish(dir.s, &(StateConfig){.keep_every = 4}, &err), &err);
    assert_int_equal(count_in(dir.s, "step-"), 2);
    must(state_finish(dir.s, &(StateConfig){.keep_best = true}, &err), &err);
    assert_int_equal(count_in(dir.s, "step-"), 1);
    must(state_finish(dir.s, &(StateConfig){0}, &err), &err);
    assert_false(state_exists(dir.s));
    str_release(&dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_at_each_point), cmocka_unit_test(killed_anywhere),
        cmocka_unit_test(disk_fails_once),      cmocka_unit_test(disk_stays_full),
        cmocka_unit_test(small_disk),           cmocka_unit_test(ranks_share_the_writing),
        cmocka_unit_test(earlier_format),       cmocka_unit_test(what_stays),
    };
    return cmocka_run_group_tests(tests, make_reference, NULL);
}
