/* cai/gauges.h — what replies to distinct prompts look like when a policy has learnt a habit instead of its task (method note,
 * section 9): shares of replies, 0..1. Used by the guard of stage rl and by stage eval. */
#ifndef DIKAST_CAI_GAUGES_H
#define DIKAST_CAI_GAUGES_H

#include "base/compiler.h"

/* How many of the texts hold the n words in a row that most of them hold; each text counts once. *which: the number of a text
 * that holds them, *at and *bytes: where; may be NULL. */
int gauge_commonest(const char *const *text, int n_text, int n_gram, int *which, int *at, int *bytes);
int gauge_duplicates(const char *const *text, int n_text);  /* texts equal to an earlier one, byte for byte */
bool text_comforts(const char *s);                          /* holds a stock phrase of comfort */

#endif
