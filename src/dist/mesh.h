/* dist/mesh.h — which ranks work together. rank = tp + T (cp + C (pp + P dp)): tensor-parallel ranks are neighbours, so they share
 * a machine; data-parallel replicas are outermost, so a lost machine takes whole replicas with it (Llama Team 2024, sec. 3.3).
 *
 * tp divides tensors, pp layers, cp the rows of a micro-batch (nn/cut.h), dp a step's micro-batches. Groups are digits of the rank in that
 * mixed radix: tp's group has the ranks that differ in tp alone. But dp's group has all that hold equal weights: those that differ in
 * dp or in cp, in order of (cp, dp), for these add gradients up and divide optimizer state. world: every rank; control messages go there, so that the counters of the others hold gradients and weights only. data: the same ranks over another backend,
 * which the other groups are of (nccl beside mpi); NULL: world. */
#ifndef DIKAST_DIST_MESH_H
#define DIKAST_DIST_MESH_H

#include "dist/comm.h"

typedef struct { int tp, cp, pp, dp; } Layout;      /* sizes, or a rank's place */

typedef struct {
    Layout size, at;
    Comm *world, *dp, *pp, *cp, *tp;                /* NULL: of one rank. They belong to the world. dp: of size.cp * size.dp */
    Comm *ends;                                     /* the first and the last rank of pp, of others NULL */
    Comm *data;                                     /* of all ranks over another backend, or NULL: world */
    Comm *model;                                    /* the ranks that hold one replica: those that differ in tp, cp, pp */
} Mesh;

Layout layout_at(Layout size, int rank);
int layout_rank(Layout size, Layout at);
/* A rank's number in dp's group, among those with equal weights. */
static inline int layout_equal(Layout size, Layout at) { return at.cp * size.dp + at.dp; }
/* ERR_CONFIG where tp * cp * pp does not divide the world; size.dp is what is left. */
bool mesh_open(Mesh *m, Comm *world, Comm *data, int tp, int cp, int pp, Error *err);
static inline bool mesh_ok(const Mesh *m, Error *err) {
    return !m || (comm_ok(m->world, err) && comm_ok(m->dp, err) && comm_ok(m->pp, err) && comm_ok(m->tp, err));
}
/* Of both worlds. */
static inline CommTimes mesh_times(const Mesh *m) {
    CommTimes a = comm_times(m ? m->world : NULL), b = comm_times(m ? m->data : NULL);
    return (CommTimes){a.inside_s + b.inside_s, a.hidden_s + b.hidden_s};
}
/* Ranks hold parts of models, not whole ones. */
static inline bool mesh_divides(const Mesh *m) { return m && m->size.tp * m->size.pp > 1; }
/* The same ranks as generation has them, tp and replicas: each holds all layers of its share, and works on whole rows. It has no group
 * dp. */
static inline Mesh mesh_share(const Mesh *m) {
    Mesh s = *m;
    s.at.dp = s.at.cp + s.size.cp * (s.at.pp + s.size.pp * s.at.dp);
    s.size.dp *= s.size.cp * s.size.pp;
    s.size.cp = s.size.pp = 1, s.at.cp = s.at.pp = 0;
    s.cp = s.pp = s.ends = s.dp = NULL;
    return s;
}
static inline bool mesh_leads(const Mesh *m) { return !m || comm_rank(m->world) == 0; }

#endif
