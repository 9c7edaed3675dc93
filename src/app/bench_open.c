/* Opening a model folder beside reading its files, in turn: what a loader takes over what it cannot do without.
 *
 *   open/files    read(2) of every .safetensors into fresh memory of its size
 *   open/stream   the same through one buffer of 1 MB, as `cat` does: no new memory
 *   open/model    config.json, checks, weights and head in place, ready for the first product
 *
 * *_s are wall-clock, *_cpu_s CPU seconds of all threads; medians over --reps. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "app/bench.h"
#include "base/io.h"

enum { STREAM = 1 << 20, N_WAY = 3 };

typedef struct {
    Bench *b;
    double bytes;
    double *wall[N_WAY], *cpu[N_WAY]; /* (reps) */
} Opening;

static bool read_one(Opening *o, const char *path, bool stream, Error *err) {
    int64_t size = io_size(path), at = 0;
    size_t room = stream ? STREAM : (size_t)size;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    unsigned char *p = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool ok = fd >= 0 && p != MAP_FAILED;
    while (ok && at < size) {
        ssize_t n = read(fd, stream ? p : p + at, stream ? room : (size_t)(size - at));
        if (n <= 0) ok = false;
        at += n > 0 ? n : 0;
    }
    if (p != MAP_FAILED) munmap(p, room);
    if (fd >= 0) close(fd);
    o->bytes += (double)at;
    return ok || error_set(err, ERR_IO, "%s: cannot be read", path);
}

static bool read_files(Opening *o, bool stream, Error *err) {
    char **name;
    int n;
    bool ok = io_list_dir(&name, &n, o->b->dir, err);
    if (!ok) return false;
    o->bytes = 0;
    for (int i = 0; i < n && ok; i++) {
        size_t len = strlen(name[i]);
        if (len < 12 || strcmp(name[i] + len - 12, ".safetensors")) continue;
        Str path = {0};
        str_printf(&path, "%s/%s", o->b->dir, name[i]);
        ok = read_one(o, str_get(&path), stream, err);
        str_release(&path);
    }
    io_free_list(name, n);
    return ok;
}

static bool open_once(const Opening *o, Error *err) {
    Model m;
    Head h;
    if (!model_open(&m, o->b->machine.be, o->b->dir, false, err)) return false;
    bool ok = head_open(&h, &m, HEAD_LM, o->b->dir, false, err);
    if (ok) head_release(&h);
    model_release(&m);
    return ok;
}

static bool one_turn(Opening *o, int rep, Error *err) {
    for (int way = 0; way < N_WAY; way++) {
        double t = now_s(), cpu = own_cpu_s();
        bool ok = way < 2 ? read_files(o, way == 1, err) : open_once(o, err);
        if (!ok) return false;
        o->wall[way][rep] = now_s() - t;
        o->cpu[way][rep] = own_cpu_s() - cpu;
    }
    return true;
}

static void emit(Opening *o, Meter meter) {
    static const char *const name[N_WAY] = {"files", "stream", "model"};
    double wall[N_WAY], cpu[N_WAY];
    char key[32];
    int reps = (int)o->b->reps;
    Case c;
    case_begin(&c, o->b, "open", "open/model", pool_threads(o->b->machine.pool));
    json_out_num(&c.j, "mb", rounded(o->bytes / 1e6, 3));
    for (int way = 0; way < N_WAY; way++) {
        wall[way] = median_of(o->wall[way], reps);
        cpu[way] = median_of(o->cpu[way], reps);
        json_out_num(&c.j, (snprintf(key, sizeof key, "%s_s", name[way]), key), rounded(wall[way], 4));
        json_out_num(&c.j, (snprintf(key, sizeof key, "%s_cpu_s", name[way]), key), rounded(cpu[way], 4));
    }
    json_out_num(&c.j, "ratio", rounded(wall[2] / wall[0], 3));
    json_out_num(&c.j, "cpu_ratio", rounded(cpu[2] / cpu[0], 3));
    json_out_int(&c.j, "reps", reps);
    case_end(&c, meter, "%.3f s; reading its %.0f MB %.3f s: %.2f times, %.2f times in CPU seconds", wall[2],
             o->bytes / 1e6, wall[0], wall[2] / wall[0], cpu[2] / cpu[0]);
}

bool bench_open(Bench *b, Error *err) {
    Opening o = {.b = b};
    double *times = mem_alloc(2 * N_WAY * (size_t)b->reps * sizeof *times);
    for (int way = 0; way < N_WAY; way++) {
        o.wall[way] = times + (size_t)(2 * way) * (size_t)b->reps;
        o.cpu[way] = o.wall[way] + b->reps;
    }
    bool ok = b->dir || error_set(err, ERR_CONFIG, "bench open needs --dir MODEL");
    b->size = NULL;                /* no size of ours in these lines */
    ok = ok && open_once(&o, err); /* what is opened is in memory before anything is timed */
    Meter meter = meter_start();
    for (int i = 0; i < b->reps && ok; i++) ok = one_turn(&o, i, err);
    if (ok) emit(&o, meter);
    free(times);
    return ok;
}
