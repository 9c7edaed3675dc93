// layer: nn
/* Checkpoints: what is saved comes back in every cut, in the background as in front, from one process or several; what
 * was damaged anywhere is found, and the one before is taken. */
#include "ckpt_fixture.h"

#include <errno.h>

#include "base/crc32c.h"
#include "nn/ckpt_int.h"

static const char shard[] = "shard-00000-of-00001.safetensors";

/* -- sums */

static void crc_is_castagnolis(void **state) {
    unsigned char b[300], zero[32] = {0}, ones[32];
    (void)state;
    memset(ones, 0xff, sizeof ones);
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(crc32c(0, zero, 32), 0x8a9136aa); /* RFC 3720, appendix B.4 */
    assert_int_equal(crc32c(0, ones, 32), 0x62a8ab43);
    for (int i = 0; i < 300; i++) b[i] = (unsigned char)(i * i + 7);
    for (size_t n = 0; n < 290; n++)
        for (size_t from = 0; from < 9; from++) {
            uint32_t all = crc32c_table(0, b + from, n);
            assert_int_equal(crc32c(0, b + from, n), all);
            assert_int_equal(crc32c(crc32c(0, b + from, n / 3), b + from + n / 3, n - n / 3), all);
        }
}

/* -- saving and loading */

static void comes_back(void **state) {
    char dir[300];
    Error err = {0};
    (void)state;
    fresh(dir, "back");
    assert_int_equal(newest(dir), -1);
    save_steps(dir, (const int64_t[]){5, 7}, 2);
    assert_int_equal(newest(dir), 7);
    Str latest = {0}, path = {0};
    read_all(&latest, dir, "LATEST");
    assert_string_equal(latest.s, "step-00000007\n");
    Ckpt *c;
    str_printf(&path, "%s/step-00000007", dir);
    must(ckpt_open(&c, path.s, &err), &err);
    const CkptManifest *m = ckpt_manifest(c);
    assert_true(ckpt_verified(c) && m->step == 7 && m->parent == 5 && m->world == 1 && m->n_tensor == N_TENSOR);
    assert_string_equal(m->run, "r");
    assert_int_equal(json_int(json_get(m->section[CKPT_PROGRESS], "seen"), 0), 12);
    assert_int_equal(json_int(json_get(m->section[CKPT_LAYOUT], "dp"), 0), 1);
    must(ckpt_check(c, true, &err), &err);
    /* what is asked for must be there, as it is asked for; and, exactly, nothing else */
    Part p;
    part_open(&p, 0, 1, 0);
    part_fill(&p, -1);
    assert_false(ckpt_load(c, NULL, p.piece, p.n - 1, true, &err));
    assert_non_null(strstr(err.msg, "another net"));
    must(ckpt_load(c, NULL, p.piece, p.n - 1, false, &err), &err);
    CkptPiece odd = p.piece[0];
    odd.name = "net.z";
    assert_false(ckpt_load(c, NULL, &odd, 1, false, &err));
    assert_non_null(strstr(err.msg, "'net.z' (param) is missing"));
    odd = p.piece[0], odd.rows++;
    assert_false(ckpt_load(c, NULL, &odd, 1, false, &err));
    assert_non_null(strstr(err.msg, "37 x 19, expected F32 of 38 x 19"));
    ckpt_close(c);
    part_close(&p);
    str_release(&latest);
    str_release(&path);
}

/* One process writes n shards' worth of pieces as n ranks would: one after another, each its own process. */
static void write_ranks(const char *dir, int n, int dim, int64_t step, int missing) {
    pid_t child[8];
    char opened[400];
    snprintf(opened, sizeof opened, "%s/../opened", dir);
    unlink(opened);
    mkdir(dir, 0777);
    for (int r = 0; r < n; r++) {
        if (r == missing) continue;
        child[r] = fork();
        assert_true(child[r] >= 0);
        if (child[r] > 0) continue;
        Error err = {0};
        CkptWriter *w;
        Part p;
        CkptConfig c = {
            .dir = dir, .run = "r", .rank = r, .n_ranks = n, .keep = 2, .patience_s = missing < 0 ? 30 : 0.5};
        c.wait = r % 2;
        part_open(&p, r, n, dim);
        while (r > 0 && !io_exists(opened)) usleep(1000);
        bool ok = ckpt_writer_open(&w, &c, &err);
        if (r == 0) write_all(dir, "../opened", "", 0);
        if (ok && r == 0) usleep(2000 * (useconds_t)n); /* the others are first */
        ok = ok && save_step(w, &p, step, &err) && ckpt_wait(w, &err);
        if (!ok && missing < 0) fprintf(stderr, "rank %d: %s\n", r, err.msg);
        ckpt_writer_close(w);
        part_close(&p);
        _exit(ok ? 0 : 1);
    }
    for (int r = 0; r < n; r++) {
        int status;
        if (r == missing) continue;
        assert_int_equal(waitpid(child[r], &status, 0), child[r]);
        assert_int_equal(WEXITSTATUS(status), missing >= 0);
    }
}

/* Saved by n processes, cut along rows or columns; loaded by m under every other cut. */
static void any_cut_loads_any_other(void **state) {
    char dir[300];
    (void)state;
    fresh(dir, "cuts");
    int64_t step = 0;
    for (int n = 1; n <= 5; n += 2)
        for (int dim = 0; dim < 2; dim++) {
            Error err = {0};
            Ckpt *c;
            write_ranks(dir, n, dim, ++step, -1);
            must(ckpt_newest(&c, dir, "r", NULL, &err), &err);
            assert_non_null(c);
            assert_true(ckpt_manifest(c)->step == step && ckpt_manifest(c)->world == n && ckpt_verified(c));
            assert_int_equal(ckpt_manifest(c)->n_file, n);
            for (int m = 1; m <= 4; m++)
                for (int to = 0; to < 2; to++)
                    for (int r = 0; r < m; r++) {
                        Part p;
                        part_open(&p, r, m, to);
                        part_fill(&p, -1);
                        must(ckpt_load(c, NULL, p.piece, p.n, false, &err), &err);
                        if (!part_is(&p, step)) fail_msg("%d shards (dim %d) as %d of %d (dim %d)", n, dim, r, m, to);
                        part_close(&p);
                    }
            ckpt_close(c);
        }
    char **name;
    int count;
    Error err;
    must(ckpt_list(&name, &count, dir, &err), &err);
    assert_int_equal(count, 2); /* and nothing of the others' marks or records */
    io_free_list(name, count);
    Str path = {0};
    str_printf(&path, "%s/step-%08lld", dir, (long long)step);
    must(io_list_dir(&name, &count, path.s, &err), &err);
    assert_int_equal(count, 5 + 2);
    io_free_list(name, count);
    str_release(&path);
}

static void a_rank_is_missing(void **state) {
    char dir[300];
    (void)state;
    fresh(dir, "missing");
    write_ranks(dir, 3, 0, 4, -1);
    write_ranks(dir, 3, 0, 5, 2); /* all that are there give up */
    Error err = {0};
    Ckpt *c;
    must(ckpt_newest(&c, dir, "r", NULL, &err), &err);
    assert_true(c && ckpt_manifest(c)->step == 4);
    ckpt_close(c);
}

static void resharded_folder(void **state) {
    char dir[300], out[340];
    Error err = {0};
    Ckpt *c;
    (void)state;
    fresh(dir, "reshard");
    save_steps(dir, (const int64_t[]){3}, 1);
    for (int dim = 0; dim < 2; dim++) {
        Str from = {0};
        str_printf(&from, "%s/step-00000003", dir);
        must(ckpt_open(&c, from.s, &err), &err);
        snprintf(out, sizeof out, "%s-%d", dir, dim);
        must(io_remove_tree(out, &err) && io_make_dirs(out, &err), &err);
        strcat(out, "/step-00000003");
        must(ckpt_reshard(c, out, 4, dim, &err), &err);
        assert_false(ckpt_reshard(c, out, 4, dim, &err));
        ckpt_close(c);
        *strrchr(out, '/') = 0;
        assert_int_equal(newest(out), 3);
        str_release(&from);
    }
}

/* -- in the background */

static void same_bytes_in_background(void **state) {
    char dir[2][300];
    Error err = {0};
    Str file[2] = {0};
    (void)state;
    for (int wait = 0; wait < 2; wait++) {
        CkptWriter *w;
        Part p;
        fresh(dir[wait], wait ? "front" : "background");
        part_open(&p, 0, 1, 0);
        must(ckpt_writer_open(&w, &(CkptConfig){.dir = dir[wait], .run = "r", .wait = wait}, &err), &err);
        for (int64_t step = 1; step <= 4; step++) {
            must(save_step(w, &p, step, &err), &err);
            part_fill(&p, -1); /* training goes on at once */
        }
        must(ckpt_wait(w, &err), &err);
        assert_false(ckpt_busy(w));
        CkptStats s = ckpt_stats(w);
        assert_true(s.saved == 4 && s.failed == 0 && s.bytes > 30000);
        ckpt_writer_close(w);
        part_close(&p);
        assert_int_equal(newest(dir[wait]), 4);
        read_all(&file[wait], dir[wait], "step-00000004/shard-00000-of-00001.safetensors");
    }
    assert_true(file[0].n == file[1].n && !memcmp(file[0].s, file[1].s, file[0].n));
    str_release(&file[0]);
    str_release(&file[1]);
}

static int count_in(const char *dir, const char *begin) {
    char **name;
    int n, count = 0;
    Error err;
    must(io_list_dir(&name, &n, dir, &err), &err);
    for (int i = 0; i < n; i++) count += !strncmp(name[i], begin, strlen(begin));
    io_free_list(name, n);
    return count;
}

static bool has(const char *dir, const char *name) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return io_exists(path);
}

/* The first sync fails: the system may have dropped the pages, so a new file is written, and that is the end of it. */
static int first_sync(void *ud, const char *what) { return strcmp(what, "fsync") == 0 && (*(int *)ud)-- > 0 ? EIO : 0; }

static void sync_fails(void **state) {
    char dir[300];
    Error err = {0};
    CkptWriter *w;
    Part p;
    (void)state;
    fresh(dir, "sync");
    part_open(&p, 0, 1, 0);
    must(ckpt_writer_open(&w, &(CkptConfig){.dir = dir, .run = "r", .wait = true}, &err), &err);
    for (int times = 1; times <= 2; times++) {
        int left = times;
        io_set_fault_hook(first_sync, &left);
        bool ok = save_step(w, &p, times, &err);
        io_set_fault_hook(NULL, NULL);
        assert_int_equal(ok, times == 1); /* twice in a row is no accident */
        assert_int_equal(newest(dir), 1);
        assert_int_equal(count_in(dir, "tmp."), 0);
    }
    assert_non_null(strstr(err.msg, "step 2"));
    ckpt_writer_close(w);
    part_close(&p);
}

/* What is handed in must make whole tensors: a state with a hole would be found when it is needed. */
static void holes_are_refused(void **state) {
    char dir[300];
    Error err = {0};
    CkptWriter *w;
    Part p;
    (void)state;
    fresh(dir, "hole");
    part_open(&p, 1, 2, 1); /* the second half alone */
    must(ckpt_writer_open(&w, &(CkptConfig){.dir = dir, .run = "r", .wait = true}, &err), &err);
    assert_false(save_step(w, &p, 1, &err));
    assert_non_null(strstr(err.msg, "elements are stored nowhere"));
    assert_int_equal(newest(dir), -1);
    ckpt_writer_close(w);
    part_close(&p);
}

/* -- what stays */

static void retention(void **state) {
    char dir[300];
    Error err = {0};
    CkptWriter *w;
    Part p;
    (void)state;
    fresh(dir, "keep");
    part_open(&p, 0, 1, 0);
    CkptConfig c = {.dir = dir, .run = "r", .wait = true, .keep = 2, .keep_every = 4, .keep_best = true};
    must(ckpt_writer_open(&w, &c, &err), &err);
    for (int64_t step = 1; step <= 10; step++) {
        CkptState s = {.step = step, .piece = p.piece, .n_piece = p.n, .metric = step == 3 ? 0.5 : 2 + (double)step};
        part_fill(&p, step);
        must(ckpt_save(w, NULL, &s, &err), &err);
    }
    ckpt_writer_close(w);
    static const char *const stay[] = {"step-00000003", "step-00000004", "step-00000008", "step-00000009",
                                       "step-00000010"};
    for (int i = 0; i < COUNT_OF(stay); i++) assert_true(has(dir, stay[i]));
    assert_int_equal(count_in(dir, "step-"), COUNT_OF(stay));
    must(ckpt_finish(dir, 4, true, &err), &err);
    assert_int_equal(count_in(dir, "step-"), 3);
    must(ckpt_finish(dir, 0, false, &err), &err);
    assert_false(io_exists(dir));
    /* the newest that was read back stays, however many newer ones were not */
    fresh(dir, "keep_verified");
    save_steps(dir, (const int64_t[]){1, 2, 3, 4}, 4);
    for (int k = 2; k <= 4; k++) {
        char path[400];
        snprintf(path, sizeof path, "%s/step-0000000%d/VERIFIED", dir, k);
        assert_int_equal(unlink(path), 0);
    }
    c = (CkptConfig){.dir = dir, .keep = 1};
    ckpt_retain(&c);
    assert_true(count_in(dir, "step-") == 2 && has(dir, "step-00000001") && has(dir, "step-00000004"));
    /* somebody else's folder in the place of a step */
    c = (CkptConfig){.dir = dir, .run = "r", .wait = true};
    must(ckpt_writer_open(&w, &c, &err), &err);
    write_all(dir, "x", "", 0); /* LATEST and the like are no steps */
    char path[400];
    snprintf(path, sizeof path, "%s/step-00000005", dir);
    assert_int_equal(mkdir(path, 0777), 0); /* empty: nothing is put in its place */
    assert_false(save_step(w, &p, 5, &err));
    assert_int_equal(rmdir(path), 0);
    ckpt_writer_close(w);
    assert_int_equal(count_in(dir, "step-"), 2);
    assert_int_equal(count_in(dir, "tmp."), 0);
    part_close(&p);
}

/* Left behind by killed processes; and what is another's stays. */
static void swept_at_start(void **state) {
    char dir[300];
    Error err = {0};
    CkptWriter *w;
    (void)state;
    fresh(dir, "sweep");
    save_steps(dir, (const int64_t[]){1}, 1);
    static const char *const junk[] = {"tmp.step-00000002.a0", "trash.step-00000000", "bad.step-00000009"};
    for (int i = 0; i < COUNT_OF(junk); i++) {
        char path[400];
        snprintf(path, sizeof path, "%s/%s", dir, junk[i]);
        must(io_make_dirs(path, &err), &err);
        write_all(path, "f", "abc", 3);
    }
    must(ckpt_writer_open(&w, &(CkptConfig){.dir = dir, .run = "r"}, &err), &err);
    ckpt_writer_close(w);
    assert_true(count_in(dir, "tmp.") == 0 && count_in(dir, "trash.") == 0 && count_in(dir, "bad.") == 1);
    assert_int_equal(newest(dir), 1);
}

/* -- damage */

static const char *const files[] = {shard, "manifest.json", "VERIFIED"};

/* Two checkpoints, and the newer one's three files as they should be. */
static void two(char dir[300], char step[400], Str *good, const char *name) {
    fresh(dir, name);
    save_steps(dir, (const int64_t[]){5, 6}, 2);
    snprintf(step, 400, "%s/step-00000006", dir);
    for (int i = 0; i < COUNT_OF(files); i++) read_all(&good[i], step, files[i]);
}

/* The newer one must be refused and set aside, the older one taken; then it is put back as it was. */
static void expect_found(const char *dir, const char *step, const char *what) {
    char bad[420];
    Error err;
    Ckpt *c;
    must(ckpt_newest(&c, dir, "r", NULL, &err), &err);
    if (!c || ckpt_manifest(c)->step != 5) fail_msg("%s: was not found", what);
    ckpt_close(c);
    snprintf(bad, sizeof bad, "%s/bad.step-00000006", dir);
    assert_true(io_exists(bad) && !io_exists(step));
    assert_int_equal(rename(bad, step), 0);
}

static void truncated_anywhere(void **state) {
    char dir[300], step[400], what[100];
    Str good[3] = {0};
    Rng r = {3, RNG_TEST};
    (void)state;
    two(dir, step, good, "truncated");
    for (int f = 0; f < 3; f++) {
        for (int k = 0; k < 100; k++) {
            size_t n = rng_below(r, (uint64_t)f, (uint32_t)k, (uint32_t)good[f].n);
            snprintf(what, sizeof what, "%s cut to %zu of %zu bytes", files[f], n, good[f].n);
            write_all(step, files[f], good[f].s, n);
            expect_found(dir, step, what);
        }
        write_all(step, files[f], good[f].s, good[f].n);
    }
    assert_int_equal(newest(dir), 6);
    for (int f = 0; f < 3; f++) str_release(&good[f]);
}

static void unverify(const char *step) {
    char path[500];
    snprintf(path, sizeof path, "%s/VERIFIED", step);
    assert_int_equal(unlink(path), 0);
}

static void bits_flipped_anywhere(void **state) {
    char dir[300], step[400], what[100];
    Str good[3] = {0};
    Rng r = {4, RNG_TEST};
    size_t total = 0;
    (void)state;
    two(dir, step, good, "flipped");
    for (int f = 0; f < 3; f++) total += good[f].n;
    for (int k = 0; k < 1000; k++) {
        /* over all bytes of all files; a third of them in the two small ones */
        size_t at = rng_below(r, 0, (uint32_t)k, (uint32_t)total), f = 0;
        if (k % 3 == 0) at = good[0].n + rng_below(r, 1, (uint32_t)k, (uint32_t)(total - good[0].n));
        while (at >= good[f].n) at -= good[f++].n;
        char mask = (char)(1 << rng_below(r, 2, (uint32_t)k, 8));
        snprintf(what, sizeof what, "%s: bit mask %d of byte %zu", files[f], mask, at);
        good[f].s[at] ^= mask;
        write_all(step, files[f], good[f].s, good[f].n);
        if (f == 1 && k % 2) unverify(step); /* then the manifest has only itself */
        expect_found(dir, step, what);
        good[f].s[at] ^= mask;
        write_all(step, files[f], good[f].s, good[f].n);
        write_all(step, files[2], good[2].s, good[2].n);
    }
    assert_int_equal(newest(dir), 6);
    for (int f = 0; f < 3; f++) str_release(&good[f]);
}

static void manifests_of_others(void **state) {
    char dir[300], step[400], path[500], other[400];
    Error err = {0};
    Str good[3] = {0}, foreign = {0};
    Ckpt *c;
    (void)state;
    two(dir, step, good, "foreign");
    for (int f = 0; f < 2; f++) { /* without VERIFIED it is only not verified */
        snprintf(path, sizeof path, "%s/%s", step, files[f]);
        assert_int_equal(unlink(path), 0);
        expect_found(dir, step, files[f]);
        write_all(step, files[f], good[f].s, good[f].n);
    }
    snprintf(path, sizeof path, "%s/VERIFIED", step);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(newest(dir), 6);
    /* a good manifest, of another step */
    snprintf(other, sizeof other, "%s/step-00000005", dir);
    read_all(&foreign, other, "manifest.json");
    write_all(step, "manifest.json", foreign.s, foreign.n);
    expect_found(dir, step, "a manifest of step 5");
    write_all(step, "manifest.json", good[1].s, good[1].n);
    /* another run's checkpoint, whole */
    must(ckpt_newest(&c, dir, "somebody else's", NULL, &err), &err);
    assert_null(c);
    assert_int_equal(count_in(dir, "bad."), 2);
    /* nothing of it is a checkpoint */
    fresh(dir, "none");
    snprintf(path, sizeof path, "%s/step-00000001", dir);
    must(io_make_dirs(path, &err), &err);
    assert_int_equal(newest(dir), -1);
    assert_int_equal(count_in(dir, "bad."), 1);
    str_release(&foreign);
    for (int f = 0; f < 3; f++) str_release(&good[f]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc_is_castagnolis),
        cmocka_unit_test(comes_back),
        cmocka_unit_test(any_cut_loads_any_other),
        cmocka_unit_test(a_rank_is_missing),
        cmocka_unit_test(resharded_folder),
        cmocka_unit_test(same_bytes_in_background),
        cmocka_unit_test(sync_fails),
        cmocka_unit_test(holes_are_refused),
        cmocka_unit_test(retention),
        cmocka_unit_test(swept_at_start),
        cmocka_unit_test(truncated_anywhere),
        cmocka_unit_test(bits_flipped_anywhere),
        cmocka_unit_test(manifests_of_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
