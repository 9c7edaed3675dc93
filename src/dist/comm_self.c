/* One rank: nothing is ever called, for the wrapper keeps calls of groups of one to itself. */
#include "dist/comm_int.h"

static void close_self(void *link) { (void)link; }
static void abort_self(void *link, const Error *why) { (void)link, (void)why; }

static const CommOps self_ops = {.name = "self", .abort = abort_self, .close = close_self};

bool comm_open_self(Comm **world, Error *err) {
    (void)err;
    *world = comm_world(&self_ops, NULL, 0, 1);
    return true;
}
