/* nn/regroup.h — a whole net out of the parts that the ranks of a replica hold (nn/model_part.h): what generates and scores, and what
 * a stage leaves behind.
 *
 * Every rank says once which box of which tensor it has. From then on all know the plan of every tensor (nn/reshard.h), and bringing the
 * whole up to date is one all_gather per tensor over mesh->model, group "model": of equal boxes the first rank's travels. Host memory:
 * one tensor. Nothing travels while the parts have the version that the whole was made of. */
#ifndef DIKAST_NN_REGROUP_H
#define DIKAST_NN_REGROUP_H

#include "nn/model.h"

typedef struct Regroup Regroup;
/* part, mesh: borrowed. A part without an adapter. Every rank of the mesh's world calls these; all succeed or all fail. The whole has no
 * gradients, and its values are undefined before the first refresh. */
bool regroup_open(Regroup **out, Net part, const Mesh *mesh, Error *err);
bool regroup_refresh(Regroup *r, Error *err);
Net regroup_net(Regroup *r);
void regroup_close(Regroup *r);     /* NULL is fine */
/* Hands trunk and head over: *m and *h are the caller's, r is closed. */
void regroup_take(Regroup *r, Model *m, Head *h);

/* The first part's tied embedding to the last part's copy (Head.copy); those in the middle, and whole nets, do nothing. */
void net_share_tied(Net n, const Mesh *mesh);

#endif
