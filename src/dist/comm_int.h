/* dist/comm_int.h — how backends hand a link to the wrapper. */
#ifndef DIKAST_DIST_COMM_INT_H
#define DIKAST_DIST_COMM_INT_H

#include "dist/comm.h"
#include "dist/comm_ops.h"

/* The world of a rank; owns the link from now on. */
Comm *comm_world(const CommOps *op, void *link, int rank, int size);

#endif
