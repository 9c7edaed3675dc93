// layer: dist
/* The supervisor's parts that are functions of their arguments: frames, worlds, culprits, health. The whole of it is
 * tested on processes in test_launch_faults. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/load.h"
#include "base/pulse.h"
#include "dist/culprit.h"
#include "dist/frame.h"
#include "dist/health.h"
#include "dist/proc.h"
#include "dist/supervise.h"

/* -- frames */

static Hello hello(void) {
    Hello h = {.run = 0x0123456789abcdefu, .start = 77, .attempt = 3, .rank = 5, .world = 8, .pid = 4711};
    for (int i = 0; i < 16; i++) h.token[i] = (unsigned char)(i * 17);
    strcpy(h.host, "node-03.example");
    return h;
}

static void frames_come_back(void **state) {
    Str s = {0};
    Frame f;
    Hello a = hello(), b;
    BeatMsg m = {.step = 12,
                 .calls = 99,
                 .section = SECTION_OPT,
                 .age_ms = 1500,
                 .group = 2,
                 .op = 3,
                 .tokens = 1u << 30,
                 .rss = 5u << 20,
                 .loss = 2.5f,
                 .grad_norm = 0.25f,
                 .flags = BEAT_NONFINITE,
                 .passes = 41},
            n;
    uint32_t code;
    size_t used;
    Error err = {0};
    (void)state;
    hello_put(&s, &a);
    beat_put(&s, &m);
    bye_put(&s, 75);
    frame_put(&s, FRAME_DUMP, "why", 3);
    frame_put(&s, FRAME_PONG, NULL, 0);
    assert_int_equal(s.n, (16 + 50 + 15) + (16 + 64) + (16 + 4) + (16 + 3) + 16);
    const char *p = s.s;
    size_t left = s.n;
    assert_true(frame_parse(&f, &used, p, left, FRAME_MAX, &err) && hello_get(&b, &f, &err));
    assert_memory_equal(&a, &b, sizeof a);
    p += used, left -= used;
    assert_true(frame_parse(&f, &used, p, left, FRAME_MAX, &err) && beat_get(&n, &f, &err));
    assert_memory_equal(&m, &n, sizeof m);
    p += used, left -= used;
    assert_true(frame_parse(&f, &used, p, left, FRAME_MAX, &err) && bye_get(&code, &f, &err));
    assert_int_equal(code, 75);
    p += used, left -= used;
    assert_true(frame_parse(&f, &used, p, left, FRAME_MAX, &err));
    assert_int_equal(f.type, FRAME_DUMP);
    assert_memory_equal(f.p, "why", 3);
    p += used, left -= used;
    assert_true(frame_parse(&f, &used, p, left, FRAME_MAX, &err));
    assert_int_equal(f.type, FRAME_PONG);
    assert_int_equal(left - used, 0);
    str_release(&s);
}

/* The format itself, byte by byte: two builds must understand one another. */
static void frame_bytes(void **state) {
    static const unsigned char bye[20] = {'D', 'K', 'H', '1', 5, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 75, 0, 0, 0};
    unsigned char want[20];
    Str s = {0};
    (void)state;
    memcpy(want, bye, sizeof want);
    uint32_t crc = crc32c(0, want + 16, 4);
    for (int i = 0; i < 4; i++) want[12 + i] = (unsigned char)(crc >> 8 * i);
    bye_put(&s, 75);
    assert_int_equal(s.n, sizeof want);
    assert_memory_equal(s.s, want, sizeof want);
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    str_release(&s);
}

/* Every prefix waits for more; every flipped bit is refused, or waits for what will never come. */
static void damaged_frames(void **state) {
    Str s = {0};
    Frame f;
    Hello a = hello();
    size_t used;
    Error err = {0};
    (void)state;
    hello_put(&s, &a);
    for (size_t n = 0; n < s.n; n++) {
        assert_true(frame_parse(&f, &used, s.s, n, FRAME_MAX, &err));
        assert_int_equal(used, 0);
    }
    for (size_t bit = 0; bit < 8 * s.n; bit++) {
        s.s[bit / 8] ^= (char)(1 << bit % 8);
        bool ok = frame_parse(&f, &used, s.s, s.n, FRAME_MAX, &err);
        if (ok && used > 0) fail_msg("bit %zu was flipped and nobody noticed", bit);
        s.s[bit / 8] ^= (char)(1 << bit % 8);
    }
    assert_false(frame_parse(&f, &used, s.s, s.n, 40, &err)); /* longer than is wanted now */
    str_release(&s);
}

static void refused_payloads(void **state) {
    Hello a = hello();
    Frame f = {0};
    Str s = {0};
    size_t used;
    Error err = {0};
    (void)state;
    static const char *const bad_host[] = {"a b", "a/b", "x\n", "\xc3\xa4"};
    for (int i = 0; i < COUNT_OF(bad_host); i++) {
        strcpy(a.host, bad_host[i]);
        str_clear(&s);
        hello_put(&s, &a);
        assert_true(frame_parse(&f, &used, s.s, s.n, FRAME_MAX, &err) && used > 0);
        assert_false(hello_get(&a, &f, &err));
    }
    a = hello();
    a.rank = a.world;
    str_clear(&s);
    hello_put(&s, &a);
    assert_true(frame_parse(&f, &used, s.s, s.n, FRAME_MAX, &err) && used > 0);
    assert_false(hello_get(&a, &f, &err));
    str_clear(&s);
    frame_put(&s, FRAME_EVENT, "{\"a\":\"\xff\"}", 9); /* no UTF-8 */
    assert_false(frame_parse(&f, &used, s.s, s.n, FRAME_MAX, &err));
    str_release(&s);
}

/* -- worlds */

static void worlds(void **state) {
    static const struct {
        int usable, group;
        int64_t micro;
        int world;
    } row[] = {{1, 1, 0, 1},   {3, 1, 8, 2},  {4, 1, 8, 4}, {4, 1, 6, 2}, {7, 1, 0, 4},       {16, 4, 12, 16},
               {15, 4, 12, 8}, {3, 4, 12, 0}, {8, 1, 1, 1}, {0, 1, 8, 0}, {2048, 8, 96, 256}, {12, 3, 64, 12}};
    (void)state;
    for (int i = 0; i < COUNT_OF(row); i++)
        assert_int_equal(launch_world(row[i].usable, row[i].group, row[i].micro), row[i].world);
}

/* -- culprits */

enum { N = 4 };
typedef struct {
    Json *dump[N];
    HangRank rank[N];
} Scene;

#define CALL(group, seq, op, count, site, end)                                                                         \
    "{\"group\":\"" group "\",\"seq\":" #seq ",\"op\":\"" op "\",\"dtype\":\"f32\",\"count\":" #count                  \
    ",\"peer\":-1,\"site\":\"" site "\",\"t_start\":1.5,\"t_end\":" #end "}"
#define SEND(op, peer)                                                                                                 \
    "{\"group\":\"world\",\"seq\":9,\"op\":\"" op "\",\"count\":1,\"peer\":" #peer ",\"t_start\":2,\"t_end\":0}"

static void scene(Scene *s, const char *const calls[N]) {
    Error err = {0};
    char text[2000];
    *s = (Scene){0};
    for (int r = 0; r < N; r++) {
        s->rank[r] = (HangRank){.section = SECTION_COMM, .age_s = 3, .step = 7, .host = "h", .state = 'S'};
        if (!calls[r]) continue;
        int n = snprintf(text, sizeof text, "{\"comm\":{\"records\":[%s]}}", calls[r]);
        if (!json_parse(&s->dump[r], text, (size_t)n, 0, "scene", 1, &err)) fail_msg("%s", err.msg);
        s->rank[r].dump = s->dump[r];
    }
}

static void judge(Scene *s, int rule, int culprit, int n, const char *word) {
    Blame v;
    culprit_find(&v, s->rank, N);
    if (v.rule != rule || v.n_all != n || (culprit >= 0 && v.rank[0] != culprit) || !strstr(v.text, word))
        fail_msg("rule %d, %d named, first %d, '%s'; expected rule %d, %d named, first %d, '%s'", v.rule, v.n_all,
                 v.rank[0], v.text, rule, n, culprit, word);
    for (int r = 0; r < N; r++) json_release(s->dump[r]);
}

static void culprits(void **state) {
    Scene s;
    (void)state;
#define GATHER CALL("world", 5, "all_gather", 8, "a.c", 0)
#define EARLIER CALL("world", 4, "all_gather", 8, "a.c", 1.6)
    scene(&s, (const char *[N]){GATHER, GATHER, NULL, GATHER});
    s.rank[2].state = 'T';
    judge(&s, 1, 2, 1, "stopped (SIGSTOP)");
    scene(&s, (const char *[N]){GATHER, GATHER, CALL("world", 5, "barrier", 1, "b.c", 0), GATHER});
    judge(&s, 2, 2, 1, "at b.c");
    scene(&s, (const char *[N]){GATHER, CALL("world", 5, "all_gather", 9, "a.c", 0),
                                CALL("world", 5, "all_gather", 9, "a.c", 0), GATHER});
    judge(&s, 2, 0, 4, "as many");
    scene(&s, (const char *[N]){GATHER, GATHER, GATHER, GATHER});
    judge(&s, 3, 0, 4, "transport");
    scene(&s, (const char *[N]){GATHER, GATHER, GATHER, EARLIER});
    s.rank[3].section = SECTION_FWD;
    judge(&s, 4, 3, 1, "FWD of step 7");
    /* One call goes on beside rank 3, which computes: it is not inside of it, and has not begun the next. */
#define FLYING                                                                                                         \
    "{\"group\":\"dp\",\"seq\":8,\"op\":\"all_to_all\",\"count\":4,\"site\":\"t\",\"t_start\":1,\"t_wait\":0,\"t_"     \
    "end\":0}"
#define WAITED(count)                                                                                                  \
    "{\"group\":\"dp\",\"seq\":9,\"op\":\"all_to_all\",\"count\":" #count                                              \
    ",\"site\":\"t\",\"t_start\":1,\"t_wait\":2,\"t_end\":0}"
    scene(&s, (const char *[N]){FLYING "," WAITED(4), FLYING "," WAITED(4), FLYING "," WAITED(0), FLYING});
    s.rank[3].section = SECTION_BWD;
    judge(&s, 4, 3, 1, "BWD of step 7"); /* and parts of an all_to_all differ by right */
    scene(&s, (const char *[N]){WAITED(4), WAITED(4), WAITED(4),
                                "{\"group\":\"dp\",\"seq\":9,\"op\":\"all_to_all\",\"count\":4,\"site\":\"t\","
                                "\"t_start\":1,\"t_wait\":0,\"t_end\":0}"});
    s.rank[3].section = SECTION_BWD;
    judge(&s, 4, 3, 1, "BWD of step 7"); /* not all are inside of it */
    scene(&s, (const char *[N]){GATHER, GATHER, GATHER, NULL});
    s.rank[3].left = true;
    judge(&s, 4, 3, 1, "left already");
    scene(&s, (const char *[N]){SEND("recv", 1), SEND("recv", 0), EARLIER "," SEND("recv", 1),
                                EARLIER "," SEND("recv", 2)});
    judge(&s, 4, 0, 2, "ordering deadlock");
    scene(&s, (const char *[N]){SEND("recv", 1), EARLIER, SEND("send", 3), SEND("recv", 2)});
    judge(&s, 4, 1, 1, "rank 1");
}

/* Crossed order over two groups that are not the world: membership decides who waits for whom. */
static void culprits_by_group(void **state) {
    static const char *const groups = "\"groups\":[{\"id\":\"a\",\"ranks\":[0,1]},{\"id\":\"b\",\"ranks\":[1,0]},"
                                      "{\"id\":\"c\",\"ranks\":[2,3]}]";
    static const char *const calls[N] = {CALL("a", 3, "barrier", 1, "x", 0), CALL("b", 3, "barrier", 1, "y", 0),
                                         CALL("c", 3, "barrier", 1, "z", 0.5), CALL("c", 3, "barrier", 1, "z", 0.5)};
    Scene s = {0};
    Error err = {0};
    char text[2000];
    (void)state;
    for (int r = 0; r < N; r++) {
        int n = snprintf(text, sizeof text, "{\"comm\":{%s,\"records\":[%s]}}", groups, calls[r]);
        if (!json_parse(&s.dump[r], text, (size_t)n, 0, "scene", 1, &err)) fail_msg("%s", err.msg);
        s.rank[r] = (HangRank){.dump = s.dump[r], .section = r < 2 ? SECTION_COMM : SECTION_DATA, .host = "h"};
    }
    judge(&s, 4, 0, 2,
          "ordering deadlock: rank 0 (host h) in barrier of 1 f32 (group a, number 3, at x) waits for rank 1");
}

/* All members of a small group are in its call, and the others wait for them elsewhere: the small group's transport it
 * is. */
static void culprits_inside_one_call(void **state) {
    Scene s = {0};
    Error err = {0};
    char text[2000];
    (void)state;
    for (int r = 0; r < N; r++) {
        int n = snprintf(text, sizeof text,
                         "{\"comm\":{\"groups\":[{\"id\":\"pair\",\"ranks\":[0,1]}],\"records\":[%s,%s]}}", EARLIER,
                         r < 2 ? CALL("pair", 3, "barrier", 1, "p.c", 0) : GATHER);
        if (!json_parse(&s.dump[r], text, (size_t)n, 0, "scene", 1, &err)) fail_msg("%s", err.msg);
        s.rank[r] = (HangRank){.dump = s.dump[r], .section = SECTION_COMM, .step = 7, .host = "h"};
    }
    judge(&s, 4, 0, 2, "rank 0 (host h) is in COMM");
}

/* Whatever a rank sends is no reason to fall over. */
static void strange_replies(void **state) {
    static const char *const odd[] = {
        "{}", "{\"comm\":3}", "{\"comm\":{\"records\":{}}}", "{\"comm\":{\"records\":[3,null,{}]}}",
        "{\"comm\":{\"groups\":[{\"id\":\"\",\"ranks\":7}],\"records\":[{\"seq\":\"x\"}]}}"};
    (void)state;
    for (int i = 0; i < COUNT_OF(odd); i++)
        for (int k = 0; k < COUNT_OF(odd); k++) {
            HangRank rank[2] = {0};
            Json *a, *b;
            Error err = {0};
            Blame v;
            assert_true(json_parse(&a, odd[i], strlen(odd[i]), 0, "a", 1, &err));
            assert_true(json_parse(&b, odd[k], strlen(odd[k]), 0, "b", 1, &err));
            rank[0].dump = a;
            rank[1].dump = b;
            culprit_find(&v, rank, 2);
            assert_true(v.text[0]);
            json_release(a);
            json_release(b);
        }
}

/* -- health */

static void stragglers(void **state) {
    Pace p[3] = {0};
    double score[3];
    (void)state;
    for (int i = 0; i < 2; i++)
        for (int r = 0; r < 3; r++) pace_add(&p[r], 0.1);
    pace_scores(score, p, 3);
    assert_true(isnan(score[0])); /* two windows are no judgement */
    for (int i = 0; i < 20; i++) {
        pace_add(&p[0], 0.1);
        pace_add(&p[1], 0.1 + 0.01 * (i % 2));
        pace_add(&p[2], 0.3);
    }
    pace_scores(score, p, 3);
    assert_float_equal(score[0], 1, 1e-12);
    assert_true(score[1] > HEALTH_SLOW);
    assert_float_equal(score[2], 1. / 3, 1e-12);
    pace_add(&p[0], 50); /* one bad second is no straggler */
    pace_scores(score, p, 3);
    assert_float_equal(score[0], 1, 1e-12);
}

static void replicas(void **state) {
    enum { RANKS = 4, BYTES = 1000, BUCKET = 256, BUCKETS = 4 };
    static unsigned char w[RANKS][BYTES];
    Hash hash[RANKS][BUCKETS], twice[BUCKETS];
    Corrupt bad[8];
    BucketHash b;
    (void)state;
    for (int r = 0; r < RANKS; r++)
        for (int i = 0; i < BYTES; i++) w[r][i] = (unsigned char)(i * 7 + i / 256);
    w[2][700] ^= 16; /* bucket 2 */
    for (int r = 0; r < RANKS; r++) {
        bucket_hash_begin(&b, hash[r], BUCKETS, BUCKET);
        for (int i = 0; i < BYTES; i += 300) bucket_hash_add(&b, w[r] + i, (size_t)(BYTES - i < 300 ? BYTES - i : 300));
        assert_int_equal(bucket_hash_end(&b), BUCKETS);
    }
    bucket_hash_begin(&b, twice, BUCKETS, BUCKET); /* pieces do not matter */
    bucket_hash_add(&b, w[0], BYTES);
    bucket_hash_end(&b);
    assert_memory_equal(twice, hash[0], sizeof twice);
    assert_int_equal(replicas_compare(bad, 8, hash[0], RANKS, BUCKETS), 1);
    assert_int_equal(bad[0].rank, 2);
    assert_int_equal(bad[0].bucket, 2);
    assert_false(bad[0].tie);
    /* two against two: nobody knows who is right */
    memcpy(hash[3], hash[2], sizeof hash[3]);
    assert_int_equal(replicas_compare(bad, 8, hash[0], RANKS, BUCKETS), 4);
    assert_true(bad[0].tie && bad[3].tie);
    assert_int_equal(replicas_compare(bad, 8, hash[0], 1, BUCKETS), 0);
}

/* -- pulse and processes */

static void pulses(void **state) {
    Pulse *p = pulse_new();
    PulseView v;
    (void)state;
    assert_true(pulse_leased(p) && pulse_leased(NULL));
    pulse_section(NULL, SECTION_FWD); /* nobody watches */
    pulse_stage(p, "pm");
    pulse_step(p, 3);
    pulse_section(p, SECTION_FWD);
    pulse_call(p, 1, 2);
    pulse_call_end(p);
    pulse_section(p, SECTION_OPT);
    pulse_numbers(p, 1, NAN, 100);
    pulse_nonfinite(p);
    pulse_commit(p, 3);
    pulse_read(&v, p);
    assert_int_equal(v.section, SECTION_OPT);
    assert_int_equal(v.step, 3);
    assert_int_equal(v.passes[SECTION_FWD], 2);
    assert_int_equal(v.passes[SECTION_COMM], 1);
    assert_int_equal(v.calls, 1);
    assert_int_equal(v.commits, 1);
    assert_string_equal(v.commit_stage, "pm");
    assert_true(pulse_take_nonfinite(p));
    assert_false(pulse_take_nonfinite(p));
    pulse_lease(p, 0.02);
    assert_true(pulse_leased(p));
    nanosleep(&(struct timespec){0, 40000000}, NULL);
    assert_false(pulse_leased(p));
    pulse_free(p);
}

static void wait_a_little(void) { nanosleep(&(struct timespec){0, 2000000}, NULL); }

/* Every nanosecond in one bin: sections, what a call is for, waiting for orders; and what a durable state holds. */
static void ledgers(void **state) {
    Pulse *p = pulse_new();
    PulseLedger a, b;
    Str told = {0};
    int64_t since = (int64_t)(1e9 * now_s());
    (void)state;
    pulse_section(p, SECTION_FWD); /* opening things, reading the state */
    wait_a_little();
    pulse_ledger(&a, p);
    assert_true(a.all.ns[GOOD_RESTART] == goodput_total(&a.all) && goodput_total(&a.all) >= 2000000);
    pulse_working(p);
    wait_a_little();
    pulse_section(p, SECTION_CKPT);
    pulse_mark(p);
    pulse_call(p, 1, 2); /* for the save */
    wait_a_little();
    pulse_call_end(p);
    pulse_section(p, SECTION_DATA);
    wait_a_little();
    pulse_call(p, 1, 2);
    pulse_idle(p);
    wait_a_little();
    pulse_call_end(p);
    pulse_section(p, SECTION_INIT);
    pulse_ledger(&b, p);
    for (int i = 0; i < GOOD_BINS; i++)
        if (i != GOOD_LOST && i != GOOD_DETECTION) assert_true(b.all.ns[i] >= 2000000);
    assert_true(b.all.ns[GOOD_LOST] == 0 && b.all.ns[GOOD_DETECTION] == 0 && goodput_total(&b.kept) == 0);
    int64_t lived = (int64_t)(1e9 * now_s()) - since;
    assert_true(goodput_total(&b.all) <= lived + 1000000 && goodput_total(&b.all) > 9000000);
    pulse_commit(p, 3); /* of what was marked */
    pulse_ledger(&b, p);
    assert_true(b.kept.ns[GOOD_PRODUCTIVE] >= 2000000 && b.kept.ns[GOOD_DATA] == 0);
    pulse_commit(p, PULSE_DONE); /* of all */
    pulse_ledger(&b, p);
    assert_true(b.kept.ns[GOOD_DATA] >= 2000000);
    pulse_tell(p, "{\"event\":\"x\"}"); /* nobody hears it */
    assert_false(pulse_take_told(p, &told));
    pulse_lease(p, 10);
    pulse_tell(p, "{\"event\":\"y\"}");
    pulse_tell(p, "{\"event\":\"z\"}");
    assert_true(pulse_take_told(p, &told) && pulse_take_told(p, &told) && !pulse_take_told(p, &told));
    assert_string_equal(told.s, "{\"event\":\"y\"}{\"event\":\"z\"}");
    str_release(&told);
    pulse_free(p);
}

static void processes(void **state) {
    uint64_t start;
    char letter;
    (void)state;
    assert_true(proc_look(getpid(), &start, &letter) && start > 0);
    assert_int_equal(letter, 'R');
    assert_true(proc_alive(getpid(), start));
    assert_false(proc_alive(getpid(), start + 1)); /* the pid of somebody else */
    assert_false(proc_signal(getpid(), start + 1, 9));
    assert_true(proc_signal(getpid(), start, 0));
    assert_true(load_rss() > 100000);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(frames_come_back),
                                       cmocka_unit_test(frame_bytes),
                                       cmocka_unit_test(damaged_frames),
                                       cmocka_unit_test(refused_payloads),
                                       cmocka_unit_test(worlds),
                                       cmocka_unit_test(culprits),
                                       cmocka_unit_test(culprits_by_group),
                                       cmocka_unit_test(culprits_inside_one_call),
                                       cmocka_unit_test(strange_replies),
                                       cmocka_unit_test(stragglers),
                                       cmocka_unit_test(replicas),
                                       cmocka_unit_test(pulses),
                                       cmocka_unit_test(ledgers),
                                       cmocka_unit_test(processes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
