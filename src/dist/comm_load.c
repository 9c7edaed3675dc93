/* The module with the MPI backend: beside the program or in lib/dikast next to it, else where the loader looks. */
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "dist/comm_int.h"

static const char module[] = "dikast_mpi.so";

static void *load(Str *tried) {
    static const char *const place[] = {"", "../lib/dikast/", "../lib/"};
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    Str path = {0};
    void *found = NULL;
    self[n > 0 ? n : 0] = 0;
    const char *dir = n > 0 ? dirname(self) : ".";
    for (int i = 0; i < COUNT_OF(place) && !found; i++) {
        str_clear(&path);
        str_printf(&path, "%s/%s%s", dir, place[i], module);
        if (!io_exists(str_get(&path))) continue;
        /* An MPI's own plugins look for its symbols among the global ones. */
        found = dlopen(str_get(&path), RTLD_NOW | RTLD_GLOBAL);
        if (!found) str_printf(tried, "%s%s", tried->n ? "; " : "", dlerror());
    }
    if (!found) found = dlopen(module, RTLD_NOW | RTLD_GLOBAL);
    if (!found && tried->n == 0) str_printf(tried, "there is no %s beside the program (%s)", module, dir);
    str_release(&path);
    return found;
}

bool comm_open_mpi(Comm **world, Error *err) {
    *world = NULL;
    Str why = {0};
    void *library = load(&why);
    if (!library) {
        error_set(
            err, ERR_CONFIG,
            "ranks over MPI: %.400s. It is built with the program where an MPI for development is installed "
            "(Debian: libopenmpi-dev openmpi-bin); install it, configure and build again, or use dist.comm=threads",
            str_get(&why));
        str_release(&why);
        return false;
    }
    str_release(&why);
    CommMpiOpen *open = NULL;
    void *symbol = dlsym(library, COMM_MPI_SYMBOL);
    memcpy(&open, &symbol, sizeof open); /* C has no cast from object to function pointers */
    const CommOps *op = NULL;
    void *link = NULL;
    int rank = 0, size = 1;
    if (!open || !open(COMM_MPI_ABI, &op, &link, &rank, &size, err)) {
        if (!open) error_set(err, ERR_CONFIG, "ranks over MPI: %s has no %s", module, COMM_MPI_SYMBOL);
        return false; /* the library stays: an MPI that has begun does not survive being unloaded */
    }
    *world = comm_world(op, link, rank, size);
    return true;
}
