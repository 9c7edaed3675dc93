/* cai/terms.h — what retrieval compares: the words of a text (cai/words.h) without English function words and with English
 * endings cut, so that "stealing" finds "steal". Words with a character beyond ASCII stay as they are. */
#ifndef DIKAST_CAI_TERMS_H
#define DIKAST_CAI_TERMS_H

#include "cai/words.h"

enum { TERMS_STEM = 1, TERMS_NO_FILLER = 2 };
Words terms_of(const char *s, unsigned flags); /* words_release; flags 0: words_of */
/* The term at w->at of s as letters, in lower case, its ending cut as flags say; false: it is long, or not of ASCII letters,
 * digits and apostrophes. */
enum { TERM_BYTES = 40 };
bool term_letters(char out[TERM_BYTES], const char *s, const Word *w, unsigned flags);

#endif
