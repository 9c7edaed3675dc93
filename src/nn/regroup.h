/* nn/regroup.h — nets in another layout than they are trained in, out of the parts that the ranks of a replica hold (nn/model_part.h).
 * Every rank says once which box of which tensor it has; from then on all know the plan of every tensor (nn/reshard.h).
 *
 * Regroup, for what generates and scores: all layers of this rank's share out of a pipeline's stages, or the whole net. Bringing it up to
 * date is one all_gather per tensor, of equal boxes the first rank's; nothing travels while the parts have the version that it was made
 * of. Host memory: one tensor. Over a dry backend (tensor/dry.h) it takes its memory, asks nobody and is never filled.
 *
 * NetGather, for what is written: one whole tensor at a time, on the first rank of the replica only. No rank ever has a whole net. */
#ifndef DIKAST_NN_REGROUP_H
#define DIKAST_NN_REGROUP_H

#include "nn/model.h"

typedef struct Regroup Regroup;
/* part, mesh: borrowed. A part without an adapter. whole false: layers over group "pp" (mesh_share), true: everything over group
 * "model". Every rank of the mesh's world calls these; all succeed or all fail. The result has no gradients, and its values are
 * undefined before the first refresh. */
bool regroup_open(Regroup **out, Net part, const Mesh *mesh, bool whole, Error *err);
bool regroup_refresh(Regroup *r, Error *err);
Net regroup_net(Regroup *r);
void regroup_close(Regroup *r);     /* NULL is fine */
/* Hands trunk and head over: *m and *h are the caller's, r is closed. */
void regroup_take(Regroup *r, Model *m, Head *h);

typedef struct NetGather NetGather;
/* Every rank of mesh->model calls these, with the same tensors in the same order; all succeed or all fail to open. */
bool net_gather_open(NetGather **out, Net part, const Mesh *mesh, Error *err);
/* The whole tensor of that number (ParamInfo.order), row-major, into out (rows * cols; rank 0 of the group, else NULL). Where a call to
 * another rank fails, out is undefined and comm_ok of the group says so. */
void net_gather(NetGather *g, int64_t order, float *out);
void net_gather_close(NetGather *g);    /* NULL is fine */

/* The first part's tied embedding to the last part's copy (Head.copy); those in the middle, and whole nets, do nothing. */
void net_share_tied(Net n, const Mesh *mesh);

#endif
