// layer: dist
/* Groups of ranks as threads: what every call brings, what is counted and recorded, and how ranks fail together. */
#include "dist_help.h"

#include <time.h>

#include "base/json.h"

/* -- what arrives */

static unsigned char byte_of(int from, int to, int i) { return (unsigned char)(31 * from + 7 * to + i); }

static void calls(Rank *r) {
    Comm *c = r->world;
    int n = r->size, me = r->rank;
    unsigned char in[4096], out[4096];
    int64_t sent[16], comes[16];
    for (int round = 0; round < 20; round++) {
        int at = 0;
        for (int q = 0; q < n; q++) { /* part from p to q: (3 p + 5 q + round) % 7 bytes, maybe none */
            sent[q] = (3 * me + 5 * q + round) % 7;
            comes[q] = (3 * q + 5 * me + round) % 7;
            for (int i = 0; i < sent[q]; i++) in[at++] = byte_of(me, q, i);
        }
        memset(out, 0xee, sizeof out);
        comm_all_to_all(c, out, comes, in, sent, DTYPE_I8, "test.all_to_all");
        at = 0;
        for (int p = 0; p < n; p++)
            for (int i = 0; i < comes[p]; i++) expect(r, out[at++] == byte_of(p, me, i));
        expect(r, out[at] == 0xee);

        int32_t own[8], all[128];
        for (int q = 0; q < n; q++) comes[q] = (q + round) % 5;
        for (int i = 0; i < comes[me]; i++) own[i] = 100 * me + i;
        comm_all_gather(c, all, own, comes, DTYPE_I32, "test.all_gather");
        at = 0;
        for (int p = 0; p < n; p++)
            for (int i = 0; i < comes[p]; i++) expect(r, all[at++] == 100 * p + i);

        double word[3] = {me, 2 * me, 3 * me};
        int root = round % n;
        comm_broadcast(c, word, 3, DTYPE_F64, root, "test.broadcast");
        expect(r, word[0] == root && word[2] == 3 * root);
    }
    Error err;
    comm_barrier(c, "test.barrier");
    expect(r, comm_ok(c, &err));
}

static void ring(Rank *r) {
    int n = r->size, next = (r->rank + 1) % n, before = (r->rank + n - 1) % n;
    float x[3] = {(float)r->rank, 2, 3}, y[3] = {0};
    Error err;
    for (int i = 0; i < 50; i++) {
        if (r->rank % 2 == 0) {
            comm_send(r->world, x, 3, DTYPE_F32, next, "test.ring");
            comm_recv(r->world, y, 3, DTYPE_F32, before, "test.ring");
        } else {
            comm_recv(r->world, y, 3, DTYPE_F32, before, "test.ring");
            comm_send(r->world, x, 3, DTYPE_F32, next, "test.ring");
        }
        expect(r, y[0] == (float)before && y[2] == 3);
    }
    expect(r, comm_ok(r->world, &err));
}

static void test_calls(void **state) {
    (void)state;
    for (int n = 1; n <= 5; n++) with_ranks(n, calls, NULL);
    with_ranks(8, calls, NULL);
    with_ranks(2, ring, NULL);
    with_ranks(4, ring, NULL);
}

static void test_one_rank(void **state) {
    (void)state;
    int32_t in[3] = {1, 2, 3}, out[3] = {0};
    int64_t n = 3;
    Error err;
    Comm *self;
    comm_all_gather(NULL, out, in, &n, DTYPE_I32, "test");
    assert_int_equal(out[2], 3);
    memset(out, 0, sizeof out);
    comm_all_to_all(NULL, out, &n, in, &n, DTYPE_I32, "test");
    assert_int_equal(out[0], 1);
    comm_broadcast(NULL, in, 3, DTYPE_I32, 0, "test");
    comm_barrier(NULL, "test");
    assert_true(comm_ok(NULL, &err));
    assert_int_equal(comm_size(NULL), 1);
    assert_true(comm_open_self(&self, &err));
    comm_all_gather(self, out, in, &n, DTYPE_I32, "test");
    assert_int_equal(out[1], 2);
    assert_int_equal(comm_count(self, COMM_ALL_GATHER).calls, 0);
    comm_close(self);
}

/* -- groups */

static void mesh_groups(Rank *r) {
    Mesh m;
    Error err = {0};
    bool ok = mesh_open(&m, r->world, NULL, 2, 1, 2, &err);
    expect(r, ok);
    if (!ok) return;
    expect(r, m.size.dp == 2 && m.at.tp == r->rank % 2 && m.at.pp == r->rank / 2 % 2 && m.at.dp == r->rank / 4);
    expect(r, m.cp == NULL && comm_size(m.tp) == 2 && comm_size(m.pp) == 2 && comm_size(m.dp) == 2);
    expect(r, comm_rank(m.tp) == m.at.tp && comm_rank(m.pp) == m.at.pp && comm_rank(m.dp) == m.at.dp);
    int32_t who[2];
    int64_t one[2] = {1, 1};
    Comm *group[] = {m.tp, m.pp, m.dp};
    int step[] = {1, 2, 4};
    for (int g = 0; g < 3; g++) {
        int32_t me = r->rank;
        comm_all_gather(group[g], who, &me, one, DTYPE_I32, "test.groups");
        int low = comm_rank(group[g]) == 0 ? r->rank : r->rank - step[g];
        expect(r, who[0] == low && who[1] == low + step[g]);
    }
    expect(r, comm_ok(r->world, &err));
}

/* Ranks that divide rows have equal weights: they are in dp's group with the replicas, cp's digit first. */
static void mesh_rows(Rank *r) {
    Mesh m;
    Error err = {0};
    expect(r, mesh_open(&m, r->world, NULL, 2, 2, 1, &err));
    int tp = r->rank % 2, cp = r->rank / 2 % 2, dp = r->rank / 4;
    expect(r, m.size.cp == 2 && m.size.dp == 2 && m.at.tp == tp && m.at.cp == cp && m.at.dp == dp && !m.pp);
    expect(r, comm_size(m.cp) == 2 && comm_rank(m.cp) == cp && comm_size(m.dp) == 4 && comm_rank(m.dp) == 2 * cp + dp);
    int32_t me = r->rank, who[4];
    const int64_t one[4] = {1, 1, 1, 1};
    comm_all_gather(m.dp, who, &me, one, DTYPE_I32, "test.rows");
    for (int i = 0; i < 4; i++) expect(r, who[i] == tp + 2 * (i / 2) + 4 * (i % 2));
    comm_all_gather(m.cp, who, &me, one, DTYPE_I32, "test.rows");
    for (int i = 0; i < 2; i++) expect(r, who[i] == tp + 2 * i + 4 * dp);
    expect(r, comm_size(m.model) == 4 && comm_ok(r->world, &err));
}

static void bad_mesh(Rank *r) {
    Mesh m;
    Error err = {0};
    expect(r, !mesh_open(&m, r->world, NULL, 4, 1, 1, &err));
    expect(r, strstr(err.msg, "6 ranks are no multiple") != NULL && err.code == ERR_CONFIG);
}

static void test_groups(void **state) {
    (void)state;
    with_ranks(8, mesh_groups, NULL);
    with_ranks(8, mesh_rows, NULL);
    with_ranks(6, bad_mesh, NULL);
    Layout size = {2, 3, 2, 4};
    for (int i = 0; i < 48; i++) assert_int_equal(layout_rank(size, layout_at(size, i)), i);
    Layout at = layout_at(size, 1 + 2 * (2 + 3 * (1 + 2 * 3)));
    assert_true(at.tp == 1 && at.cp == 2 && at.pp == 1 && at.dp == 3);
}

/* -- counters and records */

typedef struct {
    int in, out;
} Hooks;

static void hook(void *ud, bool inside, const CommRecord *c) {
    Hooks *h = ud;
    h->in += inside;
    h->out += !inside && c->end_s >= c->start_s && c->start_s > 0;
}

static void counted(Rank *r) {
    int n = r->size;
    int64_t sent[4] = {1, 2, 3, 4}, comes[4], gather[4] = {5, 6, 7, 8};
    float in[16] = {0}, out[64], all[26];
    Hooks hooks = {0};
    for (int p = 0; p < n; p++) comes[p] = sent[r->rank];
    comm_on_section(r->world, hook, &hooks);
    for (int k = 0; k < 300; k++) comm_all_to_all(r->world, out, comes, in, sent, DTYPE_F32, "test.count");
    comm_all_gather(r->world, all, in, gather, DTYPE_F32, "test.count");
    comm_broadcast(r->world, all, 10, DTYPE_F64, 2, "test.count");
    if (r->rank == 0) comm_send(r->world, in, 9, DTYPE_F32, 3, "test.count");
    if (r->rank == 3) comm_recv(r->world, out, 9, DTYPE_F32, 0, "test.count");
    CommCount a = comm_count(r->world, COMM_ALL_TO_ALL), g = comm_count(r->world, COMM_ALL_GATHER);
    expect(r, a.calls == 300 && a.bytes == 300 * 4 * (10 - sent[r->rank]));
    expect(r, g.calls == 1 && g.bytes == 4 * gather[r->rank] * 3);
    expect(r, comm_count(r->world, COMM_BROADCAST).bytes == (r->rank == 2 ? 80 * 3 : 0));
    expect(r, comm_count(r->world, COMM_SEND).bytes == (r->rank == 0 ? 36 : 0));
    expect(r, comm_count(r->world, COMM_RECV).bytes == 0 && comm_count(r->world, COMM_RECV).calls == (r->rank == 3));
    int calls = 302 + (r->rank == 0 || r->rank == 3);
    expect(r, hooks.in == calls && hooks.out == calls);
    Str text = {0};
    Json *j = NULL;
    Error err = {0};
    comm_dump(r->world, &text);
    expect(r, json_parse(&j, text.s, text.n, 0, "dump", 1, &err));
    const Json *records = json_get(j, "records"), *last = json_at(records, COMM_RECORDS - 1);
    expect(r, json_len(records) == COMM_RECORDS && json_int(json_get(last, "seq"), 0) == calls);
    expect(r, json_num(json_get(last, "t_end"), 0) >= json_num(json_get(last, "t_start"), 1e300));
    expect(r, !strcmp(json_str(json_get(last, "site"), NULL), "test.count") &&
                  json_kind(json_get(j, "failure")) == JSON_NIL);
    json_release(j);
    str_release(&text);
    comm_count_clear(r->world);
    expect(r, comm_count(r->world, COMM_ALL_TO_ALL).calls == 0);
}

static void test_counters(void **state) {
    (void)state;
    with_ranks(4, counted, NULL);
}

/* -- beside the rank's own work */

enum { IN_FLIGHT = 5, FLIGHT_ROUNDS = 12 };

typedef struct {
    unsigned char in[64], out[64];
    int64_t sent[8], comes[8];
    CommRequest *r;
} InFlight;

static void begin_flight(Rank *r, InFlight *f, int number, const char *site) {
    int at = 0;
    memset(f->out, 0xee, sizeof f->out);
    for (int q = 0; q < r->size; q++) {
        f->sent[q] = (3 * r->rank + 5 * q + number) % 7;
        f->comes[q] = (3 * q + 5 * r->rank + number) % 7;
        for (int i = 0; i < f->sent[q]; i++) f->in[at++] = (unsigned char)(byte_of(r->rank, q, i) + number);
    }
    f->r = comm_start_all_to_all(r->world, f->out, f->comes, f->in, f->sent, DTYPE_I8, site);
}

static void end_flight(Rank *r, InFlight *f, int number) {
    int at = 0;
    comm_wait(f->r);
    f->r = NULL;
    memset(f->in, 0xdd, sizeof f->in); /* nobody reads it any more */
    for (int p = 0; p < r->size; p++)
        for (int i = 0; i < f->comes[p]; i++)
            expect(r, f->out[at++] == (unsigned char)(byte_of(p, r->rank, i) + number));
    expect(r, f->out[at] == 0xee);
}

static void nap(double s) { nanosleep(&(struct timespec){0, (long)(1e9 * s)}, NULL); }

/* Several at once, other calls of the group among them, looked at more or less often. */
static void flights(Rank *r) {
    InFlight f[IN_FLIGHT] = {0};
    Error err = {0};
    double word = 7;
    for (int k = 0; k < FLIGHT_ROUNDS; k++) {
        for (int i = 0; i < IN_FLIGHT; i++) begin_flight(r, &f[i], IN_FLIGHT * k + i, "test.flight");
        for (int i = 0; i < (r->rank + k) % 4; i++) comm_test(f[i].r);
        comm_broadcast(r->world, &word, 1, DTYPE_F64, k % r->size, "test.between");
        for (int i = 0; i < IN_FLIGHT; i++) end_flight(r, &f[i], IN_FLIGHT * k + i);
    }
    expect(r, comm_ok(r->world, &err));
    comm_barrier(r->world, "test.together");
    begin_flight(r, &f[0], 1, "test.flight"); /* everybody has begun: it ends without anybody waiting */
    comm_barrier(r->world, "test.begun");
    CommTimes before = comm_times(r->world);
    for (int i = 0; i < 10000 && !comm_test(f[0].r); i++) nap(1e-4);
    expect(r, comm_test(f[0].r));
    CommTimes after = comm_times(r->world);
    if (r->size > 1) expect(r, after.hidden_s >= before.hidden_s && after.inside_s > before.inside_s);
    end_flight(r, &f[0], 1);
    if (r->size > 1) expect(r, comm_count(r->world, COMM_ALL_TO_ALL).calls == IN_FLIGHT * FLIGHT_ROUNDS + 1);
}

/* What a rank is not inside of counts as hidden, and a dump says whether it waits. */
static void hidden_flight(Rank *r) {
    InFlight f = {0};
    Str text = {0};
    Json *j = NULL;
    Error err = {0};
    Hooks hooks = {0};
    comm_on_section(r->world, hook, &hooks);
    begin_flight(r, &f, 3, "test.hidden");
    comm_dump(r->world, &text);
    expect(r, json_parse(&j, text.s, text.n, 0, "dump", 1, &err));
    const Json *last = json_at(json_get(j, "records"), 0);
    expect(r, json_num(json_get(last, "t_wait"), 1) == 0 && json_num(json_get(last, "t_end"), 1) == 0);
    json_release(j);
    nap(0.05);
    expect(r, hooks.in == 0);
    for (int k = 0; k < COMM_RECORDS + 10; k++) comm_barrier(r->world, "test.many"); /* its record is gone */
    nap(0.02 * r->rank);
    end_flight(r, &f, 3);
    CommTimes t = comm_times(r->world);
    expect(r, t.hidden_s >= 0.05 && t.hidden_s < 5 && t.inside_s > 0);
    expect(r, hooks.in == hooks.out && hooks.in >= COMM_RECORDS + 10);
    str_clear(&text);
    comm_dump(r->world, &text);
    expect(r, json_parse(&j, text.s, text.n, 0, "dump", 1, &err));
    for (int k = 0; k < COMM_RECORDS; k++) /* of others nothing was written over */
        expect(r, json_num(json_get(json_at(json_get(j, "records"), k), "t_end"), 0) > 0);
    json_release(j);
    str_release(&text);
}

static void flight_without_one(Rank *r) {
    Error err = {0};
    InFlight f[2] = {0};
    comm_deadline(r->world, 0.1);
    if (r->rank == 2) {
        nap(0.4);
    } else {
        begin_flight(r, &f[0], 0, "test.late");
        begin_flight(r, &f[1], 1, "test.late");
        nap(0.2); /* its own work is not waiting */
        expect(r, !comm_test(f[0].r) && comm_ok(r->world, &err));
        comm_wait(f[0].r);
        expect(r, !comm_ok(r->world, &err) && err.code == ERR_NET && strstr(err.msg, "rank 2 did not come") != NULL);
        expect(r, strstr(err.msg, "all_to_all number") != NULL && strstr(err.msg, "at test.late") != NULL);
        expect(r, comm_test(f[1].r));
        comm_wait(f[1].r);
    }
    begin_flight(r, &f[0], 0, "test.late"); /* who comes late learns it, too */
    comm_wait(f[0].r);
    expect(r, !comm_ok(r->world, &err) && strstr(err.msg, "deadline") != NULL);
}

static void flight_elsewhere(Rank *r) {
    Error err = {0};
    InFlight *f = malloc(sizeof *f); /* of its own: who left too early would let others read freed memory */
    *f = (InFlight){.r = NULL};
    begin_flight(r, f, 0, r->rank == 1 ? "test.here" : "test.there");
    comm_wait(f->r);
    expect(r, !comm_ok(r->world, &err) && err.code == ERR_STATE && strstr(err.msg, "test.here") != NULL);
    free(f);
}

static void flight_of_other_size(Rank *r) {
    Error err = {0};
    InFlight *f = malloc(sizeof *f);
    *f = (InFlight){.sent = {4, 4, 4}, .comes = {4, 4, 4}};
    if (r->rank == 2) f->sent[0] = 5;
    f->r = comm_start_all_to_all(r->world, f->out, f->comes, f->in, f->sent, DTYPE_I8, "test.sizes");
    comm_wait(f->r);
    expect(r, !comm_ok(r->world, &err) && strstr(err.msg, "which expects") != NULL);
    free(f);
}

static void test_flights(void **state) {
    (void)state;
    for (int n = 1; n <= 5; n++) with_ranks(n, flights, NULL);
    with_ranks(3, hidden_flight, NULL);
    with_ranks(4, flight_without_one, NULL);
    with_ranks(3, flight_elsewhere, NULL);
    with_ranks(3, flight_of_other_size, NULL);
}

/* -- failing together */

static void one_gives_up(Rank *r) {
    Error err = {0}, why;
    if (r->rank == 1) {
        nanosleep(&(struct timespec){0, 20000000}, NULL);
        error_set(&why, ERR_IO, "the disk is full");
        comm_abort(r->world, &why);
    } else {
        comm_barrier(r->world, "test.wait");
    }
    expect(r, !comm_ok(r->world, &err));
    expect(r, strstr(err.msg, "the disk is full") != NULL && err.code == ERR_IO);
    expect(r, r->rank == 1 || strstr(err.msg, "rank 1: the disk") != NULL);
    expect(r, r->rank == 1 || strstr(err.msg, "group world, barrier number 1 at test.wait") != NULL);
    double start = now_s();
    int64_t none[3] = {0};
    comm_barrier(r->world, "test.after"); /* all later calls are over at once */
    comm_all_gather(r->world, NULL, NULL, none, DTYPE_I8, "test.after");
    expect(r, now_s() - start < 5);
    Comm *group;
    expect(r, !comm_split(&group, r->world, "later", 0, 0, &err) && group == NULL);
}

static void one_does_not_come(Rank *r) {
    Error err = {0};
    double start = *(const double *)r->ud; /* of all ranks: one that begins late waits the less */
    comm_deadline(r->world, 0.1);
    if (r->rank == 2) {
        nanosleep(&(struct timespec){0, 300000000}, NULL);
    } else {
        comm_barrier(r->world, "test.late");
        expect(r, !comm_ok(r->world, &err) && err.code == ERR_NET);
        expect(r, strstr(err.msg, "rank 2 did not come") != NULL);
        expect(r, now_s() - start >= 0.1 && now_s() - start < 5);
    }
    comm_barrier(r->world, "test.late"); /* who comes late learns it, too */
    expect(r, !comm_ok(r->world, &err) && strstr(err.msg, "deadline") != NULL);
}

static void nobody_sends(Rank *r) {
    Error err = {0};
    char byte = 0;
    comm_deadline(r->world, 0.05);
    if (r->rank == 0) comm_recv(r->world, &byte, 1, DTYPE_I8, 1, "test.nothing");
    if (r->rank == 1) comm_send(r->world, &byte, 1, DTYPE_I8, 2, "test.nobody");
    if (r->rank < 2) expect(r, !comm_ok(r->world, &err) && strstr(err.msg, "did not come") != NULL);
}

static void different_calls(Rank *r) {
    Error err = {0};
    if (r->rank == 1)
        comm_barrier(r->world, "test.here");
    else
        comm_barrier(r->world, "test.there");
    expect(r, !comm_ok(r->world, &err) && err.code == ERR_STATE);
    expect(r, strstr(err.msg, "test.here") != NULL && strstr(err.msg, "test.there") != NULL);
}

static void different_sizes(Rank *r) {
    Error err = {0};
    unsigned char *in = malloc(64),
                  out[256]; /* of its own: a rank that leaves too early would let the others read freed memory */
    memset(in, 1, 64);
    int64_t counts[3] = {4, 4, 4};
    if (r->rank == 2) counts[0] = 5;
    comm_all_gather(r->world, out, in, counts, DTYPE_I8, "test.sizes");
    expect(r, !comm_ok(r->world, &err) && strstr(err.msg, "which expects") != NULL);
    free(in);
}

static void test_failures(void **state) {
    (void)state;
    with_ranks(3, one_gives_up, NULL);
    double start = now_s();
    with_ranks(4, one_does_not_come, &start);
    with_ranks(3, nobody_sends, NULL);
    with_ranks(3, different_calls, NULL);
    with_ranks(3, different_sizes, NULL);
}

/* -- agreement */

static void agreement(Rank *r) {
    Error none = {0}, mine = {0}, err = {0};
    Gathered all;
    char text[32];
    int n = snprintf(text, sizeof text, "%.*s", r->rank, "abcdefgh");
    expect(r, agree(r->world, &none, text, n, &all, &err));
    expect(r, all.off[r->size] == r->size * (r->size - 1) / 2);
    for (int p = 0; p < r->size; p++)
        expect(r, all.off[p + 1] - all.off[p] == p && !memcmp(all.data + all.off[p], "abcdefgh", (size_t)p));
    gathered_release(&all);

    if (r->rank == 0) error_set(&mine, ERR_STOPPED, "a signal");
    expect(r, !agree(r->world, &mine, text, n, &all, &err) && err.code == ERR_STOPPED);
    gathered_release(&all);
    if (r->rank == 2) error_set(&mine, ERR_FORMAT, "file x, line 3");
    expect(r, !agree(r->world, &mine, NULL, 0, NULL, &err) && err.code == ERR_FORMAT); /* says more than a stop */
    expect(r, !strcmp(err.msg, r->rank == 2 ? "file x, line 3" : "rank 2: file x, line 3"));
    expect(r, agree(r->world, &none, NULL, 0, NULL, &err)); /* and the world is as it was */
}

static void test_agreement(void **state) {
    (void)state;
    with_ranks(3, agreement, NULL);
    with_ranks(5, agreement, NULL);
    Error none = {0}, bad = {.code = ERR_IO, .msg = "alone"}, err = {0};
    Gathered all;
    assert_true(agree(NULL, &none, "xy", 2, &all, &err));
    assert_true(all.off[1] == 2 && all.data[1] == 'y');
    gathered_release(&all);
    assert_false(agree(NULL, &bad, NULL, 0, NULL, &err));
    assert_string_equal(err.msg, "alone");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls),     cmocka_unit_test(test_one_rank), cmocka_unit_test(test_groups),
        cmocka_unit_test(test_counters),  cmocka_unit_test(test_flights),  cmocka_unit_test(test_failures),
        cmocka_unit_test(test_agreement),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
