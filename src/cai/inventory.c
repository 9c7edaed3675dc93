#include "cai/inventory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/io.h"
#include "cai/stage_util.h"

/* A stage that is to go is renamed first: it vanishes at once and whole, however long its files take. */
#define GOING ".pruned-"

static double age_of(const char *path) {
    struct stat st;
    if (stat(path, &st) != 0) return -1;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double age = (double)(now.tv_sec - st.st_mtim.tv_sec) + 1e-9 * (double)(now.tv_nsec - st.st_mtim.tv_nsec);
    return age > 0 ? age : 0;
}

/* What vanishes while we look (a run is going on) counts nothing. */
static double bytes_of(const char *path) {
    struct stat st;
    if (lstat(path, &st) != 0) return 0;
    double sum = 512.0 * (double)st.st_blocks;
    char **name;
    int n;
    Error ignore = {0};
    if (!S_ISDIR(st.st_mode) || !io_list_dir(&name, &n, path, &ignore)) return sum;
    Str at = {0};
    for (int i = 0; i < n; i++) {
        path_join(&at, path, name[i]);
        sum += bytes_of(str_get(&at));
    }
    io_free_list(name, n);
    str_release(&at);
    return sum;
}

/* Names of a folder that need not exist. */
static bool names_in(char ***name, int *n, const char *dir, Error *err) {
    *name = NULL;
    *n = 0;
    return !io_exists(dir) || io_list_dir(name, n, dir, err);
}

static bool read_if_there(Str *out, const char *dir, const char *file, bool *there, Error *err) {
    Str path = {0}, text = {0};
    path_join(&path, dir, file);
    *there = io_exists(str_get(&path));
    bool ok = !*there || io_read_file(&text, str_get(&path), (size_t)1 << 28, err);
    str_put(out, str_get(&text));
    str_release(&path);
    str_release(&text);
    return ok;
}

static bool is_locked(const char *dir) {
    Str path = {0};
    path_join(&path, dir, ".lock");
    bool held = io_locked(str_get(&path));
    str_release(&path);
    return held;
}

static bool add_stage(Inventory *v, const char *store, const char *name, Error *err) {
    Str dir = {0}, done = {0};
    (void)err;
    path_join(&dir, store, name);
    if (!strncmp(name, GOING, sizeof GOING - 1)) {
        v->left_bytes += bytes_of(str_get(&dir));
    } else if (name[0] != '.' && io_is_dir(str_get(&dir))) {
        v->stage = mem_grow(v->stage, (size_t)(v->n_stage + 1) * sizeof *v->stage);
        path_join(&done, str_get(&dir), "DONE");
        bool is_done = io_exists(str_get(&done));
        v->stage[v->n_stage++] = (InventoryStage){
            .name = mem_str(name),
            .state = is_done                    ? "done"
                     : is_locked(str_get(&dir)) ? "running"
                                                : "unfinished",
            .age_s = age_of(is_done ? str_get(&done) : str_get(&dir)),
            .bytes = bytes_of(str_get(&dir)),
        };
    }
    str_release(&dir);
    str_release(&done);
    return true;
}

/* "running: rl", "done", "failed: rl: ...". A run that was killed had no time to say so. */
static void read_state(InventoryRun *r, const char *status, bool live) {
    snprintf(r->state, sizeof r->state, "%.*s", (int)strcspn(status, ":\n "), status);
    if (strcmp(r->state, "running") != 0) return;
    const char *stage = status + strcspn(status, " ");
    sscanf(stage, " %31[a-z0-9_]", r->stage);
    if (!live) snprintf(r->state, sizeof r->state, "killed");
}

/* The text of what a run says of its stages is searched for their names: also of a file that is damaged, and of one in
 * a shape of an older version, which had no stages.json before its end. */
static bool add_run(Inventory *v, const char *runs, const char *name, Error *err) {
    Str dir = {0}, text = {0}, status = {0}, path = {0};
    bool there, listed = false;
    path_join(&dir, runs, name);
    bool ok = true;
    if (name[0] != '.' && io_is_dir(str_get(&dir))) {
        const char *d = str_get(&dir);
        ok = read_if_there(&status, d, "STATUS", &there, err) && read_if_there(&text, d, "stages.json", &listed, err) &&
             (listed || read_if_there(&text, d, "events.jsonl", &there, err)) &&
             read_if_there(&text, d, "resolved.yaml", &there, err);
        InventoryRun r = {.name = mem_str(name), .bytes = bytes_of(d)};
        path_join(&path, d, "STATUS");
        r.age_s = age_of(io_exists(str_get(&path)) ? str_get(&path) : d);
        read_state(&r, str_get(&status), is_locked(d));
        for (int i = 0; ok && i < v->n_stage; i++) {
            InventoryStage *s = &v->stage[i];
            if (!strstr(str_get(&text), s->name)) continue;
            s->run = mem_grow(s->run, (size_t)(s->n_run + 1) * sizeof *s->run);
            s->run[s->n_run++] = v->n_run;
            r.n_stage++;
        }
        v->run = mem_grow(v->run, (size_t)(v->n_run + 1) * sizeof *v->run);
        v->run[v->n_run++] = r;
    }
    str_release(&dir);
    str_release(&text);
    str_release(&status);
    str_release(&path);
    return ok;
}

typedef bool AddFn(Inventory *v, const char *dir, const char *name, Error *err);
static bool each(Inventory *v, const char *sub, AddFn *add, Error *err) {
    Str dir = {0};
    char **name;
    int n;
    path_join(&dir, v->out, sub);
    bool ok = names_in(&name, &n, str_get(&dir), err);
    for (int i = 0; ok && i < n; i++) ok = add(v, str_get(&dir), name[i], err);
    io_free_list(name, n);
    str_release(&dir);
    return ok;
}

bool inventory_read(Inventory *v, const char *out, Error *err) {
    *v = (Inventory){.out = mem_str(out)};
    if (each(v, "store", add_stage, err) && each(v, "runs", add_run, err)) return true;
    inventory_release(v);
    return false;
}

void inventory_release(Inventory *v) {
    for (int i = 0; i < v->n_run; i++) free(v->run[i].name);
    for (int i = 0; i < v->n_stage; i++) {
        free(v->stage[i].name);
        free(v->stage[i].run);
    }
    free(v->run);
    free(v->stage);
    free(v->out);
    *v = (Inventory){0};
}

/* -- prune */

/* Takes the stage out of the store, unless somebody works on it. */
static bool set_aside(Inventory *v, InventoryStage *s, bool look, Error *err) {
    Str from = {0}, to = {0}, path = {0};
    IoLock lock;
    bool ok = true;
    str_printf(&from, "%s/store/%s", v->out, s->name);
    str_printf(&to, "%s/store/" GOING "%s", v->out, s->name);
    path_join(&path, str_get(&from), ".lock");
    if (look) {
        s->pruned = !io_locked(str_get(&path));
    } else if (io_lock(&lock, str_get(&path), err)) {
        ok = io_rename(str_get(&from), str_get(&to), err);
        s->pruned = ok;
        io_unlock(&lock);
    } else {
        ok = err->code == ERR_CONFIG; /* it is in use */
        if (ok) *err = (Error){0};
    }
    str_release(&from);
    str_release(&to);
    str_release(&path);
    return ok;
}

static bool remove_aside(const char *out, Error *err) {
    Str store = {0}, path = {0};
    char **name;
    int n;
    path_join(&store, out, "store");
    bool ok = names_in(&name, &n, str_get(&store), err);
    for (int i = 0; ok && i < n; i++) {
        if (strncmp(name[i], GOING, sizeof GOING - 1) != 0) continue;
        path_join(&path, str_get(&store), name[i]);
        ok = io_remove_tree(str_get(&path), err);
    }
    io_free_list(name, n);
    str_release(&store);
    str_release(&path);
    return ok;
}

static bool mark(Inventory *v, bool look, Error *err) {
    for (int i = 0; i < v->n_stage; i++)
        if (v->stage[i].n_run == 0 && !set_aside(v, &v->stage[i], look, err)) return false;
    return true;
}

/* A run that begins holds it for a moment. */
static bool lock_soon(IoLock *lock, const char *path, Error *err) {
    enum { TRIES = 100, NAP_NS = 50000000 };
    for (int i = 0; i < TRIES; i++) {
        if (io_lock(lock, path, err)) {
            *err = (Error){0};
            return true;
        }
        if (err->code != ERR_CONFIG) return false;
        nanosleep(&(struct timespec){0, NAP_NS}, NULL);
    }
    return false;
}

static bool lock_prune(IoLock *lock, const char *path, Error *err) {
    return io_lock(lock, path, err) || (err->code == ERR_CONFIG && error_wrap(err, "another prune is at work"));
}

/* Two locks: one keeps other prunes out, as long as it takes to remove; one keeps runs from beginning, only while we
 * look. */
bool inventory_prune(Inventory *v, const char *out, bool look, Error *err) {
    Str path = {0};
    IoLock prune = {-1}, begin = {-1};
    *v = (Inventory){0};
    if (look) return inventory_read(v, out, err) && mark(v, true, err);
    path_join(&path, out, ".prune");
    bool ok = lock_prune(&prune, str_get(&path), err) && remove_aside(out, err);
    path_join(&path, out, ".lock");
    ok = ok && lock_soon(&begin, str_get(&path), err) && inventory_read(v, out, err) && mark(v, false, err);
    if (begin.fd >= 0) io_unlock(&begin);
    ok = ok && remove_aside(out, err);
    if (prune.fd >= 0) io_unlock(&prune);
    str_release(&path);
    if (!ok) inventory_release(v);
    return ok;
}
