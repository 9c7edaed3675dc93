/* engine/lead.h — one rank runs something that generates and scores, and the ranks that share its models follow.
 *
 * A stage that is rank 0's alone opens nets and engines and calls them as ever. Where its ranks share every matrix of a model, what it
 * opens is rank 0's share; each call is told to the others first (one broadcast: what, with which tokens), and they make it beside it
 * over their shares. Rules for the next token (GenHook) and all draws are rank 0's, so a follower needs nothing but the tokens.
 *
 *      rank 0                                  the others
 *      lead_begin                              lead_follow
 *      lead_net_open, engine_open, ...    -->    the same
 *      engine_generate, engine_score, ... -->    the same, results thrown away
 *      lead_end                           -->    lead_follow returns */
#ifndef DIKAST_ENGINE_LEAD_H
#define DIKAST_ENGINE_LEAD_H

#include "engine/engine.h"

typedef struct Lead Lead;
/* share: of rank 0, mesh_share of the run's, which outlives it; group tp. idle: the site of the call in which the others wait. */
Lead *lead_begin(const Mesh *share, const char *idle);
void lead_end(Lead *l);                 /* NULL is fine */
/* The others' side, until the end. broken: why this rank cannot open anything (ERR_NONE: it can). A call takes at most timeout_s; waiting
 * for one as long as it takes. False: the connection is lost. */
bool lead_follow(const Mesh *share, Backend *be, const Error *broken, double timeout_s, const char *idle, Error *err);

/* This rank's share of dir's trunk and head, without gradients; all ranks of the group have theirs, or none. Engines over the net lead.
 * The caller releases both, after lead_net_close. */
bool lead_net_open(Lead *l, Model *m, Head *h, Backend *be, const char *dir, HeadKind kind, Error *err);
void lead_net_close(const Model *m);    /* of one that nobody leads: nothing */

#endif
