/* cai/add_sentinels.h — the method's special tokens in a tokenizer.json that does not have them. Those it lacks get the ids
 * behind its last one; those it spells as ordinary tokens become special where they are. Nothing else changes. */
#ifndef DIKAST_CAI_ADD_SENTINELS_H
#define DIKAST_CAI_ADD_SENTINELS_H

#include "text/chat.h"

enum { SENTINELS_ALL = (1 << SENT_COUNT) - 1 };
/* *json replaced; which: bits by Sentinel; n_new: how many ids are new. json names itself `name` in errors. */
bool add_sentinels(Str *json, unsigned which, int *n_new, const char *name, Error *err);
/* Does it have all of them, as special tokens? */
bool sentinels_there(bool *there, const Str *json, const char *name, Error *err);

#endif
