// layer: base
/* Files under faults: the k-th system call fails, for every k until the operation succeeds; each time the target holds
 * its old content or the new one, nothing is left behind, and nothing leaks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define DIR "io_test.d"

typedef struct {
    int calls, fail_at, with;
} Fault;

static int hook(void *ud, const char *what) {
    Fault *f = ud;
    (void)what;
    return ++f->calls == f->fail_at ? f->with : 0;
}

static int open_files(void) {
    char **names;
    int n;
    Error err = {0};
    assert_true(io_list_dir(&names, &n, "/proc/self/fd", &err));
    io_free_list(names, n);
    return n;
}

static int setup(void **state) {
    (void)state;
    Error err = {0};
    return io_remove_tree(DIR, &err) && io_make_dirs(DIR "/a/b", &err) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    Error err = {0};
    io_set_fault_hook(NULL, NULL);
    return io_remove_tree(DIR, &err) ? 0 : -1;
}

static bool holds(const char *path, const char *want, size_t n) {
    Str s = {0};
    Error err = {0};
    bool same = io_read_file(&s, path, 1 << 30, &err) && s.n == n && memcmp(s.s, want, n) == 0;
    str_release(&s);
    return same;
}

/* ---- operations run under faults; each returns what the function under test returned ---- */

static char old_text[300000], new_text[300000];

static bool op_write(Error *err) { return io_write_file(DIR "/t", new_text, sizeof new_text, err); }
static bool op_copy(Error *err) { return io_copy_file(DIR "/new", DIR "/t", err); }

static bool op_stream(Error *err) {
    Writer *w;
    if (!writer_open(&w, DIR "/t", err)) return false;
    for (size_t i = 0; i < sizeof new_text; i += 1000) {
        if (writer_put(w, new_text + i, 1000, err)) continue;
        writer_abandon(w);
        return false;
    }
    return writer_commit(w, err);
}

static int names_in(const char *dir) {
    char **names;
    int n;
    Error err = {0};
    assert_true(io_list_dir(&names, &n, dir, &err));
    io_free_list(names, n);
    return n;
}

static void under_faults(bool (*op)(Error *err), int with) {
    Error err = {0};
    memset(old_text, 'o', sizeof old_text);
    memset(new_text, 'n', sizeof new_text);
    assert_true(io_write_file(DIR "/new", new_text, sizeof new_text, &err));
    int fds = open_files(), k = 1;
    for (;; k++) {
        assert_true(io_write_file(DIR "/t", old_text, sizeof old_text, &err));
        Fault f = {.fail_at = k, .with = with};
        io_set_fault_hook(hook, &f);
        err = (Error){0};
        bool ok = op(&err);
        io_set_fault_hook(NULL, NULL);
        bool is_old = holds(DIR "/t", old_text, sizeof old_text), is_new = holds(DIR "/t", new_text, sizeof new_text);
        assert_true(is_old || is_new);
        assert_int_equal(names_in(DIR), 3); /* a, new, t: no temporary is left */
        assert_int_equal(open_files(), fds);
        if (f.calls < k) {
            assert_true(ok && is_new);
            break;
        }
        assert_false(ok);
        assert_int_equal(err.code, ERR_IO);
        assert_non_null(strstr(err.msg, DIR));
    }
    assert_true(k > 5);
}

static void test_atomic_writes_under_faults(void **state) {
    (void)state;
    static const int with[] = {ENOSPC, EIO, EROFS};
    for (int i = 0; i < COUNT_OF(with); i++) {
        under_faults(op_write, with[i]);
        under_faults(op_stream, with[i]);
        under_faults(op_copy, with[i]);
    }
}

static int note_call(void *ud, const char *what) {
    str_printf(ud, "%s ", what);
    return 0;
}

static void test_durable_and_in_order(void **state) {
    (void)state;
    Error err = {0};
    Str calls = {0};
    io_set_fault_hook(note_call, &calls);
    bool ok = io_write_file(DIR "/t", "text", 4, &err);
    io_set_fault_hook(NULL, NULL);
    assert_true(ok);
    assert_string_equal(calls.s, "open write fsync rename open fsync "); /* the file, then its folder */
    str_release(&calls);

    /* A writer that failed once never commits, whatever the caller forgets. */
    Writer *w;
    Fault f = {.fail_at = 1, .with = ENOSPC};
    static char big[1 << 20];
    assert_true(writer_open(&w, DIR "/t", &err));
    io_set_fault_hook(hook, &f);
    assert_false(writer_put(w, big, sizeof big, &err));
    io_set_fault_hook(NULL, NULL);
    assert_false(writer_put(w, "x", 1, &err));
    assert_false(writer_commit(w, &err));
    assert_true(holds(DIR "/t", "text", 4));

    assert_true(writer_open(&w, DIR "/t", &err)); /* the same when the buffer, not the put, failed */
    f.calls = 0;
    memset(big, 'x', 1000);
    assert_true(writer_put(w, big, 1000, &err));
    io_set_fault_hook(hook, &f);
    bool put = true;
    for (int i = 0; i < 1000 && put; i++) put = writer_put(w, big, 1000, &err);
    io_set_fault_hook(NULL, NULL);
    assert_false(put);
    assert_false(writer_commit(w, &err));
    assert_true(holds(DIR "/t", "text", 4));
}

static void test_other_calls_under_faults(void **state) {
    (void)state;
    Error err = {0};
    assert_true(io_write_file(DIR "/a/x", "text", 4, &err));
    int fds = open_files();
    for (int k = 1; k < 12; k++) {
        Fault f = {.fail_at = k, .with = EIO};
        IoMap m;
        Str s = {0};
        io_set_fault_hook(hook, &f);
        if (io_map(&m, DIR "/a/x", &err)) io_unmap(&m);
        f.calls = 0;
        if (!io_read_file(&s, DIR "/a/x", 100, &err)) assert_string_equal(str_get(&s), "");
        str_release(&s);
        f.calls = 0;
        if (!io_make_dirs(DIR "/n/o", &err)) assert_int_equal(err.code, ERR_IO);
        f.calls = 0;
        io_sync_tree(DIR, &err);
        f.calls = 0;
        LineReader *r;
        const char *line;
        size_t n;
        if (lines_open(&r, DIR "/a/x", 100, &err)) {
            while (lines_next(r, &line, &n, &err)) continue;
            lines_close(r);
        }
        f.calls = 0;
        Appender *a;
        if (appender_open(&a, DIR "/log", -1, &err)) {
            appender_line(a, "one", 3, &err);
            appender_sync(a, &err);
            appender_close(a);
        }
        f.calls = 0;
        IoLock lock;
        if (io_lock(&lock, DIR "/lock", &err)) io_unlock(&lock);
        io_set_fault_hook(NULL, NULL);
        assert_int_equal(open_files(), fds);
    }
}

static void test_folders(void **state) {
    (void)state;
    Error err = {0};
    assert_true(io_make_dirs(DIR "/p/q/r/", &err));
    assert_true(io_make_dirs(DIR "/p/q/r", &err));
    assert_true(io_is_dir(DIR "/p/q/r"));
    assert_true(io_write_file(DIR "/p/file", "", 0, &err));
    assert_int_equal(io_size(DIR "/p/file"), 0);
    assert_int_equal(io_size(DIR "/p/none"), -1);
    assert_false(io_make_dirs(DIR "/p/file/x", &err));
    assert_false(io_write_file(DIR "/no/such/dir", "x", 1, &err));
    assert_non_null(strstr(err.msg, DIR "/no/such/dir: cannot create: No such file"));
    assert_true(io_rename(DIR "/p/file", DIR "/p/file2", &err));
    assert_false(io_exists(DIR "/p/file"));
    assert_true(io_sync_tree(DIR, &err));
    assert_int_equal(symlink("/etc", DIR "/p/link"), 0);
    char **names;
    int n;
    assert_true(io_list_dir(&names, &n, DIR "/p", &err));
    assert_int_equal(n, 3);
    assert_string_equal(names[0], "file2");
    assert_string_equal(names[1], "link");
    assert_string_equal(names[2], "q");
    io_free_list(names, n);
    Writer *killed;
    assert_true(writer_open(&killed, DIR "/p/file2", &err));
    assert_int_equal(names_in(DIR "/p"), 4); /* as a killed process leaves it */
    assert_true(io_sweep(DIR "/p", &err));
    assert_int_equal(names_in(DIR "/p"), 3);
    assert_true(io_exists(DIR "/p/file2"));
    writer_abandon(killed);
    assert_true(io_remove_tree(DIR "/p", &err));
    assert_true(io_is_dir("/etc")); /* links are removed, not followed */
    assert_false(io_exists(DIR "/p"));
    assert_true(io_remove_tree(DIR "/p", &err));
    assert_true(io_free_bytes(".") > 0);
    Str s = {0};
    assert_false(io_read_file(&s, DIR, 100, &err));
    assert_true(io_write_file(DIR "/big", "0123456789", 10, &err));
    assert_false(io_read_file(&s, DIR "/big", 9, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_true(io_read_file(&s, DIR "/big", 10, &err));
    str_release(&s);
}

static void test_appender(void **state) {
    (void)state;
    Error err = {0};
    Appender *a;
    assert_true(appender_open(&a, DIR "/m", -1, &err));
    assert_true(appender_line(a, "one", 3, &err));
    int64_t after_one = appender_size(a);
    assert_true(appender_line(a, "two", 3, &err));
    appender_close(a);
    assert_true(holds(DIR "/m", "one\ntwo\n", 8));
    assert_true(appender_open(&a, DIR "/m", after_one, &err));
    assert_true(appender_line(a, "2", 1, &err));
    assert_int_equal(appender_size(a), 6);
    Fault f = {.fail_at = 1, .with = ENOSPC};
    io_set_fault_hook(hook, &f);
    assert_false(appender_line(a, "lost", 4, &err));
    io_set_fault_hook(NULL, NULL);
    appender_close(a);
    assert_true(holds(DIR "/m", "one\n2\n", 6));
    assert_false(appender_open(&a, DIR "/m", 100, &err));
    assert_int_equal(err.code, ERR_STATE);
    /* Half a line of a killed process is closed, not continued. */
    assert_true(io_write_file(DIR "/m", "one\nha", 6, &err));
    assert_true(appender_open(&a, DIR "/m", -1, &err));
    assert_true(appender_line(a, "two", 3, &err));
    appender_close(a);
    assert_true(holds(DIR "/m", "one\nha\ntwo\n", 11));
}

/* ---- lines ---- */

static Str gz(const char *s, size_t n) {
    z_stream z = {0};
    Str out = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    size_t cap = deflateBound(&z, n) + 64;
    char *buf = malloc(cap);
    z.next_in = (unsigned char *)(uintptr_t)s, z.avail_in = (uInt)n;
    z.next_out = (unsigned char *)buf, z.avail_out = (uInt)cap;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    str_putn(&out, buf, cap - z.avail_out);
    deflateEnd(&z);
    free(buf);
    return out;
}

static Str zst(const char *s, size_t n) {
    Str out = {0};
    size_t cap = ZSTD_compressBound(n);
    char *buf = malloc(cap);
    str_putn(&out, buf, ZSTD_compress(buf, cap, s, n, 3));
    free(buf);
    return out;
}

/* Reads all lines joined by '|'; "!" and the code after an error. */
static void read_lines(Str *out, const char *path, size_t max_line) {
    Error err = {0};
    LineReader *r;
    str_clear(out);
    str_putn(out, "", 0);
    if (!lines_open(&r, path, max_line, &err)) {
        str_printf(out, "!open %d", (int)err.code);
        return;
    }
    const char *line;
    size_t n;
    int64_t count = 0;
    while (lines_next(r, &line, &n, &err)) {
        assert_int_equal(line[n], 0);
        assert_int_equal(lines_number(r), ++count);
        str_putn(out, line, n);
        str_putc(out, '|');
    }
    if (err.code != ERR_NONE) str_printf(out, "!%d", (int)err.code);
    lines_close(r);
}

static void expect_lines(const char *content, size_t n, const char *want) {
    Error err = {0};
    Str got = {0};
    assert_true(io_write_file(DIR "/l", content, n, &err));
    read_lines(&got, DIR "/l", 20);
    assert_string_equal(got.s, want);
    str_release(&got);
}

static void test_lines_of_text(void **state) {
    (void)state;
    expect_lines("", 0, "");
    expect_lines("a\nb\n", 4, "a|b|");
    expect_lines("a\nb", 3, "a|b|");
    expect_lines("a\r\n\r\nb\r\n", 8, "a||b|");
    expect_lines("a\rb\n", 4, "a\rb|");
    expect_lines("\xEF\xBB\xBF{}\n\xEF\xBB\xBFx\n", 10, "{}|\xEF\xBB\xBFx|");
    expect_lines("\xEF\xBB\xBF", 3, "|");
    expect_lines("\n\n", 2, "||");
    expect_lines("\x1f", 1, "\x1f|");
    expect_lines("\x28\xB5\x2F", 3, "\x28\xB5\x2F|");
    expect_lines("12345678901234567890\n", 21, "12345678901234567890|");
    expect_lines("ok\n123456789012345678901\nrest\n", 29, "ok|!2");
    expect_lines("ok\n123456789012345678901", 24, "ok|!2");
}

static void test_lines_of_compressed(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        Str (*pack)(const char *, size_t) = kind ? zst : gz;
        Str a = pack("one\ntw", 6), b = pack("o\nthree\n", 8), none = pack("", 0), both = {0};
        expect_lines(a.s, a.n, "one|tw|");
        str_putn(&both, a.s, a.n);
        str_putn(&both, none.s, none.n);
        str_putn(&both, b.s, b.n);
        expect_lines(both.s, both.n, "one|two|three|"); /* several members, a line across two of them */
        expect_lines(none.s, none.n, "");
        for (size_t cut = 1; cut < b.n; cut++) { /* cut off inside the second: an error, never a silent end */
            Str got = {0};
            Error err = {0};
            size_t keep = a.n + none.n + cut;
            assert_true(io_write_file(DIR "/l", both.s, keep, &err));
            read_lines(&got, DIR "/l", 20);
            assert_non_null(strchr(got.s, '!'));
            str_release(&got);
        }
        both.s[a.n / 2] ^= 0x55;
        Str got = {0};
        Error err = {0};
        assert_true(io_write_file(DIR "/l", both.s, both.n, &err));
        read_lines(&got, DIR "/l", 20);
        assert_non_null(strchr(got.s, '!'));
        str_release(&got);
        str_release(&a), str_release(&b), str_release(&none), str_release(&both);
    }
    Str padded = gz("x\n", 2);
    str_putn(&padded, "\0\0\0\0", 4);
    expect_lines(padded.s, padded.n, "x|");
    str_clear(&padded);
    str_release(&padded);
    padded = gz("x\n", 2);
    str_put(&padded, "junk");
    expect_lines(padded.s, padded.n, "x|!2");
    str_release(&padded);
}

/* Lines and members that straddle every buffer: 3 MB in lines of all lengths, plain, gz and zst alike. */
static void test_lines_across_buffers(void **state) {
    (void)state;
    Str text = {0};
    uint64_t sum = 0;
    for (int i = 0; i < 3000; i++) {
        for (int j = 0; j < i % 2011; j++) str_putc(&text, (char)('a' + (i + j) % 26));
        str_put(&text, i % 3 ? "\n" : "\r\n");
    }
    for (int kind = 0; kind < 3; kind++) {
        Error err = {0};
        Str packed = {0};
        for (size_t at = 0; at < text.n; at += 777777) {
            size_t n = text.n - at < 777777 ? text.n - at : 777777;
            Str part = {0};
            if (kind == 0) str_putn(&part, text.s + at, n);
            if (kind == 1) part = gz(text.s + at, n);
            if (kind == 2) part = zst(text.s + at, n);
            str_putn(&packed, part.s, part.n);
            str_release(&part);
        }
        assert_true(io_write_file(DIR "/l", packed.s, packed.n, &err));
        str_release(&packed);
        LineReader *r;
        assert_true(lines_open(&r, DIR "/l", 4000, &err));
        const char *line;
        size_t n;
        int i = 0;
        while (lines_next(r, &line, &n, &err)) {
            assert_int_equal(n, i % 2011);
            for (size_t j = 0; j < n; j += 37) assert_int_equal(line[j], 'a' + (i + (int)j) % 26);
            sum += n;
            i++;
        }
        assert_int_equal(err.code, ERR_NONE);
        assert_int_equal(i, 3000);
        lines_close(r);
    }
    str_release(&text);
    assert_true(sum > 3000000);
}

/* ---- locks ---- */

static int full_disk(void *ud, const char *what) {
    (void)ud;
    return strcmp(what, "write") ? 0 : ENOSPC;
}

static void test_lock(void **state) {
    (void)state;
    Error err = {0};
    IoLock l;
    assert_true(io_lock(&l, DIR "/lock", &err));
    pid_t pid = fork();
    if (pid == 0) {
        Error e = {0};
        IoLock mine;
        char want[40];
        snprintf(want, sizeof want, "process %ld,", (long)getppid());
        close(l.fd); /* inherited: it would keep the lock alive */
        bool refused = !io_lock(&mine, DIR "/lock", &e) && e.code == ERR_CONFIG && strstr(e.msg, want);
        _exit(refused ? 0 : 1);
    }
    int status = 1;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    io_unlock(&l);
    /* A killed holder frees it. */
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
        Error e = {0};
        IoLock mine;
        bool got = io_lock(&mine, DIR "/lock", &e);
        if (write(ready[1], got ? "y" : "n", 1) != 1) _exit(1);
        for (;;) pause();
    }
    char c = 0;
    assert_int_equal(read(ready[0], &c, 1), 1);
    assert_int_equal(c, 'y');
    assert_false(io_lock(&l, DIR "/lock", &err));
    assert_true(io_locked(DIR "/lock"));
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    assert_false(io_locked(DIR "/lock") || io_locked(DIR "/no lock"));
    assert_true(io_lock(&l, DIR "/lock", &err));
    io_unlock(&l);
    io_set_fault_hook(full_disk, NULL); /* whoever makes room needs one, too */
    bool held = io_lock(&l, DIR "/lock", &err) && io_locked(DIR "/lock");
    io_set_fault_hook(NULL, NULL);
    assert_true(held);
    io_unlock(&l);
    close(ready[0]);
    close(ready[1]);
}

/* ---- full disk ---- */

static void test_full_disk(void **state) {
    (void)state;
    Error err = {0};
    assert_true(io_make_dirs(DIR "/disk", &err));
    if (mount("tmpfs", DIR "/disk", "tmpfs", 0, "size=1m") == 0) {
        static char big[2 << 20];
        bool wrote = io_write_file(DIR "/disk/t", "old", 3, &err);
        bool refused = !io_write_file(DIR "/disk/t", big, sizeof big, &err);
        bool kept = holds(DIR "/disk/t", "old", 3);
        int n = names_in(DIR "/disk");
        umount(DIR "/disk"); /* before any assertion can jump away */
        assert_true(wrote && refused && kept);
        assert_non_null(strstr(err.msg, "disk full: free space"));
        assert_int_equal(n, 1);
        return;
    }
    /* Without the right to mount: a limit on the size of files fails in the same place. */
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){1 << 20, 1 << 20});
        static char big[2 << 20];
        Error e = {0};
        bool ok = io_write_file(DIR "/disk/t", "old", 3, &e) && !io_write_file(DIR "/disk/t", big, sizeof big, &e) &&
                  e.code == ERR_IO && holds(DIR "/disk/t", "old", 3) && io_size(DIR "/disk/t") == 3;
        _exit(ok ? 0 : 1);
    }
    int status = 1;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    assert_int_equal(names_in(DIR "/disk"), 1);
}

/* What the program at that path says of a name beside it. */
static void asked(Str *out, const char *program, const char *name) {
    char line[4200];
    Str command = {0};
    str_printf(&command, "%s beside %s", program, name);
    FILE *f = popen(str_get(&command), "r");
    assert_non_null(f);
    size_t n = fread(line, 1, sizeof line, f);
    assert_int_equal(pclose(f), 0);
    str_clear(out);
    str_putn(out, line, n);
    str_release(&command);
}

/* The folder of the program's file, not of a link to it, nor of where it was started. */
static void test_beside_program(void **state) {
    (void)state;
    Error err = {0};
    char self[4096], here[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = 0;
    Str out = {0}, want = {0};
    str_put(&out, "what was here before");
    assert_true(io_beside_program(&out, strrchr(self, '/') + 1, &err));
    assert_string_equal(str_get(&out), self);
    assert_true(io_beside_program(&out, "../conf/tasks", &err));
    str_printf(&want, "%.*s/../conf/tasks", (int)(strrchr(self, '/') - self), self);
    assert_string_equal(str_get(&out), str_get(&want));

    assert_int_equal(symlink(self, DIR "/a/link"), 0);
    asked(&out, DIR "/a/link", strrchr(self, '/') + 1);
    assert_string_equal(str_get(&out), self);
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(link(self, DIR "/a/b/other"), 0);
    asked(&out, "cd " DIR "/a && b/other", "data");
    str_clear(&want);
    str_printf(&want, "%s/" DIR "/a/b/data", here);
    assert_string_equal(str_get(&out), str_get(&want));
    str_release(&out);
    str_release(&want);
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "beside")) { /* asked by test_beside_program */
        Str out = {0};
        Error err = {0};
        if (!io_beside_program(&out, argv[2], &err)) return 1;
        fputs(str_get(&out), stdout);
        str_release(&out);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_atomic_writes_under_faults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_durable_and_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_calls_under_faults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_folders, setup, teardown),
        cmocka_unit_test_setup_teardown(test_appender, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lines_of_text, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lines_of_compressed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lines_across_buffers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_beside_program, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
