/* cai/terms.h — what retrieval compares: the words of a text (cai/words.h) without English function words and with English
 * endings cut, so that "stealing" finds "steal". Words with a character beyond ASCII stay as they are. */
#ifndef DIKAST_CAI_TERMS_H
#define DIKAST_CAI_TERMS_H

#include "cai/words.h"

enum { TERMS_STEM = 1, TERMS_NO_FILLER = 2 };
Words terms_of(const char *s, unsigned flags); /* words_release; flags 0: words_of */

#endif
