/* base/pool.c — compute threads.
 *
 * Every thread has a share of each region, tiles that follow one another; whoever is through with its own takes from
 * the others', in turn. So no two threads ask for one counter, neighbours write to neighbouring memory seldom (two
 * cores that do hand lines to and fro, and CPUs fetch lines in pairs: with tiles dealt one by one a product of 32 rows
 * lost an eighth, attention a fifth), what a thread wrote in one region is in its cache in the next of the same shape,
 * and which tile comes next is known (pool_next).
 *
 * A region is described by three plain fields (fn, ud, n_tile) and counters:
 *
 *      left      of each share, tiles nobody has claimed; a claim is one fetch_sub, and the old value t > 0 means the
 *                t-th of the share from its end
 *      pending   tiles not yet finished; the caller returns when it is zero
 *
 * The fields are read only after a successful claim. A thread takes what it has finished off pending when it finds
 * nothing more to claim; until then pending is not zero, so the caller is still in pool_for and cannot describe the
 * next region: no lock and no region number are needed. A thread that overslept any number of regions either claims
 * tiles of the current one, which is fine, or finds none.
 *
 * A thread whose CPU other programs take does not run for milliseconds, with a tile in its hands or, if it is the
 * caller, with the next region: where regions are short, two threads beside a busy core were slower than one. So the
 * caller counts the time that a worker holds it up, beyond two of the caller's own tiles, and what it loses itself; at
 * more than a seventh of the time that worker, or for the caller's sake the last, rests for a while and others take its
 * tiles. Long tiles are no reason, for they are long for the caller too, nor is a caller that is kept from long
 * regions, for then the workers go on.
 *
 * The caller's release store to left starts a release sequence that the fetch_subs continue, so whoever claims sees the
 * description; each fetch_sub of pending releases what the tiles before it wrote to the caller, who reads zero. */
#include "base/pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREAD = 1024, SPIN_NS = 30000, SPIN_BATCH = 64, LINE = 64 };

/* Time lost to other programs: over how long it is counted, which share of it is too much, and a rest, twice as long
 * each time that it begins so again. A caller that does not run: how short its regions are then, and how often at least
 * it has been interrupted (the kernel lets a thread run for 3 or 4 ms), so that waiting for a file is not taken for it.
 */
enum { LOST_WINDOW_NS = 20000000, LOST_SHARE = 7, REST_NS = 100000000, REST_MAX_NS = 1600000000 };
enum { SHORT_NS = 1000000, INTERRUPTED_NS = 10000000 };

/* Two lines apart: CPUs fetch lines in pairs. */
typedef struct {
    _Atomic int64_t left;
    char pad[2 * LINE - sizeof(int64_t)];
} Share;

typedef struct {
    Pool *pool;
    int index;
    pthread_t thread;
    /* The caller's notes; of worker 0 about itself. */
    int64_t window, lost; /* how much it lost us since `window` */
    int64_t rest, rest_until;
    char pad0[2 * LINE];
    _Atomic bool working;     /* while it looks for tiles and runs them, until its report */
    _Atomic uint32_t resting; /* its futex while it rests */
    char pad1[2 * LINE];
} Worker;

struct Pool {
    PoolFn *fn;
    void *ud;
    int64_t n_tile;
    int n_thread;
    bool spin;      /* false with more threads than CPUs: a spinner would hold up the one that works */
    Worker *worker; /* [n_thread]; 0 is whoever calls pool_for, its thread is valid while active */
    _Atomic bool active;
    Share *share; /* [n_thread] */
    /* The caller's: workers at rest; since worker[0].window: regions, and what getrusage said then. */
    int n_resting;
    int64_t n_region, cpu_ns, n_switch;
    char pad0[LINE];
    _Atomic uint32_t pending; /* the caller's futex */
    _Atomic bool caller_asleep;
    char pad1[LINE];
    _Atomic uint32_t wake; /* the workers' futex: raised once per region and at the end */
    _Atomic int n_asleep;
    _Atomic bool quit;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static int64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Returns the word's value: another one than `from` (or, for until_zero, zero) unless the time ran out. */
static uint32_t spin_on(const Pool *p, _Atomic uint32_t *word, uint32_t from, bool until_zero) {
    uint32_t v = atomic_load(word);
    if (!p->spin) return v;
    int64_t end = 0;
    for (;;) {
        for (int i = 0; i < SPIN_BATCH; i++) {
            v = atomic_load_explicit(word, memory_order_acquire);
            if (until_zero ? v == 0 : v != from) return v;
            CPU_RELAX();
        }
        int64_t now = clock_ns();
        if (end == 0) end = now + SPIN_NS;
        if (now >= end) return v;
    }
}

static int64_t share_at(int64_t n_tile, int n_thread, int share) { return n_tile * share / n_thread; }

static int64_t share_size(const Pool *p, int share) {
    return share_at(p->n_tile, p->n_thread, share + 1) - share_at(p->n_tile, p->n_thread, share);
}

/* The share that tile t is in ends here. */
static int64_t share_end(int64_t n_tile, int n_thread, int64_t t) {
    return share_at(n_tile, n_thread, (int)(((t + 1) * n_thread - 1) / n_tile) + 1);
}

int64_t pool_next(const Pool *p, int64_t n_tile, int64_t tile) {
    return tile + 1 < share_end(n_tile, p->n_thread, tile) ? tile + 1 : -1;
}

int64_t pool_first(const Pool *p, int64_t n_tile, int thread) { return share_at(n_tile, p->n_thread, thread); }

/* Runs what is left of a share; returns how many tiles that were. */
static uint32_t run_share(Pool *p, int share, int thread) {
    _Atomic int64_t *left = &p->share[share].left;
    for (uint32_t done = 0;; done++) {
        if (atomic_load_explicit(left, memory_order_relaxed) <= 0) return done;
        int64_t t = atomic_fetch_sub_explicit(left, 1, memory_order_acq_rel);
        if (t <= 0) return done;
        p->fn(p->ud, share_at(p->n_tile, p->n_thread, share + 1) - t, thread);
    }
}

/* Returns how many tiles this thread ran. */
static uint32_t run_tiles(Pool *p, int thread) {
    uint32_t done = 0;
    for (int i = 0; i < p->n_thread; i++) done += run_share(p, (thread + i) % p->n_thread, thread);
    /* Both sequentially consistent: either we see that the caller sleeps, or it sees our zero before it does. */
    if (done > 0 && atomic_fetch_sub(&p->pending, done) == done && atomic_load(&p->caller_asleep))
        futex_wake(&p->pending, 1);
    return done;
}

static void *worker_main(void *arg) {
    Worker *w = arg;
    Pool *p = w->pool;
    for (;;) {
        /* Read before looking for tiles: a region opened after the look has raised it, and we shall not sleep. */
        uint32_t seen = atomic_load(&p->wake);
        if (atomic_load(&p->quit)) return NULL;
        if (atomic_load(&w->resting)) {
            futex_wait(&w->resting, 1);
            continue;
        }
        atomic_store_explicit(&w->working, true, memory_order_relaxed);
        run_tiles(p, w->index);
        atomic_store_explicit(&w->working, false, memory_order_relaxed);
        if (spin_on(p, &p->wake, seen, false) != seen) continue;
        atomic_fetch_add(&p->n_asleep, 1);
        if (atomic_load(&p->wake) == seen) futex_wait(&p->wake, seen);
        atomic_fetch_sub(&p->n_asleep, 1);
    }
}

static void wake_workers(Pool *p, int n) {
    atomic_fetch_add(&p->wake, 1);
    if (atomic_load(&p->n_asleep) > 0) futex_wake(&p->wake, n);
}

/* ---- threads whose CPU is taken ---- */

static void rest_begin(Pool *p, Worker *w, int64_t now, int64_t ns) {
    w->rest_until = now + ns;
    p->n_resting++;
    atomic_store(&w->resting, 1);
}

static void rest_end(Pool *p, Worker *w) {
    p->n_resting--;
    w->rest_until = 0;
    atomic_store(&w->resting, 0);
    futex_wake(&w->resting, 1);
}

/* Closes a window and returns for how long to rest; 0: go on. */
static int64_t lost_too_much(Worker *w, int64_t now) {
    int64_t passed = now - w->window;
    bool much = w->lost * LOST_SHARE > passed;
    w->window = now;
    w->lost = 0;
    w->rest = !much ? 0 : w->rest == 0 ? REST_NS : w->rest < REST_MAX_NS ? 2 * w->rest : w->rest;
    return w->rest;
}

/* A worker held the caller up until now, for so long. */
static void held_up(Pool *p, Worker *w, int64_t now, int64_t ns) {
    w->lost += ns;
    if (now - w->window < LOST_WINDOW_NS) return;
    int64_t rest = lost_too_much(w, now);
    if (rest > 0) rest_begin(p, w, now, rest);
}

static void begin_window(Pool *p, int64_t now) {
    struct rusage u;
    getrusage(RUSAGE_THREAD, &u);
    p->cpu_ns = ((int64_t)u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000 +
                ((int64_t)u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
    p->n_switch = u.ru_nivcsw;
    p->n_region = 0;
    p->worker[0].window = now;
}

/* Does the caller itself lose time? */
static void caller_window(Pool *p, int64_t now) {
    Worker *w = &p->worker[0];
    int64_t from = w->window, cpu = p->cpu_ns, n_switch = p->n_switch, n_region = p->n_region;
    begin_window(p, now);
    n_switch = p->n_switch - n_switch;
    w->lost = now - from - (p->cpu_ns - cpu) - w->lost; /* what it waited for workers is theirs */
    w->window = from;
    if (n_switch * INTERRUPTED_NS < now - from || n_region * SHORT_NS < now - from) w->lost = 0;
    int64_t rest = lost_too_much(w, now);
    for (int i = p->n_thread; rest > 0 && --i > 0;) {
        if (p->worker[i].rest_until) continue;
        rest_begin(p, &p->worker[i], now, rest);
        return;
    }
}

/* Before a region. */
static void look_round(Pool *p, int64_t now) {
    for (int i = 1; i < p->n_thread && p->n_resting > 0; i++) {
        Worker *w = &p->worker[i];
        if (w->rest_until == 0 || now < w->rest_until) continue;
        rest_end(p, w);
        w->window = now;
        w->lost = 0;
        p->worker[0].lost = 0;
        begin_window(p, now);
    }
    if (now - p->worker[0].window >= LOST_WINDOW_NS && p->n_resting < p->n_thread - 1) caller_window(p, now);
    p->n_region++;
}

/* The caller has run `done` tiles since `begin` and waits, now in vain for as long as it spins. */
static void wait_longer(Pool *p, int64_t begin, uint32_t done) {
    int64_t from = clock_ns(), tile = done ? (from - begin) / done : 0;
    bool late[MAX_THREAD];
    for (int i = 1; i < p->n_thread; i++) late[i] = atomic_load_explicit(&p->worker[i].working, memory_order_relaxed);
    do {
        atomic_store(&p->caller_asleep, true);
        uint32_t v = atomic_load(&p->pending);
        if (v != 0) futex_wait(&p->pending, v);
        atomic_store(&p->caller_asleep, false);
    } while (spin_on(p, &p->pending, 0, true) != 0);
    int64_t now = clock_ns(), ns = now - from - 2 * tile;
    p->worker[0].lost += now - from;
    if (done == 0 || ns <= 0) return;
    for (int i = 1; i < p->n_thread; i++) {
        if (late[i] && p->worker[i].rest_until == 0) held_up(p, &p->worker[i], now, ns);
    }
}

/* The calling thread's number if it is inside a tile of this pool, else -1. */
static int inside(const Pool *p) {
    if (!atomic_load(&p->active)) return -1;
    pthread_t self = pthread_self();
    for (int i = 0; i < p->n_thread; i++) {
        if (pthread_equal(p->worker[i].thread, self)) return i;
    }
    CHECK(false, "two threads opened a region on one pool");
    return -1;
}

void pool_for(Pool *p, int64_t n_tile, PoolFn *fn, void *ud) {
    CHECK(n_tile < (int64_t)UINT32_MAX, "pool_for: %lld tiles", (long long)n_tile);
    if (n_tile <= 0) return;
    int nested = inside(p);
    if (nested >= 0 || p->n_thread == 1) {
        for (int64_t t = 0; t < n_tile; t++) fn(ud, t, nested >= 0 ? nested : 0);
        return;
    }
    p->worker[0].thread = pthread_self();
    atomic_store(&p->active, true);
    if (n_tile == 1) { /* nobody to share it with */
        fn(ud, 0, 0);
        atomic_store(&p->active, false);
        return;
    }
    int64_t begin = clock_ns();
    look_round(p, begin);
    p->fn = fn;
    p->ud = ud;
    p->n_tile = n_tile;
    atomic_store(&p->pending, (uint32_t)n_tile);
    for (int i = 0; i < p->n_thread; i++)
        atomic_store_explicit(&p->share[i].left, share_size(p, i), memory_order_release);
    int others = p->n_thread - 1 - p->n_resting;
    if (others > 0) wake_workers(p, n_tile - 1 < others ? (int)n_tile - 1 : others);
    uint32_t done = run_tiles(p, 0);
    if (spin_on(p, &p->pending, 0, true) != 0) wait_longer(p, begin, done);
    atomic_store(&p->active, false);
}

int pool_threads(const Pool *p) { return p->n_thread; }

/* Of the threads these were started. */
static void close_first(Pool *p, int n_started) {
    atomic_store(&p->quit, true);
    for (int i = 1; i < n_started; i++) {
        if (p->worker[i].rest_until) rest_end(p, &p->worker[i]);
    }
    wake_workers(p, n_started);
    for (int i = 1; i < n_started; i++) pthread_join(p->worker[i].thread, NULL);
    free(p->worker);
    free(p->share);
    free(p);
}

bool pool_open(Pool **out, int n_thread, Error *err) {
    *out = NULL;
    int cpus = pool_cpus();
    if (n_thread == 0) n_thread = cpus;
    if (n_thread < 0 || n_thread > MAX_THREAD)
        return error_set(err, ERR_CONFIG, "%d threads: expected 0 (all CPUs) to %d", n_thread, MAX_THREAD);
    Pool *p = mem_alloc(sizeof *p);
    p->n_thread = n_thread;
    p->spin = n_thread <= cpus;
    p->worker = mem_alloc((size_t)n_thread * sizeof *p->worker);
    p->share = mem_alloc((size_t)n_thread * sizeof *p->share);
    /* Workers take no signals: those belong to whoever watches them. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int e = 0, got = 1;
    while (got < n_thread && e == 0) {
        p->worker[got] = (Worker){.pool = p, .index = got};
        e = pthread_create(&p->worker[got].thread, NULL, worker_main, &p->worker[got]);
        if (e == 0) got++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (e != 0) {
        close_first(p, got);
        return error_set(err, ERR_MEMORY, "cannot start thread %d of %d: %s (lower 'threads' or raise ulimit -u)",
                         got + 1, n_thread, strerror(e));
    }
    *out = p;
    return true;
}

void pool_close(Pool *p) {
    if (p) close_first(p, p->n_thread);
}

/* ---- usable CPUs ---- */

static int affinity_cpus(void) {
    for (int n = 1024; n <= 1 << 18; n *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)n);
        if (!set) break;
        size_t bytes = CPU_ALLOC_SIZE((size_t)n);
        CPU_ZERO_S(bytes, set);
        bool got = sched_getaffinity(0, bytes, set) == 0;
        int count = got ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (got && count > 0) return count;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

/* The first two numbers of a small file; -1 for what is absent or the word "max". Returns false when there is no file.
 */
static bool read_pair(double v[2], const char *path) {
    FILE *f = fopen(path, "re");
    if (!f) return false;
    char a[32] = "", b[32] = "";
    int n = fscanf(f, "%31s %31s", a, b);
    fclose(f);
    v[0] = n > 0 && strcmp(a, "max") != 0 ? strtod(a, NULL) : -1;
    v[1] = n > 1 ? strtod(b, NULL) : -1;
    return n > 0;
}

/* The smallest quota, in CPUs, of a control group and its parents, starting at the longest path; 0 when there is none.
 * A container often sees its host's path but only its own group mounted at the root, hence walking up to "". */
static double group_quota(const char *mount, const char *group, bool v2) {
    char at[4096], path[4400];
    snprintf(at, sizeof at, "%s", group);
    double least = 0;
    for (;;) {
        double v[2], period[2], cpus = 0;
        if (v2) {
            snprintf(path, sizeof path, "%s%s/cpu.max", mount, at);
            if (read_pair(v, path) && v[0] > 0 && v[1] > 0) cpus = v[0] / v[1];
        } else {
            snprintf(path, sizeof path, "%s%s/cpu.cfs_quota_us", mount, at);
            bool got = read_pair(v, path);
            snprintf(path, sizeof path, "%s%s/cpu.cfs_period_us", mount, at);
            if (got && read_pair(period, path) && v[0] > 0 && period[0] > 0) cpus = v[0] / period[0];
        }
        if (cpus > 0 && (least == 0 || cpus < least)) least = cpus;
        char *slash = strrchr(at, '/');
        if (!slash) return least;
        *slash = 0;
    }
}

static double cgroup_cpus(void) {
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f) return 0;
    double least = 0;
    char line[4096];
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        controllers++;
        double cpus = 0;
        if (*controllers == 0)
            cpus = group_quota("/sys/fs/cgroup", group, true);
        else if (strcmp(controllers, "cpu") == 0 || strncmp(controllers, "cpu,", 4) == 0 ||
                 strstr(controllers, ",cpu,"))
            cpus = group_quota("/sys/fs/cgroup/cpu", group, false);
        if (cpus > 0 && (least == 0 || cpus < least)) least = cpus;
    }
    fclose(f);
    return least;
}

int pool_cpus(void) {
    int n = affinity_cpus();
    double quota = cgroup_cpus();
    if (quota > 0 && quota < n) n = (int)quota + (quota > (int)quota);
    return n < 1 ? 1 : n;
}
