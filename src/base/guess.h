/* base/guess.h — what was meant by a word that is none. Begin with {.typed = word}, offer every known word, then put the
 * hint into the message: " (did you mean 'x'?)" or "". Near is two slips of the keys, one in words of four letters or less,
 * or the beginning of the word; of equally near ones the first. */
#ifndef DIKAST_BASE_GUESS_H
#define DIKAST_BASE_GUESS_H

typedef struct { const char *typed, *word; int slips; char hint[96]; } Guess;
void guess_offer(Guess *g, const char *word);
const char *guess_hint(Guess *g); /* lives as long as *g */

#endif
