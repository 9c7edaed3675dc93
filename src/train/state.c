#include <stdlib.h>

#include "base/io.h"
#include "nn/lora.h"
#include "train/trainer.h"

/* A folder cannot be replaced in one rename, so the old one steps aside first:
 *
 *      write state.new, sync    state -> state.old    state.new -> state    remove state.old
 *
 * Killed between the two renames there is a state.old and no state: the next start takes the old one back and loses at
 * most one interval. A state.new that is found was never finished and is thrown away. */

static void join(Str *out, const char *a, const char *b) {
    str_clear(out);
    str_printf(out, "%s/%s", a, b);
}

bool state_exists(const char *dir) {
    Str now = {0}, old = {0};
    Error err;
    join(&now, dir, "state");
    join(&old, dir, "state.old");
    bool there = io_is_dir(now.s) || (io_is_dir(old.s) && io_rename(old.s, now.s, &err));
    str_release(&now);
    str_release(&old);
    return there;
}

bool state_save(const char *dir, StateWriter *write, void *ud, Error *err) {
    Str now = {0}, old = {0}, fresh = {0};
    join(&now, dir, "state");
    join(&old, dir, "state.old");
    join(&fresh, dir, "state.new");
    bool ok = io_remove_tree(fresh.s, err) && io_make_dirs(fresh.s, err) && write(ud, fresh.s, err) &&
              io_sync_tree(fresh.s, err);
    if (ok && state_exists(dir)) ok = io_remove_tree(old.s, err) && io_rename(now.s, old.s, err);
    ok = ok && io_rename(fresh.s, now.s, err) && io_remove_tree(old.s, err);
    str_release(&now);
    str_release(&old);
    str_release(&fresh);
    return ok || error_wrap(err, "saving the state to resume from");
}

bool state_remove(const char *dir, Error *err) {
    static const char *const names[] = {"state", "state.old", "state.new", "guard", "guard.new"}; /* guard.h */
    Str path = {0};
    bool ok = true;
    for (int i = 0; ok && i < COUNT_OF(names); i++) {
        join(&path, dir, names[i]);
        ok = io_remove_tree(path.s, err);
    }
    str_release(&path);
    return ok;
}

bool state_put_net(Net net, const char *dir, const char *name, Error *err) {
    Str path = {0};
    join(&path, dir, name);
    bool ok = io_make_dirs(path.s, err) && (net.adapter ? adapter_save(net, path.s, err) : net_save(net, path.s, err));
    str_release(&path);
    return ok;
}

bool state_get_net(Net net, const char *dir, const char *name, Error *err) {
    Str path = {0};
    Model m = {0};
    Head h = {0};
    join(&path, dir, name);
    bool ok = net.adapter ? adapter_load(net, path.s, err) : model_open(&m, net.trunk->be, path.s, false, err);
    if (ok && !net.adapter) {
        ok = head_open(&h, &m, net.head->kind, path.s, false, err) && net_copy_weights(net, (Net){&m, &h, NULL}, err);
        head_release(&h);
    }
    model_release(&m);
    str_release(&path);
    return ok || error_wrap(err, "%s/%s", dir, name);
}
