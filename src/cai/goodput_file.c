#include "cai/goodput_file.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/io.h"

static int64_t unix_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void put_ranks(JsonOut *j, const Goodput *rank, int n, int64_t wall) {
    Goodput total = {{0}};
    json_out_int(j, "wall_ns", wall);
    json_out_arr(j, "ranks");
    for (int r = 0; r < n; r++) {
        Goodput g = rank[r];
        g.ns[GOOD_IDLE] += wall - goodput_total(&g);
        goodput_add(&total, &g);
        json_out_obj(j, NULL);
        json_out_int(j, "rank", r);
        json_out_int(j, "wall_ns", wall);
        goodput_put(j, "bins_ns", &g);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
    json_out_int(j, "rank_ns", n * wall);
    goodput_put(j, "bins_ns", &total);
    json_out_num(j, "ettr", goodput_ettr(&total));
}

static bool write_file(const char *run_dir, const Goodput *rank, int n, Error *err) {
    Str text = {0}, path = {0};
    JsonOut j;
    int64_t wall = 0;
    for (int r = 0; r < n; r++)
        if (goodput_total(&rank[r]) > wall) wall = goodput_total(&rank[r]);
    json_out_init(&j, &text, 1);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-goodput/1");
    json_out_bool(&j, "over", true);
    json_out_int(&j, "until_unix_ns", unix_ns());
    json_out_int(&j, "attempts", 1);
    json_out_int(&j, "faults", 0);
    json_out_int(&j, "world", n);
    put_ranks(&j, rank, n, wall);
    json_out_obj_end(&j);
    str_putc(&text, '\n');
    str_printf(&path, "%s/goodput.json", run_dir);
    bool ok = io_write_file(path.s, text.s, text.n, err);
    str_release(&path);
    str_release(&text);
    return ok;
}

bool goodput_file_write(const char *run_dir, Comm *world, Pulse *own, Error *err) {
    PulseLedger mine = {0};
    Error well = {0};
    Gathered all;
    if (own) pulse_ledger(&mine, own);
    if (!agree(world, &well, &mine.all, (int64_t)sizeof mine.all, &all, err)) return false;
    Goodput *rank = mem_alloc((size_t)comm_size(world) * sizeof *rank);
    memcpy(rank, all.data, (size_t)comm_size(world) * sizeof *rank);
    bool ok = !run_dir || write_file(run_dir, rank, comm_size(world), err);
    gathered_release(&all);
    free(rank);
    return ok;
}

static bool read_file(RunGoodput *out, int64_t *until, const char *path) {
    Json *j = NULL;
    Error ignore = {0};
    if (!io_exists(path) || !json_read_file(&j, path, 0, &ignore)) return false;
    *out = (RunGoodput){.wall_ns = json_int(json_get(j, "wall_ns"), 0),
                        .ranks = json_len(json_get(j, "ranks")),
                        .attempts = (int)json_int(json_get(j, "attempts"), 0),
                        .faults = (int)json_int(json_get(j, "faults"), 0)};
    *until = json_int(json_get(j, "until_unix_ns"), 0);
    bool ok = goodput_get(&out->bins, json_get(j, "bins_ns"));
    json_release(j);
    return ok;
}

bool goodput_file_read(RunGoodput *out, const char *run_dir) {
    static const char *const name[] = {"goodput.json", "launch/goodput.json"};
    int64_t newest = -1;
    for (int i = 0; i < COUNT_OF(name); i++) {
        RunGoodput g;
        int64_t until;
        Str path = {0};
        str_printf(&path, "%s/%s", run_dir, name[i]);
        if (read_file(&g, &until, path.s) && until > newest) {
            newest = until;
            *out = g;
        }
        str_release(&path);
    }
    return newest >= 0;
}
