/* cai/words.h — the words of a text as 64-bit hashes, for retrieval and filters: lower-cased (ASCII), punctuation
 * dropped.
 *
 * Letters, digits and every character beyond ASCII that is not punctuation make words; an apostrophe between letters
 * belongs to its word ("don't"), whichever way it is written. Scripts written without spaces (Han, kana, Thai, Khmer
 * ...) count each character as a word. Equal hashes are taken for equal words. */
#ifndef DIKAST_CAI_WORDS_H
#define DIKAST_CAI_WORDS_H

#include "base/compiler.h"

typedef struct {
    uint64_t hash;
    uint32_t at;   /* byte in the text */
    bool unspaced; /* one character of a script without spaces */
} Word;
typedef struct {
    Word *word;
    int n;
} Words;

Words words_of(const char *s); /* NULL is the empty text */
void words_release(Words *w);
uint64_t words_gram(const Words *w, int at, int n); /* hash of n words from at on */
int words_find(const Words *w, const char *phrase); /* index of the first place where the phrase's words stand; -1 */
/* One UTF-8 character from *p on, which advances; a stray byte stands for itself. 0 at the end. */
uint32_t utf8_next(const char **p);

#endif
