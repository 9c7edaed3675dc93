// layer: app
/* dikast monitor beside a run's directory that this test writes: rows that come while it watches, a real HTTP request,
 * a command per alert, its end with the run, refusals. */
#define DIR "app_monitor_test.d"
#include "cli_help.h"

#include "base/goodput.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define RUN DIR "/run"

static void put(const char *path, const char *text) {
    Error err = {0};
    OK(io_write_file(path, text, strlen(text), &err));
}

static void status(const char *word) { put(RUN "/STATUS", word); }

static void begin_run(const char *state) {
    Error err = {0};
    Str lock = {0};
    OK(io_remove_tree(RUN, &err));
    OK(io_make_dirs(RUN "/pm", &err));
    put(RUN "/events.jsonl", "{\"t\":\"x\",\"event\":\"stage_start\",\"stage\":\"pm\",\"msg\":\"" RUN "/pm\"}\n");
    str_printf(&lock, "process %ld, started 2026-01-01 00:00:00 UTC\n", (long)getpid());
    put(RUN "/.lock", lock.s);
    str_release(&lock);
    status(state);
}

static void add_rows(int first, int n, const char *more) {
    FILE *f = fopen(RUN "/pm/metrics.jsonl", "a");
    assert_non_null(f);
    for (int i = first; i < first + n; i++)
        fprintf(f, "{\"step\":%d,\"loss\":%g,\"grad_norm\":1.5%s}\n", i, 2 + 0.01 * (i % 5), more);
    fclose(f);
}

static void test_once(void **state) {
    (void)state;
    Error err = {0};
    Json *j = NULL;
    begin_run("done\n");
    add_rows(1, 50, "");
    add_rows(51, 1, ",\"kl\":12");
    FILE *f = fopen(RUN "/pm/metrics.jsonl", "a"); /* a line that is still being written */
    fputs("{\"step\":52,\"lo", f);
    fclose(f);
    Ran r = run("monitor " RUN " --once --json --tensorboard " DIR "/tb");
    expect_code(&r, "monitor --once", 0);
    OK(json_parse(&j, r.out.s, r.out.n, 0, "out", 1, &err));
    assert_int_equal(json_int(json_get(j, "rows"), -1), 51);
    assert_int_equal(json_int(json_get(j, "alerts"), -1), 1);
    assert_string_equal(json_str(json_get(j, "state"), NULL), "done");
    json_release(j);
    OK(json_read_file(&j, RUN "/alerts.jsonl", 0, &err));
    assert_string_equal(json_str(json_get(j, "alert"), NULL), "kl");
    assert_string_equal(json_str(json_get(j, "stage"), NULL), "pm");
    assert_int_equal(json_int(json_get(j, "step"), -1), 51);
    json_release(j);
    char **name;
    int n;
    OK(io_list_dir(&name, &n, DIR "/tb/pm", &err));
    assert_int_equal(n, 1);
    io_free_list(name, n);
    ran_release(&r);
}

/* What ranks find of each other is an alert; the ledger of time is shown. */
static void test_findings_and_goodput(void **state) {
    (void)state;
    Error err = {0};
    Json *j = NULL;
    Goodput g;
    begin_run("done\n");
    FILE *f = fopen(RUN "/events.jsonl", "a");
    fputs("{\"t\":\"x\",\"event\":\"straggler\",\"stage\":\"pm\",\"msg\":\"step 17: rank 1 is a straggler\"}\n", f);
    fputs("{\"t\":\"x\",\"event\":\"note\",\"stage\":\"pm\",\"msg\":\"step 18: nothing\"}\n", f);
    fclose(f);
    put(RUN "/goodput.json",
        "{\"schema\":\"dikast-goodput/"
        "1\",\"until_unix_ns\":1,\"attempts\":1,\"faults\":0,\"wall_ns\":10,\"ranks\":[{},{}],"
        "\"bins_ns\":{\"productive\":14,\"save\":0,\"lost\":0,\"detection\":0,\"restart\":6,\"data\":0,\"idle\":0}}");
    Ran r = run("monitor " RUN " --once --json");
    expect_code(&r, "monitor --once", 0);
    OK(json_parse(&j, r.out.s, r.out.n, 0, "out", 1, &err));
    assert_int_equal(json_int(json_get(j, "alerts"), -1), 1);
    assert_true(goodput_get(&g, json_get(j, "goodput_ns")) && g.ns[GOOD_PRODUCTIVE] == 14);
    json_release(j);
    ran_release(&r);
    OK(json_read_file(&j, RUN "/alerts.jsonl", 0, &err));
    assert_string_equal(json_str(json_get(j, "alert"), NULL), "straggler");
    assert_int_equal(json_int(json_get(j, "step"), -1), 17);
    json_release(j);
    r = run("monitor " RUN " --once");
    assert_non_null(strstr(str_get(&r.out), "2 ranks: productive 70.0 %"));
    ran_release(&r);
}

/* A run of two ranks by itself: every bin of each adds up to the clock. */
static void test_ledger_of_a_run(void **state) {
    (void)state;
    Error err = {0};
    Json *j;
    Goodput sum = {{0}}, g, total;
    Ran r = run("run " TEST_DIR "/../conf/tiny.yaml -q --only pretrain dist.ranks=2 run.out=" DIR "/out");
    expect_code(&r, "run", 0);
    ran_release(&r);
    OK(json_read_file(&j, DIR "/out/runs/tiny/goodput.json", 0, &err));
    const Json *ranks = json_get(j, "ranks");
    int64_t wall = json_int(json_get(j, "wall_ns"), 0);
    assert_int_equal(json_len(ranks), 2);
    for (int i = 0; i < 2; i++) {
        assert_true(goodput_get(&g, json_get(json_at(ranks, i), "bins_ns")));
        assert_true(goodput_total(&g) == wall && wall > 0);
        goodput_add(&sum, &g);
    }
    assert_true(goodput_get(&total, json_get(j, "bins_ns")) && !memcmp(&sum, &total, sizeof sum));
    assert_true(json_int(json_get(j, "rank_ns"), 0) == 2 * wall);
    assert_true(total.ns[GOOD_PRODUCTIVE] > 0 && total.ns[GOOD_RESTART] > 0 && total.ns[GOOD_IDLE] > 0);
    json_release(j);
}

/* -- while it runs */

static void nap(void) { nanosleep(&(struct timespec){0, 20000000}, NULL); }

static bool get(int port, const char *request, Str *out) {
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char buf[4096];
    ssize_t n;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool ok = connect(fd, (struct sockaddr *)&at, sizeof at) == 0;
    str_clear(out);
    if (ok) ok = write(fd, request, strlen(request)) == (ssize_t)strlen(request);
    while (ok && (n = read(fd, buf, sizeof buf)) > 0) str_putn(out, buf, (size_t)n);
    close(fd);
    return ok;
}

/* The port that it says on stderr; the page, once it holds what is looked for. */
static int port_of(const char *path) {
    Error err = {0};
    for (int i = 0; i < 500; i++) {
        Str text = {0};
        int port = 0;
        const char *at = io_read_file(&text, path, 1 << 16, &err) ? strstr(str_get(&text), "http://127.0.0.1:") : NULL;
        if (at) sscanf(at, "http://127.0.0.1:%d/metrics", &port);
        str_release(&text);
        if (port) return port;
        nap();
    }
    fail_msg("no port within 10 s");
    return 0;
}

static void wait_for(int port, const char *what) {
    Str page = {0};
    for (int i = 0; i < 500; i++) {
        if (get(port, "GET /metrics HTTP/1.0\r\n\r\n", &page) && strstr(str_get(&page), what)) {
            str_release(&page);
            return;
        }
        nap();
    }
    fail_msg("'%s' did not appear in %s", what, str_get(&page));
}

static void test_watches_until_the_end(void **state) {
    (void)state;
    Error err = {0};
    Str page = {0}, said = {0};
    begin_run("running: pm\n");
    add_rows(1, 40, "");
    put(DIR "/go.sh", "echo \"$DIKAST_ALERT $DIKAST_STAGE\" >> " DIR "/called\n");
    OK(io_remove_tree(DIR "/called", &err));
    char *words[] = {PROGRAM, "monitor", RUN, "--port", "0", "--every", "0.05", "--exec", "sh " DIR "/go.sh", NULL};
    Call c = {0};
    for (int i = 0; words[i]; i++) c.word[i] = words[i];
    pid_t pid = start(&c);
    int port = port_of(DIR "/stderr");
    wait_for(port, "dikast_step{stage=\"pm\"} 40.0\n");
    wait_for(port, "dikast_up 1.0\n");
    wait_for(port, "dikast_stage_running{stage=\"pm\"} 1.0\n");
    add_rows(41, 1, ",\"clipfrac\":0.9");
    wait_for(port, "dikast_alerts_total{alert=\"clip_fraction\"} 1.0\n");
    assert_true(get(port, "GET / HTTP/1.0\r\n\r\n", &page) && strstr(page.s, " 404 "));
    assert_true(get(port, "POST /metrics HTTP/1.0\r\nContent-Length: 0\r\n\r\n", &page) && strstr(page.s, " 405 "));
    assert_true(get(port, "GET /metrics HTTP/1.0\r\n\r\n", &page) && strstr(page.s, "text/plain; version=0.0.4"));
    status("done\n");
    int code = 0;
    assert_int_equal(waitpid(pid, &code, 0), pid);
    assert_true(WIFEXITED(code) && WEXITSTATUS(code) == 0);
    OK(io_read_file(&said, DIR "/called", 4096, &err));
    assert_string_equal(said.s, "clip_fraction pm\n");
    str_release(&page);
    str_release(&said);
}

static const struct {
    const char *line;
    int code;
    const char *says;
} wrong[] = {
    {"monitor", 2, "usage: dikast monitor"},
    {"monitor " DIR "/absent --once", 4, "absent"},
    {"monitor " RUN " --once --port 70000", 2, "--port must lie in"},
    {"monitor " RUN " --once --port 0 --host nowhere", 2, "no IPv4 address"},
    {"monitor " RUN " --once --rules " DIR "/rules.yaml", 2, "did you mean 'alerts.kl'"},
};

static void test_refusals(void **state) {
    (void)state;
    begin_run("done\n");
    put(DIR "/rules.yaml", "alerts:\n  kll: 3\n");
    for (int i = 0; i < COUNT_OF(wrong); i++) {
        Ran r = run(wrong[i].line);
        if (r.code != wrong[i].code || !strstr(str_get(&r.err), wrong[i].says))
            fail_msg("%s: exit %d, expected %d with '%s': %s", wrong[i].line, r.code, wrong[i].code, wrong[i].says,
                     str_get(&r.err));
        ran_release(&r);
    }
}

static int setup(void **state) {
    (void)state;
    Error err = {0};
    return io_remove_tree(DIR, &err) && io_make_dirs(DIR, &err) ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_once), cmocka_unit_test(test_findings_and_goodput),
                                       cmocka_unit_test(test_ledger_of_a_run),
                                       cmocka_unit_test(test_watches_until_the_end), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, setup, NULL);
}
