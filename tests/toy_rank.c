/* tests/toy_rank.c — a rank that trains nothing worth having, deterministically: what the supervisor's tests launch.
 * Its ranks meet in a file that all map, so it needs no MPI; the final state is a function of the steps alone, whatever
 * the ranks and kills.
 *
 *   toy_rank DIR STEPS        DIR/ckpt-SSSSSS.bin every five steps, DIR/final.bin; DIR/writes.log, DIR/crash.log for
 * the tests
 *
 *   DIKAST_CRASH_AT   SECTION:STEP:RANK[:FAULT], several with commas: the i-th one happens in attempt i
 *   FAULT             kill (default) stop stopall segv exitN hang | miss mismatch cross (collectives) | nan flip slow
 *   TOY_ALWAYS=1      the first one, in every attempt     TOY_STEP_MS, TOY_SKIP=step, TOY_HOSTS=a:b:b (name by rank)
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "dist/beat.h"
#include "dist/health.h"

enum { DIM = 32, MICRO = 8, RANKS = 16, GROUPS = 2, EVERY = 5, RECORDS = 32 };
enum { WORLD, PAIR };
static const char *const group_name[GROUPS] = {"world", "pair"};

typedef struct { /* what the ranks share */
    _Atomic int64_t arrived[GROUPS][RANKS];
    _Atomic uint64_t call[GROUPS][RANKS]; /* op << 32 | count of the newest */
    double leaf[2][MICRO][DIM];
    Hash hash[RANKS];
} Shared;

typedef struct {
    const char *group, *op, *site;
    int64_t seq, count;
    double start_s;
    _Atomic bool over;
} Record;

typedef struct {
    const char *dir;
    int64_t steps, step;
    int rank, world, attempt;
    double w[DIM], step_s;
    Shared *shared;
    int64_t seq[GROUPS];
    Record record[RECORDS];
    _Atomic int n_record;
    Log *log;
    Pulse *pulse;
    Stop *stop;
    Beat *beat;
    struct {
        Section section;
        int64_t step;
        int rank;
        char what[16];
        bool on;
    } fault;
} Toy;

static void nap(double s) {
    struct timespec t = {(time_t)s, (long)((s - (double)(time_t)s) * 1e9)};
    nanosleep(&t, NULL);
}

static void note(const Toy *t, const char *file, const char *what) {
    char path[400], line[200];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(path, sizeof path, "%s/%s", t->dir, file);
    int n = snprintf(line, sizeof line, "%lld.%03ld attempt %d rank %d step %lld %s\n", (long long)now.tv_sec,
                     now.tv_nsec / 1000000, t->attempt, t->rank, (long long)t->step, what);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    CHECK(fd >= 0 && write(fd, line, (size_t)n) == n, "%s", path);
    close(fd);
}

/* -- faults */

static bool fault_now(const Toy *t, const char *what) {
    return t->fault.on && t->fault.step == t->step && t->fault.rank == t->rank && !strcmp(t->fault.what, what);
}

static void hurt(Toy *t) {
    const char *what = t->fault.what;
    note(t, "crash.log", what);
    if (!strcmp(what, "kill")) raise(SIGKILL);
    if (!strcmp(what, "stop") || !strcmp(what, "stopall")) raise(SIGSTOP);
    if (!strcmp(what, "segv")) {
        signal(SIGSEGV, SIG_DFL); /* a sanitizer would make an exit code of it */
        raise(SIGSEGV);
    }
    if (!strncmp(what, "exit", 4)) {
        beat_close(t->beat, atoi(what + 4));
        _exit(atoi(what + 4));
    }
    while (!strcmp(what, "hang")) nap(0.01);
}

static void enter(Toy *t, Section s) {
    pulse_section(t->pulse, s);
    if (t->fault.on && t->fault.section == s && t->fault.step == t->step &&
        (t->fault.rank == t->rank || !strcmp(t->fault.what, "stopall")) && strchr("kseh", t->fault.what[0]) &&
        strcmp(t->fault.what, "slow"))
        hurt(t);
}

static void read_fault(Toy *t) {
    const char *s = getenv("DIKAST_CRASH_AT"), *always = getenv("TOY_ALWAYS");
    for (int i = 1; s && i < t->attempt && !always; i++) {
        s = strchr(s, ',');
        s = s ? s + 1 : NULL;
    }
    if (!s || !*s) return;
    char section[16];
    long long step;
    int n = sscanf(s, "%15[A-Z]:%lld:%d:%15[a-z0-9]", section, &step, &t->fault.rank, t->fault.what);
    CHECK(n >= 3 && section_find(&t->fault.section, section), "DIKAST_CRASH_AT at '%s'", s);
    if (n < 4) strcpy(t->fault.what, "kill");
    t->fault.step = step;
    t->fault.on = true;
}

/* -- collectives: everybody of the group has come, and calls the same */

static void meet(Toy *t, int group, const char *op, int64_t count, const char *site) {
    int first = 0, end = group == PAIR ? 2 : t->world;
    Record *r = &t->record[t->n_record % RECORDS];
    int64_t seq = ++t->seq[group];
    uint64_t call = (uint64_t)(unsigned char)op[0] << 32 | (uint64_t)count;
    pulse_call(t->pulse, (uint32_t)group, (unsigned char)op[0]);
    r->group = group_name[group], r->op = op, r->site = site, r->seq = seq, r->count = count, r->start_s = now_s();
    atomic_store(&r->over, false);
    atomic_fetch_add(&t->n_record, 1);
    enter(t, SECTION_COMM);
    atomic_store(&t->shared->call[group][t->rank], call);
    atomic_store(&t->shared->arrived[group][t->rank], seq);
    for (bool all = false; !all;) {
        all = true;
        for (int k = first; k < end; k++) {
            int64_t at = atomic_load(&t->shared->arrived[group][k]);
            all = all && (at > seq || (at == seq && atomic_load(&t->shared->call[group][k]) == call));
        }
        if (!all) nap(0.0005);
    }
    atomic_store(&r->over, true);
    pulse_call_end(t->pulse);
}

static void recorder(void *ud, Str *out) {
    Toy *t = ud;
    JsonOut j;
    int n = atomic_load(&t->n_record);
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_arr(&j, "groups");
    for (int g = 0; g < GROUPS; g++) {
        json_out_obj(&j, NULL);
        json_out_str(&j, "id", group_name[g]);
        json_out_arr(&j, "ranks");
        for (int k = 0; k < (g == PAIR ? 2 : t->world); k++) json_out_int(&j, NULL, k);
        json_out_arr_end(&j);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_arr(&j, "records");
    for (int i = n > RECORDS ? n - RECORDS : 0; i < n; i++) {
        const Record *r = &t->record[i % RECORDS];
        json_out_obj(&j, NULL);
        json_out_str(&j, "group", r->group);
        json_out_int(&j, "seq", r->seq);
        json_out_str(&j, "op", r->op);
        json_out_str(&j, "dtype", "f64");
        json_out_int(&j, "count", r->count);
        json_out_int(&j, "peer", -1);
        json_out_str(&j, "site", r->site);
        json_out_num(&j, "t_start", r->start_s);
        json_out_num(&j, "t_end", atomic_load(&r->over) ? r->start_s + 1e-6 : 0);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_obj_end(&j);
}

/* -- training */

static double draw(int64_t step, int micro, int i) {
    uint64_t x = (uint64_t)step * 1000003u + (uint64_t)micro * 10007u + (uint64_t)i;
    x ^= x >> 31, x *= 0x9E3779B97F4A7C15u, x ^= x >> 29, x *= 0xBF58476D1CE4E5B9u, x ^= x >> 32;
    return (double)(x >> 11) * 0x1p-53 - 0.5;
}

/* The sum of all leaves as one binary tree over their numbers: the same bits for any number of ranks. */
static double tree(double leaf[MICRO][DIM], int i, int first, int n) {
    return n == 1 ? leaf[first][i] : tree(leaf, i, first, n / 2) + tree(leaf, i, first + n / 2, n / 2);
}

static void compute(Toy *t, double leaf[MICRO][DIM]) {
    int mine = MICRO / t->world;
    double slow = t->fault.on && !strcmp(t->fault.what, "slow") && t->fault.rank == t->rank ? 3 : 1;
    enter(t, SECTION_DATA);
    nap(t->step_s * 0.1);
    enter(t, SECTION_FWD);
    nap(t->step_s * 0.5 * slow);
    enter(t, SECTION_BWD);
    for (int m = t->rank * mine; m < (t->rank + 1) * mine; m++)
        for (int i = 0; i < DIM; i++) leaf[m][i] = 0.5 * t->w[i] + 0.1 * t->w[(i + 1) % DIM] + draw(t->step, m, i);
    nap(t->step_s * 0.3);
    if (fault_now(t, "nan")) leaf[t->rank * mine][1] = NAN;
}

static void exchange(Toy *t) {
    if (fault_now(t, "cross")) { /* the one pair of calls in the other order */
        note(t, "crash.log", "cross");
        meet(t, PAIR, "barrier", 1, "toy.pair");
        meet(t, WORLD, "all_gather", DIM, "toy.leaves");
        return;
    }
    if (fault_now(t, "miss"))
        note(t, "crash.log", "miss");
    else if (fault_now(t, "mismatch"))
        meet(t, WORLD, "all_gather", DIM + 1, "toy.leaves");
    else
        meet(t, WORLD, "all_gather", DIM, "toy.leaves");
    if (t->rank < 2 && t->world > 1) meet(t, PAIR, "barrier", 1, "toy.pair");
}

static bool own_finite(const Toy *t, double leaf[MICRO][DIM]) {
    int mine = MICRO / t->world;
    for (int m = t->rank * mine; m < (t->rank + 1) * mine; m++)
        for (int i = 0; i < DIM; i++)
            if (!isfinite(leaf[m][i])) return false;
    return true;
}

static void update(Toy *t, double leaf[MICRO][DIM]) {
    double sum[DIM], norm = 0;
    const char *skip = getenv("TOY_SKIP");
    enter(t, SECTION_OPT);
    for (int i = 0; i < DIM; i++) {
        sum[i] = tree(leaf, i, 0, MICRO);
        norm += sum[i] * sum[i];
    }
    bool own = own_finite(t, leaf); /* whose micro-batch was it? */
    pulse_numbers(t->pulse, own ? 1 : NAN, own ? 1 : NAN, (double)t->step * MICRO);
    if (!own) pulse_nonfinite(t->pulse);
    if (isfinite(norm) && !(skip && atoll(skip) == t->step))
        for (int i = 0; i < DIM; i++) t->w[i] -= 0.05 * sum[i];
    if (fault_now(t, "flip")) {
        uint64_t bits;
        memcpy(&bits, &t->w[3], sizeof bits);
        bits ^= 1u << 20;
        memcpy(&t->w[3], &bits, sizeof bits);
        note(t, "crash.log", "flip");
    }
}

/* -- state: rank 0 writes, everybody reads */

static void state_path(char out[400], const Toy *t, int64_t step) {
    snprintf(out, 400, "%s/ckpt-%06lld.bin", t->dir, (long long)step);
}

static void compare_replicas(Toy *t) {
    Corrupt bad;
    BucketHash b;
    char text[200];
    bucket_hash_begin(&b, &t->shared->hash[t->rank], 1, sizeof t->w);
    bucket_hash_add(&b, t->w, sizeof t->w);
    bucket_hash_end(&b);
    meet(t, WORLD, "hash", 1, "toy.hash");
    if (replicas_compare(&bad, 1, t->shared->hash, t->world, 1) > 0) {
        if (t->rank == 0) {
            snprintf(text, sizeof text, "{\"event\":\"corrupt\",\"rank\":%d,\"msg\":\"bucket %d at step %lld\"}",
                     bad.rank, bad.bucket, (long long)t->step);
            beat_event(t->beat, text);
        }
        for (;;) nap(0.01); /* until it is stopped */
    }
    meet(t, WORLD, "barrier", 1, "toy.compared");
}

static void save(Toy *t) {
    char path[400];
    Error err = {0};
    compare_replicas(t);
    enter(t, SECTION_CKPT);
    pulse_mark(t->pulse);
    if (t->rank == 0) {
        state_path(path, t, t->step);
        if (!pulse_leased(t->pulse)) { /* this process slept: another may have its place */
            note(t, "crash.log", "fenced");
            _exit(EXIT_RESUMABLE);
        }
        note(t, "writes.log", "state");
        CHECK(io_write_file(path, t->w, sizeof t->w, &err), "%s", err.msg);
        pulse_commit(t->pulse, t->step);
    }
    meet(t, WORLD, "barrier", 2, "toy.saved");
    pulse_kept(t->pulse);
}

static void load(Toy *t) {
    char path[400];
    Str text = {0};
    Error err = {0};
    for (int i = 0; i < DIM; i++) t->w[i] = draw(0, 0, i);
    for (int64_t step = t->steps; step > 0; step--) {
        state_path(path, t, step);
        if (!io_exists(path)) continue;
        CHECK(io_read_file(&text, path, 1 << 20, &err) && text.n == sizeof t->w, "%s: %s", path, err.msg);
        memcpy(t->w, text.s, sizeof t->w);
        t->step = step;
        break;
    }
    str_release(&text);
}

/* Whether anybody was asked to stop is decided together, or some would wait for others that left. */
static bool stop_together(Toy *t) {
    static const char *const op[] = {"go", "stop"};
    bool mine = stop_requested(t->stop), any = false;
    t->shared->hash[t->rank] = (Hash){mine, 0};
    meet(t, WORLD, "asks", 1, op[0]);
    for (int r = 0; r < t->world; r++) any = any || t->shared->hash[r].lo;
    meet(t, WORLD, "barrier", 3, op[1]);
    return any;
}

static int train(Toy *t) {
    while (t->step < t->steps) {
        t->step++;
        pulse_step(t->pulse, t->step);
        double(*leaf)[DIM] = t->shared->leaf[t->step & 1];
        if (t->step % EVERY == 0) {
            enter(t, SECTION_ROLLOUT);
            enter(t, SECTION_SCORE);
            enter(t, SECTION_EVAL);
        }
        compute(t, leaf);
        exchange(t);
        update(t, leaf);
        bool stop = stop_together(t);
        if (t->step % EVERY == 0 || t->step == t->steps || stop) save(t);
        if (stop && t->step < t->steps) return EXIT_RESUMABLE;
    }
    return 0;
}

static void open_shared(Toy *t) {
    char path[400];
    snprintf(path, sizeof path, "%s/shared-%d", t->dir, t->attempt);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    CHECK(fd >= 0 && ftruncate(fd, sizeof(Shared)) == 0, "%s: %s", path, strerror(errno));
    t->shared = mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(t->shared != MAP_FAILED, "%s", path);
    close(fd);
}

static void host_by_rank(char out[FRAME_HOST_MAX + 1], int rank) {
    const char *s = getenv("TOY_HOSTS");
    for (int i = 0; s && i < rank && strchr(s, ':'); i++) s = strchr(s, ':') + 1;
    if (s) snprintf(out, FRAME_HOST_MAX + 1, "%.*s", (int)strcspn(s, ":"), s);
}

int main(int argc, char **argv) {
    static Toy t;
    BeatConfig c;
    Error err = {0};
    bool supervised;
    const char *ms = getenv("TOY_STEP_MS");
    CHECK(argc == 3, "usage: toy_rank DIR STEPS");
    CHECK(stop_open(&t.stop, &err), "%s", err.msg);
    t.dir = argv[1];
    t.steps = atoll(argv[2]);
    t.step_s = 1e-3 * (ms ? atof(ms) : 20);
    t.log = log_new(LOG_QUIET);
    t.pulse = log_pulse(t.log);
    CHECK(beat_config_env(&c, &supervised, &err), "%s", err.msg);
    t.rank = supervised ? (int)c.hello.rank : 0;
    t.world = supervised ? (int)c.hello.world : 1;
    t.attempt = supervised ? (int)c.hello.attempt : 1;
    CHECK(t.world <= RANKS && MICRO % t.world == 0, "%d ranks", t.world);
    read_fault(&t);
    open_shared(&t);
    c.pulse = t.pulse;
    c.stop = t.stop;
    pulse_recorder(t.pulse, recorder, &t);
    host_by_rank(c.hello.host, t.rank);
    if (supervised) CHECK(beat_open(&t.beat, &c, &err), "%s", err.msg);
    pulse_stage(t.pulse, "toy");
    load(&t);
    enter(&t, SECTION_INIT);
    pulse_working(t.pulse);
    int code = train(&t);
    if (code == 0 && t.rank == 0) {
        char path[400];
        snprintf(path, sizeof path, "%s/final.bin", t.dir);
        CHECK(io_write_file(path, t.w, sizeof t.w, &err), "%s", err.msg);
    }
    beat_close(t.beat, code);
    pulse_recorder(t.pulse, NULL, NULL);
    stop_close(t.stop);
    log_free(t.log);
    munmap(t.shared, sizeof(Shared));
    return code;
}
