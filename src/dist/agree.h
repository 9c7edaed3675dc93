/* dist/agree.h — all ranks learn how all ranks fare. The one kind of call that goes over a world while work is done:
 *
 *      what may fail on one rank alone (files, memory, data, a signal)
 *      agree                               all go on, or all return, with the same error
 *      what cannot fail (gradients, weights travel)
 *
 * So a rank that fails leaves nobody waiting: it goes straight to its next agreement, wherever the others are on their way to
 * theirs, and they meet there. */
#ifndef DIKAST_DIST_AGREE_H
#define DIKAST_DIST_AGREE_H

#include "dist/comm.h"

typedef struct { unsigned char *data; int64_t *off; } Gathered;     /* bytes of rank r: [off[r], off[r+1]); zeroed is empty */

/* mine: this rank's fate, code ERR_NONE when it is well. data (n bytes) travels to everybody; all may be NULL where nothing is
 * wanted back. False: some rank is not well; *err is the same everywhere but for who it was ("rank 3: ..."): the first rank's
 * error that is not ERR_STOPPED, else ERR_STOPPED; or what became of the connection. world NULL: mine, and data alone. */
bool agree(Comm *world, const Error *mine, const void *data, int64_t n, Gathered *all, Error *err);
void gathered_release(Gathered *g);

#endif
