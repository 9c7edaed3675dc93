// layer: base
/* The log as a program's user sees it: what arrives on stderr and in events.jsonl, on a pipe and on a terminal; the
 * stop switch under real signals, in a child. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/io.h"
#include "base/json.h"
#include "base/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void nap(double s) {
    struct timespec t = {.tv_sec = (time_t)s, .tv_nsec = (long)((s - (double)(time_t)s) * 1e9)};
    nanosleep(&t, NULL);
}

/* Runs fn in a child whose stderr is a pipe or a terminal; returns its output and its wait status. */
static int run_child(Str *out, void (*fn)(void), bool terminal) {
    int fd[2];
    if (terminal) {
        fd[0] = posix_openpt(O_RDWR | O_NOCTTY);
        assert_true(fd[0] >= 0 && grantpt(fd[0]) == 0 && unlockpt(fd[0]) == 0);
        fd[1] = open(ptsname(fd[0]), O_RDWR | O_NOCTTY);
        assert_true(fd[1] >= 0);
        ioctl(fd[1], TIOCSWINSZ, &(struct winsize){.ws_row = 24, .ws_col = 60});
    } else {
        assert_int_equal(pipe(fd), 0);
    }
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fd[1], STDERR_FILENO);
        close(fd[0]);
        fn();
        fflush(NULL);
        _exit(0);
    }
    close(fd[1]);
    char buf[4096];
    ssize_t n;
    while ((n = read(fd[0], buf, sizeof buf)) > 0) str_putn(out, buf, (size_t)n);
    close(fd[0]);
    int status;
    waitpid(pid, &status, 0);
    str_putn(out, "", 0);
    return status;
}

static void say_things(void) {
    Error err = {0};
    unlink("log_test.jsonl");
    Log *l = log_new(LOG_NORMAL);
    if (!log_events_to(l, "log_test.jsonl", &err)) _exit(9);
    log_info(l, "hello %d", 1);
    log_stage(l, "sl");
    for (int i = 0; i < 5; i++) log_warn(l, "row %s was cut", "x");
    log_debug(l, "not shown");
    log_event(l, "stage_end", "loss \"%s\"", "2.3");
    for (int i = 1; i <= 400; i++) log_progress(l, i, 400, i * 100.0, "tok", "loss %.3f", 2.0);
    log_info(l, "between");
    log_progress_end(l);
    log_free(l);
}

static int count_of(const char *s, const char *part) {
    int n = 0;
    for (const char *p = strstr(s, part); p; p = strstr(p + 1, part)) n++;
    return n;
}

static void test_lines_on_a_pipe(void **state) {
    (void)state;
    Str out = {0};
    assert_int_equal(run_child(&out, say_things, false), 0);
    assert_null(strchr(out.s, '\r'));
    assert_non_null(strstr(out.s, "hello 1\n"));
    assert_non_null(strstr(out.s, "warning: sl: row x was cut\n"));
    assert_int_equal(count_of(out.s, "row x was cut\n"), 2); /* once, and the count at the end */
    assert_non_null(strstr(out.s, "5 times in all: row x was cut\n"));
    assert_null(strstr(out.s, "not shown"));
    assert_int_equal(count_of(out.s, "loss 2.000"), 1); /* 400 steps within 10 s: the last line only */
    assert_non_null(strstr(out.s, "sl 400/400 100 %  loss 2.000"));
    assert_non_null(strstr(out.s, " tok/s\n"));
    str_release(&out);

    Error err = {0};
    LineReader *r;
    const char *line;
    size_t n;
    int events = 0, warnings = 0;
    assert_true(lines_open(&r, "log_test.jsonl", 1000, &err));
    while (lines_next(r, &line, &n, &err)) {
        Json *j;
        assert_true(json_parse(&j, line, n, 0, "log_test.jsonl", 1, &err));
        const char *t = json_str(json_get(j, "t"), &n);
        assert_true(t && n == 24 && t[10] == 'T' && t[23] == 'Z');
        const char *event = json_str(json_get(j, "event"), NULL);
        if (strcmp(event, "stage_end") == 0) {
            assert_string_equal(json_str(json_get(j, "msg"), NULL), "loss \"2.3\"");
            assert_string_equal(json_str(json_get(j, "stage"), NULL), "sl");
        }
        warnings += strcmp(event, "warning") == 0;
        events++;
        json_release(j);
    }
    assert_int_equal(err.code, ERR_NONE);
    lines_close(r);
    assert_int_equal(events, 5); /* hello, warning, debug, stage_end, between */
    assert_int_equal(warnings, 1);
    unlink("log_test.jsonl");
}

static void redraw_for_a_second(void) {
    Log *l = log_new(LOG_NORMAL);
    log_stage(l, "rl");
    for (int i = 1; i <= 100; i++) {
        log_progress(l, i, 1000, i * 10.0, "tok", "reward %.2f and a text that is far wider than this terminal is",
                     1.5);
        if (i == 50) log_info(l, "a note");
        nap(0.01);
    }
    log_progress_end(l);
    log_free(l);
}

static void test_redraws_on_a_terminal(void **state) {
    (void)state;
    Str out = {0};
    assert_int_equal(run_child(&out, redraw_for_a_second, true), 0);
    int drawn = count_of(out.s, "\rrl ");
    assert_in_range(drawn, 3, 12); /* at most 5 per second, some more for the note and the end */
    assert_non_null(strstr(out.s, "\r\033[Krl: a note\r\n"));
    for (const char *p = strstr(out.s, "\rrl "); p; p = strstr(p + 1, "\rrl ")) {
        const char *end = strstr(p, "\033[K");
        assert_non_null(end);
        bool last = strstr(p + 1, "\rrl ") == NULL;
        if (!last) assert_true(end - p <= 60); /* never wraps: a wrapped line could not be wiped */
    }
    assert_non_null(strstr(out.s, "eta "));
    str_release(&out);
}

static void say_quietly(void) {
    Log *l = log_new(LOG_QUIET);
    log_info(l, "info");
    log_progress(l, 1, 2, 1, "tok", "p");
    log_warn(l, "warned");
    log_free(l);
    log_info(NULL, "nothing");
    log_warn(NULL, "nothing");
    log_stage(NULL, "x");
    log_progress(NULL, 1, 2, 1, "tok", "p");
    log_progress_end(NULL);
    log_free(NULL);
}

/* A rank that follows another: nothing is said twice, and who watches still sees what it does. */
static void silenced(void) {
    Log *l = log_new(LOG_VERBOSE);
    PulseView v;
    log_silence(l);
    log_silence(NULL);
    log_stage(l, "sl");
    log_info(l, "said");
    log_warn(l, "warned");
    log_warn(l, "warned");
    log_progress(l, 1, 1, 1, "tok", "x");
    log_progress_end(l);
    pulse_read(&v, log_pulse(l));
    if (strcmp(v.stage, "sl")) _exit(1);
    log_free(l);
}

static void test_silence(void **state) {
    Str out = {0};
    (void)state;
    assert_int_equal(run_child(&out, silenced, false), 0);
    assert_string_equal(str_get(&out), "");
    str_release(&out);
}

static void test_quiet(void **state) {
    (void)state;
    Str out = {0};
    assert_int_equal(run_child(&out, say_quietly, false), 0);
    assert_string_equal(out.s, "warning: warned\n");
    str_release(&out);
}

static void *speak(void *arg) {
    for (int i = 0; i < 200; i++) {
        log_info(arg, "line of text that must stay whole");
        log_warn(arg, "same warning");
        log_progress(arg, i, 200, i, "rows", "x");
    }
    return NULL;
}

static void speak_together(void) {
    Log *l = log_new(LOG_NORMAL);
    pthread_t t[4];
    for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, speak, l);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    log_free(l);
}

static void test_many_threads(void **state) {
    (void)state;
    Str out = {0};
    assert_int_equal(run_child(&out, speak_together, false), 0);
    assert_int_equal(count_of(out.s, "line of text that must stay whole\n"), 800);
    assert_non_null(strstr(out.s, "800 times in all: same warning"));
    str_release(&out);
}

static void test_formats(void **state) {
    (void)state;
    static const struct {
        double v;
        const char *s;
    } count[] = {{0, "0"},         {7, "7"},        {0.5, "0.50"},    {12.34, "12.3"},
                 {141, "141"},     {999, "999"},    {999.96, "1.0k"}, {12345, "12.3k"},
                 {38000, "38.0k"}, {4.1e6, "4.1M"}, {2.5e9, "2.5G"},  {-1500, "-1.5k"}},
      time_s[] = {{0.5, "0.5 s"},
                  {45, "45 s"},
                  {59.6, "1 min"},
                  {840, "14 min"},
                  {3720, "1 h 02 min"},
                  {3599, "1 h 00 min"},
                  {172760, "47 h 59 min"},
                  {172790, "2 days 00 h"},
                  {-1, "?"},
                  {2e9, "?"},
                  {180000, "2 days 02 h"},
                  {863400, "10 days 00 h"}};
    char buf[32];
    for (int i = 0; i < COUNT_OF(count); i++) {
        format_count(buf, count[i].v);
        assert_string_equal(buf, count[i].s);
    }
    for (int i = 0; i < COUNT_OF(time_s); i++) {
        format_time(buf, time_s[i].v);
        assert_string_equal(buf, time_s[i].s);
    }
    double a = now_s();
    nap(0.01);
    assert_true(now_s() - a >= 0.009);
}

/* ---- stop ---- */

static void wait_for_stop(void) {
    Error err = {0};
    Stop *s;
    if (!stop_open(&s, &err)) _exit(9);
    if (stop_requested(s) || stop_requested(NULL)) _exit(8);
    kill(getpid(), SIGTERM);
    for (int i = 0; i < 500 && !stop_requested(s); i++) nap(0.01);
    if (!stop_requested(s)) _exit(7);
    nap(0.05); /* its line is written after the flag is up */
    stop_close(s);
}

static void test_first_signal_asks(void **state) {
    (void)state;
    Str out = {0};
    assert_int_equal(run_child(&out, wait_for_stop, false), 0);
    assert_string_equal(out.s, "stopping after this step; state will be saved; again to die\n");
    str_release(&out);
}

static void be_killed(void) {
    Error err = {0};
    Stop *s;
    if (!stop_open(&s, &err)) _exit(9);
    kill(getpid(), SIGUSR1);
    while (!stop_requested(s)) nap(0.01);
    kill(getpid(), SIGINT);
    nap(10);
    _exit(6); /* not reached */
}

static void test_second_signal_kills(void **state) {
    (void)state;
    Str out = {0};
    int status = run_child(&out, be_killed, false);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGINT);
    assert_int_equal(count_of(out.s, "stopping"), 1);
    str_release(&out);
}

static void test_stop_opens_again(void **state) {
    (void)state;
    Error err = {0};
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    for (int i = 0; i < 20; i++) {
        Stop *s;
        assert_true(stop_open(&s, &err));
        assert_false(stop_requested(s));
        stop_request(s);
        assert_true(stop_requested(s));
        stop_close(s);
    }
    stop_close(NULL);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    assert_int_equal(sigismember(&before, SIGTERM), sigismember(&after, SIGTERM));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_on_a_pipe),
        cmocka_unit_test(test_redraws_on_a_terminal),
        cmocka_unit_test(test_quiet),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_many_threads),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_first_signal_asks),
        cmocka_unit_test(test_second_signal_kills),
        cmocka_unit_test(test_stop_opens_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
