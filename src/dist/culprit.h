/* dist/culprit.h — who is to blame for a hang: a pure function of what the ranks answered to DUMP.
 *
 * The first rule that fits decides:
 *  1  a rank that did not answer; the state of its process is the cause
 *  2  same group, same sequence number, different call (op, dtype, count, root): the minority is named, on a tie both sites
 *  3  everybody in the same unfinished call: the transport; the ranks that entered it first are named
 *  4  the wait-for graph: rank r, inside call q of group g, waits for each member of g that has not begun q (send and receive:
 *     for the peer, unless it is at the other end). Ranks that wait for nobody are the culprits; a cycle is an ordering
 *     deadlock.
 *
 * A reply holds {"comm": {"records": [{"group", "seq", "op", "dtype", "count", "peer", "site", "t_start", "t_end"}, ...]}}: calls
 * oldest first, t_end 0 or null: unfinished; t_wait 0: and goes on beside the rank, which is not inside of it; peer of a collective: its root, or -1. "comm" may also hold "groups":
 * [{"id", "ranks"}]; a group that is not listed holds every rank. group, id, op and dtype may be strings or numbers. Whatever is
 * missing or ill-typed is taken for absent. */
#ifndef DIKAST_DIST_CULPRIT_H
#define DIKAST_DIST_CULPRIT_H

#include "base/json.h"
#include "base/pulse.h"

typedef struct {
    const Json *dump;       /* its reply; NULL: none */
    bool left;              /* it said BYE, so nothing is expected of it */
    char state;             /* of its process (proc.h); 0: not known */
    Section section;        /* as last heard */
    double age_s;
    int64_t step;
    const char *host;       /* for the sentence; NULL: not known */
} HangRank;

enum { BLAME_MAX = 16 };
typedef struct {
    int rule;               /* 1..4; 0: nothing fits */
    int rank[BLAME_MAX], n;   /* culprits, the first ones when there are more */
    int n_all;
    char text[700];         /* one sentence for STATUS */
} Blame;
void culprit_find(Blame *out, const HangRank *rank, int n);

#endif
