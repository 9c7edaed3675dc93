/* cai/add_sentinels.h — the method's special tokens in a tokenizer.json that does not have them. Those it lacks get the ids
 * behind its last one; those it spells as ordinary tokens become special where they are. Nothing else changes. */
#ifndef DIKAST_CAI_ADD_SENTINELS_H
#define DIKAST_CAI_ADD_SENTINELS_H

#include "text/chat.h"

/* *json replaced; n_new: how many ids are new. json names itself `name` in errors. */
bool add_sentinels(Str *json, int *n_new, const char *name, Error *err);

#endif
