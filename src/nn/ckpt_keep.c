/* nn/ckpt_keep.c — which checkpoints stay: the list, retention, sweeping up after killed processes. */
#include "nn/ckpt_int.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/crash.h"

bool ckpt_list(char ***names, int *n, const char *state_dir, Error *err) {
    char **all;
    int n_all;
    *names = NULL, *n = 0;
    if (!io_is_dir(state_dir)) return true;
    if (!io_list_dir(&all, &n_all, state_dir, err)) return false;
    *names = mem_alloc((size_t)(n_all + 1) * sizeof **names);
    for (int i = n_all; i-- > 0;) { /* names of one length sort as their numbers; longer ones are later */
        int64_t step, other;
        if (!ckpt_step_number(&step, all[i])) continue;
        int k = (*n)++;
        for (; k > 0 && ckpt_step_number(&other, (*names)[k - 1]) && other < step; k--) (*names)[k] = (*names)[k - 1];
        (*names)[k] = mem_str(all[i]);
    }
    io_free_list(all, n_all);
    return true;
}

void ckpt_set_aside(const char *dir, const char *name, const char *why, Log *log) {
    Str from = {0}, to = {0};
    Error err;
    bool done = false;
    ckpt_join(&from, dir, name);
    for (int k = 0; k < 1000 && !done; k++) {
        str_clear(&to);
        str_printf(&to, k ? "%s/bad.%s.%d" : "%s/bad.%s", dir, name, k);
        if (io_exists(to.s)) continue;
        done = io_rename(from.s, to.s, &err);
        break;
    }
    log_event(log, "ckpt_bad", "%s: %s", from.s, why);
    log_warn(log, "a saved state is damaged and was set aside as %s: %s",
             done ? to.s : "nothing (it could not be renamed)", why);
    str_release(&from);
    str_release(&to);
}

/* -- deleting */

/* In two steps: a folder that is half deleted has no name that anyone would load. */
static bool remove_step(const char *dir, const char *name, Error *err) {
    Str from = {0}, to = {0};
    ckpt_join(&from, dir, name);
    str_printf(&to, "%s/trash.%s", dir, name);
    bool ok = io_remove_tree(to.s, err) && io_rename(from.s, to.s, err);
    int64_t step = 0;
    ckpt_step_number(&step, name);
    if (ok) crash_point("ckpt.c12", 0, step);
    ok = ok && io_remove_tree(to.s, err);
    str_release(&from);
    str_release(&to);
    return ok;
}

bool ckpt_sweep(const char *dir, Error *err) {
    char **name;
    int n;
    if (!io_is_dir(dir)) return true;
    if (!io_list_dir(&name, &n, dir, err)) return false;
    Str path = {0};
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        if (strncmp(name[i], "tmp.", 4) && strncmp(name[i], "trash.", 6)) continue;
        ckpt_join(&path, dir, name[i]);
        ok = io_remove_tree(path.s, err);
    }
    io_free_list(name, n);
    str_release(&path);
    return ok;
}

static bool is_verified(const char *dir, const char *name) {
    Str path = {0};
    str_printf(&path, "%s/%s/VERIFIED", dir, name);
    bool yes = io_exists(path.s);
    str_release(&path);
    return yes;
}

static double metric_of(const char *dir, const char *name) {
    Str path = {0};
    Error ignore;
    Ckpt *c = NULL;
    ckpt_join(&path, dir, name);
    double v = ckpt_open(&c, path.s, &ignore) ? ckpt_manifest_metric(ckpt_manifest(c)) : NAN;
    ckpt_close(c);
    str_release(&path);
    return v;
}

/* Of two equal ones the newer. */
static int best_of(const char *dir, char *const *name, int n) {
    int best = -1;
    double least = INFINITY;
    for (int i = 0; i < n; i++) {
        double v = metric_of(dir, name[i]);
        if (v < least) least = v, best = i;
    }
    return best;
}

/* Deletes all but the first keep, number `also` (-1: none), multiples and the best. */
static bool retain(const char *dir, char *const *name, int n, int keep, int also, int64_t every, bool keep_best,
                   Error *err) {
    int best = keep_best ? best_of(dir, name, n) : -1;
    bool ok = true;
    for (int i = keep; i < n; i++) {
        int64_t step = 0;
        ckpt_step_number(&step, name[i]);
        if (i == also || i == best || (every > 0 && step % every == 0)) continue;
        ok = remove_step(dir, name[i], err) && ok;
    }
    return ok;
}

void ckpt_retain(const CkptConfig *c) {
    char **name;
    int n, newest = 0;
    Error err;
    bool ok = ckpt_list(&name, &n, c->dir, &err);
    while (ok && newest < n && !is_verified(c->dir, name[newest])) newest++;
    ok = ok && retain(c->dir, name, n, c->keep > 0 ? c->keep : 2, newest, c->keep_every, c->keep_best, &err);
    if (!ok) log_warn(c->log, "old saved states stay: %s", err.msg);
    io_free_list(name, n);
}

bool ckpt_finish(const char *state_dir, int64_t keep_every, bool keep_best, Error *err) {
    char **name;
    int n;
    if (!ckpt_sweep(state_dir, err) || !ckpt_list(&name, &n, state_dir, err)) return false;
    bool ok = retain(state_dir, name, n, 0, -1, keep_every, keep_best, err);
    io_free_list(name, n);
    if (!ok || !ckpt_list(&name, &n, state_dir, err)) return false;
    ok = n > 0 || io_remove_tree(state_dir, err);
    io_free_list(name, n);
    return ok;
}
